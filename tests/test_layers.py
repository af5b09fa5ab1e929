"""Diagonal, Rearrange and Separable against numpy, by their matrices and by their images."""

import copy
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import lsqr

from convmat import check_adjoint
from convmat.operators import Diagonal, Rearrange, Separable
from tests.strategies import tries

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def values(rng, shape, dtype=np.float64):
    real = rng.integers(-4, 5, shape)
    return (real + 1j * rng.integers(-4, 5, shape) if np.dtype(dtype).kind == "c" else real).astype(dtype)


def holds(A, dense):
    """Everything an operator promises, given its matrix."""
    check_adjoint(A, rng=0)
    np.testing.assert_array_equal(A.toarray(), dense)
    np.testing.assert_array_equal(A.T.toarray(), dense.T)
    np.testing.assert_array_equal(A.H.toarray(), dense.conj().T)
    matrix = A.tosparse()
    assert matrix.dtype == A.dtype == A.T.dtype == A.H.dtype
    assert matrix.nnz == A.nnz == A.T.nnz
    assert matrix.indices.dtype == np.int32
    assert (matrix.has_canonical_format, A.tosparse("csc").format) == (True, "csc")
    assert A.T.T is A
    rng = np.random.default_rng(1)
    x = values(rng, (2, 3, *A.input_shape), A.dtype)
    y = A.apply(x)
    assert (y.shape, y.dtype) == ((2, 3, *A.output_shape), A.dtype)
    np.testing.assert_array_equal(y.reshape(6, -1), x.reshape(6, -1) @ dense.T)
    assert not np.shares_memory(x, y)
    cotangent = values(rng, (2, *A.output_shape), A.dtype)
    np.testing.assert_array_equal(A.T.apply(cotangent).reshape(2, -1), cotangent.reshape(2, -1) @ dense)
    for other in (pickle.loads(pickle.dumps(A)), copy.deepcopy(A), pickle.loads(pickle.dumps(A.T)).T):
        assert type(other) is type(A)
        np.testing.assert_array_equal(other.apply(x), y)
    with pytest.raises(AttributeError, match="immutable"):
        A.anything = 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given_shape", [(), (1,), (2, 1, 1), (3, 1), (2, 3, 4)])
def test_diagonal_is_a_diagonal_matrix(given_shape, dtype):
    d = values(np.random.default_rng(0), given_shape, dtype)
    A = Diagonal(d, (2, 3, 4))
    holds(A, np.diag(np.broadcast_to(d, (2, 3, 4)).ravel()))
    assert A.T is A
    np.testing.assert_array_equal(A.values, d)


