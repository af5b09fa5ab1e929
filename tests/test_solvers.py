"""scipy's solvers take the operators, matrix-free and explicit, and find what dense linear algebra finds."""

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import lsq_linear
from scipy.sparse.linalg import (
    LinearOperator,
    aslinearoperator,
    bicgstab,
    cg,
    eigsh,
    gmres,
    lobpcg,
    lsmr,
    lsqr,
    minres,
    splu,
    spsolve,
    svds,
)  # fmt: skip

from convmat import Conv1d, Conv2d, ConvTranspose2d

SIZE = (7, 6)
COUNT = 42
rng = np.random.default_rng(0)
REAL = 0.3 * rng.standard_normal((3, 3)) + np.diag([0, 4.0, 0])
COMPLEX = REAL + 0.3j * rng.standard_normal((3, 3))
VECTOR = rng.standard_normal((2, COUNT))
TIGHT = 1e-13


def solution(dtype):
    return VECTOR[0] + 1j * VECTOR[1] if dtype == "complex" else VECTOR[0]


def system(dtype, method="gemm"):
    """A square, well-conditioned convolution."""
    return Conv2d(COMPLEX if dtype == "complex" else REAL, SIZE, padding=1, method=method)


def hermitian(dtype):
    """A square, Hermitian, positive definite one: the kernel is its own flipped conjugate."""
    kernel = COMPLEX if dtype == "complex" else REAL
    A = Conv2d((kernel + kernel[::-1, ::-1].conj()) / 2, SIZE, padding=1)
    np.testing.assert_array_equal(A.toarray(), A.toarray().conj().T)
    return A


def forms(A):
    return {"matrix-free": A, "explicit": A.tosparse()}


dtypes = pytest.mark.parametrize("dtype", ["real", "complex"])
each_form = pytest.mark.parametrize("form", ["matrix-free", "explicit"])

SQUARE = {
    "lsqr": lambda A, b: lsqr(A, b, atol=1e-14, btol=1e-14)[0],
    "lsmr": lambda A, b: lsmr(A, b, atol=1e-14, btol=1e-14, maxiter=1000)[0],
    "gmres": lambda A, b: gmres(A, b, rtol=TIGHT, restart=COUNT)[0],
    "bicgstab": lambda A, b: bicgstab(A, b, rtol=TIGHT)[0],
    "lsq_linear": lambda A, b: lsq_linear(A, b, tol=1e-14, lsq_solver="lsmr", lsmr_tol=1e-14).x,
}


@pytest.mark.parametrize("solve", SQUARE.values(), ids=SQUARE)
@dtypes
@each_form
def test_a_square_system_is_solved(form, dtype, solve):
    A, x = system(dtype), solution(dtype)
    np.testing.assert_allclose(solve(forms(A)[form], A.toarray() @ x), x, atol=1e-10)


@pytest.mark.parametrize("solve", SQUARE.values(), ids=SQUARE)
@dtypes
def test_the_transposed_system_is_solved(dtype, solve):
    A, x = system(dtype), solution(dtype)
    np.testing.assert_allclose(solve(A.T, A.toarray().T @ x), x, atol=1e-10)
    np.testing.assert_allclose(solve(A.H, A.toarray().conj().T @ x), x, atol=1e-10)


@dtypes
@each_form
def test_cg_solves_the_normal_equations(form, dtype):
    A, x = system(dtype), solution(dtype)
    N = forms(A)[form]
    H = N.H if form == "matrix-free" else N.conj().T
    found, info = cg(H @ N, H @ (A.toarray() @ x), rtol=TIGHT)
    assert info == 0
    np.testing.assert_allclose(found, x, atol=1e-10)


@dtypes
@each_form
def test_cg_solves_a_hermitian_system(form, dtype):
    S, x = hermitian(dtype), solution(dtype)
    np.testing.assert_allclose(cg(forms(S)[form], S.toarray() @ x, rtol=TIGHT)[0], x, atol=1e-10)


