"""The explicit matrices: equal to the oracle, canonical, transposed exactly, cut exactly, and lean."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.sparse
from hypothesis import assume, given
from hypothesis import strategies as st

from convmat import Conv2d, conv_matrix, conv_transpose_matrix
from convmat.matrix import FORMATS
from tests import oracle
from tests.strategies import CONV_TRANSPOSE, DTYPES, integers, layers, transposed_layers, tries

MODES = pytest.mark.parametrize("mode", oracle.MODES)


def assert_same_arrays(got, want):
    """Two compressed sparse arrays, array by array."""
    assert (got.format, got.shape, got.dtype) == (want.format, want.shape, want.dtype)
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)


def assert_canonical(matrix):
    """What scipy finds when it looks at the arrays itself, without the flags that were set."""
    fresh = type(matrix)((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
    fresh.check_format(full_check=True)
    assert fresh.has_sorted_indices
    assert fresh.has_canonical_format
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    assert matrix.indices.size == matrix.data.size == matrix.indptr[-1]


def sorted_transpose(matrix):
    """The transpose as scipy makes it: through its own conversion and sort."""
    coo = matrix.tocoo()
    flipped = scipy.sparse.coo_array((coo.data, (coo.col, coo.row)), shape=matrix.shape[::-1]).tocsr()
    flipped.sort_indices()
    return flipped


def peak_of(function):
    """What a call returns, and the most memory that was in use during it, in bytes."""
    function()
    tracemalloc.start()
    try:
        result = function()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def size_of(matrix):
    return matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes


# --- random layers ------------------------------------------------------------------------------------------------


@tries(500)
@given(layers())
def test_matrix_is_bit_equal_to_the_nested_loops(layer):
    A, expected = layer.matrix(), layer.dense()
    assert A.dtype == layer.dtype
    np.testing.assert_array_equal(A.toarray(), expected)
    stored = oracle.pattern(layer.weight.shape, layer.size, **layer.options)
    assert A.nnz == stored.sum()
    assert_canonical(A)


@tries(400)
@given(layers())
def test_number_of_stored_entries_is_known_before_they_are_built(layer):
    stored = oracle.pattern(layer.weight.shape, layer.size, **layer.options)
    A = layer.operator()
    assert A.nnz == A.T.nnz == A.geometry.nnz == stored.sum()
    assert A.shape == stored.shape


@tries(400)
@given(layers())
def test_matrix_of_the_transpose_is_exactly_the_transposed_matrix(layer):
    A = layer.operator()
    matrix, transposed = A.tosparse(), A.T.tosparse()
    assert_canonical(transposed)
    assert_same_arrays(transposed, sorted_transpose(matrix))
    assert_same_arrays(matrix, layer.matrix())


@tries(400)
@given(transposed_layers())
def test_transposed_matrix_of_every_output_padding_is_what_stamping_the_kernel_gives(case):
    layer, inputs, extra, outputs = case
    expected = oracle.dense_transpose(layer.weight, inputs, extra=extra, **layer.options)
    B = conv_transpose_matrix(layer.weight, inputs, output_padding=extra, **layer.options)
    np.testing.assert_array_equal(B.toarray(), expected)
    assert B.dtype == layer.dtype
    assert_canonical(B)
    operator = CONV_TRANSPOSE[layer.ndim](layer.weight, inputs, output_padding=extra, **layer.options)
    assert operator.output_shape[-layer.ndim :] == outputs
    assert_same_arrays(operator.tosparse(), B)
    assert_same_arrays(operator.T.tosparse(), sorted_transpose(B))


@tries(300)
@given(transposed_layers())
def test_output_size_chooses_the_same_matrix_as_output_padding(case):
    layer, inputs, extra, outputs = case
    assume(all(e < s for e, s in zip(extra, layer.stride, strict=True)))
    by_size = conv_transpose_matrix(layer.weight, inputs, output_size=outputs, **layer.options)
    assert_same_arrays(by_size, conv_transpose_matrix(layer.weight, inputs, output_padding=extra, **layer.options))
    assert_same_arrays(by_size, sorted_transpose(conv_matrix(layer.weight, outputs, **layer.options)))


@tries(400)
@given(layers(), st.data())
def test_a_slab_of_rows_is_exactly_that_part_of_the_whole(layer, data):
    whole = layer.matrix()
    rows = whole.shape[0]
    channel = math.prod(layer.output_size)  # whole channels are cut otherwise than parts of one
    ends = st.integers(-rows - 1, rows + 1) | st.integers(0, rows // channel).map(lambda o: o * channel)
    a, b = data.draw(ends), data.draw(ends)
    slab = layer.matrix(rows=slice(a, b))
    assert_same_arrays(slab, whole[a:b])
    assert_canonical(slab)


@tries(200)
@given(layers(), st.integers(1, 9))
def test_slabs_stacked_are_the_whole(layer, height):
    whole = layer.matrix()
    cuts = [layer.matrix(rows=slice(a, a + height)) for a in range(0, whole.shape[0], height)]
    assert_same_arrays(scipy.sparse.vstack(cuts, format="csr"), whole)


@tries(200)
@given(layers(), st.sampled_from(FORMATS))
def test_every_format_holds_the_same_matrix(layer, format):
    dense = layer.dense()
    assume(format != "dia" or sum(dense.shape) < 100)  # scipy warns of many diagonals
    for matrix, expected in ((layer.matrix(format=format), dense), (layer.operator().T.tosparse(format), dense.T)):
        assert matrix.format == format
        assert isinstance(matrix, scipy.sparse.sparray)
        assert matrix.dtype == layer.dtype
        np.testing.assert_array_equal(matrix.toarray(), expected)


@tries(200)
@given(layers())
def test_csc_is_canonical_and_is_the_transposed_csr(layer):
    for csc, csr in (
        (layer.matrix(format="csc"), layer.operator().T.tosparse()),
        (layer.operator().T.tosparse("csc"), layer.matrix()),
    ):
        assert_canonical(csc)
        assert_same_arrays(csc.T, csr)
        assert csc.nnz == 0 or np.shares_memory(csc.T.data, csc.data)


# --- single facts ---------------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("flip", [False, True])
def test_four_axes_work_too(mode, flip):
    rng = np.random.default_rng(0)
    weight, size = integers(rng, (2, 1, 2, 1, 2, 2)), (3, 2, 2, 3)
    options = {
        "stride": (1, 2, 1, 2), "padding": ((1, 0), (0, 1), (1, 1), (-1, 2)), "dilation": (1, 1, 2, 1),
        "groups": 2, "padding_mode": mode, "flip": flip,
    }  # fmt: skip
    A = conv_matrix(weight, size, **options)
    np.testing.assert_array_equal(A.toarray(), oracle.dense(weight, size, **options))
    assert_canonical(A)


@MODES
@pytest.mark.parametrize("size", [61, 257, 1000])
def test_long_axes_are_bit_equal_to_the_nested_loops(mode, size):
    rng = np.random.default_rng(size)
    for stride, dilation in itertools.product((1, 2, 3, 7), (1, 2)):
        weight = integers(rng, (5,))
        options = {"stride": (stride,), "padding": ((4, 3),), "dilation": (dilation,), "padding_mode": mode}
        A = conv_matrix(weight, size, **options)
        if size < 500:
            np.testing.assert_array_equal(A.toarray(), oracle.dense(weight, (size,), **options))
        x = rng.integers(-9, 10, size)
        at = [[oracle.sources(stride * m + dilation * k - 4, size, mode) for k in range(5)] for m in range(A.shape[0])]
        reads = [[sum(times * x[n] for n, times in tap.items()) for tap in row] for row in at]
        expected = [sum(w * read for w, read in zip(weight, row, strict=True)) for row in reads]
        np.testing.assert_array_equal(A @ x, expected)
        B = conv_transpose_matrix(weight, A.shape[0], output_size=size, **options)
        assert_same_arrays(B, sorted_transpose(A))


def test_a_line_longer_than_its_blocks_is_a_difference():
    """A line of 60 000 outputs is written in several blocks: the matrix still is the difference of neighbours."""
    x = np.random.default_rng(0).integers(-9, 10, 60_001)
    A = conv_matrix([-1, 1], x.size)
    np.testing.assert_array_equal(A @ x, np.diff(x))
    np.testing.assert_array_equal(
        conv_matrix([[1, 0, -1]], (3, 60_001), padding=((0, 0), (1, 1))).shape, (180_003,) * 2
    )
    y = x[:-1]
    np.testing.assert_array_equal(conv_transpose_matrix([-1, 1], y.size) @ y, -np.diff(y, prepend=0, append=0))


@MODES
@pytest.mark.parametrize("stride", [(1, 1), (2, 3), (3, 1)])
def test_separable_kernel_gives_the_kronecker_product(mode, stride):
    rng = np.random.default_rng(3)
    k1, k2 = integers(rng, 4), integers(rng, 3)
    options = {"padding_mode": mode}
    pads, dilation = ((2, 1), (-1, 3)), (2, 1)
    A = conv_matrix(np.multiply.outer(k1, k2), (9, 7), stride=stride, padding=pads, dilation=dilation, **options)
    factors = [
        conv_matrix(k, n, stride=s, padding=(p,), dilation=d, **options)
        for k, n, s, p, d in zip((k1, k2), (9, 7), stride, pads, dilation, strict=True)
    ]
    assert_same_arrays(A, scipy.sparse.kron(*factors, format="csr"))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("word", ["full", "valid", "same"])
def test_flipped_one_dimensional_matrix_is_numpy_convolve(k, word):
    rng = np.random.default_rng(k)
    x, kernel = integers(rng, 8, complex), integers(rng, k, complex)
    expected = np.convolve(x, kernel, word)
    if word == "same" and k % 2 == 0:  # our odd sample is padded at the end, numpy's in front
        expected = np.convolve(x, kernel)[k // 2 :][:8]
    np.testing.assert_array_equal(conv_matrix(kernel, 8, padding=word, flip=True) @ x, expected)


@pytest.mark.parametrize("word", ["full", "valid", "same"])
def test_two_dimensional_matrix_is_scipy_convolve2d_and_correlate2d(word):
    rng = np.random.default_rng(5)
    x, kernel = integers(rng, (7, 6)), integers(rng, (3, 5))
    convolved = conv_matrix(kernel, (7, 6), padding=word, flip=True) @ x.ravel()
    np.testing.assert_array_equal(convolved, scipy.signal.convolve2d(x, kernel, word).ravel())
    correlated = conv_matrix(kernel, (7, 6), padding=word) @ x.ravel()
    np.testing.assert_array_equal(correlated, scipy.signal.correlate2d(x, kernel, word).ravel())


@pytest.mark.parametrize(("mode", "boundary"), [("circular", "wrap"), ("symmetric", "symm"), ("zeros", "fill")])
@pytest.mark.parametrize("word", ["full", "same"])
def test_borders_are_those_of_scipy_signal(mode, boundary, word):
    rng = np.random.default_rng(6)
    x, kernel = integers(rng, (7, 6)), integers(rng, (3, 5))
    got = conv_matrix(kernel, (7, 6), padding=word, flip=True, padding_mode=mode) @ x.ravel()
    np.testing.assert_array_equal(got, scipy.signal.convolve2d(x, kernel, word, boundary).ravel())


@pytest.mark.parametrize(
    ("mode", "name"),
    [("reflect", "mirror"), ("replicate", "nearest"), ("circular", "grid-wrap"), ("symmetric", "reflect")],
)
def test_borders_are_those_of_scipy_ndimage(mode, name):
    rng = np.random.default_rng(7)
    x, kernel = integers(rng, (7, 6)), integers(rng, (3, 5))
    got = conv_matrix(kernel, (7, 6), padding="same", padding_mode=mode) @ x.ravel()
    np.testing.assert_array_equal(got, scipy.ndimage.correlate(x, kernel, mode=name).ravel())


def test_zero_weights_stay_stored_until_they_are_eliminated():
    weight = np.array([[0.0, 2.0], [0.0, 0.0]])
    A = conv_matrix(weight, (5, 4))
    assert A.nnz == 4 * 4 * 3
    A.eliminate_zeros()
    assert A.nnz == 4 * 3
    np.testing.assert_array_equal(A.toarray(), conv_matrix(weight, (5, 4)).toarray())


def test_flags_are_set_so_that_scipy_does_not_look_again():
    A, W = Conv2d(np.ones((2, 2)), (4, 5)), np.ones((2, 2))
    for matrix in (
        conv_matrix(W, (4, 5)),
        conv_matrix(W, (4, 5), format="csc"),
        conv_matrix(W, (4, 5), rows=slice(3, 9)),
        conv_transpose_matrix(W, (4, 5)),
        conv_transpose_matrix(W, (4, 5), format="csc"),
        A.tosparse(),
        A.weight_operator(np.ones((4, 5))).tosparse(),
    ):
        matrix.indices[:2] = matrix.indices[1::-1]  # were scipy to look, it would find this
        assert matrix.has_sorted_indices
        assert matrix.has_canonical_format


def test_taps_that_cancel_on_one_sample_stay_stored():
    A = conv_matrix([1.0, 0.0, -1.0], 3, padding=1, padding_mode="replicate")
    B = conv_matrix([1.0, 2.0, -1.0], 1, padding=1, padding_mode="replicate")
    assert (A.nnz, B.nnz, B.toarray().item()) == (7, 1, 2.0)
    C = conv_matrix([1.0, 0.0, -1.0], 1, padding=1, padding_mode="replicate")
    assert (C.nnz, C.toarray().item()) == (1, 0.0)


def test_a_matrix_owns_its_arrays_and_the_weight_is_not_touched():
    weight = np.array([1.0, 2.0])
    A = conv_matrix(weight, 4)
    A.data *= 5
    np.testing.assert_array_equal(weight, [1.0, 2.0])
    np.testing.assert_array_equal(conv_matrix(weight, 4).toarray() * 5, A.toarray())


@pytest.mark.parametrize(
    ("given_dtype", "kept"),
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.complex64, np.complex64),
        (np.complex128, np.complex128),
        (np.int8, np.float64),
        (np.uint64, np.float64),
        (np.bool_, np.float64),
        (np.float16, np.float32),
        (">f8", np.float64),
        (">c8", np.complex64),
    ],
)
def test_dtype_of_the_weight_is_kept_and_integers_become_float64(given_dtype, kept):
    weight = np.array([1, 0, 1]).astype(given_dtype)
    for A in (conv_matrix(weight, 5), conv_transpose_matrix(weight, 5), conv_matrix(weight, 5, rows=slice(1, 2))):
        assert A.dtype == np.dtype(kept)
        assert A.dtype.isnative
    np.testing.assert_array_equal(conv_matrix(weight, 5).toarray(), conv_matrix([1, 0, 1], 5).toarray())


def test_weight_in_any_memory_order_gives_the_same_matrix():
    weight = integers(np.random.default_rng(1), (4, 3, 3, 2))
    expected = conv_matrix(weight, (5, 6), padding=1)
    for other in (np.asfortranarray(weight), np.repeat(weight, 2, axis=3)[..., ::2], weight.tolist()):
        assert_same_arrays(conv_matrix(other, (5, 6), padding=1), expected)


@pytest.mark.parametrize(
    "rows", [slice(None), slice(0, 0), slice(5, 2), slice(-3, None), slice(None, 4), slice(90, 99)]
)
def test_slices_mean_what_they_mean_in_python(rows):
    whole = conv_matrix(np.ones((2, 2)), (4, 5))
    assert_same_arrays(conv_matrix(np.ones((2, 2)), (4, 5), rows=rows), whole[rows])


def test_a_slab_takes_any_format():
    whole = conv_matrix(np.ones((2, 2)), (4, 5))
    for format in FORMATS:
        slab = conv_matrix(np.ones((2, 2)), (4, 5), rows=slice(3, 8), format=format)
        assert slab.format == format
        np.testing.assert_array_equal(slab.toarray(), whole[3:8].toarray())


def test_a_slab_of_a_matrix_too_large_to_build_has_64_bit_indices():
    size = 2**31 + 7
    for start in (0, size // 2, size - 5):
        A = conv_matrix([1.0, 2.0, 4.0], size, rows=slice(start, start + 3))
        assert A.indices.dtype == A.indptr.dtype == np.int64
        assert A.shape == (3, size)
        np.testing.assert_array_equal(A.indptr, [0, 3, 6, 9])
        np.testing.assert_array_equal(A.indices.reshape(3, 3), start + np.arange(3)[:, None] + np.arange(3))
        np.testing.assert_array_equal(A.data.reshape(3, 3), [[1.0, 2.0, 4.0]] * 3)


@MODES
def test_a_slab_of_a_huge_image_reads_the_right_samples(mode):
    side, row = 10**9, 10**18 - 2  # the last row of the image but one sample
    A = conv_matrix(
        [[1.0, 2.0, 4.0]], (side, side), padding=((0, 0), (1, 1)), padding_mode=mode, rows=slice(row, row + 2)
    )
    last = side - 1
    taps = [(last - 2, 1.0), (last - 1, 2.0), (last, 4.0), (last - 1, 1.0), (last, 2.0)]
    beyond = oracle.sources(side, side, mode) if mode != "circular" else {0: 1}
    dense = [{}, {}]
    for at, weight in taps[:3]:
        dense[0][at] = weight
    for at, weight in [*taps[3:], *((n, 4.0 * times) for n, times in beyond.items())]:
        dense[1][at] = dense[1].get(at, 0.0) + weight
    first = (side - 1) * side
    for i, wanted in enumerate(dense):
        columns, weights = (array[A.indptr[i] : A.indptr[i + 1]] for array in (A.indices, A.data))
        assert dict(zip((columns - first).tolist(), weights.tolist(), strict=True)) == wanted


def test_a_slab_of_an_axis_matrix_needs_memory_for_the_slab_alone():
    _, peak = peak_of(lambda: conv_matrix(np.ones((3, 3)), (2**20, 2**20), padding=1, rows=slice(2**39, 2**39 + 10)))
    assert peak < 2**20


def test_peak_memory_is_below_one_and_a_half_times_the_result():
    weight = np.random.default_rng(0).standard_normal((5, 5))
    layer = {"stride": 2, "padding": 2}
    for build in (
        lambda: conv_matrix(weight, (1024, 1024), **layer),
        lambda: conv_matrix(weight, (1024, 1024), **layer, format="csc"),
        lambda: conv_transpose_matrix(weight, (512, 512), output_padding=1, **layer),
        lambda: conv_transpose_matrix(weight, (512, 512), output_padding=1, **layer, format="csc"),
        lambda: conv_matrix(weight, (1024, 1024), **layer, padding_mode="reflect"),
    ):
        matrix, peak = peak_of(build)
        assert matrix.shape in ((2**18, 2**20), (2**20, 2**18))
        assert matrix.nnz > 6_500_000
        assert peak < 1.5 * size_of(matrix)


def test_peak_memory_with_channels_is_below_one_and_a_half_times_the_result():
    weight = np.ones((16, 16, 3, 3), dtype=np.float32)
    for build in (
        lambda: conv_matrix(weight, (32, 32), padding=1),
        lambda: conv_transpose_matrix(weight, (32, 32), padding=1),
    ):
        matrix, peak = peak_of(build)
        assert peak < 1.5 * size_of(matrix)


def test_giant_matrices_are_refused_before_anything_is_allocated():
    def refused(build, nnz):
        tracemalloc.start()
        try:
            with pytest.raises(MemoryError) as caught:
                build()
            assert tracemalloc.get_traced_memory()[1] < 2**26
        finally:
            tracemalloc.stop()
        message = str(caught.value)
        assert f"nnz = {nnz} " in message
        assert "bytes" in message
        assert "matrix-free" in message

    side, kernel = 10**6, np.ones((5, 5))
    nnz = (side - 4) ** 2 * 25
    refused(lambda: conv_matrix(kernel, (side, side)), nnz)
    refused(lambda: conv_matrix(kernel, (side, side), format="csc"), nnz)
    refused(lambda: conv_transpose_matrix(kernel, (side - 4, side - 4)), nnz)
    refused(lambda: Conv2d(kernel, (side, side)).tosparse(), nnz)
    refused(lambda: Conv2d(kernel, (side, side)).T.tosparse(), nnz)
    refused(lambda: conv_matrix(kernel, (side, side), rows=slice(0, 10**11)), nnz=25 * 10**11)
    refused(lambda: Conv2d(np.ones((1, 1)), (side, side)).toarray(), 10**24)


def test_memory_that_the_message_names_is_that_of_the_arrays():
    size = 10**13
    with pytest.raises(MemoryError) as caught:
        conv_matrix(np.ones(3, dtype=np.float32), size)
    rows = size - 2
    assert f"{3 * rows * (4 + 8) + (rows + 1) * 8} bytes" in str(caught.value)


def test_index_dtype_is_32_bits_up_to_its_largest_number():
    size = 2**31 - 1
    A = conv_matrix([1.0, 2.0], size, rows=slice(size - 3, size))
    assert A.indices.dtype == np.int32
    np.testing.assert_array_equal(A.indices, [size - 3, size - 2, size - 2, size - 1])


@pytest.mark.parametrize("stride", [2**20, 2**30, 2**31 - 2, 2**31, 2**40])
@pytest.mark.parametrize("size", [9, 2**31 - 1])
def test_strides_near_the_largest_index_do_not_overflow(size, stride):
    A = conv_matrix([1.0, 2.0], size, stride=stride)
    firsts = np.arange(0, size - 1, stride)
    assert A.indices.dtype == np.int32
    np.testing.assert_array_equal(A.indices.reshape(-1, 2), np.stack([firsts, firsts + 1], axis=1))
    assert_same_arrays(conv_matrix([1.0, 2.0], size, stride=stride, rows=slice(None)), A)


def test_random_layers_of_the_strategies_reach_every_branch():
    """The generator is part of the proof: it must produce each kind of layer."""
    seen, every = set(), set()

    @tries(400, derandomize=True, database=None)
    @given(layers())
    def collect(layer):
        pads = [p for pair in layer.padding for p in pair]
        features = {
            "groups": layer.groups > 1,
            "no channels": layer.weight.ndim == layer.ndim,
            "negative": min(pads) < 0,
            "stride": max(layer.stride) == 4,
            "dilation": max(layer.dilation) == 3,
            "kernel larger than the input": any(k > n for k, n in zip(layer.kernel_size, layer.size, strict=True)),
            "more than once around": max(pads) > max(layer.size),
            "many rows": math.prod(layer.output_size) > 50,
        }
        seen.update(name for name, present in features.items() if present)
        seen.update([f"{layer.ndim} axes", layer.padding_mode, layer.weight.dtype.name, f"flip {layer.flip}"])
        every.update(features)

    collect()
    axes, flips = {"1 axes", "2 axes", "3 axes"}, {"flip True", "flip False"}
    assert seen == every | axes | flips | {*oracle.MODES, *DTYPES}
