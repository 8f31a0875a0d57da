"""The trash of a place: where the files of a copy wait before they are deleted, and from where they come back.

A file is moved by a rename within its place, to `<root>/.als-trash/<date>/<hash of the scan>-<time>/<its path>`: no
byte is copied. Where a file is, under its own name or in the trash, is always looked up and never remembered, so that a
rename whose answer was lost, or a run that was killed between two of them, needs no repair.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from als_assets.pruning.facts import Case
from beamlines.policy.deletable import File, Look, Seen
from resources.errors import Refused, Unavailable
from resources.ledger.removals import Removal
from resources.ledger.scans import Listed
from resources.storage import Found, Storage, joined, sentinel_of

TRASH = ".als-trash"


def folder_for(case: Case, now: datetime) -> str:
    """The folder of a removal that begins now, relative to the place. It is never used again: whatever a forgotten task
    may still delete, it is not what is moved to the trash later."""
    return f"{TRASH}/{now:%Y-%m-%d}/{case.scan.hash}-{now:%H%M%S}"


@dataclass(frozen=True)
class Spot:
    """Where a file is. name, trash: its two paths relative to the place; there, trashed: what is at each, or None."""

    file: File
    name: str
    trash: str
    there: Listed | None
    trashed: Listed | None

    def is_it(self, listed: Listed | None) -> bool:
        """Is this the file that was recorded?"""
        return listed is not None and (listed.bytes, listed.mtime) == (self.file.bytes, self.file.mtime)

    @property
    def at_its_name(self) -> bool:
        return self.is_it(self.there) and not self.is_it(self.trashed)

    @property
    def free_to_go(self) -> bool:
        """It is at its name, and its name in the trash is free."""
        return self.is_it(self.there) and self.trashed is None

    @property
    def in_trash(self) -> bool:
        return self.is_it(self.trashed) and self.there is None


class Trash:
    """The trash of one place, through its Globus view. Raises FacilityErrors of `resources.errors`."""

    def __init__(self, at: Storage) -> None:
        self.at = at
        self.globus: Any = at.globus
        self._made: set[str] = set()

    def find(self, pairs: Sequence[tuple[Removal, Case]]) -> dict[int, list[Spot]]:
        """removal id → where each of its files is. Left out is what lies in a folder that may not be looked into."""
        return self.spots({removal.id: (removal.trash, case) for removal, case in pairs})

    def spots(self, wanted: Mapping[int, tuple[str, Case]]) -> dict[int, list[Spot]]:
        """The same for anything that is, or would be, in a folder of the trash: id → (that folder, case)."""
        names = {
            i: [(file, case.names[file.path], joined(folder, file.path)) for file in case.facts.files]
            for i, (folder, case) in wanted.items()
        }
        paths = {path for group in names.values() for _, name, trash in group for path in (name, trash)}
        found = self.at.look(paths) if paths else Found()
        shut = found.closed
        return {
            i: [Spot(f, name, trash, found.files.get(name), found.files.get(trash)) for f, name, trash in group]
            for i, group in names.items()
            if not any(path.rpartition("/")[0] in shut for _, name, trash in group for path in (name, trash))
        }

    def of(self, removal: Removal, case: Case) -> list[Spot]:
        """Where the files of one removal are. Raises Refused when that may not be looked at."""
        found = self.find([(removal, case)])
        if removal.id not in found:
            raise Refused(
                self.globus.service, f"its folder in {self.at.name}, or in the trash there, may not be looked into"
            )
        return found[removal.id]

    def throw(self, spot: Spot) -> None:
        """Move a file to the trash."""
        self._rename(spot.name, spot.trash)

    def back(self, spot: Spot) -> None:
        """Move a file from the trash back to its name."""
        self._rename(spot.trash, spot.name)

    def _rename(self, old: str, new: str) -> None:
        self._folders(new)
        try:
            self.globus.rename(self.at.collection, self.at.absolute(old), self.at.absolute(new))
        except Unavailable:
            found = self.at.sizes([old, new])  # the answer was lost: look which of the two names is there
            if old in found or new not in found:
                raise

    def _folders(self, path: str) -> None:
        """Make the folders above a path, one after the other, below the place's root only."""
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder in self._made:
                continue
            if any(part in ("", ".", "..") for part in parts[:depth]):
                raise Refused(self.globus.service, f"{path!r} leads outside {self.at.name}")
            self.globus.mkdir(self.at.collection, self.at.absolute(folder))
            self._made.add(folder)

    def request(self, spots: Iterable[Spot], label: str, deadline_s: float) -> dict[str, Any]:
        """The delete task of these files in the trash: each is named, and nothing is recursive."""
        return {
            "kind": "delete",
            "collection": self.at.collection,
            "label": label,
            "deadline_s": deadline_s,
            "ignore_missing": True,
            "items": [{"path": self.at.absolute(spot.trash)} for spot in spots],
        }


def seen_in_trash(spots: Sequence[Spot], at: datetime) -> Look:
    return Look(at, {s.file.path: Seen(s.trashed.bytes, s.trashed.mtime) for s in spots if s.trashed is not None})


def seen_on_the_way(spots: Sequence[Spot], at: datetime) -> Look:
    """Of files that are being moved: each where it is."""
    found: dict[str, Seen] = {}
    for spot in spots:
        one = spot.trashed if spot.is_it(spot.trashed) else spot.there
        if one is not None:
            found[spot.file.path] = Seen(one.bytes, one.mtime)
    return Look(at, found)


def tidy(at: Storage, removal: Removal, names: Mapping[str, str], quiet_s: float) -> int:
    """Take away the folders that a deleted copy has left empty, where the place is mounted here: by rmdir, which takes
    nothing that is not empty. Folders of the detector only when nothing was written there for `quiet_s`. Globus cannot
    take away a folder without being allowed to take what is in it, so elsewhere they stay. Returns how many went."""
    if at.place.mount is None:
        return 0
    root = Path(at.place.mount)
    if not (root / sentinel_of(at.name)).is_file():  # the mount is not what Globus shows
        return 0
    count = 0
    for path, name in names.items():
        count += _rmdir_up(root, Path(removal.trash) / path, None)
        count += _rmdir_up(root, Path(name), time.time() - quiet_s)
    return count


def _rmdir_up(root: Path, path: Path, before: float | None) -> int:
    count = 0
    for folder in list(path.parents)[:-1]:
        full = root / folder
        with contextlib.suppress(OSError):
            inside = full.parent.resolve().is_relative_to(root.resolve()) and not full.is_symlink()
            if inside and (before is None or full.stat().st_mtime < before):
                full.rmdir()
                count += 1
                continue
        if full.exists():
            break
    return count
