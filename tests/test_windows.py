"""Norms of large images between those of small ones, against dense linear algebra of the explicit matrices."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import svds

from convmat import Conv1d, Conv2d, ConvTranspose2d, norm_bounds
from convmat.products.threads import blas_on_one_thread
from convmat.spectrum import bounds
from convmat.spectrum.grams import Pairs, blocks
from convmat.spectrum.windows import Coupling, cuts, shortened, windows
from tests import oracle
from tests.strategies import CONV, layers, tries

PLACES = 1e-12
"""The share of a norm that dense linear algebra may be off."""


@blas_on_one_thread()
def norm(matrix):
    return np.linalg.norm(matrix, 2) if matrix.size else 0.0


@st.composite
def long_layers(draw):
    """(small operator, how much longer its axes are to be)."""
    modes = draw(st.lists(st.sampled_from(oracle.MODES), min_size=2, max_size=2))
    ndim = draw(st.integers(1, 2))
    taps = [draw(st.integers(1, 4 if ndim == 1 else 3)) for _ in range(ndim)]
    options = {
        "stride": tuple(draw(st.integers(1, 3)) for _ in taps),
        "dilation": tuple(draw(st.integers(1, 2)) for _ in taps),
        "padding": tuple((draw(st.integers(-2, 4)), draw(st.integers(-2, 4))) for _ in taps),
        "padding_mode": tuple(modes[:ndim]),
        "groups": draw(st.integers(1, 2)),
    }
    size = tuple(draw(st.integers(24, 70 if ndim == 1 else 26)) for _ in taps)
    outs, ins = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.standard_normal((options["groups"] * outs, ins, *taps))
    if draw(st.booleans()):
        weight = weight + 1j * rng.standard_normal(weight.shape)
    return CONV[ndim](weight, size, **options)


def dense(A, geometry):
    """The matrix of A with the sizes of another geometry."""
    options = {name: getattr(A.geometry, name) for name in ("stride", "dilation", "padding", "padding_mode", "groups")}
    return CONV[A.geometry.ndim](A.weight, geometry.input_size, **options).toarray()


def check_windows(A):
    truth = norm(A.toarray())
    coupling = Coupling.of(A.geometry, A.geometry.kernel(A.weight))
    assert coupling is not None
    found = list(itertools.islice(windows(A.geometry, coupling, 0.3 * truth**2), 4))
    for short, beyond in found:
        assert all(n <= of for n, of in zip(short.input_size, A.geometry.input_size, strict=True))
        assert truth**2 <= (norm(dense(A, short)) ** 2 + beyond) * (1 + PLACES)
    return len(found)


@tries(50, deadline=None)
@given(long_layers())
def test_the_squared_norm_is_at_most_that_of_a_shorter_image_and_what_windows_leave_out(A):
    check_windows(A)


@pytest.mark.slow
@tries(2000, derandomize=False, deadline=None)
@given(long_layers())
def test_windows_bound_the_norm_of_thousands_of_layers(A):
    check_windows(A)


@tries(100, deadline=None)
@given(long_layers(), st.integers(0, 12))
def test_a_shorter_image_that_is_zero_where_it_is_cut_has_no_larger_norm(A, samples):
    short = shortened(A.geometry, [samples + 3 * axis.span for axis in A.geometry.axes])
    kept = np.ones(short.input_size)
    for axis, strip in enumerate(cuts(short, A.geometry)):
        if strip is not None:
            np.moveaxis(kept, axis, 0)[strip] = 0
    matrix = dense(A, short) * np.tile(kept.ravel(), A.input_shape[0])
    assert norm(matrix) <= norm(A.toarray()) * (1 + PLACES)


@tries(200)
@given(layers(dtypes=(np.float64, np.complex128)), st.booleans())
def test_blocks_of_products_of_taps_make_up_the_gram_matrix(layer, outputs):
    A = layer.operator()
    geometry = replace(A.geometry, flip=False, channels=True)
    rows, cols, found = blocks(geometry, A.geometry.kernel(A.weight), Pairs.of(geometry, outputs), outputs)
    matrix = A.toarray() if outputs else A.toarray().conj().T
    want = matrix @ matrix.conj().T
    channels, size = (
        (A.geometry.out_channels, A.geometry.output_size)
        if outputs
        else (A.geometry.in_channels, A.geometry.input_size)
    )
    groups, places = A.geometry.groups, int(np.prod(size))
    got = np.zeros((groups, channels // groups, places, groups, channels // groups, places), dtype=want.dtype)
    for group in range(groups):
        got[group, :, rows, group, :, cols] = found[:, group]
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=0, atol=1e-13 * max(1, np.abs(want).max()))


# through norm_bounds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reflect", "replicate", "symmetric", "antireflect", ("reflect", "circular")])
@pytest.mark.parametrize("make", [Conv2d, ConvTranspose2d])
def test_signed_kernels_on_a_larger_image_have_bounds_within_five_percent(mode, make):
    W = np.random.default_rng(3).standard_normal((4, 4, 3, 3))
    A = make(W, (90, 84), padding=1, padding_mode=mode)
    lower, upper = norm_bounds(A, rtol=0.05)
    noise = np.random.default_rng(0).standard_normal(min(A.shape))  # every scipy takes it
    truth = svds(A, k=1, return_singular_vectors=False, v0=noise, tol=1e-10)[0]
    assert lower <= truth * (1 + 1e-8) <= upper * (1 + 2e-8) <= 1.05 * lower


def count_of_samples(A, monkeypatch):
    """How large the largest image is of which a product is taken."""
    largest = [0]
    forward = bounds.Products.forward

    def counted(self, x, *args, **kwargs):
        largest[0] = max(largest[0], x.size)
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(bounds.Products, "forward", counted)
    lower, upper = norm_bounds(A)
    return largest[0], lower, upper


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_no_product_is_taken_of_an_image_far_larger_than_the_kernel(mode, monkeypatch):
    W = np.random.default_rng(4).standard_normal((2, 2, 3, 3))
    sizes = [count_of_samples(Conv2d(W, (n, n), padding=1, padding_mode=mode), monkeypatch) for n in (2000, 100_000)]
    assert sizes[0][0] == sizes[1][0] <= 2 * 300**2
    assert sizes[0][1:] == pytest.approx(sizes[1][1:], rel=1e-9)
    assert sizes[0][2] <= 1.01 * sizes[0][1]


@pytest.mark.parametrize("mode", oracle.MODES)
def test_images_that_no_machine_can_hold_have_bounds(mode):
    """The norm of differences is the largest value of their symbol, 4; borders that go on oddly have larger ones."""
    A = Conv1d([1.0, -2.0, 1.0], 10**12, padding=1, padding_mode=mode)
    lower, upper = norm_bounds(A)
    small = norm(Conv1d([1.0, -2.0, 1.0], 600, padding=1, padding_mode=mode).toarray())
    assert lower <= small * (1 + 1e-4)
    assert small <= upper <= 1.01 * lower


def test_bounds_of_a_long_signal_are_those_of_its_matrix():
    rng = np.random.default_rng(5)
    for mode in oracle.MODES:
        A = Conv1d(rng.standard_normal((3, 2, 3)), 500, stride=2, padding=2, padding_mode=mode)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bounds, "exact_bounds", lambda geometry, kernel: None)
            patch.setattr(bounds, "_PLENTY", 10)
            lower, upper = norm_bounds(A, rtol=0.04)
        truth = norm(A.toarray())
        assert lower <= truth * (1 + PLACES) <= upper * (1 + 2 * PLACES) <= 1.08 * lower


@tries(200, deadline=None)
@given(layers(dtypes=(np.float64, np.complex128)))
def test_bands_of_products_of_taps_prove_the_norm(layer):
    from convmat.spectrum.grams import banded
    from convmat.spectrum.proof import above

    A = layer.operator()
    truth = norm(A.toarray())
    gram = banded(A.geometry, A.geometry.kernel(A.weight), np.inf)
    assert truth <= above(gram, truth * (1 - 1e-9), 1e-2) * (1 + 1e-14)
    if truth > 0:
        assert above(gram, truth * (1 - 1e-9), 1e-2) <= truth * (1 + 1e-6)
    assert gram.frobenius >= np.linalg.norm(np.abs(A.toarray())) / np.sqrt(A.geometry.groups) * (1 - 1e-12)
