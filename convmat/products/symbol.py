"""The symbol of a convolution: on a torus, one small matrix per frequency.

Write the input in phases, x_r[j] = x[s j + r], and each tap's offset as d k - lo = s q + r with 0 <= r < s. Then

    y[m] = sum over k of W[k] x[s m + d k - lo] = sum over r, q of W[q, r] x_r[m + q],

a convolution of stride 1 on the coarse grid, with C_in s^D input channels. Where everything is periodic with period M
on that grid, x_r[j] = v_r e^(i theta j) gives y[m] = B(theta) v e^(i theta m): the matrix B(theta) = sum over q of
W[q] e^(i theta q), (C_out / G, C_in / G s^D) for each group, at the frequencies theta = 2 pi f / M.

On a grid that is coarser by another factor t, the output has phases too: y_p[m] = y[t m + p] reads x at
s (t m + p) + d k - lo, so that s becomes s t, and the tap of phase p is at s p + d k - lo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.matrix import check_bytes
from convmat.taps import Axis, Index

FEW = 32
"""Taps of an axis up to which a product with a matrix of waves is faster than an FFT."""

Sampler = Callable[[int, int], NDArray[Any]]
"""(start, stop) -> the blocks at the frequencies [start, stop) of the first axis. (F_1..F_D, G, rows, cols)"""


@dataclass(frozen=True)
class Angles:
    """The frequencies of one axis: theta = 2 pi (f + quarter / 4) / period, f from 0 to count - 1."""

    period: int
    quarter: int
    count: int

    def waves(self, shifts: Index) -> NDArray[np.complex128]:
        """e^(i theta q), (count, L). Angles are reduced as integers; quarter turns are exact: 1, i, -1, -i."""
        steps = 4 * np.arange(self.count, dtype=np.int64) + self.quarter
        turns, rest = np.divmod(np.multiply.outer(steps, shifts) % (4 * self.period), self.period)
        return np.asarray(np.array([1, 1j, -1, -1j])[turns] * np.exp((0.5j * np.pi / self.period) * rest))


@dataclass(frozen=True)
class Symbol:
    """The matrix-valued trigonometric polynomial B(theta) = sum over q of taps[q] e^(i theta q)."""

    taps: NDArray[Any]  # (L_1..L_D, G, rows, cols)
    shifts: tuple[Index, ...]  # per axis the distinct q of its taps, (L,)
    phases: tuple[Index, ...]  # per axis the phases r that a column can have; columns are (c, r_1..r_D)

    @property
    def ndim(self) -> int:
        """Number of spatial axes D."""
        return len(self.shifts)

    @property
    def block(self) -> tuple[int, int, int]:
        """(G, rows, cols) at one frequency."""
        groups, rows, cols = self.taps.shape[self.ndim :]
        return groups, rows, cols

    @property
    def spread(self) -> tuple[int, ...]:
        """Per axis the largest minus the smallest q: twice the degree, once the polynomial is centred."""
        return tuple(int(q.max() - q.min()) for q in self.shifts)

    def sampler(self, sizes: Sequence[int], quarters: Sequence[int], *, half: bool = False) -> Sampler:
        """The blocks at theta = 2 pi (f + quarter / 4) / M, f from 0 to M - 1, on each axis.

        Half stops at f = M // 2 on the last axis: all there is to know about real weights, if every quarter is 0 or 2.
        """
        counts = [stored(size, half and axis == self.ndim - 1) for axis, size in enumerate(sizes)]
        return self.at_angles([Angles(*line) for line in zip(sizes, quarters, counts, strict=True)])

    def at_angles(self, lines: Sequence[Angles]) -> Sampler:
        """The blocks at the angles of each axis."""
        check_bytes(
            f"the blocks of a convolution at {' x '.join(str(line.count) for line in lines)} frequencies",
            self._sampler_bytes(lines),
            "norm_bounds(A) with a larger rtol takes fewer; scipy's svds(A, k), and lsqr(A, y, damp=damp), take none",
        )
        inner = self.taps
        for axis in range(self.ndim - 1, 0, -1):
            inner = _along(inner, axis, self.shifts[axis], lines[axis])
        if self.shifts[0].size > FEW:
            whole = _along(inner, 0, self.shifts[0], lines[0])
            return lambda start, stop: whole[start:stop]
        rest = inner.shape[1:]
        flat = inner.reshape(len(inner), -1).astype(np.complex128, copy=False)
        first = lines[0].waves(self.shifts[0])
        return lambda start, stop: (first[start:stop] @ flat).reshape(stop - start, *rest)

    def _sampler_bytes(self, lines: Sequence[Angles]) -> int:
        """What is allocated at most at once: transforms of all axes but the first, or of all if that is long."""
        taps, block = [len(q) for q in self.shifts], math.prod(self.block)
        sizes = [line.period if n > FEW else line.count for n, line in zip(taps, lines, strict=True)]
        first = 0 if taps[0] > FEW else 1
        entries = [math.prod(taps[:axis]) * math.prod(sizes[axis:]) for axis in range(first, self.ndim)]
        return 3 * 16 * block * max(entries, default=taps[0])

    def at(self, angles: Sequence[float]) -> NDArray[Any]:
        """The blocks at one frequency. (G, rows, cols)"""
        block = self.taps
        for angle, q in zip(angles, self.shifts, strict=True):
            block = np.tensordot(np.exp(1j * angle * q), block, 1)
        return block

    def gram(self) -> Symbol:
        """The symbol of B B^H or conj(B^H B), the smaller: its norms are the squares."""
        groups, rows, cols = self.block
        taps = self.taps if rows <= cols else self.taps.swapaxes(-1, -2)
        order = min(rows, cols)
        distinct, lines = [], []
        for q in self.shifts:
            differences, line = np.unique(np.subtract.outer(q, q), return_inverse=True)
            distinct.append(differences)
            lines.append(line.reshape(q.size, q.size))
        total = np.zeros((*(d.size for d in distinct), groups, order, order), dtype=taps.dtype)
        product = np.empty(total.shape[self.ndim :], dtype=taps.dtype)
        for first in np.ndindex(taps.shape[: self.ndim]):
            for second in np.ndindex(taps.shape[: self.ndim]):
                np.matmul(taps[first], taps[second].conj().swapaxes(-1, -2), out=product)
                total[tuple(line[a, b] for line, a, b in zip(lines, first, second, strict=True))] += product
        return Symbol(total, tuple(distinct), ())

    def magnitude(self) -> float:
        """The Frobenius norm of the sum of the absolute taps, of the largest group: no B(theta) has a larger norm."""
        total = np.abs(self.taps).sum(axis=tuple(range(self.ndim)))
        return float(np.sqrt((total**2).sum(axis=(1, 2)).max()))


def symbol(
    geometry: Geometry, kernel: NDArray[Any], *, coarser: Sequence[int] | None = None, every_phase: bool = False
) -> Symbol:
    """The symbol of a convolution with the kernel (C_out, C_in / G, K_1..K_D), in double precision.

    `coarser` is t of each axis, 1 by default; rows are (o, p_1..p_D). Phases r that no tap reads are columns of zeros;
    they are left out unless `every_phase`.
    """
    dims, groups = geometry.ndim, geometry.groups
    outs, ins = kernel.shape[0] // groups, kernel.shape[1]
    factors = tuple(coarser or (1,) * dims)
    shifts, phases, lines, at = [], [], [], []
    for axis, t in zip(geometry.axes, factors, strict=True):
        q, r = tap_places(axis, t)
        distinct, line = np.unique(q, return_inverse=True)
        possible = np.arange(axis.stride * t, dtype=np.int64) if every_phase else np.unique(r)
        shifts.append(distinct)
        phases.append(possible)
        lines.append(line.reshape(q.shape))
        at.append(np.searchsorted(possible, r))
    wide = np.result_type(kernel, np.float64)
    taps = np.zeros((*map(len, shifts), groups, outs, *factors, ins, *map(len, phases)), dtype=wide)
    grouped = np.moveaxis(kernel.reshape(groups, outs, ins, *kernel.shape[2:]), range(3), range(-3, 0))
    # No two taps of an output share their (q, r): an assignment is enough.
    outputs = np.ix_(*map(range, factors))
    place: tuple[Any, ...] = (
        *_open(lines), slice(None), slice(None), *outputs, slice(None), *_open(at)
    )  # fmt: skip
    taps[place] = grouped.reshape(*kernel.shape[2:], *(1,) * dims, groups, outs, ins)
    rows, cols = outs * math.prod(factors), ins * math.prod(map(len, phases))
    return Symbol(taps.reshape(*taps.shape[:dims], groups, rows, cols), tuple(shifts), tuple(phases))


def periodic(axis: Axis) -> bool:
    """Whether the matrix of the axis is every s-th row of a circulant one: a block-diagonal matrix to the FFT."""
    return axis.output * axis.stride == axis.size and (axis.mode == "circular" or axis.reads_no_padding)


def tap_places(axis: Axis, t: int = 1) -> tuple[Index, Index]:
    """The q and r that each tap has for each phase of the output, on a grid coarser by t. (K, t)"""
    q, r = np.divmod(axis.reach(np.arange(t, dtype=np.int64)).T, axis.stride * t)
    return q, r


def _open(tables: Sequence[Index]) -> list[Index]:
    """Tables (K_a, t_a), one per axis, with axes that broadcast to (K_1..K_D, t_1..t_D)."""
    dims = len(tables)
    shapes = [[1] * (2 * dims) for _ in tables]
    for axis, table in enumerate(tables):
        shapes[axis][axis], shapes[axis][dims + axis] = table.shape
    return [table.reshape(shape) for table, shape in zip(tables, shapes, strict=True)]


def stored(size: int, half: bool) -> int:
    """How many frequencies of an axis are kept."""
    return size // 2 + 1 if half else size


def multiplicity(sizes: Sequence[int], *, half: bool) -> NDArray[np.int64]:
    """How often each frequency counts: with half, twice if its conjugate is not kept, 0 if that one stands for both."""
    counts = [stored(size, half and axis == len(sizes) - 1) for axis, size in enumerate(sizes)]
    if not half:
        return np.ones(counts, dtype=np.int64)
    grid = np.indices(counts)
    mirrored = [-f % size for f, size in zip(grid, sizes, strict=True)]
    own = np.ravel_multi_index(tuple(grid), tuple(sizes))
    other = np.ravel_multi_index(tuple(mirrored), tuple(sizes))
    both = mirrored[-1] < counts[-1]
    return np.where(own == other, 1, np.where(~both, 2, np.where(own < other, 2, 0)))


def pieces(count: int, entries: int, threads: int, least: int = 1) -> list[tuple[int, int]]:
    """Cut `count` frequencies, each with so many entries, into ranges: a few for each thread, none too large."""
    width = max(least, min(2**18 // max(1, entries), -(-count // (8 * threads))))
    return [(start, min(start + width, count)) for start in range(0, count, width)]


def _along(taps: NDArray[Any], axis: int, shifts: Index, line: Angles) -> NDArray[Any]:
    """The transform of one axis: (.., L, ..) -> (.., count, ..)."""
    lead, tail = taps.shape[:axis], taps.shape[axis + 1 :]
    flat = taps.reshape(math.prod(lead), len(shifts), -1)
    if shifts.size <= FEW:
        return np.asarray(line.waves(shifts) @ flat).reshape(*lead, line.count, *tail)
    padded = np.zeros((flat.shape[0], line.period, flat.shape[2]), dtype=np.complex128)
    twist = np.exp((0.5j * np.pi / line.period) * (line.quarter * shifts % (4 * line.period)))
    for tap, q in enumerate(shifts):  # a kernel wider than the torus wraps: its taps add up
        padded[:, -q % line.period] += flat[:, tap] * twist[tap]
    from scipy import fft  # only here: it takes a tenth of a second to import

    transformed = fft.fft(padded, axis=1, overwrite_x=True)[:, : line.count]
    return np.asarray(transformed).reshape(*lead, line.count, *tail)
