"""What staff are told: one open alert for each thing that is the matter, raised once, cleared once.

Whoever looks says what is the matter now (`reconcile`); what is new is raised, what has not been seen for a while is
cleared. An alert is told once when it was raised and once when it was cleared; one that came and went before anybody
was told is told to nobody. If the process dies between the message and its mark, the message comes twice: better than
never. What is over is kept for a while, what is open as long as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger import steps
from resources.ledger.schema import alerts

CHANNEL = "channel"  # kind of the alert that no message can tell
KEPT = timedelta(days=90)  # for which an alert that was cleared can still be looked up


@dataclass(frozen=True)
class Trouble:
    """One thing that is the matter. key: "<kind>/…", the same as long as it is the same thing."""

    key: str
    message: str
    beamline: str | None = None
    scan_id: int | None = None

    @property
    def kind(self) -> str:
        return self.key.partition("/")[0]


@dataclass(frozen=True)
class Alert:
    id: int
    key: str
    beamline: str | None
    scan_id: int | None
    message: str
    raised_at: datetime
    seen_at: datetime
    sent_at: datetime | None
    cleared_at: datetime | None
    clearing_sent_at: datetime | None

    @property
    def kind(self) -> str:
        return self.key.partition("/")[0]


def reconcile(
    tx: Connection, troubles: Sequence[Trouble], kinds: Collection[str], now: datetime, clear_after: timedelta
) -> int:
    """Bring the open alerts of the kinds that were looked for up to what was found; returns how many are new.

    One that is not among the troubles is cleared once it has not been seen for `clear_after`: a service that flickers
    is one alert. Those that were cleared long ago are forgotten.
    """
    known = {alert.key: alert for alert in opened(tx) if alert.kind in kinds}
    wanted = {trouble.key: trouble for trouble in troubles}
    fresh = [trouble for key, trouble in wanted.items() if key not in known]
    if fresh:
        tx.execute(
            sa.insert(alerts),
            [
                {"key": t.key, "beamline": t.beamline, "scan_id": t.scan_id, "message": t.message, "raised_at": now,
                 "seen_at": now}
                for t in fresh
            ],
        )  # fmt: skip
    for key in known.keys() & wanted.keys():
        if known[key].message != wanted[key].message:
            tx.execute(sa.update(alerts).where(alerts.c.id == known[key].id).values(message=wanted[key].message))
    _each(tx, [known[key].id for key in known.keys() & wanted.keys()], {"seen_at": now})
    gone = [a.id for key, a in known.items() if key not in wanted and a.seen_at <= now - clear_after]
    _each(tx, gone, {"cleared_at": now})
    tx.execute(sa.delete(alerts).where(alerts.c.cleared_at < now - KEPT))  # null, and so never true, while it is open
    return len(fresh)


def opened(tx: Connection) -> list[Alert]:
    """The open alerts, oldest first."""
    return _alerts(tx, sa.select(alerts).where(alerts.c.cleared_at.is_(None)).order_by(alerts.c.id))


def untold(tx: Connection) -> tuple[list[Alert], list[Alert]]:
    """(raised and not told yet, cleared and that not told yet)."""
    raised = [alert for alert in opened(tx) if alert.sent_at is None and alert.kind != CHANNEL]
    cleared = sa.select(alerts).where(
        alerts.c.cleared_at.is_not(None), alerts.c.sent_at.is_not(None), alerts.c.clearing_sent_at.is_(None)
    )
    return raised, _alerts(tx, cleared.order_by(alerts.c.id))


def told(tx: Connection, raised: Collection[int], cleared: Collection[int], now: datetime) -> None:
    _each(tx, raised, {"sent_at": now})
    _each(tx, cleared, {"clearing_sent_at": now})


def last_told(tx: Connection) -> datetime | None:
    """When the last message went."""
    newest = [tx.execute(sa.select(sa.func.max(c))).scalar() for c in (alerts.c.sent_at, alerts.c.clearing_sent_at)]
    return max((at for at in newest if at is not None), default=None)


def _each(tx: Connection, ids: Collection[int], values: dict[str, datetime]) -> None:
    for block in steps.chunks(list(ids)):
        tx.execute(sa.update(alerts).where(alerts.c.id.in_(block)).values(**values))


def _alerts(tx: Connection, query: sa.Select[tuple[object, ...]]) -> list[Alert]:
    return [Alert(**row) for row in tx.execute(query).mappings()]
