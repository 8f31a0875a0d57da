"""Outages, planned and not: hours of them use up no attempt, the reason can be read meanwhile, and the scan goes on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from als.main import main


@pytest.fixture
def hours(rig: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Automatic runs every ten minutes for so many hours by the ledger's clock, at the pace of production."""
    rig.pace(pause_first_s=30, pause_most_s=1800, lookup_s=180, unknown_s=7200, retry_speed=1, lease_s=90, grace_s=0.1)
    ahead = [timedelta(0)]
    monkeypatch.setattr(rig.ledger, "now", lambda: datetime.now(UTC) + ahead[0])

    def pass_by(count: float, asset: str) -> None:
        for _ in range(round(count * 6)):
            ahead[0] += timedelta(minutes=10)
            rig.run(asset, patient=False)
            rig.follow()

    return pass_by


@pytest.mark.parametrize("planned", [True, False])
def test_a_maintenance_of_hours_uses_up_no_attempt_and_the_scan_goes_on_afterwards(
    rig: Any, hours: Any, monkeypatch: pytest.MonkeyPatch, planned: bool
) -> None:
    (key,) = rig.copied()
    now = datetime.now(UTC)
    times = {"start_at": (now - timedelta(hours=1)).isoformat(), "end_at": (now + timedelta(hours=8)).isoformat()}
    rig.sandbox.fault("sfapi", "outage", planned=planned, text="cooling plant", count=-1, **(times if planned else {}))
    hours(2, "xpcs_result")
    shown = rig.document(key)["assets"]["xpcs_result"]
    assert shown["state"] == "waiting" and "perlmutter is not available: cooling plant" in shown["why"]
    assert ("expected back" in shown["why"]) is planned
    asked = rig.sandbox.requests()
    assert not [route for route in asked if "POST" in route and "compute/jobs" in route]
    # it rests longer and longer, and is not asked at each of the 12 runs
    assert asked["sfapi GET /api/v1.2/status/perlmutter"] <= 9

    monkeypatch.setenv("ALS_LEDGER_URL", f"sqlite:///{rig.ledger_file}")
    monkeypatch.setattr("resources.ledger.Ledger.now", lambda _: rig.ledger.now())
    listed = CliRunner().invoke(main, ["scans", "-b", "bl7011"]).output
    assert "nersc rests until" in listed and "cooling plant" in listed
    (pause,) = json.loads(CliRunner().invoke(main, ["scans", "--json"]).stdout)["pauses"]
    assert pause["service"] == "nersc" and "cooling plant" in pause["reason"]

    rig.sandbox.box.clear_faults()  # it ends five hours before it was announced to
    hours(1, "xpcs_result")
    assert rig.run("xpcs_result").keys in ([key], []) and rig.step(key, "xpcs_result").state == "done"
    assert [(t.attempt, t.state) for t in rig.tasks(key, "xpcs_result")] == [(1, "succeeded")]
    assert rig.executed_once() == 1


@pytest.mark.parametrize(("service", "asset"), [("transfer", "raw_at_cfs"), ("scicat", "catalog_entry")])
def test_a_service_that_is_down_for_hours_uses_up_no_attempt(rig: Any, hours: Any, service: str, asset: str) -> None:
    (key,) = rig.noticed() if asset == "raw_at_cfs" else rig.copied()
    code = {"kind": "status", "code": 503}
    rig.sandbox.fault(service, count=-1, **code)
    hours(2, asset)
    step = rig.step(key, asset)
    assert step.state in ("due", "working", "in_flight", "landed") and step.attempt == 1
    assert rig.pause_of("scicat" if service == "scicat" else "globus") is not None
    rig.sandbox.box.clear_faults()
    hours(1, asset)
    rig.run(asset)
    assert rig.step(key, asset).state == "done" and rig.step(key, asset).attempt == 1


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("ReqNodeNotAvail, Reserved for maintenance", "maintenance"),
        ("QOSMaxJobsPerUserLimit", "as many running jobs as the QOS allows"),
        ("Priority", "waits"),
        ("JobHeldAdmin", "is held"),
    ],
)
def test_a_job_that_waits_in_slurm_s_queue_says_what_for(
    rig: Any, monkeypatch: pytest.MonkeyPatch, reason: str, words: str
) -> None:
    (key,) = rig.copied()
    rig.sandbox.fault("sfapi", "pending_forever", reason=reason, count=-1)
    rig.run("xpcs_result", patient=False)
    rig.follow()
    shown = rig.document(key)
    assert shown["state"] == "in_flight" and words in shown["why"], shown["why"]
    monkeypatch.setenv("ALS_LEDGER_URL", f"sqlite:///{rig.ledger_file}")
    assert words in CliRunner().invoke(main, ["scan", "bl7011", key]).output
