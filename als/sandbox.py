"""`als sandbox`: the facilities on loopback, and the faults that they are to show."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from als import platform
from resources.facilities import load
from resources.ledger.location import state_dir
from resources.storage import sentinel_of

START_S = 30.0
SERVICES = ("auth", "transfer", "sfapi", "scicat", "hpss", "*")
KEPT = "environment.json"  # `variables_in` of the facility file names it


class SandboxProblem(click.ClickException):
    """The sandbox cannot be started or reached."""


def default_dir() -> Path:
    return state_dir() / "sandbox"


def environment(directory: Path) -> dict[str, str]:
    """The variables with which the platform finds a sandbox and logs in to it. Raises SandboxProblem if it is down."""
    try:
        address = json.loads((directory / "address.json").read_text())
        credentials = json.loads((directory / "credentials.json").read_text())
    except FileNotFoundError:
        raise SandboxProblem(f"no sandbox is up in {directory}. Start one: als sandbox up --dir {directory}") from None
    return {
        "ALS_FACILITIES": "sandbox",
        "ALS_SANDBOX_URL": address["url"],
        "ALS_SANDBOX_DIR": str(directory.resolve()),
        "ALS_GLOBUS_CLIENT_ID": credentials["auth"]["client_id"],
        "ALS_GLOBUS_CLIENT_SECRET": credentials["auth"]["client_secret"],
        "ALS_SFAPI_KEY": credentials["sfapi"]["key_file"],
        "ALS_SCICAT_USERNAME": credentials["scicat"]["username"],
        "ALS_SCICAT_PASSWORD": credentials["scicat"]["password"],
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def keep(directory: Path, variables: Mapping[str, str]) -> None:
    """Leave the variables in the folder, for its owner only: `als` finds the sandbox of the state folder by them."""
    path = directory / KEPT
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(dict(variables), out)


def up(directory: Path, port: int = 0, slurm: bool = False) -> dict[str, str]:
    """Start a sandbox, unless one is up in the folder; returns its environment.

    `slurm`: its jobs go through a real Slurm of its own. Raises SandboxProblem when one without it is up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if alive(directory):
        if slurm and not json.loads((directory / "address.json").read_text()).get("slurm"):
            raise SandboxProblem(
                f"the sandbox in {directory} is up without Slurm. First: als sandbox down --dir {directory}"
            )
    else:
        (directory / "address.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "sandbox", "serve", "--dir", str(directory), "--port", str(port)]
        command += ["--slurm"] if slurm else []
        with (directory / "server.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=platform.PROJECT, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        until = time.monotonic() + START_S
        while not alive(directory):
            if process.poll() is not None or time.monotonic() > until:
                tail = (directory / "server.log").read_text()[-2000:]
                raise SandboxProblem(f"the sandbox in {directory} did not start:\n{tail}")
            time.sleep(0.05)
    variables = environment(directory)
    furnish(directory, variables)
    keep(directory, variables)
    return variables


def furnish(directory: Path, variables: Mapping[str, str]) -> None:
    """Make the folder of every place, as the staff of the facilities would have done, and the sentinel in each place in
    which copies may be deleted."""
    specs = platform.specs()
    for beamline, places in load(environment={**os.environ, **variables}).file.places.items():
        for name, place in places.items():
            folders = [Path(path) for path in place.paths.values()]
            if not folders and place.globus is not None:
                folders = [directory / "als" / "dtn" / place.globus.base.strip("/")]
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                if beamline in specs and specs[beamline].prune(name):
                    (folder / sentinel_of(f"{beamline}/{name}")).touch()


def down(directory: Path) -> bool:
    """End a sandbox and every transfer and job of it; True when nothing of it is left."""
    (directory / KEPT).unlink(missing_ok=True)
    command = [sys.executable, "-m", "sandbox", "down", "--dir", str(directory)]
    done = subprocess.run(
        command, cwd=platform.PROJECT, capture_output=True, check=False, stdin=subprocess.DEVNULL,
        start_new_session=True,  # a second Ctrl-C is not for it
    )  # fmt: skip
    return done.returncode == 0


def alive(directory: Path) -> bool:
    return call(directory, "GET", "/sandbox/status") is not None


def call(directory: Path, method: str, path: str, document: Any = None) -> Any:
    """One request to the sandbox's own interface; None when it does not answer."""
    try:
        url = json.loads((directory / "address.json").read_text())["url"]
    except (FileNotFoundError, ValueError):
        return None
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        with contextlib.suppress(ValueError, TypeError, KeyError):
            said = json.loads(said)["message"]
        raise SandboxProblem(f"the sandbox said {error.code}: {said}") from None
    except (urllib.error.URLError, OSError):
        return None


def reachable(directory: Path, method: str, path: str, document: Any = None) -> Any:
    answer = call(directory, method, path, document)
    if answer is None:
        raise SandboxProblem(f"no sandbox answers in {directory}. Start one: als sandbox up --dir {directory}")
    return answer


folder = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), default=None, help="its folder [ALS_STATE/sandbox]"
)


