"""A chain is the product of its factors: as images, as vectors, as a matrix."""

import copy
import functools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator, lsqr

from convmat import Conv1d, Conv2d, ConvTranspose2d, Crop, Downsample, Pad, Upsample, check_adjoint, matrix
from convmat.operators import Chain, Diagonal, Rearrange, Separable, algebra
from tests.strategies import tries


def integers(rng, shape, dtype):
    real = rng.integers(-2, 3, shape)
    return (real + 1j * rng.integers(-2, 3, shape) if np.dtype(dtype).kind == "c" else real).astype(dtype)


STEPS = {
    "conv": lambda rng, shape, dtype: Conv2d(
        integers(rng, (2, shape[0], 2, 3), dtype), shape[1:], stride=(2, 1), padding=1, padding_mode="replicate"
    ),
    "transposed": lambda rng, shape, dtype: ConvTranspose2d(integers(rng, (shape[0], 2, 2, 2), dtype), shape[1:]),
    "pad": lambda rng, shape, dtype: Pad(shape[1:], 1, padding_mode="symmetric", channels=shape[0], dtype=dtype),
    "crop": lambda rng, shape, dtype: Crop(shape[1:], ((0, 0), (1, 0)), channels=shape[0], dtype=dtype),
    "down": lambda rng, shape, dtype: Downsample(shape[1:], (1, 2), channels=shape[0], dtype=dtype),
    "up": lambda rng, shape, dtype: Upsample(shape[1:], (2, 1), channels=shape[0], dtype=dtype),
    "scale": lambda rng, shape, dtype: Diagonal(integers(rng, (shape[0], 1, 1), dtype), shape),
    "swap": lambda rng, shape, dtype: Rearrange(shape, order=(0, 2, 1), dtype=dtype),
    "rows": lambda rng, shape, dtype: Separable(shape, [None, integers(rng, (3, shape[1]), dtype), None]),
}  # fmt: skip


