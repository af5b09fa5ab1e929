"""Operators made of operators: products, sums, multiples, and blocks of them.

Whatever is built here is an operator on images again, and its transpose is built of the transposes of its parts.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

from convmat.geometry import result_dtype
from convmat.matrix import as_format, check_format, check_memory, index_dtype
from convmat.operators.base import Algebra, ImageOperator, parts_of
from convmat.operators.convolution import Conv, Convolution
from convmat.operators.layers import Diagonal, Rearrange
from convmat.operators.stencils import added, multiplied

_BLOCK = 2**24
"""Multiplications of a slab of rows whose entries are counted at a time."""

_COUNTED = 64
"""Parts of a stack, and of those parts, whose entries are counted one by one for a drawing."""

_MOST_FACTORS = 2**20
"""Factors of a power."""

Shape = tuple[int, ...]


class Chain(ImageOperator):
    r"""The product of operators, the last one applied first: :math:`A = A_1 A_2 \cdots A_L`.

    Forward, :math:`A x = A_1 (A_2 (\cdots A_L x))`; transposed, :math:`A^T y = A_L^T (\cdots A_2^T (A_1^T y))`.
    Nothing is multiplied before `tosparse` asks for the product matrix.

    Parameters
    ----------
    *factors : ImageOperator
        Convolutions, transposed convolutions, factors, layers or chains, in the order of the product; the output shape
        of each is the input shape of the one before it. Chains among them are taken apart.

    Attributes
    ----------
    shape : (int, int)
    dtype : numpy.dtype
        The result type of the factors.
    input_shape, output_shape : tuple of int
        Shapes of the images that go in and come out.

    Methods
    -------
    apply(image)
    tosparse(format="csr")
    toarray()
    factors()

    Raises
    ------
    TypeError, ValueError
        If a factor is not an ImageOperator, there is none, or the shapes do not fit.

    See Also
    --------
    from_torch : a chain from a ``torch.nn.Sequential``.

    Notes
    -----
    An entry of the product matrix that cancels to 0 may be stored or not.

    References
    ----------
    .. [1] ``scipy.sparse.linalg.LinearOperator``, whose product of operators knows no images and no matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv1d, ConvTranspose1d
    >>> from convmat.operators.algebra import Chain
    >>> A, B = ConvTranspose1d([1.0, 2.0, 1.0], 4, stride=2), Conv1d([1.0, 1.0], 8, stride=2)
    >>> C = Chain(A, B)
    >>> x = np.arange(8.0)
    >>> np.array_equal(C.apply(x), A.apply(B.apply(x)))
    True
    >>> np.array_equal(C.toarray(), A.toarray() @ B.toarray())
    True
    >>> [type(factor).__name__ for factor in C.T.factors()], C.T.T is C
    (['ConvTranspose1d', 'Conv1d'], True)
    """

    _factors: tuple[ImageOperator, ...]

    def __init__(self, *factors: ImageOperator) -> None:
        _check_operators("a chain", "factor", factors)
        flat = tuple(part for f in factors for part in (f._factors if isinstance(f, Chain) else (f,)))
        for position, (left, right) in enumerate(itertools.pairwise(flat)):
            if left.input_shape != right.output_shape:
                raise ValueError(
                    f"factor {position} ({type(left).__name__}) takes images of shape {left.input_shape}, but factor "
                    f"{position + 1} ({type(right).__name__}) gives {right.output_shape}: they must be the same"
                )
        self._factors = flat
        super().__init__(np.result_type(*(f.dtype for f in flat)), flat[-1].input_shape, flat[0].output_shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._factors

    def _made_of(self) -> tuple[ImageOperator, ...]:
        return self._factors

    def factors(self) -> tuple[ImageOperator, ...]:
        """The factors in the order of the product, the last one applied first.

        Returns
        -------
        tuple of ImageOperator
        """
        return self._factors

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        for factor, twice in self._steps:
            x = factor._normal(x) if twice else factor._forward(x)
        return x

    @functools.cached_property
    def _steps(self) -> list[tuple[ImageOperator, bool]]:
        """The factors, the first to be applied first; with whether the adjoint follows, as A^H A is one product."""
        steps: list[tuple[ImageOperator, bool]] = []
        for factor in reversed(self._factors):
            before = steps[-1] if steps else None
            if before and not before[1] and _are_adjoint(factor, before[0]):
                steps[-1] = before[0], True
            else:
                steps.append((factor, False))
        return steps

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        for factor in self._factors:
            y = factor._backward(y)
        return y

    def _flipped(self) -> Chain:
        return Chain(*(factor.T for factor in reversed(self._factors)))

    def _adjoint(self) -> ImageOperator:
        if self.dtype.kind != "c":
            return self._transpose()
        return Chain(*(factor.H for factor in reversed(self._factors)))

    def tosparse(self, format: str = "csr") -> Any:
        check_format(format)
        matrices = (factor.tosparse().astype(self.dtype, copy=False) for factor in self._factors)
        return as_format(functools.reduce(_multiply, matrices), format)


class Scaled(ImageOperator):
    """A number times an operator, c A. Made by ``c * A``, ``A * c``, ``A / c`` and ``-A``.

    Parameters
    ----------
    factor : number
        Python's numbers take the precision of the operator, numpy's keep their own.
    of : ImageOperator

    Raises
    ------
    TypeError, ValueError
        If the factor is not a number, or the operator none.

    Examples
    --------
    >>> from convmat import Conv1d
    >>> A = -2 * Conv1d([1.0, 2.0], 3)
    >>> A.toarray()
    array([[-2., -4.,  0.],
           [ 0., -2., -4.]])
    >>> type(A.T).__name__, type(A.T.of).__name__
    ('Scaled', 'ConvTranspose1d')
    """

    def __init__(self, factor: Any, of: ImageOperator) -> None:
        _check_operators("a multiple", "factor", [of])
        self._factor, dtype = _number(factor, of.dtype)
        self._of = of
        super().__init__(dtype, of.input_shape, of.output_shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (_typed(self._factor, self._of, self.dtype), self._of)

    def _made_of(self) -> tuple[ImageOperator, ...]:
        return (self._of,)

    @property
    def factor(self) -> Any:
        """The number, a float or a complex."""
        return self._factor

    @property
    def of(self) -> ImageOperator:
        """The operator."""
        return self._of

    def times(self, of: ImageOperator) -> Scaled:
        """The same number times another operator of the same dtype.

        Returns
        -------
        Scaled
        """
        return Scaled(_typed(self._factor, self._of, self.dtype), of)

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return _times(self._factor, self._of._forward(x), x)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return _times(self._factor, self._of._backward(y), y)

    def _flipped(self) -> Scaled:
        return self.times(self._of.T)

    def _adjoint(self) -> ImageOperator:
        if self.dtype.kind != "c":
            return self._transpose()
        return Scaled(_typed(self._factor.conjugate(), self._of, self.dtype), self._of.H)

    def tosparse(self, format: str = "csr") -> Any:
        check_format(format)
        product = self._of.tosparse()
        data = product.data.astype(self.dtype, copy=False)
        scaled = (data * self._factor).astype(self.dtype, copy=False)  # numpy 1 widens it for a large factor
        return as_format(product._with_data(scaled, copy=False), format)

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        return self._of._cells(row_edges, column_edges)


class Sum(ImageOperator):
    r"""The sum of operators, :math:`A = A_1 + \cdots + A_L`. Made by ``A + B`` and ``A - B``.

    Forward, :math:`A x = \sum A_l x`; transposed, :math:`A^T y = \sum A_l^T y`.

    Parameters
    ----------
    *terms : ImageOperator
        Of one flat shape. Sums among them are taken apart. Image shapes that all have are those of the sum; else they
        are flat.

    Raises
    ------
    TypeError, ValueError
        If a term is not an ImageOperator, there is none, or the shapes do not fit.

    See Also
    --------
    simplify : one convolution for the sum of several.

    Notes
    -----
    An entry of the matrix that cancels to 0 may be stored or not.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv1d
    >>> smooth, shift = Conv1d([1.0, 2.0, 1.0], 4, padding=1), Conv1d([1.0], 4)
    >>> A = smooth / 4 - shift
    >>> A.toarray()
    array([[-0.5 ,  0.25,  0.  ,  0.  ],
           [ 0.25, -0.5 ,  0.25,  0.  ],
           [ 0.  ,  0.25, -0.5 ,  0.25],
           [ 0.  ,  0.  ,  0.25, -0.5 ]])
    >>> [type(term).__name__ for term in (smooth + shift).T.terms()]
    ['ConvTranspose1d', 'ConvTranspose1d']
    """

    _terms: tuple[ImageOperator, ...]

    def __init__(self, *terms: ImageOperator) -> None:
        _check_operators("a sum", "term", terms)
        flat = tuple(part for term in terms for part in (term._terms if isinstance(term, Sum) else (term,)))
        for position, term in enumerate(flat):
            if term.shape != flat[0].shape:
                raise ValueError(
                    f"term {position} ({type(term).__name__}) has shape {term.shape}, and term 0 "
                    f"({type(flat[0]).__name__}) {flat[0].shape}: they must be the same"
                )
        shapes = _common([t.input_shape for t in flat]), _common([t.output_shape for t in flat])
        self._terms = tuple(reshaped(term, *shapes) for term in flat)
        super().__init__(np.result_type(*(t.dtype for t in flat)), *shapes)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._terms

    def _made_of(self) -> tuple[ImageOperator, ...]:
        return self._terms

    def terms(self) -> tuple[ImageOperator, ...]:
        """The terms.

        Returns
        -------
        tuple of ImageOperator
        """
        return self._terms

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return _add_up((term._forward(x) for term in self._terms), x)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return _add_up((term._backward(y) for term in self._terms), y)

    def _flipped(self) -> Sum:
        return Sum(*(term.T for term in self._terms))

    def _adjoint(self) -> ImageOperator:
        return self._transpose() if self.dtype.kind != "c" else Sum(*(term.H for term in self._terms))

    def tosparse(self, format: str = "csr") -> Any:
        check_format(format)
        matrices = (term.tosparse().astype(self.dtype, copy=False) for term in _assembled(self._terms, self.dtype))
        return as_format(functools.reduce(_add, matrices), format)


class Blocks(ImageOperator):
    """Operators as blocks of one matrix; their outputs or inputs, or both, are put one after the other."""

    _parts: tuple[ImageOperator, ...]

    def __init__(self, *parts: ImageOperator) -> None:
        _check_operators("a stack", "block", parts)
        self._parts = tuple(
            part for given in parts for part in (given._parts if type(given) is type(self) else (given,))
        )
        self._check_sizes()
        super().__init__(np.result_type(*(part.dtype for part in self._parts)), *self._joined_shapes())

    def _check_sizes(self) -> None: ...

    def _joined_shapes(self) -> tuple[Shape, Shape]:
        raise NotImplementedError

    def _transposed_kind(self) -> type[Blocks]:
        return type(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts

    def _made_of(self) -> tuple[ImageOperator, ...]:
        return self._parts

    def parts(self) -> tuple[ImageOperator, ...]:
        """The blocks, in order.

        Returns
        -------
        tuple of ImageOperator
        """
        return self._parts

    def _flipped(self) -> Blocks:
        return self._transposed_kind()(*(part.T for part in self._parts))

    def _adjoint(self) -> ImageOperator:
        if self.dtype.kind != "c":
            return self._transpose()
        return self._transposed_kind()(*(part.H for part in self._parts))

    def _inputs(self) -> list[Shape]:
        return [part.input_shape for part in self._parts]

    def _outputs(self) -> list[Shape]:
        return [part.output_shape for part in self._parts]

    def _check_axis(self, axis: int, word: str) -> None:
        """All parts must have one number of rows (axis 0) or columns (axis 1)."""
        first = self._parts[0]
        for position, part in enumerate(self._parts):
            if part.shape[axis] != first.shape[axis]:
                raise ValueError(
                    f"block {position} ({type(part).__name__}) has {part.shape[axis]} {word}, and block 0 "
                    f"({type(first).__name__}) {first.shape[axis]}: they must be as many"
                )

    def tosparse(self, format: str = "csr") -> Any:
        check_format(format)
        parts = [part.tosparse().astype(self.dtype, copy=False) for part in self._parts]
        nnz = sum(part.nnz for part in parts)
        check_memory(
            "a sparse matrix", self.shape, nnz, 2 * nnz * (self.dtype.itemsize + index_dtype(nnz, *self.shape).itemsize)
        )
        matrix = self._assembled(parts)
        matrix.sort_indices()
        return as_format(matrix, format)

    def _assembled(self, parts: Sequence[Any]) -> Any:
        raise NotImplementedError

    def corners(self) -> list[tuple[int, int]]:
        """Row and column of the matrix at which each block begins.

        Returns
        -------
        list of (int, int)
        """
        rows, columns = (_starts([part.shape[a] for part in self._parts], self.shape[a]) for a in (0, 1))
        return list(zip(rows, columns, strict=True))

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        counts = super()._cells(row_edges, column_edges)
        if counts is not None or not _few(self):
            return counts
        total: Any = 0
        for part, corner in zip(self._parts, self.corners(), strict=True):
            inside = (
                np.clip(np.asarray(edges, dtype=np.int64) - start, 0, size).tolist()
                for edges, start, size in zip((row_edges, column_edges), corner, part.shape, strict=True)
            )
            counts = part._cells(*inside)
            if counts is None:
                return None
            total = total + counts
        return np.asarray(total)


class VStack(Blocks):
    """Operators below each other, [A; B]. Made by `vstack`."""

    def _check_sizes(self) -> None:
        self._check_axis(1, "columns")

    def _joined_shapes(self) -> tuple[Shape, Shape]:
        return _common(self._inputs()), _concatenated(self._outputs())

    def _transposed_kind(self) -> type[Blocks]:
        return HStack

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return _join((p._forward(x.reshape(len(x), *p.input_shape)) for p in self._parts), x, self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        pieces = zip(self._parts, _cut(y, self._outputs()), strict=True)
        return _add_up((p._backward(piece).reshape(len(y), *self.input_shape) for p, piece in pieces), y)

    def _assembled(self, parts: Sequence[Any]) -> Any:
        return sparse.vstack(parts, format="csr")


class HStack(Blocks):
    """Operators beside each other, [A, B]. Made by `hstack`."""

    def _check_sizes(self) -> None:
        self._check_axis(0, "rows")

    def _joined_shapes(self) -> tuple[Shape, Shape]:
        return _concatenated(self._inputs()), _common(self._outputs())

    def _transposed_kind(self) -> type[Blocks]:
        return VStack

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        pieces = zip(self._parts, _cut(x, self._inputs()), strict=True)
        return _add_up((p._forward(piece).reshape(len(x), *self.output_shape) for p, piece in pieces), x)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return _join((p._backward(y.reshape(len(y), *p.output_shape)) for p in self._parts), y, self.input_shape)

    def _assembled(self, parts: Sequence[Any]) -> Any:
        return sparse.hstack(parts, format="csr")


class BlockDiagonal(Blocks):
    """Operators along the diagonal, each on its own part of the input. Made by `block_diag`."""

    def _joined_shapes(self) -> tuple[Shape, Shape]:
        return _concatenated(self._inputs()), _concatenated(self._outputs())

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        pieces = zip(self._parts, _cut(x, self._inputs()), strict=True)
        return _join((part._forward(piece) for part, piece in pieces), x, self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        pieces = zip(self._parts, _cut(y, self._outputs()), strict=True)
        return _join((part._backward(piece) for part, piece in pieces), y, self.input_shape)

    def _assembled(self, parts: Sequence[Any]) -> Any:
        return sparse.block_diag(parts, format="csr")


def identity(shape: int | Sequence[int], *, dtype: DTypeLike = np.float64) -> Diagonal:
    """The identity on images.

    Parameters
    ----------
    shape : int or tuple of int
        The whole shape of an image, channels included.
    dtype : dtype
        float32, float64, complex64 or complex128.

    Returns
    -------
    Diagonal
        Of ones, ``input_shape == output_shape == shape``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.

    References
    ----------
    .. [1] ``scipy.sparse.eye_array``

    Examples
    --------
    >>> from convmat import Conv1d, identity
    >>> sharpen = 2 * identity(4) - Conv1d([1.0, 2.0, 1.0], 4, padding=1) / 4
    >>> sharpen @ [1.0, 1.0, 1.0, 1.0]
    array([1.25, 1.  , 1.  , 1.25])
    """
    return Diagonal(np.ones((), dtype), shape)


def vstack(ops: Iterable[ImageOperator]) -> ImageOperator:
    """Operators below each other: the image goes to all of them, their outputs are put one after the other.

    Parameters
    ----------
    ops : iterable of ImageOperator
        With as many columns each.

    Returns
    -------
    ImageOperator, shape (sum of rows, columns)
        Flat vectors are the concatenated ravels. `output_shape` is that of ``numpy.concatenate`` on the first axis
        where the other axes agree, else flat; `input_shape` is that of the operators where it is the same, else flat.

    Raises
    ------
    TypeError, ValueError
        If there are none, one is not an operator on images, or the columns differ.

    References
    ----------
    .. [1] ``scipy.sparse.vstack``, ``pylops.VStack``

    Examples
    --------
    Damped least squares, |A x - y|^2 + d^2 |D x|^2, is one least-squares problem:

    >>> import numpy as np
    >>> from scipy.sparse.linalg import lsqr
    >>> from convmat import Conv1d, tikhonov, vstack
    >>> A, D = Conv1d([1.0, 2.0, 1.0], 8, padding=1), Conv1d([1.0, -1.0], 8)
    >>> K = vstack([A, 0.1 * D])
    >>> K.output_shape
    (15,)
    >>> y = np.arange(8.0)
    >>> x = lsqr(K, np.concatenate([y, np.zeros(7)]), atol=1e-13, btol=1e-13)[0]
    >>> bool(np.allclose(x, tikhonov(A, y, 0.1, regularizer=D)[0]))
    True
    """
    return VStack(*_listed("vstack", ops))


def hstack(ops: Iterable[ImageOperator]) -> ImageOperator:
    """Operators beside each other: each has an input of its own, their outputs are added.

    Parameters
    ----------
    ops : iterable of ImageOperator
        With as many rows each.

    Returns
    -------
    ImageOperator, shape (rows, sum of columns)
        With shapes as for `vstack`, whose transpose it is.

    Raises
    ------
    TypeError, ValueError
        If there are none, one is not an operator on images, or the rows differ.

    References
    ----------
    .. [1] ``scipy.sparse.hstack``, ``pylops.HStack``

    Examples
    --------
    >>> from convmat import Conv1d, hstack
    >>> hstack([Conv1d([1.0, 1.0], 3), Conv1d([1.0, -1.0], 3)]).toarray()
    array([[ 1.,  1.,  0.,  1., -1.,  0.],
           [ 0.,  1.,  1.,  0.,  1., -1.]])
    """
    return HStack(*_listed("hstack", ops))


def block_diag(ops: Iterable[ImageOperator]) -> ImageOperator:
    """Operators along the diagonal: each has an input and an output of its own.

    Parameters
    ----------
    ops : iterable of ImageOperator

    Returns
    -------
    ImageOperator, shape (sum of rows, sum of columns)
        With shapes as for `vstack`.

    Raises
    ------
    TypeError, ValueError
        If there are none, or one is not an operator on images.

    References
    ----------
    .. [1] ``scipy.sparse.block_diag``, ``pylops.BlockDiag``

    Examples
    --------
    >>> from convmat import Conv1d, block_diag
    >>> block_diag([Conv1d([1.0, 1.0], 2), Conv1d([2.0], 2)]).toarray()
    array([[1., 1., 0., 0.],
           [0., 0., 2., 0.],
           [0., 0., 0., 2.]])
    """
    return BlockDiagonal(*_listed("block_diag", ops))


def product(left: ImageOperator, right: ImageOperator) -> ImageOperator:
    """``left @ right``; where the flat sizes agree and the image shapes do not, the flat vector is passed on."""
    if left.shape[1] != right.shape[0]:
        raise ValueError(
            f"A @ B: A ({type(left).__name__}) takes images of shape {left.input_shape}, {left.shape[1]} entries, but "
            f"B ({type(right).__name__}) gives {right.output_shape}, {right.shape[0]}: they must be as many"
        )
    return Chain(left, reshaped(right, right.input_shape, left.input_shape))


def power(of: ImageOperator, exponent: Any) -> ImageOperator:
    """``of ** exponent``."""
    try:
        count = operator.index(exponent)
    except TypeError:
        raise TypeError(f"A ** {exponent!r}: the exponent must be an integer") from None
    if isinstance(exponent, bool | np.bool_):
        raise TypeError(f"A ** {exponent!r}: the exponent must be an integer, not a bool")
    if count < 0:
        raise ValueError(f"A ** {count}: the exponent must not be negative; to solve with A is what tikhonov does")
    if count > _MOST_FACTORS:
        raise ValueError(f"A ** {count}: a chain lists its factors, at most {_MOST_FACTORS}; svd(A) has functions of A")
    if of.shape[0] != of.shape[1]:
        raise ValueError(f"A ** {count}: A must be square, and has the shape {of.shape}")
    if count == 0:
        return identity(of.input_shape, dtype=of.dtype)
    inner = [reshaped(of, of.input_shape, of.input_shape)] * (count - 1)
    return Chain(of, *inner) if inner else of


def total(left: ImageOperator, right: ImageOperator) -> ImageOperator:
    """``left + right``."""
    return Sum(left, right)


def scaled(factor: Any, of: ImageOperator) -> ImageOperator:
    """``factor * of``; of a multiple, with one number, unless that leaves the range of the dtype."""
    if isinstance(of, Scaled):
        value, dtype = _number(factor, of.dtype)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            rounded = multiplied(dtype.type(value), of.dtype.type(of.factor))
        if rounded is not None and np.isfinite(rounded):
            both = value * of.factor
            return of.of if both == 1 and dtype == of.of.dtype else Scaled(_typed(both, of.of, dtype), of.of)
    return Scaled(factor, of)


def divided(of: ImageOperator, number: Any) -> ImageOperator:
    """``of / number``."""
    value, dtype = _number(number, of.dtype)
    if value == 0:
        raise ZeroDivisionError(f"A / {number!r}: an operator cannot be divided by 0")
    if abs(1 / value) == math.inf:
        raise ValueError(
            f"A / {number!r}: 1 / {value} is beyond the largest double; divide twice, by numbers that are not"
        )
    return scaled(_typed(1 / value, of, dtype), of)


ImageOperator._algebra = cast(Algebra, sys.modules[__name__])


def _check_operators(whole: str, part: str, given: Sequence[Any]) -> None:
    if not given:
        raise ValueError(f"{whole} must have at least one {part}")
    for thing in given:
        if not isinstance(thing, ImageOperator):
            raise TypeError(f"a {part} of {whole} must be a convmat operator on images, not {_shown(thing)}")


def _listed(name: str, ops: Iterable[Any]) -> list[Any]:
    if isinstance(ops, ImageOperator) or not isinstance(ops, Iterable):
        raise TypeError(f"{name}(ops) takes a list of operators, not {_shown(ops)}")
    return list(ops)


def _shown(thing: Any) -> str:
    return f"{thing!r:.60}"


def _number(value: Any, dtype: np.dtype[Any]) -> tuple[Any, np.dtype[Any]]:
    """A number as Python's, and the dtype of its product with an operator of that dtype."""
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "biufc":
        if isinstance(value, int):  # beyond 64 bits
            try:
                return float(value), dtype
            except OverflowError:
                raise ValueError(f"an integer of {value.bit_length()} bits is too large to scale an operator") from None
        raise TypeError(f"an operator can be multiplied by a number, not by {_shown(value)}")
    if array.dtype.kind in "biu":
        return float(value), dtype
    if isinstance(value, np.generic | np.ndarray):
        return array.item(), result_dtype(dtype, array, "the number")
    return value, np.result_type(dtype, np.complex64) if array.dtype.kind == "c" else dtype


