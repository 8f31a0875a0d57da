"""`raw_at_<place>`: a verified copy of every scan in another place, by Globus Transfer.

Verified means: Globus compared checksums of both ends while it copied (`verify_checksum`), says that it has transferred
the file, and the destination lists it with the size that the scan has. A task that failed is read file by file: what
has arrived counts. Nothing is ever written over content that the ledger does not know to be ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import dagster as dg
from sqlalchemy.engine import Connection

from als_assets.family import ByTask, Done, GoOn, NotDone, Outcome, Refusal, Rests, Wait, Work
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

    def begin(self, due: Sequence[tuple[Step, Scan]], rests: Rests) -> list[Work]:
        """One task for many scans; a scan that failed in company is tried in smaller company, in the end alone."""
        rest = rests.of(self.globus.service)
        if rest is not None:  # the destination cannot be looked at, so nothing may be written there
            why = f"waits for {rest.service} until {rest.until:%H:%M:%S} UTC: {rest.reason}"
            return [Wait(scan, rest.until, why) for _, scan in due]
        lacking = {scan.id: self._lacking(scan) for _, scan in due}
        with self.ledger.read() as tx:  # what is at the place of a copy that we have tried to write is ours
            tried = tasks.tried(tx, self.asset.name, [scan.id for _, scan in due])
        there, closed = self._look([f.path for _, scan in due if scan.id not in tried for f in lacking[scan.id]])
        works: list[Work] = []
        blocks: dict[int, list[Scan]] = {}
        for step, scan in due:
            paths = [] if scan.id in tried else [file.path for file in lacking[scan.id]]
            taken = [path for path in paths if path in there]
            if taken:
                works.append(Refusal(scan, self._taken(scan, taken[0])))
            elif any(folder_of(path) in closed for path in paths):
                works.append(Refusal(scan, self._closed(scan, closed[folder_of(scan.path)])))
            else:
                blocks.setdefault(step.attempt, []).append(scan)
        for attempt, members in blocks.items():
            size = retry.company(attempt, MOST_SCANS)
            for start in range(0, len(members), size):
                block = members[start : start + size]
                files = [file for scan in block for file in lacking[scan.id]]
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

    def _request(self, files: Sequence[File]) -> Callable[[str], Mapping[str, Any]]:
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
                        "source_path": self.source.absolute(file.path),
                        "destination_path": self.target.absolute(file.path),
                        "recursive": False,
                        "bytes": file.bytes,
                    }
                    for file in files
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
        asked = {f.path for group in files.values() for f in group if self.target.absolute(f.path) in ended.asked}
        ended.there, ended.closed = self._look(
            path for path in sorted(asked) if self.target.absolute(path) in ended.arrived
        )
        out: dict[int, Outcome] = {}
        for _, scan in pairs:
            mine = [f for f in files[scan.id] if f.path in asked]
            late = any(f.path not in asked and f.id not in proven[scan.id] for f in files[scan.id])
            out[scan.id] = self._outcome(ended, scan, mine, late)
        return out

    def _outcome(self, ended: Ended, scan: Scan, files: Sequence[File], late: bool) -> Outcome:
        task = ended.task
        by = f" by Globus task {task.external_id}" if task.external_id else ""
        leg = f"{scan.key}: copy from {self.source.name} to {self.target.name}{by}"
        for file in files:
            path = self.target.absolute(file.path)
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
            if folder_of(file.path) in ended.closed:
                return self._closed(scan, ended.closed[folder_of(file.path)])
            found = ended.there.get(file.path)
            if found is None or found.bytes != file.bytes:
                size = "is not there" if found is None else f"has {found.bytes} bytes"
                return NotDone(
                    f"{leg}: {path} {size}, the scan's file has {file.bytes} bytes.",
                    "see whether the file changed at the beamline after it had settled.",
                    transient=found is None,
                )

        def write(tx: Connection, now: datetime) -> None:
            copy_id = scans.keep_copy(tx, scan.id, self.copy.place, "present", root="")
            for file in files:
                found = ended.there[file.path]
                scans.add_evidence(tx, copy_id, file.id, VERIFIED, None, found.bytes, found.mtime, now, task.id)
            scans.settle_question(tx, scan.id, self._question(scan), now)
            if not late:
                scans.verified(tx, copy_id, now)

        return GoOn(write, "a file has been added to the scan since") if late else Done(write)

    def act(self, step: Step, scan: Scan) -> Outcome:
        raise AssertionError("copies are made by tasks")

    def metadata(self, tx: Connection, scan: Scan) -> dict[str, Any]:
        files = scans.files_of(tx, [scan.id])[scan.id]
        done = [t for t in tasks.of_scan(tx, scan.id) if t.asset == self.asset.name]
        out: dict[str, Any] = {
            "path": dg.MetadataValue.path(joined(self.target.base, scan.path)),
            "place": self.target.name,
            "files": len(files),
            "bytes": sum(file.bytes for file in files),
            "verified by": "Globus checksums of both ends, sizes listed at the destination",
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
