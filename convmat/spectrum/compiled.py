"""Singular values of many small matrices, compiled: as many at once as a vector register has lanes. It needs numba.

LAPACK takes one matrix after the other, and small ones leave a processor idle: their rows are shorter than the start
of a loop takes. Here a lane is a matrix, so that every loop runs over full registers, whatever the size. Values are
accurate as those of LAPACK: to rounding errors relative to the largest.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from convmat.products.strips import at, pointer
from convmat.spectrum.bidiagonal import bidiagonalize
from convmat.spectrum.lanes import LANES, lanes_like, real_lanes
from convmat.spectrum.quotients import NUMBERS_EACH, quotients, solve


@numba.njit(nogil=True, error_model="numpy")
def _line(cols):
    """How far apart rows lie: if by a power of two, they would share places of the cache."""
    return cols + 1 - cols % 2


@numba.njit(nogil=True, error_model="numpy")
def _fill(entries, first, line, samples):
    """Write matrices side by side, and zeros where there are no more; rows are `line` lanes apart."""
    count, rows, width = entries.shape
    for k in range(LANES):
        for i in range(rows):
            for j in range(width):
                samples[(i * line + j) * LANES + k] = entries[first + k, i, j] if first + k < count else 0.0


def _values(blocks, found, samples, work, turns):
    """Write the singular values of blocks (n, rows, cols), rows >= cols, in any order: (n, cols).

    They are NaN where a bidiagonal matrix takes more sweeps than `turns`. Work memory is the caller's: what pointers
    alone refer to, numba lets go.
    """
    count, rows, cols = blocks.shape
    entries, line = blocks.view(np.float64), _line(cols)
    a, here = lanes_like(pointer(samples), blocks), quotients(pointer(work), cols)
    for first in range(0, count, LANES):
        _fill(entries, first, blocks.itemsize // 8 * line, samples)
        bidiagonalize(a, rows, cols, line, at(a, rows * line), real_lanes(here.q), real_lanes(here.e))
        done = solve(here, cols, turns)
        for k in range(min(LANES, count - first)):
            for i in range(cols):
                found[first + k, i] = math.sqrt(here.q[i * LANES + k]) if done else math.nan


def values(blocks: NDArray[Any], turns: int) -> NDArray[np.float64]:
    """`_values` of an array of float64 or complex128."""
    count, rows, cols = blocks.shape
    found = np.empty((count, cols))
    samples = np.empty((rows * _line.py_func(cols) + rows + 2 * cols) * blocks.itemsize // 8 * LANES)
    kernel(blocks.dtype)(blocks, found, samples, np.empty((4 * cols + NUMBERS_EACH) * LANES), turns)
    return found


@cache
def kernel(dtype: np.dtype[Any]) -> Any:
    """`_values` for arrays of float64 or complex128; compiled, or read from the cache of numba."""
    blocks = types.Array(numba.from_dtype(dtype), 3, "C", readonly=True)
    line = types.Array(types.float64, 1, "C")
    signature = (blocks, types.Array(types.float64, 2, "C"), line, line, types.int64)
    try:
        function = numba.njit(nogil=True, cache=True, error_model="numpy")(_values)
    except RuntimeError:  # no folder that it may write to
        function = numba.njit(nogil=True, error_model="numpy")(_values)
    function.compile(signature)
    function.disable_compile()
    return function
