"""The Tikhonov problem with everything resolved, and what an (approximate) inverse of its normal operator is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.matrix import check_bytes
from convmat.operators import Convolution, ImageOperator, VStack
from convmat.operators.simplification import times
from convmat.operators.stencils import as_convolution
from convmat.products import Products
from convmat.solve.inverses.modes import Modes
from convmat.solve.inverses.terms import adjoint, images_of, is_forward, terms_of
from convmat.spectrum.trees import scaled_operator
from convmat.taps import Axis

_SMALL_MATRIX = 2**22
"""Entries of a matrix that many products repay."""

_FAR = 100
"""Where damp R is more than 2^100 times A, A is lost beside it, and is taken to be no smaller than that."""


_DAMPLESS = {"measured", "penalised", "terms", "dtype", "convolutions", "single", "channels", "size"}
"""What is cached of a problem that is the same for every damp."""


@dataclass(frozen=True)
class Problem:
    """min |A x - y|^2 + damp^2 |R x|^2, with R the identity if there is no regularizer.

    Everything is computed in double precision, on batches of images that have a channel axis. A problem may stand for
    another one, which differs by powers of two: see `scaled`.
    """

    operator: ImageOperator
    damp: float
    regularizer: ImageOperator | None = None
    normal_power: int = 0
    solution_power: int = 0
    asked: tuple[ImageOperator, ImageOperator | None] | None = field(default=None, compare=False)
    """A and R as the caller gave them."""

    def scaled(self) -> Problem:
        """The same problem with A, R and damp near 1, so that no square overflows, or vanishes where it counts.

        The normal operator of this problem is 2^normal_power times that of the scaled one, and the solution for y is
        2^solution_power times that of the scaled one for y.
        """
        operator, a = scaled_operator(self.operator)
        regularizer, r = (None, 0) if self.regularizer is None else scaled_operator(self.regularizer)
        mantissa, d = math.frexp(self.damp)
        beyond = max(0, d + r - a) if self.damp else 0  # A and damp R are divided by 2^beyond more
        if beyond:
            operator = times(2.0 ** -min(beyond, _FAR), operator)
        damp = math.ldexp(mantissa, d + r - a - beyond)
        return Problem(operator, damp, regularizer, 2 * (a + beyond), min(beyond, _FAR) - a - 2 * beyond, self.asked)

    def of_one(self) -> tuple[Problem, int, int]:
        """The problem of damp 1 with A and R near 1, and their exponents a and r.

        For the damp 2^(a - r) d of this problem, x is 2^-a times that of the other for the damp d.
        """
        operator, a = scaled_operator(self.operator)
        regularizer, r = (None, 0) if self.regularizer is None else scaled_operator(self.regularizer)
        return Problem(operator, 1.0, regularizer), a, r

    def damped(self, damp: float) -> Problem:
        """The same with another damp; what does not depend on it is not made again."""
        other = replace(self, damp=damp)
        vars(other).update({name: value for name, value in vars(self).items() if name in _DAMPLESS})
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        kept = [part.name for part in fields(self) if part.name != "asked"]
        return Problem, tuple(getattr(self, name) for name in kept)  # what is cached is made again

    @cached_property
    def measured(self) -> list[tuple[float, ImageOperator]]:
        """The terms of A, with their factors."""
        return terms_of(self.operator)

    @cached_property
    def penalised(self) -> list[tuple[float, ImageOperator]]:
        """The terms of R, with their factors; none if it is the identity."""
        return [] if self.regularizer is None else terms_of(self.regularizer)

    @cached_property
    def terms(self) -> tuple[ImageOperator, ...]:
        """What A is a stack of, and R unless it is the identity: the normal operator is sum w_t^2 T_t^H T_t + shift."""
        return tuple(term for _, term in self.measured + self.penalised)

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """The factors w_t of the terms."""
        return (*(w for w, _ in self.measured), *(self.damp * w for w, _ in self.penalised))

    @cached_property
    def shift(self) -> float:
        """The multiple of the identity in the normal operator: damp^2, or nothing where a regularizer stands."""
        return self.damp**2 if self.regularizer is None else 0.0

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """float64, or complex128 if an operator is complex."""
        return np.result_type(np.float64, self.given_dtype)

    @property
    def given_dtype(self) -> np.dtype[Any]:
        """That of A and R together: of complex multiples, the terms may be real."""
        return np.result_type(self.operator.dtype, *([] if self.regularizer is None else [self.regularizer.dtype]))

    @cached_property
    def convolutions(self) -> tuple[Convolution, ...]:
        """The terms, if all of them are convolutions of the same images, an identity among them too; else nothing."""
        like = next((term.geometry for term in self.terms if isinstance(term, Convolution)), None)
        found = [term if isinstance(term, Convolution) else as_convolution(term, like) for term in self.terms]
        terms = tuple(term for term in found if term is not None)
        return terms if len(terms) == len(found) and len(set(map(images_of, terms))) == 1 else ()

    @cached_property
    def single(self) -> bool:
        """Whether the normal operator is A^H A + shift for one convolution, A itself."""
        return self.terms == (self.operator,) and bool(self.convolutions)

    @cached_property
    def channels(self) -> int:
        """Channels of the unknown x; of an x that is no image, 1."""
        return images_of(self.convolutions[0])[0] if self.convolutions else 1

    @cached_property
    def size(self) -> tuple[int, ...]:
        """Spatial size of the unknown x."""
        return images_of(self.convolutions[0])[1] if self.convolutions else (self.unknowns,)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def unknowns(self) -> int:
        """Entries of x."""
        return int(self.operator.shape[1])

    def normal(self, x: NDArray[Any]) -> NDArray[Any]:
        """(A^H A + damp^2 R^H R) x: (batch, C, N_1..N_D) -> the same."""
        result = self.shift * x if self.shift else None
        for term, weight in zip(self.terms, self.weights, strict=True):
            images = x.reshape(len(x), *term.input_shape).astype(np.result_type(term.dtype, x), copy=False)
            part = term._normal(images).reshape(x.shape)
            part = part if weight == 1 else weight**2 * part
            result = part if result is None else result + part
        assert result is not None
        return result

    def right_side(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^H y: (batch, *output_shape) -> (batch, C, N_1..N_D).

        Raises
        ------
        MemoryError
            If the vectors of conjugate gradients do not fit.
        """
        check_bytes(
            f"to solve for {len(y)} images of {self.unknowns} unknowns",
            6 * self.dtype.itemsize * len(y) * self.unknowns,
            "solve for fewer at once, or cut them into parts that overlap, and solve for each",
        )
        return adjoint(self.operator, y).reshape(len(y), self.channels, *self.size)


