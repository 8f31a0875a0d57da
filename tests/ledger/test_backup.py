"""Backups of the ledger: made while it is in use, checked, kept; and when one may take its place."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from resources.ledger import Ledger, WrongLedger, backup, database, history, leases, migrations, restore, schema
from resources.ledger.backup import BackupProblem

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ALS_LEDGER_FAST", "1")
    monkeypatch.setenv("ALS_BACKUPS", str(tmp_path / "backups"))
    return f"sqlite:///{tmp_path}/ledger.db"


def note(ledger: Ledger, words: str, times: int = 1) -> None:
    with ledger.write() as tx:
        for _ in range(times):
            history.record(tx, NOW, "test", words)


def notes(ledger: Ledger) -> list[str]:
    with ledger.read() as tx:
        return list(tx.execute(sa.select(schema.history.c.what).order_by(schema.history.c.id)).scalars())


def test_a_backup_made_while_others_write_holds_whole_transactions_and_keeps_nobody_waiting(
    url: str, tmp_path: Path
) -> None:
    ledger, stop, slowest = Ledger(url, "mine"), threading.Event(), [0.0]

    def busy() -> None:
        while not stop.is_set():
            began = time.monotonic()
            note(ledger, "pair", times=2)
            slowest[0] = max(slowest[0], time.monotonic() - began)

    writers = [threading.Thread(target=busy) for _ in range(3)]
    for writer in writers:
        writer.start()
    made = [backup.make(url, "mine", tmp_path / "b", now=NOW + timedelta(seconds=n)) for n in range(4)]
    stop.set()
    for writer in writers:
        writer.join()
    ledger.close()
    for one in made:
        assert backup.check(one.path).facilities == "mine"
        copy = Ledger(f"sqlite:///{one.path}", "mine")
        assert len(notes(copy)) % 2 == 0
        copy.close()
    assert made[-1].bytes > 0 and slowest[0] < 20
    assert all(one.path.stat().st_mode & 0o077 == 0 for one in made)


def test_so_many_are_kept_and_other_files_are_left_alone(url: str, tmp_path: Path) -> None:
    Ledger(url, "mine").close()
    where = tmp_path / "b"
    where.mkdir()
    others = ["ledger-theirs-20200101T000000Z.db", "notes.txt", "ledger-mine-20200101T000000Z.db.old"]
    for name in others:
        (where / name).write_text("x")
    for day in range(5):
        backup.make(url, "mine", where, keep=3, now=NOW + timedelta(days=day))
    assert [one.at.day for one in backup.listed(where, "mine")] == [22, 23, 24]
    assert all((where / name).exists() for name in others)
    newest = backup.newest(where, "mine")
    assert newest is not None and newest.at.day == 24
    with pytest.raises(BackupProblem, match="at least one"):
        backup.make(url, "mine", where, keep=0)


def test_a_ledger_of_other_facilities_or_none_at_all_is_not_backed_up_under_a_wrong_name(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(BackupProblem, match="there is no ledger at"):
        backup.make(url, "mine", tmp_path / "b")
    Ledger(url, "theirs").close()
    with pytest.raises(BackupProblem, match="belongs to 'theirs', not 'mine'"):
        backup.make(url, "mine", tmp_path / "b")
    assert not list((tmp_path / "b").iterdir())


def test_a_folder_that_cannot_be_written_is_told_with_what_to_do(url: str, tmp_path: Path) -> None:
    Ledger(url, "mine").close()
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupProblem, match="set ALS_BACKUPS to another folder"):
        backup.make(url, "mine", tmp_path / "file" / "b")


def damaged(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(4096))


def test_a_damaged_backup_is_not_restored_and_the_ledger_stays(url: str, tmp_path: Path) -> None:
    ledger = Ledger(url, "mine")
    note(ledger, "before", times=500)
    ledger.close()
    made = backup.make(url, "mine", tmp_path / "b")
    damaged(made.path)
    with pytest.raises(BackupProblem, match="take an older one"):
        restore.restore(url, "mine", made.path, "ada")
    (tmp_path / "text.db").write_text("not a database")
    with pytest.raises(BackupProblem):
        restore.restore(url, "mine", tmp_path / "text.db", "ada")
    ledger = Ledger(url, "mine")
    assert len(notes(ledger)) == 500
    ledger.close()


def test_a_backup_of_other_facilities_is_not_restored(url: str, tmp_path: Path) -> None:
    Ledger(url, "theirs").close()
    made = backup.make(url, "theirs", tmp_path / "b")
    with pytest.raises(WrongLedger, match="of the ledger of 'theirs'"):
        restore.restore(url, "mine", made.path, "ada")
    with pytest.raises(WrongLedger, match="belongs to 'theirs', not 'mine'"):
        restore.in_use(url, "mine")


def test_restoring_puts_the_present_ledger_aside_and_says_who_did_it(url: str, tmp_path: Path) -> None:
    ledger = Ledger(url, "mine")
    note(ledger, "yesterday")
    made = backup.make(url, "mine", tmp_path / "b", now=NOW)
    note(ledger, "today")
    ledger.close()
    assert restore.in_use(url, "mine") == []
    done = restore.restore(url, "mine", made.path, "ada", NOW + timedelta(days=1))
    assert done.at == NOW and done.aside is not None
    ledger = Ledger(url, "mine")
    assert notes(ledger) == ["yesterday", "restored the ledger"]
    with ledger.read() as tx:
        assert restore.looks_first(tx, NOW + timedelta(days=2))
        assert not restore.looks_first(tx, NOW + timedelta(days=20))
    ledger.close()
    before = Ledger(f"sqlite:///{done.aside}/ledger.db", "mine")
    assert notes(before) == ["yesterday", "today"]
    before.close()


def test_a_restored_ledger_deletes_nothing_before_its_places_are_armed_again(url: str, tmp_path: Path) -> None:
    """A hold that was placed since the backup is not in it, and a place may have been disarmed since."""
    ledger = Ledger(url, "mine")
    with ledger.write() as tx:
        tx.execute(sa.insert(schema.armings).values(beamline="bl1", place="dtn", who="ada", why="full", at=NOW))
    ledger.close()
    restore.restore(url, "mine", backup.make(url, "mine", tmp_path / "b").path, "ada")
    ledger = Ledger(url, "mine")
    with ledger.read() as tx:
        assert tx.execute(sa.select(schema.armings)).first() is None
    assert notes(ledger) == ["disarmed", "restored the ledger"]
    ledger.close()


def of_the_first_version(url: str) -> None:
    """A ledger as the first version of this program left it."""
    from alembic import command

    engine = database._engine(url)
    config = migrations._config()
    with engine.connect().execution_options(als_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("insert into stamp(facilities, created_at) values('mine', '2026-11-01 00:00:00')"))
    engine.dispose()


def test_a_backup_of_an_earlier_version_is_migrated_when_it_takes_its_place(url: str, tmp_path: Path) -> None:
    of_the_first_version(url)
    made = backup.make(url, "mine", tmp_path / "b")
    assert backup.check(made.path).version == "0001"
    Ledger(url, "mine").close()  # which migrates it
    restore.restore(url, "mine", made.path, "ada")
    ledger = Ledger(url, "mine")
    assert notes(ledger) == ["restored the ledger"]
    ledger.close()


def test_a_ledger_that_is_damaged_or_gone_can_be_replaced(url: str, tmp_path: Path) -> None:
    ledger = Ledger(url, "mine")
    note(ledger, "yesterday")
    ledger.close()
    made = backup.make(url, "mine", tmp_path / "b")
    (tmp_path / "ledger.db").write_bytes(b"rubbish" * 1000)
    assert restore.in_use(url, "mine") == []
    assert restore.restore(url, "mine", made.path, "ada").aside is not None
    for path in tmp_path.glob("ledger.db*"):
        path.unlink()
    assert restore.restore(url, "mine", made.path, "ada").aside is None


def test_a_ledger_that_a_process_has_open_is_in_use(url: str, tmp_path: Path) -> None:
    Ledger(url, "mine").close()
    code = (
        "import sys; from resources.ledger import Ledger\n"
        f"ledger = Ledger({url!r}, 'mine')\nwith ledger.read():\n    print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        (words,) = restore.in_use(url, "mine")
        assert words.startswith(f"process {holder.pid} (") and "has ledger.db open" in words
    finally:
        holder.communicate()
    assert restore.in_use(url, "mine") == []


def test_a_ledger_with_a_run_at_work_is_in_use_until_its_lease_ends(url: str) -> None:
    ledger = Ledger(url, "mine")
    with ledger.write() as tx:
        leases.take_over(tx, "bl1/raw_at_cfs", "run-7", NOW, timedelta(seconds=90))
    ledger.close()
    assert restore.in_use(url, "mine", NOW) == ["run-7 is at work on bl1/raw_at_cfs"]
    assert restore.in_use(url, "mine", NOW + timedelta(seconds=91)) == []


@pytest.mark.services
def test_on_postgresql_a_backup_is_made_checked_and_restored_too(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALS_BACKUPS", str(tmp_path / "backups"))
    engine = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as tx:
        tx.execute(sa.text("create database backups"))
    url = postgresql.replace("/postgres?", "/backups?")
    others = sa.create_engine(url)
    with others.begin() as tx:
        tx.execute(sa.text("create table of_others(n int)"))
        tx.execute(sa.text("insert into of_others values(1)"))
    others.dispose()
    try:
        of_the_first_version(url)
        first = backup.make(url, "mine", tmp_path / "b", now=NOW - timedelta(days=1))
        ledger = Ledger(url, "mine")
        note(ledger, "yesterday")
        made = backup.make(url, "mine", tmp_path / "b", now=NOW)
        assert made.path.suffix == ".dump" and backup.check(made.path).facilities == "mine"
        note(ledger, "today")
        assert any("is open" in words for words in restore.in_use(url, "mine"))
        ledger.close()
        assert restore.in_use(url, "mine") == []
        done = restore.restore(url, "mine", made.path, "ada")
        ledger = Ledger(url, "mine")
        assert notes(ledger) == ["yesterday", "restored the ledger"]
        note(ledger, "tomorrow")  # the counters of the tables are right as well
        with ledger.read() as tx:
            assert tx.execute(sa.text("select n from of_others")).scalar() == 1
        ledger.close()
        assert done.aside is not None and backup.check(done.aside).facilities == "mine"
        restore.restore(url, "mine", first.path, "ada")  # of an earlier version: it is migrated
        ledger = Ledger(url, "mine")
        assert notes(ledger) == ["restored the ledger"]
        ledger.close()
        half = tmp_path / "half.dump"
        half.write_bytes(made.path.read_bytes()[: made.bytes // 2])
        with pytest.raises(BackupProblem):
            backup.check(half)
    finally:
        with engine.connect() as tx:
            tx.execute(sa.text("drop database backups with (force)"))
        engine.dispose()
