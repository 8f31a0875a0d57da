"""What a Globus task document means for the platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from resources.tasks import TaskState, TaskStatus

# another attempt of the same thing would meet the same answer until a person has acted
LASTING = ("PERMISSION_DENIED", "FILE_NOT_FOUND")
AFTER = "the last fault before was: "
_HEALTHY = ("", "OK", "Queued")
_WORDS = {
    "FILE_NOT_FOUND": "a file is not at the source",
    "PERMISSION_DENIED": "an endpoint does not allow access to a path",
    "FILE_SIZE_CHANGED": "a file changed its size while it was copied",
    "VERIFY_CHECKSUM": "the checksums of source and destination differ",
    "QUOTA_EXCEEDED": "the quota at the destination is used up",
    "NO_SPACE_LEFT": "the disk at the destination is full",
    "ENDPOINT_ERROR": "an endpoint reported an error",
    "ENDPOINT_TOO_BUSY": "an endpoint is too busy",
    "CONNECT_FAILED": "an endpoint cannot be reached",
    "CONNECTION_RESET": "an endpoint dropped the connection",
    "GC_NOT_CONNECTED": "a Globus Connect Personal endpoint is not connected",
    "GC_PAUSED": "a Globus Connect Personal endpoint is paused",
    "NO_CREDENTIALS": "a credential for an endpoint is missing",
    "EXPIRED": "a credential for an endpoint has expired",
    "PAUSED": "an administrator of an endpoint has paused it",
    "TIMEOUT": "the task did not end before its deadline",
    "CANCELED": "the task was cancelled",
}


@dataclass(frozen=True)
class Event:
    """One entry of a task's event log. at: aware UTC datetime."""

    at: datetime
    code: str
    description: str
    details: str
    is_error: bool


def words(code: str) -> str:
    """What an event code says, for people."""
    return _WORDS.get(code, code.lower().replace("_", " "))


def event(document: Mapping[str, Any]) -> Event:
    return Event(
        datetime.fromisoformat(document["time"]),
        str(document["code"]),
        str(document["description"]),
        str(document["details"]),
        bool(document["is_error"]),
    )


def status(task: Mapping[str, Any], events: Sequence[Event] = (), pause: str = "") -> TaskStatus:
    """A TaskStatus of a task document.

    events: newest first; needed to tell why a task FAILED. pause: why it is paused, when that is known.
    """
    native = str(task["status"])
    nice = str(task.get("nice_status") or "")
    trouble = "" if nice in _HEALTHY else nice
    state, reason, code = TaskState.RUNNING, "", trouble
    if native == "SUCCEEDED":
        state, code = TaskState.SUCCEEDED, ""
    elif native == "FAILED":
        state, reason, code = _failed(task, events)
    elif native == "INACTIVE":
        state, code = TaskState.PAUSED, trouble or "INACTIVE"
        reason = f"{words(trouble or 'EXPIRED')}: renew it on the task's page, and Globus goes on"
    elif task.get("is_paused"):
        state, code = TaskState.PAUSED, trouble or "PAUSED"
        reason = pause or words("PAUSED")
    elif native != "ACTIVE":
        reason = f"Globus calls it {native}, which is not known here"
    elif nice == "Queued":
        state, reason = TaskState.QUEUED, "waits for its turn: Globus runs three tasks of a user at a time"
    elif trouble:
        reason = f"{words(trouble)}; Globus tries again until {task.get('deadline')}"
    return TaskStatus(str(task["task_id"]), state, native, reason, code, code not in LASTING, detail=_detail(task))


def _failed(task: Mapping[str, Any], events: Sequence[Event]) -> tuple[TaskState, str, str]:
    """State, reason and code of a task that FAILED: what is fatal, or else the last fault before it gave up."""
    by_admin = task.get("canceled_by_admin")
    last = next((e for e in events if e.is_error and e.code not in ("TIMEOUT", "CANCELED")), None)
    if by_admin or task.get("subtasks_canceled") or any(e.code == "CANCELED" for e in events):
        who = f"an administrator of the {by_admin} endpoint" if by_admin else "a person"
        said = task.get("canceled_by_admin_message") or (f"{AFTER}{_fault(last)}" if last else "")
        return TaskState.CANCELLED, f"cancelled by {who}" + (f": {said}" if said else ""), "CANCELED"
    fatal = task.get("fatal_error") or {}
    code, said = str(fatal.get("code") or ""), str(fatal.get("description") or "")
    if code in ("", "TIMEOUT") and last is not None:
        late = f"{words('TIMEOUT')}; " if code == "TIMEOUT" or task.get("subtasks_expired") else ""
        return TaskState.FAILED, f"{late}{_fault(last)}", last.code
    if not code:
        code = "TIMEOUT" if task.get("subtasks_expired") else str(task.get("nice_status") or "FAILED")
    return TaskState.FAILED, words(code) + (f" ({_line(said)})" if said else ""), code


def _fault(last: Event) -> str:
    return f"{words(last.code)} ({_line(last.details)})"


def _line(text: str) -> str:
    """The lines of an event's details as one, not too long."""
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())[:300]


def _detail(task: Mapping[str, Any]) -> dict[str, Any]:
    kept = (
        "files",
        "files_transferred",
        "files_skipped",
        "bytes_transferred",
        "effective_bytes_per_second",
        "faults",
        "subtasks_retrying",
        "subtasks_failed",
        "deadline",
    )
    return {key: task[key] for key in kept if task.get(key) is not None}
