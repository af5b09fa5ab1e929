"""How many steps, and how much less time, the solvers need: ``python benchmarks/solve.py`` prints Markdown tables.

The normal equations (A^T A + damp^2) x = A^T y to a relative residual of 1e-6, damp 1e-2, data blurred by 15 x 15
kernels with a little noise. Ratios are times of plain conjugate gradients divided by times of the method, so that more
is better. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.sparse.linalg import cg, lsqr

from convmat import Conv2d, normal, preconditioner, tikhonov

DAMP, RTOL = 1e-2, 1e-6
BORDERS = ("reflect", "replicate", "symmetric", "zeros")


def gaussian(size: int = 15, width: float = 2.5) -> np.ndarray:
    """A separable blur."""
    line = np.exp(-0.5 * ((np.arange(size) - size // 2) / width) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def nearly_separable(size: int = 15) -> np.ndarray:
    """The same with a second singular value of 5 % of the first."""
    weight = gaussian(size)
    offsets = np.arange(size) - size // 2
    second = weight * np.outer(offsets, offsets)
    return weight + 0.05 * np.linalg.norm(weight) / np.linalg.norm(second) * second


def motion(size: int = 15, angle: float = 30.0) -> np.ndarray:
    """The path of a point during an exposure, drawn with bilinear weights."""
    t = np.linspace(-0.43 * size, 0.43 * size, 2000)
    path = size // 2 + np.outer([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))], t)
    grid = np.arange(size)[:, None]
    rows, cols = (np.clip(1 - np.abs(grid - p), 0, None) for p in path)
    return rows @ cols.T / t.size


KERNELS: dict[str, Callable[[], np.ndarray]] = {
    "Gaussian": gaussian,
    "nearly separable": nearly_separable,
    "motion": motion,
}


def blurred(A: Conv2d) -> np.ndarray:
    """Data of an image of steps and slopes, with noise."""
    rng = np.random.default_rng(0)
    x = np.zeros(A.input_shape)
    for _ in range(40):
        top, left = rng.integers(0, A.input_shape[0]), rng.integers(0, A.input_shape[1])
        x[top : top + 60, left : left + 60] += rng.uniform(-1, 1)
    y = A @ (x / np.abs(x).max()).ravel()
    return y + 2e-3 * rng.standard_normal(y.size)


def timed(run: Callable[[], int]) -> tuple[int, float]:
    """What `run` returns, and its seconds."""
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def run_cg(A: Conv2d, y: np.ndarray, kind: str | None) -> int:
    """Steps of scipy's cg, its preconditioner included in the time."""
    steps: list[int] = []
    M = None if kind is None else preconditioner(A, DAMP, kind=kind)
    cg(normal(A, DAMP), A.H @ y, M=M, rtol=RTOL, maxiter=3000, callback=lambda _: steps.append(1))
    return len(steps)


def run_lsqr(A: Conv2d, y: np.ndarray) -> int:
    """Steps of lsqr until the normal equations of the damped problem hold to RTOL."""
    N, right, steps = normal(A, DAMP), A.H @ y, 50
    while True:  # lsqr has no such stopping rule: the steps are found first, outside of the clock
        x = lsqr(A, y, damp=DAMP, atol=0, btol=0, conlim=0, iter_lim=steps)[0]
        if np.linalg.norm(right - N @ x) <= RTOL * np.linalg.norm(right) or steps > 3000:
            return steps
        steps += max(1, steps // 10)


def run_tikhonov(A: Conv2d, y: np.ndarray) -> int:
    """Steps of tikhonov."""
    info = tikhonov(A, y, DAMP, rtol=RTOL)[1]
    assert info.converged
    return info.iterations


def compare(size: int, kernel: str, border: str, with_lsqr: bool) -> str:
    """One row of the table."""
    weight = KERNELS[kernel]()
    A = Conv2d(weight, (size, size), padding=weight.shape[0] // 2, padding_mode=border)
    y = blurred(A)
    A.H @ (A @ A.H @ y)  # the plans of the products are made before the clock runs
    plain, seconds = timed(lambda: run_cg(A, y, None))
    cells = [f"{size}", kernel, border, f"{plain}"]
    if with_lsqr:
        steps = run_lsqr(A, y)
        _, taken = timed(lambda: lsqr(A, y, damp=DAMP, atol=0, btol=0, conlim=0, iter_lim=steps)[2])
        cells.append(f"{steps} ({seconds / taken:.1f} x)")
    chosen = preconditioner(A, DAMP).kind
    steps, taken = timed(lambda: run_cg(A, y, "auto"))
    cells.append(f"{chosen}: {steps} ({seconds / taken:.1f} x)")
    steps, taken = timed(lambda: run_tikhonov(A, y))
    cells.append(f"{steps} ({seconds / taken:.1f} x)")
    return "| " + " | ".join(cells) + " |"


def kinds(size: int, kernel: str, border: str) -> str:
    """One row: the steps with every kind."""
    weight = KERNELS[kernel]()
    A = Conv2d(weight, (size, size), padding=weight.shape[0] // 2, padding_mode=border)
    y = blurred(A)
    found = [run_cg(A, y, kind) for kind in ("identity", "kronecker", "circulant", "dct", "schwarz")]
    cells = [f"{size}", kernel, border, *map(str, found), preconditioner(A, DAMP).kind]
    return "| " + " | ".join(cells) + " |"


def super_resolution(size: int = 1024) -> str:
    """Blur and stride 4: closed form against lsqr."""
    rows = []
    for border in ("reflect", "circular"):
        A = Conv2d(gaussian(16, 2.0), (size, size), stride=4, padding=6, padding_mode=border)
        y = blurred(A)
        A.H @ (A @ A.H @ y)
        start = time.perf_counter()
        _, info = tikhonov(A, y, DAMP)
        seconds = time.perf_counter() - start
        plain, taken = timed(lambda A=A, y=y: run_cg(A, y, None))
        rows.append(
            f"| {size} | {border} | {info.method} | {info.relative_residual:.0e} | {seconds:.2f} s | {plain} | "
            f"{taken / seconds:.1f} x |"
        )
    return "\n".join(rows)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--steps-only", action="store_true", help="count the steps of every kind, and time nothing")
    parser.add_argument("--no-lsqr", action="store_true")
    options = parser.parse_args()
    cases = [(n, kernel, border) for n in options.sizes for kernel in KERNELS for border in BORDERS]
    if options.steps_only:
        print("| N | kernel | border | none | kronecker | circulant | dct | schwarz | auto |\n|" + "---|" * 9)
        for case in cases:
            print(kinds(*case), flush=True)
        return
    lsqr_column = "" if options.no_lsqr else " lsqr |"
    print(f"| N | kernel | border | cg, steps |{lsqr_column} preconditioned cg | tikhonov |")
    print("|" + "---|" * (6 if options.no_lsqr else 7))
    for case in cases:
        print(compare(*case, not options.no_lsqr), flush=True)
    print("\n| N | border | tikhonov, stride 4 | residual | time | cg, steps | cg / tikhonov |\n|" + "---|" * 7)
    print(super_resolution())


if __name__ == "__main__":
    main()
