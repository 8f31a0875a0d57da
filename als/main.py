"""`als`: every verb is a file of this folder, imported only when it is called, so that looking at a scan is quick."""

from __future__ import annotations

import importlib

import click

VERBS = {
    "demo": "sandbox, Dagster and simulated scans on this machine, until every scan is done",
    "check": "flight check: every credential, permission, endpoint and leg, by doing it",
    "scans": "the scans of a beamline: where they are, what is in flight, what failed and why",
    "scan": "one scan, whole",
    "simulate": "write simulated scans as a detector would",
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

    ALS_FACILITIES says which facilities (sandbox by default), ALS_STATE where the ledger and Dagster keep their state
    (.als in this folder by default).
    """
    from als.sandbox import adopt

    adopt()


if __name__ == "__main__":
    main()
