"""Several numbers side by side as one number of numba, in a vector register of the processor.

What is written for one matrix is then done for as many at once as a register has lanes: `Lanes` is a real or complex
number in double precision for each. Every lane is rounded as if it were alone.

The cache of numba asks for the date of `convmat.spectrum.compiled` alone: after a change here, touch that file.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from convmat.products.strips import WORD, lanes

LANES = lanes(8)

TINY = 1e-280
"""Squares below it are taken for 0: beside numbers near 1 they are, and their inverses may overflow."""

_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_PAIR = ir.LiteralStructType([_VECTOR, _VECTOR])


class Lanes(types.Type):
    """The type of such a number, of one part if it is real and of two if it is complex."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        super().__init__(name=f"Lanes({parts})")


REAL, COMPLEX = Lanes(1), Lanes(2)


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, _VECTOR if kind.parts == 1 else _PAIR)


def _split(builder: Any, kind: Lanes, value: Any) -> list[Any]:
    return [value] if kind.parts == 1 else [builder.extract_value(value, part) for part in range(2)]


def _join(builder: Any, parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return builder.insert_value(builder.insert_value(ir.Constant(_PAIR, ir.Undefined), parts[0], 0), parts[1], 1)


def _everywhere(number: float) -> Any:
    return ir.Constant(_VECTOR, [number] * LANES)


def _call(builder: Any, name: str, *args: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f64"), args)


# memory ---------------------------------------------------------------------------------------------------------------


@intrinsic
def real_lanes(typing: Any, begin: Any) -> Any:
    """Doubles, those of all lanes side by side, as real numbers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _VECTOR.as_pointer())

    return types.CPointer(REAL)(begin), codegen


@intrinsic
def lanes_like(typing: Any, begin: Any, blocks: Any) -> Any:
    """Doubles as numbers that are real or complex as the entries of an array are."""
    kind = COMPLEX if isinstance(blocks.dtype, types.Complex) else REAL

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], (_VECTOR if kind.parts == 1 else _PAIR).as_pointer())

    return types.CPointer(kind)(begin, blocks), codegen


def _places(builder: Any, begin: Any, index: Any, parts: int) -> list[Any]:
    first = builder.bitcast(builder.gep(begin, [index]), _VECTOR.as_pointer())
    return [builder.gep(first, [ir.Constant(WORD, part)]) for part in range(parts)]


@intrinsic
def load(typing: Any, begin: Any, index: Any) -> Any:
    """The number of that index."""
    kind = begin.dtype

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _join(
            builder, [builder.load(place, align=8) for place in _places(builder, args[0], args[1], kind.parts)]
        )

    return kind(begin, types.intp), codegen


@intrinsic
def store(typing: Any, begin: Any, index: Any, number: Any) -> Any:
    """Write the number of that index."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = _places(builder, args[0], args[1], number.parts)
        for place, part in zip(places, _split(builder, number, args[2]), strict=True):
            builder.store(part, place, align=8)
        return context.get_dummy_value()

    return types.void(begin, types.intp, number), codegen


@intrinsic
def everywhere(typing: Any, number: Any) -> Any:
    """A real number, the same in every lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        undefined, index = ir.Constant(_VECTOR, ir.Undefined), ir.IntType(32)
        one = builder.insert_element(undefined, args[0], ir.Constant(index, 0))
        return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(index, LANES), [0] * LANES))

    return REAL(types.float64), codegen


@intrinsic
def zero(typing: Any, begin: Any) -> Any:
    """0, as a number of those that a pointer points to."""
    kind = begin.dtype

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _join(builder, [_everywhere(0.0)] * kind.parts)

    return kind(begin), codegen


# arithmetic -----------------------------------------------------------------------------------------------------------


def _arithmetic(symbol: Any, instruction: str) -> None:
    """Lanes and real lanes: as Python writes it. A sum adds to the real part, a product is of both parts."""

    @intrinsic
    def result(typing: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            left, right = _split(builder, a, args[0]), _split(builder, b, args[1])
            if len(right) < len(left):
                right.append(right[0] if symbol is operator.mul else _everywhere(0.0))
            return _join(builder, [getattr(builder, instruction)(p, q) for p, q in zip(left, right, strict=True)])

        return a(a, b), codegen

    @overload(symbol, strict=False)  # numba would compare the annotations too
    def overloaded(a: Any, b: Any) -> Any:
        if isinstance(a, Lanes) and isinstance(b, Lanes):
            return lambda a, b: result(a, b)
        return None


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")  # not of two complex numbers: that is `added`
_arithmetic(operator.truediv, "fdiv")


def _product_added(conjugated: bool) -> Any:
    @intrinsic
    def result(typing: Any, total: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            sums, left, right = (_split(builder, kind, arg) for kind, arg in zip(signature.args, args, strict=True))

            def add(p: Any, q: Any, r: Any) -> Any:
                return _call(builder, "fmuladd", p, q, r)

            if len(sums) == 1:
                return add(left[0], right[0], sums[0])
            minus = builder.fneg(left[1])
            turned, back = (minus, left[1]) if conjugated else (left[1], minus)
            real = add(back, right[1], add(left[0], right[0], sums[0]))
            return _join(builder, [real, add(turned, right[0], add(left[0], right[1], sums[1]))])

        return total(total, a, b), codegen

    return result


added = _product_added(conjugated=False)
"""added(total, a, b) = total + a b."""

added_conjugate = _product_added(conjugated=True)
"""added_conjugate(total, a, b) = total + conj(a) b."""


@intrinsic
def square(typing: Any, a: Any) -> Any:
    """|a|^2."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, *second = _split(builder, a, args[0])
        found = builder.fmul(first, first)
        return _call(builder, "fmuladd", second[0], second[0], found) if second else found

    return REAL(a), codegen


@intrinsic
def root(typing: Any, a: Any) -> Any:
    """The square root."""
    return REAL(REAL), lambda context, builder, signature, args: _call(builder, "sqrt", args[0])


# choices, lane by lane ------------------------------------------------------------------------------------------------


def _where(sign: str) -> Any:
    @intrinsic
    def result(typing: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered(sign, args[0], args[1]), args[2], args[3])

        return REAL(*[REAL] * 4), codegen

    return result


where_less = _where("<")
"""where_less(a, b, yes, no): `yes` where a < b."""

where_equal = _where("==")
"""where_equal(a, b, yes, no): `yes` where a == b."""
