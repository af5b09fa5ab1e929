"""The weight operator: W -> A x is linear, its matrix is im2col, its adjoint is the weight gradient."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from scipy.sparse.linalg import lsqr

from convmat import Conv1d, Conv2d, ConvTranspose1d, check_adjoint
from tests import oracle
from tests.strategies import CONV_TRANSPOSE, integers, layers, transposed_layers, tries


def assert_canonical(matrix):
    fresh = type(matrix)((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
    fresh.check_format(full_check=True)
    assert fresh.has_canonical_format


@tries(400)
@given(layers())
def test_weight_operator_is_the_oracle_applied_to_unit_weights(layer):
    A, rng = layer.operator(), layer.rng()
    x = integers(rng, A.input_shape, A.dtype)
    J = A.weight_operator(x)
    expected = oracle.weight_matrix(x, layer.weight.shape, layer.size, **layer.options)
    assert J.shape == expected.shape
    assert J.dtype == A.dtype
    assert (J.input_shape, J.output_shape) == (layer.weight.shape, A.output_shape)
    matrix = J.tosparse()
    np.testing.assert_array_equal(matrix.toarray(), expected)
    assert matrix.dtype == J.dtype
    assert_canonical(matrix)
    W = integers(rng, (J.shape[1], 2), A.dtype)
    Y = integers(rng, (J.shape[0], 2), A.dtype)
    np.testing.assert_array_equal(J @ W, expected @ W)
    np.testing.assert_array_equal(J.rmatmat(Y), expected.conj().T @ Y)
    np.testing.assert_array_equal(J.H @ Y[:, 0], expected.conj().T @ Y[:, 0])
    np.testing.assert_array_equal(J.T @ Y[:, 0], expected.T @ Y[:, 0])


@tries(200)
@given(layers())
def test_weight_operator_at_the_weight_is_the_operator_at_the_image(layer):
    A = layer.operator()
    x = integers(layer.rng(), A.input_shape, A.dtype)
    J = A.weight_operator(x)
    np.testing.assert_array_equal(J @ A.weight.ravel(), A @ x.ravel())
    np.testing.assert_array_equal(J.apply(A.weight), A.apply(x))
    batch = np.stack([A.weight, 2 * A.weight])
    np.testing.assert_array_equal(J.apply(batch), np.stack([A.apply(x), 2 * A.apply(x)]))


@tries(300)
@given(transposed_layers())
def test_transposed_weight_operator_is_the_oracle_applied_to_unit_weights(case):
    layer, inputs, extra, outputs = case
    B, rng = CONV_TRANSPOSE[layer.ndim](layer.weight, inputs, output_padding=extra, **layer.options), layer.rng()
    y = integers(rng, B.input_shape, B.dtype)
    J = B.weight_operator(y)
    options = layer.options | {"padding": B.geometry.padding}
    expected = oracle.weight_matrix(y, layer.weight.shape, outputs, transposed=True, **options)
    matrix = J.tosparse()
    np.testing.assert_array_equal(matrix.toarray(), expected)
    assert matrix.dtype == J.dtype == B.dtype
    assert_canonical(matrix)
    np.testing.assert_array_equal(J @ B.weight.ravel(), B @ y.ravel())
    X = integers(rng, (J.shape[0], 2), B.dtype)
    np.testing.assert_array_equal(J.rmatmat(X), expected.conj().T @ X)


@tries(100)
@given(layers())
def test_weight_operators_pass_the_dot_test_and_survive_pickle(layer):
    A, rng = layer.operator(), layer.rng()
    for B in (A, A.T):
        J = B.weight_operator(integers(rng, B.input_shape, A.dtype))
        check_adjoint(J, trials=2, rng=rng)
        for other in (pickle.loads(pickle.dumps(J)), copy.copy(J), copy.deepcopy(J)):
            np.testing.assert_array_equal(other.toarray(), J.toarray())
            np.testing.assert_array_equal(other @ B.weight.ravel(), J @ B.weight.ravel())


@pytest.mark.parametrize("image", ["float32", "float64", "complex64", "complex128", "int16", "bool"])
@pytest.mark.parametrize("weight", ["float32", "float64", "complex64", "complex128"])
def test_dtype_is_the_result_type_of_weight_and_image(weight, image):
    A = Conv1d(np.ones(3, dtype=weight), 6, padding=1)
    J = A.weight_operator(np.ones(6, dtype=image))
    expected = np.result_type(np.dtype(weight), np.dtype(image))
    assert J.dtype == J.tosparse().dtype == (J @ A.weight).dtype == (J.H @ np.ones(6, dtype=weight)).dtype == expected


def test_image_is_a_read_only_copy():
    x = np.arange(5.0)
    J = Conv1d([1.0, 2.0], 5).weight_operator(x)
    before = J.toarray()
    x[:] = 0
    np.testing.assert_array_equal(J.toarray(), before)
    with pytest.raises(ValueError, match="read-only"):
        J.image[0] = 1


@pytest.mark.parametrize("remake", [lambda op: pickle.loads(pickle.dumps(op)), copy.copy, copy.deepcopy])
def test_image_of_a_pickled_or_copied_weight_operator_is_read_only_too(remake):
    J = Conv1d([1.0, 2.0], 5).weight_operator(np.arange(5.0))
    assert not remake(J).image.flags.writeable


def test_padded_zeros_are_not_stored():
    J = Conv1d([1.0, 2.0, 3.0], 4, padding=1).weight_operator(np.arange(1.0, 5.0))
    assert J.tosparse().nnz == 10
    assert Conv1d(np.ones(3), 4, padding=1, padding_mode="replicate").weight_operator(np.ones(4)).tosparse().nnz == 12


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_weights_that_are_not_finite_give_what_the_matrix_gives(mode):
    x = np.arange(1.0, 6.0)
    weight = np.array([np.nan, 1.0, 2.0])
    A = Conv1d(weight, 5, padding=1, padding_mode=mode)
    J = A.weight_operator(x)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(J.tosparse() @ weight, A.tosparse() @ x)
        np.testing.assert_array_equal(J @ weight, A @ x)


def test_an_unknown_kernel_is_found_from_two_images():
    rng = np.random.default_rng(0)
    kernel, x = rng.standard_normal((2, 3, 3, 3)), rng.standard_normal((3, 12, 11))
    A = Conv2d(kernel, (12, 11), padding=1, padding_mode="reflect")
    J = Conv2d(np.zeros_like(kernel), (12, 11), padding=1, padding_mode="reflect").weight_operator(x)
    found = lsqr(J, A @ x.ravel(), atol=1e-14, btol=1e-14)[0]
    np.testing.assert_allclose(found, kernel.ravel(), atol=1e-10)


def test_gradient_of_least_squares_is_the_finite_difference():
    rng = np.random.default_rng(1)
    B = ConvTranspose1d(rng.standard_normal((2, 1, 3)), 5, stride=2, groups=2)
    y, target = rng.standard_normal(B.input_shape), rng.standard_normal(B.output_shape)

    def loss(weight):
        return 0.5 * np.sum((ConvTranspose1d(weight, 5, stride=2, groups=2).apply(y) - target) ** 2)

    gradient = (B.weight_operator(y).T @ (B.apply(y) - target).ravel()).reshape(B.weight.shape)
    for at in np.ndindex(*B.weight.shape):
        step = np.zeros(B.weight.shape)
        step[at] = 1e-5
        slope = (loss(B.weight + step) - loss(B.weight - step)) / 2e-5
        assert gradient[at] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_a_batch_of_no_weights_and_no_images_gives_none():
    J = Conv1d(np.ones((2, 1, 3)), 5).weight_operator(np.ones((1, 5)))
    assert J.apply(np.zeros((0, 2, 1, 3))).shape == (0, 2, 3)
    assert J.T.apply(np.zeros((0, 2, 3))).shape == (0, 2, 1, 3)
