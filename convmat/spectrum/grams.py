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


def _within(starts: Index, counts: Index) -> tuple[Index, Index]:
    """All pairs of positions that are in one run. Runs are given by their starts and counts."""
    squares = counts * counts
    run = np.repeat(np.arange(len(counts)), squares)
    inner = np.arange(len(run)) - np.repeat(np.cumsum(squares) - squares, squares)
    return starts[run] + inner // counts[run], starts[run] + inner % counts[run]
