"""Nodes of ONNX that resample or pool an image: a matrix along each axis."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.interop.onnx_attributes import SPLITS
from convmat.interop.onnx_node import Affine, Node
from convmat.operators import Rearrange, Separable, resampling

Axis = tuple[int, int, Any]
"""Samples in; samples out; the scale, in the precision of the positions."""


def resize(node: Node) -> Affine:
    """``Resize``, and ``Upsample``, which is an older one."""
    attributes = node.attributes
    for name in ("antialias", "exclude_outside"):
        if attributes.get(name):
            raise ValueError(f"its {name}={attributes[name]} is not read")
    policy = attributes.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise ValueError(f"its keep_aspect_ratio_policy={policy!r} is not read")
    coordinates = attributes.get("coordinate_transformation_mode", "asymmetric")
    if coordinates not in _COORDINATES:
        raise ValueError(
            f"its coordinate_transformation_mode={coordinates!r} must be one of {', '.join(map(repr, _COORDINATES))}"
        )
    mode = attributes["mode"]
    if mode not in _INTERPOLATIONS:
        raise ValueError(f"its mode={mode!r} must be one of {', '.join(map(repr, _INTERPOLATIONS))}")
    axis_matrix = functools.partial(_INTERPOLATIONS[mode], at=_COORDINATES[coordinates], attributes=attributes)

    matrices: list[Any] = [None] * len(node.image)
    for axis, n, m, scale in _axes(node):
        if n != m or scale != 1:
            node.reserve(4 * m)
            matrices[axis] = axis_matrix((n, m, scale)).astype(node.dtype)
    if all(matrix is None for matrix in matrices):
        return Rearrange(node.image, dtype=node.dtype), None
    return Separable(node.image, matrices), None


def _axes(node: Node) -> list[tuple[int, int, int, np.float32]]:
    """Axis of the image, its size before and after, and the scale, of each axis that a Resize names."""
    image = node.image
    axes = list(node.attributes.get("axes", range(len(image) + 1)))
    sizes, scales = _sizes_and_scales(node)
    if len(sizes or scales) != len(axes):
        raise ValueError(f"its {'sizes' if sizes else 'scales'} are {sizes or scales}: they must be {len(axes)}")
    found = []
    for i, axis in enumerate(axes):
        if axis % (len(image) + 1) == 0:
            if (sizes and sizes[i] != node.source.shape[0]) or (scales and scales[i] != 1):  # type: ignore[index]
                raise ValueError("it resizes axis 0, that of the batch")
            continue
        n = image[node.axis(axis)]
        if scales and not 0 < scales[i] < math.inf:
            raise ValueError(f"its scale {scales[i]} must be positive and finite")
        m = sizes[i] if sizes else math.floor(np.float32(n) * np.float32(scales[i]))
        if m < 1:
            raise ValueError(f"it leaves {m} samples of {n}")
        found.append((node.axis(axis), n, m, np.float32(m) / np.float32(n) if sizes else np.float32(scales[i])))
    return found


def _sizes_and_scales(node: Node) -> tuple[list[int], list[float]]:
    """The sizes that a node asks for, or its scales; the other is empty."""
    if "scales" in node.attributes:
        return [], list(node.attributes["scales"])
    place = next((i for i in (3, 2, 1) if node.given(i) and node.constant(i).size), None)
    if place is None:
        raise ValueError("it has neither scales nor sizes")
    if place == 3:
        return node.integers(place), []
    scales = node.constant(place)
    if scales.dtype.kind != "f":
        raise ValueError(f"its scales have dtype {scales.dtype}: they must be real")
    return [], scales.reshape(-1).tolist()


def _half_pixel(m: NDArray[Any], axis: Axis) -> NDArray[Any]:
    half = m.dtype.type(0.5)
    at: NDArray[Any] = (m + half) / axis[2] - half
    return at


def _half_pixel_symmetric(m: NDArray[Any], axis: Axis) -> NDArray[Any]:
    size, output, scale = axis
    adjustment = output / (scale * size)
    at: NDArray[Any] = size / m.dtype.type(2) * (1 - adjustment) + _half_pixel(m, axis)
    return at


def _pytorch_half_pixel(m: NDArray[Any], axis: Axis) -> NDArray[Any]:
    return _half_pixel(m, axis) if axis[1] > 1 else m


def _align_corners(m: NDArray[Any], axis: Axis) -> NDArray[Any]:
    size, output, _ = axis
    at: NDArray[Any] = m * m.dtype.type(size - 1) / m.dtype.type(max(1, output - 1))
    return at


def _asymmetric(m: NDArray[Any], axis: Axis) -> NDArray[Any]:
    at: NDArray[Any] = m / axis[2]
    return at


def _tf_half_pixel_for_nn(m: NDArray[Any], axis: Axis) -> NDArray[Any]:
    at: NDArray[Any] = (m + m.dtype.type(0.5)) / axis[2]
    return at


_Coordinates = Callable[[NDArray[Any], Axis], NDArray[Any]]

_COORDINATES: dict[str, _Coordinates] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_half_pixel_for_nn": _tf_half_pixel_for_nn,
}
"""coordinate_transformation_mode -> (outputs m, axis) -> where they read, in samples of the input."""

_EQUALLY_NEAR = 1e-5
"""By how much a position may miss the middle of two samples and still prefer one of them, for it is rounded."""

_ROUNDINGS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "round_prefer_floor": lambda at: np.ceil(at.astype(np.float64) - 0.5 - _EQUALLY_NEAR),
    "round_prefer_ceil": lambda at: np.floor(at.astype(np.float64) + 0.5 + _EQUALLY_NEAR),
    "floor": np.floor,
    "ceil": np.ceil,
}
"""nearest_mode -> the sample that is nearest to a position."""


def _nearest(axis: Axis, *, at: _Coordinates, attributes: Any) -> Any:
    """In single precision, as the runtimes compute it: where a position is whole, the last bit decides.

    Before opset 11 the standard does not say how to round; this is onnxruntime's way.
    """
    rounding = attributes.get("nearest_mode", "floor" if axis[2] >= 1 else "ceil")
    if rounding not in _ROUNDINGS:
        raise ValueError(f"its nearest_mode={rounding!r} must be one of {', '.join(map(repr, _ROUNDINGS))}")
    index = _ROUNDINGS[rounding](at(np.arange(axis[1], dtype=np.float32), axis))
    return resampling.samples(index.clip(0, axis[0] - 1), axis[0])


def _linear(axis: Axis, *, at: _Coordinates, attributes: Any) -> Any:
    return resampling.linear_at(at(np.arange(axis[1], dtype=np.float64), _exactly(axis)), axis[0])


def _cubic(axis: Axis, *, at: _Coordinates, attributes: Any) -> Any:
    a = attributes.get("cubic_coeff_a", resampling.KEYS)
    return resampling.cubic_at(at(np.arange(axis[1], dtype=np.float64), _exactly(axis)), axis[0], a)


def _exactly(axis: Axis) -> Axis:
    """The axis, with the scale in double precision: the ratio of its sizes where it is that."""
    size, output, scale = axis
    ratio = output / size
    return size, output, ratio if np.float32(ratio) == scale else float(scale)


_INTERPOLATIONS: dict[str, Callable[..., Any]] = {"nearest": _nearest, "linear": _linear, "cubic": _cubic}
"""Mode -> the matrix of an axis."""


def average_pool(node: Node) -> Affine:
    """``AveragePool``"""
    image, attributes = node.image, node.attributes
    dims = len(image) - 1
    kernel = node.along_axes("kernel_shape", dims, 0, 1)
    strides, dilations = (node.along_axes(name, dims, 1, 1) for name in ("strides", "dilations"))
    pads = node.along_axes("pads", 2 * dims, 0, 0)
    matrices = [None]
    for n, k, s, d, lo, hi in zip(image[1:], kernel, strides, dilations, pads[:dims], pads[dims:], strict=True):
        window = _Window(k, s, d, *_border(attributes["auto_pad"], n, (k, s, d), (lo, hi)))
        ceil_mode = bool(attributes.get("ceil_mode")) and attributes["auto_pad"] != "VALID"
        node.reserve(k * (n + window.lo + window.hi))
        taps = window.taps(n, ceil_mode=ceil_mode)
        counted = window.within(taps, n) if attributes["count_include_pad"] else (taps >= 0) & (taps < n)
        matrices.append(_means(taps, counted, n, node.dtype))
    return Separable(image, matrices), None


def _border(auto_pad: str, n: int, window: tuple[int, int, int], pads: tuple[int, int]) -> tuple[int, int]:
    """The padding that an auto_pad means."""
    if auto_pad not in SPLITS:
        raise ValueError(f"its auto_pad={auto_pad!r} must be one of {', '.join(map(repr, SPLITS))}")
    k, s, d = window
    if auto_pad.startswith("SAME"):
        return SPLITS[auto_pad](max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n))
    return (0, 0) if auto_pad == "VALID" else pads


@dataclass(frozen=True)
class _Window:
    """A pooling window along one axis: samples, stride, dilation, and the padding before and after the axis."""

    size: int
    stride: int
    dilation: int
    lo: int
    hi: int

    def taps(self, n: int, *, ceil_mode: bool) -> NDArray[np.int64]:
        """The samples that each output reads, those in the padding outside of 0..n - 1. (M, K)"""
        span = self.dilation * (self.size - 1) + 1
        free = n + self.lo + self.hi - span
        if free < 0:
            raise ValueError(f"its window of {span} is larger than the padded axis, {n + self.lo + self.hi}")
        count = (-(-free // self.stride) if ceil_mode else free // self.stride) + 1
        if ceil_mode and (count - 1) * self.stride >= n + self.lo:  # a window that begins behind the axis is dropped
            count -= 1
        return np.arange(count)[:, None] * self.stride - self.lo + self.dilation * np.arange(self.size)

    def within(self, taps: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
        """Which samples are in the axis or in its padding."""
        return (taps >= -self.lo) & (taps < n + self.hi)


def _means(taps: NDArray[np.int64], counted: NDArray[np.bool_], n: int, dtype: np.dtype[Any]) -> Any:
    """The matrix of the mean over those samples of each window that count."""
    counts = counted.sum(axis=1, keepdims=True)
    if not counts.all():
        raise ValueError("it has a window that lies in the padding")
    weights = np.where((taps >= 0) & (taps < n), 1 / counts, 0.0)
    return resampling.weighted(taps.clip(0, n - 1), weights, n).astype(dtype)
