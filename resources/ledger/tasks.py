"""What has been asked of facilities: the intent, committed before anything is sent, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger import steps
from resources.ledger.schema import scans, task_scans, tasks
from resources.tasks import TaskState, TaskStatus

INTENDED = "intended"


class Faster(Exception):
    """Another run has begun work for one of these scans."""


@dataclass(frozen=True)
class Task:
    id: int
    beamline: str
    asset: str
    purpose: str
    system: str
    service: str
    proposed_key: str
    key: str | None
    external_id: str | None
    request: dict[str, Any]
    script: str | None
    attempt: int
    state: str
    live: bool
    native: str | None
    reason: str | None
    code: str | None
    transient: bool | None
    detail: dict[str, Any] | None
    created_at: datetime
    tried_at: datetime | None
    submitted_at: datetime | None
    polled_at: datetime | None
    unknown_since: datetime | None
    ended_at: datetime | None


def _tasks(tx: Connection, query: Any) -> list[Task]:
    return [Task(**row) for row in tx.execute(query).mappings()]


def intend(tx: Connection, now: datetime, *, asset: str, scan_ids: Sequence[int], **asked: Any) -> int:
    """Write down what is about to be asked for (see `ask`), and put its steps in flight. All of them, or (Faster)
    none: then another run was faster for at least one, and the caller's transaction must not be committed."""
    task_id = ask(tx, now, asset=asset, scan_ids=scan_ids, **asked)
    if steps.start(tx, scan_ids, asset, task_id, now) != len(scan_ids):
        raise Faster("another run was faster")
    return task_id


def ask(
    tx: Connection,
    now: datetime,
    *,
    beamline: str,
    asset: str,
    purpose: str,
    system: str,
    service: str,
    proposed_key: str,
    request: dict[str, Any],
    attempt: int,
    scan_ids: Sequence[int],
) -> int:
    """Write down what is about to be asked for these scans, without a step that waits for it."""
    result = tx.execute(
        sa.insert(tasks).values(
            beamline=beamline,
            asset=asset,
            purpose=purpose,
            system=system,
            service=service,
            proposed_key=proposed_key,
            request=request,
            attempt=attempt,
            state=INTENDED,
            live=True,
            created_at=now,
        )
    )
    task_id = int((result.inserted_primary_key or [0])[0])
    tx.execute(sa.insert(task_scans), [{"task_id": task_id, "scan_id": s} for s in scan_ids])
    return task_id


def get(tx: Connection, task_id: int) -> Task:
    return _tasks(tx, sa.select(tasks).where(tasks.c.id == task_id))[0]


def many(tx: Connection, task_ids: Collection[int]) -> list[Task]:
    out: list[Task] = []
    for block in steps.chunks(sorted(task_ids)):
        out += _tasks(tx, sa.select(tasks).where(tasks.c.id.in_(block)))
    return out


def with_external_id(tx: Connection, service: str, ids: Collection[str]) -> set[str]:
    """Those of a service's ids that the ledger knows."""
    out: set[str] = set()
    for block in steps.chunks(list(ids)):
        query = sa.select(tasks.c.external_id).where(tasks.c.service == service, tasks.c.external_id.in_(block))
        out |= {str(found) for found in tx.execute(query).scalars()}
    return out


def live(tx: Connection, service: str) -> list[Task]:
    return _tasks(tx, sa.select(tasks).where(tasks.c.live.is_(True), tasks.c.service == service).order_by(tasks.c.id))


def of_scan(tx: Connection, scan_id: int) -> list[Task]:
    mine = sa.select(task_scans.c.task_id).where(task_scans.c.scan_id == scan_id)
    return _tasks(tx, sa.select(tasks).where(tasks.c.id.in_(mine)).order_by(tasks.c.id))


def tried(tx: Connection, asset: str, scan_ids: Collection[int]) -> set[int]:
    """Those of the scans for which a task of this asset has been sent, or may have been."""
    out: set[int] = set()
    for block in steps.chunks(scan_ids):
        query = (
            sa.select(task_scans.c.scan_id)
            .join_from(task_scans, tasks, tasks.c.id == task_scans.c.task_id)
            .where(task_scans.c.scan_id.in_(block), tasks.c.asset == asset, tasks.c.tried_at.is_not(None))
        )
        out |= set(tx.execute(query).scalars())
    return out


def scans_of(tx: Connection, task_id: int) -> list[tuple[int, str]]:
    """(scan id, key) of every scan that a task is for."""
    query = (
        sa.select(scans.c.id, scans.c.key)
        .join_from(task_scans, scans, task_scans.c.scan_id == scans.c.id)
        .where(task_scans.c.task_id == task_id)
        .order_by(scans.c.id)
    )
    return [(i, key) for i, key in tx.execute(query)]


