"""What a notebook shows of an operator: lines of text beside a small drawing of the pattern of its matrix, as SVG.

The drawing is a grid of at most `_CELLS` x `_CELLS` cells, whatever the size of the matrix.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[Any]
Cells = Callable[[Sequence[int], Sequence[int]], Counts | None]
"""Edges of rows, edges of columns -> stored entries in each cell, or None where counting them would take long."""

_CELLS = 64
"""Rows and columns of the drawing, at most."""

_LONG, _SHORT, _LARGEST_CELL = 200, 50, 14
"""Pixels of the long side of the drawing, at most; of the short one, at least; and of a cell, at most."""

_SHADES = 4

_BLUE = "#3d8bcd"
"""Seen on white and on black: a notebook may be either."""


def page(text: str, shape: tuple[int, int], cells: Cells) -> str:
    """Text as it stands, beside the pattern of a matrix, if its entries can be counted.

    Parameters
    ----------
    text : str
    shape : (int, int)
        Of the matrix.
    cells : callable
        ``cells(row_edges, column_edges)`` counts the stored entries in each cell of a grid, or returns None.

    Returns
    -------
    str
    """
    rows, columns = (_edges(size) for size in shape)
    counts = cells(rows, columns)
    picture = "" if counts is None else drawing(counts, rows, columns)
    return (
        f'<div style="display: flex; flex-wrap: wrap; gap: 1.5em; align-items: center">{picture}'
        f'<pre style="margin: 0">{html.escape(text)}</pre></div>'
    )


def drawing(counts: Counts, row_edges: Sequence[int], column_edges: Sequence[int]) -> str:
    """A grid as SVG, a cell the darker the denser its entries are.

    Parameters
    ----------
    counts : ndarray, shape (rows, columns)
        Stored entries in each cell.
    row_edges, column_edges : sequence of int
        Where the cells begin, and where the last one ends.

    Returns
    -------
    str

    Examples
    --------
    >>> import numpy as np
    >>> drawing(np.eye(2, dtype=int), [0, 1, 2], [0, 1, 2]).count("M")  # each cell is one stroke of a path
    2
    """
    area = np.multiply.outer(*(np.diff(np.array(edges, dtype=np.float64)) for edges in (row_edges, column_edges)))
    density = counts.astype(np.float64) / area
    shades = np.ceil(_SHADES * np.sqrt(density / max(density.max(initial=0), np.finfo(float).tiny)))
    paths = [
        f'<path fill="{_BLUE}" fill-opacity="{shade / _SHADES}" d="{strokes}"/>'
        for shade in range(1, _SHADES + 1)
        if (strokes := _strokes(shades == shade))
    ]
    tall, wide = counts.shape
    rows, columns = row_edges[-1], column_edges[-1]
    width, height = _pixels(columns, rows), _pixels(rows, columns)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {wide} {tall}" preserveAspectRatio="none" shape-rendering="crispEdges" '
        f'style="flex: none; outline: 1px solid #8888"><title>pattern of the matrix, {rows} x {columns}</title>'
        f"{''.join(paths)}</svg>"
    )


def _edges(size: int) -> list[int]:
    """Where at most `_CELLS` cells of nearly equal length begin and end."""
    count = min(size, _CELLS)
    return [cell * size // count for cell in range(count + 1)]


def _strokes(cells: NDArray[np.bool_]) -> str:
    """The runs of cells along each row, as one path of rectangles."""
    sides = np.pad(cells, ((0, 0), (1, 1)))
    row, column = np.nonzero(sides[:, 1:] != sides[:, :-1])  # where a run begins, and where it ends, in turn
    runs = zip(row[::2].tolist(), column[::2].tolist(), column[1::2].tolist(), strict=True)
    return "".join(f"M{start} {y}H{stop}v1H{start}z" for y, start, stop in runs)


def _pixels(side: int, other: int) -> int:
    """The length of a side: in proportion to the other one, as far as both can be seen."""
    longest = min(_LONG, _LARGEST_CELL * max(side, other))
    return max(min(_SHORT, longest), longest * side // max(side, other))
