"""One axis after the other, by the blocks of the axis matrices: for kernels of low rank.

Stride, dilation, padding and padding mode act axis by axis, so that a kernel k_1 (x) k_2 gives A = A_1 (x) A_2, a
Kronecker product, under every padding mode and stride: A x is A_1 X A_2^T. An axis matrix is banded; it is stored as
dense blocks, each with the range of samples that its outputs read, so that no image is ever extended. The transpose has
the blocks of the transposed axis matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.matrix import axis_matrix
from convmat.products.threads import Pool, Scratch, blas_on_one_thread, workers

ROWS = 48
"""Rows of a block of an axis matrix that is a product of its own."""

COLUMNS = 16
"""Rows of a block of the last axis matrix, where equal blocks are one stack of products: small, so few zeros."""

MOST = 64
"""Rows of the largest blocks."""

THREAD_WORK = 2**16
"""Samples of the image below which a second thread does not pay."""


def separate(kernel: NDArray[Any]) -> list[tuple[NDArray[Any], ...]]:
    """Vectors (k_1, .., k_D) whose outer products sum to the kernel, to rounding: no more of them than its rank needs.

    By the singular value decomposition of the first axis against the others, and so on for each factor.
    """
    if kernel.ndim == 1:
        return [(_normal(kernel),)]
    unfolded = kernel.reshape(len(kernel), -1).astype(np.result_type(kernel, np.float64))
    u, sigma, vh = np.linalg.svd(unfolded, full_matrices=False)
    rank = int(np.count_nonzero(sigma > 4 * np.finfo(kernel.dtype).eps * sigma[0]))
    return [
        (_normal((u[:, r] * sigma[r]).astype(kernel.dtype)), *rest)
        for r in range(rank)
        for rest in separate(vh[r].reshape(kernel.shape[1:]).astype(kernel.dtype))
    ]


def _normal(vector: NDArray[Any]) -> NDArray[Any]:
    """The vector without subnormal entries that are nothing beside others: they take many times longer to multiply."""
    limits, size = np.finfo(vector.dtype), np.abs(vector)
    return np.where((size < limits.tiny) & (size < limits.eps**2 * size.max()), 0, vector)


def separable_rank(geometry: Geometry, weight: NDArray[Any]) -> int | None:
    """How many separable terms the kernels have in all, or None if the channels mix or that is not cheap to know."""
    kernels = geometry.kernel(weight)
    if kernels.shape[1] > 1 or len(kernels) > 256:
        return None
    return sum(len(separate(kernel[0])) for kernel in kernels)


@dataclass(frozen=True)
class _Block:
    """Rows [start, stop) of an axis matrix, as dense pieces over ranges of columns: (first, last, (rows, columns)).

    A block that repeats has one piece, which stands for equal ones, each `shift` columns to the right of the one above.
    """

    start: int
    stop: int
    pieces: tuple[tuple[int, int, NDArray[Any]], ...]
    repeats: int = 1
    shift: int = 0


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


def _joined(blocks: list[_Block]) -> list[_Block]:
    """The blocks, with equal ones that follow each other at equal distances as one."""
    joined: list[_Block] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if last is not None and len(block.pieces) == len(last.pieces) == 1:
            (a, _, above), (b, _, dense) = last.pieces[0], block.pieces[0]
            shift = b - a - (last.repeats - 1) * last.shift
            if np.array_equal(above, dense) and (last.repeats == 1 or shift == last.shift):
                joined[-1] = replace(last, stop=block.stop, repeats=last.repeats + 1, shift=shift)
                continue
        joined.append(block)
    return joined


@dataclass(frozen=True)
class Term:
    """One separable product: from a channel, to a channel, the blocks of each axis matrix, joined for the last axis."""

    source: int
    target: int
    axes: list[list[_Block]]

    @classmethod
    def of(cls, source: int, target: int, matrices: Sequence[Any]) -> Term:
        """From the sparse matrix of each axis."""
        *leading, last = (matrix.tocsr() for matrix in matrices)
        axes = [_blocks(matrix, block_height(matrix.shape, ROWS)) for matrix in leading]
        return cls(source, target, [*axes, _joined(_blocks(last, block_height(last.shape, COLUMNS)))])


def block_height(shape: tuple[int, int], usual: int) -> int:
    """Rows of a block: less where a stride widens its window, more where the transpose of one narrows it."""
    rows, columns = shape
    stride, spread = max(1, round(columns / max(1, rows))), max(1, round(rows / max(1, columns)))
    return min(MOST, max(COLUMNS, usual // stride) + COLUMNS * (spread - 1))


class Separable:
    """A x and A^T y as a sum of separable products: the method of kernels of low rank, right for every kernel."""

    def __init__(self, geometry: Geometry, weight: NDArray[Any]) -> None:
        kernel = geometry.kernel(weight)
        outs, ins = kernel.shape[0] // geometry.groups, kernel.shape[1]
        down: list[Term] = []
        up: list[Term] = []
        for out, channel in np.ndindex(*kernel.shape[:2]):
            place = out // outs * ins + channel
            for vectors in separate(kernel[out, channel]):
                matrices = [axis_matrix(axis, vector) for axis, vector in zip(geometry.axes, vectors, strict=True)]
                down.append(Term.of(place, out, matrices))
                up.append(Term.of(out, place, [matrix.T for matrix in matrices]))
        self.forward = AxisProducts(down, (geometry.out_channels, *geometry.output_size)).apply
        self.transpose = AxisProducts(up, (geometry.in_channels, *geometry.input_size)).apply

    @staticmethod
    def work_bytes(geometry: Geometry, itemsize: int) -> float:
        """Bytes kept besides the image and the result, about."""
        return 2.0 * workers() * MOST * geometry.input_size[-1] * itemsize


class AxisProducts:
    """A sum of separable products, to images of one shape (C, N_1..N_D)."""

    def __init__(self, terms: Sequence[Term], shape: tuple[int, ...]) -> None:
        self._terms, self._shape = tuple(terms), shape
        self._pool = Pool()

    @blas_on_one_thread()
    def apply(self, images: NDArray[Any]) -> NDArray[Any]:
        """The sum for each image of a batch."""
        results = np.empty((len(images), *self._shape), dtype=images.dtype)
        for source, target in zip(images, results, strict=True):
            written: set[int] = set()
            for term in self._terms:
                self._product(term.axes, source[term.source], target[term.target], add=term.target in written)
                written.add(term.target)
            for channel in set(range(len(target))) - written:  # no term writes it: its kernels are zero
                target[channel] = 0
        return results

    def _product(self, axes: list[list[_Block]], x: NDArray[Any], y: NDArray[Any], *, add: bool) -> None:
        """Write, or add, the product of the axis matrices with an image: (N_1..N_D) into (M_1..M_D)."""
        if len(axes) == 1:  # a plane of one row
            axes, x, y = [_ONE_ROW, *axes], x[None], y[None]
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


_ONE_ROW = [_Block(0, 1, ((0, 1, np.ones((1, 1), dtype=np.float32)),))]
"""The identity on an axis of one sample; single precision never widens a product."""


def _left(block: _Block, x: NDArray[Any], out: NDArray[Any], scratch: Scratch) -> None:
    """Write a block of an axis matrix times an image: (rows, columns of x)."""
    if not block.pieces:
        out[...] = 0
    for number, (first, last, dense) in enumerate(block.pieces):
        if number == 0:
            np.matmul(dense, x[first:last], out=out)
        else:
            more = scratch.array("more", out.shape, x.dtype)
            np.matmul(dense, x[first:last], out=more)
            out += more


def _right(half: NDArray[Any], block: _Block, out: NDArray[Any], scratch: Scratch, *, add: bool) -> None:
    """Write, or add, rows times a block of a transposed axis matrix: (rows, rows of the block)."""
    if not block.pieces and not add:
        out[...] = 0
    for number, (first, last, dense) in enumerate(block.pieces):
        (row, item), rows = half.strides, len(half)
        size = block.repeats, rows, last - first
        windows = np.lib.stride_tricks.as_strided(half[:, first:], size, (block.shift * item, row, item))
        target = out.reshape(rows, block.repeats, -1).swapaxes(0, 1)
        if number == 0 and not add:
            np.matmul(windows, dense.T, out=target)
        else:
            more = scratch.array("more", target.shape, half.dtype)
            np.matmul(windows, dense.T, out=more)
            target += more
