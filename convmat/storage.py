"""Operators as files: a plain .npz without pickle, which ``numpy.load(path, allow_pickle=False)`` opens.

A file holds the weight, bit for bit, and the arguments of the convolution, resolved; those of a transposed convolution
are of the convolution that it transposes. They go through the same rules as the arguments of a user, so that no file
makes an operator that a call could not make. A SHA-256 of all fields tells a damaged or edited file; it signs nothing.

A reader believes no size that a file declares: its members are stored, not compressed, and add up to no more than the
file itself, so that what is allocated is at most what was sent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import os
import re
import secrets
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from convmat.geometry import DTYPES, Geometry, as_weight, conv_geometry
from convmat.matrix import check_bytes
from convmat.operators import (
    Conv,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Correlate,
    Crop,
    Downsample,
    ImageOperator,
    Pad,
    Upsample,
)
from convmat.operators.factors import _IndexMap
from convmat.products import Products

__all__ = ["load", "save"]

_FORMAT = "convmat operator"
_VERSION = 1

_FIELDS = {
    "kind": ("text", "U", 0),
    "method": ("text", "U", 0),
    "weight": ("an array of numbers", "fc", None),
    "input_size": ("integers, one per axis", "i", 1),
    "stride": ("integers, one per axis", "i", 1),
    "dilation": ("integers, one per axis", "i", 1),
    "padding": ("integer pairs, one per axis", "i", 2),
    "padding_mode": ("text", "U", 0),
    "padding_as_given": ("text", "U", 0),
    "groups": ("an integer", "i", 0),
    "flip": ("a bool", "b", 0),
}
"""Field -> what it must hold: in words, by kind of dtype, by number of axes. The rest is format, version, sha256."""

_CONVOLUTIONS: dict[str, type[Conv] | type[ConvTranspose]] = {
    kind.__name__: kind
    for kind in (Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, Correlate)
}
_INDEX_MAPS: dict[str, type[_IndexMap]] = {kind.__name__: kind for kind in (Pad, Crop, Downsample, Upsample)}

_ONES: dict[str, Any] = {"dilation": 1, "flip": False, "weight": 1, "method": "auto"}
_PADS: dict[str, Any] = {"stride": 1, **_ONES}
_STEPS: dict[str, Any] = {"padding": 0, "padding_mode": "zeros", **_ONES}
_FIXED: dict[str, dict[str, Any]] = {
    "Correlate": {"stride": 1, "padding": 0, "padding_mode": "zeros"},
    "Pad": _PADS,
    "Crop": _PADS,
    "Downsample": _STEPS,
    "Upsample": _STEPS,
}
"""Kind -> the fields that it has no choice of."""

_CEILING = {repr(word): word for word in ("same_upper", "same_lower")}
"""Paddings as given that say more than their pairs: which input sizes share the output size."""

_ARRAY = re.compile(r"\w+\(\[[-\d,\[\] \n]*\](,[ \n]+dtype=\w+)?\)", re.ASCII)
"""A padding that was given as an array of integers, as numpy prints it: the only one that has several lines."""

_MAGIC = b"PK\x03\x04"
"""What a .npz begins with: the header of its first member."""

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)(\{'descr': '([<>|][biufcU][1-9]\d*)', 'fortran_order': (True|False), "
    rb"'shape': \((|\d+,|\d+(?:, \d+)+)\), \} *\n)",
    re.DOTALL,
)
"""What numpy writes in front of the numbers or text of an array. Never evaluated: `ast` has limits of its own."""

_SMALL = 2**14
"""Bytes that a member other than the weight may have: the sizes of any number of axes, four thousand letters."""

_AT_ONCE = 2**18
"""Bytes read at once. The list of members that `save` writes fits, one of a million names does not."""


def save(operator: ImageOperator, path: str | os.PathLike[str] | IO[bytes]) -> None:
    """Write an operator to a .npz file, to be read by `load`.

    An existing file is replaced in one step, when the new one is complete. Equal operators give equal files.

    Parameters
    ----------
    operator : Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, Pad, Crop, Downsample, \
