"""`raw_at_<place>`: a verified copy of every scan in another place, by Globus Transfer.

Verified means: Globus compared checksums of both ends while it copied (`verify_checksum`), says that it has transferred
the file, and the destination lists it with the size that the scan has. A task that failed is read file by file: what
has arrived counts. Nothing is ever written over content that the ledger does not know to be ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from sqlalchemy.engine import Connection

from als_assets import departed, originals
from als_assets.earlier import Earlier
from als_assets.family import ByHand, ByTask, Done, GoOn, NotDone, Outcome, Refusal, Rests, Wait, Work
from beamlines.policy import retry
from beamlines.spec import Asset, Spec
from resources.errors import NotFound, Refused
from resources.ledger import Ledger, scans, tasks
from resources.ledger.scans import File, Listed, Scan
from resources.ledger.steps import Step
from resources.ledger.tasks import Task
from resources.storage import Storage, joined
from resources.tasks import TaskState

MOST_SCANS = 500  # per task: Globus runs three tasks per user at a time, so one for many scans
DEADLINE_S = 3 * 24 * 3600
VERIFIED = "globus-checksum"
PROOFS = {  # the methods of evidence for a copy, in words
    VERIFIED: "Globus checksums of both ends, sizes listed at the destination",
    "adopted-sha256": "SHA-256 of both ends; it was there already",
    "adopted-listing": "nothing: it was there already, with the same sizes and times",
}
EARLIER = timedelta(minutes=1)


@dataclass
class Ended:
    """A task that has ended: what it was asked for (paths on the collection), what arrived, what the destination lists
    of that (by path relative to the place), and the folders there that may not be looked into."""

    task: Task
    asked: set[str]
    arrived: set[str] = field(default_factory=set)
    there: dict[str, Listed] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)


class CopyFamily:
    """The copies of a beamline's scans in one place."""

    def __init__(self, spec: Spec, asset: Asset, ledger: Ledger, globus: Any, source: Storage, target: Storage) -> None:
        if asset.copy_to is None:
            raise ValueError(f"{asset.name} is not a copy")
        self.spec, self.asset, self.copy = spec, asset, asset.copy_to
        self.ledger, self.globus, self.source, self.target = ledger, globus, source, target
        self.earlier = Earlier(ledger, globus, spec.id)

    def begin(self, due: Sequence[tuple[Step, Scan]], rests: Rests) -> list[Work]:
        """One task for many scans; a scan that failed in company is tried in smaller company, in the end alone."""
        rest = rests.of(self.globus.service)
        if rest is not None:  # the destination cannot be looked at, so nothing may be written there
            why = f"waits for {rest.service} until {rest.until:%H:%M:%S} UTC: {rest.reason}"
            return [Wait(scan, rest.until, why) for _, scan in due]
        restored = self.earlier.restored()
        if restored and (task := self.earlier.under_way()) is not None:
            until = self.ledger.now() + EARLIER
            why = f"waits for Globus task {task}, which was submitted before the ledger was restored from a backup"
            return [Wait(scan, until, why) for _, scan in due]
        gone = departed.departed(self.ledger, self.copy.source, [scan.id for _, scan in due])
        works: list[Work] = [ByHand(self.globus.service, scan) for _, scan in due if scan.id in gone]
        due = [(step, scan) for step, scan in due if scan.id not in gone]
        lacking = {scan.id: self._lacking(scan) for _, scan in due}
        replaced: dict[int, File] = {}
        if self.copy.source == self.spec.scans.watch:
            wanted = [(scan, lacking[scan.id]) for _, scan in due]
            replaced = originals.replaced(self.ledger, self.spec.id, self.source, self.copy.place, wanted)
        with self.ledger.read() as tx:  # what is at the place of a copy that we have tried to write is ours
            tried = tasks.tried(tx, self.asset.name, [scan.id for _, scan in due])
        there, closed = self._look(
            [self._goes_to(scan, f) for _, scan in due if scan.id not in tried for f in lacking[scan.id]]
        )
        blocks: dict[int, list[Scan]] = {}
        for step, scan in due:
            paths = [] if scan.id in tried else [self._goes_to(scan, file) for file in lacking[scan.id]]
            taken = [path for path in paths if path in there]
            if scan.id in replaced:
                works.append(Refusal(scan, originals.refusal(scan, self.target.name, replaced[scan.id])))
            elif taken and restored and self._ours(taken):
                works.append(ByHand(self.globus.service, scan))
            elif taken:
                works.append(Refusal(scan, self._taken(scan, taken[0])))
            elif shut := [folder_of(path) for path in paths if folder_of(path) in closed]:
                works.append(Refusal(scan, self._closed(scan, closed[shut[0]])))
            else:
                blocks.setdefault(step.attempt, []).append(scan)
        for attempt, members in blocks.items():
            size = retry.company(attempt, MOST_SCANS)
            for start in range(0, len(members), size):
                block = members[start : start + size]
                files = [(scan, file) for scan in block for file in lacking[scan.id]]
                works.append(ByTask("copy", self.globus, block, attempt, self._request(files)))
        return works

    def _lacking(self, scan: Scan) -> list[File]:
        """The files of a scan without proof in the target place; all of them, when a whole copy is asked for again."""
        with self.ledger.read() as tx:
            files = scans.files_of(tx, [scan.id])[scan.id]
            proven = scans.evidence_in(tx, scan.id, self.copy.place)
        return [file for file in files if file.id not in proven] or files

    def _look(self, paths: Iterable[str]) -> tuple[dict[str, Listed], dict[str, str]]:
        """What is at the destination of these paths; and folder -> why, for those that may not be looked into."""
        folders: dict[str, list[str]] = {}
        for path in paths:
            folders.setdefault(folder_of(path), []).append(path)
        there: dict[str, Listed] = {}
        closed: dict[str, str] = {}
        for folder, group in folders.items():
            try:
                there |= self.target.sizes(group)
            except Refused as error:
                closed[folder] = error.reason
        return there, closed

    def _taken(self, scan: Scan, path: str) -> NotDone:
        return NotDone(
            f"{self._question(scan)} {self.target.absolute(path)} that this platform did not write; it was left as it "
            "is, and the scan was not copied.",
            "compare the two files; move the one at the destination away, then materialize this partition again.",
            transient=False,
            question=True,
        )

    def _question(self, scan: Scan) -> str:
        return f"{scan.key}: {self.target.name} already has a file"

    def _closed(self, scan: Scan, reason: str) -> NotDone:
        return NotDone(
            f"{scan.key}: its folder at {self.target.name} cannot be looked at: {reason.rstrip('.')}.",
            advice("PERMISSION_DENIED"),
            transient=False,
        )

    def _comes_from(self, scan: Scan, file: File) -> str:
        """Relative to the source. Only where the detector writes do later versions lie under their own names."""
        return file.path if self.copy.source == self.spec.scans.watch else joined(scan.folder, file.path)

    def _goes_to(self, scan: Scan, file: File) -> str:
        """Relative to the target: no two versions of a file share a destination."""
        return joined(scan.folder, file.path)

    def _request(self, files: Sequence[tuple[Scan, File]]) -> Callable[[str], Mapping[str, Any]]:
        def request(key: str) -> Mapping[str, Any]:
            return {
                "kind": "transfer",
                "source": self.source.collection,
                "destination": self.target.collection,
                "label": key,
                "encrypt": self.copy.encrypt,
                "deadline_s": DEADLINE_S,
                "sync_level": None,
                "items": [
                    {
                        "source_path": self.source.absolute(self._comes_from(scan, file)),
                        "destination_path": self.target.absolute(self._goes_to(scan, file)),
                        "recursive": False,
                        "bytes": file.bytes,
                    }
                    for scan, file in files
                ],
            }

        return request

    def collect(self, task: Task, pairs: Sequence[tuple[Step, Scan]]) -> dict[int, Outcome]:
        """Read from the service, file by file, what has arrived, and compare it with what the destination lists."""
        ended = Ended(task, {item["destination_path"] for item in task.request["items"]})
        if task.external_id:
            try:
                ended.arrived = {destination for _, destination in self.globus.successful_files(task.external_id)}
            except NotFound:  # Globus forgets tasks after 30 days: then nothing of it is proven
                pass
        with self.ledger.read() as tx:
            files = scans.files_of(tx, [scan.id for _, scan in pairs])
            proven = {scan.id: scans.evidence_in(tx, scan.id, self.copy.place) for _, scan in pairs}
        all_of_it = {self._goes_to(scan, f) for _, scan in pairs for f in files[scan.id]}
        asked = {path for path in all_of_it if self.target.absolute(path) in ended.asked}
        ended.there, ended.closed = self._look(
            path for path in sorted(asked) if self.target.absolute(path) in ended.arrived
        )
        out: dict[int, Outcome] = {}
        for _, scan in pairs:
            mine = [f for f in files[scan.id] if self._goes_to(scan, f) in asked]
            late = any(f not in mine and f.id not in proven[scan.id] for f in files[scan.id])
            out[scan.id] = self._outcome(ended, scan, mine, late)
        return out

    def _outcome(self, ended: Ended, scan: Scan, files: Sequence[File], late: bool) -> Outcome:
        task = ended.task
        by = f" by Globus task {task.external_id}" if task.external_id else ""
        leg = f"{scan.key}: copy from {self.source.name} to {self.target.name}{by}"
        for file in files:
            where = self._goes_to(scan, file)
            path = self.target.absolute(where)
            if path not in ended.arrived:
                if task.state == TaskState.SUCCEEDED:
                    return NotDone(
                        f"{leg} failed: the task succeeded without saying that it transferred {file.path}.",
                        advice(None),
                    )
                reason = task.reason or f"the task ended as {task.native}"
                # in company it may be the fault of another scan: it is tried again with fewer, in the end alone
                transient = bool(task.transient) or len(ended.asked) > len(files)
                return NotDone(f"{leg} failed: {reason.rstrip('.')}.", advice(task.code), transient)
            if folder_of(where) in ended.closed:
                return self._closed(scan, ended.closed[folder_of(where)])
            found = ended.there.get(where)
            if found is None or found.bytes != file.bytes:
                size = "is not there" if found is None else f"has {found.bytes} bytes"
                return NotDone(
                    f"{leg}: {path} {size}, the scan's file has {file.bytes} bytes.",
                    "see whether the file changed at the beamline after it had settled.",
                    transient=found is None,
                )
            if abs(found.mtime - file.mtime) >= timedelta(seconds=1):  # times are copied along: it is another file
                return NotDone(
                    f"{leg}: {path} is of {found.mtime:%Y-%m-%d %H:%M:%S} UTC, the scan's file was of "
                    f"{file.mtime:%Y-%m-%d %H:%M:%S}: it was written anew at the beamline before it was copied.",
                    "answer the question about it with `als resolve`, or put the old content back with its time.",
                    transient=False,
                )

        def write(tx: Connection, now: datetime) -> None:
            copy_id = scans.keep_copy(tx, scan.id, self.copy.place, "present", root=scan.folder)
            for file in files:
                found = ended.there[self._goes_to(scan, file)]
                scans.add_evidence(tx, copy_id, file.id, VERIFIED, None, found.bytes, found.mtime, now, task.id or None)
            scans.settle_question(tx, scan.id, self._question(scan), now)
            if not late:
                scans.verified(tx, copy_id, now)

        return GoOn(write, "a file has been added to the scan since") if late else Done(write)

    def _ours(self, paths: Sequence[str]) -> bool:
        """Did tasks of ours write them that a restored ledger does not know?"""
        absolute = [self.target.absolute(path) for path in paths]
        return len(self.earlier.wrote(absolute)) == len(absolute)

    def act(self, step: Step, scan: Scan) -> Outcome:
        """Take over what a task copied that a restored ledger does not know; it is proven as any other copy is. Or look
        at a copy whose source is gone."""
        if departed.departed(self.ledger, self.copy.source, [scan.id]):
            place = self.copy.place
            return departed.looked_at(self.ledger, scan, self.source.name, place, self.target, self._goes_to)
        lacking = self._lacking(scan)
        paths = {self.target.absolute(self._goes_to(scan, file)): file for file in lacking}
        wrote = self.earlier.wrote(paths)
        if not wrote:
            return NotDone(f"{self._question(scan)} that nobody knows any more.", advice(None))
        request = {"items": [{"destination_path": path} for path in wrote]}
        task = self.earlier.task(sorted(wrote.values())[0], request, self.spec.id, self.asset.name)
        ended = Ended(task, set(wrote), set(wrote))
        mine = [file for path, file in paths.items() if path in wrote]
        ended.there, ended.closed = self._look([self._goes_to(scan, file) for file in mine])
        return self._outcome(ended, scan, mine, late=len(mine) < len(lacking))

    def metadata(self, tx: Connection, scan: Scan) -> dict[str, Any]:
        files = scans.files_of(tx, [scan.id])[scan.id]
        done = [t for t in tasks.of_scan(tx, scan.id) if t.asset == self.asset.name]
        proofs = {e["method"] for group in scans.evidence_in(tx, scan.id, self.copy.place).values() for e in group}
        out: dict[str, Any] = {
            "path": dg.MetadataValue.path(joined(self.target.base, scan.folder, scan.path)),
            "place": self.target.name,
            "files": len(files),
            "bytes": sum(file.bytes for file in files),
            "verified by": next((words for method, words in PROOFS.items() if method in proofs), "nothing"),
        }
        if done and done[-1].external_id:
            task = done[-1]
            out["Globus task"] = link(self.globus.url(task.external_id), str(task.external_id))
            if task.submitted_at and task.ended_at:
                seconds = (task.ended_at - task.submitted_at).total_seconds()
                out["transfer time (s)"] = round(seconds, 1)
            out["attempt"] = task.attempt
        return out


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def link(url: str | None, text: str) -> Any:
    return dg.MetadataValue.url(url) if url else text


def advice(code: str | None) -> str:
    """What a person can do about a Globus fault."""
    return {
        "PERMISSION_DENIED": "give the platform's Globus identity access to that path, then materialize it again.",
        "FILE_NOT_FOUND": "see whether the file was moved or deleted at the source before it was copied.",
        "QUOTA_EXCEEDED": "free space or raise the quota at the destination, then materialize it again.",
        "NO_SPACE_LEFT": "free space at the destination, then materialize it again.",
        "VERIFY_CHECKSUM": "check the disks of both ends; the source's file is untouched.",
        "FILE_SIZE_CHANGED": "the file was still being written: raise the settle time of this beamline if it recurs.",
    }.get(code or "", "open the task's page at Globus for its event log, then materialize this partition again.")
