"""The sum over taps as it is defined, compiled: the method for small kernels, where numpy has a pass for each tap.

A is a sum over the taps of all axes but the last: it takes line `table[m, k]` of the input to line m of the output, by
a correlation along the last axis. A^T takes the same lines the other way round: line n is the sum over every (m, k)
with `table[m, k]` = n, so that what reflects or wraps comes back by itself, and no two threads write a line. Along the
last axis, the phases of a stride are read apart, or in A^T computed apart, each a correlation of stride one with its
own taps; there the border is added to what it copies.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.lines import Line, Reads, down, joined, up
from convmat.products.threads import Pool, Scratch, workers
from convmat.taps import ZERO, Axis, Index, without_idle

if TYPE_CHECKING:
    from convmat.products.compiled import Tables

TILE_BYTES = 2**17
"""Work memory for the lines that a few result lines read: they should stay in the caches of a core."""

CUT_BYTES = 2**19
"""The same for a part of one result line, if it has to be cut."""

NARROW = 64
"""Samples of a line that are not cut any further."""

THREAD_WORK = 2**27
"""Bytes that strips read, by `_work`, below which a second thread does not pay: about a millisecond."""

LINES = 64
"""Result lines of a piece of work, at most."""

SHORT, JOINED_BYTES = 128, 2**19
"""Bytes of a line that is joined with others, if all of them take no more than so many."""

PATIENCE = 2.0
"""Seconds of compiling after which somebody at a terminal is told about it."""


@cache
def installed() -> bool:
    """Whether numba is there; it takes a tenth of a second to import, and is not imported to find out."""
    return importlib.util.find_spec("numba") is not None


def _kernel(dtype: np.dtype[Any]) -> Any:
    """The compiled kernel for float32 or float64."""
    with notice(f"convmat: compiling the direct product for {dtype}, once on this machine"):
        from convmat.products import compiled

        return compiled.correlate(dtype)


@contextmanager
def notice(text: str) -> Iterator[None]:
    """Say what takes so long, if that is more than `PATIENCE` and somebody is there to read it."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(PATIENCE, print, (text,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Direct:
    """A x and A^T y for every geometry, compiled by numba."""

    def __init__(self, geometry: Geometry, weight: NDArray[Any]) -> None:
        kernel = geometry.kernel(weight)
        kernel = kernel.reshape(geometry.groups, -1, *kernel.shape[1:])
        self._geometry, self._weight = geometry, kernel

    @staticmethod
    def work_bytes(geometry: Geometry, itemsize: int) -> float:
        """Bytes kept besides the image and the result, about."""
        lines = math.prod(geometry.output_size[:-1]) * math.prod(geometry.kernel_size[:-1])
        return workers() * TILE_BYTES + 32.0 * lines

    @cached_property
    def _down(self) -> _Correlation:
        axes, line = layout(self._geometry, False, self._weight.real.itemsize)
        return _Correlation(self._weight, Reads.down(axes), line)

    @cached_property
    def _up(self) -> _Correlation:
        axes, line = layout(self._geometry, True, self._weight.real.itemsize)
        return _Correlation(self._weight.swapaxes(1, 2), Reads.up(axes), line)

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        return self._down.of(x, (self._geometry.out_channels, *self._geometry.output_size))

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        return self._up.of(y, (self._geometry.in_channels, *self._geometry.input_size))


def layout(geometry: Geometry, transpose: bool, itemsize: int) -> tuple[list[Axis], Line]:
    """What one direction does along its lines, and the axes that say which lines it reads.

    Axes that nothing happens to are one line of all their samples, and where lines are shorter than a vector, several
    axes are `joined`.
    """
    along = up if transpose else down
    if geometry.part is not None:  # as in the whole: the order of a sum depends on it
        idle, lines = _joins(geometry.whole, transpose, itemsize)
        axes = list(geometry.axes[: geometry.ndim - idle])
        if idle:
            axes[-1] = Axis(math.prod(axis.size for axis in geometry.axes[len(axes) - 1 :]), 1)
        line = along(axes.pop())
        for _ in range(lines):
            line = joined(along(axes.pop()), line)
        return axes, line
    axes = without_idle(geometry.axes)
    line = along(axes.pop())
    channels = (geometry.out_channels if transpose else geometry.in_channels) // geometry.groups
    while axes and line.count * itemsize <= SHORT:
        rows = along(axes[-1])
        places = (rows.count + rows.reach) * (line.count + line.reach) * len(rows.copied) * len(line.copied)
        if channels * places * itemsize > JOINED_BYTES:
            break
        line = joined(rows, line)
        axes.pop()
    return axes, line


def _joins(geometry: Geometry, transpose: bool, itemsize: int) -> tuple[int, int]:
    """How many axes at the end are one with the axis before them, because nothing happens to them, or as one line."""
    left = len(without_idle(geometry.axes))
    return geometry.ndim - left, left - 1 - len(layout(geometry, transpose, itemsize)[0])


