"""``convmat show``: the geometry, its formulas with the numbers put in, and the matrix as characters.

Of an operator in a file, its parts and the matrix: `convmat.cli.parts`.
"""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat import matrix
from convmat.cli import arguments, formulas, text
from convmat.cli.arguments import Layer
from convmat.occupancy import entries_in_cells

_LABELS_LIMIT = 10_000
"""Entries of the largest matrix that is printed one by one, and so really built."""


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "show",
        help="print a layer: geometry, formulas, the matrix and its transpose as characters",
        description="Print a layer: its geometry, its formulas with the numbers put in, and the matrix and its "
                    "transpose as characters, aggregated to the width of the terminal where they are large; of any "
                    "other operator in a file, its parts and the matrix. Nothing large is built, at any size.",
        epilog=arguments.EXAMPLES,
    )  # fmt: skip
    arguments.add_operator(parser)
    parser.add_argument("--picture", choices=("auto", "taps", *text.STYLES, "none"), default="auto",
                        help="auto: the tap of each entry if that fits, or else a dot where there is an entry, of "
                             "braille characters if they can be printed")  # fmt: skip
    parser.add_argument("--width", type=int, metavar="COLUMNS", help="of the output (default: of the terminal, or 80)")
    parser.add_argument("--height", type=int, default=50, metavar="LINES", help="of each picture (default 50)")
    parser.add_argument("--json", action="store_true", help="print one JSON document: shape, nnz, density, csr_bytes, "
                        "geometry, and the number of entries in each cell of a picture; of an operator that is no "
                        "layer: shape, nnz, parts, picture")  # fmt: skip
    parser.set_defaults(run=run)


def run(parsed: Namespace) -> None:
    """Run the command."""
    if parsed.width is not None and parsed.width < 40:
        raise arguments.BadArgument(f"--width {parsed.width} must be at least 40")
    if parsed.height < 4:
        raise arguments.BadArgument(f"--height {parsed.height} must be at least 4")
    shown = arguments.layer_or_operator(parsed)
    width = text.terminal_width(parsed.width)
    if isinstance(shown, Layer):
        told = document(shown, width, parsed.height) if parsed.json else None
        lines = report(shown, parsed.picture, width, parsed.height)
    else:
        from convmat.cli import parts

        told = parts.document(shown, width, parsed.height) if parsed.json else None
        lines = parts.report(shown, parsed.picture, width, parsed.height)
    print("\n".join(lines) if told is None else json.dumps(told))


def report(layer: Layer, picture: str, width: int, height: int) -> Iterator[str]:
    """What is printed, line by line."""
    names = ("B = A^T", "A") if layer.transposed else ("A", "A^T")
    if layer.transposed:
        shapes = f"{_x(layer.input_shape)} -> {_x(layer.output_shape)}"
        yield text.entry("transposed", f"{shapes}, the transpose B = A^T of the convolution A:", width)
    for line in str(layer.geometry).splitlines():
        yield text.entry(line[:12].rstrip(), line[13:], width)
    yield ""
    for name, formula in formulas.lines(layer.geometry, layer.transposed):
        yield text.entry(name, formula, width)
    yield ""
    yield from _size_lines(layer, names, width)
    if picture == "none":
        return
    for name, transposed in zip(names, (layer.transposed, not layer.transposed), strict=True):
        yield ""
        yield from _picture(layer, name, transposed, picture, width, height)


def document(layer: Layer, width: int, height: int) -> dict[str, Any]:
    """What is printed with ``--json``: facts, and the entries in each cell of the picture that fits the terminal."""
    geometry = layer.geometry
    shape = _shape(layer, layer.transposed)
    grid = text.Grid.fitting(shape, text.STYLES["braille"], width, height)
    return {
        "operator": layer.kind,
        "shape": shape,
        "input_shape": layer.input_shape,
        "output_shape": layer.output_shape,
        "nnz": geometry.nnz,
        "density": geometry.nnz / math.prod(shape),
        "dtype": layer.dtype.name,
        "csr_bytes": csr_bytes(layer, layer.transposed),
        "csr_bytes_of_transpose": csr_bytes(layer, not layer.transposed),
        "geometry": geometry_document(layer),
        "picture": {
            "row_edges": grid.rows,
            "column_edges": grid.columns,
            "entries": _counts(layer, layer.transposed, grid).tolist(),
        },
    }


def geometry_document(layer: Layer) -> dict[str, Any]:
    """The convolution (that which a transposed one transposes), with everything resolved."""
    names = ("input_size", "output_size", "kernel_size", "stride", "dilation", "padding", "padding_mode", "groups",
             "in_channels", "out_channels", "channels", "flip")  # fmt: skip
    return {name: getattr(layer.geometry, name) for name in names} | {"same_output_from": layer.geometry.sharing}


