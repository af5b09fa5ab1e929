"""Linear nodes of ONNX models that are no convolutions: each kind against onnxruntime."""

import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from convmat import check_adjoint, norm_bounds
from tests.strategies import tries

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402

from convmat.interop.onnx import from_onnx  # noqa: E402
from convmat.interop.onnx_nodes import READERS  # noqa: E402
from tests.interop.test_onnx import WEIGHT, close, integers, model, runtime, value  # noqa: E402


def one(operator, inputs, constants=(), *, outputs=("y",), opset=21, names=None, **attributes):
    """A model of one node, "node", that takes the inputs, name -> shape, and then the constants, name -> array."""
    constants = {name: np.asarray(array) for name, array in dict(constants).items()}
    names = [*inputs, *constants] if names is None else names
    node = helper.make_node(operator, names, list(outputs), name="node", **attributes)
    return model([node], inputs, outputs, constants, opset=opset)


def agrees(proto, rtol=1e-5):
    """The layer of "node" does to whole numbers what onnxruntime does, and its transpose passes the dot test."""
    layers = from_onnx(proto)
    assert "node" in layers, layers.skipped
    layer = layers["node"]
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    feeds = {name: integers(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    wanted = runtime(proto, feeds)
    images = layer.stack(*(feeds[name] for name in layer.inputs[: layer.arity]))
    made = layer.apply(images)
    assert layer.operator.dtype == np.float32
    assert made.dtype == np.float32
    assert len(wanted) > 1 or made.shape == wanted[0].shape
    close(made.reshape(len(made), -1), np.concatenate([y.reshape(len(y), -1) for y in wanted], axis=1), rtol)
    check_adjoint(layer.operator, trials=1, rng=0)
    return layer


def skipped(proto, **options):
    layers = from_onnx(proto, **options)
    assert "node" not in layers
    return layers.skipped["node"]


INT64 = np.int64
X = (2, 3, 4, 5)

# one node of each kind, and of each of its forms -----------------------------------------------------------------

STATISTICS = {name: np.abs(integers((3,), seed)) + 1 for seed, name in enumerate("sbmv")}

NODES = {
    "Add a constant": one("Add", {"x": X}, {"c": integers((3, 1, 1), 1)}),
    "Add a scalar": one("Add", {"x": X}, {"c": np.float32(3)}),
    "Add a constant with an axis for the batch": one("Add", {"x": X}, {"c": integers((1, 3, 1, 5), 1)}),
    "Add to a constant": one("Add", {"x": X}, {"c": integers((5,), 1)}, names=["c", "x"]),
    "Add a constant that is larger": one("Add", {"x": (2, 3, 1, 5)}, {"c": integers((4, 1), 1)}),
    "Add two": one("Add", {"x": X, "z": X}),
    "Add two that are broadcast": one("Add", {"x": (2, 3, 1, 5), "z": (2, 1, 4, 1)}),
    "Add one twice": one("Add", {"x": X}, names=["x", "x"]),
    "Sum of three and a constant": one("Sum", {"x": X, "z": X, "w": (2, 1, 4, 5)}, {"c": integers((4, 5), 1)}),
    "Mean of two and a constant": one("Mean", {"x": X, "z": X}, {"c": integers((4, 5), 1)}),
    "Sub a constant": one("Sub", {"x": X}, {"c": integers((3, 4, 5), 1)}),
    "Sub from a constant": one("Sub", {"x": X}, {"c": integers((3, 1, 1), 1)}, names=["c", "x"]),
    "Sub two": one("Sub", {"x": X, "z": X}),
    "Neg": one("Neg", {"x": X}),
    "Mul by channel": one("Mul", {"x": X}, {"c": integers((3, 1, 1), 1)}),
    "Mul of a scalar": one("Mul", {"x": X}, {"c": np.float32(3)}, names=["c", "x"]),
    "Mul by a constant that is larger": one("Mul", {"x": (2, 3, 1)}, {"c": integers((1, 3, 4), 1)}),
    "Div": one("Div", {"x": X}, {"c": np.arange(1, 6, dtype=np.float32)}),
    "MatMul from the right": one("MatMul", {"x": X}, {"c": integers((5, 7), 1)}),
    "MatMul of vectors": one("MatMul", {"x": (2, 5)}, {"c": integers((5, 7), 1)}),
    "MatMul by a vector": one("MatMul", {"x": X}, {"c": integers((5,), 1)}),
    "MatMul from the left": one("MatMul", {"x": X}, {"c": integers((7, 4), 1)}, names=["c", "x"]),
    "MatMul of a vector from the left": one("MatMul", {"x": X}, {"c": integers((4,), 1)}, names=["c", "x"]),
    "MatMul of one matrix with more axes": one("MatMul", {"x": X}, {"c": integers((1, 1, 5, 2), 1)}),
    "Gemm": one("Gemm", {"x": (2, 5)}, {"c": integers((5, 3), 1), "b": integers((3,), 2)}, alpha=0.5, beta=2.0),
    "Gemm, transposed": one("Gemm", {"x": (2, 5)}, {"c": integers((3, 5), 1), "b": integers((1, 3), 2)}, transB=1),
    "Gemm with a scalar": one("Gemm", {"x": (2, 5)}, {"c": integers((5, 3), 1), "b": np.float32(3)}),
    "Gemm without an offset": one("Gemm", {"x": (2, 5)}, {"c": integers((5, 3), 1)}),
    "BatchNormalization": one("BatchNormalization", {"x": X}, STATISTICS, epsilon=1e-3),
    "BatchNormalization of vectors": one("BatchNormalization", {"x": (4, 3)}, STATISTICS),
    "GlobalAveragePool": one("GlobalAveragePool", {"x": X}),
    "GlobalAveragePool of a line": one("GlobalAveragePool", {"x": (2, 3, 5)}),
    "ReduceMean": one("ReduceMean", {"x": X}, {"axes": np.array([-1, 1])}),
    "ReduceMean by an attribute": one("ReduceMean", {"x": X}, axes=[2, 3], opset=13),
    "ReduceMean without keepdims": one("ReduceMean", {"x": X}, {"axes": np.array([1, 3])}, keepdims=0),
    "ReduceMean of nothing": one("ReduceMean", {"x": X}, noop_with_empty_axes=1),
    "ReduceSum": one("ReduceSum", {"x": X}, {"axes": np.array([2])}),
    "ReduceSum by an attribute": one("ReduceSum", {"x": X}, axes=[-2], keepdims=0, opset=11),
    "Identity": one("Identity", {"x": X}),
    "Dropout": one("Dropout", {"x": X}),
    "Dropout of opset 7": one("Dropout", {"x": X}, opset=7, ratio=0.3),
    "Dropout that does not train": one("Dropout", {"x": X}, {"r": np.float32(0.5), "t": np.array(False)}),
    "Cast to the same": one("Cast", {"x": X}, to=TensorProto.FLOAT),
    "Reshape": one("Reshape", {"x": X}, {"s": np.array([0, 5, -1])}),
    "Reshape that names the batch": one("Reshape", {"x": X}, {"s": np.array([2, 60])}),
    "Flatten": one("Flatten", {"x": X}),
    "Squeeze": one("Squeeze", {"x": (2, 1, 4, 1)}, {"a": np.array([1, -1])}),
    "Squeeze by an attribute": one("Squeeze", {"x": (2, 1, 4, 1)}, axes=[3], opset=11),
    "Unsqueeze": one("Unsqueeze", {"x": X}, {"a": np.array([1, -1])}),
    "Transpose": one("Transpose", {"x": X}, perm=[0, 3, 1, 2]),
    "DepthToSpace": one("DepthToSpace", {"x": (2, 12, 2, 3)}, blocksize=2),
    "DepthToSpace, CRD": one("DepthToSpace", {"x": (2, 18, 2, 3)}, blocksize=3, mode="CRD"),
    "SpaceToDepth": one("SpaceToDepth", {"x": (2, 3, 4, 6)}, blocksize=2),
    "Slice": one(
        "Slice", {"x": X},
        {"s": np.array([1, -1]), "e": np.array([9, -(2**63)]), "a": np.array([2, 3]), "t": np.array([2, -2])},
    ),
    "Slice of the whole batch": one("Slice", {"x": X}, {"s": np.array([0, 1]), "e": np.array([2**31 - 1, 3])}),
    "Slice of everything": one("Slice", {"x": X}, {"s": np.array([0]), "e": np.array([2**63 - 1]), "a": np.array([3])}),
    "Slice by attributes": one("Slice", {"x": X}, starts=[0, 1], ends=[3, -1], axes=[1, 2], opset=9),
    "Gather": one("Gather", {"x": X}, {"i": np.array([[2, 0], [-1, 2]])}, axis=2),
    "Gather of one": one("Gather", {"x": X}, {"i": np.array(-2)}, axis=-1),
    "Expand": one("Expand", {"x": (2, 1, 4, 1)}, {"s": np.array([3, 1, 5])}),
    "Expand to the same": one("Expand", {"x": X}, {"s": np.array([1])}),
    "Tile": one("Tile", {"x": X}, {"r": np.array([1, 2, 1, 3])}),
    "Tile once": one("Tile", {"x": X}, {"r": np.array([1, 1, 1, 1])}),
    "Concat of channels": one("Concat", {"x": X, "z": (2, 2, 4, 5)}, axis=1),
    "Concat of lines that are alike": one("Concat", {"x": X, "z": X, "w": X}, axis=-2),
    "Concat of lines that differ": one("Concat", {"x": X, "z": (2, 3, 1, 5)}, axis=2),
    "Concat with constants": one(
        "Concat", {"x": (1, 3, 4, 5)}, {"b": integers((1, 3, 4, 2), 1), "c": integers((1, 3, 4, 1), 2)}, axis=3,
        names=["b", "x", "c"],
    ),
    "Concat of one": one("Concat", {"x": X}, axis=1),
    "Concat of one twice": one("Concat", {"x": X}, axis=3, names=["x", "x"]),
    "Split": one("Split", {"x": X}, {"s": np.array([1, 2, 2])}, axis=3, outputs=["a", "b", "c"]),
    "Split of channels": one("Split", {"x": X}, axis=1, num_outputs=3, outputs=["a", "b", "c"]),
    "Split by an attribute": one("Split", {"x": X}, axis=2, split=[1, 3], outputs=["a", "b"], opset=11),
}  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_a_node_is_that_of_onnxruntime(name):
    agrees(NODES[name])


def test_every_kind_is_tested():
    other = {"AveragePool", "Pad", "Resize", "Upsample"}
    assert {name.split(" ")[0].rstrip(",") for name in NODES} == set(READERS) - other


# pools -----------------------------------------------------------------------------------------------------------


@st.composite
def pools(draw):
    dims = draw(st.integers(1, 3))
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]  # noqa: E731
    size, kernel, strides, dilations = each(1, 7), each(1, 3), each(1, 3), each(1, 2)
    attributes = {"kernel_shape": kernel, "count_include_pad": draw(st.integers(0, 1))}
    attributes |= {"strides": strides} if draw(st.booleans()) else {}
    strides = attributes.get("strides", [1] * dims)
    auto_pad = draw(st.sampled_from(["", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    attributes |= {"auto_pad": auto_pad} if auto_pad else {}
    if not auto_pad.startswith("SAME"):
        attributes |= {"dilations": dilations} if draw(st.booleans()) else {}
        attributes["ceil_mode"] = draw(st.integers(0, 1)) if auto_pad != "VALID" else 0
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, attributes.get("dilations", [1] * dims), strict=True)]
    if auto_pad in ("", "NOTSET"):
        pads = [draw(st.integers(0, k - 1)) for _ in range(2) for k in kernel]
        attributes["pads"] = pads
        assume(all(n + a + b >= p for n, a, b, p in zip(size, pads[:dims], pads[dims:], spans, strict=True)))
        # a window that misses the image is 0 in onnxruntime and NaN in the reference evaluator
        assume(all(n >= d for n, d in zip(size, attributes.get("dilations", [1] * dims), strict=True)))
    else:  # onnxruntime crops where the stride jumps over the window
        same = auto_pad.startswith("SAME")
        assume(all(p > s - 2 if same else n >= p for n, s, p in zip(size, strides, spans, strict=True)))
    return one("AveragePool", {"x": (2, 3, *size)}, **attributes)


@tries(200)
@given(pools())
def test_average_pools_are_those_of_onnxruntime(proto):
    agrees(proto)


# resizing --------------------------------------------------------------------------------------------------------

COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


@st.composite
def resizes(draw, mode):
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    attributes = {"mode": mode, "coordinate_transformation_mode": draw(st.sampled_from(COORDINATES))}
    if mode == "nearest":
        attributes["nearest_mode"] = draw(st.sampled_from(ROUNDINGS))
        symmetric = attributes["coordinate_transformation_mode"] == "half_pixel_symmetric"
        assume(not symmetric or "round" in attributes["nearest_mode"])  # onnxruntime rounds 1 to less than 1 there
    if mode == "cubic":
        attributes["cubic_coeff_a"] = draw(st.sampled_from([-0.75, -0.5]))
    wanted = draw(st.tuples(st.integers(1, 17), st.integers(1, 17)))
    scales = draw(st.sampled_from([None, [2.0, 3.0], [0.5, 1.0], [1.7, 0.6], [2.5, 0.75]]))
    if scales is None:
        constants, names = {"sizes": np.array([2, 3, *wanted])}, ["x", "", "", "sizes"]
    else:
        assume(all(n * s >= 1 for n, s in zip(size, scales, strict=True)))
        constants, names = {"scales": np.array([1, 1, *scales], np.float32)}, ["x", "", "scales"]
    return one("Resize", {"x": (2, 3, *size)}, constants, names=names, **attributes)


@tries(200)
@given(resizes("nearest"))
def test_resizing_to_the_nearest_is_that_of_onnxruntime(proto):
    agrees(proto)


@tries(200)
@given(resizes("linear"))
def test_linear_resizing_is_that_of_onnxruntime(proto):
    agrees(proto)


@tries(100)
@given(resizes("cubic"))
def test_cubic_resizing_is_that_of_onnxruntime(proto):
    agrees(proto)


RESIZES = {
    "of opset 10": one("Resize", {"x": X}, {"s": np.array([1, 1, 2, 0.7], np.float32)}, opset=10),
    "of opset 10, linear": one("Resize", {"x": X}, {"s": np.array([1, 1, 2, 3], np.float32)}, opset=10, mode="linear"),
    "of opset 11": one(
        "Resize", {"x": X}, {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 1.5], np.float32)}, opset=11
    ),
    "of opset 11, by sizes": one(
        "Resize",
        {"x": X},
        {"r": np.zeros(0, np.float32), "s": np.zeros(0, np.float32), "m": np.array([2, 3, 9, 2])},
        opset=11,
        coordinate_transformation_mode="tf_half_pixel_for_nn",
    ),
    "of some axes": one(
        "Resize", {"x": X}, {"s": np.array([3, 0.5], np.float32)}, names=["x", "", "s"], axes=[3, 2], mode="linear"
    ),
    "of nothing": one("Resize", {"x": X}, {"s": np.ones(4, np.float32)}, names=["x", "", "s"], mode="linear"),
    "whose size single precision rounds up": one(
        "Resize", {"x": (2, 3, 10, 20)}, {"s": np.array([1, 1, 0.7, 0.35], np.float32)}, names=["x", "", "s"]
    ),
    "by a scale that the sizes do not have": one(
        "Resize", {"x": (1, 1, 1, 7)}, {"s": np.array([1, 1, 1, 1.7], np.float32)}, names=["x", "", "s"], mode="linear"
    ),
    "of each channel": one("Upsample", {"x": X}, {"s": np.array([1, 1, 2, 3], np.float32)}, opset=9),
    "upsampling, linear": one("Upsample", {"x": X}, {"s": np.array([1, 1, 2, 3], np.float32)}, opset=9, mode="linear"),
    "upsampling of opset 7": one("Upsample", {"x": X}, scales=[1.0, 1.0, 3.0, 2.0], opset=7),
}


