"""Files on the detector's disk that cannot become scans, and why: told once, shown until it is mended."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger.schema import refusals
from resources.ledger.steps import chunks


def refused(tx: Connection, beamline: str) -> dict[str, str]:
    """The names of files that cannot become scans (as ASCII literals) -> why."""
    query = sa.select(refusals.c.name, refusals.c.why).where(refusals.c.beamline == beamline)
    return {name: why for name, why in tx.execute(query.order_by(refusals.c.name))}


def refuse(tx: Connection, beamline: str, names: Mapping[str, str], now: datetime) -> list[str]:
    """Write down which files cannot become scans, and why; returns the names for which that is news."""
    known: dict[str, str] = {}
    for block in chunks(names):
        where = (refusals.c.beamline == beamline) & refusals.c.name.in_(block)
        known |= {name: why for name, why in tx.execute(sa.select(refusals.c.name, refusals.c.why).where(where))}
    news = [name for name, why in names.items() if known.get(name) != why]
    for name in news:
        if name in known:
            one = (refusals.c.beamline == beamline) & (refusals.c.name == name)
            tx.execute(sa.update(refusals).where(one).values(why=names[name]))
        else:
            values = {"beamline": beamline, "name": name, "why": names[name], "first_seen": now}
            tx.execute(sa.insert(refusals).values(**values))
    return news


def unrefuse(tx: Connection, beamline: str, names: Collection[str]) -> None:
    """These have become scans after all."""
    for block in chunks(names):
        tx.execute(sa.delete(refusals).where(refusals.c.beamline == beamline, refusals.c.name.in_(block)))
