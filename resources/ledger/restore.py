"""Going back to a backup of the ledger, and going on from there without doing anything twice.

    restore.restore(ledger_url(), "production", Path("ledger-production-20261119T033000Z.db"), who="ada")

Only while nothing uses the ledger (`in_use` says what does), and never across facilities. The ledger that was there is
put aside, not deleted. A restored ledger does not know what was asked of facilities since the backup, so it is marked
(`restored_at`): for LOOK_FIRST days, a task is looked up under its key at its service before it is submitted. Nor does
it know the holds that were placed since, so every place is disarmed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger import backup, history, removals, schema
from resources.ledger.backup import BackupProblem
from resources.ledger.database import Ledger, WrongLedger
from resources.ledger.leases import NOBODY

LOOK_FIRST = timedelta(days=14)  # so far back services tell of tasks that have ended


@dataclass(frozen=True)
class Restored:
    """at: of the backup. aside: where the ledger that was there is now; None when there was none."""

    at: datetime | None
    aside: Path | None


def in_use(url: str, facilities: str, now: datetime | None = None) -> list[str]:
    """What is at work with the ledger, in words; [] when it may be replaced. Raises WrongLedger when it belongs to
    other facilities. A ledger that cannot be read is not in use."""
    parsed = sa.engine.make_url(url)
    found = []
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        if not path.exists():
            return []
        found += [f"process {pid} ({name}) has {path.name} open" for pid, name in _holders(path)]
    engine = sa.create_engine(url)
    try:
        with engine.connect() as tx:
            stamped = tx.execute(sa.select(schema.stamp.c.facilities)).scalar()
            if stamped not in (None, facilities):
                raise WrongLedger(f"the ledger {_shown(parsed)} belongs to {stamped!r}, not {facilities!r}")
            live = sa.select(schema.leases.c.name, schema.leases.c.holder).where(
                schema.leases.c.holder != NOBODY, schema.leases.c.expires_at > (now or datetime.now(UTC))
            )
            found += [f"{holder} is at work on {name}" for name, holder in tx.execute(live)]
            if engine.dialect.name == "postgresql":
                others = sa.text(
                    "select pid, application_name from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
                )
                found += [f"connection {pid} ({name or 'of a program'}) is open" for pid, name in tx.execute(others)]
    except sa.exc.DatabaseError:
        pass  # damaged, or empty: that is why it is to be replaced
    finally:
        engine.dispose()
    return found


def restore(url: str, facilities: str, file: Path, who: str, now: datetime | None = None) -> Restored:
    """Put the backup in the place of the ledger. The caller has looked at `in_use`. Raises BackupProblem, WrongLedger;
    then the ledger is as it was."""
    content = backup.check(file)
    if content.facilities != facilities:
        raise WrongLedger(
            f"{file} is a backup of the ledger of {content.facilities!r}, and ALS_FACILITIES is {facilities!r}. "
            "Nothing was changed."
        )
    moment = now or datetime.now(UTC)
    match = backup.NAME.fullmatch(file.name)
    at = datetime.strptime(match["at"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if match else None
    parsed = sa.engine.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        aside = _replace_file(Path(parsed.database or ""), file, moment)
    else:
        aside = _replace_tables(url, parsed, facilities, file)
    ledger = Ledger(url, facilities)  # migrates it when it is of an earlier version
    try:
        with ledger.write() as tx:
            tx.execute(sa.update(schema.stamp).values(restored_at=moment))
            for beamline, place in tx.execute(sa.select(schema.armings.c.beamline, schema.armings.c.place)).all():
                # holds that were placed since the backup are gone: nothing is deleted before somebody has seen to them
                why = f"the ledger was restored from {file.name}; arm it again when all holds are there"
                removals.disarm(tx, beamline, place, who, why, moment)
            history.record(tx, moment, who, "restored the ledger", why=f"from {file.name}")
    finally:
        ledger.close()
    return Restored(at, aside)


def looks_first(tx: Connection, now: datetime) -> bool:
    """Was the ledger restored so lately that services may have been asked for things that it does not know?"""
    at = tx.execute(sa.select(schema.stamp.c.restored_at)).scalar()
    return at is not None and now - at < LOOK_FIRST


def _replace_file(path: Path, file: Path, now: datetime) -> Path | None:
    if file.read_bytes()[:16] != b"SQLite format 3\0":
        raise BackupProblem(f"{file} is a dump of PostgreSQL, and the ledger is on SQLite: set ALS_LEDGER_URL")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.restoring")
    try:
        shutil.copyfile(file, part)
        part.chmod(0o600)
        with closing(sqlite3.connect(part)) as db:  # what was copied is what was checked
            if db.execute("pragma integrity_check(1)").fetchone() != ("ok",):
                raise BackupProblem(f"{file} could not be copied whole to {path.parent}: is the disk full?")
        aside = None
        if path.exists():
            aside = path.with_name(f"{path.stem}-before-restore-{now:%Y%m%dT%H%M%SZ}")
            aside.mkdir(mode=0o700)
            for name in (f"{path.name}-wal", f"{path.name}-shm", path.name):  # the three belong together
                if (path.parent / name).exists():
                    (path.parent / name).rename(aside / name)
        part.rename(path)
        backup.settle(path)
        backup.settle(path.parent)
    except OSError as error:
        raise BackupProblem(f"{file} could not be put in the place of {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return aside


def _replace_tables(url: str, parsed: sa.URL, facilities: str, file: Path) -> Path | None:
    """In one transaction of PostgreSQL's: all of it or nothing."""
    engine = sa.create_engine(url)
    try:
        there = bool(sa.inspect(engine).has_table(schema.stamp.name))
    finally:
        engine.dispose()
    backup.folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = backup.make(url, facilities, backup.folder(), keep=1_000_000).path if there else None
    # the tables of a later version would be in the way of the migration that makes them
    drops = "; ".join(f'drop table if exists "{name}" cascade' for name in backup.tables())
    with tempfile.TemporaryDirectory(prefix="als-restore-", dir=backup.folder()) as folder:
        text = f"{folder}/ledger.sql"
        backup.run_tool(["pg_restore", "--no-owner", "--no-privileges", f"--file={text}", str(file)], None)
        command = [
            "psql",
            "--no-psqlrc",
            "--quiet",
            "--single-transaction",
            "--set=ON_ERROR_STOP=1",
            "--output=/dev/null",
        ]
        backup.run_tool([*command, f"--command={drops}", f"--file={text}"], parsed)
    return aside


def _holders(path: Path) -> list[tuple[int, str]]:
    """(pid, name) of the processes, this one apart, that have the file or its log open, as far as we may see."""
    wanted = {str(path.resolve()), f"{path.resolve()}-wal"}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            if any(str(handle.readlink()) in wanted for handle in (process / "fd").iterdir()):
                found.append((int(process.name), (process / "comm").read_text().strip()))
        except OSError:
            continue  # it has ended, or is somebody else's
    return sorted(found)


def _shown(url: sa.URL) -> str:
    return url.render_as_string(hide_password=True)
