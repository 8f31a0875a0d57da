"""Runs that are killed while their tasks go on, and runs that meet. Deaths at every point are in test_deaths.py."""

from __future__ import annotations

from typing import Any

import pytest

from resources.ledger import steps


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
