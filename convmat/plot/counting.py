"""How often each sample is read: the checkerboard of transposed convolutions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from convmat.matrix import check_bytes
from convmat.plot.notebook import shown
from convmat.plot.pattern import Layer, check_operator, is_layer, overlaps
from convmat.plot.style import axes_of, fit_beside, scale_of_counts, sheet, text_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from convmat.operators import ImageOperator

_NUMBERED = 24
"""Rows and columns up to which the counts are written in the cells."""

_PLANES = 5
"""Planes that have their number below them, at most."""

_BYTES = 80
"""That matplotlib takes to draw a count, and counting takes for a read of a border."""


def overlap(A: ImageOperator, ax: Axes | None = None, *, title: str | None = None) -> AxesImage:
    """How many outputs of an operator read each input sample; how many inputs of a transposed convolution add up there.

    The two are one number: that of the entries in a column of the matrix of the convolution, which is a row of that of
    its transpose. So A and A.T have the same picture. Where the stride does not divide the kernel size the counts
    differ from sample to sample, and transposed convolutions show a checkerboard.

    All channels are alike: one is drawn. A single axis is drawn as a line of cells, three as planes side by side.

    Of any other operator, the sparse matrix is built, and the stored entries in each of its columns are drawn, in all
    channels; draw ``A.T`` for those in each row.

    Parameters
    ----------
    A : ImageOperator
    ax : matplotlib.axes.Axes, optional
        Draw on these; on those of a new figure by default.
    title : str, optional

    Returns
    -------
    matplotlib.image.AxesImage

    Raises
    ------
    ImportError
        If matplotlib is missing; it names the extra.
    TypeError
        If A is no operator of convmat's.
    MemoryError
        If the picture, or the matrix that has to be built, does not fit in this machine's memory; raised before it is
        allocated.

    References
    ----------
    .. [1] A. Odena, V. Dumoulin, C. Olah, "Deconvolution and checkerboard artifacts", Distill, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import ConvTranspose1d, plot
    >>> B = ConvTranspose1d(np.ones(3), 3, stride=2)
    >>> plot.overlap(B).get_array().tolist()
    [[1, 1, 2, 1, 2, 1, 1]]
    """
    check_operator(A)
    size, border = _drawn(A)
    check_bytes(
        f"A: the picture of {' x '.join(map(str, size))} counts",
        _BYTES * (math.prod(size) + border),
        "draw the same layer on a smaller input_size, where the counts repeat alike away from the borders",
    )
    found = overlaps(A).reshape(-1, *size)
    counts = sheet(found[0])
    rows, columns = counts.shape
    ax = axes_of(ax, *np.clip([0.4 * columns + 1.8, 0.4 * rows + 1.2], (4.4, 1.9), (9.0, 7.0)))
    least, most = int(counts.min()), int(counts.max())
    image = ax.imshow(counts, cmap="cividis", vmin=min(least, most - 1), vmax=most, interpolation="nearest")
    if max(rows, columns) <= _NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            colour = text_on(image.to_rgba(count))
            ax.text(column, row, str(count), ha="center", va="center_baseline", color=colour, fontsize=9)
    else:
        scale_of_counts(image)
    ax.set_aspect("equal" if columns <= _NUMBERED * rows else "auto")  # a long line would be too thin to be seen
    ax.locator_params(integer=True)
    if len(size) == 3:
        planes, _, width = size
        ax.vlines(np.arange(1, planes) * width - 0.5, -0.5, rows - 0.5, color="white", linewidth=2)
        numbered = np.arange(0, planes, -(-planes // _PLANES))
        ax.set_xticks(numbered * width + (width - 1) / 2, labels=map(str, numbered))
        ax.set_xlabel("plane")
    if rows == 1:
        ax.set_yticks([])
    added = is_layer(A) and Layer.of(A).transposed
    what = "inputs added up at each output" if added else "outputs that read each input"
    spread = f"{least} to {most}" if least < most else f"{most}"
    ax.set_title(f"{type(A).__name__}: {what}, {spread}" if title is None else title, fontsize=11, pad=8)
    if title is None:
        fit_beside(ax, ax.title)
    return shown(image)


def _drawn(A: ImageOperator) -> tuple[tuple[int, ...], int]:
    """The shape of at most three axes that is drawn, and how many reads of borders are counted."""
    if not is_layer(A):
        leading, last = A.input_shape[:-2], A.input_shape[-2:]
        return (math.prod(leading), *last) if leading else last, 0
    geometry = Layer.of(A).geometry
    return geometry.input_size, sum(min(axis.size, 2 * axis.span) * axis.taps for axis in geometry.axes)
