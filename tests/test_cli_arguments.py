"""Sizes, channels and paddings as they are written, and the layers that they describe."""

import argparse
import io
from argparse import ArgumentTypeError

import numpy as np
import pytest

import convmat
from convmat.cli import arguments
from tests import cli


def layer(*words):
    parser = argparse.ArgumentParser()
    arguments.add_geometry(parser)
    return arguments.layer(parser.parse_args(list(map(str, words))))


@pytest.mark.parametrize(("text", "numbers"), [("5", (5,)), ("5x6", (5, 6)), ("5,6,7", (5, 6, 7)), (" 3 ", (3,))])
def test_sizes(text, numbers):
    assert arguments.sizes(text) == numbers


@pytest.mark.parametrize("text", ["", "5x", "x", "five", "5.0", "5;6"])
def test_sizes_must_be_whole_numbers(text):
    with pytest.raises(ArgumentTypeError, match="must be whole numbers"):
        arguments.sizes(text)


@pytest.mark.parametrize(
    ("text", "padding"),
    [
        ("1", 1),
        ("1,2", (1, 2)),
        ("1x2", (1, 2)),
        ("0:1,0:1", ((0, 1), (0, 1))),
        ("0:1", ((0, 1),)),
        ("-1:2x0:0", ((-1, 2), (0, 0))),
        ("same", "same"),
        ("same_upper", "same_upper"),
    ],
)
def test_paddings(text, padding):
    assert arguments.padding(text) == padding


@pytest.mark.parametrize("text", ["", "1:2:3", "1:", "1,same", "1.5", "Same1"])
def test_paddings_that_are_none(text):
    with pytest.raises(ArgumentTypeError, match="must be a number, one per axis"):
        arguments.padding(text)


OPTIONS = {
    "plain": ("", {}),
    "per axis": (
        "--stride 2x1 --dilation 1,2 --padding 1,2",
        {"stride": (2, 1), "dilation": (1, 2), "padding": (1, 2)},
    ),
    "pairs": ("--padding 0:1,2:0", {"padding": ((0, 1), (2, 0))}),
    "crop": ("--padding -1:1,0:0", {"padding": ((-1, 1), (0, 0))}),
    "word": ("--padding full", {"padding": "full"}),
    "mode and flip": (
        "--padding 1 --padding-mode circular --flip",
        {"padding": 1, "padding_mode": "circular", "flip": True},
    ),
}


@pytest.mark.parametrize(("words", "options"), OPTIONS.values(), ids=OPTIONS)
def test_the_layer_is_that_of_the_api(words, options):
    parser = arguments.Parser()
    arguments.add_geometry(parser)
    parsed = parser.parse_args(["--input", "7x8", "--kernel", "3x2", *words.split()])
    found = arguments.layer(parsed)
    A = convmat.Conv2d(np.ones((3, 2)), (7, 8), **options)
    assert found.geometry == A.geometry
    assert str(found.geometry) == str(A.geometry)
    operator = found.operator()
    assert type(operator) is convmat.Conv2d
    assert operator.geometry == A.geometry


@pytest.mark.parametrize("channels", [("--channels", "4,6"), ("--in-channels", 4, "--out-channels", 6)])
@pytest.mark.parametrize("transpose", [(), ("--transpose",)])
def test_channels_are_those_that_go_in_and_come_out(channels, transpose):
    found = layer("--input", "9", "--kernel", "3", *channels, "--groups", 2, *transpose)
    operator = found.operator()
    assert found.kind == type(operator).__name__ == ("ConvTranspose1d" if transpose else "Conv1d")
    assert operator.input_shape == found.input_shape == (4, 9)
    assert operator.output_shape == found.output_shape
    assert operator.output_shape[0] == 6


def test_transposed_arguments():
    found = layer(
        "--input", "4x4", "--kernel", "3", "--stride", "2", "--padding", "1", "--transpose", "--output-size", "8x8"
    )
    B = convmat.ConvTranspose2d(np.ones((3, 3)), (4, 4), stride=2, padding=1, output_size=(8, 8))
    assert found.geometry == B.geometry
    other = layer(
        "--input", "4x4", "--kernel", "3", "--stride", "2", "--padding", "1", "--transpose", "--output-padding", "1"
    )
    assert other.geometry == B.geometry


