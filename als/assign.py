"""`als assign`: a person says to which proposal scans belong, and whether they are export-controlled."""

from __future__ import annotations

import getpass
from dataclasses import dataclass, field
from typing import Any

import click

from als import platform
from beamlines.policy import proposal as policy
from beamlines.policy.proposal import Belongs
from beamlines.policy.restricted import BEGINNING
from beamlines.spec import Spec
from resources.errors import FacilityError
from resources.ledger import Ledger, assignments, history, tasks
from resources.ledger import scans as scan_table
from resources.ledger.scans import Scan
from resources.ledger.tasks import Task
from resources.proposals import schedule


@dataclass
class Assigned:
    """What came of it for one scan. `live`: (task, how many other scans it carries, what was done about it)."""

    scan: Scan
    changed: bool = False
    live: list[tuple[Task, int, str]] = field(default_factory=list)
    copied_to: list[str] = field(default_factory=list)


@click.command()
@click.argument("beamline")
@click.argument("keys", nargs=-1, required=True)
@click.option("--proposal", help="the proposal that the scans belong to")
@click.option("--investigator", help="its principal investigator [as the schedule says]")
@click.option("--group", "groups", multiple=True, help="that may read them besides [as the schedule says]")
@click.option("--restrict", is_flag=True, help="export control: nothing more of them leaves the beamline")
@click.option("--not-restricted", is_flag=True, help="export control does not hold them")
@click.option("--cancel", is_flag=True, help="with --restrict: cancel the tasks that carry them now")
@click.option("--why", default="", help="for the history; export control demands it")
@click.option("--dry-run", is_flag=True, help="only say what would change")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def assign(
    beamline: str, keys: tuple[str, ...], proposal: str | None, investigator: str | None, groups: tuple[str, ...],
    restrict: bool, not_restricted: bool, cancel: bool, why: str, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Say whose scans these are. KEYS are partition keys; `als scans --state unassigned` lists those without one.

    Their catalogue entries are brought up to date: owner group, investigator, who may read them.

    \b
    Examples:  als assign bl7011 2026/11/a.h5 2026/11/b.h5 --proposal ALS-12345
               als assign bl7011 2026/11/a.h5 --not-restricted --why "published sample, checked with the PI"
    """
    spec = platform.spec_of(beamline)
    _refuse(proposal, groups, restrict, not_restricted, cancel, why, (investigator, *groups))
    ledger = platform.ledger()
    with ledger.read() as tx:
        chosen, unknown = assignments.known(tx, spec.id, keys)
    if unknown:
        raise click.ClickException(f"{beamline} has no scan {unknown[0]!r}. `als scans -b {beamline}` lists them.")
    to = None
    if proposal:
        told = schedule(spec).of(proposal, policy.PERSON)
        to = Belongs(proposal, investigator or told.investigator, tuple(groups) or told.groups, policy.PERSON)
    who = f"person {getpass.getuser()}"
    done = [_one(ledger, spec, scan, to, restrict, not_restricted, who, why, dry_run) for scan in chosen]
    if restrict:
        _under_way(ledger, done, cancel and not dry_run, who)
    if as_json:
        platform.print_json(_document(beamline, done, dry_run))
    else:
        _show(done, dry_run)


def _refuse(
    proposal: str | None, groups: tuple[str, ...], restrict: bool, not_restricted: bool, cancel: bool, why: str,
    of_proposal: tuple[str | None, ...],
) -> None:  # fmt: skip
    for name in filter(None, (proposal, *groups)):
        if reason := policy.refusal(name):
            raise click.UsageError(reason)
    if not proposal and any(of_proposal):
        raise click.UsageError("--investigator and --group are those of a proposal: give --proposal as well")
    if restrict and not_restricted:
        raise click.UsageError("--restrict and --not-restricted contradict each other")
    if not (proposal or restrict or not_restricted):
        raise click.UsageError("say --proposal, --restrict or --not-restricted")
    if (restrict or not_restricted) and not why.strip():
        raise click.UsageError("export control demands a reason that is kept: give --why")
    if cancel and not restrict:
        raise click.UsageError("--cancel goes with --restrict")


def _one(
    ledger: Ledger, spec: Spec, scan: Scan, to: Belongs | None, restrict: bool, released: bool, who: str, why: str,
    dry_run: bool,
) -> Assigned:  # fmt: skip
    """Everything that is said about one scan, in one transaction; a dry run takes it back."""
    out = Assigned(scan)
    with ledger.write() as tx:
        now = ledger.now()
        if to is not None:
            out.changed |= assignments.assign(tx, spec, scan.id, to, who, why or None, now)
        if restrict:
            out.changed |= assignments.restrict(tx, spec, scan.id, f"{BEGINNING}{who} says so: {why}", who, now)
        if released:
            out.changed |= assignments.release(tx, spec, scan.id, who, why, now)
        out.scan = scan_table.get(tx, scan.id)
        out.copied_to = [p for p in scan_table.places_of(tx, scan.id) if p != spec.scans.watch]
        if dry_run:
            tx.rollback()
    return out


def _under_way(ledger: Ledger, done: list[Assigned], cancel: bool, who: str) -> None:
    """Name the tasks that carry something of the scans; end them when that was asked for."""
    from als_assets.families import systems

    known = systems(dict(platform.facilities().services)) if cancel else {}
    ended: dict[int, str] = {}
    for one in done:
        with ledger.read() as tx:
            live = [(task, len(tasks.scans_of(tx, task.id)) - 1) for task in assignments.under_way(tx, one.scan.id)]
        for task, others in live:
            if cancel and task.id not in ended:
                ended[task.id] = _cancelled(known, task)
                what = f"{task.system} {task.external_id or task.proposed_key}: {ended[task.id]}"
                with ledger.write() as tx:
                    history.record(
                        tx, ledger.now(), who, "cancelled a task", beamline=task.beamline, scan_id=one.scan.id,
                        asset=task.asset, why=what,
                    )  # fmt: skip
            one.live.append((task, others, ended.get(task.id, "goes on")))


def _cancelled(known: Any, task: Task) -> str:
    if task.external_id is None:
        return "not known to have been taken"
    try:
        known[task.service].cancel(task.external_id)
    except FacilityError as error:
        return f"could not be cancelled: {error}"
    return "asked to end"


def _document(beamline: str, done: list[Assigned], dry_run: bool) -> dict[str, Any]:
    return {
        "schema": "als-assign/1", "beamline": beamline, "dry_run": dry_run,
        "scans": [
            {
                "key": one.scan.key, "changed": one.changed, "proposal": one.scan.proposal,
                "investigator": one.scan.investigator, "groups": one.scan.groups or [],
                "restricted": one.scan.restricted, "copied_to": one.copied_to,
                "under_way": [
                    {"asset": t.asset, "system": t.system, "id": t.external_id, "other_scans": n, "so": so}
                    for t, n, so in one.live
                ],
            }
            for one in done
        ],
    }  # fmt: skip


def _show(done: list[Assigned], dry_run: bool) -> None:
    for one in done:
        scan = one.scan
        whose = f"proposal {scan.proposal or 'unknown'}, {scan.investigator or 'investigator unknown'}"
        kept = f"; {scan.restricted}" if scan.restricted else ""
        click.echo(f"{scan.key}: {'' if one.changed else 'unchanged: '}{whose}{kept}")
        if scan.restricted and one.copied_to:
            click.echo(f"  has been copied to {', '.join(one.copied_to)} before; nothing there was touched")
        for task, others, so in one.live:
            more = f", with {others} other scans" if others else ""
            click.echo(f"  {task.asset}: {task.system} task {task.external_id or 'not known yet'}{more}: {so}")
    if any(so == "goes on" for one in done for _, _, so in one.live):
        click.echo("What is under way goes on; --cancel asks for its end (the other scans of a task are sent again).")
    click.echo(f"{sum(one.changed for one in done)} of {len(done)} scans {'would change' if dry_run else 'changed'}")
