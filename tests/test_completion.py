"""Norms of small images by waves on a torus that need not fill it, against dense linear algebra of the matrix."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from convmat import Conv1d, Conv2d, Conv3d, norm_bounds
from convmat.products.threads import blas_on_one_thread
from convmat.spectrum import bounds
from convmat.spectrum.completion import completed_bound
from convmat.spectrum.torus import torus_bound
from tests.strategies import CONV, tries

PLACES = 1e-12
"""The share of a norm that dense linear algebra may be off."""


@blas_on_one_thread()
def norm(A):
    return np.linalg.norm(A.toarray(), 2)


@st.composite
def small_maps(draw):
    """Layers whose axes have zeros beyond the border, or are circular, of any stride and groups; complex ones too."""
    ndim = draw(st.integers(1, 3))
    most, largest = {1: (4, 12), 2: (3, 6), 3: (2, 3)}[ndim]
    groups = draw(st.integers(1, 2))
    size, taps, padding, stride, modes = [], [], [], [], []
    for _ in range(ndim):
        size.append(draw(st.integers(1, largest)))
        padding.append((draw(st.integers(-1, 3)), draw(st.integers(-1, 3))))
        padded = size[-1] + sum(padding[-1])
        assume(padded >= 1)
        taps.append(draw(st.integers(1, min(most, padded))))
        stride.append(draw(st.integers(1, 3)))
        modes.append(draw(st.sampled_from(["zeros", "zeros", "circular"])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.standard_normal((groups * draw(st.integers(1, 3)), draw(st.integers(1, 3)), *taps))
    if draw(st.booleans()):
        weight = weight + 1j * rng.standard_normal(weight.shape)
    options = {"stride": tuple(stride), "padding": tuple(padding), "padding_mode": tuple(modes), "groups": groups}
    return CONV[ndim](weight, tuple(size), **options)


def check(A, share, rtol):
    truth = norm(A)
    upper = completed_bound(A.geometry, A.geometry.kernel(A.weight), share * truth, rtol)
    assert truth <= upper * (1 + PLACES)
    return upper


@pytest.mark.parametrize("padding", [(-1, 1), (1, 0), (2, -1), (1, 1)])
def test_a_circle_of_which_the_border_alone_is_read(padding):
    A = Conv1d([3.0], 1, stride=3, padding=(padding,), padding_mode="circular")
    check(A, 0.99, 1e-9)


SHARES = st.sampled_from([1.0, 1.0, 0.99, 0.9, 0.5])
"""A lower bound, as a share of the norm: whatever it is, the upper bound is to be one."""


@tries(300, deadline=None)
@given(small_maps(), SHARES, st.sampled_from([1e-6, 1e-2, 0.1]))
def test_the_norm_of_a_small_map_is_at_most_its_completed_bound(A, share, rtol):
    check(A, share, rtol)


@pytest.mark.slow
@tries(5000, derandomize=False, deadline=None)
@given(small_maps(), SHARES, st.sampled_from([1e-9, 1e-3, 1e-2, 0.1]))
def test_completed_bounds_hold_for_thousands_of_maps(A, share, rtol):
    check(A, share, rtol)


@tries(100, deadline=None)
@given(small_maps(), st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_nothing_of_the_iteration_is_taken_on_trust(A, seed, size):
    """Whatever conjugate gradients find, even noise, the bound is one."""
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        from convmat.spectrum import completion

        times = completion.Torus._times
        calls = [0]

        def wrong(self, blocks, images):
            calls[0] += 1
            found = times(self, blocks, images)
            if calls[0] % 3 == 1:  # of every three products one is used in the proof: those before are disturbed
                found = found + size * rng.standard_normal(found.shape) * np.abs(found).max()
            return found

        certified = completion.Torus._certified

        def right(self, *args):
            with pytest.MonkeyPatch.context() as exact:
                exact.setattr(completion.Torus, "_times", times)
                return certified(self, *args)

        patch.setattr(completion.Torus, "_times", wrong)
        patch.setattr(completion.Torus, "_certified", right)
        check(A, 1.0, 1e-2)


@pytest.mark.parametrize(
    "A",
    [
        Conv1d(np.random.default_rng(0).standard_normal((24, 24, 3)), 9, padding=1),
        Conv2d(np.random.default_rng(1).standard_normal((16, 16, 3, 3)), (8, 8), padding=1),
        Conv2d(np.random.default_rng(2).standard_normal((16, 16, 3, 3)) * (1 + 1j), (8, 8), padding=1),
        Conv2d(np.random.default_rng(3).standard_normal((24, 12, 3, 3)), (14, 13), padding=1, stride=2),
        Conv2d(np.random.default_rng(4).standard_normal((12, 12, 3, 3)), (9, 8), padding=1, groups=2),
        Conv3d(np.random.default_rng(5).standard_normal((6, 6, 3, 3, 3)), (6, 6, 6), padding=1),
    ],
)
def test_on_small_maps_less_is_left_than_by_the_torus(A):
    truth = norm(A)
    kernel = A.geometry.kernel(A.weight)
    torus = torus_bound(A.geometry, kernel, 1e-3).upper
    upper = completed_bound(A.geometry, kernel, truth * (1 - 1e-9), 1e-3)
    assert truth <= upper
    assert upper - truth <= 0.7 * (torus - truth)


def test_the_last_layers_of_a_residual_network_are_bounded_within_a_hundredth():
    W = np.random.default_rng(6).standard_normal((40, 40, 3, 3))
    A = Conv2d(W, (7, 7), padding=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "affordable", lambda *args: False)  # no Cholesky decomposition of the whole matrix
        lower, upper = norm_bounds(A)
    assert lower <= norm(A) * (1 + PLACES) <= upper * (1 + 2 * PLACES) <= 1.01 * lower
