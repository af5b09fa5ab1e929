"""The layers of PyTorch, one by one: a module and the shape of its image -> (operator, offset).

`READERS` is the table of all that are linear in evaluation mode, by name. A subclass is read as the layer it derives
from, unless it has a forward of its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from convmat import operators
from convmat.interop.torch_modules import check_hooks, check_initialised, check_own_forward, values
from convmat.operators import Chain, Diagonal, ImageOperator, Pad, Rearrange, Separable, resampling

Shape = tuple[int, ...]
Affine = tuple[ImageOperator | None, NDArray[Any] | None]
"""An operator, None if the layer does nothing; an offset, an image that broadcasts to the output shape, or None."""

_Padded = TypeVar("_Padded", operators.Convolution, Pad)


@dataclass(frozen=True)
class Reader:
    """How one kind of layer is read.

    Attributes
    ----------
    read : callable
        (module, shape of the image, dtype for layers without parameters) -> (operator, offset).
    ndim : int or None
        Number of spatial axes, if the kind fixes it; then an image has the shape (C, N_1..N_D).
    channels : str or None
        The attribute of the module that fixes the channels of the image.
    """

    read: Callable[[Any, Shape, np.dtype[Any]], Affine]
    ndim: int | None = None
    channels: str | None = None

    def complete(self, module: Any, size: Shape) -> Shape:
        """The shape of the image, from a size that may leave out channels which the layer fixes."""
        if self.channels is not None and len(size) == self.ndim:
            return (getattr(module, self.channels), *size)
        return size

    def check(self, module: Any, shape: Shape) -> None:
        """Refuse the shape of an image that the layer does not take."""
        if self.ndim is None:
            return
        channels = "C" if self.channels is None else str(getattr(module, self.channels))
        expected = "(" + ", ".join([channels, *(f"N_{axis + 1}" for axis in range(self.ndim))]) + ")"
        if len(shape) != self.ndim + 1:
            raise ValueError(f"the image has shape {shape}: it must be {expected}, channels first and no batch")
        if self.channels is not None and shape[0] != getattr(module, self.channels):
            raise ValueError(f"the image has shape {shape}, {shape[0]} channels: it must be {expected}")


def reader_of(module: Any) -> Reader:
    """The entry of the table for a layer.

    Raises
    ------
    TypeError
        If the layer is not linear, not known, or has a forward of its own.
    ValueError
        If hooks change what it computes, or its parameters have no values yet.
    """
    kind = kind_of(module)
    if kind is not None:
        check_initialised(module)
        check_own_forward(module, kind)
        check_hooks(module)
        return READERS[kind.__name__]
    reason = why_not_linear(module)
    raise TypeError(f"{reason}: {_ADVICE[reason]}")


def kind_of(module: Any) -> type | None:
    """The class of torch.nn in the table that the layer is or derives from."""
    for kind in type(module).__mro__:
        if kind.__module__.rpartition(".")[0] == "torch.nn.modules" and kind.__name__ in READERS:
            return kind
    return None


def why_not_linear(module: Any) -> str:
    """Why a layer of no kind in the table is not read."""
    homes = (kind.__module__.rpartition(".") for kind in type(module).__mro__)
    if any(folder == "torch.nn.modules" and file in _NOT_LINEAR for folder, _, file in homes):
        return "it is not linear"
    if is_quantised(module):
        return "it is quantised, and rounding is not linear"
    return "it is not a layer that from_torch can read"


def is_quantised(module: Any) -> bool:
    """Is it a layer of torch that computes with integers?"""
    return ".quantized." in type(module).__module__


def does_nothing(module: Any) -> bool:
    """Is it an Identity, or a Dropout, which is one in evaluation mode?"""
    kind = kind_of(module)
    return kind is not None and READERS[kind.__name__].read in (_identity, _dropout)


def _convolution(module: Any, shape: Shape, dtype: np.dtype[Any], kind: str) -> Affine:
    options = {name: _one_for_all(getattr(module, name)) for name in ("stride", "dilation")}
    if kind == "ConvTranspose":
        options["output_padding"] = _one_for_all(module.output_padding)
    A = getattr(operators, f"{kind}{len(shape) - 1}d")(
        values(module, "weight"),
        shape[1:],
        padding=_one_for_all(module.padding) if module.padding_mode == "zeros" else module.padding,
        padding_mode=module.padding_mode,
        groups=module.groups,
        **options,
    )
    return _with_torchs_border(A), _per_channel(values(module, "bias"), len(shape))


def _one_for_all(value: Any) -> Any:
    """A tuple of one entry as that entry, which PyTorch's convolutions and pools then take for every axis."""
    return value[0] if isinstance(value, tuple | list) and len(value) == 1 else value


