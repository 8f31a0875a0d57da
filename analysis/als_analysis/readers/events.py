"""Frames as lists of events, (pixel, count): what nearly empty frames come down to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Events:
    """Events of some frames: of frame t, `pixel` (i32, flat, ascending) and `count` from starts[t] to starts[t + 1].

    `sums` of each frame over the used pixels, where they came with the events.
    """

    starts: NDArray[np.int64]
    pixel: NDArray[np.int32]
    count: NDArray[Any]
    sums: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def frame(self, t: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Pixels and counts of one frame."""
        part = slice(self.starts[t], self.starts[t + 1])
        return self.pixel[part], self.count[part]


def of_frames(frames: list[tuple[NDArray[np.int32], NDArray[Any]]], dtype: np.dtype[Any]) -> Events:
    """Events from each frame's pixels and counts, in any order of the pixels."""
    ordered = []
    for pixel, count in frames:
        if len(pixel) > 1 and (np.diff(pixel) < 0).any():
            order = np.argsort(pixel, kind="stable")
            pixel, count = pixel[order], count[order]
        ordered.append((pixel, count))
    starts = np.concatenate([[0], np.cumsum([len(pixel) for pixel, _ in ordered])]).astype(np.int64)
    if not ordered:
        return Events(starts, np.empty(0, dtype=np.int32), np.empty(0, dtype=dtype))
    return Events(starts, np.concatenate([f[0] for f in ordered]), np.concatenate([f[1] for f in ordered]))
