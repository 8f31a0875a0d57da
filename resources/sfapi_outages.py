"""What NERSC's status page says, by the API: is a resource up, why not, until when, and what is announced.

Asked before every submission: the API takes jobs for a machine that is down, and they are lost or wait unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from resources.errors import Unavailable
from resources.sfapi_session import Session


@dataclass(frozen=True)
class Outage:
    """Of one resource: aware times; `end` None when nobody knows it."""

    start: datetime
    end: datetime | None
    why: str


def up(session: Session, resource: str) -> None:
    """Raises Unavailable, with the reason and when it ends where that is known, when the resource is not up."""
    status = session.get(f"status/{resource}", doing=f"say how {resource} is")
    now = datetime.now(UTC)
    down = str(status.get("status")) == "unavailable"
    for kind in ["outages/planned", "outages"] if down else ["outages/planned"]:
        for outage in _listed(session, kind, resource):
            if outage.start <= now and (outage.end is None or outage.end > now):
                raise _unavailable(session, resource, outage.why, outage.end, now)
    if down:
        notes = status.get("notes") or []
        raise _unavailable(session, resource, str(notes[0] if notes else status.get("description") or ""), None, now)


def coming(session: Session, resource: str, now: datetime) -> list[Outage]:
    """The maintenance that is announced and has not begun, soonest first."""
    found = [outage for outage in _listed(session, "outages/planned", resource) if outage.start > now]
    return sorted(found, key=lambda one: one.start)


def when(text: Any) -> datetime | None:
    """An aware time from what the API writes; None when it is none."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _listed(session: Session, kind: str, resource: str) -> list[Outage]:
    found = []
    for row in session.get(f"status/{kind}/{resource}", doing="list outages") or []:
        start = when(row.get("start_at"))
        if start is not None and row.get("status") not in ("Cancelled", "Completed"):
            found.append(Outage(start, when(row.get("end_at")), str(row.get("description") or row.get("notes") or "")))
    return found


def _unavailable(session: Session, resource: str, why: str, end: datetime | None, now: datetime) -> Unavailable:
    words = f"{resource} is not available" + (f": {why}" if why else "")
    if end is None:
        return Unavailable(session.service, words, "OUTAGE")
    words += f"; expected back {end.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return Unavailable(session.service, words, "OUTAGE", max(1.0, (end - now).total_seconds()))
