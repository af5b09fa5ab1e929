"""
The damp that the data choose
=============================

Tikhonov's solution needs a number, the damp: too little of it leaves the noise, too much the blur. Two rules find one
from the data. Generalised cross-validation ("gcv") asks which damp predicts best what was left out, and need not know
the noise; the discrepancy principle ("discrepancy") leaves a residual as large as the noise. Both are sums over
singular values, so that all dampings cost one decomposition.

What they cannot choose is the penalty. With |x|^2 alone all frequencies are alike, and a photograph is not like that:
cross-validation then explains the data best with a damp that is too small for the picture. With the differences of
neighbours, |D x|^2, it is within a tenth of a decibel of the best damp that there is.
"""

import numpy as np
from _picture import save_picture

from convmat import Conv2d, plot, tikhonov, vstack

# %%
# Four blurs, five noise levels. The best damp is known here, as the picture is.

x = plot.photo(256)
offsets = np.arange(-7, 8)
line = np.exp(-0.5 * (offsets / 2.0) ** 2)
radius = np.hypot(offsets[:, None], offsets)
steps = np.linspace(-6.5, 6.5, 2000)
path = np.outer([np.sin(np.deg2rad(30)), np.cos(np.deg2rad(30))], steps)
rows, columns = (np.clip(1 - np.abs(offsets[:, None] - p), 0, None) for p in path)
kernels = {
    "Gaussian": np.outer(line, line),
    "motion": rows @ columns.T,
    "defocus": np.clip(5.5 - radius, 0, 1),
    "box": 1.0 * (np.abs(offsets[:, None]) <= 4) * (np.abs(offsets) <= 4),
}
noises = (0.001, 0.003, 0.01, 0.03, 0.1)


def circular(kernel, padding):
    return Conv2d(np.atleast_2d(kernel), x.shape, padding=padding, padding_mode="circular")


differences = vstack([circular([[1.0, -1.0]], ((0, 0), (0, 1))), circular([[1.0], [-1.0]], ((0, 1), (0, 0)))])
penalties = {"|x|^2": None, "|D x|^2": differences}
damps = np.geomspace(1e-3, 3, 80)
rules = ("gcv", "discrepancy")


def decibels(images):
    return -10 * np.log10(((images - x) ** 2).mean(axis=(-2, -1)))


lost = {}
print("PSNR in dB: the best of 80 damps, and how much less the damp of each rule gives")
print(f"{'':10} {'noise':>6}", *(f"{name:>8} {'gcv':>5} {'discr.':>6}" for name in penalties))
for name, kernel in kernels.items():
    A = circular(kernel / kernel.sum(), 7)
    for noise in noises:
        rng = np.random.default_rng(0)
        y = A.apply(x) + noise * rng.standard_normal(x.shape)
        cells = []
        for penalty, R in penalties.items():
            best = decibels(tikhonov(A, y, damps, regularizer=R)[0]).max()
            for rule in rules:
                found, _ = tikhonov(A, y, rule, noise=noise if rule == "discrepancy" else None, regularizer=R)
                lost[name, noise, penalty, rule] = round(best - decibels(found), 2) + 0.0
            cells.append(f"{best:8.2f} " + " ".join(f"{lost[name, noise, penalty, rule]:5.2f} " for rule in rules))
        print(f"{name:10} {noise:6}", *cells)
for penalty in penalties:
    worst = {rule: max(loss for key, loss in lost.items() if key[2:] == (penalty, rule)) for rule in rules}
    print(f"the most that is lost with {penalty}:", ", ".join(f"{rule} {loss:.2f} dB" for rule, loss in worst.items()))

# %%
# One of them in a picture: defocus, and a noise of 3 % of white.

A, noise = circular(kernels["defocus"] / kernels["defocus"].sum(), 7), 0.03
y = A.apply(x) + noise * np.random.default_rng(0).standard_normal(x.shape)
choices = {f"{penalty}: gcv": tikhonov(A, y, "gcv", regularizer=R) for penalty, R in penalties.items()}
choices["|x|^2: discrepancy"] = tikhonov(A, y, "discrepancy", noise=noise)


def draw():
    figure = plot.new_figure(15, 8)
    upper, lower = figure.subfigures(2, 1)
    panels = {"y": y} | {f"{name}, damp {info.damp:.3f}": image for name, (image, info) in choices.items()}
    for place, (title, image) in enumerate(panels.items(), start=1):
        ax = upper.add_subplot(1, len(panels), place)
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(f"{title}\n{plot.psnr(image, x):.1f} dB".replace("^2", "$^2$"), fontsize=11)
        ax.set_axis_off()
    axes = lower.subplots(1, 3)
    plot.lcurve(A, y, damps, axes[0], regularizer=differences, mark=choices["|D x|^2: gcv"][1].damp)
    plot.gcv(A, y, damps, axes[1], regularizer=differences)
    for (name, R), colour in zip(penalties.items(), ("#0072B2", "#009E73"), strict=True):
        axes[2].semilogx(
            damps, decibels(tikhonov(A, y, damps, regularizer=R)[0]), color=colour, label=name.replace("^2", "$^2$")
        )
        image, info = choices[f"{name}: gcv"]
        axes[2].plot(info.damp, decibels(image), "o", color=colour, label=f"{name}, gcv".replace("^2", "$^2$"))
    image, info = choices["|x|^2: discrepancy"]
    axes[2].plot(info.damp, decibels(image), "s", color="#0072B2", label="|x|$^2$, discrepancy")
    axes[2].set(xlabel="damp", ylabel="PSNR in dB", title="What nobody knows: the best damp")
    axes[2].grid(alpha=0.3)
    axes[2].legend(fontsize=9)
    return figure


save_picture("15_the_damp_that_the_data_choose.png", draw)
