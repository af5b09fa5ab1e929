"""Fourier: circular convolutions by blocks, one per frequency, and a circular neighbour of the others.

A circular convolution of stride s is a stride-1 convolution of the s^D phases x_p[m] = x[s m + p] of the image, taken
as channels of a coarse torus. The discrete Fourier transform on that torus leaves one small block T(f) per frequency
and group, (C_out / G) x (C_in / G) s^D, and the normal operator has the blocks T^H T + damp^2 I. Where T is wide, as in
super-resolution (1 x s^D), the Woodbury identity inverts T T^H + damp^2 I in its place:

    T^H (T T^H + d^2 I)^-1 = (T^H T + d^2 I)^-1 T^H.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from convmat.operators import Convolution
from convmat.operators.stencils import regrouped
from convmat.products.symbol import stored, symbol
from convmat.products.waves import Waves
from convmat.solve.inverses.modes import Modes, of_blocks
from convmat.solve.inverses.problem import Inverse, Problem, check_invertible, lattice
from convmat.solve.inverses.terms import UnsupportedError, adjoint, is_forward, kernel_of
from convmat.spectrum.values import is_periodic

_BLOCK_BYTES = 2**31
"""Bytes of all blocks beyond which a transform is refused."""


class Circulant(Inverse):
    """The inverse by FFT: exact where A (and R) are circular and the stride divides the size of the input.

    Elsewhere, the embedded neighbour D^-1/2 E^T (C^H C + damp^2 + lift)^-1 E D^-1/2: the image is set into a larger
    torus (E), so that opposite borders do not meet; D, the diagonal of A^H A relative to its value inside, accounts for
    samples that the padding repeats; and small eigenvalues are lifted by damp times the largest |symbol|, since
    otherwise the mismatch at the border is amplified by 1 / damp^2.
    """

    name = "circulant"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if not (self.exact or (problem.convolutions and isinstance(problem.operator, Convolution))):
            raise UnsupportedError("A is no convolution")
        self._step = lattice(problem)
        self._real = problem.dtype.kind != "c"
        self._inside: Any = (..., *(slice(n) for n in problem.size))
        torus = problem.size if self.exact else _torus(problem, self._step)
        coarse = tuple(n // step for n, step in zip(torus, self._step, strict=True))
        self._groups = math.gcd(*(term.geometry.groups for term in problem.convolutions))
        self._waves = Waves(coarse, self._step, self._groups, self._real)
        self._blocks = [
            weight * self._symbol(term) for term, weight in zip(problem.convolutions, problem.weights, strict=True)
        ]
        self._shift = problem.shift
        self._scale = None
        if not self.exact:
            first = self._blocks[0]
            self._shift += max(problem.damp, 1e-8) * float(np.linalg.norm(first, axis=(-2, -1)).max())
            self._scale = _diagonal_scale(problem)
        rows, cols = self._blocks[0].shape[-2:]
        self._wide = problem.single and problem.regularizer is None and rows < cols
        self._inverse = self._invert()

    @classmethod
    def fits(cls, problem: Problem) -> bool:
        return (
            bool(problem.convolutions)
            and all(is_periodic(term.geometry) for term in problem.convolutions)
            and not any(n % step for n, step in zip(problem.size, lattice(problem), strict=True))
        )

    def apply(self, r: NDArray[Any]) -> NDArray[Any]:
        scaled = r if self._scale is None else self._scale * r
        spectra = self._waves.forward(self._embed(scaled))
        if self._wide:
            seen = _product(self._inverse, _product(self._blocks[0], spectra))
            spectra = (spectra - _adjoint_product(self._blocks[0], seen)) / self._shift
        else:
            spectra = _product(self._inverse, spectra)
        result: NDArray[Any] = self._waves.backward(spectra)[self._inside]
        return result if self._scale is None else self._scale * result

    def solve(self, y: NDArray[Any]) -> NDArray[Any]:
        if not (self.exact and self._wide):
            return super().solve(y)
        channels = math.prod(y.shape[1:]) // math.prod(y.shape[-self.problem.ndim :])
        image = y.reshape(len(y), channels, *y.shape[-self.problem.ndim :])
        coarse = self._waves.coarse
        rows = tuple(m // n for m, n in zip(image.shape[2:], coarse, strict=True))
        spectra = Waves(coarse, rows, self._groups, self._real).forward(image)
        return self._waves.backward(_adjoint_product(self._blocks[0], _product(self._inverse, spectra)))

    def modes(self, y: NDArray[Any]) -> Modes:
        count = len(self.problem.measured)
        penalties = self._blocks[count:]
        squares, held, vectors = of_blocks(
            np.concatenate(self._blocks[:count], axis=-2), np.concatenate(penalties, axis=-2) if penalties else None
        )
        moments = _adjoint_product(vectors, self._waves.forward(self.problem.right_side(y)))
        counts = self._waves.multiplicity()[..., None, None]

        def images(coefficients: NDArray[Any]) -> NDArray[Any]:
            return self._waves.backward(_product(vectors, np.moveaxis(coefficients, 0, -1)))

        return Modes(squares, held, np.moveaxis(moments, -1, 0), counts, images)

    def rounded(self, dtype: np.dtype[Any]) -> Circulant:
        """The same with blocks of another complex dtype, and so with transforms of it."""
        found = copy.copy(self)
        found._blocks = [block.astype(dtype) for block in self._blocks]
        found._inverse = self._inverse.astype(dtype)
        return found

    def _invert(self) -> NDArray[Any]:
        """The inverses of the blocks of the normal operator, or of the smaller ones of Woodbury. (F.., G, n, n)"""
        first = self._blocks[0]
        if self._wide:
            grams = first @ first.conj().swapaxes(-1, -2)
        else:
            grams = sum(
                (block.conj().swapaxes(-1, -2) @ block for block in self._blocks), start=np.zeros((), first.dtype)
            )
        side = grams.shape[-1]
        grams = grams + self._shift * np.eye(side)
        if self._shift == 0:
            spectrum = grams.real if side == 1 else np.linalg.eigvalsh(grams)
            check_invertible(0.0 if self._wide else float(spectrum.min()), float(spectrum.max()), side)
        inverse: NDArray[Any] = 1 / grams if side == 1 else np.linalg.inv(grams)
        return inverse

    def _symbol(self, term: Convolution) -> NDArray[Any]:
        """The blocks of an operator, one per frequency of the torus and group. (F.., G, rows, cols)"""
        g, stride = term.geometry, term.geometry.stride
        forward = is_forward(term)
        coarser = tuple(step // s for s, step in zip(stride, self._step, strict=True)) if forward else self._step
        kernel = regrouped(kernel_of(term), g.groups, self._groups)
        merged = replace(g, groups=self._groups)
        polynomial = symbol(merged, kernel, coarser=coarser, every_phase=True)
        coarse = self._waves.coarse
        entries = math.prod((*coarse, *polynomial.block))
        if 16 * entries > _BLOCK_BYTES:
            raise UnsupportedError(f"the blocks of all frequencies have {entries} entries")
        sample = polynomial.sampler(coarse, (0,) * g.ndim, half=self._real)
        blocks = sample(0, stored(coarse[0], self._real and g.ndim == 1))
        return blocks if forward else blocks.conj().swapaxes(-1, -2)

    def _embed(self, r: NDArray[Any]) -> NDArray[Any]:
        """The images in a corner of the torus, zeros elsewhere."""
        if self._waves.size == self.problem.size:
            return r
        whole = np.zeros((*r.shape[:2], *self._waves.size), dtype=r.dtype)
        whole[self._inside] = r
        return whole


def _torus(problem: Problem, step: tuple[int, ...]) -> tuple[int, ...]:
    """A torus, larger than x by the reach of two kernels, with sides that transform fast."""
    sides = []
    for axis, (n, s) in enumerate(zip(problem.size, step, strict=True)):
        lines = [(t.geometry.axes[axis], is_forward(t)) for t in problem.convolutions]
        reach = max(2 * line.span // (1 if forward else line.stride) for line, forward in lines)
        sides.append(s * int(fft.next_fast_len(-(-(n + reach) // s), real=True)))
    return tuple(sides)


def _diagonal_scale(problem: Problem) -> NDArray[Any] | None:
    """(diagonal of A^H A, relative to that of most samples)^-1/2, from the squares of the kernel. (C, N_1..N_D)"""
    operator = problem.convolutions[0]
    layer: Any = type(operator)  # mypy takes the constructor of the base
    squares = layer(
        np.abs(operator.weight.astype(problem.dtype)) ** 2,
        operator.input_shape[-problem.ndim :],
        **_layout(operator),
    )
    ones = np.ones((1, *operator.output_shape))
    diagonal = adjoint(squares, ones).reshape(problem.channels, *problem.size)
    usual = np.median(diagonal, axis=tuple(range(1, 1 + problem.ndim)), keepdims=True)
    usual = np.where(usual > 0, usual, 1)
    return np.asarray(np.clip(diagonal / usual, 0.5, None) ** -0.5)


def _layout(operator: Convolution) -> dict[str, Any]:
    """The arguments that make an operator of the same geometry from another weight."""
    g = operator.geometry
    layout: dict[str, Any] = {
        "stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups,
        "padding_mode": g.padding_mode, "flip": g.flip,
    }  # fmt: skip
    return layout if is_forward(operator) else layout | {"output_size": g.input_size}


def _product(blocks: NDArray[Any], spectra: NDArray[Any]) -> NDArray[Any]:
    """The blocks times the spectra: (F.., G, rows, cols), (F.., G, cols, batch) -> (F.., G, rows, batch)."""
    if blocks.shape[-2] == 1:
        return np.asarray((blocks.swapaxes(-1, -2) * spectra).sum(axis=-2, keepdims=True))
    return np.asarray(blocks @ spectra)


def _adjoint_product(blocks: NDArray[Any], spectra: NDArray[Any]) -> NDArray[Any]:
    """The conjugate transposes of the blocks times the spectra."""
    if blocks.shape[-2] == 1:
        return np.asarray(blocks.conj().swapaxes(-1, -2) * spectra)
    return np.asarray(blocks.conj().swapaxes(-1, -2) @ spectra)
