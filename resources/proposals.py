"""The schedule of shifts: a CSV file that says whose beam time it was. Read again whenever it has changed.

    beamline,start,end,proposal,investigator,groups
    7.0.1.1,2026-11-20T08:00-08:00,2026-11-22T08:00-08:00,ALS-12345,Ada Lovelace,ALS-12345 guests

`beamline` is the id or the name in the spec; lines of others are passed over. Times have a zone. `groups` are
separated by spaces. A file that is missing or has a mistake gives no proposal to anything: a guess would show data to
the wrong people. It keeps nobody from noticing scans; they are assigned once it is mended.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from beamlines.policy.proposal import Belongs, Shift, belongs, known, refusal
from beamlines.spec import Spec
from resources.ledger.location import state_dir

COLUMNS = ("beamline", "start", "end", "proposal", "investigator", "groups")
NEEDED = COLUMNS[:4]


class ScheduleError(Exception):
    """The schedule cannot be used. Says which file, which lines, why, and what to do."""


@dataclass(frozen=True)
class Schedule:
    """What is known from the schedule of a beamline.

    Attributes:
        shifts: in order; None when there is a schedule that cannot be read.
        trouble: why not, for staff.
        stamp: changes with the file.
    """

    shifts: tuple[Shift, ...] | None = ()
    trouble: str | None = None
    stamp: tuple[str, int, int] | None = None

    def belongs(self, spec: Spec, path: str, notified: str | None, written: datetime, first_seen: datetime) -> Belongs:
        return belongs(spec.proposals, path, notified, self.shifts, written, first_seen)

    def of(self, proposal: str, source: str) -> Belongs:
        """A proposal that somebody names, with the investigator and groups that the schedule has for it."""
        return known(proposal, source, self.shifts or ())


_kept: dict[tuple[str, str], Schedule] = {}


def schedule(spec: Spec) -> Schedule:
    """The schedule as the file has it now. A relative path is below ALS_STATE. Raises nothing."""
    if spec.proposals.schedule is None:
        return Schedule()
    file = state_dir() / Path(spec.proposals.schedule).expanduser()
    try:
        status = file.stat()
    except OSError as error:
        why = f"the schedule of proposals {file} cannot be read: {error.strerror}"
        return Schedule(None, f"{why}. What to do: put it there, or correct `schedule` under proposals in defs.yaml.")
    stamp = (str(file), status.st_mtime_ns, status.st_size)
    known = _kept.get((spec.id, str(file)))
    if known is None or known.stamp != stamp:
        try:
            known = Schedule(tuple(read(file, spec)), None, stamp)
        except ScheduleError as error:
            known = Schedule(None, str(error), stamp)
        _kept[spec.id, str(file)] = known
    return known


def read(file: Path, spec: Spec) -> list[Shift]:
    """The shifts of a beamline, in order. Raises ScheduleError."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ScheduleError(f"the schedule of proposals {file} cannot be read: {why}. What to do: mend it.") from None
    lines = csv.DictReader(text.splitlines(), skipinitialspace=True)
    lacking = [name for name in NEEDED if name not in (lines.fieldnames or ())]
    if lacking:
        raise _mistake(file, 1, f"there is no column {lacking[0]!r}; its columns are {', '.join(COLUMNS)}")
    found: list[Shift] = []
    try:
        for row in lines:
            if any(row.values()) and (row["beamline"] or "").strip() in (spec.id, spec.name):
                found.append(_shift(file, lines.line_num, row))
    except csv.Error as error:
        raise _mistake(file, lines.line_num, str(error)) from None
    found.sort(key=lambda shift: shift.start)
    latest: Shift | None = None
    for shift in found:
        if latest is not None and shift.start < latest.end:
            first, second = sorted((latest.line, shift.line))
            raise _mistake(file, second, f"its shift overlaps with that of line {first}")
        latest = shift
    return found


def _shift(file: Path, line: int, row: Mapping[str, str | None]) -> Shift:
    start, end = (_time(file, line, name, (row[name] or "").strip()) for name in ("start", "end"))
    if end <= start:
        raise _mistake(file, line, "the shift ends before it begins")
    proposal, groups = (row["proposal"] or "").strip(), (row.get("groups") or "").replace(";", " ").split()
    for name in (proposal, *groups):
        if why := refusal(name):
            raise _mistake(file, line, why)
    return Shift(line, start, end, proposal, (row.get("investigator") or "").strip() or None, tuple(groups))


def _time(file: Path, line: int, name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _mistake(file, line, f"{name}: {text!r} is no time like 2026-11-20T08:00-08:00") from None
    if moment.tzinfo is None:
        raise _mistake(file, line, f"{name}: {text!r} has no time zone; write 2026-11-20T08:00-08:00")
    return moment.astimezone(UTC)


def _mistake(file: Path, line: int, why: str) -> ScheduleError:
    return ScheduleError(
        f"the schedule of proposals {file}, line {line}: {why}. What to do: correct that line; until then no scan is "
        "given a proposal from it."
    )
