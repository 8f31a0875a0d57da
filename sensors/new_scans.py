"""New files on a detector's disk become scans: listed, grouped, settled, written to the ledger, announced to Dagster.

One sensor per beamline. Each tick lists the watched place, so nothing depends on having seen an event; running it
twice, or at the same time, changes nothing. A scan counts as announced once Dagster is seen to have its partition: the
daemon records the event of a sensor's result before it adds the key, and may be killed in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from sqlalchemy.engine import Connection

from beamlines.policy import names as policy_names
from beamlines.policy.grouping import Group, group
from beamlines.policy.settled import settled
from beamlines.spec import Spec
from resources import once
from resources.errors import CredentialProblem, FacilityError, NotFound, Unavailable
from resources.facilities import Facilities, Pace
from resources.ledger import Ledger, flow, history, leases, scans, steps
from resources.ledger.scans import Known, Listed, Scan
from resources.storage import Storage
from sensors import names

ANNOUNCE = 200  # partitions per tick
NEVER = datetime(1970, 1, 1, tzinfo=UTC)  # the mtime of what is not looked at any closer


@dataclass
class Noticed:
    """What a look at the watched place came to."""

    files: int = 0
    scans: list[int] = field(default_factory=list)  # ids of new or extended scans
    waiting: int = 0  # groups that have not settled
    refused: list[str] = field(default_factory=list)
    trouble: str | None = None


def look(ledger: Ledger, spec: Spec, place: Storage, pace: Pace, service: str) -> Noticed:
    """List the watched place and bring the ledger up to date. What could not be listed is in `trouble`, in words; then
    nothing is concluded from what was missing, and what was seen stands."""
    out = Noticed()
    now = ledger.now()
    with ledger.read() as tx:
        rest = leases.paused(tx, service, now)
    if rest is not None:
        out.trouble = f"{service} rests until {rest.until:%H:%M:%S} UTC: {rest.reason}"
        return out
    listed: list[Listed] = []
    left_out: list[tuple[str, str]] = []
    try:
        for walked in place.walk(spec.scans.max_depth):
            if walked.file is not None:
                listed.append(walked.file)
            elif walked.left_out:
                left_out.append((walked.path, walked.left_out))
        once.answered(ledger, service)
    except (Unavailable, CredentialProblem) as error:
        once.pause(ledger, error, pace.patience)
        out.trouble = str(error)
    except NotFound as error:
        out.trouble = f"{place.name} is not there: {error.reason}"
    except FacilityError as error:
        out.trouble = str(error)
    out.files = len(listed)
    good = [entry for entry in listed if policy_names.refusal(entry.path) is None]
    with ledger.write() as tx:
        known = scans.see(tx, spec.id, good, now)
        _refuse(tx, spec, listed, left_out, out, now)
        _question(tx, spec, known, now)
        for found in group(spec.scans, known):
            if _nothing_new(found, known) or _too_old(spec, found, known):
                continue
            files = [known[path].sighting for path in found.files.values()]
            verdict = settled(files, found.missing, now, pace.span("settle_s"), pace.span("companion_wait_s"))
            if not verdict.settled:
                out.waiting += 1
                continue
            out.scans.append(_register(tx, spec, place, found, known, verdict.why, now))
        flow.advance(tx, spec, out.scans, now)
    return out


def _nothing_new(found: Group, known: dict[str, Known]) -> bool:
    return all(known[path].scan_id is not None for path in found.files.values())


def _too_old(spec: Spec, found: Group, known: dict[str, Known]) -> bool:
    return spec.since is not None and known[found.path].sighting.mtime.date() < spec.since


def _register(
    tx: Connection, spec: Spec, place: Storage, found: Group, known: dict[str, Known], why: str, now: datetime
) -> int:
    late = known[found.path].scan_id is not None
    scan_id = scans.register(tx, spec.id, spec.scans.watch, found, known, now)
    what = "companion" if late else "noticed"
    history.record(tx, now, names.new_scans_sensor(spec.id), what, beamline=spec.id, scan_id=scan_id, why=why or None)
    if late:  # the copies lack a file now
        for copy in spec.copies:
            steps.do_again(tx, scan_id, f"raw_at_{copy.place}", "a companion came late", now)
    return scan_id


def _refuse(
    tx: Connection,
    spec: Spec,
    listed: list[Listed],
    left_out: list[tuple[str, str]],
    out: Noticed,
    now: datetime,
) -> None:
    """Names that cannot become scans are written down once, and spoil nothing else."""
    reasons = [(entry.path, policy_names.refusal(entry.path)) for entry in listed]
    for path, why in [*((p, w) for p, w in reasons if w), *left_out]:
        out.refused.append(f"{path!r}: {why}")
        shown = path.encode("utf-8", "backslashreplace").decode()
        scans.see(tx, spec.id, [Listed(shown, 0, NEVER)], now)
        if scans.refuse(tx, spec.id, shown, why or ""):
            who = names.new_scans_sensor(spec.id)
            history.record(tx, now, who, "refused", beamline=spec.id, why=f"{path!r}: {why}")


def _question(tx: Connection, spec: Spec, known: dict[str, Known], now: datetime) -> None:
    """A file of a scan that has changed since: the copies keep what they have, and a person is asked."""
    ids = {
        k.scan_id
        for k in known.values()
        if k.scan_id is not None and k.sighting.unchanged_since > k.sighting.first_seen
    }
    files = scans.files_of(tx, sorted(ids))
    for scan_id, group_files in files.items():
        for file in group_files:
            seen = known.get(file.path)
            if seen is None or (seen.sighting.bytes, seen.sighting.mtime) == (file.bytes, file.mtime):
                continue
            question = (
                f"{file.path} was changed at the beamline after it had become a scan (it has {seen.sighting.bytes} "
                f"bytes, had {file.bytes}). The copies keep the first content. What to do: write new data under a new "
                "name, or put the old content back."
            )
            if scans.ask_person(tx, scan_id, question, now):
                who = names.new_scans_sensor(spec.id)
                history.record(tx, now, who, "question", beamline=spec.id, scan_id=scan_id, why=question)


def announce(ledger: Ledger, spec: Spec, has_partition: Any) -> list[Scan]:
    """The scans that Dagster lacks; those that it has are marked. `has_partition(key)` asks Dagster."""
    with ledger.read() as tx:
        waiting = scans.unannounced(tx, spec.id, ANNOUNCE)
    there = [scan.id for scan in waiting if has_partition(scan.key)]
    if there:
        with ledger.write() as tx:
            scans.announced(tx, there, ledger.now())
            steps.reported(tx, there, spec.noticed, ledger.now())
    return [scan for scan in waiting if scan.id not in set(there)]


def noticed_event(ledger: Ledger, spec: Spec, scan: Scan, place: Storage) -> dg.AssetMaterialization:
    with ledger.read() as tx:
        files = scans.files_of(tx, [scan.id])[scan.id]
    return dg.AssetMaterialization(
        names.asset_key(spec.id, spec.noticed),
        partition=scan.key,
        metadata={
            "scan": scan.path,
            "place": place.name,
            "files": dg.MetadataValue.json([{"path": f.path, "role": f.role, "bytes": f.bytes} for f in files]),
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
        if not fresh:
            words = noticed.trouble or f"{noticed.files} files, {noticed.waiting} groups not settled, nothing new"
            return dg.SensorResult(skip_reason=words)
        return dg.SensorResult(
            asset_events=[noticed_event(ledger, spec, scan, place) for scan in fresh],
            dynamic_partitions_requests=[
                dg.DynamicPartitionsDefinition(name=partitions).build_add_request([scan.key for scan in fresh])
            ],
        )

    return sensor
