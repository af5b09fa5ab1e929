"""check_adjoint accepts what is adjoint, and says what is wrong with what is not."""

import re

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from convmat import Conv1d, Conv2d, check_adjoint
from convmat.operators import ImageOperator

rng = np.random.default_rng(0)
MATRIX = rng.standard_normal((5, 7))
COMPLEX = MATRIX + 1j * rng.standard_normal((5, 7))


class Broken(LinearOperator):
    """A dense matrix as an operator, of which single products can be replaced."""

    def __init__(self, matrix, sparse=None, **products):
        super().__init__(matrix.dtype, matrix.shape)
        self.matrix = matrix
        self.products = products
        if sparse is not None:
            self.tosparse = lambda: sparse

    def _product(self, name, x, default):
        return self.products[name](x) if name in self.products else default

    def _matvec(self, x):
        return self._product("matvec", x, self.matrix @ x)

    def _rmatvec(self, x):
        return self._product("rmatvec", x, self.matrix.conj().T @ x)

    def _matmat(self, X):
        return self._product("matmat", X, self.matrix @ X)

    def _rmatmat(self, X):
        return self._product("rmatmat", X, self.matrix.conj().T @ X)


def message(operator, **options):
    with pytest.raises(AssertionError) as caught:
        check_adjoint(operator, rng=1, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    "operator",
    [
        MATRIX, COMPLEX, MATRIX.astype(np.float32), COMPLEX.astype(np.complex64), scipy.sparse.csr_array(MATRIX),
        scipy.sparse.csc_matrix(COMPLEX), scipy.sparse.coo_array(COMPLEX), aslinearoperator(MATRIX),
        aslinearoperator(COMPLEX).H, aslinearoperator(MATRIX) @ aslinearoperator(MATRIX.T), Broken(COMPLEX),
        Broken(MATRIX, sparse=scipy.sparse.csr_array(MATRIX)), np.zeros((3, 4)), MATRIX.astype(int), np.eye(1),
    ],
    ids=lambda op: f"{type(op).__name__}-{op.dtype}",
)  # fmt: skip
def test_what_is_adjoint_passes(operator):
    assert check_adjoint(operator, rng=1) is None


def test_an_operator_without_rmatmat_passes():
    check_adjoint(LinearOperator((5, 7), matvec=lambda x: COMPLEX @ x, rmatvec=lambda y: COMPLEX.conj().T @ y,
                                 dtype=complex))  # fmt: skip


@pytest.mark.parametrize("matrix", [MATRIX, COMPLEX], ids=["real", "complex"])
def test_a_wrong_adjoint_fails_with_both_inner_products_and_the_relative_error(matrix):
    broken = Broken(matrix, rmatvec=lambda y: 2 * matrix.conj().T @ y, rmatmat=lambda Y: 2 * matrix.conj().T @ Y)
    text = message(broken)
    number = r"\(?[-+\d.e]+(?:[-+][\d.e-]+j\))?"
    found = re.search(rf"<A x, y> = ({number}) and <x, A\^H y> = ({number}) .* (\d\S*) relative", text)
    assert found, text
    left, right = complex(found[1]), complex(found[2])
    assert left * 2 == pytest.approx(right, rel=1e-10)
    assert float(found[3]) > 1e-3
    assert "1e-13" in text


def test_a_transpose_without_conjugation_fails():
    text = message(Broken(COMPLEX, rmatvec=lambda y: COMPLEX.T @ y, rmatmat=lambda Y: COMPLEX.T @ Y))
    assert "dot test failed" in text


def test_an_error_of_a_few_roundings_passes_and_a_larger_one_fails():
    def off(by):
        return Broken(MATRIX, rmatvec=lambda y: (1 + by) * MATRIX.T @ y, rmatmat=lambda Y: (1 + by) * MATRIX.T @ Y)

    check_adjoint(off(1e-15), rng=1)
    assert "dot test failed" in message(off(1e-9))
    check_adjoint(off(1e-9), rng=1, rtol=1e-6)
    assert "allowed is 1e-15" in message(off(1e-12), rtol=1e-15)


def test_tolerance_follows_the_precision():
    single = MATRIX.astype(np.float32)
    off = 1 + np.float32(1e-6)
    check_adjoint(Broken(single, rmatvec=lambda y: off * (single.T @ y), rmatmat=lambda Y: off * (single.T @ Y)), rng=1)
    far = np.float32(1.01)
    assert "dot test failed" in message(Broken(single, rmatvec=lambda y: far * (single.T @ y)))


