"""`als scans`: the scans of a beamline, newest first."""

from __future__ import annotations

import sys
from typing import Any

import click

from als import platform
from resources.ledger import leases
from resources.ledger import scans as scan_table
from resources.ledger.views import scan_document, stamp

WIDE = 250  # columns where there is no terminal to ask
COLORS = {"done": "green", "failed": "red", "question": "magenta", "waiting": "yellow", "in_flight": "cyan"}


@click.command()
@click.option("-b", "--beamline", default=None, help="only this beamline")
@click.option("--state", default=None, help="only scans in this state", type=click.Choice(sorted(COLORS)))
@click.option("-n", "--limit", default=50, show_default=True, help="the newest so many")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def scans(beamline: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List scans: what is done, in flight, waiting, failed, and why.

    \b
    Example:  als scans -b bl7011 --state failed
    """
    at = platform.facilities()
    ledger = platform.ledger()
    found: list[dict[str, Any]] = []
    now = ledger.now()
    with ledger.read() as tx:
        pauses = [p for p in leases.all_pauses(tx) if p.until > now]
        for spec in platform.specs().values():
            if beamline not in (None, spec.id):
                continue
            for scan in scan_table.latest(tx, spec.id, limit):
                document = scan_document(tx, spec, scan, platform.durable(spec, at), now)
                if state in (None, document["state"]):
                    found.append(document)
    if beamline:
        platform.spec_of(beamline)
    if as_json:
        resting = [{"service": p.service, "until": stamp(p.until), "reason": p.reason} for p in pauses]
        platform.print_json({"schema": "als-scans/1", "pauses": resting, "scans": found})
        return
    show(found)
    for pause in pauses:
        click.secho(f"{pause.service} rests until {pause.until:%H:%M:%S} UTC: {pause.reason}", fg="yellow")


def show(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("beamline", "scan", "state", "size", "noticed", "why"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "why")
    for d in found:
        size = sum(f["bytes"] for f in d["files"])
        state = f"[{COLORS.get(d['state'], 'white')}]{d['state']}[/]"
        table.add_row(d["beamline"], d["key"], state, human(size), d["noticed_at"] or "", d["why"] or "")
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(table)
    counts = {state: sum(d["state"] == state for d in found) for state in sorted({d["state"] for d in found})}
    console.print(f"{len(found)} scans" + "".join(f", {n} {state}" for state, n in counts.items()))


def human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
