"""Kronecker products: one axis after the other, by dense decompositions of the axis matrices.

Padding, stride and dilation act axis by axis, so that a kernel k_1 (x) k_2 gives A = A_1 (x) A_2 under every padding
mode and stride. With the singular values A_a = U_a S_a V_a^H,

    (A^H A + d^2 I)^-1 A^H = V [s / (s^2 + d^2)] U^H,    V = V_1 (x) V_2, s = s_1 (x) s_2.

A regularizer R = R_1 (x) R_2 takes the generalised eigenvectors of the pairs (A_a^H A_a, R_a^H R_a).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from convmat.matrix import axis_matrix, check_bytes
from convmat.operators import Convolution
from convmat.solve.inverses.problem import Inverse, Problem, check_invertible
from convmat.solve.inverses.terms import UnsupportedError, is_forward, kernel_of, single_kernels
from convmat.spectrum.values import ROUNDING, outer, rank_one

_LONGEST_AXIS = 4096
"""Samples of an axis beyond which its dense decomposition takes too long."""

Vectors = Sequence[NDArray[Any]]


class Kronecker(Inverse):
    """The inverse of the best separable neighbour of A: exact for separable kernels, every padding mode and stride."""

    name = "kronecker"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        factors = _factors(problem)
        make = _Plain if problem.regularizer is None else _Generalised
        self._channels = [make(matrices, problem.damp) for matrices in factors]

    @classmethod
    def fits(cls, problem: Problem) -> bool:
        return all(remainder(term) <= ROUNDING * float(np.finfo(term.dtype).eps) for term in problem.terms)

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        return np.stack([channel.apply(r[:, c]) for c, channel in enumerate(self._channels)], axis=1)

    def solve(self, y: NDArray[Any]) -> NDArray[Any]:
        images = y.reshape(len(y), len(self._channels), *y.shape[-self.problem.ndim :])
        return np.stack([channel.solve(images[:, c]) for c, channel in enumerate(self._channels)], axis=1)


class _Plain:
    """V [s / (s^2 + d^2)] U^H of one channel."""

    def __init__(self, terms: Sequence[Vectors], damp: float) -> None:
        self._matrices, self._damp = terms[0], damp
        self._svd = _decompositions(self._matrices)
        self._sigma = outer([sigma for _, sigma, _ in self._svd])
        if damp == 0:
            wide = any(m < n for m, n in (matrix.shape for matrix in self._matrices))
            squares = self._sigma**2
            check_invertible(0.0 if wide else float(squares.min()), float(squares.max()), max(self._sigma.shape))

    @cached_property
    def _right(self) -> tuple[list[NDArray[Any]], NDArray[Any]]:
        """All right singular vectors of the axes, and the denominators s^2 + d^2."""
        vectors, sigmas = [], []
        for matrix, (_, sigma, vh) in zip(self._matrices, self._svd, strict=True):
            whole = vh if len(vh) == matrix.shape[1] else linalg.svd(matrix)[2]
            vectors.append(whole.conj().T)
            sigmas.append(np.concatenate([sigma, np.zeros(len(whole) - len(sigma))]))
        return vectors, outer(sigmas) ** 2 + self._damp**2

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        vectors, denominators = self._right
        return along(vectors, along([v.conj().T for v in vectors], r) / denominators)

    def solve(self, y: NDArray[Any]) -> NDArray[Any]:
        seen = along([u.conj().T for u, _, _ in self._svd], y)
        filtered = seen * (self._sigma / (self._sigma**2 + self._damp**2))
        return along([vh.conj().T for _, _, vh in self._svd], filtered)


def _decompositions(matrices: Vectors) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """U, sigma, V^H of each matrix; one decomposition serves all multiples, as for a round kernel on a square image."""
    found: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for matrix in matrices:
        for earlier, (u, sigma, vh) in zip(matrices, found, strict=False):
            factor = _multiple(matrix, earlier)
            if factor:
                found.append((u * (factor / abs(factor)), sigma * abs(factor), vh))
                break
        else:
            found.append(linalg.svd(matrix, full_matrices=False))
    return found


def _multiple(matrix: NDArray[Any], other: NDArray[Any]) -> Any:
    """The factor of which a matrix is a multiple of another to rounding; 0 if it is none."""
    if matrix.shape != other.shape:
        return 0
    largest = np.unravel_index(int(np.argmax(np.abs(other))), other.shape)
    factor = matrix[largest] / other[largest] if other[largest] else 0
    error = float(np.abs(matrix - factor * other).max())
    return factor if error <= 16 * np.finfo(np.float64).eps * abs(matrix[largest]) else 0


class _Generalised:
    """V [1 / (a + d^2 b)] V^H of one channel: V^H A^H A V = a and V^H R^H R V = b are diagonal on every axis."""

    def __init__(self, terms: Sequence[Vectors], damp: float) -> None:
        self._matrices = terms[0]
        self._vectors, firsts, seconds = [], [], []
        for matrix, penalty in zip(*terms, strict=True):
            gram, other = matrix.conj().T @ matrix, penalty.conj().T @ penalty
            other *= _trace(gram) / (_trace(other) or 1.0)
            try:
                values, vectors = linalg.eigh(gram, gram + other)
            except np.linalg.LinAlgError as error:
                raise UnsupportedError("A and the regularizer share null vectors along an axis") from error
            values = np.clip(values, 0, 1)
            self._vectors.append(vectors)
            firsts.append(values)
            seconds.append((1 - values) * (_trace(penalty.conj().T @ penalty) / (_trace(gram) or 1.0)))
        self._denominators = outer(firsts) + damp**2 * outer(seconds)
        check_invertible(float(self._denominators.min()), float(self._denominators.max()), max(map(len, firsts)))

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        seen = along([v.conj().T for v in self._vectors], r) / self._denominators
        return along(self._vectors, seen)

    def solve(self, y: NDArray[Any]) -> NDArray[Any]:
        return self.apply(along([matrix.conj().T for matrix in self._matrices], y))


def remainder(operator: Convolution) -> float:
    """The largest relative part of the kernels that no separable kernel has."""
    kernels = kernel_of(operator)
    return max(rank_one(kernel)[1] for kernel in kernels.reshape(-1, *kernels.shape[2:]))


def along(matrices: Sequence[NDArray[Any]], x: NDArray[Any]) -> NDArray[Any]:
    """A matrix along each of the last axes: (batch, N_1..N_D) -> (batch, M_1..M_D), the cheapest first."""
    for axis in sorted(range(len(matrices)), key=lambda a: len(matrices[a]) / matrices[a].shape[1]):
        x = np.moveaxis(np.moveaxis(x, 1 + axis, -1) @ matrices[axis].T, -1, 1 + axis)
    return x


def _factors(problem: Problem) -> list[list[Vectors]]:
    """Per channel of x, the axis matrices of each term."""
    if (
        max(max(t.input_shape[-problem.ndim :] + t.output_shape[-problem.ndim :]) for t in problem.terms)
        > _LONGEST_AXIS
    ):
        raise UnsupportedError(f"an axis is longer than {_LONGEST_AXIS}")
    entries = sum(axis.output * axis.size for term in problem.terms for axis in term.geometry.axes)
    check_bytes(
        f"SVDs of the axis matrices of {problem.channels} channels",
        3 * problem.dtype.itemsize * problem.channels * entries,
        "solve for fewer channels at once, or by scipy's lsqr(A, y, damp=damp)",
    )
    factors: list[list[Vectors]] = [[] for _ in range(problem.channels)]
    for number, term in enumerate(problem.terms):
        for channel, _, kernel in single_kernels(term):
            if len(factors[channel]) > number:
                raise UnsupportedError("several channels of the result belong to one of x")
            vectors, missing = rank_one(kernel)
            if number and missing > 1e-10:
                raise UnsupportedError("the regularizer is not separable")
            factors[channel].append(_axis_matrices(term, vectors))
    return factors


def _axis_matrices(term: Convolution, vectors: Vectors) -> Vectors:
    """The dense matrix of each axis; those of a transpose from the conjugated kernel."""
    matrices = [axis_matrix(axis, v).toarray() for axis, v in zip(term.geometry.axes, vectors, strict=True)]
    return tuple(matrices) if is_forward(term) else tuple(matrix.conj().T for matrix in matrices)


def _trace(matrix: NDArray[Any]) -> float:
    return float(np.trace(matrix).real) / max(1, math.prod(matrix.shape[:1]))
