"""What the sums over the modes of a problem are sums of: masses at the places s of the real line.

Along the modes, with s = a / b and the coefficients u of the data, the residual and the solution for a damp are

    |A x - y|^2 = sum |u|^2 (damp^2 / (s + damp^2))^2,    |R x|^2 = sum |u|^2 s / (s + damp^2)^2,

and m minus the trace of the influence matrix A (A^H A + damp^2 R^H R)^-1 A^H is sum damp^2 / (s + damp^2). Where there
is no decomposition, Golub and Kahan's bidiagonalisation from the data has masses that give the same sums after a few
steps, by Gauss quadrature, and one from a random vector has those of the trace [1]_.

.. [1] G. Golub, U. von Matt, "Generalized cross-validation for large-scale problems", J. Comput. Graph. Stat. 6, 1997.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.solve.inverses.modes import Modes
from convmat.solve.inverses.problem import Problem
from convmat.solve.inverses.terms import adjoint

_MANY = 2**14
"""Masses of which those that lie close together are taken as one."""

_WIDTH = 1e-3
"""How close that is, relative to their places: sums change by its square."""

_LOWEST = 1e-7
"""The smallest damp that is looked at, where A and R are near 1."""

_GROWTH = 1.2
"""By this factor more steps of the bidiagonalisation before it is asked again."""

_NOTHING = 1e-14
"""The norm that a new vector must have, where that of A is near 1, or the bidiagonalisation has come to its end."""


@dataclass(frozen=True)
class Masses:
    """Masses at places s from 0 to infinity."""

    places: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, places: NDArray[np.float64], weights: NDArray[np.float64], at_zero: float = 0.0) -> Masses:
        """Many masses as few: those that lie together as one, those at 0 and at infinity as one each."""
        places, weights = places.ravel(), weights.ravel()
        inside = (places > 0) & (places < np.inf)
        ends = float(weights[places == 0].sum()) + at_zero, float(weights[places == np.inf].sum())
        if places.size <= _MANY:
            middle, masses = places[inside], weights[inside]
            return cls(np.concatenate([[0.0], middle, [np.inf]]), np.array([ends[0], *masses, ends[1]]))
        logs, masses = np.log(places[inside]), weights[inside]
        _, bins = np.unique(np.floor(logs / _WIDTH), return_inverse=True)
        total = np.bincount(bins, masses)
        centre = np.bincount(bins, masses * logs) / np.where(total > 0, total, 1)
        kept = total > 0
        return cls(np.concatenate([[0.0], np.exp(centre[kept]), [np.inf]]), np.array([ends[0], *total[kept], ends[1]]))

    def left(self, damp: float) -> float:
        """The sum of w damp^2 / (s + damp^2)."""
        return float(self.weights @ self._filtered(damp))

    def residual(self, damp: float) -> float:
        """The norm of the residual, if these are those of the data."""
        return math.sqrt(float(self.weights @ self._filtered(damp) ** 2))

    def solution(self, damp: float) -> float:
        """The norm of R x, if these are those of the data."""
        inside = np.isfinite(self.places)
        s, w = self.places[inside], self.weights[inside]
        return math.sqrt(float(w @ (s / (s + damp**2) ** 2)))

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest place between 0 and infinity; both 1 if there is none."""
        inside = self.places[(self.places > 0) & np.isfinite(self.places)]
        return (float(inside.min()), float(inside.max())) if inside.size else (1.0, 1.0)

    def _filtered(self, damp: float) -> NDArray[np.float64]:
        return np.asarray(damp**2 / (self.places + damp**2))


@dataclass(frozen=True)
class Measures:
    """What is known of a problem of damp 1 and its data: the masses of the data, and those of the trace.

    Below the lowest damp there is nothing but rounding.
    """

    data: Masses
    trace: Masses
    lowest: float


def of_modes(modes: Modes, size: float, rows: int) -> Measures:
    """The measures of a problem with a closed form, for data of the squared norm `size` with so many rows each."""
    ratios, (powers, seen) = modes.ratios(), modes.powers()
    counts = np.broadcast_to(modes.counts, ratios.shape) * 1.0
    known = float((counts * powers).sum())
    rank = float(counts[seen].sum())
    unseen = max(0.0, size - known) if rank < rows else 0.0
    data = Masses.of(ratios[seen], (counts * powers)[seen], unseen)
    return Measures(data, Masses.of(ratios[seen], counts[seen], rows - rank), max(_LOWEST, modes.lowest))


def by_bidiagonalisation(
    problem: Problem, y: NDArray[Any], probes: NDArray[Any] | None, most: int
) -> Iterator[Measures]:
    """The measures of A, y and the identity after more and more steps of Golub and Kahan's bidiagonalisation.

    The probes are random vectors of numbers of the absolute value 1, (count, *output_shape); without them the trace has
    no masses. Vectors are not kept: that they lose their orthogonality delays the quadrature, and does not harm it.
    """
    count = len(y)
    starts = y if probes is None else np.concatenate([y, probes.astype(np.result_type(y, probes))])
    lines = len(starts)
    alphas, betas = np.zeros((0, lines)), np.zeros((0, lines))
    u, beta = _unit(starts, 0.0)
    first, v = beta, np.zeros(())
    steps, asked = 0, 8
    while steps < most:
        back = adjoint(problem.operator, u).reshape(lines, problem.channels, *problem.size)
        v, alpha = _unit(back - _column(beta, back.ndim) * v)
        ahead = problem.operator._forward(v.reshape(lines, *problem.operator.input_shape)).reshape(u.shape)
        u, beta = _unit(ahead - _column(alpha, u.ndim) * u)
        alphas, betas = np.vstack([alphas, alpha]), np.vstack([betas, beta])
        steps += 1
        over = not ((alpha > 0) & (beta > 0)).any()
        if steps >= asked or over or steps == most:
            asked = max(asked + 1, int(_GROWTH * asked))
            found = [_quadrature(alphas[:, i], betas[:, i], first[i]) for i in range(lines)]
            trace = _joined(found[count:], 1.0 / max(1, lines - count))
            yield Measures(_joined(found[:count], 1.0), trace, _LOWEST)
        if over:
            return


def _quadrature(alphas: NDArray[Any], betas: NDArray[Any], first: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The places and weights of B B^H, where B has the diagonal alpha and beta below it, from the first vector."""
    diagonal = np.concatenate([alphas**2, [0.0]]) + np.concatenate([[0.0], betas**2])
    beside = alphas * betas
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, -1))  # what is for tridiagonal ones may fail
    places = np.where(values > np.finfo(np.float64).eps * diagonal.max(initial=0), values, 0)
    return places, (first * vectors[0]) ** 2


def _joined(found: list[tuple[NDArray[Any], NDArray[Any]]], share: float) -> Masses:
    if not found:
        return Masses(np.zeros(1), np.zeros(1))
    return Masses(np.concatenate([p for p, _ in found]), share * np.concatenate([w for _, w in found]))


def _unit(vectors: NDArray[Any], least: float = _NOTHING) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Vectors divided by their norms, and these; those that are not above the least become 0."""
    norms = np.linalg.norm(vectors.reshape(len(vectors), -1), axis=1)
    norms = np.where(norms > least, norms, 0.0)
    return vectors * _column(np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0), vectors.ndim), norms


def _column(numbers: NDArray[Any], ndim: int = 2) -> NDArray[Any]:
    return numbers.reshape(-1, *(1,) * (ndim - 1))
