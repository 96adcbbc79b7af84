"""Names for the axes of a language model's parameters: sharding is a rule, not a list."""

from typing import Any

import jax

# By the parameter's name; "kernel" stands below the name of its layer. Mesh rules map these names:
# FSDP shards "embed" (every large matrix has it), tensor parallelism "heads", "kv_heads", "mlp"
# and "vocabulary".
_INPUT_AND_OUTPUT = {
    "query": ("embed", "heads"),
    "key": ("embed", "kv_heads"),
    "value": ("embed", "kv_heads"),
    "output": ("heads", "embed"),
    "up": ("embed", "mlp"),
    "gate": ("embed", "mlp"),
    "down": ("mlp", "embed"),
}
_TOP = {
    "embedding": ("vocabulary", "embed"),
    "positions": ("context", "embed"),
    "head": ("embed", "vocabulary"),
}

Axes = tuple[str | None, ...]


def logical_axes(params: Any) -> Any:
    """The name of every axis of every parameter.

    Args:
        params: Parameters of `causal_lm.init`, with or without LoRA's, or their shapes; or a tree
            that holds such, as an optimiser's moments are.

    Returns:
        The same tree with a tuple of names for each array: "layers", "vocabulary", "context",
        "embed", "heads", "kv_heads", "mlp", "rank", or None for an axis that is too small to share
        and for those of arrays that are no parameters.

    Example:
        >>> from paljax.networks.logical_axes import logical_axes
        >>> logical_axes({"head": jax.ShapeDtypeStruct((4, 9), "float32")})
        {'head': ('embed', 'vocabulary')}
    """

    def axes(path: Any, leaf: Any) -> Axes:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return _axes(names) if names else (None,) * leaf.ndim

    return jax.tree_util.tree_map_with_path(axes, params)


def _axes(path: list[str]) -> Axes:
    if path[0] in _TOP:
        return _TOP[path[0]]
    stacked: Axes = ("layers",) if path[0] == "layers" else ()
    layer, leaf = path[-2:]
    if layer not in _INPUT_AND_OUTPUT:
        return (*stacked, None)
    ingoing, outgoing = _INPUT_AND_OUTPUT[layer]
    by_leaf: dict[str, Axes] = {
        "kernel": (ingoing, outgoing),
        "bias": (outgoing,),
        "lora_a": (ingoing, "rank"),
        "lora_b": ("rank", outgoing),
        "lora_scale": (),
    }
    return (*stacked, *by_leaf[leaf])
