"""What a picture of a matrix shows: the entries of a small one, the counts per bin of a large one, and its rules.

Numpy alone; nothing is drawn here. A tap is numbered by its place in the weight as it was given, ``W[o, c].ravel()``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.occupancy import entries_in_cells
from convmat.operators import Conv, Convolution, ConvTranspose, Crop, Downsample, ImageOperator, Pad, Upsample
from convmat.operators.algebra import Blocks, Scaled
from convmat.operators.weights import TransposeWeightOperator, WeightOperator
from convmat.patterns import by_columns
from convmat.taps import ZERO, Index, joint_reads

SEVERAL = -2
"""Stands for the tap of an entry that sums several taps."""

_FORWARD = (Conv, Pad, Downsample)
_BACKWARD = (ConvTranspose, Crop, Upsample)
_OF_WEIGHTS = (WeightOperator, TransposeWeightOperator)

Operator = Convolution | Pad | Downsample | Crop | Upsample

CHANNELS, BLOCKS = 8, 9
"""Ranks of the rules between channels and between the blocks of stacks; those within an image count from 0."""

MOST_RULES = 70
"""Cells, image rows, .. between which rules are drawn."""


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
                f"their factors (Pad, Correlate, Downsample), or the transpose of one; plot.matrix and plot.overlap "
                f"take every operator"
            )
        weight = A.weight if isinstance(A, Convolution) else np.ones(A.geometry.weight_shape, A.dtype)
        return cls(A.geometry, weight, isinstance(A, _BACKWARD))

    def taps(self) -> Index:
        """Number of the tap k of the sliding kernel, for each k. (K_1, ..., K_D)"""
        numbers = np.arange(math.prod(self.geometry.kernel_size)).reshape(self.geometry.kernel_size)
        return np.flip(numbers) if self.geometry.flip else numbers


@dataclass(frozen=True)
class Reads:
    """What each row of a matrix reads: row, column, tap and factor of each read, ordered by row, column, tap."""

    shape: tuple[int, int]
    rows: Index
    cols: Index
    taps: Index
    factors: Index

    def picture(self) -> Index:
        """The matrix with the tap in place of each entry, `SEVERAL` for a sum of taps, and `ZERO` elsewhere.

        A multiple of a tap is a sum of taps.
        """
        picture = np.full(self.shape, ZERO, dtype=np.int64)
        picture[self.rows, self.cols] = np.where(self.factors == 1, self.taps, SEVERAL)
        again = (np.diff(self.rows) == 0) & (np.diff(self.cols) == 0)
        picture[self.rows[1:][again], self.cols[1:][again]] = SEVERAL
        return picture

    def entries(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """The taps that each entry sums, and their factors."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for row, col, tap, factor in zip(
            self.rows.tolist(), self.cols.tolist(), self.taps.tolist(), self.factors.tolist(), strict=True
        ):
            found.setdefault((row, col), []).append((tap, factor))
        return found


def check_operator(A: Any) -> None:
    """Refuse what is no operator on images.

    Raises
    ------
    TypeError
    """
    if not isinstance(A, ImageOperator):
        raise TypeError(f"A is of type {type(A).__name__}: it must be one of convmat's operators on images")


def is_layer(A: Any) -> bool:
    """Whether an operator is what `Layer.of` takes."""
    return isinstance(A, _FORWARD + _BACKWARD)


def has_taps(A: ImageOperator) -> bool:
    """Whether each entry of the matrix is a tap of one kernel, or a sum of them, see `reads`."""
    return is_layer(A) or isinstance(A, _OF_WEIGHTS)


def built(A: ImageOperator) -> Any:
    """The matrix in COO, for what only its entries say.

    Raises
    ------
    MemoryError
        If it does not fit in this machine's memory.
    """
    try:
        return A.tosparse("coo")
    except MemoryError as error:
        raise MemoryError(
            f"A is of type {type(A).__name__}, whose entries are known from its matrix alone, which cannot be built: "
            f"draw its parts one by one, simplify(A), or the same operator on smaller images ({error})"
        ) from error


