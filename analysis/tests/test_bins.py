"""The sums over bins from a correlator's state, against a plain implementation of what they are the sums of."""

from __future__ import annotations

import numpy as np
from als_analysis.workers import Workers
from als_analysis.xpcs.multitau import BinSums, Correlator
from als_analysis.xpcs.state import Mark
from als_analysis.xpcs.tiles import Pixels, arrange

FRAMES, BEFORE = 75, 11  # before the mark the upper levels have no pair yet
PIXELS = 3 * 64


def expected(x: np.ndarray, pixels: Pixels, before: int) -> tuple[np.ndarray, np.ndarray]:
    """What `BinSums` holds of pairs whose later frame came after the first `before`; `x` (frames, used pixels)."""
    statics, dynamics = pixels.bins
    alive = np.isfinite(x).all(0)
    per_static, per_dynamic = [], []
    level = 0
    while x.shape[0] > 4:
        for step in range(1 if level == 0 else 5, 9):
            first = max(0, (before >> level) - step)  # of the earlier samples
            past, future = x[first : max(first, len(x) - step)], x[first + step :]
            row, other = np.zeros((statics, 4)), np.zeros((dynamics, 3))
            if len(past) > 0:
                means = ((past * future).mean(0), past.mean(0), future.mean(0))
                good = alive & (means[1] > 0) & (means[2] > 0)
                away = np.where(good, means[0] / np.where(good, means[1] * means[2], 1.0) - 1.0, 0.0)
                for i, value in enumerate((*means, alive)):
                    np.add.at(row[:, i], pixels.static[alive], value[alive])
                for i, value in enumerate((good, away, away**2)):
                    np.add.at(other[:, i], pixels.dynamic, value)
            per_static.append(row)
            per_dynamic.append(other)
        x = (x[0 : len(x) // 2 * 2 : 2] + x[1::2]) / 2
        level += 1
    return np.stack(per_static, axis=1), np.stack(per_dynamic, axis=1)


def test_bins_get_the_sums_of_their_pixels_before_and_since_a_mark() -> None:
    rng = np.random.default_rng(5)
    raw = rng.gamma(2.0, 1.0, (FRAMES, PIXELS)).astype(np.float32)
    raw[:-3, 70:80] = 0.0  # most of their pairs have no photon in an earlier frame, those of the next ones in a later
    raw[3:, 80:90] = 0.0
    raw[40, 100] = np.nan
    bins = np.repeat(rng.integers(-1, 6, PIXELS), rng.integers(1, 9, PIXELS))[:PIXELS]  # short runs, some pixels unused
    bins[64:128] = 2
    bins[70:90] = 5
    used = np.flatnonzero(bins >= 0)
    pixels = arrange(PIXELS, used, bins[used], bins[used] // 3)
    scale = rng.uniform(0.1, 0.2, FRAMES).astype(np.float32)
    correlator = Correlator(FRAMES, pixels, Workers(1))
    lags = correlator.state.sums.shape[1]
    mark = Mark.empty(pixels.tiles, lags, correlator.lags.levels)

    def sums(since: Mark | None, note: Mark | None) -> BinSums:
        found = BinSums.empty(*pixels.bins, lags)
        for span in ((0, 1), (1, pixels.tiles)):
            found.add_tiles(span, pixels.static_of_lane, pixels.dynamic_of_lane, correlator.state, since, note)
        return found

    def compare(found: BinSums, which: int, frames: int, before: int) -> None:
        x = (raw[:, used] * scale[:, None]).astype(np.float64)[:frames]
        per_static, per_dynamic = expected(x, pixels, before)
        rows = per_static.shape[1]
        np.testing.assert_allclose(found.per_static[which][:, :rows], per_static, rtol=1e-5)
        np.testing.assert_allclose(found.per_dynamic[which][:, :rows], per_dynamic, rtol=1e-4, atol=1e-4)
        assert not found.per_static[which][:, rows:].any()

    correlator.add(raw[:BEFORE], scale[:BEFORE])
    compare(sums(None, mark), 0, BEFORE, 0)
    mark.frames = BEFORE
    correlator.add(raw[BEFORE:], scale[BEFORE:])
    found = sums(mark, None)
    compare(found, 0, FRAMES, 0)
    compare(found, 1, FRAMES, BEFORE)
    assert not sums(None, None).per_static[1].any()
