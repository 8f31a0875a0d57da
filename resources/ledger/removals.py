"""Which places are armed for deletion, and the copies that are on their way out of one.

    intended ──→ in_trash ──→ deleting ──→ deleted          each state is committed before what it names is done
        │           │  ↖─────────┘
        └───────────┴──→ returning ──→ put_back             no longer deletable: its files go back to their names
                             ↕
                           stuck                            they cannot: a person is asked, and each run tries again

A removal is `live` until it is deleted or put back, and a copy has one live removal at most. The files are those of the
scan; where each of them is (under its own name or in the trash) is never kept, but looked up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger import history, tasks
from resources.ledger.schema import armings, copies, evidence, files, removals, scans, task_scans
from resources.ledger.schema import tasks as task_table
from resources.ledger.steps import chunks
from resources.ledger.tasks import Task

INTENDED, IN_TRASH, DELETING, RETURNING = "intended", "in_trash", "deleting", "returning"
DELETED, PUT_BACK, STUCK = "deleted", "put_back", "stuck"
HELD_COPIES = ("present", "verified")  # states of copies whose files are there
LOOK, DELETE = "look", "delete"  # purposes of the tasks that pruning asks for


@dataclass(frozen=True)
class Arming:
    who: str
    why: str
    at: datetime


def armed(tx: Connection, beamline: str, place: str) -> Arming | None:
    """Who armed the place for deletion, and why; None: nothing may be deleted there."""
    row = tx.execute(
        sa.select(armings.c.who, armings.c.why, armings.c.at).where(
            armings.c.beamline == beamline, armings.c.place == place
        )
    ).first()
    return Arming(*row) if row else None


def arm(tx: Connection, beamline: str, place: str, who: str, why: str, now: datetime) -> bool:
    """Allow deletion in a place; False when it was armed already, which stays as it was."""
    if armed(tx, beamline, place) is not None:
        return False
    tx.execute(sa.insert(armings).values(beamline=beamline, place=place, who=who, why=why, at=now))
    history.record(tx, now, who, "armed", beamline=beamline, why=f"{place}: {why}")
    return True


def disarm(tx: Connection, beamline: str, place: str, who: str, why: str, now: datetime) -> bool:
    """Allow no deletion in a place any more; what is in its trash is put back. False when it was not armed."""
    where = (armings.c.beamline == beamline) & (armings.c.place == place)
    if not tx.execute(sa.delete(armings).where(where)).rowcount:
        return False
    history.record(tx, now, who, "disarmed", beamline=beamline, why=f"{place}: {why}")
    return True


# copies and what is known of them


@dataclass(frozen=True)
class Copy:
    id: int
    scan_id: int
    place: str
    root: str
    state: str


def _copies(tx: Connection, query: Any) -> list[Copy]:
    return [Copy(**row) for row in tx.execute(query).mappings()]


def _copy_columns() -> list[Any]:
    return [copies.c[name] for name in Copy.__dataclass_fields__]


def held(
    tx: Connection, beamline: str, place: str, noticed_before: datetime, after_scan: int, limit: int
) -> list[Copy]:
    """Copies in a place of scans that were noticed before then and that are not on their way out, by scan id."""
    leaving = sa.select(removals.c.copy_id).where(removals.c.copy_id == copies.c.id, removals.c.live.is_(True))
    found: list[Copy] = []
    for state in HELD_COPIES:  # one after the other: each reads its piece of the index in order, and stops early
        query = (
            sa.select(*_copy_columns())
            .join_from(copies, scans, scans.c.id == copies.c.scan_id)
            .where(copies.c.place == place, copies.c.state == state, copies.c.scan_id > after_scan)
            .where(scans.c.beamline == beamline, scans.c.noticed_at <= noticed_before, ~leaving.exists())
            .order_by(copies.c.scan_id)
            .limit(limit)
        )
        found += _copies(tx, query)
    return sorted(found, key=lambda copy: copy.scan_id)[:limit]


def copies_of(tx: Connection, scan_ids: Collection[int]) -> dict[int, dict[str, Copy]]:
    """scan id → place → its copy there."""
    out: dict[int, dict[str, Copy]] = {scan_id: {} for scan_id in scan_ids}
    for block in chunks(scan_ids):
        for copy in _copies(tx, sa.select(*_copy_columns()).where(copies.c.scan_id.in_(block))):
            out[copy.scan_id][copy.place] = copy
    return out


def evidence_of(tx: Connection, copy_ids: Collection[int]) -> dict[int, list[dict[str, Any]]]:
    """copy id → the rows of evidence for its files."""
    out: dict[int, list[dict[str, Any]]] = {copy_id: [] for copy_id in copy_ids}
    for block in chunks(copy_ids):
        for row in tx.execute(sa.select(evidence).where(evidence.c.copy_id.in_(block))).mappings():
            out[row["copy_id"]].append(dict(row))
    return out


def at_work(tx: Connection, scan_ids: Collection[int]) -> dict[int, list[Task]]:
    """scan id → its live tasks, those of pruning apart."""
    out: dict[int, list[Task]] = {}
    for block in chunks(scan_ids):
        query = (
            sa.select(task_scans.c.scan_id, task_table.c.id)
            .join_from(task_scans, task_table, task_table.c.id == task_scans.c.task_id)
            .where(task_scans.c.scan_id.in_(block), task_table.c.live.is_(True))
            .where(task_table.c.purpose.not_in([LOOK, DELETE]))
        )
        pairs = [(scan_id, task_id) for scan_id, task_id in tx.execute(query)]
        found = {task.id: task for task in tasks.many(tx, {task_id for _, task_id in pairs})}
        for scan_id, task_id in pairs:
            out.setdefault(scan_id, []).append(found[task_id])
    return out


def latest_looks(tx: Connection, asset: str, scan_ids: Collection[int]) -> dict[int, Task]:
    """scan id → the task that was asked last to look at a copy of it."""
    latest: dict[int, int] = {}
    for block in chunks(scan_ids):
        query = (
            sa.select(task_scans.c.scan_id, sa.func.max(task_table.c.id))
            .join_from(task_scans, task_table, task_table.c.id == task_scans.c.task_id)
            .where(task_scans.c.scan_id.in_(block), task_table.c.asset == asset, task_table.c.purpose == LOOK)
            .group_by(task_scans.c.scan_id)
        )
        latest |= {scan_id: task_id for scan_id, task_id in tx.execute(query)}
    found = {task.id: task for task in tasks.many(tx, set(latest.values()))}
    return {scan_id: found[task_id] for scan_id, task_id in latest.items()}


def shared(tx: Connection, beamline: str, place: str, scan_ids: Collection[int]) -> dict[int, list[tuple[str, str]]]:
    """scan id → (path, key of another scan) of the files that the other one's copy in the place consists of, too: the
    very same file, such as a companion of two scans."""
    mine: dict[str, list[Any]] = {}
    for block in chunks(scan_ids):
        for row in tx.execute(sa.select(files).where(files.c.scan_id.in_(block))).mappings():
            mine.setdefault(row["path"], []).append(row)
    twins: list[tuple[Any, Any]] = []
    for paths in chunks(mine):  # in two steps, so that no database thinks of beginning with all copies of the place
        for other in tx.execute(sa.select(files).where(files.c.path.in_(paths))).mappings():
            same = (other["bytes"], other["mtime"])
            for row in mine[other["path"]]:
                if other["scan_id"] != row["scan_id"] and (row["bytes"], row["mtime"]) == same:
                    twins.append((row, other))
    there: dict[int, str] = {}
    for block in chunks({other["scan_id"] for _, other in twins}):
        held_there = (copies.c.place == place) & copies.c.state.in_(HELD_COPIES) & (scans.c.beamline == beamline)
        query = sa.select(scans.c.id, scans.c.key).join_from(scans, copies, copies.c.scan_id == scans.c.id)
        there |= {i: key for i, key in tx.execute(query.where(scans.c.id.in_(block), held_there))}
    out: dict[int, list[tuple[str, str]]] = {}
    for row, other in twins:
        if other["scan_id"] in there:
            out.setdefault(row["scan_id"], []).append((row["path"], there[other["scan_id"]]))
    return out


# removals


@dataclass(frozen=True)
class Removal:
    id: int
    copy_id: int
    beamline: str
    place: str
    state: str
    live: bool
    trash: str
    who: str
    why: str
    task_id: int | None
    intended_at: datetime
    trashed_at: datetime | None
    ended_at: datetime | None
    note: str | None
    reported_at: datetime | None
    scan_id: int
    root: str


def _select() -> sa.Select[Any]:
    columns = [removals.c[name] for name in Removal.__dataclass_fields__ if name in removals.c]
    join = sa.join(removals, copies, copies.c.id == removals.c.copy_id)
    return sa.select(*columns, copies.c.scan_id, copies.c.root).select_from(join)


def _removals(tx: Connection, query: Any) -> list[Removal]:
    return [Removal(**row) for row in tx.execute(query).mappings()]


def get(tx: Connection, removal_id: int) -> Removal:
    return _removals(tx, _select().where(removals.c.id == removal_id))[0]


def live(tx: Connection, beamline: str, place: str) -> list[Removal]:
    """What is on its way out of a place, oldest first."""
    mine = (removals.c.beamline == beamline) & (removals.c.place == place) & removals.c.live.is_(True)
    return _removals(tx, _select().where(mine).order_by(removals.c.id))


def places(tx: Connection, beamline: str) -> list[str]:
    """The places that something is on its way out of, whatever today's spec says."""
    query = sa.select(removals.c.place).where(removals.c.beamline == beamline, removals.c.live.is_(True)).distinct()
    return sorted(tx.execute(query).scalars())


