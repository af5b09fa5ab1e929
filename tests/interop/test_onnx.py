"""The convolutions of ONNX models are those of onnxruntime, of the reference evaluator, and of the standard's cases."""

import dataclasses
import importlib
import importlib.util
import itertools
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from convmat import check_adjoint
from tests.strategies import tries

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from convmat.interop.onnx import Layer, from_onnx  # noqa: E402

onnxruntime.set_default_logger_severity(4)

# models ----------------------------------------------------------------------------------------------------------


def integers(shape, seed, dtype=np.float32):
    """Whole numbers, of which sums of products are exact in every order."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(dtype)


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, constants=(), *, opset=21, domains=(), functions=(), more=()):
    """A model of these nodes; `inputs` is name -> shape, `constants` is name -> array or tensor."""
    tensors = [c if isinstance(c, TensorProto) else numpy_helper.from_array(c, n) for n, c in dict(constants).items()]
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [*(value(*item) for item in dict(inputs).items()), *more],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        tensors,
    )
    versions = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=versions, functions=list(functions), ir_version=10)


def single(operator, shape, weight, bias=None, **attributes):
    """A model of one node, named "node", that reads "x" and makes "y"."""
    names = ["x", "W"] if bias is None else ["x", "W", "b"]
    constants = {"W": weight} if bias is None else {"W": weight, "b": bias}
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    node = helper.make_node(operator, names, ["y"], name="node", **attributes)
    return model([node], {}, ["y"], constants, more=[value("x", shape, kind)])


def runtime(proto, feeds, outputs=None):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outputs, feeds)


def reference(proto, feeds):
    return ReferenceEvaluator(proto).run(None, feeds)


def close(got, want, rtol=1e-5):
    assert got.shape == want.shape
    scale = np.abs(want).max(initial=0)
    np.testing.assert_allclose(got, want, rtol=0, atol=rtol * max(scale, 1e-30))


# single nodes ----------------------------------------------------------------------------------------------------

CLASSES = {
    (operator, dims): f"{operator}{dims}d" for operator in ("Conv", "ConvTranspose") for dims in (1, 2, 3)
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One node: the shapes of its tensors, and its attributes."""

    operator: str
    batch: int
    size: tuple
    weight_shape: tuple
    attributes: dict
    bias: bool
    seed: int

    @property
    def spans(self):
        dilations = self.attributes.get("dilations", [1] * len(self.size))
        return [d * (k - 1) + 1 for d, k in zip(dilations, self.weight_shape[2:], strict=True)]

    @property
    def strides(self):
        return self.attributes.get("strides", [1] * len(self.size))

    @property
    def same(self):
        return self.attributes.get("auto_pad", "").startswith("SAME")

    def build(self, dtype=np.float32):
        groups = self.attributes.get("group", 1)
        transposed = self.operator == "ConvTranspose"
        ins, outs = self.weight_shape[:2] if transposed else self.weight_shape[1::-1]
        channels = (ins, outs * groups) if transposed else (ins * groups, outs)
        shape = (self.batch, channels[0], *self.size)
        bias = integers((channels[1],), self.seed + 2, dtype) if self.bias else None
        proto = single(self.operator, shape, integers(self.weight_shape, self.seed, dtype), bias, **self.attributes)
        return proto, integers(shape, self.seed + 1, dtype)


LARGEST = {1: 9, 2: 6, 3: 4}


