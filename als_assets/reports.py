"""What a run has to tell Dagster: each scan whose asset is there, once in each form in which it came to be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from als_assets import quality
from als_assets.family import Family
from resources.ledger import Ledger, scans, steps
from resources.ledger.scans import Scan
from resources.ledger.steps import Step

T = TypeVar("T")


@dataclass(frozen=True)
class Made:
    """The asset of a scan is there and the ledger says so; Dagster is to be told."""

    scan: Scan
    metadata: dict[str, Any]
    done_at: datetime | None = None
    checks: Sequence[Any] = ()


@dataclass
class Reports:
    """Of one run on one asset. What cannot be shown because of a bug keeps no scan from being told: `bugs`."""

    ledger: Ledger
    family: Family
    log: logging.Logger
    bugs: list[Exception]
    told: dict[int, datetime | None] = field(default_factory=dict)

    def wanted(self, step: Step, patient: bool) -> bool:
        """Done, and not told in this form: a step may be done anew while the run stays. A patient run also tells what
        somebody else has told, or its partition would have no event of its own."""
        if step.state != steps.DONE or (step.scan_id in self.told and self.told[step.scan_id] == step.done_at):
            return False
        return patient or step.reported_at is None

    def untold(self, mine: Sequence[Step], patient: bool) -> list[Made]:
        done_at = {s.scan_id: s.done_at for s in mine if self.wanted(s, patient)}
        with self.ledger.read() as tx:
            found = scans.many(tx, list(done_at))
            return [self._made(tx, found[scan_id], at) for scan_id, at in done_at.items()]

    def _made(self, tx: Connection, scan: Scan, at: datetime | None) -> Made:
        spec, asset = self.family.spec, self.family.asset
        metadata = self._shown(
            scan, lambda: self.family.metadata(tx, scan), {"metadata error": "see the log of the run"}
        )
        checks = self._shown(scan, lambda: quality.of_partition(spec, asset, tx, scan), ())
        return Made(scan, metadata, at, checks)

    def _shown(self, scan: Scan, show: Callable[[], T], instead: T) -> T:
        try:
            return show()
        except Exception as bug:
            self.bugs.append(bug)
            self.log.error("%s: what %s is to show met a bug", scan.key, self.family.asset.name, exc_info=bug)
            return instead

    def mark(self, made: Made) -> None:
        """Dagster has the event."""
        self.told[made.scan.id] = made.done_at
        with self.ledger.write() as tx:
            mine = [s for s in steps.of_scan(tx, made.scan.id) if s.asset == self.family.asset.name]
            if any(s.done_at == made.done_at for s in mine):  # else it was done anew, and that is not told yet
                steps.reported(tx, [made.scan.id], self.family.asset.name, self.ledger.now())
