"""A strip of a correlation in the vector registers of the processor, written in LLVM for numba.

A strip is a rectangle of results, some channels by some vectors of one line. It stays in registers while all of its
terms are added, one by one in a given order: one sample of the source is read for several channels, one weight for
several vectors. A compiler finds such rectangles in no loop over arrays; the loops around it need no such care.

The cache of numba asks for the date of `convmat.products.compiled` alone: after a change here, touch that file.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

WORD = ir.IntType(64)

MOST = 8
"""Channels of a strip, at most."""


def _features() -> set[str]:
    """What the processor has that numba compiles for."""
    asked = numba.config.CPU_FEATURES
    if asked is not None:
        return {word[1:] for word in asked.split(",") if word.startswith("+")}
    try:
        return {name for name, there in binding.get_host_cpu_features().items() if there}
    except RuntimeError:  # LLVM does not know this system
        return set()


@cache
def lanes(itemsize: int) -> int:
    """How many samples of so many bytes a vector holds."""
    features = _features()
    return (64 if "avx512f" in features else 32 if "avx" in features else 16) // itemsize


@cache
def held() -> dict[int, int]:
    """Channels of a strip -> how many vectors of each the registers hold, beside what is read."""
    features = _features()
    if "avx512f" in features or "neon" in features:  # 32 registers
        return {1: 8, 2: 6, 4: 4, MOST: 3}
    return {1: 8, 2: 5, 4: 3}


@intrinsic
def lanes_of(typing: Any, pointer: Any) -> Any:
    """`lanes` of what a pointer points to, as a constant."""
    count = ir.Constant(WORD, lanes(pointer.dtype.bitwidth // 8))
    return types.intp(pointer), lambda context, builder, signature, args: count


@intrinsic
def held_by(typing: Any, channels: Any) -> Any:
    """`held` of a number of channels."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = ir.Constant(WORD, 1)
        for count, vectors in held().items():
            same = builder.icmp_signed("==", args[0], ir.Constant(WORD, count))
            found = builder.select(same, ir.Constant(WORD, vectors), found)
        return found

    return types.intp(types.intp), codegen


@intrinsic
def pointer(typing: Any, array: Any) -> Any:
    """The first element of an array, as in C: references are not counted, and no index is negative."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def at(typing: Any, begin: Any, index: Any) -> Any:
    """The element of that index, as a pointer."""
    return begin(begin, types.intp), lambda context, builder, signature, args: builder.gep(args[0], [args[1]])


@intrinsic
def strip(
    typing: Any, source: Any, gaps: Any, panel: Any, taps: Any, lines: Any, offsets: Any, terms: Any, result: Any,
    gap: Any, channels: Any, vectors: Any,
) -> Any:  # fmt: skip
    """Write a strip: for each line l and term t, weights panel[taps[l], t] times samples source[gaps[l] + offsets[t]].

    `panel` is (taps, terms, channels); the channels of the result are `gap` apart.
    """
    single = source.dtype == types.float32
    scalar = ir.FloatType() if single else ir.DoubleType()
    width = lanes(4 if single else 8)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *given, channels, vectors = args
        written, never = builder.append_basic_block("written"), builder.append_basic_block("never")
        key = builder.add(builder.mul(channels, ir.Constant(WORD, 16)), vectors)
        kinds = builder.switch(key, never)
        for many, most in held().items():
            for some in range(1, most + 1):
                block = builder.append_basic_block(f"strip{many}x{some}")
                kinds.add_case(ir.Constant(WORD, 16 * many + some), block)
                with builder.goto_block(block):
                    _strip(builder, scalar, width, many, some, *given)
                    builder.branch(written)
        with builder.goto_block(never):
            builder.unreachable()
        builder.position_at_end(written)
        return context.get_dummy_value()

    words = types.CPointer(types.int64)
    signature = (source, words, source, words, types.intp, words, types.intp, source, *[types.intp] * 3)
    return types.void(*signature), codegen


def _strip(
    builder: Any, scalar: Any, width: int, channels: int, vectors: int, source: Any, gaps: Any, panel: Any, taps: Any,
    lines: Any, offsets: Any, terms: Any, result: Any, gap: Any,
) -> None:  # fmt: skip
    """The code of a strip of so many channels and vectors."""
    vector, index = ir.VectorType(scalar, width), ir.IntType(32)
    size = 4 if scalar == ir.FloatType() else 8
    undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(index, 0)
    everywhere = ir.Constant(ir.VectorType(index, width), [0] * width)
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{width}f{8 * size}"
    )

    def number(begin: Any, position: Any) -> Any:
        return builder.load(builder.gep(begin, [position]))

    def vector_at(begin: Any, v: int) -> Any:
        return builder.bitcast(builder.gep(begin, [ir.Constant(WORD, v * width)]), vector.as_pointer())

    sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(channels)]  # in registers
    for row in sums:
        for held_sum in row:
            builder.store(ir.Constant(vector, [0.0] * width), held_sum)
    of_tap = builder.mul(terms, ir.Constant(WORD, channels))
    with cgutils.for_range(builder, lines) as line:
        begin = builder.gep(source, [number(gaps, line.index)])
        weights = builder.gep(panel, [builder.mul(number(taps, line.index), of_tap)])
        with cgutils.for_range(builder, terms) as term:
            read = builder.gep(begin, [number(offsets, term.index)])
            samples = [builder.load(vector_at(read, v), align=size) for v in range(vectors)]
            place = builder.mul(term.index, ir.Constant(WORD, channels))
            for c, row in enumerate(sums):
                weight = number(weights, builder.add(place, ir.Constant(WORD, c)))
                spread = builder.insert_element(undefined, weight, first)
                spread = builder.shuffle_vector(spread, undefined, everywhere)
                for sample, held_sum in zip(samples, row, strict=True):
                    builder.store(builder.call(multiply_add, [spread, sample, builder.load(held_sum)]), held_sum)
    for c, row in enumerate(sums):
        line_of = builder.gep(result, [builder.mul(gap, ir.Constant(WORD, c))])
        for v, held_sum in enumerate(row):
            builder.store(builder.load(held_sum), vector_at(line_of, v), align=size)
