"""Geometry + weight -> the sparse matrix, its arrays written once, in their final order.

A row of the matrix is the product of one row of each axis matrix, over every input channel of the group. Rows whose
axis rows are alike (see `convmat.patterns`) have the same weights and the same columns but for a shift: one line of the
last axis is laid out once, stays in cache, and is written to all its rows by one broadcast sum.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csc_array, csr_array

from convmat.geometry import (
    Channels,
    Geometry,
    IntOrTuple,
    Modes,
    Padding,
    as_weight,
    conv_geometry,
    conv_transpose_geometry,
    parse_box,
)
from convmat.parts import Runs, giving
from convmat.patterns import Band, Rows, by_columns, by_rows
from convmat.taps import Axis

FORMATS = ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")

_LINE_BLOCK = 8192
"""Entries of a repeated stretch of a line that are laid out before they are copied on: enough to copy at full speed,
few enough to stay in cache."""


def conv_matrix(
    weight: ArrayLike,
    input_size: IntOrTuple,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: Modes = "zeros",
    flip: bool = False,
    rows: slice | Sequence[slice] | None = None,
    format: str = "csr",
) -> csr_array:
    r"""The sparse matrix A of a convolution layer: ``y.ravel() == A @ x.ravel()``.

    .. math:: y[o, m] = \sum_{c, k} W[o, c, k] \; \tilde x[g(o) C_{in}/G + c, \; s m + d k - p]

    where the padding mode extends x to :math:`\tilde x`: a cross-correlation, as all deep-learning frameworks do it.

    Parameters
    ----------
    weight : array_like, shape (C_out, C_in / groups, K_1, ..., K_D) or (K_1, ..., K_D)
        Without the channel axes, one channel goes in and one comes out. float32, float64, complex64 and complex128 are
        kept, integers and bools become float64.
    input_size : int or tuple of int
        The spatial size (N_1, ..., N_D) of the input; an int for one axis.
    stride, dilation : int or tuple of int
    padding : int, tuple of int, tuple of (lo, hi) pairs, or str
        A negative entry of a pair crops. Words: "valid", "same" (stride 1), "full", "same_upper", "same_lower"
        (output size ceil(N / s), as ONNX).
    groups : int
        Divides the channels into groups that do not mix.
    padding_mode : {"zeros", "reflect", "replicate", "circular", "symmetric", "antireflect"}, or one per axis
    flip : bool
        Flip the kernel on every spatial axis: the true convolution.
    rows : slice or tuple of slice, optional
        Build these rows alone, and never touch the rest: ``rows=slice(a, b)`` gives ``A[a:b]``, and a slice for each
        axis of the output, channels included, the rows of that box of outputs, in C order. All columns are there.
    format : {"csr", "csc", "coo", "bsr", "dia", "dok", "lil"}

    Returns
    -------
    scipy.sparse.csr_array, shape (C_out M_1 ... M_D, C_in N_1 ... N_D)
        Row = C-order ravel of (o, m), column = C-order ravel of (c, n). Sorted, without duplicates; int32 indices where
        they fit, int64 otherwise. Weights that happen to be 0 are stored.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.
    MemoryError
        If the arrays do not fit in this machine's memory; raised before they are allocated.

    See Also
    --------
    conv_transpose_matrix, Conv2d

    References
    ----------
    .. [1] V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4.
    .. [2] ``torch.nn.functional.conv2d``

    Examples
    --------
    A difference with stride 2: every row is the kernel, two samples on.

    >>> from convmat import conv_matrix
    >>> conv_matrix([-1, 1], 6, stride=2).toarray()
    array([[-1.,  1.,  0.,  0.,  0.,  0.],
           [ 0.,  0., -1.,  1.,  0.,  0.],
           [ 0.,  0.,  0.,  0., -1.,  1.]])
    """
    kernel = as_weight(weight)
    geometry = conv_geometry(
        kernel.shape,
        input_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        flip=flip,
    )
    if rows is None:
        return sparse(geometry, kernel, format)
    some = slab(geometry, kernel, rows) if isinstance(rows, slice) else box_of_rows(geometry, kernel, rows)
    return as_format(some, format)


def conv_transpose_matrix(
    weight: ArrayLike,
    input_size: IntOrTuple,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    output_size: IntOrTuple | None = None,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: Modes = "zeros",
    flip: bool = False,
    format: str = "csr",
) -> csr_array:
    """The sparse matrix of a transposed convolution layer: literally ``conv_matrix(...).T``.

    It puts s - 1 zeros between the samples and convolves with the flipped kernel; it does not undo the convolution.

    Parameters
    ----------
    weight : array_like, shape (C_in, C_out / groups, K_1, ..., K_D) or (K_1, ..., K_D)
        The same array as the weight of the convolution that is transposed.
    input_size : int or tuple of int
        The spatial size (M_1, ..., M_D) of the input of the transposed convolution.
    stride, padding, dilation, groups, padding_mode, flip
        Those of the convolution that is transposed; see `conv_matrix`.
    output_padding : int or tuple of int
        Chooses which of the sizes that share this M is the output:
        N = (M-1) s - lo - hi + d (K-1) + 1 + output_padding.
    output_size : int or tuple of int, optional
        Chooses it by its value.
    format : {"csr", "csc", "coo", "bsr", "dia", "dok", "lil"}
        "csc" shares its memory with the CSR array of the convolution: the transpose costs nothing.

    Returns
    -------
    scipy.sparse.csr_array, shape (C_out N_1 ... N_D, C_in M_1 ... M_D)

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.
    MemoryError
        If the arrays do not fit in this machine's memory; raised before they are allocated.

    References
    ----------
    .. [1] ``torch.nn.functional.conv_transpose2d``, which has this for padding_mode="zeros" alone.

    Examples
    --------
    >>> from convmat import conv_matrix, conv_transpose_matrix
    >>> conv_transpose_matrix([1, 2], 2, stride=2).toarray()
    array([[1., 0.],
           [2., 0.],
           [0., 1.],
           [0., 2.]])
    >>> A = conv_matrix([1, 2, 3], 7, stride=2, padding=1, padding_mode="reflect")
    >>> B = conv_transpose_matrix([1, 2, 3], 4, stride=2, padding=1, padding_mode="reflect")
    >>> bool((A.T != B).nnz == 0)
    True
    """
    kernel = as_weight(weight)
    geometry = conv_transpose_geometry(
        kernel.shape,
        input_size,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        output_size=output_size,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        flip=flip,
    )
    return sparse_transpose(geometry, kernel, format)


def sparse(geometry: Geometry, weight: NDArray[Any], format: str = "csr") -> Any:
    """The matrix A in the given format. "csc" is the transpose of the CSR array of A^T, without a conversion."""
    if check_format(format) == "csc":
        return _transposed(_assemble(_lines_of_transpose(geometry, weight)))
    return as_format(_assemble(_lines(geometry, weight)), format)


def sparse_transpose(geometry: Geometry, weight: NDArray[Any], format: str = "csr") -> Any:
    """The matrix A^T in the given format. "csc" is the transpose of the CSR array of A, without a conversion."""
    if check_format(format) == "csc":
        return _transposed(_assemble(_lines(geometry, weight)))
    return as_format(_assemble(_lines_of_transpose(geometry, weight)), format)


def slab(geometry: Geometry, weight: NDArray[Any], rows: slice) -> csr_array:
    """The rows [a, b) of A, as ``A[rows]`` would give them, without the rest.

    Raises
    ------
    ValueError
        If `rows` is not a slice of step 1.
    """
    start, stop, step = rows.indices(geometry.shape[0])
    if step != 1:
        raise ValueError(f"rows={rows!r} must have step 1")
    return _assemble(_lines(geometry, weight), start, max(start, stop))


def box_of_rows(geometry: Geometry, weight: NDArray[Any], rows: Sequence[slice]) -> csr_array:
    """The rows of A that a box of outputs is, in C order: those of a part, whose columns are counted in the whole.

    Raises
    ------
    TypeError, ValueError
        If `rows` is not a slice for each axis of the output, of step 1 and not empty.
    """
    box = parse_box("rows", rows, geometry.output_shape)
    parts = [giving(axis, (along,)) for axis, along in zip(geometry.axes, box[geometry.channels :], strict=True)]
    channels = box[0] if geometry.channels else (0, 1)
    whole = Channels(geometry.groups, (0, geometry.in_channels), (0, geometry.out_channels))
    part = geometry.narrowed(parts, whole)
    each = math.prod(part.output_size)
    some = slab(part, weight, slice(channels[0] * each, channels[1] * each))
    read = [part.inputs for part in parts]
    return in_columns(some, geometry.input_shape, [((0, geometry.in_channels),), *read] if geometry.channels else read)


def in_columns(rows: csr_array, shape: Sequence[int], box: Sequence[Runs]) -> csr_array:
    """The rows of a part of the input, the ranges of a box, as rows on all of the input, of that shape."""
    columns = np.zeros(1, dtype=np.int64)
    for size, runs in zip(shape, box, strict=True):
        columns = (columns[:, None] * size + np.concatenate([np.arange(*run, dtype=np.int64) for run in runs])).ravel()
    dtype = index_dtype(math.prod(shape), rows.nnz)
    indices, indptr = columns[rows.indices].astype(dtype, copy=False), rows.indptr.astype(dtype, copy=False)
    wider = csr_array((rows.data, indices, indptr), shape=(rows.shape[0], math.prod(shape)))
    wider.has_sorted_indices = wider.has_canonical_format = True
    return wider


def axis_matrix(axis: Axis, taps: NDArray[Any]) -> csr_array:
    """The matrix of one axis, (M, N), with the given weights of its taps."""
    return _assemble(_Lines(taps.reshape(1, 1, -1), 1, (axis,), by_rows, (axis.output,), (axis.size,)))


def check_format(format: str) -> str:
    """The format, if scipy knows it.

    Raises
    ------
    ValueError
        If it does not.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r} must be one of {', '.join(map(repr, FORMATS))}")
    return format


