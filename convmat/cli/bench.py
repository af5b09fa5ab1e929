"""``convmat bench``: A x and A^T y by the matrix, matrix-free, and by the peers that are installed, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.cli import text
from convmat.cli.arguments import BadArgument
from convmat.cli.progress import Progress
from convmat.products.threads import VARIABLE

Array = NDArray[Any]
Pair = tuple[Callable[[Array], Array], Callable[[Array], Array]]
"""A x and A^T y, of images (C, N_1, N_2) and (C, M_1, M_2)."""

_SECONDS = 0.7
"""For each product of each case, all libraries together."""

_ROUNDS = 3, 200
"""The fewest and the most turns."""

_VARIABLES = (VARIABLE, "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What convmat, torch and BLAS read."""


@dataclass(frozen=True)
class Case:
    """A layer with "half" zero padding, K // 2 on each side."""

    name: str
    shape: tuple[int, int, int, int]
    size: int
    stride: int = 1
    dtype: type = np.float64

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that convmat and torch share."""
        return {"stride": self.stride, "padding": self.shape[-1] // 2}

    @property
    def weight(self) -> Array:
        """Standard normal."""
        return np.random.default_rng(0).standard_normal(self.shape).astype(self.dtype)

    @property
    def images(self) -> tuple[Array, Array]:
        """An image that goes in, and one that comes out."""
        rng, outputs = np.random.default_rng(1), (self.size - 1) // self.stride + 1
        x, y = (rng.standard_normal((c, n, n)) for c, n in ((self.shape[1], self.size), (self.shape[0], outputs)))
        return x.astype(self.dtype), y.astype(self.dtype)


CASES = (
    Case("256^2, 3x3", (1, 1, 3, 3), 256),
    Case("256^2, 15x15", (1, 1, 15, 15), 256),
    Case("512^2, 5x5, s2", (1, 1, 5, 5), 512, stride=2),
    Case("32 ch, 32^2, 3x3", (32, 32, 3, 3), 32, dtype=np.float32),
)


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "bench",
        help="time the products against the explicit matrix and the libraries that are installed",
        description="Time A x and A^T y of four layers: matrix-free, by the explicit matrix, and by scipy.signal "
        "(fft), scipy.ndimage, torch and pylops where they are installed and can do the layer. The results are "
        "compared before anything is timed; the libraries take turns, and medians are printed. Takes less than 20 s.",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="for each library (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON document: threads, missing, and cases with "
                        "case, product, seconds (by library), left_out (library: why)")  # fmt: skip
    parser.set_defaults(run=run)


def run(parsed: Namespace) -> None:
    """Run the command."""
    if parsed.threads < 1:
        raise BadArgument(f"--threads {parsed.threads} must be at least 1")
    threads = dict.fromkeys(_VARIABLES, str(parsed.threads))
    document = measure() if threads.items() <= os.environ.items() else _measure_in_child(threads)
    document["threads"] = parsed.threads
    if parsed.json:
        print(json.dumps(document))
        return
    print(f"median milliseconds with --threads {parsed.threads}, * the fastest; all results agree\n")
    print(_table(document["cases"], text.terminal_width()))
    print("\nscipy (matrix, fft, ndimage) uses one thread whatever is asked for")
    if document["missing"]:
        print(f"not installed: {', '.join(document['missing'])}")
    left_out = {(name, case["case"], why) for case in document["cases"] for name, why in case["left_out"].items()}
    for name, case, why in sorted(left_out):
        print(f"{name} left out of {case}: {why}")


def measure() -> dict[str, Any]:
    """Check and time everything, in this process."""
    missing: list[str] = []
    results: list[dict[str, Any]] = []
    with Progress("benchmark") as progress:
        for done, case in enumerate(CASES):
            progress(done, len(CASES))
            pairs, left_out = _checked(case, missing)
            for direction, product in enumerate(("A x", "A^T y")):
                functions = {name: pair[direction] for name, pair in pairs.items()}
                seconds = take_turns(functions, case.images[direction], _SECONDS)
                results.append({"case": case.name, "product": product, "seconds": seconds, "left_out": left_out})
    return {"missing": missing, "cases": results}


def _measure_in_child(threads: dict[str, str]) -> dict[str, Any]:
    """The same in a process of its own: libraries read how many threads they may use when they are loaded."""
    words = [sys.executable, "-m", "convmat", "bench", "--json", "--threads", threads[VARIABLE]]
    done = subprocess.run(words, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def take_turns(functions: dict[str, Callable[[Array], Array]], image: Array, limit: float) -> dict[str, float]:
    """Median seconds of each function, called in turn until the time for all is over."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    fewest, most = _ROUNDS
    begin = time.perf_counter()
    for done in range(most):
        if done >= fewest and time.perf_counter() - begin > limit:
            break
        for name, function in functions.items():
            if done >= fewest and sum(times[name]) > limit / 4:
                continue  # a slow one has had its turns
            start = time.perf_counter()
            function(image)
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def _checked(case: Case, missing: list[str]) -> tuple[dict[str, Pair], dict[str, str]]:
    """The libraries that can do the case and agree on it, and those which do not agree."""
    pairs: dict[str, Pair] = {}
    left_out: dict[str, str] = {}
    expected = [product(image) for product, image in zip(_matrix(case), case.images, strict=True)]
    for name, make in LIBRARIES.items():
        if name in missing:
            continue
        try:
            pair = make(case)
        except ImportError:
            missing.append(name)
            continue
        if pair is None:
            continue
        error = max(
            float(np.abs(product(image) - right).max() / np.abs(right).max())
            for product, image, right in zip(pair, case.images, expected, strict=True)
        )
        if error < (1e-10 if case.dtype is np.float64 else 1e-4):
            pairs[name] = pair
        else:
            left_out[name] = f"its result differs by {error:.0e}"
    return pairs, left_out


