"""The damping that data choose, and many dampings at once, against dense linear algebra."""

import functools
import math

import numpy as np
import pytest
from scipy import optimize

import convmat.solve.inverses.schwarz as schwarz
from convmat import Conv1d, Conv2d, Conv3d, Diagonal, lcurve, tikhonov, vstack
from convmat.solve import damping
from convmat.solve.inverses import Identity, Problem
from convmat.solve.inverses.cg import conjugate_gradients
from convmat.solve.inverses.choose import exact
from convmat.solve.inverses.shifted import shifted_conjugate_gradients
from convmat.solve.least_squares import gcv_curve
from convmat.solve.limits import check_noise

LAPLACIAN = np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
DIAGONAL = np.eye(5) / 5


@functools.lru_cache
def gaussian(size, width):
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / width) ** 2)
    return line / line.sum()


def blur(kernel, size, mode, **options):
    return Conv2d(kernel, size, padding=len(kernel) // 2, padding_mode=mode, **options)


def smooth_image(shape, seed):
    image = np.random.default_rng(seed).standard_normal(shape)
    for axis in range(len(shape)):
        image = np.cumsum(image, axis=axis)
    return image / np.abs(image).max()


def data(A, noise, seed):
    rng = np.random.default_rng(seed)
    y = A.apply(smooth_image(A.input_shape, seed)) + noise * rng.standard_normal(A.output_shape)
    return y + 1j * noise * rng.standard_normal(A.output_shape) if A.dtype.kind == "c" else y


class Dense:
    """Residual, solution and trace from the dense matrices, one damp after the other."""

    def __init__(self, A, y, R=None, probes=None):
        self.A, self.y = A.toarray(), y.reshape(-1, A.shape[0]).T
        self.R = np.eye(A.shape[1]) if R is None else R.toarray()
        self.probes = np.eye(A.shape[0]) if probes is None else probes.reshape(-1, A.shape[0]).T

    def solution(self, damp):
        u, sigma, vh = np.linalg.svd(np.vstack([self.A, damp * self.R]), full_matrices=False)
        return vh.conj().T @ ((u[: len(self.A)].conj().T @ self.y) / sigma[:, None])

    def residual(self, damp):
        return np.linalg.norm(self.A @ self.solution(damp) - self.y)

    def penalty(self, damp):
        return np.linalg.norm(self.R @ self.solution(damp))

    def gcv(self, damp):
        u = np.linalg.svd(np.vstack([self.A, damp * self.R]), full_matrices=False)[0][: len(self.A)]
        seen = np.linalg.norm(u.conj().T @ self.probes) ** 2
        rest = (np.linalg.norm(self.probes) ** 2 - seen) / self.probes.shape[1] * (len(self.probes))
        return (self.residual(damp) / (rest * self.probes.shape[1] / np.linalg.norm(self.probes) ** 2)) ** 2

    def minimum(self, low, high):
        """The damp of the least value, and whether that is inside and the only one by far."""
        grid = np.geomspace(low, high, 60)
        values = [self.gcv(damp) for damp in grid]
        place = int(np.argmin(values))
        ends = np.log(grid[max(0, place - 1)]), np.log(grid[min(len(grid) - 1, place + 1)])
        found = optimize.minimize_scalar(
            lambda log: math.log(self.gcv(math.exp(log))), bounds=ends, method="bounded", options={"xatol": 1e-7}
        )
        damp, best = math.exp(found.x), math.exp(found.fun)
        others = [value for value, at in zip(values, grid, strict=True) if not 0.8 < at / damp < 1.25]
        near = min(self.gcv(1.01 * damp), self.gcv(0.99 * damp))
        return damp, 0 < place < len(grid) - 1 and min(others) > best * (1 + 1e-4) and near > best * (1 + 1e-5)


def even(seed):
    kernel = np.random.default_rng(seed).random((3, 3))
    kernel = kernel + kernel[::-1]
    return kernel + kernel[:, ::-1]  # to the last digit


BORDERS = ["zeros", "reflect", "replicate", "symmetric"]
SEPARABLE = np.outer(gaussian(5, 1.0), gaussian(5, 1.4))
FAMILIES = {
    "kronecker": (lambda n, s: blur(SEPARABLE, (n, n + 1), BORDERS[s % 4]), None),
    "kronecker, stride": (lambda n, s: blur(SEPARABLE, (n, n), "reflect", stride=(1 + s % 2, 1)), None),
    "circulant": (lambda n, s: blur(np.random.default_rng(s).random((3, 3)), (n, n + 2), "circular"), None),
    "circulant, complex": (
        lambda n, s: blur(np.random.default_rng(s).random((3, 3)) + 0.3j * even(s), (n, n), "circular"), None
    ),
    "circulant, Laplacian": (lambda n, s: blur(even(s) / 10 + np.eye(3), (n, n), "circular"), "circular"),
    "dct": (lambda n, s: blur(even(s), (n, n - 1), "symmetric"), None),
    "dct, Laplacian": (lambda n, s: blur(even(s), (n, n), "symmetric"), "symmetric"),
    "direct": (lambda n, s: blur(DIAGONAL, (n, n), BORDERS[s % 4]), None),
    "direct, Laplacian": (lambda n, s: blur(DIAGONAL, (n, n), ["reflect", "replicate"][s % 2]), "symmetric"),
    "bidiagonalisation": (lambda n, s: blur(DIAGONAL, (n, n), ["zeros", "reflect", "replicate"][s % 3]), None),
}  # fmt: skip


@pytest.fixture
def no_direct(monkeypatch):
    monkeypatch.setattr(schwarz, "DIRECT_UNKNOWNS", 0)


def problem(family, seed):
    make, border = FAMILIES[family]
    A = make(8 + seed % 4, seed)
    R = None if border is None else Conv2d(LAPLACIAN, A.input_shape, padding=1, padding_mode=border)
    noise = [0.003, 0.01, 0.03, 0.1][seed % 4]
    return A, R, data(A, noise, seed), noise


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 20))])
@pytest.mark.parametrize("family", FAMILIES)
def test_gcv_and_discrepancy_are_those_of_the_dense_matrix(family, seed, monkeypatch):
    A, R, y, noise = problem(family, seed)
    probes = None
    if family == "bidiagonalisation":
        monkeypatch.setattr(schwarz, "DIRECT_UNKNOWNS", 0)
        probes = damping._probes(Problem(A, 1.0), y.dtype)
        assert exact(Problem(A, 1.0)) is None
    dense = Dense(A, y, R, probes)
    x, info = tikhonov(A, y, "gcv", regularizer=R, rtol=1e-10)
    assert info.converged
    assert isinstance(info.damp, float)
    assert np.linalg.norm(x.ravel() - dense.solution(info.damp)[:, 0]) <= 1e-6 * np.linalg.norm(x)
    scale = np.linalg.norm(A.toarray(), 2)
    expected, sharp = dense.minimum(1e-5 * scale, 100 * scale)
    assert dense.gcv(info.damp) <= (1 + 1e-3) * dense.gcv(expected)
    if sharp:
        assert info.damp == pytest.approx(expected, rel=1e-3)
    if dense.residual(1e-3 * scale) < noise * math.sqrt(y.size) < dense.residual(10 * scale):
        x, info = tikhonov(A, y, "discrepancy", noise=noise, regularizer=R, rtol=1e-10)
        assert np.linalg.norm(A.apply(x) - y) == pytest.approx(noise * math.sqrt(y.size), rel=1e-4)
        expected = optimize.brentq(
            lambda log: dense.residual(math.exp(log)) - noise * math.sqrt(y.size), math.log(1e-3 * scale), 10, xtol=1e-9
        )
        assert info.damp == pytest.approx(math.exp(expected), rel=1e-3)
        assert np.linalg.norm(x.ravel() - dense.solution(info.damp)[:, 0]) <= 1e-6 * np.linalg.norm(x)


