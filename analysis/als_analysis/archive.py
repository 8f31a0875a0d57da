"""als-archive: archives on HPSS, on a transfer node: stored once, verified before they count, brought back whole.

    als-archive store < request.json            out/archive.json
    als-archive verify [--level listing|crc|full] < request.json    out/verify.json
    als-archive restore < request.json          out/restore.json

The request:

    {"schema": "als-archive/1", "archive": "/home/a/als/7.0.1.1/<unique name>.tar", "out": "/abs/dir",
     "files": [{"path": "/abs/source", "name": "relative member name", "bytes": n, "sha256": "…" | null}],
     "manifest": {…}, "destination": "/abs/dir", "names": ["…"] | null}

files and manifest are for store, destination and names for restore. An archive name is used once, for ever: when it is
there already, it is either this same archive, and is verified and adopted, or an error. Nothing on tape is removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from als_analysis.atomic import write_json
from als_analysis.failure import OK, BadArguments, OutputError, run_command
from als_analysis.hpss import manifest as manifests
from als_analysis.hpss import verify
from als_analysis.hpss.commands import ANSWER_S, stop_on_signals
from als_analysis.hpss.errors import NotWhole
from als_analysis.hpss.members import Member
from als_analysis.hpss.request import Request, parse
from als_analysis.hpss.restore import restore
from als_analysis.hpss.store import store
from als_analysis.hpss.tape import Tape
from als_analysis.hpss.tar import Tar

VERIFIED = "als-archive-verify/1"


def run_store(request: Request, tape: Tape, tar: Tar) -> dict[str, Any]:
    """Store or adopt, write out/archive.json; returns what to print."""
    document = store(request, tape, tar)
    write_json(request.out / "archive.json", document)
    return {name: document[name] for name in ("archive", "bytes", "adopted")} | {"members": len(document["members"])}


def run_verify(request: Request, tape: Tape, tar: Tar, level: verify.Level) -> dict[str, Any]:
    """Check the archive against its manifest, write out/verify.json; raises NotWhole after that where it is not."""
    manifest, problems = verify.report(request.archive, level, tape, tar)
    document = {
        "schema": VERIFIED,
        "archive": request.archive,
        "level": level,
        "whole": not problems,
        "method": None if manifest is None else verify.method(manifest, level),
        "members": None if manifest is None else len(manifest.members),
        "files": None if manifest is None else [_file(member) for member in manifest.members],
        "problems": [{"name": problem.name, "reason": problem.reason} for problem in problems],
        "at": manifests.now(),
    }
    write_json(request.out / "verify.json", document)
    if problems:
        member = f"{problems[0].name}: " if problems[0].name else ""
        raise NotWhole(f"{request.archive}: {member}{problems[0].reason} ({len(problems)} problems)")
    return {name: document[name] for name in ("archive", "level", "whole", "members")}


def _file(member: Member) -> dict[str, Any]:
    return {"name": member.name, "bytes": member.bytes, "sha256": member.sha256}


def run_restore(request: Request, tape: Tape) -> dict[str, Any]:
    """Restore, write out/restore.json; raises NotWhole after that where a member did not come back whole."""
    document = restore(request, tape)
    write_json(request.out / "restore.json", document)
    if document["problems"]:
        first, count = document["problems"][0], len(document["problems"])
        raise NotWhole(f"{request.archive}: {first['name']}: {first['reason']} ({count} not restored)")
    return {"archive": request.archive, "files": len(document["files"])}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="als-archive",
        description="Archives on HPSS: store, verify, restore. The request comes on stdin.",
        epilog="example: als-archive store < request.json; exit 0 done, 2 bad request, 3 source missing or changed, "
        "8 out or destination not writable, 69 HPSS not available (retry), 70 archive not whole, 73 exists with other "
        "content, 74 HPSS refuses (quota, permission), 75 stopped or asked to try again (retry)",
    )
    parser.add_argument("verb", choices=("store", "verify", "restore"))
    parser.add_argument("--level", choices=verify.LEVELS, default="crc", help="of verify (default: crc)")
    parser.add_argument("--answer-s", type=float, default=ANSWER_S, help="how long HPSS may take to answer a question")
    options = parser.parse_args(argv)

    def body() -> int:
        stop_on_signals()
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise BadArguments(f"request: not UTF-8: {error}") from error
        request = parse(text, options.verb)
        print(json.dumps(_in_work_directory(request, options)))
        return OK

    return run_command("als-archive", body)


def _in_work_directory(request: Request, options: argparse.Namespace) -> dict[str, Any]:
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".als-archive-", dir=request.out))
    except OSError as error:
        raise OutputError(f"{request.out}: cannot be written: {error.strerror or error}") from error
    tape, tar = Tape(work, options.answer_s), Tar(work, options.answer_s)
    verbs: dict[str, Callable[[], dict[str, Any]]] = {
        "store": lambda: run_store(request, tape, tar),
        "verify": lambda: run_verify(request, tape, tar, options.level),
        "restore": lambda: run_restore(request, tape),
    }
    try:
        return verbs[options.verb]()
    finally:
        shutil.rmtree(work, ignore_errors=True)  # links and lists of ours


if __name__ == "__main__":
    sys.exit(main())
