"""The compiled loops from a correlator's state (see `kernels`) to the sums over bins that g2 and errors are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from als_analysis.xpcs.compiled import compiled
from als_analysis.xpcs.kernels import SUMMED_LEVEL, add_row, copy_row
from als_analysis.xpcs.vectors import LANES, REACH


@compiled
def level_totals(seen: Any, newest: Any, total: Any, out: Any) -> None:
    """Sum of all samples of each level of one tile, out (levels, LANES) f64, from the one level that was summed.

    `newest` (levels, LANES) is the last sample of each level.
    """
    levels = out.shape[0]
    summed = min(SUMMED_LEVEL, levels - 1)
    for p in range(LANES):  # not as whole arrays: numba takes seconds to compile such an assignment
        out[summed, p] = total[p]
    for level in range(summed - 1, -1, -1):
        for p in range(LANES):
            out[level, p] = 2.0 * out[level + 1, p] + (np.float64(newest[level, p]) if seen[level] % 2 == 1 else 0.0)
    for level in range(summed + 1, levels):
        for p in range(LANES):
            out[level, p] = 0.5 * (
                out[level - 1, p] - (np.float64(newest[level - 1, p]) if seen[level - 1] % 2 == 1 else 0.0)
            )


@compiled
def level_zero_totals(seen: Any, recent: Any, total: Any, out: Any) -> None:
    """Sum of all frames per lane, out (T, LANES) f64."""
    totals = np.empty((recent.shape[1], LANES))
    for tile in range(total.shape[0]):
        level_totals(seen, recent[tile, :, REACH - 1], total[tile], totals)
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
            add_row(recent[level, REACH - step], some)
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
            add_row(first[level, step - 1], some)
            if level == 0 or step > REACH // 2:
                _rest(totals[level], some, 1.0 if seen[level] > step else 0.0, future[row])
                row += 1


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


@compiled
def _means(now: Any, share: float, alive: Any, out: Any) -> None:
    for p in range(LANES):
        out[p] = now[p] * share if alive[p] > 0.0 else 0.0


@compiled
def _mean_rest(now: Any, before: Any, share: float, alive: Any, out: Any) -> None:
    for p in range(LANES):
        out[p] = (now[p] - before[p]) * share if alive[p] > 0.0 else 0.0


@compiled
def _deviations(product: Any, one: Any, other: Any, least: Any, known: Any, away: Any) -> None:
    """Per lane g2 - 1, in `away`, and 1 in `known` where there is one.

    Where IP or IF is below `least` there is none: what a pixel's total leaves without its only photons is rounding.
    The difference is taken in f64, where digits cancel; its ratio needs no more than f32.
    """
    for p in range(LANES):
        square = one[p] * other[p]
        good = min(abs(one[p]), abs(other[p])) > least[p]
        ratio = np.float32(product[p] - square) / np.float32(square if good else 1.0)
        away[p] = np.float64(ratio) if good else 0.0
        known[p] = 1.0 if good else 0.0


@compiled
def _add_bins(mean: Any, taken: Any, runs: Any, count: int, per_static: Any, per_dynamic: Any) -> None:
    """Sum lanes over `count` runs: G2, IP, IF per static bin; the lanes with a g2 and their g2 - 1, (g2 - 1)^2.

    Run by run through all lags that are `taken` (lags,): short runs of changing lengths cost more than their sums.
    """
    for r in range(count):
        start, stop, small, large = runs[r, 0], runs[r, 1], runs[r, 2], runs[r, 3]
        for row in range(len(taken)):
            if taken[row] == 0:
                continue
            a = b = c = m = u = v = 0.0
            for p in range(start, stop):
                away = mean[4, row, p]
                a += mean[0, row, p]
                b += mean[1, row, p]
                c += mean[2, row, p]
                m += mean[3, row, p]
                u += away
                v += away * away
            per_static[small, row, 0] += a
            per_static[small, row, 1] += b
            per_static[small, row, 2] += c
            per_static[small, row, 3] += runs[r, 4]
            per_dynamic[large, row, 0] += m
            per_dynamic[large, row, 1] += u
            per_dynamic[large, row, 2] += v


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
    total: Any,
    per_static: Any,
    per_dynamic: Any,
    differ: bool,
    seen0: Any,
    sums0: Any,
    past0: Any,
    newest0: Any,
    total0: Any,
    part_static: Any,
    part_dynamic: Any,
    note: bool,
) -> None:
    """Sum tiles begin … end over their bins; with `differ` also, into part_…, without the pairs of the earlier state.

    `per_static` (bins, lags, 4): G2, IP, IF, pixels; `per_dynamic` (bins, lags, 3): pixels with a g2, sum of (g2 - 1),
    sum of (g2 - 1)^2. Pixels whose total is not finite are left out. The earlier state has the
    suffix 0; with `note` it becomes the present one.
    """
    lags = sums.shape[1]
    levels = recent.shape[1]
    totals = np.empty((levels, LANES))
    past = np.empty((lags, LANES))
    future = np.empty((lags, LANES))
    future0 = np.empty((lags, LANES))
    # G2, IP, IF, whether there is a g2, g2 - 1 of each lag; rows that do not fall on each other in the cache
    mean = np.empty((5, lags, LANES + 8))
    taken = np.zeros(lags, dtype=np.int64)
    alive = np.empty(LANES)
    least = np.empty(LANES)
    runs = np.empty((LANES, 5), dtype=np.int64)
    for tile in range(begin, end):
        if differ:
            level_totals(seen0, newest0[tile], total0[tile], totals)
            _future_sums(seen0, first[tile], totals, future0)
        level_totals(seen, recent[tile, :, REACH - 1], total[tile], totals)
        _past_sums(seen, recent[tile], totals, past)
        _future_sums(seen, first[tile], totals, future)
        for p in range(LANES):
            live = static[tile, p] >= 0 and np.isfinite(totals[0, p])
            alive[p] = 1.0 if live else 0.0
            least[p] = 3e-6 * abs(totals[0, p]) / max(seen[0], 1) if live else np.inf
        count = _runs_of(static[tile], dynamic[tile], alive, runs)
        for row in range(lags):
            pairs = _pairs(seen, row)
            taken[row] = 1 if pairs > 0 else 0
            if pairs > 0:
                share = 1.0 / pairs
                _means(sums[tile, row], share, alive, mean[0, row])
                _means(past[row], share, alive, mean[1, row])
                _means(future[row], share, alive, mean[2, row])
                _deviations(mean[0, row], mean[1, row], mean[2, row], least, mean[3, row], mean[4, row])
        _add_bins(mean, taken, runs, count, per_static, per_dynamic)
        if differ:
            for row in range(lags):
                pairs = _pairs(seen, row) - _pairs(seen0, row)
                taken[row] = 1 if pairs > 0 else 0
                if pairs > 0:
                    share = 1.0 / pairs
                    _mean_rest(sums[tile, row], sums0[tile, row], share, alive, mean[0, row])
                    _mean_rest(past[row], past0[tile, row], share, alive, mean[1, row])
                    _mean_rest(future[row], future0[row], share, alive, mean[2, row])
                    _deviations(mean[0, row], mean[1, row], mean[2, row], least, mean[3, row], mean[4, row])
            _add_bins(mean, taken, runs, count, part_static, part_dynamic)
        if note:
            for row in range(lags):
                _round(sums[tile, row], sums0[tile, row])
                _round(past[row], past0[tile, row])
            for level in range(levels):
                copy_row(recent[tile, level, REACH - 1], newest0[tile, level])
            for p in range(LANES):
                total0[tile, p] = total[tile, p]


@compiled
def mean_products(begin: int, end: int, seen: Any, sums: Any, recent: Any, first: Any, total: Any, out: Any) -> None:
    """G2, IP and IF of every lane, out (T, 3, lags, LANES) f32."""
    lags = sums.shape[1]
    totals = np.empty((recent.shape[1], LANES))
    past = np.empty((lags, LANES))
    future = np.empty((lags, LANES))
    for tile in range(begin, end):
        level_totals(seen, recent[tile, :, REACH - 1], total[tile], totals)
        _past_sums(seen, recent[tile], totals, past)
        _future_sums(seen, first[tile], totals, future)
        for row in range(lags):
            pairs = max(_pairs(seen, row), 1)
            for p in range(LANES):
                out[tile, 0, row, p] = np.float32(sums[tile, row, p] / pairs)
                out[tile, 1, row, p] = np.float32(past[row, p] / pairs)
                out[tile, 2, row, p] = np.float32(future[row, p] / pairs)
