"""Tikhonov's solution, for one damp, for several, or for the one that the data choose.

x = argmin |A x - y|^2 + damp^2 |R x|^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.geometry import result_dtype
from convmat.operators import ImageOperator
from convmat.products.threads import blas_on_one_thread
from convmat.solve.damping import RULES, chosen, cross_validation, curve
from convmat.solve.inverses import Identity, Inverse, Problem
from convmat.solve.inverses.cg import Solution, conjugate_gradients
from convmat.solve.inverses.choose import choose, exact
from convmat.solve.inverses.modes import Modes
from convmat.solve.inverses.shifted import shifted_conjugate_gradients
from convmat.solve.limits import check_damp, check_maxiter, check_noise, check_rtol
from convmat.solve.solver import problem_of, split
from convmat.spectrum.scaling import as_dtype, near_one, times_power, times_two_to

Report = Callable[[NDArray[Any]], object]
Images = Callable[[NDArray[Any]], NDArray[Any]]

_FAR = 2.0**200
"""Dampings this many times larger or smaller than A are solved for alone."""


@dataclass(frozen=True)
class SolveInfo:
    """How `tikhonov` found its solution.

    Attributes
    ----------
    method : str
        A closed form, "circulant", "kronecker", "dct" or "direct"; or "cg", "cg, preconditioned by ..." or, of several
        dampings at once, "cg, shifted".
    iterations : int
        Steps of conjugate gradients, the most of any right-hand side; 0 for a closed form that needed no correction.
    relative_residual : float
        The largest |A^H y - (A^H A + damp^2 R^H R) x| / |A^H y| of all right-hand sides, computed from x in double
        precision, before it is rounded to the dtype of the result.
    converged : bool
        Whether that and `relative_error` are at most `rtol`.
    relative_error : float
        The largest |x - x*| / |x*| of all right-hand sides, in the norm |x|^2 = |A x|^2 + damp^2 |R x|^2: an estimate,
        where it is not a bound. See `tikhonov`.
    damp : float or tuple of floats
        The damp that was taken; of several, all of them, and what stands above is of the worst.
    """

    method: str
    iterations: int
    relative_residual: float
    converged: bool
    relative_error: float
    damp: float | tuple[float, ...]


@blas_on_one_thread()
def tikhonov(
    A: ImageOperator,
    y: ArrayLike,
    damp: float | Sequence[float] | str,
    *,
    regularizer: ImageOperator | None = None,
    noise: float | None = None,
    x0: ArrayLike | None = None,
    rtol: float = 1e-8,
    maxiter: int | None = None,
    callback: Report | None = None,
) -> tuple[NDArray[Any], SolveInfo]:
    r"""Tikhonov's solution, :math:`argmin_x |A x - y|^2 + damp^2 |R x|^2`, in closed form wherever there is one.

    Parameters
    ----------
    A : ImageOperator
    y : array_like
        Of shape `A.output_shape`, (A.shape[0],), (A.shape[0], columns), or (*batch, *A.output_shape); the first of
        these that fits. Real or complex.
    damp : float, sequence of floats, "gcv" or "discrepancy"
        * A number, not negative.
        * Several: one decomposition, or one Krylov space where there is none, serves all of them.
        * "gcv": the minimum of generalised cross-validation [5]_, which needs to know nothing of the noise but that it
          is white.
        * "discrepancy": the residual has the norm of the noise [6]_.

        One damp is chosen for all right-hand sides together; `info.damp` tells it.
    regularizer : ImageOperator, optional
        R, with the same `input_shape` as A: finite differences, a Laplacian; the identity by default.
    noise : float, optional
        For "discrepancy", the standard deviation of the noise of a sample of y, in its units. Without it, it is what
        generalised cross-validation takes for noise; where that is less than a tenth of the degrees of freedom, it is
        refused.
    x0 : array_like, optional
        Where conjugate gradients begin, of the shape of x or of one image; zeros by default. Closed forms, and several
        dampings without a regularizer, begin nowhere.
    rtol : float
        The solution has converged when two numbers are at most this: the relative residual of the normal equations, and
        the estimated relative error of x in the energy norm, |x|_E^2 = |A x|^2 + damp^2 |R x|^2. See Notes.
    maxiter : int, optional
        Most steps of conjugate gradients; by default ten times the number of unknowns, at most 10,000.
    callback : callable, optional
        Called as ``callback(x)`` after every step, with x in the shape of the result. Of one damp.

    Returns
    -------
    x : ndarray
        In the shape that goes with that of y: `A.input_shape`, (A.shape[1],), (A.shape[1], columns) or
        (*batch, *A.input_shape). In the result type of A, R and y; computed in double precision. Of several dampings,
        the results are stacked on a new first axis.
    info : SolveInfo
        `method`, `iterations`, `relative_residual`, `converged`, `relative_error`, `damp`.

    Raises
    ------
    TypeError
        If A or the regularizer is not one of convmat's operators, or y, damp, noise or x0 are not numbers.
    ValueError
        If damp is negative or not finite, or another word; noise is not positive, or given for another damp than
        "discrepancy", or larger than y or smaller than what no x explains, or cannot be estimated; y, x0 or a weight is
        not finite; or shapes do not fit.
    numpy.linalg.LinAlgError
        If the solution is not unique and that is known: damp = 0 and A with fewer rows than columns, or a closed form
        that would divide by rounding errors.

    See Also
    --------
    preconditioner : what is used where there is no closed form.
    lcurve : the norms of the residual and of the solution, for a picture.
    cgls : for data in dask arrays.

    Notes
    -----
    Closed forms, in this order:

    * circular convolutions with a stride that divides the size, several channels and groups included: one small block
      per frequency, and Woodbury's identity where it is wider than high, as in super-resolution [1]_;
    * separable kernels, under every padding mode and stride: singular values of the axis matrices [2]_, or eigenvectors
      that A and the regularizer share along each axis;
    * symmetric padding with even kernels: the discrete cosine transform [3]_;
    * at most 1024 unknowns: a QR or Cholesky decomposition, of every operator.

    A and the regularizer are simplified first. A stack (`vstack`) of convolutions is a sum of terms in the normal
    equations, of which each closed form takes any number: differences along all axes, of all channels. Where nothing of
    the structure is known, plain conjugate gradients are what is left.

    Otherwise conjugate gradients with `preconditioner`. A closed form that rounding errors leave short of `rtol` is
    corrected by steps of the same. Several right-hand sides run together, and share all decompositions.

    *How the damp is chosen.* In closed forms, by sums over the singular values, or over those of the pair of A and R.
    Else by a bidiagonalisation of A that starts from y, and for "gcv" from random signs as well, whose steps give those
    sums for every damp at once [7]_; nothing of it but a few numbers is kept, and the solution follows. With a
    regularizer that has no closed form with A, each damp that is looked at is solved for. "gcv" is right on average for
    white noise; where the noise of neighbours is alike, as in photographs that were compressed or enlarged, it takes
    too little. "discrepancy" takes somewhat too much, the more the better A is invertible.

    *What converged means.* A small residual says little about x, least of all with a preconditioner. What conjugate
    gradients minimise is the error in the energy norm, and |x - x*|_E^2 is by how much the objective |A x - y|^2 +
    damp^2 |R x|^2 exceeds its minimum. It is estimated from what the steps take off it [4]_; without a regularizer, the
    estimate is never above the proven bound |residual| / damp. In the norm of x itself, without a regularizer, the
    error is at most 1 / damp times that in the energy norm. Scaling A, y, R or damp by powers of two changes no digit.

    References
    ----------
    .. [1] N. Zhao, Q. Wei, A. Basarab, N. Dobigeon, D. Kouame, J.-Y. Tourneret, "Fast single image super-resolution
       using a new analytical solution for l2-l2 problems", IEEE Trans. Image Process. 25, 2016.
    .. [2] J. Kamm, J. G. Nagy, "Kronecker product and SVD approximations in image restoration", Linear Algebra Appl.
       284, 1998.
    .. [3] M. Ng, R. Chan, W.-C. Tang, "A fast algorithm for deblurring models with Neumann boundary conditions", SIAM
       J. Sci. Comput. 21, 1999.
    .. [4] G. Meurant, J. Papez, P. Tichy, "Accurate error estimation in CG", Numer. Algorithms 88, 2021.
    .. [5] G. Golub, M. Heath, G. Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter",
       Technometrics 21, 1979; P. C. Hansen, J. G. Nagy, D. P. O'Leary, "Deblurring images", 2006, chapter 6.
    .. [6] V. A. Morozov, "On the solution of functional equations by the method of regularization", 1966.
    .. [7] G. Golub, U. von Matt, "Generalized cross-validation for large-scale problems", J. Comput. Graph. Stat. 6,
       1997.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse.linalg import lsqr
    >>> from convmat import Conv2d
    >>> from convmat import tikhonov
    >>> rng = np.random.default_rng(0)
    >>> k = np.array([1.0, 2.0, 1.0]) / 4
    >>> A = Conv2d(np.outer(k, k), (12, 10), stride=2, padding=1, padding_mode="replicate")
    >>> y = rng.standard_normal(A.output_shape)
    >>> x, info = tikhonov(A, y, 0.1)
    >>> info.method, info.iterations, info.converged
    ('kronecker', 0, True)
    >>> bool(np.allclose(x.ravel(), lsqr(A, y.ravel(), damp=0.1, atol=1e-12, btol=1e-12)[0]))
    True
    >>> path, info = tikhonov(A, y, [1.0, 0.1, 0.01])
    >>> path.shape, bool(np.allclose(path[1], x))
    ((3, 12, 10), True)
    >>> found, info = tikhonov(A, y, "discrepancy", noise=0.5)
    >>> bool(np.isclose(np.linalg.norm(A.apply(found) - y), 0.5 * np.sqrt(y.size)))
    True
    """
    damps = _damps(damp)
    rule = damp if isinstance(damp, str) else None
    if rule is None and noise is not None:
        raise ValueError(f"noise={noise!r} is for damp='discrepancy': a damp that is given needs none")
    if rule == "gcv" and noise is not None:
        raise ValueError(f"noise={noise!r} is for damp='discrepancy': 'gcv' does not use it")
    if rule is None and isinstance(damps, tuple) and callback is not None:
        raise ValueError("callback is for one damp, and not for several")
    std = None if noise is None else check_noise(noise)
    given = problem_of(A, 1.0, regularizer)
    rtol, most = check_rtol(rtol), check_maxiter(maxiter, given.unknowns)
    if 0.0 in (damps if isinstance(damps, tuple) else (damps,)) and A.shape[0] < A.shape[1]:
        raise np.linalg.LinAlgError(
            f"damp={damp!r} leaves x undetermined: A has {A.shape[0]} rows and {A.shape[1]} columns; give a damp > 0"
        )
    data = _Data.of(A, given, y)
    start = None if x0 is None else data.start(x0)
    if rule is not None:
        shared = _Shared.of(given, data)
        damps = shared.chosen(rule, std, most)
        if shared.modes is not None:
            (solved,) = _path(shared, (damps,), start, rtol, most, callback)
            return solved.x, SolveInfo(solved.method, *solved.told(rtol), damps)
    if not len(data.images):
        return _of_nothing(data, damps)
    if isinstance(damps, float):
        solved = _one(given, data, damps, start, rtol, most, callback)
        return solved.x, SolveInfo(solved.method, *solved.told(rtol), damps)
    path = _path(_Shared.of(given, data), damps, start, rtol, most, None)
    words = ", ".join(dict.fromkeys(one.method for one in path))
    worst = _Solved(path[0].x, words, *(max(values) for values in zip(*(one.numbers for one in path), strict=True)))
    return np.stack([one.x for one in path]), SolveInfo(words, *worst.told(rtol), damps)


@blas_on_one_thread()
def lcurve(
    A: ImageOperator, y: ArrayLike, damps: Sequence[float], *, regularizer: ImageOperator | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""The two norms that Tikhonov's method weighs against each other, :math:`|A x - y|` and :math:`|R x|`.

    Drawn against each other on logarithmic axes they often have the shape of an L, and a damp near its corner is a good
    one. `convmat.plot.lcurve` draws it; nothing here looks for the corner, which need not be there.

    Parameters
    ----------
    A : ImageOperator
    y : array_like
        As for `tikhonov`; of several right-hand sides, the norms of all together.
    damps : sequence of floats
        Positive.
    regularizer : ImageOperator, optional
        R, with the same `input_shape` as A; the identity by default.

    Returns
    -------
    residual_norms, solution_norms : ndarray of float64, shape (len(damps),)
        :math:`|A x - y|`, which grows with the damp, and :math:`|R x|`, which falls. From a closed form they are those
        of `tikhonov`'s solutions, to rounding; else from a bidiagonalisation that is carried on until they change by
        less than 1e-4, for at most 1,000 steps.

    Raises
    ------
    TypeError, ValueError
        As `tikhonov`, and if a damp is zero.

    See Also
    --------
    tikhonov, convmat.plot.lcurve

    References
    ----------
    .. [1] P. C. Hansen, D. P. O'Leary, "The use of the L-curve in the regularization of discrete ill-posed problems",
       SIAM J. Sci. Comput. 14, 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv1d, lcurve, tikhonov
    >>> A = Conv1d([1.0, 2.0, 1.0], 40, padding=1, padding_mode="reflect")
    >>> y = A.apply(np.sin(np.arange(40.0))) + 0.1 * np.cos(3.0 * np.arange(40))
    >>> residuals, solutions = lcurve(A, y, [0.01, 0.1, 1.0])
    >>> x, info = tikhonov(A, y, 0.1)
    >>> bool(np.isclose(residuals[1], np.linalg.norm(A.apply(x) - y)))
    True
    >>> bool(np.isclose(solutions[1], np.linalg.norm(x)))
    True
    """
    shared, wanted = _sums(A, y, damps, regularizer)
    residuals, solutions = curve(shared.unit, shared.modes, shared.images, wanted, check_maxiter(None, A.shape[1]))
    return np.ldexp(residuals, shared.exponent), np.ldexp(solutions, shared.exponent + shared.r - shared.a)


