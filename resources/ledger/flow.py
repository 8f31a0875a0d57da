"""Bringing the steps of scans up to date with today's rules. Called whenever something about a scan has come true."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy.engine import Connection

from beamlines.policy import due as policy
from beamlines.spec import Kind, Spec
from resources.ledger import scans, steps
from resources.ledger.scans import Scan
from resources.ledger.steps import First, Step


def advance(tx: Connection, spec: Spec, scan_ids: Collection[int], now: datetime) -> None:
    """Create the steps that the spec demands, and make those due that nothing blocks any more.

    Repeating it changes nothing; a spec that has gained an asset, or wants an analysis of more scans, gives every scan
    that passes here the new step.
    """
    found = scans.many(tx, scan_ids)
    have: dict[int, dict[str, Step]] = {scan_id: {} for scan_id in found}
    for step in steps.of_scans(tx, list(found)):
        have[step.scan_id][step.asset] = step
    lost = scans.in_state(tx, list(found), spec.scans.watch, "lost")
    created: list[First] = []
    for scan_id, scan in found.items():
        created += _advance(tx, spec, scan, have[scan_id], scan_id in lost, now)
    steps.create(tx, created, now)


def _advance(
    tx: Connection, spec: Spec, scan: Scan, have: Mapping[str, Step], lost: bool, now: datetime
) -> list[First]:
    """Move the steps of one scan; returns those that are to be created."""
    created: list[First] = []
    done = {name for name, step in have.items() if step.state == steps.DONE} | {spec.noticed}
    facts = policy.Facts(scan.path, done, scan.missing, scan.restricted, lost)
    for asset in spec.assets():
        step = have.get(asset.name)
        if asset.kind is Kind.NOTICED:
            if step is None:
                created.append(First(scan.id, scan.beamline, asset.name, steps.DONE))
            continue
        asked = step is not None and step.asked_by is not None
        unwanted = None if asked else policy.wanted(spec, asset, facts)
        waits = policy.blocked_by(spec, asset, facts)
        if step is None:
            state = steps.NOT_APPLICABLE if unwanted else steps.BLOCKED if waits else steps.DUE
            created.append(First(scan.id, scan.beamline, asset.name, state, unwanted or waits))
        elif scan.restricted and step.state in (steps.DUE, steps.WORKING):
            steps.hold_back(tx, scan.id, asset.name, scan.restricted, now)
        elif lost and unwanted and step.state in (steps.DUE, steps.FAILED):
            steps.drop(tx, scan.id, asset.name, unwanted, now, leaving=(steps.DUE, steps.FAILED))
        elif step.state not in (steps.BLOCKED, steps.NOT_APPLICABLE):
            continue
        elif unwanted:
            steps.drop(tx, scan.id, asset.name, unwanted, now)
        elif waits:
            steps.block(tx, scan.id, asset.name, waits, now, leaving=step.state)
        else:
            steps.unblock(tx, scan.id, asset.name, now)
    return created


def came_true(tx: Connection, spec: Spec, scan_id: int, asset: str, now: datetime) -> None:
    """`asset` of a scan was made or made again: what waited for it is due, what tells of it is due again."""
    advance(tx, spec, [scan_id], now)
    for name in policy.again_after(spec, asset):
        steps.do_again(tx, scan_id, name, f"{asset} has changed", now)


def ask(tx: Connection, spec: Spec, scan_ids: Collection[int], asset: str, run_id: str, now: datetime) -> int:
    """A person wants `asset` of these scans (again); returns for how many that is news. What did not apply until now
    waits, as every step, for what it needs. Of a scan that may not leave the beamline nothing changes."""
    found = {scan_id: scan for scan_id, scan in scans.many(tx, scan_ids).items() if not scan.restricted}
    asked = steps.ask(tx, list(found), asset, run_id, now)
    have: dict[int, dict[str, Step]] = {scan_id: {} for scan_id in found}
    for step in steps.of_scans(tx, list(found)):
        have[step.scan_id][step.asset] = step
    for scan_id, scan in found.items():
        mine = have[scan_id].get(asset)
        done = {name for name, step in have[scan_id].items() if step.state == steps.DONE}
        waits = policy.blocked_by(spec, spec.asset(asset), policy.Facts(scan.path, done, scan.missing))
        if mine is not None and mine.state == steps.DUE and waits:
            steps.block(tx, scan_id, asset, waits, now, leaving=steps.DUE)
    return asked
