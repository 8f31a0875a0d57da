"""Who is at work on an asset, and which services rest for a while.

A lease keeps a second automatic run of the same asset from being started while one is requested or at work. It guards
nothing but effort: two at once are harmless. A pause keeps everybody from asking a service that is down.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from beamlines.policy.retry import idle_wait, next_pause
from resources.ledger.schema import leases, pauses

REQUESTED = "requested"


def request(tx: Connection, name: str, now: datetime, hold: timedelta) -> bool:
    """Take the free or expired lease for a run that is about to be requested. An expired one means that its holder
    ended without a word: that counts as a run without progress."""
    row = tx.execute(sa.select(leases).where(leases.c.name == name)).mappings().first()
    if row is None:
        tx.execute(sa.insert(leases).values(name=name, holder=REQUESTED, expires_at=now + hold, idle_runs=0))
        return True
    if row["expires_at"] > now or (row["not_before"] and row["not_before"] > now):
        return False
    silent = row["holder"] != ""
    idle = row["idle_runs"] + (1 if silent else 0)
    guard = (leases.c.name == name) & (leases.c.holder == row["holder"]) & (leases.c.expires_at == row["expires_at"])
    if silent and idle > 1 and row["not_before"] is None:  # first make it wait, then let it try
        tx.execute(sa.update(leases).where(guard).values(holder="", idle_runs=idle, not_before=now + idle_wait(idle)))
        return False
    values = {"holder": REQUESTED, "expires_at": now + hold, "idle_runs": idle, "not_before": None}
    return bool(tx.execute(sa.update(leases).where(guard).values(**values)).rowcount)


def take_over(tx: Connection, name: str, holder: str, now: datetime, hold: timedelta) -> bool:
    """A run takes the lease that was requested for it, renews its own, or takes an expired one."""
    free = (leases.c.holder.in_([REQUESTED, holder, ""])) | (leases.c.expires_at <= now)
    values = {"holder": holder, "expires_at": now + hold}
    if tx.execute(sa.update(leases).where(leases.c.name == name, free).values(**values)).rowcount:
        return True
    if tx.execute(sa.select(leases.c.name).where(leases.c.name == name)).first():
        return False
    tx.execute(sa.insert(leases).values(name=name, idle_runs=0, **values))
    return True


def release(tx: Connection, name: str, holder: str, now: datetime, progress: bool) -> int:
    """Give it back; returns how many holders in a row have now made no progress."""
    row = tx.execute(sa.select(leases).where(leases.c.name == name, leases.c.holder == holder)).mappings().first()
    if row is None:
        return 0
    idle = 0 if progress else row["idle_runs"] + 1
    values = {"holder": "", "expires_at": now, "idle_runs": idle, "not_before": now + idle_wait(idle) if idle else None}
    tx.execute(sa.update(leases).where(leases.c.name == name, leases.c.holder == holder).values(**values))
    return idle


@dataclass(frozen=True)
class Pause:
    service: str
    until: datetime
    since: datetime
    failures: int
    reason: str


def paused(tx: Connection, service: str, now: datetime) -> Pause | None:
    """The pause that is on for a service, or None. One that has run out lets the next caller try."""
    row = tx.execute(
        sa.select(pauses.c.service, pauses.c.until, pauses.c.since, pauses.c.failures, pauses.c.reason).where(
            pauses.c.service == service, pauses.c.until > now
        )
    ).first()
    return Pause(*row) if row else None


def all_pauses(tx: Connection) -> list[Pause]:
    columns = (pauses.c.service, pauses.c.until, pauses.c.since, pauses.c.failures, pauses.c.reason)
    return [Pause(*row) for row in tx.execute(sa.select(*columns).order_by(pauses.c.service))]


def pause(
    tx: Connection,
    service: str,
    reason: str,
    code: str,
    now: datetime,
    first_s: float,
    most_s: float,
    at_least: timedelta | None = None,
) -> Pause:
    """A service did not answer: rest, twice as long each time. Failures while it rests already do not add up."""
    row = tx.execute(sa.select(pauses).where(pauses.c.service == service)).mappings().first()
    if row and row["until"] > now:
        return Pause(service, row["until"], row["since"], row["failures"], row["reason"])
    failures = (row["failures"] if row else 0) + 1
    until = now + max(next_pause(failures, first_s, most_s), at_least or timedelta(0))
    values = {"until": until, "failures": failures, "reason": reason, "code": code}
    if row:
        tx.execute(sa.update(pauses).where(pauses.c.service == service).values(**values))
    else:
        tx.execute(sa.insert(pauses).values(service=service, since=now, **values))
    return Pause(service, until, row["since"] if row else now, failures, reason)


def resume(tx: Connection, service: str) -> bool:
    """The service has answered."""
    return bool(tx.execute(sa.delete(pauses).where(pauses.c.service == service)).rowcount)
