"""One axis as a sparse matrix, compressed: a few border rows in full, and one period of the rows between them.

The axis matrix has the entry (m, n) wherever output m reads input sample n. Away from the borders its rows repeat: row
m + 1 is row m moved by the stride; read by columns (the transpose), row n + s is row n moved by one. A `Band` stores
the border rows, one period, and how often it repeats. Taps of one output that read the same sample (padding modes fold
the border back) are one entry; `Band.sets` says which taps each entry sums, and with which factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.taps import ZERO, Axis, Index

Entries = tuple[Index, Index, Index, Index]
"""Row, column, tap and factor of each read."""


@dataclass(frozen=True, slots=True)
class Sets:
    """Sets of taps: an entry is the sum of the weights of a set, each times its factor. Set k < K is tap k alone."""

    taps: Index  # (T, width), ascending, filled up with -1
    factors: Index  # (T, width)

    def __len__(self) -> int:
        return len(self.taps)

    def __getitem__(self, some: Index) -> Sets:
        return Sets(self.taps[some], self.factors[some])

    @staticmethod
    def single(count: int, width: int = 1) -> Sets:
        """Each tap as a set."""
        taps = np.full((count, width), ZERO, dtype=np.int64)
        taps[:, 0] = np.arange(count)
        return Sets(taps, np.ones_like(taps))

    def sums(self, weight: NDArray[Any], dim: int) -> NDArray[Any]:
        """Weights with axis `dim` (K taps) replaced by the sums over these sets, each in ascending order."""
        taken = [weight.take(self.taps[:, 0], axis=dim)]
        along, of_tap = np.moveaxis(taken[0], dim, 0), np.moveaxis(weight, dim, 0)
        for place, (taps, factors) in enumerate(zip(self.taps.T, self.factors.T, strict=True)):
            some = np.flatnonzero(taps != ZERO) if place else np.flatnonzero(factors != 1)
            if not some.size:
                continue
            more, times = of_tap[taps[some]], factors[some].reshape(-1, *[1] * (weight.ndim - 1))
            if (times != 1).any():
                more = (more * times).astype(weight.dtype)
            along[some] = along[some] + more if place else more
        return taken[0]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of different lengths: row i has the entries ptr[i] to ptr[i+1] of `cols` (ascending) and `sets`."""

    ptr: Index
    cols: Index
    sets: Index

    def __getitem__(self, rows: slice) -> Rows:
        start, stop, _ = rows.indices(self.ptr.size - 1)
        a, b = self.ptr[start], self.ptr[stop]
        return Rows(self.ptr[start : stop + 1] - a, self.cols[a:b], self.sets[a:b])

    def outer(self, inner: Rows, cols: int, sets: int) -> Rows:
        """The rows (i, j) of the Kronecker product with `inner`, which has so many columns and sets."""
        lengths, inner_lengths = self.ptr[1:] - self.ptr[:-1], inner.ptr[1:] - inner.ptr[:-1]
        counts = np.multiply.outer(lengths, inner_lengths).reshape(-1)
        ptr = np.concatenate([[0], np.cumsum(counts)])
        i, j = np.divmod(np.arange(counts.size), max(1, inner.count))
        within = np.arange(ptr[-1]) - np.repeat(ptr[:-1], counts)
        a, b = np.divmod(within, np.repeat(inner_lengths[j], counts))
        a += np.repeat(self.ptr[i], counts)
        b += np.repeat(inner.ptr[j], counts)
        return Rows(ptr, self.cols[a] * cols + inner.cols[b], self.sets[a] * sets + inner.sets[b])

    @property
    def count(self) -> int:
        return self.ptr.size - 1

    @property
    def entries(self) -> int:
        return int(self.ptr[-1])


@dataclass(frozen=True, slots=True)
class RowClass:
    """Rows with the same entries, each moved by its `bases`: `first` is where the entries of the first begin among the
    entries of the band, `step` how far apart those of one row and the next are.
    """

    first: int
    step: int
    cols: Index
    sets: Index
    bases: Index


