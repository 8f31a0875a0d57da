"""The quality verdicts of an analysis as Dagster asset checks, one per verdict, for each partition.

The program gives number, threshold and verdict; nothing is judged here. A run logs them with the materialization;
executing the checks of a partition by hand logs again what the ledger has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from beamlines.spec import Asset, Spec
from resources.ledger import products, scans
from resources.ledger.products import Product
from sensors import names

XPCS = {
    "outlier_frames": "frames whose mean is far from usual",
    "intensity_drift": "change of the mean intensity from the first to the last quarter",
    "dropped_frames": "frames without any intensity",
    "repeated_frames": "frames equal to the one before",
    "saturation": "values at the top of the detector's range",
    "dead_pixels": "used pixels that never saw anything",
    "hot_pixels": "used pixels far above their bin's mean",
    "masked_pixels": "used pixels left out for NaN or infinity",
    "beam_drift": "pixels by which the centre of the intensity moved",
    "fit_converged": "q bins that could not be fitted",
    "baseline": "distance of the fitted g2 baseline from 1",
    "contrast_in_range": "q bins whose contrast is not in (0, 1]",
    "chi_squared": "reduced chi squared of the fits",
    "early_late_agreement": "distance of the first from the last part's g2",
}
PROGRAMS = {"xpcs": XPCS}
PASSED, WARNED = "pass", "warn"


def declared(asset: Asset) -> dict[str, str]:
    """name -> description of the checks of an asset; none when nothing judges it."""
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
        metadata = {k: v for k, v in (("value", entry.get("value")), ("verdict", verdict)) if v is not None}
        threshold = entry.get("threshold")
        if threshold is not None:
            metadata["threshold"] = dg.MetadataValue.json(threshold) if isinstance(threshold, dict) else threshold
        out.append(
            dg.AssetCheckEvaluation(
                asset_key=names.asset_key(spec.id, asset.name),
                check_name=name,
                passed=verdict == PASSED,
                severity=dg.AssetCheckSeverity.WARN if verdict in (PASSED, WARNED) else dg.AssetCheckSeverity.ERROR,
                description=entry.get("explanation"),
                metadata=metadata,
                partition=key,
            )
        )
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
        dg.AssetCheckSpec(name, asset=key, description=words, partitions_def=partitions)
        for name, words in known.items()
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
                for verdict in found.values():
                    context.log_event(verdict)
        if len(keys) > 1:
            return
        for name in wanted:
            verdict = found.get(name)
            if verdict is None:
                why = "this scan has no such verdict yet"
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
