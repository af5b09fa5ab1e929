"""The planner of ``method="auto"``: what each method would do, counted, times what one such step was measured to cost.

A formula per method and direction counts its steps: Python calls, matrix products, samples copied and added,
multiplications, transformed samples. The table `COST` has the nanoseconds that one of each costs, fitted by
``benchmarks/plan.py --fit`` to measurements of one core; only the ratios matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from convmat.geometry import Geometry
from convmat.products.fft import tile_sides
from convmat.products.lowering import BAND_BYTES as LOWERED_BYTES
from convmat.products.separable import ROWS
from convmat.products.threads import workers
from convmat.products.toeplitz import BAND_BYTES, lowers

Counts = dict[str, float]

MATRIX_LIMIT = 2**20
"""Stored entries up to which "auto" may build the matrix: about 12 megabytes."""


@dataclass(frozen=True)
class Estimate:
    """The expected cost of one method: nanoseconds of one core for A x and for A^T y."""

    method: str
    forward: float
    transpose: float


def estimates(geometry: Geometry, single: bool, rank: int | None) -> list[Estimate]:
    """The expected cost of every method that "auto" may choose.

    `single` is whether the work is in single precision, `rank` how many separable terms the kernels have in all (None
    if that is not known to be few).
    """
    methods = [name for name in COUNTS if name != "separable" or rank is not None]
    if geometry.nnz > MATRIX_LIMIT:
        methods.remove("matrix")
    return [
        Estimate(name, *(cost(name, direction, geometry, single, rank or 0) for direction in ("forward", "transpose")))
        for name in methods
    ]


def cost(method: str, direction: str, geometry: Geometry, single: bool, rank: int) -> float:
    """Nanoseconds that one product is expected to take on one core."""
    counts = COUNTS[method](geometry, direction == "transpose", 4 if single else 8, rank)
    table = COST[method, direction, "single" if single else "double"]
    return sum(number * table.get(step, 0.0) for step, number in counts.items())


def work_bytes(method: str, geometry: Geometry, itemsize: int) -> float:
    """Bytes that a method keeps besides input and output, about."""
    g, threads = geometry, workers()
    if method == "matrix":
        return g.nnz * (itemsize + 4) + 4 * g.shape[0]
    if method == "gemm":
        row = g.in_channels * math.prod(g.kernel_size) * math.prod(g.output_size[1:]) * itemsize
        return 2.0 * max(LOWERED_BYTES, row)
    if method == "toeplitz":
        row = g.in_channels * g.kernel_size[-1] * g.output_size[-1] * (g.stride[0] + 1) * itemsize
        return 2.0 * threads * max(BAND_BYTES, row)
    if method == "fft":
        samples = math.prod(tile_sides(g)[0])
        images = g.in_channels * math.prod(g.stride) + g.out_channels
        kernels = g.out_channels * g.in_channels // g.groups * math.prod(g.stride)
        return samples * itemsize * (3.0 * threads * images + 2 * kernels)
    return 2.0 * threads * ROWS * g.input_size[-1] * itemsize


def _matrix(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    return {"call": 1, "entry": g.nnz, "row": g.shape[1] if transpose else g.shape[0]}


def _gemm(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    outputs, taps = math.prod(g.output_size), math.prod(g.kernel_size)
    lowered = g.in_channels * taps * outputs
    bands = -(-lowered * itemsize // LOWERED_BYTES)
    multiplications = outputs * g.out_channels * g.in_channels // g.groups * taps
    counts: Counts = {"call": 1, "band": bands, "product": bands * g.groups, "multiplication": multiplications}
    if transpose and set(g.stride) != {1}:
        return {**counts, "tap": bands * taps, "added": lowered}
    if transpose:
        return {**counts, "copied": g.out_channels * taps * math.prod(a.padded for a in g.axes)}
    return {**counts, ("copied" if g.stride[-1] == 1 else "gathered"): lowered}


def _toeplitz(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    if g.ndim == 1:
        return _line(g, transpose)
    planes = math.prod(g.output_size[:-2])
    ins, outs = g.in_channels * math.prod(g.kernel_size[:-2]), g.out_channels
    rows, cols = g.axes[-2:]
    read = rows.stride * (rows.output - 1) + rows.span
    if transpose:
        shifts = len({shift for shift, _ in cols.lattice()})
        reach, width = (rows.span - 1) // rows.stride, -(-cols.padded // cols.stride)
        sent = ins * rows.padded * cols.padded
        return {
            "call": planes,
            "product": planes * g.groups * rows.padded / rows.stride,
            "copied": planes * outs * shifts * rows.output * width,
            "written": planes * sent * (1 if cols.stride == 1 else 3),
            _work(ins * rows.stride * cols.stride // g.groups): planes * sent * outs / g.groups * (reach + 1) * shifts,
        }
    if lowers(rows, ins // g.groups, outs // g.groups):
        return {
            "call": planes,
            "product": planes * g.groups * rows.output,
            ("copied" if cols.stride == 1 else "gathered"): planes * ins * cols.taps * read * cols.output,
            _work(outs // g.groups): planes * outs * ins / g.groups * rows.taps * cols.taps * rows.output * cols.output,
        }
    return {
        "call": planes,
        "product": planes * g.groups * rows.output * cols.stride / 2,
        "copied": planes * ins * read * cols.padded,
        "summed": planes * outs * cols.taps * rows.output * cols.output,
        "multiplication": planes
        * outs
        * ins
        / g.groups
        * (rows.span + rows.stride)
        * cols.taps
        * rows.output
        * cols.output,
    }


def _work(rows: int) -> str:
    """A product with a single row is one of a matrix and a vector, which BLAS does at the speed of memory."""
    return "multiplication" if rows > 1 else "vector"


def _line(g: Geometry, transpose: bool) -> Counts:
    (axis,) = g.axes
    ins, outs = g.in_channels // g.groups, g.out_channels // g.groups
    block = max(1, -(-16 // outs), min(32, axis.taps // (2 * axis.stride)))
    window, reach = (block - 1) * axis.stride + axis.span, (axis.span - 1) // axis.stride
    if transpose:
        blocks = axis.padded / axis.stride / block
        lowered, wide = outs * (reach + block), ins * block * axis.stride
    else:
        blocks = axis.output / block
        lowered, wide = ins * window, outs * block
    return {
        "call": 1,
        "copied": blocks * g.groups * lowered,
        "multiplication": blocks * g.groups * lowered * wide,
        "written": blocks * g.groups * wide,
    }


def _fft(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    tile, step = tile_sides(g)
    size = [-(-a.padded // a.stride) for a in g.axes] if transpose else g.output_size
    tiles = math.prod(-(-n // s) for n, s in zip(size, step, strict=True))
    samples, phases = math.prod(tile), math.prod(g.stride)
    images = g.in_channels * phases + g.out_channels
    return {
        "call": 1,
        "tile": tiles,
        "read": tiles * images * samples,
        "transformed": tiles * images * samples * math.log2(samples + 1),
        "contracted": tiles * samples * g.out_channels * g.in_channels // g.groups * phases,
    }


def _separable(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    sizes_in, sizes_out = (g.output_size, g.input_size) if transpose else (g.input_size, g.output_size)
    multiplications, blocks = 0.0, 1
    shape = list(sizes_in)
    for dim, (axis, out) in enumerate(zip(g.axes, sizes_out, strict=True)):
        shape[dim] = out
        window = (ROWS + axis.span) / axis.stride if transpose else ROWS + axis.span
        multiplications += math.prod(shape) * min(window, sizes_in[dim])
        blocks *= -(-out // ROWS) if dim >= g.ndim - 2 else 1
    planes = math.prod(sizes_out[:-2])
    return {
        "call": 1,
        "term": rank,
        "block": rank * planes * blocks,
        "multiplication": rank * multiplications,
        "copied": rank * math.prod(sizes_out),
    }


COUNTS: dict[str, Callable[[Geometry, bool, int, int], Counts]] = {
    "matrix": _matrix,
    "gemm": _gemm,
    "toeplitz": _toeplitz,
    "fft": _fft,
    "separable": _separable,
}

COST: dict[tuple[str, str, str], dict[str, float]] = {
    ("matrix", "forward", "single"): {"call": 5520.0, "entry": 0.66, "row": 0.185},
    ("matrix", "forward", "double"): {"call": 5540.0, "entry": 0.669, "row": 0.408},
    ("matrix", "transpose", "single"): {"call": 5730.0, "entry": 0.739, "row": 0.171},
    ("matrix", "transpose", "double"): {"call": 5650.0, "entry": 0.799, "row": 0.239},
    ("gemm", "forward", "single"): {
        "band": 0.0,
        "call": 46000.0,
        "copied": 0.34,
        "gathered": 0.595,
        "multiplication": 0.0305,
        "product": 100.0,
    },
    ("gemm", "forward", "double"): {
        "band": 0.0,
        "call": 44300.0,
        "copied": 0.475,
        "gathered": 0.818,
        "multiplication": 0.0722,
        "product": 1420.0,
    },
    ("gemm", "transpose", "single"): {
        "added": 2.6,
        "band": 0.0,
        "call": 111000.0,
        "copied": 0.341,
        "multiplication": 0.0331,
        "product": 727.0,
        "tap": 2920.0,
    },
    ("gemm", "transpose", "double"): {
        "added": 3.25,
        "band": 0.0,
        "call": 66100.0,
        "copied": 0.675,
        "multiplication": 0.069,
        "product": 2920.0,
        "tap": 3140.0,
    },
    ("toeplitz", "forward", "single"): {
        "call": 73500.0,
        "copied": 0.509,
        "gathered": 0.89,
        "multiplication": 0.0444,
        "product": 41.7,
        "summed": 1.3,
        "vector": 0.139,
        "written": 1.57,
    },
    ("toeplitz", "forward", "double"): {
        "call": 68200.0,
        "copied": 0.308,
        "gathered": 0.515,
        "multiplication": 0.1,
        "product": 168.0,
        "summed": 3.39,
        "vector": 0.29,
        "written": 4.09,
    },
    ("toeplitz", "transpose", "single"): {
        "call": 66200.0,
        "copied": 0.821,
        "multiplication": 0.0498,
        "product": 5.1,
        "vector": 0.0903,
        "written": 0.397,
    },
    ("toeplitz", "transpose", "double"): {
        "call": 59600.0,
        "copied": 1.69,
        "multiplication": 0.108,
        "product": 252.0,
        "vector": 0.184,
        "written": 0.479,
    },
    ("fft", "forward", "single"): {
        "call": 70000.0,
        "contracted": 1.24,
        "read": 3.5,
        "tile": 51700.0,
        "transformed": 0.0,
    },
    ("fft", "forward", "double"): {"call": 111000.0, "contracted": 1.06, "read": 6.0, "tile": 0.0, "transformed": 0.0},
    ("fft", "transpose", "single"): {
        "call": 107000.0,
        "contracted": 1.27,
        "read": 2.73,
        "tile": 79600.0,
        "transformed": 0.0496,
    },
    ("fft", "transpose", "double"): {
        "call": 78200.0,
        "contracted": 1.17,
        "read": 6.01,
        "tile": 72100.0,
        "transformed": 0.0,
    },
    ("separable", "forward", "single"): {
        "block": 4530.0,
        "call": 0.0,
        "copied": 0.0,
        "multiplication": 0.0493,
        "term": 16700.0,
    },
    ("separable", "forward", "double"): {
        "block": 10100.0,
        "call": 0.0,
        "copied": 0.0,
        "multiplication": 0.0855,
        "term": 11000.0,
    },
    ("separable", "transpose", "single"): {
        "block": 6590.0,
        "call": 0.0,
        "copied": 0.877,
        "multiplication": 0.0258,
        "term": 14300.0,
    },
    ("separable", "transpose", "double"): {
        "block": 7570.0,
        "call": 0.0,
        "copied": 0.396,
        "multiplication": 0.0624,
        "term": 13700.0,
    },
}
"""(method, direction, precision) -> nanoseconds of each step."""
