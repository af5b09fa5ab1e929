"""Operators on dask arrays: one task for each block of the result, which reads the blocks that it needs.

Nothing is computed here. What a block of outputs reads is known from `ImageOperator.block`, under every padding mode
and stride, in both directions; so A^T is a gather like A, and no task writes into the result of another. A block of the
input is read by its neighbours as slabs along one axis, each cut once for all who read it, so that there are at most
2 D + 1 tasks for each block of an image with D axes. The operator stands once in the graph; each worker has one copy.
"""

from __future__ import annotations

import bisect
import itertools
import math
import uuid
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import output_shape_of, result_dtype
from convmat.operators.base import ImageOperator, parts_of
from convmat.operators.blocks import Box, cut, needs_whole
from convmat.operators.convolution import Convolution
from convmat.parts import Runs
from convmat.products.threads import alone

__all__ = ["DaskOperator", "to_dask"]

_WHOLE = 0.5
"""The part of a block from which on it is read as it is: a slab of it would be nearly a copy."""

_ROWS_BYTES = 2**26
"""Bytes of the matrix of one block of rows, about, unless blocks are given."""


def to_dask(operator: ImageOperator) -> DaskOperator:
    """The same linear map on dask arrays, which may be larger than memory.

    Parameters
    ----------
    operator : ImageOperator
        Convolutions and transposed convolutions, other layers that read a part of the image for a part of the result,
        and what the algebra makes of them.

    Returns
    -------
    DaskOperator

    Raises
    ------
    ImportError
        If dask is missing; it names the extra.
    TypeError
        If the operator is not one of this package, or needs the whole image for each output; the message says why.

    See Also
    --------
    ImageOperator.block : what each task computes.
    cgls : solves on dask arrays.

    References
    ----------
    .. [1] M. Rocklin, "Dask: parallel computation with blocked algorithms and task scheduling", 2015.
    .. [2] ``dask.array.map_overlap``, which knows no stride and has no transpose (dask issue 2244).

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from convmat import Conv2d
    >>> from convmat.scale.dask import to_dask
    >>> A = Conv2d(np.ones((5, 5)), (60, 40), stride=2, padding=2, padding_mode="reflect", method="direct")
    >>> D = to_dask(A)
    >>> image = np.random.default_rng(0).standard_normal((60, 40))
    >>> x = da.from_array(image, chunks=(25, 16))
    >>> y = D.apply(x)
    >>> y.chunks
    ((12, 13, 5), (8, 8, 4))
    >>> np.array_equal(y.compute(), A.apply(image))
    True
    >>> np.array_equal(D.T.apply(y).compute(), A.T.apply(A.apply(image)))
    True
    """
    if not isinstance(operator, ImageOperator):
        raise TypeError(f"operator is of type {type(operator).__name__}: it must be an operator of convmat")
    if reason := needs_whole(operator):
        raise TypeError(f"operator is a {type(operator).__name__} that cannot be cut into blocks: {reason}")
    _dask()
    cut(operator, tuple(((0, 1),) for _ in operator.output_shape))  # what has no blocks says so
    return DaskOperator(operator)


