"""als-job: what a batch job runs. It claims its attempt, runs its commands one after the other, writes the outcome.

    als-job run - < request.json

The request (one JSON document on stdin):

    {"schema": "als-job/1", "key": "als-…", "attempt_dir": "/abs/dir",
     "commands": [{"id": "<scan hash>", "argv": ["als-xpcs", "corr", …], "input": <optional JSON for its stdin>}]}

A submit whose answer was lost may have been made twice: the first job to create `attempt_dir/claim` runs, any other
ends as a duplicate (exit 17). A job that Slurm requeued keeps its id, and goes on where it was.
No shell is involved anywhere: file names are hostile input.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from als_analysis.atomic import write_bytes, write_json
from als_analysis.failure import OK, PREEMPTED, BadArguments, OutputError, one_line, run_command

DUPLICATE = 17
CANNOT_START = 127
CHILD_GRACE_S = 25.0  # Slurm kills 30 s after SIGTERM: the outcome must be on disk before that
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Command:
    """One program to run: `id` names its output files, `input` is given to its stdin as JSON (None: no stdin)."""

    id: str
    argv: tuple[str, ...]
    input: Any


@dataclass(frozen=True)
class Finished:
    """How one command ended: `exit` is its code, or 128 + n for death by signal n."""

    id: str
    exit: int
    seconds: float
    message: str


@dataclass(frozen=True)
class Request:
    """A checked `als-job/1` document."""

    key: str
    attempt_dir: Path
    commands: tuple[Command, ...]


def parse_request(text: str) -> Request:
    """Check the request and give it typed; raises `BadArguments` with the field at fault."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadArguments(f"request: not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != "als-job/1":
        raise BadArguments("request: field schema: expected als-job/1")
    key, attempt_dir, commands = (document.get(name) for name in ("key", "attempt_dir", "commands"))
    if not isinstance(key, str) or not key:
        raise BadArguments("request: field key: expected a string")
    if not isinstance(attempt_dir, str) or not Path(attempt_dir).is_absolute() or ".." in Path(attempt_dir).parts:
        raise BadArguments("request: field attempt_dir: expected an absolute path without ..")
    if not isinstance(commands, list) or not commands:
        raise BadArguments("request: field commands: expected at least one")
    parsed: list[Command] = []
    for index, item in enumerate(commands):
        where = f"request: commands[{index}]"
        if not isinstance(item, dict):
            raise BadArguments(f"{where}: expected an object")
        id_, argv = item.get("id"), item.get("argv")
        if not isinstance(id_, str) or not _SAFE_ID.fullmatch(id_):
            raise BadArguments(f"{where}.id: expected letters, digits, dot, dash, underscore")
        if not isinstance(argv, list) or not argv or not all(isinstance(a, str) and "\0" not in a for a in argv):
            raise BadArguments(f"{where}.argv: expected a list of strings")
        if "/" in argv[0] or not argv[0]:
            raise BadArguments(f"{where}.argv: the program is named without a directory")
        parsed.append(Command(id_, tuple(argv), item.get("input")))
    if len({command.id for command in parsed}) != len(parsed):
        raise BadArguments("request: field commands: two commands have the same id")
    return Request(key, Path(attempt_dir), tuple(parsed))


def claim(attempt_dir: Path, job_id: str | None) -> str | None:
    """Claim the attempt for this job; None when it is ours, otherwise the id of the job that holds it.

    The claim appears with its owner inside in one rename, so that a job killed half-way leaves no ownerless claim.
    Raises `OutputError` where the directory cannot be made.
    """
    target = attempt_dir / "claim"
    owner = {"job_id": job_id, "host": socket.gethostname(), "pid": os.getpid(), "at": _now()}
    try:
        attempt_dir.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(target):
            beside = attempt_dir / f".claim.{os.getpid()}.{secrets.token_hex(4)}"
            beside.mkdir()
            try:
                write_json(beside / "owner.json", owner)
                beside.rename(target)  # onto a claim that is not empty this fails, on every file system
                return None
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            finally:
                shutil.rmtree(beside, ignore_errors=True)  # ours alone; gone already when the rename succeeded
    except OSError as error:
        raise OutputError(f"{attempt_dir}: cannot be claimed: {error}") from error
    try:
        holder = json.loads((target / "owner.json").read_text()).get("job_id")
    except (OSError, ValueError, AttributeError):
        return "unknown"  # somebody else's claim, whatever it says: not ours
    if job_id is not None and holder == job_id:
        return None
    return str(holder) if holder is not None else "unknown"