def test_most_of_these_problems_have_one_minimum_inside():
    sharp = 0
    for family in FAMILIES:
        A, R, y, _ = problem(family, 2)
        sharp += Dense(A, y, R).minimum(1e-5 * np.linalg.norm(A.toarray(), 2), 100.0)[1]
    assert sharp > len(FAMILIES) / 2


PATHS = {
    "kronecker": (blur(SEPARABLE, (9, 11), "reflect", stride=(2, 1)), None, "kronecker"),
    "circulant": (blur(DIAGONAL, (9, 10), "circular"), None, "circulant"),
    "circulant, wide blocks": (blur(DIAGONAL, (8, 10), "circular", stride=2), None, "circulant"),
    "circulant, channels": (
        Conv2d(np.random.default_rng(0).random((3, 2, 3, 3)), (6, 7), padding=1, padding_mode="circular"), None,
        "circulant",
    ),
    "circulant, groups and stride": (
        Conv2d(np.random.default_rng(0).random((4, 1, 3, 3)), (6, 8), padding=1, stride=2, groups=2,
               padding_mode="circular"), None, "circulant",
    ),
    "circulant, transposed": (blur(DIAGONAL, (8, 10), "circular", stride=2).T, None, "circulant"),
    "circulant, Laplacian": (
        blur(DIAGONAL, (8, 8), "circular", stride=2),
        Conv2d(LAPLACIAN, (8, 8), padding=1, padding_mode="circular"), "circulant",
    ),
    "dct": (blur(even(0), (9, 11), "symmetric"), None, "dct"),
    "dct, Laplacian": (
        blur(even(0), (9, 11), "symmetric"), Conv2d(LAPLACIAN, (9, 11), padding=1, padding_mode="symmetric"), "dct"
    ),
    "direct": (blur(DIAGONAL, (9, 11), "zeros"), None, "direct"),
    "direct, high": (
        vstack([blur(DIAGONAL, (9, 11), "zeros"), blur(DIAGONAL[::-1], (9, 11), "reflect")]), None, "direct"
    ),
    "direct, Laplacian": (
        blur(DIAGONAL, (9, 11), "zeros"), Conv2d(LAPLACIAN, (9, 11), padding=1, padding_mode="replicate"), "direct"
    ),
    "separable pair": (
        Conv1d(gaussian(5, 1.0), 30, padding=2, padding_mode="reflect"),
        Conv1d([1.0, -2.0, 1.0], 30, padding=1, padding_mode="zeros"), "kronecker",
    ),
    "volume": (Conv3d(np.ones((2, 2, 2)) / 8, (4, 5, 6), padding=1, padding_mode="replicate"), None, "kronecker"),
}  # fmt: skip
DAMPS = (1.0, 0.03, 0.2, 0.03)


