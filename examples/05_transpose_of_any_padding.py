"""
The transpose of any padding
============================

Zero padding is transposed by cropping. The other modes copy samples into the border, so their transposes add the border
back onto the samples that it came from. PyTorch's ConvTranspose2d refuses every mode but "zeros" (pytorch#46027); here
each has its exact transpose.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv2d, Pad, check_adjoint, conv_matrix, conv_transpose_matrix, plot

MODES = ("zeros", "reflect", "replicate", "circular", "symmetric")

# %%
# Padding alone, and its transpose on ones: how often each sample was copied.

print("P x for x = [1 2 3 4 5 6], p = 2, and P^T 1, the number of copies of each sample:\n")
for mode in MODES:
    P = Pad(6, 2, padding_mode=mode)
    copies = P.T @ np.ones(10)
    print(f"  {mode:<10} P x = {P @ np.arange(1.0, 7.0)}   P^T 1 = {copies}")
    assert np.array_equal(copies, P.toarray().sum(axis=0))

# %%
# The dot test <A x, y> = <x, A^T y> for a two-dimensional layer with channels, stride and dilation, on random vectors:
# equal to rounding in every mode. The transpose of the wrong mode, what one gets where only zeros are on offer, fails.

rng = np.random.default_rng(0)
W = rng.standard_normal((8, 3, 3, 3))
geometry = {"stride": 2, "padding": 2, "dilation": 2}
zeros = Conv2d(W, (32, 32), **geometry)
print("\nConv2d, 3 -> 8 channels, 3 x 3, stride 2, dilation 2, padding 2, on 32 x 32:")
print("relative error of the dot test, |<A x, y> - <x, B y>| / (|A x| |y|)\n")
print(f"  {'mode':<10} {'<A x, y>':>12} {'B = A^T':>10} {'B = A^T of zeros':>18}")
for mode in MODES:
    A = Conv2d(W, (32, 32), padding_mode=mode, **geometry)
    x, y = rng.standard_normal(A.shape[1]), rng.standard_normal(A.shape[0])
    left, scale = y @ (A @ x), np.linalg.norm(A @ x) * np.linalg.norm(y)
    exact, wrong = (abs(left - x @ (B @ y)) / scale for B in (A.T, zeros.T))
    print(f"  {mode:<10} {left:>12.6f} {exact:>10.1e} {wrong:>18.1e}")
    assert exact < 2e-15
    check_adjoint(A)

# %%
# The matrices. With kernel W = [1 2 3 4 5], the rows of A at the border hold sums of taps: where the mode reads a
# sample twice, its two weights add.

K, N = np.arange(1.0, 6.0), 7
matrices = {mode: conv_matrix(K, N, stride=2, padding=2, padding_mode=mode).toarray() for mode in MODES}
for mode, matrix in matrices.items():
    transposed = conv_transpose_matrix(K, len(matrix), stride=2, padding=2, padding_mode=mode, output_size=N)
    assert np.array_equal(transposed.toarray(), matrix.T)
print(f"\nW = {K}, N = {N}, s = 2, p = 2, reflect: A =\n{matrices['reflect']}")


def draw():
    figure = plot.new_figure(15, 6.4)
    axes = figure.subplots(2, len(MODES), height_ratios=(4, 7))
    for (above, below), (mode, matrix) in zip(axes.T, matrices.items(), strict=True):
        plot.cells(matrix, ax=above, title=f"A, {mode}", limits=(1, 8))
        plot.cells(matrix.T, ax=below, title=f"A$^T$, {mode}", limits=(1, 8))
    figure.suptitle("W = [1 2 3 4 5], s = 2, p = 2, N = 7: every padding mode and its exact transpose", fontsize=14)
    figure.supxlabel(
        "Taps that read the same sample add up: 12 = 3 + 4 + 5 in replicate. Circular fills the corners.", fontsize=11
    )
    return figure


save_picture("05_transpose_of_any_padding.png", draw)
