"""The compiled loops from encoded frames straight into the multi-tau sums, one block of pixels through many frames.

A block is decompressed to its bit rows, of which only those up to the highest with a bit set are kept. From these each
tile's numbers are made where the correlator takes them from, scaled, while what they come from is in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from als_analysis.compiled import compiled, compiled_part
from als_analysis.readers.instructions import loop, lz4, word
from als_analysis.readers.unshuffle import top_plane
from als_analysis.xpcs.kernels import add_levels
from als_analysis.xpcs.vectors import LANES, REACH

AT_ONCE = 512  # frames; their bit rows and the tile's samples fit into a core's second cache
_VECTOR_BITS = 512


def _typed_tile(
    context: Any, rows: Any, place: Any, top: Any, words: Any, w: Any, scale: Any, x: Any, total: Any, kind: Any
) -> Any:
    """See `_tile`, below."""
    bits = kind.dtype.bitwidth
    lanes = min(_VECTOR_BITS // bits, LANES)
    parts = LANES // lanes

    def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        i64, mask = ir.IntType(64), ir.IntType(lanes)
        vector, floats = ir.VectorType(ir.IntType(bits), lanes), ir.VectorType(ir.FloatType(), lanes)
        wide = ir.VectorType(ir.IntType(64 if bits > 16 else 32), lanes)
        widest = ir.VectorType(i64, lanes)

        def data(index: int) -> Any:
            return ctx.make_array(signature.args[index])(ctx, builder, arguments[index]).data

        source, place, top, scale, x, total = (data(i) for i in (0, 1, 2, 5, 6, 7))
        words, w = arguments[3], arguments[4]
        frames = ctx.make_array(signature.args[5])(ctx, builder, arguments[5]).nitems
        source = builder.bitcast(source, mask.as_pointer())
        zero, one = ir.Constant(vector, [0] * lanes), ir.Constant(vector, [1] * lanes)
        step = builder.mul(words, i64(parts))
        t, sums, close_frames = loop(builder, i64(0), frames, 1, [ir.Constant(wide, [0] * lanes)] * parts)
        first = builder.mul(builder.add(builder.load(builder.gep(place, [t])), w), i64(parts))
        r, carried, close_rows = loop(builder, i64(0), builder.load(builder.gep(top, [t])), 1, [one] + [zero] * parts)
        here = builder.add(first, builder.mul(r, step))
        taken = []
        for part, value in enumerate(carried[1:]):
            where = builder.gep(source, [builder.add(here, i64(part))])
            chosen = builder.bitcast(builder.load(where, align=1), ir.VectorType(ir.IntType(1), lanes))
            taken.append(builder.or_(value, builder.select(chosen, carried[0], zero)))
        close_rows([builder.add(carried[0], carried[0]), *taken])
        factor = builder.insert_element(ir.Constant(floats, ir.Undefined), builder.load(builder.gep(scale, [t])),
                                        ir.IntType(32)(0))  # fmt: skip
        factor = builder.shuffle_vector(factor, factor, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))
        row = builder.mul(builder.add(t, i64(REACH)), i64(LANES))
        for part, value in enumerate(carried[1:]):
            to = builder.gep(x, [builder.add(row, i64(part * lanes))])
            scaled = builder.fmul(builder.uitofp(value, floats), factor)
            builder.store(scaled, builder.bitcast(to, floats.as_pointer()), align=4)

        def extend(value: Any) -> Any:
            return value if wide == vector else builder.zext(value, wide)

        close_frames([builder.add(s, extend(v)) for s, v in zip(sums, carried[1:], strict=True)])
        for part, value in enumerate(sums):
            where = builder.bitcast(builder.gep(total, [i64(part * lanes)]), widest.as_pointer())
            value = value if wide == widest else builder.zext(value, widest)
            builder.store(builder.add(builder.load(where, align=8), value), where, align=8)
        return ctx.get_dummy_value()

    return types.void(rows, place, top, types.int64, types.int64, scale, x, total, kind), codegen


# (rows u64, place and top (n,) i64, words, w, scale (n,) f32, x (8 + n, LANES) f32, total (LANES,) i64, kind):
# frame t's bit rows lie from rows[place[t]] on, top[t] of them, `words` long. Word w of each makes 64 numbers of the
# type of the array `kind`: times scale[t] they are x[8 + t], and `total` gets their sum over the frames
_tile: Any = intrinsic(_typed_tile)


@compiled
def add_encoded(
    function: int,
    data: Any,
    at: Any,
    ends: Any,
    pixels: int,
    kind: Any,
    scale: Any,
    edges: Any,
    segments: Any,
    tile_of_word: Any,
    before: int,
    per_pixel: Any,
    sums: Any,
    recent: Any,
    first: Any,
    total: Any,
) -> bool:
    """Add one block of n frames, of `pixels` pixels, to the state of its tiles; gives whether it was sound throughout.

    Frame t's block, with its length before it, is at data[at[t]] (u8), within ends[t]; at[t] moves on to the next one.
    `kind` is an array of the frames' type, `scale` (n,) f32 multiplies them. `function` is as in `unshuffle`.
    `tile_of_word` (pixels / 64,) says which tile each 64 pixels are, -1 for none. `before` frames were there before.
    Frames edges[i] … edges[i + 1] add to per_pixel[segments[i]] (segments, pixels) i64 each pixel's sum.
    """
    item = kind.itemsize
    planes = 8 * item
    words = pixels // 64
    levels = recent.shape[1]
    room = np.empty(planes * words, dtype=np.uint64)
    rows = np.empty(AT_ONCE * planes * words, dtype=np.uint64)
    place = np.empty(AT_ONCE, dtype=np.int64)
    top = np.empty(AT_ONCE, dtype=np.int64)
    seen = np.empty(levels, dtype=np.int64)
    x = np.empty((REACH + 1 + AT_ONCE, LANES), dtype=np.float32)
    y = np.empty(x.shape, dtype=np.float32)
    n = len(at)
    segment = 0
    for begin in range(0, n, AT_ONCE):
        end = min(begin + AT_ONCE, n)
        to = 0
        for t in range(begin, end):
            size = word(data, at[t]) if at[t] + 4 <= ends[t] else -1
            start = at[t] + 4
            if size < 0 or start + size > ends[t]:
                return False
            if lz4(function, data.ctypes.data + start, size, room.ctypes.data, pixels * item) != pixels * item:
                return False
            at[t] = start + size
            high = top_plane(room, words, planes)
            place[t - begin] = to
            top[t - begin] = high
            _copy(room[: high * words], rows[to : to + high * words])
            to += high * words
        for level in range(levels):
            seen[level] = (before + begin) >> level
        while edges[segment + 1] <= begin:
            segment += 1
        for w in range(words):
            s = segment
            low = begin
            while low < end:
                high = min(end, edges[s + 1])
                a, b = low - begin, high - begin
                whole = per_pixel[segments[s], w * LANES : (w + 1) * LANES]
                _tile(rows, place[a:b], top[a:b], words, w, scale[low:high], x[a:], whole, kind)
                low = high
                s += 1
            tile = tile_of_word[w]
            if tile >= 0:
                add_levels(x, y, end - begin, 0, seen, sums[tile], recent[tile], first[tile], total[tile])
    return True


@compiled_part
def _copy(source: Any, target: Any) -> None:
    for w in range(len(source)):
        target[w] = source[w]