@blas_on_one_thread()
def gcv_curve(
    A: ImageOperator, y: ArrayLike, damps: Sequence[float], *, regularizer: ImageOperator | None = None
) -> NDArray[np.float64]:
    """The function of generalised cross-validation, |A x - y|^2 / trace(I - influence)^2, at each of some dampings."""
    shared, wanted = _sums(A, y, damps, regularizer)
    most = check_maxiter(None, A.shape[1])
    return np.ldexp(cross_validation(shared.unit, shared.modes, shared.images, wanted, most), 2 * shared.exponent)


def _sums(
    A: ImageOperator, y: ArrayLike, damps: Any, regularizer: ImageOperator | None
) -> tuple[_Shared, tuple[float, ...]]:
    """What the dampings share, and these in its units."""
    wanted = _damps(damps)
    if not isinstance(wanted, tuple) or min(wanted) <= 0:
        raise ValueError(f"damps={damps!r} must be a sequence of positive numbers")
    given = problem_of(A, 1.0, regularizer)
    shared = _Shared.of(given, _Data.of(A, given, y))
    scaled = tuple(times_two_to(damp, shared.r - shared.a) for damp in wanted)
    if not 1 / _FAR < min(scaled) <= max(scaled) < _FAR:
        raise ValueError(f"damps={damps!r} must be within a factor of {_FAR:.0e} of the numbers of A over those of R")
    return shared, scaled


