"""Lines: what the direct product does along the last axis, and which lines it reads.

Whatever is done along the other axes is which source lines a result line is the sum of (`Reads`). Along the last one,
a source line is extended and split into the phases of its stride, each with its samples side by side; a result line has
phases too, each a correlation of stride one (`Line`). Both directions are described by the same tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from convmat.taps import ZERO, Axis, Index, joint_table, paired


@dataclass(frozen=True)
class Reads:
    """Which lines of the source each line of the result reads, and through which tap: see `compiled.Tables`."""

    sources: int
    results: int
    first: Index
    source: Index
    tap: Index

    @classmethod
    def down(cls, axes: Sequence[Axis]) -> Reads:
        """For each output line the input lines that it reads."""
        lines = joint_table(axes)
        output, tap = np.nonzero(lines != ZERO)
        return cls(
            math.prod(axis.size for axis in axes), len(lines), _starts(output, len(lines)), lines[output, tap], tap
        )

    @classmethod
    def up(cls, axes: Sequence[Axis]) -> Reads:
        """For each input line the output lines that read it."""
        lines, count = joint_table(axes), math.prod(axis.size for axis in axes)
        output, tap = np.nonzero(lines != ZERO)
        read = lines[output, tap]
        order = np.argsort(read, kind="stable")
        return cls(len(lines), count, _starts(read, count), output[order], tap[order])


def _starts(owner: Index, count: int) -> Index:
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))])


@dataclass(frozen=True)
class Line:
    """What one direction does along a line.

    Attributes
    ----------
    source, result
        Samples of a line.
    copied
        For each phase of a source line, the places [a, b) that hold samples at equal distance, the first of them, and
        that distance.
    outside
        Gives, for a phase, the samples at its other places, before and after these, or -1 for zeros.
    places
        For each phase of a result line its taps, and for each of them the phase of the source and the place, from that
        of the result.
    positions
        The positions [p, q) of a result line that are samples in a row, and the first of them. Position i P + q is
        result i of phase q, of P.
    border
        The ranges of positions [p, q) that are added to samples.
    folded
        Gives, for the positions [p, q) of a border, these samples, or -1.
    """

    source: int
    result: int
    copied: list[tuple[int, int, int, int]]
    outside: Callable[[int], Index]
    places: list[list[tuple[int, int, int]]]
    positions: tuple[int, int, int]
    border: list[tuple[int, int]]
    folded: Callable[[int, int], Index]

    @property
    def taps(self) -> int:
        """Of the kernel, along the line."""
        return sum(map(len, self.places))

    @property
    def count(self) -> int:
        """Results of a phase, with those of the border."""
        return -(-self.extent // len(self.places))

    @property
    def extent(self) -> int:
        """Positions of a result line, with its border."""
        return max(self.positions[1], *(q for _, q in self.border), 0)

    @property
    def reach(self) -> int:
        """Places that a result reads beyond its own."""
        return max(place for phase in self.places for _, _, place in phase)

    def samples(self, phase: int) -> Index:
        """The sample at every place of a phase of a source line, or -1; as many for each phase."""
        (a, b, sample, step), outside = self.copied[phase], self.outside(phase)
        return np.concatenate([outside[:a], sample + step * np.arange(b - a), outside[a:]])

    def targets(self) -> Index:
        """The sample to which every position of a result line is added, or -1."""
        found = np.full(self.count * len(self.places), ZERO, dtype=np.int64)
        p, q, sample = self.positions
        found[p:q] = np.arange(sample, sample + q - p)
        for p, q in self.border:
            found[p:q] = self.folded(p, q)
        return found


def down(axis: Axis) -> Line:
    """What A x does along an axis."""
    lattice = axis.lattice()
    phases = sorted({phase for _, phase in lattice})
    places = [(k, phases.index(phase), shift) for k, (shift, phase) in enumerate(lattice)]
    copied, outside = _read(axis, phases, axis.output + axis.memory)
    return Line(axis.size, axis.output, copied, outside, [places], (0, axis.output, 0), [], axis.extension)


def up(axis: Axis) -> Line:
    """What A^T y does along an axis: on the extended input, whose border is added to what it copies."""
    places: list[list[tuple[int, int, int]]] = [[] for _ in range(axis.stride)]
    for k, (place, phase) in enumerate(axis.backwards()):
        places[phase].append((k, 0, place))
    first, last = axis.copied(0, axis.padded)
    borders = [] if axis.sends_nothing_back else [(0, first), (last, axis.padded)]
    border = [(p, q) for p, q in borders if p < q]
    copied, outside = _read(axis.outgoing(), [0], -(-axis.padded // axis.stride) + axis.memory)
    positions = first, last, first - axis.lo
    return Line(axis.output, axis.size, copied, outside, places, positions, border, axis.extension)


def _read(axis: Axis, phases: list[int], count: int) -> tuple[list[tuple[int, int, int, int]], Callable[[int], Index]]:
    """`Line.copied` and `Line.outside` of so many places of some phases."""
    found = [axis.strided_copied(phase, count) for phase in phases]

    def outside(number: int) -> Index:
        (a, b, _), phase = found[number], phases[number]
        return np.concatenate([axis.strided(phase, 0, a), axis.strided(phase, b, count)])

    return [(*places, axis.stride) for places in found], outside


def joined(rows: Line, cols: Line) -> Line:
    """Two axes as one line: short lines one after the other, each as long as its results read.

    The results that read across an end are of no position that is a sample.
    """
    width = len(cols.samples(0))
    beyond = np.full(cols.reach, ZERO, dtype=np.int64)
    outside = [
        np.concatenate([paired(row[:, None], col, cols.source).reshape(-1), beyond])
        for row in map(rows.samples, range(len(rows.copied)))
        for col in map(cols.samples, range(len(cols.copied)))
    ]
    places = [
        [(k * cols.taps + j, p * len(cols.copied) + q, i * width + m) for k, p, i in row for j, q, m in col]
        for row in rows.places
        for col in cols.places
    ]
    shape = rows.count, len(rows.places), width, len(cols.places)
    ends = np.full(width * len(cols.places), ZERO, dtype=np.int64)
    ends[: cols.count * len(cols.places)] = cols.targets()
    to = paired(rows.targets()[:, None], ends, cols.result).reshape(shape).swapaxes(1, 2).reshape(-1)
    size = rows.source * cols.source, rows.result * cols.result
    nothing = [(0, 0, 0, 1)] * len(outside)
    return Line(*size, nothing, outside.__getitem__, places, (0, 0, 0), [(0, len(to))], lambda p, q: to[p:q])
