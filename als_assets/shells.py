"""The two Dagster shells of an asset: the op of the automatic job, and the partitioned asset for people and backfills.

The automatic job takes many scans in its config and logs one materialization each. It is an op job, not a run over a
partition range, because a failing range run turns every partition of the range red, finished ones too.
"""

# Annotations are not postponed here: Dagster reads that of `context` as a class.

from collections.abc import AsyncIterator, Mapping
from typing import Any

import dagster as dg

from als_assets import families, quality
from als_assets.ensure import Ensure
from als_assets.reports import Made
from beamlines.policy import restricted
from beamlines.spec import Asset, Kind, Spec
from resources.facilities import Facilities
from resources.ledger import assignments, flow, history, leases, scans, steps
from sensors import names

RANGE = 100  # scans per run of a backfill: a run that waits for so many still holds one process only
KINDS = {
    Kind.NOTICED: {"file"},
    Kind.COPY: {"globus", "hdf5"},
    Kind.ARCHIVE: {"hpss", "slurm"},
    Kind.ANALYSIS: {"slurm", "hdf5"},
    Kind.CATALOG: {"scicat"},
}
RETRY_NUMBER_TAG, RESUME_RETRY_TAG = "dagster/retry_number", "dagster/is_resume_retry"
ROOT_RUN_TAG = "dagster/root_run_id"
CANNOT_RETRY = {"dagster/max_retries": "0"}


def partitions(spec: Spec) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=names.partitions(spec.id))


def asset_spec(spec: Spec, asset: Asset) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=names.asset_key(spec.id, asset.name),
        deps=[names.asset_key(spec.id, up) for up in asset.upstream],
        group_name=spec.id,
        partitions_def=partitions(spec),
        description=describe(spec, asset),
        kinds=KINDS[asset.kind],
        owners=list(spec.owners),
        tags={"beamline": spec.name, "technique": spec.technique.lower()},
        metadata={"beamline": f"ALS {spec.name} {spec.title}"},
        skippable=asset.kind is not Kind.NOTICED,
    )


def describe(spec: Spec, asset: Asset) -> str:
    """The description that people read on the asset's page."""
    where = f"beamline {spec.name} ({spec.title})"
    if asset.copy_to is not None:
        return (
            f"Each scan of {where} at `{asset.copy_to.place}`: a copy made from `{asset.copy_to.source}` by Globus "
            "Transfer, with checksums compared at both ends and sizes listed at the destination."
        )
    if asset.archive is not None:
        return (
            f"Each scan of {where} on tape at `{asset.archive.place}`: an archive of its own, with a manifest beside "
            f"it, made from `{asset.archive.source}` by `als-archive` in a transfer job, and verified before it counts."
        )
    if asset.analysis is not None:
        return (
            f"{spec.technique} analysis of each scan of {where} by `als-{asset.analysis.program}` at "
            f"{asset.analysis.facility.upper()}: g2 per q with fits, plots and quality checks. Materialize a partition "
            "to run it again as a new revision."
        )
    if asset.kind is Kind.CATALOG:
        return (
            f"Each scan of {where} in SciCat: the raw data set with files, checksums and metadata with units, and a "
            "derived data set for each result. Entered with the first verified copy, updated with whatever follows."
        )
    return f"Each scan of {where} as the detector wrote it, noticed once it had settled. One partition per scan."


def materialization(spec: Spec, asset: Asset, made: Made) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        names.asset_key(spec.id, asset.name),
        partition=made.scan.key,
        metadata={"scan": made.scan.path, **made.metadata},
    )


def log(context: Any, event: dg.AssetMaterialization, made: Made) -> None:
    """The materialization of a scan, and the verdicts on it."""
    context.log_event(event)
    for check in quality.on_latest(made.checks, context.instance):
        context.log_event(check)


def _engine(context: Any, spec: Spec, asset: Asset, facilities: Facilities) -> Ensure:
    ledger = context.resources.ledger.open()
    services = {name: getattr(context.resources, name) for name in facilities.file.services}
    made_by = families.family(spec, asset, facilities, ledger, services)
    systems = families.systems(services)
    return Ensure(ledger, made_by, facilities.pace, systems, holder=context.run.run_id, log=context.log)


