"""Products at all lags of a level at once, written as LLVM vectors: the one loop whose speed decides everything.

The compiler does not vectorise it by itself: it cannot prove that sums and samples are different memory. Here the
sums of all lags and the last eight samples stay in registers, and each sample is loaded once:

    for t:  new = x[t];  sum[k] += new * past[k]  for each lag k;  past = new, past[:-1]

While a pair of samples is in registers its mean is stored as well: the sample of the next level.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

from als_analysis.readers.instructions import loop

LANES = 64  # pixels in a tile
REACH = 8  # the longest lag inside a level
WIDTH = 16 if get_host_cpu_features().get("avx512f") else 8  # floats in a register
ROWS_PER_FLUSH = 64  # products summed in f32 before they are added to the f64 sums


def _emit(builder: Any, module: Any, x: Any, rows: Any, sums: Any, y: Any, first_step: int, odd: int) -> None:
    """IR for: sums[k - first_step] += x[t] * x[t - k] over t = REACH … REACH + rows - 1, LANES floats to a row.

    And y[REACH + i] = (x[t - 1] + x[t]) / 2 for pairs of rows that end at t = REACH + 1 + 2 i, or one earlier if `odd`.
    The row of `y` after the last one may be written, too.
    """
    word = ir.IntType(64)
    vector, wide = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.DoubleType(), WIDTH)
    fma = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{WIDTH}f32"
    )
    steps = range(first_step, REACH + 1)
    zero, half = ir.Constant(vector, [0.0] * WIDTH), ir.Constant(vector, [0.5] * WIDTH)

    def at(array: Any, row: Any, lane: Any) -> Any:
        where = builder.gep(array, [builder.add(builder.mul(row, word(LANES)), lane)])
        return builder.bitcast(where, vector.as_pointer())

    def load(row: Any, lane: Any) -> Any:
        return builder.load(at(x, row, lane), align=4)

    def store_mean(one: Any, other: Any, t: Any, lane: Any) -> None:
        row = builder.add(builder.lshr(builder.add(t, word(odd - REACH)), word(1)), word(REACH))
        builder.store(builder.fmul(half, builder.fadd(one, other)), at(y, row, lane), align=4)

    lane, _, close_lanes = loop(builder, word(0), word(LANES), WIDTH, [])
    last = builder.add(rows, word(REACH))
    begin, _, close_flushes = loop(builder, word(REACH), last, ROWS_PER_FLUSH, [])
    limit = builder.add(begin, word(ROWS_PER_FLUSH))
    end = builder.select(builder.icmp_signed("<", limit, last), limit, last)
    whole = builder.add(begin, builder.and_(builder.sub(end, begin), word(-REACH)))  # eight rows at a time until here
    past = [load(builder.sub(begin, word(REACH - i)), lane) for i in range(REACH)]  # past[t mod 8] is sample t
    t, phis, close_rows = loop(builder, begin, whole, REACH, [zero] * len(steps) + past)
    sum_, past = phis[: len(steps)], phis[len(steps) :]
    for i in range(REACH):
        new = load(builder.add(t, word(i)), lane)
        sum_ = [builder.call(fma, [new, past[(i - k) % REACH], s]) for k, s in zip(steps, sum_, strict=True)]
        if i % 2 != odd:
            store_mean(past[(i - 1) % REACH], new, builder.add(t, word(i)), lane)
        past = [new if n == i else p for n, p in enumerate(past)]
    close_rows(sum_ + past)
    t, sum_, close_rest = loop(builder, whole, end, 1, phis[: len(steps)])
    new = load(t, lane)
    # of the first row of a pair too, in the place where the pair's own mean is written next
    store_mean(load(builder.sub(t, word(1)), lane), new, t, lane)
    close_rest(
        [builder.call(fma, [new, load(builder.sub(t, word(k)), lane), s]) for k, s in zip(steps, sum_, strict=True)]
    )
    for row, value in enumerate(sum_):
        to = builder.bitcast(builder.gep(sums, [builder.add(word(row * LANES), lane)]), wide.as_pointer())
        builder.store(builder.fadd(builder.load(to, align=8), builder.fpext(value, wide)), to, align=8)
    close_flushes([])
    close_lanes([])


def _products(first_step: int) -> Any:
    def typing(context: Any, x: Any, rows: Any, sums: Any, y: Any, odd: Any) -> Any:
        def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            samples, totals, means = (
                ctx.make_array(signature.args[i])(ctx, builder, arguments[i]).data for i in (0, 2, 3)
            )
            with builder.if_else(arguments[4]) as (then, otherwise):
                for branch, parity in ((then, 1), (otherwise, 0)):
                    with branch:
                        _emit(builder, builder.module, samples, arguments[1], totals, means, first_step, parity)
            return ctx.get_dummy_value()

        return types.void(x, types.int64, sums, y, types.boolean), codegen

    return intrinsic(typing)


# (x (8 + rows, LANES) f32 whose first 8 rows are history, rows, sums (lags, LANES) f64, y (9 + rows / 2, LANES) f32,
# whether row 7 of x is the first of a pair): all C-contiguous
add_products_1_to_8 = _products(1)
add_products_5_to_8 = _products(5)
