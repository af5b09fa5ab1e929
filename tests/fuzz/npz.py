"""Operators as files, and what is nearly one."""

import dataclasses
import io
import tempfile

import numpy as np
import scipy.sparse

import convmat
from convmat.storage.kinds import KINDS
from tests.fuzz.draws import NUMBERS, TEXTS, shaken
from tests.hostile import described, digest, npy, pack, seal, unpack, wide_end


def operators():
    """One of each kind, dtype and way to pad."""
    weight = np.arange(72.0).reshape(4, 3, 3, 2)
    A = convmat.Conv2d(weight, (9, 8), stride=(2, 1), padding=((1, 2), (0, 1)), padding_mode="reflect")
    B = convmat.Conv1d(np.ones((4, 2, 3), np.complex64), 9, groups=2, dilation=2, padding="same_upper", method="fft")
    C = convmat.Conv3d(np.ones((2, 2, 2), np.float32), (4, 5, 6), padding=np.array([[1, 0]] * 3), flip=True)
    return [A, A.T, B, B.T, C, *A.factors(), *A.T.factors()]


def trees():
    """One of each kind that is made of others, or is no convolution."""
    A = convmat.Conv1d([1.0, 2.0, 1.0], 8, padding=1, padding_mode="reflect")
    B = convmat.Conv1d(np.full((2, 2, 3), 1j, np.complex64), 9, stride=2)
    D, R = convmat.Diagonal(np.arange(8.0, dtype=np.float32), 8), convmat.Rearrange((4, 2), (8,), order=(1, 0))
    S = convmat.Separable((4, 2, 3), [None, [[1.0, 2.0]], scipy.sparse.eye_array(3, 3, k=1, dtype=np.float32)])
    J, K = B.weight_operator(np.ones((2, 9))), B.T.weight_operator(np.ones((2, 4)))
    return [A.T @ A + 2 * D, convmat.vstack([A, 2j * D, A]), convmat.hstack([J.H, K.T]), convmat.block_diag([R, S.T]),
            np.float64(3) * D @ R, J, K, S, R, D]  # fmt: skip


def saved(operator):
    file = io.BytesIO()
    convmat.save(operator, file)
    return file.getvalue()


