"""A node of an ONNX model as the reader of its kind sees it: attributes, constants, and images without their batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.interop.onnx_constants import DTYPES, Constants, NotConstantError
from convmat.interop.onnx_graph import Place, Shape, shown
from convmat.operators import ImageOperator

if TYPE_CHECKING:
    from onnx.defs import OpSchema

Image = tuple[int, ...]
"""The shape of one image of a batch."""

Affine = tuple[ImageOperator, NDArray[Any] | None]
"""An operator; an offset, an image that broadcasts to its output shape, or None."""


@dataclass(frozen=True, eq=False)
class Operand:
    """An input or output of a node. Without a value it depends on the input of the model."""

    name: str
    shape: Shape | None
    kind: str
    value: NDArray[Any] | None = None

    @property
    def image(self) -> Image:
        """The shape of an image: all axes but the first, which is that of the batch.

        Raises
        ------
        ValueError
            If it is not known, or there is none.
        """
        if self.shape is None:
            raise ValueError(f"the shape of {self.name!r} is not known")
        if None in self.shape[1:]:
            raise ValueError(f"{self} has open axes: the size of an image is not known")
        image = tuple(size for size in self.shape[1:] if size is not None)
        if not image or min(image) < 1:
            raise ValueError(f"{self} has no image: its first axis is that of the batch")
        return image

    def __str__(self) -> str:
        return f"{self.name!r} of shape {shown(self.shape or ())}"


@dataclass(frozen=True, eq=False)
class Node:
    """A node of the standard, whose attributes have their types."""

    attributes: Mapping[str, Any]
    """Those that are given or have a default; text as str."""
    operands: tuple[Operand, ...]
    """Its inputs; an omitted one has an empty name."""
    results: tuple[Operand, ...]
    constants: Constants

    @classmethod
    def of(cls, place: Place, schema: OpSchema, constants: Constants) -> Node:
        """The node at a place, of an operator with this schema.

        Raises
        ------
        ValueError
            If a constant cannot be read.
        """
        from onnx.helper import get_attribute_value

        node, scope = place.node, place.scope
        defaults = (a.default_value for a in schema.attributes.values() if a.default_value.type)
        attributes = {a.name: get_attribute_value(a) for a in (*defaults, *node.attribute)}
        attributes = {
            name: value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
            for name, value in attributes.items()
        }

        def operand(name: str, value: NDArray[Any] | None = None) -> Operand:
            return Operand(name, scope.shape(name), scope.kind(name), value)

        def constant(name: str) -> NDArray[Any] | None:
            try:
                return constants.value(name, scope, f"its input {name!r}") if name else None
            except NotConstantError:
                return None

        operands = tuple(operand(name, constant(name)) for name in node.input)
        return cls(attributes, operands, tuple(operand(name) for name in node.output), constants)

    @property
    def sources(self) -> list[Operand]:
        """The inputs that depend on the input of the model."""
        return [operand for operand in self.operands if operand.name and operand.value is None]

    @property
    def source(self) -> Operand:
        """The one input that depends on the input of the model.

        Raises
        ------
        ValueError
            If there are several.
        """
        source, *others = self.sources
        if others:
            raise ValueError(
                "it takes several tensors that depend on the input of the model, and is linear in one alone"
            )
        return source

    @property
    def image(self) -> Image:
        """The shape of the image that it acts on."""
        return self.source.image

    @property
    def rank(self) -> int:
        """The number of axes of all that it acts on.

        Raises
        ------
        ValueError
            If they differ in it, or in their batch.
        """
        images = [source.image for source in self.sources]
        batches = {(source.shape or ())[0] for source in self.sources}
        if len({len(image) for image in images}) > 1 or len(batches) > 1:
            raise ValueError(
                f"it joins {' and '.join(map(str, self.sources))}: they must have equal numbers of axes, with the "
                f"same batch first"
            )
        return len(images[0]) + 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its operator.

        Raises
        ------
        ValueError
            If it does not compute with real numbers.
        """
        kind = self.results[0].kind or self.sources[0].kind
        if kind not in DTYPES:
            raise ValueError(f"it makes numbers of type {kind or 'unknown'}, and no image of {', '.join(DTYPES)}")
        return np.dtype(DTYPES[kind])

    def given(self, index: int) -> bool:
        """Whether an input is there."""
        return index < len(self.operands) and bool(self.operands[index].name)

    def constant(self, index: int) -> NDArray[Any]:
        """The value of an input.

        Raises
        ------
        ValueError
            If it is no constant.
        """
        operand = self.operands[index] if index < len(self.operands) else Operand("", None, "")
        if operand.value is None:
            missing = f"it depends on {operand.name!r}, which is computed when the model runs"
            raise ValueError(missing if operand.name else f"its input {index} is missing")
        return operand.value

    def numbers(self, index: int) -> NDArray[Any]:
        """The value of an input of real numbers, in the type of the operator."""
        value = self.constant(index)
        if value.dtype.name not in DTYPES:
            name = self.operands[index].name
            raise ValueError(f"its {name!r} has dtype {value.dtype}: it must be one of {', '.join(DTYPES)}")
        return value.astype(self.dtype, copy=False)

    def integers(self, index: int) -> list[int]:
        """The value of an input of integers, as a list."""
        value = self.constant(index)
        if value.dtype.kind not in "iu":
            raise ValueError(f"its {self.operands[index].name!r} has dtype {value.dtype}: it must hold integers")
        return [int(number) for number in value.reshape(-1)]

    def option(self, name: str, index: int) -> list[int] | None:
        """Integers that older operators have as an attribute, and newer ones as an input."""
        if name in self.attributes:
            return list(self.attributes[name])
        return self.integers(index) if self.given(index) else None

    def along_axes(self, name: str, count: int, default: int, least: int) -> list[int]:
        """An attribute with so many integers, none of them below `least`."""
        values = list(self.attributes.get(name, [default] * count))
        if len(values) != count or min(values, default=least) < least:
            raise ValueError(f"its {name}={values} must be {count} integers of at least {least}")
        return values

    def axis(self, axis: int) -> int:
        """An axis of the image, from one of the tensor that it acts on.

        Raises
        ------
        ValueError
            If it is that of the batch, or none.
        """
        rank = len(self.sources[0].image) + 1
        if not -rank <= axis < rank:
            raise ValueError(f"its axis {axis} is none of the {rank} of {self.sources[0]}")
        if axis % rank == 0:
            raise ValueError("it acts along axis 0, that of the batch")
        return axis % rank - 1

    def reserve(self, entries: int) -> None:
        """Take so many numbers, which a reader is about to make, from what may be computed for the model."""
        self.constants.reserve(entries, "it")


def of_image(constant: NDArray[Any], rank: int) -> NDArray[Any]:
    """A constant that is broadcast to a tensor of so many axes, as one that is broadcast to an image."""
    if constant.ndim < rank:
        return constant
    if constant.ndim > rank:
        raise ValueError(f"its constant of shape {constant.shape} adds axes to a tensor of {rank}, before the batch")
    if constant.shape[0] != 1:
        raise ValueError(f"its constant of shape {constant.shape} is another one for each image of the batch")
    first: NDArray[Any] = constant[0]
    return first
