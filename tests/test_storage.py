"""Operators survive a file, bit for bit; other files are refused. And the matrices survive the formats of scipy."""

import inspect
import io
import os
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import convmat
from convmat.storage import load, save
from tests.hostile import Member, described, npy, pack, seal, unpack, wide_end
from tests.strategies import CONV_TRANSPOSE, layers, transposed_layers, tries

WEIGHT = np.random.default_rng(3).standard_normal((4, 3, 3, 2))


def round_trip(A):
    file = io.BytesIO()
    save(A, file)
    file.seek(0)
    return load(file)


def assert_same(B, A):
    """The same operator, as far as anybody can see."""
    assert type(B) is type(A)
    assert repr(B) == repr(A)
    assert B.geometry == A.geometry
    assert str(B.geometry) == str(A.geometry)
    assert (B.shape, B.dtype, B.input_shape, B.output_shape) == (A.shape, A.dtype, A.input_shape, A.output_shape)
    S, T = A.tosparse(), B.tosparse()
    for part in ("data", "indices", "indptr"):
        assert getattr(S, part).tobytes() == getattr(T, part).tobytes()
        assert getattr(S, part).dtype == getattr(T, part).dtype
    if hasattr(A, "weight"):
        assert B.weight.dtype == A.weight.dtype
        assert B.weight.shape == A.weight.shape
        assert B.weight.tobytes() == A.weight.tobytes()
        assert not B.weight.flags.writeable
        assert B.method == A.method
        assert B.explain().splitlines()[0] == A.explain().splitlines()[0]