@pytest.mark.parametrize("name", RESIZES)
def test_resizing_of_every_version_is_that_of_onnxruntime(name):
    agrees(RESIZES[name])


def test_resizing_doubles_the_sizes_that_the_model_computes():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "twice"], ["m"]),
        helper.make_node("Resize", ["x", "", "", "m"], ["y"], "node", mode="linear"),
    ]
    agrees(model(nodes, {"x": X}, ["y"], {"twice": np.array([1, 1, 2, 2])}))


# padding ---------------------------------------------------------------------------------------------------------


@st.composite
def paddings(draw):
    size = draw(st.tuples(*[st.integers(1, 5)] * draw(st.integers(1, 3))))
    mode = draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    most = {"constant": 3, "edge": 3, "wrap": min(size), "reflect": min(size) - 1}[mode]
    pads = [draw(st.integers(-1 if mode == "constant" and n > 2 else 0, most)) for _ in range(2) for n in size]
    n = len(size)
    constants = {"p": np.array([0, *pads[:n], 0, *pads[n:]])}
    if mode == "constant" and draw(st.booleans()):
        constants["v"] = np.float32(draw(st.integers(-3, 3)))
    return one("Pad", {"x": (2, *size)}, constants, mode=mode)


@tries(150)
@given(paddings())
def test_padding_is_that_of_onnxruntime(proto):
    agrees(proto)


