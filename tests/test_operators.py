"""The operators: products equal the matrix by every method, transposes and adjoints, dtypes, batches, and sharing."""

import concurrent.futures
import copy
import gc
import pickle
import tracemalloc
import weakref

import numpy as np
import pytest
import scipy
from hypothesis import given
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from convmat import Chain, Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, Diagonal, Pad, check_adjoint, normal, svd
from convmat.operators import ImageOperator
from convmat.products import usable
from tests import oracle
from tests.strategies import CONV, CONV_TRANSPOSE, integers, layers, transposed_layers, tries

EXACT = ("matrix", "gemm")
"""Methods that only add and multiply what the matrix does: on whole numbers they are bit-equal."""

each_method = pytest.mark.parametrize("method", [*usable(), "auto"])


def assert_equal(got, want, method):
    """Bit-equal for the exact methods, else to rounding, relative to the largest entry, and to that of one product."""
    assert got.shape == want.shape
    if method in EXACT:
        np.testing.assert_array_equal(got, want)
    else:
        rtol = 1e-13 if np.finfo(got.dtype).eps < 1e-10 else 1e-5
        np.testing.assert_allclose(got, want, rtol=0, atol=rtol * max(9 * 9, np.abs(want).max(initial=0)))


# --- random layers ------------------------------------------------------------------------------------------------


@each_method
@tries(400)
@given(layer=layers())
def test_apply_is_the_matrix_of_the_oracle_and_adjoint_its_conjugate_transpose(method, layer):
    A, dense, rng = layer.operator(method=method), layer.dense(), layer.rng()
    x, y = (integers(rng, (2, *shape), A.dtype) for shape in (A.input_shape, A.output_shape))
    forward = A.apply(x)
    assert forward.dtype == A.dtype
    assert_equal(forward.reshape(2, -1), x.reshape(2, -1) @ dense.T, method)
    assert_equal(A.T.apply(y).reshape(2, -1), y.reshape(2, -1) @ dense, method)
    assert_equal(A.H.apply(y).reshape(2, -1), y.reshape(2, -1) @ dense.conj(), method)


@each_method
@tries(150)
@given(layer=layers())
def test_matvec_rmatvec_matmat_rmatmat_are_products_with_the_dense_matrix(method, layer):
    A, dense, rng = layer.operator(method=method), layer.dense(), layer.rng()
    X, Y = integers(rng, (A.shape[1], 3), A.dtype), integers(rng, (A.shape[0], 3), A.dtype)
    for B, matrix, right, left in ((A, dense, X, Y), (A.T, dense.T, Y, X), (A.H, dense.conj().T, Y, X)):
        assert_equal(B.matmat(right), matrix @ right, method)
        assert_equal(B @ right, matrix @ right, method)
        assert_equal(B.rmatmat(left), matrix.conj().T @ left, method)
        for column in range(3):
            assert_equal(B.matvec(right[:, column]), matrix @ right[:, column], method)
            assert_equal(B.rmatvec(left[:, column]), matrix.conj().T @ left[:, column], method)
        assert_equal(B @ right[:, :1], matrix @ right[:, :1], method)


