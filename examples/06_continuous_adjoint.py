r"""
The continuous adjoint, and why its factor vanishes on the grid
===============================================================

On R^D the strided convolution is

    (K_n f)(x) = ∫ k(n x - y) f(y) dy,

and its adjoint

    (K_n' g)(y) = n^-D ∫ k~(y - u) g(u / n) du,   k~(x) = k(-x):

stretch g by n, convolve with the flipped kernel, divide by n^D, the Jacobian of u = n x. Here both sides of
<K_n f, g> = <f, K_n' g> are computed by quadrature. Then the same on a grid, with `convmat`: zero filling keeps one
sample of g(u / n) in n^D, so it *is* the Riemann sum with the cell (n h)^D, and the factor n^-D is gone.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv1d, Conv2d, plot

# %%
# Smooth, asymmetric functions that vanish far out: there the trapezoidal rule on the whole line is exact to rounding.


def k1(t):
    return np.exp(-((t - 0.4) ** 2)) * (1 + 0.5 * np.sin(t))


def f1(y):
    return np.exp(-((y + 0.3) ** 2) / 2) * (1 + 0.5 * np.cos(2 * y))


def g1(x):
    return np.exp(-((x - 0.2) ** 2)) * (2 + np.sin(3 * x))


def k2(t1, t2):
    return np.exp(-((t1 - 0.4) ** 2) - (t2 + 0.2) ** 2 - 0.4 * t1 * t2)


def f2(y1, y2):
    return np.exp(-((y1 + 0.3) ** 2) / 2 - y2**2 + 0.5 * y1 * y2) * (1 + 0.3 * y2)


def g2(x1, x2):
    return np.exp(-((x1 - 0.2) ** 2) - (x2 - 0.1) ** 2) * (1 + 0.5 * x1 * x2)


def line(reach, points):
    """Nodes on [-reach, reach] and the step between them."""
    nodes, step = np.linspace(-reach, reach, points, retstep=True)
    return nodes, step


# %%
# One dimension. The two sides use different nodes: x for <K_n f, g>, and u = n x, elsewhere, for <f, K_n' g>.

print("D = 1: <K_n f, g> and <f, K_n' g>, with and without the factor n^-1\n")
heading = "  {:>4} {:>18} {:>18} {:>11} {:>18}"
row = "  {:>4} {:>18.14f} {:>18.14f} {:>11.1e} {:>18.14f}"
print(heading.format("n", "<K_n f, g>", "<f, K_n' g>", "difference", "without factor"))
y, dy = line(9, 361)
for n in (1, 1.5, 2, 3, 5):
    x, dx = line(6, 601)
    K_f = k1(n * x[:, None] - y) @ f1(y) * dy
    left = K_f @ g1(x) * dx
    u, du = line(6 * n + 1, 907)
    K_g = n**-1.0 * (k1(-(y[:, None] - u)) @ g1(u / n)) * du
    right = f1(y) @ K_g * dy
    print(row.format(n, left, right, abs(left - right), n * right))
    assert abs(left - right) < 1e-13 * abs(left)
    assert n == 1 or abs(left - n * right) > 0.1 * abs(left)

# %%
# Two dimensions: the factor is n^-2, not n^-1.

print("\nD = 2: the factor is n^-2\n")
print(heading.format("n", "<K_n f, g>", "<f, K_n' g>", "difference", "with n^-1"))
y, dy = line(6.5, 37)
y1, y2 = np.meshgrid(y, y, indexing="ij")
for n in (1.5, 2):
    x, dx = line(4.6, 49)
    left = right = 0.0
    for x1 in x:  # one line of x at a time, so that the four-fold table k2(n x - y) stays small
        table = k2(n * x1 - y1, n * x[:, None, None] - y2)
        left += g2(x1, x) @ (table * f2(y1, y2)).sum(axis=(1, 2)) * dy**2 * dx**2
    u, du = line(4.6 * n, 45)
    for u1 in u:
        table = k2(-(y1 - u1), -(y2 - u[:, None, None]))
        right += n**-2.0 * g2(u1 / n, u / n) @ (table * f2(y1, y2)).sum(axis=(1, 2)) * du**2 * dy**2
    print(row.format(n, left, right, abs(left - right), n * right))
    assert abs(left - right) < 1e-11 * abs(left)

# %%
# On a grid of step h: A[m, j] = k(h (n m - j)), a true convolution (flip=True) with stride s = n. Then
#
#     h^D (A^T g)[j] = n^-D sum over m of k~(y_j - u_m) g(u_m / n) (n h)^D,   u_m = n h m,
#
# is the Riemann sum of K_n' g(y_j) whose cells are (n h)^D large, because zero filling left one sample in each. The
# factor n^-D and the cell n^D cancel. For a smooth kernel it converges faster than any power of h, for a hat, which
# has kinks, as h^2.


def hat(t):
    return np.maximum(0, 1 - np.abs(t - 0.25) / 1.7)


def gauss(edges, order=40):
    """Nodes and weights of Gauss-Legendre quadrature between consecutive edges."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    a, b = np.asarray(edges[:-1])[:, None], np.asarray(edges[1:])[:, None]
    return ((a + b + (b - a) * nodes) / 2).ravel(), ((b - a) / 2 * weights).ravel()


