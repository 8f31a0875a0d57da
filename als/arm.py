"""`als arm`: allow deletion in a place, or allow it no more. Nothing is deleted in a place that nobody has armed."""

from __future__ import annotations

import getpass

import click

from als import platform
from als.prune import armings
from beamlines.spec import Spec
from resources.errors import FacilityError
from resources.ledger import removals
from resources.storage import Storage, sentinel_of


@click.command()
@click.argument("beamline")
@click.argument("place", required=False)
@click.option("--why", default="", help="for the history")
@click.option("--off", is_flag=True, help="allow deletion there no more; what is in the trash is put back")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def arm(beamline: str, place: str | None, why: str, off: bool, as_json: bool) -> None:
    """Allow `als prune --yes` and the daily schedule to delete copies in PLACE. Without PLACE, say what is armed.

    The place must say that it is itself: an empty file in its root, the sentinel, names beamline and place, so that the
    wrong disk, or one that is not mounted, is never taken for an empty one. Make it on the disk itself:

    \b
        touch /path/of/the/place/.als-place.<beamline>.<place>

    \b
    Examples:  als arm bl7011 dtn --why "archive checked for a month, agreed with the beamline"
               als arm bl7011 dtn --off --why "disk is being replaced"
    """
    spec, ledger = platform.spec_of(beamline), platform.ledger()
    if place is not None:
        if not off and spec.prune(place) is None:
            names = ", ".join(rule.place for rule in spec.prunes) or "no place"
            raise click.UsageError(
                f"the spec of {beamline} prunes {names}, not {place!r}; see prunes: in its defs.yaml"
            )
        if not why.strip():
            raise click.UsageError("say why: --why. It is kept in the history.")
        if not off:
            _is_itself(spec, place)
        with ledger.write() as tx:
            do = removals.disarm if off else removals.arm
            changed = do(tx, beamline, place, getpass.getuser(), why.strip(), ledger.now())
        if not changed and not as_json:
            click.echo(f"{beamline}/{place} was {'not armed' if off else 'armed already'}; nothing was changed")
    found = armings(ledger, spec)
    if as_json:
        platform.print_json({"schema": "als-arm/1", "places": found})
        return
    for one in found:
        by = one["armed"]
        words = f"armed by {by['who']} at {by['at']}: {by['why']}" if by else "not armed: nothing is deleted there"
        click.echo(f"{beamline}/{one['place']}  {words}")
    if place is not None and not off:
        click.echo(f"`als prune -b {beamline}` says what would go; `als hold` keeps a scan.")


def _is_itself(spec: Spec, place: str) -> None:
    """The sentinel is there now, and files may be renamed there."""
    from als_assets.flight_check import SCRATCH, make_or_move

    at = platform.facilities()
    where = f"{spec.id}/{place}"
    disk = Storage(at.services["globus"], where, at.place(spec.id, place), prunable=True)
    try:
        disk.confirm()
    except FacilityError as error:
        raise click.ClickException(
            f"{where} was not armed: {error.reason.rstrip('.')}. What to do: make the empty file {sentinel_of(where)} "
            "in the root of that place, on the disk itself, then arm it again."
        ) from None
    try:
        make_or_move(disk.globus, disk.collection, disk.absolute(SCRATCH))
    except FacilityError as error:
        raise click.ClickException(
            f"{where} was not armed: the platform may not rename there: {error.reason.rstrip('.')}. What to do: give "
            "its Globus identity write access to that folder."
        ) from None
