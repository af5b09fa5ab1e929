"""The graph of an ONNX model: its nodes, the values of its constants, the shapes of its tensors."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
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
        return self.prefix + (self.node.name or next(filter(None, self.node.output), self.node.op_type))


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
        return self._evaluate(node, {used: self.value(used, scope, what) for used in node.input if used})

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

    def _evaluate(self, node: NodeProto, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
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


# the shapes of tensors -------------------------------------------------------------------------------------------


def declared(value: ValueInfoProto) -> Shape | None:
    """The shape that a model declares for a tensor; None if it declares none."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def inputs(graph: GraphProto) -> dict[str, ValueInfoProto]:
    """The inputs that have no default."""
    defaults = {tensor.name for tensor in graph.initializer}
    return {value.name: value for value in graph.input if value.name not in defaults}


def infer(proto: ModelProto, input_shapes: Any) -> ModelProto:
    """The model with every shape that ONNX shape inference finds from the given ones. The model given is changed.

    Raises
    ------
    TypeError, ValueError
        If the shapes are of a wrong kind, do not fit the inputs, or if the model contradicts itself.
    """
    from onnx.shape_inference import InferenceError, infer_shapes

    _open_axes(proto.graph)
    if input_shapes is not None:
        _fix(proto.graph, input_shapes)
    try:
        return infer_shapes(proto, strict_mode=True, data_prop=True)
    except InferenceError as error:
        what = "model contradicts itself" if input_shapes is None else "model contradicts itself or input_shapes"
        raise ValueError(f"{what}: {error}") from error


def _open_axes(graph: GraphProto) -> None:
    """Drop the sizes -1 and 0, by which some writers mean an open axis."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if any(size is not None and size < 1 for size in declared(value) or ()):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_value < 1:
                    dim.ClearField("dim_value")


def _fix(graph: GraphProto, input_shapes: Any) -> None:
    """Write the given shapes into the inputs."""
    if not isinstance(input_shapes, Mapping):
        raise TypeError(f"input_shapes={input_shapes!r} must map names of inputs to their shapes")
    known = inputs(graph)
    for name, given in input_shapes.items():
        if name not in known:
            raise ValueError(f"input_shapes names {name!r}: the inputs of the model are {', '.join(map(repr, known))}")
        sizes = _sizes(name, given)
        value = known[name]
        fixed = declared(value)
        if fixed is not None and not (
            len(fixed) == len(sizes) and all(a in (None, b) for a, b in zip(fixed, sizes, strict=True))
        ):
            raise ValueError(f"input_shapes[{name!r}]={given!r} does not fit the shape {_names(value)} of that input")
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for size in sizes:
            shape.dim.add().dim_value = size


def _sizes(name: str, given: Any) -> tuple[int, ...]:
    what = f"input_shapes[{name!r}]={given!r}"
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{what} must be the full shape, a tuple of integers")
    sizes = tuple(given)
    if any(isinstance(size, bool) or not isinstance(size, int | np.integer) for size in sizes):
        raise TypeError(f"{what} must be the full shape, a tuple of integers")
    if any(size < 1 for size in sizes):
        raise ValueError(f"{what} must hold sizes of at least 1")
    return tuple(int(size) for size in sizes)


def image_size(place: Place, channels: int, dims: int, graph: GraphProto, what: str) -> tuple[int, ...]:
    """The spatial size of what a convolution reads; `what` names it in messages.

    Raises
    ------
    ValueError
        If an axis of it is open, or it does not fit the weight.
    """
    name = place.node.input[0]
    shape = place.scope.shape(name)
    if shape is None:
        raise ValueError(f"{what} reads {name!r}, whose shape is not known: {_advice(graph)}")
    what = f"{what} reads {name!r} of shape ({', '.join('?' if size is None else str(size) for size in shape)})"
    if len(shape) != dims + 2:
        raise ValueError(f"{what}: for a kernel of {dims} axes it must have {dims + 2}, batch and channels first")
    size = tuple(n for n in shape[2:] if n is not None)
    if len(size) < dims:
        axes = [str(axis) for axis in range(2, len(shape)) if shape[axis] is None]
        which = f"axes {', '.join(axes)} are" if len(axes) > 1 else f"axis {axes[0]} is"
        raise ValueError(f"{what}, whose {which} open: {_advice(graph)}")
    if shape[1] not in (None, channels):
        raise ValueError(f"{what}, but its weight is for {channels} channels")
    return size


def _advice(graph: GraphProto) -> str:
    """What to pass so that shapes are known."""
    dynamic = {name: value for name, value in inputs(graph).items() if None in (declared(value) or (None,))}
    if not dynamic:
        return (
            "all inputs of the model are fixed, so it depends on values that are computed when the model runs, or on "
            "an operator that shape inference does not know; write the shape into the value_info of the model"
        )
    shapes = ", ".join(f"{name!r}: {_names(value)}" for name, value in dynamic.items())
    return f"pass input_shapes={{{shapes}}} with a number for each axis"


def _names(value: ValueInfoProto) -> str:
    """A declared shape as a message shows it: with the names that its open axes have."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return "(...)"
    return (
        f"({', '.join(str(d.dim_value) if d.HasField('dim_value') else d.dim_param or '?' for d in tensor.shape.dim)})"
    )
