"""Effective executions: work that a facility really did, counted so that tests can see whether it was done twice.

A service calls `count_execution` when a task or a job begins its work anew, never when it resumes after a crash. More
than one for the same work is a bug in whoever submitted it.
"""

from __future__ import annotations

from sandbox.box import Box, Documents


def count_execution(docs: Documents, service: str, work: str) -> None:
    """Note that `work` (a task id, a job's name) was begun by a service; within the transaction that begins it."""
    known = docs.get("execution", f"{service} {work}") or {"service": service, "work": work, "count": 0}
    docs.put("execution", f"{service} {work}", {**known, "count": known["count"] + 1})


def executions(box: Box) -> dict[str, dict[str, int]]:
    """{service: {work: how often}}."""
    found: dict[str, dict[str, int]] = {}
    for doc in box.all("execution"):
        found.setdefault(doc["service"], {})[doc["work"]] = doc["count"]
    return found
