"""Powers of two in the data come out of every spectrum, bound, projection and solution as they went in."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from convmat import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose2d,
    clip_singular_values,
    norm_bounds,
    normal,
    preconditioner,
    singular_values,
    svd,
    tikhonov,
)
from convmat.spectrum.scaling import as_float, near_one, times_power

POWERS = [
    *((dtype, k) for dtype in ("float64", "complex128") for k in (-900, -500, 500, 900)),
    *((dtype, k) for dtype in ("float32", "complex64") for k in (-120, -80, 60, 100)),
]
each_power = pytest.mark.parametrize(("dtype", "k"), POWERS)


def integers(shape, dtype, seed=0):
    """Few digits each, so that a power of two changes none of them, not even where it makes them subnormal."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-8, 9, shape) + (1j * rng.integers(-8, 9, shape) if np.dtype(dtype).kind == "c" else 0)
    return values.astype(dtype)


def power(values, k):
    """2^k times the values, rounded to their dtype once; overflow is meant."""
    values = np.asarray(values)
    parts = np.ascontiguousarray(values).reshape(-1).view(values.real.dtype)
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(parts, k).view(values.dtype).reshape(values.shape)


def assert_power(found, values, k):
    """Found is 2^k times the values: to the last digit, and to the last subnormal where it is one."""
    with np.errstate(under="ignore"):
        smallest = np.finfo(np.asarray(values).dtype).smallest_subnormal
        np.testing.assert_allclose(found, power(values, k), rtol=0, atol=2 * smallest)


def separable(dtype):
    return np.multiply.outer(integers(3, dtype, 5), integers(3, dtype, 6))


FORMS = {
    "periodic": lambda d, k: Conv2d(power(integers((4, 3, 3, 3), d), k), (6, 6), stride=2, padding=1,
                                    padding_mode="circular"),
    "periodic column": lambda d, k: Conv1d(power(integers((1, 1, 3), d), k), 7, padding=1, padding_mode="circular"),
    "periodic groups": lambda d, k: Conv1d(power(integers((4, 2, 3), d), k), 6, padding=1, padding_mode="circular",
                                           groups=2),
    "separable": lambda d, k: Conv2d(power(separable(d), k), (7, 6), padding=1, padding_mode="reflect"),
    "small": lambda d, k: Conv2d(power(integers((2, 2, 3, 3), d), k), (4, 4), padding=1),
    "small groups": lambda d, k: Conv3d(power(integers((2, 1, 2, 2, 2), d), k), (3, 3, 3), groups=2),
    "transposed": lambda d, k: ConvTranspose2d(power(integers((2, 3, 2, 2), d), k), (3, 3), stride=2),
}  # fmt: skip
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@each_form
@each_power
def test_singular_values_scale_exactly(form, dtype, k):
    assert_power(singular_values(form(dtype, k)), singular_values(form(dtype, 0)), k)


@each_form
@each_power
def test_decompositions_scale_exactly(form, dtype, k):
    scaled, plain = svd(form(dtype, k)), svd(form(dtype, 0))
    x, y = (integers(plain.shape[i], dtype, 1) for i in (1, 0))
    assert_power(scaled.singular_values, plain.singular_values, k)
    assert_power(scaled.operator() @ x, plain.operator() @ x, k)
    assert_power(scaled.operator().rmatvec(y), plain.operator().rmatvec(y), k)
    assert_power(scaled.pinv() @ y, plain.pinv() @ y, -k)
    limit = float(plain.singular_values[0]) / 2
    assert_power(scaled.clip(float(power(limit, k))) @ x, plain.clip(limit) @ x, k)


WIDE = {
    "torus": lambda d, k: Conv2d(power(integers((4, 3, 3, 3), d), k), (20, 20), padding=1),
    "reflect": lambda d, k: Conv2d(power(integers((2, 3, 3, 3), d), k), (20, 20), stride=2, padding=1,
                                   padding_mode="reflect"),
}  # fmt: skip


@pytest.mark.parametrize("form", (FORMS | WIDE).values(), ids=FORMS | WIDE)
@each_power
def test_norm_bounds_scale_exactly(form, dtype, k):
    assert_power(norm_bounds(form(dtype, k)), norm_bounds(form(dtype, 0)), k)


