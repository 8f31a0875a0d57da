"""Correlate by pixels (see `by_pixels`) straight from the encoded file, which is read twice.

First all frames one after the other, for their sums, by which they are divided; then, from the page cache, a few blocks
of pixels of all frames at a time. For files that the page cache can hold, of the kind that `readers.blocks` reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import Preempted, RawFileError
from als_analysis.readers.frames import FrameSource
from als_analysis.workers import Workers
from als_analysis.xpcs.by_pixels import ByPixels
from als_analysis.xpcs.checkpoint import Arrays, Checkpoint
from als_analysis.xpcs.multitau import G2, BinSums, Correlator
from als_analysis.xpcs.observe import Observer
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.state import LANES, Mark, State
from als_analysis.xpcs.tiles import Pixels

if TYPE_CHECKING:
    from als_analysis.readers.blocks import Blocks

_FETCHED_BYTES = 8 << 20  # of encoded frames that are read at once in the first pass
_PIECE_BYTES = 8 << 20  # of several blocks that are read at once in the second one, by each thread …
_PART_BYTES = 21 << 18  # … or of one block
_FIRST_PASS = 0.25  # of the time
_SLOWER, _PATIENCE_S = 5.0, 0.2  # a piece that takes this much longer than in the first pass, and so many seconds


class FramesFirst(Exception):
    """Pixels cannot come first: a chunk is not what it should be (who decodes frame by frame can say what is wrong with
    it), or the file is not in the page cache after all; the message says so to the user."""


class EncodedRun:
    """Two passes over the frames of one file; what it knows on the way can be kept and taken up again."""

    def __init__(
        self,
        source: FrameSource,
        blocks: Blocks,
        options: Options,
        pixels: Pixels,
        observer: Observer,
        workers: Workers,
        cuts: list[int],
        scale_of: Callable[[NDArray[np.float64]], NDArray[np.float32]],
    ) -> None:
        self.source, self.blocks, self.options, self.pixels = source, blocks, options, pixels
        self.observer, self.workers, self.scale_of = observer, workers, scale_of
        self.frames = options.raw_frames(0, observer.frames)
        self.correlator = Correlator(observer.frames, pixels, workers)  # its state is never written to
        self.checkpoint: Checkpoint | None = None
        encoded = blocks.encoded_bytes(self.frames)
        self.together = max(1, min(_PIECE_BYTES * blocks.count // max(encoded, 1), blocks.count // 8))
        # where one block of all frames is too much, it comes in equal parts
        parts = 1 if self.together > 1 else -(-encoded // (_PART_BYTES * blocks.count))
        self.at_once = -(-len(self.frames) // max(1, min(parts, len(self.frames))))
        self.fetched = max(1, _FETCHED_BYTES * len(self.frames) // max(encoded, 1))
        self.widths = blocks.widths(len(self.frames), self.together)
        firsts = np.arange(blocks.count + 1) * blocks.pixels
        tiles = [int(t) for t in np.searchsorted(pixels.starts, firsts)]
        self.by = ByPixels(pixels, self.correlator.lags, tiles, cuts)
        self.done = 0  # blocks
        self.fetch_seconds, self.fetch_bytes = 0.0, 0  # of the first pass

    @property
    def identity(self) -> dict[str, Any]:
        """What the sums on the way depend on."""
        return {"by": "pixels", "together": self.together, "at_once": self.at_once}

    @property
    def cuts(self) -> list[int]:
        """Where parts of the frames end."""
        return self.by.cuts

    def alive(self) -> NDArray[np.bool_]:
        """Which of the used pixels had a finite value in every frame: whole numbers are."""
        return np.ones(len(self.pixels.used), dtype=bool)

    @staticmethod
    def nbytes(blocks: Blocks, tiles: int, levels: int, threads: int) -> int:
        """About how many bytes a run takes, besides the interpreter."""
        most = min(tiles, -(-blocks.pixels // LANES))
        rows = 512 * blocks.pixels * blocks.dtype.itemsize
        each = State.nbytes(most, levels) + Mark.nbytes(most, levels) + _PIECE_BYTES + rows
        return threads * each + 3 * _FETCHED_BYTES + 100 * blocks.pixels * blocks.count

    def through(
        self, progress: Callable[[int, int], None] | None, stop: Callable[[], bool] | None
    ) -> tuple[G2, list[G2]]:
        """(g2, error) over all frames, and of each part. Raises `FramesFirst`, `RawFileError`, `Preempted`."""
        self._restore()
        total = self.observer.frames

        def went_on(share: float) -> bool:
            done = int(share * total)
            if progress is not None:
                progress(done, total)
            return stop is None or share >= 1 or not stop()

        if not (self._sum_frames(went_on) and self._add_blocks(went_on)):
            if self.checkpoint is not None:
                self.checkpoint.save(self._snapshot())
            then = "the same command goes on there" if self.checkpoint is not None else "it starts again"
            share = _FIRST_PASS * self.observer.done / total + (1 - _FIRST_PASS) * self.done / self.blocks.count
            raise Preempted(f"{self.source.path}: stopped after frame {int(share * total)} of {total}; {then}")
        self.observer.close_segments()
        return self.by.g2(self.correlator)

    def _sum_frames(self, went_on: Callable[[float], bool]) -> bool:
        """The first pass: every frame's sum, and where its blocks are."""
        total, observer = self.observer.frames, self.observer
        coming = None
        for begin, end in pairwise([*range(observer.done, total, self.fetched), total]):
            fetched = (coming or self._fetch(begin, end)).result()
            coming = self._fetch(end, min(end + self.fetched, total)) if end < total else None
            used, widths = self.pixels.used_bits, self.widths[begin:end]
            sums, full = self.blocks.index(fetched, used, self.together, widths, self.workers)
            if (sums < 0).any():
                raise FramesFirst
            observer.add_sums(sums, full, fetched.chunk)
            if not went_on(_FIRST_PASS * end / total):
                return False
        return True

    def _fetch(self, begin: int, end: int) -> Any:
        def fetch() -> Any:
            began = time.perf_counter()
            fetched = self.source.fetch(self.options.raw_frames(begin, end))
            self.fetch_seconds += time.perf_counter() - began
            self.fetch_bytes += int(fetched.starts[-1])
            return fetched

        return self.workers.ahead(fetch)

    def check_speed(self, size: int, seconds: float) -> None:
        """Raise `FramesFirst` if a piece of the second pass came much slower than the first pass did.

        Many file systems of compute nodes keep nothing in the page cache: each short piece is then a call to a server.
        """
        usual = self.fetch_seconds * size / max(self.fetch_bytes, 1)
        if seconds > _PATIENCE_S and seconds > _SLOWER * usual:
            raise FramesFirst(
                f"{self.source.path}: {size >> 10} KiB of pixels took {seconds:.1f} s to read, in frames "
                f"{usual:.1f} s: it is not in the page cache; going over the frames instead"
            )

    def _add_blocks(self, went_on: Callable[[float], bool]) -> bool:
        """The second pass: block by block through all frames."""
        scale = self.scale_of(self.observer.mean)
        spans = sorted({0, *self.by.cuts, *range(0, self.observer.frames, self.at_once), self.observer.frames})

        def taken(block: int, segments: NDArray[np.int64]) -> None:
            self.observer.add_pixels(block * self.blocks.pixels, segments)
            self.done = block + 1

        def share(done: int) -> bool:
            return went_on(_FIRST_PASS + (1 - _FIRST_PASS) * done / self.blocks.count)

        return self.by.run(self.workers, spans, lambda: _Feed(self, scale), taken, share, self.done, self.together)

    def largest_piece(self) -> int:
        """Bytes of the largest piece that is read at once in the second pass."""
        widths = self.widths
        return max(
            int(widths[i : i + self.at_once].sum(axis=0, dtype=np.int64).max())
            for i in range(0, len(widths), self.at_once)
        )

    def _snapshot(self) -> Arrays:
        arrays = {f"observer_{k}": v for k, v in self.observer.snapshot().items()}
        for number, sums in enumerate(self.by.sums):
            arrays |= {f"static_{number}": sums.per_static, f"dynamic_{number}": sums.per_dynamic}
        return arrays | {"widths": self.widths, "blocks": np.array(self.done)}

    def _restore(self) -> None:
        stored = self.checkpoint.load() if self.checkpoint is not None else None
        if stored is None:
            return
        self.observer.restore({k.removeprefix("observer_"): v for k, v in stored.items() if k.startswith("observer_")})
        self.by.sums = [BinSums(stored[f"static_{n}"], stored[f"dynamic_{n}"]) for n in range(len(self.by.cuts))]
        self.widths, self.done = stored["widths"], int(stored["blocks"])


