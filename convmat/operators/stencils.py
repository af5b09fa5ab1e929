"""Convolutions as taps on one grid: what of several convolutions is one.

Along each axis, output m of a convolution reads the samples s m + d k - lo of the input, extended by the padding mode.
Two convolutions of one stride and mode read the same extension, so that their kernels add up where their positions
meet. What only picks or scales samples, a kernel of one tap, moves the positions of its neighbour.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry, as_weight, conv_geometry
from convmat.operators.base import ImageOperator
from convmat.operators.convolution import Conv, Conv1d, Conv2d, Conv3d, Convolution, ConvTranspose
from convmat.operators.factors import Crop, IndexMap
from convmat.operators.layers import Diagonal
from convmat.products import Products
from convmat.taps import Axis


def multiplied(a: Any, b: Any) -> Any:
    """A times b, unless some products have become infinite, or so small that digits are lost."""
    product = np.multiply(a, b)
    size = np.maximum(np.abs(product.real), np.abs(product.imag))
    zero = np.equal(a, 0) | np.equal(b, 0)
    fine = zero | ((size >= np.finfo(product.dtype).tiny) & (size < np.inf))
    if not fine.all():
        return None
    return product.item() if {type(a), type(b)} <= {int, float, complex} else product


def composed(left: ImageOperator, right: ImageOperator) -> Conv | None:
    """The product of a convolution and what picks and scales samples before or after it."""
    both = as_convolutions(left, right) if _may_pick(left) or _may_pick(right) else None
    if both is None:
        return None
    first, second = both[1].geometry, both[0].geometry  # the right one is applied first
    if _picks(both[0]) and all(axis.reads_no_padding for axis in second.axes):
        kernel = multiplied(_kernel(both[1]), _kernel(both[0]))
        axes = [
            Axis(b.size, b.taps, b.stride * a.stride, b.dilation, b.lo + b.stride * a.lo, 0, b.mode)
            for a, b in zip(second.axes, first.axes, strict=True)
        ]
        groups = first.groups
    elif _picks(both[1]) and (_stays(first) or all(axis.reads_no_padding for axis in second.axes)):
        scales = _kernel(both[1]).reshape(second.groups, 1, -1, *(1,) * second.ndim)
        grouped = _kernel(both[0]).reshape(second.groups, -1, *_kernel(both[0]).shape[1:])
        product = multiplied(grouped, scales)
        kernel = None if product is None else product.reshape(_kernel(both[0]).shape)
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
    return _make(kernel, axes, second.output_size, groups, first.channels, _method(*_given(left, right)))


def added(parts: Sequence[ImageOperator], wider: float) -> Conv | None:
    """The sum of convolutions of one stride, padding mode and grid, by kernels at most so many times as large."""
    convs = as_convolutions(*parts)
    aligned = None if convs is None else _aligned(convs, wider)
    if convs is None or aligned is None:
        return None
    kernels, axes = aligned
    groups = [conv.geometry.groups for conv in convs]
    joint, g = math.gcd(*groups), convs[0].geometry
    taps = math.prod(axis.taps for axis in axes)
    if g.out_channels * (g.in_channels // joint) * taps > wider * sum(conv.weight.size for conv in convs):
        return None
    kernel = functools.reduce(np.add, (_regrouped(k, n, joint) for k, n in zip(kernels, groups, strict=True)))
    if not np.isfinite(kernel).all():
        return None  # what is infinite times 0 is not what the sum of the products is
    return _make(kernel, axes, g.output_size, joint, g.channels, _method(*_given(*parts)))


def concatenated(parts: Sequence[ImageOperator], axis: int, wider: float) -> Conv | None:
    """One convolution with the output (axis 0) or input channels (axis 1) of all."""
    convs = as_convolutions(*parts)
    aligned = None if convs is None else _aligned(convs, wider)
    if convs is None or aligned is None:
        return None
    kernels, axes = aligned
    counts = [(conv.geometry.out_channels, conv.geometry.in_channels) for conv in convs]
    numbers = sum(count[axis] for count in counts) * counts[0][1 - axis] * math.prod(line.taps for line in axes)
    if numbers > wider * sum(conv.weight.size for conv in convs):
        return None
    kernel = np.concatenate(
        [_regrouped(k, conv.geometry.groups, 1) for k, conv in zip(kernels, convs, strict=True)], axis=axis
    )
    return _make(kernel, axes, convs[0].geometry.output_size, 1, True, _method(*_given(*parts)))


def side_by_side(parts: Sequence[ImageOperator], wider: float) -> Conv | None:
    """One convolution whose groups are those of all, of as many channels each."""
    convs = as_convolutions(*parts)
    aligned = None if convs is None else _aligned(convs, wider)
    if convs is None or aligned is None:
        return None
    kernels, axes = aligned
    groups = [conv.geometry.groups for conv in convs]
    if len({(k.shape[0] // g, k.shape[1]) for k, g in zip(kernels, groups, strict=True)}) > 1:
        return None
    kernel = np.concatenate(kernels)
    return _make(kernel, axes, convs[0].geometry.output_size, sum(groups), True, _method(*_given(*parts)))


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
        given = A.values.reshape((1,) * (len(A.input_shape) - A.values.ndim) + A.values.shape)
        values = given.reshape(len(given) if like.channels else 1, -1)  # as given: an image may be far larger
        if not (values == values[:, :1]).all():
            return None
        kernel = np.repeat(values[:, :1], channels // len(values), axis=0).reshape(channels, 1, *(1,) * like.ndim)
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


def as_convolutions(*parts: ImageOperator) -> list[Conv] | None:
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


def _may_pick(A: ImageOperator) -> bool:
    return isinstance(A, IndexMap | Diagonal) or (isinstance(A, Convolution) and set(A.geometry.kernel_size) == {1})


def _given(*parts: ImageOperator) -> list[Any]:
    """The parts that were given as convolutions, by whose method their product is computed."""
    return [part for part in parts if isinstance(part, Conv | ConvTranspose)]


def _stays(geometry: Geometry) -> bool:
    """Whether what picks samples leaves each where it is."""
    return set(geometry.stride) == {1} and not any(map(any, geometry.padding))


def _aligned(convs: Sequence[Conv], wider: float) -> tuple[list[NDArray[Any]], list[Axis]] | None:
    """The kernels on the taps that all of them need, and the axes with those taps; None where grids differ."""
    geometries = [conv.geometry for conv in convs]
    if len({(g.input_size, g.output_size) for g in geometries}) > 1:
        return None
    axes = [_joint_axis(lines) for lines in zip(*(g.axes for g in geometries), strict=True)]
    joint = [axis for axis in axes if axis is not None]
    most = wider * sum(math.prod(g.kernel_size) for g in geometries)
    if len(joint) < len(axes) or math.prod(axis.taps for axis in joint) > most:
        return None
    return [_spread(conv, joint) for conv in convs], joint


def _spread(conv: Conv, axes: Sequence[Axis]) -> NDArray[Any]:
    """The kernel on the taps of other axes, zeros where it has none."""
    kernel = _kernel(conv)
    wide = np.zeros((*kernel.shape[:2], *(axis.taps for axis in axes)), dtype=kernel.dtype)
    places: list[Any] = [slice(None), slice(None)]
    for line, axis in zip(conv.geometry.axes, axes, strict=True):
        first, step = (axis.lo - line.lo) // axis.dilation, max(1, line.dilation // axis.dilation)
        places.append(slice(first, first + step * (line.taps - 1) + 1, step))
    wide[tuple(places)] = kernel
    return wide


def _joint_axis(lines: Sequence[Axis]) -> Axis | None:
    """The axis whose taps read every position that one of these axes reads; None if they differ in stride or mode."""
    modes = {line.mode for line in lines if not line.reads_no_padding}
    strides = {line.stride for line in lines if line.output > 1}
    if len(modes) > 1 or len(strides) > 1:
        return None
    lo, end = max(line.lo for line in lines), max(line.span - line.lo for line in lines)
    steps = [line.dilation for line in lines if line.taps > 1] + [lo - line.lo for line in lines]
    dilation = math.gcd(*steps) or 1
    taps, stride = (end + lo - 1) // dilation + 1, strides.pop() if strides else 1
    return Axis(lines[0].size, taps, stride, dilation, lo, 0, modes.pop() if modes else "zeros")


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
