"""The factors of a convolution, A = Downsample . Correlate . Pad, each an operator in its own right.

Pad extends the image by the padding mode, Correlate is the stride-1 "valid" correlation, Downsample keeps every s-th
sample. Pad and Downsample are themselves depthwise convolutions with the kernel [1], so that their matrices come from
the same builder, and their errors from the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from convmat import matrix
from convmat.geometry import Geometry, IntOrTuple, Modes, Padding, as_weight, conv_geometry, conv_transpose_geometry
from convmat.operators.base import ImageOperator
from convmat.products.padding import extend, fold


class IndexMap(ImageOperator):
    """A depthwise convolution with the kernel [1], or the transpose of one."""

    def _bind(
        self,
        geometry: Geometry,
        dtype: np.dtype[Any],
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
    ) -> None:
        self._geometry = geometry
        super().__init__(dtype, *shapes)

    @classmethod
    def _of(cls, geometry: Geometry, dtype: np.dtype[Any]) -> Self:
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._of, (self._geometry, self.dtype)

    @property
    def geometry(self) -> Geometry:
        """The geometry of the depthwise convolution with the kernel [1] that this is, or that it transposes."""
        return self._geometry

    @property
    def nnz(self) -> int:
        """Number of stored entries of `tosparse`, known without building it."""
        return self._geometry.nnz

    def _flipped(self) -> IndexMap:
        return _PARTNERS[type(self)]._of(self._geometry, self.dtype)

    def _adjoint(self) -> ImageOperator:
        return self._transpose()

    def _ones(self) -> NDArray[Any]:
        return np.ones(self._geometry.weight_shape, dtype=self.dtype)


class _Down(IndexMap):
    """A map in the direction of the convolution."""

    @classmethod
    def _of(cls, geometry: Geometry, dtype: np.dtype[Any]) -> Self:
        operator = cls.__new__(cls)
        operator._bind(geometry, dtype, (geometry.input_shape, geometry.output_shape))
        return operator

    def tosparse(self, format: str = "csr") -> Any:
        return matrix.sparse(self._geometry, self._ones(), format)

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        return self._geometry.cells(row_edges, column_edges)


class _Up(IndexMap):
    """A map in the direction of the transposed convolution."""

    @classmethod
    def _of(cls, geometry: Geometry, dtype: np.dtype[Any]) -> Self:
        operator = cls.__new__(cls)
        operator._bind(geometry, dtype, (geometry.output_shape, geometry.input_shape))
        return operator

    def tosparse(self, format: str = "csr") -> Any:
        return matrix.sparse_transpose(self._geometry, self._ones(), format)

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        counts = self._geometry.cells(column_edges, row_edges)
        return None if counts is None else counts.T


class Pad(_Down):
    """Extend an image by a padding mode; negative entries of a pair crop the extended image.

    Parameters
    ----------
    input_size : int or tuple of int
    padding : int, tuple of int, tuple of (lo, hi) pairs
    padding_mode : {"zeros", "reflect", "replicate", "circular", "symmetric", "antireflect"}, or one per axis
    channels : int, optional
        The size of the channel axis in front; without it, images have none.
    dtype : dtype
        float32, float64, complex64 or complex128.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    References
    ----------
    .. [1] ``numpy.pad``, with its "constant", "reflect", "edge", "wrap" and "symmetric"; "antireflect" is its "reflect"
       with ``reflect_type="odd"``.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Pad
    >>> P = Pad(4, 2, padding_mode="reflect")
    >>> x = np.array([1.0, 2.0, 3.0, 4.0])
    >>> np.array_equal(P @ x, np.pad(x, 2, mode="reflect"))
    True

    Its transpose folds the border back (and crops it, where it was zero):

    >>> P.T @ np.ones(8)
    array([1., 3., 3., 1.])
    """

    def __init__(
        self,
        input_size: IntOrTuple,
        padding: Padding,
        *,
        padding_mode: Modes = "zeros",
        channels: int | None = None,
        dtype: DTypeLike = np.float64,
    ) -> None:
        geometry, kernel = _identity(input_size, channels, dtype, padding=padding, padding_mode=padding_mode)
        self._bind(geometry, kernel, (geometry.input_shape, geometry.output_shape))

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return _pad(x, self._geometry).reshape(len(x), *self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return _unpad(y, self._geometry).reshape(len(y), *self.input_shape)


class Crop(_Up):
    """The transpose of `Pad`: cut the border off, after the padding mode has folded it back (zeros fold to nothing).

    Parameters
    ----------
    input_size : int or tuple of int
        The padded size, what goes into this operator.
    padding, padding_mode, channels, dtype
        Those of the `Pad`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Crop
    >>> Crop(5, 1) @ np.arange(5.0)
    array([1., 2., 3.])
    """

    def __init__(
        self,
        input_size: IntOrTuple,
        padding: Padding,
        *,
        padding_mode: Modes = "zeros",
        channels: int | None = None,
        dtype: DTypeLike = np.float64,
    ) -> None:
        geometry, kernel = _identity_transpose(input_size, channels, dtype, padding=padding, padding_mode=padding_mode)
        self._bind(geometry, kernel, (geometry.output_shape, geometry.input_shape))

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return _unpad(x, self._geometry).reshape(len(x), *self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return _pad(y, self._geometry).reshape(len(y), *self.input_shape)


class Downsample(_Down):
    """Keep every s-th sample, beginning with the first.

    Parameters
    ----------
    input_size : int or tuple of int
    stride : int or tuple of int
    channels : int, optional
        The size of the channel axis in front; without it, images have none.
    dtype : dtype
        float32, float64, complex64 or complex128.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Downsample
    >>> D = Downsample(5, 2)
    >>> D @ np.arange(5.0)
    array([0., 2., 4.])
    >>> D.T @ np.array([1.0, 2.0, 3.0])
    array([1., 0., 2., 0., 3.])
    """

    def __init__(
        self,
        input_size: IntOrTuple,
        stride: IntOrTuple,
        *,
        channels: int | None = None,
        dtype: DTypeLike = np.float64,
    ) -> None:
        geometry, kernel = _identity(input_size, channels, dtype, stride=stride)
        self._bind(geometry, kernel, (geometry.input_shape, geometry.output_shape))

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return _keep(x, self._geometry).copy()

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return _fill(y, self._geometry, self.input_shape)


class Upsample(_Up):
    """Put s - 1 zeros between the samples: the transpose of `Downsample`.

    Parameters
    ----------
    input_size : int or tuple of int
    stride : int or tuple of int
    output_size : int or tuple of int, optional
        From (M-1) s + 1, the default, to M s: the zeros that follow the last sample.
    channels : int, optional
        The size of the channel axis in front; without it, images have none.
    dtype : dtype
        float32, float64, complex64 or complex128.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Upsample
    >>> Upsample(3, 2) @ np.array([1.0, 2.0, 3.0])
    array([1., 0., 2., 0., 3.])
    """

    def __init__(
        self,
        input_size: IntOrTuple,
        stride: IntOrTuple,
        *,
        output_size: IntOrTuple | None = None,
        channels: int | None = None,
        dtype: DTypeLike = np.float64,
    ) -> None:
        geometry, kernel = _identity_transpose(input_size, channels, dtype, stride=stride, output_size=output_size)
        self._bind(geometry, kernel, (geometry.output_shape, geometry.input_shape))

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return _fill(x, self._geometry, self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return _keep(y, self._geometry).copy()


_PARTNERS: dict[type[IndexMap], type[IndexMap]] = {Pad: Crop, Crop: Pad, Downsample: Upsample, Upsample: Downsample}


def _identity(
    input_size: IntOrTuple, channels: int | None, dtype: DTypeLike, **kind: Any
) -> tuple[Geometry, np.dtype[Any]]:
    """The geometry of a depthwise convolution with the kernel [1], and its dtype."""
    shape, groups = _unit_shape(input_size, channels)
    return conv_geometry(shape, input_size, groups=groups, **kind), as_weight(np.ones((), dtype)).dtype


def _identity_transpose(
    input_size: IntOrTuple, channels: int | None, dtype: DTypeLike, **kind: Any
) -> tuple[Geometry, np.dtype[Any]]:
    """The geometry of a depthwise convolution with the kernel [1] whose output size is given, and its dtype."""
    shape, groups = _unit_shape(input_size, channels)
    return conv_transpose_geometry(shape, input_size, groups=groups, **kind), as_weight(np.ones((), dtype)).dtype


def _unit_shape(input_size: IntOrTuple, channels: int | None) -> tuple[tuple[int, ...], int]:
    """The weight shape of the depthwise kernel [1], and its groups."""
    dims = max(1, np.size(input_size))
    if channels is None:
        return (1,) * dims, 1
    if isinstance(channels, bool) or not isinstance(channels, int | np.integer):
        raise TypeError(f"channels={channels!r} must be an integer or None")
    if channels < 1:
        raise ValueError(f"channels={channels!r} must be at least 1")
    return (int(channels), 1, *(1,) * dims), int(channels)


def _pad(x: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Extend each image of a batch; all channels are alike, so that they join the batch. (batch C, P_1..P_D)"""
    flat = x.reshape(-1, *geometry.input_size)
    return np.array(extend(flat, geometry.axes, [(0, axis.padded) for axis in geometry.axes]))


def _unpad(y: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The transpose of `_pad`. (batch C, N_1..N_D)"""
    flat = y.reshape(-1, *geometry.output_size)
    folded = np.zeros((len(flat), *geometry.input_size), dtype=y.dtype)
    fold(flat, geometry.axes, 0, folded)
    return folded


def _keep(x: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """A view of every s-th sample of a batch of images."""
    every: tuple[Any, ...] = (..., *(slice(None, None, s) for s in geometry.stride))
    kept: NDArray[Any] = x[every]
    return kept


def _fill(y: NDArray[Any], geometry: Geometry, shape: tuple[int, ...]) -> NDArray[Any]:
    """The transpose of `_keep`: zeros between the samples."""
    filled = np.zeros((len(y), *shape), dtype=y.dtype)
    _keep(filled, geometry)[...] = y
    return filled