@dataclass(frozen=True, slots=True)
class Band:
    """The rows `head`, then `body` `repeats` times, moved by `advance` columns each time, then `tail`."""

    head: Rows
    body: Rows
    repeats: int
    advance: int
    tail: Rows
    sets: Sets

    @staticmethod
    def of(rows: Rows) -> Band:
        """Rows that do not repeat, each entry of a set of its own kind."""
        none = rows[:0]
        return Band(rows, none, 0, 0, none, Sets.single(int(rows.sets.max(initial=-1)) + 1))

    @property
    def entries(self) -> int:
        return self.head.entries + self.repeats * self.body.entries + self.tail.entries

    def counts(self) -> Index:
        """Entries in each row."""
        head, body, tail = (part.ptr[1:] - part.ptr[:-1] for part in (self.head, self.body, self.tail))
        return np.concatenate([head, _tiled(body, self.repeats), tail])

    def all_rows(self) -> Rows:
        """The rows one by one, nothing repeated."""
        if not self.repeats and not self.tail.count:
            return self.head
        moves = self.advance * np.arange(self.repeats, dtype=np.int64)
        cols = (moves[:, None] + self.body.cols).reshape(-1)
        ptr = np.concatenate([[0], np.cumsum(self.counts())])
        return Rows(
            ptr,
            np.concatenate([self.head.cols, cols, self.tail.cols]),
            np.concatenate([self.head.sets, _tiled(self.body.sets, self.repeats), self.tail.sets]),
        )

    def classes(self) -> Iterator[RowClass]:
        """The rows, each in one class; together they are the whole band."""
        yield from _runs(self.head, 0)
        start = self.head.entries
        if self.repeats:
            bases = self.advance * np.arange(self.repeats, dtype=np.int64)
            for a, b in zip(self.body.ptr[:-1], self.body.ptr[1:], strict=True):
                cols, sets = self.body.cols[a:b], self.body.sets[a:b]
                yield RowClass(start + int(a), self.body.entries, cols, sets, bases)
        yield from _runs(self.tail, start + self.repeats * self.body.entries)


def by_rows(axis: Axis, start: int, stop: int) -> Band:
    """The rows [start, stop) of the axis matrix, one per output."""
    first, last = (min(max(m, start), stop) for m in axis.interior)
    head, body, tail = _ranges((start, first), (first, first + (last > first)), (last, stop))
    rows = np.concatenate([head, body, tail])
    row, tap, sample, weight = axis.reads(rows)
    return _band(axis, (row, sample, tap, weight), (head, body, tail), last - first, axis.stride)


def by_columns(axis: Axis, start: int, stop: int) -> Band:
    """The rows [start, stop) of the transposed axis matrix, one per input sample."""
    folded = _folded(axis)
    first, last = _unfolded_interior(axis, folded[0], start, stop)
    repeats = (last - first) // axis.stride
    end = first + repeats * axis.stride
    head, body, tail = _ranges((start, first), (first, first + axis.stride * (repeats > 0)), (end, stop))
    samples = np.concatenate([head, body, tail])

    inner = (samples[:, None] + axis.lo) - axis.dilation * np.arange(axis.taps, dtype=np.int64)
    output = inner // axis.stride
    row, tap = np.nonzero((inner % axis.stride == 0) & (output >= 0) & (output < axis.output))
    entries = [(row, output[row, tap], tap, np.ones_like(tap))]

    if samples.size:
        at = np.minimum(np.searchsorted(samples, folded[0]), samples.size - 1)
        hit = samples[at] == folded[0]
        entries.append((at[hit], folded[1][hit], folded[2][hit], folded[3][hit]))
    row, col, tap, factor = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return _band(axis, (row, col, tap, factor), (head, body, tail), repeats, 1)


def never_read(axis: Axis, most: int) -> tuple[int, list[int]]:
    """How many input samples no output reads, the first `most` of them, and then the last."""
    band = by_columns(axis, 0, axis.size)
    head, body, tail = (np.flatnonzero(part.ptr[1:] == part.ptr[:-1]) for part in (band.head, band.body, band.tail))
    periods = sorted({*range(min(most, band.repeats)), *range(max(0, band.repeats - 1), band.repeats)})
    shown = [band.head.count + band.body.count * t + body for t in periods]
    samples = np.concatenate([head, *shown, axis.size - band.tail.count + tail])
    count = head.size + body.size * band.repeats + tail.size
    return count, [*samples[:most].tolist(), *samples[-1:].tolist()]