def test_weights_are_those_of_the_seed_or_of_the_file(tmp_path):
    words = ("--input", "6x6", "--channels", "2,3", "--kernel", "3")
    first, again, other = (layer(*words, "--seed", seed).operator().weight for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    np.save(tmp_path / "w.npy", first.astype(np.complex64))
    A = layer("--input", "6x6", "--weight", tmp_path / "w.npy").operator()
    assert A.dtype == np.complex64
    assert np.array_equal(A.weight, first.astype(np.complex64))


BAD = {
    "--input 5x5": "one of the arguments --kernel --weight is required",
    "--kernel 3": "the following arguments are required: --input",
    "--input 5x --kernel 3": "'5x' must be whole numbers",
    "--input 2x2x2x2 --kernel 1": "--input 2x2x2x2 has 4 sizes: it must have 1 to 3",
    "--input 5x5 --kernel 3x3x3": "--kernel 3x3x3 must have 1 size or 2",
    "--input 5x5 --kernel 7": "it must not be larger than the padded input, 5 x 5",
    "--input 0x5 --kernel 1": "input_size=(0, 5) must be at least 1",
    "--input 5x5 --kernel 0": "every axis must have at least 1 entry",
    "--input 5x5 --kernel 3 --stride 0": "stride=0 must be at least 1",
    "--input 5x5 --kernel 3 --stride 1x1x1": "one entry per spatial axis, 2",
    "--input 5x5 --kernel 3 --padding same --stride 2": "needs stride 1, not 2 x 2: use 'same_upper' or 'same_lower'",
    "--input 5x5 --kernel 3 --padding most": "padding='most' must be one of",
    "--input 5x5 --kernel 3 --padding -1": "padding=-1 must be at least 0",
    "--input 5x5 --kernel 3 --padding 1:1,2": "must be all integers or all (lo, hi) pairs",
    "--input 5x5 --kernel 3 --padding-mode wrap": "padding_mode='wrap' must be one of 'zeros'",
    "--input 5x5 --kernel 3 --groups 2": "--groups 2 needs --channels IN,OUT",
    "--input 5x5 --kernel 3 --groups 2 --channels 3,4": "--groups 2 must divide the channels, 3 and 4",
    "--input 5x5 --kernel 3 --groups 0 --channels 3,4": "must be at least 1",
    "--input 5x5 --kernel 3 --channels 3": "'3' must be two numbers, IN,OUT",
    "--input 5x5 --kernel 3 --channels 3,4 --in-channels 3": "say the same: give one of them",
    "--input 5x5 --kernel 3 --in-channels 3": "must be given together",
    "--input 5x5 --kernel 3 --output-padding 1": "--output-padding needs --transpose",
    "--input 5x5 --kernel 3 --output-size 1": "--output-size needs --transpose",
    "--input 5x5 --kernel 3 --transpose --output-padding 1": "must be smaller than the stride",
    "--input 5x5 --kernel 3 --transpose --output-size 99": "the possible sizes are 7..7 x 7..7",
    "--input 5x5 --kernel 3 --seed -1": "--seed -1 must be at least 0",
    "--input 5x5 --kernel 3 --weight w.npy": "not allowed with argument",
    "--input 5x5 --weight no-such-file.npy": "--weight no-such-file.npy cannot be used: ",
    f"--input 5x5 --weight {__file__}": "cannot be used: ",
}


@pytest.mark.parametrize(("words", "message"), BAD.items())
@pytest.mark.parametrize("command", ["show", "spectrum"])
def test_bad_layers_exit_with_2_and_one_line(command, words, message):
    status, printed = cli.fail(command, *words.split())
    assert status == 2
    assert message in printed
    assert printed.endswith(f" (see convmat {command} --help)\n")


def test_a_weight_file_excludes_channels_and_must_hold_numbers(tmp_path):
    np.save(tmp_path / "w.npy", np.ones((1, 1, 3, 3)))
    status, printed = cli.fail("show", "--input", "5x5", "--weight", tmp_path / "w.npy", "--channels", "1,1")
    assert (status, "--weight has its own channels" in printed) == (2, True)
    np.save(tmp_path / "text.npy", np.array(["a"]))
    status, printed = cli.fail("show", "--input", "5", "--weight", tmp_path / "text.npy")
    assert (status, "weight has dtype" in printed) == (2, True)
    (tmp_path / "empty.npy").write_bytes(b"")
    assert cli.fail("show", "--input", "5", "--weight", tmp_path / "empty.npy")[0] == 2


def test_errors_of_several_lines_become_one():
    assert arguments.one_line("a\n  b\n") == "a b"


def test_a_negative_padding_is_a_value_whatever_comes_before(monkeypatch):
    monkeypatch.setattr("sys.argv", ["convmat", "show", "--input", "5", "--kernel", "2", "--padding", "-1:2"])
    output = io.StringIO()
    monkeypatch.setattr("sys.stdout", output)
    assert convmat.cli.main() == 0
    assert "(lo, hi) = (-1, 2)" in output.getvalue()
