"""``convmat layers``: the linear layers of a model, their matrices and the bounds of their norms."""

from __future__ import annotations

import json
import math
import textwrap
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from convmat import matrix
from convmat.cli import arguments, text
from convmat.cli.models import input_shape, layers_of
from convmat.cli.progress import Progress
from convmat.geometry import Geometry
from convmat.operators import Convolution, ImageOperator

_EXAMPLES = """\
  convmat layers model.onnx --input-shape image=1x3x224x224
  convmat layers torchvision.models:resnet18 --input-shape 1x3x224x224
  convmat layers path/to/file.py:function --rtol 0.001 --json"""

_NAMES, _KINDS = 14, 18
"""Characters that the first two columns have before another is left out."""

_SPARED = ("input", "output", "s", "bytes", "nnz")
"""Columns that a table does without where lines are short, in this order."""


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "layers",
        help="table of the linear layers of a model of ONNX or PyTorch",
        description="Print a table of the linear layers of a model: kind, or geometry of a convolution (channels, "
        "kernel, stride s, padding p, dilation d, groups g, T if transposed), images, size of the matrix, stored "
        "entries, bytes as CSR, certified bounds of the spectral norm, how far these are apart, and seconds. A "
        "narrow terminal has room for fewer columns.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("model", help="an .onnx file; or module:name or path/to/file.py:name, a function or class that "
                        "is called without arguments and returns a torch.nn.Module, or a pair of one and its example "
                        "inputs")  # fmt: skip
    parser.add_argument("--input-shape", type=input_shape, action="append", default=[], metavar="NAME=1x3x64x64",
                        help="full shape of an input that an ONNX model leaves open; of an example input for PyTorch, "
                        "where the name may be left out; may be repeated")  # fmt: skip
    parser.add_argument("--no-norms", action="store_true", help="leave out the norms, which take the time")
    parser.add_argument("--rtol", type=float, default=1e-2, metavar="R",
                        help="bounds are refined until they are no farther apart than this share (0.01)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document: a list of layers with name, "
                        "operator, dtype, input_shape, output_shape, shape, nnz and csr_bytes (null if not known), "
                        "bias, inputs, outputs; of convolutions kernel_size, stride, padding, dilation, groups; norm "
                        "(lower and upper bound), gap and seconds")  # fmt: skip
    parser.set_defaults(run=run)


def run(parsed: Namespace) -> None:
    """Run the command."""
    if not parsed.rtol > 0:
        raise arguments.BadArgument(f"--rtol {parsed.rtol} must be a positive number")
    begin = time.perf_counter()
    found = layers_of(parsed.model, parsed.input_shape)
    rows = []
    with Progress("norms") as progress:
        for done, layer in enumerate(found.values()):
            progress(done, len(found))
            facts = {"name": layer.name, **_facts(layer.operator)}
            facts |= {"bias": layer.bias is not None, "inputs": layer.inputs, "outputs": layer.outputs}
            rows.append(facts | ({} if parsed.no_norms else _norm(layer.operator, parsed.rtol)))
    if parsed.json:
        print(json.dumps(rows))
        return
    width = text.terminal_width()
    print(_table(rows, [layer.operator for layer in found.values()], not parsed.no_norms, width))
    for line in _skipped(found.skipped, width):
        print(line)
    print(textwrap.fill(_totals(rows, not parsed.no_norms, time.perf_counter() - begin), width))


def _facts(A: ImageOperator) -> dict[str, Any]:
    nnz = _nnz(A)
    index = matrix.index_dtype(nnz or 0, *A.shape).itemsize
    return {
        "operator": type(A).__name__,
        "dtype": A.dtype.name,
        "input_shape": A.input_shape,
        "output_shape": A.output_shape,
        **(_of_convolution(A.geometry) if isinstance(A, Convolution) else {}),
        "shape": A.shape,
        "nnz": nnz,
        "csr_bytes": None if nnz is None else nnz * (A.dtype.itemsize + index) + (A.shape[0] + 1) * index,
    }