def test_a_wrong_matmat_fails():
    assert "matmat and matvec differ" in message(Broken(MATRIX, matmat=lambda X: 2 * (MATRIX @ X)))
    assert "rmatmat and rmatvec differ" in message(Broken(MATRIX, rmatmat=lambda X: 2 * (MATRIX.T @ X)))


def test_a_matmat_that_mixes_up_its_columns_fails():
    assert "differ" in message(Broken(MATRIX, matmat=lambda X: (MATRIX @ X)[:, ::-1]))


def test_a_single_wrong_entry_of_a_sparse_matrix_fails_and_is_named():
    wrong = MATRIX.copy()
    wrong[3, 2] += 1
    text = message(Broken(MATRIX, sparse=scipy.sparse.csr_array(wrong)))
    assert "tosparse()" in text
    assert "at output (3), input (2)" in text
    assert "differ" in message(Broken(MATRIX, sparse=scipy.sparse.csr_array(MATRIX[:, :5])))


def test_a_single_wrong_entry_of_the_adjoint_fails():
    wrong = MATRIX.copy()
    wrong[3, 2] += 1e-6
    text = message(Broken(MATRIX, rmatvec=lambda y: wrong.T @ y, rmatmat=lambda Y: wrong.T @ Y))
    assert "failed" in text or "differ" in text


@pytest.mark.parametrize("where", ["matvec", "rmatvec", "matmat", "rmatmat"])
def test_nan_fails(where):
    def nan(matrix):
        return lambda x: np.full((matrix.shape[0], *x.shape[1:]), np.nan)

    text = message(Broken(MATRIX, **{where: nan(MATRIX.T if where.startswith("r") else MATRIX)}))
    assert "nan" in text
    assert ("dot test failed" in text) == (where.endswith("vec"))
    assert "dot test failed" in message(Broken(MATRIX * np.nan))


def test_an_operator_of_convmat_that_is_spoiled_fails():
    class Spoiled(Conv1d):
        def _backward(self, y):
            return super()._backward(y) + 1

    check_adjoint(Conv1d([1.0, 2.0, 3.0], 9, padding=1), rng=1)
    assert "dot test failed" in message(Spoiled([1.0, 2.0, 3.0], 9, padding=1))


@pytest.mark.parametrize("part", ["_forward", "_backward"])
def test_the_first_entries_that_differ_are_named_by_output_and_input(part):
    A = Conv2d(np.arange(1.0, 37.0).reshape(2, 2, 3, 3), (4, 5), padding=1)
    wrong = {((1, 2, 3), (0, 1, 4)), ((0, 0, 0), (1, 1, 1))}

    class Spoiled(ImageOperator):
        def _forward(self, x):
            return self._image(A.toarray(), x, A.output_shape, "_forward")

        def _backward(self, y):
            return self._image(A.toarray().T, y, A.input_shape, "_backward")

        def _image(self, matrix, x, shape, name):
            for output, source in wrong if name == part else ():
                at = np.ravel_multi_index(output, A.output_shape), np.ravel_multi_index(source, A.input_shape)
                matrix[at if name == "_forward" else at[::-1]] += 1
            return (x.reshape(len(x), -1) @ matrix.T).reshape(len(x), *shape)

    text = message(Spoiled(A.dtype, A.input_shape, A.output_shape))
    assert "dot test failed" in text
    for output, source in wrong:
        assert f"at output {output}, input {source}" in text
    assert text.count("input (") == 2


def test_an_operator_without_an_adjoint_gets_a_sentence():
    with pytest.raises(TypeError, match="without an adjoint: give it rmatvec"):
        check_adjoint(LinearOperator((3, 2), matvec=lambda x: np.ones(3), dtype=float))


def test_a_large_operator_is_tested_without_its_matrix():
    """10^12 entries: only the dot test and the columns."""
    check_adjoint(Conv2d(np.ones((3, 3)), (1000, 1000), padding=1), trials=1, rng=1)


def test_the_seed_makes_the_check_repeatable():
    broken = Broken(MATRIX, rmatvec=lambda y: 2 * MATRIX.T @ y)
    assert message(broken) == message(broken)
    seen = []
    recorder = Broken(MATRIX, matmat=lambda X: seen.append(X.copy()) or MATRIX @ X)
    check_adjoint(recorder, rng=np.random.default_rng(5), trials=3)
    assert seen[0].shape == (7, 3)
    check_adjoint(recorder, rng=5, trials=3)
    np.testing.assert_array_equal(seen[0], seen[len(seen) // 2])


def test_complex_operators_are_tested_with_complex_vectors():
    seen = []
    check_adjoint(Broken(COMPLEX, matmat=lambda X: seen.append(X) or COMPLEX @ X), rng=1)
    assert np.abs(seen[0].imag).min() > 0
