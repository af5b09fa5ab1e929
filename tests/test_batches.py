"""Singular values of many small matrices, compiled, against numpy's SVD of each."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmat import Conv1d, Conv2d, singular_values
from convmat.products import direct
from convmat.spectrum import batches, values
from convmat.spectrum.batches import batch_values, pays
from tests.strategies import tries

pytestmark = pytest.mark.skipif(not direct.installed(), reason="needs numba")

DTYPES = ("float64", "complex128", "float32", "complex64")
TIGHT = {"float64": 2e-14, "complex128": 2e-14, "float32": 1e-6, "complex64": 1e-6}


def normal(rng, shape, dtype):
    found = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        found = found + 1j * rng.standard_normal(shape)
    return found.astype(dtype)


def true_values(blocks):
    return np.linalg.svd(blocks.astype(np.result_type(blocks, np.float64)), compute_uv=False)


def assert_values(blocks, tolerance=2e-14):
    """Compare with LAPACK's, relative to the largest value of each matrix."""
    found, true = -np.sort(-batch_values(blocks)), true_values(blocks)
    assert found.shape == true.shape
    assert np.all(np.abs(found - true) <= tolerance * np.maximum(true[..., :1], 1e-300))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2, 2), (3, 2), (2, 7), (5, 5), (9, 8), (8, 8), (16, 17), (40, 12), (64, 64), (6, 130)]
)
def test_values_are_those_of_lapack_to_rounding(shape, dtype):
    rng = np.random.default_rng(sum(shape))
    for count in (1, 7, 21):
        assert_values(normal(rng, (count, *shape), dtype), TIGHT[dtype])


