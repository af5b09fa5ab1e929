"""A convolution is linear in its weight too: the maps W -> A x and W -> A^T y, whose adjoint is the weight gradient.

With x in input space and y in output space, <A(W) x, y> is linear in W, x and y. The derivative by W is the same
whichever of x and y is held fixed: `_gradient`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array

from convmat.geometry import Geometry, output_shape_of, result_dtype
from convmat.matrix import as_format, check_format, check_memory, index_dtype
from convmat.operators.base import ImageOperator
from convmat.products import Products
from convmat.products.extended import extended_image
from convmat.products.lowering import Lowering
from convmat.products.threads import Scratch, blas_on_one_thread
from convmat.taps import ZERO, joint_reads, joint_table


class _WeightMap(ImageOperator):
    """What both maps share: a geometry and a fixed image, kept read-only."""

    def __init__(
        self,
        geometry: Geometry,
        image: ArrayLike,
        dtype: np.dtype[Any],
        fixed: tuple[int, ...],
        output_shape: tuple[int, ...],
    ) -> None:
        array = np.asarray(image)
        dtype = result_dtype(dtype, array, "image")
        if output_shape_of("image", array, fixed):
            raise ValueError(f"image has shape {array.shape}: it must be {fixed}, one image without batch axes")
        self._geometry = geometry
        self._image = np.array(array, dtype=dtype, order="C")
        self._image.flags.writeable = False
        super().__init__(dtype, geometry.weight_shape, output_shape)

    def _check_memory(self) -> int:
        """How many entries the matrix stores at most, if they fit in memory with the index tables that build it."""
        geometry = self.geometry
        reads = math.prod(len(axis.reads().tap) for axis in geometry.axes)
        nnz = geometry.out_channels * (geometry.in_channels // geometry.groups) * reads
        tables = math.prod(geometry.output_size) * math.prod(geometry.kernel_size) * 4 * 8
        check_memory("a sparse matrix", self.shape, nnz, 2 * nnz * (self.dtype.itemsize + 8) + tables)
        return nnz

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._geometry, self._image, self.dtype)

    @property
    def geometry(self) -> Geometry:
        """The geometry of the convolution."""
        return self._geometry

    @property
    def image(self) -> NDArray[Any]:
        """The fixed image, read-only."""
        return self._image


class WeightOperator(_WeightMap):
    r"""The map W -> A x of a convolution, for a fixed image x. Made by ``Conv2d.weight_operator``.

    Forward, :math:`y[o, m] = \sum W[o, c, k] \tilde x[.., s m + d k - p]`; adjoint,
    :math:`W[o, c, k] = \sum_m y[o, m] \overline{\tilde x}[.., s m + d k - p]`, the weight gradient.

    Attributes
    ----------
    image : ndarray
    geometry : Geometry
    input_shape, output_shape : tuple of int
        Shape of the weight, and of the image that comes out.
    """

    def __init__(self, geometry: Geometry, image: ArrayLike, dtype: np.dtype[Any]) -> None:
        super().__init__(geometry, image, dtype, geometry.input_shape, geometry.output_shape)

    def _forward(self, weights: NDArray[Any]) -> NDArray[Any]:
        x = _stack(self.image, self.geometry.in_channels, self.geometry.input_size, weights.dtype)
        if np.isfinite(weights).all():
            return _products(self.geometry, x[0], weights).reshape(len(weights), *self.output_shape)
        products = [Products(self.geometry, weight, "matrix").forward(x) for weight in weights]
        return np.array(products, dtype=weights.dtype).reshape(len(weights), *self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        geometry = self.geometry
        x = _stack(self.image, geometry.in_channels, geometry.input_size, y.dtype)
        y = y.reshape(len(y), geometry.out_channels, *geometry.output_size)
        return _gradient(geometry, np.broadcast_to(x, (len(y), *x.shape[1:])), y)

    def tosparse(self, format: str = "csr") -> Any:
        """The matrix im2col(x), one block per output channel: row (o, m), column (o, c, k), entry x~[c, s m + d k - p].

        Taps that read a padded zero are not stored.
        """
        check_format(format)
        geometry = self.geometry
        groups, per_group, outs = geometry.groups, geometry.in_channels // geometry.groups, geometry.out_channels
        nnz = self._check_memory()
        dtype = index_dtype(nnz, *self.shape)
        sample, tap, counts = _reads(geometry.extended)
        # Row by row, then channel, then tap: the order of the columns.
        order = _channels_inside(counts, per_group)

        taps = math.prod(geometry.kernel_size)
        image = self.image.reshape(geometry.in_channels, *geometry.input_size)
        images = extended_image(geometry, image).reshape(groups, per_group, -1)
        values = images[:, :, sample].reshape(groups, -1)[:, order]  # (G, entries of one output channel)
        columns = (np.arange(per_group)[:, None] * taps + tap).reshape(-1)[order]
        data = np.repeat(values, outs // groups, axis=0).reshape(-1)
        indices = np.add(columns, (np.arange(outs) * (per_group * taps))[:, None], dtype=dtype).reshape(-1)
        indptr = np.concatenate([[0], np.cumsum(np.tile(counts * per_group, outs))]).astype(dtype)
        matrix = csr_array((data, indices, indptr), shape=self.shape)
        matrix.has_sorted_indices = matrix.has_canonical_format = True
        return as_format(matrix, format)


class TransposeWeightOperator(_WeightMap):
    """The map W -> A^T y of a transposed convolution, for a fixed image y. Made by ``ConvTranspose2d.weight_operator``.

    Attributes
    ----------
    image : ndarray
    geometry : Geometry
        That of the convolution which is transposed.
    input_shape, output_shape : tuple of int
        Shape of the weight, and of the image that comes out.
    """

    def __init__(self, geometry: Geometry, image: ArrayLike, dtype: np.dtype[Any]) -> None:
        super().__init__(geometry, image, dtype, geometry.output_shape, geometry.input_shape)

    def _forward(self, weights: NDArray[Any]) -> NDArray[Any]:
        y = _stack(self.image, self.geometry.out_channels, self.geometry.output_size, weights.dtype)
        products = [Products(self.geometry, weight, "gemm").transpose(y) for weight in weights]
        return np.array(products, dtype=weights.dtype).reshape(len(weights), *self.output_shape)

    def _backward(self, x: NDArray[Any]) -> NDArray[Any]:
        geometry = self.geometry
        y = _stack(self.image, geometry.out_channels, geometry.output_size, x.dtype)
        x = x.reshape(len(x), geometry.in_channels, *geometry.input_size)
        return _gradient(geometry, x, np.broadcast_to(y, (len(x), *y.shape[1:])))

    def tosparse(self, format: str = "csr") -> Any:
        """The matrix: row (c, n), column (o, c, k), entry the sum of y[o, m] over the outputs m whose tap k reads n."""
        check_format(format)
        geometry = self.geometry
        groups, per_group, outs = geometry.groups, geometry.in_channels // geometry.groups, geometry.out_channels
        self._check_memory()
        output, tap, sample, weight = joint_reads(geometry.axes)
        if geometry.flip:
            tap = math.prod(geometry.kernel_size) - 1 - tap
        taps, samples = math.prod(geometry.kernel_size), math.prod(geometry.input_size)
        o, c = np.arange(outs)[:, None, None], np.arange(per_group)[:, None]
        rows = (o // (outs // groups) * per_group + c) * samples + sample
        cols = np.broadcast_to((o * per_group + c) * taps + tap, rows.shape)
        values = np.broadcast_to(self.image.reshape(outs, 1, -1)[:, :, output] * weight.astype(self.dtype), rows.shape)
        entries = coo_array((values.reshape(-1), (rows.reshape(-1), cols.reshape(-1))), shape=self.shape)
        matrix = entries.tocsr()
        matrix.sum_duplicates()
        return as_format(matrix, format)


@blas_on_one_thread()
def _products(geometry: Geometry, x: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """A x of one image for each weight of a batch: (batch, G, C_out / G, M_1..M_D)."""
    x, geometry = extended_image(geometry, x), geometry.extended
    lowering, scratch = Lowering(geometry, x.itemsize), Scratch()
    columns = geometry.in_channels // geometry.groups * math.prod(geometry.kernel_size)
    kernels = np.empty((len(weights), geometry.groups, geometry.out_channels // geometry.groups, columns), x.dtype)
    for kernel, weight in zip(kernels, weights, strict=True):
        kernel[...] = geometry.kernel(weight).reshape(kernel.shape)
    y = np.empty((*kernels.shape[:3], *geometry.output_size), dtype=weights.dtype)
    for tile in lowering.tiles:
        np.matmul(kernels, lowering.lower(scratch, x, tile), out=tile.of(y))
    return y


@blas_on_one_thread()
def _gradient(geometry: Geometry, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """The derivative of <A(W) x, y> (without conjugation) by W, for each pair of a batch: (batch, *weight_shape)."""
    x, geometry = extended_image(geometry, x), geometry.extended
    lowering, scratch = Lowering(geometry, x.itemsize), Scratch()
    outs, groups = geometry.out_channels, geometry.groups
    columns = geometry.in_channels // groups * math.prod(geometry.kernel_size)
    gradients = np.zeros((len(x), groups, outs // groups, columns), dtype=y.dtype)
    for image, cotangent, gradient in zip(x, y, gradients, strict=True):
        for tile in lowering.tiles:
            lowered = lowering.lower(scratch, image, tile)
            gradient += tile.of(cotangent).reshape(groups, outs // groups, -1) @ lowered.swapaxes(1, 2)
    kernels = gradients.reshape(-1, *geometry.kernel_size)
    if geometry.flip:
        kernels = kernels[(slice(None), *[slice(None, None, -1)] * geometry.ndim)]
    return kernels.reshape(len(x), *geometry.weight_shape)


def _reads(geometry: Geometry) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All reads of the input, by output and then by tap of the weight as given: (sample, tap, reads per output)."""
    table = joint_table(geometry.axes)
    sample = table[:, ::-1] if geometry.flip else table
    inside = sample != ZERO
    return sample[inside], np.nonzero(inside)[1], inside.sum(axis=1)


def _channels_inside(counts: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    """Reorder (channel, row, entry) to (row, channel, entry), for rows of different lengths. Flat positions."""
    total = int(counts.sum())
    row = np.repeat(np.arange(counts.size), counts)
    begin = np.cumsum(counts) - counts
    within = np.arange(total) - begin[row]
    order = np.empty(channels * total, dtype=np.int64)
    for channel in range(channels):
        order[channels * begin[row] + channel * counts[row] + within] = channel * total + np.arange(total)
    return order


def _stack(image: NDArray[Any], channels: int, size: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """One image as a batch, with its channel axis, in the dtype of a product. (1, C, spatial)"""
    return image.reshape(1, channels, *size).astype(dtype, copy=False)
