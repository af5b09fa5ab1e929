"""Matrix-free products A x and A^T y, one module per method, behind one signature.

`Products` owns a geometry and a weight; it makes the plan of a method when it is first needed, once per dtype.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.fft import Fft
from convmat.products.gemm import Gemm
from convmat.products.matrix import MatrixProduct
from convmat.products.separable import Separable
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


def check_method(method: str) -> str:
    """The method, if there is one of that name.

    Raises
    ------
    TypeError, ValueError
        If there is none.
    """
    if not isinstance(method, str):
        raise TypeError(f"method={method!r} must be a word")
    if method not in ("auto", *METHODS):
        raise ValueError(f"method={method!r} must be one of 'auto', {', '.join(map(repr, METHODS))}")
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
        if not np.isfinite(weight).all():
            self.method = "matrix"
        else:
            self.method = "gemm" if asked == "auto" else asked
        self._plans: dict[np.dtype[Any], Product] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Products, (self.geometry, self.weight, self.asked)

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        return self._real_and_imaginary(x, lambda plan, part: plan.forward(part))

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        return self._real_and_imaginary(y, lambda plan, part: plan.transpose(part))

    def _real_and_imaginary(
        self, x: NDArray[Any], product: Callable[[Product, NDArray[Any]], NDArray[Any]]
    ) -> NDArray[Any]:
        """A real kernel acts on the two real parts of a complex image; a complex kernel needs a complex image."""
        dtype = np.result_type(self.weight, x)
        if x.dtype.kind != "c" or self.weight.dtype.kind == "c":
            return product(self._plan(dtype), np.ascontiguousarray(x, dtype=dtype))
        real = np.empty(0, dtype=dtype).real.dtype
        parts = product(self._plan(real), np.concatenate([x.real, x.imag]).astype(real, copy=False))
        result = np.empty((len(x), *parts.shape[1:]), dtype=dtype)
        result.real, result.imag = parts[: len(x)], parts[len(x) :]
        return result

    def _plan(self, dtype: np.dtype[Any]) -> Product:
        plan = self._plans.get(dtype)
        if plan is None:
            with self._lock:
                plan = self._plans.get(dtype)
                if plan is None:
                    plan = METHODS[self.method](self.geometry, self.weight.astype(dtype, copy=False))
                    self._plans[dtype] = plan
        return plan
