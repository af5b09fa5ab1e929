"""One axis of a convolution: which input sample an output reads through which tap.

Along one axis, output ``m`` reads through tap ``k`` the sample ``s m + d k - lo`` of the *extended* input. The padding
mode says which sample of the input that is, or none (a zero), or of which samples it is the weighted sum. Stride,
dilation, padding and padding mode appear in this module and in `convmat.parts`, which cuts an axis, and nowhere else:
everything above them asks an `Axis`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]

ZERO = -1
"""The entry of a table that stands for "reads a zero"."""


def _zeros(i: Index, n: int) -> Index:
    return np.where((i >= 0) & (i < n), i, ZERO)


def _replicate(i: Index, n: int) -> Index:
    return np.clip(i, 0, n - 1)


def _circular(i: Index, n: int) -> Index:
    return i % n


def _symmetric(i: Index, n: int) -> Index:
    j = i % (2 * n)
    return np.minimum(j, 2 * n - 1 - j)


def _reflect(i: Index, n: int) -> Index:
    period = max(2 * n - 2, 1)
    j = i % period
    return np.minimum(j, period - j)


EXTENSIONS: dict[str, Callable[[Index, int], Index]] = {
    "zeros": _zeros,
    "reflect": _reflect,
    "replicate": _replicate,
    "circular": _circular,
    "symmetric": _symmetric,
}
"""Padding mode that copies -> (index in the extended input, input size) -> index in the input, or `ZERO`."""

Sources = tuple[Index, Index]
"""Samples, `ZERO` where there is none, and their weights, one row of them for each position. (.., terms) both"""


def _antireflect(i: Index, n: int) -> Sources:
    """Point reflections about both ends, x[-i] = 2 x[0] - x[i], again and again; of one sample, copies.

    Two of them move the image by 2 (N - 1) samples, and add 2 (x[N-1] - x[0]) to it.
    """
    behind = i > 0  # there, positions between two ends are counted up to the far one, as before the input
    q, r = np.divmod(i - behind, max(n - 1, 1))
    r += behind
    odd, copied = q % 2, ((i >= 0) & (i < n)) | (n == 1)
    moved = np.where(copied, np.clip(i, 0, n - 1), np.where(odd, n - 1 - r, r))
    samples = np.stack([moved, np.full_like(i, n - 1), np.zeros_like(i)], -1)
    weights = np.stack([1 - 2 * odd, q + odd, odd - q], -1)
    weights[copied] = 1, 0, 0
    return np.where(weights, samples, ZERO), weights


def _copied(samples: Index) -> Sources:
    return samples[..., None], np.not_equal(samples, ZERO).astype(np.int64)[..., None]


COMBINATIONS: dict[str, Callable[[Index, int], Sources]] = {"antireflect": _antireflect}
"""Padding mode that combines -> (index in the extended input, input size) -> the samples that are summed there."""

MODES = (*EXTENSIONS, *COMBINATIONS)
"""The padding modes."""


class Reads(NamedTuple):
    """Which of some outputs reads which sample through which tap, and with which weight. (reads,) each"""

    output: Index
    tap: Index
    sample: Index
    weight: Index


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: `size` N samples in, `taps` K, `stride` s, `dilation` d, padding `lo` and `hi`, padding `mode`."""

    size: int
    taps: int
    stride: int = 1
    dilation: int = 1
    lo: int = 0
    hi: int = 0
    mode: str = "zeros"

    @property
    def span(self) -> int:
        """How many samples of the extended input lie between the first and the last tap, both counted."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def padded(self) -> int:
        """Size of the extended input."""
        return self.size + self.lo + self.hi

    @property
    def output(self) -> int:
        """Output size M = floor((N + lo + hi - d (K-1) - 1) / s) + 1."""
        return (self.padded - self.span) // self.stride + 1

    @property
    def interior(self) -> tuple[int, int]:
        """The outputs [first, last) all of whose taps lie inside the input, so that no padding mode matters."""
        first = min(max(0, -(-self.lo // self.stride)), self.output)
        last = (self.size - self.span + self.lo) // self.stride + 1
        return first, max(first, min(last, self.output))

    @property
    def reads_no_padding(self) -> bool:
        """Whether no output reads beyond the input, so that the padding mode makes no difference."""
        return self.interior == (0, self.output)

    @property
    def sends_nothing_back(self) -> bool:
        """Whether the transpose adds nothing of the border of the extended input to the input: zeros, or no border."""
        return self.mode == "zeros" or (self.lo <= 0 and self.hi <= 0)

    @property
    def combines(self) -> bool:
        """Whether the extended input is not the input, and may sum several samples at a position: there is no table."""
        return self.mode in COMBINATIONS and (self.lo, self.hi) != (0, 0)

    @property
    def extended(self) -> Axis:
        """The axis on the input that is extended already, if its padding mode sums several samples."""
        if self.mode not in COMBINATIONS:
            return self
        return replace(self, size=self.padded, lo=0, hi=0, mode="zeros")

    @property
    def moves_nothing(self) -> bool:
        """Whether every output is the weighted sample of its place."""
        return (self.taps, self.stride, self.lo, self.hi) == (1, 1, 0, 0)

    @property
    def sent(self) -> tuple[int, int]:
        """The range of samples of a phase, on the extended input, at which A^T y is needed."""
        first, last = self.copied(0, self.padded) if self.sends_nothing_back else (0, self.padded)
        return first // self.stride, -(-last // self.stride)

    @property
    def memory(self) -> int:
        """How many samples of a phase an output reads beside its own, at most."""
        return (self.span - 1) // self.stride

    def window(self, outputs: int) -> int:
        """How many samples of the extended input that many outputs in a row read, gaps counted."""
        return self.stride * (outputs - 1) + self.span

    def place(self, output: int, tap: int) -> int:
        """The position s m + d k on the extended input."""
        return self.stride * output + self.dilation * tap

    def ending_at(self, outputs: int) -> Axis:
        """The axis with the padding behind the input that gives so many outputs, and no sample more."""
        return replace(self, hi=self.window(outputs) - self.size - self.lo)

    def then(self, later: Axis) -> Axis:
        """The axis of one convolution after another, of which one has a single tap, as far as that reads no padding.

        Where this one moves nothing, the padding of the later one stays. The end is that of `later` if it is given by
        `ending_at`.
        """
        mode = later.mode if self.moves_nothing else self.mode
        dilation = self.dilation if later.taps == 1 else self.stride * later.dilation
        lo, taps = self.lo + self.stride * later.lo, self.taps * later.taps
        return Axis(self.size, taps, self.stride * later.stride, dilation, lo, 0, mode)

    def chained(self, later: Axis) -> Axis | None:
        """The axis of one convolution after another, of any taps: those that read what the later one reads of this one.

        Position j of what is between them reads s j + d k - lo here. That also holds beyond its ends, if the later one
        reads nothing there; if both read zeros, and this one would have none but zeros to read; if both read a circle.
        None where the border between them cannot be written so.
        """
        steps = (self.stride * later.dilation * (later.taps - 1), self.dilation * (self.taps - 1))
        dilation = math.gcd(self.stride * later.dilation if steps[0] else 0, self.dilation if steps[1] else 0) or 1
        if later.reads_no_padding:
            mode = self.mode
        elif self.moves_nothing:
            mode = later.mode
        elif self._is_circle and later.mode == "circular":
            mode = "circular"
        elif later.mode == "zeros" and (self.mode == "zeros" or self.reads_no_padding) and self._all_out(later):
            mode = "zeros"
        else:
            return None
        lo = self.lo + self.stride * later.lo
        return Axis(self.size, sum(steps) // dilation + 1, self.stride * later.stride, dilation, lo, 0, mode)

    @property
    def _is_circle(self) -> bool:
        return self.mode == "circular" and self.stride * self.output == self.size

    def _all_out(self, later: Axis) -> bool:
        """Whether the outputs beyond the ends, where a later axis reads some, would read zeros alone."""
        before = self.place(-1, self.taps - 1) - self.lo < 0
        behind = self.place(self.output, 0) - self.lo >= self.size
        reaches = later.place(later.output - 1, later.taps - 1) - later.lo >= self.output
        return (before or later.lo <= 0) and (behind or not reaches)

    @property
    def border(self) -> int:
        """Samples near both ends for which these make a difference, together, and some for the place of the stride."""
        below = max(self.lo + 1, self.span - 1 - self.lo)
        above = max(self.hi + 1, self.span - 1 - self.hi + self.stride)
        return below + above + 2 * self.stride

    def shortened(self, samples: int) -> Axis:
        """The axis without a multiple of the stride in its middle, of so many samples at least, if it has as many."""
        return replace(self, size=min(self.size, samples + (self.size - samples) % self.stride))

    def turned(self) -> Axis:
        """The axis of the transpose, for stride 1: its taps are those of this one, the last one first."""
        return Axis(self.output, self.taps, 1, self.dilation, self.span - 1 - self.lo, 0, self.mode)

    def outgoing(self) -> Axis:
        """What comes out of this axis, behind as many zeros as the transpose reads before its first sample."""
        return Axis(self.output, 1, lo=self.memory)

    def backwards(self) -> list[tuple[int, int]]:
        """(place, phase) of each tap k: the transpose at s i + phase reads place i + place of what is `outgoing`."""
        return [(self.memory - shift, phase) for shift, phase in self.lattice()]

    def sending(self, phase: int) -> tuple[Axis, slice, slice] | None:
        """One phase of the transpose, a correlation of stride one with what comes out of this axis; None without taps.

        Its axis, the taps of this one in the order of those of that axis, and where its outputs go: to samples, or if
        the border sends something back, to positions of the extended input.
        """
        taps = [k for k, (_, of) in enumerate(self.lattice()) if of == phase]
        start, stop = self.copied(0, self.padded) if self.sends_nothing_back else (0, self.padded)
        first, last = -((phase - start) // self.stride), -((phase - stop) // self.stride)
        if not taps or first >= last:
            return None
        shifts = [self.lattice()[k][0] for k in taps]
        gap = shifts[1] - shifts[0] if len(taps) > 1 else 1
        axis = Axis(self.output, len(taps), dilation=gap, lo=shifts[-1] - first).ending_at(last - first)
        begin = self.stride * first + phase - (self.lo if self.sends_nothing_back else 0)
        backwards = slice(taps[-1], taps[0] - 1 if taps[0] else None, taps[0] - taps[1] if len(taps) > 1 else -1)
        return axis, backwards, slice(begin, begin + self.stride * (last - first - 1) + 1, self.stride)

    def taps_on(self, other: Axis) -> slice:
        """The taps of another axis that read what the taps of this one read."""
        first, step = (other.lo - self.lo) // other.dilation, max(1, self.dilation // other.dilation)
        return slice(first, first + step * (self.taps - 1) + 1, step)

    def reach(self, outputs: Index) -> Index:
        """Positions s m + d k - lo, counted from the first input sample, before the padding mode. (len, K)"""
        taps = np.arange(self.taps, dtype=np.int64)
        return self.stride * outputs[:, None] + (self.dilation * taps - self.lo)

    def lattice(self) -> list[tuple[int, int]]:
        """(shift, phase) of each tap k: it reads sample m + shift of the phase, s (m + shift) + phase = s m + d k."""
        return [divmod(self.dilation * k, self.stride) for k in range(self.taps)]

    def table(self, outputs: Index | None = None) -> Index:
        """The table taps[m, k] of the given outputs (all of them by default). (len, K)"""
        if outputs is None:
            outputs = np.arange(self.output, dtype=np.int64)
        return self._samples(self.reach(outputs))

    def sources(self, positions: Index) -> Sources:
        """The samples that positions, counted from the first input sample, are the weighted sums of. (.., terms)"""
        if self.mode in COMBINATIONS:
            return COMBINATIONS[self.mode](positions, self.size)
        return _copied(self._samples(positions))

    def reads(self, outputs: Index | None = None) -> Reads:
        """Every read of the given outputs (of all by default): by output, then by tap."""
        if outputs is None:
            outputs = np.arange(self.output, dtype=np.int64)
        samples, weights = self.sources(self.reach(outputs))
        output, tap, term = np.nonzero(samples != ZERO)
        return Reads(output, tap, samples[output, tap, term], weights[output, tap, term])

    def extension(self, start: int, stop: int) -> Index:
        """The input sample at each of the positions [start, stop) of the extended input. (stop - start,)"""
        return self._samples(np.arange(start, stop, dtype=np.int64) - self.lo)

    def _samples(self, positions: Index) -> Index:
        """The sample at each position, counted from the first one, or `ZERO`."""
        if self.mode not in EXTENSIONS:
            raise ValueError(f"mode={self.mode!r} sums several samples at a position: ask for reads(), or sources()")
        return EXTENSIONS[self.mode](positions, self.size)

    def copied(self, start: int, stop: int) -> tuple[int, int]:
        """The part of [start, stop) of the extended input that is the input itself, as positions there."""
        first = min(max(start, self.lo), stop)
        return first, max(first, min(stop, self.lo + self.size))

    def strided(self, offset: int, start: int, stop: int) -> Index:
        """The input samples at the positions s j + offset of the extended input, for j in [start, stop)."""
        return self._samples(self.stride * np.arange(start, stop, dtype=np.int64) + (offset - self.lo))

    def strided_copied(self, offset: int, count: int) -> tuple[int, int, int]:
        """The part [first, last) of the j < count for which s j + offset is the input itself, and the first sample."""
        first = min(max(0, -((offset - self.lo) // self.stride)), count)
        last = (self.size - 1 + self.lo - offset) // self.stride + 1
        return first, max(first, min(last, count)), self.stride * first + offset - self.lo


def paired(rows: Index, cols: Index, size: int) -> Index:
    """The sample of an image, of rows of that size, at a row and a column; `ZERO` where one of them is."""
    return np.where((rows == ZERO) | (cols == ZERO), ZERO, rows * size + cols)


def joint_table(axes: Sequence[Axis]) -> Index:
    """The table of several axes: the sample that each output reads through each tap, all in C order. (outputs, taps)"""
    joint = np.zeros((1, 1), dtype=np.int64)
    for axis in axes:
        reads = paired(joint[:, None, :, None], axis.table()[None, :, None, :], axis.size)
        joint = reads.reshape(len(joint) * axis.output, joint.shape[1] * axis.taps)
    return joint


def joint_reads(axes: Sequence[Axis]) -> Reads:
    """The reads of several axes, outputs, taps and samples in C order each; weights are multiplied."""
    one = np.ones(1, dtype=np.int64)
    joint = Reads(0 * one, 0 * one, 0 * one, one)
    for axis in axes:
        along = axis.reads()
        joint = Reads(
            _numbered(joint.output, along.output, axis.output),
            _numbered(joint.tap, along.tap, axis.taps),
            _numbered(joint.sample, along.sample, axis.size),
            np.multiply.outer(joint.weight, along.weight).reshape(-1),
        )
    return joint


def _numbered(outer: Index, inner: Index, size: int) -> Index:
    """The numbers of all pairs, in C order, where the inner ones are below `size`."""
    return (outer[:, None] * size + inner).reshape(-1)


def without_idle(axes: Sequence[Axis]) -> list[Axis]:
    """The axes, with the last ones as one axis, as far as they move nothing."""
    axes = list(axes)
    while len(axes) > 1 and axes[-1].moves_nothing and axes[-2].moves_nothing:
        axes[-2:] = [Axis(axes[-2].size * axes[-1].size, 1)]
    return axes


def joint_axis(axes: Sequence[Axis]) -> Axis | None:
    """The axis whose taps read every position that one of these reads; None if they differ in stride or padding mode.

    What reads no padding fits every mode, and a single output every stride.
    """
    modes = {axis.mode for axis in axes if not axis.reads_no_padding}
    strides = {axis.stride for axis in axes if axis.output > 1}
    if len(modes) > 1 or len(strides) > 1:
        return None
    lo, end = max(axis.lo for axis in axes), max(axis.span - axis.lo for axis in axes)
    steps = [axis.dilation for axis in axes if axis.taps > 1] + [lo - axis.lo for axis in axes]
    dilation = math.gcd(*steps) or 1
    taps, stride = (end + lo - 1) // dilation + 1, strides.pop() if strides else 1
    return Axis(axes[0].size, taps, stride, dilation, lo, 0, modes.pop() if modes else "zeros")