COMPLEX_WEIGHT = np.array([[1.0 + 2.0j, 3.0], [0.5, -1.0j]])
OPERATORS = {
    "convolution": Conv2d(np.arange(36.0).reshape(2, 2, 3, 3), (4, 5), stride=2, padding=1, padding_mode="reflect"),
    "transposed": ConvTranspose2d(COMPLEX_WEIGHT, (3, 2), stride=2),
    "adjoint": Conv2d(COMPLEX_WEIGHT, (3, 2)).H,
    "one sample": Conv1d([2.0], 1),
    "one output": Conv1d([2.0, 1.0], 2),
    "weights": Conv2d(COMPLEX_WEIGHT, (3, 2)).weight_operator(np.arange(6.0).reshape(3, 2)),
    "factor": Pad((3, 2), 1, padding_mode="circular"),
    "layer": Diagonal([[2.0], [3.0]], (2, 3)),
    "chain": Chain(Diagonal([2.0, 3.0, 4.0], 3), Conv1d([1.0, 2.0], 4)),
    "normal": normal(Conv2d(COMPLEX_WEIGHT, (3, 2)), 0.5),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_transpose_and_adjoint_is_an_operator_on_images(name):
    A = OPERATORS[name]
    dense = A @ np.eye(A.shape[1])
    for B, matrix, shapes in (
        (A.T, dense.T, (A.output_shape, A.input_shape)),
        (A.H, dense.conj().T, (A.output_shape, A.input_shape)),
        (A.H.T, dense.conj(), (A.input_shape, A.output_shape)),
        (A.T.H, dense.conj(), (A.input_shape, A.output_shape)),
        (A.H.H, dense, (A.input_shape, A.output_shape)),
        (A.T.T, dense, (A.input_shape, A.output_shape)),
    ):
        assert isinstance(B, ImageOperator)
        assert (B.input_shape, B.output_shape) == shapes
        x = integers(np.random.default_rng(0), (2, *B.input_shape), B.dtype)
        np.testing.assert_allclose(B.apply(x).reshape(2, -1), x.reshape(2, -1) @ matrix.T, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(B.toarray(), matrix, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(B.tosparse("csc").toarray(), matrix, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(pickle.loads(pickle.dumps(B)).apply(x), B.apply(x), rtol=1e-12, atol=1e-12)
        check_adjoint(B, rng=0)


BATCHES = tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18)


BY_VECTORS = svd(Conv1d([1.0, 2.0, 3.0], 6, stride=2, padding=1, padding_mode="circular"))
LINEAR = {**OPERATORS, "svd": BY_VECTORS.operator(), "pinv": BY_VECTORS.pinv()}


@pytest.mark.skipif(not BATCHES, reason="scipy before 1.18 has no batches")
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (1, 1), (0,)])
def test_matvec_takes_batches_of_vectors_and_matmat_and_at_batches_of_columns(name, batch):
    A = LINEAR[name]
    dense, rng = A @ np.eye(A.shape[1]), np.random.default_rng(0)
    for B, matrix in ((A, dense), (A.T, dense.T), (A.H, dense.conj().T), (A.H @ A, dense.conj().T @ dense)):
        (rows, cols), close = B.shape, {"rtol": 1e-12, "atol": 1e-12}
        x, y = integers(rng, (*batch, cols), A.dtype), integers(rng, (*batch, rows), A.dtype)
        X, Y = integers(rng, (*batch, cols, 4), A.dtype), integers(rng, (*batch, rows, 4), A.dtype)
        if x.shape != (cols, 1):  # a column, which scipy is about to refuse
            np.testing.assert_allclose(B.matvec(x), x @ matrix.T, **close)
        if y.shape != (rows, 1):
            np.testing.assert_allclose(B.rmatvec(y), y @ matrix.conj(), **close)
        np.testing.assert_allclose(B.matmat(X), matrix @ X, **close)
        np.testing.assert_allclose(B.rmatmat(Y), matrix.conj().T @ Y, **close)
        np.testing.assert_allclose(B @ X, matrix @ X, **close)


def test_at_names_apply_for_an_image_and_the_order_of_axes_for_channels_last():
    A = Conv2d(np.ones((4, 3, 3, 3)), (6, 5))
    image = np.ones((3, 6, 5))
    with pytest.raises(
        ValueError, match=r"shape \(3, 6, 5\), an image: .* use A.apply\(image\), or A @ image.ravel\(\)"
    ):
        A @ image
    with pytest.raises(ValueError, match=r"channels go first: image.transpose\(2, 0, 1\)"):
        A.apply(image.transpose(1, 2, 0))
    with pytest.raises(ValueError, match=r"channels go first: image.transpose\(0, 3, 1, 2\)"):
        A.apply(np.ones((7, 6, 5, 3)))
    with pytest.raises(ValueError, match=r"a vector goes to A @ image, or as image.reshape\(3, 6, 5\)"):
        A.apply(image.ravel())
    assert (A @ image.ravel()).shape == (A.shape[0],)
    square = Conv2d(np.ones((2, 2)), (3, 3))  # here an image is three columns of another length
    with pytest.raises(ValueError, match="an image"):
        square @ np.ones((3, 3))


def test_at_says_what_to_write_for_sparse_arrays_and_expressions():
    class Variable:
        pass

    A = Conv1d([1.0, 2.0], 5)
    with pytest.raises(TypeError, match=r"x is of type Variable.* A.tosparse\(\) @ x"):
        A @ Variable()
    with pytest.raises(TypeError, match=r"sparse csr_array: .* A.tosparse\(\) @ x"):
        A @ scipy.sparse.eye_array(5, format="csr")


@each_method
@tries(150)
@given(case=transposed_layers())
def test_transposed_operator_of_every_output_padding_is_what_stamping_the_kernel_gives(method, case):
    layer, inputs, extra, _ = case
    B = CONV_TRANSPOSE[layer.ndim](layer.weight, inputs, output_padding=extra, method=method, **layer.options)
    dense = oracle.dense_transpose(layer.weight, inputs, extra=extra, **layer.options).astype(B.dtype)
    rng = layer.rng()
    x, y = (integers(rng, (2, *shape), B.dtype) for shape in (B.input_shape, B.output_shape))
    assert_equal(B.apply(x).reshape(2, -1), x.reshape(2, -1) @ dense.T, method)
    assert_equal(B.H.apply(y).reshape(2, -1), y.reshape(2, -1) @ dense.conj(), method)


@each_method
@tries(40)
@given(layer=layers(ndims=(1, 2)))
def test_dot_test_passes_with_weights_that_are_no_integers(method, layer):
    rng = layer.rng()
    weight = rng.standard_normal(layer.weight.shape) * (1 + 2j if layer.dtype.kind == "c" else 1)
    A = CONV[layer.ndim](weight.astype(layer.dtype), layer.size, **layer.options, method=method)
    for B in (A, A.T, A.H):
        check_adjoint(B, rng=rng)


@tries(150)
@given(layers())
def test_pickle_and_copies_are_the_same_operator(layer):
    A = layer.operator(method="gemm")
    expected = layer.dense()
    x = integers(layer.rng(), A.input_shape)
    A @ x.ravel()
    for remake in (lambda op: pickle.loads(pickle.dumps(op)), copy.copy, copy.deepcopy):
        B, T = remake(A), remake(A.T)
        assert (type(B), type(T)) == (type(A), type(A.T))
        assert (B.geometry, B.method, B.dtype) == (A.geometry, "gemm", A.dtype)
        np.testing.assert_array_equal(B.toarray(), expected)
        np.testing.assert_array_equal(T.toarray(), expected.T)
        np.testing.assert_array_equal(B.apply(x), A.apply(x))


# --- transposes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_transpose_of_the_transpose_is_the_operator_itself(ndim):
    A = CONV[ndim](np.ones((3,) * ndim), (5,) * ndim, stride=2)
    assert type(A.T) is CONV_TRANSPOSE[ndim]
    assert A.T.T is A
    assert A.T is A.T
    B = CONV_TRANSPOSE[ndim](np.ones((3,) * ndim), (2,) * ndim, stride=2)
    assert type(B.T) is CONV[ndim]
    assert B.T.T is B


def test_transpose_outlives_the_name_of_its_operator():
    T = Conv1d([1.0, 2.0], 4).T
    gc.collect()
    assert T.T.T is T
    np.testing.assert_array_equal(T.toarray(), Conv1d([1.0, 2.0], 4).toarray().T)


def test_operators_are_freed_without_the_garbage_collector():
    gc.disable()
    try:
        A = Conv1d([1.0, 2.0], 4)
        A.T @ np.ones(3)
        gone = weakref.ref(A)
        del A
        assert gone() is None
    finally:
        gc.enable()


def test_adjoint_is_the_transpose_for_a_real_weight_and_conjugates_a_complex_one():
    A = Conv1d([1.0, 2.0], 4)
    assert A.H is A.T
    C = Conv1d([1.0 + 2j, 3j], 4)
    assert type(C.H) is ConvTranspose1d
    np.testing.assert_array_equal(C.H.weight, C.weight.conj())
    np.testing.assert_array_equal(C.H.toarray(), C.toarray().conj().T)
    np.testing.assert_array_equal(C.H.H.toarray(), C.toarray())
    assert C.adjoint().shape == C.transpose().shape == (4, 3)


def test_adjoint_keeps_the_method():
    for method in usable():
        assert Conv1d([1j, 2.0], 4, method=method).H.method == method
        assert Conv1d([1.0, 2.0], 4, method=method).T.method == method


def test_auto_resolves_to_a_method():
    assert Conv2d(np.ones((3, 3)), (5, 5)).method in usable()
    assert Conv2d(np.ones((3, 3)), (5, 5), method="gemm").method == "gemm"


@each_method
def test_adjointness_of_complex_products(method):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 2, 3, 2)) + 1j * rng.standard_normal((4, 2, 3, 2))
    A = Conv2d(weight, (6, 5), stride=(2, 1), padding=1, groups=2, padding_mode="reflect", method=method)
    x = rng.standard_normal(A.input_shape) + 1j * rng.standard_normal(A.input_shape)
    y = rng.standard_normal(A.output_shape) + 1j * rng.standard_normal(A.output_shape)
    assert np.vdot(y, A.apply(x)) == pytest.approx(np.vdot(A.H.apply(y), x), rel=1e-13)
    assert np.vdot(y.conj(), A.apply(x)) == pytest.approx(np.vdot(A.T.apply(y).conj(), x), rel=1e-13)
    assert np.vdot(y, A.apply(x)) != pytest.approx(np.vdot(A.T.apply(y), x), rel=1e-3)


