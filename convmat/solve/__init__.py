"""Least squares: the normal operator, its inverses, and Tikhonov's solution.

=============== ===================================================================================================
`inverses/`     inverses of normal operators, exact and approximate, one idea per module, and the choice among them
`limits`        damp, noise, rtol and maxiter, checked
`krylov`        least squares by conjugate gradients, for arrays of numpy and of dask
`proximal`      constraints and penalties that are not smooth, by proximal gradients
`solver`        `normal` and `preconditioner`, with their arguments checked
`measures`      residual, norm and trace for every damp at once, from the modes or by bidiagonalisation
`damping`       the damp that the data choose, and curves of it
`least_squares` `tikhonov` and `lcurve`
=============== ===================================================================================================
"""

from convmat.solve.krylov import CglsInfo, cgls
from convmat.solve.least_squares import SolveInfo, lcurve, tikhonov
from convmat.solve.proximal import ProximalInfo, proximal_gradient
from convmat.solve.solver import normal, preconditioner

__all__ = [
    "CglsInfo",
    "ProximalInfo",
    "SolveInfo",
    "cgls",
    "lcurve",
    "normal",
    "preconditioner",
    "proximal_gradient",
    "tikhonov",
]
