"""als-archive verify and restore: what is on tape is what was stored, and comes back as it was."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandbox import hpss

LIMIT = 2999
MANIFEST = ".manifest.json"


@pytest.fixture
def stored(site: Any) -> Any:
    """Three files on tape, one of them by cput."""
    files = [site.write("d/a.h5", b"alpha" * 100), site.write("b", b"beta"), site.write("large")]
    assert site.store(*files, member_limit=LIMIT).code == 0
    return site


@pytest.mark.parametrize("level", ["listing", "crc", "full"])
def test_a_whole_archive_is_reported_whole(stored: Any, level: str) -> None:
    done = stored.verify(level)
    assert done.code == 0, done.line
    report = stored.document("verify")
    assert report["schema"] == "als-archive-verify/1" and report["level"] == level
    assert report["whole"] is True and report["problems"] == [] and report["members"] == 3
    assert [(f["name"], f["bytes"]) for f in report["files"]] == [("b", 4), ("d/a.h5", 500), ("large", 3000)]
    assert all(len(f["sha256"]) == 64 for f in report["files"])


def test_rot_is_seen_from_level_crc_on_and_named(stored: Any) -> None:
    tar = bytearray(stored.on_tape().read_bytes())
    tar[tar.index(b"alpha")] ^= 1
    stored.on_tape().write_bytes(tar)
    stored.on_tape(stored.archive + ".file00003").write_bytes(os.urandom(3000))
    assert stored.verify("listing").code == 0
    done = stored.verify("crc")
    assert done.code == 70 and stored.archive in done.line and "CRC" in done.line
    problems = {problem["name"]: problem["reason"] for problem in stored.document("verify")["problems"]}
    assert set(problems) == {"", "large"} and "hashverify" in problems["large"]


@pytest.mark.parametrize("suffix", ["", ".idx", ".file00003", MANIFEST])
def test_a_part_that_is_gone_is_seen_in_the_listing(stored: Any, suffix: str) -> None:
    stored.on_tape(stored.archive + suffix).unlink()
    done = stored.verify("listing")
    assert done.code == 70 and "missing" in done.line and suffix in done.line
    assert stored.document("verify")["whole"] is False


def test_a_replaced_archive_is_seen_in_the_listing(stored: Any) -> None:
    """6, seen from the other end: somebody ran htar -c again, with fewer files."""
    subprocess.run(
        ["htar", "-cf", stored.archive, "b"], cwd=stored.disk, env=stored.environment(), check=True, capture_output=True
    )
    assert stored.verify("listing").code == 70
    assert [p["name"] for p in stored.document("verify")["problems"]] == ["d/a.h5"]


def test_a_checksum_that_was_made_anew_after_the_rot_does_not_help_it(stored: Any) -> None:
    path = stored.archive + ".file00003"
    stored.on_tape(path).write_bytes(os.urandom(3000))
    made = ["hsi", "-q", f"hashcreate -H sha256 {path}; hashverify {path}"]
    assert subprocess.run(made, env=stored.environment(), capture_output=True).returncode == 0
    assert stored.verify("crc").code == 70
    assert [p["name"] for p in stored.document("verify")["problems"]] == ["large"]


def test_a_manifest_that_is_damaged_makes_the_archive_not_whole(stored: Any) -> None:
    path = stored.on_tape(stored.archive + MANIFEST)
    text = path.read_text()
    for damaged in (
        text[: len(text) // 2],
        "[]",
        text.replace(stored.archive, "/x.tar"),
        text.replace("d/a.h5", "../a"),
    ):
        path.write_text(damaged)
        assert stored.verify().code == 70
        assert stored.restore().code == 70
    assert not stored.back.exists() or list(stored.back.iterdir()) == []


def test_members_come_back_all_or_by_name(stored: Any) -> None:
    assert stored.restore("b").code == 0
    assert [p.name for p in stored.back.rglob("*")] == ["b"]
    assert stored.restore("b", "large").code == 0
    states = {file["name"]: file["state"] for file in stored.document("restore")["files"]}
    assert states == {"b": "kept", "large": "restored"}
    assert stored.restore().code == 0
    for name in ("d/a.h5", "b", "large"):
        assert (stored.back / name).read_bytes() == (stored.disk / name).read_bytes()
    assert sorted(p.name for p in stored.back.iterdir()) == ["b", "d", "large"]


def test_a_member_that_is_not_in_the_archive_is_a_bad_request(stored: Any) -> None:
    done = stored.restore("b", "c")
    assert done.code == 2 and "'c'" in done.line and not stored.back.exists()


@pytest.mark.parametrize("name", ["b", "large", "d/a.h5"])
def test_other_content_on_disk_is_never_written_over(stored: Any, name: str) -> None:
    target = stored.back / name
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    done = stored.restore()
    assert done.code == 73 and str(target) in done.line
    assert target.read_bytes() == b"mine" and [p for p in stored.back.rglob("*") if p.is_file()] == [target]


def test_a_link_does_not_lead_out_of_the_destination(stored: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    stored.back.mkdir()
    (stored.back / "d").symlink_to(outside)
    assert stored.restore().code == 73
    assert list(outside.iterdir()) == []


def test_one_rotten_member_does_not_hold_the_others(stored: Any) -> None:
    stored.on_tape(stored.archive + ".file00003").write_bytes(os.urandom(3000))
    done = stored.restore()
    assert done.code == 70 and "large" in done.line
    assert (stored.back / "b").exists() and (stored.back / "d/a.h5").exists() and not (stored.back / "large").exists()
    assert [p["name"] for p in stored.document("restore")["problems"]] == ["large"]


def test_rot_without_a_checksum_on_tape_is_found_by_the_manifest(stored: Any) -> None:
    tar = bytearray(stored.on_tape().read_bytes())
    tar[tar.index(b"beta")] ^= 1
    stored.on_tape().write_bytes(tar)
    index = stored.on_tape(stored.archive + ".idx")
    lines = index.read_text().replace('"crc": ', '"crc": null, "was": ')
    index.write_text(lines)
    assert stored.verify("crc").code == 0
    assert stored.verify("full").code == 70
    assert stored.restore("b").code == 70 and not (stored.back / "b").exists()


def test_single_files_come_back_in_the_order_of_the_tapes(site: Any) -> None:
    hpss.configure(site.box, tape_bytes=3000)
    names = ["1", "2", "3", "4"]
    assert site.store(*[site.write(name) for name in names], member_limit=10).code == 0
    for name, tape in zip(names, ["B", "A", "B", "A"], strict=True):
        path = f"{site.archive}.file0000{name}"
        about = site.box.get("hpss_file", path)
        site.box.put("hpss_file", path, {**about, "tape": tape, "section": 9 - int(name)})
    mounts = site.box.get("hpss_tape", "mounted")["mounts"]
    assert site.restore().code == 0
    assert site.box.get("hpss_tape", "mounted")["mounts"] - mounts <= 3  # the manifest's, A, B


def test_an_archive_that_was_never_stored_is_not_whole(site: Any) -> None:
    done = site.verify("listing")
    assert done.code == 70 and MANIFEST in done.line
    assert site.restore().code == 70