@click.group()
def sandbox() -> None:
    """All facilities on loopback, speaking the real protocols, really moving files and running jobs."""


@sandbox.command("up")
@folder
@click.option("--port", default=0, help="0: a free one, or that of the last time")
@click.option("--slurm", is_flag=True, help="run jobs through a real Slurm that it starts for itself, until `down`")
@click.option("--json", "as_json", is_flag=True, help="print the address as JSON")
def up_verb(directory: Path | None, port: int, slurm: bool, as_json: bool) -> None:
    """Start it, and print what to put into the environment.

    Jobs are local processes unless --slurm is given, which needs Slurm's programs (Debian: slurm-wlm). It never uses a
    Slurm that it finds. Without munge it believes whoever asks: not on a machine that you share with others.

    \b
    Example:  eval "$(als sandbox up)"
    """
    variables = up(directory or default_dir(), port, slurm)
    if as_json:
        shown = {k: v for k, v in variables.items() if "SECRET" not in k and "PASSWORD" not in k}
        platform.print_json({"schema": "als-sandbox/1", "environment": shown})
        return
    import shlex

    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@sandbox.command("down")
@folder
def down_verb(directory: Path | None) -> None:
    """End it, with every transfer and job. Its state stays for the next `up`.

    \b
    Example:  als sandbox down
    """
    if not down(directory or default_dir()):
        raise SandboxProblem(
            f"no sandbox was up in {directory or default_dir()}, or something of it could not be ended"
        )


@sandbox.command("status")
@folder
def status_verb(directory: Path | None) -> None:
    """Print address, requests by route, effective executions and faults, as JSON.

    \b
    Example:  als sandbox status
    """
    platform.print_json(reachable(directory or default_dir(), "GET", "/sandbox/status"))


@sandbox.command("reset")
@folder
def reset_verb(directory: Path | None) -> None:
    """Forget everything but the credentials: files, tasks, jobs, catalogue, faults.

    \b
    Example:  als sandbox reset
    """
    where = directory or default_dir()
    reachable(where, "POST", "/sandbox/reset")
    furnish(where, environment(where))
    click.echo("the sandbox is as on its first day")


@sandbox.group("fault")
def fault() -> None:
    """Faults that the facilities show: before a request takes effect, or after (done, but the answer is lost)."""


@fault.command("add")
@folder
@click.argument("service", type=click.Choice(SERVICES))
@click.argument("kind")
@click.option("--route", help="'POST /v0.10/transfer', with * and ?")
@click.option("--path", help="a file's path or a job's name, with * and ?")
@click.option("--when", type=click.Choice(["before", "after"]), default="before", show_default=True)
@click.option("--count", default=1, show_default=True, help="how often; -1 until cleared")
@click.option("--delay", type=float, help="seconds")
@click.option("--set", "more", multiple=True, metavar="NAME=VALUE", help="what the kind wants besides: code=503")
def add(directory: Path | None, service: str, kind: str, more: tuple[str, ...], **options: Any) -> None:
    """Add a fault. KIND for every service but hpss: status, 429, timeout, drop, slow, die; others are of one service
    (sandbox/faults.py, and the module of the service). One that the service does not have is refused, with all it has.

    \b
    Example:  als sandbox fault add sfapi status --route 'POST */compute/jobs/*' --when after --set code=502
    """
    document = {"service": service, "kind": kind, **{k: v for k, v in options.items() if v is not None}}
    for pair in more:
        name, _, value = pair.partition("=")
        document[name] = int(value) if value.lstrip("-").isdigit() else value
    platform.print_json(reachable(directory or default_dir(), "POST", "/sandbox/faults", document))


@fault.command("list")
@folder
def list_faults(directory: Path | None) -> None:
    """Print the faults as JSON; `left` counts down.

    \b
    Example:  als sandbox fault list
    """
    platform.print_json(reachable(directory or default_dir(), "GET", "/sandbox/faults"))


@fault.command("clear")
@folder
def clear(directory: Path | None) -> None:
    """Remove all faults.

    \b
    Example:  als sandbox fault clear
    """
    reachable(directory or default_dir(), "DELETE", "/sandbox/faults")
    click.echo("no faults are left")
