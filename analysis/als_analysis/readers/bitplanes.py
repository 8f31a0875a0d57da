"""Events straight from bitshuffled chunks: most of a nearly empty frame is never decoded into pixels.

Bitshuffle stores blocks of elements bit by bit: row r of a block holds bit r of all its elements, eight elements to a
byte, then compressed with LZ4. In frames with few photons all rows but the first are nearly always 0; the set bits are
found in the rows themselves, without turning them back into numbers (Masui et al., Astron. Comput. 12, 181 (2015)).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from als_analysis.xpcs.compiled import compiled

HEADER = 12


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


_lowest: Any = intrinsic(_typed_lowest)
bits_set: Any = intrinsic(_typed_set)


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
    place[t] on. found[t] is -1 where there are more than `room`, and -2 where the chunk is corrupted. `sums` (n,) i64
    gets the sums over the pixels whose bit is set in `used` (pixels / 64,) u64. `item` is the bytes of an element;
    `pixel` and `count` have 64 places more than room for each frame.
    """
    planes = 8 * item
    rows = np.empty(1 << 16, dtype=np.uint64)
    upper = np.empty(1 << 16, dtype=np.uint64)
    to = begin * room
    for t in range(begin, end):
        at = starts[t]
        last = starts[t + 1]
        block = word(data, at + 8) // item
        done = 0
        place[t] = to
        limit = to + room
        found[t] = 0
        total = np.int64(0)
        at += HEADER
        if block <= 0 or block % 64 != 0 or block * item > 8 * len(rows) or pixels % 64 != 0:
            found[t] = -2
            continue
        while done < pixels and found[t] >= 0:
            part = min(block, pixels - done)
            size = word(data, at) if at + 4 <= last else -1
            at += 4
            if size < 0 or at + size > last:
                found[t] = -2
                break
            if lz4(function, data.ctypes.data + at, size, rows.ctypes.data, part * item) != part * item:
                found[t] = -2
                break
            at += size
            words = part // 64
            several = any_set(rows[words : planes * words])  # whether any pixel of the block has more than one photon
            if several:
                _clear(upper[:words])
                for r in range(1, planes):
                    _or(rows[r * words : (r + 1) * words], upper)
            for w in range(words):
                bits = rows[w] | upper[w] if several else rows[w]
                if to > limit:
                    break
                wanted = used[done // 64 + w]
                total += bits_set(rows[w] & wanted)
                first = to
                base = done + w * 64
                to += bits_set(bits)
                # two places are written whether there are two or not: guessing their number wrongly would cost more
                for e in range(first, first + 2):
                    pixel[e] = base + _lowest(bits)
                    count[e] = 1
                    bits &= bits - np.uint64(1)
                for e in range(first + 2, to):
                    pixel[e] = base + _lowest(bits)
                    count[e] = 1
                    bits &= bits - np.uint64(1)
                if several and upper[w] != np.uint64(0):
                    for r in range(1, planes):
                        total += bits_set(rows[r * words + w] & wanted) << r
                    for e in range(first, to):
                        bit = np.uint64(pixel[e] % 64)
                        value = np.uint64(0)
                        for r in range(planes):
                            value |= ((rows[r * words + w] >> bit) & np.uint64(1)) << np.uint64(r)
                        count[e] = value
            if to > limit:
                found[t] = -1
            done += part
        if found[t] >= 0:
            found[t] = to - place[t]
            sums[t] = total
        else:
            to = place[t]


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
