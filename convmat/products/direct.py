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
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.threads import Pool, Scratch, workers
from convmat.taps import ZERO, Axis, Index

if TYPE_CHECKING:
    from convmat.products.compiled import Tables

TILE_BYTES = 2**17
"""Work memory for the lines that a few result lines read: they should stay in the caches of a core."""

NARROW = 64
"""Samples of a line that are not cut any further."""

THREAD_WORK = 2**22
"""Multiplications below which a second thread does not pay."""

LINES = 64
"""Result lines of a piece of work, at most."""

PATIENCE = 2.0
"""Seconds of compiling after which somebody at a terminal is told about it."""


def installed() -> bool:
    """Whether numba is there; it takes a tenth of a second to import, and is not imported to find out."""
    return importlib.util.find_spec("numba") is not None


def _kernel(dtype: np.dtype[Any]) -> Any:
    """The compiled kernel for float32 or float64."""
    with _notice(f"convmat: compiling the direct product for {dtype}, once on this machine"):
        from convmat.products import compiled

        return compiled.correlate(dtype)


@contextmanager
def _notice(text: str) -> Iterator[None]:
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
        groups, outs = geometry.groups, geometry.out_channels // geometry.groups
        kernel = kernel.reshape(groups, outs, kernel.shape[1], -1, geometry.kernel_size[-1])
        self._shapes = (geometry.in_channels, *geometry.input_size), (geometry.out_channels, *geometry.output_size)
        *outer, last = geometry.axes
        reads = _Reads.down(outer)
        work = kernel.size * reads.results * last.output
        self._down = _Correlation(kernel, reads, down(last), work)
        self._up = _Correlation(kernel.swapaxes(1, 2), _Reads.up(outer), up(last), work)

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        return self._down.of(x, np.empty((len(x), *self._shapes[1]), dtype=x.dtype))

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        make = np.empty if self._up.writes_all else np.zeros
        return self._up.of(y, make((len(y), *self._shapes[0]), dtype=y.dtype))


def _as_real(kernel: NDArray[Any]) -> NDArray[Any]:
    """A complex kernel as a real one, of real and imaginary channels in turn: (G, 2 C_out, 2 C_in, ...)."""
    groups, outs, ins, *taps = kernel.shape
    real = np.empty((groups, outs, 2, ins, 2, *taps), dtype=kernel.real.dtype)
    real[:, :, 0, :, 0] = real[:, :, 1, :, 1] = kernel.real
    real[:, :, 0, :, 1], real[:, :, 1, :, 0] = -kernel.imag, kernel.imag
    return real.reshape(groups, 2 * outs, 2 * ins, *taps)


@dataclass(frozen=True)
class _Reads:
    """Which lines of the source each line of the result reads, and through which tap: see `Tables`."""

    sources: int
    results: int
    first: Index
    source: Index
    tap: Index

    @classmethod
    def down(cls, axes: Sequence[Axis]) -> _Reads:
        """For each output line the input lines that it reads."""
        lines = _lines(axes)
        output, tap = np.nonzero(lines != ZERO)
        return cls(
            math.prod(axis.size for axis in axes), len(lines), _starts(output, len(lines)), lines[output, tap], tap
        )

    @classmethod
    def up(cls, axes: Sequence[Axis]) -> _Reads:
        """For each input line the output lines that read it."""
        lines, count = _lines(axes), math.prod(axis.size for axis in axes)
        output, tap = np.nonzero(lines != ZERO)
        read = lines[output, tap]
        order = np.argsort(read, kind="stable")
        return cls(len(lines), count, _starts(read, count), output[order], tap[order])


def _lines(axes: Sequence[Axis]) -> Index:
    """The table of all axes but the last: the input line that each output line reads through each tap. (lines, taps)"""
    lines = np.zeros((1, 1), dtype=np.int64)
    for axis in axes:
        left, right = lines[:, None, :, None], axis.table()[None, :, None, :]
        joint = np.where((left == ZERO) | (right == ZERO), ZERO, left * axis.size + right)
        lines = joint.reshape(lines.shape[0] * axis.output, lines.shape[1] * axis.taps)
    return lines


def _starts(owner: Index, count: int) -> Index:
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))])


@dataclass(frozen=True)
class Line:
    """What one direction does along the last axis.

    Attributes
    ----------
    source, result
        Samples of a line.
    read
        The axis along which a source line is extended and split into the phases of its stride.
    phases
        Those that are read.
    places
        For each phase of a result line its taps, and for each of them the phase of the source and the place.
    positions
        The positions [p, q) of a result line that are samples in a row, and the first of them.
    border
        The ranges of positions [p, q) that are added to samples, and to which.
    """

    source: int
    result: int
    read: Axis
    phases: list[int]
    places: list[list[tuple[int, int, int]]]
    positions: tuple[int, int, int]
    border: list[tuple[int, int, Index]]

    @property
    def extent(self) -> int:
        """Positions of a result line, with its border."""
        return max(self.result, self.positions[1], *(q for _, q, _ in self.border))

    @property
    def reach(self) -> int:
        """Places that a result reads beyond its own."""
        return max(place for phase in self.places for _, _, place in phase)


def down(axis: Axis) -> Line:
    """What A x does along the last axis."""
    lattice = axis.lattice()
    phases = sorted({phase for _, phase in lattice})
    places = [(k, phases.index(phase), shift) for k, (shift, phase) in enumerate(lattice)]
    return Line(axis.size, axis.output, axis, phases, [places], (0, axis.output, 0), [])


