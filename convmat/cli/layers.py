"""``convmat layers``: the convolutions of an ONNX model, their matrices and the bounds of their norms."""

from __future__ import annotations

import json
import re
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmat import matrix
from convmat.cli import arguments, text
from convmat.cli.progress import Progress

if TYPE_CHECKING:
    from convmat.geometry import Geometry
    from convmat.operators import Convolution


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "layers",
        help="table of the convolutions of an ONNX model",
        description="Print a table of the convolutions of an ONNX model: geometry, size of the matrix, stored entries, "
        "bytes as CSR, and certified bounds of the spectral norm. No matrix is built.",
    )
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument("--input-shape", type=input_shape, action="append", default=[], metavar="NAME=1x3x64x64",
                        help="full shape of an input that the model leaves open; may be repeated")  # fmt: skip
    parser.add_argument("--no-norms", action="store_true", help="leave out the norms, which take the time")
    parser.add_argument("--json", action="store_true", help="print one JSON document: a list of layers with name, "
                        "operator, input_shape, output_shape, kernel_size, stride, padding, dilation, groups, shape, "
                        "nnz, csr_bytes, bias, inputs, outputs, and norm (lower and upper bound)")  # fmt: skip
    parser.set_defaults(run=run)


def input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and shape of ``name=1x3x64x64``."""
    name, equals, shape = text.rpartition("=")
    if not equals or not re.fullmatch(r"\d+([x,]\d+)*", shape):
        raise ArgumentTypeError(f"{text!r} must be NAME=SHAPE, such as image=1x3x64x64")
    return name, arguments.sizes(shape)


def run(parsed: Namespace) -> None:
    """Run the command."""
    from convmat.interop.onnx import from_onnx
    from convmat.operators import Convolution

    if not parsed.model.is_file():
        raise arguments.BadArgument(f"{text.printable(str(parsed.model))} is not a file")
    try:
        found = from_onnx(parsed.model, input_shapes=dict(parsed.input_shape) or None)
    except (TypeError, ValueError) as error:
        hint = "; that is --input-shape NAME=1x3x64x64 here" if "input_shapes" in str(error) else ""
        raise arguments.BadArgument(f"{text.printable(str(parsed.model))}: {error}{hint}") from error

    layers = [layer for layer in found.values() if isinstance(layer.operator, Convolution)]
    rows = []
    with Progress("norms") as progress:
        for done, layer in enumerate(layers):
            progress(done, len(layers))
            facts = _facts(layer.operator)
            facts |= {"bias": layer.bias is not None, "inputs": layer.inputs, "outputs": layer.outputs}
            rows.append({"name": layer.name, **facts} | ({} if parsed.no_norms else {"norm": _norm(layer.operator)}))
    if parsed.json:
        print(json.dumps(rows))
        return
    print(_table(rows, [layer.operator.geometry for layer in layers], text.terminal_width()))
    entries, size = (sum(row[name] for row in rows) for name in ("nnz", "csr_bytes"))
    print(f"{len(rows)} layers, {text.amount(entries)} stored entries, {text.amount(size, 'B')} as CSR"
          f"{'' if parsed.no_norms else '; norms are certified bounds'}")  # fmt: skip


def _facts(A: Convolution) -> dict[str, Any]:
    geometry = A.geometry
    index = matrix.index_dtype(A.nnz, *A.shape).itemsize
    return {
        "operator": type(A).__name__,
        "input_shape": A.input_shape,
        "output_shape": A.output_shape,
        "kernel_size": geometry.kernel_size,
        "stride": geometry.stride,
        "padding": geometry.padding,
        "dilation": geometry.dilation,
        "groups": geometry.groups,
        "shape": A.shape,
        "nnz": A.nnz,
        "csr_bytes": A.nnz * (A.dtype.itemsize + index) + (A.shape[0] + 1) * index,
    }


def _norm(A: Convolution) -> tuple[float, float] | None:
    """The bounds, or None where a weight is NaN or infinite."""
    import numpy as np

    from convmat import norm_bounds

    return norm_bounds(A) if np.isfinite(A.weight).all() else None


def _table(rows: list[dict[str, Any]], geometries: list[Geometry], width: int) -> str:
    lines = [
        [
            text.printable(row["name"]),
            _geometry(row, geometry),
            "x".join(text.amount(n).replace(" ", "") for n in row["shape"]),
            text.amount(row["nnz"]).replace(" ", ""),
            text.amount(row["csr_bytes"], "B").replace(" ", ""),
            *([_bounds(row["norm"])] if "norm" in row else []),
        ]
        for row, geometry in zip(rows, geometries, strict=True)
    ]
    header = ["layer", "geometry", "matrix", "nnz", "bytes", *(["norm"] if rows and "norm" in rows[0] else [])]
    return text.table(header, lines, width)


def _geometry(row: dict[str, Any], geometry: Geometry) -> str:
    """Channels, kernel and what is not the default: ``3>64 7x7 s2 p3``."""
    marks = [f"{row['input_shape'][0]}>{row['output_shape'][0]}", "x".join(map(str, geometry.kernel_size))]
    for letter, values, default in (("s", geometry.stride, 1), ("d", geometry.dilation, 1), ("p", _pads(geometry), 0)):
        if set(values) != {default}:
            marks.append(letter + ("x".join(map(str, values)) if len(set(values)) > 1 else str(values[0])))
    marks += [f"g{geometry.groups}"] if geometry.groups > 1 else []
    marks += ["T"] if row["operator"].startswith("ConvTranspose") else []
    return " ".join(marks)


def _pads(geometry: Geometry) -> list[Any]:
    return [lo if lo == hi else f"{lo}:{hi}" for lo, hi in geometry.padding]


def _bounds(norm: tuple[float, float] | None) -> str:
    return "not finite" if norm is None else "..".join(text.outward(*norm, 4))
