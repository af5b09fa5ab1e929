"""Preconditioned conjugate gradients on a batch of right-hand sides, each with its own steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.inverses.problem import Inverse, Problem

_RESTARTS = 4
"""How often the recurrence of the residual is replaced by the residual itself, where the two have drifted apart."""


def conjugate_gradients(
    problem: Problem,
    right: NDArray[Any],
    inverse: Inverse,
    *,
    start: NDArray[Any] | None = None,
    rtol: float,
    maxiter: int,
    callback: Callable[[NDArray[Any]], object] | None = None,
) -> tuple[NDArray[Any], int, float]:
    """Solve the normal equations for a batch of right-hand sides (batch, C, N_1..N_D).

    Returns
    -------
    x : ndarray, the shape of `right`
    iterations : int
        Steps taken, the most of any right-hand side.
    residual : float
        The largest |right - H x| / |right|, computed from x itself; 0 where the right-hand side is 0.
    """
    x = np.zeros_like(right) if start is None else start
    norms, taken = norms_of(right), 0
    r = right.copy() if start is None else right - problem.normal(x)
    for _ in range(_RESTARTS):
        for _ in _steps(problem, inverse, x, r, rtol * norms):
            taken += 1
            if callback is not None:
                callback(x)
            if taken >= maxiter:
                break
        r = right - problem.normal(x)
        if taken >= maxiter or not np.any(norms_of(r) > rtol * norms):
            break
    relative = norms_of(r) / np.where(norms > 0, norms, 1)
    return x, taken, float(relative.max(initial=0.0))


def norms_of(images: NDArray[Any]) -> NDArray[np.float64]:
    """The norm of each image of a batch. (batch,)"""
    return np.asarray(np.linalg.norm(images.reshape(len(images), -1), axis=1))


def _steps(
    problem: Problem, inverse: Inverse, x: NDArray[Any], r: NDArray[Any], goal: NDArray[np.float64]
) -> Iterator[None]:
    """Take steps in place, until every residual is at its goal or the curvature is no longer positive."""
    active = norms_of(r) > goal
    if not active.any():
        return
    z = inverse.apply(r)
    p, rz = z.copy(), _inner(r, z)
    while True:
        q = problem.normal(p)
        curvature = _inner(p, q)
        active &= (curvature > 0) & (rz > 0)
        if not active.any():
            return
        alpha = np.where(active, rz / np.where(curvature > 0, curvature, 1), 0)
        x += _each(alpha, x) * p
        r -= _each(alpha, r) * q
        yield
        active &= norms_of(r) > goal
        if not active.any():
            return
        z = inverse.apply(r)
        after = _inner(r, z)
        beta = np.where(active, after / np.where(rz > 0, rz, 1), 0)
        p = z + _each(beta, p) * p
        rz = after


def _inner(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """The inner product of each pair of images; that of r and M r, or p and H p, is real. (batch,)"""
    rows, columns = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return np.array([np.vdot(row, column).real for row, column in zip(rows, columns, strict=True)])


def _each(factors: NDArray[np.float64], images: NDArray[Any]) -> NDArray[np.float64]:
    """The factors, one per image of a batch, with axes that fit the images."""
    return factors.reshape(-1, *(1,) * (images.ndim - 1))
