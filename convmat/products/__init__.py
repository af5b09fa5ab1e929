"""Matrix-free products A x and A^T y, one module per method, behind one signature.

`Products` owns a geometry and a weight; it makes the plan of a method when it is first needed, once per dtype.
`symbol` and `waves` know the blocks of a layer at each frequency, and what they act on; `gram` is A^H A in one product.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products import plan
from convmat.products.fft import Fft
from convmat.products.gemm import Gemm
from convmat.products.gram import Images, gram
from convmat.products.matrix import MatrixProduct
from convmat.products.separable import Separable, separable_rank
from convmat.products.threads import workers
from convmat.products.toeplitz import Toeplitz


class Product(Protocol):
    """One method, planned for one geometry and one kernel (C_out, C_in / groups, K_1..K_D)."""

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x: (batch, C_in, N_1..N_D) -> (batch, C_out, M_1..M_D)."""
        ...

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y, without conjugation: (batch, C_out, M_1..M_D) -> (batch, C_in, N_1..N_D)."""
        ...


METHODS: dict[str, Callable[[Geometry, NDArray[Any]], Product]] = {
    "matrix": MatrixProduct,
    "gemm": Gemm,
    "toeplitz": Toeplitz,
    "fft": Fft,
    "separable": Separable,
}
"""Name of a method -> (geometry, weight) -> its plan."""

CHOSEN_FROM: dict[str, tuple[str, ...]] = {
    "auto": tuple(METHODS),
    "pointwise": ("matrix", "gemm", "toeplitz"),
}
"""Word for a choice -> the methods of which the one of least expected cost is taken.

Pointwise: the error of an output is some rounding errors of the products that it sums, whatever other samples there
are. The FFT mixes all samples of a tile, and separable terms may cancel.
"""


def check_method(method: str) -> str:
    """The method, if there is one of that name.

    Raises
    ------
    TypeError, ValueError
        If there is none.
    """
    if not isinstance(method, str):
        raise TypeError(f"method={method!r} must be a word")
    if method not in (*CHOSEN_FROM, *METHODS):
        raise ValueError(f"method={method!r} must be one of {', '.join(map(repr, (*CHOSEN_FROM, *METHODS)))}")
    return method


class Products:
    """A x and A^T y of one convolution, by the method asked for. Immutable to its users, safe to share by threads.

    Non-finite weights go to the matrix: the other methods multiply the zeros that they pad with, and 0 inf is not 0.
    """

    def __init__(self, geometry: Geometry, weight: NDArray[Any], asked: str) -> None:
        self.geometry = geometry
        self.weight = weight
        self.weight.flags.writeable = False
        self.asked = check_method(asked)
        self._finite = bool(np.isfinite(weight).all())
        self._chosen: tuple[str, str] | None = None
        self._plans: dict[tuple[str, np.dtype[Any]], Product] = {}
        self._grams: dict[bool, Images | None] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Products, (self.geometry, self.weight, self.asked)

    @property
    def methods(self) -> tuple[str, str]:
        """The methods of A x and of A^T y."""
        if self._chosen is None:
            if not self._finite:
                self._chosen = ("matrix", "matrix")
            elif self.asked in METHODS:
                self._chosen = (self.asked, self.asked)
            else:
                expected = [e for e in self._estimates() if e.method in CHOSEN_FROM[self.asked]]
                self._chosen = (
                    min(expected, key=lambda e: e.forward).method,
                    min(expected, key=lambda e: e.transpose).method,
                )
        return self._chosen

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        return self._real_and_imaginary(x, self.methods[0], lambda plan, part: plan.forward(part))

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        return self._real_and_imaginary(y, self.methods[1], lambda plan, part: plan.transpose(part))

    def gram(self, forward: bool) -> Images | None:
        """T^H T as one product, for A or for its transpose; None where that is not cheaper than two."""
        if forward not in self._grams:
            self._grams[forward] = gram(self.geometry, self.weight, self.methods, forward)
        return self._grams[forward]

    def explain(self) -> str:
        """What was chosen and why: the expected cost and the work memory of each method."""
        reason = f"method={self.asked!r} was asked for"
        if not self._finite:
            reason = "the weight is not finite, and only the matrix multiplies no padded zeros"
        elif self.asked in CHOSEN_FROM:
            among = "" if self.asked == "auto" else " of those that are accurate output by output"
            reason = f"the least expected cost{among}"
        forward, transpose = self.methods
        lines = [
            f"A x by {forward}, A^T y by {transpose}: {reason}",
            f"{'':<12} {'A x':>12} {'A^T y':>12} {'work memory':>13}    expected, threads: {workers()}",
        ]
        for estimate in sorted(self._estimates(), key=lambda e: e.forward):
            memory = plan.work_bytes(estimate.method, self.geometry, self.weight.itemsize)
            lines.append(
                f"{estimate.method:<12} {estimate.forward / 1e6:>9.3f} ms {estimate.transpose / 1e6:>9.3f} ms "
                f"{memory / 2**20:>9.1f} MiB"
            )
        return "\n".join(lines)

    def _estimates(self) -> list[plan.Estimate]:
        single = self.weight.dtype in (np.float32, np.complex64)
        rank = separable_rank(self.geometry, self.weight) if self._finite else None
        return plan.estimates(self.geometry, single, rank)

    def _real_and_imaginary(
        self, x: NDArray[Any], method: str, product: Callable[[Product, NDArray[Any]], NDArray[Any]]
    ) -> NDArray[Any]:
        """A real kernel acts on the two real parts of a complex image; a complex kernel needs a complex image."""
        dtype = np.result_type(self.weight, x)
        if x.dtype.kind != "c" or self.weight.dtype.kind == "c":
            return product(self._plan(method, dtype), np.ascontiguousarray(x, dtype=dtype))
        real = np.empty(0, dtype=dtype).real.dtype
        parts = product(self._plan(method, real), np.concatenate([x.real, x.imag]).astype(real, copy=False))
        result = np.empty((len(x), *parts.shape[1:]), dtype=dtype)
        result.real, result.imag = parts[: len(x)], parts[len(x) :]
        return result

    def _plan(self, method: str, dtype: np.dtype[Any]) -> Product:
        made = self._plans.get((method, dtype))
        if made is None:
            with self._lock:
                made = self._plans.get((method, dtype))
                if made is None:
                    made = METHODS[method](self.geometry, self.weight.astype(dtype, copy=False))
                    self._plans[method, dtype] = made
        return made
