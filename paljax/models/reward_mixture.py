"""Reward mixtures: K rewards, of which a user has one, and nobody knows which.

N items, D item width, K rewards, B gathered rows.
"""

from typing import Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from paljax.kernels import mix
from paljax.models.preference import (
    Encoded,
    Inputs,
    Params,
    PreferenceModel,
    encoded_rewards,
    no_prompts,
)
from paljax.networks import MLP, Activation, BatchedMLP, outputs
from paljax.ranges import Count, PositiveInt, Probability


def reward_mixture(
    *,
    num_prototypes: PositiveInt,
    trunk: Literal["common", "separate"] = "common",
    hidden_layers: Count = 1,
    hidden_width: PositiveInt = 64,
    activation: Activation = "gelu",
    dropout: Probability = 0.0,
) -> PreferenceModel:
    """K MLP rewards r_k(x), the prototypes, with one trunk or a trunk each.

    The model says what the groups want. Who belongs to which is for the learner: `fit_by_em` takes
    a user's weights for the probabilities of the groups; with the other learners a user is a
    mixture of the rewards, as in PAL.

    Args:
        num_prototypes: K >= 1; with one reward the model is `bradley_terry`.
        trunk: common, one network with K outputs; separate, K networks.
        hidden_layers: Number of hidden layers; 0 makes every reward linear.
        hidden_width: Width of the hidden layers.
        activation: gelu or relu.
        dropout: Probability of dropping a hidden unit, in [0, 1).

    Returns:
        The model; margins are linear in the weights.

    Source:
        MaxMin-RLHF, arXiv 2402.08925, section 4 and algorithm 2; the common trunk is ours.
    """
    # No bias in the last layer: a constant reward changes no choice.
    settings = {
        "hidden_layers": hidden_layers,
        "hidden_width": hidden_width,
        "activation": activation,
        "dropout": dropout,
        "use_bias": False,
    }
    network: nn.Module
    if trunk == "common":
        network = MLP(num_prototypes, **settings)  # type: ignore[arg-type]
    else:
        network = BatchedMLP(num_prototypes, width=1, **settings)

    def init(key: PRNGKeyArray, items: Array, prompts: Inputs | None) -> Params:
        return {"mixture": network.init(jax.random.fold_in(key, 1), items)["params"]}

    def encode_items(
        params: Params, inputs: Array, *, dropout_key: PRNGKeyArray | None = None
    ) -> Float[Array, "N K"]:
        rewards = outputs(network, params["mixture"], inputs, dropout_key=dropout_key, part=1)
        return rewards.reshape(len(rewards), num_prototypes)

    def rewards(
        params: Params, items: Encoded, prompts: Encoded, weights: Float[Array, "B K"]
    ) -> Float[Array, "B"]:
        return mix(items, weights)

    return PreferenceModel(
        num_prototypes=num_prototypes,
        uses_prompts=False,
        init=init,
        encode_items=encode_items,
        encode_prompts=no_prompts,
        rewards=rewards,
        prototype_rewards=encoded_rewards,
    )