def csr_bytes(layer: Layer, transposed: bool) -> int:
    """Bytes of the CSR array of A, or of A^T."""
    rows, columns = _shape(layer, transposed)
    nnz = layer.geometry.nnz
    index = matrix.index_dtype(nnz, rows, columns).itemsize
    return nnz * (layer.dtype.itemsize + index) + (rows + 1) * index


def _shape(layer: Layer, transposed: bool) -> tuple[int, int]:
    rows, columns = layer.geometry.shape
    return (columns, rows) if transposed else (rows, columns)


def _size_lines(layer: Layer, names: tuple[str, str], width: int) -> Iterator[str]:
    shape, nnz = _shape(layer, layer.transposed), layer.geometry.nnz
    yield text.entry("nnz", f"{nnz} stored entries in {names[0]}, {shape[0]} x {shape[1]}", width)
    yield text.entry("density", f"{100 * (nnz / math.prod(shape)):.4g} %", width)
    size, other = (csr_bytes(layer, transposed) for transposed in (layer.transposed, not layer.transposed))
    readable = "" if size < 1000 else f" ({text.amount(size, 'B')})"
    weight = math.prod(layer.geometry.weight_shape) * layer.dtype.itemsize
    facts = f"{size}{readable} as CSR in {layer.dtype.name}, {other} the transpose; the weight alone {weight}"
    yield text.entry("bytes", facts, width)


def _picture(layer: Layer, name: str, transposed: bool, picture: str, width: int, height: int) -> Iterator[str]:
    """A, or A^T, as characters."""
    shape = _shape(layer, transposed)
    by_tap = math.prod(shape) <= _LABELS_LIMIT and shape[1] <= width and shape[0] <= height
    if picture == "taps" and not by_tap:
        raise arguments.BadArgument(
            f"--picture taps needs {shape[1]} columns and {shape[0]} lines, and at most {_LABELS_LIMIT} entries; "
            f"there are {width} columns and {height} lines"
        )
    if picture == "taps" or (picture == "auto" and by_tap):
        yield from _taps(layer, name, transposed, width)
        return
    style = text.style_of(picture)
    grid = text.Grid.fitting(shape, style, width, height)
    yield from text.pattern(name, _counts(layer, transposed, grid), grid, style, width)


def _counts(layer: Layer, transposed: bool, grid: text.Grid) -> NDArray[Any]:
    if transposed:
        return entries_in_cells(layer.geometry, grid.columns, grid.rows).T
    return entries_in_cells(layer.geometry, grid.rows, grid.columns)


def tap_labels(layer: Layer, transposed: bool) -> NDArray[np.int64]:
    """Which tap each entry is, its C-order position in the kernel as given; -1 for no entry, -2 for several taps."""
    geometry = layer.geometry
    weights = np.sort(np.random.default_rng(0).random(math.prod(geometry.kernel_size)))  # none is a sum of others
    kernel = np.broadcast_to(weights.reshape(geometry.kernel_size), geometry.weight_shape)
    entries = (matrix.sparse_transpose if transposed else matrix.sparse)(geometry, kernel).toarray()
    tap = np.minimum(np.searchsorted(weights, entries), weights.size - 1)
    return np.where(entries == 0, -1, np.where(entries == weights[tap], tap, -2))


def _taps(layer: Layer, name: str, transposed: bool, width: int) -> Iterator[str]:
    """One character per entry, image rows apart and the index of the output in front, as far as they fit."""
    outputs, inputs = layer.geometry.output_shape, layer.geometry.input_shape
    if transposed:
        outputs, inputs = inputs, outputs
    labels = tap_labels(layer, transposed)
    rows = text.taps(labels)
    heads = [",".join(map(str, index)) for index in np.ndindex(outputs)]
    pad = max(map(len, heads))
    line = inputs[-1]
    apart = [" ".join(row[i : i + line] for i in range(0, len(row), line)) for row in rows]
    layouts = (
        [f"{head:>{pad}}  {row}" for head, row in zip(heads, apart, strict=True)],
        apart,
        rows,
    )
    marks = [f"a letter is a tap of the kernel {_kernel(layer)}"]
    marks += [f"{text.SEVERAL} a sum of taps"] if (labels == -2).any() else []
    marks += [f"{text.BEYOND} a later tap"] if (labels >= len(text.LETTERS)).any() else []
    yield from text.entry(name, f"{len(rows)} x {len(rows[0])}; {', '.join(marks)}", width).splitlines()
    yield from next(layout for layout in layouts if len(layout[0]) <= width)


def _kernel(layer: Layer) -> str:
    """The letters of the taps, the rows of the kernel apart."""
    size, line = math.prod(layer.geometry.kernel_size), layer.geometry.kernel_size[-1]
    letters = text.LETTERS[:size]
    return " ".join(letters[i : i + line] for i in range(0, len(letters), line)) + (
        " .." if size > len(letters) else ""
    )


def _x(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
