"""Arguments -> Geometry: every form and word, and what a geometry says of itself when printed."""

import copy
import dataclasses
import itertools
import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import given

from convmat import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, Geometry, conv_matrix
from convmat.geometry import conv_geometry, conv_transpose_geometry
from tests import oracle
from tests.strategies import CONV, CONV_TRANSPOSE, layers, transposed_layers, tries

# --- forms of the arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("padding", "pairs"),
    [
        (2, ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, 2], ((1, 1), (2, 2))),
        (np.array([1, 2]), ((1, 1), (2, 2))),
        (np.int8(2), ((2, 2), (2, 2))),
        (np.array(2), ((2, 2), (2, 2))),
        (((1, 2), (0, 3)), ((1, 2), (0, 3))),
        ([[1, 2], [0, 3]], ((1, 2), (0, 3))),
        (np.array([[1, 2], [0, 3]]), ((1, 2), (0, 3))),
        (((-1, 2), (0, -2)), ((-1, 2), (0, -2))),
        ("valid", ((0, 0), (0, 0))),
        ("same", ((0, 1), (2, 2))),
        ("full", ((1, 1), (4, 4))),
    ],
)
def test_padding_is_resolved_to_pairs(padding, pairs):
    assert conv_geometry((2, 3), (9, 8), padding=padding, dilation=(1, 2)).padding == pairs


@pytest.mark.parametrize("value", [(2, 2), [2, 2], np.array([2, 2]), 2, np.int64(2), np.array(2)])
def test_one_number_per_axis_or_one_for_all(value):
    expected = conv_geometry((2, 3), (9, 8), stride=(2, 2), dilation=(2, 2))
    assert conv_geometry((2, 3), (9, 8), stride=value, dilation=value) == expected
    assert type(expected.stride[0]) is int
    assert all(type(n) is int for n in conv_geometry((2,), (np.int64(9),), stride=np.int8(2)).output_size)
    transposed = conv_transpose_geometry((3, 3), (4, 4), stride=3, output_padding=value)
    assert transposed == conv_transpose_geometry((3, 3), (4, 4), stride=3, output_padding=(2, 2))


@pytest.mark.parametrize("size", [7, (7,), [7], np.int32(7), np.array([7])])
def test_input_size_of_one_axis_is_a_number_or_a_tuple(size):
    assert Conv1d([1.0, 2.0], size).geometry.input_size == (7,)
    assert conv_matrix([1.0, 2.0], size).shape == (6, 7)
    assert ConvTranspose1d([1.0, 2.0], size).shape == (8, 7)


def test_groups_and_channels_are_those_of_the_weight():
    geometry = conv_geometry((6, 2, 3), 9, groups=3)
    assert (geometry.in_channels, geometry.out_channels, geometry.groups) == (6, 6, 3)
    assert (geometry.input_shape, geometry.output_shape) == ((6, 9), (6, 7))
    plain = conv_geometry((3,), 9)
    assert (plain.in_channels, plain.out_channels) == (1, 1)
    assert (plain.input_shape, plain.output_shape, plain.weight_shape) == ((9,), (7,), (3,))


def test_transposed_layout_of_the_weight_is_that_of_pytorch():
    """ConvTranspose takes (C_in, C_out / groups, K): its own input channels come first."""
    B = ConvTranspose2d(np.ones((4, 3, 2, 2)), (5, 5), groups=2)
    assert (B.input_shape, B.output_shape) == ((4, 5, 5), (6, 6, 6))