@dataclass(frozen=True)
class _Data:
    """y as the solvers take it, a batch of images near 1, and the way back to the shape and the dtype of the result.

    Attributes
    ----------
    images : ndarray, (batch, *output_shape)
        Divided by 2^powers; of complex data and a real A, real and imaginary parts.
    powers : ndarray, (batch, 1..)
    entries : int
        The numbers in y.
    """

    images: NDArray[Any]
    powers: NDArray[np.int64]
    entries: int
    dtype: np.dtype[Any]
    batch: _Batch
    join: Images

    @classmethod
    def of(cls, A: ImageOperator, problem: Problem, y: ArrayLike) -> _Data:
        """The data, checked."""
        array = np.asarray(y)
        dtype = result_dtype(problem.given_dtype, array, "y")
        batch = _as_batch(A, array)
        _check_finite("y", array)
        images, join = split(problem, batch.images(array).astype(np.result_type(array, np.float64)))
        images, powers = near_one(images)
        return cls(images, powers.reshape(-1, *(1,) * (1 + problem.ndim)), array.size, dtype, batch, join)

    def together(self) -> tuple[NDArray[Any], int]:
        """All images divided by one power of two, and its exponent."""
        most = int(self.powers.max()) if len(self.powers) else 0
        return times_power(self.images, (self.powers - most).reshape(-1, *(1,) * (self.images.ndim - 1))), most

    def start(self, x0: ArrayLike) -> NDArray[Any]:
        """A starting point, as x before it is put into the shape of the result."""
        array = np.asarray(x0)
        result_dtype(self.dtype, array, "x0")
        _check_finite("x0", array)
        if array.dtype.kind == "c" and self.dtype.kind != "c":
            raise TypeError(f"x0 has the dtype {array.dtype}: x is real, {self.dtype}")
        found = self.batch.solutions(array)
        if found is None:
            raise ValueError(f"x0 has shape {array.shape}: it must be {self.batch.shapes}")
        doubled = len(self.images) == 2 * len(found) and len(found)
        wide = found.astype(np.result_type(found, np.float64))
        return np.concatenate([wide.real, wide.imag]) if doubled else wide

    def result(self, x: NDArray[Any], powers: Any) -> NDArray[Any]:
        """2^powers times what was found for the images, in the shape that goes with y."""
        return self.batch.restore(as_dtype(self.join(times_power(x, powers)), self.dtype))


