"""The one interface to whatever takes its time at a facility: a Globus task, a Slurm job, a Compute task.

A `TaskSystem` knows how to talk to one service. When a task is submitted, found again or given up is decided here,
once, for all of them (see `once.py`), never in a client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class TaskState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"  # alive, but somebody or something must act (Globus: is_paused, INACTIVE)
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def live(self) -> bool:
        return self in (TaskState.QUEUED, TaskState.RUNNING, TaskState.PAUSED)


@dataclass(frozen=True)
class TaskStatus:
    """One execution of a task, as its service describes it now.

    Attributes:
        id: the service's id (Globus task id, Slurm job id).
        state: what it means for us. Every native state that is not a live one is an ended one.
        native: the service's own word ("ACTIVE", "NODE_FAIL", "PENDING").
        reason: one sentence for people: why it waits, or why it failed; "" when there is nothing to say.
        code: the service's code of the last fault ("FILE_NOT_FOUND", "OUT_OF_MEMORY"), or "".
        transient: for a failed task: could another attempt of the same thing succeed?
        duplicate: this execution ended at once because another one of the same key holds the claim.
        detail: small JSON-able numbers for people (bytes, files, faults, node, exit code).
    """

    id: str
    state: TaskState
    native: str
    reason: str = ""
    code: str = ""
    transient: bool = True
    duplicate: bool = False
    detail: Mapping[str, Any] = field(default_factory=dict)


class TaskSystem(Protocol):
    """What `once.py` and the sensors need from a service. All calls block; all raise only `resources.errors`.

    `system` is the kind ("globus", "sfapi", "compute"); `service` is the name that outages and pauses are kept under.
    `same_key_same_task`: True when the service itself answers a repeated key with the first task (Globus), False when
    the key must be looked up before a resubmission (Slurm).
    """

    system: str
    service: str
    same_key_same_task: bool

    def new_key(self, proposed: str) -> str:
        """An idempotency key, stored before anything is submitted. `proposed` is ours; Globus gives its own."""
        ...

    def script(self, key: str, request: Mapping[str, Any]) -> str | None:
        """The batch script that `submit` would send; None for a service that takes none. Sends nothing."""
        ...

    def submit(self, key: str, request: Mapping[str, Any]) -> str:
        """Submit `request` under `key` and return the service's id. Never retries by itself a POST that might have
        taken effect unless the service de-duplicates by key. Raises Unavailable when the outcome is not known."""
        ...

    def find(self, key: str) -> list[TaskStatus]:
        """Every execution known under `key`, oldest first. [] means: none known now (service caches may lag)."""
        ...

    def poll(self, ids: Iterable[str]) -> dict[str, TaskStatus]:
        """The present status of many tasks in as few calls as the service allows. An id that the service does not
        know is left out of the answer: that is not a failure."""
        ...

    def cancel(self, task_id: str) -> None:
        """Ask the service to end the task. Not an error when it has ended already."""
        ...

    def url(self, task_id: str) -> str | None:
        """The page on which a person sees this task, or None."""
        ...
