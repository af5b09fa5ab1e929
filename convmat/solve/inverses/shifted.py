"""Conjugate gradients for many dampings at once, without a regularizer: all of them have the same Krylov space.

The residuals of A^H A + damp^2 for different damps are multiples of each other, r_j = zeta_j r, so that one product
with A^H A serves a step of every one [1]_. The step is that of the smallest damp, which is the last to arrive.

.. [1] B. Jegerlehner, "Krylov space solvers for shifted linear systems", 1996; A. Frommer, "BiCGStab(l) for families of
   shifted linear systems", Computing 70, 2003.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.matrix import check_bytes
from convmat.solve.inverses import Identity, Problem
from convmat.solve.inverses.cg import Progress, Solution, conjugate_gradients, inner_products, norms_of
from convmat.spectrum.scaling import near_one, times_power


def shifted_conjugate_gradients(
    problem: Problem, right: NDArray[Any], damps: Sequence[float], *, rtol: float, maxiter: int
) -> list[Solution]:
    """The solutions of (A^H A + damp^2) x = right for every damp, right of the shape (batch, C, N_1..N_D).

    Steps are taken until, for every damp, every residual and every estimate of the error is at most `rtol`.

    Raises
    ------
    MemoryError
        If two images for each damp do not fit.
    """
    check_bytes(
        f"solutions for {len(damps)} damps of {len(right)} images",
        (2 * len(damps) + 4) * right.nbytes,
        "solve for fewer damps, or for one after the other",
    )
    right, powers = near_one(right)
    run = _Run(problem.damped(min(damps)), right, np.square(damps))
    found: dict[int, Solution] = {}
    taken, going = 0, list(range(len(damps)))
    while going:
        unsettled = run.unsettled(rtol)
        settled = [j for j in going if taken >= maxiter or not unsettled[j]]
        for j in settled:
            x, rest = run.xs[j], problem.damped(damps[j])
            progress = run.corrected(j, rest)
            if progress.unsettled(rtol).any() and taken < maxiter:
                more = conjugate_gradients(rest, right, Identity(rest), start=x, rtol=rtol, maxiter=maxiter - taken)
                found[j] = Solution(times_power(more.x, powers), taken + more.iterations, more.residual, more.error)
            else:
                found[j] = Solution(times_power(x, powers), taken, *progress.relative())
            run.drop(j)
        going = [j for j in going if j not in settled]
        if going and not run.step(going):
            maxiter = taken  # no direction is left: what is found is all that there is
        else:
            taken += 1
    return [found[j] for j in range(len(damps))]


class _Run:
    """The state of all systems: x and p of each, and the residual r that they share but for the factors zeta."""

    def __init__(self, base: Problem, right: NDArray[Any], shifts: NDArray[np.float64]) -> None:
        count, batch = len(shifts), len(right)
        self._base, self._right, self._r, self._p = base, right, right.copy(), right.copy()
        self._rr = norms_of(right) ** 2
        self._more = (shifts - base.shift)[:, None]
        self.xs = [np.zeros_like(right) for _ in shifts]
        self._ps = [right.copy() for _ in shifts]
        self._zeta, self._zeta_before = np.ones((count, batch)), np.ones((count, batch))
        self._alpha, self._beta = np.ones(batch), np.zeros(batch)
        norms = np.tile(norms_of(right), count)
        self._progress = Progress(np.repeat(shifts, batch), norms, norms, np.zeros(count * batch))

    def unsettled(self, rtol: float) -> NDArray[np.bool_]:
        """Of each system, whether an image is still to be improved."""
        return np.asarray(self._progress.unsettled(rtol).reshape(self._zeta.shape).any(axis=1))

    def corrected(self, j: int, problem: Problem) -> Progress:
        """What is known of a system, by the residual of its x itself."""
        true, recurred = self._right - problem.normal(self.xs[j]), _each(self._zeta[j], self._r) * self._r
        batch = len(self._right)
        progress = self._progress.lines(slice(j * batch, (j + 1) * batch))
        progress.correct(norms_of(true), norms_of(recurred), norms_of(true - recurred))
        return progress

    def drop(self, j: int) -> None:
        """Forget a system."""
        self.xs[j] = self._ps[j] = self._right[:0]

    def step(self, going: Sequence[int]) -> bool:
        """A step of some systems; whether one was taken."""
        q = self._base.normal(self._p)
        curvature = inner_products(self._p, q)
        moves = (curvature > 0) & (self._rr > 0)
        if not moves.any():
            return False
        alpha = np.where(moves, self._rr / np.where(moves, curvature, 1), 0)
        zeta = self._next(alpha)
        ratio = np.divide(zeta, self._zeta, out=np.zeros_like(zeta), where=self._zeta > 0)
        self._r -= _each(alpha, q) * q
        before, self._rr = self._rr, norms_of(self._r) ** 2
        beta = np.where(moves, self._rr / np.where(moves, before, 1), 0)
        self._p = self._r + _each(beta, q) * self._p
        for j in going:
            self.xs[j] += _each(alpha * ratio[j], q) * self._ps[j]
            self._ps[j] *= _each(beta * ratio[j] ** 2, q)
            self._ps[j] += _each(zeta[j], q) * self._r
        gains = alpha * ratio * self._zeta**2 * before
        self._zeta_before, self._zeta, self._alpha, self._beta = self._zeta, zeta, alpha, beta
        self._progress.step(gains.ravel(), (zeta * np.sqrt(self._rr)).ravel())
        return True

    def _next(self, alpha: NDArray[np.float64]) -> NDArray[np.float64]:
        """The factors of the residuals after a step of that length."""
        zeta, before = self._zeta, self._zeta_before
        below = alpha * self._beta * (before - zeta) + before * self._alpha * (1 + self._more * alpha)
        return np.divide(zeta * before * self._alpha, below, out=np.zeros_like(zeta), where=below != 0)


def _each(factors: NDArray[np.float64], images: NDArray[Any]) -> NDArray[np.float64]:
    return factors.reshape(-1, *(1,) * (images.ndim - 1))
