"""`als scans`: the scans of a beamline, newest first."""

from __future__ import annotations

from typing import Any

import click

from als import platform
from resources.ledger import leases, notices, refusals
from resources.ledger import scans as scan_table
from resources.ledger.notices import Notice
from resources.ledger.views import scan_document, stamp

MARKS = ("unassigned", "restricted", "held")  # not states, but asked for like one
NEWEST, NEWEST_OF_A_STATE = 50, 1000  # who asks for what has failed means also what failed last week
SHOWN = 20  # refused names, and notices that wait
COLORS = {"done": "green", "failed": "red", "question": "magenta", "waiting": "yellow", "in_flight": "cyan"}


@click.command()
@click.option("-b", "--beamline", default=None, help="only this beamline")
@click.option(
    "--state",
    default=None,
    help="only scans in this state; unassigned: without a proposal, restricted: export control, held: from deletion",
    type=click.Choice([*sorted(COLORS), *MARKS]),
)
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1_000_000), help="look at the newest so many [50; 1000 with --state]"
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def scans(beamline: str | None, state: str | None, limit: int | None, as_json: bool) -> None:
    """List scans: what is done, in flight, waiting, failed, and why.

    \b
    Example:  als scans -b bl7011 --state failed
    """
    at = platform.facilities()
    ledger = platform.ledger()
    found: list[dict[str, Any]] = []
    now = ledger.now()
    refused: list[dict[str, str]] = []
    waiting: list[dict[str, Any]] = []
    limit = limit or (NEWEST if state is None else NEWEST_OF_A_STATE)
    older = False
    with ledger.read() as tx:
        pauses = [p for p in leases.all_pauses(tx) if p.until > now]
        for spec in platform.specs().values():
            if beamline not in (None, spec.id):
                continue
            newest = scan_table.latest(tx, spec.id, limit, unassigned=state == "unassigned")
            older |= len(newest) == limit
            for scan in newest:
                document = scan_document(tx, spec, scan, platform.durable(spec, at), now)
                if state in (None, document["state"]) or document.get(state) or state == "unassigned":
                    found.append(document)
            for name, why in refusals.refused(tx, spec.id).items():
                refused.append({"beamline": spec.id, "name": name, "why": why})
            for notice in notices.waiting(tx, spec.id).values():
                waiting.append(told(notice))
    if beamline:
        platform.spec_of(beamline)
    if as_json:
        resting = [{"service": p.service, "until": stamp(p.until), "reason": p.reason} for p in pauses]
        document = {"schema": "als-scans/1", "pauses": resting, "scans": found}
        platform.print_json({**document, "refused": refused, "notices": waiting})
        return
    show(found)
    if older:
        click.echo(f"Only the newest {limit} were looked at; -n {10 * limit} looks further.", err=True)
    show_waiting(refused, waiting)
    for pause in pauses:
        click.secho(f"{pause.service} rests until {pause.until:%H:%M:%S} UTC: {pause.reason}", fg="yellow")


def told(notice: Notice) -> dict[str, Any]:
    """A notice that no scan has taken up, for people and machines."""
    return {
        "beamline": notice.beamline, "path": notice.path, "who": notice.who, "at": stamp(notice.at),
        "complete": notice.complete, "restricted": notice.restricted, "proposal": notice.proposal,
    }  # fmt: skip


def show_waiting(refused: list[dict[str, str]], waiting: list[dict[str, Any]]) -> None:
    for one in refused[:SHOWN]:
        click.secho(f"refused at {one['beamline']}: {one['name']}: {one['why']}", fg="yellow")
    for one in waiting[:SHOWN]:
        click.secho(
            f"notified at {one['beamline']}: {one['path']} by {one['who']}, {one['at']}: not listed, or not settled",
            fg="yellow",
        )
    for what, all_of_them in (("refused names", refused), ("notices", waiting)):
        if len(all_of_them) > SHOWN:
            click.secho(f"… and {len(all_of_them) - SHOWN} more {what}", fg="yellow")


def show(found: list[dict[str, Any]]) -> None:
    """A line per scan, below the name of its beamline, and its reason on the next: whole at any width, since a key is
    there to be copied and a reason to be read."""
    wide = max([len("scan"), *(len(d["key"]) for d in found)])
    whose = max([len("proposal"), *(len(d["proposal"] or "unassigned") for d in found)])
    for beamline in dict.fromkeys(d["beamline"] for d in found):
        click.secho(beamline, bold=True)
        click.secho(f"{'scan':{wide}}  {'state':9}  {'proposal':{whose}}  {'size':>8}  noticed, UTC", dim=True)
        for d in found:
            if d["beamline"] == beamline:
                line(d, wide, whose)
    counts = {state: sum(d["state"] == state for d in found) for state in sorted({d["state"] for d in found})}
    click.echo(f"{len(found)} scans" + "".join(f", {n} {state}" for state, n in counts.items()))


def line(d: dict[str, Any], wide: int, whose: int) -> None:
    size = human(sum(f["bytes"] for f in d["files"]))
    noticed = (d["noticed_at"] or "")[:16].replace("T", " ")
    click.echo(f"{d['key']:{wide}}  ", nl=False)
    click.secho(f"{d['state']:9}", fg=COLORS.get(d["state"]), nl=False)
    click.secho(f"  {d['proposal'] or 'unassigned':{whose}}", fg=None if d["proposal"] else "yellow", nl=False)
    click.echo(f"  {size:>8}  {noticed}")
    if d["why"]:
        click.echo(f"    {platform.one_line(d['why'])}")


def human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
