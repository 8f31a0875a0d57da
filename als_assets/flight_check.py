"""The flight check: every credential, permission, endpoint and leg that the platform depends on, tried by doing it.

    for finding in flight_check.findings(facilities, specs):
        print(finding.area, finding.what, finding.ok, finding.says)

What one service lacks keeps no other from being tried: each is asked in a thread of its own. Whatever is written is an
empty folder `.als-check`, which listings of scans leave out, and an entry "als/flight-check/…" in the catalogue.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from als_assets import flight_check_here
from beamlines.spec import Spec
from resources.errors import FacilityError, NotFound
from resources.facilities import Facilities, FacilityFileError, Place
from resources.finding import Finding
from resources.storage import Storage, joined, sentinel_of

SCRATCH = ".als-check"
CLOCK_S = 60.0  # NERSC refuses a signature from a clock that is further off
NOT_TRIED = "since {} failed"


def findings(facilities: Facilities, specs: Collection[Spec]) -> list[Finding]:
    """Everything tried, in a fixed order. Raises FacilityFileError when the facility file itself is of no use."""
    kinds = {"globus": _globus, "sfapi": _compute, "scicat": _catalogue}
    groups: list[tuple[str, Callable[[], Iterable[Finding]]]] = []
    for name, service in facilities.services.items():
        group = kinds[str(facilities.settings(name)["kind"])]
        groups.append((name, partial(group, name, service, facilities, specs)))
    groups += [
        ("ledger", partial(flight_check_here.ledger, facilities)),
        ("disk", partial(flight_check_here.disk, facilities.file.alerts)),
        ("dagster", flight_check_here.dagster),
        ("proposals", partial(flight_check_here.schedules, specs)),
    ]
    with ThreadPoolExecutor(len(groups)) as pool:
        found = [one for some in pool.map(_whatever_happens, groups) for one in some]
    well = [name for name in facilities.services if all(one.ok for one in found if one.area == name)]
    flight_check_here.resume(facilities, well)
    listed = {one.area for one in found if one.what == "list" and one.ok}
    for spec in specs:
        for copy in spec.copies:
            area = f"{spec.id}/{copy.place}"
            if area not in listed:
                found.append(Finding(area, "write", None, NOT_TRIED.format("listing it")))
            else:
                found += _whatever_happens((area, partial(_write, area, facilities, spec, copy.place)))
    return found


def _whatever_happens(group: tuple[str, Callable[[], Iterable[Finding]]]) -> list[Finding]:
    """A mistake in the facility file, or a bug, is a finding as well: the others are still wanted."""
    area, look = group
    found: list[Finding] = []
    try:
        found += look()  # what was found until then stays
    except (FacilityError, FacilityFileError) as error:
        found.append(Finding(area, "look", False, str(error)))
    except Exception as bug:  # noqa: BLE001 - it is shown, and ends the check with status 1
        found.append(Finding(area, "look", False, f"the check itself failed: {type(bug).__name__}: {bug}"))
    return found


def _tried(area: str, what: str, do: Callable[[], str]) -> Finding:
    try:
        return Finding(area, what, True, do())
    except FacilityError as error:
        return Finding(area, what, False, error.reason)


# services


def _globus(name: str, globus: Any, facilities: Facilities, specs: Collection[Spec]) -> Iterator[Finding]:
    """The login; then the collection and the listing of every place that it can see."""
    login, *_ = globus.check()
    yield login
    prunable = {f"{spec.id}/{rule.place}" for spec in specs for rule in spec.prunes}
    for area, place in _places(facilities, specs):
        if place.globus is None:
            continue
        if not login.ok:
            yield Finding(area, "list", None, NOT_TRIED.format(f"the login at {name}"))
            continue
        first, *rest = globus.check([(place.globus.collection, place.globus.base)])
        for what, seen in zip(("collection", "list"), rest or [first], strict=False):
            which = "" if seen.ok else f" (collection {place.globus.collection}, base {place.globus.base})"
            yield replace(seen, area=area, what=what, says=seen.says + which)
        if area in prunable and all(seen.ok for seen in rest):
            itself = _tried(area, "sentinel", partial(_is_itself, globus, area, place))
            yield itself
            scratch = joined(place.globus.base, SCRATCH)
            if itself.ok:
                renamed = _tried(area, "rename", partial(make_or_move, globus, place.globus.collection, scratch))
                # a refusal is no failure before copies may be deleted there, and `als arm` tries it again
                yield renamed if renamed.ok else replace(renamed, ok=None)


def _is_itself(globus: Any, area: str, place: Place) -> str:
    """Copies may be deleted there: does it say that it is this place?"""
    Storage(globus, area, place, prunable=True).confirm()
    return f"{sentinel_of(area)} is in its root; `als arm` says whether copies may be deleted there"


def _places(facilities: Facilities, specs: Collection[Spec]) -> Iterator[tuple[str, Place]]:
    """Every place of the beamlines; those that a spec names and the facility file lacks raise FacilityFileError."""
    for spec in specs:
        named = [spec.scans.watch, *(end for copy in spec.copies for end in (copy.source, copy.place))]
        for place in dict.fromkeys([*named, *facilities.file.places.get(spec.id, {})]):
            yield f"{spec.id}/{place}", facilities.place(spec.id, place)


def _compute(name: str, nersc: Any, facilities: Facilities, specs: Collection[Spec]) -> Iterator[Finding]:
    """Key, machine and projects; every folder as jobs see it; the work folders by writing; the programs."""
    works = {s.id: facilities.work(name, s.id) for s in specs if name in _task_services(s)}
    accounts = sorted({work.account for work in works.values() if work.account})
    tapes = {f"{s.id}/{s.archive.place}": s.archive.facility for s in specs if s.archive}
    on_disk = [p for _, p in _places(facilities, specs) if p.globus is not None or p.mount is not None]
    paths = [p.paths[name] for p in on_disk if name in p.paths]
    seen = nersc.check(accounts, list(dict.fromkeys(paths)))
    yield from seen
    if not seen[0].ok:
        return
    for beamline, work in works.items():
        for use, folder in (("attempts", work.attempts), ("results", work.results)):
            yield _tried(name, f"{use} of {beamline}", partial(_write_work, nersc, folder))
    for area, place in _places(facilities, specs):
        if tapes.get(area) == name:
            yield _tried(area, "tape", partial(_write_tape, nersc, place.paths[name]))
    for program in sorted({p for spec in specs for p in _programs(spec, name)}):
        yield _tried(name, f"program {program}", partial(_find_program, nersc, program))


def _task_services(spec: Spec) -> set[str]:
    used = {analysis.facility for analysis in spec.analyses} | ({spec.archive.facility} if spec.archive else set())
    return used | ({spec.catalog.facility} if spec.catalog and spec.catalog.describe_at else set())


def _programs(spec: Spec, service: str) -> set[str]:
    """What the jobs of a beamline run at a service, besides als-job, which runs them."""
    used = {f"als-{analysis.program}" for analysis in spec.analyses if analysis.facility == service}
    if spec.catalog and spec.catalog.describe_at and spec.catalog.facility == service:
        used.add("als-describe")
    if spec.archive and spec.archive.facility == service:
        used.add("als-archive")
    return used | {"als-job"} if used else set()


def _write_work(nersc: Any, folder: str) -> str:
    """Make the folder, as the first job would, and a folder in it that goes again."""
    nersc.run_command(["mkdir", "-p", joined(folder, SCRATCH)])
    nersc.run_command(["rmdir", joined(folder, SCRATCH)])
    return f"jobs can write in {folder}"


def _write_tape(nersc: Any, folder: str) -> str:
    """Make the folder on tape, as the first archive would, through hsi on a login node."""
    nersc.run_command(["hsi", "-q", f"mkdir -p {folder}"])
    nersc.run_command(["hsi", "-q", f"ls -d {folder}"])
    return f"HPSS answers, and {folder} is there"


def _find_program(nersc: Any, program: str) -> str:
    """Jobs find als-job as the facility file says, and the others beside it or on PATH."""
    folder, _, job = str(nersc.program).rpartition("/")
    wanted = job if program == "als-job" else program
    if folder:
        nersc.stat(f"{folder}/{wanted}")
        return f"{folder}/{wanted}"
    try:
        return str(nersc.run_command(["which", wanted])).strip()
    except FacilityError as error:
        words = f"{wanted} is not on the PATH of a login node: install als-analysis there, or name als-job by its path"
        raise type(error)(
            error.service, f"{words} in the facility file (program:). {error.reason}", error.code
        ) from error


def _catalogue(name: str, scicat: Any, facilities: Facilities, specs: Collection[Spec]) -> Iterator[Finding]:
    groups = sorted({spec.catalog.owner_group for spec in specs if spec.catalog})
    yield from scicat.check(groups)


# writing where copies go


def _write(area: str, facilities: Facilities, spec: Spec, name: str) -> Iterator[Finding]:
    """Make a folder through Globus, see it through every other view, and take it away where something can."""
    place = facilities.place(spec.id, name)
    globus = facilities.services["globus"]
    if place.globus is None:
        yield Finding(area, "write", False, "copies go here, and the facility file gives it no Globus view")
        return
    collection, scratch = place.globus.collection, joined(place.globus.base, SCRATCH)
    made = _tried(area, "write", partial(make_or_move, globus, collection, scratch))
    yield made
    if not made.ok:
        return
    there = globus.stat(collection, scratch)
    if there is not None and made.says.startswith("a folder was made"):
        yield clock(area, there.mtime, datetime.now(UTC))
    for service, path in place.paths.items():
        compute = facilities.services.get(service)
        if hasattr(compute, "run_command"):
            yield _tried(area, f"the same folder at {service}", partial(_see_and_remove, compute, path, area))


def make_or_move(globus: Any, collection: str, scratch: str) -> str:
    if globus.stat(collection, scratch) is None:
        globus.mkdir(collection, scratch)
        return f"a folder was made: {scratch}"
    aside = f"{scratch}-{secrets.token_hex(4)}"  # left by an earlier check, where nothing could take it away
    globus.rename(collection, scratch, aside)
    globus.rename(collection, aside, scratch)
    return f"a folder was renamed there and back: {scratch}"


def _see_and_remove(compute: Any, path: str, area: str) -> str:
    folder = joined(path, SCRATCH)
    try:
        compute.stat(folder)
    except NotFound as error:
        words = f"Globus made {SCRATCH} in {area}, and {compute.service} does not see it in {path}"
        raise NotFound(
            error.service, f"{words}: correct base or paths of this place in the facility file", error.code
        ) from error
    compute.run_command(["rmdir", folder])
    return f"{path} is what Globus shows, and {compute.service} may write there"


def clock(area: str, theirs: datetime, ours: datetime) -> Finding:
    """Is the clock of the disk's host right, or ours wrong? Both times aware."""
    off = (theirs - ours).total_seconds()
    if abs(off) <= CLOCK_S:
        return Finding(area, "clock", True, "the clocks agree within a minute")
    words = f"its clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's"
    return Finding(area, "clock", False, f"{words}: set the wrong one right (NTP), or tokens will be refused")
