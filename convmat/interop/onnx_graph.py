"""The graph of an ONNX model: its nodes where they stand."""

from __future__ import annotations

import os
from collections import ChainMap, Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from convmat.interop.onnx_checks import STANDARD, check_functions, check_text, reading

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto

Shape = tuple[int | None, ...]
"""The size of each axis, None for one that is not known."""


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
    check_text(proto)
    for domain, version in opsets(proto).items():
        if not 1 <= version < 2**31:
            raise ValueError(f"{what} asks for version {version} of the operators of {domain or 'ai.onnx'!r}")
    if proto.functions:
        check_functions(proto)
        with reading("model has functions that cannot be inlined"):
            proto = inline_local_functions(proto)
    return proto, folder


def opsets(proto: ModelProto) -> dict[str, int]:
    """The versions of the operators, by domain; that of the standard under each of its names."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    standard = [versions[domain] for domain in STANDARD if domain in versions]
    return versions | dict.fromkeys(STANDARD, standard[0]) if standard else versions


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
    known: dict[str, NDArray[Any]] = field(default_factory=dict)
    """The values that were asked for."""
    varying: dict[str, str] = field(default_factory=dict)
    """Tensors that were asked for and are not constant -> the one among those they are made of that shows it."""

    def inside(self, graph: GraphProto) -> Scope:
        """The scope of a graph in this one.

        Raises
        ------
        ValueError
            If a tensor is made twice: the readers of one could be given the other.
        """
        made = Counter({tensor.name for tensor in graph.initializer})
        made.update(name for node in graph.node for name in node.output if name)
        twice = [name for name, times in made.items() if times > 1]
        if twice:
            raise ValueError(f"model makes the tensor {twice[0]!r} twice: the name of each tensor must be its own")
        return Scope(
            self.tensors.new_child({tensor.name: tensor for tensor in graph.initializer}),
            self.sparse.new_child({tensor.values.name: tensor for tensor in graph.sparse_initializer}),
            self.producers.new_child({name: node for node in graph.node for name in node.output}),
            self.values.new_child({value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}),
        )

    def kind(self, name: str) -> str:
        """The type of the numbers of a tensor, as numpy names it; empty if it is not known."""
        from onnx import TensorProto, helper

        known = self.values[name].type.tensor_type.elem_type if name in self.values else 0
        number = self.tensors[name].data_type if name in self.tensors else known
        numbers = set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
        return helper.tensor_dtype_to_np_dtype(number).name if number in numbers else ""

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

    def length(self, index: int) -> int:
        """The entries of an input of one axis, as far as they are known."""
        shape = self.scope.shape(self.node.input[index]) if index < len(self.node.input) else None
        return shape[0] or 0 if shape is not None and len(shape) == 1 else 0


def walk(graph: GraphProto) -> Iterator[Place]:
    """Every node of a graph, and of the graphs in its nodes, in their order."""

    def places(graph: GraphProto, prefix: str, around: Scope) -> Iterator[Place]:
        scope = around.inside(graph)
        return (Place(node, prefix, scope) for node in graph.node)

    open_graphs = [places(graph, "", Scope())]
    while open_graphs:
        place = next(open_graphs[-1], None)
        if place is None:
            open_graphs.pop()
            continue
        yield place
        inner: dict[str, GraphProto] = {}
        for attribute in place.node.attribute:
            inner |= {attribute.name: attribute.g} if attribute.HasField("g") else {}
            inner |= {f"{attribute.name}[{i}]": subgraph for i, subgraph in enumerate(attribute.graphs)}
        open_graphs += [
            places(subgraph, f"{place.key}/{name}/", place.scope) for name, subgraph in reversed(inner.items())
        ]


def declared(value: ValueInfoProto) -> Shape | None:
    """The shape that a model declares for a tensor; None if it declares none."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def shown(shape: Shape) -> str:
    """A shape as Python writes a tuple, with a question mark for an open axis."""
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + (",)" if len(shape) == 1 else ")")
