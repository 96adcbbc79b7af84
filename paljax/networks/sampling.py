"""Texts drawn token by token from a causal language model, and their log-probabilities.

B prompts padded on the left to P tokens, n samples a prompt, T new tokens, V vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from paljax.errors import UserError
from paljax.networks.causal_lm import FULL_PRECISION, Cache, Compute, Params, forward
from paljax.networks.decoder_config import DecoderConfig


class Prompts(NamedTuple):
    """Beginnings of texts, padded on the left."""

    tokens: Int[Array, "B P"]
    mask: Bool[Array, "B P"]


class Rollouts(NamedTuple):
    """Texts drawn from a policy."""

    tokens: Int[Array, "B n T"]
    mask: Bool[Array, "B n T"]  # True up to and including the end token
    log_probs: Float[Array, "B n T"]  # nats, of the policy itself: temperature 1, nothing cut off


class Sampling(NamedTuple):
    """The distribution that tokens are drawn from.

    Cuts follow each other as in Hugging Face's: temperature, top k, then top p of what is left.
    """

    temperature: float = 1.0  # 0: the most probable token
    top_k: int | None = None  # only the k most probable tokens (and those that tie with the last)
    top_p: float | None = None  # only the most probable tokens that hold this probability together


POLICY = Sampling()  # on-policy: what is drawn from is what is trained


def sample(
    params: Params,
    key: PRNGKeyArray,
    prompts: Prompts,
    config: DecoderConfig,
    *,
    num_samples: int,
    max_tokens: int,
    end_tokens: tuple[int, ...],
    sampling: Sampling = POLICY,
    compute: Compute = FULL_PRECISION,
) -> Rollouts:
    """Draw texts that go on from prompts: one scan over tokens.

    Each prompt is read once, whatever the number of samples. The noise of a token depends on the
    key, its prompt's row, its sample's number and its place in the text alone: neither the batch's
    size nor the width of the padding changes a text.

    Args:
        params: Of the policy.
        key: Of all noise; temperature 0 uses none.
        prompts: Every one with at least one token.
        config: The network.
        num_samples: n.
        max_tokens: T.
        end_tokens: A text ends after any of these; empty, every text has T tokens.
        sampling: What to draw from. Policy gradients need `log_probs` and tokens from one
            distribution; with anything but the default they are from two.
        compute: Precision and unrolling.

    Returns:
        The texts. Masked places hold token 0 and log-probability 0.

    Raises:
        UserError: If prompts and new tokens don't fit the model's context.
    """
    check_fits(config, prompts.tokens.shape[1], max_tokens)
    batch, length = prompts.tokens.shape
    rows = batch * num_samples
    cache = _room(_read_prompts(params, prompts, config, num_samples, compute), max_tokens)
    keys = _noise_keys(key, batch, num_samples)
    ends = jnp.asarray(end_tokens, jnp.int32)
    last = jnp.repeat(prompts.tokens[:, -1], num_samples)

    def step(carry: tuple[Any, ...], place: Array) -> tuple[tuple[Any, ...], tuple[Array, ...]]:
        cache, token, alive = carry
        logits, new = forward(
            params, token[:, None], alive[:, None], config, cache=cache, compute=compute
        )
        cache = _append(cache, new, length - 1 + place)
        policy = jax.nn.log_softmax(logits[:, 0])
        drawn_from = log_distribution(logits[:, 0], sampling)
        noise_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
        drawn = _draw(drawn_from, noise_keys, greedy=sampling.temperature == 0)
        token = jnp.where(alive, drawn, 0)
        log_prob = jnp.take_along_axis(policy, token[:, None], axis=1)[:, 0]
        going_on = alive & ~(token[:, None] == ends[None]).any(axis=1)
        return (cache, token, going_on), (token, alive, jnp.where(alive, log_prob, 0))

    start = (cache, last, jnp.ones(rows, bool))
    _, steps = jax.lax.scan(step, start, jnp.arange(max_tokens))
    return Rollouts(
        *(jnp.swapaxes(each, 0, 1).reshape(batch, num_samples, max_tokens) for each in steps)
    )


def token_log_probs(
    params: Params,
    prompts: Prompts,
    tokens: Int[Array, "B n T"],
    mask: Bool[Array, "B n T"],
    config: DecoderConfig,
    *,
    compute: Compute = FULL_PRECISION,
) -> Float[Array, "B n T"]:
    """Log-probability of every token of texts that go on from prompts, at temperature 1.

    Each prompt is read once for its n texts, and gradients flow through that reading.

    Args:
        params: Of the policy.
        prompts: Every one with at least one token.
        tokens: The texts.
        mask: True up to and including the end token.
        config: The network.
        compute: Precision, checkpointing and unrolling.

    Returns:
        Nats, 0 where masked.

    Raises:
        UserError: If prompts and texts don't fit the model's context.
    """
    num_samples, length = tokens.shape[1:]
    check_fits(config, prompts.tokens.shape[1], length)
    cache = _read_prompts(params, prompts, config, num_samples, compute)
    flat, flat_mask = (each.reshape(-1, length) for each in (tokens, mask))
    first = jnp.repeat(prompts.tokens[:, -1:], num_samples, axis=0)
    inputs = jnp.concatenate([first, flat[:, :-1]], axis=1)
    # A token is predicted from the one before it: inputs count where their successor does.
    inputs_mask = jnp.concatenate([jnp.ones_like(flat_mask[:, :1]), flat_mask[:, :-1]], axis=1)
    logits, _ = forward(params, inputs, inputs_mask, config, cache=cache, compute=compute)
    chosen = jnp.take_along_axis(logits, flat[..., None], axis=-1)[..., 0]
    log_probs = chosen - jax.nn.logsumexp(logits, axis=-1)
    return jnp.where(flat_mask, log_probs, 0).reshape(tokens.shape)


def log_distribution(logits: Float[Array, "R V"], sampling: Sampling) -> Float[Array, "R V"]:
    """Log-probabilities of what is drawn from; -inf for tokens that are cut off.

    No sort: thresholds are found bit by bit, which costs the same for any k and p and is fast on
    every device.

    Source:
        Top p: Holtzman et al., arXiv 1904.09751, section 3.1.
    """
    if sampling.temperature == 0:
        best = logits.argmax(axis=-1)
        return jnp.where(jax.nn.one_hot(best, logits.shape[-1], dtype=bool), 0.0, -jnp.inf)
    log_probs = jax.nn.log_softmax(logits / sampling.temperature)
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        counts = jnp.ones_like(log_probs)
        log_probs = _keep_most_probable(log_probs, counts, float(sampling.top_k))
    if sampling.top_p is not None and sampling.top_p < 1:
        log_probs = _keep_most_probable(log_probs, jnp.exp(log_probs), sampling.top_p)
    return log_probs


def check_fits(config: DecoderConfig, prompt: int, new: int) -> None:
    """Refuse prompts and texts that are together longer than the model's context."""
    if prompt + new > config.context:
        raise UserError(
            f"prompts of {prompt} tokens and {new} new ones don't fit the model's context of "
            f"{config.context}; at most {max(config.context - new, 0)} tokens are left for prompts"
        )


