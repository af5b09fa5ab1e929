"""The varying blur of DeepInverse is ours: maps before or after, flipped kernels, in every padding of its own."""

import numpy as np
import pytest

from convmat import varying_blur

torch = pytest.importorskip("torch")
deepinv = pytest.importorskip("deepinv", minversion="0.5")

MODES = {"circular": "circular", "replicate": "replicate", "reflect": "reflect", "constant": "zeros"}


def tensor(array):
    """One image of one channel, or its kernels or maps: two axes in front."""
    return torch.from_numpy(array)[None, None]


def array(tensor):
    return tensor.numpy()[0, 0]


@pytest.mark.parametrize("fft", [False, True], ids=["loops", "fft"])
@pytest.mark.parametrize("padding", ["valid", *MODES])
@pytest.mark.parametrize("kernel", [(5, 3), (4, 6), (4, 5)])
@pytest.mark.parametrize(("first", "order"), [(True, "before"), (False, "after")])
def test_its_space_varying_blur_is_ours_in_both_orders(first, order, kernel, padding, fft):
    rng = np.random.default_rng(0)
    size = (14, 12)
    small = tuple(n - k + 1 for n, k in zip(size, kernel, strict=True))
    output = small if padding == "valid" else size
    kernels = rng.standard_normal((3, *kernel))
    maps = rng.standard_normal((3, *(size if first else output)))
    x, y = rng.standard_normal(size), rng.standard_normal(output)
    theirs = deepinv.physics.SpaceVaryingBlur(
        filters=tensor(kernels), multipliers=tensor(maps), padding=padding, use_fft=fft, mask_first=first
    )
    border = {"padding": 0} if padding == "valid" else {"padding": "same", "padding_mode": MODES[padding]}
    A = varying_blur(kernels, maps, size, order=order, flip=True, **border)
    np.testing.assert_allclose(A.apply(x), array(theirs.A(tensor(x))), rtol=0, atol=1e-12)
    np.testing.assert_allclose(A.T.apply(y), array(theirs.A_adjoint(tensor(y))), rtol=0, atol=1e-12)


def test_the_example_of_its_documentation_in_single_precision():
    generator = deepinv.physics.generator
    spots = generator.DiffractionBlurGenerator((7, 7), fc=0.25)
    made = generator.ProductConvolutionBlurGenerator(spots, img_size=(64, 64), n_eigen_psf=8).step(1, seed=0)
    theirs = deepinv.physics.SpaceVaryingBlur(**made)
    A = varying_blur(array(made["filters"]), array(made["multipliers"]), (64, 64), flip=True)
    assert A.dtype == np.float32
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape).astype(np.float32) for shape in (A.input_shape, A.output_shape))
    for ours, want in ((A.apply(x), array(theirs.A(tensor(x)))), (A.T.apply(y), array(theirs.A_adjoint(tensor(y))))):
        np.testing.assert_allclose(ours, want, rtol=0, atol=1e-5 * np.abs(want).max())
