"""Conjugate gradients on the normal equations, for arrays of numpy and of dask alike.

The vectors of a step are plain arrays with +, * and an operator's `apply`; what the engines do differently, how inner
products are computed and where vectors are kept from one pass to the next, is in `_Numpy` and `_Dask`. In dask each
pass is computed as it is made, so that the graph of a step is as large in the last one as in the first.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import result_dtype
from convmat.operators import ImageOperator
from convmat.products.threads import blas_on_one_thread
from convmat.solve.limits import check_damp, check_maxiter, check_rtol

_PIECE = 2**16
"""Entries of vectors in single precision that are widened at a time for an inner product."""

_SMALLEST = float(np.finfo(np.float64).tiny) / float(np.finfo(np.float64).eps) ** 2
"""Squares of norms below this have lost digits, or are 0 though the vector is not."""


@dataclass(frozen=True)
class CglsInfo:
    """How `cgls` found its solution.

    Attributes
    ----------
    iterations : int
    relative_residual : float
        :math:`|A^H (y - A x) - damp^2 x| / |A^H y|`, of the recurrence.
    converged : bool
        Whether that is at most `rtol`.
    residual_norm : float
        :math:`|y - A x|`, of the recurrence.
    """

    iterations: int
    relative_residual: float
    converged: bool
    residual_norm: float


class _Operator(Protocol):
    """What is asked of A: an ImageOperator, or what `to_dask` makes of one."""

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    @property
    def output_shape(self) -> tuple[int, ...]: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def H(self) -> Any: ...  # noqa: N802

    def apply(self, image: Any) -> Any: ...


def cgls(
    A: Any,
    y: Any,
    *,
    damp: float = 0.0,
    x0: Any = None,
    rtol: float = 1e-6,
    maxiter: int | None = None,
    callback: Callable[[Any], object] | None = None,
    preconditioner: Any = None,
    store: str | Path | None = None,
) -> tuple[Any, CglsInfo]:
    r"""Least squares, :math:`x = argmin |A x - y|^2 + damp^2 |x|^2`, by conjugate gradients.

    Parameters
    ----------
    A : ImageOperator or DaskOperator
        For data in dask arrays ``to_dask(A)``, which an ImageOperator becomes by itself; the same for a preconditioner.
    y : array_like or dask.array.Array, shape A.output_shape or (A.shape[0],)
        The data, as an image or as its ravel.
    damp : float
        Not negative.
    x0 : array_like or dask.array.Array, optional
        Where to start, shaped like the result; zeros by default.
    rtol : float
        Stop when :math:`|A^H (y - A x) - damp^2 x|` is at most this part of :math:`|A^H y|`.
    maxiter : int, optional
        The most steps; by default 10 for each unknown, and 10,000 at most.
    callback : callable, optional
        Called after each step with the x of that step, which it must not write to, and which is good for no longer than
        the next step where a `store` is given.
    preconditioner : ImageOperator or DaskOperator, optional
        About :math:`(A^H A + damp^2)^{-1}`, Hermitian and positive definite, as `preconditioner` makes it; of dask
        arrays ``to_dask(preconditioner(A, damp, kind="schwarz"))``, which acts block by block.
    store : path, optional
        A folder for the vectors of dask arrays: they are written there between the passes over the data, as zarr
        arrays, in place of memory. It is made if it is not there; x stays in it, for the array that is returned.

    Returns
    -------
    x : ndarray or dask.array.Array, shape A.input_shape or (A.shape[1],)
        An image if y is one. A dask array is in memory, of the cluster or of this process, or in `store`.
    info : CglsInfo

    Raises
    ------
    TypeError
        If an argument is of a wrong kind, or y is a dask array and an operator has no blocks.
    ValueError
        If a value or a shape is wrong, numbers are not finite or their squares are not in the range of doubles, or the
        preconditioner is not positive definite.

    See Also
    --------
    tikhonov : closed forms and preconditioners chosen by itself, for what fits in memory.
    scipy.sparse.linalg.lsqr : the same for vectors of numpy.

    Notes
    -----
    A penalty :math:`damp^2 |R x|^2` is a larger least-squares problem: ``cgls(vstack([A, damp * R]), stack)`` with the
    ravelled data and as many zeros as R has rows.

    Each step has two passes over dask arrays: :math:`A p`, and then the new x, residual and gradient. What is kept
    between them are x, p, the residual, the gradient and :math:`A p`. The result is that of numpy to the rounding of
    inner products, whatever the blocks.

    References
    ----------
    .. [1] M. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems", 1952.
    .. [2] A. Bjorck, "Numerical methods for least squares problems", 1996, algorithms 7.4.1 and 7.4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d, cgls
    >>> A = Conv2d(np.outer([1, 2, 1], [1, 2, 1]) / 16, (16, 16), padding=1, padding_mode="reflect")
    >>> y = A.apply(np.eye(16))
    >>> x, info = cgls(A, y, damp=0.1, rtol=1e-10)
    >>> B = np.vstack([A.toarray(), 0.1 * np.eye(256)])
    >>> expected = np.linalg.lstsq(B, np.concatenate([y.ravel(), np.zeros(256)]), rcond=None)[0]
    >>> info.converged, bool(np.allclose(x.ravel(), expected, atol=1e-8))
    (True, True)
    """
    _check_operator("A", A)
    damp = check_damp(damp)
    rtol, maxiter = check_rtol(rtol), check_maxiter(maxiter, A.shape[1])
    if hasattr(y, "dask") and hasattr(y, "chunks"):
        A, preconditioner = _on_blocks(A), _on_blocks(preconditioner)
    engine = _engine(A, store)
    data, flat = engine.image("y", y, A.output_shape, A.dtype)
    start = None if x0 is None else engine.image("x0", x0, A.input_shape, A.dtype)[0]
    if preconditioner is not None:
        _check_operator("preconditioner", preconditioner)
        if (preconditioner.input_shape, preconditioner.output_shape) != (A.input_shape,) * 2:
            raise ValueError(
                f"preconditioner takes images of shape {preconditioner.input_shape} to {preconditioner.output_shape}: "
                f"both must be A.input_shape, {A.input_shape}"
            )
    solve = _Solve(A, damp, preconditioner, engine)
    report = callback if callback is None or not flat else (lambda image: callback(image.reshape(A.shape[1])))
    x, info = solve.run(data, start, rtol, maxiter, report)
    return (x.reshape(A.shape[1]) if flat else x), info


class _Engine(Protocol):
    """Where vectors live, and how they are computed."""

    def image(self, name: str, given: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, bool]:
        """An argument as an image, and whether it was given as the ravel of one."""
        ...

    def apply(self, A: Any, image: Any, like: Any = None) -> Any:
        """A product; with the blocks of another array, if that is given."""
        ...

    def plus(self, a: Any, factor: float, b: Any) -> Any:
        """The sum a + factor b."""
        ...

    def inner(self, a: Any, b: Any) -> Any:
        """The real part of <a, b>, in double precision; perhaps not computed yet."""
        ...

    def holds_something(self, a: Any) -> bool:
        """Whether an array has an entry that is not zero."""
        ...

    def keep(self, arrays: dict[str, Any], numbers: Sequence[Any]) -> tuple[list[Any], list[float]]:
        """Arrays and numbers, computed in one pass."""
        ...


@dataclass(frozen=True)
class _Solve:
    """One problem, min |A x - y|^2 + damp^2 |x|^2, and the algorithm CGLS.

    r is the residual, s the gradient, z = M s, p the direction and q = A p.
    """

    A: _Operator
    damp: float
    M: Any
    engine: _Engine

    def run(
        self, y: Any, x: Any, rtol: float, maxiter: int, callback: Callable[[Any], object] | None
    ) -> tuple[Any, CglsInfo]:
        """From x, or from zeros if that is None."""
        engine, inner = self.engine, self.engine.inner
        s = engine.apply(self.A.H, y, x)
        _, (largest,) = engine.keep({}, [inner(s, s)]) if x is not None else (None, [math.nan])
        r = y if x is None else y - engine.apply(self.A, x, y)
        x = 0 * s if x is None else x
        x, r, z, gamma, size, residual = self._gradient(x, r)
        largest, p, step = size if math.isnan(largest) else largest, z, 0
        if largest < _SMALLEST and self.engine.holds_something(s):
            raise ValueError(
                f"A^H y has the norm {math.sqrt(largest):.3g}, whose square is not in the range of doubles: multiply y "
                f"by a power of ten, and divide x by it"
            )
        while size > rtol**2 * largest and step < maxiter:
            q = engine.apply(self.A, p, r)
            (p, q), squares = engine.keep({"p": p, "q": q}, [inner(q, q)] + [inner(p, p)] * bool(self.damp))
            curvature = squares[0] + (self.damp**2 * squares[1] if self.damp else 0)
            if curvature == 0:
                break
            x, r = engine.plus(x, gamma / curvature, p), engine.plus(r, -gamma / curvature, q)
            before = gamma
            x, r, z, gamma, size, residual = self._gradient(x, r)
            p = engine.plus(z, gamma / before, p)
            step += 1
            if callback is not None:
                callback(x)
        relative = math.sqrt(size / largest) if largest else 0.0
        return x, CglsInfo(step, relative, size <= rtol**2 * largest, math.sqrt(residual))

    def _gradient(self, x: Any, r: Any) -> tuple[Any, Any, Any, float, float, float]:
        """x, r and z, computed, and the numbers <s, z>, |s|^2 and |r|^2."""
        inner = self.engine.inner
        s = self.engine.apply(self.A.H, r, x)
        if self.damp:
            s = self.engine.plus(s, -(self.damp**2), x)
        z = s if self.M is None else self.engine.apply(self.M, s, s)
        wanted = [inner(s, s), inner(r, r)] + ([] if self.M is None else [inner(s, z)])
        (x, r, z), (size, residual, *other) = self.engine.keep({"x": x, "r": r, "z": z}, wanted)
        if not all(map(math.isfinite, (size, residual, *other))):
            raise ValueError("y, x0 or the weight of A holds numbers that are not finite, or whose squares are not")
        if other and size > 0 and not other[0] > 0:
            raise ValueError(f"preconditioner must be positive definite: <s, M s> = {other[0]:.3g} for a gradient s")
        return x, r, z, other[0] if other else size, size, residual


class _Numpy:
    """Vectors in memory, as arrays of numpy."""

    def image(self, name: str, given: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, bool]:
        array = np.asarray(given)
        return _as_image(name, array, shape, dtype)

    def apply(self, A: Any, image: Any, like: Any = None) -> Any:
        return A.apply(image)

    def plus(self, a: Any, factor: float, b: Any) -> Any:
        return _plus(a, factor, b)

    def inner(self, a: Any, b: Any) -> float:
        return _inner(a, b)

    def holds_something(self, a: Any) -> bool:
        return bool(a.any())

    def keep(self, arrays: dict[str, Any], numbers: Sequence[Any]) -> tuple[list[Any], list[float]]:
        return list(arrays.values()), list(numbers)


class _Dask:
    """Vectors as arrays of dask, in memory or in a folder."""

    def __init__(self, store: str | Path | None) -> None:
        self._store, self._turn = None if store is None else Path(store), 0
        self._files: dict[Path, Any] = {}

    def image(self, name: str, given: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, bool]:
        import dask.array as da

        return _as_image(name, da.asarray(given), shape, dtype)

    def apply(self, A: Any, image: Any, like: Any = None) -> Any:
        return A.apply(image, chunks=None if like is None else like.chunks)

    def plus(self, a: Any, factor: float, b: Any) -> Any:
        import dask.array as da

        return da.map_blocks(_plus, a, factor, b, dtype=a.dtype)

    def inner(self, a: Any, b: Any) -> Any:
        import dask.array as da

        return da.map_blocks(
            _inner_of_blocks, a, b, chunks=tuple((1,) * n for n in a.numblocks), dtype=np.float64
        ).sum()

    def holds_something(self, a: Any) -> bool:
        return bool(a.any().compute())

    def keep(self, arrays: dict[str, Any], numbers: Sequence[Any]) -> tuple[list[Any], list[float]]:
        import dask
        import dask.array as da

        if self._store is None:
            found = dask.persist(*arrays.values(), *numbers)
            return list(found[: len(arrays)]), list(map(float, dask.compute(*found[len(arrays) :])))
        self._turn = 1 - self._turn  # what is read to make these is not written over
        even = [array.rechunk(array.chunksize) for array in arrays.values()]  # as zarr has them
        files = [self._file(self._store, name, array) for name, array in zip(arrays, even, strict=True)]
        writing = da.store(even, files, lock=False, compute=False) if even else None
        computed = dask.compute(*dask.persist(writing, *numbers))[1:]
        names = [f"cgls-{name}-{uuid.uuid4().hex}" for name in arrays]  # the same file, and not the same numbers
        kept = [da.from_zarr(file, name=name) for file, name in zip(files, names, strict=True)]
        return kept, list(map(float, computed))

    def _file(self, store: Path, name: str, array: Any) -> Any:
        """The zarr array for one of the vectors, made once for each turn."""
        import zarr

        place = store / f"{name}{self._turn}"
        if place not in self._files:
            self._files[place] = zarr.create_array(
                place, shape=array.shape, chunks=array.chunksize, dtype=array.dtype, compressors=None, overwrite=True
            )
        return self._files[place]


def _on_blocks(A: Any) -> Any:
    """The operator on dask arrays, if it is one on numpy arrays."""
    import convmat  # by the front door: the engines stand above the solvers

    return convmat.to_dask(A) if isinstance(A, ImageOperator) else A


def _engine(A: Any, store: str | Path | None) -> _Engine:
    if isinstance(A, ImageOperator):
        if store is not None:
            raise ValueError(f"store={str(store)!r} is for the vectors of dask arrays: y has none")
        return _Numpy()
    return _Dask(store)


def _as_image(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, bool]:
    flat = array.shape == (math.prod(shape),) != shape
    if not flat and array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}: it must be {shape}, or ({math.prod(shape)},)")
    meeting = result_dtype(dtype, np.empty(0, dtype=array.dtype), name)
    return array.astype(meeting, copy=False).reshape(shape), flat


def _check_operator(name: str, A: Any) -> None:
    if not all(hasattr(A, word) for word in ("apply", "H", "input_shape", "output_shape")):
        raise TypeError(f"{name} is a {type(A).__name__}: it must be an operator of convmat, or to_dask of one")


def _plus(a: NDArray[Any], factor: float, b: NDArray[Any]) -> NDArray[Any]:
    """The sum a + factor b, with one new array."""
    total = factor * b
    total += a
    return np.asarray(total)


@blas_on_one_thread()
def _inner(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The real part of <a, b>, the products summed in double precision."""
    first, second = a.reshape(-1), b.reshape(-1)
    wide, found = np.result_type(a, np.float64), []
    for start in range(0, first.size, _PIECE):
        piece = slice(start, start + _PIECE)
        left = first[piece].astype(wide, copy=False)
        right = left if a is b else second[piece].astype(wide, copy=False)
        found.append(float(np.vdot(left, right).real))
    return math.fsum(found)


def _inner_of_blocks(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    return np.full((1,) * a.ndim, _inner(a, b))