@st.composite
def cases(draw, operator, group=3):
    """A legal node of any geometry, often with an attribute left out."""
    dims = draw(st.integers(1, 3))
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]  # noqa: E731
    size = tuple(each(1, LARGEST[dims]))
    kernel = tuple(each(1, 3))
    attributes = {}
    for name, most in (("strides", 3), ("dilations", 2)):
        if draw(st.booleans()):
            attributes[name] = each(1, most)
    if draw(st.booleans()):
        attributes["kernel_shape"] = list(kernel)
    groups = draw(st.integers(1, group))
    if groups > 1 or draw(st.booleans()):
        attributes["group"] = groups
    auto_pad = draw(st.sampled_from(["", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto_pad:
        attributes["auto_pad"] = auto_pad
    if auto_pad in ("", "NOTSET") and draw(st.booleans()):
        attributes["pads"] = each(0, 2) + each(0, 2)
    channels = (groups * draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    case = Case(
        operator, draw(st.integers(1, 2)), size, channels + kernel, attributes, draw(st.booleans()),
        draw(st.integers(0, 10**6)),
    )  # fmt: skip
    if operator == "Conv":
        padded = [n + sum(p) for n, p in zip(size, pairs(attributes, dims), strict=True)]
        assume(case.same or all(p >= span for p, span in zip(padded, case.spans, strict=True)))
        return case
    strides = case.strides
    if draw(st.booleans()):
        attributes["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
    extra = attributes.get("output_padding", [0] * dims)
    full = [(n - 1) * s + span + e for n, s, span, e in zip(size, strides, case.spans, extra, strict=True)]
    if draw(st.booleans()):
        attributes["output_shape"] = [
            draw(st.integers(max(1, f - 5), f + s - 1 - e)) for f, s, e in zip(full, strides, extra, strict=True)
        ]
        attributes.pop("pads", None)
    else:
        assume(all(f > sum(p) for f, p in zip(full, pairs(attributes, dims), strict=True)))
    return case


def pairs(attributes, dims):
    pads = attributes.get("pads", [0] * (2 * dims))
    return list(zip(pads[:dims], pads[dims:], strict=True))


def agrees(case, run, dtype=np.float32, rtol=1e-5):
    """The layer of a node gives what `run` gives, and its transpose passes the dot test."""
    proto, x = case.build(dtype)
    layer = from_onnx(proto)["node"]
    assert type(layer.operator).__name__ == CLASSES[case.operator, len(case.size)]
    assert layer.operator.dtype == dtype
    (want,) = run(proto, {"x": x})
    close(layer.apply(x), want, rtol)
    images = layer.operator.matmat(x.reshape(case.batch, -1).T).T
    offset = 0 if layer.offset is None else layer.offset
    close(images + offset, want.reshape(case.batch, -1), rtol)
    check_adjoint(layer.operator, trials=1, rng=case.seed)


@tries(100)
@given(cases("Conv"))
def test_conv_agrees_with_onnxruntime(case):
    if case.same:  # where it is not the standard: it refuses dilations, and crops if the stride jumps over the kernel
        assume(set(case.attributes.get("dilations", [1])) == {1})
        assume(all(span > s - 2 for span, s in zip(case.spans, case.strides, strict=True)))
    agrees(case, runtime)


@tries(100)
@given(cases("Conv"))
def test_conv_agrees_with_the_reference_evaluator_in_double_precision(case):
    agrees(case, reference, np.float64, 1e-12)


@tries(120)
@given(cases("ConvTranspose"))
def test_conv_transpose_agrees_with_onnxruntime(case):
    agrees(case, runtime)


@tries(100)
@given(cases("ConvTranspose", group=1))
def test_conv_transpose_agrees_with_the_reference_evaluator_in_double_precision(case):
    attributes = case.attributes
    extra = attributes.get("output_padding", [0] * len(case.size))
    full = [(n - 1) * s + span + e for n, s, span, e in zip(case.size, case.strides, case.spans, extra, strict=True)]
    wanted = attributes.get("output_shape", [n * s for n, s in zip(case.size, case.strides, strict=True)])
    # where it is not as the others: output_shape without SAME takes pads, and SAME negative totals
    assume(case.same or "output_shape" not in attributes)
    assume(not case.same or all(f >= n for f, n in zip(full, wanted, strict=True)))
    agrees(case, reference, np.float64, 1e-12)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(
    ("taps", "stride", "extra"), [(3, 2, 0), (4, 3, 0), (4, 1, 0), (2, 2, 0), (3, 2, 1), (2, 3, 2)]
)
def test_same_of_a_transposed_convolution_multiplies_the_size_by_the_stride(auto_pad, taps, stride, extra):
    case = Case(
        "ConvTranspose", 1, (5,), (2, 1, taps),
        {"auto_pad": auto_pad, "strides": [stride], "output_padding": [extra]}, True, taps,
    )  # fmt: skip
    proto, x = case.build()
    layer = from_onnx(proto)["node"]
    assert layer.operator.output_shape == (1, 5 * stride)
    for run in (runtime, reference):
        close(layer.apply(x), run(proto, {"x": x})[0], 0)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("taps", "stride", "extra"), [(1, 3, 0), (1, 2, 0), (2, 4, 1)])
def test_same_of_a_transposed_convolution_never_pads_by_less_than_nothing(auto_pad, taps, stride, extra):
    attributes = {"auto_pad": auto_pad, "strides": [stride], "output_padding": [extra]}
    proto, x = Case("ConvTranspose", 1, (5,), (2, 1, taps), attributes, True, taps).build()
    layer = from_onnx(proto)["node"]
    assert layer.operator.output_shape == (1, 4 * stride + taps + extra)
    close(layer.apply(x), runtime(proto, {"x": x})[0], 0)


def test_same_and_output_shape_give_the_odd_sample_to_the_sides_that_the_standard_says():
    x, W = np.array([[[1, 10, 100]]], np.float32), np.array([[[1, 2, 3]]], np.float32)
    full = np.array([1, 2, 13, 20, 130, 200, 300])  # stride 2
    kept = {"SAME_UPPER": full[:6], "SAME_LOWER": full[1:], "NOTSET": full[1:], "VALID": full[1:]}
    for auto_pad, want in kept.items():
        proto = single("ConvTranspose", x.shape, W, strides=[2], output_shape=[6], auto_pad=auto_pad)
        close(from_onnx(proto)["node"].apply(x).ravel(), want, 0)
        close(runtime(proto, {"x": x})[0].ravel(), want, 0)


def test_output_shape_beyond_the_full_size_adds_zeros_at_the_end():
    x, W = np.array([[[1, 10]]], np.float32), np.array([[[1, 2, 3]]], np.float32)
    for auto_pad in ("NOTSET", "SAME_UPPER", "SAME_LOWER"):
        proto = single("ConvTranspose", x.shape, W, strides=[3], output_shape=[8], auto_pad=auto_pad)
        want = np.array([1, 2, 3, 10, 20, 30, 0, 0])
        close(from_onnx(proto)["node"].apply(x).ravel(), want, 0)
        close(runtime(proto, {"x": x})[0].ravel(), want, 0)


def test_layers_behind_same_with_output_padding_have_the_sizes_of_the_runtime():
    # ONNX shape inference says 3 x 2 + 1 = 7 for the first, the runtime and the standard 6
    weight = integers((1, 1, 3), 0)
    nodes = [
        helper.make_node(
            "ConvTranspose", ["x", "W"], ["u"], "up", auto_pad="SAME_UPPER", strides=[2], output_padding=[1]
        ),
        helper.make_node("Conv", ["u", "W"], ["y"], "down"),
    ]
    proto = model(nodes, {"x": (1, 1, 3)}, ["y"], {"W": weight})
    layers = from_onnx(proto)
    x = integers((1, 1, 3), 1)
    close(layers["down"].apply(layers["up"].apply(x)), runtime(proto, {"x": x})[0], 0)


# the cases of the standard ---------------------------------------------------------------------------------------


def standard_cases():
    collected = importlib.import_module("onnx.backend.test.case.node")
    for name in ("conv", "convtranspose"):
        importlib.import_module(f"onnx.backend.test.case.node.{name}")
    wanted = ("Conv", "ConvTranspose")
    return [c for c in collected._NodeTestCases if c.model and c.model.graph.node[0].op_type in wanted]


@pytest.mark.parametrize("case", standard_cases(), ids=lambda case: case.name)
def test_cases_of_the_standard(case):
    (inputs, outputs), *_ = case.data_sets
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    x, *constants = inputs
    for name, array in zip(proto.graph.node[0].input[1:], constants, strict=True):
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    (layer,) = from_onnx(proto).values()
    close(layer.apply(x), outputs[0], 1e-6)


CONVERTED = sorted(
    path.parent
    for path in (Path(onnx.__file__).parent / "backend" / "test" / "data" / "pytorch-converted").glob("*/model.onnx")
    if path.parent.name.startswith("test_Conv")
)


@pytest.mark.parametrize("folder", CONVERTED, ids=lambda folder: folder.name)
def test_cases_that_onnx_converted_from_pytorch(folder):
    def read(name):
        return numpy_helper.to_array(onnx.load_tensor(folder / "test_data_set_0" / name))

    (layer,) = from_onnx(folder / "model.onnx").values()
    close(layer.apply(read("input_0.pb")), read("output_0.pb"), 2e-6)


def test_there_are_cases():
    assert len(standard_cases()) >= 15
    assert len(CONVERTED) >= 20


# a real model ----------------------------------------------------------------------------------------------------


DETECTOR = {
    "Add": 89, "BatchNormalization": 3, "Concat": 1, "Conv": 62, "ConvTranspose": 2, "Div": 24, "GlobalAveragePool": 10,
    "Mul": 52, "Resize": 6,
}  # fmt: skip
RECOGNISER = {
    "Add": 107, "AveragePool": 1, "BatchNormalization": 6, "Concat": 1, "Conv": 38, "Div": 28, "GlobalAveragePool": 2,
    "MatMul": 9, "Mul": 70, "ReduceMean": 10, "Reshape": 6, "Squeeze": 7, "Sub": 5, "Transpose": 7,
}  # fmt: skip
CLASSIFIER = {
    "Add": 44, "BatchNormalization": 35, "Conv": 53, "Div": 18, "GlobalAveragePool": 10, "Identity": 1, "MatMul": 1,
    "Reshape": 1,
}  # fmt: skip
"""Operator -> how many nodes of it are linear."""


def real_models():
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None:
        return []
    folder = Path(package.origin).parent / "models"
    return [
        pytest.param(folder / "ch_PP-OCRv4_det_infer.onnx", (1, 3, 64, 96), DETECTOR, id="detector"),
        pytest.param(folder / "ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 64), RECOGNISER, id="recogniser"),
        pytest.param(folder / "ch_ppocr_mobile_v2.0_cls_infer.onnx", (2, 3, 48, 64), CLASSIFIER, id="classifier"),
    ]


@pytest.mark.skipif(not real_models(), reason="needs rapidocr-onnxruntime")
@pytest.mark.parametrize(("path", "shape", "kinds"), real_models())
def test_every_layer_of_a_real_model_agrees_with_onnxruntime(path, shape, kinds):
    layers = from_onnx(path, input_shapes={"x": shape})
    proto = onnx.load(path)
    operators = {name: node.op_type for node in proto.graph.node for name in node.output}
    assert Counter(operators[layer.outputs[0]] for layer in layers.values()) == kinds
    wanted = {name for layer in layers.values() for name in (*layer.inputs[: layer.arity], *layer.outputs)} - {"x"}
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    tensors = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    tensors |= dict(zip(sorted(wanted), runtime(proto, tensors), strict=True))
    for layer in layers.values():
        image = layer.stack(*(tensors[name] for name in layer.inputs[: layer.arity]))
        close(layer.apply(image), tensors[layer.outputs[0]], 1e-5)
        check_adjoint(layer.operator, trials=1, rng=0)


# where a model comes from ----------------------------------------------------------------------------------------

WEIGHT = integers((4, 3, 3, 3), 7)


def plain(shape=(1, 3, 8, 8), **attributes):
    return single("Conv", shape, WEIGHT, **attributes)


def test_path_string_bytes_and_model_give_the_same_layers(tmp_path):
    proto = plain()
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    content = path.read_bytes()
    for given_as in (proto, path, str(path), content, bytearray(content), memoryview(content)):
        (layer,) = from_onnx(given_as).values()
        np.testing.assert_array_equal(layer.operator.weight, WEIGHT)
        assert layer.operator.input_shape == (3, 8, 8)


def test_the_model_is_not_changed():
    nodes = [
        helper.make_node("ConvTranspose", ["x", "W"], ["u"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Conv", ["u", "W"], ["y"]),
    ]
    proto = model(nodes, {"x": ("N", 4, "H", "W")}, ["y"], {"W": integers((4, 4, 3, 3), 0)})
    before = proto.SerializeToString(deterministic=True)
    assert len(from_onnx(proto, input_shapes={"x": (1, 4, 5, 6)})) == 2
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("batch", [1, 5, "N", None, 0, -1])
def test_the_batch_may_have_any_size(batch):
    layer = from_onnx(plain((batch, 3, 8, 8)))["node"]
    assert layer.operator.input_shape == (3, 8, 8)
    assert layer.apply(np.zeros((5, 3, 8, 8), np.float32)).shape == (5, 4, 6, 6)


def test_input_shapes_fix_the_sizes_of_all_layers():
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["a"], "first", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "V"], ["y"], "second"),
    ]
    constants = {"W": integers((4, 3, 3, 3), 0), "V": integers((2, 4, 1, 2), 1)}
    proto = model(nodes, {"x": ("N", 3, "H", "W")}, ["y"], constants)
    for height, width in ((8, 12), (9, 21)):
        layers = from_onnx(proto, input_shapes={"x": [1, np.int64(3), height, width]})
        wanted = runtime(proto, {"x": np.zeros((1, 3, height, width), np.float32)})[0].shape[1:]
        assert layers["second"].operator.output_shape == wanted
        assert list(layers) == ["first", "second"]


def test_sizes_that_the_model_computes_from_shapes_are_followed():
    nodes = [
        helper.make_node("Shape", ["x"], ["s64"]),
        helper.make_node("Cast", ["s64"], ["s32"], to=TensorProto.INT32),
        helper.make_node("Slice", ["s32", "two", "four"], ["size"]),
        helper.make_node("Div", ["size", "half"], ["halves"]),
        helper.make_node("Cast", ["halves"], ["halves64"], to=TensorProto.INT64),
        helper.make_node("Concat", ["head", "halves64"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["h"]),
        helper.make_node("Conv", ["h", "W"], ["y"], "node"),
    ]
    constants = {
        "two": np.array([2]), "four": np.array([4]), "half": np.array([2, 2], np.int32), "head": np.array([1, -1]),
        "W": integers((2, 12, 3, 2), 0),
    }  # fmt: skip
    proto = model(nodes, {"x": ("N", 3, "H", "W")}, ["y"], constants)
    x = integers((1, 3, 8, 12), 1)
    layer = from_onnx(proto, input_shapes={"x": x.shape})["node"]
    assert layer.operator.input_shape == (12, 4, 6)
    close(layer.apply(x.reshape(1, 12, 4, 6)), runtime(proto, {"x": x})[0], 0)


def test_an_input_without_a_shape_takes_the_given_one():
    proto = plain()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert from_onnx(proto, input_shapes={"x": (1, 3, 5, 6)})["node"].operator.input_shape == (3, 5, 6)


# names -----------------------------------------------------------------------------------------------------------


def test_keys_of_nodes_without_a_name_and_of_nodes_with_the_same_name():
    def node(source, target, name):
        return helper.make_node("Conv", [source, "W"], [target], name, pads=[1, 1])

    chain = [("x", "a", ""), ("a", "b", "same"), ("b", "c", "same"), ("c", "d", "a"), ("d", "y", "same")]
    proto = model([node(*each) for each in chain], {"x": (1, 1, 8)}, ["y"], {"W": integers((1, 1, 3), 0)})
    layers = from_onnx(proto)
    assert list(layers) == ["a", "same", "same#2", "a#2", "same#3"]
    assert [layer.name for layer in layers.values()] == list(layers)
    assert [layer.outputs for layer in layers.values()] == [("a",), ("b",), ("c",), ("d",), ("y",)]
    assert layers["a#2"].inputs == ("c", "W")


# weights ---------------------------------------------------------------------------------------------------------

CODES = integers((4, 3, 3, 3), 3, np.int8)
SCALE = np.float32(0.037)
SCALES = np.array([0.1, 0.37, 0.011, 1.3], np.float32)
FLOATS = (integers((4, 3, 3, 3), 4) * np.float32(0.07)).astype(np.float32)
INT64 = np.int64

CHAINS = {
    "Constant": [("Constant", [], {"value": numpy_helper.from_array(WEIGHT)})],
    "Identity twice": [("Identity", ["weight"], {}), ("Identity", [], {})],
    "Cast from float16": [("Cast", ["half"], {"to": TensorProto.FLOAT})],
    "Cast to float16 and back": [
        ("Cast", ["floats"], {"to": TensorProto.FLOAT16}),
        ("Cast", [], {"to": TensorProto.FLOAT}),
    ],
    "DequantizeLinear": [("DequantizeLinear", ["codes", "scale", "zero"], {})],
    "DequantizeLinear by channel": [("DequantizeLinear", ["codes", "scales"], {"axis": 0})],
    "DequantizeLinear of Constant": [
        ("Constant", [], {"value": numpy_helper.from_array(CODES)}),
        ("DequantizeLinear", [..., "scale"], {}),
    ],
    "QuantizeLinear, DequantizeLinear": [
        ("QuantizeLinear", ["floats", "scales", "zeros"], {"axis": 0}),
        ("DequantizeLinear", [..., "scales", "zeros"], {"axis": 0}),
    ],
    "Reshape": [("Reshape", ["flat", "shape"], {})],
    "Transpose": [("Transpose", ["last"], {"perm": [3, 2, 0, 1]})],
    "Unsqueeze, Squeeze": [("Unsqueeze", ["weight", "axes"], {}), ("Squeeze", [..., "axes"], {})],
    "ConstantOfShape": [("ConstantOfShape", ["shape"], {"value": numpy_helper.from_array(SCALE.reshape(1))})],
}  # fmt: skip

CONSTANTS = {
    "weight": WEIGHT,
    "half": (WEIGHT / 7).astype(np.float16),
    "floats": FLOATS,
    "codes": CODES,
    "scale": SCALE,
    "scales": SCALES,
    "zero": np.int8(3),
    "zeros": np.array([0, 3, -5, 1], np.int8),
    "flat": WEIGHT.ravel(),
    "shape": np.array([4, 3, 3, 3], INT64),
    "last": np.ascontiguousarray(WEIGHT.transpose(2, 3, 1, 0)),
    "axes": np.array([0], INT64),
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_weights_behind_exact_operators_are_those_of_the_runtime(chain):
    nodes, last = [], ""
    for i, (operator, names, attributes) in enumerate(chain):
        sources = [last if name is ... else name for name in names] or ([last] if i else [])
        nodes.append(helper.make_node(operator, sources, [f"w{i}"], **attributes))
        last = f"w{i}"
    nodes.append(helper.make_node("Conv", ["x", last], ["y"], "node"))
    used = {name for node in nodes for name in node.input}
    constants = {name: np.asarray(array) for name, array in CONSTANTS.items() if name in used}
    proto = model(nodes, {"x": (1, 3, 8, 8)}, ["y"], constants)
    proto.graph.output.append(onnx.ValueInfoProto(name=last))
    weight, offset = runtime(proto, {"x": np.zeros((1, 3, 8, 8), np.float32)}, [last, "y"])
    layer = from_onnx(proto)["node"]
    np.testing.assert_array_equal(layer.operator.weight, weight)
    assert layer.operator.dtype == np.float32
    assert not offset.any()


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=["float16", "bfloat16"])
def test_short_floats_become_float32_exactly(kind):
    bits = np.arange(1, 2**16, 41, dtype=np.uint16)
    if kind == TensorProto.BFLOAT16:
        exact = (bits.astype(np.uint32) << 16).view(np.float32)
    else:
        sign, exponent, fraction = bits >> 15, (bits >> 10 & 31).astype(int), bits & 1023
        exact = (
            np.where(exponent > 0, 1024 + fraction, fraction) * 2.0 ** (np.maximum(exponent, 1) - 25) * (-1.0) ** sign
        )
    finite = np.isfinite(exact) if kind == TensorProto.BFLOAT16 else (bits >> 10 & 31) < 31
    bits, exact = bits[finite], exact[finite]
    tensor = TensorProto(name="W", data_type=kind, dims=[1, 1, len(bits)], raw_data=bits.tobytes())
    bias = TensorProto(name="b", data_type=kind, dims=[1], raw_data=bits[:1].tobytes())
    node = helper.make_node("Conv", ["x", "W", "b"], ["y"], "node")
    proto = model([node], {}, ["y"], {"W": tensor, "b": bias}, opset=22, more=[value("x", (1, 1, len(bits)), kind)])
    layer = from_onnx(proto)["node"]
    assert layer.operator.dtype == layer.offset.dtype == np.float32
    np.testing.assert_array_equal(layer.operator.weight.ravel(), exact)
    np.testing.assert_array_equal(layer.offset, exact[:1])


def test_the_offset_is_the_bias_of_each_channel_once_for_every_sample():
    bias = integers((4,), 1)
    layer = from_onnx(single("Conv", (1, 3, 8, 8), WEIGHT, bias))["node"]
    np.testing.assert_array_equal(layer.offset.reshape(4, 6, 6), np.broadcast_to(bias[:, None, None], (4, 6, 6)))
    assert not layer.offset.flags.writeable
    assert from_onnx(plain())["node"].offset is None


def test_an_omitted_bias_is_none():
    proto = model([helper.make_node("Conv", ["x", "W", ""], ["y"], "node")], {"x": (1, 3, 8, 8)}, ["y"], {"W": WEIGHT})
    layer = from_onnx(proto)["node"]
    assert layer.offset is None
    assert layer.inputs == ("x", "W", "")


def test_an_initialiser_that_is_an_input_too_is_taken_at_its_default():
    proto = plain()
    proto.graph.input.append(value("W", WEIGHT.shape))
    np.testing.assert_array_equal(from_onnx(proto)["node"].operator.weight, WEIGHT)


def external(tmp_path):
    proto = plain()
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_is_read_beside_the_model(tmp_path):
    np.testing.assert_array_equal(from_onnx(external(tmp_path))["node"].operator.weight, WEIGHT)


def test_external_data_of_a_model_without_a_path_is_refused(tmp_path):
    content = external(tmp_path).read_bytes()
    with pytest.raises(
        ValueError, match=r"its weight 'W' is in the external file 'weights.bin'.*give the path of the model"
    ):
        from_onnx(content)


def test_a_missing_external_file_is_named(tmp_path):
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ValueError, match=r"'W' is in the external file 'weights.bin', which cannot be read"):
        from_onnx(path)


# graphs in graphs ------------------------------------------------------------------------------------------------


def branch(name, weight, **attributes):
    nodes = [
        helper.make_node("Conv", ["h", weight], [f"c_{name}"], "conv", **attributes),
        helper.make_node("Relu", [f"c_{name}"], [f"r_{name}"]),
    ]
    return helper.make_graph(
        nodes, name, [], [value(f"r_{name}", None)], [numpy_helper.from_array(WEIGHT * 2, f"V_{name}")]
    )


@pytest.mark.parametrize("name", ["choose", ""])
def test_convolutions_in_branches_are_found_with_the_names_around_them(name):
    then, other = branch("then", "W", pads=[1, 1, 1, 1]), branch("else", "V_else", strides=[2, 2])
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("If", ["flag"], ["y"], name, then_branch=then, else_branch=other),
    ]
    flag = value("flag", (), TensorProto.BOOL)
    proto = model(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"W": WEIGHT}, more=[flag])
    layers = from_onnx(proto)
    outer = name or "y"
    assert set(layers) == {f"{outer}/then_branch/conv", f"{outer}/else_branch/conv"}
    x = integers((1, 3, 8, 8), 3)
    for chosen, key in ((True, "then_branch"), (False, "else_branch")):
        want = runtime(proto, {"x": x, "flag": np.array(chosen)})[0]
        close(np.maximum(layers[f"{outer}/{key}/conv"].apply(np.maximum(x, 0)), 0), want, 0)


def test_a_size_that_changes_in_a_loop_is_refused():
    body = helper.make_graph(
        [helper.make_node("Conv", ["state", "W"], ["next"], "conv"), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [value("i", (), TensorProto.INT64), value("go", (), TensorProto.BOOL), value("state", None)],
        [value("on", (), TensorProto.BOOL), value("next", None)],
    )
    nodes = [helper.make_node("Loop", ["count", "", "x"], ["y"], "loop", body=body)]
    constants = {"W": integers((1, 1, 3), 0), "count": np.array(2, INT64)}
    proto = model(nodes, {"x": (1, 1, 9)}, ["y"], constants)
    assert runtime(proto, {"x": np.zeros((1, 1, 9), np.float32)})[0].shape == (1, 1, 5)
    with pytest.raises(ValueError, match=r"Conv 'loop/body/conv' reads 'state', whose shape is not known"):
        from_onnx(proto)


def test_convolutions_in_functions_of_the_model_are_found():
    inner = helper.make_node("Conv", ["a", "w"], ["c"], "conv")
    inner.attribute.append(onnx.AttributeProto(name="strides", ref_attr_name="step", type=onnx.AttributeProto.INTS))
    function = helper.make_function(
        "own", "Block", ["a", "w"], ["r"], [inner, helper.make_node("Relu", ["c"], ["r"])],
        [helper.make_opsetid("", 21)], ["step"],
    )  # fmt: skip
    nodes = [
        helper.make_node("Block", ["x", "W"], ["u"], "one", domain="own", step=[2, 2]),
        helper.make_node("Block", ["u", "V"], ["y"], "two", domain="own", step=[1, 1]),
    ]
    constants = {"W": WEIGHT, "V": integers((2, 4, 3, 3), 1)}
    proto = model(nodes, {"x": (1, 3, 12, 12)}, ["y"], constants, domains=["own"], functions=[function])
    layers = list(from_onnx(proto).values())
    x = integers((1, 3, 12, 12), 2)
    assert [layer.operator.geometry.stride for layer in layers] == [(2, 2), (1, 1)]
    y = x
    for layer in layers:
        y = np.maximum(layer.apply(y), 0)
    close(y, runtime(proto, {"x": x})[0], 1e-6)


# what is refused -------------------------------------------------------------------------------------------------


def conv_of(*nodes, inputs=None, constants=None, **options):
    """A model with these nodes before the convolution "node" of "h"; "W" is an initialiser unless they make it."""
    made = {name for node in nodes for name in node.output}
    source = "h" if "h" in made else "x"
    known = {} if "W" in made else {"W": WEIGHT}
    conv = helper.make_node("Conv", [source, "W"], ["y"], "node")
    return model([*nodes, conv], inputs or {"x": (1, 3, 8, 8)}, ["y"], known | (constants or {}), **options)


def with_sparse_weight():
    proto = model([helper.make_node("Conv", ["x", "W"], ["y"], "node")], {"x": (1, 1, 8)}, ["y"])
    values, indices = (
        helper.make_tensor("W", TensorProto.FLOAT, [1], [2.0]),
        helper.make_tensor("", TensorProto.INT64, [1], [1]),
    )
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1, 1, 3]))
    return proto


