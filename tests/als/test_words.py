"""What a person may type, and what others have written: plain words on both sides, never a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from als import platform, scans
from als.demo import alone, empty
from als.main import main
from als.services import Services, ServicesProblem
from resources.ledger import Ledger, holds
from resources.ledger import scans as scan_table
from tests.ensure.conftest import rig  # noqa: F401  (a fixture)
from tests.pruning.conftest import Disk, disk  # noqa: F401  (a fixture)

HOSTILE = "bad\udcff.h5"  # bytes that are no UTF-8, as Python shows them in sys.argv


@pytest.fixture
def als(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A verb in an installation without any scan."""
    monkeypatch.setenv("ALS_STATE", str(tmp_path))
    monkeypatch.delenv("ALS_LEDGER_URL", raising=False)
    with Ledger(f"sqlite:///{tmp_path}/ledger.db", facilities="sandbox").read():
        pass

    def run(*words: str) -> Result:
        ended = CliRunner().invoke(main, list(words))
        assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
        return ended

    return run


@pytest.mark.parametrize(
    "words",
    [
        ("scan", "bl7011", HOSTILE),
        ("wait", "bl7011", HOSTILE, "--timeout", "0"),
        ("assign", "bl7011", HOSTILE, "--proposal", "ALS-1"),
        ("hold", "bl7011", "a.h5", HOSTILE, "--until", "2099-01-01", "--why", "w"),
        ("release", "bl7011", HOSTILE),
        ("resolve", "bl7011", HOSTILE, "--ignore"),
        ("scans", "-b", HOSTILE),
    ],
)
def test_a_word_that_is_not_utf_8_is_named_and_refused(als: Any, words: tuple[str, ...]) -> None:
    ended = als(*words)
    assert ended.exit_code == 2 and "'bad\\udcff.h5': the name is not valid UTF-8" in ended.output


def test_a_scan_that_can_never_be_is_not_waited_for(als: Any) -> None:
    ended = als("wait", "bl7011", "a\nb.h5")
    assert ended.exit_code == 2 and "'a\\nb.h5' will never be a scan: the name has a control character" in ended.output
    ended = als("wait", "bl7011", "a=0Ab.h5", "--timeout", "0")  # an encoded key is no path
    assert ended.exit_code == 2 and "timed out" in ended.output


@pytest.mark.parametrize(
    "words",
    [
        ("scans", "-n", "0"), ("scans", "-n", "99999999999999999999"), ("demo", "--scans", "0"),
        ("demo", "--port", "70000"), ("simulate", "bl7011", "--out", "x", "--scans", "-1"),
        ("simulate", "bl7011", "--out", "x", "--seed", "-1"),
    ],
)  # fmt: skip
def test_a_number_that_makes_no_sense_is_refused(als: Any, words: tuple[str, ...]) -> None:
    ended = als(*words)
    assert ended.exit_code == 2 and "is not in the range" in ended.output


