"""A file of a scan was written anew: what becomes of the new content, as a person has decided.

Ignored: the scan keeps its first content, and nobody is asked before the file changes again. A new version: the files
as they are listed now make a scan of their own as soon as they have settled, with its own key, destination and entry in
the catalogue. Nothing of the first one is overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from beamlines.spec import Spec
from resources.ledger import flow, history, scans, steps
from resources.ledger.scans import Scan
from resources.ledger.schema import scans as table

CHANGED = "was changed at the beamline after it had become a scan"


@dataclass(frozen=True)
class Resolved:
    """What a decision came to. `key`: of the new version. `lost`: no copy of the first content had been proven."""

    scan: Scan
    key: str | None = None
    lost: bool = False


def asked(tx: Connection, beamline: str) -> list[Scan]:
    """The scans about which this question is put."""
    where = (table.c.beamline == beamline) & table.c.question.contains(CHANGED, autoescape=True)
    return list(scans.many(tx, list(tx.execute(sa.select(table.c.id).where(where)).scalars())).values())


def nowhere_else(tx: Connection, spec: Spec, scan: Scan) -> bool:
    """Is there no proven copy of the first content? Then there is nothing to be kept by ignoring the new one."""
    return not [place for place in scans.verified_in(tx, scan.id) if place != spec.scans.watch]


def ignore(tx: Connection, scan: Scan, who: str, why: str, now: datetime) -> Resolved | None:
    """None when the question is no longer the one that was decided about."""
    if not _answered(tx, scan, now):
        return None
    history.record(
        tx, now, who, "resolved", beamline=scan.beamline, scan_id=scan.id, why=f"the new content is ignored: {why}"
    )
    return Resolved(scan)


def make_version(tx: Connection, spec: Spec, scan: Scan, who: str, why: str, now: datetime) -> Resolved | None:
    """None when the question is no longer the one that was decided about."""
    if not _answered(tx, scan, now):
        return None
    key = scans.next_key(tx, spec.id, scan.path)
    elsewhere = [place for place in scans.verified_in(tx, scan.id) if place != spec.scans.watch]
    words = f"its files were written anew at the beamline; their new content is {key}"
    if not elsewhere:
        words += "; of the first one no copy had been proven"
    scans.let_go(tx, spec.id, scan.id)
    scans.copy_is(tx, scan.id, spec.scans.watch, "pruned" if elsewhere else "lost", now)
    steps.note(tx, scan.id, spec.noticed, words, now)
    flow.advance(tx, spec, [scan.id], now)
    details = {"new version": key, "verified in": elsewhere}
    history.record(tx, now, who, "resolved", beamline=spec.id, scan_id=scan.id, why=f"{words} ({why})", details=details)
    return Resolved(scan, key, not elsewhere)


def _answered(tx: Connection, scan: Scan, now: datetime) -> bool:
    same = (table.c.id == scan.id) & (table.c.question == scan.question)
    return CHANGED in (scan.question or "") and bool(
        tx.execute(sa.update(table).where(same).values(question=None, changed_at=now)).rowcount
    )
