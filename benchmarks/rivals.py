"""Published bounds on, and estimates of, the norm of a convolution of images: short implementations from the papers.

Each takes a `Layer` of real weights and returns a number; `METHODS` says for which layers that number is a certificate,
which is when the paper, or one line here, proves that it is not below the norm. Rounding errors are not accounted for.
A stride where the paper has none is left out: to keep some of the outputs makes no norm larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from convmat.operators import Convolution
from convmat.products.threads import workers

Array = NDArray[np.floating]
Matrices = NDArray[np.complexfloating]


@dataclass(frozen=True)
class Layer:
    """A convolution of images, with a kernel for each group: (G, C_out / G, C_in / G, K_1, K_2)."""

    operator: Convolution
    kernel: Array

    @staticmethod
    def of(A: Convolution) -> Layer:
        """A convolution, or the one that a transposed convolution is the transpose of: it has the same norm."""
        g = A.geometry
        kernel = g.kernel(A.weight).astype(np.float64)
        return Layer(A, kernel.reshape(g.groups, -1, *kernel.shape[1:]))

    @property
    def taps(self) -> tuple[int, int]:
        return self.kernel.shape[3], self.kernel.shape[4]

    @property
    def degrees(self) -> list[int]:
        """Of the symbol as a trigonometric polynomial, centred."""
        return [math.ceil(d * (k - 1) / 2) for d, k in zip(self.operator.geometry.dilation, self.taps, strict=True)]

    @property
    def wraps(self) -> bool:
        """Whether its rows are distinct rows of the circular convolution of stride one."""
        g = self.operator.geometry
        lines = zip(g.output_size, g.stride, g.input_size, strict=True)
        return self.taps == (1, 1) or (g.padding_mode == "circular" and all((m - 1) * s < n for m, s, n in lines))

    @property
    def has_phases(self) -> bool:
        """Whether it is a convolution of stride one of the phases of its input, too."""
        g = self.operator.geometry
        divides = all(n % s == 0 for n, s in zip(g.input_size, g.stride, strict=True))
        return set(g.dilation) == {1} and (g.padding_mode != "circular" or divides)

    @property
    def is_part(self) -> bool:
        """Whether its rows are distinct rows of the convolution of a plane, or of a torus, with a symbol."""
        return self.wraps or self.operator.geometry.padding_mode == "zeros"


# on the frequencies of a torus ----------------------------------------------------------------------------------------


def symbol(kernel: Array, sizes: Sequence[int], dilation: Sequence[int]) -> Callable[[int], Matrices]:
    """Frequency of the first axis -> sum_k W[k] e^(-i theta d k) at half of those of the second, (n, o, c)."""
    first, second = (
        np.exp(-2j * np.pi * np.outer(np.arange(n), d * np.arange(k)) / n)
        for n, d, k in zip(sizes, dilation, kernel.shape[3:], strict=True)
    )
    inner = np.einsum("gockl,fl->kfgoc", kernel, second[: sizes[1] // 2 + 1])
    return lambda f: np.tensordot(first[f], inner, 1).reshape(-1, *kernel.shape[1:3])


def over_frequencies(layer: Layer, norms: Callable[[Matrices], Array]) -> float:
    """The largest of some norms of the matrices of all frequencies of the input, on all threads."""
    g = layer.operator.geometry
    at = symbol(layer.kernel, g.input_size, g.dilation)
    with threadpool_limits(1), ThreadPoolExecutor(workers()) as pool:
        return max(pool.map(lambda f: float(norms(at(f)).max()), range(g.input_size[0])))


def largest_values(matrices: Matrices) -> Array:
    return np.linalg.svd(matrices, compute_uv=False)[:, 0]


def sedghi(layer: Layer) -> float:
    """The largest singular value of the circular layer, by an SVD at every frequency [Sedghi, Gupta, Long, 2019]."""
    return over_frequencies(layer, largest_values)


GRAM_STEPS = 6
"""Steps of the Gram iteration on the frequencies of a torus."""


def gram_norms(matrices: Matrices, steps: int = GRAM_STEPS) -> Array:
    """Upper bounds on norms: G <- G^H G, rescaled; ||B|| <= ||G||_F^(2^-steps) [Delattre et al., 2023]."""
    gram = matrices if matrices.shape[1] >= matrices.shape[2] else matrices.swapaxes(1, 2)
    log = np.zeros(len(gram))
    for _ in range(steps):
        size = np.maximum(np.linalg.norm(gram, axis=(1, 2)), 1e-300)
        gram = gram / size[:, None, None]
        log = 2 * (log + np.log(size))
        gram = gram.conj().swapaxes(1, 2) @ gram
    return np.exp(2.0**-steps * (log + np.log(np.maximum(np.linalg.norm(gram, axis=(1, 2)), 1e-300))))


def gram_circular(layer: Layer) -> float:
    """The Gram iteration at every frequency of the circular layer [Delattre et al., 2023]."""
    return over_frequencies(layer, gram_norms)


def between(degrees: Sequence[int], samples: Sequence[int]) -> float:
    """How many times larger a polynomial may be between its samples than on them [Pfister, Bresler, 2019]."""
    shares = [1 - 2 * degree / n for degree, n in zip(degrees, samples, strict=True)]
    return math.inf if min(shares) <= 0 else math.prod(share**-0.5 for share in shares)


def gram_corrected(layer: Layer) -> float:
    """The same, times what the symbol may be larger between the frequencies [Delattre et al., 2024]."""
    factor = between(layer.degrees, layer.operator.geometry.input_size)
    return math.inf if math.isinf(factor) else factor * gram_circular(layer)


# of the kernel alone --------------------------------------------------------------------------------------------------

TOEPLITZ_STEPS, TOEPLITZ_WORK = 4, 1e11
"""Steps of the Gram iteration on kernels, as many as take no more than so many operations."""


def toeplitz_work(layer: Layer, steps: int) -> float:
    groups, outs, ins, *taps = layer.kernel.shape
    return 4.0 * groups * steps * math.prod(2**steps * (k - 1) + 1 for k in taps) * min(outs, ins) ** 2 * max(outs, ins)


def gram_toeplitz(layer: Layer) -> float:
    """The Gram iteration on kernels: K <- K * K^H; ||A|| <= (max_o sum |K[o]|)^(2^-steps) [Delattre et al., 2024].

    The products of kernels are taken at the frequencies of a torus on which the last of them does not wrap.
    """
    allowed = [steps for steps in range(1, TOEPLITZ_STEPS + 1) if toeplitz_work(layer, steps) <= TOEPLITZ_WORK]
    steps = max(allowed, default=1)
    sizes = [scipy.fft.next_fast_len(2**steps * (k - 1) + 1, real=True) for k in layer.taps]
    return max(_gram_of_kernel(kernel, sizes, steps) for kernel in layer.kernel)


def _gram_of_kernel(kernel: Array, sizes: Sequence[int], steps: int) -> float:
    wide = kernel if len(kernel) <= kernel.shape[1] else kernel.swapaxes(0, 1)
    at = symbol(wide[None], sizes, (1, 1))
    size = max(float(np.linalg.norm(wide.reshape(len(wide), -1))), 1e-300)

    def last(f: int) -> Matrices:
        gram = at(f) / size
        for _ in range(steps):
            gram = gram @ gram.conj().swapaxes(1, 2)
        return gram

    with threadpool_limits(1), ThreadPoolExecutor(workers()) as pool:
        rows = np.stack(list(pool.map(last, range(sizes[0]))))
    iterate = scipy.fft.irfft2(rows, sizes, axes=(0, 1), workers=workers(), overwrite_x=True)
    return size * float(np.abs(iterate).sum(axis=(0, 1, 3)).max()) ** 2.0**-steps


SAMPLES = 50
"""Samples of the polynomial per axis."""


def araujo(layer: Layer) -> float:
    """The root of the largest sum of |f_oc|^2 over a grid, f the symbol, times `between` [Araujo et al., 2021].

    The sum is a quadratic form of the waves, whose matrix is that of the products of taps.
    """
    degrees = [math.ceil((k - 1) / 2) for k in layer.taps]
    taps = layer.kernel.reshape(len(layer.kernel), -1, math.prod(layer.taps))
    gram = taps.swapaxes(1, 2) @ taps
    lines = [np.exp(2j * np.pi * np.outer(np.arange(SAMPLES), np.arange(k)) / SAMPLES) for k in layer.taps]
    waves = np.einsum("ak,bl->abkl", *lines).reshape(SAMPLES**2, -1)
    squares = np.sum((waves.conj() @ gram) * waves, axis=2).real
    return math.sqrt(max(0.0, float(squares.max()))) * between(degrees, [SAMPLES] * 2)


def singla(layer: Layer) -> float:
    """sqrt(K_1 K_2) times the least norm of four unfoldings of the kernel [Singla, Feizi, 2021]."""
    groups, outs, ins, height, width = layer.kernel.shape
    unfolded = (
        layer.kernel.reshape(groups, outs, -1),
        layer.kernel.swapaxes(1, 2).reshape(groups, ins, -1),
        layer.kernel.transpose(0, 1, 3, 2, 4).reshape(groups, outs * height, ins * width),
        layer.kernel.transpose(0, 1, 4, 2, 3).reshape(groups, outs * width, ins * height),
    )
    least = np.min([[norm(part) for part in parts] for parts in unfolded], axis=0)
    return math.sqrt(height * width) * float(least.max())


def norm(matrix: Array) -> float:
    """The largest singular value alone."""
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return math.sqrt(max(0.0, scipy.linalg.eigvalsh(gram, subset_by_index=[len(gram) - 1] * 2)[0]))


HOPM_STEPS = 100
"""Most sweeps of the higher-order power method."""


def by_phases(kernel: Array, stride: Sequence[int]) -> Array:
    """The kernel of stride one on the phases of the input, (G, o, c s_1 s_2, ceil(K_1 / s_1), ceil(K_2 / s_2))."""
    padded = np.pad(kernel, [(0, 0)] * 3 + [(0, -k % s) for k, s in zip(kernel.shape[3:], stride, strict=True)])
    groups, outs, ins, height, width = padded.shape
    s, t = stride
    split = padded.reshape(groups, outs, ins, height // s, s, width // t, t)
    return split.transpose(0, 1, 2, 4, 6, 3, 5).reshape(groups, outs, ins * s * t, height // s, width // t)


def tensor_norm(kernel: Array, steps: int = HOPM_STEPS) -> float:
    """The largest |W(u, v, a, b)| over complex unit vectors, by the higher-order power method: a local maximum."""
    outs, *rest = kernel.shape
    rng = np.random.default_rng(0)
    matrix = kernel.reshape(outs, -1)
    u, v, a = (_unit(rng.standard_normal(n) + 1j * rng.standard_normal(n)) for n in kernel.shape[:3])
    found = 0.0
    for _ in range(steps):
        part = _real_times(matrix.T, u).reshape(rest)
        b = _unit(np.einsum("ckl,c,k->l", part, v, a).conj())
        a = _unit(np.einsum("ckl,c,l->k", part, v, b).conj())
        v = _unit(np.einsum("ckl,k,l->c", part, a, b).conj())
        image = _real_times(matrix, np.einsum("c,k,l->ckl", v, a, b).ravel())
        last, found = found, float(np.linalg.norm(image))
        u = _unit(image.conj())
        if found <= last * (1 + 1e-9):
            break
    return found


def _unit(vector: Matrices) -> Matrices:
    return vector / max(float(np.linalg.norm(vector)), 1e-300)


def _real_times(matrix: Array, vector: Matrices) -> Matrices:
    """A real matrix times a complex vector, without a complex copy of the matrix."""
    product = matrix @ vector.view(np.float64).reshape(-1, 2)
    return np.ascontiguousarray(product).view(np.complex128)[:, 0]


def grishina(layer: Layer) -> float:
    """sqrt(K_1 K_2) times the norm of the kernel, or of its phases, as a tensor [Grishina et al., 2024]."""
    kernel = by_phases(layer.kernel, layer.operator.geometry.stride) if layer.has_phases else layer.kernel
    return math.sqrt(math.prod(kernel.shape[3:])) * max(tensor_norm(part) for part in kernel)


# of the layer itself --------------------------------------------------------------------------------------------------

POWER_STEPS = 100
"""Steps of the power iteration."""


def power(layer: Layer) -> float:
    """||A x|| / ||x|| after some steps x <- A^T A x from noise: from below."""
    A = layer.operator
    x = np.random.default_rng(0).standard_normal(A.shape[1]).astype(A.dtype)
    for _ in range(POWER_STEPS):
        x = A.rmatvec(A.matvec(x / np.linalg.norm(x)))
        if not x.any():
            return 0.0
    return float(np.linalg.norm(A.matvec(x / np.linalg.norm(x))))


@dataclass(frozen=True)
class Method:
    """A rival: its value, the layers whose norm that is proven not to be below, and the share that it may be, still."""

    value: Callable[[Layer], float]
    certifies: Callable[[Layer], bool]
    slack: float = 1e-9

    def holds(self, value: float, norm: float) -> bool:
        return value >= norm * (1 - self.slack)


METHODS = {
    "power iteration": Method(power, lambda layer: False),
    "Sedghi 2019": Method(sedghi, lambda layer: layer.wraps),
    "Gram 2023": Method(gram_circular, lambda layer: layer.wraps),
    "Gram 2023, corrected": Method(gram_corrected, lambda layer: layer.is_part),
    "Gram 2024, Toeplitz": Method(gram_toeplitz, lambda layer: layer.is_part),
    "Araujo 2021": Method(araujo, lambda layer: layer.is_part),
    "Singla 2021": Method(singla, lambda layer: layer.is_part),
    "Grishina 2024": Method(grishina, lambda layer: layer.is_part, slack=1e-6),
}
"""Name -> method. That of Grishina et al. finds a maximum from below, and it may be a local one."""
