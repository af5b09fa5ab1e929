"""
Super-resolution by four
========================

y = A x + noise, where A blurs and keeps every fourth pixel of every fourth row: sixteen unknowns for each pixel that is
known. Blur and decimation act axis by axis, so that the regularised solution has a closed form under every padding
mode; under circular padding, another by FFT, with a block of 1 x 16 for each frequency. Iterations come to the same.
"""

import time

import numpy as np
from _picture import save_picture
from scipy.ndimage import zoom
from scipy.sparse.linalg import cg, lsqr

from convmat import Conv2d, normal, plot, tikhonov

# %%
# A camera: each of its pixels sees a soft spot of the scene.

x = plot.photo(512)
line = np.exp(-0.5 * ((np.arange(8) - 3.5) / 1.7) ** 2)
W = np.outer(line, line) / line.sum() ** 2
damp, noise = 0.01, 0.002
rng = np.random.default_rng(0)
layer = {"stride": 4, "padding": 2}
A = Conv2d(W, x.shape, padding_mode="reflect", **layer)
y = A.apply(x) + noise * rng.standard_normal(A.output_shape)
print(f"{A.geometry}\n")

# %%
# Four ways to the minimiser of |A x - y|^2 + damp^2 |x|^2, and cubic splines for comparison. The fifth way solves the
# problem of the FFT, with circular padding, which is not how y was made: its border is wrong.

results, lines = {"cubic spline": zoom(y, 4, order=3, mode="grid-mirror", grid_mode=True)}, {}


def timed(name, solve):
    begin = time.perf_counter()
    image, steps = solve()
    lines[name] = time.perf_counter() - begin, steps
    results[name] = image.reshape(x.shape)


def closed_form(operator):
    solution, info = tikhonov(operator, y, damp)
    assert info.converged
    assert info.iterations == 0
    return solution, f"closed form ({info.method})"


def by_cg():
    steps = []
    solution, _ = cg(normal(A, damp), A.H @ y.ravel(), rtol=1e-6, callback=lambda _: steps.append(1))
    return solution, f"{len(steps)} steps"


def by_lsqr():
    solution, _, steps = lsqr(A, y.ravel(), damp=damp, atol=1e-6, btol=1e-6)[:3]
    return solution, f"{steps} steps"


timed("tikhonov", lambda: closed_form(A))
timed("cg", by_cg)
timed("lsqr", by_lsqr)
timed("tikhonov, circular", lambda: closed_form(Conv2d(W, x.shape, padding_mode="circular", **layer)))

# %%
# Pixels alone are poor prior knowledge. A better penalty is the Laplacian, with the border of a mirror: it is not
# separable, and cg runs, preconditioned as `tikhonov` sees fit.

laplacian = Conv2d([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], x.shape, padding=1, padding_mode="symmetric")


def smooth():
    solution, info = tikhonov(A, y, 0.03, regularizer=laplacian, rtol=1e-4)
    assert info.converged
    return solution, f"{info.iterations} steps of {info.method}"


timed("tikhonov, Laplacian", smooth)

print(f"{'':<22} {'PSNR':>8} {'from tikhonov':>14}   {'seconds':>7}")
for name, image in results.items():
    distance = np.linalg.norm(image - results["tikhonov"]) / np.linalg.norm(image)
    seconds, how = lines.get(name, (0.0, ""))
    print(f"{name:<22} {plot.psnr(image, x):>5.2f} dB {distance:>14.1e}   {seconds:>7.2f}   {how}")
for name in ("cg", "lsqr"):
    assert np.linalg.norm(results[name] - results["tikhonov"]) < 1e-3 * np.linalg.norm(results["tikhonov"])


def draw():
    detail = (slice(150, 310), slice(140, 300))
    images = {"x, detail": x[detail], "y: one pixel of 16": y[150 // 4 : 310 // 4, 140 // 4 : 300 // 4]}
    for name in ("cubic spline", "tikhonov", "tikhonov, Laplacian"):
        images[f"{name}: {plot.psnr(results[name], x):.1f} dB"] = results[name][detail]
    return plot.image_pair(
        images,
        title="Blur and stride 4: sixteen unknowns for each known pixel",
        caption="PSNR over the whole photograph. Penalties: |x|$^2$, in closed form, and |Laplacian x|$^2$",
    )


save_picture("09_super_resolution.png", draw)
