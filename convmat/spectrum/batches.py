"""Singular values of many small matrices at once, compiled where numba is installed."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.products.direct import installed, notice

LARGEST, NARROWEST = 2**15, 128
"""Entries of a matrix, and length of its shorter side, up to which the compiled values take less time than LAPACK."""

WORTH = 2**18
"""Entries of all matrices, below which LAPACK takes a few hundredths of a second."""

BATCH = 32
"""How many matrices to solve at once, at least: a few for each lane of a register, so that few lanes stay empty."""


def pays(count: int, rows: int, cols: int) -> bool:
    """Whether values of so many matrices are to be compiled: a matter of all of them, in whatever pieces they come."""
    short = min(rows, cols)
    small = 2 <= short <= NARROWEST and rows * cols <= LARGEST
    return small and count * rows * cols >= WORTH and installed()


def batch_values(blocks: NDArray[Any], turns: int | None = None) -> NDArray[np.float64]:
    """Singular values of a stack of matrices, in any order: (.., rows, cols) -> (.., min(rows, cols)).

    `turns` limits the sweeps of a batch; some 6 for each value are usual. LAPACK does what takes more.
    """
    *lead, rows, cols = blocks.shape
    tall = blocks if rows >= cols else blocks.swapaxes(-1, -2)
    long, short = tall.shape[-2:]
    wide = np.ascontiguousarray(tall, dtype=np.result_type(blocks, np.float64)).reshape(math.prod(lead), long, short)
    found: NDArray[np.float64] = _compiled(wide.dtype)(wide, 40 * (short + 1) if turns is None else turns)
    missing = np.isnan(found).any(axis=1)
    if missing.any():
        found[missing] = np.linalg.svd(wide[missing], compute_uv=False)
    return found.reshape(*lead, short)


@cache
def _compiled(dtype: np.dtype[Any]) -> Any:
    """`compiled.values`, ready for float64 or complex128."""
    with notice(f"convmat: compiling singular values for {dtype}, once on this machine"):
        from convmat.spectrum import compiled

        compiled.kernel(dtype)
        return compiled.values
