"""Every example runs, prints what it shows, and saves its picture."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


def run(*arguments, **environment):
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", env=variables | {"PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip


def test_the_examples_are_there():
    assert [path.name[:2] for path in EXAMPLES][:7] == [f"{i:02}" for i in range(1, 8)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
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


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
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
