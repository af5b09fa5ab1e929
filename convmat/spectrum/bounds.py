"""Bounds on the spectral norm of one convolution that are proofs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat import matrix
from convmat.geometry import Geometry, as_weight
from convmat.matrix import axis_matrix, check_bytes
from convmat.operators import Chain, Convolution, ConvTranspose, Crop, ImageOperator, Separable, Upsample
from convmat.operators.factors import IndexMap
from convmat.products import Products
from convmat.products.symbol import periodic, symbol
from convmat.products.waves import Waves
from convmat.spectrum.completion import completed_bound
from convmat.spectrum.grams import banded
from convmat.spectrum.lanczos import BASIS, largest
from convmat.spectrum.proof import GAIN, STEPS, WORK, above, affordable, blocks_for, proven_above
from convmat.spectrum.scaling import near_one, times_power
from convmat.spectrum.torus import EPS, TorusBound, embed, rounding, torus_bound
from convmat.spectrum.values import (
    block_values,
    convolution,
    each_piece,
    finite_kernel,
    group_matrix,
    kronecker_factors,
    outer,
    rank_one_kernels,
)  # fmt: skip
from convmat.spectrum.windows import Coupling, cuts, inside, shortened, windows
from convmat.taps import Axis

SMALL = 2**16
"""Entries of the dense matrices of all groups up to which the norm is that of a dense SVD."""

FACTOR_LIMIT = 2**20
"""Entries of a Kronecker factor up to which it is decomposed."""

WAVES_LIMIT = 2**20
"""Entries of all blocks in waves up to which they are decomposed one by one."""

_SINGLE = float(np.finfo(np.float32).eps)

_FEW_BLOCKS = 12
"""Blocks of one channel each whose norms are taken one by one."""

_PLENTY, _SPANS = 200, 3.3
"""Samples of an axis, and spans of the kernel over sqrt(rtol), beyond which a larger image hardly has a larger norm."""

_COMPLETED = 4
"""About how many times less than the torus leaves is left once it is completed."""

_MANY_CHANNELS = 8
"""Channels of a group from which on A^H A is made of products of taps, and not from the matrix."""

_PAIRS = 2**20
"""Pairs of reads up to which products of taps are added one by one."""

_SWEEPS = 20
"""Steps of the power iteration with absolute weights."""

Product = Callable[[NDArray[Any]], NDArray[Any]]


def convolution_bounds(A: Convolution, rtol: float) -> tuple[float, float]:
    """Bounds on the norm, refined until upper <= (1 + rtol) lower, or until nothing more can be done.

    Raises
    ------
    ValueError
        If the weight is not finite.
    MemoryError
        If a dozen images of the size of the input do not fit.
    """
    conv = convolution(A)
    geometry, stored = conv.geometry, finite_kernel(conv)
    (kernel,), powers = near_one(stored.astype(np.result_type(stored, np.float64))[None])
    if not kernel.any():
        return 0.0, 0.0
    lower, upper = exact_bounds(geometry, kernel) or (0.0, math.inf)
    if upper > (1 + rtol) * lower:
        lower, upper = _refined(conv, kernel, rtol)
    return outwards(lower, upper, int(powers.item()))


def _refined(conv: Convolution, kernel: NDArray[Any], rtol: float) -> tuple[float, float]:
    """The cheap bounds first; products and matrices are those of a smaller image, where that says enough."""
    geometry = conv.geometry
    short = shortened(
        geometry, [max(_PLENTY, math.ceil(_SPANS * axis.span / math.sqrt(rtol))) for axis in geometry.axes]
    )
    check_images(short.shape, kernel.itemsize, 4 * 8 * max(axis.output * axis.taps for axis in short.axes))
    near = of_size(conv, short, kernel)
    whole = short.input_size == geometry.input_size
    early = torus_work(geometry) if whole and torus_gap(geometry) > _COMPLETED * rtol else 0.0
    if found := cholesky_bounds(near, kernel, rtol, early):
        return found
    torus = torus_bound(geometry, kernel, rtol)
    lower = lower_bound(near, kernel, torus, rtol, cuts(short, geometry))
    upper = torus.upper
    if upper > (1 + rtol) * lower:
        upper = min(upper, completed_bound(geometry, kernel, lower, rtol))
    if upper > (1 + rtol) * lower:
        upper = min(upper, channel_bound(geometry, kernel))
    if upper > (1 + rtol) * lower and whole:
        upper = min([upper, *schur_bounds(near, kernel, (1 + rtol) * lower)])
    if upper > (1 + rtol) * lower and whole and (found := cholesky_bounds(near, kernel, rtol, WORK)):
        lower, upper = max(lower, found[0]), min(upper, found[1])
    if upper > (1 + rtol) * lower:
        found = window_bounds(conv, near, kernel, lower, rtol)
        lower, upper = max(lower, found[0]), min(upper, found[1])
    return lower, upper


def check_images(shape: tuple[int, int], itemsize: int, more: int = 0) -> None:
    """Refuse images that do not fit: the Lanczos vectors, the data of some products, and what else they need."""
    rows, cols = shape
    check_bytes(
        f"norm_bounds of {rows} x {cols}, by some products A x,",
        itemsize * ((BASIS + 3) * cols + 3 * rows) + more,
        "take a smaller input; with zero padding, that norm is below the norm of A, and near it",
    )


def outwards(lower: float, upper: float, exponent: int) -> tuple[float, float]:
    """Both times 2^exponent, rounded away from each other where that is subnormal or beyond the largest double."""
    below, above = times_power(np.array([lower, upper]), exponent)
    back = times_power(np.array([below, above]), -exponent)
    below = np.nextafter(below, 0) if back[0] > lower else below
    above = np.nextafter(above, math.inf) if back[1] < upper else above
    return float(below), float(above)


def exact_bounds(geometry: Geometry, kernel: NDArray[Any]) -> tuple[float, float] | None:
    """The norm up to rounding: of small matrices, kernels of rank one (to single precision), blocks in waves."""
    rows, cols = geometry.shape
    if rows * cols <= SMALL * geometry.groups:
        return dense_bounds(geometry, kernel)
    return kronecker_bounds(geometry, kernel, _SINGLE) or wave_bounds(geometry, kernel)


def dense_bounds(geometry: Geometry, kernel: NDArray[Any]) -> tuple[float, float]:
    """By the SVD of each group."""
    matrices = [group_matrix(geometry, kernel, group).toarray() for group in range(geometry.groups)]
    norm = max(float(np.linalg.norm(dense, 2)) for dense in matrices)
    slack, away = 8 * sum(matrices[0].shape) * EPS, folded(geometry) * EPS * magnitude(geometry, kernel)
    return max(0.0, norm * (1 - slack) - away), norm * (1 + slack) + away


def folded(geometry: Geometry) -> int:
    """How many weights an entry of the matrix may be the sum of, which may cancel; 0 where it is one."""
    folds = any(axis.mode != "zeros" and not axis.reads_no_padding for axis in geometry.axes)
    return math.prod(geometry.kernel_size) + bent(geometry) if folds else 0


def kronecker_bounds(geometry: Geometry, kernel: NDArray[Any], tolerance: float = EPS) -> tuple[float, float] | None:
    """By the SVDs of the Kronecker factors, and by what the kernel differs from their product."""
    vectors = rank_one_kernels(geometry, kernel, tolerance)
    terms = vectors and kronecker_factors(geometry, vectors, FACTOR_LIMIT)
    if not vectors or not terms:
        return None
    norms = [math.prod([float(np.linalg.norm(factor, 2)) for factor in factors]) for factors in terms]
    slack = sum(8 * sum(factor.shape) * EPS for factor in terms[0])
    product = np.stack([outer(parts) for parts in vectors]).reshape(kernel.shape)
    terms_away = 4 + geometry.ndim + folded(geometry)
    away = magnitude(geometry, kernel - product) + terms_away * EPS * magnitude(geometry, product)
    return max(0.0, max(norms) * (1 - slack) - away), max(norms) * (1 + slack) + away


def wave_bounds(geometry: Geometry, kernel: NDArray[Any]) -> tuple[float, float] | None:
    """By the SVDs of the blocks in waves, where these are not many: those of a torus are left to its own bound."""
    waves = Waves.of(geometry, kernel)
    if waves is None:
        return None
    polynomial = symbol(geometry, kernel)
    if math.prod(line.count for line in waves.angles) * math.prod(polynomial.block) > WAVES_LIMIT:
        return None
    found: list[float] = []
    each_piece(waves, polynomial, kernel.dtype, lambda _start, _stop, blocks: found.append(block_values(blocks).max()))
    slack, away = 8 * sum(polynomial.block[1:]) * EPS, rounding(polynomial, [line.period for line in waves.angles])
    return max(0.0, max(found) * (1 - slack) - away), max(found) * (1 + slack) + away


def cholesky_bounds(conv: Convolution, kernel: NDArray[Any], rtol: float, work: float) -> tuple[float, float] | None:
    """Lanczos and one Cholesky decomposition of A^H A, if that takes no more than so much work."""
    geometry = conv.geometry
    if not affordable(geometry.shape, geometry.nnz, work) or band_work(geometry) > 2 * work:
        return None
    places = geometry.nnz // (kernel.shape[0] * kernel.shape[1])
    pairs = places * math.prod(geometry.kernel_size)
    if min(len(kernel) // geometry.groups, kernel.shape[1]) >= _MANY_CHANNELS and pairs <= _PAIRS:
        gram = banded(geometry, kernel, work)
        if gram is None:
            return None
        lower = closest(conv, kernel, [None] * geometry.ndim)
        return lower, above(gram, lower, rtol)
    blocks = blocks_for(matrix.sparse(replace(geometry, channels=True, flip=False), kernel), work)
    if blocks is None:
        return None
    lower = closest(conv, kernel, [None] * geometry.ndim)
    return lower, proven_above(blocks, lower, rounded(geometry, kernel), rtol)


def band_work(geometry: Geometry) -> float:
    """About how many multiplications a Cholesky decomposition takes, line by line of the image."""
    outputs = geometry.shape[0] < geometry.shape[1]
    size, channels = (
        (geometry.output_size, geometry.out_channels) if outputs else (geometry.input_size, geometry.in_channels)
    )  # fmt: skip
    unknowns, places = channels * math.prod(size), math.prod(size)
    reach = [(axis.span - 1) // (axis.stride if outputs else 1) for axis in geometry.axes]
    line = min((r + 1) * places // n for r, n in zip(reach, size, strict=True))
    band = channels // geometry.groups * min(places, line)
    return unknowns * band * min(band, channels // geometry.groups * places / 3) / 2


def window_bounds(
    conv: Convolution, near: Convolution, kernel: NDArray[Any], lower: float, rtol: float
) -> tuple[float, float]:
    """By smaller images, where what is far apart does not meet: `near`, or one with a Cholesky decomposition."""
    geometry, upper = conv.geometry, math.inf
    coupling = Coupling.of(geometry, kernel)
    if coupling is None:
        return lower, upper

    def joined(upper: float, beyond: float) -> float:
        squared = upper**2 + beyond + rounded(geometry, kernel) * magnitude(geometry, kernel)
        return math.sqrt(squared) * (1 + 4 * EPS)

    if near.geometry.input_size != geometry.input_size:
        beyond = coupling.beyond(inside(near.geometry, geometry, coupling.outputs))
        upper = joined(min(schur_bounds(near, kernel, (1 + rtol / 2) * lower)), beyond)
    for short, beyond in windows(geometry, coupling, rtol * lower**2):
        if upper <= (1 + rtol) * lower or math.sqrt(lower**2 + beyond) >= upper:
            break
        part = of_size(conv, short, kernel)
        if found := cholesky_bounds(part, kernel, rtol / 4, WORK / 2):
            lower = max(lower, closest(part, kernel, cuts(short, geometry)))
            upper = min(upper, joined(found[1], beyond))
            break
    return lower, upper


def of_size(conv: Convolution, geometry: Geometry, kernel: NDArray[Any]) -> Convolution:
    """The convolution with another geometry of the same kernel, in double precision."""
    return type(conv)._of(Products(geometry, as_weight(_as_weight_of(geometry, kernel)), conv._products.asked))


def torus_gap(geometry: Geometry) -> float:
    """About the share by which the bound of the torus exceeds the norm, for weights that prefer no frequency.

    The largest wave that an axis of M samples holds is pi / M away from one wave of a polynomial of that degree.
    """
    embeddings = [embed(axis) for axis in geometry.axes]
    if any(e.repeats > 1 for e in embeddings):
        return math.inf
    lines = zip(geometry.axes, embeddings, strict=True)
    return sum((math.pi * axis.memory / (2 * e.size)) ** 2 / 8 for axis, e in lines if e.free)


def torus_work(geometry: Geometry) -> float:
    """About how many multiplications `torus_bound` takes: some products of each block on the torus."""
    rows, cols = geometry.out_channels // geometry.groups, geometry.in_channels // geometry.groups
    cols *= math.prod(axis.stride for axis in geometry.axes)
    points = math.prod(embed(axis).size for axis in geometry.axes)
    return 50.0 * points * geometry.groups * rows * cols * min(rows, cols)


def channel_bound(geometry: Geometry, kernel: NDArray[Any]) -> float:
    """By the norms of blocks of one output channel, or of one input channel, if there are few, of rank one each.

    ||[A_1; A_2; ..]||^2 <= ||A_1||^2 + ||A_2||^2 + .., which is nearly the norm where all blocks are largest on one
    image: differences along several axes, on a checkerboard.
    """
    groups, outs, ins = geometry.groups, len(kernel) // geometry.groups, kernel.shape[1]
    grouped = kernel.reshape(groups, outs, *kernel.shape[1:])
    least = math.inf
    for axis, count in ((1, outs), (2, ins)):
        if not 1 < groups * count <= _FEW_BLOCKS:
            continue
        squares = np.zeros(groups)
        for group, channel in np.ndindex(groups, count):
            part = grouped[group].take([channel], axis=axis - 1)
            alone = replace(
                geometry, groups=1, in_channels=part.shape[1], out_channels=len(part), channels=True, flip=False
            )  # fmt: skip
            found = kronecker_bounds(alone, part, _SINGLE)
            squares[group] += math.inf if found is None else found[1] ** 2
        least = min(least, math.sqrt(float(squares.max())) * (1 + 8 * EPS))
    return least


def schur_bounds(conv: Convolution, kernel: NDArray[Any], target: float) -> Iterator[float]:
    """Upper bounds by the Schur test with the absolute kernel."""
    terms = kernel[0].size + kernel[:, 0].size + bent(conv.geometry)
    magnitudes = absolute(conv, np.abs(_as_weight_of(conv.geometry, kernel)))
    return schur_test(magnitudes._forward, magnitudes._backward, (1, *conv.input_shape), terms, target)


def absolute(A: Convolution, weight: NDArray[Any]) -> ImageOperator:
    """A with weights >= 0, where what extends the image has its absolute matrix: no entry is smaller than one of |A|.

    By the method that adds up products of numbers >= 0 as they are: relative errors stay small in every entry.
    """
    return after_extension(type(A)._of(Products(A.geometry.extended, as_weight(weight), "gemm")), A.geometry)


def after_extension(A: Convolution | IndexMap, geometry: Geometry) -> ImageOperator:
    """An operator of the extended image, or its transpose, times the absolute matrix of what extends the image.

    Of the padding modes that sum several samples, which `Geometry.extended` has no more.
    """
    if not geometry.combines:
        return A
    lines = [_extension(axis) if axis.combines else None for axis in geometry.axes]
    extension = Separable(geometry.input_shape, [*[None] * geometry.channels, *lines])
    return Chain(extension.T, A) if isinstance(A, ConvTranspose | Crop | Upsample) else Chain(A, extension)


def _extension(axis: Axis) -> Any:
    return abs(axis_matrix(Axis(axis.size, 1, lo=axis.lo, hi=axis.hi, mode=axis.mode), np.ones(1)))


def bent(geometry: Geometry) -> int:
    """How many more terms an entry of a product sums where the border of the extended image sums several samples."""
    return sum(3 + max(0, axis.lo) + max(0, axis.hi) for axis in geometry.axes if axis.combines)


def schur_test(
    forward: Product, transpose: Product, shape: tuple[int, ...], terms: float, target: float
) -> Iterator[float]:
    """Upper bounds for matrices of entries >= 0, until one reaches the target or they stop to gain.

    Each entry of A x and of A^T y is right up to a share of terms ulps, of both together.
    """
    q = np.ones(shape)
    best = math.inf
    for _ in range(_SWEEPS):
        image = transpose(forward(q))
        bound = math.sqrt(float(np.max(image / q)) * (1 + 4 * (terms + 8) * EPS))
        yield bound
        if bound <= target or bound > best * (1 - 1e-3) or not image.any():
            return
        best = bound
        q = np.maximum(image / image.max(), 1e-4)


Strips = Sequence[slice | None]
"""For each axis the samples in which images are to be 0."""


def lower_bound(conv: Convolution, kernel: NDArray[Any], torus: TorusBound, rtol: float, strips: Strips) -> float:
    """||A x|| / ||x||, x by Lanczos with restarts from the wave of the largest block."""
    start = _wave(conv.geometry, torus, kernel.dtype, strips)
    return _measured(conv, kernel, strips, start, torus.upper / (1 + rtol / 2), rtol / 50)


def closest(conv: Convolution, kernel: NDArray[Any], strips: Strips) -> float:
    """||A x|| / ||x||, x by Lanczos from white noise until it gains nothing."""
    shape = (1, conv.geometry.in_channels, *conv.geometry.input_size)
    start = np.random.default_rng(0).standard_normal(shape).astype(kernel.dtype)
    return _measured(conv, kernel, strips, start, math.inf, GAIN, STEPS)


def _measured(
    conv: Convolution, kernel: NDArray[Any], strips: Strips, start: NDArray[Any], target: float, *options: Any
) -> float:
    kept = functools.reduce(np.multiply.outer, map(_outside, conv.geometry.input_size, strips))
    products = conv._products

    def adjoint(y: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(products.transpose(y.conj()).conj() * kept)

    found = largest(lambda x: products.forward(x * kept), adjoint, start, target, *options)
    return max(0.0, found - rounded(conv.geometry, kernel))


def rounded(geometry: Geometry, kernel: NDArray[Any]) -> float:
    """How far a product A x may be away from the exact one, for |x| = 1, whatever the method."""
    return ulps(geometry, kernel) * EPS * magnitude(geometry, kernel)


def ulps(geometry: Geometry, kernel: NDArray[Any]) -> float:
    """How many times EPS magnitude |x| a product A x may be away from the exact one, whatever the method."""
    terms = kernel[0].size + bent(geometry)
    count: float = 64 + 8 * terms + 64 * sum(math.log2(1 + axis.padded) for axis in geometry.axes)
    return count


def magnitude(geometry: Geometry, kernel: NDArray[Any]) -> float:
    """A cheap bound on the norm of the absolute matrix: || sum_k |W[k]| ||_F ||Pad||, of the largest group."""
    total = np.abs(kernel).sum(axis=tuple(range(2, kernel.ndim))).reshape(geometry.groups, -1)
    copies = math.prod(embed(axis).repeats for axis in geometry.axes)
    return math.sqrt(float((total**2).sum(axis=1).max()) * copies) * (1 + 1e-9)


def _as_weight_of(geometry: Geometry, kernel: NDArray[Any]) -> NDArray[Any]:
    """A kernel as the weight that the geometry reads it from."""
    weight: NDArray[Any] = geometry.kernel(kernel).reshape(geometry.weight_shape)  # to flip twice is to do nothing
    return weight


def _outside(size: int, strip: slice | None) -> NDArray[np.float64]:
    """0 in the strip, 1 elsewhere."""
    kept = np.ones(size)
    if strip is not None:
        kept[strip] = 0
    return kept


def _wave(geometry: Geometry, torus: TorusBound, dtype: np.dtype[Any], strips: Sequence[slice | None]) -> NDArray[Any]:
    """The wave on which the symbol is largest, before the strips, fading out at the borders. (1, C_in, N_1..N_D)"""
    polynomial, groups = torus.polynomial, geometry.groups
    wave = np.zeros((groups, geometry.in_channels // groups, *geometry.input_size), dtype=np.complex128)
    amplitudes = torus.vector.reshape(-1, *(len(r) for r in polynomial.phases))
    for at in np.ndindex(*amplitudes.shape[1:]):
        part = amplitudes[(slice(None), *at)]
        places: list[Any] = [torus.group, slice(None)]
        for axis, theta, i, phases, strip in zip(
            geometry.axes, torus.angles, at, polynomial.phases, strips, strict=True
        ):
            n, end = np.arange(phases[i], axis.size, axis.stride), axis.size if strip is None else strip.start
            window = 1.0 if periodic(axis) and strip is None else np.sin(np.pi * np.minimum(n + 1, end + 1) / (end + 1))
            part = np.multiply.outer(part, window * np.exp(1j * theta * np.arange(n.size)))
            places.append(slice(int(phases[i]), None, axis.stride))
        wave[tuple(places)] = part
    flat = wave.reshape(1, geometry.in_channels, *geometry.input_size)
    if dtype.kind == "c":
        return flat
    turned = flat * np.exp(-0.5j * np.angle(np.sum(flat**2)))  # the phase with the largest real part
    return np.ascontiguousarray(turned.real)
