"""
A delta kernel is the identity
==============================

A kernel with a single 1 in its centre gives the identity matrix; off the centre it gives a shift. The transpose of a
shift shifts back. With circular padding nothing is lost and A^T A = I; with zeros, what leaves the picture is gone.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv1d, Conv2d, plot


def delta(shape, at):
    """A kernel that is 1 in one place."""
    W = np.zeros(shape)
    W[at] = 1
    return W


# %%
# In the centre: y[m] = W[1] x[m + 1 - p] = x[m], with p = 1.

N = 6
identity = Conv1d(delta(3, 1), N, padding=1).tosparse()
identity.eliminate_zeros()
print(f"W = {delta(3, 1)}, p = 1: A =\n{identity.toarray()}")
print(f"A == I exactly: {np.array_equal(identity.toarray(), np.eye(N))}\n")
assert np.array_equal(identity.toarray(), np.eye(N))

# %%
# Off the centre: y[m] = x[m + 1]. The padding mode says what comes in at the end.

zeros = Conv1d(delta(3, 2), N, padding=1)
circular = Conv1d(delta(3, 2), N, padding=1, padding_mode="circular")
print(f"W = {delta(3, 2)}, p = 1, zeros: A =\n{zeros.toarray()}\n")
print(f"W = {delta(3, 2)}, p = 1, circular: A =\n{circular.toarray()}\n")
x = np.arange(1.0, N + 1)
gram = (circular.T @ circular).matmat(np.eye(N))
print(f"zeros:    A == np.eye(N, k=1) exactly: {np.array_equal(zeros.toarray(), np.eye(N, k=1))}")
print(f"zeros:    x = {x}, A^T A x = {zeros.T @ (zeros @ x)} (one sample is lost)")
print(f"circular: A x == np.roll(x, -1):       {np.array_equal(circular @ x, np.roll(x, -1))}")
print(f"circular: A^T A == I exactly:          {np.array_equal(gram, np.eye(N))} (nothing is lost)")
assert np.array_equal(gram, np.eye(N))

# %%
# Two dimensions, on the photograph: 24 rows up and 40 columns to the left, and back by the transpose. A kernel of
# size 1 whose padding pairs crop on one side and extend on the other is the cheapest shift there is.


def draw():
    x = plot.photo(128)
    up, left = 24, 40
    images = {"x": x}
    for mode in ("zeros", "circular"):
        A = Conv2d([[1.0]], x.shape, padding=((-up, up), (-left, left)), padding_mode=mode)
        y = A.apply(x)
        images[f"A x, {mode}"] = y
        images[f"A$^T$ A x, {mode}"] = A.T.apply(y)
        kept = np.mean(A.T.apply(y) == x)
        print(f"photograph, {mode + ':':<9} A^T A x == x on {kept:.1%} of the pixels")
    return plot.image_pair(
        images,
        title="The convolution with a shifted delta is a shift; its transpose shifts back",
        caption="Zero padding loses what leaves the picture; circular padding loses nothing, A$^T$ A = I",
    )


save_picture("02_delta_kernel.png", draw)