def members(data):
    """The arrays of a file, by numpy."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def saved(A):
    file = io.BytesIO()
    save(A, file)
    return file.getvalue()


# %% Round trips


@tries(100)
@given(layers())
def test_convolutions_and_their_transposes_come_back(layer):
    A = layer.operator()
    assert_same(round_trip(A), A)
    assert_same(round_trip(A.T), A.T)
    assert_same(round_trip(A.H), A.H)


@tries(100)
@given(transposed_layers())
def test_transposed_convolutions_come_back_with_their_output_size(case):
    layer, inputs, extra, size = case
    A = CONV_TRANSPOSE[layer.ndim](layer.weight, inputs, output_padding=extra, **layer.options)
    B = round_trip(A)
    assert_same(B, A)
    assert B.geometry.input_size == size


@tries(30)
@given(layers())
def test_factors_come_back(layer):
    A = layer.operator()
    for factor in (*A.factors(), *A.T.factors()):
        assert_same(round_trip(factor), factor)


PADDINGS = [
    1, (1, 0), ((2, 1), (-1, 3)), np.int64(1), np.array([1, 2]), np.array([[1, 2], [0, 1]]), [[np.int32(1), 2], (0, 1)],
    "valid", "full", "same_upper", "same_lower",
]  # fmt: skip


@pytest.mark.parametrize("padding", PADDINGS, ids=repr)
@pytest.mark.parametrize("stride", [1, (2, 3)])
def test_padding_prints_as_it_was_given(padding, stride):
    for A in (
        convmat.Conv2d(WEIGHT, (9, 8), stride=stride, padding=padding),
        convmat.ConvTranspose2d(WEIGHT, (5, 4), stride=stride, padding=padding),
    ):
        assert_same(round_trip(A), A)


@pytest.mark.parametrize("size", [(8, 10), (9, 11), (10, 12)])
def test_output_size_of_a_same_upper_transpose_comes_back(size):
    A = convmat.ConvTranspose2d(WEIGHT, (5, 4), stride=(2, 3), padding="same_upper", output_size=(9, size[1]))
    assert_same(round_trip(A), A)


def test_padding_same_comes_back():
    A = convmat.Conv2d(WEIGHT, (9, 8), padding="same")
    assert_same(round_trip(A), A)


@pytest.mark.parametrize("method", ["auto", "pointwise", "measure", "matrix", "gemm", "fft", "separable"])
def test_method_comes_back(method):
    W = np.outer([1.0, 2, 1], [1.0, 3, 1])
    A = convmat.Conv2d(W, (9, 8), method=method)
    B = round_trip(A)
    assert_same(B, A)
    x = np.random.default_rng(0).standard_normal(A.input_shape)
    assert A.apply(x).tobytes() == B.apply(x).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_bits_of_non_finite_weights_come_back(dtype):
    W = np.random.default_rng(0).standard_normal((2, 1, 4)).astype(dtype)
    W[0, 0] = [np.nan, np.inf, -np.inf, -0.0]
    words = W.view(np.uint32)
    words[1, 0, 0] = 0xFFC12345  # a NaN with a payload, in the low half of a double: a subnormal or a payload
    A = convmat.Conv1d(W, 9)
    assert A.weight.tobytes() == W.tobytes()
    assert_same(round_trip(A), A)


def test_integers_come_back_as_the_doubles_that_they_became():
    A = convmat.Conv1d([1, 2, 3], 9)
    assert round_trip(A).dtype == np.float64
    assert_same(round_trip(A), A)


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_index_maps_come_back(channels, dtype):
    options = {"channels": channels, "dtype": dtype}
    for A in (
        convmat.Pad((4, 5), ((1, 2), (-1, 0)), padding_mode="reflect", **options),
        convmat.Crop((6, 5), 1, padding_mode="circular", **options),
        convmat.Downsample((7, 6), (2, 3), **options),
        convmat.Upsample((3, 2), (2, 3), output_size=(6, 5), **options),
    ):
        B = round_trip(A)
        assert_same(B, A)
        x = np.random.default_rng(0).standard_normal(A.input_shape)
        np.testing.assert_array_equal(B.apply(x), A.apply(x))
        np.testing.assert_array_equal(B.T.apply(A.apply(x)), A.T.apply(A.apply(x)))


def test_equal_operators_give_equal_files():
    make = lambda: convmat.Conv2d(WEIGHT, (9, 8), stride=2)  # noqa: E731
    assert saved(make()) == saved(make())
    assert saved(make()) != saved(make().T)


# %% Files


def test_numpy_opens_the_file_without_pickle():
    A = convmat.Conv2d(WEIGHT, (9, 8), stride=2, padding=((1, 2), (0, 1)))
    fields = members(saved(A))
    np.testing.assert_array_equal(fields["weight"], WEIGHT)
    assert fields["kind"] == "Conv2d"
    assert fields["padding"].tolist() == [[1, 2], [0, 1]]
    assert fields["input_size"].tolist() == [9, 8]
    assert all(array.dtype.kind != "O" for array in fields.values())


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", ["layer.npz", "layer", "layer.v2", "Ebene ü.npz"])
def test_a_name_without_npz_gets_it_when_written_and_when_read(tmp_path, kind, name):
    A = convmat.Conv1d([1.0, 2], 5)
    path = kind(tmp_path / name)
    save(A, path)
    assert [file.name for file in tmp_path.iterdir()] == [name if name.endswith(".npz") else f"{name}.npz"]
    assert_same(load(path), A)


def test_open_files_are_taken_and_stay_open(tmp_path):
    A = convmat.Conv1d([1.0, 2], 5)
    with open(tmp_path / "file", "w+b") as file:
        save(A, file)
        file.seek(0)
        assert_same(load(file), A)
        assert not file.closed


def test_a_stream_that_cannot_seek_is_read():
    A = convmat.Conv1d([1.0, 2], 5)
    read, write = os.pipe()
    with open(read, "rb") as source, open(write, "wb") as sink:
        sink.write(saved(A))
        sink.close()
        assert_same(load(source), A)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    A, path = convmat.Conv1d([1.0, 2], 5), tmp_path / "layer.npz"
    save(A, path)

    def fail(file, **fields):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space left"):
        save(convmat.Conv1d([3.0], 5), path)
    assert list(tmp_path.iterdir()) == [path]
    assert_same(load(path), A)


def test_an_existing_file_is_replaced_whole(tmp_path):
    path = tmp_path / "layer.npz"
    save(convmat.Conv1d(np.ones(50), 60), path)
    with open(path, "rb") as old:
        save(convmat.Conv1d([2.0], 60), path)
        assert_same(load(old), convmat.Conv1d(np.ones(50), 60))  # a reader of the old file is not disturbed
    assert_same(load(path), convmat.Conv1d([2.0], 60))


@pytest.mark.skipif(os.name != "posix", reason="links and modes of POSIX")
def test_links_are_followed_and_the_mode_is_that_of_any_new_file(tmp_path):
    plain, link = tmp_path / "plain", tmp_path / "link.npz"
    plain.touch()
    link.symlink_to(tmp_path / "layer.npz")
    save(convmat.Conv1d([1.0], 5), link)
    assert link.is_symlink()
    assert_same(load(tmp_path / "layer.npz"), convmat.Conv1d([1.0], 5))
    assert stat.S_IMODE((tmp_path / "layer.npz").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_another_process_reads_the_file(tmp_path):
    A = convmat.Conv2d(WEIGHT, (9, 8), stride=2, padding_mode="reflect", padding=1)
    save(A, tmp_path / "layer.npz")
    code = "import sys, convmat.storage; A = convmat.storage.load(sys.argv[1]); print(repr(A)); print(A.geometry)"
    environment = os.environ | {"PYTHONPATH": str(Path(convmat.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path / "layer.npz")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"{A!r}\n{A.geometry}\n"


# %% Refusals

GOOD = members(saved(convmat.Conv2d(WEIGHT, (9, 8), stride=(2, 1), padding=1, padding_mode="reflect")))


def test_the_checksum_of_these_tests_is_that_of_the_format():
    assert seal(GOOD) == saved(load(io.BytesIO(seal(GOOD))))


EDITS = {
    "format": ({"format": "another format"}, "is not a file of convmat.save"),
    "newer": ({"version": 3}, "version 3, a newer convmat wrote it: this one reads versions 1 and 2"),
    "older": ({"version": 0}, "has version 0: this one reads versions 1 and 2"),
    "a tree without parts": ({"version": 2}, "those of its parts, such as 0/kind, once each; missing: none; unknown:"),
    "version is text": ({"version": "1"}, "its version is not an integer"),
    "kind": ({"kind": "Conv9d"}, "kind='Conv9d' must be one of Conv1d, "),
    "a class that is no operator": ({"kind": "Products"}, "kind='Products' must be one of"),
    "other dimension": ({"kind": "Conv3d"}, "must have one entry for each axis of kind Conv3d"),
    "method": ({"method": "magic"}, "method='magic' must be one of 'auto'"),
    "weight of strings": ({"weight": np.array(["a"])}, "weight must be an array of numbers"),
    "weight of integers": ({"weight": WEIGHT.astype(int)}, "weight must be an array of numbers, not of dtype int64"),
    "weight of halves": ({"weight": WEIGHT.astype(np.float16)}, "weight has dtype float16"),
    "weight with an axis more": ({"weight": WEIGHT[..., None]}, "weight has shape"),
    "empty weight": ({"weight": WEIGHT[:0]}, "every axis must have at least 1 entry"),
    "kernel too large": ({"weight": np.ones((4, 3, 12, 2))}, "must not be larger than the padded input"),
    "sizes": ({"input_size": [9, 8, 7]}, "weight has shape"),
    "negative size": ({"input_size": [9, -8]}, "must be at least 1"),
    "size is no list": ({"input_size": 9}, "input_size must be integers, one per axis"),
    "size of floats": ({"input_size": [9.0, 8.0]}, "input_size must be integers, one per axis, not of dtype float64"),
    "stride 0": ({"stride": [0, 1]}, "stride=.* must be at least 1"),
    "one stride": ({"stride": [2]}, "stride=.* one entry per spatial axis"),
    "dilation": ({"dilation": [1, -1]}, "dilation=.* must be at least 1"),
    "triples": ({"padding": [[1, 1, 1], [1, 1, 1]]}, "padding="),
    "padding and its word": ({"padding_as_given": "'same_upper'"}, "padding=.* must be that of padding_as_given"),
    "escape sequence": ({"padding_as_given": "\x1b[2J"}, "must be printable"),
    "groups 0": ({"groups": 0}, "groups=0 must be at least 1"),
    "size beyond 64 bits": ({"input_size": [2**62, 8]}, "more rows or columns than 64-bit index arithmetic can count"),
    "stride beyond 64 bits": ({"stride": [2**63 - 1, 1]}, "is too large"),
    "padding beyond 64 bits": ({"padding": [[2**63 - 1] * 2] * 2, "padding_mode": "zeros"}, "is too large"),
    "padding that crops all": ({"padding": [[-(2**63)] * 2] * 2, "padding_mode": "zeros"}, "crops everything"),
    "weight without entries": ({"weight": np.zeros((4, 3, 0, 2**40))}, "every axis must have at least 1 entry"),
    "mode": ({"padding_mode": "wrap"}, "padding_mode='wrap' must be one of"),
    "groups": ({"groups": 3}, "groups=3 must divide"),
    "groups is text": ({"groups": "1"}, "groups must be an integer"),
    "flip": ({"flip": 1}, "flip must be a bool"),
    "correlation with a stride": ({"kind": "Correlate"}, "stride must be 1 .* of kind Correlate"),
    "pad with a weight": ({"kind": "Pad", "stride": [1, 1]}, "weight must be 1 .* of kind Pad"),
    "pad of a stride": ({"kind": "Pad", "weight": np.ones((1, 1))}, "stride must be 1 .* of kind Pad"),
    "pad with a kernel": ({"kind": "Pad", "weight": np.ones((2, 2)), "stride": [1, 1]}, "a single 1 per channel"),
    "pad that mixes": ({"kind": "Pad", "weight": np.ones((2, 2, 1, 1)), "stride": [1, 1]}, "a single 1 per channel"),
    "pad by a method": (
        {"kind": "Pad", "weight": np.ones((1, 1)), "stride": [1, 1], "method": "fft"},
        "method must be 'auto' .* kind Pad",
    ),
    "downsample with padding": ({"kind": "Downsample", "weight": np.ones((1, 1))}, "padding must be 0 .* of kind Down"),
    "upsample flipped": (
        {"kind": "Upsample", "weight": np.ones((1, 1)), "padding": [[0, 0]] * 2, "padding_mode": "zeros", "flip": True},
        "flip must be False .* of kind Upsample",
    ),
}  # fmt: skip
"""Name -> the fields that are changed, under a right checksum, and the message."""


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_with_a_right_checksum_that_describes_no_operator_is_refused(edit):
    changes, message = EDITS[edit]
    with pytest.raises(ValueError, match=message) as error:
        load(io.BytesIO(seal(GOOD | changes)))
    assert "BytesIO" in str(error.value)


@pytest.mark.parametrize("field", sorted(set(GOOD) - {"sha256", "format", "version"}))
def test_a_missing_field_is_named(field):
    with pytest.raises(ValueError, match=f"missing: {field}; unknown: none"):
        load(io.BytesIO(seal({name: array for name, array in GOOD.items() if name != field})))


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match="missing: none; unknown: bias"):
        load(io.BytesIO(seal(GOOD | {"bias": np.zeros(4)})))


def test_a_field_given_twice_is_refused():
    file = io.BytesIO(seal(GOOD))
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("stride.npy", archive.read("padding.npy"))
    with pytest.raises(ValueError, match="once each"):
        load(io.BytesIO(file.getvalue()))


CHANGED = {
    "stride": np.array([1, 1]), "dilation": np.array([2, 1]), "padding": np.array([[1, 1], [1, 0]]),
    "padding_mode": np.array("replicate"), "padding_as_given": np.array("((1, 1), (1, 1))"), "flip": np.array(True),
    "input_size": np.array([9, 9]), "kind": np.array("ConvTranspose2d"), "method": np.array("fft"),
    "groups": np.array(2), "weight": np.nextafter(WEIGHT, 0),
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGED)
def test_an_edited_field_is_told_by_the_checksum(field):
    file = io.BytesIO()
    np.savez(file, **(GOOD | {field: CHANGED[field]}))
    with pytest.raises(ValueError, match="damaged or was edited"):
        load(io.BytesIO(file.getvalue()))


MEMBERS = {member.name.decode(): member for member in unpack(seal(GOOD))}


def packed(changes=(), **end):
    """The good file, with other members of these names."""
    return pack((MEMBERS | dict(changes)).values(), **end)


def with_npy(field, data):
    return packed({f"{field}.npy": Member(f"{field}.npy".encode(), data)})


@pytest.fixture
def peak():
    """What Python and numpy have allocated at most since the test began, in bytes."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    yield lambda: tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()


