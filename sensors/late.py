"""A companion that comes when the data of its scan have left the disk: nothing can take it up, so staff are told.

It is told as a name that cannot become a scan is: by `als scans`, and in the scan's history, until it or the data are
where they belong. Nothing is copied, and nothing deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from beamlines.policy.grouping import companion_of, glob_pattern, ignored
from beamlines.policy.settled import settled
from beamlines.spec import ScanFiles, Spec
from resources.ledger import removals, scans
from resources.ledger.scans import Known, Scan

BEGINS = "it came late: "


@dataclass(frozen=True)
class Late:
    """A companion whose scan's own file is not listed. why: what has become of that file, and what to do."""

    path: str
    scan_id: int
    why: str


def companions(
    tx: Connection, spec: Spec, known: Mapping[str, Known], now: datetime, settle: timedelta, complete: Collection[str]
) -> list[Late]:
    """Those of a listing that belong to a scan whose own file it does not show. Only of a listing that is whole.

    Args:
        known: what is known of the files of the listing. complete: files of which their writer says that they are
            finished; others have to be left alone for `settle` first, as for becoming part of a scan.
    """
    found: dict[str, list[str]] = {}
    for path, one in known.items():
        wanted = one.scan_id is None and one.sighting.bytes > 0 and not ignored(spec.scans, path)
        named = companion_of(spec.scans, path) if wanted else None
        own = _own_files(spec.scans, named[1]) if named else []
        alone = own and not any(name in known for name in own)
        if alone and settled([one.sighting], [], now, settle, timedelta(0), complete).settled:
            found[path] = own
    if not found:
        return []
    seen = scans.remembered(tx, spec.id, {name for names in found.values() for name in names})
    owners = {
        path: scan_id
        for path, names in found.items()
        for name in names
        if name in seen and (scan_id := seen[name].scan_id) is not None
    }
    many = scans.many(tx, set(owners.values()))
    leaving = removals.of_scans(tx, list(many))
    return [
        Late(path, scan_id, BEGINS + _why(tx, spec, many[scan_id], leaving.get(scan_id, {})))
        for path, scan_id in owners.items()
    ]


def _own_files(rule: ScanFiles, stem: str) -> list[str]:
    """What a scan's own file beside its companions may be called: none where the patterns leave the ending open."""
    endings = dict.fromkeys(glob.rpartition("/")[2].rpartition(".")[2] for glob in rule.files)
    names = [f"{stem}.{ending}" for ending in endings if not {"*", "?"} & set(ending)]
    return [
        name
        for name in names
        if companion_of(rule, name) is None and any(glob_pattern(glob).fullmatch(name) for glob in rule.files)
    ]


def _why(tx: Connection, spec: Spec, scan: Scan, leaving: Mapping[str, removals.Removal]) -> str:
    place = spec.scans.watch
    where, alone = f"{spec.id}/{place}", "so that nothing copies it. What to do:"
    if place in leaving:
        return (
            f"the data of scan {scan.key} are in the trash of {where}, {alone} `als hold {spec.id} {scan.key}` brings "
            "them back, and it is added to the scan by itself; or move it away"
        )
    pruned = scans.pruned_at(tx, scan.id, place)
    if pruned is not None:
        return (
            f"the data of scan {scan.key} were deleted from {where} at {pruned:%Y-%m-%d %H:%M} UTC, since their copies "
            f"are safe, {alone} copy it by hand to where it is wanted, and move it away"
        )
    return (
        f"{scan.path} of scan {scan.key} is not in {where} any more, {alone} put that file back as it was, with its "
        "time, and it is added to the scan by itself; or move it away"
    )
