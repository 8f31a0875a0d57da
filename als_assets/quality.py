"""The quality verdicts of an analysis as Dagster asset checks, one per verdict, for each partition.

The program gives number, threshold and verdict; nothing is judged here. A run logs them with the materialization;
executing the checks of a partition by hand logs again what the ledger has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as Target,
)

from beamlines.spec import Asset, Spec
from resources.ledger import products, scans
from resources.ledger.products import Product
from sensors import names


class Said(NamedTuple):
    """What is looked at, and what a scientist can do when it does not pass."""

    what: str
    advice: str


MASK = "mask them in the ROI, then materialize the partition"
XPCS = {
    "outlier_frames": Said(
        "frames whose mean is far from usual",
        "beam loss, top-up or a shutter: leave such frames out (parameters `begin`, `end`)",
    ),
    "intensity_drift": Said(
        "change of the mean intensity from the first to the last quarter",
        "a weaker beam, which does little harm since every frame is divided by its mean; or a sample that changed: "
        "analyse a part (parameters `begin`, `end`)",
    ),
    "dropped_frames": Said(
        "frames without any intensity", "a closed shutter, or the readout lost frames: look at the detector"
    ),
    "repeated_frames": Said(
        "frames equal to the one before",
        "the readout wrote frames twice, and g2 is too high at the shortest delays: look at the detector",
    ),
    "saturation": Said(
        "values at the top of the detector's range", "attenuate the beam, or leave the brightest pixels out of the ROI"
    ),
    "dead_pixels": Said("used pixels that never saw anything", f"few photons, a beam stop or dead pixels: {MASK}"),
    "hot_pixels": Said("used pixels far above their bin's mean", f"they raise the contrast: {MASK}"),
    "masked_pixels": Said(
        "used pixels left out: NaN, infinity, or masked by the detector",
        "the detector's own mask covers much of the ROI: draw another one",
    ),
    "beam_drift": Said(
        "pixels by which the centre of the intensity moved",
        "beam or sample moved, and g2 decays from that as well: trust the short delays only",
    ),
    "fit_converged": Said(
        "q bins that could not be fitted",
        "the decay is not within the measured delays, or too noisy: a longer scan, shorter frames, wider q bins",
    ),
    "baseline": Said(
        "distance of the fitted g2 baseline from 1",
        "a slow process, drift or static scattering beside the decay: see the two-time maps (parameter `type: both`)",
    ),
    "contrast_in_range": Said(
        "q bins whose contrast is not in (0, 1]",
        "a wrong dark or mask, or no decay within the measured delays: look at the g2 plot",
    ),
    "chi_squared": Said(
        "reduced chi squared of the fits",
        "the decay is no single exponential: use the stretched fit, which is in the result as well",
    ),
    "early_late_agreement": Said(
        "distance of the first from the last part's g2",
        "the sample changed during the scan (ageing, beam damage): two-time maps show it (parameter `type: both`)",
    ),
}
PROGRAMS = {"xpcs": XPCS}
PASSED, WARNED, FAILED = "pass", "warn", "fail"


def declared(asset: Asset) -> dict[str, Said]:
    """name -> what it looks at, and advice, of the checks of an asset; none when nothing judges it."""
    return PROGRAMS.get(asset.analysis.program, {}) if asset.analysis is not None else {}


def evaluations(spec: Spec, asset: Asset, key: str, product: Product | None) -> list[dg.AssetCheckEvaluation]:
    """The verdicts of a product that are declared; others stay in its metadata alone."""
    qc = product.document.get("qc", {}) if product else {}
    known = declared(asset)
    out = []
    for name, entry in qc.items():
        if name not in known or not isinstance(entry, dict):
            continue
        verdict = entry.get("verdict")
        value = entry.get("value")
        rounded = float(f"{value:.5g}") if isinstance(value, float) else value  # a number: Dagster plots it
        shown = {"value": rounded, "verdict": verdict, "threshold": limits(entry.get("threshold"))}
        metadata = {name: value for name, value in shown.items() if value not in (None, "")}
        out.append(
            dg.AssetCheckEvaluation(
                asset_key=names.asset_key(spec.id, asset.name),
                check_name=name,
                passed=verdict == PASSED,
                severity=dg.AssetCheckSeverity.WARN if verdict in (PASSED, WARNED) else dg.AssetCheckSeverity.ERROR,
                description=explained(name, entry, known[name].advice),
                metadata=metadata,
                partition=key,
            )
        )
    return out


def explained(name: str, entry: Mapping[str, Any], advice: str) -> str:
    words = str(entry.get("explanation") or name)
    return words if entry.get("verdict") == PASSED else f"{words}. Cause, and what to do: {advice}."


def number(value: Any) -> str:
    """With as many digits as a person reads."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def limits(threshold: Any) -> str:
    """{"warn": 0.1, "fail": 0.5} in words; large is bad."""
    if not isinstance(threshold, Mapping):
        return number(threshold)
    return ", ".join(f"{name} above {number(threshold[name])}" for name in sorted(threshold, reverse=True))


def _limit(entry: Mapping[str, Any], word: str) -> Any:
    threshold = entry.get("threshold")
    return threshold.get(word) if isinstance(threshold, Mapping) else threshold if word == FAILED else None


