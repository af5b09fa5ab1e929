"""Upper bounds on the norm of a convolution by that of a periodic one, which is the largest over its frequencies.

Axis by axis, a matrix with zero padding is a submatrix of a periodic one, as soon as the torus is so large that nothing
wraps; one with another padding mode is such a matrix times Pad, whose norm is known: see `copies`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.symbol import FEW, Symbol, periodic, pieces, stored, symbol
from convmat.products.threads import Pool, workers
from convmat.taps import ZERO, Axis

EPS = float(np.finfo(np.float64).eps)

_TINY = 1e-280

_PEAKS = 6
"""Highest frequencies of a coarse grid that are looked at closely."""

_MODEL = 8
"""Singular vectors that stand for a block near a peak."""

_SPREAD_LIMIT = 64
"""Spread of the taps beyond which the choice of the grid is not worth its time."""


@dataclass(frozen=True)
class Embedding:
    """One axis on a torus of M' samples of the coarse grid: its matrix is sqrt(repeats) times a submatrix, at most.

    If free, every larger M' will do, and so will waves that are periodic up to a phase.
    """

    size: int
    free: bool
    repeats: float


@dataclass(frozen=True)
class TorusBound:
    """A proven upper bound, and the group, theta and right singular vector with which the symbol is largest."""

    upper: float
    group: int
    angles: tuple[float, ...]
    vector: NDArray[np.complex128]
    polynomial: Symbol


def embed(axis: Axis) -> Embedding:
    """The tightest torus for one axis.

    *Zeros.* Output m reads the samples n + lo = s m + d k. On a torus of s M' samples it would also read those with
    n + lo = s m + d k +- s M'. There are none once s M' is at least max(min(N + lo, P), P - max(lo, 0)), where P is the
    number of positions up to the last that is read. With M' >= M too, rows and columns are distinct ones of the
    circulant matrix.

    *Other modes.* The rows read positions of the extended input as a convolution without padding does, P of them, and
    the squared norm of Pad, of these rows, is at most `copies`.

    *Circular.* If s divides N, row m is row m mod (N / s) of the torus itself, repeated ceil(M s / N) times at most.
    """
    if periodic(axis):
        return Embedding(axis.output, False, 1)
    read = axis.window(axis.output)
    if axis.mode == "zeros":
        first, last = max(0, axis.lo), min(axis.size + axis.lo, read)
        samples = max(last, read - first, axis.stride * axis.output)
        return Embedding(-(-samples // axis.stride), True, 1)
    found = [Embedding(-(-read // axis.stride), True, copies(axis))]
    if axis.mode == "circular" and axis.size % axis.stride == 0:
        period = axis.size // axis.stride
        found.append(Embedding(period, False, -(-axis.output // period)))
    return min(found, key=lambda e: (e.repeats, e.size))


def copies(axis: Axis) -> float:
    """A bound on the squared norm of the absolute matrix P of `Pad`, of the positions that the axis reads.

    ||P||^2 <= max (P P^T q) / q for every q > 0 (Collatz and Wielandt). Where each position copies one sample, any step
    of the power iteration gives the largest number of copies of a sample, which is exact; two are close elsewhere.
    Between its borders, a longer axis has nothing else.
    """
    axis = axis.shortened(4 * (abs(axis.lo) + abs(axis.hi) + axis.span + axis.stride))
    samples, weights = axis.sources(np.unique(axis.reach(np.arange(axis.output, dtype=np.int64))))
    position, term = np.nonzero(samples != ZERO)
    read, times = samples[position, term], np.abs(weights[position, term])
    q = np.ones(len(samples))
    for _ in range(2):
        sums = np.bincount(read, times * q[position], minlength=1)
        image = np.bincount(position, times * sums[read], minlength=len(samples))
        bound = float((image / q).max())
        q = np.maximum(image, 1)
    return bound


def torus_bound(geometry: Geometry, kernel: NDArray[Any], rtol: float) -> TorusBound:
    """||A|| <= the bound, for a kernel (C_out, C_in / G, K_1..K_D) in double precision.

    The grid that is swept is at most a quarter of rtol worse than the torus.
    """
    polynomial, real = symbol(geometry, kernel), kernel.dtype.kind != "c"
    embeddings = [embed(axis) for axis in geometry.axes]
    allowance = rtol / (4 * geometry.ndim)
    enough = [_enough(spread, allowance) for spread in polynomial.spread]
    coarse = [n < e.size for n, e in zip(enough, embeddings, strict=True)]
    free = [e.free and not c for e, c in zip(embeddings, coarse, strict=True)]
    sizes = [n if c else e.size for n, c, e in zip(enough, coarse, embeddings, strict=True)]
    quarters, floor = [0] * geometry.ndim, 0.0
    if any(free) and max(polynomial.spread) <= _SPREAD_LIMIT:
        sizes, quarters, floor = _tightest(polynomial, sizes, free, real)
    elif max(q.size for q in polynomial.shifts) > FEW:
        sizes = [scipy.fft.next_fast_len(n) if f else n for n, f in zip(sizes, free, strict=True)]

    upper, lower = _sweep(polynomial, sizes, quarters, real, rtol / 16, floor)
    *at, group = (int(i) for i in np.unravel_index(int(np.argmax(lower)), lower.shape))
    angles = tuple(2 * math.pi * (f + t / 4) / n for f, t, n in zip(at, quarters, sizes, strict=True))
    between = math.prod(
        math.cos(math.pi * spread / (2 * n)) if c else 1.0
        for spread, n, c in zip(polynomial.spread, sizes, coarse, strict=True)
    )
    proven = float(upper.max()) + rounding(polynomial, sizes)
    repeats = math.prod(e.repeats for e in embeddings)
    _, right = _leading(polynomial.at(angles)[group], 1)
    return TorusBound(proven / between * math.sqrt(repeats) * (1 + 16 * EPS), group, angles, right[:, 0], polynomial)


def gram_bounds(blocks: NDArray[Any], floor: float, tolerance: float) -> tuple[NDArray[Any], NDArray[Any]]:
    r"""Bounds on the norms of a stack of matrices (n, rows, cols), by Gram iteration; (n,) upper, (n,) lower.

    With G_0 = B B^H (or B^H B, the smaller) and G_(j+1) = G_j^2, the norm of B is that of G_j to the power 2^-(j+1).
    For a positive semidefinite G of order p, with t = tr G / p and v = ||G||_F^2 / p - t^2, the largest eigenvalue is
    between t + sqrt(v / (p - 1)) and t + sqrt(v (p - 1)); the roots close the gap quadratically. A matrix is done with
    once its upper bound is not above (1 + tolerance) times the largest lower bound of all, or `floor`. The upper bounds
    allow for the rounding of the products: n gamma_n for each, relative to ||G||, and halved by each root.
    """
    count, rows, cols = blocks.shape
    scale = np.linalg.norm(blocks, axis=(1, 2))
    upper, lower = np.zeros(count), np.zeros(count)
    left = np.flatnonzero(scale > 0)
    upper[left], lower[left] = _iterate(_gram(blocks[left] / scale[left, None, None]), scale[left], floor, tolerance)
    return upper * (1 + 8 * min(rows, cols) * (rows + cols + 8) * EPS), lower


def _iterate(
    gram: _Hermitian, scale: NDArray[np.float64], floor: float, tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`gram_bounds` from the Gram matrices on, each of which belongs to B / scale. Rounding is left to the caller."""
    count, p = gram[0].shape[:2]
    upper, lower = np.zeros(count), np.zeros(count)
    left, log, root = np.arange(count), np.log(scale), 0.5
    while left.size:
        real, imaginary = gram
        trace = np.maximum(np.trace(real, axis1=1, axis2=2), _TINY)  # rounding may leave a zero block below zero
        frobenius = np.sqrt(np.sum(real * real, axis=(1, 2)) + np.sum(imaginary * imaginary, axis=(1, 2))) + _TINY
        mean = trace / p
        variance = np.maximum(frobenius**2 / p - mean**2, 0)
        most = mean + np.sqrt((variance + 4 * p * EPS * frobenius**2) * (p - 1))
        least = np.maximum(frobenius**2 / trace, mean + np.sqrt(variance / max(1, p - 1)))
        upper[left] = np.exp(log + root * np.log(np.minimum(most, frobenius)))
        lower[left] = np.exp(log + root * np.log(np.minimum(least, frobenius)))
        floor = max(floor, float(lower.max()))
        keep = upper[left] > floor * (1 + tolerance)
        if root < 2.0**-40 or not keep.any():
            break
        left, frobenius = left[keep], frobenius[keep]
        log = log[keep] + root * np.log(frobenius)
        size = frobenius[:, None, None]
        gram, root = _square(real[keep] / size, imaginary[keep] / size), root / 2
    return upper, lower


