"""Slurm's job states, as the platform understands them, in words for people.

Every state that is not a live one is an end, known to us or not: a client that waits for the ends it knows would wait
for ever on the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resources.tasks import TaskState, TaskStatus

DUPLICATE_EXIT = 17  # als-job: another job of the same key holds the attempt

QUEUED = {"PENDING", "REQUEUED", "REQUEUE_FED"}
RUNNING = {"RUNNING", "CONFIGURING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "POWER_UP_NODE"}
PAUSED = {"SUSPENDED", "STOPPED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
LIVE = QUEUED | RUNNING | PAUSED

# an end that is not COMPLETED → (could another attempt succeed?, what happened, in words)
ENDS: dict[str, tuple[bool, str]] = {
    "NODE_FAIL": (True, "a compute node failed while the job ran"),
    "BOOT_FAIL": (True, "the compute nodes did not boot"),
    "LAUNCH_FAILED": (True, "the job could not be launched on its nodes"),
    "RECONFIG_FAIL": (True, "the compute nodes could not be reconfigured"),
    "PREEMPTED": (True, "the job was preempted by one of higher priority"),
    "REVOKED": (True, "the job was revoked because a sibling cluster took it"),
    "TIMEOUT": (False, "the job ran into its time limit{limit}: raise the time limit of this analysis"),
    "DEADLINE": (False, "the job could not have ended before its deadline"),
    "OUT_OF_MEMORY": (False, "the job needed more memory than it had: raise its memory or use a larger node"),
}

PENDING_REASONS: dict[str, str] = {
    "None": "waits in the queue",
    "Priority": "waits in the queue behind jobs of higher priority",
    "Resources": "is next, and waits for free nodes",
    "Dependency": "waits for another job",
    "BeginTime": "waits for its start time",
    "Licenses": "waits for a licence, such as a file system that is in maintenance",
    "JobHeldUser": "is held by its user: release it with scontrol release",
    "JobHeldAdmin": "is held by an administrator",
    "Reservation": "waits for its reservation",
    "ReqNodeNotAvail": "waits for nodes that are not available, often before a maintenance",
    "PartitionDown": "waits because the partition is down",
    "PartitionNodeLimit": "asks for more nodes than the partition allows",
    "PartitionTimeLimit": "asks for more time than the partition allows",
    "QOSMaxJobsPerUserLimit": "waits because the user has as many running jobs as the QOS allows",
    "QOSGrpCpuLimit": "waits because the QOS is fully used",
    "AssocGrpCPUMinutesLimit": "waits because the project's allocation is used up",
    "AssocGrpBillingMinutes": "waits because the project's allocation is used up",
    "AssocMaxJobsLimit": "waits because the project has as many running jobs as it may",
    "InvalidAccount": "waits because the project may not run jobs",
    "InvalidQOS": "waits because the QOS may not be used",
    "launch failed requeued held": "is held because its launch failed",
}
STUCK = {
    "JobHeldUser", "JobHeldAdmin", "PartitionNodeLimit", "PartitionTimeLimit", "InvalidAccount", "InvalidQOS",
    "AssocGrpCPUMinutesLimit", "AssocGrpBillingMinutes",
}  # somebody must act  # fmt: skip

# exit codes of the programs of als-analysis that another attempt would meet again, and of a shell that finds no program
PERMANENT_EXITS = {2, 3, 4, 5, 6, 7, 8, 126, 127}


def status(job_id: str, row: Mapping[str, Any]) -> TaskStatus | None:
    """A row of sacct or squeue as a task's status; None when the row says no state."""
    words = str(row.get("state") or "").strip().split()
    if not words:
        return None
    native = _whole(words[0].upper())
    detail = _detail(row)
    if native in LIVE:
        return _live(job_id, native, str(row.get("reason") or "None"), detail)
    code, signalled = _exit(row)
    detail |= {"exit_code": code, "signal": signalled}
    if native == "COMPLETED" and not code and not signalled:
        return TaskStatus(job_id, TaskState.SUCCEEDED, native, detail=detail)
    if native == "CANCELLED":
        by = words[2] if len(words) > 2 and words[1] == "by" else ""
        who = {"": "somebody", "0": "the system's administrators"}.get(by, f"user id {by}")
        return TaskStatus(
            job_id, TaskState.CANCELLED, native, f"the job was cancelled by {who}", native, by == "0", detail=detail
        )
    if native in ENDS:
        transient, reason = ENDS[native]
        limit = f" of {row['timelimit']}" if row.get("timelimit") else ""
        reason = reason.replace("{limit}", limit)
        return TaskStatus(job_id, TaskState.FAILED, native, reason, native, transient, detail=detail)
    if native in ("FAILED", "COMPLETED"):
        return _failed(job_id, native, code, signalled, detail)
    return TaskStatus(
        job_id,
        TaskState.FAILED,
        native,
        f"the job ended in a state that is not known here: {native}",
        native,
        detail=detail,
    )


def _failed(job_id: str, native: str, code: int, signalled: int, detail: dict[str, Any]) -> TaskStatus:
    duplicate = code == DUPLICATE_EXIT
    if duplicate:
        reason = "another job of the same key holds this attempt"
    elif code in (126, 127):
        reason = f"the program could not be started on the compute node (exit code {code})"
    elif signalled:
        reason = f"the job was killed by signal {signalled}"
    else:
        reason = f"the job's program failed with exit code {code}"
    return TaskStatus(
        job_id, TaskState.FAILED, native, reason, f"EXIT {code}" if not signalled else f"SIGNAL {signalled}",
        transient=code not in PERMANENT_EXITS, duplicate=duplicate, detail=detail,
    )  # fmt: skip


def _live(job_id: str, native: str, reason: str, detail: dict[str, Any]) -> TaskStatus:
    if native in RUNNING:
        return TaskStatus(job_id, TaskState.RUNNING, native, detail=detail)
    if native in PAUSED:
        words = f"the job is held by Slurm ({native.lower().replace('_', ' ')}) until somebody releases it"
        return TaskStatus(job_id, TaskState.PAUSED, native, words, native, detail=detail)
    reason = reason.strip("()")
    head = reason.split(",")[0]
    known = PENDING_REASONS.get(reason) or PENDING_REASONS.get(head)
    words = f"the job {known}" if known else "the job waits in the queue"
    if head not in ("None", ""):
        words += f" ({reason})"
    state = TaskState.PAUSED if head in STUCK else TaskState.QUEUED
    return TaskStatus(job_id, state, native, words, "" if head == "None" else head, detail=detail)


def _whole(state: str) -> str:
    """sacct cuts long states: "OUT_OF_ME+"."""
    if not state.endswith("+"):
        return state
    fitting = [s for s in {*LIVE, *ENDS, "COMPLETED", "CANCELLED", "FAILED"} if s.startswith(state[:-1])]
    return fitting[0] if len(fitting) == 1 else state


def _exit(row: Mapping[str, Any]) -> tuple[int, int]:
    code, _, signalled = str(row.get("exitcode") or "0:0").partition(":")
    return (int(code) if code.isdigit() else 0, int(signalled) if signalled.isdigit() else 0)


def _detail(row: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {
        "name": row.get("jobname") or row.get("name"), "account": row.get("account"), "qos": row.get("qos"),
        "node": row.get("nodelist"), "elapsed": row.get("elapsed") or row.get("time"),
        "time_limit": row.get("timelimit") or row.get("time_limit"),
    }  # fmt: skip
    return {name: str(value) for name, value in wanted.items() if value}