@tries(300)
@given(layers())
def test_sizes_and_shapes_are_those_of_the_formula(layer):
    A = layer.operator()
    g = A.geometry
    assert g.output_size == layer.output_size
    formula = [
        (n + lo + hi - d * (k - 1) - 1) // s + 1
        for n, (lo, hi), d, k, s in zip(
            layer.size, layer.padding, layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    ]
    assert list(g.output_size) == formula
    assert g.weight_shape == layer.weight.shape
    assert A.shape == (math.prod(A.output_shape), math.prod(A.input_shape)) == g.shape


@tries(300)
@given(transposed_layers())
def test_transposed_size_is_that_of_the_formula_and_its_geometry_that_of_the_convolution(case):
    layer, inputs, extra, outputs = case
    B = CONV_TRANSPOSE[layer.ndim](layer.weight, inputs, output_padding=extra, **layer.options)
    assert B.geometry.input_size == outputs
    assert B.geometry.output_size == inputs
    assert B.T.geometry is B.geometry
    g = B.geometry
    A = CONV[layer.ndim](layer.weight, outputs, stride=g.stride, padding=g.padding, dilation=g.dilation,
                         groups=g.groups, padding_mode=g.padding_mode, flip=g.flip)  # fmt: skip
    assert A.geometry == g
    np.testing.assert_array_equal(A.toarray().T, B.toarray())


# --- words --------------------------------------------------------------------------------------------------------

SIZES = list(itertools.product(range(1, 12), range(1, 6), range(1, 5), range(1, 4)))
"""(N, K, s, d)."""


@pytest.mark.parametrize("word", ["same_upper", "same_lower"])
def test_same_upper_and_same_lower_are_the_formula_of_onnx(word):
    for n, k, s, d in SIZES:
        geometry = conv_geometry((k,), n, stride=s, dilation=d, padding=word)
        output = math.ceil(n / s)
        total = max(0, (output - 1) * s + ((k - 1) * d + 1) - n)
        small, large = total // 2, total - total // 2
        assert geometry.padding == (((small, large) if word == "same_upper" else (large, small)),)
        assert geometry.output_size == (output,)


def test_same_keeps_the_size_and_puts_the_odd_sample_at_the_end():
    for n, k, _, d in SIZES:
        geometry = conv_geometry((k,), n, dilation=d, padding="same")
        ((lo, hi),) = geometry.padding
        assert geometry.output_size == (n,)
        assert hi - lo == (d * (k - 1)) % 2


def test_full_reads_every_sample_through_every_tap():
    for n, k, s, d in SIZES:
        geometry = conv_geometry((k,), n, dilation=d, stride=s, padding="full")
        assert geometry.output_size == (oracle.count(0, n - 1 + d * (k - 1), s),)
        assert geometry.padding == ((d * (k - 1),) * 2,)


@pytest.mark.parametrize("word", ["same_upper", "same_lower"])
def test_transposed_same_upper_and_lower_give_m_times_s_by_default_and_reach_every_size_that_gives_m(word):
    for m, k, s, d in SIZES:
        assert ConvTranspose1d(np.ones(k), m, stride=s, dilation=d, padding=word).shape == (m * s, m)
        for n in range(max(1, (m - 1) * s - 2), m * s + 3):
            if math.ceil(n / s) == m:
                B = ConvTranspose1d(np.ones(k), m, stride=s, dilation=d, padding=word, output_size=n)
                assert B.T.geometry == Conv1d(np.ones(k), n, stride=s, dilation=d, padding=word).geometry
            else:
                with pytest.raises(ValueError, match="output_size"):
                    ConvTranspose1d(np.ones(k), m, stride=s, dilation=d, padding=word, output_size=n)


@pytest.mark.parametrize("word", ["valid", "full", "same"])
def test_transposed_word_means_the_pads_of_the_convolution(word):
    for m, k, s, d in SIZES:
        if word == "same" and s > 1:
            continue
        ((lo, hi),) = conv_geometry((k,), 50, stride=s, dilation=d, padding=word).padding
        n = (m - 1) * s + d * (k - 1) + 1 - lo - hi
        if n < 1:
            with pytest.raises(ValueError, match="padding"):
                ConvTranspose1d(np.ones(k), m, stride=s, dilation=d, padding=word)
            continue
        B = ConvTranspose1d(np.ones(k), m, stride=s, dilation=d, padding=word)
        assert B.shape == (n, m)
        assert B.T.geometry == Conv1d(np.ones(k), n, stride=s, dilation=d, padding=word).geometry


def test_output_size_is_possible_exactly_where_the_convolution_has_this_output():
    for m, k, s, d in SIZES:
        for n in range(1, m * s + d * k + 3):
            reached = n >= d * (k - 1) + 1 - 2 and oracle.output_size(n, k, s, d, 1, 1) == m
            if reached:
                assert ConvTranspose1d(np.ones(k), m, stride=s, dilation=d, padding=1, output_size=n).shape == (n, m)
            else:
                with pytest.raises(ValueError, match=rf"output_size={n} "):
                    ConvTranspose1d(np.ones(k), m, stride=s, dilation=d, padding=1, output_size=n)


def test_an_output_size_that_is_not_reached_is_told_which_are():
    sizes = [n for n in range(1, 40) if oracle.output_size(n, 3, 4, 1, 1, 1) == 5]
    with pytest.raises(ValueError, match=rf"output_size=30 .* {sizes[0]}\.\.{sizes[-1]}"):
        ConvTranspose1d(np.ones(3), 5, stride=4, padding=1, output_size=30)


# --- a geometry is a value ------------------------------------------------------------------------------------------


def test_geometry_is_frozen_and_compares_by_value():
    a, b = conv_geometry((3,), 9, padding=1), conv_geometry((3,), 9, padding="same")
    assert a == b
    assert hash(a) == hash(b)
    assert a != conv_geometry((3,), 9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.stride = (2,)


def test_geometry_survives_pickle_and_copy():
    geometry = conv_geometry((2, 1, 3, 2), (9, 8), padding=((1, -1), (0, 2)), padding_mode="reflect", groups=2)
    for other in (pickle.loads(pickle.dumps(geometry)), copy.copy(geometry), copy.deepcopy(geometry)):
        assert isinstance(other, Geometry)
        assert other == geometry
        assert str(other) == str(geometry)


# --- what it prints -------------------------------------------------------------------------------------------------


def line(geometry, name):
    """The text after a name, in the printed geometry."""
    return next(text for text in str(geometry).splitlines() if text.startswith(name))[len(name) :].strip()


def ranges(text):
    """Per axis the numbers a..b (or a) in a text such as '3..4 x 7'."""
    found = []
    for part in text.split(" x "):
        low, high = re.fullmatch(r"\D*(\d+)(?:\.\.(\d+))?", part).groups()
        found.append(range(int(low), int(high or low) + 1))
    return found


def never_read(text):
    """Axis -> (the sample numbers named, how many there are), of a text such as 'axis 0: 3..4, axis 1: 7, 9'."""
    found = {}
    for axis, samples in re.findall(r"axis (\d+): (.+?)(?=, axis|$)", text):
        numbers = []
        for low, high in re.findall(r"(?:^|, )(\d+)(?:\.\.(\d+))?", samples):
            numbers += range(int(low), int(high or low) + 1)
        total = re.search(r"\.\.\. \((\d+) samples\)", samples)
        found[int(axis)] = numbers, int(total[1]) if total else len(numbers)
    return found


def test_print_says_what_was_asked_and_what_it_means():
    A = Conv2d(np.ones((4, 1, 3, 2)), (9, 8), stride=(2, 1), padding="same_lower", groups=2, flip=True,
               padding_mode="reflect")  # fmt: skip
    text = str(A.geometry)
    assert repr(A.geometry) == text
    assert 4 <= len(text.splitlines()) <= 10
    for fact in ("2 -> 4 channels", "kernel 3 x 2", "flipped", "stride 2 x 1", "groups 2", "'same_lower'", "reflect",
                 "(1, 1) x (1, 0)", "9 x 8", "5 x 8", f"{4 * 40} x {2 * 72}", f"{A.nnz} stored"):  # fmt: skip
        assert fact in text, fact


@tries(300)
@given(layers())
def test_print_names_the_samples_that_no_output_reads(layer):
    said = never_read(line(layer.operator().geometry, "never read"))
    ones = [np.ones(k) for k in layer.kernel_size]
    for axis, kernel in enumerate(ones):
        options = {"stride": (layer.stride[axis],), "padding": (layer.padding[axis],),
                   "dilation": (layer.dilation[axis],), "padding_mode": layer.padding_mode}  # fmt: skip
        read = oracle.pattern(kernel.shape, (layer.size[axis],), **options).any(axis=0)
        unread = np.flatnonzero(~read).tolist()
        named, total = said.get(axis, ([], 0))
        assert total == len(unread)
        assert named == unread[: len(named)]
        assert len(named) >= min(total, 6)


def test_print_shortens_a_long_list_of_samples_and_counts_them():
    text = line(Conv1d([1.0], 40, stride=3).geometry, "never read")
    assert "1, 2, 4, 5" in text
    assert f"({40 - len(range(0, 40, 3))} samples)" in text
    assert line(Conv1d([1.0, 1.0], 40).geometry, "never read") == "nothing"


@tries(300)
@given(layers(modes=("zeros", "replicate", "symmetric")))
def test_print_names_the_input_sizes_that_share_the_output_size(layer):
    said = ranges(line(layer.operator().geometry, "same output"))
    for axis, sizes in enumerate(said):
        k, s, d, (lo, hi) = (v[axis] for v in (layer.kernel_size, layer.stride, layer.dilation, layer.padding))
        m = layer.output_size[axis]
        same = [n for n in range(1, 60) if lo + n + hi > d * (k - 1) and oracle.output_size(n, k, s, d, lo, hi) == m]
        assert list(sizes) == same


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_print_names_only_input_sizes_that_the_padding_mode_allows(mode):
    said = ranges(line(Conv1d(np.ones(3), 4, stride=4, padding=3, padding_mode=mode).geometry, "same output"))[0]

    def output(n):
        try:
            return Conv1d(np.ones(3), n, stride=4, padding=3, padding_mode=mode).shape[0]
        except ValueError:
            return None

    assert list(said) == [n for n in range(1, 20) if output(n) == output(4)]


@pytest.mark.parametrize("word", ["same_upper", "same_lower"])
def test_print_names_the_input_sizes_that_share_the_output_size_of_a_word(word):
    for n, k, s, d in SIZES:
        said = ranges(line(Conv1d(np.ones(k), n, stride=s, dilation=d, padding=word).geometry, "same output"))[0]
        assert list(said) == [i for i in range(1, 60) if math.ceil(i / s) == math.ceil(n / s)]


def test_print_of_a_transposed_convolution_is_that_of_the_convolution():
    A = Conv1d(np.ones(3), 8, stride=2, padding=1)
    B = ConvTranspose1d(np.ones(3), 4, stride=2, padding=1, output_padding=1)
    assert str(A.geometry) == str(A.T.geometry) == str(B.geometry)


@tries(100)
@given(transposed_layers())
def test_print_of_every_transposed_geometry_is_about_its_own_sizes(case):
    layer, inputs, extra, outputs = case
    B = CONV_TRANSPOSE[layer.ndim](layer.weight, inputs, output_padding=extra, **layer.options)
    assert line(B.geometry, "input") == " x ".join(map(str, outputs))
    assert line(B.geometry, "output") == " x ".join(map(str, inputs))
    for sizes, n in zip(ranges(line(B.geometry, "same output")), outputs, strict=True):
        assert n in sizes


@pytest.mark.parametrize(("taps", "options"), [(5, {"dilation": 2**28}), (2**16, {}), (3, {"stride": 2**30})])
def test_print_looks_for_unread_samples_only_where_that_is_little_work(taps, options):
    A = Conv1d(np.ones(taps), 2**40, **options)
    assert "never read   not counted: too many reads to look at" in str(A.geometry)
    assert "never read   nothing" in str(Conv1d(np.ones(3), 9, padding=2**10).geometry)
