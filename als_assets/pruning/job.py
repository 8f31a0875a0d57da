"""The Dagster job `<beamline>__prune`: one run of pruning, and what Dagster is told of the copies that went."""

# Annotations are not postponed here: Dagster reads that of `context` as a class.

from typing import Any

import dagster as dg

from als_assets.pruning.place import asset_of
from als_assets.pruning.report import short_days
from als_assets.pruning.run import AtWork, Pruning
from als_assets.shells import CANNOT_RETRY, resource_keys
from beamlines.spec import Spec
from resources.facilities import Facilities
from resources.ledger import Ledger, removals, scans
from resources.ledger.removals import Removal
from resources.ledger.scans import Scan
from sensors import names

MOST_EVENTS = 500  # copies that one run tells of; the next one tells of the rest


def prune_job(spec: Spec, facilities: Facilities) -> dg.JobDefinition:
    """What the daily schedule runs; `als prune --yes` does the same. It fails when a person has to act."""

    @dg.op(
        name=f"{names.prune_job(spec.id)}_run",
        out={},
        required_resource_keys=resource_keys(facilities),
        description="Removes copies that better ones have been proven for, in places that are armed, in two phases.",
    )
    def prune(context: dg.OpExecutionContext):  # type: ignore[no-untyped-def]  # Dagster reads a return type as an output
        ledger = context.resources.ledger.open()
        services = {name: getattr(context.resources, name) for name in facilities.file.services}
        run = context.run.run_id
        pruning = Pruning(ledger, spec, facilities, services, f"run {run}", run, log=context.log)
        try:
            report = pruning.run()
        except AtWork as error:
            context.log.warning(str(error))
            return
        finally:
            tell(ledger, spec, context)
        if (words := short_days(facilities)) is not None:
            context.log.info(words)
        for state, one in report.sums().items():
            context.log.info(f"{state}: {one['scans']} scans, {one['bytes']} bytes")
        for trouble in report.troubles:
            context.log.warning(f"{trouble.beamline}/{trouble.place}: {trouble.words}")
        acts = [f"{t.beamline}/{t.place}: {t.words}" for t in report.troubles if not t.waits]
        if acts:
            raise dg.Failure(description="\n".join(acts[:20]), allow_retries=False)

    @dg.job(
        name=names.prune_job(spec.id),
        executor_def=dg.in_process_executor,
        tags=CANNOT_RETRY,
        description=f"Frees {', '.join(rule.place for rule in spec.prunes)} of {spec.name}, where that is armed.",
    )
    def job() -> None:
        prune()

    return job


def tell(ledger: Ledger, spec: Spec, context: Any) -> int:
    """Log an observation for every copy that went and that Dagster was not told of; returns how many. Marked one by
    one after it was logged: a run that is killed in between has one of them told twice."""
    with ledger.read() as tx:
        gone = removals.unreported(tx, spec.id, MOST_EVENTS)
        found = scans.many(tx, [removal.scan_id for removal in gone])
        files = scans.files_of(tx, list(found))
    for removal in gone:
        size = sum(file.bytes for file in files[removal.scan_id])
        context.log_event(observation(spec, removal, found[removal.scan_id], size))
        with ledger.write() as tx:
            removals.reported(tx, removal, ledger.now())
    return len(gone)


def observation(spec: Spec, removal: Removal, scan: Scan, size: int) -> dg.AssetObservation:
    """The copy of a scan is not there any more."""
    assert removal.ended_at is not None
    return dg.AssetObservation(
        names.asset_key(spec.id, asset_of(spec, removal.place)),
        partition=scan.key,
        description=f"the copy in {removal.place} was deleted",
        metadata={
            "scan": scan.path,
            "place": f"{spec.id}/{removal.place}",
            "state": "pruned",
            "bytes": size,
            "why": removal.note or removal.why,
            "by": removal.who,
            "moved to the trash": dg.MetadataValue.timestamp(removal.trashed_at or removal.intended_at),
            "deleted": dg.MetadataValue.timestamp(removal.ended_at),
        },
    )