def test_padding_of_some_axes_and_by_attributes():
    agrees(one("Pad", {"x": X}, {"p": np.array([1, 2, 0, 1]), "a": np.array([-1, 2])}, names=["x", "p", "", "a"]))
    layer = agrees(one("Pad", {"x": X}, opset=9, pads=[0, 0, 1, 0, 0, 0, 0, 2], value=3.0))
    assert layer.offset is not None
    assert from_onnx(one("Pad", {"x": X}, {"p": np.zeros(8, INT64)}))["node"].offset is None


# what a layer is -------------------------------------------------------------------------------------------------


def test_a_layer_acts_on_its_first_inputs():
    layer = from_onnx(one("Sum", {"x": X, "z": X}, {"c": integers((3, 1, 1), 0)}, names=["x", "c", "z"]))["node"]
    assert (layer.inputs, layer.outputs, layer.arity) == (("x", "z", "c"), ("y",), 2)
    assert layer.bias.shape == (3,)
    assert layer.operator.input_shape == (6, 4, 5)
    x, z = integers(X, 1), integers(X, 2)
    np.testing.assert_array_equal(layer.stack(x, z), np.concatenate([x, z], axis=1))
    with pytest.raises(ValueError, match="images are 1: the layer acts on 2, x, z"):
        layer.stack(x)
    with pytest.raises(ValueError, match=r"images of shapes \(2, 3, 4, 5\), \(2, 3, 4, 4\) have 108 entries"):
        layer.stack(x, z[..., :4])


