"""The cases computed by PyTorch: read from the folder beside the repository if it is there, else from the copy here."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_HERE = Path(__file__).resolve().parent
_SHARED = _HERE.parent.parent / "shared" / "cases"
FOLDER = _SHARED if (_SHARED / "manifest.json").exists() else _HERE / "conformance" / "cases"


@functools.cache
def _file(name):
    return np.load(FOLDER / name, allow_pickle=False)


@dataclass(frozen=True, eq=False)
class Case:
    """One case: its entry in the manifest, and its arrays, read when asked for."""

    entry: dict

    def __getattr__(self, name):
        try:
            return self.entry[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, name):
        return _file(self.entry["file"])[self.entry["arrays"][name]]

    def __contains__(self, name):
        return name in self.entry["arrays"]

    def images(self, name):
        """An array of images with a batch axis, also where the case has none."""
        array = self[name]
        return array[None] if array.ndim == self.nd + 1 else array

    def close(self, got, want):
        """Assert equality to 1e-12 (double) or 1e-5 (single) of the largest entry, and the same shape and dtype."""
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        rtol = 1e-12 if np.finfo(want.dtype).eps < 1e-10 else 1e-5
        scale = max(1.0, np.abs(want).max(initial=0))
        np.testing.assert_allclose(got, want, rtol=0, atol=rtol * scale)

    @property
    def pads(self):
        """(lo, hi) per axis."""
        n = self.normalized
        return tuple(zip(n["pads_begin"], n["pads_end"], strict=True))


def options(case, form):
    """The keyword arguments of a layer, from the attributes as PyTorch takes them, or from the plain numbers."""
    if form == "attrs":
        a = case.attrs
        chosen = {name: a[name] for name in ("stride", "padding", "dilation", "groups", "padding_mode") if name in a}
        chosen |= {name: a[name] for name in ("output_padding", "output_size") if name in a}
        if "pre_pad" in a:
            chosen["padding"] = tuple(map(tuple, a["pre_pad"]["widths"]))
            chosen["padding_mode"] = a["pre_pad"]["mode"]
        return chosen
    n = case.normalized
    chosen = {
        "stride": tuple(n["strides"]),
        "padding": case.pads,
        "dilation": tuple(n["dilations"]),
        "groups": n["group"],
        "padding_mode": n["padding_mode"],
    }
    if case.op == "conv_transpose":
        if any(o >= s for o, s in zip(n["output_padding"], n["strides"], strict=True)):
            chosen["output_padding"] = tuple(n["output_padding"])  # past the sizes that share this input size
        else:
            chosen["output_size"] = tuple(n["output_spatial"])
    return chosen


def opposite(case):
    """Input size and keyword arguments of the layer that is the transpose of this one."""
    n = case.normalized
    chosen = options(case, "normalized")
    chosen.pop("output_padding", None)
    if case.op == "conv":
        return tuple(n["output_spatial"]), chosen | {"output_size": tuple(n["input_spatial"])}
    chosen.pop("output_size", None)
    # Samples of the long side that nothing reads, beyond the stride, are cropped.
    chosen["padding"] = tuple(
        (lo, hi - s * (extra // s))
        for (lo, hi), s, extra in zip(case.pads, n["strides"], n["output_padding"], strict=True)
    )
    return tuple(n["output_spatial"]), chosen


CASES = [Case(entry) for entry in json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["cases"]]
LAYERS = [case for case in CASES if case.op in ("conv", "conv_transpose")]
UNFOLDS = [case for case in CASES if case.op == "unfold"]
FOLDS = [case for case in CASES if case.op == "fold"]
ILLEGAL = json.loads((FOLDER / "illegal.json").read_text(encoding="utf-8"))
