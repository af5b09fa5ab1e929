"""Trees of operators with other numbers: near one, so that no square overflows, or in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from convmat.geometry import as_weight
from convmat.operators.algebra import Blocks, Chain, Scaled, Sum
from convmat.operators.base import ImageOperator, _Derived
from convmat.operators.convolution import Convolution
from convmat.operators.layers import Diagonal, Separable
from convmat.operators.simplification import times
from convmat.operators.weights import _WeightMap
from convmat.products import Products
from convmat.spectrum.scaling import near_one

Found = tuple[ImageOperator, int | None]
"""An operator near one, and the exponent of which it is the multiple, None where it is zero."""


def scaled_operator(A: ImageOperator) -> tuple[ImageOperator, int]:
    """An operator with all numbers near 1, and the exponent: A is 2^exponent times it, to the last digit.

    Convolutions keep their class and the method asked for. The terms of a sum, and the blocks of a stack, are brought
    to one exponent, that of the largest: what then is below the smallest doubles is lost beside it. An operator that is
    not of this package is left as it is.
    """
    found, exponent = _scaled(A)
    return found, exponent or 0


def parts_of(A: ImageOperator) -> tuple[ImageOperator, ...]:
    """The operators that one is made of; none for others."""
    if isinstance(A, Chain):
        return A.factors()
    if isinstance(A, Sum):
        return A.terms()
    if isinstance(A, Blocks):
        return A.parts()
    return (A._of,) if isinstance(A, Scaled | _Derived) else ()


def _scaled(A: ImageOperator) -> Found:
    rule = next((_SCALED[kind] for kind in type(A).__mro__ if kind in _SCALED), None)
    return (A, 0) if rule is None else rule(A)


def _near(values: NDArray[Any]) -> tuple[NDArray[Any], int | None]:
    """The values near one, and the exponent."""
    near, exponents = near_one(values[None])
    return near[0], int(exponents.item()) if values.any() else None


def _total(exponents: Sequence[int | None]) -> int | None:
    """The exponent of a product."""
    return None if None in exponents else sum(e for e in exponents if e is not None)


def _scaled_convolution(A: Convolution) -> Found:
    weight, exponent = _near(A.weight)
    return type(A)._of(Products(A.geometry, as_weight(weight), A._products.asked)), exponent


def _scaled_diagonal(A: Diagonal) -> Found:
    if np.all(A.values == 1):  # an identity stays one
        return A, 0
    values, exponent = _near(A.values)
    return Diagonal(values, A.input_shape), exponent


def _scaled_separable(A: Separable) -> Found:
    found = [(None, 0) if matrix is None else _near_matrix(matrix) for matrix in A.matrices]
    return Separable(A.input_shape, [matrix for matrix, _ in found]), _total([exponent for _, exponent in found])


def _near_matrix(matrix: Any) -> tuple[Any, int | None]:
    if not issparse(matrix):
        return _near(matrix)
    data, exponent = _near(matrix.data)
    return csr_array((data, matrix.indices, matrix.indptr), matrix.shape), exponent


def _scaled_weights(A: _WeightMap) -> Found:
    image, exponent = _near(A.image)
    return type(A)(A.geometry, image, A.dtype), exponent  # type: ignore[call-arg]


def _scaled_multiple(A: Scaled) -> Found:
    number, exponent = _near(np.asarray(A.factor))
    of, power = _scaled(A.of)
    return Scaled(A._typed(number.item()), of), _total([exponent, power])


def _scaled_product(A: Chain) -> Found:
    found = [_scaled(part) for part in A.factors()]
    return Chain(*(part for part, _ in found)), _total([exponent for _, exponent in found])


def _scaled_joint(A: Sum | Blocks) -> Found:
    found = [_scaled(part) for part in parts_of(A)]
    largest = max((exponent for _, exponent in found if exponent is not None), default=None)
    if largest is None:
        return A, None
    return type(A)(*(part if e is None else times(math.ldexp(1.0, e - largest), part) for part, e in found)), largest


def _scaled_derived(A: _Derived) -> Found:
    of, exponent = _scaled(A._of)
    return type(A)(of), exponent  # type: ignore[call-arg]


_SCALED: dict[type[ImageOperator], Callable[[Any], Found]] = {
    Convolution: _scaled_convolution,
    Diagonal: _scaled_diagonal,
    Separable: _scaled_separable,
    _WeightMap: _scaled_weights,
    Scaled: _scaled_multiple,
    Chain: _scaled_product,
    Sum: _scaled_joint,
    Blocks: _scaled_joint,
    _Derived: _scaled_derived,
}
"""Kind of operator -> what brings its numbers near one."""
