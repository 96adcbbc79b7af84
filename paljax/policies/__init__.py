"""Policies: distributions over responses, as tuples of pure functions."""

from paljax.policies.contract import Actions, Params, Policy, Prompts, Samples
from paljax.policies.finite import Sequences, categorical, sequences, tabular_autoregressive

__all__ = [
    "Actions",
    "Params",
    "Policy",
    "Prompts",
    "Samples",
    "Sequences",
    "categorical",
    "sequences",
    "tabular_autoregressive",
]
