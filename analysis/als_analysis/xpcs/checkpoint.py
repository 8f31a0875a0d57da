"""What a preempted multi-tau run leaves behind, and goes on from: its whole state after a block of frames.

The same command finds `<result>.checkpoint` and continues with the next block. It is only taken for the same raw file
(path, size, time), q-map, options and blocks, so that the result has the same bits as an undisturbed run; another one
is left alone until this run has its result.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.atomic import written_beside
from als_analysis.failure import OutputError

Arrays = dict[str, NDArray[Any]]


class Checkpoint:
    """The checkpoint of one result file; `identity` is what must be equal for it to be taken."""

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.path = out.with_name(out.name + ".checkpoint")
        self._identity = json.dumps(identity, sort_keys=True, default=str)

    def save(self, arrays: Arrays) -> None:
        """Write it, whole or not at all; raises `OutputError`."""
        with written_beside(self.path) as beside, beside.open("wb") as file:
            everything: dict[str, Any] = {"identity": np.array(self._identity), **arrays}
            np.savez(file, **everything)

    def load(self) -> Arrays | None:
        """The arrays of a checkpoint of this very run, or None; one that does not fit is named on stderr."""
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                if str(stored["identity"]) != self._identity:
                    print(f"als-xpcs: {self.path}: of another run, not used", file=sys.stderr)
                    return None
                return {name: stored[name] for name in stored.files if name != "identity"}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            print(f"als-xpcs: {self.path}: unreadable, not used: {error}", file=sys.stderr)
            return None

    def remove(self) -> None:
        """Once the result is there nobody needs it."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be removed: {error}") from error
