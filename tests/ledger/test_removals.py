"""Removals, holds and armings in the ledger: states are left once, and what is asked is answered from an index."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from resources.ledger import holds, removals, scans, schema, tasks
from tests.ledger.conftest import NOW, Book

DAY = timedelta(days=1)


def intended(book: Book, scan_id: int) -> removals.Removal:
    with book.ledger.write() as tx:
        copy = removals.copies_of(tx, [scan_id])[scan_id]["dtn"]
        removal_id = removals.intend(tx, copy, "bl1", ".als-trash/d/h", "kim", "old", book.now)
        assert removal_id is not None
        return removals.get(tx, removal_id)


def move(book: Book, removal: removals.Removal, leaving: list[str], state: str, **values: Any) -> bool:
    with book.ledger.write() as tx:
        return removals.move(tx, removal, leaving, state, book.now, **values)


def test_a_copy_is_on_its_way_out_once_at_a_time(book: Book) -> None:
    scan_id = book.scan()
    first = intended(book, scan_id)
    with book.ledger.write() as tx:
        copy = removals.copies_of(tx, [scan_id])[scan_id]["dtn"]
        assert removals.intend(tx, copy, "bl1", "other", "kim", "old", book.now) is None
        assert removals.held(tx, "bl1", "dtn", book.now, 0, 10) == []
    with pytest.raises(sa.exc.IntegrityError), book.ledger.write() as tx:
        values = {"copy_id": copy.id, "beamline": "bl1", "place": "dtn", "trash": "t", "who": "k", "why": "w"}
        tx.execute(sa.insert(schema.removals).values(state="intended", live=True, intended_at=book.now, **values))
    assert move(book, first, [removals.INTENDED], removals.RETURNING)
    assert move(book, first, [removals.RETURNING], removals.PUT_BACK, live=False)
    assert intended(book, scan_id).id != first.id


def test_a_state_is_left_by_one_only(book: Book) -> None:
    removal = intended(book, book.scan())
    assert move(book, removal, [removals.INTENDED], removals.IN_TRASH, trashed_at=book.now)
    assert not move(book, removal, [removals.INTENDED], removals.RETURNING)
    with book.ledger.write() as tx:
        assert removals.gone(tx, removal, book.now)
        assert not removals.gone(tx, removal, book.now)
        assert removals.live(tx, "bl1", "dtn") == [] and removals.places(tx, "bl1") == []
        copy = removals.copies_of(tx, [removal.scan_id])[removal.scan_id]["dtn"]
        assert copy.state == "pruned" and scans.pruned_at(tx, removal.scan_id, "dtn") == NOW
        assert removals.intend(tx, copy, "bl1", "t", "kim", "old", book.now) is None, "it is gone"
        assert [one.id for one in removals.unreported(tx, "bl1", 10)] == [removal.id]
        removals.reported(tx, removal, book.now)
        assert removals.unreported(tx, "bl1", 10) == []


def test_the_copies_of_old_scans_are_found_page_by_page(book: Book) -> None:
    ids = [book.scan(f"{n}.h5") for n in range(5)]
    book.now += DAY
    young = book.scan("young.h5")
    with book.ledger.read() as tx:
        first = removals.held(tx, "bl1", "dtn", NOW, 0, 3)
        rest = removals.held(tx, "bl1", "dtn", NOW, first[-1].scan_id, 3)
        assert [copy.scan_id for copy in first + rest] == ids and young not in ids
        assert removals.held(tx, "bl1", "cfs", NOW, 0, 3) == [] and removals.held(tx, "bl2", "dtn", NOW, 0, 3) == []


def test_a_place_is_armed_once_and_who_did_it_is_kept(book: Book) -> None:
    with book.ledger.write() as tx:
        assert removals.armed(tx, "bl1", "dtn") is None
        assert removals.arm(tx, "bl1", "dtn", "kim", "agreed", book.now)
        assert not removals.arm(tx, "bl1", "dtn", "lee", "again", book.now)
        by = removals.armed(tx, "bl1", "dtn")
        assert by is not None and (by.who, by.why) == ("kim", "agreed")
        assert removals.armed(tx, "bl1", "cfs") is None and removals.armed(tx, "bl2", "dtn") is None
        assert removals.disarm(tx, "bl1", "dtn", "kim", "enough", book.now)
        assert not removals.disarm(tx, "bl1", "dtn", "kim", "enough", book.now)
        said = tx.execute(sa.select(schema.history.c.what, schema.history.c.why).order_by(schema.history.c.id)).all()
    assert [tuple(row) for row in said] == [("armed", "dtn: agreed"), ("disarmed", "dtn: enough")]


def test_holds_add_up_and_end_by_time_or_by_release(book: Book) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        scan = scans.get(tx, scan_id)
        holds.place(tx, scan, NOW + DAY, "kim", "short", NOW)
        holds.place(tx, scan, NOW + 9 * DAY, "lee", "long", NOW)
        assert [one.why for one in holds.of_scans(tx, [scan_id], NOW)[scan_id]] == ["long", "short"]
        assert [one.why for one in holds.of_scans(tx, [scan_id], NOW + DAY)[scan_id]] == ["long"]
        assert holds.of_scans(tx, [scan_id], NOW + 9 * DAY) == {}
        assert holds.release(tx, scan, "kim", None, NOW) == 2 and holds.release(tx, scan, "kim", None, NOW) == 0
        assert holds.of_scans(tx, [scan_id], NOW) == {}


def asked(book: Book, scan_id: int, key: str, purpose: str) -> tasks.Task:
    with book.ledger.write() as tx:
        task_id = tasks.ask(
            tx, book.now, beamline="bl1", asset="prune_dtn", purpose=purpose, system="globus", service="globus",
            proposed_key=key, request={}, attempt=1, scan_ids=[scan_id],
        )  # fmt: skip
        return tasks.get(tx, task_id)


def test_a_task_of_pruning_is_no_work_on_the_scan_and_the_latest_look_counts(book: Book) -> None:
    scan_id = book.scan()
    asked(book, scan_id, "k1", removals.LOOK)
    latest = asked(book, scan_id, "k2", removals.LOOK)
    asked(book, scan_id, "k3", removals.DELETE)
    work = asked(book, scan_id, "k4", "copy")
    with book.ledger.read() as tx:
        assert [task.id for task in removals.at_work(tx, [scan_id])[scan_id]] == [work.id]
        assert removals.latest_looks(tx, "prune_dtn", [scan_id])[scan_id].id == latest.id
        assert removals.latest_looks(tx, "prune_cfs", [scan_id]) == {}


def test_a_task_that_may_have_been_sent_is_not_withdrawn_as_one_that_was_not(book: Book) -> None:
    task = asked(book, book.scan(), "k1", removals.DELETE)
    with book.ledger.write() as tx:
        assert tasks.trying(tx, task, None, book.now)
        assert not removals.withdraw(tx, task, unseen=False, why="held", now=book.now)
        tried = tasks.get(tx, task.id)
        assert tried.live and removals.withdraw(tx, tried, unseen=True, why="held", now=book.now)
        assert not tasks.get(tx, task.id).live


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_what_pruning_asks_reads_an_index(book: Book) -> None:
    """Of millions of scans, most are pruned long ago."""
    statements: list[str] = []
    with book.ledger.read() as tx:
        sa.event.listen(tx.engine, "before_cursor_execute", lambda c, cu, s, p, ctx, m: statements.append(s))
        removals.held(tx, "bl1", "dtn", NOW, 0, 10)
        removals.live(tx, "bl1", "dtn")
        removals.unreported(tx, "bl1", 10)
        plans = [
            " ".join(str(row[-1]) for row in tx.exec_driver_sql(f"explain query plan {s.replace('?', '1')}"))
            for s in list(statements)
        ]
    assert all("ix_copies_place" in plan and "TEMP B-TREE" not in plan for plan in plans[:2]), plans[:2]
    assert "ix_removals_live_place" in plans[2], plans[2]
    assert "ix_removals_unreported" in plans[3], plans[3]
