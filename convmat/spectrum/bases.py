"""The singular vectors of a convolution, never stored as such: waves, axis matrices, or a dense matrix per group.

Each group of the kernel is near 1 (`spectrum.scaled_kernel`); the singular values of group g are sigma 2^exponents[g].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.matrix import check_bytes
from convmat.products.symbol import symbol
from convmat.products.waves import Waves
from convmat.spectrum.scaling import times_power
from convmat.spectrum.values import each_piece, outer

_Triple = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""U, sigma, V^H of one matrix."""


class Bases(Protocol):
    """U and V of A = U diag(sigma) V^H, on vectors (batch, n); coefficients have any shape that sigma fits."""

    @property
    def sigma(self) -> NDArray[Any]: ...

    @property
    def exponents(self) -> NDArray[np.int64]:
        """Of the powers of two that sigma is to be multiplied by; they broadcast to it."""
        ...

    def values(self) -> NDArray[Any]:
        """Every singular value, as often as it occurs, in any order, in double precision."""
        ...

    def to_right(self, x: NDArray[Any]) -> NDArray[Any]:
        """V^H x."""
        ...

    def from_right(self, c: NDArray[Any]) -> NDArray[Any]:
        """V c."""
        ...

    def to_left(self, y: NDArray[Any]) -> NDArray[Any]:
        """U^H y."""
        ...

    def from_left(self, c: NDArray[Any]) -> NDArray[Any]:
        """U c."""
        ...


@dataclass(frozen=True, eq=False)
class TransposedBases:
    """A^T = conj(V) diag(sigma) conj(U)^H."""

    of: Bases

    @property
    def sigma(self) -> NDArray[Any]:
        return self.of.sigma

    @property
    def exponents(self) -> NDArray[np.int64]:
        return self.of.exponents

    def values(self) -> NDArray[Any]:
        return self.of.values()

    def to_right(self, x: NDArray[Any]) -> NDArray[Any]:
        return self.of.to_left(x.conj()).conj()

    def from_right(self, c: NDArray[Any]) -> NDArray[Any]:
        return self.of.from_left(c.conj()).conj()

    def to_left(self, y: NDArray[Any]) -> NDArray[Any]:
        return self.of.to_right(y.conj()).conj()

    def from_left(self, c: NDArray[Any]) -> NDArray[Any]:
        return self.of.from_right(c.conj()).conj()


@dataclass(frozen=True, eq=False)
class WaveBases:
    """The transform of the image into waves, then one small basis per frequency and group."""

    inputs: Waves
    outputs: Waves
    u: NDArray[Any]  # (F_1..F_D, G, C_out / G, r)
    sigma: NDArray[np.float64]  # (F_1..F_D, G, r, 1)
    vh: NDArray[Any]  # (F_1..F_D, G, r, C_in / G s^D)
    exponents: NDArray[np.int64]  # (G, 1, 1)

    @classmethod
    def of(cls, waves: Waves, geometry: Geometry, kernel: NDArray[Any], exponents: NDArray[np.int64]) -> WaveBases:
        dtype, counts = waves.dtype(kernel.dtype), [line.count for line in waves.angles]
        outs, ins = len(kernel) // geometry.groups, kernel.shape[1] * math.prod(geometry.stride)
        check_bytes(
            "the singular vectors of A, block by block,",
            geometry.groups * math.prod(counts) * min(outs, ins) * (outs + ins) * dtype.itemsize,
            "singular_values(A) takes less, scipy.sparse.linalg.svds(A, k) computes a few",
        )
        polynomial = symbol(geometry, kernel, every_phase=True)
        groups, rows, cols = polynomial.block
        rank = min(rows, cols)
        u = np.empty((*counts, groups, rows, rank), dtype=dtype)
        sigma = np.empty((*counts, groups, rank, 1))
        vh = np.empty((*counts, groups, rank, cols), dtype=dtype)

        def store(start: int, stop: int, blocks: NDArray[Any]) -> None:
            u[start:stop], sigma[start:stop, ..., 0], vh[start:stop] = np.linalg.svd(blocks, full_matrices=False)

        each_piece(waves, polynomial, kernel.dtype, store)
        outputs = replace(waves, phases=(1,) * geometry.ndim)
        return cls(waves, outputs, u, sigma, vh, exponents.reshape(-1, 1, 1))

    def values(self) -> NDArray[Any]:
        times = self.inputs.multiplicity()
        values = times_power(self.sigma, self.exponents)
        return np.repeat(values.reshape(times.size, -1), times.ravel(), axis=0)

    def to_right(self, x: NDArray[Any]) -> NDArray[Any]:
        images = x.reshape(len(x), -1, *self.inputs.size)
        return np.asarray(np.matmul(self.vh, self.inputs.forward(images)))

    def from_right(self, c: NDArray[Any]) -> NDArray[Any]:
        return self.inputs.backward(np.matmul(_adjoint(self.vh), c)).reshape(c.shape[-1], -1)

    def to_left(self, y: NDArray[Any]) -> NDArray[Any]:
        images = y.reshape(len(y), -1, *self.outputs.size)
        return np.asarray(np.matmul(_adjoint(self.u), self.outputs.forward(images)))

    def from_left(self, c: NDArray[Any]) -> NDArray[Any]:
        return self.outputs.backward(np.matmul(self.u, c)).reshape(c.shape[-1], -1)


