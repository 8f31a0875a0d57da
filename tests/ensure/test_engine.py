"""The engine's own promises: what it does when runs overlap, when something in it breaks, and what it reports."""

from __future__ import annotations

from typing import Any

import pytest

from als_assets.family import NotDone
from resources import once
from resources.errors import Refused, Unavailable
from resources.ledger import leases, steps


def landed(rig: Any, asset: str = "raw_at_cfs") -> None:
    """Bring every task of an asset to its end, without collecting it."""
    rig.run(asset, patient=False, engine=began_only(rig, asset))
    keys = rig.keys()
    rig.until(lambda: (rig.follow(), all(rig.step(k, asset).state == "landed" for k in keys))[1])


def began_only(rig: Any, asset: str) -> Any:
    engine = rig.engine(asset)

    async def nothing(task_id: int) -> None:
        return None

    engine._collect = nothing
    return engine


def test_a_bug_in_reading_one_scan_s_outcome_holds_no_other_and_is_loud(rig: Any) -> None:
    keys = rig.noticed(4)
    rig.attempts_allowed(2)
    engine = rig.engine("raw_at_cfs")
    real = engine.family._outcome

    def buggy(ended: Any, scan: Any, *more: Any) -> Any:
        if scan.key == keys[1]:
            raise KeyError("checksum")
        return real(ended, scan, *more)

    engine.family._outcome = buggy
    with pytest.raises(ExceptionGroup, match="raw_at_cfs met 2 unforeseen errors; the first: KeyError") as raised:
        rig.run("raw_at_cfs", engine=engine)
    assert isinstance(raised.value.exceptions[0], KeyError)
    assert [rig.step(k, "raw_at_cfs").state for k in keys] == ["done", "failed", "done", "done"]
    why = rig.step(keys[1], "raw_at_cfs").why
    assert "day/s001.h5: raw_at_cfs met a bug: KeyError: 'checksum'" in why and "run-1" in why
    assert len(rig.tasks(keys[1])) == 1, "its file is there; it was not copied again for our bug"


def test_a_bug_that_was_corrected_costs_nothing_more(rig: Any) -> None:
    (key,) = rig.noticed()
    landed(rig)
    rig.pace(grace_s=0)
    engine = rig.engine("raw_at_cfs")
    engine.family._outcome = lambda *_: 1 / 0
    with pytest.raises(ExceptionGroup):
        rig.run("raw_at_cfs", engine=engine, patient=False)
    assert rig.run("raw_at_cfs").keys == [key]
    assert len(rig.tasks(key)) == 1


def test_a_bug_while_writing_down_one_scan_holds_no_other(rig: Any) -> None:
    keys = rig.copied(3)
    rig.attempts_allowed(1)
    engine = rig.engine("xpcs_result")
    real = engine.family.collect

    def collect(task: Any, pairs: Any) -> Any:
        out = real(task, pairs)
        for _, scan in pairs:
            if scan.key == keys[0]:
                object.__setattr__(out[scan.id], "write", lambda tx, now: 1 / 0)
        return out

    engine.family.collect = collect
    with pytest.raises(ExceptionGroup):
        rig.run("xpcs_result", engine=engine)
    assert [rig.step(k, "xpcs_result").state for k in keys] == ["failed", "done", "done"]


def test_a_bug_in_beginning_one_scan_holds_no_other(rig: Any) -> None:
    keys = rig.copied(3)
    rig.attempts_allowed(1)
    engine = rig.engine("xpcs_result")
    real = engine.family._request

    def request(step: Any, scan: Any) -> Any:
        if scan.key == keys[2]:
            raise IndexError("no such parameter")
        return real(step, scan)

    engine.family._request = request
    with pytest.raises(ExceptionGroup):
        rig.run("xpcs_result", engine=engine)
    assert [rig.step(k, "xpcs_result").state for k in keys] == ["done", "done", "failed"]
    assert "no such parameter" in rig.step(keys[2], "xpcs_result").why


def test_a_bug_in_the_metadata_keeps_no_scan_from_being_reported(rig: Any) -> None:
    keys = rig.noticed(2)
    engine = rig.engine("raw_at_cfs")
    real = engine.family.metadata
    engine.family.metadata = lambda tx, scan: 1 / 0 if scan.key == keys[0] else real(tx, scan)
    made = []
    with pytest.raises(ExceptionGroup):
        ran = rig.run("raw_at_cfs", engine=engine)
        made += ran.made
    assert all(rig.step(k, "raw_at_cfs").reported_at for k in keys)


def test_a_bug_in_submitting_ends_the_run_after_it_has_told_what_is_done(rig: Any) -> None:
    (first,) = rig.copied()
    (second,) = rig.notice(rig.scan("b.h5"))
    engine = rig.engine("raw_at_cfs")

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(rig.services["globus"], name)

        def submit(self, key: str, request: Any) -> str:
            raise TypeError("a bug in the client")

    engine.systems = {"globus": Broken()}
    rig.ask("raw_at_cfs", first)
    rig.settle_by_hand(first, "raw_at_cfs")
    with pytest.raises(ExceptionGroup, match="a bug in the client"):
        rig.run("raw_at_cfs", engine=engine)
    assert rig.step(first, "raw_at_cfs").reported_at is not None
    assert rig.run("raw_at_cfs", [second]).keys == [second]
    assert list(rig.sandbox.executions("transfer").values()) == [1]


