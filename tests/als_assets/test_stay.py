"""How long an automatic run stays."""

from __future__ import annotations

from als_assets.stay import Stay
from resources.facilities import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_run_with_tasks_under_way_leaves_after_a_grace_without_progress() -> None:
    clock = Clock()
    stay = Stay(Pace(grace_s=25, linger_s=5, stay_s=900), clock)
    clock.now += 24
    assert not stay.over(0, busy=True)
    clock.now += 2
    assert stay.over(0, busy=True)


def test_progress_begins_the_grace_anew() -> None:
    clock = Clock()
    stay = Stay(Pace(grace_s=25, linger_s=5, stay_s=900), clock)
    clock.now += 24
    assert not stay.over(1, busy=True)
    clock.now += 24
    assert not stay.over(1, busy=True)
    clock.now += 2
    assert stay.over(1, busy=True)


def test_with_nothing_under_way_it_waits_only_a_moment_for_more() -> None:
    clock = Clock()
    stay = Stay(Pace(grace_s=25, linger_s=5, stay_s=900), clock)
    assert not stay.over(3, busy=False)
    clock.now += 6
    assert stay.over(3, busy=False)


def test_steady_progress_does_not_keep_it_for_ever() -> None:
    clock = Clock()
    stay = Stay(Pace(grace_s=25, linger_s=5, stay_s=900), clock)
    for progress in range(89):
        clock.now += 10
        assert not stay.over(progress + 1, busy=True)
    clock.now += 20
    assert stay.over(1000, busy=True)
