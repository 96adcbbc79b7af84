"""What a preference model is: pure functions from items, prompts and user weights to rewards.

A model first encodes every distinct item and prompt once; comparisons then gather from the
results, and rewards are computed per gathered row. N distinct items, M distinct prompts, B gathered
rows, D and E their widths, K prototypes. Rewards are in nats of log-odds; higher is better.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

Params = Any  # nested dicts of arrays
Encoded = Any  # a pytree of arrays with one leading axis of items or prompts; private to the model
Inputs = Any  # what an encoder makes of items or prompts: an array [N, D] or `VectorInputs`


class Init(Protocol):
    def __call__(self, key: PRNGKeyArray, items: Inputs, prompts: Inputs | None) -> Params: ...


class Encode(Protocol):
    def __call__(
        self, params: Params, inputs: Inputs, *, dropout_key: PRNGKeyArray | None = None
    ) -> Encoded: ...


class Rewards(Protocol):
    def __call__(
        self, params: Params, items: Encoded, prompts: Encoded, weights: Float[Array, "B K"]
    ) -> Float[Array, "B"]: ...


class PrototypeRewards(Protocol):
    def __call__(self, params: Params, items: Encoded, prompts: Encoded) -> Float[Array, "B K"]: ...


class PreferenceModel(NamedTuple):
    """A reward for every user, as pure functions.

    Where margins are linear in the weights, `rewards` is Σ_k w_k of `prototype_rewards`; elsewhere
    `prototype_rewards` is None.
    """

    num_prototypes: int  # K
    uses_prompts: bool
    init: Init  # (key, items, prompts) -> params; only the widths of items and prompts matter
    encode_items: Encode  # (params, items [N, D]) -> encoded items, leading axis N
    encode_prompts: Encode  # (params, prompts [M, E]) -> encoded prompts, leading axis M
    rewards: Rewards  # (params, items, prompts, weights [B, K]) -> [B]
    prototype_rewards: PrototypeRewards | None  # (params, items, prompts) -> [B, K]
    even_population: bool = False  # the population's weights are 1/K and no parameter


class VectorInputs(NamedTuple):
    """Items (or prompts) that have a fixed vector and a learned one."""

    features: Any  # Float[Array, "N D"], of JAX or NumPy; D may be 0
    ids: Any  # Int[Array, "N"], row of the learned vectors, -1 for what training never saw


def no_prompts(params: Params, inputs: Inputs, *, dropout_key: PRNGKeyArray | None = None) -> None:
    """`encode_prompts` of a model that does not look at prompts."""


def encoded_rewards(params: Params, items: Encoded, prompts: Encoded) -> Float[Array, "B K"]:
    """`prototype_rewards` of a model whose encoded items are these rewards."""
    return jnp.asarray(items)


def gather(encoded: Encoded, rows: Int[Array, "B"]) -> Encoded:
    """Rows of every array of a pytree."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), encoded)


def with_learned_vectors(
    model: PreferenceModel, *, items: tuple[int, int] | None, prompts: tuple[int, int] | None
) -> PreferenceModel:
    """The same model where items or prompts also have a learned vector each (encoder `item_id`).

    Args:
        model: A model of items (prompts) with as many more numbers as the learned vectors are wide.
        items: Number and width of the items' learned vectors, or None where there are none.
        prompts: The same for prompts.

    Returns:
        A model whose items (prompts) are `VectorInputs`; an unknown one has the zero vector.
    """

    def join(params: Params, name: str, inputs: Any) -> Array:
        known = (inputs.ids >= 0)[:, None]
        vectors = jnp.take(params[name], inputs.ids, axis=0, mode="clip")
        return jnp.concatenate([inputs.features, jnp.where(known, vectors, 0)], axis=1)

    item_size, prompt_size = items, prompts

    def init(key: PRNGKeyArray, items: Inputs, prompts: Inputs | None) -> Params:
        vectors: Params = {}
        sizes = {"item_vectors": item_size, "prompt_vectors": prompt_size}
        for place, (name, size) in enumerate(sizes.items()):
            if size is not None:
                scale = 1 / jnp.sqrt(size[1])
                vectors[name] = scale * jax.random.normal(jax.random.fold_in(key, place), size)
        if item_size is not None:
            items = join(vectors, "item_vectors", items)
        if prompt_size is not None:
            prompts = join(vectors, "prompt_vectors", prompts)
        return model.init(jax.random.fold_in(key, 2), items, prompts) | vectors

    def encode_items(
        params: Params, inputs: Inputs, *, dropout_key: PRNGKeyArray | None = None
    ) -> Encoded:
        joined = inputs if item_size is None else join(params, "item_vectors", inputs)
        return model.encode_items(params, joined, dropout_key=dropout_key)

    def encode_prompts(
        params: Params, inputs: Inputs, *, dropout_key: PRNGKeyArray | None = None
    ) -> Encoded:
        joined = inputs if prompt_size is None else join(params, "prompt_vectors", inputs)
        return model.encode_prompts(params, joined, dropout_key=dropout_key)

    if items is None and prompts is None:
        return model
    return model._replace(init=init, encode_items=encode_items, encode_prompts=encode_prompts)


def margins(
    model: PreferenceModel,
    params: Params,
    items: tuple[Encoded, Encoded],
    prompts: Encoded,
    weights: Float[Array, "B K"],
) -> Float[Array, "B"]:
    """Margin of every comparison: reward of the chosen item minus that of the rejected one.

    Args:
        model: The preference model.
        params: Its parameters.
        items: Encoded chosen items and encoded rejected items, leading axis B each.
        prompts: Encoded prompts, leading axis B, or None.
        weights: Weights of the user who compared.

    Returns:
        Margins in nats.
    """
    chosen, rejected = items
    return model.rewards(params, chosen, prompts, weights) - model.rewards(
        params, rejected, prompts, weights
    )
