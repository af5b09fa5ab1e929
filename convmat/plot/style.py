"""Figures and files: what every picture shares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    return Figure(figsize=(width, height), layout="constrained", facecolor=matplotlib.rcParams["figure.facecolor"])


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
