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
from convmat.products.toeplitz import BAND_BYTES, lowers, shifted_block

Counts = dict[str, float]

MATRIX_LIMIT = 2**20
"""Stored entries up to which "auto" may build the matrix: about 12 megabytes."""


CACHED = 2**19
"""Bytes of input and output that stay in a core's caches from one product to the next; what is beyond is streamed."""


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
    table = COST[method, direction, "single" if single else "double"]
    steps = counts(method, direction, geometry, single, rank)
    return sum(number * table.get(step, 0.0) for step, number in steps.items())


def counts(method: str, direction: str, geometry: Geometry, single: bool, rank: int) -> Counts:
    """How many steps of each kind one product takes."""
    itemsize = 4 if single else 8
    samples = geometry.in_channels * math.prod(geometry.input_size)
    samples += geometry.out_channels * math.prod(geometry.output_size)
    steps = COUNTS[method](geometry, direction == "transpose", itemsize, rank)
    return {**steps, "streamed": max(0.0, samples * itemsize - CACHED)}


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
    counts: Counts = {"call": 1, "product": bands * g.groups, "multiplication": multiplications}
    if transpose and set(g.stride) != {1}:
        return {**counts, "step": bands * taps, "run": lowered / g.output_size[-1], "added": lowered}
    if transpose:
        copied = g.out_channels * taps * math.prod(a.padded for a in g.axes)
        return {**counts, "copied": copied, "run": copied / g.axes[-1].padded}
    return {**counts, ("copied" if g.stride[-1] == 1 else "gathered"): lowered, "run": lowered / g.output_size[-1]}