def test_the_archives_of_these_tests_are_archives():
    assert_same(load(io.BytesIO(packed())), load(io.BytesIO(seal(GOOD))))


def test_a_file_written_to_a_stream_has_its_sizes_behind_its_members_and_is_read():
    A = convmat.Conv2d(WEIGHT, (9, 8))
    read, write = os.pipe()
    with open(read, "rb") as source:
        with open(write, "wb") as sink:
            save(A, sink)
        data = source.read()
    assert data[6] & 8
    assert_same(load(io.BytesIO(data)), A)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<c8", ">c8"])
def test_weights_of_either_byte_order_and_either_order_of_axes_are_read(dtype, order):
    W = np.asarray(WEIGHT.astype(dtype), order=order)
    B = load(io.BytesIO(seal(GOOD | {"weight": W})))
    np.testing.assert_array_equal(B.weight, W)
    assert B.dtype == W.dtype.newbyteorder("=")


def test_a_compressed_member_is_refused_before_it_is_inflated(peak):
    for name in ("weight.npy", "kind.npy", "format.npy"):
        bomb = io.BytesIO()
        with zipfile.ZipFile(bomb, "w") as archive:
            for other, member in MEMBERS.items():
                fill = member.data + bytes(2**26) if other == name else member.data
                archive.writestr(other, fill, compress_type=zipfile.ZIP_DEFLATED if other == name else None)
        del fill
        tracemalloc.reset_peak()
        before = peak()
        with pytest.raises(ValueError, match="is compressed"):
            load(io.BytesIO(bomb.getvalue()))
        assert peak() < before + 2**21


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 93, 99])
def test_every_compression_is_refused(method):
    changed = Member(b"weight.npy", MEMBERS["weight.npy"].data, method=method)
    with pytest.raises(ValueError, match="field 'weight': it is compressed"):
        load(io.BytesIO(packed({"weight.npy": changed})))


