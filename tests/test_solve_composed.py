"""Least squares with operators made of operators: the solution is that of their matrices."""

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator

from convmat import (
    Conv1d,
    Conv2d,
    Diagonal,
    Downsample,
    Rearrange,
    Separable,
    block_diag,
    check_adjoint,
    identity,
    normal,
    preconditioner,
    simplify,
    tikhonov,
    vstack,
)
from tests.trees import Trees

N = 40
RNG = np.random.default_rng(0)
SMOOTH = np.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0]) / 16


def differences(n, mode):
    across = Conv2d([[-1.0, 1.0]], (n, n), padding=((0, 0), (0, 1)), padding_mode=mode)
    down = Conv2d([[-1.0], [1.0]], (n, n), padding=((0, 1), (0, 0)), padding_mode=mode)
    return vstack([across, down])


def blur(mode, kernel=SMOOTH, n=N, **options):
    return Conv2d(kernel, (n, n), padding=len(kernel) // 2, padding_mode=mode, **options)


def dense_solution(A, y, damp, R):
    a = A.toarray().astype(np.complex128 if A.dtype.kind == "c" else np.float64)
    r = np.eye(A.shape[1]) if R is None else R.toarray()
    stack = np.vstack([a, damp * r])
    return np.linalg.lstsq(stack, np.concatenate([y.ravel(), np.zeros(len(r))]), rcond=None)[0]


RANDOM = RNG.standard_normal((5, 5))
PROBLEMS = {
    "differences": (blur("symmetric"), differences(N, "replicate"), "kronecker"),
    "differences on a torus": (blur("circular", RANDOM), differences(N, "circular"), "circulant"),
    "differences as one layer": (blur("symmetric"), simplify(differences(N, "replicate")), "kronecker"),
    "identity": (identity((N, N)), differences(N, "replicate"), "kronecker"),
    "two views": (vstack([blur("circular", RANDOM), 2 * blur("circular")]), None, "circulant"),
    "two channels of a stack": (vstack([blur("circular", RANDOM, stride=2), blur("circular")]), None, "circulant"),
    "multiple": (-2 * blur("reflect"), None, "kronecker"),
    "sum": (blur("circular", RANDOM) + blur("circular"), None, "circulant"),
    "batch norm": (Diagonal(RNG.standard_normal((1, 1)), (N, N)) @ blur("reflect"), None, "kronecker"),
    "reshaped": (Rearrange((N, N), N * N) @ blur("circular", RANDOM), None, "circulant"),
    "reshaped before": (blur("circular", RANDOM) @ Rearrange(N * N, (N, N)), None, "circulant"),
    "samples": (Downsample((N, N), 2), differences(N, "replicate"), "cg"),
    "product": (blur("reflect") @ blur("reflect"), None, "cg"),
    "mask": (Diagonal(RNG.integers(0, 2, (N, N)), (N, N)), differences(N, "replicate"), "cg"),
    "small product": (Conv1d([1.0, 2.0], 9) @ Conv1d([1.0, 3.0], 10), None, "direct"),
    "matrices": (Separable((9, 8), [np.ones((5, 9)), None]), None, "direct"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_solution_is_that_of_the_matrices_and_structure_is_used(name):
    A, R, method = PROBLEMS[name]
    y = RNG.standard_normal(A.output_shape)
    x, info = tikhonov(A, y, 0.3, regularizer=R, rtol=1e-10)
    assert info.converged
    assert info.method.startswith(method)
    assert x.shape == A.input_shape
    expected = dense_solution(A, y, 0.3, R)
    np.testing.assert_allclose(x.ravel(), expected, atol=1e-8 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_normal_operator_is_that_of_the_matrices(name):
    A, R, _ = PROBLEMS[name]
    N = normal(A, 0.3, regularizer=R)
    x = RNG.standard_normal(A.shape[1])
    r = x if R is None else R.T @ (R @ x)
    np.testing.assert_allclose(N @ x, A.T @ (A @ x) + 0.09 * r, atol=1e-12 * np.abs(x).max() * 100)
    assert (N.input_shape, N.output_shape) == (A.input_shape, A.input_shape)


@pytest.mark.parametrize("name", ["differences", "differences on a torus", "two views", "identity", "sum"])
def test_exact_preconditioner_is_the_inverse(name):
    A, R, kind = PROBLEMS[name]
    M = preconditioner(A, 0.3, regularizer=R)
    assert (M.kind, M.exact) == (kind, True)
    x = RNG.standard_normal(A.shape[1])
    np.testing.assert_allclose(M @ (normal(A, 0.3, regularizer=R) @ x), x, atol=1e-9)
    check_adjoint(M, rtol=1e-12)


@pytest.mark.parametrize("chunk", range(6))
def test_random_expressions_are_solved_as_their_matrices_are(chunk):
    for seed in range(25 * chunk, 25 * (chunk + 1)):
        trees = Trees(seed)
        A, dense = trees.tree(trees.integer(0, 3), trees.shape())
        y = trees.numbers(A.output_shape, np.float64)
        damp = 0.5 * max(1.0, np.linalg.norm(dense, 2))
        x, info = tikhonov(A, y, damp)
        expected = np.linalg.solve(dense.conj().T @ dense + damp**2 * np.eye(A.shape[1]), dense.conj().T @ y.ravel())
        scale = max(np.abs(expected).max(initial=0), 1e-30)
        assert info.converged, seed
        assert np.abs(x.ravel() - expected).max(initial=0) <= (1e-3 if trees.single else 1e-6) * scale, seed


def test_scale_changes_no_digit():
    A, R, _ = PROBLEMS["differences"]
    y = RNG.standard_normal(A.output_shape)
    x, _ = tikhonov(A, y, 0.25, regularizer=R)
    far = 2.0**600
    scaled, info = tikhonov(far * A, y, 0.25, regularizer=far * R)
    assert info.converged
    assert np.array_equal(scaled * far, x)


def test_numbers_that_are_not_finite_are_refused_wherever_they_are():
    A = blur("circular")
    for wrong in (np.nan * A, A + np.inf * A, Diagonal([[np.nan]], (N, N)) @ A, vstack([A, block_diag([np.inf * A])])):
        with pytest.raises(ValueError, match="not finite"):
            normal(wrong, 0.1)


def test_foreign_operators_are_refused():
    A = blur("circular")
    foreign = A + LinearOperator(A.shape, matvec=lambda x: x, rmatvec=lambda x: x, dtype=float)
    with pytest.raises(TypeError, match="must be an operator of convmat"):
        tikhonov(foreign, np.ones(A.shape[0]), 0.1)


@pytest.mark.parametrize("n", [6, N])
@pytest.mark.parametrize("kind", [np.float64, np.complex128])
def test_complex_multiples_of_real_operators_have_complex_solutions(n, kind):
    B, C = blur("zeros", n=n), blur("reflect", n=n)
    for A in (1j * vstack([B, C]), vstack([B, 2j * B])):
        y = RNG.standard_normal(A.output_shape).astype(kind)
        x, info = tikhonov(A, y, 0.3, rtol=1e-10)
        assert info.converged
        assert x.dtype == A.dtype
        np.testing.assert_allclose(x.ravel(), dense_solution(A, y, 0.3, None), atol=1e-8)
        check_adjoint(normal(A, 0.3))
        check_adjoint(preconditioner(A, 0.3))
