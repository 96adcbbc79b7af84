"""Losses on the margin m of a comparison, per comparison and unreduced, in nats.

Every loss falls where the margin grows: the chosen item should have the higher reward.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from paljax.kernels import log_choice

Loss = Callable[[Float[Array, "B"]], Float[Array, "B"]]


def logistic(margins: Float[Array, "B"]) -> Float[Array, "B"]:
    """-log σ(m), the negative log-likelihood of Bradley-Terry."""
    return -log_choice(margins)


def hinge(margins: Float[Array, "B"]) -> Float[Array, "B"]:
    """max(0, 1 - m)."""
    return jnp.maximum(1 - margins, 0)


def smooth_hinge(margins: Float[Array, "B"]) -> Float[Array, "B"]:
    """The hinge with a quadratic corner: 1/2 - m below 0, (1 - m)²/2 up to 1, then 0.

    Source:
        Rennie and Srebro (2005), equation 3.
    """
    shortfall = jnp.maximum(1 - margins, 0)
    return jnp.where(margins <= 0, 0.5 - margins, 0.5 * shortfall**2)


def expected_loss(
    loss: Loss, margins: Float[Array, "B"], targets: Float[Array, "B"]
) -> Float[Array, "B"]:
    """Loss when the chosen item is preferred only with a probability.

    Args:
        loss: A loss on margins.
        margins: Reward of the chosen item minus that of the rejected one, in nats.
        targets: Probability that the chosen item is preferred: 1 for a plain label, 1/2 for a tie,
            1 - ε under label smoothing.

    Returns:
        t ℓ(m) + (1 - t) ℓ(-m).
    """
    return targets * loss(margins) + (1 - targets) * loss(-margins)


LOSSES: Mapping[str, Loss] = {
    "logistic": logistic,
    "hinge": hinge,
    "smooth_hinge": smooth_hinge,
}
