"""Transfer and delete tasks: what is kept of one, how it is shown, and who works on it.

Documents in the box:

    transfer_task     {task_id, type, state, …}: counters and status, small
    transfer_request  {task_id: what was submitted}
    transfer_live     the tasks that have not ended; the queue, oldest first
    submission        {submission_id: task_id}
    event/<task>      its events, in order
    done/<task>       its files that arrived, in order
    skipped/<task>    its files that were left out because of skip_source_errors

A mover holds the lock file of its task for as long as it lives: who holds the lock works on the task, whatever was
killed and started again meanwhile. Three tasks of each type run at once, the others wait.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox import workers
from sandbox.box import Box, Doc, Documents

OWNER = "5a4db0c5-0000-4000-8000-000000000001"
AT_ONCE = 3
ENDED = ("SUCCEEDED", "FAILED")
COUNTERS = (
    "bytes_checksummed",
    "bytes_transferred",
    "directories",
    "effective_bytes_per_second",
    "faults",
    "files",
    "files_skipped",
    "files_transferred",
    "subtasks_canceled",
    "subtasks_expired",
    "subtasks_failed",
    "subtasks_pending",
    "subtasks_retrying",
    "subtasks_skipped_errors",
    "subtasks_succeeded",
    "subtasks_total",
    "symlinks",
)


def now() -> str:
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """ "2021-09-02T18:04:47+00:00", as the service writes times."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def parse_time(text: str) -> datetime:
    """An ISO-8601 time; without a zone it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def accept(box: Box, kind: str, body: Doc) -> tuple[str, bool]:
    """Make the task of a submission, or find the one that it made before. (task id, was it new?)"""
    task_id = str(uuid.uuid4())
    submission = str(body["submission_id"]).lower()
    with box.transaction() as docs:
        known = docs.get("submission", submission)
        if known is not None:
            return str(known["task_id"]), False
        deadline = body.get("deadline") or stamp(datetime.now(UTC) + timedelta(hours=24))
        docs.put("submission", submission, {"task_id": task_id})
        docs.put("transfer_request", task_id, body)
        docs.put("transfer_task", task_id, _new(task_id, kind, body, str(deadline)))
        docs.put("transfer_live", task_id, {"task_id": task_id, "type": kind})
    return task_id, True


def _new(task_id: str, kind: str, body: Doc, deadline: str) -> Doc:
    transfer = kind == "TRANSFER"
    counters = dict.fromkeys(COUNTERS, 0)
    return {
        **counters,
        "task_id": task_id,
        "type": kind,
        "status": "ACTIVE",
        "nice_status": "Queued",
        "is_paused": False,
        "fatal_error": None,
        "label": body.get("label"),
        "request_time": now(),
        "completion_time": None,
        "deadline": stamp(parse_time(deadline)),
        "source_endpoint_id": body.get("source_endpoint") if transfer else body.get("endpoint"),
        "destination_endpoint_id": body.get("destination_endpoint"),
        "sync_level": body.get("sync_level"),
        **{
            flag: bool(body.get(flag, False))
            for flag in (
                "verify_checksum",
                "preserve_timestamp",
                "encrypt_data",
                "skip_source_errors",
                "fail_on_quota_errors",
                "delete_destination_extra",
            )
        },
        # kept, not shown
        "_started": None,
        "_cancel": False,
    }


def shown(task: Doc, names: dict[str, str]) -> Doc:
    """The task document as the service shows it. `names`: {collection id: display name}."""
    source, destination = task["source_endpoint_id"], task["destination_endpoint_id"]
    ended = task["status"] in ENDED
    nice = None if ended else task["nice_status"]
    return {
        "DATA_TYPE": "task",
        **{key: value for key, value in task.items() if not key.startswith("_")},
        "nice_status": nice,
        "nice_status_short_description": nice,
        "nice_status_details": None,
        "nice_status_expires_in": None if ended else -1,
        "is_ok": None if ended else nice in ("OK", "Queued"),
        "command": "API 0.10",
        "owner_id": OWNER,
        "username": "u_sandbox",
        "history_deleted": False,
        "canceled_by_admin": None,
        "canceled_by_admin_message": None,
        "filter_rules": None,
        "recursive_symlinks": "ignore",
        "source_endpoint": names.get(source, source),
        "source_endpoint_display_name": names.get(source),
        "destination_endpoint": names.get(destination, destination) if destination else None,
        "destination_endpoint_display_name": names.get(destination) if destination else None,
    }


def change(box: Box, task_id: str, **values: Any) -> Doc:
    """Set fields of a task; everything else keeps what others wrote meanwhile."""
    with box.transaction() as docs:
        return change_within(docs, task_id, **values)


def change_within(docs: Documents, task_id: str, **values: Any) -> Doc:
    task = docs.get("transfer_task", task_id)
    if task is None:
        raise KeyError(task_id)
    task.update(values)
    docs.put("transfer_task", task_id, task)
    return task


def add_event(docs: Documents, task_id: str, code: str, description: str, details: str, is_error: bool = False) -> None:
    document = {"code": code, "description": description, "details": details, "is_error": is_error}
    common = {"DATA_TYPE": "event", "parent_task_id": None, "time": now()}
    docs.put(f"event/{task_id}", uuid.uuid4().hex, {**common, **document})


def end(docs: Documents, task_id: str, status: str, **values: Any) -> None:
    """End a task, once: a task that has ended stays as it is."""
    task = docs.get("transfer_task", task_id)
    if task is None or task["status"] in ENDED:
        return
    docs.delete("transfer_live", task_id)
    change_within(docs, task_id, status=status, completion_time=now(), is_paused=False, **values)


def cancel(box: Box, task_id: str) -> str:
    """Canceled (ended now), CancelAccepted (its mover has been told), TaskComplete, or NotFound."""
    with box.transaction() as docs:
        task = docs.get("transfer_task", task_id)
        if task is None:
            return "NotFound"
        if task["status"] in ENDED:
            return "TaskComplete"
        if task["_started"] is None:
            end_canceled(docs, task_id)
            return "Canceled"
        change_within(docs, task_id, _cancel=True)
    supervise(box)
    return "CancelAccepted"


def end_canceled(docs: Documents, task_id: str) -> None:
    task = docs.get("transfer_task", task_id) or {}
    left = task.get("subtasks_pending", 0) + task.get("subtasks_retrying", 0)
    add_event(docs, task_id, "CANCELED", "canceled", "The task was canceled by its owner.", is_error=True)
    end(docs, task_id, "FAILED", subtasks_canceled=max(1, left), subtasks_pending=0, subtasks_retrying=0)


# who works on what


def lock(box: Box, name: str, wait: bool = False) -> int | None:
    """Take a lock file: its file descriptor, or None when somebody else holds it. The lock dies with its holder."""
    folder = box.dir / "movers"
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def unlock(descriptor: int) -> None:
    os.close(descriptor)


def claim(box: Box, most: int) -> list[tuple[str, int]]:
    """Take the locks of up to `most` tasks that nobody works on and whose turn it is. [(task id, file descriptor)]"""
    if not box.all("transfer_live"):
        return []
    queue = lock(box, "queue", wait=True)
    try:
        mine: list[tuple[str, int]] = []
        busy = {"TRANSFER": 0, "DELETE": 0}
        for live in box.all("transfer_live"):
            if busy[live["type"]] >= AT_ONCE:
                continue
            busy[live["type"]] += 1
            if len(mine) < most:
                descriptor = lock(box, live["task_id"])
                if descriptor is not None:
                    mine.append((live["task_id"], descriptor))
        return mine
    finally:
        if queue is not None:
            unlock(queue)


def supervise(box: Box) -> None:
    """Start a mover for every task whose turn it is and that has none: new ones, and those whose mover was killed.

    Called on every submission and question about tasks and at every start of the server, so nothing needs to watch.
    """
    for task_id, descriptor in claim(box, most=2 * AT_ONCE):
        arguments = ["--dir", str(box.dir), "--task", task_id, "--lock", str(descriptor)]
        try:
            workers.start(box.dir, "sandbox.mover", arguments, box.dir / "movers" / "log", pass_fds=(descriptor,))
        finally:
            unlock(descriptor)  # ours; the mover has its own
