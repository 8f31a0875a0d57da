"""Logged-in Globus clients: one per thread, over one token. Imports the SDK; loaded on first use only.

The SDK's clients and apps are not made for several threads at once, so each thread has its own client; they share the
token. The client's id and secret are read again at each fetch of a token. Waiting and retrying is bounded here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import globus_sdk
from globus_sdk import exc
from globus_sdk.authorizers import RenewingAuthorizer
from globus_sdk.scopes import TransferScopes
from globus_sdk.transport import RequestsTransport, RetryCheckResult, RetryConfig, RetryContext

from resources import credentials
from resources.errors import FacilityError
from resources.globus_errors import translate

CONNECT_AND_ANSWER_S = 15.0
MOST_SLEEP_S = 4.0


class Token(RenewingAuthorizer[globus_sdk.OAuthClientCredentialsResponse]):
    """The access token of a confidential client, shared by threads and renewed by whichever needs it first."""

    def __init__(self, service: str, auth_url: str | None, id_env: str, secret_env: str) -> None:
        self.service, self.auth_url, self.id_env, self.secret_env = service, auth_url, id_env, secret_env
        self.lock = threading.Lock()
        super().__init__("none yet", 0)  # of 1970: the first request fetches one

    def ensure_valid_token(self) -> None:
        with self.lock:
            super().ensure_valid_token()

    def _get_token_response(self) -> globus_sdk.OAuthClientCredentialsResponse:
        client_id = credentials.read(self.id_env, self.service, "the id of the Globus client")
        secret = credentials.read(self.secret_env, self.service, "the secret of the Globus client")
        retries = RetryConfig(max_retries=1, max_sleep=MOST_SLEEP_S)
        with globus_sdk.ConfidentialAppAuthClient(
            client_id, secret, base_url=self.auth_url, transport=_transport(self.auth_url), retry_config=retries
        ) as client:
            return client.oauth2_client_credentials_tokens(requested_scopes=str(TransferScopes.all))

    def _extract_token_data(self, res: globus_sdk.OAuthClientCredentialsResponse) -> dict[str, Any]:
        return dict(res.by_resource_server[TransferScopes.resource_server])


class Session:
    """Clients of one Transfer service for one confidential client."""

    def __init__(
        self, service: str, transfer_url: str | None, auth_url: str | None, id_env: str, secret_env: str
    ) -> None:
        self.service, self.transfer_url = service, transfer_url
        self.token = Token(service, auth_url, id_env, secret_env)
        self._of_thread = threading.local()

    @contextmanager
    def asking(
        self, what: str, answer_s: float = CONNECT_AND_ANSWER_S, retries: int = 2
    ) -> Iterator[globus_sdk.TransferClient]:
        """A client for calls that do `what`; whatever the SDK raises leaves as one of `resources.errors`.

        answer_s: seconds of silence after which a call is given up. retries: of the SDK itself, with pauses of at most
        4 s; with none, it still fetches another token, once, when the one it has is not accepted. Keep
        (retries + 1) * answer_s below a minute.
        """
        client = self._client()
        client.transport.http_timeout = answer_s
        client.retry_config.max_retries = max(1, retries)
        self._of_thread.only_after_401 = retries == 0
        try:
            yield client
        except (FacilityError, exc.GlobusSDKUsageError):
            raise
        except (exc.GlobusError, KeyError, TypeError, ValueError) as error:
            raise translate(error, self.service, what, self.token.id_env, self.token.secret_env) from error

    def _client(self) -> globus_sdk.TransferClient:
        known: globus_sdk.TransferClient | None = getattr(self._of_thread, "client", None)
        if known is None:
            retries = RetryConfig(max_sleep=MOST_SLEEP_S)
            retries.checks.register_check(self._may_retry)  # before the SDK's own
            known = globus_sdk.TransferClient(
                authorizer=self.token,
                base_url=self.transfer_url,
                transport=_transport(self.transfer_url),
                retry_config=retries,
            )
            self._of_thread.client = known
        return known

    def _may_retry(self, ctx: RetryContext) -> RetryCheckResult:
        refused = ctx.response is not None and ctx.response.status_code == 401
        if getattr(self._of_thread, "only_after_401", False) and not refused:
            return RetryCheckResult.do_not_retry
        return RetryCheckResult.no_decision


def _transport(url: str | None) -> RequestsTransport:
    transport = RequestsTransport(http_timeout=CONNECT_AND_ANSWER_S)
    if url and urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost"):
        transport.session.trust_env = False  # a proxy of this machine cannot know its loopback addresses
    return transport
