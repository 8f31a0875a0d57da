"""One asset of one scan: is it due, under way, done, failed?

    blocked ──→ due ──→ in_flight ──→ landed ──→ done        a task at a facility does it; landed: the task has ended,
                 │  ↖───────────────────┘  └──→ failed       its outcome is not collected yet
                 └──→ working ──→ done | failed | due        done here by a run that holds it until `next_try`

`next_try` says when a due step may be tried, until when a working one is held (a run that was killed lets go then),
and from when the run that shows a failure may be requested once more. `why` is the sentence that people see. A state is
left by one guarded statement; rowcount 0 means that somebody else was first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger.schema import scans, steps

BLOCKED, DUE, IN_FLIGHT, LANDED, WORKING = "blocked", "due", "in_flight", "landed", "working"
DONE, FAILED, NOT_APPLICABLE = "done", "failed", "not_applicable"
UNDER_WAY = (IN_FLIGHT, LANDED, WORKING)
IN_HAND = (LANDED, WORKING)  # what came of it can be written down; a step in flight waits for the end of its task
CHANGED_MEANWHILE = "the scan changed while this was being done"
CHUNK = 400


@dataclass(frozen=True)
class Step:
    scan_id: int
    key: str
    asset: str
    state: str
    attempt: int
    revision: int
    next_try: datetime | None
    why: str | None
    task_id: int | None
    asked_by: str | None
    done_at: datetime | None
    reported_at: datetime | None
    announced: bool


def chunks(values: Iterable[Any], size: int = CHUNK) -> Iterable[list[Any]]:
    block: list[Any] = []
    for value in values:
        block.append(value)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _select() -> sa.Select[Any]:
    return sa.select(
        steps.c.scan_id,
        scans.c.key,
        steps.c.asset,
        steps.c.state,
        steps.c.attempt,
        steps.c.revision,
        steps.c.next_try,
        steps.c.why,
        steps.c.task_id,
        steps.c.asked_by,
        steps.c.done_at,
        steps.c.reported_at,
        scans.c.announced_at.is_not(None).label("announced"),
    ).join_from(steps, scans, steps.c.scan_id == scans.c.id)


def _steps(rows: Iterable[Any]) -> list[Step]:
    return [Step(*row) for row in rows]


def of_keys(tx: Connection, beamline: str, asset: str, keys: Collection[str]) -> list[Step]:
    """The steps of one asset for these scans, in the order of their ids."""
    out: list[Step] = []
    for block in chunks(keys):
        where = (scans.c.beamline == beamline) & scans.c.key.in_(block) & (steps.c.asset == asset)
        out += _steps(tx.execute(_select().where(where).order_by(steps.c.scan_id)))
    return out


def of_scan(tx: Connection, scan_id: int) -> list[Step]:
    return of_scans(tx, [scan_id])


def of_scans(tx: Connection, scan_ids: Collection[int]) -> list[Step]:
    out: list[Step] = []
    for block in chunks(scan_ids):
        out += _steps(tx.execute(_select().where(steps.c.scan_id.in_(block)).order_by(steps.c.scan_id, steps.c.asset)))
    return out


def due(tx: Connection, beamline: str, asset: str, now: datetime, unreported_before: datetime, limit: int) -> list[str]:
    """Keys of the scans for which an automatic run has something to do, longest waiting first.

    That is: due or abandoned steps whose time has come, landed ones, and done ones that Dagster was not told of.
    """
    waiting: list[tuple[datetime, int]] = []
    for query in due_queries(beamline, asset, now, unreported_before, limit):
        waiting += [(since, scan_id) for scan_id, since in tx.execute(query)]
    ids = [scan_id for _, scan_id in sorted(waiting)[:limit]]
    keys: dict[int, str] = {}
    for block in chunks(ids):
        keys |= {i: key for i, key in tx.execute(sa.select(scans.c.id, scans.c.key).where(scans.c.id.in_(block)))}
    return [keys[i] for i in ids]


def due_queries(
    beamline: str, asset: str, now: datetime, unreported_before: datetime, limit: int
) -> list[sa.Select[Any]]:
    """(scan id, waiting since) of at most `limit` each; every one reads a piece of an index, in its order."""
    mine = (steps.c.beamline == beamline) & (steps.c.asset == asset)
    queries = [
        sa.select(steps.c.scan_id, steps.c.next_try)
        .where(mine, steps.c.state == state, steps.c.next_try <= now)
        .order_by(steps.c.next_try)
        .limit(limit)
        for state in (LANDED, DUE, WORKING)
    ]
    unreported = (steps.c.state == DONE) & steps.c.reported_at.is_(None) & (steps.c.done_at <= unreported_before)
    queries.append(
        sa.select(steps.c.scan_id, steps.c.done_at).where(mine, unreported).order_by(steps.c.done_at).limit(limit)
    )
    return queries


def to_redden(tx: Connection, beamline: str, asset: str, now: datetime, limit: int) -> list[tuple[int, str]]:
    """(scan id, key) of failed scans that Dagster has as partitions and does not show as failed yet."""
    query = (
        sa.select(steps.c.scan_id, scans.c.key)
        .join_from(steps, scans, steps.c.scan_id == scans.c.id)
        .where(steps.c.beamline == beamline, steps.c.asset == asset, steps.c.state == FAILED)
        .where(steps.c.reported_at.is_(None), scans.c.announced_at.is_not(None), _may_be_shown(now))
        .limit(limit)
    )
    return [(scan_id, key) for scan_id, key in tx.execute(query)]


def reddening(tx: Connection, scan_id: int, asset: str, until: datetime, now: datetime) -> bool:
    """A run that shows the failure is about to be requested. Of two that want to, one may; if nothing comes of it,
    somebody may again after `until`."""
    unreported = steps.c.reported_at.is_(None)
    return bool(_move(tx, [scan_id], asset, [FAILED], now, unreported, _may_be_shown(now), next_try=until))


def _may_be_shown(now: datetime) -> sa.ColumnElement[bool]:
    return steps.c.next_try.is_(None) | (steps.c.next_try <= now)


@dataclass(frozen=True)
class First:
    """A step in its first state."""

    scan_id: int
    beamline: str
    asset: str
    state: str
    why: str | None = None


def create(tx: Connection, first: Sequence[First], now: datetime) -> None:
    """Steps that are not there yet, as the caller has seen in the same transaction."""
    for block in chunks(first):
        values = [
            {
                "scan_id": step.scan_id,
                "asset": step.asset,
                "beamline": step.beamline,
                "state": step.state,
                "attempt": 1,
                "revision": 1,
                "dirty": False,
                "why": step.why,
                "next_try": now if step.state == DUE else None,
                "done_at": now if step.state == DONE else None,
                "changed_at": now,
            }
            for step in block
        ]
        tx.execute(sa.insert(steps), values)
        _touch(tx, sorted({step.scan_id for step in block}), now)


def _move(
    tx: Connection,
    scan_ids: Sequence[int],
    asset: str,
    leaving: Collection[str],
    now: datetime,
    *conditions: sa.ColumnElement[bool],
    **values: Any,
) -> int:
    """Change those of the steps that are in one of the states `leaving`; returns how many did."""
    count = 0
    for block in chunks(scan_ids):
        where = steps.c.scan_id.in_(block) & (steps.c.asset == asset) & steps.c.state.in_(leaving)
        result = tx.execute(sa.update(steps).where(where, *conditions).values(changed_at=now, **values))
        if result.rowcount:
            count += result.rowcount
            _touch(tx, block, now)
    return count


def _touch(tx: Connection, scan_ids: Sequence[int], now: datetime) -> None:
    tx.execute(sa.update(scans).where(scans.c.id.in_(scan_ids)).values(changed_at=now))


def unblock(tx: Connection, scan_id: int, asset: str, now: datetime) -> bool:
    """blocked (or not applicable until today's spec) → due."""
    return bool(_move(tx, [scan_id], asset, [BLOCKED, NOT_APPLICABLE], now, state=DUE, next_try=now, why=None))


def block(tx: Connection, scan_id: int, asset: str, why: str, now: datetime, leaving: str = BLOCKED) -> bool:
    """→ blocked, for this reason; one that is blocked already has its reason brought up to date."""
    news = steps.c.why.is_distinct_from(why) | (steps.c.state != BLOCKED)
    return bool(_move(tx, [scan_id], asset, [leaving], now, news, state=BLOCKED, why=why, next_try=None))


def drop(
    tx: Connection, scan_id: int, asset: str, why: str, now: datetime, leaving: Collection[str] = (BLOCKED,)
) -> bool:
    """blocked → not applicable: today's spec does not want it of this scan."""
    return bool(_move(tx, [scan_id], asset, leaving, now, state=NOT_APPLICABLE, why=why, next_try=None))


def note(tx: Connection, scan_id: int, asset: str, why: str, now: datetime) -> bool:
    """What people are to see of a step that is done."""
    return bool(_move(tx, [scan_id], asset, [DONE], now, why=why))


def hold_back(tx: Connection, scan_id: int, asset: str, why: str, now: datetime) -> bool:
    """due (or abandoned) → blocked: what was to be done next may not be done."""
    idle = (steps.c.state == DUE) | (steps.c.next_try <= now)
    return bool(_move(tx, [scan_id], asset, [DUE, WORKING], now, idle, state=BLOCKED, why=why, next_try=None))


def withdraw(tx: Connection, task_id: int, asset: str, scan_ids: Sequence[int], why: str, now: datetime) -> int:
    """in_flight → due, the same attempt: its task was never sent."""
    mine = steps.c.task_id == task_id
    values: dict[str, Any] = {"state": DUE, "task_id": None, "next_try": now, "why": why}
    return _move(tx, scan_ids, asset, [IN_FLIGHT], now, mine, **values)


def retry_now(tx: Connection, scan_id: int, asset: str, now: datetime) -> bool:
    """due later, or failed → due now: what stood in the way has been looked at."""
    values: dict[str, Any] = {"state": DUE, "next_try": now, "attempt": 1, "reported_at": None}
    return bool(_move(tx, [scan_id], asset, [DUE, FAILED], now, **values))


def _may_leave() -> sa.ColumnElement[bool]:
    """Export control does not hold the scan: whatever else goes wrong, nothing of one that it holds is begun."""
    held = sa.select(scans.c.id).where(scans.c.id == steps.c.scan_id, scans.c.restricted.is_not(None))
    return ~held.exists()


def start(tx: Connection, scan_ids: Sequence[int], asset: str, task_id: int, now: datetime) -> int:
    """due (or abandoned) → in_flight with this task. The caller rolls back unless every one of them came along."""
    values = {"state": IN_FLIGHT, "task_id": task_id, "next_try": None, "why": None, "dirty": False}
    return _move(tx, scan_ids, asset, [DUE, WORKING], now, steps.c.next_try <= now, _may_leave(), **values)


def claim(tx: Connection, scan_id: int, asset: str, until: datetime, now: datetime) -> bool:
    """due (or abandoned) → working, until then ours alone."""
    values = {"state": WORKING, "next_try": until, "why": None, "dirty": False}
    return bool(_move(tx, [scan_id], asset, [DUE, WORKING], now, steps.c.next_try <= now, _may_leave(), **values))


def land(tx: Connection, task_id: int, asset: str, scan_ids: Sequence[int], now: datetime) -> int:
    """in_flight → landed: the task has ended, what came of it is to be collected."""
    mine = steps.c.task_id == task_id
    return _move(tx, scan_ids, asset, [IN_FLIGHT], now, mine, state=LANDED, next_try=now)


def put_off(tx: Connection, scan_ids: Sequence[int], asset: str, until: datetime, why: str, now: datetime) -> int:
    """Not now, and not its fault: no attempt is used up (an outage, a full queue)."""
    return _move(tx, scan_ids, asset, [DUE, WORKING], now, state=DUE, next_try=until, why=why)


def unchanged(tx: Connection, step: Step, now: datetime) -> bool:
    """Is the step still as it was read? Holds it so until the transaction ends: what came of a step is written down
    only by whoever it belonged to, never by a run that was overtaken."""
    same: tuple[sa.ColumnElement[bool], ...] = (
        steps.c.attempt == step.attempt,
        steps.c.task_id.is_not_distinct_from(step.task_id),
    )
    if step.state == WORKING:  # held by whoever claimed it until then
        same += (steps.c.next_try == step.next_try,)
    return bool(_move(tx, [step.scan_id], step.asset, [step.state], now, *same))


def look_again(tx: Connection, scan_id: int, asset: str, at: datetime, why: str, now: datetime) -> bool:
    """landed → landed, to be read once more at `at`: reading it met a bug, and the task need not be done again."""
    return bool(_move(tx, [scan_id], asset, [LANDED], now, next_try=at, why=why, attempt=steps.c.attempt + 1))


def put_off_landed(
    tx: Connection, scan_ids: Sequence[int], asset: str, until: datetime, why: str, now: datetime
) -> int:
    """What came of the task cannot be read now; it stays landed and is looked at again then."""
    return _move(tx, scan_ids, asset, [LANDED], now, next_try=until, why=why)


def finish(tx: Connection, scan_id: int, asset: str, now: datetime, why: str | None = None) -> bool:
    """In hand → done; or due once more, when the scan changed while it was being done."""
    values: dict[str, Any] = {"next_try": None, "task_id": None, "why": why}
    values |= {"done_at": now, "reported_at": None, "attempt": 1}
    moved = _move(tx, [scan_id], asset, IN_HAND, now, steps.c.dirty.is_(False), state=DONE, **values)
    if moved:
        return True
    values |= {"state": DUE, "next_try": now, "why": CHANGED_MEANWHILE, "dirty": False}
    return bool(_move(tx, [scan_id], asset, IN_HAND, now, **values))


def try_again(tx: Connection, scan_id: int, asset: str, at: datetime, why: str, now: datetime) -> bool:
    """In hand (or due, when it could not be begun) → due at `at`, the next attempt."""
    values = {"state": DUE, "next_try": at, "why": why, "task_id": None, "attempt": steps.c.attempt + 1}
    return bool(_move(tx, [scan_id], asset, (*IN_HAND, DUE), now, **values))


def go_on(tx: Connection, scan_ids: Sequence[int], asset: str, now: datetime, why: str | None = None) -> int:
    """In hand → due now, the same attempt: a preparing task has ended and the next part of the step can begin."""
    return _move(tx, scan_ids, asset, IN_HAND, now, state=DUE, next_try=now, why=why, task_id=None)


def fail(tx: Connection, scan_id: int, asset: str, why: str, now: datetime) -> bool:
    """In hand (or due, when it could not be begun) → failed, for a person to look at; or due once more, when the scan
    changed meanwhile: what failed was another one."""
    values: dict[str, Any] = {"next_try": None, "why": why, "task_id": None, "reported_at": None}
    unchanged = steps.c.dirty.is_(False)
    if _move(tx, [scan_id], asset, (*IN_HAND, DUE), now, unchanged, state=FAILED, **values):
        return True
    values |= {"state": DUE, "next_try": now, "why": CHANGED_MEANWHILE, "attempt": 1, "dirty": False}
    return bool(_move(tx, [scan_id], asset, (*IN_HAND, DUE), now, **values))


def do_again(tx: Connection, scan_id: int, asset: str, why: str, now: datetime) -> bool:
    """A finished step is due once more, because the scan has changed; one under way is marked so."""
    values = {"state": DUE, "next_try": now, "why": why, "attempt": 1, "reported_at": None}
    if _move(tx, [scan_id], asset, [DONE, FAILED], now, **values):
        return True
    return bool(_move(tx, [scan_id], asset, UNDER_WAY, now, dirty=True))


def ask(tx: Connection, scan_ids: Sequence[int], asset: str, run_id: str, now: datetime) -> int:
    """A person wants it (again): done → due as a new revision, failed → due with fresh attempts, waiting → now.

    Asking twice from the same run is asking once.
    """
    new = steps.c.asked_by.is_distinct_from(run_id)
    common = {"asked_by": run_id, "next_try": now, "attempt": 1, "reported_at": None}
    count = _move(
        tx, scan_ids, asset, [DONE], now, new, state=DUE, revision=steps.c.revision + 1, why="asked for again", **common
    )
    count += _move(tx, scan_ids, asset, [FAILED, NOT_APPLICABLE], now, new, state=DUE, why="asked for", **common)
    count += _move(tx, scan_ids, asset, [DUE], now, new, asked_by=run_id, next_try=now)
    # what is under way serves the request: asked once more for it (a run that was started again) it is not done anew
    _move(tx, scan_ids, asset, UNDER_WAY, now, new, asked_by=run_id)
    return count


def reported(tx: Connection, scan_ids: Sequence[int], asset: str, now: datetime) -> None:
    """Dagster has been told of the present state of these steps."""
    for block in chunks(scan_ids):
        where = steps.c.scan_id.in_(block) & (steps.c.asset == asset) & steps.c.state.in_([DONE, FAILED])
        tx.execute(sa.update(steps).where(where, steps.c.reported_at.is_(None)).values(reported_at=now))


def counts(tx: Connection, beamline: str) -> dict[tuple[str, str], int]:
    """(asset, state) -> how many scans."""
    query = (
        sa.select(steps.c.asset, steps.c.state, sa.func.count())
        .where(steps.c.beamline == beamline)
        .group_by(steps.c.asset, steps.c.state)
    )
    return {(asset, state): n for asset, state, n in tx.execute(query)}
