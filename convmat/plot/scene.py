"""What a picture of convolution arithmetic shows: grids of cells, and the cells that one output reads. Numpy alone.

A convolution slides its kernel over the extended input. Its transpose slides the flipped kernel, with stride 1, over
its input with zeros between and around the samples; where the padding mode copies samples, several places of the
extended output are added up to one sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.plot.pattern import Layer
from convmat.taps import ZERO, Axis, Index, joint_reads

SAMPLE, COPY, HOLE, BORDER, CROPPED = range(5)
"""What a cell is: a sample, a copy of one or a sum of several, a zero between samples, a zero around them, or never
reached."""

COMBINED = -2
"""Stands for the sample of a cell that is a weighted sum of several."""

MOST_CELLS = 48
"""Cells of the longest side that is drawn."""


@dataclass(frozen=True)
class Grid:
    """Cells in two dimensions: the number of the sample in each, or `ZERO`, or `COMBINED`, and what it is."""

    samples: Index
    kinds: Index

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.samples.shape
        return rows, columns


@dataclass(frozen=True)
class Step:
    """One output: cells of the input grid that it reads, through which tap, which sample, and its own cells."""

    row: int
    """Row of the matrix."""
    place: tuple[int, ...]
    """The output within its channel."""
    cells: Index  # (R, 2)
    taps: Index  # (R,)
    samples: Index  # (R,), ZERO where a zero is read, COMBINED where a sum of samples is
    columns: Index  # columns of the matrix, one for each read of a sample
    targets: Index  # (T, 2), cells of the output grid, the sample itself first

    def by_cell(self) -> dict[tuple[int, int], list[int]]:
        """The taps that read each cell."""
        found: dict[tuple[int, int], list[int]] = {}
        for (row, column), tap in zip(self.cells.tolist(), self.taps.tolist(), strict=True):
            found.setdefault((row, column), []).append(tap)
        return {cell: sorted(taps) for cell, taps in found.items()}


@dataclass(frozen=True)
class _Line:
    """One axis: the first position of each grid, the cells, and which positions of the extended input are drawn."""

    axis: Axis
    transposed: bool

    @property
    def extended(self) -> tuple[int, int]:
        """The positions [start, stop), counted from the first sample, that stand for a sample of the long side."""
        a, n = self.axis, self.axis.size
        copies = not (self.transposed and a.mode == "zeros")  # the transpose of zero padding drops the border
        return (min(0, -a.lo), max(n, n + a.hi)) if copies else (0, n)

    @property
    def reached(self) -> tuple[int, int]:
        """The positions [start, stop) of the zero-filled input that the flipped kernel reaches."""
        start, stop = self.extended
        return start + self.axis.lo - (self.axis.span - 1), stop + self.axis.lo

    @property
    def filled(self) -> int:
        """Size of the input of the transpose with zeros between its samples."""
        return self.axis.stride * (self.axis.output - 1) + 1

    @property
    def cells(self) -> int:
        """Cells along the axis, of the larger of the two grids."""
        first, last = self.extended
        other = max(self.filled, self.reached[1]) - self.start if self.transposed else self.axis.output
        return max(last - first, other)

    @property
    def start(self) -> int:
        """Position of the first cell of the input grid."""
        return min(0, self.reached[0]) if self.transposed else self.extended[0]

    def long_side(self) -> tuple[Index, Index]:
        """Samples and kinds of the extended input, or of the extended output of the transpose."""
        a, (start, stop) = self.axis, self.extended
        place = np.arange(start, stop)
        sources, weights = a.sources(place)
        single = ((sources != ZERO).sum(axis=-1) <= 1) & (weights <= 1).all(axis=-1)
        samples = np.where(single, sources.max(axis=-1), COMBINED)
        kinds = np.where(samples == ZERO, BORDER, np.where(samples == place, SAMPLE, COPY))
        kept = (place >= -a.lo) & (place < a.size + a.hi)
        return samples, kinds if self.transposed else np.where(kept, kinds, CROPPED)

    def zero_filled(self) -> tuple[Index, Index]:
        """Samples and kinds of the input of the transpose, with zeros between its samples and around them."""
        a, (first, last) = self.axis, self.reached
        place = np.arange(self.start, max(self.filled, last))
        within = (place >= 0) & (place < self.filled)
        samples = np.where(within & (place % a.stride == 0), place // a.stride, ZERO)
        kinds = np.where(samples != ZERO, SAMPLE, np.where(within, HOLE, BORDER))
        return samples, np.where((place >= first) & (place < last), kinds, CROPPED)

    def short_side(self) -> tuple[Index, Index]:
        """Samples and kinds of the output of the convolution."""
        return np.arange(self.axis.output), np.full(self.axis.output, SAMPLE)

    def targets(self, output: int) -> Index:
        """The cells of the output grid that show an output, its own first."""
        if not self.transposed:
            return np.array([output])
        start, stop = self.extended
        place = np.arange(start, stop)
        inside = (place >= -self.axis.lo) & (place < self.axis.size + self.axis.hi)
        copies = (self.axis.sources(place)[0] == output).any(axis=-1) & inside
        return np.append(output, place[copies & (place != output)]) - start

    def read(self, output: int) -> Index:
        """The cells of the input grid that the taps k = 0, 1, .. read, for each target. (T, K)"""
        if not self.transposed:
            return self.axis.reach(np.array([output])) - self.start
        place = self.targets(output)[:, None] + self.extended[0] + self.axis.lo
        return place - self.axis.dilation * np.arange(self.axis.taps) - self.start


@dataclass(frozen=True)
class Scene:
    """The grids of one input and one output channel of an operator, and what each output reads."""

    layer: Layer
    channels: tuple[int, int]
    """Output and input channel."""
    input: Grid
    output: Grid
    weights: NDArray[Any]  # (K_1, K_2) by number of the tap
    kernel: Index  # (K_1, K_2), the number of the tap in each place of the kernel as it slides
    lines: tuple[_Line, _Line]

    @classmethod
    def of(cls, A: Any, channels: tuple[int, int] | None = None) -> Scene:
        """The scene of a one- or two-dimensional operator.

        Raises
        ------
        TypeError
            If A is not a convolution, a factor or a transpose of one, or the channels are not two integers.
        ValueError
            If A has three axes, is too large to be drawn, or the channels are not both of one group.
        """
        layer = Layer.of(A)
        geometry = layer.geometry
        if geometry.ndim > 2:
            raise ValueError(f"A has {geometry.ndim} spatial axes: its arithmetic can be drawn for 1 or 2")
        out, inside = _channels(layer, channels)
        axes = (Axis(1, 1), *geometry.axes)[-2:]
        lines = (_Line(axes[0], layer.transposed), _Line(axes[1], layer.transposed))
        largest = max(line.cells for line in lines)
        if largest > MOST_CELLS:
            raise ValueError(
                f"A has a grid of {largest} cells, with its padding: at most {MOST_CELLS} can be drawn; its arithmetic "
                f"is the same on a smaller input"
            )
        long, short = _grid([line.long_side() for line in lines]), _grid([line.short_side() for line in lines])
        grids = (_grid([line.zero_filled() for line in lines]), long) if layer.transposed else (long, short)
        o, c = (inside, out) if layer.transposed else (out, inside)
        kernel = geometry.kernel(layer.weight)[o, c % (geometry.in_channels // geometry.groups)]
        taps = layer.taps().reshape(axes[0].taps, axes[1].taps)
        weights = (np.flip(kernel) if geometry.flip else kernel).reshape(taps.shape)
        return cls(layer, (out, inside), *grids, weights, np.flip(taps) if layer.transposed else taps, lines)

    @property
    def flipped(self) -> bool:
        """Whether the kernel slides in the other order than that of the weight."""
        return self.layer.transposed != self.layer.geometry.flip

    @property
    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Spatial size of what goes in, and of what comes out."""
        geometry = self.layer.geometry
        pair = geometry.input_size, geometry.output_size
        return pair[::-1] if self.layer.transposed else pair

    def places(self) -> list[tuple[int, ...]]:
        """Every output of the channel, in the order of the rows of the matrix."""
        return list(np.ndindex(*self.sizes[1]))

    def step(self, output: int | Sequence[int]) -> Step:
        """What one output reads.

        Raises
        ------
        TypeError, ValueError
            If there is no such output.
        """
        ins, outs = self.sizes
        place = _place(output, outs)
        padded = (0, *place)[-2:]
        rows, columns = (line.read(m) for line, m in zip(self.lines, padded, strict=True))  # (T_1, K_1), (T_2, K_2)
        shape = (len(rows), len(columns), rows.shape[1], columns.shape[1])
        cells = np.stack(
            [np.broadcast_to(rows[:, None, :, None], shape), np.broadcast_to(columns[None, :, None, :], shape)], axis=-1
        ).reshape(-1, 2)
        numbers = self.kernel[::-1, ::-1] if self.layer.transposed else self.kernel
        samples = self.input.samples[cells[:, 0], cells[:, 1]]
        first, second = (line.targets(m) for line, m in zip(self.lines, padded, strict=True))
        return Step(
            row=self.channels[0] * math.prod(outs) + int(np.ravel_multi_index(place, outs)),
            place=place,
            cells=cells,
            taps=np.broadcast_to(numbers, shape).reshape(-1),
            samples=samples,
            columns=self.channels[1] * math.prod(ins) + self._samples_read(padded, samples),
            targets=np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1).reshape(-1, 2),
        )

    def _samples_read(self, output: tuple[int, ...], samples: Index) -> Index:
        """The samples that an output reads, those of each cell one after the other where it is a sum."""
        if (samples != COMBINED).all():
            return np.asarray(samples[samples != ZERO])
        axes = [line.axis for line in self.lines]
        alone = [replace(a, lo=a.lo - a.place(m, 0)).ending_at(1) for a, m in zip(axes, output, strict=True)]
        return joint_reads(alone).sample


