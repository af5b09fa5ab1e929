"""``convmat show`` says what the matrix is: every number, every formula, every dot, against the matrix itself."""

import itertools
import json
import math
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given

import convmat
from convmat.operators import Scaled
from tests import cli, oracle
from tests.strategies import layers, transposed_layers, tries
from tests.trees import Trees

HUNDRED = tries(100)
FIFTY = tries(50)


def stored(matrix):
    """The pattern of a CSR array, zero weights included."""
    pattern = np.zeros(matrix.shape, dtype=bool)
    pattern[np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices] = True
    return pattern


def csr_bytes(matrix):
    return matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes


def taps(layer, dense):
    """Which tap each entry of a matrix is, `dense` of a weight, by one whose taps are no sums of each other."""
    kernel = np.random.default_rng(1).uniform(1, 2, layer.kernel_size)
    matrix = dense(np.broadcast_to(kernel, layer.weight.shape))
    labels = np.where(matrix == 0, cli.NOTHING, cli.SUM)
    for tap, value in enumerate(kernel.ravel()):
        labels[matrix == value] = tap
    return labels


def check_picture(printed, name, labels, down=4, across=2):
    """The picture shows these labels: letter by letter, dot by dot, or a dot where a cell has an entry."""
    lines, header = cli.picture(printed, name), cli.entries(printed)[name]
    assert header.startswith(f"{labels.shape[0]} x {labels.shape[1]}; ")
    if "a letter is a tap" in header:
        assert np.array_equal(cli.letters(lines), labels)
        return
    cell = re.search(r"any of ([\d.]+) x ([\d.]+) entries", header)
    assert cell or "a dot is an entry" in header
    sizes = [1.0, 1.0] if cell is None else map(float, cell.groups())
    rows, columns = (round(n / size) for n, size in zip(labels.shape, sizes, strict=True))
    drawn = cli.dots(lines)
    assert (-(-rows // down), -(-columns // across)) == (len(lines) - 2, len(lines[0]) - 2)
    assert np.array_equal(drawn[:rows, :columns], aggregated(labels != cli.NOTHING, rows, columns))
    assert not drawn[rows:].any()
    assert not drawn[:, columns:].any()


def aggregated(pattern, rows, columns):
    """Whether each of rows x columns cells has an entry; as equal as they can be."""
    cells = np.array_split(pattern, [i * pattern.shape[0] // rows for i in range(1, rows)], axis=0)
    ends = [i * pattern.shape[1] // columns for i in range(1, columns)]
    return np.array([[cell.any() for cell in np.array_split(band, ends, axis=1)] for band in cells])


@HUNDRED
@given(layers())
def test_a_hundred_geometries_agree_with_the_matrix(layer):
    """Weights in float64: the strategy's dtype does not reach the command line."""
    printed = cli.run("show", *cli.options(layer), "--width", 80)
    assert max(map(len, printed.splitlines())) <= 80
    A = convmat.conv_matrix(np.ones(layer.weight.shape), layer.size, **layer.options)
    found = cli.entries(printed)
    assert found["nnz"] == f"{A.nnz} stored entries in A, {A.shape[0]} x {A.shape[1]}"
    assert float(found["density"].split()[0]) == pytest.approx(100 * A.nnz / math.prod(A.shape), rel=1e-3)
    sizes = [int(n) for n in re.findall(r"(?:^|, |alone )(\d+)\b", found["bytes"])]
    assert sizes == [csr_bytes(A), csr_bytes(A.T.tocsr()), 8 * layer.weight.size]
    labels = taps(layer, lambda weight: oracle.dense(weight, layer.size, **layer.options))
    assert np.array_equal(labels != cli.NOTHING, stored(A))
    check_picture(printed, "A", labels)
    check_picture(printed, "A^T", labels.T)


@HUNDRED
@given(transposed_layers())
def test_a_hundred_transposed_geometries_agree_with_the_matrix(case):
    layer, inputs, extra, outputs = case
    words = transposed_words(layer, inputs)
    printed = cli.run("show", *words, "--output-padding", cli.by_x(extra), "--width", 80)
    assert max(map(len, printed.splitlines())) <= 80
    B = convmat.conv_transpose_matrix(np.ones(layer.weight.shape), inputs, **layer.options, output_padding=extra)
    found = cli.entries(printed)
    assert found["nnz"] == f"{B.nnz} stored entries in B = A^T, {B.shape[0]} x {B.shape[1]}"
    labels = taps(layer, lambda weight: oracle.dense_transpose(weight, inputs, **layer.options, extra=extra))
    assert np.array_equal(labels != cli.NOTHING, stored(B))
    check_picture(printed, "B = A^T", labels)
    check_picture(printed, "A", labels.T)
    document = json.loads(cli.run("show", *words, "--output-padding", cli.by_x(extra), "--json"))
    assert document["shape"] == list(B.shape)
    assert tuple(document["output_shape"][-layer.ndim :]) == outputs


def transposed_words(layer, inputs):
    words = cli.options(layer)
    words[1] = cli.by_x(inputs)
    if "--channels" in words:  # IN,OUT of the operator, which is the other way round
        at = words.index("--channels") + 1
        words[at] = ",".join(reversed(words[at].split(",")))
    return [*words, "--transpose"]


def multiplied(formula):
    """A formula with its products written out, for Python."""
    return re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", formula)


@FIFTY
@given(layers())
def test_formulas_define_the_matrix(layer):
    """The output size and the sum, read from the text and evaluated, give the matrix entry by entry."""
    found = cli.entries(cli.run("show", *cli.options(layer), "--width", 500, "--picture", "none"))
    for axis, size in enumerate(layer.output_size):
        left, right = found[f"axis {axis}"].split(" = ")
        assert (
            int(left)
            == eval(multiplied(right).replace("floor", "math.floor").replace("math.floor * ", "math.floor"))
            == size
        )
    formula, *notes = found["index"].split("; ")
    outputs, summed, weight, image = re.fullmatch(
        r"y\[(.*)\] = sum over (.*) of W\[(.*)\] x~?\[(.*)\]", formula
    ).groups()
    ranges = dict(part.split(" < ") for part in summed.split(", "))
    group = next((note.removeprefix("g = ") for note in notes if note.startswith("g = ")), "0")
    A = convmat.conv_matrix(layer.weight, layer.size, **layer.options)
    dense = np.zeros(A.shape, dtype=A.dtype)
    kernel = layer.weight
    row, column = re.fullmatch(r"row = (.*), column = (.*)", found["numbering"]).groups()
    channels = (layer.weight.shape[0],) if layer.weight.ndim > layer.ndim else ()
    for m in np.ndindex(*channels, *layer.output_size):
        names = dict(zip(outputs.split(", "), m, strict=True))
        names["g"] = eval(group.replace("floor(", "math.floor("), {"math": math}, names)
        for k in np.ndindex(*(int(count) for count in ranges.values())):
            names |= dict(zip(ranges, k, strict=True))
            (*channel,) = (eval(multiplied(part), {}, names) for part in image.split(", "))
            positions = zip(channel[-layer.ndim :], layer.size, strict=True)
            reads = [oracle.sources(i, n, layer.padding_mode) for i, n in positions]
            for places in itertools.product(*reads):
                names |= {f"n{a}": place for a, place in enumerate(places)}
                at = {**names, "c": channel[0]} if channels else names
                times = math.prod(read[n] for read, n in zip(reads, places, strict=True))
                value = times * kernel[tuple(eval(part, {}, names) for part in weight.split(", "))]
                dense[eval(multiplied(row), {}, names), eval(multiplied(column), {}, at)] += value
    assert np.array_equal(dense, A.toarray())


@FIFTY
@given(transposed_layers())
def test_formulas_define_the_transposed_matrix(case):
    layer, inputs, extra, outputs = case
    assume(layer.padding_mode in oracle.COPYING)
    words = [*transposed_words(layer, inputs), "--output-padding", cli.by_x(extra)]
    found = cli.entries(cli.run("show", *words, "--width", 600, "--picture", "none"))
    for axis, size in enumerate(outputs):
        left, right = found[f"axis {axis}"].split(" = ")
        assert int(left) == eval(multiplied(right)) == size
    formula = found["index"].split("; ")[0]
    outputs_named, weight, image, conditions = re.fullmatch(
        r"y\[(.*)\] = sum of W\[(.*)\] x\[(.*)\] over all .* with (.*)", formula
    ).groups()
    reads = [part.split(" = ") for part in conditions.split(", ")]
    B = convmat.conv_transpose_matrix(layer.weight, inputs, **layer.options, output_padding=extra)
    dense = np.zeros(B.shape, dtype=B.dtype)
    row, column = re.fullmatch(r"row = (.*), column = (.*)", found["numbering"]).groups()
    ins = (layer.weight.shape[0],) if layer.weight.ndim > layer.ndim else ()
    outs = (layer.weight.shape[1] * layer.groups,) if ins else ()
    x_names = image.split(", ")
    for c in np.ndindex(*outs):
        for m in np.ndindex(*ins, *inputs):
            names = dict(zip(x_names, m, strict=True)) | dict(zip(["c"], c, strict=False))
            if layer.groups > 1:
                left, right, g = (part.replace("floor(", "math.floor(") for part in reads[layer.ndim])
                assert g == "g"
                names["g"] = eval(left, {"math": math}, names)
                if names["g"] != eval(right, {"math": math}, names):
                    continue
            for k in np.ndindex(*layer.kernel_size):
                names |= {f"k{a}": tap for a, tap in enumerate(k)}
                positions = [
                    eval(multiplied(re.sub(r"^e\((.*)\)$", r"\1", read[0])), {}, names) for read in reads[: layer.ndim]
                ]
                places = [oracle.source(i, n, layer.padding_mode) for i, n in zip(positions, outputs, strict=True)]
                if None in places:
                    continue
                names |= {f"n{a}": place for a, place in enumerate(places)}
                value = layer.weight[tuple(eval(multiplied(part), {}, names) for part in weight.split(", "))]
                dense[eval(multiplied(row), {}, names), eval(multiplied(column), {}, names)] += value
    assert len(outputs_named.split(", ")) == layer.ndim + len(outs)
    assert np.array_equal(dense, B.toarray())


def test_the_formula_of_a_transpose_has_the_weights_of_samples_that_are_summed():
    words = ["--transpose", "--input", 4, "--kernel", 3, "--padding", 1, "--padding-mode", "antireflect"]
    found = cli.entries(cli.run("show", *words, "--width", 600, "--picture", "none"))
    formula, note = found["index"].split("; ")
    assert formula == "y[n0] = sum of W[k0] e(m0 + k0 - 1, n0) x[m0] over all m0, k0"
    assert note == "e(i, n): the weight of sample n at position i, by padding_mode 'antireflect'"
    B = convmat.conv_transpose_matrix([1, 10, 100], 4, padding=1, padding_mode="antireflect")
    e = [oracle.sources(i, 4, "antireflect") for i in range(-1, 5)]
    expected = [[sum(10**k * e[m + k].get(n, 0) for k in range(3)) for m in range(4)] for n in range(4)]
    assert np.array_equal(B.toarray(), expected)


@FIFTY
@given(layers())
def test_json_agrees_with_the_matrix(layer):
    document = json.loads(cli.run("show", *cli.options(layer), "--json", "--width", 40, "--height", 6))
    A = layer.operator()
    S = convmat.conv_matrix(np.ones(layer.weight.shape), layer.size, **layer.options)
    assert document["operator"] == type(A).__name__
    assert (document["shape"], document["nnz"]) == (list(S.shape), S.nnz)
    assert (document["input_shape"], document["output_shape"]) == (list(A.input_shape), list(A.output_shape))
    assert (document["csr_bytes"], document["csr_bytes_of_transpose"]) == (csr_bytes(S), csr_bytes(S.T.tocsr()))
    assert document["density"] == S.nnz / math.prod(S.shape)
    geometry = document["geometry"]
    assert geometry["padding"] == [list(pair) for pair in layer.padding]
    assert geometry["output_size"] == list(layer.output_size)
    assert (geometry["padding_mode"], geometry["flip"]) == (layer.padding_mode, layer.flip)
    rows, columns = document["picture"]["row_edges"], document["picture"]["column_edges"]
    blocks = np.add.reduceat(np.add.reduceat(stored(S).astype(int), rows[:-1], axis=0), columns[:-1], axis=1)
    assert np.array_equal(blocks, document["picture"]["entries"])


@pytest.mark.parametrize("transpose", [[], ["--transpose"]])
@pytest.mark.parametrize(("style", "down", "across"), [("braille", 4, 2), ("blocks", 2, 1), ("ascii", 1, 1)])
def test_large_matrices_are_aggregated_exactly(style, down, across, transpose):
    """A dot is set where the cell of the matrix has an entry, and only there."""
    words = ["--input", "24x24", "--kernel", "5", "--stride", "2", "--padding", "2", "--channels", "2,3", *transpose]
    printed = cli.run("show", *words, "--padding-mode", "reflect", "--picture", style, "--height", 20, "--width", 60)
    build = convmat.conv_transpose_matrix if transpose else convmat.conv_matrix
    weight = np.ones((2, 3, 5, 5) if transpose else (3, 2, 5, 5))
    pattern = stored(build(weight, (24, 24), stride=2, padding=2, padding_mode="reflect"))
    labels = np.where(pattern, 0, cli.NOTHING)
    for name, expected in zip(("B = A^T", "A") if transpose else ("A", "A^T"), (labels, labels.T), strict=True):
        assert "any of" in cli.entries(printed)[name]
        check_picture(printed, name, expected, down, across)
        lines = cli.picture(printed, name)
        assert len(lines) <= 20
        assert max(map(len, lines)) <= 60


def test_a_huge_geometry_takes_little_memory():
    tracemalloc.start()
    try:
        printed = cli.run(
            "show", "--input", "1000000x1000000", "--kernel", "3", "--channels", "512,512", "--stride", "2"
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6
    assert max(map(len, printed.splitlines())) <= 80
    assert cli.dots(cli.picture(printed, "A")).any()


def test_ascii_where_blocks_cannot_be_printed():
    words = ("show", "--input", "12x12", "--kernel", "3", "--padding", "1")
    plain = cli.run(*words, encoding="latin-1")
    assert plain.isascii()
    lines = cli.picture(plain, "A")
    assert lines[0] == lines[-1]
    assert set(lines[0]) == {"+", "-"}
    assert "┌" in cli.run(*words)


def test_geometry_is_printed_as_by_the_api():
    printed = cli.run("show", "--input", "32x32", "--kernel", "3x3", "--channels", "3,8", "--stride", "2",
                      "--padding", "1", "--padding-mode", "reflect", "--width", "120")  # fmt: skip
    A = convmat.Conv2d(np.ones((8, 3, 3, 3)), (32, 32), stride=2, padding=1, padding_mode="reflect")
    assert printed.startswith(str(A.geometry) + "\n")


def test_the_classic_picture():
    """The guide's stride 2, padding 1: letters of a 2 x 2 kernel, in image rows of 3, with the index of the output."""
    printed = cli.run("show", "--input", "3x3", "--kernel", "2", "--stride", "2", "--padding", "1")
    assert cli.picture(printed, "A") == [
        "0,0  d.. ... ...",
        "0,1  .cd ... ...",
        "1,0  ... b.. d..",
        "1,1  ... .ab .cd",
    ]


def test_taps_beyond_the_alphabet_and_sums():
    printed = cli.run("show", "--input", "8x8", "--kernel", "8")
    assert cli.picture(printed, "A")[0].endswith("YZ#### ########")
    assert "# a later tap" in printed
    folded = cli.run("show", "--input", "3", "--kernel", "3", "--padding", "1", "--padding-mode", "replicate")
    assert cli.picture(folded, "A") == ["0  +c.", "1  abc", "2  .a+"]
    assert "+ a sum of taps" in folded


def test_weight_file_gives_kernel_channels_and_dtype(tmp_path):
    weight = np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3)
    np.save(tmp_path / "weight.npy", weight)
    document = json.loads(cli.run("show", "--input", "6x6", "--weight", tmp_path / "weight.npy", "--json"))
    A = convmat.conv_matrix(weight, (6, 6))
    assert (document["dtype"], document["csr_bytes"], document["shape"]) == ("float32", csr_bytes(A), list(A.shape))


def test_width_of_the_terminal_is_used(monkeypatch):
    monkeypatch.setenv("COLUMNS", "56")
    printed = cli.run("show", "--input", "32x32x32", "--kernel", "3", "--padding", "1", "--channels", "3,8", "--flip")
    assert 50 < max(map(len, printed.splitlines())) <= 56


def saved(A, folder):
    convmat.save(A, folder / "operator.npz")
    return folder / "operator.npz"


@pytest.mark.parametrize("seed", range(25))
def test_the_picture_of_an_operator_in_a_file_has_its_entries(seed, tmp_path):
    A, dense = Trees(seed).tree(3, (4, 3))
    A = Scaled(2, A)  # no layer
    printed = cli.run("show", saved(A, tmp_path), "--width", 200)
    found = cli.entries(printed)
    stored = A.tosparse("coo")
    pattern = np.zeros(dense.shape, dtype=bool)
    pattern[stored.row, stored.col] = True
    assert found["operator"].startswith(f"Scaled, {dense.shape[0]} x {dense.shape[1]}, {A.dtype}, images ")
    assert found["nnz"] == f"{pattern.sum()} stored entries"
    check_picture(printed, "A", np.where(pattern, 0, cli.NOTHING))
    assert (dense[~pattern] == 0).all()


@pytest.mark.parametrize("seed", range(25))
def test_the_document_of_an_operator_in_a_file_agrees_with_its_matrix(seed, tmp_path):
    A, _ = Trees(seed).tree(3, (4, 3))
    A = convmat.vstack([A, A])
    document = json.loads(cli.run("show", saved(A, tmp_path), "--json", "--width", 40, "--height", 6))
    stored, picture = A.tosparse("coo"), document["picture"]
    assert (document["operator"], document["shape"], document["nnz"]) == ("VStack", list(A.shape), stored.nnz)
    assert (document["input_shape"], document["dtype"]) == (list(A.input_shape), A.dtype.name)
    assert [part["operator"] for part in document["parts"]] == [type(part).__name__ for part in A.parts()]
    edges = picture["row_edges"], picture["column_edges"]
    assert np.array_equal(np.histogram2d(stored.row, stored.col, edges)[0], picture["entries"])


def test_the_parts_of_an_operator_are_a_tree(tmp_path):
    A = convmat.Conv1d([1.0, 2.0], 5)
    lines = cli.run("show", saved(convmat.vstack([3 * A, A]), tmp_path), "--picture", "none").splitlines()
    assert [line.split(",")[0] for line in lines[:4]] == [
        "operator     VStack",
        "parts        Scaled",
        "               Conv1d",
        "             Conv1d",
    ]
    assert lines[-1] == "density      40 %"


@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution_in_a_file_is_printed_as_by_its_options(transposed, tmp_path):
    words = ["--input", "6x5", "--kernel", "3x2", "--stride", "2", "--padding", "1", "--padding-mode", "reflect"]
    words += ["--channels", "2,4", "--groups", "2", "--dilation", "1x2"]
    options = {"stride": 2, "padding": 1, "padding_mode": "reflect", "groups": 2, "dilation": (1, 2)}
    if transposed:
        words += ["--transpose", "--output-padding", "1x0"]
        A = convmat.ConvTranspose2d(np.ones((2, 2, 3, 2)), (6, 5), **options, output_padding=(1, 0))
    else:
        A = convmat.Conv2d(np.ones((4, 1, 3, 2)), (6, 5), **options)
    assert cli.run("show", saved(A, tmp_path)) == cli.run("show", *words)
    assert cli.run("show", saved(A, tmp_path), "--json") == cli.run("show", *words, "--json")


def test_what_is_large_in_a_file_is_counted_or_told(tmp_path):
    size = (10**5, 10**5)
    D = convmat.Conv2d([[1.0, -1.0]], size, padding="same")
    stack = convmat.vstack([D, 2 * D])
    tracemalloc.start()
    try:
        printed = cli.entries(cli.run("show", saved(stack, tmp_path)))
        product = cli.entries(cli.run("show", saved(D.T @ D, tmp_path)))
        document = json.loads(cli.run("show", saved(D.T @ D, tmp_path), "--json"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert printed["nnz"] == f"{2 * D.nnz} stored entries"
    assert product["nnz"] == "not known: counting the entries would take time or memory"
    assert "A" not in product
    assert (document["nnz"], document["picture"]) == (None, None)
    assert peak < 50e6


def test_a_tree_of_billions_of_parts_in_a_small_file_is_cut(tmp_path):
    A = convmat.Conv1d([1.0], 2)
    for _ in range(30):
        A = A + 2 * A
    lines = cli.run("show", saved(A, tmp_path)).splitlines()
    assert len(lines) < 60
    assert "             and more" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{file}", "--input", "5"], "--input describes a layer, and "),
        (["{file}", "--stride", "2"], "--stride describes a layer, and "),
        (["{file}", "--weight", "w.npy"], "--weight describes a layer, and "),
        (["{file}", "--flip"], "--flip describes a layer, and "),
        (["{file}", "--picture", "taps"], "--picture taps: the entries of a Scaled are no taps"),
        (["no-such-file.npz"], "No such file or directory"),
        (["{folder}/\x1b[31mred\n.npz"], "\\x1b[31mred\\n.npz"),
        (["{folder}/text\x1b.npz"], "is not a .npz file"),
    ],
)
def test_files_that_cannot_be_shown_exit_with_2_and_one_line(words, message, tmp_path):
    file = saved(2 * convmat.Conv1d([1.0], 5), tmp_path)
    (tmp_path / "text\x1b.npz").write_text("text\x1b")
    status, printed = cli.fail("show", *(word.format(file=file, folder=tmp_path) for word in words))
    assert status == 2
    assert message in printed
    assert "\x1b" not in printed
