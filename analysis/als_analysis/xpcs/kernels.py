"""The compiled inner loops of the multi-tau correlator. Nothing here knows of files, bins or options.

Pixels come in tiles of `LANES` neighbours, and every tile keeps its whole state side by side, so that a tile is
loaded into the cache once per block of frames. The loops run over the lanes innermost: the compiler turns them into
vector instructions, and no sum is reordered, so that results do not depend on the number of threads.

State of T tiles with L levels and K lags: `sums` (T, K, LANES) f64, `recent` and `first` (T, L, 8, LANES) f32,
`odd` (T, L, LANES) f32, `total` (T, LANES) f64: the sum of level SUMMED_LEVEL (or of the last), from which those of the
other levels follow, each pair's mean being half its sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

from als_analysis.xpcs.vectors import LANES, REACH, add_products_1_to_8, add_products_5_to_8

SUMMED_LEVEL = 3
_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    compiler: Any = numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
    faster: _F = compiler(function)
    return faster


def compiled_sums(function: _F) -> _F:
    # a sum in another order, the same for every run: nothing else becomes vectors here
    compiler: Any = numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc"}, error_model="numpy")
    faster: _F = compiler(function)
    return faster


@compiled
def add_levels(x: Any, n: int, level: int, seen: Any, sums: Any, recent: Any, first: Any, odd: Any, total: Any) -> None:
    """Take n new rows of one tile through `level` and all levels above; `seen` (levels,) counts samples before.

    `x` is (8 + n, LANES) f32, the new rows from row 8 on; it is overwritten. `level` 0 has 8 lags, each further one 4.
    """
    levels = recent.shape[0]
    while level < levels and n > 0:
        # rows are taken out of their arrays first: only so the compiler turns the loops over lanes into vectors
        for row in range(REACH):
            _copy(recent[level, row], x[row])
        if level == 0:
            add_products_1_to_8(x, n, sums[0:8])
        else:
            add_products_5_to_8(x, n, sums[8 + 4 * (level - 1) : 12 + 4 * (level - 1)])
        before = seen[level]
        for row in range(min(n, max(0, REACH - before))):
            _copy(x[REACH + row], first[level, before + row])
        for row in range(REACH):
            _copy(x[n + row], recent[level, row])
        if level == min(SUMMED_LEVEL, levels - 1):
            for t in range(REACH, REACH + n):
                _add(x[t], total)
        # pairs become the samples of the next level, in place: a row is read before it is written
        start = REACH
        made = REACH
        if before % 2 == 1:
            _mean(odd[level], x[start], x[made])
            start += 1
            made += 1
        pairs = (REACH + n - start) // 2
        _halve(x.reshape(-1), start, made, pairs)
        start += 2 * pairs
        made += pairs
        if start < REACH + n:
            _copy(x[start], odd[level])
        n = made - REACH
        level += 1


@compiled
def _copy(source: Any, target: Any) -> None:
    for p in range(LANES):
        target[p] = source[p]


@compiled
def _add(source: Any, target: Any) -> None:
    for p in range(LANES):
        target[p] += np.float64(source[p])


@compiled
def _mean(one: Any, other: Any, target: Any) -> None:
    for p in range(LANES):
        target[p] = np.float32(0.5) * (one[p] + other[p])


@compiled
def _halve(flat: Any, start: int, made: int, pairs: int) -> None:
    # unsigned, so that no index can count from the end: such a test would keep the loop from becoming vectors
    one = np.uint64(start * LANES)
    target = np.uint64(made * LANES)
    width = np.uint64(LANES)
    for _ in range(pairs):
        for p in range(width):
            flat[target + p] = np.float32(0.5) * (flat[one + p] + flat[one + width + p])
        one += width + width
        target += width


@compiled
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
    odd: Any,
    total: Any,
) -> None:
    """Add a block of frames `raw` (n, H * W), times `scale` (n,) f32, to tiles begin … end, each LANES pixels in a row.

    Tile i covers pixels starts[i] … starts[i] + LANES of the frame; beyond the frame's end its lanes stay 0.
    """
    n = raw.shape[0]
    size = raw.shape[1]
    x = np.zeros((REACH + n, LANES), dtype=np.float32)
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
        add_levels(x, n, 0, seen, sums[tile], recent[tile], first[tile], odd[tile], total[tile])


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
    odd: Any,
    total: Any,
) -> None:
    """As `add_windows`, for tiles of scattered pixels: `pixels` (T, LANES), -1 for an empty lane."""
    n = raw.shape[0]
    x = np.zeros((REACH + n, LANES), dtype=np.float32)
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
        add_levels(x, n, 0, seen, sums[tile], recent[tile], first[tile], odd[tile], total[tile])


@compiled
def frame_means(raw: Any, runs: Any, begin: int, end: int, mean: Any) -> None:
    """Mean of frames begin … end of `raw` (n, H * W) over the pixels in `runs` (m, 2: from, to), NaN left out."""
    for t in range(begin, end):
        total = 0.0
        count = 0
        for r in range(runs.shape[0]):
            part, known = _finite_sum(raw[t, runs[r, 0] : runs[r, 1]])
            total += part
            count += known
        mean[t] = total / count if count > 0 else np.nan


@compiled
def whole_frame_means(raw: Any, runs: Any, begin: int, end: int, mean: Any) -> None:
    """As `frame_means`, for whole numbers: exact sums, in vector instructions."""
    for t in range(begin, end):
        total = 0
        count = 0
        for r in range(runs.shape[0]):
            total += _whole_sum(raw[t, runs[r, 0] : runs[r, 1]])
            count += runs[r, 1] - runs[r, 0]
        mean[t] = total / count if count > 0 else np.nan


@compiled
def _finite_sum(row: Any) -> tuple[float, int]:
    total = 0.0
    known = 0
    for p in range(len(row)):
        value = np.float64(row[p])
        if value == value:
            total += value
            known += 1
    return total, known


@compiled
def _whole_sum(row: Any) -> Any:
    total: Any = 0
    for p in range(len(row)):
        total += np.int64(row[p])
    return total


@compiled
def add_frames(raw: Any, begin: int, end: int, total: Any, known: Any) -> None:
    """Add each pixel's finite values over the frames of `raw` (n, H * W) to `total`, and their number to `known`."""
    width = 512
    sums = np.empty(width, dtype=np.float64)
    count = np.empty(width, dtype=np.int64)
    for start in range(begin, end, width):
        stop = min(start + width, end)
        sums[:] = 0.0
        count[:] = 0
        for t in range(raw.shape[0]):
            _add_finite(raw[t, start:stop], sums, count)
        for p in range(stop - start):
            total[start + p] += sums[p]
            known[start + p] += count[p]


