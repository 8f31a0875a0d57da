"""Jobs of the sandbox that go through its real Slurm: sbatch, squeue, scancel, and `scontrol -o show job` for sacct.

Slurm decides; the jobs' documents (those of jobs.py, with "slurm": true) are its accounting, brought up to date from
Slurm at every listing and by the watch (slurm_watch.py). A job that Slurm has and that has no document - the server was
killed between sbatch and writing it - gets one. A job that Slurm has no more - slurmctld was killed within the five
seconds in which it had not saved its state - is a node failure.

As NERSC's cgroups have it, a job that was killed for its memory is OUT_OF_MEMORY here, where Slurm itself, which
watches by looking, says FAILED.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import time
from collections.abc import Iterator

from sandbox import jobs, slurm_config
from sandbox.box import Box, Doc
from sandbox.sfapi_sbatch import job_document
from sandbox.slurm import Slurm, SlurmError
from sandbox.slurm_config import DOOMED, FIRST
from sandbox.slurm_rules import Refused, seconds

FIRST_JOB = 33_000_001
NODE_OF_ITS_OWN = ("node_fail", "preempted")  # faults whose job must not share a node with others
RUNS = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED"}
LINE = re.compile(
    r"JobId=(?P<id>\d+) .*?JobName=(?P<name>.*?) UserId=\S+\(\d+\) GroupId=\S+ MCS_label=\S+ Priority=\d+ (?P<rest>.*)"
)
FIELD = re.compile(r"(\w+)=(\S+)")


def up(box: Box) -> Slurm:
    """The sandbox's Slurm, running. Raises SlurmError."""
    ours = Slurm(box.dir)
    counter = box.get("slurm_counter", "jobid")
    ours.up(jobs.settings(box)["projects"], int(counter["last"]) + 1 if counter else FIRST_JOB)
    return ours


# submitting


def admit(box: Box, template: Doc, options: Doc, script: str) -> str:
    """sbatch. Returns the job's id; raises Refused with sbatch's words."""
    project = {**template, "slurm": True}
    ours = up(box)
    slurm_config.write_filter(ours.dir, jobs.settings(box)["projects"])
    never = jobs.never_runs(project)
    words = ["sbatch", "--parsable"]
    kind = (template["fault"] or {}).get("kind")
    if kind == "pending_forever" or (kind == "cancelled" and never):
        words.append("--hold")
    if kind in NODE_OF_ITS_OWN and template["fault"].get("when") != "after":
        words += ["--partition", DOOMED, "--exclusive"]
    if never:
        words += ["--output=/dev/null", "--error=/dev/null"]
        script = _head(script) + ("exit 1\n" if kind == "failed" else "exec sleep 86400\n")
    with _between(box):
        try:
            said = ours.run(words, script, jobs.login_environment(box), box.dir / "nersc" / "home")
        except SlurmError as error:
            raise Refused(str(error)) from None
        job_id = said.strip().partition(";")[0]
        _document(box, {**project, "id": job_id}, script)
    return job_id


def _head(script: str) -> str:
    """The lines that sbatch reads."""
    lines = script.splitlines(keepends=True)
    end = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return "".join(lines[:end]) + "\n"


def _document(box: Box, job: Doc, script: str) -> None:
    home = jobs.directory(box, job["id"])
    home.mkdir(parents=True, exist_ok=True)
    (home / "script").write_text(script)
    with box.transaction() as docs:
        docs.put("slurm_counter", "jobid", {"last": int(job["id"])})
        docs.put("slurm_job", job["id"], {**job, "script": str(home / "script")})
        docs.put("slurm_live", job["id"], {})


