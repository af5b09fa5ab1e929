"""An operator on images: what every operator of the package is, whatever it computes."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from scipy.sparse.linalg import LinearOperator

from convmat import html, matrix
from convmat.geometry import output_shape_of, result_dtype

_TRANSPOSED_ROWS = 2048
"""Rows of a block of vectors that are transposed at a time."""

_DRAWN_ENTRIES = 2**18
"""Of a matrix that is built for a drawing and of those of all parts, as if they were dense."""

_NAMED_PARTS = 8


class Algebra(Protocol):
    """What operators are built from operators: `convmat.operators.algebra`, which stands above this module."""

    def product(self, left: ImageOperator, right: ImageOperator) -> ImageOperator: ...

    def power(self, of: ImageOperator, exponent: Any) -> ImageOperator: ...

    def total(self, left: ImageOperator, right: ImageOperator) -> ImageOperator: ...

    def scaled(self, factor: Any, of: ImageOperator) -> ImageOperator: ...

    def divided(self, of: ImageOperator, number: Any) -> ImageOperator: ...


class Cutting(Protocol):
    """How operators are cut into blocks: `convmat.operators.blocks`, which stands above this module."""

    def block(self, A: ImageOperator, outputs: Any) -> Any: ...


class ImageOperator(LinearOperator):
    """A linear map between images of a fixed shape; its vectors are their C-order ravels.

    A subclass gives `_forward` (A x) and `_backward` (A^T y, without conjugation) on batches of images, `tosparse` if
    its matrix has structure, and `_flipped` if its transpose has a class of its own; ``A.T.T is A`` for as long as
    either is alive. ``matvec`` takes vectors (.., N), ``matmat`` and ``@`` columns (.., N, K), as scipy's operators do
    from 1.18 on; before, without the batch axes.

    Attributes
    ----------
    input_shape, output_shape : tuple of int
        Shapes of the images that go in and come out.
    """

    __array_ufunc__ = None  # numbers of numpy leave products and sums to the operator
    _algebra: ClassVar[Algebra]
    _cutting: ClassVar[Cutting]
    _frozen = False
    _partner: Callable[[], ImageOperator | None] = staticmethod(lambda: None)

    def __init__(self, dtype: np.dtype[Any], input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        super().__init__(dtype, (math.prod(output_shape), math.prod(input_shape)))
        self._input_shape = input_shape
        self._output_shape = output_shape
        self._frozen = True

    def __setattr__(self, name: str, value: object) -> None:
        if self._frozen:
            raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be set")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()  # scipy's has what it pickles its array namespace by
        return {name: value for name, value in state.items() if name not in ("_partner", "_steps", "_prepared")}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an image that goes in."""
        return self._input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an image that comes out."""
        return self._output_shape

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x: (batch, *input_shape) -> (batch, *output_shape)."""
        raise NotImplementedError

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y: (batch, *output_shape) -> (batch, *input_shape)."""
        raise NotImplementedError

    def apply(self, image: ArrayLike) -> NDArray[Any]:
        """Apply the operator to images.

        Parameters
        ----------
        image : array_like, shape (*batch, *input_shape)

        Returns
        -------
        ndarray, shape (*batch, *output_shape)
            In the result type of operator and image.

        Raises
        ------
        TypeError, ValueError
            If the image does not hold numbers, or has a wrong shape.
        """
        array = np.asarray(image)
        dtype = result_dtype(self.dtype, array, "image")
        batch = output_shape_of("image", array, self.input_shape)
        stack = array.astype(dtype, copy=False).reshape(math.prod(batch), *self.input_shape)
        return self._forward(stack).reshape(*batch, *self.output_shape)

    def tosparse(self, format: str = "csr") -> Any:
        """The matrix as a sparse array.

        Parameters
        ----------
        format : {"csr", "csc", "coo", "bsr", "dia", "dok", "lil"}

        Returns
        -------
        scipy.sparse array, shape `shape`

        Raises
        ------
        ValueError
            If the format is unknown.
        MemoryError
            If it does not fit in this machine's memory; raised before it is allocated.
        """
        matrix.check_format(format)
        rows, cols = self.shape
        matrix.check_memory("a dense matrix", self.shape, rows * cols, (rows + cols) * cols * self.dtype.itemsize)
        return matrix.as_format(csr_array(self @ np.eye(cols, dtype=self.dtype)), format)

    def toarray(self) -> NDArray[Any]:
        """The matrix as a dense array.

        Returns
        -------
        ndarray, shape `shape`

        Raises
        ------
        MemoryError
            If it does not fit in this machine's memory; raised before it is allocated.
        """
        rows, cols = self.shape
        matrix.check_memory("a dense matrix", (rows, cols), rows * cols, rows * cols * self.dtype.itemsize)
        dense: NDArray[Any] = self.tosparse().toarray()
        return dense

    def block(self, outputs: Any) -> Any:
        """A box of outputs by itself: the operator that gives it, and the part of the input that it reads.

        The block on these samples *is* that part of A x: by "matrix", "direct" and "gemm" to the last bit. Blocks of
        the transpose, ``A.T.block(box)``, are boxes of inputs of A: a gather of all outputs that read them, with what a
        border folds back.

        Parameters
        ----------
        outputs : tuple of slice
            One for each axis of `output_shape`, of step 1 and not empty.

        Returns
        -------
        Block
            A pair (operator, inputs) with the ranges that it reads as slices, one or two along each axis, and a method
            ``read(image)`` that takes these samples out of an image.

        Raises
        ------
        TypeError, ValueError
            If `outputs` is no such box, or an operator needs its whole input.

        References
        ----------
        .. [1] ``dask.array.map_overlap``, whose halo has neither a stride nor a transpose.

        Examples
        --------
        >>> import numpy as np
        >>> from convmat import Conv1d
        >>> A = Conv1d([1.0, 2.0, 3.0], 100, stride=2, padding=1, padding_mode="circular")
        >>> operator, inputs = A.block(slice(0, 10))
        >>> inputs
        ((slice(0, 20, None), slice(99, 100, None)),)
        >>> x = np.arange(100.0)
        >>> np.array_equal(operator @ np.concatenate([x[0:20], x[99:100]]), (A @ x)[0:10])
        True
        """
        return self._cutting.block(self, outputs)

    def dot(self, x: Any) -> Any:
        """A @ x: a vector (N,), columns (.., N, K), a number or another operator.

        Parameters
        ----------
        x : array_like, number or LinearOperator

        Returns
        -------
        ndarray or LinearOperator
            An ImageOperator if x is a number or an ImageOperator.

        Raises
        ------
        TypeError, ValueError
            If x is none of these; for an image, the message names `apply`.
        """
        if isinstance(x, ImageOperator):
            return self._algebra.product(self, x)
        if _is_number(x):
            return self._algebra.scaled(x, self)
        if not isinstance(x, LinearOperator):
            self._check_vectors(x)
        return super().dot(x)

    def __add__(self, other: Any) -> Any:
        return self._algebra.total(self, other) if isinstance(other, ImageOperator) else super().__add__(other)

    def __radd__(self, other: Any) -> Any:
        return self if _is_number(other) and other == 0 else NotImplemented  # where sum() begins

    def __sub__(self, other: Any) -> Any:
        return self + -other if isinstance(other, ImageOperator) else super().__sub__(other)

    def __neg__(self) -> ImageOperator:
        return self._algebra.scaled(-1, self)

    def __rmul__(self, number: Any) -> Any:
        return self._algebra.scaled(number, self) if _is_number(number) else super().__rmul__(number)

    def __truediv__(self, number: Any) -> ImageOperator:
        return self._algebra.divided(self, number)

    def __pow__(self, exponent: Any) -> ImageOperator:
        return self._algebra.power(self, exponent)

    def _check_vectors(self, x: Any) -> None:
        name = type(x).__name__
        if issparse(x):
            raise TypeError(f"x is a sparse {name}: A @ x multiplies dense vectors; write A.tosparse() @ x")
        array = np.asarray(x)
        if array.dtype.kind == "O":
            raise TypeError(
                f"x is of type {name}, no array of numbers: in the expressions of a modelling language (CVXPY and its "
                f"kin), the matrix A.tosparse() @ x takes the place of A @ x"
            )
        size, image = self.shape[1], array.shape[array.ndim - len(self.input_shape) :]
        fits = array.shape == (size,) or (array.ndim > 1 and array.shape[-2] == size)
        if array.ndim > 1 and not fits and image == self.input_shape:
            raise ValueError(
                f"x has shape {array.shape}, an image: A @ x multiplies vectors ({size},) and columns ({size}, K); use "
                f"A.apply(image), or A @ image.ravel() for one image"
            )

    def _matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._vectors(self._forward, x, self.input_shape)

    def _rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._vectors(self._backward_conjugated, x, self.output_shape)

    def _matmat(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._columns(self._forward, X, self.input_shape)

    def _rmatmat(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._columns(self._backward_conjugated, X, self.output_shape)

    def _backward_conjugated(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^H y = conj(A^T conj(y))."""
        if self.dtype.kind != "c":
            return self._backward(y)
        return self._backward(y.conj()).conj()

    def _made_of(self) -> tuple[ImageOperator, ...]:
        """The operators that this one is made of."""
        return ()

    def _flipped(self) -> ImageOperator:
        """A new operator, A^T."""
        return _Transposed(self)

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        """A^H A x: (batch, *input_shape) -> the same."""
        return self._backward_conjugated(self._forward(x))

    def _transpose(self) -> ImageOperator:
        partner = self._partner()
        if partner is None:
            partner = self._flipped()
            # The operator made from another keeps that one alive, which in turn only remembers it: no cycle.
            object.__setattr__(partner, "_partner", lambda: self)
            object.__setattr__(self, "_partner", weakref.ref(partner))
        return partner

    def _adjoint(self) -> ImageOperator:
        transposed: ImageOperator = self.T
        return transposed if self.dtype.kind != "c" else _Conjugated(transposed)

    def _repr_html_(self) -> str:
        """What a notebook shows: type, shapes and parts, beside the pattern of the matrix where that is little work."""
        parts = parts_of(self)
        lines = [repr(self), _told("images", f"{self.input_shape} -> {self.output_shape}")]
        lines += [_told(f"part {n}", f"{part!r}, {part.input_shape} -> {part.output_shape}")
                  for n, part in enumerate(parts[:_NAMED_PARTS], start=1)]  # fmt: skip
        lines += [_told("", f"and {len(parts) - _NAMED_PARTS} more")] * (len(parts) > _NAMED_PARTS)
        lines += [str(self.geometry)] if hasattr(self, "geometry") else []
        return html.page("\n".join(lines), self.shape, self._cells)

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        """Stored entries in each cell of a grid, or None where counting them would take time or memory."""
        if not self._small():
            return None
        try:
            found = self.tosparse("coo")
        except MemoryError:
            return None
        counts: NDArray[Any] = np.histogram2d(found.row, found.col, (row_edges, column_edges))[0]
        return counts

    def _small(self) -> bool:
        """Whether this matrix and those of all parts are: a product may be small, and what is between, huge."""
        left, parts = _DRAWN_ENTRIES, [self]
        while parts and left >= 0:
            part = parts.pop()
            left -= math.prod(part.shape)
            parts.extend(parts_of(part))
        return left >= 0

    def _vectors(
        self, product: Callable[[NDArray[Any]], NDArray[Any]], vectors: NDArray[Any], shape: tuple[int, ...]
    ) -> NDArray[Any]:
        """A product of images on vectors (.., N), or on one column (N, 1): (.., M)."""
        vectors, size = np.asarray(vectors), math.prod(shape)
        if vectors.shape[-1:] != (size,):  # scipy before 1.18 passes a column as it is
            vectors = vectors.reshape(size)
        batch = vectors.shape[:-1]
        stack = vectors.astype(result_dtype(self.dtype, vectors), copy=False)
        results = product(np.ascontiguousarray(stack).reshape(math.prod(batch), *shape))
        return results.reshape(*batch, math.prod(results.shape[1:]))

    def _columns(
        self, product: Callable[[NDArray[Any]], NDArray[Any]], columns: NDArray[Any], shape: tuple[int, ...]
    ) -> NDArray[Any]:
        """A product of images on the columns of matrices: (.., N, K) -> (.., M, K)."""
        columns = np.asarray(columns)
        dtype = result_dtype(self.dtype, columns)
        *batch, _, count = columns.shape
        rows = columns.swapaxes(-1, -2).astype(dtype, order="C") if batch else _as_rows(columns, dtype)
        results = product(rows.reshape(math.prod(batch) * count, *shape))
        return results.reshape(*batch, count, math.prod(results.shape[1:])).swapaxes(-1, -2)


