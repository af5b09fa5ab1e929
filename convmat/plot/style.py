"""Colours, figures and files: what every picture shares.

Taps run through cividis, from dark to bright; everything else has a colour of Okabe and Ito. Colour-blind readers can
tell both apart. Background and text are those of matplotlib's style when the picture is made.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmat.plot.notebook import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage
    from matplotlib.text import Text

Colour = tuple[float, float, float]

BLUE, DARK_BLUE, GREEN = "#56B4E9", "#0072B2", "#009E73"

HIGHLIGHT = "#D55E00"

SUM = "#CC79A7"
"""What sums several taps."""

_LETTERS = string.ascii_lowercase + string.ascii_uppercase
_BRIGHTEST_WITH_WHITE_TEXT = 0.45

SMALLEST_TEXT = 6.0
"""Points below which a line that is too long is left so."""


@dataclass(frozen=True)
class Theme:
    """The background of a figure and the colour of its text."""

    paper: Colour
    ink: Colour

    @classmethod
    def of(cls, figure: Figure | SubFigure) -> Theme:
        """That of a figure, or of the one behind a subfigure that lets it through, and the style's text."""
        from matplotlib import rcParams
        from matplotlib.colors import to_rgb, to_rgba

        transparent = to_rgba(figure.get_facecolor())[3] == 0
        paper = (root(figure) if transparent else figure).get_facecolor()
        return cls(to_rgb(paper), to_rgb(rcParams["text.color"]))

    def tint(self, colour: str | Colour, share: float) -> Colour:
        """The background with so much of a colour in it."""
        from matplotlib.colors import to_rgb

        red, green, blue = (p + share * (c - p) for p, c in zip(self.paper, to_rgb(colour), strict=True))
        return red, green, blue

    def faint(self, share: float) -> Colour:
        """The background with so much of the text's colour in it."""
        return self.tint(self.ink, share)


def text_on(colour: Any) -> str:
    """Black or white, whichever is read more easily on a colour."""
    from matplotlib.colors import to_rgb

    return "black" if np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) > _BRIGHTEST_WITH_WHITE_TEXT else "white"


def tap_colours(count: int) -> Colormap:
    """One colour per tap, and that of sums below them."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colours = colormaps["cividis"](np.linspace(0.1, 1, count) if count > 1 else [0.35])
    return ListedColormap(colours).with_extremes(under=SUM)


def tap_names(count: int) -> list[str]:
    """A letter per tap, or its number where there are too many."""
    return list(_LETTERS[:count]) if count <= len(_LETTERS) else [str(tap) for tap in range(count)]


def sheet(values: NDArray[Any]) -> NDArray[Any]:
    """An array of one, two or three axes as rows and columns: one row, itself, or its planes side by side."""
    planes = values.reshape((1,) * (3 - values.ndim) + values.shape)
    return np.moveaxis(planes, 0, 1).reshape(planes.shape[1], -1)


def axes_of(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes, or those of a new figure of this size in inches."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def figure_of(ax: Axes) -> Figure:
    """The figure on which axes are, also where a subfigure is between them."""
    return root(ax.figure)


def scale(image: AxesImage, label: str = "") -> Axes:
    """What the colours stand for: right of an image, no higher than it, so that its title has room."""
    ax = image.axes
    bar = figure_of(ax).colorbar(image, cax=ax.inset_axes((1.04, 0.1, 0.05, 0.8)), label=label)
    fit_beside(ax, bar.ax.yaxis.label)
    return bar.ax


def scale_of_counts(image: AxesImage, label: str = "") -> None:
    """The integers that the colours stand for."""
    scale(image, label).locator_params(axis="y", integer=True)


def fit_beside(ax: Axes, *texts: Text) -> None:
    """Fit texts to the side of the place of the axes along which they run.

    Axes with square cells may fill a part of their place.
    """
    place, whole = ax.get_position(original=True), ax.figure.bbox
    for text in texts:
        fit(text, place.height * whole.height if text.get_rotation() else place.width * whole.width)


def fit(text: Text, side: float) -> None:
    """Break a text after colons and commas, and draw it smaller, until no line is longer than so many pixels."""
    lines: list[str] = []
    for part in re.split(r"(?<=[:,]) ", text.get_text()):
        joined = " ".join([*lines[-1:], part])
        lines[-1:] = [joined] if not lines or _length(text, joined) <= side else [*lines[-1:], part]
    longest = max(_length(text, line) for line in lines)
    text.set_text("\n".join(lines))
    if longest > side:
        text.set_fontsize(max(SMALLEST_TEXT, float(text.get_fontsize()) * side / longest))


def _length(text: Text, line: str) -> float:
    """Pixels along a line, if the text were that line."""
    text.set_text(line)
    return float(max(text.get_window_extent().size))


def cell_points(ax: Axes, shape: tuple[int, ...]) -> float:
    """The side of a square cell in points, if axes show so many rows and columns."""
    place, whole = ax.get_position(), ax.figure.bbox
    pixels = min(place.height * whole.height / shape[0], place.width * whole.width / shape[1])
    return float(72 * pixels / figure_of(ax).dpi)


def root(figure: Figure | SubFigure) -> Figure:
    """The figure that a subfigure is part of."""
    whole: Any = figure.figure
    found: Figure = whole
    return found


def inches(figure: Figure | SubFigure) -> tuple[float, float]:
    """Width and height of a figure or of a part of one."""
    return float(figure.bbox.width / figure.dpi), float(figure.bbox.height / figure.dpi)


def new_figure(width: float, height: float) -> Figure:
    """An empty matplotlib figure, in inches, which is not shown on any screen.

    Parameters
    ----------
    width, height : float

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is missing; it names the extra.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("a picture", error) from error
    paper = matplotlib.rcParams["figure.facecolor"]
    return shown(Figure(figsize=(width, height), layout="constrained", facecolor=paper))


def save(figure: Figure, path: str | Path, *, dpi: float = 100) -> Path:
    """Write a figure to a file, and make its folder if there is none.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : str or Path
        Its suffix is the format, as in ``Figure.savefig``.
    dpi : float
        Pixels per inch.

    Returns
    -------
    Path
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    if path.suffix.lower() == ".png":
        _drop_colour(path)
    return path


def _drop_colour(path: Path) -> None:
    """Store a PNG that holds grey alone as a grey one, a third of the size."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if np.all(pixels == pixels[..., :1]):
        Image.fromarray(pixels[..., 0]).save(path, optimize=True)


def missing_extra(what: str, error: ImportError) -> ImportError:
    """The error that names the extra."""
    return ImportError(
        f"{what} needs {error.name or 'matplotlib'}: install the extra `plot`, pip install 'convmat[plot]'",
        name=error.name,
    )
