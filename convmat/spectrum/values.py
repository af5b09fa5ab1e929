"""All singular values of a convolution.

Three structures are exact and cheap: block diagonal in waves (periodic, or even kernels with a border that suits them),
Kronecker (rank-one kernels, under every padding mode and stride), and small (dense).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from convmat import matrix
from convmat.geometry import Geometry
from convmat.operators import Convolution, ConvTranspose, ImageOperator
from convmat.operators.algebra import BlockDiagonal, Scaled
from convmat.operators.layers import Diagonal, Rearrange, Separable
from convmat.operators.simplification import simplify
from convmat.products.symbol import Symbol, periodic, pieces, symbol
from convmat.products.threads import Pool, blas_on_one_thread, workers
from convmat.products.waves import Waves
from convmat.spectrum.batches import BATCH, batch_values, pays
from convmat.spectrum.scaling import as_dtype, near_one, times_power
from convmat.spectrum.trees import check_finite, core_of, half_of, in_double, scaled_operator

ROUNDING = 8
"""Rounding errors by which a kernel of rank one may differ from one, relative."""

DENSE_LIMIT = 2**22
"""Entries of a dense matrix (of one group, or of one Kronecker factor) up to which its SVD is taken."""

_CUT_FOR = 16
"""Threads for which frequencies are cut into ranges, however many there are: BLAS rounds a block by its range."""

_INSTEAD = "norm_bounds(A) encloses the largest, scipy.sparse.linalg.svds(A, k) computes a few"


@blas_on_one_thread()
def singular_values(A: ImageOperator) -> NDArray[Any]:
    r"""All singular values of a convolution, or of what simplifies to something of which they are known.

    Parameters
    ----------
    A : ImageOperator
        After `simplify`, and between reshapes and transpositions of axes: a `Diagonal`; a `Separable`, whose axis
        matrices have at most 2^22 entries each; blocks of these along the diagonal; :math:`B^H B` of these; any
        operator with a dense matrix of at most 2^22 entries; or a convolution or a transposed one that is any of these:

        - block diagonal in waves, with any dilation, groups and channels. Each axis is

          - periodic: N = M s and circular padding (or no padding is read at all, as in a patch embedding with K = s),
            with any kernel size and offset; or
          - even: stride 1, the size kept by the same padding lo = hi on both sides, a kernel equal to its own flip, to
            the last digit; and the padding is symmetric, or replicate with lo <= 1 (Neumann's border), or zeros with
            lo <= 1 (Dirichlet's): Laplacians and smoothing filters;

        - a kernel of rank one in each group, W[o, c, k] = w_0[o, c] w_1[k_1] ... w_D[k_D], under every padding mode
          and stride: single-channel and depthwise separable filters, 1 x 1 layers. Each axis matrix has at most 2^22
          entries;
        - small: at most 2^22 entries in the dense matrix of a group.

    Returns
    -------
    ndarray, shape (min(A.shape),)
        Descending, zeros included, rounded to the real dtype of A: infinite only where they are beyond it.

    Raises
    ------
    TypeError
        If A is not an operator on images.
    ValueError
        If A is none of these, or its weight is not finite.
    MemoryError
        If the blocks of all frequencies do not fit in memory.

    See Also
    --------
    norm_bounds : the largest one, between proven bounds, for every operator.
    svd : the vectors too.

    Notes
    -----
    *Stride 1* [1]_. A periodic convolution maps the wave :math:`v e^{i \theta n}`, :math:`\theta = 2 \pi f / N`, to
    :math:`H(\theta) v e^{i \theta n}` with the symbol
    :math:`H(\theta) = \sum_k W[k] e^{i \theta (d k - p)}`, a C_out x C_in matrix. The normalised waves are an
    orthonormal basis, so the singular values are those of the N^D matrices H.

    *Stride s.* Keeping every s-th sample cannot tell the s^D waves :math:`\theta_j = 2 \pi (g + M j) / N`, j = 0 to
    s - 1 on each axis, from one another: on the M = N / s samples all of them are the wave
    :math:`e^{2 \pi i g m / M}`, of which the norm is s^(-D/2) of theirs. So the input waves of one output frequency g
    form one block, s^(-D/2) [H(theta_0), ..., H(theta_(s^D - 1))], of C_out x C_in s^D, and blocks of different g meet
    neither at the input nor at the output. The singular values are those of the M^D blocks.

    Right of it may stand any unitary matrix. The discrete Fourier transform over j turns the aliases into phases: with
    x_r[j] = x[s j + r], the block becomes the symbol of a stride-1 convolution on M samples, with C_in s^D channels
    and no factor in front (`symbol`). This is what is computed: phases that no tap reads drop out, and the
    block of -g is the conjugate of that of g if the weight is real, so that half of the blocks are enough.

    *Even kernels* [2]_, [3]_. Symmetric padding extends an image as :math:`\cos \theta (n + 1/2)` goes on by itself,
    :math:`\theta = \pi f / N`, f = 0 to N - 1. The sine :math:`\sin \theta (n + 1)`,
    :math:`\theta = \pi (f + 1) / (N + 1)`, is 0 one sample beyond the border, as zeros are. An even kernel multiplies
    both by :math:`\sum_k W[k] \cos \theta (d k - p)`, the symbol again. Normalised, they are the discrete cosine
    transform DCT-II and the sine transform DST-I, orthonormal bases as the waves are: on these axes other angles are
    all that changes. Without a periodic axis, the blocks of real weights are real.

    *Accuracy.* The error of a value is of the order of rounding errors of the largest. Where numba is installed (the
    extra `fast`), many small blocks are solved at once in compiled code, in double precision and as accurately.

    Groups are independent blocks. The offset p multiplies blocks by phases and changes nothing. A rank-one kernel gives
    A = W_0 (x) A_1 (x) ... (x) A_D, whose singular values are the products of those of its factors.

    References
    ----------
    .. [1] H. Sedghi, V. Gupta, P. M. Long, "The singular values of convolutional layers", ICLR 2019.
    .. [2] G. Strang, "The discrete cosine transform", SIAM Review 41, 1999.
    .. [3] M. K. Ng, R. H. Chan, W.-C. Tang, "A fast algorithm for deblurring models with Neumann boundary conditions",
       SIAM J. Sci. Comput. 21, 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d
    >>> from convmat import singular_values
    >>> rng = np.random.default_rng(0)
    >>> A = Conv2d(rng.standard_normal((4, 3, 3, 3)), (8, 6), stride=2, padding=1, padding_mode="circular")
    >>> sigma = singular_values(A)
    >>> np.allclose(sigma, np.linalg.svd(A.toarray(), compute_uv=False))
    True
    >>> np.allclose(np.sum(sigma**2), np.sum(A.toarray() ** 2))
    True

    The Laplacian with Neumann's border, and scipy's:

    >>> from scipy.sparse.linalg import LaplacianNd
    >>> kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    >>> L = Conv2d(kernel, (300, 200), padding=1, padding_mode="symmetric")
    >>> np.allclose(singular_values(L), -LaplacianNd((300, 200), boundary_conditions="neumann").eigenvalues())
    True
    """
    check_operator(A)
    check_values(A.shape)
    near, exponent = near_operator(A)
    return descending(times_power(_values(near), exponent), A)


def near_operator(A: ImageOperator) -> tuple[ImageOperator, int]:
    """A near one, all in the precision of A, and the exponent; a convolution as it is, to be scaled group by group."""
    if isinstance(A, Convolution):
        return A, 0
    return scaled_operator(in_double(A) if A.dtype in (np.float64, np.complex128) else A)


def _values(A: ImageOperator) -> NDArray[np.float64]:
    """All values that are not 0, and zeros, in any order. (n,)"""
    if isinstance(A, Scaled):
        return _values(A.of) * float(abs(A.factor))
    if (half := half_of(A)) is not None:  # before a diagonal in it joins one side
        return _values(half) ** 2
    core = core_of(simplify(A), moved=True)
    rule = next((VALUES[kind] for kind in type(core).__mro__ if kind in VALUES), None)
    found = dense_values(core) if rule is None else rule(core)
    return found.astype(np.float64).ravel()


def _of_convolution(A: Convolution) -> NDArray[Any]:
    conv = convolution(A)
    geometry, (kernel, exponents) = conv.geometry, scaled_kernel(conv)
    if (waves := Waves.of(geometry, kernel)) is not None:
        found = _wave_values(waves, symbol(geometry, kernel), kernel.dtype)
    elif (terms := kronecker(geometry, kernel)) is not None:
        found = np.stack([outer([_dense_values(f) for f in factors]).ravel() for factors in terms])
    else:
        found = np.stack([_dense_values(dense) for dense in dense_groups(geometry, kernel)])
    return times_power(found.astype(np.float64), exponents)


def _of_separable(A: Separable) -> NDArray[Any]:
    if any(m is not None and math.prod(m.shape) > DENSE_LIMIT for m in A.matrices):
        return dense_values(A)
    axes = zip(A.input_shape, A.matrices, strict=True)
    return outer([np.ones(n) if m is None else _dense_values(m.toarray() if issparse(m) else m) for n, m in axes])


def _of_blocks(A: BlockDiagonal) -> NDArray[Any]:
    return np.concatenate([_values(part) for part in A.parts()])


VALUES: dict[type[ImageOperator], Callable[[Any], NDArray[Any]]] = {
    Convolution: _of_convolution,
    Diagonal: lambda A: np.abs(np.broadcast_to(A.values, A.input_shape)),
    Rearrange: lambda A: np.ones(A.input_shape),
    Separable: _of_separable,
    Scaled: lambda A: _values(A.of) * float(abs(A.factor)),
    BlockDiagonal: _of_blocks,
}
"""Kind of operator -> its singular values; those of other kinds are those of the dense matrix."""


def check_operator(A: Any) -> None:
    """Refuse what is no operator on images, or has NaN and infinities.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(A, ImageOperator):
        raise TypeError(
            f"A is of type {type(A).__name__}: it must be one of convmat's operators on images (a convolution, a "
            f"layer, and products, sums and stacks of them)"
        )
    check_finite(A)


def dense_values(A: ImageOperator) -> NDArray[Any]:
    """The values of the dense matrix."""
    return _dense_values(dense_matrix(A))


def dense_matrix(A: ImageOperator) -> NDArray[Any]:
    """The dense matrix.

    Raises
    ------
    ValueError
        If it is too large.
    """
    rows, cols = A.shape
    if rows * cols > DENSE_LIMIT:
        raise ValueError(
            f"A ({type(A).__name__}, once simplified) is none of what has known singular values (a convolution, a "
            f"Diagonal, a Separable, blocks along the diagonal of these, between reshapes), and its dense matrix of "
            f"{rows} x {cols} has more than {DENSE_LIMIT} entries: of its singular values, {_INSTEAD}"
        )
    return A.toarray()


def check_values(shape: tuple[int, int]) -> None:
    """Refuse what has too many singular values.

    Raises
    ------
    MemoryError
        If they do not fit: those of the blocks, those of the matrix, and both in order.
    """
    matrix.check_bytes(f"an array of all {min(shape)} singular values", 4 * 8 * min(shape), f"of them, {_INSTEAD}")


def convolution(A: Any) -> Convolution:
    """The convolution itself, or the one that A transposes: they share their singular values.

    Raises
    ------
    TypeError
        If A is neither.
    """
    if not isinstance(A, Convolution):
        raise TypeError(
            f"A is of type {type(A).__name__}: it must be one of convmat's convolutions (Conv1d, Conv2d, Conv3d, or "
            f"their transposes)"
        )
    return A.T if isinstance(A, ConvTranspose) else A


def finite_kernel(conv: Convolution) -> NDArray[Any]:
    """The kernel of the cross-correlation, (C_out, C_in / G, K_1..K_D).

    Raises
    ------
    ValueError
        If it is not finite.
    """
    kernel = conv.geometry.kernel(conv.weight)
    if not np.isfinite(kernel).all():
        raise ValueError("A has a weight with NaN or infinite entries: it has no singular values")
    return kernel


def scaled_kernel(conv: Convolution) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The kernel, finite, with each group near 1; and the exponents by which the groups are scaled back. (G, 1)

    Raises
    ------
    ValueError
        If it is not finite.
    """
    kernel = finite_kernel(conv)
    scaled, exponents = near_one(kernel.reshape(conv.geometry.groups, -1))
    return scaled.reshape(kernel.shape), exponents


def is_periodic(geometry: Geometry) -> bool:
    """Whether the FFT makes the matrix block diagonal."""
    return all(periodic(axis) for axis in geometry.axes)


def rank_one(tensor: NDArray[Any]) -> tuple[list[NDArray[Any]], float]:
    """Vectors whose outer product is nearly the tensor, in double precision; and the part that is missing, relative."""
    wide = tensor.astype(np.result_type(tensor, np.float64))
    vectors, rest = [], wide
    while rest.ndim > 1:
        u, sigma, vh = np.linalg.svd(rest.reshape(len(rest), -1), full_matrices=False)
        vectors.append(u[:, 0] * sigma[0])
        rest = vh[0].reshape(rest.shape[1:])
    vectors.append(rest)
    whole, missing = float(np.linalg.norm(wide)), float(np.linalg.norm(wide - outer(vectors)))
    return vectors, missing / whole if whole > 0 else 0.0


def rank_one_kernels(geometry: Geometry, kernel: NDArray[Any], eps: float) -> list[list[NDArray[Any]]] | None:
    """Per group vectors w_0 (C_out C_in / G^2), w_1 (K_1), .., w_D whose outer product is the kernel, or None.

    It may differ by some rounding errors `eps`.
    """
    terms = []
    for part in kernel.reshape(geometry.groups, -1, *geometry.kernel_size):
        vectors, missing = rank_one(part)
        if not missing <= ROUNDING * eps:  # NaN is none either
            return None
        terms.append(vectors)
    return terms


def kronecker_factors(
    geometry: Geometry, terms: list[list[NDArray[Any]]], limit: int = DENSE_LIMIT
) -> list[list[NDArray[Any]]] | None:
    """Per group the matrices W_0 (C_out / G, C_in / G), A_1 (M_1, N_1), .., A_D whose Kronecker product it is.

    None if one of them has more entries than the limit.
    """
    outs, ins = geometry.out_channels // geometry.groups, geometry.in_channels // geometry.groups
    sizes = [outs * ins, *(axis.output * axis.size for axis in geometry.axes)]
    if max(sizes) > limit:
        return None
    needed = 3 * 16 * geometry.groups * sum(sizes)
    matrix.check_bytes(f"SVDs of the axis matrices of {geometry.groups} groups", needed, f"of the values, {_INSTEAD}")
    return [
        [
            channels.reshape(outs, ins),
            *(matrix.axis_matrix(axis, line).toarray() for axis, line in zip(geometry.axes, lines, strict=True)),
        ]
        for channels, *lines in terms
    ]


def kronecker(geometry: Geometry, kernel: NDArray[Any]) -> list[list[NDArray[Any]]] | None:
    """The Kronecker factors of each group, if its kernel is of rank one in the precision of its dtype."""
    terms = rank_one_kernels(geometry, kernel, float(np.finfo(kernel.dtype).eps))
    return None if terms is None else kronecker_factors(geometry, terms)


def group_matrix(geometry: Geometry, kernel: NDArray[Any], group: int) -> Any:
    """The sparse matrix of one group."""
    groups, outs = geometry.groups, kernel.shape[0] // geometry.groups
    alone = replace(
        geometry,
        groups=1,
        in_channels=geometry.in_channels // groups,
        out_channels=outs,
        channels=True,
        flip=False,
    )
    return matrix.sparse(alone, kernel[group * outs : (group + 1) * outs])


def block_values(blocks: NDArray[Any]) -> NDArray[Any]:
    """Singular values of a stack of matrices: (.., rows, cols) -> (.., min(rows, cols))."""
    if min(blocks.shape[-2:]) == 1:  # a row or a column: its norm, without a thousand calls of LAPACK
        return np.asarray(np.linalg.norm(blocks, axis=(-2, -1))[..., None])
    return np.asarray(np.linalg.svd(blocks, compute_uv=False))


def descending(found: NDArray[Any], A: ImageOperator) -> NDArray[Any]:
    """The values in order, with all zeros that A has and no others, in the real dtype of A."""
    values = np.zeros(min(A.shape), dtype=np.empty(0, dtype=A.dtype).real.dtype)
    values[: found.size] = as_dtype(np.sort(found, axis=None)[::-1][: values.size], values.dtype)
    return values


def _wave_values(waves: Waves, polynomial: Symbol, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of every block, one block computed of two that are conjugate. (F, G, r)"""
    times = waves.multiplicity()
    groups, rows, cols = polynomial.block
    values = np.empty((*times.shape, groups, min(rows, cols)))
    compiled = pays(times.size * groups, rows, cols)
    solve = batch_values if compiled else block_values

    def store(start: int, stop: int, blocks: NDArray[Any]) -> None:
        wanted = times[start:stop] > 0
        if wanted.all():
            values[start:stop] = solve(blocks)
        else:
            values[start:stop][wanted] = solve(blocks[wanted])

    each_piece(waves, polynomial, dtype, store, least=BATCH if compiled else 1)
    return np.repeat(values.reshape(times.size, groups, -1), times.ravel(), axis=0)


def each_piece(
    waves: Waves,
    polynomial: Symbol,
    dtype: np.dtype[Any],
    task: Callable[[int, int, NDArray[Any]], None],
    least: int = 1,
) -> None:
    """Call task(start, stop, blocks), an SVD, on the blocks of each range of frequencies of the first axis.

    A range has at least so many blocks, but for the last.
    """
    sample, counts = polynomial.at_angles(waves.angles), [line.count for line in waves.angles]
    block_dtype = waves.dtype(dtype)

    def piece(_: object, start: int, stop: int) -> None:
        blocks = sample(start, stop)
        blocks = blocks if block_dtype.kind == "c" else blocks.real
        task(start, stop, blocks.astype(block_dtype, copy=False))

    across = math.prod(counts[1:])
    rows = -(-least // (across * polynomial.block[0]))
    ranges = pieces(counts[0], across * math.prod(polynomial.block), _CUT_FOR, rows)
    Pool().run(piece, ranges, min(workers(), len(ranges)))


def _dense_values(dense: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.linalg.svd(dense, compute_uv=False))


def dense_groups(geometry: Geometry, kernel: NDArray[Any]) -> list[NDArray[Any]]:
    """The dense matrix of each group.

    Raises
    ------
    ValueError
        If they are too large.
    """
    rows, cols = geometry.shape
    rows, cols = rows // geometry.groups, cols // geometry.groups
    if rows * cols > DENSE_LIMIT:
        raise ValueError(
            f"A is neither block diagonal in waves (on every axis circular padding, and input size = stride times "
            f"output size; or stride 1, a kernel equal to its flip, and equal padding on both sides that keeps the "
            f"size: symmetric, or one sample of zeros) nor of a kernel of rank one, and its dense matrix of "
            f"{rows} x {cols} has more than {DENSE_LIMIT} entries: of its singular values, {_INSTEAD}"
        )
    needed = 4 * geometry.groups * rows * cols * kernel.itemsize
    matrix.check_bytes(f"SVDs of the matrices of {geometry.groups} groups", needed, f"of the values, {_INSTEAD}")
    return [group_matrix(geometry, kernel, group).toarray() for group in range(geometry.groups)]


def outer(vectors: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The products of one entry of each vector. (len_1, len_2, ..)"""
    return functools.reduce(np.multiply.outer, vectors)
