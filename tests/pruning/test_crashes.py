"""kill -9 of a run after every change that it makes: the next run goes on, and nothing is done twice."""

from __future__ import annotations

import time
from typing import Any

import pytest

from als_assets.pruning import AtWork
from als_assets.pruning.looks import Looks
from resources.ledger import leases
from tests.pruning.dying import Killed, dying

MOST = 60


@pytest.fixture
def dying_disk(disk: Any) -> Any:
    disk.rig.pace(trash_s=0, lease_s=0.001, poll_s=0.01)
    return disk


def fresh_scan(disk: Any, number: int) -> str:
    key: str = disk.scans(1, folder=f"n{number:03d}")[0]
    return key


def test_a_run_that_is_killed_after_any_change_is_carried_on_by_the_next(dying_disk: Any) -> None:
    disk, points = dying_disk, []
    for number in range(1, MOST):
        key = fresh_scan(disk, number)
        before = disk.deletions()
        with dying(number) as death:
            disk.prune()
        if not death.where:
            break
        points.append(death.where)
        disk.prune_until_over(key)
        assert disk.copy(key) == "pruned", f"{number}: {death.where}"
        assert not disk.there(key) and disk.trashed() == [], f"{number}: {death.where}"
        assert disk.deletions() == before + 1, f"{number}: {death.where}"
        assert disk.copy(key, "cfs") == "verified"
        assert disk.history(key).count("pruned") == 1
    assert points.count("rename") == 2 and points.count("submit") == 1 and points.count("commit") > 5
    print(points)


@pytest.mark.services  # takes as long again as the one before: `make test` has that
def test_a_hold_that_comes_after_the_kill_saves_what_is_not_deleted_yet(dying_disk: Any) -> None:
    disk, saved, late = dying_disk, 0, 0
    for number in range(1, MOST):
        key = fresh_scan(disk, number)
        before = disk.deletions()
        with dying(number) as death:
            disk.prune()
        if not death.where:
            break
        disk.rig.until(lambda: not disk.rig.sandbox.box.all("transfer_live"))
        executed = disk.deletions() > before
        disk.hold(key)
        disk.prune_until_over(key)
        if executed:
            late += 1
            assert disk.copy(key) == "pruned", f"{number}: {death.where}"
        else:
            saved += 1
            assert disk.there(key) and disk.copy(key) == "present", f"{number}: {death.where}"
            assert disk.deletions() == before, f"{number}: {death.where}"
        assert disk.trashed() == [], f"{number}: {death.where}"
    assert saved >= 8 and late > 2


@pytest.mark.parametrize("phase", ["before it is moved", "before it is deleted"])
def test_a_hold_that_comes_between_the_look_and_the_intent_counts(
    disk: Any, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision is made again in the transaction that commits the intent."""
    (key,) = disk.scans()
    if phase == "before it is deleted":
        disk.prune()
    disk.trash_is_over()
    look = Looks.around

    def slow_look(looks: Looks, *arguments: Any) -> Any:
        found = look(looks, *arguments)
        disk.hold(key)
        return found

    monkeypatch.setattr(Looks, "around", slow_look)
    disk.prune()
    monkeypatch.undo()
    disk.prune()
    assert disk.there(key) and disk.deletions() == 0
    assert disk.state(key) == (None if phase == "before it is moved" else "put_back")


def test_a_deletion_that_was_only_intended_is_sent_by_pruning_and_by_nobody_else(
    disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor that follows tasks submits what a killed run has left; but a hold may have come since."""
    (key,) = disk.scans()
    disk.prune()
    disk.trash_is_over()

    def killed(*arguments: Any) -> None:
        raise Killed("before it was sent")

    monkeypatch.setattr("als_assets.pruning.deletion.once.submit", killed)
    with pytest.raises(Killed):
        disk.prune()
    monkeypatch.undo()
    assert disk.state(key) == "deleting"
    disk.hold(key)
    time.sleep(disk.rig.facilities.pace.lease_s)
    disk.rig.follow(2)
    assert [task.tried_at for task in disk.rig.tasks(key) if task.purpose == "delete"] == [None]
    disk.prune_until_over(key)
    assert disk.there(key) and disk.deletions() == 0


def test_only_one_run_at_a_time_works_on_a_beamline(disk: Any) -> None:
    disk.scans()
    with disk.ledger.write() as tx:
        leases.take_over(tx, "bl7011/prune", "somebody else", disk.ledger.now(), disk.rig.facilities.pace.span("day_s"))
    with pytest.raises(AtWork, match=r"another run is pruning bl7011\. What to do: wait for its end"):
        disk.prune()
