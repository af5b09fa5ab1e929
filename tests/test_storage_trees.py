"""Operators made of others survive a file; each class by itself, and what is made of all of them."""

import io

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import convmat
from convmat import block_diag, hstack, identity, load, save, vstack
from convmat.operators import BlockDiagonal, Chain, HStack, ImageOperator, Scaled, Sum, VStack
from convmat.storage.kinds import KINDS
from tests.hostile import seal
from tests.strategies import tries
from tests.test_storage import members, peak, round_trip, saved  # noqa: F401
from tests.trees import Trees

A = convmat.Conv1d([1.0, 2.0, 4.0], 8, padding=1, padding_mode="reflect", method="gemm")
B = convmat.Conv1d(np.array([1j, 2], np.complex64), 8, stride=2)
D = convmat.Diagonal(np.arange(8, dtype=np.float32), 8)
R = convmat.Rearrange((2, 4), (8,), order=(1, 0))
DENSE, SPARSE = np.arange(6.0).reshape(2, 3), scipy.sparse.csr_array(np.eye(4, 5, dtype=np.complex64) * 2j)
S = convmat.Separable((3, 5, 2), [DENSE, SPARSE, None])
J = B.weight_operator(np.arange(8.0))
K = B.T.weight_operator(np.arange(4.0))
SINGLE = convmat.Conv1d(np.ones(3, np.float32), 8)

EACH = {
    "Chain": B @ A,
    "power": A**5,
    "flat vectors passed on": convmat.Conv1d([1.0, 2.0], 8) @ R,
    "Diagonal": convmat.Diagonal([[1j], [2]], (2, 3)),
    "identity": identity((3, 4), dtype=np.float32),
    "Rearrange": convmat.Rearrange((2, 3, 4), (12, 2), split=(2, 3, 2, 2), order=(2, 0, 3, 1), dtype=np.complex64),
    "Separable": S,
    "Separable, transposed": S.T,
    "Separable, adjoint": S.H,
    "Separable of no matrix": convmat.Separable((2, 3), [None, None]),
    "LocalConv1d": convmat.LocalConv1d(np.arange(24.0).reshape(3, 8), 8, padding=1, padding_mode="reflect"),
    "LocalConv2d": convmat.LocalConv2d(np.ones((2, 1, 1, 1, 2, 3), np.complex64), (2, 3)),
    "LocalConv3d, transposed": convmat.LocalConv3d(np.ones((1, 1, 1, 2, 2, 2)), (2, 2, 2), flip=True).T,
    "WeightOperator": J,
    "TransposeWeightOperator": K,
    "transpose": J.T,
    "adjoint": K.H,
    "conjugate": K.H.T,
    "Sum": A + D - A.T,
    "Sum of other shapes": A @ R + R,
    "Scaled": -2 * A,
    "Scaled by a double": np.float64(0.1) * SINGLE,
    "Scaled by a single": np.float32(0.1) * SINGLE,
    "Scaled by a complex": 0.1j * SINGLE,
    "Scaled by a complex double": np.complex128(0.1) * SINGLE,
    "Scaled by infinity": A * np.inf,
    "VStack": vstack([A, 0.5 * identity(8)]),
    "HStack": hstack([A, B.T, D]),
    "BlockDiagonal": block_diag([A, S, R]),
    "all": block_diag([vstack([B @ A, 2 * B]), hstack([J.H, K.T]) @ hstack([J.H, K.T]).H, S]).H,
}


def inner(of):
    """The operators that an operator is made of."""
    if isinstance(of, Scaled):
        return (of.of,)
    ways = {Chain: "factors", Sum: "terms", VStack: "parts", HStack: "parts", BlockDiagonal: "parts"}
    return getattr(of, ways[type(of)])() if type(of) in ways else tuple(filter(None, [vars(of).get("_of")]))


