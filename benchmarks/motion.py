"""Kernels that are not separable, at real borders: ``python benchmarks/motion.py`` prints a Markdown table.

(A^T A + damp^2) x = A^T y with motion blur, a defocus disc and a random kernel, until residual and error are 1e-6.
Ratios are times of plain conjugate gradients divided by times of the method, so that more is better: the first solution
of an operator, with all that is made for it, and a second one. lsqr takes as many steps as conjugate gradients. The
smallest of several alternating times counts. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import lsqr
from solve import BORDERS, blurred, motion

from convmat import Conv2d, tikhonov
from convmat.products.threads import blas_on_one_thread
from convmat.solve.inverses import INVERSES, Problem
from convmat.solve.inverses.cg import conjugate_gradients
from convmat.solve.solver import problem_of

RTOL = 1e-6


def disc(size: int = 15) -> np.ndarray:
    """A lens out of focus: the part of each sample that the disc covers."""
    fine = (np.arange(8 * size) + 0.5) / 8 - size / 2
    inside = np.hypot(fine[:, None], fine) <= size / 2 - 0.5
    weight = inside.reshape(size, 8, size, 8).mean(axis=(1, 3))
    return weight / weight.sum()


def random(size: int = 15) -> np.ndarray:
    """A speckle within a Gaussian."""
    offsets = (np.arange(size) - size // 2) / (size / 4)
    envelope = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets**2))
    weight = np.random.default_rng(5).random((size, size)) ** 4 * envelope
    return weight / weight.sum()


KERNELS: dict[str, Callable[[], np.ndarray]] = {
    "motion 15, 30°": motion,
    "motion 9, 75°": lambda: motion(9, 75.0),
    "motion 25, 10°": lambda: motion(25, 10.0),
    "disc 15": disc,
    "random 15": random,
}


def seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    """What `run` returns, and the time that it took."""
    start = time.perf_counter()
    return run(), time.perf_counter() - start


@blas_on_one_thread()
def by(kind: str, problem: Problem, right: np.ndarray) -> int:
    """Steps of conjugate gradients with a preconditioner, which is made first."""
    inverse = INVERSES[kind](problem)
    return conjugate_gradients(problem, right, inverse, rtol=RTOL, maxiter=10000).iterations


def row(size: int, kernel: str, border: str, damp: float, images: int, repeats: int, slow: bool) -> str:
    """One row of the table."""
    weight = KERNELS[kernel]()

    def fresh() -> Conv2d:
        return Conv2d(weight, (size, size), padding=weight.shape[0] // 2, padding_mode=border)

    A = fresh()
    y = np.stack([blurred(A).reshape(A.output_shape)] * images)
    times: dict[str, float] = {}

    def run(name: str, of: Callable[[], Any]) -> Any:
        found, taken = seconds(of)
        times[name] = min(taken, times.get(name, np.inf))
        return found

    solve = {"rtol": RTOL, "maxiter": 10000}
    plain = problem_of(A, damp, None).scaled()
    right = plain.right_side(y[:, None])
    plain.normal(right)  # the plans of the products are made before the clock runs
    for _ in range(repeats):
        B = fresh()
        steps = run("cg", lambda: by("identity", plain, right))
        first = run("first", lambda B=B: tikhonov(B, y, damp, **solve))[1]
        run("second", lambda B=B: tikhonov(B, y, damp, **solve))
    cells = [f"{size}", kernel, border, f"{damp:g}", f"{steps}", f"{times['cg']:.2f} s"]
    if slow:
        limits = {"atol": 0, "btol": 0, "conlim": 0, "iter_lim": steps}
        run("lsqr", lambda: [lsqr(A, image.ravel(), damp=damp, **limits) for image in y])
        patches = run("schwarz", lambda: by("schwarz", plain, right))
        cells += [f"{times['cg'] / times['lsqr']:.1f} x", f"{patches} ({times['cg'] / times['schwarz']:.1f} x)"]
    cells += [
        first.method.removeprefix("cg, preconditioned by "),
        f"{first.iterations}",
        f"{times['cg'] / times['first']:.1f} x",
        f"{times['cg'] / times['second']:.1f} x",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--damps", type=float, nargs="+", default=[1e-1, 1e-2, 1e-3])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--borders", nargs="+", choices=BORDERS, default=list(BORDERS))
    parser.add_argument("--images", type=int, default=1, help="how many are solved for together: 3 for colours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fast", action="store_true", help="neither lsqr nor patches alone")
    options = parser.parse_args()
    slow = "" if options.fast else " lsqr | schwarz, steps |"
    print(f"| N | kernel | border | damp | cg, steps | time |{slow} taken | steps | first | second |")
    print("|" + "---|" * (10 if options.fast else 12))
    cases = itertools.product(options.sizes, options.damps, options.kernels, options.borders)
    for size, damp, kernel, border in cases:
        print(row(size, kernel, border, damp, options.images, options.repeats, not options.fast), flush=True)


if __name__ == "__main__":
    main()
