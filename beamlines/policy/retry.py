"""When is a failed step tried again, in what company, and when is it given up?"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from beamlines.spec import Retry


@dataclass(frozen=True)
class Again:
    """Try again at `at`; None means that the step has failed for good."""

    at: datetime | None
    why: str


def after_failure(rule: Retry, attempt: int, transient: bool, why: str, now: datetime, speed: float = 1.0) -> Again:
    """What follows on the failure of attempt number `attempt` (from 1).

    Exponential backoff from `first_s` to `most_s` with up to 25 % of jitter; `speed` divides it (the sandbox's pace).
    """
    if not transient:
        return Again(None, why)
    if attempt >= rule.attempts:
        return Again(None, f"{why} (attempt {attempt} of {rule.attempts})")
    wait = _doubled(attempt - 1, rule.first_s, rule.most_s) / speed
    return Again(now + timedelta(seconds=wait * random.uniform(1.0, 1.25)), f"attempt {attempt}: {why}")


def company(attempt: int, most: int) -> int:
    """How many scans may share a task with one that is at this attempt: a bad file must not hold the others for long,
    so a block that failed is split by ten at the second attempt and into single scans from the third."""
    if attempt <= 1:
        return most
    if attempt == 2:
        return max(1, most // 10)
    return 1


def next_pause(failures: int, first_s: float, most_s: float) -> timedelta:
    """How long submissions to a service rest after its `failures`-th failure in a row."""
    return timedelta(seconds=_doubled(failures - 1, first_s, most_s))


def idle_wait(idle_runs: int, first_s: float = 5.0, most_s: float = 1800.0) -> timedelta:
    """How long after automatic runs that made no progress the next may start: a bug must not become a storm of runs."""
    if idle_runs <= 0:
        return timedelta(0)
    return timedelta(seconds=_doubled(idle_runs - 1, first_s, most_s))


def _doubled(times: int, first: float, most: float) -> float:
    """`first`, doubled so many times, `most` at the most; after weeks of an outage `times` exceeds what a float can."""
    return min(most, first * 2.0 ** min(max(0, times), 100))
