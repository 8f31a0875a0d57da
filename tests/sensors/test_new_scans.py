"""New files become scans and partitions: once, whoever looks how often, and whatever else lies on the disk."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from resources.errors import CredentialProblem, NotFound, Refused, Unavailable
from resources.ledger import leases, scans, steps
from sensors import new_scans
from tests.counted import calls
from tests.ledger.conftest import spec_of
from tests.sensors.conftest import NOW

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


def everything(beamline: Any) -> list[tuple[Any, ...]]:
    from resources.ledger import schema

    with beamline.ledger.read() as tx:
        return [tuple(row) for table in schema.metadata.sorted_tables for row in tx.execute(table.select())]


def test_a_file_that_has_settled_becomes_a_scan_with_its_companion(beamline: Any) -> None:
    beamline.disk.write("day/a.h5")
    beamline.disk.write("day/a_roi.h5")
    first = beamline.look()
    assert (first.files, first.scans, first.waiting) == (2, [], 1)
    beamline.wait(59)
    assert beamline.look().scans == []
    beamline.wait(1)
    noticed = beamline.look()
    assert len(noticed.scans) == 1 and noticed.waiting == 0
    assert beamline.keys() == ["day/a.h5"]
    assert {a: s.state for a, s in beamline.steps("day/a.h5").items()} == {
        "raw_at_dtn": "done", "raw_at_cfs": "due", "xpcs_result": "blocked", "catalog_entry": "blocked",
    }  # fmt: skip
    assert beamline.said("noticed") == [None]


def test_looking_again_changes_nothing_and_writes_nothing(beamline: Any) -> None:
    beamline.notice("a.h5", "b.h5")
    before = everything(beamline)

    def write() -> Any:
        raise AssertionError("nothing is new")

    beamline.ledger.write = write
    for _ in range(3):
        beamline.wait(60)
        assert beamline.look().scans == []
    assert everything(beamline) == before


def test_looking_twice_at_once_registers_each_scan_once(beamline: Any) -> None:
    for n in range(20):
        beamline.disk.write(f"{n}.h5")
        beamline.disk.write(f"{n}_roi.h5")
    ledgers = [beamline.open() for _ in range(3)]
    for _ in range(2):
        barrier = threading.Barrier(3)
        found: list[list[int]] = []

        def look(ledger: Any, barrier: Any = barrier, found: Any = found) -> None:
            barrier.wait()
            found.append(beamline.look(ledger).scans)

        threads = [threading.Thread(target=look, args=(ledger,)) for ledger in ledgers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        beamline.wait(60)
    assert len(found) == 3 and sorted(n for ids in found for n in ids) == list(range(1, 21))
    assert len(beamline.said("noticed")) == 20
    for ledger in ledgers:
        ledger.close()


def test_a_file_that_is_still_written_with_pauses_waits(beamline: Any) -> None:
    beamline.disk.write("a_roi.h5")
    for size in range(1, 5):
        beamline.disk.write("a.h5", size)
        assert beamline.look().scans == []
        beamline.wait(59)
    assert beamline.look().scans == []
    beamline.wait(1)
    assert len(beamline.look().scans) == 1


def test_a_disk_whose_clock_is_off_is_watched_with_ours(beamline: Any) -> None:
    beamline.disk.write("a.h5", mtime=NOW + timedelta(days=300))
    beamline.disk.write("a_roi.h5", mtime=NOW - timedelta(days=9000))
    beamline.look()
    beamline.wait(60)
    assert len(beamline.look().scans) == 1


def test_a_slow_listing_does_not_make_files_settle_earlier(beamline: Any) -> None:
    beamline.disk.write("a.h5")
    beamline.disk.write("a_roi.h5")
    real = beamline.disk.ls

    def slow(*arguments: Any) -> Any:
        beamline.wait(59)
        return real(*arguments)

    beamline.disk.ls = slow
    beamline.look()
    beamline.disk.ls = real
    beamline.wait(1)
    assert beamline.look().scans == [], "it was seen a second ago"
    beamline.disk.ls = slow
    assert beamline.look().scans == [], "it may have been seen at the beginning of the listing"


def test_an_empty_file_has_no_content_yet(beamline: Any) -> None:
    beamline.disk.write("a.h5", 0)
    beamline.disk.write("a_roi.h5")
    for _ in range(3):
        assert (beamline.look().scans, beamline.look().waiting) == ([], 1)
        beamline.wait(9999)
    beamline.disk.write("a.h5", 7)
    beamline.look()
    beamline.wait(60)
    assert len(beamline.look().scans) == 1


def test_an_empty_companion_is_as_good_as_none(beamline: Any) -> None:
    beamline.disk.write("a.h5")
    beamline.disk.write("a_roi.h5", 0)
    beamline.look()
    beamline.wait(600)
    assert len(beamline.look().scans) == 1 and beamline.scan().missing == ["roi"]
    beamline.disk.write("a_roi.h5", 3)
    beamline.look()
    beamline.wait(60)
    assert len(beamline.look().scans) == 1 and beamline.scan().missing == []
    assert beamline.scan().question is None


def test_raw_data_go_ahead_without_a_companion_that_does_not_come(beamline: Any) -> None:
    beamline.disk.write("a.h5")
    beamline.look()
    beamline.wait(599)
    assert beamline.look().scans == []
    beamline.wait(1)
    assert len(beamline.look().scans) == 1
    assert beamline.scan().missing == ["roi"] and beamline.said("noticed") == ["went ahead without roi"]
    assert beamline.steps()["raw_at_cfs"].state == "due" and beamline.steps()["xpcs_result"].state == "blocked"


def test_a_companion_that_comes_late_is_copied_and_lets_the_analysis_go_on(beamline: Any) -> None:
    beamline.disk.write("a.h5")
    beamline.look()
    beamline.wait(600)
    (scan_id,) = beamline.look().scans
    with beamline.ledger.write() as tx:
        steps.claim(tx, scan_id, "raw_at_cfs", beamline.now, beamline.now)
        steps.finish(tx, scan_id, "raw_at_cfs", beamline.now)
    beamline.disk.write("a_roi.h5")
    beamline.look()
    beamline.wait(60)
    assert beamline.look().scans == [scan_id] and beamline.look().scans == []
    assert beamline.steps()["raw_at_cfs"].state == "due" and beamline.scan().missing == []
    assert beamline.said("companion") == [None]


def test_scans_that_are_older_than_the_beamline_s_start_are_left_alone(beamline: Any) -> None:
    beamline.spec = spec_of(since="2026-11-20")
    beamline.disk.write("old.h5", mtime=NOW - timedelta(days=1))
    beamline.disk.write("old_roi.h5", mtime=NOW - timedelta(days=1))
    beamline.notice("new.h5")
    assert beamline.keys() == ["new.h5"]


def test_a_beamline_that_is_only_observed_gets_no_work(beamline: Any) -> None:
    beamline.spec = spec_of(mode="observe")
    beamline.notice("a.h5")
    assert set(beamline.steps()) == {"raw_at_dtn"}


# names


def test_names_that_cannot_be_scans_are_told_once_and_spoil_nothing_else(beamline: Any) -> None:
    for name in ("bad\nname.h5", "bad\udcff.h5", "nul\0.h5", "/".join(["d" * 250] * 8) + "/a.h5", "x\ty_roi.h5"):
        beamline.disk.write(name)
    beamline.disk.write("link.h5", kind="link")
    first = beamline.look()
    assert len(first.refused) == 6
    assert any("'bad\\udcff.h5': the name is not valid UTF-8" in words for words in first.refused)
    assert any("it is a link" in words for words in first.refused)
    assert beamline.look().refused == []
    assert beamline.notice("good.h5") and beamline.keys() == ["good.h5"]
    assert len(beamline.said("refused")) == 6


def test_a_file_that_is_named_like_an_escape_is_not_mistaken_for_the_one_that_is_refused(beamline: Any) -> None:
    beamline.disk.write("a\udcff.h5")
    beamline.look()
    assert beamline.notice("a\\udcff.h5")


def test_what_is_no_file_of_a_scan_is_nobody_s_business(beamline: Any) -> None:
    for name in ("notes\n.txt", ".hidden\n.h5", "thumbs.db", "x.h5.tmp"):
        beamline.disk.write(name)
    beamline.disk.write("dangling.txt", kind="link")
    assert (beamline.look().refused, beamline.look().files, beamline.look().waiting) == ([], 0, 0)


def test_a_folder_that_is_too_deep_is_told(beamline: Any) -> None:
    beamline.disk.write("/".join("abcdefghij") + "/a.h5")
    assert "the folder is deeper than 8" in beamline.look().refused[0]


@pytest.mark.parametrize(
    "name", ["it's $(x) `y`.h5", "-rf.h5", "a b.h5", "日本.h5", "..a.h5".replace("..", "b.."), "x" * 252 + ".h5"]
)
def test_hostile_names_become_scans_like_any_other(beamline: Any, name: str) -> None:
    assert beamline.notice(f"day/{name}")
    assert beamline.scan(beamline.keys()[0]).path == f"day/{name}"


# changed content


def test_a_scan_whose_file_changes_is_a_question_once_however_often_it_changes(beamline: Any) -> None:
    beamline.notice("a.h5", "b.h5")
    for size in (6, 7, 8):
        beamline.disk.write("a.h5", size)
        beamline.wait(100)
        assert beamline.look().scans == []
    assert len(beamline.said("question")) == 1
    question = beamline.scan().question
    assert question and question.startswith("a.h5 was changed at the beamline") and "What to do:" in question
    assert beamline.scan("b.h5").question is None
    with beamline.ledger.read() as tx:
        assert scans.files_of(tx, [beamline.scan().id])[beamline.scan().id][0].bytes == 5, "the copies keep the first"


def test_a_file_that_only_has_another_time_is_a_question_too(beamline: Any) -> None:
    beamline.notice("a.h5")
    beamline.disk.write("a.h5", 5, NOW + SECOND)
    beamline.look()
    assert beamline.scan().question


def test_the_question_is_withdrawn_when_the_old_content_is_back(beamline: Any) -> None:
    beamline.notice("a.h5")
    beamline.disk.write("a.h5", 0)
    beamline.look()
    assert beamline.scan().question
    beamline.disk.write("a.h5")
    beamline.look()
    assert beamline.scan().question is None


def test_a_file_that_goes_away_asks_and_concludes_nothing(beamline: Any) -> None:
    beamline.notice("a.h5")
    before = everything(beamline)
    beamline.disk.folders[""].clear()
    beamline.look()
    assert everything(beamline) == before


# trouble


def test_a_listing_that_is_not_answered_concludes_nothing_and_lets_the_service_rest(beamline: Any) -> None:
    beamline.notice("a.h5")
    beamline.disk.trouble[""] = Unavailable("globus", "no answer within 55 s", "TIMEOUT")
    noticed = beamline.look()
    assert "no answer" in (noticed.trouble or "") and not noticed.broken and noticed.scans == []
    assert beamline.keys() == ["a.h5"] and beamline.scan().question is None
    listings = beamline.disk.listings
    assert "rests until 10:01:30 UTC" in (beamline.look().trouble or "") and beamline.disk.listings == listings
    beamline.disk.trouble.clear()
    beamline.wait(30)
    assert beamline.look().trouble is None
    with beamline.ledger.read() as tx:
        assert leases.all_pauses(tx) == []


def test_what_was_listed_before_the_trouble_stands(beamline: Any) -> None:
    beamline.disk.write("z.h5")
    beamline.disk.write("z_roi.h5")
    beamline.disk.write("sub/a.h5")
    beamline.disk.trouble["sub"] = Refused("globus", "no permission", "PERMISSION_DENIED")
    beamline.look()
    beamline.wait(60)
    noticed = beamline.look()
    assert beamline.keys() == ["z.h5"] and noticed.broken and "no permission" in (noticed.trouble or "")


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (NotFound("globus", "/bl1 is not there"), True),
        (CredentialProblem("globus", "the secret has expired"), True),
        (Refused("globus", "the collection is gone"), True),
        (Unavailable("globus", "502"), False),
    ],
)
def test_trouble_that_a_person_must_mend_is_told_apart(beamline: Any, error: Exception, broken: bool) -> None:
    beamline.disk.trouble[""] = error
    noticed = beamline.look()
    assert noticed.broken == broken and str(error) in (noticed.trouble or "")


# many


def test_a_burst_is_registered_in_parts_and_loses_nothing(beamline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_scans, "REGISTER", 30)
    monkeypatch.setattr(new_scans, "AT_ONCE", 7)
    for n in range(50):
        beamline.disk.write(f"{n}.h5")
        beamline.disk.write(f"{n}_roi.h5")
    beamline.look()
    beamline.wait(60)
    first = beamline.look()
    assert (len(first.scans), first.more, beamline.look().more) == (30, 20, 0)
    assert len(beamline.keys()) == 50


def test_looking_at_twenty_thousand_files_costs_little_for_each(beamline: Any) -> None:
    for n in range(10_000):
        beamline.disk.write(f"d{n % 50}/scan_{n:05}.h5")
        beamline.disk.write(f"d{n % 50}/scan_{n:05}_roi.h5")
    cost, noticed = [], []
    for wait in (0, 60):  # all are new, the first part of them is registered
        beamline.wait(wait)
        cost.append(calls(lambda: noticed.append(beamline.look())) / 20_000)
    assert noticed[-1].files == 20_000 and len(beamline.keys()) == new_scans.REGISTER
    assert cost[0] < 250 and cost[1] < 400, cost  # 191 and 291 when this was written


def test_twenty_thousand_files_with_nothing_new_write_nothing(beamline: Any) -> None:
    beamline.spec = spec_of(since="2026-11-21")  # known, and left alone
    for n in range(10_000):
        beamline.disk.write(f"d{n % 50}/scan_{n:05}.h5", mtime=NOW - 3 * DAY)
        beamline.disk.write(f"d{n % 50}/scan_{n:05}_roi.h5", mtime=NOW - 3 * DAY)
    assert beamline.look().left_alone == 10_000
    before = everything(beamline)

    def write() -> Any:
        raise AssertionError("nothing is new")

    beamline.ledger.write = write
    beamline.wait(60)
    found: list[Any] = []
    cost = calls(lambda: found.append(beamline.look())) / 20_000
    assert cost < 220, cost  # 166 when this was written
    noticed = found[0]
    assert (noticed.files, noticed.left_alone, noticed.scans) == (20_000, 10_000, [])
    assert everything(beamline) == before
