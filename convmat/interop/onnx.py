"""The linear nodes of an ONNX model. Needs the extra `onnx`, which is imported when a model is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from convmat.interop import onnx_nodes
from convmat.interop.layer import Layer, Layers, unused
from convmat.interop.onnx_attributes import Attributes
from convmat.interop.onnx_checks import STANDARD, printable
from convmat.interop.onnx_constants import DTYPES, Constants, NotConstantError
from convmat.interop.onnx_graph import Place, load, opsets, walk
from convmat.interop.onnx_shapes import check_axes, fix, image_size, infer
from convmat.operators import Conv1d, Conv2d, Conv3d, Convolution, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["Layer", "from_onnx"]

_OPERATORS: dict[tuple[str, int], Callable[..., Convolution]] = {
    ("Conv", 1): Conv1d,
    ("Conv", 2): Conv2d,
    ("Conv", 3): Conv3d,
    ("ConvTranspose", 1): ConvTranspose1d,
    ("ConvTranspose", 2): ConvTranspose2d,
    ("ConvTranspose", 3): ConvTranspose3d,
}

_QUANTISED = "rounds to integers, and so is no linear map"
_FUSED = "is an operator of one runtime, not of the standard: read the model as it was before it was optimised"
_REFUSED = {
    "ConvInteger": _QUANTISED,
    "QLinearConv": _QUANTISED,
    "QLinearConvTranspose": _QUANTISED,
    "FusedConv": _FUSED,
    "NhwcConv": _FUSED,
    "NhwcFusedConv": _FUSED,
    "ConvTransposeWithDynamicPads": _FUSED,
}
"""Convolutions of other names -> why they are not read."""


def from_onnx(
    model: str | os.PathLike[str] | bytes | ModelProto,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Layers:
    """Every linear node of an ONNX model, as an operator with an offset.

    Parameters
    ----------
    model : str or path, bytes, or onnx.ModelProto
        A file, its content, or a model in memory, which is not changed.
    input_shapes : mapping of str to tuple of int, optional
        Name of an input of the model -> its full shape, with batch and channels. It is needed where the model leaves
        an axis open that decides the size of an image; it must agree with the axes that the model fixes.

    Returns
    -------
    Layers
        A dict with one entry per linear node, in the order of the model. The key is the name of the node, or the name
        of its first output if the node has no name. In a subgraph (of ``If``, ``Loop``, ``Scan``) the key of that
        node and the name of the branch come first: ``"if_1/then_branch/conv"``. If two nodes would have one key, the
        later ones get ``#2``, ``#3``, ... at its end. Functions of the model are inlined, which may rename the nodes
        in them. Every other node has its key in ``.skipped``, with the reason.

    Raises
    ------
    ImportError
        If onnx is missing; it names the extra.
    TypeError
        If an argument is of a wrong kind.
    ValueError
        If `model` is no ONNX model; if `input_shapes` does not fit its inputs; if a node breaks the rules of the
        standard (the message names it and the field); if the model asks for more than the limits below; and for
        its convolutions: if the size of an image is not fixed (the message says which axes of which tensor, and what to
        pass); if a weight or bias is computed when the model runs, or is in a file that cannot be read; if they are
        quantised (``QLinearConv``, ``ConvInteger``), which rounds and so is not linear, or fused ones that a runtime
        has written. Another node of which this is true is skipped. Names of the model are shown without control
        characters.
    MemoryError
        If onnx needs more memory than there is.
    OSError
        If the file of the model cannot be read.

    See Also
    --------
    Layer : what an entry holds.

    Notes
    -----
    A layer is what a node does to each image of a batch, and the first axis of each tensor is the batch. Read are
    ``Conv`` and ``ConvTranspose``; ``Gemm`` and ``MatMul`` with a constant; ``BatchNormalization``; ``AveragePool``,
    ``GlobalAveragePool``, ``ReduceMean``, ``ReduceSum``; ``Resize`` (nearest, linear, cubic), ``Upsample``; ``Pad``;
    ``Mul`` and ``Div`` by a constant, ``Neg``; ``Add``, ``Sub``, ``Sum`` and ``Mean`` of one or more tensors and
    constants, broadcast; ``Concat``, ``Split``, ``Slice``, ``Gather``, ``Expand``, ``Tile``; ``Reshape``, ``Flatten``,
    ``Squeeze``, ``Unsqueeze``, ``Transpose``, ``DepthToSpace``, ``SpaceToDepth``; ``Identity``, ``Dropout``, and
    ``Cast`` to a type that holds every number of the other. Which constants are added is in the offset. How a layer
    takes several tensors says `Layer`.

    A node that mixes the images of a batch is skipped: one that acts along axis 0, as ``Concat`` and ``Transpose`` may,
    or whose constant is another one for each image. ``Reshape`` and its like are read where the image before has as
    many entries as the image after, so that a model whose batch is 1 may move that axis to and fro.

    Weights and other constants are initialisers or ``Constant`` nodes, also behind ``Identity``, ``Cast``,
    ``Reshape``, ``Squeeze``, ``Unsqueeze``, ``Transpose``, ``QuantizeLinear``, ``DequantizeLinear`` and
    ``ConstantOfShape`` of constants. An initialiser that is an input too is taken at its default. float64 is kept,
    float16 and bfloat16 become float32, exactly. Files of external data are looked for beside a model that is given by
    its path.

    Image sizes are those of ONNX shape inference, also where the model computes them from the shapes of its tensors.
    The batch of a convolution may have any size. Other nodes than convolutions are read from version 7 of the
    operators on, with which they broadcast as they do today.

    Models from strangers are refused before they cost much: all constants that are computed, and the matrices along an
    axis, may have 256 MiB, and 16 bytes for each byte of the tensors of the model, together; functions may become
    65,536 nodes and 256 MiB where they are called; ``Expand`` may make 1,024 axes; sizes may depend on computed sizes
    256 times in a row.

    Padding, per axis, for span = d (K - 1) + 1 and input size n:

    ================  =============================================================================================
    Conv
    NOTSET            ``pads``
    VALID             none
    SAME_UPPER        total = max(0, (ceil(n / s) - 1) s + span - n), the odd one at the end
    SAME_LOWER        the same, the odd one at the beginning
    ConvTranspose
    NOTSET            ``pads``; the output has the size (n - 1) s + span + output_padding - lo - hi
    VALID             none; the output has the size (n - 1) s + span + output_padding
    SAME_UPPER        total = max(0, span + output_padding - s), the odd one at the end; so the output has the size
                      n s unless span + output_padding < s, where it is that of VALID
    SAME_LOWER        the same, the odd one at the beginning
    ``output_shape``  total = max(0, (n - 1) s + span + output_padding - output_shape), whatever ``pads`` says; the odd
                      one at the end with SAME_UPPER, else at the beginning. A larger ``output_shape`` adds zeros at
                      the end, as ``output_padding`` does, and less than s or d of both together.
    ================  =============================================================================================

    Generated pads are thus never negative. onnxruntime [2]_ and the reference evaluator of onnx agree with this, but
    where the following says otherwise. ``Conv``, SAME: with span <= s - 2, onnxruntime may read other samples (a
    negative total crops); it refuses dilations. ``ConvTranspose``, SAME, span + output_padding < s: onnxruntime
    and ONNX shape inference are as here, the evaluator makes an output of size n s with zeros at both ends.
    ``output_shape`` with NOTSET or VALID: onnxruntime is as here, the evaluator takes ``pads`` and fails where they do
    not fit; with SAME and an ``output_shape`` that needs a negative total, it puts the first zero at the beginning. The
    evaluator also fails at some transposed convolutions in groups.
    ``output_padding`` of at least s, and less than d: onnxruntime refuses it. ``pads`` together with an ``auto_pad``
    are refused, as the standard says.

    ``AveragePool`` and ``Resize`` are those of onnxruntime, too. ONNX shape inference makes an output larger by one
    where ``ceil_mode`` has a window that begins behind the image, or smaller by one where n times the scale is whole in
    single precision alone; what follows such a node has the sizes of the inference. A pool with a window that lies in
    the padding is skipped. Before version 11, ``Resize`` does not say which sample is nearest: it is the one before a
    position, or the one behind if the axis becomes smaller.

    References
    ----------
    .. [1] The ONNX standard, https://onnx.ai/onnx/operators
    .. [2] onnxruntime 1.32 on a CPU, compared in the tests; the evaluator is ``onnx.reference`` of onnx 1.23.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import TensorProto, helper, numpy_helper
    >>> from convmat.interop.onnx import from_onnx
    >>> W = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    >>> graph = helper.make_graph(
    ...     [helper.make_node("Conv", ["x", "W"], ["y"], name="first", strides=[2, 2], pads=[1, 1, 1, 1])],
    ...     "network",
    ...     [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
    ...     [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    ...     [numpy_helper.from_array(W, "W")],
    ... )
    >>> layers = from_onnx(helper.make_model(graph), input_shapes={"x": (1, 3, 32, 32)})
    >>> A = layers["first"].operator
    >>> A.input_shape, A.output_shape, np.array_equal(A.weight, W), layers["first"].offset is None
    ((3, 32, 32), (8, 16, 16), True, True)
    """
    try:
        proto, folder = load(model)
    except ImportError as error:
        raise ImportError(
            f"from_onnx needs {error.name or 'onnx'}: install the extra `onnx`, pip install 'convmat[onnx]'",
            name=error.name,
        ) from error
    constants = Constants(folder, opsets(proto))
    _refuse(walk(proto.graph))
    fix(proto.graph, input_shapes)
    keys, times = dict[str, None](), Counter[str]()
    convolutions: dict[str, _Convolution] = {}
    for place in walk(proto.graph):
        key = unused(place.key, keys, times)
        keys[key] = None
        place.node.doc_string = key  # by which it is found again, for inference drops nodes and copies the others
        if _is_convolution(place.node):
            convolutions[key] = _read(key, place, constants)
    graph = infer(proto, constants).graph
    places = {place.node.doc_string: place for place in walk(graph)}
    layers = Layers()
    for key in keys:
        if key in convolutions:
            layers[key] = _layer(convolutions[key], places[key], graph)
        elif key not in places:
            layers.skipped[key] = "it computes sizes"
        else:
            try:
                layers[key] = onnx_nodes.read(key, places[key], constants)
            except ValueError as error:
                layers.skipped[key] = str(error)
    return layers


def _is_convolution(node: NodeProto) -> bool:
    return node.op_type in ("Conv", "ConvTranspose")


def _refuse(places: Iterable[Place]) -> None:
    """Raise if there are convolutions that are not read, and name them all."""
    refused: dict[str, list[str]] = {}
    for place in places:
        node = place.node
        foreign = _FUSED if _is_convolution(node) and node.domain not in STANDARD else None
        reason = _REFUSED.get(node.op_type, foreign)
        if reason:
            operator = printable(node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}")
            refused.setdefault(f"{operator} {reason}", []).append(repr(place.key))
    if refused:
        found = "; ".join(f"{reason} (nodes {', '.join(keys)})" for reason, keys in refused.items())
        raise ValueError(f"model has convolutions that are not read: {found}")


@dataclass(frozen=True, eq=False)
class _Convolution:
    """A node, while the size of its images is not known yet."""

    name: str
    weight: NDArray[Any]
    bias: NDArray[Any] | None
    attributes: Attributes


def _read(name: str, place: Place, constants: Constants) -> _Convolution:
    """Read a node. Pads that auto_pad means, whatever the image, are written into it.

    Shape inference does not take the output_padding of a transposed convolution into account in SAME, as the standard
    and the runtimes do; the layers that follow would get other sizes.
    """
    from onnx.helper import make_attribute

    node = place.node
    what = f"{node.op_type} {name!r}"
    weight = _floats(constants, place, 1, what)
    if (node.op_type, weight.ndim - 2) not in _OPERATORS:
        raise ValueError(f"{what}: its weight has shape {weight.shape}: it must have 1 to 3 spatial axes")
    check_axes(place, weight.ndim - 2, what)
    attributes = Attributes.of(node, weight.shape[2:], what)
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = _floats(constants, place, 2, what)
        channels = weight.shape[1] * attributes.groups if attributes.transposed else weight.shape[0]
        if bias.shape != (channels,):
            raise ValueError(f"{what}: its bias has shape {bias.shape}: it must be ({channels},), one for each channel")
    pads = attributes.same_pads()
    if pads:
        kept = [attribute for attribute in node.attribute if attribute.name != "auto_pad"]
        begins, ends = zip(*pads, strict=True)
        del node.attribute[:]
        node.attribute.extend([*kept, make_attribute("pads", [*begins, *ends])])
    return _Convolution(name, weight, bias, attributes)


def _layer(convolution: _Convolution, place: Place, graph: GraphProto) -> Layer[Convolution]:
    """The operator and the offset of a node, whose place is in a graph with shapes."""
    name, weight, attributes = convolution.name, convolution.weight, convolution.attributes
    what = f"{place.node.op_type} {name!r}"
    dims = weight.ndim - 2
    channels = weight.shape[0] if attributes.transposed else weight.shape[1] * attributes.groups
    size = image_size(place, channels, dims, graph, what)
    try:
        operator = _OPERATORS[place.node.op_type, dims](weight, size, **attributes.options(size))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    bias = None
    if convolution.bias is not None:
        bias = convolution.bias.astype(operator.dtype)
        bias.flags.writeable = False
    return Layer(name, operator, bias, tuple(place.node.input), tuple(place.node.output))


def _floats(constants: Constants, place: Place, index: int, what: str) -> NDArray[Any]:
    """The weight (input 1) or the bias (input 2) of a convolution, in the type of its operator."""
    role = f"{what}: its {('weight', 'bias')[index - 1]}"
    tensor = place.node.input[index] if index < len(place.node.input) else ""
    if not tensor:
        raise ValueError(f"{role} is missing")
    try:
        array = constants.value(tensor, place.scope, f"{role} {tensor!r}")
    except NotConstantError as error:
        raise ValueError(str(error)) from error
    if array.dtype.name not in DTYPES:
        raise ValueError(f"{role} {tensor!r} has dtype {array.dtype}: it must be one of {', '.join(DTYPES)}")
    return array.astype(DTYPES[array.dtype.name], copy=False)
