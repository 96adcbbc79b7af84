"""A causal language model as a policy: responses are texts that go on from a prompt.

B prompts padded on the left, n samples a prompt, T new tokens.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from paljax.errors import UserError
from paljax.networks import causal_lm, lora, sampling
from paljax.networks.causal_lm import FULL_PRECISION, Compute, Params
from paljax.networks.decoder_config import DecoderConfig
from paljax.networks.sampling import POLICY, Prompts, Sampling
from paljax.policies import Samples


class LanguagePolicy(NamedTuple):
    """A policy as pure functions of its parameters."""

    # (key) -> params
    init: Callable[[PRNGKeyArray], Params]
    # (params, key, prompts, num_samples) -> Samples
    sample: Callable[[Params, PRNGKeyArray, Prompts, int], Samples]
    # (params, prompts, tokens [B n T], mask [B n T]) -> [B n T], nats, 0 where masked
    log_probs: Callable[[Params, Prompts, Array, Array], Array]


class Lora(NamedTuple):
    """Train low-rank parts of some layers only; see `lora.add_lora`."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("query", "value")


def language_model_policy(
    config: DecoderConfig,
    params: Params | None = None,
    *,
    max_tokens: int,
    end_tokens: tuple[int, ...] | None = None,
    lora_options: Lora | None = None,
    draw_from: Sampling = POLICY,
    compute: Compute = FULL_PRECISION,
) -> LanguagePolicy:
    """Make a policy of a language model.

    Args:
        config: The network.
        params: What training starts from, host arrays will do; without, random ones.
        max_tokens: T; longer responses are cut.
        end_tokens: A response ends after any of these; without, the model's own.
        lora_options: Train low-rank parts and leave the rest alone; without, train everything.
        draw_from: What responses are drawn from. `log_probs` are always the policy's own, so
            that with another temperature or a cut the learner's ratios start at 1 still, but its
            gradient is no longer on-policy, nor are the utilities and the KL of a step.
        compute: Precision, checkpointing and unrolling.

    Returns:
        The policy. With LoRA its parameters hold base and low-rank parts, and gradients of the base
        are zero: mask the optimiser with `lora.trainable`, so that it keeps no moments for them.

    Raises:
        UserError: If the end token is not in the vocabulary.
    """
    ends = config.end_tokens if end_tokens is None else end_tokens
    if outside := [token for token in ends if not 0 <= token < config.vocabulary]:
        raise UserError(
            f"end token {outside[0]} is not in the model's vocabulary of {config.vocabulary}"
        )

    def init(key: PRNGKeyArray) -> Params:
        base = causal_lm.init(key, config) if params is None else jax.tree.map(jnp.array, params)
        if lora_options is None:
            return base
        return lora.add_lora(base, jax.random.fold_in(key, 1), **lora_options._asdict())

    def sample(params: Params, key: PRNGKeyArray, prompts: Prompts, num_samples: int) -> Samples:
        drawn = sampling.sample(
            params,
            key,
            prompts,
            config,
            num_samples=num_samples,
            max_tokens=max_tokens,
            end_tokens=ends,
            sampling=draw_from,
            compute=compute,
        )
        return Samples(*drawn)

    def log_probs(
        params: Params,
        prompts: Prompts,
        tokens: Int[Array, "B n T"],
        mask: Bool[Array, "B n T"],
    ) -> Float[Array, "B n T"]:
        trained = lora.freeze_base(params)
        return sampling.token_log_probs(trained, prompts, tokens, mask, config, compute=compute)

    return LanguagePolicy(init, sample, log_probs)


def left_padded(
    texts: list[list[int]], *, context: int, max_tokens: int, names: Sequence[str] | None = None
) -> Prompts:
    """Prompts of several lengths as one batch.

    Args:
        texts: Token ids of every prompt.
        context: Of the model.
        max_tokens: T, room that responses need.
        names: What errors call the prompts; without, their places in the list.

    Raises:
        UserError: If there is no prompt, one is empty, or one is too long; it is named.
    """
    if not texts:
        raise UserError("there are no prompts")
    length = max(map(len, texts))
    called = names or [f"prompt {place + 1} of {len(texts)}" for place in range(len(texts))]
    for name, text in zip(called, texts, strict=True):
        if not text:
            raise UserError(f"{name} is empty")
        if len(text) + max_tokens > context:
            raise UserError(
                f"{name} has {len(text)} tokens; with {max_tokens} new ones that is more than the "
                f"model's context of {context}"
            )
    tokens = jnp.array([[0] * (length - len(text)) + text for text in texts], jnp.int32)
    lengths = jnp.array([len(text) for text in texts])
    return Prompts(tokens, jnp.arange(length)[None] >= length - lengths[:, None])
