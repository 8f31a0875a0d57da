"""Who wants a scan kept, until when, and why: no copy of a held scan is deleted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger import history
from resources.ledger.scans import Scan
from resources.ledger.schema import holds, scans
from resources.ledger.steps import chunks


@dataclass(frozen=True)
class Hold:
    scan_id: int
    until: datetime
    who: str
    why: str
    placed_at: datetime


def of_scans(tx: Connection, scan_ids: Collection[int], now: datetime) -> dict[int, list[Hold]]:
    """scan id -> the holds on it that are on now, the longest first. Scans without are left out."""
    out: dict[int, list[Hold]] = {}
    names = [holds.c[name] for name in Hold.__dataclass_fields__]
    for block in chunks(scan_ids):
        where = holds.c.scan_id.in_(block) & holds.c.released_at.is_(None) & (holds.c.until > now)
        for row in tx.execute(sa.select(*names).where(where).order_by(holds.c.until.desc(), holds.c.id)):
            out.setdefault(row[0], []).append(Hold(*row))
    return out


def place(tx: Connection, scan: Scan, until: datetime, who: str, why: str, now: datetime) -> None:
    """One more hold; those that are on stay on."""
    values = {"scan_id": scan.id, "until": until, "who": who, "why": why, "placed_at": now}
    tx.execute(sa.insert(holds).values(**values))
    _changed(tx, scan, "held", who, f"until {until:%Y-%m-%d %H:%M} UTC: {why}", now)


def release(tx: Connection, scan: Scan, who: str, why: str | None, now: datetime) -> int:
    """End every hold on the scan; returns how many were on."""
    where = (holds.c.scan_id == scan.id) & holds.c.released_at.is_(None) & (holds.c.until > now)
    count = int(tx.execute(sa.update(holds).where(where).values(released_at=now, released_by=who)).rowcount)
    if count:
        _changed(tx, scan, "released", who, why, now)
    return count


def _changed(tx: Connection, scan: Scan, what: str, who: str, why: str | None, now: datetime) -> None:
    tx.execute(sa.update(scans).where(scans.c.id == scan.id).values(changed_at=now))
    history.record(tx, now, who, what, beamline=scan.beamline, scan_id=scan.id, why=why)
