"""The trash: what comes back from it, what answers were lost, and what must not be mistaken for ours."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from als_assets.pruning import State
from resources.ledger import schema
from tests.pruning.test_never import at_nersc, cut, emptied


@pytest.fixture
def trashed(disk: Any) -> Any:
    """`disk.key`, in the trash since a moment."""
    (disk.key,) = disk.scans()
    disk.content = {path: (path.read_bytes(), path.stat().st_mtime) for path in disk.files(disk.key)}
    disk.prune()
    assert disk.state(disk.key) == "in_trash"
    return disk


def is_back(disk: Any) -> bool:
    """All files are at their names as they were, and the trash is empty."""
    there = {path: (path.read_bytes(), path.stat().st_mtime) for path in disk.content if path.exists()}
    return bool(there == disk.content and disk.trashed() == [] and disk.state(disk.key) == "put_back")


BACK = {
    "somebody holds it": lambda disk: disk.hold(disk.key),
    "the place was disarmed": lambda disk: disk.disarmed(),
    "today's spec keeps it longer": lambda disk: disk.rule(after_days=41),
    "today's spec prunes nothing": lambda disk: setattr(
        disk.rig, "spec", disk.rig.spec.model_copy(update={"prunes": []})
    ),
    "a person is asked": lambda disk: disk.change(schema.scans, schema.scans.c.key == disk.key, question="which?"),
    "the copy is asked for again": lambda disk: disk.rig.ask("raw_at_cfs", disk.key),
}


@pytest.mark.parametrize("case", BACK)
def test_what_may_not_be_deleted_any_more_is_put_back_at_once(trashed: Any, case: str) -> None:
    BACK[case](trashed)
    report = trashed.prune()
    assert is_back(trashed) and [item.state for item in report.items.values()] == [State.PUT_BACK]
    assert trashed.history(trashed.key)[-2:] == ["back from trash", "put back"]
    assert trashed.copy(trashed.key) == "present"


@pytest.mark.parametrize("damage", [emptied, cut])
def test_a_copy_that_was_damaged_meanwhile_brings_it_back_and_a_person_is_asked(trashed: Any, damage: Any) -> None:
    damage(trashed, trashed.key)
    trashed.prune()
    assert trashed.state(trashed.key) == "in_trash", "it is looked at when it is to be deleted"
    trashed.trash_is_over()
    trashed.prune()
    assert is_back(trashed)
    assert "in cfs, not 16 as was proven" in trashed.question(trashed.key)


def test_while_the_other_place_is_down_nothing_is_deleted_and_nothing_comes_back(trashed: Any) -> None:
    trashed.rig.sandbox.fault("transfer", "endpoint_down", path="*/raw/*", count=-1)
    trashed.trash_is_over()
    report = trashed.prune()
    assert trashed.state(trashed.key) == "in_trash" and trashed.deletions() == 0 and len(trashed.trashed()) == 2
    assert [item.state for item in report.items.values()] == [State.IN_TRASH] and report.troubles[0].waits


def test_the_put_back_scan_is_no_change_for_the_beamline_and_can_go_again_later(trashed: Any) -> None:
    trashed.hold(trashed.key)
    trashed.prune()
    trashed.rig.notice()
    assert trashed.question(trashed.key) is None
    with trashed.ledger.write() as tx:
        tx.execute(schema.holds.delete())
    trashed.trash_is_over()
    trashed.prune()
    assert trashed.copy(trashed.key) == "pruned"


def test_a_removed_file_is_neither_a_new_scan_nor_a_changed_one(trashed: Any) -> None:
    assert trashed.rig.notice() == [] and trashed.question(trashed.key) is None
    trashed.trash_is_over()
    trashed.prune()
    assert trashed.rig.notice() == [] and trashed.rig.keys() == [trashed.key]
    assert trashed.question(trashed.key) is None


def test_a_file_that_came_under_the_old_name_is_not_overwritten_by_the_way_back(trashed: Any) -> None:
    old = next(iter(trashed.content))
    old.write_bytes(b"the next acquisition has the same name")
    trashed.hold(trashed.key)
    report = trashed.prune()
    assert old.read_bytes() == b"the next acquisition has the same name"
    assert trashed.state(trashed.key) == "stuck" and not report.troubles[0].waits
    asked = trashed.question(trashed.key)
    assert "another file has come under the name /bl7011/day/s000.h5" in asked and "What to do:" in asked
    assert [path.name for path in trashed.trashed()] == ["s000.h5"]
    trashed.prune()
    assert trashed.history(trashed.key).count("stuck") == 1, "it is told once"
    old.unlink()  # a person moves it away
    trashed.prune()
    assert is_back(trashed) and trashed.question(trashed.key) is None


def test_a_foreign_file_under_the_name_in_the_trash_is_left_alone_and_the_scan_stays(
    disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = disk.scans()
    monkeypatch.setattr("als_assets.pruning.trash.folder_for", lambda case, now: ".als-trash/taken")
    folder = disk.root / ".als-trash" / "taken" / "day"
    folder.mkdir(parents=True)
    (folder / "s000.h5").write_bytes(b"somebody else's")
    disk.trash_is_over()
    report = disk.prune()
    assert disk.there(key) and (folder / "s000.h5").read_bytes() == b"somebody else's" and disk.deletions() == 0
    assert "another file has its name in the trash" in report.troubles[0].words
    assert "another file has its name in the trash" in disk.question(key)


def test_a_foreign_file_that_came_under_the_name_in_the_trash_is_never_deleted(trashed: Any) -> None:
    mine = trashed.trashed()[0]
    kept = mine.read_bytes()
    mine.rename(mine.with_name("kept by hand"))
    mine.write_bytes(b"somebody else's")
    trashed.trash_is_over()
    trashed.prune()
    assert mine.read_bytes() == b"somebody else's" and trashed.deletions() == 0
    assert trashed.state(trashed.key) == "stuck"
    assert "another file has its name in the trash" in trashed.question(trashed.key)
    mine.unlink()
    mine.with_name("kept by hand").rename(mine)
    assert mine.read_bytes() == kept
    trashed.prune()
    assert is_back(trashed)


def test_files_that_went_from_the_trash_by_hand_are_pruned_when_the_other_copies_are_proven(trashed: Any) -> None:
    for path in trashed.trashed():
        path.unlink()
    trashed.trash_is_over()
    trashed.prune()
    assert trashed.copy(trashed.key) == "pruned" and trashed.deletions() == 0
    assert "deleted by hand, or in an earlier life of this ledger" in trashed.removal(trashed.key).note


def test_files_that_went_from_the_trash_while_the_other_copy_is_damaged_are_told_as_lost(trashed: Any) -> None:
    for path in trashed.trashed():
        path.unlink()
    emptied(trashed, trashed.key)
    trashed.trash_is_over()
    trashed.prune()
    assert trashed.copy(trashed.key) == "present" and trashed.state(trashed.key) == "stuck"
    assert "is neither at its name nor in the trash" in trashed.question(trashed.key)


def test_a_rename_whose_answer_was_lost_is_looked_up(disk: Any) -> None:
    (key,) = disk.scans()
    route = "POST */rename"
    disk.rig.sandbox.fault("transfer", "drop", route=route, when="after", count=1)
    disk.prune()
    assert disk.state(key) == "in_trash" and not disk.there(key)
    disk.hold(key)
    disk.rig.sandbox.fault("transfer", "drop", route=route, when="after", count=1)
    disk.prune()
    assert disk.state(key) == "put_back" and disk.there(key)


def test_a_rename_that_did_not_take_place_is_done_by_the_next_run(disk: Any) -> None:
    (key,) = disk.scans()
    disk.rig.sandbox.fault("transfer", "status", route="POST */rename", code=503, count=1)
    report = disk.prune()
    assert report.troubles[0].waits and disk.state(key) == "intended" and disk.there(key)
    disk.rig.until(lambda: disk.prune() and disk.state(key) == "in_trash")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_deletion_whose_answer_was_lost_is_carried_out_once(trashed: Any, when: str) -> None:
    trashed.trash_is_over()
    trashed.rig.sandbox.fault("transfer", "drop", route="POST /v0.10/delete", when=when, count=2)
    trashed.prune()
    assert trashed.state(trashed.key) == "deleting"
    trashed.prune_until_over(trashed.key)
    assert trashed.copy(trashed.key) == "pruned" and trashed.deletions() == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hold_after_a_deletion_whose_answer_was_lost(trashed: Any, when: str) -> None:
    """It is not sent again; if it was taken, it is found by its key."""
    trashed.trash_is_over()
    trashed.rig.sandbox.fault("transfer", "paused", count=1)  # so that it is not carried out at once
    trashed.rig.sandbox.fault("transfer", "drop", route="POST /v0.10/delete", when=when, count=2)
    trashed.prune()
    trashed.hold(trashed.key)
    if when == "before":
        trashed.rig.sandbox.box.clear_faults()
    trashed.prune_until_over(trashed.key)
    assert is_back(trashed)


def test_a_hold_while_the_deletion_waits_at_globus_ends_it(trashed: Any) -> None:
    trashed.trash_is_over()
    trashed.rig.pace(grace_s=0.1)
    trashed.rig.sandbox.fault("transfer", "paused", count=1)
    trashed.prune()
    assert trashed.state(trashed.key) == "deleting"
    trashed.hold(trashed.key)
    trashed.prune_until_over(trashed.key)
    assert trashed.state(trashed.key) == "put_back"
    there = {path: path.read_bytes() for path in trashed.content}
    assert there == {path: content for path, (content, _) in trashed.content.items()}


def test_a_deletion_that_fails_is_told_and_tried_again_by_the_next_run(trashed: Any) -> None:
    trashed.trash_is_over()
    trashed.rig.sandbox.fault("transfer", "task_failed", code="ENDPOINT_ERROR", count=1)
    report = trashed.prune()
    assert trashed.state(trashed.key) == "in_trash" and len(trashed.trashed()) == 2
    (trouble,) = report.troubles
    assert not trouble.waits and "2 of its files are still in the trash of bl7011/dtn" in trouble.words
    assert "What to do:" in trouble.words
    trashed.prune()
    assert trashed.copy(trashed.key) == "pruned"


def test_one_file_that_cannot_be_deleted_keeps_the_scan_from_being_called_pruned(trashed: Any) -> None:
    trashed.trash_is_over()
    trashed.rig.sandbox.fault("transfer", "permission_denied", path="*s000_roi.h5", count=-1)
    trashed.prune()
    assert [path.name for path in trashed.trashed()] == ["s000_roi.h5"] and trashed.copy(trashed.key) == "present"
    trashed.rig.sandbox.box.clear_faults()
    trashed.prune_until_over(trashed.key)
    assert trashed.copy(trashed.key) == "pruned" and trashed.trashed() == []


def test_a_late_companion_brings_the_scan_back_before_it_is_copied(disk: Any) -> None:
    """Its copy lacks the file, so nothing may go until that is copied as well."""
    key = disk.scans()[0]
    disk.prune()
    late = disk.root / "day" / "s000_dark.h5"
    late.write_bytes(b"dark")
    written = datetime.fromtimestamp(int(late.stat().st_mtime), UTC)
    file = {"role": "dark", "path": "day/s000_dark.h5", "bytes": 4, "mtime": written}
    with disk.ledger.write() as tx:
        tx.execute(schema.files.insert().values(scan_id=disk.rig.found(key).id, **file))
    disk.prune()
    assert disk.state(key) == "put_back" and "nothing proves day/s000_dark.h5 in cfs" in disk.removal(key).note


def test_hostile_names_are_moved_deleted_and_put_back_as_they_are(disk: Any) -> None:
    names = ["a b'c\"; $(rm -rf x).h5", "-rf.h5", "ünïcode ☃.h5", "x" * 240 + ".h5"]
    keys = disk.rig.notice(*(disk.rig.scan(name, roi=None) for name in names))
    for key in keys:
        disk.rig._copy(disk.rig.found(key))
        disk.rig.settle_by_hand(key, "raw_at_cfs")
        disk.noticed(key, 40)
    disk.prune()
    assert sorted(path.name for path in disk.trashed()) == sorted(names)
    disk.hold(keys[0])
    disk.trash_is_over()
    disk.prune()
    assert [disk.there(key) for key in keys] == [True, False, False, False] and disk.trashed() == []
    assert disk.deletions() == 1, "one task for many scans"


def test_empty_folders_of_the_trash_go_only_where_the_place_is_mounted(trashed: Any, tmp_path: Path) -> None:
    from resources.facilities import Facilities

    file = trashed.rig.facilities.file
    mine = file.places["bl7011"]
    mine = {**mine, "dtn": mine["dtn"].model_copy(update={"mount": str(trashed.root)})}
    trashed.rig.facilities = Facilities(file.model_copy(update={"places": {"bl7011": mine}}))
    (trashed.root / "day" / "other.txt").write_text("not ours")
    os.utime(trashed.root / "day", (1, 1))
    trashed.trash_is_over()
    trashed.prune()
    assert trashed.copy(trashed.key) == "pruned"
    assert not (trashed.root / ".als-trash").exists()
    assert (trashed.root / "day" / "other.txt").exists(), "only what is empty goes"
    assert at_nersc(trashed, trashed.key).exists()
