"""The Fourier transform of images that are cut into phases: what makes the blocks of `symbol` act on images.

An image of t M samples on an axis is t images of M samples, x_r[j] = x[t j + r], which are taken as channels. Their
unitary discrete Fourier transform is one vector per frequency and group, which one block of a symbol maps to another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from convmat.products.threads import workers


@dataclass(frozen=True)
class Waves:
    """The transform of images of the size M_a t_a on each axis, in G groups of channels.

    With `half`, real images, of which the frequencies up to M_D // 2 of the last axis say all.
    """

    coarse: tuple[int, ...]  # M_1..M_D
    phases: tuple[int, ...]  # t_1..t_D
    groups: int
    half: bool

    @property
    def size(self) -> tuple[int, ...]:
        """Size of the images."""
        return tuple(m * t for m, t in zip(self.coarse, self.phases, strict=True))

    def forward(self, images: NDArray[Any]) -> NDArray[Any]:
        """(batch, C, M_1 t_1..M_D t_D) -> (F_1..F_D, G, C t_1..t_D / G, batch)."""
        dims, batch = len(self.coarse), len(images)
        split = [n for pair in zip(self.coarse, self.phases, strict=True) for n in pair]
        cut = images.reshape(batch, -1, *split).transpose(0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2))
        stack = cut.reshape(batch, self.groups, -1, *self.coarse)
        transform = scipy.fft.rfftn if self.half else scipy.fft.fftn
        spectra = np.asarray(transform(stack, axes=range(3, 3 + dims), norm="ortho", workers=workers()))
        return spectra.transpose(*range(3, 3 + dims), 1, 2, 0)

    def backward(self, spectra: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `forward`."""
        dims, batch = len(self.coarse), spectra.shape[-1]
        stack = np.ascontiguousarray(spectra.transpose(dims + 2, dims, dims + 1, *range(dims)))
        inverse = scipy.fft.irfftn if self.half else scipy.fft.ifftn
        samples = inverse(stack, s=self.coarse, axes=range(3, 3 + dims), norm="ortho", workers=workers())
        channels = math.prod(stack.shape[1:3]) // math.prod(self.phases)
        cut = np.asarray(samples).reshape(batch, channels, *self.phases, *self.coarse)
        spatial = [
            axis for pair in zip(range(2 + dims, 2 + 2 * dims), range(2, 2 + dims), strict=True) for axis in pair
        ]
        return cut.transpose(0, 1, *spatial).reshape(batch, channels, *self.size)
