"""Every convolution and transposed convolution that PyTorch computed, through everything that convmat makes of it."""

import numpy as np
import pytest

from convmat import conv_matrix, conv_transpose_matrix
from convmat.products import usable
from tests.cases import LAYERS, opposite, options
from tests.strategies import CONV, CONV_TRANSPOSE

BY_OP = {"conv": CONV, "conv_transpose": CONV_TRANSPOSE}
OPPOSITE = {"conv": CONV_TRANSPOSE, "conv_transpose": CONV}
MATRIX = {"conv": conv_matrix, "conv_transpose": conv_transpose_matrix}

every_layer = pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.id)
each_form = pytest.mark.parametrize("form", ["attrs", "normalized"])


def operator(case, form="normalized", **more):
    size = tuple(case.normalized["input_spatial"])
    return BY_OP[case.op][case.nd](case["w"], size, **options(case, form), **more)


def plus_bias(case, y):
    return y + case["b"].reshape(-1, *[1] * case.nd) if "b" in case else y


def without_bias(case):
    y = case.images("y")
    return y - case["b"].reshape(-1, *[1] * case.nd) if "b" in case else y


@each_form
@every_layer
def test_explicit_matrix_gives_output_and_input_gradient(case, form):
    x, y, ct, gx = (case.images(name) for name in ("x", "y", "ct", "gx"))
    size = tuple(case.normalized["input_spatial"])
    A = MATRIX[case.op](case["w"], size, **options(case, form))
    assert A.shape == (y[0].size, x[0].size)
    assert A.dtype == case["w"].dtype
    case.close(plus_bias(case, (A @ x.reshape(len(x), -1).T).T.reshape(y.shape)), y)
    case.close((A.conj().T @ ct.reshape(len(x), -1).T).T.reshape(gx.shape), gx)


@pytest.mark.parametrize("method", [*usable(), "auto"])
@every_layer
def test_apply_gives_output_and_adjoint_gives_input_gradient(case, method):
    A = operator(case, method=method)
    case.close(plus_bias(case, A.apply(case.images("x"))), case.images("y"))
    case.close(A.H.apply(case.images("ct")), case.images("gx"))
    case.close(A.rmatvec(case.images("ct")[0].ravel()).reshape(A.input_shape), case.images("gx")[0])


@every_layer
def test_operator_from_pytorch_attributes_applies_to_the_arrays_as_they_are(case):
    case.close(plus_bias(case, operator(case, "attrs").apply(case["x"])), case["y"])


@every_layer
def test_weight_operator_gives_output_and_weight_gradient(case):
    A, w, target = operator(case), case["w"], without_bias(case)
    gradient = np.zeros(w.size, dtype=w.dtype)
    for x, y, ct in zip(case.images("x"), target, case.images("ct"), strict=True):
        J = A.weight_operator(x)
        matrix = J.tosparse()
        assert matrix.dtype == w.dtype
        case.close(plus_bias(case, (J @ w.ravel()).reshape(y.shape)), plus_bias(case, y))
        case.close(plus_bias(case, (matrix @ w.ravel()).reshape(y.shape)), plus_bias(case, y))
        case.close(matrix.conj().T @ ct.ravel(), J.H @ ct.ravel())
        gradient += J.H @ ct.ravel()
    case.close(gradient.reshape(w.shape), case["gw"])


@every_layer
def test_transpose_of_the_opposite_constructor_is_the_layer(case):
    size, chosen = opposite(case)
    B = OPPOSITE[case.op][case.nd](case["w"], size, **chosen)
    A = operator(case)
    assert (B.input_shape, B.output_shape) == (A.output_shape, A.input_shape)
    case.close(plus_bias(case, B.T.apply(case.images("x"))), case.images("y"))
    case.close(B.apply(case.images("ct").conj()).conj(), case.images("gx"))
    np.testing.assert_array_equal(B.toarray().T, A.toarray())
    case.close(A.T.apply(case.images("ct").conj()).conj(), case.images("gx"))
