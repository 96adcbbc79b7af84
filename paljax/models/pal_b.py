"""PAL-B: K maps from the prompt to ideal directions, mixed for every user.

N items, D item width, M prompts, E prompt width, d latent width, K prototypes, B gathered rows.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from paljax.kernels import mix
from paljax.models.preference import Encoded, Inputs, Params, PreferenceModel
from paljax.models.scale import INITIAL_LOG_SCALE, cosine_scale
from paljax.networks import MLP, Activation, BatchedMLP, Products, outputs
from paljax.ranges import Count, PositiveInt, Probability


def pal_b(
    *,
    num_prototypes: PositiveInt,
    latent_width: PositiveInt = 64,
    similarity: Literal["inner", "cosine"] = "inner",
    hidden_layers: Count = 0,
    activation: Activation = "gelu",
    dropout: Probability = 0.0,
    residual: bool = False,
    products: Products = "float32",
) -> PreferenceModel:
    """Prompt-conditioned rewards: f(x) against the user's direction u(c) = Σ_k w_k g_k(c).

    Args:
        num_prototypes: K >= 1.
        latent_width: d.
        similarity: inner, ⟨f(x), u(c)⟩, so that margins are linear in w; cosine, s·cos(f(x), u(c)),
            what the authors' code trains.
        hidden_layers: Number of hidden layers, of the latent width, of f and of every g_k.
        activation: gelu or relu.
        dropout: Probability of dropping a hidden unit, in [0, 1).
        residual: Add the input to the output where their widths agree.
        products: What the networks multiply: float32, or bfloat16 summed in float32.

    Returns:
        The model; rewards per prototype exist for the inner product.

    Source:
        PAL, arXiv 2406.08469, section 3, model B.
    """
    settings = {
        "width": latent_width,
        "hidden_layers": hidden_layers,
        "hidden_width": latent_width,
        "activation": activation,
        "dropout": dropout,
        "residual": residual,
        "products": products,
    }
    projector = MLP(**settings)  # type: ignore[arg-type]
    prompt_maps = BatchedMLP(num_prototypes, **settings)

    def init(key: PRNGKeyArray, items: Array, prompts: Inputs | None) -> Params:
        params = {
            "projector": projector.init(jax.random.fold_in(key, 1), items)["params"],
            "prototypes": prompt_maps.init(jax.random.fold_in(key, 2), prompts)["params"],
        }
        if similarity == "cosine":
            params["log_scale"] = jnp.asarray(INITIAL_LOG_SCALE)
        return params

    def encode_items(
        params: Params, inputs: Array, *, dropout_key: PRNGKeyArray | None = None
    ) -> Float[Array, "N d"]:
        return outputs(projector, params["projector"], inputs, dropout_key=dropout_key, part=1)

    def encode_prompts(
        params: Params, inputs: Array, *, dropout_key: PRNGKeyArray | None = None
    ) -> Float[Array, "M K d"]:
        return outputs(prompt_maps, params["prototypes"], inputs, dropout_key=dropout_key, part=2)

    return PreferenceModel(
        num_prototypes=num_prototypes,
        uses_prompts=True,
        init=init,
        encode_items=encode_items,
        encode_prompts=encode_prompts,
        rewards=_inner_rewards if similarity == "inner" else _cosine_rewards,
        prototype_rewards=_inner_products if similarity == "inner" else None,
    )


def _inner_rewards(
    params: Params, items: Encoded, prompts: Encoded, weights: Float[Array, "B K"]
) -> Float[Array, "B"]:
    """⟨f(x), u(c)⟩."""
    return mix(_inner_products(params, items, prompts), weights)


def _cosine_rewards(
    params: Params, items: Encoded, prompts: Encoded, weights: Float[Array, "B K"]
) -> Float[Array, "B"]:
    """s cos(f(x), u(c))."""
    directions = jnp.einsum("bkd,bk->bd", prompts, weights)
    cosine = jnp.sum(_unit(items) * _unit(directions), axis=1)
    return cosine_scale(params["log_scale"]) * cosine


def _inner_products(params: Params, items: Encoded, prompts: Encoded) -> Float[Array, "B K"]:
    """⟨f(x), g_k(c)⟩."""
    return jnp.einsum("bd,bkd->bk", items, prompts)


def _unit(vectors: Float[Array, "B d"]) -> Float[Array, "B d"]:
    squared_norm = jnp.sum(vectors**2, axis=1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared_norm, 1e-24))
