"""A padding mode that sums several samples, as a convolution of the extended image: A = V E, by any method for V.

E extends the image along the axes that need it, V is the convolution without padding there. A^T = E^T V^T folds the
border back. What is extended is the border alone, so that both cost little more than V.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.padding import extend, fold
from convmat.taps import Axis


class Plan(Protocol):
    """Both products, planned for one geometry and one kernel (C_out, C_in / groups, K_1..K_D)."""

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x: (batch, C_in, N_1..N_D) -> (batch, C_out, M_1..M_D)."""
        ...

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y, without conjugation: (batch, C_out, M_1..M_D) -> (batch, C_in, N_1..N_D)."""
        ...


def extended_image(geometry: Geometry, x: NDArray[Any]) -> NDArray[Any]:
    """E x of images: (.., N_1..N_D) -> (.., size of `Geometry.extended`). The images themselves where E is nothing."""
    if not geometry.combines:
        return x
    axes = _extending(geometry)
    flat = extend(x.reshape(-1, *geometry.input_size), axes, [(0, axis.padded) for axis in axes])
    return np.ascontiguousarray(flat).reshape(*x.shape[: -geometry.ndim], *flat.shape[1:])


def folded_image(geometry: Geometry, z: NDArray[Any]) -> NDArray[Any]:
    """E^T z of extended images: (.., size of `Geometry.extended`) -> (.., N_1..N_D)."""
    flat = z.reshape(-1, *z.shape[-geometry.ndim :])
    x = np.zeros((len(flat), *geometry.input_size), dtype=z.dtype)
    fold(flat, _extending(geometry), 0, x)
    return x.reshape(*z.shape[: -geometry.ndim], *geometry.input_size)


def _extending(geometry: Geometry) -> list[Axis]:
    return [axis if axis.combines else Axis(axis.size, 1) for axis in geometry.axes]


class Extended:
    """A x and A^T y by a method that knows only modes which copy samples."""

    def __init__(self, geometry: Geometry, product: Plan) -> None:
        self._geometry, self._product = geometry, product

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        return self._product.forward(extended_image(self._geometry, x))

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        return folded_image(self._geometry, self._product.transpose(y))
