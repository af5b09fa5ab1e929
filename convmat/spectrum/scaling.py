"""Powers of two: what takes squares works on numbers near 1, and its results are scaled back, both without rounding.

Squares of 1e200 overflow, those of 1e-200 vanish, and in single precision 1e20 is enough. Spectra, bounds, projections
and solvers all divide their data by a power of two first; another power of two in the data then changes no digit of a
result.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def near_one(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Each entry of the first axis divided by a power of two, and its exponent, 0 where all are 0: (n, ..), (n, 1..).

    The largest real or imaginary part of each is then in [1/2, 1).
    """
    parts = _parts(values)
    rows = parts.reshape(len(values), math.prod(parts.shape[1:]))
    largest = np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0))
    found = np.where(np.isfinite(largest), np.frexp(largest)[1], 0).astype(np.int64)
    exponents = found.reshape(-1, *(1,) * (values.ndim - 1))
    return times_power(values, -exponents), exponents


def times_power(values: NDArray[Any], exponents: ArrayLike) -> NDArray[Any]:
    """The values times 2^exponent, of the same dtype: rounded once, infinite only beyond that dtype."""
    if np.ndim(exponents) == 0 and exponents == 0:
        return values
    parts = _parts(values)
    info = np.finfo(parts.dtype)
    powers = np.clip(exponents, 3 * info.minexp, 3 * info.maxexp).astype(np.int32)[..., None]
    with np.errstate(over="ignore", under="ignore"):
        if powers.min(initial=0) >= info.minexp and powers.max(initial=0) < info.maxexp:  # 2^e is normal: a product
            scaled = parts * np.ldexp(parts.dtype.type(1), powers)
        else:
            scaled = np.ldexp(parts, powers)
    return np.ascontiguousarray(scaled).view(values.dtype)[..., 0]


def times_two_to(number: float, exponent: int) -> float:
    """A number times 2^exponent: infinite beyond the largest."""
    try:
        return math.ldexp(number, exponent)
    except OverflowError:
        return math.copysign(math.inf, number)


def as_dtype(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values rounded to a dtype: infinite where they are beyond it, without a warning."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(dtype, copy=False)


def as_float(number: Any) -> float:
    """A real number as a float: infinite where it is beyond it, as an int may be."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _parts(values: NDArray[Any]) -> NDArray[Any]:
    """Real and imaginary parts as real numbers, on one more axis."""
    solid = np.ascontiguousarray(values)
    return solid.view(solid.real.dtype).reshape(*values.shape, 2 if values.dtype.kind == "c" else 1)
