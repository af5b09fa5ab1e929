"""Operators on dask arrays: one task for each block of the result, which reads the blocks that it needs.

Nothing is computed here. What a block of outputs reads is known from `ImageOperator.block`, under every padding mode
and stride, in both directions; so A^T is a gather like A, and no task writes into the result of another. A block of the
input is read by its neighbours as slabs along one axis, which one task cuts for all of them: two tasks for each block.
The operator stands once in the graph; each worker has one copy.
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
from convmat.parts import Runs, count
from convmat.products.threads import Pool, Scratch, alone

__all__ = ["DaskOperator", "to_dask"]

_WHOLE = 0.5
"""The part of a block from which on it is read as it is: a slab of it would be nearly a copy."""

_BAND_BYTES = 2**24
"""Bytes of the input of a band of a block, about, that is put together at a time."""

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
    >>> A = Conv2d(np.ones((5, 5)), (60, 40), stride=2, padding=2, padding_mode="reflect", method="gemm")
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
        import dask

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
        name = f"convmat-{dask.base.tokenize(self._token, x.name, chunks)}"
        operator, borders = f"{name}-operator", f"{name}-border"
        graph: dict[Any, Any] = {operator: spec.DataNode(operator, _Blocks(self._operator))}
        reads = _Reads(x.chunks[batch:])
        for number, box in _boxes(chunks[batch:]):
            _, inputs = cut(self._operator, box)
            needed, held = reads.of(inputs)
            for images in itertools.product(*(range(len(axis)) for axis in chunks[:batch])):
                found = [spec.TaskRef((borders if cuts else x.name, *images, *block)) for block, cuts in needed]
                key = (name, *images, *number)
                graph[key] = spec.Task(
                    key, _block, spec.TaskRef(operator), box, spec.List(*found), held, np.dtype(dtype)
                )
        for block, slabs in reads.slabs.items():
            for images in itertools.product(*(range(len(axis)) for axis in chunks[:batch])):
                key = (borders, *images, *block)
                graph[key] = spec.Task(key, _border, spec.TaskRef((x.name, *images, *block)), tuple(sorted(slabs)))
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


Slab = tuple[int, int, int]
"""An axis, from the end of the image, and a range [start, stop) along it: that part of a block, whole otherwise."""

Held = tuple[int, Slab | None, tuple[tuple[int, int], ...]]
"""The number of what a task reads, which slab of that it is, and where in the whole input: a range along each axis."""


class _Reads:
    """What tasks read of the blocks of an array: whole blocks, or slabs of their borders.

    All slabs of a block are cut by one task. The scheduler then goes on along a line of blocks, where it would load
    many blocks for their slabs first if each were a task, and hold them.
    """

    def __init__(self, chunks: Sequence[Sequence[int]]) -> None:
        self._edges = [list(itertools.accumulate(sizes, initial=0)) for sizes in chunks]
        self.slabs: dict[tuple[int, ...], set[Slab]] = {}

    def of(self, inputs: Box) -> tuple[list[tuple[tuple[int, ...], bool]], list[Held]]:
        """The blocks, or their borders, that a box of the input reads; and what each gives of the whole input."""
        needed: dict[tuple[tuple[int, ...], bool], int] = {}
        held: dict[Held, None] = {}
        for along in itertools.product(*(list(self._along(axis, runs)) for axis, runs in enumerate(inputs))):
            block = tuple(number for number, _ in along)
            ranges = [part for _, part in along]
            place = [(edges[k], edges[k + 1]) for edges, k in zip(self._edges, block, strict=True)]
            parts = ((b - a) / (last - first) for (a, b), (first, last) in zip(ranges, place, strict=True))
            axis = next((axis for axis, part in enumerate(parts) if part < _WHOLE), None)
            slab = None
            if axis is not None:
                start = place[axis][0]
                slab = (axis - len(along), ranges[axis][0] - start, ranges[axis][1] - start)
                place[axis] = ranges[axis]
                self.slabs.setdefault(block, set()).add(slab)
            which = needed.setdefault((block, slab is not None), len(needed))
            held[which, slab, tuple(place)] = None
        return list(needed), list(held)

    def _along(self, axis: int, runs: Runs) -> Iterator[tuple[int, tuple[int, int]]]:
        """The blocks that ranges of an axis are in, and which part of the range that is."""
        edges = self._edges[axis]
        for first, last in runs:
            number = bisect.bisect_right(edges, first) - 1
            while first < last:
                end = min(edges[number + 1], last)
                if first < end:
                    yield number, (first, end)
                first, number = end, number + 1


def _border(block: NDArray[Any], slabs: tuple[Slab, ...]) -> dict[Slab, NDArray[Any]]:
    """Slabs of a block, in memory of their own: views would keep the whole block."""
    return {slab: np.array(block[_box([slab[1:]], -slab[0] - 1)]) for slab in slabs}


def _box(ranges: Sequence[tuple[int, int]], behind: int = 0) -> tuple[Any, ...]:
    """The index of a box along the last axes, or with so many axes behind them."""
    return (..., *(slice(*along) for along in ranges), *(slice(None),) * behind)


class _Blocks:
    """An operator of which blocks are computed, with the memory that its blocks are put together in.

    A fresh array for each block costs more time than to fill it.
    """

    def __init__(self, operator: ImageOperator) -> None:
        self.operator = operator
        self.pool = Pool()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Blocks, (self.operator,)


def _block(blocks: _Blocks, box: Box, pieces: list[Any], held: list[Held], dtype: np.dtype[Any]) -> NDArray[Any]:
    """One block of a result, from what it reads: in bands, so that no block is there a second time."""
    arrays = [(pieces[which] if slab is None else pieces[which][slab], place) for which, slab, place in held]
    batch = arrays[0][0].shape[: arrays[0][0].ndim - len(arrays[0][1])]
    result = np.empty((*batch, *map(count, box)), dtype=dtype)
    read = sum(array.size for array, _ in arrays) * dtype.itemsize

    def compute(scratch: Scratch) -> None:
        for band, place in _bands(box, max(1, -(-read // _BAND_BYTES))):
            operator, inputs = cut(blocks.operator, band)
            image = scratch.array("image", (*batch, *operator.input_shape), dtype)
            for array, where in arrays:
                _copy(array, where, image, inputs)
            result[place] = operator.apply(image)

    with alone():
        blocks.pool.alone(compute)
    return result


def _bands(box: Box, wanted: int) -> Iterator[tuple[Box, tuple[Any, ...]]]:
    """Parts of a box along its longest axis but the last, as many as are wanted, and where they are in it."""
    sizes = [stop - start for ((start, stop),) in box]
    axis = max(range(max(1, len(box) - 1)), key=sizes.__getitem__)
    ((first, last),) = box[axis]
    step = -(-(last - first) // wanted)
    for start in range(first, last, step):
        stop = min(start + step, last)
        yield (
            (*box[:axis], ((start, stop),), *box[axis + 1 :]),
            _box([(start - first, stop - first)], len(box) - axis - 1),
        )


def _copy(array: NDArray[Any], place: tuple[tuple[int, int], ...], image: NDArray[Any], inputs: Box) -> None:
    """Copy what an array, at its place in the whole input, has of some ranges, which are side by side in an image."""
    along = [list(_shared(runs, *held)) for runs, held in zip(inputs, place, strict=True)]
    for parts in itertools.product(*along):
        image[_box([there for there, _ in parts])] = array[_box([here for _, here in parts])]


def _shared(runs: Runs, start: int, stop: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """What ranges, put side by side, share with [start, stop): places there, and places from the start."""
    at = 0
    for a, b in runs:
        first, last = max(a, start), min(b, stop)
        if first < last:
            yield (at + first - a, at + last - a), (first - start, last - start)
        at += b - a


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
