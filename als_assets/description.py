"""What `als-describe` reads where the bytes are: metadata with units, a thumbnail, and the SHA-256 of every file.

One job describes many scans. The catalogue entry is made from it; it is no asset of its own.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from als_assets import jobs
from beamlines.spec import Catalog
from resources.errors import NotFound
from resources.facilities import Place
from resources.facilities import Work as Folders
from resources.ledger import products, scans
from resources.ledger.scans import File, Scan
from resources.ledger.tasks import Task
from resources.storage import joined

PRODUCT = "description"
DIGEST = "sha256"  # the method of the evidence that it gives
MOST_SCANS = 50  # per job: each leaves a document of some 30 kB that is fetched on its own


@dataclass(frozen=True)
class Describer:
    """Describes the scans of a beamline by the copies in one place, with jobs of one compute service."""

    catalog: Catalog
    place_name: str
    place: Place
    compute: Any
    folders: Folders

    @property
    def root(self) -> str:
        return self.place.paths[self.catalog.facility]

    def request(self, members: Sequence[tuple[Scan, Sequence[File]]]) -> Callable[[str], Mapping[str, Any]]:
        def request(key: str) -> Mapping[str, Any]:
            wanted = {
                "scans": [
                    {
                        "id": scan.hash,
                        "files": [joined(self.root, scan.folder, file.path) for file in files],
                        **({"layout": self.catalog.layout} if self.catalog.layout else {}),
                    }
                    for scan, files in members
                ],
                "out": self._out(key),
            }
            command = jobs.Command("describe", ["als-describe"], wanted)
            return jobs.request(self.folders, key, self.catalog.directives, [command])

        return request

    def _out(self, key: str) -> str:
        return joined(jobs.attempt_dir(self.folders, key), "descriptions")

    def fetch(self, task: Task, scan: Scan) -> dict[str, Any] | None:
        """The description of one scan, or None when the job left none."""
        try:
            text = self.compute.read(joined(self._out(task.proposed_key), f"{scan.hash}.json"), jobs.MOST_BYTES)
        except NotFound:
            return None
        document: dict[str, Any] = jobs.read_json(text)
        return document


def keep(
    tx: Connection,
    scan: Scan,
    files: Sequence[File],
    place: str,
    task: Task,
    description: dict[str, Any],
    now: datetime,
) -> None:
    """Write a description into the ledger: the document, the thumbnail, and the digests as evidence of the copy."""
    thumbnail = description.get("thumbnail")
    try:
        pngs = {"thumbnail": base64.b64decode(thumbnail, validate=True)} if thumbnail else {}
    except binascii.Error:
        pngs = {}
    document = {k: v for k, v in description.items() if k != "thumbnail"}
    products.keep(tx, scan.id, PRODUCT, "", 1, task.id, None, document, pngs, now)
    copy_id = scans.keep_copy(tx, scan.id, place, "present", root=scan.folder)
    by_name = {str(entry["path"]): entry for entry in description.get("files", [])}
    for file in files:
        entry = next((e for path, e in by_name.items() if path.endswith("/" + file.path)), None)
        if entry is None or not entry.get("sha256"):
            continue
        if entry["bytes"] != file.bytes:
            scans.ask_person(
                tx,
                scan.id,
                f"{file.path} at {place} has {entry['bytes']} bytes, the scan's file has {file.bytes}: the copy was "
                "changed after it had been verified. What to do: find out by whom, then copy the scan again.",
                now,
            )
            continue
        scans.add_evidence(tx, copy_id, file.id, DIGEST, entry["sha256"], entry["bytes"], None, now, task.id)
        other = scans.keep_sha256(tx, file.id, entry["sha256"])
        if other is not None:
            scans.ask_person(
                tx,
                scan.id,
                f"{file.path} at {place} reads as SHA-256 {entry['sha256'][:16]}…, but read as {other[:16]}… before. "
                "What to do: compare the copies; nothing of this scan will be deleted until it is settled.",
                now,
            )
