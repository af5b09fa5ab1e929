"""A block is a box of A x by itself: to the last bit where outputs are computed one by one, and else to rounding."""

import copy
import itertools
import math
import pickle
import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import convmat
from convmat import conv_matrix
from convmat.operators import resampling
from convmat.operators.base import _Conjugated, parts_of
from convmat.operators.blocks import Block, needs_whole
from convmat.operators.weights import TransposeWeightOperator, WeightOperator
from convmat.products import direct, lowering, usable
from tests import oracle
from tests.strategies import CONV, DTYPES, layers, transposed_layers, tries
from tests.trees import Trees

POINTWISE = [method for method in ("matrix", "direct", "gemm") if method in usable()]
each_pointwise = pytest.mark.parametrize("method", POINTWISE)
each_mode = pytest.mark.parametrize("mode", oracle.MODES)
either = pytest.mark.parametrize("transposed", [False, True], ids=["A", "A.T"])
SLOW = [pytest.param(chunk, marks=pytest.mark.slow) for chunk in range(4, 40)]


def normal(rng, shape, dtype=np.float64):
    """Numbers whose products and sums are rounded."""
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return np.asarray(values).astype(dtype)


def rounded(layer):
    """A layer with weights that are no whole numbers."""
    return replace(layer, weight=normal(layer.rng(), layer.weight.shape, layer.dtype))


def some_box(rng, shape):
    starts = [int(rng.integers(0, size)) for size in shape]
    return tuple(slice(a, int(rng.integers(a + 1, size + 1))) for a, size in zip(starts, shape, strict=True))


@st.composite
def boxes(draw, shape):
    starts = [draw(st.integers(0, size - 1)) for size in shape]
    return tuple(slice(a, draw(st.integers(a + 1, size))) for a, size in zip(starts, shape, strict=True))


