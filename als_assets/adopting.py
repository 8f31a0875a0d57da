"""Files of scans that are in a place already: put there by the system that runs today, or the ledger was lost.

They are taken as copies, and not copied again, when they are the scan's own. A proof takes the SHA-256 of both ends:
read through a mount of this machine, or by als-describe in a job of the facility that sees the place. Where an end
cannot be read, equal sizes *and* times are taken as well, but as not proven: such a copy is never `verified`, does not
count as safe, and lets nothing be deleted. Whatever is not the same becomes a question; no file is touched.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from als_assets import intents
from als_assets.description import Describer
from als_assets.families import TRANSFER, storage, systems
from beamlines.policy.names import folder_of_version
from beamlines.spec import Asset, Kind, Spec
from resources import once
from resources.errors import Refused
from resources.facilities import Facilities
from resources.facilities import Place as FacilityPlace
from resources.ledger import Ledger, flow, history, removals, scans, schema, steps, tasks
from resources.ledger.scans import File, Listed, Scan
from resources.storage import joined

PROVEN, LISTED = "adopted-sha256", "adopted-listing"  # methods of evidence
PER_JOB = 50
SECOND = timedelta(seconds=1)
Digests = dict[int, str]  # file id → SHA-256


@dataclass
class Found:
    """A scan that lacks its copy, and what is in the place of it."""

    scan: Scan
    files: Sequence[File]
    there: Mapping[str, Listed]
    what: str = "absent"  # proven, adopted, unequal, partial, under_way, restricted, unreadable
    why: str = ""
    digests: Digests = field(default_factory=dict)


class Adopting:
    """Adoption of what is in one place of a beamline.

    Args:
        who: for the history. wait_s: for how long a job is waited for.
        say: is told what takes its time.
    """

    def __init__(
        self, ledger: Ledger, spec: Spec, facilities: Facilities, place: str, who: str, wait_s: float = 3600,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:  # fmt: skip
        self.ledger, self.facilities, self.who, self.wait_s, self.say = ledger, facilities, who, wait_s, say
        # what is only observed today can be adopted as well: then it is not copied once copying begins
        self.spec = spec.model_copy(update={"mode": "copy"}) if spec.mode == "observe" else spec
        self.asset = self._asset(place)
        self.services = dict(facilities.services)
        self.target = storage(spec, place, facilities, self.services[TRANSFER])
        self.place = place

    def _asset(self, place: str) -> Asset:
        for asset in self.spec.assets():
            if asset.kind is Kind.COPY and asset.copy_to is not None and asset.copy_to.place == place:
                return asset
        places = ", ".join(copy.place for copy in self.spec.copies) or "none"
        raise Refused("adopt", f"{self.spec.id} makes no copies in {place!r}; it does in {places}")

    def run(self, dry_run: bool) -> list[Found]:
        """Every scan of the active window that lacks its copy, with what came of it. Raises Unavailable when the place
        cannot be listed: then nothing is concluded."""
        found = [one for block in steps.chunks(self._lacking(), 200) for one in self._look(block)]
        same = [one for one in found if one.what == "adopted"]
        if dry_run:
            return found
        self._prove(same)
        for one in found:
            self._settle(one)
        return found

    # looking

    def _lacking(self) -> list[int]:
        """Scans without a copy there that anybody has begun to make."""
        s, t = schema.scans, schema.steps
        done = sa.select(t.c.scan_id).where(
            t.c.scan_id == s.c.id, t.c.asset == self.asset.name, t.c.state.in_([steps.DONE, steps.NOT_APPLICABLE])
        )
        query = sa.select(s.c.id).where(s.c.beamline == self.spec.id, s.c.retired_at.is_(None), ~done.exists())
        with self.ledger.read() as tx:
            return list(tx.execute(query.order_by(s.c.id)).scalars())

    def _look(self, ids: Sequence[int]) -> list[Found]:
        with self.ledger.read() as tx:
            mine = scans.many(tx, ids)
            files = scans.files_of(tx, ids)
            ours = tasks.tried(tx, self.asset.name, ids)  # what is there may be of our own transfer
            live = {i for i in ids if any(task.live for task in tasks.of_scan(tx, i) if task.asset == self.asset.name)}
        paths = [joined(mine[i].folder, file.path) for i in ids for file in files[i]]
        listed = self.target.look(paths)
        out = []
        for scan_id in ids:
            scan, own = mine[scan_id], files[scan_id]
            there = {f.path: seen for f in own if (seen := listed.files.get(joined(scan.folder, f.path))) is not None}
            one = Found(scan, own, there)
            shut = {listed.closed[f] for p in own if (f := _folder(joined(scan.folder, p.path))) in listed.closed}
            if shut:
                one.what, one.why = "unreadable", f"its folder there may not be looked into: {shut.pop()}"
            elif scan_id in live or (scan_id in ours and there):
                one.what, one.why = "under_way", "the platform itself has begun to copy it"
            elif there:
                one.what, one.why = self._compared(one)
            out.append(one)
        return out

    def _compared(self, one: Found) -> tuple[str, str]:
        lacking = [file.path for file in one.files if file.path not in one.there]
        if lacking:
            return "partial", f"it has no {lacking[0]}, but other files of the scan"
        for file in one.files:
            seen = one.there[file.path]
            if seen.bytes != file.bytes:
                return "unequal", f"it has {seen.bytes} bytes, the scan's file {file.path} has {file.bytes}"
        if one.scan.restricted:
            return "restricted", f"it is there although {one.scan.restricted}"
        if self._same_time(one):
            return "adopted", "equal in size and time; its content is not proven"
        return "adopted", "equal in size, but not in time: it takes a comparison of the contents"

    def _same_time(self, one: Found) -> bool:
        return all(abs(one.there[file.path].mtime - file.mtime) < SECOND for file in one.files)

    # proving

    def _prove(self, same: Sequence[Found]) -> None:
        """Compare the digests of both ends, where both can be read."""
        at_source = self._digests(self.spec.scans.watch, same)
        wanted = [one for one in same if all(file.id in at_source for file in one.files)]
        in_place = self._digests(self.place, wanted)
        for one in same:
            one.digests = {f.id: in_place[f.id] for f in one.files if f.id in at_source and f.id in in_place}
            other = [f for f in one.files if f.id in one.digests and at_source[f.id] != one.digests[f.id]]
            if other:
                one.what = "unequal"
                one.why = (
                    f"{other[0].path} reads there as SHA-256 {one.digests[other[0].id][:16]}…, at the beamline as "
                    f"{at_source[other[0].id][:16]}…"
                )
            elif len(one.digests) == len(one.files):
                one.what, one.why = "proven", "the SHA-256 of both ends are equal"
            elif not self._same_time(one):
                one.what = "unequal"
                one.why = "its time is another one than that of the scan's file, and its content cannot be compared"

    def _digests(self, place: str, wanted: Sequence[Found]) -> Digests:
        """Of the files in a place as they are now; of what cannot be read there, none."""
        if not wanted:
            return {}
        at = self.facilities.place(self.spec.id, place)
        if at.mount is not None:
            return self._through_mount(place, Path(at.mount), wanted)
        facility = self.spec.catalog.facility if self.spec.catalog is not None else None
        if facility is not None and facility in at.paths:
            return self._by_jobs(place, at, wanted)
        return {}

    def _through_mount(self, place: str, root: Path, wanted: Sequence[Found]) -> Digests:
        self.say(f"reading {sum(len(one.files) for one in wanted)} files of {place} through {root}")
        out: Digests = {}
        for one in wanted:
            for file in one.files:
                path = root / _relative(self.spec, place, one.scan, file)
                digest = _read(path, file.bytes)
                if digest is not None:
                    out[file.id] = digest
        return out

    def _by_jobs(self, place: str, at: FacilityPlace, wanted: Sequence[Found]) -> Digests:
        """Through als-describe at the facility that sees the place, many scans in a job, which may be found again."""
        assert self.spec.catalog is not None
        facility = self.spec.catalog.facility
        compute = self.services[facility]
        describer = Describer(self.spec.catalog, place, at, compute, self.facilities.work(facility, self.spec.id))
        name = f"adopt_{place}"
        ids = [one.scan.id for one in wanted]
        with self.ledger.read() as tx:
            asked = removals.latest_looks(tx, name, ids)
        fresh = [one for one in wanted if not self._usable(asked.get(one.scan.id))]
        for block in steps.chunks(fresh, PER_JOB):
            with self.ledger.write() as tx:
                members = [one.scan for one in block]
                key = intents.proposed_key(tx, self.spec.id, name, removals.LOOK, members)
                tasks.ask(
                    tx, self.ledger.now(), beamline=self.spec.id, asset=name, purpose=removals.LOOK,
                    system=compute.system, service=compute.service, proposed_key=key, attempt=1,
                    request=dict(describer.request([(one.scan, one.files) for one in block])(key)),
                    scan_ids=[scan.id for scan in members],
                )  # fmt: skip
        self.say(f"waiting for {facility} to read {sum(len(one.files) for one in wanted)} files of {place}")
        ended = self._ended(name, ids)
        out: Digests = {}
        for one in wanted:
            if one.scan.id in ended:
                out |= _described(describer.fetch(ended[one.scan.id], one.scan), one)
        return out

    def _usable(self, task: tasks.Task | None) -> bool:
        """Under way, or read just now."""
        if task is None:
            return False
        look = self.facilities.pace.span("look_s")
        return task.live or (task.ended_at is not None and self.ledger.now() - task.ended_at < look)

    def _ended(self, name: str, ids: Collection[int]) -> dict[int, tasks.Task]:
        """scan id → its task, of those that have ended while we waited."""
        known = systems(self.services)
        until = time.monotonic() + self.wait_s
        while True:
            with self.ledger.read() as tx:
                asked = removals.latest_looks(tx, name, ids)
            live = {task.id: task for task in asked.values() if task.live}
            if not live or time.monotonic() > until:
                return {scan_id: task for scan_id, task in asked.items() if not task.live}
            for task in live.values():
                if task.external_id is None:
                    once.submit(self.ledger, known[task.service], task, self.facilities.pace.patience)
            for service in {task.service for task in live.values()}:
                mine = [task for task in live.values() if task.service == service and task.external_id]
                once.poll(self.ledger, known[service], mine, self.facilities.pace.patience)
            time.sleep(self.facilities.pace.poll_s)

    # writing down

    def _settle(self, one: Found) -> None:
        if one.what in ("proven", "adopted"):
            self._adopt(one)
        elif one.what in ("unequal", "partial"):
            question = (
                f"{self.question(one.scan)} {self.target.absolute(joined(one.scan.folder, one.scan.path))} that this "
                f"platform did not write, and it is not the same: {one.why}. What to do: find out which one is right; "
                "move the one at the destination away, then materialize this partition again."
            )
            with self.ledger.write() as tx:
                if scans.ask_person(tx, one.scan.id, question, self.ledger.now()):
                    self._record(tx, one, "question", question)

    def question(self, scan: Scan) -> str:
        """How the question begins that a copy asks, too."""
        return f"{scan.key}: {self.target.name} already has a file"

    def _adopt(self, one: Found) -> None:
        scan, name = one.scan, self.asset.name
        with self.ledger.write() as tx:
            now = self.ledger.now()
            flow.advance(tx, self.spec, [scan.id], now)
            steps.retry_now(tx, scan.id, name, now)
            if not steps.claim(tx, scan.id, name, now, now):
                one.what, one.why = "under_way", "somebody else is at work on it"
                tx.rollback()
                return
            copy_id = scans.keep_copy(tx, scan.id, self.place, "present", root=scan.folder)
            for file in one.files:
                seen, digest = one.there[file.path], one.digests.get(file.id)
                proof = PROVEN if one.what == "proven" else LISTED
                scans.add_evidence(tx, copy_id, file.id, proof, digest, seen.bytes, seen.mtime, now, None)
            if one.what == "proven":
                scans.verified(tx, copy_id, now)
                for file in one.files:
                    scans.keep_sha256(tx, file.id, one.digests[file.id])
            scans.settle_question(tx, scan.id, self.question(scan), now)
            steps.finish(tx, scan.id, name, now, f"adopted: {one.why}")
            flow.came_true(tx, self.spec, scan.id, name, now)
            self._record(tx, one, "adopted", one.why)

    def _record(self, tx: sa.Connection, one: Found, what: str, why: str) -> None:
        history.record(
            tx, self.ledger.now(), self.who, what, beamline=self.spec.id, scan_id=one.scan.id, asset=self.asset.name,
            why=why,
        )  # fmt: skip


def _relative(spec: Spec, place: str, scan: Scan, file: File) -> str:
    return file.path if place == spec.scans.watch else joined(folder_of_version(scan.key), file.path)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _read(path: Path, size: int) -> str | None:
    """The SHA-256 of a file of this size; None when it cannot be read, has another one, or changes meanwhile."""
    digest = hashlib.sha256()
    try:
        before = path.stat()
        with path.open("rb", buffering=0) as file:
            while block := file.read(4 << 20):
                digest.update(block)
        after = path.stat()
    except OSError:
        return None
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) and after.st_size == size
    return digest.hexdigest() if same else None


def _described(document: Mapping[str, Any] | None, one: Found) -> Digests:
    entries = {str(e["path"]): e for e in (document or {}).get("files", [])}
    out: Digests = {}
    for file in one.files:
        entry = next((e for path, e in entries.items() if path.endswith("/" + file.path)), None)
        if entry is not None and entry.get("sha256") and entry.get("bytes") == file.bytes:
            out[file.id] = str(entry["sha256"])
    return out
