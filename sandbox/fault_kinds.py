"""Which kinds of faults each service plays; what each does is told in the module that takes it (see faults.py).

A fault that nobody takes would make a test pass that tests nothing: it is refused as it is added.
"""

from __future__ import annotations

from typing import Any

WIRE = ("status", "429", "timeout", "drop", "slow", "die")
OWN: dict[str, frozenset[str]] = {
    "auth": frozenset({"invalid_client", "expires_in"}),
    "transfer": frozenset(
        {
            "consent_required", "token_revoked", "inactive", "paused", "task_failed", "slow_transfer",
            "checksum_mismatch", "trouble", "file_not_found", "permission_denied", "no_space", "file_size_changed",
            "endpoint_down", "quota",
        }
    ),
    "sfapi": frozenset(
        {
            "node_fail", "time_limit", "preempted", "out_of_memory", "failed", "cancelled", "pending_forever",
            "not_found_for", "duplicate_submit", "refused", "table_error", "odd_state", "outage", "degraded",
        }
    ),
    "scicat": frozenset(),
    "hpss": frozenset({"sleep", "down", "tempfail", "error", "quota", "bit_rot", "truncate", "omit_members"}),
}  # fmt: skip
_EVERY = "*"


def kinds_of(service: str) -> frozenset[str]:
    """All kinds that a service plays, those of the wire included; of "*" those of any. Empty if it is unknown."""
    if service == _EVERY:
        return frozenset(WIRE).union(*OWN.values())
    wire = () if service == "hpss" else WIRE  # programs, not a server
    return OWN[service].union(wire) if service in OWN else frozenset()


def problem_of(fault: Any) -> str | None:
    """What is wrong with a fault, in words, or None."""
    if not isinstance(fault, dict) or not {"service", "kind"} <= fault.keys():
        return 'a fault is {"service", "kind", …}; see sandbox/faults.py'
    service, kind = str(fault["service"]), str(fault["kind"])
    if not kinds_of(service):
        return f"{service} is no service: {', '.join(sorted(OWN))} or *"
    if kind not in kinds_of(service):
        return f"{service} has no fault {kind}: {', '.join(sorted(kinds_of(service)))}"
    if fault.get("when", "before") not in ("before", "after"):
        return f'"when" is {fault["when"]}: before or after'
    return None
