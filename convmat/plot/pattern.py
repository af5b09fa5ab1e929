"""What a picture of a matrix shows: the tap of every entry of a small one, the counts per bin of a large one.

Numpy alone; nothing is drawn here. A tap is numbered by its place in the weight as it was given, ``W[o, c].ravel()``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.occupancy import entries_in_cells
from convmat.operators import Conv, Convolution, ConvTranspose, Crop, Downsample, ImageOperator, Pad, Upsample
from convmat.operators.weights import TransposeWeightOperator, WeightOperator
from convmat.patterns import by_columns
from convmat.taps import ZERO, Axis, Index

SEVERAL = -2
"""Stands for the tap of an entry that sums several taps."""

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

    Counted from the geometry, see `convmat.occupancy`: no matrix is built.
    """
    if isinstance(A, _OF_WEIGHTS):
        found = _reads_of_weights(A)
        cuts = edges(A.shape[0], height), edges(A.shape[1], width)
        return np.histogram2d(found.rows, found.cols, cuts)[0].astype(np.int64)
    layer = Layer.of(A)
    if layer.transposed:
        return counts(A.T, width, height).T
    cells = entries_in_cells(layer.geometry, edges(A.shape[0], height).tolist(), edges(A.shape[1], width).tolist())
    return np.asarray(cells)


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
