"""What the inverses ask of one convolution of a problem, which may be the transpose of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.operators import Conv, Convolution


class UnsupportedError(ValueError):
    """A kind of inverse does not exist for this problem; the message says why."""


def adjoint(operator: Convolution, y: NDArray[Any]) -> NDArray[Any]:
    """A^H y for a batch of images."""
    if operator.dtype.kind != "c":
        return np.asarray(operator.T.apply(y))
    return np.asarray(np.conj(operator.T.apply(np.conj(y))))


def is_forward(operator: Convolution) -> bool:
    """Whether the operator is a convolution, not the transpose of one."""
    return isinstance(operator, Conv)


def kernel_of(operator: Convolution) -> NDArray[Any]:
    """The kernel of the cross-correlation in double precision, conjugated for a transpose: so that A = C^H there."""
    kernel = operator.geometry.kernel(operator.weight)
    kernel = kernel.astype(np.result_type(kernel, np.float64))
    return kernel if is_forward(operator) else kernel.conj()


def single_kernels(term: Convolution) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """The kernels of a convolution that mixes no channels of x: (channel of x, channel of the result, kernel).

    Raises
    ------
    UnsupportedError
        If it mixes channels.
    """
    kernel, groups = kernel_of(term), term.geometry.groups
    outs, ins = len(kernel) // groups, kernel.shape[1]
    mixed = ins if is_forward(term) else outs
    if mixed > 1:
        raise UnsupportedError(f"the convolution mixes {mixed} channels")
    for out in range(len(kernel)):
        for c in range(ins):
            channel = (out // outs * ins + c, out)
            yield *(channel if is_forward(term) else channel[::-1]), kernel[out, c]
