"""Least squares with operators on images: the normal operator, preconditioners, and Tikhonov's solution in closed form.

    x = argmin |A x - y|^2 + damp^2 |R x|^2,    (A^H A + damp^2 R^H R) x = A^H y.

The inverses themselves are in `convmat.solve.inverses`, one idea per module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from convmat.matrix import check_bytes
from convmat.operators import ImageOperator, identity, simplify
from convmat.operators.blocks import RULES, Box, Cut, cut, followed, whole
from convmat.products.threads import blas_on_one_thread
from convmat.solve.inverses import INVERSES, Inverse, Problem
from convmat.solve.inverses.choose import choose
from convmat.solve.inverses.terms import is_finite, is_stack
from convmat.solve.limits import check_damp
from convmat.spectrum.scaling import as_dtype, near_one, times_power

_FAR_FROM_LIMITS = 2.0**-30, 2.0**30
"""Images between these need no power of two: their products with an operator near one lose no digits."""

_RTOL = 1e-6
"""What a preconditioner is chosen for, where nobody says how far it is to go."""


class _Hermitian(ImageOperator):
    """An operator that is its own adjoint."""

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._forward(y.conj()).conj()) if y.dtype.kind == "c" else self._forward(y)

    def _adjoint(self) -> Self:
        return self


class NormalOperator(_Hermitian):
    """A^H A + damp^2 R^H R: made by `normal`."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._damp = problem.scaled(), problem.damp
        self._given = problem.operator, problem.regularizer
        shape = problem.operator.input_shape
        super().__init__(problem.given_dtype, shape, shape)

    def _made_of(self) -> tuple[ImageOperator, ...]:
        return tuple(part for part in (self._problem.operator, self._problem.regularizer) if part is not None)

    @property
    def damp(self) -> float:
        """The damping."""
        return self._damp

    def expression(self) -> ImageOperator:
        """The same, as the algebra writes it.

        Returns
        -------
        ImageOperator
        """
        A, R = self._given
        penalty = identity(A.input_shape, dtype=A.dtype) if R is None else R.H @ R
        total: ImageOperator = A.H @ A + self._damp**2 * penalty if self._damp else A.H @ A
        return total

    @blas_on_one_thread()
    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        images = x.reshape(len(x), self._problem.channels, *self._problem.size)
        largest = float(np.abs(images).max(initial=0))
        if not _FAR_FROM_LIMITS[0] < largest < _FAR_FROM_LIMITS[1]:  # NaN too
            images, powers = near_one(images)
            return times_power(self._problem.normal(images), powers + self._problem.normal_power).reshape(x.shape)
        return times_power(self._problem.normal(images), self._problem.normal_power).reshape(x.shape)

    def tosparse(self, format: str = "csr") -> Any:
        problem = self._problem
        total = problem.shift * sparse.eye_array(self.shape[0], dtype=self.dtype, format="csr")
        for term, weight in zip(problem.terms, problem.weights, strict=True):
            matrix = term.tosparse()
            total = total + weight**2 * (matrix.conj().T @ matrix)
        total.data = as_dtype(times_power(total.data, problem.normal_power), self.dtype)
        total.sort_indices()
        return total if format == "csr" else total.asformat(format)


class Preconditioner(_Hermitian):
    """An approximate inverse of the normal operator: made by `preconditioner`."""

    def __init__(self, inverse: Inverse, shape: tuple[int, ...] | None = None) -> None:
        self._inverse = inverse
        shape = inverse.problem.operator.input_shape if shape is None else shape
        super().__init__(inverse.problem.given_dtype, shape, shape)

    def _made_of(self) -> tuple[ImageOperator, ...]:
        problem = self._inverse.problem
        return tuple(part for part in (problem.operator, problem.regularizer) if part is not None)

    @property
    def kind(self) -> str:
        """What it is: "kronecker", "circulant", "dct", "framed", "schwarz", "direct" (one patch) or "identity"."""
        return self._inverse.name

    @property
    def exact(self) -> bool:
        """Whether it is the inverse, to rounding."""
        return self._inverse.exact

    @blas_on_one_thread()
    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        if not len(x):  # an FFT of no images is refused
            return x.copy()
        problem = self._inverse.problem
        wide = np.result_type(x, np.float64)
        images, join = split(problem, x.astype(wide).reshape(len(x), problem.channels, *x.shape[-problem.ndim :]))
        images, powers = near_one(images)
        found = times_power(self._inverse.apply(images), powers - problem.normal_power)
        return as_dtype(join(found), x.dtype).reshape(x.shape)


def _cut_normal(N: NormalOperator, box: Box) -> Cut:
    return cut(N.expression(), box)


