"""
The transposed convolution is the transpose
===========================================

The matrix A of a convolution with stride 2, its transpose, and the recipe that everybody knows for the transposed
convolution: put zeros between the samples, convolve with the flipped kernel, crop. They are the same thing, entry by
entry.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, plot

# %%
# A row of A is the kernel W, moved on by the stride: y[m] = sum over k of W[k] x[s m + k - p].

W = np.array([1.0, 2.0, 3.0])
N, s, p = 7, 2, 1
A = Conv1d(W, N, stride=s, padding=p)
M = A.output_shape[0]
print(f"N = {N} samples, kernel W = {W}, stride s = {s}, padding p = {p}: M = {M} outputs\n")
print(f"A, {A.shape[0]} x {A.shape[1]}:\n{A.toarray()}\n")
print(f"A^T, {A.T.shape[0]} x {A.T.shape[1]}, which is ConvTranspose1d(W, {M}, stride={s}, padding={p}):")
print(f"{A.T.toarray()}\n")

B = ConvTranspose1d(W, M, stride=s, padding=p)
assert np.array_equal(B.toarray(), A.toarray().T)

# %%
# The recipe, on vectors. The full *correlation* with the flipped kernel is the full *convolution* with the kernel,
# which is what numpy.convolve computes.

y = np.array([1.0, 10.0, 100.0, 1000.0])
zero_filled = np.zeros((M - 1) * s + 1)
zero_filled[::s] = y
full = np.convolve(zero_filled, W)
by_recipe = full[p : len(full) - p]
print(f"y               = {y}")
print(f"zeros between   = {zero_filled}")
print(f"convolved       = {full}")
print(f"cropped         = {by_recipe}")
print(f"A^T y           = {A.T @ y}")
assert np.array_equal(A.T @ y, by_recipe)

# %%
# Two dimensions, three channels in and two out, and a border that no output reads: the same.

rng = np.random.default_rng(0)
W2 = rng.integers(-9, 10, size=(2, 3, 3, 3)).astype(float)
A2 = Conv2d(W2, (8, 7), stride=2, padding=1)
B2 = ConvTranspose2d(W2, A2.geometry.output_size, stride=2, padding=1, output_size=(8, 7))
y2 = rng.integers(-9, 10, size=A2.output_shape).astype(float)
recipe2 = np.zeros((3, 9, 9))
for o, c in np.ndindex(2, 3):
    for (m1, m2), (k1, k2) in ((m, k) for m in np.ndindex(y2.shape[1:]) for k in np.ndindex(3, 3)):
        recipe2[c, 2 * m1 + k1, 2 * m2 + k2] += y2[o, m1, m2] * W2[o, c, k1, k2]
recipe2 = recipe2[:, 1:9, 1:8]

print(f"\nTwo dimensions: A is {A2.shape[0]} x {A2.shape[1]} with {A2.nnz} entries")
print(f"matrix of ConvTranspose2d == A^T, entry by entry: {(B2.tosparse() != A2.tosparse().T).nnz == 0}")
print(f"A^T y == each y[o, m] painted with W[o]:           {np.array_equal(A2.T.apply(y2), recipe2)}")
assert (B2.tosparse() != A2.tosparse().T).nnz == 0
assert np.array_equal(A2.T.apply(y2), recipe2)

# %%


def draw():
    figure = plot.new_figure(10, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(7, 4))
    plot.cells(A.toarray(), ax=left, title="A: each row is the kernel, moved on by s = 2")
    left.set_xlabel(f"column n: the N = {N} samples of x")
    left.set_ylabel(f"row m: the M = {M} outputs")
    plot.cells(A.T.toarray(), ax=right, title="A$^T$: the transposed convolution")
    right.set_xlabel(f"column m: the M = {M} samples of y")
    right.set_ylabel(f"row n: the N = {N} outputs")
    figure.suptitle("Kernel W = [1 2 3], stride 2, padding 1: the same numbers, read the other way round", fontsize=13)
    return figure


save_picture("01_transpose_is_the_transpose.png", draw)
