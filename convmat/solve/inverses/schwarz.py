"""Overlapping patches: additive Schwarz, M = sum over patches of E (E^H H E)^-1 E^H with H = A^H A + damp^2 R^H R.

Each patch is inverted exactly as it is in H, border included, so that no mismatch at the border is ever amplified: the
largest eigenvalue of M H is at most the number of patches that meet in a sample. H is the same in every patch away from
the border, so that there are few different patches, each inverted once; a product is one matrix product for each.
A problem that fits in one patch is solved exactly.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from convmat import matrix
from convmat.operators import Convolution, ImageOperator
from convmat.solve.inverses.modes import Modes, of_grams, of_matrices
from convmat.solve.inverses.problem import Inverse, Problem, check_invertible, lattice, reach, resized_geometry
from convmat.solve.inverses.terms import UnsupportedError, is_forward

PATCH_UNKNOWNS = 576
"""Unknowns in a patch: 24 x 24 in the plane. With 32 x 32, a quarter fewer steps, each twice as long."""

DIRECT_UNKNOWNS = 1024
"""Unknowns of a problem that is one patch."""

_OVERLAP = 1 / 6
"""The part of a patch's side that it shares with the next one."""

_WHOLE_ENTRIES = 2**22
"""Entries of a matrix A that is decomposed as it is."""

_BYTES = 2**30
"""Bytes of the inverted patches beyond which there are too many different ones."""

Corner = tuple[int, ...]
Margins = tuple[tuple[int, int], ...]
Patch = tuple[NDArray[Any], NDArray[Any]]
"""Corners (n, D), and the inverse of the normal operator on each of the patches there."""


