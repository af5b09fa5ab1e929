"""The singular value decomposition as operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.operators import Convolution, ConvTranspose, ImageOperator
from convmat.operators.layers import Diagonal
from convmat.operators.simplification import simplify
from convmat.products.threads import blas_on_one_thread
from convmat.products.waves import Waves
from convmat.spectrum.bases import Bases, DenseBases, KroneckerBases, TransposedBases, WaveBases
from convmat.spectrum.scaling import as_dtype, as_float, times_power
from convmat.spectrum.trees import core_of
from convmat.spectrum.values import (
    check_operator,
    check_values,
    convolution,
    dense_groups,
    dense_matrix,
    descending,
    kronecker,
    near_operator,
    scaled_kernel,
)  # fmt: skip

Function = Callable[[NDArray[Any]], NDArray[Any]]
_Map = Callable[[NDArray[Any]], NDArray[Any]]


@blas_on_one_thread()
def svd(A: ImageOperator) -> SVD:
    r"""The singular value decomposition of a convolution, or of what simplifies to one, as operators.

    Parameters
    ----------
    A : ImageOperator
        After `simplify`, and between reshapes: a convolution or a transposed one of those of `singular_values`, a
        `Diagonal`, or any operator with a dense matrix of at most 2^22 entries.

    Returns
    -------
    SVD

    Raises
    ------
    TypeError
        If A is not an operator on images.
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

    Poisson's equation with zeros beyond the border, by two sine transforms:

    >>> L = Conv2d(np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]]), (300, 200), padding=1)
    >>> u = rng.standard_normal((300, 200))
    >>> np.allclose(svd(L).pinv().apply(L.apply(u)), u)
    True
    """
    check_operator(A)
    check_values(A.shape)
    near, exponent = near_operator(A)
    bases = _bases(core_of(simplify(near), moved=False), exponent)
    values = descending(bases.values(), A)
    values.flags.writeable = False
    return SVD(A.shape, A.dtype, values, bases, (A.input_shape, A.output_shape))


def _bases(A: ImageOperator, exponent: int) -> Bases:
    """Those of 2^exponent A."""
    if isinstance(A, ConvTranspose):
        return TransposedBases(_bases(convolution(A), exponent))
    if isinstance(A, Diagonal):
        entries = np.broadcast_to(A.values, A.input_shape).reshape(-1, 1, 1)
        return DenseBases.of(list(entries), np.full(len(entries), exponent))
    if not isinstance(A, Convolution):
        return DenseBases.of([dense_matrix(A)], np.full(1, exponent))
    geometry, (kernel, powers) = A.geometry, scaled_kernel(A)
    exponents = powers + exponent
    if (waves := Waves.of(geometry, kernel)) is not None:
        return WaveBases.of(waves, geometry, kernel, exponents)
    if (terms := kronecker(geometry, kernel)) is not None:
        return KroneckerBases.of(geometry, terms, exponents)
    return DenseBases.of(dense_groups(geometry, kernel), exponents)


@dataclass(frozen=True, eq=False, repr=False)
class SVD:
    """A = U diag(sigma) V^H, with U and V applied by fast transforms, or axis by axis. Made by `svd`.

    Every method returns an operator on the images of A, or of its adjoint.

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
    _shapes: tuple[tuple[int, ...], tuple[int, ...]]

    def __repr__(self) -> str:
        largest = float(self.singular_values[0])
        return f"<SVD of a {self.shape[0]} x {self.shape[1]} {self.dtype} operator, sigma_1 = {largest:.6g}>"

    def function(self, f: Function) -> ImageOperator:
        """U diag(f(sigma)) V^H, of the shape of A: a change of the singular values alone.

        Parameters
        ----------
        f : callable
            Takes an array of singular values and returns a real one of the same shape, entry by entry. f(0) should be
            0 unless A has full rank, since the vectors of a repeated singular value 0 are not unique.

        Returns
        -------
        ImageOperator, shape `shape`

        Raises
        ------
        TypeError, ValueError
            If f does not return real numbers, one for each singular value.
        """
        return self._forward(_real_values(f, self._values()), 0)

    def pinv_function(self, f: Function) -> ImageOperator:
        """V diag(f(sigma)) U^H, of the shape of A^H: a regularised inverse, such as sigma / (sigma^2 + damp^2).

        Parameters
        ----------
        f : callable
            As for `function`.

        Returns
        -------
        ImageOperator, shape ``shape[::-1]``

        Raises
        ------
        TypeError, ValueError
            If f does not return real numbers, one for each singular value.
        """
        return self._inverse(_real_values(f, self._values()), 0)

    def operator(self) -> ImageOperator:
        """A itself, applied by its decomposition.

        Returns
        -------
        ImageOperator, shape `shape`
        """
        return self._forward(self._bases.sigma, self._bases.exponents)

    def clip(self, max_value: float, min_value: float = 0.0) -> ImageOperator:
        """The nearest operator whose singular values lie between two values (a lower one needs full rank).

        Parameters
        ----------
        max_value, min_value : float

        Returns
        -------
        ImageOperator, shape `shape`

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

    def pinv(self, rcond: float | None = None) -> ImageOperator:
        """The pseudo-inverse.

        Parameters
        ----------
        rcond : float, optional
            Singular values up to rcond times the largest count as 0; by default max(shape) times the machine epsilon.

        Returns
        -------
        ImageOperator, shape ``shape[::-1]``
        """
        relative = max(self.shape) * np.finfo(self.dtype).eps if rcond is None else rcond
        sigma, powers = self._bases.sigma, self._bases.exponents
        compared = times_power(sigma, powers - powers.max())
        kept = (compared > relative * compared.max()) & (sigma > 0)
        return self._inverse(np.divide(1, sigma, out=np.zeros_like(sigma), where=kept), -powers)

    def _values(self) -> NDArray[np.float64]:
        """The singular values as the bases order them, in double precision."""
        return times_power(self._bases.sigma, self._bases.exponents)

    def _forward(self, weights: NDArray[Any], powers: ArrayLike) -> ImageOperator:
        """U diag(weights 2^powers) V^H."""
        return _Weighted(self._bases, weights, np.asarray(powers), self.dtype, *self._shapes)

    def _inverse(self, weights: NDArray[Any], powers: ArrayLike) -> ImageOperator:
        """V diag(weights 2^powers) U^H."""
        adjoint: ImageOperator = self._forward(weights, powers).H
        return adjoint


class _Weighted(ImageOperator):
    """U diag(weights 2^powers) V^H."""

    def __init__(
        self,
        bases: Bases,
        weights: NDArray[Any],
        powers: NDArray[Any],
        dtype: np.dtype[Any],
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
    ) -> None:
        self._bases, self._weights, self._powers = bases, weights, powers
        super().__init__(dtype, input_shape, output_shape)

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._product(self._bases.to_right, self._bases.from_left, x).reshape(len(x), *self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        conjugated = self._product(self._bases.to_left, self._bases.from_right, y.conj()).conj()
        return conjugated.reshape(len(y), *self.input_shape)

    @blas_on_one_thread()
    def _product(self, to: _Map, back: _Map, images: NDArray[Any]) -> NDArray[Any]:
        """A real map acts on both parts of complex vectors."""
        rows = images.reshape(len(images), math.prod(images.shape[1:]))
        if not len(rows):  # an FFT of no vectors is refused
            return self._product(to, back, np.zeros((1, rows.shape[1]), rows.dtype))[:0]
        parts = self.dtype.kind != "c" and rows.dtype.kind == "c"
        found = back(
            _weighted(to(np.concatenate([rows.real, rows.imag]) if parts else rows), self._weights, self._powers)
        )
        joined = found[: len(rows)] + 1j * found[len(rows) :] if parts else found
        return joined.astype(rows.dtype, copy=False)


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
