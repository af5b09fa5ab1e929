"""
Sparse in wavelets
==================

x = argmin |A x - y|^2 / 2 + strength |W x|_1, where W is an orthogonal wavelet transform: a photograph needs few
wavelets, and noise needs them all. W is a chain of strided convolutions whose transpose is exact, and the inverse. So
the proximal map of the penalty is a threshold on the coefficients, and `proximal_gradient` does the rest. Against
Tikhonov's penalties, |x|^2 and |D x|^2 with the gradient D, for a photograph that a moving camera has blurred.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv2d, block_diag, cgls, identity, plot, proximal_gradient, vstack

# %%
# Daubechies' filters of four taps: one channel to four of half the size, on a torus; the next level does the same to
# the first of them.

r = np.sqrt(3)
low = np.array([1 + r, 3 + r, 3 - r, 1 - r]) / np.sqrt(32)
high = low[::-1] * [1, -1, 1, -1]
bank = np.array([np.outer(a, b) for a in (low, high) for b in (low, high)])[:, None]
LEVELS = 4


def wavelets(levels, size):
    H = Conv2d(bank, (size, size), stride=2, padding=1, padding_mode="circular")
    if levels == 1:
        return H
    half = size // 2
    return block_diag([wavelets(levels - 1, half), identity((3, half, half))]) @ H


x = plot.photo(256)[None]
W = wavelets(LEVELS, 256)
coefficients = np.sort(np.abs(W.apply(x)))
print(f"The largest tenth of the wavelets holds {(coefficients[-6554:] ** 2).sum() / (x**2).sum():.2%} of |x|^2")
assert np.allclose(W.T.apply(W.apply(x)), x)

# %%
# The camera went down by 15 pixels. What is beyond the border, a mirror tells.

A = Conv2d(np.full((1, 1, 15, 1), 1 / 15), x.shape[1:], padding=(7, 0), padding_mode="symmetric")
y = A.apply(x) + 0.005 * np.random.default_rng(0).standard_normal(x.shape)
D = Conv2d(
    [[[[-1.0, 0], [1, 0]]], [[[-1, 1], [0, 0]]]], x.shape[1:], padding=((0, 1), (0, 1)), padding_mode="replicate"
)
coarse = (256 >> LEVELS) ** 2


def soft(strength):
    """The proximal map of the sum of all |W x|, but those of the coarse image, which are not few."""

    def prox(image, step):
        c = W.apply(image)
        c[coarse:] = np.sign(c[coarse:]) * np.maximum(np.abs(c[coarse:]) - step * strength, 0)
        return W.T.apply(c)

    return prox


def sparse(strength):
    found, info = proximal_gradient(A, y, soft(strength), x0=y)
    assert info.converged
    return found


def smooth(R, damp):
    stack = vstack([A, damp * R])
    found, info = cgls(stack, np.concatenate([y.ravel(), np.zeros(R.shape[0])]), rtol=1e-4)
    assert info.converged
    return found.reshape(x.shape)


# %%
# Each at its best weight, which only those who know x can tell.

damps, strengths = np.geomspace(0.01, 0.16, 9), np.geomspace(1e-4, 1.6e-3, 9)
priors = {
    "|x|$^2$": (damps, [smooth(identity(x.shape), damp) for damp in damps]),
    "|D x|$^2$": (damps, [smooth(D, damp) for damp in damps]),
    "|W x|$_1$": (strengths, [sparse(strength) for strength in strengths]),
}
curves = {name: [plot.psnr(image, x) for image in images] for name, (_, images) in priors.items()}
best = {name: images[int(np.argmax(curves[name]))] for name, (_, images) in priors.items()}
print(f"\nPSNR of y           {plot.psnr(y, x):6.2f} dB")
for name, (weights, _) in priors.items():
    print(f"  {name.replace('$', ''):<17} {max(curves[name]):6.2f} dB, weight {weights[np.argmax(curves[name])]:.4f}")
few = np.count_nonzero(np.abs(W.apply(best["|W x|$_1$"])) > 1e-9) / x.size
print(f"{few:.0%} of the wavelets are not 0")
assert max(curves["|W x|$_1$"]) > max(curves["|D x|$^2$"]) + 0.8


def draw():
    figure = plot.new_figure(13, 7.6)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.1])
    titles = {"x": x, f"y: {plot.psnr(y, x):.1f} dB": y, "W x, from coarse to fine": None}
    titles |= {f"{name}: {max(curves[name]):.1f} dB": best[name] for name in ("|D x|$^2$", "|W x|$_1$")}
    axes = upper.subplots(1, 5)
    for ax, (title, image) in zip(axes, titles.items(), strict=True):
        if image is None:
            shown = tiles(np.abs(W.apply(x)), LEVELS, 256) ** 0.4
            ax.imshow(shown, cmap="gray", vmin=0, vmax=1)
        else:
            ax.imshow(image[0, 40:168, 64:192], cmap="gray", vmin=0, vmax=1)
        ax.set_title(title, fontsize=11)
        ax.set_axis_off()
    ax = lower.subplots()
    for (name, (weights, _)), colour in zip(priors.items(), ("#999999", "#e69f00", "#0072b2"), strict=True):
        ax.plot(weights / weights[np.argmax(curves[name])], curves[name], "o-", color=colour, label=name)
    ax.set_xscale("log", base=2)
    ax.set_xlabel("weight of the prior / the best")
    ax.set_title("PSNR, dB", fontsize=11)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=10)
    return figure


def tiles(coefficients, levels, size):
    """The coefficients as one image: the coarse one in its corner, the others where they belong."""
    if levels == 0:
        return coefficients.reshape(size, size)
    half = size // 2
    first, rest = coefficients[: half * half], coefficients[half * half : size * size]
    a, b, c = rest.reshape(3, half, half)
    return np.block([[tiles(first, levels - 1, half), a], [b, c]])


save_picture("20_sparse_in_wavelets.png", draw)
