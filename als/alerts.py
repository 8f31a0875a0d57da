"""`als alerts`: what staff are told, and whether the channel works."""

from __future__ import annotations

import os
from typing import Any

import click

from als import platform


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@click.option("--test", is_flag=True, help="send a message to try the channel")
@click.option(
    "--look", is_flag=True, help="look and tell now, as the sensor does; for a timer, in case the daemon is dead"
)
@platform.plain_errors
def alerts(as_json: bool, test: bool, look: bool) -> None:
    """Show what is the matter. Exit status 1: something is, or the message could not be sent.

    \b
    Example:  als alerts --test
    """
    from resources import alerts as channel
    from resources.ledger import alerts as table

    at = platform.facilities()
    settings = at.file.alerts
    if test:
        try:
            channel.send(settings, f"[als {at.name}] a test", "This message was asked for by `als alerts --test`.")
        except channel.NotSent as error:
            raise click.ClickException(f"{channel.where(settings)}: {error}") from None
        click.echo(f"sent: {channel.where(settings)}")
        return
    ledger = platform.ledger()
    said = look_now(ledger, at) if look else None
    with ledger.read() as tx:
        opened = table.opened(tx)
    if as_json:
        platform.print_json(document(at.name, channel.where(settings), opened))
    else:
        for alert in opened:
            told = f"told {alert.sent_at:%Y-%m-%d %H:%M}" if alert.sent_at else "not told"
            click.secho(f"{alert.key}", bold=True, nl=False)
            click.echo(f"  since {alert.raised_at:%Y-%m-%d %H:%M} UTC, {told}\n  {' '.join(alert.message.split())}")
        click.echo(f"{len(opened)} open; told by {channel.where(settings)}" + (f"; {said}" if said else ""))
    if opened:
        raise SystemExit(1)


def look_now(ledger: Any, at: Any) -> str:
    import dagster as dg

    from sensors.alerts import dagster_here, look, tell

    instance = dagster_here()
    try:
        look(ledger, list(platform.specs().values()), at, instance, credentials_too=True)
    finally:
        if isinstance(instance, dg.DagsterInstance):
            instance.dispose()
    return tell(ledger, at, f"als alerts {os.getpid()}")


def document(facilities: str, where: str, opened: Any) -> dict[str, Any]:
    from resources.ledger.views import stamp

    shown = [
        {"key": a.key, "beamline": a.beamline, "message": a.message, "raised_at": stamp(a.raised_at),
         "seen_at": stamp(a.seen_at), "sent_at": stamp(a.sent_at)}
        for a in opened
    ]  # fmt: skip
    return {"schema": "als-alerts/1", "facilities": facilities, "told_by": where, "alerts": shown}
