"""Rewards of texts that are known functions: what groups want, without learning it from people.

A policy on them shows what stage 1 costs: here nothing is lost to it.
B prompts, n responses of each, T tokens, K functions.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from paljax.policy.decoding import Decoder
from paljax.policy.responses import TextRewards
from paljax.policy.text_policy import TextPrompts
from paljax.text_functions import functions_of


def of_functions(names: Sequence[str], decoder: Decoder) -> TextRewards:
    """Functions of the responses' texts as rewards; the host reads texts in the middle of a step.

    Args:
        names: K names of `TEXT_FUNCTIONS`.
        decoder: Makes texts of tokens.

    Returns:
        Rewards, a column a function, in whatever unit the functions have.

    Raises:
        UserError: If a function can't be computed on this machine.
    """
    functions = functions_of(names)

    def score(tokens: NDArray[np.int32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        texts = decoder.texts(tokens, mask)
        columns = np.stack([function(texts) for function in functions], axis=1)
        return columns.reshape(*tokens.shape[:2], -1).astype(np.float32)

    def rewards(
        prompts: TextPrompts, tokens: Int[Array, "B n T"], mask: Bool[Array, "B n T"]
    ) -> Float[Array, "B n K"]:
        shape = jax.ShapeDtypeStruct((*tokens.shape[:2], len(names)), jnp.float32)
        scored: Array = jax.pure_callback(score, shape, tokens, mask)
        return scored

    return rewards