_Hermitian = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Real (symmetric) and imaginary (antisymmetric) parts of a stack of Hermitian matrices, (n, p, p) each."""


def _gram(blocks: NDArray[Any]) -> _Hermitian:
    """B B^H or B^H B, the smaller one (or its conjugate)."""
    wide = blocks if blocks.shape[1] <= blocks.shape[2] else blocks.swapaxes(1, 2)
    a, b = np.ascontiguousarray(wide.real), np.ascontiguousarray(wide.imag)
    real, cross = a @ a.swapaxes(1, 2), b @ a.swapaxes(1, 2)
    real += b @ b.swapaxes(1, 2)
    return real, cross - cross.swapaxes(1, 2)


def _square(a: NDArray[np.float64], b: NDArray[np.float64]) -> _Hermitian:
    """(a + i b)^2 of Hermitian matrices, by two real products in place of four: b a = -(a b)^T."""
    cross = a @ b
    turned = cross.swapaxes(1, 2)
    real = (a + b) @ (a - b)
    real += cross
    real += turned
    return real, cross - turned


def _enough(spread: int, allowance: float) -> int:
    """Frequencies of an axis that show the maximum over all theta up to a factor 1 + allowance.

    A real trigonometric polynomial of degree n (half integers too) that has its largest absolute value at theta_0 is
    there at least that of cos(n (theta - theta_0)), up to the first zero: M. Riesz. For the singular vectors u, v of
    the maximum, Re u^H B(theta) v, centred, is such a polynomial of degree spread / 2, and no frequency is further from
    a grid of n points than pi / n.
    """
    return max(1, math.ceil(math.pi * spread / (2 * math.acos(1 / (1 + allowance)))))


def rounding(polynomial: Symbol, sizes: Sequence[int]) -> float:
    """How far a computed block may be from the exact one, in the Frobenius norm.

    Each entry is a sum of waves times taps, in whatever order: at most (terms + 8 for each wave) ulps of the sum of
    absolute values; an FFT of n samples adds some log n, and its errors may gather from all n (Bluestein).
    """
    ulps = 16.0 + math.prod(q.size if q.size <= FEW else 1 for q in polynomial.shifts) + 8 * polynomial.ndim
    spill = 1.0
    for q, n in zip(polynomial.shifts, sizes, strict=True):
        if q.size > FEW:
            ulps += 16 * math.log2(n + 1)
            spill *= math.sqrt(n)
    return ulps * spill * EPS * polynomial.magnitude()


def _sweep(
    polynomial: Symbol,
    sizes: Sequence[int],
    quarters: Sequence[int],
    real: bool,
    tolerance: float,
    floor: float = 0.0,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Upper and lower bounds on the norms of all blocks of a grid, (F_1..F_D, G); low ones are not bounded tightly.

    The floor should be just below the largest norm: a higher one would loosen the bounds, but never break them.
    """
    half = real and all(quarter in (0, 2) for quarter in quarters)
    groups, rows, cols = polynomial.block
    short = _squares_first(polynomial, math.prod(sizes))
    sampled = polynomial.gram() if short else polynomial
    sample = sampled.sampler(sizes, quarters, half=half)
    counts = [stored(size, half and axis == len(sizes) - 1) for axis, size in enumerate(sizes)]
    upper, lower = np.empty((*counts, groups)), np.empty((*counts, groups))
    # of the sampled Gram matrices: of their waves, and of the products of taps before
    terms = max(rows, cols) + math.prod(polynomial.taps.shape[: polynomial.ndim])
    slack = rounding(sampled, sizes) + 2 * terms * EPS * polynomial.magnitude() ** 2

    def piece(_: object, start: int, stop: int) -> None:
        blocks = sample(start, stop).reshape(-1, *sampled.block[1:])
        if short:
            real, imaginary = blocks.real, blocks.imag
            hermitian = (real + real.swapaxes(1, 2)) / 2, (imaginary - imaginary.swapaxes(1, 2)) / 2
            high, low = _iterate(hermitian, np.ones(len(blocks)), floor, tolerance)
            high = np.sqrt(high**2 + slack) * (1 + 16 * len(blocks[0]) * (len(blocks[0]) + 8) * EPS)
        else:
            high, low = gram_bounds(blocks, floor, tolerance)
        upper[start:stop], lower[start:stop] = high.reshape(-1, *upper.shape[1:]), low.reshape(-1, *lower.shape[1:])

    ranges = pieces(counts[0], math.prod(counts[1:]) * math.prod(sampled.block), workers())
    Pool().run(piece, ranges, min(workers(), len(ranges)))
    return upper, lower


