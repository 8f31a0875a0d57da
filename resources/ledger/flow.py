"""Bringing the steps of scans up to date with today's rules. Called whenever something about a scan has come true."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy.engine import Connection

from beamlines.policy import due as policy
from beamlines.spec import Kind, Spec
from resources.ledger import scans, steps


def advance(tx: Connection, spec: Spec, scan_ids: Iterable[int], now: datetime) -> None:
    """Create the steps that the spec demands, and make those due that nothing blocks any more.

    Repeating it changes nothing; a spec that has gained an asset gives every scan that passes here the new step.
    """
    found = scans.many(tx, list(scan_ids))
    for scan_id, scan in found.items():
        have = {step.asset: step for step in steps.of_scan(tx, scan_id)}
        done = {name for name, step in have.items() if step.state == steps.DONE}
        facts = policy.Facts(scan.path, done, scan.missing)
        for asset in spec.assets():
            step = have.get(asset.name)
            if asset.kind is Kind.NOTICED:
                if step is None:
                    steps.create(tx, scan_id, scan.beamline, asset.name, steps.DONE, now)
                    done.add(asset.name)
                continue
            unwanted = policy.wanted(spec, asset, facts)
            waits = policy.blocked_by(spec, asset, facts)
            if step is None:
                state = steps.NOT_APPLICABLE if unwanted else steps.BLOCKED if waits else steps.DUE
                steps.create(tx, scan_id, scan.beamline, asset.name, state, now, unwanted or waits)
            elif step.state == steps.BLOCKED and waits:
                steps.block(tx, scan_id, asset.name, waits, now)
            elif step.state == steps.BLOCKED:
                steps.unblock(tx, scan_id, asset.name, now)


def came_true(tx: Connection, spec: Spec, scan_id: int, asset: str, now: datetime) -> None:
    """`asset` of a scan was made or made again: what waited for it is due, what tells of it is due again."""
    advance(tx, spec, [scan_id], now)
    for name in policy.again_after(spec, asset):
        steps.do_again(tx, scan_id, name, f"{asset} has changed", now)
