"""`als adopt`: files of scans that are in a place already are taken as copies, with what proves them."""

from __future__ import annotations

import getpass
from typing import Any

import click

from als import platform

WORDS = {
    "proven": "adopted, proven by SHA-256",
    "adopted": "adopted, not proven",
    "unequal": "not the same: a question",
    "partial": "incomplete: a question",
    "restricted": "export-controlled, and there all the same",
    "unreadable": "its folder may not be looked into",
    "under_way": "left to the platform's own copy",
    "absent": "not there: it will be copied",
}
NOT_WELL = ("unequal", "partial", "restricted", "unreadable")


@click.command()
@click.argument("beamline")
@click.argument("place")
@click.option("--dry-run", is_flag=True, help="only list and say what would come of it")
@click.option(
    "--wait", "wait_s", default=3600.0, show_default=True, help="seconds to wait for a facility to read files"
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def adopt(beamline: str, place: str, dry_run: bool, wait_s: float, as_json: bool) -> None:
    """Take files that are already at PLACE as the copies of scans, instead of copying them again.

    For going live beside another system, and after the ledger was lost. A file counts as proven when its SHA-256 is
    that of the beamline's file; where one of the two cannot be read, equal size and time are enough to adopt it, but it
    is never `verified`. What is not the same becomes a question to a person. Nothing is written to PLACE. Run it again
    at any time. Exit status 1 when something is not the same.

    \b
    Example:  als adopt bl7011 cfs --dry-run
    """
    from als_assets.adopting import Adopting

    spec = platform.spec_of(beamline)

    def say(words: str) -> None:
        click.echo(words, err=True)

    at, who = platform.facilities(), f"person {getpass.getuser()}"
    found = Adopting(platform.ledger(), spec, at, place, who, wait_s, say).run(dry_run)
    if as_json:
        shown: list[dict[str, Any]] = [
            {"key": one.scan.key, "result": one.what, "why": one.why or None} for one in found
        ]
        document = {"schema": "als-adopt/1", "beamline": beamline, "place": place, "dry_run": dry_run}
        platform.print_json({**document, "scans": shown})
    else:
        for one in found:
            if one.what != "absent":
                click.echo(f"{one.scan.key}: {WORDS[one.what]}{': ' if one.why else ''}{one.why}")
        for what, words in WORDS.items():
            if count := sum(one.what == what for one in found):
                click.echo(f"{count:6}  {words}")
        click.echo(f"{len(found)} scans lacked a copy at {place}{'; nothing was written' if dry_run else ''}")
    if any(one.what in NOT_WELL for one in found):
        raise SystemExit(1)
