"""LoRA: linear layers get a low-rank part of their own, and only that is trained.

W is left alone; the layer computes x W + (alpha / r) (x A) B, with A [d, r] random and B [r, f]
zero at the start, so that adding LoRA changes nothing. Parameters of a language model in,
parameters out: the network runs with or without these parts. L layers, d and f a layer's widths,
r rank.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from paljax.errors import UserError, nearest

Params = Any

# The linear layers: what Hugging Face calls q_proj, k_proj, v_proj, o_proj, gate_proj, ...
TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
_PARTS = ("lora_a", "lora_b", "lora_scale")
_TRAINED = ("lora_a", "lora_b")


def add_lora(
    params: Params,
    key: PRNGKeyArray,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Collection[str] = ("query", "value"),
) -> Params:
    """Put low-rank parts beside the kernels of some layers.

    Args:
        params: Parameters of `causal_lm.init` or a loader.
        key: Of the random A.
        rank: r.
        alpha: The low-rank part is scaled by alpha / r.
        targets: Names in `TARGETS`; the paper's choice is queries and values.

    Returns:
        The same tree, with lora_a [L, d, r], lora_b [L, r, f] and lora_scale [L] at every target.

    Raises:
        UserError: If the network has no such layer, or the rank is not below the layer's widths.

    Source:
        Hu et al., arXiv 2106.09685, section 4.1.
    """
    layers = dict(params["layers"])
    present = [name for name in TARGETS if name in layers]
    for name in targets:
        if name not in present:
            raise UserError(f"targets: no linear layer {name!r}; {nearest(name, present)}")
        kernel = layers[name]["kernel"]
        count, ingoing, outgoing = kernel.shape
        if not 1 <= rank <= min(ingoing, outgoing):
            raise UserError(
                f"rank: {rank} does not fit layer {name!r} of {ingoing} x {outgoing}; "
                f"give 1 to {min(ingoing, outgoing)}"
            )
        own_key = jax.random.fold_in(key, TARGETS.index(name))
        # Uniform with the variance 1 / (3 d), as in PEFT.
        bound = ingoing**-0.5
        layers[name] = layers[name] | {
            "lora_a": jax.random.uniform(
                own_key, (count, ingoing, rank), minval=-bound, maxval=bound
            ),
            "lora_b": jnp.zeros((count, rank, outgoing)),
            "lora_scale": jnp.full(count, alpha / rank),
        }
    return {**params, "layers": layers}


def merge_lora(params: Params) -> Params:
    """Fold the low-rank parts into the kernels: the same function, without LoRA."""

    layers = {name: merge_layer(layer) for name, layer in params["layers"].items()}
    return {**params, "layers": layers}


def merge_layer(layer: Any) -> Any:
    """The same of one kind of layer, for all L or for a single one."""
    if "lora_a" not in layer:
        return layer
    scale = layer["lora_scale"][..., None, None]
    base = {name: leaf for name, leaf in layer.items() if name not in _PARTS}
    return base | {"kernel": layer["kernel"] + scale * (layer["lora_a"] @ layer["lora_b"])}


def low_rank_parts(params: Params) -> Params:
    """LoRA's parts alone: all that training changes, and all that has to be saved."""
    return {
        "layers": {
            name: {part: leaf for part, leaf in layer.items() if part in _PARTS}
            for name, layer in params["layers"].items()
            if "lora_a" in layer
        }
    }


def with_parts(base: Params, parts: Params) -> Params:
    """The model with low-rank parts of `low_rank_parts` beside its kernels."""
    low_rank = parts["layers"]
    layers = {name: layer | low_rank.get(name, {}) for name, layer in base["layers"].items()}
    return {**base, "layers": layers}


def has_lora(params: Params) -> bool:
    """Whether any layer has a low-rank part."""
    return any("lora_a" in layer for layer in params["layers"].values())


def trainable(params: Params) -> Any:
    """Which parameters are trained: LoRA's where there are any, else all. For `optax` masks."""
    if not has_lora(params):
        return jax.tree.map(lambda _: True, params)
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in _TRAINED, params)


def freeze_base(params: Params) -> Params:
    """No gradient for what is not trained, so that no memory is spent on it either."""
    return jax.tree.map(
        lambda trained, leaf: leaf if trained else jax.lax.stop_gradient(leaf),
        trainable(params),
        params,
    )
