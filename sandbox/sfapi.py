"""NERSC's Superfacility API: /sfapi/token and /sfapi/api/v1.2/…

The parts: sfapi_auth (sign-in), sfapi_jobs (compute and tasks) over jobs (Slurm), sfapi_files (utilities); here are
set-up, the account, and the machines' status. Faults of this service beside those of its parts:

    outage            as long as it is listed: `machine` (default perlmutter) is unavailable; with "planned": true it is
                      announced instead, and with a `start_at` in the past it has begun. `start_at`, `end_at`
                      (ISO 8601), `text`
    degraded          as long as it is listed: `machine` says degraded, and works
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from sandbox import hpss, jobs, sfapi_auth, sfapi_files, sfapi_jobs, slurm, slurm_jobs
from sandbox.box import Box, Doc
from sandbox.sfapi_auth import signed_in

SYSTEMS = {
    "perlmutter": ("Perlmutter", "compute"), "dtns": ("Data Transfer Nodes", "compute"), "dtn01": ("DTN 1", "compute"),
    "archive": ("HPSS Archive", "filesystem"), "global_common": ("Global Common", "filesystem"),
    "community": ("Community File System", "filesystem"), "globus": ("Globus", "service"),
}  # fmt: skip
KEY_DAYS = 30


def setup(box: Box) -> Doc:
    """Disks, tape, the API client with its key file, and a look after jobs that run without a supervisor."""
    for name in ("jobs", "home", "scratch", "cfs"):
        (box.dir / "nersc" / name).mkdir(parents=True, exist_ok=True)
    hpss.install(box)
    key = sfapi_auth.write_key(box)
    if box.get("sfapi_key_expires", "at") is None:
        box.put("sfapi_key_expires", "at", {"at": time.time() + KEY_DAYS * 86400})
    if slurm.chosen(box):
        slurm_jobs.up(box)
    jobs.end_of_other_kind(box, slurm.chosen(box))
    jobs.ensure(box)
    return {
        "key_file": str(key), "client_id": sfapi_auth.client(box)["client_id"], "user": jobs.USER,
        "account": jobs.settings(box)["projects"][0], "root": str(box.dir / "nersc"),
        "token_path": "/sfapi/token", "api_path": "/sfapi/api/v1.2",
    }  # fmt: skip


def routes(box: Box) -> list[BaseRoute]:
    async def token(request: Request) -> Response:
        return await sfapi_auth.token(box, request)

    def status(_: Request) -> Response:
        return JSONResponse([_status(box, name) for name in SYSTEMS])

    def status_of(request: Request) -> Response:
        name = request.path_params["name"]
        return JSONResponse(_status(box, name)) if name in SYSTEMS else JSONResponse({"detail": "Not found"}, 404)

    def outages(_: Request) -> Response:
        return JSONResponse([_outages(box, name, planned=False) for name in SYSTEMS])

    def outages_of(request: Request) -> Response:
        return JSONResponse(_outages(box, request.path_params["name"], planned=False))

    def planned(_: Request) -> Response:
        return JSONResponse([_outages(box, name, planned=True) for name in SYSTEMS])

    def planned_of(request: Request) -> Response:
        return JSONResponse(_outages(box, request.path_params["name"], planned=True))

    def user(request: Request) -> Response:
        own = {
            "uid": jobs.UID,
            "name": jobs.USER,
            "firstname": "ALS",
            "lastname": "Beamline",
            "email": "als@example.org",
        }
        return signed_in(box, request) or JSONResponse(own)

    def projects(request: Request) -> Response:
        names = jobs.settings(box)["projects"]
        known = [
            {"id": i, "description": name.upper(), "repo_name": name, "iris_role": "user", "hours_given": 1000.0,
             "hours_used": 10.0}
            for i, name in enumerate(names, 1)
        ]  # fmt: skip
        return signed_in(box, request) or JSONResponse(known)

    def roles(request: Request) -> Response:
        names = jobs.settings(box)["projects"]
        known = [{"id": i, "description": n, "repo_name": n, "iris_role": "user"} for i, n in enumerate(names, 1)]
        return signed_in(box, request) or JSONResponse(known)

    def groups(request: Request) -> Response:
        own = {"gid": jobs.UID, "name": jobs.USER, "users": [{"uid": jobs.UID, "name": jobs.USER}]}
        return signed_in(box, request) or JSONResponse({"groups": [own]})

    def clients(request: Request) -> Response:
        expires = (box.get("sfapi_key_expires", "at") or {"at": 0.0})["at"]
        own = {
            "name": "als-platform", "clientId": sfapi_auth.client(box)["client_id"],
            "expiresAt": _iso(datetime.fromtimestamp(expires, UTC)), "comments": None,
        }  # fmt: skip
        return signed_in(box, request) or JSONResponse([own])

    api: list[BaseRoute] = [
        Route("/status", status), Route("/status/", status),
        Route("/status/outages", outages), Route("/status/outages/", outages),
        Route("/status/outages/planned", planned), Route("/status/outages/planned/", planned),
        Route("/status/outages/planned/{name}", planned_of), Route("/status/outages/{name}", outages_of),
        Route("/status/{name}", status_of),
        Route("/account/", user), Route("/account", user), Route("/account/projects", projects),
        Route("/account/roles", roles), Route("/account/groups", groups), Route("/account/clients", clients),
        *sfapi_jobs.routes(box), *sfapi_files.routes(box),
    ]  # fmt: skip
    return [Route("/token", token, methods=["POST"]), Mount("/api/v1.2", routes=api)]


def _listed(box: Box, kind: str, name: str) -> list[Doc]:
    return [
        f
        for f in box.faults()
        if f.get("service") == "sfapi"
        and f.get("kind") == kind
        and f["left"]
        and f.get("machine", "perlmutter") == name
    ]


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def _status(box: Box, name: str) -> Doc:
    full_name, system_type = SYSTEMS[name]
    down = [f for f in _listed(box, "outage", name) if not f.get("planned")]
    state, words = "active", "System is active"
    if down:
        state, words = "unavailable", str(down[0].get("text", "Unavailable"))
    elif degraded := _listed(box, "degraded", name):
        state, words = "degraded", str(degraded[0].get("text", "System Degraded"))
    return {
        "name": name, "full_name": full_name, "description": words, "system_type": system_type,
        "notes": [] if state == "active" else [words], "status": state, "updated_at": _iso(datetime.now(UTC)),
    }  # fmt: skip


def _outages(box: Box, name: str, planned: bool) -> list[Doc]:
    now = _iso(datetime.now(UTC))
    return [
        {
            "name": name, "start_at": f.get("start_at", now), "end_at": f.get("end_at"),
            "description": f.get("text", "System maintenance" if planned else "Unavailable"),
            "notes": f.get("text", ""),
            "status": "Planned" if planned else "Active", "swo": "Sched Maint" if planned else "System Wide Outage",
            "update_at": now,
        }
        for f in _listed(box, "outage", name)
        if bool(f.get("planned")) == planned
    ]  # fmt: skip