class DaskOperator:
    """A linear map between images that are dask arrays. Made by `to_dask`.

    Parameters
    ----------
    operator : ImageOperator

    Attributes
    ----------
    operator : ImageOperator
    shape : (int, int)
        Of the matrix.
    dtype : numpy.dtype
    input_shape, output_shape : tuple of int
        Shapes of the images that go in and come out.
    T, H : DaskOperator
        The transpose, and the adjoint.

    Methods
    -------
    apply(image)
    tosparse(chunks=None)

    Notes
    -----
    ``D @ x`` takes a ravelled dask array, or one of the shape of an image, and gives the same kind. The blocks of the
    result follow those of the input: through a stride of 2, blocks of 1000 samples become blocks of 500. Inside a task
    products run on one thread, as the scheduler fills the cores itself. By the methods "matrix", "direct" and "gemm"
    the result is that of ``operator.apply`` to the last bit, for any blocks.
    """

    def __init__(self, operator: ImageOperator) -> None:
        self._operator = operator
        self._token = uuid.uuid4().hex
        _choose(operator)

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"<{rows}x{cols} DaskOperator of {self._operator!r}>"

    @property
    def operator(self) -> ImageOperator:
        """The operator on numpy arrays."""
        return self._operator

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        rows, cols = self._operator.shape
        return rows, cols

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the operator."""
        dtype: np.dtype[Any] = self._operator.dtype
        return dtype

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an image that goes in."""
        return self._operator.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an image that comes out."""
        return self._operator.output_shape

    @cached_property
    def T(self) -> DaskOperator:  # noqa: N802
        """The transpose."""
        return DaskOperator(self._operator.T)

    @cached_property
    def H(self) -> DaskOperator:  # noqa: N802
        """The adjoint."""
        return self.T if self.dtype.kind != "c" else DaskOperator(self._operator.H)

    def __matmul__(self, x: Any) -> Any:
        if tuple(x.shape) == self.input_shape:
            return self.apply(x)
        if tuple(x.shape) != (self.shape[1],):
            raise ValueError(
                f"x has shape {tuple(x.shape)}: D @ x takes an image {self.input_shape} or its ravel "
                f"({self.shape[1]},); batches of images go to D.apply"
            )
        return self.apply(x.reshape(self.input_shape)).reshape(self.shape[0])

    def apply(self, image: Any, *, chunks: Any = None) -> Any:
        """Apply the operator to images; nothing is computed before ``compute()``.

        Parameters
        ----------
        image : dask.array.Array, shape (*batch, *input_shape)
            With any chunks. An array of numpy is taken as one block.
        chunks : optional
            Those of the result, as dask writes them; by default they follow those of the image. Along the batch axes
            they are those of the image in any case.

        Returns
        -------
        dask.array.Array, shape (*batch, *output_shape)

        Raises
        ------
        TypeError, ValueError
            If the image does not hold numbers, or has a wrong shape or chunks of unknown size.
        """
        da, spec = _dask()
        x = da.asarray(image)
        if any(math.isnan(size) for axis in x.chunks for size in axis):
            raise ValueError("image has chunks of unknown size: call its compute_chunk_sizes() first")
        dtype = result_dtype(self.dtype, np.empty(0, dtype=x.dtype), "image")
        batch = len(output_shape_of("image", x, self.input_shape))
        if chunks is None:
            chunks = x.chunks[:batch] + _followed(x.chunks[batch:], self.input_shape, self.output_shape)
        else:
            wanted = da.core.normalize_chunks(chunks, x.shape[:batch] + self.output_shape, dtype=dtype)
            chunks = x.chunks[:batch] + wanted[batch:]
        name = f"convmat-{self._token}-{x.name}"
        operator, slabs = f"{name}-operator", f"{name}-slab"
        graph: dict[Any, Any] = {operator: spec.DataNode(operator, self._operator)}
        pieces = _Pieces(x.name, slabs, x.chunks[batch:], spec)
        for number, box in _boxes(chunks[batch:]):
            _, inputs = cut(self._operator, box)
            needed, places = pieces.of(inputs)
            for images in itertools.product(*(range(len(axis)) for axis in chunks[:batch])):
                found = [spec.TaskRef(pieces.key(images, piece, graph)) for piece in needed]
                key = (name, *images, *number)
                graph[key] = spec.Task(
                    key, _block, spec.TaskRef(operator), box, spec.List(*found), places, np.dtype(dtype)
                )
        return da.Array(_layer(name, graph, x), name, chunks, dtype=dtype)

    def tosparse(self, chunks: Any = None) -> list[tuple[tuple[slice, ...], Any]]:
        """The matrix in blocks of rows, for whoever puts it together elsewhere.

        Parameters
        ----------
        chunks : optional
            How the outputs are cut, as dask writes it: a size, one for each axis, or tuples of sizes. By default into
            blocks whose matrices take some 64 megabytes each.

        Returns
        -------
        list of (tuple of slice, dask.delayed.Delayed)
            Boxes of outputs, a slice for each axis, and the rows of the matrix that they are, in C order: a
            ``scipy.sparse.csr_array`` with all columns, once it is computed.

        Examples
        --------
        >>> import numpy as np
        >>> from convmat import Conv1d
        >>> from convmat.scale.dask import to_dask
        >>> A = Conv1d([1.0, -1.0], 7)
        >>> [(box, rows.compute().toarray().shape) for box, rows in to_dask(A).tosparse(chunks=4)]
        [((slice(0, 4, None),), (4, 7)), ((slice(4, 6, None),), (2, 7))]
        """
        da, _ = _dask()
        import dask

        if chunks is None:
            chunks = _rows_at_a_time(self._operator)
        sizes = da.core.normalize_chunks(chunks, self.output_shape)
        operator = dask.delayed(self._operator, pure=False)
        rows = dask.delayed(_rows, pure=False)
        boxes = (tuple(slice(*run) for (run,) in box) for _, box in _boxes(sizes))
        return [(box, rows(operator, box)) for box in boxes]


def _dask() -> tuple[Any, Any]:
    """``dask.array`` and the classes of its tasks."""
    try:
        import dask.array
        from dask import _task_spec
    except ImportError as error:
        raise ImportError(
            f"to_dask needs {error.name or 'dask'}: install the extra `dask`, pip install 'convmat[dask]'",
            name=error.name,
        ) from error
    return dask.array, _task_spec


def _layer(name: str, graph: dict[Any, Any], x: Any) -> Any:
    from dask.highlevelgraph import HighLevelGraph

    return HighLevelGraph.from_collections(name, graph, dependencies=[x])


def _choose(operator: ImageOperator) -> None:
    """Choose the methods of all convolutions here, for the threads that there are, and not in each task."""
    waiting = [operator]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Convolution):
            part.method  # noqa: B018
        waiting.extend(parts_of(part))


def _boxes(chunks: Sequence[Sequence[int]]) -> Iterator[tuple[tuple[int, ...], Box]]:
    """The numbers of each block along the axes, and its box."""
    along = [list(enumerate(itertools.pairwise(itertools.accumulate(sizes, initial=0)))) for sizes in chunks]
    for block in itertools.product(*along):
        yield tuple(number for number, _ in block), tuple((run,) for _, run in block)


def _followed(
    chunks: Sequence[Sequence[int]], before: Sequence[int], after: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """The chunks of a result: those of the input in the ratio of the sizes; as many along its first axis, if unlike."""
    if len(before) != len(after):
        count = min(after[0], math.prod(map(len, chunks)))
        edges = [round(k * after[0] / count) for k in range(count + 1)]
        return (_sizes(edges), *((size,) for size in after[1:]))
    return tuple(
        _sizes([round(edge * m / n) for edge in itertools.accumulate(sizes, initial=0)])
        for sizes, n, m in zip(chunks, before, after, strict=True)
    )


def _sizes(edges: Sequence[int]) -> tuple[int, ...]:
    return tuple(b - a for a, b in itertools.pairwise(edges) if a < b)


class _Pieces:
    """What tasks read of the blocks of an array: whole blocks, or slabs of them along one axis."""

    def __init__(self, source: str, slabs: str, chunks: Sequence[Sequence[int]], spec: Any) -> None:
        self._source, self._slabs, self._spec = source, slabs, spec
        self._edges = [list(itertools.accumulate(sizes, initial=0)) for sizes in chunks]

    def of(self, inputs: Box) -> tuple[list[Any], list[Any]]:
        """The pieces of a box of the input, and for each where it goes and which part of it."""
        along = [list(self._along(axis, runs)) for axis, runs in enumerate(inputs)]
        needed: list[Any] = []
        places: list[Any] = []
        for reads in itertools.product(*along):
            block = tuple(number for number, *_ in reads)
            part = [(start, stop, size) for _, start, stop, size, _ in reads]
            axis = next((a for a, (start, stop, size) in enumerate(part) if stop - start < _WHOLE * size), None)
            slab = None if axis is None else (axis, *part[axis][:2])
            source = [(start, stop) for start, stop, _ in part]
            if axis is not None:
                source[axis] = 0, source[axis][1] - source[axis][0]
            needed.append((block, slab))
            target = [(at, at + stop - start) for (start, stop, _), (*_, at) in zip(part, reads, strict=True)]
            places.append((target, source))
        return needed, places

    def key(self, images: tuple[int, ...], piece: Any, graph: dict[Any, Any]) -> Any:
        """The key of a piece, for some blocks along the batch axes; the task of a slab is put into the graph."""
        block, slab = piece
        source = (self._source, *images, *block)
        if slab is None:
            return source
        axis, start, stop = slab
        key = (self._slabs, *images, *block, axis, start, stop)
        if key not in graph:
            graph[key] = self._spec.Task(key, _slab, self._spec.TaskRef(source), axis - len(block), start, stop)
        return key

    def _along(self, axis: int, runs: Runs) -> Iterator[tuple[int, int, int, int, int]]:
        """The blocks that ranges of an axis are in: number, start and stop inside it, its size, place in the result."""
        edges, at = self._edges[axis], 0
        for first, last in runs:
            number = bisect.bisect_right(edges, first) - 1
            while first < last:
                start, stop = edges[number : number + 2]
                end = min(stop, last)
                if start < stop:
                    yield number, first - start, end - start, stop - start, at
                at, first, number = at + end - first, end, number + 1


def _slab(block: NDArray[Any], axis: int, start: int, stop: int) -> NDArray[Any]:
    """A slab of a block, in memory of its own: a view would keep the whole block."""
    at: tuple[Any, ...] = (..., slice(start, stop), *(slice(None),) * (-axis - 1))
    return np.array(block[at])


def _block(
    operator: ImageOperator, box: Box, pieces: list[NDArray[Any]], places: list[Any], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """One block of a result, from the pieces that it reads."""
    with alone():
        of_block, _ = cut(operator, box)
        return of_block.apply(_assembled(pieces, places, of_block.input_shape, dtype))


def _assembled(
    pieces: list[NDArray[Any]], places: list[Any], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The input of a block, of its pieces."""
    batch = pieces[0].shape[: pieces[0].ndim - len(shape)]
    image = np.empty((*batch, *shape), dtype=dtype)
    for piece, (target, source) in zip(pieces, places, strict=True):
        there: tuple[Any, ...] = (..., *(slice(*run) for run in target))
        here: tuple[Any, ...] = (..., *(slice(*run) for run in source))
        image[there] = piece[here]
    return image


def _rows(operator: ImageOperator, box: tuple[slice, ...]) -> Any:
    """The rows of a matrix that a box of outputs is."""
    with alone():
        return operator.block(box).tosparse(operator.input_shape)


def _rows_at_a_time(operator: ImageOperator) -> tuple[int, ...]:
    """The sides of a block of outputs whose matrix takes `_ROWS_BYTES`, about, along the first axes."""
    shape = operator.output_shape
    one = operator.block(tuple(slice(size // 2, size // 2 + 1) for size in shape))
    row = max(1, one.operator.tosparse().nnz) * (operator.dtype.itemsize + 8)
    left, sides = max(1, _ROWS_BYTES // row), []
    for size in reversed(shape):
        sides.append(min(size, left))
        left = max(1, left // size)
    return tuple(reversed(sides))
