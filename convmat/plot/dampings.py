"""What a damp weighs: the L-curve, and the function that cross-validation minimises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.operators import ImageOperator
from convmat.plot.notebook import shown
from convmat.plot.pattern import check_operator
from convmat.plot.style import BLUE, DARK_BLUE, HIGHLIGHT, Theme, axes_of, figure_of, fit_beside, text_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DECADES = 4
"""Below the norm of A, the damps that are drawn if none are given."""

_PER_DECADE = 10

_NAMED = 5
"""Points of the L-curve that have their damp beside them, about."""


def lcurve(
    A: ImageOperator,
    y: ArrayLike,
    damps: Sequence[float] | None = None,
    ax: Axes | None = None,
    *,
    regularizer: ImageOperator | None = None,
    mark: float | None = None,
    title: str | None = None,
) -> Axes:
    """The norm of Tikhonov's solution against that of its residual, one point for each damp, on logarithmic scales.

    A damp near the corner is often a good one. The corner is not looked for: it need not be there.

    Parameters
    ----------
    A : ImageOperator
    y : array_like
        As for `convmat.tikhonov`.
    damps : sequence of floats, optional
        Positive; by default ten in each of the four decades below the norm of A.
    ax : matplotlib.axes.Axes, optional
        Draw on these; on those of a new figure by default.
    regularizer : ImageOperator, optional
        R, with the same `input_shape` as A; the identity by default.
    mark : float, optional
        A damp that is marked, such as the `damp` that `convmat.tikhonov` chose.
    title : str, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing; it names the extra.
    TypeError, ValueError
        As `convmat.lcurve`.

    See Also
    --------
    convmat.lcurve : the numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv1d, plot
    >>> A = Conv1d([1.0, 2.0, 1.0], 40, padding=1, padding_mode="reflect")
    >>> ax = plot.lcurve(A, A.apply(np.ones(40)) + np.cos(3.0 * np.arange(40)), [0.01, 0.1, 1.0], mark=0.1)
    >>> ax.get_xscale(), len(ax.lines[0].get_xdata())
    ('log', 3)
    """
    from convmat.solve import lcurve as norms

    wanted = _damps(A, damps)
    at = wanted if mark is None else np.append(wanted, mark)
    residuals, solutions = norms(A, y, at.tolist(), regularizer=regularizer)
    count = len(wanted)
    ax, theme, colour = _axes(ax)
    ax.loglog(residuals[:count], solutions[:count], ".-", color=colour, linewidth=1.5, zorder=3)
    for i in range(0, count, max(1, round(count / _NAMED))):
        place = (residuals[i], solutions[i])
        ax.annotate(f"{wanted[i]:.2g}", place, xytext=(5, 3), textcoords="offset points", fontsize=8)
    if mark is not None:
        place, told = (residuals[-1:], solutions[-1:]), f"damp {mark:.3g}"
        ax.loglog(*place, "o", color=HIGHLIGHT, markersize=9, zorder=4, label=told)
        ax.legend(fontsize=9)
    _dress(ax, theme, "|A x - y|", "|x|" if regularizer is None else "|R x|", "L-curve" if title is None else title)
    return shown(ax)


def gcv(
    A: ImageOperator,
    y: ArrayLike,
    damps: Sequence[float] | None = None,
    ax: Axes | None = None,
    *,
    regularizer: ImageOperator | None = None,
    title: str | None = None,
) -> Axes:
    """The function that generalised cross-validation minimises, and its least value among the damps.

    It is the squared residual over the square of the degrees of freedom that are left to the noise.

    Parameters
    ----------
    A : ImageOperator
    y : array_like
        As for `convmat.tikhonov`.
    damps : sequence of floats, optional
        Positive; by default ten in each of the four decades below the norm of A.
    ax : matplotlib.axes.Axes, optional
        Draw on these; on those of a new figure by default.
    regularizer : ImageOperator, optional
        R, with the same `input_shape` as A; the identity by default.
    title : str, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing; it names the extra.
    TypeError, ValueError
        As `convmat.lcurve`.

    See Also
    --------
    convmat.tikhonov : takes the damp of the minimum for ``damp="gcv"``.

    References
    ----------
    .. [1] G. Golub, M. Heath, G. Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter",
       Technometrics 21, 1979.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv1d, plot
    >>> A = Conv1d([1.0, 2.0, 1.0], 40, padding=1, padding_mode="reflect")
    >>> ax = plot.gcv(A, A.apply(np.ones(40)) + np.cos(3.0 * np.arange(40)), [0.01, 0.1, 1.0, 10.0])
    >>> ax.get_xscale(), len(ax.lines[0].get_xdata())
    ('log', 4)
    """
    from convmat.solve.least_squares import gcv_curve

    wanted = _damps(A, damps)
    values = gcv_curve(A, y, wanted.tolist(), regularizer=regularizer)
    ax, theme, colour = _axes(ax)
    least = int(np.argmin(values))
    ax.loglog(wanted, values, ".-", color=colour, linewidth=1.5, zorder=3)
    told = f"least at damp {wanted[least]:.3g}"
    ax.loglog(wanted[least], values[least], "o", color=HIGHLIGHT, markersize=9, zorder=4, label=told)
    ax.legend(fontsize=9)
    _dress(ax, theme, "damp", "cross-validation", "Generalised cross-validation" if title is None else title)
    return shown(ax)


def _damps(A: ImageOperator, damps: Any) -> NDArray[np.float64]:
    """The damps to draw, ascending."""
    check_operator(A)
    if damps is not None:
        if np.ndim(damps) != 1:
            raise ValueError(f"damps={damps!r} must be a sequence of positive numbers")
        return np.sort(np.asarray(damps, dtype=np.float64))
    from convmat.spectrum import norm_bounds

    norm = norm_bounds(A)[1] or 1.0
    return np.geomspace(10.0**-_DECADES * norm, norm, _DECADES * _PER_DECADE + 1)


def _axes(ax: Axes | None) -> tuple[Axes, Theme, str]:
    """The axes to draw on, their theme, and a colour that is seen on them."""
    ax = axes_of(ax, 6.4, 4.2)
    theme = Theme.of(figure_of(ax))
    return ax, theme, BLUE if text_on(theme.paper) == "white" else DARK_BLUE


def _dress(ax: Axes, theme: Theme, xlabel: str, ylabel: str, title: str) -> None:
    from matplotlib.ticker import LogLocator

    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.set_title(title, fontsize=11)
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        if math.floor(math.log10(high)) > math.ceil(math.log10(low)):  # two powers of ten say enough
            axis.set_minor_formatter("")
        else:
            axis.set_minor_locator(LogLocator(subs=(2, 5)))
    ax.grid(color=theme.faint(0.15), linewidth=0.6)
    ax.set_axisbelow(True)
    fit_beside(ax, ax.xaxis.label, ax.yaxis.label)
