"""`archived_at_hpss`: every scan on tape, by `als-archive` in a transfer job, one scan per archive.

The archive's name holds the key of the attempt, so it is unique for ever and nothing on tape is overwritten. It counts
when als-archive has verified it: members and sizes against the index, CRC, and the manifest (path, size, SHA-256) that
lies beside it on tape and in the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from sqlalchemy.engine import Connection

from als_assets import jobs
from als_assets.family import ByTask, Done, NotDone, Outcome, PutOff, Rests, Wait, Work
from als_assets.transfers import link
from beamlines.spec import Asset, Spec
from resources import once, sfapi_outages
from resources.errors import NotFound, Unavailable
from resources.facilities import Place
from resources.facilities import Work as Folders
from resources.ledger import Ledger, leases, products, scans, tasks
from resources.ledger.scans import File, Scan
from resources.ledger.steps import Step
from resources.ledger.tasks import Task
from resources.storage import joined

VERIFIED = "htar-crc"
INLINE_BYTES = 50_000  # of a text in the metadata of a materialization
ADVICE = {
    2: "report it: the platform asked als-archive for something that it does not understand.",
    3: "compare the copy at the facility with the detector's; if it changed, copy the scan again, then archive it.",
    70: "look at the archive and the job's output: not everything of it is on tape; nothing was deleted.",
    73: "look at what has that name on tape; nothing there was touched.",
    74: "see what HPSS refuses (quota, permission), then materialize this partition again.",
    75: "wait: it is tried again by itself.",
}
RETRIED = (70, 75)
DOWN = 69
HEALTHY = (0, 70, 73, 74)  # whatever came of it, HPSS has answered
LOOKS_AGAIN = timedelta(seconds=60)  # the others, after the one that tries whether HPSS is back


class ArchiveFamily:
    """The archives of a beamline's scans."""

    def __init__(
        self, spec: Spec, asset: Asset, ledger: Ledger, compute: Any, source: Place, tape: Place, folders: Folders
    ) -> None:
        if asset.archive is None:
            raise ValueError(f"{asset.name} is not an archive")
        self.spec, self.asset, self.archive = spec, asset, asset.archive
        self.ledger, self.compute, self.folders = ledger, compute, folders
        self.root = source.paths[self.archive.facility]
        self.tape = tape.paths[self.archive.facility]

    def begin(self, due: Sequence[tuple[Step, Scan]], rests: Rests) -> list[Work]:
        """One job per scan. While HPSS rests nothing is begun; after that one job tries whether it is back."""
        rest = rests.of(self.archive.place)
        if rest is not None:
            why = f"waits for {rest.service} until {rest.until:%H:%M:%S} UTC: {rest.reason}"
            return [Wait(scan, rest.until, why) for _, scan in due]
        self._must_be_up()
        waiting, due = self._let_one_try(due)
        with self.ledger.read() as tx:
            files = scans.files_of(tx, [scan.id for _, scan in due])
        return waiting + [
            ByTask("archive", self.compute, [scan], step.attempt, self._request(scan, files[scan.id]))
            for step, scan in due
        ]

    def _must_be_up(self) -> None:
        """Raises Unavailable, in the name of the tape, when the facility says that its archive is down."""
        try:
            sfapi_outages.up(self.compute.session, "archive")
        except NotFound:  # a facility that does not tell about its archive
            pass
        except Unavailable as error:
            if error.code != "OUTAGE":
                raise
            raise Unavailable(self.archive.place, error.reason, error.code, error.retry_after_s) from error

    def _let_one_try(self, due: Sequence[tuple[Step, Scan]]) -> tuple[list[Work], Sequence[tuple[Step, Scan]]]:
        """All, when HPSS was well; but if nobody has heard from it since it was down, one, and the rest waits."""
        now = self.ledger.now()
        with self.ledger.read() as tx:
            down = next((p for p in leases.all_pauses(tx) if p.service == self.archive.place), None)
            live = [] if down is None else tasks.live(tx, self.compute.service)
        if down is None:
            return [], due
        why = f"waits until an archive has shown whether {self.archive.place} is back: {down.reason}"
        first = 0 if any(t.beamline == self.spec.id and t.asset == self.asset.name for t in live) else 1
        return [Wait(scan, now + LOOKS_AGAIN, why) for _, scan in due[first:]], due[:first]

    def _request(self, scan: Scan, files: Sequence[File]) -> Callable[[str], Mapping[str, Any]]:
        def request(key: str) -> Mapping[str, Any]:
            wanted = {
                "schema": "als-archive/1",
                "archive": self._name(scan, key),
                "files": [
                    {
                        "path": joined(self.root, scan.folder, f.path),
                        "name": f.path,
                        "bytes": f.bytes,
                        "sha256": f.sha256,
                    }
                    for f in files
                ],
                "manifest": {"beamline": self.spec.id, "scan": scan.key, "hash": scan.hash, "task": key},
                "out": jobs.attempt_dir(self.folders, key),
            }
            command = jobs.Command(scan.hash, ["als-archive", "store"], wanted)
            return jobs.request(self.folders, key, self.archive.directives, [command])

        return request

    def _name(self, scan: Scan, key: str) -> str:
        """Of letters, digits and dashes only; a folder per year and hash, so that no folder on tape grows too large."""
        folder = f"{scan.noticed_at:%Y}/{scan.hash[:2]}"
        return joined(self.tape, folder, f"{self.spec.id}-{scan.hash}-{key.rpartition('-')[2]}.tar")

    def collect(self, task: Task, pairs: Sequence[tuple[Step, Scan]]) -> dict[int, Outcome]:
        ended = jobs.outcome(self.compute, task)
        with self.ledger.read() as tx:
            files = scans.files_of(tx, [scan.id for _, scan in pairs])
        return {scan.id: self._outcome(task, step, scan, files[scan.id], ended[scan.hash]) for step, scan in pairs}

    def _outcome(self, task: Task, step: Step, scan: Scan, files: Sequence[File], ended: jobs.Ended) -> Outcome:
        job = f" in job {task.external_id}" if task.external_id else ""
        where = f"{scan.key}: {self.asset.name} at {self.compute.service}{job}"
        folder = task.request["job"]["attempt_dir"]
        if ended.exit == DOWN:
            return PutOff(Unavailable(self.archive.place, f"{ended.message.rstrip('.')} (job {task.external_id})"))
        if ended.exit in HEALTHY:
            once.answered(self.ledger, self.archive.place)
        if not ended.ok:
            code = "" if ended.exit is None else f" (exit {ended.exit})"
            return NotDone(
                f"{where} failed{code}: {ended.message.rstrip('.') or 'it did not say why'}.",
                ADVICE.get(ended.exit or 0, f"read the job's output in {folder}."),
                jobs.transient(ended, task) or ended.exit in RETRIED,
            )
        try:
            result = json.loads(self.compute.read(joined(folder, "archive.json"), jobs.MOST_BYTES))
        except NotFound:
            return NotDone(
                f"{where} ended well, but left no archive.json in {folder}.",
                "see whether the file system had trouble; it is tried again under another name.",
            )
        members = {str(m["name"]): m for m in result["members"]}
        for file in files:
            member = members.get(file.path)
            if member is None or member["bytes"] != file.bytes:
                size = "is not in it" if member is None else f"has {member['bytes']} bytes in it"
                return NotDone(
                    f"{where}: {file.path} {size}, the scan's file has {file.bytes} bytes.",
                    "compare the copy at the facility with the detector's; nothing was deleted.",
                    transient=False,
                    question=True,
                )

        def write(tx: Connection, now: datetime) -> None:
            copy_id = scans.keep_copy(tx, scan.id, self.archive.place, "present", root=str(result["archive"]))
            for file in files:
                member = members[file.path]
                digest = member["sha256"]
                scans.add_evidence(tx, copy_id, file.id, VERIFIED, digest, member["bytes"], None, now, task.id)
                other = scans.keep_sha256(tx, file.id, digest)
                if other is not None:
                    scans.ask_person(
                        tx,
                        scan.id,
                        f"{file.path} was archived with SHA-256 {digest[:16]}…, but read as {other[:16]}… before. What "
                        "to do: compare the copies; nothing of this scan will be deleted until it is settled.",
                        now,
                    )
            scans.verified(tx, copy_id, now)
            path = str(result["archive"])
            products.keep(tx, scan.id, self.asset.name, "", step.revision, task.id, path, result, {}, now)

        return Done(write)

    def act(self, step: Step, scan: Scan) -> Outcome:
        raise AssertionError("archives are made by tasks")

    def metadata(self, tx: Connection, scan: Scan) -> dict[str, Any]:
        product = products.latest(tx, scan.id, self.asset.name)
        if product is None:
            return {}
        document = product.document
        verified = document.get("verified") or {}
        out: dict[str, Any] = {
            "archive": dg.MetadataValue.path(product.path or ""),
            "manifest": dg.MetadataValue.path(str(document.get("manifest_path") or "")),
            "files": len(document.get("members", [])),
            "bytes": int(document.get("bytes") or 0),
            "verified by": str(verified.get("method") or ""),
            "tape": dg.MetadataValue.json(document.get("tape")),
        }
        done = [t for t in tasks.of_scan(tx, scan.id) if t.id == product.task_id]
        if done:
            out["Slurm job"] = link(self.compute.url(str(done[0].external_id)), str(done[0].external_id))
            if done[0].script and len(done[0].script) <= INLINE_BYTES:
                out["batch script"] = dg.MetadataValue.md(f"````bash\n{done[0].script}````")
        return out
