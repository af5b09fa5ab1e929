"""Singular values, decompositions, norm bounds and projections, against dense linear algebra of the explicit matrix."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LaplacianNd, aslinearoperator, svds

import convmat
from convmat import Conv1d, Conv2d, Conv3d, ConvTranspose2d
from convmat.products.symbol import multiplicity, symbol
from convmat.products.waves import Waves
from convmat.spectrum.bounds import dense_bounds, kronecker_bounds, lower_bound, schur_bounds, wave_bounds
from convmat.spectrum.clipping import clip_singular_values
from convmat.spectrum.decomposition import svd
from convmat.spectrum.norms import norm_bounds
from convmat.spectrum.torus import embed, gram_bounds, torus_bound
from convmat.spectrum.values import DENSE_LIMIT, finite_kernel, is_periodic, kronecker, singular_values
from tests import oracle
from tests.strategies import CONV, Layer, layers, tries

FLOATS = ("float64", "float32", "complex128", "complex64")
TIGHT = {"float64": 1e-12, "complex128": 1e-12, "float32": 2e-5, "complex64": 2e-5}


def normal(rng, shape, dtype="float64"):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def dense_values(A):
    """In double precision from the weight on: where taps fold onto one entry, a single-precision matrix rounds."""
    wide = A.geometry.kernel(A.weight).astype(np.result_type(A.dtype, np.float64))
    exact = convmat.matrix.sparse(A.geometry, A.geometry.kernel(wide).reshape(A.geometry.weight_shape)).toarray()
    return np.linalg.svd(exact, compute_uv=False)


@st.composite
def periodic_layers(draw, dtypes=FLOATS):
    """Circular layers with N = M s on every axis: any offset, and kernels wider than the input among them."""
    ndim = draw(st.integers(1, 3))
    size, taps, stride, dilation, padding = [], [], [], [], []
    for _ in range(ndim):
        s = draw(st.integers(1, 4 if ndim < 3 else 2))
        n = s * draw(st.integers(1, {1: 6, 2: 4, 3: 2}[ndim]))
        d = draw(st.integers(1, 3))
        k = draw(st.integers(1, max(1, min(5, (2 * n + s - 1) // d))))
        # of the pads that make M = N / s, in (0, N) each, any
        spans = range(d * (k - 1) + 1 - s, d * (k - 1) + 1)
        pads = [(lo, t - lo) for t in spans for lo in range(-2, n + 1) if t - lo <= n and min(lo, t - lo) > -n]
        if not pads:
            k, pads = 1, [(0, 0)]
        size, taps, stride = [*size, n], [*taps, k], [*stride, s]
        dilation, padding = [*dilation, d], [*padding, draw(st.sampled_from(pads))]
    groups = draw(st.integers(1, 3))
    most = 3 if ndim < 3 else 2
    channels = (groups * draw(st.integers(1, most)), draw(st.integers(1, most)))
    seed, dtype = draw(st.integers(0, 2**20)), draw(st.sampled_from(dtypes))
    weight = normal(np.random.default_rng(seed), (*channels, *taps), dtype)
    return Layer(
        weight, tuple(size), tuple(stride), tuple(padding), tuple(dilation), groups, "circular",
        draw(st.booleans()), seed,
    )  # fmt: skip


def even(weight, axes):
    """The sum of a weight and its flips: equal to its own flip along each of the axes, to the last digit."""
    for axis in axes:
        weight = weight + np.flip(weight, axis)
    return weight


@st.composite
def even_layers(draw, dtypes=FLOATS):
    """Layers that cosines and sines make block diagonal: kernels wider than the input, and patches, among them."""
    ndim, mode = draw(st.integers(1, 3)), draw(st.sampled_from(["symmetric", "replicate", "zeros"]))
    size, taps, stride, dilation, padding, folded = [], [], [], [], [], []
    for axis in range(ndim):
        n = draw(st.integers(1, {1: 9, 2: 6, 3: 3}[ndim]))
        if draw(st.integers(0, 3)) == 0:  # a periodic axis, as a patch embedding has it
            k = s = draw(st.integers(2, 3))
            n, d, p = k * draw(st.integers(1, 2)), 1, 0
        else:
            d = draw(st.integers(1, 3)) if mode == "symmetric" else 1
            k, s = draw(st.sampled_from([1, 3, 5, 7] if mode == "symmetric" else [1, 3])), 1
            if draw(st.integers(0, 3)) == 0:  # no tap in the middle
                k, d = 2, 2
            p = d * (k - 1) // 2
            folded.append(2 + axis)
        size, taps, stride = [*size, n], [*taps, k], [*stride, s]
        dilation, padding = [*dilation, d], [*padding, (p, p)]
    groups = draw(st.integers(1, 2))
    channels = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    seed, dtype = draw(st.integers(0, 2**20)), draw(st.sampled_from(dtypes))
    weight = normal(np.random.default_rng(seed), (*channels, *taps), dtype)
    return Layer(
        even(weight, folded), tuple(size), tuple(stride), tuple(padding), tuple(dilation), groups, mode,
        draw(st.booleans()), seed,
    )  # fmt: skip


@st.composite
def separable_layers(draw):
    """Layers of every padding mode and stride whose kernels are of rank one in each group."""
    layer = draw(layers(dtypes=FLOATS))
    rng, ndim = layer.rng(), layer.ndim
    channels = layer.weight.shape[:-ndim]
    per_group = channels[0] // layer.groups if channels else 1
    parts = []
    for _ in range(layer.groups):
        kernel = normal(rng, (per_group, *channels[1:]) if channels else (), layer.dtype)
        for k in layer.kernel_size:
            kernel = np.multiply.outer(kernel, normal(rng, k, layer.dtype))
        parts.append(kernel)
    weight = np.concatenate(parts) if channels else parts[0]
    return Layer(**{**vars(layer), "weight": weight.astype(layer.dtype)})


# singular values ------------------------------------------------------------------------------------------------------


@tries(320)
@given(periodic_layers())
def test_periodic_singular_values_are_those_of_the_matrix(layer):
    A = layer.operator()
    assert is_periodic(A.geometry)
    found, true = singular_values(A), dense_values(A)
    assert found.shape == (min(A.shape),)
    assert found.dtype == np.empty(0, A.dtype).real.dtype
    assert np.all(np.diff(found) <= 0)
    np.testing.assert_allclose(found, true, rtol=0, atol=TIGHT[A.dtype.name] * max(true[0], 1e-300))


@given(periodic_layers(dtypes=("float64", "complex128")))
def test_their_squares_sum_to_the_frobenius_norm(layer):
    A = layer.operator()
    np.testing.assert_allclose(np.sum(singular_values(A) ** 2), np.sum(np.abs(A.toarray()) ** 2), rtol=1e-12)


@tries(150)
@given(separable_layers())
def test_rank_one_kernels_have_products_of_singular_values_under_every_padding_mode(layer):
    A = layer.operator()
    terms = kronecker(A.geometry, finite_kernel(A))
    assert terms is not None
    true = dense_values(A)
    np.testing.assert_allclose(singular_values(A), true, rtol=0, atol=TIGHT[A.dtype.name] * true[0])


@given(layers(dtypes=FLOATS))
def test_small_operators_of_any_kind_have_the_dense_values(layer):
    A = layer.operator()
    true = dense_values(A)
    np.testing.assert_allclose(singular_values(A), true, rtol=0, atol=TIGHT[A.dtype.name] * true[0])


@given(periodic_layers(dtypes=("float64",)))
def test_the_transpose_has_the_same_values(layer):
    A = layer.operator()
    np.testing.assert_array_equal(singular_values(A.T), singular_values(A))


def test_an_fft_replaces_the_waves_for_wide_kernels():
    rng = np.random.default_rng(0)
    for A in (
        Conv1d(normal(rng, (2, 2, 61)), 60, stride=2, padding=30, padding_mode="circular"),
        Conv1d(normal(rng, (1, 2, 101), "complex128"), 60, padding=50, padding_mode="circular"),
        Conv2d(normal(rng, (36, 37)), (36, 40), padding=18, padding_mode="circular", stride=(1, 2)),
    ):
        if not is_periodic(A.geometry):
            A = type(A)(A.weight, A.geometry.input_size, stride=A.geometry.stride, padding_mode="circular",
                        padding="same_upper")  # fmt: skip
        true = dense_values(A)
        np.testing.assert_allclose(singular_values(A), true, rtol=0, atol=1e-12 * true[0])


def test_a_patch_embedding_is_periodic_whatever_its_padding_mode():
    W = normal(np.random.default_rng(0), (48, 3, 8, 8))
    A = Conv2d(W, (32, 32), stride=8)
    assert is_periodic(A.geometry)
    patches = np.linalg.svd(W.reshape(48, -1), compute_uv=False)
    np.testing.assert_allclose(singular_values(A), np.repeat(patches, 16), atol=1e-12)


def test_many_more_channels_than_fit_a_dense_matrix():
    W = normal(np.random.default_rng(0), (16, 16, 3, 3))
    A = Conv2d(W, (32, 32), padding=1, padding_mode="circular")
    assert math.prod(A.shape) > DENSE_LIMIT
    blocks = np.fft.fft2(W, (32, 32)).transpose(2, 3, 0, 1)
    published = np.sort(np.linalg.svd(blocks, compute_uv=False), axis=None)[::-1]
    np.testing.assert_allclose(singular_values(A), published, atol=1e-12 * published[0])


@pytest.mark.parametrize("sizes", [(1,), (2,), (5,), (4, 6), (5, 4), (3, 2, 4), (2, 3, 3)])
def test_each_frequency_counts_once_or_its_conjugate_for_both(sizes):
    times = multiplicity(sizes, half=True)
    assert times.sum() == math.prod(sizes)
    assert multiplicity(sizes, half=False).sum() == math.prod(sizes)


def test_the_symbol_of_a_wave_is_what_the_operator_does_to_it():
    rng = np.random.default_rng(0)
    A = Conv2d(normal(rng, (3, 2, 3, 5)), (8, 12), stride=(2, 3), padding=((1, 0), (2, 0)), padding_mode="circular")
    polynomial = symbol(A.geometry, A.weight, every_phase=True)
    f, sizes = (1, 2), A.geometry.output_size
    angles = [2 * np.pi * a / n for a, n in zip(f, sizes, strict=True)]
    block = polynomial.at(angles)[0]
    v = normal(rng, block.shape[1], "complex128").reshape(2, 2, 3)
    x = np.zeros(A.input_shape, complex)
    waves = np.multiply.outer(*(np.exp(1j * t * np.arange(n)) for t, n in zip(angles, sizes, strict=True)))
    for r in np.ndindex(2, 3):
        x[:, r[0] :: 2, r[1] :: 3] = np.multiply.outer(v[:, r[0], r[1]], waves)
    np.testing.assert_allclose(A.apply(x), np.multiply.outer(block @ v.ravel(), waves), atol=1e-12)


# cosines and sines ----------------------------------------------------------------------------------------------------

BORDERS = {"neumann": "symmetric", "dirichlet": "zeros", "periodic": "circular"}
each_border = pytest.mark.parametrize(("border", "mode"), BORDERS.items(), ids=BORDERS)


def laplacian(ndim):
    """The negative Laplacian of nearest neighbours."""
    kernel = np.zeros((3,) * ndim)
    for axis in range(ndim):
        kernel[(1,) * axis + (slice(None),) + (1,) * (ndim - 1 - axis)] += [-1, 2, -1]
    return kernel


@tries(300)
@given(even_layers())
def test_even_kernels_have_the_singular_values_of_the_matrix(layer):
    A = layer.operator()
    assert Waves.of(A.geometry, finite_kernel(A)) is not None
    true = dense_values(A)
    atol = TIGHT[A.dtype.name] * max(np.abs(A.weight).sum(), 1e-300)
    np.testing.assert_allclose(singular_values(A), true, rtol=0, atol=atol)
    np.testing.assert_array_equal(singular_values(A.T), singular_values(A))


@tries(200)
@given(even_layers())
def test_the_decomposition_of_even_kernels_applies_the_operator(layer):
    A, rng = layer.operator(), layer.rng()
    dense, F = A.toarray(), svd(A)
    atol = 10 * TIGHT[A.dtype.name] * max(np.abs(A.weight).sum(), 1e-300) * A.shape[1]
    for dtype in ("float64", "complex128"):
        x, y = normal(rng, A.shape[1], dtype), normal(rng, A.shape[0], dtype)
        np.testing.assert_allclose(F.operator() @ x, dense @ x, rtol=0, atol=atol)
        np.testing.assert_allclose(F.operator().H @ y, dense.conj().T @ y, rtol=0, atol=atol)
        np.testing.assert_allclose(svd(A.T).operator() @ y, dense.T @ y, rtol=0, atol=atol)


@pytest.mark.parametrize("size", [(4000,), (70, 50), (20, 15, 12)])
@each_border
def test_laplacians_have_the_eigenvalues_of_scipy(border, mode, size):
    A = CONV[len(size)](laplacian(len(size)), size, padding=1, padding_mode=mode)
    true = -LaplacianNd(size, boundary_conditions=border).eigenvalues()
    np.testing.assert_allclose(singular_values(A), np.sort(true)[::-1], rtol=0, atol=1e-13)
    np.testing.assert_allclose(svd(A).singular_values, np.sort(true)[::-1], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("mode", "waves", "first"), [("symmetric", 512, 0), ("replicate", 512, 0), ("zeros", 513, 1)])
@pytest.mark.parametrize("scale", [1, 1e200, 1e-200])
def test_the_laplacian_of_a_large_image_has_its_formula_and_its_inverse(mode, waves, first, scale):
    A = Conv2d(scale * laplacian(2), (512, 512), padding=1, padding_mode=mode)
    line = 4 * np.sin(np.pi * np.arange(first, first + 512) / (2 * waves)) ** 2
    true = np.sort(np.add.outer(line, line), axis=None)[::-1]
    np.testing.assert_allclose(singular_values(A) / scale, true, rtol=0, atol=1e-13)
    x = normal(np.random.default_rng(0), (512, 512))
    mean = 0 if mode == "zeros" else x.mean()  # constants are what Neumann's Laplacian does not see
    np.testing.assert_allclose(svd(A).pinv().apply(A.apply(x)), x - mean, atol=1e-9)


@each_border
def test_channels_and_groups_of_laplacians_have_the_products_of_both(border, mode):
    mixing = normal(np.random.default_rng(0), (2, 3, 2), "complex64")  # of each group
    weight = np.multiply.outer(mixing, laplacian(2).astype(np.float32)).reshape(6, 2, 3, 3)
    A = Conv2d(weight, (50, 40), padding=1, padding_mode=mode, groups=2)
    lines = -LaplacianNd((50, 40), boundary_conditions=border).eigenvalues()
    true = np.sort(np.multiply.outer(np.linalg.svd(mixing, compute_uv=False), lines), axis=None)[::-1]
    assert math.prod(A.shape) // 4 > DENSE_LIMIT
    np.testing.assert_allclose(singular_values(A), true, rtol=0, atol=2e-6 * true[0])


def test_wide_even_kernels_take_an_fft_in_place_of_cosines():
    W = even(normal(np.random.default_rng(0), (35, 37)), (0, 1))
    A = Conv2d(W, (30, 33), padding=(17, 18), padding_mode="symmetric")
    true = dense_values(A)
    np.testing.assert_allclose(singular_values(A), true, rtol=0, atol=1e-12 * true[0])


def test_an_operator_without_entries_is_zero_whatever_its_weight():
    A = Conv1d([3.0, 0.0, 3.0], 1, padding=1)  # both neighbours are padding; cos(pi / 2) is 0, not 6e-17
    assert not A.toarray().any()
    assert not singular_values(A).any()
    assert not (svd(A).pinv() @ np.ones(1)).any()


def nearly(weight):
    weight = weight.copy()
    weight[0, 0] = np.nextafter(weight[0, 0], 9)
    return weight


WAVELESS = {
    "nearly even": (nearly(even(np.eye(3), (0, 1))), {"padding": 1, "padding_mode": "symmetric"}),
    "nearly even, zeros": (nearly(even(np.eye(3), (0, 1))), {"padding": 1}),
    "even under both flips at once": (np.eye(3), {"padding": 1, "padding_mode": "symmetric"}),
    "two taps": (np.array([[1.0, 0], [0, 2], [1, 0]]), {"padding": ((1, 1), (1, 0)), "padding_mode": "symmetric"}),
    "zeros of two samples": (even(np.diag(range(5)), (0, 1)), {"padding": 2}),
    "dilated zeros": (laplacian(2), {"padding": 2, "dilation": 2}),
    "replicate of two samples": (even(np.diag(range(5)), (0, 1)), {"padding": 2, "padding_mode": "replicate"}),
    "reflect": (laplacian(2), {"padding": 1, "padding_mode": "reflect"}),
    "stride": (laplacian(2), {"padding": 1, "padding_mode": "symmetric", "stride": 2}),
    "valid": (laplacian(2), {"padding_mode": "symmetric"}),
    "off the centre": (laplacian(2), {"padding": ((2, 0), (1, 1)), "padding_mode": "symmetric"}),
}


@pytest.mark.parametrize(("weight", "options"), WAVELESS.values(), ids=WAVELESS)
def test_what_waves_do_not_fit_has_the_dense_values_or_is_refused(weight, options):
    small, large = (Conv2d(weight, size, **options) for size in ((5, 6), (200, 200)))
    assert Waves.of(small.geometry, finite_kernel(small)) is None
    true = dense_values(small)
    np.testing.assert_allclose(singular_values(small), true, rtol=0, atol=1e-13 * true[0])
    for function in (singular_values, svd):
        with pytest.raises(ValueError, match=r"A is neither block diagonal in waves .* nor of a kernel of rank one, "):
            function(large)


# decomposition --------------------------------------------------------------------------------------------------------


def decomposed():
    """Every structure, real and complex, and their transposes."""
    rng = np.random.default_rng(1)
    for dtype in ("float64", "complex128", "float32"):
        yield Conv1d(normal(rng, (4, 3, 3), dtype), 12, stride=2, groups=2, padding=1, padding_mode="circular")
        yield Conv2d(normal(rng, (2, 3, 3, 4), dtype), (6, 4), padding="same", padding_mode="circular", dilation=(1, 2))
        yield Conv3d(normal(rng, (2, 1, 2, 2, 2), dtype), (4, 2, 4), stride=(1, 2, 2), padding="same_upper",
                     padding_mode="circular")  # fmt: skip
        separable = np.multiply.outer(normal(rng, 3, dtype), normal(rng, 2, dtype))
        yield Conv2d(separable, (7, 6), stride=(2, 1), padding=1, padding_mode="reflect")
        yield Conv2d(np.stack([separable, 2 * separable])[:, None], (5, 6), groups=2, padding_mode="zeros", padding=1)
        yield Conv2d(normal(rng, (4, 2, 3, 3), dtype), (5, 4), stride=2, padding=1, groups=2, padding_mode="symmetric")
        yield Conv1d(even(normal(rng, (4, 3, 5), dtype), (2,)), 7, padding=2, groups=2, padding_mode="symmetric")
        yield Conv2d(even(normal(rng, (2, 3, 3, 3), dtype), (2, 3)), (5, 4), padding=1)
        yield Conv2d(even(normal(rng, (3, 3), dtype), (0, 1)), (6, 5), padding=1, padding_mode="replicate")
        yield Conv3d(even(normal(rng, (2, 1, 3, 2, 3), dtype), (2, 4)), (3, 4, 2), stride=(1, 2, 1), padding=(1, 0, 1))


each_kind = pytest.mark.parametrize("A", [B for A in decomposed() for B in (A, A.T)], ids=lambda A: (
    f"{type(A).__name__}-{A.dtype}-{A.geometry.padding_mode}-{A.geometry.stride}"))  # fmt: skip


def tolerance(A):
    return 1e-12 if A.dtype in (np.float64, np.complex128) else 1e-5


@each_kind
def test_the_decomposition_applies_the_operator(A):
    F, eye = svd(A), np.eye(A.shape[1], dtype=A.dtype)
    np.testing.assert_allclose(F.singular_values, singular_values(A), atol=tolerance(A) * F.singular_values[0])
    B = F.operator()
    assert B.shape == A.shape
    assert B.dtype == (B @ eye).dtype == A.dtype
    np.testing.assert_allclose(B @ eye, A.toarray(), atol=20 * tolerance(A))
    convmat.check_adjoint(B)
    x = np.arange(A.shape[1]) * (1 + 2j)
    np.testing.assert_allclose(B @ x, A @ x, rtol=1e-4 if tolerance(A) > 1e-9 else 1e-10, atol=1e-3 * tolerance(A))


@each_kind
def test_the_pseudo_inverse_is_that_of_the_matrix(A):
    P = svd(A).pinv(rcond=1e-6)
    dense = np.linalg.pinv(A.toarray().astype(np.result_type(A.dtype, np.float64)), rcond=1e-6)
    limit = 1e-9 if tolerance(A) < 1e-9 else 1e-2
    np.testing.assert_allclose(P @ np.eye(A.shape[0], dtype=A.dtype), dense, atol=limit * np.abs(dense).max())
    convmat.check_adjoint(P)


@each_kind
def test_the_pseudo_inverse_leaves_out_the_values_up_to_rcond(A):
    matrix = A.toarray().astype(np.result_type(A.dtype, np.float64))
    values = np.linalg.svd(matrix, compute_uv=False)
    at = int(np.argmax(values[:-1] - values[1:]))  # the widest gap: some are kept, some are not
    rcond = (values[at] + values[at + 1]) / (2 * values[0])
    found, expected = svd(A).pinv(rcond=rcond) @ np.eye(A.shape[0], dtype=A.dtype), np.linalg.pinv(matrix, rcond=rcond)
    np.testing.assert_allclose(found, expected, atol=100 * tolerance(A) * np.abs(expected).max())


@each_kind
def test_functions_change_the_singular_values_alone(A):
    F = svd(A)
    u, sigma, vh = np.linalg.svd(A.toarray().astype(np.result_type(A.dtype, np.float64)), full_matrices=False)
    eye, most = np.eye(A.shape[1], dtype=A.dtype), float(np.median(sigma))
    np.testing.assert_allclose(F.clip(most) @ eye, (u * np.minimum(sigma, most)) @ vh, atol=20 * tolerance(A))
    cubes = F.function(lambda s: s**3) @ eye
    np.testing.assert_allclose(cubes, (u * sigma**3) @ vh, atol=30 * tolerance(A) * sigma[0] ** 3)
    ridge = F.pinv_function(lambda s: s / (s**2 + 0.5)) @ np.eye(A.shape[0], dtype=A.dtype)
    np.testing.assert_allclose(ridge, ((u * (sigma / (sigma**2 + 0.5))) @ vh).conj().T, atol=20 * tolerance(A))


def test_the_decomposition_is_frozen_and_prints_its_norm():
    F = svd(Conv1d([3.0], 4))
    assert repr(F) == "<SVD of a 4 x 4 float64 operator, sigma_1 = 3>"
    with pytest.raises(AttributeError):
        F.shape = (1, 1)
    with pytest.raises(ValueError, match="read-only"):
        F.singular_values[0] = 1
    with pytest.raises(TypeError, match="f returns values of dtype complex128: it must return real numbers"):
        F.function(lambda s: 1j * s)
    with pytest.raises(ValueError, match=r"f returns the shape \(\)"):
        F.function(np.sum)
    with pytest.raises(ValueError, match=r"max_value=1 and min_value=2 must be 0 <= min_value <= max_value"):
        F.clip(1, 2)


# norm bounds ----------------------------------------------------------------------------------------------------------


def every_bound(A):
    """(name, lower, upper) of every route that applies, by itself, with the exact weights in double precision."""
    geometry = A.geometry
    kernel = finite_kernel(A).astype(np.result_type(A.dtype, np.float64))
    yield "chosen", *norm_bounds(A)
    yield "fine", *norm_bounds(A, rtol=1e-6)
    yield "dense", *dense_bounds(geometry, kernel)
    if (found := kronecker_bounds(geometry, kernel)) is not None:
        yield "kronecker", *found
    if (found := wave_bounds(geometry, kernel)) is not None:
        yield "waves", *found
    if (found := kronecker_bounds(geometry, kernel, 0.3)) is not None:  # far from rank one: the distance counts
        yield "nearly kronecker", *found
    if kernel.any():
        for rtol in (1e-6, 0.5):
            torus = torus_bound(geometry, kernel, rtol)
            yield f"torus {rtol}", lanczos(A, kernel, torus), torus.upper
    for step, upper in enumerate(schur_bounds(A, kernel, 0.0)):
        yield f"schur {step}", 0.0, upper


def lanczos(A, kernel, torus):
    from convmat.geometry import as_weight
    from convmat.products import Products

    weight = A.geometry.kernel(kernel).reshape(A.geometry.weight_shape)
    double = type(A)._of(Products(A.geometry, as_weight(weight), "auto"))
    return lower_bound(double, kernel, torus, 1e-2, [None] * A.geometry.ndim)


def assert_enclosed(A):
    true = dense_values(A)[0]
    ulps = 1e-14 * true  # of LAPACK, whose value is as uncertain as the bounds are tight
    for name, lower, upper in every_bound(A):
        assert lower <= true + ulps, (name, lower, true)
        assert true <= upper + ulps, (name, upper, true)


@tries(300)
@given(layers(dtypes=FLOATS))
def test_the_norm_is_between_the_bounds(layer):
    assert_enclosed(layer.operator())


@tries(100)
@given(layers(dtypes=FLOATS))
def test_the_norm_of_normal_weights_is_between_the_bounds(layer):
    assert_enclosed(Layer(**{**vars(layer), "weight": normal(layer.rng(), layer.weight.shape, layer.dtype)}).operator())


@pytest.mark.slow
@pytest.mark.parametrize("mode", oracle.MODES)
def test_the_norm_is_between_the_bounds_of_a_thousand_layers(mode):
    @tries(300)
    @given(layers(modes=(mode,), dtypes=FLOATS))
    def check(layer):
        assert_enclosed(layer.operator())
        weight = np.abs(layer.weight).astype(layer.dtype)
        assert_enclosed(Layer(**{**vars(layer), "weight": weight}).operator())

    check()


@st.composite
def wide_layers(draw):
    """Layers of four to nine channels on each side, whose Gram matrices are sampled, not made from the blocks."""
    layer = draw(layers(ndims=(1, 2), dtypes=("float64", "complex128", "float32")))
    groups = draw(st.integers(1, 2))
    shape = (groups * draw(st.integers(4, 9)), draw(st.integers(4, 9)), *layer.kernel_size)
    weight = normal(layer.rng(), shape, layer.dtype)
    if draw(st.booleans()):  # nearly singular blocks, or a group of zeros
        weight[: len(weight) // groups] *= draw(st.sampled_from([0, 1e-9]))
    return Layer(**{**vars(layer), "weight": weight, "groups": groups})


@tries(60)
@given(wide_layers())
def test_the_norm_of_wide_layers_is_between_the_bounds(layer):
    assert_enclosed(layer.operator())


@pytest.mark.parametrize("rows_cols", [(5, 7), (7, 5)])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_gram_symbol_has_the_squared_norms(rows_cols, dtype):
    A = Conv2d(normal(np.random.default_rng(0), (*rows_cols, 3, 2), dtype), (8, 8), stride=(2, 1), padding=1)
    polynomial = symbol(A.geometry, A.weight)
    for angles in ([0.3, 1.7], [-2.0, 3.0]):
        norm = np.linalg.norm(polynomial.at(angles)[0], 2)
        np.testing.assert_allclose(np.linalg.norm(polynomial.gram().at(angles)[0], 2), norm**2, rtol=1e-13)


@given(even_layers())
def test_the_norm_of_even_layers_is_between_the_bounds(layer):
    assert_enclosed(layer.operator())


@each_border
def test_the_norm_of_a_laplacian_is_known_to_rounding(border, mode):
    size = (300, 200)
    lower, upper = norm_bounds(Conv2d(laplacian(2), size, padding=1, padding_mode=mode))
    assert upper <= lower * (1 + 1e-12)
    assert lower <= np.abs(LaplacianNd(size, boundary_conditions=border).eigenvalues()).max() * (1 + 1e-13)
    assert np.abs(LaplacianNd(size, boundary_conditions=border).eigenvalues()).max() <= upper * (1 + 1e-13)


@given(periodic_layers())
def test_the_norm_of_periodic_layers_is_between_the_bounds(layer):
    assert_enclosed(layer.operator())


@tries(150)
@given(layers(dtypes=("float64",)))
def test_each_axis_is_a_part_of_a_periodic_one_times_its_copies(layer):
    for axis in layer.operator().geometry.axes:
        taps = normal(layer.rng(), axis.taps)
        dense = convmat.matrix.axis_matrix(axis, taps).toarray()
        embedding = embed(axis)
        for more in range(3 if embedding.free else 1):
            n = axis.stride * (embedding.size + more)
            big = np.zeros((embedding.size + more, n))
            for m, k in np.ndindex(len(big), axis.taps):
                big[m, (axis.stride * m + axis.dilation * k) % n] += taps[k]
            if axis.mode == "zeros":  # the matrix itself stands in the periodic one
                read = np.flatnonzero(dense.any(axis=0))
                np.testing.assert_array_equal(big[: axis.output, (read + axis.lo) % n], dense[:, read])
            bound = np.linalg.norm(big, 2) * math.sqrt(embedding.repeats)
            assert np.linalg.norm(dense, 2) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gap_is_below_one_percent_with_zero_padding(stride):
    W = normal(np.random.default_rng(0), (12, 12, 3, 3))
    A = Conv2d(W, (24, 24), stride=stride, padding=1)
    lower, upper = norm_bounds(A)
    assert upper <= 1.01 * lower
    true = svds(A.tosparse(), k=1, return_singular_vectors=False, v0=normal(np.random.default_rng(1), min(A.shape)))[0]
    assert lower <= true * (1 + 1e-10)
    assert true <= upper * (1 + 1e-10)
    assert norm_bounds(A.T) == (lower, upper)


@pytest.mark.parametrize("mode", oracle.COPYING)
def test_weights_of_one_sign_are_enclosed_closely_under_every_padding_mode_that_copies(mode):
    t = np.arange(-4, 5)
    blur = np.exp(-0.5 * (t**2 + t[:, None] ** 2 + t * t[:, None]) / 4)  # not separable
    A = Conv2d(blur / blur.sum(), (40, 36), padding=4, padding_mode=mode)
    lower, upper = norm_bounds(A, rtol=2e-2)
    true = svds(A.tosparse(), k=1, return_singular_vectors=False, v0=normal(np.random.default_rng(1), min(A.shape)))[0]
    assert lower <= true * (1 + 1e-9)
    assert true <= upper * (1 + 1e-9)
    assert upper <= 1.05 * lower


def test_periodic_operators_have_their_norm():
    A = Conv2d(normal(np.random.default_rng(0), (8, 8, 3, 3)), (16, 16), padding=1, padding_mode="circular", stride=2)
    lower, upper = norm_bounds(A, rtol=1e-9)
    assert upper <= lower * (1 + 1e-8)
    assert lower <= singular_values(A)[0] <= upper


def test_large_images_take_a_coarse_grid():
    W = normal(np.random.default_rng(0), (4, 4, 3, 3))
    lower, upper = norm_bounds(Conv2d(W, (1024, 1024), padding=1))
    assert lower <= upper <= 1.02 * lower


@pytest.mark.parametrize("scale", [1e-160, 1e-30, 1e160])
def test_the_bounds_scale_with_the_weight(scale):
    W = normal(np.random.default_rng(0), (6, 6, 3, 3))
    bounds = np.array(norm_bounds(Conv2d(W, (12, 12), padding=1)))
    np.testing.assert_allclose(norm_bounds(Conv2d(scale * W, (12, 12), padding=1)), scale * bounds, rtol=1e-3)


def test_the_zero_operator_has_norm_zero():
    A = Conv2d(np.zeros((2, 3, 3, 3)), (5, 5), padding=1)
    assert norm_bounds(A) == (0.0, 0.0)
    assert not singular_values(A).any()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**20), st.sampled_from([1e-9, 1e-3, 0.3]))
def test_gram_iteration_encloses_the_norm_of_each_matrix(rows, cols, seed, close):
    rng = np.random.default_rng(seed)
    blocks = normal(rng, (7, rows, cols), "complex128") * 10.0 ** rng.integers(-6, 7, (7, 1, 1))
    blocks[0], blocks[1] = 0, np.eye(rows, cols)
    true = np.linalg.norm(blocks, 2, axis=(1, 2))
    upper, lower = gram_bounds(blocks, 0.0, close)
    assert np.all(lower <= true * (1 + 1e-13))
    assert np.all(true <= upper)
    assert upper.max() <= true.max() * (1 + close) * (1 + 1e-9)


# clipping -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((6, 4, 3, 3), (8, 8), {}),
        ((6, 4, 3, 3), (8, 6), {"stride": 2}),
        ((4, 2, 3), (12,), {"groups": 2, "dilation": 2}),
        ((3, 3), (9, 8), {}),
        ((2, 2, 2, 2, 2), (4, 4, 4), {"stride": (1, 2, 1)}),
    ],
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_clipped_layer_has_its_support_and_its_norm(shape, size, options, dtype):
    W = normal(np.random.default_rng(0), shape, dtype)

    def layer(weight):
        spans = [options.get("dilation", 1) * (k - 1) for k in weight.shape[-len(size) :]]
        pads = tuple((0, span) for span in spans)
        return CONV[len(size)](weight, size, padding=pads, padding_mode="circular", **options)

    norm = singular_values(layer(W))[0]
    clipped = clip_singular_values(W, size, 0.6 * norm, **options)
    assert clipped.shape == W.shape
    assert clipped.dtype == W.dtype
    found = singular_values(layer(clipped))[0]
    assert 0.55 * norm <= found <= 0.6 * norm * (1 + TIGHT[dtype])
    scaled = 0.6 * W
    assert np.linalg.norm(clipped - W) <= np.linalg.norm(scaled - W) * (1 + 1e-6)  # nearer than the usual rescaling


@pytest.mark.parametrize(
    ("weight", "limit", "nearest"), [((3, 1), 2, (2, 0)), ((3, 2), 3, (2, 1)), ((-4, 3), 3, (-2, 1))]
)
def test_a_clipped_layer_is_the_nearest_of_its_norm(weight, limit, nearest):
    # two taps on an even ring have the norm |a| + |b|: the nearest are those of the soft threshold
    clipped = clip_singular_values(np.array(weight, dtype=float), 8, limit, rtol=1e-9, maxiter=2000)
    np.testing.assert_allclose(clipped, nearest, atol=1e-4)


def test_a_layer_within_the_norm_is_left_alone():
    W = normal(np.random.default_rng(0), (3, 2, 3, 3))
    np.testing.assert_array_equal(clip_singular_values(W, (6, 6), 1e3), W)


def test_a_full_kernel_is_clipped_in_one_step():
    W = normal(np.random.default_rng(0), (3, 2, 5))
    A = Conv1d(W, 5, padding=((0, 4),), padding_mode="circular")
    clipped = clip_singular_values(W, 5, 2.0)
    B = Conv1d(clipped, 5, padding=((0, 4),), padding_mode="circular")
    np.testing.assert_allclose(B.toarray(), svd(A).clip(2.0) @ np.eye(A.shape[1]), atol=1e-12)


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [singular_values, svd, norm_bounds])
def test_other_operators_are_refused_by_name(function):
    for A in (np.eye(3), aslinearoperator(np.eye(3)), None):
        with pytest.raises(TypeError, match=f"A is of type {type(A).__name__}: it must be one of convmat's "):
            function(A)


@pytest.mark.parametrize("function", [singular_values, svd])
def test_large_operators_without_structure_name_the_way_out(function):
    A = Conv2d(normal(np.random.default_rng(0), (8, 8, 3, 3)), (64, 64), padding=1)
    with pytest.raises(ValueError, match=r"norm_bounds\(A\).*scipy\.sparse\.linalg\.svds"):
        function(A)


@pytest.mark.parametrize("function", [singular_values, svd, norm_bounds])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(function, value):
    with pytest.raises(ValueError, match="A has a weight with NaN or infinite entries"):
        function(Conv1d([1.0, value], 5))


@pytest.mark.parametrize("rtol", [0, -1, math.nan, "1", True])
def test_a_wrong_rtol_is_refused(rtol):
    with pytest.raises(ValueError, match=r"rtol=.* must be a positive number"):
        norm_bounds(Conv1d([1.0], 5), rtol=rtol)


def test_clipping_says_what_is_wrong():
    W = np.ones((2, 2, 3))
    with pytest.raises(ValueError, match="max_value=-1 must be a positive number"):
        clip_singular_values(W, 6, -1)
    with pytest.raises(ValueError, match="stride 4 must divide the input size 6"):
        clip_singular_values(W, 6, 1, stride=4)
    with pytest.raises(ValueError, match="must not be larger than"):
        clip_singular_values(W, 2, 1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        clip_singular_values(np.full((3,), np.nan), 6, 1)


def test_no_warning_and_nothing_changed():
    A = ConvTranspose2d(normal(np.random.default_rng(0), (2, 3, 3, 3)), (5, 5), stride=2, padding=1)
    before = A.weight.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norm_bounds(A)
        singular_values(A)
    np.testing.assert_array_equal(A.weight, before)
