"""What many dampings, and a chosen one, cost: ``python benchmarks/damping.py`` prints a Markdown table.

A photograph, blurred, with a noise of 0.01. Times are over that of one solution with the damp of "discrepancy": a path
of 20 dampings in the two decades around it, the choice of a damp with its solution, and the L-curve of the 20; for the
path also over the sum of 20 solutions, one by one. Each solution is of an operator of its own, so that nothing is kept
from the one before. The smallest of several alternating times counts. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from solve import gaussian, motion

from convmat import Conv2d, lcurve, plot, tikhonov, vstack
from convmat.operators import ImageOperator

NOISE, DAMPS = 0.01, 20


def even() -> np.ndarray:
    """A kernel that is symmetric and not separable: a lens out of focus."""
    offsets = np.arange(-7, 8)
    weight = np.clip(5.5 - np.hypot(offsets[:, None], offsets), 0, 1)
    return weight / weight.sum()


def differences(size: int) -> ImageOperator:
    """The differences of neighbours along both axes."""
    pads = {"padding_mode": "replicate"}
    across = Conv2d([[1.0, -1.0]], (size, size), padding=((0, 0), (0, 1)), **pads)
    return vstack([across, Conv2d([[1.0], [-1.0]], (size, size), padding=((0, 1), (0, 0)), **pads)])


CASES: dict[str, tuple[Callable[[], np.ndarray], str, bool]] = {
    "Gaussian, reflect": (gaussian, "reflect", False),
    "motion, circular": (motion, "circular", False),
    "defocus, symmetric": (even, "symmetric", False),
    "motion, reflect": (motion, "reflect", False),
    "defocus, zeros": (even, "zeros", False),
    "motion, reflect, differences": (motion, "reflect", True),
}


def row(size: int, name: str, repeats: int, rtol: float) -> str:
    """One row of the table."""
    kernel, mode, penalised = CASES[name]
    weight, R = kernel(), differences(size) if penalised else None

    def fresh() -> Conv2d:
        return Conv2d(weight, (size, size), padding=7, padding_mode=mode)

    x = plot.photo(size)
    y = fresh().apply(x) + NOISE * np.random.default_rng(0).standard_normal(x.shape)
    options = {"regularizer": R, "rtol": rtol}
    damp = tikhonov(fresh(), y, "discrepancy", noise=NOISE, **options)[1].damp
    damps = np.geomspace(damp / 10, 10 * damp, DAMPS).tolist()
    times: dict[str, float] = {}
    infos: dict[str, Any] = {}

    def run(name: str, of: Callable[[], Any]) -> None:
        start = time.perf_counter()
        infos[name] = of()
        times[name] = min(time.perf_counter() - start, times.get(name, np.inf))

    for _ in range(repeats):
        run("one", lambda: tikhonov(fresh(), y, damp, **options)[1])
        run("smallest", lambda: tikhonov(fresh(), y, damps[0], **options)[1])
        run("path", lambda: tikhonov(fresh(), y, damps, **options)[1])
        run("alone", lambda: [tikhonov(fresh(), y, one, **options) for one in damps])
        run("discrepancy", lambda: tikhonov(fresh(), y, "discrepancy", noise=NOISE, **options)[1])
        run("gcv", lambda: tikhonov(fresh(), y, "gcv", **options)[1])
        run("lcurve", lambda: lcurve(fresh(), y, damps, regularizer=R))
    cells = [f"{size}", name, infos["one"].method, f"{times['one']:.3f} s"]
    cells += [f"{times[of] / times['one']:.1f}" for of in ("smallest", "path", "discrepancy", "gcv", "lcurve")]
    return "| " + " | ".join([*cells, f"{times['alone'] / times['path']:.1f} x"]) + " |"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rtol", type=float, default=1e-6)
    options = parser.parse_args()
    columns = "method | one | the smallest | 20 at once | discrepancy | gcv | lcurve | 20 alone over at once"
    print(f"| N | blur, border | {columns} |")
    print("|" + "---|" * 10)
    for size in options.sizes:
        for name in options.cases:
            print(row(size, name, options.repeats, options.rtol), flush=True)


if __name__ == "__main__":
    main()