def _typed(factor: Any, of: ImageOperator, dtype: np.dtype[Any]) -> Any:
    """A factor, Python's, whose product with the operator has that dtype."""
    if _number(factor, of.dtype)[1] == dtype:
        return factor
    return np.complex128(factor) if isinstance(factor, complex) else np.float64(factor)


def _are_adjoint(A: ImageOperator, B: ImageOperator) -> bool:
    """Whether one convolution is the adjoint of another, to the last digit."""
    return (
        isinstance(A, Convolution)
        and isinstance(B, Convolution)
        and A.geometry == B.geometry
        and isinstance(A, Conv) is not isinstance(B, Conv)
        and ((A._products is B._products and A.dtype.kind != "c") or np.array_equal(A.weight, B.weight.conj()))
    )


def _times(factor: Any, result: NDArray[Any], source: NDArray[Any]) -> NDArray[Any]:
    """The multiple of a result, in place unless it is (a view of) its source."""
    if np.may_share_memory(result, source) or not result.flags.writeable:
        return np.asarray(factor * result)
    result *= factor
    return result


def _add_up(results: Iterator[NDArray[Any]], source: NDArray[Any]) -> NDArray[Any]:
    """The sum, one result at a time, into the first of them unless it is (a view of) its source."""
    total = next(results)
    if np.may_share_memory(total, source) or not total.flags.writeable:
        total = total.copy()
    for result in results:
        total += result
    return total


