"""Pictures and animations that notebooks show where they are the last line of a cell.

A notebook asks what it shows for ``_repr_png_`` or ``_repr_html_``, and the inline backend of matplotlib knows only the
figures of pyplot, of which those that are made here are none.
"""

from __future__ import annotations

import base64
import functools
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # before Python 3.12 only the class of this system's paths can be inherited from

_Artist = TypeVar("_Artist")

_TAGS = {
    ".gif": '<img src="data:image/gif;base64,{}">',
    ".png": '<img src="data:image/png;base64,{}">',
    ".apng": '<img src="data:image/apng;base64,{}">',
    ".mp4": '<video controls loop autoplay muted src="data:video/mp4;base64,{}"></video>',
}
"""Suffix -> what shows such a file."""


def shown(artist: _Artist) -> _Artist:
    """A figure, axes or an image, which a notebook shows as the picture of the whole figure."""
    vars(artist)["_repr_png_"] = functools.partial(_png, artist)
    return artist


class Animation(_Path):
    """The path of an animation, which a notebook shows as what is in the file."""

    def _repr_html_(self) -> str | None:
        tag = _TAGS.get(self.suffix.lower())
        return tag.format(base64.b64encode(self.read_bytes()).decode()) if tag and self.is_file() else None


def _png(artist: Any) -> bytes | None:
    """The figure of an artist as PNG, unless pyplot has it: the inline backend shows those at the end of the cell."""
    figure = artist.figure.figure  # the whole one, also where axes are on a part of it
    if figure.canvas.manager is not None:
        return None
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
