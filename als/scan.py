"""`als scan`: where every copy of one scan is, what is in flight, what failed and why."""

from __future__ import annotations

from typing import Any

import click

from als import platform
from als.scans import COLORS, human
from resources.ledger import history
from resources.ledger import scans as scan_table
from resources.ledger.views import scan_document, stamp


@click.command()
@click.argument("beamline")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@click.option("--history", "with_history", is_flag=True, help="who did what, and why")
@platform.plain_errors
def scan(beamline: str, key: str, as_json: bool, with_history: bool) -> None:
    """Show one scan. KEY is its partition key in Dagster.

    \b
    Example:  als scan bl7011 2026/11/sample_0001.h5
    """
    spec = platform.spec_of(beamline)
    ledger = platform.ledger()
    with ledger.read() as tx:
        found = scan_table.find(tx, beamline, key)
        if found is None:
            raise click.ClickException(f"{beamline} has no scan {key!r}. `als scans -b {beamline}` lists them.")
        document = scan_document(tx, spec, found, platform.durable(spec, platform.facilities()), ledger.now())
        past = history.of_scan(tx, found.id) if with_history else []
    if with_history:
        document["history"] = [
            {"at": stamp(h["at"]), "who": h["who"], "what": h["what"], "asset": h["asset"], "why": h["why"]}
            for h in reversed(past)
        ]
    if as_json:
        platform.print_json(document)
    else:
        show(document)


def show(d: dict[str, Any]) -> None:
    click.echo(f"{d['beamline']}  {d['key']}  ", nl=False)
    click.secho(d["state"], fg=COLORS.get(d["state"]), bold=True, nl=False)
    click.echo(f"  {'safe' if d['safe'] else 'not safe yet: verified copies in two durable places are wanted'}")
    if d["why"]:
        click.echo(f"  {d['why']}")
    click.echo("assets")
    for name, asset in d["assets"].items():
        click.echo(f"  {name:18} {asset['state']:14} {asset['at'] or '':22} {asset['why'] or ''}")
    click.echo("copies")
    for copy in d["copies"]:
        proof = copy["verified_by"] or "seen in a listing"
        digest = f" sha256 {copy['sha256'][:12]}…" if copy["sha256"] else ""
        click.echo(f"  {copy['place']:8} {human(copy['bytes']):>9}  {copy['path']}  ({proof}{digest})")
    if d["tasks"]:
        click.echo("tasks")
    for task in d["tasks"]:
        click.echo(f"  {task['asset']:18} {task['system']:7} {task['id'] or 'not submitted'}  {task['state']}")
    for product in d["products"]:
        click.echo(f"result {product['asset']} revision {product['revision']}: {product['path']}")
    for entry in d["catalog"]:
        click.echo(f"catalogue {entry['type']}: {entry['pid']}")
    for event in d.get("history", []):
        click.echo(f"  {event['at']}  {event['who']}: {event['what']} {event['asset'] or ''} {event['why'] or ''}")
