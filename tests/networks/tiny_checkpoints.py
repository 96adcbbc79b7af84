"""Tiny random checkpoints of every architecture, written as Hugging Face writes them.

Weights come from NumPy by a seed, so that Hugging Face's torch code and paljax read the same
numbers on any machine, and `golden.json` needs to hold the answers only.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS, HEAD_WIDTH, MLP_WIDTH = 37, 48, 24, 3, 4, 6, 40
SHARPNESS = 2.5  # of queries and of keys

_ROTARY = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "intermediate_size": MLP_WIDTH,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Small, so that some of the three wavelengths are kept, some blended and some stretched.
    "original_max_position_embeddings": 32,
}

# By name: the `config.json`.
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": VOCABULARY,
        "n_positions": CONTEXT,
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": None,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "llama": _ROTARY
    | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": 500.0,
        "tie_word_embeddings": False,
    },
    "llama_3_1": _ROTARY
    | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": 50.0,
        "rope_scaling": _LLAMA3,
        "tie_word_embeddings": True,
    },
    "llama_linear_biases": _ROTARY
    | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_parameters": {"rope_theta": 100.0, "rope_type": "linear", "factor": 2.0},
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 8,
    },
    "qwen2": _ROTARY
    | {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "rope_theta": 1000.0,
        "tie_word_embeddings": True,
    },
    "qwen3": _ROTARY
    | {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "rope_theta": 1000.0,
        "head_dim": 8,  # not width / heads
        "tie_word_embeddings": False,
    },
}

# A batch with padding on the left, and what every golden answer was computed on.
MASK = np.array([[0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [1] * 11], bool)
TOKENS = np.where(MASK, np.random.default_rng(5).integers(3, VOCABULARY, MASK.shape), 0)
NEW_TOKENS = 20


def tensors(config: dict[str, Any], *, sharpness: float = SHARPNESS) -> dict[str, np.ndarray]:
    """Random tensors of a checkpoint, by Hugging Face's names."""
    shapes = _gpt2_shapes() if config["model_type"] == "gpt2" else _rotary_shapes(config)
    generator = np.random.default_rng(11)
    # Large enough that greedy tokens are no near ties; queries and keys larger still, so that most
    # heads attend to one token above all: a wrong turn, mask or head then shows in every logit.
    found = {
        name: (
            ("norm" in name or ".ln_" in name) * (not name.endswith("bias"))
            + generator.normal(size=shape) * (1.0 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.3)
        ).astype(np.float32)
        for name, shape in shapes.items()
    }
    for name, tensor in found.items():
        # Qwen3 norms queries and keys: its sharpness is in the scales of these norms.
        if name.endswith(
            tuple(f"{part}.weight" for part in ("q_proj", "k_proj", "q_norm", "k_norm"))
        ):
            tensor *= sharpness
        if name.endswith("c_attn.weight"):  # drawn narrower, as one matrix of three
            tensor[:, : 2 * WIDTH] *= math.sqrt(3) * sharpness
    return found


def write(name: str, folder: Path) -> Path:
    """Write a checkpoint of this name into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CHECKPOINTS[name]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors(config), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _gpt2_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (VOCABULARY, WIDTH),
        "transformer.wpe.weight": (CONTEXT, WIDTH),
        "transformer.ln_f.weight": (WIDTH,),
        "transformer.ln_f.bias": (WIDTH,),
    }
    linear = {
        "attn.c_attn": (WIDTH, 3 * WIDTH),
        "attn.c_proj": (WIDTH, WIDTH),
        "mlp.c_fc": (WIDTH, 4 * WIDTH),
        "mlp.c_proj": (4 * WIDTH, WIDTH),
    }
    for layer in range(LAYERS):
        for name, shape in linear.items():
            shapes[f"transformer.h.{layer}.{name}.weight"] = shape
            shapes[f"transformer.h.{layer}.{name}.bias"] = shape[1:]
        for name in ("ln_1", "ln_2"):
            shapes[f"transformer.h.{layer}.{name}.weight"] = (WIDTH,)
            shapes[f"transformer.h.{layer}.{name}.bias"] = (WIDTH,)
    return shapes


def _rotary_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    head_width = config.get("head_dim", HEAD_WIDTH)
    query, key = HEADS * head_width, config["num_key_value_heads"] * head_width
    attention = {
        "q_proj": (query, WIDTH),
        "k_proj": (key, WIDTH),
        "v_proj": (key, WIDTH),
        "o_proj": (WIDTH, query),
    }
    mlp = {
        "gate_proj": (MLP_WIDTH, WIDTH),
        "up_proj": (MLP_WIDTH, WIDTH),
        "down_proj": (WIDTH, MLP_WIDTH),
    }
    biased = set(attention) if config.get("attention_bias") else set()
    biased |= set(mlp) if config.get("mlp_bias") else set()
    biased |= {"q_proj", "k_proj", "v_proj"} if config["model_type"] == "qwen2" else set()
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for part, linear in [("self_attn", attention), ("mlp", mlp)]:
            for name, shape in linear.items():
                shapes[f"{prefix}.{part}.{name}.weight"] = shape
                if name in biased:
                    shapes[f"{prefix}.{part}.{name}.bias"] = shape[:1]
        shapes[f"{prefix}.input_layernorm.weight"] = (WIDTH,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (WIDTH,)
        if config["model_type"] == "qwen3":
            shapes[f"{prefix}.self_attn.q_norm.weight"] = (head_width,)
            shapes[f"{prefix}.self_attn.k_norm.weight"] = (head_width,)
    return shapes
