"""What sbatch reads from a script: its #SBATCH lines, and why NERSC's Slurm would refuse it."""

from __future__ import annotations

import re
import shlex

from sandbox.box import Doc

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
QOS = ("regular", "debug", "shared", "premium", "preempt", "overrun", "realtime", "interactive", "xfer", "workflow")
SIZE = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}


class Refused(Exception):
    """sbatch's words on stderr."""


def parse(script: str) -> Doc:
    """The options of the #SBATCH lines. Raises Refused as sbatch does on a line that it does not understand."""
    found: Doc = {}
    for line in script.splitlines()[1:]:
        if line.strip() and not line.startswith("#"):
            break  # sbatch reads no further than the first command
        if line.startswith("#SBATCH"):
            _read(shlex.split(line[len("#SBATCH") :], comments=True), found)
    return found


def _read(words: list[str], found: Doc) -> None:
    rest = iter(words)
    for word in rest:
        if word in FLAGS:
            found[FLAGS[word]] = True
            continue
        if not word.startswith("-"):
            raise Refused(f"sbatch: error: Invalid directive found in batch script: {word}")
        if word.startswith("--"):
            option, equals, value = word.partition("=")
        else:
            option, value = word[:2], word[2:].removeprefix("=")
            equals = value
        if option not in OPTIONS:
            raise Refused(f"sbatch: unrecognized option '{option}'\nTry \"sbatch --help\" for more information")
        found[OPTIONS[option]] = value if equals else next(rest, "")


def seconds(limit: str) -> int:
    """Slurm's time formats: minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if match is None:
        raise Refused("sbatch: error: Invalid --time specification")
    days, *parts = match.groups()
    numbers = [int(p) for p in parts if p is not None]
    if days is not None:
        hours, minutes, secs = (*numbers, 0, 0)[:3]
        return int(days) * 86400 + hours * 3600 + minutes * 60 + secs
    if len(numbers) == 3:
        return numbers[0] * 3600 + numbers[1] * 60 + numbers[2]
    return numbers[0] * 60 + (numbers[1] if len(numbers) == 2 else 0)


def megabytes(memory: str) -> float:
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", memory, re.IGNORECASE)
    if match is None:
        raise Refused("sbatch: error: Invalid --mem specification")
    return int(match[1]) * SIZE[match[2].upper()]


def check(options: Doc, projects: list[str]) -> None:
    """Raise Refused where NERSC's submit filter does: account, QOS, architecture, time, memory on xfer."""
    failed = "sbatch: error: Batch job submission failed: "
    if options.get("account", projects[0]).removesuffix("_g") not in projects:
        raise Refused(failed + "Invalid account or account/partition combination specified")
    qos = options.get("qos", "debug")
    if qos not in QOS:
        raise Refused(failed + "Invalid qos specification")
    if qos not in ("xfer", "workflow") and not options.get("constraint"):
        raise Refused(
            "sbatch: error: No architecture specified, cannot estimate job costs.\n" + failed + "Unspecified error"
        )
    limit = seconds(options.get("time", "10"))
    if limit > (1800 if qos == "debug" else 48 * 3600):
        raise Refused(failed + "Requested time limit is invalid (missing or exceeds some limit)")
    if qos == "xfer" and megabytes(options.get("mem", "1G")) > 2048:
        raise Refused(failed + "Memory required by task is not available")
