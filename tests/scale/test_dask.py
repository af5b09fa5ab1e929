"""Operators on dask arrays: as on numpy arrays, for any blocks."""

import copy
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import convmat
from tests import oracle
from tests.strategies import CONV, layers, tries

da = pytest.importorskip("dask.array")
import dask  # noqa: E402

from convmat.operators import Separable  # noqa: E402
from convmat.products import threads, usable  # noqa: E402
from convmat.scale import dask as scale  # noqa: E402
from convmat.scale.dask import DaskOperator, to_dask  # noqa: E402

POINTWISE = [method for method in ("matrix", "direct", "gemm") if method in usable()]
ROOT = Path(__file__).parents[2]


def numbers(rng, shape, dtype):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def cut(rng, size):
    """Chunks of an axis: of any sizes, often smaller than a kernel."""
    sizes = []
    while size:
        sizes.append(int(rng.integers(1, size + 1)) if rng.random() < 0.6 else min(size, int(rng.integers(1, 6))))
        size -= sizes[-1]
    return tuple(sizes)


def blocks(rng, array):
    return da.from_array(array, chunks=tuple(cut(rng, size) for size in array.shape))


def layer(rng, ndim, size, method, dtype, channels=None):
    """A random layer, or None if the arguments are not legal."""
    groups = int(rng.integers(1, 4)) if channels is None else 1
    outs, ins = groups * int(rng.integers(1, 4)), int(rng.integers(1, 4)) if channels is None else channels
    weight = numbers(rng, (outs, ins, *rng.integers(1, 6, ndim)), dtype)
    try:
        return CONV[ndim](
            weight,
            tuple(size),
            stride=tuple(rng.integers(1, 4, ndim)),
            dilation=tuple(rng.integers(1, 3, ndim)),
            padding=tuple((int(rng.integers(-2, 7)), int(rng.integers(-2, 7))) for _ in range(ndim)),
            padding_mode=str(rng.choice(oracle.MODES)),
            groups=groups,
            flip=bool(rng.random() < 0.3),
            method=method,
        )
    except ValueError:
        return None


def random_operator(rng, method):
    """A layer, a transposed one, or a chain of two, on one to three axes; its image is a few blocks large."""
    ndim = int(rng.choice([1, 2, 2, 2, 3]))
    dtype = rng.choice([np.float32, np.float64, np.complex64, np.complex128])
    A = None
    while A is None:
        A = layer(rng, ndim, rng.integers(1, {1: 200, 2: 36, 3: 11}[ndim], ndim), method, dtype)
    if rng.random() < 0.3:
        B = layer(rng, ndim, A.output_shape[1:], method, dtype, A.output_shape[0])
        A = A if B is None else B @ A
    return A.T if rng.random() < 0.3 else A


def check_both_ways(A, rng, same):
    """A and A^T on dask arrays against numpy arrays, and the dot test."""
    x = numbers(rng, A.input_shape, A.dtype)
    y = numbers(rng, A.output_shape, A.dtype)
    D = to_dask(A)
    forward = D.apply(blocks(rng, x))
    backward = D.T.apply(blocks(rng, y))
    with dask.config.set(scheduler=str(rng.choice(["sync", "threads"]))):
        Ax, Aty = forward.compute(), backward.compute()
    assert (Ax.dtype, Ax.shape, Aty.shape) == (forward.dtype, forward.shape, backward.shape)
    assert Ax.dtype == A.dtype
    same(Ax, A.apply(x))
    same(Aty, A.T.apply(y))
    sizes = [float(np.linalg.norm(image)) for image in (Ax, y, x, Aty)]
    scale_of_terms = sizes[0] * sizes[1] + sizes[2] * sizes[3] + sizes[1] * sizes[2]  # a matrix may be of zeros
    eps = 1e-5 if A.dtype in (np.float32, np.complex64) else 1e-13
    assert abs(np.sum(Ax * y) - np.sum(x * Aty)) <= eps * scale_of_terms + 1e-300


def close(found, expected):
    eps = 1e-5 if found.dtype in (np.float32, np.complex64) else 1e-13
    assert np.abs(found - expected).max() <= 10 * eps * max(np.abs(expected).max(), 1e-3)


@pytest.mark.parametrize("method", POINTWISE)
@pytest.mark.parametrize("seed", range(25))
def test_any_blocks_give_the_result_of_numpy_to_the_last_bit(method, seed):
    rng = np.random.default_rng([seed, 1])
    check_both_ways(random_operator(rng, method), rng, np.testing.assert_array_equal)


@pytest.mark.parametrize("method", ["fft", "separable", "auto"])
@pytest.mark.parametrize("seed", range(8))
def test_any_blocks_give_the_result_of_numpy_to_rounding_by_every_method(method, seed):
    rng = np.random.default_rng([seed, 2])
    check_both_ways(random_operator(rng, method), rng, close)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000))
