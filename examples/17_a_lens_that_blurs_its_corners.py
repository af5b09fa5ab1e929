"""
A lens that blurs its corners
=============================

The blur of a real lens grows towards the corners, so that no single kernel describes it. `varying_blur` is a sum of a
few kernels, each times a map that says how much of it there is at each pixel: as fast as these few convolutions, with
an exact transpose. Deblurring with the kernel of the centre leaves the corners soft, with that of the corners it rings
in the centre; with the varying blur both are sharp.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv2d, cgls, plot, varying_blur

x = plot.photo(256)
rows, columns = np.mgrid[-1:1:256j, -1:1:256j]
radius = np.hypot(rows, columns) / np.sqrt(2)  # 0 in the centre, 1 in the corners

# %%
# Four Gaussians, from sharp to wide, and maps that go over into each other with the distance from the centre. They add
# up to 1 everywhere.

widths = np.array([0.6, 1.2, 1.8, 2.4])
offsets = np.arange(-8, 9)
lines = np.exp(-0.5 * (offsets / widths[:, None]) ** 2)
kernels = np.einsum("ja,jb->jab", lines, lines) / lines.sum(axis=1)[:, None, None] ** 2
places = np.linspace(0, 1, len(widths))
maps = np.array([np.interp(radius, places, row) for row in np.eye(len(widths))])

layer = {"padding": 8, "padding_mode": "reflect"}
A = varying_blur(kernels, maps, x.shape, order="after", **layer)
noise = 0.002
y = A.apply(x) + noise * np.random.default_rng(0).standard_normal(x.shape)
print(f"{len(widths)} kernels of {kernels.shape[1]} x {kernels.shape[2]}, maps add up to {maps.sum(axis=0).mean():.3f}")
print(f"a matrix of {A.shape[0]} x {A.shape[1]} that nobody builds; of ones it makes {A.apply(0 * x + 1).mean():.3f}")

# %%
# The same solver three times: with the kernel of the centre, with that of the corners, and with all of them.

models = {
    "the centre's kernel": Conv2d(kernels[0], x.shape, **layer),
    "the corners' kernel": Conv2d(kernels[-1], x.shape, **layer),
    "the varying blur": A,
}
middle, corners = radius < 0.3, radius > 0.7
print(f"\nPSNR of              {'centre':>8} {'corners':>8} {'all':>8}")


def report(name, image):
    parts = (plot.psnr(image[where], x[where]) for where in (middle, corners, np.full(x.shape, True)))
    print(f"  {name:<18} " + " ".join(f"{value:5.1f} dB" for value in parts))


report("y, blurred", y)
found = {}
for name, model in models.items():
    found[name], info = cgls(model, y, damp=0.03, rtol=1e-4)
    assert info.converged
    report(name, found[name])
best = plot.psnr(found["the varying blur"], x)
assert all(best > plot.psnr(image, x) + 1 for name, image in found.items() if name != "the varying blur")


def draw():
    corner = np.s_[:96, :96]
    return plot.image_pair(
        {
            "x": x,
            "y: sharp in the centre": y,
            "by the centre's kernel": found["the centre's kernel"].clip(0, 1),
            "by the varying blur": found["the varying blur"].clip(0, 1),
            "x, a corner": x[corner],
            "y, a corner": y[corner],
            "by the centre's kernel, a corner": found["the centre's kernel"][corner].clip(0, 1),
            "by the varying blur, a corner": found["the varying blur"][corner].clip(0, 1),
        },
        columns=4,
        title="A lens that blurs its corners",
        caption="four kernels, each times a map: A = M$_1$ K$_1$ + ... + M$_4$ K$_4$",
    )


save_picture("17_a_lens_that_blurs_its_corners.png", draw)
