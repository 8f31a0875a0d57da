"""The stand-in for htar behaves as NERSC's documents say that htar does, the unpleasant parts included."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox import hpss
from sandbox.box import Box

Run = Callable[..., subprocess.CompletedProcess[str]]
ARCHIVE = "/home/a/als/7.0.1.1/x.tar"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    box = Box(tmp_path / "box")
    hpss.install(box)
    (tmp_path / "disk").mkdir()
    return box


@pytest.fixture
def run(box: Box, tmp_path: Path) -> Run:
    """`run("htar", "-cf", …, cwd=…, stdin=…)`: the installed executable, found on PATH."""

    def run(*words: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{box.dir}/nersc/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        return subprocess.run(
            words,
            cwd=cwd or tmp_path / "disk",
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def disk(tmp_path: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (tmp_path / "disk" / name).write_bytes(content)
    return tmp_path / "disk"


def names(listing: str) -> list[str]:
    return [line.split("  ")[-1] for line in listing.splitlines() if line.startswith("HTAR: -")]


def test_an_archive_is_a_ustar_file_with_its_index_beside_it(box: Box, run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=b"alpha", b=os.urandom(3000))
    done = run("htar", "-cvP", "-Hcrc", "-Hverify=1", "-L", "-", "-f", ARCHIVE, stdin="a\nb\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HTAR: HTAR SUCCESSFUL"
    with tarfile.open(hpss.hpss_path(box, ARCHIVE)) as tar:
        assert [m.name for m in tar][:2] == ["a", "b"]
        assert "HTAR_CF_CHK_" in tar.getnames()[2] and len(tar.getnames()) == 3
        assert tar.extractfile("a").read() == b"alpha"  # type: ignore[union-attr]
    hpss.hpss_path(box, ARCHIVE).unlink()  # the listing needs no tape
    assert names(run("htar", "-tf", ARCHIVE).stdout)[:2] == ["a", "b"]


def test_members_come_back_with_name_content_and_time(run: Run, tmp_path: Path) -> None:
    hostile = ["a b", "q'u\"o`te;$(x)&*?", "ünï", "n" * 99, "p" * 100 + "/" + "n" * 99, "%s{}"]
    for name in hostile:
        path = tmp_path / "disk" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
        os.utime(path, (1_000_000_000, 1_000_000_000))
    stored = run("htar", "-cP", "-f", ARCHIVE, "-L", "-", stdin="\n".join(hostile) + "\n")
    assert stored.returncode == 0, stored.stderr
    back = tmp_path / "back"
    back.mkdir()
    assert run("htar", "-xf", ARCHIVE, cwd=back).returncode == 0
    for name in hostile:
        assert (back / name).read_bytes() == name.encode()
        assert (back / name).stat().st_mtime == 1_000_000_000
    assert len([p for p in back.rglob("*") if p.is_file()]) == len(hostile)


def test_names_that_are_too_long_are_left_out_while_it_says_successful_and_exits_70(run: Run, tmp_path: Path) -> None:
    long = "n" * 100
    disk(tmp_path, a=b"a", **{long: b"lost"})
    done = run("htar", "-cP", "-f", ARCHIVE, "-L", "-", stdin=f"a\n{long}\n")
    assert done.returncode == 70
    assert "HTAR: HTAR SUCCESSFUL" in done.stdout and "file omitted" in done.stderr
    assert names(run("htar", "-tf", ARCHIVE).stdout)[0] == "a" and long not in run("htar", "-tf", ARCHIVE).stdout


def test_a_member_above_the_limit_fails_the_whole_archive_at_once(box: Box, run: Run, tmp_path: Path) -> None:
    assert hpss.settings(box)["member_limit"] == 68_719_476_735
    hpss.configure(box, member_limit=10)
    disk(tmp_path, a=b"0123456789", b=b"0123456789a")
    assert run("htar", "-cPf", ARCHIVE, "a").returncode == 0
    done = run("htar", "-cPf", ARCHIVE + ".2", "a", "b")
    assert done.returncode == 70 and "HTAR FAILED" in done.stderr
    assert not hpss.hpss_path(box, ARCHIVE + ".2").exists()


def test_creating_again_overwrites_without_a_word(run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=b"a", b=b"b")
    run("htar", "-cPf", ARCHIVE, "a", "b")
    again = run("htar", "-cf", ARCHIVE, "a")
    assert again.returncode == 0 and again.stderr == ""
    assert len(names(run("htar", "-tf", ARCHIVE).stdout)) == 2  # a, and htar's own


def test_verification_finds_rot_only_where_a_checksum_was_stored(box: Box, run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=os.urandom(5000))
    run("htar", "-cPf", ARCHIVE, "a")
    run("htar", "-cPf", ARCHIVE + ".crc", "-Hcrc", "a")
    for path in (ARCHIVE, ARCHIVE + ".crc"):
        box.add_fault({"service": "hpss", "kind": "bit_rot", "path": path})
    assert run("htar", "-Kf", ARCHIVE, "-Hverify=crc").returncode == 0
    assert run("htar", "-Kf", ARCHIVE, "-Hverify=crc,compare").returncode == 70
    rotten = run("htar", "-Kf", ARCHIVE + ".crc", "-Hverify=1")
    assert rotten.returncode == 70 and "CRC mismatch for a" in rotten.stderr
    assert run("htar", "-xf", ARCHIVE + ".crc", "-Hverify=crc", cwd=box.dir).returncode == 70
    assert run("htar", "-Kf", ARCHIVE + ".crc", "-Hverify=info").returncode == 0


def test_verification_finds_a_truncated_archive(box: Box, run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=os.urandom(5000), b=os.urandom(5000))
    box.add_fault({"service": "hpss", "kind": "truncate"})
    assert run("htar", "-cPf", ARCHIVE, "a", "b").returncode == 0
    assert run("htar", "-Kf", ARCHIVE).returncode == 70
    assert run("htar", "-tf", ARCHIVE).returncode == 0


def test_a_lost_index_can_be_made_again(box: Box, run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=b"a", b=b"b")
    run("htar", "-cPf", ARCHIVE, "-Hcrc", "a", "b")
    hpss.hpss_path(box, ARCHIVE + ".idx").unlink()
    lost = run("htar", "-tf", ARCHIVE)
    assert lost.returncode == 70 and "No such file" in lost.stderr and "HTAR FAILED" in lost.stderr
    assert run("htar", "-Xf", ARCHIVE).returncode == 0
    assert names(run("htar", "-tf", ARCHIVE).stdout)[:2] == ["a", "b"]


def test_extracting_a_member_that_is_not_there_is_called_a_success(run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=b"a")
    run("htar", "-cPf", ARCHIVE, "a")
    back = tmp_path / "back"
    back.mkdir()
    assert run("htar", "-xf", ARCHIVE, "nothing", cwd=back).returncode == 0
    assert list(back.iterdir()) == []


def test_links_are_followed_with_h(box: Box, run: Run, tmp_path: Path) -> None:
    (disk(tmp_path, a=b"alpha") / "link").symlink_to("a")
    run("htar", "-cPhf", ARCHIVE, "link")
    with tarfile.open(hpss.hpss_path(box, ARCHIVE)) as tar:
        assert tar.getmember("link").isfile() and tar.getmember("link").size == 5
    run("htar", "-cPf", ARCHIVE, "link")
    with tarfile.open(hpss.hpss_path(box, ARCHIVE)) as tar:
        assert tar.getmember("link").issym()


@pytest.mark.parametrize("words", [("-cf", ARCHIVE), ("-t",), ("-ctf", ARCHIVE, "a"), ("-Cf", ARCHIVE), ("-xf",)])
def test_wrong_usage_is_refused(run: Run, words: tuple[str, ...]) -> None:
    assert run("htar", *words).returncode in (64, 72)


def test_without_P_a_missing_directory_on_tape_is_an_error(run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=b"a")
    done = run("htar", "-cf", ARCHIVE, "a")
    assert done.returncode == 72 and "do you need -P?" in done.stderr


def test_when_hpss_is_down_it_says_so_and_touches_nothing(box: Box, run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=b"a")
    hpss.configure(box, down=True)
    done = run("htar", "-cPf", ARCHIVE, "a")
    assert done.returncode == 70 and "unable to open remote gateway" in done.stderr
    assert not hpss.hpss_path(box, ARCHIVE).exists()
    hpss.configure(box, down=False)
    assert run("htar", "-cPf", ARCHIVE, "a").returncode == 0


def test_a_quota_leaves_half_an_archive_without_an_index(box: Box, run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=os.urandom(9000))
    hpss.configure(box, quota_bytes=4000)
    done = run("htar", "-cPf", ARCHIVE, "a")
    assert done.returncode == 70 and "HPSS_EDQUOT" in done.stderr
    assert hpss.hpss_path(box, ARCHIVE).exists() and not hpss.hpss_path(box, ARCHIVE + ".idx").exists()


def test_the_fault_omit_members_leaves_members_out_and_says_successful(box: Box, run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=b"a", b=b"b")
    box.add_fault({"service": "hpss", "kind": "omit_members", "members": ["a"], "exit": 0})
    done = run("htar", "-cPf", ARCHIVE, "a", "b")
    assert done.returncode == 0 and "SUCCESSFUL" in done.stdout
    assert names(run("htar", "-tf", ARCHIVE).stdout)[0] == "b"


def test_an_answer_can_be_lost_after_the_archive_was_written(box: Box, run: Run, tmp_path: Path) -> None:
    disk(tmp_path, a=b"a")
    box.add_fault({"service": "hpss", "kind": "tempfail", "route": "htar -c", "when": "after"})
    assert run("htar", "-cPf", ARCHIVE, "a").returncode == 75
    assert run("htar", "-Kf", ARCHIVE).returncode == 0
