"""Remembering from poll to poll how far a transfer has come, and that it was given up: kept in the task's `detail`.

The rule itself is `beamlines.policy.stalled`. Ending such a task is no failure of a person or a facility, so that its
end is written down with the trouble that it was ended for, not as "cancelled".
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from beamlines.policy import stalled as policy
from resources.globus_tasks import AFTER, LASTING, words
from resources.ledger.tasks import Task
from resources.tasks import TaskState, TaskStatus

PROGRESS, GIVEN_UP = "progress", "given_up"


def noted(task: Task, status: TaskStatus, now: datetime, stall_s: float) -> TaskStatus:
    """`status` of a transfer with what is to be remembered; anything else as it is."""
    known = task.detail or {}
    if not status.state.live:
        return _explained(status, known[GIVEN_UP]) if known.get(GIVEN_UP) else status
    if status.state is not TaskState.RUNNING or "files_transferred" not in status.detail:
        return status
    files, faults = int(status.detail["files_transferred"]), int(status.detail.get("faults", 0))
    bytes_ = int(status.detail.get("bytes_transferred", 0))
    seen = policy.progress(_read(known.get(PROGRESS)), files, bytes_, faults, now)
    remembered: dict[str, Any] = {
        PROGRESS: {"files": seen.files, "bytes": seen.bytes, "faults": seen.faults, "since": seen.since.isoformat()}
    }
    total = int(status.detail.get("files", 0))
    if known.get(GIVEN_UP) or policy.hopeless(status.code, seen, total, faults, now, timedelta(seconds=stall_s)):
        remembered[GIVEN_UP] = known.get(GIVEN_UP) or status.code
    return replace(status, detail={**status.detail, **remembered})


def given_up(status: TaskStatus) -> bool:
    """Is this live task to be ended?"""
    return status.state.live and bool(status.detail.get(GIVEN_UP))


def _read(kept: dict[str, Any] | None) -> policy.Progress | None:
    if not kept:
        return None
    since = datetime.fromisoformat(kept["since"])
    return policy.Progress(int(kept["files"]), int(kept["bytes"]), int(kept["faults"]), since)


def _explained(status: TaskStatus, code: str) -> TaskStatus:
    if status.state is not TaskState.CANCELLED:  # it came to an end of its own before
        return status
    _, _, fault = status.reason.partition(AFTER)
    reason = f"{fault or words(code)}; ended after nothing else had moved for a while"
    return replace(status, state=TaskState.FAILED, reason=reason, code=code, transient=code not in LASTING)