def test_a_folder_that_cannot_be_written_is_named(als: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = als("simulate", "bl7011", "--out", str(tmp_path / "file"))
    assert ended.exit_code == 1 and f"Error: {tmp_path}/file" in ended.output and "cannot be written" in ended.output


def test_a_ledger_that_cannot_be_used_is_told_without_its_password(
    als: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in tmp_path.glob("ledger.db*"):
        file.unlink()
    (tmp_path / "ledger.db").write_text("this is no database, and long enough to be read as one")
    ended = als("scans")
    assert ended.exit_code == 1 and f"the ledger in {tmp_path} cannot be used: file is not a database" in ended.output
    monkeypatch.setenv("ALS_LEDGER_URL", "garbage-with-secret")
    ended = als("scans")
    assert ended.exit_code == 1 and "ALS_LEDGER_URL is no URL of a database" in ended.output
    assert "secret" not in ended.output


def test_what_others_wrote_is_shown_on_one_line_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    why = "closed the connection [connection] [/]\n\x1b[31mred"
    document: dict[str, Any] = {
        "beamline": "b",
        "key": "a.h5",
        "state": "waiting",
        "proposal": "[P]",
        "files": [],
        "noticed_at": None,
    }
    scans.show([{**document, "why": why}])
    shown = capsys.readouterr().out
    assert "closed the connection [connection] [/] \\x1b[31mred" in shown and "[P]" in shown
    assert platform.one_line("a\r\n  b\u202ec") == "a b\\u202ec"


def test_keys_and_reasons_are_whole_however_narrow_the_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    key, why = "2026/11/20/" + "long" * 20 + ".h5", "xpcs_result: " + "because " * 20 + "end"
    document = {"beamline": "bl1", "key": key, "state": "failed", "proposal": None, "files": [{"bytes": 7_700_000}]}
    scans.show([{**document, "why": why, "noticed_at": "2026-11-20T17:13:38Z"}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "bl1" and lines[1].startswith("scan ")
    assert lines[2:] == [f"{key}  failed     unassigned    7.7 MB  2026-11-20 17:13", f"    {why}", "1 scans, 1 failed"]


def test_a_reason_of_a_person_cannot_write_to_the_terminal_of_another(
    disk: Disk,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "ledger", lambda created=False: disk.ledger)
    monkeypatch.setattr(platform, "specs", lambda: {"bl7011": disk.rig.spec})
    monkeypatch.setattr(platform, "facilities", lambda: disk.rig.facilities)
    (key,) = disk.scans(1)
    with disk.ledger.write() as tx:
        found = scan_table.find(tx, "bl7011", key)
        assert found is not None
        until = disk.ledger.now() + timedelta(days=9)
        holds.place(tx, found, until, "kim", "for\nthe \x1b]0;title\x07thesis", disk.ledger.now())
    shown = CliRunner().invoke(main, ["scan", "bl7011", key, "--history"], color=True).output
    assert "for the \\x1b]0;title\\x07thesis" in shown
    assert "\x1b]" not in shown and "\x07" not in shown


def test_one_demo_at_a_time_in_a_folder(tmp_path: Path, als: Any) -> None:
    with alone(tmp_path):
        (tmp_path / "sandbox").mkdir()
        ended = als("demo", "--once", "--fresh")
        assert ended.exit_code == 1 and f"a demo is at work in {tmp_path} already" in ended.output
        assert (tmp_path / "sandbox").exists()  # --fresh came too late to do harm
        empty(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["demo.lock"]
    with alone(tmp_path):
        pass


def test_the_pages_are_not_looked_for_on_a_port_of_somebody_else(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServicesProblem, match=f"port {port} is in use"):
            Services(tmp_path, {}, port).start()
    assert not (tmp_path / "workspace.yaml").exists()


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_the_help_of_every_command_has_an_example() -> None:
    found = {" ".join(path): command.help or "" for path, command in commands(main)}
    assert "sandbox fault add" in found
    assert [name for name, words in found.items() if f"als {name}" not in words] == []


def test_a_fault_of_a_service_that_is_not_there_is_refused(als: Any) -> None:
    ended = als("sandbox", "fault", "add", "sfap", "status")
    assert ended.exit_code == 2 and "'sfap' is not one of 'auth'" in ended.output


IMPATIENT = """
import time
from als.demo import ending_like_ctrl_c

ending_like_ctrl_c()
try:
    print("at work", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("ending", flush=True)
    time.sleep(0.5)
    print("ended", flush=True)
"""


def test_a_second_ctrl_c_does_not_break_off_the_ending_of_a_demo() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IMPATIENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None and demo.stderr is not None
        assert demo.stdout.readline() == "at work\n"
        demo.send_signal(signal.SIGINT)
        assert demo.stdout.readline() == "ending\n"
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGTERM)
        assert demo.stdout.readline() == "ended\n"
        assert "some seconds more" in demo.stderr.read()
    assert demo.returncode == 0


def test_a_scan_that_failed_is_found_behind_many_newer_ones(
    als: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where it was not looked far enough, that is said."""
    asked: list[int] = []

    def latest(tx: Any, beamline: str, limit: int, unassigned: bool = False) -> list[Any]:
        asked.append(limit)
        return [None] * min(limit, 60)

    document: dict[str, Any] = {
        "beamline": "bl7011",
        "key": "a.h5",
        "state": "done",
        "why": None,
        "proposal": None,
        "files": [],
    }
    monkeypatch.setattr(scan_table, "latest", latest)
    monkeypatch.setattr(scans, "scan_document", lambda *_: {**document, "noticed_at": None})
    assert "Only the newest 50 were looked at; -n 500 looks further." in als("scans").output
    assert "Only the newest" not in als("scans", "--state", "failed").output
    assert "Only the newest 7 " in als("scans", "--state", "failed", "-n", "7").output
    assert asked == [50, 1000, 7]
