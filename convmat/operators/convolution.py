"""The convolution and its transpose as scipy `LinearOperator`s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from numpy.typing import ArrayLike, NDArray

from convmat import matrix
from convmat.geometry import Geometry, IntOrTuple, Modes, Padding, as_weight, conv_geometry, conv_transpose_geometry
from convmat.operators.base import ImageOperator
from convmat.operators.factors import Crop, Downsample, Pad, Upsample
from convmat.operators.weights import TransposeWeightOperator, WeightOperator
from convmat.products import Products


class Convolution(ImageOperator):
    """What a convolution and a transposed convolution share: the geometry, the weight, and each other.

    The two are views of one `Products`; ``A.T.T is A`` for as long as either is alive.
    """

    _partners: ClassVar[dict[int, type[Convolution]]] = {}
    _products: Products

    @classmethod
    def _of(cls, products: Products) -> Self:
        operator = cls.__new__(cls)
        operator._bind(products)
        return operator

    def _bind(self, products: Products) -> None:
        self._products = products
        super().__init__(products.weight.dtype, *self._shapes(products.geometry))

    def _shapes(self, geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._products)

    @property
    def geometry(self) -> Geometry:
        """The geometry of the convolution; a transposed convolution has that of the convolution it transposes."""
        return self._products.geometry

    @property
    def weight(self) -> NDArray[Any]:
        """The weight as it was given, read-only."""
        return self._products.weight

    @property
    def nnz(self) -> int:
        """Number of stored entries of `tosparse`, known without building it."""
        return self.geometry.nnz

    @property
    def method(self) -> str:
        """The method that computes A x; with method="measure" the expected one, until a product has been made."""
        raise NotImplementedError

    def explain(self) -> str:
        """Say which methods compute the products and why: expected costs and work memory, as a table.

        Without numba the row of "direct" has the cost that is expected with the extra `fast`. With method="measure" the
        costs are still those expected; the methods are the measured ones where products have been made.

        Returns
        -------
        str
            "A x" and "A^T y" are those of the convolution, also in the table of a transposed convolution.
        """
        return self._products.explain()

    def _normal(self, x: NDArray[Any]) -> NDArray[Any]:
        fused = self._products.gram(isinstance(self, Conv))
        if fused is None:
            return super()._normal(x)
        return fused(_with_channels(x, self.geometry)).reshape(x.shape)

    def part(self, geometry: Geometry, chosen: tuple[slice, slice]) -> Convolution:
        """A part of this operator: of this geometry, with a part of the weight along the axes of its channels.

        Parts that are alike share their products.

        Returns
        -------
        Convolution
        """
        products = self._products.part(geometry, chosen, isinstance(self, ConvTranspose))
        return (Conv if isinstance(self, ConvTranspose) else ConvTranspose)._partners[geometry.ndim]._of(products)

    def _flipped(self) -> Convolution:
        return self._partners[self.geometry.ndim]._of(self._products)

    def _adjoint(self) -> ImageOperator:
        if self.dtype.kind != "c":
            return self._transpose()
        conjugated = Products(self.geometry, as_weight(self.weight.conj()), self._products.asked)
        return self._partners[self.geometry.ndim]._of(conjugated)


class Conv(Convolution):
    """A convolution; `Conv1d`, `Conv2d` and `Conv3d` fix the number of spatial axes."""

    _ndim: ClassVar[int | None] = None
    _partners: ClassVar[dict[int, type[Convolution]]] = {}

    def __init__(
        self,
        weight: ArrayLike,
        input_size: IntOrTuple,
        *,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        padding_mode: Modes = "zeros",
        flip: bool = False,
        method: str = "auto",
    ) -> None:
        kernel = as_weight(weight)
        geometry = conv_geometry(
            kernel.shape,
            input_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
            flip=flip,
            ndim=self._ndim,
        )
        self._bind(Products(geometry, kernel, method))

    def _shapes(self, geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return geometry.input_shape, geometry.output_shape

    @property
    def method(self) -> str:
        """The method that computes A x; with method="measure" the expected one, until a product has been made."""
        return self._products.methods[0]

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._products.forward(_with_channels(x, self.geometry)).reshape(len(x), *self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._products.transpose(_with_channels(y, self.geometry)).reshape(len(y), *self.input_shape)

    def tosparse(self, format: str = "csr") -> Any:
        return matrix.sparse(self.geometry, self.weight, format)

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        return self.geometry.cells(row_edges, column_edges)

    def factors(self) -> tuple[Downsample, Correlate, Pad]:
        """The factors (Downsample, Correlate, Pad), whose product is this operator.

        Pad extends the input by the padding mode, Correlate is the stride-1 "valid" correlation, Downsample keeps every
        s-th sample; so A^T = Pad^T Correlate^T Upsample.

        Returns
        -------
        tuple of (Downsample, Correlate, Pad)

        Examples
        --------
        >>> import numpy as np
        >>> from convmat import Conv1d
        >>> A = Conv1d([1.0, 2.0, 3.0], 8, stride=2, padding=1, padding_mode="reflect")
        >>> D, C, P = A.factors()
        >>> np.array_equal((D.tosparse() @ C.tosparse() @ P.tosparse()).toarray(), A.toarray())
        True
        """
        geometry, dtype = self.geometry, self.dtype
        ins, outs = (geometry.in_channels, geometry.out_channels) if geometry.channels else (None, None)
        padded = tuple(axis.padded for axis in geometry.axes)
        correlated = tuple(axis.padded - axis.span + 1 for axis in geometry.axes)
        pad = Pad(
            geometry.input_size, geometry.padding, padding_mode=geometry.padding_mode, channels=ins, dtype=dtype
        )  # fmt: skip
        correlate = Correlate(
            self.weight, padded, dilation=geometry.dilation, groups=geometry.groups, flip=geometry.flip
        )  # fmt: skip
        return Downsample(correlated, geometry.stride, channels=outs, dtype=dtype), correlate, pad

    def weight_operator(self, image: ArrayLike) -> WeightOperator:
        """The linear map from the weight to the output, for a fixed image.

        Its matrix is im2col of the image, its adjoint is the weight gradient.

        Parameters
        ----------
        image : array_like, shape input_shape

        Returns
        -------
        WeightOperator, shape (C_out M_1 ... M_D, weight.size)

        Raises
        ------
        TypeError, ValueError
            If the image does not hold numbers, or has a wrong shape.

        Examples
        --------
        >>> import numpy as np
        >>> from convmat import Conv1d
        >>> x = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
        >>> A = Conv1d([1.0, -1.0], 5)
        >>> J = A.weight_operator(x)
        >>> J.toarray()
        array([[3., 1.],
               [1., 4.],
               [4., 1.],
               [1., 5.]])
        >>> np.array_equal(J @ A.weight.ravel(), A @ x)
        True
        """
        return WeightOperator(self.geometry, image, self.dtype)


class ConvTranspose(Convolution):
    """A transposed convolution; `ConvTranspose1d`, `2d` and `3d` fix the number of spatial axes."""

    _ndim: ClassVar[int | None] = None
    _partners: ClassVar[dict[int, type[Convolution]]] = {}

    def __init__(
        self,
        weight: ArrayLike,
        input_size: IntOrTuple,
        *,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        output_padding: IntOrTuple = 0,
        output_size: IntOrTuple | None = None,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        padding_mode: Modes = "zeros",
        flip: bool = False,
        method: str = "auto",
    ) -> None:
        kernel = as_weight(weight)
        geometry = conv_transpose_geometry(
            kernel.shape,
            input_size,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            output_size=output_size,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
            flip=flip,
            ndim=self._ndim,
        )
        self._bind(Products(geometry, kernel, method))

    def _shapes(self, geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return geometry.output_shape, geometry.input_shape

    @property
    def method(self) -> str:
        """The method that computes A x; with method="measure" the expected one, until a product has been made."""
        return self._products.methods[1]

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._products.transpose(_with_channels(x, self.geometry)).reshape(len(x), *self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._products.forward(_with_channels(y, self.geometry)).reshape(len(y), *self.input_shape)

    def tosparse(self, format: str = "csr") -> Any:
        return matrix.sparse_transpose(self.geometry, self.weight, format)

    def _cells(self, row_edges: Sequence[int], column_edges: Sequence[int]) -> NDArray[Any] | None:
        counts = self.geometry.cells(column_edges, row_edges)
        return None if counts is None else counts.T

    def factors(self) -> tuple[Crop, Convolution, Upsample]:
        """The factors (Pad^T, Correlate^T, Upsample), whose product is this operator.

        Upsample puts s - 1 zeros between the samples, Correlate^T is the full correlation with the flipped kernel,
        Pad^T crops (zeros) or folds the border back (the other modes).

        Returns
        -------
        tuple of (Crop, ConvTranspose, Upsample)
        """
        downsample, correlate, pad = self.T.factors()
        return pad.T, correlate.T, downsample.T

    def weight_operator(self, image: ArrayLike) -> TransposeWeightOperator:
        """The linear map from the weight to the output, for a fixed image; its adjoint is the weight gradient.

        Parameters
        ----------
        image : array_like, shape input_shape

        Returns
        -------
        TransposeWeightOperator, shape (C_out N_1 ... N_D, weight.size)

        Raises
        ------
        TypeError, ValueError
            If the image does not hold numbers, or has a wrong shape.
        """
        return TransposeWeightOperator(self.geometry, image, self.dtype)


class Conv1d(Conv):
    """One-dimensional convolution layer as a scipy `LinearOperator`: ``A @ x.ravel()`` or ``A.apply(x)``.

    Parameters
    ----------
    weight : array_like, shape (C_out, C_in / groups, K) or (K,)
        Without the channel axes, images have no channel axis either.
    input_size : int or tuple of int
        N.
    stride, padding, dilation, groups, padding_mode, flip, method
        As for `Conv2d`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.
    ImportError
        If method="direct" is asked for without numba.

    See Also
    --------
    Conv2d : the same in two dimensions, with every parameter explained.
    conv_matrix : the matrix alone.

    References
    ----------
    .. [1] ``torch.nn.Conv1d``, ``numpy.convolve`` (with flip=True)

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv1d
    >>> x, k = np.arange(6.0), np.array([1.0, 2.0, 3.0])
    >>> A = Conv1d(k, 6, padding="full", flip=True)
    >>> np.array_equal(A @ x, np.convolve(x, k))
    True
    """

    _ndim = 1


class Conv2d(Conv):
    r"""Two-dimensional convolution layer as a scipy `LinearOperator`: ``A @ x.ravel()`` or ``A.apply(x)``.

    Forward, :math:`y[o, m] = \sum_{c, k} W[o, c, k] \tilde x[g(o) C_{in}/G + c, s m + d k - p]`; transposed,
    :math:`x[c, n] = \sum y[o, m] W[o, c, k]` over all o, m, k that read x[c, n].

    Parameters
    ----------
    weight : array_like, shape (C_out, C_in / groups, K_1, K_2) or (K_1, K_2)
        Without the channel axes, images have no channel axis either. float32, float64, complex64 and complex128 are
        kept, integers and bools become float64.
    input_size : tuple of int
        The spatial size (N_1, N_2) of the input.
    stride, dilation : int or tuple of int
    padding : int, tuple of int, tuple of (lo, hi) pairs, or str
        A negative entry of a pair crops; the padding mode extends the whole input before any crop. Words: "valid",
        "same" (stride 1), "full", "same_upper", "same_lower" (output size ceil(N / s), as ONNX).
    groups : int
        Divides the channels into groups that do not mix.
    padding_mode : {"zeros", "reflect", "replicate", "circular", "symmetric", "antireflect"}, or one per axis
        All but the last copy samples into the border. "antireflect" is the point reflection about the edge sample,
        x[-i] = 2 x[0] - x[i], which continues the slope of the image.
    flip : bool
        Flip the kernel on every spatial axis: the true convolution, not the cross-correlation.
    method : {"auto", "measure", "pointwise", "matrix", "direct", "gemm", "fft", "separable"}
        How products are computed. "auto" takes the least expected cost, see `explain`; "measure" times the methods that
        promise well when a product is first made, and takes the fastest; "pointwise" takes the least expected cost of
        those that are accurate output by output, beside samples of any size. "direct" needs the extra `fast`, which
        "auto" uses if it is installed. See the Notes.

    Attributes
    ----------
    shape : (int, int)
        (C_out M_1 M_2, C_in N_1 N_2).
    dtype : numpy.dtype
    input_shape, output_shape : tuple of int
        Shapes of the images, with the channel axis if the weight has one.
    weight : ndarray
        Read-only.
    geometry : Geometry
        Prints as a few lines that say what the layer does.
    nnz : int
    method : str

    Methods
    -------
    apply(image)
    tosparse(format="csr")
    toarray()
    factors()
    weight_operator(image)
    explain()

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.
    ImportError
        If method="direct" is asked for without numba.

    See Also
    --------
    ConvTranspose2d : its transpose, ``Conv2d(...).T``.
    conv_matrix : the matrix alone.

    Notes
    -----
    Vectors are C-order ravels of images: entry ``(o M_1 + m_1) M_2 + m_2`` of the output is y[o, m_1, m_2]. The result
    of a product has the result type of weight and vector. Products run on as many threads as CONVMAT_NUM_THREADS says,
    by default as many as there are cores for this process, or as a container's quota allows; BLAS runs on one. Under a
    scheduler that fills the cores itself (dask, joblib, multiprocessing), set CONVMAT_NUM_THREADS=1 in its workers.

    *Methods*: "matrix" multiplies by the sparse matrix. "direct" sums over the taps, compiled by numba, which the extra
    `fast` installs (``pip install 'convmat[fast]'``). "gemm" gives windows to BLAS, "fft" transforms tiles, "separable"
    goes along one axis after the other, for kernels of low rank. numba is imported by the first product that needs it,
    which takes some tenths of a second; the very first product in each precision compiles for about four seconds, once
    on a machine. "measure" times the methods whose expected cost is at most 4 times the least, on the image of the
    first product, for each direction and dtype, and remembers the fastest for this geometry as long as the process
    lives. Another run may find another one to be the fastest, which rounds differently.

    *Accuracy*, with eps that of the dtype and K the number of taps times C_in / groups. "matrix", "direct" and "gemm"
    are accurate output by output: the error of y[o, m] is at most K eps times the sum of \|W\| \|x\| over the samples
    that it reads (3/2 of that for complex numbers). "separable" sees the same samples, and the sum of \|W\| is that of
    its separable terms, which may be larger. The error of "fft" is relative to the largest samples, not to each output:
    some eps log2(T) times the 2-norms of the kernels and of the tile of T samples (at most 400 x 400, or 2^15, or
    64^3), so that one sample of 1e8 is felt in all outputs of its tile, though no tap reads it. Where samples differ
    that much, ask for "pointwise". A result of "direct" does not depend on the number of threads, to the last bit.

    *NaN and infinity.* By "matrix", "direct" and "gemm" a NaN in the image reaches exactly the outputs that read it. An
    infinity makes the same outputs infinite or NaN, and which of the two may depend on the method: where a border reads
    a sample through several taps, the matrix has the sum of their weights as one entry, and (2 - 1) inf is not
    2 inf - inf. By "fft" and "separable" both spread to other outputs. A weight that is not finite is multiplied by the
    matrix, whatever method is asked for.

    References
    ----------
    .. [1] V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016.
    .. [2] ``torch.nn.Conv2d``

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse.linalg import lsqr
    >>> from convmat import Conv2d
    >>> rng = np.random.default_rng(0)
    >>> A = Conv2d(rng.standard_normal((8, 3, 3, 3)), (6, 6), stride=2, padding=1, padding_mode="reflect")
    >>> A.input_shape, A.output_shape, A.shape
    ((3, 6, 6), (8, 3, 3), (72, 108))
    >>> x = rng.standard_normal(A.input_shape)
    >>> np.allclose(A.apply(x).ravel(), A.tosparse() @ x.ravel())
    True

    The transpose is the transposed convolution, and inverting is what a solver does:

    >>> type(A.T).__name__, A.T.T is A
    ('ConvTranspose2d', True)
    >>> y = A @ x.ravel()
    >>> np.allclose(A @ lsqr(A, y, atol=1e-12, btol=1e-12)[0], y)
    True
    """

    _ndim = 2


class Conv3d(Conv):
    """Three-dimensional convolution layer as a scipy `LinearOperator`: ``A @ x.ravel()`` or ``A.apply(x)``.

    Parameters
    ----------
    weight : array_like, shape (C_out, C_in / groups, K_1, K_2, K_3) or (K_1, K_2, K_3)
        Without the channel axes, images have no channel axis either.
    input_size : tuple of int
        (N_1, N_2, N_3).
    stride, padding, dilation, groups, padding_mode, flip, method
        As for `Conv2d`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.
    ImportError
        If method="direct" is asked for without numba.

    See Also
    --------
    Conv2d : the same in two dimensions, with every parameter explained.

    References
    ----------
    .. [1] ``torch.nn.Conv3d``

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv3d
    >>> A = Conv3d(np.ones((2, 2, 2)), (4, 4, 4), stride=2)
    >>> bool(np.all(A.apply(np.ones((5, 4, 4, 4))) == 8)), A.apply(np.ones((5, 4, 4, 4))).shape
    (True, (5, 2, 2, 2))
    """

    _ndim = 3


class ConvTranspose1d(ConvTranspose):
    """One-dimensional transposed convolution layer as a scipy `LinearOperator`.

    Parameters
    ----------
    weight : array_like, shape (C_in, C_out / groups, K) or (K,)
        The weight of the convolution that is transposed.
    input_size : int or tuple of int
        M.
    stride, padding, output_padding, output_size, dilation, groups, padding_mode, flip, method
        As for `ConvTranspose2d`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.
    ImportError
        If method="direct" is asked for without numba.

    See Also
    --------
    ConvTranspose2d : the same in two dimensions, with every parameter explained.

    References
    ----------
    .. [1] ``torch.nn.ConvTranspose1d``

    Examples
    --------
    Zeros between the samples, then the kernel: the transpose of keeping every second sample.

    >>> from convmat import ConvTranspose1d
    >>> ConvTranspose1d([1.0, 2.0, 1.0], 3, stride=2) @ [1.0, 10.0, 100.0]
    array([  1.,   2.,  11.,  20., 110., 200., 100.])
    """

    _ndim = 1


class ConvTranspose2d(ConvTranspose):
    """Two-dimensional transposed convolution layer as a scipy `LinearOperator`: the transpose of a `Conv2d`.

    It puts s - 1 zeros between the samples, correlates with the flipped kernel, then transposes the padding.
    It is not a deconvolution: it does not invert the convolution.

    Parameters
    ----------
    weight : array_like, shape (C_in, C_out / groups, K_1, K_2) or (K_1, K_2)
        The same array as the weight of the convolution that is transposed, and PyTorch's layout.
    input_size : tuple of int
        (M_1, M_2), what goes into this operator.
    stride, padding, dilation, groups, padding_mode, flip
        Those of the convolution that is transposed; see `Conv2d`. With padding="same_upper" or "same_lower" the output
        is M s by default, as in ONNX and Keras.
    output_padding : int or tuple of int
        Chooses which of the sizes that share this M is the output:
        N = (M-1) s - lo - hi + d (K-1) + 1 + output_padding.
        Less than the larger of stride and dilation.
    output_size : int or tuple of int, optional
        Chooses it by its value, in place of `output_padding`.
    method : {"auto", "measure", "pointwise", "matrix", "direct", "gemm", "fft", "separable"}
        How products are computed, and how accurately: see `Conv2d`.

    Attributes
    ----------
    shape : (int, int)
        (C_out N_1 N_2, C_in M_1 M_2).
    dtype, input_shape, output_shape, weight, nnz, method
        As for `Conv2d`.
    geometry : Geometry
        That of the convolution which is transposed.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.
    ImportError
        If method="direct" is asked for without numba.

    See Also
    --------
    Conv2d : its transpose.

    References
    ----------
    .. [1] V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4.
    .. [2] ``torch.nn.ConvTranspose2d``, which has padding_mode="zeros" alone.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Conv2d, ConvTranspose2d
    >>> W = np.arange(24.0).reshape(2, 3, 2, 2)
    >>> B = ConvTranspose2d(W, (4, 4), stride=2, padding=1, output_padding=1, padding_mode="circular")
    >>> A = Conv2d(W, (7, 7), stride=2, padding=1, padding_mode="circular")
    >>> B.input_shape, B.output_shape
    ((2, 4, 4), (3, 7, 7))
    >>> np.array_equal(B.toarray(), A.toarray().T)
    True
    """

    _ndim = 2


class ConvTranspose3d(ConvTranspose):
    """Three-dimensional transposed convolution layer as a scipy `LinearOperator`.

    Parameters
    ----------
    weight : array_like, shape (C_in, C_out / groups, K_1, K_2, K_3) or (K_1, K_2, K_3)
        The weight of the convolution that is transposed.
    input_size : tuple of int
        (M_1, M_2, M_3).
    stride, padding, output_padding, output_size, dilation, groups, padding_mode, flip, method
        As for `ConvTranspose2d`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.
    ImportError
        If method="direct" is asked for without numba.

    See Also
    --------
    ConvTranspose2d : the same in two dimensions, with every parameter explained.

    References
    ----------
    .. [1] ``torch.nn.ConvTranspose3d``

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import ConvTranspose3d
    >>> ConvTranspose3d(np.ones((2, 2, 2)), (2, 2, 2), stride=2).apply(np.ones((2, 2, 2))).shape
    (4, 4, 4)
    """

    _ndim = 3


class Correlate(Conv):
    """The stride-1 "valid" correlation of an image with a kernel.

    Its transpose is the full correlation with the flipped kernel, input and output channels swapped.

    Parameters
    ----------
    weight : array_like, shape (C_out, C_in / groups, K_1, ..., K_D) or (K_1, ..., K_D)
    input_size : int or tuple of int
    dilation : int or tuple of int
    groups : int
    flip : bool
    method : str
        See `Conv2d`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong kind or value.
    ImportError
        If method="direct" is asked for without numba.

    Examples
    --------
    >>> import numpy as np
    >>> from convmat import Correlate
    >>> k, x = np.array([1.0, 2.0, 4.0]), np.arange(5.0)
    >>> np.array_equal(Correlate(k, 5) @ x, np.correlate(x, k, "valid"))
    True
    >>> np.array_equal(Correlate(k, 5).T @ x[:3], np.correlate(x[:3], k[::-1], "full"))
    True
    """

    def __init__(
        self,
        weight: ArrayLike,
        input_size: IntOrTuple,
        *,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        flip: bool = False,
        method: str = "auto",
    ) -> None:
        super().__init__(weight, input_size, dilation=dilation, groups=groups, flip=flip, method=method)


Conv._partners.update({1: ConvTranspose1d, 2: ConvTranspose2d, 3: ConvTranspose3d})
ConvTranspose._partners.update({1: Conv1d, 2: Conv2d, 3: Conv3d})


def _restore(kind: type[Convolution], products: Products) -> Convolution:
    return kind._of(products)


def _with_channels(x: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """A batch of images, with a channel axis even where the weight has none. (batch, C, spatial)"""
    return x if geometry.channels else x[:, None]