def as_format(matrix: Any, format: str) -> Any:
    """A CSR array (or a CSC one) in another format.

    Raises
    ------
    ValueError
        If scipy does not know the format.
    MemoryError
        If it does not fit in memory in that format, as may be where it does in another.
    """
    cost = _BYTES.get(check_format(format))
    if cost is not None:
        needed = cost(matrix)
        rows, cols = matrix.shape
        check_bytes(f"a sparse matrix of shape {rows} x {cols} in format={format!r}", needed, "use format='csr'")
    return matrix.asformat(format)


def _diagonals(matrix: Any) -> int:
    """The entries of all diagonals that are not empty."""
    entries = matrix.tocoo()
    return int(np.unique(entries.col.astype(np.int64) - entries.row).size * matrix.shape[1])


_BYTES: dict[str, Callable[[Any], int]] = {
    "dia": lambda matrix: _diagonals(matrix) * matrix.dtype.itemsize,
    "dok": lambda matrix: 250 * matrix.nnz,
    "lil": lambda matrix: 80 * matrix.nnz + 128 * matrix.shape[0],
}
"""Format -> the bytes that it takes, about, where that may be far more than CSR takes."""


def index_dtype(*largest: int) -> np.dtype[Any]:
    """int32 where all the numbers fit, else int64."""
    return np.dtype(np.int32 if max(largest) <= np.iinfo(np.int32).max else np.int64)


