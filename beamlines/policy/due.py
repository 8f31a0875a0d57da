"""Which steps of a scan are due, once something about it has come true?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from beamlines.policy.grouping import glob_pattern
from beamlines.spec import Asset, Kind, Spec


@dataclass(frozen=True)
class Facts:
    """What the rules need to know about a scan."""

    path: str
    done: Collection[str]  # assets that are there
    missing: Collection[str]  # required companions that are not
    restricted: str | None = None  # why nothing of it may leave the beamline
    lost: bool = False  # what the detector wrote was replaced before any copy of it was proven


def wanted(spec: Spec, asset: Asset, facts: Facts) -> str | None:
    """Why the step does not apply to this scan by itself ('on request', a pattern), or None when it is wanted."""
    if facts.lost and asset.copy_to is not None and asset.copy_to.source == spec.scans.watch:
        return "what is to be copied is no longer at the beamline"
    if asset.analysis is None or asset.analysis.when == "always":
        return None
    if asset.analysis.when == "on_request":
        return "this analysis runs on request"
    if asset.analysis.pattern and glob_pattern(asset.analysis.pattern).fullmatch(facts.path):
        return None
    return f"the name does not match {asset.analysis.pattern}"


def blocked_by(spec: Spec, asset: Asset, facts: Facts) -> str | None:
    """What the step still waits for, or None when it is due."""
    if facts.restricted and asset.kind is not Kind.NOTICED:
        return facts.restricted
    waiting = [need for need in asset.needs if need not in facts.done]
    if waiting:
        return f"waits for {', '.join(waiting)}"
    if asset.kind is Kind.ANALYSIS and facts.missing:
        return f"waits for the companion {', '.join(sorted(facts.missing))}"
    return None


def again_after(spec: Spec, asset: str) -> list[str]:
    """The done steps that are due once more when `asset` has changed: the catalogue entry tells of all the others."""
    return [a.name for a in spec.assets() if a.kind is Kind.CATALOG and a.name != asset]