def test_a_thousand_layers(seed):
    rng = np.random.default_rng([seed, 3])
    method = POINTWISE[seed % len(POINTWISE)]
    check_both_ways(random_operator(rng, method), rng, np.testing.assert_array_equal)
    check_both_ways(random_operator(rng, "fft"), rng, close)


@tries(30)
@given(layers(), st.integers(0, 2**20))
def test_whole_weights_give_the_matrix_exactly(layer, seed):
    A, rng = layer.operator(), np.random.default_rng(seed)
    x = rng.integers(-9, 10, A.input_shape).astype(A.dtype)
    found = to_dask(A).apply(blocks(rng, x)).compute(scheduler="sync")
    np.testing.assert_array_equal(found.ravel(), layer.dense() @ x.ravel())


def test_sums_stacks_and_multiples_have_blocks_too():
    rng = np.random.default_rng(0)
    A = convmat.Conv2d(rng.standard_normal((2, 3, 3, 3)), (20, 17), padding=1, padding_mode="circular")
    B = convmat.Conv2d(rng.standard_normal((2, 3, 5, 5)), (20, 17), padding=2, padding_mode="reflect")
    for C in (A + 2 * B, convmat.vstack([A, B]), convmat.hstack([A, B]), convmat.block_diag([A, B]), A.H @ B, -A):
        check_both_ways(C, rng, close)


def test_the_matrix_product_takes_images_and_ravelled_images():
    rng = np.random.default_rng(0)
    A = convmat.Conv2d(rng.standard_normal((3, 3)), (12, 10), stride=2, padding=1, padding_mode="symmetric")
    D, x = to_dask(A), rng.standard_normal((12, 10))
    image, vector = D @ da.from_array(x, chunks=5), D @ da.from_array(x.ravel(), chunks=17)
    assert image.shape == A.output_shape
    assert vector.shape == (A.shape[0],)
    close(image.compute(), A.apply(x))
    close(vector.compute(), A @ x.ravel())
    with pytest.raises(ValueError, match=r"x has shape \(3, 12, 10\).*D\.apply"):
        D @ da.zeros((3, 12, 10))


def test_batches_go_through_with_their_chunks():
    rng = np.random.default_rng(0)
    A = convmat.Conv1d(rng.standard_normal((2, 3, 3)), 20, padding=1, padding_mode="reflect")
    x = rng.standard_normal((5, 4, 3, 20))
    y = to_dask(A).apply(da.from_array(x, chunks=((2, 3), (4,), (2, 1), (7, 13))))
    assert y.chunks[:2] == ((2, 3), (4,))
    close(y.compute(), A.apply(x))


