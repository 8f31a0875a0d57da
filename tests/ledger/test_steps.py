"""Steps: which states each transition leaves, which it must not touch, and what the sensors find."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from resources.ledger import schema, steps, tasks
from resources.ledger.steps import BLOCKED, DONE, DUE, FAILED, IN_FLIGHT, LANDED, NOT_APPLICABLE, WORKING
from tests.counted import calls
from tests.ledger.conftest import NOW, SECOND

ALL = {BLOCKED, DUE, IN_FLIGHT, LANDED, WORKING, DONE, FAILED, NOT_APPLICABLE}
ASSET = "raw_at_cfs"
LATER = NOW + 60 * SECOND


def task_for(book: Any, *scan_ids: int, key: str = "k1") -> int:
    """A task in the ledger, without a step."""
    with book.ledger.write() as tx:
        result = tx.execute(
            sa.insert(schema.tasks).values(
                beamline="bl1", asset=ASSET, purpose="copy", system="globus", service="globus", proposed_key=key,
                request={}, attempt=1, state="intended", live=True, created_at=NOW,
            )
        )  # fmt: skip
        task_id = int(result.inserted_primary_key[0])
        tx.execute(sa.insert(schema.task_scans), [{"task_id": task_id, "scan_id": s} for s in scan_ids])
    return task_id


# name -> (the call, {state that it leaves: state that follows})
TRANSITIONS: dict[str, tuple[Callable[[Any, int, int], Any], dict[str, str]]] = {
    "unblock": (lambda tx, s, t: steps.unblock(tx, s, ASSET, NOW), {BLOCKED: DUE, NOT_APPLICABLE: DUE}),
    "block": (lambda tx, s, t: steps.block(tx, s, ASSET, "news", NOW), {BLOCKED: BLOCKED}),
    "drop": (lambda tx, s, t: steps.drop(tx, s, ASSET, "news", NOW), {BLOCKED: NOT_APPLICABLE}),
    "start": (lambda tx, s, t: steps.start(tx, [s], ASSET, t, NOW), {DUE: IN_FLIGHT, WORKING: IN_FLIGHT}),
    "claim": (lambda tx, s, t: steps.claim(tx, s, ASSET, LATER, NOW), {DUE: WORKING, WORKING: WORKING}),
    "land": (lambda tx, s, t: steps.land(tx, t, ASSET, [s], NOW), {IN_FLIGHT: LANDED}),
    "put_off": (lambda tx, s, t: steps.put_off(tx, [s], ASSET, LATER, "down", NOW), {DUE: DUE, WORKING: DUE}),
    "put_off_landed": (lambda tx, s, t: steps.put_off_landed(tx, [s], ASSET, LATER, "down", NOW), {LANDED: LANDED}),
    "look_again": (lambda tx, s, t: steps.look_again(tx, s, ASSET, LATER, "bug", NOW), {LANDED: LANDED}),
    "finish": (lambda tx, s, t: steps.finish(tx, s, ASSET, NOW), {LANDED: DONE, WORKING: DONE}),
    "try_again": (
        lambda tx, s, t: steps.try_again(tx, s, ASSET, LATER, "lost", NOW),
        {LANDED: DUE, WORKING: DUE, DUE: DUE},
    ),
    "go_on": (lambda tx, s, t: steps.go_on(tx, [s], ASSET, NOW), {LANDED: DUE, WORKING: DUE}),
    "fail": (lambda tx, s, t: steps.fail(tx, s, ASSET, "bad", NOW), {LANDED: FAILED, WORKING: FAILED, DUE: FAILED}),
    "do_again": (
        lambda tx, s, t: steps.do_again(tx, s, ASSET, "changed", NOW),
        {DONE: DUE, FAILED: DUE, IN_FLIGHT: IN_FLIGHT, LANDED: LANDED, WORKING: WORKING},
    ),
    "ask": (
        lambda tx, s, t: steps.ask(tx, [s], ASSET, "run", NOW),
        {DONE: DUE, FAILED: DUE, NOT_APPLICABLE: DUE, DUE: DUE},
    ),
    "reddening": (lambda tx, s, t: steps.reddening(tx, s, ASSET, LATER, NOW), {FAILED: FAILED}),
}


@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_transition_leaves_its_states_and_touches_no_other(book: Any, name: str) -> None:
    call, leaves = TRANSITIONS[name]
    scan_id = book.scan()
    task_id = task_for(book, scan_id)
    for state in sorted(ALL):
        book.put(scan_id, state=state, task_id=task_id, next_try=NOW, reported_at=None, dirty=False, asked_by=None)
        before = book.raw(scan_id)
        with book.ledger.write() as tx:
            moved = call(tx, scan_id, task_id)
        after = book.raw(scan_id)
        if state in leaves:
            assert moved and after["state"] == leaves[state], state
            if state != leaves[state] or name == "do_again":
                assert after != before
        else:
            if name == "ask" and state in steps.UNDER_WAY:  # what is under way serves the request
                before |= {"asked_by": "run", "changed_at": after["changed_at"]}
            assert not moved and after == before, state


@pytest.mark.parametrize("name", ["start", "claim"])
@pytest.mark.parametrize("state", [DUE, WORKING])
def test_nothing_is_begun_before_its_time(book: Any, name: str, state: str) -> None:
    scan_id = book.scan()
    task_id = task_for(book, scan_id)
    book.put(scan_id, state=state, next_try=NOW + SECOND)
    with book.ledger.write() as tx:
        assert not TRANSITIONS[name][0](tx, scan_id, task_id)


def test_of_two_that_claim_a_step_one_gets_it_until_its_hold_runs_out(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        assert steps.claim(tx, scan_id, ASSET, NOW + 60 * SECOND, NOW)
        assert not steps.claim(tx, scan_id, ASSET, NOW + 90 * SECOND, NOW + 59 * SECOND)
        assert steps.claim(tx, scan_id, ASSET, NOW + 120 * SECOND, NOW + 60 * SECOND)


def test_only_the_task_of_a_step_can_land_it(book: Any) -> None:
    scan_id = book.scan()
    mine, other = task_for(book, scan_id), task_for(book, scan_id, key="k2")
    book.put(scan_id, state=IN_FLIGHT, task_id=mine)
    with book.ledger.write() as tx:
        assert steps.land(tx, other, ASSET, [scan_id], NOW) == 0
        assert steps.land(tx, mine, ASSET, [scan_id], NOW) == 1


def test_a_change_in_the_middle_of_the_work_is_not_lost(book: Any) -> None:
    scan_id = book.scan()
    book.put(scan_id, state=DUE, next_try=NOW)
    with book.ledger.write() as tx:
        steps.claim(tx, scan_id, ASSET, LATER, NOW)
        assert steps.do_again(tx, scan_id, ASSET, "a result came", NOW)
        assert steps.finish(tx, scan_id, ASSET, NOW)
    step = book.step(scan_id)
    assert (step.state, step.next_try, step.why) == (DUE, NOW, steps.CHANGED_MEANWHILE)
    with book.ledger.write() as tx:
        steps.claim(tx, scan_id, ASSET, LATER, NOW)
        assert steps.finish(tx, scan_id, ASSET, NOW)
    assert book.step(scan_id).state == DONE, "once more, and no more"


def test_a_change_in_flight_is_not_lost_when_the_task_fails_for_good(book: Any) -> None:
    scan_id = book.scan()
    task_id = task_for(book, scan_id)
    book.put(scan_id, state=IN_FLIGHT, task_id=task_id, attempt=4)
    with book.ledger.write() as tx:
        steps.do_again(tx, scan_id, ASSET, "a companion came", NOW)
        steps.land(tx, task_id, ASSET, [scan_id], NOW)
        assert steps.fail(tx, scan_id, ASSET, "file not found", NOW)
    step = book.step(scan_id)
    assert (step.state, step.attempt, step.task_id) == (DUE, 1, None)


def test_a_step_read_before_it_was_overtaken_is_not_unchanged(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        steps.claim(tx, scan_id, ASSET, LATER, NOW)
    mine = book.step(scan_id)
    with book.ledger.write() as tx:
        assert steps.unchanged(tx, mine, NOW)
        steps.claim(tx, scan_id, ASSET, LATER + SECOND, LATER)  # somebody took it over, since it looked abandoned
        assert not steps.unchanged(tx, mine, LATER)


def test_attempts_are_counted_and_fresh_ones_given_when_a_person_asks(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        for _ in range(2):
            steps.try_again(tx, scan_id, ASSET, NOW, "lost", NOW)
        steps.fail(tx, scan_id, ASSET, "lost", NOW)
    assert book.step(scan_id).attempt == 3
    with book.ledger.write() as tx:
        assert steps.ask(tx, [scan_id], ASSET, "run-1", NOW) == 1
    step = book.step(scan_id)
    assert (step.state, step.attempt, step.revision) == (DUE, 1, 1), "what failed has no revision to keep"


def test_asking_for_what_is_done_makes_a_new_revision_and_asking_twice_from_one_run_only_one(book: Any) -> None:
    scan_id = book.scan()
    for expected, run in ((2, "run-1"), (2, "run-1"), (3, "run-2")):
        book.put(scan_id, state=DONE)
        with book.ledger.write() as tx:
            assert steps.ask(tx, [scan_id], ASSET, run, NOW) == (expected != book.step(scan_id).revision)
        assert book.step(scan_id).revision == expected


def test_asking_for_what_waits_does_not_wait_any_longer(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        steps.put_off(tx, [scan_id], ASSET, LATER, "the service is down", NOW)
        assert steps.ask(tx, [scan_id], ASSET, "run-1", NOW) == 1
        assert steps.claim(tx, scan_id, ASSET, LATER, NOW)


def test_asking_for_many_scans_counts_those_for_which_it_is_news(book: Any) -> None:
    ids = [book.scan(f"{n}.h5") for n in range(3)]
    book.put(ids[0], state=DONE)
    book.put(ids[1], state=WORKING, next_try=LATER)
    with book.ledger.write() as tx:
        assert steps.ask(tx, ids, ASSET, "run-1", NOW) == 2


# what the sensors ask


def due(book: Any, limit: int = 500, now: Any = NOW) -> list[str]:
    with book.ledger.read() as tx:
        return steps.due(tx, "bl1", ASSET, now, now - 60 * SECOND, limit)


def test_due_is_what_waits_for_an_automatic_run_the_longest_waiting_first(book: Any) -> None:
    states = {
        "landed.h5": {"state": LANDED, "next_try": NOW - 2 * SECOND},
        "due.h5": {"state": DUE, "next_try": NOW - 5 * SECOND},
        "abandoned.h5": {"state": WORKING, "next_try": NOW},
        "untold.h5": {"state": DONE, "done_at": NOW - 90 * SECOND, "next_try": None},
        "told.h5": {"state": DONE, "done_at": NOW - 90 * SECOND, "next_try": None, "reported_at": NOW},
        "just done.h5": {"state": DONE, "done_at": NOW - SECOND, "next_try": None},
        "put off.h5": {"state": DUE, "next_try": NOW + SECOND},
        "read later.h5": {"state": LANDED, "next_try": NOW + SECOND},
        "held.h5": {"state": WORKING, "next_try": NOW + SECOND},
        "blocked.h5": {"state": BLOCKED, "next_try": None},
        "failed.h5": {"state": FAILED, "next_try": None},
        "in flight.h5": {"state": IN_FLIGHT, "next_try": None},
    }
    for path, values in states.items():
        book.put(book.scan(path), **values)
    assert due(book) == ["untold.h5", "due.h5", "landed.h5", "abandoned.h5"]
    assert due(book, limit=2) == ["untold.h5", "due.h5"]


def test_a_flood_of_what_is_due_does_not_keep_what_was_done_before_from_being_told(book: Any) -> None:
    for n in range(6):
        book.put(book.scan(f"{n}.h5"), state=DUE, next_try=NOW - timedelta(seconds=10 - n))
    book.put(book.scan("untold.h5"), state=DONE, next_try=None, done_at=NOW - timedelta(minutes=5))
    assert "untold.h5" in due(book, limit=3)


def test_a_step_is_reported_once_and_anew_after_it_was_done_again(book: Any) -> None:
    scan_id = book.scan()
    book.done(scan_id, ASSET)
    with book.ledger.write() as tx:
        steps.reported(tx, [scan_id], ASSET, NOW)
        steps.reported(tx, [scan_id], ASSET, LATER)
    assert book.step(scan_id).reported_at == NOW
    with book.ledger.write() as tx:
        steps.do_again(tx, scan_id, ASSET, "changed", NOW)
        steps.reported(tx, [scan_id], ASSET, LATER)
    assert book.step(scan_id).reported_at is None, "a step that is due has nothing to tell"


def redden(book: Any, now: Any = NOW) -> list[str]:
    with book.ledger.write() as tx:
        found = steps.to_redden(tx, "bl1", ASSET, now, 5)
        return [key for i, key in found if steps.reddening(tx, i, ASSET, now + 60 * SECOND, now)]


def test_a_failure_is_shown_once_dagster_has_the_partition_and_once_only(book: Any) -> None:
    scan_id = book.scan()
    book.put(scan_id, state=FAILED, next_try=None)
    assert redden(book) == [], "not announced yet"
    with book.ledger.write() as tx:
        tx.execute(sa.update(schema.scans).values(announced_at=NOW))
    assert redden(book) == ["a.h5"]
    assert redden(book) == [], "its run is on its way"
    assert redden(book, NOW + 60 * SECOND) == ["a.h5"], "that run was lost"
    with book.ledger.write() as tx:
        steps.reported(tx, [scan_id], ASSET, NOW)
    assert redden(book, NOW + 600 * SECOND) == []


def test_failures_that_cannot_be_shown_keep_no_other_from_it(book: Any) -> None:
    for n in range(12):
        book.put(book.scan(f"{n:02}.h5"), state=FAILED, next_try=None)
    with book.ledger.write() as tx:
        tx.execute(sa.update(schema.scans).values(announced_at=NOW))
    assert len({*redden(book), *redden(book), *redden(book)}) == 12


@pytest.fixture
def filled(book: Any) -> Any:
    """50,000 scans that are done and told of, and one that is due. (Fewer on PostgreSQL, which takes them slowly.)"""
    first = book.scan("due.h5")
    count = 50_000 if book.ledger.engine.dialect.name == "sqlite" else 10_000
    with book.ledger.write() as tx:
        rows = [
            {"beamline": "bl1", "key": f"{n}", "hash": f"{n}", "path": f"{n}", "missing": [], "noticed_at": NOW,
             "announced_at": NOW, "changed_at": NOW, "id": first + 1 + n}
            for n in range(count)
        ]  # fmt: skip
        tx.execute(sa.insert(schema.scans), rows)
        done = {
            "asset": ASSET, "beamline": "bl1", "state": DONE, "attempt": 1, "revision": 1, "dirty": False,
            "done_at": NOW - timedelta(days=1), "reported_at": NOW, "changed_at": NOW,
        }  # fmt: skip
        tx.execute(sa.insert(schema.steps), [{**done, "scan_id": row["id"]} for row in rows])
    with book.ledger.engine.connect() as connection:
        connection.exec_driver_sql("analyze")
        connection.commit()
    return book


def plans(book: Any, *queries: Any) -> list[str]:
    out = []
    with book.ledger.read() as tx:
        for query in queries:
            compiled = query.compile(book.ledger.engine, compile_kwargs={"render_postcompile": True})
            command = "explain query plan " if book.ledger.engine.dialect.name == "sqlite" else "explain "
            rows = tx.exec_driver_sql(command + str(compiled), compiled_parameters(compiled)).all()
            out.append(" ".join(str(row[-1]) for row in rows))
    return out


def compiled_parameters(compiled: Any) -> Any:
    values = compiled.construct_params()
    processors = compiled._bind_processors
    values = {k: processors[k](v) if k in processors else v for k, v in values.items()}
    return tuple(values[k] for k in compiled.positiontup) if compiled.positional else values


def test_what_sensors_ask_reads_an_index_and_costs_no_more_for_50_000_done_scans(filled: Any) -> None:
    book = filled
    for plan in plans(book, *steps.due_queries("bl1", ASSET, NOW, NOW, 500)):
        assert "ix_steps_due" in plan or "ix_steps_unreported" in plan, plan
        assert "TEMP B-TREE" not in plan, "its order is that of the index"
    assert due(book) == ["due.h5"] and redden(book) == []
    assert (cost := calls(lambda: (due(book), redden(book)))) < 6000, cost  # 3000 when this was written
    live = sa.select(schema.tasks).where(schema.tasks.c.live.is_(True), schema.tasks.c.service == "globus")
    unannounced = (
        sa.select(schema.scans.c.id)
        .where(schema.scans.c.beamline == "bl1", schema.scans.c.announced_at.is_(None))
        .order_by(schema.scans.c.id)
    )
    if book.ledger.engine.dialect.name == "sqlite":  # PostgreSQL rightly reads an empty table as it is
        assert ["ix_tasks_live" in plan for plan in plans(book, live)] == [True]
    assert ["ix_scans_unannounced" in plan for plan in plans(book, unannounced)] == [True]


def test_counts_say_how_many_scans_are_in_which_state(book: Any) -> None:
    book.put(book.scan("a.h5"), state=DONE)
    book.scan("b.h5")
    with book.ledger.read() as tx:
        counts = steps.counts(tx, "bl1")
        assert steps.counts(tx, "bl2") == {}
    assert counts[(ASSET, DONE)] == counts[(ASSET, DUE)] == 1 and counts[("raw_at_dtn", DONE)] == 2


# tasks put steps in flight, all or none


def intend(book: Any, *scan_ids: int, key: str = "k1") -> int:
    with book.ledger.write() as tx:
        return tasks.intend(
            tx, NOW, beamline="bl1", asset=ASSET, purpose="copy", system="globus", service="globus",
            proposed_key=key, request={"items": [1]}, attempt=1, scan_ids=scan_ids,
        )  # fmt: skip


def test_an_intent_takes_all_of_its_steps_or_none(book: Any) -> None:
    first, second = book.scan("a.h5"), book.scan("b.h5")
    intend(book, first)
    with pytest.raises(tasks.Faster):
        intend(book, first, second, key="k2")
    assert book.step(second).state == DUE
    with book.ledger.read() as tx:
        assert [t.proposed_key for t in tasks.live(tx, "globus")] == ["k1"]


def test_an_intent_is_written_once_per_key(book: Any) -> None:
    intend(book, book.scan("a.h5"))
    with pytest.raises(sa.exc.IntegrityError):
        intend(book, book.scan("b.h5"))


def test_a_task_that_has_ended_lands_its_steps_once(book: Any) -> None:
    from resources.tasks import TaskState, TaskStatus

    ids = [book.scan(f"{n}.h5") for n in range(2)]
    task_id = intend(book, *ids)
    with book.ledger.write() as tx:
        task = tasks.get(tx, task_id)
        assert not tasks.seen(tx, task, TaskStatus("g", TaskState.RUNNING, "ACTIVE"), NOW)
        assert tasks.seen(tx, task, TaskStatus("g", TaskState.FAILED, "FAILED", "why", "CODE"), NOW)
        assert not tasks.seen(tx, task, TaskStatus("g", TaskState.SUCCEEDED, "SUCCEEDED"), NOW), "it has ended already"
        assert tasks.get(tx, task_id).state == "failed"
        assert tasks.scans_of(tx, task_id) == [(ids[0], "0.h5"), (ids[1], "1.h5")]
    assert [book.step(i).state for i in ids] == [LANDED, LANDED]
