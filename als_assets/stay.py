"""How long an automatic run stays."""

from __future__ import annotations

from collections.abc import Callable

from resources.facilities import Pace


class Stay:
    """A grace after the last progress while tasks of its scans are under way, a moment for more when there is none,
    and never longer than `stay_s`.

    Args:
        pace: grace_s, linger_s and stay_s, in seconds.
        clock: seconds that only go forward.
    """

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        self.pace, self.clock = pace, clock
        self.end = clock() + pace.stay_s
        self.progress, self.since = 0, clock()

    def over(self, progress: int, busy: bool) -> bool:
        """Is it time to go? `progress` is a count of changes so far; `busy` while something is under way."""
        now = self.clock()
        if progress != self.progress:
            self.progress, self.since = progress, now
        return now > min(self.end, self.since + (self.pace.grace_s if busy else self.pace.linger_s))
