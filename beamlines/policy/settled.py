"""Has a detector finished writing a scan? Decided by watching it with our own clock, never by the disk's."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Sighting:
    """What our listings have seen of one file: since when, by our clock, size and mtime have not changed."""

    path: str
    bytes: int
    mtime: datetime
    first_seen: datetime
    unchanged_since: datetime


@dataclass(frozen=True)
class Verdict:
    settled: bool
    why: str


def settled(
    files: Iterable[Sighting],
    missing: Iterable[str],
    now: datetime,
    settle: timedelta,
    companion_wait: timedelta,
    complete: Collection[str] = (),
) -> Verdict:
    """Settled: every file is there with some content, none has changed for `settle`, and the required companions are
    there or have been waited for. Raw data then goes ahead without them; an analysis that needs them waits.

    The wait for companions begins when the last file that is there was finished: a detector may write for hours, and
    what is exported from its file comes after.

    Args:
        now: when the present listing was begun, by our clock.
        complete: files of which their writer says that they are finished. They need not have been quiet for long, but
            two listings must show the same: the writer may be mistaken, or its disk slow to show what it wrote.
    """
    seen = list(files)
    if not seen:
        return Verdict(False, "no file has been seen")
    for file in seen:
        if file.bytes == 0:
            return Verdict(False, f"{file.path} is empty so far")
        quiet = max(now - file.unchanged_since, timedelta(0))
        if file.path in complete and file.unchanged_since < now:
            continue
        if quiet < settle:
            return Verdict(False, f"{file.path} changed {quiet.total_seconds():.0f} s ago")
    lacking = list(missing)
    waited = max(now - max(file.unchanged_since for file in seen), timedelta(0))
    if lacking and waited < companion_wait:
        return Verdict(False, f"waiting for {', '.join(lacking)} beside {seen[0].path}")
    return Verdict(True, f"went ahead without {', '.join(lacking)}" if lacking else "")
