"""The graph of an ONNX model: its nodes where they stand, and the values of its constants."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto

Shape = tuple[int | None, ...]
"""The size of each axis, None for one that is not known."""

STANDARD = ("", "ai.onnx")
"""The names of the domain of the standard's operators."""

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


def load(model: Any) -> tuple[ModelProto, Path | None]:
    """A model of our own, with its functions inlined, and the folder of its external data.

    Raises
    ------
    TypeError, ValueError, OSError
        If it is no model, or cannot be read.
    """
    import onnx
    from onnx.inliner import inline_local_functions

    folder, what = None, "model"
    if isinstance(model, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
    elif isinstance(model, bytes | bytearray | memoryview):
        proto = _parse(bytes(model), what)
    elif isinstance(model, str | os.PathLike):
        path = Path(model)
        folder, what = path.parent, f"model={str(path)!r}"
        proto = _parse(path.read_bytes(), what)
    else:
        raise TypeError(f"model must be a path, bytes or an onnx.ModelProto, not {type(model).__name__}")
    if not proto.HasField("graph") or not proto.opset_import:
        raise ValueError(f"{what} is no ONNX model: it has no graph, or names no version of the operators")
    return inline_local_functions(proto) if proto.functions else proto, folder


def _parse(content: bytes, what: str) -> ModelProto:
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    try:
        proto: ModelProto = ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"{what} is no ONNX model: {error}") from error
    return proto


@dataclass(frozen=True, eq=False)
class Scope:
    """What the names of tensors stand for, in a graph and in the graphs around it."""

    tensors: ChainMap[str, TensorProto] = field(default_factory=ChainMap)
    """Initialisers."""
    sparse: ChainMap[str, SparseTensorProto] = field(default_factory=ChainMap)
    """Initialisers that are stored sparsely."""
    producers: ChainMap[str, NodeProto] = field(default_factory=ChainMap)
    """The node that a tensor is an output of."""
    values: ChainMap[str, ValueInfoProto] = field(default_factory=ChainMap)
    """The type and shape of a tensor."""

    def inside(self, graph: GraphProto) -> Scope:
        """The scope of a graph in this one."""
        return Scope(
            self.tensors.new_child({tensor.name: tensor for tensor in graph.initializer}),
            self.sparse.new_child({tensor.values.name: tensor for tensor in graph.sparse_initializer}),
            self.producers.new_child({name: node for node in graph.node for name in node.output}),
            self.values.new_child({value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}),
        )

    def shape(self, name: str) -> Shape | None:
        """The shape of a tensor; None if not even its number of axes is known."""
        if name in self.tensors:
            return tuple(self.tensors[name].dims)
        return declared(self.values[name]) if name in self.values else None


@dataclass(frozen=True, eq=False)
class Place:
    """A node, and where it stands."""

    node: NodeProto
    prefix: str
    scope: Scope

    @property
    def key(self) -> str:
        """The name of the node, or of its first output, behind the path of the graphs that it is in."""
        return self.prefix + str(self.node.name or next(filter(None, self.node.output), self.node.op_type))


def walk(graph: GraphProto, prefix: str = "", around: Scope | None = None) -> Iterator[Place]:
    """Every node of a graph, and of the graphs in its nodes, in their order."""
    scope = (around or Scope()).inside(graph)
    for node in graph.node:
        place = Place(node, prefix, scope)
        yield place
        for attribute in node.attribute:
            inner = {"": attribute.g} if attribute.HasField("g") else {}
            inner |= {f"[{i}]": subgraph for i, subgraph in enumerate(attribute.graphs)}
            for index, subgraph in inner.items():
                yield from walk(subgraph, f"{place.key}/{attribute.name}{index}/", scope)


def declared(value: ValueInfoProto) -> Shape | None:
    """The shape that a model declares for a tensor; None if it declares none."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


# the values of constants -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Constants:
    """Values of tensors that do not depend on the input of the model."""

    folder: Path | None
    """Where external data is looked for."""
    opsets: Mapping[str, int]

    def value(self, name: str, scope: Scope, what: str) -> NDArray[Any]:
        """The value of a tensor; `what` names it in messages.

        Raises
        ------
        ValueError
            If it is not a constant, or cannot be read.
        """
        if name in scope.tensors:
            return self._array(scope.tensors[name], what)
        if name in scope.sparse:
            raise ValueError(f"{what} is a sparse tensor: only dense ones are read")
        node = scope.producers.get(name)
        if node is None:
            raise ValueError(f"{what} is an input of the graph: it must be an initialiser or a Constant node")
        if node.domain not in STANDARD or node.op_type not in CONSTANT:
            raise ValueError(
                f"{what} is computed when the model runs, by {node.op_type} {node.name or node.output[0]!r}: it must "
                f"be an initialiser or a Constant node, or made from one by {', '.join(CONSTANT)}; if it depends "
                f"on constants alone, let the optimiser of a runtime fold them first"
            )
        stored = node.attribute[0] if node.op_type == "Constant" else None
        if stored is not None and stored.HasField("sparse_tensor"):
            raise ValueError(f"{what} is a sparse tensor: only dense ones are read")
        if stored is not None and stored.HasField("t"):
            return self._array(stored.t, what)
        return self.evaluate(node, {used: self.value(used, scope, what) for used in node.input if used})

    def _array(self, tensor: TensorProto, what: str) -> NDArray[Any]:
        from onnx import TensorProto, numpy_helper

        if tensor.data_location != TensorProto.EXTERNAL:
            return np.asarray(numpy_helper.to_array(tensor))
        file = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if self.folder is None:
            raise ValueError(
                f"{what} is in the external file {file!r}, which a model without a path has no folder for: give the "
                f"path of the model, or read it with onnx.load, which loads external files too"
            )
        try:
            return np.asarray(numpy_helper.to_array(tensor, str(self.folder)))
        except Exception as error:  # of many kinds, which differ between the versions of onnx
            raise ValueError(
                f"{what} is in the external file {file!r}, which cannot be read in {str(self.folder)!r}: {error}"
            ) from error

    def evaluate(self, node: NodeProto, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The first output of a node, by the reference evaluator of onnx."""
        from onnx import GraphProto, ValueInfoProto
        from onnx.reference import ReferenceEvaluator

        graph = GraphProto(
            name="constant",
            node=[node],
            input=[ValueInfoProto(name=name) for name in feeds],
            output=[ValueInfoProto(name=node.output[0])],
        )
        results: Any = ReferenceEvaluator(graph, opsets=dict(self.opsets)).run(None, feeds)
        return np.asarray(results[0])