def assert_path(A, R, dtype, method, rtol):
    rng = np.random.default_rng(1)
    y = rng.standard_normal((2, *A.output_shape)).astype(dtype)
    if np.dtype(dtype).kind == "c":
        y = (y + 1j * rng.standard_normal(y.shape)).astype(dtype)
    x, info = tikhonov(A, y, DAMPS, regularizer=R, rtol=rtol)
    assert x.shape == (len(DAMPS), 2, *A.input_shape)
    assert x.dtype == np.result_type(A.dtype, dtype)
    assert (info.method, info.converged, info.damp) == (method, True, DAMPS)
    assert info.iterations == 0 or method.startswith("cg")
    dense = Dense(A, y, R)
    for damp, found in zip(DAMPS, x, strict=True):
        expected = dense.solution(damp).T
        tolerance = 1e-4 if x.dtype in (np.float32, np.complex64) else max(1e-10, 100 * rtol)
        np.testing.assert_allclose(found.reshape(2, -1), expected, atol=tolerance * np.abs(expected).max(), rtol=0)
        assert found.dtype == x.dtype
    residuals, solutions = lcurve(A, y, DAMPS, regularizer=R)
    np.testing.assert_allclose(residuals, [dense.residual(damp) for damp in DAMPS], rtol=1e-4)
    np.testing.assert_allclose(solutions, [dense.penalty(damp) for damp in DAMPS], rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
@pytest.mark.parametrize("name", PATHS)
def test_many_dampings_at_once_are_each_the_dense_solution(name, dtype):
    A, R, method = PATHS[name]
    assert_path(A, R, dtype, method, 1e-10)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "symmetric"])
def test_many_dampings_share_one_krylov_space(mode, dtype, no_direct):
    assert_path(blur(DIAGONAL, (9, 11), mode), None, dtype, "cg, shifted", 1e-10)