@compiled
def add_whole_frames(raw: Any, begin: int, end: int, total: Any, known: Any) -> None:
    """As `add_frames`, for whole numbers."""
    width = 1024
    sums = np.empty(width, dtype=np.int64)
    for start in range(begin, end, width):
        stop = min(start + width, end)
        sums[:] = 0
        for t in range(raw.shape[0]):
            _add_whole(raw[t, start:stop], sums)
        for p in range(stop - start):
            total[start + p] += np.float64(sums[p])
            known[start + p] += raw.shape[0]


@compiled
def _add_finite(row: Any, sums: Any, count: Any) -> None:
    for p in range(len(row)):
        value = np.float64(row[p])
        good = value == value
        sums[p] += value if good else 0.0
        count[p] += 1 if good else 0


@compiled
def _add_whole(row: Any, sums: Any) -> None:
    for p in range(len(row)):
        sums[p] += np.int64(row[p])


@compiled
def level_totals(seen: Any, odd: Any, total: Any, out: Any) -> None:
    """Sum of all samples of each level of one tile, out (levels, LANES) f64, from the one level that was summed."""
    levels = out.shape[0]
    summed = min(SUMMED_LEVEL, levels - 1)
    for p in range(LANES):  # not as whole arrays: numba takes seconds to compile such an assignment
        out[summed, p] = total[p]
    for level in range(summed - 1, -1, -1):
        for p in range(LANES):
            out[level, p] = 2.0 * out[level + 1, p] + (np.float64(odd[level, p]) if seen[level] % 2 == 1 else 0.0)
    for level in range(summed + 1, levels):
        for p in range(LANES):
            out[level, p] = 0.5 * (
                out[level - 1, p] - (np.float64(odd[level - 1, p]) if seen[level - 1] % 2 == 1 else 0.0)
            )


@compiled
def level_zero_totals(seen: Any, odd: Any, total: Any, out: Any) -> None:
    """Sum of all frames per lane, out (T, LANES) f64."""
    totals = np.empty((odd.shape[1], LANES))
    for tile in range(total.shape[0]):
        level_totals(seen, odd[tile], total[tile], totals)
        for p in range(LANES):
            out[tile, p] = totals[0, p]


