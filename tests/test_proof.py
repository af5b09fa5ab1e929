"""Norms proven by a Cholesky decomposition, against dense linear algebra of the explicit matrix."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from convmat import Conv1d, Conv2d, LocalConv2d, Separable, norm_bounds
from convmat.products.threads import blas_on_one_thread
from convmat.spectrum import bounds, norms, proof
from tests import oracle
from tests.strategies import CONV, layers, tries

PLACES = 1e-13
"""The share of a norm that dense linear algebra may be off."""


@blas_on_one_thread()
def dense_norm(matrix):
    return np.linalg.norm(matrix, 2)


@blas_on_one_thread()
def root_of_gram(A):
    """The norm, for matrices whose SVD takes long."""
    B = A.tosparse().astype(np.float64)
    return np.sqrt(scipy.linalg.eigvalsh((B.T @ B).toarray(), subset_by_index=[B.shape[1] - 1] * 2)[0])


def upper_bound(matrix, lower, away=0.0, rtol=1e-2):
    return proof.proven_above(proof.Blocked.of(sparse.csr_array(matrix)), lower, away, rtol)


def random_layer(layer, seed):
    """The layer with weights that are not whole, so that everything rounds."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(layer.weight.shape)
    if layer.dtype.kind == "c":
        weight = weight + 1j * rng.standard_normal(weight.shape)
    return CONV[layer.ndim](weight.astype(layer.dtype), layer.size, **layer.options)


def assert_proven(A, dense, rtol=1e-2):
    """By the Cholesky decomposition alone, whatever the size."""
    truth = dense_norm(dense)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "exact_bounds", lambda geometry, kernel: None)
        patch.setattr(bounds, "torus_gap", lambda geometry: np.inf)
        patch.setattr(bounds, "torus_work", lambda geometry: np.inf)
        patch.setattr(norms, "CHEAP", -1)
        lower, upper = norm_bounds(A, rtol=rtol)
    assert lower <= truth * (1 + PLACES)
    assert truth <= upper * (1 + PLACES)
    return lower, upper, truth


# the Gram matrix ------------------------------------------------------------------------------------------------------


def from_band(gram, columns, band):
    """The dense matrix of a lower half."""
    if gram.shape[0] == columns and 2 * band > columns:
        low = np.tril(gram)
    else:
        low = sum(np.diag(gram[k, : columns - k], -k) for k in range(band + 1))
    return low + np.tril(low, -1).conj().T


@tries(200)
@given(layers())
def test_the_band_is_that_of_the_gram_matrix_to_the_last_bit(layer):
    blocks = proof.Blocked.of(layer.matrix().astype(np.result_type(layer.dtype, np.float64)))
    dense = blocks.matrix.toarray()
    found = from_band(proof.gram_band(blocks), dense.shape[1], blocks.band)
    np.testing.assert_array_equal(found, dense.conj().T @ dense)


@tries(100)
@given(layers())
def test_the_blocks_are_the_matrix_with_its_columns_in_another_order(layer):
    matrix = layer.matrix().toarray()
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    found = proof.Blocked.of(layer.matrix()).matrix.toarray()
    assert sorted(map(bytes, found.T.copy())) == sorted(map(bytes, tall.T.copy()))


def test_an_image_has_a_band_of_a_few_lines():
    A = Conv2d(np.ones((3, 2, 3, 3)), (20, 9), padding=1, padding_mode="reflect")
    assert proof.Blocked.of(A.tosparse()).band == 2 * (2 * 9 + 3) - 1
    assert proof.Blocked.of(Conv1d(np.ones((2, 2, 3)), 99, padding=1, padding_mode="circular").tosparse()).band <= 20


# bounds of matrices ---------------------------------------------------------------------------------------------------


def with_values(values, rows, seed, dtype):
    """A dense matrix with these singular values, up to rounding."""
    rng = np.random.default_rng(seed)
    factors = []
    for size in (rows, len(values)):
        normal = rng.standard_normal((size, len(values))).astype(dtype)
        factors.append(np.linalg.qr(normal + (1j if np.dtype(dtype).kind == "c" else 0) * rng.permutation(normal))[0])
    return (factors[0] * values) @ factors[1].conj().T


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("spread", [0, 1e-15, 1e-9, 1e-4, 1])
def test_clustered_and_equal_values_are_enclosed_closely(spread, scale, dtype):
    values = 1 - spread * np.linspace(0, 1, 60) ** 2
    matrix = scale * with_values(values, 80, 1, dtype)
    truth = scale * dense_norm(matrix / scale)
    upper = upper_bound(matrix, truth)
    assert truth * (1 - PLACES) <= upper <= truth * (1 + 1e-6)
    A = Separable((60,), [matrix])
    lower, upper, truth = assert_proven(A, matrix)
    assert upper <= (1 + 1e-6) * lower


@pytest.mark.parametrize("share", [0, 1e-3, 0.5, 0.9, 0.999999])
def test_an_upper_bound_is_one_whatever_the_lower_bound_that_it_starts_from(share):
    matrix = np.random.default_rng(3).standard_normal((70, 50))
    truth = dense_norm(matrix)
    assert truth <= upper_bound(matrix, share * truth) * (1 + PLACES)


def test_no_decomposition_exists_just_below_the_norm():
    matrix = np.random.default_rng(4).standard_normal((70, 50))
    blocks = proof.Blocked.of(sparse.csr_array(matrix))
    gram, squared = proof.gram_band(blocks), dense_norm(matrix) ** 2
    assert proof._has_factor(gram, squared * (1 + 1e-9), blocks.band)
    assert not proof._has_factor(gram, squared * (1 - 1e-9), blocks.band)


