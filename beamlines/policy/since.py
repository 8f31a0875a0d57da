"""When the platform goes live beside another system: is a scan older than that, and so left alone?

What is on the disk at the first look is judged by its own time. What appears later is new, whatever the clock of the
disk's host says: it may be off by a day or jump, and a new scan must not be left lying for that. Something whose time
is older than that by more than clocks usually err is left alone, but told: somebody has moved old files there, or the
clock is wrong.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

ERROR = timedelta(days=2)  # by which the clock of a disk's host may be off


def too_old(since: date | None, written: datetime, first_seen: datetime, watched_since: datetime | None) -> bool:
    """Is a scan to be left alone? `watched_since`: the end of the first whole listing, None before that."""
    if since is None:
        return False
    begin = datetime.combine(since, time(), UTC)
    return written < (begin - ERROR if appeared(first_seen, watched_since) else begin)


def appeared(first_seen: datetime, watched_since: datetime | None) -> bool:
    """Did it come while the disk was being watched?"""
    return watched_since is not None and first_seen > watched_since


def doubt(since: date, written: datetime, first_seen: datetime) -> str:
    """What is to be told of a scan that is too old although it has just appeared."""
    return (
        f"its time is {written:%Y-%m-%d %H:%M} UTC, long before `since` ({since}), though it appeared on "
        f"{first_seen:%Y-%m-%d}: it is left alone. If it is new, set the clock of the disk's host right and touch it"
    )
