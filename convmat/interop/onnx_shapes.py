"""The shapes of the tensors of an ONNX model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.interop.onnx_checks import STANDARD, check_node, printable, reading, title
from convmat.interop.onnx_constants import Constants, NotConstantError
from convmat.interop.onnx_graph import Place, Scope, Shape, declared, shown, walk

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

SIZES = (
    "Add",
    "Cast",
    "Ceil",
    "Concat",
    "Div",
    "Floor",
    "Gather",
    "Identity",
    "Mul",
    "Slice",
    "Squeeze",
    "Sub",
    "Unsqueeze",
)
"""The operators by which models compute sizes from shapes."""

FOLLOWING = ("MeanVarianceNormalization", "Reshape", "Shape", "Size", *SIZES)
"""The operators through which inference follows the entries of a tensor of one axis."""

FOLLOWED, AXES = 2**20, 2**10
"""How many entries it may follow, all operators together, and how many axes a tensor may be expanded to: it makes a
message of each.
"""

ROUNDS = 2**8
"""How often sizes may be computed from shapes that depend on such sizes."""


def inputs(graph: GraphProto) -> dict[str, ValueInfoProto]:
    """The inputs that have no default."""
    defaults = {tensor.name for tensor in graph.initializer}
    return {value.name: value for value in graph.input if value.name not in defaults}


def fix(graph: GraphProto, input_shapes: Any) -> None:
    """Write the given shapes into the inputs, and drop the sizes -1 and 0, by which some writers mean an open axis.

    Raises
    ------
    TypeError, ValueError
        If the shapes are of a wrong kind, or do not fit the inputs.
    """
    for value in (*graph.input, *graph.output, *graph.value_info):
        if any(size is not None and size < 1 for size in declared(value) or ()):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_value < 1:
                    dim.ClearField("dim_value")
    if input_shapes is None:
        return
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


def infer(proto: ModelProto, constants: Constants) -> ModelProto:
    """The model with every shape that ONNX shape inference finds. The model given is changed.

    Where a model computes sizes from the shapes of tensors, inference may lose track of them. So these are evaluated
    and written into the model, and inference runs again, until nothing new is found. Sizes that are known in part are
    followed by inference itself.

    Raises
    ------
    ValueError
        If a node breaks the rules of the standard, or shapes contradict each other.
    """
    from onnx.numpy_helper import from_array

    graph = proto.graph
    for place in walk(graph):
        check_node(place.node, constants.opsets)
    _hide(proto, "RegexFullMatch")  # of which inference ends the process where the type of its input is not known
    _check_ranks(proto)
    for _ in range(ROUNDS):
        inferred = _inferred(proto, partly_known=False)
        if _followed(inferred.graph) <= FOLLOWED:
            inferred = _inferred(inferred, partly_known=True)
        sizes = _sizes_computed(inferred.graph, constants)
        if not sizes:
            return inferred
        kept = [node for node in graph.node if not any(name in sizes for name in node.output)]
        del graph.node[:]
        graph.node.extend(kept)
        graph.initializer.extend(from_array(array, name) for name, array in sizes.items())
    raise ValueError(
        f"model computes sizes from shapes that depend on such sizes, more than {ROUNDS} times in a row: write the "
        f"shapes into the value_info of the model"
    )


def _inferred(proto: ModelProto, *, partly_known: bool) -> ModelProto:
    from onnx.shape_inference import infer_shapes

    with reading("model has shapes or nodes, or is given input_shapes, that contradict each other"):
        return infer_shapes(proto, strict_mode=True, data_prop=partly_known)


def _check_ranks(proto: ModelProto) -> None:
    """Raise if a tensor is expanded to far too many axes, by what inference finds without expanding any."""
    from onnx import ModelProto

    hidden = ModelProto()
    hidden.CopyFrom(proto)
    if not _hide(hidden, "Expand"):
        return
    for place in walk(_inferred(hidden, partly_known=False).graph):
        if place.node.op_type == "Expand" and place.length(1) > AXES:
            raise ValueError(f"{title(place.node)} makes a tensor of {place.length(1)} axes: at most {AXES} are read")


def _hide(proto: ModelProto, operator: str) -> bool:
    """Put the nodes of an operator into a domain that inference does not know; whether there were any."""
    from onnx.helper import make_opsetid

    nodes = [place.node for place in walk(proto.graph) if place.node.op_type == operator]
    for node in nodes:
        node.domain = "convmat.hidden"
    if nodes:
        proto.opset_import.append(make_opsetid("convmat.hidden", 1))
    return bool(nodes)


def _followed(graph: GraphProto) -> int:
    places = (place for place in walk(graph) if place.node.op_type in FOLLOWING)
    return sum(place.length(i) for place in places for i in range(len(place.node.input)))


def _sizes_computed(graph: GraphProto, constants: Constants) -> dict[str, NDArray[Any]]:
    """The values of tensors that follow from shapes which are known, and from constants."""
    scope = Scope().inside(graph)
    found: dict[str, NDArray[Any]] = {}

    def value(name: str) -> NDArray[Any]:
        return found[name] if name in found else constants.value(name, scope, f"tensor {name!r}")

    for node in graph.node:
        if node.domain not in STANDARD or node.op_type not in ("Shape", *SIZES):
            continue
        output = node.output[0]
        if node.op_type == "Shape":
            shape = scope.shape(node.input[0])
            if shape is not None and None not in shape:
                found[output] = np.array(shape, np.int64)[_part(node)]
        elif any(name in found for name in node.input):
            with suppress(NotConstantError):
                values = {name: value(name) for name in node.input if name}
                found[output] = constants.evaluate(node, output, values, f"tensor {output!r}")
    return found


def _part(node: NodeProto) -> slice:
    """The axes that a Shape node gives."""
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return slice(ends.get("start", 0), ends.get("end"))


def _sizes(name: str, given: Any) -> tuple[int, ...]:
    what = f"input_shapes[{name!r}]={given!r}"
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{what} must be the full shape, a tuple of integers")
    sizes = tuple(given)
    if any(isinstance(size, bool) or not isinstance(size, int | np.integer) for size in sizes):
        raise TypeError(f"{what} must be the full shape, a tuple of integers")
    if any(not 1 <= size < 2**63 for size in sizes):
        raise ValueError(f"{what} must hold sizes of at least 1, and below 2^63")
    return tuple(int(size) for size in sizes)


def check_axes(place: Place, dims: int, what: str) -> None:
    """Raise if the number of axes of what a convolution reads is known and wrong; `what` names it in messages.

    Some versions of onnx crash in shape inference then.
    """
    shape = place.scope.shape(place.node.input[0])
    if shape is not None and len(shape) != dims + 2:
        raise ValueError(
            f"{what} reads {_read(place, shape)}: for a kernel of {dims} axes it must have {dims + 2}, batch and "
            f"channels first"
        )


def image_size(place: Place, channels: int, dims: int, graph: GraphProto, what: str) -> tuple[int, ...]:
    """The spatial size of what a convolution of so many axes reads; `what` names it in messages.

    Raises
    ------
    ValueError
        If an axis of it is open, or it does not fit the weight.
    """
    shape = place.scope.shape(place.node.input[0])
    if shape is None:
        raise ValueError(f"{what} reads {place.node.input[0]!r}, whose shape is not known: {_advice(graph)}")
    check_axes(place, dims, what)
    axes = [str(axis) for axis, size in enumerate(shape) if axis >= 2 and size is None]
    if axes:
        which = f"axes {', '.join(axes)} are" if len(axes) > 1 else f"axis {axes[0]} is"
        raise ValueError(f"{what} reads {_read(place, shape)}, whose {which} open: {_advice(graph)}")
    if shape[1] not in (None, channels):
        raise ValueError(f"{what} reads {_read(place, shape)}, but its weight is for {channels} channels")
    return tuple(size for size in shape[2:] if size is not None)


def _read(place: Place, shape: Shape) -> str:
    return f"{place.node.input[0]!r} of shape {shown(shape)}"


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
    sizes = (str(d.dim_value) if d.HasField("dim_value") else printable(d.dim_param) or "?" for d in tensor.shape.dim)
    return f"({', '.join(sizes)})"
