"""What tests/scale/test_pylops_mpi.py runs on several ranks: all of them draw the same operators and images, and each
compares its slabs with the whole.
"""

import doctest
import sys
import warnings

import numpy as np
import pylops_mpi
from mpi4py import MPI
from pylops_mpi import DistributedArray, MPIFirstDerivative, MPIStackedVStack, cgls
from pylops_mpi.utils.dottest import dottest

import convmat
from convmat import to_pylops_mpi
from convmat.operators.blocks import needs_whole
from convmat.scale import pylops_mpi as module
from tests import oracle
from tests.strategies import CONV
from tests.trees import Trees

COMM = MPI.COMM_WORLD
EXACT = ("matrix", "direct", "gemm")
DTYPES = ("float64", "float32", "complex128", "complex64")


def numbers(rng, shape, dtype="float64"):
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)


def random_layer(rng, mode, method):
    """A convolution of any geometry, whose first axis is long enough to have an inside, now and then."""
    ndim = int(rng.integers(1, 4))
    kernel = tuple(rng.integers(1, 5 if ndim < 3 else 4, ndim).tolist())
    dilation = tuple(rng.integers(1, 3, ndim).tolist())
    spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    size = tuple((rng.integers(1, 30 if axis == 0 else 8) + span).tolist() for axis, span in enumerate(spans))
    padding = tuple((int(rng.integers(0, span + 2)), int(rng.integers(-1 if n > span + 1 else 0, span + 2)))
                    for span, n in zip(spans, size, strict=True))  # fmt: skip
    groups = int(rng.integers(1, 4))
    channels = () if rng.random() < 0.4 else (groups * int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    weight = numbers(rng, (*channels, *kernel), DTYPES[rng.integers(4)])
    options = {"stride": tuple(rng.integers(1, 4, ndim).tolist()), "groups": groups if channels else 1}
    return CONV[ndim](weight, size, padding=padding, dilation=dilation, padding_mode=mode, method=method, **options)


def cut(image, axis):
    """The flat array of an image that all ranks have."""
    return DistributedArray.to_dist(np.ascontiguousarray(image), base_comm=COMM, axis=axis).ravel()


def compare(A, rng, exact):
    """Both products against those of the whole, and the dot test."""
    Op = to_pylops_mpi(A)
    x, y = numbers(rng, A.input_shape, A.dtype), numbers(rng, A.output_shape, A.dtype)
    u = DistributedArray(x.size, local_array=x[Op.slab].ravel(), local_shapes=Op.local_shapes_m)
    v = DistributedArray(y.size, local_array=y[Op.slabd].ravel(), local_shapes=Op.local_shapes_n)
    assert Op.local_dims == DistributedArray(A.input_shape, axis=Op.axes[0]).local_shape
    assert Op.local_dimsd == DistributedArray(A.output_shape, axis=Op.axes[1]).local_shape
    Au, Av = Op @ u, Op.H @ v
    tolerance = 1e-4 if np.finfo(A.dtype).eps > 1e-10 else 1e-12
    for got, want, slab in ((Au, A.apply(x), Op.slabd), (Av, A.H.apply(y), Op.slab)):
        assert got.dtype == got.local_array.dtype == want.dtype
        if exact:
            np.testing.assert_array_equal(got.local_array, want[slab].ravel(), err_msg=repr(A))
        else:
            atol = tolerance * max(1, np.abs(want).max())
            np.testing.assert_allclose(got.local_array, want[slab].ravel(), rtol=0, atol=atol, err_msg=repr(A))
    gap = np.vdot(Au.local_array, v.local_array) - np.vdot(u.local_array, Av.local_array)
    assert abs(COMM.allreduce(gap)) <= tolerance * np.linalg.norm(A.apply(x)) * np.linalg.norm(y), A


def layers():
    """Convolutions and transposed convolutions, by every method and padding mode."""
    rng, count = np.random.default_rng(1), 0
    for mode in oracle.MODES:
        for method in (*EXACT, "fft", "auto"):
            for _ in range(4):
                try:
                    A = random_layer(rng, mode, method)
                except ImportError:
                    continue  # "direct" without numba
                compare(A, rng, method in EXACT)
                compare(A.T, rng, method in EXACT)
                count += 1
    assert count >= 80


def expressions():
    """Chains, sums, stacks; those that need their whole input are refused."""
    trees, rng, cuts = Trees(2), np.random.default_rng(2), 0
    for _ in range(80):
        A, _ = trees.tree(2, trees.shape())
        if needs_whole(A) or needs_whole(A.H):
            try:
                to_pylops_mpi(A)
            except TypeError as error:
                assert "has no slabs: it has a" in str(error)  # noqa: PT017
                continue
            raise AssertionError(A)
        compare(A, rng, exact=False)
        cuts += 1
    assert cuts > 20


def solvers():
    """CGLS of PyLops-MPI, damped and regularized, against dense least squares."""
    rng = np.random.default_rng(3)
    for mode, stride in (("reflect", 1), ("circular", 2), ("zeros", (2, 1))):
        A = convmat.Conv2d(numbers(rng, (4, 2, 3, 3)), (9, 7), stride=stride, padding=1, padding_mode=mode)
        Op, x = to_pylops_mpi(A), numbers(rng, (2, 9, 7))
        y = Op @ cut(x, 1)
        zero = cut(np.zeros_like(x), 1)
        got = cgls(Op, y, zero, niter=500, damp=0.3, tol=1e-28)[0]
        stack, data = np.vstack([A.toarray(), 0.3 * np.eye(x.size)]), np.r_[A @ x.ravel(), np.zeros(x.size)]
        want = np.linalg.lstsq(stack, data, rcond=None)[0]
        np.testing.assert_allclose(got.local_array, cut(want.reshape(x.shape), 1).local_array, atol=1e-8)

    A = convmat.Conv2d(np.ones((3, 4)) / 12, (11, 8), stride=2, padding=2, padding_mode="symmetric")
    x, Op = numbers(rng, (11, 8)), to_pylops_mpi(A)
    D = MPIFirstDerivative((11, 8), kind="forward")
    both = MPIStackedVStack([Op, 0.2 * D])
    data = pylops_mpi.StackedDistributedArray([cut(A.apply(x), 0), cut(np.zeros_like(x), 0)])
    got = cgls(both, data, cut(np.zeros_like(x), 0), niter=1000, tol=1e-28)[0]
    d = np.diff(np.eye(11), axis=0, append=np.zeros((1, 11)))
    d[-1] = 0
    stack = np.vstack([A.toarray(), 0.2 * np.kron(d, np.eye(8))])
    want = np.linalg.lstsq(stack, np.r_[A @ x.ravel(), np.zeros(x.size)], rcond=None)[0]
    np.testing.assert_allclose(got.local_array, cut(want.reshape(x.shape), 0).local_array, atol=1e-7)


def algebra():
    """Products, sums, multiples and adjoints with operators of PyLops-MPI."""
    rng = np.random.default_rng(4)
    A = convmat.Conv2d(numbers(rng, (3, 3)), (11, 8), padding=1, padding_mode="replicate")
    Op, D = to_pylops_mpi(A), MPIFirstDerivative((11, 8), kind="centered")
    S, x = A.toarray(), numbers(rng, (11, 8))
    d = np.stack([(D @ cut(e.reshape(11, 8), 0)).asarray() for e in np.eye(88)], axis=1)
    for name, got, want in (
        ("derivative of ours", D * Op, d @ S),
        ("ours of a derivative", Op * D, S @ d),
        ("normal", Op.H * Op, S.T @ S),
        ("sum", Op + D, S + d),
        ("multiple", -2 * Op, -2 * S),
        ("power", Op**2, S @ S),
        ("two of ours", to_pylops_mpi(A.T) * Op, S.T @ S),
    ):
        np.testing.assert_allclose((got @ cut(x, 0)).asarray(), want @ x.ravel(), atol=1e-11, err_msg=name)
        assert dottest(got, cut(x, 0), cut(x[::-1], 0), rtol=1e-12), name


def shapes():
    """Fewer rows than ranks, another axis, another communicator, and what is refused on all ranks at once."""
    rng = np.random.default_rng(5)
    compare(convmat.Conv2d(np.ones((2, 1, 1, 3)), (1, 6), padding=(0, 1)), rng, exact=False)
    compare(convmat.Conv1d([1.0, 2, 3], 3), rng, exact=False)

    A = convmat.Conv2d(numbers(rng, (2, 3, 3, 3)), (6, 9), padding=1, method="gemm")
    x = numbers(rng, A.input_shape)
    for axis in range(3):
        Op = to_pylops_mpi(A, axis=axis)
        np.testing.assert_array_equal((Op @ cut(x, axis)).local_array, cut(A.apply(x), axis).local_array)
    compare(convmat.normal(A, 0.1), rng, exact=False)
    flat = convmat.Rearrange(A.output_shape, (108,)) @ A
    compare(flat, rng, exact=True)
    assert (to_pylops_mpi(flat).axes, to_pylops_mpi(convmat.Diagonal(x, x.shape)).axes) == ((1, 0), (1, 1))
    assert to_pylops_mpi(convmat.Conv3d(np.ones((1, 1, 1)), (4, 3, 2))).axes == (0, 0)
    refused(lambda: to_pylops_mpi(A, axis=3), "axis=3 must be an axis of the input")

    one = COMM.Split(COMM.rank)
    alone = to_pylops_mpi(A, one)
    got = alone @ DistributedArray.to_dist(x, base_comm=one, axis=1).ravel()
    np.testing.assert_array_equal(got.local_array, A.apply(x).ravel())

    Op = to_pylops_mpi(A)
    odd = [(x.size - COMM.size + 1,), *[(1,)] * (COMM.size - 1)]
    if COMM.size > 1:
        refused(lambda: Op @ DistributedArray(x.size, local_shapes=odd), "local_shapes=Op.local_shapes_m")
    refused(lambda: Op @ DistributedArray(x.size, partition=pylops_mpi.Partition.BROADCAST), "must be SCATTER")
    ints = cut(np.arange(162).reshape(A.input_shape), 1)
    np.testing.assert_array_equal((Op @ ints).asarray(), (Op @ cut(np.arange(162.0).reshape(3, 6, 9), 1)).asarray())


def refused(call, words):
    try:
        call()
    except ValueError as error:
        assert words in str(error), error  # noqa: PT017
    else:
        raise AssertionError(words)


def docstring():
    failed, attempted = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert attempted > 5
    assert not failed


if __name__ == "__main__":
    warnings.simplefilter("error")
    for task in (layers, expressions, solvers, algebra, shapes, docstring):
        if not sys.argv[1:] or task.__name__ in sys.argv[1:]:
            start = MPI.Wtime()
            task()
            if COMM.rank == 0:
                print(f"{task.__name__} on {COMM.size} ranks: {MPI.Wtime() - start:.1f} s", flush=True)
