"""`als hold`: keep every copy of a scan until a day."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta

import click

from als import platform
from resources.ledger import Ledger, holds
from resources.ledger import scans as scan_table
from resources.ledger.scans import Scan
from resources.ledger.views import stamp


@click.command()
@click.argument("beamline")
@click.argument("keys", nargs=-1, required=True)
@click.option(
    "--until", required=True, help="a day, kept to its end (2027-03-31), or a moment (2027-03-31T12:00Z); UTC"
)
@click.option("--why", required=True, help="for everyone who asks, and for the history")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def hold(beamline: str, keys: tuple[str, ...], until: str, why: str, as_json: bool) -> None:
    """Keep every copy of these scans: nothing of them is deleted, and what is in the trash is put back by the next run
    of pruning. Holds add up; the longest counts. `als release` ends them.

    \b
    Example:  als hold bl7011 2026/11/sample_0001.h5 --until 2027-03-31 --why "for the thesis of Kim"
    """
    ledger = platform.ledger()
    end = moment(until)
    if end <= ledger.now():
        raise click.UsageError(f"--until {until}: that is over already")
    if not why.strip():
        raise click.UsageError("say why: --why")
    found = scans_of(ledger, beamline, keys)
    with ledger.write() as tx:
        for scan in found:
            holds.place(tx, scan, end, getpass.getuser(), why.strip(), ledger.now())
    if as_json:
        held = {"until": stamp(end), "who": getpass.getuser(), "why": why.strip()}
        document = {"beamline": beamline, "keys": [scan.key for scan in found], "held": held}
        platform.print_json({"schema": "als-hold/1", **document})
        return
    for scan in found:
        click.echo(f"{scan.key} is held until {stamp(end)}")


def moment(text: str) -> datetime:
    """A day means its end, UTC; a time without a zone is UTC. Raises UsageError."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise click.UsageError(f"--until {text!r} is no day and no time: 2027-03-31, or 2027-03-31T12:00Z") from None
    if len(text.strip()) <= 10:
        found += timedelta(days=1)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def scans_of(ledger: Ledger, beamline: str, keys: tuple[str, ...]) -> list[Scan]:
    """The scans of these keys; all of them must be there."""
    platform.spec_of(beamline)
    with ledger.read() as tx:
        found = {key: scan_table.find(tx, beamline, key) for key in keys}
    missing = [key for key, scan in found.items() if scan is None]
    if missing:
        raise click.ClickException(f"{beamline} has no scan {missing[0]!r}. `als scans -b {beamline}` lists them.")
    return [scan for scan in found.values() if scan is not None]
