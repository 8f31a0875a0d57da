"""What a writer says of its files hurries, assigns, restricts, describes; but the listing decides what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from als import notify
from tests.ensure.test_catalogue import Catalogue
from tests.noticing.conftest import DAY, Beamline


@pytest.fixture(autouse=True)
def quick(beamline: Beamline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two listings our clock moves, and nobody waits."""
    monkeypatch.setattr(notify.time, "sleep", beamline.wait)


def test_files_that_are_complete_are_a_scan_after_two_listings_that_agree(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames")
    beamline.write("a_roi.h5", b"roi")
    document = beamline.als_json("notify", "bl7011", "a.h5", "a_roi.h5", "--complete", "--proposal", "ALS-1")
    assert [n["state"] for n in document["notices"]] == ["scan", "scan"] and document["trouble"] is None
    assert beamline.one().proposal == "ALS-1" and beamline.one().proposal_from == "notified"
    assert beamline.als_json("scans")["notices"] == []


def test_a_file_that_is_said_to_be_complete_and_still_changes_is_not_believed(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    beamline.write("a.h5", b"frames")
    beamline.write("a_roi.h5", b"roi")
    monkeypatch.setattr(notify.time, "sleep", lambda s: (beamline.wait(s), beamline.append("a.h5", b"!")))
    document = beamline.als_json("notify", "bl7011", "a.h5", "a_roi.h5", "--complete")
    assert document["notices"][0]["state"] == "listed" and beamline.scan() is None
    beamline.wait(1)
    assert len(beamline.look().scans) == 1, "two listings agree now"
    assert beamline.files()["a.h5"] == 7


def test_without_complete_the_settle_time_is_kept(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames")
    beamline.write("a_roi.h5", b"roi")
    assert beamline.als_json("notify", "bl7011", "a.h5")["notices"][0]["state"] == "listed"
    assert beamline.settle().scans


def test_a_companion_that_was_not_said_to_be_complete_is_waited_for(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames")
    beamline.als_json("notify", "bl7011", "a.h5", "--complete")
    assert beamline.scan() is None
    beamline.wait(601)
    assert beamline.look().scans


def test_a_notice_of_a_file_that_is_not_listed_waits_and_is_shown(beamline: Beamline) -> None:
    document = beamline.als_json("notify", "bl7011", "day/a.h5", "--proposal", "ALS-1")
    assert document["notices"][0]["state"] == "waiting"
    (shown,) = beamline.als_json("scans")["notices"]
    assert (shown["path"], shown["proposal"]) == ("day/a.h5", "ALS-1")
    assert "notified at bl7011: day/a.h5" in beamline.als("scans").output
    assert beamline.scan("day/a.h5") is None
    beamline.raw("day/a.h5")
    assert beamline.one("day/a.h5").proposal == "ALS-1" and beamline.als_json("scans")["notices"] == []


def test_saying_it_twice_changes_nothing(beamline: Beamline) -> None:
    beamline.raw()
    words = ("notify", "bl7011", "a.h5", "--proposal", "ALS-1", "--complete")
    first = beamline.als_json(*words)
    before = beamline.everything()
    assert beamline.als_json(*words) == first and beamline.everything() == before


def test_a_notice_that_comes_after_its_scan_is_heard(beamline: Beamline) -> None:
    beamline.raw()
    beamline.rig.run("raw_at_cfs")
    beamline.als_json("notify", "bl7011", "a.h5", "--proposal", "ALS-1")
    assert beamline.one().proposal == "ALS-1" and beamline.one().proposal_from == "notified"
    beamline.als_json("assign", "bl7011", "a.h5", "--proposal", "ALS-2")
    beamline.als_json("notify", "bl7011", "a.h5", "--proposal", "ALS-3")
    assert beamline.one().proposal == "ALS-2", "a person has said otherwise"


def test_metadata_and_parameters_go_with_the_scan(beamline: Beamline) -> None:
    rig = beamline.rig
    (rig.folder / "m.json").write_text(json.dumps({"sample": "Fe3O4", "field": {"value": 2, "unit": "T"}}))
    (rig.folder / "p.json").write_text(json.dumps({"stride": 3, "save-G2": True}))
    files = ("--metadata", str(rig.folder / "m.json"), "--parameters", str(rig.folder / "p.json"))
    beamline.als_json("notify", "bl7011", "a.h5", *files)
    beamline.raw()
    for asset in ("raw_at_cfs", "xpcs_result", "catalog_entry"):
        assert rig.run(asset).keys == ["a.h5"]
    argv = rig.tasks("a.h5", "xpcs_result")[0].request["job"]["commands"][0]["argv"]
    assert argv[argv.index("--stride") + 1] == "3" and "--save-G2" in argv
    entry = next(d for d in Catalogue(rig).datasets().values() if d["type"] == "raw")
    assert entry["scientificMetadata"]["sample"]["value"] == "Fe3O4"
    assert entry["scientificMetadata"]["field"]["unit"] == "T"


def test_a_notice_is_kept_while_the_disk_cannot_be_listed(beamline: Beamline) -> None:
    beamline.write("a.h5", b"frames")
    beamline.rig.sandbox.fault("transfer", "endpoint_down", count=-1)
    document = beamline.als_json("notify", "bl7011", "a.h5", "--proposal", "ALS-1")
    assert document["trouble"] and document["notices"][0]["state"] == "waiting"
    assert len(beamline.als_json("scans")["notices"]) == 1


def test_whole_paths_below_the_watched_folder_are_understood(beamline: Beamline) -> None:
    base = beamline.rig.facilities.place("bl7011", "dtn").globus.base  # type: ignore[union-attr]
    document = beamline.als_json("notify", "bl7011", f"{base}/day/a.h5", "day/a.h5")
    assert [n["path"] for n in document["notices"]] == ["day/a.h5"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/elsewhere/a.h5", "/elsewhere/a.h5 is not below the watched folder of bl7011 (/bl7011)"),
        ("../a.h5", "the path leads outside the watched folder"),
        ("day/../../a.h5", "the path leads outside the watched folder"),
        ("a\nb.h5", "control character"),
        ("notes.txt", "not named like a file of a scan of bl7011: files **/*.h5, **/*.hdf5, companions {stem}_roi.h5"),
        (".als-trash/a.h5", "hidden files and folders are not looked at"),
        ("als-versions/v2/a.h5", "kept for later versions"),
    ],
)  # fmt: skip
def test_a_path_that_cannot_be_a_file_of_a_scan_is_refused_with_the_reason(
    beamline: Beamline, path: str, says: str
) -> None:
    before = beamline.everything()
    ended = beamline.als("notify", "bl7011", path)
    assert ended.exit_code == 2 and says in " ".join(ended.output.split()), ended.output
    assert beamline.everything() == before


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("--metadata", None, "cannot be read: No such file"),
        ("--metadata", "{", "is not JSON"),
        ("--metadata", "[1]", "an object of names and values is wanted"),
        ("--metadata", '{"a": {"b": 1}}', "metadata 'a': a number, a text or"),
        ("--parameters", '{"out": "/etc/passwd"}', "parameter 'out' is no option that a notice may set"),
        ("--parameters", '{"a b": 1}', "parameter 'a b' is no option"),
        ("--parameters", '{"stride": "--out"}', "parameter 'stride': a number, a text or true is wanted"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(
    beamline: Beamline, tmp_path: Path, option: str, text: Any, says: str
) -> None:
    file = tmp_path / "given.json"
    if text is not None:
        file.write_text(text)
    ended = beamline.als("notify", "bl7011", "a.h5", option, str(file))
    assert ended.exit_code == 2 and says in " ".join(ended.output.split()), ended.output
    assert beamline.als_json("scans")["notices"] == []


def test_the_notice_of_an_earlier_version_does_not_hurry_the_next_one(beamline: Beamline) -> None:
    beamline.write("a.h5", b"first", age=DAY)
    beamline.write("a_roi.h5", b"roi")
    beamline.als_json("notify", "bl7011", "a.h5", "a_roi.h5", "--complete", "--proposal", "ALS-1")
    beamline.rig.run("raw_at_cfs")
    beamline.write("a.h5", b"second")
    beamline.look()
    beamline.als_json("resolve", "bl7011", "a.h5", "--new-version")
    beamline.wait(5)
    assert beamline.look().scans == []
    beamline.wait(60)
    assert beamline.look().scans and beamline.one("a.h5=v2").proposal == "ALS-1", "it belongs to the same people"


def test_saying_of_new_content_that_it_is_complete_does_hurry_it(beamline: Beamline) -> None:
    beamline.write("a.h5", b"first", age=DAY)
    beamline.write("a_roi.h5", b"roi")
    words = ("notify", "bl7011", "a.h5", "a_roi.h5", "--complete")
    beamline.als_json(*words)
    beamline.rig.run("raw_at_cfs")
    beamline.write("a.h5", b"second")
    beamline.look()
    beamline.als_json("resolve", "bl7011", "a.h5", "--new-version")
    assert beamline.als_json(*words)["notices"][0]["key"] == "a.h5=v2"
