"""An equal operator of fewer parts, by rules: sums and stacks of convolutions are convolutions, and so are the scalings
and croppings of one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import as_weight
from convmat.operators.algebra import BlockDiagonal, Blocks, Chain, Scaled, Sum, VStack, reshaped
from convmat.operators.base import ImageOperator, parts_of
from convmat.operators.convolution import Conv, ConvTranspose
from convmat.operators.factors import IndexMap
from convmat.operators.layers import Diagonal, Rearrange
from convmat.operators.stencils import added, chained, composed, concatenated, multiplied, side_by_side
from convmat.products import Products

_WIDER = 8
"""How many times the numbers of its parts a joint kernel may have, zeros counted."""

_LONGER = 16
"""The same of the kernel of a product, which may multiply more than its factors do."""

_FAR = 2.0**64
"""How far from 1 a number before a product may be that none of the factors takes."""

_WITH_TAPS = (Conv, ConvTranspose, IndexMap, Diagonal)
"""What may be a convolution."""

Rule = Callable[[Any], ImageOperator]
Pair = Callable[[ImageOperator, ImageOperator], ImageOperator | None]


def simplify(A: ImageOperator) -> ImageOperator:
    """An equal operator of fewer parts, where there is one.

    Parameters
    ----------
    A : ImageOperator

    Returns
    -------
    ImageOperator
        With the shapes and the dtype of A, and its matrix, to rounding. A itself, if nothing can be joined.

    Raises
    ------
    TypeError
        If A is not an operator on images.

    Notes
    -----
    The rules:

    * a factor per channel, and every number, goes into the weight beside it: convolution and batch norm are one
      convolution;
    * a sum of convolutions of one stride, padding mode and grid is one convolution; identities and diagonals with a
      factor per channel are among them. Not where the joint kernel would have more than eight times as many numbers;
    * so is a stack of them: beside or below each other, or along the diagonal;
    * ``Downsample @ Correlate @ Pad``, and what else picks samples before or after a convolution, is the convolution
      again; the same for the transposes;
    * neighbouring diagonals are one, and neighbouring rearrangements, where one reshape and transposition says both;
      identities are left out.

    Zeros between the taps and channels of a joint kernel are multiplied like other numbers: a NaN in an image reaches
    the outputs whose joint kernel covers it, which may be more than the parts reach.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d, Diagonal, simplify
    >>> rng = np.random.default_rng(0)
    >>> W, S = Conv2d(rng.standard_normal((4, 4, 3, 3)), (8, 8), padding=1), Conv2d(rng.standard_normal((4, 4, 1, 1)), (8, 8))
    >>> norm = Diagonal(rng.standard_normal((4, 1, 1)), (4, 8, 8))
    >>> A = norm @ (W + S)
    >>> B = simplify(A)
    >>> type(B).__name__, B.weight.shape, bool(np.allclose(B.toarray(), A.toarray()))
    ('Conv2d', (4, 4, 3, 3), True)
    """  # noqa: E501
    if not isinstance(A, ImageOperator):
        raise TypeError(f"A is of type {type(A).__name__}: it must be an operator on images")
    found = _simplify(A)
    return found if _count(found) <= _count(A) else A


def condensed(A: ImageOperator) -> ImageOperator:
    """An equal operator of still fewer parts, for those who ask for its numbers and not for its products.

    Products of any two convolutions are one, where the border between them allows it: those that read no padding, that
    read a circle, that have one tap. Their kernel may have more numbers than both.
    """
    if not isinstance(A, Chain | Sum | Scaled | Blocks):
        return A
    given = parts_of(A)
    parts = [condensed(part) for part in given]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if isinstance(A, Chain):
            parts = _joined([factor for part in parts for factor in _factors_of(part)], (_join_products,))
    if isinstance(A, Scaled):
        return A if _same(parts, given) else simplify(Scaled(A.factor, parts[0]))
    return A if _same(parts, given) else simplify(parts[0] if len(parts) == 1 else type(A)(*parts))


def _count(A: ImageOperator) -> int:
    """What a tree multiplies by: its leaves and numbers. To move entries costs next to nothing."""
    parts = parts_of(A)
    return sum(map(_count, parts)) + (isinstance(A, Scaled) if parts else not isinstance(A, Rearrange))


def _simplify(A: ImageOperator) -> ImageOperator:
    rule = next((RULES[kind] for kind in type(A).__mro__ if kind in RULES), None)
    if rule is None:
        return A
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # what leaves the range is not taken
        found = rule(A)
    assert (found.input_shape, found.output_shape) == (A.input_shape, A.output_shape)
    return in_dtype(found, A.dtype)


def _simplified(parts: Iterable[ImageOperator], dtype: np.dtype[Any]) -> list[ImageOperator]:
    return [_precise(_simplify(part), dtype) for part in parts]


def _precise(A: ImageOperator, dtype: np.dtype[Any]) -> ImageOperator:
    """The numbers of an operator in the precision of a dtype, so that those it is joined with lose no digits."""
    carries = isinstance(A, Conv | ConvTranspose | Diagonal)
    return in_dtype(A, np.promote_types(A.dtype, dtype.type(0).real.dtype)) if carries else A


def _same(parts: Sequence[ImageOperator], others: Sequence[ImageOperator]) -> bool:
    return len(parts) == len(others) and all(a is b for a, b in zip(parts, others, strict=True))


def _chain(A: Chain) -> ImageOperator:
    """Neighbours are joined until none can be; numbers go into a factor that takes them."""
    given = Chain(*_simplified(A.factors(), A.dtype)).factors()
    factor, parts = _without_numbers(given)
    found = _product(parts, A)
    taken = _taken(factor, found)
    if taken is not None:
        return taken
    near = 1 / _FAR <= abs(factor) <= _FAR  # what is not may take the product of the others out of the range
    return Scaled(factor, found) if near else _product(given, A)


def _product(parts: Sequence[ImageOperator], A: Chain) -> ImageOperator:
    parts = _joined(parts, (_join_diagonals, _join_rearrangements, _join_taps))
    kept = [part for part in parts if not _is_identity(part)]
    if not kept:
        kept = [reshaped(parts[0], A.input_shape, A.output_shape)]
    kept = _with_shapes(kept, A)
    return kept[0] if len(kept) == 1 else A if _same(kept, A.factors()) else Chain(*kept)


def _with_shapes(parts: list[ImageOperator], A: ImageOperator) -> list[ImageOperator]:
    """The factors with a reshape wherever one that was left out was one."""
    fitted: list[ImageOperator] = []
    shape = A.output_shape
    for part in parts:
        fitted.extend(_factors_of(reshaped(part, part.input_shape, shape)))
        shape = part.input_shape
    if shape != A.input_shape:
        last = fitted.pop()
        fitted.extend(_factors_of(reshaped(last, A.input_shape, last.output_shape)))
    return fitted


def _factors_of(A: ImageOperator) -> tuple[ImageOperator, ...]:
    return A.factors() if isinstance(A, Chain) else (A,)


def _without_numbers(parts: Sequence[ImageOperator]) -> tuple[Any, list[ImageOperator]]:
    """The product of the numbers among the factors, and the operators."""
    factor, left = 1.0, []
    for part in parts:
        number = multiplied(factor, part.factor) if isinstance(part, Scaled) else None
        if number is None:
            left.append(part)
        else:
            factor = number
            left.extend(_factors_of(part.of))
    return factor, left


def _sum(A: Sum) -> ImageOperator:
    parts: list[ImageOperator] = []
    for part in _simplified(A.terms(), A.dtype):
        parts.extend(part.terms() if isinstance(part, Sum) else (part,))
    joined = _joined_anywhere(parts, (_add_diagonals, _add_taps))
    return joined[0] if len(joined) == 1 else A if _same(joined, A.terms()) else Sum(*joined)


def _scaled(A: Scaled) -> ImageOperator:
    found = times(A.factor, _precise(_simplify(A.of), A.dtype))
    return A if isinstance(found, Scaled) and found.of is A.of else found


def _stack(A: Blocks) -> ImageOperator:
    parts = _simplified(A.parts(), A.dtype)
    if len(parts) == 1:
        return parts[0]
    joint = _stacked(A, parts)
    if joint is not None:
        return reshaped(joint, A.input_shape, A.output_shape)
    return A if _same(parts, A.parts()) else type(A)(*parts)


RULES: dict[type[ImageOperator], Rule] = {Chain: _chain, Sum: _sum, Scaled: _scaled, Blocks: _stack}
"""Kind of operator -> what makes an equal one of fewer parts."""


# Numbers --------------------------------------------------------------------------------------------------------------


def times(factor: Any, A: ImageOperator) -> ImageOperator:
    """The multiple, with the number in the weight of a part where one takes it."""
    taken = _taken(factor, A)
    return Scaled(factor, A) if taken is None else taken


def _taken(factor: Any, A: ImageOperator) -> ImageOperator | None:
    if factor == 1:
        return A
    if isinstance(A, Conv | ConvTranspose):
        weight = multiplied(factor, A.weight)
        return None if weight is None else _like(A, weight)
    if isinstance(A, Diagonal):
        values = multiplied(factor, A.values)
        return None if values is None else Diagonal(values, A.input_shape)
    if isinstance(A, Scaled):
        product = multiplied(factor, A.factor)
        return None if product is None else times(product, A.of)
    if isinstance(A, Chain):
        parts = list(A.factors())
        for position, part in enumerate(parts):
            if (taken := _taken(factor, part)) is not None:
                return Chain(*parts[:position], taken, *parts[position + 1 :])
        return None
    if isinstance(A, Sum | Blocks):
        given = A.terms() if isinstance(A, Sum) else A.parts()
        scaled = [_taken(factor, part) for part in given]
        return None if any(part is None for part in scaled) else type(A)(*(p for p in scaled if p is not None))
    return None


def in_dtype(A: ImageOperator, dtype: np.dtype[Any]) -> ImageOperator:
    """The same matrix in a dtype that holds its entries."""
    if A.dtype == dtype:
        return A
    if isinstance(A, Conv | ConvTranspose):
        return _like(A, A.weight.astype(dtype))
    if isinstance(A, Diagonal):
        return Diagonal(A.values.astype(dtype), A.input_shape)
    if isinstance(A, Chain):
        first, *others = A.factors()
        return Chain(in_dtype(first, dtype), *others)
    return Scaled(dtype.type(1), A)


def _like(A: Conv | ConvTranspose, weight: NDArray[Any]) -> Conv | ConvTranspose:
    return type(A)._of(Products(A.geometry, as_weight(weight), A._products.asked))


# Pairs ----------------------------------------------------------------------------------------------------------------


def _joined(parts: Sequence[ImageOperator], rules: Sequence[Pair]) -> list[ImageOperator]:
    """The factors, neighbours joined by the first rule that knows how, until none does."""
    done: list[ImageOperator] = []
    for part in parts:
        done.append(part)
        while len(done) > 1 and (joint := _first(rules, done[-2], done[-1])) is not None:
            done[-2:] = _factors_of(joint)
    return done


def _joined_anywhere(parts: Sequence[ImageOperator], rules: Sequence[Pair]) -> list[ImageOperator]:
    """The terms, any two joined by the first rule that knows how, until none does."""
    done: list[ImageOperator] = []
    waiting = list(reversed(parts))
    while waiting:
        part = waiting.pop()
        for position, other in enumerate(done):
            if (joint := _first(rules, other, part)) is not None:
                del done[position]
                waiting.append(joint)
                break
        else:
            done.append(part)
    return done


def _first(rules: Sequence[Pair], left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    return next((joint for rule in rules if (joint := rule(left, right)) is not None), None)


def _is_identity(A: ImageOperator) -> bool:
    if isinstance(A, Diagonal):
        return bool(np.all(A.values == 1))
    if isinstance(A, Rearrange):
        split, order = A.split, A.order
        moved = [a for a in order if split[a] > 1]
        return moved == sorted(moved)
    return isinstance(A, IndexMap) and A.input_shape == A.output_shape and not any(map(any, A.geometry.padding))


def _join_diagonals(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    if not (isinstance(left, Diagonal) and isinstance(right, Diagonal)):
        return None
    values = multiplied(left.values, right.values)
    return None if values is None else Diagonal(values, left.input_shape)


def _add_diagonals(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    if not (isinstance(left, Diagonal) and isinstance(right, Diagonal)):
        return None
    values = left.values + right.values
    return Diagonal(values, left.input_shape) if np.isfinite(values).all() else None


def _join_rearrangements(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    """Both as one transposition of axes so fine that both move whole axes, if there are such."""
    if not (isinstance(left, Rearrange) and isinstance(right, Rearrange)):
        return None
    moved = [right.split[a] for a in right.order]
    fine = _refinement(moved, left.split)
    if fine is None:
        return None
    from_right, from_left = _parts_of(moved, fine), _parts_of(left.split, fine)  # fine axes of each axis between them
    after = [f for a in left.order for f in from_left[a]]
    position = {f: place for place, f in enumerate(f for a in np.argsort(right.order) for f in from_right[int(a)])}
    split = [fine[f] for f in sorted(position, key=position.__getitem__)]
    dtype = np.result_type(left.dtype, right.dtype)
    order = [position[f] for f in after]
    return Rearrange(right.input_shape, left.output_shape, split=split, order=order, dtype=dtype)


def _refinement(a: Sequence[int], b: Sequence[int]) -> list[int] | None:
    """The coarsest shape from which both can be made by joining neighbouring axes."""
    edges = sorted({*itertools.accumulate(a, int.__mul__, initial=1), *itertools.accumulate(b, int.__mul__, initial=1)})
    fine = []
    for low, high in itertools.pairwise(edges):
        if high % low:
            return None
        fine.append(high // low)
    return fine or [1]


def _parts_of(shape: Sequence[int], fine: Sequence[int]) -> list[list[int]]:
    """For each axis of a shape the axes of its refinement that it is made of."""
    parts: list[list[int]] = []
    taken = 0
    for size in shape:
        part: list[int] = []
        while math.prod(fine[f] for f in part) < size:
            part.append(taken)
            taken += 1
        parts.append(part)
    if taken < len(fine):  # the only axis, of one sample
        parts[-1].extend(range(taken, len(fine)))
    return parts


def _join_taps(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    return _either(composed(left, right), composed(right.T, left.T))


def _join_products(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    if not (isinstance(left, _WITH_TAPS) and isinstance(right, _WITH_TAPS)):
        return None
    return _either(chained(left, right, _LONGER), chained(right.T, left.T, _LONGER))


def _add_taps(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    if not (isinstance(left, _WITH_TAPS) and isinstance(right, _WITH_TAPS)):
        return None  # before transposes are made: a sum of many terms has many pairs
    return _either(added((left, right), _WIDER), added((left.T, right.T), _WIDER))


def _stacked(A: Blocks, parts: Sequence[ImageOperator]) -> ImageOperator | None:
    """A stack of convolutions as one with the channels of all, or of transposed ones as the transpose of one."""
    flipped = [part.T for part in parts]
    if isinstance(A, BlockDiagonal):
        return _either(side_by_side(parts, _WIDER), side_by_side(flipped, _WIDER))
    axis = 0 if isinstance(A, VStack) else 1
    return _either(concatenated(parts, axis, _WIDER), concatenated(flipped, 1 - axis, _WIDER))


def _either(direct: ImageOperator | None, flipped: ImageOperator | None) -> ImageOperator | None:
    """An operator, or the transpose of one that was found for the transposes."""
    return direct if direct is not None or flipped is None else flipped._transpose()