def _of_convolution(geometry: Geometry) -> dict[str, Any]:
    return {name: getattr(geometry, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups")}


def _nnz(A: ImageOperator) -> int | None:
    """The stored entries; None where counting them would take time or memory."""
    if hasattr(A, "nnz"):
        return int(A.nnz)
    counts = A._cells([0, A.shape[0]], [0, A.shape[1]])
    return None if counts is None else int(counts.sum())


def _norm(A: ImageOperator, rtol: float) -> dict[str, Any]:
    """The bounds, None where a number is NaN or infinite; their gap, None if there is none; and the time."""
    from convmat import norm_bounds
    from convmat.spectrum.trees import check_finite

    begin = time.perf_counter()
    try:
        check_finite(A)
    except ValueError:
        return {"norm": None, "gap": None, "seconds": 0.0}
    lower, upper = norm_bounds(A, rtol=rtol)
    gap = upper / lower - 1 if lower > 0 else 0.0 if upper == 0 else math.inf
    seconds = time.perf_counter() - begin
    return {"norm": (lower, upper), "gap": gap if gap < math.inf else None, "seconds": seconds}


# as text --------------------------------------------------------------------------------------------------------------


def _table(rows: list[dict[str, Any]], operators: Sequence[ImageOperator], norms: bool, width: int) -> str:
    columns = {
        "layer": [text.printable(row["name"]) for row in rows],
        "operator": [_kind(A) for A in operators],
        "input": [_by_x(row["input_shape"]) for row in rows],
        "output": [_by_x(row["output_shape"]) for row in rows],
        "matrix": ["x".join(_short(n) for n in row["shape"]) for row in rows],
        "nnz": [_short(row["nnz"]) for row in rows],
        "bytes": [_short(row["csr_bytes"], "B") for row in rows],
    }
    if norms:
        columns |= {
            "norm": [_bounds(row["norm"]) for row in rows],
            "gap %": ["-" if row["gap"] is None else _decimals(100 * row["gap"]) for row in rows],
            "s": [_decimals(row["seconds"]) for row in rows],
        }
    for name in _SPARED:
        if _least(columns) > width:
            columns.pop(name, None)
    return text.table(list(columns), list(zip(*columns.values(), strict=True)), width)


def _least(columns: Mapping[str, Sequence[str]]) -> int:
    """The width of a table whose first two columns are cut, but still readable."""
    widths = {name: max(map(len, (name, *cells))) for name, cells in columns.items()}
    widths |= {"layer": min(widths["layer"], _NAMES), "operator": min(widths["operator"], _KINDS)}
    return sum(widths.values()) + 2 * (len(widths) - 1)


def _kind(A: ImageOperator) -> str:
    """Of a convolution channels, kernel and what is not the default, ``3>64 7x7 s2 p3``; else the class."""
    if not isinstance(A, Convolution):
        return type(A).__name__
    g = A.geometry
    channels = (A.input_shape[0], A.output_shape[0]) if g.channels else (1, 1)
    marks = [">".join(map(str, channels)), _by_x(g.kernel_size)]
    for letter, values, default in (("s", g.stride, 1), ("d", g.dilation, 1), ("p", _pads(g), 0)):
        if set(values) != {default}:
            marks.append(letter + (_by_x(values) if len(set(values)) > 1 else str(values[0])))
    marks += [f"g{g.groups}"] if g.groups > 1 else []
    marks += ["T"] if type(A).__name__.startswith("ConvTranspose") else []
    return " ".join(marks)


def _pads(geometry: Geometry) -> list[Any]:
    return [lo if lo == hi else f"{lo}:{hi}" for lo, hi in geometry.padding]


def _by_x(numbers: Sequence[Any]) -> str:
    return "x".join(map(str, numbers))


def _short(number: int | None, unit: str = "") -> str:
    return "?" if number is None else text.amount(number, unit).replace(" ", "")


def _decimals(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.0f}"


def _bounds(norm: tuple[float, float] | None) -> str:
    return "not finite" if norm is None else "..".join(text.outward(*norm, 4))


def _skipped(skipped: Mapping[str, str], width: int) -> Iterator[str]:
    """One line for each reason: how often, and for which names, as far as there is room."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    for reason, same in sorted(names.items(), key=lambda found: -len(found[1])):
        line = text.printable(f"skipped {len(same)}: {reason}: {', '.join(same)}")
        yield line if len(line) <= width else line[: width - 2] + ".."


def _totals(rows: list[dict[str, Any]], norms: bool, seconds: float) -> str:
    entries, size = (sum(row[name] or 0 for row in rows) for name in ("nnz", "csr_bytes"))
    least = "at least " if any(row["nnz"] is None for row in rows) else ""
    return (f"{len(rows)} layers, {least}{text.amount(entries)} stored entries, {text.amount(size, 'B')} as CSR, "
            f"{seconds:.1f} s{'; norms are certified' if norms else ''}")  # fmt: skip
