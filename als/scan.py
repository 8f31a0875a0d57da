"""`als scan`: where every copy of one scan is, what is in flight, what failed and why."""

from __future__ import annotations

from typing import Any

import click

from als import platform
from als.scans import COLORS, human
from resources.ledger import history, tasks
from resources.ledger import scans as scan_table
from resources.ledger.views import scan_document, stamp


@click.command()
@click.argument("beamline")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@click.option("--history", "with_history", is_flag=True, help="who did what, and why")
@click.option("--script", type=int, metavar="N", help="the batch script of its N-th task, as it was submitted")
@platform.plain_errors
def scan(beamline: str, key: str, as_json: bool, with_history: bool, script: int | None) -> None:
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
        scripts = [task.script for task in tasks.of_scan(tx, found.id)]
    if script is not None:
        text = script_of(document, scripts, script)
        document["tasks"][script - 1]["script"] = text
        if not as_json:
            click.echo(text, nl=False)
            return
    if with_history:
        document["history"] = [
            {"at": stamp(h["at"]), "who": h["who"], "what": h["what"], "asset": h["asset"], "why": h["why"]}
            for h in reversed(past)
        ]
    if as_json:
        platform.print_json(document)
    else:
        show(document)


def script_of(d: dict[str, Any], scripts: list[str | None], number: int) -> str:
    if not 1 <= number <= len(scripts):
        raise click.ClickException(f"{d['key']} has {len(scripts)} tasks; --script counts them from 1, oldest first")
    text = scripts[number - 1]
    if text is None:
        task = d["tasks"][number - 1]
        why = "was not submitted" if task["id"] is None else f"is one of {task['system']}"
        raise click.ClickException(f"task {number} of {d['key']} ({task['asset']}) has no batch script: it {why}")
    return text


def show(d: dict[str, Any]) -> None:
    click.echo(f"{d['beamline']}  {d['key']}  ", nl=False)
    click.secho(d["state"], fg=COLORS.get(d["state"]), bold=True, nl=False)
    click.echo(f"  {'safe' if d['safe'] else 'not safe yet: verified copies in two durable places are wanted'}")
    if d["why"]:
        click.echo(f"  {platform.one_line(d['why'])}")
    by = f" ({d['proposal_from']})" if d["proposal_from"] else ""
    groups = f", groups {' '.join(d['groups'])}" if d["groups"] else ""
    click.echo(f"proposal {d['proposal'] or 'unknown'}{by}, {d['investigator'] or 'investigator unknown'}{groups}")
    if d["restricted"]:
        click.secho(f"stays at the beamline: {d['restricted']}", fg="magenta")
    if d["held"]:
        click.echo(f"  held until {d['held']['until']} by {d['held']['who']}: {platform.one_line(d['held']['why'])}")
    click.echo("assets")
    for name, asset in d["assets"].items():
        why = platform.one_line(asset["why"] or "")
        why = "see above" if asset["why"] and asset["why"] in (d["why"] or "") else why
        click.echo(f"  {name:18} {asset['state']:14} {asset['at'] or '':22} {why}".rstrip())
    click.echo("copies")
    for copy in d["copies"]:
        proof = f"verified: {copy['verified_by']}" if copy["verified_by"] else "seen in a listing"
        digest = f"; SHA-256 {copy['sha256'][:12]}…" if copy["sha256"] else ""
        gone = f"  deleted {copy['pruned_at']}" if copy["pruned_at"] else ""
        gone = gone or (f"  in the trash since {copy['trashed_at']}" if copy["trashed_at"] else "")
        click.echo(f"  {copy['place']:8} {human(copy['bytes']):>9}  {copy['path']}  ({proof}{digest}){gone}")
    if d["tasks"]:
        click.echo("tasks")
    for number, task in enumerate(d["tasks"], 1):
        click.echo(
            f"  {number:2} {task['asset']:18} {task['system']:7} {task['id'] or 'not submitted'}  {task['state']}"
        )
    for product in d["products"]:
        click.echo(f"result {product['asset']} revision {product['revision']}: {product['path']}")
    for entry in d["catalog"]:
        click.echo(f"catalogue {entry['type']}: {entry['pid']}")
    for event in d.get("history", []):
        said = " ".join(part for part in (event["what"], event["asset"], event["why"]) if part)
        click.echo(f"  {event['at']}  {event['who']}: {platform.one_line(said)}")
