"""Events that wait to be correlated: of as many frames as there is room for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.readers.events import Events
from als_analysis.workers import Workers

_FRAMES_AT_ONCE = 1 << 14
_OF_SLICES = ("first", "stop", "segment", "starts")


class Kept:
    """The events of frames begin … end of all, for as long as there is room for `most` codes and lengths of words.

    Slice s has frames first[s] … stop[s], which are in segment[s] of the observer's; its codes begin at starts[s].
    Memory is taken as events come.
    """

    def __init__(self, frames: int, most: int, words: int) -> None:
        self.begin = self.end = self._used = 0
        self.cuts: list[int] = []  # where parts of the frames end
        self._blocks: list[int] = []  # where blocks end
        self.first, self.stop, self.segment, self.starts = np.zeros((4, 0), dtype=np.int64)
        self._lengths = [np.empty((0, words), dtype=np.uint16)]
        self.scale = np.empty(frames, dtype=np.float32)  # of frame begin + i
        self.codes = np.empty(most, dtype=np.uint16)

    @property
    def room(self) -> int:
        return len(self.codes) - self._used - sum(lengths.size for lengths in self._lengths)

    @staticmethod
    def size(events: Events) -> int:
        """How much room events take."""
        return int((events.ends - events.begins).sum()) + events.lengths.size

    def larger(self, more: int) -> Kept:
        """The same with room for more."""
        taken = len(self.codes) - self.room
        kept = Kept(len(self.scale), taken + more, self._lengths[0].shape[1])
        kept.restore(self.snapshot())
        return kept

    def add(self, events: Events, scale: NDArray[np.float32], segment: NDArray[np.int64], workers: Workers) -> None:
        """Keep the events of the next frames; `segment` is that of each slice."""
        size = events.ends - events.begins
        starts = self._used + np.cumsum(size) - size

        def work(low: int, high: int) -> None:
            for s in range(low, high):
                self.codes[starts[s] : starts[s] + size[s]] = events.codes[events.begins[s] : events.ends[s]]

        workers.share(work, events.slices)
        self._used += int(size.sum())
        self._lengths.append(events.lengths)
        added = (self.end + events.edges[:-1], self.end + events.edges[1:], segment, starts)
        self.first, self.stop, self.segment, self.starts = (
            np.concatenate(pair) for pair in zip((self.first, self.stop, self.segment, self.starts), added, strict=True)
        )
        at = self.end - self.begin
        self.scale[at : at + len(events)] = scale
        self.end += len(events)
        self._blocks.append(self.end)

    def lengths(self) -> NDArray[np.uint16]:
        """How many codes each word of each slice has, (slices, words)."""
        self._lengths = [np.concatenate(self._lengths)]
        return self._lengths[0]

    def slices(self, begin: int, end: int) -> slice:
        """Those that have some of the frames begin … end."""
        return slice(int(np.searchsorted(self.stop, begin, "right")), int(np.searchsorted(self.first, end, "left")))

    def spans(self, begin: int) -> list[int]:
        """Edges of the frames from number `begin` on: of some blocks, and where parts end."""
        edges = [begin]
        for end, following in pairwise([*(end for end in self._blocks if end > begin), self.end + _FRAMES_AT_ONCE + 1]):
            if end in self.cuts or following - edges[-1] > _FRAMES_AT_ONCE:
                edges.append(end)
        return edges

    def keep_last(self, frames: int) -> None:
        """Forget all slices but those that have some of the last frames."""
        lengths, part = self.lengths(), self.slices(self.end - frames, self.end)
        if part.start == len(self.first):
            return
        from_, begin = int(self.starts[part.start]), int(self.first[part.start])
        self._used -= from_
        self.codes[: self._used] = self.codes[from_ : from_ + self._used].copy()
        self.scale[: self.end - begin] = self.scale[begin - self.begin : self.end - self.begin].copy()
        self.first, self.stop, self.segment = self.first[part], self.stop[part], self.segment[part]
        self.starts, self._lengths = self.starts[part] - from_, [lengths[part].copy()]
        self.begin = begin

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """All of it, for a checkpoint."""
        return {name: getattr(self, name) for name in _OF_SLICES} | {
            "lengths": self.lengths(),
            "codes": self.codes[: self._used],
            "scale": self.scale[: self.end - self.begin],
            "cuts": np.array(self.cuts, dtype=np.int64),
            "blocks": np.array(self._blocks, dtype=np.int64),
            "begin": np.array(self.begin),
        }

    def restore(self, stored: dict[str, NDArray[Any]]) -> None:
        """Go on from a snapshot."""
        for name in _OF_SLICES:
            setattr(self, name, stored[name])
        self._lengths, self.begin = [stored["lengths"]], int(stored["begin"])
        self.end, self._used = self.begin + len(stored["scale"]), len(stored["codes"])
        self.cuts, self._blocks = ([int(n) for n in stored[name]] for name in ("cuts", "blocks"))
        self.scale[: self.end - self.begin] = stored["scale"]
        if len(self.codes) < self._used + stored["lengths"].size:
            self.codes = np.empty(self._used + stored["lengths"].size, dtype=np.uint16)
        self.codes[: self._used] = stored["codes"]
