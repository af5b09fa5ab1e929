"""Singular values, the SVD and norms of operators: what is known of A beyond its products.

========================== ================================================================================
`scaling`, `trees`         powers of two that keep squares finite, for arrays and for trees of operators
`torus`                    bounds by embedding in a torus
`values`                   all singular values, by structure
`bases`, `decomposition`   the SVD as operators
`bounds`, `norms`          proven bounds on the norm, of a convolution and of any operator
`clipping`                 projection onto a bound
========================== ================================================================================
"""

from convmat.spectrum.clipping import clip_singular_values
from convmat.spectrum.decomposition import SVD, svd
from convmat.spectrum.norms import norm_bounds
from convmat.spectrum.values import singular_values

__all__ = ["SVD", "clip_singular_values", "norm_bounds", "singular_values", "svd"]
