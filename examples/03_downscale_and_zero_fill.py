"""
Downscale and zero-fill: the factors of a convolution and of its transpose
==========================================================================

A strided convolution is three simple maps in a row, A = D C P: pad, correlate with stride 1, keep every s-th sample.
So its transpose is A^T = P^T C^T D^T: put zeros between the samples, correlate with the flipped kernel, fold the
border back. On a photograph each step can be seen.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv2d, plot

# %%
# A Gaussian blur of 7 x 7 taps, stride 2, and a border that is reflected.

k = np.exp(-0.5 * (np.arange(-3, 4) / 1.2) ** 2)
W = np.outer(k, k) / k.sum() ** 2
x = plot.photo(256)
A = Conv2d(W, x.shape, stride=2, padding=3, padding_mode="reflect")
D, C, P = A.factors()
print(f"{A.geometry}\n")

print("Forward, A = D C P:")
padded = P.apply(x)
blurred = C.apply(padded)
y = D.apply(blurred)
for name, image in (("x", x), ("P x", padded), ("C P x", blurred), ("D C P x", y)):
    print(f"  {name:<12} {image.shape[0]} x {image.shape[1]}, mean {image.mean():.4f}")

print("Transposed, A^T = P^T C^T D^T:")
filled = D.T.apply(y)
spread = C.T.apply(filled)
back = P.T.apply(spread)
for name, image in (("y", y), ("D^T y", filled), ("C^T D^T y", spread), ("A^T y", back)):
    print(f"  {name:<12} {image.shape[0]} x {image.shape[1]}, mean {image.mean():.4f}")

# %%
# The same as matrices. The values are sums in another order, so that they agree to rounding; with whole numbers in W
# they agree bit by bit.

small = Conv2d(np.arange(49.0).reshape(7, 7), (16, 16), stride=2, padding=3, padding_mode="reflect")
down, correlate, pad = (f.tosparse() for f in small.factors())
forward = (small.tosparse() != down @ correlate @ pad).nnz
transposed = (small.T.tosparse() != pad.T @ correlate.T @ down.T).nnz
print(f"\nlargest |A x - D C P x|           = {np.abs(A.apply(x) - y).max():.1e}")
print(f"largest |A^T y - P^T C^T D^T y|   = {np.abs(A.T.apply(y) - back).max():.1e}")
print(f"entries where A and D C P differ, whole numbers in W:         {forward} of {small.nnz}")
print(f"entries where A^T and P^T C^T D^T differ, whole numbers in W: {transposed} of {small.nnz}")
assert forward == transposed == 0
assert np.abs(A.apply(x) - y).max() < 1e-13
assert np.abs(A.T.apply(y) - back).max() < 1e-13

# %%
# Three of four samples were zero-filled, so A^T y is a quarter as bright as x: sum(W) = 1 is spread over s^2 = 4
# pixels.

print(f"\nmean of A^T y / mean of y = {back.mean() / y.mean():.4f} = 1 / s^2")


def draw():
    rows, columns = slice(68, 132), slice(96, 160)  # the glasses, on the grid of x
    detail = np.s_[rows, columns]
    detail_padded = np.s_[rows.start + 3 : rows.stop + 3, columns.start + 3 : columns.stop + 3]
    detail_kept = np.s_[rows.start // 2 : rows.stop // 2, columns.start // 2 : columns.stop // 2]
    return plot.image_pair(
        {
            "x: 256 x 256": x,
            "P x: border reflected, 262 x 262": padded,
            "C P x: blurred, 256 x 256": blurred,
            "y = D C P x: every 2nd, 128 x 128": y,
            "y, detail: 32 x 32": y[detail_kept],
            "D$^T$ y: zeros between, 64 x 64": filled[detail],
            "C$^T$ D$^T$ y: spread (4 x brighter)": 4 * spread[detail_padded],
            "A$^T$ y: border folded (4 x brighter)": 4 * back[detail],
        },
        columns=4,
        title="Above: A = D C P.  Below, in detail: A$^T$ = P$^T$ C$^T$ D$^T$",
        caption="A$^T$ y is a quarter as bright as y: zero filling spreads each sample over s$^2$ = 4 pixels",
    )


save_picture("03_downscale_and_zero_fill.png", draw)
