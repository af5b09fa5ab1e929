"""CVXPY takes the matrices of the operators as they are; its solutions are compared with those of scipy."""

import textwrap

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import linprog, lsq_linear, nnls

import convmat
import convmat.interop
from tests import oracle

cp = pytest.importorskip("cvxpy")

SCENE = np.clip(np.random.default_rng(8).standard_normal((8, 8)), 0, None)  # half of the pixels are black
TIGHT = {"solver": cp.CLARABEL, "tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}


def camera(mode="reflect", dtype="float64"):
    """Blur, and keep every second pixel."""
    weight = np.outer([1.0, 3, 3, 1], [1.0, 2, 2, 1]) / 48
    return convmat.Conv2d(weight.astype(dtype), SCENE.shape, stride=2, padding=1, padding_mode=mode)


@pytest.mark.parametrize("mode", oracle.COPYING)
def test_nonnegative_super_resolution_reaches_the_residual_of_nnls(mode):
    A = camera(mode)
    y = A @ SCENE.ravel() + 0.2 * np.random.default_rng(2).standard_normal(A.shape[0])
    x = cp.Variable(A.shape[1])
    problem = cp.Problem(cp.Minimize(cp.norm(A.tosparse() @ x - y)), [x >= 0])
    problem.solve(**TIGHT)
    assert problem.status == cp.OPTIMAL
    assert x.value.min() > -1e-9
    residual = nnls(A.toarray(), y)[1]
    assert residual > 1e-3  # the data cannot be met: there is something to agree on
    assert problem.value == pytest.approx(residual, rel=1e-6)


@pytest.mark.parametrize("transpose", [False, True], ids=["convolution", "transposed"])
def test_bounded_least_squares_has_the_solution_of_lsq_linear(transpose):
    A = convmat.Conv2d([[0.1, 0.3, 0], [0.2, 2.0, 0.1], [0, 0.1, 0.2]], SCENE.shape, padding=1, padding_mode="circular")
    A = A.T if transpose else A
    y = A @ SCENE.ravel() + np.random.default_rng(9).standard_normal(A.shape[0])
    x = cp.Variable(A.shape[1])
    cp.Problem(cp.Minimize(cp.sum_squares(A.tosparse() @ x - y)), [x >= 0, x <= 1]).solve(**TIGHT)
    want = lsq_linear(A.tosparse(), y, (0, 1), tol=1e-14, lsmr_tol="auto").x
    np.testing.assert_allclose(x.value, want, atol=1e-5)


def test_sparse_recovery_has_the_optimum_of_linprog():
    A = camera("zeros")
    points = np.zeros(SCENE.shape)
    points[[1, 4, 6], [2, 6, 1]] = [1.0, -2.0, 0.5]
    S, y = A.tosparse(), A.apply(points).ravel()
    x = cp.Variable(A.shape[1])
    problem = cp.Problem(cp.Minimize(cp.norm1(x)), [S @ x == y])
    problem.solve(**TIGHT)
    want = linprog(np.ones(2 * x.size), A_eq=scipy.sparse.hstack([S, -S]), b_eq=y)  # x = u - v, u and v >= 0
    assert problem.value == pytest.approx(want.fun, rel=1e-8)
    np.testing.assert_allclose(S @ x.value, y, atol=1e-8)


def test_total_variation_with_the_matrices_of_difference_filters():
    A = camera("symmetric")
    step = np.where(np.arange(8) < 4, 0.0, 1.0) * np.ones((8, 1))
    down = convmat.Conv2d([[-1.0], [1.0]], step.shape).tosparse()
    right = convmat.Conv2d([[-1.0, 1.0]], step.shape).tosparse()
    x = cp.Variable(step.size)
    variation = cp.norm1(down @ x) + cp.norm1(right @ x)
    problem = cp.Problem(cp.Minimize(variation), [A.tosparse() @ x == A.apply(step).ravel()])
    problem.solve(**TIGHT)
    # The same as a linear programme: |D x| <= t
    D = scipy.sparse.vstack([down, right])
    eye = scipy.sparse.eye_array(D.shape[0])
    want = linprog(
        np.r_[np.zeros(step.size), np.ones(D.shape[0])],
        A_ub=scipy.sparse.block_array([[D, -eye], [-D, -eye]]),
        b_ub=np.zeros(2 * D.shape[0]),
        A_eq=scipy.sparse.hstack([A.tosparse(), scipy.sparse.csr_array((A.shape[0], D.shape[0]))]),
        b_eq=A.apply(step).ravel(),
        bounds=[(None, None)] * step.size + [(0, None)] * D.shape[0],
    )
    assert problem.value == pytest.approx(want.fun, rel=1e-7)
    assert problem.value <= np.abs(D @ step.ravel()).sum() + 1e-7  # no more than that of the scene, which is feasible


@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_expressions_have_the_value_of_the_product(format, dtype):
    A = camera("replicate", dtype)
    constant = cp.Constant(A.tosparse(format))
    assert constant.is_constant()
    got = (constant @ SCENE.ravel()).value
    np.testing.assert_allclose(got, A.apply(SCENE).ravel(), atol=1e-6 if dtype == "float32" else 1e-13)


def test_a_complex_matrix_meets_its_data():
    A = convmat.Conv1d([2.0 + 1j, 0.5j, -0.3], 9, padding=1)
    truth = np.arange(9) * (1 - 2j)
    x = cp.Variable(9, complex=True)
    cp.Problem(cp.Minimize(cp.sum_squares(A.tosparse() @ x - A @ truth))).solve(**TIGHT)
    np.testing.assert_allclose(x.value, truth, atol=1e-3)


def test_an_operator_without_its_matrix_is_no_constant_of_cvxpy():
    with pytest.raises(TypeError, match="must be a string or a real number, not 'Conv2d'"):
        cp.Constant(camera())


def test_the_snippet_of_the_documentation_finds_the_scene():
    names = {}
    exec(textwrap.dedent(convmat.interop.__doc__.partition("::\n")[2]), names)
    assert names["problem"].status == cp.OPTIMAL
    np.testing.assert_allclose(names["image"], names["scene"], atol=1e-6)


def test_an_operator_times_a_variable_says_that_the_matrix_is_wanted():
    A, x = convmat.Conv1d([1.0, 2.0], 5), cp.Variable(5)
    with pytest.raises(TypeError, match=r"x is of type Variable.*A\.tosparse\(\) @ x takes the place of A @ x"):
        A @ x
    assert (A.tosparse() @ x).shape == (4,)
