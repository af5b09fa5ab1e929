"""What the README promises beyond its code blocks, which run as doctests: its commands, links, and the command line."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convmat
from convmat import __version__
from convmat.__main__ import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [block.strip() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)]


def test_two_commands_of_one_line():
    demo, tests = COMMANDS
    assert demo.endswith("&& .venv/bin/convmat demo")
    assert tests.endswith("&& .venv-test/bin/python -m pytest -n auto")
    assert "\n" not in demo + tests


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    patterns = re.findall(r"readme_command '(.*?)'", script)
    assert len(patterns) == 2
    for command, pattern in zip(COMMANDS, patterns, strict=True):
        assert [line for line in README.splitlines() if re.match(pattern, line)] == [command]


def test_links_and_pictures_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
        if link.endswith(".png"):
            assert (ROOT / link).stat().st_size < 200_000


def test_the_block_of_the_interchange_runs(tmp_path, monkeypatch):
    torch, onnx = pytest.importorskip("torch"), pytest.importorskip("onnx")
    pytest.importorskip("pylops")
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "from_torch" in b)
    weight = onnx.numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "weight")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "weight"], ["result"], name="conv")], "graph",
        [value("image", 1, (1, 1, 8, 8))], [value("result", 1, (1, 2, 6, 6))], [weight],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    names = {"convmat": convmat, "torch": torch}
    exec(block, names)
    A, x = names["A"], np.random.default_rng(0).standard_normal(names["A"].input_shape)
    assert list(names["layers"]) == ["conv"]
    assert names["P"].dims == A.input_shape
    np.testing.assert_array_equal(convmat.load("layer.npz") @ x.ravel(), A @ x.ravel())
    np.testing.assert_allclose(names["f"](torch.from_numpy(x)).numpy().ravel(), A @ x.ravel())


def test_demo_prints_its_figures_and_saves_its_picture(tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "convmat", "demo", "--out", str(tmp_path / "new" / "folder")],
        capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    picture = tmp_path / "new" / "folder" / "convmat_demo.png"
    assert result.stdout.endswith(f"picture: {picture}\n")
    assert picture.stat().st_size > 10_000
    transposed, solved = map(float, re.findall(r"([\d.]+) dB", result.stdout))
    assert solved > transposed + 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: command"),
        (["dmeo"], "invalid choice: 'dmeo'"),
        (["demo", "--uot", "x"], "unrecognized arguments: --uot x"),
        (["demo", "--out", __file__], "is not a folder"),
    ],
)
def test_bad_arguments_exit_with_2_and_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("convmat: ")
    assert message in printed.err


def test_missing_matplotlib_exits_with_1_and_names_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "pip install 'convmat[plot]'" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"convmat {__version__}\n"