def test_a_concatenation_is_a_permutation():
    for axis in (1, 2, 3):
        operator = from_onnx(one("Concat", {"x": X, "z": X}, axis=axis))["node"].operator
        matrix = operator.toarray()
        np.testing.assert_array_equal(matrix.sum(axis=0), 1)
        np.testing.assert_array_equal(matrix.sum(axis=1), 1)
        assert norm_bounds(operator)[1] == pytest.approx(1, abs=1e-6)


def test_double_precision_is_kept():
    weight = np.random.default_rng(0).standard_normal((5, 7))
    node = helper.make_node("MatMul", ["x", "W"], ["y"], name="node")
    proto = model([node], {}, ["y"], {"W": weight}, more=[value("x", (2, 5), TensorProto.DOUBLE)])
    x = np.random.default_rng(1).standard_normal((2, 5))
    layer = from_onnx(proto)["node"]
    assert layer.operator.dtype == np.float64
    np.testing.assert_allclose(layer.apply(x), runtime(proto, {"x": x})[0], rtol=0, atol=1e-13)


def test_an_open_batch_is_any_batch():
    for nodes in (
        [helper.make_node("Flatten", ["x"], ["y"], "node")],
        [helper.make_node("Reshape", ["x", "s"], ["y"], "node")],
        [helper.make_node("Slice", ["x", "zero", "end"], ["y"], "node")],
        [helper.make_node("Add", ["x", "x"], ["y"], "node")],
    ):
        constants = {"s": np.array([0, -1]), "zero": np.array([0]), "end": np.array([2**63 - 1])}
        used = {name: array for name, array in constants.items() if name in nodes[0].input}
        proto = model(nodes, {"x": ("N", 3, 4, 5)}, ["y"], used)
        layer = from_onnx(proto)["node"]
        x = integers((7, 3, 4, 5), 0)
        got = layer.apply(layer.stack(*[x] * layer.arity))
        close(got, runtime(proto, {"x": x})[0], 0)


