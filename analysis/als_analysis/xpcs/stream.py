"""Processed frames in blocks: decoded into one buffer while the bytes of the next block are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.readers.frames import FrameSource, Sums
from als_analysis.workers import Workers
from als_analysis.xpcs.options import Options


def block_edges(frames: int, block: int, cuts: set[int], multiple: int = 1) -> list[int]:
    """Where blocks begin and end: at every cut, and between cuts in equal parts of at most `block` frames.

    Cuts and parts are moved down to a multiple of `multiple` frames.
    """
    if multiple > 1:
        counts = block_edges(frames // multiple, max(block // multiple, 1), {c // multiple for c in cuts})
        return sorted({*(c * multiple for c in counts[:-1]), frames})
    edges = [0]
    for cut in sorted({c for c in cuts if 0 < c < frames} | {frames}):
        parts = -(-(cut - edges[-1]) // block)
        start = edges[-1]
        edges += [start + (cut - start) * i // parts for i in range(1, parts + 1)]
    return edges


@dataclass(frozen=True)
class Block:
    """Processed frames, `raw` (n, H * W), and their sums where they came with the decoding."""

    raw: NDArray[Any]
    sums: Sums | None = None

    def __len__(self) -> int:
        return len(self.raw)


def blocks(
    source: FrameSource,
    options: Options,
    edges: list[int],
    workers: Workers,
    used: NDArray[np.uint64] | None = None,
) -> Iterator[tuple[int, Block]]:
    """(first processed frame, block) one after the other; a block is valid until the next one.

    Blocks have the file's type, or f32 (f64 of f64) where frames are averaged. `used` has a bit for each pixel: with it
    a block may have its sums.
    """
    longest = max((b - a for a, b in pairwise(edges)), default=0)
    pixels = source.shape[1] * source.shape[2]
    buffer = np.empty((longest * options.avg, pixels), dtype=source.dtype)
    mean_type = np.float64 if source.dtype == np.float64 else np.float32
    means = np.empty((longest, pixels), dtype=mean_type) if options.avg > 1 else None
    spans = list(pairwise(edges))
    coming = workers.ahead(source.fetch, options.raw_frames(*spans[0])) if spans else None
    for number, (start, stop) in enumerate(spans):
        assert coming is not None
        fetched = coming.result()
        coming = (
            workers.ahead(source.fetch, options.raw_frames(*spans[number + 1])) if number + 1 < len(spans) else None
        )
        raw = buffer[: (stop - start) * options.avg]
        sums = source.decode(fetched, raw, workers, used if means is None else None)
        if means is None:
            yield start, Block(raw, sums)
            continue
        out, avg = means[: stop - start], options.avg

        def average(a: int, b: int, raw: NDArray[Any] = raw, out: NDArray[Any] = out, avg: int = avg) -> None:
            for row in range(a, b):
                np.mean(raw[row * avg : (row + 1) * avg], axis=0, dtype=out.dtype, out=out[row])

        workers.share(average, stop - start)
        yield start, Block(out)
