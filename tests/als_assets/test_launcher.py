"""Is the process of a run still there? A live run must never be taken for dead, a dead one not for alive for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import WorkerStatus

from als_assets import launcher
from als_assets.launcher import WatchedRunLauncher, vanished
from tests.conftest import PATIENCE_S


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    made = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield made
    made.kill()
    made.wait()


def test_a_live_process_is_there(process: Any) -> None:
    assert vanished(process.pid, time.time()) is None
    assert vanished(os.getpid(), time.time()) is None


def test_a_stopped_process_is_there(process: Any) -> None:
    process.send_signal(signal.SIGSTOP)
    assert vanished(process.pid, time.time()) is None


def test_a_dead_process_is_gone(process: Any) -> None:
    process.kill()
    process.wait()
    assert vanished(process.pid, time.time()) == "is gone"


def test_a_zombie_is_not_at_work(process: Any) -> None:
    process.kill()
    until = time.monotonic() + PATIENCE_S
    while vanished(process.pid, time.time()) is None and time.monotonic() < until:
        time.sleep(0.01)
    assert vanished(process.pid, time.time()) == "is a zombie"


def test_a_process_that_began_after_the_run_s_was_seen_is_another_one(process: Any) -> None:
    assert "is another one, begun at" in (vanished(process.pid, time.time() - 3600) or "")


def test_a_clock_that_was_set_by_some_seconds_makes_no_run_dead(process: Any) -> None:
    assert vanished(process.pid, time.time() - 20) is None


def test_a_program_s_name_may_hold_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    name = b"a) Z 0 (\xff"
    real = launcher.Path

    class Paths:
        def __init__(self, path: str) -> None:
            self.path = real(path)

        def read_text(self, errors: str = "strict") -> str:
            text = self.path.read_bytes()
            if self.path.parts[-1] == "stat" and len(self.path.parts) == 4:
                text = b"7 (" + name + text[text.rindex(b")") :]
            return text.decode(errors=errors)

    monkeypatch.setattr(launcher, "Path", Paths)
    assert vanished(os.getpid(), time.time()) is None


@pytest.fixture
def instance() -> Iterator[Any]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def health(instance: Any, *messages: str) -> Any:
    """What the launcher says of a run that has logged these engine events."""

    @dg.job
    def job() -> None: ...

    run = instance.create_run_for_job(job)
    for message in messages:
        instance.report_engine_event(message, run, EngineEventData())
    watched = WatchedRunLauncher()
    watched.register_instance(instance)
    assert watched.supports_check_run_worker_health
    return watched.check_run_worker_health(run)


def said(pid: int) -> str:
    return f"Started process for run (pid: {pid})."


def test_a_run_whose_process_works_is_running(instance: Any, process: Any) -> None:
    assert health(instance, "Starting", said(process.pid)).status is WorkerStatus.RUNNING


def test_a_run_whose_process_was_killed_has_failed_and_says_why(instance: Any, process: Any) -> None:
    process.kill()
    process.wait()
    found = health(instance, said(process.pid))
    assert found.status is WorkerStatus.FAILED
    assert found.msg == f"process {process.pid} of the run is gone"


def test_a_run_that_has_not_said_which_process_it_is_is_not_taken_for_dead(instance: Any) -> None:
    """Dagster ends a run whose launcher says anything but RUNNING."""
    assert health(instance, "Starting").status is WorkerStatus.RUNNING


def test_it_looks_for_what_dagster_writes() -> None:
    import inspect

    from dagster._grpc import impl

    assert "Started process for run (pid: {pid})." in inspect.getsource(impl)


def test_it_is_the_launcher_of_this_installation() -> None:
    from pathlib import Path

    import yaml

    text = (Path(__file__).parents[2] / "dagster.yaml").read_text()
    assert yaml.safe_load(text)["run_launcher"] == {"module": "als_assets.launcher", "class": "WatchedRunLauncher"}
    assert yaml.safe_load(text)["run_monitoring"]["enabled"] is True
    assert WatchedRunLauncher.from_config_value(None, {}).supports_check_run_worker_health  # type: ignore[arg-type]
