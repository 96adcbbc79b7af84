"""The objective of a user's weights: its derivatives and the gap. Axes of `simplex`, users last."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from paljax.kernels.folds import fold, fold_rows
from paljax.kernels.simplex_plane import square

# The curvature, in relative changes and as a part of the barrier's, below which a Hessian is not
# trusted to be positive definite.
LEAST_CURVATURE = 1e-3


class Derivatives(NamedTuple):
    """Of F at some weights, users last."""

    margins: Float[Array, "n U"]
    gradient: Float[Array, "K U"]
    hessian: tuple[Array, ...]  # of the losses alone; row k of the lower triangle: [k + 1, U]


def mix_rows(rows: Float[Array, "n K U"], weights: Float[Array, "K U"]) -> Float[Array, "n U"]:
    return fold(jnp.add, (rows * weights[None]).transpose(1, 0, 2))


def derivatives_of(
    rows: Float[Array, "n K U"],
    margins: Float[Array, "n U"],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    weights: Float[Array, "K U"],
) -> Derivatives:
    """Gradient of F and Hessian of its losses; `rows` are the derivatives of the margins by w."""
    right, wrong = jax.nn.sigmoid(margins), jax.nn.sigmoid(-margins)
    slopes = sample_weights * wrong
    curvatures = slopes * right
    pull = barrier[:, None] / weights
    gradient = fold_rows(lambda total, row, slope: total - slope[None] * row, -pull, rows, slopes)

    def add_row(
        lower: tuple[Array, ...], row: Float[Array, "K U"], curvature: Float[Array, "U"]
    ) -> tuple[Array, ...]:
        return tuple(
            total + (curvature * row[k])[None] * row[: k + 1] for k, total in enumerate(lower)
        )

    nothing = tuple(jnp.zeros_like(weights[: k + 1]) for k in range(len(barrier)))
    return Derivatives(margins, gradient, fold_rows(add_row, nothing, rows, curvatures))


def bent(
    derivatives: Derivatives,
    bends: Float[Array, "n K K U"],
    sample_weights: Float[Array, "n U"],
    barrier: Float[Array, "K"],
    weights: Float[Array, "K U"],
) -> Derivatives:
    """Adds Σ_j -mask_j σ(-m_j) ∇²m_j, the part of the Hessian that linear margins don't have.

    For users whose whole Hessian is positive definite on the plane Σ_k d_k = 0; the others keep
    Gauss and Newton's. Worked out in relative changes d_k / w_k, where the barrier's part is b_k
    and weights of very different size do no harm. The plane is then that orthogonal to w; the
    Hessian across it has no effect, and is replaced by a large number.
    """
    slopes = sample_weights * jax.nn.sigmoid(-derivatives.margins)
    bend = -jnp.sum(slopes[:, None, None] * bends, axis=0)
    gauss_newton = square(derivatives.hessian)
    scale = weights[:, None] * weights[None]
    of_barrier = jnp.eye(len(barrier), dtype=barrier.dtype)[:, :, None] * barrier[:, None, None]
    relative = (gauss_newton + bend) * scale + of_barrier
    normal = weights / jnp.sqrt(jnp.sum(weights**2, axis=0))[None]
    across = jnp.sum(relative * normal[None], axis=1)
    height = jnp.sum(across * normal, axis=0) + jnp.sum(jnp.abs(relative), axis=(0, 1))
    relative = relative - normal[:, None] * across[None] - across[:, None] * normal[None]
    relative = relative + height[None, None] * normal[:, None] * normal[None]
    least = jnp.linalg.eigvalsh(relative.transpose(2, 0, 1))[:, 0]
    convex = least > LEAST_CURVATURE * jnp.min(barrier)
    hessian = jnp.where(convex[None, None], (relative - of_barrier) / scale, gauss_newton)
    return derivatives._replace(
        hessian=tuple(hessian[k, : k + 1] for k in range(len(derivatives.hessian)))
    )


def centered(
    gradient: Float[Array, "K U"], weights: Float[Array, "K U"]
) -> tuple[Float[Array, "K U"], Float[Array, "U"]]:
    """Gradient less its mean under the weights, which is 0 at the optimum, and the gap.

    The part that is constant over k has no effect on the plane Σ_k d_k = 0 but for its rounding.
    """
    centered = gradient - fold(jnp.add, gradient * weights)[None]
    return centered, -fold(jnp.minimum, centered)


def barrier_curvature(
    barrier: Float[Array, "K"], weights: Float[Array, "K U"]
) -> Float[Array, "K U"]:
    """The barrier's part of the Hessian, which is diagonal.

    In exact arithmetic it is a lower bound of every pivot when the Hessian is eliminated, in any
    order. Where rounding takes a pivot below, as with margins of 1e4, the bound stands in.
    """
    return barrier[:, None] / weights / weights
