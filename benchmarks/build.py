"""How fast the explicit matrix is built: as a multiple of the time of copying its finished arrays, and against others.

``python benchmarks/build.py`` prints a Markdown table. All of a row takes turns in one process. "A" and "A^T" are the
CSR arrays of the convolution and, built directly, of its transpose; "memory" is the peak of the allocations while A is
built, over the size of its arrays. The peers build the same A: COO from all its entries, a Kronecker sum of Toeplitz
blocks, ``A.T.tocsr()`` for A^T, and sparse-convolution where it is installed.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from cases import CASES, Case
from scipy.sparse import coo_array, csr_array, diags_array, kron

from convmat import Conv2d, conv_matrix

BUILT = ("1", "2", "3", "4", "5")


def coo(case: Case) -> csr_array:
    """From the rows, columns and weights of all entries, with vectorised index arithmetic."""
    weight, (stride, padding) = case.weight(), (case.stride, case.padding)
    outs, ins, k, _ = weight.shape
    n1, n2 = case.size
    m1, m2 = case.images()[1].shape[1:]
    o, c, r, q, i, j = np.ogrid[:outs, :ins, :m1, :m2, :k, :k]
    row, col = stride * r + i - padding, stride * q + j - padding
    inside = np.broadcast_to((row >= 0) & (row < n1) & (col >= 0) & (col < n2), (outs, ins, m1, m2, k, k))
    rows = np.broadcast_to((o * m1 + r) * m2 + q, inside.shape)[inside]
    cols = np.broadcast_to((c * n1 + row) * n2 + col, inside.shape)[inside]
    data = np.broadcast_to(weight[:, :, None, None], inside.shape)[inside]
    return coo_array((data, (rows, cols)), shape=(outs * m1 * m2, ins * n1 * n2)).tocsr()


def kronecker(case: Case) -> csr_array | None:
    """The sum over kernel rows of Kronecker products of banded matrices; single channel."""
    if not case.single_channel:
        return None
    weight, padding = case.weight()[0, 0], case.padding
    n1, n2 = case.size
    m1, m2 = (n + 2 * padding - len(weight) + 1 for n in case.size)
    total = None
    for i, line in enumerate(weight):
        rows = diags_array([1.0], offsets=[i - padding], shape=(m1, n1))
        cols = diags_array(list(line), offsets=[j - padding for j in range(len(line))], shape=(m2, n2))
        term = kron(rows.tocsr()[:: case.stride], cols.tocsr()[:: case.stride], format="csr")
        total = term if total is None else total + term
    return total


def sparse_convolution(case: Case) -> Callable[[], object] | None:
    """The double-block Toeplitz matrix of the package sparse-convolution; single channel, stride 1."""
    if not case.single_channel or case.stride > 1 or case.shape[-1] > 5:
        return None
    try:
        from sparse_convolution import Toeplitz_convolution2d
    except ImportError:
        return None
    kernel = case.weight()[0, 0]
    return lambda: Toeplitz_convolution2d(case.size, kernel, mode="same", method="precomputed")


def take_turns(functions: dict[str, Callable[[], object]], limit: float) -> dict[str, float]:
    """Median seconds of each function, called in turn until the limit is over."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    rounds = 0
    while rounds < 5 or (time.perf_counter() - begin < limit and rounds < 300):
        for name, function in functions.items():
            if rounds >= 2 and sum(times[name]) > limit / 3:
                continue
            start = time.perf_counter()
            result = function()
            times[name].append(time.perf_counter() - start)
            del result
        rounds += 1
    return {name: float(np.median(t)) for name, t in times.items()}


def copies(matrix: csr_array) -> Callable[[], object]:
    """Copy the three arrays."""
    return lambda: (matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy())


def peak(function: Callable[[], csr_array]) -> float:
    """The peak of the allocations over the size of the result."""
    tracemalloc.start()
    matrix = function()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each case")
    options = parser.parse_args()
    print("### Building the matrix\n")
    names = ("A", "A^T", "coo", "kronecker", "sparse-convolution", "A.T.tocsr()")
    print("| case | entries | copy | A | " + " | ".join(f"{name} / copy" for name in names) + " | memory |")
    print("| --- | ---: | ---: | ---: | " + " | ".join("---:" for _ in names) + " | ---: |")
    tiny = Case("8^2, 3x3", (1, 1, 3, 3), (8, 8), padding=1)
    for key, case in [("0", tiny), *((key, CASES[key]) for key in BUILT)]:
        A = Conv2d(case.weight(), case.size, **case.options())
        matrix, transpose = A.tosparse(), A.T.tosparse()
        functions: dict[str, Callable[[], object]] = {
            "copy": copies(matrix),
            "A": lambda case=case: conv_matrix(case.weight(), case.size, **case.options()),
            "copy^T": copies(transpose),
            "A^T": lambda A=A: A.T.tosparse(),
            "A.T.tocsr()": lambda matrix=matrix: matrix.T.tocsr(),
        }
        for name, make in (("coo", coo), ("kronecker", kronecker)):
            if (other := make(case)) is not None:
                assert abs(other - matrix).max() < 1e-6
                functions[name] = lambda make=make, case=case: make(case)
        if (function := sparse_convolution(case)) is not None:
            functions["sparse-convolution"] = function
        times = take_turns(functions, options.seconds)
        base = {"A^T": "copy^T"}
        cells = [f"{times[name] / times[base.get(name, 'copy')]:.2f}" if name in times else "" for name in names]
        memory = peak(lambda case=case: conv_matrix(case.weight(), case.size, **case.options()))
        times_ms = f"{1e3 * times['copy']:.3f} ms | {1e3 * times['A']:.3f} ms"
        print(f"| {key}: {case.name} | {matrix.nnz:,} | {times_ms} | {' | '.join(cells)} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
