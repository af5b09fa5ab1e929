"""Extending an image by its padding mode, and the transpose: folding the extension back. In bands of rows.

Images are (C, N_1..N_D); the extended image is (C, P_1..P_D). A band, of which a border is folded back, is the rows
[start, stop) of P_1, with all of the other axes. The index arithmetic is that of `convmat.taps.Axis`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.taps import ZERO, Axis, Index

_FEW_LINES = 128
"""Lines of a border that are folded one by one."""


def extend(x: NDArray[Any], axes: Sequence[Axis], ranges: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """A box of the extended image, its range [start, stop) along each axis: (C, N_1..N_D) -> (C, R_1..R_D)."""
    for dim, (axis, (start, stop)) in enumerate(zip(axes, ranges, strict=True), start=1):
        x = _extend_axis(x, dim, axis, start, stop)
    return x


def view_tile(x: NDArray[Any], axes: Sequence[Axis], start: Sequence[int], sides: Sequence[int]) -> NDArray[Any] | None:
    """A tile of the extended image, for stride 1, as a view of the image; None if it is not all inside."""
    if any(axis.copied(a, a + side) != (a, a + side) for axis, a, side in zip(axes, start, sides, strict=True)):
        return None
    inside = (slice(a - axis.lo, a - axis.lo + side) for axis, a, side in zip(axes, start, sides, strict=True))
    view: NDArray[Any] = x[(slice(None), *inside)]
    return view


def read_tile(
    x: NDArray[Any], axes: Sequence[Axis], offsets: Sequence[int], start: Sequence[int], out: NDArray[Any]
) -> None:
    """Write a tile of one phase of the extended image: out[c, j] = x~[c, s (start + j) + offset], over all axes.

    Beyond the extended image the tile holds anything finite that the padding mode gives.
    """
    part, box = x, [slice(None)]
    for dim, (axis, offset, first, count) in enumerate(zip(axes, offsets, start, out.shape[1:], strict=True), start=1):
        a, b, sample = axis.strided_copied(offset + axis.stride * first, count)
        if (a, b) == (0, count) or axis.mode == "zeros":
            stop = sample + axis.stride * (b - a)
            part = part[_at(dim, slice(sample, stop, axis.stride))]
            box.append(slice(a, b))
        else:
            part = part.take(axis.strided(offset, first, first + count), axis=dim)
            box.append(slice(None))
    for dim, (kept, count) in enumerate(zip(box[1:], out.shape[1:], strict=True), start=1):
        if kept != slice(None):
            out[_at(dim, slice(0, kept.start))] = 0
            out[_at(dim, slice(kept.stop, count))] = 0
    out[tuple(box)] = part


def fold(band: NDArray[Any], axes: Sequence[Axis], start: int, into: NDArray[Any]) -> None:
    """Add the transpose of `extend` of a band: rows [start, start + R), (C, R, P_2..P_D), into (C, N_1..N_D)."""
    for dim, axis in enumerate(axes[1:], start=2):
        band = _fold_columns(band, axis, dim)
    _fold_axis(band, 1, axes[0], start, into)


def _fold_columns(band: NDArray[Any], axis: Axis, dim: int) -> NDArray[Any]:
    """Fold one axis, of which the band has all samples: (.., P, ..) -> (.., N, ..). A view where that is possible."""
    first, last = axis.copied(0, axis.padded)
    border = last - first < axis.padded and axis.mode != "zeros"
    if last - first == axis.size and not border:
        view: NDArray[Any] = band[_at(dim, slice(first, last))]
        return view
    folded = np.zeros((*band.shape[:dim], axis.size, *band.shape[dim + 1 :]), dtype=band.dtype)
    _fold_axis(band, dim, axis, 0, folded)
    return folded


def _extend_axis(x: NDArray[Any], dim: int, axis: Axis, start: int, stop: int) -> NDArray[Any]:
    first, last = axis.copied(start, stop)
    inner: NDArray[Any] = x[_at(dim, slice(first - axis.lo, last - axis.lo))]
    if (first, last) == (start, stop):
        return inner
    extended = np.empty((*x.shape[:dim], stop - start, *x.shape[dim + 1 :]), dtype=x.dtype)
    extended[_at(dim, slice(first - start, last - start))] = inner
    for a, b in ((start, first), (last, stop)):
        if a == b:
            continue
        border = extended[_at(dim, slice(a - start, b - start))]
        if axis.mode == "zeros":
            border[...] = 0
        elif axis.combines:
            border[...] = combination(x, dim, axis, a, b)
        else:
            border[...] = x.take(axis.extension(a, b), axis=dim)
    return extended


def combination(x: NDArray[Any], dim: int, axis: Axis, start: int, stop: int) -> NDArray[Any]:
    """The positions [start, stop) of a border that sums several samples, one term after the other."""
    samples, weights = axis.sources(np.arange(start, stop, dtype=np.int64) - axis.lo)
    lines = np.moveaxis(x, dim, 0)
    total = np.zeros((stop - start, *lines.shape[1:]), dtype=x.dtype)
    for of_term, times in zip(samples.T, weights.T, strict=True):
        read = np.flatnonzero(of_term != ZERO)
        total[read] += lines[of_term[read]] * _numbers(times[read], x)
    return np.moveaxis(total, 0, dim)


def _numbers(weights: Index, x: NDArray[Any]) -> NDArray[Any]:
    """Weights of lines of an image, in its precision."""
    return weights.astype(x.real.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _fold_axis(band: NDArray[Any], dim: int, axis: Axis, start: int, into: NDArray[Any]) -> None:
    stop = start + band.shape[dim]
    first, last = axis.copied(start, stop)
    into[_at(dim, slice(first - axis.lo, last - axis.lo))] += band[_at(dim, slice(first - start, last - start))]
    if axis.mode != "zeros":
        fold_border(band, dim, axis, start, into)


def fold_border(band: NDArray[Any], dim: int, axis: Axis, start: int, into: NDArray[Any]) -> None:
    """Add what the positions [start, start + R) of the extended axis send back from beyond the input."""
    stop = start + band.shape[dim]
    first, last = axis.copied(start, stop)
    lines, sent = np.moveaxis(into, dim, 0), np.moveaxis(band, dim, 0)
    for a, b in ((start, first), (last, stop)):
        targets, weights = axis.sources(np.arange(a, b, dtype=np.int64) - axis.lo)
        position, term = np.nonzero(targets != ZERO)
        target, times = targets[position, term], weights[position, term]
        if position.size > _FEW_LINES:
            border = sent[a - start + position]
            np.add.at(lines, target, border if (times == 1).all() else border * _numbers(times, band))
            continue
        for p, to, factor in zip(position.tolist(), target.tolist(), times.tolist(), strict=True):
            # line by line, several times faster than add.at
            lines[to] += sent[a - start + p] if factor == 1 else factor * sent[a - start + p]


def _at(dim: int, index: Any) -> tuple[Any, ...]:
    return (*[slice(None)] * dim, index)
