"""The compiled loops of the event path: frames as lists of events (see `readers.events`), for data with few photons.

Levels 0 to 3 of the multi-tau scheme are sums over pairs of events of a pixel that are at most 71 frames apart; at one
photon in a hundred frames there is hardly ever one. Level 4 compares means of 16 frames: from there on the dense
loops take over, with a sixteenth of the samples. The state is that of the dense path, bit for bit in its layout.

No processor can guess whether an event has another one near enough before it. So nothing is decided: every event is
written to a list, which grows only for those that have one; then the next ones before are looked for in that list, and
so on until it is empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.compiled import compiled, compiled_part
from als_analysis.readers.events import COUNT_SHIFT, FRAME_SHIFT, MORE, SLICE, WORD
from als_analysis.xpcs.kernels import add_levels
from als_analysis.xpcs.vectors import LANES, REACH

FINE_LEVELS = 4  # levels that are summed over pairs of events
COARSE = 16  # frames in a sample of the first dense level
FARTHEST = (REACH + 1 << FINE_LEVELS - 1) - 1  # frames apart in a pair of the fine levels: 71
MEMORY = 80  # frames whose events the next ones need again: 71, rounded up to a multiple of COARSE
_FINE_ROWS = REACH + (REACH // 2) * (FINE_LEVELS - 1)
_NEVER = -(1 << 30)  # the time of an event that is near no other


def _pair_rows() -> NDArray[np.int64]:
    """For two frames d apart, the later at t, at d * 8 + t % 8: the row of the lag that they belong to.

    A pair of frames is part of a pair of samples of one level, or of none: the last row, which nobody reads.
    """
    row = np.full((FARTHEST + 1) * 8, _FINE_ROWS, dtype=np.int64)
    for d in range(1, FARTHEST + 1):
        for t in range(8):
            found = [d - 1] if d <= REACH else []
            for level in range(1, FINE_LEVELS):
                step = (t >> level) - ((t - d) >> level)
                if REACH // 2 < step <= REACH:
                    found.append(REACH + (REACH // 2) * (level - 1) + step - REACH // 2 - 1)
            assert len(found) < 2
            row[d * 8 + t] = found[0] if found else _FINE_ROWS
    return row


_ROW = _pair_rows()
# the level of each row, and what a product of two frames is of a product of two samples there
_LEVEL = np.array([0] * REACH + [1 + i // (REACH // 2) for i in range(_FINE_ROWS - REACH)] + [0], dtype=np.int64)
_SHARE = 0.25**_LEVEL


@compiled
def add_events(
    codes: Any,
    at: Any,
    lengths: Any,
    slice_: int,
    word: int,
    first: Any,
    segment: Any,
    scale: Any,
    origin: int,
    n: int,
    tile_of_word: Any,
    lanes: Any,
    per_lane: Any,
    most: int,
    seen: Any,
    sums: Any,
    recent: Any,
    first_samples: Any,
    total: Any,
) -> None:
    """Add n frames, from number `origin` on, to the tiles of the words from number `word` on.

    The slices from number `slice_` on hold them, and frames before that are needed again for pairs, but for the first.
    Slice s has frames first[s] … of `origin`'s count (negative: before); its codes of the first word begin at at[s],
    which moves on, and lengths[slice_ + s, word + w] are of word w. scale[origin + t] (f32) multiplies frame t's
    counts. tile_of_word[w] is the tile of the state, -1 for a word without used pixels. per_lane[segment[s]] gets the
    counts of all pixels, word w's from lanes[w] on. No word has more than `most` codes.
    """
    rows = n // COARSE
    x = np.empty((REACH + 1 + rows, LANES), dtype=np.float32)
    y = np.empty(x.shape, dtype=np.float32)
    products = np.empty((_FINE_ROWS + 1, LANES))
    last = np.empty(LANES, dtype=np.int32)  # each pixel's last event so far, 0 for none
    # of each event of a word: its frame, its scaled count, its pixel, and the event before it of the same pixel
    when, earlier = np.empty(most + 2, dtype=np.int32), np.empty(most + 2, dtype=np.int32)
    value, lane = np.empty(most + 2, dtype=np.float32), np.empty(most + 2, dtype=np.uint8)
    some, before = np.empty(most + 2, dtype=np.int32), np.empty(most + 2, dtype=np.int32)
    last_frame = np.empty(_FINE_ROWS + 1, dtype=np.int64)  # below: in a whole sample of the row's level
    for row in range(_FINE_ROWS + 1):
        last_frame[row] = n >> _LEVEL[row] << _LEVEL[row]
    when[0] = _NEVER
    earlier[0] = 0
    value[0] = np.float32(0.0)
    for w in range(len(tile_of_word)):
        tile = tile_of_word[w]
        if tile < 0:
            for s in range(len(at)):
                length = np.int64(lengths[slice_ + s, word + w])
                if first[s] >= 0:
                    _count(codes, at[s], length, per_lane[segment[s], lanes[w] : lanes[w] + LANES])
                at[s] += length
            continue
        for t in range(rows):
            _clear(x[REACH + t])
        for p in range(LANES):
            last[p] = 0
        events, pairs = np.uintp(1), np.uintp(0)
        for s in range(len(at)):
            length = np.int64(lengths[slice_ + s, word + w])
            counts = per_lane[segment[s], lanes[w] : lanes[w] + LANES]
            old = first[s] < 0
            e = np.uintp(at[s])
            end = e + np.uintp(length)
            at[s] += length
            while e < end:
                code = np.int64(codes[e])
                pixel = np.uintp(code & (WORD - 1))
                t = first[s] + ((code >> FRAME_SHIFT) & (SLICE - 1))
                count: Any = code >> COUNT_SHIFT
                e += np.uintp(1)
                if count == 0:
                    count = _large(codes, e)
                    e += np.uintp(MORE)
                v = np.float32(count) * scale[np.uintp(origin + t)]
                j = last[pixel]
                last[pixel] = events
                when[events] = t
                value[events] = v
                lane[events] = pixel
                earlier[events] = j
                some[pairs] = events
                before[pairs] = j
                events += np.uintp(1)
                if old:
                    continue
                counts[pixel] += count
                if t < rows * COARSE:
                    x[np.uintp(REACH + t // COARSE), pixel] += v
                pairs += np.uintp(t - when[np.uintp(j)] <= FARTHEST)
        _add_pairs(when, value, lane, earlier, some, before, pairs, last_frame, products, sums[tile])
        _add_whole(x, when, value, lane, events, n, total[tile])
        _note_last(when, value, lane, events, n, recent[tile])
        if seen[0] < REACH << (FINE_LEVELS - 1):
            _note_first(when, value, lane, events, seen[0], first_samples[tile])
        add_levels(x, y, rows, FINE_LEVELS, seen, sums[tile], recent[tile], first_samples[tile], total[tile])


@compiled_part
def _clear(row: Any) -> None:
    for p in range(LANES):
        row[p] = np.float32(0.0)


@compiled_part
def _large(codes: Any, at: Any) -> Any:
    """A count that takes codes of its own, from codes[at] on."""
    count = np.int64(0)
    for part in range(MORE):
        count |= np.int64(codes[at + np.uintp(part)]) << 16 * part
    return count


@compiled_part
def _count(codes: Any, begin: Any, length: Any, counts: Any) -> None:
    """Add the counts of a word's codes to those of its pixels."""
    e = np.uintp(begin)
    end = e + np.uintp(length)
    while e < end:
        code = np.int64(codes[e])
        count: Any = code >> COUNT_SHIFT
        e += np.uintp(1)
        if count == 0:
            count = _large(codes, e)
            e += np.uintp(MORE)
        counts[np.uintp(code & (WORD - 1))] += count


