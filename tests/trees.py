"""Random expressions of operators, each with its dense matrix, which knows nothing of the package."""

import math

import numpy as np
import scipy.linalg

import convmat
from tests import oracle
from tests.strategies import CONV, CONV_TRANSPOSE

DTYPES = (np.float64, np.float32, np.complex128, np.complex64)


class Trees:
    """Random expressions; `single` tells whether one of them has seen single precision."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.single = False

    def pick(self, *options):
        return options[self.rng.integers(len(options))]

    def integer(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def numbers(self, shape, dtype=None):
        dtype = np.dtype(dtype or self.pick(*DTYPES))
        values = self.rng.standard_normal(shape)
        if dtype.kind == "c":
            values = values + 1j * self.rng.standard_normal(shape)
        self.single |= bool(np.finfo(dtype).eps > 1e-10)
        return np.asarray(values).astype(dtype)

    def factor(self):
        """A number, and what it is to be multiplied by in a dense matrix."""
        number = self.pick(
            2, -1, 0.5, -1.5, 1 + 2j, np.float32(0.75), np.float64(-3.0), np.complex64(1j), np.array(0.25)
        )
        return number, complex(number) if np.iscomplexobj(number) else float(number)

    def shape(self):
        return self.pick((5,), (4, 3), (2, 5), (2, 4, 3), (1, 3, 4), (3, 3), (2, 3, 2, 2))

    def tree(self, depth, shape):
        """(operator, matrix) on images of that shape."""
        if depth == 0 or self.rng.random() < 0.15:
            return self.leaf(shape)
        kind = self.pick(
            "chain", "chain", "sum", "sum", "scaled", "vstack", "hstack", "diag", "power", "normal", "flip"
        )
        return getattr(self, f"_{kind}")(depth - 1, shape)

    # nodes

    def _chain(self, depth, shape):
        B, b = self.tree(depth, shape)
        A, a = self.tree(depth, self.reshaped(B.output_shape))
        return A @ B, a @ b

    def _sum(self, depth, shape):
        A, a = self.tree(depth, shape)
        B, b = self.matching(depth, A, a, shape)
        return (A + B, a + b) if self.rng.random() < 0.6 else (A - B, a - b)

    def _scaled(self, depth, shape):
        A, a = self.tree(depth, shape)
        c, number = self.factor()
        return self.pick(
            lambda: (c * A, number * a), lambda: (A * c, number * a), lambda: (A / c, a / number), lambda: (-A, -a)
        )()

    def _vstack(self, depth, shape):
        parts = [self.tree(depth, self.reshaped(shape)) for _ in range(self.integer(1, 3))]
        return convmat.vstack([A for A, _ in parts]), np.vstack([a for _, a in parts])

    def _hstack(self, depth, shape):
        """The shape that comes in is cut along its first axis, if it can be."""
        if shape[0] < 2:
            return self.leaf(shape)
        first = self.integer(1, shape[0] - 1)
        A, a = self.tree(depth, (first, *shape[1:]))
        rest = (shape[0] - first, *shape[1:])
        B, b = self.filler(math.prod(rest), len(a), rest, A.output_shape)
        return convmat.hstack([A, B]), np.hstack([a, b])

    def _diag(self, depth, shape):
        if shape[0] < 2:
            return self.leaf(shape)
        first = self.integer(1, shape[0] - 1)
        A, a = self.tree(depth, (first, *shape[1:]))
        B, b = self.tree(depth, (shape[0] - first, *shape[1:]))
        return convmat.block_diag([A, B]), scipy.linalg.block_diag(a, b)

    def _power(self, depth, shape):
        A, a = self.tree(depth, shape)
        if len(a) != a.shape[1]:
            return A, a
        n = self.integer(0, 2)
        return A**n, np.linalg.matrix_power(a, n)

    def _normal(self, depth, shape):
        A, a = self.tree(depth, shape)
        return (A.H @ A, a.conj().T @ a) if self.rng.random() < 0.6 else (A.T @ A, a.T @ a)

    def _flip(self, depth, shape):
        """The transpose or adjoint of an operator, on images of the shape that it then has."""
        A, a = self.tree(depth, shape)
        B, b = (A.T, a.T) if self.rng.random() < 0.5 else (A.H, a.conj().T)
        filler, f = self.filler(math.prod(shape), b.shape[1], shape, B.input_shape)
        return B @ filler, b @ f

    def matching(self, depth, A, a, shape):
        """An operator of the same flat shape: a relative of A, another tree if it fits, or any matrix."""
        kind = self.integer(0, 3)
        if kind == 0:
            B, b = self.tree(depth, shape)
            if b.shape == a.shape:
                return B, b
        if kind == 1 and isinstance(A, convmat.operators.Conv):
            g = A.geometry
            weight = self.numbers(A.weight.shape)
            options = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}
            B = CONV[g.ndim](weight, g.input_size, padding_mode=g.padding_mode, **options)
            return B, oracle.dense(weight, g.input_size, padding_mode=g.padding_mode, **options)
        if kind == 2:
            D = self.numbers((A.output_shape[0], *(1,) * (len(A.output_shape) - 1)))
            return convmat.Diagonal(D, A.output_shape) @ A, np.broadcast_to(D, A.output_shape).ravel()[:, None] * a
        if kind == 3 and len(a) == a.shape[1]:
            return convmat.identity(A.input_shape), np.eye(len(a))
        return self.filler(a.shape[1], len(a), A.input_shape, A.output_shape)

    def filler(self, cols, rows, input_shape, output_shape):
        """A dense matrix of any size, as an operator between images."""
        matrix = self.numbers((rows, cols)) / math.sqrt(cols)
        flat = convmat.Separable(cols, [matrix])
        ins = convmat.Rearrange(input_shape, cols, dtype=matrix.dtype)
        return convmat.Rearrange(rows, output_shape, dtype=matrix.dtype) @ flat @ ins, matrix

    def reshaped(self, shape):
        """The same number of entries in another shape, now and then."""
        if self.rng.random() < 0.8:
            return shape
        size = math.prod(shape)
        first = self.pick(*(n for n in range(1, size + 1) if size % n == 0))
        return self.pick((size,), (first, size // first))

    # leaves

    def leaf(self, shape):
        kinds = ["diagonal", "diagonal", "rearrange", "separable", "index", "index", "convolution", "weights", "local"]
        return getattr(self, f"_{self.pick(*kinds, 'convolution', 'convolution')}")(shape)

    def _diagonal(self, shape):
        if self.rng.random() < 0.3:
            return convmat.identity(shape, dtype=self.pick(*DTYPES)), np.eye(math.prod(shape))
        values = self.numbers(
            tuple(self.pick(1, n) for n in shape) if self.rng.random() < 0.5 else (shape[0], *(1,) * (len(shape) - 1))
        )
        return convmat.Diagonal(values, shape), np.diag(np.broadcast_to(values, shape).ravel())

    def _rearrange(self, shape):
        order = tuple(int(a) for a in self.rng.permutation(len(shape)))
        matrix = (
            np.eye(math.prod(shape)).reshape(*shape, -1).transpose(*order, len(shape)).reshape(math.prod(shape), -1)
        )
        return convmat.Rearrange(shape, order=order, dtype=self.pick(*DTYPES)), matrix

    def _separable(self, shape):
        matrices = [self.numbers((self.integer(1, 4), n)) if self.rng.random() < 0.6 else None for n in shape]
        full = np.ones((1, 1))
        for m, n in zip(matrices, shape, strict=True):
            full = np.kron(full, np.eye(n) if m is None else m)
        return convmat.Separable(shape, matrices), full

    def _axes(self, shape):
        """Spatial axes and channels of images of that shape."""
        channels = len(shape) > 1 and (len(shape) > 3 or self.rng.random() < 0.6)
        return (shape[0], shape[1:]) if channels else (None, shape)

    def _index(self, shape):
        channels, size = self._axes(shape)
        options = {"channels": channels, "dtype": self.pick(*DTYPES)}
        ones = np.ones((1,) * len(size) if channels is None else (channels, 1, *(1,) * len(size)))
        layer = {"stride": (1,) * len(size), "dilation": (1,) * len(size), "groups": channels or 1}
        none = ((0, 0),) * len(size)
        if self.rng.random() < 0.5:
            mode = self.pick(*oracle.MODES)
            padding = tuple((self.integer(-1 if n > 2 else 0, 2), self.integer(-1 if n > 3 else 0, 2)) for n in size)
            matrix = oracle.dense(ones, size, **layer | {"padding": padding}, padding_mode=mode)
            A = convmat.Pad(size, padding, padding_mode=mode, **options)
            if self.rng.random() < 0.5:
                return A, matrix
            inner = tuple(max(1, n - 2) for n in size)
            padding = tuple((1, n - i - 1) for n, i in zip(size, inner, strict=True))
            matrix = oracle.dense(ones, inner, **layer | {"padding": padding}, padding_mode=mode)
            return convmat.Crop(size, padding, padding_mode=mode, **options), matrix.T
        stride = tuple(self.integer(1, 3) for _ in size)
        if self.rng.random() < 0.5:
            matrix = oracle.dense(ones, size, **layer | {"padding": none, "stride": stride})
            return convmat.Downsample(size, stride, **options), matrix
        large = tuple((n - 1) * s + 1 for n, s in zip(size, stride, strict=True))
        matrix = oracle.dense(ones, large, **layer | {"padding": none, "stride": stride})
        return convmat.Upsample(size, stride, **options), matrix.T

    def _layer(self, ndim):
        """Kernel size and options of a convolution; padding that leaves an output wherever one sample is."""
        kernel = tuple(self.integer(1, 3) for _ in range(ndim))
        dilation = tuple(self.integer(1, 2) for _ in range(ndim))
        spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple((a := self.integer(0, span), span - a) for span in spans)
        stride = tuple(self.integer(1, 2) for _ in range(ndim))
        return kernel, {"stride": stride, "padding": padding, "dilation": dilation}

    def _convolution(self, shape):
        channels, size = self._axes(shape)
        kernel, options = self._layer(len(size))
        options |= {"padding_mode": self.pick(*oracle.MODES), "flip": bool(self.integer(0, 1))}
        groups = 1 if channels is None else self.pick(*(g for g in range(1, channels + 1) if channels % g == 0))
        per_group = None if channels is None else self.integer(1, 2)
        options["groups"] = groups
        if self.rng.random() < 0.6:
            weight = self.numbers(kernel if channels is None else (groups * per_group, channels // groups, *kernel))
            return CONV[len(size)](weight, size, **options), oracle.dense(weight, size, **options)
        weight = self.numbers(kernel if channels is None else (channels, per_group, *kernel))
        matrix = oracle.dense_transpose(weight, size, extra=(0,) * len(size), **options)
        return CONV_TRANSPOSE[len(size)](weight, size, **options), matrix

    def _local(self, shape):
        """A kernel of its own for every output: the rows of as many convolutions."""
        channels, size = self._axes(shape)
        kernel, options = self._layer(len(size))
        options["padding_mode"] = self.pick(*oracle.MODES)
        kernel = kernel if channels is None else (self.integer(1, 2), channels, *kernel)
        outputs = tuple(
            oracle.output_size(*a, *p)
            for *a, p in zip(
                size, kernel[-len(size) :], options["stride"], options["dilation"], options["padding"], strict=True
            )
        )
        weight = self.numbers((*kernel, *outputs))
        local = {1: convmat.LocalConv1d, 2: convmat.LocalConv2d, 3: convmat.LocalConv3d}[len(size)]
        return local(weight, size, **options), oracle.dense_local(weight, size, **options)

    def _weights(self, shape):
        """W -> A x, where the shape may be that of a weight."""
        if len(shape) not in (3, 4):
            return self._convolution(shape)
        size = tuple(self.integer(1, 3) for _ in shape[2:])
        _, options = self._layer(len(size))
        spans = [d * (k - 1) for k, d in zip(shape[2:], options["dilation"], strict=True)]
        options["padding"] = tuple((span, 0) for span in spans)
        options |= {"padding_mode": self.pick(*oracle.MODES)}
        A = CONV[len(size)](np.zeros(shape, self.pick(np.float64, np.complex128)), size, **options)
        image = self.numbers(A.input_shape, np.float64)
        return A.weight_operator(image), oracle.weight_matrix(image, shape, size, **options)
