"""`python -m sandbox serve|down|reset|status --dir D`: start and end the facilities on loopback."""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from sandbox import workers
from sandbox.box import Box
from sandbox.slurm import Slurm


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, words in (
        ("serve", "run the server in the foreground until it is ended"),
        ("down", "end the server and the detached workers of this folder"),
        ("reset", "forget everything but the secrets: documents, faults, files on the disks"),
        ("status", "print the address, the faults and the counts of requests"),
    ):
        verb = verbs.add_parser(name, help=words, description=words)
        verb.add_argument("--dir", type=Path, required=True, help="the sandbox's folder")
        if name == "serve":
            verb.add_argument("--host", default="127.0.0.1")
            verb.add_argument("--port", type=int, default=0, help="0: the one used last time, or a free one")
            verb.add_argument(
                "--slurm", action="store_true",
                help="jobs go through a real Slurm that the sandbox starts for itself, until `down`; without munge, so"
                " only on a machine that you share with nobody",
            )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.verb == "serve":
        from sandbox.server import serve

        return serve(options.dir, options.host, options.port, options.slurm)
    if not (options.dir / "state.db").exists():
        print(f"no sandbox in {options.dir}", file=sys.stderr)
        return 1
    return {"down": down, "reset": reset, "status": status}[options.verb](options.dir.resolve())


def down(directory: Path) -> int:
    """End the server, then every process that it or its workers started. 0 when nothing is left."""
    address = directory / "address.json"
    if address.exists():
        pid = int(json.loads(address.read_text())["pid"])
        workers.end([pid], ours=lambda p: workers.is_server(p, directory))
        address.unlink(missing_ok=True)
    Slurm(directory).down()
    left = workers.end_all(directory)
    (directory / "server.slurm").unlink(missing_ok=True)
    if left:
        print(f"still running: {left}", file=sys.stderr)
    return 1 if left else 0


def reset(directory: Path) -> int:
    """Through the server when one runs (it has counters in memory), else on the folder itself."""
    if _call(directory, "POST", "/sandbox/reset") is None:
        from sandbox.server import reset as reset_folder

        reset_folder(Box(directory))
    return 0


def status(directory: Path) -> int:
    answer = _call(directory, "GET", "/sandbox/status")
    if answer is None:
        print(f"no server is running on {directory}", file=sys.stderr)
        return 1
    print(answer)
    return 0


def _call(directory: Path, method: str, path: str, tries: int = 2) -> str | None:
    """The server's answer; None when no server listens there."""
    try:
        address = json.loads((directory / "address.json").read_text())
    except FileNotFoundError:
        return None
    if not workers.is_server(int(address["pid"]), directory):
        return None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(address["url"] + path, method=method)
    for left in reversed(range(tries)):
        try:
            with opener.open(request, timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError:
            raise
        except OSError:
            if not left:
                raise
            time.sleep(0.2)
    return None


if __name__ == "__main__":
    sys.exit(main())
