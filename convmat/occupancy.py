"""How many entries of a matrix lie in each cell of a grid, without the matrix: memory for the grid alone.

The pattern is a Kronecker product: of the channels (those of one group meet) and of one `Band` per axis. Let F(r, c) be
the number of entries with row < r and column < c; a cell is four values of F. Write r and c as the digits of their
C-order indices. The rows below r are those that share its first j digits and have a smaller one next, for j = 0 to D:
disjoint boxes, in each of which the entries are a product over the axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.patterns import Band, by_rows
from convmat.taps import Axis

Counts = NDArray[Any]
Below = Callable[[NDArray[Any], NDArray[Any]], Counts]
"""(A,), (B,) -> (A, B): the entries of one axis with row < a and column < b."""

_EQUAL, _LESS, _FREE = range(3)

_MOST_WORK = 2**18
"""Reads of border rows, and steps of the repeated ones, that are counted in a few milliseconds."""

_STEP = 2**8
"""Reads of border rows that take as long as one tap of the repeated row."""


class Pattern(Protocol):
    """Of a `Geometry`, what says where the matrix has entries."""

    @property
    def axes(self) -> tuple[Axis, ...]: ...
    @property
    def groups(self) -> int: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def nnz(self) -> int: ...


def counted_quickly(geometry: Pattern) -> bool:
    """Whether `entries_in_cells` takes milliseconds: it does unless a long kernel meets wide borders."""
    work = 0
    for axis in geometry.axes:
        first, last = axis.interior
        work += axis.taps * (axis.output - (last - first) + _STEP)
    return work <= _MOST_WORK


def entries_in_cells(geometry: Pattern, row_edges: Sequence[int], column_edges: Sequence[int]) -> Counts:
    """The number of stored entries of the matrix of a convolution in each cell of a grid.

    Parameters
    ----------
    geometry : Geometry
    row_edges, column_edges : sequence of int
        Ascending; cell (i, j) has the rows from row_edges[i] up to row_edges[i + 1], and columns likewise.

    Returns
    -------
    ndarray, shape (len(row_edges) - 1, len(column_edges) - 1)
        Of int64, or of Python integers where more than 2^63 entries would overflow.

    Examples
    --------
    >>> from convmat import Conv1d
    >>> A = Conv1d([1.0, 2.0], 6, stride=2)
    >>> entries_in_cells(A.geometry, [0, 1, 3], [0, 2, 4, 6])
    array([[2, 0, 0],
           [0, 2, 2]])
    """
    integers = np.dtype(np.int64) if geometry.nnz < 2**62 else np.dtype(object)
    axes = [_channels(geometry), *(_spatial(by_rows(axis, 0, axis.output)) for axis in geometry.axes)]
    row_sizes = (geometry.out_channels, *(axis.output for axis in geometry.axes))
    column_sizes = (geometry.in_channels, *(axis.size for axis in geometry.axes))
    rows, columns = _digits(row_edges, row_sizes), _digits(column_edges, column_sizes)
    tables = [_boxes(*parts) for parts in zip(axes, rows, columns, row_sizes, column_sizes, strict=True)]

    corner = np.zeros((len(row_edges), len(column_edges)), dtype=integers)
    levels = range(len(axes))
    for level, column_level in itertools.product(levels, levels):
        product = np.ones_like(corner)
        for axis, table in enumerate(tables):
            product *= table[_kind(axis, level), _kind(axis, column_level)].astype(integers)
        corner += product
    cells: Counts = np.diff(np.diff(corner, axis=0), axis=1)
    return cells


def _kind(axis: int, level: int) -> int:
    """How the digit of an axis is bound, in the box whose first smaller digit is that of axis `level`."""
    return _EQUAL if axis < level else _LESS if axis == level else _FREE


def _digits(edges: Sequence[int], sizes: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """The indices of flat positions along each axis; the end of all of them is `sizes[0]`, then zeros."""
    digits, rest = [], np.array(edges, dtype=np.int64)
    for size in sizes[:0:-1]:
        rest, digit = np.divmod(rest, size)
        digits.append(digit)
    return [rest, *reversed(digits)]


_RANGES = {_EQUAL: (1, 2), _LESS: (0, 1), _FREE: (0, 3)}
"""The digits that a kind allows, as two of the ends 0, digit, digit + 1, size."""


def _boxes(
    below: Below, rows: NDArray[np.int64], columns: NDArray[np.int64], row_size: int, column_size: int
) -> dict[tuple[int, int], Counts]:
    """Entries of one axis in each range of rows and of columns, by the kinds of the two. (rows, columns)"""
    row_ends, row_at = _ends(rows, row_size)
    column_ends, column_at = _ends(columns, column_size)
    total = below(row_ends, column_ends)
    return {
        (kind, column_kind): (
            total[np.ix_(row_at[last], column_at[end])]
            - total[np.ix_(row_at[first], column_at[end])]
            - total[np.ix_(row_at[last], column_at[begin])]
            + total[np.ix_(row_at[first], column_at[begin])]
        )
        for kind, (first, last) in _RANGES.items()
        for column_kind, (begin, end) in _RANGES.items()
    }


def _ends(digits: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ends 0, digit, digit + 1, size of every digit: distinct, and where each is among them. (4, digits)"""
    ends = [np.zeros_like(digits), digits, np.minimum(digits + 1, size), np.full_like(digits, size)]
    distinct, at = np.unique(ends, return_inverse=True)
    return distinct, at.reshape(4, -1)


def _channels(geometry: Pattern) -> Below:
    """Channels of one group meet: full groups before both, and a part of the next."""
    outs, ins = geometry.out_channels // geometry.groups, geometry.in_channels // geometry.groups

    def below(rows: NDArray[Any], columns: NDArray[Any]) -> Counts:
        whole = np.minimum(rows[:, None] // outs, columns // ins)
        part = np.minimum(rows[:, None] - whole * outs, outs) * np.minimum(columns - whole * ins, ins)
        return np.asarray(whole * outs * ins + part)

    return below


def _spatial(band: Band) -> Below:
    """The border rows are counted one by one, the repeated row by arithmetic."""
    first = band.head.count
    tail = first + band.repeats
    border_rows = np.concatenate([np.repeat(np.arange(part.count) + start, np.diff(part.ptr))
                                  for part, start in ((band.head, 0), (band.tail, tail))])  # fmt: skip
    border_columns = np.concatenate([band.head.cols, band.tail.cols])

    def below(rows: NDArray[Any], columns: NDArray[Any]) -> Counts:
        i = np.searchsorted(rows, border_rows, side="right")
        j = np.searchsorted(columns, border_columns, side="right")
        table = np.zeros((rows.size + 1, columns.size + 1), dtype=np.int64)
        np.add.at(table, (i, j), 1)
        counts: Counts = table[:-1, :-1].cumsum(axis=0).cumsum(axis=1)
        steps = np.clip(rows - first, 0, band.repeats)[:, None]
        for column in band.body.cols:
            counts += np.minimum(steps, np.maximum(0, -((column - columns) // band.advance)))
        return counts

    return below
