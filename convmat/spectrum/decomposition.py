"""The singular value decomposition of a convolution, as operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator

from convmat.geometry import result_dtype
from convmat.operators import Convolution, ConvTranspose
from convmat.products.threads import blas_on_one_thread
from convmat.spectrum.bases import Bases, DenseBases, KroneckerBases, PeriodicBases, TransposedBases
from convmat.spectrum.scaling import as_dtype, as_float, times_power
from convmat.spectrum.values import (
    check_values,
    convolution,
    dense_groups,
    descending,
    is_periodic,
    kronecker,
    scaled_kernel,
)

Function = Callable[[NDArray[Any]], NDArray[Any]]


@blas_on_one_thread()
def svd(A: Convolution) -> SVD:
    r"""The singular value decomposition of a convolution, as operators.

    Parameters
    ----------
    A : Conv1d, Conv2d, Conv3d or their transposes
        Those of `singular_values`.

    Returns
    -------
    SVD

    Raises
    ------
    TypeError
        If A is not one of these operators.
    ValueError
        If it has no structure to use and is too large for a dense decomposition, or its weight is not finite.
    MemoryError
        If the blocks of all frequencies do not fit in memory.

    References
    ----------
    .. [1] H. Sedghi, V. Gupta, P. M. Long, "The singular values of convolutional layers", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d
    >>> from convmat import svd
    >>> rng = np.random.default_rng(0)
    >>> A = Conv2d(rng.standard_normal((4, 3, 3, 3)), (8, 6), stride=2, padding=1, padding_mode="circular")
    >>> F = svd(A)
    >>> np.allclose(F.pinv() @ np.eye(A.shape[0]), np.linalg.pinv(A.toarray()))
    True
    >>> clipped = F.clip(2.0) @ np.eye(A.shape[1])
    >>> bool(np.linalg.norm(clipped, 2) <= 2 + 1e-12)
    True
    """
    conv = convolution(A)
    check_values(A.shape)
    geometry, (kernel, exponents) = conv.geometry, scaled_kernel(conv)
    bases: Bases
    if is_periodic(geometry):
        bases = PeriodicBases.of(geometry, kernel, exponents)
    elif (terms := kronecker(geometry, kernel)) is not None:
        bases = KroneckerBases.of(geometry, terms, exponents)
    else:
        bases = DenseBases.of(dense_groups(geometry, kernel), exponents)
    values = descending(bases.values(), A)
    values.flags.writeable = False
    if isinstance(A, ConvTranspose):
        bases = TransposedBases(bases)
    return SVD(A.shape, A.dtype, values, bases)


@dataclass(frozen=True, eq=False, repr=False)
class SVD:
    """A = U diag(sigma) V^H, with U and V applied by FFTs, or axis by axis. Made by `svd`.

    Every method returns a scipy `LinearOperator`; vectors are flat, as for A.

    Attributes
    ----------
    shape : (int, int)
    dtype : numpy.dtype
    singular_values : ndarray, shape (min(shape),)
        Descending, read-only; rounded to the real dtype of A, as `convmat.singular_values`.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    singular_values: NDArray[Any]
    _bases: Bases

    def __repr__(self) -> str:
        largest = float(self.singular_values[0])
        return f"<SVD of a {self.shape[0]} x {self.shape[1]} {self.dtype} convolution, sigma_1 = {largest:.6g}>"

    def function(self, f: Function) -> LinearOperator:
        """U diag(f(sigma)) V^H, of the shape of A: a change of the singular values alone.

        Parameters
        ----------
        f : callable
            Takes an array of singular values and returns a real one of the same shape, entry by entry. f(0) should be
            0 unless A has full rank, since the vectors of a repeated singular value 0 are not unique.

        Returns
        -------
        LinearOperator, shape `shape`

        Raises
        ------
        TypeError, ValueError
            If f does not return real numbers, one for each singular value.
        """
        return self._forward(_real_values(f, self._values()), 0)

    def pinv_function(self, f: Function) -> LinearOperator:
        """V diag(f(sigma)) U^H, of the shape of A^H: a regularised inverse, such as sigma / (sigma^2 + damp^2).

        Parameters
        ----------
        f : callable
            As for `function`.

        Returns
        -------
        LinearOperator, shape ``shape[::-1]``

        Raises
        ------
        TypeError, ValueError
            If f does not return real numbers, one for each singular value.
        """
        return self._inverse(_real_values(f, self._values()), 0)

    def operator(self) -> LinearOperator:
        """A itself, applied by its decomposition.

        Returns
        -------
        LinearOperator, shape `shape`
        """
        return self._forward(self._bases.sigma, self._bases.exponents)

    def clip(self, max_value: float, min_value: float = 0.0) -> LinearOperator:
        """The nearest operator whose singular values lie between two values (a lower one needs full rank).

        Parameters
        ----------
        max_value, min_value : float

        Returns
        -------
        LinearOperator, shape `shape`

        Raises
        ------
        ValueError
            Unless 0 <= min_value <= max_value.
        """
        if not 0 <= min_value <= max_value:
            raise ValueError(f"max_value={max_value!r} and min_value={min_value!r} must be 0 <= min_value <= max_value")
        powers = self._bases.exponents
        least, most = (times_power(np.array(as_float(value)), -powers) for value in (min_value, max_value))
        return self._forward(np.clip(self._bases.sigma, least, most), powers)

    def pinv(self, rcond: float | None = None) -> LinearOperator:
        """The pseudo-inverse.

        Parameters
        ----------
        rcond : float, optional
            Singular values up to rcond times the largest count as 0; by default max(shape) times the machine epsilon.

        Returns
        -------
        LinearOperator, shape ``shape[::-1]``
        """
        relative = max(self.shape) * np.finfo(self.dtype).eps if rcond is None else rcond
        sigma, powers = self._bases.sigma, self._bases.exponents
        compared = times_power(sigma, powers - powers.max())
        kept = (compared > relative * compared.max()) & (sigma > 0)
        return self._inverse(np.divide(1, sigma, out=np.zeros_like(sigma), where=kept), -powers)

    def _values(self) -> NDArray[np.float64]:
        """The singular values as the bases order them, in double precision."""
        return times_power(self._bases.sigma, self._bases.exponents)

    def _forward(self, weights: NDArray[Any], powers: ArrayLike) -> LinearOperator:
        """U diag(weights 2^powers) V^H."""
        bases = self._bases
        return self._operator(
            self.shape,
            lambda x: bases.from_left(_weighted(bases.to_right(x), weights, powers)),
            lambda y: bases.from_right(_weighted(bases.to_left(y), weights, powers)),
        )

    def _inverse(self, weights: NDArray[Any], powers: ArrayLike) -> LinearOperator:
        """V diag(weights 2^powers) U^H."""
        bases = self._bases
        return self._operator(
            self.shape[::-1],
            lambda y: bases.from_right(_weighted(bases.to_left(y), weights, powers)),
            lambda x: bases.from_left(_weighted(bases.to_right(x), weights, powers)),
        )

    def _operator(
        self,
        shape: tuple[int, int],
        product: Callable[[NDArray[Any]], NDArray[Any]],
        adjoint: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> LinearOperator:
        (rows, cols), dtype = shape, self.dtype
        return LinearOperator(
            shape,
            dtype=dtype,
            matvec=lambda x: _vectors(product, x, cols, dtype),
            rmatvec=lambda y: _vectors(adjoint, y, rows, dtype),
            matmat=lambda X: _vectors(product, X.swapaxes(-1, -2), cols, dtype).swapaxes(-1, -2),
            rmatmat=lambda Y: _vectors(adjoint, Y.swapaxes(-1, -2), rows, dtype).swapaxes(-1, -2),
        )


def _weighted(coefficients: NDArray[Any], weights: NDArray[Any], powers: ArrayLike) -> NDArray[Any]:
    """The coefficients times weights 2^powers, in double precision until they are rounded to their own dtype."""
    return as_dtype(times_power(weights * coefficients, powers), coefficients.dtype)


def _real_values(f: Function, sigma: NDArray[Any]) -> NDArray[Any]:
    values = np.asarray(f(sigma))
    if values.dtype.kind not in "biuf":
        raise TypeError(f"f returns values of dtype {values.dtype}: it must return real numbers")
    if values.shape != sigma.shape:
        raise ValueError(f"f returns the shape {values.shape} for singular values of shape {sigma.shape}: it must act "
                         f"on each entry")  # fmt: skip
    return values


@blas_on_one_thread()
def _vectors(
    product: Callable[[NDArray[Any]], NDArray[Any]], vectors: NDArray[Any], size: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """A product of (batch, n) on vectors (.., n), or on one column (n, 1); a real map acts on both parts of complex."""
    vectors = np.asarray(vectors)
    result = result_dtype(dtype, vectors)
    if vectors.shape[-1:] != (size,):  # scipy before 1.18 passes a column as it is
        vectors = vectors.reshape(size)
    batch = vectors.shape[:-1]
    rows = np.ascontiguousarray(vectors).reshape(math.prod(batch), size)
    if not len(rows):  # an FFT of no vectors is refused
        return np.empty((*batch, product(np.zeros((1, size), dtype)).shape[-1]), dtype=result)
    if dtype.kind == "c" or rows.dtype.kind != "c":
        found = product(rows)
    else:
        parts = product(np.concatenate([rows.real, rows.imag]))
        found = parts[: len(rows)] + 1j * parts[len(rows) :]
    return found.reshape(*batch, found.shape[-1]).astype(result, copy=False)
