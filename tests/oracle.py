"""The definitions, by nested loops. Nothing here imports convmat, and padding is done by walking, not by arithmetic."""

import itertools
import math

import numpy as np

COPYING = ("zeros", "reflect", "replicate", "circular", "symmetric")
"""Padding modes whose every position is one sample, or a zero."""

MODES = (*COPYING, "antireflect")


def source(i, n, mode):
    """The sample of an input of size n that position i reads (0 is the first sample), or None for a zero."""
    while not 0 <= i < n:
        if mode == "zeros":
            return None
        if mode == "replicate":
            i += 1 if i < 0 else -1
        elif mode == "circular":
            i += n if i < 0 else -n
        elif mode == "reflect":  # the border sample is the mirror; one sample is both mirrors, and there is no other
            if n == 1:
                return 0
            i = -i if i < 0 else (n - 1) - (i - (n - 1))
        elif mode == "symmetric":  # the mirror is outside of the border sample
            i = -i - 1 if i < 0 else (n - 1) - (i - n)
        else:
            raise KeyError(mode)
    return i


def sources(i, n, mode):
    """The samples that position i reads, and how often each is counted: {} for a zero."""
    if mode != "antireflect":
        at = source(i, n, mode)
        return {} if at is None else {at: 1}
    if 0 <= i < n:
        return {i: 1}
    if n == 1:
        return {0: 1}
    end = 0 if i < 0 else n - 1  # a point reflection about the sample at the end: twice that, less the other side
    found = {end: 2}
    for at, times in sources(end + (end - i), n, mode).items():
        found[at] = found.get(at, 0) - times
    return {at: times for at, times in found.items() if times}


def count(first, last, step):
    """How many windows begin at first, first + step, ... and not after last."""
    windows = 0
    while first <= last:
        windows += 1
        first += step
    return windows


def output_size(n, k, s, d, lo, hi):
    """The number of windows of k taps, d apart, that fit into lo + n + hi samples."""
    reach = d * (k - 1)
    return count(0, lo + n + hi - 1 - reach, s)


def with_channels(weight, ndim):
    """A weight with its two channel axes."""
    return weight if weight.ndim == ndim + 2 else weight[None, None]


def _flipped(weight, ndim, flip):
    kernel = with_channels(np.asarray(weight), ndim)
    if not flip:
        return kernel
    mirrored = np.empty_like(kernel)
    for k in np.ndindex(*kernel.shape[2:]):
        mirrored[(..., *k)] = kernel[(..., *(size - 1 - i for size, i in zip(kernel.shape[2:], k, strict=True)))]
    return mirrored


def of_each_axis(padding_mode, ndim):
    """The padding modes, of one word for all axes or one for each."""
    return (padding_mode,) * ndim if isinstance(padding_mode, str) else padding_mode


def dense(weight, size, *, flip=False, **layer):
    """The matrix of a convolution: one row per output, one addition per tap. `padding` is in (lo, hi) pairs."""
    kernel = _flipped(weight, len(size), flip)
    return _dense(lambda m: kernel, size, **layer)


def dense_local(weight, size, *, flip=False, **layer):
    """The matrix of a convolution with a kernel for each output."""
    return _dense(lambda m: _flipped(weight[(..., *m)], len(size), flip), size, **layer)


def _dense(kernel_of, size, *, stride, padding, dilation, groups=1, padding_mode="zeros"):
    """The matrix, of the kernel of each output."""
    ndim = len(size)
    kernel = kernel_of((0,) * ndim)
    outs, per_group, *taps = kernel.shape
    modes = of_each_axis(padding_mode, ndim)
    outputs = [output_size(*a, *p) for *a, p in zip(size, taps, stride, dilation, padding, strict=True)]
    matrix = np.zeros((outs, *outputs, per_group * groups, *size), dtype=np.result_type(kernel, np.int8))
    for m in itertools.product(*map(range, outputs)):
        kernel = kernel_of(m)
        for k in itertools.product(*map(range, taps)):
            reads = [
                sources(stride[a] * m[a] + dilation[a] * k[a] - padding[a][0], size[a], modes[a]) for a in range(ndim)
            ]
            for at in itertools.product(*reads):
                times = math.prod(read[i] for read, i in zip(reads, at, strict=True))
                for o in range(outs):
                    first = (o // (outs // groups)) * per_group
                    for c in range(per_group):
                        matrix[(o, *m, first + c, *at)] += times * kernel[(o, c, *k)]
    return matrix.reshape(outs * math.prod(outputs), per_group * groups * math.prod(size))


def pattern(weight_shape, size, **layer):
    """Which entries of the matrix are stored: those that some tap reads, whatever its weight."""
    generic = np.random.default_rng(0).uniform(1, 2, weight_shape)  # no sum of these and of their multiples vanishes
    return dense(generic, size, **layer) != 0


def dense_transpose(weight, size, *, stride, padding, dilation, extra, groups=1, padding_mode="zeros", flip=False):
    """The matrix of a transposed convolution, by what it does: every sample of its input is stamped with the kernel
    onto a long zero array, then what lies over the border is dropped or folded back. `extra` is the output padding.
    """
    ndim = len(size)
    kernel = _flipped(weight, ndim, flip)
    ins, per_group, *taps = kernel.shape
    modes = of_each_axis(padding_mode, ndim)
    outputs = [
        (size[a] - 1) * stride[a] + dilation[a] * (taps[a] - 1) + 1 - sum(padding[a]) + extra[a] for a in range(ndim)
    ]
    matrix = np.zeros((per_group * groups, *outputs, ins, *size), dtype=np.result_type(kernel, np.int8))
    for c in range(ins):
        group = c // (ins // groups)
        for m in itertools.product(*map(range, size)):
            for k in itertools.product(*map(range, taps)):
                stamp = [m[a] * stride[a] + k[a] * dilation[a] - padding[a][0] for a in range(ndim)]
                reads = [sources(i, n, mode) for i, n, mode in zip(stamp, outputs, modes, strict=True)]
                for at in itertools.product(*reads):
                    times = math.prod(read[i] for read, i in zip(reads, at, strict=True))
                    for o in range(per_group):
                        matrix[(group * per_group + o, *at, c, *m)] += times * kernel[(c, o, *k)]
    return matrix.reshape(per_group * groups * math.prod(outputs), ins * math.prod(size))


def weight_matrix(image, weight_shape, size, *, transposed=False, **layer):
    """The matrix of W -> A(W) x, or of W -> A(W)^T x, one unit weight after the other."""
    columns = []
    for j in range(math.prod(weight_shape)):
        unit = np.zeros(math.prod(weight_shape), dtype=np.int64)
        unit[j] = 1
        matrix = dense(unit.reshape(weight_shape), size, **layer)
        columns.append((matrix.T if transposed else matrix) @ np.ravel(image))
    return np.stack(columns, axis=1)
