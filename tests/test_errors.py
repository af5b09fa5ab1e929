"""What is refused: the kind of error, and that its message names the argument, what came, and the rule."""

import re
import time
import tracemalloc

import numpy as np
import pytest
import scipy.sparse

import convmat
from convmat import Conv1d, Conv2d, Conv3d, ConvTranspose2d, conv_matrix, conv_transpose_matrix, matrix
from convmat.products import METHODS, usable
from convmat.taps import EXTENSIONS
from tests.strategies import CONV, CONV_TRANSPOSE

W = np.ones((2, 2, 3, 3))
SIZE = (6, 5)


class Odd:
    def __repr__(self):
        return "<odd>"


KINDS = [1.5, 1.0, True, np.bool_(True), "2", None, Odd(), 1j, np.float64(2), b"2"]

BUILDERS = {
    "conv_matrix": conv_matrix,
    "Conv2d": Conv2d,
    "conv_transpose_matrix": conv_transpose_matrix,
    "ConvTranspose2d": ConvTranspose2d,
}
each_builder = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
each_transposed = pytest.mark.parametrize("build", [conv_transpose_matrix, ConvTranspose2d])


def refused(kind, build, *args, fragments, **kwargs):
    with pytest.raises(kind) as caught:
        build(*args, **kwargs)
    assert caught.type is kind
    message = str(caught.value)
    for fragment in fragments:
        assert fragment in message, f"{fragment!r} is not in {message!r}"
    return message


# --- wrong kinds: TypeError -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", KINDS, ids=repr)
@pytest.mark.parametrize("name", ["stride", "dilation", "padding", "groups"])
@each_builder
def test_what_is_no_integer_is_a_type_error(build, name, value):
    if name == "padding" and isinstance(value, str):
        refused(ValueError, build, W, SIZE, padding=value, fragments=["padding='2'", "'same'", "'valid'", "integers"])
        return
    refused(TypeError, build, W, SIZE, **{name: value}, fragments=[f"{name}={value!r}", "must be an integer"])


@pytest.mark.parametrize("value", KINDS, ids=repr)
@pytest.mark.parametrize("name", ["stride", "dilation", "padding"])
@each_builder
def test_what_is_no_integer_within_a_tuple_is_a_type_error(build, name, value):
    refused(TypeError, build, W, SIZE, **{name: (1, value)}, fragments=[f"{name}={(1, value)!r}", "must be an integer"])


@pytest.mark.parametrize("value", [v for v in KINDS if v is not None], ids=repr)
@pytest.mark.parametrize("name", ["output_padding", "output_size"])
@each_transposed
def test_what_is_no_integer_in_a_transposed_argument_is_a_type_error(build, name, value):
    for wrong in (value, (1, value)):
        fragments = [f"{name}={wrong!r}", "must be an integer"]
        refused(TypeError, build, W, SIZE, stride=3, **{name: wrong}, fragments=fragments)


@pytest.mark.parametrize("value", KINDS, ids=repr)
@each_builder
def test_an_input_size_that_is_no_integer_is_a_type_error(build, value):
    refused(TypeError, build, W, (6, value), fragments=[f"input_size={(6, value)!r}", "must be an integer"])
    message = refused(TypeError, build, np.ones(3), value, fragments=[]) if build in (
        conv_matrix, conv_transpose_matrix) else refused(TypeError, build, W, value, fragments=[])  # fmt: skip
    assert "input_size" in message
    assert repr(value) in message


@pytest.mark.parametrize("pair", [(1, 1.5), (True, 1), ("1", 1), (None, 1), (1, Odd())], ids=repr)
@each_builder
def test_what_is_no_integer_within_a_pair_is_a_type_error(build, pair):
    value = ((1, 1), pair)
    refused(TypeError, build, W, SIZE, padding=value, fragments=[f"padding={value!r}", "must be an integer"])


