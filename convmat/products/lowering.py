"""im2col in tiles of outputs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.parts import Runs
from convmat.products.padding import extend
from convmat.products.threads import Scratch

TILE_BYTES = 2**22
"""Size of the lowered windows of one tile, at most, unless one output takes more."""

PIECE_WORK = 2**20
"""Multiplications that repay a piece of its own, which another thread may take."""

PIECES = 8
"""Pieces into which work is cut for threads; more only where they would be too large."""


def pieces(geometry: Geometry) -> int:
    """Into how many pieces a product is worth cutting: the same for any number of threads, as rounding may differ."""
    work = math.prod(geometry.output_size) * geometry.in_channels // geometry.groups * geometry.out_channels
    return max(1, min(PIECES, work * math.prod(geometry.kernel_size) // PIECE_WORK))


def tile_sides(geometry: Geometry, itemsize: int) -> tuple[int, ...]:
    """The sides of a tile: some rows, or where one row is too large, a part of one."""
    sizes = geometry.output_size
    most = max(1, TILE_BYTES // (geometry.in_channels * math.prod(geometry.kernel_size) * itemsize))
    for dim, size in enumerate(sizes):
        row = math.prod(sizes[dim + 1 :])
        if row <= most:
            side = min(most // row, -(-size // pieces(geometry)) if dim == 0 else size)
            return (*(1,) * dim, side, *sizes[dim + 1 :])
    raise AssertionError("an axis has no less than one output")


class Tile:
    """Outputs that are one product of matrices: a box of them, in a tile of the whole that may be larger.

    Attributes
    ----------
    box : tuple of slice
        The outputs.
    sides : tuple of int
    slots : tuple of slice
        Where in the tile they are.
    """

    def __init__(self, pieces: tuple[tuple[int, int, int, int], ...]) -> None:
        self.box: tuple[Any, ...] = tuple(slice(start, start + count) for start, count, _, _ in pieces)
        self.sides = tuple(side for *_, side in pieces)
        self.slots: tuple[Any, ...] = tuple(slice(slot, slot + count) for _, count, slot, _ in pieces)
        self.full = all(count == side for _, count, _, side in pieces)

    def of(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The box of some outputs (.., M_1..M_D), ravelled (.., count): a view where it is one row, or whole rows."""
        box: NDArray[Any] = outputs[(..., *self.box)]
        lead, sizes = box.shape[: -len(self.box)], box.shape[-len(self.box) :]
        return box.reshape(*lead, math.prod(sizes))


def _pieces(size: int, side: int, runs: Runs) -> list[tuple[int, int, int, int]]:
    """The outputs of an axis, cut where tiles of the whole axis end: (first, count, place in the tile, its side)."""
    found, first = [], 0
    for start, stop in runs:
        while start < stop:
            tile = start // side * side
            end = min(tile + side, size)
            count = min(end, stop) - start
            found.append((first, count, start - tile, end - tile))
            first, start = first + count, start + count
    return found


class Lowering:
    """The windows of the extended image, one tile of outputs after the other.

    Attributes
    ----------
    tiles : list of Tile
        Each small enough for its lowered windows to take about `TILE_BYTES`. Those of a part of a geometry are parts of
        the tiles of the whole, and stand where they stand there: BLAS may round a column by its place.
    """

    def __init__(self, geometry: Geometry, itemsize: int) -> None:
        self._axes, self._groups, self._taps = geometry.axes, geometry.groups, geometry.kernel_size
        whole = geometry.whole
        outputs: tuple[Runs, ...] = tuple(((0, size),) for size in geometry.output_size)
        if geometry.part is not None:
            outputs = geometry.part.outputs
        sides = tile_sides(whole, itemsize)
        along = [_pieces(*axis) for axis in zip(whole.output_size, sides, outputs, strict=True)]
        self.tiles = [Tile(axes) for axes in itertools.product(*along)]

    def lower(self, scratch: Scratch, image: NDArray[Any], tile: Tile) -> NDArray[Any]:
        """The windows of a tile, zeros where it has no output: (C_in, N_1..N_D) -> (G, C_in / G * K, outputs)."""
        lowered = scratch.array("lowered", (len(image), *self._taps, *tile.sides), image.dtype)
        if not tile.full:
            lowered[...] = 0
        ranges = [
            (axis.place(box.start, 0), axis.window(box.stop)) for axis, box in zip(self._axes, tile.box, strict=True)
        ]
        lowered[(..., *tile.slots)] = self._windows(extend(image, self._axes, ranges), tile)
        return lowered.reshape(self._groups, len(image) // self._groups * math.prod(self._taps), math.prod(tile.sides))

    def _windows(self, band: NDArray[Any], tile: Tile) -> NDArray[Any]:
        """A view of a piece (C, R_1..R_D) of the extended image by window: (C, K_1..K_D, outputs of the box)."""
        channel, *strides = band.strides
        return np.lib.stride_tricks.as_strided(
            band,
            (len(band), *self._taps, *(box.stop - box.start for box in tile.box)),
            (
                channel,
                *(a.dilation * stride for a, stride in zip(self._axes, strides, strict=True)),
                *(a.stride * stride for a, stride in zip(self._axes, strides, strict=True)),
            ),
        )