def assert_same_tree(B, A):
    """The same classes, shapes, dtypes, entries and numbers, part by part."""
    assert type(B) is type(A)
    assert (B.shape, B.dtype, B.input_shape, B.output_shape) == (A.shape, A.dtype, A.input_shape, A.output_shape)
    S, T = A.tosparse(), B.tosparse()
    for part in ("data", "indices", "indptr"):
        assert getattr(S, part).tobytes() == getattr(T, part).tobytes()
        assert getattr(S, part).dtype == getattr(T, part).dtype
    for name in ("weight", "values", "image"):
        if hasattr(A, name):
            old, new = getattr(A, name), getattr(B, name)
            assert (new.tobytes(), new.shape, new.dtype) == (old.tobytes(), old.shape, old.dtype)
            assert not new.flags.writeable
    for name in ("factor", "method", "geometry"):
        assert repr(getattr(B, name, None)) == repr(getattr(A, name, None))
    assert len(inner(B)) == len(inner(A))
    for b, a in zip(inner(B), inner(A), strict=True):
        assert_same_tree(b, a)


def assert_same_products(B, A):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(A.input_shape), rng.standard_normal(A.output_shape)
    np.testing.assert_allclose(B.apply(x), A.apply(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(B.H.apply(y), A.H.apply(y), rtol=1e-5, atol=1e-5)


# %% Round trips


@pytest.mark.parametrize("name", EACH)
def test_every_class_comes_back(name):
    made = EACH[name]
    back = round_trip(made)
    assert_same_tree(back, made)
    assert saved(back) == saved(made)
    if name != "Scaled by infinity":
        assert_same_products(back, made)


def test_every_class_has_been_tried():
    seen, left = set(), [*EACH.values(), *A.factors(), *A.T.factors(), A, A.T]
    left += [convmat.Conv2d(np.ones((1, 1)), (2, 2)), convmat.Conv3d(np.ones((1, 1, 1)), (2, 2, 2))]
    left += [of.T for of in left]
    while left:
        seen.add(type(left[0]))
        left += inner(left.pop(0))
    assert {kind.made for kind in KINDS.values() if issubclass(kind.made, ImageOperator)} <= seen


@pytest.mark.parametrize("seed", range(60))
def test_random_expressions_come_back(seed):
    trees = Trees(seed)
    made, _ = trees.tree(3, trees.shape())
    back = round_trip(made)
    assert_same_tree(back, made)
    assert saved(back) == saved(made)


def test_a_part_in_several_places_is_written_once_and_one_object_again():
    alone, made = len(saved(A)), vstack([A, 2 * A, A.T @ A])
    back = round_trip(made)
    first, scaled, chain = back.parts()
    assert scaled.of is first
    assert chain.factors()[1] is first
    wide = convmat.Conv1d(np.ones(10**4), 10**4)
    assert len(saved(vstack([wide] * 50))) < len(saved(wide)) + 2 * alone


def test_what_is_doubled_fifty_times_is_written_in_fifty_parts():
    made = A
    for _ in range(49):
        made = 0.5 * (made + made)
    data = saved(made)
    assert len(data) < 100_000
    back = load(io.BytesIO(data))
    for _ in range(49):
        left, right = back.of.terms()
        assert left is right
        back = left
    assert type(back) is convmat.Conv1d


def test_a_convolution_alone_is_a_file_of_version_1_and_a_tree_one_of_version_2():
    assert members(saved(A))["version"] == 1
    fields = members(saved(A + D))
    assert fields["version"] == 2
    assert [str(fields[f"{at}/kind"]) for at in range(3)] == ["Conv1d", "Diagonal", "Sum"]
    assert fields["2/parts"].tolist() == [0, 1]
    np.testing.assert_array_equal(fields["0/weight"], A.weight)
    np.testing.assert_array_equal(fields["1/values"], D.values)


def test_equal_trees_give_equal_files():
    make = lambda: vstack([convmat.Conv1d([1.0, 2], 8), 2 * identity(8)])  # noqa: E731
    assert saved(make()) == saved(make())
    assert saved(make()) != saved(make().T)


# %% Refusals


def nested(levels):
    """A sum in a product in a sum .., so many levels."""
    made = A
    for level in range(levels - 1):
        made = 2 * made if level % 2 else made + D
    return made


def test_parts_are_nested_a_hundred_levels_deep_and_no_more():
    assert_same_products(round_trip(nested(100)), nested(100))
    for levels in (101, 400):
        with pytest.raises(ValueError, match=rf"nested {levels} levels deep: a file holds at most 100; save the parts"):
            save(nested(levels), io.BytesIO())


def test_thousands_of_parts_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"operator has 1501 parts, with 16504 fields: a file holds at most 16384"):
        save(vstack([convmat.Conv1d([1.0], 2) for _ in range(1500)]), tmp_path / "many.npz")
    assert not list(tmp_path.iterdir())
    made = vstack([identity(2) for _ in range(5000)])
    assert round_trip(made).shape == made.shape


class Mine(convmat.Diagonal):
    pass


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (convmat.normal(A), "operator is of type NormalOperator: .* the operator that it was made from and make it ag"),
        (convmat.preconditioner(A, 0.1), "operator is of type Preconditioner: .* made from and make it again"),
        (convmat.svd(A).pinv(), "is of type _Weighted: .* made from and make it again"),
        (2 * convmat.normal(A), "a part of the operator is of type NormalOperator: it must be one of Conv1d, "),
        (A + Mine([1.0], 8), r"a part of the operator is of type Mine: .*; save tosparse\(\) by scipy.sparse.save_npz"),
        (scipy.sparse.linalg.aslinearoperator(np.eye(8)), "operator is of type MatrixLinearOperator: .* its matrix"),
        (DENSE, "operator is of type ndarray: .*; save its matrix, by scipy.sparse.save_npz or numpy.save"),
        (A.tosparse(), "operator is of type csr_array"),
        (None, "operator is of type NoneType"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_named_with_what_to_save_instead(other, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        save(other, tmp_path / "other.npz")
    assert not list(tmp_path.iterdir())


def test_sizes_beyond_64_bits_are_refused():
    with pytest.raises(ValueError, match=r"input_shape=.* cannot be saved: a file holds integers of 64 bits"):
        save(convmat.Rearrange((2**70,)), io.BytesIO())


TREE = members(saved(vstack([B @ A, 2 * B, B @ D])))  # B, A, the chain, the multiple, D, the other chain, all
LAYERS = members(saved(block_diag([J.T, K.H, S, R])))


def at(fields, kind, name, number=0):
    """The name of a field of the first (or another) part of a kind."""
    places = [int(key[:-5]) for key, value in fields.items() if key.endswith("/kind") and value == kind]
    return f"{sorted(places)[number]}/{name}"


def change(kind, name, value, fields=TREE, number=0):
    return fields | {at(fields, kind, name, number): np.array(value)}


def renamed(old, new):
    return {new + name[len(old) :] if name.startswith(old) else name: array for name, array in TREE.items()}


def without(fields, *names):
    return {name: array for name, array in fields.items() if name not in names}


def wrapped(kind):
    """The multiple as this kind, which has no fields."""
    return without(change("Scaled", "kind", kind), "3/factor", "3/dtype")


EDITS = {
    "a part of itself": (change("Scaled", "parts", [3]), "the parts of part 3 must stand before it, not from 3 to 3"),
    "a part that comes later": (change("Chain", "parts", [0, 6]), "must stand before it"),
    "a negative part": (change("Chain", "parts", [-1, 0]), "must stand before it, not from -1 to 0"),
    "parts of floats": (change("Chain", "parts", [0.0, 1.0]), "parts must be integers, not of dtype float64"),
    "parts in a table": (change("Chain", "parts", [[0, 1]]), "parts must be integers, not of dtype int64 and shape"),
    "no parts": (change("Scaled", "parts", np.zeros(0, int)), "part 3, a Scaled: parts must be 1, not 0"),
    "two parts of a multiple": (change("Scaled", "parts", [0, 1]), "part 3, a Scaled: parts must be 1, not 2"),
    "an idle part": (change("Chain", "parts", [0, 1], number=1), "part 4 is a part of no other"),
    "a gap": (renamed("0/", "7/"), "has 7 parts: they must be numbered from 0, without gaps"),
    "a number with a zero in front": (renamed("0/", "00/"), "unknown: 00/dilation"),
    "a chain in a chain": (change("Chain", "parts", [2, 4], number=1), "parts of a Chain must not be of its own kind"),
    "a stack in a stack": (change("Chain", "kind", "VStack"), "parts of a VStack must not be of its own kind"),
    "shapes that do not fit": (change("Chain", "parts", [1, 0]), r"part 2, a Chain: factor 0 \(Conv1d\) takes images"),
    "a size that does not fit": (change("Diagonal", "input_shape", [9]), "part 4, a Diagonal: values has shape"),
    "another class": (change("Chain", "kind", "Sum"), "part 2, a Sum: parts of a Sum must have the same image shapes"),
    "a class of other fields": (change("Chain", "kind", "Diagonal"), "a Diagonal must have the fields input_shape,"),
    "a class that is none": (change("Chain", "kind", "Products"), "kind='Products' must be one of Conv1d, "),
    "a kind that is no text": (change("Chain", "kind", 3), "kind must be text"),
    "no kind": (without(TREE, "2/kind"), "kind='' must be one of"),
    "a field too many": (TREE | {"2/stride": np.array([1])}, "a Chain must have the fields kind, parts, not kind, par"),
    "an unknown field": (TREE | {"2/bias": np.array([1])}, "such as 0/kind, once each; missing: none; unknown: 2/bias"),
    "a field too few": (without(TREE, "3/factor"), "a Scaled must have the fields dtype, factor, kind, parts, not"),
    "a transpose of a convolution": (wrapped("Transposed"), "the transpose of a Conv1d has a class of its own"),
    "a conjugate of a convolution": (wrapped("Conjugated"), "the conjugate of a Conv1d of dtype complex64 has a clas"),
    "a factor that is text": (change("Scaled", "factor", "2"), "factor must be a number"),
    "two factors": (change("Scaled", "factor", [2.0, 3.0]), "factor must be a number, not of dtype float64 and shape"),
    "another dtype": (change("Scaled", "dtype", "float32"), "dtype=float32 must be that of the number 2.0 times an op"),
    "a dtype that is none": (change("Scaled", "dtype", "O"), "dtype='O' must be one of float32, float64"),
    "values that do not fit": (change("Diagonal", "values", [1.0, 2.0]), "part 4, a Diagonal: values has shape"),
    "values of halves": (change("Diagonal", "values", np.ones(8, np.float16)), "values has dtype float16"),
    "a dtype of gigabytes": (change("Rearrange", "dtype", "U999999999", LAYERS), "dtype='U999999999' must be one of"),
    "an order that is none": (change("Rearrange", "order", [0, 0], LAYERS), "order=.* must be a permutation"),
    "a split that does not fit": (change("Rearrange", "split", [2, 5], LAYERS), "split=.* must have as many entries"),
    "an image that does not fit": (change("WeightOperator", "image", [1.0], LAYERS), "image has shape"),
    "a weight that does not fit": (change("WeightOperator", "weight_shape", [9], LAYERS), "a WeightOperator: "),
    "columns of a matrix": (change("dense matrix", "matrix", np.ones((2, 9)), LAYERS), "it must have 3 columns"),
    "a matrix of one axis": (change("dense matrix", "matrix", np.ones(2), LAYERS), "matrix must be a matrix of number"),
    "indices out of range": (change("sparse matrix", "indices", [0, 1, 2, 9], LAYERS), "a sparse matrix: "),
    "negative indices": (change("sparse matrix", "indices", [-1, 1, 2, 3], LAYERS), "a sparse matrix: "),
    "indices in disorder": (change("sparse matrix", "indptr", [0, 2, 2, 2, 4], change(
        "sparse matrix", "indices", [1, 0, 2, 3], LAYERS)), "indices must ascend in each row"),
    "rows that run back": (change("sparse matrix", "indptr", [0, 3, 1, 2, 4], LAYERS), "a sparse matrix: "),
    "rows beyond the data": (change("sparse matrix", "indptr", [0, 1, 2, 3, 99], LAYERS), "a sparse matrix: "),
    "rows without an end": (change("sparse matrix", "shape", [2**62, 5], LAYERS), "a sparse matrix: "),
    "a matrix as a part": (change("BlockDiagonal", "parts", [1, 4, 5, 8, 9], LAYERS), "parts must be operators"),
    "an operator as a matrix": (change("Separable", "parts", [4, 5, 6, 7], LAYERS), "parts must be matrices, or none"),
}  # fmt: skip
"""Name -> fields, and the message."""


@pytest.mark.parametrize("edit", EDITS)
def test_a_tree_with_a_right_checksum_that_describes_no_operator_is_refused(edit):
    fields, message = EDITS[edit]
    with pytest.raises(ValueError, match=message) as error:
        load(io.BytesIO(seal(fields)))
    assert "BytesIO" in str(error.value)


def test_the_files_of_these_tests_are_read():
    assert load(io.BytesIO(seal(TREE))).shape == (12, 8)
    assert type(load(io.BytesIO(seal(LAYERS)))) is BlockDiagonal


def test_a_matrix_is_no_operator():
    fields = {"format": TREE["format"], "version": np.array(2), "0/kind": np.array("dense matrix"), "0/matrix": DENSE}
    with pytest.raises(ValueError, match="it is a dense matrix, and must be one of Conv1d"):
        load(io.BytesIO(seal(fields)))


def tower(kinds, width=2):
    """The fields of a number on 2 entries, and of parts that hold the one below them `width` times."""
    fields = {name: TREE[name] for name in ("format",)} | {"version": np.array(2)}
    fields |= {"0/kind": np.array("Diagonal"), "0/values": np.ones(()), "0/input_shape": np.array([2])}
    for number, kind in enumerate(kinds, start=1):
        fields |= {f"{number}/kind": np.array(kind), f"{number}/parts": np.full(width, number - 1)}
    return fields


def test_a_transpose_of_what_is_its_own_is_refused():
    with pytest.raises(ValueError, match="part 1, a Transposed: parts make a Diagonal"):
        load(io.BytesIO(seal(tower(["Transposed"], 1))))


def test_a_file_of_many_levels_is_refused_before_anything_is_made():
    load(io.BytesIO(seal(tower(["Chain", "Sum"] * 49, 1))))
    for levels in (50, 500):
        with pytest.raises(ValueError, match=rf"nested {2 * levels + 1} levels deep: a file holds at most 100"):
            load(io.BytesIO(seal(tower(["Chain", "Sum"] * levels))))


def test_a_sum_of_many_long_chains_is_not_made_of_copies_of_them(peak):  # noqa: F811
    long = tower(["Chain"], 2000) | {"2/kind": np.array("Rearrange"), "2/dtype": np.array("float64")}
    long |= {f"2/{name}": np.array(value) for name, value in [("split", [2, 1]), ("order", [0, 1])]}
    long |= {"2/input_shape": np.array([2, 1]), "2/output_shape": np.array([2, 1])}
    long |= {"3/kind": np.array("Sum"), "3/parts": np.array([2] + [1] * 2000)}
    with pytest.raises(ValueError, match="part 3, a Sum: parts of a Sum must have the same image shapes"):
        load(io.BytesIO(seal(long)))
    assert peak() < 2**22


def test_a_file_of_a_product_of_billions_is_refused_or_costs_what_its_bytes_cost(peak):  # noqa: F811
    made = load(io.BytesIO(seal(tower(["Chain", "Sum"] * 40))))
    assert made.shape == (2, 2)
    for kind in ("Chain", "Sum", "VStack", "HStack", "BlockDiagonal"):
        with pytest.raises(ValueError, match=f"part 2, a {kind}: parts of a {kind} must not be of its own kind"):
            load(io.BytesIO(seal(tower([kind] * 60))))
    assert peak() < 2**22


@tries(300, deadline=None)
@given(st.data())
def test_a_damaged_tree_is_refused(data):
    whole = bytearray(seal(data.draw(st.sampled_from([TREE, LAYERS]))))
    good = bytes(whole)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= data.draw(st.integers(1, 255))
    else:
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    try:
        back = load(io.BytesIO(bytes(whole)))
    except ValueError:
        return
    assert saved(back) == good  # a byte of the zip that says nothing, such as a date
