"""To which proposal does a scan belong? What a notice says comes first, then the schedule of shifts, then the path.

Unknown is an answer, with the reason: the proposal decides who may read the data, so it is never guessed. The schedule
is asked with two clocks, that of the disk's host (when the file was written) and ours (when it was first listed): one
of them alone may be off by a day. Where they do not lie in the same shift, a person has to say (`als assign`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from beamlines.spec import Proposals

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NOTIFIED, SCHEDULE, PATTERN, PERSON = "notified", "schedule", "pattern", "a person"
LAG = timedelta(minutes=10)  # by which a file may be listed after it was written, or the clocks disagree


@dataclass(frozen=True)
class Shift:
    """A line of the schedule: from `start` until before `end`, whose beam time it was."""

    line: int
    start: datetime
    end: datetime
    proposal: str
    investigator: str | None = None
    groups: tuple[str, ...] = ()

    def has(self, begin: datetime, end: datetime) -> bool:
        """Does any of the time between the two lie in it?"""
        return self.start <= end and begin < self.end


@dataclass(frozen=True)
class Belongs:
    """What is known. `source` None: nothing, and `why` says why."""

    proposal: str | None = None
    investigator: str | None = None
    groups: tuple[str, ...] = ()
    source: str | None = None
    why: str | None = None


def refusal(name: str) -> str | None:
    """Why this cannot be the name of a proposal or group, or None when it can."""
    if NAME.fullmatch(name):
        return None
    return f"{name!r} is no name of a proposal or group: up to 64 letters, digits, '.', '_' and '-'"


def belongs(
    rule: Proposals,
    path: str,
    notified: str | None,
    shifts: Sequence[Shift] | None,
    written: datetime,
    first_seen: datetime,
) -> Belongs:
    """To which proposal a scan belongs.

    Args:
        notified: what a notice said, or None.
        shifts: of this beamline; they do not overlap. None: there is a schedule that cannot be read; then nothing that
            comes after it is asked.
        written: the time of the scan's own file, by the clock of the disk's host. first_seen: when it was first listed,
            by ours.
    """
    if notified:
        return known(notified, NOTIFIED, shifts or ())
    if shifts is None:
        return Belongs(why="the schedule of proposals cannot be read")
    by_shift = _by_shift(shifts, written, first_seen)
    if by_shift.proposal:
        return by_shift
    if rule.path and (match := re.search(rule.path, path)) and match["proposal"]:
        if refusal(match["proposal"]) is None:
            return known(match["proposal"], PATTERN, shifts)
        return Belongs(why=f"the path gives {refusal(match['proposal'])}")
    if by_shift.why:
        return by_shift
    return Belongs(why="the path does not name one" if rule.path else "nothing tells it")


def _by_shift(shifts: Sequence[Shift], written: datetime, first_seen: datetime) -> Belongs:
    if not shifts:
        return Belongs()
    seen_in = [s for s in shifts if s.has(first_seen - LAG, first_seen)]
    written_in = next((s for s in shifts if s.has(written, written)), None)
    if written_in is not None and any(s.proposal == written_in.proposal for s in seen_in):
        return Belongs(written_in.proposal, written_in.investigator, written_in.groups, SCHEDULE)
    if written_in is None and not seen_in:
        return Belongs(why="it was written outside the shifts of the schedule")
    by_disk = f"in the shift of {written_in.proposal}" if written_in else "outside all shifts"
    by_us = f"in that of {' or '.join(s.proposal for s in seen_in)}" if seen_in else "outside all shifts"
    return Belongs(
        why=f"by its disk's clock it was written {by_disk} ({written:%Y-%m-%d %H:%M} UTC), but it was first listed "
        f"{by_us} ({first_seen:%Y-%m-%d %H:%M} UTC)"
    )


def known(proposal: str, source: str, shifts: Iterable[Shift]) -> Belongs:
    """A proposal with its investigator and groups, where all its shifts agree on them."""
    of_it = {(s.investigator, s.groups) for s in shifts if s.proposal == proposal}
    investigator, groups = of_it.pop() if len(of_it) == 1 else (None, ())
    return Belongs(proposal, investigator, groups, source)