@st.composite
def chains(draw):
    """Factors, last one first applied, with small integer entries: every product is exact."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape, factors = (draw(st.integers(1, 2)), 3, 4), []
    for name in draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4)):
        if min(shape[1:]) < 2:
            break
        factors.append(STEPS[name](rng, shape, draw(st.sampled_from([np.float64, np.complex128]))))
        shape = factors[-1].output_shape
    return factors[::-1]


@tries(80)
@given(chains())
def test_chain_is_the_product_of_its_factors(factors):
    A = Chain(*factors)
    dense = functools.reduce(np.matmul, [f.toarray() for f in factors])
    assert A.factors() == tuple(factors)
    assert (A.input_shape, A.output_shape) == (factors[-1].input_shape, factors[0].output_shape)
    assert A.dtype == A.tosparse().dtype == np.result_type(*(f.dtype for f in factors))
    np.testing.assert_array_equal(A.toarray(), dense)
    np.testing.assert_array_equal(A.T.toarray(), dense.T)
    np.testing.assert_array_equal(A.H.toarray(), dense.conj().T)
    np.testing.assert_allclose(A @ np.eye(A.shape[1]), dense, atol=1e-9)
    np.testing.assert_allclose(A.H @ np.eye(A.shape[0]), dense.conj().T, atol=1e-9)
    check_adjoint(A, rng=0)
    check_adjoint(A.T, rng=0)
    assert A.T.T is A
    x = integers(np.random.default_rng(0), (2, 3, *A.input_shape), np.float64)
    np.testing.assert_allclose(A.apply(x).reshape(6, -1), x.reshape(6, -1) @ dense.T, atol=1e-9)
    for other in (pickle.loads(pickle.dumps(A)), copy.deepcopy(A)):
        np.testing.assert_array_equal(other.toarray(), dense)


def test_matrix_is_canonical_in_every_format():
    A = Chain(Conv1d([1.0, 2.0, 1.0], 10), Conv1d([1.0, 0.0, -1.0], 12, stride=1))
    for name in ("csr", "csc"):
        product = A.tosparse(name)
        assert (product.format, product.shape) == (name, A.shape)
        fresh = product.copy()
        fresh.has_canonical_format = False
        fresh.has_sorted_indices = False
        fresh.sum_duplicates()
        np.testing.assert_array_equal(fresh.indices, product.indices)
    assert A.tosparse("coo").format == "coo"
    with pytest.raises(ValueError, match="format='dense' must be one of"):
        A.tosparse("dense")


def test_chains_in_a_chain_are_taken_apart():
    a, b, c = Conv1d([1.0, 2.0], 5), Pad(3, 1), Conv1d([3.0], 3)
    assert Chain(Chain(a, b), c).factors() == Chain(a, Chain(b, c)).factors() == (a, b, c)


def test_transpose_is_the_chain_of_the_transposes():
    a, b = Conv1d([1.0, 2.0], 5), Pad(3, 1)
    assert Chain(a, b).T.factors() == (b.T, a.T)
    assert Chain(a, b).H.factors() == (b.T, a.T)


def test_adjoint_of_a_complex_chain_conjugates():
    A = Chain(Conv1d([1.0 + 2.0j], 4), Diagonal([1.0, 1j, -1j, 2.0], 4))
    np.testing.assert_array_equal(A.H.toarray(), A.toarray().conj().T)
    np.testing.assert_array_equal(A.H @ np.ones(4), A.toarray().conj().T @ np.ones(4))
    assert not np.array_equal(A.H.toarray(), A.T.toarray())


def test_factors_of_a_convolution_make_a_chain_again():
    A = Conv2d(np.arange(24.0).reshape(2, 3, 2, 2), (5, 6), stride=2, padding=1, padding_mode="reflect")
    np.testing.assert_array_equal(Chain(*A.factors()).toarray(), A.toarray())


def test_solver_runs_on_a_chain():
    A = Chain(Conv1d([1.0, 3.0, 1.0], 12), Pad(10, 1), Separable(10, [np.eye(10) + np.eye(10, k=1) / 2]))
    x = np.arange(10.0)
    np.testing.assert_allclose(lsqr(A, A @ x, atol=1e-14, btol=1e-14)[0], x, atol=1e-8)


def test_single_precision_stays_single():
    A = Chain(Conv1d(np.ones(2, np.float32), 5), Pad(3, 1, dtype=np.float32))
    assert A.dtype == A.tosparse().dtype == A.apply(np.ones(3, np.float32)).dtype == np.float32


def test_chain_is_immutable():
    with pytest.raises(AttributeError, match="immutable"):
        Chain(Conv1d([1.0], 3)).anything = 1


@pytest.mark.parametrize(
    ("factors", "kind", "message"),
    [
        ((), ValueError, "at least one factor"),
        ((np.eye(3),), TypeError, "must be a convmat operator on images, not array"),
        ((aslinearoperator(np.eye(3)),), TypeError, "must be a convmat operator on images"),
        (
            (Conv1d([1.0, 1.0], 5), Conv1d([1.0], 4)),
            ValueError,
            r"factor 0 \(Conv1d\) takes images of shape \(5,\), but factor 1 \(Conv1d\) gives \(4,\)",
        ),
        ((Rearrange(6), Rearrange((2, 3))), ValueError, r"shape \(6,\), but factor 1 \(Rearrange\) gives \(2, 3\)"),
    ],
)
def test_factors_that_do_not_fit_are_refused(factors, kind, message):
    with pytest.raises(kind, match=message):
        Chain(*factors)


def test_product_that_cannot_fit_is_refused_before_it_is_allocated(monkeypatch):
    column, row = csr_array(np.ones((1000, 1))), csr_array(np.ones((1, 1000)))
    outer = Chain(Separable(1, [column]), Separable(1000, [row]))  # thin factors, a full product
    monkeypatch.setattr(matrix, "_ALWAYS_FITS", 0)
    monkeypatch.setattr(matrix, "_available_memory", lambda: 11e6)
    with pytest.raises(MemoryError, match="a product of sparse matrices of shape 1000 x 1000 with nnz = 1000000 needs"):
        outer.tosparse()
    monkeypatch.setattr(matrix, "_available_memory", lambda: 13e6)
    assert outer.tosparse().nnz == 1000000


def test_product_with_many_multiplications_per_entry_is_counted_and_not_refused(monkeypatch):
    monkeypatch.setattr(matrix, "_ALWAYS_FITS", 0)
    A = Chain(*[Conv1d(np.ones(9), n) for n in (92, 100)])  # 17 entries a row from 81 multiplications
    counted = []
    count = algebra._count
    monkeypatch.setattr(algebra, "_count", lambda *args: counted.append(count(*args)) or counted[-1])
    monkeypatch.setattr(matrix, "_available_memory", lambda: 84 * 25 * 12)
    assert A.tosparse().nnz == 84 * 17
    assert counted == [84 * 17]


@pytest.mark.parametrize("block", [1, 7, 100, 2**24])
def test_entries_are_counted_exactly_in_slabs_of_any_size(block, monkeypatch):
    monkeypatch.setattr(algebra, "_BLOCK", block)
    rng = np.random.default_rng(0)
    left, right = (csr_array(rng.random(shape) * (rng.random(shape) < 0.2)) for shape in ((30, 40), (40, 20)))
    work = algebra._multiplications(left, right)
    np.testing.assert_array_equal(work, (left.toarray() != 0).astype(int) @ np.diff(right.indptr))
    assert algebra._count(left, right, work) == np.count_nonzero(left.toarray() @ right.toarray())
