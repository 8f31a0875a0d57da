"""What sbatch reads from a script: its #SBATCH lines, and the document of a job that they make."""

from __future__ import annotations

import re
import shlex
import time
from typing import Any

from sandbox.box import Box, Doc
from sandbox.slurm_rules import DEFAULT_MINUTES, DEFAULT_QOS, QOS, Qos, Refused, seconds

# short form, long form, name in the job's document; "" takes no value
OPTIONS: dict[str, str] = {
    "-J": "name", "--job-name": "name",
    "-A": "account", "--account": "account",
    "-q": "qos", "--qos": "qos",
    "-C": "constraint", "--constraint": "constraint",
    "-t": "time", "--time": "time",
    "-N": "nodes", "--nodes": "nodes",
    "-n": "ntasks", "--ntasks": "ntasks",
    "-c": "cpus_per_task", "--cpus-per-task": "cpus_per_task",
    "-G": "gpus", "--gpus": "gpus",
    "--mem": "mem",
    "-o": "stdout", "--output": "stdout",
    "-e": "stderr", "--error": "stderr",
    "-D": "workdir", "--chdir": "workdir",
    "-L": "licenses", "--licenses": "licenses",
    "--signal": "signal",
    "--comment": "comment",
    "--export": "export",
    "--reservation": "reservation",
}  # fmt: skip
FLAGS = {"--no-requeue": "no_requeue", "--requeue": "requeue", "--exclusive": "exclusive"}


def parse(script: str, strict: bool = True) -> Doc:
    """The options of the #SBATCH lines. Raises Refused as sbatch does on a line that it does not understand.

    Not `strict`: leaves out what is not in OPTIONS, where the real sbatch will judge.
    """
    found: Doc = {}
    for line in script.splitlines()[1:]:
        if line.strip() and not line.startswith("#"):
            break  # sbatch reads no further than the first command
        if line.startswith("#SBATCH"):
            _read(shlex.split(line[len("#SBATCH") :], comments=True), found, strict)
    return found


def _read(words: list[str], found: Doc, strict: bool) -> None:
    rest = iter(words)
    for word in rest:
        if word in FLAGS:
            found[FLAGS[word]] = True
            continue
        if not word.startswith("-"):
            if not strict:
                continue
            raise Refused(f"sbatch: error: Invalid directive found in batch script: {word}")
        if word.startswith("--"):
            option, equals, value = word.partition("=")
        else:
            option, value = word[:2], word[2:].removeprefix("=")
            equals = value
        if option not in OPTIONS:
            if not strict:
                continue
            raise Refused(f"sbatch: unrecognized option '{option}'\nTry \"sbatch --help\" for more information")
        found[OPTIONS[option]] = value if equals else next(rest, "")


def job_document(box: Box, options: Doc, **more: Any) -> Doc:
    """A job that is waiting: what jobs.py and slurm_jobs.py keep of it, but its id, script and output files."""
    qos = options.get("qos", DEFAULT_QOS)
    warn = re.fullmatch(r"B:([A-Z0-9]+)(?:@(\d+))?", options.get("signal", ""))
    return {
        "name": options.get("name") or "sbatch", "account": options.get("account", ""), "qos": qos,
        "constraint": options.get("constraint"), "time_limit_s": seconds(options.get("time", str(DEFAULT_MINUTES))),
        "nodes": _number(options.get("nodes")), "ntasks": _number(options.get("ntasks")), "mem": options.get("mem"),
        "comment": options.get("comment"), "licenses": options.get("licenses"),
        "workdir": str(box.dir / "nersc" / "home" / options.get("workdir", "")),
        "partition": QOS.get(qos, Qos()).partition,
        "warn": {"name": warn[1], "seconds": int(warn[2] or 60)} if warn else None, "warned": False,
        "state": "PENDING", "submit": time.time(), "start": None, "end": None, "exit_code": 0, "signal": 0,
        "ending": None, "kill_at": None, "cancel_by": None, "fault": None, "reason": "None", "hidden_until": 0.0,
        **more,
    }  # fmt: skip


def _number(text: str | None) -> int:
    match = re.match(r"\d+", text or "1")
    return int(match[0]) if match else 1
