"""Archives of which every field can be chosen, for a reader that trusts nobody. After the specification of zip."""

import hashlib
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np


@dataclass
class Member:
    """A member of a zip archive; what is None is told truly."""

    name: bytes
    data: bytes
    method: int = 0
    flags: int = 0
    crc: int | None = None
    packed: int | None = None  # bytes in the archive
    size: int | None = None  # bytes when unpacked
    offset: int | None = None
    inner: bytes | None = None  # the name in front of the data
    extra: bytes = b""

    def sizes(self):
        true = len(self.data)
        return self.crc if self.crc is not None else zlib.crc32(self.data), (
            self.packed if self.packed is not None else true,
            self.size if self.size is not None else true,
        )


def pack(members, *, entries=None, length=None, start=None, locator=b"", comment=b""):
    """The archive of these members. `entries`, `length` and `start` are what its end says of the directory."""
    body, directory = b"", b""
    for member in members:
        crc, sizes = member.sizes()
        offset = member.offset if member.offset is not None else len(body)
        wide = b"" if max(*sizes, offset) < 2**32 else struct.pack("<2H3Q", 1, 24, sizes[1], sizes[0], offset)
        short = (2**32 - 1,) * 3 if wide else (*sizes, offset)
        inner = member.name if member.inner is None else member.inner
        what = (45, member.flags, member.method, 0, 33, crc % 2**32, *short[:2])
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *what, len(inner), 0) + inner + member.data
        lengths = (len(member.name), len(wide + member.extra), 0, 0, 0)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, *what, *lengths, 0, short[2])
        directory += member.name + wide + member.extra
    count = len(members) if entries is None else entries
    end = struct.pack(
        "<4s4H2LH",
        b"PK\5\6",
        0,
        0,
        count % 2**16,
        count % 2**16,
        (len(directory) if length is None else length) % 2**32,
        (len(body) if start is None else start) % 2**32,
        len(comment),
    )
    return body + directory + locator + end + comment


def wide_end(length, start, entries=14):
    """The record that stands in front of the end of an archive of more than 4 GiB."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, length, start)
    return record + struct.pack("<4sLQL", b"PK\6\7", 0, (start + length) % 2**64, 1)


def unpack(data):
    """The members of an archive, by zipfile."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [Member(info.filename.encode(), archive.read(info)) for info in archive.infolist()]


def npy(header, data=b"", *, version=(1, 0), length=None):
    """A .npy of this header, which need not be one."""
    text = header if isinstance(header, bytes) else header.encode("latin1")
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + text + data


def described(descr, shape, fortran="False"):
    """The header of a .npy, as numpy writes it but for the spaces at its end."""
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def digest(fields):
    """The SHA-256 of an operator's fields: written after the documentation, not by the code."""
    total = hashlib.sha256()
    for name, array in sorted(fields.items()):
        total.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return np.array(total.hexdigest())


def seal(fields):
    """The file of these fields, with the right checksum."""
    fields = {name: np.asarray(value) for name, value in fields.items() if name != "sha256"}
    file = io.BytesIO()
    np.savez(file, **fields, sha256=digest(fields))
    return file.getvalue()