NUMBERS = np.zeros(4).tobytes()
HEADERS = {
    "2^40 entries": npy(described("'<f8'", (2**40,)), NUMBERS),
    "more entries than 64 bits count": npy(described("'<f8'", (2**62, 2**62)), NUMBERS),
    "none, and 2^62 along the other axes": npy(described("'<f8'", (0, 2**62, 2**62))),
    "a long text": npy(described("'<U100000000'", ()), bytes(16)),
    "a text of more than all memory": npy(described("'<U4611686018427387904'", ()), bytes(16)),
    "an empty text": npy(described("'<U0'", (2**40,))),
    "a negative shape": npy(described("'<f8'", (-4,)), NUMBERS),
    "two negative axes": npy(described("'<f8'", (-2, -2)), NUMBERS),
    "a shape of floats": npy(described("'<f8'", (4.0,)), NUMBERS),
    "a shape of bools": npy(described("'<f8'", (True, 4)), NUMBERS),
    "octal": npy(described("'<f8'", "(0o4,)"), NUMBERS),
    "sixty-five axes": npy(described("'<f8'", (1,) * 64 + (4,)), NUMBERS),
    "objects": npy(described("'|O'", (4,)), NUMBERS),
    "a structure": npy(described("[('a', '<f8')]", (4,)), NUMBERS),
    "a subarray": npy(described("('<f8', (4,))", ()), NUMBERS),
    "dates": npy(described("'<M8[s]'", (4,)), NUMBERS),
    "void": npy(described("'|V8'", (4,)), NUMBERS),
    "long doubles that do not exist": npy(described("'<f7'", (4,)), bytes(28)),
    "a call": npy(described("'<f8'", "__import__('os').abort()"), NUMBERS),
    "nested brackets": npy("(" * 4000 + "\n", NUMBERS),
    "a chain of signs": npy(described("'<f8'", f"({'-' * 9000}4,)"), NUMBERS),
    "an escape that Python warns about": npy(described("'\\d'", (4,)), NUMBERS),
    "an integer of Python 2": npy(described("'<f8'", "(4L,)"), NUMBERS),
    "text": npy("no header\n", NUMBERS),
    "no header": npy(b""),
    "a header longer than the member": npy(described("'<f8'", (4,)), length=65535),
    "version 2, a header of 4 GiB": npy(described("'<f8'", (4,)), NUMBERS, version=(2, 0), length=2**32 - 1),
    "version 9": npy(described("'<f8'", (4,)), NUMBERS, version=(9, 0)),
    "nothing": b"",
    "half a magic": b"\x93NUM",
    "letters beyond Unicode": npy(described("'<U2'", ()), b"a\0\0\0\0\0\x11\0"),
    "letters beyond Unicode, most significant first": npy(described("'>U1'", ()), b"\xff\xff\xff\xff"),
    "entries beyond the shape": npy(described("'<f8'", (3,)), NUMBERS),
}
"""Name -> a .npy that is none, or not one of `save`."""


