"""New content under the name of a scan: a person decides, nothing is overwritten, each version has its own places."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ensure.test_catalogue import Catalogue
from tests.noticing.conftest import Beamline


@pytest.fixture
def changed(beamline: Beamline) -> Beamline:
    """a.h5 was copied, and then written anew."""
    beamline.raw("a.h5", b"first content")
    beamline.rig.run("raw_at_cfs")
    beamline.write("a.h5", b"second")
    beamline.settle()
    assert beamline.one().question
    return beamline


def test_a_new_version_is_a_scan_of_its_own_with_its_own_destination_and_entry(changed: Beamline) -> None:
    rig = changed.rig
    document = changed.als_json("resolve", "bl7011", "a.h5", "--new-version", "--why", "it had stalled")
    assert document["scans"] == [{"key": "a.h5", "new_version": "a.h5=v2", "first_content_lost": False}]
    assert len(changed.look().scans) == 1
    assert changed.files("a.h5=v2") == {"a.h5": 6, "a_roi.h5": 3} and changed.files("a.h5")["a.h5"] == 13
    for asset in ("raw_at_cfs", "xpcs_result", "catalog_entry"):
        assert sorted(rig.run(asset).keys) == ["a.h5", "a.h5=v2"], asset
    assert (rig.cfs / "a.h5").read_bytes() == b"first content"
    assert (rig.cfs / "als-versions/v2/a.h5").read_bytes() == b"second"
    assert (rig.cfs / "als-versions/v2/a_roi.h5").read_bytes() == b"roi"
    results = {product["path"] for key in ("a.h5", "a.h5=v2") for product in rig.document(key)["products"]}
    assert len(results) == 2
    entries = Catalogue(rig).datasets()
    raw = {d["datasetName"]: d for d in entries.values() if d["type"] == "raw"}
    assert set(raw) == {"a.h5", "a.h5=v2"} and len({d["pid"] for d in raw.values()}) == 2
    assert raw["a.h5=v2"]["sourceFolder"] == raw["a.h5"]["sourceFolder"] + "/als-versions/v2"
    assert raw["a.h5=v2"]["size"] == 9 and raw["a.h5"]["size"] == 16
    assert rig.document("a.h5")["state"] == rig.document("a.h5=v2")["state"] == "done"
    assert rig.document("a.h5")["assets"]["raw_at_dtn"]["state"] == "pruned"
    assert "their new content is a.h5=v2" in rig.document("a.h5")["assets"]["raw_at_dtn"]["why"]
    assert any("it had stalled" in (why or "") for _, why in changed.said("resolved"))
    rig.executed_once()


def test_a_new_version_waits_until_it_has_settled(changed: Beamline) -> None:
    changed.append("a.h5", b" is still growing")
    changed.als_json("resolve", "bl7011", "a.h5", "--new-version")
    assert changed.look().scans == []
    changed.wait(61)
    assert len(changed.look().scans) == 1
    assert changed.files("a.h5=v2")["a.h5"] == 6 + 17


def test_a_third_version_follows_the_second(changed: Beamline) -> None:
    changed.als_json("resolve", "bl7011", "a.h5", "--new-version")
    changed.look()
    changed.write("a.h5", b"third content")
    changed.settle()
    assert changed.one("a.h5").question is None and changed.one("a.h5=v2").question
    changed.als_json("resolve", "bl7011", "a.h5=v2", "--new-version")
    changed.look()
    assert changed.files("a.h5=v3")["a.h5"] == 13
    assert sorted(changed.rig.run("raw_at_cfs").keys) == ["a.h5", "a.h5=v3"]
    assert (changed.rig.cfs / "als-versions/v3/a.h5").read_bytes() == b"third content"


def test_content_of_which_no_copy_was_proven_is_said_to_be_lost(beamline: Beamline) -> None:
    beamline.raw("a.h5", b"first content")
    beamline.write("a.h5", b"second")
    beamline.settle()
    document = beamline.als_json("resolve", "bl7011", "a.h5", "--new-version")
    assert document["scans"][0]["first_content_lost"] is True
    beamline.look()
    assert beamline.rig.run("raw_at_cfs").keys == ["a.h5=v2"]
    shown = beamline.rig.document("a.h5")
    assert shown["state"] == "failed" and "no copy had been proven" in shown["why"]
    assert shown["assets"]["raw_at_cfs"]["state"] == "not_applicable"
    assert not (beamline.rig.cfs / "a.h5").exists()


def test_what_is_ignored_is_not_asked_again_until_it_changes_again(changed: Beamline) -> None:
    assert changed.als("resolve", "bl7011", "a.h5", "--ignore").exit_code == 0
    assert changed.settle().scans == [] and changed.one().question is None
    assert (changed.rig.cfs / "a.h5").read_bytes() == b"first content"
    changed.write("a.h5", b"third")
    changed.look()
    assert changed.one().question
    assert changed.als_json("resolve", "bl7011", "--all", "--ignore")["scans"][0]["key"] == "a.h5"


def test_nothing_is_ignored_while_no_copy_of_the_first_content_is_proven(beamline: Beamline) -> None:
    beamline.raw("a.h5", b"first content")
    beamline.write("a.h5", b"second")
    beamline.look()
    ended = beamline.als("resolve", "bl7011", "a.h5", "--ignore")
    assert ended.exit_code == 1 and "there is nothing to keep by ignoring the new one" in ended.output
    assert beamline.als_json("resolve", "bl7011", "--all", "--ignore")["scans"] == []
    assert beamline.one().question


def test_the_old_content_that_is_put_back_is_no_new_version(changed: Beamline) -> None:
    scan = changed.one()
    with changed.rig.ledger.read() as tx:
        from resources.ledger import scans

        first = scans.files_of(tx, [scan.id])[scan.id][0]
    changed.als_json("resolve", "bl7011", "a.h5", "--new-version")
    import os

    (changed.rig.dtn / "a.h5").write_bytes(b"first content")
    os.utime(changed.rig.dtn / "a.h5", (first.mtime.timestamp(), first.mtime.timestamp()))
    changed.settle()
    assert changed.scan("a.h5=v2") is None and changed.one().question is None


def test_a_late_companion_belongs_to_the_present_version(beamline: Beamline) -> None:
    beamline.raw("a.h5", b"first content")
    beamline.rig.run("raw_at_cfs")
    beamline.write("a.h5", b"second")
    (beamline.rig.dtn / "a_roi.h5").unlink()
    beamline.settle()
    beamline.als_json("resolve", "bl7011", "a.h5", "--new-version")
    beamline.wait(601)
    beamline.look()
    assert beamline.one("a.h5=v2").missing == [] or beamline.files("a.h5=v2") == {"a.h5": 6}
    beamline.write("a_roi.h5", b"another roi")
    beamline.settle()
    assert beamline.files("a.h5=v2") == {"a.h5": 6, "a_roi.h5": 11} and beamline.files("a.h5")["a_roi.h5"] == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a.h5"], "say --new-version or --ignore"),
        (["--ignore"], "name the scans, or say --all"),
        (["x.h5", "--ignore"], "bl7011 has no scan 'x.h5'"),
        (["b.h5", "--ignore"], "b.h5: its files have not changed at the beamline; nothing is asked about it"),
    ],
)
def test_what_cannot_be_resolved_is_said_and_changes_nothing(changed: Beamline, words: Any, says: str) -> None:
    changed.raw("b.h5")
    before = changed.everything()
    ended = changed.als("resolve", "bl7011", *words)
    assert ended.exit_code != 0 and says in ended.output
    assert changed.everything() == before


@pytest.mark.parametrize("known", [True, False])
def test_copying_a_scan_again_never_puts_new_content_over_the_first(beamline: Beamline, known: bool) -> None:
    """A person materializes the copy again although the file has changed, whether a listing has shown that or not."""
    beamline.raw("a.h5", b"first content")
    beamline.rig.run("raw_at_cfs")
    beamline.write("a.h5", b"other content")
    if known:
        beamline.look()
        beamline.als_json("resolve", "bl7011", "a.h5", "--ignore")
    before = beamline.rig.sandbox.requests().get("transfer POST /v0.10/transfer", 0)
    beamline.rig.ask("raw_at_cfs", "a.h5")
    why = beamline.rig.run("raw_at_cfs").failed["a.h5"]
    assert "a.h5 was written anew at the beamline" in why and "What to do:" in why
    assert (beamline.rig.cfs / "a.h5").read_bytes() == b"first content"
    assert beamline.rig.sandbox.requests().get("transfer POST /v0.10/transfer", 0) == before


def test_the_first_version_is_not_copied_again_from_what_is_now_the_second(changed: Beamline) -> None:
    changed.als_json("resolve", "bl7011", "a.h5", "--new-version")
    changed.look()
    changed.rig.ask("raw_at_cfs", "a.h5")
    assert changed.rig.run("raw_at_cfs", ["a.h5"]).keys == ["a.h5"], "its copy was looked at"
    assert "this one is there as it was proven" in changed.rig.step("a.h5", "raw_at_cfs").why
    assert changed.rig.run("raw_at_cfs", ["a.h5=v2"]).keys == ["a.h5=v2"]
    assert (changed.rig.cfs / "a.h5").read_bytes() == b"first content"


def test_a_changed_file_is_not_sent_in_vain(beamline: Beamline) -> None:
    beamline.raw("a.h5", b"first content")
    beamline.write("a.h5", b"second")
    beamline.look()
    assert "was written anew" in beamline.rig.run("raw_at_cfs").failed["a.h5"]
    assert not (beamline.rig.cfs / "a.h5").exists() and beamline.rig.tasks("a.h5") == []
