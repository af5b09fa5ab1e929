"""Convolutions whose kernel is another one at each output: locally connected layers, and blur that varies.

The geometry is that of a convolution, and so are the samples that an output reads; only the weights depend on where it
is. A blur that varies slowly needs few numbers: some kernels, and a map for each that says how much of it there is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array

from convmat.geometry import Geometry, IntOrTuple, Modes, Padding, as_weight, conv_geometry
from convmat.matrix import as_format, check_format, check_memory, index_dtype
from convmat.operators.algebra import Sum
from convmat.operators.base import ImageOperator
from convmat.operators.convolution import Conv1d, Conv2d, Conv3d
from convmat.operators.layers import Diagonal
from convmat.products.padding import extend, fold
from convmat.taps import joint_reads


class LocalConv(ImageOperator):
    """A convolution with a kernel of its own for every output; `LocalConv1d`, `2d` and `3d` fix the number of axes."""

    _ndim: ClassVar[int]

    def __init__(
        self,
        weight: ArrayLike,
        input_size: IntOrTuple,
        *,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        padding_mode: Modes = "zeros",
        flip: bool = False,
    ) -> None:
        kernels = as_weight(weight)
        shape, D = kernels.shape, self._ndim
        if len(shape) not in (2 * D, 2 * D + 2):
            raise ValueError(
                f"weight has shape {shape}: for {D} spatial axes it must have {2 * D + 2} axes (out channels, in "
                f"channels / groups, kernel, outputs) or {2 * D} (kernel, outputs)"
            )
        geometry = conv_geometry(
            shape[:-D],
            input_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
            flip=flip,
            ndim=D,
        )
        if shape[-D:] != geometry.output_size:
            raise ValueError(
                f"weight has shape {shape}: its last axes must be the output size {geometry.output_size}, a kernel for "
                f"each output"
            )
        self._bind(geometry, kernels)

    @classmethod
    def _of(cls, geometry: Geometry, weight: NDArray[Any]) -> Self:
        made = cls.__new__(cls)
        made._bind(geometry, as_weight(weight))
        return made

    def _bind(self, geometry: Geometry, weight: NDArray[Any]) -> None:
        self._geometry, self._weight = geometry, weight
        self._finite = bool(np.isfinite(weight).all())
        super().__init__(weight.dtype, geometry.input_shape, geometry.output_shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._geometry, self._weight)

    @property
    def geometry(self) -> Geometry:
        """That of a convolution which reads the same samples."""
        return self._geometry

    @property
    def weight(self) -> NDArray[Any]:
        """The weight as it was given, read-only."""
        return self._weight

    @property
    def nnz(self) -> int:
        """Number of stored entries of `tosparse`, known without building it."""
        return self._geometry.nnz

    def part(self, geometry: Geometry, chosen: tuple[Any, Any], outputs: Sequence[Sequence[tuple[int, int]]]) -> Self:
        """A part of this operator: of this geometry, with some channels of the weight, and some outputs.

        Returns
        -------
        LocalConv
        """
        weight = self._weight[chosen] if self._geometry.channels else self._weight
        for axis, runs in enumerate(outputs, start=-self._ndim):
            weight = weight.take(np.concatenate([np.arange(*run) for run in runs]), axis=axis)
        return self._of(geometry, weight)

    def _kernels(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The kernels of a cross-correlation: (G, C_out / G, C_in / G, K_1..K_D, M_1..M_D)."""
        g = self._geometry
        kernels = self._weight.reshape(g.groups, -1, g.in_channels // g.groups, *g.kernel_size, *g.output_size)
        flipped = np.flip(kernels, axis=tuple(range(3, 3 + g.ndim))) if g.flip else kernels
        return flipped.astype(dtype, copy=False)

    def _taps(self) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """Each tap, and where on the extended image all outputs read through it."""
        axes = self._geometry.axes
        for taps in itertools.product(*(range(axis.taps) for axis in axes)):
            first = [axis.place(0, tap) for axis, tap in zip(axes, taps, strict=True)]
            last = [axis.place(axis.output - 1, tap) + 1 for axis, tap in zip(axes, taps, strict=True)]
            steps = (axis.stride for axis in axes)
            yield taps, (..., *(slice(*place) for place in zip(first, last, steps, strict=True)))

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        if not self._finite:  # a weight of a padded zero is not in the matrix
            return np.asarray((self.tosparse() @ x.reshape(len(x), self.shape[1]).T).T).reshape(
                len(x), *self.output_shape
            )
        g, kernels = self._geometry, self._kernels(x.dtype)
        flat = x.reshape(-1, *g.input_size)
        extended = extend(flat, g.axes, [(0, axis.padded) for axis in g.axes])
        extended = extended.reshape(len(x), g.groups, kernels.shape[2], *extended.shape[1:])
        y = np.zeros((len(x), *kernels.shape[:2], *g.output_size), dtype=x.dtype)
        for taps, places in self._taps():
            y += np.einsum("goc...,bgc...->bgo...", kernels[(slice(None),) * 3 + taps], extended[places])
        return y.reshape(len(x), *self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        if not self._finite:
            return np.asarray((self.tosparse().T @ y.reshape(len(y), self.shape[0]).T).T).reshape(
                len(y), *self.input_shape
            )
        g, kernels = self._geometry, self._kernels(y.dtype)
        results = y.reshape(len(y), *kernels.shape[:2], *g.output_size)
        sent = np.zeros((len(y), g.groups, kernels.shape[2], *(axis.padded for axis in g.axes)), dtype=y.dtype)
        for taps, places in self._taps():
            sent[places] += np.einsum("goc...,bgo...->bgc...", kernels[(slice(None),) * 3 + taps], results)
        flat = sent.reshape(-1, *sent.shape[3:])
        folded = np.zeros((len(flat), *g.input_size), dtype=y.dtype)
        fold(flat, g.axes, 0, folded)
        return folded.reshape(len(y), *self.input_shape)

    def tosparse(self, format: str = "csr") -> Any:
        check_format(format)
        g = self._geometry
        outs, ins = g.out_channels, g.in_channels // g.groups
        output, tap, sample, weight = joint_reads(g.axes)
        entries = outs * ins * len(output)
        check_memory("a sparse matrix", self.shape, entries, entries * (2 * self.dtype.itemsize + 32))
        kernels = self._kernels(self.dtype).reshape(outs, ins, math.prod(g.kernel_size), -1)
        data = kernels[:, :, tap, output]
        if (weight != 1).any():
            data *= weight.astype(self.dtype)
        o, c = np.arange(outs)[:, None, None], np.arange(ins)[:, None]
        rows = np.broadcast_to(o * math.prod(g.output_size) + output, data.shape)
        first = o // (outs // g.groups) * ins
        columns = (first + c) * math.prod(g.input_size) + sample
        dtype = index_dtype(*self.shape, entries)
        index = rows.reshape(-1).astype(dtype), columns.reshape(-1).astype(dtype)
        matrix = coo_array((data.reshape(-1), index), shape=self.shape).tocsr()
        matrix.sum_duplicates()
        return as_format(matrix, format)

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        return self._geometry.cells(row_edges, column_edges)


class LocalConv1d(LocalConv):
    """One-dimensional convolution with a kernel of its own for every output.

    Parameters
    ----------
    weight : array_like, shape (C_out, C_in / groups, K, M) or (K, M)
        Without the channel axes, images have no channel axis either.
    input_size : int or tuple of int
        N.
    stride, padding, dilation, groups, padding_mode, flip
        As for `LocalConv2d`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    See Also
    --------
    LocalConv2d : the same in two dimensions, with every parameter explained.

    Examples
    --------
    A mean over one, two and three samples:

    >>> from convmat import LocalConv1d
    >>> LocalConv1d([[0, 1 / 2, 1 / 3], [1, 1 / 2, 1 / 3], [0, 0, 1 / 3]], 5).toarray().round(2)
    array([[0.  , 1.  , 0.  , 0.  , 0.  ],
           [0.  , 0.5 , 0.5 , 0.  , 0.  ],
           [0.  , 0.  , 0.33, 0.33, 0.33]])
    """

    _ndim = 1


class LocalConv2d(LocalConv):
    r"""Two-dimensional convolution with a kernel of its own for every output: a locally connected layer.

    Forward, :math:`y[o, m] = \sum_{c, k} W[o, c, k, m] \tilde x[g(o) C_{in}/G + c, s m + d k - p]`; transposed,
    :math:`x[c, n] = \sum y[o, m] W[o, c, k, m]` over all o, m, k that read x[c, n].

    Parameters
    ----------
    weight : array_like, shape (C_out, C_in / groups, K_1, K_2, M_1, M_2) or (K_1, K_2, M_1, M_2)
        The kernel of each output. Without the channel axes, images have no channel axis either.
    input_size : tuple of int
        The spatial size (N_1, N_2) of the input.
    stride, dilation : int or tuple of int
    padding : int, tuple of int, tuple of (lo, hi) pairs, or str
        As for `Conv2d`.
    groups : int
    padding_mode : {"zeros", "reflect", "replicate", "circular", "symmetric", "antireflect"}, or one per axis
    flip : bool
        Flip each kernel on every spatial axis.

    Attributes
    ----------
    shape : (int, int)
    dtype : numpy.dtype
    input_shape, output_shape : tuple of int
    weight : ndarray
        Read-only.
    geometry : Geometry
        That of the convolution which reads the same samples.
    nnz : int

    Methods
    -------
    apply(image)
    tosparse(format="csr")
    toarray()

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value, or the last axes of the weight are not the output size.

    See Also
    --------
    varying_blur : few kernels and maps, where the kernel changes slowly.

    References
    ----------
    .. [1] ``keras.layers.LocallyConnected2D`` (Keras 2), ``pylops.signalprocessing.NonStationaryConvolve2D``

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d, LocalConv2d
    >>> k = np.arange(9.0).reshape(3, 3)
    >>> same = np.broadcast_to(k[:, :, None, None], (3, 3, 4, 5))   # the same kernel everywhere
    >>> A = LocalConv2d(same, (8, 10), stride=2, padding=1, padding_mode="reflect")
    >>> B = Conv2d(k, (8, 10), stride=2, padding=1, padding_mode="reflect")
    >>> np.array_equal(A.toarray(), B.toarray()), np.array_equal(A.T.toarray(), B.T.toarray())
    (True, True)
    """

    _ndim = 2


class LocalConv3d(LocalConv):
    """Three-dimensional convolution with a kernel of its own for every output.

    Parameters
    ----------
    weight : array_like, shape (C_out, C_in / groups, K_1, K_2, K_3, M_1, M_2, M_3) or without the channel axes
    input_size : tuple of int
        (N_1, N_2, N_3).
    stride, padding, dilation, groups, padding_mode, flip
        As for `LocalConv2d`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    See Also
    --------
    LocalConv2d : the same in two dimensions, with every parameter explained.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import LocalConv3d
    >>> LocalConv3d(np.ones((2, 2, 2, 3, 3, 3)), (4, 4, 4)).apply(np.ones((4, 4, 4))).shape
    (3, 3, 3)
    """

    _ndim = 3


def _restored(kind: type[LocalConv], geometry: Geometry, weight: NDArray[Any]) -> LocalConv:
    return kind._of(geometry, weight)


_CONVOLUTIONS = {1: Conv1d, 2: Conv2d, 3: Conv3d}


def varying_blur(
    kernels: ArrayLike, maps: ArrayLike, input_size: IntOrTuple, *, order: str = "before", **layer: Any
) -> Sum:
    r"""A blur that varies over the image: a sum of maps times convolutions, as fast as these convolutions are.

    Parameters
    ----------
    kernels : array_like, shape (J, K_1, ..., K_D)
        J kernels of one size.
    maps : array_like, shape (J, N_1, ..., N_D) or (J, M_1, ..., M_D)
        How much of each kernel there is at each sample of the input (order "before") or of the output ("after"); where
        the blur is to keep the brightness, they add up to 1.
    input_size : int or tuple of int
        The spatial size of the image, D axes.
    order : {"before", "after"}
        "before": :math:`A = \sum_j K_j M_j`, each sample is multiplied by its maps and then spread by the kernels: the
        kernel belongs to the sample that the light comes from. "after": :math:`A = \sum_j M_j K_j`, each output is a
        mean of the blurred images: the kernel belongs to the pixel where it arrives.
    **layer
        stride, padding, dilation, padding_mode, flip and method, as for `Conv2d`.

    Returns
    -------
    Sum
        Of products of a `Diagonal` and a convolution.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    See Also
    --------
    LocalConv2d : any kernel at each output.

    Notes
    -----
    The two orders are each other's transposes but for the flip of the kernels, and are often confused: the second one
    brightens an image of ones to exactly 1 wherever the maps and the kernels sum to 1, the first one does not.

    DeepInverse's ``SpaceVaryingBlur`` is the first, and with ``mask_first=False`` the second; PyLops'
    ``NonStationaryConvolve2D`` is the first. Both flip their kernels, as ``flip=True`` does.

    References
    ----------
    .. [1] J. Nagy, D. O'Leary, "Restoring images degraded by spatially variant blur", SIAM J. Sci. Comput. 19, 1998.
    .. [2] L. Denis et al., "Fast approximations of shift-variant blur", Int. J. Comput. Vis. 115, 2015.

    Examples
    --------
    Sharp on the left, blurred on the right:

    >>> import numpy as np
    >>> from convmat import varying_blur
    >>> kernels = np.array([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    >>> right = np.linspace(0, 1, 6)
    >>> A = varying_blur(kernels, [1 - right, right], 6, order="after", padding=1, padding_mode="replicate")
    >>> A.apply([0, 1, 0, 0, 1, 0]).round(2)
    array([0.  , 0.87, 0.13, 0.2 , 0.47, 0.33])
    """
    weights, factors = as_weight(kernels), as_weight(maps)
    if order not in ("before", "after"):
        raise ValueError(f"order={order!r} must be 'before' or 'after'")
    D = weights.ndim - 1
    if D not in _CONVOLUTIONS or not len(weights):
        raise ValueError(f"kernels has shape {weights.shape}: it must be (J, K_1..K_D) with one to three spatial axes")
    if "groups" in layer:
        raise TypeError("groups has no meaning in varying_blur: its kernels have no channels")
    blurs = [_CONVOLUTIONS[D](kernel, input_size, **layer) for kernel in weights]
    shape = blurs[0].input_shape if order == "before" else blurs[0].output_shape
    if factors.shape != (len(weights), *shape):
        where = "input" if order == "before" else "output"
        raise ValueError(
            f"maps has shape {factors.shape}: with order={order!r} it must be {(len(weights), *shape)}, a map of the "
            f"{where} for each of the {len(weights)} kernels"
        )
    diagonals = [Diagonal(factor, shape) for factor in factors]
    pairs = zip(blurs, diagonals, strict=True)
    return Sum(*(blur @ factor if order == "before" else factor @ blur for blur, factor in pairs))
