"""Is what lies at the beamline still what a scan is made of? Asked before it is sent: the new content of a file does
not belong in the place of the first one, whose only proven copy may be there.
"""

from __future__ import annotations

from collections.abc import Sequence

from als_assets.family import NotDone
from resources.ledger import Ledger, scans
from resources.ledger.scans import File, Scan
from resources.storage import Storage

Wanted = Sequence[tuple[Scan, Sequence[File]]]


def replaced(ledger: Ledger, beamline: str, source: Storage, place: str, wanted: Wanted) -> dict[int, File]:
    """scan id → one of its files that is no longer the scan's own at the beamline.

    As the last listing of the sensor showed it; where there is a copy at `place` already, which would be overwritten,
    as `source` lists it now.
    """
    with ledger.read() as tx:
        known = scans.remembered(tx, beamline, [file.path for _, files in wanted for file in files])
        there = {scan.id for scan, _ in wanted if scans.evidence_in(tx, scan.id, place)}
    paths = [file.path for scan, files in wanted if scan.id in there for file in files]
    now = source.look(paths).files if paths else {}
    out: dict[int, File] = {}
    for scan, files in wanted:
        for file in files:
            seen, listed = known.get(file.path), now.get(file.path) if scan.id in there else None
            let_go = seen is not None and seen.scan_id != scan.id  # it is that of a later version
            shown = [one for one in (seen.sighting if seen else None, listed) if one is not None]
            if let_go or any((one.bytes, one.mtime) != (file.bytes, file.mtime) for one in shown):
                out.setdefault(scan.id, file)
    return out


def refusal(scan: Scan, target: str, file: File) -> NotDone:
    return NotDone(
        f"{scan.key}: it is not copied to {target}: {file.path} was written anew at the beamline, and its new content "
        f"does not belong in the place of the first one, of {file.bytes} bytes.",
        "answer the question about it with `als resolve`, or put the old content back with its time.",
        transient=False,
    )
