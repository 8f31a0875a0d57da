"""`als simulate`: scans of a beamline as its detector would write them, with a known answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from als import platform
from beamlines.policy.names import key_of

PROGRAM = "als-xpcs"


def programs() -> Path:
    """Where the programs of als-analysis are: beside this Python."""
    found = Path(sys.executable).parent / PROGRAM
    if not found.exists():
        raise click.ClickException(f"{found} is not there: install als-analysis (make does, or pip install ./analysis)")
    return found.parent


def one(root: Path, name: str, size: str, seed: int, truths: Path | None, over_seconds: float = 0.0) -> dict[str, Any]:
    """Write one scan with its ROI; returns {"path", "key", "truth"}.

    The files are written under a name that no beamline watches and renamed when whole, unless `over_seconds` asks for
    a detector that takes its time.
    """
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    roi = target.with_name(f"{target.stem}_roi.h5")
    hidden = target.with_name(f".{target.name}") if not over_seconds else target
    command = [str(programs() / PROGRAM), "simulate", str(hidden), "--size", size, "--seed", str(seed)]
    command += ["--roi-out", str(roi.with_name(f".{roi.name}") if not over_seconds else roi)]
    if over_seconds:
        command += ["--over-seconds", str(over_seconds)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise click.ClickException(f"{PROGRAM} simulate {target}: {ended.stderr.strip() or ended.returncode}")
    truth = json.loads(ended.stdout)
    if not over_seconds:
        roi.with_name(f".{roi.name}").rename(roi)
        hidden.rename(target)
    if truths is not None:
        path = truths / f"{key_of(name)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(truth))
    return {"path": name, "key": key_of(name), "truth": truth["values"]}


def names(count: int, moment: datetime) -> list[str]:
    """Names as a beamline gives them: a folder per day, the time and a number."""
    return [f"{moment:%Y/%m/%d}/sim_{moment:%H%M%S}_{i:04d}.h5" for i in range(1, count + 1)]


def write(
    root: Path, count: int, size: str, seed: int, truths: Path | None = None, over_seconds: float = 0.0
) -> list[dict[str, Any]]:
    """Write `count` scans below `root`, two at a time."""
    wanted = names(count, datetime.now(UTC))
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(one, root, name, size, seed + i, truths, over_seconds) for i, name in enumerate(wanted)]
        return [future.result() for future in futures]


def copies(root: Path, count: int, seed: int) -> list[str]:
    """A burst: `count` scans with the bytes of one tiny simulated scan each, written within moments."""
    first = one(root.parent / f".{root.name}.burst", "burst.h5", "tiny", seed, None)
    source = root.parent / f".{root.name}.burst" / first["path"]
    wanted = [f"{datetime.now(UTC):%Y/%m/%d}/burst_{datetime.now(UTC):%H%M%S}_{i:04d}.h5" for i in range(1, count + 1)]
    for name in wanted:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.with_name("burst_roi.h5"), target.with_name(f"{target.stem}_roi.h5"))
        shutil.copyfile(source, target)
    return wanted


@click.command()
@click.argument("beamline")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder to write to, as the detector would")
@click.option("--scans", type=click.IntRange(1), default=1, show_default=True)
@click.option("--size", type=click.Choice(["tiny", "small", "large"]), default="tiny", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--over-seconds", type=click.FloatRange(0), default=0.0, help="write each file in pieces, as slowly as this"
)
@click.option("--truth", type=click.Path(path_type=Path), help="folder for the known answers, one JSON per scan")
@click.option("--json", "as_json", is_flag=True, help="print what was written as one JSON document")
def simulate(
    beamline: str, out: Path, scans: int, size: str, seed: int, over_seconds: float, truth: Path | None, as_json: bool
) -> None:
    """Write simulated scans with a known answer.

    \b
    Example:  als simulate bl7011 --out /data/bl7011 --scans 5
    """
    spec = platform.spec_of(beamline)
    if not any(analysis.program == "xpcs" for analysis in spec.analyses):
        raise click.ClickException(f"{beamline} has no XPCS analysis, and nothing else can be simulated yet")
    try:
        written = write(out, scans, size, seed, truth, over_seconds)
    except OSError as error:
        raise click.ClickException(f"{error.filename or out} cannot be written: {error.strerror}") from None
    if as_json:
        platform.print_json({"schema": "als-simulate/1", "beamline": beamline, "out": str(out), "scans": written})
    else:
        for scan in written:
            click.echo(out / scan["path"])
