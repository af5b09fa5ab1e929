"""Least squares: the normal operator, its inverses, and Tikhonov's solution.

============ ===============================================================================================
`inverses/`  inverses of normal operators, exact and approximate, one idea per module, and the choice among them
`solver`     `normal`, `preconditioner` and `tikhonov`, with their arguments checked
============ ===============================================================================================
"""

from convmat.solve.solver import SolveInfo, normal, preconditioner, tikhonov

__all__ = ["SolveInfo", "normal", "preconditioner", "tikhonov"]
