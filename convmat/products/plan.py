"""The planner of ``method="auto"``: what each method would do, counted, times what one such step costs.

A method is a function that counts a handful of steps: the same for A x and A^T y and for every dtype, since it counts
vectors of 64 bytes that are multiplied, and bytes that are moved. `COST` has the nanoseconds of one step of each,
fitted by ``benchmarks/plan.py --fit`` to measurements of one core; only their ratios matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from convmat.geometry import Geometry
from convmat.products import direct, fft, separable
from convmat.products.threads import workers

MATRIX_LIMIT = 2**20
"""Stored entries up to which "auto" may build the matrix: about 12 megabytes."""

SHARED = {"direct": 1.2e6, "gemm": 1e5, "fft": 1e6, "separable": 3e5}
"""Nanoseconds from which on threads share a product, about; one of the matrix is never shared."""

VECTOR, TALL = 64, 8
"""Bytes of a vector, and rows up to which a product of matrices takes as long as one of so many."""


@dataclass(frozen=True)
class Estimate:
    """The expected cost of one method: nanoseconds for A x and for A^T y, on the threads that it would use."""

    method: str
    forward: float
    transpose: float


@dataclass(frozen=True)
class Work:
    """One product: of which layer, in which direction, bytes of a sample, separable terms of its kernels in all."""

    geometry: Geometry
    transpose: bool
    itemsize: int
    rank: int

    @property
    def channels(self) -> tuple[int, int]:
        """Of what goes in and of what comes out, in one group."""
        g = self.geometry
        both = g.in_channels // g.groups, g.out_channels // g.groups
        return both[::-1] if self.transpose else both

    @property
    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of what goes in and of what comes out."""
        both = self.geometry.input_size, self.geometry.output_size
        return both[::-1] if self.transpose else both

    @property
    def moved(self) -> float:
        """Bytes of what goes in and of what comes out."""
        (ins, outs), (before, after) = self.channels, self.sizes
        return self.geometry.groups * self.itemsize * float(ins * math.prod(before) + outs * math.prod(after))


def _matrix(w: Work) -> tuple[float, ...]:
    return 1, w.geometry.nnz, w.geometry.shape[w.transpose]


def _direct(w: Work) -> tuple[float, ...]:
    g, (ins, outs) = w.geometry, w.channels
    axes, line = direct.layout(g, w.transpose, w.itemsize)
    both = math.prod(axis.size for axis in axes), math.prod(axis.output for axis in axes)
    before, after = both[::-1] if w.transpose else both
    phases, blocks = len(line.places), direct.blocks(outs)
    vectors = -(-line.count * w.itemsize // VECTOR)
    turns = g.groups * ins * both[1] * math.prod(axis.taps for axis in axes) * line.taps
    read, written = g.groups * ins * len(line.copied) * before, g.groups * outs * after
    strips = len(blocks) * -(-vectors // TALL)
    multiplied = turns * vectors * sum(computed for *_, computed in blocks)
    apart = 0 if line.positions[1] and phases == 1 else written * line.extent
    return 1, read + written, written / outs * phases * strips, turns * strips, multiplied, apart, w.moved


def _gemm(w: Work) -> tuple[float, ...]:
    g, (ins, outs), (_, after) = w.geometry, w.channels, w.sizes
    products, positions, lowered = 1, math.prod(after), g.groups * ins * math.prod(after) * math.prod(g.kernel_size)
    folds = w.transpose and not all(axis.sends_nothing_back for axis in g.axes)
    if w.transpose:
        products = math.prod(len({phase for _, phase in axis.lattice()}) for axis in g.axes)
        positions = math.prod(axis.padded if folds else axis.size for axis in g.axes)
        lowered = lowered * positions // (math.prod(after) * math.prod(g.stride))
    written = g.groups * outs * positions * (1 + (products > 1) + 2 * folds)
    copied = lowered * w.itemsize / VECTOR
    runs = lowered / after[-1] * (g.stride[-1] if w.transpose else 1)
    return products, runs, copied, copied * max(outs, TALL), written * w.itemsize / VECTOR


def _fft(w: Work) -> tuple[float, ...]:
    g = w.geometry
    tile, step = fft.tile_sides(g)
    ranges = [axis.sent for axis in g.axes] if w.transpose else [(0, m) for m in g.output_size]
    tiles = math.prod(-(-(last - first) // s) for (first, last), s in zip(ranges, step, strict=True))
    samples, phases = tiles * math.prod(tile) * w.itemsize, math.prod(g.stride)
    images = g.in_channels * phases + g.out_channels
    pairs = g.out_channels * g.in_channels // g.groups * phases
    return 1, tiles * (4 + phases), samples * images * math.log2(math.prod(tile) + 1), samples * pairs, samples * images


def _separable(w: Work) -> tuple[float, ...]:
    g, (before, after), shape = w.geometry, w.sizes, list(w.sizes[0])
    multiplied, heights = 0.0, []
    for dim, (axis, read, out) in enumerate(zip(g.axes, before, after, strict=True)):
        shape[dim] = out
        heights.append(separable.block_height((out, read), separable.COLUMNS if dim == g.ndim - 1 else separable.ROWS))
        spread = (heights[-1] + axis.span) / axis.stride if w.transpose else axis.window(heights[-1])
        multiplied += math.prod(shape) * min(spread, read) * (2 if dim == g.ndim - 1 else 1)
    bands = math.prod(after[:-2]) * (-(-after[-2] // heights[-2]) if g.ndim > 1 else 1)
    products = bands * (8 + -(-after[-1] // heights[-1]))
    return 1, w.rank * products, w.rank * multiplied * w.itemsize / VECTOR, w.rank * w.moved / g.groups


COUNTS: dict[str, Callable[[Work], tuple[float, ...]]] = {
    "matrix": _matrix,
    "direct": _direct,
    "gemm": _gemm,
    "fft": _fft,
    "separable": _separable,
}
"""Name of a method -> how many steps of each kind one product takes."""

COST: dict[str, tuple[float, ...]] = {
    "matrix": (4970.0, 0.641, 0.302),
    "direct": (10100.0, 21.2, 10.4, 2.33, 0.258, 0.532, 0.0213),
    "gemm": (37000.0, 8.55, 4.15, 0.494, 6.49),
    "fft": (48300.0, 9290.0, 0.0533, 0.203, 0.154),
    "separable": (42700.0, 656.0, 0.349, 0.0738),
}
"""Nanoseconds of one step of each kind."""


def estimates(geometry: Geometry, single: bool, rank: int | None) -> list[Estimate]:
    """The expected cost of every method that "auto" may choose, with or without the extra that it needs.

    `single` is whether the work is in single precision, `rank` how many separable terms the kernels have in all (None
    if that is not known to be few).
    """
    fits = {"matrix": geometry.nnz <= MATRIX_LIMIT, "separable": rank is not None}
    works = [Work(geometry, transpose, 4 if single else 8, rank or 0) for transpose in (False, True)]
    methods = [method for method in COUNTS if fits.get(method, True)]
    return [Estimate(method, *(_shared(method, cost(method, work)) for work in works)) for method in methods]


def cost(method: str, work: Work) -> float:
    """Nanoseconds that one product is expected to take on one core."""
    return sum(number * each for number, each in zip(COUNTS[method](work), COST[method], strict=True))


def _shared(method: str, nanoseconds: float) -> float:
    return nanoseconds / workers() if nanoseconds > SHARED.get(method, math.inf) else nanoseconds
