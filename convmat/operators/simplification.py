"""An equal operator of fewer parts, by rules: sums and stacks of convolutions are convolutions, and so are the scalings
and croppings of one.

Along each axis, output m of a convolution reads the samples s m + d k - lo of the input, extended by the padding mode.
Two convolutions of one stride and mode read the same extension, so that their kernels add up where their positions
meet. What only picks or scales samples, a kernel of one tap, moves the positions of its neighbour.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry, as_weight, conv_geometry
from convmat.operators.algebra import BlockDiagonal, Blocks, Chain, HStack, Scaled, Sum, VStack, reshaped
from convmat.operators.base import ImageOperator
from convmat.operators.convolution import Conv, Conv1d, Conv2d, Conv3d, ConvTranspose
from convmat.operators.factors import Crop, IndexMap
from convmat.operators.layers import Diagonal, Rearrange
from convmat.products import Products
from convmat.taps import Axis

_WIDER = 8
"""How many times the numbers of its parts a joint kernel may have, zeros counted."""

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
    rule = next((RULES[kind] for kind in type(A).__mro__ if kind in RULES), None)
    if rule is None:
        return A
    found = rule(A)
    assert (found.input_shape, found.output_shape) == (A.input_shape, A.output_shape)
    return in_dtype(found, A.dtype)


def _simplified(parts: Iterable[ImageOperator], dtype: np.dtype[Any]) -> list[ImageOperator]:
    return [_precise(simplify(part), dtype) for part in parts]


def _precise(A: ImageOperator, dtype: np.dtype[Any]) -> ImageOperator:
    """The numbers of an operator in the precision of a dtype, so that those it is joined with lose no digits."""
    carries = isinstance(A, Conv | ConvTranspose | Diagonal)
    return in_dtype(A, np.promote_types(A.dtype, dtype.type(0).real.dtype)) if carries else A


def _same(parts: Sequence[ImageOperator], others: Sequence[ImageOperator]) -> bool:
    return len(parts) == len(others) and all(a is b for a, b in zip(parts, others, strict=True))


def _chain(A: Chain) -> ImageOperator:
    """Neighbours are joined until none can be; numbers go into a factor that takes them."""
    factor, parts = _without_numbers(Chain(*_simplified(A.factors(), A.dtype)).factors(), A.dtype)
    parts = _joined(parts, (_join_diagonals, _join_rearrangements, _join_taps, _join_transposed_taps))
    kept = [part for part in parts if not _is_identity(part)]
    if not kept:
        kept = [reshaped(parts[0], A.input_shape, A.output_shape)]
    kept = _with_shapes(kept, A)
    found = kept[0] if len(kept) == 1 else A if _same(kept, A.factors()) else Chain(*kept)
    return found if factor == 1 else times(factor, found)


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


def _without_numbers(parts: Sequence[ImageOperator], dtype: np.dtype[Any]) -> tuple[Any, list[ImageOperator]]:
    """The product of the numbers among the factors, and the operators."""
    factor, left = 1.0, []
    for part in parts:
        number = _normal(factor * part.factor, dtype) if isinstance(part, Scaled) else None
        if number is None:
            left.append(part)
        else:
            factor = number
            left.extend(_factors_of(part.of))
    return factor, left


def _sum(A: Sum) -> ImageOperator:
    parts: list[ImageOperator] = []
    for part in _simplified(A.terms(), A.dtype):
        if isinstance(part, Scaled) and isinstance(part.of, Sum):
            parts.extend(times(part.factor, term) for term in part.of.terms())
        else:
            parts.extend(part.terms() if isinstance(part, Sum) else (part,))
    joined = _joined_anywhere(parts, (_add_diagonals, _add_taps, _add_transposed_taps))
    return joined[0] if len(joined) == 1 else A if _same(joined, A.terms()) else Sum(*joined)


def _scaled(A: Scaled) -> ImageOperator:
    found = times(A.factor, _precise(simplify(A.of), A.dtype))
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
        weight = _normal(factor * A.weight, None)
        return None if weight is None else _like(A, weight)
    if isinstance(A, Diagonal):
        values = _normal(factor * A.values, None)
        return None if values is None else Diagonal(values, A.input_shape)
    if isinstance(A, Scaled):
        dtype = np.promote_types(A.dtype, np.complex64) if isinstance(factor, complex) else A.dtype
        product = _normal(factor * A.factor, dtype)
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


def _normal(values: Any, dtype: np.dtype[Any] | None) -> Any:
    """The values, unless some have become infinite, or so small that digits are lost."""
    array = np.asarray(values, dtype=dtype)
    size = np.maximum(np.abs(array.real), np.abs(array.imag))
    fine = (size == 0) | ((size >= np.finfo(array.dtype).tiny) & (size < np.inf))
    return values if fine.all() else None


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
    values = _normal(left.values * right.values, None)
    return None if values is None else Diagonal(values, left.input_shape)


def _add_diagonals(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    if isinstance(left, Diagonal) and isinstance(right, Diagonal):
        return Diagonal(left.values + right.values, left.input_shape)
    return None


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


# Convolutions ---------------------------------------------------------------------------------------------------------


def as_convolution(A: ImageOperator, like: Geometry | None = None) -> Conv | None:
    """The operator as a convolution, between images with channels and axes as these, if it is one."""
    found = _as_convolution(A, like)
    if found is None or like is None:
        return found
    g = found.geometry
    return found if (g.channels, g.ndim) == (like.channels, like.ndim) else None


def _as_convolution(A: ImageOperator, like: Geometry | None) -> Conv | None:
    if isinstance(A, Conv):
        return A
    if isinstance(A, ConvTranspose):
        return _turned(A)
    if isinstance(A, IndexMap):
        g = A.geometry
        ones = np.ones(g.weight_shape, dtype=A.dtype)
        if A.input_shape == g.input_shape and not isinstance(A, Crop):
            return _convolution(g, g.kernel(ones), g.axes, g.output_size)
        if isinstance(A, Crop) and g.padding_mode == "zeros":
            axes = [Axis(a.padded, 1, lo=-a.lo, hi=-a.hi) for a in g.axes]
            return _convolution(g, g.kernel(ones), axes, g.input_size)
        return None
    if isinstance(A, Diagonal) and like is not None and len(A.input_shape) == like.ndim + like.channels:
        channels = A.input_shape[0] if like.channels else 1
        spatial = A.input_shape[-like.ndim :]
        values = np.broadcast_to(A.values, A.input_shape).reshape(channels, -1)
        if not (values == values[:, :1]).all():
            return None
        kernel = np.ascontiguousarray(values[:, :1]).reshape(channels, 1, *(1,) * like.ndim)
        return _make(kernel, [Axis(n, 1) for n in spatial], spatial, channels, like.channels, "auto")
    return None


def _turned(A: ConvTranspose) -> Conv | None:
    """The transpose of a convolution of stride 1 that reads zeros, or a torus, is one with the flipped kernel."""
    g = A.geometry
    torus = g.padding_mode == "circular" and g.input_size == g.output_size
    if set(g.stride) != {1} or not (torus or all(a.mode == "zeros" or a.reads_no_padding for a in g.axes)):
        return None
    kernel = _swapped(np.flip(g.kernel(A.weight), axis=tuple(range(2, 2 + g.ndim))), g.groups)
    mode = "circular" if torus else "zeros"
    axes = [Axis(a.output, a.taps, 1, a.dilation, a.span - 1 - a.lo, 0, mode) for a in g.axes]
    return _make(kernel, axes, g.input_size, g.groups, g.channels, A._products.asked)


def _swapped(kernel: NDArray[Any], groups: int) -> NDArray[Any]:
    """Input and output channels of each group change places."""
    parts = kernel.reshape(groups, -1, *kernel.shape[1:]).swapaxes(1, 2)
    return parts.reshape(-1, *parts.shape[2:])


def _convolution(
    like: Geometry, kernel: NDArray[Any], axes: Sequence[Axis], sizes: Sequence[int], method: str = "auto"
) -> Conv:
    return _make(kernel, axes, sizes, like.groups, like.channels, method)


def _make(
    kernel: NDArray[Any], axes: Sequence[Axis], sizes: Sequence[int], groups: int, channels: bool, method: str
) -> Conv:
    """A convolution with this kernel (C_out, C_in / G, K_1..K_D), of this output size; `hi` is what that needs."""
    axes = [
        Axis(a.size, a.taps, a.stride, a.dilation, a.lo, a.window(m) - a.size - a.lo, a.mode)
        for a, m in zip(axes, sizes, strict=True)
    ]
    modes = {a.mode for a in axes if not a.reads_no_padding}
    weight = as_weight(kernel if channels else kernel.reshape(kernel.shape[2:]))
    geometry = conv_geometry(
        weight.shape,
        tuple(a.size for a in axes),
        stride=tuple(a.stride for a in axes),
        padding=tuple((a.lo, a.hi) for a in axes),
        dilation=tuple(a.dilation for a in axes),
        groups=groups,
        padding_mode=modes.pop() if modes else "zeros",
    )
    return {1: Conv1d, 2: Conv2d, 3: Conv3d}[len(axes)]._of(Products(geometry, weight, method))


def _kernel(A: Conv) -> NDArray[Any]:
    return A.geometry.kernel(A.weight)


def _method(*parts: Conv) -> str:
    """The method that all ask for, or the planner's choice."""
    asked = {part._products.asked for part in parts}
    return asked.pop() if len(asked) == 1 else "auto"


