"""What in the ledger is a matter for staff, as alerts: failed and asked-about scans, services that rest, runs without
progress, files that are stuck in the trash. One indexed query each; reads only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from beamlines.spec import Spec
from resources.ledger import leases, steps
from resources.ledger.alerts import Trouble
from resources.ledger.removals import STUCK
from resources.ledger.schema import copies, removals, scans
from resources.ledger.schema import leases as lease_table
from resources.ledger.schema import steps as step_table

KINDS = ("failed", "question", "credential", "resting", "idle", "trash")
IDLE_RUNS = 3
TRIED_LATELY = timedelta(minutes=5)


def concerns(tx: Connection, specs: Sequence[Spec], now: datetime, resting: timedelta) -> list[Trouble]:
    """Everything that is the matter now, as far as the ledger knows."""
    found = []
    for spec in specs:
        found += _failed(tx, spec)
        found += _questions(tx, spec.id)
    return [*found, *_services(tx, now, resting), *_idle(tx), *_stuck(tx)]


def _failed(tx: Connection, spec: Spec) -> list[Trouble]:
    out = []
    for asset in spec.assets():
        query = (
            sa.select(scans.c.id, scans.c.key, step_table.c.why)
            .join_from(step_table, scans, scans.c.id == step_table.c.scan_id)
            .where(step_table.c.beamline == spec.id, step_table.c.asset == asset.name)
            .where(step_table.c.state == steps.FAILED)
            .order_by(scans.c.id)
        )
        for scan_id, key, why in tx.execute(query):
            words = why or f"{key}: {asset.name} failed, and no reason was kept"
            out.append(Trouble(f"failed/{spec.id}/{asset.name}/{key}", words, spec.id, scan_id))
    return out


def _questions(tx: Connection, beamline: str) -> list[Trouble]:
    query = sa.select(scans.c.id, scans.c.key, scans.c.question).where(
        scans.c.beamline == beamline, scans.c.question.is_not(None)
    )
    return [Trouble(f"question/{beamline}/{key}", words, beamline, i) for i, key, words in tx.execute(query)]


def _services(tx: Connection, now: datetime, resting: timedelta) -> list[Trouble]:
    """A credential at once: it does not pass. Anything else after a while, and only while somebody keeps trying."""
    out = []
    for rest in leases.all_pauses(tx):
        if rest.person:
            out.append(Trouble(f"credential/{rest.service}", f"{rest.service}: {rest.reason}"))
        elif now - rest.since >= resting and now < rest.until + TRIED_LATELY:
            out.append(Trouble(f"resting/{rest.service}", f"since {rest.since:%Y-%m-%d %H:%M} UTC: {rest.reason}"))
    return out


def _idle(tx: Connection) -> list[Trouble]:
    query = sa.select(lease_table.c.name, lease_table.c.idle_runs).where(lease_table.c.idle_runs >= IDLE_RUNS)
    return [
        Trouble(
            f"idle/{name}",
            f"{runs} automatic runs of {name} in a row made no progress; the next ones wait longer. What to do: look "
            "at the errors of the last of these runs.",
            name.partition("/")[0],
        )
        for name, runs in tx.execute(query)
    ]


def _stuck(tx: Connection) -> list[Trouble]:
    query = (
        sa.select(scans.c.id, scans.c.key, removals.c.beamline, removals.c.place, removals.c.note)
        .join_from(removals, copies, copies.c.id == removals.c.copy_id)
        .join(scans, scans.c.id == copies.c.scan_id)
        .where(removals.c.live.is_(True), removals.c.state == STUCK)
    )
    return [
        Trouble(
            f"trash/{beamline}/{place}/{key}",
            f"{key}: its files in the trash of {beamline}/{place} can go neither on nor back: "
            f"{(note or 'no reason was kept').rstrip('.')}.",
            beamline,
            scan_id,
        )
        for scan_id, key, beamline, place, note in tx.execute(query)
    ]
