"""What a notebook shows: of operators a drawing, of pictures one PNG, of animations the file."""

import base64
import functools
import io
import math
import re
import tracemalloc
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from convmat import Conv1d, Conv2d, ConvTranspose1d, Downsample, Pad, block_diag, html, normal, plot, svd, vstack
from convmat.operators.algebra import Chain
from convmat.operators.layers import Diagonal, Rearrange, Separable

A1 = Conv1d([1.0, 2.0, 3.0], 9, stride=2, padding=1, padding_mode="reflect")
A2 = Conv2d(np.ones((2, 3, 3, 3)), (5, 4), stride=2, padding=1)

OPERATORS = {
    "convolution": A2,
    "transposed": A2.T,
    "groups": Conv2d(np.ones((4, 1, 2, 2)), (3, 4), groups=4),
    "larger than the drawing": Conv2d(np.ones((3, 3)), (20, 31), stride=(2, 1), padding=2, padding_mode="circular"),
    "pad": Pad((4, 5), 2, padding_mode="symmetric"),
    "crop": Pad((4, 5), 2, padding_mode="symmetric").T,
    "weights": A1.weight_operator(np.ones(9)),
    "chain": Chain(A1.T, A1),
    "diagonal": Diagonal([1.0, 2.0, 3.0], (3,)),
    "rearrange": Rearrange((2, 6), split=(2, 3, 2), order=(1, 0, 2)),
    "separable": Separable((3, 4), [np.array([[1.0, 2.0, 3.0]]), None]),
    "without a class of its own": A1.weight_operator(np.ones(9)).T,
    "conjugated": A1.weight_operator(1j * np.ones(9)).H,
    "normal": normal(A1, 0.5),
    "sum": A1 + Diagonal(np.ones(5), (5,)) @ A1,
    "multiple": 2 * A1,
    "stack": vstack([A1, A1]),
    "blocks": block_diag([A1, A1.T]),
    "product": Conv1d([1.0, 1.0], 4) @ Conv1d([1.0, 1.0], 5),
}


def drawn(shown):
    """The cells that the drawing fills, from its own coordinates; None if there is no drawing."""
    found = re.search(r"<svg.*</svg>", shown)
    if not found:
        return None
    svg = ElementTree.fromstring(found[0])
    wide, tall = map(int, svg.get("viewBox").split()[2:])
    filled = np.zeros((tall, wide), dtype=int)
    for path in svg.iter("{http://www.w3.org/2000/svg}path"):
        for start, row, stop in re.findall(r"M(\d+) (\d+)H(\d+)v1H\1z", path.get("d")):
            filled[int(row), int(start) : int(stop)] += 1
    return filled


