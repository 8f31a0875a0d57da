"""The composition root: every beamline under `beamlines/`, with the facilities in use. Dagster loads this module."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import yaml

from beamlines.spec import spec_from_attributes
from resources.facilities import load
from resources.ledger.resource import LedgerResource
from sensors.alerts import alerts_sensor
from sensors.backups import backup_job, backup_schedule
from sensors.facility_tasks import facility_tasks

PROJECT = Path(__file__).parent.parent


@dg.definitions
def defs() -> dg.Definitions:
    facilities = load()
    beamlines = dg.load_from_defs_folder(path_within_project=PROJECT / "beamlines")
    files = sorted((PROJECT / "beamlines").glob("*/defs.yaml"))
    specs = [spec_from_attributes(yaml.safe_load(path.read_text())["attributes"]) for path in files]
    task_services = [name for name, service in facilities.services.items() if hasattr(service, "system")]
    platform = dg.Definitions(
        sensors=[*(facility_tasks(name, facilities) for name in task_services), alerts_sensor(specs, facilities)],
        jobs=[backup_job()],
        schedules=[backup_schedule()],
        resources={"ledger": LedgerResource(facilities=facilities.name), **facilities.services},
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(beamlines, platform)
