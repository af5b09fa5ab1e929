"""Which inverse to take: an exact one where there is one, otherwise the one that is expected to be through first.

What is expected are seconds: of the steps of conjugate gradients, and before the first of them. Their number follows
from the spectra of A and its neighbour on a small torus; nothing is tried out. An operator keeps the last inverses that
were made for it, so that the next solution begins at once.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from convmat.solve.inverses import INVERSES, Identity, Inverse, Problem, UnsupportedError
from convmat.solve.inverses.framed import bordered, largest_of, side_of
from convmat.solve.inverses.problem import lattice, reach
from convmat.solve.inverses.schwarz import classes_of
from convmat.solve.inverses.terms import single_kernels
from convmat.spectrum.values import outer, rank_one

_FRAMED_STEP = 1.8
"""What a step costs with "framed", in plain steps."""

_LOOSE = 1e-3
"""From here on, no preconditioner: each spreads the error over all frequencies, and those that A hardly sees count
little in the energy norm, and much in x. Plain steps come to them last, and leave them small."""

_SLACK = 0.65
"""Steps of plain conjugate gradients, relative to the bound log(2 / rtol) sqrt(condition number) / 2."""

_FRAMED = 6, 0.78
"""Fewest steps with "framed", and the power of the plain steps that is added, for kernels no larger than patches."""

_INSIDE = 0.25
"""The part of an image that its frame must leave, if a torus is to have something to do."""

_SMALL = 1e-8
"""Relative to A, a damp below which rounding errors do what it does."""

_VECTORS = 6.0
"""Nanoseconds that a step spends on an unknown besides the product."""

_FLOPS = 40.0
"""Operations in a nanosecond, of small dense matrices."""

_KEPT = 2
"""Inverses that an operator keeps."""


def choose(problem: Problem, rtol: float) -> Inverse:
    """The inverse that "auto" stands for, where conjugate gradients are to reach that `rtol`."""
    if problem.asked is None:
        return _made(problem, rtol)
    home, regularizer = problem.asked
    kept: tuple[tuple[float, Inverse], ...] = home.__dict__.get("_prepared", ())
    for wanted, inverse in kept:
        last = inverse.problem
        scale = (last.damp, last.normal_power) == (problem.damp, problem.normal_power)  # of A and R, in `scaled`
        same = scale and last.asked is not None and last.asked[1] is regularizer
        if same and (inverse.exact or wanted == rtol):
            return inverse
    made = _made(problem, rtol)
    home.__dict__["_prepared"] = ((rtol, made), *kept)[:_KEPT]  # threads may lose each other's, and no more
    return made


def _made(problem: Problem, rtol: float) -> Inverse:
    found = exact(problem)
    return found if found is not None else expected_first(problem, rtol)


def exact(problem: Problem) -> Inverse | None:
    """An exact inverse, if there is one.

    Raises
    ------
    numpy.linalg.LinAlgError
        If there is one, and the normal operator is singular.
    """
    for kind in INVERSES.values():
        if kind.fits(problem):
            try:
                return kind(problem)
            except UnsupportedError:
                continue
    return None


def expected_first(problem: Problem, rtol: float) -> Inverse:
    """The inverse with which conjugate gradients are expected to be through first."""
    if rtol >= _LOOSE or not problem.convolutions:
        return Identity(problem)
    seconds = expected(problem, rtol)
    for kind in sorted(seconds, key=lambda kind: seconds[kind]):
        try:
            return INVERSES[kind](problem)
        except (UnsupportedError, np.linalg.LinAlgError):
            continue
    return Identity(problem)


def expected(problem: Problem, rtol: float) -> dict[str, float]:
    """The seconds that conjugate gradients are expected to take with each kind, for a problem of convolutions."""
    step, sides = _step(problem), sum(problem.size)
    costs = {  # before the first step, and of each
        "identity": (0.0, step),
        "kronecker": (20 * problem.channels * sum(n**3 for n in problem.size) / _FLOPS,
                      step + 4 * sides * problem.unknowns / _FLOPS),
        "framed": (_framing(problem) / _FLOPS, _FRAMED_STEP * step),
    }  # fmt: skip
    return {
        kind: 1e-9 * (costs[kind][0] + count * costs[kind][1]) for kind, count in expected_steps(problem, rtol).items()
    }


def expected_steps(problem: Problem, rtol: float) -> dict[str, float]:
    """The steps that conjugate gradients are expected to take with each kind that exists."""
    spectra = _spectra(problem)
    if spectra is None:
        found = {"identity": _steps(largest_of(problem) / max(problem.damp, _SMALL), rtol)}
    else:
        normal, separable = spectra
        found = {"identity": _steps(_root(normal), rtol), "kronecker": _steps(_root(normal / separable), rtol)}
    sides = zip(problem.size, side_of(problem), bordered(problem), strict=True)
    inside = math.prod(max(0, 1 - 2 * side / n) for n, side, border in sides if border)
    if any(bordered(problem)) and set(lattice(problem)) == {1} and inside >= _INSIDE:
        spread = max(1.0, *(far / side for far, side in zip(reach(problem), side_of(problem), strict=True)))
        found["framed"] = _FRAMED[0] + found["identity"] ** _FRAMED[1] * spread
    return found


def _spectra(problem: Problem) -> NDArray[np.float64] | None:
    """The normal operator on a small torus, and that of its separable neighbour; None if channels are mixed.

    Shape (2, C, F_1..F_D).
    """
    grid = [4 * max(term.geometry.axes[axis].span for term in problem.convolutions) for axis in range(problem.ndim)]
    total = np.full((2, problem.channels, *grid), problem.shift + _SMALL**2)
    try:
        for term, weight in zip(problem.convolutions, problem.weights, strict=True):
            for channel, _, kernel in single_kernels(term):
                for row, taps in zip(total[:, channel], (kernel, outer(rank_one(kernel)[0])), strict=True):
                    local = np.zeros(grid, dtype=taps.dtype)
                    local[tuple(slice(0, axis.span, axis.dilation) for axis in term.geometry.axes)] = taps
                    row += np.abs(weight * fft.fftn(local)) ** 2
    except UnsupportedError:
        return None
    return total


def _root(spectrum: NDArray[np.float64]) -> float:
    """The square root of the ratio of the largest value to the smallest."""
    return math.sqrt(float(spectrum.max()) / float(spectrum.min()))


def _steps(root: float, rtol: float) -> float:
    """Steps of conjugate gradients, by the square root of the condition number."""
    return max(1.0, _SLACK / 2 * root * math.log(2 / rtol))


def _step(problem: Problem) -> float:
    """Nanoseconds of a step of plain conjugate gradients on one image."""
    cost = _VECTORS * problem.unknowns
    for term in problem.convolutions:
        cost += sum(term._products.expected())
    return cost


def _framing(problem: Problem) -> float:
    """Operations before the first step of "framed": Gram matrices of patches, and their inverses."""
    side = side_of(problem)
    lines = [{margins for _, margins in line} for line in classes_of(problem, side)]
    inside = [
        [m for m in line if 0 not in m] if border else line
        for line, border in zip(lines, bordered(problem), strict=True)
    ]
    patches = math.prod(map(len, lines)) - math.prod(map(len, inside))
    unknowns = problem.channels * math.prod(side)
    rows = sum(
        term.geometry.out_channels
        * math.prod(s + axis.span - 1 for s, axis in zip(side, term.geometry.axes, strict=True))
        for term in problem.convolutions
    )
    return patches * (rows * unknowns**2 + unknowns**3)
