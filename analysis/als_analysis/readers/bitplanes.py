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

from als_analysis.xpcs.kernels import compiled

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


_lz4: Any = intrinsic(_typed_lz4)


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
    found: Any,
) -> None:
    """The pixels that are not 0 of frames begin … end, whose chunks are data[starts[t] : starts[t + 1]] (u8).

    Frame t's go to pixel[t * room :] and count[t * room :], found[t] of them; found[t] is -1 where there are more than
    `room`, and -2 where the chunk is corrupted. `item` is the bytes of an element.
    """
    planes = 8 * item
    rows = np.empty(1 << 16, dtype=np.uint64)
    upper = np.empty(1 << 16, dtype=np.uint64)
    for t in range(begin, end):
        at = starts[t]
        last = starts[t + 1]
        block = _word(data, at + 8) // item
        done = 0
        total = 0
        at += HEADER
        if block <= 0 or block % 64 != 0 or block * item > 8 * len(rows) or pixels % 64 != 0:
            found[t] = -2
            continue
        while done < pixels and total >= 0:
            part = min(block, pixels - done)
            size = _word(data, at) if at + 4 <= last else -1
            at += 4
            if size < 0 or at + size > last:
                total = -2
                break
            if _lz4(function, data.ctypes.data + at, size, rows.ctypes.data, part * item) != part * item:
                total = -2
                break
            at += size
            words = part // 64
            for w in range(words):
                upper[w] = np.uint64(0)
            for r in range(1, planes):
                _or(rows[r * words : (r + 1) * words], upper)
            for w in range(words):
                high = upper[w]
                bits = rows[w] | high
                while bits != np.uint64(0):
                    lowest = bits & (~bits + np.uint64(1))
                    if total >= room:
                        total = -1
                        break
                    value = np.uint64(1)
                    if high & lowest != np.uint64(0):
                        value = np.uint64(0)
                        for r in range(planes):
                            if rows[r * words + w] & lowest != np.uint64(0):
                                value |= np.uint64(1) << np.uint64(r)
                    pixel[t * room + total] = done + w * 64 + _position(lowest)
                    count[t * room + total] = value
                    total += 1
                    bits ^= lowest
                if total < 0:
                    break
            done += part
        found[t] = total


@compiled
def _or(source: Any, target: Any) -> None:
    for w in range(len(source)):
        target[w] |= source[w]


@compiled
def _word(data: Any, at: int) -> Any:
    return (
        (np.int64(data[at]) << 24)
        | (np.int64(data[at + 1]) << 16)
        | (np.int64(data[at + 2]) << 8)
        | np.int64(data[at + 3])
    )


@compiled
def _position(bit: Any) -> Any:
    """Which bit a power of two is."""
    place = 0
    if bit & np.uint64(0xFFFFFFFF00000000):
        place += 32
    if bit & np.uint64(0xFFFF0000FFFF0000):
        place += 16
    if bit & np.uint64(0xFF00FF00FF00FF00):
        place += 8
    if bit & np.uint64(0xF0F0F0F0F0F0F0F0):
        place += 4
    if bit & np.uint64(0xCCCCCCCCCCCCCCCC):
        place += 2
    if bit & np.uint64(0xAAAAAAAAAAAAAAAA):
        place += 1
    return place
