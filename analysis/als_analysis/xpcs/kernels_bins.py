"""The compiled loops from a correlator's state (see `kernels`) to the sums over bins that g2 and errors are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from als_analysis.compiled import compiled, compiled_part
from als_analysis.xpcs.kernels import add_row, copy_row
from als_analysis.xpcs.kernels_bins_vectors import LAGS, add_runs, turn_block
from als_analysis.xpcs.state import SUMMED_LEVEL
from als_analysis.xpcs.vectors import LANES, REACH


@compiled_part
def level_totals(seen: Any, recent: Any, total: Any, out: Any) -> None:
    """Sum of all samples of each level of one tile, out (levels, LANES) f64, from the one level that was summed.

    The last ones of `recent` (levels, n, LANES) are the last samples of each level.
    """
    last = recent.shape[1] - 1
    levels = out.shape[0]
    summed = min(SUMMED_LEVEL, levels - 1)
    for p in range(LANES):  # not as whole arrays: numba takes seconds to compile such an assignment
        out[summed, p] = total[p]
    for level in range(summed - 1, -1, -1):
        for p in range(LANES):
            out[level, p] = 2.0 * out[level + 1, p] + (
                np.float64(recent[level, last, p]) if seen[level] % 2 == 1 else 0.0
            )
    for level in range(summed + 1, levels):
        for p in range(LANES):
            out[level, p] = 0.5 * (
                out[level - 1, p] - (np.float64(recent[level - 1, last, p]) if seen[level - 1] % 2 == 1 else 0.0)
            )


@compiled_part
def _past_sums(seen: Any, recent: Any, totals: Any, past: Any) -> None:
    """Sums of the earlier samples of all pairs so far, (lags, LANES), of one tile: all but the last ones."""
    row = 0
    some = np.empty(LANES)
    for level in range(recent.shape[0]):
        for p in range(LANES):
            some[p] = 0.0
        for step in range(1, REACH + 1):
            add_row(recent[level, REACH - step], some)
            if level == 0 or step > REACH // 2:
                _rest(totals[level], some, 1.0 if seen[level] > step else 0.0, past[row])
                row += 1


@compiled_part
def _future_sums(seen: Any, first: Any, totals: Any, future: Any) -> None:
    """Sums of the later samples of all pairs so far, (lags, LANES), of one tile: all but the first ones."""
    row = 0
    some = np.empty(LANES)
    for level in range(first.shape[0]):
        for p in range(LANES):
            some[p] = 0.0
        for step in range(1, REACH + 1):
            add_row(first[level, step - 1], some)
            if level == 0 or step > REACH // 2:
                _rest(totals[level], some, 1.0 if seen[level] > step else 0.0, future[row])
                row += 1


@compiled_part
def _rest(whole: Any, part: Any, share: float, out: Any) -> None:
    for p in range(LANES):
        out[p] = (whole[p] - part[p]) * share


@compiled_part
def _pairs(seen: Any, row: int) -> Any:
    """Number of pairs of samples that a row of lags has."""
    if row < REACH:
        return max(0, seen[0] - row - 1)
    level = (row - REACH) // (REACH // 2) + 1
    step = (row - REACH) % (REACH // 2) + REACH // 2 + 1
    return max(0, seen[level] - step)


@compiled_part
def _add_bins(sums: Any, deviations: Any, lanes: Any, share: Any, per_static: Any, per_dynamic: Any) -> None:
    """Add what `add_runs` found to the sums over bins, at all lags that have pairs; `lanes` (bins,) are those alive."""
    for row in range(per_static.shape[1]):
        if share[row] == 0.0:
            continue
        block, lag = row // LAGS, row % LAGS
        for number in range(len(lanes)):
            for i in range(3):
                per_static[number, row, i] += sums[block, number, i, lag]
            per_static[number, row, 3] += lanes[number]
        for number in range(len(per_dynamic)):
            for i in range(3):
                per_dynamic[number, row, i] += deviations[block, number, i, lag]


@compiled_part
def _runs_of(static: Any, dynamic: Any, total: Any, runs: Any) -> Any:
    """Neighbouring lanes of one static bin, with finite totals: rows (start, stop, static, dynamic); how many."""
    count = 0
    before = -1
    for p in range(LANES):
        now = static[p] if np.isfinite(total[p]) else -1
        if now != before and now >= 0:
            runs[count, 0], runs[count, 2], runs[count, 3] = p, now, dynamic[p]
            count += 1
        if now >= 0:
            runs[count - 1, 1] = p + 1
        before = now
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
    lanes: Any,
    of_static: Any,
    of_dynamic: Any,
) -> None:
    """Sum tiles begin … end over their bins; with `differ` also, into part_…, without the pairs of the earlier state.

    `per_static` (bins, lags, 4): G2, IP, IF, pixels; `per_dynamic` (bins, lags, 3): pixels with a g2, sum of (g2 - 1),
    sum of (g2 - 1)^2. Pixels whose total is not finite are left out. The earlier state has the suffix 0, `newest0`
    (T, levels, 1, LANES) its last samples; with `note` it becomes the present one. `lanes` (bins,), `of_static` and
    `of_dynamic` (2, lags / LAGS, bins, 3, LAGS) are 0 and written to.
    """
    lags = sums.shape[1]
    levels = recent.shape[1]
    statics, dynamics = len(per_static), len(per_dynamic)
    blocks = lags // LAGS
    totals = np.empty((levels, LANES))
    totals0 = np.empty((levels, LANES))
    turned = np.empty((6, LANES, LAGS))
    least = np.empty(LANES)
    runs = np.empty((LANES, 4), dtype=np.int64)
    # from here on index 0: all pairs, 1: without those of the earlier state
    share = np.empty((2, lags))
    some, some0 = np.empty(lags), np.empty(lags)
    parts = 2 if differ else 1
    for row in range(lags):
        now, before = _pairs(seen, row), _pairs(seen0, row)
        some[row], some0[row] = min(now, 1), min(before, 1)
        share[0, row] = 1.0 / now if now > 0 else 0.0
        share[1, row] = 1.0 / (now - before) if now > before else 0.0
    for tile in range(begin, end):
        if differ:
            level_totals(seen0, newest0[tile], total0[tile], totals0)
        level_totals(seen, recent[tile], total[tile], totals)
        for p in range(LANES):
            least[p] = 3e-6 * abs(totals[0, p]) / max(seen[0], 1)
        count = _runs_of(static[tile], dynamic[tile], totals[0], runs)
        for r in range(count):
            lanes[runs[r, 2]] += runs[r, 1] - runs[r, 0]
        for block in range(blocks):
            turn_block(
                tile,
                block,
                levels,
                differ,
                note,
                sums,
                recent,
                first,
                totals,
                some,
                sums0,
                past0,
                totals0,
                some0,
                turned,
            )
            for part in range(parts):
                add_runs(
                    3 * part, block, count, statics, dynamics, turned, runs, least, share[part], of_static[part],
                    of_dynamic[part],
                )  # fmt: skip
        if note:
            for level in range(levels):
                copy_row(recent[tile, level, REACH - 1], newest0[tile, level, 0])
            for p in range(LANES):
                total0[tile, p] = total[tile, p]
    _add_bins(of_static[0], of_dynamic[0], lanes, share[0], per_static, per_dynamic)
    if differ:
        _add_bins(of_static[1], of_dynamic[1], lanes, share[1], part_static, part_dynamic)


@compiled
def mean_products(begin: int, end: int, seen: Any, sums: Any, recent: Any, first: Any, total: Any, out: Any) -> None:
    """G2, IP and IF of every lane, out (T, 3, lags, LANES) f32."""
    lags = sums.shape[1]
    totals = np.empty((recent.shape[1], LANES))
    past = np.empty((lags, LANES))
    future = np.empty((lags, LANES))
    for tile in range(begin, end):
        level_totals(seen, recent[tile], total[tile], totals)
        _past_sums(seen, recent[tile], totals, past)
        _future_sums(seen, first[tile], totals, future)
        for row in range(lags):
            pairs = max(_pairs(seen, row), 1)
            for p in range(LANES):
                out[tile, 0, row, p] = np.float32(sums[tile, row, p] / pairs)
                out[tile, 1, row, p] = np.float32(past[row, p] / pairs)
                out[tile, 2, row, p] = np.float32(future[row, p] / pairs)
