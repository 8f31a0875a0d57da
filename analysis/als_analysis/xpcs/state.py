"""The lags of the multi-tau scheme, and what is known of tiles of pixels after some frames; see `multitau`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DELAYS_PER_LEVEL = 4
_REACH = 2 * DELAYS_PER_LEVEL  # the longest lag inside a level
LANES = 64  # pixels in a tile
SUMMED_LEVEL = 3  # of which the samples are summed (or of the last level, where there are fewer)

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Lags:
    """The lags that `frames` frames allow: per lag its level, step inside the level, delay in frames, pairs."""

    level: NDArray[np.int64]
    step: NDArray[np.int64]
    delay: NDArray[np.int64]
    pairs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.delay)

    @property
    def levels(self) -> int:
        return int(self.level[-1]) + 1


def lags_for(frames: int) -> Lags:
    """The multi-tau lags for a number of frames (at least 2); each lag has a pair of samples, beyond level 0 two."""
    rows = []
    level = 0
    while (samples := frames >> level) > (0 if level == 0 else DELAYS_PER_LEVEL):
        for step in range(1 if level == 0 else DELAYS_PER_LEVEL + 1, _REACH + 1):
            if samples - step >= (1 if level == 0 else 2):
                rows.append((level, step, step << level, samples - step))
        level += 1
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Lags(table[:, 0], table[:, 1], table[:, 2], table[:, 3])


@dataclass
class State:
    """All that a correlator knows of the frames so far; see `kernels`. `seen` is the number of samples per level."""

    sums: F64
    recent: NDArray[np.float32]
    first: NDArray[np.float32]
    total: F64
    frames: int = 0

    @staticmethod
    def rows(levels: int) -> int:
        """How many lags are summed."""
        return _REACH + DELAYS_PER_LEVEL * (levels - 1)

    @classmethod
    def empty(cls, tiles: int, levels: int) -> State:
        lags = cls.rows(levels)
        return cls(
            np.zeros((tiles, lags, LANES)),
            np.zeros((tiles, levels, _REACH, LANES), dtype=np.float32),
            np.zeros((tiles, levels, _REACH, LANES), dtype=np.float32),
            np.zeros((tiles, LANES)),
        )

    @staticmethod
    def nbytes(tiles: int, levels: int) -> int:
        """Bytes that a state takes."""
        lags = State.rows(levels)
        return tiles * LANES * (8 * lags + 8 + levels * 2 * 4 * _REACH)

    @property
    def seen(self) -> NDArray[np.int64]:
        return np.array([self.frames >> level for level in range(self.recent.shape[1])], dtype=np.int64)

    def cleared(self, tiles: int) -> State:
        """An empty state of the first `tiles` tiles, in this one's memory."""
        state = State(self.sums[:tiles], self.recent[:tiles], self.first[:tiles], self.total[:tiles])
        for array in (state.sums, state.recent, state.first, state.total):
            array[...] = 0.0
        return state


@dataclass
class Mark:
    """What a later difference needs of a state: `sums` and `past` (T, lags, 64) f32, and the totals."""

    sums: NDArray[np.float32]
    past: NDArray[np.float32]
    newest: NDArray[np.float32]
    total: F64
    frames: int = 0

    @classmethod
    def empty(cls, tiles: int, lags: int, levels: int) -> Mark:
        sums, past = (np.zeros((tiles, lags, LANES), dtype=np.float32) for _ in range(2))
        return cls(sums, past, np.zeros((tiles, levels, LANES), dtype=np.float32), np.zeros((tiles, LANES)))

    @staticmethod
    def nbytes(tiles: int, levels: int) -> int:
        """Bytes that a mark takes."""
        lags = State.rows(levels)
        return tiles * LANES * (2 * 4 * lags + 8 + 4 * levels)

    @property
    def seen(self) -> NDArray[np.int64]:
        return np.array([self.frames >> level for level in range(self.newest.shape[1])], dtype=np.int64)
