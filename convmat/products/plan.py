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
from convmat.products.fft import THREAD_WORK as FFT_WORK
from convmat.products.fft import tile_sides
from convmat.products.lowering import BAND_BYTES as LOWERED_BYTES
from convmat.products.lowering import pieces
from convmat.products.separable import COLUMNS, MOST, ROWS, block_height
from convmat.products.separable import THREAD_WORK as SEPARABLE_WORK
from convmat.products.threads import workers
from convmat.products.toeplitz import BAND_BYTES, line_block, lowers, shifted_block
from convmat.products.toeplitz import THREAD_WORK as TOEPLITZ_WORK

Counts = dict[str, float]

MATRIX_LIMIT = 2**20
"""Stored entries up to which "auto" may build the matrix: about 12 megabytes."""

THIN = 8
"""Rows up to which a matrix product is far from the speed of a large one."""

CACHED = 2**19
"""Bytes of input and output that stay in a core's caches from one product to the next; what is beyond is streamed."""


@dataclass(frozen=True)
class Estimate:
    """The expected cost of one method: nanoseconds for A x and for A^T y, on the threads that it would use."""

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
    found = []
    for name in methods:
        threads = concurrency(name, geometry)
        costs = (cost(name, direction, geometry, single, rank or 0) for direction in ("forward", "transpose"))
        found.append(Estimate(name, *(nanoseconds / threads for nanoseconds in costs)))
    return found


