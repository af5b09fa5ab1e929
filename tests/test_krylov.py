"""cgls, for arrays of numpy and of dask, against dense least squares."""

import numpy as np
import pytest

import convmat
from convmat import Conv1d, Conv2d, Separable, cgls, preconditioner, to_dask, vstack


def numbers(rng, shape, dtype=float):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def problem(dtype=np.float64, mode="reflect", seed=0):
    rng = np.random.default_rng(seed)
    A = Conv2d(numbers(rng, (2, 2, 3, 3), dtype), (11, 9), stride=2, padding=1, padding_mode=mode)
    return A, numbers(rng, A.output_shape, dtype)


def dense(A, y, damp):
    B = np.vstack([A.toarray().astype(np.result_type(A.dtype, float)), damp * np.eye(A.shape[1])])
    data = np.concatenate([y.ravel(), np.zeros(A.shape[1])])
    return np.linalg.lstsq(B, data, rcond=None)[0].reshape(A.input_shape)


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular", "symmetric"])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("damp", [0, 0.3])
def test_the_solution_is_that_of_dense_least_squares(mode, dtype, damp):
    A, y = problem(dtype, mode)  # without damp, the least of all solutions, as from lstsq
    x, info = cgls(A, y, damp=damp, rtol=1e-13)
    assert info.converged
    assert relative(x, dense(A, y, damp)) < 1e-10
    residual = y - A.apply(x)
    gradient = A.H.apply(residual) - damp**2 * x
    assert np.linalg.norm(gradient) <= 1e-12 * np.linalg.norm(A.H.apply(y))
    assert info.residual_norm == pytest.approx(np.linalg.norm(residual))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.complex64, 1e-4)])
def test_the_dtype_is_kept(dtype, tolerance):
    A, y = problem(dtype)
    x, _ = cgls(A, y, damp=0.5, rtol=1e-6)
    assert x.dtype == dtype
    assert relative(x, dense(A, y, 0.5)) < tolerance
    assert cgls(A, y.astype(complex), damp=0.5)[0].dtype == (np.complex128)


def test_a_ravelled_right_side_gives_a_ravelled_solution():
    A, y = problem()
    x, info = cgls(A, y, damp=0.2, rtol=1e-12)
    flat, same = cgls(A, y.ravel(), damp=0.2, rtol=1e-12)
    np.testing.assert_array_equal(flat, x.ravel())
    assert same == info


def test_a_start_at_the_solution_is_the_end():
    A, y = problem()
    x, info = cgls(A, y, damp=0.2, rtol=1e-12)
    again, at_once = cgls(A, y, damp=0.2, rtol=1e-10, x0=x)
    np.testing.assert_array_equal(again, x)
    assert at_once.iterations == 0 < info.iterations
    near, fewer = cgls(A, y, damp=0.2, rtol=1e-10, x0=x + 1e-6)
    assert 0 < fewer.iterations < info.iterations
    assert relative(near, x) < 1e-8


def test_a_preconditioner_changes_the_path_and_not_the_end():
    line = np.exp(-0.5 * np.arange(-3, 4) ** 2 / 2)
    A = Conv2d(np.outer(line, line) / line.sum() ** 2, (40, 40), padding=3, padding_mode="reflect")
    y = A.apply(np.random.default_rng(0).standard_normal((40, 40)))
    plain, slow = cgls(A, y, damp=0.01, rtol=1e-9)
    fast, quick = cgls(A, y, damp=0.01, rtol=1e-9, preconditioner=preconditioner(A, 0.01, kind="schwarz"))
    assert quick.converged
    assert quick.iterations < slow.iterations / 2
    assert relative(fast, plain) < 1e-5