def _keep_most_probable(
    log_probs: Float[Array, "R V"], weights: Float[Array, "R V"], enough: float
) -> Float[Array, "R V"]:
    """Keep the fewest of the most probable tokens whose weights sum to enough, renormalised.

    Non-negative floats are ordered as their bits are: the largest threshold above which enough
    weight lies is built from its highest bit down.
    """
    bits = jax.lax.bitcast_convert_type(jnp.exp(log_probs).astype(jnp.float32), jnp.int32)

    def refine(place: Array, threshold: Array) -> Array:
        higher = threshold | jnp.left_shift(jnp.int32(1), 30 - place)
        above = jnp.where(bits >= higher[:, None], weights, 0).sum(axis=-1)
        return jnp.where(above >= enough, higher, threshold)

    threshold = jax.lax.fori_loop(0, 31, refine, jnp.zeros(bits.shape[0], jnp.int32))
    return jax.nn.log_softmax(jnp.where(bits >= threshold[:, None], log_probs, -jnp.inf))


def _noise_keys(key: PRNGKeyArray, batch: int, num_samples: int) -> PRNGKeyArray:
    """A key for every text, by its prompt's row and its number among the prompt's samples."""
    number = jax.vmap(jax.random.fold_in, (None, 0))
    by_prompt = number(key, jnp.arange(batch))
    by_sample = jax.vmap(number, (0, None))(by_prompt, jnp.arange(num_samples))
    return by_sample.reshape(batch * num_samples)


def _draw(log_probs: Float[Array, "R V"], keys: PRNGKeyArray, *, greedy: bool) -> Int[Array, "R"]:
    """A token a row: what `jax.random.categorical` draws, by the Gumbel-max trick."""
    if greedy:
        return _first_largest(log_probs)
    tokens = log_probs.shape[-1:]
    noise = jax.vmap(lambda key: jax.random.gumbel(key, tokens, log_probs.dtype))(keys)
    return _first_largest(log_probs + noise)


def _first_largest(scores: Float[Array, "R V"]) -> Int[Array, "R"]:
    """The argmax as two plain reductions: XLA's own of pairs is not vectorised on CPUs."""
    V = scores.shape[-1]
    largest = scores == scores.max(axis=-1, keepdims=True)
    return jnp.where(largest, jnp.arange(V, dtype=jnp.int32)[None], V).min(axis=-1)


def _read_prompts(
    params: Params, prompts: Prompts, config: DecoderConfig, num_samples: int, compute: Compute
) -> Cache:
    """Keys and values of all but the prompts' last tokens, one copy a sample."""
    tokens, mask = prompts.tokens[:, :-1], prompts.mask[:, :-1]
    _, cache = forward(params, tokens, mask, config, last=0, compute=compute)
    keys, values = (jnp.repeat(each, num_samples, axis=1) for each in cache[:2])
    return Cache(keys, values, jnp.repeat(mask, num_samples, axis=0))


def _room(cache: Cache, more: int) -> Cache:
    """The cache with empty places for more tokens."""
    room = [(0, 0), (0, 0), (0, 0), (0, more), (0, 0)]
    keys, values = (jnp.pad(each, room) for each in cache[:2])
    return Cache(keys, values, jnp.pad(cache.mask, [(0, 0), (0, more)]))


def _append(cache: Cache, new: Cache, place: Array) -> Cache:
    """Put one token's keys and values at this place."""
    keys, values = (
        jax.lax.dynamic_update_slice_in_dim(old, fresh, place, axis=3)
        for old, fresh in zip(cache[:2], new[:2], strict=True)
    )
    mask = jax.lax.dynamic_update_slice_in_dim(cache.mask, new.mask, place, axis=1)
    return Cache(keys, values, mask)
