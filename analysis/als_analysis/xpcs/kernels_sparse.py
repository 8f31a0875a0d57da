"""The compiled loops of the event path: frames as lists of (pixel, count), for data with few photons.

Levels 0 to 3 of the multi-tau scheme are sums over pairs of events of a pixel that are at most 71 frames apart; at one
photon in a hundred frames there is hardly ever one. Level 4 compares means of 16 frames: from there on the dense
loops take over, with a sixteenth of the samples. The state is that of the dense path, bit for bit in its layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from als_analysis.xpcs.kernels import add_levels, compiled
from als_analysis.xpcs.vectors import LANES, REACH

FINE_LEVELS = 4  # levels that are summed over pairs of events
COARSE = 16  # frames in a sample of the first dense level
MEMORY = 80  # frames whose events the next block needs again: 71, rounded up to a multiple of COARSE


@compiled
def count_events(words: Any, raw: Any, begin: int, end: int, counts: Any) -> None:
    """Number of pixels that are not 0 in frames begin … end; `words` is `raw` as u64 (n, m), m = 0 if it cannot be."""
    per_word = raw.shape[1] // words.shape[1] if words.shape[1] > 0 else 0
    for t in range(begin, end):
        found = 0
        if per_word > 0:
            for w in range(words.shape[1]):
                if words[t, w] != 0:
                    for p in range(w * per_word, (w + 1) * per_word):
                        if raw[t, p] != 0:
                            found += 1
        else:
            for p in range(raw.shape[1]):
                if raw[t, p] != 0:
                    found += 1
        counts[t] = found


@compiled
def list_events(words: Any, raw: Any, begin: int, end: int, starts: Any, pixel: Any, count: Any) -> None:
    """Write the pixels that are not 0 of frames begin … end, frame by frame from starts[t] on."""
    per_word = raw.shape[1] // words.shape[1] if words.shape[1] > 0 else 0
    for t in range(begin, end):
        at = starts[t]
        if per_word > 0:
            for w in range(words.shape[1]):
                if words[t, w] != 0:
                    for p in range(w * per_word, (w + 1) * per_word):
                        if raw[t, p] != 0:
                            pixel[at] = p
                            count[at] = raw[t, p]
                            at += 1
        else:
            for p in range(raw.shape[1]):
                if raw[t, p] != 0:
                    pixel[at] = p
                    count[at] = raw[t, p]
                    at += 1


@compiled
def sum_events(starts: Any, pixel: Any, count: Any, lane: Any, begin: int, end: int, sums: Any) -> None:
    """Sum of the counts in used pixels (`lane` not negative) of each frame."""
    for t in range(begin, end):
        total = 0.0
        for e in range(starts[t], starts[t + 1]):
            if lane[pixel[e]] >= 0:
                total += np.float64(count[e])
        sums[t] = total


@compiled
def add_event_totals(pixel: Any, count: Any, begin: int, end: int, total: Any) -> None:
    """Add every event to the total of its pixel."""
    for e in range(begin, end):
        total[pixel[e]] += np.float64(count[e])


@compiled
def _from(pixel: Any, begin: int, end: int, bound: int) -> Any:
    """The first of the ascending pixels begin … end that is not below `bound`."""
    while begin < end:
        middle = (begin + end) // 2
        if pixel[middle] < bound:
            begin = middle + 1
        else:
            end = middle
    return begin


@compiled
def count_by_lane(starts: Any, pixel: Any, lane: Any, low: int, high: int, first_lane: int, ends: Any) -> Any:
    """Where each lane's events of pixels low … high will begin, in `ends` (lanes,); returns how many there are."""
    ends[:] = 0
    for t in range(len(starts) - 1):
        begin = _from(pixel, starts[t], starts[t + 1], low)
        for e in range(begin, _from(pixel, begin, starts[t + 1], high)):
            place = lane[pixel[e]]
            if place >= 0:
                ends[place - first_lane] += 1
    at = 0
    for place in range(len(ends)):
        mine = ends[place]
        ends[place] = at
        at += mine
    return at


