"""Lowering to matrix products (im2col), in bands of output rows so that the work memory is bounded.

Forward: the windows of a band of outputs, side by side, are a matrix (C_in K / G, outputs); the kernel times that
matrix is the band. Transposed: the transposed kernel times a band of y is what each tap sends back; it is added where
the tap read (col2im).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.lowering import Lowering


class Gemm:
    """A x and A^T y by lowering, for every geometry."""

    def __init__(self, geometry: Geometry, weight: NDArray[Any]) -> None:
        self._geometry = geometry
        self._lowering = Lowering(geometry, weight.itemsize)
        kernel = geometry.kernel(weight)
        # (G, C_out / G, C_in / G * K)
        self._kernel = np.ascontiguousarray(kernel.reshape(geometry.groups, -1, math.prod(kernel.shape[1:])))

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        outputs = self._geometry.output_size
        y = np.empty((len(x), *self._kernel.shape[:2], *outputs), dtype=x.dtype)
        for image, result in zip(x, y, strict=True):
            for start, stop in self._lowering.bands:
                lowered = self._lowering.lower(image, start, stop)
                result[:, :, start:stop] = (self._kernel @ lowered).reshape(*y.shape[1:3], stop - start, *outputs[1:])
        return y.reshape(len(x), self._geometry.out_channels, *outputs)

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        geometry, kernel = self._geometry, self._kernel.swapaxes(1, 2)
        x = np.zeros((len(y), geometry.in_channels, *geometry.input_size), dtype=y.dtype)
        y = y.reshape(len(y), *self._kernel.shape[:2], *geometry.output_size)
        for image, result in zip(y, x, strict=True):
            for start, stop in self._lowering.bands:
                sent = kernel @ image[:, :, start:stop].reshape(*image.shape[:2], -1)
                self._lowering.raise_into(result, sent, start, stop)
        return x
