"""`als check`: is everything that the platform depends on there, and may we use it? Tried by doing it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from als import platform

if TYPE_CHECKING:
    from resources.finding import Finding

MARKS = {True: ("ok", "green"), False: ("failed", "red"), None: ("not tried", "yellow")}


@click.command()
@click.option("-b", "--beamline", "beamlines", multiple=True, help="only what these need [all]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def check(beamlines: tuple[str, ...], as_json: bool) -> None:
    """Try every credential, permission, endpoint and leg. Exit status 0: all is well, 1: something failed.

    \b
    Example:  als check -b bl7011
    """
    from als_assets import flight_check
    from resources.ledger.views import stamp

    specs = [platform.spec_of(b) for b in beamlines] or list(platform.specs().values())
    at = platform.facilities()
    began = datetime.now(UTC)
    found = flight_check.findings(at, specs)
    failed = sum(one.ok is False for one in found)
    if as_json:
        shown = [{"area": f.area, "what": f.what, "ok": f.ok, "says": f.says} for f in found]
        document = {"schema": "als-check/1", "facilities": at.name, "at": stamp(began), "ok": not failed}
        platform.print_json({**document, "findings": shown})
    else:
        show(found)
        left = sum(one.ok is None for one in found)
        click.echo(f"{at.name}: {len(found)} things, {failed} failed, {left} not tried")
    if failed:
        raise SystemExit(1)


def show(found: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console.width = 140
    table = Table(box=None, pad_edge=False)
    table.add_column("where", no_wrap=True)
    table.add_column("what", overflow="fold", max_width=32)
    table.add_column("", no_wrap=True)
    table.add_column("seen, or what to do", overflow="fold")
    for one in found:
        words, color = MARKS[one.ok]
        table.add_row(one.area, Text(one.what), Text(words, color), Text(" ".join(one.says.split())))
    console.print(table)
