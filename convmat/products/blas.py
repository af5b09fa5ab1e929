"""Matrix products that stay on the thread that asks for them.

OpenBLAS starts threads of its own from about half a million multiplications on. Inside the threads of this package
that is not a gain but a fight for the cores, in which a product of a millisecond can take a second. So larger products
are cut into stacks of smaller ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SINGLE = 2**19 - 1
"""Multiplications of one real matrix product that BLAS still does on one thread."""

SINGLE_COMPLEX = 2**16 - 1
"""The same for complex ones."""


def matmul(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """Write a @ b: (.., M, K) times (.., K, N) into (.., M, N), in pieces of the columns (or the rows) of b (or a)."""
    (rows, inner), cols = a.shape[-2:], b.shape[-1]
    most = SINGLE_COMPLEX if out.dtype.kind == "c" else SINGLE
    if rows * inner * cols <= most:
        np.matmul(a, b, out=out)
        return
    width = most // (rows * inner)
    if width < min(cols, 16) and rows > 1:  # too few columns to a piece: halve the rows
        half = rows // 2
        matmul(a[..., :half, :], b, out[..., :half, :])
        matmul(a[..., half:, :], b, out[..., half:, :])
        return
    width = max(1, min(width, cols))
    whole = cols // width * width
    np.matmul(a[..., None, :, :], _tiles(b[..., :whole], width), out=_tiles(out[..., :whole], width))
    if whole < cols:
        np.matmul(a, b[..., whole:], out=out[..., whole:])


def _tiles(array: NDArray[Any], width: int) -> NDArray[Any]:
    """A view of the columns in tiles: (.., K, N) -> (.., N / width, K, width)."""
    return array.reshape(*array.shape[:-1], -1, width).swapaxes(-2, -3)
