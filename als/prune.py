"""`als prune`: what may be deleted where, why the rest stays; with --yes it is done."""

from __future__ import annotations

import getpass
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from als import platform
from als.scans import human
from beamlines.spec import Spec
from resources.facilities import Facilities
from resources.ledger import Ledger, removals
from resources.ledger.views import stamp

if TYPE_CHECKING:
    from als_assets.pruning import Report

SHOWN = 50  # scans per state, unless all are asked for
WORDS = {
    "would_go": "would go",
    "trashed": "moved to the trash",
    "in_trash": "in the trash",
    "deleted": "deleted",
    "put_back": "put back",
    "stuck": "stuck",
    "stays": "stays",
}


@click.command()
@click.option("-b", "--beamline", "beamlines", multiple=True, help="only these [all that prune]")
@click.option("--yes", is_flag=True, help="do it; without, nothing is changed")
@click.option("--all", "everything", is_flag=True, help=f"list every scan, not {SHOWN} of each kind")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def prune(beamlines: tuple[str, ...], yes: bool, everything: bool, as_json: bool) -> None:
    """Free disks of copies that better ones have been proven for. Without --yes it only says what would go, and why the
    rest stays.

    A copy goes when today's spec says so, its place is armed, nobody holds the scan, and every copy that the spec
    demands is proven and is there now as it was proven. It waits in the trash of its place before it is deleted.
    Exit status 0: well; 1: something could not be done or found out.

    \b
    Example:  als prune -b bl7011
    """
    from als_assets.pruning import AtWork, Pruning, short_days

    chosen = [platform.spec_of(b) for b in beamlines] or [s for s in platform.specs().values() if s.prunes]
    at, ledger = platform.facilities(), platform.ledger()
    began = ledger.now()
    reports: list[tuple[Spec, Report]] = []
    for spec in chosen:
        holder = f"als prune {secrets.token_hex(4)}"
        pruning = Pruning(ledger, spec, at, dict(at.services), getpass.getuser(), holder)
        try:
            reports.append((spec, pruning.run() if yes else pruning.plan()))
        except AtWork as error:
            raise click.ClickException(str(error)) from None
    if as_json:
        platform.print_json(document(ledger, reports, at, yes, began))
    else:
        if (words := short_days(at)) is not None:
            click.echo(f"{words[0].upper()}{words[1:]}.")
        for spec, report in reports:
            show(ledger, spec, report, yes, everything)
    if any(report.troubles for _, report in reports):
        raise SystemExit(1)


def armings(ledger: Ledger, spec: Spec) -> list[dict[str, Any]]:
    """The places that the spec prunes, and who armed them."""
    with ledger.read() as tx:
        found = {rule.place: removals.armed(tx, spec.id, rule.place) for rule in spec.prunes}
    return [
        {
            "beamline": spec.id,
            "place": place,
            "armed": {"who": by.who, "why": by.why, "at": stamp(by.at)} if by else None,
        }
        for place, by in found.items()
    ]


def document(
    ledger: Ledger, reports: Sequence[tuple[Spec, Report]], facilities: Facilities, yes: bool, at: datetime
) -> dict[str, Any]:  # fmt: skip
    parts = [report.document() for _, report in reports]
    sums: dict[str, dict[str, int]] = {}
    for part in parts:
        for state, one in part["sums"].items():
            known = sums.setdefault(state, {"scans": 0, "bytes": 0})
            sums[state] = {name: known[name] + one[name] for name in known}
    return {
        "schema": "als-prune/1",
        "facilities": facilities.name,
        "day_s": facilities.pace.day_s,
        "at": stamp(at),
        "dry_run": not yes,
        "ok": not any(report.troubles for _, report in reports),
        "places": [one for spec, _ in reports for one in armings(ledger, spec)],
        "sums": sums,
        "scans": [scan for part in parts for scan in part["scans"]],
        "troubles": [trouble for part in parts for trouble in part["troubles"]],
    }


def show(ledger: Ledger, spec: Spec, report: Report, yes: bool, everything: bool) -> None:
    for one in armings(ledger, spec):
        where, by = f"{spec.id}/{one['place']}", one["armed"]
        words = f"armed by {by['who']} at {by['at']}: {by['why']}" if by else "not armed: nothing is deleted there"
        click.secho(f"{where}  {words}", bold=True)
    for state, words in WORDS.items():
        items = [item for item in report.items.values() if item.state == state]
        for item in items if everything else items[:SHOWN]:
            why = "; ".join([reason.words for reason in item.reasons] + ([item.note] if item.note else []))
            until = f"until {stamp(item.until)}  " if item.until else ""
            click.echo(f"  {words:18} {human(item.bytes):>9}  {item.key}  {until}{why}")
        if len(items) > SHOWN and not everything:
            click.echo(f"  {words:18} … and {len(items) - SHOWN} more (--all)")
    for state, total in report.sums().items():
        click.echo(f"{WORDS[state]}: {total['scans']} scans, {human(total['bytes'])}")
    if not report.items:
        click.echo("no copy is old enough to be considered" if yes else "no copies are there")
    for trouble in report.troubles:
        click.secho(f"{trouble.beamline}/{trouble.place}: {trouble.words}", fg="red", err=True)
    if not yes and "would_go" in report.sums():
        click.echo("Nothing was changed. `als prune --yes` moves what would go to the trash.")