def test_a_batch_of_no_images_gives_none():
    A = convmat.Conv1d(np.ones(3), 20, padding=1)
    assert to_dask(A).apply(da.zeros((0, 20), chunks=(1, 7))).compute().shape == (0, 20)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_blocks_of_the_result_follow_those_of_the_input(stride):
    A = convmat.Conv2d(np.ones((5, 5)), (64, 32), stride=stride, padding=2, padding_mode="circular")
    y = to_dask(A).apply(da.zeros((64, 32), chunks=16))
    assert y.chunks == ((16 // stride,) * 4, (16 // stride,) * 2)
    assert to_dask(A).T.apply(y).chunks == ((16,) * 4, (16,) * 2)
    assert to_dask(A).apply(da.zeros((64, 32)), chunks=(8, 4)).chunksize == (8, 4)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("way", ["forward", "transposed"])
def test_a_block_takes_two_tasks(ndim, way):
    side = 16 * 4
    A = CONV[ndim](np.ones((3,) * ndim), (side,) * ndim, padding=1, padding_mode="circular")
    D = to_dask(A if way == "forward" else A.T)
    x = da.zeros((side,) * ndim, chunks=16)
    y = D.apply(x)
    ours = len(y.dask.to_dict()) - len(x.dask.to_dict()) - 1  # one for the operator
    assert ours <= 2 * y.npartitions


def test_the_operator_stands_in_the_graph_once():
    A = convmat.Conv2d(np.ones((31, 31)), (256, 256), padding=15)
    y = to_dask(A).apply(da.zeros((256, 256), chunks=32))
    assert len(pickle.dumps(y.dask.to_dict())) < 64 * 4000 + 2 * A.weight.nbytes
    assert sum(1 for key in y.dask.to_dict() if "operator" in str(key)) == 1


def test_the_graph_grows_with_the_blocks_alone():
    A = convmat.Conv2d(np.ones((3, 3)), (10**6, 10**6), stride=2, padding=1)
    x = da.zeros((10**6, 10**6), chunks=10**5)
    y = to_dask(A).apply(x)
    assert y.npartitions == 100
    assert len(y.dask.to_dict()) <= 7 * 100


def test_nothing_is_computed_before_it_is_asked_for():
    def fails(block):
        raise AssertionError("computed")

    x = da.zeros((20, 20), chunks=10).map_blocks(fails, dtype=float, meta=np.zeros((0, 0)))
    y = to_dask(convmat.Conv2d(np.ones((3, 3)), (20, 20))).apply(x)
    with pytest.raises(AssertionError, match="computed"):
        y.compute()


def test_inside_a_task_there_is_one_thread(monkeypatch):
    seen = []
    of_block = scale.cut

    def spy(*arguments):
        seen.append(threads.workers())
        return of_block(*arguments)

    monkeypatch.setenv("CONVMAT_NUM_THREADS", "3")
    y = to_dask(convmat.Conv2d(np.ones((3, 3)), (20, 20))).apply(da.zeros((20, 20), chunks=10))
    monkeypatch.setattr(scale, "cut", spy)
    y.compute()
    assert set(seen) == {1}
    assert threads.workers() == 3


def test_a_task_takes_the_method_that_was_chosen_outside(monkeypatch):
    monkeypatch.setenv("CONVMAT_NUM_THREADS", "2")
    A = convmat.Conv2d(np.random.default_rng(0).standard_normal((9, 9)), (300, 300))
    D = pickle.loads(pickle.dumps(to_dask(A)))
    with threads.alone():
        assert D.operator._products.methods == A._products.methods
        assert D.operator._products._chosen is not None


def test_only_the_blocks_that_are_read_are_computed():
    read = []

    def note(block, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return block

    x = da.zeros((60, 60), chunks=10).map_blocks(note, dtype=float, meta=np.zeros((0, 0)))
    y = to_dask(convmat.Conv2d(np.ones((3, 3)), (60, 60), padding=1, padding_mode="circular")).apply(x)
    y[:10, :10].compute(scheduler="sync")
    assert set(read) == set(itertools.product((0, 1, 5), (0, 1, 5)))


def test_the_blocks_of_rows_are_the_matrix():
    rng = np.random.default_rng(0)
    A = convmat.Conv2d(rng.standard_normal((4, 2, 3, 3)), (9, 8), stride=2, padding=1, padding_mode="circular")
    for B in (A, A.T, A.T @ A):
        D, whole = to_dask(B), B.tosparse().toarray().reshape(*B.output_shape, -1)
        for chunks in (None, 3, ((B.output_shape[0],), 2, 3)):
            covered = np.zeros(B.output_shape, dtype=int)
            for box, rows in D.tosparse(chunks):
                found = rows.compute(scheduler="sync")
                assert sparse.issparse(found)
                assert found.has_sorted_indices
                close(found.toarray(), whole[box].reshape(found.shape))
                covered[box] += 1
            assert (covered == 1).all()


def test_what_needs_the_whole_image_says_so():
    dense = Separable((6, 5), [np.ones((6, 6)), np.ones((5, 5))])
    A = convmat.Conv2d(np.ones((3, 3)), (6, 5), padding=1)
    with pytest.raises(TypeError, match=r"Separable.*dense matrix along each axis.*whole input"):
        to_dask(dense @ A)
    with pytest.raises(TypeError, match=r"WeightOperator.*not known"):
        to_dask(A.weight_operator(np.ones((6, 5))))
    with pytest.raises(TypeError, match=r"'kronecker' has no blocks.*kind='schwarz'"):
        to_dask(convmat.preconditioner(A, 0.1, kind="kronecker"))
    with pytest.raises(TypeError, match="operator is of type csr_array"):
        to_dask(A.tosparse())


def test_wrong_arrays_are_refused_before_anything_is_computed():
    D = to_dask(convmat.Conv2d(np.ones((3, 3)), (6, 5)))
    with pytest.raises(ValueError, match=r"image has shape \(5, 6\)"):
        D.apply(da.zeros((5, 6)))
    with pytest.raises(TypeError, match="image has dtype"):
        D.apply(da.from_array(np.full((6, 5), "a")))
    unknown = da.zeros((6, 5), chunks=3)
    unknown = unknown[unknown[:, 0] > 1]
    with pytest.raises(ValueError, match=r"unknown|image has shape"):
        D.apply(unknown)


def test_an_operator_on_dask_arrays_is_pickled_and_shown():
    D = to_dask(convmat.Conv2d(np.ones((3, 3)), (6, 5)))
    for other in (pickle.loads(pickle.dumps(D)), copy.copy(D)):
        assert isinstance(other, DaskOperator)
        assert other.shape == D.shape == (12, 30)
    assert repr(D) == "<12x30 DaskOperator of <12x30 Conv2d with dtype=float64>>"
    assert D.T.operator is D.operator.T
    assert D.H is D.T


def test_the_adjoint_of_a_complex_operator_conjugates():
    rng = np.random.default_rng(0)
    A = convmat.Conv1d(numbers(rng, (3,), complex), 30, padding=1, padding_mode="reflect")
    y = numbers(rng, (30,), complex)
    close(to_dask(A).H.apply(da.from_array(y, chunks=7)).compute(), A.H.apply(y))


def test_a_worker_that_is_killed_in_the_middle_of_a_solve_changes_nothing():
    pytest.importorskip("distributed")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("cluster.py")],
        capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("the same")
