"""The composition root: every beamline under `beamlines/`, with the facilities in use. Dagster loads this module."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from resources.facilities import load
from resources.ledger.resource import LedgerResource
from sensors.facility_tasks import facility_tasks

PROJECT = Path(__file__).parent.parent


@dg.definitions
def defs() -> dg.Definitions:
    facilities = load()
    beamlines = dg.load_from_defs_folder(path_within_project=PROJECT / "beamlines")
    task_services = [name for name, service in facilities.services.items() if hasattr(service, "system")]
    platform = dg.Definitions(
        sensors=[facility_tasks(name, facilities) for name in task_services],
        resources={"ledger": LedgerResource(facilities=facilities.name), **facilities.services},
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(beamlines, platform)