def _as_real(kernel: NDArray[Any]) -> NDArray[Any]:
    """A complex kernel as a real one, of real and imaginary channels in turn: (G, 2 C_out, 2 C_in, ...)."""
    groups, outs, ins, *taps = kernel.shape
    real = np.empty((groups, outs, 2, ins, 2, *taps), dtype=kernel.real.dtype)
    real[:, :, 0, :, 0] = real[:, :, 1, :, 1] = kernel.real
    real[:, :, 0, :, 1], real[:, :, 1, :, 0] = -kernel.imag, kernel.imag
    return real.reshape(groups, 2 * outs, 2 * ins, *taps)


class _Correlation:
    """One direction: a plan for the compiled kernel, and its work memory."""

    def __init__(self, kernel: NDArray[Any], reads: Reads, line: Line) -> None:
        from convmat.products import compiled, strips

        parts = 2 if kernel.dtype.kind == "c" else 1
        # (G, results, sources, lines' taps, a line's taps)
        kernel = _as_real(kernel) if parts == 2 else kernel
        kernel = kernel.reshape(*kernel.shape[:3], -1, line.taps)
        groups, results, sources, _, _ = kernel.shape
        self._make = np.empty if line.positions[1] - line.positions[0] == line.result else np.zeros
        self._dtype = kernel.dtype
        self._function = _kernel(kernel.dtype)

        most = int(np.diff(reads.first).max())
        width = _width(line, sources, most, kernel.itemsize)
        cuts, segments, borders, folded = _cuts(line, width)
        lanes = strips.lanes(kernel.itemsize)
        row = max((-(-(b - a) // lanes) * lanes for a, b, *_ in segments), default=0)
        phase = row + line.reach
        channel = phase * len(line.copied)
        line_bytes = max(1, sources * channel * kernel.itemsize)
        lines = max(1, min(reads.sources, max(most, TILE_BYTES // line_bytes)))
        channels = blocks(results, tuple(strips.held()))
        outside = _rows([line.outside(phase) for phase in range(len(line.copied))])
        self._sizes = compiled.Sizes(
            groups=groups,
            sources=sources,
            results=results,
            lines_in=reads.sources,
            lines_out=reads.results,
            samples_in=line.source,
            samples_out=line.result,
            phase=phase,
            channel=channel,
            line=sources * channel,
            lines=lines,
            phases_in=len(line.copied),
            phases_out=len(line.places),
            reach=line.reach,
            parts=parts,
            row=row,
            outside=outside.shape[1],
            blocks=len(channels),
        )
        self._weights, panel = _panels(kernel, line, channels)
        self._tables: Tables = compiled.Tables(
            first=_table(reads.first),
            source=_table(reads.source),
            tap=_table(reads.tap),
            read=outside,
            copied=_table(line.copied),
            taps=_table(np.cumsum([0, *(sources * len(taps) for taps in line.places)])),
            offset=_offsets(line, sources, channel, phase),
            offset_in_place=_offsets(line, sources, reads.sources * line.source, 0),
            panel=_table(panel),
            blocks=_table(channels),
            cuts=_table(cuts),
            segments=_table(segments).reshape(-1, 7),
            borders=_table(borders).reshape(-1, 3),
            folded=_table(folded),
        )
        self._work = _work(groups * sources * len(reads.source) * line.taps * row * kernel.itemsize, channels)
        wanted = 4 * workers() if self._work >= THREAD_WORK else 1
        self._height = min(LINES, -(-reads.results // wanted))
        pieces = groups * -(-reads.results // self._height) * len(cuts)
        self._share = max(1, len(channels) * pieces // wanted)
        self._pieces = pieces * -(-len(channels) // self._share)
        self._memory = (
            ("samples", (lines * sources * channel + strips.MOST * len(line.places) * row,), kernel.dtype),
            ("places", (reads.sources + 2 * self._height * most,), np.dtype(np.int64)),
        )
        self._pool = Pool()

    def of(self, x: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The images of that shape that the images x become."""
        x, y = x if x.flags.aligned else x.copy(), self._make((len(x), *shape), dtype=x.dtype)
        flat_x, flat_y = x.reshape(-1).view(self._dtype), y.reshape(-1).view(self._dtype)

        def some(scratch: Scratch, start: int, stop: int) -> None:
            memory = (scratch.array(*wanted) for wanted in self._memory)
            size = self._height, self._share
            self._function(flat_x, flat_y, self._weights, self._sizes, self._tables, *memory, *size, start, stop)

        count = self._pieces * len(x)
        threads = min(workers(), count) if self._work * len(x) >= THREAD_WORK else 1
        if threads == 1:
            self._pool.alone(some, 0, count)
            return y
        step = -(-count // (4 * threads))
        self._pool.run(some, [(start, min(start + step, count)) for start in range(0, count, step)], threads)
        return y


def _work(read: int, channels: list[tuple[int, int, int]]) -> int:
    """Bytes that are read, once for each block of channels, and as much again for each four that they are added to."""
    return sum(read + read * computed // 4 for *_, computed in channels)


def _table(values: Any) -> Index:
    return np.array(values, dtype=np.int64, order="C")


def _rows(tables: list[Index]) -> Index:
    """Tables of different lengths as the rows of one."""
    rows = np.full((len(tables), max(map(len, tables))), ZERO, dtype=np.int64)
    for row, table in zip(rows, tables, strict=True):
        row[: len(table)] = table
    return rows


def _offsets(line: Line, sources: int, channel: int, phase: int) -> Index:
    """Where the samples are that a result reads, for each phase of the results, source channel and tap of the phase."""
    return _table(
        [
            c * channel + number * phase + place
            for taps in line.places
            for c in range(sources)
            for _, number, place in taps
        ]
    )


def _width(line: Line, sources: int, entries: int, itemsize: int) -> int:
    """Samples of a result line that are computed at a time: all, or a part whose source lines take `CUT_BYTES`."""
    room = CUT_BYTES // (itemsize * sources * max(entries, 1) * len(line.copied)) - line.reach
    most = max(NARROW, room * len(line.places))
    return -(-line.extent // -(-line.extent // most)) if line.extent > most and line.positions[1] else line.extent


def _cuts(line: Line, width: int) -> tuple[list[Any], list[Any], list[Any], Index]:
    """The cuts of a result line, their segments, and where the border goes: see `Tables`.

    A line that is not cut has one segment, with its border. The pieces of others compute the parts of the border that
    they need beside their own, for themselves.
    """
    cuts: list[tuple[int, ...]] = []
    segments: list[tuple[int, ...]] = []
    borders: list[tuple[int, ...]] = []
    stride, (first, last, sample) = len(line.places), line.positions
    folded = np.concatenate([np.zeros(0, dtype=np.int64), *(line.folded(p, q) for p, q in line.border)])
    whole = width >= line.extent
    width = line.result if whole else width
    for a in range(0, line.result, width):
        b, begin = min(a + width, line.result), len(segments)
        p, q = max(first, first + a - sample), min(last, first + b - sample)
        if p < q and not whole:
            segments.append((p // stride, -(-q // stride), p, q, sample - first, 0, 0))
        at = 0
        for start, stop in line.border:
            for low in range(start, stop, width):
                high = min(low + width, stop)
                part = folded[at + low - start : at + high - start]
                if ((a <= part) & (part < b)).any():
                    borders.append((low, high, at - start))
                    if not whole:
                        segments.append((low // stride, -(-high // stride), 0, 0, 0, len(borders) - 1, len(borders)))
            at += stop - start
        if whole:
            ranges = [(low, high) for low, high in [(p, q), *(border[:2] for border in borders)] if low < high]
            low, high = min((r[0] for r in ranges), default=0), max((r[1] for r in ranges), default=0)
            if low < high:
                segments.append((low // stride, -(-high // stride), p, max(p, q), sample - first, 0, len(borders)))
        cuts.append((a, b, begin, len(segments)))
    return cuts, segments, borders, folded


def blocks(results: int, sizes: Collection[int] = (1, 2, 4, 8)) -> list[tuple[int, int, int]]:
    """The result channels in blocks that the registers hold: the first, how many, and how many are computed."""
    found, start = [], 0
    while start < results:
        left = results - start
        above = [size for size in sizes if left <= size < 1.5 * left]
        size = min(above) if above else max(size for size in sizes if size <= left)
        found.append((start, min(size, left), size))
        start += min(size, left)
    return found


def _panels(kernel: NDArray[Any], line: Line, channels: list[tuple[int, int, int]]) -> tuple[NDArray[Any], Index]:
    """The weights in the order in which they are read, and where each panel begins: see `Tables.panel`."""
    groups, _, sources, lines, _ = kernel.shape
    panels, begin = [], np.empty((groups, len(line.places), len(channels)), dtype=np.int64)
    at = 0
    for q, taps in enumerate(line.places):
        chosen = kernel[..., [k for k, _, _ in taps]]
        for b, (first, wanted, computed) in enumerate(channels):
            panel = np.zeros((groups, lines, sources, len(taps), computed), dtype=kernel.dtype)
            panel[..., :wanted] = chosen[:, first : first + wanted].transpose(0, 3, 2, 4, 1)
            panels.append(panel.reshape(-1))
            begin[:, q, b] = at + np.arange(groups) * (panel.size // groups)
            at += panel.size
    return np.concatenate(panels), begin