def test_a_penalty_is_a_larger_stack():
    A, y = problem()
    R = Conv2d(np.array([[[[1.0, -1.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[1.0, -1.0]]]]), (11, 9))
    stack = vstack([A, 0.3 * R])
    x, _ = cgls(stack, np.concatenate([y.ravel(), np.zeros(R.shape[0])]), rtol=1e-12)
    B = np.vstack([A.toarray(), 0.3 * R.toarray()])
    expected = np.linalg.lstsq(B, np.concatenate([y.ravel(), np.zeros(R.shape[0])]), rcond=None)[0]
    assert relative(x.ravel(), expected) < 1e-6


def test_the_callback_sees_each_step_and_the_residual_falls():
    A, y = problem()
    seen = []
    x, info = cgls(A, y, damp=0.2, rtol=1e-10, callback=lambda x: seen.append(x.copy()))
    assert len(seen) == info.iterations
    np.testing.assert_array_equal(seen[-1], x)
    costs = [np.linalg.norm(y - A.apply(z)) ** 2 + 0.04 * np.linalg.norm(z) ** 2 for z in seen]
    assert (np.diff(costs) <= 1e-12 * costs[0]).all()


def test_maxiter_is_the_most_and_says_so():
    A, y = problem()
    _, info = cgls(A, y, rtol=1e-12, maxiter=3)
    assert (info.iterations, info.converged) == (3, False)
    assert info.relative_residual > 1e-12


def test_nothing_to_solve_is_solved_at_once():
    A, y = problem()
    x, info = cgls(A, 0 * y)
    assert not x.any()
    assert (info.iterations, info.converged, info.relative_residual) == (0, True, 0.0)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"damp": -1.0}, ValueError, "damp=-1.0 must be finite and not negative"),
        ({"damp": "a"}, TypeError, "damp='a' must be a real number"),
        ({"rtol": 1.0}, ValueError, "rtol=1.0 must be"),
        ({"maxiter": 0}, ValueError, "maxiter=0 must be at least 1"),
        ({"maxiter": 1.5}, TypeError, "maxiter=1.5 must be an integer"),
        ({"x0": np.zeros(3)}, ValueError, r"x0 has shape \(3,\): it must be \(2, 11, 9\), or \(198,\)"),
        ({"preconditioner": Conv1d([1.0], 3)}, ValueError, "preconditioner takes images"),
        ({"preconditioner": np.eye(3)}, TypeError, "preconditioner is a ndarray"),
        ({"store": "folder"}, ValueError, "store='folder' is for the vectors of dask arrays"),
    ],
)
def test_wrong_arguments_are_named(more, error, message):
    A, y = problem()
    with pytest.raises(error, match=message):
        cgls(A, y, **more)