@contextlib.contextmanager
def _between(box: Box, wait: bool = True) -> Iterator[bool]:
    """Held between sbatch and the document; with `wait` false, says whether nobody is there."""
    with (box.dir / "slurm" / "submit.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


# what became of them


def sync(box: Box) -> None:
    """Bring the documents up to date with Slurm. Raises SlurmError."""
    ours = up(box)
    waited = [job for job in jobs.live(box) if job.get("slurm")]  # before asking: whatever is here, Slurm must know
    seen = show(ours)
    waited += _adopt(box, seen)
    changes = {job["id"]: _change(ours, job, seen.get(job["id"])) for job in waited}
    jobs.write(box, {job_id: change for job_id, change in changes.items() if change})


def show(ours: Slurm) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for line in ours.run(["scontrol", "-o", "show", "job"]).splitlines():
        if match := LINE.fullmatch(line.strip()):
            fields: dict[str, str] = {}
            for name, value in FIELD.findall(match["rest"]):
                fields.setdefault(name, value)  # the first: what people may write themselves comes late in the line
            if fields.get("Partition") != FIRST:
                found[match["id"]] = {**fields, "JobName": match["name"]}
    return found


def _change(ours: Slurm, job: Doc, seen: dict[str, str] | None) -> Doc:
    """What is new about a live job."""
    if seen is None:
        lost = "Slurm was killed before it had saved this job"
        return {**jobs.ended("NODE_FAIL"), "admin_comment": lost}
    state, node = seen["JobState"], seen.get("NodeList", "(null)")
    new: Doc = {
        "state": "PENDING" if state == "PENDING" else "RUNNING",
        "reason": seen.get("Reason", "None"),
        "time_limit_s": _duration(seen.get("TimeLimit", ""), job["time_limit_s"]),
        "partition": seen.get("Partition", job["partition"]),
    }
    if (job["fault"] or {}).get("kind") == "pending_forever":
        new["reason"] = job["reason"] if state == "PENDING" else "None"
    if job["partition"] != DOOMED and new["partition"] == DOOMED:
        new["partition"] = job["partition"]
    if state != "PENDING" and node != "(null)":
        new.update(start=_clock(seen["StartTime"]), nodelist=node)
        if job["start"] is None:
            new["seen_running"] = time.time()
    if state in RUNS or state == "PENDING":
        return {name: value for name, value in new.items() if job.get(name) != value}
    code, _, signalled = seen.get("ExitCode", "0:0").partition(":")
    fault = job["fault"] or {}
    told = state
    if job.get("ended_as") is not None and state != "COMPLETED":
        told = job["ended_as"]
    elif fault.get("kind") in jobs.END_STATES and fault.get("when") == "after":
        told = jobs.END_STATES[fault["kind"]]
    elif state == "FAILED" and _over_memory(ours, job["id"], seen):
        told = "OUT_OF_MEMORY"
    end = _clock(seen["EndTime"]) or time.time()
    return {**new, "state": told, "end": end, "exit_code": int(code), "signal": int(signalled or 0), "reason": "None"}


def _over_memory(ours: Slurm, job_id: str, seen: dict[str, str]) -> bool:
    try:
        log = (ours.dir / f"{seen.get('BatchHost', '')}.log").read_text(errors="replace")
    except FileNotFoundError:
        return False
    return re.search(rf"StepId={job_id}\.\w+ exceeded memory limit", log) is not None


def _adopt(box: Box, seen: dict[str, dict[str, str]]) -> list[Doc]:
    """Jobs that Slurm knows and we do not: the server was killed before it wrote them down."""
    with box._connect() as db:
        known = {row[0] for row in db.execute("select id from docs where kind = 'slurm_job'")}
    if known >= seen.keys():
        return []
    with _between(box, wait=False) as alone:
        strange = [i for i in sorted(seen.keys() - known) if box.get("slurm_job", i) is None] if alone else []
        adopted = [{**_document_of(box, seen[job_id]), "id": job_id, "slurm": True} for job_id in strange]
        for job in adopted:
            _document(box, job, "")
    return adopted


def _document_of(box: Box, seen: dict[str, str]) -> Doc:
    options = {
        "account": seen.get("Account"), "qos": seen.get("AdminComment"), "constraint": seen.get("Features"),
        "nodes": seen.get("NumNodes"), "ntasks": seen.get("NumTasks"), "licenses": seen.get("Licenses"),
        "workdir": seen.get("WorkDir"), "comment": seen.get("Comment"),
    }  # fmt: skip
    said = {name: value for name, value in options.items() if value and value != "(null)"}
    return job_document(box, said, name=seen["JobName"], submit=_clock(seen["SubmitTime"]) or time.time())


def _clock(text: str) -> float | None:
    return None if text in ("Unknown", "None", "N/A") else time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


def _duration(text: str, otherwise: int) -> int:
    try:
        return seconds(text)
    except Refused:
        return otherwise


# squeue and scancel


def squeue(box: Box, found: list[Doc]) -> list[Doc]:
    """The rows of `squeue -o %all`, which is what the Superfacility API hands on, for these jobs."""
    header, *lines = up(box).run(["squeue", "-a", "-o", "%all"]).splitlines()
    names = header.lower().split("|")
    cells = [line.split("|") for line in lines]
    rows = {row["jobid"]: row for row in (dict(zip(names, c, strict=True)) for c in cells if len(c) == len(names))}
    return [{**rows[job["id"]], **_ours_to_say(job)} for job in found if job["id"] in rows]


def _ours_to_say(job: Doc) -> Doc:
    """The jobs run as whoever started the sandbox, Slurm without accounting knows no QOS, and faults have reasons."""
    said = {
        "user": jobs.USER,
        "uid": str(jobs.UID),
        "group": str(jobs.UID),
        "qos": job["qos"],
        "command": job["script"],
    }
    if job["state"] != "PENDING":
        return {**said, "partition": job["partition"]}
    reason = {"reason": job["reason"], "nodelist(reason)": f"({job['reason']})"}
    return {**said, **reason, "partition": job["partition"]}


def cancel(box: Box, job_id: str) -> None:
    """scancel. Raises SlurmError with its words."""
    up(box).run(["scancel", job_id])
