"""Bradley-Terry: one reward that all users share, and the shared part of personalised models.

N items, D item width, B gathered rows, K prototypes.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from paljax.models.preference import Encoded, Inputs, Params, PreferenceModel, no_prompts
from paljax.networks import MLP, Activation, outputs
from paljax.ranges import Count, PositiveInt, Probability


def bradley_terry(
    *,
    hidden_layers: Count = 1,
    hidden_width: PositiveInt = 64,
    activation: Activation = "gelu",
    dropout: Probability = 0.0,
) -> PreferenceModel:
    """One MLP reward b(x) for everybody.

    Args:
        hidden_layers: Number of hidden layers; 0 is a linear reward.
        hidden_width: Width of the hidden layers.
        activation: gelu or relu.
        dropout: Probability of dropping a hidden unit, in [0, 1).

    Returns:
        A model with K = 1, so that the rewards per prototype are [N, 1].

    Source:
        Bradley and Terry (1952); as a reward model, Ouyang et al., arXiv 2203.02155, equation 1.
    """
    # No bias: a constant reward changes no choice.
    network = MLP(1, hidden_layers, hidden_width, activation, dropout, use_bias=False)

    def init(key: PRNGKeyArray, items: Array, prompts: Inputs | None) -> Params:
        return {"shared": network.init(jax.random.fold_in(key, 0), items)["params"]}

    def encode_items(
        params: Params, inputs: Array, *, dropout_key: PRNGKeyArray | None = None
    ) -> Float[Array, "N"]:
        return outputs(network, params["shared"], inputs, dropout_key=dropout_key, part=0)[:, 0]

    def rewards(
        params: Params, items: Encoded, prompts: Encoded, weights: Float[Array, "B 1"]
    ) -> Float[Array, "B"]:
        return jnp.asarray(items)

    def prototype_rewards(params: Params, items: Encoded, prompts: Encoded) -> Float[Array, "B 1"]:
        return jnp.asarray(items)[:, None]

    return PreferenceModel(
        num_prototypes=1,
        uses_prompts=False,
        init=init,
        encode_items=encode_items,
        encode_prompts=no_prompts,
        rewards=rewards,
        prototype_rewards=prototype_rewards,
    )


def with_shared_reward(personal: PreferenceModel, shared: PreferenceModel) -> PreferenceModel:
    """A personalised model plus a reward that all users share, r_w(x) = b(x) + Σ_k w_k r_k(x).

    The shared part starts from the same parameters as a Bradley-Terry model of the same key.

    Args:
        personal: The personalised part; its parameters must not use the name "shared".
        shared: The model of `bradley_terry`.

    Returns:
        A model with the prototypes of the personalised part.

    Source:
        paljax's design, section 2.1: the nesting that keeps personalisation from losing to the
        shared reward.
    """

    def init(key: PRNGKeyArray, items: Inputs, prompts: Inputs | None) -> Params:
        return shared.init(key, items, prompts) | personal.init(key, items, prompts)

    def encode_items(
        params: Params, inputs: Inputs, *, dropout_key: PRNGKeyArray | None = None
    ) -> tuple[Encoded, Encoded]:
        return (
            shared.encode_items(params, inputs, dropout_key=dropout_key),
            personal.encode_items(params, inputs, dropout_key=dropout_key),
        )

    def rewards(
        params: Params,
        items: tuple[Encoded, Encoded],
        prompts: Encoded,
        weights: Float[Array, "B K"],
    ) -> Float[Array, "B"]:
        shared_items, personal_items = items
        return shared.rewards(params, shared_items, prompts, weights) + personal.rewards(
            params, personal_items, prompts, weights
        )

    def prototype_rewards(
        params: Params, items: tuple[Encoded, Encoded], prompts: Encoded
    ) -> Float[Array, "B K"]:
        shared_items, personal_items = items
        assert personal.prototype_rewards is not None
        assert shared.prototype_rewards is not None
        # [B, 1] + [B, K]: every prototype carries the shared reward, and weights sum to one.
        return shared.prototype_rewards(params, shared_items, prompts) + personal.prototype_rewards(
            params, personal_items, prompts
        )

    return personal._replace(
        init=init,
        encode_items=encode_items,
        rewards=rewards,
        prototype_rewards=prototype_rewards if personal.prototype_rewards is not None else None,
    )
