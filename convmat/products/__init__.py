"""Matrix-free products A x and A^T y, one module per method, behind one signature.

`Products` owns a geometry and a weight; it makes the plan of a method when it is first needed, once per dtype.
`symbol` and `waves` know the blocks of a layer at each frequency, and what they act on; `gram` is A^H A in one product.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry, as_weight
from convmat.products import measured, plan
from convmat.products.direct import Direct, installed
from convmat.products.extended import Extended, Plan
from convmat.products.fft import Fft
from convmat.products.gemm import Gemm
from convmat.products.gram import Images, gram
from convmat.products.matrix import MatrixProduct
from convmat.products.separable import Separable, separable_rank
from convmat.products.threads import workers


class Product(Plan, Protocol):
    """One method. Of a padding mode that sums several samples, only "matrix" knows: see `Extended`."""

    def __init__(self, geometry: Geometry, weight: NDArray[Any]) -> None: ...

    @staticmethod
    def work_bytes(geometry: Geometry, itemsize: int) -> float:
        """Bytes kept besides the image and the result, about."""
        ...


METHODS: dict[str, type[Product]] = {
    "matrix": MatrixProduct,
    "direct": Direct,
    "gemm": Gemm,
    "fft": Fft,
    "separable": Separable,
}
"""Name of a method -> (geometry, weight) -> its plan."""

CHOSEN_FROM: dict[str, tuple[str, ...]] = {
    "auto": tuple(METHODS),
    "pointwise": ("matrix", "direct", "gemm"),
    "measure": tuple(METHODS),
}
"""Word for a choice -> the methods of which the one of least cost is taken: as expected, or as measured.

