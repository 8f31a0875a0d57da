"""`als crawl`: scans that are older than the beamline's `since`, or that nobody has noticed, are taken after all."""

from __future__ import annotations

import click

from als import platform
from beamlines.policy import names
from beamlines.policy.grouping import belongs, group
from beamlines.spec import Spec
from resources.ledger import Ledger, scans
from resources.storage import Storage


@click.command()
@click.argument("beamline")
@click.argument("folder", metavar="DIR")
@click.option("--dry-run", is_flag=True, help="only list what would be taken")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def crawl(beamline: str, folder: str, dry_run: bool, as_json: bool) -> None:
    """Take the scans below DIR, a folder of the watched place ('.' is all of it), whatever `since` says of them.

    They are noticed, copied and analysed like new ones, so begin with a small folder. What has not been seen before
    must settle first: run it again then. Exit status 1 when the place cannot be listed.

    \b
    Example:  als crawl bl7011 2025/11 --dry-run
    """
    from als_assets import families
    from sensors import new_scans

    spec, at = platform.spec_of(beamline), platform.facilities()
    below = "" if folder in (".", "/") else folder.strip("/")
    if below and (why := names.refusal(below)):
        raise click.UsageError(f"{folder!a}: {why}")
    ledger = platform.ledger(created=True)
    place = families.storage(spec, spec.scans.watch, at, at.services[families.TRANSFER])
    if dry_run:
        taken, waiting = candidates(ledger, spec, place, below), 0
    else:
        taken, waiting, more = [], 0, True
        while more:  # a look registers so many at most
            seen = new_scans.look(ledger, spec, place, at.pace, families.TRANSFER, below)
            if seen.trouble:
                raise click.ClickException(seen.trouble)
            with ledger.read() as tx:
                taken += [scan.key for scan in scans.many(tx, seen.scans).values()]
            waiting, more = seen.waiting, seen.more > 0 and bool(seen.scans)
    if as_json:
        document = {"schema": "als-crawl/1", "beamline": beamline, "folder": below, "dry_run": dry_run}
        platform.print_json({**document, "scans": taken, "waiting": waiting})
        return
    for key in taken:
        click.echo(key)
    if not taken and not waiting and below:
        click.echo(
            f"nothing new is listed below {below} of {beamline}/{spec.scans.watch}: is that the folder?", err=True
        )
    left = f"; {waiting} have not settled" if waiting else ""
    click.echo(f"{len(taken)} scans {'would be taken' if dry_run else 'were taken'}{left}")


def candidates(ledger: Ledger, spec: Spec, place: Storage, below: str) -> list[str]:
    """The keys of what is listed below a folder and is no scan yet. Writes nothing."""
    from sensors.new_scans import within

    listed = [
        one.file.path
        for one in place.walk(spec.scans.max_depth)
        if one.file is not None and one.file.bytes > 0 and within(below, one.path) and belongs(spec.scans, one.path)
    ]
    good = [path for path in listed if names.refusal(path) is None]
    with ledger.read() as tx:
        known = scans.remembered(tx, spec.id, good)
        fresh = [g.path for g in group(spec.scans, good) if g.path not in known or known[g.path].scan_id is None]
        return [scans.next_key(tx, spec.id, path) for path in fresh]