def agrees(found, wanted, method, scale=1.0):
    """To the last bit, by methods that compute each output by itself; else to rounding."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if method in POINTWISE:
        return np.array_equal(found, wanted, equal_nan=True)
    return bool(np.abs(found - wanted).max() <= 200 * np.finfo(wanted.dtype).eps * scale)


def check(A, x, box):
    whole, block = A.apply(x), A.block(box)
    assert block.operator.input_shape == block.read(x).shape[-len(A.input_shape) :]
    scale = np.abs(A.weight).sum() * np.abs(x).max()
    assert agrees(block.operator.apply(block.read(x)), whole[(..., *box)], A.method, scale)


def rows_of(A, box):
    """The numbers of the rows of the matrix that a box of outputs is."""
    return np.arange(A.shape[0]).reshape(A.output_shape)[box].ravel()


# --- convolutions ---------------------------------------------------------------------------------------------------


@tries(300)
@given(layer=layers(), method=st.sampled_from(POINTWISE), data=st.data())
def test_a_block_is_that_box_of_the_product(layer, method, data):
    A = rounded(layer).operator(method=method)
    check(A, normal(layer.rng(), A.input_shape, layer.dtype), data.draw(boxes(A.output_shape)))


@tries(300)
@given(layer=layers(), method=st.sampled_from(POINTWISE), data=st.data())
def test_a_block_of_the_transpose_is_that_box_of_its_product(layer, method, data):
    A = rounded(layer).operator(method=method).T
    check(A, normal(layer.rng(), A.input_shape, layer.dtype), data.draw(boxes(A.output_shape)))


@tries(100)
@given(case=transposed_layers(), method=st.sampled_from(POINTWISE), data=st.data())
def test_a_block_of_a_transposed_layer_is_that_box_whatever_its_output_padding(case, method, data):
    layer, size, extra, _ = case
    kind = convmat.ConvTranspose1d, convmat.ConvTranspose2d, convmat.ConvTranspose3d
    weight = rounded(layer).weight
    A = kind[layer.ndim - 1](weight, size, output_padding=extra, method=method, **layer.options)
    check(A, normal(layer.rng(), A.input_shape, layer.dtype), data.draw(boxes(A.output_shape)))
    check(A.T, normal(layer.rng(), A.output_shape, layer.dtype), data.draw(boxes(A.input_shape)))


@tries(100)
@given(layer=layers(), method=st.sampled_from(["fft", "separable", "auto"]), data=st.data())
def test_a_block_is_that_box_to_rounding_by_the_methods_that_mix_outputs(layer, method, data):
    A = rounded(layer).operator(method=method)
    for B in (A, A.T):
        check(B, normal(layer.rng(), B.input_shape, layer.dtype), data.draw(boxes(B.output_shape)))


LARGE = {1: 300, 2: 40, 3: 12}


def large_layer(rng, method):
    """A layer on an image of many windows, of any geometry."""
    ndim = int(rng.choice([1, 2, 2, 3]))
    while True:
        size, stride, dilation, taps = (
            tuple(int(n) for n in rng.integers(1, most, ndim)) for most in (LARGE[ndim], 5, 4, 6)
        )
        padding = tuple((int(a), int(b)) for a, b in rng.integers(-2, 7, (ndim, 2)))
        padded = [n + lo + hi for n, (lo, hi) in zip(size, padding, strict=True)]
        if all(p > d * (k - 1) for p, d, k in zip(padded, dilation, taps, strict=True)):
            break
    groups = int(rng.integers(1, 4))
    channels = (groups * int(rng.integers(1, 4)), int(rng.integers(1, 4))) if rng.random() < 0.7 else ()
    weight = normal(rng, (*channels, *taps), rng.choice(DTYPES[:4]))
    return CONV[ndim](
        weight, size, stride=stride, dilation=dilation, padding=padding, groups=groups if channels else 1,
        padding_mode=str(rng.choice(oracle.MODES)), flip=bool(rng.random() < 0.3), method=method,
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [*range(4), *SLOW])
@each_pointwise
def test_blocks_of_large_images_are_to_the_last_bit_however_they_are_cut_into_tiles(method, chunk, monkeypatch):
    rng = np.random.default_rng(1000 * chunk + len(method))
    if chunk % 2:  # several tiles, several cuts of a line, and lines that are not joined
        monkeypatch.setattr(lowering, "TILE_BYTES", 2**11)
        monkeypatch.setattr(lowering, "PIECE_WORK", 2**10)
        monkeypatch.setattr(direct, "TILE_BYTES", 2**10)
        monkeypatch.setattr(direct, "CUT_BYTES", 2**11)
        monkeypatch.setattr(direct, "NARROW", 16)
    if chunk % 4 > 1:
        monkeypatch.setattr(direct, "JOINED_BYTES", 2**10)
    for _ in range(30):
        A = large_layer(rng, method)
        for B in (A, A.T):
            check(B, normal(rng, B.input_shape, B.dtype), some_box(rng, B.output_shape))


def test_one_of_those_has_several_tiles_and_several_cuts(monkeypatch):
    monkeypatch.setattr(lowering, "TILE_BYTES", 2**11)
    monkeypatch.setattr(direct, "CUT_BYTES", 2**11)
    monkeypatch.setattr(direct, "NARROW", 16)
    A = convmat.Conv2d(np.ones((3, 3)), (30, 200), padding=1)
    assert len(lowering.Lowering(A.geometry, 8).tiles) > 30
    line = direct.layout(A.geometry, False, 8)[1]
    assert len(direct._cuts(line, direct._width(line, 1, 3, 8))[0]) > 1


@each_mode
@each_pointwise
@either
def test_blocks_that_share_no_output_make_up_the_whole(method, mode, transposed):
    rng = np.random.default_rng(5)
    A = convmat.Conv2d(normal(rng, (6, 2, 4, 3)), (37, 29), stride=(2, 3), padding=((4, 5), (1, 2)), dilation=(2, 1),
                       groups=3, padding_mode=mode, method=method)  # fmt: skip
    A = A.T if transposed else A
    x = normal(rng, (2, *A.input_shape))
    whole = A.apply(x)
    cuts = [sorted({0, size, *rng.integers(1, size, 3).tolist()}) for size in A.output_shape]
    put = np.full_like(whole, np.nan)
    for box in itertools.product(*([slice(a, b) for a, b in itertools.pairwise(ends)] for ends in cuts)):
        block = A.block(box)
        put[(..., *box)] = block.operator.apply(block.read(x))
    assert np.array_equal(put, whole)


@each_mode
@each_pointwise
@either
def test_what_a_block_does_not_read_makes_no_difference_to_it(method, mode, transposed):
    rng = np.random.default_rng(6)
    A = convmat.Conv2d(normal(rng, (4, 2, 3, 4)), (31, 23), stride=(1, 2), padding=((3, 1), (2, 4)), groups=2,
                       padding_mode=mode, method=method)  # fmt: skip
    A = A.T if transposed else A
    x = normal(rng, A.input_shape)
    whole = A.apply(x)
    for _ in range(8):
        box = some_box(rng, A.output_shape)
        block = A.block(box)
        read = np.ix_(*(np.concatenate([np.arange(n)[piece] for piece in pieces])
                        for n, pieces in zip(A.input_shape, block.inputs, strict=True)))  # fmt: skip
        poisoned = np.full_like(x, np.nan)
        poisoned[read] = x[read]
        assert np.array_equal(block.read(x), x[read])
        assert np.array_equal(A.apply(poisoned)[box], whole[box])


@each_mode
@either
def test_a_block_reads_its_window_and_at_most_the_borders(mode, transposed):
    A = convmat.Conv2d(np.ones((5, 3)), (10**5, 10**6), padding=2, padding_mode=mode)
    A = A.T if transposed else A
    along = [[slice(a, a + 8) for a in (0, 1, 5000, n - 9, n - 8)] for n in A.output_shape]
    for box in itertools.product(*along):
        operator, inputs = A.block(box)
        assert max(operator.input_shape) <= 8 + 4 + 2 * 4
        assert all(len(ranges) <= 2 for ranges in inputs)
    columns = slice(5000, 5010) if transposed else slice(4998, 5008)
    assert A.block((slice(5000, 5008), slice(5000, 5008))).inputs == ((slice(4998, 5010),), (columns,))


@pytest.mark.parametrize("method", usable())
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@either
def test_channels_are_cut_anywhere_in_their_groups(groups, method, transposed):
    rng = np.random.default_rng(groups)
    A = convmat.Conv1d(normal(rng, (12, 6 // groups, 3)), 11, padding=1, groups=groups, method=method)
    A = A.T if transposed else A
    x = normal(rng, A.input_shape)
    for a, b in itertools.combinations(range(A.output_shape[0] + 1), 2):
        check(A, x, (slice(a, b), slice(2, 9)))
    per, each = (6 // groups, 12 // groups) if transposed else (12 // groups, 6 // groups)
    for group in range(groups):
        alone = slice(per * group, per * group + 1), slice(2, 9)
        assert A.block(alone).inputs[0] == (slice(each * group, each * group + each),)
        several = A.block((slice(per * group, None), slice(2, 9))).operator
        assert type(several) is type(A)
        assert several.geometry.groups == groups - group


@each_pointwise
@either
def test_a_block_of_a_block_is_that_box_of_the_whole(method, transposed):
    rng = np.random.default_rng(7)
    for _ in range(25):
        A = large_layer(rng, method)
        A = A.T if transposed else A
        x = normal(rng, A.input_shape, A.dtype)
        outer = A.block(box := some_box(rng, A.output_shape))
        inner = outer.operator.block(small := some_box(rng, outer.operator.output_shape))
        found = inner.operator.apply(inner.read(outer.read(x)))
        assert np.array_equal(found, A.apply(x)[box][small])
        last = inner.operator.block(tiny := some_box(rng, inner.operator.output_shape))
        found = last.operator.apply(last.read(inner.read(outer.read(x))))
        assert np.array_equal(found, A.apply(x)[box][small][tiny])


@tries(150)
@given(layer=layers(), data=st.data())
def test_the_matrix_of_a_block_is_those_rows_of_the_matrix(layer, data):
    A = rounded(layer).operator()
    for B in (A, A.T):
        block = B.block(box := data.draw(boxes(B.output_shape)))
        found, wanted = block.tosparse(B.input_shape), B.tosparse()[rows_of(B, box)]
        assert found.has_canonical_format
        assert found.indices.dtype == wanted.indices.dtype
        for name in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@tries(60)
@given(layer=layers(), data=st.data())
def test_the_operator_of_a_block_has_a_transpose_a_matrix_and_blocks_of_its_transpose(layer, data):
    A = rounded(layer).operator()
    for B in (A, A.T):
        operator = B.block(data.draw(boxes(B.output_shape))).operator
        dense, scale = operator.toarray(), np.abs(B.weight).sum()
        y = normal(layer.rng(), operator.output_shape, layer.dtype)
        back = operator.T.apply(y)
        assert agrees(back, (dense.T @ y.ravel()).reshape(back.shape), "rounded", scale * np.abs(y).max())
        part = operator.T.block(box := data.draw(boxes(operator.input_shape)))
        assert agrees(part.operator.apply(part.read(y)), back[box], "rounded", scale * np.abs(y).max())


def test_a_block_is_computed_by_the_method_of_the_whole():
    weight = np.ones((4, 4, 3, 3))
    for method in (*usable(), "auto", "pointwise"):
        A = convmat.Conv2d(weight, (200, 200), padding=1, method=method)
        assert A.block((slice(0, 4), slice(3, 9), slice(3, 9))).operator.method == A.method
        assert A.T.block((slice(0, 4), slice(3, 9), slice(3, 9))).operator.method == A.T.method


def test_a_block_of_each_direction_has_the_method_of_that_direction(monkeypatch):
    A = convmat.Conv1d(np.ones(3), 40)
    monkeypatch.setattr(A._products, "_chosen", ("gemm", "matrix"))
    assert (A.block(slice(3, 9)).operator.method, A.T.block(slice(3, 9)).operator.method) == ("gemm", "matrix")


@each_mode
def test_the_operator_of_a_block_inside_is_a_layer_of_the_same_kind_and_no_more(mode):
    A = convmat.Conv2d(np.ones((4, 4, 3, 3)), (20, 20), padding=1, padding_mode=mode)
    box = slice(0, 4), slice(3, 9), slice(3, 9)
    assert type(A.block(box).operator) is convmat.Conv2d
    assert type(A.T.block(box).operator) is convmat.ConvTranspose2d
    assert A.block(tuple(slice(0, n) for n in A.output_shape)).operator.shape == A.shape


@pytest.mark.parametrize("value", [np.nan, np.inf])
@either
def test_weights_that_are_not_finite_pass_through_blocks(value, transposed):
    rng = np.random.default_rng(8)
    weight = normal(rng, (3, 3))
    weight[1, 2] = value
    A = convmat.Conv2d(weight, (9, 8), padding=2, padding_mode="reflect", method="gemm" if transposed else "auto")
    A = A.T if transposed else A
    x = normal(rng, A.input_shape)
    with np.errstate(invalid="ignore"):
        whole = A.apply(x)
        for _ in range(10):
            block = A.block(box := some_box(rng, A.output_shape))
            assert np.array_equal(block.operator.apply(block.read(x)), whole[box], equal_nan=True)


# --- what is shared -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [method for method in usable() if method != "gemm"])
@each_mode
@either
def test_parts_that_are_alike_share_their_weight_and_their_plans(method, mode, transposed):
    A = convmat.Conv2d(np.ones((4, 2, 3, 3)), (90, 80), padding=1, groups=2, padding_mode=mode, method=method)
    A = A.T if transposed else A
    boxes = [(slice(0, 2), slice(a, a + 7), slice(b, b + 9)) for a, b in ((10, 20), (11, 30), (60, 12))]
    first, *others = (A.block(box).operator for box in boxes)
    for other in others:
        assert other._products is first._products
    assert A.block((slice(0, 2), slice(10, 18), slice(20, 29))).operator._products is not first._products
    assert A.block((slice(2, 4), slice(10, 17), slice(20, 29))).operator.weight is not first.weight


def test_parts_whose_rounding_depends_on_their_place_share_with_those_of_the_same_place_alone():
    A = convmat.Conv1d(np.ones(3), 200, method="gemm")
    assert A.block(slice(5, 9)).operator._products is A.block(slice(5, 9)).operator._products
    assert A.block(slice(5, 9)).operator._products is not A.block(slice(6, 10)).operator._products


def test_no_more_parts_are_kept_than_were_used_of_late(monkeypatch):
    monkeypatch.setattr("convmat.products._PARTS", 3)
    A = convmat.Conv1d(np.ones(3), 200)
    parts = [A.block(slice(10, stop)).operator._products for stop in (20, 30, 40)]
    assert A.block(slice(10, 20)).operator._products is parts[0]
    A.block(slice(10, 50))  # in whose place the one of 30 goes
    assert len(A._products._parts) == 3
    assert A.block(slice(10, 20)).operator._products is parts[0]
    assert A.block(slice(10, 40)).operator._products is parts[2]
    assert A.block(slice(10, 30)).operator._products is not parts[1]
    for stop in range(60, 100):
        A.block(slice(10, stop))
        A.T.block(slice(10, stop))
        assert len(A._products._parts) <= 3


# --- images ---------------------------------------------------------------------------------------------------------


@each_pointwise
@either
def test_a_block_reads_batches_of_images(method, transposed):
    rng = np.random.default_rng(9)
    A = convmat.Conv2d(normal(rng, (2, 3, 3, 3)), (15, 14), padding=3, padding_mode="circular", method=method)
    A = A.T if transposed else A
    block = A.block(box := (slice(0, 2), slice(0, 5), slice(3, 13)))
    for batch in ((), (4,), (2, 3), (1, 0)):
        x = normal(rng, (*batch, *A.input_shape))
        read = block.read(x)
        assert read.shape == (*batch, *block.operator.input_shape)
        assert np.array_equal(block.operator.apply(read), A.apply(x)[(..., *box)])


@pytest.mark.parametrize("dtype", [np.int8, np.bool_, np.float32, np.complex64, np.complex128])
@each_pointwise
def test_a_block_takes_images_of_every_dtype_as_the_whole_does(method, dtype):
    rng = np.random.default_rng(10)
    A = convmat.Conv1d(normal(rng, (2, 2, 3), np.float32), 40, padding=2, padding_mode="reflect", method=method)
    for B in (A, A.T):
        x = (9 * normal(rng, B.input_shape, np.complex128 if np.dtype(dtype).kind == "c" else np.float64)).astype(dtype)
        block = B.block(box := (slice(0, 2), slice(0, 11)))
        assert agrees(block.operator.apply(block.read(x)), B.apply(x)[box], method)


def test_what_is_read_is_a_view_where_it_is_one_range_of_each_axis():
    A = convmat.Conv2d(np.ones((3, 3)), (20, 20), padding=1, padding_mode="circular")
    x = np.zeros((2, 20, 20))
    assert np.shares_memory(A.block((slice(3, 9), slice(3, 9))).read(x), x)
    assert not np.shares_memory(A.block((slice(3, 9), slice(0, 9))).read(x), x)
    assert A.block((slice(3, 9), slice(3, 9))).read(x[0].tolist()).shape == (8, 8)


@each_pointwise
def test_a_block_is_pickled_and_copied(method):
    rng = np.random.default_rng(11)
    of = convmat.Conv2d(normal(rng, (6, 2, 3, 3)), (15, 14), padding=3, padding_mode="circular", groups=3, stride=2,
                        method=method)  # fmt: skip
    for A in (of, of.T):
        x = normal(rng, A.input_shape)
        for box in [some_box(rng, A.output_shape) for _ in range(5)]:
            block = A.block(box)
            for other in (pickle.loads(pickle.dumps(block)), copy.copy(block), copy.deepcopy(block)):
                assert type(other) is Block
                assert other.inputs == block.inputs
                assert np.array_equal(other.operator.apply(other.read(x)), A.apply(x)[box])
                inner = other.operator.block(small := some_box(rng, other.operator.output_shape))
                assert np.array_equal(inner.operator.apply(inner.read(other.read(x))), A.apply(x)[box][small])


# --- other operators ------------------------------------------------------------------------------------------------


def has_weights(A):
    """Whether an operator is, or is made of, one on the weights of a layer."""
    return isinstance(A, WeightOperator | TransposeWeightOperator) or any(map(has_weights, parts_of(A)))


@pytest.mark.parametrize("chunk", [*range(4), *SLOW])
def test_blocks_of_random_expressions_are_those_rows_of_their_matrices(chunk):
    made = 0
    for seed in range(60 * chunk, 60 * chunk + 60):
        trees = Trees(seed)
        A, dense = trees.tree(trees.integer(0, 4), trees.shape())
        rng = np.random.default_rng(seed)
        for B, matrix in ((A, dense), (A.T, dense.T), (A.H, dense.conj().T)):
            if has_weights(B):
                continue
            made += 1
            block = B.block(box := some_box(rng, B.output_shape))
            x = normal(rng, B.input_shape, B.dtype)
            y = (matrix @ x.ravel()).reshape(B.output_shape)[box]
            found = block.operator.apply(block.read(x))
            assert (found.shape, found.dtype) == (y.shape, B.dtype), seed
            single = trees.single or x.real.itemsize == 4
            tolerance = (1e-4 if single else 1e-12) * max(1, np.abs(matrix).sum(axis=1).max() * np.abs(x).max())
            assert np.abs(found - y).max() <= tolerance, seed
            rows = block.tosparse(B.input_shape)
            assert rows.shape == (y.size, B.shape[1]), seed
            assert np.abs(rows.toarray() - matrix[rows_of(B, box)]).max() <= tolerance, seed
            for n, pieces in zip(B.input_shape, block.inputs, strict=True):
                ends = [end for piece in pieces for end in (piece.start, piece.stop)]
                assert 0 <= ends[0] < ends[-1] <= n, seed
                assert ends == sorted(set(ends)), seed
            again = block.operator.block(inner := some_box(rng, found.shape))
            assert np.abs(again.operator.apply(again.read(block.read(x))) - y[inner]).max() <= tolerance, seed
    assert made > 140


@pytest.mark.parametrize("chunk", range(2))
def test_blocks_of_the_factors_of_a_layer_are_to_the_last_bit(chunk):
    rng = np.random.default_rng(chunk)
    for _ in range(25):
        A = large_layer(rng, "matrix")
        for factor in (*A.factors(), *A.T.factors()):
            x = normal(rng, factor.input_shape, factor.dtype)
            block = factor.block(box := some_box(rng, factor.output_shape))
            rounding = isinstance(factor, convmat.Correlate | type(convmat.Correlate(np.ones(1), 1).T) | convmat.Crop)
            found, wanted = block.operator.apply(block.read(x)), factor.apply(x)[box]
            if not rounding:
                assert np.array_equal(found, wanted)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 if wanted.real.itemsize == 4 else 1e-12)


def test_a_block_of_an_expression_reads_a_neighbourhood():
    size = (1000, 900)
    A = convmat.Conv2d(np.ones((3, 3)), size, padding=1, padding_mode="circular")
    B = convmat.Conv2d(np.ones((5, 3)), size, padding=(2, 1), padding_mode="reflect")
    D = convmat.Diagonal(np.arange(900.0), size)
    for made, most in (
        (A @ B, 6), (A.T @ D @ A, 4), (A + B, 4), (2 * A - D, 2), (convmat.vstack([A, B]), 4), (A.H @ B.T @ A, 8),
    ):  # fmt: skip
        operator, inputs = made.block((slice(400, 410), slice(500, 510)))
        assert all(len(ranges) == 1 and ranges[0].stop - ranges[0].start <= 10 + most for ranges in inputs)
        assert operator.output_shape == (10, 10)
    both = convmat.vstack([A, B]).block((slice(990, 1010), slice(500, 510)))
    assert len(both.inputs[0]) == 2
    assert convmat.vstack([A, B]).block((slice(400, 410), slice(500, 510))).operator.shape == (100, 12 * 12)
    first = convmat.block_diag([A, B]).block((slice(400, 410), slice(500, 510)))
    assert first.inputs == A.block((slice(400, 410), slice(500, 510))).inputs


def test_expressions_of_large_images_have_blocks_on_every_side():
    rng = np.random.default_rng(12)
    size = (61, 47)
    A = convmat.Conv2d(normal(rng, (5, 4)), size, padding=((3, 1), (2, 1)), padding_mode="circular")
    B = convmat.Conv2d(normal(rng, (3, 3)), size, padding=1, padding_mode="symmetric")
    C = convmat.Conv2d(normal(rng, (3, 3)), size, padding=1, stride=2)
    D = convmat.Diagonal(normal(rng, (1, 47)), size)
    flat = convmat.Rearrange(size, math.prod(size))
    for made in (A @ B, A.T @ B @ A, C @ A @ D, C.T @ C, A + B, A - 2j * D, convmat.vstack([A, C @ B, D]),
                 convmat.hstack([A, B]), convmat.block_diag([A, C.T]), (A @ B).T @ A, A.T @ A + 0.5 * B.T @ B,
                 convmat.vstack([flat @ A, C.block((slice(0, 9), slice(0, 5))).operator @ convmat.Pad(
                     size, ((0, 18 - 61), (0, 10 - 47)))])):  # fmt: skip
        for of in (made, made.T, made.H):
            x = normal(rng, of.input_shape, of.dtype)
            whole = of.apply(x)
            for _ in range(6):
                block = of.block(box := some_box(rng, of.output_shape))
                found = block.operator.apply(block.read(x))
                assert found.dtype == whole.dtype
                np.testing.assert_allclose(found, whole[box], rtol=0, atol=1e-12 * np.abs(whole).max())


def test_the_conjugate_of_an_operator_has_the_conjugate_blocks():
    rng = np.random.default_rng(18)
    A = convmat.Conv1d(normal(rng, 3, np.complex128), 20, padding=1)
    x = normal(rng, 20, np.complex128)
    block = _Conjugated(A).block(slice(4, 11))
    assert np.array_equal(block.operator.apply(block.read(x)), A.apply(x.conj()).conj()[4:11])


def grouped(rng, sizes):
    """Sizes in a row, multiplied together in groups."""
    ends = sorted({len(sizes), *(int(n) for n in rng.integers(1, len(sizes) + 1, 2))})
    return tuple(math.prod(sizes[a:b]) for a, b in itertools.pairwise([0, *ends]))


def test_blocks_of_what_moves_samples_are_exact():
    rng = np.random.default_rng(13)
    for _ in range(150):
        split = [int(n) for n in rng.integers(1, 6, rng.integers(1, 6))]
        order = rng.permutation(len(split)) if rng.random() < 0.8 else np.arange(len(split))
        R = convmat.Rearrange(grouped(rng, split), grouped(rng, [split[a] for a in order]), split=split,
                              order=[int(a) for a in order])  # fmt: skip
        x = np.arange(float(R.shape[1])).reshape(R.input_shape)
        for of, image in ((R, x), (R.T, R.apply(x))):
            block = of.block(box := some_box(rng, of.output_shape))
            assert np.array_equal(block.operator.apply(block.read(image)), of.apply(image)[box])


def test_shapes_that_no_axes_are_made_of_are_read_whole():
    R = convmat.Rearrange((6, 10), (4, 15))
    block = R.block((slice(1, 2), slice(3, 7)))
    x = np.arange(60.0).reshape(6, 10)
    assert np.array_equal(block.operator.apply(block.read(x)), R.apply(x)[1:2, 3:7])


def test_a_block_of_a_pixel_shuffle_reads_what_it_moves():
    shuffle = convmat.Rearrange((4, 50, 60), (100, 120), split=(2, 2, 50, 60), order=(2, 0, 3, 1))
    block = shuffle.block((slice(20, 30), slice(40, 44)))
    assert block.inputs == ((slice(0, 4),), (slice(10, 15),), (slice(20, 22),))
    assert shuffle.block((slice(20, 21), slice(41, 42))).inputs == ((slice(1, 2),), (slice(10, 11),), (slice(20, 21),))
    assert shuffle.T.block((slice(1, 3), slice(7, 9), slice(4, 5))).inputs == ((slice(14, 18),), (slice(8, 10),))
    x = np.arange(12000.0).reshape(4, 50, 60)
    assert np.array_equal(block.operator.apply(block.read(x)), shuffle.apply(x)[20:30, 40:44])


@pytest.mark.parametrize("make", [resampling.nearest, resampling.linear, resampling.cubic, resampling.average])
@pytest.mark.parametrize("output", [17, 100, 333])
def test_blocks_of_resampling_read_a_neighbourhood_and_are_exact(make, output):
    rng = np.random.default_rng(output)
    S = convmat.Separable((3, 100, 5), [None, make(100, output), rng.standard_normal((4, 5))])
    for of in (S, S.T):
        x = rng.standard_normal(of.input_shape)
        for _ in range(5):
            block = of.block(box := some_box(rng, of.output_shape))
            np.testing.assert_allclose(block.operator.apply(block.read(x)), of.apply(x)[box], rtol=1e-12, atol=1e-12)
    operator, inputs = S.block((slice(1, 2), slice(output // 2, output // 2 + 3), slice(0, 2)))
    assert inputs[0] == (slice(1, 2),)
    assert inputs[2] == (slice(0, 5),)
    assert operator.input_shape[1] <= 3 * 100 / output + 6


def test_a_selection_without_entries_reads_something():
    S = convmat.Separable(6, [sparse.csr_array((4, 6))])
    block = S.block(slice(1, 3))
    assert np.array_equal(block.operator.apply(block.read(np.ones(6))), np.zeros(2))


# --- what is refused ------------------------------------------------------------------------------------------------

LAYER = convmat.Conv2d(np.ones((3, 2, 3, 3)), (8, 7))  # (2, 8, 7) -> (3, 6, 5)
ALL = slice(None)


@pytest.mark.parametrize(
    "outputs",
    [3, None, "all", (0, 1, 2), (ALL, ALL, 1), [ALL, 2, ALL], (ALL, ALL, None), Ellipsis, {0: ALL}, (ALL, ALL, (0, 2))],
    ids=repr,
)
def test_outputs_that_are_no_slices_are_a_type_error(outputs):
    with pytest.raises(TypeError) as caught:
        LAYER.block(outputs)
    assert f"outputs={outputs!r}" in str(caught.value)
    assert "one for each axis of (3, 6, 5)" in str(caught.value)


@pytest.mark.parametrize("along", [slice(0.5, 3), slice("a", None), slice(None, 4.0), slice(0, 3, 1.0)], ids=repr)
def test_slices_of_what_are_no_integers_are_a_type_error(along):
    with pytest.raises(TypeError, match=r"outputs=.* must hold slices of integers"):
        LAYER.block((ALL, along, ALL))


@pytest.mark.parametrize("outputs", [(), (ALL,), (ALL, ALL), (ALL,) * 4, ALL], ids=repr)
def test_a_box_with_the_wrong_number_of_axes_is_refused(outputs):
    with pytest.raises(ValueError, match=r"outputs=.* one slice for each axis of \(3, 6, 5\)"):
        LAYER.block(outputs)


@pytest.mark.parametrize(
    "along",
    [slice(0, 6, 2), slice(None, None, -1), slice(2, 2), slice(4, 2), slice(0, 0), slice(6, None), slice(0, 7),
     slice(-1, 0), slice(3, 10**30)],
    ids=repr,
)  # fmt: skip
def test_a_box_that_is_empty_or_steps_or_ends_beyond_the_axis_is_refused(along):
    for A, size, rest in ((LAYER, 6, (ALL, ALL)), (LAYER.T, 8, (ALL, ALL))):
        if A is LAYER.T and along in (slice(6, None), slice(0, 7)):
            continue
        with pytest.raises(ValueError, match="outputs=") as caught:
            A.block((rest[0], along, rest[1]))
        assert f"has {along} for an axis of size {size}" in str(caught.value)
        assert "step 1, end within the axis, and not be empty" in str(caught.value)


def test_slices_may_be_open_count_from_the_end_and_be_of_numpy_integers():
    box = (slice(1, 3), slice(2, 6), slice(0, 4))
    wanted = LAYER.block(box).tosparse((2, 8, 7)).toarray()
    for same in (
        (slice(1, None), slice(-4, None), slice(None, -1)),
        [slice(np.int8(1), np.uint64(3)), slice(2, 6, 1), slice(None, np.int64(4), np.int8(1))],
    ):
        assert np.array_equal(LAYER.block(same).tosparse((2, 8, 7)).toarray(), wanted)
    assert convmat.Conv1d([1.0, 2.0], 9).block(slice(2, 5)).inputs == ((slice(2, 6),),)


def test_an_operator_whose_outputs_may_read_anything_has_no_blocks():
    weights = LAYER.weight_operator(np.ones((2, 8, 7)))
    for A, name in (
        (weights, "WeightOperator"), (weights.T, "_Transposed"), (2 * weights, "WeightOperator"),
        (LAYER.T.weight_operator(np.ones((3, 6, 5))), "TransposeWeightOperator"),
        (convmat.vstack([convmat.identity(weights.input_shape), weights]), "WeightOperator"),
    ):  # fmt: skip
        message = f"a {name} has no blocks: what an output of it reads is not known"
        with pytest.raises(TypeError, match=re.escape(message)):
            A.block(tuple(slice(0, n) for n in A.output_shape))
        assert name in needs_whole(A)


def test_what_needs_its_whole_input_says_so_and_what_does_not_says_nothing():
    S = convmat.Separable((3, 4), [np.ones((2, 3)), np.ones((2, 4))])
    assert "Separable with a dense matrix along each axis" in needs_whole(S)
    assert needs_whole(2 * S @ convmat.identity((3, 4))) == needs_whole(S)
    for A in (LAYER, LAYER.T, LAYER.H @ LAYER, convmat.Separable((3, 4), [None, np.ones((2, 4))]),
              convmat.Separable((3, 4), [sparse.eye_array(3), np.ones((2, 4))]), *LAYER.factors()):  # fmt: skip
        assert needs_whole(A) == ""


# --- rows of the matrix ---------------------------------------------------------------------------------------------


@tries(250)
@given(layer=layers(), data=st.data())
def test_the_rows_of_a_box_are_those_rows_of_the_matrix(layer, data):
    layer = rounded(layer)
    A = layer.operator()
    box = data.draw(boxes(A.output_shape))
    found, wanted = layer.matrix(rows=box), layer.matrix()[rows_of(A, box)]
    assert type(found) is sparse.csr_array
    assert found.shape == wanted.shape
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        assert getattr(found, name).dtype == getattr(wanted, name).dtype
    assert found.has_sorted_indices
    assert found.has_canonical_format
    again = sparse.csr_array((found.data, found.indices, found.indptr), shape=found.shape)  # which looks for itself
    assert again.has_canonical_format


def test_a_box_of_whole_channels_is_a_slab():
    weight = normal(np.random.default_rng(14), (4, 2, 3, 3))
    slab = conv_matrix(weight, (9, 8), groups=2, padding=1, rows=slice(72, 3 * 72))
    box = conv_matrix(weight, (9, 8), groups=2, padding=1, rows=(slice(1, 3), ALL, ALL))
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(box, name), getattr(slab, name))


@pytest.mark.parametrize("format", ["csc", "coo", "lil"])
def test_the_rows_of_a_box_come_in_every_format(format):
    rows = (slice(2, 4), slice(0, 3))
    found = conv_matrix(np.ones((3, 3)), (8, 7), rows=rows, format=format)
    assert found.format == format
    assert np.array_equal(found.toarray(), conv_matrix(np.ones((3, 3)), (8, 7), rows=rows).toarray())


def test_a_box_of_rows_is_refused_as_a_box_of_outputs_is():
    for rows, error in (((ALL,), ValueError), ((ALL, slice(0, 99)), ValueError), ((ALL, slice(3, 3)), ValueError),
                        ((ALL, slice(0, 4, 2)), ValueError), ((ALL, 2), TypeError), ([0, 1], TypeError),
                        ((ALL, slice(0.5, 2)), TypeError)):  # fmt: skip
        with pytest.raises(error, match=re.escape(f"rows={rows!r}")):
            conv_matrix(np.ones((3, 3)), (8, 7), rows=rows)


def peak(make):
    """What is made, and the bytes that this takes at most."""
    tracemalloc.start()
    made = make()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return made, most


@each_mode
@pytest.mark.parametrize("place", ["first", "inside", "last"])
def test_a_box_of_a_huge_matrix_takes_the_memory_of_its_entries(mode, place):
    """A million by a million pixels: the whole matrix has 9 x 10**12 entries."""
    size = 10**6
    start = {"first": 0, "inside": size // 2, "last": size - 20}[place]
    weight = normal(np.random.default_rng(15), (3, 3))
    rows = (slice(start, start + 20), slice(start, start + 20))
    found, most = peak(lambda: conv_matrix(weight, (size, size), padding=1, padding_mode=mode, rows=rows))
    assert found.shape == (400, size**2)
    assert found.indices.dtype == np.int64
    assert most < 2**18 + 60 * found.nnz
    for row in (0, 19, 210, 380, 399):
        m = [start + i for i in divmod(row, 20)]
        wanted = {}
        for k in np.ndindex(3, 3):
            reads = [oracle.sources(m[a] + k[a] - 1, size, mode) for a in (0, 1)]
            for i, j in itertools.product(*reads):
                wanted[i * size + j] = wanted.get(i * size + j, 0) + reads[0][i] * reads[1][j] * weight[k]
        columns = found.indices[found.indptr[row] : found.indptr[row + 1]]
        assert columns.tolist() == sorted(wanted)
        np.testing.assert_allclose(found.data[found.indptr[row] : found.indptr[row + 1]], [wanted[c] for c in columns])


@each_mode
@either
def test_a_block_of_a_huge_layer_takes_the_memory_of_the_block(mode, transposed):
    size = 10**6
    weight = normal(np.random.default_rng(16), (3, 3))
    A = convmat.Conv2d(weight, (size, size), stride=2, padding=1, padding_mode=mode, method="gemm")
    A = A.T if transposed else A
    for ends in itertools.product(*([(0, 9), (77, 86), (n - 9, n)] for n in A.output_shape)):
        box = tuple(slice(*end) for end in ends)
        block, most = peak(lambda box=box: A.block(box))
        assert most < 2**17
        rows = block.tosparse(A.input_shape)
        assert rows.shape == (81, A.shape[1])
        if not transposed:
            wanted = conv_matrix(weight, (size, size), stride=2, padding=1, padding_mode=mode, rows=box)
            assert np.array_equal(rows.indices, wanted.indices)
            assert np.array_equal(rows.data, wanted.data)
        x = normal(np.random.default_rng(17), block.operator.input_shape)
        np.testing.assert_allclose(block.operator @ x.ravel(), block.operator.tosparse() @ x.ravel(), atol=1e-13)
