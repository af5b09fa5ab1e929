"""The padding mode that sums samples at the border, in all that computes with it: against numpy's pad, and loops."""

import dataclasses

import numpy as np
import pytest
import scipy.signal
import scipy.sparse.linalg
from hypothesis import given

import convmat
from convmat import Conv1d, Conv2d
from convmat.products import usable
from convmat.products.extended import extended_image, folded_image
from tests.strategies import integers, layers, passes_the_dot_test, tries


def summing(ndims=(1, 2, 3), dtypes=("float64",)):
    return layers(ndims, ("antireflect",), dtypes)


@pytest.mark.parametrize("method", usable())
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_it_is_the_odd_reflection_of_numpy_and_the_correlation_of_scipy(method, dtype):
    rng = np.random.default_rng(0)
    x, w = _images(rng, dtype)
    A = Conv2d(w, x.shape, padding=((4, 2), (0, 8)), padding_mode="antireflect", method=method)
    padded = np.pad(x, ((4, 2), (0, 8)), mode="reflect", reflect_type="odd")
    expected = scipy.signal.correlate(padded, w.conj(), mode="valid", method="direct")
    np.testing.assert_allclose(A.apply(x), expected, atol=1e-3 if dtype in ("float32", "complex64") else 1e-11)
    assert A.apply(x).dtype == dtype


def _images(rng, dtype):
    found = []
    for shape in ((12, 9), (5, 4)):
        values = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype.startswith("complex") else 0)
        found.append(values.astype(dtype))
    return found


def test_a_plane_goes_on_beyond_the_border():
    i, j = np.ogrid[-4:16, -4:13]
    P = convmat.Pad((12, 9), 4, padding_mode="antireflect")
    plane = 3.0 * i - 2.0 * j + 1
    np.testing.assert_array_equal(P.apply(plane[4:-4, 4:-4]), plane)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_short_axes_and_borders_of_any_width_are_those_of_numpy(n):
    x = np.arange(n) ** 2.0 + 1
    for lo, hi in ((1, 0), (0, 1), (n - 1, n - 1), (5, 9)):
        A = Conv1d([1.0], n, padding=((lo, hi),), padding_mode="antireflect")
        np.testing.assert_array_equal(A @ x, np.pad(x, (lo, hi), mode="reflect", reflect_type="odd"))


@tries(100)
@given(summing())
def test_the_extension_and_the_folding_are_transposes(layer):
    geometry = layer.operator().geometry
    size = geometry.extended.input_size
    x, z = integers(layer.rng(), (3, *layer.size)), integers(layer.rng(), (3, *size))
    extended = extended_image(geometry, x)
    assert extended.shape == z.shape
    if geometry.combines:
        assert np.vdot(extended, z) == np.vdot(x, folded_image(geometry, z))


@tries(60)
@given(summing())
def test_the_dot_test_holds_to_rounding_by_every_method(layer):
    rng = layer.rng()
    weight = rng.standard_normal(layer.weight.shape)
    for method in usable():
        passes_the_dot_test(dataclasses.replace(layer, weight=weight).operator(method=method), rng)


@pytest.mark.parametrize("method", usable())
def test_a_nan_reaches_what_reads_it(method):
    if method not in ("matrix", "direct", "gemm"):
        pytest.skip("mixes all samples of a tile, or of a term")
    x = np.zeros(12)
    x[0] = np.nan
    A = Conv1d([1.0, 2.0, 1.0], 12, padding=2, padding_mode="antireflect", method=method)
    np.testing.assert_array_equal(np.isnan(A @ x), np.arange(12 + 2) < 3)


def test_the_closed_form_of_separable_kernels_holds():
    line = np.array([1.0, 2.0, 3.0, 1.0]) / 7
    A = Conv2d(np.outer(line, line), (40, 50), padding=2, padding_mode="antireflect")
    y = np.random.default_rng(0).standard_normal(A.output_shape)
    x, info = convmat.tikhonov(A, y, 0.3)
    assert info.method == "kronecker"
    dense = A.toarray()
    expected = np.linalg.solve(dense.T @ dense + 0.09 * np.eye(dense.shape[1]), dense.T @ y.ravel())
    np.testing.assert_allclose(x.ravel(), expected, atol=1e-10)


@pytest.mark.parametrize("kind", ["identity", "circulant", "dct", "schwarz"])
def test_preconditioned_solutions_are_those_of_the_dense_matrix(kind):
    rng = np.random.default_rng(1)
    A = Conv2d(rng.standard_normal((3, 3)), (24, 22), padding=1, padding_mode="antireflect")
    y, N = rng.standard_normal(A.output_shape), convmat.normal(A, 0.5)
    M = convmat.preconditioner(A, 0.5, kind=kind)
    x, failed = scipy.sparse.linalg.cg(N, A.T.apply(y).ravel(), rtol=1e-12, maxiter=500, M=M)
    dense = A.toarray()
    expected = np.linalg.solve(dense.T @ dense + 0.25 * np.eye(dense.shape[1]), dense.T @ y.ravel())
    assert not failed
    np.testing.assert_allclose(x, expected, atol=1e-8)
