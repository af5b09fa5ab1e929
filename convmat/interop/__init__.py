"""Interchange with other packages, each behind its extra; the core imports none of these modules.

CVXPY needs no module of its own: it takes the matrix, ``A.tosparse()``, as it is, and no operator without its matrix.
Super-resolution, of nonnegative pixels and with the least total variation that explains the data::

    import cvxpy as cp
    import numpy as np
    from convmat import Conv2d

    scene = np.zeros((16, 16))
    scene[4:12, 6:11] = 1
    A = Conv2d(np.outer([1.0, 3, 3, 1], [1.0, 3, 3, 1]) / 64, scene.shape, stride=2, padding=1, padding_mode="reflect")
    down, right = (Conv2d(kernel, scene.shape) for kernel in ([[-1.0], [1.0]], [[-1.0, 1.0]]))

    x = cp.Variable(A.shape[1], nonneg=True)  # the ravelled image
    variation = cp.norm1(down.tosparse() @ x) + cp.norm1(right.tosparse() @ x)
    problem = cp.Problem(cp.Minimize(variation), [A.tosparse() @ x == A.apply(scene).ravel()])
    problem.solve()
    image = x.value.reshape(A.input_shape)
"""
