"""``convmat spectrum`` against dense decompositions."""

import json
import re

import numpy as np
import pytest
from scipy.sparse.linalg import svds

import convmat
from tests import cli


def spectrum(weight, tmp_path, *words):
    np.save(tmp_path / "w.npy", weight)
    return json.loads(cli.run("spectrum", "--weight", tmp_path / "w.npy", *words, "--json"))


CASES = {
    "periodic": (
        (3, 2, 3, 3),
        "--input 8x6 --padding 1 --padding-mode circular --stride 2",
        lambda W: convmat.conv_matrix(W, (8, 6), padding=1, padding_mode="circular", stride=2),
    ),
    "small": (
        (3, 2, 3, 3),
        "--input 7x6 --padding 1 --padding-mode reflect",
        lambda W: convmat.conv_matrix(W, (7, 6), padding=1, padding_mode="reflect"),
    ),
    "transposed": (
        (3, 2, 4),
        "--input 9 --stride 2 --transpose",
        lambda W: convmat.conv_transpose_matrix(W, 9, stride=2),
    ),
}


@pytest.mark.parametrize(("shape", "words", "build"), CASES.values(), ids=CASES)
def test_exact_values_are_those_of_a_dense_decomposition(shape, words, build, tmp_path):
    weight = np.random.default_rng(0).standard_normal(shape)
    found = spectrum(weight, tmp_path, *words.split())
    dense = build(weight).toarray()
    sigma = np.linalg.svd(dense, compute_uv=False)
    assert found["exact"] is True
    assert found["shape"] == list(dense.shape)
    assert found["count"] == sigma.size
    assert found["largest"] == pytest.approx(sigma[0], rel=1e-10)
    assert found["smallest"] == pytest.approx(sigma[-1], rel=1e-8, abs=1e-12)
    assert found["rank"] == np.linalg.matrix_rank(dense)
    assert found["condition"] == pytest.approx(np.linalg.cond(dense), rel=1e-8)
    assert found["norm"] == [found["largest"]] * 2


def test_a_rank_deficient_layer_has_no_condition_number(tmp_path):
    words = ("--input", "8x8", "--padding", "1", "--padding-mode", "circular")
    laplacian = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    found = spectrum(laplacian, tmp_path, *words)
    assert (found["rank"], found["count"], found["condition"]) == (63, 64, None)
    printed = cli.entries(cli.run("spectrum", "--weight", tmp_path / "w.npy", *words))
    assert printed["rank"] == "63 of 64"
    sigma = np.linalg.svd(convmat.conv_matrix(laplacian, (8, 8), padding=1, padding_mode="circular").toarray())[1]
    on_range = float(re.fullmatch(r"infinite \((.*) on the range\)", printed["condition"]).group(1))
    assert on_range == pytest.approx(sigma[0] / sigma[62], rel=1e-5)


def test_a_layer_of_zeros(tmp_path):
    found = spectrum(np.zeros((3, 3)), tmp_path, "--input", "5x5")
    assert (found["rank"], found["largest"], found["condition"]) == (0, 0.0, None)
    printed = cli.entries(cli.run("spectrum", "--weight", tmp_path / "w.npy", "--input", "5x5"))
    assert (printed["rank"], printed["condition"]) == ("0 of 9", "none")


def test_where_nothing_is_exact_the_norm_is_enclosed(tmp_path):
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3))
    words = ("--input", "40x40", "--padding", "1")
    found = spectrum(weight, tmp_path, *words)
    assert found["exact"] is False
    assert "rank" not in found
    matrix = convmat.conv_matrix(weight, (40, 40), padding=1)
    norm = svds(matrix, k=1, return_singular_vectors=False, v0=np.random.default_rng(0).random(1600 * 3))[0]
    lower, upper = found["norm"]
    assert lower <= norm * (1 + 1e-9)
    assert norm <= upper * (1 + 1e-9)
    assert upper <= 1.05 * lower
    printed = cli.entries(cli.run("spectrum", "--weight", tmp_path / "w.npy", *words))
    below, above = map(
        float, re.fullmatch(r"(\S+) <= \|\|A\|\| <= (\S+), certified, .* apart", printed["norm"]).groups()
    )
    assert below <= lower
    assert upper <= above
    assert printed["condition"].startswith("not known: ")