def _table(results: list[dict[str, Any]], width: int) -> str:
    names = [name for name in LIBRARIES if any(name in result["seconds"] for result in results)]
    rows = []
    for result in results:
        seconds = result["seconds"]
        best = min(seconds.values())
        cells = [f"{1e3 * seconds[n]:.3g}{'*' if seconds[n] == best else ' '}" if n in seconds else "" for n in names]
        rows.append([result["case"], result["product"], *cells])
    return text.table(["layer", "", *(f"{name} " for name in names)], rows, width)


def _convmat(case: Case) -> Pair:
    """The operator, with method="auto"."""
    from convmat import Conv2d

    A = Conv2d(case.weight, (case.size, case.size), **case.options)
    return A.apply, A.T.apply


def _matrix(case: Case) -> Pair:
    """The product of scipy with the explicit matrix, and with its transpose, which is not built."""
    from convmat import conv_matrix

    A = conv_matrix(case.weight, (case.size, case.size), **case.options)
    x, y = case.images
    return lambda u: (A @ u.ravel()).reshape(y.shape), lambda v: (A.T @ v.ravel()).reshape(x.shape)


def _torch(case: Case) -> Pair:
    """``torch.nn.functional.conv2d`` and ``conv_transpose2d``."""
    import torch
    from torch.nn import functional

    weight = torch.from_numpy(case.weight)
    extra = (case.size - 1) % case.stride

    def forward(u: Array) -> Array:
        with torch.no_grad():
            return np.asarray(functional.conv2d(torch.from_numpy(u)[None], weight, **case.options)[0])

    def transpose(v: Array) -> Array:
        with torch.no_grad():
            image = torch.from_numpy(v)[None]
            return np.asarray(functional.conv_transpose2d(image, weight, output_padding=extra, **case.options)[0])

    return forward, transpose


def _fftconvolve(case: Case) -> Pair | None:
    """``scipy.signal.fftconvolve``."""
    from scipy.signal import fftconvolve

    k = case.weight[0, 0]
    return _stride_one(case, lambda u: fftconvolve(u, k[::-1, ::-1], "same"), lambda v: fftconvolve(v, k, "same"))


def _ndimage(case: Case) -> Pair | None:
    """``scipy.ndimage.correlate`` and ``convolve``."""
    from scipy.ndimage import convolve, correlate

    k = case.weight[0, 0]
    return _stride_one(case, lambda u: correlate(u, k, mode="constant"), lambda v: convolve(v, k, mode="constant"))


def _pylops(case: Case) -> Pair | None:
    """``pylops.signalprocessing.Convolve2D``."""
    from pylops.signalprocessing import Convolve2D

    k, size = case.weight[0, 0], (case.size, case.size)
    operator = Convolve2D(size, h=k[::-1, ::-1].copy(), offset=(k.shape[0] // 2, k.shape[1] // 2), dtype=k.dtype)
    return _stride_one(
        case,
        lambda u: np.reshape(operator.matvec(u.ravel()), size),
        lambda v: np.reshape(operator.rmatvec(v.ravel()), size),
    )


def _stride_one(case: Case, correlate: Callable[[Array], Array], convolve: Callable[[Array], Array]) -> Pair | None:
    """A pair from functions of one channel and stride 1: every s-th sample kept, or zeros between them."""
    if case.shape[:2] != (1, 1):
        return None
    kept = slice(None, None, case.stride)

    def transpose(v: Array) -> Array:
        filled = np.zeros((case.size, case.size), dtype=v.dtype)
        filled[kept, kept] = v[0]
        return convolve(filled)[None]

    return lambda u: correlate(u[0])[kept, kept][None], transpose


LIBRARIES: dict[str, Callable[[Case], Pair | None]] = {
    "convmat": _convmat,
    "matrix": _matrix,
    "fft": _fftconvolve,
    "ndimage": _ndimage,
    "torch": _torch,
    "pylops": _pylops,
}
"""Name -> a case -> its two products, or None where the library has no such layer."""
