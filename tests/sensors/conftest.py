"""A beamline with a disk of the imagination, a ledger, and a clock that a test moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from resources.facilities import Facilities, FacilityFile, Pace
from resources.ledger import Ledger, scans, steps
from resources.storage import Storage
from sensors import new_scans
from tests.ledger.conftest import spec_of

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
PACE = Pace(settle_s=60, companion_wait_s=600, report_s=120, lease_s=90, lookup_s=60, pause_first_s=30)


@dataclass
class Entry:
    name: str
    type: str
    bytes: int
    mtime: datetime


class Disk:
    """A Globus service with one collection. `trouble`: folder -> what listing it raises."""

    service = "globus"

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, Entry]] = {"": {}}
        self.trouble: dict[str, Exception] = {}
        self.listings = 0

    def write(self, path: str, size: int = 5, mtime: datetime = NOW, kind: str = "file") -> None:
        folder, _, name = path.rpartition("/")
        if folder not in self.folders:
            self.write(folder, 0, kind="dir")
            self.folders[folder] = {}
        self.folders[folder][name] = Entry(name, kind, size, mtime)

    def ls(self, collection: str, path: str) -> list[Entry]:
        self.listings += 1
        folder = path.strip("/")
        if folder in self.trouble:
            raise self.trouble[folder]
        return list(self.folders[folder].values())


class Beamline:
    def __init__(self, folder: Path, **pace: float) -> None:
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        self.disk = Disk()
        self.now = NOW
        self.spec = spec_of()
        self.ledger = self.open()
        view = {"globus": {"collection": "c", "base": "/"}}
        self.file = FacilityFile.model_validate(
            {"name": "sandbox", "services": {}, "places": {"bl1": {"dtn": view, "cfs": view}}, "pace": PACE}
        )
        self.facilities = Facilities(self.file)

    def open(self) -> Ledger:
        ledger = Ledger(self.url, "sandbox")
        ledger.now = lambda: self.now  # type: ignore[method-assign]
        return ledger

    @property
    def place(self) -> Storage:
        return Storage(self.disk, "bl1/dtn", self.facilities.place("bl1", "dtn"))

    def look(self, ledger: Ledger | None = None) -> new_scans.Noticed:
        return new_scans.look(ledger or self.ledger, self.spec, self.place, PACE, "globus")

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def notice(self, *paths: str) -> list[int]:
        """Write these files (and an ROI beside each), and let them settle."""
        for path in paths:
            self.disk.write(path)
            self.disk.write(path.replace(".h5", "_roi.h5"))
        self.look()
        self.wait(60)
        return self.look().scans

    def scan(self, key: str = "a.h5") -> scans.Scan:
        with self.ledger.read() as tx:
            found = scans.find(tx, "bl1", key)
        assert found is not None
        return found

    def keys(self) -> list[str]:
        with self.ledger.read() as tx:
            return sorted(scan.key for scan in scans.latest(tx, "bl1", 100_000))

    def steps(self, key: str = "a.h5") -> dict[str, steps.Step]:
        with self.ledger.read() as tx:
            return {step.asset: step for step in steps.of_scan(tx, self.scan(key).id)}

    def fail(self, key: str = "a.h5", asset: str = "raw_at_cfs") -> None:
        with self.ledger.write() as tx:
            assert steps.fail(tx, self.scan(key).id, asset, "the file is damaged", self.now)

    def said(self, what: str) -> list[Any]:
        import sqlalchemy as sa

        from resources.ledger import schema

        with self.ledger.read() as tx:
            query = sa.select(schema.history.c.why).where(schema.history.c.what == what)
            return list(tx.execute(query.order_by(schema.history.c.id)).scalars())


@pytest.fixture
def beamline(tmp_path: Path, sqlite_template: Path) -> Iterator[Beamline]:
    (tmp_path / "ledger.db").write_bytes(sqlite_template.read_bytes())
    made = Beamline(tmp_path)
    yield made
    made.ledger.close()