@pytest.mark.parametrize("field", ["weight", "kind", "version", "sha256"])
@pytest.mark.parametrize("header", HEADERS)
def test_an_array_that_is_not_what_its_header_says_is_refused(field, header, peak):
    with pytest.raises(ValueError, match=f"cannot be read, its field '{field}': "):
        load(io.BytesIO(with_npy(field, HEADERS[header])))
    assert peak() < 2**21


@pytest.mark.parametrize("field", sorted({*GOOD} - {"weight"}))
def test_fields_other_than_the_weight_are_short(field, peak):
    big = with_npy(field, npy(described("'<U1000000'", ()), bytes(4_000_000)))
    tracemalloc.reset_peak()
    before = peak()
    with pytest.raises(ValueError, match=f"its field '{field}': it has 40000.. bytes"):
        load(io.BytesIO(big))
    assert peak() < before + 2**21


W = MEMBERS["weight.npy"].data
LIES = {
    "a member larger than the file": {"weight.npy": Member(b"weight.npy", W, packed=2**31, size=2**31)},
    "a member of 2^60 bytes": {"weight.npy": Member(b"weight.npy", W, packed=2**60, size=2**60)},
    "unpacked to 2^60 bytes": {"weight.npy": Member(b"weight.npy", W, size=2**60)},
    "unpacked to less": {"weight.npy": Member(b"weight.npy", W, size=100)},
    "beyond the end": {"weight.npy": Member(b"weight.npy", W, offset=2**31)},
    "2^60 bytes beyond the end": {"weight.npy": Member(b"weight.npy", W, offset=2**60)},
    "another member's place": {"stride.npy": Member(b"stride.npy", W, offset=0)},
    "another name inside": {"stride.npy": Member(b"stride.npy", MEMBERS["stride.npy"].data, inner=b"dilate.npy")},
    "another checksum": {"stride.npy": Member(b"stride.npy", MEMBERS["stride.npy"].data, crc=1)},
    "encrypted": {"kind.npy": Member(b"kind.npy", MEMBERS["kind.npy"].data, flags=1)},
    "patched": {"kind.npy": Member(b"kind.npy", MEMBERS["kind.npy"].data, flags=32)},
    "strongly encrypted": {"kind.npy": Member(b"kind.npy", MEMBERS["kind.npy"].data, flags=64)},
    "half an extra field": {"kind.npy": Member(b"kind.npy", MEMBERS["kind.npy"].data, extra=b"\1\0\xff\xff")},
    "no suffix": {"kind.npy": Member(b"kind", MEMBERS["kind.npy"].data)},
    "zero in the name": {"kind.npy": Member(b"kind\0.npy", MEMBERS["kind.npy"].data)},
    "a name that is no UTF-8": {"kind.npy": Member(b"kind\xff.npy", MEMBERS["kind.npy"].data, flags=2048)},
    "all members in one place": {
        name: Member(member.name, W, offset=0, inner=b"weight.npy") for name, member in MEMBERS.items()
    },
}
"""Name -> members of which the directory does not say the truth."""


