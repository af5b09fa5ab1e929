"""Overlap-save: tiles of the image through real FFTs that stay in cache, the transform of the kernel made once.

A stride s is polyphase: the s^D phases of the extended image are channels of a stride-1 correlation with the phases of
the kernel, so that nothing is computed and then thrown away. The transpose runs the same tiles with the same transform
of the kernel: its conjugate correlates, itself convolves.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.padding import fold, read_tile
from convmat.products.threads import Pool, Scratch, workers
from convmat.taps import Axis

TILE_SAMPLES = 288
"""Longest side of a two-dimensional tile: its transform stays in a core's caches."""

KERNEL_SAMPLES = 2**22
"""Samples that the transformed kernels take, all of them; more only where the kernels themselves do."""

THREAD_WORK = 2**16
"""Samples of the image below which a second thread does not pay."""


class Fft:
    """A x and A^T y by FFTs, for every geometry; the method of large kernels."""

    def __init__(self, geometry: Geometry, weight: NDArray[Any]) -> None:
        self._geometry, self._axes = geometry, geometry.axes
        self._complex = weight.dtype.kind == "c"
        groups = geometry.groups
        outs, ins = geometry.out_channels // groups, geometry.in_channels // groups
        self._shape = groups, outs, ins
        self._phases = list(itertools.product(*(range(axis.stride) for axis in self._axes)))
        # taps of a phase: positions 0 .. reach of its sub-lattice
        self._reach = tuple((axis.span - 1) // axis.stride for axis in self._axes)
        self._tile, self._step = tile_sides(geometry)
        kernels = self._phase_kernels(geometry.kernel(weight))
        # (G, C_out / G, C_in / G * phases, frequencies)
        self._correlate = self._transform(kernels.conj()).conj().reshape(groups, outs, ins * len(self._phases), -1)
        self._convolve = self._transform(kernels).reshape(self._correlate.shape)
        self._frequencies = self._tile if self._complex else (*self._tile[:-1], self._tile[-1] // 2 + 1)
        self._pool = Pool()

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        geometry, (groups, outs, ins) = self._geometry, self._shape
        y = np.empty((len(x), geometry.out_channels, *geometry.output_size), dtype=x.dtype)

        def tile(scratch: Scratch, image: int, start: tuple[int, ...]) -> None:
            window = scratch.array("window", (len(x[0]), len(self._phases), *self._tile), x.dtype)
            for p, phase in enumerate(self._phases):
                read_tile(x[image], self._axes, phase, start, window[:, p])
            spectra = self._transform(window).reshape(groups, 1, ins * len(self._phases), -1)
            product = _contract(self._correlate, spectra, 2)
            rows = self._back(product.reshape(groups * outs, *self._frequencies))
            size = tuple(min(s, m - a) for s, m, a in zip(self._step, geometry.output_size, start, strict=True))
            inside: Any = (slice(None), *(slice(0, n) for n in size))
            target: Any = (slice(None), *(slice(a, a + n) for a, n in zip(start, size, strict=True)))
            y[image][target] = rows[inside]

        self._run(tile, len(x), geometry.output_size)
        return y

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        geometry, (groups, outs, ins) = self._geometry, self._shape
        padded = tuple(axis.padded for axis in self._axes)
        sent = np.empty((len(y), geometry.in_channels, *padded), dtype=y.dtype)
        lattice = tuple(-(-axis.padded // axis.stride) for axis in self._axes)
        plain = [Axis(m, 1, lo=reach, hi=0) for m, reach in zip(geometry.output_size, self._reach, strict=True)]

        def tile(scratch: Scratch, image: int, start: tuple[int, ...]) -> None:
            window = scratch.array("window", (len(y[0]), *self._tile), y.dtype)
            read_tile(y[image], plain, (0,) * len(plain), start, window)
            spectra = self._transform(window).reshape(groups, outs, 1, -1)
            product = _contract(self._convolve, spectra, 1)
            parts = self._back(product.reshape(groups * ins * len(self._phases), *self._frequencies))
            parts = parts.reshape(groups * ins, len(self._phases), *self._tile)
            for p, phase in enumerate(self._phases):
                target: list[Any] = [slice(None)]
                inside: list[Any] = [slice(None), p]
                for axis, q, a, step, reach in zip(self._axes, phase, start, self._step, self._reach, strict=True):
                    count = max(0, min(step, -(-(axis.padded - q) // axis.stride) - a))
                    first = axis.stride * a + q
                    target.append(slice(first, first + axis.stride * count, axis.stride))
                    inside.append(slice(reach, reach + count))
                sent[image][tuple(target)] = parts[tuple(inside)]

        self._run(tile, len(y), lattice)
        x = np.zeros((len(y), geometry.in_channels, *geometry.input_size), dtype=y.dtype)
        for piece, image in zip(sent, x, strict=True):
            fold(piece, self._axes, 0, image)
        return x

    def _run(self, tile: Any, images: int, size: tuple[int, ...]) -> None:
        starts = list(itertools.product(*(range(0, n, step) for n, step in zip(size, self._step, strict=True))))
        pieces = [(image, start) for image in range(images) for start in starts]
        busy = math.prod(self._geometry.input_size) * self._geometry.in_channels >= THREAD_WORK
        self._pool.run(tile, pieces, min(len(pieces), workers()) if busy else 1)

    def _phase_kernels(self, kernel: NDArray[Any]) -> NDArray[Any]:
        """The kernel of each phase, zero-padded to a tile: (G, C_out / G, C_in / G, phases, tile)."""
        groups, outs, ins = self._shape
        spread = np.zeros(
            (groups, outs, ins, *(axis.stride * tile for axis, tile in zip(self._axes, self._tile, strict=True))),
            dtype=kernel.dtype,
        )
        taps: Any = (..., *(slice(0, axis.span, axis.dilation) for axis in self._axes))
        spread[taps] = kernel.reshape(groups, outs, ins, *kernel.shape[2:])
        phases: list[Any] = [
            (..., *(slice(q, None, axis.stride) for q, axis in zip(phase, self._axes, strict=True)))
            for phase in self._phases
        ]
        return np.stack([spread[phase] for phase in phases], axis=3)

    def _transform(self, tiles: NDArray[Any]) -> NDArray[Any]:
        from scipy import fft  # only here: it takes a tenth of a second to import

        axes = tuple(range(-len(self._axes), 0))
        spectra: NDArray[Any] = fft.fftn(tiles, axes=axes) if self._complex else fft.rfftn(tiles, axes=axes)
        return spectra

    def _back(self, spectra: NDArray[Any]) -> NDArray[Any]:
        from scipy import fft

        axes = tuple(range(-len(self._axes), 0))
        if self._complex:
            tiles = fft.ifftn(spectra, axes=axes, overwrite_x=True)
        else:
            tiles = fft.irfftn(spectra, s=self._tile, axes=axes, overwrite_x=True)
        return np.asarray(tiles)


def _contract(kernel: NDArray[Any], spectra: NDArray[Any], axis: int) -> NDArray[Any]:
    """The product of two (G, C_out / G, channels, frequencies), summed over one axis."""
    if kernel.shape[axis] == 1:
        return np.asarray(np.squeeze(kernel * spectra, axis))
    product: NDArray[Any] = np.einsum(
        "gocf,gcf->gof" if axis == 2 else "gocf,gof->gcf", kernel, spectra[:, 0] if axis == 2 else spectra[:, :, 0]
    )
    return product


def tile_sides(geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sides of a tile, and how many outputs per phase it gives along each axis."""
    kernels = geometry.out_channels * geometry.in_channels // geometry.groups * math.prod(geometry.stride)
    reach = [(axis.span - 1) // axis.stride for axis in geometry.axes]
    tile = tuple(
        _tile_side(-(-axis.padded // axis.stride), r, geometry.ndim, kernels)
        for axis, r in zip(geometry.axes, reach, strict=True)
    )
    return tile, tuple(side - r for side, r in zip(tile, reach, strict=True))


def _tile_side(lattice: int, reach: int, dims: int, kernels: int) -> int:
    """The side of a tile: a fast length that covers the axis, or that wastes little on the overlap.

    Many pairs of channels have smaller tiles, so that their transformed kernels take a bounded amount of memory.
    """
    from scipy import fft

    whole = int(fft.next_fast_len(lattice + reach, real=True))
    samples = min(TILE_SAMPLES**2, KERNEL_SAMPLES / kernels)
    longest = max(round(samples ** (1 / dims)), 2 * reach + 8)
    if whole <= longest:
        return whole
    # tiles of equal steps, so that the last is not nearly empty
    pieces = -(-lattice // (longest - reach))
    return int(fft.next_fast_len(-(-lattice // pieces) + reach, real=True))
