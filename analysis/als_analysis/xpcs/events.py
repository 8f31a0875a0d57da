"""Frames with few photons as lists of events, and the correlator that works on them.

Chosen by measured occupancy: below about 3 % it is faster than going over all pixels, with the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import BadArguments, OutOfMemory
from als_analysis.memory import INTERPRETER_BYTES
from als_analysis.readers.events import SLICE, WORD, Events, of_dense
from als_analysis.readers.frames import FrameSource
from als_analysis.workers import Workers
from als_analysis.xpcs.by_pixels import ByPixels
from als_analysis.xpcs.kept_events import Kept
from als_analysis.xpcs.multitau import G2, Correlator
from als_analysis.xpcs.observe import SEGMENTS, Observer
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.state import Mark, State, lags_for
from als_analysis.xpcs.tiles import Pixels

MOST_OCCUPIED = 0.03
FEWEST_FRAMES = 256
BLOCK_MULTIPLE = 16
_SAMPLED = 8
MOST_KEPT = 120 << 20  # codes, of 2 bytes each
_FEWEST_KEPT = 12 << 20  # where there is memory for a state of all pixels, too
FRAMES_IN_BLOCK = 512
_WORDS_IN_GROUP = 64


class TooManyEvents(OutOfMemory):
    """They do not fit into the memory limit; a state of all pixels may."""


def is_sparse(source: FrameSource, options: Options, pixels: Pixels, frames: int, workers: Workers) -> bool:
    """Whether to take the event path: when told so, or when a few frames spread over all are nearly empty.

    Raises `BadArguments` when told so for data that it cannot take.
    """
    countable = source.dtype.kind == "i" or (source.dtype.kind == "u" and source.dtype.itemsize <= 4)
    possible = countable and options.avg == 1 and frames >= FEWEST_FRAMES
    if options.sparse == "always" and not possible:
        raise BadArguments(
            f"--sparse always: it takes whole numbers (without a sign up to 32 bits), no --avg, and at least "
            f"{FEWEST_FRAMES} frames; "
            f"{source.path} has {frames} of {source.dtype}"
        )
    if options.sparse != "auto" or not possible:
        return options.sparse == "always"
    known = getattr(source, "occupancy", None)
    if known is not None:
        return bool(known < MOST_OCCUPIED)
    picked = options.raw_frames(0, frames)[:: max(1, frames // _SAMPLED)]
    frame = np.empty((1, pixels.size), dtype=source.dtype)
    occupied = []
    for f in picked:
        source.decode(source.fetch(range(f, f + 1)), frame, workers)
        occupied.append(np.count_nonzero(frame[0, pixels.used]) / len(pixels.used))
    return bool(np.mean(occupied) < MOST_OCCUPIED)


@dataclass(frozen=True)
class Room:
    """How many codes of a file's events are kept, and whether there may be a state of all pixels if there are more."""

    path: Path
    codes: int
    whole_state: bool

    @classmethod
    def of(cls, source: FrameSource, options: Options, pixels: Pixels, frames: int, threads: int) -> Room:
        """What the memory limit leaves; raises `TooManyEvents` where that is too little for any."""
        if options.memory is None:
            return cls(source.path, MOST_KEPT, True)
        levels = lags_for(frames).levels

        def state(tiles: int) -> int:
            return State.nbytes(tiles, levels) + (Mark.nbytes(tiles, levels) if options.partials > 1 else 0)

        block = min(FRAMES_IN_BLOCK, frames) * (2 * source.encoded_frame_bytes() + int(2 * MOST_OCCUPIED * pixels.size))
        fixed = INTERPRETER_BYTES + 100 * pixels.size + block
        whole = fixed + state(pixels.tiles) + 8 * SEGMENTS * pixels.size + 2 * _FEWEST_KEPT
        if whole <= options.memory:
            return cls(source.path, min(_FEWEST_KEPT + (options.memory - whole) // 2, MOST_KEPT), True)
        least = fixed + threads * state(_WORDS_IN_GROUP) + block
        if least > options.memory or options.save_g2:
            raise TooManyEvents(
                f"{source.path}: the events of {len(pixels.used)} pixels and {frames} frames need "
                f"{(whole if options.save_g2 else least) >> 20} MiB, the limit is {options.memory >> 20} MiB"
            )
        return cls(source.path, (options.memory - least + block) // 2, False)


class EventCorrelator(Correlator):
    """A `Correlator` that takes events. Blocks are multiples of 16 frames, but for the last.

    It only keeps them, as long as there is `room`, and correlates them at the end by pixels (see `by_pixels`); or,
    whenever there is no more room or if `whole_state`, in a state of all pixels as a `Correlator` has. Its tiles are
    words of pixels: `pixels` are not gathered.
    """

    def __init__(
        self, frames: int, pixels: Pixels, workers: Workers, observer: Observer, room: Room, whole_state: bool
    ) -> None:
        super().__init__(frames, pixels, workers)
        self._observer = observer
        self._groups = _Groups(pixels)
        self._room = room
        self._kept = Kept(frames, room.codes, self._groups.words)
        self._whole_state = whole_state
        self._per_lane: NDArray[np.int64] | None = None  # (segments, pixels), once there is a whole state

    def snapshot(self) -> dict[str, NDArray[Any]]:
        kept = {f"kept_{name}": values for name, values in self._kept.snapshot().items()}
        return kept if self._per_lane is None else kept | super().snapshot() | {"per_lane": self._per_lane}

    def restore(self, stored: dict[str, NDArray[Any]]) -> None:
        self._kept.restore({k.removeprefix("kept_"): v for k, v in stored.items() if k.startswith("kept_")})
        if "per_lane" in stored:
            super().restore(stored)
            self._per_lane = stored["per_lane"]

    def add_events(self, events: Events, scale: NDArray[np.float32]) -> None:
        """Add the next frames; `scale` (n,) multiplies the counts of each."""
        need = Kept.size(events)
        if self._kept.room < need:
            self._empty()
        if self._kept.room < need:  # more in one block than there is room for
            self._kept = self._kept.larger(need)
        segment = np.searchsorted(self._observer.cuts, self._kept.end + events.edges[:-1], "right")
        self._kept.add(events, scale, segment, self.workers)

    def _empty(self) -> None:
        """Take what is kept into the whole state, but for the last frames, which the next ones need again."""
        from als_analysis.xpcs import kernels_sparse

        kept, groups = self._kept, self._groups
        if not self._room.whole_state:
            more = 2 * len(kept.codes) * (self._observer.frames - kept.end) // max(kept.end, 1)
            raise TooManyEvents(
                f"{self._room.path}: the events of {kept.end} of {self._observer.frames} frames take all of the memory "
                f"limit; about {(more >> 20) + 1} MiB more are needed"
            )
        if self._per_lane is None:
            self._per_lane = np.zeros((len(self._observer.cuts), groups.words * WORD), dtype=np.int64)
        feed, per_lane = _Feed(kept, groups, len(self._observer.cuts)), self._per_lane
        for begin, end in pairwise(kept.spans(self.state.frames)):
            state = self.state

            def work(low: int, high: int, begin: int = begin, end: int = end, state: State = state) -> None:
                for group in range(low, high):
                    feed.take(group, 0, begin, end, state, per_lane, group * _WORDS_IN_GROUP * WORD)

            self.workers.share(work, len(groups))
            state.frames = end
            if end in kept.cuts:
                super().cut(end == self._observer.frames)
        kept.keep_last(kernels_sparse.MEMORY)

    def cut(self, last: bool) -> None:
        self._kept.cuts.append(self._kept.end)

    def finish(self) -> tuple[G2, list[G2]]:
        size = self.pixels.size
        if self._per_lane is not None or self._whole_state:
            self._empty()
            assert self._per_lane is not None
            self._observer.add_pixels(0, np.ascontiguousarray(self._per_lane[:, :size]))
            self._observer.close_segments()
            return super().finish()
        groups, kept = self._groups, self._kept
        by = ByPixels(self.pixels, self.lags, groups.tiles, kept.cuts)

        def taken(group: int, per_lane: NDArray[np.int64]) -> None:
            first = group * _WORDS_IN_GROUP * WORD
            self._observer.add_pixels(first, np.ascontiguousarray(per_lane[:, : size - first]))

        by.run(self.workers, kept.spans(0), lambda: _Feed(kept, groups, len(self._observer.cuts)), taken)
        self._observer.close_segments()
        return by.g2(self)

    def alive(self) -> NDArray[np.bool_]:
        return np.ones(len(self.pixels.used), dtype=bool)  # events are whole numbers


class _Groups:
    """The frame's words of pixels in groups: which tiles a group has, and which one a word is (-1: none)."""

    def __init__(self, pixels: Pixels) -> None:
        if pixels.gathered is not None:
            raise ValueError("gathered pixels are no words")
        self.words = -(-pixels.size // WORD)
        self.tile_of_word = np.full(self.words, -1, dtype=np.int64)
        self.tile_of_word[pixels.starts // WORD] = np.arange(pixels.tiles)
        edges = np.arange(len(self) + 1) * _WORDS_IN_GROUP * WORD
        self.tiles = [int(tile) for tile in np.searchsorted(pixels.starts, edges)]

    def __len__(self) -> int:
        return -(-self.words // _WORDS_IN_GROUP)

    def words_of(self, group: int) -> slice:
        """The words of a group."""
        return slice(group * _WORDS_IN_GROUP, min((group + 1) * _WORDS_IN_GROUP, self.words))


class _Feed:
    """Brings kept events to a state, group by group of words."""

    def __init__(self, kept: Kept, groups: _Groups, segments: int) -> None:
        self._kept, self._groups, self._segments = kept, groups, segments
        self._lengths = kept.lengths()
        edges = np.arange(len(groups)) * _WORDS_IN_GROUP
        size = np.add.reduceat(self._lengths, edges, axis=1, dtype=np.int64)
        self._starts = kept.starts[:, None] + np.cumsum(size, axis=1) - size  # (slices, groups) of codes
        self._per_lane = np.zeros((0, 0), dtype=np.int64)

    def begin(self, group: int, low: int, high: int) -> None:
        words = self._groups.words_of(group)
        self._per_lane = np.zeros((self._segments, (words.stop - words.start) * WORD), dtype=np.int64)

    def add(self, group: int, low: int, high: int, begin: int, end: int, state: State) -> None:
        self.take(group, low, begin, end, state, self._per_lane, 0)

    def take(
        self, group: int, base: int, begin: int, end: int, state: State, per_lane: NDArray[np.int64], lane: int
    ) -> None:
        """Add frames begin … end to the group's tiles; the state begins with tile `base`, the group at `lane`."""
        from als_analysis.xpcs import kernels_sparse

        kept, words = self._kept, self._groups.words_of(group)
        part = kept.slices(begin - kernels_sparse.MEMORY, end)
        lengths = self._lengths[part, words]
        tiles = self._groups.tile_of_word[words]
        kernels_sparse.add_events(
            kept.codes, self._starts[part, group].copy(), self._lengths, part.start, words.start,
            kept.first[part] - begin, kept.segment[part], kept.scale, begin - kept.begin, end - begin,
            np.where(tiles < 0, -1, tiles - base), lane + np.arange(len(tiles)) * WORD, per_lane,
            int(lengths.sum(axis=0, dtype=np.int64).max()), state.seen, state.sums, state.recent, state.first,
            state.total,
        )  # fmt: skip

    def end(self) -> NDArray[np.int64]:
        return self._per_lane


def event_blocks(
    source: FrameSource, options: Options, edges: list[int], workers: Workers, pixels: Pixels, cuts: list[int]
) -> Iterator[tuple[int, Events]]:
    """(first processed frame, events) block by block: from the file's own events, or what is not 0 in its frames.

    Slices end at `cuts`, too.
    """
    used, spans = pixels.used_bits, list(pairwise(edges))
    coming = workers.ahead(source.fetch, options.raw_frames(*spans[0])) if spans else None
    for number, (start, stop) in enumerate(spans):
        assert coming is not None
        fetched = coming.result()
        following = spans[number + 1 : number + 2]
        coming = workers.ahead(source.fetch, options.raw_frames(*following[0])) if following else None
        inside = {cut - start for cut in cuts if start < cut < stop}
        slices = np.array(sorted({*range(0, stop - start, SLICE), *inside, stop - start}), dtype=np.int64)
        found = source.events(fetched, slices, workers, used)
        if found is None:  # frames too full for their list, or one that only HDF5 can read
            raw = np.empty((len(fetched), pixels.size), dtype=source.dtype)
            source.decode(fetched, raw, workers)
            found = of_dense(raw, slices, used, workers)
        yield start, found