Pointwise: the error of an output is some rounding errors of the products that it sums, whatever other samples there
are. The FFT mixes all samples of a tile, and separable terms may cancel.
"""


def check_method(method: str) -> str:
    """The method, if there is one of that name.

    Raises
    ------
    TypeError, ValueError
        If there is none.
    ImportError
        If it needs an extra that is not installed.
    """
    if not isinstance(method, str):
        raise TypeError(f"method={method!r} must be a word")
    if method not in (*CHOSEN_FROM, *METHODS):
        raise ValueError(f"method={method!r} must be one of {', '.join(map(repr, (*CHOSEN_FROM, *METHODS)))}")
    if method not in (*CHOSEN_FROM, *usable()):
        message = f"method={method!r} needs numba: install the extra `fast`, pip install 'convmat[fast]'"
        raise ImportError(message, name="numba")
    return method


def usable() -> list[str]:
    """The methods that can be used here: all but "direct", if numba is not installed."""
    return [name for name in METHODS if name != "direct" or installed()]


_PARTS = 32
"""Parts of a convolution whose products are kept."""


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
        self._measured: dict[tuple[bool, np.dtype[Any]], str] = {}
        self._plans: dict[tuple[str, np.dtype[Any]], Plan] = {}
        self._grams: dict[bool, Images | None] = {}
        self._parts: dict[Any, Products] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.geometry, self.weight, self.asked, self._chosen)

    @property
    def methods(self) -> tuple[str, str]:
        """The methods of A x and of A^T y: those that are expected to be best, until they have been measured."""
        if self._chosen is None:
            if not self._finite:
                self._chosen = ("matrix", "matrix")
            elif self.asked in METHODS:
                self._chosen = (self.asked, self.asked)
            else:
                expected = self._expected()
                self._chosen = (
                    min(expected, key=lambda e: e.forward).method,
                    min(expected, key=lambda e: e.transpose).method,
                )
        if not self._measured:
            return self._chosen
        forward, transpose = (self._measured.get((up, self.weight.dtype)) for up in (False, True))
        return forward or self._chosen[0], transpose or self._chosen[1]

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x for a batch of images (batch, C_in, N_1..N_D)."""
        return self._product(x, self._method(x, False), False)

    def transpose(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y for a batch of images (batch, C_out, M_1..M_D)."""
        return self._product(y, self._method(y, True), True)

    def _method(self, image: NDArray[Any], transpose: bool) -> str:
        """The method of a product with this image."""
        if self.asked != "measure" or not self._finite:
            return (self._chosen or self.methods)[transpose]
        key = transpose, np.result_type(self.weight, image)
        if key not in self._measured:
            methods = measured.promising(self._expected(), transpose)
            case = self.geometry, *key, workers()
            winner = measured.fastest(methods, lambda m: self._product(image, m, transpose), case)
            with self._lock:
                self._measured[key] = winner
                won = set(self._measured.values())  # what lost keeps no memory
                self._plans = {key: made for key, made in self._plans.items() if key[0] in won}
        return self._measured[key]

    def part(self, geometry: Geometry, chosen: tuple[slice, slice], transpose: bool) -> Products:
        """The products of a part of the convolution, with some of its channels, by the method of A x, or of A^T y.

        Parts that are alike, as those inside an image are, share one.
        """
        asked = self.methods[transpose]
        place = geometry.part if asked == "gemm" else None  # the others do not ask where they stand
        key = geometry, place, tuple((c.start, c.stop) for c in chosen), asked
        with self._lock:
            made = self._parts.pop(key, None)
            if made is None:
                weight = self.weight[chosen] if self.geometry.channels else self.weight
                made = Products(geometry, as_weight(weight), asked)
            self._parts[key] = made  # the newest last
            while len(self._parts) > _PARTS:
                del self._parts[next(iter(self._parts))]
        return made

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
        elif self.asked == "measure":
            reason = "measured, where a product was made, and expected elsewhere"
        elif self.asked in CHOSEN_FROM:
            among = "" if self.asked == "auto" else " of those that are accurate output by output"
            reason = f"the least expected cost{among}"
        forward, transpose = self.methods
        lines = [
            f"A x by {forward}, A^T y by {transpose}: {reason}",
            f"{'':<12} {'A x':>12} {'A^T y':>12} {'work memory':>13}    expected, threads: {workers()}",
        ]
        for estimate in sorted(self._estimates(), key=lambda e: e.forward):
            memory = METHODS[estimate.method].work_bytes(self.geometry.extended, self.weight.itemsize)
            missing = "" if estimate.method in usable() else "    if it were there: pip install 'convmat[fast]'"
            lines.append(
                f"{estimate.method:<12} {estimate.forward / 1e6:>9.3f} ms {estimate.transpose / 1e6:>9.3f} ms "
                f"{memory / 2**20:>9.1f} MiB{missing}"
            )
        return "\n".join(lines)

    def expected(self) -> tuple[float, float]:
        """Nanoseconds that A x and A^T y are expected to take."""
        estimates = {estimate.method: estimate for estimate in self._estimates()}
        forward, transpose = self.methods
        return estimates[forward].forward, estimates[transpose].transpose

    def _expected(self) -> list[plan.Estimate]:
        """What is expected of the methods that may be chosen."""
        return [e for e in self._estimates() if e.method in CHOSEN_FROM[self.asked] and e.method in usable()]

    def _estimates(self) -> list[plan.Estimate]:
        single = self.weight.dtype in (np.float32, np.complex64)
        rank = separable_rank(self.geometry, self.weight) if self._finite else None
        return plan.estimates(self.geometry.extended, single, rank)

    def _product(self, x: NDArray[Any], method: str, transpose: bool) -> NDArray[Any]:
        """A real kernel acts on the two real parts of a complex image; a complex kernel needs a complex image."""
        dtype = x.dtype if x.dtype == self.weight.dtype else np.result_type(self.weight, x)
        if x.dtype.kind != "c" or self.weight.dtype.kind == "c":
            made = self._plan(method, dtype)
            return (made.transpose if transpose else made.forward)(np.ascontiguousarray(x, dtype=dtype))
        real = np.empty(0, dtype=dtype).real.dtype
        made, parts = self._plan(method, real), np.concatenate([x.real, x.imag]).astype(real, copy=False)
        parts = (made.transpose if transpose else made.forward)(parts)
        result = np.empty((len(x), *parts.shape[1:]), dtype=dtype)
        result.real, result.imag = parts[: len(x)], parts[len(x) :]
        return result

    def _plan(self, method: str, dtype: np.dtype[Any]) -> Plan:
        made = self._plans.get((method, dtype))
        if made is None:
            with self._lock:
                made = self._plans.get((method, dtype))
                if made is None:
                    made = self._made(method, self.weight.astype(dtype, copy=False))
                    self._plans[method, dtype] = made
        return made

    def _made(self, method: str, weight: NDArray[Any]) -> Plan:
        """The plan of a method; of those that copy samples alone, on the extended image where several are summed."""
        if method == "matrix":
            return MatrixProduct(self.geometry, weight)
        made = METHODS[method](self.geometry.extended, weight)
        return Extended(self.geometry, made) if self.geometry.combines else made


def _restored(geometry: Geometry, weight: NDArray[Any], asked: str, chosen: tuple[str, str] | None) -> Products:
    """Products with the methods that were chosen elsewhere, if they can be used here: so that they round alike."""
    products = Products(geometry, weight, asked)
    if chosen is not None and set(chosen) <= set(usable()):
        products._chosen = chosen
    return products