@pytest.mark.parametrize("lie", LIES)
def test_a_directory_that_lies_is_refused(lie, tmp_path, peak):
    path = tmp_path / "layer.npz"
    path.write_bytes(packed(LIES[lie]))
    with pytest.raises(ValueError, match=r"layer\.npz' "):
        load(path)
    assert peak() < 2**21


ENDS = {
    "no entries": {"length": 0},
    "a directory of 4 GiB": {"length": 2**32 - 1},
    "a directory before the start": {"length": 2**31, "start": 2**31},
    "a directory of 2^60 bytes": {"locator": wide_end(2**60, 0)},
    "a directory at 2^63": {"locator": wide_end(100, 2**63)},
    "a directory before 2^64": {"locator": wide_end(2**63, 2**63)},
}


@pytest.mark.parametrize("end", ENDS)
def test_a_directory_that_is_not_there_is_refused(end, tmp_path, peak):
    path = tmp_path / "layer.npz"
    path.write_bytes(packed(**ENDS[end]))
    for source in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(ValueError, match=r"is not a \.npz file"):
            load(source)
    assert peak() < 2**21


def test_a_directory_of_a_million_names_is_not_read(tmp_path, peak):
    path, name = tmp_path / "layer.npz", b"a" * 9
    data = packed()
    end = len(data) - 22
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    entry = data[start : start + 28] + len(name).to_bytes(2, "little") + bytes(16) + name
    count = 10**6
    with open(path, "wb") as file:
        file.write(data[:end])
        for _ in range(count // 1000):
            file.write(entry * 1000)
        file.write(wide_end(end - start + count * len(entry), start, count + 14) + data[end:])
    with pytest.raises(ValueError, match=r"is not a \.npz file"):
        load(path)
    assert peak() < 2**23


def test_names_of_members_are_printed_without_what_a_terminal_obeys():
    strange = "\x1b[2J\u202e\u200b" + "x" * 10**4
    file = io.BytesIO(seal(GOOD))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{strange}.npy", b"")
    with pytest.raises(ValueError, match=r"unknown: \\x1b\[2J\\u202e\\u200bx+$") as error:
        load(io.BytesIO(file.getvalue()))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "text",
    ["\x1b[31m1", "1\n", "1\nmatrix       1 x 1", "1\r2", "1\t", "\x7f", "\x9b31m", "\u202e1", "1\u200b", "\u2066",
     "\ufeff1", "\u034f", "\u3164", "array([[1, 2],\n       [0, 1]])\nmatrix", "array([[1, 2],\n \x1b[0m[0, 1]])",
     "array([[1, 2],\n       [0, 1]], dtype=int8\n)", "array([[1, 2],\n\n  matrix 1 x 1"],
    ids=ascii,
)  # fmt: skip
def test_a_padding_as_given_that_a_terminal_would_obey_is_refused(text):
    with pytest.raises(ValueError, match=r"padding_as_given=.* must be printable") as error:
        load(io.BytesIO(seal(GOOD | {"padding_as_given": text})))
    assert str(error.value).isprintable()


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16])
def test_a_padding_that_was_given_as_an_array_prints_as_it_was(dtype):
    for padding in (np.array([[1, 2], [0, 100]], dtype=dtype), np.array([1, 2], dtype=dtype)):
        A = convmat.Conv2d(WEIGHT, (9, 8), padding=padding)
        assert_same(round_trip(A), A)


