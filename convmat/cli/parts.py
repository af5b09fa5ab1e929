"""An operator that is not one layer, as text: its shapes, what it is made of as a tree, and the matrix as dots."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from convmat.cli import text
from convmat.cli.arguments import BadArgument
from convmat.operators.base import ImageOperator, parts_of

_LINES, _DEEPEST = 40, 10
"""Parts that are printed, and how many levels of them: a file of a few parts may hold a tree of billions."""


def report(A: ImageOperator, picture: str, width: int, height: int) -> Iterator[str]:
    """What is printed, line by line."""
    if picture == "taps":
        raise BadArgument(f"--picture taps: the entries of a {type(A).__name__} are no taps of a kernel")
    style = text.style_of("auto" if picture == "none" else picture)
    grid = text.Grid.fitting(A.shape, style, width, height)
    entries = A._cells(grid.rows, grid.columns)
    yield text.entry("operator", _line(A), width)
    tree = [*itertools.islice(_tree(A, 0), _LINES + 1)]
    for name, (depth, part) in zip(itertools.chain(["parts"], itertools.repeat("")), tree[:_LINES], strict=False):
        yield text.entry(name, "  " * depth + _line(part), width)
    if len(tree) > _LINES:
        yield text.entry("", "and more", width)
    if entries is None:
        yield text.entry("nnz", "not known: counting the entries would take time or memory", width)
        return
    nnz = int(entries.sum())
    yield text.entry("nnz", f"{nnz} stored entries", width)
    yield text.entry("density", f"{100 * (nnz / math.prod(A.shape)):.4g} %", width)
    if picture != "none":
        yield ""
        yield from text.pattern("A", entries, grid, style, width)


def document(A: ImageOperator, width: int, height: int) -> dict[str, Any]:
    """What is printed with ``--json``; nnz and picture are null where counting would take time or memory."""
    grid = text.Grid.fitting(A.shape, text.STYLES["braille"], width, height)
    entries: NDArray[Any] | None = A._cells(grid.rows, grid.columns)
    picture = {"row_edges": grid.rows, "column_edges": grid.columns}
    return _facts(A) | {
        "nnz": None if entries is None else int(entries.sum()),
        "parts": [_facts(part) for part in parts_of(A)],
        "picture": None if entries is None else picture | {"entries": entries.astype(object).tolist()},
    }


def _facts(A: ImageOperator) -> dict[str, Any]:
    return {
        "operator": type(A).__name__,
        "shape": A.shape,
        "input_shape": A.input_shape,
        "output_shape": A.output_shape,
        "dtype": A.dtype.name,
    }


def _tree(A: ImageOperator, depth: int) -> Iterator[tuple[int, ImageOperator]]:
    """The parts of an operator, each followed by its own, as they are asked for."""
    for part in parts_of(A):
        yield depth, part
        if depth < _DEEPEST:
            yield from _tree(part, depth + 1)


def _line(A: ImageOperator) -> str:
    shapes = " -> ".join(" x ".join(map(str, shape)) for shape in (A.input_shape, A.output_shape))
    return f"{type(A).__name__}, {A.shape[0]} x {A.shape[1]}, {A.dtype.name}, images {shapes}"
