"""Hostile files give a ValueError with a sentence or a right answer, in seconds and with little memory.

Run by `pytest -m slow tests/test_fuzz.py`; more files by `python -m tests.fuzz npz 100000 50000`, or `onnx`. The number
of a file that breaks the promise makes it again.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

FILES = 5000
"""By each process."""


def run(kind, first, count):
    command = [sys.executable, "-m", "tests.fuzz", kind, str(first), str(count)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # the stacks of threads count as memory
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment, cwd=Path(__file__).parents[1]
    )


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is one of Linux")
@pytest.mark.parametrize("first", [0, random.SystemRandom().randrange(10**6, 10**9)], ids=["known", "new"])
@pytest.mark.parametrize("kind", ["npz", "onnx"])
def test_hostile_files_are_refused_by_a_sentence_or_read_aright(kind, first):
    if kind == "onnx":
        pytest.importorskip("onnx")
    done = run(kind, first, FILES)
    assert done.returncode == 0, f"from {first}, {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
