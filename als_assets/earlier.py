"""Globus tasks of an earlier life of the ledger: asked for after the backup that it was restored from.

Globus remembers its tasks for 30 days, and the label of ours says which beamline and what for. So a file at a
destination that the restored ledger has no record of is known to be ours when one of those tasks says that it has
transferred it; and while one of them is still under way, nothing is begun beside it. (Jobs need none of this: the name
of a job is its key, and `once` looks it up.)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from resources.errors import NotFound, Refused
from resources.ledger import Ledger, restore, tasks
from resources.ledger.tasks import Task
from resources.tasks import TaskState, TaskStatus


class Earlier:
    """The copies of one beamline that a restored ledger does not know of. For any other ledger there are none."""

    def __init__(self, ledger: Ledger, globus: Any, beamline: str, purpose: str = "copy") -> None:
        self.ledger, self.globus = ledger, globus
        self.prefix = f"als-{beamline}-{purpose}-"

    def restored(self) -> bool:
        with self.ledger.read() as tx:
            return restore.looks_first(tx, self.ledger.now())

    def under_way(self) -> str | None:
        """A transfer that has not ended and that the ledger does not know; its id."""
        return next((status.id for status in self._unknown() if status.state.live), None)

    def wrote(self, paths: Collection[str]) -> dict[str, str]:
        """{path on the destination: task that says it has transferred it}, for those of the paths that were ours."""
        found: dict[str, str] = {}
        for status in self._unknown():
            if len(found) == len(set(paths)):
                break
            try:
                arrived = {destination for _, destination in self.globus.successful_files(status.id)}
            except (NotFound, Refused):  # forgotten meanwhile, or not ended yet
                continue
            found |= {path: status.id for path in paths if path in arrived and path not in found}
        return found

    def _unknown(self) -> list[TaskStatus]:
        listed = [status for status in self.globus.labelled(self.prefix) if status is not None]
        with self.ledger.read() as tx:
            known = tasks.with_external_id(tx, self.globus.service, [status.id for status in listed])
        return [status for status in listed if status.id not in known]

    def task(self, external_id: str, request: dict[str, Any], beamline: str, asset: str) -> Task:
        """As the ledger would show it; it has no row."""
        now = self.ledger.now()
        return Task(
            id=0, beamline=beamline, asset=asset, purpose="copy", system=self.globus.system,
            service=self.globus.service, proposed_key="", key=None, external_id=external_id, request=request,
            script=None, attempt=1, state=TaskState.SUCCEEDED, live=False, native=None, reason=None, code=None,
            transient=None, detail=None, created_at=now, tried_at=None, submitted_at=None, polled_at=None,
            unknown_since=None, ended_at=None,
        )  # fmt: skip
