"""Streaming multi-tau autocorrelation of many pixels: memory depends on pixels and lags, not on frames.

Lags: 1-8 at level 0, then 5-8 at every further level, whose samples are the means of pairs of the level below:
1-8, 10, 12, 14, 16, 20, 24 … (dpl = 4). For each pixel and lag

    G2 = <I(t) I(t+lag)>,   IP = <I(t)>,   IF = <I(t+lag)>

over all pairs that the level has (Schätzel, Quantum Opt. 2, 287 (1990): symmetric normalisation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DELAYS_PER_LEVEL = 4
_REACH = 2 * DELAYS_PER_LEVEL  # the longest lag inside a level


@dataclass(frozen=True)
class Lags:
    """The lags that `frames` frames allow: per lag its level, its step inside the level, and its delay in frames."""

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
    """The multi-tau lags for a number of frames (at least 2); each lag has at least one pair of samples."""
    rows = []
    level = 0
    while (samples := frames >> level) > (0 if level == 0 else DELAYS_PER_LEVEL):
        for step in range(1 if level == 0 else DELAYS_PER_LEVEL + 1, _REACH + 1):
            if samples - step >= 1:
                rows.append((level, step, step << level, samples - step))
        level += 1
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Lags(table[:, 0], table[:, 1], table[:, 2], table[:, 3])


class Correlator:
    """Takes frames in pieces of any size and gives G2, IP and IF per lag and pixel at the end."""

    def __init__(self, frames: int, pixels: int) -> None:
        self.lags = lags_for(frames)
        self.frames, self.pixels = frames, pixels
        levels = self.lags.levels
        self._sums = np.zeros((len(self.lags), pixels))
        self._totals = np.zeros((levels, pixels))
        self._first: list[NDArray[np.float64]] = [np.empty((0, pixels)) for _ in range(levels)]
        self._last: list[NDArray[np.float64]] = [np.empty((0, pixels)) for _ in range(levels)]
        self._odd: list[NDArray[np.float64]] = [np.empty((0, pixels)) for _ in range(levels)]
        self._of_level = [np.flatnonzero(self.lags.level == level) for level in range(levels)]

    def add(self, piece: NDArray[np.float64]) -> None:
        """Add the next frames, (n, pixels)."""
        for level in range(self.lags.levels):
            if len(piece) == 0:
                return
            window = np.concatenate([self._last[level], piece])
            before = len(self._last[level])
            for row in self._of_level[level]:
                step = int(self.lags.step[row])
                late = max(before, step)
                if late < len(window):
                    self._sums[row] += np.einsum("tp,tp->p", window[late - step : len(window) - step], window[late:])
            self._totals[level] += piece.sum(axis=0)
            if len(self._first[level]) < _REACH:
                self._first[level] = np.concatenate([self._first[level], piece])[:_REACH]
            self._last[level] = window[-_REACH:].copy()
            pending = np.concatenate([self._odd[level], piece])
            pairs = len(pending) // 2
            self._odd[level] = pending[2 * pairs :].copy()
            piece = 0.5 * (pending[0 : 2 * pairs : 2] + pending[1 : 2 * pairs : 2])

    def result(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """G2, IP, IF, each (lags, pixels), means over the pairs of each lag."""
        past, future = np.empty_like(self._sums), np.empty_like(self._sums)
        for row in range(len(self.lags)):
            level, step = int(self.lags.level[row]), int(self.lags.step[row])
            past[row] = self._totals[level] - self._last[level][-step:].sum(axis=0)
            future[row] = self._totals[level] - self._first[level][:step].sum(axis=0)
        pairs = self.lags.pairs[:, None]
        return self._sums / pairs, past / pairs, future / pairs


def normalize(
    g2: NDArray[np.float64],
    past: NDArray[np.float64],
    future: NDArray[np.float64],
    static: NDArray[np.int64],
    dynamic: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """g2 and its error per lag and dynamic bin, each (lags, bins), from per-pixel sums (lags, pixels).

    `static` and `dynamic` number each pixel's bins from 0. Per static bin <G2> / (<IP> <IF>), then the unweighted mean
    over the static bins inside each dynamic bin: dividing per dynamic bin only would lift the baseline by
    Var(I) / <I>^2 inside the bin. The error is the unbiased standard deviation of the per-pixel g2 over sqrt(pixels).
    A bin without intensity gives NaN.
    """
    statics, dynamics = int(static.max()) + 1, int(dynamic.max()) + 1
    owner = np.zeros(statics, dtype=np.int64)
    owner[static] = dynamic
    counts = np.bincount(static, minlength=statics)
    value, error = np.full((len(g2), dynamics), np.nan), np.full((len(g2), dynamics), np.nan)
    for row in range(len(g2)):
        mean = [
            np.bincount(static, weights=a[row], minlength=statics) / np.maximum(counts, 1) for a in (g2, past, future)
        ]
        with np.errstate(divide="ignore", invalid="ignore"):
            per_static = mean[0] / (mean[1] * mean[2])
            per_pixel = g2[row] / (past[row] * future[row])
        good = np.isfinite(per_static) & (counts > 0)
        bins = np.bincount(owner[good], minlength=dynamics)
        with np.errstate(divide="ignore", invalid="ignore"):
            value[row] = np.bincount(owner[good], weights=per_static[good], minlength=dynamics) / bins
            known = np.isfinite(per_pixel)
            n = np.bincount(dynamic[known], minlength=dynamics)
            center = np.bincount(dynamic[known], weights=per_pixel[known], minlength=dynamics) / n
            spread = np.bincount(
                dynamic[known], weights=(per_pixel[known] - center[dynamic[known]]) ** 2, minlength=dynamics
            )
            error[row] = np.sqrt(spread / (n - 1.0)) / np.sqrt(n)
    return value, error
