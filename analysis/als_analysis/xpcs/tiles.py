"""The used pixels, arranged in tiles of 64 lanes: windows of the frame, or pixels gathered from anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from als_analysis.xpcs.state import LANES

_MOST_WASTE = 1.5  # lanes per used pixel, above which pixels are gathered into dense tiles


@dataclass(frozen=True)
class Pixels:
    """The used pixels and their bins, arranged in tiles of 64 lanes.

    `used` flat pixel indices, `static` and `dynamic` their bins from 0. Tiles are windows of the frame where that
    wastes little, and gathered pixels elsewhere: `starts` (T,) or `gathered` (T, 64), -1 for an empty lane.
    """

    size: int
    used: NDArray[np.int64]
    static: NDArray[np.int64]
    dynamic: NDArray[np.int64]
    starts: NDArray[np.int64]
    gathered: NDArray[np.int64] | None
    static_of_lane: NDArray[np.int64]  # (T, 64), -1 unused
    dynamic_of_lane: NDArray[np.int64]
    runs: NDArray[np.int64]  # (m, 2): the used pixels as from, to

    @property
    def tiles(self) -> int:
        return len(self.static_of_lane)

    @property
    def bins(self) -> tuple[int, int]:
        """How many static and dynamic bins there are."""
        return int(self.static.max()) + 1, int(self.dynamic.max()) + 1

    @property
    def used_bits(self) -> NDArray[np.uint64]:
        """A bit for each pixel of the frame, the lowest of a word first: whether it is used."""
        bits = np.zeros(-(-self.size // 64) * 64, dtype=np.uint8)
        bits[self.used] = 1
        return np.packbits(bits, bitorder="little").view(np.uint64)

    @property
    def lane_of_used(self) -> NDArray[np.int64]:
        """For each used pixel its place in arrays of shape (T, 64), flattened."""
        if self.gathered is not None:
            return np.arange(len(self.used), dtype=np.int64)
        tile = np.searchsorted(self.starts, self.used, side="right") - 1
        return np.asarray(tile * LANES + self.used - self.starts[tile], dtype=np.int64)


def arrange(
    size: int, used: NDArray[np.int64], static: NDArray[np.int64], dynamic: NDArray[np.int64], windows: bool = False
) -> Pixels:
    """Arrange `used` (ascending flat indices into a frame of `size` pixels) with their bins into tiles.

    `windows`: never gathered, however few pixels of a window are used.
    """
    window = used // LANES
    tile = np.cumsum(np.diff(window, prepend=window[:1]) != 0)
    starts = window[np.flatnonzero(np.diff(tile, prepend=-1))] * LANES
    gathered: NDArray[np.int64] | None = None
    if not windows and len(starts) * LANES > _MOST_WASTE * len(used) + LANES:
        tiles = -(-len(used) // LANES)
        gathered = np.full(tiles * LANES, -1, dtype=np.int64)
        gathered[: len(used)] = used
        gathered = gathered.reshape(tiles, LANES)
        starts = np.zeros(tiles, dtype=np.int64)
        lanes = np.arange(len(used))
    else:
        lanes = tile * LANES + used - starts[tile]
    of_lane = np.full((2, len(starts) * LANES), -1, dtype=np.int64)
    of_lane[0, lanes], of_lane[1, lanes] = static, dynamic
    breaks = np.flatnonzero(np.diff(used) != 1)
    runs = np.stack(
        [used[np.concatenate([[0], breaks + 1])], used[np.concatenate([breaks, [len(used) - 1]])] + 1], axis=1
    )
    return Pixels(
        size,
        used,
        static,
        dynamic,
        starts,
        gathered,
        of_lane[0].reshape(-1, LANES),
        of_lane[1].reshape(-1, LANES),
        runs,
    )
