"""Nodes of ONNX that move, copy and drop samples, and compute nothing."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from convmat.interop.onnx_node import Affine, Image, Node, of_image
from convmat.operators import Crop, ImageOperator, Pad, Rearrange, Separable, block_diag, hstack, resampling, vstack
from convmat.operators.algebra import reshaped


def identity(node: Node) -> Affine:
    """``Identity``, and whatever is one."""
    return Rearrange(node.image, dtype=node.dtype), None


def dropout(node: Node) -> Affine:
    """``Dropout``, which is the identity when it does not train."""
    if node.given(2) and node.constant(2).any():
        raise ValueError("it is in training mode, where it is random")
    return identity(node)


def cast(node: Node) -> Affine:
    """``Cast`` to a type that holds every number of the one before."""
    before, after = node.source.kind, node.results[0].kind
    if before != after and (before, after) not in _WIDENING:
        raise ValueError(f"it makes {after or 'unknown'} of {before or 'unknown'}: it may round, which is not linear")
    return identity(node)


_WIDENING = {
    ("float16", "float32"),
    ("float16", "float64"),
    ("bfloat16", "float32"),
    ("bfloat16", "float64"),
    ("float32", "float64"),
}
"""Types, and others that hold each of their numbers."""


def reshape(node: Node) -> Affine:
    """``Reshape``, ``Flatten``, ``Squeeze``, ``Unsqueeze``: shape inference says to what."""
    image, result = node.image, node.results[0].image
    if math.prod(image) != math.prod(result):
        raise ValueError(f"it makes {node.results[0]} of {node.source}: samples go to another image of the batch")
    return Rearrange(image, result, dtype=node.dtype), None


def transpose(node: Node) -> Affine:
    """``Transpose``"""
    image = node.image
    order = list(node.attributes.get("perm", range(len(image), -1, -1)))
    if sorted(order) != list(range(len(image) + 1)):
        raise ValueError(f"its perm={order} must be a permutation of the axes of {node.source}")
    if order[0] != 0:
        raise ValueError(f"its perm={order} moves axis 0, that of the batch")
    return Rearrange(image, order=[axis - 1 for axis in order[1:]], dtype=node.dtype), None


def depth_to_space(node: Node) -> Affine:
    """``DepthToSpace``"""
    (channels, *size), b = _with_two_axes(node), node.attributes["blocksize"]
    if b < 1 or channels % b**2:
        raise ValueError(f"its blocksize={b} must divide {channels} channels twice")
    kept = channels // b**2
    mode = node.attributes.get("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise ValueError(f"its mode={mode!r} must be 'DCR' or 'CRD'")
    split, order = ((b, b, kept), (2, 3, 0, 4, 1)) if mode == "DCR" else ((kept, b, b), (0, 3, 1, 4, 2))
    outs = (kept, *(n * b for n in size))
    return Rearrange(node.image, outs, split=(*split, *size), order=order, dtype=node.dtype), None


def space_to_depth(node: Node) -> Affine:
    """``SpaceToDepth``"""
    (channels, rows, columns), b = _with_two_axes(node), node.attributes["blocksize"]
    if b < 1 or rows % b or columns % b:
        raise ValueError(f"its blocksize={b} must divide {rows} and {columns}")
    split = (channels, rows // b, b, columns // b, b)
    outs = (channels * b**2, rows // b, columns // b)
    return Rearrange(node.image, outs, split=split, order=(2, 4, 0, 1, 3), dtype=node.dtype), None


def _with_two_axes(node: Node) -> Image:
    if len(node.image) != 3:
        raise ValueError(f"it takes {node.source}: it must have 4 axes, batch and channels first")
    return node.image


def cut(node: Node) -> Affine:
    """``Slice``"""
    starts, ends = ((node.option(name, i) or []) for i, name in enumerate(("starts", "ends"), start=1))
    axes, steps = node.option("axes", 3) or list(range(len(starts))), node.option("steps", 4) or [1] * len(starts)
    matrices: list[Any] = [None] * len(node.image)
    whole = node.source.shape or ()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        part = slice(start, end, step)
        if axis % len(whole) == 0:
            _check_whole(whole[0], part)
            continue
        n = node.image[node.axis(axis)]
        index = range(n)[part]
        if not index:
            raise ValueError(f"it takes the samples {start}:{end}:{step} of {n}, and leaves none")
        if index != range(n):
            matrices[node.axis(axis)] = _chosen(node, index, n)
    if not any(matrix is not None for matrix in matrices):
        return identity(node)
    return Separable(node.image, matrices), None


_ANY_BATCH = 2**31 - 1
"""The end of a slice that takes the rest of an axis, of any size."""


def _check_whole(batch: int | None, part: slice) -> None:
    """Raise unless a slice of the batch is all of it."""
    n = _ANY_BATCH if batch is None else batch
    if range(n)[part] != range(n):
        raise ValueError(f"it takes the images {part.start}:{part.stop}:{part.step} of the batch alone")


def gather(node: Node) -> Affine:
    """``Gather`` of constant places."""
    image, source = node.image, node.source
    if source is not node.operands[0]:
        raise ValueError(f"it takes the places {source.name!r}, which are computed when the model runs")
    axis = node.axis(node.attributes["axis"])
    n, index = image[axis], node.integers(1)
    if not index or not all(-n <= i < n for i in index):
        raise ValueError(f"its places in an axis of {n} must be {-n}..{n - 1}, and at least one")
    matrices = [None] * len(image)
    matrices[axis] = _chosen(node, [i % n for i in index], n)
    shape = (*image[:axis], *node.constant(1).shape, *image[axis + 1 :])
    if not shape:
        raise ValueError("it leaves no axis but that of the batch: an image must have one")
    return reshaped(Separable(image, matrices), image, shape), None


def tile(node: Node) -> Affine:
    """``Tile``"""
    image, (first, *times) = node.image, node.integers(1)
    if len(times) != len(image) or min(times) < 1:
        raise ValueError(f"its repeats {[first, *times]} must be one number of at least 1 for each axis")
    if first != 1:
        raise ValueError("it repeats the images of the batch")
    if set(times) == {1}:
        return identity(node)
    node.reserve(sum(n * r for n, r in zip(image, times, strict=True)))
    matrices = [
        None if r == 1 else resampling.samples(np.tile(np.arange(n), r), n).astype(node.dtype)
        for n, r in zip(image, times, strict=True)
    ]
    return Separable(image, matrices), None


def expand(node: Node) -> Affine:
    """``Expand``: shape inference says to what."""
    image, result = node.image, node.results[0].image
    if (node.source.shape or ())[0] != (node.results[0].shape or ())[0]:
        raise ValueError(f"it makes {node.results[0]} of {node.source}: it repeats the images of the batch")
    return identity(node) if image == result else (repeated(node, image, result), None)


def repeated(node: Node, image: Image, shape: Image) -> Separable:
    """Axes of one sample repeated to those of a shape."""
    if len(image) != len(shape) or any(n not in (1, m) for n, m in zip(image, shape, strict=True)):
        raise ValueError(f"an image of shape {image} does not broadcast to {shape}")
    node.reserve(sum(shape))
    ones = [None if n == m else np.ones((m, 1), node.dtype) for n, m in zip(image, shape, strict=True)]
    return Separable(image, ones)


def _chosen(node: Node, index: Any, n: int) -> Any:
    node.reserve(len(index))
    return resampling.samples(index, n).astype(node.dtype)


_MODES = {"constant": "zeros", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
"""Mode of a Pad -> padding mode."""


def pad(node: Node) -> Affine:
    """``Pad``"""
    image, mode = node.image, node.attributes["mode"]
    if mode not in _MODES:
        raise ValueError(f"its mode={mode!r} must be one of {', '.join(map(repr, _MODES))}")
    pads = node.option("pads", 1) or []
    axes = node.integers(3) if node.given(3) else list(range(len(image) + 1))
    if len(pads) != 2 * len(axes):
        raise ValueError(f"its pads={pads} must be two numbers for each of {len(axes)} axes")
    pairs = [(0, 0)] * len(image)
    for axis, *pair in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if any(pair):
            pairs[node.axis(axis)] = (pair[0], pair[1])
    if mode != "constant" and min(min(pair) for pair in pairs) < 0:
        raise ValueError(f"its pads={pads} crop, which with mode={mode!r} is not read")
    P = _padded(image, pairs, _MODES[mode], node.dtype)
    value = _padding_value(node) if mode == "constant" else 0
    if value == 0:
        return P, None
    node.reserve(math.prod(P.output_shape))
    return P, np.where(P.apply(np.ones(image, node.dtype)) == 0, value, 0).astype(node.dtype)


def _padding_value(node: Node) -> float:
    if "value" in node.attributes:
        return float(node.attributes["value"])
    return float(node.numbers(2).reshape(-1)[0]) if node.given(2) else 0.0


def _padded(image: Image, pairs: list[tuple[int, int]], mode: str, dtype: np.dtype[Any]) -> Pad:
    """A border around an image; the channels stand by themselves, as in a convolution, if they have none."""
    if len(image) > 1 and pairs[0] == (0, 0):
        return Pad(image[1:], tuple(pairs[1:]), padding_mode=mode, channels=image[0], dtype=dtype)
    return Pad(image, tuple(pairs), padding_mode=mode, dtype=dtype)


def concat(node: Node) -> Affine:
    """``Concat``"""
    axis, rank = node.axis(node.attributes["axis"]), node.rank
    images = [of_image(node.numbers(i), rank).shape if o.value is not None else o.image
              for i, o in enumerate(node.operands)]  # fmt: skip
    rests = {(*image[:axis], *image[axis + 1 :]) for image in images}
    if len(rests) > 1 or any(len(image) != rank - 1 for image in images):
        raise ValueError(f"it joins images of shapes {', '.join(map(str, images))}: only axis {axis + 1} may differ")
    sizes = [image[axis] for image in images]
    shape = (*images[0][:axis], sum(sizes), *images[0][axis + 1 :])
    if len(node.sources) == len(images) and (len(set(sizes)) == 1 or math.prod(shape[:axis]) == 1):
        return _interleaved(images, axis, shape, node.dtype), None
    starts = [0, *itertools.accumulate(sizes)]
    parts = [_part(shape, axis, start, n, node.dtype).T for start, n in zip(starts, sizes, strict=False)]
    terms = [part for part, operand in zip(parts, node.operands, strict=True) if operand.value is None]
    A = terms[0] if len(terms) == 1 else hstack(terms)
    if len(terms) == len(parts):
        return A, None
    node.reserve(math.prod(shape))
    offset = np.zeros(shape, node.dtype)
    for i, (operand, start, n) in enumerate(zip(node.operands, starts, sizes, strict=False)):
        if operand.value is not None:
            offset[(slice(None),) * axis + (slice(start, start + n),)] = of_image(node.numbers(i), rank)
    return A, offset


def _interleaved(images: list[Image], axis: int, shape: Image, dtype: np.dtype[Any]) -> Rearrange:
    """Images one after the other -> one image, by a permutation: all are alike, or nothing stands before the axis."""
    stacked = block_diag([Rearrange(image) for image in images]).input_shape
    before = math.prod(shape[:axis])
    if before == 1:
        return Rearrange(stacked, shape, dtype=dtype)
    split = (len(images), before, math.prod(images[0][axis:]))
    return Rearrange(stacked, shape, split=split, order=(1, 0, 2), dtype=dtype)


def split(node: Node) -> Affine:
    """``Split``, whose outputs are one after the other."""
    if node.source is not node.operands[0]:
        raise ValueError(f"its parts depend on {node.source.name!r}, which is computed when the model runs")
    image, axis = node.image, node.axis(node.attributes["axis"])
    sizes = [result.image[axis] for result in node.results]
    starts = itertools.accumulate([0, *sizes[:-1]])
    parts = [_part(image, axis, start, n, node.dtype) for start, n in zip(starts, sizes, strict=True)]
    return (parts[0] if len(parts) == 1 else vstack(parts)), None


def _part(image: Image, axis: int, start: int, n: int, dtype: np.dtype[Any]) -> ImageOperator:
    """A stretch of an axis; its transpose puts it back, among zeros."""
    pairs = [(0, 0)] * len(image)
    pairs[axis] = (start, image[axis] - start - n)
    return Crop(image, tuple(pairs), dtype=dtype)
