"""Events straight from bitshuffled chunks: most of a nearly empty frame is never decoded into pixels.

Bitshuffle stores blocks of elements bit by bit: row r of a block holds bit r of all its elements, eight elements to a
byte, then compressed with LZ4. In frames with few photons all rows but the first are nearly always 0; the set bits are
found in the rows themselves, without turning them back into numbers (Masui et al., Astron. Comput. 12, 181 (2015)).
A slice of frames is taken block by block: its events come out word by word of pixels, as they are wanted (`events`).

LZ4's own decoder writes the empty rows, too, and takes another branch for each kind of copy, which no processor can
guess where photons fall at random. `unpack` does neither; what it does not take is left to LZ4.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from als_analysis.compiled import compiled, compiled_part
from als_analysis.readers.bitshuffle import HEADER, LARGEST_BLOCK
from als_analysis.readers.events import COUNT_SHIFT, FRAME_SHIFT, MOST_IN_WORD, SLICE, WORD
from als_analysis.readers.instructions import (
    bits_set,
    load,
    lowest,
    lz4,
    move_1,
    move_16,
    move_64,
    word,
    zero_64,
)
from als_analysis.readers.kernels_events import put_code

TOO_FULL, DAMAGED = -1, -2
_SLACK = 128  # bytes that `unpack` may read behind a block, and write behind what that decodes to
_OFTEN = 2  # codes that are written for a word of a frame, whether or not there are so many events


@compiled
def unpack(source: int, size: int, target: int, room: int, row: int) -> Any:
    """Decode an LZ4 block of `size` bytes at the address `source` into `room` bytes at `target`, up to its last zeros.

    Gives how many bytes may be other than 0: all behind them are 0, but only those up to a multiple of `row` bytes are
    written. _SLACK bytes more are read behind the block, and written behind `room`. Gives -1 for what is no block of
    exactly `room` bytes. LZ4_decompress_safe takes what is taken here, and a little more (a distance of 0): it decides.

    Copies are made of 64 bytes, whatever their length: what is too much is written over by the next one. A copy longer
    than its distance repeats itself. What it repeats is nearly always up to 8 bytes of 0, so that zeros are written;
    and where that is the last copy, followed by zeros, the rest of the block is 0 and need not be written at all.
    """
    at = source
    stop = source + size
    to = target
    end = target + room
    while at < stop:
        token = _byte(at)
        at += 1
        plain = token >> 4
        if plain < 15:
            move_16(at, to)
        else:
            more = 255
            while more == 255 and at < stop:
                more = _byte(at)
                at += 1
                plain += more
            if plain > stop - at or plain > end - to:
                return -1
            for i in range(0, plain, 16):
                move_16(at + i, to + i)
        at += plain
        to += plain
        if at > stop - 8 or to > end - 12:  # only the last bytes, which no copy follows, are so close to the end
            return room if at == stop and to == end else -1
        back = np.int64(load(at, np.uint16(0)))
        at += 2
        length = (token & 15) + 4
        longer = np.int64(length == 19)
        length += _byte(at) * longer
        at += longer
        if back == 0 or back > to - target:
            return -1
        if length == 19 + 255:
            eight = load(at, np.uint64(0))
            while eight == ~np.uint64(0) and at < stop:
                length += 8 * 255
                at += 8
                eight = load(at, np.uint64(0))
            full = lowest(~eight) // 8
            length += 255 * full + _byte(at + full)
            at += full + 1
        if length > end - 5 - to:
            return -1
        if back >= min(length, 64):
            move_64(to - back, to)
            for i in range(64, length, 64):
                move_64(to - back + i, to + i)
        elif back <= 8 and load(to - back, np.uint64(0)) << np.uint64(64 - 8 * back) == np.uint64(0):
            over = length == end - 5 - to and _is_end(at, stop)
            zero_64(to)
            for i in range(64, (target - to) % row if over else length, 64):
                zero_64(to + i)
            if over:
                return to - target
        else:
            for i in range(length):
                move_1(to - back + i, to + i)
        to += length
    return -1


@compiled_part
def _byte(at: int) -> Any:
    return np.int64(load(at, np.uint8(0)))


@compiled_part
def _is_end(at: int, stop: int) -> bool:
    """Whether nothing but five plain bytes of 0 follows: what the encoder ends zeros with."""
    five = load(at + 1, np.uint64(0)) << np.uint64(24)
    return stop - at == 6 and _byte(at) >> 4 == 5 and five == np.uint64(0)


@compiled
def list_slices(
    function: int,
    data: Any,
    starts: Any,
    edges: Any,
    begin: int,
    end: int,
    pixels: int,
    item: int,
    sign: int,
    top: int,
    room: int,
    codes: Any,
    ends: Any,
    lengths: Any,
    used: Any,
    sums: Any,
    full: Any,
) -> None:
    """The events of slices begin … end of frames whose chunks are data[starts[t] : starts[t + 1]] (u8); see `Events`.

    Slice s is written to codes[s * room : ends[s]]. Where there are more than room - MOST_IN_WORD codes, ends[s] is
    TOO_FULL; where a chunk is corrupted or has other blocks than the others, DAMAGED. `item` is the bytes of an
    element, `sign` its bit that is negative (-1: none), `top` the largest one. `used` (pixels / 64,) u64 has a bit for
    each pixel.
    """
    rows = np.empty((SLICE, 1), dtype=np.uint64)
    several = np.empty(1, dtype=np.uint64)  # for each word of a block a bit for each frame with more than one photon
    at, high = np.empty((2, SLICE), dtype=np.int64)
    for s in range(begin, end):
        first = edges[s]
        frames = edges[s + 1] - first
        ends[s] = DAMAGED
        block = 0
        for t in range(frames):
            mine = block_of(data, starts[first + t], starts[first + t + 1], pixels, item)
            block = mine if mine % WORD == 0 and pixels % WORD == 0 and (t == 0 or mine == block) else 0
            if block == 0:
                break
            at[t] = starts[first + t] + HEADER
            sums[first + t] = 0
            full[first + t] = 0
        if block == 0:
            continue
        if rows.shape[1] * 8 < block * item + _SLACK:
            rows = np.empty((SLICE, (block * item + _SLACK) // 8), dtype=np.uint64)
            several = np.empty(block // WORD, dtype=np.uint64)
        to = s * room
        limit = to + room - MOST_IN_WORD
        sound = True
        for done in range(0, pixels, block):
            words = min(block, pixels - done) // WORD
            wanted = used[done // WORD : done // WORD + words]
            for w in range(words):
                several[w] = 0
            for t in range(frames):
                height = _decode(function, data, at, t, starts[first + t + 1], rows[t], words, item)
                if height < 0:
                    sound = False
                    break
                sums[first + t] += _set_and_used(rows[t, :words], wanted)
                if height > 1 and any_set(rows[t, words : height * words]):
                    high[t] = height
                    sums[first + t] += _add_upper(rows[t], height, sign, wanted, np.uint64(1) << np.uint64(t), several)
            if not sound:
                break
            for w in range(words):
                if to > limit:
                    sound = False
                    ends[s] = TOO_FULL
                    break
                before = to
                t = 0
                marks = several[w]
                while marks != np.uint64(0):
                    bright = lowest(marks)
                    to = _list(rows, w, t, bright, to, codes)
                    height = high[bright]
                    to = _list_counts(rows, w, words, bright, height, sign, top, wanted[w], full[first:], to, codes)
                    t = bright + 1
                    marks &= marks - np.uint64(1)
                to = _list(rows, w, t, frames, to, codes)
                lengths[s, done // WORD + w] = to - before
            if not sound:
                break
        for t in range(frames):
            sound = sound and at[t] == starts[first + t + 1]
        if sound:
            ends[s] = to


@compiled_part
def block_of(data: Any, begin: int, end: int, pixels: int, item: int) -> Any:
    """The pixels of a block of the chunk data[begin:end], 0 where its header is not what it should be."""
    if end - begin < HEADER or word(data, begin) != 0 or word(data, begin + 4) != pixels * item:
        return 0
    block = word(data, begin + 8) // item
    return block if block > 0 and block % 8 == 0 and block * item <= LARGEST_BLOCK else 0


@compiled_part
def _decode(function: int, data: Any, at: Any, t: int, end: int, rows: Any, words: int, item: int) -> Any:
    """Decode frame t's next block, at data[at[t]], into `rows`; gives how many bit rows may have bits, -1 for damage.

    at[t] moves on to the next block; the chunk ends at `end`.
    """
    size = word(data, at[t]) if at[t] + 4 <= end else -1
    here = at[t] + 4
    if size < 0 or here + size > end:
        return -1
    decoded = words * WORD * item
    there = -1  # bytes of the block up to the last zeros
    if here + size + _SLACK <= len(data):
        there = unpack(data.ctypes.data + here, size, rows.ctypes.data, decoded, words * 8)
    if there < 0:
        there = decoded
        if lz4(function, data.ctypes.data + here, size, rows.ctypes.data, decoded) != decoded:
            return -1
    at[t] = here + size
    return (there + words * 8 - 1) // (words * 8)


@compiled_part
def _add_upper(rows: Any, height: int, sign: int, used: Any, mark: Any, several: Any) -> Any:
    """The sum of the bits above the first in used pixels; words that have some get `mark`."""
    words = len(used)
    total = np.int64(0)
    for r in range(1, height):
        row = rows[r * words : (r + 1) * words]
        for w in range(words):
            several[w] |= mark if row[w] != np.uint64(0) else np.uint64(0)
        part = _set_and_used(row, used) << r
        total += -part if r == sign else part
    return total


@compiled_part
def _list(rows: Any, w: int, begin: int, end: int, to: int, codes: Any) -> Any:
    """Write the events of word w of frames begin … end, each of one photon, from codes[to] on; gives where they end.

    A few more are written than there are: to guess for each word how many there are would cost more.
    """
    e = np.uintp(to)  # not signed: numba looks whether a signed index is negative
    for t in range(begin, end):
        bits = rows[t, w]
        after = e + np.uintp(bits_set(bits))
        here = t << FRAME_SHIFT | 1 << COUNT_SHIFT
        for _ in range(_OFTEN):
            codes[e] = here + lowest(bits)
            bits &= bits - np.uint64(1)
            e += np.uintp(1)
        while e < after:
            codes[e] = here + lowest(bits)
            bits &= bits - np.uint64(1)
            e += np.uintp(1)
        e = after
    return np.int64(e)


@compiled_part
def _list_counts(
    rows: Any, w: int, words: int, t: int, height: int, sign: int, top: int, used: Any, full: Any, to: int, codes: Any
) -> Any:
    """As `_list`, for frame t, in whose word w there are bits in any of `height` rows."""
    bits = rows[t, w]
    for r in range(1, height):
        bits |= rows[t, r * words + w]
    while bits != np.uint64(0):
        bit = np.uint64(lowest(bits))
        count = np.int64(0)
        for r in range(height):
            part = np.int64((rows[t, r * words + w] >> bit) & np.uint64(1)) << r
            count += -part if r == sign else part
        if count == top and (used >> bit) & np.uint64(1):
            full[t] += 1
        to = put_code(codes, to, np.int64(bit), t, count)
        bits &= bits - np.uint64(1)
    return to


@compiled_part
def _set_and_used(row: Any, used: Any) -> Any:
    found = np.int64(0)
    for w in range(len(row)):
        found += bits_set(row[w] & used[w])
    return found


@compiled_part
def any_set(words: Any) -> Any:
    """Whether any bit is set."""
    some = np.uint64(0)
    for w in range(len(words)):
        some |= words[w]
    return some != np.uint64(0)
