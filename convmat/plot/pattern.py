"""What a picture of a matrix shows: the tap of every entry of a small one, the counts per bin of a large one.

Numpy alone; nothing is drawn here. A tap is numbered by its place in the weight as it was given, ``W[o, c].ravel()``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.factors import Crop, Downsample, Pad, Upsample
from convmat.geometry import Geometry
from convmat.operators import Conv, Convolution, ConvTranspose, ImageOperator
from convmat.patterns import by_columns, by_rows
from convmat.taps import ZERO, Axis, Index
from convmat.weights import TransposeWeightOperator, WeightOperator

SEVERAL = -2
"""Stands for the tap of an entry that sums several taps."""

_ROWS_AT_A_TIME = 2**17
"""Rows of an axis matrix that are counted at a time, which bounds the memory."""

_FORWARD = (Conv, Pad, Downsample)
_BACKWARD = (ConvTranspose, Crop, Upsample)
_OF_WEIGHTS = (WeightOperator, TransposeWeightOperator)

Operator = Convolution | Pad | Downsample | Crop | Upsample


@dataclass(frozen=True)
class Layer:
    """An operator as what is drawn of it: a convolution, its weight, and whether it is transposed."""

    geometry: Geometry
    weight: NDArray[Any]
    transposed: bool

    @classmethod
    def of(cls, A: Any) -> Layer:
        """The layer that an operator is.

        Raises
        ------
        TypeError
            If it is neither a convolution, nor one of its factors, nor the transpose of these.
        """
        if not isinstance(A, _FORWARD + _BACKWARD):
            raise TypeError(
                f"A is of type {type(A).__name__}: it must be one of convmat's convolutions (Conv1d, Conv2d, Conv3d), "
                f"their factors (Pad, Correlate, Downsample), or the transpose of one"
            )
        weight = A.weight if isinstance(A, Convolution) else np.ones(A.geometry.weight_shape, A.dtype)
        return cls(A.geometry, weight, isinstance(A, _BACKWARD))

    def taps(self) -> Index:
        """Number of the tap k of the sliding kernel, for each k. (K_1, ..., K_D)"""
        numbers = np.arange(math.prod(self.geometry.kernel_size)).reshape(self.geometry.kernel_size)
        return np.flip(numbers) if self.geometry.flip else numbers


@dataclass(frozen=True)
class Reads:
    """What each row of a matrix reads: row, column and tap of each read, ordered by row, column, tap."""

    shape: tuple[int, int]
    rows: Index
    cols: Index
    taps: Index

    def picture(self) -> Index:
        """The matrix with the tap in place of each entry, `SEVERAL` for a sum of taps, and `ZERO` elsewhere."""
        picture = np.full(self.shape, ZERO, dtype=np.int64)
        picture[self.rows, self.cols] = self.taps
        again = (np.diff(self.rows) == 0) & (np.diff(self.cols) == 0)
        picture[self.rows[1:][again], self.cols[1:][again]] = SEVERAL
        return picture

    def entries(self) -> dict[tuple[int, int], list[int]]:
        """The taps that each entry sums."""
        found: dict[tuple[int, int], list[int]] = {}
        for row, col, tap in zip(self.rows.tolist(), self.cols.tolist(), self.taps.tolist(), strict=True):
            found.setdefault((row, col), []).append(tap)
        return found


def reads(A: ImageOperator) -> Reads:
    """Row, column and tap of every read of a matrix; for small ones."""
    if isinstance(A, _OF_WEIGHTS):
        return _reads_of_weights(A)
    layer = Layer.of(A)
    geometry = layer.geometry
    table = _table(geometry.axes)
    output, tap = np.nonzero(table != ZERO)
    sample = table[output, tap]
    out, inside = np.indices((geometry.out_channels, geometry.in_channels // geometry.groups)).reshape(2, -1, 1)
    channel = out // (geometry.out_channels // geometry.groups) * (geometry.in_channels // geometry.groups) + inside
    rows = (out * math.prod(geometry.output_size) + output).reshape(-1)
    cols = (channel * math.prod(geometry.input_size) + sample).reshape(-1)
    taps = np.broadcast_to(layer.taps().reshape(-1)[tap], (out.size, tap.size)).reshape(-1)
    return _sorted(A.shape, cols, rows, taps) if layer.transposed else _sorted(A.shape, rows, cols, taps)


def counts(A: ImageOperator, height: int, width: int) -> NDArray[np.int64]:
    """The entries of the matrix in each of height x width bins of rows and columns, see `edges`. (height, width)

    Counted from the geometry: A is a Kronecker product of groups, channels and axes as far as its pattern goes, and the
    entries above and to the left of a place follow from those of the factors. No matrix is built.
    """
    if isinstance(A, _OF_WEIGHTS):
        found = _reads_of_weights(A)
        cuts = edges(A.shape[0], height), edges(A.shape[1], width)
        return np.histogram2d(found.rows, found.cols, cuts)[0].astype(np.int64)
    layer = Layer.of(A)
    if layer.transposed:
        return counts(A.T, width, height).T
    geometry = layer.geometry
    outs, ins = geometry.out_channels // geometry.groups, geometry.in_channels // geometry.groups
    factors = [
        _Factor(geometry.groups, geometry.groups, geometry.groups, np.minimum.outer),
        _Factor(outs, ins, outs * ins, np.multiply.outer),
        *map(_factor, geometry.axes),
    ]
    corners = _before(factors, edges(A.shape[0], height), edges(A.shape[1], width))
    bins: Index = np.diff(np.diff(corners, axis=0), axis=1)
    return bins


def overlaps(A: ImageOperator) -> NDArray[np.int64]:
    """How many outputs read each input sample of a convolution, or how many inputs its transpose adds up there.

    The number of entries in each column of the convolution. (C_in, N_1, ..., N_D) or (N_1, ..., N_D)
    """
    geometry = Layer.of(A).geometry
    found = np.array(geometry.out_channels // geometry.groups)
    for axis in geometry.axes:
        found = np.multiply.outer(found, by_columns(axis, 0, axis.size).counts())
    return np.broadcast_to(found, geometry.input_shape)


def edges(size: int, bins: int) -> Index:
    """Where `bins` bins of nearly equal length begin and end. (bins + 1,)"""
    return np.arange(bins + 1, dtype=np.int64) * size // bins


def _table(axes: Sequence[Axis]) -> Index:
    """The input sample that output m reads through tap k, all ravelled, or `ZERO`. (M_1 ... M_D, K_1 ... K_D)"""
    table = np.zeros((1, 1), dtype=np.int64)
    for axis in axes:
        outer, inner = table[:, None, :, None], axis.table()[None, :, None, :]
        joined = np.where((outer != ZERO) & (inner != ZERO), outer * axis.size + inner, ZERO)
        table = joined.reshape(len(table) * axis.output, -1)
    return table


def _reads_of_weights(A: ImageOperator) -> Reads:
    """The entries of a weight operator: its columns are weights, so that they say the tap."""
    found = A.tosparse("coo")
    rows, cols = (np.asarray(index, dtype=np.int64) for index in (found.row, found.col))
    return _sorted(A.shape, rows, cols, cols % math.prod(A.geometry.kernel_size))


def _sorted(shape: tuple[int, int], rows: Index, cols: Index, taps: Index) -> Reads:
    order = np.lexsort((taps, cols, rows))
    return Reads(shape, rows[order], cols[order], taps[order])


@dataclass(frozen=True)
class _Factor:
    """A pattern, as `before(r, c)`: how many entries lie above row r and left of column c, for each pair."""

    rows: int
    cols: int
    nnz: int
    before: Callable[[Index, Index], Index]


def _factor(axis: Axis) -> _Factor:
    return _Factor(
        axis.output, axis.size, by_rows(axis, 0, axis.output).entries, lambda r, c: _before_of_axis(axis, r, c)
    )


def _before_of_axis(axis: Axis, r: Index, c: Index) -> Index:
    """Entries of the axis matrix above each row of r and left of each column of c. (r, c)"""
    (r, r_place), (c, c_place) = (np.unique(cuts, return_inverse=True) for cuts in (r, c))
    bins = np.zeros((r.size + 1) * (c.size + 1), dtype=np.int64)
    cuts = [*range(0, axis.output, _ROWS_AT_A_TIME), axis.output]
    for start, stop in pairwise(cuts):
        rows = by_rows(axis, start, stop).all_rows()
        row = np.repeat(np.searchsorted(r, np.arange(start, stop), side="right"), np.diff(rows.ptr))
        bins += np.bincount(row * (c.size + 1) + np.searchsorted(c, rows.cols, side="right"), minlength=bins.size)
    before = bins.reshape(r.size + 1, c.size + 1).cumsum(axis=0).cumsum(axis=1)
    found: Index = before[r_place.reshape(-1, 1), c_place.reshape(1, -1)]
    return found


def _before(factors: Sequence[_Factor], r: Index, c: Index) -> Index:
    """Entries of a Kronecker product above each row of r and left of each column of c. (r, c)"""
    first, *rest = factors
    if not rest:
        return first.before(r, c)
    rows, cols, nnz = (math.prod(sizes) for sizes in zip(*((f.rows, f.cols, f.nnz) for f in rest), strict=True))
    (r1, r2), (c1, c2) = np.divmod(r, rows), np.divmod(c, cols)
    # Row r1 of the first factor is cut at row r2 of the rest; the rows before it are whole. The same for columns.
    outer = first.before(np.append(r1, np.minimum(r1 + 1, first.rows)), np.append(c1, np.minimum(c1 + 1, first.cols)))
    whole, right = outer[: r.size, : c.size], outer[: r.size, c.size :] - outer[: r.size, : c.size]
    below = outer[r.size :, : c.size] - whole
    corner = outer[r.size :, c.size :] - whole - right - below
    inner = _before(rest, np.append(r2, rows), np.append(c2, cols))
    found: Index = whole * nnz + right * inner[-1:, :-1] + below * inner[:-1, -1:] + corner * inner[:-1, :-1]
    return found
