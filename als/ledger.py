"""`als ledger`: backups of the ledger, and going back to one."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from als import platform
from als.scans import human
from resources.ledger.location import ledger_url

if TYPE_CHECKING:
    from resources.ledger.backup import Backup

RECENT_S = 90  # the daemon gives a sign of life every 30 s


@click.group()
def ledger() -> None:
    """Backups of the ledger, and going back to one."""


@ledger.command()
@click.option("--to", "where", type=click.Path(path_type=Path), default=None, help="folder [ALS_BACKUPS]")
@click.option("--keep", default=30, show_default=True, help="so many stay; older ones go")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@platform.plain_errors
def backup(where: Path | None, keep: int, as_json: bool) -> None:
    """Make one now, while everything runs, and check it.

    \b
    Example:  als ledger backup --to /mnt/other-disk/als --keep 60
    """
    from resources.ledger import backup as backups

    facilities = platform.facilities().name
    where = where or backups.folder()
    try:
        made = backups.make(ledger_url(), facilities, where, keep)
    except backups.BackupProblem as problem:
        raise click.ClickException(str(problem)) from None
    there = backups.listed(where, facilities)
    if as_json:
        platform.print_json({"schema": "als-backup/1", "made": document(made), "kept": [document(b) for b in there]})
    else:
        click.echo(f"{made.path}  {human(made.bytes)}, checked; {len(there)} are kept")


def document(one: Backup) -> dict[str, object]:
    from resources.ledger.views import stamp

    return {"path": str(one.path), "at": stamp(one.at), "bytes": one.bytes}


@ledger.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="do it; without, only say what would happen")
@platform.plain_errors
def restore(file: Path, yes: bool) -> None:
    """Go back to a backup. Refuses while anything uses the ledger; the ledger that is there is put aside.

    What was done since the backup is found again at the facilities; nothing is submitted or deleted a second time.

    \b
    Example:  als ledger restore /var/backups/als/ledger-production-20261119T033000Z.db --yes
    """
    from resources.ledger import backup as backups
    from resources.ledger import restore as restoring

    facilities, url = platform.facilities().name, ledger_url()
    try:
        content = backups.check(file)
        if content.facilities != facilities:
            raise click.ClickException(
                f"{file} is a backup of the ledger of {content.facilities!r}, and ALS_FACILITIES is {facilities!r}"
            )
        using = restoring.in_use(url, facilities) + daemon()
        if using:
            raise click.ClickException(
                f"the ledger is in use: {'; '.join(using)}. What to do: stop the daemon, the code server and the "
                "webserver (systemctl stop 'als-*'), wait until no run is at work, then do it again"
            )
        if not yes:
            click.echo(
                f"{file.name} is whole, of {content.facilities}, version {content.version}; nothing uses the ledger."
            )
            click.echo("With --yes it takes the place of the present one, which is put aside.")
            return
        done = restoring.restore(url, facilities, file, getpass.getuser())
    except backups.BackupProblem as problem:
        raise click.ClickException(str(problem)) from None
    click.echo(
        f"restored from {file.name}; " + (f"the one before is in {done.aside}" if done.aside else "there was none")
    )
    click.echo(
        "Every place is disarmed: holds that were placed since are not in it. `als arm` when they are there again."
    )
    click.echo("Start the services again. What was copied, archived and analysed since the backup is found and kept.")


def daemon() -> list[str]:
    """A daemon that has given a sign of life just now, in words; nothing where there is no Dagster."""
    import time

    from sensors.alerts import cannot_open, dagster_here

    opened = dagster_here()
    if opened is None:
        return []
    if isinstance(opened, Exception):
        raise click.ClickException(
            f"{cannot_open(opened)}. So nobody knows whether its daemon runs. What to do: start its database, and do "
            "it again; or, where its daemon is stopped for certain, do it with DAGSTER_HOME set to an empty folder"
        )
    with opened as instance:
        beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    ago = time.time() - max(beats, default=0)
    return [f"Dagster's daemon gave a sign of life {ago:.0f} s ago"] if ago < RECENT_S else []
