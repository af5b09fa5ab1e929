"""The normal operator, its inverses, and Tikhonov's solution, against dense linear algebra and scipy's solvers."""

import functools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator, cg, lsqr

import convmat.plot
import convmat.solve.inverses.framed
import convmat.solve.inverses.schwarz
from convmat import Conv1d, Conv2d, Conv3d, ConvTranspose2d, Diagonal, check_adjoint
from convmat.products import Products
from convmat.solve import SolveInfo, normal, preconditioner, tikhonov
from convmat.solve.inverses import INVERSES, UnsupportedError
from convmat.solve.inverses.cg import conjugate_gradients
from convmat.solve.inverses.choose import expected, expected_steps
from convmat.solve.solver import Preconditioner, problem_of
from tests.oracle import COPYING, MODES
from tests.strategies import CONV, layers, tries

BORDERS = [mode for mode in MODES if mode != "circular"]
TOLERANCE = 1e-10


def dense_solution(A, y, damp, R=None):
    """The minimiser by orthogonal decompositions, (columns, unknowns)."""
    matrix = A.toarray().astype(np.result_type(A.dtype, np.float64))
    if R is None and damp > 0:  # the stacked matrix loses digits where it is high and A is not
        u, sigma, vh = np.linalg.svd(matrix, full_matrices=False)
        coefficients = (sigma / (sigma**2 + damp**2))[:, None] * (u.conj().T @ y.reshape(-1, len(matrix)).T)
        return (vh.conj().T @ coefficients).T
    penalty = np.eye(matrix.shape[1]) if R is None else R.toarray()
    stacked = np.concatenate([matrix, damp * penalty])
    right = np.concatenate([y.reshape(-1, len(matrix)).T, np.zeros((len(penalty), y.size // len(matrix)))])
    return np.linalg.lstsq(stacked, right, rcond=None)[0].T


def inverse_of(A, damp, R=None):
    matrix = A.toarray().astype(np.result_type(A.dtype, np.float64))
    penalty = np.eye(matrix.shape[1]) if R is None else R.toarray()
    return np.linalg.inv(matrix.conj().T @ matrix + damp**2 * penalty.conj().T @ penalty)


def assert_solves(A, damp, method=None, R=None, kind=None, seed=0):
    """One inverse, alone: its `apply` and its `solve` against dense linear algebra."""
    rng = np.random.default_rng(seed)
    y = random(rng, (2, *A.output_shape), A.dtype)
    expected = dense_solution(A, y, damp, R)
    scale = np.abs(expected).max() or 1
    if kind is not None:
        problem = problem_of(A, damp, R)
        inverse = INVERSES[kind](problem)
        assert inverse.exact
        wide = np.result_type(y, np.float64, problem.dtype)
        np.testing.assert_allclose(
            inverse.solve(y.astype(wide)).reshape(2, -1), expected, atol=TOLERANCE * scale, rtol=0
        )
        r = random(rng, (2, problem.channels, *problem.size), wide)
        exact = r.reshape(2, -1) @ inverse_of(A, damp, R).T
        np.testing.assert_allclose(inverse.apply(r).reshape(2, -1), exact, atol=TOLERANCE * np.abs(exact).max(), rtol=0)
    x, info = tikhonov(A, y.reshape(2, -1).T, damp, regularizer=R)  # columns: a batch of lines may look like them
    assert info.converged, info
    if method is not None:
        assert info.method == method
        assert info.iterations == 0
    tolerance = TOLERANCE if x.dtype.itemsize == 8 * (1 + (x.dtype.kind == "c")) else 1e-5
    np.testing.assert_allclose(x.T, expected, atol=tolerance * scale, rtol=0)
    assert x.dtype == np.result_type(A.dtype, y.dtype)


def random(rng, shape, dtype):
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)


def gaussian(size, width=2.0):
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / width) ** 2)
    return line / line.sum()


def motion(size=9, angle=30.0):
    """The path of a point during an exposure, drawn with bilinear weights."""
    t = np.linspace(-0.45 * size, 0.45 * size, 500)
    path = size // 2 + np.outer([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))], t)
    grid = np.arange(size)[:, None]
    rows, cols = (np.clip(1 - np.abs(grid - p), 0, None) for p in path)
    return rows @ cols.T / t.size


# --------------------------------------------------------------------------------------------------------- normal


@given(layers(), st.sampled_from([0.0, 0.5]))
def test_normal_is_the_normal_matrix(layer, damp):
    A = layer.operator()
    N = normal(A, damp)
    matrix = layer.dense()
    expected = matrix.conj().T @ matrix + damp**2 * np.eye(matrix.shape[1])
    scale = np.abs(expected).max() or 1
    rtol = 1e-5 if N.dtype.itemsize <= 4 * (1 + (N.dtype.kind == "c")) else 1e-13
    np.testing.assert_allclose(N.toarray(), expected, atol=rtol * scale, rtol=0)
    np.testing.assert_allclose(N @ np.eye(len(expected), dtype=N.dtype), expected, atol=rtol * scale, rtol=0)
    assert N.dtype == A.dtype
    assert N.H is N
    check_adjoint(N)
    check_adjoint(N.T)


def test_normal_of_a_transpose_and_with_a_regularizer():
    rng = np.random.default_rng(0)
    A = ConvTranspose2d(rng.standard_normal((2, 3, 3, 3)), (4, 5), stride=2, padding=1)
    R = Conv2d(rng.standard_normal((1, 2, 2, 2)), (4, 5), padding_mode="reflect")
    a, r = A.toarray(), R.toarray()
    N = normal(A, 0.3, regularizer=R)
    np.testing.assert_allclose(N.toarray(), a.T @ a + 0.09 * r.T @ r, atol=1e-13)
    check_adjoint(N)
    assert N.tosparse("csc").format == "csc"
    assert N.apply(np.ones((3, *A.input_shape))).shape == (3, *A.input_shape)


def _outer(*lines):
    return functools.reduce(np.multiply.outer, lines)


TAPS = np.array([1.0, -2.0, 3.0, 0.5, 1.0])
DEPTHWISE = Conv2d(_outer(np.arange(1.0, 7.0), TAPS, TAPS)[:, None], (9, 8), groups=3, method="separable")
FUSED = [
    *(Conv2d(_outer(TAPS, TAPS[::-1]), (40, 33), padding=2, padding_mode=mode, stride=stride, method="separable")
      for mode in MODES for stride in (1, 3)),
    Conv1d(TAPS, 70, padding=3, method="separable"),
    Conv3d(_outer(TAPS[:2], TAPS[:3] * 1j, TAPS[2:]), (5, 6, 7), padding="full", method="separable"),
    DEPTHWISE,
    *(Conv2d(np.random.default_rng(0).standard_normal(shape), size, padding=(2, 1), stride=stride, groups=groups,
             padding_mode="circular", method="fft")
      for shape, size, stride, groups in (((1, 1, 5, 3), (12, 7), 1, 1), ((2, 2, 5, 3), (12, 7), 1, 1),
                                          ((1, 1, 5, 4), (12, 8), 2, 1), ((4, 2, 5, 3), (6, 9), 1, 2))),
    Conv1d([1.0, 2j, 3.0], 9, padding=1, padding_mode="circular", method="fft"),
]  # fmt: skip


@pytest.mark.parametrize(
    "A", [B for A in FUSED for B in (A, A.T) if B is not DEPTHWISE.T], ids=lambda A: f"{A.shape} {A.method} {A.dtype}"
)
def test_one_product_replaces_two(A, monkeypatch):
    problem = problem_of(A, 0.5, None)
    x = random(np.random.default_rng(1), (2, problem.channels, *problem.size), np.complex128)
    matrix = A.toarray()
    expected = x.reshape(2, -1) @ (matrix.conj().T @ matrix + 0.25 * np.eye(matrix.shape[1])).T
    monkeypatch.setattr(Products, "forward", None)  # neither of the two may be called
    monkeypatch.setattr(Products, "transpose", None)
    for image, exact in ((x, expected), (x.real, expected.real)) if A.dtype.kind != "c" else ((x, expected),):
        got = problem.normal(image).reshape(2, -1)
        np.testing.assert_allclose(got, exact, atol=1e-13 * np.abs(expected).max(), rtol=0)


def test_single_precision_and_mixed_channels_take_two_products():
    rng = np.random.default_rng(2)
    for A in (
        Conv2d(_outer(TAPS, TAPS).astype(np.float32), (20, 20), method="separable"),
        Conv2d(_outer(np.ones((2, 3)), TAPS, TAPS), (9, 8), method="separable"),
        Conv2d(rng.standard_normal((8, 8, 3, 3)), (6, 6), padding=1, padding_mode="circular", method="fft"),
        Conv2d(rng.standard_normal((3, 3)), (6, 6), method="separable"),
        DEPTHWISE.T,  # two channels to one
    ):
        matrix, x = A.toarray().astype(float), rng.standard_normal(A.shape[1])
        np.testing.assert_allclose(normal(A) @ x, matrix.T @ (matrix @ x), atol=1e-12 * np.abs(matrix).max() ** 2 * 100)


# --------------------------------------------------------------------------------------------------- closed forms


@st.composite
def circular_layers(draw):
    """Circular layers whose stride divides the size: channels, groups, dilation, any offset, real and complex."""
    ndim = draw(st.integers(1, 3))
    most = {1: 4, 2: 3, 3: 2}[ndim]
    stride = tuple(draw(st.integers(1, most)) for _ in range(ndim))
    size = tuple(s * draw(st.integers(1, most + 1)) for s in stride)
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(ndim))
    taps = tuple(draw(st.integers(1, max(1, (n - 1) // d + 1))) for n, d in zip(size, dilation, strict=True))
    padding = []
    for n, s, d, k in zip(size, stride, dilation, taps, strict=True):
        lo = draw(st.integers(max(0, d * (k - 1) + 1 - s), d * (k - 1)) if d * (k - 1) else st.just(0))
        total = max(0, d * (k - 1) + 1 - s)
        lo = min(lo, total, n)
        padding.append((lo, total - lo))
    if any(hi > n for (_, hi), n in zip(padding, size, strict=True)):
        padding = [(0, 0)] * ndim
        taps = (1,) * ndim
    groups = draw(st.integers(1, 2))
    channels = draw(st.booleans())
    shape = (groups * draw(st.integers(1, 2)), draw(st.integers(1, 2))) if channels else ()
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    weight = random(rng, (*shape, *taps), draw(st.sampled_from([np.float64, np.complex128, np.float32])))
    return CONV[ndim](
        weight, size, stride=stride, padding=tuple(padding), dilation=dilation,
        groups=groups if channels else 1, padding_mode="circular", flip=draw(st.booleans()),
    )  # fmt: skip


@given(circular_layers(), st.sampled_from([0.05, 1.0]), st.booleans())
@tries(60)
def test_circular_layers_in_closed_form(A, damp, transposed):
    assert_solves(A.T if transposed else A, damp, "circulant", kind="circulant")


@given(layers(modes=COPYING), st.sampled_from([0.1, 1.0]), st.booleans())
def test_every_layer_is_solved(layer, damp, transposed):
    A = layer.operator()
    assert_solves(A.T if transposed else A, damp)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stride", [1, (2, 3), 4])
@pytest.mark.parametrize("kind", ["real", "complex", "channels", "transposed"])
def test_separable_kernels_in_closed_form(mode, stride, kind):
    rng = np.random.default_rng(1)
    lines = [rng.standard_normal(k) + (1j * rng.standard_normal(k) if kind == "complex" else 0) for k in (3, 4)]
    weight = np.multiply.outer(*lines)
    layer = {"stride": stride, "padding": ((1, 2), (3, 0)), "padding_mode": mode}
    if kind == "channels":
        weight, layer["groups"] = np.stack([weight, 2 * weight[::-1]])[:, None], 2
    A = Conv2d(weight, (9, 11), **layer)
    A = A.T if kind == "transposed" else A
    assert_solves(A, 0.1, kind="kronecker")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ndim", [1, 3])
def test_separable_kernels_on_one_and_three_axes(mode, ndim):
    rng = np.random.default_rng(2)
    weight = rng.standard_normal(3)
    for _ in range(ndim - 1):
        weight = np.multiply.outer(weight, rng.standard_normal(3))
    A = CONV[ndim](weight, (6, 5, 4)[:ndim], stride=2, padding=1, padding_mode=mode)
    assert_solves(A, 0.1, kind="kronecker")


@pytest.mark.parametrize("size", [(7,), (6, 9), (4, 5, 3)])
def test_even_kernels_with_symmetric_padding_in_closed_form(size):
    ndim = len(size)
    weight = np.random.default_rng(3).standard_normal((3,) * ndim)
    for axis in range(ndim):
        weight = weight + np.flip(weight, axis)
    A = CONV[ndim](weight, size, padding=1, padding_mode="symmetric")
    assert_solves(A, 0.1, kind="dct")
    assert_solves(CONV[ndim](weight[None, None].repeat(2, 0), size, padding=1, padding_mode="symmetric", groups=2), 0.1)


@pytest.mark.parametrize("kernel", ["separable", "random"])
@pytest.mark.parametrize("mode", MODES)
def test_super_resolution_by_four(mode, kernel):
    rng = np.random.default_rng(4)
    weight = np.multiply.outer(gaussian(8), gaussian(8)) if kernel == "separable" else rng.standard_normal((8, 8)) / 8
    A = Conv2d(weight, (24, 16), stride=4, padding=2, padding_mode=mode)
    closed = "circulant" if mode == "circular" else "kronecker" if kernel == "separable" else "direct"
    assert_solves(A, 0.01, closed, kind="schwarz" if closed == "direct" else closed)


DIFFERENCES = np.array([[[0, 0], [-1, 1]], [[0, -1], [0, 1]]], dtype=float)[:, None]
LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=float)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("R", ["laplacian", "differences", "decimated"])
def test_regularizers_of_circular_problems(R, stride):
    rng = np.random.default_rng(5)
    A = Conv2d(rng.standard_normal((1, 1, 3, 3)), (8, 12), stride=stride, padding=1, padding_mode="circular")
    layer = {
        "laplacian": (LAPLACIAN[None, None], {"padding": 1}),
        "differences": (DIFFERENCES, {"padding": ((1, 0), (1, 0))}),
        "decimated": (rng.standard_normal((4, 1, 2, 2)), {"stride": 2}),
    }[R]
    penalty = Conv2d(layer[0], (8, 12), padding_mode="circular", **layer[1])
    assert_solves(A, 0.3, "circulant", R=penalty, kind="circulant")


def test_regularizers_with_other_groups_and_of_transposes():
    rng = np.random.default_rng(6)
    layer = {"padding": 1, "padding_mode": "circular"}
    A = Conv2d(rng.standard_normal((3, 4, 3, 3)), (6, 4), stride=2, **layer)
    R = Conv2d(rng.standard_normal((4, 1, 3, 3)), (6, 4), groups=4, **layer)
    assert_solves(A, 0.3, "circulant", R=R, kind="circulant")
    penalty = Conv2d(rng.standard_normal((3, 1, 3, 3)), (3, 2), groups=3, **layer)
    assert_solves(A.T, 0.3, "circulant", R=penalty, kind="circulant")
    assert_solves(A.T, 0.3, "circulant", R=Conv2d(rng.standard_normal((2, 3, 3, 1)), (3, 2), stride=(3, 2),
                                                 padding=((0, 0), (0, 0)), padding_mode="circular"))  # fmt: skip


@pytest.mark.parametrize("mode", BORDERS)
def test_regularizers_at_other_borders(mode):
    rng = np.random.default_rng(7)
    size = (9, 8)
    blur = Conv2d(np.outer([1, 3, 1], [1, 3, 2]) / 30, size, padding=1, padding_mode=mode)
    along_rows = Conv2d(np.array([[1.0, -1.0]]), size)
    assert_solves(blur, 0.2, "kronecker", R=along_rows, kind="kronecker")
    laplacian = Conv2d(LAPLACIAN, size, padding=1, padding_mode=mode)
    assert_solves(blur, 0.2, R=laplacian)
    assert_solves(Conv2d(rng.standard_normal((3, 3)), size, stride=2, padding=1, padding_mode=mode), 0.2, R=laplacian)
    if mode == "symmetric":
        even = Conv2d(LAPLACIAN + 5 * np.ones((3, 3)), size, padding=1, padding_mode=mode)
        assert_solves(even, 0.2, "dct", R=laplacian, kind="dct")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", ["separable", "motion"])
def test_equals_the_limit_of_lsqr(mode, kernel):
    rng = np.random.default_rng(8)
    weight = np.multiply.outer(gaussian(9), gaussian(9)) if kernel == "separable" else motion(9)
    A = Conv2d(weight, (40, 48), padding=4, padding_mode=mode)
    y = rng.standard_normal(A.shape[0])
    x, info = tikhonov(A, y, 0.1, rtol=1e-12)
    assert info.converged
    limit = lsqr(A, y, damp=0.1, atol=1e-14, btol=1e-14, iter_lim=5000)[0]
    np.testing.assert_allclose(x, limit, atol=1e-10 * np.abs(limit).max(), rtol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("data", [np.float32, np.complex128])
def test_dtypes(dtype, data):
    rng = np.random.default_rng(9)
    A = Conv2d(random(rng, (3, 3), dtype), (8, 8), padding=1, padding_mode="reflect")
    x, info = tikhonov(A, random(rng, A.output_shape, data), 0.1)
    assert x.dtype == np.result_type(dtype, data)
    assert info.converged


def test_shapes():
    rng = np.random.default_rng(10)
    A = Conv2d(rng.standard_normal((2, 3, 3, 3)), (6, 7), padding=1)
    y = rng.standard_normal((4, *A.output_shape))
    images = tikhonov(A, y, 0.1)[0]
    assert images.shape == (4, *A.input_shape)
    columns = tikhonov(A, y.reshape(4, -1).T, 0.1)[0]
    assert columns.shape == (A.shape[1], 4)
    np.testing.assert_allclose(columns.T, images.reshape(4, -1), atol=1e-12)
    one = tikhonov(A, y[1], 0.1)[0]
    assert one.shape == A.input_shape
    np.testing.assert_allclose(one, images[1], atol=1e-12)
    flat = tikhonov(A, y[1].ravel(), 0.1)[0]
    assert flat.shape == (A.shape[1],)
    batch = tikhonov(A, y.reshape(2, 2, *A.output_shape), 0.1)[0]
    assert batch.shape == (2, 2, *A.input_shape)
    assert tikhonov(A, np.empty((0, *A.output_shape)), 0.1)[0].shape == (0, *A.input_shape)
    assert not tikhonov(A, np.zeros(A.shape[0]), 0.1)[0].any()


# ------------------------------------------------------------------------------------------------ preconditioners


def steps(A, damp, M, y, rtol=1e-6):
    """Iterations of scipy's cg on the normal equations."""
    taken = []
    _, failed = cg(normal(A, damp).tosparse(), A.H @ y, M=M, rtol=rtol, maxiter=3000, callback=taken.append)
    assert failed == 0
    return len(taken)


def blurred(A, seed=0):
    """Data of a smooth random image, with noise."""
    rng = np.random.default_rng(seed)
    x = np.cumsum(np.cumsum(rng.standard_normal(A.input_shape), -1), -2)
    y = A.apply(x / np.abs(x).max()).ravel()
    return y + 1e-3 * rng.standard_normal(y.size)


@given(layers(), st.sampled_from([0.1, 1.0]), st.sampled_from(sorted(INVERSES)), st.booleans())
@tries(60)
def test_preconditioners_are_hermitian_and_positive(layer, damp, kind, transposed):
    A = layer.operator()
    A = A.T if transposed else A
    try:
        M = preconditioner(A, damp, kind=kind)
    except ValueError as error:
        assert f"kind={kind!r} does not exist for this problem" in str(error)  # noqa: PT017
        return
    single = kind == "framed" or M.dtype.itemsize <= 4 * (1 + (M.dtype.kind == "c"))
    check_adjoint(M, rtol=1e-5 if single else 1e-11)
    assert M.H is M
    matrix = M.toarray()
    values = np.linalg.eigvalsh((matrix + matrix.conj().T) / 2)
    assert values.min() > 0
    if M.exact:
        product = M @ normal(A, damp).toarray()
        rounding = 4 * np.finfo(M.dtype).eps * values.max() / values.min()  # borders that sum samples are large
        few = 1e-2 if M.dtype.itemsize == 4 else 1e-3
        np.testing.assert_allclose(product, np.eye(len(matrix)), atol=max(few, rounding))


@pytest.mark.parametrize("shape", ["many patches", "channels", "strided", "transposed", "volume", "line"])
@pytest.mark.parametrize("mode", MODES)
def test_patches_are_those_of_the_normal_operator(mode, shape, monkeypatch):
    """The blocks of M^-1 on the patches, found on the smallest grids, are those of the whole matrix."""
    monkeypatch.setattr(convmat.solve.inverses.schwarz, "PATCH_UNKNOWNS", 30)
    monkeypatch.setattr(convmat.solve.inverses.schwarz, "DIRECT_UNKNOWNS", 30)
    rng = np.random.default_rng(11)
    A = {
        "many patches": lambda: Conv2d(rng.standard_normal((3, 4)), (23, 20), padding=(1, 2), padding_mode=mode),
        "channels": lambda: Conv2d(rng.standard_normal((2, 3, 3, 2)), (13, 11), padding=1, padding_mode=mode),
        "strided": lambda: Conv2d(rng.standard_normal((5, 3)), (31, 26), stride=(3, 2), padding=((2, 1), (0, 1)),
                                  padding_mode=mode),
        "transposed": lambda: Conv2d(rng.standard_normal((5, 3)), (46, 43), stride=(3, 2), padding=((2, 1), (0, 1)),
                                     padding_mode=mode).T,
        "volume": lambda: Conv3d(rng.standard_normal((2, 2, 2)), (9, 8, 9), padding=1, padding_mode=mode),
        "line": lambda: Conv1d(rng.standard_normal(6), 150, stride=2, padding=(-1, 3) and 3, dilation=2,
                               padding_mode=mode),
    }[shape]()  # fmt: skip
    problem = problem_of(A, 0.3, None)
    made = INVERSES["schwarz"](problem)
    assert not made.exact
    whole = normal(A, 0.3).toarray()
    index = np.arange(problem.unknowns).reshape(problem.channels, *problem.size)
    expected = np.zeros_like(whole)
    for corners, _ in made._patches:
        for corner in corners:
            cut = index[(slice(None), *(slice(a, a + s) for a, s in zip(corner, made._side, strict=True)))].ravel()
            expected[np.ix_(cut, cut)] += np.linalg.inv(whole[np.ix_(cut, cut)])
    np.testing.assert_allclose(preconditioner(A, 0.3, kind="schwarz").toarray(), expected, atol=1e-11)
    assert tikhonov(A, rng.standard_normal(A.output_shape), 0.3)[1].converged


@pytest.mark.parametrize("mode", MODES)
def test_exact_kinds_take_one_or_two_steps(mode):
    A = Conv2d(np.multiply.outer(gaussian(9), gaussian(9)), (48, 48), padding=4, padding_mode=mode)
    kinds = ["auto", "kronecker", *{"circular": ["circulant"], "symmetric": ["dct"]}.get(mode, [])]
    for kind in kinds:
        M = preconditioner(A, 0.01, kind=kind)
        assert M.exact
        assert steps(A, 0.01, M, blurred(A)) <= 2


@pytest.mark.parametrize("mode", BORDERS)
def test_nearly_separable_kernels_take_a_tenth_of_the_steps(mode):
    line = gaussian(15, 2.5)
    odd = line * (np.arange(15) - 7)
    weight = np.multiply.outer(line, line)
    odd = np.multiply.outer(odd, odd)
    weight = weight + 0.05 * np.linalg.norm(weight) / np.linalg.norm(odd) * odd
    A = Conv2d(weight, (64, 64), padding=7, padding_mode=mode)
    y = blurred(A)
    M = preconditioner(A, 0.01)
    assert steps(A, 0.01, M, y) <= steps(A, 0.01, None, y) / 10


KERNELS = {
    "motion": lambda: motion(15),
    "disc": lambda: (np.hypot(*np.mgrid[-5:6, -5:6]) < 5.4) / 93,
    "random": lambda: np.random.default_rng(3).random((11, 11)) ** 4 / 24,
}


@pytest.mark.parametrize("mode", BORDERS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_torus_and_the_patches_of_its_frame_take_less_than_half_of_the_steps(kernel, mode):
    weight = KERNELS[kernel]()
    A = Conv2d(weight, (64, 52), padding=len(weight) // 2, padding_mode=mode)
    y = blurred(A)
    M = preconditioner(A, 0.01, kind="framed")
    assert (M.kind, M.exact) == ("framed", False)
    assert steps(A, 0.01, M, y) < steps(A, 0.01, None, y) / 2


@pytest.mark.parametrize("mode", BORDERS)
@pytest.mark.parametrize("shape", ["image", "complex", "channels", "mixed", "transposed", "volume", "line", "valid"])
@pytest.mark.parametrize("damp", [1e-1, 1e-3])
def test_framed_steps_lead_to_the_dense_solution(damp, shape, mode, monkeypatch):
    monkeypatch.setattr(convmat.solve.inverses.framed, "PATCH_UNKNOWNS", (25, 25))
    rng = np.random.default_rng(12)
    layer = {"padding": 1, "padding_mode": mode}
    A = {
        "image": lambda: Conv2d(rng.standard_normal((3, 3)), (20, 17), **layer),
        "complex": lambda: Conv2d(random(rng, (3, 3), complex), (14, 15), **layer),
        "channels": lambda: Conv2d(rng.standard_normal((4, 1, 3, 3)), (13, 11), groups=2, **layer),
        "mixed": lambda: Conv2d(rng.standard_normal((3, 2, 3, 3)), (12, 11), **layer),
        "transposed": lambda: Conv2d(rng.standard_normal((3, 3)), (17, 16), **layer).T,
        "volume": lambda: Conv3d(rng.standard_normal((3, 3, 3)), (7, 8, 6), **layer),
        "line": lambda: Conv1d(rng.standard_normal(5), 150, dilation=2, padding=4, padding_mode=mode),
        "valid": lambda: Conv2d(rng.standard_normal((2, 3)), (15, 14)),
    }[shape]()
    problem = problem_of(A, damp, None)
    y = rng.standard_normal((2, *A.output_shape))
    inverse = INVERSES["framed"](problem)
    assert inverse.apply(problem.right_side(y)).dtype == problem.dtype
    H = normal(A, damp).toarray()
    M = Preconditioner(inverse).toarray()
    np.testing.assert_allclose(M, M.conj().T, atol=1e-6 * np.abs(M).max())
    assert np.linalg.eigvalsh((M + M.conj().T) / 2).min() > 0
    found = conjugate_gradients(problem, problem.right_side(y), inverse, rtol=1e-11, maxiter=4000)
    x = found.x.reshape(2, -1)
    difference = x - np.linalg.solve(H, (A.H @ y.reshape(2, -1).T)).T
    energy = np.einsum("bi,ij,bj->b", difference.conj(), H, difference).real
    assert (energy <= 1e-16 * np.einsum("bi,ij,bj->b", x.conj(), H, x).real).all()


@pytest.mark.parametrize(
    ("words", "A"),
    [
        ("a stride is larger", Conv2d(np.ones((3, 3)), (9, 9), stride=2)),
        ("there is no border", Conv2d(np.ones((3, 3)), (9, 9), padding=1, padding_mode="circular")),
        ("not convolutions", Conv2d(np.ones((3, 3)), (9, 9)) @ Diagonal(np.arange(81.0).reshape(9, 9), (9, 9))),
    ],
)
def test_framed_refuses(words, A):
    with pytest.raises(ValueError, match=f"kind='framed' does not exist for this problem.*{words}"):
        preconditioner(A, 0.1, kind="framed")


@pytest.mark.parametrize(("damp", "dtype"), [(1e-1, np.float32), (1e-2, np.float32), (1e-5, np.float64)])
def test_single_precision_only_where_it_resolves_the_damp(damp, dtype):
    A = Conv2d(motion(9), (40, 44), padding=4, padding_mode="reflect")
    M = preconditioner(A, damp, kind="framed")
    assert M._inverse._dtype == dtype
    x, y = np.random.default_rng(6).standard_normal((2, A.shape[1]))
    assert abs(x @ (M @ y) - y @ (M @ x)) <= 100 * np.finfo(dtype).eps * np.linalg.norm(x) * np.linalg.norm(M @ y)
    assert x @ (M @ x) > 0


def test_an_axis_without_border_has_no_frame():
    A = Conv2d(np.random.default_rng(4).random((5, 5)) / 12, (90, 40), padding=2, padding_mode=("zeros", "circular"))
    inverse = INVERSES["framed"](problem_of(A, 0.1, None))
    assert {corner[0] for corners, _ in inverse._patches for corner in corners.tolist()} == {0, 90 - 16}
    assert inverse._torus.problem.size == (96, 40)


@pytest.mark.parametrize(
    ("kind", "weight", "size", "damp"),
    [
        ("framed", motion(15), 512, 0.01),
        ("framed", motion(15), 256, 0.001),
        ("identity", motion(15), 48, 0.1),
        ("kronecker", 0.9 * np.multiply.outer(gaussian(9), gaussian(9)) + 0.1 * motion(9), 256, 0.1),
    ],
)
def test_auto_takes_what_is_expected_to_be_first(kind, weight, size, damp):
    A = Conv2d(weight, (size, size), padding=len(weight) // 2, padding_mode="reflect")
    assert preconditioner(A, damp).kind == kind
    seconds = expected(problem_of(A, damp, None).scaled(), 1e-6)
    assert min(seconds, key=seconds.get) == kind


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("damp", [0.3, 0.03])
@pytest.mark.parametrize("kind", ["identity", "kronecker", "framed"])
def test_steps_are_foreseen_within_a_factor_of_two(kind, damp, kernel):
    weight = KERNELS[kernel]()
    A = Conv2d(weight, (96, 96), padding=len(weight) // 2, padding_mode="reflect")
    problem = problem_of(A, damp, None).scaled()
    right = problem.right_side(blurred(A).reshape(1, *A.output_shape))
    taken = conjugate_gradients(problem, right, INVERSES[kind](problem), rtol=1e-6, maxiter=2000).iterations
    assert taken / 2 <= expected_steps(problem, 1e-6)[kind] <= 2 * taken


def test_an_operator_keeps_what_was_made_for_it():
    A = Conv2d(5 * motion(9), (48, 48), padding=4, padding_mode="reflect")
    R = Conv2d(LAPLACIAN, (48, 48))
    first = preconditioner(A, 0.1)._inverse
    assert preconditioner(A, 0.1)._inverse is first
    assert preconditioner(A, 0.2)._inverse is not first
    assert preconditioner(A, 0.1)._inverse is first
    assert preconditioner(A, 0.1, regularizer=R)._inverse is not first
    preconditioner(A, 0.3)
    assert preconditioner(A, 0.1)._inverse is not first  # two are kept
    assert "_prepared" not in A.__getstate__()
    copied = pickle.loads(pickle.dumps(A))
    assert preconditioner(copied, 0.1)._inverse is not preconditioner(A, 0.1)._inverse


# --------------------------------------------------------------------------------------------------------- errors


A = Conv2d(np.multiply.outer(gaussian(5), gaussian(5)), (8, 8), padding=2, padding_mode="reflect")
Y = np.ones(A.output_shape)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TypeError, "A is a ndarray", lambda: tikhonov(np.eye(64), Y, 0.1)),
        (TypeError, "use scipy's lsqr", lambda: normal(aslinearoperator(np.eye(8)), 0.1)),
        (TypeError, "regularizer is a", lambda: preconditioner(A, 0.1, regularizer=np.eye(64))),
        (ValueError, "input_shape", lambda: tikhonov(A, Y, 0.1, regularizer=Conv2d(LAPLACIAN, (9, 9)))),
        (TypeError, "damp=1j", lambda: tikhonov(A, Y, 1j)),
        (TypeError, "damp='a'", lambda: normal(A, "a")),
        (TypeError, "damp=True", lambda: normal(A, True)),
        (ValueError, "damp=-1", lambda: preconditioner(A, -1)),
        (ValueError, "damp=nan", lambda: tikhonov(A, Y, float("nan"))),
        (ValueError, "damp=inf", lambda: tikhonov(A, Y, float("inf"))),
        (ValueError, "kind='x' must be one of", lambda: preconditioner(A, 0.1, kind="x")),
        (TypeError, "kind=1", lambda: preconditioner(A, 0.1, kind=1)),
        (ValueError, "kind='dct' does not exist", lambda: preconditioner(Conv2d(LAPLACIAN, (8, 8)), 1, kind="dct")),
        (ValueError, "2 entries that are not finite", lambda: tikhonov(A, np.where(np.arange(64) < 2, np.nan, 1), 1)),
        (ValueError, "y has shape (7, 8)", lambda: tikhonov(A, Y[1:], 0.1)),
        (TypeError, "y has dtype", lambda: tikhonov(A, Y.astype(str), 0.1)),
        (ValueError, "weight of A", lambda: tikhonov(Conv1d([1, np.nan], 8), np.ones(7), 0.1)),
        (ValueError, "rtol=-1", lambda: tikhonov(A, Y, 0.1, rtol=-1)),
        (TypeError, "rtol='a'", lambda: tikhonov(A, Y, 0.1, rtol="a")),
        (ValueError, "maxiter=0", lambda: tikhonov(A, Y, 0.1, maxiter=0)),
        (TypeError, "maxiter=1.5", lambda: tikhonov(A, Y, 0.1, maxiter=1.5)),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(error, words, call):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "singular",
    [
        Conv2d(np.ones((2, 2)), (8, 8), padding=((1, 0), (1, 0)), padding_mode="circular"),
        Conv2d(np.ones((3, 3)), (8, 8), stride=2, padding=1, padding_mode="reflect"),
        Conv2d(np.ones((3, 3)), (9, 9), padding=1, padding_mode="symmetric"),
        Conv2d(np.zeros((3, 3)), (8, 8), padding=1),
        Conv2d(LAPLACIAN, (8, 8), padding=1, padding_mode="symmetric"),
        Conv2d(np.ones((2, 1, 2, 2)), (8, 8), padding=((1, 0), (1, 0)), padding_mode="circular"),
        Conv2d(np.eye(3), (4, 4)).T.T,
    ],
)
def test_singular_problems_are_refused(singular):
    with pytest.raises(np.linalg.LinAlgError, match="damp"):
        tikhonov(singular, np.ones(singular.shape[0]), 0)


def test_a_regularizer_that_misses_what_a_misses():
    differences = Conv2d(np.array([[1.0, -1.0]]), (8, 8), padding=((0, 0), (1, 0)), padding_mode="circular")
    with pytest.raises(np.linalg.LinAlgError):
        tikhonov(differences, np.ones((8, 8)), 0.1, regularizer=differences)


def test_invertible_problems_without_damp():
    weight = np.pad([[4.0]], 1) + 0.2
    for mode in MODES:
        B = Conv2d(weight, (8, 8), padding=1, padding_mode=mode)
        x = np.random.default_rng(0).standard_normal(B.shape[1])
        np.testing.assert_allclose(tikhonov(B, B @ x, 0)[0], x, atol=1e-12)


def test_what_does_not_converge_says_so():
    B = Conv2d(motion(9), (36, 36), padding=4, padding_mode="reflect")
    x, info = tikhonov(B, blurred(B), 1e-3, maxiter=3)
    assert not info.converged
    assert info.iterations == 3
    assert info.relative_residual > 1e-8
    assert isinstance(info, SolveInfo)
    b = B.H @ blurred(B)
    actual = np.linalg.norm(b - normal(B, 1e-3) @ x) / np.linalg.norm(b)
    assert abs(info.relative_residual - actual) <= 1e-9


def test_callback_sees_the_solution_in_its_shape():
    B = Conv2d(motion(9), (36, 36), padding=4, padding_mode="reflect")
    seen = []
    x, info = tikhonov(B, blurred(B).reshape(B.output_shape), 0.05, callback=lambda image: seen.append(image.copy()))
    assert len(seen) == info.iterations
    np.testing.assert_array_equal(seen[-1], x)
    assert seen[0].shape == B.input_shape


def test_a_tiny_damp_is_corrected_or_admitted():
    B = Conv2d(np.multiply.outer(gaussian(9), gaussian(9)), (40, 40), padding=4, padding_mode="reflect")
    y = blurred(B)
    for damp in (1e-5, 1e-8):
        x, info = tikhonov(B, y, damp)
        expected = np.linalg.lstsq(np.vstack([B.toarray(), damp * np.eye(1600)]), np.pad(y, (0, 1600)), rcond=None)[0]
        assert np.abs(x - expected).max() <= 1e-6 * np.abs(expected).max()
        assert info.converged == (info.relative_residual <= 1e-8)


def test_kinds_that_do_not_exist():
    B = Conv2d(np.ones((2, 2, 3, 3)), (8, 8), stride=2)
    for kind in ("kronecker", "dct"):
        with pytest.raises(UnsupportedError):
            INVERSES[kind](problem_of(B, 0.1, None))


# ---------------------------------------------------------------------------------------------- what converged means


def disk(size):
    grid = np.hypot(*np.ogrid[-(size // 2) : size // 2 + 1, -(size // 2) : size // 2 + 1])
    return (grid <= size // 2) / (grid <= size // 2).sum()


def skewed(size):
    """A Gaussian that no product of lines is."""
    weight = np.multiply.outer(gaussian(size, 1.6), gaussian(size, 1.6))
    weight *= 1 + 0.3 * np.sin(np.add.outer(np.arange(size), 0.4 * np.arange(size)))
    return weight / weight.sum()


@functools.cache
def blurred_photo(name, mode, damp):
    """An operator, its data, its normal matrix, and the solution."""
    photo = convmat.plot.photo(256)[100:136, 80:116]
    weight = {"motion": np.eye(9) / 9, "defocus": disk(9), "gaussian": skewed(9)}[name]
    A = Conv2d(weight, photo.shape, padding=4, padding_mode=mode)
    y = A.apply(photo) + 1e-3 * np.random.default_rng(0).standard_normal(photo.shape)
    dense = A.toarray()
    matrix = dense.T @ dense + damp**2 * np.eye(len(dense))
    return A, y, matrix, np.linalg.solve(matrix, dense.T @ y.ravel())


@pytest.mark.parametrize("damp", [0.02, 0.003])
@pytest.mark.parametrize("mode", ["reflect", "zeros", "replicate"])
@pytest.mark.parametrize("name", ["motion", "defocus", "gaussian"])
def test_what_has_converged_is_close_and_no_worse_than_plain_conjugate_gradients(name, mode, damp):
    A, y, matrix, expected = blurred_photo(name, mode, damp)
    for rtol in (1e-1, 1e-2, 1e-3, 1e-4, 1e-8):
        x, info = tikhonov(A, y, damp, rtol=rtol)
        error = x.ravel() - expected
        plain, _ = cg(matrix, A.T @ y.ravel(), rtol=rtol)
        assert info.converged
        assert np.linalg.norm(error) <= np.linalg.norm(plain - expected)
        assert error @ matrix @ error <= (2 * rtol) ** 2 * (expected @ matrix @ expected)  # an estimate: within 2
        assert max(info.relative_residual, info.relative_error) <= rtol


def test_a_photo_that_moved_is_no_worse_than_plain_conjugate_gradients_leave_it():
    photo = convmat.plot.photo(256)
    A = Conv2d(np.eye(9) / 9, photo.shape, padding=4, padding_mode="reflect")
    y = A.apply(photo)
    expected, info = tikhonov(A, y, 0.02, rtol=1e-10)
    right = (A.T @ y.ravel()).reshape(photo.shape)
    residual = A.T.apply(A.apply(expected)) + 0.02**2 * expected - right
    assert np.linalg.norm(residual) <= 1e-9 * np.linalg.norm(right)  # which bounds the error by 2.5e-6, relative
    x, info = tikhonov(A, y, 0.02, rtol=1e-2)
    plain, _ = cg(normal(A, 0.02), right.ravel(), rtol=1e-2)
    assert info.converged
    assert np.linalg.norm(x - expected) <= np.linalg.norm(plain - expected.ravel()) <= 0.2 * np.linalg.norm(expected)


def test_tiny_data_are_not_taken_for_none():
    A = Conv2d(skewed(5), (8, 8), padding=2, padding_mode="reflect")
    y = np.random.default_rng(0).standard_normal((8, 8))
    x, info = tikhonov(A, 1e-165 * y, 0.1)
    assert info.converged
    np.testing.assert_allclose(x.ravel() * 1e165, dense_solution(A, y, 0.1)[0], rtol=1e-8)
