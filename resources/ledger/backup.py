"""Backups of the ledger that are known to be good: made while everything runs, checked after they were written.

    made = backup.make(ledger_url(), "production", backup.folder(), keep=30)
    backup.newest(backup.folder(), "production").at

SQLite by its own backup interface (a copy of the file alone would lack what is in the write-ahead log), PostgreSQL by
pg_dump. A backup is written aside, checked (readable whole, stamped with these facilities, of a version that this
program knows) and only then given its name, ledger-<facilities>-<time>.db or .dump; older ones beyond `keep` go then.
Restoring is in restore.py.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from resources.ledger import migrations, schema
from resources.ledger.location import backups_dir

NAME = re.compile(r"ledger-(?P<facilities>.+)-(?P<at>\d{8}T\d{6}Z)\.(?P<kind>db|dump)")
PART = ".part"
KEEP = 30
TOOL_S = 3600
COPIED = re.compile(r"^COPY \S+ \((?P<columns>[^)]*)\) FROM stdin;\n(?P<rows>.*?)^\\\.$", re.MULTILINE | re.DOTALL)


class BackupProblem(Exception):
    """A backup could not be made, or is not what it should be. Says which file and what to do."""


@dataclass(frozen=True)
class Backup:
    """A file in the folder of backups. at: when it was begun, UTC."""

    path: Path
    facilities: str
    at: datetime
    bytes: int


@dataclass(frozen=True)
class Content:
    """What a backup holds: whose ledger, and which version of the schema."""

    facilities: str
    version: str


def folder() -> Path:
    return backups_dir()


def listed(where: Path, facilities: str) -> list[Backup]:
    """The finished backups of these facilities, oldest first."""
    found = []
    for path in where.glob("ledger-*") if where.is_dir() else []:
        match = NAME.fullmatch(path.name)
        if match and match["facilities"] == facilities and path.is_file():
            at = datetime.strptime(match["at"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            found.append(Backup(path, facilities, at, path.stat().st_size))
    return sorted(found, key=lambda one: (one.at, one.path.name))


def newest(where: Path, facilities: str) -> Backup | None:
    return next(reversed(listed(where, facilities)), None)


def make(url: str, facilities: str, where: Path, keep: int = KEEP, now: datetime | None = None) -> Backup:
    """One backup of the ledger at `url` in the folder, checked. Raises BackupProblem; then no file was added."""
    if keep < 1:
        raise BackupProblem(f"keep={keep}: at least one backup must stay")
    parsed = sa.engine.make_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    at = (now or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    final = where / f"ledger-{facilities}-{at:%Y%m%dT%H%M%SZ}.{'db' if sqlite else 'dump'}"
    part = where / f".{final.name}.{os.getpid()}{PART}"
    try:
        where.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(where)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _copy_sqlite(parsed, part) if sqlite else _dump_postgresql(parsed, part)
        content = check(part)
        if content.facilities != facilities:
            raise BackupProblem(f"the ledger at {_shown(parsed)} belongs to {content.facilities!r}, not {facilities!r}")
        settle(part)
        part.rename(final)
        settle(where)
    except (OSError, sqlite3.Error) as error:
        raise BackupProblem(
            f"no backup of {_shown(parsed)} could be written to {where}: {error}. What to do: see whether the disk is "
            "full or may not be written, or set ALS_BACKUPS to another folder"
        ) from error
    finally:
        with suppress(OSError):  # what kept it from being written is told
            part.unlink(missing_ok=True)
    for old in listed(where, facilities)[:-keep]:
        old.path.unlink(missing_ok=True)
    return Backup(final, facilities, at, final.stat().st_size)


def check(path: Path) -> Content:
    """Read a backup whole, and say what it holds. Raises BackupProblem when it is no good."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
        sqlite = head.startswith(b"SQLite format 3")
        if not sqlite and not head.startswith(b"PGDMP"):
            raise BackupProblem(f"{path} is neither of SQLite nor of pg_dump. What to do: take another file")
        content = _check_sqlite(path) if sqlite else _check_dump(path)
    except (OSError, sqlite3.Error, subprocess.SubprocessError) as error:
        raise BackupProblem(f"{path} is no backup that can be read: {error}. What to do: take an older one") from error
    if content.version not in migrations.known():
        raise BackupProblem(
            f"{path} is of version {content.version}, which this program does not know (its own is {migrations.HEAD}). "
            "What to do: install the program that made it, or a later one"
        )
    return content