def up(axis: Axis) -> Line:
    """What A^T y does along the last axis."""
    places: list[list[tuple[int, int, int]]] = [[] for _ in range(axis.stride)]
    for k, (shift, phase) in enumerate(axis.lattice()):
        places[phase].append((k, 0, axis.memory - shift))
    first, last = axis.copied(0, axis.padded)
    borders = [] if axis.sends_nothing_back else [(0, first), (last, axis.padded)]
    border = [(p, q, axis.extension(p, q)) for p, q in borders if p < q]
    before = Axis(axis.output, 1, lo=axis.memory)
    return Line(axis.output, axis.size, before, [0], places, (first, last, first - axis.lo), border)


class _Correlation:
    """One direction: a plan for the compiled kernel, and its work memory."""

    def __init__(self, kernel: NDArray[Any], reads: _Reads, line: Line, work: int) -> None:
        from convmat.products import compiled, strips

        parts = 2 if kernel.dtype.kind == "c" else 1
        kernel = _as_real(kernel) if parts == 2 else kernel
        groups, results, sources, _, _ = kernel.shape
        self.writes_all = line.positions[1] - line.positions[0] == line.result
        self._dtype, self._work = kernel.dtype, work
        self._function = _kernel(kernel.dtype)

        most = int(np.diff(reads.first).max())
        width = _width(line, sources, most, kernel.itemsize)
        cuts, segments, borders, folded = _cuts(line, width)
        lanes = strips.lanes(kernel.itemsize)
        row = max((-(-(b - a) // lanes) * lanes for a, b, *_ in segments), default=0)
        phase = row + line.reach
        channel = phase * len(line.phases)
        line_bytes = max(1, sources * channel * kernel.itemsize)
        lines = max(1, most, min(reads.sources, TILE_BYTES // line_bytes))
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
            phases_in=len(line.phases),
            phases_out=len(line.places),
            reach=line.reach,
            parts=parts,
            row=row,
        )
        channels = blocks(results, tuple(strips.held()))
        self._weights, panel = _panels(kernel, line, channels)
        read, copied = _read(line)
        self._tables: Tables = compiled.Tables(
            first=_table(reads.first),
            source=_table(reads.source),
            tap=_table(reads.tap),
            read=_table(read),
            copied=_table(copied),
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
        self._height = min(LINES, -(-reads.results // (4 * workers())) if work >= THREAD_WORK else reads.results)
        self._pieces = groups * -(-reads.results // self._height) * len(cuts)
        self._memory = (
            (lines * sources * channel, kernel.dtype),
            (strips.MOST * len(line.places) * row, kernel.dtype),
            (reads.sources, np.dtype(np.int64)),
            (2 * self._height * most, np.dtype(np.int64)),
        )
        self._idle: list[tuple[NDArray[Any], ...]] = []
        self._pool = Pool()

    def of(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        """The images y, written, of the images x."""
        x = x if x.flags.aligned else x.copy()
        flat_x, flat_y = x.reshape(-1).view(self._dtype), y.reshape(-1).view(self._dtype)

        def some(_: Scratch | None, start: int, stop: int) -> None:
            try:
                memory = self._idle.pop()
            except IndexError:
                memory = tuple(np.empty(*array) for array in self._memory)
            self._function(flat_x, flat_y, self._weights, self._sizes, self._tables, *memory, self._height, start, stop)
            self._idle.append(memory)

        count = self._pieces * len(x)
        threads = min(workers(), count) if self._work * len(x) >= THREAD_WORK else 1
        if threads == 1:
            some(None, 0, count)
            return y
        step = -(-count // (4 * threads))
        self._pool.run(some, [(start, min(start + step, count)) for start in range(0, count, step)], threads)
        return y


def _table(values: Any) -> Index:
    return np.array(values, dtype=np.int64, order="C")


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
    """Samples of a result line that are computed at a time: as many as leave room for their source lines."""
    phases = len(line.phases)
    room = TILE_BYTES // (itemsize * sources * max(entries, 1) * phases) - line.reach
    return max(NARROW, room * len(line.places))


def _cuts(line: Line, width: int) -> tuple[list[Any], list[Any], list[Any], Index]:
    """The cuts of a result line, their segments, and where the border goes: see `Tables`.

    A line that is not cut has one segment, with its border. The pieces of others compute the parts of the border that
    they need beside their own, for themselves.
    """
    cuts: list[tuple[int, ...]] = []
    segments: list[tuple[int, ...]] = []
    borders: list[tuple[int, ...]] = []
    stride, (first, last, sample) = len(line.places), line.positions
    folded = np.concatenate([np.zeros(0, dtype=np.int64), *(to for _, _, to in line.border)])
    whole = width >= line.extent
    width = line.result if whole else width
    for a in range(0, line.result, width):
        b, begin = min(a + width, line.result), len(segments)
        p, q = max(first, first + a - sample), min(last, first + b - sample)
        if p < q and not whole:
            segments.append((p // stride, -(-q // stride), p, q, sample - first, 0, 0))
        at = 0
        for start, stop, to in line.border:
            for low in range(start, stop, width):
                high = min(low + width, stop)
                part = to[low - start : high - start]
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


def _read(line: Line) -> tuple[Index, list[tuple[int, int, int, int]]]:
    """`Tables.read` and `Tables.copied`."""
    count = -(-line.extent // len(line.places)) + line.reach
    outside, copied = [], []
    for phase in line.phases:
        a, b, sample = line.read.strided_copied(phase, count)
        copied.append((a, b, sample, line.read.stride))
        outside.append(np.concatenate([line.read.strided(phase, 0, a), line.read.strided(phase, b, count)]))
    read = np.full((len(outside), max(map(len, outside))), ZERO, dtype=np.int64)
    for row, samples in zip(read, outside, strict=True):
        row[: len(samples)] = samples
    return read, copied


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