@pytest.mark.parametrize("groups", [1, 2])
@each_power
def test_clipped_weights_scale_exactly(dtype, k, groups):
    weight = integers((4, 4 // groups, 3, 3), dtype)
    plain = clip_singular_values(weight, (6, 6), 9.0, groups=groups)
    assert np.abs(plain - weight).max() > 0.1
    limit = float(power(9.0, k))
    assert_power(clip_singular_values(power(weight, k), (6, 6), limit, groups=groups), plain, k)


def test_a_weight_that_overflows_its_square_has_the_values_of_the_matrix():
    weight = 1e200 * np.random.default_rng(0).standard_normal((3, 3))
    A = Conv2d(weight, (4, 4), padding=1)
    expected = np.linalg.svd(A.toarray() / 1e200, compute_uv=False)
    np.testing.assert_allclose(singular_values(A) / 1e200, expected, rtol=1e-10)
    np.testing.assert_allclose(svd(A).singular_values / 1e200, expected, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
@pytest.mark.parametrize("channels", [1, 2])
def test_single_precision_circular_weights_have_the_values_of_the_matrix(scale, channels):
    weight = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    A = Conv2d(weight * np.float32(scale), (6, 6), padding=1, padding_mode="circular")
    expected = np.linalg.svd(A.toarray().astype(float), compute_uv=False)
    np.testing.assert_allclose(singular_values(A), expected, rtol=1e-3, atol=1e-5 * expected[0])
    np.testing.assert_allclose(svd(A).singular_values, expected, rtol=1e-3, atol=1e-5 * expected[0])


@pytest.mark.parametrize("smallest", [5e-324, np.finfo(np.float32).smallest_subnormal])
@pytest.mark.parametrize("size", [4, 400])
def test_the_norm_of_subnormal_weights_is_between_the_bounds(smallest, size):
    A = Conv1d(smallest * np.array([3.0, 1.0, 2.0]), size, padding=1)
    norm = np.linalg.norm(Conv1d([3.0, 1.0, 2.0], size, padding=1).toarray(), 2)
    lower, upper = norm_bounds(A)
    assert lower / float(smallest) <= norm <= upper / float(smallest)
    assert upper - lower <= max(2 * 5e-324, 0.02 * norm * float(smallest))


def test_a_norm_beyond_doubles_is_below_infinity():
    lower, upper = norm_bounds(Conv1d([1.7e308, 1.7e308], 8))
    assert lower == np.finfo(float).max
    assert upper == np.inf


# ------------------------------------------------------------------------------------------------------ least squares


def gaussian(size):
    return np.exp(-0.5 * (np.arange(size) - size // 2) ** 2)


LAPLACIAN = np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
MIXED = np.pad([[4.0]], 1) + np.eye(3) + np.multiply.outer(gaussian(3), gaussian(3))  # its symbol has no zero
PROBLEMS = {
    "circulant": lambda k: Conv2d(power(MIXED, k), (8, 8), padding=1, padding_mode="circular"),
    "wide circulant": lambda k: Conv2d(power(MIXED, k), (8, 8), stride=2, padding=1, padding_mode="circular"),
    "kronecker": lambda k: Conv2d(power(np.outer(gaussian(3), gaussian(3)), k), (8, 6), padding=1),
    "dct": lambda k: Conv2d(power(MIXED + MIXED[::-1], k), (8, 8), padding=1, padding_mode="symmetric"),
    "direct": lambda k: Conv2d(power(MIXED, k), (8, 8), padding=1, padding_mode="reflect"),
    "cg": lambda k: Conv2d(power(MIXED, k), (36, 36), padding=1, padding_mode="reflect"),
    "transposed": lambda k: ConvTranspose2d(power(MIXED, k), (5, 5), stride=2),
}
each_problem = pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)


@each_problem
@pytest.mark.parametrize("k", [-900, -500, -200, 200, 500, 900])
def test_normal_operators_and_their_inverses_scale_exactly(make, k):
    scaled, plain, damp = make(k), make(0), 0.25
    x = np.random.default_rng(0).standard_normal(plain.shape[1])
    assert_power(normal(scaled, power(damp, k).item()) @ x, normal(plain, damp) @ x, 2 * k)
    found, expected = preconditioner(scaled, power(damp, k).item()), preconditioner(plain, damp)
    assert found.kind == expected.kind
    assert_power(found @ x, expected @ x, -2 * k)


@each_problem
@pytest.mark.parametrize(("k", "j"), [(-900, -900), (-500, 300), (0, -548), (0, 900), (500, 800), (900, 0)])
def test_solutions_scale_exactly(make, k, j):
    scaled, plain, damp = make(k), make(0), 0.25
    y = np.random.default_rng(0).standard_normal(plain.output_shape)
    x, info = tikhonov(scaled, power(y, j), power(damp, k).item())
    expected, plain_info = tikhonov(plain, y, damp)
    assert info == replace(plain_info, damp=power(damp, k).item())
    assert info.converged
    assert_power(x, expected, j - k)


@each_problem
@pytest.mark.parametrize("scale", [1e-165, 1e300])
@pytest.mark.parametrize("regularizer", [None, LAPLACIAN])
def test_data_of_any_size_are_solved(make, scale, regularizer):
    A = make(0)
    R = regularizer
    if R is not None:
        if isinstance(A, ConvTranspose2d):
            return
        R = Conv2d(R, A.input_shape, padding=1, padding_mode=A.geometry.padding_mode)
    y = np.random.default_rng(0).standard_normal(A.output_shape)
    penalty = np.eye(A.shape[1]) if R is None else R.toarray()
    stacked = np.concatenate([A.toarray(), 0.1 * penalty])
    expected = np.linalg.lstsq(stacked, np.pad(y.ravel(), (0, len(penalty))), rcond=None)[0]
    x, info = tikhonov(A, y * scale, 0.1, regularizer=R)
    assert info.converged
    np.testing.assert_allclose(x.ravel() / scale, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@each_problem
@pytest.mark.parametrize(("weight", "damp", "data"), [
    (1.0, 1e-200, 1.0), (1.0, 1e-155, 1e-165), (1.0, 1e160, 1e300), (1e200, 1e199, 1e-100), (1e200, 1e-200, 1e200),
    (1e200, 1e160, 1e300), (1e-200, 1e-201, 1e-165), (1e-200, 1e60, 1e300), (1e-20, 1e80, 1e300),
])  # fmt: skip
def test_weights_and_damping_of_any_size_are_solved(make, weight, damp, data):
    plain = make(0)
    if damp < 1e-10 * weight and plain.shape[0] < plain.shape[1]:
        return
    A = type(plain)(plain.weight * weight, plain.geometry.output_size if isinstance(plain, ConvTranspose2d)
                    else plain.input_shape, **options(plain))  # fmt: skip
    y = np.random.default_rng(0).standard_normal(plain.output_shape)
    dense = plain.toarray()
    if damp > 1e10 * weight:  # then x = A^H y / damp^2
        expected, times = dense.T @ y.ravel(), (weight / damp) * (data / damp)
    else:
        stacked = np.concatenate([dense, damp / weight * np.eye(dense.shape[1])])
        expected, times = np.linalg.lstsq(stacked, np.pad(y.ravel(), (0, dense.shape[1])), rcond=None)[0], data / weight
    x, info = tikhonov(A, y * data, damp)
    assert info.converged
    largest = np.abs(expected).max()
    np.testing.assert_allclose(x.ravel(), times * expected, rtol=0, atol=1e-6 * times * largest + 1e-323)


def options(A):
    g = A.geometry
    return {"stride": g.stride, "padding": g.padding, "padding_mode": g.padding_mode}


@pytest.mark.parametrize("solve", [normal, preconditioner, functools.partial(tikhonov, y=np.ones(8))])
def test_a_damp_beyond_doubles_gets_a_sentence(solve):
    A = Conv1d([1.0, 2.0, 1.0], 8, padding=1)
    with pytest.raises(ValueError, match=r"damp=an integer of 1329 bits must be finite and not negative, at most 1.8e"):
        solve(A, damp=10**400)


def test_a_solution_beyond_its_dtype_gets_a_sentence():
    with pytest.raises(ValueError, match="x has entries beyond the largest float64"):
        tikhonov(Conv1d([1e-200], 8), np.full(8, 1e200), 0)
    with pytest.raises(ValueError, match="x has entries beyond the largest float32"):
        tikhonov(Conv1d(np.float32([1e-30]), 8), np.full(8, 1e30, np.float32), 0)


# ------------------------------------------------------------------------------------------------------ powers of two


def test_each_entry_is_brought_near_one():
    values = np.array([[0.0, 0.0], [3e-310, -1e-320], [5e300, -1.7e308], [np.inf, 1.0]])
    scaled, exponents = near_one(values)
    largest = np.abs(scaled).max(axis=1)
    assert largest[0] == 0
    assert np.all((largest[1:3] >= 0.5) & (largest[1:3] < 1))
    np.testing.assert_array_equal(times_power(scaled, exponents), values)


def test_powers_of_two_round_once_and_overflow_alone():
    assert times_power(np.array([1.5]), -1074)[0] == 1e-323  # to even
    assert times_power(np.array([1.0]), 1024)[0] == np.inf
    np.testing.assert_array_equal(times_power(np.array([1 - 2j, 3j]), 700), np.ldexp(1.0, 700) * np.array([1 - 2j, 3j]))
    assert as_float(10**400) == np.inf
    assert as_float(-(10**400)) == -np.inf
