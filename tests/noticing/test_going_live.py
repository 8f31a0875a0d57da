"""Going live beside another system: since a date, and observing first, then copying, then everything."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from beamlines.policy.since import too_old
from resources.ledger import schema
from sensors import caught_up
from tests.noticing.conftest import DAY, Beamline

SINCE = date(2026, 11, 20)
BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIRST_LOOK = BEGIN + timedelta(days=1)


# since


@pytest.mark.parametrize(
    ("written", "first_seen", "old"),
    [
        (BEGIN - HOUR, FIRST_LOOK, True),
        (BEGIN, FIRST_LOOK, False),
        (BEGIN - timedelta(days=900), FIRST_LOOK, True),
        (BEGIN + timedelta(days=900), FIRST_LOOK, False),
        (BEGIN - HOUR, FIRST_LOOK + HOUR, False),  # appeared since: the disk's clock is a day behind
        (BEGIN - timedelta(days=1), FIRST_LOOK + HOUR, False),
        (BEGIN - timedelta(days=3), FIRST_LOOK + HOUR, True),  # somebody has moved old files there
    ],
)
def test_what_was_there_at_the_first_look_is_judged_by_its_time_and_what_comes_later_by_ours(
    written: datetime, first_seen: datetime, old: bool
) -> None:
    assert too_old(SINCE, written, first_seen, FIRST_LOOK) is old
    assert too_old(None, written, first_seen, FIRST_LOOK) is False


def test_before_the_first_whole_listing_everything_is_judged_by_its_time() -> None:
    assert too_old(SINCE, BEGIN - HOUR, FIRST_LOOK, None) is True


def since_today(beamline: Beamline) -> None:
    beamline.spec(since=beamline.rig.ledger.now().date())


def test_years_of_old_scans_are_left_alone_and_new_ones_are_taken(beamline: Beamline) -> None:
    since_today(beamline)
    for name in ("2024/a.h5", "2025/b.h5"):
        beamline.write(name, b"frames", age=400 * DAY)
        beamline.write(name.replace(".h5", "_roi.h5"), b"roi", age=400 * DAY)
    noticed = beamline.settle()
    assert noticed.scans == [] and noticed.left_alone == 2 and "2 older than `since`" in str(noticed)
    assert noticed.refused == []
    beamline.raw("2026/c.h5", age=0)
    assert beamline.scan("2024/a.h5") is None and beamline.one("2026/c.h5")
    assert beamline.rig.run("raw_at_cfs").keys == ["2026/c.h5"]


def test_a_new_scan_of_a_disk_whose_clock_is_a_day_behind_is_taken(beamline: Beamline) -> None:
    since_today(beamline)
    beamline.look()  # the first whole listing
    beamline.raw("a.h5", age=DAY + 3600)
    assert beamline.rig.run("raw_at_cfs").keys == ["a.h5"]


def test_a_first_listing_that_was_not_whole_is_not_the_first_look(beamline: Beamline) -> None:
    since_today(beamline)
    beamline.write("old/a.h5", b"frames", age=DAY + 3600 * 30)
    beamline.write("old/a_roi.h5", b"roi", age=DAY + 3600 * 30)
    beamline.rig.sandbox.fault("transfer", "permission_denied", path="*/old", count=1)
    assert beamline.look().trouble
    noticed = beamline.settle()
    assert noticed.trouble is None and noticed.scans == [] and noticed.left_alone == 1


def test_what_appears_with_a_time_of_years_ago_is_left_alone_and_told(beamline: Beamline) -> None:
    """Old files that were moved there, or a clock that fell back to 1980: a person can tell, we cannot."""
    since_today(beamline)
    beamline.look()
    beamline.write("a.h5", b"frames", age=400 * DAY)
    beamline.write("a_roi.h5", b"roi", age=400 * DAY)
    noticed = beamline.look()
    assert (
        noticed.left_alone == 1
        and len(noticed.refused) == 1
        and "set the clock of the disk's host" in noticed.refused[0]
    )
    assert beamline.look().refused == []
    assert "a.h5" in beamline.als_json("scans")["refused"][0]["name"]
    beamline.aged(beamline.rig.dtn / "a.h5", 0)  # touched, as the message says
    assert beamline.settle().scans and beamline.als_json("scans")["refused"] == []


def test_an_earlier_date_takes_what_was_left_alone(beamline: Beamline) -> None:
    since_today(beamline)
    beamline.write("a.h5", b"frames", age=40 * DAY)
    beamline.write("a_roi.h5", b"roi", age=40 * DAY)
    beamline.settle()
    beamline.spec(since=beamline.rig.ledger.now().date() - timedelta(days=50))
    assert len(beamline.look().scans) == 1


def test_old_scans_below_a_folder_are_taken_on_request_and_no_others(beamline: Beamline) -> None:
    since_today(beamline)
    for name in ("2024/a.h5", "2025/b.h5", "2025/11/c.h5"):
        beamline.write(name, b"frames", age=400 * DAY)
        beamline.write(name.replace(".h5", "_roi.h5"), b"roi", age=400 * DAY)
    before = beamline.everything()
    document = beamline.als_json("crawl", "bl7011", "2025", "--dry-run")
    assert document["scans"] == ["2025/11/c.h5", "2025/b.h5"] and beamline.everything() == before
    assert beamline.als_json("crawl", "bl7011", "2025/")["waiting"] == 2, "nobody has seen them before"
    beamline.wait(61)
    assert sorted(beamline.als_json("crawl", "bl7011", "2025")["scans"]) == ["2025/11/c.h5", "2025/b.h5"]
    assert beamline.scan("2024/a.h5") is None and beamline.als_json("crawl", "bl7011", "2025")["scans"] == []
    assert sorted(beamline.rig.run("raw_at_cfs").keys) == ["2025/11/c.h5", "2025/b.h5"]
    assert "leads outside" in beamline.als("crawl", "bl7011", "../x").output
    assert "nothing new is listed below nosuch of bl7011/dtn" in beamline.als("crawl", "bl7011", "nosuch").output


# mode


def test_observing_then_copying_then_everything_makes_the_missing_steps_due_and_nothing_twice(
    beamline: Beamline,
) -> None:
    rig = beamline.rig
    beamline.spec(mode="observe")
    beamline.raw("a.h5")
    assert set(rig.document("a.h5")["assets"]) == {"raw_at_dtn"} and rig.document("a.h5")["state"] == "done"
    assert not list(rig.cfs.glob("*.h5"))
    beamline.spec(mode="copy")
    assert beamline.look().changed == 1 and beamline.look().changed == 0
    assert rig.step("a.h5", "raw_at_cfs").state == "due"
    assert rig.run("raw_at_cfs").keys == ["a.h5"] and rig.document("a.h5")["state"] == "done"
    beamline.raw("b.h5")
    beamline.spec(mode="full")
    assert beamline.look().changed == 2
    assert rig.run("raw_at_cfs", ["b.h5"]).keys == ["b.h5"]
    for asset in ("xpcs_result", "catalog_entry"):
        assert sorted(rig.run(asset).keys) == ["a.h5", "b.h5"]
    assert rig.document("a.h5")["state"] == rig.document("b.h5")["state"] == "done"
    assert len(rig.tasks("a.h5", "raw_at_cfs")) == 1, "what is there is not copied again"
    rig.executed_once()


def test_going_back_to_observing_begins_nothing_more(beamline: Beamline) -> None:
    beamline.raw("a.h5")
    beamline.spec(mode="observe")
    beamline.look()
    assert set(beamline.rig.document("a.h5")["assets"]) == {"raw_at_dtn"}
    with pytest.raises(KeyError, match="raw_at_cfs"):
        beamline.rig.engine("raw_at_cfs")


def test_scans_that_were_retired_are_left_as_they_are(beamline: Beamline) -> None:
    beamline.spec(mode="observe")
    beamline.raw("a.h5")
    with beamline.rig.ledger.write() as tx:
        tx.execute(schema.scans.update().values(retired_at=beamline.rig.ledger.now()))
    beamline.spec(mode="full")
    assert beamline.look().changed == 0


def test_many_scans_are_brought_in_line_some_at_each_look(beamline: Beamline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caught_up, "AT_ONCE", 3)
    beamline.spec(mode="observe")
    for n in range(8):
        beamline.write(f"{n}.h5", b"frames")
        beamline.write(f"{n}_roi.h5", b"roi")
    beamline.settle()
    beamline.spec(mode="copy")
    assert [beamline.look().changed for _ in range(4)] == [3, 3, 2, 0]
    assert len(beamline.rig.run("raw_at_cfs").keys) == 8
