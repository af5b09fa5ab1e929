"""Norms and singular values of operators made of operators, against dense linear algebra of their matrices."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
from scipy import sparse
from scipy.sparse.linalg import svds

from convmat import (
    Conv1d,
    Conv2d,
    Conv3d,
    Crop,
    Diagonal,
    Downsample,
    Pad,
    Rearrange,
    Separable,
    Upsample,
    block_diag,
    conv_matrix,
    hstack,
    identity,
    norm_bounds,
    singular_values,
    svd,
    vstack,
)  # fmt: skip
from convmat.operators.base import ImageOperator, parts_of
from convmat.operators.resampling import average, linear
from convmat.spectrum import bounds, norms
from convmat.spectrum.trees import scaled_operator
from convmat.spectrum.values import DENSE_LIMIT
from tests.trees import DTYPES, Trees

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
    trees = Trees(seed)
    A, _ = trees.tree(3, (2, 4, 3))
    near, exponent = scaled_operator(A)
    assert (near.input_shape, near.output_shape, near.dtype) == (A.input_shape, A.output_shape, A.dtype)
    assert all(np.abs(found).max(initial=0) <= math.sqrt(2) for found in numbers(near))
    tolerance = 1e-5 if trees.single or np.finfo(A.dtype).eps > 1e-10 else 1e-12
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


# bounds ---------------------------------------------------------------------------------------------------------------


class Doubles(Trees):
    """Random expressions whose dense matrices are those of the numbers to the last digits."""

    def numbers(self, shape, dtype=None):
        wide = np.complex128 if np.dtype(dtype or self.pick(*DTYPES)).kind == "c" else np.float64
        return super().numbers(shape, wide)

    def factor(self):
        number = self.pick(2, -1, 0.5, -1.5, 1 + 2j, np.float32(0.5), np.float64(-3.0), np.complex64(1j))
        return number, complex(number) if np.iscomplexobj(number) else float(number)


def assert_enclosed(A, truth, rtol=1e-12):
    lower, upper = norm_bounds(A)
    assert lower <= truth * (1 + rtol)
    assert truth <= upper * (1 + rtol)
    return lower, upper


@pytest.fixture(params=["by decomposition", "by rules"])
def small(request, monkeypatch):
    """Small matrices are decomposed, or not."""
    if request.param == "by rules":
        monkeypatch.setattr(norms, "CHEAP", -1)
        monkeypatch.setattr(bounds, "SMALL", 0)


def check_trees(make, seeds, rtol):
    for seed in seeds:
        A, dense = make(seed).tree(seed % 4, make(seed + 10**6).shape())
        assert_enclosed(A, np.linalg.norm(dense, 2), rtol)


@pytest.mark.parametrize("start", range(0, 320, 40))
def test_the_norm_of_random_expressions_is_between_the_bounds(start, small):
    check_trees(Doubles, range(start, start + 40), 1e-12)


@pytest.mark.parametrize("start", range(0, 160, 40))
def test_the_norm_of_random_expressions_in_mixed_precision_is_between_the_bounds(start, small):
    check_trees(Trees, range(start, start + 40), 1e-5)


RNG = np.random.default_rng(0)
W = Conv2d(RNG.standard_normal((6, 6, 3, 3)), (24, 24), padding=1)  # a matrix of 3,456 rows: too large for an SVD
SKIP = Conv2d(RNG.standard_normal((6, 6, 1, 1)), (24, 24))
NORM = Diagonal(RNG.standard_normal((6, 1, 1)), W.output_shape)


def largest(A):
    matrix = A.tosparse().astype(complex)
    start = np.random.default_rng(1).standard_normal(min(A.shape)).astype(complex)
    return svds(matrix, k=1, return_singular_vectors=False, v0=start, tol=1e-10, ncv=60, maxiter=2000)[0]


def test_a_batch_norm_costs_nothing():
    for A in (W, NORM @ W, W @ NORM, (NORM @ W).T, -3 * (NORM @ W), Rearrange(W.output_shape, 3456) @ NORM @ W):
        lower, upper = assert_enclosed(A, largest(A), 1e-8)
        assert upper <= 1.01 * lower


@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_is_one_convolution(stride):
    A = Conv2d(W.weight, (24, 24), padding=1, stride=stride)
    S = Conv2d(SKIP.weight, (24, 24), stride=stride)
    lower, upper = assert_enclosed(A + S, largest(A + S), 1e-8)
    assert upper <= 1.01 * lower
    assert upper < 0.9 * (norm_bounds(A)[0] + norm_bounds(S)[0])
    sharpened = 2 * S - A
    assert assert_enclosed(sharpened, largest(sharpened), 1e-8)[1] < 0.9 * (norm_bounds(A)[0] + 2 * norm_bounds(S)[0])


def test_the_factors_of_a_convolution_have_the_bounds_of_the_convolution():
    D, C, P = Conv2d(W.weight, (24, 24), padding=1, stride=2, padding_mode="reflect").factors()
    whole = Conv2d(W.weight, (24, 24), padding=1, stride=2, padding_mode="reflect")
    np.testing.assert_allclose(norm_bounds(D @ C @ P), norm_bounds(whole), rtol=1e-9)


@pytest.mark.parametrize(
    "A",
    [
        vstack([W, SKIP]), hstack([W, SKIP]), block_diag([W, 2 * SKIP]), vstack([W, 3 * identity(W.input_shape)]),
        W.T @ W, W @ W.H, W.T @ W + 0.5 * identity(W.input_shape),
        Separable((6, 24, 24), [None, linear(24, 48), linear(24, 20)]) @ W,
    ],
)  # fmt: skip
def test_large_trees_are_enclosed(A):
    lower, upper = assert_enclosed(A, largest(A), 1e-8)
    assert upper <= 2 * lower


def layer(rng, ins, outs, size, taps=3, **options):
    weight = rng.standard_normal((outs, ins // options.get("groups", 1), taps, taps)) / (taps * math.sqrt(ins))
    return Conv2d(weight, (size, size), **{"padding": taps // 2} | options)


def chains():
    rng = np.random.default_rng(5)
    circular = [layer(rng, 3, 3, 24, padding_mode="circular") for _ in range(2)]
    return {
        "circular": circular[0] @ circular[1],
        "circular, strided": layer(rng, 3, 4, 24, padding_mode="circular", stride=2) @ circular[0],
        "residual, circular": identity((3, 24, 24)) + circular[0] @ circular[1],
        "depthwise separable": layer(rng, 16, 8, 24, 1) @ layer(rng, 16, 16, 24, groups=16, padding_mode="reflect"),
        "bottleneck": layer(rng, 4, 16, 20, 1) @ layer(rng, 4, 4, 20) @ layer(rng, 16, 4, 20, 1),
        "no padding": layer(rng, 4, 4, 24, padding=0) @ layer(rng, 4, 4, 26, padding=0),
        "all of the border": layer(rng, 4, 4, 26) @ layer(rng, 4, 4, 24, padding=2),
        "transposed": (layer(rng, 4, 4, 24, padding=0) @ layer(rng, 4, 4, 26, padding=0)).T,
    }


@pytest.mark.parametrize("name", chains())
def test_products_without_a_border_between_them_are_bounded_as_one_convolution(name, monkeypatch):
    monkeypatch.setattr(norms, "affordable", lambda *_: False)  # so nothing is proven by an explicit matrix
    A = chains()[name]
    lower, upper = assert_enclosed(A, largest(A), 1e-8)
    assert upper <= 1.02 * lower


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_products_at_a_border_are_proven_by_their_matrix(count, residual):
    rng = np.random.default_rng(count)
    convs = [layer(rng, 8, 8, 12) for _ in range(count)]
    A = math.prod(convs[1:], start=convs[0]) + (identity(convs[0].input_shape) if residual else 0 * convs[0])
    lower, upper = assert_enclosed(A, np.linalg.norm(A.toarray(), 2), 1e-12)
    assert upper <= (1 + 1e-5) * lower
    assert upper < 0.8 * (math.prod(norm_bounds(conv)[0] for conv in convs) + residual)


def test_stacks_of_filters_are_as_close_as_convolutions():
    rng = np.random.default_rng(8)
    A = vstack([layer(rng, 3, 4, 16, taps) for taps in (1, 3, 5)])
    lower, upper = assert_enclosed(A, largest(A), 1e-8)
    assert upper <= 1.01 * lower


def test_the_border_between_two_layers_may_make_the_product_larger_than_on_a_torus():
    inverse = Conv1d(0.9 ** np.arange(40.0), 40, padding=((0, 39),))
    A = inverse @ Conv1d([1.0, -0.9], 40, padding=((1, 0),))
    waves = np.exp(1j * np.linspace(0, 2 * np.pi, 1000))
    symbol = sum(0.9**k * waves**k for k in range(40)) * (1 - 0.9 * waves)
    truth = np.linalg.norm(A.toarray(), 2)
    assert truth > 1.5 * np.abs(symbol).max()
    assert_enclosed(A, truth, 1e-12)


def test_neighbours_of_a_long_product_are_taken_together(monkeypatch):
    rng = np.random.default_rng(9)
    convs = [layer(rng, 4, 4, 10) for _ in range(5)]
    A = convs[0] @ convs[1] @ convs[2] @ convs[3] @ convs[4]
    monkeypatch.setattr(norms, "MOST_ENTRIES", 0)
    pair, triple = (norms._most_entries(B) for B in (convs[0] @ convs[1], convs[0] @ convs[1] @ convs[2]))
    assert pair < triple
    monkeypatch.setattr(norms, "affordable", lambda _, entries: entries <= pair)
    _, upper = assert_enclosed(A, np.linalg.norm(A.toarray(), 2), 1e-12)
    alone = math.prod(norm_bounds(conv)[0] for conv in convs)
    pairs = [np.linalg.norm((a @ b).toarray(), 2) for a, b in itertools.pairwise(convs)]
    single = [np.linalg.norm(conv.toarray(), 2) for conv in convs]
    best = min(single[0] * pairs[1] * pairs[3], pairs[0] * single[2] * pairs[3], pairs[0] * pairs[2] * single[4])
    assert upper < 0.7 * alone
    assert upper <= 1.01 * best


@pytest.mark.parametrize("seed", range(5))
def test_the_least_over_all_cuts_is_found(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    convs = [layer(rng, 1, 1, 6) for _ in range(7)]
    alone = {id(conv): float(norm) for conv, norm in zip(convs, rng.uniform(1, 2, 7), strict=True)}
    joint = {
        (id(a), id(b)): float(norm)
        for (a, b), norm in zip(itertools.pairwise(convs), rng.uniform(1, 3, 6), strict=True)
    }
    monkeypatch.setattr(norms, "_known", lambda part, rtol: (0.0, alone[id(part)]))
    monkeypatch.setattr(norms, "_together", lambda a, b, apart, rtol: min(apart, joint[id(a), id(b)]))

    def least(at):
        if at == 7:
            return 1.0
        found = alone[id(convs[at])] * least(at + 1)
        return found if at == 6 else min(found, joint[id(convs[at]), id(convs[at + 1])] * least(at + 2))

    assert norms._cut(convs, 0.01) == pytest.approx(least(0), rel=1e-12)


@pytest.mark.parametrize("A", [W @ W, vstack([W, SKIP]), W @ SKIP + SKIP, (W @ W).T, block_diag([W, SKIP @ W])])
def test_entries_of_large_matrices_are_not_underestimated(A, monkeypatch):
    monkeypatch.setattr(norms, "MOST_ENTRIES", 0)
    assert A.tosparse().nnz <= norms._most_entries(A) < math.prod(A.shape)


def test_structure_that_is_exact_has_exact_norms():
    d = RNG.standard_normal((3, 500, 500))
    sine = np.sin(np.outer(np.arange(1, 700), np.arange(1, 700)) * math.pi / 700) * math.sqrt(2 / 700)  # orthogonal
    for A, norm in (
        (Diagonal(d, d.shape), np.abs(d).max()),
        (Rearrange((3, 500, 500), order=(2, 0, 1)), 1),
        (Downsample((500, 500), 3), 1),
        (Upsample((500, 500), 3), 1),
        (Pad((500, 500), 4), 1),
        (Pad((500, 500), 4, padding_mode="reflect"), 2),
        (Crop((500, 500), 4, padding_mode="replicate"), 5),  # the corner stands in 25 places
        (Separable((699, 699), [sine, 2 * sine]), 2),
        (block_diag([Pad((500, 500), 4), 3 * Rearrange((500, 500))]), 3),
        (vstack([3 * identity((500, 500)), 4 * Rearrange((500, 500), order=(1, 0))]), 5),
        (identity((500, 500)).H @ (2j * Pad((500, 500), 4, padding_mode="reflect").T), 4),
    ):
        lower, upper = norm_bounds(A)
        assert lower <= norm * (1 + 1e-12)
        assert norm * (1 - 1e-12) <= upper <= norm * (1 + 1e-11)
    assert norm_bounds(Pad((500, 500), 4, padding_mode="reflect")) == (2, 2)


def test_large_axis_matrices_are_enclosed():
    dense = np.diag(np.linspace(1, 7, 1100)) @ scipy.linalg.dft(1100, scale="sqrtn")
    assert_enclosed(Separable((2, 1100), [None, dense]), 7)
    for matrix in (dense[:700], dense[:, :700], np.zeros((1100, 1000))):
        assert_enclosed(Separable((matrix.shape[1],), [matrix]), np.linalg.norm(matrix, 2))
    smooth = linear(800, 1400)
    lower, upper = assert_enclosed(Separable((800,), [smooth]), np.linalg.norm(smooth.toarray(), 2))
    assert upper <= 1.05 * lower


def test_products_of_weights_of_one_sign_are_enclosed_closely():
    B = Conv2d(np.abs(W.weight), (24, 24), padding=1)
    A = Separable((6, 24, 24), [None, linear(24, 48), average(24, 13)]) @ B @ B
    lower, upper = assert_enclosed(A, largest(A), 1e-8)
    assert upper <= 1.02 * lower


def test_what_cancels_has_a_norm_near_zero():
    lower, upper = norm_bounds(W @ W - W @ W)
    assert lower == 0
    lower, upper = norm_bounds(W - W / 3 - 2 * W / 3)
    assert lower == 0
    assert upper < 1e-10


@pytest.mark.parametrize("exponent", [-1000, -600, 600, 1000])
def test_bounds_of_trees_scale_exactly(exponent):
    c = 2.0**exponent
    for join in (
        lambda B, D: D @ B, lambda B, D: B + D @ B, lambda B, D: vstack([B, D]), lambda B, D: D.T @ B / c,
        lambda B, D: block_diag([B, 3 * D]), lambda B, D: Separable(3456, [sparse.eye_array(3456)]) @ B,
    ):  # fmt: skip
        expected = np.array(norm_bounds(join(W, NORM)))
        big, diagonal = Conv2d(c * W.weight, (24, 24), padding=1), Diagonal(NORM.values, NORM.input_shape)
        if join(W, NORM).shape == W.shape:
            np.testing.assert_array_equal(norm_bounds(c * join(W, NORM)), c * expected)
        else:
            np.testing.assert_array_equal(norm_bounds(join(big, c * diagonal)), c * expected)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_products_beyond_doubles_have_bounds_in_them(scale):
    A = Conv1d([1.0, 2.0, -1.0], 400) * scale
    lower, upper = norm_bounds(A.T @ A)
    assert lower <= (0 if scale < 1 else np.finfo(float).max) <= upper
    truth = largest(Conv1d([1.0, 2.0, -1.0], 400)) ** 2
    assert_enclosed(1 / scale * (A.T @ A) / scale, truth, 1e-8)
    lower, upper = norm_bounds(5e-324 * Rearrange((400,)) @ Conv1d([0.6], 400))
    assert (lower, upper) == (0, 5e-324)


def test_bounds_are_those_of_the_stored_single_precision_weights():
    weight, values = W.weight.astype(np.float32), NORM.values.astype(np.float32)
    A = Diagonal(values, NORM.input_shape) @ Conv2d(weight, (24, 24), padding=1)
    wide = Diagonal(values.astype(float), NORM.input_shape) @ Conv2d(weight.astype(float), (24, 24), padding=1)
    assert norm_bounds(A) == norm_bounds(wide)


class Own(ImageOperator):
    """Twice the identity, by its products alone."""

    def __init__(self, n):
        super().__init__(np.dtype(float), (n,), (n,))

    def _forward(self, x):
        return 2 * x

    _backward = _forward


class Sparse(Own):
    def tosparse(self, format="csr"):
        return 2 * sparse.eye_array(self.shape[0], format=format)


def test_operators_of_others_are_taken_by_their_matrices():
    assert_enclosed(Own(50), 2)
    assert_enclosed(Sparse(5000).T @ Sparse(5000), 4)
    image = RNG.standard_normal((2, 30, 30))
    J = Conv2d(np.zeros((3, 2, 3, 3), dtype=complex), (30, 30)).weight_operator(image)
    for A in (J, J.T, J.H, J.H @ J):
        assert_enclosed(A, np.linalg.norm(A.toarray(), 2))
    with pytest.raises(ValueError, match=r"type Own has no tosparse of its own.*5000 x 5000.*svds"):
        norm_bounds(Own(5000))


def test_numbers_that_are_not_finite_are_refused_wherever_they_stand():
    for A in (NORM @ (math.nan * W), Diagonal([1.0, math.inf], 2), vstack([W, Diagonal(math.nan, (6, 24, 24))])):
        with pytest.raises(ValueError, match=r"A has a (Scaled|Diagonal) with NaN or infinite entries"):
            norm_bounds(A)


# singular values and decompositions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", range(0, 160, 40))
def test_singular_values_of_random_expressions_are_those_of_the_matrix(start):
    for seed in range(start, start + 40):
        A, dense = Doubles(seed).tree(seed % 4, Doubles(seed + 10**6).shape())
        truth = np.linalg.svd(dense, compute_uv=False)
        atol = (1 + truth[0]) * (1e-11 if np.finfo(A.dtype).eps < 1e-10 else 1e-5)
        np.testing.assert_allclose(singular_values(A), truth, rtol=0, atol=atol)
        F = svd(A)
        np.testing.assert_allclose(F.singular_values, truth, rtol=0, atol=atol)
        np.testing.assert_allclose(F.operator() @ np.eye(A.shape[1]), dense, rtol=0, atol=atol)


TORUS = Conv2d(RNG.standard_normal((3, 3, 3, 3)), (40, 40), padding=1, padding_mode="circular")
PER_CHANNEL = Diagonal([[[2.0]], [[-0.5]], [[3.0]]], TORUS.output_shape)
FLAT = Rearrange(TORUS.output_shape, 4800)


def test_a_circular_convolution_is_known_between_reshapes_and_batch_norms():
    A = FLAT @ (-2 * (PER_CHANNEL @ TORUS) + PER_CHANNEL)
    weight = -2 * PER_CHANNEL.values[..., None] * TORUS.weight
    weight[:, :, 1, 1] += np.diag(PER_CHANNEL.values.ravel())
    B = Conv2d(weight, (40, 40), padding=1, padding_mode="circular")
    assert math.prod(A.shape) > DENSE_LIMIT
    np.testing.assert_allclose(singular_values(A), singular_values(B), rtol=1e-11)
    F, x = svd(A), RNG.standard_normal(A.shape[1])
    np.testing.assert_allclose(F.operator() @ x, A @ x, atol=1e-11)
    np.testing.assert_allclose(F.pinv() @ (A @ x), x, atol=1e-9)
    np.testing.assert_allclose(singular_values(A.H @ A), singular_values(B) ** 2, rtol=1e-11)


def test_the_values_of_layers_have_formulas():
    d = RNG.standard_normal((3, 40, 40))
    rows, columns = linear(40, 90).toarray(), RNG.standard_normal((30, 40))
    kron = np.multiply.outer(*(np.linalg.svd(m, compute_uv=False) for m in (rows, columns)))
    for A, values in (
        (Diagonal(d, d.shape), np.abs(d)),
        (2j * Rearrange((3, 40, 40), order=(2, 0, 1)), np.full(4800, 2.0)),
        (Separable((3, 40, 40), [None, rows, columns]), np.repeat(kron, 3)),
        (Rearrange((40, 40), order=(1, 0)) @ Separable((3, 40, 40), [np.ones((1, 3)), None, None]),
         np.full(1600, math.sqrt(3))),
        (block_diag([Diagonal(d, d.shape), 5 * FLAT]), np.concatenate([np.abs(d).ravel(), np.full(4800, 5.0)])),
        (block_diag([Diagonal(d, d.shape), Separable((1600,), [np.ones((1, 1600))])]),
         np.concatenate([np.abs(d).ravel(), [40.0]])),
    ):  # fmt: skip
        expected = np.zeros(min(A.shape))
        expected[: np.size(values)] = np.sort(np.ravel(values))[::-1]
        np.testing.assert_allclose(singular_values(A), expected, atol=1e-11)
    F, x = svd(Diagonal(d, d.shape)), RNG.standard_normal(4800)
    np.testing.assert_allclose(F.operator() @ x, d.ravel() * x, atol=1e-12)
    np.testing.assert_allclose(F.pinv() @ (d.ravel() * x), x, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_values_of_extreme_trees_are_those_of_the_matrix(scale):
    A = PER_CHANNEL @ (scale * TORUS)
    expected = singular_values(PER_CHANNEL @ TORUS)
    np.testing.assert_allclose(singular_values(A) / scale, expected, rtol=1e-11)
    np.testing.assert_allclose(svd(A).singular_values / scale, expected, rtol=1e-11)
    np.testing.assert_allclose(singular_values(A.H @ A / scale / scale), expected**2, rtol=1e-10)


@pytest.mark.parametrize("function", [singular_values, svd])
def test_what_has_no_known_values_is_refused_with_a_way_out(function):
    for A in (W @ W, vstack([TORUS, Diagonal(RNG.standard_normal((3, 40, 40)), (3, 40, 40))])):
        with pytest.raises(ValueError, match=r"none of what has known singular values.*norm_bounds\(A\).*svds"):
            function(A)


@pytest.mark.parametrize("mode", ["replicate", "symmetric", "reflect", "circular", "zeros"])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradient_of_an_image_is_bounded_tightly_whatever_its_border(mode, transposed):
    differences = np.array([[[[-1.0, 0.0], [1.0, 0.0]]], [[[-1.0, 1.0], [0.0, 0.0]]]])
    A = Conv2d(differences, (300, 200), padding=((0, 1), (0, 1)), padding_mode=mode)
    lower, upper = norm_bounds(A.T if transposed else A)
    axes = [conv_matrix([-1.0, 1.0], n, padding=((0, 1),), padding_mode=mode).toarray() for n in (300, 200)]
    if mode in ("replicate", "symmetric", "circular"):  # there the two axes reach their norms on one image
        truth = np.hypot(*(np.linalg.norm(axis, 2) for axis in axes))
        assert lower <= truth * (1 + 1e-12)
        assert truth <= upper * (1 + 1e-12)
    assert upper <= 1.005 * lower


def test_gradient_of_a_volume_is_bounded_tightly():
    kernels = np.zeros((3, 1, 2, 2, 2))
    kernels[:, 0, 0, 0, 0] = -1
    kernels[0, 0, 1, 0, 0] = kernels[1, 0, 0, 1, 0] = kernels[2, 0, 0, 0, 1] = 1
    A = Conv3d(kernels, (24, 22, 20), padding=((0, 1),) * 3, padding_mode="replicate")
    truth = 2 * np.sqrt(sum(np.cos(np.pi / (2 * n)) ** 2 for n in (24, 22, 20)))  # of Neumann's Laplacian
    lower, upper = norm_bounds(A)
    assert lower <= truth <= upper <= 1.001 * lower


@pytest.mark.parametrize("count", [500, 1100, 3000])
def test_powers_beyond_doubles_have_valid_bounds(count):
    shift = Conv1d([0.0, 1.0, 0.0], 7, padding=1)  # the identity, as a kernel whose numbers near 1 are 1/2
    grows = Conv1d([3.0, 5.0, 1.0], 7, padding=1)
    for A, norm in [(shift**count, 1.0), (grows**count, np.inf), (vstack([shift**count, shift]), math.sqrt(2))]:
        lower, upper = norm_bounds(A)
        assert lower <= min(norm, np.finfo(float).max) <= upper