def test_every_node_is_a_layer_or_has_a_reason():
    nodes = [
        helper.make_node("Constant", [], ["c"], value_float=2.0),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Reshape", ["r", "s"], ["h"]),
        helper.make_node("Mul", ["h", "c"], ["m"]),
        helper.make_node("Conv", ["m", "W"], ["k"]),
        helper.make_node("Own", ["k"], ["y"], domain="own"),
    ]
    layers = from_onnx(model(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"W": WEIGHT}, domains=["own"]))
    assert list(layers) == ["h", "m", "k"]
    assert layers.skipped == {
        "c": "it makes a constant",
        "r": "it is not linear, or not an operator that is read",
        "s": "it computes sizes",
        "y": "it is an operator of 'own', not of the standard",
    }


# what is not read ------------------------------------------------------------------------------------------------

V = np.ones(3, np.float32)

SKIPPED = {
    "Mul of two": (one("Mul", {"x": X, "z": X}), "it takes several tensors that depend on the input of the model"),
    "Div by x": (one("Div", {"x": X}, {"c": V[0]}, names=["c", "x"]), "depends on 'x', which is computed"),
    "MatMul of two": (one("MatMul", {"x": (2, 5), "z": (5, 2)}), "several tensors"),
    "MatMul along the batch": (
        one("MatMul", {"x": (4, 5)}, {"c": integers((7, 4), 1)}, names=["c", "x"]),
        "from the left, and so adds up over the batch",
    ),
    "MatMul of many": (one("MatMul", {"x": X}, {"c": integers((3, 5, 2), 1)}), r"shape \(3, 5, 2\): .* one matrix"),
    "Gemm along the batch": (one("Gemm", {"x": (5, 2)}, {"c": integers((5, 2), 1)}, transA=1), "over the batch"),
    "Gemm with an offset for each image": (
        one("Gemm", {"x": (2, 5)}, {"c": integers((5, 3), 1), "b": integers((2, 1), 1)}),
        r"shape \(2, 1\) is another one for each image",
    ),
    "another constant for each image": (one("Add", {"x": X}, {"c": integers((2, 1, 1, 1), 1)}), "for each image of"),
    "a constant with more axes": (one("Add", {"x": X}, {"c": integers((1,) * 5, 1)}), "adds axes to a tensor of 4"),
    "a batch of one beside another": (one("Add", {"x": X, "z": (1, 3, 4, 5)}), "with the same batch first"),
    "a tensor without a batch beside one": (one("Add", {"x": X, "z": (4, 5)}), "equal numbers of axes"),
    "a tensor of one axis": (one("Neg", {"x": (2,)}), r"'x' of shape \(2,\) has no image"),
    "an empty image": (one("Neg", {"x": (2, "N")}), "has open axes: the size of an image is not known"),
    "Concat of batches": (one("Concat", {"x": X, "z": X}, axis=0), "axis 0, that of the batch"),
    "Split of the batch": (one("Split", {"x": X}, axis=0, num_outputs=2, outputs=["a", "b"]), "axis 0"),
    "Transpose of the batch": (one("Transpose", {"x": X}), r"perm=\[3, 2, 1, 0\] moves axis 0"),
    "Reshape of the batch": (one("Reshape", {"x": X}, {"s": np.array([3, 40])}), "go to another image of the batch"),
    "Flatten of the batch": (one("Flatten", {"x": X}, axis=0), "another image of the batch"),
    "Slice of the batch": (
        one("Slice", {"x": X}, {"s": np.array([0]), "e": np.array([1])}),
        "images 0:1:1 of the batch alone",
    ),
    "Gather of the batch": (one("Gather", {"x": X}, {"i": np.array([0])}, axis=0), "axis 0"),
    "Expand of the batch": (one("Expand", {"x": (1, 3)}, {"s": np.array([2, 3])}), "repeats the images"),
    "Tile of the batch": (one("Tile", {"x": (1, 3)}, {"r": np.array([2, 3])}), "repeats the images"),
    "Pad of the batch": (one("Pad", {"x": (1, 3)}, {"p": np.array([1, 0, 0, 0])}), "axis 0"),
    "Resize of the batch": (
        one("Resize", {"x": X}, {"s": np.array([2, 1, 1, 1], np.float32)}, names=["x", "", "s"]),
        "resizes axis 0",
    ),
    "ReduceMean of the batch": (one("ReduceMean", {"x": X}, {"axes": np.array([0])}), "axis 0"),
    "ReduceMean of everything": (one("ReduceMean", {"x": X}), "also axis 0"),
    "ReduceMean of the whole image": (
        one("ReduceMean", {"x": (2, 3)}, {"axes": np.array([1])}, keepdims=0),
        "no axis but that of the batch",
    ),
    "BatchNormalization that trains": (
        one("BatchNormalization", {"x": X}, dict.fromkeys("sbmv", V), training_mode=1, outputs=["y", "m2", "v2"]),
        "training mode",
    ),
    "Dropout that trains": (
        one("Dropout", {"x": X}, {"r": np.float32(0.5), "t": np.array(True)}),
        "training mode, where it is random",
    ),
    "Resize to a part": (
        one("Resize", {"x": X}, {"r": np.zeros(8, np.float32), "s": np.ones(4, np.float32)},
            coordinate_transformation_mode="tf_crop_and_resize"),
        "coordinate_transformation_mode='tf_crop_and_resize' must be one of",
    ),
    "Resize with a filter": (
        one("Resize", {"x": X}, {"s": np.ones(4, np.float32)}, names=["x", "", "s"], mode="linear", antialias=1),
        "antialias=1 is not read",
    ),
    "Cast to fewer digits": (one("Cast", {"x": X}, to=TensorProto.FLOAT16), "makes float16 of float32: it may round"),
    "an old Add": (one("Add", {"x": X}, {"c": V[0]}, opset=6), "version 6 of the operators: Add is read from 7 on"),
}  # fmt: skip