def test_operators_that_are_no_convolutions_have_paths_too(no_direct):
    weights = np.random.default_rng(0).random((9, 11)) + 0.5
    assert_path(blur(DIAGONAL, (9, 11), "reflect") @ Diagonal(weights, (9, 11)), None, np.float64, "cg, shifted", 1e-10)


def test_a_regularizer_without_a_closed_form_is_solved_for_damp_by_damp(no_direct):
    A, R = blur(DIAGONAL, (9, 11), "reflect"), Conv2d(LAPLACIAN, (9, 11), padding=1, padding_mode="replicate")
    y = data(A, 0.01, 0)
    dense, probes = Dense(A, y, R), damping._probes(Problem(A, 1.0), y.dtype)
    x, info = tikhonov(A, y, DAMPS, regularizer=R)
    for damp, found in zip(DAMPS, x, strict=True):
        np.testing.assert_allclose(found.ravel(), dense.solution(damp)[:, 0], atol=1e-5 * np.abs(found).max(), rtol=0)
    x, info = tikhonov(A, y, "discrepancy", noise=0.02, regularizer=R)
    assert np.linalg.norm(A.apply(x) - y) == pytest.approx(0.02 * math.sqrt(y.size), rel=1e-3)
    x, info = tikhonov(A, y, "gcv", regularizer=R)
    probed = Dense(A, y, R, probes)
    assert probed.gcv(info.damp) <= 1.001 * probed.gcv(probed.minimum(1e-3, 1e2)[0])


@pytest.mark.parametrize("shape", ["image", "flat", "columns", "batch"])
def test_results_have_the_shape_that_goes_with_y(shape):
    A = blur(SEPARABLE, (9, 11), "reflect", stride=(2, 1))
    rng = np.random.default_rng(0)
    y = {
        "image": rng.standard_normal(A.output_shape),
        "flat": rng.standard_normal(A.shape[0]),
        "columns": rng.standard_normal((A.shape[0], 3)),
        "batch": rng.standard_normal((3, 2, *A.output_shape)),
    }[shape]
    path, _ = tikhonov(A, y, (0.1, 0.2))
    for damp, x in zip((0.1, 0.2), path, strict=True):
        alone, _ = tikhonov(A, y, damp)
        assert alone.shape == x.shape
        np.testing.assert_allclose(x, alone, atol=1e-10)
    x, info = tikhonov(A, y, "gcv")
    np.testing.assert_allclose(x, tikhonov(A, y, info.damp)[0], atol=1e-6)  # of noise alone, a damp near 0


def test_one_damp_is_chosen_for_all_right_hand_sides_together():
    A = blur(SEPARABLE, (12, 12), "reflect")
    y = np.stack([data(A, 0.01, 0), data(A, 0.03, 1)])
    _, info = tikhonov(A, y, "gcv")
    dense = Dense(A, y)
    expected, sharp = dense.minimum(1e-4, 10)
    assert sharp
    assert info.damp == pytest.approx(expected, rel=1e-3)
    x, _ = tikhonov(A, y, "discrepancy", noise=0.02)
    assert np.linalg.norm([A.apply(one) for one in x] - y) == pytest.approx(0.02 * math.sqrt(y.size), rel=1e-4)


def test_real_operators_take_complex_data_as_two_images():
    A = blur(SEPARABLE, (12, 12), "reflect")
    y = data(A, 0.01, 0) + 1j * data(A, 0.02, 1)
    x, _ = tikhonov(A, y, "discrepancy", noise=0.02)
    assert np.linalg.norm(A.apply(x) - y) == pytest.approx(0.02 * math.sqrt(y.size), rel=1e-4)
    _, together = tikhonov(A, np.stack([y.real, y.imag]), "gcv")
    assert tikhonov(A, y, "gcv")[1].damp == pytest.approx(together.damp, rel=1e-6)


