"""Whose a scan is, what holds it, what was said of it: on SQLite and on PostgreSQL."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from beamlines.policy.grouping import Group
from beamlines.policy.proposal import PERSON, SCHEDULE, Belongs
from resources.ledger import assignments, flow, notices, scans, schema, steps, tasks, versions
from sensors import caught_up
from tests.ledger.conftest import NOW, SECOND, spec_of

TASK = {
    "beamline": "bl1", "asset": "raw_at_cfs", "purpose": "copy", "system": "globus", "service": "globus",
    "request": {}, "attempt": 1,
}  # fmt: skip


def test_a_proposal_is_kept_once_and_a_person_s_word_stays(book: Any) -> None:
    scan_id = book.scan()
    by_schedule, by_person = Belongs("P1", "Ada", ("g",), SCHEDULE), Belongs("P2", None, (), PERSON)
    with book.ledger.write() as tx:
        assert [one.id for one in assignments.unassigned(tx, "bl1", 0, 9)] == [scan_id]
        assert assignments.assign(tx, book.spec, scan_id, by_schedule, "sensor", None, NOW)
        assert not assignments.assign(tx, book.spec, scan_id, by_schedule, "sensor", None, NOW)
        assert assignments.assign(tx, book.spec, scan_id, by_person, "person", "so it is", NOW)
        assert not assignments.assign(tx, book.spec, scan_id, by_schedule, "sensor", None, NOW)
        scan = scans.get(tx, scan_id)
        assert (scan.proposal, scan.investigator, scan.groups, scan.proposal_from) == ("P2", None, [], PERSON)
        assert assignments.unassigned(tx, "bl1", 0, 9) == []


def test_unassigned_scans_are_found_in_parts(book: Any) -> None:
    ids = [book.scan(f"{n}.h5") for n in range(5)]
    with book.ledger.read() as tx:
        assert [one.id for one in assignments.unassigned(tx, "bl1", ids[1], 2)] == ids[2:4]
        one = assignments.unassigned(tx, "bl1", 0, 1)[0]
    assert (one.path, one.written, one.first_seen) == ("0.h5", NOW, NOW)


def test_a_restricted_scan_is_blocked_and_goes_on_when_it_is_released(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        assert assignments.restrict(tx, book.spec, scan_id, "export control: x", "person", NOW)
        assert not assignments.restrict(tx, book.spec, scan_id, "export control: y", "person", NOW)
    assert (book.step(scan_id).state, book.step(scan_id).why) == ("blocked", "export control: x")
    with book.ledger.write() as tx:
        assert flow.ask(tx, book.spec, [scan_id], "raw_at_cfs", "run", NOW) == 0
        assert assignments.release(tx, book.spec, scan_id, "person", "checked", NOW)
        assert not assignments.release(tx, book.spec, scan_id, "person", "checked", NOW)
    assert book.step(scan_id).state == "due"
    with book.ledger.read() as tx:
        assert scans.get(tx, scan_id).unrestricted == "person: checked"


def test_a_step_in_hand_is_left_and_an_abandoned_one_held_back(book: Any) -> None:
    held, abandoned = book.scan("a.h5"), book.scan("b.h5")
    book.put(held, state=steps.WORKING, next_try=NOW + SECOND)
    book.put(abandoned, state=steps.WORKING, next_try=NOW - SECOND)
    with book.ledger.write() as tx:
        for scan_id in (held, abandoned):
            assignments.restrict(tx, book.spec, scan_id, "export control: x", "person", NOW)
    assert [book.step(i).state for i in (held, abandoned)] == ["working", "blocked"]


def test_a_task_of_a_restricted_scan_is_not_sent_and_can_be_withdrawn(book: Any) -> None:
    mine, other = book.scan("a.h5"), book.scan("b.h5")
    with book.ledger.write() as tx:
        task_id = tasks.intend(tx, NOW, proposed_key="k", scan_ids=[mine, other], **TASK)
        task = tasks.get(tx, task_id)
        assert not tasks.held(tx, task_id)
        tx.execute(sa.update(schema.scans).where(schema.scans.c.id == mine).values(restricted="export control: x"))
        assert tasks.held(tx, task_id) and not tasks.trying(tx, task, None, NOW)
        assert assignments.withdraw_unsent(tx, mine, NOW) == 1 and assignments.withdraw_unsent(tx, mine, NOW) == 0
        assert not tasks.get(tx, task_id).live
    assert book.step(other).state == "due" and book.step(other).attempt == 1


def test_a_task_that_may_have_been_sent_is_not_withdrawn_as_if_it_had_not(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        task = tasks.get(tx, tasks.intend(tx, NOW, proposed_key="k", scan_ids=[scan_id], **TASK))
        assert tasks.trying(tx, task, None, NOW)
        assert not tasks.withdraw(tx, task, "too late", NOW), "it was read before the attempt"
        assert assignments.withdraw_unsent(tx, scan_id, NOW) == 0
    assert book.step(scan_id).state == "in_flight"


def test_notices_wait_until_a_scan_takes_them_up_and_add_up(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        assert notices.give(tx, "bl1", "a.h5", "me", NOW, proposal="P", document={"metadata": {"a": 1}})
        assert not notices.give(tx, "bl1", "a.h5", "you", NOW + SECOND)
        assert list(notices.waiting(tx, "bl1")) == ["a.h5"] and notices.waiting(tx, "bl2") == {}
        notices.taken_up(tx, "bl1", ["a.h5"], scan_id)
        assert notices.waiting(tx, "bl1") == {}
        assert notices.give(tx, "bl1", "a.h5", "you", NOW, restricted=True, document={"metadata": {"b": 2}})
        (one,) = notices.waiting(tx, "bl1").values()
        assert (one.proposal, one.restricted, one.who) == ("P", True, "you")
        assert notices.said_of(tx, "bl1", ["a.h5"], "metadata") == {"a": 1, "b": 2}
        assert not notices.give(tx, "bl1", "a.h5", "you", NOW, restricted=False)


def test_a_new_version_takes_the_next_key(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        scans.ask_person(tx, scan_id, f"a.h5 {versions.CHANGED} of 5 bytes.", NOW)
        scan = scans.get(tx, scan_id)
        assert [one.id for one in versions.asked(tx, "bl1")] == [scan_id]
        made = versions.make_version(tx, book.spec, scan, "person", "why", NOW)
        assert made is not None and (made.key, made.lost) == ("a.h5=v2", True)
        assert versions.make_version(tx, book.spec, scan, "person", "why", NOW) is None, "it was answered"
        seen = scans.see(tx, "bl1", [scans.Listed("a.h5", 9, NOW)], NOW)
        second = scans.register(tx, "bl1", "dtn", Group("a.h5", {"data": "a.h5"}), seen, NOW)
        flow.advance(tx, book.spec, [second], NOW)
        assert scans.get(tx, second).key == "a.h5=v2" and scans.get(tx, second).folder == "als-versions/v2"
        latest = scans.latest_version(tx, "bl1", "a.h5")
        assert latest is not None and latest.id == second
        assert scans.next_key(tx, "bl1", "a.h5") == "a.h5=v3"
    assert book.step(scan_id).state == "not_applicable" and book.step(second).state == "due"


def test_scans_that_lack_steps_of_today_s_spec_get_them(book: Any) -> None:
    book.spec = spec_of(mode="observe")
    scan_id = book.scan()
    assert caught_up.catch_up(book.ledger, book.spec) == 0
    assert caught_up.catch_up(book.ledger, spec_of()) == 1
    assert book.step(scan_id, "raw_at_cfs").state == "due" and book.step(scan_id, "xpcs_result").state == "blocked"
    assert caught_up.catch_up(book.ledger, spec_of()) == 0