def _squares_first(polynomial: Symbol, frequencies: int) -> bool:
    """Whether it is cheaper to multiply the taps with each other once than the blocks at every frequency."""
    _, rows, cols = polynomial.block
    p, q = min(rows, cols), max(rows, cols)
    lines = [len(shifts) for shifts in polynomial.shifts]
    taps, products = math.prod(lines), math.prod(2 * line - 1 for line in lines)
    if p < 4 or taps > 32:
        return False
    return taps**2 * p * p * q + frequencies * products * p * p < frequencies * (taps * p * q + 2 * p * p * q)


def _tightest(polynomial: Symbol, sizes: list[int], free: list[bool], real: bool) -> tuple[list[int], list[int], float]:
    """The sizes and twists of the free axes whose grid keeps away from the peaks of the symbol: a search, no proof.

    The last result is a norm that some block of that grid nearly has, or exceeds.

    Every grid of a free axis gives a bound, so the one that misses the peaks by most is the tightest.
    """
    coarse = [min(n, 5 * spread + 2) for n, spread in zip(sizes, polynomial.spread, strict=True)]
    none = [0] * len(sizes)
    upper, _ = _sweep(polynomial, coarse, none, real, 0.05)
    order = np.argsort(upper, axis=None)[::-1][:_PEAKS]
    highest = [index for index in order if upper.flat[index] >= 0.9 * upper.max()]
    peaks = []
    for index in highest:
        *at, group = (int(i) for i in np.unravel_index(index, upper.shape))
        peaks.append(_peak(polynomial, group, [2 * math.pi * f / n for f, n in zip(at, coarse, strict=True)]))

    def height(grid: list[tuple[int, int]]) -> float:
        """The largest norm at the grid points around each peak, by the model of the peak."""
        found = 0.0
        for angles, model in peaks:
            around = []
            for theta, (n, quarter) in zip(angles, grid, strict=True):
                below = math.floor(theta * n / (2 * math.pi) - quarter / 4)
                around.append([2 * math.pi * (below + i + quarter / 4) / n for i in (0, 1)])
            points = np.array(list(itertools.product(*around)))  # (2^D, D)
            blocks = _model_at(model, polynomial, points)
            found = max(found, float(np.linalg.norm(blocks, 2, axis=(1, 2)).max()))
        return found

    twists = (0, 2) if real else (0, 1, 2, 3)
    grid = list(zip(sizes, none, strict=True))
    for _ in range(2):
        for axis in (a for a, f in enumerate(free) if f):
            choices = [(sizes[axis] + more, twist) for more in range(3) for twist in twists]
            grids = [[*grid[:axis], choice, *grid[axis + 1 :]] for choice in choices]
            grid = min(grids, key=height)
    return [n for n, _ in grid], [quarter for _, quarter in grid], height(grid)