@pytest.mark.parametrize(("a", "y", "r"), [(0, 600, 0), (0, -900, 0), (500, 0, 0), (0, 0, 400), (-300, 600, 100)])
def test_powers_of_two_in_the_numbers_are_powers_of_two_in_the_damp(a, y, r):
    A, R = blur(even(1), (9, 9), "symmetric"), Conv2d(LAPLACIAN, (9, 9), padding=1, padding_mode="symmetric")
    scaled, far = 2.0**a * A, 2.0**r * R
    values = data(A, 0.01, 0)
    for rule, noise in (("gcv", None), ("discrepancy", 0.02)):
        x, info = tikhonov(A, values, rule, noise=noise, regularizer=R)
        louder = None if noise is None else noise * 2.0**y
        other, told = tikhonov(scaled, values * 2.0**y, rule, noise=louder, regularizer=far)
        assert told.damp == info.damp * 2.0 ** (a - r)
        np.testing.assert_array_equal(other, x * 2.0 ** (y - a))
    residuals, solutions = lcurve(A, values, [0.1, 1.0], regularizer=R)
    others = lcurve(scaled, values * 2.0**y, [0.1 * 2.0 ** (a - r), 2.0 ** (a - r)], regularizer=far)
    np.testing.assert_array_equal(others[0], residuals * 2.0**y)
    np.testing.assert_array_equal(others[1], solutions * 2.0 ** (y + r - a))


