"""The rivals of the leaderboard in `benchmarks/norms.py`, against dense linear algebra where their theorems hold."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import rivals
from convmat import Conv2d, ConvTranspose2d
from tests.strategies import tries


def dense_norm(A):
    return np.linalg.norm(A.toarray(), 2)


@st.composite
def images(draw, modes=("zeros", "circular"), strides=(1, 2, 3)):
    """A convolution of images that keeps their size, but for its stride."""
    groups = draw(st.integers(1, 3))
    taps = [draw(st.sampled_from([1, 3, 5])) for _ in range(2)]
    dilation = [draw(st.integers(1, 2)) for _ in range(2)]
    size = [draw(st.integers(max(1, d * (k - 1) // 2), 8)) for d, k in zip(dilation, taps, strict=True)]
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    shape = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 3)), *taps)
    weight = draw(st.sampled_from([rng.standard_normal, lambda shape: rng.uniform(0, 1, shape)]))(shape)
    padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, taps, strict=True))
    stride = tuple(draw(st.sampled_from(strides)) for _ in range(2))
    mode = draw(st.sampled_from(modes))
    options = {"stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode, "groups": groups}
    return Conv2d(weight, size, **options)


@tries(100)
@given(images(modes=("circular",), strides=(1,)))
def test_sedghi_is_the_norm_of_the_circular_layer(A):
    np.testing.assert_allclose(rivals.sedghi(rivals.Layer.of(A)), dense_norm(A), rtol=1e-12)


@tries(100)
@given(images(modes=("circular",), strides=(1,)))
def test_gram_iteration_is_above_the_circular_norm_and_close(A):
    """||G||_F <= sqrt(rank) ||G||, and the root of 2^6-th order takes that away."""
    truth, value = dense_norm(A), rivals.gram_circular(rivals.Layer.of(A))
    assert truth * (1 - 1e-12) <= value <= truth * min(A.weight.shape[:2]) ** (0.5 / 2**rivals.GRAM_STEPS) * (1 + 1e-12)


@pytest.mark.parametrize("name", rivals.METHODS)
@tries(150)
@given(A=images())
def test_what_is_a_certificate_is_not_below_the_norm(name, A):
    layer, method = rivals.Layer.of(A), rivals.METHODS[name]
    if method.certifies(layer):
        assert method.holds(method.value(layer), dense_norm(A))


@tries(60)
@given(images())
def test_power_iteration_is_not_above_the_norm(A):
    assert rivals.power(rivals.Layer.of(A)) <= dense_norm(A) * (1 + 1e-12)


def test_power_iteration_finds_a_norm_that_stands_alone():
    A = Conv2d(np.ones((2, 1, 3, 3)), (8, 8), padding=1)
    np.testing.assert_allclose(rivals.power(rivals.Layer.of(A)), dense_norm(A), rtol=1e-8)


def test_a_circular_norm_is_no_certificate_for_zeros():
    """The central difference reads one sample twice on a torus of two, and nothing is left."""
    layer = rivals.Layer.of(Conv2d([[[[1.0, 0.0, -1.0]]]], (1, 2), padding=(0, 1)))
    assert dense_norm(layer.operator) == 1
    for name in ("Sedghi 2019", "Gram 2023"):
        assert rivals.METHODS[name].value(layer) < 1e-15
        assert not rivals.METHODS[name].certifies(layer)
    assert rivals.gram_corrected(layer) == np.inf


def test_no_rival_certifies_a_border_that_folds():
    """A shift by one sample is unitary on a torus; here it reads the first sample twice."""
    layer = rivals.Layer.of(Conv2d([[[[1.0, 0.0, 0.0]]]], (1, 6), padding=(0, 1), padding_mode="replicate"))
    assert not any(method.certifies(layer) for method in rivals.METHODS.values())
    np.testing.assert_allclose([rivals.sedghi(layer), dense_norm(layer.operator)], [1, np.sqrt(2)])


def test_a_transposed_convolution_is_taken_by_the_convolution():
    W = np.random.default_rng(0).standard_normal((3, 2, 2, 2))
    A = ConvTranspose2d(W, (5, 4), stride=2)
    for name in ("Singla 2021", "Grishina 2024", "Gram 2024, Toeplitz"):
        method = rivals.METHODS[name]
        assert method.holds(method.value(rivals.Layer.of(A)), dense_norm(A))


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1), (3, 2)])
def test_the_kernel_by_phases_is_the_strided_layer(stride):
    """A patch embedding: every output reads phases of one pixel, so that the norms are those of one matrix."""
    W = np.random.default_rng(1).standard_normal((4, 3, *stride))
    layer = rivals.Layer.of(Conv2d(W, tuple(2 * s for s in stride), stride=stride))
    phases = rivals.by_phases(layer.kernel, stride)
    assert phases.shape == (1, 4, 3 * stride[0] * stride[1], 1, 1)
    np.testing.assert_allclose(rivals.grishina(layer), dense_norm(layer.operator), rtol=1e-6)


def test_the_norm_of_a_tensor_of_rank_one_is_the_product():
    rng = np.random.default_rng(2)
    lines = [rng.standard_normal(n) for n in (5, 4, 3, 3)]
    tensor = np.einsum("a,b,c,d->abcd", *lines)
    np.testing.assert_allclose(rivals.tensor_norm(tensor), np.prod([np.linalg.norm(v) for v in lines]), rtol=1e-12)


def test_toeplitz_iteration_nears_the_norm_with_its_steps():
    A = Conv2d(np.random.default_rng(3).standard_normal((3, 3, 3, 3)), (40, 40), padding=1)
    layer = rivals.Layer.of(A)
    found = []
    for steps in (1, 2, 3, 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rivals, "TOEPLITZ_STEPS", steps)
            found.append(rivals.gram_toeplitz(layer))
    assert all(later < before for before, later in itertools.pairwise(found))
    assert found[-1] < 1.2 * rivals.gram_circular(layer)


@pytest.mark.parametrize(("degree", "samples"), [(1, 3), (1, 4), (2, 7), (3, 50)])
def test_no_polynomial_is_larger_between_samples_than_allowed(degree, samples):
    rng = np.random.default_rng(4)
    theta, grid = np.linspace(0, 2 * np.pi, 4001), 2 * np.pi * np.arange(samples) / samples
    for _ in range(200):
        c, shift = rng.standard_normal(2 * degree + 1), rng.uniform(0, 2 * np.pi)

        def value(t, c=c, shift=shift):
            waves = [np.ones_like(t), *(f(n * (t - shift)) for n in range(1, degree + 1) for f in (np.cos, np.sin))]
            return np.abs(np.tensordot(c, waves, 1))

        assert value(theta).max() <= rivals.between([degree], [samples]) * value(grid).max() * (1 + 1e-9)