def test_random_weights_are_those_of_the_seed():
    words = ("spectrum", "--input", "6x6", "--kernel", "3", "--json")
    first, again, other = (json.loads(cli.run(*words, "--seed", seed))["largest"] for seed in (3, 3, 4))
    assert first == again != other
    weight = np.random.default_rng(3).standard_normal((3, 3))
    assert first == pytest.approx(np.linalg.norm(convmat.conv_matrix(weight, (6, 6)).toarray(), 2), rel=1e-12)


def test_picture_is_saved(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    printed = cli.run("spectrum", "--input", "6x6", "--kernel", "3", "-o", tmp_path / "s.png")
    assert cli.entries(printed)["picture"] == str(tmp_path / "s.png") or str(tmp_path / "s.png") in printed
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size[0] > 300


def test_bars_in_ascii_where_blocks_cannot_be_printed():
    assert cli.run("spectrum", "--input", "6x6", "--kernel", "3", encoding="ascii").isascii()


@pytest.mark.parametrize("suffix", ["", ".xyz"])
def test_a_picture_of_no_known_format_exits_with_2(suffix):
    pytest.importorskip("matplotlib")
    status, message = cli.fail("spectrum", "--input", "6x6", "--kernel", "3", "-o", f"s{suffix}")
    assert status == 2
    assert "must end in one of" in message


def test_weights_that_are_not_finite_exit_with_2(tmp_path):
    np.save(tmp_path / "w.npy", [1.0, np.nan])
    status, message = cli.fail("spectrum", "--input", "6", "--weight", tmp_path / "w.npy")
    assert status == 2
    assert "NaN or infinite" in message


def test_the_rank_counts_what_rounding_does_not_explain(tmp_path):
    """Three channels, scaled by 1, 1e-9 and 1e-17: the second is small, the third is below rounding."""
    weight = np.diag([1, 1e-9, 1e-17]).reshape(3, 3, 1)
    found = spectrum(weight, tmp_path, "--input", "5")
    assert (found["rank"], found["count"], found["smallest"]) == (10, 15, pytest.approx(1e-17))
    assert found["condition"] is None


def test_the_spectrum_of_an_operator_in_a_file_encloses_the_norm_of_its_dense_matrix(tmp_path):
    rng = np.random.default_rng(0)
    A = convmat.Conv2d(rng.standard_normal((2, 2, 3, 3)), (6, 5), padding=1)
    B = convmat.vstack([A, 0.5 * convmat.identity((2, 6, 5))])
    convmat.save(B, tmp_path / "b.npz")
    dense = np.vstack([convmat.conv_matrix(A.weight, (6, 5), padding=1).toarray(), 0.5 * np.eye(60)])
    found = json.loads(cli.run("spectrum", tmp_path / "b.npz", "--json"))
    assert (found["operator"], found["shape"]) == ("VStack", list(dense.shape))
    lower, upper = found["norm"]
    assert lower * (1 - 1e-9) <= np.linalg.norm(dense, 2) <= upper * (1 + 1e-9)
    assert upper <= 1.01 * lower
    printed = cli.entries(cli.run("spectrum", tmp_path / "b.npz"))
    assert printed["operator"] == "VStack, 120 x 60, weights in float64"


def test_a_convolution_in_a_file_has_the_spectrum_of_its_options(tmp_path):
    weight = np.random.default_rng(0).standard_normal((3, 3))
    A = convmat.Conv2d(weight, (6, 6), stride=2, padding=1)
    for B, words in ((A, ("--input", "6x6")), (A.T, ("--input", "3x3", "--transpose", "--output-padding", "1"))):
        convmat.save(B, tmp_path / "b.npz")
        found = json.loads(cli.run("spectrum", tmp_path / "b.npz", "--json"))
        assert found == spectrum(weight, tmp_path, *words, "--stride", "2", "--padding", "1")


def test_an_operator_in_a_file_that_is_not_finite_exits_with_2(tmp_path):
    convmat.save(2 * convmat.Conv1d([1.0, np.nan], 5), tmp_path / "a.npz")
    status, message = cli.fail("spectrum", tmp_path / "a.npz")
    assert status == 2
    assert "NaN or infinite" in message
