"""The layers that everything is measured on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """One layer: what it is called, the shape of its weight, the size of its input."""

    name: str
    shape: tuple[int, ...]
    size: tuple[int, int]
    dtype: type = np.float64
    stride: int = 1
    padding: int = 0
    groups: int = 1
    gaussian: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def single_channel(self) -> bool:
        """Whether libraries for images can do it."""
        return self.shape[:2] == (1, 1)

    def weight(self) -> NDArray[Any]:
        """The weight: random, or a Gaussian, which is separable."""
        if self.gaussian:
            line = np.exp(-0.5 * ((np.arange(self.shape[-1]) - self.shape[-1] // 2) / (self.shape[-1] / 6)) ** 2)
            return (np.outer(line, line) / line.sum() ** 2).reshape(self.shape).astype(self.dtype)
        return np.random.default_rng(0).standard_normal(self.shape).astype(self.dtype)

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the layer."""
        return {"stride": self.stride, "padding": self.padding, "groups": self.groups}

    def images(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """An image that goes in and one that comes out."""
        rng = np.random.default_rng(1)
        out = tuple((n + 2 * self.padding - self.shape[-1]) // self.stride + 1 for n in self.size)
        x = rng.standard_normal((self.shape[1] * self.groups, *self.size))
        y = rng.standard_normal((self.shape[0], *out))
        return x.astype(self.dtype), y.astype(self.dtype)


CASES = {
    "1": Case("256^2, 3x3", (1, 1, 3, 3), (256, 256), padding=1),
    "2": Case("1024^2, 5x5, stride 2", (1, 1, 5, 5), (1024, 1024), stride=2, padding=2),
    "3": Case("3 -> 16 ch, 128^2, 3x3, stride 2", (16, 3, 3, 3), (128, 128), stride=2, padding=1),
    "3f": Case("3 -> 16 ch, 128^2, 3x3, stride 2, float32", (16, 3, 3, 3), (128, 128), np.float32, stride=2, padding=1),
    "4": Case("64 -> 64 ch, 32^2, 3x3, float32", (64, 64, 3, 3), (32, 32), np.float32, padding=1),
    "5": Case("512^2, 15x15", (1, 1, 15, 15), (512, 512), padding=7),
    "5g": Case("512^2, 15x15 Gaussian", (1, 1, 15, 15), (512, 512), padding=7, gaussian=True),
    "6": Case("2048^2, 31x31", (1, 1, 31, 31), (2048, 2048), padding=15),
    "6g": Case("2048^2, 31x31 Gaussian", (1, 1, 31, 31), (2048, 2048), padding=15, gaussian=True),
    "7": Case("1024^2, 31x31, stride 4", (1, 1, 31, 31), (1024, 1024), stride=4),
    "7g": Case("1024^2, 31x31 Gaussian, stride 4", (1, 1, 31, 31), (1024, 1024), stride=4, gaussian=True),
    "8": Case("64 -> 128 ch, 56^2, 3x3, stride 2, float32", (128, 64, 3, 3), (56, 56), np.float32, stride=2, padding=1),
    "9": Case("depthwise 64 ch, 112^2, 3x3, float32", (64, 1, 3, 3), (112, 112), np.float32, padding=1, groups=64),
    "10": Case("16 -> 16 ch, 128^2, 3x3, float32", (16, 16, 3, 3), (128, 128), np.float32, padding=1),
}
