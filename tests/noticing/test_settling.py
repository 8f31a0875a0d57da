"""Settling for real: files as detectors write them, on the sandbox's disk, listed through Globus."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.noticing.conftest import DAY, Beamline

# growing


def test_a_file_that_grows_slowly_is_a_scan_only_when_it_has_stopped(beamline: Beamline) -> None:
    beamline.write("a_roi.h5", b"roi")
    beamline.write("a.h5", b"0")
    for _ in range(5):
        assert beamline.look().scans == []
        beamline.wait(55)  # shorter than the settle time, again and again
        beamline.append("a.h5", b"more frames")
    assert beamline.look().scans == [] and beamline.scan() is None
    beamline.wait(61)
    assert len(beamline.look().scans) == 1
    assert beamline.files() == {"a.h5": 1 + 5 * 11, "a_roi.h5": 3}


def test_a_pause_longer_than_the_settle_time_makes_a_question_and_overwrites_nothing(beamline: Beamline) -> None:
    beamline.write("a_roi.h5", b"roi")
    beamline.write("a.h5", b"first half")
    assert len(beamline.settle().scans) == 1
    beamline.rig.run("raw_at_cfs")
    beamline.append("a.h5", b", second half")
    assert beamline.settle().scans == []
    scan = beamline.scan()
    assert scan is not None and scan.question and scan.question.startswith("a.h5 was changed at the beamline")
    assert "--new-version" in scan.question and "--ignore" in scan.question
    beamline.rig.run("raw_at_cfs")
    assert (beamline.rig.cfs / "a.h5").read_bytes() == b"first half" and beamline.files()["a.h5"] == 10


def test_a_file_that_goes_on_growing_before_it_was_copied_is_no_copy(beamline: Beamline) -> None:
    beamline.write("a_roi.h5", b"roi")
    beamline.write("a.h5", b"first half")
    beamline.settle()
    beamline.append("a.h5", b", second half")
    ran = beamline.rig.run("raw_at_cfs")
    assert not ran.made and "has 23 bytes, the scan's file has 10 bytes" in ran.failed["a.h5"]


# rewritten


def test_a_file_that_is_written_anew_while_it_settles_begins_to_settle_anew(beamline: Beamline) -> None:
    beamline.write("a_roi.h5", b"roi")
    beamline.write("a.h5", b"first")
    beamline.look()
    beamline.wait(50)
    beamline.write("a.h5", b"other")  # of the same size, at another time
    beamline.look()
    beamline.wait(50)
    assert beamline.look().scans == []
    beamline.wait(11)
    assert len(beamline.look().scans) == 1


def test_a_file_of_the_same_size_that_was_written_anew_before_it_was_copied_is_no_copy(beamline: Beamline) -> None:
    """Globus is content, and no listing has shown it yet: the time that was copied along gives it away."""
    beamline.write("a_roi.h5", b"roi")
    beamline.write("a.h5", b"first", age=3600)
    beamline.settle()
    beamline.write("a.h5", b"other")
    ran = beamline.rig.run("raw_at_cfs")
    assert not ran.made and "it was written anew at the beamline before it was copied" in ran.failed["a.h5"]
    assert "What to do:" in ran.failed["a.h5"] and len(beamline.rig.tasks("a.h5")) == 1
    beamline.look()
    scan = beamline.scan()
    assert scan is not None and scan.question


def test_what_no_listing_can_tell_apart_is_one_scan(beamline: Beamline) -> None:
    """The same size and the same time: then nobody but a reader of the bytes knows. The latest bytes are copied."""
    beamline.write("a_roi.h5", b"roi")
    path = beamline.write("a.h5", b"first", age=3600)
    at = path.stat().st_mtime
    beamline.look()
    path.write_bytes(b"other")
    os.utime(path, (at, at))
    beamline.wait(61)
    assert len(beamline.look().scans) == 1
    assert beamline.rig.run("raw_at_cfs").keys == ["a.h5"]
    assert (beamline.rig.cfs / "a.h5").read_bytes() == b"other"


def test_a_file_that_is_renamed_into_place_settles_from_then_on(beamline: Beamline) -> None:
    beamline.write("a_roi.h5", b"roi")
    path = beamline.write("a.h5.part", b"frames", age=DAY)
    assert beamline.settle().files == 1, "what is ignored is not even a file of a scan"
    path.rename(path.with_suffix(""))
    beamline.look()
    beamline.wait(55)
    assert beamline.look().scans == []
    beamline.wait(6)
    assert len(beamline.look().scans) == 1


def test_another_file_that_is_renamed_over_a_scan_is_a_question(beamline: Beamline) -> None:
    beamline.write("a_roi.h5", b"roi")
    beamline.write("a.h5", b"first", age=DAY)
    beamline.settle()
    beamline.write("new.part", b"other", age=DAY / 2).rename(beamline.rig.dtn / "a.h5")
    beamline.look()
    scan = beamline.scan()
    assert scan is not None and scan.question


def test_a_sparse_file_waits_while_it_is_filled_and_arrives_whole(beamline: Beamline) -> None:
    """Its final size is there from the beginning; only its time tells that it is being written."""
    beamline.write("a_roi.h5", b"roi")
    path = beamline.write("a.h5", b"")
    os.truncate(path, 300_000)
    beamline.aged(path, 0)
    for n in range(4):
        beamline.look()
        beamline.wait(50)
        with path.open("r+b") as file:
            file.seek(n * 65536)
            file.write(b"frames %d" % n)
        beamline.aged(path, 0)
        assert beamline.look().scans == []
    beamline.wait(61)
    assert len(beamline.look().scans) == 1
    assert beamline.rig.run("raw_at_cfs").keys == ["a.h5"]
    assert (beamline.rig.cfs / "a.h5").read_bytes() == path.read_bytes()


# several files


def test_files_that_finish_at_different_times_are_waited_for_until_the_last(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames")
    beamline.look()
    beamline.wait(50)
    beamline.write("a_roi.h5", b"r")
    beamline.look()
    beamline.wait(50)
    beamline.append("a_roi.h5", b"oi")
    assert beamline.look().scans == []
    beamline.wait(55)
    assert beamline.look().scans == []
    beamline.wait(6)
    assert len(beamline.look().scans) == 1 and beamline.files() == {"a.h5": 6, "a_roi.h5": 3}


def test_a_companion_that_never_comes_lets_the_raw_data_go_ahead(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames")
    assert beamline.settle().scans == []
    beamline.wait(540)
    assert len(beamline.look().scans) == 1
    assert beamline.rig.run("raw_at_cfs").keys == ["a.h5"]
    why = beamline.rig.run("xpcs_result").failed["a.h5"]
    assert "waits for roi, which the beamline has not written" in why


def test_a_companion_that_is_empty_is_waited_for_like_one_that_is_late(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames")
    beamline.write("a_roi.h5", b"")
    assert beamline.settle().scans == [] and beamline.look().waiting == 2
    beamline.wait(540)
    assert len(beamline.look().scans) == 1 and beamline.files() == {"a.h5": 6}
    beamline.rig.run("raw_at_cfs")
    beamline.write("a_roi.h5", b"roi")
    assert len(beamline.settle().scans) == 1 and beamline.files() == {"a.h5": 6, "a_roi.h5": 3}
    scan = beamline.scan()
    assert scan is not None and scan.question is None and scan.missing == []
    assert beamline.rig.run("raw_at_cfs").keys == ["a.h5"] and (beamline.rig.cfs / "a_roi.h5").exists()


def test_a_companion_that_is_written_anew_later_is_a_question(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames", age=100)
    beamline.write("a_roi.h5", b"roi", age=100)
    beamline.settle()
    beamline.rig.run("raw_at_cfs")
    beamline.write("a_roi.h5", b"another roi")
    beamline.look()
    scan = beamline.scan()
    assert scan is not None and scan.question and scan.question.startswith("a_roi.h5 was changed")
    assert (beamline.rig.cfs / "a_roi.h5").read_bytes() == b"roi"


# clocks


@pytest.mark.parametrize("age", [DAY, -400 * DAY])
def test_a_disk_whose_clock_is_off_is_watched_with_ours(beamline: Beamline, age: float) -> None:
    beamline.write("a.h5", b"frames", age)
    beamline.write("a_roi.h5", b"roi", -age)
    beamline.look()
    beamline.wait(55)
    assert beamline.look().scans == []
    beamline.wait(6)
    assert len(beamline.look().scans) == 1
    assert beamline.rig.run("raw_at_cfs").keys == ["a.h5"]


def test_a_clock_that_jumps_back_while_a_file_is_written_only_makes_it_wait(beamline: Beamline) -> None:
    beamline.write("a_roi.h5", b"roi")
    beamline.write("a.h5", b"frames", age=-DAY)
    beamline.look()
    beamline.wait(50)
    beamline.write("a.h5", b"frames", age=DAY)
    beamline.look()
    beamline.wait(50)
    assert beamline.look().scans == []
    beamline.wait(11)
    assert len(beamline.look().scans) == 1


# going away


def test_a_file_that_is_deleted_before_it_has_settled_is_no_scan(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames")
    beamline.write("a_roi.h5", b"roi")
    beamline.look()
    (beamline.rig.dtn / "a.h5").unlink()
    beamline.wait(61)
    seen = beamline.look()
    assert (seen.scans, seen.waiting, beamline.scan()) == ([], 0, None)
    beamline.write("a.h5", b"others", age=-5)  # under the same name, later: it settles like any other
    assert beamline.look().scans == []
    beamline.wait(61)
    assert len(beamline.look().scans) == 1


def test_a_file_that_is_deleted_between_noticing_and_copy_is_a_failure_with_the_reason(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames")
    beamline.write("a_roi.h5", b"roi")
    beamline.settle()
    (beamline.rig.dtn / "a.h5").unlink()
    beamline.rig.attempts_allowed(1)
    why = beamline.rig.run("raw_at_cfs").failed["a.h5"]
    assert "a.h5: copy from bl7011/dtn to bl7011/cfs" in why and "a file is not at the source" in why
    assert "What to do: see whether the file was moved or deleted at the source" in why
    beamline.look()
    scan = beamline.scan()
    assert scan is not None and scan.question is None, "its absence from a listing concludes nothing"


def test_a_folder_that_vanishes_during_the_walk_spoils_nothing_else(beamline: Beamline) -> None:
    for folder in ("going", "staying"):
        beamline.write(f"{folder}/a.h5", b"frames")
        beamline.write(f"{folder}/a_roi.h5", b"roi")
    beamline.look()
    beamline.wait(61)
    globus = beamline.rig.services["globus"]
    real: Callable[..., Any] = globus.ls

    def ls(collection: str, path: str) -> Any:
        found = real(collection, path)
        shutil.rmtree(beamline.rig.dtn / "going", ignore_errors=True)  # after its parent was listed
        return found

    object.__setattr__(globus, "ls", ls)
    try:
        seen = beamline.look()
    finally:
        object.__delattr__(globus, "ls")
    assert seen.trouble is None and len(seen.scans) == 1 and beamline.scan("staying/a.h5") is not None


def test_defect_13_an_endpoint_that_errors_is_never_an_empty_one(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames")
    beamline.write("a_roi.h5", b"roi")
    beamline.look()
    beamline.wait(61)
    beamline.rig.sandbox.fault("transfer", "endpoint_down", count=-1)
    seen = beamline.look()
    assert seen.trouble and "nothing new" not in str(seen) and seen.scans == []
    beamline.rig.sandbox.box.clear_faults()
    beamline.wait(61)
    assert len(beamline.look().scans) == 1


def test_defect_10_a_new_file_sends_itself_and_not_its_folder(beamline: Beamline) -> None:
    beamline.write("day/a.h5", b"frames")
    beamline.write("day/a_roi.h5", b"roi")
    beamline.write("day/half_written.h5", b"fra")
    beamline.write("day/notes.txt", b"mine")
    beamline.settle()
    beamline.append("day/half_written.h5", b"mes")
    beamline.rig.run("raw_at_cfs")
    (task,) = beamline.rig.tasks("day/a.h5")
    assert sorted(Path(item["source_path"]).name for item in task.request["items"]) == ["a.h5", "a_roi.h5"]
    assert not any(item["recursive"] for item in task.request["items"])
    assert sorted(path.name for path in (beamline.rig.cfs / "day").iterdir()) == ["a.h5", "a_roi.h5"]


def test_defect_11_no_place_of_a_facility_is_looked_at_through_a_disk_of_this_machine(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(place.mount is None for place in beamline.rig.facilities.file.places["bl7011"].values())
    beamline.write("a.h5", b"frames")
    beamline.write("a_roi.h5", b"roi")
    beamline.look()
    beamline.wait(61)

    def here(path: Any, *more: Any, **options: Any) -> Any:
        assert not str(path).startswith(str(beamline.rig.dtn)), f"{path} was looked for on this machine"
        return real(path, *more, **options)

    real = os.stat
    monkeypatch.setattr(os, "stat", here)
    assert len(beamline.look().scans) == 1
