"""What the flight check of a service found: the `check` of every resource returns a list of these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: what, whether it works, and what was seen or is to be done about it."""

    what: str
    ok: bool
    says: str = ""