def zero_filled_sum(k, n, h, reach=6.0, extent=12.0):
    """h A^T g on the grid y_j = h j, with A from convmat: (y, the values)."""
    taps = round(reach / h)
    half = n * round(extent / (n * h))  # the grid of y, from -half h to half h
    kernel = k(h * np.arange(-taps, taps + 1))
    A = Conv1d(kernel, 2 * half + 1, stride=n, padding=taps, flip=True)
    m = np.arange(A.output_shape[0]) - half // n
    return h * np.arange(-half, half + 1), h * (A.T @ g1(h * m))


n = 2
kernels = {"smooth k": (k1, gauss(np.linspace(-6, 6, 13))), "hat": (hat, gauss([-1.45, 0.25, 1.95]))}
steps = [2.0**-e for e in range(6)]
errors = {name: [] for name in kernels}
for name, (k, (v, weights)) in kernels.items():
    for h in steps:
        y, approximate = zero_filled_sum(k, n, h)
        exact = g1((y[:, None] + v) / n) @ (k(v) * weights) / n  # v = u - y: k~(y - u) = k(v)
        errors[name].append(np.abs(approximate - exact).max() / np.abs(exact).max())

print("\nD = 1, n = 2: largest error of h A^T g against K_n' g, relative to the largest value of K_n' g")
print("(order: log2 of the error of the hat, from one step to the next)\n")
print(f"  {'h':>8} {'smooth k':>10} {'hat':>10} {'order':>6}")
for i, h in enumerate(steps):
    order = f"{np.log2(errors['hat'][i - 1] / errors['hat'][i]):.2f}" if i else ""
    print(f"  {h:>8.5f} {errors['smooth k'][i]:>10.1e} {errors['hat'][i]:>10.1e} {order:>6}")
assert errors["smooth k"][-1] < 1e-13
assert 1.7 < np.log2(errors["hat"][-3] / errors["hat"][-1]) / 2 < 2.3

# %%
# Two dimensions, h^2 A^T g against K_n' g at a few points of the grid.

print("\nD = 2, n = 2: the same for h^2 A^T g\n")
print(f"  {'h':>8} {'smooth k':>10}")
v, weights = gauss(np.linspace(-7, 7, 5))
v1, v2 = np.meshgrid(v, v, indexing="ij")
table = k2(v1, v2) * np.outer(weights, weights)
errors["smooth k, D = 2"] = []
for h in steps[:3]:
    taps, half = round(7 / h), n * round(12 / (n * h))
    t = h * np.arange(-taps, taps + 1)
    A = Conv2d(k2(t[:, None], t), (2 * half + 1,) * 2, stride=n, padding=taps, flip=True)
    m = h * (np.arange(A.output_shape[0]) - half // n)
    approximate = h**2 * A.T.apply(g2(m[:, None], m))
    some = range(0, 2 * half + 1, max(1, half // 4))
    y = h * (np.array(some) - half)
    exact = np.array([[(table * g2((y1 + v1) / n, (y2 + v2) / n)).sum() for y2 in y] for y1 in y]) / n**2
    error = np.abs(approximate[np.ix_(some, some)] - exact).max() / np.abs(exact).max()
    errors["smooth k, D = 2"].append(error)
    print(f"  {h:>8.5f} {error:>10.1e}")
assert errors["smooth k, D = 2"][-1] < 1e-13


def draw():
    figure = plot.new_figure(13, 4.8)
    left, right = figure.subplots(1, 2)
    h, n = 0.25, 2
    y, approximate = zero_filled_sum(k1, n, h)
    u = np.linspace(-6, 8, 500)
    left.plot(u, g1(u / n), color="0.55", linewidth=1.2, label="g(u / n)")
    samples = n * h * np.arange(-12, 17)
    left.vlines(
        samples, 0, g1(samples / n), color="#0072B2", linewidth=1.5, label=f"one of n = {n} samples: zero filling"
    )
    v, weights = kernels["smooth k"][1]
    left.plot(u, g1((u[:, None] + v) / n) @ (k1(v) * weights) / n, color="black", label="K$_n$' g, by quadrature")
    left.plot(y, approximate, "o", color="#E69F00", markersize=4, label="h A$^T$ g, by convmat")
    left.set(
        xlim=(-6, 8),
        ylim=(-0.2, 4.6),
        xlabel="u, y",
        title="Zero filling is the Riemann sum with cell n h (here h = 1/4)",
    )
    left.legend(loc="upper right", fontsize=9)
    for (name, values), colour, marker in zip(errors.items(), ("#0072B2", "#D55E00", "#009E73"), "os^", strict=True):
        right.loglog(steps[: len(values)], values, marker=marker, color=colour, label=name)
    right.loglog(steps, 0.08 * np.square(steps), "--", color="0.5", label="slope 2: h$^2$")
    right.set(
        xlabel="step h of the grid",
        ylabel="largest relative error",
        title="h$^D$ A$^T$ g converges to K$_n$' g, without n$^{-D}$",
    )
    right.legend(loc="lower right", fontsize=9)
    figure.suptitle("The adjoint of the continuous strided convolution, and its grid", fontsize=14)
    return figure


save_picture("06_continuous_adjoint.png", draw)
