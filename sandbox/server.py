"""The one process that speaks for all facilities on loopback.

A service is a module of this package with two functions:

    setup(box) -> dict      makes what it needs below the folder; returns its part of credentials.json. Called at every
                            start and reset, so it is idempotent; secrets come from `box.kept`. It is also the place
                            to look after workers that died while no server ran.
    routes(box) -> list     its Starlette routes, mounted at the service's prefix; handlers that block are plain `def`

credentials.json is {"<service>": setup(box)} for all services, mode 0600.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from sandbox import admin, slurm, workers
from sandbox.box import Box
from sandbox.faults import FaultMiddleware

PREFIXES = {"auth": "/auth", "transfer": "/transfer", "sfapi": "/sfapi", "scicat": "/scicat/api"}
KEPT = ("state.db", "server.", "address.json", "credentials.json", "collections.json")  # how their names begin


def services() -> dict[str, ModuleType]:
    return {name: importlib.import_module(f"sandbox.{name}") for name in PREFIXES}


def set_up(box: Box) -> None:
    """Disks, accounts and credentials of all services; also after a crash or a reset."""
    credentials = {name: module.setup(box) for name, module in services().items()}
    write_json(box.dir / "credentials.json", credentials, mode=0o600)


def reset(box: Box) -> None:
    """Back to the first day: workers ended, documents, faults and files gone; secrets and the port stay."""
    workers.end_all(box.dir)
    box.wipe()
    for path in box.dir.iterdir():
        if not path.name.startswith(KEPT):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    set_up(box)


def application(box: Box) -> FaultMiddleware:
    counts: dict[str, int] = {}
    mounts = [Mount(PREFIXES[name], routes=module.routes(box)) for name, module in services().items()]
    pages = importlib.import_module("sandbox.scicat").pages(box)
    mounts.append(Mount("/scicat", routes=pages))  # the front end: after the interface below it
    mounts.append(Mount("/sandbox", routes=admin.routes(box, counts, lambda: reset(box))))
    return FaultMiddleware(Starlette(routes=mounts), box, PREFIXES, counts)


def serve(directory: Path, host: str = "127.0.0.1", port: int = 0, real_slurm: bool = False) -> int:
    """Serve the folder until SIGTERM or SIGINT. Returns the exit status; 1 when another server has the folder.

    With `real_slurm`, and when the folder's own Slurm was left running, jobs go through it.
    """
    box = Box(directory)
    lock = (box.dir / "server.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another server is running on {box.dir}", file=sys.stderr)
        return 1
    workers.mark(box.dir)
    if real_slurm and (problem := slurm.missing()) is not None:
        print(problem, file=sys.stderr)
        return 1
    if real_slurm and not slurm.chosen(box):
        workers.end_all(box.dir)  # jobs that run without Slurm cannot go on in it; transfers can
        slurm.choose(box)
    listener = _listen(box, host, port)
    try:
        set_up(box)
    except slurm.SlurmError as error:
        print(f"the sandbox's Slurm does not run: {error}", file=sys.stderr)
        return 1
    config = uvicorn.Config(
        application(box),
        log_level="warning",
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=300,  # a client that reuses a connection must not meet one that is just being closed
        timeout_graceful_shutdown=1,
    )
    bound_port = int(listener.getsockname()[1])
    address = {"url": f"http://{host}:{bound_port}", "port": bound_port, "pid": os.getpid(), "slurm": slurm.chosen(box)}
    write_json(box.dir / "address.json", address)  # the socket listens already: from here on nobody is turned away
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        (box.dir / "address.json").unlink(missing_ok=True)
        lock.close()
    return 0


def _listen(box: Box, host: str, port: int) -> socket.socket:
    """A listening socket; with port 0, on the port that this folder had before, so that clients find it again."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound = False
    if port == 0:
        with contextlib.suppress(FileNotFoundError, OSError):
            listener.bind((host, int((box.dir / "server.port").read_text())))
            bound = True
    if not bound:
        listener.bind((host, port))
    listener.listen(512)
    (box.dir / "server.port").write_text(str(listener.getsockname()[1]))
    return listener


def write_json(path: Path, document: Any, mode: int = 0o644) -> None:
    """Replace the file in one step; it never exists with other permissions than `mode`."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as out:
        json.dump(document, out, indent=1)
    fresh.replace(path)