# --- images ---------------------------------------------------------------------------------------------------------


@each_method
def test_any_leading_batch_axes(method):
    rng = np.random.default_rng(1)
    A = Conv2d(integers(rng, (3, 2, 3, 3)), (6, 5), padding=1, stride=2, padding_mode="circular", method=method)
    single = A.toarray()
    for B, dense in ((A, single), (A.T, single.T)):
        for batch in [(), (1,), (4,), (2, 3), (2, 1, 3), (0,), (2, 0)]:
            x = integers(rng, (*batch, *B.input_shape))
            y = B.apply(x)
            assert y.shape == (*batch, *B.output_shape)
            flat = x.reshape(-1, B.shape[1]) if x.size else np.zeros((0, B.shape[1]))
            assert_equal(y.reshape(len(flat), B.shape[0]), flat @ dense.T, method)


@each_method
def test_products_with_no_columns_are_empty(method):
    A = Conv1d([1.0, 2.0], 4, method=method)
    assert A.matmat(np.ones((4, 0))).shape == (3, 0)
    assert A.rmatmat(np.ones((3, 0))).shape == (4, 0)


def test_an_image_without_channels_has_no_channel_axis():
    A = Conv2d(np.ones((2, 2)), (4, 5))
    assert (A.input_shape, A.output_shape) == ((4, 5), (3, 4))
    assert A.apply(np.ones((7, 4, 5))).shape == (7, 3, 4)
    B = Conv2d(np.ones((1, 1, 2, 2)), (4, 5))
    assert (B.input_shape, B.output_shape) == ((1, 4, 5), (1, 3, 4))


