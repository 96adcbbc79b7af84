"""How the weights q of G groups follow their utilities, towards the worst-off.

Every rule is made from its keyword arguments, which are the keys of the configuration's
`group_weights` section beside `smoothing`, and takes

    (log q [G], smoothed utilities [G], those a step ago [G], factor, cap) -> log q [G]

where the factor, in [0, 1], is the schedule's and no weight may be above the cap.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from paljax.kernels import cap_weights, exponentiated_gradient, worst_case_weights
from paljax.ranges import PositiveFloat

Follow = Callable[
    [Float[Array, "G"], Float[Array, "G"], Float[Array, "G"], Float[Array, ""], float],
    Float[Array, "G"],
]


def by_exponentiated_gradient(*, step_size: PositiveFloat = 0.05) -> Follow:
    """q_g ∝ q_g exp(-η U_g)."""

    def follow(log_q: Array, utilities: Array, before: Array, factor: Array, cap: float) -> Array:
        moved = exponentiated_gradient(log_q, utilities, step_size=step_size * factor)
        return cap_weights(moved, cap=cap)

    return follow


def optimistic(*, step_size: PositiveFloat = 0.05) -> Follow:
    """q_g ∝ q_g exp(-η (2 U_g - U_g a step ago)): a guess at the next utilities damps the cycles.

    Source:
        Rakhlin and Sridharan (2013), with the last gradient as the prediction.
    """

    def follow(log_q: Array, utilities: Array, before: Array, factor: Array, cap: float) -> Array:
        predicted = 2 * utilities - before
        moved = exponentiated_gradient(log_q, predicted, step_size=step_size * factor)
        return cap_weights(moved, cap=cap)

    return follow


def argmin() -> Follow:
    """All weight on the worst-off group, or under a cap on the worst-off ones: the paper's rule."""

    def follow(log_q: Array, utilities: Array, before: Array, factor: Array, cap: float) -> Array:
        q = worst_case_weights(utilities, cap=cap)
        return jnp.where(q > 0, jnp.log(jnp.where(q > 0, q, 1)), -jnp.inf)

    return follow


def softmin(*, temperature: PositiveFloat = 0.05) -> Follow:
    """q_g ∝ exp(-U_g / temperature): a soft minimum, whose optimum is not quite MaxMin's."""

    def follow(log_q: Array, utilities: Array, before: Array, factor: Array, cap: float) -> Array:
        return cap_weights(jax.nn.log_softmax(-utilities / temperature), cap=cap)

    return follow


GROUP_WEIGHTS: Mapping[str, Callable[..., Follow]] = {
    "exponentiated_gradient": by_exponentiated_gradient,
    "optimistic": optimistic,
    "argmin": argmin,
    "softmin": softmin,
}
