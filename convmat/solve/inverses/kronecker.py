"""Kronecker products: one axis after the other, by dense decompositions of the axis matrices.

Padding, stride and dilation act axis by axis, so that a kernel k_1 (x) k_2 gives A = A_1 (x) A_2 under every padding
mode and stride. With the singular values A_a = U_a S_a V_a^H,

    (A^H A + d^2 I)^-1 A^H = V [s / (s^2 + d^2)] U^H,    V = V_1 (x) V_2, s = s_1 (x) s_2.

A regularizer R = R_1 (x) R_2 takes the generalised eigenvectors of the pairs (A_a^H A_a, R_a^H R_a); more terms take
eigenvectors that all of them share on each axis, where there are such.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from convmat.matrix import axis_matrix, check_bytes
from convmat.operators import Convolution
from convmat.solve.inverses.modes import Modes
from convmat.solve.inverses.problem import Inverse, Problem, check_invertible
from convmat.solve.inverses.terms import UnsupportedError, is_forward, kernel_of, single_kernels
from convmat.spectrum.values import ROUNDING, outer, rank_one

_NEARLY = 1e-10
"""The part of a kernel that may be missing from its separable neighbour, in a term that is not approximated."""

_COMMUTING = 512 * np.finfo(np.float64).eps
"""What may be left beside the diagonal, per sample, relative to the largest eigenvalue."""

_LONGEST_AXIS = 4096
"""Samples of an axis beyond which its dense decomposition takes too long."""

Vectors = Sequence[NDArray[Any]]


class Kronecker(Inverse):
    """The inverse of the best separable neighbour of A: exact for separable kernels, every padding mode and stride.

    Several terms have an inverse of this form where, on each axis, they are multiples of two matrices, or their normal
    matrices commute: a blur under symmetric padding and differences, say.
    """

    name = "kronecker"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._channels = [
            _Plain(terms[0], problem) if problem.single and len(terms) == 1 and problem.regularizer is None
            else _Common(terms, problem) for terms in _factors(problem)
        ]  # fmt: skip

    @classmethod
    def fits(cls, problem: Problem) -> bool:
        terms = problem.convolutions
        return bool(terms) and all(remainder(term) <= ROUNDING * float(np.finfo(term.dtype).eps) for term in terms)

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        return np.stack([channel.apply(r[:, c]) for c, channel in enumerate(self._channels)], axis=1)

    def solve(self, y: NDArray[Any]) -> NDArray[Any]:
        plain = [channel for channel in self._channels if isinstance(channel, _Plain)]
        if len(plain) < len(self._channels):
            return super().solve(y)
        images = y.reshape(len(y), len(plain), *y.shape[-self.problem.ndim :])
        return np.stack([channel.solve(images[:, c]) for c, channel in enumerate(plain)], axis=1)

    def modes(self, y: NDArray[Any]) -> Modes:
        plain = isinstance(self._channels[0], _Plain)
        seen = y.reshape(len(y), -1, *y.shape[-self.problem.ndim :]) if plain else self.problem.right_side(y)
        channels = self._channels

        def images(coefficients: NDArray[Any]) -> NDArray[Any]:
            found = [along(channel.vectors, coefficients[:, c]) for c, channel in enumerate(channels)]
            return np.stack(found, axis=1)

        moments = np.stack([channel.moments(seen[:, c]) for c, channel in enumerate(channels)], axis=1)
        squares, penalties = (np.stack(parts) for parts in zip(*(c.values for c in channels), strict=True))
        return Modes(squares, penalties, moments, np.ones(1), images)


@dataclass(frozen=True)
class _Term:
    """weight^2 T^H T, T = T_1 (x) .. (x) T_D."""

    weight: float
    matrices: Vectors


class _Plain:
    """V [s / (s^2 + d^2)] U^H of one channel."""

    def __init__(self, term: _Term, problem: Problem) -> None:
        self._matrices, self._damp = term.matrices, (damp := problem.damp)
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

    @property
    def vectors(self) -> Vectors:
        """V, of the modes that A sees."""
        return [vh.conj().T for _, _, vh in self._svd]

    @property
    def values(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The eigenvalues of A^H A, and those of the penalty for damp 1."""
        return self._sigma**2, np.ones_like(self._sigma)

    def moments(self, y: NDArray[Any]) -> NDArray[Any]:
        """V^H A^H y."""
        return np.asarray(along([u.conj().T for u, _, _ in self._svd], y) * self._sigma)

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        vectors, denominators = self._right
        return along(vectors, along([v.conj().T for v in vectors], r) / denominators)

    def solve(self, y: NDArray[Any]) -> NDArray[Any]:
        return along(self.vectors, self.moments(y) / (self._sigma**2 + self._damp**2))


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