@st.composite
def rearrangements(draw):
    split = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    order = draw(st.permutations(range(len(split))))
    size = int(np.prod(split))
    shapes = st.sampled_from([(size,), (1, size), (size, 1), (split[0], size // split[0])])
    return draw(shapes), draw(shapes), split, order


@given(rearrangements(), st.sampled_from(DTYPES))
def test_rearrange_moves_entries_as_numpy_does(case, dtype):
    inputs, outputs, split, order = case
    A = Rearrange(inputs, outputs, split=split, order=order, dtype=dtype)
    x = np.arange(np.prod(inputs)).reshape(inputs)
    y = x.reshape(split).transpose(order).reshape(outputs)
    np.testing.assert_array_equal(A.apply(x).real, y)
    np.testing.assert_array_equal(A.T.apply(y).real, x)
    holds(A, np.eye(x.size, dtype=dtype)[y.ravel()])


def test_rearrange_without_arguments_is_the_identity():
    holds(Rearrange((2, 3)), np.eye(6))
    assert Rearrange(4).input_shape == Rearrange(4).output_shape == (4,)
    assert Rearrange((2, 3), order=(1, 0)).output_shape == (3, 2)


@st.composite
def separables(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    kinds = [draw(st.sampled_from(["none", "dense", "csr", "coo"])) for _ in shape]
    dtype = np.float64 if set(kinds) == {"none"} else draw(st.sampled_from(DTYPES))
    dense = []
    given_as = []
    for n, kind in zip(shape, kinds, strict=True):
        matrix = np.eye(n, dtype=dtype) if kind == "none" else values(rng, (draw(st.integers(1, 4)), n), dtype)
        dense.append(matrix)
        given_as.append({"none": None, "dense": matrix, "csr": csr_array(matrix), "coo": coo_array(matrix)}[kind])
    return tuple(shape), given_as, dense, dtype


@tries(150)
@given(separables())
def test_separable_is_the_kronecker_product_of_its_matrices(case):
    shape, given_as, dense, dtype = case
    A = Separable(shape, given_as)
    assert A.dtype == dtype
    expected = np.eye(1, dtype=dtype)
    for matrix in dense:
        expected = np.kron(expected, matrix)
    holds(A, expected.astype(dtype))


def test_zeros_of_a_dense_matrix_are_stored_and_of_a_sparse_one_as_given():
    assert Separable((2, 3), [None, np.zeros((4, 3))]).tosparse().nnz == 24
    assert Separable((2, 3), [None, csr_array((4, 3))]).tosparse().nnz == 0


def test_separable_keeps_its_own_copy():
    dense, sparse = np.ones((2, 2)), csr_array(np.ones((2, 2)))
    A = Separable((2, 2), [dense, sparse])
    dense[:] = 5
    sparse.data[:] = 5
    A.tosparse().data[:] = 5
    np.testing.assert_array_equal(A.toarray(), np.ones((4, 4)))
    for array in (A.matrices[0], A.matrices[1].data):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 5


def test_duplicates_of_a_sparse_matrix_add_up():
    twice = coo_array(([1.0, 2.0], ([0, 0], [0, 0])), shape=(1, 2))
    np.testing.assert_array_equal(Separable(2, [twice]).toarray(), [[3.0, 0.0]])


def test_mixed_dtypes_meet_in_their_result_type():
    A = Separable((2, 2), [np.ones((2, 2), np.float32), np.ones((2, 2), np.float64)])
    assert A.dtype == A.tosparse().dtype == np.float64
    assert A.apply(np.ones((2, 2), np.float32)).dtype == np.float64
    assert Diagonal(np.float32(2), 3).apply(np.ones(3, np.complex128)).dtype == np.complex128


def test_solver_runs_on_a_layer():
    A = Separable((3, 4), [np.eye(3) + 1, csr_array(np.random.default_rng(0).random((6, 4)))])
    x = np.arange(12.0)
    np.testing.assert_allclose(lsqr(A, A @ x, atol=1e-14, btol=1e-14)[0], x, atol=1e-8)


def test_transpose_is_made_once_and_dies_with_its_last_reference():
    A = Separable((2, 2), [np.ones((2, 2)), None])
    kept = A.T
    assert A.T is kept
    assert kept.T is A
    remembered = weakref.ref(kept)
    del kept
    assert remembered() is None


HUGE = 2**40


@pytest.mark.parametrize(
    "operator", [Diagonal(1.0, (2**10, HUGE)), Rearrange((HUGE, 2)), Separable((HUGE, 3), [None, np.ones((2, 3))])]
)
def test_matrices_that_cannot_fit_are_refused_before_they_are_allocated(operator):
    with pytest.raises(MemoryError, match=r"nnz = \d+ needs"):
        operator.tosparse()


@pytest.mark.parametrize("operator", [Diagonal(1.0, 3), Rearrange(3), Separable(3, [None])])
def test_unknown_format_is_refused(operator):
    with pytest.raises(ValueError, match="format='dense' must be one of"):
        operator.tosparse("dense")


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: Diagonal(np.ones((2, 2)), (2, 3)), ValueError, r"values has shape \(2, 2\): it must broadcast"),
        (lambda: Diagonal(np.ones((2, 1, 1)), (2, 3)), ValueError, "must broadcast"),
        (lambda: Diagonal("a", 3), TypeError, "dtype"),
        (lambda: Diagonal(1.0, 2.5), TypeError, r"input_shape=2.5 must be an integer or a sequence"),
        (lambda: Diagonal(1.0, (2, True)), TypeError, "not bools"),
        (lambda: Diagonal(1.0, "12"), TypeError, "input_shape='12'"),
        (lambda: Diagonal(1.0, (2, 0)), ValueError, r"input_shape=\(2, 0\) .* at least 1"),
        (lambda: Diagonal(1.0, ()), ValueError, "at least one axis"),
        (lambda: Rearrange((2, 3), (5,)), ValueError, r"output_shape=\(5,\) must have as many entries"),
        (lambda: Rearrange((2, 3), split=(2, 2)), ValueError, r"split=\(2, 2\) must have as many entries"),
        (lambda: Rearrange((2, 3), order=(0, 0)), ValueError, r"order=\(0, 0\) must be a permutation of the 2 axes"),
        (lambda: Rearrange((2, 3), dtype=np.longdouble), TypeError, "dtype"),
        (lambda: Separable((2, 3), [None]), ValueError, "matrices has 1 entries: it must have one per axis"),
        (lambda: Separable((2, 3), [None, np.ones((2, 2))]), ValueError, r"matrices\[1\] .* must have 3 columns"),
        (lambda: Separable(2, [np.ones(2)]), ValueError, r"two axes, not the shape \(2,\)"),
        (lambda: Separable(2, [np.ones((2, 2), object)]), TypeError, "dtype object"),
        (lambda: Separable(2, [None]).apply(np.ones(3)), ValueError, r"image has shape \(3,\)"),
    ],
)
def test_wrong_arguments_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
