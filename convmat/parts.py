"""A part of an axis, as an axis of its own: what gives some of its outputs, or, transposed, some of its samples.

It reads the samples that these outputs read (or has the outputs that read these samples), and its borders are those
of the whole axis: what was folded, wrapped or zero still is, in the same order. Where a border reads far from itself
(circular), the part is the whole axis without a multiple of the stride in its middle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from convmat.taps import ZERO, Axis, Index

Runs = tuple[tuple[int, int], ...]
"""Ranges [a, b) in ascending order, none of which touches the next."""


@dataclass(frozen=True, slots=True)
class AxisPart:
    """A part of an axis.

    Attributes
    ----------
    axis : Axis
        What the part is by itself.
    inputs, outputs : Runs
        Its samples and its outputs, side by side, as those of the whole axis.
    kept : Runs
        Which of its own outputs, or samples, are those asked for; others are wrong, or not wanted.
    """

    axis: Axis
    inputs: Runs
    outputs: Runs
    kept: Runs


def giving(axis: Axis, outputs: Runs) -> AxisPart:
    """The part that gives these outputs."""
    hull = (outputs[0][0], outputs[-1][1])
    for runs in _pairs(axis, few(outputs, 2)):
        (start, end), (begin, stop) = runs
        part, inputs = _stretch(axis, start, stop)
        last = axis.window(end - start) - part.lo  # where the windows of the first outputs end, in samples of the part
        spare = (axis.stride * (begin - end + 1) - axis.span) // axis.stride
        cut = _without(part, inputs, last, spare) if spare > 0 else None
        if cut is not None:
            there = joined([(0, end - start), (begin - start - spare, stop - start - spare)])
            given = joined([(start, begin - spare), (begin, stop)])
            return AxisPart(*cut, given, places(outputs, there, runs))
    part, inputs = _stretch(axis, *hull)
    return AxisPart(part, inputs, (hull,), places(outputs, ((0, part.output),), (hull,)))


def reaching(axis: Axis, samples: Runs) -> AxisPart:
    """The part whose transpose gives these samples: of all outputs that read them."""
    readers = few(_readers(axis, samples), 2)
    for runs in _pairs(axis, readers, samples):
        (start, end), (begin, stop) = runs
        part, inputs = _stretch(axis, start, stop, [(samples[0][0], samples[-1][1])])
        cut = _without(part, inputs, axis.stride * (end - start) - part.lo, begin - end)
        if cut is not None and within(samples, cut[1]):
            return AxisPart(*cut, runs, places(samples, ((0, cut[0].size),), cut[1]))
    hull = (readers[0][0], readers[-1][1])
    part, inputs = _stretch(axis, *hull, samples)
    return AxisPart(part, inputs, (hull,), places(samples, ((0, part.size),), inputs))


def _pairs(axis: Axis, outputs: Runs, samples: Runs = ()) -> Iterator[Runs]:
    """Two ranges of outputs, then longer ones, between which no border reads, and none of some samples is."""
    if len(outputs) == 2:
        yield outputs
        (start, end), (begin, stop) = outputs
        border, middle = max(axis.lo, axis.hi, 0) + axis.stride, axis.stride * (end + begin) - 2 * axis.lo
        left = max([border, *(b for a, b in samples if a + b < middle)])
        right = min([axis.size - border, *(a for a, b in samples if a + b >= middle)])
        end, begin = max(end, -(-(left + axis.lo) // axis.stride)), min(begin, (right + axis.lo) // axis.stride)
        if end < begin:
            yield (start, end), (begin, stop)


def sent(part: Axis, whole: Axis, outputs: Runs, phase: int) -> Runs:
    """Which results of one phase of the transpose of the whole those of a part are: see `Axis.sending`."""
    (results, first), (_, first_of_whole) = _phase(part, phase), _phase(whole, phase)
    found, done, at = [], 0, 0
    for start, stop in outputs:
        shift = (first - first_of_whole) // part.stride + start - at
        at += stop - start
        end = results if (start, stop) == outputs[-1] else min(max(at - first // part.stride, done), results)
        found.append((done + shift, end + shift))
        done = end
    return tuple(found)


def _phase(axis: Axis, phase: int) -> tuple[int, int]:
    """How many results a phase of the transpose has, and the position of the first one on the extended input."""
    found = axis.sending(phase)
    if found is None:
        return 0, phase
    axis_of_phase, _, place = found
    return axis_of_phase.output, place.start + (axis.lo if axis.sends_nothing_back else 0)


def folds_nothing_into(axis: Axis, samples: Runs) -> bool:
    """Whether the border of the extended input sends nothing back to these samples."""
    return not any(_border_positions(axis, run) for run in samples)


def joined(runs: Iterable[tuple[int, int]]) -> Runs:
    """Ranges in any order, with those that touch or overlap as one; empty ones are left out."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(run for run in runs if run[0] < run[1]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return tuple(found)


