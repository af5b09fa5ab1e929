"""``convmat layers module:function``: the table of a model, against the layers that `from_torch_model` gives."""

import json
import sys

import pytest

from convmat import norm_bounds
from tests import cli

torch = pytest.importorskip("torch")

from convmat.interop.torch_models import from_torch_model  # noqa: E402

MODEL = """
from __future__ import annotations

import dataclasses

import torch
from torch import nn


@dataclasses.dataclass
class Sizes:
    width: int = 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        print("being made")
        width = Sizes().width
        self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1, groups=1, bias=False)
        self.norm, self.act, self.pool = nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.head, self.spare = nn.Linear(2 * width, 5, dtype=torch.float32), nn.GELU()

    def forward(self, image, other):
        a, b = (self.pool(self.act(self.norm(self.conv(x)))).flatten(1) for x in (image, other))
        return self.head(torch.cat([a, b], 1))


def with_inputs():
    return Net().double(), (torch.zeros(1, 3, 8, 8, dtype=torch.float64), torch.zeros(1, 3, 8, 6, dtype=torch.float64))


def one_input():
    return nn.Conv1d(2, 3, 3), torch.zeros(1, 2, 9)


class Holder:
    model = staticmethod(with_inputs)


module = nn.Conv1d(1, 1, 3)
number = 3
NaN = nn.Conv1d(1, 1, 3)
NaN.weight.data[:] = torch.nan


def nothing():
    return 3


def broken():
    raise RuntimeError("it is broken")
"""

SHAPES = ("--input-shape", "1x3x8x8", "--input-shape", "other=1x3x8x6")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "a_model_of_a_test.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("a_model_of_a_test", None)


def run(*words):
    """Standard output of a command whose model prints while it is made."""
    return cli.run("layers", *words, told="being made\n")


@pytest.mark.parametrize("model", ["a_model_of_a_test:with_inputs", "a_model_of_a_test.py:Holder.model"])
def test_json_agrees_with_the_operators(folder, model):
    rows = json.loads(run(model, "--json"))
    sys.path.insert(0, str(folder))
    try:
        import a_model_of_a_test
    finally:
        sys.path.remove(str(folder))
    model, inputs = a_model_of_a_test.with_inputs()
    layers = from_torch_model(model, *inputs)
    assert [row["name"] for row in rows] == list(layers)
    for row, layer in zip(rows, layers.values(), strict=False):
        A = layer.operator
        S = A.tosparse()
        assert (row["operator"], row["dtype"]) == (type(A).__name__, "float64")
        assert (row["shape"], row["nnz"]) == (list(S.shape), S.nnz)
        assert row["csr_bytes"] == S.data.nbytes + 4 * (S.nnz + S.shape[0] + 1)
        assert (row["input_shape"], row["output_shape"]) == (list(A.input_shape), list(A.output_shape))
        assert row["norm"] == list(norm_bounds(A))
        assert row["bias"] == (layer.bias is not None)
        assert (tuple(row["inputs"]), tuple(row["outputs"])) == (layer.inputs, layer.outputs)
        assert ("kernel_size" in row) == row["operator"].startswith("Conv")
    assert layers.skipped == {"act": "it is not linear", "spare": "it was not called"}


def test_table_has_every_layer_and_what_was_skipped_why(folder):
    lines = run("a_model_of_a_test.py:Net", *SHAPES).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split()[:5] == ["conv", "3>4", "3x3", "s2", "p1"]
    kinds = {line.split()[0]: line.split()[1] for line in lines[3:-3]}
    assert kinds == {"norm": "Diagonal", "pool": "Separable", "conv#2": "3>4", "norm#2": "Diagonal",
                     "pool#2": "Separable", "head": "Separable"}  # fmt: skip
    assert sorted(lines[-3:-1]) == ["skipped 1: it is not linear: act", "skipped 1: it was not called: spare"]
    assert lines[-1].startswith("7 layers, ")


def test_names_of_inputs_are_those_of_the_forward(folder):
    named = run("a_model_of_a_test.py:Net", "--json", "--no-norms", "--input-shape", "other=1x3x8x6",
                "--input-shape", "image=1x3x8x8")  # fmt: skip
    assert named == run("a_model_of_a_test.py:Net", "--json", "--no-norms", *SHAPES)
    assert json.loads(named)[0]["input_shape"] == [3, 8, 8]


def test_a_module_and_one_tensor_will_do(folder):
    by_function = json.loads(cli.run("layers", "a_model_of_a_test.py:one_input", "--json", "--no-norms"))
    by_module = json.loads(cli.run("layers", "a_model_of_a_test:module", "--input-shape", "1x1x9", "--json"))
    assert [row["shape"] for row in (*by_function, *by_module)] == [[21, 18], [7, 9]]


def test_numbers_that_are_not_finite_have_no_norm(folder):
    row = json.loads(cli.run("layers", "a_model_of_a_test.py:NaN", "--input-shape", "1x1x9", "--json"))[0]
    assert (row["norm"], row["gap"]) == (None, None)


def test_an_import_finds_what_lies_beside_the_file(folder):
    (folder / "deeper").mkdir()
    (folder / "deeper" / "beside_a_test.py").write_text("WIDTH = 7")
    (folder / "deeper" / "m.py").write_text(
        "import torch\nfrom beside_a_test import WIDTH\nmodel = torch.nn.Linear(WIDTH, 2)"
    )
    before = list(sys.path)
    rows = json.loads(cli.run("layers", "deeper/m.py:model", "--input-shape", "1x7", "--json"))
    assert rows[0]["shape"] == [2, 7]
    assert sys.path == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such_module_at_all:make"], "No module named 'no_such_module_at_all'"),
        (["no_such_file.py:make"], "No such file"),
        (["a_model_of_a_test.py:missing"], "a_model_of_a_test.py has no missing"),
        (["a_model_of_a_test.py:number"], "is of type int: it must be a function or a class"),
        (["a_model_of_a_test.py:nothing"], "returns an object of type int: it must be a torch.nn.Module"),
        (["a_model_of_a_test.py:broken"], "RuntimeError: it is broken"),
        (["a_model_of_a_test.py:torch.zeros"], "cannot be called without arguments: TypeError"),
        (["a_model_of_a_test.py:module"], "give their shapes, --input-shape 1x3x64x64"),
        (["a_model_of_a_test.py:module", "--input-shape", "1x2x9"], "model fails on inputs of shapes (1, 2, 9)"),
        (["a_model_of_a_test.py:module", "--input-shape", "picture=1x1x9"], "does not fit the forward"),
        (["a_model_of_a_test.py:module", "--input-shape", "1x1x9", "--input-shape", "1x1x9"], "too many positional"),
        (["a_model_of_a_test.py:module", "--input-shape", "1xtwo"], "'1xtwo' must be a shape, such as 1x3x64x64"),
        (["a_model_of_a_test.onnx"], "is not a file; a model of PyTorch is written module:function"),
    ],
)
def test_what_is_no_model_is_said_in_one_line(folder, words, message):
    status, line = cli.fail("layers", *words)
    assert status == 2
    assert message in line


def test_without_torch_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    status, line = cli.fail("layers", "a_model_of_a_test.py:module")
    assert status == 1
    assert "convmat[torch]" in line
