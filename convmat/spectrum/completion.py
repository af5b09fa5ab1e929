r"""An upper bound on the norm of a convolution of a small image, tighter than that of the torus in which it lies.

*The torus is too generous.* With zeros beyond the border, A is a part of a matrix T that blocks B(theta) make diagonal:
A x = R T E x, where E puts the image on a torus, and R takes a part of what comes out. So A^H A <= E^H G E with
G = T^H T, and ||A|| <= ||T||. But the few waves on which G is near its largest fill the torus, and images do not.

*Theorem.* Let c > 0, and W any images on the torus such that M = c I - G + W W^H is positive definite, and M <= c. Let
W~ be equal to W inside the image, and anything outside. If lambda is the largest eigenvalue of W~^H M^-1 W~, or 1 if
that is less, then ||A||^2 <= lambda c.

*Proof.* Write M_E = E^H M E. Among the images that are y inside, the least <z, M^-1 z> is <y, M_E^-1 y>. So
W_E^H M_E^-1 W_E <= W~^H M^-1 W~ <= lambda, therefore W_E W_E^H <= lambda M_E, and
E^H (c I - G) E = M_E - W_E W_E^H >= -(lambda - 1) M_E >= -(lambda - 1) c.

*In use*, c is what is to be proven; the columns of W are the eigenvectors of G above it and just below, times the roots
of their eigenvalues, so that M is c on them. Few are enough. What W~ is outside is found by conjugate gradients:
nothing of it is taken on trust. For any Y, near M^-1 W~,

    W~^H M^-1 W~ <= Y^H W~ + W~^H Y - Y^H M Y + S^H S / mu,   S = W~ - M Y,

if M >= mu > 0, which a Cholesky decomposition of M - mu at each frequency proves (see `proof`). This is the domain
decomposition of a definite problem: the complement of the image is what is eliminated.

The same holds with outputs in place of inputs. The side is that on which the blocks are smaller.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray

from convmat.geometry import Geometry
from convmat.matrix import fits
from convmat.products.symbol import multiplicity, stored, symbol
from convmat.products.threads import Pool, workers
from convmat.spectrum.torus import EPS, embed, rounding

_NEAR = 0.03
"""How far below c an eigenvalue may be, as a share of it, whose eigenvector is still taken."""

_STEPS = 12
"""Steps of conjugate gradients."""

_WAVES = 1024
"""Columns of W that are worth their time."""

_NUMBERS, _POINTS = 2**25, 2**12
"""Entries of all blocks, and frequencies, that are worth their time."""

_SURE = 0.5
"""The share of what c leaves above the eigenvalues without a vector that is proven to be there."""


def completed_bound(geometry: Geometry, kernel: NDArray[Any], lower: float, rtol: float) -> float:
    """An upper bound on the norm, of (1 + rtol) lower if that can be shown; infinity where there is none.

    For layers whose axes have zeros beyond the border, or none.
    """
    embeddings = [embed(axis) for axis in geometry.axes]
    polynomial, real = symbol(geometry, kernel), kernel.dtype.kind != "c"
    groups, rows, cols = polynomial.block
    sizes, order = [e.size for e in embeddings], min(rows, cols)
    points = math.prod(sizes)
    free = [axis for axis, e in zip(geometry.axes, embeddings, strict=True) if e.free]
    if any(e.repeats != 1 for e in embeddings) or not free or any(axis.mode != "zeros" for axis in free) or lower == 0:
        return math.inf
    if points > _POINTS or points * groups * rows * cols > _NUMBERS:
        return math.inf
    if not fits(128 * max(points * order**2, _NUMBERS)):
        return math.inf
    inside = _inside(geometry, [list(p) for p in polynomial.phases], sizes, rows < cols)
    half = stored(sizes[0], real and geometry.ndim == 1)
    blocks = polynomial.sampler(sizes, [0] * geometry.ndim, half=real)(0, half)
    if rows < cols:
        blocks = blocks.conj().swapaxes(-1, -2)
    near, upper = rounding(polynomial, sizes), 0.0
    target = lower * (1 + 0.6 * rtol)
    most = np.linalg.norm(blocks, axis=(-2, -1)).reshape(-1, groups).max(axis=0)
    for group in range(groups):
        if most[group] <= target:
            upper = max(upper, float(most[group]) + near)
            continue
        torus = Torus(tuple(sizes), real, inside, np.ascontiguousarray(blocks[..., group, :, :]))
        found = torus.bound(target**2, (lower * (1 + 0.95 * rtol)) ** 2)
        upper = max(upper, math.sqrt(found) + near)
    return upper * (1 + 4 * EPS)


def _inside(geometry: Geometry, phases: list[list[int]], sizes: list[int], outputs: bool) -> NDArray[np.bool_]:
    """Which samples of the torus are of the image: those of one channel, or of its phases. (M'_1..M'_D, phases)"""
    lines = []
    for axis, of, size in zip(geometry.axes, phases, sizes, strict=True):
        j = np.arange(size)[:, None]
        lines.append(j < axis.output if outputs else j * axis.stride + np.array(of) < axis.size)
    joint = functools.reduce(np.multiply.outer, lines)  # (M'_1, r_1, M'_2, r_2, ..)
    order = [*range(0, joint.ndim, 2), *range(1, joint.ndim, 2)]
    return np.asarray(joint.transpose(order).reshape(*sizes, -1))


@dataclass(frozen=True)
class Torus:
    """A block diagonal matrix G = B^H B on a torus, of the blocks at the frequencies that are kept."""

    sizes: tuple[int, ...]
    real: bool
    inside: NDArray[np.bool_]  # (M'_1..M'_D, r)
    blocks: NDArray[Any]  # B: (F_1..F_D, q, p)

    def bound(self, c: float, enough: float) -> float:
        """A bound on the largest eigenvalue of E^H G E, c if all goes well: it goes on until one is small enough."""
        flat = self.blocks.reshape(-1, *self.blocks.shape[-2:])
        order, count = flat.shape[-1], multiplicity(self.sizes, half=self.real).ravel()
        mirror = self._mirrored()
        shifted, inverse = np.empty((2, len(flat), order, order), dtype=np.complex128)
        waves: list[Any] = [None] * len(flat)
        mu = _SURE * _NEAR * c
        # of G, of c - G + W W^H, and of the decomposition: multiples of EPS c
        largest = float(np.linalg.norm(flat, axis=(1, 2)).max())
        ulps = (2 * flat.shape[1] + 64) * largest * largest / c + order * (order + 64)
        slack = ulps * EPS * c

        def piece(_: object, start: int, stop: int) -> None:
            for at in range(start, stop):
                if not count[at]:
                    continue
                B = flat[at].real if self._own(at) else flat[at]
                found = _decomposed(B, c, mu + slack)
                if found is not None:
                    shifted[at], inverse[at], waves[at] = found

        Pool().run(piece, [(at, at + 1) for at in range(len(flat))], workers())
        kept = np.flatnonzero(count)
        if any(waves[at] is None for at in kept):
            return math.inf
        columns = sum(waves[at].shape[1] * int(count[at]) for at in kept)
        if columns > min(_WAVES, _NUMBERS // (math.prod(self.sizes) * order)):
            return math.inf
        for at in np.flatnonzero(count == 0):
            shifted[at], inverse[at] = shifted[mirror[at]].conj(), inverse[mirror[at]].conj()
        W = self._columns(waves, count)
        share = self._completed(W, shifted, inverse, c, mu, enough / c) if W.size else 1.0
        return float((c + slack) * share)

    def _mirrored(self) -> NDArray[np.intp]:
        """For each frequency that is kept, the kept one that is its negative, or else itself."""
        shape = self.blocks.shape[: len(self.sizes)]
        grid = np.indices(shape)
        other = [-f % n for f, n in zip(grid, self.sizes, strict=True)]
        there = other[-1] < shape[-1]
        found = np.ravel_multi_index([np.where(there, o, f) for o, f in zip(other, grid, strict=True)], shape)
        return np.asarray(found.ravel())

    def _own(self, at: int) -> bool:
        """Whether a frequency is its own negative, so that the block of real weights is real."""
        shape = self.blocks.shape[: len(self.sizes)]
        place = np.unravel_index(at, shape)
        return self.real and all(2 * int(f) % n == 0 for f, n in zip(place, self.sizes, strict=True))

    def _columns(self, waves: list[Any], count: NDArray[np.int64]) -> NDArray[Any]:
        """W: the eigenvectors at each frequency as images, real ones for real weights. (M'_1..M'_D, p, columns)"""
        shape = self.blocks.shape[: len(self.sizes)]
        found = []
        for at in np.flatnonzero(count):
            place = np.unravel_index(at, shape)
            lines = [
                np.exp(2j * np.pi / n * (int(f) * np.arange(n) % n)) / math.sqrt(n)
                for f, n in zip(place, self.sizes, strict=True)
            ]
            images = np.multiply.outer(functools.reduce(np.multiply.outer, lines), waves[at])
            if not self.real:
                found.append(images)
            elif count[at] == 1:
                found.append(images.real)
            else:
                found += [math.sqrt(2) * images.real, math.sqrt(2) * images.imag]
        return np.concatenate(found, axis=-1)

    def _times(self, blocks: NDArray[Any], images: NDArray[Any]) -> NDArray[Any]:
        """The block diagonal matrix of blocks times images, each a column. (M'_1..M'_D, p, columns)"""
        axes, shape = tuple(range(len(self.sizes))), self.blocks.shape[: len(self.sizes)]
        spectra = (scipy.fft.rfftn if self.real else scipy.fft.fftn)(images, axes=axes, workers=workers())
        flat = spectra.reshape(-1, *spectra.shape[-2:])

        def piece(_: object, start: int, stop: int) -> None:
            flat[start:stop] = blocks[start:stop] @ flat[start:stop]

        Pool().run(piece, [(at, at + 1) for at in range(len(flat))], workers())
        back = flat.reshape(*shape, *flat.shape[1:])
        if self.real:
            return np.asarray(scipy.fft.irfftn(back, s=self.sizes, axes=axes, workers=workers()))
        return np.asarray(scipy.fft.ifftn(back, axes=axes, workers=workers()))

    def _completed(
        self, W: NDArray[Any], shifted: NDArray[Any], inverse: NDArray[Any], c: float, mu: float, enough: float
    ) -> float:
        """Lambda of the theorem, at least 1, by conjugate gradients in what W~ is outside."""
        order = W.shape[-2]
        outside = ~np.tile(self.inside, order // self.inside.shape[-1])[..., None]
        completed, solved = W, self._times(inverse, W)
        residual = np.where(outside, -solved, 0)
        direction, size = residual, _sums(residual, residual)
        best = math.inf
        for step in range(_STEPS):
            found = self._certified(completed, solved, shifted, c, mu) if step else math.inf
            if found <= enough or found > best - 0.02 * (best - 1):
                return min(found, best)
            best = found
            image = self._times(inverse, direction)
            length = size / np.maximum(_sums(direction, np.where(outside, image, 0)), np.finfo(np.float64).tiny)
            completed, solved = completed + length * direction, solved + length * image
            residual = residual - length * np.where(outside, image, 0)
            before, size = size, _sums(residual, residual)
            direction = residual + size / np.maximum(before, np.finfo(np.float64).tiny) * direction
        return best

    def _certified(self, W: NDArray[Any], Y: NDArray[Any], shifted: NDArray[Any], c: float, mu: float) -> float:
        """A bound on the largest eigenvalue of W^H M^-1 W, whatever Y is, and 1 at least."""
        image = self._times(shifted, Y)
        rest = W - image
        w, y, m, s = (part.reshape(-1, W.shape[-1]) for part in (W, Y, image, rest))
        cross = y.conj().T @ w
        form = cross + cross.conj().T - y.conj().T @ m + s.conj().T @ s / mu
        form = (form + form.conj().T) / 2
        w_norm, y_norm, s_norm = (float(np.linalg.norm(part)) for part in (w, y, s))
        ulps = (len(w) + 64 * math.log2(2 + len(w)) + 8 * W.shape[-2]) * EPS
        # of products of columns, and of the image of Y, in the form and in the rest
        image_away = ulps * c * y_norm
        away = 2 * ulps * y_norm * (w_norm + c * y_norm) + 2 * image_away * (s_norm + image_away) * (1 + ulps) / mu
        found: float = np.linalg.eigvalsh(form)[-1] + 8 * len(form) * EPS * np.linalg.norm(form)
        return max(1.0, float(found + away + ulps * s_norm**2 / mu))


def _sums(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """The inner product of each column. (columns,)"""
    flat = a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1])
    return np.asarray(np.einsum("ns,ns->s", flat[0].conj(), flat[1]).real)


def _decomposed(B: NDArray[Any], c: float, mu: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
    """M = c - G + W W^H for G = B^H B, about its inverse, and W; None if M >= mu is not proven."""
    gram = B.conj().T @ B
    order = len(gram)
    below = c * (1 - _NEAR)
    W = np.zeros((order, 0), dtype=gram.dtype)
    if not _positive(below * np.eye(order) - gram):
        values, vectors = scipy.linalg.eigh(gram, subset_by_value=(below, np.inf), driver="evr", check_finite=False)
        W = vectors * np.sqrt(values)
    shifted = c * np.eye(order) - gram + W @ W.conj().T
    shifted = (shifted + shifted.conj().T) / 2
    if not _positive(shifted - mu * np.eye(order)):
        return None
    return shifted, scipy.linalg.inv(shifted, check_finite=False), W


def _positive(matrix: NDArray[Any]) -> bool:
    """Whether it has a Cholesky decomposition."""
    try:
        factor = scipy.linalg.cholesky(matrix, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return False
    return bool(np.all(factor.diagonal().real > 0))
