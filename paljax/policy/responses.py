"""Responses drawn for many prompts, a block of prompts at a time, and what rewards make of them.

X prompts, n responses of each, T tokens, K rewards.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from numpy.typing import NDArray

from paljax.policies import Params, Policy
from paljax.policy.grid import dealt
from paljax.policy.text_policy import TextPrompts, take

# Responses that are drawn in one call: what fits beside a model's cache of keys and values.
_AT_ONCE = 512

# (prompts, tokens [B n T], mask [B n T]) -> rewards [B n K]
TextRewards = Callable[[TextPrompts, Array, Array], Float[Array, "B n K"]]


class Responses(NamedTuple):
    """Responses to every prompt, on the host."""

    tokens: NDArray[np.int32]  # [X, n, T]
    mask: NDArray[np.bool_]  # [X, n, T]
    rewards: NDArray[np.float32]  # [X, n, K]
    log_ratio: NDArray[np.float32]  # [X, n] to the reference, nats


def draw_responses(
    policy: Policy,
    rewards: TextRewards,
    params: Params,
    reference: Params,
    table: TextPrompts,
    key: Any,
    *,
    samples: int,
    grid: Mesh | None = None,
) -> Responses:
    """Draw responses and score them.

    Args:
        policy: The policy.
        rewards: What to score by.
        params: Drawn from.
        reference: Parameters that the log-ratio is to.
        table: The prompts.
        key: Of the draws; a prompt's place among the prompts decides its noise.
        samples: n.
        grid: Of devices that share the prompts, and hold the parameters in parts.

    Returns:
        The responses, prompts in order.
    """
    count = len(table.prompts.tokens)
    devices = 1 if grid is None else grid.devices.size
    at_once = math.ceil(min(count, max(1, _AT_ONCE // samples)) / devices) * devices

    @jax.jit
    def draw(
        params: Params, reference: Params, table: TextPrompts, rows: Array, key: Any
    ) -> tuple[Array, ...]:
        prompts = take(table, rows)
        prompts = prompts._replace(prompts=dealt(prompts.prompts, grid))
        drawn = policy.sample(params, key, prompts, samples)
        # Both by one function: in bfloat16 the sampler's own log-probabilities round otherwise.
        log_policy, log_reference = (
            policy.log_probs(each, prompts, drawn.tokens, drawn.mask)
            for each in (params, reference)
        )
        scored = rewards(prompts, drawn.tokens, drawn.mask)
        return drawn.tokens, drawn.mask, scored, jnp.sum(log_policy - log_reference, axis=2)

    blocks = []
    for start in range(0, count, at_once):
        # The last block is filled up with its first prompts, so that there is one program.
        rows = jnp.arange(start, start + at_once) % count
        drawn = draw(params, reference, table, rows, jax.random.fold_in(key, start))
        blocks.append([np.asarray(leaf)[: count - start] for leaf in drawn])
    return Responses(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
