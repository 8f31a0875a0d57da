"""A beamline with the sandbox's disk, the times of production, a clock that a test moves, and the command line."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from als import platform
from als.main import main
from als_assets import families
from resources.ledger import Ledger, scans, schema
from sensors import new_scans
from tests.ensure.conftest import Rig, rig  # noqa: F401  (a fixture)

DAY = 24 * 3600.0


@dataclass
class Beamline:
    """The rig's beamline with the times of production, and a clock of ours that a test moves."""

    rig: Rig
    ahead: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        self.rig.ledger.now = lambda: datetime.now(UTC) + self.ahead  # type: ignore[method-assign]
        self.rig.pace(settle_s=60, companion_wait_s=600)

    def wait(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)

    def look(self) -> new_scans.Noticed:
        mine = self.rig
        place = families.storage(mine.spec, mine.spec.scans.watch, mine.facilities, mine.services["globus"])
        return new_scans.look(mine.ledger, mine.spec, place, mine.facilities.pace, "globus")

    def write(self, name: str, content: bytes, age: float = 0) -> Path:
        """A file whose disk says that it was written so many seconds ago."""
        path = self.rig.dtn / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return self.aged(path, age)

    def aged(self, path: Path, age: float) -> Path:
        at = self.rig.ledger.now().timestamp() - age
        os.utime(path, (at, at))
        return path

    def append(self, name: str, content: bytes) -> None:
        with (self.rig.dtn / name).open("ab") as file:
            file.write(content)
        self.aged(self.rig.dtn / name, 0)

    def settle(self) -> new_scans.Noticed:
        """Look, wait for the settle time, look."""
        self.look()
        self.wait(61)
        return self.look()

    def scan(self, key: str = "a.h5") -> scans.Scan | None:
        with self.rig.ledger.read() as tx:
            return scans.find(tx, "bl7011", key)

    def files(self, key: str = "a.h5") -> dict[str, int]:
        scan = self.scan(key)
        assert scan is not None
        with self.rig.ledger.read() as tx:
            return {file.path: file.bytes for file in scans.files_of(tx, [scan.id])[scan.id]}

    def one(self, key: str = "a.h5") -> scans.Scan:
        found = self.scan(key)
        assert found is not None, f"there is no scan {key}"
        return found

    def raw(self, name: str = "a.h5", content: bytes = b"frames", age: float = 100) -> str:
        """A scan that has settled and been noticed, with its ROI."""
        self.write(name.replace(".h5", "_roi.h5"), b"roi", age)
        self.write(name, content, age)
        assert self.settle().scans
        return name

    def spec(self, **changes: Any) -> None:
        """Change the beamline's spec, as an edit of its defs.yaml does."""
        attributes = {**self.rig.spec.model_dump(exclude_unset=True), **changes}
        self.rig.spec = type(self.rig.spec).model_validate(attributes)

    def said(self, what: str) -> list[tuple[str, str | None]]:
        """(who, why) of the records of this kind in the history, oldest first."""
        h = schema.history
        with self.rig.ledger.read() as tx:
            query = sa.select(h.c.who, h.c.why).where(h.c.what == what).order_by(h.c.id)
            return [(who, why) for who, why in tx.execute(query)]

    def everything(self) -> list[tuple[Any, ...]]:
        with self.rig.ledger.read() as tx:
            return [tuple(row) for table in schema.metadata.sorted_tables for row in tx.execute(table.select())]

    def als(self, *words: str) -> Result:
        """The command line, in this process."""
        return CliRunner().invoke(main, list(words))

    def als_json(self, *words: str) -> dict[str, Any]:
        ended = self.als(*words, "--json")
        assert ended.exit_code == 0, ended.output
        document: dict[str, Any] = json.loads(ended.stdout)
        return document


@pytest.fixture
def beamline(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Beamline:  # noqa: F811
    rig.spec = rig.spec.model_copy(update={"prunes": []})  # nothing is deleted here, and there is no tape
    made = Beamline(rig)
    monkeypatch.setattr(platform, "spec_of", lambda name: made.rig.spec)
    monkeypatch.setattr(platform, "specs", lambda: {made.rig.spec.id: made.rig.spec})
    monkeypatch.setattr(platform, "facilities", lambda: made.rig.facilities)
    monkeypatch.setenv("ALS_STATE", str(rig.folder))

    def ledger(created: bool = False) -> Ledger:
        found = made.rig.ledger
        return found

    monkeypatch.setattr(platform, "ledger", ledger)
    return made
