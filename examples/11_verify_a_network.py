"""
A network, verified
===================

A convolution, ReLU, a convolution, ReLU, a linear layer: with the convolutions as explicit sparse matrices, what the
network can answer when each pixel moves by at most eps is a question of linear programming. Three bounds of its scores,
each inside the one before, all certain (to rounding): intervals; a linear programme, where a triangle stands for each
ReLU that may switch; and the exact range, by a small programme for each way in which these ReLUs can switch.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from _picture import save_picture
from numpy.lib.stride_tricks import sliding_window_view
from scipy.optimize import linprog, minimize
from scipy.sparse import block_array, csr_array, diags_array, eye_array, vstack
from scipy.special import log_softmax

from convmat import Conv2d, plot

CLASSES = ("horizontal", "vertical", "rising")
NORMALS = np.array([[1.0, 0.0], [0.0, 1.0], [math.sqrt(0.5), math.sqrt(0.5)]])
SHAPES = {"W1": (3, 1, 3, 3), "b1": (3,), "W2": (4, 3, 3, 3), "b2": (4,), "W3": (3, 16), "b3": (3,)}

# %%
# The task: which way does a stroke run? Three classes, 8 x 8 pixels. The network is trained by L-BFGS; its
# gradient is made of transposed convolutions and of the adjoints of the weight operators.


def strokes(count, rng):
    """Noisy strokes through the middle of images, and their classes. (count, 1, 8, 8), (count,)"""
    label = np.arange(count) % len(CLASSES)
    grid = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij"))
    offset = grid - rng.uniform(2.4, 4.6, (count, 2, 1, 1))
    distance = np.einsum("nd,ndij->nij", NORMALS[label], offset)
    images = np.exp(-(distance**2)) + 0.12 * rng.standard_normal(distance.shape)
    return images[:, None], label


def unpack(theta):
    """The weights and biases of a network, from one vector."""
    ends = np.cumsum([math.prod(shape) for shape in SHAPES.values()])
    parts = np.split(theta, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}


def convolutions(p):
    """The two convolutions: 8 x 8 -> 3 x 4 x 4, with stride 2, -> 4 x 2 x 2."""
    C1 = Conv2d(p["W1"], (8, 8), stride=2, padding=1, method="matrix")
    return C1, Conv2d(p["W2"], C1.geometry.output_size, method="matrix")


def activations(p, x):
    """What the layers give before ReLU, for a batch of images, and the scores."""
    C1, C2 = convolutions(p)
    z1 = C1.apply(x) + p["b1"][:, None, None]
    z2 = C2.apply(np.maximum(z1, 0)) + p["b2"][:, None, None]
    return z1, z2, np.maximum(z2, 0).reshape(len(x), -1) @ p["W3"].T + p["b3"]


def weight_gradient(A, x, d):
    """The sum over a batch of ``A.weight_operator(x).H @ d``, in one product."""
    g = A.geometry
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), *g.padding)), g.kernel_size, axis=(2, 3))
    windows = windows[:, :, :: g.stride[0], :: g.stride[1]]
    return np.einsum("nomp,ncmpij->ocij", d, windows, optimize=True)


def loss(theta, x, label, decay=5e-3):
    """Cross-entropy with weight decay, and its gradient."""
    p = unpack(theta)
    C1, C2 = convolutions(p)
    z1, z2, scores = activations(p, x)
    h1, h2 = np.maximum(z1, 0), np.maximum(z2, 0).reshape(len(x), -1)
    logs = log_softmax(scores, axis=1)
    each = np.arange(len(x))
    d3 = np.exp(logs)
    d3[each, label] -= 1
    d3 /= len(x)
    d2 = (d3 @ p["W3"]).reshape(z2.shape) * (z2 > 0)
    d1 = C2.T.apply(d2) * (z1 > 0)
    gradient = {
        "W1": weight_gradient(C1, x, d1),
        "b1": d1.sum(axis=(0, 2, 3)),
        "W2": weight_gradient(C2, h1, d2),
        "b2": d2.sum(axis=(0, 2, 3)),
        "W3": d3.T @ h2,
        "b3": d3.sum(axis=0),
    }
    flat = np.concatenate([gradient[name].ravel() for name in SHAPES])
    return -logs[each, label].mean() + 0.5 * decay * theta @ theta, flat + decay * theta


# %%
# The trained network as what it is for a solver: three sparse matrices and three vectors.


class Affine(NamedTuple):
    """z = S h + b."""

    S: csr_array
    b: np.ndarray

    def __call__(self, h):
        return self.S @ h + self.b


def matrices(p):
    """The three layers; a bias of a channel becomes one for each of its pixels."""
    C1, C2 = convolutions(p)
    per_pixel = [np.repeat(p[b], math.prod(C.geometry.output_size)) for C, b in ((C1, "b1"), (C2, "b2"))]
    return Affine(C1.tosparse(), per_pixel[0]), Affine(C2.tosparse(), per_pixel[1]), Affine(csr_array(p["W3"]), p["b3"])


def margins(last, true):
    """The last layer, so that it gives the score of the true class minus that of each other."""
    others = [k for k in range(len(CLASSES)) if k != true]
    return Affine(csr_array(last.S[[true] * len(others)] - last.S[others]), last.b[true] - last.b[others])


# %%
# First: intervals. If h is within a radius of its middle, z = S h + b is within |S| times the radius of its own.


def interval(layer, lo, hi):
    middle, radius = layer((lo + hi) / 2), abs(layer.S) @ ((hi - lo) / 2)
    return middle - radius, middle + radius


def intervals(layers, lo, hi):
    """Bounds of z of each layer, for inputs between lo and hi."""
    bounds = []
    for layer in layers:
        bounds.append(interval(layer, lo, hi))
        lo, hi = (np.maximum(z, 0) for z in bounds[-1])
    return bounds


# %%
# Second: the triangle. A ReLU whose z keeps its sign is linear. The graph of one with l < 0 < u is replaced by its
# convex hull: h >= 0, h >= z, h <= u (z - l) / (u - l). What is left is a linear programme in x and all h.


def relaxation(layers, bounds, lo, hi):
    """The arguments of linprog but the objective, whose variables are x and the h of these layers."""
    box, rows, right, kinds = [np.stack([lo, hi], axis=1)], [], [], []
    sizes = [len(lo), *(len(layer.b) for layer in layers)]

    def add(kind, place, before, after, constant):
        """before h + after h' <= constant (or = constant), where h' is of the layer after h."""
        blocks = [csr_array((len(constant), size)) for size in sizes]
        blocks[place : place + 2] = before, after
        rows.append(block_array([blocks], format="csr"))
        right.append(constant)
        kinds.append(np.full(len(constant), kind))

    for place, (layer, (low, up)) in enumerate(zip(layers, bounds, strict=True)):
        box.append(np.maximum(np.stack([low, up], axis=1), 0))
        eye = eye_array(len(low), format="csr")
        on, free = np.flatnonzero(low >= 0), unstable((low, up))
        add("=", place, -layer.S[on], eye[on], layer.b[on])
        add("<", place, layer.S[free], -eye[free], -layer.b[free])
        slope = up[free] / (up[free] - low[free])
        add("<", place, -diags_array(slope) @ layer.S[free], eye[free], slope * (layer.b - low)[free])
    A, b, kind = vstack(rows, format="csr"), np.concatenate(right), np.concatenate(kinds)
    return {
        "A_ub": A[kind == "<"], "b_ub": b[kind == "<"], "A_eq": A[kind == "="], "b_eq": b[kind == "="],
        "bounds": np.concatenate(box),
    }  # fmt: skip


def unstable(bounds):
    """The neurons whose ReLU may switch."""
    lower, upper = bounds
    return np.flatnonzero((lower < 0) & (upper > 0))


def extremes(row, constant, programme):
    """Least and largest value of ``row v + constant``, over the v of a programme."""
    lowest, highest = (linprog(sign * row, **programme, method="highs") for sign in (1, -1))
    check(lowest.status == highest.status == 0, "HiGHS solves every relaxation")
    return lowest.fun + constant, -highest.fun + constant


def triangles(layers, bounds, lo, hi):
    """Bounds of z of each layer by linear programmes, where those by intervals leave it open."""
    tight = [bounds[0]]  # those of the first layer are exact
    for place in range(1, len(layers)):
        programme = relaxation(layers[:place], tight, lo, hi)
        lower, upper = bounds[place][0].copy(), bounds[place][1].copy()
        last = place == len(layers) - 1
        for i in range(len(lower)) if last else unstable((lower, upper)):
            row = np.zeros(len(programme["bounds"]))
            row[len(row) - layers[place].S.shape[1] :] = layers[place].S[[i]].toarray()[0]
            lower[i], upper[i] = extremes(row, layers[place].b[i], programme)
        tight.append((lower, upper))
    return tight


# %%
# Third: every way in which the unstable neurons can switch. In each, the network is one matrix, and the x for which it
# switches in this way are a polytope: the least and the largest value over all of them are exact.


def exact(layers, bounds, lo, hi):
    """The range of each output of the last layer, and the x where it is least."""
    first, second, last = layers
    free = [unstable(pair) for pair in bounds[:2]]
    box = np.stack([lo, hi], axis=1)
    least, most = np.full(len(last.b), np.inf), np.full(len(last.b), -np.inf)
    worst = [None] * len(last.b)
    for switches in itertools.product((False, True), repeat=sum(map(len, free))):
        on = [pair[0] >= 0 for pair in bounds[:2]]
        on[0][free[0]], on[1][free[1]] = switches[: len(free[0])], switches[len(free[0]) :]
        second_of_x = compose(second, on[0], first)
        out = compose(last, on[1], second_of_x)
        S = vstack([first.S[free[0]], second_of_x.S[free[1]]])
        b = np.concatenate([first.b[free[0]], second_of_x.b[free[1]]])
        sign = np.where(switches, -1.0, 1.0)  # z >= 0 where it is on, z <= 0 where it is off
        leaf = {"A_ub": diags_array(sign) @ S, "b_ub": -sign * b, "bounds": box} if len(b) else {"bounds": box}
        lower, upper = interval(out, lo, hi)
        for i, row in enumerate(out.S.toarray()):
            # A leaf that cannot widen the range need not be solved; one without any x (status 2) gives nothing.
            if lower[i] < least[i]:
                found = linprog(row, **leaf, method="highs")
                check(found.status in (0, 2), "HiGHS solves every leaf")
                if found.status == 0 and found.fun + out.b[i] < least[i]:
                    least[i], worst[i] = found.fun + out.b[i], found.x
            if upper[i] > most[i]:
                found = linprog(-row, **leaf, method="highs")
                check(found.status in (0, 2), "HiGHS solves every leaf")
                most[i] = max(most[i], out.b[i] - found.fun) if found.status == 0 else most[i]
    return least, most, worst


def compose(layer, on, before):
    """The layer after the ReLUs, of which those that are on let their z pass."""
    mask = diags_array(on.astype(float))
    return Affine(csr_array(layer.S @ mask @ before.S), layer(on * before.b))


def check(holds, what):
    if not holds:
        raise SystemExit(f"violated: {what}")


# %%
# Train, and take the stroke of 600 new ones of which the network is least certain, though right.

rng = np.random.default_rng(3)
x, label = strokes(300, rng)
scale = {name: math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0 for name, shape in SHAPES.items()}
start = np.concatenate([scale[name] * rng.standard_normal(math.prod(shape)) for name, shape in SHAPES.items()])
trained = minimize(loss, start, args=(x, label), jac=True, method="L-BFGS-B", options={"maxiter": 60})
p = unpack(trained.x)

x, label = strokes(600, rng)
scores = activations(p, x)[2]
own = scores[np.arange(len(x)), label]
lead = own - np.where(np.arange(3) == label[:, None], -np.inf, scores).max(axis=1)
print(f"trained to a loss of {trained.fun:.4f}; of {len(x)} new strokes, {np.mean(lead > 0):.1%} are told right")

hardest = int(np.argmin(np.where(lead > 0, lead, np.inf)))
image, true = x[hardest].ravel(), int(label[hardest])
others = [name for k, name in enumerate(CLASSES) if k != true]
layers = matrices(p)
layers = (*layers[:2], margins(layers[2], true))
print("the layers: " + ", ".join(f"{S.shape[0]} x {S.shape[1]}, {S.nnz} entries" for S, _ in layers))

C1 = convolutions(p)[0]
d = rng.standard_normal((1, *C1.output_shape))
of_operator = (C1.weight_operator(x[0]).H @ d.ravel()).reshape(p["W1"].shape)
check(np.allclose(weight_gradient(C1, x[:1], d), of_operator), "the gradient is the adjoint of the weight operator")

# %%
# The range of each margin, the score of the true class minus another one: if it is positive, the answer cannot change.

RADII = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
NAMES = ("interval", "LP", "exact", "sampled")


def sampled(eps, count=4000):
    """The range of the margins over random images within eps, a half of them corners, by the network itself."""
    moves = rng.uniform(-eps, eps, (count, len(image)))
    moves[::2] = eps * np.sign(moves[::2])
    z1, z2, scores = activations(p, (image + moves).reshape(-1, 1, 8, 8))
    found = scores[:, [true]] - np.delete(scores, true, axis=1)
    return (found.min(axis=0), found.max(axis=0)), (z1.reshape(count, -1), z2.reshape(count, -1))


def show(ranges, k):
    return "  ".join(f"[{low[k]:>6.2f}, {high[k]:>6.2f}]" for low, high in ranges.values())


print(f"\n{'eps':<5}  {'margin':<19}  {'unstable':>8}  " + "  ".join(f"{name:^16}" for name in NAMES))
table, fooled = {}, None
for eps in RADII:
    lo, hi = image - eps, image + eps
    wide = intervals(layers, lo, hi)
    tight = triangles(layers, wide, lo, hi)
    count = sum(len(unstable(pair)) for pair in tight[:2])
    check(count <= 10, f"at eps={eps} few ReLUs can switch, not {count}")
    *ends, worst = exact(layers, tight, lo, hi)
    seen, inner = sampled(eps)
    table[eps] = ranges = dict(zip(NAMES, (wide[-1], tight[-1], ends, seen), strict=True))
    for k, name in enumerate(others):
        print(f"{eps:<5}  {f'{CLASSES[true]} - {name}':<19}  {count:>8}  {show(ranges, k)}")

    for (outer, (a, b)), (within, (c, d)) in itertools.pairwise(ranges.items()):
        check(np.all(a <= c + 1e-7) and np.all(d <= b + 1e-7), f"{outer} encloses {within} at eps={eps}")
    for z, (low, up) in zip(inner, tight[:2], strict=True):
        check(np.all(z >= low - 1e-9) and np.all(z <= up + 1e-9), f"no sampled z leaves its bounds at eps={eps}")
    for k, point in enumerate(worst):
        reached = activations(p, point.reshape(1, 1, 8, 8))[2][0]
        gap = reached[true] - np.delete(reached, true)[k] - ends[0][k]
        check(
            abs(gap) < 1e-6 and np.abs(point - image).max() <= eps + 1e-9, f"the network reaches the bound at eps={eps}"
        )
        if fooled is None and ends[0][k] < 0:
            fooled = eps, point, others[k]


def radius(name):
    """The largest eps at which this range of every margin stays above zero."""
    return max((eps for eps in RADII if table[eps][name][0].min() > 0), default=0)


check(radius("interval") < radius("LP") < radius("exact") < RADII[-1], "each bound proves more than the one before")
check(fooled is not None, "beyond, an image is taken for another class")
print(
    f"\nproved up to eps = {radius('interval')} by intervals, {radius('LP')} by the LP, {radius('exact')} exactly; "
    f"within {fooled[0]}, the programme finds\nan image that the network takes for {fooled[2]}. "
    f"By random images alone one would believe in {radius('sampled')}."
)


def draw():
    figure = plot.new_figure(10, 4)
    grid = figure.add_gridspec(1, 3, width_ratios=(1, 1, 2.2))
    for place, (pixels, title) in enumerate(
        ((image, f"x:\n{CLASSES[true]}"), (fooled[1], f"x', within {fooled[0]} of x:\ntaken for {fooled[2]}"))
    ):
        axes = figure.add_subplot(grid[place])
        axes.imshow(pixels.reshape(8, 8), cmap="gray", vmin=-0.3, vmax=1.3, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    axes = figure.add_subplot(grid[2])
    k = others.index(fooled[2])
    start = own[hardest] - scores[hardest, CLASSES.index(fooled[2])]
    styles = (("#999999", ":"), ("#56b4e9", "--"), ("#0072b2", "-"), ("#e69f00", "-."))
    for name, (colour, style) in zip(NAMES, styles, strict=True):
        least = [start, *(table[eps][name][0][k] for eps in RADII)]
        axes.plot((0, *RADII), least, style, color=colour, label=name, linewidth=2, marker="o", markersize=3)
    axes.axhline(0, color="black", linewidth=1)
    axes.set_ylim(table[RADII[-1]]["LP"][0][k] - 0.1, start + 0.1)
    axes.set_xlim(0, RADII[-1])
    axes.set_xlabel("eps: how far each pixel may move")
    axes.set_ylabel(f"least {CLASSES[true]} - {fooled[2]}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    axes.set_title("How small the margin can get; below zero, the answer changes", fontsize=11)
    return figure


save_picture("11_verify_a_network.png", draw)