def quantised():
    node = helper.make_node("QLinearConv", ["q", "s", "z", "qw", "s", "z", "s", "z"], ["qy"], "q1")
    other = helper.make_node("ConvInteger", ["q", "qw"], ["iy"], "q2")
    constants = {"s": np.float32(1), "z": np.uint8(0), "qw": np.ones((1, 1, 3), np.uint8)}
    return model([node, other], {}, ["qy", "iy"], constants, more=[value("q", (1, 1, 8), TensorProto.UINT8)])


def fused():
    node = helper.make_node("FusedConv", ["x", "W"], ["y"], "f", domain="com.microsoft", activation="Relu")
    return model([node], {"x": (1, 3, 8, 8)}, ["y"], {"W": WEIGHT}, domains=["com.microsoft"])


def foreign():
    node = helper.make_node("Conv", ["x", "W"], ["y"], "f", domain="com.microsoft.nchwc")
    return model([node], {"x": (1, 3, 8, 8)}, ["y"], {"W": WEIGHT}, domains=["com.microsoft.nchwc"])


def run_time_shape():
    resize = helper.make_node("Resize", ["x", "", "", "sizes"], ["h"])
    return conv_of(resize, more=[value("sizes", (4,), TensorProto.INT64)])


def conv(names="x W", **inputs):
    """A model of one convolution, of tensors that are inputs unless they are initialisers of it."""
    known = {} if "W" in inputs or "W" not in names else {"W": WEIGHT}
    return model([helper.make_node("Conv", names.split(), ["y"], "node")], inputs, ["y"], known)