def of_scans(tx: Connection, scan_ids: Collection[int]) -> dict[int, dict[str, Removal]]:
    """scan id → place → its live removal there."""
    out: dict[int, dict[str, Removal]] = {}
    for block in chunks(scan_ids):
        where = copies.c.scan_id.in_(block) & removals.c.live.is_(True)
        for one in _removals(tx, _select().where(where)):
            out.setdefault(one.scan_id, {})[one.place] = one
    return out


def intend(
    tx: Connection, copy: Copy, beamline: str, trash: str, who: str, why: str, now: datetime
) -> int | None:  # fmt: skip
    """Say that the files of a copy are about to be moved to the trash; None when they are on their way already, or the
    copy is not there any more."""
    there = sa.select(copies.c.id).where(copies.c.id == copy.id, copies.c.state.in_(HELD_COPIES))
    leaving = sa.select(removals.c.id).where(removals.c.copy_id == copy.id, removals.c.live.is_(True))
    if tx.execute(there).first() is None or tx.execute(leaving).first() is not None:
        return None
    values = {"copy_id": copy.id, "beamline": beamline, "place": copy.place, "trash": trash, "who": who, "why": why}
    result = tx.execute(sa.insert(removals).values(state=INTENDED, live=True, intended_at=now, **values))
    _changed(tx, copy.scan_id, now)
    return int((result.inserted_primary_key or [0])[0])