OPERATOR_DTYPES = ("float32", "float64", "complex64", "complex128")
IMAGE_DTYPES = (*OPERATOR_DTYPES, "float16", "bool", "int8", "uint8", "int16", "int32", "int64", "uint64")


@each_method
@pytest.mark.parametrize("image", IMAGE_DTYPES)
@pytest.mark.parametrize("weight", OPERATOR_DTYPES)
def test_a_product_has_the_result_type_of_weight_and_image(weight, image, method):
    rng = np.random.default_rng(2)
    A = Conv1d(integers(rng, 3, weight), 7, padding=1, padding_mode="reflect", method=method)
    expected = np.result_type(np.dtype(weight), np.dtype(image))
    x = np.abs(integers(rng, 7)).astype(image)
    if x.dtype.kind == "c":
        x = x - x.dtype.type(1j) * np.arange(7, dtype=x.dtype)
    wide = A.toarray().astype(complex)
    results = [A.apply(x), A @ x, A.matvec(x), A.T.apply(x), A.H.apply(x), A.rmatvec(x), A.matmat(x[:, None])]
    references = [wide, wide, wide, wide.T, wide.conj().T, wide.conj().T, wide]
    for got, matrix in zip(results, references, strict=True):
        assert got.dtype == expected
        tolerance = 0 if method in EXACT else 1e-4 if np.finfo(expected).eps > 1e-10 else 1e-12
        np.testing.assert_allclose(got.ravel(), matrix @ x, rtol=0, atol=tolerance)


