"""Data in the bases in which A and R are diagonal: what all dampings of one problem share.

With V^H A^H A V = diag(a) and V^H R^H R V = diag(b), Tikhonov's solution is

    x = V [c / (a + damp^2 b)],    c = V^H A^H y,

for every damp, and sums over the modes give its residual, its norm and the trace of its influence matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

_SEEN = np.finfo(np.float64).eps
"""Modes with a smaller part of the largest a say nothing of the data: c = sqrt(a) u is rounding there."""

_INVERTIBLE = 1e-12
"""The smallest eigenvalue of a normal operator, relative to the largest, that leaves digits."""

_HELD = 64 * np.finfo(np.float64).eps
"""Modes with a smaller part of the largest b are those that R does not hold at all."""


@dataclass(frozen=True)
class Modes:
    """The modes of a problem of damp 1, and a batch of data in them.

    Attributes
    ----------
    squares, penalties : ndarray, the shape of the modes
        a and b.
    moments : ndarray, (batch, *modes)
        c = V^H A^H y.
    counts : ndarray, broadcastable to the modes
        How many modes each one stands for: two, where one of a pair of conjugate frequencies is kept.
    images : callable
        V c, (batch, *modes) -> (batch, C, N_1..N_D).
    """

    squares: NDArray[np.float64]
    penalties: NDArray[np.float64]
    moments: NDArray[Any]
    counts: NDArray[Any]
    images: Callable[[NDArray[Any]], NDArray[Any]]

    def solution(self, damp: float) -> NDArray[Any]:
        """Tikhonov's solution. (batch, C, N_1..N_D)"""
        return self.images(self.moments / (self.squares + damp**2 * self.penalties))

    def ratios(self) -> NDArray[np.float64]:
        """Of each mode a / b: infinite where the penalty sees nothing of it."""
        held = self.penalties > _HELD * self.penalties.max()
        found = np.full(self.squares.shape, np.inf)
        np.divide(self.squares, self.penalties, out=found, where=held)
        return found

    @property
    def lowest(self) -> float:
        """The damp below which the normal operator is singular to rounding: it has to hold what A does not see."""
        least = self.penalties[self.squares <= _SEEN * self.squares.max(initial=0)].min(initial=np.inf)
        return float(np.sqrt(_INVERTIBLE * self.squares.max(initial=0) / least))

    def powers(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """|u|^2 of each mode, the squared coefficients of the data, all of them together; and where A sees a mode."""
        seen = self.squares > _SEEN * self.squares.max(initial=0)
        total = (self.moments.real**2 + self.moments.imag**2).sum(axis=0)
        return np.divide(total, self.squares, out=np.zeros(self.squares.shape), where=seen), seen


def of_blocks(blocks: NDArray[Any], penalties: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """a, b and V of many small matrices A and R, (.., rows, n): (.., k), (.., k) and (.., n, k).

    Without R the penalty is the identity, and modes that A does not see are left out where that is known of the shape.

    Raises
    ------
    numpy.linalg.LinAlgError
        If A and R share null vectors.
    """
    rows, n = blocks.shape[-2:]
    if penalties is not None and n > 1:
        return of_grams(_gram(blocks), _gram(penalties))
    if n == 1:
        one = np.ones((*blocks.shape[:-2], 1, 1), dtype=blocks.dtype)
        a = _power(blocks, axis=-2)
        return a, np.ones_like(a) if penalties is None else _power(penalties, axis=-2), one
    if rows == 1:
        a = _power(blocks, axis=-1)
        size = np.sqrt(np.where(a > 0, a, 1))
        return a, np.ones_like(a), blocks.conj().swapaxes(-1, -2) / size[..., None]
    _, sigma, vh = np.linalg.svd(blocks, full_matrices=False)
    return sigma**2, np.ones_like(sigma), vh.conj().swapaxes(-1, -2)


def of_matrices(A: NDArray[Any], R: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """a, b and V of one pair of matrices, by decompositions of the matrices themselves, not of their squares."""
    if R is None:
        return of_blocks(A, None)
    q, r = linalg.qr(np.vstack([A, R]), mode="economic")
    _, cosines, wh = linalg.svd(q[: len(A)], full_matrices=True)
    a = np.concatenate([cosines, np.zeros(len(wh) - len(cosines))]) ** 2
    turned = q[len(A) :] @ wh.conj().T
    return a, _power(turned, axis=0), linalg.solve_triangular(r, wh.conj().T)


def of_grams(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The generalised eigenvectors of pairs of Hermitian matrices, (.., n, n)."""
    factor = np.linalg.inv(np.linalg.cholesky(a + b))
    values, vectors = np.linalg.eigh(factor @ a @ factor.conj().swapaxes(-1, -2))
    values = np.clip(values, 0, 1)
    return values, 1 - values, factor.conj().swapaxes(-1, -2) @ vectors


def _gram(blocks: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(blocks.conj().swapaxes(-1, -2) @ blocks)


def _power(values: NDArray[Any], axis: int) -> NDArray[np.float64]:
    return np.asarray((values.real**2 + values.imag**2).sum(axis=axis), dtype=np.float64)
