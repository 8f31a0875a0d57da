"""`als demo`: the whole platform on this machine, with simulated scans.

Nothing is called in place of the platform: the detector's files appear in the watched folder, and Dagster's sensors,
daemon and run processes do the rest against the sandbox.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from als import platform, sandbox, simulate
from als.services import Services, running
from beamlines.spec import Spec
from resources.ledger import Ledger, scans
from resources.ledger.location import state_dir
from resources.ledger.views import scan_document

LOCK = "demo.lock"
SETTLED = ("done", "failed", "question", "refused")


def watched_folder(directory: Path, spec: Spec) -> Path:
    """The folder at which the simulated detector of a beamline writes, on the sandbox's disk."""
    view = platform.facilities().place(spec.id, spec.scans.watch).globus
    assert view is not None
    return directory / "als" / "dtn" / view.base.strip("/")


def documents(ledger: Ledger, spec: Spec, written: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The document of each simulated scan, with the truth; a scan that is not noticed yet is `waiting`."""
    durable = platform.durable(spec, platform.facilities())
    out = []
    with ledger.read() as tx:
        for scan in written:
            found = scans.find(tx, spec.id, scan["key"])
            if found is None:
                document = {"beamline": spec.id, "key": scan["key"], "state": "waiting", "why": "not noticed yet"}
            else:
                document = scan_document(tx, spec, found, durable, ledger.now())
            out.append({**document, "truth": scan["truth"]})
    return out


@contextlib.contextmanager
def bar(total: int, quiet: bool) -> Iterator[Any]:
    """A progress bar on a terminal; otherwise nothing. Yields a function of (done, words)."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("scans done"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, words: progress.update(task, completed=done, description=words)


def wait(ledger: Ledger, written: dict[str, list[dict[str, Any]]], timeout: float, quiet: bool) -> list[dict[str, Any]]:
    """Until every scan is done or failed, or the time is up. Returns the documents."""
    specs = platform.specs()
    until = time.monotonic() + timeout
    with bar(sum(map(len, written.values())), quiet) as show:
        while True:
            found = [d for beamline, scans_ in written.items() for d in documents(ledger, specs[beamline], scans_)]
            open_ = [d for d in found if d["state"] not in SETTLED]
            show(len(found) - len(open_), platform.one_line(open_[0]["why"] or "") if open_ else "")
            if not open_ or time.monotonic() > until:
                return found
            time.sleep(0.5)


@click.command()
@click.option("--once", is_flag=True, help="end when every scan is done")
@click.option("-b", "--beamline", "beamlines", multiple=True, help="only these [all]")
@click.option(
    "--scans", "count", type=click.IntRange(1), default=3, show_default=True, help="simulated scans per beamline"
)
@click.option("--size", type=click.Choice(["tiny", "small", "large"]), default="tiny", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="of Dagster's pages; 0 for a free one")
@click.option("--timeout", default=600.0, show_default=True, help="give up after so many seconds (with --once)")
@click.option("--fresh", is_flag=True, help="begin with an empty state folder")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document when all is done")
@platform.plain_errors
def demo(
    once: bool, beamlines: tuple[str, ...], count: int, size: str, seed: int, port: int, timeout: float, fresh: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Sandbox, Dagster and simulated scans on this machine, until every scan is done.

    \b
    Example:  als demo --once --beamline bl7011 --scans 3 --json
    """
    state = state_dir()
    os.environ["ALS_STATE"] = str(state)
    directory = state / "sandbox"
    chosen = [platform.spec_of(b) for b in beamlines] or list(platform.specs().values())
    with alone(state):
        if fresh:
            sandbox.down(directory)
            empty(state)
        found = play(state, chosen, count, size, seed, port, timeout, once, as_json)
    if once and any(d["state"] != "done" for d in found):
        raise SystemExit(1)


@contextlib.contextmanager
def alone(state: Path) -> Iterator[None]:
    """One demo in a folder: the end of a second one would end the sandbox of the first. A lock, which ends with us."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / LOCK).open("a")
    except OSError as error:
        words = f"{state} cannot be used: {error.strerror}. What to do: set ALS_STATE to a folder that you may write to"
        raise click.ClickException(words) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(
                f"a demo is at work in {state} already. What to do: use it (`als simulate` writes more scans), end it "
                "with Ctrl-C in its terminal, or set ALS_STATE to another folder"
            ) from None
        yield


def empty(state: Path) -> None:
    """Remove what is in a state folder, but for the lock that we hold."""
    for path in state.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def play(
    state: Path, chosen: Sequence[Spec], count: int, size: str, seed: int, port: int, timeout: float, once: bool,
    as_json: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """Everything that the verb does in a folder that is its own. Returns the documents of its scans."""
    directory = state / "sandbox"
    began = time.monotonic()
    ending_like_ctrl_c()
    try:
        os.environ.update(sandbox.up(directory))
        services = Services(state, {}, port)
        with running(services):
            ledger = platform.ledger(created=True)
            say = (lambda words: None) if as_json else click.echo
            say(f"Dagster:  {services.url}/asset-groups")
            say(f"state:    {state}   (export ALS_STATE={state} for als scans, als scan …)")
            written = {
                spec.id: simulate.write(watched_folder(directory, spec), count, size, seed, state / "truth")
                for spec in chosen
            }
            found = wait(ledger, written, timeout, as_json)
            report(found, services.url, time.monotonic() - began, as_json)
            if not once:
                say("Everything goes on running: write files, look at the pages; Ctrl-C ends it.")
                stay()
            ending_in_peace()
    except KeyboardInterrupt:
        click.echo("ended before every scan was done; the next `als demo` goes on with them", err=True)
        raise SystemExit(130) from None
    finally:
        sandbox.down(directory)
    return found


def ending_like_ctrl_c() -> None:
    """SIGTERM ends the demo as Ctrl-C does, everything that it started included; both also when a shell started it
    in the background, where SIGINT is ignored. A second Ctrl-C does not break off the ending."""

    def interrupt(number: int, frame: object) -> None:
        os.write(sys.stderr.fileno(), b"\nending what was started: some seconds\n")
        ending_in_peace()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)


def ending_in_peace() -> None:
    """From here on nothing keeps us from ending what was started: what would be left goes on for days."""

    def patience(number: int, frame: object) -> None:
        os.write(sys.stderr.fileno(), b"still ending what was started: some seconds more\n")

    signal.signal(signal.SIGINT, patience)
    signal.signal(signal.SIGTERM, patience)


def stay() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


def report(found: list[dict[str, Any]], url: str, seconds: float, as_json: bool) -> None:
    if as_json:
        document = {"schema": "als-demo/1", "url": url, "seconds": round(seconds, 1), "scans": found}
        platform.print_json(document)
        return
    for d in found:
        click.echo(f"{d['beamline']}  {d['key']}  {d['state']}{'  ' + d['why'] if d['why'] else ''}")
        for product in d.get("products", []):
            for name in ("contrast", "tau_s"):
                got = "  ".join(f"{v:.4g}" for v in product["values"].get(name, []))
                put = "  ".join(f"{v:.4g}" for v in d["truth"].get(name, []))
                click.echo(f"    {name:9} found {got}   put in {put}")
    click.echo(f"{sum(d['state'] == 'done' for d in found)} of {len(found)} scans done in {seconds:.0f} s")