@each_method
def test_images_in_any_memory_layout(method):
    rng = np.random.default_rng(3)
    A = Conv2d(integers(rng, (2, 2, 3, 3)), (6, 5), padding=1, method=method)
    x = integers(rng, (4, 2, 6, 5))
    expected = A.apply(x)
    wide = np.repeat(np.repeat(x, 2, axis=0), 3, axis=-1)[::2, ..., ::3]
    layouts = [np.asfortranarray(x), wide, x[:, :, ::-1][:, :, ::-1], x.astype(">f8"), np.moveaxis(
        np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1), x.tolist()]  # fmt: skip
    for other in layouts:
        assert_equal(A.apply(other), expected, method)
    columns = np.asfortranarray(x.reshape(4, -1).T)
    assert_equal(A @ columns, expected.reshape(4, -1).T, method)
    assert_equal(A @ columns[:, ::2], expected.reshape(4, -1).T[:, ::2], method)
    assert_equal(A @ np.repeat(x[0].ravel(), 2)[::2], expected[0].ravel(), method)


@each_method
def test_a_read_only_memory_map_goes_in_and_is_left_alone(method, tmp_path):
    rng = np.random.default_rng(4)
    x = integers(rng, (3, 6, 5))
    x.tofile(tmp_path / "image.raw")
    mapped = np.memmap(tmp_path / "image.raw", dtype=np.float64, mode="r", shape=x.shape)
    A = Conv2d(integers(rng, (3, 3)), (6, 5), padding=1, padding_mode="symmetric", method=method)
    for B in (A, A.T):
        result = B.apply(mapped)
        assert_equal(np.asarray(result), B.apply(x), method)
        assert not isinstance(result, np.memmap)
    assert_equal(np.asarray(A @ mapped[0].ravel()), A @ x[0].ravel(), method)
    np.testing.assert_array_equal(mapped, x)


@each_method
def test_a_product_never_returns_or_changes_its_input(method):
    for A in (Conv1d([1.0], 5, method=method), Conv1d([1.0, 2.0, 1.0], 5, padding=1, method=method)):
        for B in (A, A.T, A.H):
            x = np.arange(5.0)
            x.flags.writeable = False
            for y in (B.apply(x), B @ x, B.rmatvec(x), B.matmat(x[:, None])):
                assert not np.shares_memory(x, y)
                assert y.flags.writeable


@each_method
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, complex(np.nan, 1)])
@pytest.mark.parametrize("mode", oracle.MODES)
def test_weights_that_are_not_finite_give_what_the_explicit_matrix_gives(method, value, mode):
    rng = np.random.default_rng(5)
    weight = integers(rng, (2, 2, 3), complex if isinstance(value, complex) else float)
    weight[1, 0, 2] = value
    A = Conv1d(weight, 6, padding=2, stride=2, padding_mode=mode, method=method)
    x, y = integers(rng, A.input_shape), integers(rng, A.output_shape)
    with np.errstate(invalid="ignore"):
        matrix = A.tosparse()
        assert not np.isfinite(matrix.data).all()
        np.testing.assert_array_equal(A @ x.ravel(), matrix @ x.ravel())
        np.testing.assert_array_equal(A.apply(x).ravel(), matrix @ x.ravel())
        np.testing.assert_array_equal(A.T @ y.ravel(), matrix.T @ y.ravel())
    if mode == "zeros":
        assert np.isfinite(A.apply(x)[0]).all()  # the channel whose weights are finite


# --- an operator is a value ------------------------------------------------------------------------------------------


def test_attributes_cannot_be_set():
    A = Conv1d([1.0, 2.0], 4)
    for B in (A, A.T, A.weight_operator(np.ones(4)), *A.factors()):
        for name in ("geometry", "shape", "dtype", "input_shape", "anything"):
            with pytest.raises(AttributeError):
                setattr(B, name, None)
    for name in ("weight", "method", "nnz"):
        with pytest.raises(AttributeError):
            setattr(A, name, None)


def test_weight_is_a_read_only_copy():
    weight = np.array([1.0, 2.0])
    A = Conv1d(weight, 4)
    weight[:] = 9
    np.testing.assert_array_equal(A.weight, [1.0, 2.0])
    for B in (A, A.T, A.H):
        with pytest.raises(ValueError, match="read-only"):
            B.weight[0] = 5


@pytest.mark.parametrize("remake", [lambda op: pickle.loads(pickle.dumps(op)), copy.deepcopy, copy.copy])
def test_weight_of_a_pickled_or_copied_operator_is_read_only_too(remake):
    A = Conv1d([1.0, 2.0], 4)
    for B in (A, A.T):
        assert not remake(B).weight.flags.writeable


