"""Is a scan export-controlled? Then nothing of it leaves the beamline: decided before its first copy.

A person can say that it is not (`als assign … --not-restricted --why …`); that holds until a person says otherwise.
"""

from __future__ import annotations

from beamlines.policy.grouping import glob_pattern
from beamlines.spec import ExportControl

BEGINNING = "export control: "
NO_PROPOSAL = f"{BEGINNING}it stays at the beamline until it is known to which proposal it belongs"


def restricted_by(rule: ExportControl, path: str, proposal: str | None, notified: bool) -> str | None:
    """Why nothing of a scan may leave the beamline, or None when it may. `notified`: its writer said so."""
    if notified:
        return f"{BEGINNING}whoever notified it says so"
    for glob in rule.paths:
        if glob_pattern(glob).fullmatch(path):
            return f"{BEGINNING}the path matches {glob}"
    if proposal in rule.proposals:
        return f"{BEGINNING}proposal {proposal}"
    if proposal is None and rule.unknown_proposal == "hold":
        return NO_PROPOSAL
    return None


def message(key: str, reason: str) -> str:
    """For people who ask for something of a restricted scan."""
    return (
        f"{key}: nothing of it may leave the beamline ({reason}). What to do: if that is wrong, release it with "
        "`als assign … --not-restricted --why …`; where only its proposal is not known, assign that."
    )
