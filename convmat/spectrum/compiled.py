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

from convmat.products.strips import at, pointer
from convmat.spectrum.bidiagonal import bidiagonalize
from convmat.spectrum.lanes import LANES, lanes_like, real_lanes
from convmat.spectrum.quotients import NUMBERS_EACH, quotients, solve


@numba.njit(nogil=True, error_model="numpy")
def _fill(blocks, first, line, parts):
    """Write blocks side by side, and zeros where there are no more; rows are `line` numbers apart."""
    count, rows, cols = blocks.shape
    real, imaginary = blocks.real, blocks.imag
    for k in range(LANES):
        for i in range(rows):
            place = parts[1] * i * line * LANES + k
            for j in range(cols):
                there = first + k < count
                parts[0][place] = real[first + k, i, j] if there else 0.0
                if parts[1] == 2:
                    parts[0][place + LANES] = imaginary[first + k, i, j] if there else 0.0
                place += parts[1] * LANES


def _values(blocks, found, turns):
    """Write the singular values of blocks (n, rows, cols), rows >= cols, in any order: (n, cols).

    They are NaN where a bidiagonal matrix takes more sweeps than `turns`.
    """
    count, rows, cols = blocks.shape
    parts = blocks.itemsize // 8
    line = cols + 1 - cols % 2  # rows that lie a power of two apart share places of the cache
    numbers = rows * line + rows + 2 * cols
    samples = np.empty(numbers * parts * LANES)
    work = np.zeros((4 * cols + NUMBERS_EACH) * LANES)
    a, here = lanes_like(pointer(samples), blocks), quotients(pointer(work), cols)
    for first in range(0, count, LANES):
        _fill(blocks, first, line, (samples, parts))
        bidiagonalize(a, rows, cols, line, at(a, rows * line), real_lanes(here.q), real_lanes(here.e))
        done = solve(here, cols, turns)
        for k in range(min(LANES, count - first)):
            for i in range(cols):
                found[first + k, i] = math.sqrt(here.q[i * LANES + k]) if done else math.nan


@cache
def values(dtype: np.dtype[Any]) -> Any:
    """`_values` for arrays of float64 or complex128; compiled, or read from the cache of numba."""
    blocks = types.Array(numba.from_dtype(dtype), 3, "C", readonly=True)
    signature = (blocks, types.Array(types.float64, 2, "C"), types.int64)
    try:
        function = numba.njit(nogil=True, cache=True, error_model="numpy")(_values)
    except RuntimeError:  # no folder that it may write to
        function = numba.njit(nogil=True, error_model="numpy")(_values)
    function.compile(signature)
    function.disable_compile()
    return function
