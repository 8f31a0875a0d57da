"""Tells staff what is the matter: one sensor for the platform, which also `als alerts --look` calls, from a timer.

`look` finds what is the matter in the ledger, in Dagster, on the disks and with the credentials, and brings the open
alerts up to it. `tell` sends what is new and what is over, many in one message, at most one message in `every_s`; a
channel that does not work is an alert of its own, which `als alerts` and `als check` show, and it holds nothing up.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from beamlines.spec import Spec
from resources import once
from resources.alerts import Alerts, NotSent, send
from resources.errors import FacilityError
from resources.facilities import Facilities
from resources.ledger import Ledger, alerts, backup, concerns, leases, schema
from resources.ledger.alerts import Alert, Trouble
from resources.ledger.location import state_dir

DAEMON_S = 300.0  # it gives a sign of life every 30 s
LEASE, LEASE_S = "alerts", 120
AGAIN = timedelta(minutes=5)  # after a message could not be sent
SHOWN = 10  # of each kind in a message
PAGES = "ALS_PAGES"


def look(ledger: Ledger, specs: Sequence[Spec], facilities: Facilities, instance: Any, credentials_too: bool) -> int:
    """Bring the open alerts up to what is the matter now; returns how many are new. What cannot be looked at is left
    as it was. `instance` is Dagster's, None where there is none, or the error with which it cannot be opened."""
    settings, now = facilities.file.alerts, ledger.now()
    with ledger.read() as tx:
        found = concerns.concerns(tx, specs, now, timedelta(seconds=settings.resting_s))
    kinds = set(concerns.KINDS)
    looks: dict[str, Callable[[], Iterator[Trouble]]] = {
        "disk": lambda: _disks(settings),
        "backup": lambda: _backups(ledger, settings.backup_days, now),
    }
    if isinstance(instance, Exception):
        looks["daemon"] = lambda: _unreachable(instance)
    elif instance is not None:
        looks["sensor"] = lambda: _sensors(instance, settings.failing_ticks)
        looks["daemon"] = lambda: _daemon(instance)
    if credentials_too:
        looks["ends"] = lambda: _ends(ledger, facilities, now)
    for kind, finds in looks.items():
        try:
            found += list(finds())
            kinds.add(kind)
        except (FacilityError, OSError):
            continue  # not known now; the open ones of this kind stay
        except Exception as bug:  # noqa: BLE001 - it is told, and keeps nothing else from being told
            found.append(Trouble(f"look/{kind}", f"could not be looked at: {type(bug).__name__}: {bug}"))
    kinds.add("look")
    with ledger.write() as tx:
        return alerts.reconcile(tx, found, kinds, now, timedelta(seconds=settings.clear_s))


def tell(ledger: Ledger, facilities: Facilities, holder: str) -> str:
    """Send what is untold, if it is time; returns what was done, in words."""
    settings, now = facilities.file.alerts, ledger.now()
    if settings.channel == "none":
        return "alerts are sent nowhere (alerts: channel: none)"
    with ledger.read() as tx:
        raised, cleared = alerts.untold(tx)
        last = alerts.last_told(tx)
        broken = next((a for a in alerts.opened(tx) if a.kind == alerts.CHANNEL), None)
    if not raised and not cleared:
        return "nothing is to be told"
    if last is not None and now - last < timedelta(seconds=settings.every_s):
        return (
            f"{len(raised) + len(cleared)} are told with the next message, from {last + _s(settings.every_s):%H:%M} UTC"
        )
    if broken is not None and now - broken.seen_at < AGAIN:
        return f"the channel is tried again from {broken.seen_at + AGAIN:%H:%M} UTC: {broken.message}"
    with ledger.write() as tx:  # the timer and the sensor must not both send it
        if not leases.take_over(tx, LEASE, holder, now, _s(LEASE_S)):
            return "somebody else is sending it"
    trouble: list[Trouble] = []
    try:
        send(settings, *message(facilities.name, raised, cleared, now))
    except NotSent as error:
        trouble = [Trouble(alerts.CHANNEL, f"alerts cannot be sent: {error}")]
    with ledger.write() as tx:
        if not trouble:
            alerts.told(tx, [a.id for a in raised], [a.id for a in cleared], ledger.now())
        alerts.reconcile(tx, trouble, [alerts.CHANNEL], ledger.now(), timedelta(0))
        leases.release(tx, LEASE, holder, ledger.now(), progress=True)
    return trouble[0].message if trouble else f"told: {len(raised)} new, {len(cleared)} over"


def message(facilities: str, raised: Sequence[Alert], cleared: Sequence[Alert], now: datetime) -> tuple[str, str]:
    """Subject and text of one message about many alerts."""
    parts = [headline(kind, group) for kind, group in _by_kind(raised).items()]
    over = f"{len(cleared)} over" if cleared else ""
    subject = f"[als {facilities}] " + "; ".join([*parts, *([over] if over else [])])
    lines = [f"{facilities}, {now:%Y-%m-%d %H:%M} UTC", ""]
    for title, group in (("New", raised), ("Over", cleared)):
        for kind, members in _by_kind(group).items():
            lines.append(f"{title}: {headline(kind, members)}")
            lines += [f"  - {' '.join(alert.message.split())}" for alert in members[:SHOWN]]
            if len(members) > SHOWN:
                lines.append(f"  … and {len(members) - SHOWN} more: als alerts")
            lines.append("")
    pages = os.environ.get(PAGES)
    lines.append("What is open: als alerts. One scan: als scan BEAMLINE KEY. What to do: docs/troubleshooting.md.")
    return subject, "\n".join([*lines, *([pages] if pages else [])])


