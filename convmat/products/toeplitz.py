"""Rows by block-banded Toeplitz matrix products; columns lowered beforehand, or summed afterwards.

A block of b output rows is a window of L = (b-1) s + d (K-1) + 1 input rows: a small Toeplitz matrix times the window,
which lies contiguously, so that the rows are never lowered. The taps of the columns are either side by side in what
goes into the product (im2col along the columns alone), or stacked in what comes out, whose shifted sum is the output;
there, the phases of a stride of the columns are channels of what goes in. The transpose is the same: blocks of s b rows
of the extended input from a window of output rows, with no scatter and no zeros between the samples; its phases are
channels of what comes out.

The work is cut into bands of rows, small enough for their work memory to stay in cache, which threads share. Axes
before the last two are treated as channels, one output plane after the other. On a single axis the windows are lowered,
once for a block of outputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.padding import extend_rows, fold_columns, fold_rows, read_columns, read_tile
from convmat.products.threads import Pool, Scratch, workers
from convmat.taps import ZERO, Axis

BAND_BYTES = 2**21
"""Work memory of one band, about: it should stay in the caches of a core."""

THREAD_WORK = 2**21
"""Multiplications below which a second thread does not pay."""

LINE_WORK = 2**21
"""Multiplications of a piece of a line, as stored: many are zeros."""


class Toeplitz:
    """A x and A^T y by block-banded Toeplitz products, for every geometry."""

    def __init__(
        self, geometry: Geometry, weight: NDArray[Any], block: int | None = None, lower: bool | None = None
    ) -> None:
        *self._outer, rows, cols = (Axis(1, 1), *geometry.axes)[-max(2, geometry.ndim) :]
        self._geometry = geometry
        kernel = geometry.kernel(weight)
        outs, ins = geometry.out_channels // geometry.groups, geometry.in_channels // geometry.groups
        planes = math.prod(axis.taps for axis in self._outer)
        # (G, C_out / G, channels of a plane, K_rows, K_cols); the outer taps are channels
        kernel = kernel.reshape(geometry.groups, outs, ins * planes, rows.taps, cols.taps)
        self._plane: _Plane | _Line
        if geometry.ndim == 1:
            self._plane = _Line(kernel[:, :, :, 0], cols, block)
        else:
            self._plane = _Plane(kernel, rows, cols, block, lower)

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        y = np.empty((len(x), self._geometry.out_channels, *self._geometry.output_size), dtype=x.dtype)
        for image, result in zip(x, y, strict=True):
            for at, sources in self._planes():
                self._plane.forward(_gather(image, sources), result[(slice(None), *at)])
        return y

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        size = self._geometry.input_size
        if not self._outer:
            x = np.empty((len(y), self._geometry.in_channels, *size), dtype=y.dtype)
            for image, result in zip(y, x, strict=True):
                self._plane.transpose(image, result)
            return x
        x = np.zeros((len(y), self._geometry.in_channels, *size), dtype=y.dtype)
        for image, result in zip(y, x, strict=True):
            for at, sources in self._planes():
                sent = np.empty((len(result), len(sources), *size[-2:]), dtype=y.dtype)
                self._plane.transpose(image[(slice(None), *at)], sent.reshape(-1, *size[-2:]))
                for k, source in enumerate(sources):
                    if source is not None:
                        result[(slice(None), *source)] += sent[:, k]
        return x

    def _planes(self) -> list[tuple[tuple[int, ...], list[tuple[int, ...] | None]]]:
        """For each output plane its index, and the input plane that each outer tap reads (None reads zeros)."""
        tables = [axis.table() for axis in self._outer]
        planes = []
        for at in itertools.product(*(range(axis.output) for axis in self._outer)):
            reads = itertools.product(*(table[m].tolist() for table, m in zip(tables, at, strict=True)))
            planes.append((at, [None if ZERO in read else read for read in reads]))
        return planes


def _gather(image: NDArray[Any], sources: list[tuple[int, ...] | None]) -> NDArray[Any]:
    """The planes that an output plane reads, as channels: (C, N_1..N_D) -> (C * planes, N_rows, N_cols)."""
    if sources == [()]:
        return image
    planes = np.zeros((len(image), len(sources), *image.shape[-2:]), dtype=image.dtype)
    for k, source in enumerate(sources):
        if source is not None:
            at: Any = (slice(None), *source)
            planes[:, k] = image[at]
    return planes.reshape(-1, *image.shape[-2:])


class _Line:
    """A x and A^T y of one axis: windows of L = (b-1) s + d (K-1) + 1 samples times a Toeplitz matrix are b outputs."""

    def __init__(self, kernel: NDArray[Any], axis: Axis, block: int | None) -> None:
        groups, outs, ins, _taps = kernel.shape
        self._shape, self._axis = (groups, outs, ins), axis
        self._block = b = block or line_block(axis, outs)
        self._window, self._reach = axis.window(b), axis.memory
        down = np.zeros((groups, ins, self._window, outs, b), dtype=kernel.dtype)
        up = np.zeros((groups, outs, self._reach + b, ins, b, axis.stride), dtype=kernel.dtype)
        for k, (back, phase) in enumerate(axis.lattice()):
            for j in range(b):
                down[:, :, axis.place(j, k), :, j] = kernel[..., k].transpose(0, 2, 1)
                up[:, :, self._reach - back + j, :, j, phase] = kernel[..., k]
        self._down = down.reshape(groups, ins * self._window, outs * b)
        self._up = up.reshape(groups, outs * (self._reach + b), ins * b * axis.stride)
        self._step = b * max(1, LINE_WORK // max(self._down[0].size, self._up[0].size))
        self._busy = kernel.size * axis.output >= THREAD_WORK
        self._pool = Pool()

    def _run(self, task: Callable[..., None], count: int) -> None:
        pieces = [(start, min(start + self._step, count)) for start in range(0, count, self._step)]
        self._pool.run(task, pieces, min(len(pieces), workers()) if self._busy else 1)

    def forward(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Write A x: (C_in, N) into (C_out, M)."""
        (groups, outs, ins), b, axis = self._shape, self._block, self._axis
        image, out = x.reshape(groups, ins, axis.size), y.reshape(groups, outs, axis.output)
        dense = Axis(axis.size, 1, lo=axis.lo, hi=axis.hi, mode=axis.mode)

        def band(scratch: Scratch, start: int, stop: int) -> None:
            blocks = -(-(stop - start) // b)
            line = scratch.array("line", (groups, ins, b * axis.stride * (blocks - 1) + self._window), x.dtype)
            read_tile(image, (Axis(ins, 1), dense), (0, 0), (0, axis.place(start, 0)), line)
            group, channel, item = line.strides
            windows = np.lib.stride_tricks.as_strided(
                line, (groups, blocks, ins, self._window), (group, b * axis.stride * item, channel, item)
            )
            lowered = scratch.array("lowered", windows.shape, x.dtype)
            lowered[...] = windows
            sums = scratch.array("sums", (groups, blocks, outs * b), x.dtype)
            np.matmul(lowered.reshape(groups, blocks, -1), self._down, out=sums)
            rows = sums.reshape(groups, blocks, outs, b).transpose(0, 2, 1, 3).reshape(groups, outs, -1)
            out[:, :, start:stop] = rows[:, :, : stop - start]

        self._run(band, axis.output)

    def transpose(self, y: NDArray[Any], x: NDArray[Any]) -> None:
        """Write A^T y: (C_out, M) into (C_in, N)."""
        (groups, outs, ins), b, axis = self._shape, self._block, self._axis
        image = y.reshape(groups, outs, axis.output)
        plain = Axis(axis.output, 1, lo=self._reach)
        sent = np.empty((groups * ins, -(-axis.padded // axis.stride) * axis.stride), dtype=y.dtype)

        def band(scratch: Scratch, start: int, stop: int) -> None:
            blocks = -(-(stop - start) // b)
            line = scratch.array("line", (groups, outs, b * blocks + self._reach), y.dtype)
            read_tile(image, (Axis(outs, 1), plain), (0, 0), (0, start), line)
            group, channel, item = line.strides
            windows = np.lib.stride_tricks.as_strided(
                line, (groups, blocks, outs, self._reach + b), (group, b * item, channel, item)
            )
            lowered = scratch.array("lowered", windows.shape, y.dtype)
            lowered[...] = windows
            sums = scratch.array("sums", (groups, blocks, self._up.shape[2]), y.dtype)
            np.matmul(lowered.reshape(groups, blocks, -1), self._up, out=sums)
            rows = sums.reshape(groups, blocks, ins, -1).transpose(0, 2, 1, 3).reshape(groups * ins, -1)
            sent[:, axis.stride * start : axis.stride * stop] = rows[:, : axis.stride * (stop - start)]

        self._run(band, sent.shape[1] // axis.stride)
        x[...] = fold_columns(sent[:, : axis.padded], axis, 1)


def lowers(rows: Axis, cols: Axis, ins: int, outs: int) -> bool:
    """Whether lowering the columns of what goes in costs less than summing what comes out, for one group.

    For each sample of a row: the copies of its taps, against those of its phases and the sums of their shifts.
    """
    shifts = -(-cols.taps // cols.stride)
    return ins * rows.stride * cols.taps <= 1.6 * (ins * rows.stride * cols.stride + outs * shifts)


def line_block(axis: Axis, outs: int) -> int:
    """Outputs of a block of a line: no thin product, and a window of few zeros."""
    return max(1, -(-16 // outs), min(32, axis.taps // (2 * axis.stride)))


def shifted_block(cols: Axis, outs: int) -> int:
    """Output rows of a block where the taps of the columns are stacked in the result: not flat, and not tall."""
    return min(4, max(2, 12 // (outs * -(-cols.taps // cols.stride))))


class _Plane:
    """A x and A^T y of one plane: two axes, groups and channels."""

    def __init__(self, kernel: NDArray[Any], rows: Axis, cols: Axis, block: int | None, lower: bool | None) -> None:
        self._groups, self._outs, self._ins = kernel.shape[:3]
        self._rows, self._cols = rows, cols
        lower = lowers(rows, cols, self._ins, self._outs) if lower is None else lower
        self._down = (_LoweredDown if lower else _ShiftedDown)(kernel, rows, cols, block)
        self._up = _Up(kernel, rows, cols, block)
        self._work = kernel.size * rows.output * cols.output
        self._pool = Pool()

    def _threads(self, bands: int) -> int:
        return min(bands, workers()) if self._work >= THREAD_WORK else 1

    def forward(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Write A x: (C_in, N_1, N_2) into (C_out, M_1, M_2)."""
        down, rows = self._down, self._rows
        out = y.reshape(self._groups, self._outs, *y.shape[1:])

        def band(scratch: Scratch, start: int, stop: int, skip: int) -> None:
            piece = extend_rows(x, rows, rows.place(start, 0), rows.window(stop))
            piece = piece.reshape(self._groups, self._ins, *piece.shape[1:])
            down.rows(scratch, piece, out[:, :, start + skip : stop], skip)

        self._pool.run(band, down.bands, self._threads(len(down.bands)))

    def transpose(self, y: NDArray[Any], x: NDArray[Any]) -> None:
        """Write A^T y: (C_out, M_1, M_2) into (C_in, N_1, N_2)."""
        up, rows, cols = self._up, self._rows, self._cols
        image = y.reshape(self._groups, self._outs, *y.shape[1:])
        border: list[tuple[int, NDArray[Any]]] = []
        first, last = rows.copied(0, rows.padded)
        if last - first < rows.size:  # what a crop leaves out is read by nobody
            x[...] = 0

        def band(scratch: Scratch, start: int, stop: int) -> None:
            above = rows.place(start, 0)
            piece = fold_columns(up.rows(scratch, image, start, stop)[:, : rows.padded - above], cols)
            a, b = rows.copied(above, above + piece.shape[1])
            x[:, a - rows.lo : b - rows.lo] = piece[:, a - above : b - above]
            if rows.mode != "zeros" and (a > above or b < above + piece.shape[1]):
                border.append((above, piece.copy()))

        self._pool.run(band, up.bands, self._threads(len(up.bands)))
        for start, piece in border:  # only now, since these rows are added to those of other bands
            fold_rows(piece, rows, start, x, border_only=True)


def _blocks_of_band(blocks: int, block_bytes: int, work: int) -> int:
    """How many of all blocks are one band: in cache, and with a band for each thread where threads pay."""
    share = -(-blocks // workers()) if work >= THREAD_WORK else blocks
    return max(1, min(BAND_BYTES // block_bytes, share))


class _Down:
    """Bands of A x, from bands of the extended image.

    Attributes
    ----------
    bands : list of (start, stop, skip)
        Ranges of output rows, in whole blocks; the first `skip` rows of a band are those of the band before.
    """

    def __init__(self, rows: Axis, cols: Axis, block: int, block_bytes: int, work: int) -> None:
        self._row_stride, self._cols, self._width = rows.stride, cols, cols.output
        self._block, self._window = block, rows.window(block)
        step = block * _blocks_of_band(rows.output // block, block_bytes, work)
        whole = rows.output // block * block
        self.bands = [(start, min(start + step, whole), 0) for start in range(0, whole, step)]
        if whole < rows.output:
            self.bands.append((rows.output - block, rows.output, block - rows.output + whole))

    def rows(self, scratch: Scratch, piece: NDArray[Any], out: NDArray[Any], skip: int) -> None:
        """Rows of A x, from rows of the image, extended: (G, C_in / G, R, N) into (G, C_out / G, rows, M)."""
        raise NotImplementedError


class _ShiftedDown(_Down):
    """The shifts of the columns stacked in the result of the product, whose shifted sum is the output."""

    def __init__(self, kernel: NDArray[Any], rows: Axis, cols: Axis, block: int | None) -> None:
        groups, outs, ins, row_taps, _ = kernel.shape
        b = min(rows.output, block or shifted_block(cols, outs))
        reads = cols.lattice()  # tap k reads column m + shift of its phase
        self._shifts = sorted({shift for shift, _ in reads})
        self._phases = sorted({phase for _, phase in reads})
        row_bytes = (len(self._shifts) * outs + ins * len(self._phases) * rows.stride) * cols.output * kernel.itemsize
        super().__init__(rows, cols, b, groups * b * row_bytes, kernel.size * rows.output * cols.output)
        matrix = np.zeros(
            (groups, len(self._shifts), outs, b, self._window, ins, len(self._phases)), dtype=kernel.dtype
        )
        for i, j in itertools.product(range(b), range(row_taps)):
            for k, (shift, phase) in enumerate(reads):
                t, p = self._shifts.index(shift), self._phases.index(phase)
                matrix[:, t, :, i, rows.place(i, j), :, p] = kernel[:, :, :, j, k]
        self._toeplitz = matrix.reshape(groups, len(self._shifts) * outs * b, -1)

    def rows(self, scratch: Scratch, piece: NDArray[Any], out: NDArray[Any], skip: int) -> None:
        groups, ins, height, _ = piece.shape
        outs, b, width, phases = out.shape[1], self._block, self._width, len(self._phases)
        blocks = (out.shape[2] + skip) // b
        columns = self._shifts[-1] + width
        plane = piece[:, :, :, None].transpose(0, 2, 1, 3, 4)  # (G, R, C_in / G, phases, N)
        if ins > 1 or self._cols.stride > 1 or self._cols.lo or self._cols.hi:
            plane = scratch.array("plane", (groups, height, ins, phases, columns), piece.dtype)
            for p, phase in enumerate(self._phases):
                read_columns(piece, self._cols, phase, plane[:, :, :, p].transpose(0, 2, 1, 3))
        group, row, _, column, item = plane.strides
        windows = np.lib.stride_tricks.as_strided(
            plane,
            (groups, blocks, self._window * ins * phases, columns),
            (group, row * b * self._row_stride, row if ins * phases == 1 else column, item),
        )
        sums = scratch.array("sums", (groups, blocks, self._toeplitz.shape[1], columns), plane.dtype)
        np.matmul(self._toeplitz[:, None], windows, out=sums)
        sums = sums.reshape(groups, blocks, len(self._shifts), outs, b, columns)
        terms = [
            sums[:, :, t, :, skip:, shift : shift + width].transpose(0, 2, 1, 3, 4)
            for t, shift in enumerate(self._shifts)
        ]
        target = out.reshape(groups, outs, blocks, b - skip, width)
        if len(terms) == 1:
            target[...] = terms[0]
            return
        np.add(terms[0], terms[1], out=target)
        for term in terms[2:]:
            np.add(target, term, out=target)


class _LoweredDown(_Down):
    """The taps of the columns side by side in the image that goes into the product: im2col along the columns alone."""

    def __init__(self, kernel: NDArray[Any], rows: Axis, cols: Axis, block: int | None) -> None:
        groups, outs, ins, row_taps, col_taps = kernel.shape
        b = min(rows.output, block or 1)
        block_bytes = groups * (col_taps * ins * rows.stride + outs) * b * cols.output * kernel.itemsize
        super().__init__(rows, cols, b, block_bytes, kernel.size * rows.output * cols.output)
        matrix = np.zeros((groups, outs, b, self._window, ins, col_taps), dtype=kernel.dtype)
        for j in range(b):
            for k in range(row_taps):
                matrix[:, :, j, rows.place(j, k)] = kernel[:, :, :, k]
        self._toeplitz = matrix.reshape(groups, outs * b, self._window * ins * col_taps)

    def rows(self, scratch: Scratch, piece: NDArray[Any], out: NDArray[Any], skip: int) -> None:
        groups, ins, height, _ = piece.shape
        outs, b, width, taps = out.shape[1], self._block, self._width, self._cols.taps
        blocks = (out.shape[2] + skip) // b
        lowered = scratch.array("lowered", (groups, height, ins, taps, width), piece.dtype)
        for k in range(taps):
            read_columns(piece, self._cols, self._cols.place(0, k), lowered[:, :, :, k].transpose(0, 2, 1, 3))
        group, row, _, column, item = lowered.strides
        windows = np.lib.stride_tricks.as_strided(
            lowered,
            (groups, blocks, self._window * ins * taps, width),
            (group, row * b * self._row_stride, column, item),
        )
        if b == 1:
            np.matmul(self._toeplitz[:, None], windows, out=out.transpose(0, 2, 1, 3))
            return
        if outs == 1 and not skip:
            np.matmul(self._toeplitz[:, None], windows, out=out.reshape(groups, blocks, b, width))
            return
        target = out.reshape(groups, outs, blocks, b - skip, width)
        sums = scratch.array("sums", (groups, blocks, outs * b, width), piece.dtype)
        np.matmul(self._toeplitz[:, None], windows, out=sums)
        target[...] = sums.reshape(groups, blocks, outs, b, width)[:, :, :, skip:].transpose(0, 2, 1, 3, 4)


class _Up:
    """Bands of A^T y on the extended image, from the output rows that reach them.

    Attributes
    ----------
    bands : list of (start, stop)
        Rows [s start, s stop) of the extended image.
    """

    def __init__(self, kernel: NDArray[Any], rows: Axis, cols: Axis, block: int | None) -> None:
        groups, outs, ins, _row_taps, _col_taps = kernel.shape
        self._shape = groups, outs, ins
        self._row_stride, self._col_stride = rows.stride, cols.stride
        self._outputs, self._padded = rows.output, cols.padded
        sends = cols.lattice()  # tap k sends column j - shift of y to column j of its phase
        self._shifts = sorted({shift for shift, _ in sends})
        self._phases = sorted({phase for _, phase in sends})
        total = -(-rows.padded // rows.stride)
        b = min(total, block or 1)
        reach = rows.memory
        self._block, self._reach = b, reach
        matrix = np.zeros(
            (groups, len(self._phases), ins, b, rows.stride, reach + b, outs, len(self._shifts)), dtype=kernel.dtype
        )
        for k, (back, row_phase) in enumerate(rows.lattice()):
            for j, (shift, phase) in enumerate(sends):
                p, t = self._phases.index(phase), self._shifts.index(shift)
                for i in range(b):
                    matrix[:, p, :, i, row_phase, reach - back + i, :, t] = kernel[:, :, :, k, j].transpose(0, 2, 1)
        self._toeplitz = matrix.reshape(groups, -1, (reach + b) * outs * len(self._shifts))

        block_bytes = (
            groups * (ins * rows.stride * cols.stride + outs * len(self._shifts)) * b * cols.output * kernel.itemsize
        )
        step = b * _blocks_of_band(total // b, block_bytes, kernel.size * rows.output * cols.output)
        self.bands = [(start, min(start + step, total)) for start in range(0, total, step)]

    def rows(self, scratch: Scratch, y: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        """The rows [s start, s stop) of A^T y on the extended image: (G, C_out / G, M_1, M_2) -> (C_in, rows, P)."""
        groups, outs, ins = self._shape
        b, s, width, shifts = self._block, self._col_stride, y.shape[3], len(self._shifts)
        blocks = -(-(stop - start) // b)
        first, last = start - self._reach, start + blocks * b
        a, z = max(first, 0), min(last, self._outputs)
        columns = -(-self._padded // s)
        lowered = scratch.array("lowered", (groups, last - first, outs, shifts, columns), y.dtype)
        lowered[:, : a - first] = 0
        lowered[:, max(z, a) - first :] = 0
        if a < z:
            rows = y[:, :, a:z].transpose(0, 2, 1, 3)
            for t, shift in enumerate(self._shifts):
                part = lowered[:, a - first : z - first, :, t]
                part[..., :shift] = 0
                part[..., shift : shift + width] = rows
                part[..., shift + width :] = 0
        group, row, _, column, item = lowered.strides
        windows = np.lib.stride_tricks.as_strided(
            lowered, (groups, blocks, (self._reach + b) * outs * shifts, columns), (group, row * b, column, item)
        )
        height = b * self._row_stride
        sums = scratch.array("sums", (groups, blocks, len(self._phases), ins, height, columns), y.dtype)
        flat = sums.reshape(groups, blocks, -1, columns)
        np.matmul(self._toeplitz[:, None], windows, out=flat)
        if s == 1 and (blocks == 1 or ins == 1):
            return sums.reshape(groups * ins, blocks * height, columns)
        sent = scratch.array("sent", (groups, ins, blocks, height, self._padded), y.dtype)
        if len(self._phases) < s:
            sent[...] = 0
        for p, phase in enumerate(self._phases):
            part = sent[..., phase::s]
            part[...] = sums[:, :, p, :, :, : part.shape[-1]].transpose(0, 2, 1, 3, 4)
        return sent.reshape(groups * ins, blocks * height, self._padded)
