"""Which tensor of a checkpoint is which parameter, and back.

Checkpoints hold one tensor a layer, named as in Hugging Face's files, and most linear layers
transposed; parameters hold one array for all layers.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from paljax.errors import UserError
from paljax.networks.causal_lm import init
from paljax.networks.decoder_config import DecoderConfig
from paljax.networks.lora import merge_layer

Path = tuple[str, ...]

# What the tensors' names start with; files of a bare network lack it.
PREFIXES = {"gpt2": "transformer.", "llama": "model.", "qwen2": "model.", "qwen3": "model."}
HEAD = "lm_head.weight"
# Buffers that old files carry and that follow from the sizes.
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
_NAMED_AT_MOST = 4


class Tensors(NamedTuple):
    """Tensors of a checkpoint by name, read one at a time."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], NDArray[Any]]


class Place(NamedTuple):
    """Where a parameter is in a checkpoint."""

    name: str  # of the tensor, without prefix; {} is the layer's number
    transposed: bool = False
    third: int | None = None  # which of three parts along the last axis of a fused tensor


_LINEAR = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_NORMS = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
}
_TOP = {
    ("embedding",): Place("embed_tokens.weight"),
    ("head",): Place(HEAD, transposed=True),
    ("final_norm", "scale"): Place("norm.weight"),
}
_GPT2_LINEAR = {
    "query": ("attn.c_attn", 0),
    "key": ("attn.c_attn", 1),
    "value": ("attn.c_attn", 2),
    "output": ("attn.c_proj", None),
    "up": ("mlp.c_fc", None),
    "down": ("mlp.c_proj", None),
}
_GPT2_NORMS = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
_GPT2_TOP = {
    ("embedding",): Place("wte.weight"),
    ("positions",): Place("wpe.weight"),
    ("head",): Place(HEAD, transposed=True),
    ("final_norm", "scale"): Place("ln_f.weight"),
    ("final_norm", "bias"): Place("ln_f.bias"),
}


def place_of(path: Path, config: DecoderConfig) -> Place:
    """Where a checkpoint keeps the parameter at this path of the tree."""
    if path[0] != "layers":
        return (_GPT2_TOP if config.architecture == "gpt2" else _TOP)[path]
    _, layer, leaf = path
    suffix = "bias" if leaf == "bias" else "weight"
    if config.architecture == "gpt2":
        if layer in _GPT2_NORMS:
            return Place(f"h.{{}}.{_GPT2_NORMS[layer]}.{suffix}")
        name, third = _GPT2_LINEAR[layer]
        return Place(f"h.{{}}.{name}.{suffix}", third=third)
    name = _NORMS.get(layer) or _LINEAR[layer]
    return Place(f"layers.{{}}.{name}.{suffix}", transposed=leaf == "kernel")


def to_params(tensors: Tensors, config: DecoderConfig, *, dtype: Any = np.float32) -> Any:
    """Gather a checkpoint's tensors into parameters, as arrays on the host.

    Args:
        tensors: All tensors of the checkpoint.
        config: The network they belong to.
        dtype: Of the parameters.

    Returns:
        The tree of `causal_lm.init`; `jax.device_put` it where it should be.

    Raises:
        UserError: If tensors are missing, left over, or of another shape.
    """
    prefix = PREFIXES[config.architecture]
    actual = {name.removeprefix(prefix): name for name in tensors.shapes}
    wanted = {path: (place_of(path, config), shape) for path, shape in _shapes(config)}
    _check_names(
        actual, {name for place, _ in wanted.values() for name in _names(place, config)}, config
    )

    def read(name: str, place: Place, shape: tuple[int, ...]) -> NDArray[Any]:
        on_disk = _on_disk(shape, place)
        if (given := tuple(tensors.shapes[actual[name]])) != on_disk:
            raise UserError(f"tensor {actual[name]}: shape {given}, wanted {on_disk}")
        tensor = tensors.read(actual[name])
        if place.third is not None:
            tensor = np.split(tensor, 3, axis=-1)[place.third]
        return (tensor.T if place.transposed else tensor).astype(dtype)

    params: dict[str, Any] = {}
    for path, (place, shape) in wanted.items():
        if path[0] == "layers":
            array = np.empty(shape, dtype)
            for layer, name in enumerate(_names(place, config)):
                array[layer] = read(name, place, shape[1:])
        else:
            array = read(place.name, place, shape)
        branch = params
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = array
    return params


def to_tensors(params: Any, config: DecoderConfig) -> Tensors:
    """The tensors of a checkpoint, named and laid out as Hugging Face reads them.

    Args:
        params: The tree of `causal_lm.init`, on the host or in parts on several devices; LoRA's
            parts, where there are any, are merged.
        config: The network they belong to.

    Returns:
        Tensors in float32; no more of the model than the one that is read is copied to the host.
    """
    prefix = PREFIXES[config.architecture]
    shapes: dict[str, tuple[int, ...]] = {}
    sources: dict[str, dict[int, tuple[Path, int, bool]]] = {}  # by the place in a fused tensor
    for path, shape in _shapes(config):
        place = place_of(path, config)
        for layer, name in enumerate(_names(place, config)):
            full = name if name == HEAD else prefix + name
            shapes[full] = _on_disk(shape[1:] if path[0] == "layers" else shape, place)
            source = (path, layer, place.transposed)
            sources.setdefault(full, {})[place.third or 0] = source

    def read(name: str) -> NDArray[Any]:
        # Query, key and value of a fused tensor come in this order: the tree's is alphabetic.
        parts = [
            tensor.T if transposed else tensor
            for _, (path, layer, transposed) in sorted(sources[name].items())
            for tensor in [_on_host(params, path, layer)]
        ]
        return np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

    return Tensors(shapes, read)


def _on_host(params: Any, path: Path, layer: int) -> NDArray[np.float32]:
    """A parameter, of one layer where it is one of layers."""
    branch: Any = params
    for key in path[:-1]:
        branch = branch[key]
    if path[0] == "layers":
        branch = merge_layer({key: np.asarray(leaf[layer]) for key, leaf in branch.items()})
    return np.asarray(branch[path[-1]], np.float32)


def _on_disk(shape: tuple[int, ...], place: Place) -> tuple[int, ...]:
    if place.third is not None:
        return (*shape[:-1], 3 * shape[-1])
    return shape[::-1] if place.transposed else shape


def _shapes(config: DecoderConfig) -> Iterator[tuple[Path, tuple[int, ...]]]:
    shapes = jax.eval_shape(lambda key: init(key, config), jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        yield tuple(key.key for key in path), leaf.shape


def _names(place: Place, config: DecoderConfig) -> list[str]:
    if "{}" not in place.name:
        return [place.name]
    return [place.name.format(layer) for layer in range(config.layers)]


def _check_names(given: Collection[str], wanted: set[str], config: DecoderConfig) -> None:
    if missing := sorted(wanted - set(given)):
        raise UserError(f"missing {_listed(missing)} of a {config.architecture} model")
    # Some files repeat the embedding table as the output layer of a tied model.
    ignored = {HEAD} if config.tied else set()
    extra = sorted(name for name in set(given) - wanted - ignored if not name.endswith(_BUFFERS))
    if extra:
        raise UserError(
            f"{_listed(extra)} too many for a {config.architecture} model as configured"
        )


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    shown = ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({shown})"
