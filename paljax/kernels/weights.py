"""Weights of groups in a MaxMin problem: G groups, q on the simplex, each weight at most a cap."""

import jax
import jax.numpy as jnp
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


def worst_case_weights(
    utilities: Float[Array, "G"], *, cap: float | Float[Array, ""] = 1.0
) -> Float[Array, "G"]:
    """Weights that make the average utility least: argmin q·U over the simplex with q_g <= cap.

    The worst-off groups get the cap each, until one is shared out. Without a cap that is the worst
    group alone; q·U is then the minimum, and under cap = 1 / (αG) the mean of the worst part α of
    the groups, CVaR_α. Where utilities are equal the first group is taken.

    Args:
        utilities: Utility of each group; higher is better.
        cap: Largest weight of a group, >= 1 / G; 1 or more is none.

    Returns:
        The weights.

    Raises:
        ValueError: If utilities is no vector.

    Source:
        Rockafellar and Uryasev (2000), for the conditional value at risk.

    Example:
        >>> worst_case_weights(jnp.array([3.0, 1.0, 2.0]), cap=0.75)
        Array([0.  , 0.75, 0.25], dtype=float32)
    """
    if utilities.ndim != 1:
        raise ValueError(f"utilities {utilities.shape} must be [G]")
    order = jnp.argsort(utilities)
    place = jnp.arange(len(utilities), dtype=utilities.dtype)
    cap = jnp.asarray(cap, utilities.dtype)
    shares = jnp.clip(1 - place * cap, 0, cap)
    return jnp.zeros_like(utilities).at[order].set(jnp.minimum(shares, 1))


def cap_weights(log_q: Float[Array, "G"], *, cap: float | Float[Array, ""]) -> Float[Array, "G"]:
    """The nearest weights (in KL) none of which is above a cap: q_g = min(cap, c q_g).

    Args:
        log_q: Log of the groups' weights, normalised.
        cap: Largest weight of a group, >= 1 / G; 1 or more changes nothing.

    Returns:
        Log of the weights, normalised. Where too few groups have any weight to share one among
        them under the cap, the rest of it is lost.

    Raises:
        ValueError: If log_q is no vector.

    Source:
        Herbster and Warmuth (2001), section 5.3, from above in place of below.

    Example:
        >>> log_q = cap_weights(jnp.log(jnp.array([0.7, 0.2, 0.1])), cap=0.4)
        >>> print(*(f"{weight:.2f}" for weight in jnp.exp(log_q)))
        0.40 0.40 0.20
    """
    if log_q.ndim != 1:
        raise ValueError(f"log_q {log_q.shape} must be [G]")
    log_cap = jnp.log(jnp.asarray(cap, log_q.dtype))
    descending = -jnp.sort(-log_q)
    # With the n largest at the cap, the others share 1 - n cap in their old proportions; the right
    # n is the first for which the largest of the others stays below the cap.
    tails = jax.lax.cumlogsumexp(descending, reverse=True)
    capped = jnp.arange(len(log_q), dtype=log_q.dtype)
    left = jnp.maximum(1 - capped * jnp.exp(log_cap), 0)
    log_factors = jnp.where(left > 0, jnp.log(jnp.where(left > 0, left, 1)), -jnp.inf) - tails
    fits = descending + log_factors <= log_cap
    log_factor = jnp.where(jnp.any(fits), log_factors[jnp.argmax(fits)], jnp.inf)
    scaled = jnp.where(jnp.isneginf(log_q), -jnp.inf, log_q + log_factor)
    return jnp.minimum(scaled, log_cap)