def resource_keys(facilities: Facilities) -> set[str]:
    return {"ledger", *facilities.file.services}


def due_job(spec: Spec, asset: Asset, facilities: Facilities) -> dg.JobDefinition:
    """`<beamline>__<asset>__due`: what `sensors.due_work` requests, for the scans in its config."""

    @dg.op(
        name=names.due_op(spec.id, asset.name),
        out={},
        config_schema={"scans": [str]},
        required_resource_keys=resource_keys(facilities),
        description=f"Ensures {asset.name} for the scans in its config, and leaves unfinished tasks to go on.",
    )
    async def ensure_due(context: dg.OpExecutionContext):  # type: ignore[no-untyped-def]  # Dagster reads a return type as an output
        engine = _engine(context, spec, asset, facilities)
        try:
            async for made in engine.run(context.op_config["scans"], patient=False):
                log(context, materialization(spec, asset, made), made)
        finally:
            release(engine, context.log)
        for key, why in engine.failed.items():
            context.log.error(f"{key} has failed and is shown as a red partition: {why}")

    @dg.job(
        name=names.due_job(spec.id, asset.name),
        executor_def=dg.in_process_executor,
        tags=CANNOT_RETRY,
        description=f"Automatic runs of {spec.id}/{asset.name}; requested by the sensor {names.due_sensor(spec.id)}.",
    )
    def due() -> None:
        ensure_due()

    return due


def release(engine: Ensure, log: Any) -> None:
    """Let the next automatic run of the asset start; later and later when nothing comes of them."""
    now = engine.ledger.now()
    with engine.ledger.write() as tx:
        idle = leases.release(tx, engine.lease, engine.holder, now, engine.progress > 0)
        if idle >= 3:
            why = f"{idle} automatic runs of {engine.lease} in a row made no progress; the next ones wait longer"
            history.record(
                tx, now, f"run {engine.holder}", "alert", beamline=engine.beamline, asset=engine.asset, why=why
            )
            log.error(why)


def partitioned_asset(spec: Spec, asset: Asset, facilities: Facilities) -> dg.AssetsDefinition:
    """The asset for people: a run stays until each of its scans is done or failed."""

    @dg.multi_asset(
        name=names.asset_op(spec.id, asset.name),
        specs=[asset_spec(spec, asset)],
        backfill_policy=dg.BackfillPolicy.multi_run(RANGE),
        required_resource_keys=resource_keys(facilities),
        can_subset=False,
    )
    async def ensure_partitions(context: dg.AssetExecutionContext) -> AsyncIterator[Any]:
        engine = _engine(context, spec, asset, facilities)
        keys = list(context.partition_keys)
        run = context.run
        kept: dict[str, str] = {}
        if run.tags.get(names.TRIGGER) == names.SHOW_FAILURE:
            show_failures(engine, keys)
        else:
            kept = kept_at_the_beamline(engine, keys)
            keys = [key for key in keys if key not in kept]
            ask(engine, keys, run)
        more_below = len(run.asset_selection or ()) > 1
        bugs = None
        try:
            async for made in engine.run(keys, patient=True):
                event = materialization(spec, asset, made)
                log(context, event, made)
                if more_below:
                    context.add_asset_metadata(event.metadata, event.asset_key, event.partition)
        except ExceptionGroup as group:
            bugs = group
        missing = absent(engine, keys)
        if engine.failed or missing or kept:
            raise failure(engine, {**kept, **missing, **engine.failed}) from bugs
        if bugs is not None:
            raise bugs
        if more_below:
            # assets further down in the same run start only after an output; it repeats the events just logged
            yield dg.Output(None, output_name=context.op_execution_context.op_def.output_defs[0].name)

    return ensure_partitions


