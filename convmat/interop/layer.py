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
        Names of tensors. From an ONNX model those of the node: first those that A acts on, then its constants, such
        as weight and bias; an omitted one is the empty string. From PyTorch those that went in and came out, one for
        each call; see `from_torch_model`.
    arity : int
        How many tensors A acts on at once, the first ones of `inputs`. It is 1 but where a node of ONNX joins several
        (``Add``, ``Concat``).

    Notes
    -----
    A layer that joins several tensors is y = [A_1, A_2, ...] [x_1; x_2; ...] + b, with A = hstack([A_1, A_2, ...]); so
    it is [I, I] for a sum of two. Its image is the images x_1, x_2, ... of one batch, stacked as `hstack` does it:
    their concatenation on the first axis of the image, that of channels, where the other axes agree, else their ravels
    one after the other. `stack` does this. What a layer of several outputs (``Split``) makes are its outputs in the
    same way, in the order of `outputs`.
    """

    name: str
    operator: Operator
    bias: NDArray[Any] | None = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arity: int = 1

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

    def stack(self, *images: ArrayLike) -> NDArray[Any]:
        """Batches of images, one for each tensor that the layer acts on, as what `apply` takes.

        Parameters
        ----------
        *images : array_like, shape (batch, ...)
            As many as `arity`, in the order of `inputs`.

        Returns
        -------
        ndarray, shape (batch, *operator.input_shape)

        Raises
        ------
        ValueError
            If their number, or the size of an image, is another.
        """
        if len(images) != self.arity:
            raise ValueError(f"images are {len(images)}: the layer acts on {self.arity}, {', '.join(self.inputs)}")
        flat = [np.reshape(image, (len(np.asarray(image)), -1)) for image in images]
        stacked = np.concatenate(flat, axis=1)
        if stacked.shape[1] != self.operator.shape[1]:
            shapes = ", ".join(str(np.shape(image)) for image in images)
            raise ValueError(
                f"images of shapes {shapes} have {stacked.shape[1]} entries for each entry of the batch: the layer "
                f"takes {self.operator.shape[1]}"
            )
        return stacked.reshape(len(stacked), *self.operator.input_shape)

    def _image(self, bias: NDArray[Any]) -> NDArray[Any]:
        """The bias as an image that broadcasts. (C_out, 1..1)"""
        return bias.reshape(-1, *[1] * (len(self.operator.output_shape) - 1)) if bias.ndim == 1 else bias


class Layers(dict[str, Layer[ImageOperator]]):
    """The linear layers of a model by name, and what is not among them.

    Attributes
    ----------
    skipped : dict of str to str
        Name of a module or node that is not among the layers -> the reason.
    """

    skipped: dict[str, str]

    def __init__(
        self, layers: Mapping[str, Layer[ImageOperator]] | None = None, skipped: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(layers or {})
        self.skipped = dict(skipped or {})


def as_bias(offset: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """An image that broadcasts to a shape as a `Layer` keeps it, read-only: one value per channel, where it is so."""
    bias = np.array(offset).reshape(*(1,) * (len(shape) - offset.ndim), *offset.shape)
    if bias.size == bias.shape[0]:
        bias = bias.reshape(-1)
    bias.flags.writeable = False
    return bias


def unused(key: str, taken: Container[str], times: Counter[str]) -> str:
    """The key, or the first free one of ``key#2``, ``key#3``, ...; `times` says where to go on."""
    name = key
    while name in taken:
        times[key] += 1
        name = f"{key}#{times[key] + 1}"
    return name
