"""A^H A and A A^H of a convolution, from the products of its taps: one small matrix for each pair of places.

Output m reads sample n through tap k, and n' through l: it adds W_k^H W_l to the block (n, n') of A^H A. Two outputs
that read a sample through k and l add W_k W_l^H to their block of A A^H. There are few pairs of taps and many of
places, so that the products are made once for all places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.matrix import fits
from convmat.spectrum.proof import Gram, is_whole
from convmat.taps import Index, joint_reads

_FEW = 16
"""Numbers in a block up to which sums go along all blocks, one number at a time."""


@dataclass(frozen=True)
class Pairs:
    """Which pair of taps adds to the block of which pair of places, and how many times. (terms,) each"""

    first: Index
    second: Index
    taps: Index  # k K + l
    times: NDArray[np.float64]

    @staticmethod
    def of(geometry: Geometry, outputs: bool) -> Pairs:
        """Those of A A^H, whose places are outputs, or of A^H A."""
        reads, size = joint_reads(geometry.axes), math.prod(geometry.kernel_size)
        place, meets = (reads.output, reads.sample) if outputs else (reads.sample, reads.output)
        order = np.argsort(meets, kind="stable")
        starts = np.flatnonzero(np.diff(meets[order], prepend=-1))
        counts = np.diff(starts, append=len(order))
        a, b = _within(starts, counts)
        a, b = order[a], order[b]
        return Pairs(
            place[a],
            place[b],
            reads.tap[a] * size + reads.tap[b],
            (reads.weight[a] * reads.weight[b]).astype(np.float64),
        )


def smaller_side(geometry: Geometry) -> bool:
    """Whether A A^H, of outputs, is smaller than A^H A."""
    return geometry.shape[0] < geometry.shape[1]


def tap_products(geometry: Geometry, kernel: NDArray[Any], outputs: bool) -> NDArray[Any]:
    """W_k W_l^H, or W_k^H W_l, of all pairs of taps. (K^2, G, C / G, C / G)"""
    groups = geometry.groups
    taps = kernel.reshape(groups, -1, kernel.shape[1], math.prod(geometry.kernel_size))
    lines = np.ascontiguousarray(
        np.moveaxis(taps, -1, 0) if outputs else np.moveaxis(taps, -1, 0).conj().swapaxes(-1, -2)
    )
    turned = lines.conj().swapaxes(-1, -2)
    products = lines[:, None] @ turned[None]
    return np.asarray(products.reshape(-1, *products.shape[2:]))


def blocks(geometry: Geometry, kernel: NDArray[Any], pairs: Pairs, outputs: bool) -> tuple[Index, Index, NDArray[Any]]:
    """Pairs of places, and their blocks. (n,), (n,), (n, G, C / G, C / G)"""
    products = tap_products(geometry, kernel, outputs)
    places = math.prod(geometry.output_size if outputs else geometry.input_size)
    keys, at = np.unique(pairs.first * places + pairs.second, return_inverse=True)
    found = np.zeros((len(keys), *products.shape[1:]), dtype=products.dtype)
    order = np.argsort(at, kind="stable")
    if math.prod(found.shape[1:]) <= _FEW:
        for entry in np.ndindex(*found.shape[1:]):
            terms = pairs.times * products[(slice(None), *entry)][pairs.taps]
            found[(slice(None), *entry)] = np.add.reduceat(
                terms[order], np.searchsorted(at[order], np.arange(len(keys)))
            )
    else:
        for key, tap, times in zip(at[order], pairs.taps[order], pairs.times[order], strict=True):
            found[key] += products[tap] if times == 1 else times * products[tap]
    return keys // places, keys % places, found


def banded(geometry: Geometry, kernel: NDArray[Any], work: float) -> Gram | None:
    """A^H A, or A A^H if that is smaller, for a Cholesky decomposition of so many multiplications at most."""
    outputs = smaller_side(geometry)
    pairs = Pairs.of(geometry, outputs)
    size, channels = (
        (geometry.output_size, geometry.out_channels) if outputs else (geometry.input_size, geometry.in_channels)
    )  # fmt: skip
    width, places = channels // geometry.groups, math.prod(size)
    columns = width * places
    orders = [_line_by_line(size, axis) for axis in range(len(size))]
    spans = [int(np.abs(order[pairs.first] - order[pairs.second]).max(initial=0)) for order in orders]
    order, band = orders[int(np.argmin(spans))], min(spans) * width + width - 1
    stored = columns * (columns if is_whole(columns, band) else band + 1)
    if geometry.groups * columns * band * min(band, columns / 3) / 2 > work or not fits(24 * geometry.groups * stored):
        return None
    first, second = order[pairs.first], order[pairs.second]
    lower = first >= second
    terms = sorted(zip(first[lower], second[lower], pairs.taps[lower], pairs.times[lower], strict=True))
    products = tap_products(geometry, kernel, outputs)
    step = columns if is_whole(columns, band) else band
    parts = []
    for group in range(geometry.groups):
        flat = np.zeros(stored, dtype=products.dtype)
        # entry (i, j) at i + step j; above the diagonal, that is another entry
        square = np.lib.stride_tricks.as_strided(flat, (columns, columns), (flat.itemsize, flat.itemsize * step))
        for i, j, taps, times in terms:
            block = products[taps, group] if times == 1 else times * products[taps, group]
            here = square[i * width : (i + 1) * width, j * width : (j + 1) * width]
            if i > j:
                here += block
            else:
                for column in range(width):
                    here[column:, column] += block[column:, column]
        parts.append(flat.reshape(columns, -1).T)
    return Gram(tuple(parts), band, *_sums(geometry, kernel, outputs))


def _sums(geometry: Geometry, kernel: NDArray[Any], outputs: bool) -> tuple[int, float]:
    """Terms of an entry of the Gram matrix; the Frobenius norm of the absolute matrix of a group, at least."""
    reads = joint_reads(geometry.axes)
    _, met = np.unique(reads.output * math.prod(geometry.input_size) + reads.sample, return_counts=True)
    squares = np.sum(np.abs(kernel.reshape(geometry.groups, -1, math.prod(geometry.kernel_size))) ** 2, axis=1)
    counts = np.bincount(reads.tap, reads.weight.astype(np.float64) ** 2, minlength=squares.shape[1])
    norm = math.sqrt(float((squares @ counts).max()) * int(met.max(initial=1)))
    at_one = np.bincount(reads.output if outputs else reads.sample, minlength=1).max()
    channels = kernel.shape[1] if outputs else len(kernel) // geometry.groups
    return int(at_one * met.max(initial=1)) * channels, norm * (1 + 1e-9)


def _line_by_line(size: tuple[int, ...], axis: int) -> Index:
    """The number of each place where those that differ least in one axis are together."""
    places = np.arange(math.prod(size), dtype=np.int64).reshape(np.roll(size, -axis))
    return np.ascontiguousarray(np.moveaxis(places, range(len(size)), np.roll(range(len(size)), -axis))).reshape(-1)


def _within(starts: Index, counts: Index) -> tuple[Index, Index]:
    """All pairs of positions that are in one run. Runs are given by their starts and counts."""
    squares = counts * counts
    run = np.repeat(np.arange(len(counts)), squares)
    inner = np.arange(len(run)) - np.repeat(np.cumsum(squares) - squares, squares)
    return starts[run] + inner // counts[run], starts[run] + inner % counts[run]
