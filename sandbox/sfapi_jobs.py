"""SFAPI's compute/jobs and tasks: submit, list (squeue, sacct), cancel.

The service's own faults, matched by job name in "path" and taken at the submit:
    node_fail, time_limit, preempted, out_of_memory, failed, cancelled, pending_forever    see jobs.py
    not_found_for     the job is in no answer for `delay` seconds (the real API's cache)
    duplicate_submit  one POST makes two jobs, as a client that retries POSTs does
    refused           sbatch says `text` (default: Invalid qos specification)
and, taken at a listing: table_error (status ERROR, output null; `text`), odd_state (state `state` for the job's row).
"""

from __future__ import annotations

import json
import re
import time
import uuid
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox import jobs, slurm, slurm_jobs
from sandbox.box import Box, Doc, Documents
from sandbox.faults import of_service
from sandbox.sfapi_auth import signed_in
from sandbox.sfapi_sbatch import job_document, parse
from sandbox.sfapi_tables import sacct, squeue
from sandbox.slurm import SlurmError
from sandbox.slurm_rules import UNKNOWN_QOS, Refused, check

MACHINES = ("perlmutter", "dtns", "dtn01")
CACHE_S = 10.0  # by so much may a "cached" answer (the API's default) lag behind
FATES = (*jobs.END_STATES, "pending_forever", "not_found_for", "duplicate_submit")


def routes(box: Box) -> list[BaseRoute]:
    async def submit(request: Request) -> Response:
        if (refusal := await run_in_threadpool(signed_in, box, request, "red")) is not None:
            return refusal
        if request.path_params["machine"] not in MACHINES:
            return JSONResponse({"detail": "Not found"}, 404)
        form = await request.form(max_part_size=8 << 20)
        script, is_path = form.get("job"), str(form.get("isPath", "")).lower()
        if not isinstance(script, str) or is_path not in ("true", "false"):
            return JSONResponse({"detail": [{"loc": ["body", "job"], "msg": "field required", "type": "missing"}]}, 422)
        return await run_in_threadpool(_submit, box, script, is_path == "true")

    def listing(request: Request) -> Response:
        if (refusal := signed_in(box, request)) is not None:
            return refusal
        filters: dict[str, str] = {}
        for pair in request.query_params.getlist("kwargs"):
            name, _, value = pair.partition("=")
            filters[name] = value
        return _listing(box, request, filters)

    def one(request: Request) -> Response:
        if (refusal := signed_in(box, request)) is not None:
            return refusal
        return _listing(box, request, {"jobid": request.path_params["jobid"]})

    def cancel(request: Request) -> Response:
        if (refusal := signed_in(box, request, "red")) is not None:
            return refusal
        job_id = request.path_params["jobid"]
        with box.transaction() as docs:
            job = docs.get("slurm_job", job_id)
            if job is None:
                unknown = f"scancel: error: Kill job error on job id {job_id}: Invalid job id specified"
                return _task(docs, {"status": "error", "output": None, "error": unknown})
            if job["end"] is None:
                docs.put("slurm_job", job_id, {**job, "cancel_by": jobs.UID})
        error = None
        if slurm.chosen(box):
            try:
                slurm_jobs.cancel(box, job_id)
            except SlurmError as said:
                error = str(said)
        jobs.ensure(box)
        return finished_task(
            box, {"status": "error" if error else "ok", "output": None if error else "", "error": error}
        )

    def task(request: Request) -> Response:
        if (refusal := signed_in(box, request)) is not None:
            return refusal
        found = box.get("sfapi_task", request.path_params["id"])
        return JSONResponse({"detail": "Not found"}, 404) if found is None else JSONResponse(found)

    return [
        Route("/compute/jobs/{machine}", submit, methods=["POST"]),
        Route("/compute/jobs/{machine}", listing, methods=["GET"]),
        Route("/compute/jobs/{machine}/{jobid}", one, methods=["GET"]),
        Route("/compute/jobs/{machine}/{jobid}", cancel, methods=["DELETE"]),
        Route("/tasks/{id}", task, methods=["GET", "DELETE"]),
    ]


def _task(docs: Documents, result: Doc) -> JSONResponse:
    """A finished task with this result (a JSON-encoded string, as the real one), and the answer that names it."""
    task_id = str(uuid.uuid4())
    docs.put("sfapi_task", task_id, {"id": task_id, "status": "completed", "result": json.dumps(result)})
    return JSONResponse({"task_id": task_id, "status": "OK", "error": None})


def finished_task(box: Box, result: Doc) -> JSONResponse:
    with box.transaction() as docs:
        return _task(docs, result)


