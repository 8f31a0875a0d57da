"""SciCat's backend 4.5.0 on loopback: /scicat/api/v3/…, answer for answer as it was recorded.

`tests/contracts/scicat/answers.jsonl` is the measure. Paths are case-insensitive, a pid is one segment with %2F in it,
and the accounts are those of scicat_accounts.json. A token that is unknown, expired or junk is nobody's: reads then
find nothing (200 with an empty list, 403 or 404), never 401.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox import scicat_query as query
from sandbox.box import Box
from sandbox.scicat_attachments import Attachments
from sandbox.scicat_datasets import NOBODY, Account, Datasets, HttpError, nest
from sandbox.scicat_page import pages as pages
from sandbox.scicat_records import Records

Doc = dict[str, Any]
ACCOUNTS = Path(__file__).with_name("scicat_accounts.json")
TOKEN_LIFE_S = 3600
LARGEST_BODY = 16 * 2**20


def setup(box: Box) -> Doc:
    """The accounts, and which of them the platform uses."""
    accounts = {a["username"]: a for a in json.loads(ACCOUNTS.read_text())}
    used = accounts["ingestor"]
    return {"username": used["username"], "password": used["password"], "accounts": list(accounts.values())}


def routes(box: Box) -> list[BaseRoute]:
    api = Api(box)
    verbs = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return [Route("/{path:path}", _endpoint(api), methods=verbs)]


def _endpoint(api: Api) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(api.answer, request, await request.body())

    return endpoint


class Call:
    """One request, taken apart: verb, path segments (decoded, after /v3), query, body and account."""

    def __init__(self, request: Request, content: bytes, accounts: Mapping[str, Account], box: Box) -> None:
        raw = request.scope.get("raw_path") or request.url.path.encode()
        self.path = raw.decode("latin-1").partition("?")[0]
        self.path = "/api" + self.path.split("/api", 1)[-1]
        asked = request.scope.get("query_string", b"").decode("latin-1")
        self.url = self.path + (f"?{asked}" if asked else "")
        self.segments = [unquote(part) for part in self.path.split("/")[3:] if part]
        self.versioned = self.path.lower().startswith("/api/v3/")
        self.verb = request.method
        self.query = {k: v[-1] for k, v in parse_qs(asked, keep_blank_values=True).items()}
        self.headers = request.headers
        self._content = content
        self.account = NOBODY
        token = self.headers.get("authorization", "").removeprefix("Bearer ").strip() or self.query.get("access_token")
        held = box.get("scicat_token", token) if token else None
        if held and held["expires"] > time.time():
            self.account = accounts[held["username"]]

    def body(self) -> Any:
        if len(self._content) > LARGEST_BODY:
            raise HttpError(413, {"statusCode": 413, "message": "request entity too large"})
        if not self._content:
            return None
        try:
            return json.loads(self._content, parse_float=_js_number, parse_constant=_refuse_constant)
        except ValueError as wrong:
            raise nest(400, f"Invalid JSON: {wrong}") from None

    def json_of(self, name: str) -> Doc:
        text = self.query.get(name) or self.headers.get(name) or "{}"
        try:
            found = json.loads(text)
        except json.JSONDecodeError as wrong:
            if "property name" in wrong.msg:
                why = f"Expected property name or '}}' in JSON at position {wrong.pos}"
            else:
                why = f"Unexpected token in JSON at position {wrong.pos}"
            raise nest(400, f"Invalid JSON in {name}: {why}") from None
        return found if isinstance(found, dict) else {}

    def list_of(self, name: str) -> list[Any]:
        found = json.loads(self.query.get(name) or "[]")
        return found if isinstance(found, list) else []


class Api:
    def __init__(self, box: Box) -> None:
        self.box, self.datasets, self.records = box, Datasets(box), Records(box)
        self.people = json.loads(ACCOUNTS.read_text())
        self.accounts = {p["username"]: _account(p) for p in self.people}
        self.attachments = Attachments(box, self.datasets)
        d, a, w = self.datasets, self.attachments, _Written
        self.table: list[tuple[str, list[str], Callable[..., Any]]] = [
            (verb, pattern.split("/"), work)
            for verb, pattern, work in (
                ("POST", "auth/login", lambda c: w(self.log_in(c.body()))),
                ("POST", "users/login", lambda c: w(None)),
                ("GET", "auth/whoami", self.who_am_i),
                ("GET", "health", lambda c: {"status": "ok", "info": UP, "error": {}, "details": UP}),
                ("POST", "datasets", lambda c: w(d.create(c.account, c.body() or {}))),
                ("GET", "datasets", lambda c: d.list(c.account, c.json_of("filter"))),
                ("POST", "datasets/isvalid", self.is_valid),
                ("GET", "datasets/findone", lambda c: next(iter(d.list(c.account, c.json_of("filter"))), None)),
                ("GET", "datasets/count", self.count),
                ("GET", "datasets/fullquery", lambda c: query.page(self.full(c), c.json_of("limits"))),
                ("GET", "datasets/fullfacet", lambda c: query.facets(self.full(c), c.list_of("facets"))),
                ("GET", "datasets/metadatakeys", lambda c: query.metadata_keys(self.full(c))),
                ("GET", "datasets/(.+)", lambda c, pid: d.get(c.account, pid)),
                ("PATCH", "datasets/(.+)", lambda c, pid: d.patch(c.account, pid, c.body() or {}, _since(c))),
                ("DELETE", "datasets/(.+)", lambda c, pid: d.delete(c.account, pid)),
                ("GET", "datasets/(.+)/thumbnail", lambda c, pid: a.thumbnail(c.account, pid)),
                ("GET", "datasets/(.+)/datasetlifecycle", lambda c, pid: d.get_lifecycle(c.account, pid)),
                ("PATCH", "datasets/(.+)/datasetlifecycle", lambda c, pid: d.patch_lifecycle(c.account, pid, c.body())),
                ("GET", "datasets/(.+)/(origdatablocks|datablocks|attachments)", self.items),
                ("POST", "datasets/(.+)/(origdatablocks|datablocks)", self.add_block),
                ("POST", "datasets/(.+)/attachments", lambda c, pid: w(a.add(c.account, pid, c.body() or {}))),
                ("PUT", "datasets/(.+)/attachments/(.+)", self.put_attachment),
                ("DELETE", "datasets/(.+)/attachments/(.+)", lambda c, p, key: a.delete(c.account, p, key)),
                (
                    "DELETE",
                    "datasets/(.+)/origdatablocks/(.+)",
                    lambda c, p, b: d.delete_origdatablock(c.account, p, b),
                ),
                ("POST", "origdatablocks", lambda c: w(d.add_block(c.account, "origdatablocks", None, c.body() or {}))),
                ("PATCH", "origdatablocks/(.+)", lambda c, b: d.patch_origdatablock(c.account, b, c.body() or {})),
                ("POST", "(samples|proposals|instruments)", self.add_record),
                ("GET", "(samples|proposals|instruments)", lambda c, kind: self.records.all(c.account, kind)),
                ("GET", "(samples|proposals|instruments)/(.+)", lambda c, k, key: self.records.get(c.account, k, key)),
                ("PATCH", "(samples|proposals|instruments)/(.+)", self.patch_record),
            )
        ]

    def answer(self, request: Request, content: bytes) -> Response:
        call = Call(request, content, self.accounts, self.box)
        try:
            result = self._route(call)
            status, body = (201, result.body) if isinstance(result, _Written) else (200, result)
        except HttpError as refusal:
            status, body = refusal.status, refusal.body
        if isinstance(body, str):
            return PlainTextResponse(body, status)
        content_out = b"" if body is None else json.dumps(_js(body), ensure_ascii=False).encode()
        return Response(content_out, status, media_type="application/json")

    def _route(self, call: Call) -> Any:
        if call.versioned:
            for verb, pattern, work in self.table:
                found = _match(pattern, call.segments) if verb == call.verb else None
                if found is not None:
                    return work(call, *found)
        raise nest(404, f"Cannot {call.verb} {call.url}")

    def log_in(self, body: Any) -> Doc:
        wanted = body if isinstance(body, dict) else {}
        for person in self.people:
            changed = self.box.get("scicat_password", person["username"])  # by a test, as its owner would
            password = changed["password"] if changed else person["password"]
            if person["username"] == wanted.get("username") and password == wanted.get("password"):
                break
        else:
            raise HttpError(401, {"message": "Unauthorized", "statusCode": 401})
        token, user_id = secrets.token_urlsafe(48), _id_of(person["username"])
        self.box.put("scicat_token", token, {"username": person["username"], "expires": time.time() + TOKEN_LIFE_S})
        user = {"username": person["username"], "email": person["email"], "authStrategy": "local"}
        return {
            "access_token": token,
            "id": token,
            "expires_in": TOKEN_LIFE_S,
            "ttl": TOKEN_LIFE_S,
            "created": datetime.now(UTC).isoformat(),
            "userId": user_id,
            "user": {**user, "_id": user_id, "__v": 0, "id": user_id},
        }

    def who_am_i(self, call: Call) -> Doc | None:
        account = call.account
        if account is NOBODY:
            return None
        named = {"_id": _id_of(account.username), "username": account.username, "email": account.email}
        return {**named, "currentGroups": list(account.groups), "authStrategy": "local"}

    def is_valid(self, call: Call) -> Doc:
        errors = self.datasets.check_new(call.account, call.body() or {})
        if not errors:
            return {"valid": True}
        return {"valid": False, "error": "; ".join(words for e in errors for words in e["constraints"].values())}

    def full(self, call: Call) -> list[Doc]:
        return query.full(self.datasets.visible(call.account), call.json_of("fields"))

    def count(self, call: Call) -> Doc:
        condition = call.json_of("where") or call.json_of("filter").get("where") or {}
        return {"count": len(query.where(self.datasets.visible(call.account), condition))}

    def items(self, call: Call, pid: str, kind: str) -> list[Doc]:
        return self.datasets.items(call.account, kind.lower(), pid)

    def add_block(self, call: Call, pid: str, kind: str) -> _Written:
        return _Written(self.datasets.add_block(call.account, kind.lower(), pid, call.body() or {}))

    def put_attachment(self, call: Call, pid: str, attachment_id: str) -> Doc | None:
        return self.attachments.put(call.account, pid, attachment_id, call.body() or {})

    def add_record(self, call: Call, kind: str) -> _Written:
        return _Written(self.records.add(call.account, kind.lower(), call.body() or {}))

    def patch_record(self, call: Call, kind: str, key: str) -> Doc:
        return self.records.patch(call.account, kind.lower(), key, call.body() or {})


class _Written:
    """An answer with status 201."""

    def __init__(self, body: Any) -> None:
        self.body = body


UP = {"mongodb": {"status": "up"}}


def _match(parts: list[str], segments: list[str]) -> list[str] | None:
    """Segment by segment, so that a slash inside a pid is not one between segments; names without regard to case."""
    if len(parts) != len(segments):
        return None
    found = []
    for part, segment in zip(parts, segments, strict=True):
        if not re.fullmatch(part, segment, re.I | re.S):
            return None
        if part.startswith("("):
            found.append(segment)
    return found


def _account(person: Doc) -> Account:
    roles = person["role"] if isinstance(person["role"], list) else [person["role"]]
    return Account(
        person["username"], person["email"], tuple([*(["globalaccess"] if person["global"] else []), *roles])
    )


def _id_of(username: str) -> str:
    return username.encode().hex().ljust(24, "0")[:24]


def _since(call: Call) -> datetime | None:
    text = call.headers.get("if-unmodified-since")
    return parsedate_to_datetime(text) if text else None


def _js_number(text: str) -> float | int:
    """850.0 is 850 to JavaScript."""
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _js(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, dict):
        return {k: _js(v) for k, v in value.items()}
    return [_js(v) for v in value] if isinstance(value, list) else value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"Unexpected token {name}")
