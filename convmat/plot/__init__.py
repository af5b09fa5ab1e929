"""Pictures and animations of convolutions. Needs the extra `plot` (matplotlib and pillow), imported when one is made.

Every function that draws takes the axes or the figure to draw on, or makes a new figure, and returns what it drew: an
artist, whose ``figure`` can be saved, or the figure. A notebook shows it where it is the last line of a cell. Colours
are safe for colour-blind readers; background and text follow matplotlib's style, so that ``with
plt.style.context("dark_background")`` gives dark pictures.

- ``matrix(A, ax=None, *, labels="auto", legend=True, resolution=400, title=None) -> AxesImage``: the sparse pattern,
  coloured by tap, or counts of entries where it is large.
- ``arithmetic(A, output, *, channels=None, title="", figure=None) -> Figure``: what one output reads.
- ``animate(A, path, *, transpose="side-by-side", channels=None, fps=2.0, dpi=80, progress=None) -> Path``: the same for
  every output, beside the matrix and its transpose, as GIF, APNG or MP4.
- ``overlap(A, ax=None, *, title=None) -> AxesImage``: how often each sample is read, or written by the transpose.
- ``spectrum(A, ax=None, *, title=None) -> Axes``: singular values, and bounds of the norm.
- ``lcurve(A, y, damps=None, ax=None, *, regularizer=None, mark=None, title=None) -> Axes``: the norm of Tikhonov's
  solution against that of its residual.
- ``gcv(A, y, damps=None, ax=None, *, regularizer=None, title=None) -> Axes``: what cross-validation minimises.
- ``image_pair``, ``cells``, ``photo``, ``psnr``, ``new_figure``, ``save``: what the examples are made with.
"""

from convmat.plot.counting import overlap
from convmat.plot.curves import spectrum
from convmat.plot.dampings import gcv, lcurve
from convmat.plot.grids import arithmetic
from convmat.plot.matrices import matrix
from convmat.plot.movie import animate
from convmat.plot.pictures import cells, image_pair, photo, psnr
from convmat.plot.style import new_figure, save

__all__ = [
    "animate",
    "arithmetic",
    "cells",
    "gcv",
    "image_pair",
    "lcurve",
    "matrix",
    "new_figure",
    "overlap",
    "photo",
    "psnr",
    "save",
    "spectrum",
]
