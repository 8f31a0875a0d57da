"""What staff are told, when, how often: one message for many things, once, and once more when it is over."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from resources.alerts import Alerts, Email
from resources.facilities import Facilities, FacilityFile
from resources.ledger import Ledger, alerts, backup, leases, scans, schema, steps
from sensors import alerts as sensor
from tests.ledger.conftest import NOW, Book
from tests.production.mailbox import Mail, up

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


class Office:
    """A ledger whose clock a test moves, a mail server, and the two halves of the sensor."""

    def __init__(self, book: Book, mail: Mail) -> None:
        self.book, self.mail = book, mail
        email = Email(host="127.0.0.1", port=mail.port, security="none", sender="als@x.org", to="one@x.org")
        self.settings(Alerts(channel="email", email=email))
        self.instance: Any = None

    def settings(self, wanted: Alerts) -> None:
        file = FacilityFile(name="sandbox", services={}, places={}, alerts=wanted)
        self.facilities = Facilities(file)

    def tick(self, after: timedelta = timedelta(0)) -> str:
        self.book.now += after
        sensor.look(self.book.ledger, [self.book.spec], self.facilities, self.instance, credentials_too=True)
        return sensor.tell(self.book.ledger, self.facilities, "test")

    @property
    def subjects(self) -> list[str]:
        return [str(message["Subject"]) for message in self.mail.messages]

    def opened(self) -> list[str]:
        with self.book.ledger.read() as tx:
            return [alert.key for alert in alerts.opened(tx)]

    def fail(self, *names: str) -> list[int]:
        ids = [self.book.scan(name) for name in names]
        for scan_id in ids:
            self.book.put(scan_id, state=steps.FAILED, why=f"scan {scan_id}: no space. What to do: free some.")
        return ids

    def mend(self, ids: list[int]) -> None:
        for scan_id in ids:
            self.book.put(scan_id, state=steps.DONE, why=None)

    def rests(self, person: bool = False, reason: str = "power work") -> None:
        with self.book.ledger.write() as tx:
            leases.pause(tx, "nersc", reason, "X", self.book.now, 60, 1800, None, person)


@pytest.fixture
def office(sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    monkeypatch.setenv("ALS_STATE", str(tmp_path))
    monkeypatch.setenv("ALS_LEDGER_FAST", "1")
    monkeypatch.delenv("ALS_BACKUPS", raising=False)
    shutil.copyfile(sqlite_template, tmp_path / "ledger.db")
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", "sandbox")
    with ledger.write() as tx:
        tx.execute(sa.update(schema.stamp).values(created_at=NOW))
    full = shutil.disk_usage("/")._replace(total=1000 * 10**9, free=500 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with up(Mail()) as mail:
        yield Office(Book(ledger), mail)
    ledger.close()


def test_many_failed_scans_are_one_message(office: Office) -> None:
    office.fail(*(f"s{i:03d}.h5" for i in range(60)))
    assert office.tick() == "told: 60 new, 0 over"
    (message,) = office.mail.messages
    assert message["Subject"] == "[als sandbox] 60 scans failed"
    text = message.get_content()
    assert text.count("  - scan ") == 10 and "… and 50 more: als alerts" in text and "no space" in text


def test_nothing_is_told_twice_and_the_end_is_told_once(office: Office) -> None:
    ids = office.fail("a.h5")
    office.tick()
    for _ in range(5):
        office.tick(10 * MINUTE)
    assert office.subjects == ["[als sandbox] 1 scan failed"]
    office.mend(ids)
    office.tick(MINUTE)
    assert len(office.subjects) == 1  # perhaps it only flickers
    office.tick(10 * MINUTE)
    office.tick(10 * MINUTE)
    assert office.subjects[1:] == ["[als sandbox] 1 over"] and office.opened() == []
    office.tick(60 * MINUTE)
    assert len(office.subjects) == 2


def test_what_comes_shortly_after_a_message_shares_the_next_one(office: Office) -> None:
    office.fail("a.h5")
    office.tick()
    for n in range(8):
        office.fail(f"b{n}.h5")
        assert "with the next message" in office.tick(MINUTE)
    office.tick(2 * MINUTE)
    assert office.subjects == ["[als sandbox] 1 scan failed", "[als sandbox] 8 scans failed"]


def test_a_scan_that_fails_again_after_it_was_mended_is_told_again(office: Office) -> None:
    ids = office.fail("a.h5")
    office.tick()
    office.mend(ids)
    office.tick(11 * MINUTE)
    office.book.put(ids[0], state=steps.FAILED, why="again")
    office.tick(11 * MINUTE)
    assert ["1 scan failed" in subject for subject in office.subjects] in ([True, True], [True, False, True])


def test_what_is_over_is_kept_for_90_days_and_what_is_open_as_long_as_it_is(office: Office) -> None:
    def kept() -> list[str]:
        with office.book.ledger.read() as tx:
            found = tx.execute(sa.select(schema.alerts.c.key).order_by(schema.alerts.c.id)).scalars()
            return [str(key).rpartition("/")[2] for key in found]

    office.settings(office.facilities.file.alerts.model_copy(update={"clear_s": 0.0, "backup_days": 9999.0}))
    (first,) = office.fail("a.h5")
    office.tick()
    office.mend([first])
    office.fail("b.h5")
    office.tick(10 * MINUTE)
    cleared_at = office.book.now
    assert kept() == ["a.h5", "b.h5"] and len(office.opened()) == 1
    office.tick(90 * DAY)
    assert kept() == ["a.h5", "b.h5"] and office.book.now - cleared_at == 90 * DAY
    office.tick(MINUTE)
    assert kept() == ["b.h5"] and len(office.opened()) == 1
    office.tick(3000 * DAY)
    assert kept() == ["b.h5"] and len(office.opened()) == 1
    assert sum("over" in subject for subject in office.subjects) == 1


def test_what_came_and_went_before_anybody_was_told_is_told_to_nobody(office: Office) -> None:
    office.fail("a.h5")
    office.tick()
    ids = office.fail("b.h5")
    office.tick(MINUTE)
    office.settings(office.facilities.file.alerts.model_copy(update={"clear_s": 0.0}))
    office.mend(ids)
    office.tick(MINUTE)
    office.tick(60 * MINUTE)
    assert office.subjects == ["[als sandbox] 1 scan failed"]


def test_a_channel_that_does_not_work_holds_nothing_up_and_is_shown(office: Office) -> None:
    office.mail.refuse = "452 out of storage"
    office.fail("a.h5")
    assert "452 out of storage" in office.tick()
    assert office.opened() == ["failed/bl1/raw_at_cfs/a.h5", "channel"]
    said = len(office.mail.said)
    assert "tried again from" in office.tick(MINUTE) and len(office.mail.said) == said
    office.mail.refuse = ""
    office.tick(5 * MINUTE)
    assert office.subjects == ["[als sandbox] 1 scan failed"] and office.opened() == ["failed/bl1/raw_at_cfs/a.h5"]
    office.tick(30 * MINUTE)
    assert len(office.subjects) == 1  # that the channel works again is seen by the message itself


def test_without_a_channel_alerts_are_kept_and_are_told_once_there_is_one(office: Office) -> None:
    wanted = office.facilities.file.alerts
    office.settings(Alerts())
    office.fail("a.h5")
    assert "sent nowhere" in office.tick()
    assert office.opened() and not office.mail.messages
    office.settings(wanted)
    office.tick()
    assert office.subjects == ["[als sandbox] 1 scan failed"]


def test_two_that_tell_at_once_send_one_message(office: Office) -> None:
    office.fail("a.h5")
    with office.book.ledger.write() as tx:
        assert leases.take_over(tx, sensor.LEASE, "the timer", office.book.now, timedelta(seconds=60))
    assert office.tick() == "somebody else is sending it"
    office.tick(2 * MINUTE)  # it was killed: its lease ran out
    assert len(office.subjects) == 1


def test_a_service_is_told_after_a_while_a_credential_at_once(office: Office) -> None:
    office.rests()
    office.tick()
    assert office.opened() == []
    for _ in range(4):
        office.book.now += 10 * MINUTE
        office.rests()
        office.tick()
    assert office.opened() == ["resting/nersc"] and "nersc does not answer" in office.subjects[0]
    assert "power work" in office.mail.messages[0].get_content()
    office.book.now += 60 * MINUTE
    office.rests(person=True, reason="NERSC does not accept the key")
    office.tick()
    assert office.opened() == ["resting/nersc", "credential/nersc"] or office.opened() == ["credential/nersc"]
    assert "credential of nersc" in office.subjects[-1]


def test_a_service_that_nobody_has_tried_for_long_is_not_said_to_be_down(office: Office) -> None:
    office.rests()
    office.tick(5 * 60 * MINUTE)
    assert office.opened() == []


def test_questions_runs_without_progress_and_stuck_trash_are_told(office: Office) -> None:
    scan_id = office.book.scan("a.h5")
    with office.book.ledger.write() as tx:
        scans.ask_person(tx, scan_id, "a.h5 was changed at the beamline", NOW)
        tx.execute(sa.insert(schema.leases).values(name="bl1/raw_at_cfs", holder="", expires_at=NOW, idle_runs=4))
        copy_id = tx.execute(sa.select(schema.copies.c.id).where(schema.copies.c.scan_id == scan_id)).scalar()
        removal = {"copy_id": copy_id, "beamline": "bl1", "place": "dtn", "state": "stuck", "live": True, "trash": "t",
                   "who": "x", "why": "old", "intended_at": NOW, "note": "its old name is taken"}  # fmt: skip
        tx.execute(sa.insert(schema.removals).values(**removal))
    office.tick()
    assert sorted(office.opened()) == ["idle/bl1/raw_at_cfs", "question/bl1/a.h5", "trash/bl1/dtn/a.h5"]
    text = office.mail.messages[0].get_content()
    assert "was changed at the beamline" in text and "made no progress" in text and "its old name is taken" in text


def test_a_full_disk_and_an_old_backup_are_told(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage("/")._replace(total=1000 * 10**9, free=19 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    office.tick(3 * 24 * 60 * MINUTE)
    assert sorted(office.opened()) == ["backup/ledger", "disk/state"]
    assert "there is none in" in office.mail.messages[0].get_content()
    backup.make(office.book.ledger.url, "sandbox", tmp_path / "backups", now=office.book.now)
    office.tick(11 * MINUTE)
    assert "backup/ledger" not in office.opened()
    office.tick(3 * 24 * 60 * MINUTE)
    assert "backup/ledger" in office.opened()


def test_a_key_that_ends_soon_is_told_and_one_that_cannot_be_asked_for_changes_nothing(office: Office) -> None:
    from resources.errors import CredentialProblem, Unavailable

    state = {"end": NOW + 2 * MINUTE, "down": False}

    class Nersc:
        service = "nersc"

        def key_ends(self) -> Any:
            if state["down"]:
                raise Unavailable("nersc", "down")
            return state["end"]

        def key_ending(self, end: Any, now: Any) -> Any:
            return CredentialProblem("nersc", "the NERSC key ends soon") if end - now < timedelta(days=7) else None

    office.facilities.__dict__["services"] = {"nersc": Nersc(), "scicat": object()}
    office.tick()
    assert office.opened() == ["ends/nersc"] and "credential of nersc ends" in office.subjects[0]
    state["down"] = True
    office.tick(60 * MINUTE)
    assert office.opened() == ["ends/nersc"]
    state |= {"down": False, "end": NOW + timedelta(days=60)}
    office.tick(60 * MINUTE)
    assert office.opened() == []


def test_a_sensor_that_keeps_failing_and_a_daemon_that_is_dead_are_told(office: Office) -> None:
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.remote_origin import (
        InProcessCodeLocationOrigin,
        RemoteInstigatorOrigin,
        RemoteRepositoryOrigin,
    )
    from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster._daemon.types import DaemonHeartbeat
    from dagster._utils.error import SerializableErrorInfo

    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="x"), location_name="als")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "r"), "bl1_new_scans")
    with dg.instance_for_test() as instance:
        office.instance = instance
        state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
        instance.add_instigator_state(state)
        wrong = SerializableErrorInfo("ValueError: no such column\n", [], "ValueError")
        for n, status in enumerate([TickStatus.FAILURE, TickStatus.SUCCESS, *3 * [TickStatus.FAILURE]]):
            failed = status == TickStatus.FAILURE
            instance.create_tick(
                TickData(origin.get_id(), "bl1_new_scans", InstigatorType.SENSOR, status, time.time() - 100 + n,
                         run_ids=[], run_keys=[], error=wrong if failed else None, selector_id=state.selector_id)
            )  # fmt: skip
            if n < 4:
                office.tick()
                assert office.opened() == []
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 1000, "SENSOR", "1"))
        office.tick()
        assert sorted(office.opened()) == ["daemon/dagster", "sensor/bl1_new_scans"]
        assert "no such column" in office.mail.messages[0].get_content()
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "1"))
        instance.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))
        office.tick(11 * MINUTE)
        assert office.opened() == []


def test_the_sensor_looks_tells_and_remembers_when_it_asked_for_credentials(office: Office) -> None:
    office.fail("a.h5")
    made = sensor.alerts_sensor([office.book.spec], office.facilities)
    ledger = SimpleNamespace(open=lambda: office.book.ledger)
    context = dg.build_sensor_context(instance=dg.DagsterInstance.ephemeral(), resources={"ledger": ledger}, cursor="0")
    result = made.evaluate_tick(context)
    assert "told: 2 new, 0 over" in str(result.skip_message)
    # what cannot be looked at is told, and keeps nothing else from it: this instance has no schedules to ask for
    assert office.opened() == ["failed/bl1/raw_at_cfs/a.h5", "look/sensor"]
    assert abs(float(result.cursor or 0) - time.time()) < 60
    assert len(office.mail.messages) == 1


def test_the_pages_address_and_the_commands_are_in_the_message(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALS_PAGES", "https://pages.example.org")
    office.fail("a.h5")
    office.tick()
    text = office.mail.messages[0].get_content()
    assert "als scan BEAMLINE KEY" in text and "https://pages.example.org" in text
