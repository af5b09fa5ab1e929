"""The discrete cosine transform (DCT-II): symmetric padding with even kernels, and a neighbour at other borders.

The symmetric extension of an image is even and periodic, with period 2 N. An even kernel keeps it so, and A is diagonal
in the cosines, with the values of the kernel's Fourier transform at the frequencies pi j / N. For any other kernel, the
diagonal of A^H A in the cosines is, away from the border, the mean of |symbol|^2 over the reflections of the frequency.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from convmat.matrix import check_bytes
from convmat.operators import Convolution
from convmat.solve.inverses.modes import Modes
from convmat.solve.inverses.problem import Inverse, Problem, check_invertible
from convmat.solve.inverses.terms import UnsupportedError, is_forward, single_kernels

_LIFT = 0.1
"""Where it is not exact, eigenvalues are lifted by this times damp times the largest |symbol|."""


class Cosine(Inverse):
    """The inverse that is diagonal in the cosines: exact for symmetric padding and even kernels."""

    name = "dct"

    def __init__(self, problem: Problem) -> None:
        if not problem.convolutions:
            raise UnsupportedError("the terms are not convolutions of one image")
        if any(s > 1 for term in problem.convolutions for s in term.geometry.stride):
            raise UnsupportedError("a stride is larger than 1")
        if any(term.output_shape[-problem.ndim :] != problem.size for term in problem.convolutions):
            raise UnsupportedError("the result does not have the size of x")
        super().__init__(problem)
        check_bytes(
            "the transform of the kernel, on twice the samples of each axis,",
            4 * 16 * 2**problem.ndim * math.prod(problem.size) + 3 * 8 * problem.unknowns,
            "scipy's lsqr(A, y, damp=damp) needs none",
        )
        squares = [
            weight**2 * _mean_squares(problem, term)
            for term, weight in zip(problem.convolutions, problem.weights, strict=True)
        ]
        count = len(problem.measured)
        self._squares = sum(squares[1:count], start=squares[0])
        self._penalties = sum(squares[count:], start=np.full(squares[0].shape, problem.shift))
        self._values = self._squares + self._penalties
        if not self.exact:
            self._values = self._values + _LIFT * max(problem.damp, 1e-8) * float(np.sqrt(squares[0].max()))
        check_invertible(float(self._values.min()), float(self._values.max()), max(problem.size))

    @classmethod
    def fits(cls, problem: Problem) -> bool:
        return bool(problem.convolutions) and all(is_even(term) for term in problem.convolutions)

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        return _from_cosines(_in_cosines(r) / self._values)

    def modes(self, y: NDArray[Any]) -> Modes:
        moments = _in_cosines(self.problem.right_side(y))
        return Modes(self._squares, self._penalties, moments, np.ones(1), _from_cosines)


def _in_cosines(images: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(fft.dctn(images, axes=tuple(range(2, images.ndim)), norm="ortho"))


def _from_cosines(spectra: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(fft.idctn(spectra, axes=tuple(range(2, spectra.ndim)), norm="ortho"))


def is_even(operator: Convolution) -> bool:
    """Whether the cosines are eigenvectors: even kernels, centred, with symmetric padding or none read."""
    kernel = operator.geometry.kernel(operator.weight)
    return (
        is_forward(operator)
        and all(axis.mode == "symmetric" or axis.reads_no_padding for axis in operator.geometry.axes)
        and all(axis.stride == 1 and 2 * axis.lo == 2 * axis.hi == axis.span - 1 for axis in operator.geometry.axes)
        and all(np.array_equal(kernel, np.flip(kernel, axis)) for axis in range(2, kernel.ndim))
    )


def _mean_squares(problem: Problem, term: Convolution) -> NDArray[Any]:
    """|symbol|^2 at the frequencies of the cosines, averaged over their reflections. (C, N_1..N_D)"""
    squares = np.zeros((problem.channels, *problem.size))
    period = tuple(2 * n for n in problem.size)
    for channel, _, kernel in single_kernels(term):
        local = np.zeros(period, dtype=kernel.dtype)
        for taps in np.ndindex(*kernel.shape):
            at = tuple(d * k % p for d, k, p in zip(term.geometry.dilation, taps, period, strict=True))
            local[at] += kernel[taps]
        square = np.abs(fft.fftn(local)) ** 2
        for axis, n in enumerate(problem.size):
            reflected = np.take(square, -np.arange(n) % (2 * n), axis=axis)
            square = (np.take(square, np.arange(n), axis=axis) + reflected) / 2
        squares[channel] += square
    return squares
