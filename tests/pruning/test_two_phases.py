"""A copy goes in two phases: renamed into the trash, looked at again, deleted."""

from __future__ import annotations

from typing import Any

from als_assets.pruning import State


def test_an_old_copy_goes_to_the_trash_and_is_deleted_when_its_time_there_is_over(disk: Any) -> None:
    (key,) = disk.scans()
    report = disk.prune()
    assert [item.state for item in report.items.values()] == [State.TRASHED] and not report.troubles
    assert not disk.there(key) and disk.copy(key) == "present"
    names = {path.relative_to(disk.root).as_posix() for path in disk.trashed()}
    removal = disk.removal(key)
    assert removal.state == "in_trash"
    assert removal.trash.startswith(".als-trash/20") and f"/{disk.rig.found(key).hash}-" in removal.trash
    assert names == {f"{removal.trash}/day/s000.h5", f"{removal.trash}/day/s000_roi.h5"}

    assert disk.prune().items == {}, "its time in the trash is not over"
    assert disk.deletions() == 0

    disk.trash_is_over()
    report = disk.prune()
    assert [item.state for item in report.items.values()] == [State.DELETED] and not report.troubles
    assert disk.trashed() == [] and disk.deletions() == 1
    assert disk.copy(key) == "pruned" and disk.copy(key, "cfs") == "verified"
    assert disk.history(key)[-3:] == ["to trash", "deleting", "pruned"]
    assert disk.prune().items == {}


def test_a_dry_run_says_what_would_go_and_changes_nothing(disk: Any) -> None:
    old, young = disk.scans(2)
    disk.noticed(young, 3)
    before = disk.rig.sandbox.executions("transfer"), disk.history(old)
    report = disk.plan()
    assert {item.key: item.state for item in report.items.values()} == {old: State.WOULD_GO, young: State.STAYS}
    assert disk.why(young) == ["it was noticed 3.0 days ago, and stays for 30 days"]
    assert (disk.rig.sandbox.executions("transfer"), disk.history(old)) == before
    assert disk.there(old) and disk.there(young) and disk.removal(old) is None
