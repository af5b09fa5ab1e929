"""Every example runs, prints what it shows, and saves its picture."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
MODEL = ROOT / "examples" / "12_a_real_model.py"

every_example = pytest.mark.parametrize(
    "example",
    [
        pytest.param(
            path,
            id=path.stem,
            marks=pytest.mark.skipif(
                path == MODEL and importlib.util.find_spec("rapidocr_onnxruntime") is None,
                reason="the package of the model, which does not install on Python 3.13",
            ),
        )
        for path in EXAMPLES
    ],
)


def run(*arguments, **environment):
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", env=variables | {"PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL, timeout=600,
    )  # fmt: skip


def test_the_examples_are_there():
    assert [path.name[:2] for path in EXAMPLES][:7] == [f"{i:02}" for i in range(1, 8)]


@every_example
def test_runs_prints_and_saves_its_picture(example, tmp_path):
    result = run("-W", "error", example, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) > 3
    picture = tmp_path / f"{example.stem}.png"
    assert f"Picture: {picture}" in result.stdout
    assert {path.stem for path in tmp_path.iterdir()} == {
        example.stem
    }  # the picture, and perhaps a folder of animations
    with Image.open(picture) as image:
        assert image.width > 500
        assert len(image.convert("L").getcolors()) > 2  # something is drawn


@every_example
def test_names_the_extra_without_matplotlib(example, tmp_path):
    blocked = tmp_path / "matplotlib"
    blocked.mkdir()
    (blocked / "__init__.py").write_text('raise ModuleNotFoundError("No module named matplotlib", name="matplotlib")\n')
    out = tmp_path / "pictures"
    result = run(example, "--out", out, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert "pip install 'convmat[plot]'" in result.stdout + result.stderr
    assert not out.exists()
    if result.returncode:  # those that need the photograph from their first line on
        assert "ImportError: the sample photograph needs matplotlib" in result.stderr
    else:
        assert "No picture: " in result.stdout
        assert result.stderr == ""


WITHOUT_MODEL = """
import runpy, sys
sys.modules["rapidocr_onnxruntime"] = None
runpy.run_path(sys.argv[1])
"""


def test_without_its_model_the_example_says_what_it_misses():
    pytest.importorskip("onnxruntime")
    result = run("-c", WITHOUT_MODEL, MODEL, PYTHONPATH=os.pathsep.join([str(MODEL.parent), str(ROOT)]))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        "This example needs the model in rapidocr-onnxruntime: pip install rapidocr-onnxruntime, "
        "on Python 3.11 or 3.12\n"
    )
