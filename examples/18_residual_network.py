"""
A residual network, layer by layer and as a whole
=================================================

A block x -> relu(S x + C2 relu(C1 x)) stretches a difference of inputs by at most |S| + |C2| |C1|, and a network by at
most the product over its blocks. How much of that is there? At each input the network is linear nearby, and its
Jacobian an operator of the algebra: ReLU is a diagonal of zeros and ones. `norm_bounds` encloses the norms of the
layers, and those of the Jacobians. Layers attain their bounds, blocks less than half of them, and the network next to
nothing of the product. Dividing each layer by its norm, or clipping its singular values, keeps the product small.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from _picture import save_picture

from convmat import Conv2d, Diagonal, clip_singular_values, identity, norm_bounds, plot, simplify
from convmat.operators import ImageOperator

rng = np.random.default_rng(0)


# %%
# A block, its value, and its Jacobian where it is: each ReLU lets those samples pass that are positive.


@dataclass(frozen=True)
class Block:
    name: str
    first: Conv2d
    second: Conv2d
    skip: ImageOperator
    biases: tuple[np.ndarray, np.ndarray]

    def inside(self, x):
        return self.first.apply(x) + self.biases[0]

    def before_relu(self, x):
        return self.skip.apply(x) + self.second.apply(np.maximum(self.inside(x), 0)) + self.biases[1]

    def __call__(self, x):
        return np.maximum(self.before_relu(x), 0)

    def jacobian(self, x):
        inner, outer = ((y > 0).astype(float) for y in (self.inside(x), self.before_relu(x)))
        D1, D2 = Diagonal(inner, inner.shape), Diagonal(outer, outer.shape)
        return D2 @ (self.skip + self.second @ D1 @ self.first)

    def norms(self):
        """Bounds on the norms of both layers and of the skip."""
        return [norm_bounds(A) for A in (self.first, self.second, self.skip)]

    def bound(self):
        (_, first), (_, second), (_, skip) = self.norms()
        return skip + second * first


# %%
# Four blocks for 16 x 16 colour images, with random weights (He). Each batch norm is made from a batch of images and
# folded: `simplify` turns a diagonal and a convolution into one convolution.


def convolution(ins, outs, size, taps=3, stride=1):
    W = rng.standard_normal((outs, ins, taps, taps)) * math.sqrt(2 / (ins * taps**2))
    return Conv2d(W, (size, size), stride=stride, padding=taps // 2)


def folded(A, images, gain):
    """The convolution with its batch norm, and the offset of each channel."""
    y = A.apply(images)
    mean, deviation = (f(y, axis=(0, 2, 3))[:, None, None] for f in (np.mean, np.std))
    return simplify(Diagonal(gain / deviation, A.output_shape) @ A), -gain * mean / deviation


images = rng.standard_normal((32, 3, 16, 16))
stem, offset = folded(convolution(3, 8, 16), images, 1.0)
features = np.maximum(stem.apply(images) + offset, 0)
blocks, ins = [], 8
for width, size, stride in [(8, 16, 1), (16, 16, 2), (16, 8, 1), (32, 8, 2)]:
    first, b1 = folded(convolution(ins, width, size, stride=stride), features, 1.0)
    middle = np.maximum(first.apply(features) + b1, 0)
    second, b2 = folded(convolution(width, width, size // stride), middle, 0.5)
    skip, b3 = identity(features.shape[1:]), 0.0
    if stride > 1:
        skip, b3 = folded(convolution(ins, width, size, taps=1, stride=stride), features, 1.0)
    block = Block(f"{len(blocks) + 1}: {width} x {size // stride}", first, second, skip, (b1, b2 + b3))
    blocks.append(block)
    features, ins = block(features), width

# %%
# Layer by layer: the certified norms, and what is left between their bounds.

print(f"{'block':<10} {'first layer':>17} {'second layer':>17} {'skip':>17} {'largest gap':>12}")
for block in blocks:
    norms = block.norms()
    gap = max(high / low - 1 for low, high in norms)
    print(f"{block.name:<10}", *(f"{f'[{low:.3f}, {high:.3f}]':>17}" for low, high in norms), f"{gap:>12.2%}")
    assert all(low <= high for low, high in norms)

# %%
# Block by block, and up to each block: the bound against the largest Jacobian found. The search goes where the Jacobian
# says that the network is steep: along its largest singular vector, from some images.


def jacobians(blocks, x):
    """Those of the blocks at an input of the first."""
    found = []
    for block in blocks:
        found.append(block.jacobian(x))
        x = block(x)
    return found


def product(operators):
    return math.prod(reversed(operators[:-1]), start=operators[-1])


def steepest(A, steps=15):
    """About the largest singular vector, by power iteration."""
    x = rng.standard_normal(A.shape[1])
    for _ in range(steps):
        x = A.rmatvec(A @ x)
        x /= np.linalg.norm(x)
    return x.reshape(A.input_shape)


def largest_jacobian(blocks, start, trials=2):
    """The largest norm of a Jacobian found, between bounds that are proven."""
    found = (0.0, 0.0)
    for x in start[:trials]:
        size = np.linalg.norm(x)
        for _ in range(3):
            J = product(jacobians(blocks, x))
            v = steepest(J)
            stretch = float(np.linalg.norm(J.apply(v)))
            if stretch > found[0]:
                found, worst = (stretch, 0.0), J
            x = x + 0.5 * size * v
    return norm_bounds(worst)


def measure(blocks):
    """Bound and largest Jacobian of each block, and of the network up to it."""
    x = np.maximum(stem.apply(images) + offset, 0)
    start, alone, whole, product_of_bounds = x, [], [], 1.0
    for position, block in enumerate(blocks):
        bound = block.bound()
        product_of_bounds *= bound
        alone.append((bound, *largest_jacobian([block], x)))
        whole.append((product_of_bounds, *largest_jacobian(blocks[: position + 1], start)))
        x = block(x)
    return np.array(alone), np.array(whole)


def report(title, alone, whole):
    print(f"\n{title}\n{'block':<10} {'bound':>8} {'Jacobian':>18}   {'bound so far':>12} {'Jacobian so far':>18}")
    for block, (bound, low, high), (so_far, low_so_far, high_so_far) in zip(blocks, alone, whole, strict=True):
        one, all_ = f"[{low:.3f}, {high:.3f}]", f"[{low_so_far:.2f}, {high_so_far:.2f}]"
        print(f"{block.name:<10} {bound:>8.3f} {one:>18}   {so_far:>12.2f} {all_:>18}")
        assert low <= bound * (1 + 1e-9)
        assert low_so_far <= so_far * (1 + 1e-9)


# %%
# Two ways to make it stretch less: divide each layer by its certified norm, or take the nearest weight whose singular
# values are at most 1. Either way |S| + |C2| |C1| <= 2 for a block. (A layer with zero padding is a part of a periodic
# one on a torus that has two samples more.)


def divided(A):
    return A if not isinstance(A, Conv2d) else Conv2d(A.weight / norm_bounds(A)[1], **geometry(A))


def clipped(A):
    if not isinstance(A, Conv2d):
        return A
    torus = tuple(n + 2 for n in A.geometry.input_size)
    W = clip_singular_values(A.weight, torus, 1.0, stride=A.geometry.stride, rtol=0.02)
    return Conv2d(W, **geometry(A))


def geometry(A):
    g = A.geometry
    return {"input_size": g.input_size, "stride": g.stride, "padding": g.padding}


def with_layers(change):
    return [replace(b, first=change(b.first), second=change(b.second), skip=change(b.skip)) for b in blocks]


networks = {"as it is": blocks, "divided by the norms": with_layers(divided), "clipped": with_layers(clipped)}
results = {}
for title, network in networks.items():
    results[title] = measure(network)
    report(f"The network {title}" if title == "as it is" else f"Layers {title}", *results[title])

print(f"\n{'layers':<22} {'bound':>9} {'Jacobian':>9} {'attained':>9}")
for title, (_, whole) in results.items():
    bound, low, _ = whole[-1]
    print(f"{title:<22} {bound:>9.1f} {low:>9.2f} {low / bound:>9.1%}")


def draw():
    figure = plot.new_figure(9.5, 4.2)
    left, right = figure.subplots(1, 2)
    places = np.arange(len(blocks))
    alone, _ = results["as it is"]
    left.bar(places - 0.2, alone[:, 0], 0.4, color="#bbbbbb", label="|S| + |C2| |C1|")
    left.bar(places + 0.2, alone[:, 1], 0.4, color="#0072b2", label="largest Jacobian found")
    left.set_xticks(places, [block.name for block in blocks], rotation=30)
    left.set_title("Each block by itself")
    for (title, (_, whole)), color in zip(results.items(), ("#bbbbbb", "#d55e00", "#009e73"), strict=True):
        right.semilogy(places, whole[:, 0], color=color, label=title)
        right.semilogy(places, whole[:, 1], "o--", color=color, markersize=4)
    right.set_xticks(places, [str(place + 1) for place in places])
    right.set_xlabel("blocks so far")
    right.set_title("The network: bounds (lines), Jacobians (dots)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    left.set_ylabel("norm")
    left.set_ylim(0, 1.25 * alone.max())  # room for the legend
    return figure


save_picture("18_residual_network.png", draw)
