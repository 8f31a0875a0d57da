"""What Slurm's states mean for a task."""

from __future__ import annotations

from typing import Any

import pytest
from sfapi_client.jobs import JobState

from resources.slurm_states import status
from resources.tasks import TaskState, TaskStatus


def of(state: str, **row: Any) -> TaskStatus:
    found = status("7", {"state": state, **row})
    assert found is not None
    return found


@pytest.mark.parametrize("state", [s.value for s in JobState])
def test_every_state_that_the_client_knows_is_either_live_or_an_end(state: str) -> None:
    live = {
        "PENDING", "CONFIGURING", "COMPLETING", "RUNNING", "RESV_DEL_HOLD", "REQUEUE_FED", "REQUEUE_HOLD", "REQUEUED",
        "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED",
    }  # fmt: skip
    assert of(state).state.live == (state in live)


@pytest.mark.parametrize("state", ["FROBNICATED", "NODE_FAIL*", "DEADBEEF+"])
def test_a_state_that_nobody_knows_is_an_end_that_may_be_tried_again(state: str) -> None:
    found = of(state)
    assert (found.state, found.transient, found.native) == (TaskState.FAILED, True, state)
    assert state in found.reason


@pytest.mark.parametrize(
    ("state", "transient", "words"),
    [
        ("NODE_FAIL", True, "node failed"),
        ("BOOT_FAIL", True, "did not boot"),
        ("PREEMPTED", True, "higher priority"),
        ("REVOKED", True, "sibling"),
        ("TIMEOUT", False, "time limit of 00:30:00: raise"),
        ("DEADLINE", False, "deadline"),
        ("OUT_OF_MEMORY", False, "raise its memory"),
        ("OUT_OF_ME+", False, "raise its memory"),
    ],
)
def test_an_end_by_slurm_says_why_and_whether_another_attempt_makes_sense(
    state: str, transient: bool, words: str
) -> None:
    found = of(state, timelimit="00:30:00", exitcode="0:9")
    assert (found.state, found.transient) == (TaskState.FAILED, transient)
    assert words in found.reason


def test_a_job_is_done_only_when_its_program_was() -> None:
    assert of("COMPLETED", exitcode="0:0").state is TaskState.SUCCEEDED
    assert of("COMPLETED", exitcode="0:9").state is TaskState.FAILED


@pytest.mark.parametrize(
    ("exitcode", "transient", "duplicate"),
    [("17:0", True, True), ("75:0", True, False), ("1:0", True, False), ("3:0", False, False), ("127:0", False, False),
     ("0:9", True, False)],
)  # fmt: skip
def test_an_exit_code_says_whether_the_program_would_fail_again(
    exitcode: str, transient: bool, duplicate: bool
) -> None:
    found = of("FAILED", exitcode=exitcode)
    assert (found.state, found.transient, found.duplicate) == (TaskState.FAILED, transient, duplicate)


def test_a_person_who_cancels_a_job_means_it_and_a_maintenance_does_not() -> None:
    by_person, by_root = of("CANCELLED by 4711"), of("CANCELLED by 0")
    assert (by_person.state, by_person.transient) == (TaskState.CANCELLED, False)
    assert "user id 4711" in by_person.reason
    assert by_root.transient
    assert not of("CANCELLED").transient


@pytest.mark.parametrize(
    ("reason", "state", "words"),
    [
        ("Priority", TaskState.QUEUED, "behind jobs of higher priority (Priority)"),
        ("(Resources)", TaskState.QUEUED, "free nodes"),
        ("JobHeldUser", TaskState.PAUSED, "scontrol release"),
        ("AssocGrpCPUMinutesLimit", TaskState.PAUSED, "allocation is used up"),
        ("ReqNodeNotAvail, UnavailableNodes:nid[1-9]", TaskState.QUEUED, "maintenance"),
        ("SomethingNew", TaskState.QUEUED, "waits in the queue (SomethingNew)"),
        ("None", TaskState.QUEUED, "the job waits in the queue"),
    ],
)
def test_a_job_that_waits_says_what_for(reason: str, state: TaskState, words: str) -> None:
    found = of("PENDING", reason=reason)
    assert found.state is state
    assert words in found.reason


@pytest.mark.parametrize("row", [{}, {"state": None}, {"state": "  "}])
def test_a_row_without_a_state_says_nothing(row: dict[str, Any]) -> None:
    assert status("7", row) is None