@dataclass(frozen=True)
class _Solved:
    """The solution for one damp, and how it was found."""

    x: NDArray[Any]
    method: str
    iterations: int
    residual: float
    error: float

    @classmethod
    def of(cls, data: _Data, found: Solution, powers: Any, method: str) -> _Solved:
        """The solution as the caller wants it, 2^powers times what was found."""
        x = data.result(found.x, powers)
        if not np.isfinite(x).all():
            raise ValueError(
                f"x has entries beyond the largest {x.dtype}, {np.finfo(x.dtype).max:.3g}: divide y by a power of ten, "
                f"or A and y both"
            )
        return cls(x, method, found.iterations, found.residual, found.error)

    @property
    def numbers(self) -> tuple[int, float, float]:
        """Steps, residual and error."""
        return self.iterations, self.residual, self.error

    def told(self, rtol: float) -> tuple[int, float, bool, float]:
        """What `SolveInfo` tells."""
        return self.iterations, self.residual, max(self.residual, self.error) <= rtol, self.error


class _Late(Inverse):
    """An exact inverse that is made when it is needed."""

    def __init__(self, problem: Problem, name: str) -> None:
        self.problem, self.name, self.exact = problem, name, True

    @cached_property
    def _made(self) -> Inverse:
        found = exact(self.problem)
        return Identity(self.problem) if found is None else found

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        return self._made.apply(r)


