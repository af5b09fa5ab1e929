"""Arguments -> one frozen `Geometry`. Every rule about the arguments, and every message, is in this module.

Everything below a `Geometry` runs on plain integers and asks no more questions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import html
from convmat.occupancy import counted_quickly, entries_in_cells
from convmat.parts import AxisPart, Runs, taken
from convmat.patterns import by_rows, never_read
from convmat.taps import COMBINATIONS, MODES, Axis

IntOrTuple = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]
Pair = tuple[int, int]
PaddingMode = str | tuple[str, ...]
Modes = str | Sequence[str]

_LARGEST = 2**62
"""Sizes and matrix shapes stay below this, so that 64-bit index arithmetic cannot overflow."""

_CROP_HINT = "; only a (lo, hi) pair may be negative, and crops"

_MOST_WORK = 2**20
"""Reads that `print` looks at, for the samples that no output reads, and for the number of entries."""

DTYPES = tuple(np.dtype(t) for t in (np.float32, np.float64, np.complex64, np.complex128))


@dataclass(frozen=True, repr=False)
class Geometry:
    """A convolution with everything resolved: what the taps, the matrix and the products run on.

    The geometry of a transposed convolution is that of the convolution which it transposes.

    Attributes
    ----------
    input_size, output_size, kernel_size : tuple of int
        (N_1..N_D), (M_1..M_D), (K_1..K_D).
    stride, dilation : tuple of int
    padding : tuple of (int, int)
        (lo, hi) per axis; a negative entry crops.
    padding_mode : str or tuple of str
        One word, or one for each axis where they differ.
    groups, in_channels, out_channels : int
    channels : bool
        Whether images have a channel axis; without one, both channel counts are 1.
    flip : bool
        Whether the kernel is flipped on every spatial axis (a true convolution).

    Examples
    --------
    >>> import convmat
    >>> A = convmat.Conv2d([[1.0, 2.0], [3.0, 4.0]], (5, 6), stride=2)
    >>> A.geometry.output_size, A.geometry.nnz
    ((2, 3), 24)
    """

    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[Pair, ...]
    padding_mode: PaddingMode
    groups: int
    in_channels: int
    out_channels: int
    channels: bool
    flip: bool
    asked: str = field(default="", compare=False)
    """The padding as the caller wrote it, for print."""
    sharing: tuple[Pair, ...] = field(default=(), compare=False)
    """Per axis the smallest and the largest input size that give the same output size."""
    part: Part | None = field(default=None, compare=False)
    """What this is a part of, if products are to be rounded as they are there."""

    @property
    def ndim(self) -> int:
        """Number of spatial axes D."""
        return len(self.input_size)

    @property
    def modes(self) -> tuple[str, ...]:
        """The padding mode of each axis."""
        return (self.padding_mode,) * self.ndim if isinstance(self.padding_mode, str) else self.padding_mode

    @property
    def axes(self) -> tuple[Axis, ...]:
        """One `Axis` per spatial axis."""
        return tuple(
            Axis(n, k, s, d, lo, hi, mode)
            for n, k, s, d, (lo, hi), mode in zip(
                self.input_size, self.kernel_size, self.stride, self.dilation, self.padding, self.modes, strict=True
            )
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an image that goes into the convolution: (C_in, N_1..N_D), without C_in if there are no channels."""
        return (self.in_channels, *self.input_size) if self.channels else self.input_size

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an image that comes out: (C_out, M_1..M_D), without C_out if there are no channels."""
        return (self.out_channels, *self.output_size) if self.channels else self.output_size

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight as the caller gave it."""
        if not self.channels:
            return self.kernel_size
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix of the convolution."""
        return math.prod(self.output_shape), math.prod(self.input_shape)

    @property
    def nnz(self) -> int:
        """Number of stored entries of the matrix, known without building it."""
        entries = (by_rows(axis, 0, axis.output).entries for axis in self.axes)
        return self.out_channels * (self.in_channels // self.groups) * math.prod(entries)

    @property
    def whole(self) -> Geometry:
        """What this is a part of, or itself."""
        return self if self.part is None else self.part.whole

    @property
    def combines(self) -> bool:
        """Whether the padding mode of an axis sums several samples, so that an entry is not a sum of weights alone."""
        return any(axis.combines for axis in self.axes)

    @property
    def extended(self) -> Geometry:
        """The geometry on the image that is extended along the axes which sum several samples; see `Axis.extended`."""
        if not set(self.whole.modes) & set(COMBINATIONS):
            return self
        axes = [axis.extended for axis in self.axes]
        return replace(
            self,
            input_size=tuple(axis.size for axis in axes),
            padding=tuple((axis.lo, axis.hi) for axis in axes),
            padding_mode=one_or_each([axis.mode for axis in axes]),
            part=self.part and replace(self.part, whole=self.part.whole.extended),
        )

    def narrowed(self, axes: Sequence[AxisPart], channels: Channels) -> Geometry:
        """The geometry of a part of each axis, and of some of the channels.

        Returns
        -------
        Geometry
        """
        runs = tuple(part.outputs for part in axes)
        first = (
            channels.out_channels[0] % (self.out_channels // self.groups),
            channels.in_channels[0] % (self.in_channels // self.groups),
        )
        if self.part is not None:
            runs = tuple(taken(outer, inner) for outer, inner in zip(self.part.outputs, runs, strict=True))
            first = first[0] + self.part.channels[0], first[1] + self.part.channels[1]
        return replace(
            self,
            input_size=tuple(part.axis.size for part in axes),
            output_size=tuple(part.axis.output for part in axes),
            padding=tuple((part.axis.lo, part.axis.hi) for part in axes),
            padding_mode=one_or_each([part.axis.mode for part in axes]),
            groups=channels.groups,
            in_channels=channels.in_channels[1] - channels.in_channels[0],
            out_channels=channels.out_channels[1] - channels.out_channels[0],
            asked="of a part",
            sharing=tuple((part.axis.size, part.axis.size) for part in axes),
            part=Part(self.whole, runs, first),
        )

    def kernel(self, weight: NDArray[Any]) -> NDArray[Any]:
        """The weight with both channel axes and flipped where asked: the kernel of a cross-correlation.

        Returns
        -------
        ndarray, shape (C_out, C_in / groups, K_1, ..., K_D)
            A view.
        """
        kernel = weight.reshape(self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return np.flip(kernel, axis=tuple(range(2, 2 + self.ndim))) if self.flip else kernel

    def __str__(self) -> str:
        axes = self.axes
        channels = f"{self.in_channels} -> {self.out_channels} channels, " if self.channels else ""
        groups = f", groups {self.groups}" if self.groups > 1 else ""
        padding = " x ".join(str(p) for p in self.padding)
        sharing = " x ".join(str(a) if a == b else f"{a}..{b}" for a, b in self.sharing)
        counted = all(_unread_work(axis) <= _MOST_WORK for axis in axes)
        unread = [never_read(axis, 6) for axis in axes] if counted else []
        samples = ", ".join(f"axis {a}: {_span(*u)}" for a, u in enumerate(unread) if u[0]) or "nothing"
        few = all(_border_work(axis) <= _MOST_WORK for axis in axes)
        entries = f"{self.nnz} stored entries" if few else "entries not counted: too many reads to look at"
        lines = [
            ("convolution", f"{channels}kernel {_x(self.kernel_size)}{' (flipped)' if self.flip else ''}, stride "
                            f"{_x(self.stride)}, dilation {_x(self.dilation)}{groups}"),
            ("padding", f"{self.asked}, mode {in_words(self)}: (lo, hi) = {padding}"),
            ("input", f"{_x(self.input_size)}"),
            ("output", f"{_x(self.output_size)}"),
            ("never read", samples if counted else "not counted: too many reads to look at"),
            ("same output", f"from every input size {sharing}"),
            ("matrix", f"{self.shape[0]} x {self.shape[1]}, {entries}"),
        ]  # fmt: skip
        return "\n".join(f"{name:<12} {text}" for name, text in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html.page(str(self), self.shape, self.cells)

    def cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        """Stored entries in each cell of a grid, see `convmat.occupancy`.

        Parameters
        ----------
        row_edges, column_edges : sequence of int
            Where the cells begin, and where the last one ends.

        Returns
        -------
        ndarray or None
            None where counting would take long.
        """
        return entries_in_cells(self, row_edges, column_edges) if counted_quickly(self) else None


def one_or_each(modes: Sequence[str]) -> PaddingMode:
    """One word for all axes, if they have the same."""
    return modes[0] if len(set(modes)) == 1 else tuple(modes)


def in_words(geometry: Geometry) -> str:
    """The padding mode, of each axis where they differ."""
    return geometry.padding_mode if isinstance(geometry.padding_mode, str) else " x ".join(geometry.padding_mode)


@dataclass(frozen=True)
class Channels:
    """Some channels of a convolution, in groups that do not mix: ranges of those that go in and that come out."""

    groups: int
    in_channels: Pair
    out_channels: Pair


@dataclass(frozen=True)
class Part:
    """Where a part of a convolution stands in the whole.

    What a product rounds may depend on where BLAS finds a sample, and on how short lines are treated: a part follows
    the whole in both, so that its results are the same to the last bit.

    Attributes
    ----------
    whole : Geometry
    outputs : tuple of Runs
        Which outputs of the whole those of the part are, per axis.
    channels : (int, int)
        The first channel that comes out and the first that goes in, within their group.
    """

    whole: Geometry
    outputs: tuple[Runs, ...]
    channels: Pair


def as_weight(weight: ArrayLike) -> NDArray[Any]:
    """A private, read-only copy of the weight, in one of the four supported dtypes.

    Raises
    ------
    TypeError
        If it is not an array of real or complex numbers that one of the four dtypes can hold.
    """
    array = np.asarray(weight)
    dtype: np.dtype[Any]
    if array.dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    elif array.dtype == np.float16:
        dtype = np.dtype(np.float32)
    elif array.dtype.newbyteorder("=") in DTYPES:
        dtype = array.dtype.newbyteorder("=")
    else:
        raise TypeError(
            f"weight has dtype {array.dtype}: it must be float32, float64, complex64 or complex128 "
            f"(integers and bools become float64, float16 becomes float32)"
        )
    copy = np.array(array, dtype=dtype, order="C")
    copy.flags.writeable = False
    return copy


def result_dtype(operator_dtype: np.dtype[Any], values: NDArray[Any], name: str = "x") -> np.dtype[Any]:
    """The dtype in which an operator and a vector meet, one of the four.

    Raises
    ------
    TypeError
        If the vector does not hold numbers that one of the four can hold.
    """
    if values.dtype.kind in "biufc":
        dtype = np.result_type(operator_dtype, values.dtype)
        if dtype in DTYPES:
            return dtype
    raise TypeError(
        f"{name} has dtype {values.dtype}: it must hold numbers, of at most float64 or complex128 precision"
    )


def conv_geometry(
    weight_shape: tuple[int, ...],
    input_size: IntOrTuple,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: Modes = "zeros",
    flip: bool = False,
    ndim: int | None = None,
) -> Geometry:
    """The geometry of a convolution.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value; the message names it, what came, and the rule.
    """
    size = _sizes("input_size", input_size, ndim)
    layer = _Layer.parse(weight_shape, len(size), stride, dilation, groups, padding_mode, flip)
    return layer.on(size, layer.pads(padding, size), padding)


def conv_transpose_geometry(
    weight_shape: tuple[int, ...],
    input_size: IntOrTuple,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    output_size: IntOrTuple | None = None,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: Modes = "zeros",
    flip: bool = False,
    ndim: int | None = None,
) -> Geometry:
    """The geometry of the convolution that a transposed convolution transposes; `input_size` is its output size M.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value; the message names it, what came, and the rule.
    """
    outputs = _sizes("input_size", input_size, ndim)
    dims = len(outputs)
    layer = _Layer.parse(weight_shape, dims, stride, dilation, groups, padding_mode, flip)
    extra = _ints("output_padding", output_padding, dims, least=0)
    for s, d, e in zip(layer.stride, layer.dilation, extra, strict=True):
        if e >= max(s, d):
            rule = f"the stride {_x(layer.stride)} or the dilation {_x(layer.dilation)}"
            _fail("output_padding", output_padding, f"must be smaller than {rule} on each axis")

    by_ceiling = padding in ("same_upper", "same_lower") if isinstance(padding, str) else False
    if by_ceiling:
        if any(extra):
            _fail("output_padding", output_padding, f"has no meaning with padding={padding!r}, which makes the output "
                  f"(M-1) s + 1 to M s long: choose one of these by output_size")  # fmt: skip
        largest = tuple(m * s for m, s in zip(outputs, layer.stride, strict=True))
        smallest = tuple(n - s + 1 for n, s in zip(largest, layer.stride, strict=True))
        sizes, pads = largest, None
    else:
        pads = layer.pads(padding, None)
        smallest = tuple(
            (m - 1) * s - lo - hi + d * (k - 1) + 1
            for m, s, (lo, hi), d, k in zip(outputs, layer.stride, pads, layer.dilation, layer.kernel_size, strict=True)
        )
        largest = tuple(n + s - 1 for n, s in zip(smallest, layer.stride, strict=True))
        sizes = tuple(n + e for n, e in zip(smallest, extra, strict=True))

    if output_size is not None:
        if any(extra):
            _fail("output_padding", output_padding, f"and output_size={output_size!r} both choose the output size: "
                  f"give one of them")  # fmt: skip
        sizes = _ints("output_size", output_size, dims, least=None)
        if not all(max(a, 1) <= n <= b for a, n, b in zip(smallest, sizes, largest, strict=True)):
            possible = " x ".join(
                f"{max(a, 1)}..{b}" if b > 0 else "none" for a, b in zip(smallest, largest, strict=True)
            )
            _fail("output_size", output_size, f"is not reached: with input_size={input_size!r} and this geometry the "
                  f"possible sizes are {possible}")  # fmt: skip
    if min(sizes) < 1:
        _fail("padding", padding, f"leaves no output: the transposed convolution of input_size={input_size!r} would "
              f"have the size {_x(sizes)}; every axis must keep at least 1")  # fmt: skip

    if pads is None:
        pads = layer.pads(padding, sizes)
    # With dilation > stride, output_padding may reach past the s sizes that share M: samples that no output reads.
    pads = tuple(
        (lo, hi - s * ((n - a) // s)) for (lo, hi), s, n, a in zip(pads, layer.stride, sizes, smallest, strict=True)
    )
    geometry = layer.on(sizes, pads, padding)
    assert geometry.output_size == outputs
    return geometry


def parse_box(name: str, box: Any, shape: tuple[int, ...]) -> list[Pair]:
    """The ranges (start, stop) of a box of an image of that shape.

    Raises
    ------
    TypeError, ValueError
        If it is not a slice for each axis, of step 1, within the axis and not empty.
    """
    if not _is_list(box) or not all(isinstance(along, slice) for along in box):
        raise TypeError(f"{name}={box!r} must be a tuple of slices, one for each axis of {shape}")
    if len(box) != len(shape):
        _fail(name, box, f"must have one slice for each axis of {shape}")
    found = []
    for along, size in zip(box, shape, strict=True):
        try:
            start, stop, step = along.indices(size)
        except TypeError:
            raise TypeError(f"{name}={box!r} must hold slices of integers") from None
        if step != 1 or not start < stop or (along.stop is not None and along.stop > size):
            _fail(name, box, f"has {along} for an axis of size {size}: it must have step 1, end within the axis, and "
                  f"not be empty")  # fmt: skip
        found.append((start, stop))
    return found


def output_shape_of(name: str, image: NDArray[Any], expected: tuple[int, ...]) -> tuple[int, ...]:
    """The leading batch axes of an image or stack of images.

    Raises
    ------
    ValueError
        If the image does not end in the expected shape.
    """
    lead = image.ndim - len(expected)
    if lead < 0 or image.shape[lead:] != expected:
        raise ValueError(
            f"{name} has shape {image.shape}: it must be {_batch(expected)}, with any batch axes in front"
            f"{_shape_hint(name, image.shape, lead, expected)}"
        )
    return image.shape[:lead]


def _shape_hint(name: str, shape: tuple[int, ...], lead: int, expected: tuple[int, ...]) -> str:
    """What may have been meant: an image with its channels last, or the vector of an image."""
    if len(expected) > 2 and lead >= 0 and shape[lead:] == (*expected[1:], expected[0]):
        order = (*range(lead), len(shape) - 1, *range(lead, len(shape) - 1))
        return f"; channels go first: {name}.transpose{order}"
    if len(expected) > 1 and shape == (math.prod(expected),):
        return f"; a vector goes to A @ {name}, or as {name}.reshape{expected}"
    return ""


@dataclass(frozen=True)
class _Layer:
    """Everything about a layer but the size of its input and its padding."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    in_channels: int
    out_channels: int
    channels: bool
    padding_mode: PaddingMode
    flip: bool

    @classmethod
    def parse(
        cls,
        weight_shape: tuple[int, ...],
        dims: int,
        stride: IntOrTuple,
        dilation: IntOrTuple,
        groups: int,
        padding_mode: Modes,
        flip: bool,
    ) -> _Layer:
        if len(weight_shape) not in (dims, dims + 2):
            raise ValueError(
                f"weight has shape {weight_shape}: for {dims} spatial axes it must have {dims + 2} axes "
                f"(out channels, in channels / groups, kernel) or {dims} (the kernel alone)"
            )
        if 0 in weight_shape:
            raise ValueError(f"weight has shape {weight_shape}: every axis must have at least 1 entry")
        channels = len(weight_shape) == dims + 2
        groups = _int("groups", groups, least=1)
        modes = padding_mode if _is_list(padding_mode) else (padding_mode,) * dims
        if not all(isinstance(mode, str) for mode in modes):
            raise TypeError(f"padding_mode={padding_mode!r} must be a word, or one per spatial axis: {_words(MODES)}")
        if len(modes) != dims:
            _fail("padding_mode", padding_mode, f"must be a word or have one per spatial axis, {dims}")
        if not set(modes) <= set(MODES):
            _fail("padding_mode", padding_mode, f"must be one of {_words(MODES)}, or one of them per spatial axis")
        if not isinstance(flip, bool | np.bool_):
            raise TypeError(f"flip={flip!r} must be True or False")
        out_channels, per_group = weight_shape[:2] if channels else (1, 1)
        if out_channels % groups:
            _fail("groups", groups, f"must divide the {out_channels} channels of the weight's first axis "
                  f"(weight shape {weight_shape})")  # fmt: skip
        return cls(
            kernel_size=tuple(weight_shape[-dims:]),
            stride=_ints("stride", stride, dims, least=1),
            dilation=_ints("dilation", dilation, dims, least=1),
            groups=groups,
            in_channels=per_group * groups,
            out_channels=out_channels,
            channels=channels,
            padding_mode=one_or_each([str(mode) for mode in modes]),
            flip=bool(flip),
        )

    def pads(self, padding: Padding, size: tuple[int, ...] | None) -> tuple[Pair, ...]:
        """(lo, hi) per axis. `size` is needed by the words "same_upper" and "same_lower" alone."""
        dims = len(self.kernel_size)
        if isinstance(padding, str):
            if padding not in _PADDING_WORDS:
                _fail("padding", padding, f"must be one of {_words(_PADDING_WORDS)}, or integers")
            if padding == "same" and any(s > 1 for s in self.stride):
                _fail("padding", padding, f"needs stride 1, not {_x(self.stride)}: use 'same_upper' or 'same_lower'")
            needs = size if size is not None else (0,) * dims
            rule = _PADDING_WORDS[padding]
            return tuple(map(rule, needs, self.kernel_size, self.stride, self.dilation))
        if not _is_list(padding):
            p = _int("padding", padding, least=0, hint=_CROP_HINT)
            return ((p, p),) * dims
        if len(padding) != dims:
            one_pair = dims == 1 and len(padding) == 2
            hint = f"; write (({padding[0]!r}, {padding[1]!r}),) for one (lo, hi) pair" if one_pair else ""
            _fail("padding", padding, f"must have one entry per spatial axis, {dims}{hint}")
        paired = [_is_list(p) for p in padding]
        if not any(paired):
            plain = [_int("padding", p, least=0, whole=padding, hint=_CROP_HINT) for p in padding]
            return tuple((p, p) for p in plain)
        if not all(paired) or any(len(p) != 2 for p in padding):
            _fail("padding", padding, "must be all integers or all (lo, hi) pairs, one per spatial axis")
        pairs = [[_int("padding", e, least=None, whole=padding) for e in p] for p in padding]
        return tuple((lo, hi) for lo, hi in pairs)

    def on(self, size: tuple[int, ...], pads: tuple[Pair, ...], asked: Padding) -> Geometry:
        """Put the layer on an input of the given size, if every rule holds."""
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        padded = [n + lo + hi for n, (lo, hi) in zip(size, pads, strict=True)]
        if min(padded) < 1:
            _fail("padding", asked, f"crops everything: of the input {_x(size)} it leaves {_x(padded)}")
        if any(p < span for p, span in zip(padded, spans, strict=True)):
            raise ValueError(
                f"weight has the kernel size {_x(self.kernel_size)}, with dilation {_x(self.dilation)} it spans "
                f"{_x(spans)}: it must not be larger than the padded input, {_x(padded)} "
                f"(input_size {_x(size)}, padding={asked!r})"
            )
        remainders = [(p - span) % s for p, span, s in zip(padded, spans, self.stride, strict=True)]
        outputs = [(p - span) // s + 1 for p, span, s in zip(padded, spans, self.stride, strict=True)]
        by_ceiling = isinstance(asked, str) and asked in ("same_upper", "same_lower")
        sharing = tuple(
            ((m - 1) * s + 1, m * s) if by_ceiling else (max(1, n - r), n - r + s - 1)
            for n, m, r, s in zip(size, outputs, remainders, self.stride, strict=True)
        )
        rows, cols = self.out_channels * math.prod(outputs), self.in_channels * math.prod(size)
        if max(rows, cols, *padded, *self.stride) >= _LARGEST:
            raise ValueError(
                f"input_size {_x(size)} with padding={asked!r} is too large: a matrix of {rows} x {cols} has more rows "
                f"or columns than 64-bit index arithmetic can count"
            )
        return Geometry(
            input_size=size,
            output_size=tuple(outputs),
            kernel_size=self.kernel_size,
            stride=self.stride,
            dilation=self.dilation,
            padding=pads,
            padding_mode=self.padding_mode,
            groups=self.groups,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            channels=self.channels,
            flip=self.flip,
            asked=f"{asked!r}",
            sharing=sharing,
        )


def _valid(n: int, k: int, s: int, d: int) -> Pair:
    return 0, 0


def _full(n: int, k: int, s: int, d: int) -> Pair:
    return d * (k - 1), d * (k - 1)


def _same(n: int, k: int, s: int, d: int) -> Pair:
    total = d * (k - 1)
    return total // 2, total - total // 2


def _same_upper(n: int, k: int, s: int, d: int) -> Pair:
    total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
    return total // 2, total - total // 2


def _same_lower(n: int, k: int, s: int, d: int) -> Pair:
    hi, lo = _same_upper(n, k, s, d)
    return lo, hi


_PADDING_WORDS: dict[str, Callable[[int, int, int, int], Pair]] = {
    "valid": _valid,
    "same": _same,
    "full": _full,
    "same_upper": _same_upper,
    "same_lower": _same_lower,
}
"""Word -> (N, K, s, d) -> (lo, hi)."""


def _fail(name: str, value: object, rule: str) -> NoReturn:
    raise ValueError(f"{name}={value!r} {rule}")


def _int(name: str, value: Any, *, least: int | None, whole: Any = None, hint: str = "") -> int:
    """An integer of at least `least`; numpy integers are integers, bools and floats are not."""
    shown = value if whole is None else whole
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}={shown!r} must be an integer, not a bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={shown!r} must be an integer, not {type(value).__name__}") from None
    if least is not None and number < least:
        _fail(name, shown, f"must be at least {least}{hint}")
    return number


