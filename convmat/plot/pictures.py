"""Photographs, and images side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.plot.notebook import shown
from convmat.plot.style import cell_points, fit, missing_extra, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_PHOTO_BOX = (0, 16, 512, 528)
"""The square of matplotlib's sample photograph that shows the face: left, upper, right, lower."""


def photo(size: int = 256) -> NDArray[np.float64]:
    """A real photograph, grey, square: Grace Hopper, which matplotlib ships as a sample.

    Parameters
    ----------
    size : int
        Height and width in pixels, at most 512, the size of the original.

    Returns
    -------
    ndarray, shape (size, size)
        Grey values from 0 (black) to 1 (white).

    Raises
    ------
    ImportError
        If matplotlib is missing; it names the extra.
    TypeError, ValueError
        If the size is not an integer from 1 to 512.

    Examples
    --------
    >>> from convmat import plot
    >>> x = plot.photo(64)
    >>> x.shape, bool(x.min() >= 0 and x.max() <= 1)
    ((64, 64), True)
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise TypeError(f"size={size!r} must be an integer")
    if not 1 <= size <= 512:
        raise ValueError(f"size={size!r} must be from 1 to 512")
    try:
        from matplotlib import cbook
        from PIL import Image
    except ImportError as error:
        raise missing_extra("the sample photograph", error) from error

    with Image.open(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
        square = image.convert("L").crop(_PHOTO_BOX).resize((int(size), int(size)), Image.Resampling.LANCZOS)
    return np.asarray(square, dtype=np.float64) / 255


def psnr(image: ArrayLike, reference: ArrayLike) -> float:
    """The peak signal-to-noise ratio in dB of an image whose grey values run from 0 to 1.

    Parameters
    ----------
    image, reference : array_like, of one shape

    Returns
    -------
    float
        -10 log10 of the mean squared error; infinite if the two are equal.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> from convmat import plot
    >>> round(plot.psnr([0.5, 0.6], [0.6, 0.5]), 6)
    20.0
    """
    a, b = np.asarray(image), np.asarray(reference)
    if a.shape != b.shape:
        raise ValueError(f"image has shape {a.shape}: it must be {b.shape}, the shape of the reference")
    error = float(np.mean(np.abs(a - b) ** 2))
    return -10 * math.log10(error) if error > 0 else math.inf


def image_pair(
    images: Mapping[str, ArrayLike],
    *,
    title: str = "",
    caption: str = "",
    columns: int | None = None,
    limits: tuple[float, float] | None = (0.0, 1.0),
    figure: Figure | None = None,
) -> Figure:
    """Grey images side by side, two or more, each with its title.

    Parameters
    ----------
    images : mapping of str to array_like, shape (height, width)
        Title -> image. All are drawn at one size.
    title, caption : str
        A line above, and one below.
    columns : int, optional
        Images in a row; all of them by default.
    limits : (float, float), optional
        The values drawn black and white; with None each image has its own.
    figure : matplotlib.figure.Figure, optional
        Draw on this one; a new one by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is missing; it names the extra.
    ValueError
        If there is no image, or `columns` is not positive.

    Examples
    --------
    >>> from convmat import plot
    >>> x = plot.photo(32)
    >>> len(plot.image_pair({"x": x, "1 - x": 1 - x}, title="A negative").axes)
    2
    """
    if not images:
        raise ValueError("images must have at least one entry")
    across = len(images) if columns is None else columns
    if across < 1:
        raise ValueError(f"columns={columns!r} must be at least 1")
    down = -(-len(images) // across)
    figure = figure or new_figure(3.0 * across, 3.3 * down + 0.35 * bool(title) + 0.3 * bool(caption))
    low, high = (None, None) if limits is None else limits
    for place, (name, image) in enumerate(images.items(), start=1):
        ax = figure.add_subplot(down, across, place)
        ax.imshow(np.asarray(image), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        ax.set_title(name, fontsize=11)
        ax.set_axis_off()
        fit(ax.title, figure.bbox.width / across)
    if title:
        figure.suptitle(title, fontsize=14)
    if caption:
        figure.supxlabel(caption, fontsize=11)
    return shown(figure)


def cells(
    matrix: ArrayLike, *, ax: Axes, title: str = "", limits: tuple[float, float] | None = None, digits: int = 2
) -> AxesImage:
    """A small dense matrix: one cell per entry, coloured and with its number in it; zeros stay blank.

    Parameters
    ----------
    matrix : array_like, shape (rows, columns)
    ax : matplotlib.axes.Axes
        The axes to draw on.
    title : str
    limits : (float, float), optional
        The values of the darkest and the brightest colour; by default those of the smallest and largest entry.
    digits : int
        Significant digits of the numbers.

    Returns
    -------
    matplotlib.image.AxesImage

    Raises
    ------
    ValueError
        If the matrix does not have two axes.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"matrix has shape {values.shape}: it must have two axes")
    filled = np.ma.masked_equal(values, 0)
    low, high = (None, None) if limits is None else limits
    image = ax.imshow(filled, cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
    rows, columns = values.shape
    ax.set_xticks(np.arange(columns + 1) - 0.5, labels=[])
    ax.set_yticks(np.arange(rows + 1) - 0.5, labels=[])
    ax.grid(color="0.8", linewidth=0.8)
    ax.tick_params(length=0)
    ax.spines[:].set_color("0.8")
    darkest, brightest = image.get_clim()
    written = {(row, column): f"{values[row, column]:.{digits}g}" for row, column in np.argwhere(values)}
    longest = max(map(len, written.values()), default=1)
    size = min(10, 1.5 * cell_points(ax, values.shape) / longest)  # a digit is about 0.6 times as wide as high
    for (row, column), text in written.items():
        colour = "white" if values[row, column] < darkest + 0.55 * (brightest - darkest) else "black"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    if title:
        ax.set_title(title, fontsize=11)
    return shown(image)
