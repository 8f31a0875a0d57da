"""A real Slurm of the sandbox's own: its daemons, and its commands.

Everything is below DIR/slurm, on free ports of 127.0.0.1; each command and daemon is told so through SLURM_CONF, in an
environment that names no other Slurm. No controller is asked anything before its pid file names a process that bears
the mark of this sandbox (workers.py): a Slurm that happens to be on the machine is never contacted, and /etc/slurm is
never read.

The daemons outlive the server. `up` adopts those that run, starts those that do not, after any kill, and is called at
the start, before each command, and by the watch over live jobs (slurm_watch.py). DIR/server.slurm says that this folder
has real Slurm until `down`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sandbox import slurm_config, workers
from sandbox.box import Box
from sandbox.slurm_config import ALL_NODES, CONTROLLER, DAEMONS

PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
HOST = "127.0.0.1"
START_S = 15.0
COMMAND_S = 30.0
UNREACHABLE = (
    "Unable to contact slurm controller",
    "Connection refused",
    "Socket timed out",
    "Slurm backup controller",
)


class SlurmError(Exception):
    """What a command said on stderr, or why the daemons do not run."""

    @property
    def unreachable(self) -> bool:
        return any(words in str(self) for words in UNREACHABLE)


def missing() -> str | None:
    """Why this machine cannot run a Slurm of its own, in words; None when it can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if not absent:
        return None
    return (
        f"real Slurm needs {', '.join(absent)}, which are not installed"
        " (Debian, Ubuntu: apt-get install --no-install-recommends slurm-wlm)"
    )


def chosen(box: Box) -> bool:
    """Do the jobs of this sandbox go through real Slurm?"""
    return (box.dir / "server.slurm").exists()


def choose(box: Box) -> None:
    (box.dir / "server.slurm").touch()


