"""A^H A as one product, where that is cheaper than two.

A separable A = A_1 (x) .. (x) A_D has the separable A^H A = A_1^H A_1 (x) .. (x) A_D^H A_D, whose bands are twice as
wide and whose blocks are nearly as small. A periodic A has the blocks B^H B on the Fourier side: two transforms, not
four. Both only in double precision: a product rounded to single precision would be that of another problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.matrix import axis_matrix
from convmat.operators import Convolution, ImageOperator
from convmat.products.separable import AxisProducts, Term
from convmat.solve.inverses.terms import UnsupportedError, adjoint, is_forward, kernel_of, single_kernels
from convmat.spectrum.symbol import stored, symbol
from convmat.spectrum.values import ROUNDING, is_periodic, rank_one
from convmat.spectrum.waves import Waves

Images = Callable[[NDArray[Any]], NDArray[Any]]
"""A map of batches of images, (batch, C, N_1..N_D) -> the same."""

_FEW_CHANNELS = 4
"""Columns of a block up to which the products of the blocks cost less than the transforms that are saved."""


def gram(operator: ImageOperator) -> Images:
    """A^H A."""
    product = _fused(operator) if isinstance(operator, Convolution) else None
    if product is None:
        return lambda x: adjoint(operator, operator.apply(x.reshape(len(x), *operator.input_shape))).reshape(x.shape)
    return product if operator.dtype.kind == "c" else _on_real_parts(product)


def _fused(operator: Convolution) -> Images | None:
    methods = {operator.method, operator.T.method}
    if operator.dtype in (np.float64, np.complex128):
        if methods == {"separable"}:
            return _of_axes(operator)
        if methods == {"fft"} and is_periodic(operator.geometry):
            return _of_blocks(operator)
    return None


def _of_axes(operator: Convolution) -> Images | None:
    """Axis by axis, if every kernel is of rank one and no channels are mixed."""
    terms, axes = [], operator.geometry.axes
    try:
        for channel, _, kernel in single_kernels(operator):
            vectors, missing = rank_one(kernel)
            if missing > ROUNDING * np.finfo(operator.dtype).eps:
                return None
            matrices = [axis_matrix(axis, v) for axis, v in zip(axes, vectors, strict=True)]
            down = matrices if is_forward(operator) else [matrix.conj().T for matrix in matrices]
            terms.append(Term.of(channel, channel, [matrix.conj().T @ matrix for matrix in down]))
    except UnsupportedError:
        return None
    size = operator.input_shape[-len(axes) :]
    return AxisProducts(terms, (math.prod(operator.input_shape) // math.prod(size), *size)).apply


def _of_blocks(operator: Convolution) -> Images | None:
    """By Fourier transforms, if the blocks are small."""
    geometry, kernel = operator.geometry, kernel_of(operator)
    half, forward = kernel.dtype.kind != "c", is_forward(operator)
    polynomial = symbol(geometry, kernel, every_phase=True)
    _, rows, cols = polynomial.block
    if (cols if forward else rows) > _FEW_CHANNELS:
        return None
    coarse = geometry.output_size
    sample = polynomial.sampler(coarse, (0,) * geometry.ndim, half=half)
    blocks = sample(0, stored(coarse[0], half and geometry.ndim == 1))
    turned = blocks.conj().swapaxes(-1, -2)
    grams = turned @ blocks if forward else blocks @ turned
    waves = Waves(coarse, geometry.stride if forward else (1,) * geometry.ndim, geometry.groups, half)
    if grams.shape[-1] == 1:
        return lambda x: waves.backward(grams * waves.forward(x))
    return lambda x: waves.backward(grams @ waves.forward(x))


def _on_real_parts(product: Images) -> Images:
    """A real map on complex images too."""

    def apply(x: NDArray[Any]) -> NDArray[Any]:
        if x.dtype.kind != "c":
            return product(x)
        parts = product(np.concatenate([x.real, x.imag]))
        return np.asarray(parts[: len(x)] + 1j * parts[len(x) :])

    return apply
