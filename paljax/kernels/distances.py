"""Distances between items and ideal points, and the rewards that they define.

N items, K prototypes, d latent width. Rewards are log-odds in nats; higher is better.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def squared_distances(
    items: Float[Array, "N d"], points: Float[Array, "K d"]
) -> Float[Array, "N K"]:
    """Squared Euclidean distance of every item to every point, ‖x - p‖².

    Computed as ‖x‖² - 2 x·p + ‖p‖², one matrix product instead of an [N, K, d] difference, after
    both sides are shifted by the mean point: the terms that cancel are then as small as the spread
    of the points and not as large as their distance from the origin. What rounding leaves below
    zero is zero.

    Args:
        items: Latent items, in any unit of length.
        points: Ideal points in the same space.

    Returns:
        Distances in squared units of length, >= 0.

    Raises:
        ValueError: If the arrays are not matrices of one latent width.

    Example:
        >>> squared_distances(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2)))
        Array([[25.]], dtype=float32)
    """
    _require_same_width(items, points)
    origin = jax.lax.stop_gradient(jnp.mean(points, axis=0, keepdims=True))
    items, points = items - origin, points - origin
    inner = _inner_products(items, points)
    squared_items = jnp.sum(items**2, axis=1, keepdims=True)
    squared_points = jnp.sum(points**2, axis=1)[None, :]
    return jnp.maximum(squared_items - 2 * inner + squared_points, 0)


def ideal_point_rewards(
    items: Float[Array, "N d"], prototypes: Float[Array, "K d"]
) -> Float[Array, "N K"]:
    """Reward of every item for every prototypical ideal point, r_k(x) = 2 x·p_k - ‖x‖².

    This is -‖x - p_k‖² without the item-free term -‖p_k‖², so a user with weights w has the reward
    Σ_k w_k r_k(x), which differs from -‖x - Σ_k w_k p_k‖² by a constant: margins are linear in w.

    Args:
        items: Latent items f(x).
        prototypes: Latent prototypes p_k.

    Returns:
        Rewards in nats.

    Raises:
        ValueError: If the arrays are not matrices of one latent width.

    Source:
        PAL, arXiv 2406.08469, model A; the squared form of paljax's design, section 2.1.

    Example:
        >>> ideal_point_rewards(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0], [0.0, 3.0]]))
        Array([[-3.,  7.]], dtype=float32)
    """
    _require_same_width(items, prototypes)
    return 2 * _inner_products(items, prototypes) - jnp.sum(items**2, axis=1, keepdims=True)


def mix(
    rewards: Float[Array, "*batch K"], weights: Float[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """Reward for a user who is a mixture of prototypes, Σ_k w_k r_k.

    Args:
        rewards: Reward for every prototype, in nats.
        weights: The user's weights on the simplex, one row for each row of rewards.

    Returns:
        Rewards in nats.

    Raises:
        ValueError: If the two shapes differ; broadcast on purpose before the call.

    Source:
        PAL, arXiv 2406.08469, section 3.

    Example:
        >>> mix(jnp.array([4.0, 8.0]), jnp.array([0.25, 0.75]))
        Array(7., dtype=float32)
    """
    if rewards.shape != weights.shape:
        raise ValueError(f"rewards {rewards.shape} and weights {weights.shape} must have one shape")
    return jnp.sum(rewards * weights, axis=-1)


def _inner_products(left: Float[Array, "N d"], right: Float[Array, "K d"]) -> Float[Array, "N K"]:
    # The highest precision: a bfloat16 pass on an accelerator would lose what the norms cancel.
    return jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)


def _require_same_width(items: Array, points: Array) -> None:
    if items.ndim != 2 or points.ndim != 2 or items.shape[1] != points.shape[1]:
        raise ValueError(
            f"items {items.shape} and points {points.shape} must be [N, d] and [K, d] with one d"
        )
