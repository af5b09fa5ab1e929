"""proximal_gradient against scipy's constrained solvers and the conditions of optimality, of the explicit matrix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear, nnls

from convmat import Conv1d, Conv2d, identity, norm_bounds, proximal_gradient, vstack
from tests.strategies import layers, tries

MODES = ["zeros", "reflect", "replicate", "circular", "symmetric"]


def numbers(rng, shape, dtype=float):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def problem(dtype=np.float64, mode="reflect"):
    """More equations than unknowns, so that the solution is unique."""
    rng = np.random.default_rng(0)
    A = Conv2d(numbers(rng, (3, 2, 3, 3), dtype), (8, 7), padding=1, padding_mode=mode)
    return A, numbers(rng, A.output_shape, dtype)


def nothing(image, step):
    return image


def not_negative(image, step):
    return np.maximum(image, 0)


def soft(strength):
    """The proximal map of strength |x|_1, of complex numbers too."""

    def prox(image, step):
        size = np.abs(image)
        return image * np.maximum(1 - step * strength / np.maximum(size, 1e-300), 0)

    return prox


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_without_a_penalty_it_is_least_squares(mode, dtype):
    A, y = problem(dtype, mode)
    x, info = proximal_gradient(A, y, nothing, rtol=1e-12, maxiter=5000)
    expected = np.linalg.lstsq(A.toarray(), y.ravel(), rcond=None)[0]
    assert info.converged
    np.testing.assert_allclose(x.ravel(), expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    gradient = A.H.apply(A.apply(x) - y)
    assert np.linalg.norm(gradient) <= 2e-12 * np.linalg.norm(A.H.apply(y))


@pytest.mark.parametrize("mode", MODES)
def test_the_non_negative_solution_is_that_of_scipy(mode):
    A, y = problem(mode=mode)
    x, info = proximal_gradient(A, y, not_negative, rtol=1e-10, maxiter=5000)
    expected, norm = nnls(A.toarray(), y.ravel())
    assert info.converged
    assert (expected == 0).sum() > 10
    np.testing.assert_allclose(x.ravel(), expected, rtol=0, atol=1e-6)
    assert np.linalg.norm(A.apply(x) - y) == pytest.approx(norm, rel=1e-9)


@tries(60)
@given(layers(dtypes=("float64",)), st.floats(0.2, 1))
def test_the_solution_in_a_box_is_that_of_scipy(layer, damp):
    """Of any layer, in a stack with damp: its solution is no further than 2 rtol |A^T y| / damp^2, below 1e-6 here."""
    A = layer.operator()
    stack = vstack([A / (norm_bounds(A)[1] or 1.0), damp * identity(A.input_shape)])
    data = 3 * layer.rng().standard_normal(stack.shape[0])
    x, info = proximal_gradient(stack, data, lambda image, step: image.clip(-0.2, 0.5), rtol=1e-10, maxiter=5000)
    expected = lsq_linear(stack.toarray(), data, (-0.2, 0.5), method="bvls", tol=1e-14).x
    assert info.converged
    np.testing.assert_allclose(x.ravel(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_sparse_solution_fulfils_the_conditions_of_optimality(dtype):
    A, y = problem(dtype)
    strength = 0.3 * np.abs(A.toarray().conj().T @ y.ravel()).max()
    x, info = proximal_gradient(A, y, soft(strength), rtol=1e-11, maxiter=5000)
    assert info.converged
    x, fall = x.ravel(), A.toarray().conj().T @ (y.ravel() - A.toarray() @ x.ravel())
    there = x != 0
    assert 0 < there.sum() < len(x) / 2
    np.testing.assert_allclose(fall[there], strength * x[there] / np.abs(x[there]), rtol=0, atol=1e-8 * strength)
    assert np.abs(fall[~there]).max() <= strength


@pytest.mark.parametrize("steps", [1, 3, 10, 40])
def test_a_subgradient_is_no_longer_than_twice_the_residual(steps):
    A, y = problem()
    x, info = proximal_gradient(A, y, not_negative, rtol=0, maxiter=steps)
    assert (info.iterations, info.converged) == (steps, False)
    gradient = A.toarray().T @ (A.toarray() @ x.ravel() - y.ravel())
    shortest = np.where(
        x.ravel() > 0, gradient, np.minimum(gradient, 0)
    )  # the constraint pushes against falling below 0
    largest = max(np.linalg.norm(A.H.apply(y)), np.linalg.norm(A.H.apply(A.apply(x))))
    assert 0 < np.linalg.norm(shortest) <= 2.5 * info.relative_residual * largest


@pytest.mark.parametrize("mode", MODES)
def test_the_step_is_the_proven_one(mode):
    A, y = problem(mode=mode)
    _, info = proximal_gradient(A, y, nothing, maxiter=1)
    assert 0.9 < info.step * np.linalg.norm(A.toarray(), 2) ** 2 <= 1


def test_momentum_saves_steps_and_the_first_two_lower_the_objective():
    line = np.exp(-0.5 * np.arange(-4, 5) ** 2 / 2)
    A = Conv2d(np.outer(line, line) / line.sum() ** 2, (24, 24), padding=4, padding_mode="symmetric")
    sharp = np.zeros((24, 24))
    sharp[6:18, 9:15] = 1
    y, seen = A.apply(sharp), []
    proximal_gradient(A, y, not_negative, rtol=0, maxiter=200, callback=lambda x: seen.append(x.copy()))
    x, plain = np.zeros((24, 24)), []
    for _ in range(200):  # without
        x = np.maximum(x - A.T.apply(A.apply(x) - y), 0)
        plain.append(np.sum((A.apply(x) - y) ** 2))
    costs = [np.sum((A.apply(x) - y) ** 2) for x in seen]
    assert costs[1] < costs[0] < np.sum(y**2)
    assert costs[-1] < plain[-1] / 10


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.complex64, 1e-4)])
def test_the_dtype_is_kept_whatever_prox_makes_of_it(dtype, tolerance):
    A, y = problem(dtype)
    wide = soft(np.float64(0.5))
    x, _ = proximal_gradient(
        A, y, lambda image, step: wide(image, step).astype(np.result_type(image, float)), rtol=1e-6
    )
    exact, _ = proximal_gradient(*problem(np.result_type(dtype, float)), wide, rtol=1e-9, maxiter=5000)
    assert x.dtype == dtype
    assert np.abs(x - exact).max() < tolerance * np.abs(exact).max()


def test_a_ravelled_right_side_gives_a_ravelled_solution():
    A, y = problem()
    seen = []
    x, info = proximal_gradient(A, y, not_negative)
    flat, same = proximal_gradient(A, y.ravel(), not_negative, callback=lambda x: seen.append(x.shape))
    np.testing.assert_array_equal(flat, x.ravel())
    assert same == info
    assert seen == [(A.shape[1],)] * info.iterations


def test_a_start_at_the_solution_is_the_end():
    A, y = problem()
    x, info = proximal_gradient(A, y, not_negative, rtol=1e-11, maxiter=5000)
    again, at_once = proximal_gradient(A, y, not_negative, rtol=1e-9, x0=x)
    assert at_once.iterations == 1 < info.iterations
    np.testing.assert_allclose(again, x, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(x, proximal_gradient(A, y, not_negative, rtol=1e-11, maxiter=5000)[0])


def test_a_constraint_holds_to_the_last_bit_after_any_step():
    A, y = problem()
    x, _ = proximal_gradient(A, y, lambda image, step: image.clip(0.1, 0.3, out=image), rtol=0, maxiter=7)
    assert x.min() == 0.1
    assert x.max() == 0.3


@pytest.mark.parametrize("weight", [np.zeros((1, 1, 3)), np.ones((1, 1, 3))])
def test_no_data_is_solved_too(weight):
    A = Conv1d(weight, 5)
    x, info = proximal_gradient(A, np.zeros(A.output_shape), not_negative)
    assert not x.any()
    assert (info.iterations, info.converged, info.relative_residual) == (1, True, 0.0)
    low, _ = proximal_gradient(A, np.zeros(A.output_shape), lambda image, step: image.clip(0.2, 1))
    np.testing.assert_array_equal(low, np.full(A.input_shape, 0.2))


def test_without_data_the_constraint_sets_the_scale():
    A = Conv1d([1.0, 2.0, 1.0], 6, padding=1)

    def first_is_one(image, step):
        image[0] = 1
        return image

    x, info = proximal_gradient(A, np.zeros(6), first_is_one, rtol=1e-8, maxiter=200)
    matrix = A.toarray()
    expected = np.linalg.lstsq(matrix[:, 1:], -matrix[:, 0], rcond=None)[0]
    assert info.converged
    np.testing.assert_allclose(x, [1, *expected], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"A": np.eye(3)}, TypeError, "A is a ndarray: it must be one of convmat's operators"),
        ({"prox": 0.1}, TypeError, "prox is a float: it must be a function"),
        ({"prox": lambda image, step: image[0]}, ValueError, r"prox gave an array of shape \(8, 7\)"),
        ({"prox": lambda image, step: image * np.nan}, ValueError, "numbers that are not finite"),
        ({"y": np.zeros(3)}, ValueError, r"y has shape \(3,\): it must be \(3, 8, 7\), or \(168,\)"),
        ({"y": np.full((3, 8, 7), np.nan)}, ValueError, "numbers that are not finite"),
        ({"y": np.full((3, 8, 7), "a")}, TypeError, "y has dtype"),
        ({"x0": np.zeros(3)}, ValueError, r"x0 has shape \(3,\): it must be \(2, 8, 7\), or \(112,\)"),
        ({"rtol": 1.0}, ValueError, "rtol=1.0 must be"),
        ({"maxiter": 0}, ValueError, "maxiter=0 must be at least 1"),
        ({"A": 1e-170 * identity((3, 8, 7))}, ValueError, "A has a norm of at most 1e-170, whose square"),
        ({"A": Conv2d(np.full((3, 2, 1, 1), np.inf), (8, 7))}, ValueError, "finite"),
    ],
)
def test_wrong_arguments_are_named(more, error, message):
    A, y = problem()
    with pytest.raises(error, match=message):
        proximal_gradient(**{"A": A, "y": y, "prox": not_negative} | more)