def move(tx: Connection, removal: Removal, leaving: Sequence[str], state: str, now: datetime, **values: Any) -> bool:
    """Leave one of these states for `state`; False when somebody else has moved it on."""
    where = (removals.c.id == removal.id) & removals.c.state.in_(leaving)
    if not tx.execute(sa.update(removals).where(where).values(state=state, **values)).rowcount:
        return False
    _changed(tx, removal.scan_id, now)
    return True


def gone(tx: Connection, removal: Removal, now: datetime, note: str | None = None) -> bool:
    """Its files are not there any more: the removal is over and the copy is pruned."""
    over = {"live": False, "ended_at": now, "note": note}
    if not move(tx, removal, (IN_TRASH, DELETING), DELETED, now, **over):
        return False
    one = (copies.c.id == removal.copy_id) & copies.c.state.in_(HELD_COPIES)
    tx.execute(sa.update(copies).where(one).values(state="pruned", pruned_at=now))
    return True


def withdraw(tx: Connection, task: Task, unseen: bool, why: str, now: datetime) -> bool:
    """End a task that was never sent. unseen: it may have been, but its service has long not known it."""
    never = task_table.c.tried_at == task.tried_at if unseen else task_table.c.tried_at.is_(None)
    where = (task_table.c.id == task.id) & task_table.c.external_id.is_(None) & task_table.c.live.is_(True) & never
    values = {"live": False, "state": "cancelled", "reason": why, "ended_at": now}
    return bool(tx.execute(sa.update(task_table).where(where).values(**values)).rowcount)


def unreported(tx: Connection, beamline: str, limit: int) -> list[Removal]:
    """Copies that are gone without Dagster having been told."""
    deleted = removals.c.state == sa.literal_column(f"'{DELETED}'")  # no parameter, or the partial index is of no use
    mine = (removals.c.beamline == beamline) & deleted & removals.c.reported_at.is_(None)
    return _removals(tx, _select().where(mine).order_by(removals.c.id).limit(limit))


def reported(tx: Connection, removal: Removal, now: datetime) -> None:
    where = (removals.c.id == removal.id) & removals.c.reported_at.is_(None)
    tx.execute(sa.update(removals).where(where).values(reported_at=now))


def _changed(tx: Connection, scan_id: int, now: datetime) -> None:
    tx.execute(sa.update(scans).where(scans.c.id == scan_id).values(changed_at=now))
