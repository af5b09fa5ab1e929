"""To PyLops-MPI: operators on images that no single process holds, each rank with a slab of them. Needs the extra
`mpi`, which is imported when the first operator is wrapped.

A rank computes its slab of the result by one block (`ImageOperator.block`), forward and backward alike, so that nothing
is summed over ranks. What the block reads of the other slabs comes by one exchange: rows along the axis that is cut, in
ascending order, as the ranks are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import result_dtype
from convmat.operators import ImageOperator
from convmat.operators.base import parts_of
from convmat.operators.blocks import needs_whole

__all__ = ["to_pylops_mpi"]

Rows = list[tuple[int, int]]
"""Ranges [a, b) along the axis that is cut, in ascending order."""


def to_pylops_mpi(A: ImageOperator, comm: Any = None, *, axis: int | None = None) -> Any:
    """The same linear map as a `pylops_mpi.MPILinearOperator`, on images of which each rank holds a slab.

    Input and output are cut along their first spatial axis, as `pylops_mpi.DistributedArray` cuts: n rows among p ranks
    are n // p for each, and one more for the first n % p. A product takes and gives flat arrays, and the local array of
    a rank is the C-order ravel of its slab; ``DistributedArray(global_shape=Op.dims, axis=Op.axes[0])`` is such an
    image, and its ``ravel()`` such a vector. Where axis 1 is cut, behind channels, the flat array is hence the slabs
    one after the other, and not the ravel of the whole image.

    Forward and adjoint are gathers: a rank receives the rows that its own part of the result reads, those beside it and
    those that a border wraps or folds to, and computes that part. By the methods "matrix", "direct" and "gemm" it is
    that of ``A.apply`` and ``A.H.apply`` to the last bit, on any number of ranks.

    All ranks must make the operator, and take part in each of its products.

    Parameters
    ----------
    A : ImageOperator
        The same on all ranks: a convolution, or what the algebra makes of operators.
    comm : mpi4py.MPI.Comm, optional
        The ranks that share the images; by default all, ``MPI.COMM_WORLD``.
    axis : int, optional
        The axis that is cut, of the input and of the output. By default the first spatial axis of each: the D-th from
        the end if a part of A is a convolution of D axes, and else axis 1 of images with three axes or more; axis 0
        where there are fewer.

    Returns
    -------
    pylops_mpi.MPILinearOperator, shape ``A.shape``
        With the dtype of A, which is its attribute ``Op``. Beside ``dims`` and ``dimsd``, the shapes of the images that
        go in and come out, it has ``local_dims`` and ``local_dimsd``, the shapes of their slabs on this rank;
        ``slab`` and ``slabd``, where these are: ``image[Op.slab]`` of a whole image; ``axes``, the axis of each that is
        cut; and ``local_shapes_m`` and ``local_shapes_n``, the shapes of the flat local arrays on all ranks.

    Raises
    ------
    ImportError
        If PyLops-MPI, mpi4py or a library of MPI is missing; it names the extra.
    TypeError
        If A is not an operator of this package, or one whose outputs read the whole input, or if `axis` is no integer.
    ValueError
        If there is no such axis. A product raises it, on all ranks, if the local arrays are no such slabs.

    See Also
    --------
    ImageOperator.block : what each rank computes.
    conv_matrix : with ``rows``, the slab of the matrix that a rank holds in PETSc.

    Notes
    -----
    There may be more ranks than rows: some of them then hold empty arrays.

    Each rank has the threads of this package for itself: set ``CONVMAT_NUM_THREADS`` to the cores of a rank.

    References
    ----------
    .. [1] R. Babbar, M. Ravasi, Y. Hong, "PyLops-MPI - MPI Powered PyLops with mpi4py", Journal of Open Source
       Software, 2025, doi:10.21105/joss.07512.

    Examples
    --------
    On any number of ranks, by ``mpiexec -n 4 python -m mpi4py script.py``:

    >>> import numpy as np
    >>> from pylops_mpi import DistributedArray, cgls
    >>> from convmat import Conv2d, to_pylops_mpi
    >>> A = Conv2d(np.ones((3, 3)) / 9, (32, 24), padding=1, padding_mode="reflect")
    >>> Op = to_pylops_mpi(A)
    >>> x = DistributedArray(global_shape=Op.dims, axis=Op.axes[0])
    >>> image = np.random.default_rng(0).standard_normal(Op.dims)
    >>> x[:] = image[Op.slab]
    >>> y = Op @ x.ravel()
    >>> y.local_array.shape == Op.local_shapes_n[y.rank]
    True
    >>> np.allclose(y.local_array.reshape(Op.local_dimsd), A.apply(image)[Op.slabd], rtol=0, atol=1e-12)
    True
    >>> z = cgls(Op, y, x.ravel().zeros_like(), niter=100, tol=0)[0]
    >>> bool((Op @ z - y).norm() < 1e-2 * y.norm())
    True
    """
    if not isinstance(A, ImageOperator):
        raise TypeError(f"A is of type {type(A).__name__}: it must be an operator of convmat")
    if reason := needs_whole(A) or needs_whole(A.H):
        raise TypeError(f"A has no slabs: {reason}")
    for direction in (A, A.H):
        direction.block((slice(0, 1),) * len(direction.output_shape))  # what has no blocks says so, on all ranks
    axes = _axes(A, axis)
    wrap, world = _wrapper()
    return wrap(A, world if comm is None else comm, axes)


def _axes(A: ImageOperator, axis: int | None) -> tuple[int, int]:
    """The axes of the input and of the output that are cut."""
    shapes = A.input_shape, A.output_shape
    if axis is None:
        ndim = _spatial_axes(A)
        first, last = (max(len(shape) - ndim, 0) if ndim else int(len(shape) > 2) for shape in shapes)
        return first, last
    if isinstance(axis, bool) or not isinstance(axis, Integral):
        raise TypeError(f"axis={axis!r} must be an integer")
    if not 0 <= axis < min(map(len, shapes)):
        raise ValueError(f"axis={axis} must be an axis of the input {shapes[0]} and of the output {shapes[1]}")
    return int(axis), int(axis)


def _spatial_axes(A: ImageOperator) -> int:
    """How many spatial axes a convolution has that is a part of an operator; 0 if there is none."""
    if hasattr(A, "geometry"):
        return int(A.geometry.ndim)
    return next((ndim for part in parts_of(A) if (ndim := _spatial_axes(part))), 0)


@dataclass(frozen=True)
class _Slabs:
    """An image cut along an axis, a slab for each rank."""

    shape: tuple[int, ...]
    axis: int
    ranks: int

    def rows(self, rank: int) -> tuple[int, int]:
        each, more = divmod(self.shape[self.axis], self.ranks)
        start = rank * each + min(rank, more)
        return start, start + each + (rank < more)

    def shape_of(self, rank: int) -> tuple[int, ...]:
        start, stop = self.rows(rank)
        return (*self.shape[: self.axis], stop - start, *self.shape[self.axis + 1 :])

    def box(self, rank: int) -> tuple[slice, ...]:
        whole = [slice(0, size) for size in self.shape]
        whole[self.axis] = slice(*self.rows(rank))
        return tuple(whole)

    def flat_shapes(self) -> list[tuple[int]]:
        return [(math.prod(self.shape_of(rank)),) for rank in range(self.ranks)]

    def holds(self, rank: int, rows: Iterable[tuple[int, int]]) -> Rows:
        """The part of these rows that a rank has, counted from its first one."""
        start, stop = self.rows(rank)
        found = ((max(a, start) - start, min(b, stop) - start) for a, b in rows)
        return [(a, b) for a, b in found if a < b]


class _Gather:
    """One direction of the products: the slab of the result on this rank, from the slabs of all."""

    def __init__(self, A: ImageOperator, source: _Slabs, target: _Slabs, comm: Any) -> None:
        rank, ranks = comm.Get_rank(), range(source.ranks)
        self._comm, self._dtype, self._axis = comm, A.dtype, source.axis
        self.source_shape, self.target_shape = source.shape_of(rank), target.shape_of(rank)
        self._block = A.block(target.box(rank)) if math.prod(self.target_shape) else None
        read = [(piece.start, piece.stop) for piece in self._block.inputs[source.axis]] if self._block else []
        self._sent = [source.holds(rank, rows) for rows in comm.allgather(read)]
        self._received = [_count(source.holds(other, read)) for other in ranks]

    def __call__(self, slab: NDArray[Any]) -> NDArray[Any]:
        slab = slab.reshape(self.source_shape)
        slab = slab.astype(result_dtype(self._dtype, slab), copy=False)
        taken = self._exchanged(np.moveaxis(slab, self._axis, 0))
        if self._block is None:
            return np.empty(self.target_shape, slab.dtype)
        others = list(self._block.inputs)
        others[self._axis] = (slice(None),)
        image = self._block._replace(inputs=tuple(others)).read(np.moveaxis(taken, 0, self._axis))
        result: NDArray[Any] = self._block.operator.apply(image)
        return result

    def _exchanged(self, slab: NDArray[Any]) -> NDArray[Any]:
        """The rows that the block reads, of all ranks in order. (rows, ...) -> (rows that are read, ...)"""
        from mpi4py import MPI

        counts = [_count(rows) for rows in self._sent]
        sent = np.empty((sum(counts), *slab.shape[1:]), slab.dtype)
        taken = np.empty((sum(self._received), *slab.shape[1:]), slab.dtype)
        np.concatenate([slab[:0], *(slab[a:b] for rows in self._sent for a, b in rows)], out=sent)
        row = MPI.Datatype.fromcode(slab.dtype.char).Create_contiguous(math.prod(slab.shape[1:])).Commit()
        self._comm.Alltoallv([sent, counts, row], [taken, self._received, row])
        row.Free()
        return taken


def _count(rows: Rows) -> int:
    return sum(b - a for a, b in rows)


@functools.cache
def _wrapper() -> tuple[Callable[[ImageOperator, Any, tuple[int, int]], Any], Any]:
    """The class of the wrapped operators, made when PyLops-MPI is first needed, and the communicator of all ranks."""
    try:
        import pylops_mpi
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(
            f"to_pylops_mpi needs {error.name or 'pylops-mpi'}: install the extra `mpi`, pip install 'convmat[mpi]'",
            name=error.name,
        ) from error
    except RuntimeError as error:
        raise ImportError(
            f"to_pylops_mpi needs a library of MPI beside the extra `mpi`: that of the system, or pip install mpich; "
            f"mpi4py says: {error}",
            name="mpi4py",
        ) from error

    class ConvmatMPIOperator(pylops_mpi.MPILinearOperator):
        """An operator of convmat on slabs of images."""

        def __init__(self, A: ImageOperator, comm: Any, axes: tuple[int, int]) -> None:
            super().__init__(dims=A.input_shape, dimsd=A.output_shape, dtype=A.dtype, base_comm=comm)
            self.Op, self.axes = A, axes
            source = _Slabs(A.input_shape, axes[0], comm.Get_size())
            target = _Slabs(A.output_shape, axes[1], comm.Get_size())
            self.local_shapes_m, self.local_shapes_n = source.flat_shapes(), target.flat_shapes()
            self._forward, self._backward = _Gather(A, source, target, comm), _Gather(A.H, target, source, comm)
            self.slab, self.slabd = source.box(comm.Get_rank()), target.box(comm.Get_rank())
            self.local_dims, self.local_dimsd = self._forward.source_shape, self._forward.target_shape

        def _matvec(self, x: Any) -> Any:
            return self._gathered(self._forward, x, self.local_shapes_m, self.local_shapes_n)

        def _rmatvec(self, x: Any) -> Any:
            return self._gathered(self._backward, x, self.local_shapes_n, self.local_shapes_m)

        def _gathered(self, gather: _Gather, x: Any, shapes: list[tuple[int]], wanted: list[tuple[int]]) -> Any:
            if x.partition is not pylops_mpi.Partition.SCATTER or x.engine != "numpy":
                raise ValueError(
                    f"x has the partition {x.partition.name} and the engine {x.engine}: it must be SCATTER and numpy"
                )
            sizes = np.empty(len(shapes), dtype=np.int64)
            self.base_comm.Allgather(np.array([x.local_array.size]), sizes)
            if sizes.tolist() != [size for (size,) in shapes]:
                raise ValueError(
                    f"x has local arrays of the sizes {sizes.tolist()}: the slabs have {[size for (size,) in shapes]}; "
                    f"write DistributedArray(..., local_shapes=Op.local_shapes_m), or local_shapes_n for the adjoint"
                )
            result = gather(x.local_array)
            return pylops_mpi.DistributedArray(
                global_shape=sum(size for (size,) in wanted),
                base_comm=self.base_comm,
                local_array=result.ravel(),
                local_shapes=wanted,
            )

    return ConvmatMPIOperator, MPI.COMM_WORLD
