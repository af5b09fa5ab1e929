"""
Deblur a photograph
===================

x = argmin |A x - y|^2 + damp^2 |x|^2, for a 512 x 512 photograph that was blurred by a 15 x 15 kernel. scipy's lsqr and
cg take many steps. Padding acts axis by axis, so that a separable kernel is a Kronecker product of two small
matrices under every padding mode, and `tikhonov` has the solution in closed form. A kernel that is not quite separable
takes a few steps of cg, preconditioned by its separable neighbour.
"""

import time

import numpy as np
from _picture import save_picture
from scipy.sparse.linalg import cg, lsqr

from convmat import Conv2d, normal, plot, preconditioner, tikhonov

# %%
# A lens blur, slightly tilted: the second singular value of the kernel is 5 % of the first. And a little noise.

x = plot.photo(512)
damp, noise, limit = 0.05, 0.002, 32
offsets = np.arange(-7, 8)
line = np.exp(-0.5 * (offsets / 2.2) ** 2)
separable = np.outer(line, line) / line.sum() ** 2
tilt = separable * np.outer(offsets, offsets)
nearly = separable + 0.05 * np.linalg.norm(separable) / np.linalg.norm(tilt) * tilt
rng = np.random.default_rng(0)
lsqr_steps = (limit // 2, limit)


def histories(A, y, best):
    """The distance to the solution after every step of three solvers, and the seconds they took."""
    N, right = normal(A, damp), A.H @ y

    def relative(vector):
        return np.linalg.norm(vector - best) / np.linalg.norm(best)

    def run(solver):
        times, errors, start = [], [], time.perf_counter()

        def note(vector):
            before = time.perf_counter()
            times.append(before - start - lost[0])
            errors.append(relative(vector))
            lost[0] += time.perf_counter() - before

        lost = [0.0]
        solver(note)
        return np.array(times), np.array(errors)

    def by_lsqr(note):  # lsqr has no callback: two runs
        for steps in lsqr_steps:
            note(lsqr(A, y, damp=damp, atol=0, btol=0, iter_lim=steps)[0])

    def by_pcg(note):
        cg(N, right, M=preconditioner(A, damp, kind="kronecker"), rtol=1e-8, maxiter=limit, callback=note)

    runs = {
        "lsqr": run(by_lsqr),
        "cg": run(lambda note: cg(N, right, rtol=1e-8, maxiter=limit, callback=note)),
        "preconditioned cg": run(by_pcg),
    }
    steps = {"lsqr": np.array(lsqr_steps)}
    times, errors = runs["lsqr"]
    runs["lsqr"] = np.diff(times, prepend=0), errors
    return {name: (steps.get(name, np.arange(1, len(e) + 1)), t, e) for name, (t, e) in runs.items()}


# %%
# The separable kernel: no iteration at all. The nearly separable one: a few steps.

panels, curves = {"x": x}, {}
for border in ("reflect", "zeros"):
    for name, W in (("separable", separable), ("nearly separable", nearly)):
        A = Conv2d(W, x.shape, padding=7, padding_mode=border)
        y = A @ x.ravel() + noise * rng.standard_normal(A.shape[0])
        begin = time.perf_counter()
        solution, info = tikhonov(A, y, damp, rtol=1e-10)
        seconds = time.perf_counter() - begin
        print(
            f"{border:<8} {name:<17} tikhonov: {info.method}, {info.iterations} steps, {seconds:.2f} s, "
            f"residual {info.relative_residual:.0e}; PSNR {plot.psnr(y.reshape(x.shape), x):.1f} -> "
            f"{plot.psnr(solution.reshape(x.shape), x):.1f} dB"
        )
        assert info.converged
    curves[border] = histories(A, y, solution)
    for solver, (steps, times, errors) in curves[border].items():
        print(f"{'':<8} {solver:<17} |x_k - x| / |x| = {errors[-1]:.1e} after {steps[-1]} steps, {times[-1]:.2f} s")
    panels[f"y, border: {border}"] = y.reshape(x.shape)
    panels[f"tikhonov: {plot.psnr(solution.reshape(x.shape), x):.1f} dB"] = solution.reshape(x.shape)
    assert curves[border]["preconditioned cg"][2][-1] < 1e-6


def draw():
    figure = plot.new_figure(15, 7)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1])
    for place, (title, image) in enumerate(panels.items(), start=1):
        ax = upper.add_subplot(1, len(panels), place)
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title, fontsize=11)
        ax.set_axis_off()
    axes = lower.subplots(1, 4)
    styles = {"lsqr": ("#0072B2", "o--"), "cg": ("#E69F00", "-"), "preconditioned cg": ("#009E73", ".-")}
    for row, (border, histories) in enumerate(curves.items()):
        for column, unit in enumerate(("steps", "seconds")):
            ax = axes[2 * row + column]
            for solver, (steps, times, errors) in histories.items():
                colour, style = styles[solver]
                ax.semilogy(steps if unit == "steps" else times, errors, style, color=colour, label=solver)
            ax.set_xlabel(unit)
            ax.set_title(f"border: {border}", fontsize=11)
            ax.grid(alpha=0.3)
    axes[0].set_ylabel("|x$_k$ - x| / |x|")
    axes[0].legend(fontsize=9)
    figure.suptitle("A 15 x 15 blur, nearly separable: a separable neighbour as the preconditioner", fontsize=14)
    return figure


save_picture("08_deblur_photo.png", draw)
