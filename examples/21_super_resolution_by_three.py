"""
Super-resolution by three
=========================

A small picture of a large scene: the lens blurs, each pixel of the sensor takes the mean of 3 x 3, noise comes on top,
and 8 bits remain. What is beyond the picture is not known, and no padding mode tells: A reads an image that is larger
than the picture shows, without padding, and the frame is cut off in the end. Then the prior decides. Small grey values
are a poor one, small differences a better one, and few of them (total variation) the best.
"""

import numpy as np
from _picture import save_picture
from scipy.ndimage import zoom

from convmat import Conv2d, cgls, norm_bounds, plot, tikhonov, vstack

# %%
# The kernel of a camera: a Gaussian spot, seen by square pixels.

spot = np.exp(-0.5 * (np.arange(-4, 5) / 1.2) ** 2)
line = np.convolve(spot / spot.sum(), np.ones(3) / 3)
K, S, M = len(line), 3, 128
N = (M - 1) * S + K
scene = plot.photo(512)[None, 40 : 40 + N, 60 : 60 + N]
A = Conv2d(np.outer(line, line)[None, None], (N, N), stride=S)
margin = (K - S) // 2
inside = np.s_[0, margin : margin + M * S, margin : margin + M * S]
x = scene[inside]  # what the pixels cover
y = A.apply(scene) + 0.003 * np.random.default_rng(0).standard_normal(A.output_shape)
y = np.round(255 * y).clip(0, 255) / 255
print(f"{M} x {M} pixels, each of {K} x {K} in steps of {S}: {A.shape[1] / A.shape[0]:.1f} unknowns for each of them\n")

# %%
# Two priors of squares. The mean grey value is known well enough to be taken off first.

D = Conv2d([[[[-1.0, 0], [1, 0]]], [[[-1, 1], [0, 0]]]], (N, N), padding=((0, 1), (0, 1)), padding_mode="replicate")
mean = y.mean()


def small(damp):
    return mean + tikhonov(A, y - mean, damp)[0]


def smooth(damp):
    stack = vstack([A, damp * D])
    found, info = cgls(stack, np.concatenate([(y - mean).ravel(), np.zeros(D.shape[0])]), rtol=1e-3)
    assert info.converged
    return mean + found.reshape(A.input_shape)


# %%
# Total variation by the algorithm of Chambolle and Pock, with steps that the norm of K = [A; D] allows, from the smooth
# image on.


def few(strength, start, steps=150):
    norm = norm_bounds(vstack([A, D]))[1]
    tau, sigma = 9.9 / norm, 0.099 / norm
    u = ahead = start.clip(0, 1)
    p, q = np.zeros(A.output_shape), np.zeros(D.output_shape)
    for _ in range(steps):
        p = (p + sigma * (A.apply(ahead) - y)) / (1 + sigma)
        q = q + sigma * D.apply(ahead)
        q /= np.maximum(1, np.hypot(*q) / strength)
        before, u = u, (u - tau * (A.T.apply(p) + D.T.apply(q))).clip(0, 1)
        ahead = 2 * u - before
    return u


# %%
# Each at its best weight, which only those who know x can tell.


def best(name, solve, weights):
    values = {weight: solve(weight) for weight in weights}
    weight = max(values, key=lambda weight: plot.psnr(values[weight][inside], x))
    print(f"{name:<13} {plot.psnr(values[weight][inside], x):6.2f} dB, weight {weight:.4g}")
    return values[weight]


spline = zoom(y[0], S, order=3, mode="grid-mirror", grid_mode=True)
print(f"{'cubic spline':<13} {plot.psnr(spline, x):6.2f} dB")
results = {"cubic spline": spline}
results["|x|$^2$"] = best("|x|^2", small, (0.01, 0.02, 0.04))[inside]
start = best("|D x|^2", smooth, (0.02, 0.04, 0.08))
results["|D x|$^2$"] = start[inside]
results["total variation"] = best("TV", lambda strength: few(strength, start), (0.0002, 0.0004, 0.0008))[inside]
scores = [plot.psnr(image, x) for image in results.values()]
assert scores == sorted(scores)


def draw():
    detail = np.s_[102:246, 120:264]
    images = {"x": x[detail], "y: one pixel of nine": y[0, 34:82, 40:88]}
    images |= {f"{name}: {plot.psnr(image, x):.1f} dB": image[detail].clip(0, 1) for name, image in results.items()}
    return plot.image_pair(
        images,
        columns=3,
        title="A lens, square pixels, stride 3, noise and 8 bits",
        caption="details; PSNR over the whole picture, each prior at its best weight",
    )


save_picture("21_super_resolution_by_three.png", draw)
