"""A torus inside and patches along the frame: M = W (C^H C + damp^2 + lift)^-1 W + sum over the frame of E H_ii^-1 E^H.

Away from the border A is a circular convolution C, whose normal operator the FFT inverts. At the border, that inverse
is up to 1 / damp^2 times too large, in about as many directions as the frame has samples. The taper W, 0 at the border
and 1 inside, takes that away, and what it takes too much, the patches that touch the border put back: there, it is
H = A^H A + damp^2 R^H R itself that is inverted, as in `schwarz`. No sample has the weight 0, so that the first
summand is positive definite, and the second is not negative.

No digit of the solution depends on M, so that it is computed in single precision where that resolves damp^2.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from convmat import matrix
from convmat.operators import Convolution, VStack
from convmat.operators.simplification import times
from convmat.products import Products
from convmat.products.symbol import periodic
from convmat.solve.inverses.circulant import Circulant
from convmat.solve.inverses.problem import Inverse, Problem, resized_geometry
from convmat.solve.inverses.schwarz import Corner, Margins, add_patches, inverted, patches_of, resident
from convmat.solve.inverses.terms import UnsupportedError, kernel_of

PATCH_UNKNOWNS = 256, 400
"""Fewest and most unknowns of a patch for each channel; as many as the kernel has taps between."""

_MOST_UNKNOWNS = 768
"""Unknowns of a patch with all its channels."""

_MOST_PATCHES = 256
"""Different patches beyond which they take too long to invert."""

_MOST_ENTRIES = 2**24
"""Entries of the matrices that the patches are cut from, beyond which the same holds."""

_TAPER = 1.5
"""Length of the taper, in sides of a patch."""

_LIFT = 1.5e-3
"""Eigenvalues are lifted by this times the largest: where the taper and C do not commute, M is too large without."""

_SINGLE = 1 / float(np.finfo(np.float32).eps)
"""Largest condition number of a patch that single precision resolves."""


class Framed(Inverse):
    """A tapered torus and the patches of the frame: convolutions of stride 1; never exact."""

    name = "framed"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if not problem.convolutions:
            raise UnsupportedError("the terms are not convolutions of one image")
        if any(s > 1 for term in problem.convolutions for s in term.geometry.stride):
            raise UnsupportedError("a stride is larger than 1")
        self._bordered = bordered(problem)
        if not any(self._bordered):
            raise UnsupportedError("there is no border: kind='circulant' is exact")
        self._side = side_of(problem)
        found: dict[Margins, list[Corner]] = {}
        for corner, margins in patches_of(problem, self._side):
            if self._touches(corner):
                found.setdefault(margins, []).append(corner)
        entries = sum(
            resized_geometry(t, problem.size, resident(problem, self._side)).nnz for t in problem.convolutions
        )
        if len(found) > _MOST_PATCHES or entries > _MOST_ENTRIES:
            raise UnsupportedError(f"the frame has {len(found)} different patches, of matrices of {entries} entries")
        unknowns = problem.channels * math.prod(self._side)
        matrix.check_bytes(
            f"{len(found)} patches of {unknowns} unknowns, and the transform of {problem.unknowns} unknowns,",
            len(found) * unknowns**2 * problem.dtype.itemsize + 6 * problem.dtype.itemsize * problem.unknowns,
            "kind='identity', or scipy's lsqr(A, y, damp=damp), need none",
        )
        patches, largest = inverted(problem, self._side, found), largest_of(problem)
        self._dtype = problem.dtype
        if largest**2 * max(float(np.abs(inverse).sum(axis=1).max()) for _, inverse in patches) <= _SINGLE:
            self._dtype = np.dtype(np.complex64 if problem.dtype.kind == "c" else np.float32)
        self._patches = [(corners, inverse.astype(self._dtype)) for corners, inverse in patches]
        self._torus = _torus(problem, self._bordered, largest).rounded(np.result_type(self._dtype, np.complex64))
        self._taper = _taper(problem.size, self._side, self._bordered).astype(self._dtype.type(0).real.dtype)

    @classmethod
    def fits(cls, problem: Problem) -> bool:
        return False

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        rounded = r.astype(np.result_type(self._dtype, np.complex64 if r.dtype.kind == "c" else self._dtype))
        inside: Any = (..., *(slice(n) for n in self.problem.size))
        embedded = np.zeros((*r.shape[:2], *self._torus.problem.size), dtype=rounded.dtype)
        np.multiply(self._taper, rounded, out=embedded[inside])
        result: NDArray[Any] = self._taper * self._torus.apply(embedded)[inside]
        add_patches(result, rounded, self._patches, self._side)
        return np.asarray(result, dtype=np.result_type(r, self.problem.dtype))

    def _touches(self, corner: Corner) -> bool:
        """Whether a patch reaches the border."""
        places = zip(corner, self._side, self.problem.size, self._bordered, strict=True)
        return any(bordered and (a == 0 or a + side == n) for a, side, n, bordered in places)


def peak(term: Convolution) -> float:
    """The largest norm of the blocks of the symbol, nearly: a dilation only repeats it."""
    kernel = kernel_of(term)
    axes = tuple(range(2, kernel.ndim))
    blocks = fft.fftn(kernel, [2 * n for n in kernel.shape[2:]], axes=axes)
    blocks = blocks.reshape(term.geometry.groups, -1, *blocks.shape[1:])
    return float(np.linalg.norm(blocks, axis=(1, 2)).max(initial=0))


def largest_of(problem: Problem) -> float:
    """About the square root of the largest eigenvalue of the normal operator, but for the shift."""
    squares = [(w * peak(t)) ** 2 for w, t in zip(problem.weights, problem.convolutions, strict=True)]
    return math.sqrt(sum(squares))


def bordered(problem: Problem) -> tuple[bool, ...]:
    """Along which axes there is a border."""
    return tuple(
        not all(periodic(term.geometry.axes[axis]) for term in problem.convolutions) for axis in range(problem.ndim)
    )


def side_of(problem: Problem) -> tuple[int, ...]:
    """The sides of a patch: equal, but for short axes, and longer for larger kernels."""
    spans = max(math.prod(axis.span for axis in term.geometry.axes) for term in problem.convolutions)
    unknowns = min(max(spans, PATCH_UNKNOWNS[0]), PATCH_UNKNOWNS[1])
    side = max(1, round(min(unknowns, _MOST_UNKNOWNS / problem.channels) ** (1 / problem.ndim)))
    return tuple(min(n, side) for n in problem.size)


def _taper(size: tuple[int, ...], sides: tuple[int, ...], bordered: tuple[bool, ...]) -> NDArray[np.float64]:
    """A quarter of a sine up from each border. (N_1..N_D)"""
    taper = np.ones(size)
    for axis, (n, side) in enumerate(zip(size, sides, strict=True)):
        if bordered[axis]:
            rise = np.sin(np.pi / 2 * np.minimum(1, (np.arange(n) + 0.5) / (_TAPER * side)))
            taper *= (rise * rise[::-1]).reshape(-1, *(1,) * (len(size) - 1 - axis))
    return taper


def _torus(problem: Problem, bordered: tuple[bool, ...], largest: float) -> Circulant:
    """The inverse of the lifted normal operator on a torus on which opposite borders do not meet."""
    size = []
    for axis, n in enumerate(problem.size):
        apart = max(term.geometry.axes[axis].span - 1 for term in problem.convolutions)
        size.append(int(fft.next_fast_len(n + apart, real=True)) if bordered[axis] else n)
    terms = [
        times(weight, _circular(term, tuple(size)))
        for term, weight in zip(problem.convolutions, problem.weights, strict=True)
    ]
    return Circulant(Problem(VStack(*terms), math.sqrt(problem.shift + _LIFT * largest**2)))


def _circular(term: Convolution, size: tuple[int, ...]) -> Convolution:
    """A term on a torus that has this size as its unknown."""
    g = term.geometry
    padding = tuple((0, axis.span - 1) for axis in g.axes)
    geometry = replace(
        g, input_size=size, output_size=size, padding=padding, padding_mode="circular", sharing=(), part=None
    )
    return type(term)._of(Products(geometry, term.weight, "auto"))