@dataclass(frozen=True, eq=False)
class KroneckerBases:
    """Per group the bases of the channel matrix and of each axis matrix, applied one after the other."""

    geometry: Geometry
    parts: tuple[tuple[_Triple, ...], ...]
    sigma: NDArray[np.float64]  # (G, r_0, r_1..r_D)
    exponents: NDArray[np.int64]  # (G, 1, 1..1)

    @classmethod
    def of(cls, geometry: Geometry, terms: list[list[NDArray[Any]]], exponents: NDArray[np.int64]) -> KroneckerBases:
        parts = tuple(tuple(_svd(factor) for factor in factors) for factors in terms)
        sigma = np.stack([outer([part[1] for part in factors]) for factors in parts])
        return cls(geometry, parts, sigma, exponents.reshape(-1, *(1,) * (sigma.ndim - 1)))

    def values(self) -> NDArray[Any]:
        return times_power(self.sigma, self.exponents)

    def to_right(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply(x, self.geometry.input_size, lambda u, vh: vh)

    def from_right(self, c: NDArray[Any]) -> NDArray[Any]:
        return self._apply(c, self.sigma.shape[2:], lambda u, vh: _adjoint(vh)).reshape(len(c), -1)

    def to_left(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._apply(y, self.geometry.output_size, lambda u, vh: _adjoint(u))

    def from_left(self, c: NDArray[Any]) -> NDArray[Any]:
        return self._apply(c, self.sigma.shape[2:], lambda u, vh: u).reshape(len(c), -1)

    def _apply(
        self,
        x: NDArray[Any],
        sizes: tuple[int, ...],
        choose: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]],
    ) -> NDArray[Any]:
        """One matrix per axis, channels first, on each group: (batch, ..) -> (batch, G, ..)."""
        tensors = x.reshape(len(x), len(self.parts), -1, *sizes)
        results = []
        for group, factors in enumerate(self.parts):
            part = tensors[:, group]
            for axis, (u, _, vh) in enumerate(factors, start=1):
                part = np.moveaxis(np.tensordot(choose(u, vh), part, (1, axis)), 0, axis)
            results.append(part)
        return np.stack(results, axis=1)


@dataclass(frozen=True, eq=False)
class DenseBases:
    """The dense bases of each group."""

    u: NDArray[Any]  # (G, rows, r)
    sigma: NDArray[np.float64]  # (G, r, 1)
    vh: NDArray[Any]  # (G, r, cols)
    exponents: NDArray[np.int64]  # (G, 1, 1)

    @classmethod
    def of(cls, dense: list[NDArray[Any]], exponents: NDArray[np.int64]) -> DenseBases:
        u, sigma, vh = np.linalg.svd(np.stack(dense), full_matrices=False)
        return cls(u, sigma[..., None].astype(np.float64), vh, exponents.reshape(-1, 1, 1))

    def values(self) -> NDArray[Any]:
        return times_power(self.sigma, self.exponents)

    def to_right(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.matmul(self.vh, _by_group(x, len(self.u))))

    def from_right(self, c: NDArray[Any]) -> NDArray[Any]:
        return _flat(np.matmul(_adjoint(self.vh), c))

    def to_left(self, y: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.matmul(_adjoint(self.u), _by_group(y, len(self.u))))

    def from_left(self, c: NDArray[Any]) -> NDArray[Any]:
        return _flat(np.matmul(self.u, c))


def _by_group(x: NDArray[Any], groups: int) -> NDArray[Any]:
    """(batch, G n) -> (G, n, batch)."""
    parts: NDArray[Any] = x.reshape(len(x), groups, -1)
    return np.moveaxis(parts, 0, -1)


def _flat(parts: NDArray[Any]) -> NDArray[Any]:
    """(G, n, batch) -> (batch, G n)."""
    return np.moveaxis(parts, -1, 0).reshape(parts.shape[-1], -1)


def _adjoint(matrices: NDArray[Any]) -> NDArray[Any]:
    """The conjugate transpose of each matrix of a stack."""
    return np.asarray(matrices.swapaxes(-1, -2).conj())


def _svd(dense: NDArray[Any]) -> _Triple:
    u, sigma, vh = np.linalg.svd(dense, full_matrices=False)
    return u, sigma, vh
