"""The learned scale of cosine rewards."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

INITIAL_LOG_SCALE = math.log(1 / 0.07)  # CLIP's temperature, as in the authors' code
LARGEST_SCALE = 100.0


def cosine_scale(log_scale: Float[Array, ""]) -> Float[Array, ""]:
    """s = exp(log_scale), capped at 100: nats of reward for a cosine of one."""
    return jnp.minimum(jnp.exp(log_scale), LARGEST_SCALE)