def test_weight_keeps_the_shape_it_was_given():
    for shape, groups in (((4, 1, 3), 2), ((3,), 1)):
        A = Conv1d(integers(np.random.default_rng(0), shape), 5, groups=groups)
        assert A.weight.shape == A.T.weight.shape == shape


def test_a_matrix_from_an_operator_does_not_share_memory_with_it():
    A = Conv1d([1.0, 2.0], 4, method="matrix")
    A @ np.ones(4)
    A.tosparse().data[:] = 7
    A.T.tosparse("csc").data[:] = 7
    np.testing.assert_array_equal(A @ np.ones(4), [3.0] * 3)
    np.testing.assert_array_equal(A.weight, [1.0, 2.0])


def test_it_is_a_linear_operator_of_scipy():
    A = Conv2d(np.ones((2, 3, 3, 3)), (5, 5))
    for B in (A, A.T, A.H):
        assert isinstance(B, LinearOperator)
        assert aslinearoperator(B) is B
    assert A.shape == (18, 75)
    assert A.toarray().shape == A.shape
    assert isinstance(repr(A), str)
    assert "18" in repr(A)


@each_method
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_many_threads_share_one_operator(method, dtype):
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((4, 3, 3, 3)).astype(dtype)
    A = Conv2d(weight, (16, 17), padding=1, stride=2, padding_mode="reflect", method=method)
    images = [rng.standard_normal(A.input_shape).astype(dtype) for _ in range(16)]
    twin = Conv2d(weight, (16, 17), padding=1, stride=2, padding_mode="reflect", method=method)
    expected = [(twin.apply(x), twin.H.apply(twin.apply(x))) for x in images]

    def work(x):
        return A.apply(x), A.H.apply(A.apply(x))

    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for got, want in zip(pool.map(work, images), expected, strict=True):
                for a, b in zip(got, want, strict=True):
                    np.testing.assert_array_equal(a, b)


def test_the_first_products_of_many_threads_agree_on_one_transpose():
    A = Conv1d(np.ones(3), 50)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: A.T, range(64)))
    assert all(T.T is A for T in made)


# --- memory and size --------------------------------------------------------------------------------------------------


def test_work_memory_of_lowering_does_not_grow_with_the_windows():
    A = Conv2d(np.ones((4, 16, 5, 5)), (256, 256), padding=2, padding_mode="reflect", method="gemm")
    windows = 16 * 25 * 256**2 * 8  # 210 MB
    for B in (A, A.T):
        x = np.ones(B.input_shape)
        B.apply(x)
        tracemalloc.start()
        try:
            y = B.apply(x)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < y.nbytes + windows / 10


@each_method
def test_images_of_several_bands_are_bit_equal_to_the_matrix(method):
    """Large enough for the lowering to be cut into many bands, with a border that folds across them."""
    rng = np.random.default_rng(7)
    for mode in oracle.MODES:
        options = {"padding": ((30, 25), (7, 9)), "padding_mode": mode, "stride": (1, 2), "dilation": (3, 1)}
        A = Conv2d(integers(rng, (2, 3, 3, 3)), (150, 120), **options, method=method)
        matrix = A.tosparse()
        x, y = integers(rng, A.input_shape), integers(rng, A.output_shape)
        assert_equal(A @ x.ravel(), matrix @ x.ravel(), method)
        assert_equal(A.T @ y.ravel(), matrix.T @ y.ravel(), method)


def test_a_transposed_layer_is_not_the_inverse_but_haar_filters_are_orthogonal():
    haar = np.array([[[[1, 1], [1, 1]]], [[[1, -1], [1, -1]]], [[[1, 1], [-1, -1]]], [[[1, -1], [-1, 1]]]]) / 2
    A = Conv2d(haar, (8, 6), stride=2)
    np.testing.assert_array_equal((A.T @ A).matmat(np.eye(48)), np.eye(48))
    B = ConvTranspose2d(haar, (4, 3), stride=2)
    np.testing.assert_array_equal(B.toarray(), A.toarray().T)
    blur = Conv2d(np.ones((2, 2)), (8, 6), stride=2)
    assert not np.array_equal((blur.T @ blur).matmat(np.eye(48)), np.eye(48))
