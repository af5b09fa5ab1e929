"""The singular value decomposition of a convolution, as operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from convmat.bases import Bases, DenseBases, KroneckerBases, PeriodicBases, TransposedBases
from convmat.geometry import result_dtype
from convmat.operators import Convolution, ConvTranspose
from convmat.spectrum import convolution, dense_groups, descending, finite_kernel, is_periodic, kronecker

Function = Callable[[NDArray[Any]], NDArray[Any]]


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
    geometry, kernel = conv.geometry, finite_kernel(conv)
    bases: Bases
    if is_periodic(geometry):
        bases = PeriodicBases.of(geometry, kernel)
    elif (terms := kronecker(geometry, kernel)) is not None:
        bases = KroneckerBases.of(geometry, terms)
    else:
        bases = DenseBases.of(geometry, dense_groups(geometry, kernel))
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
        Descending, read-only.
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
        weights, bases = _real_values(f, self._bases.sigma), self._bases
        return self._operator(
            self.shape,
            lambda x: bases.from_left(weights * bases.to_right(x)),
            lambda y: bases.from_right(weights * bases.to_left(y)),
        )

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
        weights, bases = _real_values(f, self._bases.sigma), self._bases
        return self._operator(
            self.shape[::-1],
            lambda y: bases.from_right(weights * bases.to_left(y)),
            lambda x: bases.from_left(weights * bases.to_right(x)),
        )

    def operator(self) -> LinearOperator:
        """A itself, applied by its decomposition.

        Returns
        -------
        LinearOperator, shape `shape`
        """
        return self.function(lambda sigma: sigma)

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
        return self.function(lambda sigma: np.clip(sigma, min_value, max_value))

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
        largest = float(self.singular_values[0])
        relative = max(self.shape) * np.finfo(self.dtype).eps if rcond is None else rcond
        cut = relative * largest

        def inverse(sigma: NDArray[Any]) -> NDArray[Any]:
            kept = (sigma > cut) & (sigma > 0)
            return np.asarray(np.divide(1, sigma, out=np.zeros_like(sigma), where=kept))

        return self.pinv_function(inverse)

    def _operator(
        self,
        shape: tuple[int, int],
        product: Callable[[NDArray[Any]], NDArray[Any]],
        adjoint: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> LinearOperator:
        columns = functools.partial(_columns, self.dtype)
        return LinearOperator(
            shape,
            dtype=self.dtype,
            matvec=lambda x: columns(product, x.reshape(-1, 1))[:, 0],
            rmatvec=lambda y: columns(adjoint, y.reshape(-1, 1))[:, 0],
            matmat=functools.partial(columns, product),
            rmatmat=functools.partial(columns, adjoint),
        )


def _real_values(f: Function, sigma: NDArray[Any]) -> NDArray[Any]:
    values = np.asarray(f(sigma))
    if values.dtype.kind not in "biuf":
        raise TypeError(f"f returns values of dtype {values.dtype}: it must return real numbers")
    if values.shape != sigma.shape:
        raise ValueError(f"f returns the shape {values.shape} for singular values of shape {sigma.shape}: it must act "
                         f"on each entry")  # fmt: skip
    return values


def _columns(
    dtype: np.dtype[Any], product: Callable[[NDArray[Any]], NDArray[Any]], columns: NDArray[Any]
) -> NDArray[Any]:
    """A product on vectors (batch, n), on the columns of a matrix; a real map acts on real and imaginary parts."""
    columns = np.asarray(columns)
    result = result_dtype(dtype, columns)
    rows = np.ascontiguousarray(columns.T)
    if dtype.kind == "c" or rows.dtype.kind != "c":
        found = product(rows)
    else:
        parts = product(np.concatenate([rows.real, rows.imag]))
        found = parts[: len(rows)] + 1j * parts[len(rows) :]
    return found.T.astype(result, copy=False)