def strange():
    return conv_of(helper.make_node("Strange", ["x"], ["h"], domain="own"), domains=["own"])


def computed():
    return conv_of(helper.make_node("Mul", ["V", "V"], ["W"], "square"), constants={"V": WEIGHT})


def behind_identity():
    inputs = {"x": (1, 3, 8, 8), "V": (4, 3, 3, 3)}
    return conv_of(helper.make_node("Identity", ["V"], ["W"]), inputs=inputs)


def transposed(**attributes):
    return single("ConvTranspose", (1, 4, 8, 8), WEIGHT, **attributes)


X = (1, 3, 8, 8)

REFUSED = {
    "open axes": (
        conv(x=("N", 3, "H", None)),
        r"Conv 'node' reads 'x' of shape \(\?, 3, \?, \?\), whose axes 2, 3 are open: "
        r"pass input_shapes=\{'x': \(N, 3, H, \?\)\}",
    ),
    "one open axis": (conv(x=(1, 3, 8, "width")), r"\(1, 3, 8, \?\), whose axis 3 is open: .*\(1, 3, 8, width\)"),
    "no shape": (conv(x=None), r"reads 'x', whose shape is not known: pass input_shapes=\{'x': \(\.\.\.\)\}"),
    "shape at run time": (run_time_shape(), r"whose axes 2, 3 are open: all inputs of the model are fixed"),
    "unknown operator": (strange(), r"reads 'h', whose shape is not known: all inputs of the model are fixed"),
    "wrong channels": (conv(x=(1, 4, 8, 8)), r"\(1, 4, 8, 8\), but its weight is for 3 channels"),
    "wrong number of axes": (
        conv(x=(1, 3, 8)),
        r"Conv 'node' reads 'x' of shape \(1, 3, 8\): for a kernel of 2 axes it must have 4, batch and channels first",
    ),
    "kernel too large": (conv(x=(1, 3, 2, 8)), "Conv 'node': weight has the kernel size 3 x 3"),
    "weight is an input": (conv(x=X, W=(4, 3, 3, 3)), "Conv 'node': its weight 'W' is an input of the graph"),
    "weight behind an input": (behind_identity(), "its weight 'W' is an input of the graph"),
    "weight is computed": (computed(), "its weight 'W' is computed when the model runs, by Mul 'square'"),
    "bias is an input": (conv("x W b", x=X, b=(4,)), "Conv 'node': its bias 'b' is an input of the graph"),
    "bias of a wrong shape": (
        single("Conv", X, WEIGHT, WEIGHT[0, 0, 0]),
        r"its bias has shape \(3,\): it must be \(4,\)",
    ),
    "no weight": (conv("x", x=X), "Conv 'node': its weight is missing"),
    "sparse weight": (with_sparse_weight(), "its weight 'W' is a sparse tensor"),
    "integer weight": (
        single("Conv", X, WEIGHT.astype(np.int32)),
        "its weight 'W' has dtype int32: it must be one of float64, float32, float16, bfloat16",
    ),
    "four spatial axes": (
        single("Conv", (1, 1, 3, 3, 3, 3), np.ones((1, 1, 2, 2, 2, 2), np.float32)),
        r"its weight has shape \(1, 1, 2, 2, 2, 2\): it must have 1 to 3 spatial axes",
    ),
    "quantised": (
        quantised(),
        r"QLinearConv rounds to integers.*\(nodes 'q1'\); ConvInteger rounds to integers.*\(nodes 'q2'\)",
    ),
    "fused": (fused(), r"com.microsoft.FusedConv is an operator of one runtime.*\(nodes 'f'\)"),
    "of another domain": (foreign(), "com.microsoft.nchwc.Conv is an operator of one runtime"),
    "auto_pad": (
        plain(auto_pad="SAME"),
        "auto_pad='SAME' must be one of 'NOTSET', 'VALID', 'SAME_UPPER', 'SAME_LOWER'",
    ),
    "pads and auto_pad": (
        plain(auto_pad="VALID", pads=[0, 0, 0, 0]),
        r"pads=\[0, 0, 0, 0\] and auto_pad='VALID' exclude each other",
    ),
    "negative pads": (plain(pads=[-1, 0, 0, 0]), r"pads=\[-1, 0, 0, 0\] must not be negative"),
    "kernel_shape": (plain(kernel_shape=[3, 2]), r"kernel_shape=\[3, 2\] is not that of its weight, \[3, 3\]"),
    "output_shape too large": (transposed(output_shape=[11, 10]), r"ConvTranspose 'node': output_padding=\(1, 0\)"),
    "group": (single("Conv", (1, 9, 8, 8), WEIGHT, group=3), "Conv 'node': groups=3 must divide the 4 channels"),
    "no graph": (onnx.ModelProto(), "model is no ONNX model: it has no graph"),
    "empty bytes": (b"", "model is no ONNX model"),
    "other bytes": (b"\xff" * 64, "model is no ONNX model"),
} | {
    f"{name} of a wrong length": (
        transposed(**{name: [1, 1, 1]}),
        rf"ConvTranspose 'node': {name}=\[1, 1, 1\] must have {n}",
    )
    for name, n in {
        "pads": 4,
        "strides": 2,
        "dilations": 2,
        "kernel_shape": 2,
        "output_padding": 2,
        "output_shape": 2,
    }.items()
}


