"""`als release`: end the holds on a scan."""

from __future__ import annotations

import getpass

import click

from als import platform
from als.hold import scans_of
from resources.ledger import holds


@click.command()
@click.argument("beamline")
@click.argument("keys", nargs=-1, required=True)
@click.option("--why", default="", help="for the history")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def release(beamline: str, keys: tuple[str, ...], why: str, as_json: bool) -> None:
    """End every hold on these scans: today's rules decide again about their copies.

    \b
    Example:  als release bl7011 2026/11/sample_0001.h5 --why "the thesis is handed in"
    """
    ledger = platform.ledger()
    ended: dict[str, int] = {}
    found = scans_of(ledger, beamline, keys)
    with ledger.write() as tx:
        for scan in found:
            ended[scan.key] = holds.release(tx, scan, getpass.getuser(), why.strip() or None, ledger.now())
    if as_json:
        platform.print_json({"schema": "als-release/1", "beamline": beamline, "ended": ended})
        return
    for key, count in ended.items():
        click.echo(f"{key}: {count} hold{'s' * (count > 1)} ended" if count else f"{key} was not held")
