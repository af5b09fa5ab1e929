"""One axis after the other, by the blocks of the axis matrices: for kernels of low rank.

Stride, dilation, padding and padding mode act axis by axis, so that a kernel k_1 (x) k_2 gives A = A_1 (x) A_2, a
Kronecker product, under every padding mode and stride: A x is A_1 X A_2^T. An axis matrix is banded; it is stored as
dense blocks, each with the range of samples that its outputs read, so that no image is ever extended. The transpose has
the blocks of the transposed axis matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.matrix import axis_matrix
from convmat.products.blas import matmul
from convmat.products.threads import Pool, Scratch, workers
from convmat.taps import Axis

ROWS = 64
"""Rows of a block of an axis matrix."""

THREAD_WORK = 2**16
"""Samples of the image below which a second thread does not pay."""


def separate(kernel: NDArray[Any]) -> list[tuple[NDArray[Any], ...]]:
    """Vectors (k_1, .., k_D) whose outer products sum to the kernel, to rounding: no more of them than its rank needs.

    By the singular value decomposition of the first axis against the others, and so on for each factor.
    """
    if kernel.ndim == 1:
        return [(kernel,)]
    unfolded = kernel.reshape(len(kernel), -1).astype(np.result_type(kernel, np.float64))
    u, sigma, vh = np.linalg.svd(unfolded, full_matrices=False)
    rank = int(np.count_nonzero(sigma > 4 * np.finfo(kernel.dtype).eps * sigma[0]))
    return [
        ((u[:, r] * sigma[r]).astype(kernel.dtype), *rest)
        for r in range(rank)
        for rest in separate(vh[r].reshape(kernel.shape[1:]).astype(kernel.dtype))
    ]


def separable_rank(geometry: Geometry, weight: NDArray[Any]) -> int | None:
    """How many separable terms the kernels have in all, or None if the channels mix or that is not cheap to know."""
    kernels = geometry.kernel(weight)
    if kernels.shape[1] > 1 or len(kernels) > 256:
        return None
    return sum(len(separate(kernel[0])) for kernel in kernels)


@dataclass(frozen=True)
class _Block:
    """Rows [start, stop) of an axis matrix, as dense pieces over ranges of columns: (first, last, (rows, columns))."""

    start: int
    stop: int
    pieces: tuple[tuple[int, int, NDArray[Any]], ...]


def _blocks(matrix: Any, rows: int) -> list[_Block]:
    """Cut a sparse axis matrix into blocks of rows; columns far from each other (circular padding) are pieces."""
    blocks = []
    for start in range(0, matrix.shape[0], rows):
        stop = min(start + rows, matrix.shape[0])
        part = matrix[start:stop]
        read = np.unique(part.indices)
        pieces = []
        for run in np.split(read, np.flatnonzero(np.diff(read) > rows) + 1):
            if run.size:
                first, last = int(run[0]), int(run[-1]) + 1
                pieces.append((first, last, np.ascontiguousarray(part[:, first:last].toarray())))
        blocks.append(_Block(start, stop, tuple(pieces)))
    return blocks


class Separable:
    """A x and A^T y as a sum of separable products: the method of kernels of low rank, right for every kernel."""

    def __init__(self, geometry: Geometry, weight: NDArray[Any]) -> None:
        self._geometry = geometry
        # a single axis is the second of a plane of one row
        axes = (Axis(1, 1), *geometry.axes)[-max(2, geometry.ndim) :]
        kernel = geometry.kernel(weight)
        outs, ins = kernel.shape[0] // geometry.groups, kernel.shape[1]
        self._terms = [
            (out, out // outs * ins + channel, _Term(axes, vectors))
            for out in range(kernel.shape[0])
            for channel in range(ins)
            for vectors in separate(kernel[out, channel].reshape([axis.taps for axis in axes]))
        ]
        self._pool = Pool()

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        geometry = self._geometry
        y = np.empty((len(x), geometry.out_channels, *geometry.output_size), dtype=x.dtype)
        sources, targets = self._planes(x), self._planes(y)
        for image in range(len(x)):
            written = set()
            for out, channel, term in self._terms:
                self._product(term.down, sources[image, channel], targets[image, out], add=out in written)
                written.add(out)
            _clear(y[image], written)
        return y

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        geometry = self._geometry
        x = np.empty((len(y), geometry.in_channels, *geometry.input_size), dtype=y.dtype)
        sources, targets = self._planes(y), self._planes(x)
        for image in range(len(y)):
            written = set()
            for out, channel, term in self._terms:
                self._product(term.up, sources[image, out], targets[image, channel], add=channel in written)
                written.add(channel)
            _clear(x[image], written)
        return x

    def _planes(self, images: NDArray[Any]) -> NDArray[Any]:
        """A view of a batch of signals as planes of one row; other images as they are."""
        return images[:, :, None] if self._geometry.ndim == 1 else images

    def _product(self, axes: list[list[_Block]], x: NDArray[Any], y: NDArray[Any], *, add: bool) -> None:
        """Write, or add, the product of the axis matrices with an image: (N_1..N_D) into (M_1..M_D)."""
        *outer, rows, cols = axes
        for dim, blocks in enumerate(outer):  # the leading axes, each on the image as a matrix
            height = blocks[-1].stop
            flat = np.moveaxis(x, dim, 0)
            moved = np.empty((height, *flat.shape[1:]), dtype=x.dtype)
            for block in blocks:
                moved[block.start : block.stop] = sum(
                    (np.tensordot(dense, flat[a:b], 1) for a, b, dense in block.pieces), start=np.zeros((), x.dtype)
                )
            x = np.moveaxis(moved, 0, dim)
        planes = [(x[at], y[at]) for at in np.ndindex(*y.shape[:-2])]

        def band(scratch: Scratch, plane: int, number: int) -> None:
            source, target = planes[plane]
            block = rows[number]
            height, width = block.stop - block.start, source.shape[1]
            half = scratch.array("half", (height, width), x.dtype)
            _left(block, source, half, scratch)
            for col in cols:
                out = target[block.start : block.stop, col.start : col.stop]
                _right(half, col, out, scratch, add=add)

        pieces = [(plane, number) for plane in range(len(planes)) for number in range(len(rows))]
        busy = max(x.size, y.size) >= THREAD_WORK
        self._pool.run(band, pieces, min(len(pieces), workers()) if busy else 1)


def _clear(image: NDArray[Any], written: set[int]) -> None:
    """Zero the channels that no term writes, since their kernels are zero."""
    for channel in set(range(len(image))) - written:
        image[channel] = 0


class _Term:
    """The blocks of the axis matrices of one separable kernel, and of their transposes."""

    def __init__(self, axes: tuple[Axis, ...], vectors: tuple[NDArray[Any], ...]) -> None:
        matrices = [axis_matrix(axis, vector) for axis, vector in zip(axes, vectors, strict=True)]
        self.down = [_blocks(matrix, max(8, ROWS // axis.stride)) for axis, matrix in zip(axes, matrices, strict=True)]
        self.up = [_blocks(matrix.T.tocsr(), ROWS) for matrix in matrices]


def _left(block: _Block, x: NDArray[Any], out: NDArray[Any], scratch: Scratch) -> None:
    """Write a block of an axis matrix times an image: (rows, columns of x)."""
    if not block.pieces:
        out[...] = 0
    for number, (first, last, dense) in enumerate(block.pieces):
        if number == 0:
            matmul(dense, x[first:last], out)
        else:
            more = scratch.array("more", out.shape, x.dtype)
            matmul(dense, x[first:last], more)
            out += more


def _right(half: NDArray[Any], block: _Block, out: NDArray[Any], scratch: Scratch, *, add: bool) -> None:
    """Write, or add, rows times a block of a transposed axis matrix: (rows, rows of the block)."""
    if not block.pieces and not add:
        out[...] = 0
    for number, (first, last, dense) in enumerate(block.pieces):
        if number == 0 and not add:
            matmul(half[:, first:last], dense.T, out)
        else:
            more = scratch.array("more", out.shape, half.dtype)
            matmul(half[:, first:last], dense.T, more)
            out += more
