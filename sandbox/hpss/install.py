"""Puts `hsi` and `htar` into DIR/nersc/bin."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from sandbox.box import Box

ROOT = Path(__file__).resolve().parents[2]

# Isolated and without site-packages: jobs call these often, and a file named json.py in a job's directory is no module.
SCRIPT = """#!/bin/sh
exec {python} -I -S -c 'import sys; sys.path.insert(0, sys.argv[1])
from sandbox.hpss.{tool} import main
sys.exit(main(sys.argv[2], sys.argv[3:]))' {root} {directory} "$@"
"""


def bin_directory(box: Box) -> Path:
    return box.dir / "nersc" / "bin"


def install(box: Box) -> None:
    """Write both executables, in one step each, and make the user's home on tape. May be called again at any time."""
    directory = bin_directory(box)
    directory.mkdir(parents=True, exist_ok=True)
    (box.dir / "nersc" / "hpss" / "home" / "a" / "als").mkdir(parents=True, exist_ok=True)
    for tool in ("hsi", "htar"):
        text = SCRIPT.format(
            tool=tool,
            python=shlex.quote(sys.executable),
            root=shlex.quote(str(ROOT)),
            directory=shlex.quote(str(box.dir)),
        )
        fresh = directory / f".{tool}.new"
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(directory / tool)
