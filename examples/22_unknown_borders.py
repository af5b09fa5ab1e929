"""
Unknown borders
===============

A photograph is a part of a scene: near its border it shows what the blur brought in from beyond. Any padding mode is a
guess of that, and a wrong one spoils more than the border, for the error rings far into the image. The honest model
guesses nothing: A reads an image that is larger than y by the reach of the kernel, without padding, and has fewer
equations than unknowns. The penalty decides what the data do not, and the frame of unknowns is cut off in the end.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv2d, cgls, plot, vstack

MODES = ["zeros", "circular", "reflect", "symmetric", "replicate"]
SIZE, REACH = 192, 10

# %%
# Two kernels of 21 x 21: a Gaussian, and a camera that moved along a slope.

offsets = np.arange(-REACH, REACH + 1)
line = np.exp(-0.5 * (offsets / 3) ** 2)
path = np.linspace(-1, 1, 401)[:, None, None]
spots = (1 - abs(offsets[:, None] - 9 * path)).clip(0) * (1 - abs(offsets - 5 * path)).clip(0)
kernels = {"Gaussian": np.outer(line, line), "motion": spots.sum(axis=0)}
kernels = {name: kernel / kernel.sum() for name, kernel in kernels.items()}

scene = plot.photo(512)[150 - REACH :, 130 - REACH :][: SIZE + 2 * REACH, : SIZE + 2 * REACH]
crop = np.s_[REACH:-REACH, REACH:-REACH]
x = scene[crop]
frame = np.ones(x.shape, dtype=bool)
frame[crop] = False  # what the kernel reaches from beyond the border
noises, damps = (0.002, 0.01), np.geomspace(0.02, 0.64, 6)

# %%
# argmin |A z - y|^2 + damp^2 |D z|^2, with the gradient D, each at its best damping, which only those who know x can
# tell. All start from the same grey.


def gradient(size):
    differences = [[[[-1.0, 0], [1, 0]]], [[[-1, 1], [0, 0]]]]
    return Conv2d(differences, size, padding=((0, 1), (0, 1)), padding_mode="replicate")


def recovered(kernel, y, mode):
    """The best image of all dampings; the mode None is the larger image."""
    W, mean = kernel[None, None], y.mean()
    A = Conv2d(W, scene.shape) if mode is None else Conv2d(W, x.shape, padding=REACH, padding_mode=mode)
    D = gradient(A.geometry.input_size)
    data, images, start = np.concatenate([(y - mean).ravel(), np.zeros(D.shape[0])]), [], None
    for damp in damps[::-1]:
        start, info = cgls(vstack([A, damp * D]), data, x0=start, rtol=1e-4)
        assert info.converged
        found = mean + start.reshape(A.input_shape)[0]
        images.append(found[crop] if mode is None else found)
    return max(images, key=lambda image: plot.psnr(image, x))


images, scores = {}, {}
print(f"{'PSNR in dB, of all and of the frame':<36}" + "".join(f"{name:>18}" for name in kernels))
for noise in noises:
    print(f"noise {noise}")
    for name, kernel in kernels.items():
        blurred = Conv2d(kernel, scene.shape).apply(scene)
        images["y", name, noise] = blurred + noise * np.random.default_rng(0).standard_normal(x.shape)
        for mode in [*MODES, None]:
            images[mode, name, noise] = recovered(kernel, images["y", name, noise], mode)
    for row in ["y", *MODES, None]:
        of = [images[row, name, noise] for name in kernels]
        scores |= {(row, name, noise): plot.psnr(image, x) for name, image in zip(kernels, of, strict=True)}
        cells = (f"{plot.psnr(image, x):>10.2f}  {plot.psnr(image[frame], x[frame]):>6.2f}" for image in of)
        print(f"  {row or 'unknown, a larger image':<34}" + "".join(cells))
for name in kernels:
    for noise in noises:
        assert all(scores[None, name, noise] > scores[mode, name, noise] for mode in MODES)


def draw():
    noise = noises[0]
    shown = {"y: blurred": images["y", "motion", noise]}
    shown |= {mode: images[mode, "motion", noise] for mode in MODES}
    shown |= {"unknown, a larger image": images[None, "motion", noise], "x": x}
    titles = {
        f"{title}: {plot.psnr(image, x):.1f} dB" if title != "x" else title: image for title, image in shown.items()
    }
    return plot.image_pair(
        {title: image.clip(0, 1) for title, image in titles.items()},
        columns=4,
        title="What is assumed beyond the border of a blurred photograph",
        caption="motion of 21 pixels; each padding mode at its best damping",
    )


save_picture("22_unknown_borders.png", draw)