_Peak = tuple[list[float], NDArray[np.complex128]]
"""theta on each axis, and the taps of a small symbol that has nearly the same norm nearby: (L_1..L_D, k, k)."""


def _peak(polynomial: Symbol, group: int, angles: list[float]) -> _Peak:
    """Climb from a frequency to the maximum nearby."""
    taps: NDArray[Any] = polynomial.taps.take(group, axis=polynomial.ndim)
    steps = [math.pi / (4 * max(1, spread)) for spread in polynomial.spread]
    model = taps
    for shrink in (1.0, 0.25):
        left, right = _leading(polynomial.at(angles)[group], _MODEL)
        model = left.conj().T @ taps @ right
        around = [theta + shrink * step * np.linspace(-1, 1, 9) for theta, step in zip(angles, steps, strict=True)]
        points = np.stack(np.meshgrid(*around, indexing="ij"), axis=-1).reshape(-1, polynomial.ndim)
        values = np.abs(_model_at(model[..., :1, :1], polynomial, points)[:, 0, 0])
        angles = [float(theta) for theta in points[int(np.argmax(values))]]
    return angles, model


def _leading(block: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first left and right singular vectors of a block, as columns; nearly, by its Gram matrix.

    The decomposition of a wide block itself would take several times as long.
    """
    wide = block if len(block) <= block.shape[1] else block.conj().T
    real, imaginary = _gram(wide[None])
    _, vectors = np.linalg.eigh((real + 1j * imaginary)[0])
    near = vectors[:, ::-1][:, :count]
    far = wide.conj().T @ near
    far = far / np.maximum(np.linalg.norm(far, axis=0), np.finfo(np.float64).tiny)
    return (near, far) if wide is block else (far, near)


def _model_at(model: NDArray[Any], polynomial: Symbol, points: NDArray[np.float64]) -> NDArray[np.complex128]:
    """A small symbol at the frequencies (n, D). (n, k, k)"""
    waves = np.ones((len(points), 1), dtype=np.complex128)
    for axis, q in enumerate(polynomial.shifts):
        wave = np.exp(1j * np.multiply.outer(points[:, axis], q))
        waves = (waves[:, :, None] * wave[:, None, :]).reshape(len(points), -1)
    return np.asarray(np.tensordot(waves, model.reshape(waves.shape[1], *model.shape[-2:]), 1))
