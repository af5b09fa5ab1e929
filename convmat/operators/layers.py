"""Linear layers that are not convolutions: a diagonal, a rearrangement of the entries, a small matrix per axis.

Together with the convolutions, `Pad` and `Crop` they make up the linear part of a network; `Chain` composes them.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.sparse import csr_array, eye_array, issparse, kron

from convmat.geometry import as_weight
from convmat.matrix import as_format, check_format, check_memory, index_dtype
from convmat.operators.base import ImageOperator

AxisMatrix = Any
"""The matrix of one axis: a csr_array or an ndarray. None stands for the identity."""


class Diagonal(ImageOperator):
    r"""Multiply every entry by a number of its own: :math:`y_i = d_i x_i`, its own transpose.

    Parameters
    ----------
    values : array_like
        Broadcasts to the shape of an image: shape (C, 1, 1) is one factor per channel.
    input_shape : int or tuple of int
        The whole shape of an image, channels included.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    References
    ----------
    .. [1] ``torch.nn.BatchNorm2d`` in evaluation mode, without its offset.

    Examples
    --------
    >>> from convmat.operators.layers import Diagonal
    >>> Diagonal([[2.0], [3.0]], (2, 2)).apply([[1.0, 1.0], [1.0, 10.0]])
    array([[ 2.,  2.],
           [ 3., 30.]])
    """

    def __init__(self, values: ArrayLike, input_shape: int | Sequence[int]) -> None:
        shape = image_shape("input_shape", input_shape)
        factors = as_weight(values)
        try:
            np.broadcast_to(factors, shape)
        except ValueError:
            raise ValueError(f"values has shape {factors.shape}: it must broadcast to input_shape {shape}") from None
        self._values = factors
        super().__init__(factors.dtype, shape, shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._values, self.input_shape)

    @property
    def values(self) -> NDArray[Any]:
        """The factors as they were given, read-only."""
        return self._values

    @property
    def nnz(self) -> int:
        """Number of stored entries of `tosparse`."""
        return math.prod(self.input_shape)

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        scaled: NDArray[Any] = x * self._values
        return scaled

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        scaled: NDArray[Any] = y * self._values
        return scaled

    def _transpose(self) -> Diagonal:
        return self

    def _adjoint(self) -> Diagonal:
        return self if self.dtype.kind != "c" else Diagonal(self._values.conj(), self.input_shape)

    def tosparse(self, format: str = "csr") -> Any:
        check_format(format)
        size = self.shape[0]
        check_memory("a sparse matrix", self.shape, size, size * (self.dtype.itemsize + 16))
        data = np.broadcast_to(self._values, self.input_shape).reshape(-1)
        return as_format(_selection(np.arange(size), size, np.array(data)), format)

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        first = np.maximum.outer(row_edges[:-1], column_edges[:-1])
        last = np.minimum.outer(row_edges[1:], column_edges[1:])
        return np.asarray(np.maximum(last - first, 0))


class Rearrange(ImageOperator):
    """Move the entries of an image: ``y = x.reshape(split).transpose(order).reshape(output_shape)``.

    Its transpose moves them back, and is its inverse. Without `split` and `order` it is a reshape.

    Parameters
    ----------
    input_shape : int or tuple of int
        The whole shape of an image, channels included.
    output_shape : int or tuple of int, optional
        By default the shape after the transposition.
    split : tuple of int, optional
        By default `input_shape`.
    order : tuple of int, optional
        A permutation of the axes of `split`; by default none is moved.
    dtype : dtype
        float32, float64, complex64 or complex128.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    References
    ----------
    .. [1] ``torch.nn.PixelShuffle``, ``torch.nn.Flatten``, ``einops.rearrange``

    Examples
    --------
    >>> import numpy as np
    >>> from convmat.operators.layers import Rearrange
    >>> x = np.arange(6.0).reshape(2, 3)
    >>> R = Rearrange((2, 3), order=(1, 0))
    >>> np.array_equal(R.apply(x), x.T), np.array_equal(R.T.apply(R.apply(x)), x)
    (True, True)
    """

    def __init__(
        self,
        input_shape: int | Sequence[int],
        output_shape: int | Sequence[int] | None = None,
        *,
        split: Sequence[int] | None = None,
        order: Sequence[int] | None = None,
        dtype: DTypeLike = np.float64,
    ) -> None:
        inputs = image_shape("input_shape", input_shape)
        parts = inputs if split is None else image_shape("split", split)
        axes = tuple(range(len(parts))) if order is None else tuple(order)
        if sorted(axes) != list(range(len(parts))):
            raise ValueError(f"order={order!r} must be a permutation of the {len(parts)} axes of split={parts}")
        moved = tuple(parts[a] for a in axes)
        outputs = moved if output_shape is None else image_shape("output_shape", output_shape)
        for name, shape in (("split", parts), ("output_shape", outputs)):
            if math.prod(shape) != math.prod(inputs):
                raise ValueError(f"{name}={shape} must have as many entries as input_shape={inputs}")
        self._split = parts
        self._order = axes
        super().__init__(as_weight(np.ones((), dtype)).dtype, inputs, outputs)

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(type(self), split=self._split, order=self._order, dtype=self.dtype)
        return make, (self.input_shape, self.output_shape)

    @property
    def split(self) -> tuple[int, ...]:
        """The axes that are moved, as sizes."""
        return self._split

    @property
    def order(self) -> tuple[int, ...]:
        """Where they come from: a permutation of the axes of `split`."""
        return self._order

    @property
    def nnz(self) -> int:
        """Number of stored entries of `tosparse`."""
        return math.prod(self.input_shape)

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        parts = x.reshape(len(x), *self._split).transpose(0, *(a + 1 for a in self._order))
        return np.array(parts, order="C").reshape(len(x), *self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        moved = y.reshape(len(y), *(self._split[a] for a in self._order))
        parts = moved.transpose(0, *(int(a) + 1 for a in np.argsort(self._order)))
        return np.array(parts, order="C").reshape(len(y), *self.input_shape)

    def _flipped(self) -> Rearrange:
        back = [int(a) for a in np.argsort(self._order)]
        moved = [self._split[a] for a in self._order]
        return Rearrange(self.output_shape, self.input_shape, split=moved, order=back, dtype=self.dtype)

    def _adjoint(self) -> ImageOperator:
        return self._transpose()

    def tosparse(self, format: str = "csr") -> Any:
        check_format(format)
        size = self.shape[0]
        check_memory("a sparse matrix", self.shape, size, size * (self.dtype.itemsize + 16))
        index = np.arange(size).reshape(self._split).transpose(self._order).reshape(-1)
        return as_format(_selection(index, size, np.ones(size, dtype=self.dtype)), format)


class Separable(ImageOperator):
    r"""A matrix along each axis, :math:`A = A_1 \otimes \dots \otimes A_D`: resampling, pooling, a dense layer.

    Forward, :math:`y[m_1..m_D] = \sum_n A_1[m_1, n_1] \cdots A_D[m_D, n_D] x[n_1..n_D]`; transposed, the same with
    the transposed matrices.

    Parameters
    ----------
    input_shape : int or tuple of int
        The whole shape of an image, channels included.
    matrices : sequence of (M_a, N_a) array_like, sparse array or None
        One per axis of the image; None leaves its axis alone. A dense matrix stays dense, in products too.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    References
    ----------
    .. [1] C. F. Van Loan, "The ubiquitous Kronecker product", 2000.
    .. [2] ``torch.nn.Upsample``, ``torch.nn.Linear`` (a matrix on the last axis)

    Examples
    --------
    >>> import numpy as np
    >>> from convmat.operators.layers import Separable
    >>> rows, columns = np.array([[1.0, 1.0]]), np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    >>> S = Separable((2, 2), [rows, columns])
    >>> S.apply([[1.0, 2.0], [3.0, 4.0]])
    array([[4., 5., 6.]])
    >>> np.array_equal(S.toarray(), np.kron(rows, columns))
    True
    """

    _matrices: tuple[AxisMatrix | None, ...]

    def __init__(self, input_shape: int | Sequence[int], matrices: Sequence[Any]) -> None:
        shape = image_shape("input_shape", input_shape)
        given = [None if m is None else _axis_matrix(m) for m in matrices]
        if len(given) != len(shape):
            raise ValueError(f"matrices has {len(given)} entries: it must have one per axis of {shape}, or None there")
        for axis, (n, m) in enumerate(zip(shape, given, strict=True)):
            if m is not None and m.shape[1] != n:
                raise ValueError(
                    f"matrices[{axis}] has shape {m.shape}: it must have {n} columns, as input_shape={shape} says"
                )
        self._bind(shape, tuple(given))

    @classmethod
    def _of(cls, shape: tuple[int, ...], matrices: tuple[AxisMatrix | None, ...]) -> Self:
        made = cls.__new__(cls)
        made._bind(shape, matrices)
        return made

    def _bind(self, shape: tuple[int, ...], matrices: tuple[AxisMatrix | None, ...]) -> None:
        self._matrices = matrices
        dtypes = [m.dtype for m in matrices if m is not None]
        outputs = tuple(n if m is None else m.shape[0] for n, m in zip(shape, matrices, strict=True))
        super().__init__(np.result_type(*dtypes) if dtypes else np.dtype(np.float64), shape, outputs)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.input_shape, self._matrices)

    @property
    def matrices(self) -> tuple[AxisMatrix | None, ...]:
        """The matrix of each axis, read-only; None for an axis that is left alone."""
        return self._matrices

    @property
    def nnz(self) -> int:
        """Number of stored entries of `tosparse`, known without building it."""
        counts = (
            n if m is None else m.nnz if issparse(m) else m.size
            for n, m in zip(self.input_shape, self._matrices, strict=True)
        )
        return math.prod(counts)

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return _along(x, self._matrices)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return _along(y, self._transpose()._matrices)

    def _flipped(self) -> Separable:
        return Separable._of(self.output_shape, tuple(None if m is None else m.T for m in self._matrices))

    def _adjoint(self) -> ImageOperator:
        if self.dtype.kind != "c":
            return self._transpose()
        return Separable._of(self.output_shape, tuple(None if m is None else m.conj().T for m in self._matrices))

    def tosparse(self, format: str = "csr") -> Any:
        check_format(format)
        nnz = self.nnz
        check_memory("a sparse matrix", self.shape, nnz, 2 * nnz * (self.dtype.itemsize + 16))
        one = eye_array(1, dtype=self.dtype, format="csr")
        axes = (
            eye_array(n, dtype=self.dtype) if m is None else _stored(m)
            for n, m in zip(self.input_shape, self._matrices, strict=True)
        )
        product = functools.reduce(functools.partial(kron, format="csr"), axes, one)
        return as_format(product.astype(self.dtype, copy=False), format)  # kron forgets the dtype of an empty matrix


def image_shape(name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of an image, from an integer for one axis or a sequence.

    Raises
    ------
    TypeError, ValueError
        If an entry is not an integer of at least 1, or there is none.
    """
    entries = tuple(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else (value,)
    if any(isinstance(n, bool | np.bool_) for n in entries):
        raise TypeError(f"{name}={value!r} must hold integers, not bools")
    try:
        shape = tuple(operator.index(n) for n in entries)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be an integer or a sequence of integers") from None
    if not shape or min(shape) < 1:
        raise ValueError(f"{name}={value!r} must have at least one axis, and at least 1 along each")
    return shape


def _along(x: NDArray[Any], matrices: Sequence[AxisMatrix | None]) -> NDArray[Any]:
    """Multiply a batch of images by a matrix along each axis. (batch, M_1..M_D)"""
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is None:
            continue
        front, back = x.shape[:axis], x.shape[axis + 1 :]
        lines = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)  # (N_a, all others)
        product = np.asarray(matrix @ lines).reshape(matrix.shape[0], *front, *back)
        x = np.moveaxis(product, 0, axis)
    return np.array(x, order="C")


