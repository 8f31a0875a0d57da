"""als-archive store: everything is on tape, whole, under a name that is used once, before it says so."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE_S

MANIFEST = ".manifest.json"


def test_an_archive_holds_every_file_and_says_what_where_and_how(site: Any) -> None:
    content = os.urandom(5000)
    done = site.store(site.write("d/a.h5", content), site.write("b.txt"), manifest={"scan": "s1"})
    assert done.code == 0, done.line
    result = site.document()
    assert result["schema"] == "als-archive-result/1" and result["archive"] == site.archive
    assert result["index"] == site.archive + ".idx" and result["manifest_path"] == site.archive + MANIFEST
    assert result["bytes"] == site.on_tape().stat().st_size and result["adopted"] is False
    member = {m["name"]: m for m in result["members"]}["d/a.h5"]
    assert member == {"name": "d/a.h5", "bytes": 5000, "sha256": _sha(content), "how": "htar", "path": "d/a.h5"}
    assert "-Hverify=crc" in result["verified"]["method"] and result["verified"]["at"].endswith("Z")
    assert result["tape"][0]["tape"].startswith("AG")
    manifest = json.loads(site.on_tape(site.archive + MANIFEST).read_text())
    assert manifest["members"] == result["members"] and manifest["manifest"] == {"scan": "s1"}
    assert [p.name for p in site.out.iterdir()] == ["archive.json"]


NAMES = [
    "a b.h5", "q'u\"o`te.h5", "semi;rm -rf x;.h5", "$(touch pwned) $HOME.h5", "-rf", "--", "-dir/-file", "ünï/µm.h5",
    "n" * 255, "é" * 127, " lead", "trail ", "per%20cent", "{}.format {0}", "*?[a]^", "tab\there", "a : b", "a\\b",
    "p" * 150 + "/" + "n" * 99, "p" * 160 + "/" + "n" * 99, "HTAR_CF_CHK_1_2", "#comment", "~user", "!x", "&|<>",
]  # fmt: skip


def test_hpss_mistake_01_02_names_with_blanks_quotes_and_worse_go_to_tape_and_come_back(site: Any) -> None:
    files = [site.write(name) for name in NAMES]
    before = {name: (site.disk / name).read_bytes() for name in NAMES}
    done = site.store(*files)
    assert done.code == 0, done.line
    how = {m["name"]: m["how"] for m in site.document()["members"]}
    assert how["n" * 255] == "cput" and how["a b.h5"] == "htar" and how["ünï/µm.h5"] == "htar"
    assert site.restore().code == 0
    assert {name: (site.back / name).read_bytes() for name in NAMES} == before
    assert len([p for p in site.back.rglob("*") if p.is_file()]) == len(NAMES)
    assert not list(site.disk.parent.rglob("pwned"))


def test_two_names_that_would_be_one_in_the_tar_file_stay_two(site: Any) -> None:
    assert site.store(site.write("ü", b"one"), site.write("%C3%BC", b"two")).code == 0
    assert site.restore().code == 0
    assert ((site.back / "ü").read_bytes(), (site.back / "%C3%BC").read_bytes()) == (b"one", b"two")


def test_a_name_with_a_line_break_is_refused_and_nothing_is_done(site: Any) -> None:
    good = site.write("good")
    done = site.store(good, {**good, "name": "a\nb"})
    assert done.code == 2 and "line break" in done.line
    assert site.tape() == {} and not site.out.exists()


def test_files_of_many_places_are_one_archive(site: Any, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.h5"
    other.write_bytes(b"other")
    file = {"path": str(other), "name": "renamed/raw.h5", "bytes": 5, "sha256": _sha(b"other")}
    assert site.store(site.write("a"), file).code == 0
    assert site.restore("renamed/raw.h5").code == 0
    assert (site.back / "renamed/raw.h5").read_bytes() == b"other"


def test_hpss_mistake_03_04_facts_with_blanks_braces_and_dollars_are_remembered_as_they_are(site: Any) -> None:
    facts = {"proposal": "ALS 123 {x} $HOME", "PI": 'O\'Neil; "x"\n%s', "nested": [{"a": None}]}
    assert site.store(site.write("a"), manifest=facts).code == 0
    assert json.loads(site.on_tape(site.archive + MANIFEST).read_text())["manifest"] == facts


def test_hpss_mistake_05_files_above_the_member_limit_go_by_cput_with_their_hash(site: Any) -> None:
    from sandbox import hpss

    hpss.configure(site.box, member_limit=1000)
    files = [site.write("small", b"s" * 1000), site.write("large", b"l" * 1001), site.write("larger", b"L" * 5000)]
    assert site.store(*files).code == 70  # the platform's idea of the limit must not be above htar's
    site.archive = site.archive.replace("a1", "a2")
    done = site.store(*files, member_limit=1000)
    assert done.code == 0, done.line
    members = {m["name"]: m for m in site.document()["members"]}
    assert members["small"]["how"] == "htar" and members["large"]["how"] == "cput"
    assert site.on_tape(members["larger"]["path"]).read_bytes() == b"L" * 5000
    stored = site.box.get("hpss_file", members["large"]["path"])["hash"]
    assert stored == {"algorithm": "sha256", "digest": members["large"]["sha256"]}
    assert "hashverify" in site.document()["verified"]["method"]


def test_a_scan_of_large_files_only_has_no_tar_file_and_a_manifest(site: Any) -> None:
    assert site.store(site.write("large"), member_limit=10).code == 0
    assert site.document()["index"] is None
    assert not site.on_tape().exists() and site.on_tape(site.archive + MANIFEST).exists()
    again = site.store({**site.write("b"), "path": str(site.disk / "b"), "name": "large"}, member_limit=10)
    assert again.code == 73
    assert site.verify("full").code == 0 and site.restore().code == 0


def test_hpss_mistake_06_running_again_after_the_disk_copy_went_adopts_and_writes_nothing(site: Any) -> None:
    files = [site.write("a"), site.write("b")]
    assert site.store(*files).code == 0
    tape = site.tape()
    for name in ("a", "b"):
        (site.disk / name).unlink()
    (site.out / "archive.json").unlink()
    done = site.store(*files)
    assert done.code == 0, done.line
    assert site.tape() == tape and site.document()["adopted"] is True
    assert [m["name"] for m in site.document()["members"]] == ["a", "b"]


def test_hpss_mistake_06_fewer_or_other_files_under_the_same_name_never_overwrite(site: Any) -> None:
    a, b = site.write("a"), site.write("b")
    assert site.store(a, b).code == 0
    tape = site.tape()
    assert site.store(a).code == 73
    assert site.store(a, b, site.write("c")).code == 73
    assert site.store(a, {**site.write("b", b"x" * 3000)}).code == 73
    done = site.store(a, {**b, "sha256": "0" * 64})
    assert done.code == 73 and site.archive in done.line and "new archive name" in done.line
    assert site.tape() == tape


def test_hpss_mistake_06_a_tar_file_without_manifest_is_adopted_only_if_every_byte_comes_back(site: Any) -> None:
    a, b = site.write("a"), site.write("b")
    site.fault("tempfail", route="htar -c", when="after")
    assert site.store(a, b).code == 75
    tar = site.on_tape().read_bytes()
    assert not site.on_tape(site.archive + MANIFEST).exists()
    assert site.store(a, b).code == 0
    assert site.on_tape().read_bytes() == tar


def test_hpss_mistake_06_a_tar_file_of_somebody_else_is_an_error_and_stays(site: Any) -> None:
    a, b = site.write("a"), site.write("b")
    site.fault("tempfail", route="htar -c", when="after")
    assert site.store(a).code == 75
    tape = site.tape()
    done = site.store(a, b)
    assert done.code == 73 and "without a manifest" in done.line
    site.write("a", b"y" * 3000)
    assert site.store(a).code == 73
    assert site.tape() == tape


def test_hpss_mistake_06_a_single_file_of_an_earlier_attempt_with_other_content_is_an_error_and_stays(
    site: Any,
) -> None:
    site.fault("down", route="htar -c")
    assert site.store(site.write("a", b"small"), site.write("large"), member_limit=2999).code == 69
    tape = site.tape()
    done = site.store(site.write("a", b"small"), site.write("large"), member_limit=2999)
    assert done.code == 73 and ".file00002" in done.line
    assert site.tape() == tape


def test_hpss_mistake_06_half_a_tar_file_is_neither_adopted_nor_removed(site: Any) -> None:
    site.fault("quota", path="*.tar")
    assert site.store(site.write("a")).code == 74
    tape = site.tape()
    done = site.store(site.write("a"))
    assert done.code == 70 and "new archive name" in done.line
    assert site.tape() == tape


def test_hpss_mistake_07_rot_right_after_writing_is_found_and_the_archive_does_not_count(site: Any) -> None:
    site.fault("bit_rot", path="*.tar")
    done = site.store(site.write("a"))
    assert done.code == 70 and "CRC" in done.line
    assert not (site.out / "archive.json").exists() and not site.on_tape(site.archive + MANIFEST).exists()


def test_hpss_mistake_07_rot_and_truncation_of_a_single_file_are_found(site: Any) -> None:
    for kind, archive in (("bit_rot", "x1"), ("truncate", "x2")):
        site.archive = f"/home/a/als/{archive}.tar"
        site.fault(kind, route="hsi cput")
        assert site.store(site.write("large"), member_limit=10).code == 70
        assert not site.on_tape(site.archive + ".file00001").exists()
        assert site.store(site.write("large"), member_limit=10).code == 0


@pytest.mark.parametrize("exit_code", [70, 0])
def test_hpss_mistake_07_members_that_htar_left_out_are_noticed_whatever_it_says(site: Any, exit_code: int) -> None:
    site.fault("omit_members", members=["b"], exit=exit_code)
    done = site.store(site.write("a"), site.write("b"))
    assert done.code == 70
    assert exit_code or "b is missing" in done.line.replace(": ", " ")
    assert not (site.out / "archive.json").exists()


def test_hpss_mistake_07_names_that_htar_would_leave_out_do_not_reach_it(site: Any) -> None:
    files = [site.write("a"), site.write("n" * 100), site.write("d" * 155 + "/x"), site.write("e" * 100 + "/x")]
    assert site.store(*files).code == 0
    assert {m["name"][0]: m["how"] for m in site.document()["members"]} == {
        "a": "htar", "n": "cput", "d": "cput", "e": "htar",
    }  # fmt: skip


def test_hpss_mistake_08_times_of_files_mean_nothing(site: Any) -> None:
    files = [site.write("a", b"small"), site.write("large")]
    assert site.store(*files, member_limit=2999).code == 0
    tape = site.tape()
    for name in ("a", "large"):
        os.utime(site.disk / name, (time.time() + 1000, time.time() + 1000))
    assert site.store(*files, member_limit=2999).code == 0
    assert site.tape() == tape


@pytest.mark.parametrize("there", [True, False])
def test_hpss_mistake_09_hpss_is_down_is_never_file_missing(site: Any, there: bool) -> None:
    from sandbox import hpss

    a = site.write("a")
    if there:
        site.store(a)
    tape = site.tape()
    hpss.configure(site.box, down=True)
    for done in (site.store(a), site.verify(), site.restore()):
        assert done.code == 69 and "HPSS is not available" in done.line
        assert "missing" not in done.line and "not whole" not in done.line
    hpss.configure(site.box, down=False)
    assert site.tape() == tape
    assert site.store(a).code == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_hpss_mistake_09_an_outage_at_every_step_in_turn_ends_in_one_whole_archive(site: Any, when: str) -> None:
    files = [site.write("a", b"small"), site.write("large")]
    steps = ["hsi ls", "hsi cput", "htar -c", "htar -K", "hsi hashverify"]
    if when == "after":
        steps = ["hsi cput", "hsi hashcreate", "hsi mv", "htar -c", "hsi mv", "hsi get"]
    for route in steps:
        site.fault("down", route=route, when=when)
        done = site.store(*files, member_limit=2999)
        assert done.code == 69, (route, done)
        assert not (site.out / "archive.json").exists()
    done = site.store(*files, member_limit=2999)
    assert done.code == 0, done.line
    assert site.verify("full").code == 0


def test_hpss_mistake_09_hpss_that_does_not_answer_is_an_outage(site: Any) -> None:
    site.fault("sleep", delay=60)
    started = time.monotonic()
    done = site.run("store", site.store_request(site.write("a")), "--answer-s", "0.5")
    assert done.code == 69 and "does not answer" in done.line and time.monotonic() - started < 30


def test_hpss_mistake_09_an_answer_that_says_nothing_is_not_absence(site: Any) -> None:
    for code, text in ((0, ""), (64, "*** internal confusion"), (127, "hsi: No such file or directory")):
        site.fault("error", code=code, text=text, route="hsi ls")
        done = site.store(site.write("a"))
        assert done.code == 69 and "does not say" in done.line
    assert site.tape() == {}


def test_hpss_mistake_10_only_an_exit_code_of_zero_and_the_word_of_success_count(site: Any) -> None:
    site.fault("error", route="htar -c", when="after", code=1, text="")
    assert site.store(site.write("a")).code == 70
    site.archive = site.archive.replace("a1", "a2")
    site.fault("omit_members", members=["none of them"], exit=70)
    done = site.store(site.write("a"))
    assert done.code == 70 and "exit 70" in done.line
    assert not (site.out / "archive.json").exists()


def test_hpss_mistake_11_a_name_within_another_is_not_taken_for_it(site: Any) -> None:
    names = ["scan_1.h5", "scan_10.h5", "d/scan_1.h5", "scan_1.h5.bak"]
    files = [site.write(name) for name in names]
    site.fault("omit_members", members=["scan_1.h5"], exit=0)
    assert site.store(*files).code == 70
    site.archive = site.archive.replace("a1", "a11")
    assert site.store(*files).code == 0
    site.archive = site.archive.replace("a11", "a1")
    assert site.store(*files).code == 73  # that of a1 is there without a manifest; that of a11 is none of it


def test_hpss_mistake_12_thousands_of_files_need_no_command_line(site: Any) -> None:
    names = [f"{'d' * 120}/{n:05d}{'x' * 80}" for n in range(3000)]
    site.write(names[0], b"same")
    for name in names[1:]:
        (site.disk / name).hardlink_to(site.disk / names[0])
    files = [{"path": str(site.disk / n), "name": n, "bytes": 4, "sha256": _sha(b"same")} for n in names]
    done = site.store(*files)
    assert done.code == 0, done.line
    assert len(site.document()["members"]) == 3000


def test_hpss_mistake_12_what_was_stored_before_an_interruption_is_not_stored_again(site: Any) -> None:
    files = [site.write("a", b"small"), site.write("large1"), site.write("large2")]
    site.fault("down", route="hsi cput", path="*file00003*")
    assert site.store(*files, member_limit=2999).code == 69
    first = site.on_tape(site.archive + ".file00002")
    inode = first.stat().st_ino
    assert site.store(*files, member_limit=2999).code == 0
    assert first.stat().st_ino == inode


@pytest.mark.parametrize("route", ["htar -c", "hsi hashcreate"])
def test_a_stopped_job_says_so_ends_its_tool_and_can_be_run_again(site: Any, route: str) -> None:
    files = [site.write("a", b"small"), site.write("large")]
    site.fault("sleep", route=route, delay=20)
    with subprocess.Popen(
        site.command("store"), stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=site.environment(), text=True
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(json.dumps(site.store_request(*files, member_limit=2999)))
        process.stdin.close()
        until = time.monotonic() + PATIENCE_S
        while site.box.faults()[0]["left"] and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 75
        assert "SIGTERM" in process.stderr.read().splitlines()[-1]
    assert [p.name for p in site.out.iterdir()] == []
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(site.box.dir).encode() in _read(p)]
    assert site.store(*files, member_limit=2999).code == 0


def test_a_source_that_is_missing_or_not_the_one_that_was_asked_for_is_named(site: Any) -> None:
    a = site.write("a")
    for wrong in (
        {**a, "path": a["path"] + ".gone"}, {**a, "bytes": 1}, {**a, "sha256": "0" * 64}, {**a, "path": str(site.disk)},
    ):  # fmt: skip
        done = site.store(wrong)
        assert done.code == 3 and wrong["path"] in done.line
    (site.disk / "link").symlink_to("a")
    assert site.store({**a, "path": str(site.disk / "link")}).code == 3
    assert site.tape() == {}
    assert site.store({**a, "sha256": _sha((site.disk / "a").read_bytes())}).code == 0


def test_a_source_that_changes_while_it_is_stored_is_noticed(site: Any) -> None:
    a = site.write("a")
    site.fault("sleep", route="htar -c", delay=2)
    with subprocess.Popen(
        site.command("store"), stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=site.environment(), text=True
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(json.dumps(site.store_request(a)))
        process.stdin.close()
        until = time.monotonic() + PATIENCE_S
        while site.box.faults()[0]["left"] and time.monotonic() < until:
            time.sleep(0.02)
        site.write("a", b"z" * 3000)
        assert process.wait(PATIENCE_S) == 3
        assert "changed while it was stored" in process.stderr.read()
    assert not site.on_tape(site.archive + MANIFEST).exists()


def test_quota_and_a_crowd_have_their_own_codes(site: Any) -> None:
    from sandbox import hpss

    a = site.write("a")
    hpss.configure(site.box, sessions=0)
    assert site.store(a).code == 75
    hpss.configure(site.box, sessions=15, quota_bytes=100)
    done = site.store(a)
    assert done.code == 74 and "quota" in done.line.lower()


def test_without_the_tools_it_says_which_one_is_missing(site: Any) -> None:
    (site.box.dir / "nersc" / "bin" / "hsi").unlink()
    done = site.store(site.write("a"))
    assert done.code == 74 and "hsi" in done.line


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
