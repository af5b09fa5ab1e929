"""What the peers make of a case: a pair of functions, A x and A^T y, on arrays (C, N_1, N_2) and (C, M_1, M_2).

Each function of `LIBRARIES` returns the pair, or None where the library has no such operator or would take minutes.
Whatever can be prepared beforehand is, as a user of an iterative solver would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cases import Case
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = tuple[Callable[[Array], Array], Callable[[Array], Array]]

DIRECT_LIMIT = 3e8
"""Multiplications beyond which the direct methods of scipy are left out."""

LAZY_LIMIT = 6e7
"""The same for lazylinop, which takes seconds from there on, and minutes for the largest cases."""

MATRIX_LIMIT = 3e8
"""Entries beyond which there is no explicit matrix."""


def _multiplications(case: Case) -> float:
    return float(case.images()[1].size) * np.prod(case.shape[1:])


def convmat(case: Case) -> Pair:
    """The operator of this package, with method="auto"."""
    from convmat import Conv2d

    A = Conv2d(case.weight(), case.size, **case.options())
    return A.apply, A.T.apply


def without_fast(case: Case) -> Pair:
    """What method="auto" takes where the extra `fast` is not installed."""
    from convmat import Conv2d
    from convmat.products import plan, separable_rank

    A = Conv2d(case.weight(), case.size, **case.options())
    rank = separable_rank(A.geometry, A.weight)
    expected = [e for e in plan.estimates(A.geometry, case.dtype == np.float32, rank) if e.method != "direct"]
    forward = min(expected, key=lambda e: e.forward).method
    transpose = min(expected, key=lambda e: e.transpose).method
    return (
        Conv2d(case.weight(), case.size, method=forward, **case.options()).apply,
        Conv2d(case.weight(), case.size, method=transpose, **case.options()).T.apply,
    )


def csr(case: Case) -> Pair | None:
    """The product of scipy with the explicit matrix."""
    from convmat import conv_matrix

    if _multiplications(case) > MATRIX_LIMIT:
        return None
    x, y = case.images()
    A = conv_matrix(case.weight(), case.size, **case.options())
    transpose = A.T
    return lambda u: (A @ u.ravel()).reshape(y.shape), lambda v: (transpose @ v.ravel()).reshape(x.shape)


def torch(case: Case) -> Pair | None:
    """``torch.nn.functional.conv2d`` and ``conv_transpose2d`` in the dtype of the case."""
    import torch as t
    from torch.nn import functional

    if case.size[0] == 2048:
        return None  # it asks for 32 GB
    t.set_grad_enabled(False)
    weight = t.from_numpy(case.weight())
    options: dict[str, Any] = case.options()
    extra = [(n + 2 * case.padding - case.shape[-1]) % case.stride for n in case.size]
    return (
        lambda u: functional.conv2d(t.from_numpy(u)[None], weight, **options)[0].numpy(),
        lambda v: functional.conv_transpose2d(t.from_numpy(v)[None], weight, output_padding=extra, **options)[
            0
        ].numpy(),
    )


def _stride_one(case: Case, correlate: Callable[[Array], Array], convolve: Callable[[Array], Array]) -> Pair:
    """A pair from two functions of an image of the full size, "same" with zeros: correlation and convolution."""
    _x, y = case.images()
    p, s, k = case.padding, case.stride, case.shape[-1]
    first = k // 2 - p  # where the first output lies in the "same" image
    at = tuple(slice(first, first + s * (m - 1) + 1, s) for m in y.shape[1:])

    def transpose(v: Array) -> Array:
        filled = np.zeros(case.size, dtype=v.dtype)
        filled[at] = v[0]
        return convolve(filled)[None]

    return lambda u: correlate(u[0])[at][None], transpose


def fftconvolve(case: Case) -> Pair | None:
    """``scipy.signal.fftconvolve``."""
    from scipy.signal import fftconvolve as convolve

    if not case.single_channel:
        return None
    k = case.weight()[0, 0]
    flipped = k[::-1, ::-1].copy()
    return _stride_one(case, lambda u: convolve(u, flipped, "same"), lambda v: convolve(v, k, "same"))


def oaconvolve(case: Case) -> Pair | None:
    """``scipy.signal.oaconvolve``."""
    from scipy.signal import oaconvolve as convolve

    if not case.single_channel:
        return None
    k = case.weight()[0, 0]
    flipped = k[::-1, ::-1].copy()
    return _stride_one(case, lambda u: convolve(u, flipped, "same"), lambda v: convolve(v, k, "same"))


def convolve2d(case: Case) -> Pair | None:
    """``scipy.signal.convolve2d``, the direct sum."""
    from scipy.signal import convolve2d as convolve

    if not case.single_channel or np.prod(case.size) * np.prod(case.shape) > DIRECT_LIMIT:
        return None
    k = case.weight()[0, 0]
    flipped = k[::-1, ::-1].copy()
    return _stride_one(case, lambda u: convolve(u, flipped, "same"), lambda v: convolve(v, k, "same"))


def ndimage(case: Case) -> Pair | None:
    """``scipy.ndimage.correlate`` and ``convolve``."""
    from scipy.ndimage import convolve, correlate

    if not case.single_channel or np.prod(case.size) * np.prod(case.shape) > DIRECT_LIMIT:
        return None
    k = case.weight()[0, 0]
    return _stride_one(case, lambda u: correlate(u, k, mode="constant"), lambda v: convolve(v, k, mode="constant"))


def pylops(case: Case) -> Pair | None:
    """``pylops.signalprocessing.Convolve2D``."""
    from pylops.signalprocessing import Convolve2D

    if not case.single_channel:
        return None
    k = case.weight()[0, 0]
    op = Convolve2D(case.size, h=k[::-1, ::-1].copy(), offset=(k.shape[0] // 2, k.shape[1] // 2), dtype=k.dtype)
    return _stride_one(
        case,
        lambda u: op.matvec(u.ravel()).reshape(case.size),
        lambda v: op.rmatvec(v.ravel()).reshape(case.size),
    )


def sigpy(case: Case) -> Pair | None:
    """``sigpy.linop.ConvolveData`` and its adjoint, on an image padded beforehand."""
    import sigpy as sp

    if not case.single_channel or np.prod(case.size) * np.prod(case.shape) > 30 * DIRECT_LIMIT:
        return None
    p = case.padding
    padded = tuple(n + 2 * p for n in case.size)
    strides = (case.stride, case.stride)
    op = sp.linop.ConvolveData(padded, case.weight()[0, 0, ::-1, ::-1].copy(), mode="valid", strides=strides)
    adjoint = op.H
    inner = (slice(p, p + case.size[0]), slice(p, p + case.size[1]))
    return lambda u: op(np.pad(u[0], p))[None], lambda v: adjoint(v[0])[inner][None]


def lazylinop(case: Case) -> Pair | None:
    """``lazylinop.signal2d.convolve2d``, of images as columns."""
    from lazylinop.signal2d import colvec, convolve2d, uncolvec

    if not case.single_channel or np.prod(case.size) * np.prod(case.shape) > LAZY_LIMIT:
        return None
    k = case.weight()[0, 0]
    op = convolve2d(case.size, k[::-1, ::-1].copy(), mode="same", boundary="fill")
    adjoint = op.H
    return _stride_one(
        case, lambda u: uncolvec(op @ colvec(u), case.size), lambda v: uncolvec(adjoint @ colvec(v), case.size)
    )


def opencv(case: Case) -> Pair | None:
    """``cv2.filter2D``."""
    import cv2

    if not case.single_channel:
        return None
    k = case.weight()[0, 0]
    flipped = k[::-1, ::-1].copy()
    return _stride_one(
        case,
        lambda u: cv2.filter2D(u, -1, k, borderType=cv2.BORDER_CONSTANT),
        lambda v: cv2.filter2D(v, -1, flipped, borderType=cv2.BORDER_CONSTANT),
    )


LIBRARIES: dict[str, Callable[[Case], Pair | None]] = {
    "convmat": convmat,
    "without fast": without_fast,
    "csr": csr,
    "torch": torch,
    "fftconvolve": fftconvolve,
    "oaconvolve": oaconvolve,
    "convolve2d": convolve2d,
    "ndimage": ndimage,
    "pylops": pylops,
    "sigpy": sigpy,
    "lazylinop": lazylinop,
    "opencv": opencv,
}


def use_threads(count: int) -> None:
    """Tell the libraries that are loaded how many threads they may use."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(count)
