"""How good the planner is, and the coefficients it should have.

``python benchmarks/plan.py --fit`` measures one set of random geometries on one core and prints the table `COST` of
`convmat.products.plan`; without --fit, it measures another set and says how far from the best method "auto" is, with
and without the extra `fast`.
Run it on an idle machine, pinned to one core, with CONVMAT_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import math
import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from convmat.geometry import Geometry, conv_geometry
from convmat.products import METHODS, Products, separable_rank, usable
from convmat.products.plan import COUNTS, MATRIX_LIMIT, Work, cost

DIRECTIONS = ("forward", "transpose")

NEAR = 5.0
"""A method is fitted where it takes no more than so many times the best: elsewhere its cost decides nothing."""


def geometries(count: int, seed: int) -> list[tuple[Geometry, np.ndarray]]:
    """Random layers of every kind that people use: filters, layers of networks, depthwise, signals, volumes."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        kind = rng.choice(
            ["filter", "separable", "layer", "depthwise", "signal", "volume"], p=[0.3, 0.1, 0.3, 0.1, 0.1, 0.1]
        )
        dims = {"signal": 1, "volume": 3}.get(kind, 2)
        largest = {"layer": 128, "depthwise": 160, "signal": 2**18, "volume": 48}.get(kind, 1500)
        size = np.exp(rng.uniform(math.log(8), math.log(largest), 1)).astype(int).repeat(dims)
        taps = int(rng.choice([1, 2, 3, 3, 3, 5, 5, 7, 9, 11, 15, 21, 31, 45]))
        if kind in ("layer", "depthwise", "volume"):
            taps = min(taps, 7 if kind != "volume" else 5)
        stride = int(rng.choice([1, 1, 1, 2, 2, 3, 4]))
        dilation = int(rng.choice([1, 1, 1, 1, 2])) if taps <= 7 else 1
        channels = (1, 1)
        groups = 1
        if kind == "layer":
            channels = tuple(int(c) for c in rng.choice([1, 3, 4, 8, 16, 32, 64, 128], 2))
        if kind == "depthwise":
            groups = int(rng.choice([4, 16, 64, 128]))
            channels = (groups, groups)
        if kind in ("signal", "volume"):
            channels = tuple(int(c) for c in rng.choice([1, 1, 2, 4], 2))
        shape = (channels[1], channels[0] // groups, *[taps] * dims)
        mode = str(rng.choice(["zeros", "zeros", "reflect", "circular", "replicate"]))
        try:
            geometry = conv_geometry(
                shape,
                tuple(int(n) for n in size),
                stride=stride,
                dilation=dilation,
                padding=dilation * (taps - 1) // 2,
                groups=groups,
                padding_mode=mode,
            )
        except ValueError:
            continue
        if math.prod(geometry.output_size) * math.prod(shape) > 3e9:
            continue
        weight = rng.standard_normal(shape)
        if kind == "separable":
            line = np.exp(-0.5 * (np.arange(taps) - taps // 2) ** 2)
            weight = np.multiply.outer(line, line).reshape(shape)
        found.append((geometry, weight.astype(rng.choice([np.float32, np.float64]))))
    return found


def seconds(product, image: np.ndarray, limit: float = 0.1) -> float:
    """The median time of one product, of as many as fit in the limit (at least two, the first apart)."""
    product(image)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begin < limit and len(times) < 40):
        start = time.perf_counter()
        product(image)
        times.append(time.perf_counter() - start)
        if times[-1] > limit:
            break
    return float(np.median(times))


def measure(count: int, seed: int) -> list[dict]:
    """Time every method, in both directions, on every geometry."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, (geometry, weight) in enumerate(geometries(count, seed)):
        x = rng.standard_normal((1, geometry.in_channels, *geometry.input_size)).astype(weight.dtype)
        y = rng.standard_normal((1, geometry.out_channels, *geometry.output_size)).astype(weight.dtype)
        rank = separable_rank(geometry, weight)
        row = {"geometry": geometry, "single": weight.dtype == np.float32, "rank": rank, "seconds": {}}
        for method in usable():
            if (method == "matrix" and geometry.nnz > MATRIX_LIMIT) or (method == "separable" and rank is None):
                continue
            if method == "fft" and geometry.out_channels * geometry.in_channels // geometry.groups > 1024:
                continue
            plan = METHODS[method](geometry, weight)
            row["seconds"][method, "forward"] = seconds(plan.forward, x)
            row["seconds"][method, "transpose"] = seconds(plan.transpose, y)
        rows.append(row)
        if sys.stdout.isatty():
            print(f"\r{number + 1} of {count}", end="\n" if number + 1 == count else "", flush=True)
    return rows


def products(rows: list[dict]) -> Iterator[tuple[Work, dict[str, float]]]:
    """Each product that was measured, and the seconds of each method."""
    for row in rows:
        for direction in DIRECTIONS:
            work = Work(row["geometry"], direction == "transpose", 4 if row["single"] else 8, row["rank"] or 0)
            yield work, {m: t for (m, d), t in row["seconds"].items() if d == direction}


def report_measured(rows: list[dict]) -> None:
    """Print how far the choice of "measure" is from the best method, timed once more, in turns."""
    rng, ratios = np.random.default_rng(0), []
    for work, measured in products(rows):
        g, weight = work.geometry, rng.standard_normal(work.geometry.weight_shape)
        weight = weight.astype(np.float32 if work.itemsize == 4 else np.float64)
        shape = (1, g.in_channels, *g.input_size)
        if work.transpose:
            shape = (1, g.out_channels, *g.output_size)
        image = rng.standard_normal(shape).astype(weight.dtype)
        chosen = Products(g, weight, "measure")
        (chosen.transpose if work.transpose else chosen.forward)(image)
        winner = chosen.methods[work.transpose]
        near = [m for m in measured if m != "separable" and measured[m] <= 2 * min(measured.values())]
        plans = {m: METHODS[m](g, weight) for m in {winner, *near}}
        times: dict[str, list[float]] = {m: [] for m in plans}
        for _ in range(15):
            for method, plan in plans.items():
                start = time.perf_counter()
                (plan.transpose if work.transpose else plan.forward)(image)
                times[method].append(time.perf_counter() - start)
        medians = {method: float(np.median(t[2:])) for method, t in times.items()}
        ratios.append(medians[winner] / min(medians.values()))
    ratios = np.sort(ratios)
    print(
        f'{len(ratios)} products by method="measure": within 1.1 of the best method in '
        f"{100 * np.mean(ratios <= 1.1):.1f} %, worst {ratios[-1]:.2f}"
    )


def fit(rows: list[dict]) -> dict[str, tuple[float, ...]]:
    """Non-negative least squares of the relative errors, for each method."""
    table = {}
    for method, count in COUNTS.items():
        near = [(w, t[method]) for w, t in products(rows) if t.get(method, math.inf) <= NEAR * min(t.values())]
        times = np.array([1e9 * seconds for _, seconds in near])
        matrix = np.array([count(work) for work, _ in near], dtype=float) / times[:, None]
        solution, _ = nnls(matrix, np.ones(len(times)))
        table[method] = tuple(float(f"{value:.3g}") for value in solution)
        error = np.abs(np.log(np.maximum(matrix @ solution, 1e-9)))
        print(f"# {method}: {len(near)} products, typical factor {np.exp(np.median(error)):.2f}")
    return table


def report(rows: list[dict], without: tuple[str, ...] = ()) -> None:
    """Print how far the choice of "auto" is from the best method."""
    ratios = []
    for work, measured in products(rows):
        measured = {m: t for m, t in measured.items() if m not in without}
        choice, best = min(measured, key=lambda m: cost(m, work)), min(measured, key=measured.__getitem__)
        ratios.append(measured[choice] / measured[best])
        if ratios[-1] > 1.3:
            g = work.geometry
            print(
                f"{ratios[-1]:5.2f} {DIRECTIONS[work.transpose]:9} {choice} {1e3 * measured[choice]:.3f} ms "
                f"(expected {cost(choice, work) / 1e6:.3f}) instead of {best} {1e3 * measured[best]:.3f} ms "
                f"(expected {cost(best, work) / 1e6:.3f}): {g.in_channels}->{g.out_channels} G{g.groups} "
                f"N{g.input_size} K{g.kernel_size} s{g.stride[0]} d{g.dilation[0]} {g.padding_mode} {8 * work.itemsize}"
            )
    ratios = np.sort(ratios)
    print(
        f"{len(ratios)} products{', without ' + ', '.join(without) if without else ''}: within 1.3 of the best method "
        f"in {100 * np.mean(ratios <= 1.3):.1f} %, median {np.median(ratios):.2f}, "
        f"95th percentile {np.quantile(ratios, 0.95):.2f}, worst {ratios[-1]:.2f}"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="measure the other set and print the coefficients")
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--seed", type=int, help="of the random geometries")
    parser.add_argument("--keep", type=Path, help="keep the measurements in this file, or use those that are there")
    parser.add_argument("--measured", action="store_true", help='try method="measure" too')
    options = parser.parse_args()
    if options.keep and options.keep.exists():
        rows = pickle.loads(options.keep.read_bytes())
    else:
        rows = measure(options.count, options.seed if options.seed is not None else 0 if options.fit else 1)
        if options.keep:
            options.keep.write_bytes(pickle.dumps(rows))
    if options.fit:
        for key, steps in fit(rows).items():
            print(f'    "{key}": {steps},')
    else:
        report(rows)
        report(rows, without=("direct",))
        if options.measured:
            report_measured(rows)


if __name__ == "__main__":
    main()
