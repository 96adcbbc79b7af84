"""A language model as a policy of the training loop: prompts carry what is frozen.

A model's frozen parameters are an argument of every step and no part of the learner's state: with
LoRA the state, its average and its checkpoints hold the low-rank parts alone, and one copy of the
base serves the policy, the reference, and the rewards that read its states.

B prompts, n responses of each, T tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from paljax.networks import lora
from paljax.networks.causal_lm import Params
from paljax.networks.sampling import Prompts
from paljax.policies import Policy, Samples
from paljax.policy.language_model import LanguagePolicy
from paljax.policy.normalize_rewards import Calibration, at_prompts


class TextPrompts(NamedTuple):
    """Prompts with all that is frozen: what a step takes, and what stays on the device."""

    prompts: Prompts  # leading axis B
    reward_inputs: Any  # what a reward that looks at prompts reads, leading axis B; None
    calibration: Calibration  # of these prompts
    language_model: Params  # what training starts from
    readers: Any = None  # parameters of other models that rewards read responses by, by name


def take(table: TextPrompts, rows: Int[Array, "B"]) -> TextPrompts:
    """Some of the prompts; what is frozen stays."""

    def at(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), tree)

    return table._replace(
        prompts=at(table.prompts),
        reward_inputs=at(table.reward_inputs),
        calibration=at_prompts(table.calibration, rows),
    )


def text_policy(policy: LanguagePolicy, *, low_rank: bool) -> Policy:
    """A language model by the policy contract, on `TextPrompts`.

    Args:
        policy: Of `language_model_policy`.
        low_rank: Whether it was made with `lora_options`.

    Returns:
        The policy. Its parameters are the language model's, or with LoRA the low-rank parts.
    """

    def whole(params: Params, prompts: TextPrompts) -> Params:
        return lora.with_parts(prompts.language_model, params) if low_rank else params

    def init(key: PRNGKeyArray) -> Params:
        params = policy.init(key)
        return lora.low_rank_parts(params) if low_rank else params

    def sample(
        params: Params, key: PRNGKeyArray, prompts: TextPrompts, num_samples: int
    ) -> Samples:
        return policy.sample(whole(params, prompts), key, prompts.prompts, num_samples)

    def log_probs(
        params: Params,
        prompts: TextPrompts,
        tokens: Int[Array, "B n T"],
        mask: Bool[Array, "B n T"],
    ) -> Float[Array, "B n T"]:
        return policy.log_probs(whole(params, prompts), prompts.prompts, tokens, mask)

    def reference(params: Params) -> Params:
        # Fresh low-rank parts change nothing: with LoRA these are the base itself.
        return jax.tree.map(jnp.array, params)

    return Policy(init, sample, log_probs, lora.trainable, reference)