def _cut_preconditioner(M: Preconditioner, box: Box) -> Cut:
    """The parts of the inverse that reach a box of its result, on the samples that they read."""
    problem = M._inverse.problem
    spatial = box[-problem.ndim :]
    part, hull = M._inverse.reaching(tuple((runs[0][0], runs[-1][1]) for runs in spatial))
    channels = M.input_shape[: -problem.ndim]
    shape = (*channels, *(stop - start for start, stop in hull))
    inside = tuple(
        tuple((a - start, b - start) for a, b in runs) for runs, (start, _) in zip(spatial, hull, strict=True)
    )
    picked = followed(Preconditioner(part, shape), (*box[: -problem.ndim], *inside))
    return picked, (*whole(channels), *((along,) for along in hull))


RULES[NormalOperator] = _cut_normal
RULES[Preconditioner] = _cut_preconditioner


def normal(A: ImageOperator, damp: float = 0.0, *, regularizer: ImageOperator | None = None) -> NormalOperator:
    r"""The normal operator :math:`A^H A + damp^2 R^H R` as a `LinearOperator`, with ``tosparse()``.

    Parameters
    ----------
    A : ImageOperator
    damp : float
        Not negative.
    regularizer : ImageOperator, optional
        R, with the same `input_shape` as A; the identity by default.

    Returns
    -------
    NormalOperator, shape (A.shape[1], A.shape[1])
        Self-adjoint: ``N.H is N``.

    Raises
    ------
    TypeError
        If A or the regularizer is not one of convmat's operators, or damp is not a real number.
    ValueError
        If damp is negative or not finite, a weight is not finite, or the input shapes differ.

    See Also
    --------
    preconditioner, tikhonov

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv1d
    >>> from convmat import normal
    >>> A = Conv1d([1.0, 2.0, 1.0], 6, padding="same", padding_mode="reflect")
    >>> N = normal(A, 0.1)
    >>> bool(np.allclose(N.toarray(), A.toarray().T @ A.toarray() + 0.01 * np.eye(6)))
    True
    """
    return NormalOperator(problem_of(A, damp, regularizer))


