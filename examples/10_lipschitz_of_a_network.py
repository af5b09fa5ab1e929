"""
The Lipschitz constant of a network
===================================

A layer followed by ReLU stretches a difference of inputs by at most the spectral norm of its convolution; a network by
at most the product of these. Usually the norm is taken of the kernel, reshaped to a matrix of C_out rows. That is
another number: it may be smaller than the norm of the layer, and then it bounds nothing. `norm_bounds` encloses the
norm itself.
"""

import math

import numpy as np
from _picture import save_picture

from convmat import Conv2d, norm_bounds, plot

# %%
# A small network for 32 x 32 colour images, with random weights (He), strides, and a depthwise layer.

LAYERS = {
    "first": (3, 16, 3, 1, 1, "zeros"),
    "down 1": (16, 32, 3, 2, 1, "zeros"),
    "depthwise": (32, 32, 5, 1, 32, "zeros"),
    "pointwise": (32, 64, 1, 1, 1, "zeros"),
    "down 2": (64, 64, 3, 2, 1, "zeros"),
    "circular": (64, 64, 3, 1, 1, "circular"),
    "down 3": (64, 64, 3, 2, 1, "zeros"),
}
"""Name -> input channels, output channels, taps, stride, groups, padding mode."""

rng = np.random.default_rng(0)
size, names, reshaped, lower, upper = (32, 32), [], [], [], []
network = []
print(
    f"{'layer':<10} {'channels':>9} {'image':>6} {'taps':>5} {'stride':>6} {'reshaped':>9} {'certified':>17} {'gap':>7}"
)
for name, (ins, outs, taps, stride, groups, mode) in LAYERS.items():
    W = rng.standard_normal((outs, ins // groups, taps, taps)) * math.sqrt(2 / (ins // groups * taps**2))
    A = Conv2d(W, size, stride=stride, padding=taps // 2, groups=groups, padding_mode=mode)
    low, high = norm_bounds(A)
    usual = float(np.linalg.norm(W.reshape(outs, -1), 2))
    print(
        f"{name:<10} {ins:>3} -> {outs:>2} {size[0]:>6} {taps} x {taps} {stride:>6} {usual:>9.3f} "
        f"[{low:.4f}, {high:.4f}] {high / low - 1:>7.2%}"
    )
    assert low <= high
    names.append(name)
    reshaped.append(usual)
    lower.append(low)
    upper.append(high)
    network.append(A)
    size = A.geometry.output_size

# %%
# The product over the layers bounds the whole network. The reshaped kernels give a smaller number, which is no bound.

certified, usual = math.prod(upper), math.prod(reshaped)
wrong = [name for name, a, b in zip(names, reshaped, lower, strict=True) if a < b]
print(f"\nlayers whose reshaped kernel has a smaller norm than the layer: {', '.join(wrong)}")
print(f"product of the certified norms: {certified:.4g}")
print(f"product of the reshaped ones:   {usual:.4g}, {certified / usual:.1f} times less")

# %%
# Power iteration on A^T A finds a difference of images that a strided layer stretches by more than the reshaped norm.

A = network[names.index("down 1")]
x = rng.standard_normal(A.shape[1])
for _ in range(30):
    x = A.rmatvec(A @ x)
    x /= np.linalg.norm(x)
stretch = float(np.linalg.norm(A @ x))
at = names.index("down 1")
print(
    f"\nlayer 'down 1' stretches an image by {stretch:.4f}: more than {reshaped[at]:.4f}, and at most {upper[at]:.4f}"
)
assert reshaped[at] < stretch <= upper[at]


def draw():
    figure = plot.new_figure(8, 4.2)
    axes = figure.add_subplot()
    places = np.arange(len(names))
    middle = (np.array(lower) + np.array(upper)) / 2
    axes.bar(places - 0.2, reshaped, 0.4, color="#bbbbbb", label="reshaped kernel: the usual number, no bound")
    axes.bar(places + 0.2, middle, 0.4, color="#0072b2", label="certified: between the black marks")
    axes.errorbar(
        places + 0.2, middle, yerr=(np.array(upper) - np.array(lower)) / 2, fmt="none", ecolor="black", capsize=6
    )
    axes.set_xticks(places, names)
    axes.set_ylabel("spectral norm")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(f"How far each layer stretches: {certified:.0f} in all, not {usual:.0f}")
    return figure


save_picture("10_lipschitz_of_a_network.png", draw)
