"""Scans that exist, brought in line with what has changed since: the spec, the schedule of proposals.

Steps are made when something about a scan comes true, so scans for which nothing more comes true would never hear of a
spec that wants more of them (mode: observe → copy → full, a new analysis). The spec of a process never changes, so each
process looks once, from the newest scan to the oldest, some at each tick; the same for each state of the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from beamlines.spec import Spec
from resources.ledger import Ledger, assignments, flow, schema
from resources.proposals import Schedule
from sensors import names

AT_ONCE = 200  # scans per tick


@dataclass
class Progress:
    """How far this process has come. `below`: ids that were not looked at yet; None: all were. `after`: for the
    schedule, in the other direction."""

    spec: Spec
    below: int | None = 1 << 62
    stamp: object = None
    after: int = 0
    assigned: bool = False


_progress: dict[tuple[str, str], Progress] = {}


def _of(ledger: Ledger, spec: Spec) -> Progress:
    key = (ledger.url, spec.id)
    known = _progress.get(key)
    if known is None or known.spec != spec:
        known = _progress[key] = Progress(spec)
    return known


def catch_up(ledger: Ledger, spec: Spec) -> int:
    """Give scans of the active window the steps that today's spec wants and that they lack. Returns how many scans
    were changed."""
    mine = _of(ledger, spec)
    below = mine.below  # another thread may be at it, too: then it is done twice, which changes nothing
    if below is None:
        return 0
    wanted = [asset.name for asset in spec.assets()]
    s, t = schema.scans, schema.steps
    have = sa.select(sa.func.count()).where(t.c.scan_id == s.c.id, t.c.asset.in_(wanted)).scalar_subquery()
    with ledger.read() as tx:
        query = (
            sa.select(s.c.id, have)
            .where(s.c.beamline == spec.id, s.c.id < below, s.c.retired_at.is_(None))
            .order_by(s.c.id.desc())
            .limit(50 * AT_ONCE)
        )
        looked = [(int(i), int(n)) for i, n in tx.execute(query)]
    lacking = [i for i, n in looked if n < len(wanted)][:AT_ONCE]
    if lacking:
        with ledger.write() as tx:
            flow.advance(tx, spec, lacking, ledger.now())
    if len(lacking) == AT_ONCE:
        mine.below = min(lacking)
    else:
        mine.below = looked[-1][0] if len(looked) == 50 * AT_ONCE else None
    return len(lacking)


def assign(ledger: Ledger, spec: Spec, shifts: Schedule) -> int:
    """Give the scans that have no proposal the one that the schedule, once it is there or mended, says. Returns to how
    many."""
    mine = _of(ledger, spec)
    if shifts.stamp is None or shifts.shifts is None:
        return 0
    if mine.stamp != shifts.stamp:
        mine.stamp, mine.after, mine.assigned = shifts.stamp, 0, False
    if mine.assigned:
        return 0
    with ledger.read() as tx:
        some = assignments.unassigned(tx, spec.id, mine.after, 10 * AT_ONCE)
    found = [(one, shifts.belongs(spec, one.path, None, one.written, one.first_seen)) for one in some]
    known = [(one, to) for one, to in found if to.proposal is not None]
    for begin in range(0, len(known), AT_ONCE):
        with ledger.write() as tx:
            for one, to in known[begin : begin + AT_ONCE]:
                assignments.assign(tx, spec, one.id, to, names.new_scans_sensor(spec.id), None, ledger.now())
    mine.assigned = len(some) < 10 * AT_ONCE
    mine.after = some[-1].id if some else mine.after
    return len(known)
