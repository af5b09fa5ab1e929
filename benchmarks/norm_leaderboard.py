"""`norm_bounds` beside published bounds on the norm of a convolution, on the same layers: how tight, how fast, proven?

`norms.py` prints it, as Markdown: a table of the methods, and one of the layers. The norm is that of scipy's svds, or
the lower bound of `norm_bounds` if that is larger. Whatever a method claims to certify is checked.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rivals import METHODS, Layer
from scipy.sparse.linalg import svds

from convmat import Conv2d, from_onnx, norm_bounds
from convmat.operators import Convolution
from convmat.products.threads import workers
from convmat.spectrum.trees import in_double

OURS = "norm_bounds"
NAMES = [*METHODS, OURS]

ROUNDING = 1e-9
"""The share that svds may be off."""

Named = Iterator[tuple[str, Convolution]]


# layers ---------------------------------------------------------------------------------------------------------------

RANDOM: list[tuple[tuple[int, int, int, int], dict[str, Any]]] = [
    ((16, 3, 3, 32), {}),
    ((64, 64, 3, 32), {}),
    ((64, 64, 3, 32), {"padding_mode": "circular"}),
    ((64, 32, 3, 32), {"stride": 2}),
    ((64, 32, 3, 32), {"stride": 2, "padding_mode": "circular"}),
    ((1, 1, 5, 64), {}),
    ((1, 1, 7, 16), {}),
    ((16, 16, 3, 8), {}),
    ((8, 8, 5, 32), {"dilation": 2}),
    ((64, 64, 3, 28), {"groups": 64}),
    ((8, 8, 3, 32), {"padding_mode": "reflect"}),
    ((8, 8, 3, 32), {"padding_mode": "replicate"}),
    ((8, 8, 3, 32), {"padding_mode": "symmetric"}),
    ((8, 8, 3, 32), {"padding_mode": "antireflect"}),
]
"""(output channels, input channels, taps, size) and options, where a layer keeps the size, but for its stride."""


def random_layers() -> Named:
    """Normal random weights."""
    for (outs, ins, taps, size), options in RANDOM:
        W = np.random.default_rng(outs + size).standard_normal((outs, ins // options.get("groups", 1), taps, taps))
        padding = options.get("dilation", 1) * (taps // 2)
        words = [f"{key.removeprefix('padding_')} {value}" for key, value in options.items() if key != "padding_mode"]
        name = ", ".join(
            [f"{ins} -> {outs}", f"{taps} x {taps}", f"{size}²", *words, options.get("padding_mode", "zeros")]
        )
        yield name, Conv2d(W, (size, size), padding=padding, **options)


MODELS = {
    "det": ("ch_PP-OCRv4_det_infer.onnx", (1, 3, 96, 96)),
    "rec": ("ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 320)),
    "cls": ("ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, 192)),
}
"""The models that rapidocr-onnxruntime ships, and the size of an image."""

CHOSEN = {
    "det": ["Conv.0", "Conv.1", "Conv.12", "Conv.13", "Conv.21", "Conv.52", "Conv.58", "ConvTranspose.0"],
    "rec": ["Conv.0", "Conv.7", "Conv.33"],
    "cls": ["Conv@0", "Conv@38"],
}
"""Some of each kind: plain, strided, depthwise, of one tap, transposed."""


def trained_layers(every: bool) -> Named:
    """The convolutions of trained models: text detection, recognition, classification."""
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None or package.origin is None:
        print("rapidocr-onnxruntime is not installed: no trained layers\n")
        return
    for model, (file, shape) in MODELS.items():
        layers = from_onnx(Path(package.origin).parent / "models" / file, input_shapes={"x": shape})
        for key, layer in layers.items():
            short = key.removeprefix("p2o.")
            if every or short in CHOSEN[model]:
                yield f"{model} {short}: {described(layer.operator)}", layer.operator


def described(A: Convolution) -> str:
    """Channels, taps, size and stride of the convolution, or of that which it is the transpose of."""
    g = A.geometry
    words = [f"{g.in_channels} -> {g.out_channels}", _times(g.kernel_size), _times(g.input_size)]
    if set(g.stride) != {1}:
        words.append(f"stride {_times(g.stride)}")
    if g.groups > 1:
        words.append(f"groups {g.groups}")
    return ", ".join(words)


def _times(numbers: tuple[int, ...]) -> str:
    return f"{numbers[0]}²" if len(set(numbers)) == 1 else " x ".join(map(str, numbers))


REPEATED = {f"layer{block}.{k}.conv{c}" for block in range(1, 5) for k, c in ((0, 2), (1, 1), (1, 2))}
KEPT = {"layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"}
"""Convolutions of ResNet-18 whose geometry another one has, and one of each that is left in its place."""


def resnet_layers(size: int, every: bool) -> Named:
    """The convolutions of ResNet-18 for images of that size, with He's random weights in single precision."""
    rng = np.random.default_rng(0)

    def layer(name: str, outs: int, ins: int, taps: int, stride: int, n: int) -> tuple[str, Conv2d]:
        W = rng.standard_normal((outs, ins, taps, taps)) * math.sqrt(2 / (ins * taps**2))
        A = Conv2d(W.astype(np.float32), (n, n), stride=stride, padding=taps // 2)
        return f"ResNet {size}, {name}: {described(A)}", A

    found = [layer("conv1", 64, 3, 7, 2, size)]
    n, ins = size // 4, 64
    for block, outs in enumerate((64, 128, 256, 512), 1):
        for k in (0, 1):
            stride = 2 if block > 1 and k == 0 else 1
            m = -(-n // stride)
            found.append(layer(f"layer{block}.{k}.conv1", outs, outs if k else ins, 3, stride, n))
            found.append(layer(f"layer{block}.{k}.conv2", outs, outs, 3, 1, m))
            if stride == 2:
                found.append(layer(f"layer{block}.{k}.downsample", outs, ins, 1, 2, n))
            n = m
        ins = outs
    for name, A in found:
        short = name.split(", ")[1].split(":")[0]
        if every or short not in REPEATED - KEPT:
            yield name, A


# measurements ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One method on one layer: its value over the norm, seconds, and whether it claims a certificate."""

    ratio: float
    seconds: float
    certifies: bool
    holds: bool

    def __str__(self) -> str:
        if math.isinf(self.ratio):
            return ""
        if self.certifies and not self.holds:
            return f"1 - {1 - self.ratio:.0e} **violated**"
        return f"{self.ratio:.3f}" if self.certifies else f"({self.ratio:.3f})"


@dataclass(frozen=True)
class Row:
    """One layer."""

    name: str
    norm: float
    svds: float
    found: dict[str, Measured]

    def __str__(self) -> str:
        ours = self.found[OURS]
        cells = " | ".join(str(self.found[name]) for name in METHODS)
        gap = f"{ours.ratio - 1:.0e}" if ours.holds else str(ours)
        better = ", ".join(self._better()) or "-"
        return f"| {self.name} | {self.norm:.4g} | {cells} | {gap} | {better} | {ours.seconds:.2f} | {self.svds:.2f} |"

    def _better(self) -> Iterator[str]:
        """Certificates that are tighter than ours, by more than 1e-6, or as tight to 1 % and faster."""
        ours = self.found[OURS]
        for name in METHODS:
            other = self.found[name]
            if not other.certifies or not other.holds:
                continue
            if other.ratio < ours.ratio - 1e-6:
                yield f"{name} tighter"
            elif other.ratio <= ours.ratio + 1e-2 and other.seconds < ours.seconds:
                yield f"{name} faster"


def timed(task: Callable[[], Any], repeat: int) -> tuple[Any, float]:
    """A result, and the least seconds."""
    least = math.inf
    for _ in range(repeat):
        start = time.perf_counter()
        result = task()
        least = min(least, time.perf_counter() - start)
    return result, least


def measure(name: str, A: Convolution, repeat: int) -> Row:
    """All methods on one layer, whose plans are made before."""
    A.rmatvec(A.matvec(np.ones(A.shape[1], A.dtype)))
    rng = np.random.default_rng(0)
    (lower, upper), ours = timed(lambda: norm_bounds(A), repeat)
    wide = in_double(A)
    if min(A.shape) > 1:
        estimate, theirs = timed(lambda: svds(wide, k=1, return_singular_vectors=False, rng=rng)[0], repeat)
    else:
        estimate, theirs = timed(lambda: np.linalg.norm(wide.toarray()), repeat)
    norm = max(lower, float(estimate))
    layer, found = Layer.of(A), {}
    for key, method in METHODS.items():
        value, seconds = timed(lambda method=method: method.value(layer), repeat)
        certifies = method.certifies(layer) and math.isfinite(value)
        found[key] = Measured(value / norm, seconds, certifies, method.holds(value, lower))
    found[OURS] = Measured(upper / norm, ours, True, upper >= norm * (1 - ROUNDING))
    return Row(name, norm, theirs, found)


# tables ---------------------------------------------------------------------------------------------------------------

CERTIFICATE = {
    "power iteration": "no: from below",
    "Sedghi 2019": "circular; one tap",
    "Gram 2023": "circular; one tap",
    "Gram 2023, corrected": "zeros, circular; maps wider than the kernel",
    "Gram 2024, Toeplitz": "zeros, circular",
    "Araujo 2021": "zeros, circular",
    "Singla 2021": "zeros, circular",
    "Grishina 2024": "zeros, circular, if its power method finds the maximum",
    OURS: "every mode, stride, dilation and group; rounding included",
}


def summary(name: str, rows: list[Row]) -> str:
    """One method over all layers."""
    cells = [row.found[name] for row in rows]
    valid = sorted(cell.ratio for cell in cells if cell.certifies)
    violated = sum(not cell.holds for cell in cells if cell.certifies)
    below = sum(cell.ratio < 1 - 1e-6 for cell in cells if not cell.certifies)
    ratios = valid or sorted(cell.ratio for cell in cells)
    spread = " | ".join(f"{value:.4g}" for value in (ratios[0], statistics.median(ratios), ratios[-1]))
    seconds = statistics.median(cell.seconds for cell in cells)
    relative = statistics.median(cell.seconds / row.svds for cell, row in zip(cells, rows, strict=True))
    total = sum(cell.seconds for cell in cells)
    proven = f"{len(valid)} of {len(cells)}" + (f", **{violated} violated**" if violated else "")
    return (
        f"| {name} | {CERTIFICATE[name]} | {proven} | {below} | {spread} "
        f"| {1e3 * seconds:.1f} ms | {relative:.2g} | {total:.1f} s |"
    )


def leaderboard(layers: list[tuple[str, Convolution]], repeat: int) -> None:
    """Print both tables."""
    rows = []
    for name, A in layers:
        print(name, file=sys.stderr, flush=True)
        rows.append(measure(name, A, repeat))
    print(f"{len(rows)} layers, norm_bounds with rtol 1e-2, {workers()} threads.\n")
    heads = [
        "method",
        "certificate",
        "layers",
        "below elsewhere",
        "least",
        "median",
        "most",
        "time",
        "over svds",
        "all",
    ]
    print(f"| {' | '.join(heads)} |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in NAMES:
        print(summary(name, rows))
    print(f"\n| layer | norm | {' | '.join(METHODS)} | {OURS} - 1 | better than it | s | svds s |")
    print(f"| --- | ---: | {'---: | ' * len(METHODS)}---: | --- | ---: | ---: |")
    for row in rows:
        print(row)


def chosen(parts: list[str], every: bool) -> list[tuple[str, Convolution]]:
    """The layers of some parts of the leaderboard."""
    found: dict[str, Callable[[], Named]] = {
        "random": random_layers,
        "trained": lambda: trained_layers(every),
        "resnet64": lambda: resnet_layers(64, every),
        "resnet224": lambda: resnet_layers(224, every),
    }
    return [layer for part in parts for layer in found[part]()]


PARTS = ["random", "trained", "resnet64", "resnet224"]
