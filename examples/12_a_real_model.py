"""
The convolutions of a real model
================================

The PyPI package rapidocr-onnxruntime ships a text detector as an ONNX file: 62 convolutions (plain, strided, depthwise,
of one tap) and two transposed ones. `from_onnx` makes an operator of each. On the activations of a photograph they
agree with onnxruntime; and an operator knows what a runtime does not: its transpose, its matrix, its norm.
"""

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
from _picture import save_picture

from convmat import ConvTranspose2d, norm_bounds, plot
from convmat.interop.onnx import from_onnx
from convmat.operators import Convolution

try:
    import onnx
    import onnxruntime
except ImportError as error:
    raise SystemExit(f"This example needs {error.name}: pip install onnx onnxruntime rapidocr-onnxruntime") from None

SIZE = 96
"""Height and width of the photograph, a multiple of 32."""

TOLERANCE = 1e-5
"""What is allowed between two products in single precision, relative to the largest entry."""


# %%
# The model, found without importing the package.

package = importlib.util.find_spec("rapidocr_onnxruntime")
if package is None or package.origin is None:
    raise SystemExit(
        "This example needs the model in rapidocr-onnxruntime: pip install rapidocr-onnxruntime, on Python 3.11 or 3.12"
    )
path = Path(package.origin).parent / "models" / "ch_PP-OCRv4_det_infer.onnx"
model = onnx.load(path)
image = np.broadcast_to(plot.photo(SIZE), (1, 3, SIZE, SIZE)).astype(np.float32) * 2 - 1
found = from_onnx(path, input_shapes={"x": image.shape})
layers = {name: layer for name, layer in found.items() if isinstance(layer.operator, Convolution)}

# %%
# onnxruntime runs the whole model once, and gives every tensor that a convolution reads or makes.

tensors = dict.fromkeys(name for layer in layers.values() for name in (layer.inputs[0], *layer.outputs))
del model.graph.output[:]
model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name != "x")
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
activations = {"x": image, **dict(zip(names, session.run(names, {"x": image}), strict=True))}


# %%
# Each layer on the same activations. The dot test compares <A x, y> with <x, A^T y>.


def kind_of(A):
    g = A.geometry
    if isinstance(A, ConvTranspose2d):
        return "transposed"
    if g.groups == g.in_channels > 1:
        return "depthwise"
    return "one tap" if set(g.kernel_size) == {1} else "plain"


def geometry_of(A):
    taps, stride = A.geometry.kernel_size[0], A.geometry.stride[0]
    images = [f"{channels} x {height} x {width}" for channels, height, width in (A.input_shape, A.output_shape)]
    return f"{images[0]:>13} -> {images[1]:<13} {taps} x {taps} / {stride}"


def dot_test(A, x, y):
    left, right = np.vdot(y, A @ x), np.vdot(A.T @ y, x)
    return abs(left - right) / (np.linalg.norm(A @ x) * np.linalg.norm(y))


rng = np.random.default_rng(0)
print(
    f"{'node':<15} {'kind':<10}   {'channels x height x width':<28} {'taps / s':<9} {'matrix':>15} {'nnz':>8} "
    f"{'runtime':>8} {'dot test':>8}  certified norm"
)
rows = []
for name, layer in layers.items():
    A = layer.operator
    x, y = activations[layer.inputs[0]], activations[layer.outputs[0]]
    error = np.abs(layer.apply(x) - y).max() / np.abs(y).max()
    dot = dot_test(A, x.ravel(), rng.standard_normal(A.shape[0]).astype(np.float32))
    low, high = norm_bounds(A)
    assert error < TOLERANCE
    assert dot < TOLERANCE
    assert low <= high
    rows.append((kind_of(A), error, low, high))
    print(
        f"{name.removeprefix('p2o.'):<15} {kind_of(A):<10} {geometry_of(A)} {A.shape[0]:>7} x {A.shape[1]:>5} "
        f"{A.nnz:>8} {error:>8.1e} {dot:>8.1e}  [{low:.3f}, {high:.3f}]"
    )

# %%
# What they have in common.

kinds, errors, lower, upper = zip(*rows, strict=True)
operators = [layer.operator for layer in layers.values()]
widest = list(layers)[int(np.argmax(upper))]
print(f"\n{len(rows)} layers: {', '.join(f'{count} {kind}' for kind, count in Counter(kinds).items())}")
entries, weights = sum(A.nnz for A in operators), sum(A.weight.size for A in operators)
print(f"their matrices would hold {entries:,} entries, made from {weights:,} weights")
print(f"largest difference from onnxruntime: {max(errors):.1e} of the largest output of the layer")
print(f"largest norm: at most {max(upper):.1f}, of {widest}")

EQUAL = 2e-8
"""Where the picture shows no difference at all, on a logarithmic axis."""

COLOURS = {"plain": "#0072b2", "depthwise": "#e69f00", "one tap": "#009e73", "transposed": "#cc79a7"}
MARKS = {"plain": "s", "depthwise": "o", "one tap": "D", "transposed": "^"}


def draw():
    figure = plot.new_figure(9, 6)
    norms, agreement = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    depth = np.arange(len(rows))
    norms.vlines(depth, lower, upper, color="black", linewidth=1)
    for kind, colour in COLOURS.items():
        at = np.array([k == kind for k in kinds])
        norms.plot(depth[at], np.array(upper)[at], MARKS[kind], color=colour, label=kind)
        agreement.plot(depth[at], np.maximum(errors, EQUAL)[at], MARKS[kind], color=colour)
    norms.set(yscale="log", ylabel="certified spectral norm")
    norms.legend(frameon=False, ncols=2, loc="lower left")
    agreement.set(
        yscale="log", ylabel="difference from\nonnxruntime, relative", xlabel="layer, from the first to the last"
    )
    for level, meaning in ((TOLERANCE, "allowed"), (EQUAL, "equal")):
        agreement.axhline(level, color="0.6", linewidth=1, linestyle="--", zorder=0)
        agreement.text(1.01, level, meaning, transform=agreement.get_yaxis_transform(), va="center", fontsize=9)
    agreement.set_ylim(EQUAL / 2, TOLERANCE * 2)
    for axes in (norms, agreement):
        axes.spines[["top", "right"]].set_visible(False)
    norms.set_title(f"The {len(rows)} convolutions of a text detector, as operators")
    return figure


save_picture("12_a_real_model.png", draw)
