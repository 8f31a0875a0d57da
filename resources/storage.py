"""Places as the platform sees them: which files are where. Asked through the Globus view; mounts are not needed.

An empty or missing listing counts only when the service answered healthily (`resources.globus` raises otherwise), and,
in a place in which copies may be deleted, only when the place's sentinel is there: an empty file at its root, whose
name says which beamline and which place this is. It catches the wrong disk, and the unmounted one that lists as empty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from resources.errors import NotFound, Refused, Unavailable
from resources.facilities import Place
from resources.ledger.scans import Listed

MOST_ENTRIES = 1_000_000
SENTINEL = ".als-place"


def joined(*parts: str) -> str:
    """Folders and a relative path with exactly one slash between them."""
    first, *rest = [part for part in parts if part] or [""]
    out = first
    for part in rest:
        out = out.rstrip("/") + "/" + part.lstrip("/")
    return out


def sentinel_of(place: str) -> str:
    """The sentinel's name in the root of a place: "bl7011/dtn" → ".als-place.bl7011.dtn"."""
    return f"{SENTINEL}.{place.replace('/', '.')}"


class WrongPlace(Unavailable):
    """What lies at the address of a place does not say that it is this place: nothing is concluded from what it
    lists, and nothing in it is touched. Its `service` is the place, so that no pause of it holds up any other."""


@dataclass(frozen=True)
class Walked:
    """Something below a place: a file, or why it was left out. `path` is relative to the place."""

    path: str
    file: Listed | None = None
    left_out: str | None = None
    folder: bool = False


@dataclass
class Found:
    """What is there of some paths, all relative to the place. closed: folder → why it may not be looked into."""

    files: dict[str, Listed] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)


class Storage:
    """The files of one place.

    Args:
        globus: the Globus Transfer resource.
        name: how the place is called in messages, "bl7011/dtn".
        place: the entry of the facility file; it must have a Globus view.
        prunable: copies in it may be deleted, so that it needs its sentinel, and a base other than "/".
    """

    def __init__(self, globus: Any, name: str, place: Place, prunable: bool = False) -> None:
        if place.globus is None:
            raise Refused("storage", f"the place {name} has no Globus view in the facility file")
        if prunable and not place.globus.base.strip("/"):
            raise Refused("storage", no_base(name))
        self.globus = globus
        self.name = name
        self.place = place
        self.prunable = prunable
        self.collection = place.globus.collection
        self.base = place.globus.base

    def absolute(self, path: str) -> str:
        """The path on the collection of a path relative to the place."""
        return joined(self.base, path)

    def confirm(self, root: Sequence[Any] | None = None) -> Sequence[Any]:
        """Is this the place that it should be? Raises WrongPlace when its sentinel is missing or names another one.
        Nothing is asked of a place in which nothing may be deleted. `root`: the listing of its root, if there is one;
        returns it.
        """
        if not self.prunable:
            return root or ()
        try:
            entries: Sequence[Any] = self.globus.ls(self.collection, self.base) if root is None else root
        except NotFound as error:
            raise self._wrong(f"its folder {self.base} is not there: {error.reason}") from error
        mine = sentinel_of(self.name)
        found = sorted(entry.name for entry in entries if entry.name.startswith(f"{SENTINEL}."))
        if found == [mine] and all(entry.type == "file" for entry in entries if entry.name == mine):
            return entries
        others = [name for name in found if name != mine]
        raise self._wrong(f"its root has the sentinel {others[0]}" if others else f"its root has no file {mine}")

    def _wrong(self, seen: str) -> WrongPlace:
        return WrongPlace(
            self.name,
            f"{self.name} is not what answers at its address: {seen}. Nothing is concluded from what is listed there. "
            "What to do: see whether its disk is mounted, and the right one; if it is new or empty on purpose, make an "
            f"empty file {sentinel_of(self.name)} in {self.base} (docs/pruning.md)",
            "SENTINEL",
        )

    def walk(self, max_depth: int) -> Iterator[Walked]:
        """Every file below the place, hidden entries apart. Left out are links, which are never followed, what is too
        deep, and names with a '/', which a service may use to lead outside.

        Raises Unavailable when any part cannot be listed (what was seen until then stands), WrongPlace when it is not
        this place (before anything was seen), NotFound when the place itself is not there.
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
            if not folder:
                self.confirm(entries)
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

    def look(self, paths: Collection[str]) -> Found:
        """What is there of these paths (relative to the place); one listing per folder, missing ones are left out, and
        what is no file has -1 bytes. Raises Unavailable, and WrongPlace when it is not this place."""
        wanted = set(paths)
        out = Found()
        known: dict[str, dict[str, Any]] = {}
        if self.prunable:
            known[""] = {entry.name: entry for entry in self.confirm()}
        for folder in sorted({path.rpartition("/")[0] for path in wanted}):
            try:
                entries = self._listed(folder, known)
            except Refused as error:
                out.closed[folder] = error.reason
                continue
            for name, entry in entries.items():
                path = f"{folder}/{name}" if folder else name
                if path in wanted:
                    out.files[path] = Listed(path, entry.bytes if entry.type == "file" else -1, entry.mtime)
        return out

    def _listed(self, folder: str, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Name → entry of a folder; {} when it is not there. `known`: what has been listed for the same look.

        Where copies may be deleted, no folder above may be a link: a file that a link leads to is not in this place.
        """
        if folder in known:
            return known[folder]
        if self.prunable:
            above, _, name = folder.rpartition("/")
            entry = self._listed(above, known).get(name)
            if entry is None:
                return known.setdefault(folder, {})
            if entry.type != "dir":
                raise Refused(
                    self.globus.service, f"{self.absolute(folder)} is a {entry.type}, and links are not followed"
                )
        try:
            entries = self.globus.ls(self.collection, self.absolute(folder))
        except NotFound:
            entries = []
        return known.setdefault(folder, {entry.name: entry for entry in entries})

    def sizes(self, paths: Collection[str]) -> dict[str, Listed]:
        """The same, where every folder may be looked into. Raises Refused when one may not."""
        found = self.look(paths)
        for reason in found.closed.values():
            raise Refused(self.globus.service, reason)
        return found.files


def no_base(name: str) -> str:
    return (
        f"copies in {name} may be deleted by the beamline's spec, and its base is '/'. What to do: name the folder of "
        "this beamline as its base in the facility file, or take it out of prunes: in defs.yaml"
    )
