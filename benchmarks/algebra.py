"""Sums and products of operators over their parts: ``python benchmarks/algebra.py``.

``(A + B).apply`` should cost no more than the two products and one pass over the output, and ``A.H @ A`` no more than
``normal(A)``. Each row has the ratio of the medians; the two take turns in one process. The last columns compare the
operator that `simplify` makes of the sum with the sum, and its matrix, assembled, with the sum of two matrices.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from convmat import Conv2d, identity, normal, simplify
from convmat.operators import ImageOperator

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def gaussian(taps: int) -> np.ndarray:
    line = np.exp(-0.5 * (np.linspace(-3, 3, taps)) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def same(kernel: np.ndarray, size: int, mode: str = "zeros") -> Conv2d:
    return Conv2d(kernel, (size, size), padding=tuple(k // 2 for k in kernel.shape[-2:]), padding_mode=mode)


PAIRS: dict[str, Callable[[], tuple[ImageOperator, ImageOperator]]] = {
    "3 x 3 and 1 x 1, 64 channels, 56^2": lambda: (same(weight(64, 64, 3, 3), 56), same(weight(64, 64, 1, 1), 56)),
    "3 x 3 and 3 x 3, 16 channels, 112^2": lambda: (same(weight(16, 16, 3, 3), 112), same(weight(16, 16, 3, 3), 112)),
    "5 x 5 and identity, 512^2": lambda: (same(weight(5, 5), 512), identity((512, 512))),
    "25 x 25 and 25 x 25, 512^2": lambda: (same(weight(25, 25), 512), same(weight(25, 25), 512)),
    "gaussian 21 x 21 and 5 x 5, 1024^2": lambda: tuple(same(gaussian(k), 1024, "reflect") for k in (21, 5)),
}  # fmt: skip

SINGLE: dict[str, Callable[[], ImageOperator]] = {
    "gaussian 21 x 21, 512^2, reflect": lambda: same(gaussian(21), 512, "reflect"),
    "gaussian 9 x 9, 1024^2, stride 2": lambda: Conv2d(gaussian(9), (1024, 1024), padding=4, stride=2),
    "25 x 25, 512^2, circular": lambda: same(weight(25, 25), 512, "circular"),
    "3 x 3, 16 channels, 64^2": lambda: same(weight(16, 16, 3, 3), 64),
    "5 x 5, 256^2": lambda: same(weight(5, 5), 256),
}


def ratio(first: Callable[[], object], second: Callable[[], object], seconds: float) -> float:
    """The median time of the first over that of the second, by turns."""
    found: tuple[list[float], list[float]] = ([], [])
    first(), second()
    begin = time.perf_counter()
    while len(found[0]) < 5 or time.perf_counter() - begin < seconds:
        for call, times in zip((first, second), found, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return float(np.median(found[0]) / np.median(found[1]))


def parts(A: ImageOperator, B: ImageOperator, x: np.ndarray) -> np.ndarray:
    y = A.apply(x)
    y += B.apply(x)
    return y


def sum_row(A: ImageOperator, B: ImageOperator, seconds: float) -> list[float]:
    total, short = A + B, simplify(A + B)
    x, y = weight(*A.input_shape), weight(*A.output_shape)
    return [
        ratio(lambda: total.apply(x), lambda: parts(A, B, x), seconds),
        ratio(lambda: total.T.apply(y), lambda: parts(A.T, B.T, y), seconds),
        ratio(lambda: short.apply(x), lambda: total.apply(x), seconds),
        ratio(total.tosparse, lambda: A.tosparse() + B.tosparse(), seconds) if A.shape[0] < 3e5 else np.nan,
    ]


def product_row(A: ImageOperator, seconds: float) -> list[float]:
    product, fused, x = A.H @ A, normal(A), weight(*A.input_shape)
    return [
        ratio(lambda: product.apply(x), lambda: fused.apply(x), seconds),
        ratio(lambda: A.H.apply(A.apply(x)), lambda: fused.apply(x), seconds),
    ]


def show(name: str, figures: list[float]) -> None:
    print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="per figure")
    seconds = parser.parse_args().seconds
    print("| sum | (A + B) x / (A x + B x) | transposed | simplify / sum | matrix / sum of matrices |")
    print("| --- | --- | --- | --- | --- |")
    for name, make in PAIRS.items():
        show(name, sum_row(*make(), seconds))
    print("\n| product | (A.H @ A) x / normal(A) x | A.H (A x) / normal(A) x |")
    print("| --- | --- | --- |")
    for name, single in SINGLE.items():
        show(name, product_row(single(), seconds))


if __name__ == "__main__":
    main()
