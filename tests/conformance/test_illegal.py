"""Every geometry that PyTorch refuses is refused here too, but for those that are legal here by design."""

import re

import numpy as np
import pytest

from tests import oracle
from tests.cases import ILLEGAL
from tests.strategies import CONV, CONV_TRANSPOSE

NO_COUNTERPART = {
    "torch-illegal-013": "out_channels is no argument here: the shape of the weight says it",
    "torch-illegal-042": "bias",
    "torch-illegal-043": "bias",
    "torch-illegal-044": "bias",
    "torch-illegal-086": "fold counts blocks from the columns; here the input size says how many there are",
    "torch-illegal-087": "fold counts channels from the columns; here the shape of the weight says how many there are",
}

# id -> the (lo, hi) pairs that the padding means. PyTorch has no such word, or not on a transposed convolution, or no
# such border.
LEGAL_HERE = {
    "torch-illegal-057": ((2, 2), (2, 2)),  # padding='full'
    "torch-illegal-059": ((3, 3), (3, 3)),  # reflect and circular borders of the input size and more
    "torch-illegal-060": ((1, 1), (4, 4)),
    "torch-illegal-061": ((1, 1),),
    "torch-illegal-062": ((2, 2), (0, 0), (0, 0)),
    "torch-illegal-063": ((3, 4),),
    "torch-illegal-064": ((4, 4), (4, 4)),
    "torch-illegal-065": ((3, 3),),
    "torch-illegal-068": ((1, 1), (1, 1)),  # padding_mode='symmetric'
    "torch-illegal-069": ((1, 1), (1, 1)),  # padding_mode='reflect' on a transposed convolution
    "torch-illegal-080": ((1, 1), (1, 1)),  # padding='same' on a transposed convolution
}

REFUSED = [e for e in ILLEGAL["refused"] if e["id"] not in NO_COUNTERPART and e["id"] not in LEGAL_HERE]
ACCEPTED = {e["id"]: e for e in ILLEGAL["accepted"]}
ENTRIES = {e["id"]: e for e in ILLEGAL["refused"]} | ACCEPTED


def layer(entry):
    """Class, weight, size and keyword arguments of an entry."""
    api, args = entry["api"], dict(entry["args"])
    transposed = "transpose" in api.lower()
    ndim = int(re.search(r"(\d)d$", api)[1]) if api[-1] == "d" and api[-2].isdigit() else 2
    if api.startswith("nn."):
        ins, outs, kernel = args.pop("in_channels"), args.pop("out_channels"), args.pop("kernel_size")
        first, second = (ins, outs) if transposed else (outs, ins)
        kernel = [kernel] * ndim if isinstance(kernel, int) else kernel
        shape = (first, second // args.get("groups", 1), *kernel)
    elif api == "F.unfold":
        shape = (1, entry["x_shape"][1], *args.pop("kernel_size"))
    else:
        shape = tuple(entry["w_shape"])
    kind = (CONV_TRANSPOSE if transposed else CONV)[ndim]
    return kind, np.arange(1.0, np.prod(shape) + 1).reshape(shape), tuple(entry["x_shape"][2:]), args


@pytest.mark.parametrize("entry", REFUSED, ids=lambda e: e["id"])
def test_refused_by_pytorch_is_refused(entry):
    kind, weight, size, args = layer(entry)

    def run():
        kind(weight, size, **args).apply(np.zeros(entry["x_shape"]))

    with pytest.raises((ValueError, TypeError)) as caught:
        run()
    assert re.search(r"weight|input_size|stride|padding|dilation|groups|output_size|image", str(caught.value))


def test_the_lists_of_exceptions_name_refused_entries_only():
    refused = {e["id"] for e in ILLEGAL["refused"]}
    assert set(NO_COUNTERPART) | set(LEGAL_HERE) <= refused
    assert len(REFUSED) == len(refused) - len(NO_COUNTERPART) - len(LEGAL_HERE) == 69


@pytest.mark.parametrize("name", LEGAL_HERE)
def test_legal_here_by_design_is_the_matrix_of_the_definition(name):
    kind, weight, size, args = layer(ENTRIES[name])
    ndim = len(size)
    asked = {"padding": LEGAL_HERE[name], "stride": (1,) * ndim, "dilation": (1,) * ndim}
    asked["padding_mode"] = args.get("padding_mode", "zeros")
    if kind in CONV.values():
        expected = oracle.dense(weight, size, **asked)
    else:
        expected = oracle.dense_transpose(weight, size, extra=(0,) * ndim, **asked)
    np.testing.assert_array_equal(kind(weight, size, **args).toarray(), expected)


@pytest.mark.parametrize("name", sorted(set(ACCEPTED) - {"torch-illegal-070", "torch-illegal-083"}))
def test_accepted_by_pytorch_has_its_output_shape(name):
    entry = ACCEPTED[name]
    kind, weight, size, args = layer(entry)
    assert kind(weight, size, **args).apply(np.zeros(entry["x_shape"])).shape == tuple(entry["y_shape"])


def test_negative_padding_must_be_written_as_pairs():
    entry = ACCEPTED["torch-illegal-070"]
    kind, weight, size, args = layer(entry)
    with pytest.raises(ValueError, match=r"padding=-1 .*pair"):
        kind(weight, size, **args)
    plain = args.pop("padding")
    operator = kind(weight, size, padding=((plain, plain),) * 2, **args)
    assert operator.apply(np.zeros(entry["x_shape"])).shape == tuple(entry["y_shape"])


def test_a_weight_without_channels_is_refused_where_pytorch_gives_an_empty_image():
    kind, weight, size, args = layer(ACCEPTED["torch-illegal-083"])
    with pytest.raises(ValueError, match=r"weight has shape \(1, 0, 3, 3\)"):
        kind(weight, size, **args)