def few(runs: Runs, most: int) -> Runs:
    """At most so many ranges that cover these, the smallest gaps filled."""
    found = list(runs)
    while len(found) > most:
        at = min(range(len(found) - 1), key=lambda k: found[k + 1][0] - found[k][1])
        found[at : at + 2] = [(found[at][0], found[at + 1][1])]
    return tuple(found)


def within(runs: Runs, others: Runs) -> bool:
    """Whether others cover all of these ranges."""
    return all(any(a <= start and stop <= b for a, b in others) for start, stop in runs)


def count(runs: Runs) -> int:
    """How many numbers are in these ranges."""
    return sum(stop - start for start, stop in runs)


def places(runs: Runs, there: Runs, covering: Runs) -> Runs:
    """Where the numbers of some ranges stand, if those of `covering` are put at the ranges `there`, in order."""
    found = []
    for start, stop in runs:
        for a, b in covering:
            if a <= start and stop <= b:
                before = count(covering[: covering.index((a, b))]) + start - a
                found += _slots(before, stop - start, there)
    return joined(found)


def _slots(before: int, wanted: int, there: Runs) -> list[tuple[int, int]]:
    """The ranges among `there` in which so many numbers stand, behind so many others."""
    found = []
    for a, b in there:
        first = a + max(before, 0)
        last = min(b, a + before + wanted)
        if first < last:
            found.append((first, last))
        before -= b - a
    return found


