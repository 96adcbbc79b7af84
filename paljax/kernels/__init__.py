"""Pure functions on arrays: the mathematics of paljax, importable without Flax or Optax.

Every kernel is one formula, unreduced; callers `jit`, `vmap`, mask and average. Kernels work in
the dtype that they are given.
"""

from paljax.kernels.advantages import leave_one_out
from paljax.kernels.choices import (
    log_choice,
    log_evidence,
    log_odds,
    responsibilities,
    sum_by_user,
)
from paljax.kernels.distances import ideal_point_rewards, mix, squared_distances
from paljax.kernels.maxmin import MaxMinSolution, maxmin_dual
from paljax.kernels.simplex import fit_simplex, fit_simplex_nonlinear
from paljax.kernels.simplex_blocks import SimplexFit
from paljax.kernels.weights import cap_weights, exponentiated_gradient, worst_case_weights

__all__ = [
    "MaxMinSolution",
    "SimplexFit",
    "cap_weights",
    "exponentiated_gradient",
    "fit_simplex",
    "fit_simplex_nonlinear",
    "ideal_point_rewards",
    "leave_one_out",
    "log_choice",
    "log_evidence",
    "log_odds",
    "maxmin_dual",
    "mix",
    "responsibilities",
    "squared_distances",
    "sum_by_user",
    "worst_case_weights",
]
