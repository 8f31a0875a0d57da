"""A beamline whose disk is pruned: the rig of tests/ensure, with scans that are old enough, and a place that is armed.

    key, = disk.scans()              noticed 40 days ago, with a verified copy at NERSC; its disk is kept for 30 days
    disk.prune()                     one run; disk.plan(): a dry run
    disk.why(key)                    the reasons for which it stays, as a dry run tells them

Files are really moved and deleted, by the sandbox.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from als_assets.pruning import AtWork, Pruning, Report
from beamlines.spec import Prune, Spec
from resources.ledger import Ledger, history, holds, removals, scans, schema
from tests.conftest import PATIENCE_S
from tests.ensure.conftest import Rig, rig  # noqa: F401  (a fixture)

RULE = Prune(place="dtn", after_days=30, needs=["cfs"])


@dataclass
class Disk:
    rig: Rig
    runs: int = 0

    def __post_init__(self) -> None:
        self.root = self.rig.dtn
        self.armed()

    @property
    def ledger(self) -> Ledger:
        return self.rig.ledger

    # scans

    def scans(self, count: int = 1, days: float = 40, folder: str = "day") -> list[str]:
        keys = self.rig.noticed(count, folder)
        for key in keys:
            self.rig._copy(self.rig.found(key))
            self.rig.settle_by_hand(key, "raw_at_cfs")
            self.noticed(key, days)
        return keys

    def noticed(self, key: str, days: float) -> None:
        self.change(schema.scans, schema.scans.c.key == key, noticed_at=self.ledger.now() - timedelta(days=days))

    def change(self, table: sa.Table, where: Any, **values: Any) -> None:
        """Write into the ledger past all its rules."""
        with self.ledger.write() as tx:
            assert tx.execute(sa.update(table).where(where).values(**values)).rowcount >= 1

    def armed(self) -> None:
        with self.ledger.write() as tx:
            removals.arm(tx, "bl7011", "dtn", "a test", "to see what goes", self.ledger.now())

    def disarmed(self) -> None:
        with self.ledger.write() as tx:
            assert removals.disarm(tx, "bl7011", "dtn", "a test", "enough", self.ledger.now())

    def hold(self, key: str, until: datetime | None = None) -> None:
        now = self.ledger.now()
        with self.ledger.write() as tx:
            holds.place(tx, self.rig.found(key), until or now + timedelta(days=9), "kim", "for the thesis", now)

    def rule(self, **changes: Any) -> None:
        self.rig.spec = self.rig.spec.model_copy(update={"prunes": [RULE.model_copy(update=changes)]})

    def trash_is_over(self) -> None:
        self.rig.pace(trash_s=0)

    # runs

    def pruning(self) -> Pruning:
        self.runs += 1
        mine = self.rig
        return Pruning(self.ledger, mine.spec, mine.facilities, mine.services, "a test", f"test {self.runs}")

    def prune(self) -> Report:
        return self.pruning().run()

    def prune_until_over(self, key: str) -> None:
        """Run after run, until nothing of the scan is on its way any more."""

        def over() -> bool:
            try:
                self.prune()
            except AtWork:  # the lease of a run that was killed
                return False
            removal = self.removal(key)
            return removal is None or not removal.live

        self.rig.until(over)

    def plan(self) -> Report:
        return self.pruning().plan()

    def why(self, key: str) -> list[str]:
        item = next(item for item in self.plan().items.values() if item.key == key)
        return [reason.words for reason in item.reasons]

    # looking

    def files(self, key: str) -> list[Path]:
        with self.ledger.read() as tx:
            scan = self.rig.found(key)
            return [self.root / file.path for file in scans.files_of(tx, [scan.id])[scan.id]]

    def there(self, key: str) -> bool:
        """Are all files of it at their names? Fails when only some are."""
        states = {path.is_file() for path in self.files(key)}
        assert len(states) == 1, self.files(key)
        return states.pop()

    def trashed(self) -> list[Path]:
        return sorted(path for path in (self.root / ".als-trash").rglob("*") if path.is_file())

    def removal(self, key: str) -> removals.Removal | None:
        """The latest."""
        with self.ledger.read() as tx:
            query = (
                sa.select(schema.removals.c.id)
                .join_from(schema.removals, schema.copies, schema.copies.c.id == schema.removals.c.copy_id)
                .where(schema.copies.c.scan_id == self.rig.found(key).id)
                .order_by(schema.removals.c.id.desc())
            )
            found = tx.execute(query).scalar()
            return None if found is None else removals.get(tx, found)

    def state(self, key: str) -> str | None:
        removal = self.removal(key)
        return None if removal is None else removal.state

    def copy(self, key: str, place: str = "dtn") -> str:
        with self.ledger.read() as tx:
            scan_id = self.rig.found(key).id
            return removals.copies_of(tx, [scan_id])[scan_id][place].state

    def question(self, key: str) -> str | None:
        return self.rig.found(key).question

    def history(self, key: str) -> list[str]:
        with self.ledger.read() as tx:
            return [str(one["what"]) for one in reversed(history.of_scan(tx, self.rig.found(key).id))]

    def deletions(self) -> int:
        """Delete tasks that were carried out; each of them once."""
        tasks = {t["task_id"]: t for t in self.rig.sandbox.box.all("transfer_task") if t["type"] == "DELETE"}
        counts = {i: n for i, n in self.rig.sandbox.executions("transfer").items() if i in tasks}
        assert all(n == 1 for n in counts.values()), counts
        return len(counts)


def only_copies(spec: Spec, **more: Any) -> Spec:
    """A beamline that only copies to NERSC and prunes its disk."""
    values = {"archive": None, "analyses": [], "catalog": None, "prunes": [RULE], **more}
    return Spec.model_validate({**spec.model_dump(), **{k: _plain(v) for k, v in values.items()}})


def _plain(value: Any) -> Any:
    return [one.model_dump() for one in value] if isinstance(value, list) else value


@pytest.fixture
def disk(rig: Rig) -> Iterator[Disk]:  # noqa: F811
    rig.spec = only_copies(rig.spec)
    rig.pace(day_s=86400, trash_s=3600, look_s=86400, lease_s=0.2, grace_s=PATIENCE_S)
    yield Disk(rig)
