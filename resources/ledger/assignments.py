"""Whose a scan is, and whether anything of it may leave the beamline. Every change has a record of who and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from beamlines.policy import proposal as policy
from beamlines.policy.proposal import Belongs
from beamlines.policy.restricted import NO_PROPOSAL, restricted_by
from beamlines.spec import Kind, Spec
from resources.ledger import flow, history, scans, steps, tasks
from resources.ledger.scans import Scan
from resources.ledger.schema import files, sightings
from resources.ledger.schema import scans as table
from resources.ledger.tasks import Task


@dataclass(frozen=True)
class Unassigned:
    """A scan without a proposal, with what the rules need to know about it."""

    id: int
    path: str
    written: datetime
    first_seen: datetime


def unassigned(tx: Connection, beamline: str, after: int, limit: int) -> list[Unassigned]:
    """Scans without a proposal whose ids are above `after`, in their order."""
    query = (
        sa.select(table.c.id, table.c.path, files.c.mtime, sightings.c.first_seen)
        .join_from(table, files, (files.c.scan_id == table.c.id) & (files.c.path == table.c.path))
        .join(sightings, (sightings.c.beamline == table.c.beamline) & (sightings.c.path == table.c.path))
        .where(table.c.beamline == beamline, table.c.proposal.is_(None), table.c.id > after)
        .order_by(table.c.id)
        .limit(limit)
    )
    return [Unassigned(*row) for row in tx.execute(query)]


def assign(tx: Connection, spec: Spec, scan_id: int, to: Belongs, who: str, why: str | None, now: datetime) -> bool:
    """Give a scan its proposal; False when nothing is new, or a person has said otherwise. The catalogue entry is due
    again, and a scan that was held only since its proposal was not known goes on."""
    values = {
        "proposal": to.proposal, "investigator": to.investigator, "groups": list(to.groups), "proposal_from": to.source,
    }  # fmt: skip
    before = scans.get(tx, scan_id)
    if to.proposal is None or (before.proposal_from == policy.PERSON and to.source != policy.PERSON):
        return False
    if all((getattr(before, name) or None) == (value or None) for name, value in values.items()):
        return False
    tx.execute(sa.update(table).where(table.c.id == scan_id).values(changed_at=now, **values))
    details = {**values, "before": before.proposal}
    history.record(tx, now, who, "assigned", beamline=spec.id, scan_id=scan_id, why=why, details=details)
    decide(tx, spec, scans.get(tx, scan_id), who, now)
    tell_catalogue(tx, spec, scan_id, "its proposal has changed", now)
    return True


def decide(tx: Connection, spec: Spec, scan: Scan, who: str, now: datetime) -> str | None:
    """Bring a scan in line with today's rules of export control; returns why nothing of it may leave, or None.

    Only what was held for the lack of a proposal is let go this way, and nothing that a person has released is held.
    """
    if scan.unrestricted is not None:
        return scan.restricted
    reason = restricted_by(spec.export_control, scan.path, scan.proposal, notified=False)
    if scan.restricted is None and reason is not None:
        restrict(tx, spec, scan.id, reason, who, now)
        return reason
    if scan.restricted == NO_PROPOSAL and reason != NO_PROPOSAL:
        _set(tx, scan.id, now, restricted=reason)
        known_now = f"its proposal is known: {scan.proposal}" if scan.proposal else "a proposal is no longer demanded"
        what = "restricted" if reason else "released from export control"
        history.record(tx, now, who, what, beamline=spec.id, scan_id=scan.id, why=reason or known_now)
        flow.advance(tx, spec, [scan.id], now)
        return reason
    return scan.restricted


def held(spec: Spec, mine: Sequence[Scan]) -> list[Scan]:
    """Those of the scans of which nothing may leave the beamline: by the ledger, or by today's rules."""

    def by_rule(scan: Scan) -> bool:
        rule = spec.export_control
        return scan.unrestricted is None and restricted_by(rule, scan.path, scan.proposal, notified=False) is not None

    return [scan for scan in mine if scan.restricted is not None or by_rule(scan)]


def restrict(tx: Connection, spec: Spec, scan_id: int, reason: str, who: str, now: datetime) -> bool:
    """Nothing more of the scan may leave the beamline. What is under way is not ended by this: see `under_way`."""
    if not _set(tx, scan_id, now, table.c.restricted.is_(None), restricted=reason, unrestricted=None):
        return False
    withdraw_unsent(tx, scan_id, now)
    live = [f"{t.system} {t.external_id or t.proposed_key}" for t in under_way(tx, scan_id)]
    details = {"under way": live} if live else None
    history.record(tx, now, who, "restricted", beamline=spec.id, scan_id=scan_id, why=reason, details=details)
    flow.advance(tx, spec, [scan_id], now)
    return True


def release(tx: Connection, spec: Spec, scan_id: int, who: str, why: str, now: datetime) -> bool:
    """A person has decided that export control does not hold the scan. False when it was said already."""
    said = f"{who}: {why}"
    news = table.c.restricted.is_not(None) | table.c.unrestricted.is_(None)
    if not _set(tx, scan_id, now, news, restricted=None, unrestricted=said):
        return False
    history.record(tx, now, who, "released from export control", beamline=spec.id, scan_id=scan_id, why=why)
    flow.advance(tx, spec, [scan_id], now)
    tell_catalogue(tx, spec, scan_id, "it was released from export control", now)
    return True


def under_way(tx: Connection, scan_id: int) -> list[Task]:
    """The tasks that carry something of the scan at this moment."""
    return [task for task in tasks.of_scan(tx, scan_id) if task.live]


def tell_catalogue(tx: Connection, spec: Spec, scan_id: int, why: str, now: datetime) -> None:
    """The entry of the scan is due again."""
    if scans.get(tx, scan_id).restricted is None:
        for asset in spec.assets():
            if asset.kind is Kind.CATALOG:
                steps.do_again(tx, scan_id, asset.name, why, now)


def _set(tx: Connection, scan_id: int, now: datetime, *guards: sa.ColumnElement[bool], **values: str | None) -> bool:
    where = table.c.id == scan_id
    return bool(tx.execute(sa.update(table).where(where, *guards).values(changed_at=now, **values)).rowcount)


def known(tx: Connection, beamline: str, keys: Sequence[str]) -> tuple[list[Scan], list[str]]:
    """The scans of these keys, and the keys of which there is none."""
    found = {key: scans.find(tx, beamline, key) for key in keys}
    return [scan for scan in found.values() if scan is not None], [key for key, scan in found.items() if scan is None]


def withdraw_unsent(tx: Connection, scan_id: int, now: datetime) -> int:
    """Give up the tasks of a scan that were never sent; returns how many. (Nobody would send them, but they would look
    as if they were under way.)"""
    why = "not sent: one of its scans has become export-controlled"
    unsent = [task for task in under_way(tx, scan_id) if task.external_id is None and task.tried_at is None]
    return sum(tasks.withdraw(tx, task, why, now) for task in unsent)
