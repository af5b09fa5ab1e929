"""The linear nodes of ONNX that are no convolutions: `READERS` is the table of their kinds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convmat.interop import onnx_arithmetic as arithmetic
from convmat.interop import onnx_moves as moves
from convmat.interop import onnx_resampling as resampling
from convmat.interop.layer import Layer, as_bias
from convmat.interop.onnx_checks import STANDARD, printable
from convmat.interop.onnx_constants import CONSTANT, Constants, NotConstantError
from convmat.interop.onnx_graph import Place
from convmat.interop.onnx_node import Affine, Node
from convmat.operators import ImageOperator

if TYPE_CHECKING:
    from onnx.defs import OpSchema

OLDEST = 7
"""The version of the operators with which they broadcast as they do today."""


@dataclass(frozen=True)
class Reader:
    """How one kind of node is read."""

    read: Callable[[Node], Affine]
    joins: bool = False
    """Whether it may act on several tensors."""
    inferred: bool = True
    """Whether shape inference knows the size of what it makes."""


READERS = {
    "Add": Reader(arithmetic.added, joins=True),
    "AveragePool": Reader(resampling.average_pool, inferred=False),  # it keeps windows that begin behind the image
    "BatchNormalization": Reader(arithmetic.batch_normalization),
    "Cast": Reader(moves.cast),
    "Concat": Reader(moves.concat, joins=True),
    "DepthToSpace": Reader(moves.depth_to_space),
    "Div": Reader(arithmetic.divided),
    "Dropout": Reader(moves.dropout),
    "Expand": Reader(moves.expand),
    "Flatten": Reader(moves.reshape),
    "Gather": Reader(moves.gather),
    "Gemm": Reader(arithmetic.gemm),
    "GlobalAveragePool": Reader(arithmetic.global_average_pool),
    "Identity": Reader(moves.identity),
    "MatMul": Reader(arithmetic.matmul),
    "Mean": Reader(arithmetic.averaged, joins=True),
    "Mul": Reader(arithmetic.multiplied),
    "Neg": Reader(arithmetic.negated),
    "Pad": Reader(moves.pad),
    "ReduceMean": Reader(functools.partial(arithmetic.reduced, mean=True)),
    "ReduceSum": Reader(functools.partial(arithmetic.reduced, mean=False)),
    "Reshape": Reader(moves.reshape),
    "Resize": Reader(resampling.resize, inferred=False),  # it multiplies size and scale in another precision
    "Slice": Reader(moves.cut),
    "SpaceToDepth": Reader(moves.space_to_depth),
    "Split": Reader(moves.split),
    "Squeeze": Reader(moves.reshape),
    "Sub": Reader(arithmetic.subtracted, joins=True),
    "Sum": Reader(arithmetic.added, joins=True),
    "Tile": Reader(moves.tile),
    "Transpose": Reader(moves.transpose),
    "Unsqueeze": Reader(moves.reshape),
    "Upsample": Reader(resampling.resize),
}
"""Operator -> how its nodes are read."""

_BROKEN = (ArithmeticError, LookupError, MemoryError, TypeError, ValueError)
"""What the attributes and constants of a broken node may raise."""


def read(name: str, place: Place, constants: Constants) -> Layer[ImageOperator]:
    """The layer of a node that is no convolution, whose place is in a graph with shapes.

    Raises
    ------
    ValueError
        If it is not read; the message is the reason alone.
    """
    try:
        return _layer(name, place, constants)
    except _BROKEN as error:
        raise ValueError(printable(" ".join(str(error).split())) or type(error).__name__) from error


def _layer(name: str, place: Place, constants: Constants) -> Layer[ImageOperator]:
    operator = place.node.op_type
    if place.node.domain not in STANDARD:
        raise ValueError(f"it is an operator of {place.node.domain!r}, not of the standard")
    reader = READERS.get(operator)
    if reader is None and operator not in CONSTANT:
        raise ValueError("it is not linear, or not an operator that is read")
    if _makes_a_constant(place, constants):
        raise ValueError("it makes a constant")
    if reader is None:
        raise ValueError("it is not linear, or not an operator that is read")
    node = Node.of(place, _schema(operator, constants.opsets.get("")), constants)
    A, offset = reader.read(node)
    if min(A.output_shape) < 1:
        raise ValueError(f"it makes images of shape {A.output_shape}, which have no entries")
    declared = node.results[0].shape
    if reader.inferred and len(node.results) == 1 and declared is not None and not _agree(declared[1:], A.output_shape):
        raise ValueError(f"it makes {node.results[0]} by shape inference, and an image of shape {A.output_shape} here")
    sources = [source.name for source in (node.sources if reader.joins else [node.source])]
    others = [operand.name for operand in node.operands if not (operand.name and operand.value is None)]
    bias = None if offset is None else as_bias(offset.astype(A.dtype, copy=False), A.output_shape)
    return Layer(name, A, bias, (*sources, *others), tuple(place.node.output), len(sources))


def _makes_a_constant(place: Place, constants: Constants) -> bool:
    """Whether all that a node takes is constant."""
    try:
        for name in filter(None, place.node.input):
            constants.value(name, place.scope, f"its input {name!r}")
    except NotConstantError:
        return False
    return True


def _schema(operator: str, version: int | None) -> OpSchema:
    """What the standard says about an operator; nodes are checked against it before shapes are inferred.

    Raises
    ------
    ValueError
        If it says nothing, or too much is another today.
    """
    from onnx import defs

    if version is None or version < OLDEST:
        raise ValueError(f"the model has version {version} of the operators: {operator} is read from {OLDEST} on")
    try:
        schema = defs.get_schema(operator, version)
    except defs.SchemaError:
        raise ValueError(f"version {version} of the standard has no {operator} that this onnx knows") from None
    if schema.deprecated:
        raise ValueError(f"version {version} of the standard has no {operator} any more")
    return schema


def _agree(declared: tuple[int | None, ...], image: tuple[int, ...]) -> bool:
    """Whether a shape with open axes may be that of an image."""
    return len(declared) == len(image) and all(a in (None, b) for a, b in zip(declared, image, strict=True))
