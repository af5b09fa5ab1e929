"""Expressions of operators are operators on images, and equal to those of their matrices.

2,000 random ones with `pytest -m 'slow or not slow' tests/test_algebra.py`.
"""

import copy
import pickle
import re

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import convmat
from convmat.operators import ImageOperator
from convmat.operators.base import parts_of
from tests.trees import Trees

CHUNK = 50
SLOW = [pytest.param(chunk, marks=pytest.mark.slow) for chunk in range(10, 40)]


def close(found, wanted, single):
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    return found.shape == wanted.shape and np.abs(found - wanted).max(initial=0) <= (1e-4 if single else 1e-12) * scale


@pytest.mark.parametrize("chunk", [*range(10), *SLOW])
def test_random_expressions_equal_those_of_dense_matrices(chunk):
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        trees = Trees(seed)
        A, dense = trees.tree(int(trees.integer(1, 4)), trees.shape())
        assert isinstance(A, ImageOperator), seed
        x = trees.numbers((2, *A.input_shape))
        y = trees.numbers((*A.output_shape,))
        X = trees.numbers((A.shape[1], 3))
        single = trees.single
        assert A.shape == dense.shape
        images = (x.reshape(2, -1) @ dense.T).reshape(2, *A.output_shape)
        assert close(A.apply(x), images, single), (seed, "apply")
        assert A.apply(x).dtype == np.result_type(A.dtype, x), (seed, "dtype")
        assert close(A.T @ y.ravel(), dense.T @ y.ravel(), single), (seed, "T")
        assert close(A.H @ y.ravel(), dense.conj().T @ y.ravel(), single), (seed, "H")
        assert close(A.rmatvec(y.ravel()), dense.conj().T @ y.ravel(), single), (seed, "rmatvec")
        assert close(A @ X, dense @ X, single), (seed, "matmat")
        assert close(A.toarray(), dense, single), (seed, "toarray")
        assert close(A.T.toarray(), dense.T, single), (seed, "T.toarray")
        assert close(A.H.toarray(), dense.conj().T, single), (seed, "H.toarray")
        assert A.tosparse().dtype == A.T.dtype == A.H.dtype == A.dtype, (seed, "dtype of the matrix")
        assert A.tosparse().has_canonical_format, (seed, "canonical")
        again = pickle.loads(pickle.dumps(A))
        assert (again.dtype, again.input_shape, again.output_shape) == (A.dtype, A.input_shape, A.output_shape)
        assert close(again.apply(x), images, single), (seed, "pickle")
        short = convmat.simplify(A)
        assert (short.dtype, short.input_shape, short.output_shape) == (A.dtype, A.input_shape, A.output_shape), seed
        assert close(short.toarray(), dense, single), (seed, "simplify")
        assert close(short.apply(x), images, single), (seed, "simplify, apply")
        assert A.T.T is A, seed


def layer(*shape, dtype=np.float64, **options):
    weight = np.random.default_rng(len(shape)).standard_normal(shape)
    return convmat.Conv2d(weight.astype(dtype), (5, 4), padding=1, **options)


A, B = layer(3, 3, 3, 3), convmat.Conv2d(np.ones((3, 3, 1, 1)), (5, 4))


@pytest.mark.parametrize(
    ("number", "dtype"),
    [
        (2, np.float32), (0.5, np.float32), (True, np.float32), (np.int64(3), np.float32), (1j, np.complex64),
        (np.float32(0.1), np.float32), (np.float64(0.1), np.float64), (np.complex64(1j), np.complex64),
        (np.complex128(1j), np.complex128), (np.array(0.1), np.float64),
    ],
)  # fmt: skip
def test_python_numbers_keep_the_precision_of_an_operator_and_numpy_numbers_have_one(number, dtype):
    single = layer(3, 3, dtype=np.float32)
    product = number * single
    for multiple in (product, single * number, product.T.T, pickle.loads(pickle.dumps(product))):
        assert multiple.dtype == multiple.T.dtype == multiple.H.dtype == dtype
        np.testing.assert_allclose(multiple.toarray(), number * single.toarray().astype(np.float64), rtol=1e-6)
    wide = product @ np.ones(20)
    exact = number * (single.toarray().astype(np.float64) @ np.ones(20))
    np.testing.assert_allclose(wide, exact, rtol=1e-13, atol=1e-13)


def test_builtin_sum_adds_operators():
    assert np.array_equal(sum([A, B, A]).toarray(), (A + B + A).toarray())


