"""What the inverses ask of the terms of a problem: of convolutions, which may be transposed, and of other operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.operators import (
    Chain,
    Conv,
    Convolution,
    ImageOperator,
    Rearrange,
    Scaled,
    VStack,
    simplify,
)
from convmat.operators.base import parts_of
from convmat.products.gram import kernel_of as _kernel_of
from convmat.products.gram import single_kernels as _single_kernels
from convmat.spectrum.trees import numbers_of


class UnsupportedError(ValueError):
    """A kind of inverse does not exist for this problem; the message says why."""


def terms_of(operator: ImageOperator, weight: float = 1.0) -> list[tuple[float, ImageOperator]]:
    """(weight, T) with A^H A = sum of weight^2 T^H T: a convolution each, where A is a stack of such.

    What only moves the entries of the results leaves A^H A as it is.
    """
    if isinstance(operator, VStack):
        return [term for part in operator.parts() for term in terms_of(part, weight)]
    if isinstance(operator, Scaled):
        return terms_of(operator.of, weight * abs(operator.factor))
    found = simplify(operator)
    if isinstance(found, VStack | Scaled):
        return terms_of(found, weight)
    if isinstance(found, Chain):
        first, *others = found.factors()
        if isinstance(first, Rearrange):
            return terms_of(Chain(*others), weight)
        if isinstance(first, VStack):
            return [term for part in first.parts() for term in terms_of(part @ Chain(*others), weight)]
        *others, last = found.factors()
        if isinstance(last, Rearrange) and list(last.order) == sorted(last.order) and len(others) == 1:
            return terms_of(others[0], weight)  # a reshape of x
    return [(weight, found)]


def is_stack(A: ImageOperator) -> bool:
    """Whether an operator is a stack, or a multiple of one."""
    return is_stack(A.of) if isinstance(A, Scaled) else isinstance(A, VStack)


def is_finite(A: ImageOperator) -> bool:
    """Whether every number that an operator of the package is made of is finite."""
    return all(np.isfinite(part).all() for part in numbers_of(A)) and all(map(is_finite, parts_of(A)))


def images_of(operator: Convolution) -> tuple[int, tuple[int, ...]]:
    """Channels and spatial size of the images that go in."""
    g = operator.geometry
    return (g.in_channels, g.input_size) if is_forward(operator) else (g.out_channels, g.output_size)


def adjoint(operator: ImageOperator, y: NDArray[Any]) -> NDArray[Any]:
    """A^H y for a batch of images, in the result type of both."""
    images = y.astype(np.result_type(operator.dtype, y), copy=False)
    return np.asarray(operator._backward_conjugated(images.reshape(len(y), *operator.output_shape)))


def is_forward(operator: Convolution) -> bool:
    """Whether the operator is a convolution, not the transpose of one."""
    return isinstance(operator, Conv)


def kernel_of(operator: Convolution) -> NDArray[Any]:
    """The kernel of the cross-correlation in double precision, conjugated for a transpose: so that A = C^H there."""
    return _kernel_of(operator.geometry, operator.weight, is_forward(operator))


def single_kernels(term: Convolution) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """The kernels of a convolution that mixes no channels of x: (channel of x, channel of the result, kernel).

    Raises
    ------
    UnsupportedError
        If it mixes channels.
    """
    found = _single_kernels(term.geometry, kernel_of(term), is_forward(term))
    if found is None:
        raise UnsupportedError("the convolution mixes channels")
    return found
