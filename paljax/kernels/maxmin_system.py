"""The linear system of a Newton step on the groups' weights. Axes of `maxmin`."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Groups up to which the linear system is solved as it is; with more, in K unknowns.
MOST_GROUPS_SOLVED_DIRECTLY = 32


def solve_on_plane(
    group_matrix: Float[Array, "G K"],
    curvature: Float[Array, "K K"],
    diagonal: Float[Array, "G"],
    right: Float[Array, "G"],
) -> Float[Array, "G"]:
    """Solve (A C Aᵀ + D) d + ν 1 = right for the d that sums to 0."""
    num_groups, num_rewards = group_matrix.shape
    scale = lax.rsqrt(diagonal)
    if num_groups <= max(num_rewards, MOST_GROUPS_SOLVED_DIRECTLY):
        scaled = scale[:, None] * group_matrix
        matrix = jnp.eye(num_groups, dtype=right.dtype) + scaled @ curvature @ scaled.T
        factor = jax.scipy.linalg.cho_factor(matrix, lower=True)

        def solve(right: Array) -> Array:
            solved: Array = scale * jax.scipy.linalg.cho_solve(factor, scale * right)
            return solved
    else:  # Woodbury: as many unknowns as rewards
        values, vectors = jnp.linalg.eigh(curvature)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]
        wide = group_matrix @ root
        scaled = scale[:, None] * wide
        small = jnp.eye(num_rewards, dtype=right.dtype) + scaled.T @ scaled
        factor = jax.scipy.linalg.cho_factor(small, lower=True)

        def once(right: Array) -> Array:
            inner = jax.scipy.linalg.cho_solve(factor, scaled.T @ (scale * right))
            solved: Array = scale * (scale * right - scaled @ inner)
            return solved

        def solve(right: Array) -> Array:
            first = once(right)  # loses digits where the diagonal is small; a second pass mends it
            return first + once(right - diagonal * first - wide @ (wide.T @ first))

    along: Array = solve(jnp.ones_like(right))
    # The matrix is nearly singular where few constraints bind. Without ν, what is left is small.
    solution: Array = solve(right - along @ right / jnp.sum(along))
    return solution - along * (jnp.sum(solution) / jnp.sum(along))
