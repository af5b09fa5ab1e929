"""lsqr, products with 16 columns, and how the products scale: against the CSR matrix and other operators, on one core.

``python benchmarks/solvers.py`` prints Markdown tables. Run it pinned to one core with one thread for each library, as
``benchmarks/run.py`` does.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from cases import CASES, Case
from libraries import LIBRARIES, MATRIX_LIMIT, use_threads
from scipy.sparse.linalg import LinearOperator, lsqr

from convmat import Conv2d, conv_matrix


def as_operator(case: Case, name: str) -> LinearOperator | None:
    """A library's pair of functions as an operator that lsqr takes."""
    try:
        pair = LIBRARIES[name](case)
    except ImportError:
        return None
    if pair is None:
        return None
    x, y = case.images()
    return LinearOperator(
        (y.size, x.size),
        matvec=lambda u: pair[0](np.asarray(u, dtype=x.dtype).reshape(x.shape)).reshape(-1),
        rmatvec=lambda v: pair[1](np.asarray(v, dtype=y.dtype).reshape(y.shape)).reshape(-1),
        dtype=x.dtype,
    )


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """The median time of a call, the first apart."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def solvers() -> None:
    """50 iterations of lsqr."""
    print("### lsqr, 50 iterations\n")
    print("| case | convmat | CSR | pylops | torch |\n| --- | ---: | ---: | ---: | ---: |")
    for key in ("2", "7"):
        case = CASES[key]
        y = case.images()[1].reshape(-1)
        operators = {"convmat": Conv2d(case.weight(), case.size, **case.options())}
        if case.images()[1].size * np.prod(case.shape) < MATRIX_LIMIT:
            operators["csr"] = conv_matrix(case.weight(), case.size, **case.options())
        for name in ("pylops", "torch"):
            if (operator := as_operator(case, name)) is not None:
                operators[name] = operator
        use_threads(1)
        times: dict[str, list[float]] = {name: [] for name in operators}
        for _ in range(3):
            for name, operator in operators.items():
                start = time.perf_counter()
                lsqr(operator, y, iter_lim=50, atol=0, btol=0, conlim=0)
                times[name].append(time.perf_counter() - start)
        middle = {name: float(np.median(t)) for name, t in times.items()}
        cells = " | ".join(
            f"{middle[n] / middle['convmat']:.2f}" if n in middle else "" for n in ("csr", "pylops", "torch")
        )
        print(f"| {key}: {case.name} | {middle['convmat']:.2f} s | {cells} |", flush=True)
    print()


def columns() -> None:
    """A block of 16 vectors against 16 vectors, one by one."""
    print("### 16 columns at once, over 16 products\n")
    print("| case | A X | A^H Y |\n| --- | ---: | ---: |")
    for key in ("1", "2", "3", "4", "5", "7", "9"):
        case = CASES[key]
        A = Conv2d(case.weight(), case.size, **case.options())
        rng = np.random.default_rng(0)
        cells = []
        for product, block, rows in ((A.matvec, A.matmat, A.shape[1]), (A.rmatvec, A.rmatmat, A.shape[0])):
            X = rng.standard_normal((rows, 16)).astype(case.dtype)
            one = seconds(lambda product=product, X=X: [product(x) for x in X.T])
            cells.append(f"{seconds(lambda block=block, X=X: block(X)) / one:.2f}")
        print(f"| {key}: {case.name} | {' | '.join(cells)} |", flush=True)
    print()


def scaling() -> None:
    """From 128^2 to 4096^2: nanoseconds and bytes of work memory for each pixel."""
    print("### Scaling, 5x5 kernel, stride 2\n")
    print("| image | A x, ns per pixel | A^T y, ns per pixel | memory besides the result, bytes per pixel |")
    print("| --- | ---: | ---: | ---: |")
    for side in (128, 256, 512, 1024, 2048, 4096):
        A = Conv2d(CASES["2"].weight()[0, 0], (side, side), stride=2, padding=2)
        x, y = np.ones(A.shape[1]), np.ones(A.shape[0])
        A @ x, A.T @ y
        cells = [1e9 * seconds(lambda A=A, x=x: A @ x) / side**2, 1e9 * seconds(lambda A=A, y=y: A.T @ y) / side**2]
        fresh = Conv2d(CASES["2"].weight()[0, 0], (side, side), stride=2, padding=2)
        tracemalloc.start()
        result = fresh @ x
        memory = (tracemalloc.get_traced_memory()[1] - result.nbytes) / side**2
        tracemalloc.stop()
        print(f"| {side}^2 | {cells[0]:.2f} | {cells[1]:.2f} | {memory:.1f} |", flush=True)
    print()


def main() -> None:
    """Run the benchmark."""
    solvers()
    columns()
    scaling()


if __name__ == "__main__":
    main()