@pytest.mark.parametrize("value", [1, None, 2.5, ("zeros", 1), Odd()], ids=repr)
@each_builder
def test_a_padding_mode_that_is_no_word_is_a_type_error(build, value):
    refused(TypeError, build, W, SIZE, padding_mode=value, fragments=[f"padding_mode={value!r}", "'reflect'"])


@pytest.mark.parametrize("value", [1, 0, None, "yes", 1.0], ids=repr)
@each_builder
def test_a_flip_that_is_no_bool_is_a_type_error(build, value):
    refused(TypeError, build, W, SIZE, flip=value, fragments=[f"flip={value!r}", "True or False"])


@pytest.mark.parametrize(
    "weight",
    [
        np.array([[Odd()]], dtype=object), [["a", "b"]], np.array(["2020-01-01"], dtype="M8[D]").reshape(1, 1),
        np.ones((2, 2), dtype=np.longdouble), np.zeros((2, 2), dtype=[("a", float)]), [[None]], [[b"1"]],
    ],
    ids=["object", "str", "datetime", "longdouble", "structured", "None", "bytes"],
)  # fmt: skip
@each_builder
def test_a_weight_that_is_no_array_of_numbers_is_a_type_error(build, weight):
    message = refused(TypeError, build, weight, SIZE, fragments=["weight", "float64"])
    assert str(np.asarray(weight).dtype) in message


@each_builder
def test_a_ragged_or_sparse_weight_is_refused_by_name_or_by_numpy(build):
    with pytest.raises((TypeError, ValueError)):
        build([[1.0, 2.0], [3.0]], SIZE)
    with pytest.raises((TypeError, ValueError), match="weight"):
        build(scipy.sparse.csr_array(np.ones((2, 2))), SIZE)


@pytest.mark.parametrize("value", [1, None, ("gemm",), Odd()], ids=repr)
@pytest.mark.parametrize("build", [Conv2d, ConvTranspose2d])
def test_a_method_that_is_no_word_is_a_type_error(build, value):
    refused(TypeError, build, W, SIZE, method=value, fragments=[f"method={value!r}"])


@pytest.mark.parametrize("value", [3, (0, 2), "all", None.__class__, [0, 1]], ids=repr)
def test_rows_that_are_no_slice_are_a_type_error(value):
    refused(TypeError, conv_matrix, W, SIZE, rows=value, fragments=[f"rows={value!r}", "slice"])


# --- wrong values: ValueError ---------------------------------------------------------------------------------------

VALUES = [
    # name, arguments, fragments
    ("stride 0", {"stride": 0}, ["stride=0", "at least 1"]),
    ("stride negative", {"stride": (1, -2)}, ["stride=(1, -2)", "at least 1"]),
    ("stride 3 entries", {"stride": (1, 2, 3)}, ["stride=(1, 2, 3)", "one entry per spatial axis, 2"]),
    ("stride no entries", {"stride": ()}, ["stride=()", "one entry per spatial axis, 2"]),
    ("dilation 0", {"dilation": 0}, ["dilation=0", "at least 1"]),
    ("dilation negative", {"dilation": (-1, 1)}, ["dilation=(-1, 1)", "at least 1"]),
    ("dilation 1 entry", {"dilation": (1,)}, ["dilation=(1,)", "one entry per spatial axis, 2"]),
    ("padding negative", {"padding": -1}, ["padding=-1", "at least 0", "pair"]),
    ("padding negative in a tuple", {"padding": (1, -1)}, ["padding=(1, -1)", "at least 0", "pair"]),
    ("padding 3 entries", {"padding": (1, 1, 1)}, ["padding=(1, 1, 1)", "one entry per spatial axis, 2"]),
    ("padding 4 entries", {"padding": (1, 1, 1, 1)}, ["padding=(1, 1, 1, 1)", "one entry per spatial axis, 2"]),
    ("padding 1 pair", {"padding": ((1, 1),)}, ["padding=((1, 1),)", "one entry per spatial axis, 2"]),
    ("padding mixed", {"padding": (1, (1, 1))}, ["padding=(1, (1, 1))", "(lo, hi) pairs"]),
    ("padding triples", {"padding": ((1, 1, 1), (1, 1, 1))}, ["padding=((1, 1, 1), (1, 1, 1))", "(lo, hi) pairs"]),
    ("padding word", {"padding": "SAME"}, ["padding='SAME'", "'same'", "'same_upper'", "'full'"]),
    ("same with stride", {"padding": "same", "stride": 2}, ["padding='same'", "stride 1", "same_upper"]),
    ("same with one stride", {"padding": "same", "stride": (1, 2)}, ["padding='same'", "stride 1", "1 x 2"]),
    ("groups 0", {"groups": 0}, ["groups=0", "at least 1"]),
    ("groups negative", {"groups": -2}, ["groups=-2", "at least 1"]),
    ("groups not dividing", {"groups": 4}, ["groups=4", "divide", "2"]),
    ("padding mode", {"padding_mode": "edge"}, ["padding_mode='edge'", "'replicate'", "'symmetric'"]),
    ("padding mode capital", {"padding_mode": "Zeros"}, ["padding_mode='Zeros'", "'zeros'"]),
]


