"""What a flight check found, one thing at a time: the `check` of every resource returns a list of these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    Attributes:
        area: the service, the place ("bl7011/cfs"), "ledger", "dagster", "alerts" or "disk".
        what: what was tried, in a few words.
        ok: whether it works; None when it could not be tried, which is no failure by itself.
        says: what was seen, and when it does not work, what to do.
    """

    area: str
    what: str
    ok: bool | None
    says: str = ""
