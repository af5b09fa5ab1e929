"""How much damping the data ask for: generalised cross-validation, the discrepancy principle, and the L-curve.

Both are functions of three sums, which `measures` gives for every damp at once. Where there is a
regularizer and no closed form, nothing is shared between two dampings, and each is solved for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from convmat.solve.inverses import Problem
from convmat.solve.inverses.cg import conjugate_gradients
from convmat.solve.inverses.choose import choose
from convmat.solve.inverses.modes import Modes
from convmat.solve.measures import Measures, by_bidiagonalisation, of_modes

RULES = ("gcv", "discrepancy")
"""The words for a damping that the data choose."""

_TOLERANCE = 1e-4
"""How far two successive choices may be apart, relatively, where steps are taken until they agree."""

_AGREED = 2
"""How often in a row they must be that near."""

_LONGEST = 1000
"""Steps of a bidiagonalisation after which what they found is taken: data without noise ask for ever less damping."""

_BELOW = 1e-3
"""A damp that is so small a part of the smallest singular value changes nothing."""

_PER_DECADE = 12
"""Dampings in each decade among which the minimum is looked for before it is made precise."""

_PROBED = 2**14
"""Rows of all random vectors together: their part of the trace is known to about one over its root."""

_PROBES = 8

_HONEST = 0.1
"""The part of the degrees of freedom that must be left to the noise, or it is not told from the image."""

_SOLVED_DECADES = 1, -4
"""Powers of ten between which the damp is looked for, from the largest down, where each is solved for."""

_SOLVED_PER_DECADE = 2

_SOLVED_PRECISION = 2e-3
"""How precisely it is then looked for, relatively; about minima, the function changes by the square."""

_SOLVED_RTOL = 1e-5


class _Sums(Protocol):
    """The sums that the rules are made of, for the damping of a problem of damp 1."""

    def residual(self, damp: float) -> float: ...

    def solution(self, damp: float) -> float: ...

    def left(self, damp: float) -> float: ...

    @property
    def grid(self) -> NDArray[np.float64]:
        """Dampings between which the choice is, in descending order."""
        ...

    @property
    def rises(self) -> int:
        """So many values in a row above the least one mean that it was the minimum."""
        ...

    @property
    def precision(self) -> float:
        """How precisely the damp is looked for, relatively."""
        ...


@dataclass(frozen=True)
class _Summed:
    """The sums over the modes."""

    measures: Measures

    def residual(self, damp: float) -> float:
        return self.measures.data.residual(damp)

    def solution(self, damp: float) -> float:
        return self.measures.data.solution(damp)

    def left(self, damp: float) -> float:
        """The number of rows of A, less the trace of the influence matrix."""
        return self.measures.trace.left(damp)

    @property
    def rises(self) -> int:
        return len(self.grid)  # all are looked at: there may be several minima

    @property
    def precision(self) -> float:
        return _TOLERANCE / 10

    @property
    def grid(self) -> NDArray[np.float64]:
        smallest, largest = (math.sqrt(place) for place in self.measures.data.range)
        smallest = min(max(_BELOW * smallest, self.measures.lowest), largest)
        decades = max(1.0, math.log10(largest / smallest) + 1)
        return np.geomspace(10 * largest, smallest, math.ceil(_PER_DECADE * decades))


class _SolvedFor:
    """The same sums from solutions, of the data and of random vectors, for one damping after the other."""

    def __init__(self, problem: Problem, y: NDArray[Any], probes: NDArray[Any]) -> None:
        self._problem, self._y, self._probes = problem, y, probes
        self._known: dict[float, tuple[float, float, float]] = {}
        self._right = problem.right_side(np.concatenate([y, probes.astype(np.result_type(y, probes))]))
        self._start: NDArray[Any] | None = None

    def residual(self, damp: float) -> float:
        return self._solve(damp)[0]

    def solution(self, damp: float) -> float:
        return self._solve(damp)[1]

    def left(self, damp: float) -> float:
        return self._solve(damp)[2]

    @property
    def rises(self) -> int:
        return 1

    @property
    def precision(self) -> float:
        return _SOLVED_PRECISION

    @property
    def grid(self) -> NDArray[np.float64]:
        top, bottom = _SOLVED_DECADES
        return np.logspace(top, bottom, (top - bottom) * _SOLVED_PER_DECADE + 1)

    def _solve(self, damp: float) -> tuple[float, float, float]:
        if damp not in self._known:
            problem = self._problem.damped(damp)
            found = conjugate_gradients(
                problem, self._right, choose(problem, _SOLVED_RTOL), start=self._start, rtol=_SOLVED_RTOL,
                maxiter=min(10 * problem.unknowns, 10_000),
            ).x  # fmt: skip
            self._start, count = found, len(self._y)
            A, R = problem.operator, problem.regularizer
            images = A._forward(found.reshape(len(found), *A.input_shape))
            rest = self._y - images[:count]
            penalty = found if R is None else R._forward(found.reshape(len(found), *R.input_shape))
            inner = float(np.vdot(self._probes, images[count:]).real) / max(1, len(self._probes))
            self._known[damp] = _norm(rest), _norm(penalty[:count]), A.shape[0] - inner
        return self._known[damp]


def chosen(rule: str, problem: Problem, modes: Modes | None, y: NDArray[Any], noise: float | None, most: int) -> float:
    """The damping that a rule takes for the data of a problem of damp 1, (batch, *output_shape).

    The noise is the norm of all of it together; without it, what generalised cross-validation takes for noise.

    Raises
    ------
    ValueError
        If the discrepancy has no solution: the noise is larger than the data, or smaller than what no x explains.
    """
    if rule == "gcv":
        return float(_settled(problem, modes, y, _minimum, most, probed=True))
    if noise is None:
        noise, left = _settled(
            problem, modes, y, lambda sums: _noise(sums, problem.operator.shape[0]), most, probed=True
        )
        if left < _HONEST:
            raise ValueError(
                f"noise is not given, and cannot be told from y: the image that fits it best, by cross-validation, "
                f"leaves {left:.2g} of its degrees of freedom to the noise, and {_HONEST} are needed; give noise=, the "
                f"standard deviation of a sample"
            )
    size = _norm(y)
    if noise >= size:
        raise ValueError(
            f"noise: of this size, all of it has {noise / size:.3g} times the norm of y: nothing else would be in it"
        )
    damp, least = _settled(problem, modes, y, lambda sums: _root(sums, noise), most, probed=False)
    if damp == 0:
        raise ValueError(
            f"noise: a residual of {noise / size:.3g} times the norm of y is asked for, and no damp leaves less than "
            f"{least / size:.3g} times that. The noise is larger than it says, or A is not what made y; damp='gcv' "
            f"needs no noise"
        )
    return float(damp)


def curve(
    problem: Problem, modes: Modes | None, y: NDArray[Any], damps: Sequence[float], most: int
) -> NDArray[np.float64]:
    """The norms of the residual and of R x for each damping. (2, damps)"""

    def norms(sums: _Sums) -> NDArray[np.float64]:
        return np.array([[sums.residual(damp), sums.solution(damp)] for damp in damps]).T

    return np.asarray(_settled(problem, modes, y, norms, most, probed=False))


def cross_validation(
    problem: Problem, modes: Modes | None, y: NDArray[Any], damps: Sequence[float], most: int
) -> NDArray[np.float64]:
    """The function that "gcv" minimises, at each damping. (damps,)"""

    def values(sums: _Sums) -> NDArray[np.float64]:
        return np.array([_validation(sums, damp) for damp in damps])

    return np.asarray(_settled(problem, modes, y, values, most, probed=True))


def _settled(
    problem: Problem, modes: Modes | None, y: NDArray[Any], wanted: Callable[[_Sums], Any], most: int, *, probed: bool
) -> Any:
    """What is wanted of the sums: from the modes of a closed form, else after the steps that it takes to settle."""
    if modes is not None:
        return wanted(_Summed(of_modes(modes, _norm(y) ** 2, problem.operator.shape[0])))
    probes = _probes(problem, y.dtype) if probed else None
    if problem.regularizer is not None:
        return wanted(_SolvedFor(problem, y, probes if probes is not None else y[:0]))
    before, found, agreed = None, None, 0
    for measures in by_bidiagonalisation(problem, y, probes, min(most, _LONGEST)):
        before, found = found, wanted(_Summed(measures))
        near = before is not None and np.all(np.abs(found - before) <= _TOLERANCE * np.abs(found))
        agreed = agreed + 1 if near else 0
        if agreed == _AGREED:
            break
    return found


def _probes(problem: Problem, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Random vectors of signs, always the same. (count, *output_shape)"""
    rows = problem.operator.shape[0]
    count = min(_PROBES, max(1, _PROBED // max(1, rows)))
    signs = np.random.default_rng(0).integers(0, 2, (count, *problem.operator.output_shape))
    return (2 * signs - 1).astype(dtype)


def _validation(sums: _Sums, damp: float) -> float:
    """The squared residual over the square of the degrees of freedom that are left."""
    return (sums.residual(damp) / sums.left(damp)) ** 2


def _noise(sums: _Sums, rows: int) -> NDArray[np.float64]:
    """The norm of the noise, by the residual where cross-validation is least, and the part of y that is left to it."""
    damp = _minimum(sums)
    left = sums.left(damp) / rows
    return np.array([sums.residual(damp) / math.sqrt(left), left])


def _minimum(sums: _Sums) -> float:
    """The damping of the smallest value of generalised cross-validation."""
    grid, values = sums.grid, []
    for damp in grid:
        values.append(_validation(sums, float(damp)))
        if len(values) > sums.rises and len(values) - 1 - int(np.argmin(values)) >= sums.rises:
            break
    place = int(np.argmin(values))
    low, high = grid[min(len(grid) - 1, place + 1)], grid[max(0, place - 1)]
    found = optimize.minimize_scalar(
        lambda log: math.log(max(_validation(sums, math.exp(log)), np.finfo(np.float64).tiny)),
        bounds=(math.log(low), math.log(high)),
        method="bounded",
        options={"xatol": sums.precision},
    )
    return math.exp(float(found.x))


def _root(sums: _Sums, noise: float) -> NDArray[np.float64]:
    """The damping whose residual has the norm of the noise, and 0; or 0, and the least residual, if that is larger."""
    grid, above = sums.grid, None
    for damp in grid:
        residual = sums.residual(float(damp))
        if residual <= noise:
            break
        above = float(damp)
    else:
        return np.array([0.0, residual])
    if above is None:  # what no damp takes from the data is smaller than the noise
        return np.array([float(grid[0]), 0.0])
    found = optimize.brentq(
        lambda log: sums.residual(math.exp(log)) - noise,
        math.log(float(damp)),
        math.log(above),
        xtol=sums.precision,
    )
    return np.array([math.exp(float(found)), 0.0])


def _norm(values: NDArray[Any]) -> float:
    return float(np.linalg.norm(values.ravel()))
