"""Checks that an operator is what it says: the dot test of its adjoint, its columns, its matrix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

_DENSE_LIMIT = 2**20
"""Entries up to which the matrix of an operator is compared in full."""

_PLACES = 3
"""Entries that differ and are named."""


def check_adjoint(
    op: Any, *, trials: int = 4, rtol: float | None = None, rng: np.random.Generator | int | None = None
) -> None:
    r"""The dot test: <A x, y> = <x, A^H y> for random x and y.

    It then checks that products of several columns agree with those of single ones, and, for an operator of at most
    2^20 entries, that A^H is entry by entry the conjugate transpose of A, and that both agree with ``tosparse()`` if
    there is one.

    Parameters
    ----------
    op : LinearOperator, sparse array or matrix, ndarray, or anything that scipy's `aslinearoperator` takes
        PyLops operators are LinearOperators too.
    trials : int
        Number of random pairs.
    rtol : float, optional
        Allowed error relative to norm(A x) norm(y); by default 1e-13 in double and 1e-5 in single precision.
    rng : numpy.random.Generator or int, optional
        Source of the vectors, or its seed.

    Raises
    ------
    AssertionError
        If a check fails; it says which, both figures and the relative error. Of a matrix it names the first entries
        that differ, as output (o, m) and input (c, n) where the operator knows its images.
    TypeError, ValueError
        If `trials`, `rtol` or `op` make no sense, or `op` has no adjoint to check.

    References
    ----------
    .. [1] J. Claerbout, "Earth Soundings Analysis", 1992, the dot-product test.
    .. [2] ``pylops.utils.dottest``

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d, check_adjoint
    >>> check_adjoint(Conv2d(np.ones((3, 3)), (8, 8), stride=2, padding=1, padding_mode="reflect"))
    """
    if isinstance(trials, bool) or not isinstance(trials, int | np.integer):
        raise TypeError(f"trials={trials!r} must be an integer")
    if trials < 1:
        raise ValueError(f"trials={trials!r} must be at least 1")
    operator = op if isinstance(op, LinearOperator) else aslinearoperator(op)
    dtype = np.dtype(np.float64 if operator.dtype is None else operator.dtype)
    vectors = np.result_type(dtype, np.float32)
    tolerance = (1e-13 if np.finfo(vectors).eps < 1e-10 else 1e-5) if rtol is None else float(rtol)
    if not tolerance >= 0:
        raise ValueError(f"rtol={rtol!r} must not be negative")
    generator = np.random.default_rng(rng)

    rows, cols = operator.shape
    shapes = getattr(op, "output_shape", (rows,)), getattr(op, "input_shape", (cols,))
    small = rows * cols <= _DENSE_LIMIT and max(rows, cols) <= 2**14

    X = _random(generator, (cols, trials), vectors)
    Y = _random(generator, (rows, trials), vectors)
    AX, AhY = operator.matmat(X), _adjoint_columns(operator, Y)
    try:
        for x, y, ax, ahy in zip(X.T, Y.T, AX.T, AhY.T, strict=True):
            single, adjoint = operator.matvec(x), operator.rmatvec(y)
            _check_inner(single, y, x, adjoint, tolerance)
            _check_same("matmat and matvec", ax, single, tolerance)
            _check_same("rmatmat and rmatvec", ahy, adjoint, tolerance)
    except AssertionError as error:
        if not small:
            raise
        try:
            _check_matrices(op, operator, vectors, tolerance, shapes)
        except AssertionError as where:
            raise AssertionError(f"{error}\n{where}") from None
        raise
    if small:
        _check_matrices(op, operator, vectors, tolerance, shapes)


_Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Shapes of the images on the side of the output and of the input."""


def _check_matrices(op: Any, operator: LinearOperator, dtype: np.dtype[Any], rtol: float, shapes: _Shapes) -> None:
    """Compare A with A^H, and with its sparse matrix, entry by entry."""
    rows, cols = operator.shape
    forward = operator.matmat(np.eye(cols, dtype=dtype))
    backward = operator.rmatmat(np.eye(rows, dtype=dtype))
    _check_same("the matrices of A and A^H", forward, backward.conj().T, rtol, shapes)
    if hasattr(op, "tosparse"):
        matrix = op.tosparse()
        dense = matrix.toarray() if issparse(matrix) else np.asarray(matrix)
        _check_same("the products and tosparse()", forward, dense, rtol, shapes)


def _random(generator: np.random.Generator, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    values = generator.standard_normal(shape)
    if dtype.kind == "c":
        return (values + 1j * generator.standard_normal(shape)).astype(dtype)
    return values.astype(dtype)


def _check_inner(ax: NDArray[Any], y: NDArray[Any], x: NDArray[Any], ahy: NDArray[Any], rtol: float) -> None:
    left, right = np.vdot(y, ax), np.vdot(ahy, x)  # <A x, y> and <x, A^H y>, conjugate-linear in y
    scale = max(_norm(ax) * _norm(y), _norm(x) * _norm(ahy))
    error = abs(left - right) / scale if scale > 0 else abs(left - right)
    if not error <= rtol:  # NaN fails too
        raise AssertionError(
            f"dot test failed: <A x, y> = {left!s} and <x, A^H y> = {right!s} differ by {error:.3g} relative to "
            f"|A x| |y|; allowed is {rtol:.3g}"
        )


def _adjoint_columns(operator: LinearOperator, Y: NDArray[Any]) -> NDArray[Any]:
    try:
        operator.rmatvec(Y[:, 0])  # rmatmat without it fails less clearly
    except NotImplementedError as error:
        raise TypeError(
            f"op is a {type(operator).__name__} without an adjoint: give it rmatvec (A^H y), rmatmat or _adjoint"
        ) from error
    return np.asarray(operator.rmatmat(Y))


def _check_same(
    what: str,
    a: NDArray[Any],
    b: NDArray[Any],
    rtol: float,
    shapes: _Shapes | None = None,
) -> None:
    """Compare two arrays; with the shapes of the images on both sides, they are matrices, and entries have places."""
    if a.shape != b.shape:
        raise AssertionError(f"{what} differ in shape: {a.shape} and {b.shape}")
    difference = np.abs(a - b)
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    error = difference.max(initial=0) / scale if scale > 0 else difference.max(initial=0)
    if error <= rtol:
        return
    wrong = np.argwhere(~(difference <= rtol * scale))  # NaN too
    places = "; ".join(f"{a[tuple(at)]!s} and {b[tuple(at)]!s} at {_place(at, shapes)}" for at in wrong[:_PLACES])
    more = f", and at {len(wrong) - _PLACES} more places" if len(wrong) > _PLACES else ""
    raise AssertionError(
        f"{what} differ: {places}{more}; by up to {error:.3g} relative to the largest entry, allowed is {rtol:.3g}"
    )


def _place(at: NDArray[Any], shapes: _Shapes | None) -> str:
    """Where an entry is: its index, or the output and the input that it joins."""
    if shapes is None:
        return _tuple(at)
    output, source = (_tuple(np.unravel_index(index, shape)) for index, shape in zip(at, shapes, strict=True))
    return f"output {output}, input {source}"


def _tuple(index: Iterable[Any]) -> str:
    return f"({', '.join(str(int(i)) for i in index)})"


def _norm(x: NDArray[Any]) -> float:
    return float(np.linalg.norm(x.astype(np.result_type(x.dtype, np.float64))))