@pytest.mark.parametrize(("refused", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_by_a_message_that_says_why(refused, message):
    with pytest.raises(ValueError, match=message):
        from_onnx(refused)


# broken and hostile models ---------------------------------------------------------------------------------------


def chain_of_identities(length):
    names = ["V", *(f"v{i}" for i in range(1, length)), "W"]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    return conv_of(*nodes, constants={"V": WEIGHT})


def circle():
    return conv_of(helper.make_node("Identity", ["V"], ["W"], "one"), helper.make_node("Identity", ["W"], ["V"], "two"))


def of_data_type(number):
    proto = plain()
    proto.graph.initializer[0].data_type = number
    return proto


def of_dims(*dims):
    proto = plain()
    proto.graph.initializer[0].dims[:] = dims
    return proto


def made_by(operator, *inputs, shape=(), **attributes):
    """A convolution whose weight a node of this operator, named "maker", makes of "V" or of "shape"."""
    node = helper.make_node(operator, inputs, ["W"], "maker", **attributes)
    return conv_of(node, constants={"V": WEIGHT, "shape": np.array(shape, np.int64)})


def resized_by(*nodes):
    """A convolution of "h", which is the image in the shape "s"."""
    return conv_of(*nodes, helper.make_node("Reshape", ["x", "s"], ["h"]))


def with_bytes(old, new):
    """A model in whose file these bytes are others."""
    node = helper.make_node("Conv", ["x", "W"], ["y"], "NNNN", auto_pad="AAAA")
    return model([node], {"x": ("DDDD", 3, 8, 8)}, ["y"], {"W": WEIGHT}).SerializeToString().replace(old, new)


def nested_functions(calls, depth):
    """Functions that call each other so many times; the model calls the first."""

    def body(name, domain):
        names = ["a", *(f"t{i}" for i in range(1, calls)), "b"]
        return [helper.make_node(name, [a], [b], domain=domain) for a, b in itertools.pairwise(names)]

    versions = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    bodies = [body(f"F{i + 1}", "own") for i in range(depth - 1)] + [body("Relu", "")]
    functions = [helper.make_function("own", f"F{i}", ["a"], ["b"], nodes, versions) for i, nodes in enumerate(bodies)]
    call = helper.make_node("F0", ["x"], ["h"], domain="own")
    return conv_of(call, domains=["own"], functions=functions)


def functions_in_a_circle():
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function("own", name, ["a"], ["b"], [helper.make_node(other, ["a"], ["b"], domain="own")], versions)
        for name, other in [("One", "Two"), ("Two", "One")]
    ]
    return conv_of(helper.make_node("One", ["x"], ["h"], domain="own"), domains=["own"], functions=functions)


def concatenated(times, depth):
    """An image in the shape of a concatenation of its own shape, of so many concatenations, ..."""
    names = [*(f"s{i}" for i in range(depth)), "s"]
    nodes = [helper.make_node("Shape", ["x"], ["s0"])]
    nodes += [helper.make_node("Concat", [a] * times, [b], f"to {b}", axis=0) for a, b in itertools.pairwise(names)]
    return resized_by(*nodes)


def sizes_in_a_row(times):
    """An image that is reshaped so many times, each time by a division of its shape."""
    nodes = []
    for a, b in itertools.pairwise(["x", *(f"h{i}" for i in range(1, times)), "h"]):
        nodes += [
            helper.make_node("Shape", [a], [f"s {b}"]),
            helper.make_node("Div", [f"s {b}", "one"], [f"d {b}"]),
            helper.make_node("Reshape", [a, f"d {b}"], [b]),
        ]
    return conv_of(*nodes, constants={"one": np.array([1])})


LONG_SHAPE = value("n", (2**40,), TensorProto.INT64)
ZEROS = np.zeros((1, 1), np.int64)

NOT_STANDARD = "breaks the rules of the standard: "
TOO_LONG = r"numbers: all constants that are computed may have 268435456 bytes"

BROKEN = {
    "a circle of Identity": (circle(), r"Conv 'node': its weight 'W' depends on itself, by Identity '(one|two)'"),
    "a node that reads itself": (made_by("Identity", "W"), "its weight 'W' depends on itself, by Identity 'maker'"),
    "data type 99": (of_data_type(99), "Conv 'node': its weight 'W' has data_type=99, which is none of the standard"),
    "no data type": (of_data_type(0), "Conv 'node': its weight 'W', of dims="),
    "more entries than bytes": (of_dims(2**40), rf"Conv 'node': its weight 'W', of dims=\[{2**40}\], cannot be read"),
    "negative dims": (of_dims(-4, -3, 3, 3), r"Conv 'node': its weight 'W' has dims=\[-4, -3, 3, 3\]: they must not"),
    "Cast to 99": (
        made_by("Cast", "V", to=99),
        r"Conv 'node': its weight 'W' is made by Cast 'maker' \(to=99\), which",
    ),
    "Cast to text": (made_by("Cast", "V", to=TensorProto.STRING), r"made by Cast 'maker' \(to=8\), .* it gives text"),
    "Cast to nothing": (made_by("Cast", "V"), f"made by Cast 'maker', .*{NOT_STANDARD}.*Required attribute 'to'"),
    "Identity of nothing": (made_by("Identity"), f"made by Identity 'maker', .*{NOT_STANDARD}.* input size 0"),
    "Constant without a value": (made_by("Constant"), "Conv 'node': its weight 'W' is made by Constant 'maker', which"),
    "Transpose along axis 9": (
        made_by("Transpose", "V", perm=[0, 1, 2, 9]),
        r"made by Transpose 'maker' \(perm=\[0, 1, 2, 9\]\), which cannot be computed: ",
    ),
    "Shape of nothing": (
        resized_by(helper.make_node("Shape", [], ["s"], "maker")),
        f"Shape 'maker' {NOT_STANDARD}.* input size 0",
    ),
    "the shape of a Constant without a value": (
        resized_by(helper.make_node("Constant", [], ["s"], "maker")),
        "[Cc]onstant.*'?maker",
    ),
    "integer auto_pad": (plain(auto_pad=3), "Conv 'node': auto_pad=3 is of type INT: it must be STRING"),
    "integer strides": (plain(strides=3), "Conv 'node': strides=3 is of type INT: it must be INTS"),
    "strides of floats": (
        plain(strides=[1.5, 2.0]),
        r"Conv 'node': strides=\[1.5, 2.0\] is of type FLOATS: it must be",
    ),
    "strides of text": (plain(strides="ab"), "Conv 'node': strides=b'ab' is of type STRING: it must be INTS"),
    "strides of 0": (plain(strides=[0, 1]), r"Conv 'node': strides=\[0, 1\] must not be below 1"),
    "group of text": (plain(group="one"), "Conv 'node': group=b'one' is of type STRING: it must be INT"),
    "group of 0": (plain(group=0), "Conv 'node': group=0 must not be below 1"),
    "kernel_shape that is a tensor": (
        plain(kernel_shape=numpy_helper.from_array(WEIGHT)),
        "Conv 'node': kernel_shape is of type TENSOR: it must be INTS",
    ),
    "integer output_shape": (transposed(output_shape=9), "ConvTranspose 'node': output_shape=9 is of type INT"),
    "bytes in auto_pad": (with_bytes(b"AAAA", b"\xff\xfe\x1b["), r"Conv 'NNNN': auto_pad='\\+xff\\+xfe\\x1b\["),
    "bytes in a name": (with_bytes(b"NNNN", b"\xff\xfe\x1b["), r"text that is not UTF-8: onnx.NodeProto.name=b'\\xff"),
    "bytes in an axis": (
        with_bytes(b"DDDD", b"\xff\xfe\x1b["),
        r"not UTF-8: onnx.TensorShapeProto.Dimension.dim_param",
    ),
    "an attribute that Relu does not have": (
        conv_of(helper.make_node("Relu", ["x"], ["h"], "before", slope=2)),
        rf"Relu 'before' \(slope=2\) {NOT_STANDARD}.*slope",
    ),
    "a convolution that makes nothing": (
        model([helper.make_node("Conv", ["x", "W"], [], "node")], {"x": X}, [], {"W": WEIGHT}),
        f"Conv 'node' {NOT_STANDARD}.* output size 0",
    ),
    "a tensor made twice": (
        conv_of(helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Abs", ["x"], ["h"])),
        "model makes the tensor 'h' twice",
    ),
    "functions in a circle": (functions_in_a_circle(), "model has a function '(One|Two)' that calls itself"),
    "functions of 9^9 nodes": (
        nested_functions(9, 9),
        r"functions that become \d{9} nodes and \d+ bytes .*at most 65536",
    ),
    "functions of 2^90 nodes": (nested_functions(2, 90), r"functions that become \d{28} nodes and \d+ bytes"),
    "Concat of 8^9 numbers": (concatenated(8, 9), rf"Concat 'to s\d?' \(axis=0\), which computes \d+ {TOO_LONG}"),
    "Concat of 2^90 numbers": (concatenated(2, 90), r"Concat\W.*to s\d\d"),
    "the numbers of an input of 2^40": (
        conv_of(helper.make_node("Expand", ["x", "n"], ["h"], "maker"), inputs={"x": X}, more=[LONG_SHAPE]),
        f"Expand 'maker' makes a tensor of {2**40} axes: at most 1024 are read",
    ),
    "batch axes below 0": (
        conv_of(helper.make_node("GatherND", ["x", "i"], ["h"], "maker", batch_dims=-99), constants={"i": ZEROS}),
        rf"GatherND 'maker' \(batch_dims=-99\) {NOT_STANDARD}batch_dims must be in 0",
    ),
    "more outputs than parts": (
        conv_of(helper.make_node("Split", ["x"], ["h", "k"], "maker", axis=1, num_outputs=1)),
        rf"Split 'maker' \(axis=1, num_outputs=1\) {NOT_STANDARD}num_outputs must be in 2..2",
    ),
    "an axis of 2^31": (
        conv_of(helper.make_node("LayerNormalization", ["x", "W", "W"], ["h", "k"], "maker", axis=2**31)),
        rf"LayerNormalization 'maker' \(axis={2**31}\) {NOT_STANDARD}axis must be in -1024..1023",
    ),
    "text that has no tensor": (
        conv_of(helper.make_node("RegexFullMatch", [""], ["h"], "maker")),
        f"RegexFullMatch 'maker' {NOT_STANDARD}.*input 0",
    ),
    "ConstantOfShape of 6 GB": (
        made_by("ConstantOfShape", "shape", shape=(1, 3, 2**15, 15000)),
        rf"Conv 'node': its weight 'W' is made by ConstantOfShape 'maker', which computes 1474560000 {TOO_LONG}",
    ),
    "ConstantOfShape of 2^120 numbers": (
        made_by("ConstantOfShape", "shape", shape=(2**60, 2**60)),
        rf"made by ConstantOfShape 'maker', which computes {2**120} {TOO_LONG}",
    ),
    "ConstantOfShape of a complex shape": (
        conv_of(
            helper.make_node("ConstantOfShape", ["shape"], ["W"], "maker"),
            constants={"shape": np.array([4, 3, 3, 3], np.complex64)},
        ),
        "made by ConstantOfShape 'maker', which cannot be computed: it has a shape of complex64",
    ),
    "blocks of 2^40": (
        made_by("DequantizeLinear", "V", "V", axis=1, block_size=2**40),
        rf"made by DequantizeLinear 'maker' \(axis=1, block_size={2**40}\), which computes \d+ {TOO_LONG}",
    ),
}
"""Name -> a model that is none, or that asks for too much; what it is refused with."""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_a_value_error_that_names_node_and_field(name):
    proto, message = BROKEN[name]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            from_onnx(proto)
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()
    assert type(caught.value) is ValueError
    assert str(caught.value).isprintable()


def test_an_operator_on_text_of_an_unknown_type_ends_no_process():
    strange = helper.make_node("Strange", ["x"], ["text"], domain="own")
    match = helper.make_node("RegexFullMatch", ["text"], ["z"], pattern="a")
    assert list(from_onnx(conv_of(strange, match, domains=["own"]))) == ["node"]


def test_a_weight_behind_900_nodes_is_read():
    proto = chain_of_identities(900)
    layer = from_onnx(proto)["node"]
    np.testing.assert_array_equal(layer.operator.weight, WEIGHT)
    x = integers((1, 3, 8, 8), 3)
    close(layer.apply(x), runtime(proto, {"x": x})[0])


def test_sizes_that_depend_on_sizes_are_followed():
    assert from_onnx(sizes_in_a_row(5))["node"].operator.input_shape == X[1:]


def test_sizes_that_depend_on_too_many_sizes_are_refused(monkeypatch):
    monkeypatch.setattr("convmat.interop.onnx_shapes.ROUNDS", 5)
    with pytest.raises(ValueError, match="sizes from shapes that depend on such sizes, more than 5 times in a row"):
        from_onnx(sizes_in_a_row(5))


@pytest.mark.parametrize("operator", ["Cast", "Concat", "MeanVarianceNormalization", "Size", "Unsqueeze"])
def test_the_numbers_of_a_long_tensor_are_not_followed_one_by_one(operator):
    """Inference would make a message of each of them."""
    inputs, attributes = {
        "Cast": (["n"], {"to": TensorProto.FLOAT}),
        "Concat": (["n", "n"], {"axis": 0}),
        "Unsqueeze": (["n", "axes"], {}),
        "MeanVarianceNormalization": (["n"], {"axes": [0]}),
    }.get(operator, (["n"], {}))
    kind = TensorProto.FLOAT if operator == "MeanVarianceNormalization" else TensorProto.INT64
    node = helper.make_node(operator, inputs, ["other"], **attributes)
    proto = conv_of(node, constants={"axes": np.array([0])}, more=[value("n", (2**40,), kind)])
    assert from_onnx(proto)["node"].operator.input_shape == X[1:]


def test_a_bias_is_spread_over_the_image_only_when_it_is_asked_for():
    proto = single("Conv", (1, 3, 2**20, 2**20), WEIGHT, integers((4,), 1))
    layer = from_onnx(proto)["node"]
    np.testing.assert_array_equal(layer.bias, integers((4,), 1))
    assert not layer.bias.flags.writeable


def test_many_layers_of_one_name_are_told_apart():
    nodes = [helper.make_node("Conv", ["x", "W"], [f"y{i}"], "same") for i in range(500)]
    layers = from_onnx(model(nodes, {"x": X}, [], {"W": WEIGHT}))
    assert list(layers) == ["same", *(f"same#{i}" for i in range(2, 501))]


def test_both_names_of_the_standard_name_it():
    proto = made_by("DequantizeLinear", "V", "one", "zero", axis=0)
    proto.graph.initializer.extend([
        numpy_helper.from_array(np.ones(4, np.float32), "one"), numpy_helper.from_array(np.zeros(4, np.int8), "zero"),
    ])  # fmt: skip
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(CODES, "V"))
    proto.opset_import[0].domain = "ai.onnx"
    np.testing.assert_array_equal(from_onnx(proto)["node"].operator.weight, CODES)


def test_all_computed_constants_have_one_limit():
    shape = np.array([1000, 3, 100, 100])  # of 120 MB
    nodes = [helper.make_node("ConstantOfShape", ["shape"], [f"W{i}"], f"maker {i}") for i in range(3)]
    nodes += [helper.make_node("Conv", ["x", f"W{i}"], [f"y{i}"]) for i in range(3)]
    with pytest.raises(ValueError, match=r"made by ConstantOfShape 'maker \d', which computes 30000000 numbers: all "):
        from_onnx(model(nodes, {"x": (1, 3, 100, 100)}, [], {"shape": shape}))


RED = "\x1b[31mred\x07\u202e\n"


def conv_reading(tensor, *nodes, inputs=None, **attributes):
    node = helper.make_node("Conv", [tensor, "W"], ["y"], RED, **attributes)
    return model([*nodes, node], inputs or {"x": X}, ["y"], {"W": WEIGHT}, domains=[RED])


NAMED = {
    "an operator that is not followed": conv_of(helper.make_node(RED, ["V"], ["W"], RED), constants={"V": WEIGHT}),
    "an attribute": conv_of(helper.make_node("Relu", ["x"], ["h"], RED, **{RED: RED})),
    "a node": conv_reading("x", inputs={"x": (1, 4, 8, 8)}),
    "a tensor": conv_reading(RED, helper.make_node(RED, ["x"], [RED], domain=RED)),
    "an axis": conv_reading(RED, inputs={RED: (RED, 3, 8, RED)}),
    "a domain": conv_reading("x", domain=RED),
    "auto_pad": conv_reading("x", auto_pad=RED),
    "a weight": model([helper.make_node("Conv", ["x", RED], ["y"])], {"x": X, RED: (4, 3, 3, 3)}, ["y"]),
    "a node of which shape inference complains": conv_of(
        helper.make_node("Add", ["x", "V"], ["h"], RED), constants={"V": WEIGHT}
    ),
}
"""What has a name that a terminal would obey -> a model that is refused."""


@pytest.mark.parametrize("name", NAMED)
def test_names_in_messages_hold_nothing_that_a_terminal_obeys(name):
    with pytest.raises(ValueError, match="red") as caught:
        from_onnx(NAMED[name])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("input_shapes", "message"),
    [
        ({"z": X}, r"input_shapes names 'z': the inputs of the model are 'x'"),
        ({"W": (4, 3, 3, 3)}, r"input_shapes names 'W'"),
        ({"x": (1, 3, 9, 8)}, r"input_shapes\['x'\]=\(1, 3, 9, 8\) does not fit the shape \(1, 3, 8, 8\)"),
        ({"x": (8, 8)}, r"input_shapes\['x'\]=\(8, 8\) does not fit the shape"),
        ({"x": (1, 3, 0, 8)}, r"input_shapes\['x'\]=\(1, 3, 0, 8\) must hold sizes of at least 1"),
    ],
)
def test_input_shapes_that_do_not_fit_are_refused(input_shapes, message):
    with pytest.raises(ValueError, match=message):
        from_onnx(plain(), input_shapes=input_shapes)


