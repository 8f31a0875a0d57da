"""One run per asset for many scans, never two at once; a failure is one red partition, once."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from resources.ledger import leases, steps
from sensors import due_work, names

AUTO = "bl1/raw_at_cfs"


@pytest.fixture
def instance() -> Any:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def wanted(beamline: Any, instance: Any, ledger: Any = None) -> list[dg.RunRequest]:
    return due_work.requests(ledger or beamline.ledger, beamline.spec, beamline.facilities, instance)


def keys_of(request: dg.RunRequest) -> list[str]:
    found: list[str] = request.run_config["ops"]["bl1__raw_at_cfs__ensure"]["config"]["scans"]
    return found


def announced(beamline: Any) -> None:
    import sqlalchemy as sa

    from resources.ledger import schema

    with beamline.ledger.write() as tx:
        tx.execute(sa.update(schema.scans).values(announced_at=beamline.now))


def released(beamline: Any, progress: bool = True) -> None:
    with beamline.ledger.write() as tx:
        leases.take_over(tx, AUTO, "run-1", beamline.now, timedelta(seconds=90))
        leases.release(tx, AUTO, "run-1", beamline.now, progress)


def test_what_is_due_is_one_run_for_many_scans(beamline: Any, instance: Any) -> None:
    beamline.notice(*[f"{n}.h5" for n in range(4)])
    (request,) = wanted(beamline, instance)
    assert request.job_name == "bl1__raw_at_cfs__due" and request.partition_key is None
    assert keys_of(request) == [f"{n}.h5" for n in range(4)]
    assert request.tags == {"als/trigger": "due", "als/asset": AUTO, "als/scans": "4"}


def test_nothing_is_requested_when_nothing_is_due(beamline: Any, instance: Any) -> None:
    assert wanted(beamline, instance) == []
    (scan_id,) = beamline.notice("a.h5")
    with beamline.ledger.write() as tx:
        steps.put_off(tx, [scan_id], "raw_at_cfs", beamline.now + timedelta(hours=1), "down", beamline.now)
    assert wanted(beamline, instance) == []
    with beamline.ledger.read() as tx:
        assert tx.execute(leases.leases.select()).all() == []


def test_a_run_takes_five_hundred_scans_at_most(beamline: Any, instance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_work, "MOST_SCANS", 3)
    beamline.notice(*[f"{n}.h5" for n in range(5)])
    assert len(keys_of(wanted(beamline, instance)[0])) == 3


def test_no_second_run_is_requested_while_the_lease_is_live(beamline: Any, instance: Any) -> None:
    beamline.notice("a.h5")
    assert len(wanted(beamline, instance)) == 1
    for _ in range(3):
        beamline.wait(29)
        assert wanted(beamline, instance) == []
    released(beamline)
    assert len(wanted(beamline, instance)) == 1


def test_a_request_that_was_lost_is_made_again(beamline: Any, instance: Any) -> None:
    beamline.notice("a.h5")
    wanted(beamline, instance)  # and the daemon is killed before it launches the run
    beamline.wait(95)
    assert len(wanted(beamline, instance)) == 1


def test_runs_without_progress_are_requested_less_and_less_often(beamline: Any, instance: Any) -> None:
    beamline.notice("a.h5")
    count = 0
    for _ in range(180):
        if wanted(beamline, instance):
            count += 1
            released(beamline, progress=False)
        beamline.wait(60)
    assert 10 < count < 18, "three hours of a bug"


@pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING])
def test_a_run_that_waits_in_the_queue_is_not_doubled(beamline: Any, instance: Any, status: Any) -> None:
    beamline.notice("a.h5")
    run = run_of(instance, {names.ASSET: AUTO}, status)
    assert wanted(beamline, instance) == []
    instance.delete_run(run.run_id)
    assert len(wanted(beamline, instance)) == 1


def test_a_run_that_was_killed_while_it_started_does_not_hold_the_next_for_minutes(
    beamline: Any, instance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    beamline.notice("a.h5")
    run_of(instance, {names.ASSET: AUTO}, DagsterRunStatus.STARTING)
    monkeypatch.setattr(due_work, "STARTS", timedelta(0))
    assert len(wanted(beamline, instance)) == 1
    released(beamline)
    run_of(instance, {names.ASSET: AUTO}, DagsterRunStatus.NOT_STARTED)
    assert wanted(beamline, instance) == [], "one that waits in the queue will be started"


def run_of(instance: Any, tags: dict[str, str], status: Any) -> Any:
    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def job() -> None:
        nothing()

    return instance.create_run_for_job(job, tags=tags, status=status)


def test_asking_at_once_requests_one_run_and_shows_each_failure_once(beamline: Any, instance: Any) -> None:
    beamline.notice("a.h5", "b.h5")
    announced(beamline)
    beamline.fail("b.h5")
    ledgers = [beamline.open() for _ in range(3)]
    barrier, found = threading.Barrier(3), []

    def ask(ledger: Any) -> None:
        barrier.wait()
        found.extend(wanted(beamline, instance, ledger))

    threads = [threading.Thread(target=ask, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(request.job_name for request in found) == ["bl1__raw_at_cfs__due", "bl1__raw_at_cfs__scan"]
    for ledger in ledgers:
        ledger.close()


def test_a_failure_is_shown_by_a_run_of_exactly_that_partition(beamline: Any, instance: Any) -> None:
    beamline.notice("a.h5")
    beamline.fail()
    assert wanted(beamline, instance) == [], "Dagster has no such partition yet"
    announced(beamline)
    (request,) = wanted(beamline, instance)
    assert (request.job_name, request.partition_key) == ("bl1__raw_at_cfs__scan", "a.h5")
    assert request.tags[names.TRIGGER] == names.SHOW_FAILURE
    assert wanted(beamline, instance) == [], "its run is on the way"
    beamline.wait(600)
    assert len(wanted(beamline, instance)) == 1, "that one was lost"
    with beamline.ledger.write() as tx:
        steps.reported(tx, [beamline.scan().id], "raw_at_cfs", beamline.now)
    beamline.wait(6000)
    assert wanted(beamline, instance) == []


def test_a_run_that_shows_a_failure_and_waits_for_its_turn_is_not_doubled(beamline: Any, instance: Any) -> None:
    beamline.notice("a.h5")
    announced(beamline)
    beamline.fail()
    tags = {names.TRIGGER: names.SHOW_FAILURE, "als/failed": AUTO, "dagster/partition": "a.h5"}
    run = run_of(instance, tags, DagsterRunStatus.STARTED)
    assert wanted(beamline, instance) == []
    instance.delete_run(run.run_id)
    beamline.wait(600)
    assert len(wanted(beamline, instance)) == 1


def test_many_failures_are_shown_a_few_at_a_time(beamline: Any, instance: Any) -> None:
    beamline.notice(*[f"{n}.h5" for n in range(12)])
    announced(beamline)
    for n in range(12):
        beamline.fail(f"{n}.h5")
    parts = [[request.partition_key for request in wanted(beamline, instance)] for _ in range(4)]
    assert [len(part) for part in parts] == [5, 5, 2, 0]
    assert len({key for part in parts for key in part}) == 12


def test_a_failure_that_is_tried_again_is_not_shown(beamline: Any, instance: Any) -> None:
    beamline.notice("a.h5")
    announced(beamline)
    beamline.fail()
    with beamline.ledger.write() as tx:
        steps.ask(tx, [beamline.scan().id], "raw_at_cfs", "run-9", beamline.now)
    assert [request.job_name for request in wanted(beamline, instance)] == ["bl1__raw_at_cfs__due"]


def test_what_dagster_was_not_told_of_is_told_again(beamline: Any, instance: Any) -> None:
    (scan_id,) = beamline.notice("a.h5")
    with beamline.ledger.write() as tx:
        steps.claim(tx, scan_id, "raw_at_cfs", beamline.now, beamline.now)
        steps.finish(tx, scan_id, "raw_at_cfs", beamline.now)
    assert wanted(beamline, instance) == []
    beamline.wait(120)
    assert [keys_of(request) for request in wanted(beamline, instance)] == [["a.h5"]]
