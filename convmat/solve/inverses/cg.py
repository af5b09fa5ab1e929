"""Preconditioned conjugate gradients on a batch of right-hand sides, each with its own steps.

A small residual says little about x: where H is small, so is what the residual shows of an error. Steps are taken until
the error is small too, in the energy norm |e|_H = sqrt(e^H H e), which is what conjugate gradients minimise: step k
takes alpha_k r_k^H z_k off |e|_H^2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.solve.inverses.problem import Inverse, Problem
from convmat.spectrum.scaling import near_one, times_power

_RESTARTS = 4
"""How often the recurrence of the residual is replaced by the residual itself, where the two have drifted apart."""

_MEMORY = 1e4
"""Steps since the squared error was this many times as large tell how fast it falls now."""


@dataclass(frozen=True)
class Solution:
    """The result of `conjugate_gradients`.

    Attributes
    ----------
    x : ndarray, the shape of the right-hand sides
    iterations : int
        Steps taken, the most of any right-hand side.
    residual : float
        The largest |right - H x| / |right|, computed from x itself; 0 where the right-hand side is 0.
    error : float
        The largest estimate of |x - x*|_H / |x*|_H; 0 where the right-hand side is 0.
    """

    x: NDArray[Any]
    iterations: int
    residual: float
    error: float


def conjugate_gradients(
    problem: Problem,
    right: NDArray[Any],
    inverse: Inverse,
    *,
    start: NDArray[Any] | None = None,
    rtol: float,
    maxiter: int,
    callback: Callable[[NDArray[Any]], object] | None = None,
) -> Solution:
    """Solve the normal equations for a batch of right-hand sides (batch, C, N_1..N_D).

    Steps are taken until every residual and every estimate of the error is at most `rtol`.
    """
    right, powers = near_one(right)
    x = np.zeros_like(right) if start is None else times_power(start, -powers)
    r = right.copy() if start is None else right - problem.normal(x)
    taken = 0
    for _ in range(_RESTARTS):
        progress, before = Progress.at(problem.shift, right, x, r), taken
        for _ in _steps(problem, inverse, x, r, progress, rtol):
            taken += 1
            if callback is not None:
                callback(times_power(x, powers))
            if taken >= maxiter:
                break
        if taken == before:
            break
        recurred, r = r, right - problem.normal(x)
        progress.correct(norms_of(r), norms_of(recurred), norms_of(r - recurred))
        if taken >= maxiter or not progress.unsettled(rtol).any():
            break
    return Solution(times_power(x, powers), taken, *progress.relative())


def norms_of(images: NDArray[Any]) -> NDArray[np.float64]:
    """The norm of each image of a batch. (batch,)"""
    return np.asarray(np.linalg.norm(images.reshape(len(images), -1), axis=1))


class Progress:
    """What is known of the residual and of the squared error in the energy norm, for each image of a batch.

    Proven, without a regularizer: |e|_H <= |r| / damp, since no eigenvalue of H is below damp^2. Estimated: what step k
    takes off |e_k|_H^2 is a part of it, and the smallest such part of the last steps, as far as the steps after them
    tell, is taken for that of this one [1]_. The squared norm of the solution is at least that of what is found,
    b^H x + r^H x.

    .. [1] G. Meurant, J. Papez, P. Tichy, "Accurate error estimation in CG", Numer. Algorithms 88, 2021.
    """

    def __init__(
        self, shift: ArrayLike, norms: NDArray[np.float64], residuals: NDArray[np.float64], energy: NDArray[np.float64]
    ) -> None:
        self._shift = np.broadcast_to(np.asarray(shift, dtype=np.float64), norms.shape)
        self._norms, self._residuals, self._energy = norms, residuals, energy
        self._gains = np.zeros((0, len(norms)))  # what each step took off the squared error
        self._errors = np.zeros((0, len(norms)))  # the squared error before each step, as far as it is known
        self.squared = self._bound()

    @classmethod
    def at(cls, shift: float, right: NDArray[Any], x: NDArray[Any], r: NDArray[Any]) -> Progress:
        """What is known at x, whose residual is r."""
        energy = np.maximum(inner_products(x, right) + inner_products(x, r), 0)
        return cls(shift, norms_of(right), norms_of(r), energy)

    def lines(self, chosen: slice) -> Progress:
        """The same of some of the images."""
        part = copy.copy(self)
        for name, values in vars(self).items():
            setattr(part, name, values[..., chosen].copy())
        return part

    def step(self, gain: NDArray[np.float64], residuals: NDArray[np.float64]) -> None:
        """Take note of a step that took the gain off the squared errors, and of the norms of the residuals after it."""
        self._residuals = residuals
        self._energy = self._energy + gain
        self._gains = np.concatenate([self._gains, gain[None]])
        self._errors = np.concatenate([self._errors + gain, gain[None]])
        recent = (self._errors <= _MEMORY * gain) & (self._gains > 0)
        slowness = np.divide(self._errors, self._gains, out=np.ones_like(self._gains), where=recent).max(axis=0)
        self.squared = np.minimum(self._bound(), slowness * gain)

    def correct(
        self, residuals: NDArray[np.float64], recurred: NDArray[np.float64], drift: NDArray[np.float64]
    ) -> None:
        """Put the residual itself in the place of that of the recurrence; what they differ by is an error too.

        It is taken to be to the error known as it is to the residual known, or what its norm proves, if that is less.
        """
        self._residuals = residuals
        known = np.maximum(recurred, np.finfo(np.float64).tiny)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            proven = np.where(self._shift > 0, (np.sqrt(self.squared) + drift / np.sqrt(self._shift)) ** 2, np.inf)
            self.squared = np.minimum(self.squared * (1 + drift / known) ** 2, proven)

    def unsettled(self, rtol: float) -> NDArray[np.bool_]:
        """Of which images the residual or the error is above rtol."""
        far = (self._residuals > rtol * self._norms) | (self.squared > rtol**2 * self._energy)
        return np.asarray(far & (self._residuals > 0))

    def relative(self) -> tuple[float, float]:
        """The largest residual and the largest error of all images."""
        residuals = self._residuals / np.where(self._norms > 0, self._norms, 1)
        errors = np.sqrt(
            np.divide(self.squared, self._energy, out=np.full_like(residuals, np.inf), where=self._energy > 0)
        )
        return float(residuals.max(initial=0)), float(np.where(self._residuals > 0, errors, 0).max(initial=0))

    def _bound(self) -> NDArray[np.float64]:
        bound = np.full(self._residuals.shape, np.inf)
        with np.errstate(over="ignore"):
            np.divide(self._residuals**2, self._shift, out=bound, where=self._shift > 0)
        return bound


def _steps(
    problem: Problem, inverse: Inverse, x: NDArray[Any], r: NDArray[Any], progress: Progress, rtol: float
) -> Iterator[None]:
    """Take steps in place, until every image is settled or the curvature is no longer positive."""
    active = progress.unsettled(rtol)
    if not active.any():
        return
    z = inverse.apply(r)
    p, rz = z.copy(), inner_products(r, z)
    if inverse.exact:  # then r^H M r is the squared error
        progress.squared = np.minimum(progress.squared, np.maximum(rz, 0))
        active = progress.unsettled(rtol)
    while active.any():
        q = problem.normal(p)
        curvature = inner_products(p, q)
        active &= (curvature > 0) & (rz > 0)
        if not active.any():
            return
        alpha = np.where(active, rz / np.where(curvature > 0, curvature, 1), 0)
        x += _each(alpha, x) * p
        r -= _each(alpha, r) * q
        progress.step(alpha * rz, norms_of(r))
        yield
        active &= progress.unsettled(rtol)
        if not active.any():
            return
        z = inverse.apply(r)
        after = inner_products(r, z)
        beta = np.where(active, after / np.where(rz > 0, rz, 1), 0)
        p = z + _each(beta, p) * p
        rz = after


def inner_products(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """The inner product of each pair of images; that of r and M r, or p and H p, is real. (batch,)"""
    rows, columns = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return np.array([np.vdot(row, column).real for row, column in zip(rows, columns, strict=True)])


def _each(factors: NDArray[np.float64], images: NDArray[Any]) -> NDArray[np.float64]:
    """The factors, one per image of a batch, with axes that fit the images."""
    return factors.reshape(-1, *(1,) * (images.ndim - 1))