Upsample or Correlate
    path : str, path or binary file
        As for ``numpy.savez``, ".npz" is appended to a name that does not end with it.

    Raises
    ------
    TypeError
        If the operator is of another type, or `path` is neither a path nor a file.
    OSError
        If the file cannot be written; what was there before stays.

    See Also
    --------
    scipy.sparse.save_npz : for the matrix, ``A.tosparse()``.

    References
    ----------
    .. [1] ``numpy.lib.format``

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> from convmat import Conv2d
    >>> from convmat.storage import load, save
    >>> A = Conv2d(np.ones((8, 3, 3, 3), np.float32), (32, 32), stride=2, padding="same_upper")
    >>> file = io.BytesIO()
    >>> save(A.T, file)
    >>> _ = file.seek(0)
    >>> load(file)
    <3072x2048 ConvTranspose2d with dtype=float32>
    """
    fields = _fields(operator)
    fields["sha256"] = np.array(_digest(fields))
    if hasattr(path, "write"):
        np.savez(path, **fields)
        return
    target = Path(os.path.realpath(_named(path)))  # a link stays a link
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with open(part, "xb") as file:
            np.savez(file, **fields)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str] | IO[bytes]) -> ImageOperator:
    """Read an operator that `save` wrote: of the same class, with the same geometry, weight, dtype and method.

    Nothing in the file is executed. Unlike ``numpy.load``, a name without ".npz" means the file that `save` wrote under
    this name.

    Parameters
    ----------
    path : str, path or binary file
        A file is read from where it stands to its end, and stays open; one that cannot seek is held in memory.

    Returns
    -------
    ImageOperator
        Of the class that was saved.

    Raises
    ------
    TypeError
        If `path` is neither a path nor a binary file.
    ValueError
        If the file is no file of `save`, of a newer version, damaged, edited, or does not describe an operator.
    MemoryError
        If the weight that the file holds is more than this machine has available.
    OSError
        If the file cannot be read.
    """
    if isinstance(path, io.TextIOBase):
        raise TypeError(f"path={path!r} is open as text: open it by open(..., 'rb')")
    if isinstance(path, str | os.PathLike) or not hasattr(path, "read"):
        target = _named(path)
        name = repr(str(target))
        with open(target, "rb") as file:
            fields = _read(file, name)
    else:
        name = repr(getattr(path, "name", type(path).__name__))
        fields = _read(path, name)
    try:
        return _operator(fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not describe an operator: {error}") from error


def _fields(operator: ImageOperator) -> dict[str, Any]:
    """All that makes the operator, as arrays."""
    name = type(operator).__name__
    if type(operator) is _CONVOLUTIONS.get(name):
        weight, method = operator.weight, operator._products.asked
    elif type(operator) is _INDEX_MAPS.get(name):
        weight, method = operator._ones(), "auto"
    else:
        raise TypeError(
            f"operator is of type {name}: it must be one of {', '.join((*_CONVOLUTIONS, *_INDEX_MAPS))}; of others, "
            f"save tosparse() by scipy.sparse.save_npz"
        )
    geometry: Geometry = operator.geometry
    return {
        "format": np.array(_FORMAT),
        "version": np.array(_VERSION, dtype=np.int64),
        "kind": np.array(name),
        "method": np.array(method),
        "weight": weight,
        "input_size": np.array(geometry.input_size, dtype=np.int64),
        "stride": np.array(geometry.stride, dtype=np.int64),
        "dilation": np.array(geometry.dilation, dtype=np.int64),
        "padding": np.array(geometry.padding, dtype=np.int64),
        "padding_mode": np.array(geometry.padding_mode),
        "padding_as_given": np.array(geometry.asked),
        "groups": np.array(geometry.groups, dtype=np.int64),
        "flip": np.array(geometry.flip),
    }


def _operator(fields: Mapping[str, NDArray[Any]]) -> ImageOperator:
    """The operator of these fields, by the rules for the arguments of a call.

    Raises
    ------
    TypeError, ValueError
        If there is none.
    """
    for field, (words, dtype_kind, ndim) in _FIELDS.items():
        array = fields[field]
        if array.dtype.kind not in dtype_kind or ndim not in (None, array.ndim):
            raise ValueError(f"{field} must be {words}, not of dtype {array.dtype} and shape {array.shape}")
    kind, weight = fields["kind"].item(), fields["weight"]
    if kind not in _CONVOLUTIONS and kind not in _INDEX_MAPS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join((*_CONVOLUTIONS, *_INDEX_MAPS))}")
    if weight.dtype.newbyteorder("=") not in DTYPES:
        raise ValueError(f"weight has dtype {weight.dtype}: it must be one of {', '.join(map(str, DTYPES))}")
    for field, value in _FIXED.get(kind, {}).items():
        if np.any(fields[field] != value):
            raise ValueError(f"{field} must be {value!r} throughout in a file of kind {kind}")

    geometry = _geometry(fields)
    if kind in _CONVOLUTIONS:
        convolution = _CONVOLUTIONS[kind]
        if convolution._ndim not in (None, geometry.ndim):
            raise ValueError(f"input_size={geometry.input_size} must have one entry for each axis of kind {kind}")
        return convolution._of(Products(geometry, as_weight(weight), fields["method"].item()))
    if not geometry.in_channels == geometry.out_channels == geometry.groups == weight.size:
        raise ValueError(f"weight must be a single 1 per channel in a file of kind {kind}, not of shape {weight.shape}")
    return _INDEX_MAPS[kind]._of(geometry, weight.dtype.newbyteorder("="))


def _geometry(fields: Mapping[str, NDArray[Any]]) -> Geometry:
    """The geometry, which prints the padding as it was given."""
    given = fields["padding_as_given"].item()
    pairs = tuple(tuple(pair) for pair in fields["padding"].tolist())
    if not (given.isascii() and given.isprintable()) and not _ARRAY.fullmatch(given):
        raise ValueError(f"padding_as_given={given!r} must be printable ASCII")
    geometry = conv_geometry(
        fields["weight"].shape,
        fields["input_size"].tolist(),
        stride=fields["stride"].tolist(),
        padding=_CEILING.get(given, pairs),
        dilation=fields["dilation"].tolist(),
        groups=fields["groups"].item(),
        padding_mode=fields["padding_mode"].item(),
        flip=fields["flip"].item(),
    )
    if geometry.padding != pairs:
        raise ValueError(f"padding={pairs} must be that of padding_as_given={given}, {geometry.padding}")
    return dataclasses.replace(geometry, asked=given)


class _Pieces:
    """A file that hands out little at once, however much is asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        return self._file.read(min(count, _AT_ONCE) if count >= 0 else _AT_ONCE)


