"""The product by the explicit matrix: the method for what is small, for non-finite weights, and to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.matrix import sparse


class MatrixProduct:
    """A x and A^T y by the CSR array."""

    def __init__(self, geometry: Geometry, weight: NDArray[Any]) -> None:
        self._geometry = geometry
        self._csr = sparse(geometry, weight)
        self._transpose = self._csr.T

    @staticmethod
    def work_bytes(geometry: Geometry, itemsize: int) -> float:
        """Bytes kept besides the image and the result, about."""
        return geometry.nnz * (itemsize + 4) + 4 * geometry.shape[0]

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        y = _rows(self._csr, x)
        return y.reshape(len(x), self._geometry.out_channels, *self._geometry.output_size)

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        x = _rows(self._transpose, y)
        return x.reshape(len(y), self._geometry.in_channels, *self._geometry.input_size)


def _rows(matrix: Any, images: NDArray[Any]) -> NDArray[Any]:
    """The matrix times each image of a batch. (batch, rows)"""
    flat = images.reshape(len(images), matrix.shape[1])
    if len(flat) == 1:
        return np.asarray(matrix @ flat[0])[None]
    return np.ascontiguousarray((matrix @ flat.T).T)
