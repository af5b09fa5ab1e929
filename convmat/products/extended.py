"""A padding mode that sums several samples, as a convolution of the extended image: A = V E, by any method for V.

E extends the image along the axes that need it, V is the convolution without padding there. A^T = E^T V^T folds the
border back. What is extended is the border alone, so that both cost little more than V.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.padding import combination, extend, fold, fold_border
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
    axes, flat = _extending(geometry), x.reshape(-1, *geometry.input_size)
    if _crops(axes):
        z = np.ascontiguousarray(extend(flat, axes, [(0, axis.padded) for axis in axes]))
    else:
        z = np.empty((len(flat), *(axis.padded for axis in axes)), dtype=x.dtype)
        inside = [slice(axis.lo, axis.lo + axis.size) for axis in axes]
        z[(slice(None), *inside)] = flat
        for dim, axis in enumerate(axes, start=1):
            part = z[(*[slice(None)] * dim, slice(None), *inside[dim:])]
            lines = part[(*[slice(None)] * dim, inside[dim - 1])]
            for start, stop in ((0, axis.lo), (axis.lo + axis.size, axis.padded)):
                if start < stop:
                    part[(*[slice(None)] * dim, slice(start, stop))] = combination(lines, dim, axis, start, stop)
    return z.reshape(*x.shape[: -geometry.ndim], *z.shape[1:])


def folded_image(geometry: Geometry, z: NDArray[Any]) -> NDArray[Any]:
    """E^T z of extended images: (.., size of `Geometry.extended`) -> (.., N_1..N_D). Overwrites z."""
    axes, flat = _extending(geometry), z.reshape(-1, *z.shape[-geometry.ndim :])
    if _crops(axes):
        x = np.zeros((len(flat), *geometry.input_size), dtype=z.dtype)
        fold(flat, axes, 0, x)
    else:
        for dim, axis in [*enumerate(axes[1:], start=2), (1, axes[0])]:  # the order of `fold`
            inside = flat[(*[slice(None)] * dim, slice(axis.lo, axis.lo + axis.size))]
            fold_border(flat, dim, axis, 0, inside)
            flat = inside
        x = np.ascontiguousarray(flat)
    return x.reshape(*z.shape[: -geometry.ndim], *geometry.input_size)


def _extending(geometry: Geometry) -> list[Axis]:
    return [axis if axis.combines else Axis(axis.size, 1) for axis in geometry.axes]


def _crops(axes: Sequence[Axis]) -> bool:
    """Whether some of the image is not in the extended one, so that neither can be made in place of the other."""
    return any(axis.lo < 0 or axis.hi < 0 for axis in axes)


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
