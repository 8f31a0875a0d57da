"""/sandbox: what a person or a test asks of the sandbox itself.

GET    /sandbox/status   {"dir", "pid", "requests": {"transfer POST /v0.10/transfer": n}, "executions": {service:
                         {id: n}}, "faults": […]}; requests are counted since this server started
GET    /sandbox/faults   the faults that are left and used up
POST   /sandbox/faults   add one (see faults.py) → {"id"}
DELETE /sandbox/faults   forget all
POST   /sandbox/reset    back to the first day
"""

from __future__ import annotations

import os
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from sandbox.box import Box
from sandbox.executions import executions


def routes(box: Box, counts: dict[str, int], reset: Callable[[], None]) -> list[BaseRoute]:
    def status(_: Request) -> JSONResponse:
        document = {"dir": str(box.dir), "pid": os.getpid(), "requests": counts, "executions": executions(box)}
        return JSONResponse({**document, "faults": box.faults()})

    async def add_fault(request: Request) -> JSONResponse:
        fault = await request.json()
        try:
            return JSONResponse({"id": box.add_fault(fault)}, 201)
        except ValueError as problem:
            return JSONResponse({"message": str(problem)}, 400)

    def list_faults(_: Request) -> JSONResponse:
        return JSONResponse({"faults": box.faults()})

    def clear_faults(_: Request) -> JSONResponse:
        box.clear_faults()
        return JSONResponse({"faults": []})

    def start_again(_: Request) -> JSONResponse:
        reset()
        counts.clear()
        return JSONResponse({"reset": True})

    return [
        Route("/status", status),
        Route("/faults", list_faults, methods=["GET"]),
        Route("/faults", add_fault, methods=["POST"]),
        Route("/faults", clear_faults, methods=["DELETE"]),
        Route("/reset", start_again, methods=["POST"]),
    ]
