"""Frames as events: what nearly empty frames come down to, in the order in which pixels are correlated.

Frames come in slices of at most SLICE. In each slice the events of a word of pixels, 64 that lie side by side, follow
one another frame by frame, and the words are in their order. An event is a code of 16 bits, the lowest first:

    6   the pixel in its word
    5   the frame in its slice
    5   the count, 1 to 31; or 0: the next MORE codes are the count, an i64 in parts of 16 bits, the lowest first
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.workers import Workers

WORD = 64  # pixels
SLICE = 32  # frames
FRAME_SHIFT, COUNT_SHIFT = 6, 11  # where the frame's and the count's bits begin in a code
MORE = 4
MOST_IN_WORD = SLICE * WORD * (1 + MORE)  # codes of one word in one slice


@dataclass(frozen=True)
class Events:
    """Events of some frames, valid until the next ones are read.

    Slice s has frames edges[s] … edges[s + 1]; its codes are codes[begins[s] : ends[s]], lengths[s, w] of them of word
    w. `sums` (frames,) of each frame over the used pixels, and `full`, how many of these are at the top of their type's
    range. content(t) is equal for equal frames.
    """

    edges: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    lengths: NDArray[np.uint16]
    codes: NDArray[np.uint16]
    sums: NDArray[np.int64]
    full: NDArray[np.int64]
    content: Callable[[int], NDArray[Any]]

    def __len__(self) -> int:
        return int(self.edges[-1])

    @property
    def slices(self) -> int:
        return len(self.begins)


def in_words(
    starts: NDArray[np.int64],
    pixel: NDArray[np.int32],
    count: NDArray[Any],
    pixels: int,
    edges: NDArray[np.int64],
    used: NDArray[np.uint64],
    workers: Workers,
) -> Events:
    """Events in their order from those of each frame: frame t's pixels and counts from starts[t] to starts[t + 1].

    A frame has a pixel once at most, `pixels` in all; `used` has a bit for each, the lowest first.
    """
    from als_analysis.readers import kernels_events

    slices, frames = len(edges) - 1, len(starts) - 1
    lengths = np.zeros((slices, -(-pixels // WORD)), dtype=np.uint16)
    found = (starts, pixel, count)
    workers.share(lambda a, b: kernels_events.count_codes(*found, edges, a, b, lengths), slices)
    ends = np.cumsum(lengths.reshape(-1), dtype=np.int64).reshape(lengths.shape)
    place = ends - lengths
    codes = np.empty(int(ends[-1, -1]), dtype=np.uint16)
    workers.share(lambda a, b: kernels_events.place_codes(*found, edges, a, b, place.copy(), codes), slices)
    sums, full = np.empty((2, frames), dtype=np.int64)
    top = int(np.iinfo(count.dtype).max)
    workers.share(lambda a, b: kernels_events.sum_events(*found, used, top, a, b, sums, full), frames)

    def content(t: int) -> NDArray[Any]:
        part = slice(starts[t], starts[t + 1])
        return np.concatenate([pixel[part], count[part]])

    return Events(edges, place[:, 0].copy(), ends[:, -1].copy(), lengths, codes, sums, full, content)


def of_dense(raw: NDArray[Any], edges: NDArray[np.int64], used: NDArray[np.uint64], workers: Workers) -> Events:
    """The events of dense frames (n, H * W)."""
    from als_analysis.readers import kernels_events

    counts = np.zeros(len(raw), dtype=np.int64)
    fits = raw.flags.c_contiguous and raw.shape[1] * raw.itemsize % 8 == 0
    words = raw.view(np.uint64) if fits else raw
    workers.share(lambda a, b: kernels_events.count_events(words, raw, a, b, counts), len(raw))
    starts = np.concatenate([[0], np.cumsum(counts)])
    pixel, count = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=raw.dtype)
    workers.share(lambda a, b: kernels_events.list_events(words, raw, a, b, starts, pixel, count), len(raw))
    return in_words(starts, pixel, count, raw.shape[1], edges, used, workers)
