"""Globus collections of the sandbox: directories below the folder, and what keeps a path inside them.

Which there are is data: DIR/collections.json, {"<id>": {"name", "root", "read_only"}}, the root relative to the folder;
without that file, the two of `DEFAULTS`. No path, by `..` or by a link, leads out of a collection.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from sandbox.box import Box

ALS_DTN = "a15d0000-0000-4000-8000-00000000d7a0"
NERSC_CFS = "0e25c000-0000-4000-8000-000000000cf5"
DEFAULTS = {
    ALS_DTN: {"name": "als-dtn", "root": "als/dtn"},
    NERSC_CFS: {"name": "nersc-cfs", "root": "nersc/cfs"},
}


class OutsideRoot(PermissionError):
    """A path that leads out of its collection."""


@dataclass(frozen=True)
class Collection:
    """id: its UUID. name: what people see. root: a directory of this machine. read_only: nothing may be written."""

    id: str
    name: str
    root: Path
    read_only: bool = False

    def locate(self, path: str, follow: bool = True) -> Path:
        """The place on this machine of a collection's path ("/a/b", "/~/a/b", "a/b").

        The last part is followed when it is a link, unless `follow` is false. Raises OutsideRoot.
        """
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if parts and parts[0] == "~":
            parts = parts[1:]
        if ".." in parts:
            raise OutsideRoot(f"Path not allowed: {path}")
        place = self.root.joinpath(*(from_wire(part) for part in parts))
        real = place.resolve() if follow or not parts else place.parent.resolve() / place.name
        if not real.is_relative_to(self.root.resolve()):
            raise OutsideRoot(f"Path not allowed: {path}")
        return real


def setup(box: Box) -> dict[str, Collection]:
    """Make the roots. {id: Collection}."""
    found = collections(box)
    for collection in found.values():
        collection.root.mkdir(parents=True, exist_ok=True)
    return found


def collections(box: Box) -> dict[str, Collection]:
    try:
        named = json.loads((box.dir / "collections.json").read_text())
    except FileNotFoundError:
        named = DEFAULTS
    return {
        key: Collection(key, str(one["name"]), box.dir / str(one["root"]), bool(one.get("read_only")))
        for key, one in named.items()
    }


def to_wire(name: str) -> str:
    """A file name as the service shows it. Bytes that are no UTF-8 come as latin-1 behind U+FFFD, as at Globus."""
    raw = os.fsencode(name)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "\ufffd" + raw.decode("latin-1")


def from_wire(name: str) -> str:
    return os.fsdecode(name[1:].encode("latin-1", "replace")) if name.startswith("\ufffd") else name
