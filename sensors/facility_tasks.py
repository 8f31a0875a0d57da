"""Polls all tasks in flight at a facility, in bulk, and writes to the ledger what has become of them.

One sensor per service that takes tasks. A task that has ended makes its steps due for collection: that is the work of
the next automatic run. An intent whose run was killed before it could submit is submitted here; but never a deletion,
which is decided once more by the next run of pruning.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from resources import once
from resources.errors import CredentialProblem, Unavailable
from resources.facilities import Facilities, Pace
from resources.ledger import Ledger, leases, tasks
from resources.ledger.removals import DELETE
from resources.tasks import TaskSystem
from sensors import names

MOST_SUBMISSIONS = 20  # per tick: a sensor must answer within a minute


def watch(ledger: Ledger, system: TaskSystem, pace: Pace) -> str:
    """One look at every live task of a service. Returns what was seen, in words."""
    now = ledger.now()
    with ledger.read() as tx:
        rest = leases.paused(tx, system.service, now)
        live = tasks.live(tx, system.service)
    if rest is not None:
        return f"{system.service} rests until {rest.until:%H:%M:%S} UTC: {rest.reason}"
    if not live:
        return "no task in flight"
    orphans = [
        task
        for task in live
        if task.external_id is None and now - task.created_at > pace.span("lease_s") and task.purpose != DELETE
    ]
    try:
        for task in orphans[:MOST_SUBMISSIONS]:
            once.submit(ledger, system, task, pace.patience)
        ended = once.poll(ledger, system, live, pace.patience)
    except (Unavailable, CredentialProblem) as error:
        return str(error)
    return f"{len(live)} tasks in flight, {ended} of them have ended"


def facility_tasks(service: str, facilities: Facilities) -> dg.SensorDefinition:
    """The sensor of one service."""

    @dg.sensor(
        name=names.facility_sensor(service),
        minimum_interval_seconds=max(1, round(facilities.pace.tick_s)),
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"ledger", service},
        description=f"Follows the tasks in flight at {service}, all in one call.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> Any:
        seen = watch(context.resources.ledger.open(), getattr(context.resources, service), facilities.pace)
        return dg.SkipReason(seen)

    return sensor
