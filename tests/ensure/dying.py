"""Where a run's process can die: before and after each call to a facility and each commit of the ledger.

A point has a name, made of the call and of the lines of our code that lead to it, so that the same call for another
purpose is another point. A process for which `install` was called kills itself (kill -9) at the first point that is not
in the list of those at which one has died before; it adds that one first. Run after run, a step is brought to its end
through a death at every point that it has, and nobody has to keep the list.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.ensure.supervised import kill

OURS = tuple(str(Path(__file__).resolve().parents[2] / part) + os.sep for part in ("als_assets", "resources"))
NAMES = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|als-bl7011-[\w-]+|(?<=/)\d+(?=/|$)|(?<=pid-)[^/]+")
SIGN_IN = ("/token", "/auth/login", "/auth/whoami")
CHANGES = ("POST", "PUT", "PATCH", "DELETE")


class Deaths:
    """The points at which processes have died, in a file that they share.

    Attributes:
        which: "all"; "commits"; "calls": one for each route; "changes": of these, those that change something.
        server: the sandbox's folder, when its server is to die with the process.
    """

    def __init__(self, file: Path, which: str = "all", server: Path | None = None) -> None:
        self.file, self.which, self.server = file, which, server
        self._known = set(self.names())
        self._one = threading.Lock()

    def names(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def point(self, when: str, what: str, changes: bool = False) -> None:
        """Die here, if nobody has yet."""
        if self.which == "changes" and not changes:
            return
        plain = self.which in ("calls", "changes") or what.endswith(SIGN_IN)
        name = f"{when} {what}" + ("" if plain else f" in {where()}")
        with self._one:  # a thread that waits here dies with the other
            if name in self._known:
                return
            with self.file.open("a") as out:
                print(name, file=out, flush=True)
            if self.server is not None:
                kill(self.server)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()


def where() -> str:
    """The lines of our code that led here, the outermost first."""
    lines = []
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(OURS):
            lines.append(f"{Path(file).stem}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return ">".join(reversed(lines))


def route(method: str, url: str) -> str:
    """`POST /transfer/v0.10/transfer`, without the names and numbers in it."""
    path = NAMES.sub("*", urlsplit(url).path)
    path = re.sub(r"/utilities/(\w+)/(\w+)/.*", r"/utilities/\1/\2/*", path)
    path = re.sub(r"(?i)/(datasets)/[^/]+", r"/\1/*", path)
    return f"{method} {path}"


def install(deaths: Deaths) -> None:
    """Make this process mortal."""
    import httpx
    import requests.adapters

    from resources.ledger import Ledger

    def mortal(owner: Any, name: str, address: Any) -> None:
        real = getattr(owner, name)

        def call(self: Any, request: Any, *arguments: Any, **named: Any) -> Any:
            what, changes = route(request.method, str(address(request))), request.method in CHANGES
            deaths.point("before", what, changes)
            answer = real(self, request, *arguments, **named)
            deaths.point("after", what, changes)
            return answer

        setattr(owner, name, call)

    if deaths.which != "commits":
        mortal(requests.adapters.HTTPAdapter, "send", lambda request: request.url)
        mortal(httpx.HTTPTransport, "handle_request", lambda request: request.url)
    if deaths.which not in ("all", "commits"):
        return
    real_write = Ledger.write

    @contextlib.contextmanager
    def write(self: Ledger) -> Iterator[Any]:
        with real_write(self) as tx:
            yield tx
            deaths.point("before", "commit")
        deaths.point("after", "commit")

    Ledger.write = write  # type: ignore[method-assign]
