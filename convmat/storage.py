"""Operators as files: a plain .npz without pickle, which ``numpy.load(path, allow_pickle=False)`` opens.

A file holds the weight, bit for bit, and the arguments of the convolution, resolved; those of a transposed convolution
are of the convolution that it transposes. They go through the same rules as the arguments of a user, so that no file
makes an operator that a call could not make. A SHA-256 of all fields tells a damaged or edited file; it signs nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from convmat.factors import Correlate, Crop, Downsample, Pad, Upsample, _IndexMap
from convmat.geometry import DTYPES, Geometry, as_weight, conv_geometry
from convmat.operators import (
    Conv,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    ImageOperator,
)
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

_PADS: dict[str, Any] = {"stride": 1, "dilation": 1, "flip": False, "weight": 1}
_STEPS: dict[str, Any] = {"padding": 0, "padding_mode": "zeros", "dilation": 1, "flip": False, "weight": 1}
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
        A file is read from where it stands to its end, and stays open.

    Returns
    -------
    ImageOperator
        Of the class that was saved.

    Raises
    ------
    TypeError
        If `path` is neither a path nor a file.
    ValueError
        If the file is no file of `save`, of a newer version, damaged, edited, or does not describe an operator.
    OSError
        If the file cannot be read.
    """
    if hasattr(path, "read"):
        data, name = path.read(), repr(getattr(path, "name", type(path).__name__))
    else:
        file = _named(path)
        data, name = file.read_bytes(), repr(str(file))
    fields = _read(data, name)
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
    if not given.replace("\n", "").isprintable():
        raise ValueError(f"padding_as_given={given!r} must be printable")
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


def _read(data: bytes, name: str) -> dict[str, NDArray[Any]]:
    """The fields of a file, if it is one of a version that is known here, complete and unchanged."""
    with _archive(data, name) as archive:
        if "format" not in archive.files or str(_member(archive, "format", name)) != _FORMAT:
            raise ValueError(f"{name} is not a file of convmat.save: its field 'format' is not {_FORMAT!r}")
        version = _member(archive, "version", name)
        if version.shape != () or version.dtype.kind != "i":
            raise ValueError(f"{name} is damaged: its version is not an integer")
        if version != _VERSION:
            hint = ", a newer convmat wrote it" if version > _VERSION else ""
            raise ValueError(f"{name} has version {version}{hint}: this one reads version {_VERSION}")
        expected = {"format", "version", *_FIELDS, "sha256"}
        if sorted(archive.files) != sorted(expected):
            missing, unknown = expected.difference(archive.files), set(archive.files) - expected
            raise ValueError(
                f"{name} must have the fields {', '.join(sorted(expected))}, once each; missing: "
                f"{', '.join(sorted(missing)) or 'none'}; unknown: {', '.join(sorted(unknown)) or 'none'}"
            )
        fields = {field: _member(archive, field, name) for field in archive.files}
    if str(fields.pop("sha256")) != _digest(fields):
        raise ValueError(f"{name} is damaged or was edited: its SHA-256 is another")
    return fields


def _archive(data: bytes, name: str) -> NpzFile:
    try:
        return NpzFile(io.BytesIO(data), own_fid=True, allow_pickle=False)
    except Exception as error:
        raise ValueError(f"{name} is not a .npz file: {error}") from error


def _member(archive: NpzFile, field: str, name: str) -> NDArray[Any]:
    try:
        array = archive[field]
    except MemoryError:
        raise
    except Exception as error:  # of zipfile, zlib or numpy, by where the damage is
        raise ValueError(f"{name} cannot be read, its field {field!r}: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} cannot be read, its field {field!r}: it is not a .npy array")
    return array


def _digest(fields: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    total = hashlib.sha256()
    for field in sorted(fields):
        array = fields[field]
        total.update(f"{field} {array.dtype.str} {array.shape} ".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _named(path: Any) -> Path:
    """The path, which ends with ".npz"."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path={path!r} must be a str, a path or a binary file")
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"path={path!r} must be of str, not bytes")
    return Path(name if name.endswith(".npz") else f"{name}.npz")