class Inverse:
    """(A^H A + damp^2 R^H R)^-1, or something close to it that is Hermitian and positive definite.

    Attributes
    ----------
    problem : Problem
    exact : bool
        Whether it is the inverse, to rounding.
    """

    name = ""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.exact = self.fits(problem)

    @classmethod
    def fits(cls, problem: Problem) -> bool:
        """Whether this kind is exact for the problem, if it exists; cheap to ask."""
        raise NotImplementedError

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        """The inverse times images: (batch, C, N_1..N_D) -> the same."""
        raise NotImplementedError

    def reaching(self, box: tuple[tuple[int, int], ...]) -> tuple[Inverse, tuple[tuple[int, int], ...]]:
        """The part of the inverse that reaches a box of the image, and the larger box on which it acts.

        Raises
        ------
        TypeError
            If all samples reach all others.
        """
        raise TypeError(f"a preconditioner of kind {self.name!r} has no blocks: each sample of its result needs the "
                        f"whole image; kind='schwarz' has")  # fmt: skip

    def solve(self, y: NDArray[Any]) -> NDArray[Any]:
        """The inverse times A^H y; a subclass may do it with less loss of digits. -> (batch, C, N_1..N_D)."""
        return self.apply(self.problem.right_side(y))

    def modes(self, y: NDArray[Any]) -> Modes:
        """The data in the bases in which A and R are diagonal; of an exact inverse of a problem of damp 1."""
        raise NotImplementedError


def resized(problem: Problem, size: tuple[int, ...]) -> Problem:
    """The same problem of convolutions on another grid; the sizes must differ by multiples of all strides."""
    count = len(problem.measured)
    parts: list[ImageOperator] = []
    for number, (term, weight) in enumerate(zip(problem.convolutions, problem.weights, strict=True)):
        geometry = resized_geometry(term, problem.size, size)
        method = "matrix" if geometry.nnz <= _SMALL_MATRIX else "auto"
        small = type(term)._of(Products(geometry, term.weight, method))
        parts.append(times(weight if number < count else weight / (problem.damp or 1.0), small))
    return Problem(VStack(*parts[:count]), problem.damp, VStack(*parts[count:]) if parts[count:] else None)


def resized_geometry(term: Convolution, old: tuple[int, ...], new: tuple[int, ...]) -> Geometry:
    """The geometry of an operator on another grid of its unknown; M and N change in step."""
    g = term.geometry
    change = [b - a for a, b in zip(old, new, strict=True)]
    if is_forward(term):
        inputs, outputs = change, [c // s for c, s in zip(change, g.stride, strict=True)]
    else:
        inputs, outputs = [c * s for c, s in zip(change, g.stride, strict=True)], change
    return replace(
        g,
        input_size=tuple(n + c for n, c in zip(g.input_size, inputs, strict=True)),
        output_size=tuple(m + c for m, c in zip(g.output_size, outputs, strict=True)),
    )


def lattice(problem: Problem) -> tuple[int, ...]:
    """Per axis the shift of x that shifts the results of all terms by whole samples."""
    steps = [term.geometry.stride if is_forward(term) else (1,) * problem.ndim for term in problem.convolutions]
    return tuple(math.lcm(*step) for step in zip(*steps, strict=True))


def reach(problem: Problem) -> tuple[int, ...]:
    """How far from the border, in samples of x, the padding and the end of the grid change the normal operator."""
    return tuple(max(_reach(term, term.geometry.axes[a]) for term in problem.convolutions) for a in range(problem.ndim))


def _reach(term: Convolution, axis: Axis) -> int:
    cropped = max(0, -axis.lo, -axis.hi)
    if is_forward(term):
        return max(axis.span, axis.lo, axis.hi) + cropped + axis.stride
    return -(-(axis.span + max(0, axis.lo, axis.hi) + cropped) // axis.stride) + 1


def check_invertible(smallest: float, largest: float, count: int) -> None:
    """Refuse to divide by rounding errors.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the smallest eigenvalue is no more than a rounding error of the largest.
    """
    if not smallest > np.finfo(np.float64).eps * count * largest:
        raise np.linalg.LinAlgError(
            f"the normal operator A^H A + damp^2 R^H R is singular to rounding: its eigenvalues run from "
            f"{smallest:.3g} to {largest:.3g}. Many x fit y equally well: give a damp > 0 that is not too small, and a "
            f"regularizer that sees what A does not"
        )
