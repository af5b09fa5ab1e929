"""To PyLops: its solvers, its algebra of operators and pyproximal run on a wrapped convolution. Needs the extra
`pylops`, which is imported when the first operator is wrapped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from scipy.sparse import issparse

from convmat.operators import ImageOperator

__all__ = ["to_pylops"]


def to_pylops(operator: ImageOperator) -> Any:
    """The same linear map as a `pylops.LinearOperator`, whose `dims` and `dimsd` are the shapes of the images.

    Nothing is copied, and products run by the method of the operator. PyLops and scipy both have a class named
    LinearOperator, which do not know each other: wrap first, then combine with the operators of PyLops.

    Parameters
    ----------
    operator : ImageOperator
        Any operator of this package, with ``input_shape`` and ``output_shape``.

    Returns
    -------
    pylops.LinearOperator, shape ``operator.shape``
        With the dtype of the operator; its attribute ``Op`` is the operator. ``tosparse()`` builds the matrix as the
        operator does, at once instead of column by column.

    Raises
    ------
    ImportError
        If PyLops is missing; it names the extra.
    TypeError
        If the operator is not one of this package.

    See Also
    --------
    scipy.sparse.linalg.LinearOperator : what every operator is without a wrapper; scipy's solvers take it as it is.

    References
    ----------
    .. [1] M. Ravasi, I. Vasconcelos, "PyLops: a linear-operator Python library for scalable algebra and optimization",
       SoftwareX 11, 2020.

    Examples
    --------
    Least squares with a smoothness term, by the stacking of PyLops:

    >>> import numpy as np
    >>> import pylops
    >>> from convmat import Conv2d
    >>> from convmat.interop.pylops import to_pylops
    >>> A = Conv2d(np.ones((3, 3)) / 9, (16, 16), stride=2, padding=1, padding_mode="reflect")
    >>> Op = to_pylops(A)
    >>> Op.dims, Op.dimsd
    ((16, 16), (8, 8))
    >>> bool(pylops.utils.dottest(Op))
    True
    >>> x = np.outer(np.arange(16.0), np.ones(16))
    >>> np.array_equal(Op @ x, A.apply(x))
    True
    >>> stack = pylops.VStack([Op, 0.1 * pylops.Laplacian(A.input_shape)])
    >>> data = np.concatenate([A.apply(x).ravel(), np.zeros(256)])
    >>> solution = pylops.optimization.basic.lsqr(stack, data, niter=200)[0]
    >>> bool(np.linalg.norm(A @ solution.ravel() - A @ x.ravel()) < 0.01 * np.linalg.norm(A @ x.ravel()))
    True
    """
    if not isinstance(operator, ImageOperator):
        raise TypeError(
            f"operator is of type {type(operator).__name__}: it must be an operator of convmat; "
            f"pylops.aslinearoperator takes those of scipy"
        )
    wrapped: Any = _wrapper()(operator)
    return wrapped


@functools.cache
def _wrapper() -> Callable[[ImageOperator], Any]:
    """The class of the wrapped operators, made when PyLops is first needed."""
    try:
        import pylops
    except ImportError as error:
        raise ImportError(
            f"to_pylops needs {error.name or 'pylops'}: install the extra `pylops`, pip install 'convmat[pylops]'",
            name=error.name,
        ) from error

    class ConvmatOperator(pylops.LinearOperator):
        """An operator of convmat; `matvec` and `rmatvec` are those which PyLops derives from `Op`."""

        def __init__(self, operator: ImageOperator) -> None:
            super().__init__(operator, dims=operator.input_shape, dimsd=operator.output_shape)

        def __reduce__(self) -> tuple[Any, ...]:
            return to_pylops, (self.Op,)

        def _matmat(self, X: Any) -> Any:
            return self.Op.matmat(_dense(X))

        def _rmatmat(self, X: Any) -> Any:
            return self.Op.rmatmat(_dense(X))

        def tosparse(self) -> Any:
            return self.Op.tosparse()

    return ConvmatOperator


def _dense(X: Any) -> Any:
    """The columns as an ndarray; PyLops makes dense matrices from products with a sparse identity."""
    return X.toarray() if issparse(X) else X
