"""Which inverse to take: an exact one where there is one, otherwise the winner of a rehearsal on a small image."""

from __future__ import annotations

import math

import numpy as np

from convmat.solve.inverses import INVERSES, Identity, Inverse, Problem, UnsupportedError
from convmat.solve.inverses.cg import conjugate_gradients
from convmat.solve.inverses.problem import lattice, reach, resized

STEP = {"kronecker": 1.2, "dct": 1.1, "circulant": 1.2, "identity": 1.0, "schwarz": 1.7}
"""What a step costs with each kind, in steps of plain conjugate gradients; none is below 1. Tried in this order, those
that cost most to make last; a kind that comes late must beat the ones before it."""

_FEW = 40
"""Steps that are few enough to try nothing else."""

_UNKNOWNS = 48**2
"""Unknowns of a rehearsal; more if they are needed for `_REACHES` times as far as the border is felt."""

_REACHES = 3

_STEPS = 400

_LOOSE = 1e-3
"""From here on, no preconditioner: each spreads the error over all frequencies, and those that A hardly sees count
little in the energy norm, and much in x. Plain steps come to them last, and leave them small."""


def choose(problem: Problem, rtol: float) -> Inverse:
    """The inverse that "auto" stands for, where conjugate gradients are to reach that `rtol`."""
    found = exact(problem)
    return found if found is not None else rehearse(problem, rtol)


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


def rehearse(problem: Problem, rtol: float) -> Inverse:
    """The inverse with which conjugate gradients are through first on a small image with the same kernel and border.

    The border has a larger share in a small image than in a large one, which is where preconditioners fail. No kind is
    taken that needs more steps than none, and none at all where few digits are asked for.
    """
    if rtol >= _LOOSE or not problem.convolutions:
        return Identity(problem)
    small = resized(problem, _small_size(problem))
    rng = np.random.default_rng(0)
    shape = (1, problem.channels, *small.size)
    image = rng.standard_normal(shape)
    for axis in range(2, len(shape)):  # neighbours are alike, as in a photograph
        image = np.cumsum(image, axis=axis) / math.sqrt(shape[axis])
    data = small.operator.apply(image.reshape(1, *small.operator.input_shape))
    data = data + 1e-3 * float(np.abs(data).max()) * rng.standard_normal(data.shape)
    right = small.right_side(data).astype(problem.dtype)

    best, cost = "identity", math.inf
    for kind, step in STEP.items():
        if cost <= _FEW and kind != "identity":
            continue
        limit = min(_STEPS, math.ceil(cost / step)) if cost < math.inf else _STEPS
        try:
            inverse = INVERSES[kind](small)
        except (UnsupportedError, np.linalg.LinAlgError):
            continue
        found = conjugate_gradients(small, right, inverse, rtol=rtol, maxiter=limit)
        if max(found.residual, found.error) <= 2 * rtol and found.iterations * step < cost:
            best, cost = kind, found.iterations * step
    try:
        return INVERSES[best](problem)
    except (UnsupportedError, np.linalg.LinAlgError):
        return Identity(problem)


def _small_size(problem: Problem) -> tuple[int, ...]:
    """The size of the rehearsal: congruent to that of the problem by its lattice, and not larger."""
    side = round(_UNKNOWNS ** (1 / problem.ndim))
    sizes = []
    for n, step, far in zip(problem.size, lattice(problem), reach(problem), strict=True):
        wanted = max(side, _REACHES * far)
        sizes.append(n - max(0, (n - wanted) // step) * step)
    return tuple(sizes)