class Schwarz(Inverse):
    """The sum of the inverses of overlapping patches; one patch is the whole problem where that is small."""

    name = "schwarz"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if not (self.exact or problem.convolutions):
            raise UnsupportedError("the terms are not convolutions of one image")
        matrix.check_bytes(
            f"the patches of {problem.unknowns} unknowns",
            4 * problem.dtype.itemsize * problem.unknowns,
            "cut the image into parts that overlap, and solve for each",
        )
        self._side = _side(problem)
        if self.exact:
            self.name = "direct"
        patches: dict[Margins, list[Corner]] = {}
        for corner, margins in patches_of(problem, self._side):
            patches.setdefault(margins, []).append(corner)
        unknowns = problem.channels * math.prod(self._side)
        if unknowns > 4 * DIRECT_UNKNOWNS or len(patches) * unknowns**2 * problem.dtype.itemsize > _BYTES:
            raise UnsupportedError(f"{len(patches)} different patches of {unknowns} unknowns are too many")
        matrix.check_bytes(
            f"inverses of {len(patches)} patches of {unknowns} unknowns",
            (len(patches) + 4) * unknowns**2 * problem.dtype.itemsize,
            "kind='identity', or scipy's lsqr(A, y, damp=damp), need none",
        )
        self._patches = inverted(problem, self._side, patches)

    @classmethod
    def fits(cls, problem: Problem) -> bool:
        return _side(problem) == problem.size

    def solve(self, y: NDArray[Any]) -> NDArray[Any]:
        if not self._whole:
            return super().solve(y)
        columns = linalg.solve_triangular(self._whole[1], self._whole[0] @ y.reshape(len(y), -1).T)
        return np.ascontiguousarray(columns.T).reshape(len(y), self.problem.channels, *self.problem.size)

    def modes(self, y: NDArray[Any]) -> Modes:
        problem = self.problem
        penalties = [w * t.toarray() for w, t in problem.penalised]
        entries = math.prod(problem.operator.shape) + sum(len(part) for part in penalties) * problem.unknowns
        if entries <= _WHOLE_ENTRIES:
            held = np.vstack(penalties).astype(problem.dtype) if penalties else None
            a, b, vectors = of_matrices(problem.operator.toarray().astype(problem.dtype), held)
        else:
            eye = np.eye(problem.unknowns, dtype=problem.dtype)
            grams = [self._gram(terms) if terms else eye for terms in (problem.measured, problem.penalised)]
            a, b, vectors = of_grams(*grams)
        moments = problem.right_side(y).reshape(len(y), -1) @ vectors.conj()

        def images(coefficients: NDArray[Any]) -> NDArray[Any]:
            found = np.asarray(coefficients @ vectors.T)
            return found.reshape(len(found), problem.channels, *problem.size)

        return Modes(a, b, moments, np.ones(1), images)

    def _gram(self, terms: list[tuple[float, ImageOperator]]) -> NDArray[Any]:
        total = np.zeros((self.problem.unknowns,) * 2, dtype=self.problem.dtype)
        for weight, term in terms:
            matrix = term.tosparse()
            total += (weight**2 * (matrix.conj().T @ matrix)).toarray()
        return total

    @cached_property
    def _whole(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Q^H of the rows of A, and R, of [A; damp R] = Q R: squares lose half of the digits, and this does not."""
        problem, (rows, cols) = self.problem, self.problem.operator.shape
        if not self.exact or rows * cols > _WHOLE_ENTRIES:
            return None
        penalties = [problem.damp * w * t.toarray() for w, t in problem.penalised]
        identity = math.sqrt(problem.shift) * np.eye(cols)
        stack = np.vstack([problem.operator.toarray(), *penalties, identity]).astype(problem.dtype)
        q, r = linalg.qr(stack, mode="economic")
        return q[:rows].conj().T, r

    def reaching(self, box: tuple[tuple[int, int], ...]) -> tuple[Schwarz, tuple[tuple[int, int], ...]]:
        if self.exact:
            return self, tuple((0, size) for size in self.problem.size)
        starts, stops = np.array(box).T
        found = []
        for corners, inverse in self._patches:
            inside = corners[((corners < stops) & (corners + self._side > starts)).all(axis=1)]
            if len(inside):
                found.append((inside, inverse))
        lowest = np.min([corners.min(axis=0) for corners, _ in found], axis=0)
        highest = np.max([corners.max(axis=0) for corners, _ in found], axis=0) + self._side
        part = copy.copy(self)
        part._patches = [(corners - lowest, inverse) for corners, inverse in found]
        return part, tuple(zip(lowest.tolist(), highest.tolist(), strict=True))

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        result = np.zeros(r.shape, dtype=np.result_type(r, self.problem.dtype))
        add_patches(result, r, self._patches, self._side)
        return result


def add_patches(result: NDArray[Any], r: NDArray[Any], patches: list[Patch], side: tuple[int, ...]) -> None:
    """Add the inverses of patches times images: for each inverse, at all corners where it belongs."""
    for corners, inverse in patches:
        shape = (len(corners), len(r), r.shape[1], *side)
        cut = np.empty(shape, dtype=result.dtype)
        places: list[Any] = [
            (..., *(slice(a, a + width) for a, width in zip(corner, side, strict=True))) for corner in corners.tolist()
        ]
        for i, place in enumerate(places):
            cut[i] = r[place]
        solved = (cut.reshape(shape[0] * shape[1], len(inverse)) @ inverse.T).reshape(shape)
        for i, place in enumerate(places):
            result[place] += solved[i]


def _side(problem: Problem) -> tuple[int, ...]:
    """The sides of a patch: the whole of short axes, and equal parts of the others."""
    if problem.unknowns <= DIRECT_UNKNOWNS:
        return problem.size
    sides = list(problem.size)
    budget = max(PATCH_UNKNOWNS // problem.channels, 1)
    for done, axis in enumerate(sorted(range(problem.ndim), key=lambda a: problem.size[a])):
        share = max(1, int(budget ** (1 / (problem.ndim - done)) + 1e-9))
        sides[axis] = min(problem.size[axis], share)
        budget = max(1, budget // sides[axis])
    return tuple(sides)


def patches_of(problem: Problem, side: tuple[int, ...]) -> Iterator[tuple[Corner, Margins]]:
    """The corners of the patches, and their margins in the smallest problem that has the same patch."""
    if side == problem.size:
        yield (0,) * len(side), ((0, 0),) * len(side)
        return
    for place in itertools.product(*classes_of(problem, side)):
        yield tuple(a for a, _ in place), tuple(margins for _, margins in place)


def classes_of(problem: Problem, side: tuple[int, ...]) -> list[list[tuple[int, tuple[int, int]]]]:
    """Per axis, where the patches begin, and their margins."""
    return [
        [(a, _margins(a, n - a - width, step, far)) for a in _starts(n, width, step)]
        for n, width, step, far in zip(problem.size, side, lattice(problem), reach(problem), strict=True)
    ]


def _starts(n: int, side: int, step: int) -> list[int]:
    """Where the patches of one axis begin: at multiples of the step, evenly, overlapping by at least a part."""
    if side >= n:
        return [0]
    unit = min(step, side)
    most, total = max(1, int(side * (1 - _OVERLAP)) // unit), -(-(n - side) // unit)
    count = -(-total // most)
    return [*(unit * (total * i // count) for i in range(count)), n - side]


def _margins(before: int, after: int, step: int, far: int) -> tuple[int, int]:
    """The distances from the border, shortened in whole steps to what the border reaches."""
    return before - max(0, (before - far) // step) * step, after - max(0, (after - far) // step) * step


def inverted(problem: Problem, side: tuple[int, ...], patches: dict[Margins, list[Corner]]) -> list[Patch]:
    """The inverses of the normal operator on different patches, each with the corners where it belongs.

    All of them are cut from the smallest problem that has these patches.
    """
    size = resident(problem, side)
    terms = [_matrix_on(term, problem.size, size) for term in problem.convolutions or problem.terms]
    index = np.arange(problem.channels * math.prod(size)).reshape(problem.channels, *size)
    found = []
    for margins, corners in patches.items():
        starts = [
            before if after >= far else n - width - after
            for (before, after), n, width, far in zip(margins, size, side, _reaches(problem), strict=True)
        ]
        cut = (slice(None), *(slice(a, a + width) for a, width in zip(starts, side, strict=True)))
        chosen = index[cut].ravel()
        gram = problem.shift * np.eye(chosen.size, dtype=problem.dtype)
        for term, weight in zip(terms, problem.weights, strict=True):
            columns = term[:, chosen]
            dense = columns[np.unique(columns.indices)].toarray().astype(problem.dtype)
            gram += weight**2 * (dense.conj().T @ dense)
        found.append((np.array(corners), _cholesky_inverse(gram)))
    return found


def resident(problem: Problem, side: tuple[int, ...]) -> tuple[int, ...]:
    """The size of the smallest problem in which there are all patches of the whole one."""
    if side == problem.size:
        return side
    sizes = []
    for n, width, step, far in zip(problem.size, side, lattice(problem), reach(problem), strict=True):
        sizes.append(n - max(0, n - width - 2 * (far + step)) // step * step)
    return tuple(sizes)


def _reaches(problem: Problem) -> tuple[int, ...]:
    """`reach`; of what is no image, nothing."""
    return reach(problem) if problem.convolutions else (0,) * problem.ndim


def _matrix_on(term: ImageOperator, old: tuple[int, ...], new: tuple[int, ...]) -> Any:
    """The matrix of a term on another grid, by columns."""
    if old == new or not isinstance(term, Convolution):
        return term.tosparse("csc")
    build = matrix.sparse if is_forward(term) else matrix.sparse_transpose
    return build(resized_geometry(term, old, new), term.weight, "csc")


def _cholesky_inverse(gram: NDArray[Any]) -> NDArray[Any]:
    """The inverse of a Hermitian positive definite matrix, Hermitian to the last digit."""
    if not gram.any():
        check_invertible(0.0, 0.0, len(gram))
    try:
        factor = linalg.cho_factor(gram, lower=True)
    except np.linalg.LinAlgError:
        check_invertible(0.0, float(np.abs(gram).max()), len(gram))
        raise
    pivots = np.abs(np.diag(factor[0])) ** 2
    check_invertible(float(pivots.min()), float(pivots.max()), len(gram))
    potri = linalg.get_lapack_funcs("potri", factor[:1])
    lower = np.tril(potri(factor[0], lower=True)[0])
    np.fill_diagonal(lower, lower.diagonal().real / 2)
    return np.asarray(lower + lower.conj().T)
