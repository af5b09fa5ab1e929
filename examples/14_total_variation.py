"""
Total variation
===============

x = argmin |A x - y|^2 / 2 + strength TV(x), 0 <= x <= 1: a blurred and noisy photograph comes back with its edges.
TV(x) is the sum of the lengths |(D x)_m| of the gradient, where Tikhonov's prior takes their squares. The algorithm of
Chambolle and Pock needs products with A, D and their transposes alone; it converges if its steps tau and sigma have
tau sigma |K|^2 < 1, K = [A; D]. `vstack` makes K, `norm_bounds` proves the bound. A number that is not one spoils it.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv2d, norm_bounds, plot, tikhonov, vstack

# %%
# A Gaussian blur; forward differences as one layer of two channels. "replicate" makes them 0 beyond the border.

x = plot.photo(256)[None]
line = np.exp(-0.5 * (np.arange(-4, 5) / 1.6) ** 2)
blur = np.outer(line, line)[None, None] / line.sum() ** 2
differences = np.array([[[[-1.0, 0], [1, 0]]], [[[-1, 1], [0, 0]]]])
A = Conv2d(blur, x.shape[1:], padding=4, padding_mode="symmetric")
D = Conv2d(differences, x.shape[1:], padding=((0, 1), (0, 1)), padding_mode="replicate")
K = vstack([A, D])
y = A.apply(x) + 0.02 * np.random.default_rng(0).standard_normal(A.output_shape)

# %%
# An upper bound on the norm of K, and the usual number: the norm of the kernels, reshaped to a matrix.

lower, upper = norm_bounds(K)
reshaped = float(np.hypot(np.linalg.norm(blur), np.linalg.norm(differences.reshape(2, -1), 2)))
print(f"|K| is in [{lower:.3f}, {upper:.3f}]; the reshaped kernels have the norm {reshaped:.3f}")
assert reshaped < lower

# %%
# The dual problem: max -|p|^2 / 2 - <p, y> + sum min(0, r), r = K^T (p, q), over all p, and all q with
# |q_m| <= strength. It is never larger than the primal one, so that the gap between them bounds how far the objective
# of an image is from the minimum.

STEPS = 200


def gap(u, p, q, strength):
    """How much larger the objective is than the dual one, in relation to it."""
    length = np.sqrt((D.apply(u) ** 2).sum(axis=0)).sum()
    primal = ((A.apply(u) - y) ** 2).sum() / 2 + strength * length
    r = A.T.apply(p) + D.T.apply(q)
    return (primal + (p**2).sum() / 2 + (p * y).sum() - np.minimum(r, 0).sum()) / primal


def chambolle_pock(strength, norm):
    """The image after all steps, and the gap after every tenth."""
    tau, sigma = 9.9 / norm, 0.099 / norm  # any ratio will do: the dual variables are small, so that small steps do
    u = ahead = np.clip(y, 0, 1)
    p, q, gaps = np.zeros(A.output_shape), np.zeros(D.output_shape), []
    for step in range(1, STEPS + 1):
        p = (p + sigma * (A.apply(ahead) - y)) / (1 + sigma)
        q = q + sigma * D.apply(ahead)
        q /= np.maximum(1, np.sqrt((q**2).sum(axis=0)) / strength)
        before, u = u, np.clip(u - tau * (A.T.apply(p) + D.T.apply(q)), 0, 1)
        ahead = 2 * u - before
        if step % 10 == 0:
            gaps.append(gap(u, p, q, strength))
    return u, gaps


# %%
# Both priors at their best, which only those who know x can tell. Total variation keeps edges, and makes patches of one
# grey where there is a slope.

damps, strengths = np.geomspace(0.02, 0.5, 9), 0.0005 * 2.0 ** np.arange(4)
smooth = [tikhonov(A, y, damp, regularizer=D)[0] for damp in damps]
sharp, histories = zip(*(chambolle_pock(strength, upper) for strength in strengths), strict=True)
by_damp, by_strength = ([plot.psnr(image, x) for image in images] for images in (smooth, sharp))
at, best = np.argmax(by_damp), np.argmax(by_strength)
z, damp, u, strength, gaps = smooth[at], damps[at], sharp[best], strengths[best], histories[best]
_, stuck = chambolle_pock(strength, reshaped)
print(f"PSNR of y                         {plot.psnr(y, x):6.2f} dB")
print(f"  |A x - y|^2 + damp^2 |D x|^2    {plot.psnr(z, x):6.2f} dB, damp = {damp:.3f}")
print(f"  total variation                 {plot.psnr(u, x):6.2f} dB, strength = {strength:.4f}")
print(f"duality gap after {STEPS} steps: {gaps[-1]:.2%} of the objective, which is no further above its minimum")
print(f"with steps from the norm of the reshaped kernels: {stuck[-1]:.0%}, and no step makes it less")
assert plot.psnr(u, x) > plot.psnr(z, x) + 1
assert 0 <= gaps[-1] < 2e-2
assert min(stuck) > 1


def draw():
    figure = plot.new_figure(13, 7.2)
    upper_row, lower_row = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    titles = {
        "x": x,
        f"y: {plot.psnr(y, x):.1f} dB": y,
        f"Tikhonov, |D x|$^2$: {plot.psnr(z, x):.1f} dB": z,
        f"total variation: {plot.psnr(u, x):.1f} dB": u,
    }
    for ax, (title, image) in zip(upper_row.subplots(1, 4), titles.items(), strict=True):
        ax.imshow(image[0], cmap="gray", vmin=0, vmax=1)
        ax.set_title(title, fontsize=11)
        ax.set_axis_off()
    left, right = lower_row.subplots(1, 2)
    steps = 10 * np.arange(1, len(gaps) + 1)
    left.semilogy(steps, gaps, color="#0072b2", label=f"certified, |K| <= {upper:.2f}")
    left.semilogy(steps, stuck, "--", color="#d55e00", label=f"reshaped kernels, {reshaped:.2f}")
    left.set_xlabel("steps")
    left.set_title("duality gap / objective", fontsize=11)
    right.plot(damps / damp, by_damp, "o-", color="#999999", label="Tikhonov")
    right.plot(strengths / strength, by_strength, "o-", color="#0072b2", label="total variation")
    right.set_xscale("log", base=2)
    right.set_xlabel("weight of the prior / the best")
    right.set_title("PSNR, dB", fontsize=11)
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=10)
    return figure


save_picture("14_total_variation.png", draw)
