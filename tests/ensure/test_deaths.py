"""The crash matrix: kill -9 before and after every call to a facility and every commit, for each step of a scan's life.

Each run dies at the first point at which none has died yet (see dying.py), so that a scan comes to its end through a
death at every point of its way. The facilities' server dies in the same manner, alone and together with the run.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from beamlines.spec import Archive, Spec
from tests.conftest import PATIENCE_S
from tests.ensure.forked import Forked
from tests.ensure.supervised import Supervised

pytestmark = pytest.mark.timeout(600)  # up to a hundred deaths each, of half a second, and more on a busy machine
STEPS = ["raw_at_cfs", "xpcs_result", "archived_at_hpss", "catalog_entry"]
# `make test` has these; to the facilities an archive is a job, as an analysis is
SHORT = ("raw_at_cfs", "xpcs_result")


def long(asset: str) -> Any:
    """For CI: a catalogue entry has 74 points, and a server starts again after each of its deaths."""
    return pytest.param(asset, marks=pytest.mark.services)


SOME = [one if one == "raw_at_cfs" else long(one) for one in STEPS]
ARCHIVE = Archive(source="cfs", directives={"qos": "xfer", "constraint": "cron", "time": "60", "mem": "2G"})
# the call of each step that has an effect at a facility
CHANGES = {
    "raw_at_cfs": "POST /transfer/v0.10/transfer",
    "xpcs_result": "POST /sfapi/api/v1.2/compute/jobs/perlmutter",
    "archived_at_hpss": "POST /sfapi/api/v1.2/compute/jobs/perlmutter",
    "catalog_entry": "PATCH /scicat/api/v3/datasets/*/datasetlifecycle",
}
SUBMIT = "sfapi POST /api/v1.2/compute/jobs/perlmutter"
JOB = [
    ("sfapi", "POST /token"),
    ("sfapi", "GET */status/perlmutter"),
    ("sfapi", "GET */status/outages/planned/perlmutter"),
    ("sfapi", "POST */compute/jobs/perlmutter"),
    ("sfapi", "GET */compute/jobs/perlmutter"),
    ("sfapi", "GET */utilities/download/*"),
]
ROUTES = {
    "raw_at_cfs": [
        ("auth", "POST *"),
        ("transfer", "GET */ls"),
        ("transfer", "GET */submission_id"),
        ("transfer", "POST */transfer"),
        ("transfer", "GET */task_list"),
        ("transfer", "GET */successful_transfers"),
    ],
    "xpcs_result": JOB,
    "archived_at_hpss": JOB,
    "catalog_entry": [
        *JOB,
        ("scicat", "POST */auth/login"),
        ("scicat", "POST */datasets"),
        ("scicat", "GET */datasets/*"),
        ("scicat", "POST */origdatablocks"),
        ("scicat", "GET */origdatablocks"),
        ("scicat", "POST */datablocks"),
        ("scicat", "POST */attachments"),
        ("scicat", "GET */attachments"),
        ("scicat", "GET */datasetlifecycle"),
        ("scicat", "PATCH */datasetlifecycle"),
    ],
}


@pytest.fixture
def mortal(rig: Any) -> Any:
    """The rig, for a beamline that archives, in a hurry: what a dead run held is free again at once."""
    rig.spec = Spec.model_validate({**rig.spec.model_dump(), "archive": ARCHIVE.model_dump()})
    rig.pace(lease_s=0.05, lookup_s=0.4, poll_s=0.02, pause_first_s=0.05, pause_most_s=0.2)
    rig.stand_in('mkdir -p "$plots"; printf picture > "$plots/g2.png"')
    return rig


def brought_before(rig: Any, asset: str) -> str:
    """A scan whose next step is that of the asset."""
    (key,) = rig.noticed() if asset == "raw_at_cfs" else rig.copied()
    if asset == "catalog_entry":
        rig.run("xpcs_result")
        rig.run("archived_at_hpss")
    return str(key)


def is_there_once(rig: Any, key: str, asset: str) -> None:
    step = rig.step(key, asset)
    assert (step.state, step.attempt) == ("done", 1), step
    rig.executed_once()
    mine = [t for t in rig.tasks(key, asset)]
    assert len(mine) == 1 and mine[0].attempt == 1, mine
    if asset == "catalog_entry":
        for entry in rig.document(key)["catalog"]:
            scicat = rig.services["scicat"]
            assert len(scicat._blocks(entry["pid"])) == (1 if entry["type"] == "raw" else 0)
            assert len(scicat._attachments(entry["pid"], "g2 per q with fits")) == (entry["type"] == "derived")


def dies_and_goes_on(rig: Any, key: str, asset: str, **dies: Any) -> list[str]:
    """Runs, each of which dies at a new point, until one comes to its end; returns the points."""
    file = rig.folder / f"points-{len(rig.started)}"
    began = time.monotonic()
    while (run := rig.process(asset, [key], dies={"file": file, **dies})) and run.process.join(PATIENCE_S) is None:
        if run.process.exitcode != -9:
            break
    assert run.process.exitcode == 0, run.process.exitcode
    assert run.out.read_text().split() == [key]
    points = list(file.read_text().splitlines())
    assert len(points) == len(set(points))
    print(f"{asset}: {len(points)} deaths, {1000 * (time.monotonic() - began) / len(points):.0f} ms each")
    return points


@pytest.mark.parametrize("asset", [one if one in SHORT else long(one) for one in STEPS])
def test_a_run_that_dies_at_every_point_brings_its_step_to_its_end_once(mortal: Any, asset: str) -> None:
    key = brought_before(mortal, asset)
    before = mortal.sandbox.requests().get(SUBMIT, 0)
    points = dies_and_goes_on(mortal, key, asset)
    is_there_once(mortal, key, asset)
    jobs = mortal.sandbox.requests().get(SUBMIT, 0) - before
    assert jobs == (0 if asset == "raw_at_cfs" else 1), "it is looked for before it would be sent again"
    calls = [point.split(" in ")[0] for point in points]
    assert all(f"{when} commit" in calls for when in ("before", "after"))
    assert {f"{when} {CHANGES[asset]}" for when in ("before", "after")} <= set(calls)


@pytest.mark.parametrize("asset", STEPS[:3])
def test_a_run_that_dies_at_every_commit_only(mortal: Any, asset: str) -> None:
    """No answer is lost: these deaths are between an answer and its being kept, and after that."""
    key = brought_before(mortal, asset)
    points = dies_and_goes_on(mortal, key, asset, which="commits")
    is_there_once(mortal, key, asset)
    assert mortal.sandbox.requests().get(SUBMIT, 0) == (0 if asset == "raw_at_cfs" else 1)
    assert any("once._submit" in point for point in points)


@pytest.mark.services
@pytest.mark.parametrize("asset", STEPS)
def test_run_and_server_die_together_at_every_call(mortal: Any, asset: str) -> None:
    key = brought_before(mortal, asset)
    with Supervised(mortal.sandbox) as watch:
        points = dies_and_goes_on(mortal, key, asset, which="calls", server=mortal.sandbox.dir)
        assert watch.deaths >= len(points)
    is_there_once(mortal, key, asset)


@pytest.mark.parametrize("asset", SOME)
def test_a_server_that_dies_at_every_call_is_waited_for(mortal: Any, asset: str) -> None:
    """Before it did what it was asked for, and after, so that nobody hears of it."""
    key = brought_before(mortal, asset)
    for service, route in ROUTES[asset]:
        for when in ("before", "after"):
            mortal.sandbox.fault(service, "die", route=route, when=when)
    began = time.monotonic()
    with Supervised(mortal.sandbox) as watch:
        assert mortal.process(asset, [key]).told() == [key]
        left = [f"{f['when']} {f['route']}" for f in mortal.sandbox.box.faults() if f["left"]]
    assert not left, "calls that were not made"
    print(f"{asset}: {watch.deaths} deaths, {1000 * (time.monotonic() - began) / watch.deaths:.0f} ms each")
    is_there_once(mortal, key, asset)


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_any_thread_may_ask_how_a_process_ended() -> None:
    """multiprocessing's own answers 255 to one of them, now and then: about every second time here. The watcher of a
    server and the test ask at once."""
    for _ in range(10):
        process = Forked(target=dies, daemon=True)
        process.start()
        others = [threading.Thread(target=process.join, args=(PATIENCE_S,)) for _ in range(8)]
        for other in others:
            other.start()
        process.join(PATIENCE_S)
        for other in others:
            other.join()
        assert process.exitcode == -signal.SIGKILL
