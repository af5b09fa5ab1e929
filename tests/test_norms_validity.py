"""`norm_bounds` of thousands of random layers and expressions encloses the largest singular value of the dense matrix.

Small matrices are decomposed, and the first bound that is close enough ends the search. So each layer is asked for
several times: as it is, and with all shortcuts switched off but one, so that every bound stands by itself.
"""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmat import Conv1d, norm_bounds
from convmat.products.threads import blas_on_one_thread
from convmat.spectrum import bounds, norms, torus
from tests import oracle
from tests.strategies import CONV, CONV_TRANSPOSE, layers, transposed_layers, tries
from tests.test_bounds import Doubles
from tests.test_modes import mixed

PLACES, ENTRIES = 1e-13, 16 * 2.0**-52
"""What the dense SVD may be off: a share of the largest singular value, and of the sum of all absolute weights, for the
entries of the matrix are sums, which may cancel. That is all that the bounds are allowed.
"""

CANCELLED = 1e-12
"""The same for a random expression, whose dense matrix is rounded at every node."""

EXPONENTS = {np.float64: 990, np.complex128: 990, np.float32: 100, np.complex64: 100}
"""The largest power of two that weights are multiplied by, up or down: 1e298 in double precision."""


# one bound at a time --------------------------------------------------------------------------------------------------


def no_upper_bound(*args):
    return replace(torus.torus_bound(*args), upper=math.inf)


NEVER = {
    "exact_bounds": lambda *args: None,
    "cholesky_bounds": lambda *args: None,
    "torus_bound": no_upper_bound,
    "completed_bound": lambda *args: math.inf,
    "channel_bound": lambda *args: math.inf,
    "schur_bounds": lambda *args: iter([math.inf]),
    "window_bounds": lambda conv, near, kernel, lower, rtol: (lower, math.inf),
}
"""The bounds of `convmat.spectrum.bounds`, each by what says nothing."""


def alone(name, **others):
    return {key: value for key, value in NEVER.items() if key != name} | others


SHORT = {"_PLENTY": 12, "_SPANS": 0.0}
"""Images are replaced by smaller ones as soon as they have some samples between their borders."""

ROUTES = {
    "as it is": {},
    "not dense": {"SMALL": 0},
    "kronecker": {key: value for key, value in NEVER.items() if key != "exact_bounds"}
    | {"SMALL": 0, "wave_bounds": lambda *args: None},
    "waves": {key: value for key, value in NEVER.items() if key != "exact_bounds"}
    | {"SMALL": 0, "kronecker_bounds": lambda *args: None},
    "torus": alone("torus_bound"),
    "completion": alone("completed_bound"),
    "channels": alone("channel_bound"),
    "schur": alone("schur_bounds"),
    "cholesky": alone("cholesky_bounds", torus_gap=lambda *args: math.inf, torus_work=lambda *args: math.inf),
    "cholesky of products of taps": alone(
        "cholesky_bounds", torus_gap=lambda *args: math.inf, torus_work=lambda *args: math.inf, _MANY_CHANNELS=0
    ),
    "windows": {key: NEVER[key] for key in ("exact_bounds", "torus_bound", "completed_bound", "channel_bound")} | SHORT,
    "windows of a torus": {key: NEVER[key] for key in ("exact_bounds", "window_bounds", "schur_bounds")} | SHORT,
}
"""Name -> what is put into `convmat.spectrum.bounds` for it."""


def bounds_by(route, A, rtol):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ROUTES[route].items():
            patch.setattr(bounds, name, value)
        return norm_bounds(A, rtol=rtol)


# layers ---------------------------------------------------------------------------------------------------------------


def normal(rng, shape, dtype):
    values = rng.standard_normal(shape)
    return values if np.dtype(dtype).kind != "c" else values + 1j * rng.standard_normal(shape)


def _outer(lines):
    product = lines[0]
    for line in lines[1:]:
        product = np.multiply.outer(product, line)
    return product


KINDS = {
    "normal": normal,
    "of one sign": lambda rng, shape, dtype: rng.uniform(0, 1, shape),
    "smooth": lambda rng, shape, dtype: 1 + 1e-3 * normal(rng, shape, dtype),
    "whole": lambda rng, shape, dtype: rng.integers(-1, 2, shape).astype(float),
    "of many sizes": lambda rng, shape, dtype: normal(rng, shape, dtype) * 10.0 ** rng.integers(-9, 1, shape),
    "of rank one": lambda rng, shape, dtype: _outer([normal(rng, (n,), dtype) for n in shape]),
}
"""What the weights are like."""