def test_shapes_of_stacks_are_those_of_concatenate():
    row = convmat.Conv2d(np.ones((1, 4)), (5, 4))  # (5, 4) -> (5, 1)
    pairs = [([A, B], (6, 5, 4)), ([row, row], (10, 1)), ([row, convmat.identity((5, 4))], (25,))]
    for parts, shape in pairs:
        assert convmat.vstack(parts).output_shape == shape
        assert convmat.hstack([part.T for part in parts]).input_shape == shape
        assert convmat.block_diag(parts).output_shape == shape


def test_stacks_of_stacks_and_sums_of_sums_are_flat():
    assert len(convmat.vstack([convmat.vstack([A, B]), A]).parts()) == 3
    assert len(((A + B) + (B + A)).terms()) == 4
    assert len(((A @ B) @ (B @ A)).factors()) == 4


def test_image_shapes_that_differ_are_reshaped_between_the_factors():
    C = convmat.Conv2d(np.ones((3, 3)), (15, 4), padding=1)  # images (15, 4), where A gives (3, 5, 4)
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    np.testing.assert_allclose((C @ A).apply(x), C.apply(A.apply(x).reshape(2, 15, 4)), rtol=1e-13)
    assert (C @ A).input_shape == (3, 5, 4)
    assert (C + A).input_shape == (60,)


def test_with_foreign_operators_the_result_is_scipys():
    foreign = aslinearoperator(np.eye(60))
    for made in (A + foreign, foreign + A, A @ foreign, foreign @ A, A - foreign):
        assert isinstance(made, LinearOperator)
        assert not isinstance(made, ImageOperator)
    np.testing.assert_allclose((A + foreign) @ np.ones(60), A @ np.ones(60) + 1)


def test_matrix_of_a_sum_on_one_grid_is_built_once(monkeypatch):
    built = []
    build = convmat.matrix.sparse
    monkeypatch.setattr(convmat.operators.convolution.matrix, "sparse", lambda *a: built.append(a) or build(*a))
    total = (A + B).tosparse()
    assert len(built) == 1
    np.testing.assert_allclose(total.toarray(), A.toarray() + B.toarray(), rtol=1e-15)


@pytest.mark.parametrize(
    ("error", "words", "make"),
    [
        (ValueError, "takes images of shape (3, 5, 4), 60 entries, but B (Conv2d) gives (5, 4), 20",
         lambda: A @ layer(3, 3)),
        (ValueError, "term 1 (Conv2d) has shape", lambda: A + layer(2, 3, 3, 3)),
        (TypeError, "not by 'a'", lambda: "a" * A),
        (TypeError, "not by None", lambda: A / None),
        (ValueError, "1329 bits", lambda: 10**400 * A),
        (ZeroDivisionError, "A / 0", lambda: A / 0),
        (ValueError, "beyond the largest double", lambda: A / 1e-310),
        (ValueError, "a chain lists its factors", lambda: A ** 10**9),
        (ValueError, "must not be negative", lambda: A**-1),
        (TypeError, "must be an integer", lambda: A**0.5),
        (TypeError, "not a bool", lambda: A**True),
        (ValueError, "must be square", lambda: layer(2, 3, 3, 3) ** 2),
        (ValueError, "at least one block", lambda: convmat.vstack([])),
        (TypeError, "takes a list of operators", lambda: convmat.hstack(A)),
        (TypeError, "a block of a stack must be a convmat operator", lambda: convmat.block_diag([A, np.eye(3)])),
        (ValueError, "block 1 (Conv2d) has 60 columns, and block 0 (Conv2d) 20",
         lambda: convmat.vstack([layer(3, 3), A])),
        (ValueError, "they must be as many", lambda: convmat.hstack([A, layer(2, 3, 3, 3)])),
        (TypeError, "unsupported operand", lambda: A + 1),
        (TypeError, "unsupported operand", lambda: 1 + A),
    ],
)  # fmt: skip
def test_errors_say_what_does_not_fit(error, words, make):
    with pytest.raises(error, match=re.escape(words)):
        make()


