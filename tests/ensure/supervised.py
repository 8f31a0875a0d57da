"""A facilities' server that is started again whenever it dies, as a supervised service is; in milliseconds."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.conftest import PATIENCE_S
from tests.ensure.forked import Forked


def serve(directory: str) -> None:
    from sandbox.server import serve

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    serve(Path(directory))


class Supervised:
    """with Supervised(sandbox) as watch: …; watch.deaths is how often it died meanwhile. Afterwards it is as before."""

    def __init__(self, sandbox: Any) -> None:
        self.sandbox, self.deaths = sandbox, 0
        self._over = threading.Event()
        self._server: Any = None
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Supervised:
        self.sandbox.kill()
        self._start()
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._watcher.join()
        self._server.kill()
        self._server.join()
        self.sandbox.start()

    def _watch(self) -> None:
        while not self._over.is_set():
            self._server.join(0.02)
            if self._server.exitcode is not None and not self._over.is_set():
                self.deaths += 1
                self._start()

    def _start(self) -> None:
        address = self.sandbox.dir / "address.json"
        address.unlink(missing_ok=True)
        self._server = Forked(target=serve, args=(str(self.sandbox.dir),), daemon=True)
        self._server.start()
        until = time.monotonic() + PATIENCE_S
        while not address.exists() and time.monotonic() < until and self._server.exitcode is None:
            time.sleep(0.005)


def kill(directory: Path) -> bool:
    """kill -9 of the server of this folder, which may be about to start again; whether there was one to kill."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            pid = int(json.loads((directory / "address.json").read_text())["pid"])
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                os.kill(pid, signal.SIGKILL)
                return True
        except (FileNotFoundError, ProcessLookupError, ValueError):
            pass  # it died with the one before
        time.sleep(0.005)
    return False
