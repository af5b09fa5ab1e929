"""The values of the constants of an ONNX model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.interop.onnx_checks import STANDARD, check_node, reading, title
from convmat.interop.onnx_graph import Scope

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

CONSTANT = (
    "Cast",
    "Constant",
    "ConstantOfShape",
    "DequantizeLinear",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""The operators through which a weight is followed: they move or convert single numbers, and never add any up."""

DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float32, "bfloat16": np.float32}
"""Type of a tensor -> the type of an operator, which holds every number of the former."""

FOLDED, FOLDED_PER_BYTE = 2**28, 16
"""Bytes that all computed constants of a model may have together, and those more for each byte of its tensors."""


class NotConstantError(ValueError):
    """A tensor depends on the input of the model, or is stored in a way that is not read."""


@dataclass(eq=False)
class Constants:
    """Values of tensors that do not depend on the input of the model."""

    folder: Path | None
    """Where external data is looked for."""
    opsets: Mapping[str, int]
    left: int = FOLDED
    """Bytes that may still be computed."""

    def value(self, name: str, scope: Scope, what: str) -> NDArray[Any]:
        """The value of a tensor; `what` names it in messages.

        Raises
        ------
        NotConstantError
            If it is not a constant.
        ValueError
            If it cannot be read or computed, or is larger than what may be computed.
        """
        known, begun, waiting = scope.known, set[str](), [name]
        while waiting:
            tensor = waiting[-1]
            if tensor in known:
                waiting.pop()
                continue
            try:
                node = self._node(scope.varying.get(tensor, tensor), scope, what)
            except NotConstantError:
                above = [used for used in (*begun, tensor) if used not in known]
                scope.varying.update(dict.fromkeys(above, scope.varying.get(tensor, tensor)))
                raise
            if node is None:
                known[tensor] = self._array(scope.tensors[tensor], what)
                continue
            missing = [used for used in node.input if used and used not in known]
            if not missing:
                known[tensor] = self.evaluate(node, tensor, known, what)
            elif tensor in begun:
                raise ValueError(f"{what} depends on itself, by {title(node)}")
            begun.add(tensor)
            waiting += missing
        return known[name]

    def reserve(self, entries: int, what: str) -> None:
        """Take the bytes of so many numbers, which are to be computed for `what`, from what is left.

        Raises
        ------
        ValueError
            If there are not so many.
        """
        size = entries * _LARGEST_NUMBER
        if size > self.left:
            raise ValueError(
                f"{what} asks for {entries} numbers: all that is computed for the nodes of a model may have {FOLDED} "
                f"bytes, and {FOLDED_PER_BYTE} for each byte of the tensors of the model"
            )
        self.left -= size

    def _node(self, name: str, scope: Scope, what: str) -> NodeProto | None:
        """The node that makes a tensor; None if it is stored."""
        if name in scope.tensors:
            return None
        if name in scope.sparse:
            raise NotConstantError(f"{what} is a sparse tensor: only dense ones are read")
        node = scope.producers.get(name)
        if node is None:
            raise NotConstantError(f"{what} is an input of the graph: it must be an initialiser or a Constant node")
        if node.domain not in STANDARD or node.op_type not in CONSTANT:
            raise NotConstantError(
                f"{what} is computed when the model runs, by {title(node)}: it must be an initialiser or a Constant "
                f"node, or made from one by {', '.join(CONSTANT)}; if it depends on constants alone, let the optimiser "
                f"of a runtime fold them first"
            )
        if node.op_type == "Constant" and any(attribute.HasField("sparse_tensor") for attribute in node.attribute):
            raise NotConstantError(f"{what} is a sparse tensor: only dense ones are read")
        return node

    def _array(self, tensor: TensorProto, what: str) -> NDArray[Any]:
        """The numbers of a stored tensor, which raise what may be computed."""
        from onnx import TensorProto, numpy_helper

        if any(size < 0 for size in tensor.dims):
            raise ValueError(f"{what} has dims={list(tensor.dims)}: they must not be negative")
        if tensor.data_type not in TensorProto.DataType.values():
            raise ValueError(f"{what} has data_type={tensor.data_type}, which is none of the standard")
        if tensor.data_location != TensorProto.EXTERNAL:
            with reading(f"{what}, of dims={list(tensor.dims)}, cannot be read"):
                array = np.asarray(numpy_helper.to_array(tensor))
        else:
            file = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            if self.folder is None:
                raise ValueError(
                    f"{what} is in the external file {file!r}, which a model without a path has no folder for: give "
                    f"the path of the model, or read it with onnx.load, which loads external files too"
                )
            with reading(f"{what} is in the external file {file!r}, which cannot be read in {str(self.folder)!r}"):
                array = np.asarray(numpy_helper.to_array(tensor, str(self.folder)))
        self.left += FOLDED_PER_BYTE * array.nbytes
        return array

    def evaluate(self, node: NodeProto, output: str, values: Mapping[str, NDArray[Any]], what: str) -> NDArray[Any]:
        """An output of a node, by the reference evaluator of onnx.

        Raises
        ------
        ValueError
            If the node breaks the rules of its operator, or makes more than may be computed.
        """
        from onnx import GraphProto, ValueInfoProto
        from onnx.reference import ReferenceEvaluator

        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            return self._array(node.attribute[0].t, what)
        feeds = {used: values[used] for used in node.input if used}

        def made() -> str:
            return f"{what} is made by {title(node)}, which"

        with reading(lambda: f"{made()} cannot be computed"):
            check_node(node, self.opsets)
            if node.op_type == "Identity":
                return feeds[node.input[0]]
            entries = _entries(node, [values[used] if used else np.zeros(0) for used in node.input])
        size = entries * _LARGEST_NUMBER
        if size > self.left:
            raise ValueError(
                f"{made()} computes {entries} numbers: all constants that are computed may have {FOLDED} bytes, "
                f"and {FOLDED_PER_BYTE} for each byte of the tensors of the model; store it as an initialiser"
            )
        graph = GraphProto(
            name="constant",
            node=[node],
            input=[ValueInfoProto(name=used) for used in feeds],
            output=[ValueInfoProto(name=output)],
        )
        with reading(lambda: f"{made()} cannot be computed"):
            with np.errstate(divide="raise", invalid="raise", over="ignore", under="ignore"):
                results: Any = ReferenceEvaluator(graph, opsets=dict(self.opsets)).run(None, feeds)
            array = np.asarray(results[0])
            if array.dtype.hasobject or array.dtype.kind in "SU":
                raise ValueError("it gives text, where numbers are needed")
        if not any(np.may_share_memory(array, given) for given in feeds.values()):
            self.left -= array.nbytes
        return array


