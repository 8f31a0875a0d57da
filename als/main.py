"""`als`: every verb is a file of this folder, imported only when it is called, so that looking at a scan is quick."""

from __future__ import annotations

import importlib

import click

VERBS = {
    "demo": "sandbox, Dagster and simulated scans on this machine, until every scan is done",
    "check": "flight check: every credential, permission, endpoint and leg, by doing it",
    "scans": "the scans of a beamline: where they are, what is in flight, what failed and why",
    "scan": "one scan, whole",
    "wait": "block until a scan is done",
    "notify": "say that files are there, complete, whose, export-controlled",
    "assign": "say to which proposal scans belong, and whether they are export-controlled",
    "crawl": "take the scans below a folder although they are older than `since`",
    "adopt": "take files that are in a place already as the copies of scans",
    "resolve": "decide about a file that was written anew after it had become a scan",
    "prune": "free disks: what would go, and why the rest stays; with --yes it goes",
    "hold": "keep every copy of a scan until a day",
    "release": "end the holds on a scan",
    "arm": "allow deletion in a place, or allow it no more",
    "simulate": "write simulated scans as a detector would",
    "alerts": "what staff are told: what is open, and whether the channel works",
    "ledger": "backups of the ledger, and going back to one",
    "sandbox": "all facilities on loopback: up, down, status, reset, faults",
}


class Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"als.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="als-assets")
def main() -> None:
    """Every X-ray scan a Dagster partition: moved, verified, analysed, catalogued.

    ALS_FACILITIES says which facilities (all on loopback by default), ALS_STATE where the ledger and Dagster keep their
    state (.als in this folder by default).
    """
    from resources.facilities import adopt

    adopt()


if __name__ == "__main__":
    main()
