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
    first, *rest = [part for part in parts if part]
    out = first
    for part in rest:
        out = out.rstrip("/") + "/" + part.lstrip("/")
    return out


@dataclass(frozen=True)
class Walked:
    """A file below a place (its path relative to it), or why something there was left out."""

    file: Listed | None
    left_out: str | None = None
    path: str = ""


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
        """Every file below the place. Links are not followed; hidden entries and what is too deep are left out.

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
                    yield Walked(None, f"more than {MOST_ENTRIES} entries", path)
                    return
                if entry.name.startswith("."):
                    continue
                if entry.type == "dir":
                    if depth < max_depth:
                        folders.append((path, depth + 1))
                    else:
                        yield Walked(None, f"deeper than {max_depth} folders", path)
                elif entry.type == "file":
                    yield Walked(Listed(path, entry.bytes, entry.mtime), None, path)

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