def _read(file: IO[bytes], name: str) -> dict[str, NDArray[Any]]:
    """The fields of a file, if it is one of a version that is known here, complete and unchanged."""
    head = file.read(len(_MAGIC))
    if head != _MAGIC:
        raise ValueError(f"{name} is not a .npz file: it does not begin with {_MAGIC!r}")
    if hasattr(file, "seekable") and file.seekable():
        start = file.tell() - len(head)
    else:
        file, start = io.BytesIO(head + file.read()), 0

    with _archive(file, start, name) as archive:
        names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
        if "format" not in names or not _says(_member(archive, "format", name), _FORMAT):
            raise ValueError(f"{name} is not a file of convmat.save: its field 'format' is not {_FORMAT!r}")
        version = _member(archive, "version", name)
        if version.shape != () or version.dtype.kind != "i":
            raise ValueError(f"{name} is damaged: its version is not an integer")
        if version != _VERSION:
            hint = ", a newer convmat wrote it" if version > _VERSION else ""
            raise ValueError(f"{name} has version {version}{hint}: this one reads version {_VERSION}")
        expected = {"format", "version", *_FIELDS, "sha256"}
        if sorted(names) != sorted(expected):
            raise ValueError(
                f"{name} must have the fields {', '.join(sorted(expected))}, once each; missing: "
                f"{_list(expected.difference(names))}; unknown: {_list(set(names) - expected)}"
            )
        fields = {field: _member(archive, field, name) for field in names}
    file.seek(0, os.SEEK_END)
    if not _says(fields.pop("sha256"), _digest(fields)):
        raise ValueError(f"{name} is damaged or was edited: its SHA-256 is another")
    return fields


