"""A file of a scan has changed at the beamline after it became one: the copies keep what they have, a person is asked.

`als resolve` answers: the new content is ignored, or it becomes a scan of its own, the next version.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy.engine import Connection

from beamlines.spec import Spec
from resources.ledger import history, scans
from resources.ledger.scans import Known
from resources.ledger.versions import CHANGED
from sensors import names


def ask(tx: Connection, spec: Spec, changed: Collection[Known], now: datetime) -> None:
    """Once for however many changes follow. The question is withdrawn when the old content is back."""
    ids = sorted({one.scan_id for one in changed if one.scan_id is not None})
    for scan_id, files in scans.files_of(tx, ids).items():
        seen = scans.remembered(tx, spec.id, [file.path for file in files])
        asked = False
        for file in files:
            question = f"{file.path} {CHANGED}"
            is_now = seen[file.path].sighting
            if (is_now.bytes, is_now.mtime) == (file.bytes, file.mtime):
                scans.settle_question(tx, scan_id, question, now)
                continue
            question += (
                f" of {file.bytes} bytes. The copies keep the first content. What to do: `als resolve` with "
                "--new-version, if it is to be kept as well, or with --ignore; or put the old content back with its "
                "time."
            )
            if not asked and scans.ask_person(tx, scan_id, question, now):
                details = {"path": file.path, "bytes": is_now.bytes, "before": file.bytes}
                who = names.new_scans_sensor(spec.id)
                history.record(
                    tx, now, who, "question", beamline=spec.id, scan_id=scan_id, why=question, details=details
                )
            asked = True
