"""Proven bounds on the norms of layers that are composed: what is left between them, and what the parts alone leave.

``python benchmarks/composed.py`` prints a Markdown table. Weights are normal random numbers.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from functools import reduce
from operator import matmul
from typing import Any

import numpy as np

from convmat import Conv2d, Diagonal, identity, norm_bounds, vstack
from convmat.operators.base import ImageOperator
from convmat.products.threads import workers

rng = np.random.default_rng(0)


def layer(ins: int, outs: int, size: int, taps: int = 3, **options: Any) -> Conv2d:
    """A convolution that keeps the size."""
    W = rng.standard_normal((outs, ins // options.get("groups", 1), taps, taps)) / (taps * math.sqrt(ins))
    return Conv2d(W, (size, size), padding=taps // 2, **options)


def upper(A: ImageOperator) -> float:
    """The upper bound of a part."""
    return norm_bounds(A)[1]


def compositions(large: bool) -> Iterator[tuple[str, ImageOperator, float]]:
    """Name, operator, and the bound by those of its parts."""
    conv = layer(16, 16, 32)
    scale = Diagonal(rng.uniform(0.5, 2, (16, 1, 1)), conv.output_shape)
    yield "batch norm of a convolution, 16, 32 x 32", scale @ conv, upper(scale) * upper(conv)
    sizes = [(16, 8), (32, 8), (64, 8), (16, 16), (32, 16)] + [(16, 32)] * large
    for channels, size in sizes:
        for count in (2, 3):
            if count == 3 and size * size * channels > 4096:
                continue
            convs = [layer(channels, channels, size) for _ in range(count)]
            parts = math.prod(upper(conv) for conv in convs)
            yield f"{count} layers, {channels}, {size} x {size}", reduce(matmul, convs), parts
        A = identity(convs[0].input_shape) + convs[1] @ convs[0]
        yield f"I + 2 layers, {channels}, {size} x {size}", A, 1 + upper(convs[0]) * upper(convs[1])
    convs = [layer(64, 64, 32) for _ in range(2)]
    yield "2 layers, 64, 32 x 32", convs[0] @ convs[1], upper(convs[0]) * upper(convs[1])
    depthwise, pointwise = layer(64, 64, 32, groups=64), layer(64, 64, 32, 1)
    yield "pointwise after depthwise, 64, 32 x 32", pointwise @ depthwise, upper(depthwise) * upper(pointwise)
    convs = [layer(16, 16, 64, padding_mode="circular") for _ in range(2)]
    yield "2 layers, circular, 16, 64 x 64", convs[0] @ convs[1], upper(convs[0]) * upper(convs[1])
    convs = [layer(16, 16, 32, taps) for taps in (1, 3, 5)]
    yield "1 x 1, 3 x 3, 5 x 5 below each other, 16, 32 x 32", vstack(convs), math.hypot(*map(upper, convs))
    convs = [layer(32, 32, 8) for _ in range(5)]
    yield "5 layers, 32, 8 x 8", reduce(matmul, convs), math.prod(map(upper, convs))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="with a matrix of 6 million entries")
    large = parser.parse_args().large
    print(f"norm_bounds with rtol 1e-2, channels and image, 3 x 3 taps, zeros, float64, {workers()} threads\n")
    print("| layers | gap | gap of the parts | seconds |")
    print("| --- | ---: | ---: | ---: |")
    for what, A, parts in compositions(large):
        start = time.perf_counter()
        low, high = norm_bounds(A)
        seconds = time.perf_counter() - start
        print(f"| {what} | {high / low - 1:.1e} | {parts / low - 1:.1e} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
