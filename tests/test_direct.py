"""The compiled direct product: what it must keep, however the work is cut and whatever it runs on."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given

from convmat import Conv1d, Conv2d, ConvTranspose2d
from convmat.geometry import conv_geometry
from convmat.products import direct
from convmat.products.direct import Direct
from tests.strategies import integers, layers, tries

needs_numba = pytest.mark.skipif(not direct.installed(), reason="needs numba")


def run(code: str, **environment: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WITHOUT = """
import importlib.util, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(name)
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "numba" else found(name, package)
sys.meta_path.insert(0, Absent())
import numpy as np
from convmat import Conv2d
"""


def test_without_numba_everything_else_works_and_explain_says_what_the_extra_brings():
    code = WITHOUT + "A = Conv2d(np.ones((3, 3)), (64, 64), padding=1); print(A.method, (A @ np.ones(4096)).sum())"
    method, total = run(code).split()
    assert method in ("matrix", "gemm")
    assert float(total) == 62**2 * 9 + 4 * 62 * 6 + 4 * 4
    text = run(WITHOUT + "print(Conv2d(np.ones((3, 3)), (64, 64), padding=1).explain())")
    assert "pip install 'convmat[fast]'" in text
    code = WITHOUT + "try: Conv2d(np.ones((3, 3)), (8, 8), method='direct')\nexcept ImportError as e: print(e.name, e)"
    assert run(code).split(maxsplit=1) == [
        "numba",
        "method='direct' needs numba: install the extra `fast`, pip install 'convmat[fast]'\n",
    ]


@needs_numba
def test_numba_is_imported_by_the_first_product_that_needs_it():
    code = (
        "import sys, numpy as np; from convmat import Conv2d; A = Conv2d(np.ones((3, 3)), (300, 300)); A.explain(); "
        "A.method; print('numba' in sys.modules); A @ np.ones(90000); print('numba' in sys.modules, A.method)"
    )
    assert run(code).split() == ["False", "True", "direct"]


def wild(layer, dtype, size):
    """Numbers among which some are not finite.

    No infinity where a border reads a sample through several taps: the matrix has their sum as one entry, and
    inf (1 - 2) is not inf - 2 inf.
    """
    rng = layer.rng()
    values = rng.standard_normal(size).astype(dtype)
    kinds = [np.nan, np.inf, -np.inf] if layer.padding_mode == "zeros" else [np.nan]
    values[rng.integers(0, size, 3)] = rng.choice(kinds, 3)
    return values


@needs_numba
@tries(150)
@given(layers())
def test_what_is_not_finite_spreads_exactly_as_in_the_matrix(layer):
    A = layer.operator(method="direct")
    matrix = A.tosparse()
    for B, M in ((A, matrix), (A.T, matrix.T)):
        x = wild(layer, A.dtype, B.shape[1])
        with np.errstate(invalid="ignore"):
            got, expected = B @ x, M @ x
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        np.testing.assert_array_equal(np.isposinf(got.real), np.isposinf(expected.real))


@needs_numba
@pytest.mark.parametrize("short", [0, 30, 2**20], ids=["line by line", "some joined", "all axes joined"])
@tries(200)
@given(layer=layers())
def test_lines_may_be_joined_or_not(short, layer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "SHORT", short)
        A = layer.operator(method="direct")
        dense = layer.dense()
        for B, M in ((A, dense), (A.T, dense.T)):
            u = integers(layer.rng(), (M.shape[1],), layer.dtype)
            np.testing.assert_array_equal(B @ u, M @ u)


@needs_numba
def test_pointwise_layers_are_one_line_and_volumes_of_short_lines_one_plane():
    W = np.ones((2, 3, 1, 1))
    axes, line = direct.layout(conv_geometry(W.shape, (40, 50)), False, 8)
    assert (axes, line.result) == ([], 2000)
    axes, line = direct.layout(conv_geometry((2, 3, 3, 3, 3), (5, 2, 2), padding=1), True, 4)
    assert (axes, line.source, line.taps) == ([], 5 * 2 * 2, 27)
    axes, line = direct.layout(conv_geometry((2, 3, 3, 3), (40, 50)), False, 8)
    assert (len(axes), line.result) == (1, 48)
    assert line.count * 8 > direct.SHORT


LAYERS = {
    "filter": ((1, 1, 5, 5), (150, 171), {"padding": 2, "padding_mode": "reflect"}),
    "strided": ((1, 1, 5, 4), (150, 171), {"stride": (2, 3), "padding": 2, "padding_mode": "circular"}),
    "channels": ((19, 6, 3, 3), (40, 37), {"stride": 2, "padding": 1}),
    "depthwise": ((8, 1, 3, 3), (61, 300), {"padding": 1, "groups": 8}),
    "far apart": ((2, 2, 3, 2), (30, 500), {"dilation": (2, 90), "padding": ((3, 1), (100, 0))}),
}


@needs_numba
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("name", LAYERS)
def test_no_bit_depends_on_how_the_work_is_cut_or_on_the_number_of_threads(monkeypatch, name, dtype):
    shape, size, options = LAYERS[name]
    rng = np.random.default_rng(3)
    A = Conv2d(rng.standard_normal(shape).astype(dtype), size, **options)
    x, y = (rng.standard_normal((2, *s)).astype(dtype) for s in (A.input_shape, A.output_shape))
    whole = Direct(A.geometry, A.weight)
    expected = whole.forward(x), whole.transpose(y)
    for threads, tile, narrow, lines in [("1", 1, 1, 1), ("3", 2**12, 16, 5), ("2", 2**30, 2**20, 2**20)]:
        monkeypatch.setenv("CONVMAT_NUM_THREADS", threads)
        monkeypatch.setattr(direct, "TILE_BYTES", tile)
        monkeypatch.setattr(direct, "CUT_BYTES", tile)
        monkeypatch.setattr(direct, "NARROW", narrow)
        monkeypatch.setattr(direct, "LINES", lines)
        monkeypatch.setattr(direct, "THREAD_WORK", 0)
        product = Direct(A.geometry, A.weight)
        np.testing.assert_array_equal(product.forward(x), expected[0])
        np.testing.assert_array_equal(product.transpose(y), expected[1])


CUT = """
import numpy as np
from convmat import Conv2d
from convmat.products import strips
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    for channels, groups in (((1, 1), 1), ((13, 5), 1), ((3, 1), 3)):
        A = Conv2d(rng.standard_normal((*channels, 3, 5)).astype(dtype), (19, 77), stride=(1, 2), padding=2,
                   groups=groups, padding_mode="reflect", method="direct")
        M = A.tosparse()
        for B, N in ((A, M), (A.T, M.T)):
            x = rng.standard_normal(B.shape[1]).astype(dtype)
            assert abs(B @ x - N @ x).max() <= (1e-5 if dtype == np.float32 else 1e-13) * abs(N @ x).max()
