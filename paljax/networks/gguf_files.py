"""Language models in GGUF files, dequantised: Llama, Qwen2 and Qwen3, with their tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paljax.errors import UserError, nearest
from paljax.networks.decoder_config import Architecture, DecoderConfig, Rotary
from paljax.networks.llama2c import halves_apart
from paljax.networks.tensor_names import HEAD, Tensors, to_params

_ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen2", "qwen3")
_TOP = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": HEAD,
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

Metadata = Mapping[str, Any]


def load_gguf(path: Path, *, dtype: Any = np.float32) -> tuple[DecoderConfig, Any, Metadata]:
    """Read a GGUF file.

    Args:
        path: The file, quantised or not.
        dtype: Of the parameters.

    Returns:
        The configuration, parameters as arrays on the host, and the file's own metadata, which
        `tokenizers.gguf_tokenizer` reads.

    Raises:
        UserError: If the file is missing or damaged, or holds a network that we don't have.
    """
    reader = _open(path)
    try:
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        held = {tensor.name: tensor for tensor in reader.tensors}
        config = _config(metadata, held)
        return config, to_params(_tensors(held, config), config, dtype=dtype), metadata
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _open(path: Path) -> Any:
    import gguf

    try:
        return gguf.GGUFReader(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
    except Exception as error:  # whatever its reader trips over in a damaged file
        raise UserError(
            f"{path}: damaged, or no GGUF file ({' '.join(str(error).split())[:120]})"
        ) from None


def _config(metadata: Metadata, held: Mapping[str, Any]) -> DecoderConfig:
    kind = metadata.get("general.architecture")
    if kind not in _ARCHITECTURES:
        raise UserError(f"general.architecture: unknown {kind!r}; {nearest(kind, _ARCHITECTURES)}")
    architecture: Architecture = kind
    if "rope_freqs.weight" in held or f"{kind}.rope.scaling.type" in metadata:
        raise UserError("scaled rotary positions are not read from GGUF; use its safetensors")

    def size(name: str, default: int | None = None) -> int:
        given = metadata.get(f"{kind}.{name}", default)
        if given is None:
            raise UserError(f"{kind}.{name} is missing")
        return int(given)

    width, heads = size("embedding_length"), size("attention.head_count")
    end = metadata.get("tokenizer.ggml.eos_token_id")
    if "token_embd.weight" not in held:
        raise UserError("missing tensor token_embd.weight")
    return DecoderConfig(
        architecture=architecture,
        vocabulary=int(held["token_embd.weight"].shape[1]),
        context=size("context_length"),
        width=width,
        layers=size("block_count"),
        heads=heads,
        kv_heads=size("attention.head_count_kv", heads),
        head_width=size("attention.key_length", width // heads),
        mlp_width=size("feed_forward_length"),
        norm_epsilon=_short(metadata.get(f"{kind}.attention.layer_norm_rms_epsilon", 1e-6)),
        rotary=Rotary(float(metadata.get(f"{kind}.rope.freq_base", 10_000.0))),
        qkv_bias="blk.0.attn_q.bias" in held,
        qk_norm=architecture == "qwen3",
        tied="output.weight" not in held,
        bos_token=metadata.get("tokenizer.ggml.bos_token_id"),
        end_tokens=() if end is None else (int(end),),
    )


def _short(number: float) -> float:
    """The number that was meant: the file holds float32."""
    return float(str(np.float32(number)))


def _tensors(held: Mapping[str, Any], config: DecoderConfig) -> Tensors:
    """The tensors under Hugging Face's names; their shapes are written backwards in the file."""
    names = {_renamed(name): name for name in held}
    shapes = {
        name: tuple(int(size) for size in reversed(held[original].shape))
        for name, original in names.items()
    }

    def read(name: str) -> NDArray[Any]:
        import gguf

        tensor = held[names[name]]
        try:
            array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise UserError(
                f"tensor {tensor.name}: quantisation {tensor.tensor_type.name} is not supported"
            ) from None
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        # Llama's queries and keys were reordered for llama.cpp; Qwen's were not.
        if heads is None or config.architecture != "llama":
            return array
        column = array.ndim == 1
        return halves_apart(array[:, None], heads)[:, 0] if column else halves_apart(array, heads)

    return Tensors(shapes, read)


def _renamed(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER:
        return f"layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}"
    return name
