"""Leases keep a storm of runs away and block nobody for long; pauses let a service rest."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from resources.ledger import leases
from tests.ledger.conftest import NOW, SECOND

NAME, HOLD = "bl1/raw_at_cfs", 90 * SECOND


def request(book: Any, now: Any) -> bool:
    with book.ledger.write() as tx:
        return leases.request(tx, NAME, now, HOLD)


def take_over(book: Any, holder: str, now: Any) -> bool:
    with book.ledger.write() as tx:
        return leases.take_over(tx, NAME, holder, now, HOLD)


def release(book: Any, holder: str, now: Any, progress: bool) -> int:
    with book.ledger.write() as tx:
        return leases.release(tx, NAME, holder, now, progress)


def test_no_run_is_requested_while_one_is_requested_or_at_work(book: Any) -> None:
    assert request(book, NOW)
    assert not request(book, NOW + SECOND)
    assert take_over(book, "run-1", NOW + 2 * SECOND)
    assert not request(book, NOW + 3 * SECOND)
    assert take_over(book, "run-1", NOW + 80 * SECOND), "a run renews its own"
    assert not request(book, NOW + 169 * SECOND)


def test_a_run_that_made_progress_is_followed_by_the_next_at_once(book: Any) -> None:
    request(book, NOW)
    take_over(book, "run-1", NOW)
    assert release(book, "run-1", NOW + SECOND, progress=True) == 0
    assert request(book, NOW + SECOND)


def test_a_second_run_does_not_take_a_live_lease_and_its_end_does_not_release_it(book: Any) -> None:
    request(book, NOW)
    assert take_over(book, "run-1", NOW)
    assert not take_over(book, "run-2", NOW + SECOND)
    assert release(book, "run-2", NOW + SECOND, progress=True) == 0
    assert not request(book, NOW + 2 * SECOND)
    assert take_over(book, "run-2", NOW + HOLD), "the first one is dead by now"


def test_a_run_that_nobody_requested_takes_a_lease_too(book: Any) -> None:
    assert take_over(book, "run-1", NOW)
    assert not request(book, NOW + SECOND)


def test_a_killed_holder_blocks_nobody_for_longer_than_its_lease_and_a_short_wait(book: Any) -> None:
    request(book, NOW)
    take_over(book, "run-1", NOW)
    assert not request(book, NOW + HOLD - SECOND)
    assert not request(book, NOW + HOLD + 4 * SECOND)
    assert request(book, NOW + HOLD + 5 * SECOND)


def test_runs_without_progress_wait_twice_as_long_each_time_up_to_half_an_hour(book: Any) -> None:
    now = NOW
    for n, wait in enumerate([5, 10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800, 1800], 1):
        assert request(book, now)
        assert take_over(book, f"run-{n}", now)
        assert release(book, f"run-{n}", now, progress=False) == n
        assert not request(book, now + (wait - 1) * SECOND)
        now += wait * SECOND
        assert request(book, now)
        take_over(book, f"run-{n}b", now)
        with book.ledger.write() as tx:  # give it back without counting it
            tx.exec_driver_sql("update leases set holder = '', not_before = null")
            tx.execute(leases.leases.update().values(expires_at=now))
    assert request(book, now) and take_over(book, "good", now)
    assert release(book, "good", now, progress=True) == 0
    assert request(book, now), "progress forgives"


def test_runs_that_die_without_a_word_wait_longer_each_time_too(book: Any) -> None:
    now, waits = NOW, []
    for n in range(1, 6):
        assert request(book, now)
        now += HOLD  # killed before it took the lease over, or the request was lost
        wait = 0
        while not request(book, now + wait * SECOND):
            wait += 1
        waits.append(wait)
        now += wait * SECOND
        assert take_over(book, f"run-{n}", now)
        with book.ledger.write() as tx:
            tx.execute(leases.leases.update().values(holder="", not_before=None, expires_at=now))
    assert waits == [5, 10, 20, 40, 80]


def test_weeks_without_progress_break_nothing(book: Any) -> None:
    request(book, NOW)
    with book.ledger.write() as tx:
        tx.execute(leases.leases.update().values(idle_runs=100_000))
    take_over(book, "run-1", NOW)
    assert release(book, "run-1", NOW, progress=False) == 100_001
    assert request(book, NOW + timedelta(minutes=30))


# pauses


def pause(book: Any, now: Any, reason: str = "down", at_least: Any = None) -> leases.Pause:
    with book.ledger.write() as tx:
        return leases.pause(tx, "globus", reason, "HTTP 502", now, 30, 1800, at_least)


def paused(book: Any, now: Any) -> leases.Pause | None:
    with book.ledger.read() as tx:
        return leases.paused(tx, "globus", now)


def resume(book: Any) -> bool:
    with book.ledger.write() as tx:
        return leases.resume(tx, "globus")


def test_a_service_rests_twice_as_long_after_each_failure(book: Any) -> None:
    now, rests = NOW, []
    for _ in range(8):
        rest = pause(book, now)
        rests.append((rest.until - now).total_seconds())
        assert paused(book, rest.until - SECOND) == rest
        assert paused(book, rest.until) is None, "now one may try"
        now = rest.until
    assert rests == [30, 60, 120, 240, 480, 960, 1800, 1800]
    assert rest.since == NOW and rest.failures == 8


def test_failures_while_it_rests_already_do_not_add_up(book: Any) -> None:
    first = pause(book, NOW)
    assert pause(book, NOW + SECOND, reason="another") == first


def test_a_service_that_says_how_long_is_believed(book: Any) -> None:
    assert pause(book, NOW, at_least=timedelta(hours=2)).until == NOW + timedelta(hours=2)


def test_an_answer_ends_the_pause_once(book: Any) -> None:
    pause(book, NOW)
    assert resume(book) and not resume(book)
    assert paused(book, NOW) is None
    with book.ledger.read() as tx:
        assert leases.all_pauses(tx) == []


def test_a_service_that_is_well_again_for_long_starts_from_the_beginning(book: Any) -> None:
    pause(book, NOW)
    pause(book, NOW + 60 * SECOND)
    resume(book)
    later = NOW + timedelta(hours=2)
    assert pause(book, later).until == later + 30 * SECOND


def test_a_service_that_answers_one_call_and_fails_another_rests_longer_each_time(book: Any) -> None:
    now, rests = NOW, []
    for _ in range(4):
        rest = pause(book, now)
        rests.append((rest.until - now).total_seconds())
        resume(book)  # listing works, submitting does not
        now = rest.until
    assert rests == [30, 60, 120, 240]


def test_a_month_of_failures_breaks_nothing(book: Any) -> None:
    pause(book, NOW)
    with book.ledger.write() as tx:
        tx.execute(leases.pauses.update().values(failures=5000))
    later = NOW + timedelta(days=30)
    assert pause(book, later).until == later + timedelta(minutes=30)


def test_pauses_of_services_are_apart(book: Any) -> None:
    pause(book, NOW)
    with book.ledger.read() as tx:
        assert leases.paused(tx, "nersc", NOW) is None