@compiled
def sort_events(
    starts: Any,
    pixel: Any,
    count: Any,
    scale: Any,
    origin: int,
    lane: Any,
    low: int,
    high: int,
    first_lane: int,
    ends: Any,
    when: Any,
    value: Any,
) -> None:
    """The events of pixels low … high by lane, then by time: `when` i32 (frame - origin), `value` f32 = count * scale.

    `ends` comes from `count_by_lane`; afterwards lane i's events lie before ends[i - first_lane], after the one before.
    """
    for t in range(len(starts) - 1):
        factor = scale[t]
        begin = _from(pixel, starts[t], starts[t + 1], low)
        for e in range(begin, _from(pixel, begin, starts[t + 1], high)):
            place = lane[pixel[e]]
            if place >= 0:
                to = ends[place - first_lane]
                when[to] = t - origin
                value[to] = np.float32(count[e]) * factor
                ends[place - first_lane] = to + 1


@compiled
def add_events(
    ends: Any,
    when: Any,
    value: Any,
    first_lane: int,
    n: int,
    begin: int,
    end: int,
    seen: Any,
    sums: Any,
    recent: Any,
    first: Any,
    odd: Any,
    total: Any,
) -> None:
    """Add n frames to tiles begin … end, from events sorted by lane; times below 0 are those of the frames before.

    Frames before are a multiple of 16, and so is n but for the last block. `seen` counts the samples before.
    """
    rows = n // COARSE
    summed = n // 8 * 8  # frames in whole samples of level 3, whose sum is the total
    x = np.zeros((REACH + rows, LANES), dtype=np.float32)
    for tile in range(begin, end):
        x[REACH:] = np.float32(0.0)
        for level in range(FINE_LEVELS):
            recent[tile, level] = np.float32(0.0)
        for p in range(LANES):
            place = tile * LANES + p - first_lane
            low = ends[place - 1] if place > 0 else 0
            for e in range(low, ends[place]):
                t = when[e]
                v = value[e]
                if t >= n - MEMORY:
                    for level in range(FINE_LEVELS):  # the newest samples of each level, for the frames to come
                        row = REACH - ((n >> level) - (t >> level))
                        if 0 <= row < REACH:
                            recent[tile, level, row, p] += v / np.float32(1 << level)
                if t < 0:
                    continue
                if t // COARSE < rows:
                    x[REACH + t // COARSE, p] += v * np.float32(1.0 / COARSE)
                if t < summed:
                    total[tile, p] += np.float64(v) * 0.125
                since = seen[0] + t
                if since < REACH << (FINE_LEVELS - 1):
                    for level in range(FINE_LEVELS):
                        if since >> level < REACH:
                            first[tile, level, since >> level, p] += v / np.float32(1 << level)
                earlier = e - 1
                while earlier >= low and t - when[earlier] < MEMORY:
                    _add_pair(sums[tile], t, when[earlier], np.float64(v) * np.float64(value[earlier]), n, p)
                    earlier -= 1
        for level in range(FINE_LEVELS):
            if (seen[level] + (n >> level)) % 2 == 1:
                for p in range(LANES):
                    odd[tile, level, p] = recent[tile, level, REACH - 1, p]
        add_levels(x, rows, FINE_LEVELS, seen, sums[tile], recent[tile], first[tile], odd[tile], total[tile])


@compiled
def _add_pair(sums: Any, t: int, s: int, product: float, n: int, p: int) -> None:
    if t - s <= REACH and t > s:
        sums[t - s - 1, p] += product
    for level in range(1, FINE_LEVELS):
        step = (t >> level) - (s >> level)
        if REACH // 2 < step <= REACH and (t >> level) < (n >> level):
            share = 1.0 / np.float64(1 << (2 * level))
            sums[REACH + (REACH // 2) * (level - 1) + step - REACH // 2 - 1, p] += product * share
