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

_TOGETHER = 16
"""Steps after which x and p are brought up to date."""


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
        (3 * len(damps) + _TOGETHER + 4) * right.nbytes,
        "solve for fewer damps, or for one after the other",
    )
    right, powers = near_one(right)
    run = _Run(problem.damped(min(damps)), right, np.square(damps))
    found: dict[int, Solution] = {}
    taken = 0
    while len(run.alive):
        settled = run.alive if taken >= maxiter else run.alive[~run.unsettled(rtol)]
        for j in settled:
            x, rest = run.solution(j), problem.damped(damps[j])
            progress = run.corrected(j, x, rest)
            if progress.unsettled(rtol).any() and taken < maxiter:
                more = conjugate_gradients(rest, right, Identity(rest), start=x, rtol=rtol, maxiter=maxiter - taken)
                found[j] = Solution(times_power(more.x, powers), taken + more.iterations, more.residual, more.error)
            else:
                found[j] = Solution(times_power(x, powers), taken, *progress.relative())
        run.drop(settled)
        if len(run.alive) and not run.step():
            maxiter = taken  # no direction is left: what is found is all that there is
        else:
            taken += 1
    return [found[j] for j in range(len(damps))]


class _Run:
    """The state of all systems: x and p of those that have not settled, and the residual r, of which each has a part.

    For a few steps, x and p are kept as what they were before and their parts of the residuals since: to add these to
    all of them is a product of matrices.
    """

    def __init__(self, base: Problem, right: NDArray[Any], shifts: NDArray[np.float64]) -> None:
        count, batch = len(shifts), len(right)
        self._base, self._right, self._r, self._p = base, right, right.copy(), right.copy()
        self._rr = norms_of(right) ** 2
        self._more = (shifts - base.shift)[:, None]
        self.alive = np.arange(count)
        self._zeta, self._zeta_before = np.ones((count, batch)), np.ones((count, batch))
        self._alpha, self._beta = np.ones(batch), np.zeros(batch)
        norms = np.tile(norms_of(right), count)
        self._progress = Progress(np.repeat(shifts, batch), norms, norms, np.zeros(count * batch))
        flat = right.reshape(batch, 1, -1)
        self._xs, self._ps = np.zeros((batch, count, flat.shape[-1]), right.dtype), np.repeat(flat, count, axis=1)
        self._rs: list[NDArray[Any]] = []  # the residuals since, (batch, n) each
        self._forget(batch, count)

    def unsettled(self, rtol: float) -> NDArray[np.bool_]:
        """Of each system that is alive, whether an image is still to be improved."""
        unsettled = self._progress.unsettled(rtol).reshape(self._zeta.shape)[self.alive]
        return np.asarray(unsettled.any(axis=1))

    def solution(self, j: int) -> NDArray[Any]:
        """The x of a system."""
        self._flush()
        return np.ascontiguousarray(self._xs[:, self._row(j)]).reshape(self._right.shape)

    def corrected(self, j: int, x: NDArray[Any], problem: Problem) -> Progress:
        """What is known of a system, by the residual of its x itself."""
        true, recurred = self._right - problem.normal(x), _each(self._zeta[j], self._r) * self._r
        batch = len(self._right)
        progress = self._progress.lines(slice(j * batch, (j + 1) * batch))
        progress.correct(norms_of(true), norms_of(recurred), norms_of(true - recurred))
        return progress

    def drop(self, settled: NDArray[np.int64]) -> None:
        """Forget some systems."""
        if len(settled):
            kept = ~np.isin(self.alive, settled)
            self.alive, self._xs, self._ps = self.alive[kept], self._xs[:, kept], self._ps[:, kept]
            self._forget(len(self._right), len(self.alive))

    def step(self) -> bool:
        """A step of every system; whether one was taken."""
        q = self._base.normal(self._p)
        curvature = inner_products(self._p, q)
        moves = (curvature > 0) & (self._rr > 0)
        if not moves.any():
            return False
        alpha = np.where(moves, self._rr / np.where(moves, curvature, 1), 0)
        zeta = self._next(alpha)
        ratio = np.divide(zeta, self._zeta, out=np.zeros_like(zeta), where=self._zeta > 0)
        gains = alpha * ratio * self._zeta**2 * self._rr
        self._r -= _each(alpha, q) * q
        before, self._rr = self._rr, norms_of(self._r) ** 2
        beta = np.where(moves, self._rr / np.where(moves, before, 1), 0)
        self._p *= _each(beta, q)
        self._p += self._r
        self._note((alpha * ratio)[self.alive].T, (beta * ratio**2)[self.alive].T, zeta[self.alive].T)
        self._zeta_before, self._zeta, self._alpha, self._beta = self._zeta, zeta, alpha, beta
        self._progress.step(gains.ravel(), (zeta * np.sqrt(self._rr)).ravel())
        return True

    def _note(self, alpha: NDArray[Any], beta: NDArray[Any], zeta: NDArray[Any]) -> None:
        """Take note of x += alpha p, p = zeta r + beta p for every system, (batch, systems) each."""
        self._of_x += alpha[..., None] * self._of_p
        self._of_p *= beta[..., None]
        self._rs.append(self._r.reshape(len(self._r), -1).copy())
        self._of_p[..., len(self._rs)] = zeta
        if len(self._rs) == _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        """Add the residuals to x and p."""
        if not self._rs:
            return
        rs, count = np.stack(self._rs, axis=1), len(self._rs) + 1
        self._xs += self._of_x[..., :1] * self._ps
        self._xs += self._of_x[..., 1:count] @ rs
        self._ps *= self._of_p[..., :1]
        self._ps += self._of_p[..., 1:count] @ rs
        self._forget(*self._of_x.shape[:2])

    def _forget(self, batch: int, count: int) -> None:
        """Begin with x and p as they are: a part of 1 of p, and none of residuals."""
        self._rs = []
        self._of_x, self._of_p = np.zeros((2, batch, count, _TOGETHER + 1))
        self._of_p[..., 0] = 1

    def _row(self, j: int) -> int:
        return int(np.flatnonzero(self.alive == j)[0])

    def _next(self, alpha: NDArray[np.float64]) -> NDArray[np.float64]:
        """The factors of the residuals after a step of that length."""
        zeta, before = self._zeta, self._zeta_before
        below = alpha * self._beta * (before - zeta) + before * self._alpha * (1 + self._more * alpha)
        return np.divide(zeta * before * self._alpha, below, out=np.zeros_like(zeta), where=below != 0)


def _each(factors: NDArray[np.float64], images: NDArray[Any]) -> NDArray[np.float64]:
    return factors.reshape(-1, *(1,) * (images.ndim - 1))