@each_form
def test_minres_solves_a_symmetric_system(form):
    """minres is for real systems."""
    S, x = hermitian("real"), solution("real")
    np.testing.assert_allclose(minres(forms(S)[form], S.toarray() @ x, rtol=TIGHT)[0], x, atol=1e-10)


@each_form
def test_lsq_linear_keeps_its_bounds(form):
    """Bounds are for real systems."""
    A, x = system("real"), solution("real")
    b = A.toarray() @ x
    found = lsq_linear(forms(A)[form], b, bounds=(-0.5, 0.5), tol=1e-12, lsq_solver="lsmr", lsmr_tol="auto").x
    expected = lsq_linear(A.toarray(), b, bounds=(-0.5, 0.5), tol=1e-12).x
    assert np.abs(expected).max() == pytest.approx(0.5)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("solve", [SQUARE["lsqr"], SQUARE["lsmr"]], ids=["lsqr", "lsmr"])
@dtypes
@each_form
def test_least_squares_of_a_strided_layer_are_those_of_the_pseudo_inverse(form, dtype, solve):
    kernel = COMPLEX if dtype == "complex" else REAL
    A = Conv2d(np.stack([kernel, kernel.T])[:, None], SIZE, stride=2, padding=1, padding_mode="reflect")
    x = solution(dtype)
    wide = A.toarray()
    assert wide.shape[0] < wide.shape[1]
    np.testing.assert_allclose(solve(forms(A)[form], wide @ x), np.linalg.pinv(wide) @ (wide @ x), atol=1e-9)
    np.testing.assert_allclose(solve(forms(A.T)[form], x), np.linalg.lstsq(wide.T, x, rcond=None)[0], atol=1e-9)


@pytest.mark.parametrize("solver", ["arpack", "lobpcg", "propack"])
@dtypes
@each_form
def test_svds_finds_the_largest_singular_values(form, dtype, solver):
    A = system(dtype)
    start = np.ones(COUNT, dtype=A.dtype) / 7
    tol = 1e-5 if solver == "lobpcg" else 1e-10  # lobpcg takes it on the squares
    found = svds(forms(A)[form], k=3, v0=start, solver=solver, maxiter=500, tol=tol)
    expected = np.linalg.svd(A.toarray(), compute_uv=False)[:3]
    np.testing.assert_allclose(np.sort(found[1])[::-1], expected, rtol=1e-8)
    u, s, vh = found
    np.testing.assert_allclose(A.toarray() @ vh.conj().T, u * s, atol=1e-4)


@dtypes
@each_form
def test_eigsh_finds_the_largest_eigenvalues(form, dtype):
    S = hermitian(dtype)
    found = eigsh(forms(S)[form], k=3, which="LA", v0=np.ones(COUNT, dtype=S.dtype), return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(found), np.linalg.eigvalsh(S.toarray())[-3:], rtol=1e-10)


@dtypes
@each_form
def test_lobpcg_finds_the_largest_eigenvalues(form, dtype):
    S = hermitian(dtype)
    start = np.linalg.qr(np.random.default_rng(1).standard_normal((COUNT, 3)))[0].astype(S.dtype)
    values, vectors = lobpcg(forms(S)[form], start, tol=1e-9, maxiter=300)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(S.toarray())[-3:], rtol=1e-10)
    np.testing.assert_allclose(S @ vectors, vectors * values, atol=1e-6)


@dtypes
def test_direct_solvers_take_the_explicit_matrix(dtype):
    A, x = system(dtype), solution(dtype)
    b = A.toarray() @ x
    np.testing.assert_allclose(spsolve(A.tosparse(), b), x, atol=1e-12)
    np.testing.assert_allclose(splu(A.tosparse("csc")).solve(b), x, atol=1e-12)
    np.testing.assert_allclose(splu(A.tosparse("csc")).solve(A.toarray().T @ x, trans="T"), x, atol=1e-12)
    np.testing.assert_allclose(spsolve(A.T.tosparse("csc"), A.toarray().T @ x), x, atol=1e-12)


