"""Instructions that numba has no word for: LZ4's decoder by its address, bits of a word, loads and copies of bytes.

And the loop that those which are written in LLVM's own words need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic


def loop(
    builder: Any, start: Any, stop: Any, step: int, carried: list[Any]
) -> tuple[Any, list[Any], Callable[[list[Any]], None]]:
    """Open `for i in range(start, stop, step)` that carries values; gives i, the values, and how to close it.

    It is closed with the values for the next turn; after that the values are those after the last turn.
    """
    word = start.type
    before = builder.block
    head = builder.append_basic_block("head")
    body = builder.append_basic_block("body")
    after = builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(word)
    index.add_incoming(start, before)
    phis = []
    for value in carried:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        phis.append(phi)
    builder.cbranch(builder.icmp_signed("<", index, stop), body, after)
    builder.position_at_end(body)

    def close(values: list[Any]) -> None:
        following = builder.add(index, word(step))
        index.add_incoming(following, builder.block)
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)

    return index, phis, close


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


_REGISTER = 32  # bytes that are moved at once: at 64 the processors that have AVX-512 lower their clock


def _mover(size: int) -> Any:
    """Copies `size` bytes from one address to another, all of them read before any is written."""
    width = min(size, _REGISTER)

    def typed(context: Any, source: Any, target: Any) -> Any:
        def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = ir.VectorType(ir.IntType(8), width).as_pointer()

            def at(start: Any, place: int) -> Any:
                return builder.inttoptr(builder.add(start, ir.IntType(64)(place)), pointer)

            places = range(0, size, width)
            values = [builder.load(at(arguments[0], place), align=1) for place in places]
            for value, place in zip(values, places, strict=True):
                builder.store(value, at(arguments[1], place), align=1)
            return ctx.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return intrinsic(typed)


def _typed_zero(context: Any, target: Any) -> Any:
    """Write 64 bytes of 0 to an address."""

    def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bytes_ = ir.VectorType(ir.IntType(8), _REGISTER)
        for place in range(0, 64, _REGISTER):
            to = builder.inttoptr(builder.add(arguments[0], ir.IntType(64)(place)), bytes_.as_pointer())
            builder.store(ir.Constant(bytes_, [0] * _REGISTER), to, align=1)
        return ctx.get_dummy_value()

    return types.void(types.int64), codegen


def _typed_word(context: Any, data: Any, at: Any) -> Any:
    """The u32 that data[at : at + 4] (u8, one dimension) are, the highest byte first; `at` is not looked at."""

    def codegen(ctx: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bytes_ = ctx.make_array(signature.args[0])(ctx, builder, arguments[0]).data
        where = builder.bitcast(builder.gep(bytes_, [arguments[1]]), ir.IntType(32).as_pointer())
        return builder.zext(builder.bswap(builder.load(where, align=1)), ir.IntType(64))

    return types.int64(data, types.int64), codegen


lowest: Any = intrinsic(_typed_lowest)
bits_set: Any = intrinsic(_typed_set)
load: Any = intrinsic(_typed_load)
move_1, move_16, move_64 = _mover(1), _mover(16), _mover(64)
zero_64: Any = intrinsic(_typed_zero)
word: Any = intrinsic(_typed_word)
