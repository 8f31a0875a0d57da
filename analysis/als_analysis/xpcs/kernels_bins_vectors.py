"""From the sums of a tile's lanes to sums over runs of them, written as LLVM vectors like the loop in `vectors`.

Lanes of one bin come in short runs, and summing a few elements of a vector costs more than all that came before. So
a square block of lags by lanes is turned around in registers:

    four vectors of four lanes, one for each lag  ->  four vectors of four lags, one for each lane

Then a run of any length is a sum of vectors. Blocks of lags: steps 1-4 of level 0, its steps 5-8, then steps 5-8 of
each further level. Wider vectors, where a machine has them, make it no faster.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

from als_analysis.readers.instructions import loop
from als_analysis.xpcs.vectors import LANES, REACH

LAGS = REACH // 2  # lags in a block, and lanes

_WORD = ir.IntType(64)
_SINGLES, _DOUBLES = ir.VectorType(ir.FloatType(), LAGS), ir.VectorType(ir.DoubleType(), LAGS)
_ZERO, _ONE = ir.Constant(_DOUBLES, [0.0] * LAGS), ir.Constant(_DOUBLES, [1.0] * LAGS)


def _at(builder: Any, array: Any, *places: tuple[Any, int]) -> Any:
    """Where an array has the element at the sum of all index * stride; each instruction less is compiled sooner."""
    where, known = array, 0
    for index, stride in places:
        if isinstance(index, int):
            known += index * stride
        else:
            where = builder.gep(where, [index if stride == 1 else builder.mul(index, _WORD(stride))])
    return builder.gep(where, [_WORD(known)]) if known else where


def _load(builder: Any, where: Any) -> Any:
    """The vector that begins there, f32 or f64, as f64."""
    if where.type.pointee == ir.FloatType():
        return builder.fpext(builder.load(builder.bitcast(where, _SINGLES.as_pointer()), align=4), _DOUBLES)
    return builder.load(builder.bitcast(where, _DOUBLES.as_pointer()), align=8)


def _store(builder: Any, vector: Any, where: Any) -> None:
    """Store a vector of f64 there, rounded if those are f32."""
    if where.type.pointee == ir.FloatType():
        rounded = builder.fptrunc(vector, _SINGLES)
        builder.store(rounded, builder.bitcast(where, _SINGLES.as_pointer()), align=4)
    else:
        builder.store(vector, builder.bitcast(where, _DOUBLES.as_pointer()), align=8)


def _shuffle(builder: Any, one: Any, other: Any, picks: list[int]) -> Any:
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), LAGS), picks))


def _spread(builder: Any, where: Any) -> Any:
    """The f64 that is there, in all elements of a vector."""
    nothing = ir.Constant(_DOUBLES, ir.Undefined)
    return _shuffle(builder, builder.insert_element(nothing, builder.load(where), _WORD(0)), nothing, [0] * LAGS)


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of LAGS vectors."""
    size = 1
    while size < LAGS:  # of all squares of 2 * size elements the quarters off the diagonal change places
        left = [i if i & size == 0 else LAGS + i - size for i in range(LAGS)]
        right = [i + size if i & size == 0 else LAGS + i for i in range(LAGS)]
        rows = [_shuffle(builder, rows[i & ~size], rows[i | size], right if i & size else left) for i in range(LAGS)]
        size *= 2
    return rows


