"""PyLops takes wrapped operators for its own: dot test, solvers, algebra, pyproximal."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from scipy.sparse.linalg import aslinearoperator, lsqr

import convmat
from convmat.interop.pylops import to_pylops
from tests import oracle
from tests.strategies import layers, tries
from tests.trees import Trees

pylops = pytest.importorskip("pylops")

ROOT = Path(convmat.__file__).parents[1]
PHOTO = np.random.default_rng(5).random((12, 14))


@pytest.fixture(autouse=True)
def _seeded():
    np.random.seed(0)  # noqa: NPY002  (the dot test of PyLops draws from it)


def normal(*shape):
    return np.random.default_rng(7).standard_normal(shape)


def camera(dtype="float64", mode="reflect", **more):
    """A 2-channel layer with stride 2, on (3, 12, 14)."""
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((2, 3, 3, 4))
    if np.dtype(dtype).kind == "c":
        weight = weight + 1j * rng.standard_normal(weight.shape)
    options = {"stride": (2, 1), "padding": ((1, 2), (0, 3)), "padding_mode": mode, **more}
    return convmat.Conv2d(weight.astype(dtype), (12, 14), **options)


def blur(mode="symmetric"):
    return convmat.Conv2d(np.outer([1.0, 3, 1], [1.0, 2, 1]) / 20, PHOTO.shape, padding=1, padding_mode=mode)


KINDS = {
    "Conv1d": convmat.Conv1d([[[1.0, -2, 0.5]]], 9, stride=2, padding=1),
    "Conv3d": convmat.Conv3d(normal(2, 3, 2), (4, 5, 6), dilation=(1, 2, 1)),
    "ConvTranspose2d": camera().T,
    "Pad": convmat.Pad((4, 5), ((1, 2), (3, -1)), padding_mode="circular", channels=2),
    "Crop": convmat.Crop(7, 2, padding_mode="reflect", dtype="float32"),
    "Downsample": convmat.Downsample((5, 6), 2),
    "Upsample": convmat.Upsample(5, 3, output_size=15),
    "Correlate": convmat.Correlate(normal(2, 2), (5, 5), flip=True),
    "weight": camera().weight_operator(normal(3, 12, 14)),
    "normal": convmat.normal(blur(), 0.1),
    "preconditioner": convmat.preconditioner(blur(), 0.1),
}


@pytest.mark.parametrize("mode", oracle.MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("transpose", [False, True], ids=["convolution", "transposed"])
def test_dottest_passes_under_every_padding_mode_and_dtype(mode, dtype, transpose):
    A = camera(dtype, mode)
    Op = to_pylops(A.T if transpose else A)
    single = np.finfo(dtype).eps > 1e-10
    for complexflag in range(4) if Op.dtype.kind == "c" else (0,):
        assert pylops.utils.dottest(Op, complexflag=complexflag, rtol=1e-2 if single else 1e-8)


@pytest.mark.parametrize("name", KINDS)
def test_dottest_passes_for_every_kind_of_operator(name):
    A = KINDS[name]
    Op = to_pylops(A)
    assert pylops.utils.dottest(Op, rtol=1e-3 if A.dtype == np.float32 else 1e-6)
    assert (Op.shape, Op.dtype, Op.dims, Op.dimsd) == (A.shape, A.dtype, A.input_shape, A.output_shape)


@tries(40)
@given(layers())
def test_products_matrices_and_adjoints_are_those_of_the_definition(layer):
    A, dense = layer.operator(), layer.dense()
    Op = to_pylops(A)
    tolerance = {"rtol": 0, "atol": (1e-4 if np.finfo(A.dtype).eps > 1e-10 else 1e-12) * max(1, np.abs(dense).max())}
    np.testing.assert_allclose(Op.todense(), dense, **tolerance)
    np.testing.assert_array_equal(Op.tosparse().toarray(), dense)
    np.testing.assert_allclose(Op.H.todense(), dense.conj().T, **tolerance)
    np.testing.assert_allclose(Op.T.todense(), dense.T, **tolerance)
    np.testing.assert_allclose(Op.conj().todense(), dense.conj(), **tolerance)
    assert Op.H.dims == A.output_shape
    assert Op.H.dimsd == A.input_shape


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_dtype_is_kept(dtype):
    Op = to_pylops(camera(dtype))
    x, y = np.ones(Op.dims, dtype), np.ones(Op.dimsd, dtype)
    results = (
        Op @ x,
        Op.H @ y,
        Op.matmat(np.ones((Op.shape[1], 2), dtype)),
        Op.rmatmat(np.ones((Op.shape[0], 2), dtype)),
    )
    assert {result.dtype for result in results} == {np.dtype(dtype)}


def test_images_go_in_and_come_out_in_their_shape_and_vectors_flat():
    A = camera()
    Op, x = to_pylops(A), normal(*A.input_shape)
    np.testing.assert_array_equal(Op @ x, A.apply(x))
    np.testing.assert_array_equal(Op @ x.ravel(), A.apply(x).ravel())
    columns = np.stack([x, 2 * x], axis=-1)  # PyLops has the columns last
    np.testing.assert_allclose(Op @ columns, np.stack([A.apply(x), 2 * A.apply(x)], axis=-1), rtol=1e-13)


def test_a_sparse_identity_gives_the_dense_matrix():
    A = convmat.Conv1d([1.0, 2, 3], 1100, stride=1)  # above a thousand columns PyLops multiplies a sparse identity
    np.testing.assert_array_equal(to_pylops(A).todense(), A.toarray())


@pytest.mark.parametrize("damp", [0.0, 0.3])
@pytest.mark.parametrize("solver", ["lsqr", "cgls"])
def test_solvers_of_pylops_find_the_solution_of_scipys_lsqr(solver, damp):
    A = blur()
    y = A.apply(PHOTO)
    want = lsqr(A.tosparse(), y.ravel(), damp=damp, atol=1e-14, btol=1e-14, conlim=0, iter_lim=5000)[0]
    solve = getattr(pylops.optimization.basic, solver)
    options = {"lsqr": {"atol": 1e-14, "btol": 1e-14, "conlim": 0}, "cgls": {"tol": 1e-28}}[solver]
    got = solve(to_pylops(A), y, x0=np.zeros(PHOTO.shape), damp=damp, niter=5000, **options)[0]
    assert got.shape == PHOTO.shape
    np.testing.assert_allclose(got.ravel(), want, rtol=0, atol=1e-6)


def test_the_slash_of_pylops_solves():
    A = blur()
    got = to_pylops(A).div(A.apply(PHOTO).ravel(), niter=1000)
    np.testing.assert_allclose(got, PHOTO.ravel(), atol=1e-4)


def test_composes_with_the_operators_of_pylops():
    A = camera()
    Op, S = to_pylops(A), A.tosparse()
    derivative = pylops.FirstDerivative(A.input_shape, axis=1)
    D = scipy.sparse.csr_array(derivative.tosparse())
    identity = pylops.Identity(*A.shape)
    product = Op * derivative
    assert product.dims == A.input_shape
    assert product.dimsd == A.output_shape
    cases = {
        "product": (product, S @ D),
        "scaled": (2 * Op, 2 * S),
        "sum": (Op + identity, S + scipy.sparse.eye_array(*A.shape)),
        "difference": (Op - Op, 0 * S),
        "normal": (Op.H * Op, S.T @ S),
        "vertical": (pylops.VStack([Op, 0.5 * derivative]), scipy.sparse.vstack([S, 0.5 * D])),
        "horizontal": (pylops.HStack([Op, Op]), scipy.sparse.hstack([S, S])),
        "block": (pylops.BlockDiag([Op, Op.H]), scipy.sparse.block_diag([S, S.T])),
        "two of ours": (to_pylops(A.T) * Op, S.T @ S),
        "unwrapped on the right": (to_pylops(A.T) * A, S.T @ S),
        "power": ((Op.H * Op) ** 2, S.T @ S @ S.T @ S),
    }
    for name, (got, want) in cases.items():
        assert pylops.utils.dottest(got), name
        assert got.shape == want.shape, name
        x = normal(want.shape[1])
        np.testing.assert_allclose(
            got.matvec(x), want @ x, rtol=0, atol=1e-10 * (1 + np.abs(want @ x).max()), err_msg=name
        )


def test_regularized_inversion_is_the_solution_of_the_stacked_matrix():
    A = convmat.Conv2d(blur().weight, PHOTO.shape, stride=2, padding=1, padding_mode="reflect")
    y, laplacian = A.apply(PHOTO), pylops.Laplacian(A.input_shape, edge=True)
    got = pylops.optimization.leastsquares.regularized_inversion(
        to_pylops(A), y.ravel(), [laplacian], epsRs=[0.2], iter_lim=2000, atol=1e-13, btol=1e-13
    )[0]
    stack = np.vstack([A.toarray(), 0.2 * laplacian.todense()])
    want = np.linalg.lstsq(stack, np.concatenate([y.ravel(), np.zeros(PHOTO.size)]), rcond=None)[0]
    np.testing.assert_allclose(got.ravel(), want, atol=1e-6)


def test_fista_finds_the_sparse_image():
    A = blur("zeros")
    points = np.zeros(PHOTO.shape)
    points[[2, 5, 9], [3, 10, 6]] = [1.0, 0.7, 1.5]
    eps = 1e-3
    got = pylops.optimization.sparsity.fista(to_pylops(A), A.apply(points).ravel(), niter=3000, eps=eps, tol=1e-12)[
        0
    ].reshape(points.shape)
    # FISTA of PyLops minimises |A x - y|^2 / 2 + eps |x|_1 / 2: the conditions of its minimum
    gradient = (A.T.apply(A.apply(got) - A.apply(points))) / (eps / 2)
    assert np.abs(gradient).max() < 1 + 1e-2
    np.testing.assert_allclose(gradient[got != 0], -np.sign(got[got != 0]), atol=1e-2)
    np.testing.assert_allclose(got, points, atol=0.05)


def test_pyproximal_deblurs_with_total_variation():
    pyproximal = pytest.importorskip("pyproximal")
    A = blur()
    step = np.where(np.arange(14) < 7, 0.2, 0.9) * np.ones((12, 1))
    y = A.apply(step) + 0.01 * np.random.default_rng(1).standard_normal(step.shape)
    Op = to_pylops(A)
    gradient = pylops.Gradient(dims=A.input_shape, edge=True, kind="forward")
    misfit = pyproximal.L2(Op=Op, b=y.ravel(), niter=50, warm=True)
    norm = pyproximal.L21(ndim=2, sigma=0.02)
    lipschitz = 8.0
    got = pyproximal.optimization.primaldual.PrimalDual(
        misfit, norm, gradient, tau=0.95 / lipschitz**0.5, mu=0.95 / lipschitz**0.5, x0=np.zeros(y.size), niter=200
    ).reshape(step.shape)
    assert np.linalg.norm(got - step) < 0.3 * np.linalg.norm(y - step)


def test_scipys_solvers_take_the_wrapped_operator():
    A = blur()
    y = A @ PHOTO.ravel()
    got = lsqr(aslinearoperator(to_pylops(A)), y, atol=1e-13, btol=1e-13, iter_lim=3000)[0]
    np.testing.assert_allclose(A @ got, y, atol=1e-8)


def test_check_adjoint_takes_the_wrapped_operator():
    convmat.check_adjoint(to_pylops(camera("complex128")))


def test_products_are_counted_as_pylops_counts():
    Op = to_pylops(blur())
    pylops.optimization.basic.cgls(Op, Op @ PHOTO, x0=np.zeros(PHOTO.shape), niter=3, tol=0)
    assert Op.matvec_count > 3
    assert Op.rmatvec_count >= 3


def test_pickles_to_an_equal_operator():
    A = camera("complex64")
    Op = pickle.loads(pickle.dumps(to_pylops(A)))
    assert (Op.dims, Op.dimsd, Op.dtype) == (A.input_shape, A.output_shape, A.dtype)
    assert Op.Op.geometry == A.geometry
    assert Op.Op.weight.tobytes() == A.weight.tobytes()


def test_prints_its_shape_and_dtype():
    assert repr(to_pylops(blur())) == "<168x168 ConvmatOperator with dtype=float64>"


@pytest.mark.parametrize("other", [np.eye(3), scipy.sparse.eye_array(3), aslinearoperator(np.eye(3)), "A"])
def test_what_is_not_an_operator_of_convmat_is_refused(other):
    with pytest.raises(TypeError, match="must be an operator of convmat"):
        to_pylops(other)


def test_without_pylops_the_error_names_the_extra(tmp_path):
    (tmp_path / "pylops.py").write_text('raise ModuleNotFoundError("No module named pylops", name="pylops")\n')
    code = (
        "import convmat\nfrom convmat.interop.pylops import to_pylops\n"
        "try:\n    to_pylops(convmat.Pad(3, 1))\nexcept ImportError as error:\n    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "to_pylops needs pylops: install the extra `pylops`, pip install 'convmat[pylops]'\n"


@pytest.mark.parametrize("seed", range(30))
def test_expressions_pass_the_dot_test_of_pylops(seed):
    trees = Trees(seed)
    A, dense = trees.tree(3, trees.shape())
    P = to_pylops(A)
    x = trees.numbers(A.shape[1], np.float64)
    tolerance = (1e-4 if trees.single else 1e-12) * max(1.0, np.abs(dense).max(initial=0))
    np.testing.assert_allclose(P @ x, dense @ x, rtol=0, atol=tolerance * A.shape[1])
    rtol = 1e-3 if np.finfo(A.dtype).eps > 1e-10 else 1e-6
    pylops.utils.dottest(P, *A.shape, complexflag=3 if A.dtype.kind == "c" else 0, rtol=rtol)
