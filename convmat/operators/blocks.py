"""A block of an operator: a box of its outputs, by itself, and the input that it reads.

Each kind of operator has its rule, in `RULES`: which operator gives a box of outputs, and which ranges of the input it
takes. The rules of convolutions are those of their axes (`convmat.parts`); those of sums, stacks and products put the
blocks of their parts together, and pass the ranges on.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

from convmat.geometry import Channels, Geometry, parse_box
from convmat.matrix import in_columns
from convmat.operators.algebra import BlockDiagonal, Chain, HStack, Scaled, Sum, VStack, reshaped
from convmat.operators.base import Cutting, ImageOperator, _Conjugated, _Transposed, parts_of
from convmat.operators.convolution import Conv, Convolution, ConvTranspose
from convmat.operators.factors import Crop, IndexMap, Pad, Upsample
from convmat.operators.layers import Diagonal, Rearrange, Separable
from convmat.operators.local import LocalConv
from convmat.parts import AxisPart, Runs, count, folds_nothing_into, giving, joined, places, reaching, within
from convmat.taps import Axis

Box = tuple[Runs, ...]
"""Ranges along each axis."""

Cut = tuple[ImageOperator, Box]
"""The operator of a box of outputs, and the box of the input that it takes."""


class Block(NamedTuple):
    """Some outputs of an operator. Made by `ImageOperator.block`.

    Attributes
    ----------
    operator : ImageOperator
        From the input that these outputs read to these outputs.
    inputs : tuple of tuple of slice
        What it reads: the ranges along each axis of the input, in ascending order, one or two where it is an image.

    Methods
    -------
    read(image)
    """

    operator: ImageOperator
    inputs: tuple[tuple[slice, ...], ...]

    def read(self, image: ArrayLike) -> NDArray[Any]:
        """The samples that the operator takes, of a whole image.

        Parameters
        ----------
        image : array_like
            Of the input shape of the whole operator, with any batch axes in front.

        Returns
        -------
        ndarray
            Of the shape ``operator.input_shape``, with the batch axes in front; a view where each axis has one range.
        """
        part = np.asarray(image)
        for axis, ranges in enumerate(self.inputs, start=-len(self.inputs)):
            at: tuple[Any, ...] = (slice(None),) * (-axis - 1)
            pieces = [part[(..., piece, *at)] for piece in ranges]
            part = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=axis)
        return part

    def tosparse(self, input_shape: Sequence[int]) -> csr_array:
        """The rows of the whole matrix that these outputs are, in their order.

        Parameters
        ----------
        input_shape : tuple of int
            That of the whole operator.

        Returns
        -------
        csr_array, shape (outputs, columns of the whole matrix)
        """
        box = [tuple((piece.start, piece.stop) for piece in ranges) for ranges in self.inputs]
        return in_columns(self.operator.tosparse(), input_shape, box)


def block(A: ImageOperator, outputs: Any) -> Block:
    """A box of outputs of an operator: see `ImageOperator.block`."""
    box = parse_box("outputs", (outputs,) if isinstance(outputs, slice) else outputs, A.output_shape)
    operator, inputs = cut(A, tuple((along,) for along in box))
    return Block(operator, tuple(tuple(slice(*run) for run in runs) for runs in inputs))


def cut(A: ImageOperator, box: Box) -> Cut:
    """The operator of a box of outputs, and what it takes.

    Raises
    ------
    TypeError
        If there is no rule for an operator of this kind.
    """
    rule = _rule(A)
    if rule is None:
        raise TypeError(f"a {type(A).__name__} has no blocks: {_UNKNOWN}")
    return rule(A, box)


_UNKNOWN = "what an output of it reads is not known, so that each may need the whole input"


def needs_whole(A: ImageOperator) -> str:
    """Why each output of an operator, or of one of its parts, reads the whole input; empty if that is not so."""
    if _rule(A) is None:
        return f"it has a {type(A).__name__}, and {_UNKNOWN}"
    if isinstance(A, Separable) and not any(m is None or issparse(m) for m in A.matrices):
        return "it has a Separable with a dense matrix along each axis, of which each output reads the whole input"
    return next((reason for part in parts_of(A) if (reason := needs_whole(part))), "")


def _rule(A: ImageOperator) -> Callable[[Any, Box], Cut] | None:
    if isinstance(A, _Transposed) and not isinstance(parts_of(A)[0], LocalConv):
        return None
    return next((RULES[kind] for kind in type(A).__mro__ if kind in RULES), None)


def whole(shape: Sequence[int]) -> Box:
    """All of an image."""
    return tuple(((0, size),) for size in shape)


def _shape(box: Box) -> tuple[int, ...]:
    return tuple(map(count, box))


def followed(of: ImageOperator, kept: Box) -> ImageOperator:
    """A box of the outputs of an operator, picked from all of them."""
    picked = _picking(of.output_shape, kept, of.dtype)
    return of if picked is None else Chain(picked, of)


def _taking(cut_: Cut, given: Box) -> ImageOperator:
    """The operator of a cut on more of the input than it takes."""
    operator, box = cut_
    inside = tuple(places(runs, ((0, count(all_)),), all_) for runs, all_ in zip(box, given, strict=True))
    picked = _picking(_shape(given), inside, operator.dtype)
    return operator if picked is None else Chain(operator, picked)


def _picking(shape: tuple[int, ...], box: Box, dtype: np.dtype[Any]) -> ImageOperator | None:
    """The operator that picks a box of an image; None if it picks everything."""
    if box == whole(shape):
        return None
    hull = tuple((runs[0][0], runs[-1][1]) for runs in box)
    crop = Pad(shape, tuple((-a, b - n) for (a, b), n in zip(hull, shape, strict=True)), dtype=dtype)
    if all(len(runs) == 1 for runs in box):
        return crop
    lines = []
    for runs, (a, b) in zip(box, hull, strict=True):
        index = np.concatenate([np.arange(*run) for run in runs]) - a
        ones = np.ones(len(index), dtype=dtype)
        selection = csr_array((ones, index, np.arange(len(index) + 1)), shape=(len(index), b - a))
        lines.append(None if len(runs) == 1 else selection)
    picked = Separable(crop.output_shape, lines)
    return picked if hull == tuple((0, n) for n in shape) else Chain(picked, crop)


def _union(boxes: Sequence[Box]) -> Box:
    """A box that holds several."""
    return tuple(joined(run for runs in along for run in runs) for along in zip(*boxes, strict=True))


# Convolutions ---------------------------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """Channels [a, b) of the result and those that they are the sum of, in as many groups."""

    result: tuple[int, int]
    source: tuple[int, int]
    groups: int


def _pieces(wanted: tuple[int, int], groups: int, results: int, sources: int) -> Iterator[_Piece]:
    """The wanted channels, cut so that each piece is a part of one group, or whole groups."""
    per, each = results // groups, sources // groups
    a, stop = wanted
    while a < stop:
        group = a // per
        whole_groups = (stop - a) // per if a % per == 0 else 0
        b = a + whole_groups * per if whole_groups else min((group + 1) * per, stop)
        used = max(1, whole_groups)
        yield _Piece((a, b), (group * each, (group + used) * each), used)
        a = b


def _channels(geometry: Geometry, wanted: Runs, transpose: bool) -> list[tuple[Channels, tuple[slice, slice]]]:
    """The channels of the pieces, and the part of the weight that each has."""
    counts = geometry.out_channels, geometry.in_channels
    results, sources = counts[::-1] if transpose else counts
    ins = geometry.in_channels // geometry.groups
    found = []
    for result, source, groups in _pieces((wanted[0][0], wanted[-1][1]), geometry.groups, results, sources):
        in_channels, out_channels = (result, source) if transpose else (source, result)
        first = in_channels[0] // ins * ins  # of the group
        within = slice(in_channels[0] - first, min(in_channels[1] - first, ins))
        found.append((Channels(groups, in_channels, out_channels), (slice(*out_channels), within)))
    return found


def _spatial(geometry: Geometry, box: Box, transpose: bool) -> tuple[list[AxisPart], Runs, Box]:
    """The parts of the axes, the channels and what is kept of them."""
    channels, along = (box[0], box[1:]) if geometry.channels else (((0, 1),), box)
    axes = geometry.axes
    if transpose:
        bare = map(folds_nothing_into, axes, along)
        axes, along = zip(*map(_without_border, axes, along, bare), strict=True)
    parts = list(map(reaching if transpose else giving, axes, along))
    hull = (channels[0][0], channels[-1][1])
    kept = places(channels, ((0, hull[1] - hull[0]),), (hull,))
    kept_box = tuple(part.kept for part in parts)
    return parts, channels, (kept, *kept_box) if geometry.channels else kept_box


def _without_border(axis: Axis, samples: Runs, bare: bool) -> tuple[Axis, Runs]:
    """The axis, and where its transpose gives these samples: with no border where that sends nothing back to them."""
    if not bare:
        return axis, samples
    if not axis.combines:
        return replace(axis, mode="zeros"), samples
    positions = tuple((start + axis.lo, stop + axis.lo) for start, stop in samples)
    inside = within(positions, ((0, axis.padded),))  # others are cropped
    return (axis.extended, positions) if inside else (axis, samples)


def _convolution(A: Convolution, box: Box) -> Cut:
    return _of_geometry(
        A.geometry, box, isinstance(A, ConvTranspose), lambda geometry, chosen, _: A.part(geometry, chosen)
    )


def _local(A: LocalConv, box: Box) -> Cut:
    return _of_geometry(A.geometry, box, False, A.part)


def _transposed(A: _Transposed, box: Box) -> Cut:
    (of,) = parts_of(A)
    assert isinstance(of, LocalConv)
    return _of_geometry(of.geometry, box, True, lambda *part: of.part(*part).T)


def _of_geometry(geometry: Geometry, box: Box, transpose: bool, part: Callable[..., ImageOperator]) -> Cut:
    """The cut of what has a geometry, by a function: (its part, of the weight, outputs) -> the operator of a part."""
    parts, channels, kept = _spatial(geometry, box, transpose)
    made, sources = [], []
    for chosen, weight in _channels(geometry, channels, transpose):
        narrowed = geometry.narrowed(parts, chosen)
        made.append(part(narrowed, weight, [along.outputs for along in parts]))
        sources.append(chosen.out_channels if transpose else chosen.in_channels)
    taken = tuple(part.outputs if transpose else part.inputs for part in parts)
    operator = made[0] if len(made) == 1 else BlockDiagonal(*made)
    inputs = (((sources[0][0], sources[-1][1]),), *taken) if geometry.channels else taken
    return followed(operator, kept), inputs


def _index_map(A: IndexMap, box: Box) -> Cut:
    transpose = isinstance(A, Crop | Upsample)
    geometry = A.geometry
    wanted = box
    if isinstance(A, Upsample):  # it puts its zeros behind samples: from the one before on
        strides = (1, *geometry.stride) if geometry.channels else geometry.stride
        box = tuple(((runs[0][0] // s * s, runs[-1][1]),) for runs, s in zip(box, strides, strict=True))
    parts, channels, kept = _spatial(geometry, box, transpose)
    hull = channels[0][0], channels[-1][1]
    narrowed = geometry.narrowed(parts, Channels(hull[1] - hull[0], hull, hull))
    taken = tuple(part.outputs if transpose else part.inputs for part in parts)
    operator = followed(type(A)._of(narrowed, A.dtype), kept)
    if wanted != box:
        inside = (places(runs, ((0, count(held)),), held) for runs, held in zip(wanted, box, strict=True))
        operator = followed(operator, tuple(inside))
    return operator, ((hull,), *taken) if geometry.channels else taken


# Other layers ---------------------------------------------------------------------------------------------------------


def _diagonal(A: Diagonal, box: Box) -> Cut:
    values = A.values.reshape((1,) * (len(box) - A.values.ndim) + A.values.shape)
    for axis, runs in enumerate(box):
        if values.shape[axis] > 1:
            values = values.take(np.concatenate([np.arange(*run) for run in runs]), axis=axis)
    return Diagonal(values, _shape(box)), box


def _separable(A: Separable, box: Box) -> Cut:
    matrices: list[Any] = []
    inputs: list[Runs] = []
    for matrix, runs in zip(A.matrices, box, strict=True):
        if matrix is None:
            matrices.append(None)
            inputs.append(runs)
            continue
        rows = matrix[np.concatenate([np.arange(*run) for run in runs])]
        first, last = 0, matrix.shape[1]
        if issparse(rows):
            read = rows.tocsr().indices
            first, last = (int(read.min()), int(read.max()) + 1) if read.size else (0, 1)
            rows = rows.tocsr()[:, first:last]
        matrices.append(rows)
        inputs.append(((first, last),))
    return Separable(_shape(tuple(inputs)), matrices), tuple(inputs)


def _rearrange(A: Rearrange, box: Box) -> Cut:
    """The axes that are moved are cut, and with them the axes of the input and the output that are made of them."""
    split = A.split if A.order != tuple(range(len(A.split))) else _common_parts(A.input_shape, A.output_shape)
    order = A.order if split == A.split else tuple(range(len(split)))
    moved = [split[a] for a in order]
    after, before = _groups(moved, A.output_shape), _groups(split, A.input_shape)
    if after is None or before is None:
        return followed(A, box), whole(A.input_shape)
    ranges: list[tuple[int, int]] = [(0, 0)] * len(split)
    kept = []
    for axes, runs in zip(after, box, strict=True):
        sizes = [moved[k] for k in axes]
        along = _parts_of_range((runs[0][0], runs[-1][1]), sizes)
        start = int(_flat([(first, first + 1) for first, _ in along], sizes)[0])
        kept.append(tuple((a - start, b - start) for a, b in runs))
        for k, part in zip(axes, along, strict=True):
            ranges[order[k]] = part
    inputs = tuple(_as_runs(_flat([ranges[a] for a in axes], [split[a] for a in axes])) for axes in before)
    counts = [b - a for a, b in ranges]
    shape = tuple(math.prod(counts[order[k]] for k in axes) for axes in after)
    return followed(Rearrange(_shape(inputs), shape, split=counts, order=order, dtype=A.dtype), tuple(kept)), inputs


def _common_parts(shape: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """The sizes into which the axes of two shapes of one flat size can both be cut, if there are such; else one's."""
    steps = sorted({math.prod(sizes[k:]) for sizes in (shape, other) for k in range(len(sizes) + 1)}, reverse=True)
    if any(large % small for large, small in itertools.pairwise(steps)):
        return tuple(shape)
    return tuple(large // small for large, small in itertools.pairwise(steps)) or (1,)


def _groups(parts: Sequence[int], shape: Sequence[int]) -> list[list[int]] | None:
    """Which parts in a row each axis is the product of; None if there are none."""
    found: list[list[int]] = []
    at = 0
    for size in shape:
        group: list[int] = []
        while math.prod(parts[k] for k in group) < size and at < len(parts):
            group.append(at)
            at += 1
        if math.prod(parts[k] for k in group) != size:
            return None
        found.append(group)
    found[-1] += range(at, len(parts))  # of size 1
    return found


def _parts_of_range(along: tuple[int, int], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The range of each part, if those of an axis made of parts of these sizes are to hold a range of it."""
    if not sizes:
        return []
    step = math.prod(sizes[1:])
    first, last = along[0] // step, (along[1] - 1) // step
    if first < last:
        return [(first, last + 1), *((0, size) for size in sizes[1:])]
    return [(first, first + 1), *_parts_of_range((along[0] - first * step, along[1] - first * step), sizes[1:])]


def _flat(ranges: Sequence[tuple[int, int]], sizes: Sequence[int]) -> NDArray[np.int64]:
    """The places on an axis, made of parts of these sizes, of a box of the parts."""
    found = np.zeros(1, dtype=np.int64)
    for along, size in zip(ranges, sizes, strict=True):
        found = (found[:, None] * size + np.arange(*along)).reshape(-1)
    return found


def _as_runs(index: NDArray[np.int64]) -> Runs:
    ends = np.flatnonzero(np.diff(index) != 1)
    firsts, lasts = np.concatenate([index[:1], index[ends + 1]]), np.concatenate([index[ends], index[-1:]])
    return tuple((a, b + 1) for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True))


# Operators made of operators ------------------------------------------------------------------------------------------


def _chain(A: Chain, box: Box) -> Cut:
    factors = []
    for factor in A.factors():
        operator, box = cut(factor, box)
        factors.append(operator)
    return Chain(*factors), box


def _scaled(A: Scaled, box: Box) -> Cut:
    operator, inputs = cut(A.of, box)
    return A.times(operator), inputs


def _conjugated(A: _Conjugated, box: Box) -> Cut:
    (of,) = A._made_of()
    operator, inputs = cut(of, box)
    return _Conjugated(operator), inputs


def _sum(A: Sum, box: Box) -> Cut:
    cuts = [cut(term, box) for term in A.terms()]
    inputs = _union([taken for _, taken in cuts])
    return Sum(*(_taking(made, inputs) for made in cuts)), inputs


def _vstack(A: VStack, box: Box) -> Cut:
    """The parts that have some of these outputs, all on the joint input."""
    cuts = [
        cut(reshaped(A.parts()[k], A.input_shape, shape), some) for k, shape, some in _shares(A, A.output_shape, box)
    ]
    inputs = _union([taken for _, taken in cuts])
    operators = [_taking(made, inputs) for made in cuts]
    return operators[0] if len(operators) == 1 else VStack(*operators), inputs


def _hstack(A: HStack, box: Box) -> Cut:
    """All parts, each on its own part of the input."""
    shapes = _shapes_along(A.input_shape, [part.input_shape for part in A.parts()])
    cuts = [cut(reshaped(part, shape, A.output_shape), box) for part, shape in zip(A.parts(), shapes, strict=True)]
    operators, inputs = _side_by_side(cuts, shapes)
    return HStack(*operators), inputs


def _block_diagonal(A: BlockDiagonal, box: Box) -> Cut:
    """The parts that have some of these outputs, each on its own part of the input."""
    shapes = _shapes_along(A.input_shape, [part.input_shape for part in A.parts()])
    shares = list(_shares(A, A.output_shape, box))
    cuts = [cut(reshaped(A.parts()[k], shapes[k], shape), some) for k, shape, some in shares]
    operators, inputs = _side_by_side(cuts, shapes, [k for k, _, _ in shares])
    return operators[0] if len(operators) == 1 else BlockDiagonal(*operators), inputs


def _shapes_along(joint: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The shapes of parts that are put one after the other along the first axis: flat where the joint shape is."""
    return [shape if shape[1:] == joint[1:] and len(shape) == len(joint) else (math.prod(shape),) for shape in shapes]


def _shares(A: VStack | BlockDiagonal, joint: tuple[int, ...], box: Box) -> Iterator[tuple[int, tuple[int, ...], Box]]:
    """The parts with some of the outputs: their number, the shape of their outputs, and which box of these."""
    start = 0
    for number, shape in enumerate(_shapes_along(joint, [part.output_shape for part in A.parts()])):
        mine = joined((max(a - start, 0), min(b - start, shape[0])) for a, b in box[0])
        if mine:
            yield number, shape, (mine, *box[1:])
        start += shape[0]


def _side_by_side(
    cuts: Sequence[Cut], shapes: Sequence[tuple[int, ...]], numbers: Sequence[int] | None = None
) -> tuple[list[ImageOperator], Box]:
    """Cuts of parts on parts of the input that stand one after the other: on one box of it."""
    rest = _union([taken[1:] for _, taken in cuts])
    operators, first = [], []
    for (operator, taken), number in zip(cuts, numbers or range(len(cuts)), strict=True):
        operators.append(_taking((operator, taken), (taken[0], *rest)))
        start = sum(shape[0] for shape in shapes[:number])
        first += [(a + start, b + start) for a, b in taken[0]]
    return operators, (joined(first), *rest)


RULES: dict[type[ImageOperator], Callable[[Any, Box], Cut]] = {
    Conv: _convolution,
    ConvTranspose: _convolution,
    LocalConv: _local,
    _Transposed: _transposed,
    IndexMap: _index_map,
    Diagonal: _diagonal,
    Separable: _separable,
    Rearrange: _rearrange,
    Chain: _chain,
    Scaled: _scaled,
    _Conjugated: _conjugated,
    Sum: _sum,
    VStack: _vstack,
    HStack: _hstack,
    BlockDiagonal: _block_diagonal,
}
"""Kind of operator -> the cut of a box of its outputs."""

ImageOperator._cutting = cast(Cutting, sys.modules[__name__])