def _emit_turn(
    b: Any,
    tile: Any,
    block: Any,
    levels: Any,
    differ: Any,
    note: Any,
    sums: Any,
    recent: Any,
    first: Any,
    totals: Any,
    some: Any,
    sums0: Any,
    past0: Any,
    totals0: Any,
    some0: Any,
    out: Any,
) -> None:
    """IR of `turn_block`, whose arguments these are."""
    lags = b.mul(b.add(levels, _WORD(1)), _WORD(LAGS))
    lane, _, close_lanes = loop(b, _WORD(0), _WORD(LANES), LAGS, [])
    lowest = b.icmp_signed("==", block, _WORD(0))
    level = b.select(lowest, _WORD(0), b.sub(block, _WORD(1)))
    begin = b.mul(b.add(b.mul(tile, levels), level), _WORD(REACH))  # of the level's samples
    first_lag = b.add(b.mul(tile, lags), b.mul(block, _WORD(LAGS)))

    def some_samples(array: Any) -> list[Any]:
        """Sums of as many samples from an end as each lag's step: the newest are the last of `recent`."""
        order = [REACH - 1 - i if array is recent else i for i in range(LAGS)]
        samples = _at(b, array, (begin, LANES), (lane, 1))
        after = _at(b, samples, (b.select(lowest, _WORD(0), _WORD(-LAGS if array is recent else LAGS)), LANES))
        part = _ZERO
        for i in order:
            part = b.fadd(part, _load(b, _at(b, samples, (i, LANES))))
        part = b.select(lowest, _ZERO, part)
        found = []
        for i in order:
            part = b.fadd(part, _load(b, _at(b, after, (i, LANES))))
            found.append(part)
        return found

    def of_lags(array: Any) -> list[Any]:
        here = _at(b, array, (first_lag, LANES), (lane, 1))
        return [_at(b, here, (i, LANES)) for i in range(LAGS)]

    def put(which: int, vectors: list[Any]) -> None:
        for i, vector in enumerate(_turned(b, vectors)):
            _store(b, vector, _at(b, to, (which, LANES * LAGS), (i, LAGS)))

    to = _at(b, out, (lane, LAGS))
    whole = _load(b, _at(b, totals, (level, LANES), (lane, 1)))
    oldest = some_samples(first)
    products = [_load(b, where) for where in of_lags(sums)]
    pasts = [b.fsub(whole, part) for part in some_samples(recent)]
    futures = [b.fsub(whole, part) for part in oldest]
    put(0, products)
    put(1, pasts)
    put(2, futures)
    with b.if_then(differ):
        put(3, [b.fsub(now, _load(b, where)) for now, where in zip(products, of_lags(sums0), strict=True)])
        put(4, [b.fsub(now, _load(b, where)) for now, where in zip(pasts, of_lags(past0), strict=True)])
        whole0 = _load(b, _at(b, totals0, (level, LANES), (lane, 1)))
        shares = [_spread(b, _at(b, some0, (block, LAGS), (i, 1))) for i in range(LAGS)]
        futures0 = [b.fmul(b.fsub(whole0, part), share) for part, share in zip(oldest, shares, strict=True)]
        put(5, [b.fsub(now, before) for now, before in zip(futures, futures0, strict=True)])
    with b.if_then(note):
        for product, where in zip(products, of_lags(sums0), strict=True):
            _store(b, product, where)
        for i, (past, where) in enumerate(zip(pasts, of_lags(past0), strict=True)):
            _store(b, b.fmul(past, _spread(b, _at(b, some, (block, LAGS), (i, 1)))), where)
    close_lanes([])