@pytest.mark.parametrize(("arguments", "fragments"), [v[1:] for v in VALUES], ids=[v[0] for v in VALUES])
@each_builder
def test_a_wrong_value_is_a_value_error_that_says_the_rule(build, arguments, fragments):
    refused(ValueError, build, W, SIZE, **arguments, fragments=fragments)


@pytest.mark.parametrize("size", [(0, 5), (6, -1), (-3, 5)])
@each_builder
def test_a_size_below_one_is_refused(build, size):
    refused(ValueError, build, W, size, fragments=[f"input_size={size!r}", "at least 1"])


@pytest.mark.parametrize("size", [(6,), (6, 5, 4), (), 6])
def test_a_size_with_the_wrong_number_of_axes_is_refused(size):
    for build in (Conv2d, ConvTranspose2d):
        message = refused(ValueError, build, W, size, fragments=["input_size", "one entry per spatial axis, 2"])
        assert str(size) in message or f"({size},)" in message
    for build in (conv_matrix, conv_transpose_matrix):
        message = refused(ValueError, build, W[0, 0], size, fragments=[])
        assert "weight" in message or "input_size" in message


@pytest.mark.parametrize("shape", [(), (3,), (3, 3, 3), (2, 2, 3, 3, 3)])
@each_builder
def test_a_weight_with_the_wrong_number_of_axes_is_refused(build, shape):
    refused(ValueError, build, np.ones(shape), SIZE, fragments=["weight", str(shape), "4 axes", "or 2"])


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (2, 0, 3, 3), (2, 2, 0, 3), (0, 3)])
@each_builder
def test_an_empty_weight_is_refused(build, shape):
    refused(ValueError, build, np.ones(shape), SIZE, fragments=["weight", str(shape), "at least 1"])


def test_each_class_has_its_number_of_axes():
    for ndim in (1, 2, 3):
        for kind in (CONV[ndim], CONV_TRANSPOSE[ndim]):
            for other in {1, 2, 3} - {ndim}:
                with pytest.raises(ValueError, match=r"input_size|weight"):
                    kind(np.ones((3,) * other), (5,) * other)


@pytest.mark.parametrize("build", [conv_matrix, Conv2d])
def test_a_kernel_larger_than_the_padded_input_is_refused(build):
    fragments = ["weight", "3 x 3", "5 x 5", "4 x 7", "input_size", "(0, 1)"]
    refused(ValueError, build, W, (4, 5), padding=(0, 1), dilation=2, fragments=fragments)
    refused(ValueError, build, W, SIZE, padding=((-2, -2), (0, 0)), fragments=["weight", "2 x 5", "padding"])
    refused(ValueError, build, W[0, 0], (3, 3), padding=((-4, 0), (0, 0)), fragments=["3 x 3", "padding"])