def kept_at_the_beamline(engine: Ensure, keys: list[str]) -> dict[str, str]:
    """Those of the scans of which nothing may leave the beamline, as today's spec says: nothing is asked of them, and
    the run says why."""
    spec = engine.family.spec
    with engine.ledger.read() as tx:
        found = [scan for key in keys if (scan := scans.find(tx, engine.beamline, key))]
    out = {}
    for scan in assignments.held(spec, found):
        with engine.ledger.write() as tx:
            now = engine.ledger.now()
            reason = assignments.decide(tx, spec, scans.get(tx, scan.id), f"run {engine.holder}", now)
        if reason is not None:
            out[scan.key] = restricted.message(scan.key, reason)
    return out


def ask(engine: Ensure, keys: list[str], run: dg.DagsterRun) -> None:
    """A person or a backfill wants these: what is done is done anew, what failed gets fresh attempts.

    A run that Dagster starts again for one that crashed asks for nothing new. One that a person starts again "from
    failure" gives fresh attempts to what failed, and leaves what the first run brought about.
    """
    tags = run.tags
    first = tags.get(ROOT_RUN_TAG) or run.root_run_id or run.run_id
    by_dagster, from_failure = RETRY_NUMBER_TAG in tags, tags.get(RESUME_RETRY_TAG) == "true"
    who = tags.get("user") or ("backfill " + tags["dagster/backfill"] if "dagster/backfill" in tags else "a person")
    now = engine.ledger.now()
    with engine.ledger.write() as tx:
        known = [scan.id for key in keys if (scan := scans.find(tx, engine.beamline, key))]
        flow.advance(tx, engine.family.spec, known, now)  # the spec may have gained this asset since
        for step in steps.of_keys(tx, engine.beamline, engine.asset, keys):
            retried = by_dagster or (from_failure and step.state != steps.FAILED)
            by = first if retried else run.run_id
            if flow.ask(tx, engine.family.spec, [step.scan_id], engine.asset, by, now):
                history.record(
                    tx, now, who, "asked", beamline=engine.beamline, scan_id=step.scan_id, asset=engine.asset,
                    why=f"run {run.run_id}",
                )  # fmt: skip


def show_failures(engine: Ensure, keys: list[str]) -> None:
    """This run exists to turn the partition of a failed scan red, with the reason. It tries nothing."""
    with engine.ledger.write() as tx:
        failed = [s for s in steps.of_keys(tx, engine.beamline, engine.asset, keys) if s.state == steps.FAILED]
        steps.reported(tx, [s.scan_id for s in failed], engine.asset, engine.ledger.now())
    if failed:
        raise failure(engine, {s.key: s.why or "no reason was kept" for s in failed})


def absent(engine: Ensure, keys: list[str]) -> dict[str, str]:
    with engine.ledger.read() as tx:
        known = {key for key in keys if scans.find(tx, engine.beamline, key)}
    return {key: f"{key}: the ledger knows no such scan of {engine.beamline}." for key in keys if key not in known}


def failure(engine: Ensure, reasons: Mapping[str, str]) -> dg.Failure:
    with engine.ledger.write() as tx:
        mine = steps.of_keys(tx, engine.beamline, engine.asset, list(reasons))
        steps.reported(tx, [s.scan_id for s in mine if s.state == steps.FAILED], engine.asset, engine.ledger.now())
    shown = "\n".join(list(reasons.values())[:20])
    more = f"\n… and {len(reasons) - 20} more" if len(reasons) > 20 else ""
    return dg.Failure(
        description=f"{engine.beamline}/{engine.asset}: {shown}{more}",
        metadata={"scans": dg.MetadataValue.json(sorted(reasons))},
        allow_retries=False,
    )


def scan_job(spec: Spec, asset: Asset) -> Any:
    """`<beamline>__<asset>__scan`: exactly one partition; the run that shows a failure."""
    return dg.define_asset_job(
        names.scan_job(spec.id, asset.name),
        # its checks are no part of it: a run that only shows a failure would make each of them a failed one as well
        selection=dg.AssetSelection.assets(names.asset_key(spec.id, asset.name)).without_checks(),
        executor_def=dg.in_process_executor,
        tags=CANNOT_RETRY,
        description=f"One scan of {spec.id}/{asset.name}.",
    )
