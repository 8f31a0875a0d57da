"""`als wait`: for scripts: block until a scan, or one asset of it, is done."""

from __future__ import annotations

import time
from typing import Any

import click

from als import platform
from beamlines.policy import names
from beamlines.spec import Spec
from resources.ledger import Ledger
from resources.ledger import scans as scan_table
from resources.ledger.views import scan_document

DONE, FAILED, TIMED_OUT = 0, 1, 2
STEP_S = 1.0


@click.command()
@click.argument("beamline")
@click.argument("key")
@click.option("--asset", help="only this asset of the scan")
@click.option("--timeout", default=3600.0, show_default=True, help="seconds; 0: look once")
@click.option("--json", "as_json", is_flag=True, help="print the scan as one JSON document at the end")
@platform.plain_errors
def wait(beamline: str, key: str, asset: str | None, timeout: float, as_json: bool) -> None:
    """Wait for a scan. KEY is its partition key, or its path; one that is not noticed yet is waited for, too.

    Exit status 0: done. 1: failed, or it will not come by waiting (a question, export control). 2: timed out.

    \b
    Example:  als wait bl7011 2026/11/sample_0001.h5 --asset raw_at_cfs --timeout 600
    """
    spec = platform.spec_of(beamline)
    if asset is not None and asset not in (known := [a.name for a in spec.assets()]):
        raise click.UsageError(f"{beamline} has no asset {asset!r}; it has {', '.join(known)}")
    ledger = platform.ledger()
    until = time.monotonic() + timeout
    while True:
        document = look(ledger, spec, key)
        if document is None and "=" not in key and (why := names.refusal(key)):  # a path, and not a key
            raise click.UsageError(f"{key!a} will never be a scan: {why}")
        ended, why = verdict(document, asset)
        if ended is None and time.monotonic() >= until:
            ended, why = TIMED_OUT, f"timed out after {timeout:g} s: {why}"
        if ended is not None:
            break
        time.sleep(min(STEP_S, max(0.0, until - time.monotonic())))
    if as_json:
        platform.print_json(document or {"schema": "als-scan/1", "beamline": beamline, "key": key, "state": None})
    click.echo(f"{key}: {why}", err=True)
    raise SystemExit(ended)


def look(ledger: Ledger, spec: Spec, key: str) -> dict[str, Any] | None:
    """The document of the scan; None while there is none."""
    with ledger.read() as tx:
        found = scan_table.find(tx, spec.id, key)
        if found is None and names.refusal(key) is None:
            found = scan_table.latest_version(tx, spec.id, key)
        if found is None:
            return None
        return scan_document(tx, spec, found, platform.durable(spec, platform.facilities()), ledger.now())


def verdict(document: dict[str, Any] | None, asset: str | None) -> tuple[int | None, str]:
    """(exit status or None while it is worth waiting, why)."""
    if document is None:
        return None, "it has not been noticed yet"
    if asset is None:
        state, why = document["state"], document["why"] or "done"
    else:
        state, why = document["assets"][asset]["state"], document["assets"][asset]["why"] or asset
    if state in ("done", "materialized", "pruned"):
        return DONE, f"{asset or 'the scan'} is done"
    if state in ("failed", "lost", "question", "not_applicable"):
        return FAILED, f"{state}: {why}"
    if document["restricted"]:
        return FAILED, document["restricted"]
    return None, f"{state}: {why}"