@st.composite
def cases(draw):
    """An operator of a convolution or its transpose, its dense matrix in double precision, and a power of two."""
    kind = draw(st.sampled_from(["one mode", "one mode", "long", "a mode for each axis", "transposed"]))
    if kind == "transposed":
        layer, inputs, extra, _ = draw(transposed_layers())
    elif kind == "long":
        layer = draw(layers(ndims=(1,)))
        layer = replace(layer, size=(draw(st.integers(max(layer.size[0], 20), 90)),))
    else:
        layer = draw(layers() if kind == "one mode" else mixed())
    rng, shape, dtype = layer.rng(), layer.weight.shape, layer.dtype.type
    weight = KINDS[draw(st.sampled_from(sorted(KINDS)))](rng, shape, dtype).astype(dtype)
    most = EXPONENTS[dtype]
    exponent = draw(st.sampled_from([0, 0, 0, -most, most, -most // 2, most // 3]))
    scaled = weight * dtype(2.0**exponent)
    wide = scaled.astype(np.result_type(dtype, np.float64)) * 2.0**-exponent  # of what is stored, subnormal or not
    if kind == "transposed":
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "flip")
        options = {name: getattr(layer, name) for name in names}
        A = CONV_TRANSPOSE[layer.ndim](scaled, inputs, output_padding=extra, **options)
        return A, oracle.dense_transpose(wide, inputs, extra=extra, **options), exponent
    A = CONV[layer.ndim](scaled, layer.size, **layer.options)
    dense = oracle.dense(wide, layer.size, **layer.options)
    return draw(st.sampled_from([A, A, A.T, A.H])), dense, exponent


@blas_on_one_thread()
def largest(dense):
    return float(np.linalg.norm(dense, 2))


def check(case, rtol, routes):
    A, dense, exponent = case
    truth = largest(dense)
    away = truth * PLACES + ENTRIES * float(np.abs(A.weight * A.weight.dtype.type(2.0**-exponent)).sum(dtype=float))
    for route in routes:
        lower, upper = (math.ldexp(bound, -exponent) for bound in bounds_by(route, A, rtol))
        assert lower <= truth + away, (route, rtol, lower, truth)
        assert truth <= upper + away, (route, rtol, upper, truth)


RTOLS = st.sampled_from([1e-2, 1e-2, 1e-6, 0.3])


@tries(60)
@given(cases(), RTOLS)
def test_every_bound_of_a_layer_is_one(case, rtol):
    check(case, rtol, ROUTES)


@pytest.mark.slow
@tries(5000, derandomize=False)
@given(cases(), RTOLS)
def test_every_bound_of_thousands_of_layers_is_one(case, rtol):
    check(case, rtol, ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_is_taken(route):
    """None of the bounds above is infinite on a layer that it is for."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((2, 2, 3, 3)), _outer([rng.standard_normal(n) for n in (2, 2, 3, 3)])]
    cases = [(W, (7, 6), mode) for W in weights for mode in ("zeros", "circular")]
    cases += [(weights[0][..., :1], (80, 1), "reflect")]
    found = [
        bounds_by(route, CONV[2](W, size, padding=tuple(k // 2 for k in W.shape[2:]), padding_mode=mode), 0.3)[1]
        for W, size, mode in cases
    ]
    assert min(found) < math.inf


def test_an_entry_that_cancels_is_enclosed():
    """All taps read one sample, and their exact sum is known."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        W = rng.standard_normal(9)
        W[8] = 1e-4 * rng.standard_normal() - W[:8].sum()
        lower, upper = norm_bounds(Conv1d(W, 1, padding=4, padding_mode="replicate"))
        assert Fraction(lower) <= abs(sum(map(Fraction, W.tolist()))) <= Fraction(upper)


# expressions ----------------------------------------------------------------------------------------------------------


def not_affordable(*args):
    return False


RULES = {
    "as it is": {},
    "by rules": {"CHEAP": -1},
    "by rules, without Cholesky": {"CHEAP": -1, "affordable": not_affordable},
    "by structure alone": {"CHEAP": -1, "affordable": not_affordable, "schur_test": lambda *args: iter([math.inf])},
    "by the Schur test": {"CHEAP": -1, "affordable": not_affordable, "_known": lambda A, rtol: (0.0, math.inf)},
    "by Cholesky": {"CHEAP": -1, "_known": lambda A, rtol: (0.0, math.inf), "_schur": lambda A, target: math.inf},
}
"""Name -> what is put into `convmat.spectrum.norms` for it."""


def check_expression(seed, rtol):
    A, dense = Doubles(seed).tree(seed % 5, Doubles(seed + 10**6).shape())
    truth = largest(dense)
    for rule, patches in RULES.items():
        with pytest.MonkeyPatch.context() as patch:
            for name, value in patches.items():
                patch.setattr(norms, name, value)
            patch.setattr(bounds, "SMALL", 0 if patches else bounds.SMALL)
            lower, upper = norm_bounds(A, rtol=rtol)
        assert lower <= truth * (1 + CANCELLED), (seed, rule, lower, truth)
        assert truth <= upper * (1 + CANCELLED), (seed, rule, upper, truth)


@pytest.mark.parametrize("seed", range(10**4, 10**4 + 30))
def test_every_bound_of_an_expression_is_one(seed):
    check_expression(seed, 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(2 * 10**4, 2 * 10**4 + 1000, 100))
def test_every_bound_of_a_thousand_expressions_is_one(start):
    for seed in range(start, start + 100):
        check_expression(seed, (1e-2, 1e-2, 1e-6, 0.3)[seed % 4])