def test_wrong_data_are_named():
    A, y = problem()
    with pytest.raises(ValueError, match=r"y has shape \(3,\)"):
        cgls(A, np.zeros(3))
    with pytest.raises(TypeError, match="y has dtype"):
        cgls(A, np.full(y.shape, "a"))
    with pytest.raises(TypeError, match="A is a csr_array"):
        cgls(A.tosparse(), y)
    y[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        cgls(A, y)


class TestDask:
    """The same on arrays of dask."""

    @pytest.fixture(autouse=True)
    def _dask(self):
        self.da = pytest.importorskip("dask.array")

    def test_the_solution_is_that_of_numpy(self):
        A, y = problem()
        x, info = cgls(A, y, damp=0.3, rtol=1e-12)
        for data in (self.da.from_array(y, chunks=(1, 4, 3)), self.da.from_array(y.ravel(), chunks=13)):
            found, same = cgls(to_dask(A), data, damp=0.3, rtol=1e-12)
            assert same.iterations == info.iterations
            assert found.shape == (A.input_shape if data.ndim == 3 else (A.shape[1],))
            assert relative(found.compute().reshape(x.shape), x) < 1e-10

    def test_a_start_and_patches_for_a_preconditioner(self):
        A, y = problem(mode="zeros")
        M = preconditioner(A, 0.3, kind="schwarz")
        x, info = cgls(A, y, damp=0.3, rtol=1e-10, preconditioner=M, x0=np.ones(A.input_shape))
        data = self.da.from_array(y, chunks=(2, 4, 3))
        found, same = cgls(
            to_dask(A), data, damp=0.3, rtol=1e-10, preconditioner=to_dask(M), x0=self.da.ones(A.input_shape)
        )
        assert same.iterations == info.iterations
        assert relative(found.compute(), x) < 1e-9

    @pytest.mark.parametrize("dtype", [np.float32, np.complex64])
    def test_single_precision_is_kept(self, dtype):
        A, y = problem(dtype)
        found, _ = cgls(to_dask(A), self.da.from_array(y, chunks=(1, 4, 3)), damp=0.5)
        assert found.dtype == dtype
        assert relative(found.compute(), cgls(A, y, damp=0.5)[0]) < 1e-4

    def test_the_graph_is_as_large_in_the_last_step_as_in_the_first(self):
        A, y = problem()
        sizes = []
        cgls(to_dask(A), self.da.from_array(y, chunks=(2, 3, 3)), damp=0.1, maxiter=6, rtol=0,
             callback=lambda x: sizes.append(len(x.dask.to_dict())))  # fmt: skip
        assert len(sizes) == 6
        assert len(set(sizes)) == 1

    def test_vectors_on_disk_give_the_same(self, tmp_path):
        A, y = problem()
        x, info = cgls(A, y, damp=0.3, rtol=1e-2)
        data = self.da.from_array(y, chunks=(2, 4, 3))
        found, same = cgls(to_dask(A), data, damp=0.3, rtol=1e-2, store=tmp_path / "vectors")
        assert same.iterations == info.iterations
        assert relative(found.compute(), x) < 1e-10
        assert {path.name[0] for path in (tmp_path / "vectors").iterdir()} == set("xrzpq")

    def test_operators_on_numpy_arrays_become_operators_on_blocks(self):
        A, y = problem()
        M = preconditioner(A, 0.3, kind="schwarz")
        x, _ = cgls(A, y, damp=0.3, rtol=1e-10, preconditioner=M)
        found, _ = cgls(A, self.da.from_array(y, chunks=(2, 4, 3)), damp=0.3, rtol=1e-10, preconditioner=M)
        assert relative(found.compute(), x) < 1e-9
        with pytest.raises(TypeError, match="cannot be cut into blocks"):
            cgls(Separable((2, 2), [np.eye(2), np.eye(2)]), self.da.ones((2, 2)))

    def test_what_is_not_finite_is_told(self):
        A, y = problem()
        y[0, 0, 0] = np.nan
        with pytest.raises(ValueError, match="not finite"):
            cgls(to_dask(A), self.da.from_array(y))


def test_normal_operators_and_patches_have_blocks():
    rng = np.random.default_rng(0)
    A = Conv2d(rng.standard_normal((5, 5)), (90, 80), stride=2, padding=2, padding_mode="reflect")
    x = rng.standard_normal((90, 80))
    box = np.s_[10:35, 50:80]
    for N in (convmat.normal(A, 0.2), preconditioner(A, 0.2, kind="schwarz")):
        operator, inputs = N.block(box)
        read = x[tuple(along for (along,) in inputs)]
        assert read.size < x.size / 2
        assert relative(operator.apply(read), N.apply(x)[box]) < 1e-12
    with pytest.raises(TypeError, match="kind 'circulant' has no blocks"):
        preconditioner(A, 0.2, kind="circulant").block(box)


@pytest.mark.slow
def test_a_large_image_is_solved_on_dask_as_in_memory():
    da = pytest.importorskip("dask.array")
    k = np.add.outer(np.arange(25.0), np.arange(25.0) ** 2)
    A = Conv2d(k / k.sum(), (8192, 8192), stride=4, padding=12, padding_mode="reflect")
    y = A.apply(np.random.default_rng(0).random((8192, 8192)))
    x, info = cgls(A, y, damp=0.01, rtol=0, maxiter=8)
    found, same = cgls(to_dask(A), da.from_array(y, chunks=512), damp=0.01, rtol=0, maxiter=8)
    assert (same.iterations, info.iterations) == (8, 8)
    assert np.abs(found.compute() - x).max() <= 1e-10 * np.abs(x).max()


def test_data_too_small_for_squares_are_refused_and_not_called_solved():
    A, y = problem()
    for factor in (1e-170, 1e-150):
        with pytest.raises(ValueError, match="range of doubles"):
            cgls(A, factor * y)
    x, info = cgls(A, 1e-100 * y, damp=0.3, rtol=1e-12)
    assert info.converged
    assert relative(1e100 * x, dense(A, y, 0.3)) < 1e-9


def test_a_preconditioner_that_is_not_positive_is_refused():
    A, y = problem()
    with pytest.raises(ValueError, match="preconditioner must be positive definite"):
        cgls(A, y, damp=0.3, preconditioner=-convmat.identity(A.input_shape))
