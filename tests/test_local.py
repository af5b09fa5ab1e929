"""Convolutions with a kernel of its own for every output, and blur that varies, against nested loops."""

import pickle

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

import convmat
from convmat import LocalConv1d, LocalConv2d, LocalConv3d, varying_blur
from tests import oracle
from tests.strategies import CONV, integers, layers, passes_the_dot_test, tries

LOCAL = {1: LocalConv1d, 2: LocalConv2d, 3: LocalConv3d}


def local(layer):
    """A layer of that geometry with whole weights of their own for each output, and its matrix by the oracle."""
    weight = integers(layer.rng(), (*layer.weight.shape, *layer.output_size), layer.weight.dtype)
    A = LOCAL[layer.ndim](weight, layer.size, **layer.options)
    return A, oracle.dense_local(weight, layer.size, **layer.options).astype(layer.dtype)


@tries(150)
@given(layers())
def test_the_matrix_and_the_products_are_those_of_the_oracle_exactly(layer):
    A, dense = local(layer)
    rng = layer.rng()
    x, y = (integers(rng, (2, *shape), layer.dtype) for shape in (A.input_shape, A.output_shape))
    np.testing.assert_array_equal(A.toarray(), dense)
    np.testing.assert_array_equal(A.apply(x).reshape(2, -1), x.reshape(2, -1) @ dense.T)
    np.testing.assert_array_equal(A.T.apply(y).reshape(2, -1), y.reshape(2, -1) @ dense)
    np.testing.assert_array_equal(A.H.apply(y).reshape(2, -1), y.reshape(2, -1) @ dense.conj())
    assert A.dtype == A.apply(x).dtype == layer.dtype
    assert A.T.T is A


@pytest.mark.slow
@tries(1000, derandomize=False, deadline=None)
@given(layers())
def test_a_thousand_layers_are_those_of_the_oracle_and_pass_the_dot_test(layer):
    A, dense = local(layer)
    np.testing.assert_array_equal(A.toarray(), dense)
    np.testing.assert_array_equal(A.T.toarray(), dense.T)
    rng = layer.rng()
    passes_the_dot_test(LOCAL[layer.ndim](rng.standard_normal(A.weight.shape), layer.size, **layer.options), rng)


@tries(60)
@given(layers())
def test_the_pattern_of_the_matrix_is_that_of_the_convolution(layer):
    A, _ = local(layer)
    matrix, of_conv = A.tosparse(), layer.matrix()
    assert A.nnz == matrix.nnz
    assert matrix.has_canonical_format
    np.testing.assert_array_equal(matrix.indices, of_conv.indices)
    np.testing.assert_array_equal(matrix.indptr, of_conv.indptr)
    assert matrix.indices.dtype == of_conv.indices.dtype


@tries(60)
@given(layers())
def test_the_same_kernel_everywhere_is_a_convolution(layer):
    everywhere = np.broadcast_to(
        layer.weight.reshape(layer.weight.shape + (1,) * layer.ndim), (*layer.weight.shape, *layer.output_size)
    )
    A = LOCAL[layer.ndim](everywhere, layer.size, **layer.options)
    np.testing.assert_array_equal(A.toarray(), layer.operator().toarray())


@tries(60)
@given(layers(), st.data())
def test_blocks_are_parts_of_both_products(layer, data):
    A, _ = local(layer)
    for B in (A, A.T):
        box = []
        for size in B.output_shape:
            start = data.draw(st.integers(0, size - 1))
            box.append(slice(start, data.draw(st.integers(start + 1, size))))
        x = integers(layer.rng(), B.input_shape, layer.dtype)
        block = B.block(tuple(box))
        np.testing.assert_array_equal(block.operator.apply(block.read(x)), B.apply(x)[tuple(box)])


def test_the_dot_test_holds():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 2, 3, 3, 5, 4)) + 1j * rng.standard_normal((4, 2, 3, 3, 5, 4))
    A = LocalConv2d(weight, (9, 8), stride=2, padding=1, groups=2, padding_mode="reflect")
    convmat.check_adjoint(A)
    assert pickle.loads(pickle.dumps(A)).geometry == A.geometry


