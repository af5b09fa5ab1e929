"""A linear layer of somebody's model: an operator and an offset under a name, whatever file or framework it is from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.operators import ImageOperator

__all__ = ["Layer", "Layers"]

Operator = TypeVar("Operator", bound=ImageOperator, covariant=True)


@dataclass(frozen=True, eq=False)
class Layer(Generic[Operator]):
    """One linear layer of a model: y = A x + b for each image of the batch.

    Attributes
    ----------
    name : str
        Its key in the dict that `from_onnx` or `from_torch_model` returns.
    operator : ImageOperator
        A. For a convolution or a transposed convolution a `Conv1d` to `ConvTranspose3d`, from images
        (C_in, N_1..N_D) to images (C_out, M_1..M_D).
    bias : ndarray or None
        The bias of each channel, of shape (C_out,), where it is one; else an image that broadcasts to
        ``operator.output_shape``. Read-only. None without a bias.
    offset : ndarray, shape (operator.shape[0],), or None
        b, read-only: the bias, once for every sample of its image. It is made when it is asked for.
    inputs, outputs : tuple of str
        Names of tensors. From an ONNX model those of the node: x, weight and perhaps bias; y; an omitted one is the
        empty string. From PyTorch those that went in and came out, one for each call; see `from_torch_model`.
    """

    name: str
    operator: Operator
    bias: NDArray[Any] | None = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @cached_property
    def offset(self) -> NDArray[Any] | None:
        """The bias, once for every sample of its image."""
        if self.bias is None:
            return None
        offset = np.broadcast_to(self._image(self.bias), self.operator.output_shape).flatten()
        offset.flags.writeable = False
        return offset

    def apply(self, image: ArrayLike) -> NDArray[Any]:
        """Apply the layer, with its bias, to images.

        Parameters
        ----------
        image : array_like, shape (*batch, *operator.input_shape)

        Returns
        -------
        ndarray, shape (*batch, *operator.output_shape)

        Raises
        ------
        TypeError, ValueError
            If the image does not hold numbers, or has a wrong shape.
        """
        y = self.operator.apply(image)
        return y if self.bias is None else y + self._image(self.bias)

    def _image(self, bias: NDArray[Any]) -> NDArray[Any]:
        """The bias as an image that broadcasts. (C_out, 1..1)"""
        return bias.reshape(-1, *[1] * (len(self.operator.output_shape) - 1)) if bias.ndim == 1 else bias


class Layers(dict[str, Layer[ImageOperator]]):
    """The linear layers of a model by name, and what is not among them.

    Attributes
    ----------
    skipped : dict of str to str
        Name of a module that is not among the layers -> the reason.
    """

    skipped: dict[str, str]

    def __init__(
        self, layers: Mapping[str, Layer[ImageOperator]] | None = None, skipped: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(layers or {})
        self.skipped = dict(skipped or {})


def unused(key: str, taken: Container[str], times: Counter[str]) -> str:
    """The key, or the first free one of ``key#2``, ``key#3``, ...; `times` says where to go on."""
    name = key
    while name in taken:
        times[key] += 1
        name = f"{key}#{times[key] + 1}"
    return name
