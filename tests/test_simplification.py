"""An equal operator of fewer parts: what is joined, what is not, and that the matrix stays what it is."""

import numpy as np
import pytest

from convmat import (
    Chain,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Crop,
    Diagonal,
    Downsample,
    Pad,
    Rearrange,
    Separable,
    Upsample,
    block_diag,
    hstack,
    identity,
    simplify,
    vstack,
)
from convmat.operators import Conv, ConvTranspose
from convmat.operators.simplification import condensed
from convmat.operators.stencils import chained
from tests.oracle import MODES
from tests.trees import Trees

RNG = np.random.default_rng(0)


def weight(*shape):
    return RNG.standard_normal(shape)


W = Conv2d(weight(4, 4, 3, 3), (6, 5), padding=1)
BATCH_NORM = Diagonal(weight(4, 1, 1), (4, 6, 5))

JOINED = {
    "convolution and batch norm": lambda: BATCH_NORM @ W,
    "batch norm and convolution": lambda: W @ BATCH_NORM,
    "transposed convolution and batch norm": lambda: BATCH_NORM @ W.T @ BATCH_NORM,
    "batch norm around a strided convolution": lambda: Diagonal(weight(4, 1, 1), (4, 3, 3))
    @ Conv2d(weight(4, 4, 3, 3), (6, 5), stride=2, padding=1, padding_mode="reflect")
    @ BATCH_NORM,
    "a 1 x 1 skip": lambda: W + Conv2d(weight(4, 4, 1, 1), (6, 5)),
    "a strided 1 x 1 skip": lambda: Conv2d(weight(4, 4, 3, 3), (6, 5), padding=1, stride=2)
    + Conv2d(weight(4, 4, 1, 1), (6, 5), stride=2),
    "an identity skip": lambda: W + identity((4, 6, 5)),
    "a batch norm skip": lambda: 2 * W - BATCH_NORM,
    "a depthwise branch": lambda: W + Conv2d(weight(4, 1, 3, 3), (6, 5), padding=1, groups=4),
    "branches of two dilations": lambda: W + Conv2d(weight(4, 4, 3, 3), (6, 5), padding=2, dilation=2),
    "branches of two transposed layers": lambda: W.T + Conv2d(weight(4, 4, 1, 1), (6, 5)).T,
    "branches around a reflected border": lambda: Conv2d(weight(3, 3), (6, 5), padding=1, padding_mode="reflect")
    + Conv2d(weight(5, 1), (6, 5), padding=((2, 2), (0, 0)), padding_mode="reflect"),
    "numbers": lambda: 2 * (-W / 3) * 5,
    "a multiple of a sum": lambda: 3 * (W + identity((4, 6, 5))),
    "a stack": lambda: vstack([W, Conv2d(weight(2, 4, 1, 1), (6, 5))]),
    "a stack side by side": lambda: hstack([W, Conv2d(weight(4, 2, 1, 1), (6, 5))]),
    "a stack of transposed layers": lambda: vstack([W.T, Conv2d(weight(4, 2, 1, 1), (6, 5)).T]),
    "a diagonal of layers": lambda: block_diag([W, W]),
    "the transpose of a sum": lambda: (W + BATCH_NORM).T,
    "one part": lambda: vstack([hstack([W])]),
    "samples before": lambda: Conv2d(weight(3, 2), (3, 3)) @ Downsample((6, 5), 2),
    "samples after": lambda: Downsample((6, 6), (2, 3))
    @ Conv2d(weight(3, 2), (6, 5), padding=((1, 1), (1, 1)), padding_mode="circular"),
    "a crop of the result": lambda: Crop((6, 5), 1) @ Conv2d(weight(3, 3), (6, 5), padding=1, padding_mode="reflect"),
    "a crop of the input": lambda: Conv2d(weight(2, 2), (4, 3)) @ Crop((6, 5), 1),
    "zeros between the samples": lambda: Conv2d(weight(3, 3), (6, 5)).T
    @ Upsample((2, 2), (3, 2), output_size=(4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINED)
def test_these_are_one_convolution(name):
    A = JOINED[name]()
    short = simplify(A)
    assert isinstance(short, Conv | ConvTranspose), short
    assert (short.input_shape, short.output_shape, short.dtype) == (A.input_shape, A.output_shape, A.dtype)
    np.testing.assert_allclose(short.toarray(), A.toarray(), atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flip", [False, True])
def test_product_of_the_factors_is_the_convolution_again(mode, flip):
    A = Conv2d(weight(2, 3, 3, 2), (6, 7), stride=(2, 3), padding=((2, 1), (0, 2)), dilation=(1, 2), padding_mode=mode,
               flip=flip)  # fmt: skip
    short = simplify(Chain(*A.factors()))
    assert type(short) is Conv2d
    assert np.array_equal(short.toarray(), A.toarray())
    back = simplify(Chain(*A.T.factors()))
    assert type(back) is ConvTranspose2d
    assert np.array_equal(back.toarray(), A.toarray().T)


def test_two_differences_without_channels_are_one_layer_between_reshapes():
    across, down = (
        Conv2d([[-1.0, 1.0]], (6, 5), padding=((0, 0), (0, 1))),
        Conv2d([[-1.0], [1.0]], (6, 5), padding=((0, 1), (0, 0))),
    )
    stack = vstack([across, down])
    short = simplify(stack)
    assert [type(part) for part in short.factors()] == [Rearrange, Conv2d, Rearrange]
    assert short.factors()[1].weight.shape == (2, 1, 2, 2)
    assert short.output_shape == stack.output_shape == (12, 5)
    assert np.array_equal(short.toarray(), stack.toarray())


def test_rearrangements_are_one():
    first = Rearrange((4, 6), split=(2, 2, 6), order=(1, 2, 0))
    second = Rearrange((2, 6, 2), (6, 4), order=(1, 0, 2))
    short = simplify(second @ first)
    assert type(short) is Rearrange
    assert np.array_equal(short.toarray(), second.toarray() @ first.toarray())


def test_rearrangement_and_its_transpose_are_the_identity():
    R = Rearrange((4, 6), split=(2, 2, 6), order=(1, 2, 0))
    assert np.array_equal(simplify(R.T @ R).toarray(), np.eye(24))
    S = Separable((4, 6), [weight(3, 4), None])
    assert simplify(S @ R.T @ R) is S


def test_diagonals_are_one():
    d, e = weight(4, 1, 1), weight(6, 5)
    short = simplify(Diagonal(d, (4, 6, 5)) @ Diagonal(e, (4, 6, 5)) + Diagonal(d, (4, 6, 5)))
    assert type(short) is Diagonal
    np.testing.assert_allclose(short.values, np.broadcast_to(d * e + d, (4, 6, 5)), rtol=1e-15)


@pytest.mark.parametrize(
    "A",
    [
        pytest.param(W, id="a convolution"),
        pytest.param(Diagonal(weight(6, 5), (4, 6, 5)) @ W, id="a diagonal that changes from place to place"),
        pytest.param(W + Conv2d(weight(4, 4, 3, 3), (6, 5), padding=1, padding_mode="reflect"), id="two padding modes"),
        pytest.param(W @ W, id="a product"),
        pytest.param(Conv1d([1.0, 1.0], 177) @ Pad(176, ((0, 1),))
                     + Conv1d([1.0, 1.0], 176, dilation=77, padding=((0, 77),)), id="taps far from each other"),
    ],
)  # fmt: skip
def test_these_keep_their_parts(A):
    short = simplify(A)
    assert short is A or len(getattr(short, "terms", tuple)()) == 2


def test_kernels_of_two_strides_are_left_alone():
    first, second = Conv1d([1.0, 1.0], 9, stride=2), Conv1d([1.0], 9, stride=1, padding=((0, -5),))
    assert first.shape == second.shape
    A = first + second
    assert simplify(A) is A


@pytest.mark.parametrize("numbers", [(2.0**600, 2.0**600), (2.0**-600, 2.0**-600)])
def test_numbers_that_would_leave_the_doubles_stay_apart(numbers):
    a, b = numbers
    A = Conv1d([a], 3) @ Diagonal(np.full((), b), 3) @ Diagonal(np.full((), 1 / b), 3)
    assert np.array_equal(simplify(A) @ np.ones(3), np.full(3, a))


def test_method_that_all_parts_ask_for_stays():
    A, B = (Conv2d(weight(3, 3), (6, 5), padding=1, method="fft") for _ in range(2))
    assert simplify(A + B).method == "fft"
    assert simplify(2 * A).method == "fft"


def test_precision_of_the_whole_is_that_of_the_joint_weight():
    single = Conv1d(np.float32([0.1, 0.7]), 5)
    A = np.float64(0.3) * single + Conv1d([0.2], 5, padding=((0, -1),))
    short = simplify(A)
    assert short.dtype == np.float64
    first, second = (0.3 * np.float64(np.float32(w)) for w in (0.1, 0.7))
    np.testing.assert_allclose(short.weight, [first + 0.2, second], rtol=1e-15)


def test_what_is_no_operator_is_refused():
    with pytest.raises(TypeError, match="must be an operator on images"):
        simplify(np.eye(3))


LINE = Conv1d([1e10, 1.0, 0.0], 4, padding=1)


@pytest.mark.parametrize(
    "A",
    [
        1e300 * (LINE - Conv1d([1e10, -1.0, 5e-324], 4, padding=1)) + LINE,
        np.inf * (Conv1d([1.0, 2.0], 4) - Conv1d([5e-324, 1.0], 4)) + Conv1d([1.0, 1.0], 4),
        (1e-155 * Conv1d([1e200, 1e-200], 4)) @ Conv1d([1e200, 1e-200], 5),
        identity(4) + Conv1d([np.inf, 1.0, np.nan], 4, padding=1),
    ],
)
def test_what_is_finite_stays_finite_and_what_is_not_does_not(A):
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_allclose(simplify(A).toarray(), A.toarray(), rtol=1e-12)


@pytest.mark.parametrize("large", [Conv1d([1.5e308], 3), Diagonal([1.5e308], 3)])
def test_a_sum_beyond_the_doubles_stays_a_sum(large):
    A = large + large.T.T
    np.testing.assert_array_equal(simplify(A) @ [0.1, 0.0, 0.25], A @ [0.1, 0.0, 0.25])


def test_terms_that_cannot_be_joined_are_not_transposed(monkeypatch):
    A = sum(Separable((3, 4), [np.full((2, 3), n), None]) for n in range(3))
    monkeypatch.setattr(Separable, "_flipped", None)
    assert simplify(A) is A


def random_pair(rng, ndim):
    """Two convolutions one after the other, at borders of all kinds, or None where there is no such geometry."""
    size = tuple(int(n) for n in rng.integers(3, 10 if ndim == 1 else 6, ndim))
    conv, found = {1: Conv1d, 2: Conv2d}[ndim], []
    for ins, outs in ((4, 2), (2, 6)):
        groups = int(rng.integers(1, 3))
        weight = rng.standard_normal((outs, ins // groups, *rng.integers(1, 5, ndim)))
        stride, dilation = (tuple(int(n) for n in rng.integers(1, 3, ndim)) for _ in range(2))
        padding = tuple((int(lo), int(hi)) for lo, hi in rng.integers(-1, 4, (ndim, 2)))
        mode = str(rng.choice(["zeros", "zeros", "circular", "reflect", "antireflect"]))
        try:
            A = conv(weight, size, stride=stride, dilation=dilation, padding=padding, groups=groups, padding_mode=mode)
        except ValueError:
            return None
        found.append(A)
        size = A.geometry.output_size
    return found[1], found[0]


@pytest.mark.parametrize("ndim", [1, 2])
def test_products_that_are_one_convolution_have_the_matrix_of_the_product(ndim):
    rng = np.random.default_rng(ndim)
    pairs = [pair for _ in range(1500) if (pair := random_pair(rng, ndim)) is not None]
    joint = [(A, B, C) for A, B in pairs if (C := chained(A, B, np.inf)) is not None]
    assert len(joint) > len(pairs) / 20
    for A, B, C in joint:
        np.testing.assert_allclose(C.toarray(), A.toarray() @ B.toarray(), atol=1e-11)
        assert (C.input_shape, C.output_shape) == (B.input_shape, A.output_shape)


@pytest.mark.parametrize("start", range(0, 120, 40))
def test_condensed_expressions_have_the_matrix_of_the_expression(start):
    for seed in range(start, start + 40):
        trees = Trees(seed)
        A, dense = trees.tree(3, trees.shape())
        B = condensed(A)
        assert (B.input_shape, B.output_shape) == (A.input_shape, A.output_shape)
        tolerance = 1e-4 if trees.single or np.finfo(A.dtype).eps > 1e-10 else 1e-10
        np.testing.assert_allclose(B.toarray(), dense, rtol=tolerance, atol=tolerance * np.abs(dense).max())


def test_products_whose_kernel_would_be_much_larger_stay_apart():
    A, B = (Conv1d(np.ones((1, 1, 3)), 60, padding_mode="circular", padding=d, dilation=d) for d in (9, 1))
    assert condensed(A @ B).weight.size == 21
    wide, narrow = Conv2d(np.ones((20, 1, 3, 3)), (9, 9)), Conv2d(np.ones((1, 20, 3, 3)), (11, 11))
    assert condensed(wide @ narrow).factors() == (wide, narrow)
