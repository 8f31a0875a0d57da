"""What has been seen on the detector's disk, and the scans that it has become."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from beamlines.policy.grouping import PRIMARY, Group
from beamlines.policy.names import folder_of_version, hash_of, key_of
from beamlines.policy.proposal import Belongs
from beamlines.policy.settled import Sighting
from resources.ledger.schema import copies, evidence, files, scans, sightings, watches
from resources.ledger.steps import chunks


@dataclass(frozen=True)
class Listed:
    """A file as a listing showed it."""

    path: str
    bytes: int
    mtime: datetime


@dataclass(frozen=True)
class File:
    id: int
    role: str
    path: str
    bytes: int
    mtime: datetime
    sha256: str | None


@dataclass(frozen=True)
class Scan:
    id: int
    beamline: str
    key: str
    hash: str
    path: str
    proposal: str | None
    proposal_from: str | None
    investigator: str | None
    groups: list[str] | None
    restricted: str | None
    unrestricted: str | None
    missing: list[str]
    question: str | None
    noticed_at: datetime
    announced_at: datetime | None
    retired_at: datetime | None
    changed_at: datetime

    @property
    def folder(self) -> str:
        """Where its copies are, relative to any place but the watched one: "" unless it is a later version."""
        return folder_of_version(self.key)


@dataclass(frozen=True)
class Known:
    """A sighting as the ledger has it. changed: it was another file when it was seen last."""

    sighting: Sighting
    scan_id: int | None
    changed: bool = False

    def shows(self, entry: Listed) -> bool:
        return (self.sighting.bytes, self.sighting.mtime) == (entry.bytes, entry.mtime)


def remembered(tx: Connection, beamline: str, paths: Iterable[str]) -> dict[str, Known]:
    """What is known of these files."""
    out: dict[str, Known] = {}
    for block in chunks(paths):
        where = (sightings.c.beamline == beamline) & sightings.c.path.in_(block)
        for row in tx.execute(sa.select(sightings).where(where)).mappings():
            sighting = Sighting(
                row["path"], row["bytes"], row["mtime"], row["first_seen"], row["unchanged_since"]
            )  # fmt: skip
            out[row["path"]] = Known(sighting, row["scan_id"])
    return out


def see(tx: Connection, beamline: str, listed: Iterable[Listed], now: datetime) -> dict[str, Known]:
    """Remember a listing; returns what is now known of each file in it. Writes only what is new or has changed."""
    entries = {entry.path: entry for entry in listed}
    out = remembered(tx, beamline, entries)
    for path, known in list(out.items()):
        entry = entries[path]
        if known.shows(entry):
            continue
        changed = {"bytes": entry.bytes, "mtime": entry.mtime, "unchanged_since": now}
        one = (sightings.c.beamline == beamline) & (sightings.c.path == path)
        tx.execute(sa.update(sightings).where(one).values(**changed))
        sighting = Sighting(path, entry.bytes, entry.mtime, known.sighting.first_seen, now)
        out[path] = Known(sighting, known.scan_id, changed=True)
    new = [entry for path, entry in entries.items() if path not in out]
    for rows in chunks(new):
        values = [
            {"beamline": beamline, "path": e.path, "bytes": e.bytes, "mtime": e.mtime, "first_seen": now} for e in rows
        ]
        tx.execute(sa.insert(sightings), [{**v, "unchanged_since": now} for v in values])
    for e in new:
        out[e.path] = Known(Sighting(e.path, e.bytes, e.mtime, now, now), None)
    return out


def watched_since(tx: Connection, beamline: str) -> datetime | None:
    """When the first whole listing of the watched place had ended; None before that."""
    found: datetime | None = tx.execute(sa.select(watches.c.began_at).where(watches.c.beamline == beamline)).scalar()
    return found


def begin_watch(tx: Connection, beamline: str, now: datetime) -> None:
    if watched_since(tx, beamline) is None:
        tx.execute(sa.insert(watches).values(beamline=beamline, began_at=now))


NOBODY = Belongs()


def register(
    tx: Connection,
    beamline: str,
    place: str,
    group: Group,
    seen: Mapping[str, Known],
    now: datetime,
    to: Belongs = NOBODY,
    restricted: str | None = None,
) -> int:
    """Make a scan of settled files, with its copy where the detector wrote it. Returns its id; a scan that is there
    already gets the files that it lacks (a late companion). Files that were written anew, and have been let go from
    their scan for that, become the next version of it."""
    key = key_of(group.path)
    present = seen[group.path].scan_id or _same_as_recorded(tx, beamline, place, group, seen)
    if present is not None:
        scan_id = present
        tx.execute(sa.update(scans).where(scans.c.id == scan_id).values(missing=group.missing, changed_at=now))
    else:
        key = next_key(tx, beamline, group.path)
        result = tx.execute(
            sa.insert(scans).values(
                beamline=beamline,
                key=key,
                hash=hash_of(beamline, key),
                path=group.path,
                proposal=to.proposal,
                proposal_from=to.source,
                investigator=to.investigator,
                groups=list(to.groups) or None,
                restricted=restricted,
                missing=group.missing,
                noticed_at=now,
                changed_at=now,
            )
        )
        scan_id = int((result.inserted_primary_key or [0])[0])
    row = present is not None
    copy_id = keep_copy(tx, scan_id, place, "present", root="")
    there = set(tx.execute(sa.select(files.c.path).where(files.c.scan_id == scan_id)).scalars()) if row else set()
    rows = [
        {"scan_id": scan_id, "role": role, "path": path, "bytes": is_now.bytes, "mtime": is_now.mtime}
        for role, path in group.files.items()
        if path not in there
        for is_now in [seen[path].sighting]
    ]
    if rows:
        made = tx.execute(sa.insert(files).returning(files.c.id, files.c.bytes, files.c.mtime), rows).all()
        listing = {"copy_id": copy_id, "method": "listing", "digest": None, "at": now, "task_id": None}
        proof = [{**listing, "file_id": i, "bytes": size, "mtime": mtime} for i, size, mtime in made]
        tx.execute(sa.insert(evidence), proof)
    mine = (sightings.c.beamline == beamline) & sightings.c.path.in_(list(group.files.values()))
    tx.execute(sa.update(sightings).where(mine).values(scan_id=scan_id))
    return scan_id


def _same_as_recorded(tx: Connection, beamline: str, place: str, group: Group, seen: Mapping[str, Known]) -> int | None:
    """The scan whose files these are, by sizes and times, although their sightings do not say so (the old content has
    been put back)."""
    latest = latest_version(tx, beamline, group.path)
    if latest is None:
        return None
    for file in files_of(tx, [latest.id])[latest.id]:
        known = seen.get(file.path)
        if known is None or (known.sighting.bytes, known.sighting.mtime) != (file.bytes, file.mtime):
            return None
    gone = (copies.c.scan_id == latest.id) & (copies.c.place == place) & (copies.c.state == "lost")
    tx.execute(sa.update(copies).where(gone).values(state="present", pruned_at=None))
    return latest.id


def next_key(tx: Connection, beamline: str, path: str) -> str:
    """The key of the first version of a path that is no scan yet."""
    version = 1
    while find(tx, beamline, key_of(path, version)) is not None:
        version += 1
    return key_of(path, version)


def latest_version(tx: Connection, beamline: str, path: str) -> Scan | None:
    """The scan that was made last of the files of this name, or None."""
    version, found = 1, find(tx, beamline, key_of(path))
    while found is not None:
        version += 1
        later = find(tx, beamline, key_of(path, version))
        if later is None:
            return found
        found = later
    return None


def let_go(tx: Connection, beamline: str, scan_id: int) -> int:
    """The files that are listed are no longer those of this scan: once settled, they make its next version."""
    mine = (sightings.c.beamline == beamline) & (sightings.c.scan_id == scan_id)
    return tx.execute(sa.update(sightings).where(mine).values(scan_id=None)).rowcount


def copy_is(tx: Connection, scan_id: int, place: str, state: str, now: datetime) -> bool:
    """What has become of the copy in a place: "lost", or "pruned", with the time."""
    one = (copies.c.scan_id == scan_id) & (copies.c.place == place) & (copies.c.state != state)
    return bool(tx.execute(sa.update(copies).where(one).values(state=state, pruned_at=now)).rowcount)


def in_state(tx: Connection, scan_ids: Collection[int], place: str, state: str) -> set[int]:
    """Those of the scans whose copy in a place is in this state."""
    out: set[int] = set()
    for block in chunks(scan_ids):
        where = copies.c.scan_id.in_(block) & (copies.c.place == place) & (copies.c.state == state)
        out |= set(tx.execute(sa.select(copies.c.scan_id).where(where)).scalars())
    return out


def places_of(tx: Connection, scan_id: int) -> list[str]:
    """The places in which there is a copy of the scan, whole or not, proven or not."""
    gone = copies.c.state.in_(["pruned", "lost"])
    query = sa.select(copies.c.place).where(copies.c.scan_id == scan_id, ~gone)
    return list(tx.execute(query.order_by(copies.c.id)).scalars())


def pruned_at(tx: Connection, scan_id: int, place: str) -> datetime | None:
    """When the copy in a place was deleted; None while it is there, or when there never was one."""
    gone = (copies.c.scan_id == scan_id) & (copies.c.place == place) & (copies.c.state == "pruned")
    found: datetime | None = tx.execute(sa.select(copies.c.pruned_at).where(gone)).scalar()
    return found


def verified_in(tx: Connection, scan_id: int) -> list[str]:
    """The places that have a verified copy of the scan."""
    query = sa.select(copies.c.place).where(copies.c.scan_id == scan_id, copies.c.state == "verified")
    return list(tx.execute(query.order_by(copies.c.id)).scalars())


def keep_copy(tx: Connection, scan_id: int, place: str, state: str, root: str) -> int:
    """The id of the scan's copy in a place, made in this state if there is none."""
    query = sa.select(copies.c.id).where(copies.c.scan_id == scan_id, copies.c.place == place)
    row = tx.execute(query).first()
    if row:
        return int(row[0])
    result = tx.execute(sa.insert(copies).values(scan_id=scan_id, place=place, state=state, root=root))
    return int((result.inserted_primary_key or [0])[0])


