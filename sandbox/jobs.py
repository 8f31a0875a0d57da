"""Slurm's part of the sandbox: batch jobs as local processes, under Slurm's job states.

The server writes a job (PENDING) into the box; one supervisor process per sandbox starts it when there is room, watches
it, and writes how it ended. Supervisor and jobs outlive the server. `python -m sandbox.jobs DIR` is the supervisor.

Below DIR/nersc/jobs/<id>/: script; claim ("pid starttime", made by the job itself, exclusively: a job is never run
twice); exit (its exit code). So a killed supervisor loses nothing: the next one reads how jobs ended without it, goes
on watching those that run, and declares NODE_FAIL for those that vanished.

What a job's document may ask for as "fault" (set at the submit, see sfapi_jobs.py):
    node_fail, time_limit, preempted, out_of_memory, failed, cancelled
                     when "before" (default): the job is ended that way `delay` seconds after its start (0: before it
                     does anything); "after": it runs to its end, and the state is reported none the less
    pending_forever  waits, with Slurm's `reason`, until the fault is cleared
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Protocol

from sandbox import workers
from sandbox.box import Box, Doc
from sandbox.executions import count_execution

USER = "als"
UID = 90210
END_STATES = {
    "node_fail": "NODE_FAIL", "time_limit": "TIMEOUT", "preempted": "PREEMPTED", "out_of_memory": "OUT_OF_MEMORY",
    "failed": "FAILED", "cancelled": "CANCELLED",
}  # fmt: skip
DUPLICATE = 17  # als-job found another job of its key at work: not an execution
IDLE_S = 20.0
STARTED_S = 60.0  # after which a process that lives and has made no claim is given up

# $1 the job's directory, $2 the interpreter or "". TERM is for the script; this shell stays to note how it ended.
WRAPPER = r"""
dir=$1; run=$2
read -r stat < /proc/$$/stat; set -- ${stat##*) }
set -o noclobber
printf '%s %s\n' $$ "${20}" > "$dir/claim" || exit 0
trap : TERM INT USR1 USR2
if [ -n "$run" ]; then "$run" "$dir/script"; else "$dir/script"; fi
printf '%s\n' $? > "$dir/exit"
"""


def configure(box: Box, **settings: object) -> None:
    """max_running, projects, colour, kill_wait_s, quiet: how this sandbox's Slurm and API client are set up."""
    with box.transaction() as docs:
        docs.put("slurm_config", "config", {**(docs.get("slurm_config", "config") or {}), **settings})


def settings(box: Box) -> Doc:
    defaults: Doc = {
        "max_running": os.cpu_count() or 1,
        "projects": ["als", "amsc"],
        "colour": "red",
        "kill_wait_s": 3.0,
    }
    return {**defaults, **(box.get("slurm_config", "config") or {})}


def directory(box: Box, job_id: str) -> Path:
    return box.dir / "nersc" / "jobs" / job_id


def login_environment(box: Box) -> dict[str, str]:
    """What a user of the machine finds set; jobs see nothing of the server's own environment."""
    nersc = box.dir / "nersc"
    return {
        workers.MARK: str(box.dir),
        "PATH": f"{nersc / 'bin'}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(nersc / "home"), "USER": USER, "LANG": "C.UTF-8", "NERSC_HOST": "perlmutter",
        "SCRATCH": str(nersc / "scratch"), "CFS": str(nersc / "cfs"),
    }  # fmt: skip


def live(box: Box) -> list[Doc]:
    """Jobs that wait or run, oldest first."""
    with box._connect() as db:
        rows = db.execute(
            "select j.doc from docs l join docs j on j.kind = 'slurm_job' and j.id = l.id"
            " where l.kind = 'slurm_live' order by l.seq, l.rowid"
        ).fetchall()
    return [json.loads(row[0]) for row in rows]


def started(pid: int) -> str | None:
    """When this process started, in the kernel's ticks; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def end_of_other_kind(box: Box, real: bool) -> None:
    """Jobs that were live when the folder had the other kind of Slurm, and was taken down: their machine is gone."""
    strangers = [job["id"] for job in live(box) if job.get("slurm", False) != real]
    write(box, {job_id: ended("NODE_FAIL") for job_id in strangers})


_last_started: dict[Path, tuple[int, str | None]] = {}


def ensure(box: Box) -> None:
    """Start the supervisor when there is something to watch and none is at work. Cheap; called at every request."""
    with box._connect() as db:
        if db.execute("select 1 from docs where kind = 'slurm_live' limit 1").fetchone() is None:
            return
    pid, ticks = _last_started.get(box.dir, (0, None))
    if pid and ticks is not None and started(pid) == ticks:
        return
    if (lock := _lock(box)) is not None:
        lock.close()
        pid = workers.start(box.dir, "sandbox.jobs", [str(box.dir)], box.dir / "nersc" / "supervisor.log")
        _last_started[box.dir] = (pid, started(pid))


def _lock(box: Box) -> IO[str] | None:
    lock = (box.dir / "nersc" / "supervisor.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


class Supervisor:
    def __init__(self, box: Box) -> None:
        self.box = box
        self.children: dict[str, tuple[subprocess.Popen[bytes], float]] = {}

    def step(self) -> bool:
        """One look at every job that waits or runs. True while there are any."""
        jobs = live(self.box)
        config = settings(self.box)
        listed = {f["id"] for f in self.box.faults()} if any(j["fault"] for j in jobs) else set()
        changes: dict[str, Doc] = {}
        running = sum(job["state"] == "RUNNING" for job in jobs)
        for job in jobs:
            if job["state"] == "RUNNING":
                changes[job["id"]] = self._watch(job, float(config["kill_wait_s"]))
            elif job["cancel_by"] is not None:
                changes[job["id"]] = ended("CANCELLED")
            elif (job["fault"] or {}).get("kind") == "pending_forever" and job["fault"]["id"] in listed:
                continue
            elif running < int(config["max_running"]):
                running += 1
                changes[job["id"]] = {"state": "RUNNING", "start": time.time(), "reason": "None"}
            else:
                reason = "Resources" if running == int(config["max_running"]) else "Priority"
                running += 1
                changes[job["id"]] = {} if job["reason"] == reason else {"reason": reason}
        write(self.box, {job_id: change for job_id, change in changes.items() if change})
        for job in jobs:
            if changes.get(job["id"], {}).get("state") == "RUNNING" and not never_runs(job):
                self._start({**job, **changes[job["id"]]})
        self._reap({job["id"] for job in jobs})
        return bool(jobs)

    def _start(self, job: Doc) -> None:
        """Run the job's script in a session of its own. Harmless when it runs already: only one makes the claim."""
        home = directory(self.box, job["id"])
        cwd = Path(job["workdir"])
        if not cwd.is_dir():
            cwd = self.box.dir / "nersc" / "home"
        script = home / "script"
        shebang = script.open("rb").readline(200)
        run = "/bin/bash" if b"sh" in shebang else ""
        try:
            with (
                (cwd / job["stdout"]).open("ab") as out,
                (cwd / job["stderr"]).open("ab") as err,
            ):
                child = subprocess.Popen(
                    ["/bin/bash", "-c", WRAPPER, "slurmstepd", str(home), run],
                    cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                    env=self._environment(job),
                )  # fmt: skip
        except OSError as error:  # slurmd cannot open the output file
            write(self.box, {job["id"]: {**ended("FAILED", signalled=53), "admin_comment": str(error)}})
            return
        self.children[job["id"]] = (child, time.monotonic())

    def _environment(self, job: Doc) -> dict[str, str]:
        return {
            **login_environment(self.box),
            "SLURM_JOB_ID": job["id"], "SLURM_JOBID": job["id"], "SLURM_JOB_NAME": job["name"],
            "SLURM_JOB_ACCOUNT": job["account"], "SLURM_JOB_QOS": job["qos"], "SLURM_JOB_USER": USER,
            "SLURM_JOB_NUM_NODES": str(job["nodes"]), "SLURM_NNODES": str(job["nodes"]),
            "SLURM_NTASKS": str(job["ntasks"]), "SLURM_JOB_NODELIST": "nid000001", "SLURM_CLUSTER_NAME": "perlmutter",
            "SLURM_SUBMIT_DIR": str(self.box.dir / "nersc" / "home"),
            "SLURM_JOB_START_TIME": str(int(job["start"])),
            "SLURM_JOB_END_TIME": str(int(job["start"] + job["time_limit_s"])), "SLURM_RESTART_COUNT": "0",
        }  # fmt: skip

    def _watch(self, job: Doc, kill_wait_s: float) -> Doc:
        """What changes in a running job's document now."""
        now = time.time()
        fault = job["fault"] or {}
        due = fault.get("kind") in END_STATES and fault.get("when") != "after"
        if due and now >= job["start"] + float(fault.get("delay", 0)):
            self._signal(job, signal.SIGKILL)
            return ended(END_STATES[fault["kind"]], code=1 if fault["kind"] == "failed" else 0)
        if never_runs(job):
            return {}
        home = directory(self.box, job["id"])
        code = _number(home / "exit")
        if code is not None:
            state = job["ending"] or ("COMPLETED" if code == 0 else "FAILED")
            if fault.get("kind") in END_STATES:
                state = END_STATES[fault["kind"]]
            self._signal(job, signal.SIGKILL, leftovers=True)
            return ended(state, 0, code - 128) if code > 128 else ended(state, code)
        if self._gone(job):
            code = _number(home / "exit")  # written between the two looks
            if code is None:
                return ended(job["ending"] or "NODE_FAIL", signalled=9 if job["ending"] else 0)
            return {}
        if job["kill_at"] is not None:
            if now >= job["kill_at"]:
                self._signal(job, signal.SIGKILL)
            return {}
        if job["cancel_by"] is not None or now >= job["start"] + job["time_limit_s"]:
            self._signal(job, signal.SIGTERM)
            return {"ending": "CANCELLED" if job["cancel_by"] is not None else "TIMEOUT", "kill_at": now + kill_wait_s}
        if job["warn"] and not job["warned"] and now >= job["start"] + job["time_limit_s"] - job["warn"]["seconds"]:
            self._warn(job)
            return {"warned": True}
        return {}

    def _process(self, job: Doc) -> tuple[int, str] | None:
        """The job's shell, as it noted it itself; None before that."""
        try:
            words = (directory(self.box, job["id"]) / "claim").read_text().split()
        except FileNotFoundError:
            return None
        return (int(words[0]), words[1]) if len(words) == 2 else None

    def _gone(self, job: Doc) -> bool:
        process = self._process(job)
        if process is not None:
            return started(process[0]) != process[1]
        if job["id"] not in self.children:  # a supervisor was killed between noting the start and starting
            self._start(job)
            return False
        child, since = self.children[job["id"]]
        died = child.poll() is not None and not (directory(self.box, job["id"]) / "claim").exists()
        return died or time.monotonic() > since + STARTED_S

    def _signal(self, job: Doc, number: int, leftovers: bool = False) -> None:
        """To every process of the job. `leftovers`: also when its shell has ended and we still hold its pid."""
        process = self._process(job)
        if process is None:
            return
        child = self.children.get(job["id"])
        ours = leftovers and child is not None and child[0].pid == process[0] and child[0].returncode is None
        if started(process[0]) == process[1] or ours:
            try:
                os.killpg(process[0], number)
            except ProcessLookupError:
                pass

    def _warn(self, job: Doc) -> None:
        """--signal=B:NAME@seconds goes to the batch script alone."""
        process = self._process(job)
        if process is None or started(process[0]) != process[1]:
            return
        for pid in Path(f"/proc/{process[0]}/task/{process[0]}/children").read_text().split():
            try:
                os.kill(int(pid), signal.Signals[f"SIG{job['warn']['name'].removeprefix('SIG')}"])
            except ProcessLookupError:
                pass

    def _reap(self, known: set[str]) -> None:
        for job_id in [i for i in self.children if i not in known]:
            if self.children[job_id][0].poll() is not None:
                del self.children[job_id]


def never_runs(job: Doc) -> bool:
    fault = job["fault"] or {}
    return fault.get("kind") in END_STATES and fault.get("when") != "after" and not fault.get("delay")


def write(box: Box, changes: dict[str, Doc]) -> None:
    """Put what has changed into the jobs' documents, and count what began its work. An end is never taken back."""
    if not changes:
        return
    with box.transaction() as docs:
        for job_id, change in changes.items():
            job = docs.get("slurm_job", job_id)
            if job is None or job["end"] is not None:
                continue
            counted = job.get("counted", False)
            if change.get("start") is not None and not counted and not never_runs(job):
                count_execution(docs, "sfapi", job["name"])
                change, counted = {**change, "counted": True}, True
            docs.put("slurm_job", job_id, {**job, **change})
            if change.get("end"):
                docs.delete("slurm_live", job_id)
                if change["exit_code"] == DUPLICATE and counted:
                    work = docs.get("execution", f"sfapi {job['name']}")
                    if work is not None:
                        docs.put("execution", f"sfapi {job['name']}", {**work, "count": work["count"] - 1})


def ended(state: str, code: int = 0, signalled: int = 0) -> Doc:
    return {"state": state, "end": time.time(), "exit_code": code, "signal": signalled, "reason": "None"}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


class Watch(Protocol):
    """Who looks after the live jobs: Supervisor here, or slurm_watch.SlurmWatch where they go through real Slurm."""

    def step(self) -> bool: ...


def supervise(box: Box, supervisor: Watch) -> None:
    """Until there has been nothing to do for a while, or the folder is gone. At once when another one is at work."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    idle_since = time.monotonic()
    while (lock := _lock(box)) is not None:
        while (box.dir / "state.db").exists() and time.monotonic() < idle_since + IDLE_S:
            busy = supervisor.step()
            if busy:
                idle_since = time.monotonic()
            if select.select([readable], [], [], 0.03 if busy else 0.1)[0]:
                os.read(readable, 4096)
        lock.close()
        if not (box.dir / "state.db").exists() or not live(box):
            return  # whoever submits now finds the lock free, and starts the next one
        idle_since = time.monotonic()


def main(directory: str) -> None:
    from sandbox import slurm, slurm_watch

    box = Box(directory)
    supervise(box, slurm_watch.SlurmWatch(box) if slurm.chosen(box) else Supervisor(box))


if __name__ == "__main__":
    main(sys.argv[1])