@compiled_part
def _add_pairs(
    when: Any, value: Any, lane: Any, earlier: Any, some: Any, before: Any, pairs: Any, last_frame: Any, products: Any,
    sums: Any,
) -> None:  # fmt: skip
    """Add the products of all pairs of events of a pixel that are near enough; `some` and `before` are the first ones.

    earlier[i] is the event before event i of the same pixel, 0 for none.
    """
    for row in range(_FINE_ROWS + 1):
        for p in range(LANES):
            products[row, p] = 0.0
    while pairs > np.uintp(0):
        left = np.uintp(0)
        for a in range(pairs):
            i, j = np.uintp(some[a]), np.uintp(before[a])
            t = np.int64(when[i])
            lag = _ROW[np.uintp((t - when[j]) * 8 + (t & 7))]
            lag = lag if t < last_frame[np.uintp(lag)] else _FINE_ROWS
            products[np.uintp(lag), np.uintp(lane[i])] += np.float64(value[i]) * np.float64(value[j])
            again = earlier[j]
            some[left] = i
            before[left] = again
            left += np.uintp(t - when[np.uintp(again)] <= FARTHEST)
        pairs = left
    for row in range(_FINE_ROWS):
        for p in range(LANES):
            sums[row, p] += products[row, p] * _SHARE[row]


@compiled_part
def _add_whole(x: Any, when: Any, value: Any, lane: Any, events: Any, n: int, total: Any) -> None:
    """Turn sums of 16 frames into means, and add the samples of level 3, means of 8 frames, to `total`."""
    rows = n // COARSE
    for t in range(REACH, REACH + rows):
        for p in range(LANES):
            x[t, p] *= np.float32(1.0 / COARSE)
            total[p] += 2.0 * np.float64(x[t, p])
    e = events - np.uintp(1)
    while when[e] >= rows * COARSE:
        if when[e] < n // 8 * 8:
            total[np.uintp(lane[e])] += np.float64(value[e]) * 0.125
        e -= np.uintp(1)


@compiled_part
def _note_last(when: Any, value: Any, lane: Any, events: Any, n: int, recent: Any) -> None:
    """The newest samples of each fine level, for the frames to come."""
    for level in range(FINE_LEVELS):
        for row in range(REACH):
            _clear(recent[level, row])
    e = events - np.uintp(1)
    while when[e] >= n - MEMORY:
        t: Any = np.int64(when[e])
        for level in range(FINE_LEVELS):
            row = REACH - ((n >> level) - (t >> level))
            if 0 <= row < REACH:
                recent[level, np.uintp(row), np.uintp(lane[e])] += value[e] / np.float32(1 << level)
        e -= np.uintp(1)


@compiled_part
def _note_first(when: Any, value: Any, lane: Any, events: Any, before: int, first: Any) -> None:
    """The very first samples of each fine level; `before` frames were there before."""
    for e in range(np.uintp(1), events):
        since = before + np.int64(when[e])
        if when[e] < 0:
            continue
        if since >= REACH << (FINE_LEVELS - 1):
            return
        for level in range(FINE_LEVELS):
            if since >> level < REACH:
                first[level, np.uintp(since >> level), np.uintp(lane[e])] += value[e] / np.float32(1 << level)
