"""Random legal layers: every padding mode, negative pairs, strides, dilations, groups, flip, dtypes."""

from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import convmat
from tests import oracle

CONV = {1: convmat.Conv1d, 2: convmat.Conv2d, 3: convmat.Conv3d}
CONV_TRANSPOSE = {1: convmat.ConvTranspose1d, 2: convmat.ConvTranspose2d, 3: convmat.ConvTranspose3d}


def tries(count, **options):
    """The settings of a property that is tried on so many cases, or on the part of them that the profile asks for."""
    share = settings.default.max_examples / settings.get_profile("default").max_examples
    return settings(max_examples=max(10, round(count * share)), **options)


DTYPES = ("float64", "float32", "complex128", "complex64", "int64")


@dataclass(frozen=True)
class Layer:
    """The arguments of a convolution, all written out, and a seed for images."""

    weight: np.ndarray
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    flip: bool
    seed: int

    @property
    def ndim(self):
        return len(self.size)

    @property
    def options(self):
        """The keyword arguments, of convmat and of the oracle."""
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "flip")
        return {name: getattr(self, name) for name in names}

    @property
    def kernel_size(self):
        return self.weight.shape[-self.ndim :]

    @property
    def output_size(self):
        return tuple(
            oracle.output_size(*a, *p)
            for *a, p in zip(self.size, self.kernel_size, self.stride, self.dilation, self.padding, strict=True)
        )

    @property
    def dtype(self):
        """The dtype that an operator of this weight has: integers become float64."""
        return np.dtype(np.float64) if self.weight.dtype.kind == "i" else self.weight.dtype

    def dense(self):
        """The matrix, by the oracle, in the dtype of the operator."""
        return oracle.dense(self.weight, self.size, **self.options).astype(self.dtype)

    def operator(self, **more):
        return CONV[self.ndim](self.weight, self.size, **self.options, **more)

    def matrix(self, **more):
        return convmat.conv_matrix(self.weight, self.size, **self.options, **more)

    def rng(self):
        return np.random.default_rng(self.seed)

    def __repr__(self):
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"Layer(np.{self.weight!r}, {self.size}, {options}, seed={self.seed})"


def integers(rng, shape, dtype=np.float64):
    """Whole numbers: sums of their products are exact in every dtype, in every order."""
    values = rng.integers(-9, 10, shape)
    if np.dtype(dtype).kind == "c":
        return (values + 1j * rng.integers(-9, 10, shape)).astype(dtype)
    return values.astype(dtype)


def passes_the_dot_test(A, rng):
    """<A x, y> = <x, A^T y> to 1e-13 of |A| |x| |y|, for a real A of double precision."""
    x, y = rng.standard_normal(A.shape[1]), rng.standard_normal(A.shape[0])
    scale = np.linalg.norm(A.toarray()) * np.linalg.norm(x) * np.linalg.norm(y)
    assert abs(np.dot(A @ x, y) - np.dot(x, A.T @ y)) <= 1e-13 * scale


@st.composite
def axes(draw, mode, largest_size, most_taps):
    """One legal axis: (N, K, s, d, (lo, hi))."""
    size = draw(st.integers(1, largest_size))
    most = min(2 * size + 3, 5 if mode == "zeros" else 9)  # what folds or wraps goes round more than once
    lo = draw(st.integers(max(-2, 1 - size - most), most))
    hi = draw(st.integers(max(-2, 1 - size - lo), most))
    dilation = draw(st.integers(1, 3))
    taps = draw(st.integers(1, min(most_taps, (size + lo + hi - 1) // dilation + 1)))
    return size, taps, draw(st.integers(1, 4)), dilation, (lo, hi)


LARGEST = {1: (14, 6), 2: (8, 4), 3: (4, 3)}
"""D -> largest size and most taps of an axis."""


@st.composite
def layers(draw, ndims=(1, 2, 3), modes=oracle.MODES, dtypes=DTYPES):
    """A legal layer with whole weights (zeros among them)."""
    ndim, mode = draw(st.sampled_from(ndims)), draw(st.sampled_from(modes))
    size, taps, stride, dilation, padding = zip(*(draw(axes(mode, *LARGEST[ndim])) for _ in range(ndim)), strict=True)
    if draw(st.booleans()):
        groups = draw(st.integers(1, 3))
        most = 2 if ndim < 3 else 1
        channels = (groups * draw(st.integers(1, most)), draw(st.integers(1, most)))
    else:
        groups, channels = 1, ()
    seed = draw(st.integers(0, 2**20))
    weight = integers(np.random.default_rng(seed), (*channels, *taps), draw(st.sampled_from(dtypes)))
    return Layer(weight, size, stride, padding, dilation, groups, mode, draw(st.booleans()), seed)


@st.composite
def transposed_layers(draw, ndims=(1, 2, 3)):
    """The arguments of a transposed convolution (a `Layer` of them) and an output padding, of all legal ones."""
    layer = draw(layers(ndims))
    inputs = layer.output_size
    smallest = [
        (m - 1) * s - sum(p) + d * (k - 1) + 1
        for m, s, p, d, k in zip(inputs, layer.stride, layer.padding, layer.dilation, layer.kernel_size, strict=True)
    ]
    least = [max(0, 1 - n) for n in smallest]  # with this M there is a legal N (that of the layer)
    extra = tuple(
        draw(st.integers(a, max(a, max(s, d) - 1))) for a, s, d in zip(least, layer.stride, layer.dilation, strict=True)
    )
    return layer, inputs, extra, tuple(n + e for n, e in zip(smallest, extra, strict=True))
