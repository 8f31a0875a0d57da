"""The watch over live jobs that go through real Slurm: it keeps the daemons alive, and plays the jobs' faults.

It runs as `python -m sandbox.jobs DIR` does for jobs without Slurm: one process, which outlives the server. Of the
faults of sfapi_jobs.py these work, by Slurm's own means wherever it has some:

    node_fail        `scontrol update NodeName=… State=DOWN`, on a node that no other job uses; the node comes back
    preempted        a job of a higher partition takes that node
    cancelled        scancel; the job that is cancelled before it does anything is held until then
    failed           the script exits with 1, or is killed with signal 9 after a `delay`
    time_limit       the job's EndTime is set to now; slurmctld looks at limits twice a minute only, so this takes long
    out_of_memory    the job is killed, and reported as OUT_OF_MEMORY
    pending_forever  the job is held; `reason` is reported; released when the fault is cleared
    refused, not_found_for, duplicate_submit, table_error, odd_state, outage, degraded
                     the API's own: no difference

"when": "after" (the job runs to its end, and the state is reported none the less) is played over Slurm's COMPLETED,
which cannot be changed. A job that is to end before it does anything is given a script that does nothing. Settings that
have no part in real Slurm: max_running (room is what the nodes have), kill_wait_s (3 s); limits are whole minutes.
"""

from __future__ import annotations

import time

from sandbox import jobs, slurm_jobs
from sandbox.box import Box, Doc
from sandbox.slurm import Slurm, SlurmError
from sandbox.slurm_config import FIRST, SPARE

PACE_S = 0.15


class SlurmWatch:
    def __init__(self, box: Box) -> None:
        self.box = box

    def step(self) -> bool:
        """One look at Slurm and every live job. True while there are any."""
        time.sleep(PACE_S)
        try:
            slurm_jobs.sync(self.box)
            ours = Slurm(self.box.dir)
            doomed = [job for job in jobs.live(self.box) if job.get("slurm") and job["fault"]]
            listed = {fault["id"] for fault in self.box.faults()} if doomed else set()
            for job in doomed:
                self._play(ours, job, listed)
        except SlurmError as error:  # a daemon has just been killed, or a job has just ended by itself
            print(time.strftime("%H:%M:%S"), error, flush=True)
        return bool(jobs.live(self.box))

    def _play(self, ours: Slurm, job: Doc, listed: set[int]) -> None:
        fault = job["fault"]
        kind = fault["kind"]
        if job.get("fault_done") or fault.get("when") == "after":
            return
        if kind == "pending_forever":
            if fault["id"] not in listed:
                ours.run(["scontrol", "release", job["id"]])
                self._done(job)
        elif kind == "cancelled" and jobs.never_runs(job):
            ours.run(["scancel", job["id"]])
            self._done(job)
        elif kind in jobs.END_STATES and job["state"] == "RUNNING" and time.time() >= _due(job):
            self._end(ours, job, kind)

    def _end(self, ours: Slurm, job: Doc, kind: str) -> None:
        if kind == "node_fail":
            name = f"NodeName={SPARE.name}"
            ours.run(["scontrol", "update", name, "State=DOWN", "Reason=sandbox: node_fail"])
            self._done(job)
            ours.run(["scontrol", "update", name, "State=RESUME"])
        elif kind == "preempted":
            options = [
                "-p",
                FIRST,
                "-w",
                SPARE.name,
                "--exclusive",
                "-J",
                "sandbox",
                "-o",
                "/dev/null",
                "--wrap",
                "true",
            ]
            ours.run(["sbatch", *options])
            self._done(job)
        elif kind == "time_limit":
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 1))
            ours.run(["scontrol", "update", f"JobId={job['id']}", f"EndTime={at}"])
            self._done(job)
        elif kind == "cancelled":
            ours.run(["scancel", job["id"]])
            self._done(job)
        elif kind == "failed" and jobs.never_runs(job):
            self._done(job)  # its script does that
        else:
            self._done(job, ended_as="OUT_OF_MEMORY" if kind == "out_of_memory" else None)
            ours.run(["scancel", "--signal=KILL", "--full", job["id"]])

    def _done(self, job: Doc, **more: object) -> None:
        jobs.write(self.box, {job["id"]: {"fault_done": True, **more}})


def _due(job: Doc) -> float:
    """Slurm's own start has whole seconds only."""
    return float(job["seen_running"]) + float(job["fault"].get("delay", 0))
