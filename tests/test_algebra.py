"""Expressions of operators are operators on images, and equal to those of their matrices.

2,000 random ones with `pytest -m 'slow or not slow' tests/test_algebra.py`.
"""

import pickle

import numpy as np
import pytest

import convmat
from convmat.operators import ImageOperator
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
