"""The transforms of images that make a convolution block diagonal: what the blocks of `symbol` act on.

Each axis has one of three orthonormal transforms, whose waves go on beyond the border as the padding extends them:

    Fourier   e^(2 pi i f n / N)                      periodic                 circular padding, any kernel
    cosines   cos(pi f (n + 1/2) / N)                 even about the border    symmetric padding, even kernel (DCT-II)
    sines     sin(pi (f + 1) (n + 1) / (N + 1))       0 one sample beyond it   zeros, even kernel of one sample's reach
                                                                               (DST-I)

An even kernel multiplies a cosine or a sine of frequency theta by the number by which it multiplies e^(i theta n).

On a Fourier axis, an image of t M samples is t images of M samples, x_r[j] = x[t j + r], which are taken as channels.
The spectrum is one vector per frequency and group, which one block of a symbol maps to another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.products.symbol import Angles, multiplicity, periodic, stored
from convmat.products.threads import workers
from convmat.taps import Axis


@dataclass(frozen=True)
class Waves:
    """The transform of images of the size M_a t_a on each axis, in G groups of channels.

    If they are `real`, the frequencies up to M // 2 of the last Fourier axis say all; without such an axis, their
    spectra are real.
    """

    coarse: tuple[int, ...]  # M_1..M_D
    phases: tuple[int, ...]  # t_1..t_D
    groups: int
    real: bool
    cosines: tuple[int, ...] = ()  # axes that have no Fourier waves
    sines: tuple[int, ...] = ()

    @classmethod
    def of(cls, geometry: Geometry, kernel: NDArray[Any]) -> Waves | None:
        """The waves of the inputs whose blocks a convolution maps to those of its outputs; None where there are none.

        The kernel is (C_out, C_in / G, K_1..K_D). It is even if it equals its own flip, to the last digit.
        """
        even = [
            axis
            for axis, line in enumerate(geometry.axes)
            if _centred(line) and np.array_equal(kernel, np.flip(kernel, 2 + axis))
        ]
        cosines = tuple(axis for axis in even if _extends_evenly(geometry.axes[axis]))
        sines = tuple(axis for axis in even if axis not in cosines and _extends_oddly(geometry.axes[axis]))
        found = cls(geometry.output_size, geometry.stride, geometry.groups, kernel.dtype.kind != "c", cosines, sines)
        return found if all(periodic(geometry.axes[axis]) for axis in found.fourier) else None

    @property
    def size(self) -> tuple[int, ...]:
        """Size of the images."""
        return tuple(m * t for m, t in zip(self.coarse, self.phases, strict=True))

    @property
    def fourier(self) -> tuple[int, ...]:
        """The axes of Fourier waves."""
        return tuple(axis for axis in range(len(self.coarse)) if axis not in self.cosines + self.sines)

    @property
    def angles(self) -> list[Angles]:
        """The frequencies that are kept, of each axis."""
        halved = self.fourier[-1:] if self.real else ()
        return [
            Angles(2 * m, 0, m) if axis in self.cosines
            else Angles(2 * m + 2, 4, m) if axis in self.sines
            else Angles(m, 0, stored(m, axis in halved))
            for axis, m in enumerate(self.coarse)
        ]  # fmt: skip

    def dtype(self, images: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype of the spectra of images."""
        return np.result_type(images, np.complex64) if self.fourier else images

    def multiplicity(self) -> NDArray[np.int64]:
        """How many frequencies each of those that are kept stands for. (F_1..F_D)"""
        counts = [line.count for line in self.angles]
        times = multiplicity([self.coarse[axis] for axis in self.fourier], half=self.real and self.fourier != ())
        alone = [count if axis in self.fourier else 1 for axis, count in enumerate(counts)]
        return np.broadcast_to(times.reshape(alone), counts)

    def forward(self, images: NDArray[Any]) -> NDArray[Any]:
        """(batch, C, M_1 t_1..M_D t_D) -> (F_1..F_D, G, C t_1..t_D / G, batch)."""
        dims, batch = len(self.coarse), len(images)
        split = [n for pair in zip(self.coarse, self.phases, strict=True) for n in pair]
        cut = images.reshape(batch, -1, *split).transpose(0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2))
        stack = cut.reshape(batch, self.groups, -1, *self.coarse)
        spectra = scipy.fft.dctn(stack, 2, axes=self._at(self.cosines), norm="ortho", workers=workers())
        spectra = scipy.fft.dstn(spectra, 1, axes=self._at(self.sines), norm="ortho", workers=workers())
        if self.fourier:
            transform = scipy.fft.rfftn if self.real else scipy.fft.fftn
            spectra = transform(spectra, axes=self._at(self.fourier), norm="ortho", workers=workers())
        return np.asarray(spectra).transpose(*range(3, 3 + dims), 1, 2, 0)

    def backward(self, spectra: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `forward`."""
        dims, batch = len(self.coarse), spectra.shape[-1]
        stack = np.ascontiguousarray(spectra.transpose(dims + 2, dims, dims + 1, *range(dims)))
        channels = math.prod(stack.shape[1:3]) // math.prod(self.phases)
        samples = stack
        if self.fourier:
            inverse = scipy.fft.irfftn if self.real else scipy.fft.ifftn
            sizes = [self.coarse[axis] for axis in self.fourier]
            samples = inverse(stack, s=sizes, axes=self._at(self.fourier), norm="ortho", workers=workers())
        samples = scipy.fft.idstn(samples, 1, axes=self._at(self.sines), norm="ortho", workers=workers())
        samples = scipy.fft.idctn(samples, 2, axes=self._at(self.cosines), norm="ortho", workers=workers())
        cut = np.asarray(samples).reshape(batch, channels, *self.phases, *self.coarse)
        spatial = [
            axis for pair in zip(range(2 + dims, 2 + 2 * dims), range(2, 2 + dims), strict=True) for axis in pair
        ]
        return cut.transpose(0, 1, *spatial).reshape(batch, channels, *self.size)

    def _at(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """Where spatial axes stand in a stack (batch, G, C, M_1..M_D)."""
        return tuple(3 + axis for axis in axes)


def _centred(axis: Axis) -> bool:
    """Whether each output reads as far to the left of its own place as to the right."""
    return axis.stride == 1 and 2 * axis.lo == 2 * axis.hi == axis.span - 1


def _extends_evenly(axis: Axis) -> bool:
    """Whether the extension of the input is even, as far as it is read."""
    return axis.mode == "symmetric" or axis.lo <= {"replicate": 1}.get(axis.mode, 0)


def _extends_oddly(axis: Axis) -> bool:
    """Whether the extension of the input is odd about the first zero beyond each border, as far as it is read."""
    return axis.mode == "zeros" and axis.lo <= 1
