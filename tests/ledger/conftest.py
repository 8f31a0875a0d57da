"""Fixtures for tests of the ledger: `ledger` is one on SQLite and, where a server can be started, one on PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from beamlines.policy.grouping import Group
from beamlines.spec import Spec
from resources.ledger import Ledger, flow, scans, schema, steps
from resources.ledger.scans import Listed

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def spec_of(**more: object) -> Spec:
    """A beamline with a copy, an analysis and a catalogue; `more` replaces attributes."""
    attributes: dict[str, object] = {
        "id": "bl1", "name": "1.0", "title": "One", "technique": "XPCS", "creation_location": "/LBNL/ALS/1.0",
        "owners": ["team:one"],
        "scans": {
            "watch": "dtn", "files": ["**/*.h5"], "companions": {"roi": "{stem}_roi.h5"}, "required": ["roi"],
        },
        "copies": [{"place": "cfs", "source": "dtn"}],
        "analyses": [{"asset": "xpcs_result", "program": "xpcs", "place": "cfs", "layout": "als_7011"}],
        "catalog": {"owner_group": "g", "contact_email": "one@example.org"},
    }  # fmt: skip
    return Spec.model_validate({**attributes, **more})


class Book:
    """A ledger with a few shortcuts; its clock stands still until a test moves it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.spec = spec_of()
        self.now = NOW
        ledger.now = lambda: self.now  # type: ignore[method-assign]

    def scan(self, path: str = "a.h5", missing: Sequence[str] = (), files: Sequence[str] = ()) -> int:
        """A registered scan with the steps that the spec gives it."""
        group = Group(path, {"data": path, **{f"file{i}": name for i, name in enumerate(files)}}, list(missing))
        with self.ledger.write() as tx:
            seen = scans.see(tx, self.spec.id, [Listed(f, 5, NOW) for f in group.files.values()], self.now)
            scan_id = scans.register(tx, self.spec.id, "dtn", group, seen, self.now)
            flow.advance(tx, self.spec, [scan_id], self.now)
        return scan_id

    def step(self, scan_id: int, asset: str = "raw_at_cfs") -> steps.Step:
        with self.ledger.read() as tx:
            return next(step for step in steps.of_scan(tx, scan_id) if step.asset == asset)

    def put(self, scan_id: int, asset: str = "raw_at_cfs", **values: object) -> None:
        """Bring a step into any state, past all guards."""
        with self.ledger.write() as tx:
            where = (schema.steps.c.scan_id == scan_id) & (schema.steps.c.asset == asset)
            assert tx.execute(sa.update(schema.steps).where(where).values(**values)).rowcount == 1

    def raw(self, scan_id: int, asset: str = "raw_at_cfs") -> dict[str, object]:
        with self.ledger.read() as tx:
            where = (schema.steps.c.scan_id == scan_id) & (schema.steps.c.asset == asset)
            return dict(tx.execute(sa.select(schema.steps).where(where)).mappings().one())

    def done(self, scan_id: int, asset: str) -> None:
        self.put(scan_id, asset, state=steps.WORKING, next_try=self.now)
        with self.ledger.write() as tx:
            assert steps.finish(tx, scan_id, asset, self.now)
            flow.came_true(tx, self.spec, scan_id, asset, self.now)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server's database that belongs to this session."""
    programs = Path(shutil.which("postgres") or "/nonexistent").resolve().parent
    if not (programs / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (scripts/install-services installs it)")
    as_user: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="als-pg-", dir="/tmp"))  # a socket's path must be short
    server = None
    try:
        # a test process that is killed takes the server along
        end_with_us = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
        if os.geteuid() == 0:  # it refuses to run as root
            if not end_with_us:
                pytest.skip("PostgreSQL refuses to run as root, and there is no setpriv to become another user")
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            as_user = ["--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid), "--clear-groups"]
        prefix = ["setpriv", *as_user] if as_user else []
        made = subprocess.run(
            [*prefix, programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "als", "-E", "UTF8", "-N"],
            capture_output=True, text=True, check=False, timeout=60, cwd=folder,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"initdb does not work here: {made.stderr[-300:]}")
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*prefix, *end_with_us, programs / "postgres", "-D", folder / "data", "-k", folder,
                 "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=60"],
                stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip
        url = f"postgresql+psycopg2://als@/postgres?host={folder}"
        engine, until = sa.create_engine(url), time.monotonic() + 30
        while True:
            try:
                with engine.connect():
                    break
            except sa.exc.OperationalError:
                if server.poll() is not None or time.monotonic() > until:
                    pytest.skip(f"PostgreSQL does not start here: {(folder / 'log').read_text()[-300:]}")
                time.sleep(0.05)
        engine.dispose()
        yield url
    finally:
        if server is not None:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def emptied(url: str) -> Ledger:
    """The ledger at a PostgreSQL URL, as on its first day."""
    ledger = Ledger(url, "sandbox")
    tables = ", ".join(t.name for t in schema.metadata.sorted_tables if t.name != "stamp")
    with ledger.write() as tx:
        tx.execute(sa.text(f"truncate {tables} restart identity"))
    return ledger


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty, migrated ledger."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgresql")
        emptied(url).close()
        return url
    shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "ledger.db")
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def book(ledger_url: str) -> Iterator[Book]:
    ledger = Ledger(ledger_url, "sandbox")
    yield Book(ledger)
    ledger.close()
