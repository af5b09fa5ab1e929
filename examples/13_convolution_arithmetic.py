"""
Convolution arithmetic, animated
================================

The classic cases of the guide to convolution arithmetic (V. Dumoulin, F. Visin, 2016), each with its transpose: one
animation per operator, in which the kernel slides and the row of the matrix that it stands for is framed. Every frame
is drawn from the real matrix. The animations go to a folder beside the picture, which shows one step of each.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv2d, plot

# %%
# Input size, kernel size, and the rest of the geometry.

CASES = {
    "no_padding": (4, 3, {}),
    "arbitrary_padding": (5, 4, {"padding": 2}),
    "half_padding": (5, 3, {"padding": "same"}),
    "full_padding": (5, 3, {"padding": "full"}),
    "no_padding_stride_2": (5, 3, {"stride": 2}),
    "padding_stride_2": (5, 3, {"padding": 1, "stride": 2}),
    "odd_size_stride_2": (6, 3, {"padding": 1, "stride": 2}),
    "dilation_2": (7, 3, {"dilation": 2}),
}


def operators():
    """Name -> operator, every case and its transpose."""
    rng = np.random.default_rng(0)
    for name, (size, taps, geometry) in CASES.items():
        A = Conv2d(rng.integers(1, 10, (taps, taps)), (size, size), **geometry)
        yield name, A
        yield f"{name}_transposed", A.T


# %%
# A row of A is the kernel at one place; the same column of the transpose writes to the samples that the row reads. The
# transpose by itself is once more a convolution with stride 1: its input is filled with zeros, its kernel is flipped.

print(f"{'':<32} {'input':>7}    {'output':>7} {'matrix':>9} {'entries':>8}")
for name, A in operators():
    (n, _), (m, _) = A.input_shape, A.output_shape
    rows, columns = A.shape
    print(f"{name:<32} {f'{n} x {n}':>7} -> {f'{m} x {m}':>7} {f'{rows} x {columns}':>9} {A.nnz:>8}")
    assert (A.tosparse() != A.T.tosparse().T).nnz == 0


# %%


def draw():
    figure = plot.new_figure(13, 27)
    for part, (name, A) in zip(figure.subfigures(8, 2).flat, operators(), strict=True):
        middle = tuple(n // 2 for n in A.output_shape)
        plot.arithmetic(A, middle, title=name.replace("_", " "), figure=part)
    return figure


picture = save_picture("13_convolution_arithmetic.png", draw)
if picture is not None:
    for name, A in operators():
        transposed = name.endswith("transposed")
        path = picture.with_suffix("") / f"{name}.gif"
        plot.animate(A, path, transpose="none" if transposed else "side-by-side")
        print(f"Animation: {path}, {path.stat().st_size // 1000} kB")
