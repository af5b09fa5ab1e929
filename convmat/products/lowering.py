"""im2col in bands of output rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.padding import extend
from convmat.products.threads import Scratch

BAND_BYTES = 2**22
"""Size of the lowered windows of one band; at least one output row is lowered at a time."""

PIECE_WORK = 2**20
"""Multiplications that repay a piece of its own, which another thread may take."""

PIECES = 8
"""Pieces into which work is cut for threads; more only where they would be too large."""


def pieces(geometry: Geometry) -> int:
    """Into how many pieces a product is worth cutting: the same for any number of threads, as rounding may differ."""
    work = math.prod(geometry.output_size) * geometry.in_channels // geometry.groups * geometry.out_channels
    return max(1, min(PIECES, work * math.prod(geometry.kernel_size) // PIECE_WORK))


class Lowering:
    """The windows of the extended image, one band of output rows after the other.

    Attributes
    ----------
    bands : list of (start, stop)
        Ranges of output rows, each small enough for its lowered windows to take about `BAND_BYTES`.
    """

    def __init__(self, geometry: Geometry, itemsize: int) -> None:
        self._axes, self._groups = geometry.axes, geometry.groups
        self._taps, self._output = geometry.kernel_size, geometry.output_size
        row = geometry.in_channels * math.prod(self._taps) * math.prod(self._output[1:]) * itemsize
        rows = self._output[0]
        step = max(1, min(BAND_BYTES // row, -(-rows // pieces(geometry))))
        self.bands = [(start, min(start + step, rows)) for start in range(0, rows, step)]

    def lower(self, scratch: Scratch, image: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        """The windows of the output rows [start, stop): (C_in, N_1..N_D) -> (G, C_in / G * K, rows M_2 .. M_D)."""
        windows = self._windows(extend(image, self._axes, *self._rows(start, stop)), stop - start)
        lowered = scratch.array("lowered", windows.shape, image.dtype)
        lowered[...] = windows
        return lowered.reshape(self._groups, len(image) // self._groups * math.prod(self._taps), -1)

    def _rows(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of the extended input that the output rows [start, stop) read."""
        axis = self._axes[0]
        return axis.place(start, 0), axis.window(stop)

    def _windows(self, band: NDArray[Any], rows: int) -> NDArray[Any]:
        """A view of a band (C, R, P_2..P_D) by window: (C, K_1..K_D, rows, M_2..M_D)."""
        channel, *strides = band.strides
        return np.lib.stride_tricks.as_strided(
            band,
            (len(band), *self._taps, rows, *self._output[1:]),
            (
                channel,
                *(a.dilation * stride for a, stride in zip(self._axes, strides, strict=True)),
                *(a.stride * stride for a, stride in zip(self._axes, strides, strict=True)),
            ),
        )
