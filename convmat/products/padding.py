"""Extending an image by its padding mode, and the transpose: folding the extension back. In bands of rows.

Images are (C, N_1..N_D); the extended image is (C, P_1..P_D). A band is the rows [start, stop) of P_1, with all of the
other axes. The index arithmetic is that of `convmat.taps.Axis`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.taps import ZERO, Axis, Index


def extend(x: NDArray[Any], axes: Sequence[Axis], start: int, stop: int) -> NDArray[Any]:
    """The rows [start, stop) of the extended image: (C, N_1..N_D) -> (C, stop - start, P_2..P_D)."""
    x = _extend_axis(x, 1, axes[0], start, stop)
    for dim, axis in enumerate(axes[1:], start=2):
        x = _extend_axis(x, dim, axis, 0, axis.padded)
    return x


def fold(band: NDArray[Any], axes: Sequence[Axis], start: int, into: NDArray[Any]) -> None:
    """Add the transpose of `extend` of a band: rows [start, start + R), (C, R, P_2..P_D), into (C, N_1..N_D)."""
    for dim, axis in enumerate(axes[1:], start=2):
        if axis.lo == axis.hi == 0:
            continue
        folded = np.zeros((*band.shape[:dim], axis.size, *band.shape[dim + 1 :]), dtype=band.dtype)
        _fold_axis(band, dim, axis, 0, folded)
        band = folded
    _fold_axis(band, 1, axes[0], start, into)


def _extend_axis(x: NDArray[Any], dim: int, axis: Axis, start: int, stop: int) -> NDArray[Any]:
    first, last = axis.copied(start, stop)
    inner: NDArray[Any] = x[_at(dim, slice(first - axis.lo, last - axis.lo))]
    if (first, last) == (start, stop):
        return inner
    extended = np.empty((*x.shape[:dim], stop - start, *x.shape[dim + 1 :]), dtype=x.dtype)
    extended[_at(dim, slice(first - start, last - start))] = inner
    for a, b in ((start, first), (last, stop)):
        source = axis.extension(a, b)
        border = extended[_at(dim, slice(a - start, b - start))]
        if axis.mode == "zeros":
            border[...] = 0
        elif source.size:
            border[...] = x.take(source, axis=dim)
    return extended


def _fold_axis(band: NDArray[Any], dim: int, axis: Axis, start: int, into: NDArray[Any]) -> None:
    stop = start + band.shape[dim]
    first, last = axis.copied(start, stop)
    into[_at(dim, slice(first - axis.lo, last - axis.lo))] += band[_at(dim, slice(first - start, last - start))]
    if axis.mode == "zeros":
        return
    for a, b in ((start, first), (last, stop)):
        target: Index = axis.extension(a, b)
        read = np.flatnonzero(target != ZERO)
        np.add.at(np.moveaxis(into, dim, 0), target[read], np.moveaxis(band, dim, 0)[a - start + read])


def _at(dim: int, index: Any) -> tuple[Any, ...]:
    return (*[slice(None)] * dim, index)
