"""What is looked at while frames pass by: averages, intensity against time, and signs of trouble for the QC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.workers import Workers
from als_analysis.xpcs.stream import Block
from als_analysis.xpcs.tiles import Pixels

F64 = NDArray[np.float64]
_SATURATION_SAMPLES = 32
SEGMENTS = 10  # of the frames, whose intensities are compared
_HOT = 10.0  # times the mean of a pixel's static bin


@dataclass
class Observed:
    """Signs of trouble; fractions are of the frames or of the used pixels."""

    empty_frames: float
    repeated_frames: float
    saturated: float  # part of the looked-at values at the top of the type's range
    dead_pixels: float
    hot_pixels: float
    masked_pixels: float  # left out for a value that is not finite, or masked by the detector
    drift_pixels: float  # how far the centre of the intensity moved between the first and the last segment


class Observer:
    """Watches blocks of frames (n, H * W); memory: two arrays of a frame's size."""

    def __init__(
        self, shape: tuple[int, int], frames: int, pixels: Pixels, segments: int, dtype: np.dtype[Any]
    ) -> None:
        self.shape, self.frames, self.pixels = shape, frames, pixels
        self.whole = dtype.kind in "ui"
        self.top = np.iinfo(dtype).max if self.whole else None
        self.total = np.zeros(pixels.size)
        self.known = np.zeros(pixels.size, dtype=np.int64)
        self.mean = np.full(frames, np.nan)
        self.cuts = [frames * i // segments for i in range(1, segments + 1)]
        self.segments: list[F64] = []
        self.centers: list[tuple[float, float]] = []
        self.done = 0
        self._pixels_per_bin = np.bincount(pixels.static)
        self.repeated = 0
        self.saturated = 0
        self.looked_at = 0
        self._before: tuple[F64, NDArray[np.int64]] = (
            np.zeros(len(pixels.used)),
            np.zeros(len(pixels.used), dtype=np.int64),
        )
        self._last: NDArray[Any] | None = None
        # for pixels that come before frames: sums of their means per segment and static bin, and of the first and last
        # segment: weight, weight * y, weight * x
        self._segment_sums = np.zeros((segments, len(self._pixels_per_bin)))
        self._weights = np.zeros((2, 3))
        self._every = max(1, frames // _SATURATION_SAMPLES)

    def add(self, block: Block, workers: Workers) -> F64:
        """Watch the next frames; returns their means over the used pixels."""
        from als_analysis.xpcs import kernels_frames

        raw = block.raw
        start, count = self.done, len(raw)
        mean = self.mean[start : start + count]
        if block.sums is not None:
            mean[:] = block.sums.frames / len(self.pixels.used)
            self.total += block.sums.pixels
            self.known += count
        else:
            means = kernels_frames.whole_frame_means if self.whole else kernels_frames.frame_means
            adding = kernels_frames.add_whole_frames if self.whole else kernels_frames.add_frames
            runs = self.pixels.runs
            workers.share(lambda a, b: means(raw, runs, a, b, mean), count)
            workers.share(lambda a, b: adding(raw, a, b, self.total, self.known), self.pixels.size)
        for row in range(count):
            previous = raw[row - 1] if row else self._last
            # the mean of a repeated frame is the same to the last bit: whole frames are compared only then
            same = start + row > 0 and mean[row] == self.mean[start + row - 1]
            if same and previous is not None and mean[row] != 0 and np.array_equal(raw[row], previous):
                self.repeated += 1
            if self.top is not None and (start + row) % self._every == 0:
                self.saturated += int(np.count_nonzero(raw[row][self.pixels.used] == self.top))
                self.looked_at += len(self.pixels.used)
        self._last = raw[-1].copy()
        self.done += count
        if self.done in self.cuts:
            self._close_segment()
        return mean

    def add_sums(self, sums: NDArray[np.int64], full: NDArray[np.int64], content: Callable[[int], NDArray[Any]]) -> F64:
        """As `add`, for frames of which only the sums and the numbers at the top are known, of used pixels each.

        content(t) gives what is equal for equal frames; the file has one encoder. Pixels come later, see `add_pixels`.
        """
        start, count = self.done, len(sums)
        mean = self.mean[start : start + count]
        mean[:] = sums / len(self.pixels.used)
        for row in range(count):
            same = start + row > 0 and mean[row] != 0 and mean[row] == self.mean[start + row - 1]
            if same:
                before = content(row - 1) if row else self._last
                self.repeated += int(before is not None and np.array_equal(content(row), before))
        self._last = content(count - 1).copy()
        self.saturated += int(full.sum())
        self.looked_at += count * len(self.pixels.used)
        self.done += count
        return mean

    def add_pixels(self, first: int, segments: NDArray[np.int64]) -> None:
        """All frames of the pixels from `first` on: their sums over each segment, (segments, pixels)."""
        from als_analysis.xpcs import kernels_frames

        end = first + segments.shape[1]
        self.total[first:end] = segments.sum(axis=0)
        low, high = (int(n) for n in np.searchsorted(self.pixels.used, (first, end)))
        static, used = self.pixels.static[low:high], self.pixels.used[low:high]
        share = 1.0 / np.diff([0, *self.cuts])
        kernels_frames.add_segments(
            segments, used - first, static, used, self.shape[1], share, self._segment_sums, self._weights
        )

    def close_segments(self) -> None:
        """All pixels were added."""
        self.known[:] = self.frames
        self.segments = list(self._segment_sums / self._pixels_per_bin)
        self.centers = [(float(w[1] / w[0]), float(w[2] / w[0])) for w in self._weights if w[0] > 0]

    def _close_segment(self) -> None:
        used = self.pixels.used
        total, known = self.total[used], self.known[used]
        part, frames = total - self._before[0], known - self._before[1]
        self._before = (total, known)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = part / frames
        self.segments.append(self.per_static(mean))
        if len(self.segments) in (1, len(self.cuts)):
            weight = np.where(np.isfinite(mean) & (mean > 0), mean, 0.0)
            if (whole := weight.sum()) > 0:
                y, x = np.divmod(used, self.shape[1])
                self.centers.append((float((weight * y).sum() / whole), float((weight * x).sum() / whole)))

    def per_static(self, values: F64) -> F64:
        """Mean of the finite `values` (used pixels,) over each static bin."""
        good = np.isfinite(values)
        if good.all():
            return np.asarray(np.bincount(self.pixels.static, weights=values) / self._pixels_per_bin)
        statics = len(self._pixels_per_bin)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(
                np.bincount(self.pixels.static[good], weights=values[good], minlength=statics)
                / np.bincount(self.pixels.static[good], minlength=statics)
            )

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """All that has been seen, for a checkpoint."""
        return {
            "total": self.total,
            "known": self.known,
            "mean": self.mean,
            "segments": np.array(self.segments),
            "centers": np.array(self.centers).reshape(-1, 2),
            "before_total": self._before[0],
            "before_known": self._before[1],
            "segment_sums": self._segment_sums,
            "weights": self._weights,
            "last": self._last if self._last is not None else np.empty(0),
            "counts": np.array([self.done, self.repeated, self.saturated, self.looked_at]),
        }

    def restore(self, stored: dict[str, NDArray[Any]]) -> None:
        """Go on from a snapshot."""
        self.total, self.known, self.mean = stored["total"], stored["known"], stored["mean"]
        self.segments, self.centers = list(stored["segments"]), [(float(y), float(x)) for y, x in stored["centers"]]
        self._before, self._last = (stored["before_total"], stored["before_known"]), stored["last"]
        self._segment_sums, self._weights = stored["segment_sums"], stored["weights"]
        self.done, self.repeated, self.saturated, self.looked_at = (int(n) for n in stored["counts"])

    def mean_2d(self) -> F64:
        """Mean frame (H, W); NaN where no frame had a finite value."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.total / self.known).reshape(self.shape))

    def observed(self, alive: NDArray[np.bool_], masked: int = 0) -> Observed:
        """The findings, once all frames have passed; `alive` says which used pixels were finite throughout.

        `masked` more pixels were to be used, and are masked by the detector.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.total[self.pixels.used] / self.known[self.pixels.used]
        usual = self.per_static(mean)[self.pixels.static]
        drift = float(np.hypot(*np.subtract(self.centers[-1], self.centers[0]))) if len(self.centers) > 1 else 0.0
        return Observed(
            empty_frames=float(np.mean(~(self.mean != 0))),
            repeated_frames=self.repeated / self.frames,
            saturated=self.saturated / self.looked_at if self.looked_at else 0.0,
            dead_pixels=float(np.mean(mean[alive] == 0)) if alive.any() else 0.0,
            hot_pixels=float(np.mean(mean > _HOT * usual)) if len(mean) else 0.0,
            masked_pixels=float((np.count_nonzero(~alive) + masked) / (len(alive) + masked)),
            drift_pixels=drift,
        )
