"""Trees of operators as data: their numbers and parts, and the same tree of others.

What takes squares works on operators near one; what proves something works in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from convmat.geometry import as_weight
from convmat.operators.algebra import Blocks, Chain, Scaled, Sum, reshaped
from convmat.operators.base import ImageOperator, _Conjugated, _Derived, _Transposed, parts_of
from convmat.operators.convolution import Convolution
from convmat.operators.factors import IndexMap
from convmat.operators.layers import Diagonal, Rearrange, Separable
from convmat.operators.local import LocalConv
from convmat.operators.simplification import times
from convmat.operators.weights import _WeightMap
from convmat.products import Products
from convmat.spectrum.scaling import near_one

WITHOUT_MATRIX = 2**22
"""Entries of an operator that is not of this package, up to which its products make up its matrix."""

Numbers = Sequence[NDArray[Any]]
Parts = Sequence[ImageOperator]


def numbers_of(A: ImageOperator) -> tuple[NDArray[Any], ...]:
    """The numbers of an operator beside those of its parts: its matrix is a multiple of each array, and of each part.

    Of a sum or a stack, which is linear in all parts together, there are none.
    """
    if isinstance(A, Convolution | LocalConv):
        return (A.weight,)
    if isinstance(A, Diagonal):
        return (A.values,)
    if isinstance(A, Separable):
        return tuple(m.data if issparse(m) else m for m in A.matrices if m is not None)
    if isinstance(A, _WeightMap):
        return (A.image,)
    return (np.asarray(A.factor),) if isinstance(A, Scaled) else ()


def rebuilt(A: ImageOperator, numbers: Numbers, parts: Parts) -> ImageOperator:
    """The same kind of operator with other numbers and parts."""
    if isinstance(A, Convolution):
        return type(A)._of(Products(A.geometry, as_weight(numbers[0]), A._products.asked))
    if isinstance(A, LocalConv):
        return type(A)._of(A.geometry, numbers[0])
    if isinstance(A, Diagonal):
        return Diagonal(numbers[0], A.input_shape)
    if isinstance(A, Separable):
        left = iter(numbers)
        return Separable(A.input_shape, [None if m is None else _matrix_like(m, next(left)) for m in A.matrices])
    if isinstance(A, _WeightMap):
        return type(A)(A.geometry, numbers[0], A.dtype)  # type: ignore[call-arg]
    if isinstance(A, Scaled):
        multiple = Scaled(numbers[0].item(), parts[0])
        return multiple if multiple.dtype == A.dtype else Scaled(A.dtype.type(numbers[0]), parts[0])
    if isinstance(A, Chain | Sum | Blocks | _Derived):
        return type(A)(*parts)
    return A


def _matrix_like(matrix: Any, values: NDArray[Any]) -> Any:
    """A matrix with other numbers; sparse ones may be the transposed, CSC, of what was given."""
    return type(matrix)((values, matrix.indices, matrix.indptr), matrix.shape) if issparse(matrix) else values


def same(A: ImageOperator, B: ImageOperator) -> bool:
    """Whether two trees are built alike of equal numbers."""
    if A is B:
        return True
    if type(A) is not type(B) or not isinstance(A, _KNOWN) or _layout(A) != _layout(B):
        return False
    if isinstance(A, Separable) and isinstance(B, Separable):
        return all(_equal(m, n) for m, n in zip(A.matrices, B.matrices, strict=True))
    ours, theirs = parts_of(A), parts_of(B)
    return (
        all(np.array_equal(a, b) for a, b in zip(numbers_of(A), numbers_of(B), strict=True))
        and len(ours) == len(theirs)
        and all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    )


def _layout(A: ImageOperator) -> tuple[Any, ...]:
    return A.input_shape, A.output_shape, *(getattr(A, name, None) for name in ("geometry", "split", "order"))


def _equal(m: Any, n: Any) -> bool:
    """Whether two matrices of one axis are equal, both sparse, both dense, or both left out."""
    if m is None or n is None or issparse(m) != issparse(n) or m.shape != n.shape:
        return m is n
    return bool((m.tocsr() != n.tocsr()).nnz == 0) if issparse(m) else np.array_equal(m, n)


_KNOWN = (Convolution, LocalConv, Diagonal, Separable, Rearrange, IndexMap, Scaled, Chain, Sum, Blocks)


def half_of(A: ImageOperator) -> ImageOperator | None:
    """B, if A is the product B^H B."""
    parts = A.factors() if isinstance(A, Chain) else ()
    middle = len(parts) // 2
    if not parts or len(parts) % 2 or not all(same(parts[i], parts[-1 - i].H) for i in range(middle)):
        return None
    return Chain(*parts[middle:])


def core_of(A: ImageOperator, *, moved: bool) -> ImageOperator:
    """A without the reshapes before and after it; if `moved`, without transpositions of axes either."""
    parts = list(A.factors()) if isinstance(A, Chain) else [A]
    for end in (0, -1):
        while len(parts) > 1 and isinstance(parts[end], Rearrange) and (moved or _keeps_order(parts[end])):
            del parts[end]
    return parts[0] if len(parts) == 1 else Chain(*parts)


def _keeps_order(A: ImageOperator) -> bool:
    return isinstance(A, Rearrange) and list(A.order) == sorted(A.order)


# near one -------------------------------------------------------------------------------------------------------------


def scaled_operator(A: ImageOperator) -> tuple[ImageOperator, int]:
    """An operator with all numbers near 1, and the exponent: A is 2^exponent times it, to the last digit.

    Convolutions keep their class and the method asked for, and what has no numbers but 1 stays as it is. The terms of a
    sum, and the blocks of a stack, are brought to one exponent, that of the largest: what then is below the smallest
    doubles is lost beside it. An operator that is not of this package is left as it is.
    """
    near, exponent = _scaled(A)
    return near, exponent or 0


def _scaled(A: ImageOperator) -> tuple[ImageOperator, int | None]:
    """The exponent is None where the operator is evidently zero."""
    if not isinstance(A, (*_KNOWN, _Derived, _WeightMap)):
        return A, 0  # what is made of these is not made again by `rebuilt`
    parts = [_scaled(part) for part in parts_of(A)]
    if isinstance(A, Sum | Blocks):
        largest = max((e for _, e in parts if e is not None), default=0)
        brought = [part if e is None else times(math.ldexp(1.0, e - largest), part) for part, e in parts]
        return rebuilt(A, (), brought), None if all(e is None for _, e in parts) else largest
    numbers = [(values, 0) if np.all(values == 1) else _near(values) for values in numbers_of(A)]
    exponents = [e for _, e in numbers] + [e for _, e in parts]
    if not any(exponents) and all(near is part for (near, _), part in zip(parts, parts_of(A), strict=True)):
        return A, None if None in exponents else 0
    exponent = None if None in exponents else sum(e for e in exponents if e is not None)
    if isinstance(A, Scaled) and exponent is not None and numbers[0][0] == 0.5 and A.dtype == A.of.dtype:
        return parts[0][0], exponent - 1  # of a power of two nothing is left
    return rebuilt(A, [values for values, _ in numbers], [part for part, _ in parts]), exponent


def _near(values: NDArray[Any]) -> tuple[NDArray[Any], int | None]:
    near, exponents = near_one(values[None])
    return near[0], int(exponents.item()) if values.any() else None


# in double precision --------------------------------------------------------------------------------------------------


def in_double(A: ImageOperator) -> ImageOperator:
    """The operator with exactly these numbers in double precision; one without a bound of its own, by its matrix."""
    if isinstance(A, IndexMap):
        return type(A)._of(A.geometry, np.dtype(np.float64))
    if isinstance(A, Rearrange):
        return Rearrange(A.input_shape, A.output_shape, split=A.split, order=A.order)
    if isinstance(A, _Transposed):
        return in_double(A._of)._transpose()
    if isinstance(A, _Conjugated):
        of = in_double(A._of)
        return of if of.dtype.kind != "c" else of._adjoint()._transpose()
    if isinstance(A, Scaled):
        return Scaled(A.factor, in_double(A.of))
    if not isinstance(A, _KNOWN) or isinstance(A, LocalConv):
        _check_matrix(A)
        stored = Separable(A.shape[1], [A.tosparse()])
        return in_double(reshaped(stored, A.input_shape, A.output_shape))
    numbers = [values.astype(np.result_type(values, np.float64)) for values in numbers_of(A)]
    return rebuilt(A, numbers, [in_double(part) for part in parts_of(A)])


def _check_matrix(A: ImageOperator) -> None:
    rows, cols = A.shape
    if type(A).tosparse is ImageOperator.tosparse and rows * cols > WITHOUT_MATRIX:
        raise ValueError(
            f"an operator of type {type(A).__name__} has no tosparse of its own, and the dense matrix of "
            f"{rows} x {cols} has more than {WITHOUT_MATRIX} entries: give the class a tosparse, or write it as a sum, "
            f"product or stack of convmat's operators; scipy.sparse.linalg.svds(A, k) estimates singular values"
        )


def check_finite(A: ImageOperator) -> None:
    """Refuse NaN and infinities.

    Raises
    ------
    ValueError
        If a number in the tree is one of these.
    """
    if not all(np.isfinite(values).all() for values in numbers_of(A)):
        what = "weight" if isinstance(A, Convolution | LocalConv) else type(A).__name__
        raise ValueError(f"A has a {what} with NaN or infinite entries: it has no singular values")
    for part in parts_of(A):
        check_finite(part)
