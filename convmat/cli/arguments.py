"""What the user writes -> what `Conv2d` takes: sizes, channels, paddings, and the layer that they describe.

Or a file of `convmat.save`, in place of all these.
"""

from __future__ import annotations

import argparse
import re
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

import convmat
from convmat.cli import text
from convmat.geometry import Geometry, Padding, as_weight, conv_geometry, conv_transpose_geometry
from convmat.taps import MODES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convmat.operators import Convolution, ImageOperator

EXAMPLES = """\
The number of sizes of --input is the number of axes, 1 to 3. Options mean what
they mean in PyTorch; with --transpose they are those of its ConvTranspose.
  --input 5x5 --kernel 3x3 --stride 2 --padding 1
  --input 64 --kernel 5 --padding same --dilation 2 --channels 4,8
  --input 8x8 --kernel 3x3 --padding 0:1,0:1 --padding-mode reflect
  --input 4x4 --kernel 3x3 --stride 2 --transpose --output-padding 1"""


class BadArgument(Exception):  # noqa: N818, it is what the user gave
    """An argument that cannot be used; its message is for the user."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and to which ``--padding -1:0`` is an option and its value."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"convmat: {one_line(message)} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        for i in range(len(words) - 1, 0, -1):
            if words[i - 1] == "--padding" and re.match(r"-\d", words[i]):
                words[i - 1 : i + 1] = [f"--padding={words[i]}"]
        return super().parse_known_args(words, namespace)


@dataclass(frozen=True)
class Layer:
    """A layer whose geometry is known, and whose weights need not exist before they are asked for.

    `geometry` is that of the convolution, also where the operator is its transpose.
    """

    geometry: Geometry
    transposed: bool
    weight: NDArray[Any] | None
    seed: int
    arguments: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The name of the operator's class."""
        return f"Conv{'Transpose' if self.transposed else ''}{self.geometry.ndim}d"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what goes into the operator."""
        return self.geometry.output_shape if self.transposed else self.geometry.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what comes out of it."""
        return self.geometry.input_shape if self.transposed else self.geometry.output_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the matrix."""
        return np.dtype(np.float64) if self.weight is None else self.weight.dtype

    def operator(self) -> Convolution:
        """The operator: with the weights of the file, or with standard normal ones."""
        weight = self.weight
        if weight is None:
            weight = np.random.default_rng(self.seed).standard_normal(self.geometry.weight_shape)
        operator: Convolution = getattr(convmat, self.kind)(weight, **self.arguments)
        return operator

    @classmethod
    def of(cls, A: Convolution) -> Layer:
        """The layer that an operator is."""
        from convmat.operators import ConvTranspose

        geometry, transposed = A.geometry, isinstance(A, ConvTranspose)
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "flip")
        sizes = {"input_size": geometry.input_size}
        if transposed:
            sizes = {"input_size": geometry.output_size, "output_size": geometry.input_size}
        return cls(geometry, transposed, A.weight, 0, {name: getattr(geometry, name) for name in names} | sizes)


def _modes(words: str) -> str | list[str]:
    """A padding mode, or one per axis with commas between them."""
    modes = words.split(",")
    return modes if len(modes) > 1 else words


def add_operator(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a layer, and the file that may take their place."""
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE",
                        help="a file of convmat.save, with any operator, instead of a layer")  # fmt: skip
    add_geometry(parser, required=False)