def _one(
    given: Problem,
    data: _Data,
    damp: float,
    start: NDArray[Any] | None,
    rtol: float,
    most: int,
    callback: Report | None,
) -> _Solved:
    """The solution for one damp."""
    problem = given.damped(damp).scaled()
    powers, right = data.powers + problem.solution_power, problem.right_side(data.images)
    report = None if callback is None else (lambda x: callback(data.result(x, powers)))
    inverse = choose(problem, rtol)
    if inverse.exact:
        first: NDArray[Any] | None = inverse.solve(data.images)
    else:
        first = None if start is None else times_power(start.reshape(right.shape), -powers)
    found = conjugate_gradients(problem, right, inverse, start=first, rtol=rtol, maxiter=most, callback=report)
    return _Solved.of(data, found, powers, _method(inverse, found, rtol))


def _method(inverse: Inverse, found: Solution, rtol: float) -> str:
    converged = max(found.residual, found.error) <= rtol
    if inverse.exact and (found.iterations == 0 or converged):
        return inverse.name
    return "cg" if inverse.name == "identity" else f"cg, preconditioned by {inverse.name}"


@dataclass(frozen=True)
class _Shared:
    """What several dampings share: the problem of damp 1, and its modes where there is a closed form.

    For the damp 2^(a - r) d of the caller, x is 2^(exponent - a) times that of the images for the damp d.
    """

    given: Problem
    data: _Data
    unit: Problem
    a: int
    r: int
    images: NDArray[Any]
    exponent: int

    @classmethod
    def of(cls, given: Problem, data: _Data) -> _Shared:
        return cls(given, data, *given.of_one(), *data.together())

    @cached_property
    def inverse(self) -> Inverse | None:
        """The closed form."""
        return exact(self.unit)

    @cached_property
    def modes(self) -> Modes | None:
        """The data in its bases."""
        return None if self.inverse is None else self.inverse.modes(self.images)

    def chosen(self, rule: str, noise: float | None, most: int) -> float:
        """The damp that a rule takes."""
        if not self.images.any():
            raise ValueError(f"damp={rule!r} is chosen by the data, and y has none: all of it is zero")
        size = None if noise is None else times_two_to(noise, -self.exponent) * math.sqrt(self.data.entries)
        return math.ldexp(chosen(rule, self.unit, self.modes, self.images, size, most), self.a - self.r)


