"""Policies whose actions can be enumerated: a table of items, and sequences by their prefixes.

X prompts, Y actions, V tokens with the end token last, T the most tokens of a sequence. Parameters
are tilts of the reference's log-probabilities, so that zeros are the reference policy, and prompts
are their numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from numpy.typing import NDArray

from paljax.policies.contract import Actions, Params, Policy, Samples


def categorical(log_reference: Float[Array, "X Y"]) -> Policy:
    """One item of a table for every prompt; a response is one token, the item's number.

    Args:
        log_reference: Log of the reference policy, each row normalised; -inf forbids an item.

    Returns:
        The policy, π(y | x) ∝ π_ref(y | x) exp(tilt_xy).
    """
    log_reference = jnp.asarray(log_reference)
    num_items = log_reference.shape[1]

    def init(key: PRNGKeyArray) -> Params:
        return {"tilts": jnp.zeros_like(log_reference)}

    def log_policy(params: Params, prompts: Int[Array, "B"]) -> Float[Array, "B Y"]:
        tilted = jnp.take(log_reference + params["tilts"], prompts, axis=0)
        return jax.nn.log_softmax(tilted, axis=1)

    def log_probs(
        params: Params,
        prompts: Int[Array, "B"],
        tokens: Int[Array, "B n T"],
        mask: Bool[Array, "B n T"],
    ) -> Float[Array, "B n T"]:
        chosen = jnp.take_along_axis(log_policy(params, prompts), tokens[:, :, 0], axis=1)
        return jnp.where(mask, chosen[:, :, None], 0)

    def sample(
        params: Params, key: PRNGKeyArray, prompts: Int[Array, "B"], num_samples: int
    ) -> Samples:
        logits = log_policy(params, prompts)
        shape = (num_samples, len(prompts))
        tokens = jax.random.categorical(key, logits, axis=1, shape=shape).T[:, :, None]
        mask = jnp.ones(tokens.shape, bool)
        return Samples(tokens, mask, log_probs(params, prompts, tokens, mask))

    actions = Actions(log_policy, lambda tokens, mask: tokens[:, :, 0], num_items)
    return Policy(init, sample, log_probs, _everything, _copy, actions)


class Sequences(NamedTuple):
    """All sequences of at most T tokens that end with the end token or have no room for it.

    Prefixes without an end are numbered as a heap: the root is 0, and prefix i followed by token a
    is i (V - 1) + 1 + a.
    """

    tokens: NDArray[np.int32]  # [Y, T], padded with the end token
    mask: NDArray[np.bool_]  # [Y, T]
    number: NDArray[np.int32]  # [S, V]: the sequence whose last token follows a prefix; -1: goes on
    vocabulary: int  # V

    @property
    def length(self) -> int:
        """T."""
        return int(self.tokens.shape[1])


def sequences(num_letters: int, length: int) -> Sequences:
    """Enumerate the sequences over so many letters and an end, of at most `length` tokens."""
    vocabulary = num_letters + 1
    num_prefixes = sum(num_letters**depth for depth in range(length))
    number = np.full((num_prefixes, vocabulary), -1, np.int32)
    found: list[list[int]] = []

    def finish(prefix: list[int], place: int, token: int) -> None:
        number[place, token] = len(found)
        found.append([*prefix, token])

    level: list[tuple[list[int], int]] = [([], 0)]
    for depth in range(length):
        for prefix, place in level:
            for token in range(vocabulary):
                if token == num_letters or depth == length - 1:
                    finish(prefix, place, token)
        level = [
            ([*prefix, letter], place * num_letters + 1 + letter)
            for prefix, place in level
            for letter in range(num_letters)
        ]
    lengths = np.array([len(tokens) for tokens in found])
    padded = [tokens + [num_letters] * (length - len(tokens)) for tokens in found]
    mask = np.arange(length)[None, :] < lengths[:, None]
    return Sequences(np.array(padded, np.int32), mask, number, vocabulary)


def tabular_autoregressive(num_prompts: int, space: Sequences) -> Policy:
    """A next-token distribution for every prompt and prefix, each token's reference uniform.

    Args:
        num_prompts: X.
        space: The sequences.

    Returns:
        The policy.
    """
    num_prefixes, vocabulary = space.number.shape
    num_letters, length = vocabulary - 1, space.length
    number = jnp.asarray(space.number)
    all_tokens, all_masks = jnp.asarray(space.tokens), jnp.asarray(space.mask)

    def init(key: PRNGKeyArray) -> Params:
        return {"tilts": jnp.zeros((num_prompts, num_prefixes, vocabulary))}

    def prefixes(tokens: Int[Array, "B n T"], mask: Bool[Array, "B n T"]) -> Int[Array, "B n T"]:
        """The prefix before every token; 0 behind the end."""
        places = [jnp.zeros(tokens.shape[:2], tokens.dtype)]
        for step in range(length - 1):
            places.append(places[-1] * num_letters + 1 + tokens[:, :, step])
        return jnp.where(mask, jnp.stack(places, axis=2), 0)

    def log_probs(
        params: Params,
        prompts: Int[Array, "B"],
        tokens: Int[Array, "B n T"],
        mask: Bool[Array, "B n T"],
    ) -> Float[Array, "B n T"]:
        log_next = jax.nn.log_softmax(jnp.take(params["tilts"], prompts, axis=0), axis=2)
        flat = log_next.reshape(len(prompts), -1)
        places = prefixes(tokens, mask) * vocabulary + tokens
        chosen = jnp.take_along_axis(flat, places.reshape(len(prompts), -1), axis=1)
        return jnp.where(mask, chosen.reshape(tokens.shape), 0)

    def sample(
        params: Params, key: PRNGKeyArray, prompts: Int[Array, "B"], num_samples: int
    ) -> Samples:
        log_next = jax.nn.log_softmax(jnp.take(params["tilts"], prompts, axis=0), axis=2)

        def draw(carry: tuple[Array, Array], key: PRNGKeyArray) -> Any:
            place, going = carry
            logits = jnp.take_along_axis(log_next, place[:, :, None], axis=1)
            token = jnp.where(going, jax.random.categorical(key, logits, axis=2), num_letters)
            token = token.astype(jnp.int32)
            goes_on = going & (token < num_letters)
            place = jnp.where(goes_on, place * num_letters + 1 + token, place)
            # Behind the last letter there is no prefix to look up.
            return (jnp.minimum(place, num_prefixes - 1), goes_on), (token, going)

        start = jnp.zeros((len(prompts), num_samples), jnp.int32)
        keys = jax.random.split(key, length)
        _, (tokens, mask) = jax.lax.scan(draw, (start, jnp.ones(start.shape, bool)), keys)
        tokens, mask = jnp.moveaxis(tokens, 0, 2), jnp.moveaxis(mask, 0, 2)
        return Samples(tokens, mask, log_probs(params, prompts, tokens, mask))

    def log_policy(params: Params, prompts: Int[Array, "B"]) -> Float[Array, "B Y"]:
        shape = (len(prompts), *all_tokens.shape)
        tokens, mask = jnp.broadcast_to(all_tokens, shape), jnp.broadcast_to(all_masks, shape)
        return jnp.sum(log_probs(params, prompts, tokens, mask), axis=2)

    def number_of(tokens: Int[Array, "B n T"], mask: Bool[Array, "B n T"]) -> Int[Array, "B n"]:
        last = jnp.sum(mask, axis=2, keepdims=True) - 1
        place = jnp.take_along_axis(prefixes(tokens, mask), last, axis=2)[:, :, 0]
        return number[place, jnp.take_along_axis(tokens, last, axis=2)[:, :, 0]]

    actions = Actions(log_policy, number_of, len(space.tokens))
    return Policy(init, sample, log_probs, _everything, _copy, actions)


def _everything(params: Params) -> Any:
    return jax.tree.map(lambda _: True, params)


def _copy(params: Params) -> Params:
    return jax.tree.map(jnp.array, params)