def concurrency(method: str, geometry: Geometry) -> int:
    """How many threads share the work of one product."""
    multiplications = math.prod(geometry.weight_shape) * math.prod(geometry.output_size)
    samples = math.prod(geometry.input_size)
    if method == "gemm":
        return min(workers(), pieces(geometry))
    if method == "toeplitz":
        return workers() if multiplications >= TOEPLITZ_WORK else 1
    if method == "separable":
        return workers() if samples >= SEPARABLE_WORK else 1
    if method == "fft":
        _, step = tile_sides(geometry)
        tiles = math.prod(-(-n // s) for n, s in zip(geometry.output_size, step, strict=True))
        return min(workers(), tiles) if samples * geometry.in_channels >= FFT_WORK else 1
    return 1


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
        return 2.0 * threads * max(LOWERED_BYTES, row)
    if method == "toeplitz":
        row = g.in_channels * g.kernel_size[-1] * g.output_size[-1] * (g.stride[0] + 1) * itemsize
        return 2.0 * threads * max(BAND_BYTES, row)
    if method == "fft":
        samples = math.prod(tile_sides(g)[0])
        images = g.in_channels * math.prod(g.stride) + g.out_channels
        kernels = g.out_channels * g.in_channels // g.groups * math.prod(g.stride)
        return samples * itemsize * (3.0 * threads * images + 2 * kernels)
    return 2.0 * threads * MOST * g.input_size[-1] * itemsize


def _matrix(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    return {"call": 1, "entry": g.nnz, "row": g.shape[1] if transpose else g.shape[0]}


def _gemm(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    outputs, taps = math.prod(g.output_size), math.prod(g.kernel_size)
    lowered = g.in_channels * taps * outputs
    bands = -(-lowered * itemsize // LOWERED_BYTES)
    multiplications = outputs * g.out_channels * g.in_channels // g.groups * taps
    counts: Counts = {"call": 1, "product": bands * g.groups}
    ins, outs = g.in_channels // g.groups, g.out_channels // g.groups
    if transpose and set(g.stride) != {1}:
        sent = {"step": bands * taps, "run": lowered / g.output_size[-1], "added": lowered}
        return {**counts, **sent, **_folding(g, bands), _work(ins * taps): multiplications}
    if transpose:
        size = [a.size if a.sends_nothing_back else a.padded for a in g.axes]
        copied = g.out_channels * taps * math.prod(size)
        work = multiplications / outputs * math.prod(size)
        return {**counts, **_folding(g, 1), _work(ins): work, "copied": copied, "run": copied / size[-1]}
    gathered = "copied" if g.stride[-1] == 1 else "gathered"
    return {**counts, _work(outs): multiplications, gathered: lowered, "run": lowered / g.output_size[-1]}


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
            **_folding(g, planes * bands),
            _work(ins * rows.stride * cols.stride // g.groups): planes * sent * outs / g.groups * (reach + 1) * shifts,
        }
    if lowers(rows, cols, ins // g.groups, outs // g.groups):
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
    block = min(rows.output, shifted_block(cols, outs // g.groups))
    reads = cols.lattice()
    shifts, phases = len({shift for shift, _ in reads}), len({phase for _, phase in reads})
    window, shifted = (block - 1) * rows.stride + rows.span, shifts * rows.output * cols.output
    bands = max(1, (ins * read * phases + outs * shifts * rows.output) * cols.output * itemsize / BAND_BYTES)
    return {
        "call": 1,
        "step": planes * (outer + bands * (phases + shifts)),
        "run": planes * (ins * read * phases + outs * shifts * rows.output),
        "product": planes * g.groups * rows.output / block,
        ("copied" if cols.stride == 1 else "gathered"): planes * ins * read * cols.output * phases,
        "summed": planes * outs * shifted,
        _work(shifts * block * outs // g.groups): planes * outs * ins / g.groups * window * phases * shifted,
    }


def _folding(g: Geometry, bands: float) -> Counts:
    """What folding the border back takes: its lines, one by one for each band, and a pass over the extended image."""
    if all(axis.sends_nothing_back for axis in g.axes):
        return {}
    lines = [max(0, axis.lo) + max(0, axis.hi) for axis in g.axes]
    return {
        "border line": lines[0] + bands * sum(lines[1:]),
        "folded": g.in_channels * math.prod(axis.padded for axis in g.axes),
    }


def _work(rows: int) -> str:
    """The kind of a product by its rows: with one, BLAS works at the speed of memory; with few, it mostly packs."""
    if rows == 1:
        return "vector"
    return "thin" if rows <= THIN else "multiplication"


def _line(g: Geometry, transpose: bool) -> Counts:
    (axis,) = g.axes
    ins, outs = g.in_channels // g.groups, g.out_channels // g.groups
    block = line_block(axis, outs)
    window, reach = (block - 1) * axis.stride + axis.span, (axis.span - 1) // axis.stride
    if transpose:
        blocks = axis.padded / axis.stride / block
        runs, lowered, wide = outs, outs * (reach + block), ins * block * axis.stride
    else:
        blocks = axis.output / block
        runs, lowered, wide = ins, ins * window, outs * block
    return {
        "line": 1,
        **(_folding(g, 1) if transpose else {}),
        "line run": blocks * g.groups * runs,
        "line copied": blocks * g.groups * lowered,
        "line multiplication": blocks * g.groups * lowered * wide,
        "line written": blocks * g.groups * wide,
    }


def _fft(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    tile, step = tile_sides(g)
    ranges = [a.sent for a in g.axes] if transpose else [(0, m) for m in g.output_size]
    tiles = math.prod(-(-(last - first) // s) for (first, last), s in zip(ranges, step, strict=True))
    samples, phases = math.prod(tile), math.prod(g.stride)
    images = g.in_channels * phases + g.out_channels
    return {
        "call": 1,
        "tile": tiles,
        "step": tiles * phases,
        "read": tiles * images * samples,
        "gathered": tiles * g.in_channels * phases * samples if phases > 1 else 0,
        "transformed": tiles * images * samples * math.log2(samples + 1),
        **(_folding(g, 1) if transpose else {}),
        "contracted": tiles * samples * g.out_channels * g.in_channels // g.groups * phases,
    }


def _separable(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    sizes_in, sizes_out = (g.output_size, g.input_size) if transpose else (g.input_size, g.output_size)
    work, heights = [], []
    shape = list(sizes_in)
    for dim, (axis, read, out) in enumerate(zip(g.axes, sizes_in, sizes_out, strict=True)):
        shape[dim] = out
        heights.append(block_height((out, read), COLUMNS if dim == g.ndim - 1 else ROWS))
        window = (heights[-1] + axis.span) / axis.stride if transpose else axis.stride * heights[-1] + axis.span
        work.append(math.prod(shape) * min(window, read))
    planes = math.prod(sizes_out[:-2])
    bands = -(-sizes_out[-2] // heights[-2]) if g.ndim > 1 else 1
    return {
        "call": 1,
        "term": rank,
        "block": rank * planes * bands,
        "product": rank * planes * bands * -(-sizes_out[-1] // heights[-1]),
        "multiplication": rank * sum(work[:-1]),
        "narrow multiplication": rank * work[-1],
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
    ("matrix", "forward", "single"): {"call": 5760.0, "entry": 0.701, "row": 0.336, "streamed": 0.0117},
    ("matrix", "forward", "double"): {"call": 5470.0, "entry": 0.738, "row": 0.565, "streamed": 0.0},
    ("matrix", "transpose", "single"): {"call": 5990.0, "entry": 0.784, "row": 0.162, "streamed": 0.0281},
    ("matrix", "transpose", "double"): {"call": 5800.0, "entry": 0.835, "row": 0.268, "streamed": 0.0211},
    ("gemm", "forward", "single"): {
        "call": 45900.0,
        "copied": 0.252,
        "gathered": 0.473,
        "multiplication": 0.0256,
        "product": 0.0,
        "run": 8.3,
        "streamed": 0.0785,
        "thin": 0.0442,
        "vector": 0.0,
    },
    ("gemm", "forward", "double"): {
        "call": 41100.0,
        "copied": 0.532,
        "gathered": 0.757,
        "multiplication": 0.057,
        "product": 355.0,
        "run": 7.37,
        "streamed": 0.0435,
        "thin": 0.0973,
        "vector": 0.0,
    },
    ("gemm", "transpose", "single"): {
        "added": 1.8,
        "border line": 4790.0,
        "call": 45400.0,
        "copied": 0.228,
        "folded": 2.95,
        "multiplication": 0.0258,
        "product": 0.0,
        "run": 9.41,
        "step": 4170.0,
        "streamed": 0.0364,
        "thin": 0.0388,
        "vector": 0.0,
    },
    ("gemm", "transpose", "double"): {
        "added": 2.45,
        "border line": 5280.0,
        "call": 43900.0,
        "copied": 0.571,
        "folded": 2.19,
        "multiplication": 0.0539,
        "product": 0.0,
        "run": 8.39,
        "step": 5110.0,
        "streamed": 0.0539,
        "thin": 0.0568,
        "vector": 0.0,
    },
    ("toeplitz", "forward", "single"): {
        "call": 37900.0,
        "copied": 0.244,
        "gathered": 0.512,
        "line": 64600.0,
        "line copied": 2.55,
        "line multiplication": 0.00689,
        "line run": 3.16,
        "line written": 2.62,
        "multiplication": 0.0528,
        "product": 0.0,
        "run": 20.5,
        "step": 7850.0,
        "streamed": 0.0406,
        "summed": 0.0,
        "thin": 0.0547,
        "vector": 0.0688,
    },
    ("toeplitz", "forward", "double"): {
        "call": 11400.0,
        "copied": 0.885,
        "gathered": 0.948,
        "line": 75200.0,
        "line copied": 0.0,
        "line multiplication": 0.189,
        "line run": 11.6,
        "line written": 0.942,
        "multiplication": 0.0865,
        "product": 20.3,
        "run": 10.1,
        "step": 13400.0,
        "streamed": 0.0301,
        "summed": 1.29,
        "thin": 0.1,
        "vector": 0.0877,
    },
    ("toeplitz", "transpose", "single"): {
        "border line": 6870.0,
        "call": 28300.0,
        "copied": 0.193,
        "folded": 1.64,
        "line": 56900.0,
        "line copied": 0.0,
        "line multiplication": 0.0565,
        "line run": 6.08,
        "line written": 2.07,
        "multiplication": 0.0375,
        "product": 97.4,
        "run": 13.4,
        "step": 5370.0,
        "streamed": 0.118,
        "thin": 0.0607,
        "vector": 0.0564,
        "written": 0.0614,
    },
    ("toeplitz", "transpose", "double"): {
        "border line": 6530.0,
        "call": 21800.0,
        "copied": 0.839,
        "folded": 2.65,
        "line": 56100.0,
        "line copied": 0.0,
        "line multiplication": 0.187,
        "line run": 9.57,
        "line written": 0.235,
        "multiplication": 0.0828,
        "product": 112.0,
        "run": 5.87,
        "step": 6290.0,
        "streamed": 0.0397,
        "thin": 0.0898,
        "vector": 0.0993,
        "written": 0.272,
    },
    ("fft", "forward", "single"): {
        "call": 17000.0,
        "contracted": 1.21,
        "gathered": 1.49,
        "read": 2.3,
        "step": 15100.0,
        "streamed": 0.0,
        "tile": 97700.0,
        "transformed": 0.0649,
    },
    ("fft", "forward", "double"): {
        "call": 3250.0,
        "contracted": 1.42,
        "gathered": 1.11,
        "read": 1.7,
        "step": 24300.0,
        "streamed": 0.0644,
        "tile": 96500.0,
        "transformed": 0.235,
    },
    ("fft", "transpose", "single"): {
        "border line": 3950.0,
        "call": 33800.0,
        "contracted": 1.5,
        "folded": 2.57,
        "gathered": 0.0,
        "read": 2.36,
        "step": 4640.0,
        "streamed": 0.0,
        "tile": 107000.0,
        "transformed": 0.0157,
    },
    ("fft", "transpose", "double"): {
        "border line": 3490.0,
        "call": 34200.0,
        "contracted": 1.56,
        "folded": 3.6,
        "gathered": 0.0683,
        "read": 2.68,
        "step": 8220.0,
        "streamed": 0.0675,
        "tile": 85900.0,
        "transformed": 0.152,
    },
    ("separable", "forward", "single"): {
        "block": 49400.0,
        "call": 0.0,
        "copied": 0.208,
        "multiplication": 0.0,
        "narrow multiplication": 0.161,
        "product": 72.2,
        "streamed": 0.0295,
        "term": 0.0,
    },
    ("separable", "forward", "double"): {
        "block": 45500.0,
        "call": 0.0,
        "copied": 1.92,
        "multiplication": 0.0993,
        "narrow multiplication": 0.0475,
        "product": 73.8,
        "streamed": 0.0,
        "term": 0.0,
    },
    ("separable", "transpose", "single"): {
        "block": 51300.0,
        "call": 0.0,
        "copied": 0.0,
        "multiplication": 0.0449,
        "narrow multiplication": 0.0447,
        "product": 148.0,
        "streamed": 0.0,
        "term": 0.0,
    },
    ("separable", "transpose", "double"): {
        "block": 43900.0,
        "call": 0.0,
        "copied": 1.21,
        "multiplication": 0.105,
        "narrow multiplication": 0.0422,
        "product": 89.5,
        "streamed": 0.0,
        "term": 0.0,
    },
}
"""(method, direction, precision) -> nanoseconds of each step."""