def _join(results: Iterator[NDArray[Any]], source: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Batches of images as one batch of their concatenated ravels, in that shape."""
    joined = np.empty((len(source), math.prod(shape)), dtype=source.dtype)
    start = 0
    for result in results:
        stop = start + math.prod(result.shape[1:])
        joined[:, start:stop] = result.reshape(len(source), stop - start)
        start = stop
    return joined.reshape(len(source), *shape)


def _cut(images: NDArray[Any], shapes: Sequence[Shape]) -> Iterator[NDArray[Any]]:
    """Batches of the images of these shapes, of which a batch has the concatenated ravels."""
    flat = images.reshape(len(images), math.prod(images.shape[1:]))
    edges = [0, *itertools.accumulate(math.prod(shape) for shape in shapes)]
    for shape, (start, stop) in zip(shapes, itertools.pairwise(edges), strict=True):
        yield flat[:, start:stop].reshape(len(flat), *shape)


def _starts(sizes: Sequence[int], whole: int) -> list[int]:
    """Where blocks begin: after each other, or all at 0 where each takes the whole."""
    ends = list(itertools.accumulate(sizes))
    return [0, *ends[:-1]] if ends[-1] == whole else [0] * len(ends)


def _few(A: ImageOperator) -> bool:
    """Whether an operator has so few parts, and these in turn, that each can be looked at."""
    left, parts = _COUNTED, [A]
    while parts and left >= 0:
        left -= 1
        parts.extend(parts_of(parts.pop()))
    return left >= 0


def _common(shapes: Sequence[Shape]) -> Shape:
    """The shape that all have, or the flat one."""
    return shapes[0] if len(set(shapes)) == 1 else (math.prod(shapes[0]),)


def _concatenated(shapes: Sequence[Shape]) -> Shape:
    """The shape of the concatenation along the first axis where the others agree, else that of the ravels."""
    if len({shape[1:] for shape in shapes}) == 1:
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return (sum(math.prod(shape) for shape in shapes),)


def reshaped(of: ImageOperator, input_shape: Shape, output_shape: Shape) -> ImageOperator:
    """The same matrix between images of other shapes."""
    factors = [of]
    if of.output_shape != output_shape:
        factors.insert(0, Rearrange(of.output_shape, output_shape, dtype=of.dtype))
    if of.input_shape != input_shape:
        factors.append(Rearrange(input_shape, of.input_shape, dtype=of.dtype))
    return of if len(factors) == 1 else Chain(*factors)


def _assembled(terms: Sequence[ImageOperator], dtype: np.dtype[Any]) -> list[ImageOperator]:
    """The terms, those whose taps fit into one kernel of no more numbers as one convolution: a matrix built once."""
    done: list[ImageOperator] = []
    for term in terms:
        same = [at for at, other in enumerate(done) if other.dtype == term.dtype == dtype]
        joint = next(((at, found) for at in same if (found := added((done[at], term), 1.0)) is not None), None)
        if joint is None:
            done.append(term)
        else:
            done[joint[0]] = joint[1]
    return done


def _add(left: Any, right: Any) -> Any:
    """The sum of two CSR arrays, if it fits in memory."""
    entries = left.nnz + right.nnz
    per_entry = np.result_type(left.dtype, right.dtype).itemsize + index_dtype(*left.shape).itemsize
    check_memory("a sum of sparse matrices", left.shape, entries, entries * per_entry)
    return left + right


def _multiply(left: Any, right: Any) -> Any:
    """The product of two CSR arrays, canonical, if it fits in memory."""
    shape = (left.shape[0], right.shape[1])
    per_entry = np.result_type(left.dtype, right.dtype).itemsize + index_dtype(*shape).itemsize
    work = _multiplications(left, right)
    bound = min(int(work.sum()), shape[0] * shape[1])
    try:
        check_memory("a product of sparse matrices", shape, bound, bound * per_entry)
    except MemoryError:  # many multiplications may meet in one entry: only now is it worth counting
        entries = _count(left, right, work)
        check_memory("a product of sparse matrices", shape, entries, entries * per_entry)
    product = left @ right
    product.sort_indices()
    return product


def _multiplications(left: Any, right: Any) -> NDArray[np.int64]:
    """Multiplications of each row of a product: at least the number of its entries."""
    lengths = np.diff(right.indptr).astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(lengths[left.indices])])
    work: NDArray[np.int64] = np.diff(sums[left.indptr])
    return work


def _count(left: Any, right: Any, work: NDArray[np.int64]) -> int:
    """Entries of a product, counted in slabs of rows that are thrown away."""
    slab = np.cumsum(work) // _BLOCK
    edges = [0, *(np.flatnonzero(np.diff(slab)) + 1).tolist(), len(work)]
    return sum(int((left[a:b] @ right).nnz) for a, b in itertools.pairwise(edges))
