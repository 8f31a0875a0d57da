"""Every call that changes something, with its answer lost: done once, and the scan ends done."""

from __future__ import annotations

from typing import Any

import pytest

LOST = [{"kind": "status", "code": 502}, {"kind": "drop"}]


@pytest.mark.parametrize(("fault", "count"), [(LOST[0], 1), (LOST[1], 6)])
def test_a_transfer_whose_submission_was_not_answered(rig: Any, fault: dict[str, Any], count: int) -> None:
    """Six times: the SDK's own repeats are lost as well, and the service is paused."""
    (key,) = rig.noticed()
    rig.sandbox.fault("transfer", route="POST /v0.10/transfer", when="after", count=count, **fault)
    assert rig.run("raw_at_cfs").keys == [key]
    assert list(rig.sandbox.executions("transfer").values()) == [1]
    assert [t.attempt for t in rig.tasks(key)] == [1]


@pytest.mark.parametrize("fault", LOST, ids=["502", "drop"])
def test_a_job_whose_submission_was_not_answered(rig: Any, fault: dict[str, Any]) -> None:
    (key,) = rig.copied()
    rig.sandbox.fault("sfapi", route="POST */compute/jobs/*", when="after", **fault)
    assert rig.run("xpcs_result").keys == [key]
    assert rig.executed_once() == 1
    assert rig.sandbox.requests()["sfapi POST /api/v1.2/compute/jobs/perlmutter"] == 1


def test_a_job_that_was_submitted_twice_runs_once(rig: Any) -> None:
    (key,) = rig.copied()
    rig.sandbox.fault("sfapi", "duplicate_submit")
    assert rig.run("xpcs_result").keys == [key]
    assert rig.executed_once() == 1
    assert [t.attempt for t in rig.tasks(key, "xpcs_result")] == [1]


def test_a_job_that_is_not_to_be_seen_for_a_while_is_waited_for(rig: Any) -> None:
    (key,) = rig.copied()
    rig.sandbox.fault("sfapi", "not_found_for", delay=0.5)
    assert rig.run("xpcs_result").keys == [key]
    assert rig.executed_once() == 1


@pytest.mark.parametrize(
    ("route", "fault"),
    [
        ("POST */datasets", LOST[0]),
        ("POST */datasets", LOST[1]),
        ("POST */origdatablocks", LOST[0]),
        ("POST */attachments", LOST[1]),
        ("PATCH */datasets/*", LOST[0]),
    ],
)
def test_a_catalogue_that_does_not_answer_holds_everything_once(rig: Any, route: str, fault: dict[str, Any]) -> None:
    (key,) = rig.copied()
    rig.stand_in('mkdir -p "$plots"; printf picture > "$plots/g2.png"')
    rig.run("xpcs_result")
    rig.sandbox.fault("scicat", route=route, when="after", **fault)
    assert rig.run("catalog_entry").keys == [key]
    if route == "PATCH */datasets/*":  # a first entry patches nothing: ask once more, with something to change
        rig.ask("xpcs_result", key)
        rig.run("xpcs_result")
        rig.run("catalog_entry")
    for entry in rig.document(key)["catalog"]:
        pid = entry["pid"]
        scicat = rig.services["scicat"]
        blocks = scicat._blocks(pid)
        assert len(blocks) == (1 if entry["type"] == "raw" else 0)
        pictures = scicat._attachments(pid, "g2 per q with fits")
        assert len(pictures) == (0 if entry["type"] == "raw" else 1)
    assert rig.step(key, "catalog_entry").attempt == 1


@pytest.mark.parametrize(
    ("service", "route", "asset"),
    [
        ("transfer", "GET /v0.10/task_list", "raw_at_cfs"),
        ("transfer", "GET */ls", "raw_at_cfs"),
        ("transfer", "GET */successful_transfers", "raw_at_cfs"),
        ("transfer", "GET */submission_id", "raw_at_cfs"),
        ("sfapi", "GET */compute/jobs/*", "xpcs_result"),
        ("sfapi", "GET */utilities/download/*", "xpcs_result"),
        ("sfapi", "POST /token", "xpcs_result"),
        ("sfapi", "GET */utilities/download/*", "catalog_entry"),
        ("scicat", "GET *", "catalog_entry"),
        ("scicat", "POST */auth/login", "catalog_entry"),
    ],
)
def test_a_service_that_is_down_for_a_moment_uses_up_no_attempt(rig: Any, service: str, route: str, asset: str) -> None:
    (key,) = rig.noticed() if asset == "raw_at_cfs" else rig.copied()
    rig.sandbox.fault(service, "status", route=route, code=503, count=4)
    assert rig.run(asset).keys == [key]
    assert {t.attempt for t in rig.tasks(key, asset)} <= {1}
    rig.executed_once()
