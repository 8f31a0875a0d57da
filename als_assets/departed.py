"""A copy is asked for again whose source is gone: pruned, or its name taken by a later version of the scan. There is
nothing left to copy, and nothing needs to be: this copy was demanded for it. It is looked at instead, so that a
backfill over old scans turns nothing red.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from als_assets.family import Done, NotDone, Outcome
from resources.ledger import Ledger, removals, scans
from resources.ledger.scans import File, Scan
from resources.storage import Storage

GONE = "pruned"


def departed(ledger: Ledger, place: str, scan_ids: Collection[int]) -> set[int]:
    """Those of the scans whose copy in a place is gone, or lies in its trash."""
    with ledger.read() as tx:
        copies = removals.copies_of(tx, scan_ids)
        leaving = removals.of_scans(tx, scan_ids)
    pruned = {i for i, at in copies.items() if place in at and at[place].state == GONE}
    return pruned | {i for i, at in leaving.items() if place in at and at[place].live}


def looked_at(
    ledger: Ledger, scan: Scan, source: str, place: str, target: Storage, goes_to: Callable[[Scan, File], str]
) -> Outcome:
    """Done when every file is there as it was proven; otherwise what is not, for a person."""
    with ledger.read() as tx:
        files = scans.files_of(tx, [scan.id])[scan.id]
        proven = scans.evidence_in(tx, scan.id, place)
    there = target.sizes([goes_to(scan, file) for file in files])
    for file in files:
        path = goes_to(scan, file)
        seen, proofs = there.get(path), proven.get(file.id, [])
        times = {proof["mtime"] for proof in proofs if proof["mtime"] is not None}
        if seen is None:
            wrong = f"{path} is not there"
        elif not proofs or seen.bytes != file.bytes or (times and seen.mtime not in times):
            wrong = f"{path} is not as it was proven"
        else:
            continue
        return NotDone(
            f"{scan.key}: its copy in {source} is gone (pruned, or written anew since), and of the one in "
            f"{target.name} {wrong}.",
            "get the scan back from tape and compare; see docs/pruning.md.",
            transient=False,
        )
    return Done(why=f"its copy in {source} is gone (pruned, or written anew since); this one is there as it was proven")