def test_a_file_is_read_from_where_it_stands_to_its_end(tmp_path):
    A, B = convmat.Conv1d([1.0, 2], 5), convmat.Conv1d([3.0], 5)
    with open(tmp_path / "file", "w+b") as file:
        file.write(b"before")
        save(A, file)
        file.seek(6)
        assert_same(load(file), A)
        assert file.tell() == file.seek(0, os.SEEK_END)
        for at in (0, 5, 7, file.tell()):
            file.seek(at)
            with pytest.raises(ValueError, match=r"is not a \.npz file"):
                load(file)
        second = file.seek(0, os.SEEK_END)
        save(B, file)
        file.seek(second)
        assert_same(load(file), B)
        file.seek(6)
        with pytest.raises(ValueError, match="its first member is not at its start"):
            load(file)


def test_a_file_that_offers_nothing_but_read_is_read():
    class Source:
        read = io.BytesIO(seal(GOOD)).read

    assert_same(load(Source()), load(io.BytesIO(seal(GOOD))))


def test_a_file_that_is_open_as_text_is_refused(tmp_path):
    save(convmat.Conv1d([1.0], 5), tmp_path / "layer.npz")
    with open(tmp_path / "layer.npz") as file, pytest.raises(TypeError, match="open it by open"):
        load(file)
    with pytest.raises(TypeError, match="is open as text"):
        load(io.StringIO("PK"))


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="a file without an end")
def test_a_file_without_an_end_is_refused_by_its_first_bytes(tmp_path, peak):
    (tmp_path / "layer.npz").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"is not a \.npz file"):
        load(tmp_path / "layer.npz")
    with open("/dev/zero", "rb", buffering=0) as file, pytest.raises(ValueError, match=r"is not a \.npz file"):
        load(file)
    assert peak() < 2**21


@pytest.mark.skipif(os.name != "posix", reason="zeros that take no room on the disk")
@pytest.mark.parametrize("first", [b"", packed()], ids=["nothing", "a file of save"])
def test_a_large_file_is_not_read_to_be_refused(first, tmp_path, peak):
    path = tmp_path / "layer.npz"
    path.write_bytes(first)
    os.truncate(path, 2**33)
    with pytest.raises(ValueError, match=r"is not a \.npz file"):
        load(path)
    assert peak() < 2**22


def test_a_weight_that_does_not_fit_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr("convmat.matrix._ALWAYS_FITS", 10**6)
    monkeypatch.setattr("convmat.matrix._available_memory", lambda: 10**6)
    file = io.BytesIO()
    save(convmat.Conv1d(np.ones(10**5), 10**5), file)
    file.seek(0)
    with pytest.raises(MemoryError, match=r"field 'weight': an array of shape \(100000,\).* needs 1600000 bytes"):
        load(file)


def test_pickled_objects_are_never_loaded():
    class Trap:
        def __reduce__(self):
            return os.abort, ()

    for field in ("format", "weight"):
        file = io.BytesIO()
        np.savez(file, **(GOOD | {field: np.array(Trap(), dtype=object)}))
        with pytest.raises(ValueError, match=f"field '{field}'.*allow_pickle=False"):
            load(io.BytesIO(file.getvalue()))


def test_a_member_that_is_no_array_is_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seal(GOOD))) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"raw bytes" if name == "weight.npy" else old.read(name))
    with pytest.raises(ValueError, match="its field 'weight'"):
        load(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04K\x01.", b"text", b"PK\x05\x06" + bytes(18)], ids=repr)
def test_what_is_no_file_of_save_is_refused(data, tmp_path):
    path = tmp_path / "other.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"other\.npz' is not a"):
        load(path)


def test_files_of_numpy_and_scipy_are_refused(tmp_path):
    np.savez(tmp_path / "arrays.npz", x=np.ones(3))
    scipy.sparse.save_npz(tmp_path / "matrix.npz", scipy.sparse.eye_array(3, format="csr"))
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, np.ones(3))
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="is not a"):
            load(path)


@tries(300)
@given(st.data())
def test_a_damaged_file_is_refused(data):
    whole = bytearray(seal(GOOD))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] ^= data.draw(st.integers(1, 255))
    else:
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    try:
        B = load(io.BytesIO(bytes(whole)))
    except ValueError:
        return
    assert_same(B, load(io.BytesIO(seal(GOOD))))  # a byte of the zip that says nothing, such as a date