def _folded(axis: Axis) -> Entries:
    """Input sample, output, tap and factor of each read that the padding mode sends back into the input."""
    first, last = axis.interior
    outputs = np.concatenate(_ranges((0, first), (last, axis.output)))
    row, tap, sample, weight = axis.reads(outputs)
    reach = axis.reach(outputs)[row, tap]
    beyond = (reach < 0) | (reach >= axis.size)
    return sample[beyond], outputs[row[beyond]], tap[beyond], weight[beyond]


def _unfolded_interior(axis: Axis, folded: Index, start: int, stop: int) -> tuple[int, int]:
    """The longest range of input samples in [start, stop) that every tap of their phase reads, and no padding does."""
    first = min(max(start, axis.span - 1 - axis.lo), stop)
    last = max(first, min(stop, axis.stride * (axis.output - 1) - axis.lo + 1))
    inside = np.unique(folded[(folded >= first) & (folded < last)])
    edges = np.concatenate([[first - 1], inside, [last]])
    widest = int(np.argmax(np.diff(edges)))
    return int(edges[widest]) + 1, int(edges[widest + 1])


def _tiled(values: Index, times: int) -> Index:
    return (np.zeros((times, 1), dtype=np.int64) + values).reshape(-1)


def _ranges(*bounds: tuple[int, int]) -> list[Index]:
    return [np.arange(a, b, dtype=np.int64) for a, b in bounds]


def _band(axis: Axis, entries: Entries, parts: tuple[Index, Index, Index], repeats: int, advance: int) -> Band:
    """Sort and merge the reads of the stored rows, and cut them into head, body and tail."""
    order = np.lexsort((entries[2], entries[1], entries[0]))
    row, col, tap, factor = (numbers[order] for numbers in entries)
    table = Sets.single(axis.taps)
    new = np.ones(row.size, dtype=bool)
    new[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
    sets = tap
    if not (new.all() and (factor == 1).all()):
        starts = np.flatnonzero(new)
        lengths = np.diff(starts, append=row.size)
        sets = tap[starts]
        width = int(lengths.max(initial=1))
        several = np.flatnonzero((lengths > 1) | (factor[starts] != 1))
        within = np.arange(width)
        there = within < lengths[several, None]
        at = np.minimum(starts[several, None] + within, tap.size - 1)
        members = np.concatenate([np.where(there, tap[at], ZERO), np.where(there, factor[at], 1)], axis=1)
        merged, which = np.unique(members, axis=0, return_inverse=True)
        sets[several] = axis.taps + which.reshape(-1)
        alone = Sets.single(axis.taps, width)
        table = Sets(
            np.concatenate([alone.taps, merged[:, :width]]), np.concatenate([alone.factors, merged[:, width:]])
        )
        row, col = row[starts], col[starts]

    head, body, tail = (part.size for part in parts)
    ptr = np.searchsorted(row, np.arange(head + body + tail + 1))
    rows = Rows(ptr, col, sets)
    return Band(rows[:head], rows[head : head + body], repeats, advance, rows[head + body :], table)


def _runs(rows: Rows, offset: int) -> Iterator[RowClass]:
    """Neighbouring rows that are the same but for a shift, each run as one class."""
    lengths = np.diff(rows.ptr)
    i = 0
    while i < rows.count:
        a, n = int(rows.ptr[i]), int(lengths[i])
        cols, sets = rows.cols[a : a + n], rows.sets[a : a + n]
        j = i + 1
        while j < rows.count and lengths[j] == n:
            b = int(rows.ptr[j])
            if n and not (
                np.array_equal(rows.cols[b : b + n] - rows.cols[b], cols - cols[0])
                and np.array_equal(rows.sets[b : b + n], sets)
            ):
                break
            j += 1
        bases = rows.cols[rows.ptr[i:j]] - cols[0] if n else np.zeros(j - i, dtype=np.int64)
        yield RowClass(offset + a, n, cols, sets, bases)
        i = j