class Runner:
    """Runs commands one after the other and passes SIGTERM and SIGUSR1 on to the one that runs."""

    def __init__(self, attempt_dir: Path) -> None:
        self.attempt_dir = attempt_dir
        self.stopped_by: int | None = None
        self._stopped_at = 0.0
        self._child: subprocess.Popen[bytes] | None = None

    def install(self) -> None:
        """Take over SIGTERM and SIGUSR1 of this process."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by, self._stopped_at = number, time.monotonic()
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def run(self, command: Command) -> Finished:
        """Run one command; its stdout and stderr go to `<id>.out` and `<id>.err` in the attempt's directory."""
        started = time.monotonic()
        error_path = self.attempt_dir / f"{command.id}.err"
        program = _resolve(command.argv[0])
        if program is None:
            message = f"{command.argv[0]}: no such program beside {sys.executable} or on PATH"
            write_bytes(error_path, (message + "\n").encode())
            return Finished(command.id, CANNOT_START, 0.0, one_line(message, 500))
        feed = None if command.input is None else json.dumps(command.input).encode()
        with (self.attempt_dir / f"{command.id}.out").open("wb") as out, error_path.open("wb") as err:
            try:
                self._child = subprocess.Popen(
                    [program, *command.argv[1:]],
                    stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
                    stdout=out,
                    stderr=err,
                )
            except OSError as error:
                return Finished(command.id, CANNOT_START, 0.0, one_line(f"{program}: {error}", 500))
            if self.stopped_by is not None:  # the signal came between the check and the start
                self._child.send_signal(self.stopped_by)
            code = self._wait(self._child, feed)
            self._child = None
        words = _last_words(error_path)
        return Finished(command.id, code, round(time.monotonic() - started, 3), _killed(code, words) or words)

    def _wait(self, child: subprocess.Popen[bytes], feed: bytes | None) -> int:
        if child.stdin is not None:
            try:
                child.stdin.write(feed or b"")
                child.stdin.close()
            except BrokenPipeError:
                pass  # it ended, or does not read: its exit code tells
        while True:
            try:
                code = child.wait(timeout=0.5)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                if self.stopped_by is not None and time.monotonic() - self._stopped_at > CHILD_GRACE_S:
                    child.kill()


def run_job(request: Request) -> int:
    """Claim, run, record; returns the exit code of the job (see README)."""
    job_id = os.environ.get("SLURM_JOB_ID") or None
    holder = claim(request.attempt_dir, job_id)
    if holder is not None:
        print(f"duplicate of job {holder}", flush=True)
        return DUPLICATE
    runner = Runner(request.attempt_dir)
    runner.install()
    started_at = _now()
    done = _already_finished(request)
    for command in request.commands:
        if runner.stopped_by is not None:
            break
        if command.id in done:
            continue
        finished = runner.run(command)
        if runner.stopped_by is not None and finished.exit != OK:
            finished = Finished(command.id, PREEMPTED, finished.seconds, finished.message or "stopped by a signal")
        done[command.id] = finished
        write_json(request.attempt_dir / "finished.json", [asdict(item) for item in done.values()])
    results = [done[command.id] for command in request.commands if command.id in done]
    write_json(
        request.attempt_dir / "outcome.json",
        {
            "schema": "als-job-outcome/1",
            "key": request.key,
            "job_id": job_id,
            "host": socket.gethostname(),
            "started_at": started_at,
            "ended_at": _now(),
            "commands": [asdict(item) for item in results],
        },
    )
    complete = len(results) == len(request.commands) and all(item.exit != PREEMPTED for item in results)
    if runner.stopped_by is not None and not complete:
        print(
            f"als-job: stopped by signal {runner.stopped_by}, {len(results)} of {len(request.commands)} commands ran",
            file=sys.stderr,
        )
        return PREEMPTED
    codes = [item.exit for item in results]
    return OK if OK in codes else codes[0]


def _already_finished(request: Request) -> dict[str, Finished]:
    """What an earlier run of this same (requeued) job finished; what was preempted or killed runs again."""
    try:
        items = json.loads((request.attempt_dir / "finished.json").read_text())
        known = [Finished(str(i["id"]), int(i["exit"]), float(i["seconds"]), str(i["message"])) for i in items]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"als-job: {request.attempt_dir / 'finished.json'}: {error}; every command runs again", file=sys.stderr)
        return {}
    return {item.id: item for item in known if item.exit != PREEMPTED and item.exit < 128}


def _resolve(program: str) -> str | None:
    beside = Path(sys.executable).parent / program  # the environment that this program itself was installed into
    if beside.is_file() and os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which(program)


def _last_words(path: Path, limit: int = 500) -> str:
    """The last line of a stderr file that is no progress document, as one bounded line."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return one_line(f"{path}: {error}", limit)
    spoken = [line for line in lines if line.strip() and not line.lstrip().startswith("{")]
    return one_line(spoken[-1], limit) if spoken else ""


def _killed(code: int, words: str) -> str:
    """That a program was killed, for an exit code that says so: what it said last is no reason then."""
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return ""
    return one_line(f"killed by {name}" + (f"; the last that it said: {words}" if words else ""), 500)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="als-job",
        description="Run the commands of one batch job, once.",
        epilog="example: als-job run - < request.json; exit 0 done, 2 bad request, 17 duplicate, 75 preempted, "
        "otherwise the first command's code when every command failed",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="read a request and run it")
    run.add_argument("request", help="a file, or - for stdin")
    arguments = parser.parse_args(argv)

    def body() -> int:
        try:
            text = sys.stdin.read() if arguments.request == "-" else Path(arguments.request).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise BadArguments(f"{arguments.request}: cannot be read: {error}") from error
        return run_job(parse_request(text))

    return run_command("als-job", body)


if __name__ == "__main__":
    sys.exit(main())
