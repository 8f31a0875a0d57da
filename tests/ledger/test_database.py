"""Opening the ledger: migrations, the stamp, times, words, and many writers at once."""

from __future__ import annotations

import multiprocessing
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from resources.ledger import Ledger, WrongLedger, history, migrations, schema

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
FORK = multiprocessing.get_context("fork")  # quick; nothing of the parent is used


def opened(url: str, facilities: str, start: float, answers: Any) -> None:
    time.sleep(max(0.0, start - time.time()))
    try:
        Ledger(url, facilities).close()
        answers.put("opened")
    except Exception as error:  # noqa: BLE001
        answers.put(f"{type(error).__name__}: {error}")


def wrote(url: str, times: int, answers: Any) -> None:
    """Read, then write what was read plus one: the worst case for a database with many writers."""
    ledger = Ledger(url, "sandbox")
    try:
        for _ in range(times):
            with ledger.write() as tx:
                n = tx.execute(sa.select(sa.func.count()).select_from(schema.history)).scalar_one()
                history.record(tx, NOW, "writer", f"{n}")
        answers.put("")
    except Exception as error:  # noqa: BLE001
        answers.put(f"{type(error).__name__}: {error}")
    finally:
        ledger.close()


def at_once(target: Any, *arguments: tuple[Any, ...]) -> list[str]:
    answers = FORK.Queue()
    processes = [FORK.Process(target=target, args=(*a, answers)) for a in arguments]
    for process in processes:
        process.start()
    said = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(10)
    return sorted(said)


def test_migrations_bring_a_database_to_exactly_the_schema(ledger_url: str) -> None:
    ledger = Ledger(ledger_url, "sandbox")
    with ledger.write() as tx:
        options = {"version_table": migrations.VERSION_TABLE, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(tx, opts=options), schema.metadata) == []
        indexes = {t: {i["name"] for i in sa.inspect(tx).get_indexes(t)} for t in schema.metadata.tables}
    for table in schema.metadata.tables.values():
        assert {index.name for index in table.indexes} <= indexes[table.name]
    ledger.close()


def test_the_latest_migration_is_the_one_that_the_program_wants() -> None:
    assert migrations.HEAD in migrations.known()


def test_a_new_ledger_opened_by_several_processes_at_once_is_made_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'ledger.db'}"
    start = time.time() + 0.3
    assert at_once(opened, *[(url, "sandbox", start)] * 4) == ["opened"] * 4
    ledger = Ledger(url, "sandbox")
    with ledger.read() as tx:
        assert tx.execute(sa.select(schema.stamp.c.facilities)).scalars().all() == ["sandbox"]
    ledger.close()


def test_a_new_ledger_on_postgresql_is_made_once_too(postgresql: str) -> None:
    engine = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("create database fresh")
    try:
        url = postgresql.replace("/postgres?", "/fresh?")
        assert at_once(opened, *[(url, "sandbox", time.time() + 0.3)] * 3) == ["opened"] * 3
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql("drop database fresh with (force)")
        engine.dispose()


def test_of_two_facilities_that_open_a_new_ledger_at_once_one_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    start = time.time() + 0.3
    one, other = at_once(opened, (url, "sandbox", start), (url, "production", start))
    assert one.startswith("WrongLedger") and other == "opened"


def test_a_ledger_of_other_facilities_is_refused_and_left_as_it_is(ledger_url: str) -> None:
    with pytest.raises(WrongLedger, match=r"belongs to the facilities 'sandbox'.*ALS_FACILITIES=sandbox"):
        Ledger(ledger_url, "production")
    Ledger(ledger_url, "sandbox").close()


