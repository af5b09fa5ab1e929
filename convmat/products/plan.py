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
from convmat.products.fft import lattice, tile_sides
from convmat.products.lowering import BAND_BYTES as LOWERED_BYTES
from convmat.products.separable import COLUMNS, ROWS, block_height
from convmat.products.separable import THREAD_WORK as SEPARABLE_WORK
from convmat.products.threads import workers
from convmat.products.toeplitz import BAND_BYTES, lowers, shifted_block
from convmat.products.toeplitz import THREAD_WORK as TOEPLITZ_WORK

Counts = dict[str, float]

MATRIX_LIMIT = 2**20
"""Stored entries up to which "auto" may build the matrix: about 12 megabytes."""


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
    """How many threads share the work of one product: ours, or those of BLAS where no matrix is a single row."""
    multiplications = math.prod(geometry.weight_shape) * math.prod(geometry.output_size)
    samples = math.prod(geometry.input_size)
    if method == "toeplitz" or (method == "gemm" and geometry.out_channels > geometry.groups):
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
        size = [a.size if a.sends_nothing_back else a.padded for a in g.axes]
        copied = g.out_channels * taps * math.prod(size)
        work = multiplications / outputs * math.prod(size)
        return {**counts, "multiplication": work, "copied": copied, "run": copied / size[-1]}
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
    block = min(rows.output, shifted_block(cols, outs // g.groups))
    reads = cols.lattice()
    shifts, phases = len({shift for shift, _ in reads}), len({phase for _, phase in reads})
    window = (block - 1) * rows.stride + rows.span
    bands = max(1, (ins * read * phases + outs * shifts * rows.output) * cols.output * itemsize / BAND_BYTES)
    return {
        "call": 1,
        "step": planes * (outer + bands * (phases + shifts)),
        "run": planes * (ins * read * phases + outs * shifts * rows.output),
        "product": planes * g.groups * rows.output / block,
        ("copied" if cols.stride == 1 else "gathered"): planes * ins * read * cols.output * phases,
        "summed": planes * outs * shifts * rows.output * cols.output,
        "multiplication": planes * outs * ins / g.groups * window * phases * shifts * rows.output * cols.output,
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
    ranges = [lattice(a) for a in g.axes] if transpose else [(0, m) for m in g.output_size]
    tiles = math.prod(-(-(last - first) // s) for (first, last), s in zip(ranges, step, strict=True))
    samples, phases = math.prod(tile), math.prod(g.stride)
    bare = not transpose or all(a.sends_nothing_back for a in g.axes)
    images = g.in_channels * phases + g.out_channels
    return {
        "call": 1,
        "tile": tiles,
        "step": tiles * phases,
        "read": tiles * images * samples,
        "gathered": tiles * g.in_channels * phases * samples if phases > 1 else 0,
        "transformed": tiles * images * samples * math.log2(samples + 1),
        "folded": 0 if bare else g.in_channels * math.prod(a.padded for a in g.axes),
        "contracted": tiles * samples * g.out_channels * g.in_channels // g.groups * phases,
    }


def _separable(g: Geometry, transpose: bool, itemsize: int, rank: int) -> Counts:
    sizes_in, sizes_out = (g.output_size, g.input_size) if transpose else (g.input_size, g.output_size)
    multiplications, heights = 0.0, []
    shape = list(sizes_in)
    for dim, (axis, read, out) in enumerate(zip(g.axes, sizes_in, sizes_out, strict=True)):
        shape[dim] = out
        heights.append(block_height((out, read), COLUMNS if dim == g.ndim - 1 else ROWS))
        window = (heights[-1] + axis.span) / axis.stride if transpose else axis.stride * heights[-1] + axis.span
        multiplications += math.prod(shape) * min(window, read)
    planes = math.prod(sizes_out[:-2])
    bands = -(-sizes_out[-2] // heights[-2]) if g.ndim > 1 else 1
    return {
        "call": 1,
        "term": rank,
        "block": rank * planes * bands,
        "product": rank * planes * bands * -(-sizes_out[-1] // heights[-1]),
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
    ("matrix", "forward", "single"): {"call": 5730.0, "entry": 0.737, "row": 0.245, "streamed": 0.00831},
    ("matrix", "forward", "double"): {"call": 5520.0, "entry": 0.727, "row": 0.334, "streamed": 0.00615},
    ("matrix", "transpose", "single"): {"call": 6330.0, "entry": 0.772, "row": 0.247, "streamed": 0.0272},
    ("matrix", "transpose", "double"): {"call": 5890.0, "entry": 0.842, "row": 0.264, "streamed": 0.0},
    ("gemm", "forward", "single"): {
        "call": 46200.0,
        "copied": 0.214,
        "gathered": 0.422,
        "multiplication": 0.0266,
        "product": 0.0,
        "run": 10.3,
        "streamed": 0.164,
    },
    ("gemm", "forward", "double"): {
        "call": 45400.0,
        "copied": 0.462,
        "gathered": 0.638,
        "multiplication": 0.0745,
        "product": 335.0,
        "run": 10.1,
        "streamed": 0.0326,
    },
    ("gemm", "transpose", "single"): {
        "added": 2.55,
        "call": 111000.0,
        "copied": 0.245,
        "multiplication": 0.033,
        "product": 409.0,
        "run": 9.89,
        "step": 3650.0,
        "streamed": 0.233,
    },
    ("gemm", "transpose", "double"): {
        "added": 3.24,
        "call": 72000.0,
        "copied": 0.505,
        "multiplication": 0.0835,
        "product": 0.0,
        "run": 19.4,
        "step": 3080.0,
        "streamed": 0.0709,
    },
    ("toeplitz", "forward", "single"): {
        "call": 39300.0,
        "copied": 0.0,
        "gathered": 0.421,
        "multiplication": 0.0479,
        "product": 5.43,
        "run": 15.2,
        "step": 10100.0,
        "streamed": 0.125,
        "summed": 1.5,
        "vector": 0.102,
        "written": 2.53,
    },
    ("toeplitz", "forward", "double"): {
        "call": 40200.0,
        "copied": 0.687,
        "gathered": 0.0,
        "multiplication": 0.104,
        "product": 0.0,
        "run": 22.2,
        "step": 9530.0,
        "streamed": 0.0242,
        "summed": 2.44,
        "vector": 0.167,
        "written": 4.17,
    },
    ("toeplitz", "transpose", "single"): {
        "call": 30500.0,
        "copied": 0.826,
        "multiplication": 0.0526,
        "product": 0.0,
        "run": 7.74,
        "step": 7230.0,
        "streamed": 0.0631,
        "vector": 0.0315,
        "written": 0.269,
    },
    ("toeplitz", "transpose", "double"): {
        "call": 41400.0,
        "copied": 1.27,
        "multiplication": 0.128,
        "product": 0.0,
        "run": 11.1,
        "step": 6820.0,
        "streamed": 0.0997,
        "vector": 0.135,
        "written": 0.304,
    },
    ("fft", "forward", "single"): {
        "call": 2910.0,
        "contracted": 1.27,
        "gathered": 2.04,
        "read": 1.63,
        "step": 17200.0,
        "streamed": 0.0,
        "tile": 82600.0,
        "transformed": 0.126,
    },
    ("fft", "forward", "double"): {
        "call": 81300.0,
        "contracted": 1.57,
        "gathered": 1.02,
        "read": 5.3,
        "step": 13200.0,
        "streamed": 0.22,
        "tile": 0.0,
        "transformed": 0.0,
    },
    ("fft", "transpose", "single"): {
        "call": 53400.0,
        "contracted": 1.49,
        "gathered": 1.48,
        "read": 0.496,
        "step": 8240.0,
        "streamed": 0.0873,
        "tile": 105000.0,
        "transformed": 0.205,
    },
    ("fft", "transpose", "double"): {
        "call": 102000.0,
        "contracted": 1.65,
        "gathered": 1.19,
        "read": 5.55,
        "step": 8430.0,
        "streamed": 0.171,
        "tile": 28900.0,
        "transformed": 0.0,
    },
    ("separable", "forward", "single"): {
        "block": 5150.0,
        "call": 59.3,
        "copied": 0.0,
        "multiplication": 0.0527,
        "streamed": 0.0,
        "term": 18700.0,
    },
    ("separable", "forward", "double"): {
        "block": 11000.0,
        "call": 886.0,
        "copied": 0.0,
        "multiplication": 0.0931,
        "streamed": 0.0297,
        "term": 11600.0,
    },
    ("separable", "transpose", "single"): {
        "block": 7270.0,
        "call": 0.0,
        "copied": 1.42,
        "multiplication": 0.0241,
        "streamed": 0.0,
        "term": 16000.0,
    },
    ("separable", "transpose", "double"): {
        "block": 8030.0,
        "call": 214.0,
        "copied": 0.0,
        "multiplication": 0.0738,
        "streamed": 0.0,
        "term": 15200.0,
    },
}
"""(method, direction, precision) -> nanoseconds of each step."""
