"""
No light is negative
====================

x = argmin |A x - y|^2 + damp^2 |x|^2, without constraints and with: no grey value below 0, none above 1. Where much of
an image is black or white, the constraints are the better prior by far: a Gaussian blur of stars, of a photograph of
hard contrast, and of the photograph as it is. `tikhonov` has the solution without constraints in closed form;
`proximal_gradient` finds the others, by steps whose length comes from the certified norm.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv2d, identity, plot, proximal_gradient, tikhonov, vstack

photo = plot.photo(256)
rng = np.random.default_rng(0)
stars = np.zeros(photo.shape)
stars[tuple(rng.integers(0, 256, (2, 300)))] = rng.random(300)
scenes = {"stars": stars, "hard contrast": (2 * photo - 0.4).clip(0, 1), "photograph": photo}

# %%
# The projections are a line each. A penalty of squares is a part of the operator.

line = np.exp(-0.5 * (np.arange(-7, 8) / 2.2) ** 2)
A = Conv2d(np.outer(line, line) / line.sum() ** 2, photo.shape, padding=7, padding_mode="symmetric")
noise, damps = 0.002, (0.003, 0.006, 0.012, 0.024)


def not_negative(image, step):
    return np.maximum(image, 0)


def in_the_box(image, step):
    return image.clip(0, 1)


def constrained(y, damp, projection):
    stack = vstack([A, damp * identity(A.input_shape)])
    found, info = proximal_gradient(
        stack, np.stack([y, 0 * y]).reshape(stack.output_shape), projection, x0=y, rtol=2e-5
    )
    assert info.converged
    return found


# %%
# Each at its best damping, which only those who know x can tell. To clip the solution without constraints is not the
# same: its ringing is cut off, but was fitted to the data as if it could be there.

methods = {
    "tikhonov": lambda y, damp: tikhonov(A, y, damp)[0],
    "tikhonov, clipped": lambda y, damp: tikhonov(A, y, damp)[0].clip(0, 1),
    "not negative": lambda y, damp: constrained(y, damp, not_negative),
    "from 0 to 1": lambda y, damp: constrained(y, damp, in_the_box),
}
print(f"{'PSNR of':<18} " + " ".join(f"{name:>16}" for name in scenes))
data = {name: A.apply(x) + noise * rng.standard_normal(x.shape) for name, x in scenes.items()}
rows = {"y": data}
for method, solve in methods.items():
    rows[method] = {
        name: max((solve(y, damp) for damp in damps), key=lambda found: plot.psnr(found, scenes[name]))
        for name, y in data.items()
    }
values = {row: {name: plot.psnr(image, scenes[name]) for name, image in images.items()} for row, images in rows.items()}
for row, of in values.items():
    print(f"{row:<18} " + " ".join(f"{of[name]:>13.1f} dB" for name in scenes))
assert values["not negative"]["stars"] > values["tikhonov, clipped"]["stars"] + 4
assert values["from 0 to 1"]["hard contrast"] > values["tikhonov, clipped"]["hard contrast"] + 2
assert values["from 0 to 1"]["photograph"] > values["tikhonov"]["photograph"]


def draw():
    details = {"stars": (np.s_[96:160, 96:160], 0.3), "hard contrast": (np.s_[20:180, 60:220], 1)}
    images = {}
    for name, (detail, white) in details.items():
        images[f"x, {name}"] = scenes[name][detail] / white
        best = "not negative" if name == "stars" else "from 0 to 1"
        for row in ("y", "tikhonov", best):
            images[f"{name}, {row}: {values[row][name]:.1f} dB"] = rows[row][name][detail] / white
    return plot.image_pair(
        {title: image.clip(0, 1) for title, image in images.items()},
        columns=4,
        title="No light is negative, and none brighter than white",
        caption="details; PSNR over the whole images, each at its best damping",
    )


save_picture("19_constraints.png", draw)