class _Derived(ImageOperator):
    """An operator that is made from another, which it keeps."""

    def __init__(self, of: ImageOperator, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        self._of = of
        super().__init__(of.dtype, input_shape, output_shape)

    def _made_of(self) -> tuple[ImageOperator, ...]:
        return (self._of,)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._of,)


class _Transposed(_Derived):
    """A^T of an operator whose transpose has no class of its own."""

    def __init__(self, of: ImageOperator) -> None:
        super().__init__(of, of.output_shape, of.input_shape)

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._of._backward(x)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._of._forward(y)

    def _flipped(self) -> ImageOperator:
        return self._of

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        counts = self._of._cells(column_edges, row_edges)
        return None if counts is None else counts.T

    def tosparse(self, format: str = "csr") -> Any:
        matrix.check_format(format)
        return matrix.as_format(self._of.tosparse().T, format)


class _Conjugated(_Derived):
    """The operator of the conjugated matrix: conj(A) x = conj(A conj(x))."""

    def __init__(self, of: ImageOperator) -> None:
        super().__init__(of, of.input_shape, of.output_shape)

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._of._forward(x.conj()).conj())

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._of._backward(y.conj()).conj())

    def _flipped(self) -> ImageOperator:
        return _Conjugated(self._of.T)

    def _adjoint(self) -> ImageOperator:
        transposed: ImageOperator = self._of.T
        return transposed

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        return self._of._cells(row_edges, column_edges)

    def tosparse(self, format: str = "csr") -> Any:
        matrix.check_format(format)
        return matrix.as_format(self._of.tosparse().conj(), format)


def _is_number(x: Any) -> bool:
    return bool(np.isscalar(x)) or (isinstance(x, np.ndarray) and x.ndim == 0)


def parts_of(A: ImageOperator) -> tuple[ImageOperator, ...]:
    """The operators that one is made of, not what these are made of in turn."""
    return A._made_of()


def _told(name: str, text: str) -> str:
    return f"{name:<12} {text}"


def _as_rows(columns: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The columns of a matrix as the rows of a contiguous one. (columns, rows)"""
    if columns.shape[1] <= 1 or columns.flags.f_contiguous:
        return np.ascontiguousarray(columns.T, dtype=dtype)
    stack = np.empty(columns.shape[::-1], dtype=dtype)
    for start in range(0, len(columns), _TRANSPOSED_ROWS):  # piece by piece, in cache, it takes a fraction of the time
        piece = slice(start, start + _TRANSPOSED_ROWS)
        stack[:, piece] = columns[piece].T
    return stack
