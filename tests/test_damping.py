"""The damping that data choose, and many dampings at once, against dense linear algebra."""

import functools
import math

import numpy as np
import pytest
from scipy import optimize

import convmat.solve.inverses.schwarz as schwarz
from convmat import Conv2d, tikhonov
from convmat.solve import damping
from convmat.solve.inverses import Problem
from convmat.solve.inverses.choose import exact

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
    return kernel + kernel[::-1] + kernel[:, ::-1] + kernel[::-1, ::-1]


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


@pytest.mark.parametrize("seed", range(20))
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
    expected, sharp = dense.minimum(1e-6 * scale, 100 * scale)
    assert dense.gcv(info.damp) <= (1 + 1e-5) * dense.gcv(expected)
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
