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

import numpy as np
from scipy.sparse.linalg import svds

from convmat import Conv2d, norm_bounds, singular_values
from convmat.products.threads import workers

CHANNELS, SIZE = 64, 32


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


def layer(stride: int = 1, padding_mode: str = "zeros", seed: int = 0) -> Conv2d:
    """The layer that all questions are about."""
    W = np.random.default_rng(seed).standard_normal((CHANNELS, CHANNELS, 3, 3))
    return Conv2d(W, (SIZE, SIZE), stride=stride, padding=1, padding_mode=padding_mode)


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
    for row in spectrum_rows(repeat) + norm_rows(repeat):
        print(row, flush=True)


if __name__ == "__main__":
    main()
