"""Services that do not answer, or not now: everything for them rests, no attempt is used up, and the page says why."""

from __future__ import annotations

from typing import Any

import pytest

ASSET = {"transfer": "raw_at_cfs", "sfapi": "xpcs_result", "scicat": "catalog_entry"}
NAME = {"transfer": "globus", "sfapi": "nersc", "scicat": "scicat"}
BUSY = {
    "transfer": "Globus wants fewer requests or tasks",
    "sfapi": "NERSC's API asks for fewer requests",
    "scicat": "too many requests",
}
UNAVAILABLE = {
    "transfer": "Globus cannot do this now",
    "sfapi": "NERSC's API is not available",
    "scicat": "now: ",
}
SILENT = {
    "transfer": "no answer from Globus",
    "sfapi": "NERSC's API",
    "scicat": "could not be reached, or closed the connection",
}


def a_scan(rig: Any, service: str) -> str:
    (key,) = rig.noticed() if service == "transfer" else rig.copied()
    return str(key)


@pytest.mark.parametrize("service", ASSET)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "429", "retry_after": 1}, BUSY),
        ({"kind": "status", "code": 503}, UNAVAILABLE),
        ({"kind": "timeout", "delay": 0.1}, SILENT),
    ],
    ids=["429", "503", "timeout"],
)
def test_a_service_that_cannot_now_rests_with_its_reason_and_the_step_goes_on(
    rig: Any, goes_on: Any, rests: Any, over: Any, service: str, fault: dict[str, Any], words: dict[str, str]
) -> None:
    asset, name = ASSET[service], NAME[service]
    key = a_scan(rig, service)
    rig.sandbox.fault(service, route="* /api/*" if service == "sfapi" else "* *", count=-1, **fault)
    reason, shown = rests(name, asset)
    assert words[service] in reason, reason
    assert f"{name}" in shown and reason[:60] in shown, shown
    over(name, asset, key)
    goes_on(asset, key)


def test_a_catalogue_that_is_down_for_long_holds_the_entry_and_nothing_else(
    rig: Any, goes_on: Any, rests: Any, over: Any
) -> None:
    (key,) = rig.copied()
    rig.sandbox.fault("scicat", "drop", route="* *", count=-1)
    reason, shown = rests("scicat", "catalog_entry")
    assert "could not be reached, or closed the connection" in reason and "waits for scicat until" in shown
    assert rig.run("xpcs_result").keys == [key], "the analysis does not wait for the catalogue"
    over("scicat", "catalog_entry", key)
    goes_on("catalog_entry", key)


def test_a_job_that_nersc_has_forgotten_counts_by_what_it_left(rig: Any, goes_on: Any) -> None:
    (key,) = rig.copied()
    rig.pace(unknown_s=60)
    rig.sandbox.fault("sfapi", "not_found_for", delay=600)
    rig.until(lambda: rig.run("xpcs_result", patient=False) and list(rig.attempts.rglob("outcome.json")))
    rig.pace(unknown_s=0.2)
    goes_on("xpcs_result", key)


def test_a_forgotten_job_that_left_nothing_is_for_a_person_and_not_sent_again(rig: Any) -> None:
    (key,) = rig.copied()
    rig.pace(unknown_s=0.3)
    rig.stand_in("exec sleep 30")
    rig.sandbox.fault("sfapi", "not_found_for", delay=600)
    why = rig.run("xpcs_result").failed[key]
    (task,) = rig.tasks(key, "xpcs_result")
    assert f"nersc has not known sfapi task {task.external_id} since" in why and "What to do:" in why
    assert rig.step(key, "xpcs_result").attempt == 1


def test_a_qos_that_may_not_be_used_fails_at_once_in_slurm_s_words(rig: Any) -> None:
    (key,) = rig.copied()
    engine = rig.engine("xpcs_result")
    directives = {**engine.family.analysis.directives, "qos": "no_such_qos"}
    engine.family.analysis = engine.family.analysis.model_copy(update={"directives": directives})
    why = rig.run("xpcs_result", engine=engine).failed[key]
    assert "Slurm refused the job" in why and "qos" in why.lower() and "What to do:" in why
    assert len(rig.tasks(key, "xpcs_result")) == 1 and rig.sandbox.executions("sfapi") == {}