@blas_on_one_thread()
def preconditioner(
    A: ImageOperator, damp: float, *, regularizer: ImageOperator | None = None, kind: str = "auto"
) -> Preconditioner:
    r"""An approximate inverse of the normal operator, Hermitian and positive definite.

    Ready for ``scipy.sparse.linalg.cg(normal(A, damp), A.H @ y, M=preconditioner(A, damp))``.

    Parameters
    ----------
    A : ImageOperator
    damp : float
        Not negative.
    regularizer : ImageOperator, optional
        R, with the same `input_shape` as A; the identity by default.
    kind : {"auto", "kronecker", "circulant", "dct", "framed", "schwarz", "identity"}
        * "kronecker": the inverse of the best separable neighbour of A, by the singular values of its axis matrices
          [1]_. Exact for separable kernels, under every padding mode and stride. No mixing of channels.
        * "circulant": by FFT, with one block per frequency [2]_. Exact for circular padding with a stride that divides
          the size, several channels and groups included. Elsewhere the image is embedded in a larger torus [3]_, and
          small eigenvalues are lifted [4]_.
        * "dct": by cosines. Exact for symmetric padding with even kernels [5]_; elsewhere the diagonal of A^H A in the
          cosines, lifted. Stride 1, no mixing of channels.
        * "framed": by FFT inside, tapered to the border, and the exact inverses of overlapping patches along it, of
          16 x 16 to 20 x 20 in the plane: every padding mode, any kernel. Stride 1. In single precision where that
          resolves damp^2.
        * "schwarz": the sum of the exact inverses of overlapping patches (24 x 24 in the plane) of the normal
          operator, border included [6]_: every geometry. Exact where one patch holds the whole problem.
        * "identity": none.
        * "auto": the first that is exact. If none is, "kronecker", "framed" or "identity", whichever is expected to be
          through first: seconds are compared, of making it and of all steps. A keeps the last two made for it.

    Returns
    -------
    Preconditioner, shape (A.shape[1], A.shape[1])
        A `LinearOperator` with the attributes `kind` and `exact`.

    Raises
    ------
    TypeError
        If A or the regularizer is not one of convmat's operators, or damp is not a real number.
    ValueError
        If damp is negative or not finite, a weight is not finite, the input shapes differ, or the kind is unknown or
        does not exist for this geometry.
    numpy.linalg.LinAlgError
        If the normal operator of the neighbour is singular to rounding, as with damp = 0.

    See Also
    --------
    tikhonov : does all of this.

    Notes
    -----
    A circulant neighbour without its lift is worse than no preconditioner at a border that reflects: what differs at
    the border is amplified by 1 / damp^2. Patches have no such difference: with additive Schwarz, the eigenvalues of
    M (A^H A + damp^2) are at most the number of patches that meet in a sample, 2^D. "framed" joins the two: the taper
    takes the circulant inverse away from the border, and patches stand there alone.

    References
    ----------
    .. [1] J. Kamm, J. G. Nagy, "Kronecker product and SVD approximations in image restoration", Linear Algebra Appl.
       284, 1998; J. Nagy, M. Ng, L. Perrone, "Kronecker product approximations for image restoration with reflexive
       boundary conditions", SIAM J. Matrix Anal. Appl. 25, 2003.
    .. [2] T. Chan, "An optimal circulant preconditioner for Toeplitz systems", SIAM J. Sci. Stat. Comput. 9, 1988.
    .. [3] M. Hanke, J. G. Nagy, "Inverse Toeplitz preconditioners for ill-posed problems", Linear Algebra Appl. 284,
       1998.
    .. [4] M. Hanke, J. G. Nagy, R. Plemmons, "Preconditioned iterative regularization for ill-posed problems", 1993.
    .. [5] M. Ng, R. Chan, W.-C. Tang, "A fast algorithm for deblurring models with Neumann boundary conditions", SIAM
       J. Sci. Comput. 21, 1999.
    .. [6] B. Smith, P. Bjorstad, W. Gropp, "Domain decomposition", 1996.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse.linalg import cg
    >>> from convmat import Conv2d
    >>> from convmat import normal, preconditioner
    >>> k = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    >>> A = Conv2d(np.outer(k, k) / k.sum() ** 2, (64, 64), padding=3, padding_mode="reflect")
    >>> M = preconditioner(A, 1e-2)
    >>> M.kind, M.exact
    ('kronecker', True)
    >>> steps = []
    >>> x, failed = cg(normal(A, 1e-2), A.H @ np.ones(A.shape[0]), M=M, rtol=1e-8, callback=steps.append)
    >>> failed, len(steps) <= 2
    (0, True)
    """
    problem = problem_of(A, damp, regularizer).scaled()
    if not isinstance(kind, str):
        raise TypeError(f"kind={kind!r} must be a word")
    if kind == "auto":
        check_bytes(
            f"a preconditioner of {problem.unknowns} unknowns, on two images,",
            4 * problem.dtype.itemsize * problem.unknowns,
            "cut the image into parts that overlap, and solve for each; scipy's lsqr(A, y, damp=damp) needs none",
        )
        return Preconditioner(choose(problem, _RTOL))
    if kind not in INVERSES:
        raise ValueError(f"kind={kind!r} must be one of 'auto', {', '.join(map(repr, INVERSES))}")
    try:
        return Preconditioner(INVERSES[kind](problem))
    except np.linalg.LinAlgError:
        raise
    except ValueError as error:
        raise ValueError(f"kind={kind!r} does not exist for this problem: {error}") from error


def problem_of(A: ImageOperator, damp: float, regularizer: ImageOperator | None) -> Problem:
    """The arguments, checked."""
    for name, operator in (("A", A), ("regularizer", regularizer)):
        if operator is None and name == "regularizer":
            continue
        if not isinstance(operator, ImageOperator):
            raise TypeError(
                f"{name} is a {type(operator).__name__}: it must be an operator of convmat; for other operators use "
                f"scipy's lsqr or cg"
            )
        if not is_finite(operator):
            raise ValueError(f"the weight of {name} has entries that are not finite: there is nothing to solve")
    if regularizer is not None and regularizer.input_shape != A.input_shape:
        raise ValueError(
            f"regularizer has input_shape {regularizer.input_shape}: it must be that of A, {A.input_shape}"
        )
    short = None if regularizer is None else _short(regularizer)
    return Problem(_short(A), check_damp(damp), short, asked=(A, regularizer))


def _short(A: ImageOperator) -> ImageOperator:
    """An equal operator of fewer parts; a stack stays one, whose parts are terms."""
    return A if is_stack(A) else simplify(A)


def split(problem: Problem, images: NDArray[Any]) -> tuple[NDArray[Any], Callable[[NDArray[Any]], NDArray[Any]]]:
    """A real problem takes the real and imaginary parts of complex images as images of their own."""
    if images.dtype.kind != "c" or problem.dtype.kind == "c":
        return images.astype(np.result_type(images, problem.dtype), copy=False), lambda x: x
    count = len(images)
    return np.concatenate([images.real, images.imag]), lambda x: x[:count] + 1j * x[count:]
