"""Events straight from bitshuffled chunks: most of a nearly empty frame is never decoded into pixels.

Bitshuffle stores blocks of elements bit by bit: row r of a block holds bit r of all its elements, eight elements to a
byte, then compressed with LZ4. In frames with few photons all rows but the first are nearly always 0; the set bits are
found in the rows themselves, without turning them back into numbers (Masui et al., Astron. Comput. 12, 181 (2015)).

LZ4's own decoder writes the empty rows, too, and takes another branch for each kind of copy, which no processor can
guess where photons fall at random. `unpack` does neither; what it does not take is left to LZ4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from als_analysis.xpcs.compiled import compiled

HEADER = 12
_SLACK = 128  # bytes that `unpack` may read behind a block, and write behind what that decodes to
_LARGEST = 1 << 19  # bytes in a block: usually 8192; much more is no block but a damaged header
_OFTEN = 3  # places that are written for 64 pixels, whether or not there are so many events


def _typed_lz4(context: Any, function: Any, source: Any, size: Any, target: Any, room: Any) -> Any:
    """Call LZ4_decompress_safe at the address `function`: source and target are addresses; gives the decoded bytes."""

    def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(number, [pointer, pointer, number, number])
        call, source, size, target, room = arguments
        return builder.sext(
            builder.call(
                builder.inttoptr(call, kind.as_pointer()),
                [
                    builder.inttoptr(source, pointer),
                    builder.inttoptr(target, pointer),
                    builder.trunc(size, number),
                    builder.trunc(room, number),
                ],
            ),
            ir.IntType(64),
        )

    return types.int64(types.int64, types.int64, types.int64, types.int64, types.int64), codegen


lz4: Any = intrinsic(_typed_lz4)


def _typed_lowest(context: Any, bits: Any) -> Any:
    """Which bit of a u64 is the lowest that is set, 64 for none: one instruction, which Python has no word for."""

    def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.int64(types.uint64), codegen


def _typed_set(context: Any, bits: Any) -> Any:
    """How many bits of a u64 are set."""

    def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), codegen


def _typed_load(context: Any, at: Any, kind: Any) -> Any:
    """The number at an address, of the type of `kind`, as u64."""

    def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(kind.bitwidth).as_pointer()
        value = builder.load(builder.inttoptr(arguments[0], pointer), align=1)
        return value if kind.bitwidth == 64 else builder.zext(value, ir.IntType(64))

    return types.uint64(types.int64, kind), codegen


def _mover(size: int) -> Any:
    """Copies `size` bytes from one address to another."""

    def typed(context: Any, source: Any, target: Any) -> Any:
        def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = ir.VectorType(ir.IntType(8), size).as_pointer()
            source, target = (builder.inttoptr(a, pointer) for a in arguments)
            builder.store(builder.load(source, align=1), target, align=1)
            return ctx.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return intrinsic(typed)


def _typed_zero(context: Any, target: Any) -> Any:
    """Write 64 bytes of 0 to an address."""

    def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bytes_ = ir.VectorType(ir.IntType(8), 64)
        target = builder.inttoptr(arguments[0], bytes_.as_pointer())
        builder.store(ir.Constant(bytes_, [0] * 64), target, align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64), codegen


_lowest: Any = intrinsic(_typed_lowest)
bits_set: Any = intrinsic(_typed_set)
_load: Any = intrinsic(_typed_load)
_move_1, _move_16, _move_64 = _mover(1), _mover(16), _mover(64)
_zero_64: Any = intrinsic(_typed_zero)


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
            _move_16(at, to)
        else:
            more = 255
            while more == 255 and at < stop:
                more = _byte(at)
                at += 1
                plain += more
            if plain > stop - at or plain > end - to:
                return -1
            for i in range(0, plain, 16):
                _move_16(at + i, to + i)
        at += plain
        to += plain
        if at > stop - 8 or to > end - 12:  # only the last bytes, which no copy follows, are so close to the end
            return room if at == stop and to == end else -1
        back = np.int64(_load(at, np.uint16(0)))
        at += 2
        length = (token & 15) + 4
        longer = np.int64(length == 19)
        length += _byte(at) * longer
        at += longer
        if back == 0 or back > to - target:
            return -1
        if length == 19 + 255:
            eight = _load(at, np.uint64(0))
            while eight == ~np.uint64(0) and at < stop:
                length += 8 * 255
                at += 8
                eight = _load(at, np.uint64(0))
            full = _lowest(~eight) // 8
            length += 255 * full + _byte(at + full)
            at += full + 1
        if length > end - 5 - to:
            return -1
        if back >= min(length, 64):
            _move_64(to - back, to)
            for i in range(64, length, 64):
                _move_64(to - back + i, to + i)
        elif back <= 8 and _load(to - back, np.uint64(0)) << np.uint64(64 - 8 * back) == np.uint64(0):
            over = length == end - 5 - to and _is_end(at, stop)
            _zero_64(to)
            for i in range(64, (target - to) % row if over else length, 64):
                _zero_64(to + i)
            if over:
                return to - target
        else:
            for i in range(length):
                _move_1(to - back + i, to + i)
        to += length
    return -1


@compiled
def _byte(at: int) -> Any:
    return np.int64(_load(at, np.uint8(0)))


@compiled
def _is_end(at: int, stop: int) -> bool:
    """Whether nothing but five plain bytes of 0 follows: what the encoder ends zeros with."""
    five = _load(at + 1, np.uint64(0)) << np.uint64(24)
    return stop - at == 6 and _byte(at) >> 4 == 5 and five == np.uint64(0)


@compiled
def list_planes(
    function: int,
    data: Any,
    starts: Any,
    begin: int,
    end: int,
    pixels: int,
    item: int,
    room: int,
    pixel: Any,
    count: Any,
    place: Any,
    found: Any,
    used: Any,
    sums: Any,
) -> None:
    """The pixels that are not 0 of frames begin … end, whose chunks are data[starts[t] : starts[t + 1]] (u8).

    They lie one frame after the other from pixel[begin * room] and count[begin * room] on: frame t's found[t] from
    place[t] on. found[t] is -1 where there are more than room - 64, and -2 where the chunk is corrupted. `sums` (n,)
    i64 gets the sums over the pixels whose bit is set in `used` (pixels / 64,) u64. `item` is the bytes of an element.
    """
    rows = np.empty((_LARGEST + _SLACK) // 8, dtype=np.uint64)
    upper = np.empty(_LARGEST // 64, dtype=np.uint64)
    some = np.empty(_LARGEST // 64, dtype=np.uint64)
    to = begin * room
    for t in range(begin, end):
        at = starts[t]
        last = starts[t + 1]
        done = 0
        place[t] = to
        plain = to  # from here on counts are still to be set to 1
        limit = to + room - 64
        found[t] = -2
        total = np.int64(0)
        if last - at < HEADER or word(data, at) != 0 or word(data, at + 4) != pixels * item:
            continue
        block = word(data, at + 8) // item
        if block <= 0 or block % 64 != 0 or block * item > _LARGEST or pixels % 64 != 0:
            continue
        found[t] = 0
        at += HEADER
        while done < pixels:
            part = min(block, pixels - done)
            words = part // 64
            size = word(data, at) if at + 4 <= last else -1
            at += 4
            if size < 0 or at + size > last:
                found[t] = -2
                break
            source = data.ctypes.data + at
            there = -1  # bytes of the block up to the last zeros
            if at + size + _SLACK <= len(data):
                there = unpack(source, size, rows.ctypes.data, part * item, words * 8)
            if there < 0:
                there = part * item
                if lz4(function, source, size, rows.ctypes.data, there) != there:
                    found[t] = -2
                    break
            at += size
            top = (there + words * 8 - 1) // (words * 8)
            wanted = used[done // 64 : done // 64 + words]
            total += _set_and_used(rows[:words], wanted)
            several = top > 1 and any_set(rows[words : top * words])  # pixels with more than one photon
            listed = rows[:words]
            if several:
                _clear(upper[:words])
                for r in range(1, top):
                    row = rows[r * words : (r + 1) * words]
                    _or(row, upper)
                    total += _set_and_used(row, wanted) << r
                listed = some[:words]
                listed[:] = rows[:words]
                _or(upper[:words], listed)
            if to + _set(listed) > limit:
                found[t] = -1
                break
            first = to
            to = _list(listed, done, to, pixel)
            if several:
                _ones(count, plain, to)
                _count(rows, upper, listed, top, first, count)
                plain = to
            done += part
        if found[t] == 0 and at == last:
            _ones(count, plain, to)
            found[t] = to - place[t]
            sums[t] = total
        else:
            found[t] = -2 if found[t] == 0 else found[t]
            to = place[t]


@compiled
def _list(row: Any, base: int, to: int, pixel: Any) -> Any:
    """Write the numbers of the bits that are set, the first bit being `base`, from pixel[to] on; gives where they end.

    A few more are written than there are: to guess for each word how many there are would cost more.
    """
    e = np.uintp(to)  # not signed: numba looks whether a signed index is negative
    for w in range(len(row)):
        bits = row[w]
        after = e + np.uintp(bits_set(bits))
        for _ in range(_OFTEN):
            pixel[e] = base + _lowest(bits)
            bits &= bits - np.uint64(1)
            e += np.uintp(1)
        while e < after:
            pixel[e] = base + _lowest(bits)
            bits &= bits - np.uint64(1)
            e += np.uintp(1)
        e = after
        base += 64
    return np.int64(e)


@compiled
def _count(rows: Any, upper: Any, listed: Any, top: int, to: int, count: Any) -> None:
    """Set the counts of those listed pixels, from count[to] on, that have a bit in `upper`: any of `top` bit rows."""
    words = len(listed)
    for w in range(words):
        bits = upper[w]
        while bits != np.uint64(0):
            bit = np.uint64(_lowest(bits))
            value = np.uint64(0)
            for r in range(top):
                value |= ((rows[r * words + w] >> bit) & np.uint64(1)) << np.uint64(r)
            count[to + bits_set(listed[w] & ((np.uint64(1) << bit) - np.uint64(1)))] = value
            bits &= bits - np.uint64(1)
        to += bits_set(listed[w])


@compiled
def _ones(count: Any, begin: int, end: int) -> None:
    """Set counts to 1, in whole groups of 64."""
    for e in range(begin, begin + (end - begin + 63) // 64 * 64):
        count[e] = 1


@compiled
def _set(row: Any) -> Any:
    found = np.int64(0)
    for w in range(len(row)):
        found += bits_set(row[w])
    return found


@compiled
def _set_and_used(row: Any, used: Any) -> Any:
    found = np.int64(0)
    for w in range(len(row)):
        found += bits_set(row[w] & used[w])
    return found


@compiled
def _clear(words: Any) -> None:
    for w in range(len(words)):
        words[w] = np.uint64(0)


@compiled
def any_set(words: Any) -> Any:
    """Whether any bit is set."""
    some = np.uint64(0)
    for w in range(len(words)):
        some |= words[w]
    return some != np.uint64(0)


@compiled
def _or(source: Any, target: Any) -> None:
    for w in range(len(source)):
        target[w] |= source[w]


@compiled
def word(data: Any, at: int) -> Any:
    return (
        (np.int64(data[at]) << 24)
        | (np.int64(data[at + 1]) << 16)
        | (np.int64(data[at + 2]) << 8)
        | np.int64(data[at + 3])
    )
