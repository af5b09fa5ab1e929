"""Nodes of ONNX that add and multiply: sums, products with constants, matrices, means, batch normalisation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.interop.onnx_moves import repeated
from convmat.interop.onnx_node import Affine, Image, Node, of_image
from convmat.operators import Chain, Diagonal, ImageOperator, Rearrange, Separable, hstack
from convmat.operators.algebra import reshaped


def added(node: Node) -> Affine:
    """``Add``, ``Sum``"""
    return _combined(node, [1] * len(node.operands))


def subtracted(node: Node) -> Affine:
    """``Sub``"""
    return _combined(node, [1, -1])


def averaged(node: Node) -> Affine:
    """``Mean`` of several tensors."""
    return _combined(node, [1 / len(node.operands)] * len(node.operands))


def negated(node: Node) -> Affine:
    """``Neg``"""
    return _combined(node, [-1])


def multiplied(node: Node) -> Affine:
    """``Mul``"""
    constant = node.numbers(0 if node.operands[1] is node.source else 1)
    return _scaled(node, constant), None


def divided(node: Node) -> Affine:
    """``Div``"""
    with np.errstate(divide="ignore"):
        return _scaled(node, (1 / node.numbers(1).astype(np.float64)).astype(node.dtype)), None


def _combined(node: Node, factors: Iterable[float]) -> Affine:
    """The sum of all inputs, each times its factor, broadcast as numpy does it."""
    operands = list(zip(node.operands, factors, strict=True))
    rank = node.rank
    constants = [
        np.asarray(factor * of_image(node.numbers(i), rank), node.dtype)
        for i, (operand, factor) in enumerate(operands)
        if operand.value is not None
    ]
    shape = np.broadcast_shapes(*(source.image for source in node.sources), *(c.shape for c in constants))
    terms = [
        _onto(node, operand.image, shape, np.asarray(factor, node.dtype))
        for operand, factor in operands
        if operand.value is None
    ]
    A = terms[0] if len(terms) == 1 else hstack(terms)
    return A, None if not constants else np.asarray(sum(constants))


def _scaled(node: Node, constant: NDArray[Any]) -> ImageOperator:
    factors = of_image(constant, node.rank)
    return _onto(node, node.image, np.broadcast_shapes(node.image, factors.shape), factors)


def _onto(node: Node, image: Image, shape: Image, factors: NDArray[Any]) -> ImageOperator:
    """The image repeated to a shape, times factors."""
    scaled = Diagonal(factors, shape)
    return scaled if image == shape else Chain(scaled, repeated(node, image, shape))


def matmul(node: Node) -> Affine:
    """``MatMul`` of an image with a constant on one of its sides."""
    source, image = node.source, node.image
    left = node.operands[1] is source
    constant = node.numbers(0 if left else 1)
    if constant.ndim == 0 or math.prod(constant.shape[:-2]) != 1 or constant.ndim > len(image) + 1:
        raise ValueError(f"its constant has shape {constant.shape}: it must be one matrix or vector")
    if left and len(image) == 1:
        raise ValueError(f"it multiplies {source} from the left, and so adds up over the batch, its axis 0")
    vector = constant.ndim == 1
    matrix = constant.reshape(1, -1) if vector else constant.reshape(constant.shape[-2:])
    axis = len(image) - (2 if left else 1)
    if vector:
        A = _on_axis(image, axis, matrix)
        return reshaped(A, image, _without(A.output_shape, [axis])), None
    return _on_axis(image, axis, matrix if left else matrix.T), None


def gemm(node: Node) -> Affine:
    """``Gemm``, alpha x B + beta C."""
    source, image = node.source, node.image
    alpha, beta = (node.dtype.type(node.attributes[name]) for name in ("alpha", "beta"))
    if source is not node.operands[0] or node.attributes["transA"]:
        raise ValueError(f"it multiplies {source} along axis 0, and so adds up over the batch")
    matrix = node.numbers(1)
    if matrix.ndim != 2 or len(image) != 1:
        raise ValueError(f"it multiplies {source} and a constant of shape {matrix.shape}: they must be matrices")
    A = _on_axis(image, 0, alpha * (matrix if node.attributes["transB"] else matrix.T))
    if not node.given(2):
        return A, None
    return A, beta * of_image(node.numbers(2), 2)


def _on_axis(image: Image, axis: int, matrix: NDArray[Any]) -> Separable:
    return Separable(image, [matrix if a == axis else None for a in range(len(image))])


def _without(image: Image, axes: Iterable[int]) -> Image:
    left = tuple(n for axis, n in enumerate(image) if axis not in axes)
    if not left:
        raise ValueError("it leaves no axis but that of the batch: an image must have one")
    return left


def batch_normalization(node: Node) -> Affine:
    """``BatchNormalization`` by its running statistics."""
    if node.attributes.get("training_mode") or sum(bool(result.name) for result in node.results) > 1:
        raise ValueError("it is in training mode, where it normalises by the statistics of its batch")
    if not node.attributes.get("spatial", 1):
        raise ValueError("its spatial=0 gives every sample statistics of its own, which is not read")
    image = node.image
    scale, bias, mean, variance = (node.numbers(i).astype(np.float64) for i in range(1, 5))
    for i, value in enumerate((scale, bias, mean, variance), start=1):
        if value.shape != image[:1]:
            raise ValueError(f"its {node.operands[i].name!r} has shape {value.shape}: it must be {image[:1]}")
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = scale / np.sqrt(variance + node.attributes["epsilon"])
        offset = bias - mean * factors
    per_channel = (-1, *[1] * (len(image) - 1))
    A = Diagonal(factors.astype(node.dtype).reshape(per_channel), image)
    return A, offset.astype(node.dtype).reshape(per_channel)


def reduced(node: Node, *, mean: bool) -> Affine:
    """``ReduceMean``, ``ReduceSum``"""
    given = node.option("axes", 1)
    if not given and node.attributes.get("noop_with_empty_axes"):
        return Rearrange(node.image, dtype=node.dtype), None
    if not given:
        raise ValueError("it has no axes, and so takes all of them, also axis 0, that of the batch")
    axes = {node.axis(axis) for axis in given}
    A = _summed(node, axes, mean=mean)
    return A if node.attributes["keepdims"] else reshaped(A, node.image, _without(node.image, axes)), None


def global_average_pool(node: Node) -> Affine:
    """``GlobalAveragePool``"""
    return _summed(node, range(1, len(node.image)), mean=True), None


def _summed(node: Node, axes: Iterable[int], *, mean: bool) -> Separable:
    """The image summed or averaged along axes, which are kept with one sample."""
    image = node.image
    node.reserve(sum(image[axis] for axis in axes))
    rows = [np.full((1, n), 1 / n if mean else 1, node.dtype) if axis in axes else None for axis, n in enumerate(image)]
    return Separable(image, rows)
