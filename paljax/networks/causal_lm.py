"""A causal language model: one pre-norm decoder that is GPT-2, Llama, Qwen2 or Qwen3 by its config.

The layers are one block, its parameters stacked along a leading axis and run by one scan: compile
time does not grow with depth, and one sharding rule holds for every layer. Keys and values of
earlier tokens come in as arrays and those of new tokens go out; nothing is updated in place here,
so the same function trains, scores and samples.

B sequences, T new tokens, S cached tokens, D width, V vocabulary, L layers, H query heads, J heads
of keys and values, G = H / J queries that share one, h head width.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from paljax.networks.decoder_config import DecoderConfig
from paljax.networks.rotary import Turns, rotate, rotations

Params = Any  # nested dict of arrays, as `init` builds it

# Score of a forbidden key. Finite, so that a row of padding without any key stays finite, and far
# below any real score, so that its weight is exactly 0 elsewhere.
_FORBIDDEN = -1e30


class Cache(NamedTuple):
    """Keys (rotated) and values of earlier tokens, and which of them count."""

    keys: Float[Array, "L B J S h"]
    values: Float[Array, "L B J S h"]
    mask: Bool[Array, "B S"]


class Places(NamedTuple):
    """How the stream lies on several devices between the layers, by what is run."""

    passes: jax.sharding.Sharding  # of [B, T, D], whole texts
    tokens: jax.sharding.Sharding  # of [B, 1, D], one new token of each text


class Compute(NamedTuple):
    """How the network is run; it changes precision, memory and speed, never the function."""

    dtype: Any = jnp.float32  # of activations and products; norms, softmax and logits are float32
    remat: bool = False  # recompute a layer's activations in the backward pass
    unroll: int = 1  # layers a step of the scan; more is faster on CPU and slower to compile
    places: Places | None = None  # None: one device


FULL_PRECISION = Compute()


class Linear(nn.Module):
    """x W (+ b), plus a low-rank part where `lora.add_lora` has put one beside W."""

    features: int
    use_bias: bool
    dtype: Any
    spread: float = 0.02  # standard deviation of the initial weights

    @nn.compact
    def __call__(self, inputs: Float[Array, "... d"]) -> Float[Array, "... f"]:
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(self.spread), shape)
        outputs = inputs @ kernel.astype(self.dtype)
        if self.has_variable("params", "lora_a"):
            down: Array = self.get_variable("params", "lora_a").astype(self.dtype)
            up: Array = self.get_variable("params", "lora_b").astype(self.dtype)
            scale: Array = self.get_variable("params", "lora_scale").astype(self.dtype)
            outputs = outputs + scale * ((inputs @ down) @ up)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            outputs = outputs + jnp.broadcast_to(bias.astype(self.dtype), outputs.shape)
        return outputs


class Norm(nn.Module):
    """Layer norm or root-mean-square norm over the last axis, in float32."""

    epsilon: float
    centred: bool
    dtype: Any

    @nn.compact
    def __call__(self, inputs: Float[Array, "... d"]) -> Float[Array, "... d"]:
        width = inputs.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        exact = inputs.astype(jnp.float32)
        if self.centred:
            exact = exact - exact.mean(axis=-1, keepdims=True)
        variance = jnp.square(exact).mean(axis=-1, keepdims=True)
        outputs = exact * jax.lax.rsqrt(variance + self.epsilon)
        outputs = outputs * jnp.broadcast_to(scale.astype(jnp.float32), outputs.shape)
        if self.centred:
            bias = self.param("bias", nn.initializers.zeros, width)
            outputs = outputs + jnp.broadcast_to(bias.astype(jnp.float32), outputs.shape)
        return outputs.astype(self.dtype)


class Block(nn.Module):
    """One layer: attention, then the feed-forward, each on a norm of the stream and added to it."""

    config: DecoderConfig
    dtype: Any
    places: Places | None = None

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B T D"],
        past: tuple[Float[Array, "B J S h"], Float[Array, "B J S h"]] | None,
        turns: Turns | None,
        allowed: tuple[Bool[Array, "B 1 S"] | None, Bool[Array, "B T T"]],
    ) -> tuple[Float[Array, "B T D"], tuple[Array, Array]]:
        config = self.config
        hidden = _place(hidden, self.places)
        inputs = self._norm("attention_norm")(hidden)
        query, key, value = (
            self._heads(inputs, name, heads)
            for name, heads in [
                ("query", config.heads),
                ("key", config.kv_heads),
                ("value", config.kv_heads),
            ]
        )
        if config.qk_norm:
            query, key = self._rms("query_norm")(query), self._rms("key_norm")(key)
        if turns is not None:
            query, key = rotate(query, turns), rotate(key, turns)
        attended = attend(query, key, value, past, allowed)
        hidden = hidden + self._linear("output", config.width, config.output_bias)(attended)
        inputs = self._norm("mlp_norm")(hidden)
        inner = self._linear("up", config.mlp_width, config.mlp_bias)(inputs)
        if config.gated:
            inner = inner * jax.nn.silu(
                self._linear("gate", config.mlp_width, config.mlp_bias)(inputs)
            )
        else:
            inner = jax.nn.gelu(inner, approximate=True)
        hidden = hidden + self._linear("down", config.width, config.mlp_bias)(inner)
        return _place(hidden, self.places), (key, value)

    def _heads(self, inputs: Array, name: str, heads: int) -> Float[Array, "B n T h"]:
        config = self.config
        flat = self._linear(name, heads * config.head_width, config.qkv_bias)(inputs)
        split = flat.reshape(*flat.shape[:-1], heads, config.head_width)
        return jnp.swapaxes(split, 1, 2)

    def _linear(self, name: str, features: int, bias: bool) -> Linear:
        return Linear(features, bias, self.dtype, name=name)

    def _norm(self, name: str) -> Norm:
        config = self.config
        return Norm(config.norm_epsilon, config.layer_norm, self.dtype, name=name)

    def _rms(self, name: str) -> Norm:
        return Norm(self.config.norm_epsilon, False, self.dtype, name=name)


def attend(
    query: Float[Array, "B H T h"],
    key: Float[Array, "B J T h"],
    value: Float[Array, "B J T h"],
    past: tuple[Float[Array, "B J S h"], Float[Array, "B J S h"]] | None,
    allowed: tuple[Bool[Array, "B 1 S"] | None, Bool[Array, "B T T"]],
) -> Float[Array, "B T Hh"]:
    """Softmax attention to earlier and to new tokens; scores and softmax in float32.

    Earlier and new keys are weighed apart, against the largest score of both, and what they collect
    is divided by the sum of all weights at the end: the cache is never copied, and neither scores
    nor weights, by far the largest arrays of a training step, are put together or normalised.

    Source:
        The order of division: FlashAttention, arXiv 2205.14135, section 3.1.
    """
    B, H, T, h = query.shape
    J = key.shape[1]
    grouped = (query * h**-0.5).reshape(B, J, H // J, T, h)

    def score(keys: Array, mask: Array) -> Array:
        scores = jnp.einsum("bjgth,bjsh->bjgts", grouped, keys, preferred_element_type=jnp.float32)
        return jnp.where(mask[:, None, None], scores, _FORBIDDEN)

    def collect(weights: Array, values: Array) -> Array:
        narrow = weights.astype(values.dtype)
        return jnp.einsum("bjgts,bjsh->bjgth", narrow, values, preferred_element_type=jnp.float32)

    past_mask, new_mask = allowed
    parts = [(score(key, new_mask), value)]
    if past is not None and past_mask is not None:
        past_keys, past_values = past
        parts.append((score(past_keys, past_mask), past_values))
    # Its gradient is 0: whatever is taken off every score, the weights are the same.
    largest = jax.lax.stop_gradient(
        functools.reduce(
            jnp.maximum,
            [scores.max(axis=-1, keepdims=True, initial=_FORBIDDEN) for scores, _ in parts],
        )
    )
    weighed = [(jnp.exp(scores - largest), values) for scores, values in parts]
    total = functools.reduce(
        jnp.add, [weights.sum(axis=-1, keepdims=True) for weights, _ in weighed]
    )
    collected = functools.reduce(jnp.add, [collect(*part) for part in weighed])
    mixed = (collected / total).astype(value.dtype)
    return jnp.swapaxes(mixed.reshape(B, H, T, h), 1, 2).reshape(B, T, H * h)


class Decoder(nn.Module):
    """The whole network as Flax sees it; `forward` and `hidden_states` are how it is used."""

    config: DecoderConfig
    compute: Compute = FULL_PRECISION

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        mask: Bool[Array, "B T"],
        cache: Cache | None = None,
        last: int | None = None,
        output: Literal["logits", "stream"] = "logits",
    ) -> tuple[Array, Cache]:
        config, dtype = self.config, self.compute.dtype
        normal = nn.initializers.normal(0.02)
        table = self.param("embedding", normal, (config.vocabulary, config.width))
        positions = _positions(mask, cache)
        hidden = table[tokens].astype(dtype)
        turns = None
        if config.rotary is None:
            places = self.param("positions", normal, (config.context, config.width))
            hidden = hidden + places[positions].astype(dtype)
        else:
            turns = rotations(positions, config.rotary, config.head_width)
        hidden, new = self._layers(hidden, mask, turns, cache)
        hidden = hidden if last is None else hidden[:, hidden.shape[1] - last :]
        if output == "stream":
            return hidden, new
        normed = Norm(config.norm_epsilon, config.layer_norm, dtype, name="final_norm")(hidden)
        shape = (config.width, config.vocabulary)
        head = table.T if config.tied else self.param("head", normal, shape)
        logits = jnp.matmul(normed, head.astype(dtype), preferred_element_type=jnp.float32)
        return logits, new

    def _layers(
        self, hidden: Array, mask: Array, turns: Turns | None, cache: Cache | None
    ) -> tuple[Array, Cache]:
        block = nn.remat(Block, prevent_cse=False) if self.compute.remat else Block
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast if cache is None else 0, nn.broadcast, nn.broadcast),
            length=self.config.layers,
            unroll=self.compute.unroll,
        )(self.config, self.compute.dtype, self.compute.places, name="layers")
        past = None if cache is None else (cache.keys, cache.values)
        past_mask = None if cache is None else cache.mask[:, None, :]
        hidden, (keys, values) = layers(hidden, past, turns, (past_mask, _causal(mask)))
        return hidden, Cache(keys, values, mask)


def init(key: PRNGKeyArray, config: DecoderConfig) -> Params:
    """Random parameters, float32; under `jax.eval_shape` only their shapes.

    Args:
        key: Of the normal initial weights, standard deviation 0.02 as in GPT-2.
        config: Sizes and options.

    Returns:
        A nested dict; the arrays below "layers" carry a leading axis L.
    """
    one = jnp.zeros((1, 1), jnp.int32)
    params: Params = Decoder(config).init(key, one, one == 0)["params"]
    return params


def forward(
    params: Params,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    config: DecoderConfig,
    *,
    cache: Cache | None = None,
    last: int | None = None,
    compute: Compute = FULL_PRECISION,
) -> tuple[Float[Array, "B n V"], Cache]:
    """Next-token logits after each token, and the keys and values of these tokens.

    Positions count the tokens that the masks let through, so that padding on the left (or anywhere)
    changes nothing.

    Args:
        params: As `init` or a loader builds them.
        tokens: Ids in [0, V); what stands at masked places does not matter.
        mask: True at tokens that count.
        config: The network's sizes and options.
        cache: Keys and values of the tokens before these.
        last: Give logits of the last so many tokens only, n = last; without, n = T.
        compute: Precision, checkpointing and unrolling.

    Returns:
        Float32 logits and the cache of the T new tokens alone.
    """
    decoder = Decoder(config, compute)
    outputs: Any = decoder.apply({"params": params}, tokens, mask, cache, last)
    logits, new = outputs
    return logits, new


def hidden_states(
    params: Params,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    config: DecoderConfig,
    *,
    layer: int = -2,
    compute: Compute = FULL_PRECISION,
) -> Float[Array, "B T D"]:
    """The stream after a layer, float32: what a reward reads of a frozen language model.

    Only the layers below are run. Numbered as Hugging Face's `hidden_states`, but for the last
    entry: theirs has been through the final norm, ours has not.

    Args:
        params: As `init` or a loader builds them.
        tokens: Ids in [0, V).
        mask: True at tokens that count.
        config: The network's sizes and options.
        layer: 1 is the first layer, L the last; from the end, -1 is the last layer and -2, the
            penultimate, what PAL proposes.
        compute: Precision, checkpointing and unrolling.

    Raises:
        ValueError: If there is no such layer.

    Source:
        PAL, arXiv 2406.08469, section 3: rewards on the penultimate layer of a language model.
    """
    depth = layer if layer >= 0 else config.layers + 1 + layer
    if not 1 <= depth <= config.layers:
        raise ValueError(
            f"layer {layer} of a network with {config.layers}; give 1 to L, or -1 to -L"
        )
    below = {**params, "layers": jax.tree.map(lambda stacked: stacked[:depth], params["layers"])}
    decoder = Decoder(dataclasses.replace(config, layers=depth), compute)
    stream, _ = decoder.apply({"params": below}, tokens, mask, output="stream")
    return jnp.asarray(stream, jnp.float32)


def pool(
    states: Float[Array, "B T D"], mask: Bool[Array, "B T"], *, how: Literal["mean", "last"]
) -> Float[Array, "B D"]:
    """One vector a sequence: the mean over its tokens, or the state of its last token.

    A sequence without tokens has the zero vector.
    """
    counts = mask[..., None].astype(states.dtype)
    if how == "mean":
        return (states * counts).sum(axis=1) / jnp.maximum(counts.sum(axis=1), 1)
    final = mask & (jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1] == 1)
    return jnp.where(final[..., None], states, 0).sum(axis=1)


def _positions(mask: Array, cache: Cache | None) -> Int[Array, "B T"]:
    before = 0 if cache is None else cache.mask.sum(axis=1, dtype=jnp.int32)[:, None]
    return jnp.maximum(before + jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)


def _place(hidden: Array, places: Places | None) -> Array:
    if places is None:
        return hidden
    place = places.tokens if hidden.shape[1] == 1 else places.passes
    placed: Array = jax.lax.with_sharding_constraint(hidden, place)
    return placed


def _causal(mask: Bool[Array, "B T"]) -> Bool[Array, "B T T"]:
    length = mask.shape[1]
    return jnp.tril(jnp.ones((length, length), bool))[None] & mask[:, None, :]
