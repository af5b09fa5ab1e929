"""Norms of operators made of operators, against dense linear algebra of their matrices."""

import math

import numpy as np
import pytest

from convmat import Conv1d, Conv2d, Pad, Rearrange, identity, vstack
from convmat.operators.base import ImageOperator
from convmat.spectrum.trees import parts_of, scaled_operator
from tests.trees import Trees

# operators near one ---------------------------------------------------------------------------------------------------


def numbers(A):
    """All numbers in a tree."""
    for name in ("weight", "values", "image", "factor"):
        if hasattr(A, name):
            yield np.ravel(getattr(A, name))
    for matrix in getattr(A, "matrices", ()):
        if matrix is not None:
            yield np.ravel(getattr(matrix, "data", matrix) if hasattr(matrix, "indptr") else matrix)
    for part in parts_of(A):
        yield from numbers(part)


@pytest.mark.parametrize("seed", range(60))
def test_an_operator_near_one_is_a_power_of_two_away(seed):
    A, _ = Trees(seed).tree(3, (2, 4, 3))
    near, exponent = scaled_operator(A)
    assert (near.input_shape, near.output_shape, near.dtype) == (A.input_shape, A.output_shape, A.dtype)
    assert all(np.abs(found).max(initial=0) <= math.sqrt(2) for found in numbers(near))
    tolerance = 1e-12 if np.finfo(A.dtype).eps < 1e-10 else 1e-5
    dense, scaled = A.toarray(), np.ldexp(1.0, exponent) * near.toarray()
    np.testing.assert_allclose(scaled, dense, atol=tolerance * (1 + np.abs(dense).max()))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_products_of_extremes_have_exponents_beyond_doubles(scale):
    A = Conv1d([1.0, 2.0], 5) * scale
    near, exponent = scaled_operator(A.T @ A @ A.T @ A)
    assert abs(exponent - 4 * math.log2(scale)) < 16
    assert 1e-4 < np.linalg.norm(near.toarray(), 2) < 100


def test_sums_and_stacks_have_the_exponent_of_the_largest_that_is_not_zero():
    A, Z = Conv1d([1.0, 2.0], 5), Conv1d([0.0, 0.0], 5)
    for join, rows in ((lambda a, b: a + b, 1), (lambda a, b: vstack([a, b]), 2)):
        near, exponent = scaled_operator(join(1e-300 * A, Z))
        assert 2.0 ** (exponent - 2) <= 1e-300 * 2 <= 2.0 ** (exponent + 2)
        assert near.shape[0] == rows * A.shape[0]
        near, exponent = scaled_operator(join(1e300 * A, 1e290 * A))
        found = near.toarray() * (2.0**exponent / 1e300)
        expected = join(1.0 * A, 1e-10 * A).toarray()
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_scaled_convolutions_keep_class_and_method():
    A = Conv2d(np.full((3, 3), 1e-30), (8, 8), method="fft")
    for given in (A, A.T):
        near, exponent = scaled_operator(given)
        assert type(near) is type(given)
        assert near._products.asked == "fft"
        np.testing.assert_array_equal(np.ldexp(near.weight, exponent), given.weight)


def test_what_has_no_numbers_of_its_own_is_left_alone():
    class Own(ImageOperator):
        pass

    for A in (Own(np.dtype(float), (3,), (3,)), Pad(4, 1), Rearrange((2, 3)), identity((2, 2))):
        assert scaled_operator(A) == (A, 0)
    assert scaled_operator(Conv1d([0.0], 3))[1] == 0
