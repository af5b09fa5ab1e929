"""``convmat layers``: the table of a model, against the layers that `from_onnx` gives."""

import json

import numpy as np
import pytest

from convmat import norm_bounds
from tests import cli

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from convmat.interop.onnx import from_onnx  # noqa: E402


def model(path, weights, nodes, size=("h", "w")):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, *size])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(w, dtype=np.float32), name) for name, w in weights.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "network", [image], [result], tensors)), path)
    return path


@pytest.fixture
def network(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"V": rng.standard_normal((16, 3, 7, 7)), "b": np.ones(16), "W": rng.standard_normal((16, 1, 3, 3)),
               "U": rng.standard_normal((16, 8, 4, 4))}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "V", "b"], ["h"], name=LONG, strides=[2, 2], pads=[3] * 4),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "W"], ["d"], name="depthwise", group=16, auto_pad="SAME_UPPER", strides=[2, 1]),
        helper.make_node("ConvTranspose", ["d", "U"], ["y"], strides=[2, 2], pads=[1] * 4),
    ]  # fmt: skip
    return model(tmp_path / "network.onnx", weights, nodes)


LONG = "a/very/long/name/of/the/stem/of/a/network"
SHAPE = ("--input-shape", "x=1x3x32x32")


def test_json_agrees_with_the_operators(network):
    rows = json.loads(cli.run("layers", network, *SHAPE, "--json"))
    layers = from_onnx(network, input_shapes={"x": (1, 3, 32, 32)})
    assert [row["name"] for row in rows] == list(layers)
    for row, layer in zip(rows, layers.values(), strict=True):
        A = layer.operator
        S = A.tosparse()
        assert row["operator"] == type(A).__name__
        assert (row["shape"], row["nnz"]) == (list(S.shape), S.nnz)
        assert row["csr_bytes"] == S.data.nbytes + S.indices.nbytes + S.indptr.nbytes
        assert (row["input_shape"], row["output_shape"]) == (list(A.input_shape), list(A.output_shape))
        assert row["norm"] == list(norm_bounds(A))
        assert row["bias"] == (layer.offset is not None)
        assert (tuple(row["inputs"]), tuple(row["outputs"])) == (layer.inputs, layer.outputs)
        assert row["groups"] == A.geometry.groups


def test_table_fits_80_columns_and_states_every_layer(network):
    printed = cli.run("layers", network, *SHAPE)
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["layer", "operator", "matrix", "nnz", "norm", "gap", "%"]
    assert len(lines) == 2 + 3 + 1 + 1
    assert lines[-2] == "skipped 1: it is not linear, or not an operator that is read: r"
    assert lines[2].startswith("a/very")
    assert "3>16 7x7 s2 p3" in lines[2]
    assert "16>16 3x3 s2x1 p" in lines[3]
    assert "g16" in lines[3]
    assert "16>8 4x4 s2 p1 T" in lines[4]
    layers = from_onnx(network, input_shapes={"x": (1, 3, 32, 32)}).values()
    for line, layer in zip(lines[2:], layers, strict=False):
        *_, printed_bounds, gap = line.split()
        lower, upper = norm_bounds(layer.operator)
        assert float(printed_bounds.split("..")[0]) <= lower
        assert upper <= float(printed_bounds.split("..")[1])
        assert float(gap) == pytest.approx(100 * (upper / lower - 1), abs=0.006)
    assert lines[-1].startswith("3 layers, ")


def test_wide_tables_have_images_too(network, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    lines = cli.run("layers", network, *SHAPE, "--no-norms").splitlines()
    assert lines[0].split() == ["layer", "operator", "input", "output", "matrix", "nnz", "bytes"]
    assert lines[2].startswith(LONG)
    assert "3x32x32  16x16x16" in lines[2]


def test_bounds_are_as_close_as_asked(network):
    rows = json.loads(cli.run("layers", network, *SHAPE, "--json", "--rtol", "1e-5"))
    layers = from_onnx(network, input_shapes={"x": (1, 3, 32, 32)}).values()
    assert [row["norm"] for row in rows] == [list(norm_bounds(layer.operator, rtol=1e-5)) for layer in layers]
    assert [row["gap"] for row in rows] == [row["norm"][1] / row["norm"][0] - 1 for row in rows]
    status, message = cli.fail("layers", network, *SHAPE, "--rtol", "0")
    assert status == 2
    assert "--rtol 0.0 must be a positive number" in message


def test_onnx_needs_the_name_of_an_input(network):
    status, message = cli.fail("layers", network, "--input-shape", "1x3x32x32")
    assert status == 2
    assert "image=1x3x64x64" in message


def test_norms_can_be_left_out(network):
    assert "norm" not in cli.run("layers", network, *SHAPE, "--no-norms")
    assert all("norm" not in row for row in json.loads(cli.run("layers", network, *SHAPE, "--no-norms", "--json")))


def test_an_open_shape_says_how_to_fix_it(network):
    status, message = cli.fail("layers", network)
    assert status == 2
    assert "--input-shape NAME=1x3x64x64" in message


def test_what_is_no_model_exits_with_2(tmp_path):
    (tmp_path / "no.onnx").write_text("this is no model")
    status, message = cli.fail("layers", tmp_path / "no.onnx")
    assert status == 2
    assert "no ONNX model" in message


def test_a_weight_that_is_not_finite_has_no_norm(tmp_path):
    path = model(
        tmp_path / "m.onnx", {"W": np.full((1, 3, 1, 1), np.nan)}, [helper.make_node("Conv", ["x", "W"], ["y"])], (4, 4)
    )
    assert json.loads(cli.run("layers", path, "--json"))[0]["norm"] is None
    assert "not finite" in cli.run("layers", path)


def test_a_model_without_convolutions(tmp_path):
    path = model(tmp_path / "m.onnx", {}, [helper.make_node("Relu", ["x"], ["y"])], (4, 4))
    assert json.loads(cli.run("layers", path, "--json")) == []
    assert cli.run("layers", path).splitlines()[-1].startswith("0 layers, 0 stored entries")


WEIGHTS = {"W": np.ones((1, 3, 1, 1))}
RED = "\x1b[31mred\x07\u202e\n"


def test_names_are_printed_without_what_a_terminal_obeys(tmp_path):
    path = model(tmp_path / "m.onnx", WEIGHTS, [helper.make_node("Conv", ["x", "W"], ["y"], name=RED)], (4, 4))
    for options in ([], ["--json"]):
        assert cli.run("layers", path, "--no-norms", *options).replace("\n", "").isprintable()
    assert r"\x1b[31m" in cli.run("layers", path, "--no-norms")
    assert json.loads(cli.run("layers", path, "--json"))[0]["name"] == RED


def test_names_that_the_output_cannot_encode_are_escaped(tmp_path):
    path = model(tmp_path / "m.onnx", WEIGHTS, [helper.make_node("Conv", ["x", "W"], ["y"], name="größe")], (4, 4))
    assert cli.run("layers", path, "--no-norms", encoding="ascii").splitlines()[2].startswith(r"gr\xf6\xdfe")
    assert cli.run("layers", path, "--no-norms").splitlines()[2].startswith("größe")


def test_a_broken_model_exits_with_2_and_a_printable_line(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "W"], ["y"], name=RED, strides=3)]
    status, message = cli.fail("layers", model(tmp_path / "m.onnx", WEIGHTS, nodes, (4, 4)))
    assert status == 2
    assert "strides=3 is of type INT" in message
    assert message.rstrip("\n").isprintable()
