"""The convolution and its transpose as scipy `LinearOperator`s."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator

from convmat import matrix
from convmat.geometry import (
    Geometry,
    IntOrTuple,
    Padding,
    as_weight,
    conv_geometry,
    conv_transpose_geometry,
    output_shape_of,
    result_dtype,
)
from convmat.products import Products

if TYPE_CHECKING:
    from convmat.factors import Correlate, Crop, Downsample, Pad, Upsample
    from convmat.weights import TransposeWeightOperator, WeightOperator


_TRANSPOSED_ROWS = 2048
"""Rows of a block of vectors that are transposed at a time."""


class ImageOperator(LinearOperator):
    """A linear map between images of a fixed shape; its vectors are their C-order ravels.

    A subclass gives `_forward` (A x) and `_backward` (A^T y, without conjugation) on batches of images, `tosparse`, and
    `_transpose` if its transpose has a class of its own. ``matvec`` takes vectors (.., N), ``matmat`` and ``@`` columns
    (.., N, K), as scipy's operators do from 1.18 on; before, without the batch axes.

    Attributes
    ----------
    input_shape, output_shape : tuple of int
        Shapes of the images that go in and come out.
    """

    _frozen = False

    def __init__(self, dtype: np.dtype[Any], input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        super().__init__(dtype, (math.prod(output_shape), math.prod(input_shape)))
        self._input_shape = input_shape
        self._output_shape = output_shape
        self._frozen = True

    def __setattr__(self, name: str, value: object) -> None:
        if self._frozen:
            raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be set")
        super().__setattr__(name, value)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an image that goes in."""
        return self._input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an image that comes out."""
        return self._output_shape

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """A x: (batch, *input_shape) -> (batch, *output_shape)."""
        raise NotImplementedError

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^T y: (batch, *output_shape) -> (batch, *input_shape)."""
        raise NotImplementedError

    def apply(self, image: ArrayLike) -> NDArray[Any]:
        """Apply the operator to images.

        Parameters
        ----------
        image : array_like, shape (*batch, *input_shape)

        Returns
        -------
        ndarray, shape (*batch, *output_shape)
            In the result type of operator and image.

        Raises
        ------
        TypeError, ValueError
            If the image does not hold numbers, or has a wrong shape.
        """
        array = np.asarray(image)
        dtype = result_dtype(self.dtype, array, "image")
        batch = output_shape_of("image", array, self.input_shape)
        stack = array.astype(dtype, copy=False).reshape(math.prod(batch), *self.input_shape)
        return self._forward(stack).reshape(*batch, *self.output_shape)

    def tosparse(self, format: str = "csr") -> Any:
        """The matrix as a sparse array.

        Parameters
        ----------
        format : {"csr", "csc", "coo", "bsr", "dia", "dok", "lil"}

        Returns
        -------
        scipy.sparse array, shape `shape`

        Raises
        ------
        ValueError
            If the format is unknown.
        MemoryError
            If it does not fit in this machine's memory; raised before it is allocated.
        """
        raise NotImplementedError

    def toarray(self) -> NDArray[Any]:
        """The matrix as a dense array.

        Returns
        -------
        ndarray, shape `shape`

        Raises
        ------
        MemoryError
            If it does not fit in this machine's memory; raised before it is allocated.
        """
        rows, cols = self.shape
        matrix.check_memory("a dense matrix", (rows, cols), rows * cols, rows * cols * self.dtype.itemsize)
        dense: NDArray[Any] = self.tosparse().toarray()
        return dense

    def dot(self, x: Any) -> Any:
        """A @ x: a vector (N,), columns (.., N, K), a number or another operator.

        Raises
        ------
        TypeError, ValueError
            If x is none of these; for an image, the message names `apply`.
        """
        if not isinstance(x, LinearOperator) and not np.isscalar(x):
            self._check_vectors(x)
        return super().dot(x)

    def _check_vectors(self, x: Any) -> None:
        name = type(x).__name__
        if issparse(x):
            raise TypeError(f"x is a sparse {name}: A @ x multiplies dense vectors; write A.tosparse() @ x")
        array = np.asarray(x)
        if array.dtype.kind == "O":
            raise TypeError(
                f"x is of type {name}, no array of numbers: in the expressions of a modelling language (CVXPY and its "
                f"kin), the matrix A.tosparse() @ x takes the place of A @ x"
            )
        size, image = self.shape[1], array.shape[array.ndim - len(self.input_shape) :]
        fits = array.shape == (size,) or (array.ndim > 1 and array.shape[-2] == size)
        if array.ndim > 1 and not fits and image == self.input_shape:
            raise ValueError(
                f"x has shape {array.shape}, an image: A @ x multiplies vectors ({size},) and columns ({size}, K); use "
                f"A.apply(image), or A @ image.ravel() for one image"
            )

    def _matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._vectors(self._forward, x, self.input_shape)

    def _rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._vectors(self._backward_conjugated, x, self.output_shape)

    def _matmat(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._columns(self._forward, X, self.input_shape)

    def _rmatmat(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._columns(self._backward_conjugated, X, self.output_shape)

    def _backward_conjugated(self, y: NDArray[Any]) -> NDArray[Any]:
        """A^H y = conj(A^T conj(y))."""
        if self.dtype.kind != "c":
            return self._backward(y)
        return self._backward(y.conj()).conj()

    def _transpose(self) -> ImageOperator:
        return _Transposed(self)

    def _adjoint(self) -> ImageOperator:
        transposed: ImageOperator = self.T
        return transposed if self.dtype.kind != "c" else _Conjugated(transposed)

    def _vectors(
        self, product: Callable[[NDArray[Any]], NDArray[Any]], vectors: NDArray[Any], shape: tuple[int, ...]
    ) -> NDArray[Any]:
        """A product of images on vectors (.., N), or on one column (N, 1): (.., M)."""
        vectors, size = np.asarray(vectors), math.prod(shape)
        if vectors.shape[-1:] != (size,):  # scipy before 1.18 passes a column as it is
            vectors = vectors.reshape(size)
        batch = vectors.shape[:-1]
        stack = vectors.astype(result_dtype(self.dtype, vectors), copy=False)
        results = product(np.ascontiguousarray(stack).reshape(math.prod(batch), *shape))
        return results.reshape(*batch, math.prod(results.shape[1:]))

    def _columns(
        self, product: Callable[[NDArray[Any]], NDArray[Any]], columns: NDArray[Any], shape: tuple[int, ...]
    ) -> NDArray[Any]:
        """A product of images on the columns of matrices: (.., N, K) -> (.., M, K)."""
        columns = np.asarray(columns)
        dtype = result_dtype(self.dtype, columns)
        *batch, _, count = columns.shape
        rows = columns.swapaxes(-1, -2).astype(dtype, order="C") if batch else _as_rows(columns, dtype)
        results = product(rows.reshape(math.prod(batch) * count, *shape))
        return results.reshape(*batch, count, math.prod(results.shape[1:])).swapaxes(-1, -2)


class _Derived(ImageOperator):
    """An operator that is made from another, which it keeps."""

    def __init__(self, of: ImageOperator, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        self._of = of
        super().__init__(of.dtype, input_shape, output_shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._of,)


class _Transposed(_Derived):
    """A^T of an operator whose transpose has no class of its own."""

    def __init__(self, of: ImageOperator) -> None:
        super().__init__(of, of.output_shape, of.input_shape)

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._of._backward(x)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._of._forward(y)

    def _transpose(self) -> ImageOperator:
        return self._of

    def tosparse(self, format: str = "csr") -> Any:
        matrix.check_format(format)
        return matrix.as_format(self._of.tosparse().T, format)


class _Conjugated(_Derived):
    """The operator of the conjugated matrix: conj(A) x = conj(A conj(x))."""

    def __init__(self, of: ImageOperator) -> None:
        super().__init__(of, of.input_shape, of.output_shape)

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._of._forward(x.conj()).conj())

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._of._backward(y.conj()).conj())

    def _transpose(self) -> ImageOperator:
        return _Conjugated(self._of.T)

    def _adjoint(self) -> ImageOperator:
        transposed: ImageOperator = self._of.T
        return transposed

    def tosparse(self, format: str = "csr") -> Any:
        matrix.check_format(format)
        return matrix.as_format(self._of.tosparse().conj(), format)


class Convolution(ImageOperator):
    """What a convolution and a transposed convolution share: the geometry, the weight, and each other.

    The two are views of one `Products`; ``A.T.T is A`` for as long as either is alive.
    """

    _partners: ClassVar[dict[int, type[Convolution]]] = {}
    _products: Products
    _partner: Callable[[], Convolution | None]

    @classmethod
    def _of(cls, products: Products, partner: Convolution | None = None) -> Self:
        operator = cls.__new__(cls)
        operator._bind(products, partner)
        return operator

    def _bind(self, products: Products, partner: Convolution | None = None) -> None:
        self._products = products
        # The operator made from another keeps that one alive, which in turn only remembers it: no cycle.
        self._partner = lambda: partner
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
        """The method that computes A x."""
        raise NotImplementedError

    def explain(self) -> str:
        """Say which methods compute the products and why: expected costs and work memory, as a table.

        Returns
        -------
        str
            "A x" and "A^T y" are those of the convolution, also in the table of a transposed convolution.
        """
        return self._products.explain()

    def _transpose(self) -> Convolution:
        partner = self._partner()
        if partner is None:
            partner = self._partners[self.geometry.ndim]._of(self._products, self)
            object.__setattr__(self, "_partner", weakref.ref(partner))
        return partner

    def _adjoint(self) -> Convolution:
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
        padding_mode: str = "zeros",
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
        """The method that computes A x."""
        return self._products.methods[0]

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._products.forward(_with_channels(x, self.geometry)).reshape(len(x), *self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._products.transpose(_with_channels(y, self.geometry)).reshape(len(y), *self.input_shape)

    def tosparse(self, format: str = "csr") -> Any:
        return matrix.sparse(self.geometry, self.weight, format)

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
        from convmat.factors import factors

        return factors(self.geometry, self.weight)

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
        from convmat.weights import WeightOperator

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
        padding_mode: str = "zeros",
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
        """The method that computes A x."""
        return self._products.methods[1]

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._products.transpose(_with_channels(x, self.geometry)).reshape(len(x), *self.output_shape)

    def _backward(self, y: NDArray[Any]) -> NDArray[Any]:
        return self._products.forward(_with_channels(y, self.geometry)).reshape(len(y), *self.input_shape)

    def tosparse(self, format: str = "csr") -> Any:
        return matrix.sparse_transpose(self.geometry, self.weight, format)

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
        from convmat.weights import TransposeWeightOperator

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
    padding_mode : {"zeros", "reflect", "replicate", "circular", "symmetric"}
    flip : bool
        Flip the kernel on every spatial axis: the true convolution, not the cross-correlation.
    method : {"auto", "pointwise", "matrix", "gemm", "toeplitz", "fft", "separable"}
        How products are computed. "auto" takes the least expected cost, see `explain`; "pointwise" takes the least of
        those that are accurate output by output, beside samples of any size: see the Notes.

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

    *Accuracy*, with eps that of the dtype and K the number of taps times C_in / groups. "matrix", "gemm" and "toeplitz"
    are accurate output by output: the error of y[o, m] is at most K eps times the sum of \|W\| \|x\| over the samples
    that it reads. "separable" sees the same samples, and the sum of \|W\| is that of its separable terms, which may be
    larger. The error of "fft" is relative to the largest samples, not to each output: some eps log2(T) times the
    2-norms of the kernels and of the tile of T samples (at most 400 x 400, or 2^15, or 64^3), so that one sample of 1e8
    is felt in all outputs of its tile, though no tap reads it. Where samples differ that much, ask for "pointwise".

    The methods "toeplitz", "fft" and "separable" let a NaN or an infinity in the image spread beyond the outputs that
    read it; "matrix" does not.

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
    method : {"auto", "pointwise", "matrix", "gemm", "toeplitz", "fft", "separable"}
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


Conv._partners.update({1: ConvTranspose1d, 2: ConvTranspose2d, 3: ConvTranspose3d})
ConvTranspose._partners.update({1: Conv1d, 2: Conv2d, 3: Conv3d})


def _as_rows(columns: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The columns of a matrix as the rows of a contiguous one. (columns, rows)"""
    if columns.shape[1] <= 1 or columns.flags.f_contiguous:
        return np.ascontiguousarray(columns.T, dtype=dtype)
    stack = np.empty(columns.shape[::-1], dtype=dtype)
    for start in range(0, len(columns), _TRANSPOSED_ROWS):  # piece by piece, in cache, it takes a fraction of the time
        piece = slice(start, start + _TRANSPOSED_ROWS)
        stack[:, piece] = columns[piece].T
    return stack


def _restore(kind: type[Convolution], products: Products) -> Convolution:
    return kind._of(products)


def _with_channels(x: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """A batch of images, with a channel axis even where the weight has none. (batch, C, spatial)"""
    return x if geometry.channels else x[:, None]