def test_a_shape_that_the_model_declares_against_the_given_one_is_refused():
    pool = helper.make_node("MaxPool", ["x"], ["h"], kernel_shape=[2, 2])
    proto = conv_of(pool, inputs={"x": (1, 3, "H", 8)})
    proto.graph.value_info.append(value("h", (1, 3, 7, 7)))
    assert from_onnx(proto, input_shapes={"x": X})["node"].operator.input_shape == (3, 7, 7)
    with pytest.raises(ValueError, match=r"shapes or nodes, or is given input_shapes, that contradict each other: .*7"):
        from_onnx(proto, input_shapes={"x": (1, 3, 6, 8)})


@pytest.mark.parametrize(
    ("model_given", "options", "message"),
    [
        (3, {}, "model must be a path, bytes or an onnx.ModelProto, not int"),
        (plain().graph, {}, "not GraphProto"),
        (plain(), {"input_shapes": [("x", (1, 3, 8, 8))]}, "input_shapes=.* must map names"),
        (plain(), {"input_shapes": {"x": 8}}, r"input_shapes\['x'\]=8 must be the full shape"),
        (plain(), {"input_shapes": {"x": "1388"}}, r"must be the full shape, a tuple of integers"),
        (plain(), {"input_shapes": {"x": (1, 3, 8.0, 8)}}, r"must be the full shape, a tuple of integers"),
        (plain(), {"input_shapes": {"x": (True, 3, 8, 8)}}, r"must be the full shape, a tuple of integers"),
        (plain(), {"input_shapes": {"x": (None, 3, 8, 8)}}, r"must be the full shape, a tuple of integers"),
    ],
)
def test_wrong_kinds_are_refused(model_given, options, message):
    with pytest.raises(TypeError, match=message):
        from_onnx(model_given, **options)


def test_a_missing_file_and_a_file_of_something_else(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")
    path = tmp_path / "text.onnx"
    path.write_text("no model at all")
    with pytest.raises(ValueError, match=r"text.onnx' is no ONNX model"):
        from_onnx(path)


def test_without_onnx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ImportError, match=r"from_onnx needs onnx: install the extra `onnx`, pip install 'convmat\[onnx\]'"
    ):
        from_onnx("model.onnx")


def test_layers_are_immutable_and_compared_by_identity():
    first, second = (from_onnx(plain())["node"] for _ in range(2))
    assert isinstance(first, Layer)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.name = "other"
    assert first == first
    assert first != second


def test_an_image_of_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="image has shape"):
        from_onnx(plain())["node"].apply(np.zeros((3, 8, 9)))