class Slurm:
    def __init__(self, directory: Path) -> None:
        self.box_dir = directory
        self.dir = directory / "slurm"
        self.conf = self.dir / "slurm.conf"

    def environment(self) -> dict[str, str]:
        """What daemons and commands see; never the caller's, in which SLURM_… could name another Slurm."""
        return {
            "SLURM_CONF": str(self.conf), "PATH": PATH, "LANG": "C.UTF-8", workers.MARK: str(self.box_dir),
            **({"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}),
        }  # fmt: skip

    def pid(self, daemon: str) -> int | None:
        """The process of a daemon, if its pid file names one that is this sandbox's."""
        try:
            pid = int((self.dir / f"{daemon}.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if "slurm" in words and workers.belongs(pid, self.box_dir) else None

    def processes(self) -> dict[str, list[int]]:
        """Every process of each daemon, also one without a pid file: whoever started it was killed, or gave up, first.

        Such a one must end before another is started. It may hold the port, to which running jobs report, or get it
        later than the other one: two controllers, one of which hears that a job has ended, and the other is asked.
        """
        named = {os.fsencode("\0".join([*self._arguments(daemon), ""])): daemon for daemon in DAEMONS}
        found: dict[str, list[int]] = {daemon: [] for daemon in DAEMONS}
        for pid in workers.of(self.box_dir):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                program, _, arguments = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")
                if b"slurm" in program and arguments in named:
                    found[named[arguments]].append(pid)
        return found

    def _arguments(self, daemon: str) -> list[str]:
        return ["-D", "-f", str(self.conf), *([] if daemon == CONTROLLER else ["-N", daemon])]

    def up(self, projects: list[str], first_job_id: int) -> None:
        """Adopt or start the daemons. Cheap when all of them run. Raises SlurmError."""
        if all(self.pid(daemon) for daemon in DAEMONS):
            return
        with self._alone():
            problem: str | None = ""
            for _ in range(3):  # a daemon may be killed, or a port be taken, just while the others start
                absent = [daemon for daemon in DAEMONS if not self.pid(daemon)]
                if not absent:
                    return
                there = self.processes()
                self._end(pid for daemon in absent for pid in there[daemon])
                if not self._free(absent):
                    self.down()
                    absent = [*DAEMONS]
                    self._write_ports()
                try:
                    slurm_config.write(self.dir, self.ports(), first_job_id, projects)
                except ValueError as error:
                    raise SlurmError(str(error)) from None
                problem = self._start(absent)
                if problem is None:
                    return
            raise SlurmError(str(problem))

    def ports(self) -> dict[str, int]:
        """Where each daemon listens; the same for as long as they are free, since running jobs know them."""
        known: dict[str, int] = json.loads((self.dir / "ports.json").read_text())
        return known

    def _write_ports(self) -> None:
        with contextlib.ExitStack() as held:
            sockets = {daemon: held.enter_context(socket.create_server((HOST, 0))) for daemon in DAEMONS}
            ports = {daemon: int(one.getsockname()[1]) for daemon, one in sockets.items()}
        fresh = self.dir / "ports.new"
        fresh.write_text(json.dumps(ports))
        fresh.replace(self.dir / "ports.json")

    def _free(self, daemons: list[str]) -> bool:
        """Can these daemons have their ports?"""
        try:
            for daemon in daemons:
                socket.create_server((HOST, self.ports()[daemon])).close()
        except (FileNotFoundError, OSError):
            return False
        return True

    def _start(self, daemons: list[str]) -> str | None:
        """None when they run and the nodes are known to the controller; otherwise what they said."""
        started: dict[str, subprocess.Popen[bytes]] = {}
        until = time.monotonic() + START_S
        # the controller first: a node that does not find it waits for a second before it tries again
        for group, enough in (({CONTROLLER}, 0), ({*DAEMONS} - {CONTROLLER}, len(ALL_NODES))):
            for daemon in daemons:
                if daemon in group:
                    started[daemon] = self._spawn(daemon)
            while self._known_nodes() < enough or not all(self.pid(daemon) for daemon in group):
                if ended := [daemon for daemon, process in started.items() if process.poll() is not None]:
                    return f"{ended[0]} ended at once: {self._tail(ended[0])}"
                if gone := [d for d in DAEMONS if d not in daemons and self.pid(d) is None]:
                    return f"{gone[0]} has gone meanwhile"
                if time.monotonic() > until:
                    return f"Slurm did not start within {START_S:.0f} s: {self._tail(CONTROLLER)}"
                time.sleep(0.01)
        return None

    def _spawn(self, daemon: str) -> subprocess.Popen[bytes]:
        program = shutil.which("slurmctld" if daemon == CONTROLLER else "slurmd", path=PATH)
        if program is None:
            raise SlurmError(missing() or "slurmd is gone")
        (self.dir / f"{daemon}.pid").unlink(missing_ok=True)
        return workers.spawn(
            [program, *self._arguments(daemon)], self.dir / f"{daemon}.out", self.environment(), self.dir
        )

    def _known_nodes(self) -> int:
        """Of how many nodes the controller has heard since it started; -1 while it does not answer."""
        if self.pid(CONTROLLER) is None:
            return -1
        with contextlib.suppress(SlurmError, ConnectionRefusedError):
            # a command that comes before the controller listens waits for a second as well
            socket.create_connection((HOST, self.ports()[CONTROLLER])).close()
            states = self.run(["scontrol", "-o", "show", "node"]).splitlines()
            unheard = ("State=UNKNOWN", "NOT_RESPONDING")
            return len([s for s in states if "State=" in s and not any(words in s for words in unheard)])
        return -1

    def _tail(self, daemon: str) -> str:
        for name in (f"{daemon}.log", f"{daemon}.out"):
            path = self.dir / name
            if path.exists() and (lines := [x for x in path.read_text().splitlines() if "fatal" in x or "error" in x]):
                return lines[-1]
        return "no reason given"

    def run(
        self,
        words: list[str],
        stdin: str | None = None,
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> str:
        """A Slurm command's stdout. Raises SlurmError with its stderr, without asking any controller but ours."""
        if self.pid(CONTROLLER) is None:
            raise SlurmError(f"{words[0]}: error: Unable to contact slurm controller (connect failure)")
        return self._run(words, stdin, environment or {}, cwd or self.dir)

    def _run(self, words: list[str], stdin: str | None, environment: dict[str, str], cwd: Path) -> str:
        program = shutil.which(words[0], path=PATH)
        if program is None:
            raise SlurmError(missing() or f"{words[0]} is gone")
        try:
            done = subprocess.run(
                [program, *words[1:]], input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, cwd=cwd,
                env={**self.environment(), **environment},
                capture_output=True, text=True, errors="surrogateescape", timeout=COMMAND_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise SlurmError(f"{words[0]}: error: Socket timed out on send/recv operation") from None
        if done.returncode != 0:
            raise SlurmError((done.stderr or done.stdout).strip() or f"{words[0]} ended with {done.returncode}")
        return done.stdout

    def down(self) -> None:
        """End the daemons by their pid files: the controller first, so that it saves its jobs as they are now."""
        for group in ((CONTROLLER,), DAEMONS):
            self._end({pid for daemon in group if (pid := self.pid(daemon)) is not None})
        short = slurm_config.short_name(self.dir)
        with contextlib.suppress(FileNotFoundError, OSError):
            if (short / "s").readlink() == self.dir:
                (short / "s").unlink()
                short.rmdir()

    def _end(self, pids: Iterable[int]) -> None:
        workers.end(pids, ours=lambda pid: workers.belongs(pid, self.box_dir), patience_s=5)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self.dir.mkdir(parents=True, exist_ok=True)
        with (self.dir / "daemons.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
