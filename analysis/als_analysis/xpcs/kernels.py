"""The compiled inner loops of the multi-tau correlator. Nothing here knows of files, bins or options.

Pixels come in tiles of `LANES` neighbours, and every tile keeps its whole state side by side, so that a tile is
loaded into the cache once per block of frames. The loops run over the lanes innermost: the compiler turns them into
vector instructions, and no sum is reordered, so that results do not depend on the number of threads.

State of T tiles with L levels and K lags: `sums` (T, K, LANES) f64, `recent` and `first` (T, L, 8, LANES) f32, and
`total` (T, LANES) f64: the sum of level SUMMED_LEVEL (or of the last), from which those of the other levels follow,
each pair's mean being half its sum. A level's sample that waits for the other one of its pair is the last of `recent`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from als_analysis.compiled import compiled, compiled_part
from als_analysis.xpcs.state import SUMMED_LEVEL
from als_analysis.xpcs.vectors import LANES, REACH, add_products_1_to_8, add_products_5_to_8


@compiled_part
def add_levels(x: Any, y: Any, n: int, level: int, seen: Any, sums: Any, recent: Any, first: Any, total: Any) -> None:
    """Take n new rows of one tile through `level` and all levels above; `seen` (levels,) counts samples before.

    `x` is (9 + n, LANES) f32, the new rows from row 8 on, and `y` as large; both are overwritten. `level` 0 has 8 lags,
    each further one 4.
    """
    levels = recent.shape[0]
    while level < levels and n > 0:
        # rows are taken out of their arrays first: only so the compiler turns the loops over lanes into vectors
        for row in range(REACH):
            copy_row(recent[level, row], x[row])
        before = seen[level]
        odd = before % 2
        # the means of pairs go to y: the samples of the next level
        if level == 0:
            add_products_1_to_8(x, n, sums[0:8], y, odd == 1)
        else:
            add_products_5_to_8(x, n, sums[8 + 4 * (level - 1) : 12 + 4 * (level - 1)], y, odd == 1)
        for row in range(min(n, max(0, REACH - before))):
            copy_row(x[REACH + row], first[level, before + row])
        for row in range(REACH):
            copy_row(x[n + row], recent[level, row])
        if level == min(SUMMED_LEVEL, levels - 1):
            for t in range(REACH, REACH + n):
                add_row(x[t], total)
        n = (n + odd) // 2
        x, y = y, x
        level += 1


@compiled_part
def copy_row(source: Any, target: Any) -> None:
    for p in range(LANES):
        target[p] = source[p]


@compiled_part
def add_row(source: Any, target: Any) -> None:
    for p in range(LANES):
        target[p] += np.float64(source[p])


@compiled_part
def _scaled(source: Any, factor: Any, target: Any) -> None:
    for p in range(len(source)):
        target[p] = np.float32(source[p]) * factor


@compiled
def add_windows(
    raw: Any,
    scale: Any,
    starts: Any,
    begin: int,
    end: int,
    seen: Any,
    sums: Any,
    recent: Any,
    first: Any,
    total: Any,
) -> None:
    """Add a block of frames `raw` (n, H * W), times `scale` (n,) f32, to tiles begin … end, each LANES pixels in a row.

    Tile i covers pixels starts[i] … starts[i] + LANES of the frame; beyond the frame's end its lanes stay 0.
    """
    n = raw.shape[0]
    size = raw.shape[1]
    x = np.empty((REACH + 1 + n, LANES), dtype=np.float32)
    y = np.empty(x.shape, dtype=np.float32)
    for tile in range(begin, end):
        start = starts[tile]
        if start + LANES <= size:
            for t in range(n):
                _scaled(raw[t, start : start + LANES], scale[t], x[REACH + t])
        else:
            for t in range(n):
                for p in range(LANES):
                    x[REACH + t, p] = np.float32(0.0)
                for p in range(size - start):
                    x[REACH + t, p] = np.float32(raw[t, start + p]) * scale[t]
        add_levels(x, y, n, 0, seen, sums[tile], recent[tile], first[tile], total[tile])


@compiled
def add_gathered(
    raw: Any,
    scale: Any,
    pixels: Any,
    begin: int,
    end: int,
    seen: Any,
    sums: Any,
    recent: Any,
    first: Any,
    total: Any,
) -> None:
    """As `add_windows`, for tiles of scattered pixels: `pixels` (T, LANES), -1 for an empty lane."""
    n = raw.shape[0]
    x = np.empty((REACH + 1 + n, LANES), dtype=np.float32)
    y = np.empty(x.shape, dtype=np.float32)
    for tile in range(begin, end):
        for p in range(LANES):
            if pixels[tile, p] < 0:
                for t in range(n):
                    x[REACH + t, p] = np.float32(0.0)
        for t in range(n):
            factor = scale[t]
            for p in range(LANES):
                at = pixels[tile, p]
                if at >= 0:
                    x[REACH + t, p] = np.float32(raw[t, at]) * factor
        add_levels(x, y, n, 0, seen, sums[tile], recent[tile], first[tile], total[tile])