def worst_first(qc: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    entries = {name: entry for name, entry in qc.items() if isinstance(entry, Mapping)}
    rank = {PASSED: 2, WARNED: 1}  # anything else is as bad as a failure
    return {
        name: entries[name] for name in sorted(entries, key=lambda n: (rank.get(str(entries[n].get("verdict")), 0), n))
    }


def in_short(asset: Asset, qc: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a result: how many verdicts of each kind, and what to do about those that are not `pass`."""
    entries, known = worst_first(qc), declared(asset)
    if not entries:
        return {}
    words = [str(entry.get("verdict")) for entry in entries.values()]
    todo = [
        f"- **{name}** ({entry.get('verdict')}): {explained(name, entry, known[name].advice)}"
        for name, entry in entries.items()
        if name in known and entry.get("verdict") != PASSED
    ]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys([PASSED, WARNED, FAILED, *words]))
    return {"quality": counts, **({"quality: what to do": dg.MetadataValue.md("\n".join(todo))} if todo else {})}


def table(qc: Mapping[str, Any]) -> Any:
    """Metadata of a result: every verdict with its number, the worst first; None when there is none."""
    rows = [
        {
            "verdict": str(entry.get("verdict")),
            "check": name,
            "value": number(entry.get("value")),
            **{f"{word} above": number(_limit(entry, word)) for word in (WARNED, FAILED)},
        }
        for name, entry in worst_first(qc).items()
    ]
    if not rows:
        return None
    schema = dg.TableSchema([dg.TableColumn(name, "string") for name in rows[0]])
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema)


def on_latest(checks: Iterable[dg.AssetCheckEvaluation], instance: dg.DagsterInstance) -> list[dg.AssetCheckEvaluation]:
    """The verdicts, said of the latest materialization of their partition. Dagster's pages take a verdict that does not
    name one for one of an older result, and the partition for one that nobody has judged."""
    targets: dict[tuple[dg.AssetKey, str | None], Target | None] = {}
    out = []
    for one in checks:
        where = (one.asset_key, one.partition)
        if where not in targets:
            partitions = [one.partition] if one.partition is not None else None
            filters = dg.AssetRecordsFilter(asset_key=one.asset_key, asset_partitions=partitions)
            found = instance.fetch_materializations(filters, limit=1).records
            targets[where] = None
            if found:
                last = found[0]
                targets[where] = Target(storage_id=last.storage_id, run_id=last.run_id, timestamp=last.timestamp)
        out.append(
            dg.AssetCheckEvaluation(
                one.asset_key, one.check_name, one.passed, one.metadata, targets[where], one.severity, one.description,
                one.blocking, one.partition,
            )
        )  # fmt: skip
    return out


def quality_checks(
    spec: Spec, asset: Asset, partitions: dg.PartitionsDefinition[Any]
) -> dg.AssetChecksDefinition | None:
    """The checks of an asset, or None when nothing judges it."""
    known = declared(asset)
    if not known:
        return None
    key = names.asset_key(spec.id, asset.name)
    specs = [
        dg.AssetCheckSpec(
            name,
            asset=key,
            description=f"{said.what}. Cause when it does not pass, and what to do: {said.advice}.",
            partitions_def=partitions,
        )
        for name, said in known.items()
    ]

    @dg.multi_asset_check(
        name=f"{names.asset_op(spec.id, asset.name)}__quality",
        specs=specs,
        can_subset=True,
        required_resource_keys={"ledger"},
        description=f"The verdicts of als-{asset.analysis.program if asset.analysis else ''} on each scan.",
    )
    def quality(context) -> Iterator[dg.AssetCheckResult]:  # type: ignore[no-untyped-def]  # Dagster types it
        ledger = context.resources.ledger.open()
        wanted = {check.name for check in context.selected_asset_check_keys}
        keys = list(context.partition_keys)
        found = {}
        for partition in keys:
            with ledger.read() as tx:
                scan = scans.find(tx, spec.id, partition)
                product = products.latest(tx, scan.id, asset.name) if scan else None
            found = {e.check_name: e for e in evaluations(spec, asset, partition, product) if e.check_name in wanted}
            if len(keys) > 1:  # a result of a check knows one partition only
                for one in on_latest(found.values(), context.instance):
                    context.log_event(one)
        if len(keys) > 1:
            return
        for name in wanted:
            verdict = found.get(name)
            if verdict is None:
                why = f"this scan has no such verdict. What to do: see what became of its {asset.name}"
                yield dg.AssetCheckResult(
                    passed=False, asset_key=key, check_name=name, severity=dg.AssetCheckSeverity.WARN, description=why
                )
            else:
                yield dg.AssetCheckResult(
                    passed=verdict.passed,
                    asset_key=key,
                    check_name=name,
                    severity=verdict.severity,
                    description=verdict.description,
                    metadata=verdict.metadata,
                )

    return quality


def of_partition(spec: Spec, asset: Asset, tx: Any, scan: scans.Scan) -> Sequence[dg.AssetCheckEvaluation]:
    """What to log beside the materialization of a scan."""
    if not declared(asset):
        return ()
    return evaluations(spec, asset, scan.key, products.latest(tx, scan.id, asset.name))
