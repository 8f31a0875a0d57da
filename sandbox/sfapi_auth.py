"""SFAPI's sign-in: a private-key JWT for an access token of ten minutes, and the check of that token."""

from __future__ import annotations

import json
import os
import secrets
import string
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox import jobs
from sandbox.box import Box, Doc

TOKEN_S = 600
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
COLOURS = ("green", "blue", "yellow", "orange", "red")  # only the last may submit jobs and run commands


def make_client() -> Doc:
    """A client id of 13 characters and a key pair, as JWKs."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    algorithm = jwt.algorithms.RSAAlgorithm
    client_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(13))
    secret: Any = algorithm.to_jwk(private, as_dict=True)
    public: Any = algorithm.to_jwk(private.public_key(), as_dict=True)
    return {"client_id": client_id, "secret": {**secret, "alg": "RS256"}, "public": public}


def client(box: Box) -> Doc:
    """The one API client of this sandbox; it outlives resets, and making it is slow, so it is looked up first."""
    with box.transaction() as docs:
        row = docs.db.execute("select value from kept where name = 'sfapi_client'").fetchone()
    found: Doc = json.loads(row[0]) if row else box.kept("sfapi_client", make_client)
    return found


def rotate(box: Box) -> None:
    """A new client id and key, as a person makes in Iris when the old one expires; the old tokens end with it."""
    with box.transaction() as docs:
        docs.db.execute(
            "insert into kept(name, value) values('sfapi_client', ?)"
            " on conflict(name) do update set value = excluded.value",
            (json.dumps(make_client()),),
        )
    revoke_tokens(box)
    write_key(box)


def write_key(box: Box) -> Path:
    known = client(box)
    path = box.dir / "sfapi_key.json"
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump({"client_id": known["client_id"], "secret": known["secret"]}, out)
    fresh.replace(path)
    return path


def revoke_tokens(box: Box) -> None:
    with box.transaction() as docs:
        docs.db.execute("delete from docs where kind = 'sfapi_token'")


async def token(box: Box, request: Request) -> Response:
    form = await request.form()
    return await run_in_threadpool(
        _token, box, {name: str(value) for name, value in form.items()}, str(request.url.replace(query=""))
    )


def _token(box: Box, form: dict[str, str], url: str) -> Response:
    if form.get("grant_type") != "client_credentials":
        return JSONResponse({"error": "unsupported_grant_type"}, 400)
    known = client(box)
    try:
        if form.get("client_assertion_type") != ASSERTION:
            raise jwt.InvalidTokenError("no client assertion")
        claims = jwt.decode(
            form.get("client_assertion", ""), jwt.PyJWK(known["public"], algorithm="RS256"), algorithms=["RS256"],
            audience=url, options={"require": ["exp", "aud", "iss", "sub"]},
        )  # fmt: skip
        if not claims["iss"] == claims["sub"] == known["client_id"]:
            raise jwt.InvalidTokenError("unknown client")
    except jwt.InvalidTokenError as error:
        return JSONResponse({"error": "invalid_client", "error_description": str(error)}, 401)
    value = secrets.token_urlsafe(32)
    with box.transaction() as docs:
        docs.put("sfapi_token", value, {"expires": time.time() + TOKEN_S})
    return JSONResponse(
        {"access_token": value, "token_type": "Bearer", "expires_in": TOKEN_S, "scope": "sfapi"},
        headers={"Cache-Control": "no-store"},
    )


def signed_in(box: Box, request: Request, colour: str = "green") -> Response | None:
    """None when the request may go on; otherwise the answer that says why not."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    known = box.get("sfapi_token", value) if scheme.lower() == "bearer" and value else None
    if known is None or known["expires"] < time.time():
        return JSONResponse({"detail": "Not authenticated"}, 401, headers={"WWW-Authenticate": "Bearer"})
    own = jobs.settings(box)["colour"]
    if COLOURS.index(own) < COLOURS.index(colour):
        return JSONResponse({"detail": f"Client is not permitted: this endpoint needs a {colour} client"}, 403)
    return None