class _Feed:
    """One thread's way from the file to the state: it keeps a piece of all frames, some blocks wide."""

    def __init__(self, run: EncodedRun, scale: NDArray[np.float32]) -> None:
        self.run, self.scale = run, scale
        self.buffer = np.empty(run.largest_piece(), dtype=np.uint8)  # once: new memory costs more than the reading
        self.kind = np.empty(0, dtype=run.blocks.dtype)
        run.blocks.prepare()  # compiling would be taken for slow reading
        self.read: tuple[int, int] | None = None  # piece and first frame of what is in the buffer
        self.segments = np.zeros((len(run.observer.cuts), 0), dtype=np.int64)

    def begin(self, group: int, low: int, high: int) -> None:
        width = min(self.run.blocks.pixels, self.run.pixels.size - group * self.run.blocks.pixels)
        self.segments = np.zeros((len(self.run.observer.cuts), width), dtype=np.int64)

    def add(self, group: int, low: int, high: int, begin: int, end: int, state: State) -> None:
        from als_analysis.xpcs import kernels_encoded

        run = self.run
        first = self._get(group // run.together, begin)
        width = self.segments.shape[1]
        tile_of_word = np.full(width // LANES, -1, dtype=np.int64)
        words = (run.pixels.starts[low:high] - group * run.blocks.pixels) // LANES
        tile_of_word[words] = np.arange(high - low)
        cuts = np.array([0, *run.observer.cuts])
        edges = np.unique(np.clip(cuts, begin, end))
        part = slice(begin - first, end - first)
        sound = kernels_encoded.add_encoded(
            run.blocks.lz4, self.buffer, self.at[part], self.starts[1:][part], width, self.kind, self.scale[begin:end],
            edges - begin, np.searchsorted(cuts, edges[:-1], side="right") - 1, tile_of_word, state.frames,
            self.segments, state.sums, state.recent, state.first, state.total,
        )  # fmt: skip
        if not sound:
            raise RawFileError(f"{run.source.path}: frames {begin} to {end}: changed while they were read")

    def _get(self, piece: int, begin: int) -> int:
        """Have a piece of frames from `begin` on in the buffer, and `at` where its next block is; gives the first.

        Where not all frames fit at once, a piece is one block.
        """
        run = self.run
        first = begin // run.at_once * run.at_once
        if self.read != (piece, first):
            last = min(first + run.at_once, run.observer.frames)
            frames = run.options.raw_frames(first, last)
            began = time.perf_counter()
            self.starts = run.blocks.read(frames, run.widths[first:last], piece, self.buffer)
            if self.read is None and run.fetch_bytes:
                run.check_speed(int(self.starts[-1]), time.perf_counter() - began)
            self.read, self.at = (piece, first), self.starts[:-1].copy()
        return first

    def end(self) -> NDArray[np.int64]:
        return self.segments