def check_memory(what: str, shape: tuple[int, int], entries: int, needed: int) -> None:
    """Refuse what cannot fit, before it is allocated.

    Raises
    ------
    MemoryError
        If `needed` bytes are more than this machine has available.
    """
    check_bytes(
        f"{what} of shape {shape[0]} x {shape[1]} with nnz = {entries}",
        needed,
        "use the matrix-free operator (convmat.Conv2d(...) and its kin, with A @ x and A.apply), or build slabs with "
        "rows=slice(a, b)",
    )


def check_bytes(what: str, needed: int, instead: str) -> None:
    """Refuse what cannot fit, before it is allocated, and say what to use instead.

    Raises
    ------
    MemoryError
        If `needed` bytes are more than this machine has available.
    """
    if not fits(needed):
        raise MemoryError(
            f"{what} needs {needed} bytes ({needed / 2**30:.1f} GiB), and {_available_memory() / 2**30:.1f} GiB are "
            f"available: {instead}"
        )


def fits(needed: int) -> bool:
    """Whether this machine has so many bytes available."""
    return needed <= _ALWAYS_FITS or needed <= _available_memory()


_ALWAYS_FITS = 2**25
"""Bytes up to which the system is not asked what is available: that takes longer than to fill them."""


@dataclass(frozen=True)
class _Lines:
    """What the assembly of A and of A^T share: kernel (R, Q, K..), the bands of row axis -> column axis."""

    kernel: NDArray[Any]  # row channels, column channels of a group, K_1..K_D
    groups: int
    axes: tuple[Axis, ...]
    read: Callable[[Axis, int, int], Band]
    row_size: tuple[int, ...]
    col_size: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.kernel.shape[:2]
        return rows * math.prod(self.row_size), cols * self.groups * math.prod(self.col_size)


