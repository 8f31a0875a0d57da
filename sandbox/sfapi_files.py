"""SFAPI's utilities: ls, download, upload of small files, and commands on a login node.

Paths are real ones below the sandbox's folder; whatever is elsewhere, or is the sandbox's own (its keys, its state),
does not exist for them. Commands are a short list of programs that touch files only, run without a shell.
"""

from __future__ import annotations

import base64
import os
import pwd
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.box import Box, Doc
from sandbox.jobs import USER
from sandbox.sfapi_auth import signed_in
from sandbox.sfapi_jobs import MACHINES, finished_task

SMALL = 5_000_000  # the real API says only that files must be small
PROGRAMS = (
    "true", "echo", "ls", "cat", "head", "tail", "stat", "test", "mkdir", "mv", "cp", "rm", "rmdir", "sha256sum", "df",
    "du", "wc", "which", "hsi", "htar",
)  # fmt: skip
COMMAND_S = 30.0


def within(box: Box, text: str) -> Path | None:
    """The path where it is one that this service knows; links that lead out of the folder are not followed."""
    path = Path("/" + text.lstrip("/"))
    target = path.resolve()
    if not target.is_relative_to(box.dir):
        return None
    owner = target.relative_to(box.dir).parts[:1]
    return path if not owner or (box.dir / owner[0]).is_dir() else None  # files at the top are the sandbox's own


def entry(path: Path, name: str) -> Doc:
    """A line of `ls -l`, in fields."""
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        name = f"{name} -> {path.readlink()}"
    try:
        owner = pwd.getpwuid(info.st_uid).pw_name
    except KeyError:
        owner = str(info.st_uid)
    return {
        "perms": stat.filemode(info.st_mode), "hardlinks": info.st_nlink, "user": owner, "group": owner,
        "size": float(info.st_size), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(info.st_mtime)),
        "name": name,
    }  # fmt: skip


def listing(box: Box, text: str) -> Response:
    path = within(box, text)
    missing = {"status": "ERROR", "entries": [], "error": f"ls: cannot access '{text}': No such file or directory"}
    if path is None or not os.path.lexists(path):
        return JSONResponse(missing)
    try:
        if not path.is_dir():
            entries = [entry(path, str(path))]
        else:
            entries = [entry(path, "."), entry(path.parent, "..")]
            for name in sorted(child.name for child in path.iterdir()):
                try:
                    entries.append(entry(path / name, name))
                except FileNotFoundError:
                    continue  # gone meanwhile
    except PermissionError:
        error = f"ls: cannot open directory '{text}': Permission denied"
        return JSONResponse({"status": "ERROR", "entries": [], "error": error})
    answer = {"status": "OK", "entries": entries, "error": None, "file": None, "is_binary": False}
    return JSONResponse(_printable(answer))


def _printable(value: Doc) -> Doc:
    for line in value["entries"]:
        line["name"] = line["name"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return value


def download(box: Box, text: str, binary: bool) -> Response:
    path = within(box, text)
    answer: Doc = {"status": "ERROR", "file": None, "is_binary": False, "error": None}
    if path is None or not path.exists():
        return JSONResponse({**answer, "error": f"cat: {text}: No such file or directory"})
    if not path.is_file():
        return JSONResponse({**answer, "error": f"cat: {text}: Is a directory"})
    if path.stat().st_size > SMALL:
        return JSONResponse({**answer, "error": f"File is too large to download (limit {SMALL} bytes)"})
    content = path.read_bytes()
    if binary:
        return JSONResponse({**answer, "status": "OK", "is_binary": True, "file": base64.b64encode(content).decode()})
    try:
        return JSONResponse({**answer, "status": "OK", "file": content.decode()})
    except UnicodeDecodeError:
        return JSONResponse({**answer, "error": "File is not a text file, use binary=true"})


def upload(box: Box, text: str, content: bytes) -> Response:
    path = within(box, text)
    if path is None or not path.parent.is_dir():
        return JSONResponse({"status": "ERROR", "output": None, "error": f"{text}: No such file or directory"})
    if len(content) > SMALL:
        return JSONResponse({"status": "ERROR", "output": None, "error": f"File is too large (limit {SMALL} bytes)"})
    fresh = path.with_name(f".{path.name[:200]}.upload-{os.getpid()}-{time.monotonic_ns()}")
    fresh.write_bytes(content)
    fresh.replace(path)
    return JSONResponse({"status": "OK", "output": str(path), "error": None})


def command(box: Box, line: str) -> Response:
    try:
        words = shlex.split(line)
    except ValueError as error:
        return finished_task(box, {"status": "error", "output": None, "error": str(error)})
    if not words or Path(words[0]).name not in PROGRAMS:
        known = ", ".join(PROGRAMS)
        return finished_task(box, {"status": "error", "output": None, "error": f"the sandbox runs only {known}"})
    local = [] if words[0] in ("hsi", "htar") else [w for w in words[1:] if "/" in w or w == ".."]  # theirs are on tape
    outside = [w for w in local if within(box, str(box.dir / "nersc/home" / w)) is None]
    if outside:
        error = f"{words[0]}: {outside[0]}: No such file or directory"
        return finished_task(box, {"status": "error", "output": None, "error": error})
    environment = {
        "PATH": f"{box.dir}/nersc/bin:{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(box.dir / "nersc" / "home"), "USER": USER, "LANG": "C.UTF-8", "SANDBOX_OF": str(box.dir),
    }  # fmt: skip
    try:
        done = subprocess.run(
            [Path(words[0]).name, *words[1:]], cwd=environment["HOME"], env=environment, capture_output=True,
            stdin=subprocess.DEVNULL, timeout=COMMAND_S, check=False,
        )  # fmt: skip
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        return finished_task(box, {"status": "error", "output": None, "error": str(error)})
    result = {"output": done.stdout.decode(errors="replace"), "exit_code": done.returncode}
    if done.returncode == 0:
        return finished_task(box, {**result, "status": "ok", "error": None})
    words_of_it = done.stderr.decode(errors="replace") or f"exit code {done.returncode}"
    return finished_task(box, {**result, "status": "error", "error": words_of_it})


def routes(box: Box) -> list[BaseRoute]:
    def refused(request: Request, colour: str = "green") -> Response | None:
        if request.path_params["machine"] not in MACHINES:
            return JSONResponse({"detail": "Not found"}, 404)
        return signed_in(box, request, colour)

    def ls(request: Request) -> Response:
        return refused(request) or listing(box, request.path_params["path"])

    def get(request: Request) -> Response:
        binary = request.query_params.get("binary", "false").lower() == "true"
        return refused(request) or download(box, request.path_params["path"], binary)

    async def put(request: Request) -> Response:
        if (refusal := await run_in_threadpool(refused, request, "yellow")) is not None:
            return refusal
        form = await request.form()
        file = form.get("file")
        if not isinstance(file, UploadFile):
            return JSONResponse(
                {"detail": [{"loc": ["body", "file"], "msg": "field required", "type": "missing"}]}, 422
            )
        return await run_in_threadpool(upload, box, request.path_params["path"], await file.read())

    async def run(request: Request) -> Response:
        if (refusal := await run_in_threadpool(refused, request, "red")) is not None:
            return refusal
        form = await request.form()
        return await run_in_threadpool(command, box, str(form.get("executable", "")))

    return [
        Route("/utilities/ls/{machine}/{path:path}", ls),
        Route("/utilities/download/{machine}/{path:path}", get),
        Route("/utilities/upload/{machine}/{path:path}", put, methods=["PUT"]),
        Route("/utilities/command/{machine}", run, methods=["POST"]),
    ]
