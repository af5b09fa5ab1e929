"""Models of ONNX, and what is nearly one."""

import functools

import numpy as np

from tests.fuzz.draws import NUMBERS, TEXTS, shaken

WORDS = ["x", "W", "shape", "Conv", "Identity", "Shape", "Constant", "ConstantOfShape", "Cast", "SAME_LOWER", "perm"]


def value(name, shape):
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(*nodes, **options):
    """A model of these nodes, from the image x to y, with a few constants."""
    from onnx import helper, numpy_helper

    weight = np.arange(-54.0, 54.0, dtype=np.float32).reshape(4, 3, 3, 3)
    constants = {
        "W": weight,
        "b": np.arange(4, dtype=np.float32),
        "codes": weight.astype(np.int8),
        "scale": np.float32(0.5),
        "zero": np.int8(3),
        "shape": np.array([4, 3, 3, 3]),
    }
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", [value("x", (1, 3, 8, 9))], [value("y", None)], tensors)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=10, **options)


@functools.cache
def models():
    """Layers behind constants, branches, functions and shapes that the model computes."""
    from onnx import TensorProto, helper

    node, conv = helper.make_node, functools.partial(helper.make_node, "Conv")
    branches = {
        f"{word}_branch": helper.make_graph([conv(["x", "W"], [word], name="c")], word, [], [value(word, None)])
        for word in ("then", "else")
    }
    inside = [conv(["p", "q"], ["s"]), node("Relu", ["s"], ["r"])]
    block = helper.make_function("mine", "Block", ["p", "q"], ["r"], inside, [helper.make_opsetid("", 21)])
    yes = helper.make_tensor("", TensorProto.BOOL, [], [True])
    return [
        model(
            conv(["x", "W", "b"], ["h"], name="one", strides=[2, 1], pads=[1, 0, 1, 2], dilations=[1, 2]),
            node("Relu", ["h"], ["i"]),
            node("ConvTranspose", ["i", "W"], ["y"], output_padding=[1, 0], strides=[2, 2]),
        ),
        model(
            conv(["x", "W"], ["h"], auto_pad="SAME_UPPER", kernel_shape=[3, 3], strides=[2, 2], group=1),
            node("ConvTranspose", ["h", "W"], ["y"], auto_pad="SAME_LOWER", strides=[2, 3], output_shape=[8, 12]),
        ),
        model(
            node("DequantizeLinear", ["codes", "scale", "zero"], ["d"]),
            node("Identity", ["d"], ["e"]),
            node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
            node("Reshape", ["f", "shape"], ["v"]),
            conv(["x", "v"], ["y"]),
        ),
        model(
            node("Constant", [], ["axes"], value_ints=[0]),
            node("Transpose", ["W"], ["t"], perm=[0, 1, 3, 2]),
            node("Unsqueeze", ["t", "axes"], ["u"]),
            node("Squeeze", ["u", "axes"], ["v"]),
            conv(["x", "v"], ["y"]),
        ),
        model(node("ConstantOfShape", ["shape"], ["v"]), conv(["x", "v"], ["y"])),
        model(node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["z"]), conv(["z", "W"], ["y"], name="two")),
        model(node("Constant", [], ["c"], value=yes), node("If", ["c"], ["y"], **branches)),
        model(node("Block", ["x", "W"], ["y"], domain="mine"), functions=[block]),
    ]


def spots(message):
    """Every message in this one with each of its fields, the empty ones too."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type is not None:
            inner = getattr(message, field.name)
            for part in inner if hasattr(inner, "add") else [inner] if message.HasField(field.name) else []:
                yield from spots(part)


def scalar(draw, field, words):
    """A value that a field of this type can hold."""
    kind = field.cpp_type
    if kind == field.CPPTYPE_STRING:
        word = draw.choice([*words, *WORDS, *TEXTS])
        return shaken(draw, word.encode()) if field.type == field.TYPE_BYTES else word
    if kind in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return draw.choice([0.0, -1.0, 1e30, float("nan"), float("inf")])
    if kind == field.CPPTYPE_ENUM:
        return draw.choice(field.enum_type.values).number
    least, most = {
        field.CPPTYPE_INT64: (-(2**63), 2**63),
        field.CPPTYPE_UINT64: (0, 2**64),
        field.CPPTYPE_INT32: (-(2**31), 2**31),
    }[kind]
    return draw.choice([draw.randrange(30), draw.choice([n for n in NUMBERS if least <= n < most])])


def edit(draw, model):
    """Change one field of a model."""
    places = list(spots(model))
    used = [(message, field) for message, field in places if field.name in {f.name for f, _ in message.ListFields()}]
    message, field = draw.choice(used if draw.random() < 0.8 else places)
    words = [name for node in model.graph.node for name in (node.name, *node.input, *node.output)]
    value = getattr(message, field.name)
    if hasattr(value, "append"):
        edit_list(draw, value, field, words)
    elif field.message_type is None:
        keep = isinstance(value, bytes) and value and draw.random() < 0.7
        setattr(message, field.name, shaken(draw, value) if keep else scalar(draw, field, words))
    elif message.HasField(field.name):
        message.ClearField(field.name)
    else:
        value.SetInParent()


def edit_list(draw, value, field, words):
    """Change, repeat, add or take away an entry."""
    change = draw.choice(["set", "set", "drop", "twice", "new"]) if value else "new"
    at = draw.randrange(len(value)) if value else 0
    if change == "drop":
        del value[at]
    elif change == "twice":
        value.append(value[at])
    elif field.message_type is not None:
        value.add()
    elif change == "set":
        value[at] = scalar(draw, field, words)
    else:
        value.append(scalar(draw, field, words))


def hostile(draw):
    """A model that is not quite valid."""
    from onnx import ModelProto

    proto = ModelProto.FromString(draw.choice(models()).SerializeToString())
    if draw.random() < 0.2:
        return shaken(draw, proto.SerializeToString())
    for _ in range(draw.choice([1, 1, 2, 4])):
        edit(draw, proto)
    return proto.SerializeToString()


def evaluated(data):
    """The values of all tensors of the model for a random x, by the reference evaluator of onnx, if it runs."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    proto = onnx.ModelProto.FromString(data)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    if any(np.prod(shape, dtype=float) > 10**5 for shape in shapes.values()):
        return {}
    rng = np.random.default_rng(0)
    try:
        onnx.checker.check_model(proto, full_check=True)
        feeds = {name: rng.integers(-9, 10, shape).astype(np.float32) for name, shape in shapes.items()}
        return ReferenceEvaluator(proto).run(None, feeds, intermediate=True)
    except Exception:
        return {}


def read(data):
    """Read the model; each of its `Conv` nodes must do what the reference evaluator makes it do."""
    from onnx import ModelProto

    from convmat.interop.onnx import from_onnx

    layers = from_onnx(data)
    values = evaluated(data) if layers else {}
    nodes = [node for node in ModelProto.FromString(data).graph.node if node.op_type == "Conv" and values]
    for node in nodes:
        layer = next(layer for layer in layers.values() if layer.outputs == tuple(node.output))
        want = values[node.output[0]]
        got = layer.apply(values[node.input[0]])
        assert got.shape == want.shape
        scale = np.abs(want[np.isfinite(want)]).max(initial=1)
        assert np.allclose(got, want, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)