@pytest.mark.parametrize("name", SKIPPED)
def test_what_is_not_linear_for_each_image_has_the_reason(name):
    proto, reason = SKIPPED[name]
    assert re.search(reason, skipped(proto))


# what costs too much ------------------------------------------------------------------------------------------------

FAR = 2**40
HUGE = {
    "pool": one("AveragePool", {"x": (1, 1, FAR, FAR)}, kernel_shape=[2, 2]),
    "pool of a large window": one("AveragePool", {"x": (1, 1, 2**20, 2**20)}, kernel_shape=[2**20, 2**20]),
    "pool beyond its image": one("AveragePool", {"x": (1, 1, 4, 4)}, kernel_shape=[2**10, 2**10], pads=[2**50] * 4),
    "global pool": one("GlobalAveragePool", {"x": (1, 1, FAR, FAR)}),
    "scales": one("Resize", {"x": (1, 1, 4, 4)}, {"s": np.array([1, 1, 1e12, 1], np.float32)}, names=["x", "", "s"]),
    "sizes": one("Resize", {"x": (1, 1, 4, 4)}, {"s": np.array([1, 1, FAR, 1])}, names=["x", "", "", "s"]),
    "pad": one("Pad", {"x": (1, 1, 4, 4)}, {"p": np.array([0, 0, FAR, FAR, 0, 0, FAR, FAR])}),
    "pad with a number": one("Pad", {"x": (1, 1, 4)}, {"p": np.array([0, 0, FAR, 0, 0, FAR]), "v": np.float32(3)}),
    "expand": one("Expand", {"x": (1, 1, 1, 1)}, {"s": np.array([1, 1, FAR, FAR])}),
    "tile": one("Tile", {"x": (1, 1, 1, 1)}, {"r": np.array([1, 1, FAR, FAR])}),
    "slice": one("Slice", {"x": (1, FAR)}, {"s": np.array([0]), "e": np.array([FAR // 2]), "a": np.array([1])}),
    "sum": one("Add", {"x": (1, FAR, FAR)}, {"c": np.ones((1, 1), np.float32)}),
    "product": one("Mul", {"x": (1, FAR, FAR)}, {"c": np.ones((1, 1), np.float32)}),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_no_machine_can_hold_is_passed_over_before_it_is_made(name):
    tracemalloc.start()
    try:
        assert skipped(HUGE[name])
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_the_nodes_of_a_model_share_what_may_be_computed_for_them():
    count = 2000
    nodes = [helper.make_node("Resize", ["x", "", "s"], [f"y{i}"], mode="linear") for i in range(count)]
    scales = {"s": np.array([1, 1, 10_000.0], np.float32)}
    layers = from_onnx(model(nodes, {"x": (1, 1, 4)}, [f"y{i}" for i in range(count)], scales))
    assert 0 < len(layers) < count == len(layers) + len(layers.skipped)
    assert all("all that is computed for the nodes" in reason for reason in layers.skipped.values())
