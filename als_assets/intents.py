"""Committing what is about to be asked of a facility, before it is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import sqlalchemy as sa

from als_assets.family import ByTask, Family
from resources.ledger import Ledger, schema, tasks
from resources.ledger.scans import Scan


class BegunElsewhere(Exception):
    """Another run was faster for at least one of the scans; nothing was written."""


def intend(ledger: Ledger, family: Family, work: ByTask) -> int:
    """Write down a task and put the steps of its scans in flight, all or none. Raises BegunElsewhere."""
    try:
        with ledger.write() as tx:
            key = proposed_key(tx, family.spec.id, family.asset.name, work.purpose, work.scans)
            return tasks.intend(
                tx,
                ledger.now(),
                beamline=family.spec.id,
                asset=family.asset.name,
                purpose=work.purpose,
                system=work.system.system,
                service=work.system.service,
                proposed_key=key,
                request=dict(work.request(key)),
                attempt=work.attempt,
                scan_ids=[scan.id for scan in work.scans],
            )
    except (tasks.Faster, sa.exc.IntegrityError) as error:
        raise BegunElsewhere(str(error)) from error


def proposed_key(tx: sa.Connection, beamline: str, asset: str, purpose: str, members: Sequence[Scan]) -> str:
    """Computed from what is asked for whom, and the how-many-eth time: a ledger restored from yesterday proposes
    the same keys again, and finds what was submitted under them."""
    asked = (
        sa.select(schema.task_scans.c.scan_id, sa.func.count())
        .join_from(schema.task_scans, schema.tasks, schema.tasks.c.id == schema.task_scans.c.task_id)
        .where(schema.tasks.c.asset == asset, schema.tasks.c.purpose == purpose)
        .where(schema.task_scans.c.scan_id.in_([scan.id for scan in members]))
        .group_by(schema.task_scans.c.scan_id)
    )
    times = {scan_id: n for scan_id, n in tx.execute(asked)}
    whom = sorted(f"{scan.hash}:{times.get(scan.id, 0)}" for scan in members)
    text = "\n".join([beamline, asset, purpose, *whom])
    return f"als-{beamline}-{purpose}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
