"""One axis resampled: the sparse matrix (M, N) that takes N samples to M, in PyTorch's conventions.

Output m reads at the position u = r (m + 1/2) - 1/2, where the ratio r is N / M, or 1 / f if a scale factor f is given;
with the corners aligned, at r m with r = (N - 1) / (M - 1). A `Separable` of these matrices resamples images.

`samples`, `linear_at` and `cubic_at` are the same for positions of another convention.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array

KEYS = -0.75
"""The parameter of the cubic kernel of Keys that PyTorch and OpenCV take (Keys himself has -1/2)."""


def nearest(size: int, output: int, scale: float | None = None, *, exact: bool = False) -> csr_array:
    """Nearest neighbour: floor(r m), or floor(r (m + 1/2)) where exact, in single precision as PyTorch computes it.

    Parameters
    ----------
    size, output : int
        N and M.
    scale : float, optional
        The scale factor f; by default M / N.
    exact : bool
        PyTorch's "nearest-exact", which agrees with pillow; without it, "nearest".

    Returns
    -------
    csr_array, shape (M, N)

    References
    ----------
    .. [1] ``torch.nn.functional.interpolate``

    Examples
    --------
    >>> from convmat.operators.resampling import nearest
    >>> nearest(2, 4) @ [1.0, 2.0]
    array([1., 1., 2., 2.])
    """
    m = np.arange(output, dtype=np.float32)
    ratio = np.float32(size) / np.float32(output) if scale is None else np.float32(1 / scale)
    position = np.floor((m + np.float32(0.5)) * ratio if exact else m * ratio)
    index = np.minimum(position.astype(np.int64), size - 1)
    return samples(index, size)


def linear(size: int, output: int, scale: float | None = None, *, align_corners: bool = False) -> csr_array:
    """Linear interpolation; positions before the first sample read the first, beyond the last the last.

    Parameters
    ----------
    size, output : int
        N and M.
    scale : float, optional
        The scale factor f; by default M / N. It has no part where the corners are aligned or M = N.
    align_corners : bool
        Whether the first and last samples stay where they are.

    Returns
    -------
    csr_array, shape (M, N)

    References
    ----------
    .. [1] ``torch.nn.functional.interpolate``

    Examples
    --------
    >>> from convmat.operators.resampling import linear
    >>> linear(2, 4) @ [0.0, 4.0]
    array([0., 1., 3., 4.])
    >>> linear(2, 5, align_corners=True) @ [0.0, 4.0]
    array([0., 1., 2., 3., 4.])
    """
    return linear_at(_positions(size, output, None if size == output else scale, align_corners), size)


def cubic(size: int, output: int, scale: float | None = None, *, align_corners: bool = False) -> csr_array:
    """Cubic convolution (Keys, a = -3/4), the border replicated.

    Parameters
    ----------
    size, output : int
        N and M.
    scale : float, optional
        The scale factor f; by default M / N. It has no part where the corners are aligned.
    align_corners : bool
        Whether the first and last samples stay where they are.

    Returns
    -------
    csr_array, shape (M, N)

    References
    ----------
    .. [1] R. Keys, "Cubic convolution interpolation for digital image processing", 1981.
    .. [2] ``torch.nn.functional.interpolate``

    Examples
    --------
    >>> from convmat.operators.resampling import cubic
    >>> cubic(4, 7, align_corners=True) @ [0.0, 2.0, 4.0, 6.0]
    array([0. , 0.8125, 2. , 3. , 4. , 5.1875, 6. ])
    """
    return cubic_at(_positions(size, output, scale, align_corners), size)


def average(size: int, output: int) -> csr_array:
    """Adaptive average: output m is the mean of the samples from floor(m N / M) to ceil((m + 1) N / M).

    Parameters
    ----------
    size, output : int
        N and M.

    Returns
    -------
    csr_array, shape (M, N)

    References
    ----------
    .. [1] ``torch.nn.AdaptiveAvgPool1d``

    Examples
    --------
    >>> from convmat.operators.resampling import average
    >>> average(5, 2) @ [1.0, 2.0, 3.0, 4.0, 5.0]
    array([2., 4.])
    """
    m = np.arange(output)
    start, stop = m * size // output, -(-(m + 1) * size // output)
    indptr = np.concatenate([[0], np.cumsum(stop - start)])
    indices = np.arange(indptr[-1]) + np.repeat(start - indptr[:-1], stop - start)
    data = np.repeat(1 / (stop - start), stop - start)
    return csr_array((data, indices, indptr), shape=(output, size))


def samples(index: ArrayLike, size: int) -> csr_array:
    """One sample for each output.

    Parameters
    ----------
    index : array_like of int, shape (M,)
        The sample that each output reads, in 0..N - 1.
    size : int
        N.

    Returns
    -------
    csr_array, shape (M, N)

    Examples
    --------
    >>> from convmat.operators.resampling import samples
    >>> samples([2, 0, 0], 3) @ [1.0, 2.0, 3.0]
    array([3., 1., 1.])
    """
    taps = np.asarray(index, dtype=np.int64)[:, None]
    return weighted(taps, np.ones(taps.shape), size)


def linear_at(position: ArrayLike, size: int) -> csr_array:
    """Linear interpolation; positions before the first sample read the first, beyond the last the last.

    Parameters
    ----------
    position : array_like, shape (M,)
        Where each output reads, in samples of the input.
    size : int
        N.

    Returns
    -------
    csr_array, shape (M, N)

    Examples
    --------
    >>> from convmat.operators.resampling import linear_at
    >>> linear_at([-1.0, 0.25, 1.0], 2) @ [0.0, 4.0]
    array([0., 1., 4.])
    """
    inside = np.clip(position, 0, size - 1)
    index = np.floor(inside).astype(np.int64)
    beyond = inside - index
    return weighted(np.stack([index, index + 1], 1).clip(0, size - 1), np.stack([1 - beyond, beyond], 1), size)


def cubic_at(position: ArrayLike, size: int, a: float = KEYS) -> csr_array:
    """Cubic convolution (Keys), the border replicated.

    Parameters
    ----------
    position : array_like, shape (M,)
        Where each output reads, in samples of the input.
    size : int
        N.
    a : float
        The parameter of the kernel.

    Returns
    -------
    csr_array, shape (M, N)

    Examples
    --------
    >>> from convmat.operators.resampling import cubic_at
    >>> cubic_at([1.0, 1.5], 4, a=-0.5) @ [0.0, 2.0, 4.0, 6.0]
    array([2., 3.])
    """
    at = np.asarray(position)
    index = np.floor(at).astype(np.int64)
    distance = np.abs((at - index)[:, None] - np.arange(-1, 3))  # (M, 4)
    taps = (index[:, None] + np.arange(-1, 3)).clip(0, size - 1)
    return weighted(taps, _keys(distance, a), size)


def _positions(size: int, output: int, scale: float | None, align_corners: bool) -> NDArray[Any]:
    """Where each output reads, in samples of the input. (M,)"""
    m = np.arange(output)
    if align_corners:
        return m * ((size - 1) / (output - 1) if output > 1 else 0.0)
    return (size / output if scale is None else 1 / scale) * (m + 0.5) - 0.5


def _keys(t: NDArray[Any], a: float) -> NDArray[Any]:
    """The kernel of Keys at the distances t >= 0."""
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def weighted(taps: NDArray[np.int64], weights: NDArray[Any], size: int) -> csr_array:
    """Row m has weights[m] at the columns taps[m]; equal columns add up, zeros are not stored.

    Parameters
    ----------
    taps, weights : ndarray, shape (M, K)
        Columns in 0..N - 1, and what stands there.
    size : int
        N.

    Returns
    -------
    csr_array, shape (M, N)

    Examples
    --------
    >>> import numpy as np
    >>> from convmat.operators.resampling import weighted
    >>> weighted(np.array([[0, 1], [2, 2]]), np.array([[0.5, 0.5], [1.0, 2.0]]), 3).toarray()
    array([[0.5, 0.5, 0. ],
           [0. , 0. , 3. ]])
    """
    rows = np.repeat(np.arange(len(taps)), taps.shape[1])
    matrix = coo_array((weights.reshape(-1), (rows, taps.reshape(-1))), shape=(len(taps), size)).tocsr()
    matrix.eliminate_zeros()
    return matrix
