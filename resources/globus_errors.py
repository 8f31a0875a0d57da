"""What the Globus SDK raises, as the four cases of `resources.errors`, in words for people."""

from __future__ import annotations

import globus_sdk
from globus_sdk import exc

from resources.errors import CredentialProblem, FacilityError, NotFound, Refused, Unavailable, retry_after

NOT_FOUND = ("NotFound", "ClientError.NotFound", "TaskNotFound")
# 502 answers that are the endpoint's opinion on the request, not an outage of it
_REFUSALS = (".NotDirectory", ".Exists", ".SizeLimit", ".PermissionDenied")


def translate(error: Exception, service: str, what: str, id_env: str, secret_env: str) -> FacilityError:
    """`what` was being done ("listing /raw"); the variables are those of the client's id and secret."""
    if isinstance(error, exc.NetworkError):
        code = "TIMEOUT" if isinstance(error, exc.GlobusTimeoutError) else "CONNECTION"
        return Unavailable(service, f"no answer from Globus while {what}: {_cause(error)}", code)
    if isinstance(error, globus_sdk.AuthAPIError):
        return _of_login(error, service, id_env, secret_env)
    if isinstance(error, exc.GlobusAPIError):
        return _of_transfer(error, service, what, id_env, secret_env)
    return Unavailable(service, f"Globus answered {what} with something that is not understood: {error!r}", "ANSWER")


def _cause(error: exc.NetworkError) -> str:
    return str(error.underlying_exception or error)[:300]


def _of_login(error: globus_sdk.AuthAPIError, service: str, id_env: str, secret_env: str) -> FacilityError:
    if error.http_status == 429 or error.http_status >= 500:
        words = f"Globus Auth cannot give a token now (HTTP {error.http_status})"
        return Unavailable(service, words, f"HTTP {error.http_status}", retry_after(error.headers.get("Retry-After")))
    said = error.code or (error.raw_json or {}).get("error") or error.http_reason
    return CredentialProblem(
        service,
        f"Globus Auth refused the client of {id_env} with the secret of {secret_env} ({said}). Look at the client on "
        f"app.globus.org/settings/developers; give it a new secret if this one has expired, and put that in "
        f"{secret_env} or the file that it names. It is read at the next attempt, no restart is needed",
        str(said),
    )


def _of_transfer(error: exc.GlobusAPIError, service: str, what: str, id_env: str, secret_env: str) -> FacilityError:
    status, code = error.http_status, error.code or f"HTTP {error.http_status}"
    said = (error.message or error.http_reason or "").strip()
    if error.info.consent_required or code == "ConsentRequired":
        scopes = ", ".join(error.info.consent_required.required_scopes or []) or "(not said)"
        words = (
            f"the Globus client of {id_env} lacks a consent for {what}: let the collection's administrator give it "
            f"access without data_access consent, or grant these scopes: {scopes}"
        )
        return CredentialProblem(service, words, code)
    if error.info.authorization_parameters:
        needed = error.info.authorization_parameters.session_message or said
        words = f"the collection wants a session that the Globus client of {id_env} does not have: {needed}"
        return CredentialProblem(service, words, code)
    if status == 401:
        words = f"Globus does not accept the token that it gave to the client of {id_env} and {secret_env}: {said}"
        return CredentialProblem(service, words, code)
    if code.endswith(".LoginFailed"):
        words = f"the collection would not let the Globus client of {id_env} in while {what}: {said}"
        return CredentialProblem(service, words, code)
    after = retry_after(error.headers.get("Retry-After"))
    if status == 429 or code == "TooManyPendingJobs":
        return Unavailable(service, f"Globus wants fewer requests or tasks: {said}", code, after)
    if status >= 500 and not code.endswith(_REFUSALS):
        return Unavailable(service, f"Globus cannot do this now, {what}: {said}", code, after)
    if status == 404 and code in NOT_FOUND:
        return NotFound(service, f"not there, {what}: {said}", code)
    if code == "EndpointNotFound":
        words = f"the collection is gone, or the client of {id_env} may not see it, {what}: {said}"
        return Refused(service, words, code)
    if status == 404:  # not in the service's own words: a proxy, or a wrong address
        return Unavailable(service, f"HTTP 404 without a reason that Globus gives, {what}: {said}", code)
    return Refused(service, f"Globus refused {what}: {said}", code)
