"""`als notify`: a writer, or a watcher elsewhere, says that files are there, and what it knows of them."""

from __future__ import annotations

import getpass
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from als import platform
from beamlines.policy import names
from beamlines.policy.grouping import belongs
from beamlines.policy.proposal import refusal
from beamlines.spec import Spec
from resources.facilities import Place
from resources.ledger import Ledger, notices, scans

OPTION = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,40}")
OURS = {"out", "roi", "layout", "summary", "plots", "overwrite"}  # options that the platform itself gives
BETWEEN_S = 1.1  # two listings for --complete: times of files have whole seconds
MOST_BYTES = 100_000


@click.command()
@click.argument("beamline")
@click.argument("paths", nargs=-1, required=True)
@click.option("--metadata", type=click.Path(), help='JSON: {"sample": "Fe3O4", "field": {"value": 2, "unit": "T"}}')
@click.option("--parameters", type=click.Path(), help='JSON: options of the analysis, {"stride": 2}')
@click.option("--proposal", help="the proposal that the files belong to")
@click.option("--export-control", "restricted", is_flag=True, help="nothing of these files may leave the beamline")
@click.option("--complete", is_flag=True, help="they are finished: do not wait for the settle time")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def notify(
    beamline: str, paths: tuple[str, ...], metadata: str | None, parameters: str | None, proposal: str | None,
    restricted: bool, complete: bool, as_json: bool,
) -> None:  # fmt: skip
    """Say that files are there. PATHS are below the watched folder, or whole. The listing still decides what is there:
    a notice of a file that is not listed yet waits. Saying it twice changes nothing.

    Name a scan's companions too when they are --complete. What was said to be export-controlled is released by a person
    only (`als assign --not-restricted`).

    \b
    Example:  als notify bl7011 2026/11/a.h5 2026/11/a_roi.h5 --complete --proposal ALS-12345
    """
    spec = platform.spec_of(beamline)
    at = platform.facilities()
    place = at.place(spec.id, spec.scans.watch)
    files = list(dict.fromkeys(below(spec, place, path) for path in paths))
    if proposal and (why := refusal(proposal)):
        raise click.UsageError(why)
    document = {}
    if metadata:
        document["metadata"] = _metadata(_read(metadata))
    if parameters:
        document["parameters"] = _parameters(_read(parameters))
    ledger = platform.ledger(created=True)
    with ledger.write() as tx:
        who = f"person {getpass.getuser()}"
        for file in files:
            notices.give(
                tx, spec.id, file, who, ledger.now(), complete=complete, restricted=restricted, proposal=proposal,
                document=document,
            )  # fmt: skip
    trouble = look(ledger, spec, complete)
    found = [state_of(ledger, spec, file) for file in files]
    if as_json:
        platform.print_json({"schema": "als-notify/1", "beamline": beamline, "trouble": trouble, "notices": found})
        return
    for one in found:
        click.echo(f"{one['path']}: {one['why']}")
    if trouble:
        click.secho(f"{trouble}. The notices are kept.", fg="yellow", err=True)


def below(spec: Spec, place: Place, path: str) -> str:
    """The path relative to the watched folder. Raises UsageError for one that cannot be a file of a scan."""
    roots = [place.globus.base] if place.globus else []
    roots += [*place.paths.values(), *([place.mount] if place.mount else [])]
    relative = path
    if path.startswith("/"):
        inside = [path[len(root.rstrip("/")) + 1 :] for root in roots if path.startswith(root.rstrip("/") + "/")]
        if not inside:
            where = " or ".join(sorted(set(roots)))
            raise click.UsageError(f"{path} is not below the watched folder of {spec.id} ({where})")
        relative = min(inside, key=len)
    if why := names.refusal(relative):
        raise click.UsageError(f"{path!a}: {why}")
    if any(part.startswith(".") for part in relative.split("/")):
        raise click.UsageError(f"{path}: hidden files and folders are not looked at")
    if not belongs(spec.scans, relative):
        raise click.UsageError(
            f"{path} is not named like a file of a scan of {spec.id}: files {', '.join(spec.scans.files)}, companions "
            f"{', '.join(spec.scans.companions.values()) or 'none'}"
        )
    return relative


def look(ledger: Ledger, spec: Spec, complete: bool) -> str | None:
    """Look at the disk at once, as the sensor does; what is complete must be listed twice alike. Returns trouble."""
    from als_assets import families
    from sensors import new_scans

    at = platform.facilities()
    place = families.storage(spec, spec.scans.watch, at, at.services[families.TRANSFER])
    for again in range(2 if complete else 1):
        if again:
            time.sleep(BETWEEN_S)
        seen = new_scans.look(ledger, spec, place, at.pace, families.TRANSFER)
        if seen.trouble:
            return seen.trouble
    return None


def state_of(ledger: Ledger, spec: Spec, file: str) -> dict[str, Any]:
    """What has become of a notified file, in words."""
    with ledger.read() as tx:
        known = scans.remembered(tx, spec.id, [file]).get(file)
        scan = scans.get(tx, known.scan_id) if known and known.scan_id is not None else None
    if scan is not None:
        kept = f"; it stays at the beamline ({scan.restricted})" if scan.restricted else ""
        words = f"belongs to the scan {scan.key}{kept}"
        return {"path": file, "state": "scan", "key": scan.key, "why": words}
    if known is None:
        return {"path": file, "state": "waiting", "key": None, "why": "is not listed yet; the notice waits for it"}
    return {"path": file, "state": "listed", "key": None, "why": "is listed; it becomes a scan once it has settled"}


def _read(file: str) -> Mapping[str, Any]:
    try:
        text = Path(file).read_text()
        if len(text) > MOST_BYTES:
            raise click.UsageError(f"{file} has more than {MOST_BYTES} bytes")
        document = json.loads(text)
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise click.UsageError(f"{file} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise click.UsageError(f"{file}: an object of names and values is wanted")
    return document


def _metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    """Flat values, or {"value", "unit"}."""
    for name, value in given.items():
        bare = value.get("value") if isinstance(value, dict) and set(value) <= {"value", "unit"} else value
        if not _scalar(bare) and not (isinstance(bare, list) and all(_scalar(one) for one in bare)):
            raise click.UsageError(f'metadata {name!r}: a number, a text or {{"value": …, "unit": …}} is wanted')
    return dict(given)


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if not OPTION.fullmatch(name) or name in OURS:
            raise click.UsageError(f"parameter {name!r} is no option that a notice may set")
        if not _scalar(value) or value is None or value is False or str(value).startswith("-"):
            raise click.UsageError(f"parameter {name!r}: a number, a text or true is wanted")
    return dict(given)


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
