"""Jobs as squeue and sacct print them, with the columns that the Superfacility API hands on. All values are strings."""

from __future__ import annotations

import time

from sandbox.box import Doc
from sandbox.jobs import UID, USER

SHORT = {"PENDING": "PD", "RUNNING": "R"}


def _clock(at: float | None, none: str) -> str:
    return none if at is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))


def _duration(seconds: float) -> str:
    whole = int(seconds)
    days, rest = divmod(whole, 86400)
    text = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{text}" if days else text


def _elapsed(job: Doc) -> float:
    return 0.0 if job["start"] is None else (job["end"] or time.time()) - job["start"]


def squeue(job: Doc) -> Doc:
    """One line of squeue, of a job that waits or runs."""
    pending = job["state"] == "PENDING"
    end = None if pending else job["start"] + job["time_limit_s"]
    return {
        "account": job["account"], "tres_per_node": "N/A", "min_cpus": "1", "min_tmp_disk": "0",
        "end_time": _clock(end, "N/A"), "features": job["constraint"] or "(null)", "group": str(UID),
        "over_subscribe": "NO", "jobid": job["id"], "name": job["name"], "comment": job["comment"] or "(null)",
        "time_limit": _duration(job["time_limit_s"]), "min_memory": job["mem"] or "0", "req_nodes": "",
        "command": job["script"], "priority": "67684", "qos": job["qos"], "reason": job["reason"], "": "",
        "st": SHORT[job["state"]], "user": USER, "reservation": "(null)", "wckey": "(null)", "exc_nodes": "",
        "nice": "0",
        "s:c:t": "*:*:*", "exec_host": "n/a" if pending else "nid000001", "cpus": str(job["ntasks"]),
        "nodes": str(job["nodes"]), "dependency": "(null)", "array_job_id": job["id"], "sockets_per_node": "*",
        "cores_per_socket": "*", "threads_per_core": "*", "array_task_id": "N/A",
        "time_left": _duration(max(0.0, job["time_limit_s"] - _elapsed(job))), "time": _duration(_elapsed(job)),
        "nodelist": "" if pending else "nid000001", "contiguous": "0", "partition": job["partition"],
        "nodelist(reason)": f"({job['reason']})" if pending else "nid000001", "start_time": _clock(job["start"], "N/A"),
        "state": job["state"], "uid": str(UID), "submit_time": _clock(job["submit"], "N/A"),
        "licenses": job["licenses"] or "(null)", "core_spec": "N/A", "schednodes": "(null)", "work_dir": job["workdir"],
    }  # fmt: skip


EMPTY = (
    "admincomment", "alloctres", "associd", "avecpu", "avecpufreq", "avediskread", "avediskwrite", "avepages",
    "averss", "avevmsize", "blockid", "layout", "maxdiskread", "maxdiskreadnode", "maxdiskreadtask", "maxdiskwrite",
    "maxdiskwritenode", "maxdiskwritetask", "maxpages", "maxpagesnode", "maxpagestask", "maxrss", "maxrssnode",
    "maxrsstask", "maxvmsize", "maxvmsizenode", "maxvmsizetask", "mcslabel", "mincpu", "mincpunode", "mincputask",
    "ntasks", "reservation", "reservationid", "systemcomment", "tresusageinave", "tresusageinmax", "tresusageoutave",
    "tresusageoutmax", "tresusageintot", "tresusageouttot", "wckey",
)  # fmt: skip


def sacct(job: Doc) -> Doc:
    """One line of sacct (the job's own, without its steps)."""
    pending = job["state"] == "PENDING"
    state = job["state"]
    if state == "CANCELLED":
        state = f"CANCELLED by {0 if job['cancel_by'] is None else job['cancel_by']}"
    exit_code = f"{job['exit_code']}:{job['signal']}"
    elapsed = _elapsed(job)
    return {
        **dict.fromkeys(EMPTY, ""),
        "account": job["account"], "alloccpus": str(job["ntasks"]), "allocnodes": "0" if pending else str(job["nodes"]),
        "cluster": "perlmutter", "comment": job["comment"] or "", "constraints": job["constraint"] or "",
        "cputime": _duration(elapsed), "cputimeraw": str(int(elapsed)), "derivedexitcode": exit_code,
        "elapsed": _duration(elapsed), "elapsedraw": str(int(elapsed)), "eligible": _clock(job["submit"], "Unknown"),
        "end": _clock(job["end"], "Unknown"), "exitcode": exit_code, "flags": "SchedMain", "gid": str(UID),
        "group": USER,
        "jobid": job["id"], "jobidraw": job["id"], "jobname": job["name"], "ncpus": str(job["ntasks"]),
        "nnodes": str(job["nodes"]),
        "nodelist": "None assigned" if job["start"] is None else job.get("nodelist", "nid000001"),
        "priority": "67679", "partition": job["partition"], "qos": job["qos"], "qosraw": "16", "reason": job["reason"],
        "reqcpus": str(job["ntasks"]), "reqmem": job["mem"] or "0", "reqnodes": str(job["nodes"]),
        "reserved": None, "resvcpu": None, "resvcpuraw": None, "start": _clock(job["start"], "Unknown"), "state": state,
        "submit": _clock(job["submit"], "Unknown"), "suspended": "00:00:00", "systemcpu": "00:00:00",
        "timelimit": _duration(job["time_limit_s"]), "timelimitraw": str(job["time_limit_s"] // 60),
        "totalcpu": "00:00:00", "uid": str(UID), "user": USER, "usercpu": "00:00:00", "wckeyid": "0",
        "workdir": job["workdir"],
    }  # fmt: skip