def binned(matrix, shape):
    """Whether there is an entry in each cell of a grid of nearly equal cells."""
    starts = ([cell * n // cells for cell in range(cells)] for n, cells in zip(matrix.shape, shape, strict=True))
    rows, columns = starts
    return np.add.reduceat(np.add.reduceat(matrix != 0, rows, axis=0, dtype=int), columns, axis=1) > 0


def text(shown):
    return ElementTree.fromstring(re.search(r"<pre.*</pre>", shown, re.DOTALL)[0]).text


@pytest.mark.parametrize("name", OPERATORS)
def test_the_drawing_fills_the_cells_in_which_the_matrix_has_entries(name):
    A = OPERATORS[name]
    cells = drawn(A._repr_html_())
    assert cells.shape == tuple(min(n, 64) for n in A.shape)
    assert np.array_equal(cells, binned(A.toarray(), cells.shape))


@pytest.mark.parametrize("name", OPERATORS)
def test_the_text_says_type_shapes_and_dtype(name):
    A = OPERATORS[name]
    told = text(A._repr_html_())
    for fact in (repr(A), type(A).__name__, str(A.dtype), f"{A.input_shape} -> {A.output_shape}"):
        assert fact in told


def test_the_text_is_that_of_print_and_names_the_parts():
    assert text(A2.geometry._repr_html_()) == str(A2.geometry)
    assert str(A2.geometry) in text(A2._repr_html_())
    told = text(Chain(*(part for _ in range(10) for part in (A1.T, A1)))._repr_html_())
    assert [told.count(repr(part)) for part in (A1, A1.T)] == [4, 4]
    assert "and 12 more" in told


def test_a_geometry_is_drawn_as_its_convolution():
    assert np.array_equal(drawn(A2.geometry._repr_html_()), A2.toarray() != 0)


def test_darker_cells_are_denser():
    shades = re.findall(r'fill-opacity="([\d.]+)" d="M(\d)', html.drawing(np.array([[1, 0, 4]]), [0, 2], [0, 2, 4, 6]))
    assert shades == [("0.5", "0"), ("1.0", "2")]  # as the square root of the density


@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_of_ten_to_the_24_places_is_drawn_in_little_memory(transposed):
    A = Conv2d(np.ones((3, 3)), (10**6, 10**6), padding=1)
    A = A.T if transposed else A
    A1._repr_html_()  # what is imported once is not counted
    shown, peak = measured(A)
    assert np.array_equal(drawn(shown), abs(np.subtract.outer(range(64), range(64))) < 2)  # a row of the image beyond
    assert len(shown) < 10_000
    assert peak < 2**22


BETWEEN = 10**9

UNDRAWN = {
    "many entries": lambda: Rearrange((10**3, 10**3), order=(1, 0)),
    "small, of huge parts": lambda: Chain(
        Downsample(BETWEEN, BETWEEN // 10), ConvTranspose1d([1.0], 10, stride=BETWEEN // 10, output_size=BETWEEN)
    ),
    "more parts than can be looked at": lambda: functools.reduce(lambda A, _: A + 1j * A, range(60), A1),
    "normal operator of a tall one": lambda: normal(Conv1d(np.ones(3), 10, padding=10**7)),
    "long kernel and wide borders": lambda: Conv1d(np.ones(10**5), 10**6, padding=5 * 10**4),
    "its transpose": lambda: Conv1d(np.ones(10**5), 10**6, padding=5 * 10**4).T,
    "huge singular vectors": lambda: svd(Conv1d(np.ones(3), 10**5, padding=1, padding_mode="circular")).pinv(),
}


def measured(A):
    """What a notebook shows, and the bytes that making it took."""
    tracemalloc.start()
    shown = A._repr_html_()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return shown, peak


@pytest.mark.parametrize("name", UNDRAWN)
def test_what_would_take_time_or_memory_is_told_and_not_drawn(name):
    A = UNDRAWN[name]()
    shown, peak = measured(A)
    assert drawn(shown) is None
    assert repr(A) in text(shown)
    assert peak < 2**22


def test_a_matrix_for_which_there_is_no_memory_is_told_and_not_drawn():
    class Full(Rearrange):
        def tosparse(self, format="csr"):
            raise MemoryError

    shown = Full((2,))._repr_html_()
    assert drawn(shown) is None
    assert "2x2 Full" in text(shown)


CELLS = {
    "setup": """
        import sys
        import numpy as np
        from convmat import Conv1d, Conv2d, plot
        A = Conv2d(np.ones((3, 3)), (5, 5), stride=2, padding=1)""",
    "operator": "A",
    "huge operator": "Conv2d(np.ones((3, 3)), (10**6, 10**6)).T",
    "product": "Conv2d(np.ones((2, 2)), (3, 3)) @ A",
    "sum": "A + A",
    "geometry": "A.geometry",
    "animation": "plot.animate(A, 'a.gif', dpi=40)",
    "animated PNG": "plot.animate(A, 'a.apng', dpi=40)",
    "pyplot is not imported": "assert 'matplotlib.pyplot' not in sys.modules",
    "matrix": "plot.matrix(A)",
    "figure of the matrix": "plot.matrix(A).figure",
    "arithmetic": "plot.arithmetic(A, (1, 1))",
    "overlap": "plot.overlap(A)",
    "spectrum": "plot.spectrum(A)",
    "images": "plot.image_pair({'x': np.eye(3), 'y': np.ones((3, 3))})",
    "axes of a figure of ours": "plot.cells(np.eye(2), ax=plot.new_figure(2, 2).add_subplot())",
    "axes of a part of a figure": "plot.matrix(A, plot.new_figure(4, 2).subfigures(1, 2)[0].add_subplot())",
    "no last line": "image = plot.matrix(A);",
    "still without pyplot": "assert 'matplotlib.pyplot' not in sys.modules",
    "inline": "%matplotlib inline\nimport matplotlib.pyplot as plt",
    "inline matrix": "plot.matrix(A)",
    "inline arithmetic": "plot.arithmetic(A, (1, 1))",
    "inline spectrum": "plot.spectrum(A)",
    "axes of pyplot": "_, ax = plt.subplots()\nplot.matrix(A, ax)",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of each cell, from a kernel that really ran."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    folder = tmp_path_factory.mktemp("notebook")
    sources = ["\n".join(line.strip() for line in source.split("\n")) for source in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("IPYTHONDIR", str(folder / "ipython"))  # not the settings of who runs the tests
        client.execute()
    return {name: cell.outputs for name, cell in zip(CELLS, notebook.cells, strict=True)}


def pictures(found):
    return [output.data["image/png"] for output in found if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("name", ["operator", "huge operator", "product", "sum", "geometry"])
def test_a_notebook_draws_operators_and_geometries(outputs, name):
    (output,) = outputs[name]
    assert drawn(output.data["text/html"]).any()
    assert "text/plain" in output.data


PICTURES = [name for name, source in CELLS.items() if "plot." in source and name[:4] not in ("anim", "no l")]


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_shows_a_picture_once_with_and_without_the_inline_backend(outputs, name):
    (picture,) = pictures(outputs[name])
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    assert len(image.getcolors(math.prod(image.size))) > 2


@pytest.mark.parametrize(("name", "kind"), [("animation", "gif"), ("animated PNG", "apng")])
def test_a_notebook_plays_an_animation(outputs, name, kind):
    (output,) = outputs[name]
    (data,) = re.fullmatch(rf'<img src="data:image/{kind};base64,(.*)">', output.data["text/html"]).groups()
    assert Image.open(io.BytesIO(base64.b64decode(data))).n_frames == 9


@pytest.mark.parametrize("name", ["no last line", "setup", "inline"])
def test_a_notebook_shows_nothing_that_is_not_the_last_line(outputs, name):
    assert outputs[name] == []


def test_the_path_of_an_animation_is_a_path(tmp_path):
    path = plot.animate(A1, tmp_path / "a.gif", dpi=40)
    assert path == tmp_path / "a.gif"
    assert hash(path) == hash(tmp_path / "a.gif")
    assert path.parent._repr_html_() is None
    assert path.with_suffix(".mp4")._repr_html_() is None
