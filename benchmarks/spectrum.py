"""Singular values and certified norms against what people use, as ratios of times.

``python benchmarks/spectrum.py`` prints a Markdown table. Run it on an idle machine. Every figure is the median of some
repetitions that alternate between the two sides; the results are compared before a time counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from scipy.sparse.linalg import svds

from convmat import Conv2d, norm_bounds, singular_values
from convmat.products.threads import blas_on_one_thread, workers
from convmat.spectrum import values
from convmat.spectrum.batches import batch_values, installed

CHANNELS, SIZE = 64, 32

MORE = [(16, 16, 64, 1), (32, 32, 56, 1), (3, 64, 128, 1), (64, 128, 32, 2), (128, 128, 14, 1)]
"""Channels in and out, size and stride of more layers, whose values are computed with the extra `fast` and without."""


@dataclass(frozen=True)
class Row:
    """One question: what is compared with what, the times in seconds, and the ratio wanted (at least, or at most)."""

    what: str
    other: str
    ours: float
    theirs: float
    wanted: str

    def __str__(self) -> str:
        ratio = self.theirs / self.ours
        times = f"{1e3 * self.ours:.0f} ms | {self.other} | {1e3 * self.theirs:.0f} ms"
        return f"| {self.what} | {times} | {ratio:.2f} | {self.wanted} |"


def layer(
    stride: int = 1, padding_mode: str = "zeros", channels: tuple[int, int] = (CHANNELS, CHANNELS), size: int = SIZE
) -> Conv2d:
    """The layer that most questions are about, or another."""
    W = np.random.default_rng(0).standard_normal((*channels[::-1], 3, 3))
    return Conv2d(W, (size, size), stride=stride, padding=1, padding_mode=padding_mode)


def published(A: Conv2d) -> np.ndarray:
    """The recipe of Sedghi, Gupta and Long, 2019, as in the paper: numpy's FFT and a batched SVD of all frequencies."""
    transforms = np.fft.fft2(A.weight.transpose(2, 3, 0, 1), A.geometry.input_size, axes=[0, 1])
    return np.linalg.svd(transforms, compute_uv=False)


def compare(first: Callable[[], Any], second: Callable[[], Any], repeat: int) -> tuple[float, float]:
    """Median seconds of the two, taken in turns, after one run of each."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeat + 1):
        for product, found in zip((first, second), times, strict=True):
            start = time.perf_counter()
            product()
            if turn:
                found.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def spectrum_rows(repeat: int) -> list[Row]:
    """The full spectrum: against the published recipe, and stride 2 against stride 1."""
    A, B = layer(padding_mode="circular"), layer(stride=2, padding_mode="circular")
    theirs = np.sort(published(A), axis=None)[::-1]
    np.testing.assert_allclose(singular_values(A), theirs, rtol=0, atol=1e-12 * theirs[0])
    ours, other = compare(lambda: singular_values(A), lambda: published(A), repeat)
    strided, plain = compare(lambda: singular_values(B), lambda: singular_values(A), repeat)
    return [
        Row("singular_values, stride 1", "published recipe", ours, other, ">= 5"),
        Row("singular_values, stride 2", "singular_values, stride 1", strided, plain, ">= 0.33"),
    ]


def without_fast(A: Conv2d) -> np.ndarray:
    """The values by LAPACK, as where numba is not installed."""
    with mock.patch.object(values, "pays", return_value=False):
        return singular_values(A)


def fast_rows(repeat: int) -> list[Row]:
    """The full spectrum with the extra `fast` against that without it."""
    rows = []
    for ins, outs, size, stride in [(CHANNELS, CHANNELS, SIZE, 1), (CHANNELS, CHANNELS, SIZE, 2), *MORE]:
        A = layer(stride, "circular", (ins, outs), size)
        np.testing.assert_allclose(singular_values(A), without_fast(A), rtol=0, atol=1e-13 * singular_values(A)[0])
        ours, other = compare(lambda A=A: singular_values(A), lambda A=A: without_fast(A), repeat)
        rows.append(Row(f"{ins} -> {outs}, {size} x {size}, stride {stride}", "without fast", ours, other, ">= 1.15"))
    return rows


def gram_values(blocks: np.ndarray) -> np.ndarray:
    """Square roots of the eigenvalues of B B^H: half of the digits of small values are lost."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(blocks @ blocks.conj().swapaxes(-1, -2)), 0))


@blas_on_one_thread()
def block_rows(repeat: int) -> list[Row]:
    """Ways to the values of complex blocks against LAPACK's SVD, on one thread."""
    rows = []
    for n in (4, 8, 16, 32, 64, 128):
        parts = np.random.default_rng(0).standard_normal((2, max(16, 2**18 // n**2), n, n))
        blocks = parts[0] + 1j * parts[1]
        true = np.linalg.svd(blocks, compute_uv=False)
        for name, way in [("compiled", batch_values), ("eigvalsh of Gram matrices", gram_values)]:
            if way is batch_values and not installed():
                continue
            error = (np.abs(-np.sort(-way(blocks)) - true) / true[:, :1]).max()
            ours, other = compare(
                lambda way=way, blocks=blocks: way(blocks),
                lambda blocks=blocks: np.linalg.svd(blocks, compute_uv=False),
                repeat,
            )
            what = f"{len(blocks)} blocks of {n} x {n}, {name}: error {error:.0e}"
            rows.append(Row(what, "np.linalg.svd", ours, other, "> 1"))
    return rows


def norm_rows(repeat: int) -> list[Row]:
    """norm_bounds against scipy's svds(k=1), on operators that have made their plans."""
    rows = []
    for stride in (1, 2):
        A = layer(stride)
        lower, upper = norm_bounds(A)
        truth = float(svds(A, k=1, return_singular_vectors=False, rng=np.random.default_rng(0))[0])
        assert lower <= truth * (1 + 1e-10)
        assert truth <= upper * (1 + 1e-10)
        ours, other = compare(
            lambda A=A: norm_bounds(A), lambda A=A: svds(A, k=1, return_singular_vectors=False), max(1, repeat // 2)
        )
        gap = f"gap {upper / lower - 1:.2%}"
        rows.append(Row(f"norm_bounds, stride {stride}, zeros: {gap}", "svds(k=1)", ours, other, ">= 5"))
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="repetitions of each measurement (5)")
    repeat = parser.parse_args().repeat
    print(f"{CHANNELS} -> {CHANNELS} channels, {SIZE} x {SIZE}, 3 x 3 taps, float64, {workers()} threads\n")
    print("| what | time | against | time | ratio of times | wanted |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    fast = fast_rows if installed() else lambda repeat: []
    for rows in (spectrum_rows, fast, block_rows, norm_rows):
        for row in rows(repeat):
            print(row, flush=True)


if __name__ == "__main__":
    main()
