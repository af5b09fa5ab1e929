"""Spectra and solvers refuse what does not fit in memory before they allocate it, and say what to use instead."""

import re
import tracemalloc

import numpy as np
import pytest

from convmat import Conv1d, Conv2d, Conv3d, matrix, norm_bounds, preconditioner, singular_values, svd, tikhonov

SKEWED = np.arange(1.0, 10.0).reshape(3, 3) ** 2
EVEN = np.array([[1.0, 2, 1], [2, 5, 2], [1, 2, 1]])
MILLION = (10**6, 10**6)
CIRCULAR = {"padding": 1, "padding_mode": "circular"}

REFUSED = {
    "values of a circular layer": (
        lambda: singular_values(Conv2d(np.ones((3, 3)), (200_000, 200_000), **CIRCULAR)), "norm_bounds(A)"),
    "values of a line": (lambda: singular_values(Conv1d(SKEWED[0], 10**12, **CIRCULAR)), "svds(A, k)"),
    "values of a Kronecker product": (
        lambda: singular_values(Conv3d(np.ones((3, 3, 3)), (2000, 2000, 2000), padding=1)), "norm_bounds(A)"),
    "svd of a circular layer": (lambda: svd(Conv2d(np.ones((3, 3)), (200_000, 200_000), **CIRCULAR)), "svds(A, k)"),
    "vectors of many channels": (
        lambda: svd(Conv2d(np.ones((64, 64, 3, 3)), (4096, 4096), **CIRCULAR)), "singular_values(A)"),
    "dct, exact": (
        lambda: preconditioner(Conv2d(EVEN, MILLION, padding=1, padding_mode="symmetric"), 1, kind="dct"), "lsqr"),
    "dct": (lambda: preconditioner(Conv2d(SKEWED, MILLION, padding=1), 1, kind="dct"), "lsqr"),
    "dct, chosen": (lambda: preconditioner(Conv2d(EVEN, MILLION, padding=1, padding_mode="symmetric"), 1), "lsqr"),
    "schwarz": (lambda: preconditioner(Conv2d(SKEWED, MILLION, padding=1), 1, kind="schwarz"), "overlap"),
    "schwarz on a line": (lambda: preconditioner(Conv1d(SKEWED[0], 10**13), 1, kind="schwarz"), "overlap"),
    "tikhonov with few data": (
        lambda: tikhonov(Conv2d(SKEWED, MILLION, stride=10**5), np.ones((10, 10)), 1), "overlap"),
}  # fmt: skip

LITTLE = {
    "values": (lambda: singular_values(Conv2d(SKEWED, (256, 256), **CIRCULAR)), "norm_bounds(A)"),
    "svd": (lambda: svd(Conv2d(np.ones((4, 4, 3, 3)), (96, 96), **CIRCULAR)), "svds(A, k)"),
    "values in sines": (lambda: singular_values(Conv2d(EVEN, (256, 256), padding=1)), "norm_bounds(A)"),
    "svd in sines": (
        lambda: svd(Conv2d(EVEN[None, None].repeat(4, 0).repeat(4, 1), (96, 96), padding=1)), "svds(A, k)"),
    "dense groups": (
        lambda: singular_values(Conv2d(SKEWED[None, None].repeat(8, 0), (16, 16), groups=8)), "norm_bounds(A)"),
    "axis matrices": (
        lambda: singular_values(Conv2d(np.ones((2, 1, 3, 3)), (120, 120), groups=2)), "norm_bounds(A)"),
    "bounds": (lambda: norm_bounds(Conv2d(SKEWED, (256, 256), padding=1)), "smaller input"),
    "dct": (lambda: preconditioner(Conv2d(SKEWED, (128, 128), padding=1), 1, kind="dct"), "lsqr"),
    "schwarz": (lambda: preconditioner(Conv2d(SKEWED, (256, 256), padding=1), 1, kind="schwarz"), "overlap"),
    "kronecker": (lambda: preconditioner(Conv2d(np.ones((3, 3)), (256, 256)), 1, kind="kronecker"), "lsqr"),
    "tikhonov": (lambda: tikhonov(Conv2d(SKEWED, (256, 256), padding=1), np.ones((256, 256)), 1), "overlap"),
}  # fmt: skip


def assert_refused(compute, instead):
    """By a sentence with the need and the way out, before more than a few MB are allocated."""
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError) as caught:
            compute()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert re.search(r"needs \d+ bytes \(\d+\.\d GiB\), and \d+\.\d GiB are available: ", str(caught.value))
    assert instead in str(caught.value).split("available: ")[1]
    assert peak < 2**23


@pytest.mark.parametrize(("compute", "instead"), REFUSED.values(), ids=REFUSED)
def test_what_no_machine_can_hold_is_refused(monkeypatch, compute, instead):
    monkeypatch.setattr(matrix, "_available_memory", lambda: 2.0**37)
    assert_refused(compute, instead)


@pytest.mark.parametrize(("compute", "instead"), LITTLE.values(), ids=LITTLE)
def test_what_this_machine_cannot_hold_is_refused(monkeypatch, compute, instead):
    monkeypatch.setattr(matrix, "_ALWAYS_FITS", 0)
    monkeypatch.setattr(matrix, "_available_memory", lambda: 2.0**20)
    assert_refused(compute, instead)


@pytest.mark.parametrize("name", sorted(LITTLE.keys() - {"tikhonov"}))
def test_what_is_allocated_is_about_what_was_asked_for(monkeypatch, name):
    compute, asked = LITTLE[name][0], []
    compute()  # modules are imported and code is compiled
    monkeypatch.setattr(matrix, "_ALWAYS_FITS", 0)
    monkeypatch.setattr(matrix, "_available_memory", lambda: float("inf"))
    check = matrix.check_bytes

    def note(what, needed, instead):
        asked.append(needed)
        check(what, needed, instead)

    for module in (
        "matrix", "products.symbol", "spectrum.bases", "spectrum.bounds",
        "solve.inverses.cosine", "solve.inverses.kronecker", "solve.inverses.problem",
    ):  # fmt: skip
        monkeypatch.setattr(f"convmat.{module}.check_bytes", note)
    tracemalloc.start()
    try:
        compute()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(asked) / 4 < peak < 3 * max(asked) + 2**23


def test_bounds_of_a_product_of_what_no_machine_can_hold_are_refused():
    A = Conv2d(SKEWED, MILLION, padding=1)
    with pytest.raises(MemoryError, match="smaller input"):
        norm_bounds(A @ A)
