"""Places as the platform sees them: which files are where. Asked through the Globus view; mounts are not needed.

An empty or missing listing counts only when the service answered healthily (`resources.globus` raises otherwise).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from resources.errors import NotFound, Refused
from resources.facilities import Place
from resources.ledger.scans import Listed

MOST_ENTRIES = 1_000_000


def joined(*parts: str) -> str:
    """Folders and a relative path with exactly one slash between them."""
    first, *rest = [part for part in parts if part] or [""]
    out = first
    for part in rest:
        out = out.rstrip("/") + "/" + part.lstrip("/")
    return out


@dataclass(frozen=True)
class Walked:
    """Something below a place: a file, or why it was left out. `path` is relative to the place."""

    path: str
    file: Listed | None = None
    left_out: str | None = None
    folder: bool = False


class Storage:
    """The files of one place.

    Args:
        globus: the Globus Transfer resource.
        name: how the place is called in messages, "bl7011/dtn".
        place: the entry of the facility file; it must have a Globus view.
    """

    def __init__(self, globus: Any, name: str, place: Place) -> None:
        if place.globus is None:
            raise Refused("storage", f"the place {name} has no Globus view in the facility file")
        self.globus = globus
        self.name = name
        self.place = place
        self.collection = place.globus.collection
        self.base = place.globus.base

    def absolute(self, path: str) -> str:
        """The path on the collection of a path relative to the place."""
        return joined(self.base, path)

    def walk(self, max_depth: int) -> Iterator[Walked]:
        """Every file below the place, hidden entries apart. Left out are links, which are never followed, what is too
        deep, and names with a '/', which a service may use to lead outside.

        Raises Unavailable when any part cannot be listed (what was seen until then stands), NotFound when the place
        itself is not there.
        """
        folders = [("", 0)]
        count = 0
        while folders:
            folder, depth = folders.pop()
            try:
                entries = self.globus.ls(self.collection, self.absolute(folder))
            except NotFound:
                if not folder:
                    raise
                continue  # the folder went away between two listings
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                count += 1
                if count > MOST_ENTRIES:
                    yield Walked(path, left_out=f"there are more than {MOST_ENTRIES} entries", folder=True)
                    return
                if not entry.name or entry.name.startswith("."):
                    continue
                if "/" in entry.name:
                    yield Walked(path, left_out="the name has a '/'", folder=entry.type == "dir")
                elif entry.type == "dir" and depth < max_depth:
                    folders.append((path, depth + 1))
                elif entry.type == "dir":
                    yield Walked(path, left_out=f"the folder is deeper than {max_depth}", folder=True)
                elif entry.type == "file":
                    yield Walked(path, Listed(path, entry.bytes, entry.mtime))
                else:
                    link = entry.type == "link"
                    why = "it is a link, and links are not followed" if link else "it is neither a file nor a folder"
                    yield Walked(path, left_out=why)

    def sizes(self, paths: Collection[str]) -> dict[str, Listed]:
        """What is there of these paths (relative to the place); one listing per folder, missing ones are left out."""
        wanted = set(paths)
        out: dict[str, Listed] = {}
        for folder in sorted({path.rpartition("/")[0] for path in wanted}):
            try:
                entries = self.globus.ls(self.collection, self.absolute(folder))
            except NotFound:
                continue
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if path in wanted:
                    out[path] = Listed(path, entry.bytes if entry.type == "file" else -1, entry.mtime)
        return out
