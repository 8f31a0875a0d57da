"""When is a transfer that only goes on trying to be ended?

Globus tries a file that it cannot read or write again and again, for days, while every other scan of the task has
arrived and waits for the task's end. A task is ended early when its trouble is a file's and nothing has moved for some
time: what arrived counts, what did not is tried again in smaller company, in the end alone. Trouble of an endpoint as
a whole is left to Globus, which goes on by itself once it is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

OF_A_FILE = ("PERMISSION_DENIED", "FILE_NOT_FOUND", "FILE_SIZE_CHANGED", "VERIFY_CHECKSUM")
ENDPOINT_PATIENCE = 4  # times as long: an endpoint that has served other files of the task may still recover
MOST_DAMAGED = 10  # arrivals with a wrong checksum; each of them moves bytes


@dataclass(frozen=True)
class Progress:
    """How far a task has come, as seen over many polls.

    Attributes:
        files, bytes: the most that have arrived so far. faults: of the task, when the last file arrived.
        since: when one of them last grew, by our clock.
    """

    files: int
    bytes: int
    faults: int
    since: datetime


def progress(before: Progress | None, files: int, bytes_: int, faults: int, now: datetime) -> Progress:
    """What is to be remembered after another look."""
    if before is None or files > before.files:
        return Progress(files, max(bytes_, before.bytes if before else 0), faults, now)
    if bytes_ > before.bytes:
        return Progress(files, bytes_, before.faults, now)
    return before


def hopeless(code: str, seen: Progress, total: int, faults: int, now: datetime, stall: timedelta) -> bool:
    """Is a live task to be ended whose present trouble is `code`, with so many files and faults in all?"""
    if not code:
        return False
    still = now - seen.since
    if code == "VERIFY_CHECKSUM" and faults - seen.faults >= MOST_DAMAGED:
        return True
    if code in OF_A_FILE:
        return still >= stall
    return still >= ENDPOINT_PATIENCE * stall and 0 < seen.files < total
