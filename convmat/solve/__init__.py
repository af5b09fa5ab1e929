"""Least squares: the normal operator, its inverses, and Tikhonov's solution.

============ ===============================================================================================
`inverses/`  inverses of normal operators, exact and approximate, one idea per module, and the choice among them
`limits`     damp, rtol and maxiter, checked
`krylov`     least squares by conjugate gradients, for arrays of numpy and of dask
`proximal`   constraints and penalties that are not smooth, by proximal gradients
`solver`     `normal`, `preconditioner` and `tikhonov`, with their arguments checked
============ ===============================================================================================
"""

from convmat.solve.krylov import CglsInfo, cgls
from convmat.solve.proximal import ProximalInfo, proximal_gradient
from convmat.solve.solver import SolveInfo, normal, preconditioner, tikhonov

__all__ = ["CglsInfo", "ProximalInfo", "SolveInfo", "cgls", "normal", "preconditioner", "proximal_gradient", "tikhonov"]
