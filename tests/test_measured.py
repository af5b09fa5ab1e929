"""method="measure": what is timed, and what is remembered."""

import pickle
import threading
import time

import numpy as np
import pytest

import convmat
from convmat import Conv2d
from convmat.products import METHODS, measured, plan, usable


class Slow:
    """A product by the matrix that takes a given time, and counts its calls."""

    def __init__(self, seconds, calls):
        self._seconds, self._calls = seconds, calls

    def __call__(self, geometry, weight):
        self._matrix = METHODS_BEFORE["matrix"](geometry, weight)
        return self

    def work_bytes(self, geometry, itemsize):
        return 0.0

    def forward(self, x):
        self._calls.append("forward")
        time.sleep(self._seconds)
        return self._matrix.forward(x)

    def transpose(self, y):
        self._calls.append("transpose")
        time.sleep(self._seconds)
        return self._matrix.transpose(y)


METHODS_BEFORE = dict(METHODS)


@pytest.fixture
def calls(monkeypatch):
    """Three methods: gemm is expected to be best, fft is, separable is expected to be hopeless."""
    calls = {"gemm": [], "fft": [], "separable": []}
    for method, seconds in (("gemm", 0.02), ("fft", 0.001), ("separable", 0.0)):
        monkeypatch.setitem(METHODS, method, Slow(seconds, calls[method]))
    expected = [plan.Estimate("gemm", 1.0, 1.0), plan.Estimate("fft", 3.9, 3.9), plan.Estimate("separable", 4.1, 4.1)]
    monkeypatch.setattr(plan, "estimates", lambda *_: expected)
    monkeypatch.setattr(measured, "_winners", {})
    return calls


def test_the_fastest_of_the_promising_methods_is_taken_and_the_others_are_not_tried(calls):
    A = Conv2d(np.ones((3, 3)), (6, 7), method="measure")
    assert A.method == "gemm"  # expected, as long as nothing was measured
    np.testing.assert_allclose(A @ np.ones(42), np.full(20, 9.0))
    assert (A.method, A.T.method) == ("fft", "gemm")
    assert set(calls["gemm"]) == {"forward"}
    assert not calls["separable"]
    np.testing.assert_allclose(A.T @ np.ones(20), A.tosparse().T @ np.ones(20))
    assert A.T.method == "fft"
    assert "measured" in A.explain()


def test_a_winner_is_remembered_for_the_geometry_direction_and_dtype(calls):
    Conv2d(np.ones((3, 3)), (6, 7), method="measure") @ np.ones(42)
    tried = len(calls["gemm"])
    other = Conv2d(np.arange(9.0).reshape(3, 3), (6, 7), method="measure")
    other @ np.ones(42)
    assert len(calls["gemm"]) == tried
    assert other.method == "fft"
    other @ np.ones(42, dtype=complex)
    assert len(calls["gemm"]) > tried
    tried = len(calls["gemm"])
    Conv2d(np.ones((3, 3)), (7, 7), method="measure") @ np.ones(49)
    assert len(calls["gemm"]) > tried


def test_threads_that_wait_for_the_same_measurement_make_it_once(calls):
    A = Conv2d(np.ones((3, 3)), (6, 7), method="measure")
    results = []
    workers = [threading.Thread(target=lambda: results.append(A @ np.ones(42))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert len(calls["gemm"]) <= 1 + measured.ROUNDS


def test_methods_that_lost_keep_no_plan(calls):
    A = Conv2d(np.ones((3, 3)), (6, 7), method="measure")
    A @ np.ones(42)
    A.T @ np.ones(20)
    assert {method for method, _ in A._products._plans} == {"fft"}


def test_a_method_that_is_far_behind_has_one_turn(calls):
    Conv2d(np.ones((3, 3)), (6, 7), method="measure") @ np.ones(42)
    assert len(calls["gemm"]) == 2  # the first call, and one round
    assert len(calls["fft"]) == 1 + measured.ROUNDS + 1  # and the product itself


@pytest.mark.parametrize("weight", [np.ones((2, 2)), np.full((2, 2), np.nan), np.ones((3, 2, 2, 2), np.complex64)])
def test_measured_products_are_those_of_the_matrix(weight, tmp_path):
    A = Conv2d(weight, (9, 8), stride=2, method="measure")
    x = np.arange(A.shape[1], dtype=A.dtype)
    np.testing.assert_allclose(A @ x, A.tosparse() @ x, rtol=1e-5)
    np.testing.assert_allclose(A.H @ (A @ x), A.tosparse().conj().T @ (A @ x), rtol=1e-5)
    assert A.method in usable()
    convmat.save(A, tmp_path / "A.npz")
    for B in (pickle.loads(pickle.dumps(A)), convmat.load(tmp_path / "A.npz")):
        np.testing.assert_allclose(B @ x, A @ x, rtol=1e-5)
        assert B.explain().splitlines()[0].endswith(A.explain().splitlines()[0].partition(": ")[2])