_LARGEST_NUMBER = 8
"""Bytes."""


def _entries(node: NodeProto, operands: Sequence[NDArray[Any]]) -> int:
    """A bound on the entries that a node makes of these operands, before it does."""
    from onnx import TensorProto

    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    sizes = [operand.size for operand in operands]
    if node.op_type == "ConstantOfShape":
        shape = operands[0]
        if shape.dtype.kind not in "iu":
            raise ValueError(f"it has a shape of {shape.dtype}, where integers are needed")
        return math.prod(shape.ravel().tolist())
    if node.op_type == "Concat":
        return sum(sizes)
    if node.op_type == "Gather":
        return sizes[0] * sizes[1]
    if node.op_type in ("Add", "Div", "Mul", "Sub"):
        return np.broadcast(*operands).size
    if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        x, *parameters = operands
        shapes = [_along(x.shape, p.shape, numbers) for p in parameters if p.size > 1]
        made: list[int] = [math.prod(map(max, x.shape, shape)) for shape in shapes]
        return max([x.size, *made])
    if node.op_type == "Cast" and numbers.get("to") == TensorProto.STRING:
        raise ValueError("it gives text, where numbers are needed")
    return max(sizes, default=0)


def _along(shape: Sequence[int], parameter: Sequence[int], numbers: Mapping[str, int]) -> list[int]:
    """The shape of the scales or zero points for numbers of a shape: one for each entry of an axis, or for blocks."""
    axis = numbers.get("axis", 1)
    sizes = [1] * len(shape) if len(parameter) == 1 else list(parameter)
    sizes[axis] = (parameter[0] if len(parameter) == 1 else sizes[axis]) * max(1, numbers.get("block_size", 0))
    if len(sizes) != len(shape):
        raise ValueError(
            f"scales or zero points of shape {tuple(parameter)} do not fit numbers of shape {tuple(shape)}"
        )
    return sizes
