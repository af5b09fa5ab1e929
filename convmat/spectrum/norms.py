"""Bounds on the spectral norm of a convolution that are proofs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry, as_weight
from convmat.matrix import check_bytes
from convmat.operators import Convolution
from convmat.products import Products
from convmat.products.threads import blas_on_one_thread
from convmat.spectrum.scaling import near_one, times_power
from convmat.spectrum.symbol import periodic
from convmat.spectrum.torus import EPS, TorusBound, embed, torus_bound
from convmat.spectrum.values import convolution, finite_kernel, group_matrix, kronecker_factors, outer, rank_one_kernels

SMALL = 2**16
"""Entries of the dense matrices of all groups up to which the norm is that of a dense SVD."""

FACTOR_LIMIT = 2**20
"""Entries of a Kronecker factor up to which it is decomposed."""

_SWEEPS = 20
"""Steps of the power iteration with absolute weights."""

_BASIS = 10
"""Lanczos vectors before a restart."""

_RESTARTS = 8


@blas_on_one_thread()
def norm_bounds(A: Convolution, *, rtol: float = 1e-2) -> tuple[float, float]:
    r"""Proven bounds on the spectral norm: lower <= ||A||_2 <= upper.

    Parameters
    ----------
    A : Conv1d, Conv2d, Conv3d or their transposes
        Of any padding mode, stride, dilation, groups and size.
    rtol : float
        The bounds are refined until upper <= (1 + rtol) lower, or until nothing more can be done: see Notes.

    Returns
    -------
    lower, upper : float
        Bounds on the norm of the matrix with exactly the stored weights, also where these are single precision, or so
        small or large that doubles are too coarse or too few: then the bounds are the nearest doubles outside.

    Raises
    ------
    TypeError
        If A is not one of these operators.
    ValueError
        If rtol is not positive, or the weight is not finite.
    MemoryError
        If a dozen images of the size of the input do not fit: the lower bound is measured by products A x.

    See Also
    --------
    singular_values : all of them, exactly, where the operator has the structure.

    Notes
    -----
    The upper bound is the least of those that apply.

    *Torus.* Let A have zero padding. On a torus of at least N + lo and N + hi samples per axis (a multiple of s), no
    tap wraps around, so A is a submatrix of the periodic convolution C there, and ||A|| <= ||C|| = max over theta of
    ||B(theta)||, B the symbol of `singular_values`. The same holds for waves that are periodic up to a phase (multiply
    inputs and outputs by e^(i phi n): unitary), hence *for every phi and every large enough M'*

    .. math:: ||A|| \le \max_{f} ||B(2 \pi (f + \phi) / M')||,

    and the tightest is the grid that misses the maxima of B by most. (For one axis, one channel and the kernel
    [1, 0, 1] it is the exact norm, 2 cos(pi / (N + 1)).) The largest block norm is enclosed by Gram iteration [2]_
    [3]_: ||B|| is the 2^-(j+1)-th power of the largest eigenvalue of (B B^H)^(2^j), which its trace and Frobenius norm
    enclose, and blocks that cannot be the largest drop out early. Large grids are replaced by coarse ones, with a
    factor 1 / cos(pi n / F) per axis for degree n and F points [4]_.

    *Other padding modes.* A is a convolution without padding times Pad. Each row of Pad reads one sample, so
    ||Pad||^2 is the largest number of times that a sample is copied, and ||A|| <= ||Pad|| max ||B||. With "circular"
    padding and a stride that divides N the rows of A are those of a periodic convolution, each at most ceil(M s / N)
    times. This bound may exceed the norm by as much as ||Pad||: if border samples are copied once, by 2^(D/2).

    *Schur test.* For any positive q, ||A||^2 <= || |A| ||^2 <= max_n (|A|^T |A| q)_n / q_n (Collatz and Wielandt),
    which power iteration makes tight for weights of one sign, under every padding mode. Its first step, q = 1, is at
    most ||A||_1 ||A||_inf.

    *Exact.* Kernels of rank one (Kronecker products; the distance from rank one is added) and small matrices: by SVD.

    The lower bound is ||A x|| / ||x|| for the best x of a few Lanczos steps on A^H A that start from the wave of the
    largest block; the norms of this one product are taken anew.

    Rounding: with S = || sum_k |W[k]| ||_F ||Pad||, and u = 2^-52, the blocks are allowed (16 + 8 D + taps) u S (and
    more for an FFT; where Gram matrices are sampled, as much of S^2, before the root), the Gram iteration a factor
    1 + 16 p (rows + cols + 8) u for p = min(rows, cols), a dense SVD of m x n a factor 1 + 8 (m + n) u, the product A x
    (64 + 8 taps C_in / G + 64 log2 of the size) u S.

    For a rtol much below the gap of these bounds, `scipy.sparse.linalg.svds` estimates the norm more closely.

    References
    ----------
    .. [1] H. Sedghi, V. Gupta, P. M. Long, "The singular values of convolutional layers", ICLR 2019.
    .. [2] B. Delattre, Q. Barthelemy, A. Araujo, A. Allauzen, "Efficient bound of Lipschitz constant for convolutional
       layers by Gram iteration", ICML 2023.
    .. [3] B. Delattre, Q. Barthelemy, A. Allauzen, "Spectral norm of convolutional layers with circular and zero
       paddings", 2024, arXiv:2402.00240.
    .. [4] L. Pfister, Y. Bresler, "Bounding multivariate trigonometric polynomials", IEEE Trans. Signal Process., 2019.
    .. [5] E. Grishina, M. Gorbunov, M. Rakhuba, "Tight and efficient upper bound on spectral norm of convolutional
       layers", ECCV 2024, arXiv:2409.11859: a bound of the kernel alone, by its tensor norm.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d
    >>> from convmat import norm_bounds
    >>> W = np.random.default_rng(0).standard_normal((16, 8, 3, 3))
    >>> A = Conv2d(W, (20, 20), stride=2, padding=1)
    >>> lower, upper = norm_bounds(A)
    >>> truth = np.linalg.norm(A.toarray(), 2)
    >>> bool(lower <= truth <= upper <= 1.01 * lower)
    True
    """
    conv = convolution(A)
    if not isinstance(rtol, int | float | np.number) or isinstance(rtol, bool) or not rtol > 0:
        raise ValueError(f"rtol={rtol!r} must be a positive number")
    rtol = float(min(max(rtol, 1e-12), 1.0))
    geometry, stored_kernel = conv.geometry, finite_kernel(conv)
    wide = stored_kernel.astype(np.result_type(stored_kernel, np.float64))
    (kernel,), powers = near_one(wide[None])
    if not kernel.any():
        return 0.0, 0.0
    exact = exact_bounds(geometry, kernel, float(np.finfo(stored_kernel.dtype).eps))
    if exact is None:
        _check_images(geometry, kernel.itemsize)
        torus = torus_bound(geometry, kernel, rtol)
        products = Products(geometry, as_weight(_as_weight_of(geometry, kernel)), conv._products.asked)
        lower = lower_bound(geometry, kernel, products, torus, rtol)
        upper = torus.upper
        if upper > (1 + rtol) * lower:
            upper = min([upper, *schur_bounds(geometry, kernel, (1 + rtol) * lower)])
        exact = lower, upper
    return _outwards(*exact, int(powers.item()))


def _check_images(geometry: Geometry, itemsize: int) -> None:
    """Refuse images that do not fit: the Lanczos vectors, the data of some products, the table of an axis."""
    rows, cols = geometry.shape
    tables = max(axis.output * axis.taps for axis in geometry.axes)
    check_bytes(
        f"norm_bounds of {rows} x {cols}, by some products A x,",
        itemsize * ((_BASIS + 3) * cols + 3 * rows) + 4 * 8 * tables,
        "take a smaller input; with zero padding, that norm is below the norm of A, and near it",
    )


def _outwards(lower: float, upper: float, exponent: int) -> tuple[float, float]:
    """Both times 2^exponent, rounded away from each other where that is subnormal or beyond the largest double."""
    below, above = times_power(np.array([lower, upper]), exponent)
    back = times_power(np.array([below, above]), -exponent)
    below = np.nextafter(below, 0) if back[0] > lower else below
    above = np.nextafter(above, math.inf) if back[1] < upper else above
    return float(below), float(above)


def exact_bounds(geometry: Geometry, kernel: NDArray[Any], tolerance: float = EPS) -> tuple[float, float] | None:
    """The norm up to rounding, of small matrices and of kernels of rank one; None for others."""
    rows, cols = geometry.shape
    if rows * cols <= SMALL * geometry.groups:
        return dense_bounds(geometry, kernel)
    return kronecker_bounds(geometry, kernel, tolerance)


def dense_bounds(geometry: Geometry, kernel: NDArray[Any]) -> tuple[float, float]:
    """By the SVD of each group."""
    matrices = [group_matrix(geometry, kernel, group).toarray() for group in range(geometry.groups)]
    norm = max(float(np.linalg.norm(dense, 2)) for dense in matrices)
    slack = 8 * sum(matrices[0].shape) * EPS
    return norm * (1 - slack), norm * (1 + slack)


def kronecker_bounds(geometry: Geometry, kernel: NDArray[Any], tolerance: float = EPS) -> tuple[float, float] | None:
    """By the SVDs of the Kronecker factors, and by what the kernel differs from their product."""
    vectors = rank_one_kernels(geometry, kernel, tolerance)
    terms = vectors and kronecker_factors(geometry, vectors, FACTOR_LIMIT)
    if not vectors or not terms:
        return None
    norms = [math.prod([float(np.linalg.norm(factor, 2)) for factor in factors]) for factors in terms]
    slack = sum(8 * sum(factor.shape) * EPS for factor in terms[0])
    product = np.stack([outer(parts) for parts in vectors]).reshape(kernel.shape)
    away = magnitude(geometry, kernel - product) + (4 + geometry.ndim) * EPS * magnitude(geometry, product)
    return max(0.0, max(norms) * (1 - slack) - away), max(norms) * (1 + slack) + away


def schur_bounds(geometry: Geometry, kernel: NDArray[Any], target: float) -> Iterator[float]:
    """Upper bounds by the Schur test, until one reaches the target or they stop to gain."""
    # the method that adds up products of numbers >= 0 as they are: relative errors stay small in every entry
    products = Products(geometry, as_weight(_as_weight_of(geometry, np.abs(kernel))), "gemm")
    terms = kernel[0].size + kernel[:, 0].size
    q = np.ones((1, geometry.in_channels, *geometry.input_size))
    best = math.inf
    for _ in range(_SWEEPS):
        image = products.transpose(products.forward(q))
        bound = math.sqrt(float(np.max(image / q)) * (1 + 4 * (terms + 8) * EPS))
        yield bound
        if bound <= target or bound > best * (1 - 1e-3) or not image.any():
            return
        best = bound
        q = np.maximum(image / image.max(), 1e-4)


def lower_bound(geometry: Geometry, kernel: NDArray[Any], products: Products, torus: TorusBound, rtol: float) -> float:
    """||A x|| / ||x||, x by Lanczos with restarts from the wave of the largest block."""
    target = torus.upper / (1 + rtol / 2)
    x = _wave(geometry, torus, kernel.dtype)
    best = 0.0
    for _ in range(_RESTARTS):
        ritz, x = _lanczos(products, x, target)
        if ritz >= target or ritz <= best * (1 + rtol / 50):
            break
        best = ritz
    size = float(np.linalg.norm(x))
    if size == 0:
        return 0.0
    measured = float(np.linalg.norm(products.forward(x))) / size
    ulps: float = 64 + 8 * kernel[0].size + 64 * sum(math.log2(1 + axis.padded) for axis in geometry.axes)
    return max(0.0, measured * (1 - 64 * EPS) - ulps * EPS * magnitude(geometry, kernel))


def magnitude(geometry: Geometry, kernel: NDArray[Any]) -> float:
    """A cheap bound on the norm of the absolute matrix: || sum_k |W[k]| ||_F ||Pad||, of the largest group."""
    total = np.abs(kernel).sum(axis=tuple(range(2, kernel.ndim))).reshape(geometry.groups, -1)
    copies = math.prod(embed(axis).repeats for axis in geometry.axes)
    return math.sqrt(float((total**2).sum(axis=1).max()) * copies) * (1 + 1e-9)


def _as_weight_of(geometry: Geometry, kernel: NDArray[Any]) -> NDArray[Any]:
    """A kernel as the weight that the geometry reads it from."""
    weight: NDArray[Any] = geometry.kernel(kernel).reshape(geometry.weight_shape)  # to flip twice is to do nothing
    return weight


def _wave(geometry: Geometry, torus: TorusBound, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The wave on which the symbol is largest, fading out at the borders. (1, C_in, N_1..N_D)"""
    polynomial, groups = torus.polynomial, geometry.groups
    wave = np.zeros((groups, geometry.in_channels // groups, *geometry.input_size), dtype=np.complex128)
    amplitudes = torus.vector.reshape(-1, *(len(r) for r in polynomial.phases))
    for at in np.ndindex(*amplitudes.shape[1:]):
        part = amplitudes[(slice(None), *at)]
        places: list[Any] = [torus.group, slice(None)]
        for axis, theta, i, phases in zip(geometry.axes, torus.angles, at, polynomial.phases, strict=True):
            n = np.arange(phases[i], axis.size, axis.stride)
            window = 1.0 if periodic(axis) else np.sin(np.pi * (n + 1) / (axis.size + 1))
            part = np.multiply.outer(part, window * np.exp(1j * theta * np.arange(n.size)))
            places.append(slice(int(phases[i]), None, axis.stride))
        wave[tuple(places)] = part
    flat = wave.reshape(1, geometry.in_channels, *geometry.input_size)
    if dtype.kind == "c":
        return flat
    turned = flat * np.exp(-0.5j * np.angle(np.sum(flat**2)))  # the phase with the largest real part
    return np.ascontiguousarray(turned.real)


def _lanczos(products: Products, x: NDArray[Any], target: float) -> tuple[float, NDArray[Any]]:
    """Golub-Kahan-Lanczos steps from x, until the largest Ritz value reaches the target: that value, its vector."""
    size = float(np.linalg.norm(x))
    if size == 0:
        return 0.0, x
    basis, left = [x / size], np.zeros(0)
    bidiagonal = np.zeros((_BASIS, _BASIS))
    ritz, weights = 0.0, np.ones(1)
    for j in range(_BASIS):
        image = products.forward(basis[j])
        if j:
            image -= bidiagonal[j - 1, j] * left
        alpha = float(np.linalg.norm(image))
        bidiagonal[j, j] = alpha
        _, sigma, vh = np.linalg.svd(bidiagonal[: j + 1, : j + 1])
        ritz, weights = float(sigma[0]), vh[0]
        if ritz >= target or alpha <= EPS * ritz or j == _BASIS - 1:
            break
        left = image / alpha
        back = products.transpose(left.conj()).conj() - alpha * basis[j]
        for vector in basis:
            back -= np.vdot(vector, back) * vector
        beta = float(np.linalg.norm(back))
        if beta <= EPS * ritz:
            break
        bidiagonal[j, j + 1] = beta
        basis.append(back / beta)
    best = np.zeros_like(basis[0])
    for weight, vector in zip(weights, basis, strict=False):
        best += weight * vector
    return ritz, best