@pytest.mark.parametrize("build", [conv_matrix, Conv1d])
@pytest.mark.parametrize("mode", EXTENSIONS)
def test_padding_may_be_larger_than_the_input(build, mode):
    for pads in (9, ((0, 9),), ((9, -1),), "full"):
        weight = np.ones(7 if pads == "full" else 2)
        lo, hi = {"full": (6, 6), 9: (9, 9)}.get(pads) or pads[0]
        assert build(weight, 2, padding=pads, padding_mode=mode).shape == (2 + lo + hi - len(weight) + 1, 2)


@pytest.mark.parametrize("extra", [2, (2, 0), (0, 3), 5])
@each_transposed
def test_output_padding_must_be_smaller_than_stride_or_dilation(build, extra):
    fragments = [f"output_padding={extra!r}", "smaller", "stride", "dilation"]
    refused(ValueError, build, W, SIZE, stride=(2, 3), output_padding=extra, fragments=fragments)


@each_transposed
def test_output_padding_up_to_the_larger_of_stride_and_dilation_is_allowed(build):
    plain = build(W, SIZE, stride=(2, 1), dilation=(1, 3)).shape
    longer = build(W, SIZE, stride=(2, 1), dilation=(1, 3), output_padding=(1, 2)).shape
    assert (plain, longer) == ((2 * 13 * 11, 60), (2 * 14 * 13, 60))


@each_transposed
def test_negative_output_padding_is_refused(build):
    refused(ValueError, build, W, SIZE, stride=2, output_padding=-1, fragments=["output_padding=-1", "at least 0"])


@each_transposed
def test_output_padding_and_output_size_together_are_refused(build):
    fragments = ["output_padding=1", "output_size=(14, 12)", "one of them"]
    refused(ValueError, build, W, SIZE, stride=2, output_padding=1, output_size=(14, 12), fragments=fragments)


@pytest.mark.parametrize("size", [(12, 11), (15, 11), (13, 10), (13, 0), (13, -4)])
@each_transposed
def test_an_output_size_that_no_geometry_gives_is_refused_with_those_possible(build, size):
    fragments = [f"output_size={size!r}", "possible", "13..14 x 11..12"]
    refused(ValueError, build, W, SIZE, stride=2, output_size=size, fragments=fragments)


@each_transposed
def test_an_output_size_with_the_wrong_number_of_axes_is_refused(build):
    refused(ValueError, build, W, SIZE, output_size=(8, 7, 1), fragments=["output_size=(8, 7, 1)", "axis, 2"])


@each_transposed
def test_padding_that_leaves_nothing_is_refused(build):
    refused(ValueError, build, W, (1, 1), padding=2, fragments=["padding=2", "at least 1", "(1, 1)"])


@each_transposed
def test_output_padding_with_a_word_that_fixes_the_size_is_refused(build):
    fragments = ["output_padding=1", "same_upper", "output_size"]
    refused(ValueError, build, W, SIZE, stride=2, padding="same_upper", output_padding=1, fragments=fragments)


def test_a_pair_for_one_axis_is_told_how_to_write_it():
    refused(ValueError, conv_matrix, [1.0, 1.0], 5, padding=(0, 1), fragments=["padding=(0, 1)", "((0, 1),)"])


def test_an_unknown_method_is_told_the_methods():
    for build in (Conv2d, ConvTranspose2d):
        refused(ValueError, build, W, SIZE, method="fast", fragments=["method='fast'", "'auto'", *map(repr, METHODS)])


def test_an_unknown_format_is_told_the_formats():
    for build in (
        lambda f: conv_matrix(W, SIZE, format=f),
        lambda f: conv_transpose_matrix(W, SIZE, format=f),
        lambda f: conv_matrix(W, SIZE, format=f, rows=slice(0, 1)),
        lambda f: Conv2d(W, SIZE).tosparse(f),
        lambda f: Conv2d(W, SIZE).T.tosparse(f),
        lambda f: Conv2d(W, SIZE).weight_operator(np.ones((2, 6, 5))).tosparse(f),
        lambda f: Conv2d(W, SIZE).factors()[2].tosparse(f),
    ):
        refused(ValueError, build, "cr", fragments=["format='cr'", "'csr'", "'csc'", "'coo'"])


