"""The detached processes of a sandbox: movers of files and running jobs, which outlive the server.

Every process that a server starts inherits the variable `SANDBOX_OF=<folder>` from it, and hands it on to its own
children. That is how they are found again, after any crash, without a list that could be out of date or name a
process id that belongs to somebody else by now.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

MARK = "SANDBOX_OF"
_children: list[subprocess.Popen[bytes]] = []


def mark(directory: Path) -> None:
    """Called once by the server: what this process starts from now on belongs to the folder."""
    os.environ[MARK] = str(directory)


def start(directory: Path, module: str, arguments: Sequence[str], log: Path, pass_fds: Sequence[int] = ()) -> int:
    """Run `python -m module arguments` in a session of its own; its output goes to `log`. Returns the pid.

    `pass_fds` stay open in the worker under the same numbers: a lock that is held through one of them lives exactly as
    long as the worker.
    """
    package_root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(p for p in (package_root, os.environ.get("PYTHONPATH", "")) if p)
    environment = {**os.environ, MARK: str(directory), "PYTHONPATH": path}
    return spawn([sys.executable, "-m", module, *arguments], log, environment, pass_fds=pass_fds).pid


def spawn(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Run a program in a session of its own, to be reaped here when it ends. `environment` bears the mark."""
    reap()
    with log.open("ab") as out:
        child = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            pass_fds=pass_fds, env=dict(environment),
        )  # fmt: skip
    _children.append(child)
    return child


def reap() -> None:
    """Collect children that have ended, so that none stays a zombie."""
    _children[:] = [child for child in _children if child.poll() is None]


def belongs(pid: int, directory: Path) -> bool:
    """Was this process started by a server of this folder, directly or not?"""
    try:
        return f"{MARK}={directory}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return False


def is_server(pid: int, directory: Path) -> bool:
    """Is this process a `sandbox serve` of this folder?"""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return False
    folders = [w.removeprefix("--dir=") for w in words[words.index("serve") :]] if "serve" in words else []
    return any(w and Path(w).name == directory.name and _same(pid, w, directory) for w in folders)


def _same(pid: int, word: str, directory: Path) -> bool:
    try:
        here = Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        here = Path("/")
    return (here / word).resolve() == directory


def of(directory: Path) -> list[int]:
    """The process ids of all workers of this folder, this process excepted."""
    pids = (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and belongs(pid, directory)]


def end_all(directory: Path, patience_s: float = 1.5) -> list[int]:
    """End every worker of this folder. Returns those that are still there after all (none, unless something is odd)."""
    for _ in range(5):  # a worker may start another one while it is being ended
        pids = of(directory)
        if not pids:
            return []
        end(pids, ours=lambda pid: belongs(pid, directory), patience_s=patience_s)
    return of(directory)


def end(pids: Iterable[int], ours: Callable[[int], bool], patience_s: float = 1.5) -> None:
    """SIGTERM, and SIGKILL for those that are still there after `patience_s`. `ours(pid)` is asked before each."""
    pids = list(pids)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            if ours(pid):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            reap()
            pids = [pid for pid in pids if ours(pid)]
            if not pids:
                return
            time.sleep(0.02)
