"""Spectra and solvers call BLAS and LAPACK on one thread, whatever they have outside."""

import pytest

pytest.importorskip("threadpoolctl")

from tests.test_products import run_with_four_blas_threads

WATCHED = """
import numpy as np, scipy.linalg
from convmat import (
    Conv2d, clip_singular_values, norm_bounds, normal, preconditioner, singular_values, svd, tikhonov
)
before, inside = count(), {}
assert before != {1}
def watch(module, name):
    function = getattr(module, name)
    def watched(*args, **options):
        inside.setdefault(name, set()).update(count())
        return function(*args, **options)
    setattr(module, name, watched)
for name in ("svd", "norm", "eigvalsh", "eigh", "inv"):
    watch(np.linalg, name)
for name in ("svd", "eigh", "cho_factor", "cho_solve"):
    watch(scipy.linalg, name)
for name in ("matmul", "tensordot", "vdot"):
    watch(np, name)
def check(names, compute):
    inside.clear()
    found = compute()
    assert all(counts == {1} for counts in inside.values()), inside
    assert set(names) <= set(inside), (names, inside)
    assert count() == before
    return found
rng = np.random.default_rng(0)
wide, mixed = rng.standard_normal((8, 8, 3, 3)), rng.standard_normal((3, 3))
circular = Conv2d(wide, (12, 12), padding=1, padding_mode="circular")
separable = Conv2d(np.outer([1, 2, 1], [1, 3, 1]), (24, 24), padding=1, padding_mode="reflect")
small, large = (Conv2d(mixed, (n, n), padding=1, padding_mode="reflect") for n in (12, 40))
"""


def test_blas_has_one_thread_inside_spectra_bounds_and_projections():
    run_with_four_blas_threads(
        WATCHED
        + """
for A in circular, separable, small:
    check({"svd"}, lambda: singular_values(A))
    F = check({"svd"}, lambda: svd(A))
    for operator in F.operator(), F.pinv():
        products = {"tensordot"} if A is separable else {"matmul"}
        check(products, lambda: operator.matmat(np.ones((operator.shape[1], 3))))
        check(products, lambda: operator.rmatvec(np.ones(operator.shape[0])))
check({"norm"}, lambda: norm_bounds(small))
check({"eigh"}, lambda: norm_bounds(Conv2d(wide, (20, 20), padding=1)))
check({"svd"}, lambda: clip_singular_values(wide, (12, 12), 1.0))
"""
    )


def test_blas_has_one_thread_inside_solvers_and_their_operators():
    run_with_four_blas_threads(
        WATCHED
        + """
for A, names in (circular, {"inv"}), (separable, {"svd"}), (small, {"cho_factor"}), (large, {"vdot"}):
    check(names, lambda: tikhonov(A, np.ones(A.output_shape), 0.1))
    check((), lambda: normal(A, 0.1) @ np.ones(A.shape[1]))
    M = check((), lambda: preconditioner(A, 0.1))
    check((), lambda: M @ np.ones(A.shape[1]))
check({"cho_factor"}, lambda: preconditioner(large, 0.1, kind="schwarz"))
# `@` is not np.matmul: look while images pass through the inverses themselves
for A in circular, large:
    problem = preconditioner(A, 0.1)._inverse
    apply = type(problem).apply
    seen = set()
    def watched(self, r):
        seen.update(count())
        return apply(self, r)
    type(problem).apply = watched
    preconditioner(A, 0.1) @ np.ones(A.shape[1])
    assert seen == {1}
    type(problem).apply = apply
"""
    )
