"""Processes of the fork server, of which several threads may ask whether they ended."""

from __future__ import annotations

import os
import threading
from multiprocessing import context, forkserver, popen_forkserver
from typing import Any

# children of a server that has all of this imported: real processes, without two seconds of imports for each
forkserver.set_forkserver_preload([
    "als_assets.families", "als.platform", "resources.globus", "resources.scicat", "resources.sfapi", "sfapi_client",
    "pyscicat.client", "globus_sdk.services.transfer.client", "globus_sdk.services.transfer.data",
    "globus_sdk.exc.convert", "sandbox.server", "sandbox.transfer", "sandbox.sfapi", "sandbox.scicat", "sandbox.auth",
])  # fmt: skip


class Popen(popen_forkserver.Popen):
    """The standard one reads the exit status from a pipe, once: of two threads that ask at the same time the second
    finds the pipe at its end and keeps 255. Each start of a process asks after all others."""

    def __init__(self, process: Any) -> None:
        self._one = threading.Lock()
        super().__init__(process)

    def poll(self, flag: int = os.WNOHANG) -> Any:
        with self._one:
            return super().poll(flag)


class Forked(context.ForkServerProcess):
    @staticmethod
    def _Popen(process: Any) -> Popen:
        return Popen(process)
