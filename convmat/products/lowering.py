"""im2col in bands of output rows, and its transpose col2im."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.padding import extend, fold
from convmat.products.threads import Scratch

BAND_BYTES = 2**22
"""Size of the lowered windows of one band; at least one output row is lowered at a time."""


class Lowering:
    """The windows of the extended image, one band of output rows after the other.

    Attributes
    ----------
    bands : list of (start, stop)
        Ranges of output rows, each small enough for its lowered windows to take about `BAND_BYTES`.
    """

    def __init__(self, geometry: Geometry, itemsize: int) -> None:
        self._axes = geometry.axes
        self._groups = geometry.groups
        self._ins = geometry.in_channels
        self._taps = geometry.kernel_size
        self._output = geometry.output_size
        row = self._ins * math.prod(self._taps) * math.prod(self._output[1:]) * itemsize
        step, rows = max(1, BAND_BYTES // row), self._output[0]
        self.bands = [(start, min(start + step, rows)) for start in range(0, rows, step)]

    def lower(self, scratch: Scratch, image: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        """The windows of the output rows [start, stop): (C_in, N_1..N_D) -> (G, C_in / G * K, rows M_2 .. M_D)."""
        windows = self._windows(extend(image, self._axes, *self._rows(start, stop)), stop - start)
        lowered = scratch.array("lowered", windows.shape, image.dtype)
        lowered[...] = windows
        return lowered.reshape(self._groups, self._ins // self._groups * math.prod(self._taps), -1)

    def raise_into(self, image: NDArray[Any], lowered: NDArray[Any], start: int, stop: int) -> None:
        """Add the transpose of `lower` to an image: each entry goes back to where its tap read."""
        first, last = self._rows(start, stop)
        shape = (self._ins, last - first, *(axis.padded for axis in self._axes[1:]))
        band = np.zeros(shape, dtype=image.dtype)
        windows = self._windows(band, stop - start)
        lowered = lowered.reshape(windows.shape)
        for tap in np.ndindex(*self._taps):
            at = (slice(None), slice(None), *tap)
            windows[at] += lowered[at]
        fold(band, self._axes, first, image)

    def _rows(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of the extended input that the output rows [start, stop) read."""
        axis = self._axes[0]
        return axis.stride * start, axis.stride * (stop - 1) + axis.span

    def _windows(self, band: NDArray[Any], rows: int) -> NDArray[Any]:
        """A view of a band (C_in, R, P_2..P_D) by window: (G, C_in / G, K_1..K_D, rows, M_2..M_D)."""
        channel, *strides = band.strides
        per_group = self._ins // self._groups
        return np.lib.stride_tricks.as_strided(
            band,
            (self._groups, per_group, *self._taps, rows, *self._output[1:]),
            (
                channel * per_group,
                channel,
                *(a.dilation * stride for a, stride in zip(self._axes, strides, strict=True)),
                *(a.stride * stride for a, stride in zip(self._axes, strides, strict=True)),
            ),
        )