def headline(kind: str, group: Sequence[Alert]) -> str:
    count = len(group)
    names = ", ".join(dict.fromkeys(alert.key.partition("/")[2] for alert in group)) if count <= 3 else str(count)
    if kind == "failed":
        scans = len({alert.scan_id for alert in group})
        return f"{scans} scan{'s' * (scans != 1)} failed"
    return {
        "question": f"{count} question{'s' * (count != 1)} about scans",
        "credential": f"credential of {names}",
        "ends": f"credential of {names} ends",
        "resting": f"{names} does not answer",
        "idle": f"no progress: {names}",
        "sensor": f"sensor fails: {names}",
        "daemon": "Dagster's daemon is not alive",
        "disk": f"disk nearly full: {names}",
        "backup": "no backup of the ledger",
        "trash": f"{count} stuck in the trash",
        "look": f"not looked at: {names}",
    }.get(kind, kind)


def _by_kind(group: Sequence[Alert]) -> dict[str, list[Alert]]:
    out: dict[str, list[Alert]] = defaultdict(list)
    for alert in group:
        out[alert.kind].append(alert)
    return out


# what is the matter outside the ledger


def _disks(settings: Alerts) -> Iterator[Trouble]:
    for name, path in (("state", state_dir()), ("backups", backup.folder())):
        if path.exists():
            usage = shutil.disk_usage(path)
            if settings.nearly_full(usage.total, usage.free):
                free = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.0f} GB"
                words = (
                    f"{path} has {free} left. What to do: make room; a ledger that cannot be written stops everything."
                )
                yield Trouble(f"disk/{name}", words)


def _backups(ledger: Ledger, days: float, now: datetime) -> Iterator[Trouble]:
    where = backup.folder()
    last = backup.newest(where, ledger.facilities)
    with ledger.read() as tx:
        since = last.at if last else tx.execute(sa.select(schema.stamp.c.created_at)).scalar()
    if since is not None and now - since > timedelta(days=days):
        words = f"the newest in {where} is of {since:%Y-%m-%d %H:%M} UTC" if last else f"there is none in {where}"
        yield Trouble(
            "backup/ledger", f"{words}. What to do: als ledger backup; is the schedule ledger_backup running?"
        )


def _sensors(instance: Any, ticks: int) -> Iterator[Trouble]:
    """Sensors and schedules whose last ticks have all failed, and those that are to run and have stopped ticking."""
    from dagster._core.scheduler.instigation import InstigatorStatus, TickStatus

    for state in instance.all_instigator_state():
        if state.status == InstigatorStatus.STOPPED:
            continue
        last = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=ticks)
        if len(last) == ticks and all(tick.status == TickStatus.FAILURE for tick in last):
            said = (last[0].error.message if last[0].error else "no reason given").strip().splitlines()
            words = (
                f"{state.instigator_name} has failed {ticks} times in a row: {(said or ['no reason given'])[-1][:300]}"
            )
            yield Trouble(f"sensor/{state.instigator_name}", f"{words}. What to do: see its ticks on Dagster's pages.")


def _daemon(instance: Any) -> Iterator[Trouble]:
    beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    ago = time.time() - max(beats, default=0)
    if beats and ago > DAEMON_S:
        yield Trouble(
            "daemon/dagster", f"no sign of life for {ago / 60:.0f} minutes. What to do: start it; see its log."
        )


def dagster_home() -> Path:
    """Dagster's folder: DAGSTER_HOME, or that of all state."""
    return Path(os.environ.get("DAGSTER_HOME") or state_dir())


def dagster_here() -> dg.DagsterInstance | Exception | None:
    """This installation's Dagster, to be disposed of; None where there is none, or why it cannot be opened."""
    home = dagster_home()
    try:
        return dg.DagsterInstance.from_config(str(home)) if (home / "dagster.yaml").exists() else None
    except Exception as error:  # noqa: BLE001 - whatever its storage raises: it is what staff must hear of
        return error


def cannot_open(error: Exception) -> str:
    """That Dagster's storage cannot be opened, and why."""
    return f"Dagster's storage cannot be opened: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _unreachable(error: Exception) -> Iterator[Trouble]:
    yield Trouble(
        "daemon/dagster",
        f"{cannot_open(error)}. What to do: start its database, then the daemon; until then nothing is noticed and "
        "nothing goes on, and nothing is lost.",
    )


def _ends(ledger: Ledger, facilities: Facilities, now: datetime) -> Iterator[Trouble]:
    for name, service in facilities.services.items():
        if hasattr(service, "key_ends") and (end := service.key_ends()) is not None:
            once.answered(ledger, service.service)  # a key that was replaced is tried at once
            problem = service.key_ending(end, now)
            if problem is not None:
                yield Trouble(f"ends/{name}", problem.reason)


def _s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def alerts_sensor(specs: Sequence[Spec], facilities: Facilities) -> dg.SensorDefinition:
    """The sensor. Its cursor is when the credentials were last looked at."""
    settings = facilities.file.alerts

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=max(1, round(settings.look_s)),
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"ledger"},
        description="Tells staff by the channel of the facility file what is the matter, once, and when it is over.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> Any:
        ledger = context.resources.ledger.open()
        asked = float(context.cursor or 0)
        now = time.time()
        ask = now - asked >= settings.credential_s
        new = look(ledger, specs, facilities, context.instance, credentials_too=ask)
        done = tell(ledger, facilities, f"sensor {os.getpid()}")
        return dg.SensorResult(skip_reason=f"{new} new; {done}", cursor=str(now if ask else asked))

    return sensor
