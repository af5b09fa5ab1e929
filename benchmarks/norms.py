"""Proven bounds on the norms of layers: what is left between them, and how they compare with published methods.

``python benchmarks/norms.py`` prints Markdown: the gaps of small layers of normal random weights, with the time beside
that of an estimate by `svds`; the convolutions of ResNet-18, each once; and the leaderboard of `norm_leaderboard.py`.
Times are the least of some repetitions where no others are named.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from norm_leaderboard import PARTS, chosen, leaderboard, resnet_layers
from scipy.sparse.linalg import svds

from convmat import Conv2d, norm_bounds
from convmat.operators.base import ImageOperator
from convmat.products.threads import workers


def convolution(outs: int, ins: int, taps: int, size: int, **options: Any) -> Conv2d:
    """A layer of random weights that keeps the size, but for its stride."""
    W = np.random.default_rng(outs + size).standard_normal((outs, ins // options.get("groups", 1), taps, taps))
    return Conv2d(W, (size, size), padding=taps // 2, **options)


def layers() -> Iterator[tuple[str, ImageOperator]]:
    """The last layers of a residual network on small images, and signed kernels at borders that fold."""
    for channels, size in ((512, 2), (512, 4), (512, 7), (512, 14), (256, 4), (128, 8), (64, 16)):
        yield f"{channels} -> {channels}, {size} x {size}, zeros", convolution(channels, channels, 3, size)
    yield "256 -> 512, 4 x 4, stride 2, zeros", convolution(512, 256, 3, 4, stride=2)
    yield "256 groups, 14 x 14, zeros", convolution(256, 256, 3, 14, groups=256)
    for mode in ("reflect", "replicate", "symmetric", "antireflect"):
        yield f"8 -> 8, 32 x 32, {mode}", convolution(8, 8, 3, 32, padding_mode=mode)
    yield "1 -> 1, 5 x 5, 128 x 128, reflect", convolution(1, 1, 5, 128, padding_mode="reflect")
    for channels, size in ((8, 512), (16, 56), (32, 56), (64, 56)):
        yield (
            f"{channels} -> {channels}, {size} x {size}, reflect",
            convolution(channels, channels, 3, size, padding_mode="reflect"),
        )
    for size in (512, 2048):
        A = convolution(1, 1, 25, size, stride=4, padding_mode="reflect")
        yield f"1 -> 1, 25 x 25, stride 4, {size} x {size}, reflect", A


def least(task: Callable[[], Any], repeat: int) -> float:
    """Seconds of the fastest repetition, after one that makes the plans."""
    task()
    found = []
    for _ in range(repeat):
        start = time.perf_counter()
        task()
        found.append(time.perf_counter() - start)
    return min(found)


def row(what: str, A: ImageOperator, repeat: int) -> str:
    """One layer: the gap, the seconds, and how many times those of `svds`."""
    lower, upper = norm_bounds(A)
    estimate = svds(A, k=1, return_singular_vectors=False, rng=np.random.default_rng(0))[0]
    assert lower * (1 - 1e-9) <= estimate <= upper * (1 + 1e-9), (lower, estimate, upper)
    ours = least(lambda: norm_bounds(A), repeat)
    theirs = least(lambda: svds(A, k=1, return_singular_vectors=False, rng=np.random.default_rng(0)), repeat)
    return f"| {what} | {upper / lower - 1:.1e} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.1f} |"


def gaps(repeat: int) -> None:
    """Print what is left between the bounds."""
    print(f"norm_bounds with rtol 1e-2, 3 x 3 taps where no others are named, float64, {workers()} threads\n")
    print("| layer | gap | seconds | svds(k=1) | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for what, A in layers():
        print(row(what, A, repeat), flush=True)


def resnet() -> None:
    """Print the gap and the seconds of each convolution of ResNet-18, and the seconds of all."""
    print("| convolution of ResNet-18 | gap | seconds |\n| --- | ---: | ---: |")
    total = 0.0
    for size in (64, 224):
        for name, A in resnet_layers(size, True):
            start = time.perf_counter()
            lower, upper = norm_bounds(A)
            total += (seconds := time.perf_counter() - start)
            print(f"| {name} | {upper / lower - 1:.2%} | {seconds:.2f} |", flush=True)
    print(f"| all | | {total:.1f} |")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="repetitions of each measurement of the gaps (3)")
    parser.add_argument("--only", choices=["gaps", "resnet", "leaderboard"], help="one of the tables")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="layers of the leaderboard (all parts)"
    )
    parser.add_argument("--all", action="store_true", help="every layer of the models, not one of each kind")
    parser.add_argument("--rounds", type=int, default=1, help="repetitions of each measurement of the leaderboard (1)")
    arguments = parser.parse_args()
    if arguments.only in (None, "gaps"):
        gaps(arguments.repeat)
        print()
    if arguments.only in (None, "resnet"):
        resnet()
        print()
    if arguments.only in (None, "leaderboard"):
        leaderboard(chosen(arguments.parts, arguments.all), arguments.rounds)


if __name__ == "__main__":
    main()
