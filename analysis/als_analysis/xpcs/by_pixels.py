"""Pixels before frames: some tiles at a time go through all frames, and their state is never whole in memory.

A correlator's state is about 1 kB for each pixel, many times what a frame takes. Taking frames first, all of it moves
through the cache with every block of frames, and memory that is touched for the first time costs a process more than
the sums: on a virtual machine 1.5 s per GB. Where the frames are in memory in some form (as events, or encoded in
the page cache) the order can be turned around: what stays is the sums over bins, and a state for each thread.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from als_analysis.workers import Workers
from als_analysis.xpcs.multitau import G2, BinSums, Correlator
from als_analysis.xpcs.state import Lags, Mark, State
from als_analysis.xpcs.tiles import Pixels


class Feed(Protocol):
    """What brings frames to the state of a group of tiles; each thread has its own."""

    def begin(self, group: int, low: int, high: int) -> None:
        """The frames of another group follow, of tiles low … high."""
        ...

    def add(self, group: int, low: int, high: int, begin: int, end: int, state: State) -> None:
        """Add frames begin … end to the state of the group's tiles, low … high."""
        ...

    def end(self) -> Any:
        """All frames of the group were added; gives what else is known of it."""
        ...


class ByPixels:
    """The sums over bins at each cut, from groups of tiles in their order: the same bits with any number of threads."""

    def __init__(self, pixels: Pixels, lags: Lags, edges: list[int], cuts: list[int]) -> None:
        """`edges` of the groups of tiles; `cuts` are where parts of the frames end, the last one with all frames."""
        self.pixels, self.lags, self.edges, self.cuts = pixels, lags, edges, cuts
        self.rows = State.rows(lags.levels)
        self.sums = [BinSums.empty(*pixels.bins, self.rows) for _ in cuts]

    def run(
        self,
        workers: Workers,
        spans: list[int],
        feeder: Callable[[], Feed],
        take: Callable[[int, Any], None] | None = None,
        went_on: Callable[[int], bool] | None = None,
        begin: int = 0,
        together: int = 1,
    ) -> bool:
        """Take the groups from `begin` on through all frames, which come in spans whose edges include all cuts.

        A thread takes `together` groups, one after the other. take(n, what its feed's `end` gave) is called as group
        n's sums are added, then went_on(n + 1) after several; if that gives False, this ends early and gives False,
        and can be called again with what is left.
        """
        groups = len(self.edges) - 1
        tiles = max(b - a for a, b in pairwise(self.edges))

        def worker() -> Callable[[int], list[tuple[list[_Found], Any]]]:
            state = State.empty(tiles, self.lags.levels)
            mark = Mark.empty(tiles, self.rows, self.lags.levels)
            feed = feeder()
            return lambda first: [
                (self._group(group, state, mark, spans, feed), feed.end())
                for group in range(first, min(first + together, groups))
            ]

        def taken(first: int, several: list[tuple[list[_Found], Any]]) -> bool:
            for group, (found, more) in enumerate(several, start=first):
                for whole, (statics, dynamics, part) in zip(self.sums, found, strict=True):
                    whole.per_static[:, statics] += part.per_static
                    whole.per_dynamic[:, dynamics] += part.per_dynamic
                if take is not None:
                    take(group, more)
            return went_on is None or went_on(first + len(several))

        return workers.in_order(range(begin, groups, together), worker, taken)

    def g2(self, correlator: Correlator) -> tuple[G2, list[G2]]:
        """(g2, error) over all frames, and of each part, once all groups are in the sums."""
        spans = zip(self.sums, pairwise([0, *self.cuts]), strict=True)
        found = [correlator.normalized(sums, end, begin) for sums, (begin, end) in spans]
        return found[-1][0], [found[0][0], *(part for _, part in found[1:])]

    def _group(self, number: int, memory: State, mark: Mark, spans: list[int], feed: Feed) -> list[_Found]:
        """One group's sums at each cut."""
        low, high = self.edges[number], self.edges[number + 1]
        statics, static = _present(self.pixels.static_of_lane[low:high])
        dynamics, dynamic = _present(self.pixels.dynamic_of_lane[low:high])
        state = memory.cleared(high - low)
        since: Mark | None = None
        found = []
        feed.begin(number, low, high)
        for begin, end in pairwise(spans):
            feed.add(number, low, high, begin, end, state)
            state.frames = end
            if end in self.cuts:
                sums = BinSums.empty(len(statics), len(dynamics), self.rows)
                note = mark if end < self.cuts[-1] else None
                sums.add_tiles((0, high - low), static, dynamic, state, since, note)
                if note is not None:
                    note.frames = end
                since = note
                found.append((statics, dynamics, sums))
        return found


_Found = tuple[NDArray[np.int64], NDArray[np.int64], BinSums]  # static bins, dynamic bins, their sums


def _present(bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The bins that lanes (T, 64) are in, -1 for none, and the lanes' places among them."""
    there = np.bincount(bins.ravel() + 1)[1:] > 0
    place = np.append(np.cumsum(there) - 1, -1)  # the last one is for -1
    return np.flatnonzero(there), place[bins]
