"""Two-time correlation per dynamic bin, C(t1, t2) = <x(t1) x(t2)> over its pixels, by matrix products.

x is the intensity divided by the mean of its static bin in that frame (`sqmap`), of its dynamic bin (`dqmap`), or only
by the frame's mean (`none`). Products are taken of a = x - 1, whose sums do not lose digits to a large constant:
<x x'> = 1 + <a> + <a'> + <a a'>, with the averages of a in f64. Reference for the method: Sutton et al., Optics Express
11, 2268 (2003).

Bins go through memory in groups that fit; the file is read once per group. Maps too large for memory lie in a scratch
file beside the result while they grow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import BadArguments, OutOfMemory, Preempted
from als_analysis.memory import INTERPRETER_BYTES
from als_analysis.readers.frames import FrameSource
from als_analysis.workers import Workers
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.stream import block_edges, blocks
from als_analysis.xpcs.tiles import Pixels

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
SEGMENTS = 5
_TILE = 2048  # rows of C at a time
_USUAL_BYTES = 1 << 30
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class TwoTime:
    """One bin: `bin` from 1, C (N, N) upper triangle (f32), g2 (N,) by lag, segments (N // 5, 5)."""

    bin: int
    c2: F32
    g2: F64
    segments: F64


@dataclass
class _Rows:
    """The pixels of one bin (or a part of them) over all frames: `a` (N, P) f32, `index` (P,) into the frame."""

    bin: int
    index: NDArray[np.int64]
    edges: NDArray[np.int64]  # where each static (or dynamic) bin's pixels begin and end
    a: F32
    last: bool  # no further part of this bin follows


def two_time(
    source: FrameSource,
    pixels: Pixels,
    numbers: NDArray[np.int64],
    options: Options,
    workers: Workers,
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    done: Collection[int] = (),
    stop: Callable[[], bool] | None = None,
) -> Iterator[TwoTime]:
    """The two-time correlation of the bins that `options.dq` names (empty: all) but those `done`, one after the other.

    Maps that do not fit into memory grow in a file without a name in the directory `scratch`. `stop` is asked often.

    `numbers` (from 1) are the bins' numbers in the q-map. Pixels with a value that is not finite in any frame are left
    out. Raises `BadArguments` for a bin without pixels, `OutOfMemory`, `RawFileError`, `Preempted`.
    """
    frames = options.processed(source.shape[0])
    wanted = options.dq or tuple(int(n) for n in numbers)
    missing = [n for n in wanted if n not in set(numbers.tolist())]
    if missing:
        raise BadArguments(f"--dq: bin {missing[0]} has no pixels; there are {numbers[0]} to {numbers[-1]}")
    # not what is held at the moment: bins would be cut, and sums rounded, in another way the next time
    budget = _USUAL_BYTES if options.memory is None else options.memory - INTERPRETER_BYTES
    room = budget // 2 // (4 * frames)  # pixels whose frames fit
    if room < 64:
        raise OutOfMemory(f"{source.path}: two-time of {frames} frames needs {2 * 64 * 4 * frames >> 20} MiB at least")
    missing = [n for n in wanted if n not in done]
    groups = list(_groups(pixels, numbers, missing, options.smooth, int(room)))

    def heed() -> None:
        if stop is not None and stop():
            raise Preempted(f"{source.path}: stopped during two-time; the same command goes on after its finished bins")

    grown: _Map | None = None
    for number, group in enumerate(groups):
        rows = [
            _Rows(b, index, edges, np.empty((frames, len(index)), dtype=np.float32), last)
            for b, index, edges, last in group
        ]
        _fill(source, options, pixels, rows, frames, workers, heed)
        for part in rows:
            if grown is None:
                grown = _Map(frames, budget // 2, scratch)
            grown.add(part.a, workers, heed)
            if part.last:
                yield grown.finish(part.bin, workers)
                grown = None
        if progress is not None:
            progress(number + 1, len(groups))


def _groups(
    pixels: Pixels, numbers: NDArray[np.int64], wanted: list[int], smooth: str, room: int
) -> Iterator[list[tuple[int, NDArray[np.int64], NDArray[np.int64], bool]]]:
    """Bins (cut at static bins where one alone is too large) in groups of at most `room` pixels."""
    group: list[tuple[int, NDArray[np.int64], NDArray[np.int64], bool]] = []
    held = 0
    for bin_ in wanted:
        mine = np.flatnonzero(pixels.dynamic == int(np.searchsorted(numbers, bin_)))
        mine = mine[np.argsort(pixels.static[mine], kind="stable")]
        whole = [0, len(mine)]
        cuts = np.concatenate([[0], np.flatnonzero(np.diff(pixels.static[mine])) + 1, [len(mine)]])
        edges = cuts if smooth == "sqmap" else np.array(whole)
        start = 0
        while start < len(edges) - 1:
            stop = int(np.searchsorted(edges, edges[start] + room, side="right")) - 1
            stop = max(stop, start + 1)
            index, inner = pixels.used[mine[edges[start] : edges[stop]]], edges[start : stop + 1] - edges[start]
            if group and held + len(index) > room:
                yield group
                group, held = [], 0
            group.append((bin_, index, inner.astype(np.int64), stop == len(edges) - 1))
            held += len(index)
            start = stop
    if group:
        yield group


def _fill(
    source: FrameSource,
    options: Options,
    pixels: Pixels,
    rows: list[_Rows],
    frames: int,
    workers: Workers,
    heed: Callable[[], None],
) -> None:
    """Read all frames and keep a = x - 1 of the group's pixels."""
    from als_analysis.xpcs import kernels_frames, kernels_twotime

    block = max(1, _BLOCK_BYTES // (pixels.size * source.dtype.itemsize * options.avg))
    whole = source.dtype.kind in "ui" and options.avg == 1
    means = kernels_frames.whole_frame_means if whole else kernels_frames.frame_means
    for start, found in blocks(source, options, block_edges(frames, block, set()), workers):
        heed()
        raw = found.raw
        mean = np.ones(len(raw))
        if options.frame_norm and options.smooth == "none":
            workers.share(lambda a, b, raw=raw, mean=mean: means(raw, pixels.runs, a, b, mean), len(raw))  # type: ignore[misc]
            mean[~(mean > 0)] = 1.0
        for part in rows:
            out = part.a[start : start + len(raw)]

            def gather(a: int, b: int, raw: Any = raw, out: Any = out, part: _Rows = part, mean: Any = mean) -> None:
                kernels_twotime.gather_rows(raw, part.index, mean, a, b, out)

            workers.share(gather, len(raw))
    divide = options.smooth != "none"
    for part in rows:
        alive = np.isfinite(part.a).all(axis=0) if source.dtype.kind == "f" else np.ones(len(part.index), dtype=bool)
        edges = part.edges

        def relative(a: int, b: int, part: _Rows = part, alive: Any = alive, edges: Any = edges) -> None:
            kernels_twotime.relative_rows(part.a, alive, edges, divide, a, b)

        workers.share(relative, frames)
        part.a = part.a if alive.all() else np.ascontiguousarray(part.a[:, alive])


class _Map:
    """C of one bin while its pixels are added; in memory, or in a scratch file where it is too large."""

    def __init__(self, frames: int, most_bytes: int, scratch: Path | None) -> None:
        self.frames, self.pixels = frames, 0
        self.mean = np.zeros(frames)
        large = 4 * frames * frames > most_bytes
        # open as long as the map is in use, and gone with it
        self._scratch = tempfile.TemporaryFile(dir=scratch) if large else None  # noqa: SIM115
        shape = (frames, frames)
        self.c2: F32 = (
            np.zeros(shape, dtype=np.float32)
            if self._scratch is None
            else np.memmap(self._scratch, dtype=np.float32, mode="w+", shape=shape)
        )

    def add(self, a: F32, workers: Workers, heed: Callable[[], None] = lambda: None) -> None:
        """Add the products of (N, P) rows to the upper triangle; `heed` is called now and then, and may raise."""
        from scipy.linalg import blas

        from als_analysis.xpcs import kernels_twotime

        self.pixels += a.shape[1]
        workers.share(lambda begin, end: kernels_twotime.row_sums(a, begin, end, self.mean), self.frames)
        for top in range(0, self.frames, _TILE):
            heed()
            bottom = min(top + _TILE, self.frames)
            # BLAS counts in columns: the transposes of these C-ordered arrays are what it wants, without a copy
            one = a[top:bottom].T
            square = self.c2[top:bottom, top:bottom]
            square += blas.ssyrk(1.0, one, trans=1, lower=1).T
            for left in range(bottom, self.frames, _TILE):
                right = min(left + _TILE, self.frames)
                self.c2[top:bottom, left:right] += blas.sgemm(1.0, a[left:right].T, one, trans_a=1).T

    def finish(self, bin_: int, workers: Workers) -> TwoTime:
        """C and what follows from its diagonals."""
        from als_analysis.xpcs import kernels_twotime

        n, count = self.frames, max(self.pixels, 1)
        mean = self.mean / count
        length = max(n // SEGMENTS, 1)
        parts = workers.threads
        sums, segments = np.zeros((parts, n)), np.zeros((parts, SEGMENTS, length))
        edges = [int(n * (1 - np.sqrt(1 - i / parts))) for i in range(parts)] + [n]  # equal areas of the triangle

        def work(begin: int, end: int) -> None:
            for part in range(begin, end):
                kernels_twotime.finish_rows(
                    self.c2, mean, count, edges[part], edges[part + 1], length, sums[part], segments[part]
                )

        workers.share(work, parts)
        pairs = n - np.arange(n)
        inside = length - np.arange(length)
        return TwoTime(bin_, self.c2, sums.sum(axis=0) / pairs, (segments.sum(axis=0) / inside).T)
