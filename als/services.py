"""Dagster's three services on this machine: the code server, the daemon, the webserver; restarted when one dies."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import yaml

from als import platform

HOST = "127.0.0.1"
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it
_PR_SET_PDEATHSIG = 1
START_S = 90.0
LOCATION = "als"


class ServicesProblem(click.ClickException):
    """Dagster cannot be started."""


def free_port() -> int:
    """A port that nobody listens on now. gRPC would share one silently (SO_REUSEPORT) and serve mixed code."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Services:
    """Dagster in one folder.

    Args:
        state: the folder of all state, DAGSTER_HOME.
        variables: what the services need in their environment besides.
        port: of the webserver; 0 for a free one.
        web: start the webserver too.
    """

    def __init__(self, state: Path, variables: Mapping[str, str], port: int = 0, web: bool = True) -> None:
        self.state = state.resolve()
        self.port = port or free_port()
        self.code_port = free_port()
        self.environment = {
            **os.environ, **variables, "ALS_STATE": str(self.state), "DAGSTER_HOME": str(self.state),
            "DAGSTER_DISABLE_TELEMETRY": "yes", "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        self.web = web
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def commands(self) -> dict[str, list[str]]:
        workspace = str(self.state / "workspace.yaml")
        run = [sys.executable, "-m"]
        out = {
            "code": [
                *run, "dagster", "api", "grpc", "--module-name", "als_assets.definitions", "--host", HOST,
                "--port", str(self.code_port), "--location-name", LOCATION,
            ],
            "daemon": [*run, "dagster._daemon", "run", "-w", workspace],
        }  # fmt: skip
        if self.web:
            out["web"] = [*run, "dagster_webserver", "-w", workspace, "-h", HOST, "-p", str(self.port)]
        return out

    def start(self) -> None:
        """Prepare the folder and start what is needed; returns when the code is loaded and the pages answer. Raises
        ServicesProblem."""
        if self.web and _listens(self.port):  # else the pages of whoever listens there would be taken for ours
            raise ServicesProblem(f"port {self.port} is in use: give another --port, or none for a free one")
        self.prepare()
        for name in self.commands():
            self._spawn(name)
            if name == "code":
                self._wait(lambda: _listens(self.code_port), "the code server")
        if self.web:
            self._wait(lambda: _answers(f"{self.url}/server_info"), "the webserver")
        self._watcher = threading.Thread(target=self._restart_the_dead, daemon=True)
        self._watcher.start()

    def prepare(self) -> None:
        """One process alone makes the databases: daemon and webserver together collide on a fresh folder."""
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / "logs").mkdir(exist_ok=True)
        link = self.state / "dagster.yaml"
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(platform.PROJECT / "dagster.yaml")
        server = {"grpc_server": {"host": HOST, "port": self.code_port, "location_name": LOCATION}}
        (self.state / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [server]}))
        command = [sys.executable, "-c", "import dagster; dagster.DagsterInstance.get().get_runs_count()"]
        done = subprocess.run(command, env=self.environment, cwd=platform.PROJECT, capture_output=True, text=True)
        if done.returncode:
            raise ServicesProblem(f"Dagster cannot use {self.state}:\n{done.stderr[-3000:]}")

    def _spawn(self, name: str) -> None:
        parent = os.getpid()

        def as_on_a_terminal() -> None:
            # a parent started with & ignores SIGINT, and Dagster's processes end by it
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # who is killed cannot end them: a second daemon would then start beside the first
            if _PRCTL is not None:
                _PRCTL(_PR_SET_PDEATHSIG, signal.SIGINT)
                if os.getppid() != parent:  # it was killed before that
                    os._exit(1)

        with (self.state / "logs" / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.commands()[name], env=self.environment, cwd=platform.PROJECT, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=as_on_a_terminal,
            )  # fmt: skip

    def _wait(self, ready: object, what: str) -> None:
        until = time.monotonic() + START_S
        while not ready():  # type: ignore[operator]
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead or time.monotonic() > until:
                name = dead[0] if dead else {"the code server": "code"}.get(what, "web")
                tail = (self.state / "logs" / f"{name}.log").read_text(errors="replace")[-3000:]
                self.stop()
                raise ServicesProblem(f"{what} did not start; {name}.log ends:\n{tail}")
            time.sleep(0.1)

    def _restart_the_dead(self) -> None:
        while not self._stopping.wait(0.5):
            for name, process in list(self.processes.items()):
                if process.poll() is not None and not self._stopping.is_set():
                    self._spawn(name)

    def stop(self) -> None:
        """End everything that was started, runs included; tasks at the facilities go on."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        for process in reversed(list(self.processes.values())):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        until = time.monotonic() + 8
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its runs, too
            process.wait()


@contextlib.contextmanager
def running(services: Services) -> Iterator[Services]:
    try:
        services.start()
        yield services
    finally:
        services.stop()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
