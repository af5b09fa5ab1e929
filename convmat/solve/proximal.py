"""Least squares with constraints, or with penalties that are not smooth: proximal gradients with proven steps.

    x = argmin |A x - y|^2 / 2 + g(x).

Of g the algorithm knows its proximal map alone: for a constraint the projection, for sparsity the soft threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.geometry import result_dtype
from convmat.operators import ImageOperator
from convmat.products.threads import blas_on_one_thread
from convmat.solve.limits import check_maxiter, check_rtol
from convmat.spectrum import norm_bounds

Prox = Callable[[NDArray[Any], float], ArrayLike]
"""(image, step) -> argmin |u - image|^2 / 2 + step g(u)."""


@dataclass(frozen=True)
class ProximalInfo:
    """How `proximal_gradient` found its solution.

    Attributes
    ----------
    iterations : int
    relative_residual : float
        How far the last step went, over its length: :math:`|z - x| / t`, as a part of the larger one of
        :math:`|A^H y|` and :math:`|A^H A z|`.
    converged : bool
        Whether that is at most `rtol`.
    step : float
        t, at most :math:`1 / |A|^2`.
    """

    iterations: int
    relative_residual: float
    converged: bool
    step: float


def proximal_gradient(
    A: ImageOperator,
    y: ArrayLike,
    prox: Prox,
    *,
    x0: ArrayLike | None = None,
    rtol: float = 1e-4,
    maxiter: int = 1000,
    callback: Callable[[NDArray[Any]], object] | None = None,
) -> tuple[NDArray[Any], ProximalInfo]:
    r"""Constrained or sparse least squares, :math:`x = argmin |A x - y|^2 / 2 + g(x)`, for a convex g.

    Parameters
    ----------
    A : ImageOperator
    y : array_like, shape A.output_shape or (A.shape[0],)
        The data, as an image or as its ravel.
    prox : callable
        ``prox(image, step)`` is the u for which :math:`|u - image|^2 / 2 + step \, g(u)` is least, an image like the
        given one, which it may write to. For a constraint, where g is 0 or infinite: the nearest image that fulfils it.
    x0 : array_like, optional
        Where to start, shaped like the result; zeros by default.
    rtol : float
        Stop when ``info.relative_residual`` is at most this.
    maxiter : int, optional
        The most steps.
    callback : callable, optional
        Called after each step with the x of that step.

    Returns
    -------
    x : ndarray, shape A.input_shape or (A.shape[1],)
        An image if y is one. It is a result of `prox`, so that it fulfils a constraint to the last bit.
    info : ProximalInfo

    Raises
    ------
    TypeError
        If an argument is of a wrong kind.
    ValueError
        If a value or a shape is wrong, that of a result of `prox` too, or numbers are not finite.

    See Also
    --------
    tikhonov, cgls : squares as penalties.
    norm_bounds : the bound on the norm from which the step comes.

    Notes
    -----
    Each step goes from a point z to :math:`x = prox(z - t A^H (A z - y), t)`, with :math:`t = 1 / u^2` and u the upper
    bound of `norm_bounds`: :math:`t \le 1 / |A|^2` is proven, and with it that no such step raises the objective above
    its value at z. The next z lies ahead of x by the momentum of [1]_, which starts anew where it would lead uphill
    [2]_. A product with A and one with :math:`A^H` for each step.

    At the solution z = x. At any x, some subgradient of the objective is no longer than :math:`2 |z - x| / t`.

    References
    ----------
    .. [1] A. Beck, M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", SIAM
       J. Imaging Sci. 2, 2009.
    .. [2] B. O'Donoghue, E. Candes, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15, 2015.

    Examples
    --------
    No grey value is negative:

    >>> import numpy as np
    >>> from scipy.optimize import nnls
    >>> from convmat import Conv1d, proximal_gradient
    >>> A = Conv1d([1.0, 2.0, 1.0], 6, padding=1, padding_mode="replicate")
    >>> y = np.array([1.0, 0.0, 0.0, 5.0, 4.0, 0.0])
    >>> x, info = proximal_gradient(A, y, lambda image, step: np.maximum(image, 0), rtol=1e-10)
    >>> info.converged, bool(np.allclose(x, nnls(A.toarray(), y)[0]))
    (True, True)
    """
    if not isinstance(A, ImageOperator):
        raise TypeError(f"A is a {type(A).__name__}: it must be one of convmat's operators")
    if not callable(prox):
        raise TypeError(f"prox is a {type(prox).__name__}: it must be a function of an image and a step")
    rtol, maxiter = check_rtol(rtol), check_maxiter(maxiter, A.shape[1])
    data, flat = _image("y", y, A.output_shape, A.dtype)
    start = np.zeros(A.input_shape, data.dtype) if x0 is None else _image("x0", x0, A.input_shape, data.dtype)[0]
    report = callback if callback is None or not flat else (lambda image: callback(image.reshape(A.shape[1])))
    x, info = _run(A, data, start, prox, rtol, maxiter, report)
    return (x.reshape(A.shape[1]) if flat else x), info


def _run(
    A: ImageOperator,
    y: NDArray[Any],
    start: NDArray[Any],
    prox: Prox,
    rtol: float,
    maxiter: int,
    callback: Callable[[NDArray[Any]], object] | None,
) -> tuple[NDArray[Any], ProximalInfo]:
    t = _step(A)
    back = A.H.apply(y)
    x = z = start
    momentum, relative, steps = 1.0, math.inf, 0
    while relative > rtol and steps < maxiter:
        normal = A.H.apply(A.apply(z))
        before, x = x, _proximal(prox, z - t * (normal - back), t)
        moved = z - x
        length, largest = _norm(moved) / t, max(_norm(back), _norm(normal))
        if not math.isfinite(length + largest):
            raise ValueError("y, x0, the weight of A or a result of prox holds numbers that are not finite")
        relative = 0.0 if length == 0 else length / largest if largest else math.inf
        steps += 1
        if callback is not None:
            callback(x)
        if _inner(moved, x - before) > 0:
            momentum = 1.0
        after = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        z = x + (momentum - 1) / after * (x - before)
        momentum = after
    return x, ProximalInfo(steps, relative, relative <= rtol, t)


def _step(A: ImageOperator) -> float:
    """At most 1 / |A|^2."""
    upper = norm_bounds(A)[1]
    if upper == 0:
        return 1.0
    step = (1 / upper) * (1 / upper)
    if not np.finfo(np.float64).tiny <= step < math.inf:
        raise ValueError(f"A has a norm of at most {upper:.3g}, whose square is not in the range of doubles: scale it")
    return step


def _proximal(prox: Prox, image: NDArray[Any], step: float) -> NDArray[Any]:
    found = np.asarray(prox(image, step))
    if found.shape != image.shape:
        raise ValueError(f"prox gave an array of shape {found.shape}: it must be {image.shape}, that of its image")
    return found.astype(image.dtype, copy=False)


def _image(name: str, given: ArrayLike, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], bool]:
    """An argument as an image, and whether it was given as the ravel of one."""
    array = np.asarray(given)
    flat = array.shape == (math.prod(shape),) != shape
    if not flat and array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}: it must be {shape}, or ({math.prod(shape)},)")
    return array.astype(result_dtype(dtype, array, name), copy=False).reshape(shape), flat


@blas_on_one_thread()
def _inner(a: NDArray[Any], b: NDArray[Any]) -> float:
    wide = np.result_type(a, np.float64)
    return float(np.vdot(a.astype(wide, copy=False), b.astype(wide, copy=False)).real)


def _norm(a: NDArray[Any]) -> float:
    return math.sqrt(_inner(a, a))
