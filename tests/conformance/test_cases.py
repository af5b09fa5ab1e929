"""The cases themselves: the copy in the repository is complete, and the folder beside it, if there is one, agrees."""

import json
from pathlib import Path

import numpy as np

from tests.cases import CASES, FOLDER

COPY = Path(__file__).parent / "cases"


def test_the_copy_in_the_repository_is_the_collection():
    for name in ("manifest.json", "illegal.json"):
        assert json.loads((COPY / name).read_text(encoding="utf-8")) == json.loads(
            (FOLDER / name).read_text(encoding="utf-8")
        )
    for name in {case.file for case in CASES}:
        with np.load(COPY / name) as copy, np.load(FOLDER / name) as original:
            assert set(copy.files) == set(original.files)
            assert all(np.array_equal(copy[key], original[key]) for key in copy.files)


def test_every_kind_of_case_is_there():
    kinds = {(case.op, case.nd) for case in CASES}
    layers = {(op, nd) for op in ("conv", "conv_transpose") for nd in (1, 2, 3)}
    assert kinds == layers | {("unfold", 2), ("fold", 2)}
    assert {case.normalized["padding_mode"] for case in CASES} == {"zeros", "reflect", "replicate", "circular"}
    assert {case.dtype for case in CASES} == {"float32", "float64", "complex128"}
