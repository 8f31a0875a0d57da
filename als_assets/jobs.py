"""What asset families ask of compute facilities: one `als-job` request, and how its outcome is read.

A job's first act is an atomic claim of its attempt's directory, its last one `outcome.json` in it. The outcome is what
counts: Slurm's word for the job explains the lack of one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from resources.errors import NotFound
from resources.facilities import Work as Folders
from resources.ledger.tasks import Task
from resources.storage import joined
from resources.tasks import TaskState

MOST_BYTES = 4_000_000  # of a file fetched through the Superfacility API
STOPPED = 75  # sysexits' EX_TEMPFAIL: ended by a signal of Slurm, worth another attempt


@dataclass(frozen=True)
class Command:
    """One program run of a job. `id` names it in the outcome; `input` is given to its standard input as JSON."""

    id: str
    argv: Sequence[str]
    input: Mapping[str, Any] | None = None


def attempt_dir(folders: Folders, key: str) -> str:
    return joined(folders.attempts, key)


def request(folders: Folders, key: str, directives: Mapping[str, str], commands: Sequence[Command]) -> dict[str, Any]:
    """The request document of a Slurm job; see resources/sfapi.py."""
    account = {"account": folders.account} if folders.account else {}
    return {
        "directives": {**account, **directives},
        "job": {
            "schema": "als-job/1",
            "key": key,
            "attempt_dir": attempt_dir(folders, key),
            "commands": [
                {"id": c.id, "argv": list(c.argv), **({} if c.input is None else {"input": dict(c.input)})}
                for c in commands
            ],
        },
    }


def read_json(text: bytes) -> Any:
    """A document that a program left. What is not a finite number is null: the ledger keeps proper JSON only."""
    return json.loads(text, parse_constant=lambda _: None)


@dataclass(frozen=True)
class Ended:
    """How one command of a job ended. exit None: it was never run, or nobody knows."""

    exit: int | None
    message: str
    seconds: float | None = None

    @property
    def ok(self) -> bool:
        return self.exit == 0


def outcome(compute: Any, task: Task) -> dict[str, Ended]:
    """command id -> how it ended. A job without an outcome ended early; then Slurm's reason is in every entry.

    Raises Unavailable when the facility cannot be asked now.
    """
    job = task.request["job"]
    ids = [command["id"] for command in job["commands"]]
    try:
        text = compute.read(joined(job["attempt_dir"], "outcome.json"), MOST_BYTES)
    except NotFound:
        reason = task.reason or f"job {task.external_id} ended as {task.native} without an outcome"
        return {i: Ended(None, reason) for i in ids}
    document = read_json(text)
    ended = {
        str(c["id"]): Ended(int(c["exit"]), str(c.get("message") or ""), c.get("seconds"))
        for c in document["commands"]
        if c.get("exit") is not None
    }
    reason = task.reason or f"job {task.external_id} ended as {task.native} before its turn came"
    return {i: _explained(ended.get(i) or Ended(None, reason), task) for i in ids}


def _explained(ended: Ended, task: Task) -> Ended:
    """Of a program that was stopped, Slurm knows better why: its time was up, its memory, somebody cancelled it."""
    own = (task.code or "").startswith(("EXIT", "SIGNAL"))  # Slurm only repeats how the program ended
    if not stopped(ended) or task.state == TaskState.SUCCEEDED or own or not task.reason:
        return ended
    return replace(ended, message=task.reason)


def stopped(ended: Ended) -> bool:
    """Did it not come to an end of its own?"""
    return ended.exit is None or ended.exit < 0 or ended.exit == STOPPED or ended.exit > 128


def transient(ended: Ended, task: Task) -> bool:
    """May another attempt work? After a program's own verdict on its input no; when it was stopped, Slurm's word for
    the job decides: yes after a lost node, no when it had run into its time limit or was cancelled."""
    return stopped(ended) and task.transient is not False