def _submit(box: Box, script: str, is_path: bool) -> Response:
    if is_path:
        path = Path(script)
        if not path.resolve().is_relative_to(box.dir / "nersc") or not path.is_file():
            return finished_task(
                box, {"status": "error", "jobid": None, "error": f"sbatch: error: Unable to open file {script}"}
            )
        script = path.read_text()
    real = slurm.chosen(box)
    try:
        if not script.startswith("#!"):
            raise Refused(
                "sbatch: error: This does not look like a batch script.  The first\n"
                "sbatch: error: line must start with #! followed by the path to an interpreter."
            )
        options = parse(script, strict=not real)
        job = job_document(box, options)
        if not real:  # it refuses by the same table
            check(options, jobs.settings(box)["projects"])
        refused = box.take_fault(of_service("sfapi", ("refused",), job["name"]))
        if refused is not None:
            raise Refused(str(refused.get("text", UNKNOWN_QOS.text())))
        fate = box.take_fault(of_service("sfapi", FATES, job["name"]))
        job["fault"] = fate
        if fate and fate["kind"] == "pending_forever":
            job["reason"] = str(fate.get("reason", "QOSMaxJobsPerUserLimit"))
        if fate and fate["kind"] == "not_found_for":
            job["hidden_until"] = time.time() + float(fate.get("delay", 60))
        admit = slurm_jobs.admit if real else _admit
        twice = fate is not None and fate["kind"] == "duplicate_submit"
        job_ids = [admit(box, job, options, script) for _ in range(2 if twice else 1)]
    except Refused as error:
        return finished_task(box, {"status": "error", "jobid": None, "error": str(error)})
    jobs.ensure(box)
    return finished_task(box, {"status": "ok", "jobid": job_ids[-1], "error": None})


def _admit(box: Box, template: Doc, options: Doc, script: str) -> str:
    with box.transaction() as docs:
        counter = docs.get("slurm_counter", "jobid") or {"last": 33_000_000}
        job_id = str(counter["last"] + 1)
        docs.put("slurm_counter", "jobid", {"last": counter["last"] + 1})
    home = jobs.directory(box, job_id)
    home.mkdir(parents=True)
    (home / "script").write_text(script)
    (home / "script").chmod(0o700)
    stdout = _expand(options.get("stdout", "slurm-%j.out"), job_id, template["name"])
    stderr = _expand(options.get("stderr", stdout), job_id, template["name"])
    job = {**template, "id": job_id, "script": str(home / "script"), "stdout": stdout, "stderr": stderr}
    with box.transaction() as docs:
        docs.put("slurm_job", job_id, job)
        docs.put("slurm_live", job_id, {})
    return job_id


def _expand(pattern: str, job_id: str, name: str) -> str:
    words = {"j": job_id, "A": job_id, "x": name, "u": jobs.USER, "N": "nid000001", "%": "%"}
    return re.sub(r"%(.)", lambda m: words.get(m[1], m[0]), pattern)


def _listing(box: Box, request: Request, filters: dict[str, str]) -> Response:
    if request.path_params["machine"] not in MACHINES:
        return JSONResponse({"detail": "Not found"}, 404)
    jobs.ensure(box)
    command = "sacct" if request.query_params.get("sacct", "false").lower() == "true" else "squeue"
    fault = box.take_fault(of_service("sfapi", ("table_error",), command))
    if fault is not None:
        text = fault.get("text", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
        return JSONResponse({"status": "ERROR", "output": None, "error": text})
    real = slurm.chosen(box)
    if real:
        try:
            slurm_jobs.sync(box)
        except SlurmError as error:
            return JSONResponse({"status": "ERROR", "output": None, "error": str(error)})
    cached = request.query_params.get("cached", "true").lower() == "true"
    found = [j for j in _select(box, command, filters) if not cached or time.time() > j["submit"] + CACHE_S]
    found = [job for job in found if time.time() >= job["hidden_until"]]
    if command == "sacct":
        rows = [sacct(job) for job in found]
    else:
        rows = slurm_jobs.squeue(box, found) if real else [squeue(job) for job in found]
    for row in rows:
        odd = box.take_fault(of_service("sfapi", ("odd_state",), row.get("jobname", row.get("name"))))
        if odd is not None:
            row["state"] = odd["state"]
    return JSONResponse({"status": "OK", "output": rows, "error": None})


def _select(box: Box, command: str, filters: dict[str, str]) -> list[Doc]:
    """As the commands select: squeue knows live jobs only; sacct without ids or a start time begins at midnight."""
    if "jobid" in filters:
        ids = [i for i in filters["jobid"].split(",") if i]
        found = [job for job in (box.get("slurm_job", i) for i in ids) if job is not None]
    elif command == "squeue":
        found = jobs.live(box)
    else:
        since = _since(filters.get("starttime", ""))
        found = [j for j in box.all("slurm_job") if j["end"] is None or j["end"] >= since]
    if command == "squeue":
        found = [j for j in found if j["end"] is None]
    if "user" in filters:
        found = found if filters["user"] in (jobs.USER, str(jobs.UID)) else []
    for column in ("name", "account", "qos", "partition", "state"):
        if column in filters:
            found = [j for j in found if j[column] in filters[column].split(",")]
    return found


def _since(text: str) -> float:
    if match := re.fullmatch(r"now-(\d+)(days?|hours?|minutes?)?", text):
        unit = {"d": 86400, "h": 3600, "m": 60}.get((match[2] or "s")[0], 1)
        return time.time() - int(match[1]) * unit
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"):
        try:
            return time.mktime(time.strptime(text, form))
        except ValueError:
            continue
    return time.mktime((*time.localtime()[:3], 0, 0, 0, 0, 0, -1))
