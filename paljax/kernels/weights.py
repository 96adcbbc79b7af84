"""Weights of groups in a MaxMin problem: G groups."""

import jax
from jaxtyping import Array, Float


def exponentiated_gradient(
    log_q: Float[Array, "G"], utilities: Float[Array, "G"], *, step_size: float | Float[Array, ""]
) -> Float[Array, "G"]:
    """One step of exponentiated gradient towards the worst-off groups, q_g ∝ q_g exp(-η U_g).

    Args:
        log_q: Log of the groups' weights, normalised; -inf keeps a group at zero.
        utilities: Utility of each group; higher is better.
        step_size: η > 0, in one over the unit of the utilities.

    Returns:
        Log of the new weights, normalised.

    Raises:
        ValueError: If the two shapes differ.

    Source:
        Kivinen and Warmuth (1997); as group weights, Sagawa et al., arXiv 1911.08731, algorithm 1.

    Example:
        >>> even = jnp.log(jnp.array([0.5, 0.5]))
        >>> log_q = exponentiated_gradient(even, jnp.array([1.0, 0.0]), step_size=1.0)
        >>> print(f"{jnp.exp(log_q[0]):.3f} {jnp.exp(log_q[1]):.3f}")
        0.269 0.731
    """
    if log_q.ndim != 1 or log_q.shape != utilities.shape:
        raise ValueError(f"log_q {log_q.shape} and utilities {utilities.shape} must both be [G]")
    return jax.nn.log_softmax(log_q - step_size * utilities)