def _archive(file: IO[bytes], start: int, name: str) -> zipfile.ZipFile:
    """The archive from there to the end of the file, whose members have no more bytes than the file."""
    try:
        archive = zipfile.ZipFile(_Pieces(file))
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{name} is not a .npz file: {error}") from error
    members = archive.infolist()
    if min((info.header_offset for info in members), default=None) != start:
        raise ValueError(f"{name} is not a .npz file of its own: its first member is not at its start")
    file.seek(0, os.SEEK_END)
    size = file.tell() - start
    declared = max(
        sum(info.compress_size for info in members),
        max(info.header_offset - start + info.compress_size for info in members),
    )
    if declared > size:
        raise ValueError(f"{name} is damaged: it has {size} bytes, and its members are said to need {declared}")
    return archive


def _member(archive: zipfile.ZipFile, field: str, name: str) -> NDArray[Any]:
    try:
        info = archive.getinfo(f"{field}.npy")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError("it is compressed, and so is not a member that save writes")
        if field != "weight" and info.file_size > _SMALL:
            raise ValueError(f"it has {info.file_size} bytes, and must not have more than {_SMALL}")
        with archive.open(info) as member:
            return _array(member, info.file_size)
    except OSError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{name} holds more than there is memory for, its field {field!r}: {error}") from error
    except Exception as error:  # of zipfile or numpy, by where the damage is
        raise ValueError(f"{name} cannot be read, its field {field!r}: {error}") from error


def _array(member: IO[bytes], size: int) -> NDArray[Any]:
    """The array of a member of this many bytes, if it is what its header says."""
    head = member.read(_SMALL)
    match = _HEADER.match(head)
    if match is None or int.from_bytes(match[1], "little") != len(match[2]):
        raise ValueError(f"it begins with {head[:96]!r}, not as numpy.save(..., allow_pickle=False) begins numbers or "
                         f"text")  # fmt: skip
    dtype = np.dtype(match[3].decode())
    shape = tuple(map(int, re.findall(rb"\d+", match[5])))
    needed = math.prod(shape) * dtype.itemsize
    if needed != size - match.end():
        raise ValueError(f"an array of shape {shape} and dtype {dtype} has {needed} bytes, not {size - match.end()}")
    check_bytes(f"an array of shape {shape}, and a copy of it,", 2 * needed, "load it where there are more")
    data = b"".join((head[match.end() :], *iter(lambda: member.read(_AT_ONCE), b"")))
    if dtype.kind == "U" and np.frombuffer(data, f"{dtype.str[0]}u4").max(initial=0) > sys.maxunicode:
        raise ValueError("it holds what is no letter")  # of which Python makes a SystemError
    return np.frombuffer(data, dtype).reshape(shape, order="F" if match[4] == b"True" else "C")


def _says(array: NDArray[Any], text: str) -> bool:
    return array.dtype.kind == "U" and array.shape == () and bool(array == text)


def _list(names: Iterable[str]) -> str:
    """The first few names, without what a terminal would obey."""
    return ", ".join(ascii(name)[1:-1][:40] for name in sorted(names)[:9]) or "none"


def _digest(fields: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    total = hashlib.sha256()
    for field in sorted(fields):
        array = fields[field]
        total.update(f"{field} {array.dtype.str} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # tobytes would copy
    return total.hexdigest()


def _named(path: Any) -> Path:
    """The path, which ends with ".npz"."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path={path!r} must be a str, a path or a binary file")
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"path={path!r} must be of str, not bytes")
    return Path(name if name.endswith(".npz") else f"{name}.npz")
