"""Signed-in calls to the Superfacility API: one request each, errors in the platform's own words.

Over NERSC's client (`sfapi_client`), with its retries off: they would send a POST whose answer was lost once more, and
make two jobs of one. A sign-in is shared by all threads of a process and renewed before it ends, after a 401, and
when the key file was replaced; the key file is read at each sign-in and at no other time.
"""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from resources.errors import CredentialProblem, FacilityError, NotFound, Refused, Unavailable, retry_after

RENEW_S = 450.0  # tokens live 600 s
ANSWER_S = 10  # how long the client waits for an answer


@dataclass
class _SignIn:
    client: Any
    until: float
    key: tuple[str, int, int, int]


_sign_ins: dict[tuple[Any, ...], _SignIn] = {}
_locks: dict[tuple[Any, ...], threading.Lock] = {}
_lock = threading.Lock()


@lru_cache(maxsize=1)
def _sdk() -> Any:
    """NERSC's client, imported late (0.5 s) and without the warning that its own dependencies raise. Its sign-in raises
    the HTTP errors that Authlib would take for a token, or for a word about the key."""
    import authlib.deprecate

    warnings.filterwarnings(
        "ignore", message="The httpx module is deprecated", category=authlib.deprecate.AuthlibDeprecationWarning
    )
    import httpx
    import sfapi_client
    from sfapi_client._sync import client

    class SignIn(client.OAuth2Client):  # type: ignore[misc]  # the SDK has no types
        def parse_response_token(self, answer: Any) -> Any:
            if answer.status_code == 429:
                answer.raise_for_status()
            try:
                return super().parse_response_token(answer)
            except ValueError as error:  # a proxy's page, with status 200
                raise httpx.DecodingError(str(error), request=answer.request) from error

    client.OAuth2Client = SignIn
    return sfapi_client