def test_a_ledger_of_a_later_version_is_refused(tmp_path: Path, sqlite_template: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(sqlite_template.read_bytes())
    ledger = Ledger(f"sqlite:///{path}", "sandbox")
    with ledger.write() as tx:
        tx.execute(sa.text(f"update {migrations.VERSION_TABLE} set version_num = '9999'"))
    ledger.close()
    with pytest.raises(WrongLedger, match="version 9999, which this program does not know"):
        Ledger(f"sqlite:///{path}", "sandbox")


def test_a_database_that_dagster_uses_with_alembic_can_hold_the_ledger_too(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shared.db'}")
    with engine.begin() as tx:
        tx.execute(sa.text("create table alembic_version (version_num varchar)"))
        tx.execute(sa.text("insert into alembic_version values ('29b539ebc72a')"))
    Ledger(f"sqlite:///{tmp_path / 'shared.db'}", "sandbox").close()
    with engine.connect() as connection:
        assert connection.execute(sa.text("select * from alembic_version")).all() == [("29b539ebc72a",)]
    engine.dispose()


def test_the_address_that_is_shown_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "_migrate_and_stamp", lambda self: None)
    ledger = Ledger("postgresql+psycopg2://als:hunter2@db/ledger", "sandbox")
    assert "hunter2" not in ledger.shown_url and "db/ledger" in ledger.shown_url


def test_an_unreachable_server_is_an_error_and_not_a_new_ledger(tmp_path: Path) -> None:
    with pytest.raises(sa.exc.OperationalError):
        Ledger(f"postgresql+psycopg2://als@/nowhere?host={tmp_path}", "sandbox")


def test_times_come_back_aware_and_in_utc(book: Any) -> None:
    there = datetime(2026, 11, 20, 2, 0, 0, 123456, tzinfo=timezone(timedelta(hours=-8)))
    with book.ledger.write() as tx:
        history.record(tx, there, "me", "test")
        at = tx.execute(sa.select(schema.history.c.at)).scalar_one()
    assert at == there and at.utcoffset() == timedelta(0)


def test_a_naive_time_is_refused(book: Any) -> None:
    with pytest.raises(sa.exc.StatementError, match="no time zone"), book.ledger.write() as tx:
        history.record(tx, datetime(2026, 11, 20), "me", "test")


def test_words_that_no_database_stores_are_kept_as_escapes(book: Any) -> None:
    with book.ledger.write() as tx:
        history.record(tx, NOW, "me", "test", why="half \ud800 nul \0 café")
        assert tx.execute(sa.select(schema.history.c.why)).scalar_one() == "half \\ud800 nul \\x00 café"


def test_eight_processes_that_write_at_once_lose_nothing_and_are_never_locked_out(ledger_url: str) -> None:
    assert at_once(wrote, *[(ledger_url, 25)] * 8) == [""] * 8
    ledger = Ledger(ledger_url, "sandbox")
    with ledger.read() as tx:
        said = tx.execute(sa.select(schema.history.c.what).order_by(schema.history.c.id)).scalars().all()
    ledger.close()
    assert said == [str(n) for n in range(200)]


def test_a_transaction_that_raises_leaves_nothing(book: Any) -> None:
    with pytest.raises(ZeroDivisionError), book.ledger.write() as tx:
        history.record(tx, NOW, "me", "test")
        raise ZeroDivisionError
    with book.ledger.read() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(schema.history)).scalar() == 0


def test_a_reader_sees_one_moment(book: Any) -> None:
    def count(tx: Any) -> Any:
        return tx.execute(sa.select(sa.func.count()).select_from(schema.history)).scalar()

    with book.ledger.read() as reader:
        assert count(reader) == 0
        with book.ledger.write() as tx:
            history.record(tx, NOW, "me", "test")
        assert count(reader) == 0
    with book.ledger.read() as tx:
        assert count(tx) == 1


def test_what_is_committed_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALS_LEDGER_FAST", raising=False)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", "sandbox")
    with ledger.read() as tx:
        assert tx.execute(sa.text("pragma synchronous")).scalar() == 2
        assert tx.execute(sa.text("pragma journal_mode")).scalar() == "wal"
        assert tx.execute(sa.text("pragma foreign_keys")).scalar() == 1
    ledger.close()


def test_history_is_told_newest_first_and_by_scan(book: Any) -> None:
    mine, other = book.scan("a.h5"), book.scan("b.h5")
    with book.ledger.write() as tx:
        for what in ("first", "second"):
            history.record(tx, NOW, "me", what, scan_id=mine, details={"n": 1})
        history.record(tx, NOW, "me", "other", scan_id=other)
    with book.ledger.read() as tx:
        assert [h["what"] for h in history.of_scan(tx, mine)] == ["second", "first"]
        assert history.of_scan(tx, mine)[0]["details"] == {"n": 1}
