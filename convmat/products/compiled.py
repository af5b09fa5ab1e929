"""The compiled kernel of the direct product. It needs numba, and is imported by those who are about to use it.

`correlate` knows no padding, no stride and no transpose: the plan (`convmat.products.direct`) gives it tables. Each
line of the result is a sum of lines of the source, correlated along the last axis. For a few result lines at a time it
copies the source lines into a tile, through the table that extends them, so that a strip (`convmat.products.strips`)
reads samples that lie side by side. Whatever is cut, the terms of a sample are added in the same order: its rounding
depends on neither threads nor pieces.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from convmat.products.strips import at, held_by, lanes_of, pointer, strip

Table = NDArray[np.int64]

_FEW, _LONG = 2, 16
"""A source line is read in place where that can be, for so few result channels and from so many vectors on."""


class Sizes(NamedTuple):
    """Of groups, of the source's and the result's channels in a group, lines, and samples of a line; and of the tile.

    Attributes
    ----------
    phase, channel, line, lines
        How many samples of the tile a phase of a source line takes, a channel of it, and all of it; how many lines.
    phases_in, phases_out
        Phases of a source line, and of a result line.
    reach
        Samples of a phase that a result reads beyond its own.
    parts
        Real numbers of a sample: 2 if it is complex. All else is counted in real numbers.
    row
        Room for a phase of a result line among the sums.
    outside
        Room for a phase among the samples outside (`Tables.read`).
    blocks
        Of the result's channels in a group.
    """

    groups: int
    sources: int
    results: int
    lines_in: int
    lines_out: int
    samples_in: int
    samples_out: int
    phase: int
    channel: int
    line: int
    lines: int
    phases_in: int
    phases_out: int
    reach: int
    parts: int
    row: int
    outside: int
    blocks: int


class Tables(NamedTuple):
    """What the kernel is told about one direction of a convolution.

    Attributes
    ----------
    first, source, tap
        Result line r is the sum over e in [first[r], first[r + 1]) of the source line source[e] through the tap[e].
    read, copied
        For each phase of a source line, the places [a, b) that hold samples at equal distance, the first of them, and
        that distance; and the samples at the places before and after, one after the other, or -1 for a zero.
    taps, offset, offset_in_place
        Phase q of a result line reads the places offset[taps[q]:taps[q + 1]] of a line in the tile, from its own; or
        those of the source itself.
    panel
        For each group, phase q and block of channels: where its weights begin, as (lines' taps, offsets, channels).
    blocks
        The blocks of a group's result channels: the first, how many, and how many a strip computes.
    cuts
        The pieces [a, b) of a result line, and their segments [s, t).
    segments
        The results [a, b) of each phase, those of their positions that are written, [p, q), what to add to a position
        for the sample of the result line, and the borders [s, t) of which they have the positions.
    borders, folded
        The positions [p, q) of a border, which are added to samples: what to add to a position for the place in
        `folded` of its sample, or of -1.
    """

    first: Table
    source: Table
    tap: Table
    read: Table
    copied: Table
    taps: Table
    offset: Table
    offset_in_place: Table
    panel: Table
    blocks: Table
    cuts: Table
    segments: Table
    borders: Table
    folded: Table


class _Pointers(NamedTuple):
    """The first element of every array."""

    x: Any
    y: Any
    weights: Any
    tile: Any
    sums: Any
    slot: Any
    gap: Any
    gap_in_place: Any
    first: Any
    source: Any
    tap: Any
    read: Any
    copied: Any
    taps: Any
    offset: Any
    offset_in_place: Any
    panel: Any
    blocks: Any
    cuts: Any
    segments: Any
    borders: Any
    folded: Any


class _Segment(NamedTuple):
    """A row of `Tables.segments`, its vectors, and those [near, far) whose samples are read in place.

    Position p is of result `first` and phase `offset`, and q of result `last` and phase `rest`; [left, right) are the
    samples of the cut.
    """

    a: int
    b: int
    p: int
    q: int
    shift: int
    border: int
    borders: int
    left: int
    right: int
    vectors: int
    near: int
    far: int
    first: int
    offset: int
    last: int
    rest: int


_compiled = numba.njit(nogil=True, error_model="numpy")


@_compiled
def _begin(channel, lines, line, samples, parts):
    """Where a line of a channel begins; real and imaginary parts of complex samples are channels of their own."""
    if parts == 1:
        return (channel * lines + line) * samples
    return 2 * (channel // 2 * lines + line) * samples + channel % 2


@_compiled
def _gather(x, start, step, y, to, count):
    """y[to + j] = x[start + step j] for j < count; usual steps are constants, for the compiler's vectors."""
    if step == 1:
        for j in range(count):
            y[to + j] = x[start + j]
    elif step == 2:
        for j in range(count):
            y[to + j] = x[start + 2 * j]
    else:
        for j in range(count):
            y[to + j] = x[start + step * j]


@_compiled
def _fill(x, line, parts, read, copied, first, count, tile, place, width):
    """Write the places [first, first + count) of one phase of a source line to the tile, and zeros up to the width."""
    begin, end, sample, step = copied[0], copied[1], copied[2], copied[3]
    inner = min(max(begin, first), first + count)
    outer = max(inner, min(end, first + count))
    for j in range(first, inner):
        tile[place + j - first] = x[line + parts * read[j]] if read[j] >= 0 else 0.0
    start = line + parts * (sample + step * (inner - begin))
    _gather(x, start, parts * step, tile, place + inner - first, outer - inner)
    read = at(read, begin - end)
    for j in range(outer, first + count):
        tile[place + j - first] = x[line + parts * read[j]] if read[j] >= 0 else 0.0
    for j in range(count, width):
        tile[place + j] = 0.0


@_compiled
def _fill_line(here, sizes, channel, source, slot, segment):
    """Copy a line of all source channels of a group to the tile, but for what is read in place."""
    lanes, reach = lanes_of(here.x), sizes.reach
    head, far = segment.near * lanes + reach, segment.far * lanes
    count, width = segment.b - segment.a + reach, segment.vectors * lanes + reach
    for c in range(sizes.sources):
        line = _begin(channel + c, sizes.lines_in, source, sizes.samples_in, sizes.parts)
        for phase in range(sizes.phases_in):
            place = slot * sizes.line + c * sizes.channel + phase * sizes.phase
            read, copied = at(here.read, phase * sizes.outside), at(here.copied, 4 * phase)
            if segment.near > 0:
                _fill(here.x, line, sizes.parts, read, copied, segment.a, head, here.tile, place, head)
            if segment.far < segment.vectors:
                _fill(here.x, line, sizes.parts, read, copied, segment.a + far, count - far, here.tile, place + far,
                      width - far)  # fmt: skip


@_compiled
def _load(here, sizes, channel, segment, low, end):
    """Fill the tile with the sources of the result lines from `low` on; return the first that it has no room for."""
    begin, high, used = here.first[low], low, 0
    while high < end and (high == low or used + here.first[high + 1] - here.first[high] <= sizes.lines):
        for e in range(here.first[high], here.first[high + 1]):
            source = here.source[e]
            if here.slot[source] < 0:
                here.slot[source] = used
                _fill_line(here, sizes, channel, source, used, segment)
                used += 1
            here.gap[e - begin] = here.slot[source] * sizes.line
            here.gap_in_place[e - begin] = source * sizes.samples_in
        high += 1
    for e in range(begin, here.first[high]):
        here.slot[here.source[e]] = -1
    return high


@_compiled
def _sum(here, sizes, source, panel, segment, r, entry, phase, channels, out, room, gap):
    """Write the results of a phase of a line: to `out`, if there is room for all of a strip, or to the sums.

    Return how many are in `out`.
    """
    lanes, most, written = lanes_of(here.x), held_by(channels), 0
    e, terms = here.first[r], here.taps[phase + 1] - here.taps[phase]
    for part in range(3):
        v, until = (0, segment.near) if part == 0 else (segment.near, segment.far)
        begin, gaps, offsets = here.tile, here.gap, here.offset
        if part == 2:
            v, until = segment.far, segment.vectors
        elif part == 1:
            begin, gaps, offsets = source, here.gap_in_place, here.offset_in_place
        strips = -((v - until) // most)
        for t in range(strips):
            vectors = -((v - until) // (strips - t))
            done = v * lanes
            to, step = at(here.sums, phase * sizes.row + done), sizes.phases_out * sizes.row
            if done + vectors * lanes <= room:
                to, step, written = at(out, done), gap, done + vectors * lanes
            strip(at(begin, done), at(gaps, entry), panel, at(here.tap, e), here.first[r + 1] - e,
                  at(offsets, here.taps[phase]), terms, to, step, channels, vectors)  # fmt: skip
            v += vectors
    return written


@_compiled
def _write(y, line, sums, sizes, segment, written):
    """Move a result line from the sums to where it belongs, but for the first samples, which are there already."""
    stride, row, a, to = sizes.phases_out, sizes.row, segment.a, line + sizes.parts * segment.shift
    first, offset, last, rest = segment.first, segment.offset, segment.last, segment.rest
    if stride == 2 and sizes.parts == 1:  # two phases at once are vectors again
        for i in range(first + offset, last):
            y[to + 2 * i] = sums[i - a]
            y[to + 2 * i + 1] = sums[row + i - a]
        if offset and segment.p < segment.q:
            y[to + segment.p] = sums[row + first - a]
        if rest and segment.p < segment.q:
            y[to + segment.q - 1] = sums[last - a]
        return
    for phase in range(stride):
        place, step = to + sizes.parts * phase, sizes.parts * stride
        for i in range(max(first + (phase < offset), a + written), last + (phase < rest)):
            y[place + step * i] = sums[phase * row + i - a]


@_compiled
def _add_border(y, line, sums, sizes, segment, border, folded):
    """Add the positions of a border to the samples of the cut that they copy: in their order, wherever it is cut."""
    stride = sizes.phases_out
    i, phase = border[0] // stride, border[0] % stride
    for position in range(border[0], border[1]):
        to = folded[position + border[2]]
        if segment.left <= to < segment.right:
            y[line + sizes.parts * to] += sums[phase * sizes.row + i - segment.a]
        phase += 1
        if phase == stride:
            i, phase = i + 1, 0


@_compiled
def _clear(y, line, sizes, segment):
    """Write a result line that is a sum of nothing."""
    for position in range(segment.p, segment.q):
        y[line + sizes.parts * (position + segment.shift)] = 0.0


@_compiled
def _result_line(here, sizes, source, segment, r, entry, group, block, channel, wanted, channels):
    """Compute the segment of a result line of a block of channels, from the tile."""
    nothing, folds = here.first[r] == here.first[r + 1], segment.border < segment.borders
    straight = sizes.phases_out == 1 and sizes.parts == 1 and wanted == channels and not folds
    out = at(here.y, (channel * sizes.lines_out + r) * sizes.samples_out + segment.shift + segment.a)
    room, gap, written = segment.b - segment.a if straight else 0, sizes.lines_out * sizes.samples_out, 0
    if not nothing or folds:
        for phase in range(sizes.phases_out):
            panel = here.panel[(group * sizes.phases_out + phase) * sizes.blocks + block]
            written = _sum(here, sizes, source, at(here.weights, panel), segment, r, entry, phase, channels, out, room,
                           gap)  # fmt: skip
    if straight and written >= room:
        return
    for c in range(wanted):
        line = _begin(channel + c, sizes.lines_out, r, sizes.samples_out, sizes.parts)
        sums = at(here.sums, c * sizes.phases_out * sizes.row)
        if nothing and not folds:
            _clear(here.y, line, sizes, segment)
            continue
        _write(here.y, line, sums, sizes, segment, written)
        for border in range(segment.border, segment.borders):
            _add_border(here.y, line, sums, sizes, segment, at(here.borders, 3 * border), here.folded)


@_compiled
def _segment(here, sizes, cut, number):
    """The segment of that number, of a cut."""
    row, cut = at(here.segments, 7 * number), at(here.cuts, 4 * cut)
    a, b, p, q, stride = row[0], row[1], row[2], row[3], sizes.phases_out
    lanes, copied = lanes_of(here.x), here.copied
    vectors, near, far = -(-(b - a) // lanes), 0, 0
    if sizes.parts == 1 and sizes.phases_in == 1 and copied[3] == 1 and sizes.results <= _FEW:
        near = max(0, -((a - copied[0]) // lanes))
        far = max(near, min(vectors, (copied[1] - a - sizes.reach) // lanes))
        if far - near < _LONG:
            near = far = 0
    return _Segment(a, b, p, q, row[4], row[5], row[6], cut[0], cut[1], vectors, near, far, p // stride, p % stride,
                    q // stride, q % stride)  # fmt: skip


def _correlate(x, y, weights, sizes, tables, samples, places, height, share, start, stop):
    """Compute the pieces [start, stop) of all: images x groups x `share` blocks of channels x bands x cuts of a line.

    A band is `height` result lines. Work memory is `samples`, for the tile and the sums, and `places`: the slot of each
    source line in the tile, and two numbers for each source of a band.
    """
    tile, slots = pointer(samples), pointer(places)
    gap = at(slots, sizes.lines_in)
    here = _Pointers(
        pointer(x), pointer(y), pointer(weights), tile, at(tile, sizes.lines * sizes.line), slots, gap,
        at(gap, (places.size - sizes.lines_in) // 2), pointer(tables.first), pointer(tables.source),
        pointer(tables.tap), pointer(tables.read), pointer(tables.copied), pointer(tables.taps), pointer(tables.offset),
        pointer(tables.offset_in_place), pointer(tables.panel), pointer(tables.blocks), pointer(tables.cuts),
        pointer(tables.segments), pointer(tables.borders), pointer(tables.folded),
    )  # fmt: skip
    places[: sizes.lines_in] = -1
    bands, cuts, shares = -(-sizes.lines_out // height), len(tables.cuts), -(-sizes.blocks // share)
    for piece in range(start, stop):
        cut, rest = piece % cuts, piece // cuts
        band, rest = rest % bands, rest // bands
        part, rest = rest % shares, rest // shares
        group, image = rest % sizes.groups, rest // sizes.groups
        channel_in = (image * sizes.groups + group) * sizes.sources
        channel_out = (image * sizes.groups + group) * sizes.results
        for number in range(here.cuts[4 * cut + 2], here.cuts[4 * cut + 3]):
            segment = _segment(here, sizes, cut, number)
            begin = channel_in * sizes.lines_in * sizes.samples_in
            source = at(here.x, begin + here.copied[2] - here.copied[0] + segment.a)
            low, end = band * height, min(sizes.lines_out, (band + 1) * height)
            while low < end:
                high = _load(here, sizes, channel_in, segment, low, end)
                for block in range(part * share, min(sizes.blocks, (part + 1) * share)):
                    of_block = at(here.blocks, 3 * block)
                    first, wanted, channels = of_block[0], of_block[1], of_block[2]
                    for r in range(low, high):
                        _result_line(here, sizes, source, segment, r, here.first[r] - here.first[low], group, block,
                                     channel_out + first, wanted, channels)  # fmt: skip
                low = high


@cache
def correlate(dtype: np.dtype[Any]) -> Any:
    """`_correlate` for arrays of float32 or float64; compiled, or read from the cache of numba."""
    real = numba.from_dtype(dtype)
    read, written = types.Array(real, 1, "C", readonly=True), types.Array(real, 1, "C")
    line = types.Array(types.int64, 1, "C")
    sizes = types.NamedUniTuple(types.int64, len(Sizes._fields), Sizes)
    dimensions = {"read": 2, "copied": 2, "panel": 3, "blocks": 2, "cuts": 2, "segments": 2, "borders": 2}
    arrays = [types.Array(types.int64, dimensions.get(name, 1), "C") for name in Tables._fields]
    signature = (read, written, read, sizes, types.NamedTuple(arrays, Tables), written, line)
    try:
        function = numba.njit(nogil=True, cache=True, error_model="numpy")(_correlate)
    except RuntimeError:  # no folder that it may write to
        function = numba.njit(nogil=True, error_model="numpy")(_correlate)
    function.compile((*signature, *[types.int64] * 4))
    function.disable_compile()  # from here on arrays are converted to these types, or refused
    return function
