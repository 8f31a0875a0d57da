"""New files on a detector's disk become scans: listed, grouped, settled, written to the ledger, announced to Dagster.

One sensor per beamline. Each tick lists the watched place, so nothing depends on having seen an event; running it
twice, or at the same time, changes nothing. A scan counts as announced once Dagster is seen to have its partition: the
daemon records the event of a sensor's result before it adds the key, and may be killed in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import dagster as dg

from beamlines.policy import names as policy_names
from beamlines.policy.grouping import Group, belongs, group
from beamlines.policy.settled import settled
from beamlines.policy.since import appeared, doubt, too_old
from beamlines.spec import Spec
from resources import once
from resources.errors import CredentialProblem, FacilityError, Unavailable
from resources.facilities import Facilities, Pace
from resources.ledger import Ledger, history, leases, notices, refusals, scans, steps
from resources.ledger.scans import Known, Listed, Scan
from resources.proposals import schedule
from resources.storage import Storage, WrongPlace
from sensors import caught_up, changed, late, names, registering
from sensors.registering import shown

ANNOUNCE = 200  # partitions per tick
REGISTER = 500  # scans per look: a sensor must answer within a minute
AT_ONCE = 50  # scans per transaction: others want to write, too
SHOWN = 100  # files of a scan that its event lists


@dataclass
class Noticed:
    """What a look at the watched place came to.

    Attributes:
        files: how many files of scans were listed.
        scans: ids of new or extended scans.
        waiting: groups that have not settled, empty files among them.
        more: settled groups that are left for the next look.
        left_alone: groups that are older than the beamline's `since`.
        refused: files that cannot become scans and were not seen before, with the reason.
        trouble: why the listing is not whole, or None.
        broken: the trouble does not go away by waiting: a person has to act.
        schedule: why the schedule of proposals cannot be used, or None. It keeps nothing from being noticed.
        changed: scans that were brought in line with a spec that has changed.
    """

    files: int = 0
    scans: list[int] = field(default_factory=list)
    waiting: int = 0
    more: int = 0
    left_alone: int = 0
    refused: list[str] = field(default_factory=list)
    trouble: str | None = None
    broken: bool = False
    schedule: str | None = None
    changed: int = 0

    def __str__(self) -> str:
        if self.trouble:
            return self.trouble
        parts = [f"{self.files} files", f"{self.waiting} groups not settled"]
        parts += [f"{self.more} settled ones left for the next look"] if self.more else []
        parts += [f"{self.left_alone} older than `since`"] if self.left_alone else []
        parts += [f"{self.changed} scans brought in line with defs.yaml"] if self.changed else []
        return ", ".join([*parts, "nothing new"])


def look(ledger: Ledger, spec: Spec, place: Storage, pace: Pace, service: str, below: str | None = None) -> Noticed:
    """List the watched place and bring the ledger up to date. What could not be listed is in `trouble`, in words; then
    nothing is concluded from what was missing, and what was seen stands.

    Args:
        below: a folder whose scans are taken although they are older than `since`, and no others ("" is all of it).
    """
    out = Noticed()
    began = ledger.now()
    out.changed = caught_up.catch_up(ledger, spec)
    with ledger.read() as tx:
        rest = leases.paused(tx, service, began)
    if rest is not None:
        out.trouble = f"{service} rests until {rest.until:%H:%M:%S} UTC: {rest.reason}"
        return out
    listed, refused = _list(ledger, spec, place, pace, service, out)
    known = _remember(ledger, spec, listed, refused, out)
    shifts = schedule(spec)
    out.schedule = shifts.trouble
    caught_up.assign(ledger, spec, shifts)
    with ledger.read() as tx:
        told = notices.waiting(tx, spec.id)
        watched = scans.watched_since(tx, spec.id)
    registering.take_up(ledger, spec, told, known, shifts)
    found = [one for one in _groups(spec, known, out) if below is None or within(below, one.path)]
    if below is None:
        found = _new_enough(ledger, spec, found, known, watched, out)
    complete = {path for path, notice in told.items() if notice.complete}
    ready = _settled(found, known, complete, began, pace, out)
    _tell_late(ledger, spec, known, complete, began, pace, out)
    out.more = max(0, len(ready) - REGISTER)
    for block in steps.chunks(ready[:REGISTER], AT_ONCE):
        out.scans += registering.register(ledger, spec, block, known, shifts)
    if watched is None and out.trouble is None:
        with ledger.write() as tx:
            scans.begin_watch(tx, spec.id, ledger.now())
    return out


def within(folder: str, path: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def _list(
    ledger: Ledger, spec: Spec, place: Storage, pace: Pace, service: str, out: Noticed
) -> tuple[list[Listed], dict[str, str]]:
    """The files of scans below the watched place, and name -> why of those that cannot become one."""
    listed: list[Listed] = []
    refused: dict[str, str] = {}
    try:
        for walked in place.walk(spec.scans.max_depth):
            if walked.folder or belongs(spec.scans, walked.path):
                why = walked.left_out or policy_names.refusal(walked.path)
                if why:
                    refused[shown(walked.path)] = why
                elif walked.file is not None:
                    listed.append(walked.file)
        once.answered(ledger, service)
    except WrongPlace as error:  # not the disk that it should be: nothing is known, and others need not wait for it
        out.trouble, out.broken = str(error), True
    except (Unavailable, CredentialProblem) as error:
        once.pause(ledger, error, pace.patience)
        out.trouble, out.broken = str(error), isinstance(error, CredentialProblem)
    except FacilityError as error:  # not there, not allowed: waiting does not help
        out.trouble, out.broken = f"{place.name} cannot be listed: {error}", True
    out.files = len(listed)
    return listed, refused


def _remember(
    ledger: Ledger, spec: Spec, listed: Collection[Listed], refused: Mapping[str, str], out: Noticed
) -> dict[str, Known]:
    """What is known of the files of a listing, the listing included. Writes only what is news."""
    with ledger.read() as tx:
        known = scans.remembered(tx, spec.id, [entry.path for entry in listed])
    fresh = [entry for entry in listed if entry.path not in known or not known[entry.path].shows(entry)]
    if refused:
        _refuse(ledger, spec, refused, out)
    if not fresh:
        return known
    with ledger.write() as tx:
        now = ledger.now()
        seen = scans.see(tx, spec.id, fresh, now)
        changed.ask(tx, spec, [one for one in seen.values() if one.changed and one.scan_id is not None], now)
    return known | seen


def _groups(spec: Spec, known: Mapping[str, Known], out: Noticed) -> list[Group]:
    """The groups of files that are not wholly part of a scan. An empty file has no content yet: it is as good as not
    there, and waits."""
    out.waiting += sum(one.sighting.bytes == 0 and one.scan_id is None for one in known.values())
    groups = group(spec.scans, [path for path, one in known.items() if one.sighting.bytes > 0])
    return [found for found in groups if not registering.nothing_new(found, known)]


def _new_enough(
    ledger: Ledger, spec: Spec, groups: Collection[Group], known: Mapping[str, Known], watched: datetime | None,
    out: Noticed,
) -> list[Group]:  # fmt: skip
    """Those that are not older than the beamline's `since`. What has come only lately, and looks old, is told.

    Args:
        watched: since when the place is watched; None before the end of the first whole listing.
    """
    taken: list[Group] = []
    doubted: dict[str, str] = {}
    for found in groups:
        own = known[found.path]
        seen = own.sighting
        if own.scan_id is not None or not too_old(spec.since, seen.mtime, seen.first_seen, watched):
            taken.append(found)
            continue
        out.left_alone += 1
        if spec.since is not None and appeared(seen.first_seen, watched):
            doubted[shown(found.path)] = doubt(spec.since, seen.mtime, seen.first_seen)
    if doubted:
        _refuse(ledger, spec, doubted, out)
    return taken


def _settled(
    groups: Collection[Group], known: Mapping[str, Known], complete: Collection[str], began: datetime, pace: Pace,
    out: Noticed,
) -> list[tuple[Group, str]]:  # fmt: skip
    """Those that may become scans now, each with what it goes ahead without; the others wait.

    Args:
        complete: files of which their writer says that they are finished.
        began: when the listing was begun. A file was seen between that and its end: what lets it wait longer is taken,
            each time.
    """
    ready: list[tuple[Group, str]] = []
    settle, wait = pace.span("settle_s"), pace.span("companion_wait_s")
    for found in groups:
        files = [known[path].sighting for path in found.files.values()]
        verdict = settled(files, found.missing, began, settle, wait, complete)
        if verdict.settled:
            ready.append((found, verdict.why))
        else:
            out.waiting += 1
    return ready


def _tell_late(
    ledger: Ledger, spec: Spec, known: Mapping[str, Known], complete: Collection[str], began: datetime, pace: Pace,
    out: Noticed,
) -> None:  # fmt: skip
    """Tell of companions that nothing takes up, and no longer of those that are gone, or have been taken up."""
    if out.trouble:
        return
    with ledger.read() as tx:
        found = late.companions(tx, spec, known, began, pace.span("settle_s"), complete)
        before = refusals.refused(tx, spec.id)
    refused = {shown(one.path): one.why for one in found}
    over = [name for name, why in before.items() if why.startswith(late.BEGINS) and name not in refused]
    if over:
        with ledger.write() as tx:
            refusals.unrefuse(tx, spec.id, over)
    if refused:
        _refuse(ledger, spec, refused, out, {shown(one.path): one.scan_id for one in found})


def _refuse(
    ledger: Ledger, spec: Spec, refused: Mapping[str, str], out: Noticed, of: Mapping[str, int] | None = None
) -> None:
    """Write down, once, what cannot become a scan. of: name -> the scan that it is about, if it is about one."""
    with ledger.read() as tx:
        before = refusals.refused(tx, spec.id)
    news = {name: why for name, why in refused.items() if before.get(name) != why}
    if not news:
        return
    with ledger.write() as tx:
        now = ledger.now()
        for name in refusals.refuse(tx, spec.id, news, now):
            out.refused.append(f"{name}: {news[name]}")
            who = names.new_scans_sensor(spec.id)
            why, scan_id = f"{name}: {news[name]}", (of or {}).get(name)
            history.record(tx, now, who, "refused", beamline=spec.id, scan_id=scan_id, why=why)


def announce(ledger: Ledger, spec: Spec, has_partition: Callable[[str], bool]) -> list[Scan]:
    """The scans that Dagster lacks; those that it has are marked. `has_partition(key)` asks Dagster."""
    while True:
        with ledger.read() as tx:
            waiting = scans.unannounced(tx, spec.id, ANNOUNCE)
        there = [scan.id for scan in waiting if has_partition(scan.key)]
        if there:
            with ledger.write() as tx:
                scans.announced(tx, there, ledger.now())
                steps.reported(tx, there, spec.noticed, ledger.now())
        lacking = [scan for scan in waiting if scan.id not in set(there)]
        if lacking or not there:
            return lacking


def noticed_event(ledger: Ledger, spec: Spec, scan: Scan, place: Storage) -> dg.AssetMaterialization:
    with ledger.read() as tx:
        files = scans.files_of(tx, [scan.id])[scan.id]
    return dg.AssetMaterialization(
        names.asset_key(spec.id, spec.noticed),
        partition=scan.key,
        metadata={
            "scan": scan.path,
            "place": place.name,
            "files": dg.MetadataValue.json([{"path": f.path, "role": f.role, "bytes": f.bytes} for f in files[:SHOWN]]),
            "number of files": len(files),
            "bytes": sum(f.bytes for f in files),
            "written": dg.MetadataValue.timestamp(max(f.mtime for f in files)),
            "noticed": dg.MetadataValue.timestamp(scan.noticed_at),
        },
    )


def new_scans(spec: Spec, facilities: Facilities, globus: str = "globus") -> dg.SensorDefinition:
    """The sensor of one beamline."""

    @dg.sensor(
        name=names.new_scans_sensor(spec.id),
        minimum_interval_seconds=max(1, round(facilities.pace.tick_s)),
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets(names.asset_key(spec.id, spec.noticed)),
        required_resource_keys={"ledger", globus},
        description=f"Notices new scans at {spec.name} once they have settled, and makes each a partition.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        ledger: Ledger = context.resources.ledger.open()
        service = getattr(context.resources, globus)
        watched, prunable = spec.scans.watch, spec.prune(spec.scans.watch) is not None
        place = Storage(service, f"{spec.id}/{watched}", facilities.place(spec.id, watched), prunable)
        noticed = look(ledger, spec, place, facilities.pace, service.service)
        partitions = names.partitions(spec.id)
        fresh = announce(ledger, spec, lambda key: context.instance.has_dynamic_partition(partitions, key))
        for words in noticed.refused:
            context.log.warning(f"refused: {words}")
        if noticed.schedule:
            context.log.error(noticed.schedule)
        if not fresh and noticed.schedule and not noticed.broken:
            raise RuntimeError(noticed.schedule)
        if not fresh and noticed.broken:
            raise RuntimeError(f"{noticed.trouble}. Nothing new is noticed until this is mended; see `als check`.")
        if not fresh:
            return dg.SensorResult(skip_reason=str(noticed))
        if noticed.trouble:
            context.log.error(noticed.trouble)
        return dg.SensorResult(
            asset_events=[noticed_event(ledger, spec, scan, place) for scan in fresh],
            dynamic_partitions_requests=[
                dg.DynamicPartitionsDefinition(name=partitions).build_add_request([scan.key for scan in fresh])
            ],
        )

    return sensor
