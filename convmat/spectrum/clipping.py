"""The projection of a periodic layer onto those of a given norm and support."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from convmat.geometry import Geometry, IntOrTuple, as_weight, conv_geometry
from convmat.products.symbol import Symbol, pieces, symbol, tap_places
from convmat.products.threads import Pool, blas_on_one_thread, workers
from convmat.spectrum.scaling import as_dtype, as_float, near_one, times_power

_FAR = 26
"""A weight that is more than 2^26 times the limit is projected as if it were no more: only its direction counts, and
what is closer to it would be lost in its rounding errors."""


@blas_on_one_thread()
def clip_singular_values(
    weight: ArrayLike,
    input_size: IntOrTuple,
    max_value: float,
    *,
    stride: IntOrTuple = 1,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    rtol: float = 1e-3,
    maxiter: int = 200,
) -> NDArray[Any]:
    """The nearest weight whose periodic convolution has no singular value above a limit.

    Parameters
    ----------
    weight : array_like, shape (C_out, C_in / groups, K_1, ..., K_D) or (K_1, ..., K_D)
    input_size : int or tuple of int
        (N_1, ..., N_D) of the layer, which has circular padding and N / s outputs; where it pads does not matter.
    max_value : float
        The largest singular value allowed.
    stride, dilation, groups
        Those of the layer.
    rtol : float
        The iteration ends when the norm exceeds the limit by this at most; a last scaling takes off the rest.
    maxiter : int

    Returns
    -------
    ndarray, shape and dtype of the weight
        With the support of the weight, and norm at most `max_value`, to rounding. If `maxiter` is reached, both hold
        too, and the weight is not the nearest.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value: the kernel must not be larger than the input, the stride must divide
        it, the weight must be finite.

    Notes
    -----
    Clipping the singular values of each block of the symbol is the orthogonal projection onto the operators of norm at
    most `max_value`, but its kernel fills the torus; cutting it back to the taps is the projection onto the support,
    and raises the norm again. Sedghi et al. [1]_ do each once. Here they alternate, with Dykstra's correction [2]_,
    which makes the limit the nearest point of both sets, in the Frobenius norm.

    References
    ----------
    .. [1] H. Sedghi, V. Gupta, P. M. Long, "The singular values of convolutional layers", ICLR 2019, section 3.
    .. [2] J. P. Boyle, R. L. Dykstra, "A method for finding projections onto the intersection of convex sets in Hilbert
       spaces", 1986.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d
    >>> from convmat import clip_singular_values
    >>> from convmat import singular_values
    >>> W = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    >>> V = clip_singular_values(W, (12, 12), 2.0)
    >>> A = Conv2d(V, (12, 12), padding=1, padding_mode="circular")
    >>> bool(1.9 < singular_values(A)[0] < 2 + 1e-12)
    True
    """
    array = as_weight(weight)
    limit = _positive("max_value", max_value)
    tolerance = _positive("rtol", rtol)
    if isinstance(maxiter, bool) or not isinstance(maxiter, int | np.integer):
        raise TypeError(f"maxiter={maxiter!r} must be an integer")
    if not np.isfinite(array).all():
        raise ValueError("weight has NaN or infinite entries: it has no singular values to clip")
    geometry = _periodic_geometry(array, input_size, stride, dilation, groups)
    kernel = geometry.kernel(array)
    grouped, powers = near_one(kernel.reshape(geometry.groups, -1))
    powers = np.minimum(powers, math.frexp(limit)[1] + _FAR)  # (G, 1)
    limits = times_power(np.full(powers.shape, limit), -powers)
    torus = _Torus.of(geometry, symbol(geometry, grouped.reshape(kernel.shape)))
    taps, correction = torus.spread(torus.polynomial.taps), 0.0
    norms = np.zeros(powers.shape)
    for step in range(max(1, int(maxiter))):
        clipped, norms = torus.clip(taps + correction, limits)
        if step == 0 and np.all(norms <= limits):
            return np.array(array)
        correction = taps + correction - clipped
        taps = torus.restrict(clipped)
        _, norms = torus.clip(taps, np.full(powers.shape, math.inf))
        if np.all(norms <= limits * (1 + tolerance)):
            break
    grouped = torus.kernel(taps).reshape(grouped.shape) * (limits / np.maximum(norms, limits))
    return as_dtype(times_power(grouped, powers), array.dtype).reshape(array.shape)


@dataclass(frozen=True)
class _Torus:
    """The taps of a layer as an array over the whole torus, (M_1..M_D, G, rows, cols), and back."""

    geometry: Geometry
    polynomial: Symbol
    support: NDArray[np.bool_]  # (M_1..M_D, 1, 1, cols)

    @classmethod
    def of(cls, geometry: Geometry, polynomial: Symbol) -> _Torus:
        ones = symbol(geometry, np.ones(geometry.kernel(np.empty(geometry.weight_shape)).shape))
        torus = cls(geometry, polynomial, np.zeros(1, dtype=bool))
        return cls(geometry, polynomial, torus.spread(ones.taps) != 0)

    @property
    def _places(self) -> tuple[NDArray[np.int64], ...]:
        sizes = self.geometry.output_size
        return np.ix_(*(q % n for q, n in zip(self.polynomial.shifts, sizes, strict=True)))

    def spread(self, taps: NDArray[Any]) -> NDArray[Any]:
        """The taps, with zeros where there are none."""
        whole = np.zeros((*self.geometry.output_size, *self.polynomial.block), dtype=taps.dtype)
        whole[self._places] = taps
        return whole

    def restrict(self, whole: NDArray[Any]) -> NDArray[Any]:
        """The nearest array with taps in the support alone."""
        return np.where(self.support, whole, 0)

    def kernel(self, whole: NDArray[Any]) -> NDArray[Any]:
        """The kernel of a layer, (C_out, C_in / G, K_1..K_D): the inverse of `symbol`."""
        geometry, dims = self.geometry, self.geometry.ndim
        groups, rows, _ = self.polynomial.block
        phases = self.polynomial.phases
        split = whole.reshape(*whole.shape[: dims + 2], -1, *(len(r) for r in phases))
        at, lines = [], []
        for axis, possible in zip(geometry.axes, phases, strict=True):
            q, r = tap_places(axis)
            lines.append(q[:, 0] % axis.output)
            at.append(np.searchsorted(possible, r[:, 0]))
        place: tuple[Any, ...] = (*np.ix_(*lines), *[slice(None)] * 3, *np.ix_(*at))
        grouped: NDArray[Any] = np.moveaxis(split[place], range(dims, dims + 3), range(3))
        return grouped.reshape(groups * rows, -1, *geometry.kernel_size)

    def clip(self, whole: NDArray[Any], limits: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """The nearest array whose groups have norms of at most the limits, and the norms of this one. (G, 1) each."""
        axes, sizes = range(self.geometry.ndim), self.geometry.output_size
        half = whole.dtype.kind != "c"
        # the sign of the exponent is that of the conjugate symbol, or of its mirror image: the norms are the same
        blocks = np.asarray((scipy.fft.rfftn if half else scipy.fft.fftn)(whole, axes=axes))
        norms = np.zeros((len(blocks), *limits.shape))

        def piece(_: object, start: int, stop: int) -> None:
            part = blocks[start:stop]
            u, sigma, vh = np.linalg.svd(part, full_matrices=False)
            norms[start:stop, :, 0] = sigma[..., 0].max(axis=tuple(range(1, sigma.ndim - 2)))
            excess = np.maximum(sigma - limits, 0)
            high = excess[..., 0] > 0
            if high.any():
                part[high] -= (u[high] * excess[high][:, None, :]) @ vh[high]

        ranges = pieces(len(blocks), blocks[0].size, workers())
        Pool().run(piece, ranges, min(workers(), len(ranges)))
        back = (scipy.fft.irfftn if half else scipy.fft.ifftn)(blocks, s=sizes, axes=axes)
        return np.asarray(back), norms.max(axis=0)


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool | str) or not np.isrealobj(value) or not as_float(value) > 0:
        raise ValueError(f"{name}={value!r} must be a positive number")
    return as_float(value)


def _periodic_geometry(
    weight: NDArray[Any], input_size: IntOrTuple, stride: IntOrTuple, dilation: IntOrTuple, groups: int
) -> Geometry:
    """The layer with circular padding behind the input, so that there are N / s outputs.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together.
    """
    plain = conv_geometry(
        weight.shape, input_size, stride=stride, dilation=dilation, groups=groups, padding="full"
    )  # checks everything but the sizes
    pads = []
    for axis in plain.axes:
        if axis.size % axis.stride:
            raise ValueError(f"stride={stride!r}: stride {axis.stride} must divide the input size {axis.size}")
        if axis.span > axis.size:
            raise ValueError(
                f"weight has {axis.taps} taps on an axis, which span {axis.span} samples: it must not be larger than "
                f"the input, {axis.size}"
            )
        pads.append((0, axis.span - axis.stride))
    return conv_geometry(
        weight.shape,
        input_size,
        stride=stride,
        dilation=dilation,
        groups=groups,
        padding=tuple(pads),
        padding_mode="circular",
    )