def _axis_matrix(matrix: Any) -> AxisMatrix:
    """A private, read-only copy of a matrix; sparse ones in canonical CSR."""
    if not issparse(matrix):
        dense = as_weight(matrix)
        if dense.ndim != 2:
            raise ValueError(f"a matrix along an axis must have two axes, not the shape {dense.shape}")
        return dense
    copy = csr_array(matrix, copy=True)
    copy.sum_duplicates()
    copy = csr_array((as_weight(copy.data), copy.indices, copy.indptr), shape=copy.shape)
    copy.has_canonical_format = True
    for array in (copy.indices, copy.indptr):
        array.flags.writeable = False
    return copy


def _stored(matrix: AxisMatrix) -> csr_array:
    """A matrix in CSR; a dense one with all its entries, zeros too, so that the pattern depends on the shape alone."""
    if issparse(matrix):
        return matrix.tocsr()
    rows, cols = matrix.shape
    index = index_dtype(matrix.size)
    indices, indptr = np.tile(np.arange(cols, dtype=index), rows), np.arange(rows + 1, dtype=index) * cols
    return csr_array((matrix.reshape(-1), indices, indptr), shape=matrix.shape)


def _selection(index: NDArray[Any], columns: int, data: NDArray[Any]) -> csr_array:
    """The matrix with one entry per row, data[i] at column index[i]."""
    dtype = index_dtype(len(index), columns)
    indptr = np.arange(len(index) + 1, dtype=dtype)
    return csr_array((data, index.astype(dtype, copy=False), indptr), shape=(len(index), columns))
