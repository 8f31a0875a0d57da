"""pyscicat's client as an unattended service needs it: timeouts, renewed tokens, the four errors, all answers read.

    session = Session("scicat", "https://…/api/v3", lambda: (username, password))
    session.datasets_get_one("als/bl7011/0f3c")                     # every method of pyscicat works through this
    session.call("patch", "datasets/als%2Fx/datasetlifecycle", {"archivable": False})      # what pyscicat lacks

Two things of the backend shape it. A token that has expired, or is junk, makes one *anonymous*, and to an anonymous
reader the catalogue looks empty: so nothing is believed to be absent or forbidden before `auth/whoami` has named us.
And no answer comes with a promise: a POST that timed out may have worked, so nothing here repeats a write by itself,
except one that was turned away for its token.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import requests
from pydantic import BaseModel, ConfigDict
from pyscicat.client import ScicatClient

from resources.errors import CredentialProblem, NotFound, Refused, Unavailable, retry_after

TOKEN_LIFE_S = 3600.0
CONNECT_TIMEOUT_S = 10.0


class Conflict(Refused):
    """Something with this identifier is there already."""


class Body(BaseModel):
    """A request's document, sent as it is; what is None is left out."""

    model_config = ConfigDict(extra="allow")


class Session(ScicatClient):  # type: ignore[misc]  # pyscicat has no types
    """One account at one backend. Its calls raise only `resources.errors`; it may be shared between threads.

    Args:
        service: the name that errors carry.
        base_url: as pyscicat wants it, "https://host/api/v3".
        credentials: asked for username and password at each login, so that a new password needs no restart.
        timeout_s: how long one request may take to answer, seconds.
    """

    def __init__(
        self, service: str, base_url: str, credentials: Callable[[], tuple[str, str]], timeout_s: float = 60.0
    ) -> None:
        super().__init__(base_url, username="", password="", timeout_seconds=None, auto_login=False)
        self._timeout_seconds = (CONNECT_TIMEOUT_S, timeout_s)
        self.service, self._credentials = service, credentials
        self.username = ""
        self._renew_at = 0.0
        self._login_lock = threading.Lock()

    def call(self, verb: str, endpoint: str, document: Mapping[str, Any] | None = None, doing: str = "") -> Any:
        """One request. `doing` ends the sentence "SciCat would not …" for people: "enter data set als/bl7011/1f"."""
        return self._call_endpoint(verb, endpoint, None if document is None else Body.model_validate(document), doing)

    def login(self) -> None:
        """Get a new token. The token travels in a header only: in an address it would end up in logs."""
        username, password = self._credentials()
        self._headers = {}
        answer = self._exchange("post", "auth/login", Body.model_validate({"username": username, "password": password}))
        if answer.status_code in (400, 401, 403):
            raise CredentialProblem(
                self.service,
                f"does not accept the account {username!r} with its password",
                f"HTTP {answer.status_code}",
            )
        granted = self._read(answer, "log in")
        if not isinstance(granted, dict) or not granted.get("id"):
            raise Unavailable(self.service, "answered a login without a token")
        life = float(granted.get("ttl") or granted.get("expires_in") or TOKEN_LIFE_S)
        self._renew_at = time.monotonic() + 0.9 * life
        self._headers = {"Authorization": f"Bearer {granted['id']}"}
        self.username = username

    def whoami(self) -> dict[str, Any]:
        """The account that the backend takes us for: username, email, currentGroups. {} when it knows us not."""
        answer = self._exchange("get", "auth/whoami")
        if answer.status_code in (401, 403, 404):
            return {}
        found = self._read(answer, "say who we are")
        return found if isinstance(found, dict) and found.get("username") == self.username else {}

    def health(self) -> Any:
        return self._read(self._exchange("get", "health"), "tell its health")

    def _call_endpoint(
        self, cmd: str, endpoint: str, data: BaseModel | None = None, operation: str = "", **_: Any
    ) -> Any:
        if not self._headers or time.monotonic() >= self._renew_at:
            self._log_in_again(self._headers)
        used = self._headers
        answer = self._exchange(cmd, endpoint, data)
        if _seems_absent_or_forbidden(cmd, answer) and not self.whoami():
            self._log_in_again(used)
            answer = self._exchange(cmd, endpoint, data)
            if _seems_absent_or_forbidden(cmd, answer) and not self.whoami():
                raise CredentialProblem(self.service, f"gave {self.username!r} a token and then did not know it")
        return self._read(answer, operation or f"{cmd} {endpoint}")

    def _log_in_again(self, used: Mapping[str, str]) -> None:
        """Log in, unless another thread has done so since `used` was in use."""
        with self._login_lock:
            if self._headers is used:
                self.login()

    def _exchange(self, verb: str, endpoint: str, data: BaseModel | None = None) -> requests.Response:
        """One request and its answer, whatever its status."""
        self._token = None  # pyscicat would also put it into the address
        try:
            answer: requests.Response = self._send_to_scicat(cmd=verb, endpoint=endpoint, data=data)
        except requests.exceptions.InvalidJSONError as wrong:
            raise Refused(self.service, "cannot be sent a number that is not finite (NaN or infinity)") from wrong
        except requests.exceptions.Timeout as late:
            raise Unavailable(
                self.service, f"did not answer within {self._timeout_seconds[1]:g} s", "timeout"
            ) from late
        except requests.exceptions.ConnectionError as lost:
            raise Unavailable(self.service, "could not be reached, or closed the connection", "connection") from lost
        except requests.exceptions.RequestException as wrong:
            raise Unavailable(self.service, f"the request failed ({type(wrong).__name__})", "request") from wrong
        return answer

    def _read(self, answer: requests.Response, doing: str) -> Any:
        """The document of a good answer; None when it is empty."""
        if not answer.ok:
            self._refuse(answer, doing)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as wrong:
            raise Unavailable(
                self.service,
                f"answered with something that is not JSON when asked to {doing}",
                f"HTTP {answer.status_code}",
            ) from wrong

    def _refuse(self, answer: requests.Response, doing: str) -> NoReturn:
        status, said = answer.status_code, message(answer)
        code = f"HTTP {status}"
        if status == 429 or status >= 500:
            after = retry_after(answer.headers.get("Retry-After"))
            raise Unavailable(self.service, f"could not {doing} now: {said}", code, after)
        if status == 401:
            raise CredentialProblem(self.service, f"does not let {self.username!r} {doing}: {said}", code)
        if status == 404:
            raise NotFound(self.service, f"could not {doing}: {said}", code)
        if status == 409:
            raise Conflict(self.service, f"could not {doing}: {said}", code)
        if status == 403:
            raise Refused(self.service, f"the account {self.username!r} has no permission to {doing}: {said}", code)
        raise Refused(self.service, f"would not {doing}: {said}", code)


def _seems_absent_or_forbidden(verb: str, answer: requests.Response) -> bool:
    """Could this be what the backend says to somebody whom it does not know?"""
    if answer.status_code in (401, 403, 404):
        return True
    return verb.lower() == "get" and answer.ok and answer.content.strip() in (b"", b"[]", b"null", b'{"count":0}')


def message(answer: requests.Response) -> str:
    """What the backend said, as one line for people; the routes have four shapes for it."""
    try:
        said = answer.json()
    except ValueError:
        said = answer.text
    if isinstance(said, dict):
        said = said.get("message", said)
    if isinstance(said, str) and said.startswith("[{"):
        try:
            errors = json.loads(said)
            said = [words for error in errors for words in error.get("constraints", {}).values()]
        except (ValueError, AttributeError):
            pass
    if isinstance(said, list):
        said = "; ".join(str(one) for one in said)
    return " ".join(str(said).split())[:500] or "it gave no reason"