def _emit_sums(
    b: Any,
    module: Any,
    which: Any,
    block: Any,
    count: Any,
    statics: Any,
    dynamics: Any,
    turned: Any,
    runs: Any,
    least: Any,
    share: Any,
    per_static: Any,
    per_dynamic: Any,
) -> None:
    """IR of `add_runs`, whose arguments these are."""

    def function(name: str, arguments: int) -> Any:
        kind = ir.FunctionType(_DOUBLES, [_DOUBLES] * arguments)
        return cgutils.get_or_insert_function(module, kind, f"llvm.{name}.v{LAGS}f64")  # type: ignore[no-untyped-call]

    fma, fabs = function("fma", 3), function("fabs", 1)
    shares = _load(b, _at(b, share, (block, LAGS)))
    run, _, close_runs = loop(b, _WORD(0), count, 1, [])
    start, stop, static, dynamic = (b.load(_at(b, runs, (run, 4), (i, 1))) for i in range(4))
    lane, sums, close_lanes = loop(b, start, stop, 1, [_ZERO] * 6)
    means = [
        b.fmul(_load(b, _at(b, turned, (b.add(which, _WORD(i)), LANES * LAGS), (lane, LAGS))), shares) for i in range(3)
    ]
    product, past, future = means
    limit = _spread(b, _at(b, least, (lane, 1)))
    good = b.and_(*(b.fcmp_ordered(">", b.call(fabs, [x]), limit) for x in (past, future)))
    # the difference is taken in f64, where digits cancel; its ratio needs no more than f32
    difference = b.fptrunc(b.call(fma, [b.fneg(past), future, product]), _SINGLES)
    square = b.fptrunc(b.select(good, b.fmul(past, future), _ONE), _SINGLES)
    away = b.select(good, b.fpext(b.fdiv(difference, square), _DOUBLES), _ZERO)
    added = [b.fadd(s, x) for s, x in zip(sums[:5], [*means, b.select(good, _ONE, _ZERO), away], strict=True)]
    close_lanes([*added, b.call(fma, [away, away, sums[5]])])
    outs = ((per_static, statics, static), (per_dynamic, dynamics, dynamic))
    for (array, bins, bin_), found in zip(outs, (sums[:3], sums[3:]), strict=True):
        for i, sum_ in enumerate(found):
            to = _at(b, array, (b.add(b.mul(block, bins), bin_), 3 * LAGS), (i, LAGS))
            _store(b, b.fadd(_load(b, to), sum_), to)
    close_runs([])


def _values(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Arguments for IR: of arrays, which are all C-contiguous, where their elements begin."""
    if any(isinstance(kind, types.Array) and kind.layout != "C" for kind in signature.args):
        raise TypeError("arrays here are C-contiguous")
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, arguments, strict=True)
    ]


def _typed_turn_block(
    typing: Any,
    tile: Any,
    block: Any,
    levels: Any,
    differ: Any,
    note: Any,
    sums: Any,
    recent: Any,
    first: Any,
    totals: Any,
    some: Any,
    sums0: Any,
    past0: Any,
    totals0: Any,
    some0: Any,
    out: Any,
) -> Any:
    """Sums of a tile's products, and of their earlier and later samples, for the lags block * LAGS …, lane by lane.

    They go to out[0 … 2] (6, LANES, LAGS) f64; with `differ` the same without those of an earlier state, whose arrays
    have the suffix 0, to out[3 … 5]; with `note`, after that, `sums0` and `past0` become the present ones. `totals`
    (levels, LANES) f64 are the tile's; `some` (lags,) f64 is 1 where a lag has pairs, else 0: there `past0` becomes 0.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit_turn(builder, *_values(context, builder, signature, arguments))
        return context.get_dummy_value()

    numbers = (types.int64, types.int64, types.int64, types.boolean, types.boolean)
    arrays = (sums, recent, first, totals, some, sums0, past0, totals0, some0, out)
    return types.void(*numbers, *arrays), codegen


def _typed_add_runs(
    typing: Any,
    which: Any,
    block: Any,
    count: Any,
    statics: Any,
    dynamics: Any,
    turned: Any,
    runs: Any,
    least: Any,
    share: Any,
    per_static: Any,
    per_dynamic: Any,
) -> Any:
    """Add `count` runs, rows (start, stop, static, dynamic) of `runs`, of a block of lanes to the sums over bins.

    `which` is 0 for out[0 … 2] of `turn_block`, 3 for the other ones; `share` (lags,) f64 is 1 / pairs.
    `per_static` (blocks, statics, 3, LAGS) f64: G2, IP, IF; `per_dynamic` (blocks, dynamics, 3, LAGS) f64: the lanes
    with a g2, and of them g2 - 1 and (g2 - 1)^2. Where IP or IF is not above `least` (LANES,) f64 there is no g2: what
    a pixel's total leaves without its only photons is rounding.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit_sums(builder, builder.module, *_values(context, builder, signature, arguments))
        return context.get_dummy_value()

    arrays = (turned, runs, least, share, per_static, per_dynamic)
    return types.void(*(types.int64,) * 5, *arrays), codegen


turn_block: Any = intrinsic(_typed_turn_block)
add_runs: Any = intrinsic(_typed_add_runs)
