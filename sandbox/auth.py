"""Globus Auth at /auth: tokens for a confidential client, by the client credentials grant.

    POST /v2/oauth2/token             basic auth; form grant_type=client_credentials, scope
    POST /v2/oauth2/token/revoke      form token → {"active": false}
    POST /v2/oauth2/token/introspect  form token → {"active", "scope", "exp", …}

credentials.json: {"client_id", "client_secret"}.

Faults of this service: "expires_in" (tokens live `seconds`, default 5), "invalid_client" (the secret is refused, as
after its expiry). Tokens outlive the server, as real ones do, but not a reset.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
import uuid
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from sandbox.box import Box, Doc
from sandbox.faults import of_service

TRANSFER_SCOPE = "urn:globus:auth:scope:transfer.api.globus.org:all"
LIFETIME_S = 172800
_RESOURCE_SERVERS = {"facd7ccc-c5f4-42aa-916b-a0e270e2c2a9": "funcx_service"}


def setup(box: Box) -> dict[str, Any]:
    client: dict[str, Any] = box.kept(
        "auth", lambda: {"client_id": str(uuid.uuid4()), "client_secret": secrets.token_urlsafe(33)}
    )
    return client


def active_token(box: Box, header: str | None, resource_server: str) -> Doc | None:
    """The token that an Authorization header carries, if it is good for this resource server now, else None."""
    scheme, _, value = (header or "").partition(" ")
    token = box.get("token", value) if scheme.lower() == "bearer" else None
    if token is None or token["resource_server"] != resource_server or token["expires_at"] <= time.time():
        return None
    return token


def revoke(box: Box, value: str) -> None:
    with box.transaction() as docs:
        docs.delete("token", value)


def split_scopes(text: str) -> list[str]:
    """Scopes at the top level: "a b[*c d]" → ["a", "b"]. What is in brackets are dependencies of a scope."""
    scopes, depth, word = [], 0, ""
    for letter in text + " ":
        depth += (letter == "[") - (letter == "]")
        if letter == " " and depth == 0:
            scopes += [word] if word else []
            word = ""
        elif depth == 0 and letter not in "[]":
            word += letter
    return scopes


def resource_server(scope: str) -> str:
    """Who accepts tokens of a scope."""
    if scope.startswith("urn:globus:auth:scope:"):
        return scope.split(":")[4]
    if scope.startswith("https://auth.globus.org/scopes/"):
        name = scope.split("/")[4]
        return _RESOURCE_SERVERS.get(name, name)
    return "auth.globus.org"


def routes(box: Box) -> list[BaseRoute]:
    async def token(request: Request) -> JSONResponse:
        form = await request.form()
        return await run_in_threadpool(_token, box, request, form)

    async def revoke_token(request: Request) -> JSONResponse:
        form = await request.form()
        await run_in_threadpool(revoke, box, str(form.get("token", "")))
        return JSONResponse({"active": False})

    async def introspect(request: Request) -> JSONResponse:
        form = await request.form()
        found = await run_in_threadpool(box.get, "token", str(form.get("token", "")))
        if found is None or found["expires_at"] <= time.time():
            return JSONResponse({"active": False})
        shown = {k: found[k] for k in ("scope", "client_id")}
        return JSONResponse({"active": True, **shown, "exp": int(found["expires_at"]), "token_type": "Bearer"})

    return [
        Route("/v2/oauth2/token", token, methods=["POST"]),
        Route("/v2/oauth2/token/revoke", revoke_token, methods=["POST"]),
        Route("/v2/oauth2/token/introspect", introspect, methods=["POST"]),
    ]


def _token(box: Box, request: Request, form: FormData) -> JSONResponse:
    client_id, secret = _who(request, form)
    known = setup(box)
    right = hmac.compare_digest(client_id.encode(), known["client_id"].encode()) and hmac.compare_digest(
        secret.encode(), known["client_secret"].encode()
    )
    if not right or box.take_fault(of_service("auth", ("invalid_client",))):
        return JSONResponse({"error": "invalid_client"}, 401)
    if form.get("grant_type") != "client_credentials":
        return JSONResponse({"error": "unsupported_grant_type"}, 400)
    by_server: dict[str, list[str]] = {}
    for scope in split_scopes(str(form.get("scope", ""))):
        by_server.setdefault(resource_server(scope), []).append(scope)
    if not by_server:
        return JSONResponse({"error": "invalid_scope"}, 400)
    fault = box.take_fault(of_service("auth", ("expires_in",)))
    lifetime = int(fault.get("seconds", 5)) if fault else LIFETIME_S
    tokens = [_issue(box, client_id, server, scopes, lifetime) for server, scopes in by_server.items()]
    return JSONResponse({**tokens[0], "other_tokens": tokens[1:]})


def _issue(box: Box, client_id: str, server: str, scopes: list[str], lifetime: int) -> dict[str, Any]:
    value = secrets.token_urlsafe(48)
    known = {"client_id": client_id, "resource_server": server, "scope": " ".join(scopes)}
    box.put("token", value, {**known, "expires_at": time.time() + lifetime})
    return {
        "access_token": value,
        "scope": " ".join(scopes),
        "expires_in": lifetime,
        "token_type": "Bearer",
        "resource_server": server,
    }


def _who(request: Request, form: FormData) -> tuple[str, str]:
    """Client id and secret from basic auth, or else from the form; empty strings when there are none."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            client_id, _, secret = base64.b64decode(value).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return client_id, secret
    return str(form.get("client_id", "")), str(form.get("client_secret", ""))