def verified(tx: Connection, copy_id: int, now: datetime) -> None:
    tx.execute(
        sa.update(copies).where(copies.c.id == copy_id).values(state="verified", verified_at=now, pruned_at=None)
    )


def add_evidence(
    tx: Connection,
    copy_id: int,
    file_id: int,
    method: str,
    digest: str | None,
    size: int,
    mtime: datetime | None,
    now: datetime,
    task_id: int | None,
) -> None:
    """What proves a file of a copy; the latest of each method counts."""
    values = {"digest": digest, "bytes": size, "mtime": mtime, "at": now, "task_id": task_id}
    one = (evidence.c.copy_id == copy_id) & (evidence.c.file_id == file_id) & (evidence.c.method == method)
    if not tx.execute(sa.update(evidence).where(one).values(**values)).rowcount:
        tx.execute(sa.insert(evidence).values(copy_id=copy_id, file_id=file_id, method=method, **values))


def evidence_in(tx: Connection, scan_id: int, place: str) -> dict[int, list[dict[str, Any]]]:
    """file id -> the evidence for it in a place."""
    query = (
        sa.select(evidence)
        .join_from(evidence, copies, evidence.c.copy_id == copies.c.id)
        .where(copies.c.scan_id == scan_id, copies.c.place == place)
    )
    out: dict[int, list[dict[str, Any]]] = {}
    for row in tx.execute(query).mappings():
        out.setdefault(row["file_id"], []).append(dict(row))
    return out


