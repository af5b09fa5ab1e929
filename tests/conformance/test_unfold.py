"""unfold is the convolution with the unit kernels, and the matrix of the weight operator; fold is its transpose."""

import math

import numpy as np
import pytest

from convmat import Conv2d, ConvTranspose2d, conv_matrix, conv_transpose_matrix
from convmat.products import usable
from tests.cases import FOLDS, UNFOLDS, options

every_unfold = pytest.mark.parametrize("case", UNFOLDS, ids=lambda case: case.id)
every_fold = pytest.mark.parametrize("case", FOLDS, ids=lambda case: case.id)


def units(case, channels):
    """One output channel per input channel and kernel position, of weight 1: (C K, 1, K_1, K_2)."""
    kernel = tuple(case.normalized["kernel"])
    taps = math.prod(kernel)
    return np.tile(np.eye(taps).reshape(taps, 1, *kernel), (channels, 1, 1, 1))


@pytest.mark.parametrize("form", ["attrs", "normalized"])
@every_unfold
def test_convolution_with_unit_kernels_unfolds(case, form):
    x, y, ct, gx = (case[name] for name in ("x", "y", "ct", "gx"))
    channels, *size = x.shape[1:]
    A = conv_matrix(units(case, channels), size, **options(case, form) | {"groups": channels})
    case.close((A @ x.reshape(len(x), -1).T).T.reshape(y.shape), y)
    case.close((A.T @ ct.reshape(len(x), -1).T).T.reshape(gx.shape), gx)


@pytest.mark.parametrize("method", [*usable(), "auto"])
@every_unfold
def test_operator_with_unit_kernels_unfolds_and_its_adjoint_folds(case, method):
    x, y, ct, gx = (case[name] for name in ("x", "y", "ct", "gx"))
    channels, *size = x.shape[1:]
    chosen = options(case, "attrs") | {"groups": channels}
    A = Conv2d(units(case, channels), size, **chosen, method=method)
    case.close(A.apply(x).reshape(y.shape), y)
    case.close(A.H.apply(ct.reshape(len(x), *A.output_shape)), gx)


@every_unfold
def test_matrix_of_the_weight_operator_is_unfold(case):
    x, y = case["x"], case["y"]
    channels, *size = x.shape[1:]
    weight = np.zeros((1, channels, *case.normalized["kernel"]))
    A = Conv2d(weight, size, **options(case, "attrs"))
    for image, columns in zip(x, y, strict=True):
        np.testing.assert_array_equal(A.weight_operator(image).toarray(), columns.T)


@pytest.mark.parametrize("form", ["attrs", "normalized"])
@every_fold
def test_transposed_convolution_with_unit_kernels_folds(case, form):
    x, y, ct, gx = (case[name] for name in ("x", "y", "ct", "gx"))
    channels, *size = y.shape[1:]
    chosen = options(case, form) | {"groups": channels, "output_size": tuple(size)}
    A = conv_transpose_matrix(units(case, channels), tuple(case.normalized["output_spatial"]), **chosen)
    case.close((A @ x.reshape(len(x), -1).T).T.reshape(y.shape), y)
    case.close((A.T @ ct.reshape(len(x), -1).T).T.reshape(gx.shape), gx)


@pytest.mark.parametrize("method", [*usable(), "auto"])
@every_fold
def test_operator_with_unit_kernels_folds_and_its_adjoint_unfolds(case, method):
    x, y, ct, gx = (case[name] for name in ("x", "y", "ct", "gx"))
    channels, *size = y.shape[1:]
    chosen = options(case, "normalized") | {"groups": channels, "output_size": tuple(size), "method": method}
    A = ConvTranspose2d(units(case, channels), tuple(case.normalized["output_spatial"]), **chosen)
    case.close(A.apply(x.reshape(len(x), *A.input_shape)), y)
    case.close(A.H.apply(ct).reshape(gx.shape), gx)