class _Common:
    """V [1 / sum of w^2 lambda] V^H of one channel: V^H T^H T V = lambda is diagonal on every axis, for all terms."""

    def __init__(self, terms: Sequence[_Term], problem: Problem) -> None:
        if problem.shift:
            eyes = tuple(np.eye(n, dtype=problem.dtype) for n in problem.size)
            terms = [*terms, _Term(math.sqrt(problem.shift), eyes)]
        axes = [_diagonalised([term.matrices[axis] for term in terms]) for axis in range(problem.ndim)]
        self.vectors: Vectors = [vectors for vectors, _ in axes]
        count, parts = len(problem.measured), (np.zeros(problem.size), np.zeros(problem.size))
        for number, term in enumerate(terms):
            parts[number >= count][...] += term.weight**2 * outer([values[number] for _, values in axes])
        self.values = parts
        self._denominators = parts[0] + parts[1]
        check_invertible(float(self._denominators.min()), float(self._denominators.max()), max(problem.size))

    def moments(self, right: NDArray[Any]) -> NDArray[Any]:
        """V^H A^H y, from A^H y."""
        return along([v.conj().T for v in self.vectors], right)

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        return along(self.vectors, self.moments(r) / self._denominators)


def _diagonalised(matrices: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """V and, for each matrix T, the diagonal of V^H T^H T V, which has no other entries."""
    grams = [matrix.conj().T @ matrix for matrix in matrices]
    distinct: list[NDArray[Any]] = []
    for gram in grams:
        if gram.any() and not any(_multiple(gram, other) for other in distinct):
            distinct.append(gram)
    distinct = distinct or grams[:1]
    if len(distinct) == 2:
        vectors, found = _pair(*distinct)
    else:
        vectors, found = _commuting(distinct)
    values = []
    for gram in grams:
        factors = [float(np.real(_multiple(gram, other))) for other in distinct]
        place = int(np.argmax(factors))  # the one of which it is a multiple; 0 times any, if it is zero
        values.append(factors[place] * found[place])
    return vectors, values


def _pair(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Two matrices, by their generalised eigenvectors."""
    ratio = _trace(first) / (_trace(second) or 1.0)
    try:
        values, vectors = linalg.eigh(first, first + ratio * second)
    except np.linalg.LinAlgError as error:
        raise UnsupportedError("A and the regularizer share null vectors along an axis") from error
    values = np.clip(values, 0, 1)
    return vectors, [values, (1 - values) / (ratio or 1.0)]


def _commuting(grams: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Any number of matrices, if they commute: by the eigenvectors of a mixture, which are those of all."""
    sizes = [_trace(gram) or 1.0 for gram in grams]
    shares = np.random.default_rng(0).uniform(1, 2, len(grams))
    _, vectors = linalg.eigh(sum(share / size * gram for share, size, gram in zip(shares, sizes, grams, strict=True)))
    values = []
    for gram in grams:
        turned = vectors.conj().T @ gram @ vectors
        diagonal = np.diag(turned).real.copy()
        away = float(np.abs(turned - np.diag(np.diag(turned))).max(initial=0))
        if away > _COMMUTING * len(gram) * float(np.abs(diagonal).max(initial=0)):
            raise UnsupportedError("the terms have no common eigenvectors along an axis")
        values.append(np.maximum(diagonal, 0))
    return vectors, values


def remainder(operator: Convolution) -> float:
    """The largest relative part of the kernels that no separable kernel has."""
    kernels = kernel_of(operator)
    return max(rank_one(kernel)[1] for kernel in kernels.reshape(-1, *kernels.shape[2:]))


def along(matrices: Sequence[NDArray[Any]], x: NDArray[Any]) -> NDArray[Any]:
    """A matrix along each of the last axes: (batch, N_1..N_D) -> (batch, M_1..M_D), the cheapest first."""
    for axis in sorted(range(len(matrices)), key=lambda a: len(matrices[a]) / matrices[a].shape[1]):
        x = np.moveaxis(np.moveaxis(x, 1 + axis, -1) @ matrices[axis].T, -1, 1 + axis)
    return x


def _factors(problem: Problem) -> list[list[_Term]]:
    """The separable terms of each channel of x."""
    terms = problem.convolutions
    if not terms:
        raise UnsupportedError("the terms are not convolutions of one image")
    if max(max(t.geometry.input_size + t.geometry.output_size) for t in terms) > _LONGEST_AXIS:
        raise UnsupportedError(f"an axis is longer than {_LONGEST_AXIS}")
    entries = sum(axis.output * axis.size for term in terms for axis in term.geometry.axes)
    check_bytes(
        f"SVDs of the axis matrices of {problem.channels} channels",
        3 * problem.dtype.itemsize * problem.channels * entries,
        "solve for fewer channels at once, or by scipy's lsqr(A, y, damp=damp)",
    )
    factors: list[list[_Term]] = [[] for _ in range(problem.channels)]
    for number, (term, weight) in enumerate(zip(terms, problem.weights, strict=True)):
        for channel, _, kernel in single_kernels(term):
            vectors, missing = rank_one(kernel)
            if missing > _NEARLY and (number or factors[channel]):
                raise UnsupportedError("a term beside the first is not separable")
            factors[channel].append(_Term(weight, _axis_matrices(term, vectors)))
    return factors


def _axis_matrices(term: Convolution, vectors: Vectors) -> Vectors:
    """The dense matrix of each axis; those of a transpose from the conjugated kernel."""
    matrices = [axis_matrix(axis, v).toarray() for axis, v in zip(term.geometry.axes, vectors, strict=True)]
    return tuple(matrices) if is_forward(term) else tuple(matrix.conj().T for matrix in matrices)


def _trace(matrix: NDArray[Any]) -> float:
    return float(np.trace(matrix).real) / max(1, math.prod(matrix.shape[:1]))
