"""The sentinel: an empty file whose name says which place this is. Without it nothing is concluded or touched."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from als_assets import families
from resources.errors import Refused
from resources.facilities import Facilities, Place, View
from resources.storage import Storage, WrongPlace
from sensors import new_scans

SENTINEL = ".als-place.bl7011.dtn"


def unmounted(disk: Any) -> None:
    """The mount point lists as empty."""
    disk.root.rename(disk.root.with_name("disk"))
    disk.root.mkdir()


def other_disk(disk: Any) -> None:
    (disk.root / SENTINEL).rename(disk.root / ".als-place.bl7012.dtn")


def two_sentinels(disk: Any) -> None:
    (disk.root / ".als-place.bl7012.dtn").touch()


def sentinel_is_a_folder(disk: Any) -> None:
    (disk.root / SENTINEL).unlink()
    (disk.root / SENTINEL).mkdir()


def folder_is_gone(disk: Any) -> None:
    disk.root.rename(disk.root.with_name("disk"))


WRONG = [unmounted, other_disk, two_sentinels, sentinel_is_a_folder, folder_is_gone]


@pytest.mark.parametrize("wrong", WRONG)
def test_nothing_is_removed_from_a_disk_that_is_not_the_right_one(disk: Any, wrong: Any) -> None:
    (key,) = disk.scans()
    contents = sorted(path.name for path in disk.root.rglob("*"))
    wrong(disk)
    report = disk.prune()
    (trouble,) = report.troubles
    assert not trouble.waits
    assert "bl7011/dtn is not what answers at its address" in trouble.words and SENTINEL in trouble.words
    assert "What to do:" in trouble.words
    assert disk.removal(key) is None and disk.question(key) is None
    assert disk.rig.pause_of("globus") is None, "the service is well: others need not wait"
    where = disk.root if (disk.root / "day").exists() else disk.root.with_name("disk")
    assert len(list(where.rglob("*"))) >= len(contents)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_in_the_trash_is_not_given_up_for_gone_when_the_disk_is_not_there(disk: Any, wrong: Any) -> None:
    (key,) = disk.scans()
    disk.prune()
    wrong(disk)
    disk.trash_is_over()
    disk.prune()
    assert disk.state(key) == "in_trash" and disk.copy(key) == "present" and disk.question(key) is None
    assert disk.deletions() == 0


def test_an_unmounted_disk_makes_no_scans_and_changes_none(disk: Any) -> None:
    disk.scans()
    unmounted(disk)
    place = families.storage(disk.rig.spec, "dtn", disk.rig.facilities, disk.rig.services["globus"])
    seen = new_scans.look(disk.ledger, disk.rig.spec, place, disk.rig.facilities.pace, "globus")
    assert seen.files == 0 and seen.broken and SENTINEL in str(seen.trouble)


def test_the_sentinel_itself_is_no_scan(disk: Any) -> None:
    assert disk.rig.notice() == []


def test_a_disk_that_is_back_is_worked_on_again(disk: Any) -> None:
    (key,) = disk.scans()
    unmounted(disk)
    disk.prune()
    disk.root.rmdir()
    disk.root.with_name("disk").rename(disk.root)
    disk.prune()
    assert disk.state(key) == "in_trash"


def test_a_place_without_a_folder_of_its_own_is_refused(disk: Any) -> None:
    globus = disk.rig.services["globus"]
    with pytest.raises(Refused, match="its base is '/'"):
        Storage(globus, "bl7011/dtn", Place(globus=View(collection="c", base="/")), prunable=True)
    file = disk.rig.facilities.file
    mine = file.places["bl7011"]
    mine = {**mine, "dtn": mine["dtn"].model_copy(update={"globus": View(collection="c", base="//")})}
    disk.rig.facilities = Facilities(file.model_copy(update={"places": {"bl7011": mine}}))
    report = disk.prune()
    assert "its base is '/'" in report.troubles[0].words and not report.troubles[0].waits


def test_a_place_in_which_nothing_may_be_deleted_needs_none(disk: Any) -> None:
    place = families.storage(disk.rig.spec, "cfs", disk.rig.facilities, disk.rig.services["globus"])
    shutil.rmtree(disk.rig.cfs)
    disk.rig.cfs.mkdir()
    assert list(place.walk(2)) == []
    place.prunable = True
    with pytest.raises(WrongPlace, match=r"\.als-place\.bl7011\.cfs"):
        list(place.walk(2))
