"""The numbers that solvers are given, checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convmat.spectrum.scaling import as_float

_MAXITER = 10_000


def check_damp(damp: Any) -> float:
    """A damping.

    Raises
    ------
    TypeError, ValueError
        If it is not a real number, or not finite or negative.
    """
    if isinstance(damp, bool | np.bool_) or not isinstance(damp, int | float | np.integer | np.floating):
        raise TypeError(f"damp={damp!r} must be a real number")
    if not 0 <= as_float(damp) < math.inf:
        shown = f"an integer of {damp.bit_length()} bits" if isinstance(damp, int) and damp > 1 else repr(damp)
        raise ValueError(f"damp={shown} must be finite and not negative, at most {np.finfo(np.float64).max:.3g}")
    return float(damp)


def check_noise(noise: Any) -> float:
    """A standard deviation.

    Raises
    ------
    TypeError, ValueError
        If it is not a real number, or not positive and finite.
    """
    if isinstance(noise, bool | np.bool_) or not isinstance(noise, int | float | np.integer | np.floating):
        raise TypeError(f"noise={noise!r} must be a real number")
    if not 0 < as_float(noise) < math.inf:
        raise ValueError(f"noise={noise!r} must be positive and finite: the standard deviation of a sample of y")
    return float(noise)


def check_rtol(rtol: Any) -> float:
    """How far a solver is to go.

    Raises
    ------
    TypeError, ValueError
        If it is not a real number from 0 to 1.
    """
    if isinstance(rtol, bool) or not isinstance(rtol, int | float | np.integer | np.floating):
        raise TypeError(f"rtol={rtol!r} must be a real number")
    if not 0 <= rtol < 1:
        raise ValueError(f"rtol={rtol!r} must be at least 0 and smaller than 1")
    return float(rtol)


def check_maxiter(maxiter: Any, unknowns: int) -> int:
    """The most steps; for None ten times the number of unknowns, and 10,000 at most.

    Raises
    ------
    TypeError, ValueError
        If it is not a positive integer or None.
    """
    if maxiter is None:
        return min(10 * unknowns, _MAXITER)
    if isinstance(maxiter, bool) or not isinstance(maxiter, int | np.integer):
        raise TypeError(f"maxiter={maxiter!r} must be an integer or None")
    if maxiter < 1:
        raise ValueError(f"maxiter={maxiter!r} must be at least 1")
    return int(maxiter)
