"""The compiled loops over frames as they are: their means over the used pixels, and every pixel's mean over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from als_analysis.compiled import compiled, compiled_part


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


@compiled_part
def _finite_sum(row: Any) -> tuple[float, int]:
    total = 0.0
    known = 0
    for p in range(len(row)):
        value = np.float64(row[p])
        if value == value:
            total += value
            known += 1
    return total, known


@compiled_part
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
        for p in range(width):
            sums[p] = 0.0
            count[p] = 0
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
        for p in range(width):
            sums[p] = 0
        for t in range(raw.shape[0]):
            _add_whole(raw[t, start:stop], sums)
        for p in range(stop - start):
            total[start + p] += np.float64(sums[p])
            known[start + p] += raw.shape[0]


@compiled_part
def _add_finite(row: Any, sums: Any, count: Any) -> None:
    for p in range(len(row)):
        value = np.float64(row[p])
        good = value == value
        sums[p] += value if good else 0.0
        count[p] += 1 if good else 0


@compiled_part
def _add_whole(row: Any, sums: Any) -> None:
    for p in range(len(row)):
        sums[p] += np.int64(row[p])


@compiled
def add_segments(
    segments: Any, place: Any, static: Any, used: Any, width: int, share: Any, sums: Any, weights: Any
) -> None:
    """Add pixels' means over each segment to their static bin, sums (segments, bins).

    `segments` (segments, m) i64 are sums over frames, `share` (segments,) one over the frames; used pixel i, at used[i]
    in a frame of `width`, is column place[i]. `weights` (2, 3) get, of the first and the last segment, the sum of the
    means that are above 0, and of these times y and x.
    """
    last = len(segments) - 1
    for s in range(len(segments)):
        for i in range(len(place)):
            mean = np.float64(segments[s, place[i]]) * share[s]
            sums[s, static[i]] += mean
            if s == 0:
                _weigh(mean, used[i], width, weights[0])
            if s == last:
                _weigh(mean, used[i], width, weights[1])


@compiled_part
def _weigh(mean: float, pixel: int, width: int, weights: Any) -> None:
    mean = max(mean, 0.0)
    weights[0] += mean
    weights[1] += mean * (pixel // width)
    weights[2] += mean * (pixel % width)
