"""Hugging Face's `config.json` of a language model, read into `DecoderConfig` and written back.

Whatever would change the function and is not known here is refused by name: a model that loads is
the model that was saved.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paljax.errors import UserError, nearest
from paljax.networks.decoder_config import (
    ARCHITECTURES,
    Architecture,
    DecoderConfig,
    Llama3Scaling,
    Rotary,
)

CONFIG = "config.json"

_CLASSES: dict[Architecture, str] = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Keys that must hold this value where they are given: any other is a network that we don't have.
_ONLY: dict[Architecture, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    }
}
_ONLY_ROTARY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1, 1.0),
}
_ORIGINAL_CONTEXT = "original_max_position_embeddings"
_ROPE_TYPES = ("default", "linear", "llama3")


def read_config(path: Path) -> DecoderConfig:
    """Read a `config.json`.

    Args:
        path: The file.

    Returns:
        The network that it describes.

    Raises:
        UserError: If the file is missing or damaged, or describes a network that we don't have.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}: wanted an object with the model's sizes")
    try:
        return _from_record(record)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def config_record(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` that Hugging Face reads as this network."""
    record: dict[str, Any] = {
        "architectures": [_CLASSES[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocabulary,
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos_token,
        "eos_token_id": _one_or_all(config.end_tokens),
        "dtype": "float32",
    }
    if config.rotary is None:
        return record | {
            "n_positions": config.context,
            "n_ctx": config.context,
            "n_embd": config.width,
            "n_layer": config.layers,
            "n_head": config.heads,
            "n_inner": config.mlp_width,
            "layer_norm_epsilon": config.norm_epsilon,
            "activation_function": "gelu_new",
        }
    return record | {
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": "silu",
        "attention_bias": config.output_bias,
        "mlp_bias": config.mlp_bias,
        "rope_theta": config.rotary.theta,
        "rope_scaling": _scaling_record(config.rotary),
    }


def _from_record(record: Mapping[str, Any]) -> DecoderConfig:
    kind = record.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(
            f"model_type: unknown architecture {kind!r}; {nearest(kind, ARCHITECTURES)}"
        )
    architecture: Architecture = kind
    for key, valid in (_ONLY.get(architecture) or _ONLY_ROTARY).items():
        given = record.get(key, valid[0])
        if given not in valid:
            raise UserError(
                f"{key}: {given!r} is not supported for {architecture}; {nearest(given, valid)}"
            )
    config = _gpt2(record) if architecture == "gpt2" else _rotary(record, architecture)
    _check_sizes(config)
    return config


def _gpt2(record: Mapping[str, Any]) -> DecoderConfig:
    width, heads = _size(record, "n_embd"), _size(record, "n_head")
    return DecoderConfig(
        architecture="gpt2",
        vocabulary=_size(record, "vocab_size"),
        context=_size(record, "n_positions"),
        width=width,
        layers=_size(record, "n_layer"),
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        mlp_width=_size(record, "n_inner", 4 * width),
        norm_epsilon=_number(record, "layer_norm_epsilon", 1e-5),
        rotary=None,
        layer_norm=True,
        gated=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tied=bool(record.get("tie_word_embeddings", True)),
        bos_token=_token(record, "bos_token_id"),
        end_tokens=_tokens(record, "eos_token_id"),
    )


def _rotary(record: Mapping[str, Any], architecture: Architecture) -> DecoderConfig:
    width, heads = _size(record, "hidden_size"), _size(record, "num_attention_heads")
    # Qwen2 always has biases on queries, keys and values; the others only where they say so.
    bias = bool(record.get("attention_bias", False))
    return DecoderConfig(
        architecture=architecture,
        vocabulary=_size(record, "vocab_size"),
        context=_size(record, "max_position_embeddings"),
        width=width,
        layers=_size(record, "num_hidden_layers"),
        heads=heads,
        kv_heads=_size(record, "num_key_value_heads", heads),
        head_width=_size(record, "head_dim", 128 if architecture == "qwen3" else width // heads),
        mlp_width=_size(record, "intermediate_size"),
        norm_epsilon=_number(record, "rms_norm_eps", 1e-6),
        rotary=_rope(record),
        qkv_bias=bias or architecture == "qwen2",
        output_bias=bias and architecture != "qwen2",
        mlp_bias=bool(record.get("mlp_bias", False)) and architecture == "llama",
        qk_norm=architecture == "qwen3",
        tied=bool(record.get("tie_word_embeddings", False)),
        bos_token=_token(record, "bos_token_id"),
        end_tokens=_tokens(record, "eos_token_id"),
    )


def _rope(record: Mapping[str, Any]) -> Rotary:
    """From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    where = "rope_parameters" if record.get("rope_parameters") else "rope_scaling"
    scaling = record.get(where) or {}
    if not isinstance(scaling, dict):
        raise UserError(f"{where}: {scaling!r} is wrong; wanted its keys, rope_type, factor, ...")
    theta = _number(record, "rope_theta", 10_000.0)
    theta = _number(scaling, "rope_theta", theta, where=where)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return Rotary(theta)
    if kind == "linear":
        return Rotary(theta, linear_factor=_number(scaling, "factor", where=where))
    if kind != "llama3":
        raise UserError(f"{where}: {kind!r} is not supported; {nearest(kind, _ROPE_TYPES)}")
    factors, original = ("factor", "low_freq_factor", "high_freq_factor"), _ORIGINAL_CONTEXT
    if missing := [key for key in (*factors, original) if scaling.get(key) is None]:
        raise UserError(f"{where}: llama3 needs {', '.join(missing)}")
    factor, low, high = (_number(scaling, key, where=where) for key in factors)
    context = _size(scaling, original, where=where)
    return Rotary(theta, llama3=Llama3Scaling(factor, low, high, context))


def _scaling_record(rotary: Rotary) -> dict[str, Any] | None:
    if rotary.llama3 is not None:
        factor, low, high, original = rotary.llama3
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            _ORIGINAL_CONTEXT: original,
        }
    if rotary.linear_factor != 1.0:
        return {"rope_type": "linear", "factor": rotary.linear_factor}
    return None


def _check_sizes(config: DecoderConfig) -> None:
    if config.heads % config.kv_heads:
        raise UserError(
            f"{config.heads} attention heads can't share {config.kv_heads} heads of keys and "
            "values evenly"
        )
    if config.rotary is None and config.heads * config.head_width != config.width:
        raise UserError(f"width {config.width} is no multiple of its {config.heads} heads")
    if config.rotary is not None and config.head_width % 2:
        raise UserError(f"head width {config.head_width} is odd; rotary positions turn pairs")


def _size(
    record: Mapping[str, Any], key: str, default: int | None = None, *, where: str = ""
) -> int:
    given = record.get(key)
    given = default if given is None else given
    named = f"{where}.{key}" if where else key
    if given is None:
        raise UserError(f"{named} is missing")
    if not _is_whole(given) or given < 1:
        raise UserError(f"{named}: {given!r} is not a size; wanted a whole number of at least 1")
    return int(given)


def _number(
    record: Mapping[str, Any], key: str, default: float | None = None, *, where: str = ""
) -> float:
    given = record.get(key, default)
    named = f"{where}.{key}" if where else key
    if given is None and key not in record:
        raise UserError(f"{named} is missing")
    if not (_is_whole(given) or isinstance(given, float)) or not 0 < given < math.inf:
        raise UserError(f"{named}: {given!r} is wrong; wanted a number above 0")
    return float(given)


def _token(record: Mapping[str, Any], key: str) -> int | None:
    given = record.get(key)
    if given is None:
        return None
    if not _is_whole(given):
        raise UserError(f"{key}: {given!r} is wrong; wanted a token's number")
    return int(given)


def _tokens(record: Mapping[str, Any], key: str) -> tuple[int, ...]:
    given = record.get(key)
    if given is None:
        return ()
    tokens = given if isinstance(given, list) else [given]
    if not all(map(_is_whole, tokens)):
        raise UserError(f"{key}: {given!r} is wrong; wanted a token's number or several")
    return tuple(tokens)


def _is_whole(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def _one_or_all(tokens: tuple[int, ...]) -> int | list[int] | None:
    return (tokens[0] if len(tokens) == 1 else list(tokens)) if tokens else None