@pytest.mark.parametrize("format", [None, 3, ["csr"], Odd()], ids=repr)
def test_a_format_that_is_no_word_is_refused_by_name(format):
    with pytest.raises((TypeError, ValueError), match="format="):
        conv_matrix(W, SIZE, format=format)


@pytest.mark.parametrize("rows", [slice(0, 9, 2), slice(None, None, -1), slice(0, 9, 3)])
def test_rows_with_a_step_are_refused(rows):
    refused(ValueError, conv_matrix, W, SIZE, rows=rows, fragments=[f"rows={rows!r}", "step 1"])


@pytest.mark.parametrize("rows", [slice(0.5, 3), slice("a", None), slice(None, 4.0)])
def test_rows_whose_ends_are_no_integers_are_refused(rows):
    with pytest.raises(TypeError, match=r"slice|rows"):
        conv_matrix(W, SIZE, rows=rows)


# --- what is allowed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [np.int8, np.uint8, np.int32, np.int64, np.uint64, np.array])
def test_numpy_integers_are_integers(number):
    plain = conv_transpose_matrix(W, (6, 5), stride=2, padding=1, dilation=2, groups=2, output_padding=1)
    with_numpy = conv_transpose_matrix(
        W, (number(6), number(5)), stride=number(2), padding=number(1), dilation=(number(2), number(2)),
        groups=number(2), output_padding=number(1),
    )  # fmt: skip
    assert (plain != with_numpy).nnz == 0
    assert conv_matrix(W, SIZE, flip=np.bool_(True)).shape == conv_matrix(W, SIZE).shape


def test_keyword_arguments_cannot_be_given_by_position():
    for build in BUILDERS.values():
        with pytest.raises(TypeError, match="positional"):
            build(W, SIZE, 2)


# --- before anything is computed or allocated -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [2**31, 2**40])
def test_a_giant_layer_with_a_wrong_argument_is_refused_as_quickly_as_a_small_one(size):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="stride=0"):
            conv_matrix(np.ones((3, 3)), (size, size - 2**20), stride=0)
        with pytest.raises(ValueError, match="output_padding=1"):
            conv_transpose_matrix(np.ones((3, 3)), (size, size - 2**20), output_padding=1)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        ((2**31, 2**31), {}),
        ((2**63, 3), {}),
        ((10**30, 3), {}),
        ((9, 9), {"padding": 2**62}),
        ((9, 9), {"padding": 10**25}),
    ],
)
def test_what_64_bits_cannot_count_is_refused(size, arguments):
    for build in (conv_matrix, Conv2d):
        message = refused(ValueError, build, np.ones((3, 3)), size, **arguments, fragments=["too large", "64-bit"])
        assert "input_size" in message


def test_a_stride_or_dilation_beyond_64_bits_is_refused():
    with pytest.raises(ValueError, match=r"stride|too large"):
        conv_matrix([1.0, 2.0], 9, stride=2**70)
    with pytest.raises(ValueError, match="dilation"):
        conv_matrix([1.0, 2.0], 9, dilation=2**70)


def test_a_layer_that_fits_no_matrix_still_is_an_operator():
    A = Conv3d(np.ones((2, 2, 2)), (10**5, 10**5, 10**5), stride=10**3)
    assert A.shape == (10**6, 10**15)
    assert A.nnz == 8 * 10**6
    B = Conv2d(np.ones((5, 5)), (10**6, 10**6))
    with pytest.raises(MemoryError, match="matrix-free"):
        B.tosparse()


@pytest.fixture
def one_megabyte(monkeypatch):
    """A machine with one megabyte left."""
    monkeypatch.setattr(matrix, "_available_memory", lambda: float(2**20))
    monkeypatch.setattr(matrix, "_ALWAYS_FITS", 0)


