"""Operators one after the other, as one operator."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.matrix import as_format, check_format, check_memory, index_dtype
from convmat.operators.base import ImageOperator

_BLOCK = 2**24
"""Multiplications of a slab of rows whose entries are counted at a time."""


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
        for factor in factors:
            if not isinstance(factor, ImageOperator):
                raise TypeError(f"a factor of a chain must be a convmat operator on images, not {factor!r}")
        flat = tuple(part for f in factors for part in (f._factors if isinstance(f, Chain) else (f,)))
        if not flat:
            raise ValueError("a chain must have at least one factor")
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

    def factors(self) -> tuple[ImageOperator, ...]:
        """The factors in the order of the product, the last one applied first.

        Returns
        -------
        tuple of ImageOperator
        """
        return self._factors

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        for factor in reversed(self._factors):
            x = factor._forward(x)
        return x

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
        """The product of the matrices of the factors, as a sparse array.

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
            If it, or a product on the way, does not fit in this machine's memory; raised before it is allocated.
        """
        check_format(format)
        product = functools.reduce(_multiply, (factor.tosparse() for factor in self._factors))
        return as_format(product.astype(self.dtype, copy=False), format)


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