def test_what_is_not_a_number_proves_nothing():
    assert not proof._has_factor(np.full((3, 3), np.nan), 1.0, 2)


def test_zero_and_what_may_be_away_from_it():
    assert upper_bound(np.zeros((5, 3)), 0.0) == 0
    assert upper_bound(np.zeros((5, 3)), 0.0, away=1e-3) >= 1e-3
    assert upper_bound(np.eye(3), 1.0, away=1e-3) >= 1 + 1e-3


def test_a_matrix_with_duplicates_counts_their_sum_and_stays_as_it_is():
    data, columns = np.array([1.0, 2, 3, 4]), np.array([1, 1, 0, 1])
    matrix = sparse.csr_array((data, columns, [0, 2, 4]), (2, 2))
    assert upper_bound(matrix, 0.0) >= dense_norm(np.array([[0.0, 3], [3, 4]])) * (1 - PLACES)
    np.testing.assert_array_equal(matrix.data, data)


# bounds of layers -----------------------------------------------------------------------------------------------------


def check_layer(layer, exponent, gap):
    A = random_layer(layer, layer.seed)
    scale = A.dtype.type(10.0**exponent)
    scaled = CONV[layer.ndim](scale * A.weight, layer.size, **layer.options)
    stored = scaled.weight.astype(np.result_type(scaled.dtype, np.float64))
    lower, upper, truth = assert_proven(scaled, CONV[layer.ndim](stored, layer.size, **layer.options).toarray())
    assert upper <= (1 + gap) * lower or truth == 0


EXPONENTS = st.sampled_from([-30, 0, 0, 30])


@tries(300, deadline=None)
@given(layers(), EXPONENTS)
def test_the_norm_of_every_layer_is_between_close_bounds(layer, exponent):
    check_layer(layer, exponent, 1e-5)


@pytest.mark.slow
@tries(5000, derandomize=False, deadline=None)
@given(layers(), EXPONENTS)
def test_the_norm_of_thousands_of_layers_is_between_close_bounds(layer, exponent):
    check_layer(layer, exponent, 1e-5)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_layers_at_every_scale_are_enclosed(scale):
    W = np.random.default_rng(5).standard_normal((4, 3, 3, 3))
    A = Conv2d(W, (9, 8), padding=1, padding_mode="reflect")
    truth = scale * dense_norm(A.toarray())
    lower, upper = norm_bounds(Conv2d(scale * W, (9, 8), padding=1, padding_mode="reflect"))
    assert lower <= truth * (1 + PLACES) <= upper * (1 + 3 * PLACES) <= (1 + 1e-6) * lower


@pytest.mark.parametrize("mode", oracle.MODES)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 2}])
def test_signed_kernels_have_close_bounds_at_every_border(mode, options):
    W = np.random.default_rng(6).standard_normal((8, 6 // options.get("groups", 1), 5, 3))
    A = Conv2d(W, (16, 11), padding=2, padding_mode=mode, **options)
    lower, upper = norm_bounds(A, rtol=1e-5)
    truth = dense_norm(A.toarray())
    assert lower <= truth * (1 + PLACES) <= upper * (1 + 3 * PLACES) <= (1 + 1e-5) * lower


@pytest.mark.parametrize("mode", ["reflect", "replicate", "symmetric", "antireflect"])
def test_one_channel_of_a_larger_image_has_close_bounds(mode):
    W = np.random.default_rng(7).standard_normal((1, 1, 5, 5))
    A = Conv2d(W, (40, 36), padding=2, padding_mode=mode)
    lower, upper = norm_bounds(A)
    truth = root_of_gram(A)
    assert lower <= truth * (1 + 1e-11) <= upper * (1 + 3e-11) <= (1 + 1e-5) * lower


def test_kernels_of_their_own_chains_and_sums_have_close_bounds():
    rng = np.random.default_rng(8)
    local = LocalConv2d(rng.standard_normal((20, 20, 3, 3)), (20, 20), padding=1, padding_mode="reflect")
    A = Conv2d(rng.standard_normal((3, 2, 3, 3)), (20, 20), padding=1, padding_mode="reflect")
    B = Conv2d(rng.standard_normal((2, 3, 3, 3)), (20, 20), padding=1, padding_mode="replicate")
    for operator in (local, A @ B, A.T + B):
        lower, upper, _ = assert_proven(operator, operator.toarray())
        assert upper <= (1 + 1e-5) * lower


def test_many_channels_on_a_tiny_map_have_close_bounds():
    A = Conv2d(np.random.default_rng(9).standard_normal((100, 100, 3, 3)), (2, 2), padding=1)
    lower, upper = norm_bounds(A)
    assert lower <= dense_norm(A.toarray()) * (1 + PLACES) <= upper * (1 + 3 * PLACES) <= (1 + 1e-6) * lower


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "size"), [(512, 2), (256, 4)])
def test_the_last_layers_of_a_residual_network_have_close_bounds(channels, size):
    W = np.random.default_rng(10).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    A = Conv2d(W, (size, size), padding=1)
    truth = root_of_gram(A)
    lower, upper = norm_bounds(A)
    assert lower <= truth * (1 + 1e-11) <= upper * (1 + 3e-11) <= (1 + 1e-6) * lower
