"""Frames from bitshuffled chunks, with the sums that are wanted of them, while a piece of a frame is in the cache.

Bitshuffle stores blocks of 4096 or so elements bit by bit, then compressed with LZ4 (see `bitplanes`). LZ4 is a quarter
of the work of hdf5plugin's decoder; turning bits back into numbers the rest. Here a set of vector instructions makes
numbers of 64 pixels at once, a bit row after the other, and leaves out the rows of the upper bits, which are empty in
most frames. Block by block over many frames: the sums of a block's pixels stay in the cache, and the sum of a frame is
counted from its bit rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from als_analysis.compiled import compiled, compiled_part
from als_analysis.readers.bitplanes import any_set, block_of
from als_analysis.readers.bitshuffle import HEADER
from als_analysis.readers.instructions import bits_set, loop, lz4, word

_VECTOR_BITS = 512


def _typed_unshuffle(context: Any, rows: Any, words: Any, top: Any, out: Any) -> Any:
    """(rows (planes * words,) u64, words, number of rows that are not empty, out (64 words,) u8, u16 or u32)."""
    bits = out.dtype.bitwidth
    lanes = min(_VECTOR_BITS // bits, 64)
    parts = 64 // lanes

    def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        i64, mask, number = ir.IntType(64), ir.IntType(lanes), ir.IntType(bits)
        vector = ir.VectorType(number, lanes)
        source, target = (ctx.make_array(signature.args[i])(ctx, builder, arguments[i]).data for i in (0, 3))
        source = builder.bitcast(source, mask.as_pointer())
        words, top = arguments[1], arguments[2]
        zero, one = ir.Constant(vector, [0] * lanes), ir.Constant(vector, [1] * lanes)
        w, _, close_words = loop(builder, i64(0), words, 1, [])
        at = builder.mul(w, i64(parts))
        row = builder.mul(words, i64(parts))
        r, carried, close_rows = loop(builder, i64(0), top, 1, [one] + [zero] * parts)
        bit, values = carried[0], carried[1:]
        here = builder.add(builder.mul(r, row), at)
        taken = []
        for part, value in enumerate(values):
            where = builder.gep(source, [builder.add(here, i64(part))])
            chosen = builder.bitcast(builder.load(where, align=1), ir.VectorType(ir.IntType(1), lanes))
            taken.append(builder.or_(value, builder.select(chosen, bit, zero)))
        close_rows([builder.add(bit, bit), *taken])
        for part, value in enumerate(values):
            where = builder.gep(target, [builder.mul(builder.add(at, i64(part)), i64(lanes))])
            builder.store(value, builder.bitcast(where, vector.as_pointer()), align=bits // 8)
        close_words([])
        return ctx.get_dummy_value()

    return types.void(rows, types.int64, types.int64, out), codegen


_unshuffle: Any = intrinsic(_typed_unshuffle)


@compiled
def find_blocks(data: Any, starts: Any, pixels: int, item: int, where: Any, size: Any) -> Any:
    """Where each block of each frame's chunk lies, `where` and `size` (n, blocks) i64; gives the pixels of a block.

    Frame t's chunk is data[starts[t] : starts[t + 1]] (u8). Gives 0 where a chunk is not what it should be.
    """
    block = 0
    for t in range(len(starts) - 1):
        at = starts[t]
        last = starts[t + 1]
        mine = block_of(data, at, last, pixels, item)
        if mine == 0 or mine % 64 != 0 or (block > 0 and mine != block):
            return 0
        if (pixels + mine - 1) // mine != where.shape[1]:
            return 0
        block = mine
        at += HEADER
        for b in range(where.shape[1]):
            length = word(data, at) if at + 4 <= last else -1
            at += 4
            if length < 0 or at + length > last:
                return 0
            where[t, b] = at
            size[t, b] = length
            at += length
    return block


@compiled
def is_sound(function: int, data: Any, pixels: int, item: int) -> bool:
    """Whether one frame's chunk (u8) is what its header says, each block decoding to its size within its bytes.

    The plugin trusts its input: a damaged chunk would make it read and write beyond its memory. `function` as below.
    """
    block = block_of(data, 0, len(data), pixels, item)
    if block == 0:
        return False
    room = np.empty(block * item, dtype=np.uint8)
    at = HEADER
    done = 0
    whole = pixels - pixels % 8  # what is left of the frame stands there as it is
    while done < whole:
        part = min(block, whole - done)
        size = word(data, at) if at + 4 <= len(data) else -1
        at += 4
        if size < 0 or at + size > len(data):
            return False
        if lz4(function, data.ctypes.data + at, size, room.ctypes.data, part * item) != part * item:
            return False
        at += size
        done += part
    return at + (pixels - whole) * item == len(data)


@compiled
def sum_blocks(
    function: int,
    data: Any,
    starts: Any,
    begin: int,
    end: int,
    pixels: int,
    item: int,
    block: int,
    together: int,
    used: Any,
    widths: Any,
    sums: Any,
    full: Any,
) -> None:
    """Of frames begin … end, whose chunks are data[starts[t] : starts[t + 1]] (u8), without turning bits into numbers:

    `sums` (n,) i64 over the pixels whose bit is set in `used` (pixels / 64,) u64, -1 where the chunk is not as it
    should be; `full` (n,) i64 how many of these have all bits set; `widths` (n, groups) the bytes of each `together`
    blocks, with the lengths before them. `block` is the pixels of a block, `item` the bytes of one.
    """
    planes = 8 * item
    rows = np.empty(block * item // 8, dtype=np.uint64)
    for t in range(begin, end):
        at = starts[t]
        last = starts[t + 1]
        sums[t] = -1
        full[t] = 0
        if block_of(data, at, last, pixels, item) != block:
            continue
        at += HEADER
        group = at
        total = np.int64(0)
        for first in range(0, pixels, block):
            if first // block % together == 0 and first > 0:
                widths[t, first // block // together - 1] = at - group
                group = at
            part = min(block, pixels - first)
            size = word(data, at) if at + 4 <= last else -1
            at += 4
            if size < 0 or at + size > last:
                total = np.int64(-1)
                break
            if lz4(function, data.ctypes.data + at, size, rows.ctypes.data, part * item) != part * item:
                total = np.int64(-1)
                break
            at += size
            words = part // 64
            wanted = used[first // 64 : first // 64 + words]
            top = top_plane(rows, words, planes)
            for r in range(top):
                total += _set_and_used(rows[r * words : (r + 1) * words], wanted) << r
            if top == planes:
                full[t] += _full(rows, planes, wanted)
        widths[t, widths.shape[1] - 1] = at - group
        if at == last:
            sums[t] = total


@compiled_part
def top_plane(rows: Any, words: int, planes: int) -> Any:
    """How many of the bit rows of a block there are up to the last one with a bit set."""
    while planes > 0 and not any_set(rows[(planes - 1) * words : planes * words]):
        planes -= 1
    return planes


@compiled_part
def _full(rows: Any, planes: int, wanted: Any) -> Any:
    """How many of the wanted pixels have all bits set."""
    count = np.int64(0)
    words = len(wanted)
    for w in range(words):
        all_ = wanted[w]
        for r in range(planes):
            all_ &= rows[r * words + w]
        count += bits_set(all_)
    return count


def _typed_pread(context: Any, function: Any, descriptor: Any, target: Any, size: Any, where: Any) -> Any:
    """Call pread at the address `function`; gives the bytes read, -1 for an error."""

    def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, word_, number = ir.IntType(8).as_pointer(), ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(word_, [number, pointer, word_, word_])
        call, descriptor, target, size, where = arguments
        return builder.call(
            builder.inttoptr(call, kind.as_pointer()),
            [builder.trunc(descriptor, number), builder.inttoptr(target, pointer), size, where],
        )

    return types.int64(types.int64, types.int64, types.int64, types.int64, types.int64), codegen


_pread: Any = intrinsic(_typed_pread)


@compiled
def read_at(function: int, descriptor: int, where: Any, starts: Any, data: Any) -> Any:
    """Read data[starts[i] : starts[i + 1]] (u8) from where[i] on in a file; gives how many came whole."""
    for i in range(len(where)):
        done = starts[i]
        while done < starts[i + 1]:
            size = starts[i + 1] - done
            read = _pread(function, descriptor, data.ctypes.data + done, size, where[i] + done - starts[i])
            if read <= 0:
                return i
            done += read
    return len(where)


@compiled
def decode_blocks(
    function: int,
    data: Any,
    where: Any,
    size: Any,
    block: int,
    begin: int,
    end: int,
    out: Any,
    used: Any,
    per_frame: Any,
    per_pixel: Any,
) -> bool:
    """Decode blocks begin … end of all frames into `out` (n, pixels); gives whether all of them were sound.

    Adds to `per_frame` (n,) i64 the sum of the pixels whose bit is set in `used` (pixels / 64,) u64, and to `per_pixel`
    (pixels,) i64 each pixel's sum over the frames. `function` is the address of LZ4_decompress_safe.
    """
    pixels = out.shape[1]
    item = out.itemsize
    planes = 8 * item
    rows = np.empty(block * item // 8, dtype=np.uint64)
    sums = np.empty(block, dtype=np.int64)
    for b in range(begin, end):
        first = b * block
        part = min(block, pixels - first)
        words = part // 64
        sums[:part] = 0
        for t in range(out.shape[0]):
            found = lz4(function, data.ctypes.data + where[t, b], size[t, b], rows.ctypes.data, part * item)
            if found != part * item:
                return False
            top = top_plane(rows, words, planes)
            numbers = out[t, first : first + part]
            _unshuffle(rows, words, top, numbers)
            _add(numbers, sums)
            for r in range(top):
                per_frame[t] += _set_and_used(rows[r * words : (r + 1) * words], used[first // 64 :]) << r
        for p in range(part):
            per_pixel[first + p] += sums[p]
    return True


@compiled_part
def _add(numbers: Any, sums: Any) -> None:
    for p in range(len(numbers)):
        sums[p] += np.int64(numbers[p])


@compiled_part
def _set_and_used(row: Any, used: Any) -> Any:
    count = np.int64(0)
    for w in range(len(row)):
        count += bits_set(row[w] & used[w])
    return count
