"""A padding mode of its own for each axis, in whatever has padding modes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convmat
from convmat import Conv2d, conv_matrix, conv_transpose_matrix
from convmat.cli import main
from convmat.products import usable
from convmat.spectrum.trees import same
from tests import oracle
from tests.strategies import CONV, axes, integers, layers, passes_the_dot_test, tries


@st.composite
def mixed(draw, ndims=(2, 3)):
    """A legal layer with a mode for each axis."""
    layer = draw(layers(ndims))
    modes = [draw(st.sampled_from(oracle.MODES)) for _ in range(layer.ndim)]
    size, taps, stride, dilation, padding = zip(*(draw(axes(mode, 8 - layer.ndim, 3)) for mode in modes), strict=True)
    weight = integers(layer.rng(), (*layer.weight.shape[: -layer.ndim], *taps), layer.weight.dtype)
    return dataclasses.replace(
        layer, weight=weight, size=size, stride=stride, dilation=dilation, padding=padding, padding_mode=tuple(modes)
    )


@tries(150)
@given(mixed())
def test_the_matrix_and_its_transpose_are_those_of_the_oracle(layer):
    dense = layer.dense()
    np.testing.assert_array_equal(layer.matrix().toarray(), dense)
    A = layer.operator()
    transposed = conv_transpose_matrix(layer.weight, layer.output_size, output_size=layer.size, **layer.options)
    np.testing.assert_array_equal(transposed.toarray(), dense.T)
    np.testing.assert_array_equal(A.T.toarray(), dense.T)
    one = set(layer.padding_mode)
    assert A.geometry.padding_mode == (one.pop() if len(one) == 1 else layer.padding_mode)


@pytest.mark.parametrize("method", usable())
@tries(40)
@given(layer=mixed())
def test_products_by_every_method_are_those_of_the_matrix(method, layer):
    A, rng = layer.operator(method=method), layer.rng()
    x, y = (integers(rng, shape, layer.dtype) for shape in (A.input_shape, A.output_shape))
    eps = 1e-4 if A.dtype in (np.float32, np.complex64) else 1e-11
    dense = layer.dense()
    np.testing.assert_allclose(A @ x.ravel(), dense @ x.ravel(), atol=eps * 2000, rtol=0)
    np.testing.assert_allclose(A.T @ y.ravel(), dense.T @ y.ravel(), atol=eps * 2000, rtol=0)


@tries(60)
@given(mixed(), st.data())
def test_blocks_are_parts_of_both_products(layer, data):
    A = layer.operator(method="gemm")
    for B in (A, A.T):
        box = []
        for size in B.output_shape:
            start = data.draw(st.integers(0, size - 1))
            box.append(slice(start, data.draw(st.integers(start + 1, size))))
        x = layer.rng().standard_normal(B.input_shape).astype(A.dtype)
        block = B.block(tuple(box))
        np.testing.assert_array_equal(block.operator.apply(block.read(x)), B.apply(x)[tuple(box)])


@tries(40)
@given(mixed((2,)))
def test_spectrum_bounds_and_solutions_are_those_of_the_dense_matrix(layer):
    dense = layer.dense().astype(np.result_type(layer.dtype, np.float64))
    A = CONV[2](layer.weight.astype(dense.dtype), layer.size, **layer.options)
    sigma = np.linalg.svd(dense, compute_uv=False)
    np.testing.assert_allclose(convmat.singular_values(A), sigma, atol=1e-11 * max(sigma[0], 1))
    lower, upper = convmat.norm_bounds(A)
    assert lower <= sigma[0] * (1 + 1e-12)
    assert sigma[0] <= upper * (1 + 1e-12)
    y = layer.rng().standard_normal(A.output_shape)
    x, info = convmat.tikhonov(A, y, 1.0)
    expected = np.linalg.solve(dense.conj().T @ dense + np.eye(dense.shape[1]), dense.conj().T @ y.ravel())
    assert info.converged
    np.testing.assert_allclose(x.ravel(), expected, atol=1e-6 * max(1, np.abs(expected).max()))


@tries(40)
@given(layer=mixed())
def test_files_factors_and_simpler_expressions_keep_the_modes(layer, tmp_path_factory):
    A = layer.operator()
    path = tmp_path_factory.mktemp("modes") / "A.npz"
    convmat.save(A, path)
    B = convmat.load(path)
    assert B.geometry == A.geometry
    np.testing.assert_array_equal(B.weight, A.weight)
    D, C, P = A.factors()
    np.testing.assert_array_equal((D.tosparse() @ C.tosparse() @ P.tosparse()).toarray(), A.toarray())
    E = convmat.simplify(D @ C @ P)
    np.testing.assert_array_equal(E.toarray(), A.toarray())
    F = convmat.simplify(A + A)
    np.testing.assert_array_equal(F.toarray(), 2 * A.toarray())
    assert same(A, B)


@pytest.mark.slow
@pytest.mark.parametrize("layers_of", [mixed((1, 2, 3)), layers(modes=("antireflect",))], ids=["mixed", "antireflect"])
def test_a_thousand_layers_are_those_of_the_oracle_and_pass_the_dot_test(layers_of):
    @tries(1000, derandomize=False, deadline=None)
    @given(layers_of, st.sampled_from(usable()))
    def holds(layer, method):
        dense, A = layer.dense(), layer.operator(method=method)
        np.testing.assert_array_equal(A.toarray(), dense)
        np.testing.assert_array_equal(A.T.toarray(), dense.T)
        rng = layer.rng()
        weight = rng.standard_normal(layer.weight.shape)
        passes_the_dot_test(dataclasses.replace(layer, weight=weight).operator(method=method), rng)

    holds()


def test_a_panorama_is_padded_as_numpy_pads_axis_by_axis():
    x = np.random.default_rng(0).standard_normal((5, 7))
    P = convmat.Pad((5, 7), 2, padding_mode=("reflect", "circular"))
    expected = np.pad(np.pad(x, ((2, 2), (0, 0)), "reflect"), ((0, 0), (2, 2)), "wrap")
    np.testing.assert_array_equal(P.apply(x), expected)
    convmat.check_adjoint(P)


def test_the_closed_form_of_separable_kernels_holds():
    line = np.array([1.0, 2.0, 1.0]) / 4
    A = Conv2d(np.outer(line, line), (30, 40), padding=1, padding_mode=("reflect", "circular"))
    x, info = convmat.tikhonov(A, A.apply(np.eye(30, 40)), 0.1)
    assert info.method == "kronecker"
    assert np.abs(A.H.apply(A.apply(np.eye(30, 40)) - A.apply(x)) - 0.01 * x).max() < 1e-12


def test_a_geometry_says_the_mode_of_each_axis():
    A = Conv2d(np.ones((3, 3)), (6, 6), padding=1, padding_mode=["reflect", "circular"])
    assert "mode reflect x circular: (lo, hi)" in str(A.geometry)
    assert A.geometry.padding_mode == A.geometry.modes == ("reflect", "circular")
    assert Conv2d(np.ones((3, 3)), (6, 6), padding_mode=("zeros", "zeros")).geometry.padding_mode == "zeros"


def test_the_command_line_takes_modes_with_commas(capsys):
    layer = ["show", "--input", "5x5", "--kernel", "3x3", "--padding", "1", "--padding-mode", "reflect,circular"]
    assert main(layer) == 0
    assert "mode reflect x circular" in capsys.readouterr().out


def test_pictures_say_the_modes():
    plot = pytest.importorskip("convmat.plot")
    pytest.importorskip("matplotlib")
    A = Conv2d(np.ones((3, 3)), (5, 5), padding=1, padding_mode=("reflect", "zeros"))
    figure = plot.arithmetic(A, (0, 0)).figure
    assert any("reflect x zero padding" in text.get_text() for ax in figure.axes for text in (ax.title, *ax.texts))


@pytest.mark.parametrize(
    ("modes", "error", "message"),
    [
        (("reflect",), ValueError, "must be a word or have one per spatial axis, 2"),
        (("reflect", "mirror"), ValueError, "must be one of 'zeros'"),
        (("reflect", 1), TypeError, "must be a word, or one per spatial axis"),
        (None, TypeError, "must be a word, or one per spatial axis"),
    ],
)
def test_wrong_modes_are_told(modes, error, message):
    with pytest.raises(error, match=message):
        conv_matrix(np.ones((3, 3)), (6, 6), padding=1, padding_mode=modes)


@pytest.mark.parametrize("method", usable())
@tries(60)
@given(layer=mixed())
def test_no_product_holds_memory_that_was_never_written(method, layer):
    A, rng = layer.operator(method=method), layer.rng()
    x, y = (integers(rng, shape, layer.dtype) for shape in (A.input_shape, A.output_shape))
    expected = A.apply(x), A.T.apply(y)
    empty = np.empty

    def filled(shape, dtype=float, **options):
        array = empty(shape, dtype=dtype, **options)
        if array.dtype.kind in "fc":
            array[...] = np.nan
        return array

    with pytest.MonkeyPatch.context() as patch, np.errstate(invalid="raise"):
        patch.setattr(np, "empty", filled)
        found = layer.operator(method=method)
        np.testing.assert_array_equal(found.apply(x), expected[0])
        np.testing.assert_array_equal(found.T.apply(y), expected[1])