def test_a_run_that_was_overtaken_while_it_collected_moves_nothing(rig: Any) -> None:
    """Otherwise what it found out about the first task would undo what the second one has brought about."""
    (key,) = rig.noticed()
    rig.sandbox.fault("transfer", "task_failed")
    landed(rig)
    slow, quick = rig.engine("raw_at_cfs", "slow"), rig.engine("raw_at_cfs", "quick")
    real = slow.family.collect

    def collect(task: Any, pairs: Any) -> Any:
        out = real(task, pairs)
        if len(rig.tasks(key)) == 2:
            return out
        rig.sandbox.fault("transfer", "paused", count=1)
        rig.until(lambda: rig.run("raw_at_cfs", engine=quick, patient=False) and len(rig.tasks(key)) == 2)
        rig.sandbox.box.clear_faults()
        rig.until(lambda: (rig.follow(), rig.step(key, "raw_at_cfs").state == "landed")[1])
        return out

    slow.family.collect = collect
    rig.run("raw_at_cfs", engine=slow)
    assert rig.step(key, "raw_at_cfs").state == "done"
    assert len(rig.tasks(key)) == 2


def test_only_automatic_runs_take_the_lease(rig: Any) -> None:
    """A backfill of two days must not keep automatic runs away."""
    rig.noticed()
    rig.run("raw_at_cfs", patient=True)
    with rig.ledger.write() as tx:
        assert leases.request(tx, "bl7011/raw_at_cfs", rig.ledger.now(), rig.facilities.pace.span("lease_s"))
    rig.run("raw_at_cfs", patient=True)
    with rig.ledger.write() as tx:
        assert leases.take_over(
            tx, "bl7011/raw_at_cfs", "automatic", rig.ledger.now(), rig.facilities.pace.span("lease_s")
        )


def test_a_step_that_is_done_anew_while_the_run_stays_is_told_anew(rig: Any) -> None:
    (key,) = rig.copied()
    rig.pace(grace_s=20)
    engine = rig.engine("catalog_entry")
    real = engine.reports.mark
    told = []

    def reported(made: Any) -> None:
        real(made)
        told.append(made)
        if len(told) == 1:  # a result comes in while the run is still there
            with rig.ledger.write() as tx:
                steps.do_again(tx, made.scan.id, "catalog_entry", "xpcs_result has changed", rig.ledger.now())

    engine.reports.mark = reported
    ran = rig.run("catalog_entry", engine=engine, patient=False)
    assert ran.keys == [key, key]
    assert rig.step(key, "catalog_entry").reported_at is not None


def test_what_is_done_anew_between_the_report_and_its_mark_is_not_marked(rig: Any) -> None:
    (key,) = rig.copied()
    engine = rig.engine("raw_at_cfs")
    (made,) = engine.reports.untold(engine._steps([key]), True)
    rig.ask("raw_at_cfs", key)
    rig.settle_by_hand(key, "raw_at_cfs")
    engine.reports.mark(made)
    assert rig.step(key, "raw_at_cfs").reported_at is None


def test_a_service_that_cannot_be_asked_puts_off_and_uses_up_no_attempt(rig: Any) -> None:
    (key,) = rig.noticed()
    rig.pace(grace_s=0, pause_first_s=60, pause_most_s=60)
    once.pause(rig.ledger, Unavailable("globus", "maintenance until noon"), rig.facilities.pace.patience)
    rig.run("raw_at_cfs", patient=False)
    step = rig.step(key, "raw_at_cfs")
    assert (step.state, step.attempt) == ("due", 1)
    assert "waits for globus until" in step.why and "maintenance until noon" in step.why
    once.answered(rig.ledger, "globus")
    rig.ask("raw_at_cfs", key)  # not to wait for the minute to pass
    assert rig.run("raw_at_cfs").keys == [key]


def test_two_facilities_of_one_kind_are_asked_for_their_own_tasks(rig: Any) -> None:
    (key,) = rig.copied()
    file = rig.facilities.file
    elsewhere = {**file.services["nersc"], "api_url": "http://127.0.0.1:9/api/v1.2"}
    services = {**file.services, "alcf": elsewhere}
    rig.facilities = type(rig.facilities)(file.model_copy(update={"services": services}))
    assert rig.run("xpcs_result").keys == [key]


def test_what_a_service_refuses_to_show_fails_the_scan_in_its_words(rig: Any) -> None:
    (key,) = rig.copied()
    engine = rig.engine("xpcs_result")

    def collect(task: Any, pairs: Any) -> Any:
        raise Refused("nersc", "summary.json is larger than 4000000 bytes")

    engine.family.collect = collect
    ran = rig.run("xpcs_result", engine=engine)
    assert ran.failed[key].startswith("day/s000.h5: xpcs_result: nersc said: summary.json is larger")


def test_a_scan_that_was_given_up_says_how_often_it_was_tried(rig: Any) -> None:
    (key,) = rig.copied()
    rig.attempts_allowed(2)
    engine = rig.engine("xpcs_result")
    engine.family.collect = lambda task, pairs: {s.id: NotDone("it blinked.", "look at it.") for _, s in pairs}
    ran = rig.run("xpcs_result", engine=engine)
    assert ran.failed[key] == "it blinked. (attempt 2 of 2) What to do: look at it."
