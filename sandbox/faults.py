"""Faults of the wire, for every service: what goes wrong between a client and a facility that works.

A fault is data, added by `box.add_fault` or POST /sandbox/faults:

    {"service": "transfer",                 auth | transfer | sfapi | scicat | *
     "route": "POST /v0.10/transfer",       glob on "METHOD path", the path without the service's prefix; default *
     "kind": "status",                      see below
     "when": "before",                      before: the handler is not run. after: it runs, its effect stays, and the
                                            answer is lost - that finds the bugs
     "count": 1,                            how often; < 0 for ever
     "delay": 0}                            seconds that it takes

Kinds handled here:

    status     answer `code` (default 503) with the JSON `body` and the `headers` given
    429        answer 429 with Retry-After: `retry_after` (default 1)
    timeout    be silent for `delay` seconds, then close the connection
    drop       close the connection without an answer
    slow       answer properly, after `delay` seconds
    die        the server itself: kill -9, and whoever supervises it starts it again

All other kinds (fault_kinds.py) belong to the services, which take them with `box.take_fault` where they act; each says
which in its module. For those, "path" is a glob on the file concerned, where there is one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.box import Box, Doc
from sandbox.fault_kinds import OWN, WIRE


def of_service(service: str, kinds: tuple[str, ...], path: str | None = None) -> Callable[[Doc], bool]:
    """A `matches` for `box.take_fault`: a service's own kind, concerning `path` (faults without a path always do)."""
    assert OWN[service].issuperset(kinds), "or nobody could add it"

    def matches(fault: Doc) -> bool:
        return (
            fault.get("service") in (service, "*")
            and fault.get("kind") in kinds
            and ("path" not in fault or (path is not None and fnmatchcase(path, str(fault["path"]))))
        )

    return matches


class FaultMiddleware:
    """Counts requests by service and route, and plays the faults of the wire. The outermost ASGI application."""

    def __init__(self, app: ASGIApp, box: Box, prefixes: Mapping[str, str], counts: dict[str, int]) -> None:
        self.app, self.box, self.prefixes, self.counts = app, box, dict(prefixes), counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/sandbox/"):
            await self.app(scope, receive, send)
            return
        service, route = self._name(scope)
        self.counts[f"{service} {route}"] = self.counts.get(f"{service} {route}", 0) + 1
        fault = await run_in_threadpool(self.box.take_fault, _matches(service, route))
        if fault is None:
            await self.app(scope, receive, send)
        elif fault["kind"] == "slow" and fault.get("when") != "after":
            await asyncio.sleep(float(fault.get("delay", 1)))
            await self.app(scope, receive, send)
        else:
            answer: list[Message] = []
            if fault.get("when") == "after" or fault["kind"] == "slow":
                await self.app(scope, receive, _keep(answer))
            else:
                await _read_all(receive)
            await _play(fault, answer, send)

    def _name(self, scope: Scope) -> tuple[str, str]:
        """("transfer", "POST /v0.10/transfer"); paths of no service are "other"."""
        path = scope["path"]
        for service, prefix in self.prefixes.items():
            if path == prefix or path.startswith(prefix + "/"):
                return service, f"{scope['method']} {path[len(prefix) :] or '/'}"
        return "other", f"{scope['method']} {path}"


def _matches(service: str, route: str) -> Callable[[Doc], bool]:
    def matches(fault: Doc) -> bool:
        return (
            str(fault.get("kind")) in WIRE
            and fault.get("service") in (service, "*")
            and fnmatchcase(route, str(fault.get("route", "*")))
        )

    return matches


def _keep(answer: list[Message]) -> Send:
    async def send(message: Message) -> None:
        answer.append(message)

    return send


async def _read_all(receive: Receive) -> None:
    """A client that is still sending its request would take a closed connection for another trouble."""
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return


async def _play(fault: Doc, answer: list[Message], send: Send) -> None:
    await asyncio.sleep(float(fault.get("delay", 0)))
    kind = str(fault["kind"])
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "slow":
        for message in answer:
            await send(message)
    elif kind in ("drop", "timeout"):
        await _drop(send)
    elif kind == "429":
        body = {"code": "TooManyRequests", "message": "too many requests; the sandbox was asked to say so"}
        await _answer(send, 429, body, {"Retry-After": str(fault.get("retry_after", 1))})
    else:
        body = fault.get("body", {"code": "ServiceUnavailable", "message": "the sandbox was asked to fail"})
        await _answer(send, int(fault.get("code", 503)), body, fault.get("headers", {}))


async def _drop(send: Send) -> None:
    """Close the connection as a dying server does. ASGI has no word for it, so this reaches through to uvicorn's."""
    cycle: Any = getattr(send, "__self__", None)
    if cycle is None or not hasattr(cycle, "transport"):
        raise RuntimeError("a connection can only be dropped when uvicorn calls this middleware directly")
    cycle.transport.close()
    while not cycle.disconnected:
        await asyncio.sleep(0.01)


async def _answer(send: Send, status: int, body: Any, headers: Mapping[str, str]) -> None:
    content = json.dumps(body).encode() if not isinstance(body, str) else body.encode()
    named = {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    pairs = [(k.lower().encode(), str(v).encode()) for k, v in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})
