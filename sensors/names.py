"""What things are called in Dagster: keys, jobs, ops, sensors, tags."""

from __future__ import annotations

import dagster as dg

TRIGGER = "als/trigger"  # tag: who asked for a run
AUTOMATIC = "due"
SHOW_FAILURE = "failed"
ASSET = "als/asset"  # tag of automatic runs: "<beamline>/<asset>"


def partitions(beamline: str) -> str:
    return f"{beamline}_scans"


def asset_key(beamline: str, asset: str) -> dg.AssetKey:
    return dg.AssetKey([beamline, asset])


def asset_op(beamline: str, asset: str) -> str:
    return f"{beamline}__{asset}"


def due_op(beamline: str, asset: str) -> str:
    return f"{beamline}__{asset}__ensure"


def due_job(beamline: str, asset: str) -> str:
    return f"{beamline}__{asset}__due"


def scan_job(beamline: str, asset: str) -> str:
    return f"{beamline}__{asset}__scan"


def prune_job(beamline: str) -> str:
    return f"{beamline}__prune"


def prune_schedule(beamline: str) -> str:
    return f"{beamline}_prune_daily"


def new_scans_sensor(beamline: str) -> str:
    return f"{beamline}_new_scans"


def due_sensor(beamline: str) -> str:
    return f"{beamline}_due_work"


def facility_sensor(service: str) -> str:
    return f"{service}_tasks"
