"""What every answer of the Transfer service has in common: who may ask, error documents, paging, filters."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from sandbox import auth
from sandbox.box import Box, Doc
from sandbox.faults import of_service
from sandbox.transfer_collections import Collection, collections

RESOURCE_SERVER = "transfer.api.globus.org"


class Refusal(Exception):
    """An error document: HTTP status, code, message, and further fields."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message, self.more = status, code, message, more


class Call:
    """One authorized request: its path and query parameters, and its JSON body ({} without one)."""

    def __init__(self, box: Box, request: Request, body: Doc) -> None:
        self.box, self.body = box, body
        self.path: Mapping[str, str] = request.path_params
        self.query = request.query_params
        self.resource = request.url.path.removeprefix("/transfer")

    def whole_number(self, name: str, default: int, most: int) -> int:
        text = self.query.get(name, str(default))
        if not text.isdigit() or int(text) > most:
            raise Refusal(400, "BadRequest", f"invalid value of '{name}': {text}")
        return int(text)

    def result(self, kind: str, code: str, message: str, **more: Any) -> Doc:
        common = {"DATA_TYPE": kind, "code": code, "message": message}
        return {**common, "request_id": request_id(), "resource": self.resource, **more}

    def collection(self, key: str) -> Collection:
        """The collection of that id. Refusal when there is none, or by the fault "consent_required"."""
        found = collections(self.box).get(key)
        if found is None:
            raise Refusal(404, "EndpointNotFound", f"No such endpoint '{key}'")
        if self.box.take_fault(of_service("transfer", ("consent_required",), found.name)):
            scope = f"{auth.TRANSFER_SCOPE}[*https://auth.globus.org/scopes/{key}/data_access]"
            raise Refusal(403, "ConsentRequired", "Missing required data_access consent", required_scopes=[scope])
        return found


def request_id() -> str:
    return secrets.token_urlsafe(7)[:9].replace("-", "x").replace("_", "y")


def answering(box: Box, handler: Callable[[Call], Doc]) -> Callable[[Request], Any]:
    """A Starlette endpoint: checks the token, runs `handler` in a thread, writes its refusal as the service does."""

    async def endpoint(request: Request) -> JSONResponse:
        raw = await request.body()
        return await run_in_threadpool(_answer, box, request, raw, handler)

    return endpoint


def _answer(box: Box, request: Request, raw: bytes, handler: Callable[[Call], Doc]) -> JSONResponse:
    resource = request.url.path.removeprefix("/transfer")
    try:
        _authorize(box, request)
        try:
            body = json.loads(raw) if raw else {}
        except ValueError as error:
            raise Refusal(400, "BadRequest", "the body is not JSON") from error
        if not isinstance(body, dict):
            raise Refusal(400, "BadRequest", "the body is not a JSON object")
        document = handler(Call(box, request, body))
        return JSONResponse(document, 202 if document.get("code") == "Accepted" else 200)
    except Refusal as refusal:
        common = {"code": refusal.code, "message": refusal.message}
        document = {**common, "request_id": request_id(), "resource": resource, **refusal.more}
        return JSONResponse(document, refusal.status)


def _authorize(box: Box, request: Request) -> None:
    header = request.headers.get("authorization")
    if box.take_fault(of_service("transfer", ("token_revoked",))):
        auth.revoke(box, (header or "").partition(" ")[2])
    if auth.active_token(box, header, RESOURCE_SERVER) is None:
        raise Refusal(401, "AuthenticationFailed", "Token is not active")


# lists


def ordered(documents: Sequence[Doc], orderby: str | None) -> list[Doc]:
    """Sorted by "name ASC,size DESC"; absent values first."""
    found = list(documents)
    for clause in reversed((orderby or "").split(",")):
        field, _, direction = clause.strip().partition(" ")
        if field:
            if found and field not in found[0]:
                raise Refusal(400, "BadRequest", f"cannot order by '{field}'")
            found.sort(
                key=lambda d, f=field: (d[f] is not None, d[f] if d[f] is not None else 0),  # type: ignore[misc]
                reverse=direction.upper() == "DESC",
            )
    return found


def matching(documents: Sequence[Doc], clauses: str, lists: Sequence[str]) -> list[Doc]:
    """Those that fulfil all clauses of "type:file/name:~*.h5". `lists`: the fields with a comma-separated choice.

    Text: "x" contains, "=x" is, "~pattern", "!x" is not, "!~pattern". Times: "from,to", either may be empty.
    """
    found = list(documents)
    for clause in clauses.split("/"):
        field, colon, wanted = clause.partition(":")
        if not colon or (found and field not in found[0]):
            raise Refusal(400, "BadRequest", f"invalid filter clause: '{clause}'")
        found = [document for document in found if _fulfils(document[field], field, wanted, lists)]
    return found


def _fulfils(value: Any, field: str, wanted: str, lists: Sequence[str]) -> bool:
    if field in lists:
        return str(value) in wanted.split(",")
    if field.endswith(("_time", "_modified", "deadline")):
        return value is not None and _within(str(value), wanted)
    text = "" if value is None else str(value)
    if wanted[:1] == "!":
        return not _fulfils(value, field, wanted[1:] if wanted[1:2] in ("~", "=") else "=" + wanted[1:], lists)
    if wanted[:1] == "~":
        return fnmatchcase(text.lower(), wanted[1:].lower())
    if wanted[:1] == "=":
        return text == wanted[1:]
    return wanted.lower() in text.lower()


def _within(value: str, wanted: str) -> bool:
    first, _, last = wanted.partition(",")
    moment = datetime.fromisoformat(value)
    return all(
        not bound or (moment >= _aware(bound) if lower else moment <= _aware(bound))
        for bound, lower in ((first, True), (last, False))
    )


def _aware(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refusal(400, "BadRequest", f"not a time: '{text}'") from error
    return moment if moment.tzinfo else moment.astimezone()
