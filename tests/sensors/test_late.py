"""A companion that comes when the data of its scan have left the disk is told to staff, and nothing is done to it."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from resources.errors import Unavailable
from resources.ledger import history, refusals, removals, schema
from tests.ledger.conftest import spec_of

TWO = {"roi": "{stem}_roi.h5", "dark": "{stem}_dark.h5"}


@pytest.fixture
def gone(beamline: Any) -> Any:
    """The data of a scan are not listed any more, and a companion comes that the spec does not require."""
    rule = {"watch": "dtn", "files": ["**/*.h5"], "companions": TWO, "required": ["roi"]}
    beamline.spec = spec_of(scans=rule)
    beamline.notice("day/a.h5", "day/b.h5")
    del beamline.disk.folders["day"]["a.h5"], beamline.disk.folders["day"]["a_roi.h5"]
    beamline.disk.write("day/a_dark.h5")
    return beamline


def copy_of(beamline: Any) -> removals.Copy:
    scan = beamline.scan("day/a.h5")
    with beamline.ledger.read() as tx:
        return removals.copies_of(tx, [scan.id])[scan.id]["dtn"]


def deleted(beamline: Any) -> None:
    one = schema.copies.c.id == copy_of(beamline).id
    with beamline.ledger.write() as tx:
        tx.execute(sa.update(schema.copies).where(one).values(state="pruned", pruned_at=beamline.now))


def told(beamline: Any) -> list[str]:
    with beamline.ledger.read() as tx:
        return [f"{name}: {why}" for name, why in refusals.refused(tx, "bl1").items()]


def settled(beamline: Any) -> list[str]:
    assert beamline.look().refused == [], "it may still be written"
    beamline.wait(60)
    refused: list[str] = beamline.look().refused
    return refused


def test_staff_are_told_once_of_a_companion_whose_scan_was_pruned(gone: Any) -> None:
    deleted(gone)
    (words,) = settled(gone)
    assert words.startswith(
        "'day/a_dark.h5': it came late: the data of scan day/a.h5 were deleted from bl1/dtn at 2026"
    )
    assert "What to do: copy it by hand" in words
    assert told(gone) == [words] and gone.look().refused == []
    with gone.ledger.read() as tx:
        whys = [one["why"] for one in history.of_scan(tx, gone.scan("day/a.h5").id) if one["what"] == "refused"]
    assert whys == [words]
    assert gone.scan("day/a.h5").question is None and gone.keys() == ["day/a.h5", "day/b.h5"]


def test_one_whose_scan_is_in_the_trash_can_still_be_saved(gone: Any) -> None:
    with gone.ledger.write() as tx:
        assert removals.intend(tx, copy_of(gone), "bl1", ".als-trash/x", "a test", "it is old", gone.now)
    (words,) = settled(gone)
    assert "are in the trash of bl1/dtn" in words and "`als hold bl1 day/a.h5` brings them back" in words
    deleted(gone)
    with gone.ledger.write() as tx:
        tx.execute(sa.update(schema.removals).values(live=False))
    assert "were deleted" in gone.look().refused[0] and len(told(gone)) == 1


def test_one_whose_data_somebody_has_taken_away_is_told_until_they_are_back(gone: Any) -> None:
    (words,) = settled(gone)
    assert "day/a.h5 of scan day/a.h5 is not in bl1/dtn any more" in words and "put that file back" in words
    gone.disk.write("day/a.h5")
    gone.disk.write("day/a_roi.h5")
    assert len(gone.look().scans) == 1 and told(gone) == []
    assert gone.said("companion") == [None]
    with gone.ledger.read() as tx:
        paths = tx.execute(sa.select(schema.files.c.path)).scalars()
        assert "day/a_dark.h5" in set(paths)


def test_it_is_told_no_more_when_it_was_moved_away(gone: Any) -> None:
    deleted(gone)
    assert settled(gone) == told(gone) != []
    entry = gone.disk.folders["day"].pop("a_dark.h5")
    gone.disk.trouble["day"] = Unavailable("globus", "it does not answer")
    gone.look()
    assert told(gone) != [], "a listing that is not whole says nothing"
    gone.disk.trouble.clear()
    gone.wait(600)
    gone.look()
    assert told(gone) == []
    gone.disk.folders["day"]["a_dark.h5"] = entry
    assert len(gone.look().refused) == 1


def test_a_companion_of_no_scan_and_one_without_content_are_nobody_s_business(gone: Any) -> None:
    deleted(gone)
    gone.disk.write("day/a_dark.h5", 0)
    gone.disk.write("day/c_dark.h5")
    gone.disk.write("elsewhere/a_dark.h5")
    assert settled(gone) == [] == told(gone)
