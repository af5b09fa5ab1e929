"""Bounds on the spectral norm of any operator on images that are proofs: those of its parts, put together.

Everything happens in double precision, on operators near one. What rounds is accounted for by `Rounding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from convmat.matrix import axis_matrix
from convmat.operators.algebra import BlockDiagonal, Blocks, Chain, HStack, Scaled, Sum, VStack
from convmat.operators.base import ImageOperator, parts_of
from convmat.operators.convolution import Convolution
from convmat.operators.factors import IndexMap
from convmat.operators.layers import Diagonal, Rearrange, Separable
from convmat.operators.simplification import simplify
from convmat.products.threads import blas_on_one_thread
from convmat.spectrum.bounds import (
    FACTOR_LIMIT,
    SMALL,
    absolute,
    after_extension,
    check_images,
    convolution_bounds,
    magnitude,
    outwards,
    schur_test,
    ulps,
)  # fmt: skip
from convmat.spectrum.lanczos import largest
from convmat.spectrum.proof import GAIN, STEPS, affordable, blocks_for, proven_above
from convmat.spectrum.torus import EPS, copies
from convmat.spectrum.trees import half_of, in_double, numbers_of, rebuilt, scaled_operator
from convmat.spectrum.values import check_operator

Bounds = tuple[float, float]

CHEAP = 2**22
"""Entries of all parts together, as if they were dense, up to which a small matrix is built from them."""

_FARTHEST = 2.0**500
"""How far from 1 the norm of the absolute matrix may be for bounds from products A x; beyond, the structure is left."""


@blas_on_one_thread()
def norm_bounds(A: ImageOperator, *, rtol: float = 1e-2) -> tuple[float, float]:
    r"""Proven bounds on the spectral norm: lower <= ||A||_2 <= upper.

    Parameters
    ----------
    A : ImageOperator
        A convolution or a transposed one of any padding mode, stride, dilation, groups and size; factors and layers;
        products, sums, multiples and stacks of all these. An operator of another class is taken by its matrix,
        ``A.tosparse()``.
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
        If A is not an operator on images.
    ValueError
        If rtol is not positive, a weight is not finite, or a part of another class is large and has no `tosparse`.
    MemoryError
        If a dozen images of the size of the input do not fit: the lower bound is measured by products A x.

    See Also
    --------
    singular_values : all of them, exactly, where the operator has the structure.

    Notes
    -----
    **Operators made of operators** are simplified first (`simplify`): a convolution and its batch norm, a residual
    block W + S, a stack of filters are one convolution, with the bounds of one. What is left:

    ============================== =================================================================================
    operator                       norm
    ============================== =================================================================================
    Diagonal                       max \|d\|
    Rearrange, Downsample          1
    Pad, Crop                      the root of the largest number of copies of a sample: Pad^H Pad is diagonal;
                                   antireflect: the product of the norms of the axis matrices
    Separable                      the product of the norms of the axis matrices
    A B; A^H A                     at most \|\|A\|\| \|\|B\|\|; exactly \|\|A\|\|^2
    A + B                          at most \|\|A\|\| + \|\|B\|\|
    [A, B], and below each other   at most the root of \|\|A\|\|^2 + \|\|B\|\|^2, at least the larger
    block diagonal                 the largest
    small matrices                 by SVD
    ============================== =================================================================================

    Where these leave a gap, the lower bound is ||A x|| / ||x|| for the best x of some Lanczos steps, and the upper one
    the Schur test below, with the product of the absolute matrices, or the Cholesky decomposition below. Rounding: a
    product A x is off by at most u ulps || |A| || ||x||, with the ulps of all factors added up; so is the simplified
    operator from A, and its explicit matrix.

    **One convolution.** The upper bound is the least of those that apply.

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
    times. This bound may exceed the norm by as much as ||Pad||: if border samples are copied once, by 2^(D/2). With
    "antireflect" padding ||Pad||^2 is the product of 4 p + 2 or little more over the axes, and the bound is wide.

    *Schur test.* For any positive q, ||A||^2 <= || |A| ||^2 <= max_n (|A|^T |A| q)_n / q_n (Collatz and Wielandt),
    which power iteration makes tight for weights of one sign, under every padding mode that copies. Its first step,
    q = 1, is at most ||A||_1 ||A||_inf.

    *Few channels.* A with the outputs (or inputs) of a few channels, A_1, A_2, ..., of rank one each, as differences
    along several axes: ||A||^2 <= ||A_1||^2 + ||A_2||^2 + ..., by SVDs.

    *Exact.* Kernels of rank one (Kronecker products; the distance from rank one is added), what is block diagonal in
    waves (`singular_values`) if the blocks are not many, and small matrices: by SVD.

    *Cholesky.* ||A||^2 < c if c I - A^H A has a Cholesky decomposition [6]_, for c a share of 1e-7 above what Lanczos
    finds. A^H A (or A A^H, if that is smaller) is a band in a suitable order of the samples, as wide as a few lines of
    the image with all channels. It is taken first where it costs less than the torus, for many channels on a small
    map, and last where another bound leaves more than rtol, and it takes at most 2e11 multiplications, a matrix of
    2^25 entries, and memory that is there: some 10,000 samples, and more with few channels. Its rounding is added:
    EPS n (band + 8) of c, twice, and EPS (terms + 8) of the squared Frobenius norm. Operators of all kinds with a
    matrix of up to 2^25 entries, were it dense, have it, too.

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
    .. [6] S. M. Rump, "Verification of positive definiteness", BIT Numerical Mathematics 46, 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d
    >>> from convmat import norm_bounds
    >>> rng = np.random.default_rng(0)
    >>> W = rng.standard_normal((16, 8, 3, 3))
    >>> A = Conv2d(W, (20, 20), stride=2, padding=1)
    >>> lower, upper = norm_bounds(A)
    >>> truth = np.linalg.norm(A.toarray(), 2)
    >>> bool(lower <= truth <= upper <= 1.01 * lower)
    True

    A residual block is one convolution, not two:

    >>> S = Conv2d(rng.standard_normal((16, 8, 1, 1)), (20, 20), stride=2)
    >>> lower, upper = norm_bounds(A + S)
    >>> bool(upper <= 1.01 * lower), bool(upper < 0.9 * (norm_bounds(A)[1] + norm_bounds(S)[1]))
    (True, True)
    """
    check_operator(A)
    if not isinstance(rtol, int | float | np.number) or isinstance(rtol, bool) or not rtol > 0:
        raise ValueError(f"rtol={rtol!r} must be a positive number")
    near, exponent = scaled_operator(in_double(A))
    return outwards(*_bounds(near, float(min(max(rtol, 1e-12), 1.0))), exponent)


def _bounds(A: ImageOperator, rtol: float) -> Bounds:
    """Those of the simplified operator, the lower one measured where its structure says too little."""
    if (half := half_of(A)) is not None:
        return _squared(_bounds(half, rtol / 2))
    B = simplify(A)
    lower, upper = _known(B, rtol)
    tame = _tame(B) and not isinstance(B, Convolution)  # of which all that follows is known
    if tame and upper > (1 + rtol) * lower:
        lower = max(lower, _measured(B, upper, rtol))
    if tame and upper > (1 + rtol) * lower:
        upper = min(upper, _schur(B, (1 + rtol) * lower))
        if upper > (1 + rtol) * lower and affordable(B.shape, math.prod(B.shape)):
            below, above = _proven_as_matrix(B, rtol)
            lower, upper = max(lower, below), min(upper, above)
    away = 0.0 if B is A else rounding(A).error  # simplifying rounds no more than a product does
    return max(0.0, lower - away), upper + away


def _known(A: ImageOperator, rtol: float) -> Bounds:
    """What the structure says."""
    if (half := half_of(A)) is not None:
        return _squared(_known(half, rtol / 2))
    if isinstance(A, Chain | Sum | Blocks) and math.prod(A.shape) <= SMALL and _entries(A) <= CHEAP and _tame(A):
        away = rounding(A).error
        lower, upper = _dense(A.toarray())
        return max(0.0, lower - away), upper + away
    found: Bounds = _rule(BOUNDS, A)(A, rtol)
    return found


def _rule(table: dict[type[ImageOperator], Any], A: ImageOperator) -> Any:
    return next(table[kind] for kind in type(A).__mro__ if kind in table)


def _entries(A: ImageOperator) -> int:
    """Entries of the matrices of all leaves, as if they were dense."""
    return sum(_entries(part) for part in parts_of(A)) or math.prod(A.shape)


def _tame(A: ImageOperator) -> bool:
    """Whether squares of what its products give stay in the range of doubles: not those of hundreds of factors."""
    return _FARTHEST**-1 < rounding(A).magnitude < _FARTHEST


def _measured(A: ImageOperator, upper: float, rtol: float) -> float:
    """||A x|| / ||x||, by Lanczos from white noise."""
    check_images(A.shape, A.dtype.itemsize)
    x = np.random.default_rng(0).standard_normal((1, *A.input_shape)).astype(A.dtype)
    found: float = largest(A._forward, A._backward_conjugated, x, upper / (1 + rtol / 2), rtol / 50)
    return found - rounding(A).error


def _proven_as_matrix(A: ImageOperator, rtol: float) -> Bounds:
    """By its explicit matrix, from whose rounding the exact one is no farther away than a product is."""
    away = rounding(A).error
    lower, upper = _proven(csr_array(A.tosparse()), rtol) or (0.0, math.inf)
    return max(0.0, lower - away), upper + away


def _schur(A: ImageOperator, target: float) -> float:
    magnitudes = _absolute(A)
    return min(schur_test(magnitudes._forward, magnitudes._backward, (1, *A.input_shape), 2 * rounding(A).ulps, target))


def _absolute(A: ImageOperator) -> ImageOperator:
    """The tree of absolute numbers: its matrix is no smaller, entry by entry."""
    numbers = [np.abs(values) for values in numbers_of(A)]
    if isinstance(A, Convolution):
        return absolute(A, numbers[0])
    if isinstance(A, IndexMap):
        return after_extension(type(A)._of(A.geometry.extended, A.dtype), A.geometry)
    parts = [_absolute(part) for part in parts_of(A)]
    return Scaled(abs(A.factor), parts[0]) if isinstance(A, Scaled) else rebuilt(A, numbers, parts)


# norms ----------------------------------------------------------------------------------------------------------------


def _dense(matrix: NDArray[Any]) -> Bounds:
    norm, slack = float(np.linalg.norm(matrix, 2)), 8 * sum(matrix.shape) * EPS
    return norm * (1 - slack), norm * (1 + slack)


def _proven(matrix: Any, rtol: float) -> Bounds | None:
    """By Lanczos and a Cholesky decomposition, if a matrix is not too large for it."""
    if not affordable(matrix.shape, matrix.nnz) or (blocks := blocks_for(matrix)) is None:
        return None
    x = np.random.default_rng(0).standard_normal(matrix.shape[1]).astype(matrix.dtype)
    found = largest(matrix.dot, matrix.conj().T.dot, x, math.inf, GAIN, STEPS)
    away = 8 * _longest(matrix) * EPS * float(np.linalg.norm(matrix.data))
    return max(0.0, found - away), proven_above(blocks, found, away, rtol)


def _product(bounds: Sequence[Bounds]) -> Bounds:
    """Of numbers between these, rounded outwards."""
    slack = 2 * len(bounds) * EPS
    lower, upper = (math.prod(side) for side in zip(*bounds, strict=True))
    return lower * (1 - slack), math.nextafter(upper * (1 + slack), math.inf) if all(u for _, u in bounds) else 0.0


def _squared(bounds: Bounds) -> Bounds:
    return _product([bounds, bounds])


def _diagonal(A: Diagonal, rtol: float) -> Bounds:
    largest, slack = float(np.abs(A.values).max()), 2 * EPS if A.dtype.kind == "c" else 0.0
    return largest * (1 - slack), largest * (1 + slack)


def _rearrange(A: Rearrange, rtol: float) -> Bounds:
    return 1.0, 1.0


def _index_map(A: IndexMap, rtol: float) -> Bounds:
    check_images(A.shape, 8)
    if A.geometry.combines:
        return _product([_axis(axis_matrix(axis, np.ones(1)), rtol / A.geometry.ndim) for axis in A.geometry.axes])
    root = math.sqrt(math.prod(copies(axis) for axis in A.geometry.axes))
    slack = 0.0 if root == int(root) else EPS
    return root * (1 - slack), root * (1 + slack)


def _separable(A: Separable, rtol: float) -> Bounds:
    return _product([(1.0, 1.0), *(_axis(m, rtol / len(A.matrices)) for m in A.matrices if m is not None)])


def _axis(matrix: Any, rtol: float) -> Bounds:
    if math.prod(matrix.shape) <= FACTOR_LIMIT:
        return _dense(matrix.toarray() if issparse(matrix) else matrix)
    stored = csr_array(matrix)
    if (found := _proven(stored, rtol)) is not None:
        return found
    positive, terms = abs(stored), _longest(stored)
    return 0.0, min(schur_test(positive.dot, positive.T.dot, (matrix.shape[1],), terms, 0.0))


def _scaled(A: Scaled, rtol: float) -> Bounds:
    return _product([(abs(A.factor),) * 2, _known(A.of, rtol)])


def _chain(A: Chain, rtol: float) -> Bounds:
    moved = [part for part in A.factors() if not isinstance(part, Rearrange)]
    lower, upper = _product([(1.0, 1.0), *(_known(part, rtol / len(moved)) for part in moved)])
    return lower if len(moved) <= 1 else 0.0, upper


def _sum(A: Sum, rtol: float) -> Bounds:
    return 0.0, sum(_known(part, rtol)[1] for part in A.terms()) * (1 + len(A.terms()) * EPS)


def _stack(A: VStack | HStack, rtol: float) -> Bounds:
    bounds = [_known(part, rtol) for part in A.parts()]
    return max(lower for lower, _ in bounds), math.hypot(*(upper for _, upper in bounds)) * (1 + len(bounds) * EPS)


def _block_diagonal(A: BlockDiagonal, rtol: float) -> Bounds:
    bounds = [_known(part, rtol) for part in A.parts()]
    return max(lower for lower, _ in bounds), max(upper for _, upper in bounds)


BOUNDS: dict[type[ImageOperator], Callable[[Any, float], Bounds]] = {
    Convolution: convolution_bounds,
    Diagonal: _diagonal,
    Rearrange: _rearrange,
    IndexMap: _index_map,
    Separable: _separable,
    Scaled: _scaled,
    Chain: _chain,
    Sum: _sum,
    VStack: _stack,
    HStack: _stack,
    BlockDiagonal: _block_diagonal,
}
"""Kind of operator -> what its structure says of its norm."""


# rounding -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rounding:
    """A product A x in double precision is off by at most ulps EPS magnitude ||x||, and || |A| || <= magnitude.

    The matrix itself, put together from the numbers in A, is off by no more.
    """

    magnitude: float
    ulps: float

    @property
    def error(self) -> float:
        return self.ulps * EPS * self.magnitude * (1 + 1e-6)


def rounding(A: ImageOperator) -> Rounding:
    """Of the products with A and with its adjoint."""
    found: Rounding = _rule(ROUNDING, A)(A, [rounding(part) for part in parts_of(A)])
    return found


def _of_convolution(A: Convolution, parts: Sequence[Rounding]) -> Rounding:
    geometry, kernel = A.geometry, A.geometry.kernel(A.weight)
    return Rounding(magnitude(geometry, kernel), ulps(geometry, kernel) + 8 * kernel[:, 0].size)


def _of_numbers(A: Diagonal | Rearrange, parts: Sequence[Rounding]) -> Rounding:
    return Rounding(max((float(np.abs(values).max()) for values in numbers_of(A)), default=1.0), 8)


def _of_index_map(A: IndexMap, parts: Sequence[Rounding]) -> Rounding:
    squared = math.prod(copies(axis) for axis in A.geometry.axes)
    return Rounding(math.sqrt(squared), 8 + squared)


def _of_separable(A: Separable, parts: Sequence[Rounding]) -> Rounding:
    matrices = [m for m in A.matrices if m is not None]
    sums = [(float(abs(m).sum(axis=0).max()), float(abs(m).sum(axis=1).max())) for m in matrices]
    return Rounding(math.prod(math.sqrt(a * b) for a, b in sums), 8 * sum(map(_longest, matrices), 1))


def _longest(matrix: Any) -> int:
    """Entries in the longest row and in the longest column."""
    if not issparse(matrix):
        return sum(matrix.shape)
    return int(np.diff(matrix.indptr).max()) + int(np.bincount(matrix.indices, minlength=1).max())


def _of_scaled(A: Scaled, parts: Sequence[Rounding]) -> Rounding:
    return Rounding(abs(A.factor) * parts[0].magnitude, parts[0].ulps + 8)


def _of_chain(A: Chain, parts: Sequence[Rounding]) -> Rounding:
    return Rounding(math.prod(part.magnitude for part in parts), sum(part.ulps for part in parts))


def _of_sum(A: Sum | Blocks, parts: Sequence[Rounding]) -> Rounding:
    return Rounding(sum(part.magnitude for part in parts), max(part.ulps for part in parts) + 8 * len(parts))


ROUNDING: dict[type[ImageOperator], Callable[[Any, Sequence[Rounding]], Rounding]] = {
    Convolution: _of_convolution,
    Diagonal: _of_numbers,
    Rearrange: _of_numbers,
    IndexMap: _of_index_map,
    Separable: _of_separable,
    Scaled: _of_scaled,
    Chain: _of_chain,
    Sum: _of_sum,
    Blocks: _of_sum,
}
"""Kind of operator -> the rounding of its products, from that of its parts."""
