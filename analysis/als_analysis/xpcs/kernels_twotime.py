"""The compiled loops around the matrix products of the two-time correlation."""

from __future__ import annotations

from typing import Any

import numpy as np

from als_analysis.compiled import compiled, compiled_sums


@compiled
def gather_rows(raw: Any, index: Any, mean: Any, begin: int, end: int, out: Any) -> None:
    """out[t] = raw[t, index] / mean[t] for t from begin to end; `raw` (n, H * W), `out` (n, P) f32."""
    for t in range(begin, end):
        factor = np.float32(1.0 / mean[t])
        row = raw[t]
        to = out[t]
        for p in range(len(index)):
            to[p] = np.float32(row[index[p]]) * factor


@compiled_sums
def _mean_alive(row: Any, alive: Any) -> float:
    total = 0.0
    count = 0.0
    for p in range(len(row)):
        total += np.float64(row[p]) if alive[p] else 0.0
        count += 1.0 if alive[p] else 0.0
    return total / count if count > 0 else 0.0


@compiled
def relative_rows(a: Any, alive: Any, edges: Any, divide: bool, begin: int, end: int) -> None:
    """In place: a / (mean over its bin of this frame) - 1, or a - 1; bins are edges[i] … edges[i + 1] of the pixels.

    Where the mean is not above 0 there is nothing to divide by: those pixels of that frame count as 0, a = -1.
    """
    for t in range(begin, end):
        for i in range(len(edges) - 1):
            row = a[t, edges[i] : edges[i + 1]]
            factor = 1.0
            if divide:
                mean = _mean_alive(row, alive[edges[i] : edges[i + 1]])
                factor = 1.0 / mean if mean > 0 else 0.0
            for p in range(len(row)):
                row[p] = np.float32(np.float64(row[p]) * factor - 1.0)


@compiled_sums
def _sum(row: Any) -> float:
    total = 0.0
    for p in range(len(row)):
        total += np.float64(row[p])
    return total


@compiled
def row_sums(a: Any, begin: int, end: int, out: Any) -> None:
    """Add the sum of each row of `a` to `out`."""
    for t in range(begin, end):
        out[t] += _sum(a[t])


@compiled
def finish_rows(c2: Any, mean: Any, pixels: int, begin: int, end: int, length: int, sums: Any, segments: Any) -> None:
    """Rows begin … end of the products become C; adds their diagonals to `sums` (N,) and `segments` (5, N // 5)."""
    n = c2.shape[0]
    share = 1.0 / pixels
    for t in range(begin, end):
        row = c2[t]
        for u in range(t):
            row[u] = np.float32(0.0)
        segment = t // length
        limit = min((segment + 1) * length, n) if segment < segments.shape[0] else t
        for u in range(t, n):
            value = 1.0 + mean[t] + mean[u] + np.float64(row[u]) * share
            row[u] = np.float32(value)
            sums[u - t] += value
            if u < limit:
                segments[segment, u - t] += value
