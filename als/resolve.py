"""`als resolve`: a person decides about files that were written anew after they had become a scan."""

from __future__ import annotations

import getpass

import click

from als import platform
from beamlines.spec import Spec
from resources.ledger import Ledger, versions
from resources.ledger import scans as scan_table
from resources.ledger.scans import Scan
from resources.ledger.versions import CHANGED, Resolved


@click.command()
@click.argument("beamline")
@click.argument("keys", nargs=-1)
@click.option("--new-version", "decision", flag_value="new-version", help="keep the new content as a scan of its own")
@click.option("--ignore", "decision", flag_value="ignore", help="keep the first content only, until it changes again")
@click.option("--all", "everything", is_flag=True, help="every scan about which this is asked")
@click.option("--why", default="", help="for the history")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def resolve(
    beamline: str, keys: tuple[str, ...], decision: str | None, everything: bool, why: str, as_json: bool
) -> None:
    """Say what becomes of new content under the name of a scan. KEYS are partition keys.

    The copies of the first content are never touched. With --new-version the files as they are now become a scan of
    their own (KEY=v2) once they have settled, copied to a folder of its own and entered in the catalogue by itself.

    \b
    Example:  als resolve bl7011 2026/11/sample_0001.h5 --new-version --why "the writer had stalled"
    """
    spec = platform.spec_of(beamline)
    if decision is None:
        raise click.UsageError("say --new-version or --ignore")
    if bool(keys) == everything:
        raise click.UsageError("name the scans, or say --all")
    ledger = platform.ledger()
    chosen = _chosen(ledger, spec, keys)
    if decision == "ignore":
        chosen = _with_a_copy(ledger, spec, chosen, everything)
    done = decide(
        ledger, spec, chosen, decision == "new-version", f"person {getpass.getuser()}", why or "no reason given"
    )
    if as_json:
        shown = [{"key": one.scan.key, "new_version": one.key, "first_content_lost": one.lost} for one in done]
        platform.print_json({"schema": "als-resolve/1", "beamline": beamline, "decision": decision, "scans": shown})
        return
    for one in done:
        click.echo(f"{one.scan.key}: {said(one)}")
    click.echo(f"{len(done)} scans")


def said(one: Resolved) -> str:
    if one.key is None:
        return "the first content is kept; you are asked again when the file changes again"
    words = f"the new content becomes {one.key} once it has settled; the copies of the first one stay as they are"
    return f"{words}. No copy of the first one had been proven: it is lost" if one.lost else words


def _chosen(ledger: Ledger, spec: Spec, keys: tuple[str, ...]) -> list[Scan]:
    with ledger.read() as tx:
        if not keys:
            return versions.asked(tx, spec.id)
        chosen = []
        for key in keys:
            found = scan_table.find(tx, spec.id, key)
            if found is None:
                raise click.ClickException(f"{spec.id} has no scan {key!r}. `als scans -b {spec.id}` lists them.")
            if CHANGED not in (found.question or ""):
                asked = (
                    f"what is asked about it is: {found.question}" if found.question else "nothing is asked about it"
                )
                raise click.ClickException(f"{key}: its files have not changed at the beamline; {asked}")
            chosen.append(found)
        return chosen


def _with_a_copy(ledger: Ledger, spec: Spec, chosen: list[Scan], everything: bool) -> list[Scan]:
    """Those of which the first content is proven somewhere else; there is nothing to keep of the others."""
    with ledger.read() as tx:
        bare = {scan.id for scan in chosen if versions.nowhere_else(tx, spec, scan)}
    for scan in chosen:
        if scan.id in bare:
            words = (
                f"{scan.key}: no copy of its first content is proven, so there is nothing to keep by ignoring the new "
                "one. What to do: --new-version, or put the old content back with its time"
            )
            if not everything:
                raise click.ClickException(words)
            click.echo(words, err=True)
    return [scan for scan in chosen if scan.id not in bare]


def decide(ledger: Ledger, spec: Spec, chosen: list[Scan], new_version: bool, who: str, why: str) -> list[Resolved]:
    """Write the decision down, scan by scan. What has changed since it was read is left out."""
    done = []
    for scan in chosen:
        with ledger.write() as tx:
            now = ledger.now()
            if new_version:
                one = versions.make_version(tx, spec, scan, who, why, now)
            else:
                one = versions.ignore(tx, scan, who, why, now)
        if one is not None:
            done.append(one)
    return done
