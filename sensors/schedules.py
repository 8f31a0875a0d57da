"""What runs by the clock. Everything else follows from what has changed; see the sensors."""

from __future__ import annotations

from typing import Any

import dagster as dg

from beamlines.spec import Spec
from sensors import names

ZONE = "America/Los_Angeles"  # where the beamlines are
PRUNE_AT = "15 5 * * *"  # daily, after the backup of the ledger


def of_beamline(spec: Spec, prune_job: Any | None) -> list[dg.ScheduleDefinition]:
    """The schedules of one beamline."""
    return [prune_daily(spec, prune_job)] if prune_job is not None else []


def prune_daily(spec: Spec, job: Any) -> dg.ScheduleDefinition:
    """On from the beginning: it deletes nothing in a place that nobody has armed, puts back what may no longer be
    deleted, and is seen to work before anything is armed."""
    return dg.ScheduleDefinition(
        name=names.prune_schedule(spec.id),
        job=job,
        cron_schedule=PRUNE_AT,
        execution_timezone=ZONE,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Frees {', '.join(rule.place for rule in spec.prunes)} of {spec.name}, where that is armed.",
    )
