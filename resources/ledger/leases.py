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
NOBODY = ""


def request(tx: Connection, name: str, now: datetime, hold: timedelta) -> bool:
    """Take the lease for a run that is about to be requested, if nobody has it and its time has come.

    A lease that ran out was not given back: its holder ended without a word, or the request was lost. That counts as a
    run without progress, and the next one waits from then on.
    """
    row = tx.execute(sa.select(leases).where(leases.c.name == name)).mappings().first()
    if row is None:
        tx.execute(sa.insert(leases).values(name=name, holder=REQUESTED, expires_at=now + hold, idle_runs=0))
        return True
    idle, not_before = row["idle_runs"], row["not_before"]
    if row["holder"] != NOBODY:
        idle, not_before = idle + 1, row["expires_at"] + idle_wait(idle + 1)
    if row["expires_at"] > now or (not_before is not None and not_before > now):
        return False
    as_read = (leases.c.holder == row["holder"]) & (leases.c.expires_at == row["expires_at"])
    values = {"holder": REQUESTED, "expires_at": now + hold, "idle_runs": idle, "not_before": None}
    return bool(tx.execute(sa.update(leases).where(leases.c.name == name, as_read).values(**values)).rowcount)


def take_over(tx: Connection, name: str, holder: str, now: datetime, hold: timedelta) -> bool:
    """A run takes the lease that was requested for it, renews its own, or takes one that is free or has run out."""
    free = leases.c.holder.in_([REQUESTED, holder, NOBODY]) | (leases.c.expires_at <= now)
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
    not_before = now + idle_wait(idle) if idle else None
    values = {"holder": NOBODY, "expires_at": now, "idle_runs": idle, "not_before": not_before}
    tx.execute(sa.update(leases).where(leases.c.name == name, leases.c.holder == holder).values(**values))
    return idle


@dataclass(frozen=True)
class Pause:
    service: str
    until: datetime
    since: datetime
    failures: int
    reason: str
    person: bool = False  # a credential is no good: it does not pass by waiting


COLUMNS = (pauses.c.service, pauses.c.until, pauses.c.since, pauses.c.failures, pauses.c.reason,
           sa.func.coalesce(pauses.c.person, sa.false()))  # fmt: skip


def paused(tx: Connection, service: str, now: datetime) -> Pause | None:
    """The pause that is on for a service, or None. One that has run out lets the next caller try."""
    where = (pauses.c.service == service) & pauses.c.over.is_(False) & (pauses.c.until > now)
    row = tx.execute(sa.select(*COLUMNS).where(where)).first()
    return Pause(*row) if row else None


def all_pauses(tx: Connection) -> list[Pause]:
    """Of every service that has not answered since it was paused, also where the pause has run out."""
    query = sa.select(*COLUMNS).where(pauses.c.over.is_(False)).order_by(pauses.c.service)
    return [Pause(*row) for row in tx.execute(query)]


def pause(
    tx: Connection,
    service: str,
    reason: str,
    code: str,
    now: datetime,
    first_s: float,
    most_s: float,
    at_least: timedelta | None = None,
    person: bool = False,
) -> Pause:
    """A service did not answer: rest, twice as long each time. Failures while it rests already do not add up.

    A service that answers one kind of call and fails another fails again soon after it has answered: such failures
    add up too. They count from the beginning once it has been well for `most_s`.
    """
    row = tx.execute(sa.select(pauses).where(pauses.c.service == service)).mappings().first()
    if row and not row["over"] and row["until"] > now:
        return Pause(service, row["until"], row["since"], row["failures"], row["reason"], bool(row["person"]))
    failures, since = 1, now
    if row and not (row["over"] and now - row["until"] > timedelta(seconds=most_s)):
        failures = row["failures"] + 1
        since = now if row["over"] else row["since"]
    until = now + max(next_pause(failures, first_s, most_s), at_least or timedelta(0))
    values = {"until": until, "since": since, "failures": failures, "reason": reason, "code": code, "over": False}
    values["person"] = person
    if row:
        tx.execute(sa.update(pauses).where(pauses.c.service == service).values(**values))
    else:
        tx.execute(sa.insert(pauses).values(service=service, **values))
    return Pause(service, until, since, failures, reason, person)


def resume(tx: Connection, service: str) -> bool:
    """The service has answered; True when that ends a pause."""
    resting = (pauses.c.service == service) & pauses.c.over.is_(False)
    return bool(tx.execute(sa.update(pauses).where(resting).values(over=True)).rowcount)
