"""The batch script of a job, from values that cannot hurt a shell.

A script is four things: the #SBATCH lines, from values that match a strict pattern or are refused; `exec` of one quoted
program; the job's request as one line of ASCII JSON in a here-document that bash does not expand; the end of it.
File names occur in the JSON only, so that no shell and no Slurm ever reads one.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from resources.errors import Refused

DELIMITER = "ALS_JOB_REQUEST"
LARGEST = 3_000_000  # bytes; Slurm refuses scripts over 4 MiB

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_WORD = r"[A-Za-z0-9][A-Za-z0-9_]{0,39}"
_PATH = r"/[A-Za-z0-9%@+=:,._/-]{1,1023}"

# directive → (sbatch option, pattern of the whole value, what a person should write)
DIRECTIVES: dict[str, tuple[str, str, str]] = {
    "account": ("--account", r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", "a project name such as als"),
    "qos": ("--qos", r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", "a QOS such as regular, realtime or xfer"),
    "constraint": ("--constraint", rf"{_WORD}(?:[&|,]{_WORD})*", "node features such as cpu or gpu&hbm80g"),
    "time": ("--time", r"(?:\d{1,2}-)?\d{1,4}(?::\d{1,2}){0,2}", "a time limit such as 30, 00:30:00 or 1-12:00:00"),
    "nodes": ("--nodes", r"[1-9]\d{0,4}", "a number of nodes"),
    "ntasks": ("--ntasks", r"[1-9]\d{0,5}", "a number of tasks"),
    "cpus_per_task": ("--cpus-per-task", r"[1-9]\d{0,3}", "a number of CPUs"),
    "gpus": ("--gpus", r"[1-9]\d{0,4}", "a number of GPUs"),
    "mem": ("--mem", r"[1-9]\d{0,6}[KMGT]?", "an amount of memory such as 2G"),
    "licenses": ("--licenses", rf"{_WORD}(?::\d+)?(?:,{_WORD}(?::\d+)?)*", "licences such as SCRATCH or cfs:1"),
    "reservation": ("--reservation", _NAME, "a reservation's name"),
    "signal": ("--signal", r"(?:B:)?[A-Z0-9]{2,8}(?:@\d{1,5})?", "a signal such as B:USR1@120"),
    "output": ("--output", _PATH, "an absolute path without spaces"),
    "error": ("--error", _PATH, "an absolute path without spaces"),
    "chdir": ("--chdir", _PATH, "an absolute path without spaces"),
}


def render(key: str, directives: Mapping[str, Any], program: str, job: Mapping[str, Any]) -> str:
    """The script of the job named `key`, which runs `program run -` and hands it `job` as JSON.

    `directives` are the keys of DIRECTIVES, and `exclusive` (true or false); None leaves one out. `program` is a
    path or a name, not a command line. Raises Refused, which names the directive, on anything else.
    """
    if not re.fullmatch(_NAME, key):
        raise Refused("slurm", f"a job cannot be named {key!r}: letters, digits, dots, dashes, at most 64")
    if not program or program.startswith("-") or not program.isprintable():
        raise Refused("slurm", f"{program!r} is not a program")
    lines = ["#!/bin/bash", f"#SBATCH --job-name={key}", *_directives(directives), "#SBATCH --no-requeue", ""]
    lines.append(f"exec {shlex.quote(program)} run - <<'{DELIMITER}'")
    lines += [_one_line(job), DELIMITER, ""]
    script = "\n".join(lines)
    if len(script.encode()) > LARGEST:
        raise Refused("slurm", f"the job's request is too long ({len(script)} bytes): ask for fewer scans in one job")
    return script


def _directives(directives: Mapping[str, Any]) -> list[str]:
    unknown = sorted(set(directives) - DIRECTIVES.keys() - {"exclusive"})
    if unknown:
        raise Refused("slurm", f"unknown directive {unknown[0]!r}; known: {', '.join(sorted(DIRECTIVES))}, exclusive")
    lines = []
    for name, (option, pattern, expected) in DIRECTIVES.items():
        value = directives.get(name)
        if value is None:
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, (str, int))
            or not re.fullmatch(pattern, str(value), re.ASCII)
        ):
            raise Refused("slurm", f"directive {name}: {value!r} is not {expected}")
        lines.append(f"#SBATCH {option}={value}")
    exclusive = directives.get("exclusive")
    if exclusive not in (None, True, False) or isinstance(exclusive, int) != isinstance(exclusive, bool):
        raise Refused("slurm", f"directive exclusive: {exclusive!r} is not true or false")
    return [*lines, "#SBATCH --exclusive"] if exclusive else lines


def _one_line(job: Mapping[str, Any]) -> str:
    try:
        line = json.dumps(job, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise Refused("slurm", f"the job's request is not JSON: {error}") from error
    if not line.startswith("{"):
        raise Refused("slurm", "the job's request must be a JSON object")
    return line
