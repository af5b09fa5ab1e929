"""The engine room: the methods, the planner, and the threads."""

import itertools
import math
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st

from convmat import Conv1d, Conv2d, Conv3d
from convmat.geometry import conv_geometry
from convmat.products import CHOSEN_FROM, METHODS, Products, plan, separable_rank, threads, usable
from convmat.products import fft as fft_module
from convmat.products.separable import separate
from convmat.products.threads import VARIABLE, Pool, Scratch, _helpers, cpu_quota, workers
from tests.strategies import CONV

LAYERS = {
    "many bands": (Conv2d, (1, 1, 5, 5), (300, 257), {"stride": 2, "padding": 2}),
    "many bands, folded": (Conv2d, (1, 1, 9, 9), (260, 190), {"padding": 4, "padding_mode": "reflect"}),
    "many bands, circular": (Conv2d, (2, 1, 7, 7), (200, 180), {"padding": 3, "groups": 2, "padding_mode": "circular"}),
    "cropped": (Conv2d, (3, 2, 3, 3), (90, 110), {"padding": ((-2, 3), (4, -5)), "padding_mode": "replicate"}),
    "cropped, zeros": (Conv2d, (3, 2, 3, 4), (90, 110), {"padding": ((-2, 3), (4, -5))}),
    "cropped, strided": (Conv2d, (1, 1, 5, 4), (90, 110), {"padding": ((-3, -2), (6, -5)), "stride": (2, 3)}),
    "cropped rows": (Conv2d, (1, 1, 5, 4), (90, 110), {"padding": ((-3, -2), (6, 5)), "padding_mode": "reflect"}),
    "many channels": (Conv2d, (24, 20, 3, 3), (40, 37), {"padding": 1, "stride": 2}),
    "many large kernels": (Conv2d, (9, 8, 15, 15), (64, 61), {"padding": "same", "padding_mode": "symmetric"}),
    "long stride": (Conv2d, (1, 1, 31, 31), (220, 250), {"stride": 4}),
    "stride of no block": (Conv2d, (1, 1, 3, 7), (9, 611), {"stride": (1, 5), "padding": 3}),
    "dilated": (Conv2d, (2, 2, 5, 4), (80, 90), {"stride": (2, 3), "dilation": (3, 2), "padding": 6}),
    "far taps": (Conv2d, (1, 1, 2, 2), (9, 300), {"dilation": (1, 100), "padding": ((0, 0), (0, 100))}),
    "far taps, replicated": (
        Conv2d,
        (1, 1, 2, 2),
        (9, 300),
        {"dilation": (1, 100), "padding": ((0, 0), (0, 100)), "padding_mode": "replicate"},
    ),
    "volume": (Conv3d, (3, 2, 3, 3, 3), (14, 20, 18), {"stride": (2, 1, 2), "padding": 1, "padding_mode": "circular"}),
    "signal": (Conv1d, (2, 3, 21), (5000,), {"stride": 3, "padding": 10, "padding_mode": "reflect"}),
    "long signal": (Conv1d, (1, 1, 9), (70001,), {"padding": "full"}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("method", [m for m in usable() if m != "matrix"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_method_agrees_with_the_matrix_on_images_of_many_pieces(layer, method, dtype):
    kind, shape, size, options = LAYERS[layer]
    if method == "separable" and layer in ("many channels", "many large kernels"):
        pytest.skip("hundreds of separable terms: right, but slow, and covered by the small layers")
    rng = np.random.default_rng(7)
    weight, bound = _random(rng, shape, dtype), 1e-13 if np.finfo(dtype).eps < 1e-10 else 1e-5
    A, matrix = kind(weight, size, method=method, **options), kind(weight, size, **options).tosparse()
    x, y = _random(rng, A.input_shape, dtype), _random(rng, A.output_shape, dtype)
    for got, expected in ((A @ x.ravel(), matrix @ x.ravel()), (A.T @ y.ravel(), matrix.T @ y.ravel())):
        assert got.dtype == dtype
        assert np.abs(got - expected).max() <= bound * np.abs(expected).max()


def _random(rng, shape, dtype):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


@pytest.mark.parametrize("method", usable())
@pytest.mark.parametrize("layer", LAYERS)
def test_no_result_holds_memory_that_was_never_written(monkeypatch, layer, method):
    kind, shape, size, options = LAYERS[layer]
    if method == "separable" and layer in ("many channels", "many large kernels"):
        pytest.skip("hundreds of separable terms: slow")
    empty, array = np.empty, Scratch.array

    def poisoned(values):
        if values.dtype.kind in "fc":
            values.fill(np.nan)
        return values

    monkeypatch.setattr(np, "empty", lambda *args, **more: poisoned(empty(*args, **more)))
    monkeypatch.setattr(Scratch, "array", lambda *args: poisoned(array(*args)))
    A = kind(np.random.default_rng(7).standard_normal(shape), size, method=method, **options)
    for B in (A, A.T):
        assert np.isfinite(B @ np.ones(B.shape[1])).all()


COLUMNS = {
    "plain": {},
    "dilated": {"dilation": (1, 3)},
    "dilated, strided": {"dilation": (1, 3), "stride": (1, 2), "padding": (0, 4)},
    "fewer taps than the stride": {"stride": (1, 4)},
    "rows that nothing reads": {"stride": (4, 1), "dilation": (2, 1), "padding": (1, 0)},
    "cropped": {"padding": ((0, 0), (-3, -2))},
    "cropped on the left": {"padding": ((0, 0), (-3, 0))},
    "cropped on the right": {"padding": ((0, 0), (0, -2))},
    "a border of rows": {"padding": ((3, 2), (0, 0)), "padding_mode": "reflect"},
    "a border of columns": {"padding": ((0, 0), (0, 4)), "padding_mode": "circular"},
}


@pytest.mark.parametrize("channels", [(1, 1), (1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("method", [m for m in usable() if m != "matrix"])
@pytest.mark.parametrize("columns", COLUMNS)
def test_every_method_reads_columns_of_any_kind(columns, method, channels):
    rng = np.random.default_rng(0)
    A = Conv2d(rng.standard_normal((*channels, 4, 3)), (40, 31), method=method, **COLUMNS[columns])
    x, y = rng.standard_normal(A.shape[1]), rng.standard_normal(A.shape[0])
    matrix = A.tosparse()
    np.testing.assert_allclose(A @ x, matrix @ x, atol=1e-12)
    np.testing.assert_allclose(A.T @ y, matrix.T @ y, atol=1e-12)


@pytest.mark.parametrize("side", [8, 11, 20])
def test_fft_tiles_of_any_size_give_the_same(monkeypatch, side):
    monkeypatch.setattr(fft_module, "TILE_SIDE", {2: side})
    rng = np.random.default_rng(0)
    A = Conv2d(
        rng.standard_normal((3, 2, 4, 5)), (43, 51), stride=(2, 1), padding=2, padding_mode="reflect", method="fft"
    )
    x, y = rng.standard_normal(A.shape[1]), rng.standard_normal(A.shape[0])
    matrix = A.tosparse()
    np.testing.assert_allclose(A @ x, matrix @ x, atol=1e-12)
    np.testing.assert_allclose(A.T @ y, matrix.T @ y, atol=1e-12)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_separate_finds_terms_that_sum_to_the_kernel(rank, rows, cols, complex_):
    rng = np.random.default_rng(rank)
    terms = [rng.standard_normal((2, 4 + rows + cols)) + 1j * complex_ * rng.standard_normal((2, 4 + rows + cols))
             for _ in range(rank)]  # fmt: skip
    kernel = sum(np.outer(a[: 3 + rows], b[: 3 + cols]) for a, b in terms)
    kernel = kernel if complex_ else kernel.real
    found = separate(kernel)
    assert len(found) == min(rank, *kernel.shape)
    np.testing.assert_allclose(sum(np.outer(a, b) for a, b in found), kernel, atol=1e-14 * np.abs(kernel).max() * 10)


def test_separable_joins_blocks_at_equal_distances_alone():
    # the blocks of the columns are equal: some read the first sample alone, those after them the last
    rng = np.random.default_rng(0)
    options = {"padding": ((1, 1), (127, 129)), "padding_mode": "replicate"}
    A = Conv2d(rng.standard_normal((2, 1)), (5, 2), method="separable", **options)
    x, y = rng.standard_normal(A.shape[1]), rng.standard_normal(A.shape[0])
    np.testing.assert_allclose(A @ x, A.tosparse() @ x, atol=1e-12)
    np.testing.assert_allclose(A.T @ y, A.tosparse().T @ y, atol=1e-11)


def test_a_zero_kernel_has_no_separable_terms_and_the_zero_product():
    A = Conv2d(np.zeros((3, 3)), (8, 8), method="separable")
    assert separable_rank(A.geometry, A.weight) == 0
    np.testing.assert_array_equal(A @ np.ones(64), np.zeros(36))
    np.testing.assert_array_equal(A.T @ np.ones(36), np.zeros(64))


def test_auto_sees_that_a_gaussian_is_separable_and_a_random_kernel_is_not():
    line = np.exp(-0.5 * np.arange(-7, 8) ** 2 / 9)
    random = np.random.default_rng(0).standard_normal((31, 31))
    assert Conv2d(np.outer(line, line), (512, 512), padding=7).method == "separable"
    assert Conv2d(random, (512, 512), padding=15).method == "fft"
    assert Conv2d(np.ones((3, 3)), (5, 5)).method == "matrix"
    assert Conv2d(random, (512, 512), padding=15, method="gemm").method == "gemm"


def test_auto_may_take_one_method_forward_and_another_for_the_transpose(monkeypatch):
    def expected(geometry, single, rank):
        return [plan.Estimate("gemm", 1.0, 3.0), plan.Estimate("fft", 2.0, 2.0)]

    monkeypatch.setattr(plan, "estimates", expected)
    A = Conv2d(np.ones((3, 3)), (6, 6))
    assert (A.method, A.T.method) == ("gemm", "fft")


def test_explain_names_every_method_with_its_cost_and_memory():
    A = Conv2d(np.ones((5, 5)), (64, 64))
    text = A.explain()
    for method in METHODS:
        assert method in text
    assert "the least expected cost" in text
    assert "MiB" in text
    assert "was asked for" in Conv2d(np.ones((5, 5)), (64, 64), method="fft").explain()
    assert "not finite" in Conv2d(np.full((2, 2), np.nan), (8, 8)).explain()
    assert A.T.explain() == text


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_the_planner_has_a_cost_for_every_method(method, transpose, itemsize):
    geometry = conv_geometry((4, 2, 5, 5), (40, 40), stride=2, groups=2)
    assert plan.cost(method, plan.Work(geometry, transpose, itemsize, 1)) > 0
    assert METHODS[method].work_bytes(geometry, itemsize) > 0


@pytest.mark.parametrize("method", METHODS)
def test_more_images_channels_and_taps_never_cost_less(method):
    def cost(shape, size, **options):
        geometry = conv_geometry(shape, size, padding="valid", **options)
        return [plan.cost(method, plan.Work(geometry, transpose, 8, 1)) for transpose in (False, True)]

    small = cost((4, 4, 5, 5), (60, 60))
    for large in (cost((4, 4, 5, 5), (240, 240)), cost((16, 16, 5, 5), (60, 60)), cost((4, 4, 9, 9), (120, 120))):
        assert all(more > less for more, less in zip(large, small, strict=True))


def test_a_pool_does_every_piece_once_and_raises_what_a_piece_raised():
    done, lock = [], threading.Lock()

    def task(scratch, piece):
        scratch.array("work", (piece + 1,), np.dtype(float))[:] = piece
        with lock:
            done.append(piece)

    Pool().run(task, [(i,) for i in range(100)], 4)
    assert sorted(done) == list(range(100))

    def failing(scratch, piece):
        raise ArithmeticError(f"piece {piece}")

    with pytest.raises(ArithmeticError, match="piece"):
        Pool().run(failing, [(1,), (2,)], 2)


def test_a_pool_does_not_wait_for_helpers_that_have_not_come():
    leave = threading.Event()
    blocked = [_helpers(max(1, workers() - 1)).submit(leave.wait) for _ in range(max(1, workers() - 1))]
    done = []
    try:
        Pool().run(lambda scratch, piece: done.append(threading.get_ident()), [(i,) for i in range(9)], 2)
    finally:
        leave.set()
    assert done == [threading.get_ident()] * 9
    assert all(future.result() for future in blocked)


@pytest.fixture
def company(monkeypatch):
    """Helpers are asked, whatever was learnt before."""
    monkeypatch.setattr(threads, "_company", threads._Company())


@pytest.mark.usefixtures("company")
def test_a_pool_returns_when_no_piece_is_under_way():
    begun, finished = threading.Barrier(2, timeout=60), []

    def task(scratch, piece):
        begun.wait()  # so that two threads have one each
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.05)
        finished.append(piece)

    Pool().run(task, [(0,), (1,)], 2)
    assert sorted(finished) == [0, 1]


def test_callers_that_waited_long_for_their_helpers_work_alone_for_a_while(monkeypatch):
    now, company = [100.0], threads._Company()
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])
    assert company.pays()
    company.learn(0.001, 0.001)  # as long as it worked: nothing unusual
    assert company.pays()
    company.learn(0.00001, 0.0004)  # a moment
    assert company.pays()
    pauses = []
    for _ in range(8):
        company.learn(0.001, 0.004)
        begin = now[0]
        while not company.pays():
            now[0] += 0.01
        pauses.append(now[0] - begin)
    assert pauses[0] < 0.2
    assert pauses == sorted(pauses)
    assert 1.9 < pauses[-1] < 2.1
    company.learn(0.001, 0.0)  # they are free again
    company.learn(0.001, 0.004)
    now[0] += 0.15
    assert company.pays()


def test_alone_a_caller_asks_no_helper(monkeypatch):
    monkeypatch.setattr(threads._company, "_alone_until", math.inf)
    seen = set()
    Pool().run(lambda scratch, piece: seen.add(threading.get_ident()), [(i,) for i in range(50)], 4)
    assert seen == {threading.get_ident()}


BLAS_THREADS = """
import threading
import numpy as np
import scipy.linalg
from threadpoolctl import ThreadpoolController
from convmat import Conv2d
from convmat.products.threads import Pool, blas_on_one_thread

libraries = ThreadpoolController().select(user_api="blas").lib_controllers
count = lambda: {library.get_num_threads() for library in libraries}
assert libraries
"""


def run_with_four_blas_threads(code):
    """In a process of its own: the number is one for the whole process."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "CONVMAT_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", BLAS_THREADS + code], env=environment, check=True)


def test_blas_has_one_thread_inside_products_and_what_it_had_outside():
    run_with_four_blas_threads("""
before, inside, matmul = count(), set(), np.matmul
assert before != {1}
def watched(*args, **options):
    inside.update(count())
    return matmul(*args, **options)
np.matmul = watched
x = np.ones((16, 48, 48))
for method, weight, groups in (
    ("gemm", np.ones((32, 16, 3, 3)), 1),
    ("separable", np.ones((16, 1, 3, 3)), 16),
):
    for stride in (1, 2):
        A = Conv2d(weight, (48, 48), padding=1, padding_mode="reflect", stride=stride, groups=groups, method=method)
        A.T.apply(A.apply(x))
        assert inside == {1}, (method, inside)
        assert count() == before
        inside.clear()

def fails(scratch, piece):
    inside.update(count())
    raise ArithmeticError
try:
    Pool().run(fails, [(1,), (2,)], 2)
except ArithmeticError:
    pass
assert inside == {1} and count() == before
""")


def test_blas_keeps_one_thread_until_the_last_of_several_products_is_done():
    run_with_four_blas_threads("""
before, entered, leave = count(), threading.Event(), threading.Event()
def hold():
    with blas_on_one_thread():
        entered.set()
        leave.wait()
thread = threading.Thread(target=hold)
with blas_on_one_thread():
    thread.start()
    entered.wait()
assert count() == {1}  # the first has left, the second has not
leave.set()
thread.join()
assert count() == before
""")


class OwnNumbers:
    """As a BLAS on OpenMP: every thread has a number of threads of its own."""

    threading_layer = "openmp"

    def __init__(self):
        self._numbers = threading.local()

    def get_num_threads(self):
        return getattr(self._numbers, "count", 4)

    def set_num_threads(self, count):
        self._numbers.count = count


@pytest.mark.usefixtures("company")
def test_where_each_thread_has_its_own_number_of_blas_threads_each_is_held_to_one(monkeypatch):
    library = OwnNumbers()
    monkeypatch.setattr(threads, "_libraries", lambda: (library,))
    begun, seen = threading.Barrier(2, timeout=60), {}

    def task(scratch, piece):
        begun.wait()
        seen[threading.get_ident()] = library.get_num_threads()

    Pool().run(task, [(0,), (1,)], 2)
    assert list(seen.values()) == [1, 1]
    assert library.get_num_threads() == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_products_work_in_a_forked_child_of_a_process_that_is_at_work():
    run_with_four_blas_threads("""
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork, in a process with threads
A = Conv2d(np.ones((9, 9)), (400, 400), method="fft")
x = np.ones((400, 400))
y, before = A.apply(x), count()
with blas_on_one_thread():
    child = os.fork()
    if child == 0:
        assert np.array_equal(A.apply(x), y)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert count() == before
""")


def test_the_number_of_threads_follows_the_variable_and_the_affinity(monkeypatch):
    monkeypatch.setenv(VARIABLE, "3")
    assert workers() == 3
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ValueError, match=VARIABLE):
            workers()
    monkeypatch.delenv(VARIABLE)
    if hasattr(os, "sched_getaffinity"):
        assert workers() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/", {}, math.inf),
        ("0::/", {"cpu.max": "nonsense"}, math.inf),
        ("0::/user/job", {"user/cpu.max": "50000 100000", "user/job/cpu.max": "400000 100000"}, 0.5),
        ("4:cpu,cpuacct:/a\n3:memory:/", {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu:/elsewhere", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    ],
)  # fmt: skip
def test_the_quota_is_that_of_the_control_groups(tmp_path, group, files, quota):
    for name, text in {"proc/self/cgroup": group, **{f"sys/fs/cgroup/{name}": t for name, t in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cpu_quota(tmp_path) == quota


def test_a_quota_limits_the_number_of_threads(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for quota, expected in ((math.inf, 8), (2.5, 3), (0.5, 1), (8.0, 8), (100.0, 8)):
        monkeypatch.setattr(threads, "cpu_quota", lambda quota=quota: quota)
        assert workers() == expected


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    rng = np.random.default_rng(0)
    for method, channels, stride in itertools.product(usable()[1:], (1, 3), (1, 2)):
        weight = rng.standard_normal((channels, channels, 7, 7))
        A = Conv2d(weight, (90, 130), stride=stride, padding=3, padding_mode="reflect", method=method)
        x, y = rng.standard_normal(A.shape[1]), rng.standard_normal(A.shape[0])
        results = []
        for count in ("1", "2", "5"):
            monkeypatch.setenv(VARIABLE, count)
            results.append((A @ x, A.T @ y))
        for forward, transpose in results[1:]:
            np.testing.assert_array_equal(forward, results[0][0])
            np.testing.assert_array_equal(transpose, results[0][1])


def outlier(shape, value, at, dtype):
    x = np.random.default_rng(0).standard_normal(shape)
    x[at] = value
    return x.astype(dtype)


@pytest.mark.parametrize("method", ["pointwise", *(m for m in CHOSEN_FROM["pointwise"] if m in usable())])
@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_methods_are_accurate_in_every_output_beside_an_outlier(method, stride):
    weight = np.random.default_rng(1).standard_normal((31, 31)).astype(np.float32)
    A = Conv2d(weight, (96, 96), padding=15, stride=stride, method=method)
    matrix = A.tosparse().astype(np.float64)
    for B, M in ((A, matrix), (A.T, matrix.T)):
        x = outlier(B.input_shape, 1e8, (20,) * 2, np.float32)
        exact, read = M @ x.ravel().astype(float), abs(M) @ abs(x).ravel().astype(float)
        assert np.all(abs(B.apply(x).ravel() - exact) <= weight.size * np.finfo(np.float32).eps * read)


@pytest.mark.parametrize("size", [(256, 256), (500, 300), (4000,), (40, 41, 42)])
def test_the_error_of_fft_is_within_its_bound_and_reaches_outputs_that_do_not_read_the_outlier(size):
    rng, eps = np.random.default_rng(2), np.finfo(np.float32).eps
    taps = (31,) * len(size) if len(size) < 3 else (7,) * 3
    weight = rng.standard_normal(taps).astype(np.float32)
    A = CONV[len(size)](weight, size, padding=3, method="fft")
    x = outlier(size, 1e8, (1,) * len(size), np.float32)
    exact = CONV[len(size)](weight.astype(float), size, padding=3, method="gemm").apply(x.astype(float))
    error = abs(A.apply(x) - exact)
    tile = math.prod(fft_module.tile_sides(A.geometry)[0])
    assert error.max() <= eps * math.log2(tile) * np.linalg.norm(weight) * np.linalg.norm(x)
    unread = error[tuple(slice(40, 60) for _ in size)]
    assert unread.size == 0 or unread.max() > 1e3 * eps * abs(weight).sum() * 5


def test_pointwise_takes_neither_fft_nor_separable_where_auto_does():
    k = np.hanning(33)[1:-1]
    for weight in (np.outer(k, k), np.outer(k, k) + np.random.default_rng(0).standard_normal((31, 31))):
        A = Conv2d(weight, (256, 256), padding=15)
        B = Conv2d(weight, (256, 256), padding=15, method="pointwise")
        assert A.method in ("fft", "separable")
        assert {B.method, B.T.method} <= set(CHOSEN_FROM["pointwise"])
        assert "accurate output by output" in B.explain()


@pytest.mark.parametrize("size", [10**11, 2**55, 2**61])
@pytest.mark.parametrize("options", [{}, {"stride": 3}, {"padding": 2, "padding_mode": "reflect"}])
def test_planning_takes_no_work_that_grows_with_the_image(monkeypatch, size, options):
    calls = []
    original = scipy.fft.next_fast_len
    monkeypatch.setattr(scipy.fft, "next_fast_len", lambda *a, **k: calls.append(a) or original(*a, **k))
    A = Conv1d(np.ones(5), size, **options)
    assert A.method in METHODS
    assert "A x by" in A.explain()
    assert len(calls) < 10_000
    assert Conv2d(np.ones((5, 5)), (2**30, 2**30), **options).T.method in METHODS


@pytest.mark.parametrize(
    ("needed", "reach", "kernels"), [(1, 0, 1), (100, 4, 1), (5000, 30, 3), (200, 199, 1), (7, 90, 64)]
)
def test_the_side_of_a_tile_has_the_fewest_samples_of_all_fast_sides(needed, reach, kernels):
    for dims in (1, 2, 3):
        samples = min(fft_module.TILE_SIDE[dims] ** dims, fft_module.KERNEL_SAMPLES / kernels)
        longest = max(round(samples ** (1 / dims)), 2 * reach + 8)
        fewest = -(-needed // max(1, longest - reach))
        most = scipy.fft.next_fast_len(-(-needed // fewest) + reach, real=True)
        cost = {
            side: -(-needed // (side - reach)) * side
            for side in range(reach + 1, most + 1)
            if scipy.fft.next_fast_len(side, real=True) == side
        }
        side = fft_module._tile_side(needed, reach, dims, kernels)
        assert side <= most
        shortest = scipy.fft.next_fast_len(-(-needed // min(needed, 2 * fewest + 1)) + reach, real=True)
        assert cost[side] == min(c for s, c in cost.items() if s >= shortest)


def test_plans_are_made_when_they_are_needed_and_once_per_dtype():
    products = Products(conv_geometry((3, 3), (40, 40)), np.ones((3, 3)), "gemm")
    assert not products._plans
    x = np.ones((1, 1, 40, 40))
    products.forward(x)
    first = dict(products._plans)
    products.forward(x)
    products.transpose(np.ones((1, 1, 38, 38)))
    products.forward(x + 0j)  # a real kernel acts on the two real parts
    assert products._plans == first


def test_importing_convmat_starts_no_thread():
    code = "import threading, convmat; print(threading.active_count())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1"