@dataclass(frozen=True)
class Session:
    """Access to one API under one key.

    Attributes:
        service: the name that errors carry.
        api_url, token_url: None for the client's own production address.
        key_env: the environment variable that names the key file (mode 0600).
    """

    service: str
    api_url: str | None
    token_url: str | None
    key_env: str

    def get(self, path: str, params: Mapping[str, Any] | None = None, doing: str = "be asked") -> Any:
        """The JSON answer. Raises only `resources.errors`."""
        return self._call("get", (path, dict(params or {})), doing)

    def post(self, path: str, data: Mapping[str, Any], doing: str) -> Any:
        """As `get`. Sent once; after Unavailable it may have taken effect."""
        return self._call("post", (path, dict(data)), doing)

    def put_file(self, path: str, name: str, content: bytes, doing: str) -> Any:
        return self._call("put", (path, None, {"file": (name, content)}), doing)

    def delete(self, path: str, doing: str) -> Any:
        return self._call("delete", (path,), doing)

    def sign_in(self) -> Any:
        """The client, signed in; at once when it was already. Raises CredentialProblem or Unavailable."""
        key = self._key_file()
        name = (os.getpid(), self.api_url, self.token_url, str(key))
        with _lock:
            lock = _locks.setdefault(name, threading.Lock())
        with lock:
            identity = self._identity(key)
            known = _sign_ins.get(name)
            if known is None or known.until < time.monotonic() or known.key != identity:
                known = _sign_ins[name] = _SignIn(self._signed_in(key), time.monotonic() + RENEW_S, identity)
            return known.client

    def forget(self, client: Any) -> None:
        """The server no longer accepts this sign-in; the next call makes a new one (once, however many threads ask)."""
        for name, known in list(_sign_ins.items()):
            if known.client is client:
                _sign_ins.pop(name, None)

    def _call(self, verb: str, arguments: tuple[Any, ...], doing: str) -> Any:
        client = self.sign_in()
        try:
            return self._once(client, verb, arguments)
        except self._http_errors() as error:
            if _code(error) != 401:
                raise self._translated(error, doing) from error
        self.forget(client)  # a token that was revoked: the request was turned away, so it can be sent again
        try:
            return self._once(self.sign_in(), verb, arguments)
        except self._http_errors() as error:
            raise self._translated(error, doing) from error

    def _once(self, client: Any, verb: str, arguments: tuple[Any, ...]) -> Any:
        import tenacity

        send: Callable[..., Any] = getattr(type(client), verb).retry_with(
            stop=tenacity.stop_after_attempt(1), reraise=True
        )
        answer = send(client, *arguments)
        try:
            return answer.json()
        except ValueError as error:
            raise Unavailable(self.service, "NERSC's API answered with something that is not JSON") from error

    @staticmethod
    def _http_errors() -> tuple[type[Exception], ...]:
        import httpx
        from authlib.common.errors import AuthlibBaseError

        return (httpx.HTTPError, httpx.InvalidURL, AuthlibBaseError)

    def _signed_in(self, key: Path) -> Any:
        import httpx
        from authlib.common.errors import AuthlibBaseError
        from joserfc.errors import JoseError

        sdk = _sdk()
        from sfapi_client.exceptions import ClientKeyError

        where = {"api_base_url": self.api_url, "token_url": self.token_url}
        try:
            client = sdk.Client(key=str(key), **{name: url for name, url in where.items() if url})
            token = client.token
        except ClientKeyError as error:
            raise CredentialProblem(self.service, f"NERSC key file {key}: {error.message}") from error
        except httpx.HTTPError as error:
            raise self._translated(error, "sign in") from error
        except AuthlibBaseError as error:
            raise self._not_accepted(key, error) from error
        except (ValueError, TypeError, KeyError, OSError, JoseError) as error:
            if isinstance(error, KeyError) and error.args == ("access_token",):
                raise Unavailable(self.service, "NERSC's sign-in service answered without a token") from error
            raise CredentialProblem(
                self.service, f"NERSC key file {key} does not hold a client id and a private key as Iris writes them"
            ) from error
        if not token:
            raise CredentialProblem(self.service, f"NERSC key file {key} holds no client id")
        return client

    def _not_accepted(self, key: Path, error: Any) -> FacilityError:
        code = str(getattr(error, "error", "") or "")
        if code in ("temporarily_unavailable", "server_error"):
            return Unavailable(self.service, "NERSC's sign-in service is not available", code)
        return CredentialProblem(
            self.service,
            f"NERSC does not accept the key in {key}: it has expired, was withdrawn, or is used from an address that it"
            " does not allow; make a new one in Iris and replace the file",
            code,
        )

    def key_made(self) -> datetime:
        """When the key file was written. Raises CredentialProblem."""
        key = self._key_file()
        return datetime.fromtimestamp(self._identity(key)[2] / 1e9, UTC)

    def client_id(self) -> str:
        """Of the key file: a JSON document with client_id, or a PEM with it on the first line; "" where it has none."""
        key = self._key_file()
        self._identity(key)
        try:
            text = key.read_text()
            found = json.loads(text).get("client_id") if text.lstrip().startswith("{") else text.split("\n", 1)[0]
        except (OSError, UnicodeDecodeError, ValueError, AttributeError):
            return ""
        return str(found or "").strip()

    def _key_file(self) -> Path:
        named = os.environ.get(self.key_env, "")
        if not named:
            raise CredentialProblem(
                self.service, f"the environment variable {self.key_env} is not set: it names the NERSC key file"
            )
        return Path(named).expanduser().absolute()

    def _identity(self, key: Path) -> tuple[str, int, int, int]:
        try:
            info = key.stat()
        except OSError as error:
            raise CredentialProblem(
                self.service, f"NERSC key file {key} ({self.key_env}) cannot be read: {error.strerror}"
            ) from error
        if info.st_mode & 0o777 != 0o600:
            raise CredentialProblem(self.service, f"NERSC key file {key} must have mode 0600: chmod 600 {key}")
        return (str(key), info.st_ino, info.st_mtime_ns, info.st_size)

    def _translated(self, error: Exception, doing: str) -> FacilityError:
        import httpx

        if isinstance(error, httpx.HTTPStatusError):
            return self._of_status(error, doing)
        if isinstance(error, httpx.TimeoutException):
            return Unavailable(self.service, f"NERSC's API did not answer within {ANSWER_S} s (asked to {doing})")
        if isinstance(error, httpx.ConnectError):
            return Unavailable(self.service, f"NERSC's API cannot be reached (asked to {doing})")
        if isinstance(error, httpx.DecodingError):
            return Unavailable(self.service, f"NERSC's API answered with something that is not JSON (asked to {doing})")
        if isinstance(error, httpx.HTTPError):
            return Unavailable(self.service, f"the connection to NERSC's API broke (asked to {doing})")
        return Unavailable(self.service, f"NERSC's sign-in failed ({type(error).__name__})")

    def _of_status(self, error: Any, doing: str) -> FacilityError:
        status, code = error.response.status_code, f"HTTP {error.response.status_code}"
        healthy, says = _detail(error.response)
        if status == 401:
            return CredentialProblem(self.service, f"NERSC's API does not accept the sign-in (asked to {doing})", code)
        if status == 403:
            words = f"the NERSC key may not {doing}: jobs and commands need a red client (made in Iris)"
            return CredentialProblem(self.service, f"{words}{says}", code)
        if status == 404 and healthy:
            return NotFound(self.service, f"NERSC's API does not know what it was asked to {doing}{says}", code)
        if status == 429:
            after = retry_after(error.response.headers.get("Retry-After"))
            words = (
                f"NERSC's API asks for fewer requests (asked to {doing}){says}. What to do: nothing, it goes on by "
                "itself; if this does not end, see what else asks with this key or from this address"
            )
            return Unavailable(self.service, words, code, after)
        if 400 <= status < 500 and healthy:
            return Refused(self.service, f"NERSC's API refused to {doing}{says}", code)
        return Unavailable(self.service, f"NERSC's API is not available (asked to {doing})", code)


def _code(error: Exception) -> int:
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 0) or 0)


def _detail(response: Any) -> tuple[bool, str]:
    """(is this the API's own answer and not a proxy's?, what it says, after a colon)."""
    try:
        document = response.json()
    except ValueError:
        return False, ""
    if not isinstance(document, dict) or not {"detail", "message", "error"} & document.keys():
        return False, ""
    says = next(document[k] for k in ("detail", "message", "error") if k in document)
    return True, f": {str(says)[:300]}" if says else ""
