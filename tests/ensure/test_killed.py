"""kill -9 of a run at every point of its work: the next one brings the scan to its end, and nothing is done twice.

A run is held where the kill is to hit it by a fault of the sandbox: an answer that takes its time.
"""

from __future__ import annotations

from typing import Any

import pytest

from resources.ledger import steps

# what the run is doing when it is killed: asset, service, route of the call that is held, when
POINTS = {
    "looking at the destination": ("raw_at_cfs", "transfer", "GET */ls", "before"),
    "fetching the key of its submission": ("raw_at_cfs", "transfer", "GET */submission_id", "after"),
    "about to submit": ("raw_at_cfs", "transfer", "POST /v0.10/transfer", "before"),
    "submitted, the id not kept": ("raw_at_cfs", "transfer", "POST /v0.10/transfer", "after"),
    "reading what arrived": ("raw_at_cfs", "transfer", "GET */successful_transfers", "before"),
    "about to submit a job": ("xpcs_result", "sfapi", "POST */compute/jobs/*", "before"),
    "job submitted, the id not kept": ("xpcs_result", "sfapi", "POST */compute/jobs/*", "after"),
    "reading the result": ("xpcs_result", "sfapi", "GET */utilities/download/*", "before"),
    "about to enter the data set": ("catalog_entry", "scicat", "POST */datasets", "before"),
    "data set entered": ("catalog_entry", "scicat", "POST */datasets", "after"),
    "files listed": ("catalog_entry", "scicat", "POST */origdatablocks", "after"),
    "picture attached": ("catalog_entry", "scicat", "POST */attachments", "after"),
    "about to set the life cycle": ("catalog_entry", "scicat", "GET */datasetlifecycle", "before"),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_is_killed_costs_time_only(rig: Any, point: str) -> None:
    asset, service, route, when = POINTS[point]
    (key,) = rig.noticed() if asset == "raw_at_cfs" else rig.copied()
    if asset == "catalog_entry":
        rig.stand_in('mkdir -p "$plots"; printf picture > "$plots/g2.png"')
        rig.run("xpcs_result")
    rig.sandbox.fault(service, "slow", route=route, when=when, delay=5)
    process = rig.process(asset)
    rig.until(lambda: any(fault["left"] == 0 for fault in rig.sandbox.box.faults()))
    if when == "after" and service != "scicat":
        rig.until(lambda: took_effect(rig, service, route))
    process.kill()
    rig.sandbox.box.clear_faults()
    rig.run(asset)
    assert rig.step(key, asset).state == "done"
    rig.executed_once()
    assert all(len({t.attempt for t in rig.tasks(key, a)}) <= 1 for a in ("raw_at_cfs", "xpcs_result", asset))
    if asset == "catalog_entry":
        for entry in rig.document(key)["catalog"]:
            assert len(rig.services["scicat"]._blocks(entry["pid"])) == (1 if entry["type"] == "raw" else 0)
            pictures = rig.services["scicat"]._attachments(entry["pid"], "g2 per q with fits")
            assert len(pictures) == (0 if entry["type"] == "raw" else 1)


def took_effect(rig: Any, service: str, route: str) -> bool:
    if "submission_id" in route:
        return True
    kind = "transfer_task" if service == "transfer" else "slurm_job"
    return bool(rig.sandbox.box.all(kind))


@pytest.mark.parametrize("asset", ["raw_at_cfs", "xpcs_result"])
def test_a_run_that_is_killed_while_its_task_goes_on_leaves_it_to_the_next(rig: Any, asset: str) -> None:
    (key,) = rig.noticed() if asset == "raw_at_cfs" else rig.copied()
    rig.sandbox.fault("transfer", "paused", count=1 if asset == "raw_at_cfs" else 0)
    rig.sandbox.fault("sfapi", "pending_forever", count=1)
    process = rig.process(asset)
    rig.until(lambda: [t for t in rig.tasks(key, asset) if t.external_id])
    process.kill()
    rig.sandbox.box.clear_faults()
    assert rig.run(asset).keys == [key]
    assert len(rig.tasks(key, asset)) == 1


def test_a_run_that_is_killed_after_the_scan_was_done_and_before_it_was_told_is_made_good(rig: Any) -> None:
    (key,) = rig.copied()
    with rig.ledger.write() as tx:
        steps.do_again(tx, rig.found(key).id, "raw_at_cfs", "", rig.ledger.now())
    rig.settle_by_hand(key, "raw_at_cfs")
    assert rig.step(key, "raw_at_cfs").reported_at is None
    rig.pace(report_s=0, grace_s=20)
    assert rig.run("raw_at_cfs", [], patient=False).keys == [key]
    assert rig.step(key, "raw_at_cfs").reported_at is not None


@pytest.mark.parametrize("asset", ["raw_at_cfs", "xpcs_result", "catalog_entry"])
def test_two_runs_at_once_on_the_same_scans_do_everything_once(rig: Any, asset: str) -> None:
    keys = rig.noticed(6) if asset == "raw_at_cfs" else rig.copied(6)
    both = [rig.process(asset), rig.process(asset)]
    assert [sorted(run.told()) for run in both] == [keys, keys], (
        "a patient run reports what the other one collected as well"
    )
    rig.executed_once()
    assert all(len(rig.tasks(key, asset)) == 1 for key in keys)
    assert all(rig.step(key, asset).attempt == 1 for key in keys)
    if asset == "catalog_entry":
        for key in keys:
            (entry,) = rig.document(key)["catalog"]
            assert len(rig.services["scicat"]._blocks(entry["pid"])) == 1


def test_two_runs_in_one_moment_submit_once(rig: Any) -> None:
    """Both have read that nothing is submitted yet; the sandbox answers slowly, so that they meet."""
    keys = rig.copied(3)
    rig.sandbox.fault("sfapi", "slow", route="POST */compute/jobs/*", delay=0.3, count=-1)
    both = [rig.process("xpcs_result"), rig.process("xpcs_result")]
    assert [sorted(run.told()) for run in both] == [keys, keys]
    assert rig.executed_once() == 3
    assert all(rig.step(key, "xpcs_result").state == "done" for key in keys)