def _lines(geometry: Geometry, weight: NDArray[Any]) -> _Lines:
    return _Lines(
        geometry.kernel(weight), geometry.groups, geometry.axes, by_rows, geometry.output_size, geometry.input_size
    )


def _lines_of_transpose(geometry: Geometry, weight: NDArray[Any]) -> _Lines:
    kernel = geometry.kernel(weight)
    outs, ins, *taps = kernel.shape
    grouped = kernel.reshape(geometry.groups, outs // geometry.groups, ins, *taps).swapaxes(1, 2)
    swapped = grouped.reshape(geometry.groups * ins, outs // geometry.groups, *taps)
    return _Lines(swapped, geometry.groups, geometry.axes, by_columns, geometry.input_size, geometry.output_size)


@dataclass(frozen=True)
class _Box:
    """A range of row channels and one band per axis: rows that follow each other in the matrix."""

    channels: range
    bands: tuple[Band, ...]

    def counts(self, per_group: int) -> NDArray[np.int64]:
        """Entries in each row of one channel."""
        counts = np.array([per_group], dtype=np.int64)
        for band in self.bands:
            counts = np.multiply.outer(counts, band.counts()).reshape(-1)
        return counts


def _assemble(lines: _Lines, start: int = 0, stop: int | None = None) -> csr_array:
    """The rows [start, stop) of the matrix."""
    stop = lines.shape[0] if stop is None else stop
    per_group = lines.kernel.shape[1]
    read = cache(lines.read)  # square images have one axis twice
    boxes = [
        _Box(ranges[0], tuple(read(axis, r.start, r.stop) for axis, r in zip(lines.axes, ranges[1:], strict=True)))
        for ranges in _cut(start, stop, (lines.kernel.shape[0], *lines.row_size))
    ]
    sizes = [len(box.channels) * per_group * math.prod(band.entries for band in box.bands) for box in boxes]
    nnz, shape = sum(sizes), (stop - start, lines.shape[1])
    dtype = index_dtype(nnz, *lines.shape)
    check_memory(
        "a sparse matrix", shape, nnz, nnz * (lines.kernel.itemsize + dtype.itemsize) + (shape[0] + 1) * dtype.itemsize
    )

    data = np.empty(nnz, dtype=lines.kernel.dtype)
    indices = np.empty(nnz, dtype=dtype)
    indptr = np.zeros(shape[0] + 1, dtype=dtype)
    row = entry = 0
    for box, size in zip(boxes, sizes, strict=True):
        block = slice(entry, entry + size)
        _write_rows(
            lines, box, data[block].reshape(len(box.channels), -1), indices[block].reshape(len(box.channels), -1)
        )
        counts = box.counts(per_group)
        ends = indptr[row + 1 : row + 1 + len(box.channels) * counts.size].reshape(len(box.channels), -1)
        np.cumsum(counts, out=ends[0])
        ends[0] += entry
        if len(box.channels) > 1:
            each = size // len(box.channels)
            np.add(ends[0], each * np.arange(1, len(box.channels), dtype=dtype)[:, None], out=ends[1:])
        row, entry = row + ends.size, entry + size
    return _canonical(csr_array((data, indices, indptr), shape=shape))


def _cut(start: int, stop: int, shape: tuple[int, ...]) -> Iterator[tuple[range, ...]]:
    """Cut the flat range [start, stop) of an array of the given shape into boxes, in order."""
    if start >= stop:
        return
    if len(shape) == 1:
        yield (range(start, stop),)
        return
    inner = math.prod(shape[1:])
    first, last = -(-start // inner), stop // inner
    if first > last:  # within one index of the first axis
        yield from (
            (range(last, last + 1), *rest) for rest in _cut(start - last * inner, stop - last * inner, shape[1:])
        )
        return
    if start < first * inner:
        head = first - 1
        yield from ((range(head, first), *rest) for rest in _cut(start - head * inner, inner, shape[1:]))
    if first < last:
        yield (range(first, last), *map(range, shape[1:]))
    if last * inner < stop:
        yield from ((range(last, last + 1), *rest) for rest in _cut(0, stop - last * inner, shape[1:]))


def _write_rows(lines: _Lines, box: _Box, data: NDArray[Any], indices: NDArray[Any]) -> None:
    """Fill the entries of a box: data and indices are (channels, entries of one channel)."""
    *outer, last = box.bands
    channels, dims = len(box.channels), len(outer)
    per_group = lines.kernel.shape[1]
    kernel = lines.kernel[box.channels.start : box.channels.stop]
    strides = [math.prod(lines.col_size[a + 1 :]) for a in range(dims + 1)]
    entries = [math.prod(band.entries for band in box.bands[a + 1 :]) for a in range(dims)]
    group_of = np.arange(box.channels.start, box.channels.stop) // (lines.kernel.shape[0] // lines.groups)
    group_bases = (group_of * (per_group * math.prod(lines.col_size))).astype(indices.dtype)
    if math.prod(band.entries for band in box.bands) <= _LINE_BLOCK:  # all axes as one, row by row
        weights, rows = kernel, box.bands[0].all_rows()
        for dim, band in enumerate(box.bands):
            weights = band.sets.sums(weights, 2 + dim)
            if dim:
                rows = rows.outer(band.all_rows(), lines.col_size[dim], len(band.sets))
        last, outer, dims = Band.of(rows), [], 0
        kernel = weights.reshape(channels, per_group, -1)
    line = _Line(last)

    for classes in itertools.product(*(list(band.classes()) for band in outer)):
        weights, offsets, first = kernel, np.arange(per_group) * math.prod(lines.col_size), 0
        counts: list[int] = []
        steps: list[int] = []
        bases = group_bases.reshape(-1, *[1] * dims)
        for dim, cls in enumerate(classes):
            weights = outer[dim].sets[cls.sets].sums(weights, 2 + dim)
            first += offsets.size * cls.first * entries[dim]
            counts.append(cls.bases.size)
            steps.append(offsets.size * cls.step * entries[dim])
            offsets = (offsets[:, None] + cls.cols * strides[dim]).reshape(-1)
            bases = bases + (cls.bases * strides[dim]).astype(indices.dtype).reshape(-1, *[1] * (dims - dim - 1))
        if offsets.size == 0:
            continue
        weights = last.sets.sums(weights, 2 + dims).reshape(channels, offsets.size, -1)
        if not classes:
            line.write(weights, offsets, data, indices[0])
            np.add(indices[0], group_bases[1:, None], out=indices[1:])
            indices[0] += group_bases[0]
            continue
        width = offsets.size * last.entries
        line_data = np.empty((channels, width), dtype=data.dtype)
        line_indices = np.empty(width, dtype=indices.dtype)
        line.write(weights, offsets, line_data, line_indices)
        np.add(line_indices, bases[..., None], out=_rows_view(indices, first, counts, steps, width))
        _rows_view(data, first, counts, steps, width)[...] = line_data.reshape(channels, *[1] * dims, width)


def _rows_view(flat: NDArray[Any], first: int, counts: Sequence[int], steps: Sequence[int], width: int) -> NDArray[Any]:
    """The rows of one class as an array (channels, *counts, width) over the (channels, entries) of a box."""
    item = flat.itemsize
    return np.ndarray(
        (flat.shape[0], *counts, width),
        flat.dtype,
        buffer=flat,
        offset=first * item,
        strides=(flat.strides[0], *(step * item for step in steps), item),
    )


class _Line:
    """The rows of the last axis, for one row of the outer axes: laid out in parts that repeat."""

    def __init__(self, band: Band) -> None:
        self._advance = band.advance
        self._parts = [(band.head, 1), (band.body, band.repeats), (band.tail, 1)]
        if band.entries <= _LINE_BLOCK:
            self._parts = [(band.all_rows(), 1)]
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def write(
        self, weights: NDArray[Any], offsets: NDArray[np.int64], data: NDArray[Any], indices: NDArray[Any]
    ) -> None:
        """Fill data (channels, entries) and indices (entries), the columns of the outer axes being `offsets`."""
        at = 0
        for number, (part, repeats) in enumerate(self._parts):
            length = part.entries * offsets.size
            if not length or not repeats:
                continue
            order = self._orders.get((number, offsets.size))
            if order is None:
                order = self._orders[number, offsets.size] = _order(part, offsets.size)
            end = at + length * repeats
            line_data, line = data[:, at:end], indices[at:end]
            sets = np.arange(offsets.size)[:, None] * weights.shape[2] + part.sets
            line_data[:, :length] = weights.reshape(len(weights), -1).take(sets.reshape(-1)[order], axis=1)
            line[:length] = (offsets[:, None] + part.cols).reshape(-1)[order]
            if repeats > 1:
                block = length * max(1, min(repeats, _LINE_BLOCK // length))
                _repeat(line_data, length, block, length * repeats)
                _repeat_shifted(line, length, block, length * repeats, self._advance)
            at = end


def _order(rows: Rows, times: int) -> NDArray[np.int64]:
    """The order in which the entries (offset, entry) of some rows, flat, lie in a line: by row, offset, and entry."""
    if times == 1:
        return np.arange(rows.entries)
    starts = rows.ptr[:-1]
    counts = rows.ptr[1:] - starts
    first = np.arange(rows.entries) + np.repeat((times - 1) * starts, counts)
    where = (first + np.arange(times)[:, None] * np.repeat(counts, counts)).reshape(-1)
    order = np.empty(where.size, dtype=np.int64)
    order[where] = np.arange(where.size)
    return order


def _repeat(line: NDArray[Any], unit: int, block: int, length: int) -> None:
    """Copy the first `unit` columns on, first to a block, then by blocks."""
    for source, end in ((unit, block), (block, length)):
        whole = end // source
        repeated = line[:, : whole * source].reshape(len(line), whole, source)
        repeated[:, 1:] = repeated[:, :1]
        line[:, whole * source : end] = line[:, : end - whole * source]


def _repeat_shifted(line: NDArray[Any], unit: int, block: int, length: int, advance: int) -> None:
    """Copy the first `unit` entries on, each copy `advance` more, first to a block, then by blocks."""
    for source, end in ((unit, block), (block, length)):
        whole = end // source
        step = advance * (source // unit)
        repeated = line[: whole * source].reshape(whole, source)
        shifts = step * np.arange(1, whole, dtype=line.dtype)
        np.add(repeated[:1], shifts[:, None], out=repeated[1:])
        np.add(line[: end - whole * source], line.dtype.type(step * whole), out=line[whole * source : end])


def _canonical(matrix: Any) -> Any:
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix


def _transposed(matrix: csr_array) -> csc_array:
    """The transpose, on the same memory."""
    return _canonical(matrix.T)


def _available_memory() -> float:
    """Bytes that this process may still allocate, as far as the system tells; infinite where it does not."""
    limits = [math.inf]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit.isdigit():
            limits.append(int(limit))
    except OSError:
        pass
    return min(limits)
