"""paljax: pluralistic preference learning in JAX.

A reward for every person, learned from comparisons; see `paljax.kernels` for the mathematics,
`paljax.models` for the preference models and `python -m paljax.train --help` for training.
"""

__version__ = "0.1.0"