def _path(
    shared: _Shared,
    damps: tuple[float, ...],
    start: NDArray[Any] | None,
    rtol: float,
    most: int,
    callback: Report | None,
) -> list[_Solved]:
    """The solutions for several dampings."""
    unit, data, powers = shared.unit, shared.data, shared.exponent - shared.a
    report = None if callback is None else (lambda x: callback(data.result(x, powers)))
    scaled = {damp: times_two_to(damp, shared.r - shared.a) for damp in damps}
    near = sorted({damp for damp in damps if 1 / _FAR < scaled[damp] < _FAR}, reverse=True)
    found = {damp: _one(shared.given, data, damp, start, rtol, most, None) for damp in set(damps) - set(near)}
    right, begin = unit.right_side(shared.images), None
    if shared.modes is None and unit.regularizer is None and near:
        wanted = [scaled[damp] for damp in near]
        solutions = shifted_conjugate_gradients(unit, right, wanted, rtol=rtol, maxiter=most)
        for damp, one in zip(near, solutions, strict=True):
            found[damp] = _Solved.of(data, one, powers, "cg, shifted")
        near = []
    if start is not None:
        begin = times_power(start.reshape(right.shape), -powers)
    for damp in near:
        problem = unit.damped(scaled[damp])
        if shared.modes is not None and shared.inverse is not None:
            inverse: Inverse = _Late(problem, shared.inverse.name)
            begin = shared.modes.solution(scaled[damp])
        else:
            inverse = choose(problem, rtol)
        solution = conjugate_gradients(problem, right, inverse, start=begin, rtol=rtol, maxiter=most, callback=report)
        found[damp], begin = _Solved.of(data, solution, powers, _method(inverse, solution, rtol)), solution.x
    return [found[damp] for damp in damps]