LINES = [1.0, 2.0, 1.0]
KERNELS = {
    "separable": np.outer(LINES, LINES),
    "separable, complex": np.outer([1.0, 2j, 3.0], [3.0, 1.0 + 1j, 0.0]),
    "fft": np.arange(9.0).reshape(3, 3),
    "fft, complex": np.arange(9.0).reshape(3, 3) - 3j * np.eye(3),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_convolution_and_its_adjoint_are_one_product_where_that_costs_less(name, monkeypatch):
    method = name.partition(",")[0]
    conv = convmat.Conv2d(KERNELS[name], (12, 12), padding=1, padding_mode="circular", method=method)
    dense, x = conv.toarray(), np.random.default_rng(0).standard_normal(144)
    down, up = dense.conj().T @ (dense @ x), dense @ (dense.conj().T @ x)
    product = conv.H @ conv
    monkeypatch.setattr(convmat.products.Products, "forward", None)  # neither of the two may be called
    monkeypatch.setattr(convmat.products.Products, "transpose", None)
    np.testing.assert_allclose(product @ x, down, rtol=1e-12, atol=1e-12 * abs(down).max())
    np.testing.assert_allclose(pickle.loads(pickle.dumps(product)) @ x, down, rtol=1e-12, atol=1e-12 * abs(down).max())
    np.testing.assert_allclose((conv @ conv.H) @ x, up, rtol=1e-12, atol=1e-12 * abs(up).max())


@pytest.mark.parametrize("number", [3, np.float32(3), np.complex64(3j), np.float64(0.3), 10**30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_quotient_is_rounded_once_and_has_the_dtype_of_the_product(number, dtype):
    of = layer(3, 3, dtype=dtype)
    quotient = of / number
    assert quotient.dtype == (of * number).dtype
    exact = of.toarray().astype(np.complex128) / complex(number)
    np.testing.assert_allclose(quotient.toarray(), exact, rtol=2 * np.finfo(quotient.dtype).eps)


def test_a_multiple_of_a_multiple_is_one_however_often():
    step = A
    for _ in range(500):
        step = -1.001 * step
    assert step.of is A
    np.testing.assert_allclose(step.T @ np.ones(60), 1.001**500 * (A.T @ np.ones(60)), rtol=1e-10)
    assert 2 * (A / 2) is A


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_numbers_whose_product_leaves_the_dtype_stay_apart(dtype):
    of = convmat.Conv1d(np.array([1, 2], dtype), 3)
    with np.errstate(over="ignore", invalid="ignore"):
        for outer, inner in [(1e-300, 1e300), (1e300, 1e300), (0, 1e300), (0, np.inf), (1e-200, 1e-200)]:
            whole = (inner * of).toarray()
            np.testing.assert_array_equal((outer * (inner * of)).toarray()[0, :2], outer * whole[0, :2])


def test_powers_reshape_between_the_factors():
    A = convmat.Conv1d([1.0, 2.0], 5, padding=((0, 1),)) @ convmat.Rearrange((5, 1), 5)
    assert (A**3).input_shape == (5, 1)
    np.testing.assert_allclose((A**3).toarray(), np.linalg.matrix_power(A.toarray(), 3))


@pytest.mark.skipif(np.dtype(np.longdouble) == np.float64, reason="a longdouble is a double here")
def test_a_longdouble_is_refused_by_its_own_name():
    with pytest.raises(TypeError, match="the number has dtype"):
        np.longdouble(2) * A


class Reversed(ImageOperator):
    """As users write operators: two methods, and nothing of how it is stored."""

    def __init__(self):
        super().__init__(np.dtype(np.float64), (4,), (4,))

    def _forward(self, x):
        return x[:, ::-1]

    _backward = _forward


@pytest.mark.parametrize("made", [
    Reversed(), convmat.normal(layer(3, 3), 0.1), convmat.preconditioner(layer(3, 3), 0.1),
    convmat.svd(layer(3, 3)).operator(), convmat.svd(layer(3, 3)).pinv(), 2 * Reversed() @ Reversed().T,
])  # fmt: skip
def test_operators_without_a_recipe_of_their_own_are_pickled_and_copied(made):
    x = np.arange(float(made.shape[1]))
    for other in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert type(other) is type(made)
        np.testing.assert_array_equal(other @ x, made @ x)
        assert other.T.T is other


@pytest.mark.parametrize("made", [
    convmat.Separable((3, 5), [np.ones((2, 3)), sparse.eye_array(5)]), convmat.preconditioner(layer(3, 3), 0.1),
    convmat.preconditioner(layer(3, 3, padding_mode="circular"), 0.1), convmat.svd(layer(3, 3)).operator(),
    convmat.normal(layer(3, 3), 0.1),
])  # fmt: skip
def test_of_no_images_there_are_no_results(made):
    for operator in (made, made.T, 2 * made + made, convmat.vstack([made, made])):
        assert operator.apply(np.zeros((2, 0, *operator.input_shape))).shape == (2, 0, *operator.output_shape)


@pytest.mark.parametrize("made", [A @ B, convmat.normal(convmat.vstack([A, B]), 0.1)])
def test_parts_are_the_same_after_a_product(made):
    before = parts_of(made)
    made @ np.ones(60)
    assert parts_of(made) == before
