"""Asks the ledger what is due, and requests one run per asset for many scans.

One sensor per beamline. A run is requested only while none of the same asset is queued, starting or at work (its
lease), so that a day of 10,000 scans is a handful of runs, and a killed run or a long backfill blocks nobody. Scans
that have failed for good each get a run of their own, which shows the failure as exactly one red partition.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from beamlines.spec import Kind, Spec
from resources.facilities import Facilities
from resources.ledger import Ledger, leases, steps
from sensors import names

MOST_SCANS = 500  # per run
MOST_RED = 5  # runs per tick that show failures
RED_AGAIN = 5  # times `report_s`: after that the run that shows a failure is taken for lost
STARTS = timedelta(seconds=30)  # within which a process of a run says that it is there
WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


def requests(ledger: Ledger, spec: Spec, facilities: Facilities, instance: Any) -> list[dg.RunRequest]:
    """The runs that are wanted now; takes the lease of each asset for which it asks one."""
    out: list[dg.RunRequest] = []
    now = ledger.now()
    unreported_before = now - facilities.pace.span("report_s")
    for asset in spec.assets():
        if asset.kind is Kind.NOTICED:
            continue
        tag = f"{spec.id}/{asset.name}"
        with ledger.read() as tx:
            keys = steps.due(tx, spec.id, asset.name, now, unreported_before, MOST_SCANS)
            red = steps.to_redden(tx, spec.id, asset.name, now, MOST_RED)
        if keys and not _requested(instance, {names.ASSET: tag}):
            with ledger.write() as tx:
                free = leases.request(tx, tag, now, timedelta(seconds=facilities.pace.lease_s))
            if free:
                config = {"ops": {names.due_op(spec.id, asset.name): {"config": {"scans": keys}}}}
                tags = {names.TRIGGER: names.AUTOMATIC, names.ASSET: tag, "als/scans": str(len(keys))}
                out.append(dg.RunRequest(job_name=names.due_job(spec.id, asset.name), run_config=config, tags=tags))
        for scan_id, key in red:
            tags = {names.TRIGGER: names.SHOW_FAILURE, "als/failed": tag}
            at_work = _requested(instance, {**tags, "dagster/partition": key}, [*WAITING, dg.DagsterRunStatus.STARTED])
            with ledger.write() as tx:
                until = now + RED_AGAIN * facilities.pace.span("report_s")
                ours = steps.reddening(tx, scan_id, asset.name, until, now)
            if ours and not at_work:
                out.append(dg.RunRequest(job_name=names.scan_job(spec.id, asset.name), partition_key=key, tags=tags))
    return out


def _requested(instance: Any, tags: dict[str, str], statuses: list[dg.DagsterRunStatus] = WAITING) -> bool:
    """Is there such a run? One that has been about to start for long does not count: it was killed before it could say
    that it works, and Dagster gives it up only after minutes. If it starts all the same, two at once are harmless."""
    long_ago = datetime.now(UTC) - STARTS
    found = instance.get_run_records(dg.RunsFilter(tags=tags, statuses=statuses), limit=10)
    return any(r.dagster_run.status != dg.DagsterRunStatus.STARTING or _moved(r) > long_ago for r in found)


def _moved(record: Any) -> datetime:
    at: datetime = record.update_timestamp
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def due_work(spec: Spec, facilities: Facilities, jobs: list[Any]) -> dg.SensorDefinition:
    """The sensor of one beamline; `jobs` are all that it may request."""

    @dg.sensor(
        name=names.due_sensor(spec.id),
        minimum_interval_seconds=max(1, round(facilities.pace.tick_s)),
        default_status=dg.DefaultSensorStatus.RUNNING,
        jobs=jobs,
        required_resource_keys={"ledger"},
        description=f"Requests runs for what is due at {spec.name}: one per asset, for many scans.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> Any:
        wanted = requests(context.resources.ledger.open(), spec, facilities, context.instance)
        return wanted or dg.SkipReason("nothing is due, or it is at work already")

    return sensor
