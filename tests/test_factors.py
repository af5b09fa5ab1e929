"""A = Downsample Correlate Pad as an equality of matrices, and each factor as what it says it is."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmat import Conv1d, Conv2d, Correlate, Crop, Downsample, Pad, Upsample, check_adjoint, conv_matrix
from tests import oracle
from tests.strategies import CONV_TRANSPOSE, integers, layers, transposed_layers, tries

NUMPY = {
    "zeros": {"mode": "constant"},
    "reflect": {"mode": "reflect"},
    "replicate": {"mode": "edge"},
    "circular": {"mode": "wrap"},
    "symmetric": {"mode": "symmetric"},
    "antireflect": {"mode": "reflect", "reflect_type": "odd"},
}
PARTNERS = {Pad: Crop, Crop: Pad, Downsample: Upsample, Upsample: Downsample}


def one_tap(layer):
    """The options of the convolution that pads and does no more."""
    ones = (1,) * layer.ndim
    return {"stride": ones, "dilation": ones, "padding": layer.padding, "padding_mode": layer.padding_mode}


def padded(x, padding, mode):
    """numpy.pad, with negative entries cropping what has been extended."""
    x = np.pad(x, [(max(lo, 0), max(hi, 0)) for lo, hi in padding], **NUMPY[mode])
    return x[tuple(slice(max(-lo, 0), n + min(hi, 0)) for (lo, hi), n in zip(padding, x.shape, strict=True))]


@tries(400)
@given(layers())
def test_product_of_the_factors_is_the_matrix_exactly(layer):
    A = layer.operator()
    D, C, P = A.factors()
    assert (type(D), type(C), type(P)) == (Downsample, Correlate, Pad)
    assert D.dtype == C.dtype == P.dtype == A.dtype
    assert (P.input_shape, P.output_shape, C.output_shape) == (A.input_shape, C.input_shape, D.input_shape)
    product = D.tosparse() @ C.tosparse() @ P.tosparse()
    np.testing.assert_array_equal(product.toarray(), layer.dense())
    x = integers(layer.rng(), (2, *A.input_shape))
    np.testing.assert_array_equal(D.apply(C.apply(P.apply(x))), A.apply(x))


@tries(400)
@given(layers())
def test_product_of_the_transposed_factors_is_the_transposed_matrix_exactly(layer):
    A = layer.operator()
    D, C, P = A.factors()
    PT, CT, U = A.T.factors()
    assert (type(PT), type(U)) == (Crop, Upsample)
    np.testing.assert_array_equal((PT.tosparse() @ CT.tosparse() @ U.tosparse()).toarray(), layer.dense().T)
    for transposed, factor in ((PT, P), (CT, C), (U, D)):
        np.testing.assert_array_equal(transposed.toarray(), factor.toarray().T)
    y = integers(layer.rng(), (2, *A.output_shape))
    np.testing.assert_array_equal(PT.apply(CT.apply(U.apply(y))), A.T.apply(y))


@tries(200)
@given(transposed_layers())
def test_factors_of_every_transposed_convolution(case):
    layer, inputs, extra, _ = case
    B = CONV_TRANSPOSE[layer.ndim](layer.weight, inputs, output_padding=extra, **layer.options)
    PT, CT, U = B.factors()
    expected = oracle.dense_transpose(layer.weight, inputs, extra=extra, **layer.options)
    np.testing.assert_array_equal((PT.tosparse() @ CT.tosparse() @ U.tosparse()).toarray(), expected)


@tries(60)
@given(layers(ndims=(1, 2)))
def test_every_factor_is_an_operator_in_its_own_right(layer):
    for factor in layer.operator().factors():
        assert factor.T.T is factor
        assert factor.nnz == factor.T.nnz == factor.tosparse().nnz
        if type(factor) in PARTNERS:
            assert type(factor.T) is PARTNERS[type(factor)]
            assert factor.geometry == factor.T.geometry
        for B in (factor, factor.T):
            check_adjoint(B, trials=1, rng=layer.rng())
            for other in (pickle.loads(pickle.dumps(B)), copy.copy(B), copy.deepcopy(B)):
                assert type(other) is type(B)
                np.testing.assert_array_equal(other.toarray(), B.toarray())
                x = integers(layer.rng(), (2, *B.input_shape))
                np.testing.assert_array_equal(other.apply(x), B.apply(x))


@tries(300)
@given(layers(dtypes=("float64",)), st.sampled_from([None, 1, 3]))
def test_pad_is_numpy_pad_and_its_matrix_has_an_entry_per_sample_of_each_position(layer, channels):
    P = Pad(layer.size, layer.padding, padding_mode=layer.padding_mode, channels=channels)
    x = integers(layer.rng(), (2, *layer.size))
    expected = np.stack([padded(image, layer.padding, layer.padding_mode) for image in x])
    if channels:
        x, expected = (np.stack([a, *[-a] * (channels - 1)], axis=1) for a in (x, expected))
    assert P.output_shape == expected.shape[1:]
    np.testing.assert_array_equal(P.apply(x), expected)
    np.testing.assert_array_equal((P.tosparse() @ x.reshape(2, -1).T).T.reshape(expected.shape), expected)
    read = oracle.pattern((1,) * layer.ndim, layer.size, **one_tap(layer)).sum()
    assert P.nnz == read * (channels or 1)
    assert set(P.tosparse().data.tolist()) <= {1.0} or layer.padding_mode == "antireflect"
    C = Crop(P.output_shape[bool(channels) :], layer.padding, padding_mode=layer.padding_mode, channels=channels)
    np.testing.assert_array_equal(C.toarray(), P.toarray().T)


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("stride", [1, 2, 3, (1, 4)])
@pytest.mark.parametrize("size", [(7, 6), (1, 5)])
def test_downsample_keeps_every_sth_sample_and_upsample_puts_zeros_between(size, stride, dtype, channels):
    steps = (stride, stride) if isinstance(stride, int) else stride
    D = Downsample(size, stride, channels=channels, dtype=dtype)
    x = integers(np.random.default_rng(0), (3, *D.input_shape), dtype)
    kept = x[..., :: steps[0], :: steps[1]]
    np.testing.assert_array_equal(D.apply(x), kept)
    np.testing.assert_array_equal(D.tosparse() @ x[0].ravel(), kept[0].ravel())
    U = Upsample(kept.shape[-2:], stride, output_size=size, channels=channels, dtype=dtype)
    filled = np.zeros_like(x)
    filled[..., :: steps[0], :: steps[1]] = kept
    np.testing.assert_array_equal(U.apply(kept), filled)
    np.testing.assert_array_equal(U.tosparse() @ kept[0].ravel(), filled[0].ravel())
    np.testing.assert_array_equal(U.toarray(), D.toarray().T)
    np.testing.assert_array_equal((D.tosparse() @ D.T.tosparse()).toarray(), np.eye(D.shape[0]))
    assert D.dtype == U.dtype == D.apply(x).dtype == D.tosparse().dtype == np.dtype(dtype)
    shortest = Upsample(kept.shape[-2:], stride, channels=channels, dtype=dtype)
    expected = tuple((m - 1) * s + 1 for m, s in zip(kept.shape[-2:], steps, strict=True))
    assert shortest.output_shape[-2:] == expected


def test_transposed_correlation_is_the_full_correlation_with_the_flipped_kernel_and_swapped_channels():
    rng = np.random.default_rng(1)
    weight = integers(rng, (3, 2, 2, 4))
    for dilation in (1, (2, 1)):
        C = Correlate(weight, (7, 8), dilation=dilation)
        swapped = weight.swapaxes(0, 1)[:, :, ::-1, ::-1]
        full = conv_matrix(swapped, C.output_shape[1:], padding="full", dilation=dilation)
        np.testing.assert_array_equal(C.T.toarray(), full.toarray())


def test_strided_transpose_is_zero_filling_and_then_the_full_flipped_correlation():
    weight = integers(np.random.default_rng(2), (3, 3))
    A = Conv2d(weight, (7, 9), stride=2)
    filled = Upsample((3, 4), 2)
    full = Conv2d(weight, (5, 7), padding="full", flip=True)
    np.testing.assert_array_equal((full.tosparse() @ filled.tosparse()).toarray(), A.toarray().T)


def test_correlate_is_the_valid_stride_one_convolution():
    weight = integers(np.random.default_rng(3), (4, 1, 3))
    C = Correlate(weight, 9, dilation=2, groups=2, flip=True, method="gemm")
    np.testing.assert_array_equal(C.toarray(), Conv1d(weight, 9, dilation=2, groups=2, flip=True).toarray())
    assert C.method == "gemm"


def test_crop_drops_a_zero_border_and_folds_any_other_back():
    y = np.arange(1.0, 7.0)
    np.testing.assert_array_equal(Crop(6, ((2, 1),)) @ y, [3, 4, 5])
    folded = Crop(6, ((2, 1),), padding_mode="replicate") @ y
    np.testing.assert_array_equal(folded, [1 + 2 + 3, 4, 5 + 6])
    np.testing.assert_array_equal(Crop(6, ((2, 1),), padding_mode="circular") @ y, [3 + 6, 4 + 1, 5 + 2])
    np.testing.assert_array_equal(Crop(6, ((2, 1),), padding_mode="reflect") @ y, [3, 4 + 2 + 6, 5 + 1])
    np.testing.assert_array_equal(Crop(6, ((2, 1),), padding_mode="symmetric") @ y, [3 + 2, 4 + 1, 5 + 6])


@pytest.mark.parametrize(
    "factor", [Pad(5, 0), Crop(5, 0), Downsample(5, 1), Upsample(5, 1), Downsample(5, 2)], ids=repr
)
def test_a_factor_that_changes_nothing_still_returns_a_new_array(factor):
    for B in (factor, factor.T):
        x = np.arange(1.0, B.shape[1] + 1)
        for y in (B.apply(x), B @ x, B.rmatvec(np.ones(B.shape[0]))):
            assert not np.shares_memory(x, y)
            y[:] = 0
        np.testing.assert_array_equal(x, np.arange(1.0, B.shape[1] + 1))


def test_factors_of_an_immutable_operator_are_immutable():
    for factor in Conv1d([1.0, 2.0], 5).factors():
        with pytest.raises(AttributeError):
            factor.stride = 3
