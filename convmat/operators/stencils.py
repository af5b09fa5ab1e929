"""Convolutions as taps on one grid: what of several convolutions is one.

Along each axis, output m of a convolution reads the samples s m + d k - lo of the input, extended by the padding mode.
Two convolutions of one stride and mode read the same extension, so that their kernels add up where their positions
meet. What only picks or scales samples, a kernel of one tap, moves the positions of its neighbour.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry, as_weight, conv_geometry
from convmat.operators.base import ImageOperator
from convmat.operators.convolution import Conv, Conv1d, Conv2d, Conv3d, Convolution, ConvTranspose
from convmat.operators.factors import Crop, IndexMap
from convmat.operators.layers import Diagonal
from convmat.products import Products
from convmat.taps import Axis, joint_axis


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
    last, first = both
    g, h = last.geometry, first.geometry
    inside = all(axis.reads_no_padding for axis in g.axes)
    if _picks(last) and inside:
        kernel, groups = multiplied(_kernel(first), _kernel(last)), h.groups
    elif _picks(first) and (inside or _stays(h)):
        scales = np.repeat(_kernel(first).reshape(g.groups, 1, -1), g.out_channels // g.groups, axis=1)
        kernel = multiplied(_kernel(last), scales.reshape(*_kernel(last).shape[:2], *(1,) * g.ndim))
        groups = g.groups
    else:
        return None
    axes = [before.then(axis) for before, axis in zip(h.axes, g.axes, strict=True)]
    if kernel is None or any(axis.window(m) < 1 for axis, m in zip(axes, g.output_size, strict=True)):
        return None
    return _make(kernel, axes, g.output_size, groups, h.channels, _method(*_given(left, right)))


def chained(left: ImageOperator, right: ImageOperator, wider: float) -> Conv | None:
    """The product of two convolutions, by a kernel at most so many times as large, where the border allows it."""
    both = as_convolutions(left, right)
    if both is None:
        return None
    last, first = both
    g, h = last.geometry, first.geometry
    axes = [axis for pair in zip(h.axes, g.axes, strict=True) if (axis := pair[0].chained(pair[1])) is not None]
    groups = math.gcd(g.groups, h.groups)
    numbers = g.out_channels * (h.in_channels // groups) * math.prod(axis.taps for axis in axes)
    if len(axes) < g.ndim or numbers > wider * (last.weight.size + first.weight.size):
        return None
    kernel = _convolved(last, first, axes, groups)
    if not np.isfinite(kernel).all():
        return None
    return _make(kernel, axes, g.output_size, groups, h.channels, _method(*_given(left, right)))


def _convolved(last: Conv, first: Conv, axes: Sequence[Axis], groups: int) -> NDArray[Any]:
    """The kernel of the product on the taps of these axes: each tap of the last convolution moves all of the first."""
    a, b = (regrouped(_kernel(conv), conv.geometry.groups, groups) for conv in (last, first))
    left = a.reshape(groups, -1, *a.shape[1:])  # (G, O, C, K..)
    right = b.reshape(groups, a.shape[1], -1)  # (G, C, I K..)
    taps, sizes = [axis.taps for axis in axes], b.shape[2:]
    joint = np.zeros((groups, left.shape[1], b.shape[1], *taps), dtype=np.result_type(a, b))
    lines = list(zip(axes, first.geometry.axes, last.geometry.axes, strict=True))
    whole = (slice(None),) * 3
    for at in np.ndindex(*a.shape[2:]):
        starts = [h.stride * g.dilation * k // axis.dilation for k, (axis, h, g) in zip(at, lines, strict=True)]
        steps = [max(1, h.dilation // axis.dilation) for axis, h, _ in lines]
        moved = (
            slice(start, start + step * (size - 1) + 1, step)
            for start, step, size in zip(starts, steps, sizes, strict=True)
        )
        product = left[(..., *at)] @ right
        joint[(*whole, *moved)] += product.reshape(*joint.shape[:3], *sizes)
    return joint.reshape(-1, b.shape[1], *taps)


@dataclass(frozen=True)
class _Grid:
    """Convolutions of one stride, padding mode and grid, with the axes whose taps all of them can have."""

    convs: list[Conv]
    axes: list[Axis]
    method: str

    @classmethod
    def of(cls, parts: Sequence[ImageOperator], wider: float) -> _Grid | None:
        """The grid, if there is one, and the joint taps are at most so many times as many."""
        convs = as_convolutions(*parts)
        if convs is None or len({(c.geometry.input_size, c.geometry.output_size) for c in convs}) > 1:
            return None
        found = [joint_axis(lines) for lines in zip(*(conv.geometry.axes for conv in convs), strict=True)]
        axes = [axis for axis in found if axis is not None]
        most = wider * sum(math.prod(conv.geometry.kernel_size) for conv in convs)
        if len(axes) < len(found) or math.prod(axis.taps for axis in axes) > most:
            return None
        return cls(convs, axes, _method(*_given(*parts)))

    def holds(self, outs: int, ins: int, wider: float) -> bool:
        """Whether a kernel of so many channels has at most so many times the numbers of all weights."""
        numbers = outs * ins * math.prod(axis.taps for axis in self.axes)
        return numbers <= wider * sum(conv.weight.size for conv in self.convs)

    def kernels(self, groups: int | None = None) -> list[NDArray[Any]]:
        """The kernels on the joint taps, zeros where they have none, in so many groups; by default in their own."""
        return [regrouped(_spread(c, self.axes), c.geometry.groups, groups or c.geometry.groups) for c in self.convs]

    def conv(self, kernel: NDArray[Any], groups: int, channels: bool = True) -> Conv:
        """The convolution with that kernel on the grid."""
        return _make(kernel, self.axes, self.convs[0].geometry.output_size, groups, channels, self.method)


def added(parts: Sequence[ImageOperator], wider: float) -> Conv | None:
    """The sum of convolutions of one stride, padding mode and grid, by kernels at most so many times as large."""
    grid = _Grid.of(parts, wider)
    if grid is None:
        return None
    joint, g = math.gcd(*(conv.geometry.groups for conv in grid.convs)), grid.convs[0].geometry
    if not grid.holds(g.out_channels, g.in_channels // joint, wider):
        return None
    kernel = functools.reduce(np.add, grid.kernels(joint))
    if not np.isfinite(kernel).all():
        return None  # what is infinite times 0 is not what the sum of the products is
    return grid.conv(kernel, joint, g.channels)


def concatenated(parts: Sequence[ImageOperator], axis: int, wider: float) -> Conv | None:
    """One convolution with the output (axis 0) or input channels (axis 1) of all."""
    grid = _Grid.of(parts, wider)
    if grid is None:
        return None
    counts = [(conv.geometry.out_channels, conv.geometry.in_channels) for conv in grid.convs]
    if not grid.holds(sum(count[axis] for count in counts), counts[0][1 - axis], wider):
        return None
    return grid.conv(np.concatenate(grid.kernels(1), axis=axis), 1)


def side_by_side(parts: Sequence[ImageOperator], wider: float) -> Conv | None:
    """One convolution whose groups are those of all, of as many channels each."""
    grid = _Grid.of(parts, wider)
    if grid is None:
        return None
    geometries = [conv.geometry for conv in grid.convs]
    if len({(g.out_channels // g.groups, g.in_channels // g.groups) for g in geometries}) > 1:
        return None
    return grid.conv(np.concatenate(grid.kernels()), sum(g.groups for g in geometries))


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
        if isinstance(A, Crop) and set(g.modes) == {"zeros"}:
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
    """The transpose of a convolution of stride 1 that reads zeros, or a circle, is one with the flipped kernel."""
    g = A.geometry
    circles = [axis.mode == "circular" and axis.size == axis.output for axis in g.axes]
    plain = (circle or a.mode == "zeros" or a.reads_no_padding for circle, a in zip(circles, g.axes, strict=True))
    if set(g.stride) != {1} or not all(plain):
        return None
    kernel = _swapped(np.flip(g.kernel(A.weight), axis=tuple(range(2, 2 + g.ndim))), g.groups)
    modes = ("circular" if circle else "zeros" for circle in circles)
    axes = [replace(axis.turned(), mode=mode) for axis, mode in zip(g.axes, modes, strict=True)]
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
    axes = [axis.ending_at(m) for axis, m in zip(axes, sizes, strict=True)]
    modes = {a.mode for a in axes if not a.reads_no_padding}
    weight = as_weight(kernel if channels else kernel.reshape(kernel.shape[2:]))
    geometry = conv_geometry(
        weight.shape,
        tuple(a.size for a in axes),
        stride=tuple(a.stride for a in axes),
        padding=tuple((a.lo, a.hi) for a in axes),
        dilation=tuple(a.dilation for a in axes),
        groups=groups,
        padding_mode=[axis.mode for axis in axes] if len(modes) > 1 else modes.pop() if modes else "zeros",
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


def _spread(conv: Conv, axes: Sequence[Axis]) -> NDArray[Any]:
    """The kernel on the taps of other axes, zeros where it has none."""
    kernel = _kernel(conv)
    wide = np.zeros((*kernel.shape[:2], *(axis.taps for axis in axes)), dtype=kernel.dtype)
    places = [line.taps_on(axis) for line, axis in zip(conv.geometry.axes, axes, strict=True)]
    wide[(slice(None), slice(None), *places)] = kernel
    return wide


def regrouped(kernel: NDArray[Any], groups: int, fewer: int) -> NDArray[Any]:
    """A kernel of G groups as one of fewer, with zeros between channels that did not mix."""
    if groups == fewer:
        return kernel
    outs, ins, joined = kernel.shape[0] // groups, kernel.shape[1], groups // fewer
    wide = np.zeros((fewer, joined, outs, joined, ins, *kernel.shape[2:]), dtype=kernel.dtype)
    parts = kernel.reshape(fewer, joined, outs, ins, *kernel.shape[2:])
    for group in range(joined):
        wide[:, group, :, group] = parts[:, group]
    return wide.reshape(kernel.shape[0], joined * ins, *kernel.shape[2:])