def _with_torchs_border(A: _Padded) -> _Padded:
    """The operator, if its border is one that PyTorch takes: there, nothing folds or wraps twice."""
    geometry = A.geometry
    kept = {"reflect": 1, "circular": 0}.get(geometry.modes[0])
    if kept is not None:
        most = tuple(n - kept for n in geometry.input_size)
        if any(max(pair) > m for pair, m in zip(geometry.padding, most, strict=True)):
            raise ValueError(
                f"padding={geometry.asked} with padding_mode={geometry.padding_mode!r} must be at most {most} in "
                f"PyTorch for the input size {geometry.input_size}; convmat's own operators take any"
            )
    return A


def _linear(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    if shape[-1] != module.in_features:
        raise ValueError(f"the image has shape {shape}: its last axis must have in_features={module.in_features}")
    leave = [None] * (len(shape) - 1)
    return Separable(shape, [*leave, values(module, "weight")]), values(module, "bias")


def _batch_norm(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    if module.training:
        raise ValueError("it is in training mode, where it normalises by the statistics of its batch: module.eval()")
    if module.running_mean is None:
        raise ValueError(
            "it has no running statistics (track_running_stats=False): it normalises by those of its batch, "
            "after module.eval() too, which is not linear"
        )
    if len(shape) not in (1, 2) and type(module).__name__ == "BatchNorm1d":
        raise ValueError(f"the image has shape {shape}: it must be (C,) or (C, N_1)")
    if shape[0] != module.num_features:
        raise ValueError(f"the image has shape {shape}: its first axis must have num_features={module.num_features}")
    mean, variance, weight, bias = (
        None if v is None else v.astype(np.float64)
        for v in (values(module, name) for name in ("running_mean", "running_var", "weight", "bias"))
    )
    scale = 1 / np.sqrt(variance + module.eps) * (1 if weight is None else weight)
    offset = (0 if bias is None else bias) - mean * scale
    diagonal = Diagonal(_per_channel(scale.astype(dtype), len(shape)), shape)
    return diagonal, _per_channel(offset.astype(dtype), len(shape))


def _identity(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    return None, None


def _dropout(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    if module.training and module.p > 0:
        raise ValueError("it is in training mode, where it is random: module.eval()")
    return None, None


def _average_pool(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    """A depthwise convolution with ones, over the number of samples that PyTorch counts in each window."""
    ndim = len(shape) - 1
    kernel, stride, padding = (
        _per_axis(_one_for_all(v), ndim) for v in (module.kernel_size, module.stride, module.padding)
    )
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ValueError(f"padding={padding} must be at most half of kernel_size={kernel}")
    windows = [
        _windows(n, k, s, p, module.ceil_mode) for n, k, s, p in zip(shape[1:], kernel, stride, padding, strict=True)
    ]
    pads = tuple((p, int(stop[-1]) - n) for n, p, (_, stop) in zip(shape[1:], padding, windows, strict=True))
    override = getattr(module, "divisor_override", None)
    if override is not None:
        counts = np.full((1,) * ndim, override)
    else:
        border = padding if module.count_include_pad else (0,) * ndim
        per_axis = [
            np.minimum(stop, n + b) - np.maximum(start, -b)
            for n, b, (start, stop) in zip(shape[1:], border, windows, strict=True)
        ]
        counts = functools.reduce(np.multiply.outer, per_axis)
    uniform = bool(np.all(counts == counts.flat[0]))
    weight = np.full((shape[0], 1, *kernel), 1 / counts.flat[0] if uniform else 1.0, dtype=dtype)
    make = getattr(operators, f"Conv{ndim}d")
    total = make(weight, shape[1:], stride=stride, padding=pads, groups=shape[0])
    return total if uniform else Chain(Diagonal((1 / counts).astype(dtype), total.output_shape), total), None


def _windows(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """First sample of each window of a pooling axis, and the one after its last; outside of 0..size is padding."""
    free = size + 2 * padding - kernel
    count = (-(-free // stride) if ceil_mode else free // stride) + 1
    if count < 1:
        raise ValueError(f"kernel_size={kernel} must not be larger than the padded input, {size + 2 * padding}")
    if (count - 1) * stride >= size + padding:  # PyTorch drops a window that begins in the right border
        count -= 1
    start = np.arange(count) * stride - padding
    return start, start + kernel


def _adaptive_average_pool(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    sizes = _per_axis(module.output_size, len(shape) - 1)
    axes = [resampling.average(n, n if m is None else m) for n, m in zip(shape[1:], sizes, strict=True)]
    return _resampled(shape, axes, dtype), None


def _upsample(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    if module.mode not in _MODES:
        raise ValueError(f"mode={module.mode!r} must be one of {', '.join(map(repr, _MODES))}")
    ndims, axis_matrix = _MODES[module.mode]
    ndim = len(shape) - 1
    if ndim not in ndims:
        allowed = " or ".join(f"(C, {', '.join(f'N_{a + 1}' for a in range(d))})" for d in ndims)
        raise ValueError(f"the image has shape {shape}: for mode={module.mode!r} it must be {allowed}")
    scales: tuple[Any, ...] = (None,) * ndim
    if module.size is not None:
        sizes = _per_axis(module.size, ndim)
    else:
        scales = _per_axis(module.scale_factor, ndim)
        sizes = tuple(int(n * f) for n, f in zip(shape[1:], scales, strict=True))
        if module.recompute_scale_factor:
            scales = (None,) * ndim
        elif module.mode == "nearest" and ndim == 2:
            # In two dimensions alone, PyTorch's forward goes by the sizes where they are equal or double.
            scales = tuple(None if m in (n, 2 * n) else f for n, m, f in zip(shape[1:], sizes, scales, strict=True))
    if min(sizes) < 1:
        raise ValueError(f"scale_factor={module.scale_factor} leaves no output of the image of shape {shape}")
    options = {"align_corners": True} if module.align_corners else {}
    axes = [axis_matrix(n, m, f, **options) for n, m, f in zip(shape[1:], sizes, scales, strict=True)]
    return _resampled(shape, axes, dtype), None


def _resampled(shape: Shape, axes: Iterable[Any], dtype: np.dtype[Any]) -> Separable:
    return Separable(shape, [None, *(axis.astype(dtype) for axis in axes)])


def _pad(module: Any, shape: Shape, dtype: np.dtype[Any], mode: str) -> Affine:
    P = Pad(shape[1:], _pairs(module), padding_mode=mode, channels=shape[0], dtype=dtype)
    return _with_torchs_border(P), None


def _constant_pad(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    P = Pad(shape[1:], _pairs(module), channels=shape[0], dtype=dtype)
    if module.value == 0:
        return P, None
    return P, np.where(P.apply(np.ones(shape)) == 0, module.value, 0).astype(dtype)


def _circular_pad(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    """PyTorch's circular padding alone crops first, and then extends what is left."""
    pairs = _pairs(module)
    crop, extend = (tuple((part(lo, 0), part(hi, 0)) for lo, hi in pairs) for part in (min, max))
    cropped = Pad(shape[1:], crop, channels=shape[0], dtype=dtype)
    wrapped = Pad(cropped.output_shape[1:], extend, padding_mode="circular", channels=shape[0], dtype=dtype)
    extended = _with_torchs_border(wrapped)
    return (extended if cropped.input_shape == cropped.output_shape else Chain(extended, cropped)), None


def _pairs(module: Any) -> tuple[tuple[int, int], ...]:
    """(lo, hi) per axis; PyTorch lists them with the last axis first."""
    return tuple(zip(module.padding[::2], module.padding[1::2], strict=True))[::-1]


def _pixel_shuffle(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    r, (channels, *size) = module.upscale_factor, shape
    if channels % r**2:
        raise ValueError(f"the image has shape {shape}: its channels must be a multiple of upscale_factor^2 = {r**2}")
    outs = (channels // r**2, *(n * r for n in size))
    split = (channels // r**2, r, r, *size)  # (C, r, r, N_1, N_2) -> (C, N_1, r, N_2, r)
    return Rearrange(shape, outs, split=split, order=(0, 3, 1, 4, 2), dtype=dtype), None


def _pixel_unshuffle(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    r, (channels, *size) = module.downscale_factor, shape
    if any(n % r for n in size):
        raise ValueError(f"the image has shape {shape}: its size must be a multiple of downscale_factor = {r}")
    rows, cols = (n // r for n in size)
    outs, split = (channels * r**2, rows, cols), (channels, rows, r, cols, r)
    return Rearrange(shape, outs, split=split, order=(0, 2, 4, 1, 3), dtype=dtype), None


def _channel_shuffle(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    groups, (channels, *size) = module.groups, shape
    if channels % groups:
        raise ValueError(f"the image has shape {shape}: its channels must be a multiple of groups = {groups}")
    split, order = (groups, channels // groups, *size), (1, 0, *range(2, len(shape) + 1))
    return Rearrange(shape, shape, split=split, order=order, dtype=dtype), None


def _flatten(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    start, end = (_image_axis(name, getattr(module, name), len(shape)) for name in ("start_dim", "end_dim"))
    outs = (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
    return Rearrange(shape, outs, dtype=dtype), None


def _unflatten(module: Any, shape: Shape, dtype: np.dtype[Any]) -> Affine:
    axis = _image_axis("dim", module.dim, len(shape))
    sizes = tuple(module.unflattened_size)
    free = shape[axis] // max(1, -math.prod(sizes))
    outs = (*shape[:axis], *(free if n == -1 else n for n in sizes), *shape[axis + 1 :])
    return Rearrange(shape, outs, dtype=dtype), None


def _image_axis(name: str, dim: int, ndim: int) -> int:
    """An axis of the image, from one that counts the batch axis too."""
    axis = dim + ndim if dim < 0 else dim - 1
    if not 0 <= axis < ndim:
        raise ValueError(f"{name}={dim} must be an axis of the image, 1 to {ndim} (0 is the batch), or negative")
    return axis


def _per_axis(value: Any, ndim: int) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        return (value,) * ndim
    if len(value) != ndim:
        raise ValueError(f"{value} must be a number or have one entry per spatial axis, {ndim}")
    return tuple(value)


def _per_channel(values: NDArray[Any] | None, ndim: int) -> Any:
    """Values per channel as an image that broadcasts. (C, 1..1)"""
    return None if values is None else values.reshape(-1, *(1,) * (ndim - 1))


_MODES: dict[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    "nearest": ((1, 2, 3), resampling.nearest),
    "nearest-exact": ((1, 2, 3), functools.partial(resampling.nearest, exact=True)),
    "linear": ((1,), resampling.linear),
    "bilinear": ((2,), resampling.linear),
    "trilinear": ((3,), resampling.linear),
    "bicubic": ((2,), resampling.cubic),
    "area": ((1, 2, 3), lambda size, output, scale: resampling.average(size, output)),
}
"""Mode of an Upsample -> numbers of spatial axes, and the matrix of one axis."""

_NOT_LINEAR = {"activation", "normalization", "pooling", "rnn", "transformer"}
"""Modules of torch.nn whose layers are not linear, but for those in the table."""

_ADVICE = {
    "it is not linear": "split the network there and convert the layers before and after it",
    "it is quantised, and rounding is not linear": "convert the network in floating point",
    "it is not a layer that from_torch can read": "pass the layers of torch.nn that it is made of, as nn.Sequential",
}
"""Why a layer is not read -> what to do about it."""

_PER_NDIM = {
    "AdaptiveAvgPool{}d": Reader(_adaptive_average_pool),
    "AvgPool{}d": Reader(_average_pool),
    "BatchNorm{}d": Reader(_batch_norm, channels="num_features"),
    "CircularPad{}d": Reader(_circular_pad),
    "ConstantPad{}d": Reader(_constant_pad),
    "Conv{}d": Reader(functools.partial(_convolution, kind="Conv"), channels="in_channels"),
    "ConvTranspose{}d": Reader(functools.partial(_convolution, kind="ConvTranspose"), channels="in_channels"),
    "ReflectionPad{}d": Reader(functools.partial(_pad, mode="reflect")),
    "ReplicationPad{}d": Reader(functools.partial(_pad, mode="replicate")),
}
"""Layers of torch.nn in one, two and three dimensions."""

READERS = {name.format(n): replace(reader, ndim=n) for name, reader in _PER_NDIM.items() for n in (1, 2, 3)}
READERS |= {
    "AlphaDropout": Reader(_dropout),
    "BatchNorm1d": Reader(_batch_norm),
    "ChannelShuffle": Reader(_channel_shuffle),
    "Dropout": Reader(_dropout),
    "Dropout1d": Reader(_dropout),
    "Dropout2d": Reader(_dropout),
    "Dropout3d": Reader(_dropout),
    "FeatureAlphaDropout": Reader(_dropout),
    "Flatten": Reader(_flatten),
    "Identity": Reader(_identity),
    "Linear": Reader(_linear),
    "PixelShuffle": Reader(_pixel_shuffle, 2),
    "PixelUnshuffle": Reader(_pixel_unshuffle, 2),
    "SyncBatchNorm": Reader(_batch_norm),
    "Unflatten": Reader(_unflatten),
    "Upsample": Reader(_upsample),
}
"""Layer of torch.nn -> how it is read."""
