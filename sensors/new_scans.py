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
from sqlalchemy.engine import Connection

from beamlines.policy import names as policy_names
from beamlines.policy.grouping import Group, belongs, group
from beamlines.policy.settled import settled
from beamlines.spec import Spec
from resources import once
from resources.errors import CredentialProblem, FacilityError, Unavailable
from resources.facilities import Facilities, Pace
from resources.ledger import Ledger, flow, history, leases, scans, steps
from resources.ledger.scans import Known, Listed, Scan
from resources.storage import Storage
from sensors import names

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
        refused: files that cannot become scans and were not seen before, with the reason.
        trouble: why the listing is not whole, or None.
        broken: the trouble does not go away by waiting: a person has to act.
    """

    files: int = 0
    scans: list[int] = field(default_factory=list)
    waiting: int = 0
    more: int = 0
    refused: list[str] = field(default_factory=list)
    trouble: str | None = None
    broken: bool = False

    def __str__(self) -> str:
        if self.trouble:
            return self.trouble
        parts = [f"{self.files} files", f"{self.waiting} groups not settled"]
        parts += [f"{self.more} settled ones left for the next look"] if self.more else []
        return ", ".join([*parts, "nothing new"])


def look(ledger: Ledger, spec: Spec, place: Storage, pace: Pace, service: str) -> Noticed:
    """List the watched place and bring the ledger up to date. What could not be listed is in `trouble`, in words; then
    nothing is concluded from what was missing, and what was seen stands."""
    out = Noticed()
    began = ledger.now()
    with ledger.read() as tx:
        rest = leases.paused(tx, service, began)
    if rest is not None:
        out.trouble = f"{service} rests until {rest.until:%H:%M:%S} UTC: {rest.reason}"
        return out
    listed, refused = _list(ledger, spec, place, pace, service, out)
    known = _remember(ledger, spec, listed, refused, out)
    # an empty file has no content yet: it is as good as not there
    groups = group(spec.scans, [path for path, one in known.items() if one.sighting.bytes > 0])
    out.waiting = sum(one.sighting.bytes == 0 and one.scan_id is None for one in known.values())
    ready: list[tuple[Group, str]] = []
    for found in groups:
        if _nothing_new(found, known) or _too_old(spec, found, known):
            continue
        files = [known[path].sighting for path in found.files.values()]
        # a file was seen between `began` and the end of the listing: what lets it wait longer is taken, each time
        verdict = settled(files, found.missing, began, pace.span("settle_s"), pace.span("companion_wait_s"))
        if verdict.settled:
            ready.append((found, verdict.why))
        else:
            out.waiting += 1
    out.more = max(0, len(ready) - REGISTER)
    for block in steps.chunks(ready[:REGISTER], AT_ONCE):
        out.scans += _register(ledger, spec, block, known)
    return out


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
    except (Unavailable, CredentialProblem) as error:
        once.pause(ledger, error, pace.patience)
        out.trouble, out.broken = str(error), isinstance(error, CredentialProblem)
    except FacilityError as error:  # not there, not allowed: waiting does not help
        out.trouble, out.broken = f"{place.name} cannot be listed: {error}", True
    out.files = len(listed)
    return listed, refused


def shown(path: str) -> str:
    """A name that may be no valid text, for people and for the ledger: ASCII, and short enough to be indexed."""
    text = ascii(path)
    most = policy_names.MOST_KEY
    return text if len(text) <= most else f"{text[: most - 20]}…{policy_names.hash_of('', text)}"


def _remember(
    ledger: Ledger, spec: Spec, listed: Collection[Listed], refused: Mapping[str, str], out: Noticed
) -> dict[str, Known]:
    """What is known of the files of a listing, the listing included. Writes only what is news."""
    who = names.new_scans_sensor(spec.id)
    with ledger.read() as tx:
        known = scans.remembered(tx, spec.id, [entry.path for entry in listed])
        refused_before = scans.refused(tx, spec.id) if refused else {}
    fresh = [entry for entry in listed if entry.path not in known or not known[entry.path].shows(entry)]
    news = {name: why for name, why in refused.items() if refused_before.get(name) != why}
    if not fresh and not news:
        return known
    with ledger.write() as tx:
        now = ledger.now()
        seen = scans.see(tx, spec.id, fresh, now)
        _question(tx, spec, [one for one in seen.values() if one.changed and one.scan_id is not None], now)
        for name in scans.refuse(tx, spec.id, news, now):
            out.refused.append(f"{name}: {news[name]}")
            history.record(tx, now, who, "refused", beamline=spec.id, why=f"{name}: {news[name]}")
    return known | seen


def _nothing_new(found: Group, known: Mapping[str, Known]) -> bool:
    return all(known[path].scan_id is not None for path in found.files.values())


def _too_old(spec: Spec, found: Group, known: Mapping[str, Known]) -> bool:
    return spec.since is not None and known[found.path].sighting.mtime.date() < spec.since


def _register(
    ledger: Ledger, spec: Spec, ready: Collection[tuple[Group, str]], judged: Mapping[str, Known]
) -> list[int]:
    """Make scans of settled groups, in one transaction; returns their ids. What another process has registered, or
    has seen change, since `judged` was read is left alone."""
    out: list[int] = []
    who = names.new_scans_sensor(spec.id)
    with ledger.write() as tx:
        now = ledger.now()
        known = scans.remembered(tx, spec.id, [path for found, _ in ready for path in found.files.values()])
        for found, why in ready:
            paths = list(found.files.values())
            if _nothing_new(found, known) or any(known[path].sighting != judged[path].sighting for path in paths):
                continue
            late = known[found.path].scan_id is not None
            scan_id = scans.register(tx, spec.id, spec.scans.watch, found, known, now)
            what = "companion" if late else "noticed"
            history.record(tx, now, who, what, beamline=spec.id, scan_id=scan_id, why=why or None)
            if late:  # the copies lack a file now
                for copy in spec.copies:
                    steps.do_again(tx, scan_id, f"raw_at_{copy.place}", "a companion came late", now)
            out.append(scan_id)
        flow.advance(tx, spec, out, now)
    return out


def _question(tx: Connection, spec: Spec, changed: Collection[Known], now: datetime) -> None:
    """Files of scans that have changed since: the copies keep what they have, and a person is asked, once for however
    many changes follow. The question is withdrawn when the old content is back."""
    ids = sorted({one.scan_id for one in changed if one.scan_id is not None})
    for scan_id, files in scans.files_of(tx, ids).items():
        seen = scans.remembered(tx, spec.id, [file.path for file in files])
        asked = False
        for file in files:
            question = f"{file.path} was changed at the beamline after it had become a scan"
            is_now = seen[file.path].sighting
            if (is_now.bytes, is_now.mtime) == (file.bytes, file.mtime):
                scans.settle_question(tx, scan_id, question, now)
                continue
            question += (
                f" of {file.bytes} bytes. The copies keep the first content. What to do: write new data under a new "
                "name, or put the old content back with its time."
            )
            if not asked and scans.ask_person(tx, scan_id, question, now):
                details = {"path": file.path, "bytes": is_now.bytes, "before": file.bytes}
                who = names.new_scans_sensor(spec.id)
                history.record(
                    tx, now, who, "question", beamline=spec.id, scan_id=scan_id, why=question, details=details
                )
            asked = True


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
        place = Storage(service, f"{spec.id}/{spec.scans.watch}", facilities.place(spec.id, spec.scans.watch))
        noticed = look(ledger, spec, place, facilities.pace, service.service)
        partitions = names.partitions(spec.id)
        fresh = announce(ledger, spec, lambda key: context.instance.has_dynamic_partition(partitions, key))
        for words in noticed.refused:
            context.log.warning(f"refused: {words}")
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
