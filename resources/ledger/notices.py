"""What a writer or a watcher elsewhere has said of files: that they are there, complete, whose, export-controlled.

A notice never makes a scan by itself: the listing decides what is there. It waits until a scan takes it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger.schema import notices, sightings
from resources.ledger.steps import chunks

SECTIONS = ("metadata", "parameters")  # of a notice's document


@dataclass(frozen=True)
class Notice:
    beamline: str
    path: str
    who: str
    at: datetime
    complete: bool
    restricted: bool
    proposal: str | None
    document: dict[str, dict[str, Any]]
    scan_id: int | None


def give(
    tx: Connection,
    beamline: str,
    path: str,
    who: str,
    now: datetime,
    *,
    complete: bool = False,
    restricted: bool = False,
    proposal: str | None = None,
    document: Mapping[str, Mapping[str, Any]] | None = None,
) -> bool:
    """Write down a notice; True when it says something new, or says it of content that is no scan yet. What was said
    before stays, unless it is said otherwise now; that a file is export-controlled is never taken back this way."""
    said = {name: dict(part) for name, part in (document or {}).items()}
    before = of_paths(tx, beamline, [path]).get(path)
    one = (notices.c.beamline == beamline) & (notices.c.path == path)
    if before is None:
        values = {"complete": complete, "restricted": restricted, "proposal": proposal, "document": said}
        tx.execute(sa.insert(notices).values(beamline=beamline, path=path, who=who, at=now, **values))
        return True
    merged = {
        "complete": complete or before.complete,
        "restricted": restricted or before.restricted,
        "proposal": proposal or before.proposal,
        "document": {
            name: {**before.document.get(name, {}), **said.get(name, {})} for name in {*before.document, *said}
        },
    }
    heard = before.scan_id is None or not _of_new_content(tx, beamline, path)
    if heard and all(getattr(before, name) == value for name, value in merged.items()):
        return False
    tx.execute(sa.update(notices).where(one).values(who=who, at=now, scan_id=None, **merged))
    return True


def _of_new_content(tx: Connection, beamline: str, path: str) -> bool:
    """Has the file been let go from its scan, to become the next version?"""
    one = (sightings.c.beamline == beamline) & (sightings.c.path == path) & sightings.c.scan_id.is_(None)
    return tx.execute(sa.select(sightings.c.path).where(one)).first() is not None


def _notices(tx: Connection, where: sa.ColumnElement[bool]) -> list[Notice]:
    return [Notice(**row) for row in tx.execute(sa.select(notices).where(where).order_by(notices.c.path)).mappings()]


def waiting(tx: Connection, beamline: str) -> dict[str, Notice]:
    """Those that no scan has taken up yet."""
    return {n.path: n for n in _notices(tx, (notices.c.beamline == beamline) & notices.c.scan_id.is_(None))}


def of_paths(tx: Connection, beamline: str, paths: Iterable[str]) -> dict[str, Notice]:
    out: dict[str, Notice] = {}
    for block in chunks(paths):
        out |= {n.path: n for n in _notices(tx, (notices.c.beamline == beamline) & notices.c.path.in_(block))}
    return out


def said_of(tx: Connection, beamline: str, paths: Iterable[str], section: str) -> dict[str, Any]:
    """The metadata or parameters that came with notices of these files."""
    out: dict[str, Any] = {}
    for notice in of_paths(tx, beamline, paths).values():
        out |= notice.document.get(section, {})
    return out


def taken_up(tx: Connection, beamline: str, paths: Iterable[str], scan_id: int) -> None:
    for block in chunks(paths):
        where = (notices.c.beamline == beamline) & notices.c.path.in_(block) & notices.c.scan_id.is_(None)
        tx.execute(sa.update(notices).where(where).values(scan_id=scan_id))