def _like_of(*parts: ImageOperator) -> Geometry | None:
    """The geometry of a part that has one, by which a diagonal is read."""
    found = (part.geometry for part in parts if isinstance(part, Conv | ConvTranspose | IndexMap))
    return next(found, None)


def _as_convolutions(*parts: ImageOperator) -> list[Conv] | None:
    """All parts as convolutions of one dimension, if they are."""
    like = _like_of(*parts)
    if like is None:
        return None
    found = [conv for part in parts if (conv := as_convolution(part, like)) is not None]
    return found if len(found) == len(parts) else None


def _picks(A: Conv) -> bool:
    """Whether each output is a multiple of one sample of its own channel."""
    g = A.geometry
    return set(g.kernel_size) == {1} and g.groups == g.in_channels == g.out_channels


def _join_taps(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    """A convolution, and before or after it what picks and scales samples."""
    both = _as_convolutions(left, right)
    if both is None or all(isinstance(part, Conv) and not _picks(part) for part in (left, right)):
        return None
    first, second = both[1].geometry, both[0].geometry  # the right one is applied first
    if _picks(both[0]) and all(axis.reads_no_padding for axis in second.axes):
        kernel = _normal(_kernel(both[1]) * _kernel(both[0]), None)
        axes = [
            Axis(b.size, b.taps, b.stride * a.stride, b.dilation, b.lo + b.stride * a.lo, 0, b.mode)
            for a, b in zip(second.axes, first.axes, strict=True)
        ]
        groups = first.groups
    elif _picks(both[1]) and (_stays(first) or all(axis.reads_no_padding for axis in second.axes)):
        scales = _kernel(both[1]).reshape(second.groups, 1, -1, *(1,) * second.ndim)
        grouped = _kernel(both[0]).reshape(second.groups, -1, *_kernel(both[0]).shape[1:])
        kernel = _normal((grouped * scales).reshape(_kernel(both[0]).shape), None)
        axes = [
            Axis(b.size, a.taps, b.stride * a.stride, b.stride * a.dilation, b.stride * a.lo + b.lo, 0, mode)
            for a, b in zip(second.axes, first.axes, strict=True)
            for mode in [a.mode if _stays(first) else b.mode]
        ]
        groups = second.groups
    else:
        return None
    if kernel is None or any(axis.window(m) < 1 for axis, m in zip(axes, second.output_size, strict=True)):
        return None
    return _make(kernel, axes, second.output_size, groups, first.channels, _method(*_convs(left, right)))


def _convs(*parts: ImageOperator) -> list[Any]:
    return [part for part in parts if isinstance(part, Conv | ConvTranspose)]


def _stays(geometry: Geometry) -> bool:
    """Whether what picks samples leaves each where it is."""
    return set(geometry.stride) == {1} and not any(map(any, geometry.padding))


def _join_transposed_taps(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    joint = _join_taps(right.T, left.T)
    return None if joint is None else joint.T


def _add_taps(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    """Two convolutions of one stride, padding mode and grid."""
    both = _as_convolutions(left, right)
    if both is None or (aligned := _aligned(both)) is None:
        return None
    kernels, axes = aligned
    groups = math.gcd(*(conv.geometry.groups for conv in both))
    spread = [_regrouped(k, conv.geometry.groups, groups) for k, conv in zip(kernels, both, strict=True)]
    if spread[0].size > _WIDER * sum(conv.weight.size for conv in both):
        return None
    g = both[0].geometry
    return _make(spread[0] + spread[1], axes, g.output_size, groups, g.channels, _method(*_convs(left, right)))


def _add_transposed_taps(left: ImageOperator, right: ImageOperator) -> ImageOperator | None:
    joint = _add_taps(left.T, right.T)
    return None if joint is None else joint.T


def _aligned(convs: Sequence[Conv]) -> tuple[list[NDArray[Any]], list[Axis]] | None:
    """The kernels on the taps that all of them need, and the axes with those taps; None where grids differ."""
    geometries = [conv.geometry for conv in convs]
    if len({(g.input_size, g.output_size) for g in geometries}) > 1:
        return None
    kernels = [_kernel(conv) for conv in convs]
    dtype = np.result_type(*kernels)
    axes = []
    for number, lines in enumerate(zip(*(g.axes for g in geometries), strict=True)):
        modes = {line.mode for line in lines if not line.reads_no_padding}
        strides = {line.stride for line in lines if line.output > 1}
        if len(modes) > 1 or len(strides) > 1:
            return None
        joint = _joint_axis(lines, modes.pop() if modes else "zeros", strides.pop() if strides else 1)
        if joint.taps > _WIDER * sum(line.taps for line in lines):
            return None
        axes.append(joint)
        for position, line in enumerate(lines):
            kernel = kernels[position]
            wide = np.zeros((*kernel.shape[: 2 + number], joint.taps, *kernel.shape[3 + number :]), dtype=dtype)
            first, step = (joint.lo - line.lo) // joint.dilation, line.dilation // joint.dilation
            wide[(slice(None),) * (2 + number) + (slice(first, first + step * (line.taps - 1) + 1, step or 1),)] = (
                kernel
            )
            kernels[position] = wide
    return kernels, axes


def _joint_axis(lines: Sequence[Axis], mode: str, stride: int) -> Axis:
    """The axis whose taps read every position that one of these axes reads, in one direction."""
    lo = max(line.lo for line in lines)
    end = max(line.span - line.lo for line in lines)
    steps = [line.dilation for line in lines if line.taps > 1] + [lo - line.lo for line in lines]
    dilation = math.gcd(*steps) or 1
    return Axis(lines[0].size, (end + lo - 1) // dilation + 1, stride, dilation, lo, 0, mode)


def _regrouped(kernel: NDArray[Any], groups: int, fewer: int) -> NDArray[Any]:
    """A kernel of G groups as one of fewer, with zeros between channels that did not mix."""
    if groups == fewer:
        return kernel
    outs, ins, joined = kernel.shape[0] // groups, kernel.shape[1], groups // fewer
    wide = np.zeros((fewer, joined, outs, joined, ins, *kernel.shape[2:]), dtype=kernel.dtype)
    parts = kernel.reshape(fewer, joined, outs, ins, *kernel.shape[2:])
    for group in range(joined):
        wide[:, group, :, group] = parts[:, group]
    return wide.reshape(kernel.shape[0], joined * ins, *kernel.shape[2:])


def _stacked(A: Blocks, parts: Sequence[ImageOperator]) -> ImageOperator | None:
    """A stack of convolutions as one with the channels of all, or of transposed ones as the transpose of one."""
    direct = _stacked_convolutions(type(A), parts)
    if direct is not None:
        return direct
    flipped = _stacked_convolutions(A._transposed_kind(), [part.T for part in parts])
    return None if flipped is None else flipped.T


def _stacked_convolutions(kind: type[Blocks], parts: Sequence[ImageOperator]) -> ImageOperator | None:
    convs = _as_convolutions(*parts)
    aligned = None if convs is None else _aligned(convs)
    if convs is None or aligned is None:
        return None
    kernels, axes = aligned
    groups = [conv.geometry.groups for conv in convs]
    if kind is BlockDiagonal:
        if len({(k.shape[0] // g, k.shape[1]) for k, g in zip(kernels, groups, strict=True)}) > 1:
            return None
        kernel, joint = np.concatenate(kernels), sum(groups)
    else:
        axis = {VStack: 0, HStack: 1}[kind]
        kernel = np.concatenate([_regrouped(k, g, 1) for k, g in zip(kernels, groups, strict=True)], axis=axis)
        joint = 1
    if kernel.size > _WIDER * sum(conv.weight.size for conv in convs):
        return None
    return _make(kernel, axes, convs[0].geometry.output_size, joint, True, _method(*convs))