def add_geometry(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that describe a layer."""
    options = parser.add_argument_group("the layer")
    options.add_argument("--input", type=sizes, required=required, metavar="SIZE",
                         help="size of what goes in, 28 or 28x28 or 8x8x8")  # fmt: skip
    kernel = options.add_mutually_exclusive_group(required=required)
    kernel.add_argument("--kernel", type=sizes, metavar="SIZE", help="kernel size, 3 or 3x3")
    kernel.add_argument("--weight", type=Path, metavar="FILE",
                        help="a .npy file with the weight, (out, in/groups, kernel) or the kernel alone")  # fmt: skip
    options.add_argument("--stride", type=sizes, default=1, metavar="S", help="one number, or one per axis: 2 or 2x1")
    options.add_argument("--padding", type=padding, default=0, metavar="P",
                         help="1, per axis 1,2 or 1x2, (lo, hi) pairs 0:1,0:1 (a negative number crops), or one of "
                              "same, valid, full, same_upper, same_lower")  # fmt: skip
    options.add_argument("--dilation", type=sizes, default=1, metavar="D", help="one number, or one per axis")
    options.add_argument("--padding-mode", default="zeros", type=_modes, metavar="MODE",
                         help=", ".join(MODES) + "; or one per axis, circular,reflect")  # fmt: skip
    options.add_argument("--channels", type=channels, metavar="IN,OUT", help="channels; without them there is no axis")
    options.add_argument("--in-channels", type=int, metavar="IN", help="the same, one by one")
    options.add_argument("--out-channels", type=int, metavar="OUT")
    options.add_argument("--groups", type=int, default=1, metavar="G", help="groups of channels that do not mix")
    options.add_argument("--flip", action="store_true", help="flip the kernel: the convolution of mathematics")
    options.add_argument("--transpose", action="store_true", help="the transposed convolution")
    options.add_argument(
        "--output-padding", type=sizes, metavar="P", help="chooses the output size of a transposed convolution"
    )
    options.add_argument("--output-size", type=sizes, metavar="SIZE", help="that size itself")
    options.add_argument("--seed", type=int, default=0, help="of the random weights (default 0)")


def layer_or_operator(parsed: Namespace) -> Layer | ImageOperator:
    """The layer that the parsed options describe, or the operator in the file; a convolution in a file is a layer.

    Raises
    ------
    BadArgument
        If they describe none, both are given, or the file cannot be read.
    """
    if parsed.file is None:
        if parsed.input is None:
            raise BadArgument("the following arguments are required: --input, or the file of an operator")
        if parsed.kernel is None and parsed.weight is None:
            raise BadArgument("one of the arguments --kernel --weight is required")
        return layer(parsed)
    empty = argparse.ArgumentParser()
    add_geometry(empty, required=False)
    for name, default in vars(empty.parse_args([])).items():
        if getattr(parsed, name) != default:
            file = text.printable(str(parsed.file))
            raise BadArgument(f"--{name.replace('_', '-')} describes a layer, and {file} is one: give one of them")
    from convmat.operators import Convolution

    try:
        operator = convmat.load(parsed.file)
    except (OSError, TypeError, ValueError) as error:
        raise BadArgument(text.printable(str(error))) from error
    return Layer.of(operator) if isinstance(operator, Convolution) else operator


def layer(parsed: Namespace) -> Layer:
    """The layer that the parsed options describe.

    Raises
    ------
    BadArgument
        If they describe none.
    """
    size, kernel = parsed.input, parsed.kernel
    if len(size) > 3:
        raise BadArgument(f"--input {_x(size)} has {len(size)} sizes: it must have 1 to 3")
    if parsed.seed < 0:
        raise BadArgument(f"--seed {parsed.seed} must be at least 0")
    weight = None if parsed.weight is None else _load(parsed.weight)
    if weight is None:
        if len(kernel) not in (1, len(size)):
            raise BadArgument(f"--kernel {_x(kernel)} must have 1 size or {len(size)}, as --input {_x(size)} has")
        kernel = kernel * len(size) if len(kernel) == 1 else kernel
    shape = (*_channel_axes(parsed), *kernel) if weight is None else weight.shape
    if weight is not None and (parsed.channels or parsed.in_channels or parsed.out_channels):
        raise BadArgument("--weight has its own channels: give no --channels with it")

    names = ("stride", "padding", "dilation", "groups", "padding_mode", "flip")
    arguments = {name: _per_axis(getattr(parsed, name)) for name in names} | {"input_size": size}
    given = {name: _per_axis(value) for name in ("output_padding", "output_size")
             if (value := getattr(parsed, name)) is not None}  # fmt: skip
    if given and not parsed.transpose:
        raise BadArgument(f"--{next(iter(given)).replace('_', '-')} needs --transpose")
    resolve: Callable[..., Geometry] = conv_transpose_geometry if parsed.transpose else conv_geometry
    try:
        geometry = resolve(shape, **arguments, **given)
    except (TypeError, ValueError) as error:
        raise BadArgument(str(error)) from error
    return Layer(geometry, parsed.transpose, weight, parsed.seed, arguments | given)


def sizes(text: str) -> tuple[int, ...]:
    """The numbers of ``5``, ``5x5`` or ``5,5``."""
    try:
        return tuple(int(word) for word in re.split("[x,]", text.strip()))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} must be whole numbers, such as 5 or 5x5 or 5,5") from None


def channels(text: str) -> tuple[int, int]:
    """The two numbers of ``3,8``."""
    numbers = sizes(text)
    if len(numbers) != 2:
        raise ArgumentTypeError(f"{text!r} must be two numbers, IN,OUT")
    return numbers[0], numbers[1]


def padding(text: str) -> Padding:
    """A padding as `Conv2d` takes it: ``1``, ``1,2``, ``1x2``, ``0:1,0:1``, or a word."""
    if re.fullmatch(r"[a-z_]+", text):
        return text
    try:
        entries = [[int(number) for number in word.split(":")] for word in re.split("[x,]", text.strip())]
    except ValueError:
        entries = [[]]
    if not all(1 <= len(entry) <= 2 for entry in entries):
        raise ArgumentTypeError(f"{text!r} must be a number, one per axis (1,2), pairs lo:hi (0:1,0:1), or a word")
    parts: list[Any] = [entry[0] if len(entry) == 1 else tuple(entry) for entry in entries]
    return parts[0] if len(parts) == 1 and isinstance(parts[0], int) else tuple(parts)


def one_line(message: str) -> str:
    """A message without its line breaks."""
    return " ".join(message.split())


def _channel_axes(parsed: Namespace) -> tuple[int, ...]:
    """The two leading axes of the weight, or none."""
    one_by_one = (parsed.in_channels, parsed.out_channels)
    if parsed.channels is None and one_by_one == (None, None):
        if parsed.groups != 1:
            raise BadArgument(f"--groups {parsed.groups} needs --channels IN,OUT")
        return ()
    if parsed.channels is not None and one_by_one != (None, None):
        raise BadArgument("--channels and --in-channels or --out-channels say the same: give one of them")
    if parsed.channels is None and None in one_by_one:
        raise BadArgument("--in-channels and --out-channels must be given together")
    ins, outs = parsed.channels or one_by_one
    groups = parsed.groups
    if min(ins, outs, groups) < 1:
        raise BadArgument(f"--channels {ins},{outs} and --groups {groups} must be at least 1")
    if ins % groups or outs % groups:
        raise BadArgument(f"--groups {groups} must divide the channels, {ins} and {outs}")
    return (ins, outs // groups) if parsed.transpose else (outs, ins // groups)


def _load(path: Path) -> NDArray[Any]:
    try:
        return as_weight(np.load(path, allow_pickle=False))
    except (OSError, TypeError, ValueError, EOFError) as error:
        raise BadArgument(f"--weight {path} cannot be used: {error}") from error


def _per_axis(value: Any) -> Any:
    """One number for all axes, or one for each."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], int) else value


def _x(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))
