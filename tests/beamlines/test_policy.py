"""The rules that decide about scans: what belongs together, settled?, due?, tried again?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from beamlines.policy import due, retry
from beamlines.policy.grouping import belongs, group, stem_of
from beamlines.policy.settled import Sighting, settled
from beamlines.spec import Retry, ScanFiles
from tests.counted import calls
from tests.ledger.conftest import spec_of

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
RULE = ScanFiles(watch="dtn", files=["**/*.h5"], companions={"roi": "{stem}_roi.h5"}, required=["roi"])


def groups(*paths: str, rule: ScanFiles = RULE) -> dict[str, dict[str, str]]:
    return {found.path: found.files for found in group(rule, paths)}


# grouping


def test_a_file_and_its_companion_beside_it_are_one_scan() -> None:
    assert groups("d/a.h5", "d/a_roi.h5", "d/b.h5") == {
        "d/a.h5": {"data": "d/a.h5", "roi": "d/a_roi.h5"}, "d/b.h5": {"data": "d/b.h5"},
    }  # fmt: skip
    assert [found.missing for found in group(RULE, ["d/a.h5", "d/a_roi.h5", "d/b.h5"])] == [[], ["roi"]]


def test_the_order_of_a_listing_does_not_matter() -> None:
    names = ["b.h5", "a_roi.h5", "a.h5", "b_roi.h5"]
    assert groups(*names) == groups(*reversed(names)) and list(groups(*names)) == ["a.h5", "b.h5"]


def test_a_companion_in_another_folder_is_not_beside() -> None:
    assert groups("a.h5", "d/a_roi.h5") == {"a.h5": {"data": "a.h5"}}


def test_a_companion_without_its_scan_is_no_scan() -> None:
    assert groups("a_roi.h5") == {}


def test_companions_may_have_another_ending_and_a_name_before_the_stem() -> None:
    rule = ScanFiles(watch="dtn", files=["*.imm"], companions={"meta": "{stem}.hdf", "log": "log_{stem}.txt"})
    assert groups("a.imm", "a.hdf", "log_a.txt", "b.hdf", rule=rule) == {
        "a.imm": {"data": "a.imm", "meta": "a.hdf", "log": "log_a.txt"}
    }


def test_what_is_ignored_and_what_nobody_asked_for_is_no_scan() -> None:
    assert groups(".hidden.h5", "d/.x.h5", "a.h5.tmp", "a.part", "notes.txt", "a.h5.bak") == {}
    assert [belongs(RULE, p) for p in ("a.h5", "a_roi.h5", "d/.x.h5", "notes.txt")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("**/*.h5", ["a.h5", "d/e/a.h5", "new\nline.h5"], ["a.hdf5", "a.h5/b"]),
        ("*.h5", ["a.h5"], ["d/a.h5"]),
        ("raw/**", ["raw/a", "raw/d/e"], ["rawa", "raw"]),
        ("d?/a[1].h5", ["d1/a[1].h5"], ["d/a[1].h5", "d1/a1.h5"]),
        ("a+b(c).h5", ["a+b(c).h5"], ["aab(c).h5"]),
    ],
)
def test_globs_mean_what_shells_mean(glob: str, yes: list[str], no: list[str]) -> None:
    rule = ScanFiles(watch="dtn", files=[glob], ignore=[])
    assert sorted(groups(*yes, *no, rule=rule)) == sorted(yes)


@pytest.mark.parametrize(
    ("path", "stem"),
    [("a/b/s.001.h5", "a/b/s.001"), ("s.h5", "s"), ("a.b/s", "a.b/s"), (".x", ".x"), ("d/.x.h5", "d/.x")],
)
def test_the_stem_is_the_name_without_its_last_ending(path: str, stem: str) -> None:
    assert stem_of(path) == stem


def test_grouping_many_files_costs_little_for_each() -> None:
    names = [f"day{n % 40}/scan_{n:06}{'_roi' * (n % 2)}.h5" for n in range(20_000)]
    cost = calls(lambda: group(RULE, names)) / len(names)
    assert len(group(RULE, names)) == 10_000 and cost < 30, cost  # 18 when this was written


# settled


def seen(path: str = "a.h5", size: int = 5, first: float = 100, quiet: float = 100, mtime: Any = NOW) -> Sighting:
    return Sighting(path, size, mtime, NOW - first * SECOND, NOW - quiet * SECOND)


def verdict(*files: Sighting, missing: tuple[str, ...] = (), settle: int = 60, wait: int = 600) -> tuple[bool, str]:
    found = settled(files, missing, NOW, settle * SECOND, wait * SECOND)
    return found.settled, found.why


def test_a_file_that_has_not_changed_for_the_settle_time_is_settled() -> None:
    assert verdict(seen(quiet=60)) == (True, "")
    assert verdict(seen(quiet=59)) == (False, "a.h5 changed 59 s ago")


@pytest.mark.parametrize("mtime", [NOW + timedelta(days=400), NOW - timedelta(days=9000), NOW])
def test_the_clock_of_the_disk_does_not_matter(mtime: datetime) -> None:
    assert verdict(seen(quiet=60, mtime=mtime))[0] and not verdict(seen(quiet=1, mtime=mtime))[0]


def test_every_file_of_a_scan_must_be_quiet() -> None:
    assert verdict(seen(), seen("a_roi.h5", quiet=3)) == (False, "a_roi.h5 changed 3 s ago")


def test_an_empty_file_is_never_settled() -> None:
    assert verdict(seen(size=0, first=99_999, quiet=99_999)) == (False, "a.h5 is empty so far")


def test_nothing_seen_is_not_settled() -> None:
    assert verdict() == (False, "no file has been seen")


def test_a_required_companion_is_waited_for_and_then_the_raw_data_go_ahead() -> None:
    assert verdict(seen(first=599, quiet=599), missing=("roi",)) == (False, "waiting for roi beside a.h5")
    assert verdict(seen(first=600, quiet=600), missing=("roi",)) == (True, "went ahead without roi")


def test_a_companion_is_waited_for_from_the_end_of_writing_not_from_its_beginning() -> None:
    """Of a file that took two hours to write, the ROI is exported after it was finished."""
    assert verdict(seen(first=7200, quiet=61), missing=("roi",)) == (False, "waiting for roi beside a.h5")


def test_a_clock_that_was_set_back_only_makes_it_wait() -> None:
    assert verdict(seen(first=-50, quiet=-50)) == (False, "a.h5 changed 0 s ago")


# due


def facts(*done: str, path: str = "a.h5", missing: tuple[str, ...] = ()) -> due.Facts:
    return due.Facts(path, done, missing)


def test_an_asset_waits_for_what_it_needs() -> None:
    spec = spec_of()
    assert due.blocked_by(spec, spec.asset("raw_at_cfs"), facts("raw_at_dtn")) is None
    assert due.blocked_by(spec, spec.asset("xpcs_result"), facts("raw_at_dtn")) == "waits for raw_at_cfs"
    assert due.blocked_by(spec, spec.asset("catalog_entry"), facts("raw_at_cfs")) is None, "not for the analyses"


def test_only_an_analysis_waits_for_companions() -> None:
    spec = spec_of()
    done = facts("raw_at_dtn", "raw_at_cfs", missing=("roi", "log"))
    assert due.blocked_by(spec, spec.asset("xpcs_result"), done) == "waits for the companion log, roi"
    assert due.blocked_by(spec, spec.asset("raw_at_cfs"), done) is None
    assert due.blocked_by(spec, spec.asset("catalog_entry"), done) is None


@pytest.mark.parametrize(
    ("more", "path", "words"),
    [
        ({}, "a.h5", None),
        ({"when": "on_request"}, "a.h5", "this analysis runs on request"),
        ({"when": "pattern", "pattern": "xpcs/**"}, "xpcs/d/a.h5", None),
        ({"when": "pattern", "pattern": "xpcs/**"}, "a.h5", "the name does not match xpcs/**"),
    ],
)
def test_the_spec_says_for_which_scans_an_analysis_is(more: dict[str, Any], path: str, words: str | None) -> None:
    spec = spec_of(analyses=[{"asset": "x", "program": "xpcs", "place": "cfs", "layout": "l", **more}])
    assert due.wanted(spec, spec.asset("x"), facts(path=path)) == words
    assert due.wanted(spec, spec.asset("raw_at_cfs"), facts(path=path)) is None


def test_the_catalogue_tells_of_every_change_but_its_own() -> None:
    assert due.again_after(spec_of(), "xpcs_result") == ["catalog_entry"]
    assert due.again_after(spec_of(), "catalog_entry") == []
    assert due.again_after(spec_of(catalog=None), "xpcs_result") == []


# retry


def test_waits_double_from_the_first_to_the_longest_with_some_jitter() -> None:
    rule = Retry(attempts=50, first_s=30, most_s=1800)
    for attempt, wait in enumerate([30, 60, 120, 240, 480, 960, 1800, 1800], 1):
        again = retry.after_failure(rule, attempt, True, "lost", NOW)
        assert again.at is not None and again.why == f"attempt {attempt}: lost"
        assert wait <= (again.at - NOW).total_seconds() <= 1.25 * wait


def test_a_faster_pace_divides_the_waits() -> None:
    again = retry.after_failure(Retry(first_s=30), 1, True, "lost", NOW, speed=15)
    assert again.at is not None and 2 <= (again.at - NOW).total_seconds() <= 2.5


def test_the_last_attempt_and_what_would_come_again_fail_for_good() -> None:
    assert retry.after_failure(Retry(attempts=3), 3, True, "lost", NOW) == retry.Again(None, "lost (attempt 3 of 3)")
    assert retry.after_failure(Retry(attempts=3), 1, False, "no such file", NOW) == retry.Again(None, "no such file")


def test_scans_that_failed_in_company_are_tried_in_smaller_company_and_then_alone() -> None:
    assert [retry.company(attempt, 500) for attempt in (1, 2, 3, 9)] == [500, 50, 1, 1]
    assert retry.company(2, 3) == 1


@pytest.mark.parametrize("times", [1100, 100_000])
def test_no_number_of_failures_is_too_large(times: int) -> None:
    assert retry.next_pause(times, 30, 1800) == retry.idle_wait(times) == timedelta(minutes=30)
    assert retry.after_failure(Retry(attempts=50), 49, True, "", NOW).at is not None


def test_a_run_with_progress_makes_nobody_wait() -> None:
    assert retry.idle_wait(0) == timedelta(0)
