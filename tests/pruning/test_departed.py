"""A copy is asked for again after its source was pruned: a backfill over old scans is no reason for red partitions."""

from __future__ import annotations

import os
from typing import Any

import pytest

PLACES = ["the trash", "nowhere"]


def pruned(disk: Any, where: str) -> str:
    (key,) = disk.scans()
    disk.prune()
    if where == "nowhere":
        disk.trash_is_over()
        disk.prune()
    assert not disk.there(key)
    return str(key)


@pytest.mark.parametrize("where", PLACES)
def test_a_copy_that_is_as_it_was_proven_stays_and_counts(disk: Any, where: str) -> None:
    key = pruned(disk, where)
    before = disk.rig.sandbox.executions("transfer")
    disk.rig.ask("raw_at_cfs", key)
    ran = disk.rig.run("raw_at_cfs", [key])
    assert ran.keys == [key] and not ran.failed
    step = disk.rig.step(key, "raw_at_cfs")
    assert step.state == "done"
    assert "is gone (pruned, or written anew since); this one is there as it was proven" in step.why
    assert disk.rig.sandbox.executions("transfer") == before, "nothing was copied"


@pytest.mark.parametrize("harm", ["missing", "other bytes", "written anew"])
def test_a_copy_that_is_not_is_named_and_nothing_is_copied_over_it(disk: Any, harm: str) -> None:
    key = pruned(disk, "nowhere")
    file = disk.rig.cfs / "day/s000.h5"
    if harm == "missing":
        file.unlink()
    elif harm == "other bytes":
        file.write_bytes(b"fewer")
    else:
        os.utime(file, (1_600_000_000, 1_600_000_000))
    disk.rig.ask("raw_at_cfs", key)
    ran = disk.rig.run("raw_at_cfs", [key])
    said = "is not there" if harm == "missing" else "is not as it was proven"
    assert f"{key}: its copy in bl7011/dtn is gone" in ran.failed[key] and said in ran.failed[key]
    assert "What to do: get the scan back from tape" in ran.failed[key]
