"""The two-time maps of a run that was stopped: `<result>.checkpoint.maps`, from which the same command goes on.

It is the unfinished result file itself, with the whole maps that it has, so that a stop costs no time. The next run
copies them as they are encoded and computes the bins that are missing: each bin's map is the same whatever was computed
before it. A bin under way is lost. It is only taken for the same raw file, q-map, options and number of threads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import OutputError, RawFileError
from als_analysis.readers.hdf5 import open_hdf5

F64 = NDArray[np.float64]
MAPS = "/xpcs/twotime/correlation_map"
_NOTE = "/checkpoint"


class KeptMaps:
    """The maps that are kept for one result file; `identity` is what must be equal for them to be taken."""

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.path = out.with_name(out.name + ".checkpoint.maps")
        self._identity = json.dumps(identity, sort_keys=True, default=str)
        self.bins, self.g2, self.segments = self._read()

    def _read(self) -> tuple[list[int], list[F64], list[F64]]:
        if not self.path.exists():
            return [], [], []
        try:
            with open_hdf5(self.path) as file:
                if file[_NOTE].attrs["identity"] != self._identity:
                    print(f"als-xpcs: {self.path}: of another run, not used", file=sys.stderr)
                    return [], [], []
                note = file[_NOTE]
                return [int(b) for b in note["bins"]], list(note["g2"][()]), list(note["segments"][()])
        except (RawFileError, KeyError, OSError) as error:
            print(f"als-xpcs: {self.path}: unreadable, not used: {error}", file=sys.stderr)
            return [], [], []

    def copy_into(self, file: Any) -> None:
        """Copy the maps into a result file that is being written; raises `RawFileError`."""
        if not self.bins:
            return
        with open_hdf5(self.path) as kept:
            try:
                kept.copy(kept[MAPS], file, name=MAPS)
            except (KeyError, OSError, RuntimeError) as error:
                raise RawFileError(f"{self.path}: damaged; remove it to start again: {error}") from error

    def note(self, file: Any, bins: list[int], g2: list[F64], segments: list[F64]) -> None:
        """Write into an unfinished result file what its maps are."""
        self.bins = bins
        group = file.create_group(_NOTE)
        group.attrs["identity"] = self._identity
        group["bins"], group["g2"], group["segments"] = np.array(bins), np.array(g2), np.array(segments)

    def keep(self, unfinished: Path) -> None:
        """Keep an unfinished result file, closed by now, if a map in it is whole; raises `OutputError`."""
        if not self.bins:
            return
        try:
            unfinished.replace(self.path)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error}") from error

    def remove(self) -> None:
        """Once the result is there nobody needs them."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be removed: {error}") from error
