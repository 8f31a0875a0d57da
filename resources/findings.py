"""What a flight check finds: one line for each thing that was tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    Attributes:
        service: as in the facility file ("globus").
        subject: what was tried ("log in", "list nersc-cfs:/als").
        ok: did it work?
        words: what was seen, or why it failed.
        todo: what to do about it; "" when it worked.
    """

    service: str
    subject: str
    ok: bool
    words: str
    todo: str = ""