BIG, KERNEL = np.ones((256, 256)), np.ones((9, 9))

TOO_LARGE = {
    "conv_matrix": lambda: conv_matrix(np.ones((5, 5)), (256, 256)),
    "conv_matrix csc": lambda: conv_matrix(np.ones((5, 5)), (256, 256), format="csc"),
    "conv_transpose_matrix": lambda: conv_transpose_matrix(np.ones((5, 5)), (256, 256)),
    "toarray": lambda: Conv1d([1.0], 2000).toarray(),
    "Conv2d.tosparse": lambda: Conv2d(np.ones((5, 5)), (256, 256)).tosparse(),
    "ConvTranspose2d.tosparse": lambda: ConvTranspose2d(np.ones((5, 5)), (256, 256)).tosparse(),
    "method matrix": lambda: Conv2d(np.ones((5, 5)), (256, 256), method="matrix").apply(BIG),
    "weight operator": lambda: Conv2d(KERNEL, (256, 256)).weight_operator(BIG).tosparse(),
    "transposed weight operator": lambda: ConvTranspose2d(KERNEL, (256, 256)).weight_operator(BIG).tosparse(),
    "Pad": lambda: convmat.Pad((256, 256), 9).tosparse(),
    "Upsample": lambda: convmat.Upsample((256, 256), 2).tosparse(),
}  # fmt: skip


@pytest.mark.usefixtures("one_megabyte")
@pytest.mark.parametrize("build", TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_does_not_fit_is_refused_before_it_is_allocated(build):
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError) as caught:
            build()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert re.search(r"nnz = \d+", message)
    assert re.search(r"\d+ bytes", message)
    assert "matrix-free" in message
    assert peak < 2**22


@pytest.mark.usefixtures("one_megabyte")
def test_what_fits_is_not_refused():
    assert conv_matrix(np.ones((3, 3)), (64, 64)).nnz == 62 * 62 * 9
    slab = conv_matrix(np.ones((5, 5)), (256, 256), rows=slice(0, 1000))
    assert slab.shape == (1000, 256 * 256)


def test_refusing_a_giant_matrix_does_not_walk_through_it():
    start = time.perf_counter()
    with pytest.raises(MemoryError):
        conv_matrix(np.ones((3, 3, 3)), (10**5, 10**5, 10**5), stride=2, padding=1, padding_mode="circular")
    assert time.perf_counter() - start < 5  # 10^14 rows


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*usable(), "auto"])
def test_images_of_a_wrong_shape_are_refused_with_the_right_one(method):
    A = Conv2d(W, SIZE, method=method)
    for shape in [(2, 6, 4), (6, 5), (1, 6, 5), (60,), (), (2, 6, 5, 1)]:
        refused(ValueError, A.apply, np.ones(shape), fragments=["image", str(shape), "2, 6, 5", "batch"])
    for shape in [(2, 4, 4), (2, 6, 5)]:
        refused(ValueError, A.T.apply, np.ones(shape), fragments=["image", str(shape), "2, 4, 3"])
        refused(ValueError, A.weight_operator, np.ones(shape)[:, :3], fragments=["image", "2, 6, 5"])


@pytest.mark.parametrize(
    "image",
    [np.full((2, 6, 5), value) for value in (None, "a", np.longdouble(1), b"1")],
    ids=["object", "str", "longdouble", "bytes"],
)
def test_images_that_are_no_numbers_are_refused(image):
    A = Conv2d(W, SIZE)
    for product in (A.apply, A.weight_operator):
        refused(TypeError, product, image, fragments=["image", str(image.dtype), "numbers"])
    with pytest.raises(TypeError, match="numbers"):
        A @ image.ravel()


