"""Products on all threads over products on one, idle and beside busy processes: ``python benchmarks/load.py``.

At default settings a product should take no longer than on one thread when the machine is idle, and at most twice as
long when other processes want the cores. The two settings take turns in one process; the busy processes count. Each
row has the ratio of the medians and of the means, so that rare long waits are seen. The layers are those that were
slowest when BLAS had threads of its own, and random ones of the planner's benchmark (--count, --seed).

Leave OPENBLAS_NUM_THREADS and its kin unset: a BLAS that is held from outside shows nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from plan import geometries

from convmat.geometry import Geometry, conv_geometry
from convmat.products import Products
from convmat.products.threads import VARIABLE

BUSY = "while True: pass"


def layer(shape: tuple[int, ...], size: tuple[int, ...], method: str = "auto", **options: object) -> Products:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return Products(conv_geometry(shape, size, **options), weight, method)


NAMED = {
    "3 -> 16, 3 x 3, 128^2, stride 2": lambda: layer((16, 3, 3, 3), (128, 128), stride=2, padding=1),
    "128 -> 16, 7 x 7, 56^2, stride 2": lambda: layer((16, 128, 7, 7), (56, 56), stride=2, padding=3),
    "64 -> 128, 3 x 3, 56^2": lambda: layer((128, 64, 3, 3), (56, 56), padding=1),
    "128 -> 32, 9, 2^14, gemm": lambda: layer((32, 128, 9), (2**14,), "gemm", padding=4),
    "1 -> 1, 25 x 25, 512^2": lambda: layer((25, 25), (512, 512), padding=12, padding_mode="reflect"),
}


def random_layers(count: int, seed: int) -> Iterator[tuple[str, Products]]:
    for geometry, weight in geometries(count, seed):
        yield describe(geometry, weight), Products(geometry, weight, "auto")


def describe(geometry: Geometry, weight: np.ndarray) -> str:
    taps, size = ("x".join(map(str, n)) for n in (geometry.kernel_size, geometry.input_size))
    return f"{geometry.in_channels} -> {geometry.out_channels}, {taps}, {size}, s{geometry.stride[0]}, {weight.dtype}"


def timed(product: Callable[[], object], limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds on all threads, and on one, by turns."""
    settings: tuple[str | None, ...] = (None, "1")
    found: list[list[float]] = [[], []]
    begin = time.perf_counter()
    while len(found[1]) < 4 or (time.perf_counter() - begin < limit and len(found[1]) < 200):
        for setting, times in zip(settings, found, strict=True):
            with threads(setting):
                start = time.perf_counter()
                product()
                times.append(time.perf_counter() - start)
    return np.array(found[0][1:]), np.array(found[1][1:])


@contextlib.contextmanager
def threads(count: str | None) -> Iterator[None]:
    os.environ.pop(VARIABLE, None)
    if count is not None:
        os.environ[VARIABLE] = count
    yield
    os.environ.pop(VARIABLE, None)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=40, help="random layers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--busy", type=int, default=2, help="busy processes beside")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each product and load")
    arguments = parser.parse_args()
    if held := [name for name in os.environ if name.endswith("_NUM_THREADS")]:
        parser.error(f"{', '.join(held)} must not be set")

    layers = [(name, make()) for name, make in NAMED.items()]
    layers += random_layers(arguments.count, arguments.seed)
    rows = []
    print(f"| layer | product, method | ms on one thread | idle | beside {arguments.busy} busy | means |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, products in layers:
        geometry, dtype = products.geometry, products.weight.dtype
        x = np.ones((1, geometry.in_channels, *geometry.input_size), dtype)
        y = np.ones((1, geometry.out_channels, *geometry.output_size), dtype)
        for word, method, product in (
            ("A x", products.methods[0], lambda products=products, x=x: products.forward(x)),
            ("A^T y", products.methods[1], lambda products=products, y=y: products.transpose(y)),
        ):
            every, one = timed(product, arguments.seconds)
            with busy(arguments.busy):
                loaded, loaded_one = timed(product, 2 * arguments.seconds)
            row = (
                float(np.median(every) / np.median(one)),
                float(np.median(loaded) / np.median(loaded_one)),
                float(loaded.mean() / loaded_one.mean()),
            )
            rows.append(row)
            figures = " | ".join(f"{ratio:.2f}" for ratio in row)
            print(f"| {name} | {word}, {method} | {1e3 * np.median(one):.3f} | {figures} |", flush=True)
    worst = np.max(rows, axis=0)
    above = [int(sum(row[i] > bar for row in rows)) for i, bar in enumerate((1.1, 2.0, 2.0))]
    print(
        f"\nworst of {len(rows)} products: idle {worst[0]:.2f}, busy {worst[1]:.2f} (medians), {worst[2]:.2f} (means); "
        f"idle above 1.1: {above[0]}, busy above 2: {above[1]} and {above[2]}"
    )


if __name__ == "__main__":
    main()
