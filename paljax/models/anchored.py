"""Personal rewards as deviations from a shared reward that stays as it is.

B gathered rows, K prototypes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from paljax.kernels import mix
from paljax.models.preference import Encoded, Inputs, Params, PreferenceModel

ANCHOR = "anchor"  # the shared reward's place among the parameters, which no optimiser moves


class _Encoded(NamedTuple):
    anchor: Encoded
    personal: Encoded


def anchored(personal: PreferenceModel, anchor: PreferenceModel) -> PreferenceModel:
    """r_w(x) = b(x) + Σ_k (w_k - 1/K) r_k(x), where b is given and only the r_k are learned.

    The population's weights are 1/K, so that a user without data has the reward b exactly: what is
    personal can't make anything worse for people of whom nothing is known. `with_shared_reward`
    learns b and r_k together; then b is the best reward beside the r_k, and b + Σ_k w̄_k r_k is not
    the best for everybody.

    Args:
        personal: Gives the r_k; margins must be linear in the weights.
        anchor: Gives b; a model with one prototype. Its parameters are under `ANCHOR`, whose
            gradient is zero.

    Returns:
        A model with the prototypes of the personal part.

    Raises:
        ValueError: If the personal part has no reward for each prototype.

    Source:
        paljax's design, section 2.1, with Σ_k w̄_k r_k = 0.
    """
    if personal.prototype_rewards is None:
        raise ValueError("anchored needs a model whose margins are linear in the weights")
    rewards_of_prototypes = personal.prototype_rewards

    def init(key: PRNGKeyArray, items: Inputs, prompts: Inputs | None) -> Params:
        held = anchor.init(key, items, prompts)
        return {ANCHOR: held} | personal.init(key, items, prompts)

    def encode_items(
        params: Params, inputs: Inputs, *, dropout_key: PRNGKeyArray | None = None
    ) -> Encoded:
        held = jax.lax.stop_gradient(params[ANCHOR])
        return _Encoded(
            anchor.encode_items(held, inputs),  # as it is, without dropout
            personal.encode_items(params, inputs, dropout_key=dropout_key),
        )

    def anchor_rewards(params: Params, items: _Encoded, prompts: Encoded) -> Float[Array, "B"]:
        everybody = jnp.ones((len(jax.tree.leaves(items.anchor)[0]), 1))
        held = jax.lax.stop_gradient(params[ANCHOR])
        return anchor.rewards(held, items.anchor, prompts, everybody)

    def rewards(
        params: Params, items: _Encoded, prompts: Encoded, weights: Float[Array, "B K"]
    ) -> Float[Array, "B"]:
        deviation = weights - 1 / personal.num_prototypes
        own = rewards_of_prototypes(params, items.personal, prompts)
        return anchor_rewards(params, items, prompts) + mix(own, deviation)

    def prototype_rewards(params: Params, items: _Encoded, prompts: Encoded) -> Float[Array, "B K"]:
        own = rewards_of_prototypes(params, items.personal, prompts)
        centred = own - jnp.mean(own, axis=1, keepdims=True)
        return anchor_rewards(params, items, prompts)[:, None] + centred

    return personal._replace(
        even_population=True,
        init=init,
        encode_items=encode_items,
        rewards=rewards,
        prototype_rewards=prototype_rewards,
    )