print(strips.lanes(4), sorted(strips.held().items()))
"""


@needs_numba
@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="processors of another kind")
@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("+avx2,+avx,+fma,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2", "8 [(1, 8), (2, 5), (4, 3)]"),
        ("+sse2", "4 [(1, 8), (2, 5), (4, 3)]"),
    ],
    ids=["AVX2", "SSE2"],
)
def test_processors_with_fewer_and_shorter_registers_give_the_same(tmp_path, features, expected):
    shorter = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    assert run(CUT, **shorter).strip() == expected


@needs_numba
def test_inputs_may_be_read_only_unaligned_and_in_any_order():
    rng = np.random.default_rng(0)
    A = Conv2d(rng.standard_normal((2, 3, 3, 3)), (9, 8), method="direct")
    x = rng.standard_normal((3, 9, 8))
    expected = A.tosparse() @ x.ravel()
    shifted = np.frombuffer(b"\0" + x.tobytes(), dtype=np.uint8)[1:].view(float).reshape(x.shape)
    assert not shifted.flags.aligned
    for image in (shifted, np.asfortranarray(x), x.astype(">f8"), x[::-1][::-1]):
        np.testing.assert_allclose(A.apply(image).ravel(), expected, rtol=1e-13)


@needs_numba
def test_a_kernel_longer_than_a_tile_and_a_border_wider_than_the_image():
    rng = np.random.default_rng(0)
    for A in (
        Conv1d(rng.standard_normal(40000), (50000,), padding="same", method="direct"),
        Conv2d(rng.standard_normal((2, 2)), (3, 4), padding=60, padding_mode="symmetric", method="direct"),
        ConvTranspose2d(rng.standard_normal((2, 3)), (4, 5), stride=(7, 9), method="direct"),
    ):
        x, y = rng.standard_normal(A.shape[1]), rng.standard_normal(A.shape[0])
        exact = type(A)(A.weight, A.input_shape, **_options(A), method="fft" if A.shape[0] > 10**4 else "matrix")
        for B, C, u in ((A, exact, x), (A.T, exact.T, y)):
            assert np.abs(B @ u - C @ u).max() <= 1e-12 * np.abs(C @ u).max()


def _options(A):
    g = A.geometry
    return {"stride": g.stride, "padding": g.padding, "padding_mode": g.padding_mode}


class Terminal:
    """A file that somebody reads."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_person_at_a_terminal_is_told_what_takes_long_and_nobody_else(monkeypatch, capsys):
    import time

    monkeypatch.setattr(direct, "PATIENCE", 0.01)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with direct.notice("compiling"):
        time.sleep(0.2)
    assert sys.stderr.text == "compiling\n"
    monkeypatch.setattr(direct, "PATIENCE", 60.0)
    with direct.notice("never said"):
        pass
    assert sys.stderr.text == "compiling\n"
    monkeypatch.undo()
    monkeypatch.setattr(direct, "PATIENCE", 0.0)
    with direct.notice("to nobody"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


@needs_numba
def test_a_folder_that_may_not_be_written_to_is_no_obstacle():
    code = """
import numba, numpy as np
njit = numba.njit
def refuse(*args, cache=False, **more):
    if cache:
        raise RuntimeError("cannot cache function: no locator available")
    return njit(*args, **more)
numba.njit = refuse
from convmat import Conv2d
print((Conv2d(np.ones((2, 2)), (3, 3), method="direct") @ np.ones(9)).tolist())
"""
    assert run(code).strip() == "[4.0, 4.0, 4.0, 4.0]"