def reads(A: ImageOperator) -> Reads:
    """Row, column, tap and factor of every read of a matrix; for small ones."""
    if isinstance(A, _OF_WEIGHTS):
        return _reads_of_weights(A)
    layer = Layer.of(A)
    geometry = layer.geometry
    output, tap, sample, factor = joint_reads(geometry.axes)
    out, inside = np.indices((geometry.out_channels, geometry.in_channels // geometry.groups)).reshape(2, -1, 1)
    channel = out // (geometry.out_channels // geometry.groups) * (geometry.in_channels // geometry.groups) + inside
    rows = (out * math.prod(geometry.output_size) + output).reshape(-1)
    cols = (channel * math.prod(geometry.input_size) + sample).reshape(-1)
    taps, factors = (np.tile(numbers, out.size) for numbers in (layer.taps().reshape(-1)[tap], factor))
    places = (cols, rows) if layer.transposed else (rows, cols)
    return _sorted(A.shape, *places, taps, factors)


def counts(A: ImageOperator, height: int, width: int) -> NDArray[Any]:
    """The entries of the matrix in each of height x width bins of rows and columns, see `edges`. (height, width)

    Counted without the matrix where the operator can, see `convmat.occupancy`; else the matrix is built.
    """
    if isinstance(A, _BACKWARD):
        return counts(A.T, width, height).T
    rows, columns = edges(A.shape[0], height).tolist(), edges(A.shape[1], width).tolist()
    if isinstance(A, _FORWARD):
        return np.asarray(entries_in_cells(A.geometry, rows, columns))  # also where it takes more than milliseconds
    found = A._cells(rows, columns)
    if found is not None:
        return found
    matrix = built(A)
    return np.asarray(np.histogram2d(matrix.row, matrix.col, (rows, columns))[0])


def overlaps(A: ImageOperator) -> NDArray[np.int64]:
    """How many outputs read each input sample of a convolution, or how many inputs its transpose adds up there.

    The number of entries in each column of the convolution: (C_in, N_1, ..., N_D) or (N_1, ..., N_D). Of other
    operators, the number of entries in each column of their matrix, in their input shape.
    """
    if not is_layer(A):
        return np.bincount(built(A).col, minlength=A.shape[1]).reshape(A.input_shape)
    geometry = Layer.of(A).geometry
    found = np.array(geometry.out_channels // geometry.groups)
    for axis in geometry.axes:
        found = np.multiply.outer(found, by_columns(axis, 0, axis.size).counts())
    return np.broadcast_to(found, geometry.input_shape)


def edges(size: int, bins: int) -> Index:
    """Where `bins` bins of nearly equal length begin and end. (bins + 1,)"""
    return np.arange(bins + 1, dtype=np.int64) * size // bins


def rules(A: ImageOperator, side: int) -> dict[int, Index]:
    """Before which rows (side 0) or columns (side 1) of the matrix lines are drawn, by their rank.

    Rank 0 is between entries, 1 between the rows of images, 2 between planes, then `CHANNELS` and `BLOCKS`.
    """
    found: dict[int, list[Index]] = {}
    for block, corner in blocks(A):
        found.setdefault(BLOCKS, []).append(np.array([corner[side]]))
        for rank, step in _steps(block, side).items():
            if block.shape[side] // step <= MOST_RULES:
                found.setdefault(rank, []).append(corner[side] + np.arange(step, block.shape[side], step))
    lines = {rank: np.unique(np.concatenate(places)) for rank, places in found.items()}
    return {rank: places[places > 0] for rank, places in lines.items() if places.size <= MOST_RULES}


def blocks(A: ImageOperator) -> list[tuple[ImageOperator, tuple[int, int]]]:
    """What stacks, and stacks of stacks, are made of, and the row and column where each begins.

    The operator alone where these are too many to be told apart.
    """
    found, waiting = [], [(A, (0, 0))]
    while waiting:
        part, (row, column) = waiting.pop()
        if isinstance(part, Scaled):
            waiting.append((part.of, (row, column)))
        elif isinstance(part, Blocks):
            inner = zip(part.parts(), part.corners(), strict=True)
            waiting += [(block, (row + down, column + right)) for block, (down, right) in inner]
        else:
            found.append((part, (row, column)))
        if len(found) + len(waiting) > MOST_RULES:
            return [(A, (0, 0))]
    return found


def _steps(A: ImageOperator, side: int) -> dict[int, int]:
    """Rank -> how many rows (side 0) or columns (side 1) are between two rules of that rank.

    The first of three axes and more is that of the channels, if no geometry knows better.
    """
    shape = A.input_shape if side else A.output_shape
    geometry = getattr(A, "geometry", None)
    ndim = geometry.ndim if isinstance(geometry, Geometry) else max(2, len(shape) - 1)
    spatial = shape[-ndim:]
    within = {rank: math.prod(spatial[len(spatial) - rank :]) for rank in range(len(spatial))}
    return within | {CHANNELS: math.prod(spatial)}


def _reads_of_weights(A: ImageOperator) -> Reads:
    """The entries of a weight operator: its columns are weights, so that they say the tap."""
    found = A.tosparse("coo")
    rows, cols = (np.asarray(index, dtype=np.int64) for index in (found.row, found.col))
    return _sorted(A.shape, rows, cols, cols % math.prod(A.geometry.kernel_size), np.ones_like(rows))


def _sorted(shape: tuple[int, int], rows: Index, cols: Index, taps: Index, factors: Index) -> Reads:
    order = np.lexsort((taps, cols, rows))
    return Reads(shape, rows[order], cols[order], taps[order], factors[order])
