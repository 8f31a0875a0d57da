"""Whose a scan is: told by a notice, the schedule or the path, never guessed; a person's word is above all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from als_assets import flight_check_here
from beamlines.policy.proposal import PATTERN, SCHEDULE, Shift, belongs
from beamlines.spec import Proposals
from resources.ledger import schema
from resources.proposals import ScheduleError, read, schedule
from tests.ensure.test_catalogue import Catalogue
from tests.noticing.conftest import Beamline

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
HEADER = "beamline,start,end,proposal,investigator,groups\n"
MORNING = Shift(2, NOON - 4 * HOUR, NOON, "ALS-1", "Ada Lovelace", ("guests",))
EVENING = Shift(3, NOON, NOON + 8 * HOUR, "ALS-2")


def whose(written: datetime, seen: datetime, path: str = "a.h5", notified: str | None = None, rule: str | None = None,
          shifts: Any = (MORNING, EVENING)) -> tuple[str | None, str | None]:  # fmt: skip
    found = belongs(Proposals(path=rule), path, notified, shifts, written, seen)
    assert (found.proposal is None) == (found.source is None) == (found.why is not None)
    return found.proposal, found.source or found.why


# the rule


def test_a_scan_that_was_written_and_listed_in_a_shift_belongs_to_it() -> None:
    assert whose(NOON - HOUR, NOON - HOUR) == ("ALS-1", SCHEDULE)
    assert whose(NOON + HOUR, NOON + HOUR) == ("ALS-2", SCHEDULE)
    at_the_end = NOON - timedelta(seconds=1)
    assert whose(at_the_end, at_the_end + timedelta(minutes=5)) == ("ALS-1", SCHEDULE), "listed a little later"
    assert whose(NOON, NOON) == ("ALS-2", SCHEDULE), "a shift ends before its end"


@pytest.mark.parametrize("off", [timedelta(days=-1), timedelta(days=1), timedelta(hours=-3)])
def test_a_clock_that_is_off_makes_nobody_a_present_of_data(off: timedelta) -> None:
    """Two clocks say different things: which one is right, only a person knows."""
    proposal, why = whose(NOON + HOUR + off, NOON + HOUR)
    assert proposal is None and "by its disk's clock it was written" in (why or "")


def test_outside_the_shifts_nothing_is_known() -> None:
    assert whose(NOON + 20 * HOUR, NOON + 20 * HOUR) == (None, "it was written outside the shifts of the schedule")
    assert whose(NOON, NOON, shifts=()) == (None, "nothing tells it")


def test_a_notice_comes_before_the_schedule_and_the_schedule_before_the_path() -> None:
    rule = r"^(?P<proposal>ALS-\d+)/"
    assert whose(NOON, NOON, "ALS-9/a.h5", "ALS-7", rule) == ("ALS-7", "notified")
    assert whose(NOON, NOON, "ALS-9/a.h5", None, rule) == ("ALS-2", SCHEDULE)
    assert whose(NOON + 20 * HOUR, NOON, "ALS-9/a.h5", None, rule, ()) == ("ALS-9", PATTERN)
    assert whose(NOON, NOON, "other/a.h5", None, rule, ()) == (None, "the path does not name one")


def test_a_schedule_that_cannot_be_read_lets_nothing_behind_it_answer() -> None:
    rule = r"^(?P<proposal>ALS-\d+)/"
    assert whose(NOON, NOON, "ALS-9/a.h5", None, rule, None) == (None, "the schedule of proposals cannot be read")
    assert whose(NOON, NOON, "ALS-9/a.h5", "ALS-7", rule, None) == ("ALS-7", "notified")


def test_investigator_and_groups_come_with_the_proposal_where_the_schedule_has_them() -> None:
    found = belongs(Proposals(), "a.h5", "ALS-1", [MORNING], NOON, NOON)
    assert (found.investigator, found.groups, found.source) == ("Ada Lovelace", ("guests",), "notified")


def test_a_path_that_names_something_else_than_a_proposal_gives_none() -> None:
    proposal, why = whose(NOON, NOON, "a b;c/x.h5", None, "^(?P<proposal>[^/]+)/", ())
    assert proposal is None and "is no name of a proposal" in (why or "")


# the file


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("beamline,start,end\n", "line 1: there is no column 'proposal'"),
        (HEADER + "7.0.1.1,2026-11-20T08:00,2026-11-20T12:00Z,ALS-1,,\n", "'2026-11-20T08:00' has no time zone"),
        (HEADER + "bl7011,soon,2026-11-20T12:00Z,ALS-1,,\n", "line 2: start: 'soon' is no time"),
        (HEADER + "bl7011,2026-11-20T12:00Z,2026-11-20T12:00Z,ALS-1,,\n", "line 2: the shift ends before it begins"),
        (HEADER + "bl7011,2026-11-20T08:00Z,2026-11-20T12:00Z,,,\n", "line 2: '' is no name of a proposal"),
        (
            HEADER + "bl7011,2026-11-20T12:00Z,2026-11-20T20:00Z,ALS-2,,\n"
            "other,2026-11-20T12:00Z,2026-11-20T20:00Z,X,,\n"
            "7.0.1.1,2026-11-20T08:00Z,2026-11-20T14:00+01:00,ALS-1,,\n",
            "line 4: its shift overlaps with that of line 2",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_the_schedule_is_told_with_its_line(
    beamline: Beamline, tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "schedule.csv"
    file.write_text(text)
    with pytest.raises(ScheduleError, match="What to do:") as error:
        read(file, beamline.rig.spec)
    assert says in str(error.value) and str(file) in str(error.value)


def test_a_schedule_as_a_spreadsheet_writes_it_is_read(beamline: Beamline, tmp_path: Path) -> None:
    file = tmp_path / "schedule.csv"
    file.write_bytes(
        ("\ufeff" + HEADER
         + '7.0.1.1, 2026-11-20T00:00-08:00, 2026-11-20T08:00-08:00, ALS-1, "Lovelace, Ada", g1;g2\n\n'
         + "elsewhere,nonsense,,,\n").replace("\n", "\r\n").encode()
    )  # fmt: skip
    (shift,) = read(file, beamline.rig.spec)
    assert shift == Shift(2, NOON - 4 * HOUR, NOON + 4 * HOUR, "ALS-1", "Lovelace, Ada", ("g1", "g2"))


# noticing


def planned(beamline: Beamline, text: str | None) -> Path:
    """A schedule whose shift is now, or text."""
    file = beamline.rig.folder / "schedule.csv"
    now = beamline.rig.ledger.now()
    shift = f"bl7011,{(now - HOUR).isoformat()},{(now + 8 * HOUR).isoformat()},ALS-1,Ada Lovelace,guests\n"
    file.write_text(HEADER + shift if text is None else text)
    beamline.spec(proposals={"schedule": "schedule.csv"})
    return file


def test_a_scan_gets_the_proposal_of_its_shift(beamline: Beamline) -> None:
    planned(beamline, None)
    beamline.raw()
    scan = beamline.one()
    assert (scan.proposal, scan.proposal_from, scan.investigator, scan.groups) == (
        "ALS-1", "schedule", "Ada Lovelace", ["guests"],
    )  # fmt: skip


@pytest.mark.parametrize("text", ["nonsense\n", "missing"])
def test_a_broken_schedule_stops_no_noticing_and_is_made_up_for_once_it_is_mended(
    beamline: Beamline, text: str
) -> None:
    file = planned(beamline, text)
    if text == "missing":
        file.unlink()
    beamline.raw()
    assert beamline.one().proposal is None
    noticed = beamline.look()
    assert noticed.schedule and "schedule" in noticed.schedule and noticed.trouble is None
    planned(beamline, None)
    beamline.look()
    assert beamline.one().proposal == "ALS-1" and beamline.one().proposal_from == "schedule"
    before = beamline.everything()
    beamline.look()
    assert beamline.everything() == before


def test_the_flight_check_reads_the_schedule(beamline: Beamline) -> None:
    assert list(flight_check_here.schedules([beamline.rig.spec])) == []
    planned(beamline, "nonsense\n")
    (found,) = flight_check_here.schedules([beamline.rig.spec])
    assert (found.area, found.ok) == ("bl7011/proposals", False) and "there is no column" in found.says
    planned(beamline, None)
    (found,) = flight_check_here.schedules([beamline.rig.spec])
    assert found.ok and found.says.startswith("1 shifts from now on, the last one until")


def test_the_schedule_is_read_again_only_when_it_has_changed(beamline: Beamline, monkeypatch: Any) -> None:
    planned(beamline, None)
    reads = []
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: (reads.append(self.name), real(self, *a, **k))[1])
    for _ in range(3):
        assert schedule(beamline.rig.spec).trouble is None
    assert reads.count("schedule.csv") == 1


def test_an_unknown_proposal_is_a_state_that_staff_see(beamline: Beamline) -> None:
    beamline.raw("a.h5")
    beamline.raw("b.h5")
    assert beamline.als("assign", "bl7011", "b.h5", "--proposal", "ALS-1").exit_code == 0
    listed = beamline.als_json("scans", "-b", "bl7011", "--state", "unassigned")["scans"]
    assert [scan["key"] for scan in listed] == ["a.h5"]
    assert "unassigned" in beamline.als("scans").output and "ALS-1" in beamline.als("scans").output
    assert "proposal unknown" in beamline.als("scan", "bl7011", "a.h5").output
    with beamline.rig.ledger.read() as tx:
        details = tx.execute(sa.select(schema.history.c.details).where(schema.history.c.what == "noticed")).scalars()
        assert [d["no proposal"] for d in details] == ["nothing tells it"] * 2


# a person


def test_a_person_assigns_many_scans_and_their_entries_follow_without_losing_anything(beamline: Beamline) -> None:
    keys = [beamline.raw("a.h5"), beamline.raw("b.h5")]
    for asset in ("raw_at_cfs", "xpcs_result", "catalog_entry"):
        beamline.rig.run(asset)
    catalogue = Catalogue(beamline.rig)
    before = catalogue.datasets()
    document = beamline.als_json(
        "assign", "bl7011", *keys, "--proposal", "ALS-7", "--investigator", "Ada Lovelace", "--group", "guests",
        "--why", "she said so",
    )  # fmt: skip
    assert [scan["changed"] for scan in document["scans"]] == [True, True]
    assert sorted(beamline.rig.run("catalog_entry").keys) == keys
    after = catalogue.datasets()
    assert set(after) == set(before), "no entry came and none went"
    for pid, entry in after.items():
        assert entry["ownerGroup"] == "7.0.1.1", "our account is not in the group of the proposal"
        assert {"ALS-7", "guests", "ingestor"} <= set(entry["accessGroups"])
        assert entry["principalInvestigator"] == "Ada Lovelace" and "ALS-7" in str(entry.get("proposalId", entry))
        for kept in ("size", "numberOfFiles", "datasetlifecycle", "creationTime", "type", "sourceFolder", "keywords"):
            assert entry.get(kept) == before[pid].get(kept), kept
    assert all(why == "she said so" for _, why in beamline.said("assigned"))
    assert len(beamline.said("assigned")) == 2


def test_the_entry_belongs_to_the_proposal_where_our_account_may_still_update_it(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALS_SCICAT_USERNAME", "admin")
    monkeypatch.setenv("ALS_SCICAT_PASSWORD", "adminpw")
    beamline.raw()
    beamline.rig.run("raw_at_cfs")
    beamline.rig.run("catalog_entry")
    beamline.als_json("assign", "bl7011", "a.h5", "--proposal", "ALS-7")
    beamline.rig.run("catalog_entry")
    (entry,) = Catalogue(beamline.rig).datasets().values()
    assert entry["ownerGroup"] == "ALS-7" and "7.0.1.1" in entry["accessGroups"]
    beamline.als_json("assign", "bl7011", "a.h5", "--proposal", "ALS-8")
    beamline.rig.run("catalog_entry")
    (entry,) = Catalogue(beamline.rig).datasets().values()
    assert entry["ownerGroup"] == "ALS-8" and "ALS-7" not in entry["accessGroups"]


def test_what_a_person_says_is_not_overruled_and_saying_it_twice_changes_nothing(beamline: Beamline) -> None:
    beamline.raw()
    beamline.als_json("assign", "bl7011", "a.h5", "--proposal", "ALS-7")
    before = beamline.everything()
    assert beamline.als_json("assign", "bl7011", "a.h5", "--proposal", "ALS-7")["scans"][0]["changed"] is False
    assert beamline.everything() == before
    planned(beamline, None)
    beamline.look()
    assert beamline.one().proposal == "ALS-7"


def test_a_dry_run_says_what_would_change_and_changes_nothing(beamline: Beamline) -> None:
    beamline.raw()
    before = beamline.everything()
    document = beamline.als_json("assign", "bl7011", "a.h5", "--proposal", "ALS-7", "--dry-run")
    assert document["dry_run"] is True and document["scans"][0]["proposal"] == "ALS-7"
    assert document["scans"][0]["changed"] is True
    assert beamline.everything() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["x.h5", "--proposal", "ALS-1"], "bl7011 has no scan 'x.h5'"),
        (["a.h5"], "say --proposal, --restrict or --not-restricted"),
        (["a.h5", "--proposal", "a b"], "'a b' is no name of a proposal or group"),
        (["a.h5", "--restrict"], "give --why"),
        (["a.h5", "--not-restricted"], "give --why"),
        (["a.h5", "--group", "g"], "give --proposal as well"),
        (["a.h5", "--restrict", "--not-restricted", "--why", "w"], "contradict"),
        (["a.h5", "--proposal", "P", "--cancel"], "--cancel goes with --restrict"),
    ],
)
def test_what_makes_no_sense_is_said_and_changes_nothing(beamline: Beamline, words: list[str], says: str) -> None:
    beamline.raw()
    before = beamline.everything()
    ended = beamline.als("assign", "bl7011", *words)
    assert ended.exit_code != 0 and says in ended.output
    assert beamline.everything() == before


def test_a_schedule_outside_the_state_folder_is_found_by_its_path(beamline: Beamline, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text(HEADER)
    beamline.spec(proposals={"schedule": str(elsewhere)})
    assert schedule(beamline.rig.spec).trouble is None
    elsewhere.unlink()
    assert "cannot be read" in (schedule(beamline.rig.spec).trouble or "")
