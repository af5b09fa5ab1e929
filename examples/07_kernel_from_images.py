"""
The kernel from two images
==========================

A convolution is linear in its kernel too: for a fixed image x, the map W -> y has a matrix J, the im2col of x, and its
adjoint is the weight gradient. With a sharp and a blurred photograph, an unknown blur is a least-squares problem.
"""

import numpy as np
from _picture import save_picture
from scipy.sparse.linalg import lsqr

from convmat import Conv2d, check_adjoint, plot

# %%
# The blur that is to be found: a camera that moved along a bow while the shutter was open, 13 x 13 taps. The blurred
# photograph has a little noise, and only every second pixel of it is known.

size = 13
t = np.linspace(-1, 1, 400)
bow = np.stack([6 + 4.5 * t, 4 + 4.5 * t**2])
W = np.zeros((size, size))
for a, b in np.ndindex(W.shape):
    W[a, b] = np.exp(-((bow[0] - a) ** 2 + (bow[1] - b) ** 2) / 0.8).sum()
W /= W.sum()

x = plot.photo(192)
A = Conv2d(W, x.shape, stride=2, padding=size // 2, padding_mode="reflect")
rng = np.random.default_rng(0)
noise = 0.002
y = A.apply(x) + noise * rng.standard_normal(A.output_shape)

# %%
# J W = A x, and J^T is the gradient of <A x, y> by W.

J = A.weight_operator(x)
check_adjoint(J)
difference = np.abs(J @ W.ravel() - A @ x.ravel()).max()
print(f"J: W -> y is {J.shape[0]} x {J.shape[1]}; largest |J W - A x| = {difference:.1e}")

# %%
# The estimate knows x, y and the geometry, but not W: the weight operator of any kernel of that size will do. A little
# damping (a penalty on |W^|) keeps the noise out.

unknown = Conv2d(np.zeros_like(W), x.shape, stride=2, padding=size // 2, padding_mode="reflect")
im2col = unknown.weight_operator(x).tosparse()
solution = lsqr(im2col, y.ravel(), damp=0.3, atol=1e-8, btol=1e-8, iter_lim=500)
estimate = solution[0].reshape(W.shape)
gradient = J.rmatvec(y.ravel()).reshape(W.shape)


def relative(kernel):
    return np.linalg.norm(kernel - W) / np.linalg.norm(W)


residual = solution[3] / np.sqrt(y.size)
best_multiple = gradient * (np.vdot(gradient, W) / np.vdot(gradient, gradient))
print(f"noise {noise}, {y.size} equations, {W.size} unknowns, lsqr: {solution[2]} steps")
print(f"error of the estimated kernel |W^ - W| / |W|          = {relative(estimate):.4f}")
print(f"error of the best multiple of J^T y, the adjoint alone = {relative(best_multiple):.4f}")
print(f"sum of the estimated kernel (true: 1)                 = {estimate.sum():.6f}")
print(f"residual |J W^ - y| / sqrt(number of equations)       = {residual:.6f}, the noise is {noise}")
assert relative(estimate) < 0.2


def draw():
    top = W.max()
    return plot.image_pair(
        {
            "x: sharp": x,
            "y: blurred, stride 2, noise": y,
            "W: the blur, 13 x 13": W / top,
            f"estimate: error {relative(estimate):.1%}": estimate / top,
            f"c J$^T$ y, best c: error {relative(best_multiple):.1%}": best_multiple / top,
        },
        title="An unknown blur, estimated by lsqr from a sharp and a blurred photograph",
        caption="J is the matrix of W -> y for the fixed image x (im2col); kernels are drawn white where W is largest",
    )


save_picture("07_kernel_from_images.png", draw)