@compiled
def _past_sums(seen: Any, recent: Any, totals: Any, past: Any) -> None:
    """Sums of the earlier samples of all pairs so far, (lags, LANES), of one tile: all but the last ones."""
    row = 0
    some = np.empty(LANES)
    for level in range(recent.shape[0]):
        some[:] = 0.0
        for step in range(1, REACH + 1):
            _add(recent[level, REACH - step], some)
            if level == 0 or step > REACH // 2:
                _rest(totals[level], some, 1.0 if seen[level] > step else 0.0, past[row])
                row += 1


@compiled
def _future_sums(seen: Any, first: Any, totals: Any, future: Any) -> None:
    """Sums of the later samples of all pairs so far, (lags, LANES), of one tile: all but the first ones."""
    row = 0
    some = np.empty(LANES)
    for level in range(first.shape[0]):
        some[:] = 0.0
        for step in range(1, REACH + 1):
            _add(first[level, step - 1], some)
            if level == 0 or step > REACH // 2:
                _rest(totals[level], some, 1.0 if seen[level] > step else 0.0, future[row])
                row += 1


@compiled
def mark_tiles(
    begin: int, end: int, seen: Any, sums: Any, recent: Any, odd: Any, total: Any, sums0: Any, past0: Any
) -> None:
    """Note the sums so far and those of the earlier samples, both (T, lags, LANES) f32, for a later difference."""
    lags = sums.shape[1]
    totals = np.empty((recent.shape[1], LANES))
    past = np.empty((lags, LANES))
    for tile in range(begin, end):
        level_totals(seen, odd[tile], total[tile], totals)
        _past_sums(seen, recent[tile], totals, past)
        for row in range(lags):
            _round(sums[tile, row], sums0[tile, row])
            _round(past[row], past0[tile, row])


@compiled
def _round(source: Any, target: Any) -> None:
    for p in range(LANES):
        target[p] = np.float32(source[p])


@compiled
def _rest(whole: Any, part: Any, share: float, out: Any) -> None:
    for p in range(LANES):
        out[p] = (whole[p] - part[p]) * share


