"""als-job: an attempt runs once, and its outcome says what happened to every command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


def _start(request: dict[str, Any], path: str | None = None, job: str | None = "7") -> subprocess.Popen[str]:
    environment = dict(os.environ)
    environment.pop("SLURM_JOB_ID", None)
    if job is not None:
        environment["SLURM_JOB_ID"] = job
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-m", "als_analysis.job", "run", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    process.stdin = None
    return process


def _run(request: dict[str, Any], **more: Any) -> tuple[int, str, str]:
    process = _start(request, **more)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def _request(tmp_path: Path, *commands: dict[str, Any]) -> dict[str, Any]:
    return {"schema": "als-job/1", "key": "als-k", "attempt_dir": str(tmp_path / "a" / "1"), "commands": list(commands)}


def _outcome(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "a" / "1" / "outcome.json").read_text())


def test_commands_run_in_order_and_the_outcome_says_how_each_ended(tmp_path: Path) -> None:
    code, _, _ = _run(
        _request(
            tmp_path,
            {
                "id": "one",
                "argv": ["sh", "-c", "cat; echo wrong >&2; echo '{\"progress\": 1}' >&2; exit 3"],
                "input": [1],
            },
            {"id": "two", "argv": ["printf", "%s", "$(echo x); y"]},
            {"id": "three", "argv": ["no-such-program-anywhere"]},
        )
    )
    outcome = _outcome(tmp_path)
    assert code == 0
    assert [(c["id"], c["exit"]) for c in outcome["commands"]] == [("one", 3), ("two", 0), ("three", 127)]
    assert outcome["commands"][0]["message"] == "wrong"
    assert outcome["job_id"] == "7" and outcome["key"] == "als-k"
    assert (tmp_path / "a/1/one.out").read_text() == "[1]"
    assert (tmp_path / "a/1/two.out").read_text() == "$(echo x); y"


def test_what_a_killed_program_said_last_is_not_given_as_the_reason(tmp_path: Path) -> None:
    said = {"id": "said", "argv": ["sh", "-c", "echo 'all is well so far' >&2; kill -KILL $$"]}
    silent = {"id": "silent", "argv": ["sh", "-c", "kill -SEGV $$"]}
    wrapped = {"id": "wrapped", "argv": ["sh", "-c", "sh -c 'kill -KILL $$'; exit $?"]}
    odd = {"id": "odd", "argv": ["sh", "-c", "echo odd >&2; exit 250"]}
    _run(_request(tmp_path, said, silent, wrapped, odd))
    assert [(c["exit"], c["message"]) for c in _outcome(tmp_path)["commands"]] == [
        (137, "killed by SIGKILL; the last that it said: all is well so far"),
        (139, "killed by SIGSEGV"),
        (137, "killed by SIGKILL; the last that it said: Killed"),
        (250, "odd"),
    ]


def test_when_every_command_fails_the_job_fails_with_the_first_code(tmp_path: Path) -> None:
    commands = [{"id": f"c{n}", "argv": ["sh", "-c", f"exit {n}"]} for n in (4, 5)]
    assert _run(_request(tmp_path, *commands))[0] == 4


def test_a_second_job_on_the_same_attempt_ends_as_a_duplicate_and_runs_nothing(tmp_path: Path) -> None:
    request = _request(tmp_path, {"id": "c", "argv": ["sh", "-c", f"echo ran >> '{tmp_path}/log'"]})
    assert _run(request, job="7")[0] == 0
    code, out, _ = _run(request, job="8")
    assert (code, out) == (17, "duplicate of job 7\n")
    assert _run(request, job=None)[0] == 17
    assert (tmp_path / "log").read_text() == "ran\n"


def test_of_many_jobs_started_at_once_exactly_one_runs(tmp_path: Path) -> None:
    request = _request(tmp_path, {"id": "c", "argv": ["sh", "-c", f"echo ran >> '{tmp_path}/log'"]})
    jobs = [_start(request, job=str(n)) for n in range(6)]
    codes = []
    for job in jobs:
        job.communicate(timeout=30)
        codes.append(job.returncode)
    assert sorted(codes) == [0] + [17] * 5
    assert (tmp_path / "log").read_text() == "ran\n"


def test_a_requeued_job_goes_on_with_what_had_not_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = {"id": "first", "argv": ["sh", "-c", f"echo first >> '{log}'"]}
    script = f"echo $$ > '{tmp_path}/pid'; echo second >> '{log}'; exec sleep 60"
    second = {"id": "second", "argv": ["sh", "-c", script]}
    process = _start(_request(tmp_path, first, second))
    while not log.exists() or "second" not in log.read_text():
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=10)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)  # as Slurm does with all of a job
    again = {"id": "second", "argv": ["sh", "-c", f"echo again >> '{log}'"]}
    assert _run(_request(tmp_path, first, again))[0] == 0
    assert log.read_text().split() == ["first", "second", "again"]
    assert [c["exit"] for c in _outcome(tmp_path)["commands"]] == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_goes_on_to_the_child_and_ends_with_75(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo told >> {log}; exit 75' {name}; echo up >> {log}; while :; do sleep 0.05; done"
    process = _start(
        _request(
            tmp_path,
            {"id": "c", "argv": ["bash", "-c", script]},
            {"id": "never", "argv": ["touch", str(tmp_path / "x")]},
        )
    )
    while not log.exists():
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert log.read_text().split() == ["up", "told"]
    assert [(c["id"], c["exit"]) for c in _outcome(tmp_path)["commands"]] == [("c", 75)]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "als-job/2"},
        {"attempt_dir": "relative"},
        {"attempt_dir": "/tmp/../etc"},
        {"commands": []},
        {"commands": [{"id": "../../x", "argv": ["true"]}]},
        {"commands": [{"id": "x", "argv": []}]},
        {"commands": [{"id": "x", "argv": ["/bin/true"]}]},
        {"commands": [{"id": "x", "argv": ["true"]}, {"id": "x", "argv": ["true"]}]},
    ],
)
def test_a_request_that_is_wrong_is_refused_before_anything_is_claimed(tmp_path: Path, change: dict[str, Any]) -> None:
    request = _request(tmp_path, {"id": "c", "argv": ["true"]}) | change
    code, _, err = _run(request)
    assert code == 2
    assert err.startswith("als-job: request:") and err.count("\n") == 1
    assert not (tmp_path / "a").exists()
