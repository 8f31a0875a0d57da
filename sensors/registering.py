"""Settled groups of files become scans, with all that is known of them by then: proposal, export control, notices.

Export control is decided here, in the transaction that makes the scan: before anything of it can be copied.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy.engine import Connection

from beamlines.policy import names as policy_names
from beamlines.policy import proposal as proposals
from beamlines.policy.grouping import Group
from beamlines.policy.proposal import Belongs
from beamlines.policy.restricted import restricted_by
from beamlines.spec import Spec
from resources.ledger import Ledger, assignments, flow, history, notices, refusals, scans, steps
from resources.ledger.notices import Notice
from resources.ledger.scans import Known, Scan
from resources.proposals import Schedule
from sensors import names


def shown(path: str) -> str:
    """A name that may be no valid text, for people and for the ledger: ASCII, and short enough to be indexed."""
    text = ascii(path)
    most = policy_names.MOST_KEY
    return text if len(text) <= most else f"{text[: most - 20]}…{policy_names.hash_of('', text)}"


def nothing_new(found: Group, known: Mapping[str, Known]) -> bool:
    return all(known[path].scan_id is not None for path in found.files.values())


def register(
    ledger: Ledger, spec: Spec, ready: Collection[tuple[Group, str]], judged: Mapping[str, Known], shifts: Schedule
) -> list[int]:
    """Make scans of settled groups, in one transaction; returns their ids. What another process has registered, or
    has seen change, since `judged` was read is left alone."""
    out: list[int] = []
    with ledger.write() as tx:
        now = ledger.now()
        paths = [path for found, _ in ready for path in found.files.values()]
        known = scans.remembered(tx, spec.id, paths)
        told = notices.of_paths(tx, spec.id, paths)
        for found, why in ready:
            mine = list(found.files.values())
            if nothing_new(found, known) or any(known[path].sighting != judged[path].sighting for path in mine):
                continue
            if known[found.path].scan_id is None:
                said = [told[path] for path in mine if path in told]
                out.append(_new(tx, spec, found, why, known, said, shifts, now))
            else:
                out.append(_extended(tx, spec, found, why, known, now))
            notices.taken_up(tx, spec.id, mine, out[-1])
        refusals.unrefuse(tx, spec.id, [shown(found.path) for found, _ in ready])
        flow.advance(tx, spec, out, now)
    return out


def _new(
    tx: Connection,
    spec: Spec,
    found: Group,
    why: str,
    known: Mapping[str, Known],
    told: Collection[Notice],
    shifts: Schedule,
    now: datetime,
) -> int:
    sighting = known[found.path].sighting
    before = scans.latest_version(tx, spec.id, found.path)
    said = next((notice.proposal for notice in told if notice.proposal and notice.scan_id is None), None)
    to = shifts.belongs(spec, found.path, said, sighting.mtime, sighting.first_seen)
    if before is not None and said is None and before.proposal is not None:
        to = Belongs(before.proposal, before.investigator, tuple(before.groups or ()), before.proposal_from)
    restricted = restricted_by(
        spec.export_control, found.path, to.proposal, notified=any(notice.restricted for notice in told)
    ) or _of_first(before)
    scan_id = scans.register(tx, spec.id, spec.scans.watch, found, known, now, to, restricted)
    details = {"proposal": to.proposal, "proposal_from": to.source, "no proposal": to.why}
    history.record(
        tx, now, names.new_scans_sensor(spec.id), "noticed", beamline=spec.id, scan_id=scan_id, why=why or None,
        details={name: value for name, value in details.items() if value},
    )  # fmt: skip
    if restricted:
        who = names.new_scans_sensor(spec.id)
        history.record(tx, now, who, "restricted", beamline=spec.id, scan_id=scan_id, why=restricted)
    return scan_id


def _of_first(before: Scan | None) -> str | None:
    """What holds a scan holds what is written over it."""
    return before.restricted if before is not None else None


def _extended(tx: Connection, spec: Spec, found: Group, why: str, known: Mapping[str, Known], now: datetime) -> int:
    scan_id = scans.register(tx, spec.id, spec.scans.watch, found, known, now)
    who = names.new_scans_sensor(spec.id)
    history.record(tx, now, who, "companion", beamline=spec.id, scan_id=scan_id, why=why or None)
    for copy in spec.copies:  # they lack a file now
        steps.do_again(tx, scan_id, f"raw_at_{copy.place}", "a companion came late", now)
    return scan_id


def take_up(
    ledger: Ledger, spec: Spec, told: Mapping[str, Notice], known: Mapping[str, Known], shifts: Schedule
) -> int:
    """Notices of files that are scans already: what they say is kept with the scan. Returns how many there were."""
    late = {path: one.scan_id for path in told if (one := known.get(path)) is not None and one.scan_id is not None}
    if not late:
        return 0
    with ledger.write() as tx:
        now = ledger.now()
        for path, scan_id in late.items():
            notice = told[path]
            who = f"notice by {notice.who}"
            if notice.restricted:
                reason = restricted_by(spec.export_control, path, None, notified=True)
                assert reason is not None
                assignments.restrict(tx, spec, scan_id, reason, who, now)
            if notice.proposal:
                to = shifts.of(notice.proposal, proposals.NOTIFIED)
                assignments.assign(tx, spec, scan_id, to, who, None, now)
            if notice.document:
                assignments.tell_catalogue(tx, spec, scan_id, "a notice came", now)
            notices.taken_up(tx, spec.id, [path], scan_id)
    return len(late)