def test_damps_beyond_all_measure_are_solved_alone():
    A = blur(np.outer([0.1, 1, 0.1], [0.1, 1, 0.1]), (9, 11), "reflect")
    y = data(A, 0.01, 0)
    path, info = tikhonov(A, y, (1e-80, 0.1, 1e90))
    for damp, x in zip(info.damp, path, strict=True):
        np.testing.assert_allclose(x, tikhonov(A, y, damp)[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("seed", range(6))
def test_the_noise_is_told_from_a_blurred_image(seed):
    A = blur(np.outer(gaussian(9, 1.5), gaussian(9, 1.5)), (64, 64), "reflect")
    noise = [0.003, 0.01, 0.05][seed % 3]
    y = data(A, noise, seed)
    x, _ = tikhonov(A, y, "discrepancy")
    found = np.linalg.norm(A.apply(x) - y) / math.sqrt(y.size)
    assert found == pytest.approx(noise, rel=0.1)


def test_noise_that_cannot_be_told_is_asked_for():
    A = Conv2d([[1.0]], (20, 20))
    y = smooth_image((20, 20), 0)
    with pytest.raises(ValueError, match="give noise="):
        tikhonov(blur(DIAGONAL, (8, 8), "circular", stride=2), data(blur(DIAGONAL, (8, 8), "circular", stride=2), 0, 0),
                 "discrepancy")  # fmt: skip
    assert np.isfinite(tikhonov(A, y, "gcv")[0]).all()


def test_a_start_changes_the_steps_and_not_the_solution(no_direct):
    A = blur(DIAGONAL, (9, 11), "reflect")
    y = np.stack([data(A, 0.01, s) for s in range(3)])
    x, info = tikhonov(A, y, 0.05, rtol=1e-10)
    again, restarted = tikhonov(A, y, 0.05, x0=x, rtol=1e-8)
    assert restarted.iterations < info.iterations / 2
    np.testing.assert_allclose(again, x, atol=1e-7)
    near, one = tikhonov(A, y[0], 0.05, x0=x[0].ravel(), rtol=1e-8)
    assert one.iterations < info.iterations / 2
    np.testing.assert_allclose(near, x[0], atol=1e-7)
    columns, _ = tikhonov(A, y.reshape(3, -1).T, 0.05, x0=x.reshape(3, -1).T, rtol=1e-8)
    np.testing.assert_allclose(columns.T, x.reshape(3, -1), atol=1e-7)
    parts, _ = tikhonov(A, y[0] + 1j * y[1], 0.05, x0=x[0] + 1j * x[1], rtol=1e-8)
    np.testing.assert_allclose(parts, x[0] + 1j * x[1], atol=1e-7)


SMALL = blur(SEPARABLE, (9, 11), "reflect")
ERRORS = [
    (ValueError, "'lcurve' must be a number, a sequence of numbers, or 'gcv' or 'discrepancy'", {"damp": "lcurve"}),
    (ValueError, "must have at least one number", {"damp": []}),
    (ValueError, "damp=-1.0", {"damp": [0.1, -1.0]}),
    (TypeError, "damp='a'", {"damp": [0.1, "a"]}),
    (TypeError, "must be a real number", {"damp": np.ones((2, 2))}),
    (ValueError, "noise=0.1 is for damp='discrepancy'", {"damp": 0.1, "noise": 0.1}),
    (ValueError, "noise=0.1 is for damp='discrepancy'", {"damp": "gcv", "noise": 0.1}),
    (ValueError, "noise=0.1 is for damp='discrepancy'", {"damp": [0.1, 0.2], "noise": 0.1}),
    (ValueError, "noise=-0.1 must be positive and finite", {"damp": "discrepancy", "noise": -0.1}),
    (ValueError, "noise=inf must be positive and finite", {"damp": "discrepancy", "noise": np.inf}),
    (TypeError, "noise='loud' must be a real number", {"damp": "discrepancy", "noise": "loud"}),
    (ValueError, "noise: of this size", {"damp": "discrepancy", "noise": 100.0}),
    (ValueError, "no damp leaves less than", {"damp": "discrepancy", "noise": 1e-9, "high": True}),
    (ValueError, "x0 has shape", {"damp": 0.1, "x0": np.zeros((3, 3))}),
    (ValueError, "x0 has 1 entries that are not finite", {"damp": 0.1, "x0": np.append(np.zeros(98), np.nan)}),
    (TypeError, "x0 has the dtype complex128", {"damp": 0.1, "x0": np.zeros((9, 11), complex)}),
    (ValueError, "callback is for one damp", {"damp": [0.1, 0.2], "callback": print}),
    (ValueError, "y has none", {"damp": "gcv", "y": np.zeros((9, 11))}),
    (ValueError, "y has none", {"damp": "gcv", "y": np.zeros((0, 9, 11))}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "message", "options"), ERRORS)
def test_bad_arguments_are_named(kind, message, options):
    options = dict(options)
    A = vstack([SMALL, Diagonal(np.ones((9, 11)), (9, 11))]) if options.pop("high", False) else SMALL
    y = options.pop("y", np.random.default_rng(0).standard_normal(A.output_shape))
    with pytest.raises(kind, match=message.replace("(", r"\(")):
        tikhonov(A, y, options.pop("damp"), **options)


def test_lcurve_wants_positive_numbers():
    for damps in (0.1, [], [0.0, 1.0], "gcv"):
        with pytest.raises((TypeError, ValueError)):
            lcurve(SMALL, np.ones((9, 11)), damps)
    with pytest.raises(TypeError):
        check_noise(True)


def test_far_numbers_get_sentences_and_not_overflows():
    tiny = 2.0**-900 * SMALL
    y = tiny.apply(np.ones((9, 11)))
    with pytest.raises(ValueError, match="noise: of this size"):
        tikhonov(tiny, y, "discrepancy", noise=1e300)
    with pytest.raises(ValueError, match="within a factor"):
        lcurve(tiny, y, [1.0, 1e300])
    x, info = tikhonov(tiny, y, [2.0**-905, 1e300])
    assert info.converged
    np.testing.assert_allclose(x[0], tikhonov(tiny, y, 2.0**-905)[0], atol=1e-9)


def test_a_callback_sees_the_corrections_of_a_chosen_damp(no_direct):
    A = blur(DIAGONAL, (9, 11), "reflect")
    y, seen = data(A, 0.01, 0), []
    x, info = tikhonov(A, y, "gcv", callback=seen.append)
    assert len(seen) == info.iterations > 0
    np.testing.assert_array_equal(seen[-1], x)


def test_paths_of_no_images():
    x, info = tikhonov(SMALL, np.zeros((0, 9, 11)), (0.1, 0.2))
    assert x.shape == (2, 0, 9, 11)
    assert info.damp == (0.1, 0.2)


def test_the_curve_of_cross_validation_is_least_at_the_damp_that_it_takes():
    A = blur(SEPARABLE, (12, 12), "reflect")
    y = data(A, 0.02, 3)
    _, info = tikhonov(A, y, "gcv")
    low, least, high = gcv_curve(A, y, np.array([0.9, 1.0, 1.1]) * info.damp)
    assert least < min(low, high)
    assert least == pytest.approx(Dense(A, y).gcv(info.damp), rel=1e-6)


# pictures -------------------------------------------------------------------------------------------------------------

DRAWN = blur(SEPARABLE, (12, 12), "reflect")


def test_the_points_of_an_lcurve_are_the_norms_of_the_solutions():
    plot = pytest.importorskip("convmat.plot")
    pytest.importorskip("matplotlib")
    y, damps = data(DRAWN, 0.02, 3), [1.0, 0.01, 0.1]
    ax = plot.lcurve(DRAWN, y, damps, mark=0.3)
    path, _ = tikhonov(DRAWN, y, [*sorted(damps), 0.3])
    residuals = np.linalg.norm([DRAWN.apply(x) - y for x in path], axis=(1, 2))
    drawn = np.concatenate([line.get_xydata() for line in ax.lines[:2]])
    np.testing.assert_allclose(drawn, np.stack([residuals, np.linalg.norm(path, axis=(1, 2))], 1), rtol=1e-6)
    assert [text.get_text() for text in ax.texts] == ["0.01", "0.1", "1"]
    assert "0.3" in ax.get_legend().get_texts()[0].get_text()


def test_the_curve_of_cross_validation_marks_its_least_point():
    plot = pytest.importorskip("convmat.plot")
    pytest.importorskip("matplotlib")
    y = data(DRAWN, 0.02, 3)
    ax = plot.gcv(DRAWN, y)
    damps, values = ax.lines[0].get_xydata().T
    np.testing.assert_allclose(values[::5], [Dense(DRAWN, y).gcv(damp) for damp in damps[::5]], rtol=1e-5)
    (least,) = ax.lines[1].get_xydata()
    assert least.tolist() == [damps[values.argmin()], values.min()]
    assert tikhonov(DRAWN, y, "gcv")[1].damp == pytest.approx(least[0], rel=0.3)


def test_pictures_of_dampings_refuse_what_lcurve_refuses():
    plot = pytest.importorskip("convmat.plot")
    pytest.importorskip("matplotlib")
    for draw in (plot.lcurve, plot.gcv):
        for damps in (0.1, [], [0.0, 1.0]):
            with pytest.raises(ValueError, match="damp"):
                draw(DRAWN, np.ones((12, 12)), damps)
        with pytest.raises(TypeError, match="A"):
            draw(np.eye(3), np.ones(3))


# what a correction afterwards would hide ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_a_shifted_system_takes_the_steps_that_it_takes_alone(mode):
    problem = Problem(blur(DIAGONAL, (24, 20), mode), 1.0)
    right = problem.right_side(np.stack([data(problem.operator, 0.01, seed) for seed in range(2)])[:, None])
    damps = [0.5, 0.02, 0.1]
    together = shifted_conjugate_gradients(problem, right, damps, rtol=1e-9, maxiter=2000)
    for damp, found in zip(damps, together, strict=True):
        alone = problem.damped(damp)
        expected = conjugate_gradients(alone, right, Identity(alone), rtol=1e-9, maxiter=2000)
        assert abs(found.iterations - expected.iterations) <= 2
        np.testing.assert_allclose(found.x, expected.x, atol=1e-7 * np.abs(expected.x).max())


def test_a_regularizer_without_a_closed_form_begins_at_the_start(no_direct):
    A, R = blur(DIAGONAL, (9, 11), "reflect"), Conv2d(LAPLACIAN, (9, 11), padding=1, padding_mode="replicate")
    y = 1e9 * data(A, 0.01, 0)
    (x,), info = tikhonov(A, y, [0.1], regularizer=R, rtol=1e-11)
    _, again = tikhonov(A, y, [0.1], regularizer=R, rtol=1e-6, x0=x)
    assert again.iterations <= 2 < info.iterations


def test_the_trace_is_the_mean_over_random_signs(no_direct):
    A = blur(DIAGONAL, (10, 10), "reflect")
    y = data(A, 0.01, 0)
    probed = Dense(A, y, None, damping._probes(Problem(A, 1.0), y.dtype))
    np.testing.assert_allclose(gcv_curve(A, y, [0.05, 0.2]), [probed.gcv(0.05), probed.gcv(0.2)], rtol=1e-4)