def test_vectors_of_a_wrong_length_are_refused():
    A = Conv2d(W, SIZE)
    for wrong in (np.ones(59), np.ones((59, 2)), np.ones(24)):
        with pytest.raises(ValueError, match=r"(?i)dimension|shape"):
            A @ wrong
    for product in (A.rmatvec, A.rmatmat):
        with pytest.raises(ValueError, match=r"(?i)dimension|shape"):
            product(np.ones((60, 1)))
    with pytest.raises(ValueError, match=r"(?i)dimension|shape"):
        A.matvec(np.ones((60, 2)))


def test_a_sparse_operand_is_refused():
    A = Conv1d([1.0, 2.0], 5)
    for sparse in (scipy.sparse.eye_array(5), scipy.sparse.csc_matrix(np.eye(5))):
        with pytest.raises((TypeError, ValueError)):
            A @ sparse
        with pytest.raises((TypeError, ValueError)):
            A.matmat(sparse)
        with pytest.raises((TypeError, ValueError)):
            A.apply(sparse)


# --- factors and checks -----------------------------------------------------------------------------------------------


def test_factors_refuse_by_the_same_rules():
    refused(ValueError, convmat.Pad, (6, 5), (1, 1, 1), fragments=["padding=(1, 1, 1)", "2"])
    refused(ValueError, convmat.Pad, 4, 4, padding_mode="wrap", fragments=["padding_mode='wrap'", "'circular'"])
    refused(ValueError, convmat.Crop, 4, 2, fragments=["padding=2", "at least 1"])
    refused(ValueError, convmat.Downsample, 5, 0, fragments=["stride=0", "at least 1"])
    refused(TypeError, convmat.Downsample, 5, 1.5, fragments=["stride=1.5", "integer"])
    refused(ValueError, convmat.Upsample, 5, 2, output_size=11, fragments=["output_size=11", "9..10"])
    refused(ValueError, convmat.Correlate, np.ones(6), 5, fragments=["weight", "6", "5"])
    for factor in (lambda **k: convmat.Pad(4, 1, **k), lambda **k: convmat.Upsample(4, 2, **k)):
        refused(ValueError, factor, channels=0, fragments=["channels=0", "at least 1"])
        refused(TypeError, factor, channels=1.0, fragments=["channels=1.0", "integer"])
        refused(TypeError, factor, channels=True, fragments=["channels=True", "integer"])
        with pytest.raises(TypeError, match="dtype"):
            factor(dtype=object)


def test_check_adjoint_refuses_arguments_without_sense():
    A = Conv1d([1.0, 2.0], 5)
    refused(TypeError, convmat.check_adjoint, A, trials=1.5, fragments=["trials=1.5", "integer"])
    refused(TypeError, convmat.check_adjoint, A, trials=True, fragments=["trials=True", "integer"])
    refused(ValueError, convmat.check_adjoint, A, trials=0, fragments=["trials=0", "at least 1"])
    refused(ValueError, convmat.check_adjoint, A, rtol=-1.0, fragments=["rtol=-1.0", "negative"])
    refused(ValueError, convmat.check_adjoint, A, rtol=float("nan"), fragments=["rtol=nan"])
    with pytest.raises(TypeError):
        convmat.check_adjoint("A")


def test_formats_that_take_far_more_than_csr_are_refused_before_they_are_allocated(monkeypatch):
    A = convmat.Downsample((2000, 2000), 2)
    with pytest.raises(MemoryError, match=r"4000000 in format='dia' needs 32\d{12} bytes .*use format='csr'"):
        A.tosparse("dia")  # 10^6 diagonals, of one entry each
    monkeypatch.setattr(matrix, "_available_memory", lambda: float(2**26))
    B = Conv2d(np.ones((3, 3)), (400, 400), padding=1, method="pointwise")  # sums of integers, exactly
    for format in ("dok", "lil"):
        with pytest.raises(MemoryError, match=f"format='{format}'"):
            B.tosparse(format)
    dia = B.tosparse("dia")
    np.testing.assert_array_equal((dia @ np.arange(160_000.0)), B @ np.arange(160_000.0))