LINE = convmat.Conv1d([1.0], 3)


@pytest.mark.parametrize(
    "other",
    [np.eye(3), convmat.normal(LINE)],
    ids=lambda other: type(other).__name__,
)
def test_other_operators_are_refused_before_anything_is_written(other, tmp_path):
    with pytest.raises(TypeError, match=f"of type {type(other).__name__}: it must be one of Conv1d, "):
        save(other, tmp_path / "other.npz")
    assert not list(tmp_path.iterdir())


def test_a_subclass_is_refused():
    class Mine(convmat.Conv1d):
        pass

    Mine.__name__ = "Conv1d"
    with pytest.raises(TypeError, match="must be one of"):
        save(Mine([1.0], 3), io.BytesIO())


@pytest.mark.parametrize("path", [3, None, b"layer.npz"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(TypeError, match="path="):
        save(convmat.Conv1d([1.0], 3), path)
    with pytest.raises(TypeError, match="path="):
        load(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing.npz")


# %% The matrices, by scipy

DTYPES = ["float32", "float64", "complex64", "complex128"]


def matrices(dtype):
    """Matrices of all builders, with stored zeros, with 32-bit and with 64-bit indices."""
    W = (WEIGHT + 1j * WEIGHT[::-1] if np.dtype(dtype).kind == "c" else WEIGHT).astype(dtype)
    W[:, 1] = 0
    A = convmat.Conv2d(W, (9, 8), stride=2, padding=1, padding_mode="circular")
    wide = A.tosparse()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    return {
        "tosparse": A.tosparse(),
        "transposed": A.T.tosparse(),
        "conv_matrix": convmat.conv_matrix(W, (9, 8), dilation=2),
        "conv_transpose_matrix": convmat.conv_transpose_matrix(W, (9, 8), stride=2),
        "int64 indices": wide,
        "slab": convmat.conv_matrix(W[0, 0, 0], 2**31 + 9, rows=slice(5, 9)),
    }


def as_array(reader):
    """The keyword that asks a reader for a sparse array, where scipy has one."""
    return {"spmatrix": False} if "spmatrix" in inspect.signature(reader).parameters else {}


def assert_same_matrix(T, S, dtype):
    """The same stored entries, zeros among them."""
    S, T = S.tocoo(), T.tocoo()
    order = np.lexsort((T.col, T.row))
    assert S.shape == T.shape
    np.testing.assert_array_equal(T.row[order], S.row)
    np.testing.assert_array_equal(T.col[order], S.col)
    assert T.data[order].astype(dtype).tobytes() == S.data.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrices_have_the_indices_that_these_tests_speak_of(dtype):
    made = matrices(dtype)
    for name, S in made.items():
        assert isinstance(S, scipy.sparse.csr_array)
        assert S.indices.dtype == (np.int64 if name in ("int64 indices", "slab") else np.int32), name
        assert S.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compressed", [False, True])
def test_save_npz_of_scipy_keeps_the_matrices(dtype, compressed, tmp_path):
    for name, S in matrices(dtype).items():
        scipy.sparse.save_npz(tmp_path / "matrix.npz", S, compressed=compressed)
        T = scipy.sparse.load_npz(tmp_path / "matrix.npz")
        assert isinstance(T, scipy.sparse.csr_array), name
        assert T.dtype == S.dtype
        assert_same_matrix(T, S, dtype)


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "bsr", "dia"])
def test_save_npz_of_scipy_keeps_every_format_that_it_knows(format, tmp_path):
    S = convmat.conv_matrix([1.0, 2, 3], 9, stride=2, format=format)
    scipy.sparse.save_npz(tmp_path / "matrix.npz", S)
    T = scipy.sparse.load_npz(tmp_path / "matrix.npz")
    assert type(T) is type(S)
    np.testing.assert_array_equal(T.toarray(), S.toarray())


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrix_market_keeps_the_matrices(dtype, tmp_path):
    for S in matrices(dtype).values():
        scipy.io.mmwrite(tmp_path / "matrix.mtx", S)
        assert_same_matrix(scipy.io.mmread(tmp_path / "matrix.mtx", **as_array(scipy.io.mmread)), S, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_matlab_files_keep_the_matrices(dtype, tmp_path):
    for name, S in matrices(dtype).items():
        if name != "slab":  # a MATLAB file has a pointer for each of 2^31 columns, of 32 bits
            scipy.io.savemat(tmp_path / "matrix.mat", {"A": S})
            read = scipy.io.loadmat(tmp_path / "matrix.mat", **as_array(scipy.io.loadmat))
            assert_same_matrix(read["A"], S, dtype)
