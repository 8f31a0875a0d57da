"""Streaming multi-tau autocorrelation of many pixels: memory depends on pixels and lags, not on frames.

Lags: 1-8 at level 0, then 5-8 at every further level, whose samples are the means of pairs of the level below:
1-8, 10, 12, 14, 16, 20, 24 … (dpl = 4). For each pixel and lag

    G2 = <I(t) I(t+lag)>,   IP = <I(t)>,   IF = <I(t+lag)>

over all pairs that the level has (Schätzel, Quantum Opt. 2, 287 (1990): symmetric normalisation). IP and IF are the
level's total without its last and its first samples. Products are f32, summed over 64 frames, then in f64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.workers import Workers
from als_analysis.xpcs.state import DELAYS_PER_LEVEL, LANES, SUMMED_LEVEL, Mark, State, lags_for
from als_analysis.xpcs.tiles import Pixels

_REACH = 2 * DELAYS_PER_LEVEL  # the longest lag inside a level
_PARTS = 16  # the sums over tiles are always taken in this many parts, in order: any number of threads, the same bits

F64 = NDArray[np.float64]


@dataclass
class BinSums:
    """Sums over bins that g2 and its error are made of, index 0: over all frames, 1: since a mark; see `kernels_bins`.

    `per_static` (2, static bins, lags, 4) and `per_dynamic` (2, dynamic bins, lags, 3).
    """

    per_static: F64
    per_dynamic: F64

    @classmethod
    def empty(cls, statics: int, dynamics: int, lags: int) -> BinSums:
        return cls(np.zeros((2, statics, lags, 4)), np.zeros((2, dynamics, lags, 3)))

    def add_tiles(
        self,
        span: tuple[int, int],
        static: NDArray[np.int64],
        dynamic: NDArray[np.int64],
        state: State,
        since: Mark | None,
        note: Mark | None,
    ) -> None:
        """Add tiles span[0] … span[1] of a state, their lanes being in the bins `static` and `dynamic` (T, 64).

        With `since` also the pairs whose later sample came after it. `note`, a new mark or `since` itself, becomes a
        mark of the state but for its number of frames.
        """
        from als_analysis.xpcs import kernels_bins

        if note is not None and since is not None and note is not since:
            raise ValueError("a mark can only be renewed, or made where there is none")
        before = since or note or Mark.empty(1, state.sums.shape[1], state.recent.shape[1])
        (statics, lags), dynamics = self.per_static[0].shape[:2], self.per_dynamic.shape[1]
        blocks = (2, lags // DELAYS_PER_LEVEL)
        # made here: to compile it there takes half a second
        scratch = [np.zeros((*blocks, bins, 3, DELAYS_PER_LEVEL)) for bins in (statics, dynamics)]
        kernels_bins.reduce_tiles(
            *span,
            static,
            dynamic,
            state.seen,
            state.sums,
            state.recent,
            state.first,
            state.total,
            self.per_static[0],
            self.per_dynamic[0],
            since is not None,
            before.seen,
            before.sums,
            before.past,
            before.newest[:, :, None],
            before.total,
            self.per_static[1],
            self.per_dynamic[1],
            note is not None,
            np.zeros(statics),
            *scratch,
        )


G2 = tuple[F64, F64]  # g2 and its error, each (lags, dynamic bins)


class Correlator:
    """Takes frames in blocks of any size and gives g2 and its error: over all frames, and of each part of them."""

    def __init__(self, frames: int, pixels: Pixels, workers: Workers) -> None:
        self.lags = lags_for(frames)
        self.pixels, self.workers = pixels, workers
        self.state = State.empty(pixels.tiles, self.lags.levels)
        self._parts: list[G2] = []
        self._mark: Mark | None = None

    def add(self, raw: NDArray[Any], scale: NDArray[np.float32]) -> None:
        """Add the next frames, `raw` (n, size) of any numeric type, each times `scale` (n,)."""
        from als_analysis.xpcs import kernels

        state, pixels, seen = self.state, self.pixels, self.state.seen
        arrays = (seen, state.sums, state.recent, state.first, state.total)
        if pixels.gathered is None:
            self.workers.share(lambda a, b: kernels.add_windows(raw, scale, pixels.starts, a, b, *arrays), pixels.tiles)
        else:
            gathered = pixels.gathered
            self.workers.share(lambda a, b: kernels.add_gathered(raw, scale, gathered, a, b, *arrays), pixels.tiles)
        state.frames += len(raw)

    def g2(self, since: Mark | None = None, note: Mark | None = None) -> tuple[G2, G2]:
        """(g2, error) over all frames, and from the pairs whose later sample came after `since` (None: the same).

        `note`, a new mark or `since` itself, becomes a mark of the present state.

        Each is (lags, dynamic bins). Per static bin <G2> / (<IP> <IF>), then the unweighted mean over the static bins
        inside each dynamic bin: dividing per dynamic bin only would lift the baseline by Var(I) / <I>^2 inside the
        bin. The error is the unbiased standard deviation of the per-pixel g2 over sqrt(pixels). Pixels with a value
        that is not finite in any frame are left out. A bin without intensity, or a lag without pairs, gives NaN, and
        so does the error of a lag with one pair, whose per-pixel g2 is 1 by definition.
        """
        pixels, state = self.pixels, self.state
        parts = [BinSums.empty(*pixels.bins, state.sums.shape[1]) for _ in range(_PARTS)]
        edges = [pixels.tiles * i // _PARTS for i in range(_PARTS + 1)]

        def work(begin: int, end: int) -> None:
            for part in range(begin, end):
                span = (edges[part], edges[part + 1])
                parts[part].add_tiles(span, pixels.static_of_lane, pixels.dynamic_of_lane, state, since, note)

        self.workers.share(work, _PARTS)
        sums = BinSums(sum(p.per_static for p in parts), sum(p.per_dynamic for p in parts))  # type: ignore[arg-type]
        before = since.frames if since is not None else 0
        if note is not None:
            note.frames = state.frames
        whole, part = self.normalized(sums, state.frames, before)
        return whole, part if since is not None else whole

    def normalized(self, sums: BinSums, frames: int, before: int) -> tuple[G2, G2]:
        """(g2, error) after `frames` frames, and from the pairs whose later sample came after the first `before`."""
        found = []
        for which, first in ((0, 0), (1, before)):
            count = self._pairs(frames) - self._pairs(first)
            value, error = _normalized(sums.per_static[which], sums.per_dynamic[which], self._rows(), self.pixels)
            error[count < 2] = np.nan
            found.append((value, error))
        return found[0], found[1]

    def _pairs(self, frames: int) -> NDArray[np.int64]:
        return np.asarray(np.maximum((frames >> self.lags.level) - self.lags.step, 0), dtype=np.int64)

    def cut(self, last: bool) -> None:
        """A part of the frames ends here; after the last one nothing is added any more."""
        note = None if last else self._mark or self.new_mark()
        self._whole, part = self.g2(self._mark, note)
        self._parts.append(part)
        self._mark = note

    def finish(self) -> tuple[G2, list[G2]]:
        """(g2, error) over all frames, and of each part, after the last `cut`."""
        return self._whole, self._parts

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """All that is known of the frames so far, for a checkpoint."""
        state, mark = self.state, self._mark
        kept: dict[str, NDArray[Any]] = {f"state_{name}": getattr(state, name) for name in _STATE}
        kept |= {"state_frames": np.array(state.frames), "parts": np.array(self._parts)}
        if mark is not None:
            kept |= {f"mark_{name}": getattr(mark, name) for name in _MARK} | {"mark_frames": np.array(mark.frames)}
        return kept

    def restore(self, stored: dict[str, NDArray[Any]]) -> None:
        """Go on from a snapshot."""
        sums, recent, first, total = (stored[f"state_{name}"] for name in _STATE)
        self.state = State(sums, recent, first, total, int(stored["state_frames"]))
        if "mark_frames" in stored:
            sums, past, newest, total = (stored[f"mark_{name}"] for name in _MARK)
            self._mark = Mark(sums, past, newest, total, int(stored["mark_frames"]))
        self._parts = [(part[0], part[1]) for part in stored["parts"]]

    def new_mark(self) -> Mark:
        """A mark for `g2` to write to."""
        return Mark.empty(self.pixels.tiles, self.state.sums.shape[1], self.lags.levels)

    def alive(self) -> NDArray[np.bool_]:
        """Which of the used pixels had a finite value in every frame."""
        state = self.state
        total, seen = state.total, state.seen  # of one level; those of the levels below it are twice as large …
        for level in reversed(range(min(SUMMED_LEVEL, self.lags.levels - 1))):
            total = 2 * total + (state.recent[:, level, -1] if seen[level] % 2 else 0.0)  # … and an odd sample more
        return np.asarray(np.isfinite(total.reshape(-1)[self.pixels.lane_of_used]))

    def maps(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """G2, IP, IF of every pixel, (lags, 3, H, W); NaN where unused."""
        from als_analysis.xpcs import kernels_bins

        tiles, rows = self.pixels.tiles, self.state.sums.shape[1]
        lanes = np.empty((tiles, 3, rows, LANES), dtype=np.float32)
        state = self.state
        self.workers.share(
            lambda a, b: kernels_bins.mean_products(
                a, b, state.seen, state.sums, state.recent, state.first, state.total, lanes
            ),
            tiles,
        )
        out = np.full((len(self.lags), 3, self.pixels.size), np.nan, dtype=np.float32)
        for number, row in enumerate(self._rows()):
            for kind in range(3):
                out[number, kind, self.pixels.used] = lanes[:, kind, row].reshape(-1)[self.pixels.lane_of_used]
        return out.reshape(len(self.lags), 3, *shape)

    def _rows(self) -> NDArray[np.int64]:
        """The kernels' row of each lag."""
        level, step = self.lags.level, self.lags.step
        later = _REACH + DELAYS_PER_LEVEL * (level - 1) + step - DELAYS_PER_LEVEL - 1
        return np.where(level == 0, step - 1, later)


_STATE = ("sums", "recent", "first", "total")
_MARK = ("sums", "past", "newest", "total")


def _normalized(per_static: F64, per_dynamic: F64, rows: NDArray[np.int64], pixels: Pixels) -> G2:
    owner = np.zeros(len(per_static), dtype=np.int64)
    owner[pixels.static] = pixels.dynamic
    dynamics = len(per_dynamic)
    value, error = np.full((len(rows), dynamics), np.nan), np.full((len(rows), dynamics), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        for number, row in enumerate(rows):
            product, past, future, count = per_static[:, row].T
            ratio = (product / count) / ((past / count) * (future / count))
            good = np.isfinite(ratio)
            bins = np.bincount(owner[good], minlength=dynamics)
            value[number] = np.bincount(owner[good], weights=ratio[good], minlength=dynamics) / bins
            # sums of v - 1 and (v - 1)^2 of the per-pixel g2: about 1, so that nothing cancels
            n, one, two = per_dynamic[:, row].T
            error[number] = np.sqrt(np.maximum(two - one**2 / n, 0.0) / (n - 1.0) / n)
    return value, error