@compiled
def _pairs(seen: Any, row: int) -> Any:
    """Number of pairs of samples that a row of lags has."""
    if row < REACH:
        return max(0, seen[0] - row - 1)
    level = (row - REACH) // (REACH // 2) + 1
    step = (row - REACH) % (REACH // 2) + REACH // 2 + 1
    return max(0, seen[level] - step)


@compiled_sums
def _bin_sums(product: Any, one: Any, other: Any, least: Any) -> Any:
    """Over neighbouring lanes: sums of G2, IP, IF; of the lanes with a g2 their number and sums of g2 - 1, (g2 - 1)^2.

    Where IP or IF is below `least` there is no g2: what a pixel's total leaves without its only photons is rounding.
    """
    a = b = c = m = u = v = 0.0
    for p in range(len(product)):
        a += product[p]
        b += one[p]
        c += other[p]
        square = one[p] * other[p]
        good = min(abs(one[p]), abs(other[p])) > least[p]
        away = (product[p] - square) / square if good else 0.0
        m += 1.0 if good else 0.0
        u += away
        v += away * away
    return a, b, c, m, u, v


@compiled
def _add_bins(
    product: Any, past: Any, future: Any, least: Any, runs: Any, count: int, row: int, per_static: Any, per_dynamic: Any
) -> None:
    for r in range(count):
        start, stop = runs[r, 0], runs[r, 1]
        a, b, c, m, u, v = _bin_sums(product[start:stop], past[start:stop], future[start:stop], least[start:stop])
        small, large = runs[r, 2], runs[r, 3]
        per_static[row, 0, small] += a
        per_static[row, 1, small] += b
        per_static[row, 2, small] += c
        per_static[row, 3, small] += runs[r, 4]
        per_dynamic[row, 0, large] += m
        per_dynamic[row, 1, large] += u
        per_dynamic[row, 2, large] += v


@compiled
def _means(now: Any, share: float, alive: Any, out: Any) -> None:
    for p in range(LANES):
        out[p] = now[p] * share if alive[p] > 0.0 else 0.0


@compiled
def _mean_rest(now: Any, before: Any, share: float, alive: Any, out: Any) -> None:
    for p in range(LANES):
        out[p] = (now[p] - before[p]) * share if alive[p] > 0.0 else 0.0


@compiled
def _runs_of(static: Any, dynamic: Any, alive: Any, runs: Any) -> Any:
    """Neighbouring lanes of one static bin as rows (start, stop, static, dynamic, lanes alive); gives their number."""
    count = 0
    start = 0
    while start < LANES:
        stop = start + 1
        while stop < LANES and static[stop] == static[start]:
            stop += 1
        if static[start] >= 0:
            live = 0
            for p in range(start, stop):
                live += 1 if alive[p] > 0.0 else 0
            runs[count, 0] = start
            runs[count, 1] = stop
            runs[count, 2] = static[start]
            runs[count, 3] = dynamic[start]
            runs[count, 4] = live
            count += 1
        start = stop
    return count


@compiled
def reduce_tiles(
    begin: int,
    end: int,
    static: Any,
    dynamic: Any,
    seen: Any,
    sums: Any,
    recent: Any,
    first: Any,
    odd: Any,
    total: Any,
    per_static: Any,
    per_dynamic: Any,
    differ: bool,
    seen0: Any,
    sums0: Any,
    past0: Any,
    odd0: Any,
    total0: Any,
    part_static: Any,
    part_dynamic: Any,
) -> None:
    """Sum tiles begin … end over their bins; with `differ` also, into part_…, without the pairs of the earlier state.

    `per_static` (lags, 4, bins): G2, IP, IF, pixels; `per_dynamic` (lags, 3, bins): pixels with a g2, sum of (g2 - 1),
    sum of (g2 - 1)^2. Pixels whose total is not finite are left out. The earlier state has the suffix 0.
    """
    lags = sums.shape[1]
    levels = recent.shape[1]
    totals = np.empty((levels, LANES))
    past = np.empty((lags, LANES))
    future = np.empty((lags, LANES))
    future0 = np.empty((lags, LANES))
    product = np.empty(LANES)
    one = np.empty(LANES)
    other = np.empty(LANES)
    alive = np.empty(LANES)
    least = np.empty(LANES)
    runs = np.empty((LANES, 5), dtype=np.int64)
    for tile in range(begin, end):
        if differ:
            level_totals(seen0, odd0[tile], total0[tile], totals)
            _future_sums(seen0, first[tile], totals, future0)
        level_totals(seen, odd[tile], total[tile], totals)
        _past_sums(seen, recent[tile], totals, past)
        _future_sums(seen, first[tile], totals, future)
        for p in range(LANES):
            live = static[tile, p] >= 0 and np.isfinite(totals[0, p])
            alive[p] = 1.0 if live else 0.0
            least[p] = 3e-6 * abs(totals[0, p]) / max(seen[0], 1) if live else np.inf
        count = _runs_of(static[tile], dynamic[tile], alive, runs)
        for row in range(lags):
            pairs = _pairs(seen, row)
            if pairs <= 0:
                continue
            share = 1.0 / pairs
            _means(sums[tile, row], share, alive, product)
            _means(past[row], share, alive, one)
            _means(future[row], share, alive, other)
            _add_bins(product, one, other, least, runs, count, row, per_static, per_dynamic)
            if not differ or pairs == _pairs(seen0, row):
                continue
            share = 1.0 / (pairs - _pairs(seen0, row))
            _mean_rest(sums[tile, row], sums0[tile, row], share, alive, product)
            _mean_rest(past[row], past0[tile, row], share, alive, one)
            _mean_rest(future[row], future0[row], share, alive, other)
            _add_bins(product, one, other, least, runs, count, row, part_static, part_dynamic)


@compiled
def mean_products(
    begin: int, end: int, seen: Any, sums: Any, recent: Any, first: Any, odd: Any, total: Any, out: Any
) -> None:
    """G2, IP and IF of every lane, out (T, 3, lags, LANES) f32."""
    lags = sums.shape[1]
    totals = np.empty((recent.shape[1], LANES))
    past = np.empty((lags, LANES))
    future = np.empty((lags, LANES))
    for tile in range(begin, end):
        level_totals(seen, odd[tile], total[tile], totals)
        _past_sums(seen, recent[tile], totals, past)
        _future_sums(seen, first[tile], totals, future)
        for row in range(lags):
            pairs = max(_pairs(seen, row), 1)
            for p in range(LANES):
                out[tile, 0, row, p] = np.float32(sums[tile, row, p] / pairs)
                out[tile, 1, row, p] = np.float32(past[row, p] / pairs)
                out[tile, 2, row, p] = np.float32(future[row, p] / pairs)
