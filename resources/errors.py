"""What can go wrong at a facility, as the four cases that the platform acts on differently.

Clients in this package translate every SDK exception into one of these, with words that a beamline scientist
understands. Whoever catches one decides what happens; nobody swallows it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST_S = 86400.0  # what a service may ask for: after a day it is looked at again, whatever it said


class FacilityError(Exception):
    """A facility could not do what was asked.

    Attributes:
        service: which service spoke, as named in the facility file ("globus", "nersc", "scicat", …).
        reason: one sentence for people.
        code: the service's own code ("QUOTA_EXCEEDED", "HTTP 502"), for looking it up; may be "".
    """

    def __init__(self, service: str, reason: str, code: str = "") -> None:
        super().__init__(f"{service}: {reason}" + (f" [{code}]" if code else ""))
        self.service = service
        self.reason = reason
        self.code = code


class Unavailable(FacilityError):
    """The service did not answer, or said that it cannot now: outage, timeout, 429, 5xx.

    Says nothing about the thing asked for. A call that changes something MAY HAVE TAKEN EFFECT: whoever repeats
    it uses the same idempotency key, or looks first.
    """

    def __init__(self, service: str, reason: str, code: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(service, reason, code)
        self.retry_after_s = retry_after_s


class CredentialProblem(FacilityError):
    """A credential is missing, expired or lacks consent: nothing works until a person acts; no attempt is used up."""


class Refused(FacilityError):
    """The service understood and said no (bad request, permission, unknown QOS): repeating it will not help."""


class NotFound(FacilityError):
    """The service answered, healthily, that the thing is not there."""


def retry_after(text: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait, at most a day: it has a number of them or a date (RFC 9110,
    section 10.2.3). None for no header, a date that has passed, and what is neither."""
    text = (text or "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        seconds = float(text)
    else:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, TypeError, OverflowError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(seconds, _LONGEST_S) if seconds > 0 else None