# SQLite


def _copy_sqlite(url: sa.URL, part: Path) -> None:
    source = Path(url.database or "")
    if not source.exists():
        raise BackupProblem(f"there is no ledger at {source}. What to do: set ALS_STATE to the installation's folder")
    with closing(sqlite3.connect(source, timeout=30)) as there, closing(sqlite3.connect(part)) as here:
        there.backup(here)  # in one step: a snapshot, which keeps no writer waiting
        here.execute("pragma journal_mode=delete")  # one file, without a log beside it


def _check_sqlite(path: Path) -> Content:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        said = [row[0] for row in db.execute("pragma integrity_check(3)")]
        if said != ["ok"]:
            raise BackupProblem(f"{path} is damaged: {'; '.join(said)[:300]}. What to do: take an older one")
        if broken := db.execute("pragma foreign_key_check").fetchall()[:3]:
            raise BackupProblem(f"{path} has rows that refer to nothing: {broken}. What to do: take an older one")
        stamp = db.execute("select facilities from stamp").fetchone()
        version = db.execute(f"select version_num from {migrations.VERSION_TABLE}").fetchone()
    if stamp is None or version is None:
        raise BackupProblem(f"{path} has no stamp: it is not a ledger that was ever used. What to do: take another one")
    return Content(str(stamp[0]), str(version[0]))


# PostgreSQL


def tables() -> list[str]:
    """Ours: tables of other programs may be in the same database."""
    return [migrations.VERSION_TABLE, *(table.name for table in schema.metadata.sorted_tables)]


def _dump_postgresql(url: sa.URL, part: Path) -> None:
    ours = [f"--table={name}" for name in tables()]
    run_tool(["pg_dump", "--format=custom", "--no-owner", "--no-privileges", *ours, f"--file={part}"], url)


def _check_dump(path: Path) -> Content:
    """pg_restore reads the file to its end; the stamp and the version are in it as COPY data."""
    run_tool(["pg_restore", "--file=/dev/null", str(path)], None)
    found = {}
    for table in (schema.stamp.name, migrations.VERSION_TABLE):
        text = run_tool(["pg_restore", "--data-only", f"--table={table}", "--file=-", str(path)], None)
        match = COPIED.search(text)
        if match is None or not match["rows"].strip():
            raise BackupProblem(f"{path} has no table {table}: it is not a ledger's. What to do: take another one")
        columns = [column.strip() for column in match["columns"].split(",")]
        found[table] = dict(zip(columns, match["rows"].splitlines()[0].split("\t"), strict=True))
    return Content(found[schema.stamp.name]["facilities"], found[migrations.VERSION_TABLE]["version_num"])


def run_tool(command: list[str], url: sa.URL | None) -> str:
    """One of PostgreSQL's own programs; the password goes by its environment, never by its command line."""
    try:
        done = subprocess.run(
            command, env={**os.environ, **(connection(url) if url else {})}, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=TOOL_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise BackupProblem(
            f"{command[0]} is not there. What to do: install PostgreSQL's client programs (postgresql-client)"
        ) from None
    if done.returncode:
        raise BackupProblem(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def connection(url: sa.URL) -> Mapping[str, str]:
    """libpq's variables for a SQLAlchemy URL."""
    query = {name: value for name, value in url.query.items() if isinstance(value, str)}
    wanted = {
        "PGHOST": url.host or query.get("host"), "PGPORT": str(url.port) if url.port else query.get("port"),
        "PGUSER": url.username, "PGPASSWORD": str(url.password) if url.password else None, "PGDATABASE": url.database,
    }  # fmt: skip
    return {name: value for name, value in wanted.items() if value}


# files


def _sweep(where: Path) -> None:
    """Half-written files of a backup that was killed, a day later."""
    for path in where.glob(f".ledger-*{PART}"):
        if time.time() - path.stat().st_mtime > 86400:
            path.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Through to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _shown(url: sa.URL) -> str:
    return url.render_as_string(hide_password=True)
