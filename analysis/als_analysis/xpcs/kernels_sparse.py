"""The compiled loops of the event path: frames as lists of (pixel, count), for data with few photons.

Levels 0 to 3 of the multi-tau scheme are sums over pairs of events of a pixel that are at most 71 frames apart; at one
photon in a hundred frames there is hardly ever one. Level 4 compares means of 16 frames: from there on the dense
loops take over, with a sixteenth of the samples. The state is that of the dense path, bit for bit in its layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.xpcs.compiled import compiled
from als_analysis.xpcs.kernels import add_levels
from als_analysis.xpcs.vectors import LANES, REACH

FINE_LEVELS = 4  # levels that are summed over pairs of events
COARSE = 16  # frames in a sample of the first dense level
FARTHEST = (REACH + 1 << FINE_LEVELS - 1) - 1  # frames apart in a pair of the fine levels: 71
MEMORY = 80  # frames whose events the next block needs again: 71, rounded up to a multiple of COARSE
STRIPE = 32  # tiles whose events are sorted together


def _pair_table() -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """For two frames d apart, the later at t, at d * 8 + t % 8: the row of sums and its share, and a second one or -1.

    A pair of frames is part of a pair of samples of one level, for a few distances of two, or of none (share 0).
    """
    row, share = np.zeros((2, (FARTHEST + 1) * 8), dtype=np.int64), np.zeros((2, (FARTHEST + 1) * 8))
    row[1] = -1
    for d in range(1, FARTHEST + 1):
        for t in range(8):
            found = [(d - 1, 1.0)] if d <= REACH else []
            for level in range(1, FINE_LEVELS):
                step = (t >> level) - ((t - d) >> level)
                if REACH // 2 < step <= REACH:
                    found.append((REACH + (REACH // 2) * (level - 1) + step - REACH // 2 - 1, 0.25**level))
            for place, (at, part) in enumerate(found):
                row[place, d * 8 + t], share[place, d * 8 + t] = at, part
    return row[0], share[0], row[1], share[1]


_ROW, _SHARE, _ROW_TOO, _SHARE_TOO = _pair_table()


@compiled
def count_events(words: Any, raw: Any, begin: int, end: int, counts: Any) -> None:
    """Number of pixels that are not 0 in frames begin … end; `words` is `raw` itself, or the same as u64 (n, m)."""
    width = raw.shape[1] // words.shape[1]
    for t in range(begin, end):
        found = 0
        for w in range(words.shape[1]):
            if words[t, w] != 0:
                for p in range(w * width, (w + 1) * width):
                    found += 1 if raw[t, p] != 0 else 0
        counts[t] = found


@compiled
def list_events(words: Any, raw: Any, begin: int, end: int, starts: Any, pixel: Any, count: Any) -> None:
    """Write the pixels that are not 0 of frames begin … end, frame by frame from starts[t] on."""
    width = raw.shape[1] // words.shape[1]
    for t in range(begin, end):
        at = starts[t]
        for w in range(words.shape[1]):
            if words[t, w] != 0:
                for p in range(w * width, (w + 1) * width):
                    if raw[t, p] != 0:
                        pixel[at] = p
                        count[at] = raw[t, p]
                        at += 1


@compiled
def sum_events(starts: Any, pixel: Any, count: Any, lane: Any, begin: int, end: int, sums: Any) -> None:
    """Sum of the counts in used pixels (`lane` not negative) of each frame."""
    for t in range(begin, end):
        total = np.int64(0)
        for e in range(starts[t], starts[t + 1]):
            if lane[pixel[e]] >= 0:
                total += np.int64(count[e])
        sums[t] = total


@compiled
def keep_events(
    starts: Any,
    pixel: Any,
    count: Any,
    lane: Any,
    begin: int,
    end: int,
    to: int,
    kept_starts: Any,
    kept_stops: Any,
    kept_lane: Any,
    kept_count: Any,
    unused: Any,
) -> None:
    """Of frames begin … end, write the used pixels' events from kept_lane[to] on: frame t's from kept_starts[t] on.

    `lane` (pixels,) i32 is each pixel's place in all tiles, -1 for none: those events are added to `unused` (pixels,).
    """
    for t in range(begin, end):
        kept_starts[t] = to
        for e in range(starts[t], starts[t + 1]):
            place = lane[pixel[e]]
            kept_lane[to] = place
            kept_count[to] = count[e]
            to += 1 if place >= 0 else 0
            if place < 0:
                unused[pixel[e]] += np.float64(count[e])
        kept_stops[t] = to


@compiled
def _from(lane: Any, begin: int, end: int, bound: int) -> Any:
    """The first of the ascending lanes begin … end that is not below `bound`."""
    while begin < end:
        middle = (begin + end) // 2
        if lane[middle] < bound:
            begin = middle + 1
        else:
            end = middle
    return begin


@compiled
def add_events(
    starts: Any,
    stops: Any,
    lane: Any,
    count: Any,
    scale: Any,
    origin: int,
    segment: Any,
    begin: int,
    end: int,
    base: int,
    per_lane: Any,
    seen: Any,
    sums: Any,
    recent: Any,
    first: Any,
    total: Any,
) -> None:
    """Add the frames from `origin` on to tiles begin … end; those before are the frames before, needed for pairs.

    Frame t's events are `lane` (their places in all tiles, ascending) and `count` from starts[t] to stops[t]; scale[t]
    (f32) multiplies the counts. Frames before are a multiple of 16, and so are those after but for the last block.
    `per_lane` (segments, lanes) i64 and the state are of the tiles from `base` on; `seen` counts the samples before.
    per_lane[segment[t]] gets the counts. Tiles are taken a few at a time: their sorted events stay in the cache.
    """
    frames = len(starts)
    n = frames - origin
    rows = n // COARSE
    x = np.zeros((REACH + 1 + rows, LANES), dtype=np.float32)
    y = np.empty_like(x)
    at = np.empty(frames, dtype=np.int64)
    for t in range(frames):
        at[t] = _from(lane, starts[t], stops[t], begin * LANES)
    ends = np.empty(STRIPE * LANES, dtype=np.int64)
    when = np.empty(0, dtype=np.int32)
    value = np.empty(0, dtype=np.float32)
    for low in range(begin, end, STRIPE):
        high = min(low + STRIPE, end)
        found = _count_by_lane(stops, lane, at, low * LANES, high * LANES, ends)
        if found > len(when):
            when = np.empty(found + found // 4, dtype=np.int32)
            value = np.empty(found + found // 4, dtype=np.float32)
        mine = per_lane[:, (low - base) * LANES : (high - base) * LANES]
        _sort(stops, lane, count, scale, origin, at, low * LANES, high * LANES, segment, ends, when, value, mine)
        for tile in range(low, high):
            here = tile - base
            for t in range(rows):
                _clear(x[REACH + t])
            for level in range(FINE_LEVELS):
                for row in range(REACH):
                    _clear(recent[here, level, row])
            for p in range(LANES):
                place = (tile - low) * LANES + p
                start = ends[place - 1] if place > 0 else 0
                stop = ends[place]
                if stop > start:
                    total[here, p] += _add_lane(when, value, start, stop, n, sums[here], x, p)
                    _note_last(when, value, start, stop, n, recent[here], p)
                    if seen[0] < REACH << (FINE_LEVELS - 1):
                        _note_first(when, value, start, stop, seen[0], first[here], p)
            add_levels(x, y, rows, FINE_LEVELS, seen, sums[here], recent[here], first[here], total[here])


@compiled
def _clear(row: Any) -> None:
    for p in range(LANES):
        row[p] = np.float32(0.0)


@compiled
def _count_by_lane(stops: Any, lane: Any, at: Any, begin: int, end: int, ends: Any) -> Any:
    """Where the events of lanes begin … end begin, in `ends` (end - begin,); returns how many there are.

    `at` (frames,) is where each frame's events begin.
    """
    for place in range(len(ends)):
        ends[place] = 0
    for t in range(len(at)):
        e = at[t]
        last = stops[t]
        while e < last and lane[e] < end:
            ends[lane[e] - begin] += 1
            e += 1
    found = 0
    for place in range(len(ends)):
        mine = ends[place]
        ends[place] = found
        found += mine
    return found


@compiled
def _sort(
    stops: Any,
    lane: Any,
    count: Any,
    scale: Any,
    origin: int,
    at: Any,
    begin: int,
    end: int,
    segment: Any,
    ends: Any,
    when: Any,
    value: Any,
    per_lane: Any,
) -> None:
    """The events of lanes begin … end by lane, then by time: `when` i32 (frame - origin), `value` f32 = count * scale.

    `ends` comes from `_count_by_lane`; afterwards lane i's events lie before ends[i - begin], after the one before, and
    `at` has moved on. per_lane[segment[t]] (lanes,) gets the counts of the frames from `origin` on.
    """
    for t in range(len(at)):
        factor = scale[t]
        e = at[t]
        last = stops[t]
        counts = per_lane[segment[t]]
        new = np.int64(1 if t >= origin else 0)
        while e < last and lane[e] < end:
            place = lane[e] - begin
            to = ends[place]
            when[to] = t - origin
            value[to] = np.float32(count[e]) * factor
            ends[place] = to + 1
            counts[place] += new * np.int64(count[e])
            e += 1
        at[t] = e


@compiled
def _add_lane(when: Any, value: Any, start: int, stop: int, n: int, sums: Any, x: Any, p: int) -> Any:
    """One lane's events, start … stop: its pairs to `sums`, its means of 16 frames to `x`; gives level 3's new sum."""
    rows = n // COARSE
    summed = n // 8 * 8  # frames in whole samples of level 3, whose sum is the total
    whole = 0.0
    for e in range(start, stop):
        t = when[e]
        if t < 0:
            continue
        v = value[e]
        if t // COARSE < rows:
            x[REACH + t // COARSE, p] += v * np.float32(1.0 / COARSE)
        if t < summed:
            whole += np.float64(v)
        earlier = e - 1
        while earlier >= start and t - when[earlier] <= FARTHEST:
            product = np.float64(v) * np.float64(value[earlier])
            # looked up, not decided: what level a pair belongs to is as good as random
            at = (t - when[earlier]) * 8 + t % 8
            if t < summed:
                sums[_ROW[at], p] += product * _SHARE[at]
                if _ROW_TOO[at] >= 0:
                    sums[_ROW_TOO[at], p] += product * _SHARE_TOO[at]
            else:
                _add_last_pair(sums, t, when[earlier], product, n, p)
            earlier -= 1
    return whole * 0.125


@compiled
def _add_last_pair(sums: Any, t: int, s: int, product: float, n: int, p: int) -> None:
    """A pair whose later frame is not in a whole sample of level 3, and so perhaps in none of a lower one."""
    if t - s <= REACH:
        sums[t - s - 1, p] += product
    for level in range(1, FINE_LEVELS):
        step = (t >> level) - (s >> level)
        if REACH // 2 < step <= REACH and (t >> level) < (n >> level):
            share = 1.0 / np.float64(1 << (2 * level))
            sums[REACH + (REACH // 2) * (level - 1) + step - REACH // 2 - 1, p] += product * share


@compiled
def _note_last(when: Any, value: Any, start: int, stop: int, n: int, recent: Any, p: int) -> None:
    """The newest samples of each fine level, for the frames to come."""
    e = stop - 1
    while e > start and when[e - 1] >= n - MEMORY:
        e -= 1
    while e < stop:
        t = when[e]
        for level in range(FINE_LEVELS):
            row = REACH - ((n >> level) - (t >> level))
            if 0 <= row < REACH:
                recent[level, row, p] += value[e] / np.float32(1 << level)
        e += 1


@compiled
def _note_first(when: Any, value: Any, start: int, stop: int, before: int, first: Any, p: int) -> None:
    """The very first samples of each fine level; `before` frames were there before."""
    for e in range(start, stop):
        since = before + when[e]
        if when[e] < 0:
            continue
        if since >= REACH << (FINE_LEVELS - 1):
            return
        for level in range(FINE_LEVELS):
            if since >> level < REACH:
                first[level, since >> level, p] += value[e] / np.float32(1 << level)
