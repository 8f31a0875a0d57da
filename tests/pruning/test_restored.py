"""Yesterday's ledger: what has been deleted since is not deleted again, and nothing is submitted twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resources.ledger import schema
from tests.pruning.dying import dying


@pytest.fixture
def restored(disk: Any, tmp_path: Path) -> Callable[[], Callable[[], None]]:
    """`go_back = restored()` makes a backup; `go_back()` goes on with it."""

    def backup() -> Callable[[], None]:
        kept = tmp_path / "backup.db"
        with sqlite3.connect(disk.rig.ledger_file) as source, sqlite3.connect(kept) as target:
            source.backup(target)

        def go_back() -> None:
            disk.rig.forget()
            disk.rig.ledger.close()
            for file in disk.rig.folder.glob("ledger.db*"):
                file.unlink()
            disk.rig.ledger_file.write_bytes(kept.read_bytes())
            disk.rig.ledger = disk.rig.open_ledger()

        return go_back

    return backup


def test_copies_that_have_gone_since_are_missed_and_nothing_is_asked_of_globus(disk: Any, restored: Any) -> None:
    (key,) = disk.scans()
    go_back = restored()
    disk.trash_is_over()
    disk.prune()
    assert disk.copy(key) == "pruned"
    go_back()
    assert disk.why(key)[0].endswith("day/s000.h5 is not in bl7011/dtn any more")
    disk.prune()
    assert disk.deletions() == 1 and disk.removal(key) is None
    assert disk.copy(key) == "present" and disk.question(key) is None


def test_what_was_put_back_since_is_not_deleted(disk: Any, restored: Any) -> None:
    """The hold that brought it back is not in yesterday's ledger."""
    (key,) = disk.scans()
    disk.prune()
    go_back = restored()
    disk.hold(key)
    disk.prune()
    assert disk.there(key)
    go_back()
    assert disk.state(key) == "in_trash"
    disk.trash_is_over()
    disk.prune()
    assert disk.there(key) and disk.deletions() == 0 and disk.state(key) == "put_back"
    assert "are at their names again" in disk.removal(key).note


def test_what_was_deleted_from_the_trash_since_is_pruned_without_a_second_task(disk: Any, restored: Any) -> None:
    (key,) = disk.scans()
    disk.prune()
    go_back = restored()
    disk.trash_is_over()
    disk.prune()
    go_back()
    disk.prune()
    assert disk.copy(key) == "pruned" and disk.deletions() == 1


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_a_deletion_that_was_on_its_way_is_not_sent_again(disk: Any, restored: Any, after: int) -> None:
    """The backup was made after each of the changes between the decision and the answer of Globus."""
    (key,) = disk.scans()
    disk.prune()
    disk.trash_is_over()
    disk.rig.pace(lease_s=0.001)
    with dying(1 + after) as death:
        disk.prune()
    assert death.where
    go_back = restored()
    disk.prune_until_over(key)
    assert disk.copy(key) == "pruned" and disk.deletions() == 1
    go_back()
    disk.prune_until_over(key)
    assert disk.copy(key) == "pruned" and disk.deletions() == 1


def test_a_deletion_of_an_earlier_life_that_is_under_way_is_waited_for(disk: Any, restored: Any) -> None:
    (key,) = disk.scans()
    disk.prune()
    go_back = restored()
    disk.trash_is_over()
    disk.rig.pace(grace_s=0.1)
    held = disk.rig.sandbox.fault("transfer", "paused", count=1)
    disk.prune()
    assert disk.state(key) == "deleting"
    go_back()
    disk.change(schema.stamp, schema.stamp.c.facilities == "sandbox", restored_at=disk.ledger.now())
    report = disk.prune()
    assert disk.state(key) == "in_trash", "it is not asked for beside the one that is under way"
    assert "which was submitted before the ledger was restored" in report.troubles[0].words
    assert held and disk.deletions() == 1
    disk.rig.sandbox.box.clear_faults()
    disk.rig.until(lambda: not disk.trashed())
    disk.prune_until_over(key)
    assert disk.copy(key) == "pruned" and disk.deletions() == 1


def test_a_file_of_today_under_the_name_of_yesterday_is_not_touched(disk: Any, restored: Any) -> None:
    (key,) = disk.scans()
    go_back = restored()
    disk.trash_is_over()
    disk.prune()
    disk.files(key)[0].write_bytes(b"today's acquisition")
    go_back()
    disk.prune()
    assert disk.files(key)[0].read_bytes() == b"today's acquisition" and disk.removal(key) is None