def _readers(axis: Axis, samples: Runs) -> Runs:
    """The outputs that read these samples; one that reads others, if there are none."""
    found = []
    for run in samples:
        positions = [(max(run[0], -axis.lo), min(run[1], axis.size + axis.hi)), *_border_positions(axis, run)]
        for start, stop in (p for p in positions if p[0] < p[1]):
            first = -((axis.span - 1 - axis.lo - start) // axis.stride)
            found.append((max(0, first), min(axis.output, (stop - 1 + axis.lo) // axis.stride + 1)))
    place = min(max(0, (samples[0][0] + axis.lo) // axis.stride), axis.output - 1)
    return joined(found) or ((place, place + 1),)


def _border_positions(axis: Axis, samples: tuple[int, int]) -> list[tuple[int, int]]:
    """Where these samples stand in the border, counted from the first sample: one range on each side, at most."""
    found = []
    for start, stop in ((-axis.lo, min(0, axis.size + axis.hi)), (max(axis.size, -axis.lo), axis.size + axis.hi)):
        if start < stop and axis.mode != "zeros":
            targets, _ = axis.sources(np.arange(start, stop, dtype=np.int64))
            read = np.flatnonzero(((samples[0] <= targets) & (targets < samples[1])).any(axis=-1))
            if read.size:
                found.append((start + int(read[0]), start + int(read[-1]) + 1))
    return found


def _stretch(axis: Axis, start: int, stop: int, also: Sequence[tuple[int, int]] = ()) -> tuple[Axis, Runs]:
    """The axis of the outputs [start, stop), on the samples that they read and some others; and which these are."""
    first = axis.stride * start - axis.lo
    last = first + axis.window(stop - start)
    inner = max(first, 0), min(last, axis.size)
    borders = _Border(axis, first, min(last, 0)), _Border(axis, max(first, axis.size), last)
    edges = [(0, 1)] * borders[0].reads + [(axis.size - 1, axis.size)] * borders[1].reads
    read = joined([inner, *edges, *also, *(run for border in borders for run in border.runs)])
    if not read:
        place = min(max(first, 0), axis.size - 1)
        read = ((place, place + 1),)
    if axis.mode == "zeros" and also:  # what is read of other samples makes no difference
        read = ((also[0][0], also[-1][1]),)
    hull, ends = ((read[0][0], read[-1][1]),), joined([(0, read[0][1]), *read, (read[-1][0], axis.size)])
    for inputs in sorted((read, hull, ends, ((0, axis.size),)), key=count):
        size = count(inputs)
        shift = inputs[0][0] if axis.mode == "zeros" else _shift(inputs, inner, axis)
        part = replace(axis, size=size, lo=shift - first, hi=last - shift - size)
        if all(border.agrees(inputs, shift, size) for border in borders):
            return part, inputs
    raise AssertionError(f"no part of {axis} gives its outputs [{start}, {stop})")


def _shift(inputs: Runs, inner: tuple[int, int], axis: Axis) -> int:
    """The position of the whole axis that is position 0 of a part, of which a stretch is the input itself."""
    at = inner[0] if inner[0] < inner[1] else 0 if inner[1] <= 0 else axis.size
    before = sum(min(stop, at) - start for start, stop in inputs if start < at)
    return at - before


class _Border:
    """Positions [start, stop) before or behind the input, and the samples that they read."""

    def __init__(self, axis: Axis, start: int, stop: int) -> None:
        self._axis, self._positions = axis, np.arange(start, stop, dtype=np.int64)
        self._samples, self._weights = axis.sources(self._positions)
        self.reads = bool((self._samples != ZERO).any())

    @property
    def runs(self) -> Runs:
        """The samples, as ranges."""
        read = np.unique(self._samples[self._samples != ZERO])
        ends = np.flatnonzero(np.diff(read) > 1)
        first, last = np.concatenate([read[:1], read[ends + 1]]), np.concatenate([read[ends], read[-1:]])
        return tuple((a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True))

    def agrees(self, inputs: Runs, shift: int, size: int) -> bool:
        """Whether the same positions of an input of these samples alone read the same samples."""
        samples, weights = replace(self._axis, size=size).sources(self._positions - shift)
        return bool(((samples == _ranks(self._samples, inputs)) & (weights == self._weights)).all())


def _ranks(samples: Index, inputs: Runs) -> Index:
    """Where samples stand among those of an input; `ZERO` for what reads none, and -2 for what is not there."""
    found = np.where(samples == ZERO, ZERO, ZERO - 1)
    before = 0
    for start, stop in inputs:
        found = np.where((start <= samples) & (samples < stop), samples - start + before, found)
        before += stop - start
    return found


def _without(axis: Axis, inputs: Runs, place: int, strides: int) -> tuple[Axis, Runs] | None:
    """An axis without so many strides of samples from a place on, and its samples; None if a border reads them."""
    gone = strides * axis.stride
    if place < 0 or place + gone > axis.size or gone == axis.size:
        return None
    left = joined([(0, place), (place + gone, axis.size)])
    part = replace(axis, size=axis.size - gone)
    for start, stop, shift in ((-axis.lo, 0, 0), (axis.size, axis.size + axis.hi, gone)):
        if start < stop and not _Border(axis, start, stop).agrees(left, shift, part.size):
            return None
    return part, taken(inputs, left)


def taken(runs: Runs, chosen: Runs) -> Runs:
    """Of the numbers in some ranges, put side by side, those at the chosen ranges of places."""
    return joined(slot for start, stop in chosen for slot in _slots(start, stop - start, runs))
