"""Lowering to matrix products (im2col), in tiles of outputs so that the work memory is bounded.

The windows of a tile of outputs, side by side, are a matrix (C_in K / G, outputs); the kernel times that matrix is the
tile. A^T y is the same for each phase of the stride, with the taps of that phase, last first, on y in a border of
zeros; the phases side by side are what comes back, on the extended image if a border is to be folded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry, Part
from convmat.parts import sent
from convmat.products.lowering import TILE_BYTES, Lowering, Tile
from convmat.products.padding import fold
from convmat.products.threads import Pool, Scratch, workers
from convmat.taps import Axis


class Gemm:
    """A x and A^T y by lowering, for every geometry."""

    def __init__(self, geometry: Geometry, weight: NDArray[Any]) -> None:
        self._geometry, self._kernel = geometry, geometry.kernel(weight)
        # along an axis whose border sends nothing back, what is sent are the samples already
        self._axes = [replace(axis, lo=0, hi=0) if axis.sends_nothing_back else axis for axis in geometry.axes]

    @staticmethod
    def work_bytes(geometry: Geometry, itemsize: int) -> float:
        """Bytes kept besides the image and the result, about."""
        window = geometry.in_channels * math.prod(geometry.kernel_size) * itemsize
        return 2.0 * workers() * max(TILE_BYTES, window)

    @cached_property
    def _down(self) -> _Lowered:
        return _Lowered(self._geometry, self._kernel)

    @cached_property
    def _up(self) -> list[tuple[tuple[slice, ...], _Lowered]]:
        return [(at, _Lowered(turned, taps)) for at, turned, taps in _phases(self._geometry, self._kernel)]

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        return self._down.correlate(x)

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        g = self._geometry
        sent = np.zeros((len(y), g.in_channels, *(axis.padded for axis in self._axes)), dtype=y.dtype)
        for at, phase in self._up:
            sent[(slice(None), slice(None), *at)] = phase.correlate(y)
        if all(axis.sends_nothing_back for axis in g.axes):
            return sent
        x = np.zeros((len(y), g.in_channels, *g.input_size), dtype=y.dtype)
        for image, result in zip(sent, x, strict=True):
            fold(image, self._axes, 0, result)
        return x


def _phases(geometry: Geometry, kernel: NDArray[Any]) -> Iterator[tuple[tuple[slice, ...], Geometry, NDArray[Any]]]:
    """The phases of A^T that have taps: where their outputs go, and the convolution that each of them is."""
    groups, (outs, ins) = geometry.groups, kernel.shape[:2]
    swapped = kernel.reshape(groups, outs // groups, *kernel.shape[1:]).swapaxes(1, 2)
    swapped = swapped.reshape(groups * ins, outs // groups, *kernel.shape[2:])
    for phase in itertools.product(*(range(stride) for stride in geometry.stride)):
        parts = [axis.sending(q) for axis, q in zip(geometry.axes, phase, strict=True)]
        if None in parts:
            continue
        axes, taps, places = zip(*parts, strict=True)
        turned = _turned(geometry, axes)
        if geometry.part is not None:
            turned = replace(turned, part=_part_of_phase(geometry, geometry.part, phase))
        yield places, turned, swapped[(slice(None), slice(None), *taps)]


def _turned(geometry: Geometry, axes: Sequence[Axis]) -> Geometry:
    """The convolution that one phase of A^T is."""
    return replace(
        geometry,
        input_size=geometry.output_size,
        output_size=tuple(axis.output for axis in axes),
        kernel_size=tuple(axis.taps for axis in axes),
        stride=(1,) * geometry.ndim,
        dilation=tuple(axis.dilation for axis in axes),
        padding=tuple((axis.lo, axis.hi) for axis in axes),
        padding_mode="zeros",
        in_channels=geometry.out_channels,
        out_channels=geometry.in_channels,
        part=None,
    )


def _part_of_phase(geometry: Geometry, part: Part, phase: tuple[int, ...]) -> Part:
    """Where a phase of the transpose of a part stands in that phase of the transpose of the whole."""
    axes = [axis.sending(q) for axis, q in zip(part.whole.axes, phase, strict=True)]
    whole = _turned(part.whole, [found[0] for found in axes if found is not None])
    runs = map(sent, geometry.axes, part.whole.axes, part.outputs, phase)
    return Part(whole, tuple(runs), part.channels[::-1])


class _Lowered:
    """A geometry, its lowering, and the kernel as a matrix.

    The channels of a part stand among zeros, where they stand in the whole.
    """

    def __init__(self, geometry: Geometry, kernel: NDArray[Any]) -> None:
        self._outputs, self._channels = geometry.output_size, geometry.out_channels
        self._lowering = Lowering(geometry, kernel.itemsize)
        whole, groups = geometry.whole, geometry.groups
        first = geometry.part.channels[0] if geometry.part is not None else 0
        kernels = kernel.reshape(groups, -1, math.prod(kernel.shape[1:]))  # (G, C_out / G, C_in / G * K)
        self._rows = slice(first, first + kernels.shape[1])
        self._kernel = np.zeros((groups, whole.out_channels // whole.groups, kernels.shape[2]), dtype=kernel.dtype)
        self._kernel[:, self._rows] = kernels
        self._pool = Pool()

    def correlate(self, x: NDArray[Any]) -> NDArray[Any]:
        """(batch, C_in, N_1..N_D) -> (batch, C_out, M_1..M_D)."""
        groups, rows, _ = self._kernel.shape
        y = np.empty((len(x), groups, self._channels // groups, *self._outputs), dtype=x.dtype)
        whole = rows == y.shape[2]

        def product(scratch: Scratch, image: int, tile: Tile) -> None:
            lowered = self._lowering.lower(scratch, x[image], tile)
            if tile.full and whole:
                np.matmul(self._kernel, lowered, out=tile.of(y[image]))
                return
            out = scratch.array("product", (groups, rows, *tile.sides), x.dtype)
            np.matmul(self._kernel, lowered, out=out.reshape(groups, rows, -1))
            y[image][(..., *tile.box)] = out[(slice(None), self._rows, *tile.slots)]

        tiles = [(image, tile) for image in range(len(x)) for tile in self._lowering.tiles]
        self._pool.run(product, tiles, min(len(tiles), workers()))
        return y.reshape(len(x), self._channels, *self._outputs)