def _of_nothing(data: _Data, damps: float | tuple[float, ...]) -> tuple[NDArray[Any], SolveInfo]:
    """The solution of no right-hand side."""
    nothing = data.batch.restore(np.zeros((0, *data.batch.size), data.dtype))
    x = nothing if isinstance(damps, float) else np.stack([nothing] * len(damps))
    return x, SolveInfo("direct", 0, 0.0, True, 0.0, damps)


def _damps(damp: Any) -> float | tuple[float, ...]:
    """One damp or several, checked; of a word, none is known."""
    if isinstance(damp, str):
        if damp not in RULES:
            raise ValueError(
                f"damp={damp!r} must be a number, a sequence of numbers, or {' or '.join(map(repr, RULES))}"
            )
        return math.nan
    if isinstance(damp, Sequence) or (isinstance(damp, np.ndarray) and damp.ndim == 1):
        if not len(damp):
            raise ValueError(f"damp={damp!r} must have at least one number")
        return tuple(check_damp(one) for one in damp)
    return check_damp(damp)


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        count = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
        raise ValueError(f"{name} has {count} entries that are not finite (NaN or infinite): leave no gap in the data")


@dataclass(frozen=True)
class _Batch:
    """How y, and x with it, are batches of images."""

    lead: tuple[int, ...]  # batch axes in front
    size: tuple[int, ...]  # input_shape
    outs: tuple[int, ...]  # output_shape
    flat: bool  # whether images are columns

    def images(self, y: NDArray[Any]) -> NDArray[Any]:
        """(batch, *output_shape)."""
        return (y.T if self._columns else y).reshape(math.prod(self.lead), *self.outs)

    def solutions(self, x: NDArray[Any]) -> NDArray[Any] | None:
        """(batch, *input_shape) of what has the shape of the result, or of one image; None of another shape."""
        count = math.prod(self.lead)
        if x.shape == self._result:
            return (x.T if self._columns else x).reshape(count, *self.size)
        if x.shape in (self.size, (math.prod(self.size),)):
            return np.broadcast_to(x.reshape(self.size), (count, *self.size))
        return None

    def restore(self, x: NDArray[Any]) -> NDArray[Any]:
        """The batch of solutions in the shape that goes with y."""
        if self._columns:
            return x.reshape(*self.lead, -1 if x.size else math.prod(self.size)).T
        return x.reshape(self._result)

    @property
    def shapes(self) -> str:
        """The shapes that a starting point may have."""
        return " or ".join(map(str, dict.fromkeys([self._result, self.size])))

    @property
    def _columns(self) -> bool:
        return self.flat and self.lead != ()

    @property
    def _result(self) -> tuple[int, ...]:
        image = (math.prod(self.size),) if self.flat else self.size
        return (*image, *self.lead) if self.flat else (*self.lead, *image)


def _as_batch(A: ImageOperator, y: NDArray[Any]) -> _Batch:
    """What the shape of the data says."""
    outs, (rows, _) = A.output_shape, A.shape
    lead = y.ndim - len(outs)
    if y.shape == outs:
        return _Batch((), A.input_shape, outs, False)
    if y.shape == (rows,):
        return _Batch((), A.input_shape, outs, True)
    if y.ndim == 2 and len(y) == rows:
        return _Batch(y.shape[1:], A.input_shape, outs, True)
    if lead > 0 and y.shape[lead:] == outs:
        return _Batch(y.shape[:lead], A.input_shape, outs, False)
    raise ValueError(
        f"y has shape {y.shape}: it must be {outs}, ({rows},), ({rows}, columns), or {outs} with batch axes in front"
    )