def _toeplitz(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    if g.ndim == 1:
        return _line(g, transpose)
    planes = math.prod(g.output_size[:-2])
    ins, outs = g.in_channels * math.prod(g.kernel_size[:-2]), g.out_channels
    rows, cols = g.axes[-2:]
    read = rows.stride * (rows.output - 1) + rows.span
    outer = math.prod(g.kernel_size[:-2])
    if transpose:
        shifts = len({shift for shift, _ in cols.lattice()})
        reach, width = (rows.span - 1) // rows.stride, -(-cols.padded // cols.stride)
        sent = ins * rows.padded * cols.padded
        bands = max(1, (sent + outs * shifts * rows.output * width) * itemsize / BAND_BYTES)
        return {
            "call": 1,
            "step": planes * (outer + bands * (shifts + cols.stride)),
            "run": planes * (outs * shifts * rows.output + ins * rows.padded * cols.stride),
            "product": planes * g.groups * rows.padded / rows.stride,
            "copied": planes * outs * shifts * rows.output * width,
            "written": planes * sent * (1 if cols.stride == 1 else 3),
            _work(ins * rows.stride * cols.stride // g.groups): planes * sent * outs / g.groups * (reach + 1) * shifts,
        }
    if lowers(rows, ins // g.groups, outs // g.groups):
        lowered = ins * cols.taps * read * cols.output
        bands = max(1, (lowered + outs * rows.output * cols.output) * itemsize / BAND_BYTES)
        return {
            "call": 1,
            "step": planes * (outer + bands * cols.taps),
            "run": planes * ins * cols.taps * read,
            "product": planes * g.groups * rows.output,
            ("copied" if cols.stride == 1 else "gathered"): planes * lowered,
            _work(outs // g.groups): planes * outs * ins / g.groups * rows.taps * cols.taps * rows.output * cols.output,
        }
    window = (min(rows.output, shifted_block(cols, outs // g.groups)) - 1) * rows.stride + rows.span
    stacked = outs * -(-cols.taps // cols.stride) * rows.output
    bands = max(1, (ins * read + stacked) * cols.output * itemsize / BAND_BYTES)
    return {
        "call": 1,
        "step": planes * (outer + bands * (cols.stride + cols.taps)),
        "run": planes * (ins * read * cols.stride + outs * cols.taps * rows.output),
        "product": planes * g.groups * rows.output * cols.stride / 2,
        ("copied" if cols.stride == 1 else "gathered"): planes * ins * read * cols.padded,
        "summed": planes * outs * cols.taps * rows.output * cols.output,
        "multiplication": planes * outs * ins / g.groups * window * cols.taps * rows.output * cols.output,
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
        "step": tiles * phases,
        "read": tiles * images * samples,
        "gathered": tiles * g.in_channels * phases * samples if phases > 1 else 0,
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
    ("matrix", "forward", "single"): {"call": 5680.0, "entry": 0.699, "row": 0.351, "streamed": 0.0},
    ("matrix", "forward", "double"): {"call": 5760.0, "entry": 0.7, "row": 0.363, "streamed": 0.00737},
    ("matrix", "transpose", "single"): {"call": 5910.0, "entry": 0.773, "row": 0.209, "streamed": 0.0154},
    ("matrix", "transpose", "double"): {"call": 5910.0, "entry": 0.828, "row": 0.202, "streamed": 0.0146},
    ("gemm", "forward", "single"): {
        "call": 44100.0,
        "copied": 0.214,
        "gathered": 0.437,
        "multiplication": 0.0271,
        "product": 0.0,
        "run": 10.4,
        "streamed": 0.154,
    },
    ("gemm", "forward", "double"): {
        "call": 47500.0,
        "copied": 0.455,
        "gathered": 0.693,
        "multiplication": 0.0641,
        "product": 173.0,
        "run": 9.35,
        "streamed": 0.027,
    },
    ("gemm", "transpose", "single"): {
        "added": 2.31,
        "call": 104000.0,
        "copied": 0.234,
        "multiplication": 0.0304,
        "product": 0.225,
        "run": 11.6,
        "step": 3400.0,
        "streamed": 0.216,
    },
    ("gemm", "transpose", "double"): {
        "added": 2.91,
        "call": 71500.0,
        "copied": 0.512,
        "multiplication": 0.0682,
        "product": 0.0,
        "run": 19.4,
        "step": 3360.0,
        "streamed": 0.0851,
    },
    ("toeplitz", "forward", "single"): {
        "call": 35300.0,
        "copied": 0.0851,
        "gathered": 0.499,
        "multiplication": 0.0468,
        "product": 2.09,
        "run": 14.7,
        "step": 10500.0,
        "streamed": 0.116,
        "summed": 0.405,
        "vector": 0.0896,
        "written": 3.27,
    },
    ("toeplitz", "forward", "double"): {
        "call": 40200.0,
        "copied": 0.624,
        "gathered": 0.0,
        "multiplication": 0.0875,
        "product": 0.0,
        "run": 23.8,
        "step": 9700.0,
        "streamed": 0.039,
        "summed": 2.31,
        "vector": 0.191,
        "written": 4.29,
    },
    ("toeplitz", "transpose", "single"): {
        "call": 32100.0,
        "copied": 0.783,
        "multiplication": 0.0475,
        "product": 0.0,
        "run": 5.3,
        "step": 7150.0,
        "streamed": 0.052,
        "vector": 0.0352,
        "written": 0.358,
    },
    ("toeplitz", "transpose", "double"): {
        "call": 39900.0,
        "copied": 1.31,
        "multiplication": 0.112,
        "product": 164.0,
        "run": 0.0,
        "step": 6560.0,
        "streamed": 0.0497,
        "vector": 0.148,
        "written": 0.41,
    },
    ("fft", "forward", "single"): {
        "call": 8930.0,
        "contracted": 1.3,
        "gathered": 2.16,
        "read": 1.38,
        "step": 13300.0,
        "streamed": 0.0,
        "tile": 84700.0,
        "transformed": 0.134,
    },
    ("fft", "forward", "double"): {
        "call": 58000.0,
        "contracted": 1.33,
        "gathered": 1.02,
        "read": 4.07,
        "step": 13600.0,
        "streamed": 0.162,
        "tile": 24600.0,
        "transformed": 0.0694,
    },
    ("fft", "transpose", "single"): {
        "call": 52100.0,
        "contracted": 1.39,
        "gathered": 1.17,
        "read": 1.08,
        "step": 6170.0,
        "streamed": 0.00911,
        "tile": 114000.0,
        "transformed": 0.161,
    },
    ("fft", "transpose", "double"): {
        "call": 47200.0,
        "contracted": 1.39,
        "gathered": 0.481,
        "read": 5.45,
        "step": 8560.0,
        "streamed": 0.115,
        "tile": 83000.0,
        "transformed": 0.0212,
    },
    ("separable", "forward", "single"): {
        "block": 5260.0,
        "call": 473.0,
        "copied": 0.0,
        "multiplication": 0.0543,
        "streamed": 0.0,
        "term": 16800.0,
    },
    ("separable", "forward", "double"): {
        "block": 7210.0,
        "call": 119.0,
        "copied": 0.0,
        "multiplication": 0.0934,
        "streamed": 0.031,
        "term": 15700.0,
    },
    ("separable", "transpose", "single"): {
        "block": 7300.0,
        "call": 1440.0,
        "copied": 0.771,
        "multiplication": 0.0294,
        "streamed": 0.0,
        "term": 14300.0,
    },
    ("separable", "transpose", "double"): {
        "block": 7060.0,
        "call": 0.0,
        "copied": 0.557,
        "multiplication": 0.0683,
        "streamed": 0.0,
        "term": 15600.0,
    },
}
"""(method, direction, precision) -> nanoseconds of each step."""
