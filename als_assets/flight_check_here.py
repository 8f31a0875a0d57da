"""The flight check of this machine: the ledger and its backups, what rests, the disk, Dagster, the alerts' channel."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from beamlines.spec import Spec
from resources import credentials, once, proposals
from resources.alerts import Alerts, where
from resources.facilities import Facilities
from resources.finding import Finding
from resources.ledger import Ledger, WrongLedger, alerts, backup, leases
from resources.ledger.location import ledger_url, state_dir
from sensors.alerts import cannot_open, dagster_here, dagster_home

DAEMON_S = 120.0  # Dagster itself calls a daemon alive for half an hour after its last sign


def ledger(facilities: Facilities) -> Iterator[Finding]:
    """It can be opened and written, and belongs to these facilities; its newest backup; which services rest."""
    url = sa.engine.make_url(ledger_url())
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        words = f"there is none yet at {url.database}; the first start makes it"
        yield Finding("ledger", "open", None, f"{words}. If there should be one, ALS_STATE names another folder")
        return
    try:
        opened = Ledger(url.render_as_string(hide_password=False), facilities.name)
    except WrongLedger as error:
        yield Finding("ledger", "open", False, str(error))
        return
    except sa.exc.SQLAlchemyError as error:
        yield Finding("ledger", "open", False, _cannot(url, error))
        return
    try:
        with opened.write():
            pass
        yield Finding("ledger", "open", True, f"{opened.shown_url} belongs to {facilities.name!r} and can be written")
        yield from _resting(opened)
        yield from _channel(facilities, opened)
    except sa.exc.SQLAlchemyError as error:
        yield Finding("ledger", "open", False, _cannot(url, error))
    finally:
        opened.close()
    yield _backup(facilities)


def schedules(specs: Collection[Spec]) -> Iterator[Finding]:
    """The schedules of proposals, as the beamlines' sensors read them."""
    now = datetime.now(UTC)
    for spec in specs:
        found = proposals.schedule(spec)
        if spec.proposals.schedule is None:
            continue
        if found.trouble:
            yield Finding(f"{spec.id}/proposals", "schedule", False, found.trouble)
            continue
        coming = [shift for shift in found.shifts or () if shift.end > now]
        until = f", the last one until {max(s.end for s in coming):%Y-%m-%d %H:%M} UTC" if coming else ""
        yield Finding(f"{spec.id}/proposals", "schedule", True, f"{len(coming)} shifts from now on{until}")


def _cannot(url: sa.URL, error: Exception) -> str:
    reason = str(getattr(error, "orig", None) or error).strip()
    return f"{url.render_as_string()} cannot be opened: {reason}. See ALS_LEDGER_URL"


def _backup(facilities: Facilities) -> Finding:
    newest = backup.newest(backup.folder(), facilities.name)
    if newest is None:
        return Finding("ledger", "backup", None, f"there is none in {backup.folder()}: als ledger backup makes one")
    days = (datetime.now(UTC) - newest.at) / timedelta(days=1)
    fresh = days <= facilities.file.alerts.backup_days
    words = "" if fresh else ". What to do: als ledger backup; is the schedule ledger_backup running?"
    return Finding("ledger", "backup", fresh, f"{newest.path} is {days:.1f} days old{words}")


def _resting(ledger: Ledger) -> Iterator[Finding]:
    now = ledger.now()
    with ledger.read() as tx:
        resting = [rest for rest in leases.all_pauses(tx) if rest.until > now]
    for rest in resting:
        yield Finding("ledger", f"{rest.service} rests", None, f"until {rest.until:%H:%M:%S} UTC: {rest.reason}")


def _channel(facilities: Facilities, ledger: Ledger) -> Iterator[Finding]:
    settings = facilities.file.alerts
    if settings.channel == "none":
        yield Finding("alerts", "channel", None, f"told to {where(settings)}")
        return
    with ledger.read() as tx:
        broken = [alert.message for alert in alerts.opened(tx) if alert.kind == alerts.CHANNEL]
    missing = None
    if settings.channel == "email":
        empty = [name for name in ("host", "sender", "to") if not getattr(settings.email, name)]
        missing = f"alerts.email.{empty[0]} of the facility file is empty" if empty else None
    elif not credentials.given(settings.webhook.url_env):
        missing = f"set {settings.webhook.url_env}, or {settings.webhook.url_env}_FILE"
    words = (broken or [missing])[0]
    yield Finding("alerts", "channel", words is None, words or f"{where(settings)}; als alerts --test tries it")


def disk(settings: Alerts) -> Iterator[Finding]:
    if not state_dir().exists():
        return
    usage = shutil.disk_usage(state_dir())
    enough = not settings.nearly_full(usage.total, usage.free)
    words = f"{state_dir()} has {usage.free / 1e9:.1f} GB of {usage.total / 1e9:.0f} GB left"
    more = "" if enough else ". What to do: make room; a ledger that cannot be written stops everything"
    yield Finding("disk", "state folder", enough, words + more)


def dagster() -> Iterator[Finding]:
    """Its storage answers, its daemon is alive, none of its sensors is switched off."""
    home, opened = dagster_home(), dagster_here()
    if opened is None:
        words = f"there is no Dagster in {home}; `als demo` starts one"
        yield Finding("dagster", "storage", None, f"{words}. If there should be one, DAGSTER_HOME names another folder")
        return
    if isinstance(opened, Exception):
        yield Finding("dagster", "storage", False, f"{cannot_open(opened)}. Start its database, then the daemon")
        return
    from dagster._core.scheduler.instigation import InstigatorStatus

    with opened as instance:
        yield Finding("dagster", "storage", True, f"{instance.get_runs_count()} runs in {home}")
        beats = {kind: beat.timestamp for kind, beat in instance.get_daemon_heartbeats().items()}
        wanted = [kind for kind, status in instance.get_daemon_statuses().items() if status.required]
        dead = sorted(kind.lower() for kind in wanted if time.time() - beats.get(kind, 0) > DAEMON_S)
        words = f"no sign of life from {', '.join(dead)}: start the daemon, and see its log"
        yield Finding("dagster", "daemon", not dead, words if dead else "alive")
        states = instance.all_instigator_state()
        off = sorted(one.instigator_name for one in states if one.status == InstigatorStatus.STOPPED)
        words = f"switched off: {', '.join(off)}. Switch them on on Dagster's Automation page"
        yield Finding("dagster", "sensors", not off, words if off else "none is switched off")


def resume(facilities: Facilities, services: Collection[str]) -> None:
    """These were asked for everything and answered well: what waits for them need not wait for its next try."""
    url = sa.engine.make_url(ledger_url())
    if not services or (url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()):
        return
    try:
        opened = Ledger(url.render_as_string(hide_password=False), facilities.name)
    except (WrongLedger, sa.exc.SQLAlchemyError):
        return  # a finding says so
    try:
        for name in services:
            once.answered(opened, name)
    finally:
        opened.close()
