"""The resampling matrices against their formulas, sample by sample. (Against PyTorch: tests/interop/test_torch.py.)"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmat.operators.resampling import average, cubic, linear, nearest

SIZES = st.integers(1, 12)


def keys(t, a=-0.75):
    """The kernel as Keys writes it (1981, equation 4) with his free parameter."""
    t = abs(t)
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


@given(SIZES, st.integers(1, 30))
def test_nearest_takes_one_sample_for_each_output(size, output):
    # In whole numbers: floor(m N / M) and floor((2 m + 1) N / (2 M)), where rounding cannot decide.
    m = np.arange(output)
    safe = (m * size) % output != 0
    np.testing.assert_array_equal((nearest(size, output) @ np.arange(size))[safe], (m * size // output)[safe])
    numerator = (2 * m + 1) * size
    safe = numerator % (2 * output) != 0
    exact = nearest(size, output, exact=True) @ np.arange(size)
    np.testing.assert_array_equal(exact[safe], (numerator // (2 * output))[safe])
    assert nearest(size, output).nnz == output


@given(st.integers(2, 12), SIZES)
def test_linear_interpolates_as_numpy_does(size, output):
    x = np.random.default_rng(0).standard_normal(size)
    centres = (np.arange(output) + 0.5) * size / output - 0.5
    np.testing.assert_allclose(linear(size, output) @ x, np.interp(centres, np.arange(size), x), atol=1e-12)
    ends = np.linspace(0, size - 1, output)
    np.testing.assert_allclose(
        linear(size, output, align_corners=True) @ x, np.interp(ends, np.arange(size), x), atol=1e-12
    )


@given(SIZES, SIZES, st.booleans())
def test_cubic_is_the_sum_over_the_kernel_with_a_replicated_border(size, output, corners):
    x = np.random.default_rng(0).standard_normal(size)
    expected = []
    for m in range(output):
        aligned = m * (size - 1) / max(1, output - 1)
        u = aligned if corners else (m + 0.5) * size / output - 0.5
        taps = range(math.floor(u) - 1, math.floor(u) + 3)
        expected.append(sum(keys(u - i) * x[min(max(i, 0), size - 1)] for i in taps))
    np.testing.assert_allclose(cubic(size, output, align_corners=corners) @ x, expected, atol=1e-12)


@given(SIZES, SIZES)
def test_average_is_the_mean_of_the_samples_that_a_bin_touches(size, output):
    x = np.random.default_rng(0).standard_normal(size)
    bins = [x[math.floor(m * size / output) : math.ceil((m + 1) * size / output)] for m in range(output)]
    np.testing.assert_allclose(average(size, output) @ x, [b.mean() for b in bins], atol=1e-14)


@given(SIZES, SIZES, st.none() | st.sampled_from([0.7, 1.0, 1.3, 2.0]))
def test_constants_stay_constant(size, output, scale):
    for matrix in (nearest(size, output, scale), linear(size, output, scale), cubic(size, output, scale)):
        assert matrix.shape == (output, size)
        assert matrix.has_canonical_format
        np.testing.assert_allclose(matrix @ np.ones(size), 1, atol=1e-14)
    np.testing.assert_allclose(average(size, output) @ np.ones(size), 1, atol=1e-14)


@pytest.mark.parametrize("make", [nearest, linear, cubic, average])
def test_same_size_is_the_identity(make):
    np.testing.assert_array_equal(make(7, 7).toarray(), np.eye(7))


def test_scale_factor_sets_the_positions_and_not_the_size():
    # f = 2 on 3 samples, 5 outputs: positions (m + 1/2) / 2 - 1/2
    np.testing.assert_allclose(linear(3, 5, 2.0) @ [0.0, 4.0, 8.0], [0, 1, 3, 5, 7])
    np.testing.assert_array_equal(nearest(3, 5, 2.0) @ [0.0, 4.0, 8.0], [0, 0, 4, 4, 8])
