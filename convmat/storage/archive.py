"""Arrays in a .npz without pickle, for a reader that trusts nobody.

A reader believes no size that a file declares: its members are stored, not compressed, and add up to no more than the
file itself, so that what is allocated is at most what was sent.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import secrets
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from convmat.matrix import check_bytes

MEMBERS = 2**14
"""Arrays that a file may have: each takes a hundred bytes in its list of members, and a thousand once that is read."""

_LIST = 2**21
"""Bytes that the list of members may have: that of so many arrays fits."""

_MAGIC = b"PK\x03\x04"
"""What a .npz begins with: the header of its first member."""

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)(\{'descr': '([<>|][biufcU][1-9]\d*)', 'fortran_order': (True|False), "
    rb"'shape': \((|\d+,|\d+(?:, \d+)+)\), \} *\n)",
    re.DOTALL,
)
"""What numpy writes in front of the numbers or text of an array. Never evaluated: `ast` has limits of its own."""

_SMALL = 2**14
"""Bytes that a member may have which is not large: the sizes of any number of axes, four thousand letters."""

_AT_ONCE = 2**18
"""Bytes of an array that are read at once."""


def write(path: str | os.PathLike[str] | IO[bytes], fields: Mapping[str, Any]) -> None:
    """Write arrays to a file, in one step where it has a name."""
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


@contextmanager
def opened(path: str | os.PathLike[str] | IO[bytes]) -> Iterator[Archive]:
    """The archive of a path, or of an open file from where it stands to its end."""
    if isinstance(path, io.TextIOBase):
        raise TypeError(f"path={path!r} is open as text: open it by open(..., 'rb')")
    if isinstance(path, str | os.PathLike) or not hasattr(path, "read"):
        target = _named(path)
        with open(target, "rb") as file, _archive(file, repr(str(target))) as archive:
            yield archive
    else:
        with _archive(path, repr(getattr(path, "name", type(path).__name__))) as archive:
            yield archive


class Archive:
    """The arrays of a file, each read when it is asked for; `name` is what errors call the file."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive = archive
        self.name = name
        self.fields = [info.filename.removesuffix(".npy") for info in archive.infolist()]

    def array(self, field: str, *, large: bool = False) -> NDArray[Any]:
        """The array of this name; if it is not to be large, one of a few kilobytes."""
        try:
            info = self._archive.getinfo(f"{field}.npy")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise ValueError("it is compressed, and so is not a member that save writes")
            if not large and info.file_size > _SMALL:
                raise ValueError(f"it has {info.file_size} bytes, and must not have more than {_SMALL}")
            with self._archive.open(info) as member:
                return _array(member, info.file_size)
        except OSError:
            raise
        except MemoryError as error:
            raise MemoryError(
                f"{self.name} holds more than there is memory for, its field {field!r}: {error}"
            ) from error
        except Exception as error:  # of zipfile or numpy, by where the damage is
            raise ValueError(f"{self.name} cannot be read, its field {field!r}: {error}") from error


def digest(fields: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    total = hashlib.sha256()
    for field in sorted(fields):
        array = fields[field]
        total.update(f"{field} {array.dtype.str} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # tobytes would copy
    return total.hexdigest()


class _Pieces:
    """A file that hands out little at once, however much is asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        if count > _LIST:  # nothing else is asked for in one piece
            raise ValueError(f"its list of members has {count} bytes, and must not have more than {_LIST}")
        return self._file.read(count if count >= 0 else _AT_ONCE)


@contextmanager
def _archive(file: IO[bytes], name: str) -> Iterator[Archive]:
    """The archive from there to the end of the file, whose members have no more bytes than the file."""
    head = file.read(len(_MAGIC))
    if head != _MAGIC:
        raise ValueError(f"{name} is not a .npz file: it does not begin with {_MAGIC!r}")
    if hasattr(file, "seekable") and file.seekable():
        start = file.tell() - len(head)
    else:
        file, start = io.BytesIO(head + file.read()), 0
    try:
        archive = zipfile.ZipFile(_Pieces(file))
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{name} is not a .npz file: {error}") from error
    with archive:
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
        yield Archive(archive, name)
    file.seek(0, os.SEEK_END)


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


def _named(path: Any) -> Path:
    """The path, which ends with ".npz"."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path={path!r} must be a str, a path or a binary file")
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"path={path!r} must be of str, not bytes")
    return Path(name if name.endswith(".npz") else f"{name}.npz")