def _grid(lines: list[tuple[Index, Index]]) -> Grid:
    """The grid whose rows and columns are two lines. A cell is the less of a sample of the two."""
    (i, row_kinds), (j, column_kinds) = lines
    width = int(j.max()) + 1
    least = np.minimum(i[:, None], j)
    samples = np.where(least < 0, least, i[:, None] * width + j)
    samples[(i == ZERO)[:, None] | (j == ZERO)] = ZERO
    return Grid(samples, np.maximum.outer(row_kinds, column_kinds))


def _channels(layer: Layer, asked: tuple[int, int] | None) -> tuple[int, int]:
    """Output and input channel of the operator, in one group."""
    g = layer.geometry
    outs, ins = (g.in_channels, g.out_channels) if layer.transposed else (g.out_channels, g.in_channels)
    if asked is None:
        if outs * ins > 1:
            raise ValueError(f"A has {ins} -> {outs} channels: choose an output and an input channel, channels=(o, c)")
        return 0, 0
    out, inside = _place(asked, (outs, ins), "channels")
    if out // (outs // g.groups) != inside // (ins // g.groups):
        raise ValueError(f"channels={asked!r} are of different groups: no entry of A joins them")
    return out, inside


def _place(place: int | Sequence[int], size: tuple[int, ...], name: str = "output") -> tuple[int, ...]:
    """Integers, one per axis, within the size."""
    numbers = [place] if isinstance(place, int | np.integer) else place
    if not isinstance(numbers, Sequence) or isinstance(numbers, str | bytes):
        raise TypeError(f"{name}={place!r} must be a tuple of integers")
    if any(isinstance(m, bool) or not isinstance(m, int | np.integer) for m in numbers):
        raise TypeError(f"{name}={place!r} must be a tuple of integers")
    if len(numbers) != len(size) or not all(0 <= m < n for m, n in zip(numbers, size, strict=False)):
        bounds = " x ".join(f"0..{n - 1}" for n in size)
        raise ValueError(f"{name}={place!r} must have one entry for each of {len(size)} axes, in {bounds}")
    return tuple(int(m) for m in numbers)
