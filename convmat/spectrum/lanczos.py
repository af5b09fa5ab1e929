"""The largest singular value from below: Golub and Kahan's bidiagonalisation with restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.spectrum.torus import EPS

BASIS = 10
"""Lanczos vectors before a restart."""

_RESTARTS = 8

Product = Callable[[NDArray[Any]], NDArray[Any]]


def largest(
    forward: Product, adjoint: Product, x: NDArray[Any], target: float, gain: float, steps: int = BASIS
) -> float:
    """||A x|| / ||x|| for the best x, until it reaches the target, or a restart gains less than a share of it.

    The steps are those before a restart.

    The norms of this one product are taken anew: only its rounding is left to the caller.
    """
    best = 0.0
    for _ in range(_RESTARTS):
        ritz, x = _lanczos(forward, adjoint, x, target, steps)
        if ritz >= target or ritz <= best * (1 + gain):
            break
        best = ritz
    size = float(np.linalg.norm(x))
    return float(np.linalg.norm(forward(x))) / size * (1 - 64 * EPS) if size > 0 else 0.0


def _lanczos(
    forward: Product, adjoint: Product, x: NDArray[Any], target: float, steps: int
) -> tuple[float, NDArray[Any]]:
    """Steps from x, until the largest Ritz value reaches the target: that value, its vector."""
    size = float(np.linalg.norm(x))
    if size == 0:
        return 0.0, x
    basis, left = [x / size], np.zeros(0)
    bidiagonal = np.zeros((steps, steps))
    ritz, weights = 0.0, np.ones(1)
    for j in range(steps):
        image = forward(basis[j])
        if j:
            image = image - bidiagonal[j - 1, j] * left
        alpha = float(np.linalg.norm(image))
        bidiagonal[j, j] = alpha
        _, sigma, vh = np.linalg.svd(bidiagonal[: j + 1, : j + 1])
        ritz, weights = float(sigma[0]), vh[0]
        if ritz >= target or alpha <= EPS * ritz or j == steps - 1:
            break
        left = image / alpha
        back = adjoint(left) - alpha * basis[j]
        for vector in basis:
            back -= np.vdot(vector, back) * vector
        beta = float(np.linalg.norm(back))
        if beta <= EPS * ritz:
            break
        bidiagonal[j, j + 1] = beta
        basis.append(back / beta)
    best = np.zeros_like(basis[0])
    for weight, vector in zip(weights, basis, strict=False):
        best += weight * vector
    return ritz, best