def keep_key(tx: Connection, task_id: int, key: str) -> bool:
    """The idempotency key, once."""
    return bool(
        tx.execute(sa.update(tasks).where(tasks.c.id == task_id, tasks.c.key.is_(None)).values(key=key)).rowcount
    )


def trying(tx: Connection, task: Task, script: str | None, now: datetime) -> bool:
    """Say that a submission is about to be sent, with its batch script. Of two that read the same row, one may; none
    may when one of its scans has become export-controlled since."""
    seen = tasks.c.tried_at == task.tried_at if task.tried_at else tasks.c.tried_at.is_(None)
    where = (tasks.c.id == task.id) & tasks.c.external_id.is_(None) & tasks.c.live.is_(True) & seen & ~_held(task.id)
    return bool(tx.execute(sa.update(tasks).where(where).values(tried_at=now, script=script)).rowcount)


def held(tx: Connection, task_id: int) -> bool:
    """Has one of its scans become export-controlled since it was intended?"""
    return bool(tx.execute(sa.select(_held(task_id))).scalar())


def _held(task_id: int) -> sa.ColumnElement[bool]:
    query = (
        sa.select(scans.c.id)
        .join_from(task_scans, scans, task_scans.c.scan_id == scans.c.id)
        .where(task_scans.c.task_id == task_id, scans.c.restricted.is_not(None))
    )
    return query.correlate(None).exists()


def withdraw(tx: Connection, task: Task, why: str, now: datetime) -> bool:
    """Give up a task that was never sent; its steps are due again. False when somebody has begun to send it since."""
    seen = tasks.c.tried_at == task.tried_at if task.tried_at else tasks.c.tried_at.is_(None)
    where = (tasks.c.id == task.id) & tasks.c.external_id.is_(None) & tasks.c.live.is_(True) & seen
    values = {"state": str(TaskState.CANCELLED), "live": False, "reason": why, "ended_at": now}
    if not tx.execute(sa.update(tasks).where(where).values(**values)).rowcount:
        return False
    steps.withdraw(tx, task.id, task.asset, [i for i, _ in scans_of(tx, task.id)], why, now)
    return True


def submitted(tx: Connection, task_id: int, external_id: str, now: datetime) -> bool:
    """The service's id, once. A task that another process has meanwhile written down as refused stays ended."""
    where = (tasks.c.id == task_id) & tasks.c.external_id.is_(None)
    state = sa.case((tasks.c.live.is_(True), str(TaskState.QUEUED)), else_=tasks.c.state)
    values = {"external_id": external_id, "state": state, "submitted_at": now, "polled_at": now}
    return bool(tx.execute(sa.update(tasks).where(where).values(**values)).rowcount)


def refused(tx: Connection, task: Task, status: TaskStatus, now: datetime) -> bool:
    """The service will not have it. Nothing happens when another process has brought it there meanwhile."""
    there = sa.select(tasks.c.id).where(tasks.c.id == task.id, tasks.c.external_id.is_not(None))
    return tx.execute(there).first() is None and seen(tx, task, status, now)


def follow(tx: Connection, task: Task, external_id: str) -> bool:
    """Another execution of the same key holds the claim: that is the one to follow."""
    where = (tasks.c.id == task.id) & (tasks.c.external_id == task.external_id)
    return bool(tx.execute(sa.update(tasks).where(where).values(external_id=external_id)).rowcount)


def seen(tx: Connection, task: Task, status: TaskStatus, now: datetime) -> bool:
    """Write down what the service says of a live task; when it has ended, its steps land. True when it has ended."""
    values: dict[str, Any] = {
        "state": str(status.state),
        "live": status.state.live,
        "native": status.native,
        "reason": status.reason or None,
        "code": status.code or None,
        "transient": status.transient,
        "detail": dict(status.detail),
        "polled_at": now,
        "unknown_since": None,
    }
    if not status.state.live:
        values["ended_at"] = now
    where = (tasks.c.id == task.id) & tasks.c.live.is_(True)
    if not tx.execute(sa.update(tasks).where(where).values(**values)).rowcount:
        return False
    if not status.state.live:
        steps.land(tx, task.id, task.asset, [i for i, _ in scans_of(tx, task.id)], now)
    return not status.state.live


def unknown(tx: Connection, task: Task, now: datetime) -> datetime:
    """The service answered, but does not know the task; returns since when. That alone is not a failure."""
    since = min(task.unknown_since or now, now)
    where = (tasks.c.id == task.id) & tasks.c.live.is_(True)
    tx.execute(sa.update(tasks).where(where).values(unknown_since=since, polled_at=now))
    return since
