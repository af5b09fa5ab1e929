"""Lowering to matrix products (im2col), in bands of output rows so that the work memory is bounded.

Forward: the windows of a band of outputs, side by side, are a matrix (C_in K / G, outputs); the kernel times that
matrix is the band. Transposed: with stride 1, the same with the flipped kernel on y in a border of zeros; otherwise the
transposed kernel times a band of y is what each tap sends back, and it is added where the tap read (col2im).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.lowering import Lowering, pieces
from convmat.products.padding import fold
from convmat.products.threads import Pool, Scratch, workers


class Gemm:
    """A x and A^T y by lowering, for every geometry."""

    def __init__(self, geometry: Geometry, weight: NDArray[Any]) -> None:
        self._geometry = geometry
        kernel = geometry.kernel(weight)
        self._down = _Lowered(geometry, kernel)
        self._borderless = all(axis.sends_nothing_back for axis in geometry.axes)
        self._reversed = (
            _Lowered(*_reverse(geometry, kernel, self._borderless)) if set(geometry.stride) == {1} else None
        )

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        return self._down.correlate(x)

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        geometry = self._geometry
        if self._reversed is not None and self._borderless:
            return self._reversed.correlate(y)
        x = np.zeros((len(y), geometry.in_channels, *geometry.input_size), dtype=y.dtype)
        if self._reversed is None:
            self._down.send_back(y, x)
            return x
        for sent, image in zip(self._reversed.correlate(y), x, strict=True):
            fold(sent, geometry.axes, 0, image)
        return x


def _reverse(geometry: Geometry, kernel: NDArray[Any], borderless: bool) -> tuple[Geometry, NDArray[Any]]:
    """A^T y for stride 1: y in a border of zeros, correlated with the flipped kernel.

    On the extended image, whose border is folded back afterwards; or on the image alone, if nothing comes back.
    """
    groups, (outs, ins, *taps) = geometry.groups, kernel.shape
    flipped = np.flip(kernel, axis=tuple(range(2, kernel.ndim)))
    swapped = flipped.reshape(groups, outs // groups, ins, *taps).swapaxes(1, 2)
    cut = [(axis.lo, axis.hi) if borderless else (0, 0) for axis in geometry.axes]
    reach = [axis.span - 1 for axis in geometry.axes]
    border = tuple((r - lo, r - hi) for r, (lo, hi) in zip(reach, cut, strict=True))
    return replace(
        geometry,
        input_size=geometry.output_size,
        output_size=geometry.input_size if borderless else tuple(axis.padded for axis in geometry.axes),
        padding=border,
        padding_mode="zeros",
        in_channels=geometry.out_channels,
        out_channels=geometry.in_channels,
    ), swapped.reshape(groups * ins, outs // groups, *taps)


class _Lowered:
    """A geometry, its lowering, and the kernel as a matrix."""

    def __init__(self, geometry: Geometry, kernel: NDArray[Any]) -> None:
        self._outputs, self._shape = geometry.output_size, (geometry.out_channels, geometry.in_channels)
        self._lowering = Lowering(geometry, kernel.itemsize)
        # (G, C_out / G, C_in / G * K)
        self._kernel = np.ascontiguousarray(kernel.reshape(geometry.groups, -1, math.prod(kernel.shape[1:])))
        self._senders = _parts(geometry)
        self._pool = Pool()

    def correlate(self, x: NDArray[Any]) -> NDArray[Any]:
        """(batch, C_in, N_1..N_D) -> (batch, C_out, M_1..M_D)."""
        inner = math.prod(self._outputs[1:])
        y = np.empty((len(x), *self._kernel.shape[:2], math.prod(self._outputs)), dtype=x.dtype)

        def band(scratch: Scratch, image: int, start: int, stop: int) -> None:
            lowered = self._lowering.lower(scratch, x[image], start, stop)
            np.matmul(self._kernel, lowered, out=y[image, :, :, start * inner : stop * inner])

        self._run(band, [(image, *rows) for image in range(len(x)) for rows in self._lowering.bands])
        return y.reshape(len(x), self._shape[0], *self._outputs)

    def send_back(self, y: NDArray[Any], x: NDArray[Any]) -> None:
        """Add the transpose: (batch, C_out, M_1..M_D) into (batch, C_in, N_1..N_D)."""
        inner = math.prod(self._outputs[1:])
        groups, outs, columns = self._kernel.shape
        y = y.reshape(len(y), groups, outs, math.prod(self._outputs))
        ins = self._shape[1] // groups
        transposed = self._kernel.swapaxes(1, 2)

        def part(scratch: Scratch, image: int, group: slice, channel: slice) -> None:
            first, last = group.start * ins + channel.start, (group.stop - 1) * ins + channel.stop
            rows = slice(channel.start * (columns // ins), channel.stop * (columns // ins))
            kernel = transposed[group, rows]
            for start, stop in self._lowering.bands:
                sent = scratch.array("sent", (*kernel.shape[:2], (stop - start) * inner), y.dtype)
                np.matmul(kernel, y[image, group, :, start * inner : stop * inner], out=sent)
                self._lowering.raise_into(x[image, first:last], sent, start, stop)

        self._run(part, [(image, *channels) for image in range(len(y)) for channels in self._senders])

    def _run(self, task: Callable[..., None], work: list[tuple[Any, ...]]) -> None:
        self._pool.run(task, work, min(len(work), workers()))


def _parts(geometry: Geometry) -> list[tuple[slice, slice]]:
    """The input channels in parts that are sent back independently: groups, or channels of each group."""
    count, groups, ins = pieces(geometry), geometry.groups, geometry.in_channels // geometry.groups
    if groups >= count:
        return [(part, slice(0, ins)) for part in _cut(groups, count)]
    return [(slice(g, g + 1), part) for g in range(groups) for part in _cut(ins, -(-count // groups))]


def _cut(size: int, count: int) -> list[slice]:
    step = -(-size // count)
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
