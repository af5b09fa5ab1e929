r"""Bounds on the norm of a convolution of a large image by that of a smaller one: what is far apart does not meet.

*Theorem.* Let G = A^H A, and phi a window of w samples with sum phi^2 = 1. Put at every place t, the windows share the
image out: sum over t of phi(n - t) phi(m - t) = rho(n - m), the autocorrelation of phi, and rho(0) = 1. So

    ||A x||^2 = sum over t of ||A phi_t x||^2 + <x, (G o (1 - rho)) x>
             <= max over t of ||A P_t||^2 ||x||^2 + ||G o (1 - rho)|| ||x||^2,

o the product entry by entry, and P_t the samples of a window [R. S. Ismagilov 1961; J. D. Morgan, B. Simon 1980, of
Schroedinger operators]. A P_t is made of columns of A, as it is for a smaller image too: one that has the same borders,
and w samples more between them. The window of least error is a half wave of a sine, with 1 - rho(d) = (pi d / w)^2 / 2
for small d, so that the error falls with the square of w: it is as much as the largest sum of a row of G o (1 - rho),
blocks of channels by their norms, of an image that has one of each kind of row.

The same holds of A A^H, where a window is one of outputs. The side is that on which the matrix is smaller.

From below: an image that is 0 in a strip as wide as the kernel can be cut there, and moved apart by a multiple of the
stride. So ||A|| is at least the norm for the smaller image on such images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.symbol import periodic
from convmat.spectrum.grams import Pairs, blocks, smaller_side
from convmat.spectrum.torus import EPS
from convmat.taps import Axis

_RATIO = 1.3
"""Of a window to the next smaller one that is tried."""

_MOST = 2**24
"""Numbers of all blocks up to which they are compared."""

_SQUARINGS = 5
"""Of blocks, for bounds on their norms that are a few percent too large at most."""


def shortened(geometry: Geometry, samples: Sequence[int]) -> Geometry:
    """The same layer of a smaller image: so many samples between its borders, or a few more, if it had still more."""
    axes = [axis.shortened(axis.border + inner) for axis, inner in zip(geometry.axes, samples, strict=True)]
    return replace(
        geometry,
        input_size=tuple(axis.size for axis in axes),
        output_size=tuple(axis.output for axis in axes),
        sharing=tuple((axis.size, axis.size) for axis in axes),
        channels=True,
        flip=False,
        part=None,
    )


def cuts(short: Geometry, whole: Geometry) -> list[slice | None]:
    """Where each axis of a shortened image may be cut: a strip that no output reads across. None for a whole axis.

    With zeros beyond the border a short image is a part of a longer one as it is, and needs no cut.
    """
    return [
        None if axis.size == of.size or axis.mode == "zeros" else slice(end := 3 * axis.size // 4, end + axis.span)
        for axis, of in zip(short.axes, whole.axes, strict=True)
    ]


def inside(short: Geometry, whole: Geometry, outputs: bool) -> list[int | None]:
    """The size of the windows, per axis, all of which a short image shows. None for a whole axis."""
    return [
        None if axis.size == of.size else (axis.size - axis.border) // (axis.stride if outputs else 1)
        for axis, of in zip(short.axes, whole.axes, strict=True)
    ]


@dataclass(frozen=True)
class Coupling:
    """The blocks of G = A^H A or A A^H of a short image that has one of each kind of row: one channel of each group.

    A block couples two places; their distance is the largest integer where no window holds both.
    """

    outputs: bool  # whether places are outputs, G = A A^H
    rows: NDArray[np.intp]  # (blocks,)
    norms: NDArray[np.float64]  # (blocks,)
    distances: NDArray[np.int64]  # (blocks, D)

    @staticmethod
    def of(geometry: Geometry, kernel: NDArray[Any]) -> Coupling | None:
        """None where that image is too large: many channels, or a large kernel."""
        short = shortened(geometry, [2 * (axis.span - 1) + 1 for axis in geometry.axes])
        outputs = smaller_side(geometry)
        size, channels = (
            (short.output_size, short.out_channels) if outputs else (short.input_size, short.in_channels)
        )  # fmt: skip
        reach = math.prod(2 * axis.span - 1 for axis in geometry.axes)
        if math.prod(size) * reach * channels**2 > _MOST * short.groups:
            return None
        rows, cols, found = blocks(short, kernel, Pairs.of(short, outputs), outputs)
        ends = [np.unravel_index(line, size) for line in (rows, cols)]
        away = [
            _apart(np.abs(a.astype(np.int64) - b), axis, n, outputs)
            for a, b, axis, n in zip(*ends, short.axes, size, strict=True)
        ]
        return Coupling(outputs, rows, _norms(found), np.stack(away, axis=1))

    def beyond(self, windows: Sequence[int | None]) -> float:
        """A bound on ||G o (1 - rho)|| for windows of these sizes, one for each axis; None for a whole axis."""
        if any(width is not None and width < 1 for width in windows):
            return math.inf
        rho = np.ones(len(self.rows))
        for distances, width in zip(self.distances.T, windows, strict=True):
            if width is not None:
                rho *= _autocorrelation(width)[np.minimum(distances, width)]
        slack = EPS * (64 + sum(width or 0 for width in windows))
        return float(np.bincount(self.rows, self.norms * (1 - rho + slack), minlength=1).max()) * (1 + 1e-9)


def _norms(blocks: NDArray[Any]) -> NDArray[np.float64]:
    """Bounds on the norms of blocks, the largest of all groups, by Gram iteration. (n, G, c, c) -> (n,)"""
    power, log, root = blocks, np.zeros(blocks.shape[:2]), 1.0
    for _ in range(_SQUARINGS if blocks.shape[-1] > 1 else 0):
        size = np.linalg.norm(power, axis=(-2, -1)) + np.finfo(np.float64).tiny
        power = power / size[..., None, None]
        power, log, root = power @ power.conj().swapaxes(-1, -2), log + root * np.log(size), root / 2
    return np.asarray(np.exp(log + root * np.log(np.linalg.norm(power, axis=(-2, -1)) + 1e-300)).max(axis=1))


_NEVER = np.iinfo(np.int64).max


def _apart(distances: NDArray[np.int64], axis: Axis, size: int, outputs: bool) -> NDArray[np.int64]:
    """Distances on the circle where the axis is one; what is far apart on a line and meets is in no window."""
    around = size - distances
    meets = axis.mode == "circular" and (periodic(axis) or not outputs)
    return np.minimum(distances, around) if meets else np.where(around < distances, _NEVER, distances)


def _autocorrelation(width: int) -> NDArray[np.float64]:
    """rho(0), .., rho(width), of half a wave of a sine; the last is 0."""
    window = np.sin(np.pi * np.arange(1, width + 1) / (width + 1))
    padded = np.fft.rfft(window, 2 * width + 2)
    rho = np.fft.irfft(np.abs(padded) ** 2, 2 * width + 2)[: width + 1]
    rho[-1] = 0
    return np.asarray(np.minimum(rho / rho[0], 1))


def windows(geometry: Geometry, coupling: Coupling, allowed: float) -> Iterator[tuple[Geometry, float]]:
    """Shorter images and what is added to their squared norm: at most so much for the first one, then more and more."""
    width = 8
    while width < max(geometry.input_size) and coupling.beyond([width] * geometry.ndim) > allowed:
        width = math.ceil(width * _RATIO)
    while width >= 4:
        short = shortened(geometry, [width * (axis.stride if coupling.outputs else 1) for axis in geometry.axes])
        if short.input_size != geometry.input_size:
            yield short, coupling.beyond(inside(short, geometry, coupling.outputs))
        width = int(width / _RATIO)
