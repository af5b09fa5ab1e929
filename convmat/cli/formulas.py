"""The formulas of a layer with its numbers put in. Spaces at which no line should break are no-break spaces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from convmat.geometry import Geometry, in_words

NO_BREAK = "\u00a0"


def lines(geometry: Geometry, transposed: bool) -> Iterator[tuple[str, str]]:
    """Name and formula: output size per axis, the sum that the layer is, and the numbering of rows and columns."""
    yield from (_transposed_sizes if transposed else _sizes)(geometry)
    yield "index", (_transposed_sum if transposed else _sum)(geometry)
    rows = _number(geometry.output_shape, _indices(geometry, "o", "m"))
    columns = _number(geometry.input_shape, _indices(geometry, "c", "n"))
    if transposed:
        rows, columns = columns, rows
    yield "numbering", f"row = {rows}, column = {columns}"


def _sizes(geometry: Geometry) -> Iterator[tuple[str, str]]:
    yield "output size", "M = floor((N + p_lo + p_hi - d (K - 1) - 1) / s) + 1"
    for a, axis in enumerate(geometry.axes):
        padded = f"{axis.size}{_signed(axis.lo)}{_signed(axis.hi)}"
        span = f"{axis.dilation} ({axis.taps} - 1)"
        yield f"  axis {a}", f"{axis.output} = floor(({padded} - {span} - 1) / {axis.stride}) + 1"


def _transposed_sizes(geometry: Geometry) -> Iterator[tuple[str, str]]:
    yield "output size", "N = (M - 1) s - p_lo - p_hi + d (K - 1) + 1 + output_padding"
    for a, axis in enumerate(geometry.axes):
        extra = (axis.padded - axis.span) % axis.stride
        first = f"({axis.output} - 1) {axis.stride}{_signed(-axis.lo)}{_signed(-axis.hi)}"
        yield f"  axis {a}", f"{axis.size} = {first} + {axis.dilation} ({axis.taps} - 1) + 1 + {extra}"


def _sum(geometry: Geometry) -> str:
    """y[o, m] = sum over c and k of W[o, c, k] x~[g C_in / G + c, s m + d k - p]."""
    per_group = geometry.in_channels // geometry.groups
    channel = "c" if geometry.groups == 1 else f"{_times(per_group, 'g')} + c"
    counts = [("c", per_group)] * geometry.channels + [(f"k{a}", k) for a, k in enumerate(geometry.kernel_size)]
    over = ", ".join(f"{name}{NO_BREAK}<{NO_BREAK}{count}" for name, count in counts)
    weight = _at("W", [*["o", "c"] * geometry.channels, *_taps(geometry)])
    image = _at("x~" if _padded(geometry) else "x", [*[channel] * geometry.channels, *_reads(geometry)])
    notes = [f"x~ is x extended by padding_mode '{in_words(geometry)}'"] * _padded(geometry)
    notes += [f"g = {_group(geometry.out_channels, geometry.groups, 'o')}"] * (geometry.groups > 1)
    return "; ".join([f"{_at('y', _indices(geometry, 'o', 'm'))} = sum over {over} of {weight} {image}", *notes])


def _transposed_sum(geometry: Geometry) -> str:
    """y[c, n] = sum of W[o, c, k] x[o, m] over all o, m, k by which the convolution reads n.

    Where it reads weighted sums of samples, over all o, m, k, times the weight of n.
    """
    per_group = geometry.in_channels // geometry.groups
    channel = "c" if geometry.groups == 1 else f"c - {_times(per_group, 'g')}"
    folded = set(geometry.modes) != {"zeros"} and _padded(geometry)
    weight = _at("W", [*["o", channel] * geometry.channels, *_taps(geometry)])
    image, result = _at("x", _indices(geometry, "o", "m")), _at("y", _indices(geometry, "c", "n"))
    over = ", ".join([*["o"] * geometry.channels, *(f"m{a}, k{a}" for a in range(geometry.ndim))])
    positions = list(enumerate(_reads(geometry)))
    times = [_glued(f"e({read}, n{a})") for a, read in positions if geometry.combines]
    reads = [_glued(f"e({read}) = n{a}" if folded else f"{read} = n{a}") for a, read in positions if not times]
    if geometry.groups > 1:
        out_group, in_group = (_group(n, geometry.groups, name)
                               for n, name in ((geometry.out_channels, "o"), (geometry.in_channels, "c")))  # fmt: skip
        reads.append(f"{out_group} = {in_group} = g")
    notes = [f"e: where padding_mode '{in_words(geometry)}' takes the sample from"] * (folded and not times)
    notes += [f"e(i, n): the weight of sample n at position i, by padding_mode '{in_words(geometry)}'"] * bool(times)
    condition = f" with {', '.join(reads)}" if reads else ""
    return "; ".join([f"{result} = sum of {' '.join([weight, *times, image])} over all {over}{condition}", *notes])


def _padded(geometry: Geometry) -> bool:
    return any(part for pair in geometry.padding for part in pair)


def _indices(geometry: Geometry, channel: str, letter: str) -> list[str]:
    return [*[channel] * geometry.channels, *(f"{letter}{a}" for a in range(geometry.ndim))]


def _taps(geometry: Geometry) -> list[str]:
    return [f"{k - 1} - k{a}" if geometry.flip else f"k{a}" for a, k in enumerate(geometry.kernel_size)]


def _reads(geometry: Geometry) -> list[str]:
    """The sample s m + d k - p of each axis."""
    return [
        f"{_times(axis.stride, f'm{a}')} + {_times(axis.dilation, f'k{a}')}{_signed(-axis.lo) if axis.lo else ''}"
        for a, axis in enumerate(geometry.axes)
    ]


def _number(shape: tuple[int, ...], indices: list[str]) -> str:
    """The C-order position of a sample in an image."""
    return _glued(" + ".join(_times(math.prod(shape[a + 1 :]), index) for a, index in enumerate(indices)))


def _at(name: str, indices: Iterable[str]) -> str:
    return _glued(f"{name}[{', '.join(indices)}]")


def _glued(text: str) -> str:
    return text.replace(" ", NO_BREAK)


def _times(factor: int, name: str) -> str:
    return name if factor == 1 else f"{factor} {name}"


def _group(channels: int, groups: int, name: str) -> str:
    return name if channels == groups else _glued(f"floor({name} / {channels // groups})")


def _signed(number: int) -> str:
    return f" - {-number}" if number < 0 else f" + {number}"
