"""The norm of a matrix between proven bounds: Lanczos from below, one Cholesky decomposition from above.

*Theorem.* Let G be B^H B as computed, and c > 0. If the Cholesky decomposition of c I - G, computed in floating point,
does not break down, then no eigenvalue of c I - G is below -gamma trace(c I - G), with gamma = p u / (1 - p u) for sums
of p - 1 products [S. M. Rump, "Verification of positive definiteness", BIT 46, 2006]. So no eigenvalue of G is above
c (1 + n gamma), and

    ||B||^2 <= c (1 + n gamma) + gamma' ||B||_F^2,

for the entries of G - B^H B are at most gamma' times those of |B|^H |B|, whose norm is at most ||B||_F^2. The sums of G
have as many terms as a column of B has entries, those of the decomposition as many as its band is wide, in whatever
order they are added. Both gammas are taken as (terms + 8) EPS, EPS = 2 u: twice what real numbers need, enough for
complex ones, for c - G on the diagonal, and for a division that is a product with the rounded inverse.

*Cost.* Rows of a convolution's matrix with the same columns are a dense block, those of the output channels at one
place. Each block adds one product to G. Columns are put in an order in which G is a band, place by place or that of
Cuthill and McKee: for images it is as wide as a few lines with all their channels, and the decomposition takes n band^2
steps, not n^3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from convmat.matrix import fits
from convmat.spectrum.scaling import near_one
from convmat.spectrum.torus import EPS

TIGHT = 1e-7
"""The share of the norm that the first decomposition tries to leave between the bounds."""

STEPS, GAIN = 40, 1e-9
"""Lanczos steps before a restart, and the gain below which there is none, for a lower bound as close as the proof."""

_WIDER = 10.0
"""What is left between the bounds grows by this factor when a decomposition fails."""

WORK = 2e11
"""Multiplications up to which a proof is made: some seconds."""

MOST_LINES, MOST_ENTRIES = 2**18, 2**25
"""Rows and columns of a matrix that is made for a proof, and its entries."""


@dataclass(frozen=True)
class Blocked:
    """A sparse matrix B of dense blocks, with its columns in an order in which B^H B is a band.

    The rows are those of each block: they have entries in the same columns.
    """

    matrix: Any
    rows: tuple[NDArray[np.intp], ...]
    band: int

    @staticmethod
    def of(matrix: Any) -> Blocked:
        """Of a sparse matrix, or of its transpose if that has fewer columns."""
        tall = csr_array(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T)
        if not tall.has_canonical_format:
            tall = tall.copy()  # it shares what the matrix stores
            tall.sum_duplicates()
        rows = _alike(tall)
        return min((_ordered(tall, rows, order) for order in _orders(tall, rows)), key=lambda found: found.band)

    @property
    def work(self) -> int:
        """Multiplications for B^H B and its decomposition."""
        columns = int(self.matrix.shape[1])
        products = sum(len(block) * _columns(self.matrix, block).size ** 2 for block in self.rows)
        return products + columns * (self.band + 1) * min(self.band + 1, columns // 3 + 1) // 2

    @property
    def entries(self) -> int:
        """Numbers in what is stored of B^H B."""
        columns = int(self.matrix.shape[1])
        return columns * (columns if is_whole(columns, self.band) else self.band + 1)

    def dense(self) -> Iterator[tuple[NDArray[Any], NDArray[np.intp]]]:
        """Each block, and its columns."""
        for block in self.rows:
            columns = _columns(self.matrix, block)
            starts = self.matrix.indptr[block]
            yield self.matrix.data[starts[:, None] + np.arange(columns.size)], columns


def _columns(matrix: Any, block: NDArray[np.intp]) -> NDArray[np.intp]:
    start, stop = matrix.indptr[block[0]], matrix.indptr[block[0] + 1]
    return np.asarray(matrix.indices[start:stop], dtype=np.intp)


def _alike(matrix: Any) -> tuple[NDArray[np.intp], ...]:
    """Rows that have entries in the same columns."""
    found: dict[bytes, list[int]] = {}
    for row, (start, stop) in enumerate(zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)):
        found.setdefault(matrix.indices[start:stop].tobytes(), []).append(row)
    return tuple(np.array(rows, dtype=np.intp) for rows in found.values())


def _orders(matrix: Any, rows: tuple[NDArray[np.intp], ...]) -> Iterator[NDArray[np.intp]]:
    """Columns with the same rows side by side: as they come, and in the order of reverse Cuthill and McKee."""
    one_each = csr_array(matrix[[block[0] for block in rows]])
    turned = csr_array(csr_array((np.ones(one_each.nnz), one_each.indices, one_each.indptr), one_each.shape).T)
    turned.sort_indices()
    columns = _alike(turned)
    first = csr_array(turned[[block[0] for block in columns]])
    yield np.concatenate(columns)
    order = reverse_cuthill_mckee(csr_array(first @ first.T), symmetric_mode=True)
    yield np.concatenate([columns[place] for place in order])


def _ordered(matrix: Any, rows: tuple[NDArray[np.intp], ...], order: NDArray[np.intp]) -> Blocked:
    ordered = csr_array(matrix[:, order])
    ordered.sort_indices()
    spans = [int(found[-1] - found[0]) for block in rows if (found := _columns(ordered, block)).size]
    return Blocked(ordered, rows, max(spans, default=0))


def blocks_for(matrix: Any, work: float = WORK) -> Blocked | None:
    """Its blocks, if the proof takes no more multiplications, and its numbers fit in memory."""
    blocks = Blocked.of(matrix)
    needed = 3 * blocks.entries * blocks.matrix.dtype.itemsize
    return blocks if blocks.work <= work and fits(needed) else None


def affordable(shape: tuple[int, int], entries: int, work: float = WORK) -> bool:
    """Whether a matrix of so many entries is worth making for a proof of so many multiplications."""
    return sum(shape) <= MOST_LINES and entries <= min(MOST_ENTRIES, work / 64)


@dataclass(frozen=True)
class Gram:
    """B^H B as computed, for every block of a block diagonal B by itself: lower halves of bands, see `gram_band`.

    An entry sums up to so many terms; the norm is the Frobenius norm of the largest block of |B|, at least.
    """

    parts: tuple[NDArray[Any], ...]
    band: int
    terms: int
    frobenius: float


def proven_above(blocks: Blocked, lower: float, away: float, rtol: float) -> float:
    """An upper bound on the norm of every matrix that is no farther than `away` from this one, in the norm.

    It is near the lower bound that is given, if that is near the norm.
    """
    (values,), powers = near_one(blocks.matrix.data.astype(np.result_type(blocks.matrix.data, np.float64))[None])
    if not values.any():
        return away
    power = int(powers.item())
    B = csr_array((values, blocks.matrix.indices, blocks.matrix.indptr), blocks.matrix.shape)
    norm = float(np.linalg.norm(values)) * (1 + B.nnz * EPS)
    part = gram_band(Blocked(B, blocks.rows, blocks.band))
    gram = Gram((part,), blocks.band, int(np.bincount(B.indices).max()), norm)
    return (math.ldexp(above(gram, math.ldexp(lower, -power), rtol), power) + away) * (1 + EPS)


def above(gram: Gram, lower: float, rtol: float) -> float:
    """An upper bound on the norm of B, near the lower bound if that is near the norm. B is near one."""
    if gram.frobenius == 0:
        return 0.0
    columns, gap = gram.parts[0].shape[1], min(TIGHT, rtol / 4)
    noise = columns * (gram.band + 8) * EPS
    away = (gram.terms + 8) * EPS * gram.frobenius**2
    c = max(lower**2, gram.frobenius**2 / columns) + away
    while not all(_has_factor(part, c * (1 + gap + 2 * noise), gram.band) for part in gram.parts):
        c, gap = c * (1 + gap + 2 * noise), gap * _WIDER
    return math.sqrt(c * (1 + gap + 2 * noise) * (1 + 2 * noise) + away) * (1 + 4 * EPS)


def gram_band(blocks: Blocked) -> NDArray[Any]:
    """B^H B, its lower half: entry (i, j) at [i - j, j], or at [i, j] if the band is the whole matrix."""
    columns, band = blocks.matrix.shape[1], blocks.band
    whole = is_whole(columns, band)
    flat = np.zeros(columns * (columns if whole else band + 1), dtype=blocks.matrix.dtype)
    step = columns if whole else band
    for block, places in blocks.dense():
        product = block.conj().T @ block
        if whole:
            flat.reshape(columns, columns)[np.ix_(places, places)] += product.T
        else:
            i, j = np.tril_indices(places.size)
            flat[places[i] + step * places[j]] += product[i, j]
    return flat.reshape(columns, -1).T


def is_whole(columns: int, band: int) -> bool:
    """Whether the decomposition of a band would take longer than that of the whole matrix."""
    return 2 * band > columns


def _has_factor(gram: NDArray[Any], c: float, band: int) -> bool:
    """Whether c - G has a Cholesky decomposition."""
    shifted = -gram
    whole = is_whole(gram.shape[1], band)
    diagonal = np.einsum("ii->i", shifted) if whole else shifted[0]
    diagonal += c
    try:
        if whole:
            factor = scipy.linalg.cholesky(shifted, lower=True, overwrite_a=True, check_finite=False)
        else:
            factor = scipy.linalg.cholesky_banded(shifted, lower=True, overwrite_ab=True, check_finite=False)
    except np.linalg.LinAlgError:
        return False
    return bool(np.all((factor.diagonal() if whole else factor[0]).real > 0))
