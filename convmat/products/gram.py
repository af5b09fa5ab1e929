"""A^H A as one product, where that is cheaper than two.

A separable A = A_1 (x) .. (x) A_D has the separable A^H A = A_1^H A_1 (x) .. (x) A_D^H A_D, whose bands are twice as
wide and whose blocks are nearly as small. A periodic A has the blocks B^H B on the Fourier side: two transforms, not
four. Both only in double precision: a product rounded to single precision would be that of another problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.matrix import axis_matrix
from convmat.products.separable import AxisProducts, Term, separate
from convmat.products.symbol import periodic, stored, symbol

Images = Callable[[NDArray[Any]], NDArray[Any]]
"""A map of batches of images, (batch, C, N_1..N_D) -> the same."""

_FEW_CHANNELS = 4
"""Columns of a block up to which the products of the blocks cost less than the transforms that are saved."""


def gram(geometry: Geometry, weight: NDArray[Any], methods: tuple[str, str], forward: bool) -> Images | None:
    """T^H T for the convolution T, or for its transpose unless `forward`; None where two products cost no more."""
    if weight.dtype not in (np.float64, np.complex128):
        return None
    product: Images | None = None
    if set(methods) == {"separable"}:
        product = _of_axes(geometry, weight, forward)
    elif set(methods) == {"fft"} and all(periodic(axis) for axis in geometry.axes):
        product = _of_blocks(geometry, weight, forward)
    return product if product is None or weight.dtype.kind == "c" else _on_real_parts(product)


def kernel_of(geometry: Geometry, weight: NDArray[Any], forward: bool) -> NDArray[Any]:
    """The kernel of the cross-correlation in double precision, conjugated for a transpose: so that T = C^H there."""
    kernel = geometry.kernel(weight)
    kernel = kernel.astype(np.result_type(kernel, np.float64))
    return kernel if forward else kernel.conj()


def single_kernels(
    geometry: Geometry, kernel: NDArray[Any], forward: bool
) -> Iterator[tuple[int, int, NDArray[Any]]] | None:
    """The kernels of T where it mixes no channels of x: (channel of x, channel of the result, kernel)."""
    outs, ins = len(kernel) // geometry.groups, kernel.shape[1]
    if (ins if forward else outs) > 1:
        return None
    pairs = (((out // outs * ins + c, out), kernel[out, c]) for out in range(len(kernel)) for c in range(ins))
    return ((*(channels if forward else channels[::-1]), single) for channels, single in pairs)


def _of_axes(geometry: Geometry, weight: NDArray[Any], forward: bool) -> Images | None:
    """Axis by axis, if every kernel is of rank one and no channels are mixed."""
    singles = single_kernels(geometry, kernel_of(geometry, weight, forward), forward)
    if singles is None:
        return None
    terms = []
    for channel, _, kernel in singles:
        vectors = separate(kernel)
        if len(vectors) > 1:
            return None
        for lines in vectors:
            matrices = [axis_matrix(axis, line) for axis, line in zip(geometry.axes, lines, strict=True)]
            down = matrices if forward else [matrix.conj().T for matrix in matrices]
            terms.append(Term.of(channel, channel, [matrix.conj().T @ matrix for matrix in down]))
    channels, size = (
        (geometry.in_channels, geometry.input_size) if forward else (geometry.out_channels, geometry.output_size)
    )
    return AxisProducts(terms, (channels, *size)).apply


def _of_blocks(geometry: Geometry, weight: NDArray[Any], forward: bool) -> Images | None:
    """By Fourier transforms, if the blocks are small."""
    from convmat.products.waves import Waves  # scipy.fft takes a tenth of a second to import

    kernel = kernel_of(geometry, weight, forward)
    real = kernel.dtype.kind != "c"
    polynomial = symbol(geometry, kernel, every_phase=True)
    _, rows, cols = polynomial.block
    if (cols if forward else rows) > _FEW_CHANNELS:
        return None
    coarse = geometry.output_size
    sample = polynomial.sampler(coarse, (0,) * geometry.ndim, half=real)
    blocks = sample(0, stored(coarse[0], real and geometry.ndim == 1))
    turned = blocks.conj().swapaxes(-1, -2)
    grams = turned @ blocks if forward else blocks @ turned
    waves = Waves(coarse, geometry.stride if forward else (1,) * geometry.ndim, geometry.groups, real)
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
