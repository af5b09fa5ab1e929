"""Overlap-save: tiles of the image through real FFTs that stay in cache, the transform of the kernel made once.

A stride s is polyphase: the s^D phases of the extended image are channels of a stride-1 correlation with the phases of
the kernel, so that nothing is computed and then thrown away. The transpose runs the same tiles with the same transform
of the kernel: its conjugate correlates, itself convolves.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.padding import fold, read_tile, view_tile
from convmat.products.threads import Pool, Scratch, workers
from convmat.taps import Axis

TILE_SIDE = {1: 2**15, 2: 400, 3: 64}
"""Longest side of a tile by its number of axes, unless the kernel needs more: beyond, caches no longer help."""

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
        self._reach = tuple(axis.memory for axis in self._axes)
        self._tile, self._step = tile_sides(geometry)
        kernels = self._phase_kernels(geometry.kernel(weight))
        # (G, C_out / G, C_in / G * phases, frequencies)
        self._correlate = self._transform(kernels.conj()).conj().reshape(groups, outs, ins * len(self._phases), -1)
        self._convolve = self._transform(kernels).reshape(self._correlate.shape)
        self._frequencies = self._tile if self._complex else (*self._tile[:-1], self._tile[-1] // 2 + 1)
        self._pool = Pool()

    @staticmethod
    def work_bytes(geometry: Geometry, itemsize: int) -> float:
        """Bytes kept besides the image and the result, about."""
        g, samples, phases = geometry, math.prod(tile_sides(geometry)[0]), math.prod(geometry.stride)
        images, kernels = g.in_channels * phases + g.out_channels, g.out_channels * g.in_channels // g.groups * phases
        return samples * itemsize * (3.0 * workers() * images + 2 * kernels)

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        geometry, (groups, outs, ins) = self._geometry, self._shape
        y = np.empty((len(x), geometry.out_channels, *geometry.output_size), dtype=x.dtype)

        def tile(scratch: Scratch, image: int, start: tuple[int, ...]) -> None:
            window = view_tile(x[image], self._axes, start, self._tile) if len(self._phases) == 1 else None
            if window is None:
                window = scratch.array("window", (len(x[0]), len(self._phases), *self._tile), x.dtype)
                for p, phase in enumerate(self._phases):
                    read_tile(x[image], self._axes, phase, start, window[:, p])
            spectra = self._transform(window).reshape(groups, 1, ins * len(self._phases), -1)
            product = _contract(self._correlate, spectra, 2)
            size = tuple(min(s, m - a) for s, m, a in zip(self._step, geometry.output_size, start, strict=True))
            rows = self._back(product.reshape(groups * outs, *self._frequencies), [slice(0, n) for n in size])
            target: Any = (slice(None), *(slice(a, a + n) for a, n in zip(start, size, strict=True)))
            y[image][target] = rows

        self._run(tile, len(x), [(0, m) for m in geometry.output_size])
        return y

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        geometry, (groups, outs, ins) = self._geometry, self._shape
        x = np.empty((len(y), geometry.in_channels, *geometry.input_size), dtype=y.dtype)
        # what goes to a border is folded back at the end; along an axis where it is lost, only samples are computed
        lost = [axis.sends_nothing_back for axis in self._axes]
        into = [a if bare else Axis(a.padded, 1, a.stride) for a, bare in zip(self._axes, lost, strict=True)]
        folded = [replace(a, lo=0, hi=0) if bare else a for a, bare in zip(self._axes, lost, strict=True)]
        cropped = any(axis.lo < 0 or axis.hi < 0 for axis in self._axes)  # what that leaves out is read by nobody
        sent = x if all(lost) else np.empty((*x.shape[:2], *(axis.size for axis in into)), dtype=y.dtype)
        if cropped:
            sent[...] = 0
        plain = [axis.outgoing() for axis in self._axes]

        def tile(scratch: Scratch, image: int, start: tuple[int, ...]) -> None:
            window = view_tile(y[image], plain, start, self._tile)
            if window is None:
                window = scratch.array("window", (len(y[0]), *self._tile), y.dtype)
                read_tile(y[image], plain, (0,) * len(plain), start, window)
            spectra = self._transform(window).reshape(groups, outs, 1, -1)
            product = _contract(self._convolve, spectra, 1)
            product = product.reshape(groups * ins * len(self._phases), *self._frequencies)
            parts = self._back(product, [slice(reach, None) for reach in self._reach])
            parts = parts.reshape(groups * ins, len(self._phases), *self._step)
            for p, phase in enumerate(self._phases):
                target: list[Any] = [slice(None)]
                inside: list[Any] = [slice(None), p]
                for axis, q, a, step in zip(into, phase, start, self._step, strict=True):
                    first, last, sample = axis.strided_copied(axis.place(a, 0) + q, step)
                    target.append(slice(sample, sample + axis.stride * (last - first), axis.stride))
                    inside.append(slice(first, last))
                sent[image][tuple(target)] = parts[tuple(inside)]

        self._run(tile, len(y), [axis.sent for axis in self._axes])
        if sent is not x:
            x[...] = 0
            for piece, image in zip(sent, x, strict=True):
                fold(piece, folded, 0, image)
        return x

    def _run(self, tile: Any, images: int, ranges: list[tuple[int, int]]) -> None:
        starts = list(itertools.product(*(range(a, b, step) for (a, b), step in zip(ranges, self._step, strict=True))))
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

    def _back(self, spectra: NDArray[Any], kept: list[slice]) -> NDArray[Any]:
        """The part of the tiles that is kept; the last axis is transformed there alone. Overwrites the spectra."""
        from scipy import fft

        *outer, last = kept
        leading = tuple(range(-len(kept), -1))
        tiles = fft.ifftn(spectra, axes=leading, overwrite_x=True) if outer else spectra
        rows: Any = (..., *outer, slice(None))
        tiles, side = tiles[rows], self._tile[-1]
        tiles = fft.ifft(tiles, side) if self._complex else fft.irfft(tiles, side)
        return np.asarray(tiles[..., last])


def _contract(kernel: NDArray[Any], spectra: NDArray[Any], axis: int) -> NDArray[Any]:
    """The product of two (G, C_out / G, channels, frequencies), summed over one axis. May overwrite the spectra."""
    if kernel.shape[axis] == 1:
        out = spectra if kernel.shape == spectra.shape else None
        return np.asarray(np.squeeze(np.multiply(kernel, spectra, out=out), axis))
    product: NDArray[Any] = np.einsum(
        "gocf,gcf->gof" if axis == 2 else "gocf,gof->gcf", kernel, spectra[:, 0] if axis == 2 else spectra[:, :, 0]
    )
    return product


def tile_sides(geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sides of a tile, and how many outputs per phase it gives along each axis."""
    kernels = geometry.out_channels * geometry.in_channels // geometry.groups * math.prod(geometry.stride)
    tile = tuple(
        _tile_side(max(axis.output, axis.sent[1] - axis.sent[0]), axis.memory, geometry.ndim, kernels)
        for axis in geometry.axes
    )
    return tile, tuple(side - axis.memory for side, axis in zip(tile, geometry.axes, strict=True))


def _tile_side(needed: int, reach: int, dims: int, kernels: int) -> int:
    """The side of a tile: of the fast lengths up to the longest, the one whose tiles have the fewest samples in all.

    Many pairs of channels have smaller tiles, so that their transformed kernels take a bounded amount of memory.
    """
    from scipy import fft

    samples = min(TILE_SIDE[dims] ** dims, KERNEL_SAMPLES / kernels)
    longest = max(round(samples ** (1 / dims)), 2 * reach + 8)
    fewest = -(-needed // max(1, longest - reach))
    most = min(needed, 2 * fewest + 1)
    shortest, enough = (int(fft.next_fast_len(-(-needed // pieces) + reach, real=True)) for pieces in (most, fewest))
    sides = [shortest]
    while sides[-1] < enough:
        sides.append(int(fft.next_fast_len(sides[-1] + 1, real=True)))
    # among equals the shortest: they are shared by threads
    return min(sides, key=lambda side: (-(-needed // (side - reach)) * side, side))