def test_a_weight_that_is_not_finite_reaches_the_outputs_whose_kernel_it_is_in(recwarn):
    weight = np.ones((3, 5))
    weight[0, 0] = weight[1, 2] = np.inf  # the first reads a padded zero
    A = LocalConv1d(weight, 5, padding=1)
    np.testing.assert_array_equal(A.apply(np.ones(5)), [2, 3, np.inf, 3, 2])
    np.testing.assert_array_equal(A.T.apply(np.ones(5)), A.toarray().T @ np.ones(5))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 3), r"weight has shape \(3, 3\): for 2 spatial axes it must have 6 axes .* or 4"),
        ((3, 3, 6, 5), r"its last axes must be the output size \(4, 6\)"),
        ((9, 9, 1, 1), "must not be larger than the padded input"),
    ],
)
def test_a_wrong_weight_is_told_before_anything_is_computed(shape, message):
    with pytest.raises(ValueError, match=message):
        LocalConv2d(np.ones(shape), (6, 8))


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_varying_blur_is_the_sum_of_maps_times_convolutions(order, ndim):
    rng = np.random.default_rng(ndim)
    size, options = (7, 6, 5)[:ndim], {"stride": 2, "padding": 1, "padding_mode": "symmetric"}
    kernels = rng.standard_normal((3, *(3,) * ndim))
    shape = size if order == "before" else tuple((n + 1) // 2 for n in size)
    maps = rng.standard_normal((3, *shape))
    A = varying_blur(kernels, maps, size, order=order, **options)
    expected = 0
    for k, m in zip(kernels, maps, strict=True):
        B = CONV[ndim](k, size, **options).toarray()
        expected = expected + (B * m.ravel() if order == "before" else m.ravel()[:, None] * B)
    np.testing.assert_allclose(A.toarray(), expected, atol=1e-14)
    convmat.check_adjoint(A)


def test_a_varying_blur_with_maps_after_is_a_local_convolution():
    rng = np.random.default_rng(0)
    kernels, maps = rng.standard_normal((3, 3, 3)), rng.standard_normal((3, 8, 9))
    A = varying_blur(kernels, maps, (8, 9), order="after", padding=1, padding_mode="reflect")
    weight = np.einsum("jkl,jmn->klmn", kernels, maps)
    B = LocalConv2d(weight, (8, 9), padding=1, padding_mode="reflect")
    np.testing.assert_allclose(A.toarray(), B.toarray(), atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "more", "error", "message"),
    [
        ((np.ones((2, 3)), np.ones((2, 5)), 5), {"order": "both"}, ValueError, "order='both' must be"),
        ((np.ones((2, 3)), np.ones((3, 5)), 5), {}, ValueError, r"maps has shape \(3, 5\)"),
        ((np.ones((2, 3)), np.ones((2, 5)), 5), {"order": "after"}, ValueError, "a map of the output"),
        ((np.ones(3), np.ones(5), 5), {}, ValueError, r"kernels has shape \(3,\)"),
        ((np.ones((2, 3)), np.ones((2, 5)), 5), {"groups": 2}, TypeError, "groups"),
    ],
)
def test_wrong_arguments_of_a_varying_blur_are_named(arguments, more, error, message):
    with pytest.raises(error, match=message):
        varying_blur(*arguments, **more)


def test_pylops_agrees_on_kernels_that_belong_to_samples():
    pylops = pytest.importorskip("pylops")
    rng = np.random.default_rng(0)
    kernels, x = rng.standard_normal((3, 5)), rng.standard_normal(33)
    places = (8, 16, 24)  # between them PyLops interpolates the kernels, beyond them it keeps the last
    maps = np.array([np.interp(np.arange(33), places, row) for row in np.eye(3)])
    P = pylops.signalprocessing.NonStationaryConvolve1D(33, kernels, ih=places)
    A = varying_blur(kernels, maps, 33, padding=2, flip=True)
    np.testing.assert_allclose(A @ x, P @ x, atol=1e-12)
    np.testing.assert_allclose(A.T @ x, P.T @ x, atol=1e-12)


def test_pylops_agrees_on_the_kernels_of_its_own_example():
    """Those of its gallery, 35 x 33, on a grid of a fifth of the size: its loops are slow."""
    pylops = pytest.importorskip("pylops")
    gaussian, ricker = scipy.signal.windows.gaussian, pylops.utils.wavelets.ricker
    slow, fast = (ricker(0.004 * np.arange(17), f0=f)[0] for f in (12, 30))
    wide, narrow = gaussian(35, 4.0), gaussian(35, 2.0)
    kernels = np.array([np.outer(a, b) for a, b in ((narrow, slow), (narrow, fast), (wide, fast), (wide, slow))])
    size, places = (121, 101), (41, 81)
    P = pylops.signalprocessing.NonStationaryConvolve2D(size, kernels.reshape(2, 2, 35, 33), ihx=places, ihz=places)
    rows, columns = (np.array([np.interp(np.arange(n), places, row) for row in np.eye(2)]) for n in size)
    maps = np.einsum("im,jn->ijmn", rows, columns).reshape(4, *size)
    A = varying_blur(kernels, maps, size, order="before", padding=(17, 16), flip=True)
    B = LocalConv2d(np.einsum("jkl,jmn->klmn", kernels, maps), size, padding=(17, 16))  # each reads where P spreads
    x = np.random.default_rng(0).standard_normal(size)
    for C in (A, B.T):
        np.testing.assert_allclose(C.apply(x).ravel(), P @ x.ravel(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(C.T.apply(x).ravel(), P.T @ x.ravel(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [1.0, np.inf])
def test_a_batch_of_no_images_gives_none(value):
    A = LocalConv2d(np.full((2, 1, 1, 1, 3, 4), value), (3, 4))
    assert A.apply(np.zeros((0, 1, 3, 4))).shape == (0, 2, 3, 4)
    assert A.T.apply(np.zeros((0, 2, 3, 4))).shape == (0, 1, 3, 4)