def keep_sha256(tx: Connection, file_id: int, digest: str) -> str | None:
    """The file's SHA-256 as first read; returns another one that was kept before, if it differs."""
    fresh = (files.c.id == file_id) & files.c.sha256.is_(None)
    if tx.execute(sa.update(files).where(fresh).values(sha256=digest)).rowcount:
        return None
    kept = tx.execute(sa.select(files.c.sha256).where(files.c.id == file_id)).scalar()
    return None if kept == digest else kept


def _scan(row: Any) -> Scan:
    return Scan(**{name: row[name] for name in Scan.__dataclass_fields__})


def get(tx: Connection, scan_id: int) -> Scan:
    return _scan(tx.execute(sa.select(scans).where(scans.c.id == scan_id)).mappings().one())


def find(tx: Connection, beamline: str, key: str) -> Scan | None:
    query = sa.select(scans).where(scans.c.beamline == beamline, scans.c.key == key)
    row = tx.execute(query).mappings().first()
    return _scan(row) if row else None


def many(tx: Connection, scan_ids: Collection[int]) -> dict[int, Scan]:
    out: dict[int, Scan] = {}
    for block in chunks(scan_ids):
        for row in tx.execute(sa.select(scans).where(scans.c.id.in_(block))).mappings():
            out[row["id"]] = _scan(row)
    return out


def latest(tx: Connection, beamline: str, limit: int, unassigned: bool = False) -> list[Scan]:
    query = sa.select(scans).where(scans.c.beamline == beamline).order_by(scans.c.id.desc()).limit(limit)
    if unassigned:
        query = query.where(scans.c.proposal.is_(None))
    return [_scan(row) for row in tx.execute(query).mappings()]


def files_of(tx: Connection, scan_ids: Collection[int]) -> dict[int, list[File]]:
    """scan id -> its files, the scan's own file first."""
    out: dict[int, list[File]] = {scan_id: [] for scan_id in scan_ids}
    for block in chunks(scan_ids):
        order = (files.c.role != PRIMARY, files.c.path)
        for row in tx.execute(sa.select(files).where(files.c.scan_id.in_(block)).order_by(*order)).mappings():
            out[row["scan_id"]].append(File(**{name: row[name] for name in File.__dataclass_fields__}))
    return out


def unannounced(tx: Connection, beamline: str, limit: int) -> list[Scan]:
    query = sa.select(scans).where(scans.c.beamline == beamline, scans.c.announced_at.is_(None))
    return [_scan(row) for row in tx.execute(query.order_by(scans.c.id).limit(limit)).mappings()]


def announced(tx: Connection, scan_ids: Collection[int], now: datetime) -> None:
    for block in chunks(scan_ids):
        where = scans.c.id.in_(block) & scans.c.announced_at.is_(None)
        tx.execute(sa.update(scans).where(where).values(announced_at=now))


def settle_question(tx: Connection, scan_id: int, beginning: str, now: datetime) -> bool:
    """The question that begins like this has been answered by what has come true since."""
    where = (scans.c.id == scan_id) & scans.c.question.startswith(beginning, autoescape=True)
    return bool(tx.execute(sa.update(scans).where(where).values(question=None, changed_at=now)).rowcount)


def ask_person(tx: Connection, scan_id: int, question: str, now: datetime) -> bool:
    """Put a question about a scan to a person; True when it is a new one."""
    where = (scans.c.id == scan_id) & scans.c.question.is_distinct_from(question)
    return bool(tx.execute(sa.update(scans).where(where).values(question=question, changed_at=now)).rowcount)
