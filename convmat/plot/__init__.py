"""Pictures and animations of convolutions. Needs the extra `plot` (matplotlib and pillow), imported when one is made.

Every function that draws takes the axes or the figure to draw on, or makes a new figure, and returns what it drew: an
artist, whose ``figure`` can be saved, or the figure. Colours are safe for colour-blind readers; background and text
follow matplotlib's style, so that ``with plt.style.context("dark_background")`` gives dark pictures.

==============================================================  ========================================================
``matrix(A, ax=None, *, labels, legend, resolution, title)``    the sparse pattern, coloured by tap -> AxesImage
``arithmetic(A, output, *, channels, title, figure)``           what one output reads -> Figure
``animate(A, path, *, transpose="side-by-side", channels,       the same for every output, as GIF, APNG or MP4 -> Path
fps, dpi, progress)``
``overlap(A, ax=None, *, title)``                               how often each sample is read -> AxesImage
``spectrum(A, ax=None, *, title)``                              singular values and bounds of the norm -> Axes
``image_pair``, ``cells``, ``photo``, ``psnr``, ``new_figure``, ``save``  what the examples are made with
==============================================================  ========================================================
"""

from convmat.plot.counting import overlap
from convmat.plot.curves import spectrum
from convmat.plot.grids import arithmetic
from convmat.plot.matrices import matrix
from convmat.plot.movie import animate
from convmat.plot.pictures import cells, image_pair, photo, psnr
from convmat.plot.style import new_figure, save

__all__ = [
    "animate",
    "arithmetic",
    "cells",
    "image_pair",
    "matrix",
    "new_figure",
    "overlap",
    "photo",
    "psnr",
    "save",
    "spectrum",
]
