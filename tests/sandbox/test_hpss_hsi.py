"""The stand-in for hsi behaves as its manual says; jobs of the sandbox find both tools on their PATH."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox import hpss
from sandbox.box import Box

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    box = Box(tmp_path / "box with blank")
    hpss.install(box)
    (tmp_path / "disk").mkdir()
    return box


@pytest.fixture
def hsi(box: Box, tmp_path: Path) -> Run:
    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [f"{box.dir}/nersc/bin/hsi", *words], cwd=tmp_path / "disk", input=stdin, capture_output=True, text=True,
            timeout=60, env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )  # fmt: skip

    return run


@pytest.fixture
def a(tmp_path: Path, box: Box) -> Path:
    path = tmp_path / "disk" / "a"
    path.write_bytes(b"alpha")
    return path


def test_a_file_goes_to_tape_and_comes_back(hsi: Run, a: Path) -> None:
    assert hsi("put -P a : d/e/b").returncode == 0
    a.unlink()
    assert hsi("get", "a", ":", "/home/a/als/d/e/b").returncode == 0
    assert a.read_bytes() == b"alpha"


def test_listings_go_to_stderr_and_with_P_to_stdout(hsi: Run, a: Path) -> None:
    hsi("put a : b")
    plain = hsi("-q", "ls -l b")
    assert plain.stdout == "" and plain.stderr.split()[4] == "5"
    popen = hsi("-P", "ls -l b")
    assert popen.stderr == "" and popen.stdout.split()[4] == "5"


def test_a_missing_file_is_exit_64_with_enoent(hsi: Run) -> None:
    done = hsi("-P", "ls -l nothing")
    assert done.returncode == 64 and "HPSS_ENOENT" in done.stdout
    wild = hsi("-P", "ls no*")
    assert wild.returncode == 64 and "No matching names" in wild.stdout


def test_down_is_exit_69_and_never_reads_like_a_missing_file(box: Box, hsi: Run, a: Path) -> None:
    hsi("put a : b")
    hpss.configure(box, down=True)
    for path in ("b", "nothing"):
        done = hsi("-P", f"ls {path}")
        assert done.returncode == 69 and "ENOENT" not in done.stdout and "Unable to setup communication" in done.stdout


def test_without_a_colon_the_path_is_the_one_on_tape(hsi: Run, a: Path, tmp_path: Path) -> None:
    (tmp_path / "disk" / "sub").mkdir()
    (tmp_path / "disk" / "sub" / "c").write_bytes(b"c")
    assert hsi("put sub/c").returncode == 72  # looks for ./c
    assert hsi("put a b").returncode == 72  # two paths, and no b here
    assert hsi("put sub/c:c").returncode != 0


def test_names_with_blanks_need_quotes_and_wildcards_expand(hsi: Run, a: Path) -> None:
    assert hsi("put 'a' : 'x y'").returncode == 0
    assert hsi("ls x y").returncode == 64
    assert hsi("ls 'x y'").returncode == 0
    assert hsi("-P", "ls x*").stdout.strip().endswith("/x y")
    assert hsi("put a : 'ünï'").returncode == 64


def test_put_overwrites_and_cput_stores_what_is_missing_or_older(hsi: Run, a: Path, box: Box) -> None:
    hsi("put a : b")
    on_tape = hpss.hpss_path(box, "/home/a/als/b")
    a.write_bytes(b"other")
    os.utime(a, (1, 1))
    assert hsi("cput a : b").returncode == 0 and on_tape.read_bytes() == b"alpha"
    os.utime(a, (time.time() + 60, time.time() + 60))
    assert hsi("cput a : b").returncode == 0 and on_tape.read_bytes() == b"other"
    os.utime(a, (1, 1))
    a.write_bytes(b"third")
    assert hsi("put a : b").returncode == 0 and on_tape.read_bytes() == b"third"


def test_cget_leaves_a_file_that_is_there(hsi: Run, a: Path) -> None:
    hsi("put a : b")
    a.write_bytes(b"local")
    assert hsi("cget a : b").returncode == 0 and a.read_bytes() == b"local"
    assert hsi("get a : b").returncode == 0 and a.read_bytes() == b"alpha"


def test_checksums_are_made_listed_and_verified(box: Box, hsi: Run, a: Path) -> None:
    hsi("put a : b")
    path, digest = "/home/a/als/b", hashlib.sha256(b"alpha").hexdigest()
    assert hsi("hashlist b").returncode == 64
    assert hsi("-P", "hashcreate -H sha256 b").stdout == f"{digest} (sha256) {path}\n"
    assert hsi("-P", "hashlist b").stdout == f"{digest} sha256 {path} [hsi]\n"
    assert hsi("-P", "hashverify b").stdout == f"{path}: (sha256) OK\n"
    box.add_fault({"service": "hpss", "kind": "bit_rot"})
    rotten = hsi("-P", "hashverify b")
    assert rotten.returncode == 70 and "OK" not in rotten.stdout
    md5 = hashlib.md5(b"alpha").hexdigest()
    hsi("put -c on a : c")
    assert md5 in hsi("-P", "hashlist c").stdout


def test_ls_P_tells_tape_and_position(box: Box, hsi: Run, a: Path) -> None:
    hpss.configure(box, tape_bytes=12)
    for name in ("1", "2", "3"):
        hsi(f"put a : {name}")
    lines = hsi("-P", "ls -NP 1 2 3").stdout.splitlines()
    fields = [line.split("\t") for line in lines]
    assert {len(f) for f in fields} == {13}
    assert [(f[0], f[1][-1], f[2], f[5], f[4]) for f in fields] == [
        ("FILE", "1", "5", "AG000100", "1+0"),
        ("FILE", "2", "5", "AG000100", "2+0"),
        ("FILE", "3", "5", "AG000200", "1+0"),
    ]


def test_reading_another_tape_waits_for_its_mount(box: Box, hsi: Run, a: Path) -> None:
    hpss.configure(box, tape_bytes=5, mount_s=0.3)
    hsi("put a : 1 a : 2")
    for _ in range(2):
        hsi("get x : 1; get x : 1")
        assert box.get("hpss_tape", "mounted") == {"tape": "AG000100", "mounts": 1}
    started = time.monotonic()
    hsi("get x : 1; get x : 2; get x : 1")
    assert time.monotonic() - started > 0.6
    assert box.get("hpss_tape", "mounted") == {"tape": "AG000100", "mounts": 3}


def test_commands_come_from_a_line_a_file_and_stdin(hsi: Run, a: Path, tmp_path: Path) -> None:
    (tmp_path / "disk" / "todo").write_text("mkdir -p x/y\ncd x/y\nput a : b\n")
    assert hsi("in todo").returncode == 0
    assert hsi("ls x/y/b").returncode == 0
    assert hsi(stdin="mv x/y/b c\nrm c\n").returncode == 0
    assert hsi("ls c").returncode == 64


def test_a_failed_command_stops_no_other_and_gives_the_exit_code(hsi: Run, a: Path) -> None:
    assert hsi("ls nothing; put a : b; nonsense").returncode == 64
    assert hsi("ls b").returncode == 0


def test_a_quota_and_a_crowd_are_told_apart(box: Box, hsi: Run, a: Path) -> None:
    hpss.configure(box, quota_bytes=3)
    assert hsi("put a : b").returncode == 74
    hpss.configure(box, quota_bytes=None, sessions=0)
    assert hsi("put a : b").returncode == 75


def test_faults_choose_their_command_and_path_and_can_come_after_the_deed(box: Box, hsi: Run, a: Path) -> None:
    box.add_fault({"service": "hpss", "kind": "tempfail", "route": "hsi cput", "path": "*/c", "when": "after"})
    assert hsi("cput a : b").returncode == 0
    assert hsi("cput a : c").returncode == 75
    assert hsi("ls c").returncode == 0
    box.add_fault({"service": "hpss", "kind": "error", "code": 77, "text": "*** no", "route": "hsi ls"})
    assert hsi("ls c").returncode == 77
    box.add_fault({"service": "hpss", "kind": "sleep", "delay": 0.3})
    started = time.monotonic()
    assert hsi("ls c").returncode == 0 and time.monotonic() - started > 0.3


def test_jobs_and_commands_of_the_sandbox_find_the_tools(sandbox: Any) -> None:
    from sandbox import jobs

    hpss.configure(sandbox.box, member_limit=7)
    job = {
        **dict.fromkeys(("id", "name", "account", "qos", "nodes", "ntasks"), "1"), "start": 0.0, "time_limit_s": 60,
    }  # fmt: skip
    environment = jobs.Supervisor(sandbox.box)._environment(job)
    done = subprocess.run(
        ["/bin/bash", "-c", "echo 12345678 > a; hsi -q 'put a : b' && htar -cf /home/a/als/t.tar a; echo $?"],
        env=environment, cwd=environment["HOME"], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "70\n" and "exceeds" in done.stderr
    sandbox.reset()
    assert not hpss.hpss_path(sandbox.box, "/home/a/als/b").exists()
    assert (sandbox.dir / "nersc" / "bin" / "hsi").exists()