def fields_of(data):
    """The fields of a file, by numpy."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def value(draw, array):
    """Something in place of a field."""
    change = draw.choice(["number", "number", "text", "dtype", "shape", "numbers"])
    if change == "text":
        return np.array(draw.choice(TEXTS))
    if change == "dtype" and array.dtype.kind != "U":
        return array.astype(draw.choice(["<i8", ">i8", "<i4", "<u8", "<f8", ">f8", "<f4", "<c16", "<f2", "?", "<U9"]))
    if change == "shape":
        return draw.choice([array[..., None], array.reshape(-1), array[:0] if array.ndim else array, array.T])
    if change == "number" and array.ndim and array.size and array.dtype == np.int64:
        changed = array.copy()
        changed.flat[draw.randrange(array.size)] = draw.choice(NUMBERS)
        return changed
    return np.array(draw.choice([draw.choice(NUMBERS), [draw.choice(NUMBERS) for _ in range(draw.randrange(4))]]))


def part(draw, name, fields):
    """Something in place of a field, which may suit another part of the operator."""
    base = name.rpartition("/")[2]
    if base == "kind" and draw.random() < 0.5:
        return np.array(draw.choice(list(KINDS)))
    if base == "parts" and draw.random() < 0.8:
        count = sum(field.endswith("kind") for field in fields)
        return np.array([draw.randrange(-1, count + 1) for _ in range(draw.choice([0, 1, 1, 2, 2, 3, 9]))], dtype=int)
    others = [field for field in sorted(fields) if field.rpartition("/")[2] == base and field != name]
    return fields[draw.choice(others)] if others and draw.random() < 0.5 else value(draw, fields[name])


def header(draw):
    descr = draw.choice(
        ["'<f8'", "'>f8'", "'<i8'", "'|O'", "'<U9'", "'<U99999999'", "'|V0'", "'|b1'", "[('a', '<f8')]"]
    )
    shape = tuple(draw.choice(NUMBERS) for _ in range(draw.randrange(5)))
    return described(descr, shape, draw.choice(["True", "False", "1"]))


def resealed(members):
    """The members, with the checksum of what they hold, if numpy can read it."""
    file = io.BytesIO()
    try:
        fields = fields_of(pack(members))
        fields.pop("sha256", None)
        np.save(file, digest(fields))
    except Exception:
        return members
    return [dataclasses.replace(m, data=file.getvalue()) if m.name == b"sha256.npy" else m for m in members]


def hostile(draw):
    """A file that is not quite one of `save`, past as many of its outer checks as it goes."""
    data = saved(draw.choice(draw.choice([operators, trees])()))
    if draw.random() < 0.2:
        return shaken(draw, data)
    if draw.random() < 0.4:
        fields = fields_of(data)
        for _ in range(draw.choice([1, 1, 2, 3])):
            name = draw.choice(sorted(fields))
            fields[name] = part(draw, name, fields)
        return seal(fields)
    members, end = unpack(data), {}
    for _ in range(draw.choice([1, 1, 2])):
        at = draw.randrange(len(members))
        member = members[at]
        change = draw.choice(["data", "data", "header", "zip", "zip", "twice", "end", "drop"])
        if change == "data":
            members[at] = dataclasses.replace(member, data=shaken(draw, member.data))
        elif change == "header":
            body = member.data[member.data.index(b"\n") + 1 :] if b"\n" in member.data else b""
            wide = draw.choice([{}, {}, {"version": (2, 0)}, {"length": draw.choice([0, 9, 65535])}])
            members[at] = dataclasses.replace(member, data=npy(header(draw), body, **wide))
        elif change == "zip":
            what = draw.choice(["method", "flags", "crc", "packed", "size", "offset"])
            most = 2**16 if what in ("method", "flags") else 2**63
            members[at] = dataclasses.replace(member, **{what: draw.choice([n for n in NUMBERS if 0 <= n < most])})
        elif change == "twice":
            members.insert(draw.randrange(len(members)), draw.choice(members))
        elif change == "drop":
            del members[at]
        else:
            number = draw.choice([n for n in NUMBERS if n >= 0])
            end = draw.choice([{"entries": number}, {"length": number}, {"start": number}, {"comment": b"PK\5\6" * 9},
                               {"locator": wide_end(number, draw.choice([0, number]) % 2**63)}])  # fmt: skip
    return pack(resealed(members), **end)


def read(data):
    """Read the file; an operator must be the one that its fields say, as numpy reads them."""
    with tempfile.TemporaryFile() as file:  # unlike one in memory, it refuses to seek where nothing can be
        file.write(data)
        file.seek(0)
        A = convmat.load(file)
    told, got = fields_of(data), fields_of(saved(A))
    assert same(told, got)
    wide = not hasattr(A, "geometry") or np.abs(A.geometry.padding).max() > 2**16  # print walks along the border
    text = f"{A!r}\n{'' if wide else A.geometry}"
    assert text.replace("\n", "").isprintable(), text
    return A


def same(told, got):
    """Whether the fields are of one tree, in whatever order its parts are written, and however often."""
    if "kind" in told:  # of a convolution alone, which has no parts
        return "kind" in got and same_fields(told, got)
    return same_part(told, last(told), got, last(got))


def last(fields):
    return max(int(name.partition("/")[0]) for name in fields if "/" in name)


def same_part(told, a, got, b):
    one, other = ({n.partition("/")[2]: f[n] for n in f if n.startswith(f"{at}/")} for f, at in [(told, a), (got, b)])
    here, there = one.pop("parts", []), other.pop("parts", [])
    if len(here) != len(there) or not same_fields(one, other):
        return False
    return all(same_part(told, i, got, j) for i, j in zip(here, there, strict=True))


def same_fields(told, got):
    names = sorted(name for name in told if name != "sha256")
    equal = (np.array_equal(told[n], got[n], equal_nan=told[n].dtype.kind in "fc") for n in names)
    return names == sorted(name for name in got if name != "sha256") and all(equal)
