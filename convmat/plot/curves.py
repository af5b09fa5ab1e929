"""The spectrum: singular values where they are known, and the bounds of the norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convmat.matrix import check_bytes
from convmat.operators import ImageOperator
from convmat.plot.notebook import shown
from convmat.plot.pattern import check_operator
from convmat.plot.style import BLUE, DARK_BLUE, HIGHLIGHT, SMALLEST_TEXT, Theme, axes_of, figure_of, fit_beside, text_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKED = 40
"""Singular values up to which each is a point."""

_VALUE = 90
"""Bytes that the picture takes for each singular value, to compute it and to draw it."""

_LEGEND = 0.9
"""Share of the width of the axes that the legend may take."""


@dataclass(frozen=True)
class Spectrum:
    """What is drawn: the singular values above rounding, how many are zero, and the bounds of the largest."""

    values: NDArray[np.floating] | None
    """Descending; None where the operator has no structure that gives them."""
    zeros: int
    bounds: tuple[float, float]

    @classmethod
    def of(cls, A: ImageOperator) -> Spectrum:
        """The spectrum of an operator.

        Raises
        ------
        TypeError, ValueError
            If A is no operator of convmat's, or has a number that is not finite.
        MemoryError
            If there are more singular values than fit in this machine's memory.
        """
        from convmat.spectrum.norms import norm_bounds
        from convmat.spectrum.values import singular_values

        check_operator(A)
        check_bytes(
            f"A: the picture of {min(A.shape)} singular values",
            _VALUE * min(A.shape),
            "draw the same layer on a smaller input_size, whose values follow nearly the same curve",
        )
        bounds = norm_bounds(A)
        try:
            found = singular_values(A)
        except ValueError:  # its numbers are finite, since it has bounds: no structure gives them
            return cls(None, 0, bounds)
        rounding = np.finfo(found.dtype).eps * max(A.shape) * found[0]
        values = found[found > rounding]
        return cls(values, found.size - values.size, bounds)


def spectrum(A: ImageOperator, ax: Axes | None = None, *, title: str | None = None) -> Axes:
    """The singular values of an operator, and bounds of its norm, on a logarithmic scale.

    The values are drawn in descending order where `convmat.singular_values` gives them. Those below rounding count as
    zeros: they have no place on the scale, and are told as a number. The bounds of `convmat.norm_bounds` are drawn as a
    band, for every operator; where nothing gives the values they are all there is.

    Parameters
    ----------
    A : ImageOperator
    ax : matplotlib.axes.Axes, optional
        Draw on these; on those of a new figure by default.
    title : str, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing; it names the extra.
    TypeError, ValueError
        If A is no operator of convmat's, or has a number that is not finite.
    MemoryError
        If the picture does not fit in this machine's memory; raised before it is allocated.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d, plot
    >>> ax = plot.spectrum(Conv2d([[1.0, -1.0]], (8, 8), padding=((0, 0), (0, 1)), padding_mode="circular"))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['norm 2', 'singular values', '8 of 64 are zero']
    """
    found = Spectrum.of(A)
    ax = axes_of(ax, 6.4, 4.2)
    theme = Theme.of(figure_of(ax))
    lower, upper = found.bounds
    ends = sorted({f"{bound:.4g}" for bound in found.bounds}, key=float)
    band = f"norm from {' to '.join(ends)}" if len(ends) > 1 else f"norm {ends[0]}"
    ax.axhspan(lower, upper, facecolor=theme.tint(HIGHLIGHT, 0.4), edgecolor=HIGHLIGHT, linewidth=1.2, label=band)
    count = min(A.shape)
    if found.values is None:
        fit_beside(
            ax, ax.text(0.5, 0.5, "no structure of A gives its singular values", transform=ax.transAxes, ha="center")
        )
        ax.set_ylim(0, 1.3 * upper)
    elif found.values.size:
        marker = "o" if found.values.size <= _MARKED else ""
        places = np.arange(1, found.values.size + 1)
        blue = BLUE if text_on(theme.paper) == "white" else DARK_BLUE
        ax.plot(places, found.values, color=blue, linewidth=2, label="singular values", zorder=3, marker=marker)
        ax.set_yscale("log")
    if found.zeros:
        start, told = count - found.zeros + 0.5, f"{found.zeros} of {count} are zero"
        ax.axvspan(start, count + 0.5, color=theme.faint(0.15), linewidth=0, label=told)
    ax.set_xlim(0.5 if count <= _MARKED else 0, count + 0.5)
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("number, in descending order")
    ax.set_ylabel("singular value")
    ax.grid(color=theme.faint(0.15), linewidth=0.6)
    ax.set_axisbelow(True)
    _legend(ax)
    ax.set_title(f"{type(A).__name__}: {A.shape[0]} x {A.shape[1]}" if title is None else title, fontsize=11)
    fit_beside(ax, ax.xaxis.label, ax.yaxis.label, *[ax.title] * (title is None))
    return shown(ax)


def _legend(ax: Axes) -> None:
    """The legend, smaller where the axes are narrower than it would be."""
    share = ax.legend(loc="lower left", fontsize=9).get_window_extent().width / ax.get_window_extent().width
    if share > _LEGEND:
        ax.legend(loc="lower left", fontsize=max(SMALLEST_TEXT, 9 * _LEGEND / share))