def _ints(name: str, value: Any, dims: int, *, least: int | None) -> tuple[int, ...]:
    """One integer per axis, from one for all or one for each."""
    if not _is_list(value):
        return (_int(name, value, least=least),) * dims
    if len(value) != dims:
        _fail(name, value, f"must be an integer or have one entry per spatial axis, {dims}")
    return tuple(_int(name, v, least=least, whole=value) for v in value)


def _sizes(name: str, value: Any, ndim: int | None) -> tuple[int, ...]:
    """A spatial size: an int for one axis, or a tuple with one entry per axis."""
    if not _is_list(value):
        value = (_int(name, value, least=1),)
    if len(value) == 0 or (ndim is not None and len(value) != ndim):
        expected = "at least one entry" if ndim is None else f"one entry per spatial axis, {ndim}"
        _fail(name, tuple(value), f"must have {expected} (no channels, no batch)")
    return tuple(_int(name, v, least=1, whole=value) for v in value)


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether a value has entries, one per axis; a 0-d array is a number, and a word is a word."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _words(table: Iterable[str]) -> str:
    return ", ".join(repr(w) for w in table)


def _x(sizes: Iterable[int]) -> str:
    return " x ".join(str(n) for n in sizes)


def _batch(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(["...", *map(str, shape)]) + ")"


def _unread_work(axis: Axis) -> int:
    """Reads to look at for the samples that no output reads, about: those near the border, and of one period."""
    return axis.taps * (2 * axis.span + axis.stride + max(0, axis.lo) + max(0, axis.hi))


def _border_work(axis: Axis) -> int:
    """Reads of the outputs near the border, which are counted one by one."""
    first, last = axis.interior
    return axis.taps * (axis.output - (last - first) + 1)


def _span(count: int, samples: list[int]) -> str:
    """Sample numbers, given the first few and the last; long lists shortened."""
    *first, last = samples
    if count > 1 and last - first[0] == count - 1:
        return f"{first[0]}..{last}"
    shown = ", ".join(str(i) for i in first)
    return shown if count <= len(first) else f"{shown}, ... ({count} samples)"
