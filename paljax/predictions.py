"""Margins of many comparisons under a trained model.

n comparisons, N distinct items, U users, K prototypes.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from paljax.data.batches import Tables
from paljax.data.dataset import Comparisons
from paljax.kernels import log_odds
from paljax.models import Encoded, Params, PreferenceModel, gather, margins


class EncodedTables(NamedTuple):
    """All distinct items and prompts after the model's networks."""

    items: Encoded  # leading axis N
    prompts: Encoded


class Pairs(NamedTuple):
    """Encoded sides and prompts of comparisons, leading axis n."""

    chosen: Encoded
    rejected: Encoded
    prompt: Encoded


@partial(jax.jit, static_argnames="model")
def encode(model: PreferenceModel, params: Params, tables: Tables) -> EncodedTables:
    """Send every distinct item and prompt through the networks once, without dropout."""
    return EncodedTables(
        model.encode_items(params, tables.items), model.encode_prompts(params, tables.prompts)
    )


def pair(encoded: EncodedTables, comparisons: Comparisons) -> Pairs:
    """Gather both sides and the prompt of every comparison."""
    return Pairs(
        chosen=gather(encoded.items, jnp.asarray(comparisons.chosen)),
        rejected=gather(encoded.items, jnp.asarray(comparisons.rejected)),
        prompt=gather(encoded.prompts, jnp.asarray(np.maximum(comparisons.prompt, 0))),
    )


@partial(jax.jit, static_argnames="model")
def pair_margins(
    model: PreferenceModel, params: Params, pairs: Pairs, weights: Float[Array, "n K"]
) -> Float[Array, "n"]:
    """Margin of every pair for the weights beside it, in nats."""
    return margins(model, params, (pairs.chosen, pairs.rejected), pairs.prompt, weights)


@partial(jax.jit, static_argnames="model")
def prototype_margins(model: PreferenceModel, params: Params, pairs: Pairs) -> Float[Array, "n K"]:
    """Margin of every pair under every prototype, in nats; for models linear in the weights."""
    assert model.prototype_rewards is not None
    return model.prototype_rewards(params, pairs.chosen, pairs.prompt) - model.prototype_rewards(
        params, pairs.rejected, pairs.prompt
    )


@partial(jax.jit, static_argnames="model")
def member_margins(
    model: PreferenceModel, params: Params, pairs: Pairs, weights: Float[Array, "n K"]
) -> Float[Array, "n"]:
    """Log-odds of every choice by a member of one of K groups, with the probabilities beside it.

    This is the posterior predictive and not the margin of the mean reward, see `log_odds`.
    """
    return log_odds(prototype_margins(model, params, pairs), jnp.log(weights))


def comparison_margins(
    model: PreferenceModel,
    params: Params,
    encoded: EncodedTables,
    comparisons: Comparisons,
    weights: Float[Array, "U K"],
    *,
    exclusive: bool = False,
) -> NDArray[np.float32]:
    """Margin of every comparison for the user who made it, in nats, shape [n].

    Args:
        model: The trained model.
        params: Its parameters.
        encoded: All items and prompts after the model's networks.
        comparisons: What was compared.
        weights: Weights of all users.
        exclusive: A user belongs to one prototype, and weights are the probabilities of which;
            otherwise a user is the mixture with these weights.

    Returns:
        Margins.
    """
    pairs = pair(encoded, comparisons)
    rows = jnp.take(jnp.asarray(weights), jnp.asarray(comparisons.user), axis=0)
    margins_of = member_margins if exclusive else pair_margins
    return np.asarray(margins_of(model, params, pairs, rows))