@tries(200)
@given(st.integers(0, 2**32), st.integers(2, 9), st.integers(2, 9), st.booleans())
def test_ranks_gaps_zeros_and_permutations_are_no_obstacle(seed, rows, cols, is_complex):
    rng = np.random.default_rng(seed)
    dtype = "complex128" if is_complex else "float64"
    rank = rng.integers(0, min(rows, cols) + 1)
    low = normal(rng, (rows, rank), dtype) @ normal(rng, (rank, cols), dtype)
    sparse = normal(rng, (rows, cols), dtype) * (rng.random((rows, cols)) < 0.3)
    graded = normal(rng, (rows, cols), dtype) * 10.0 ** rng.uniform(-30, 0, (rows, 1))
    placed = np.eye(rows, cols)[rng.permutation(rows)].astype(dtype)
    upwards = np.diag(10.0 ** np.arange(min(rows, cols)) / 10.0 ** min(rows, cols)).astype(dtype)
    wide = np.zeros((rows, cols), dtype)
    wide[: len(upwards), : len(upwards)] = upwards
    assert_values(
        np.stack([low, sparse, graded, placed, wide, np.zeros((rows, cols), dtype), np.ones((rows, cols), dtype)])
    )


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_values_that_are_equal_or_nearly_so(dtype):
    rng = np.random.default_rng(0)
    n = 24
    left, right = (np.linalg.qr(normal(rng, (30, n, n), dtype))[0] for _ in range(2))
    spread = np.array([0.0, 1e-15, 1e-12, 1e-9, 1e-6] * 6)[:, None] * rng.standard_normal((30, n))
    assert_values((left * (1 + spread)[:, None]) @ right, 1e-13)
    twice = np.repeat(np.geomspace(1, 1e-12, n // 2), 2)
    assert_values((left * twice) @ right)


def test_toeplitz_matrices_have_the_values_that_theory_knows():
    n = 48
    second = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    known = 2 - 2 * np.cos(np.arange(1, n + 1) * np.pi / (n + 1))
    np.testing.assert_allclose(np.sort(batch_values(second[None])[0]), known, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-140])
def test_what_is_tiny_beside_one_is_no_obstacle(scale):
    """Squares that vanish are zeros, to an error that no sum with numbers near 1 shows."""
    blocks = scale * normal(np.random.default_rng(0), (9, 6, 5), "complex128")
    found, true = -np.sort(-batch_values(blocks)), true_values(blocks)
    assert np.abs(found - true).max() <= max(1e-138, 1e-13 * true.max())


def test_lapack_solves_what_takes_too_many_sweeps():
    blocks = normal(np.random.default_rng(0), (11, 6, 6), "complex128")
    found = batch_values(blocks, turns=2)
    np.testing.assert_array_equal(found, true_values(blocks))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_no_bit_of_a_matrix_depends_on_its_neighbours(dtype):
    blocks = normal(np.random.default_rng(0), (37, 9, 7), dtype)
    blocks[::5] = 0
    blocks[1::5, :, 2] *= 1e-9
    together = batch_values(blocks)
    for k in range(len(blocks)):
        np.testing.assert_array_equal(batch_values(blocks[k : k + 1])[0], together[k])
    np.testing.assert_array_equal(batch_values(blocks[5:]), together[5:])


LAYERS = {
    "channels": {"shape": (12, 12, 3, 3), "size": (64, 64)},
    "complex": {"shape": (8, 9, 3, 3), "size": (64, 64), "dtype": "complex128"},
    "single": {"shape": (9, 7, 3, 3), "size": (96, 96), "dtype": "float32"},
    "stride": {"shape": (8, 6, 3, 3), "size": (128, 96), "stride": 2},
    "groups": {"shape": (8, 2, 3, 3), "size": (192, 192), "groups": 4},
    "line": {"shape": (6, 8, 5), "size": (12001,)},
    "sines": {"shape": (8, 8, 3, 3), "size": (64, 65), "padding_mode": "zeros", "even": True},
}


def layer(shape, size, dtype="float64", stride=1, groups=1, padding_mode="circular", even=False):
    weight = normal(np.random.default_rng(1), shape, dtype)
    if even:
        weight = weight + weight[..., ::-1]
        weight = weight + weight[..., ::-1, :]
    kind = Conv1d if len(size) == 1 else Conv2d
    return kind(weight, size, stride=stride, padding=shape[-1] // 2, groups=groups, padding_mode=padding_mode)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_same_values_with_and_without_it(name, monkeypatch):
    A, solved = layer(**LAYERS[name]), []
    monkeypatch.setattr(values, "batch_values", lambda blocks: solved.append(len(blocks)) or batch_values(blocks))
    compiled = singular_values(A)
    assert solved
    monkeypatch.setattr(values, "pays", lambda *sizes: False)
    plain = singular_values(A)
    tolerance = 1e-6 if A.dtype == np.float32 else 2e-14
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=tolerance * plain[0])


@pytest.mark.parametrize("name", ["channels", "stride", "sines"])
def test_no_bit_depends_on_the_threads(name, monkeypatch):
    A, found = layer(**LAYERS[name]), []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("CONVMAT_NUM_THREADS", threads)
        found.append(singular_values(A))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


CHECK = """
import numpy as np
from convmat.spectrum.batches import batch_values
from convmat.spectrum.lanes import LANES
rng = np.random.default_rng(0)
for shape in [(9, 7, 5), (9, 12, 12)]:
    for blocks in (rng.standard_normal(shape), rng.standard_normal(shape) + 1j * rng.standard_normal(shape)):
        true = np.linalg.svd(blocks, compute_uv=False)
        assert np.abs(-np.sort(-batch_values(blocks)) - true).max() <= 1e-14 * true.max()
print(LANES)
"""

REFUSE = """
import numba
njit = numba.njit
def refuse(*args, cache=False, **more):
    if cache:
        raise RuntimeError("cannot cache function: no locator available")
    return njit(*args, **more)
numba.njit = refuse
"""


def run(code, **environment):
    root = str(Path(batches.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root} | environment
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    ).stdout


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="processors of another kind")
@pytest.mark.parametrize(
    ("features", "lanes"),
    [("+avx2,+avx,+fma,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2", 4), ("+sse2", 2)],
    ids=["AVX2", "SSE2"],
)
def test_processors_with_shorter_registers_give_the_same(tmp_path, features, lanes):
    shorter = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    assert int(run(CHECK, **shorter)) == lanes


def test_a_folder_that_may_not_be_written_to_is_no_obstacle():
    assert int(run(REFUSE + CHECK)) >= 2


def test_small_problems_do_not_wait_for_a_compiler():
    code = (
        "import sys, numpy as np; from convmat import Conv2d, singular_values; "
        "singular_values(Conv2d(np.ones((4, 4, 3, 3)), (16, 16), padding=1, padding_mode='circular')); "
        "print('numba' in sys.modules)"
    )
    assert run(code) == "False\n"


def test_it_is_used_where_blocks_are_many_small_and_no_vectors(monkeypatch):
    assert pays(10**4, 8, 8)
    assert not pays(100, 8, 8)
    assert not pays(10**6, 1, 64)
    assert not pays(10**3, 512, 512)
    monkeypatch.setattr(batches, "installed", lambda: False)
    assert not pays(10**4, 8, 8)