def test_single_precision_is_solved_in_single_precision():
    A = Conv2d(REAL.astype(np.float32), SIZE, padding=1)
    x = solution("real").astype(np.float32)
    found = gmres(A, A @ x, rtol=1e-6, restart=COUNT)[0]
    np.testing.assert_allclose(found, x, atol=1e-4)


# --- algebra ----------------------------------------------------------------------------------------------------------


def dense(operator):
    return operator @ np.eye(operator.shape[1])


@dtypes
def test_algebra_of_operators_is_that_of_their_matrices(dtype):
    A, B = system(dtype), hermitian(dtype)
    a, b = A.toarray(), B.toarray()
    for composed, expected in (
        (A @ B, a @ b),
        (A + B, a + b),
        (A - B, a - b),
        (2 * A, 2 * a),
        (A * 2, 2 * a),
        (2j * A, 2j * a),
        (-A, -a),
        (A / 2, a / 2),
        (A.H @ A, a.conj().T @ a),
        (A.T @ A, a.T @ a),
        (A**2, a @ a),
        (A**3, a @ a @ a),
        (A**0, np.eye(COUNT)),
        ((A @ B).H, (a @ b).conj().T),
        ((A + B).T, (a + b).T),
        ((2j * A).H, -2j * a.conj().T),
        ((A**2).H, (a @ a).conj().T),
        (A + aslinearoperator(np.eye(COUNT)), a + np.eye(COUNT)),
    ):
        assert isinstance(composed, LinearOperator)
        np.testing.assert_allclose(dense(composed), expected, atol=1e-12)


def test_two_layers_compose_to_one_operator():
    weights = np.random.default_rng(2)
    first = Conv2d(weights.standard_normal((4, 2, 3, 3)), (9, 8), stride=2, padding=1, padding_mode="reflect")
    second = Conv2d(weights.standard_normal((3, 4, 3, 3)), first.geometry.output_size, padding="same")
    both = second @ first
    x = weights.standard_normal(first.input_shape)
    np.testing.assert_allclose(both @ x.ravel(), second.apply(first.apply(x)).ravel(), atol=1e-12)
    np.testing.assert_allclose(dense(both), second.toarray() @ first.toarray(), atol=1e-12)
    explicit = second.tosparse() @ first.tosparse()
    np.testing.assert_allclose(explicit.toarray(), dense(both), atol=1e-12)


def test_stacked_operators_solve_with_damping():
    """[A; sqrt(damp) I] x = [b; 0], as the damped lsqr solves it."""
    A = Conv1d([1.0, 2.0, 1.0], 20, padding=1)
    b = np.random.default_rng(3).standard_normal(20)
    stacked = scipy.sparse.vstack([A.tosparse(), 0.5 * scipy.sparse.eye_array(20)])
    expected = np.linalg.lstsq(stacked.toarray(), np.concatenate([b, np.zeros(20)]), rcond=None)[0]
    np.testing.assert_allclose(lsqr(A, b, damp=0.5, atol=1e-14, btol=1e-14)[0], expected, atol=1e-10)


def test_a_transposed_layer_solves_as_any_other():
    B = ConvTranspose2d(REAL, SIZE, padding=1)
    x = solution("real")
    np.testing.assert_allclose(lsqr(B, B.toarray() @ x, atol=1e-14, btol=1e-14)[0], x, atol=1e-10)


def test_aslinearoperator_of_the_explicit_matrix_agrees_with_the_operator():
    A = system("complex")
    wrapped = aslinearoperator(A.tosparse())
    x = solution("complex")
    np.testing.assert_allclose(wrapped @ x, A @ x, atol=1e-12)
    np.testing.assert_allclose(wrapped.H @ x, A.H @ x, atol=1e-12)
    np.testing.assert_allclose(wrapped.rmatvec(x), A.rmatvec(x), atol=1e-12)
