"""A checkpoint of the BERT layout that fits a test: random weights, and words for a vocabulary."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("the", "weather", "is", "lovely", "today", "he", "drove", "to", "stadium", "tax", "##es")
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "hidden_act": "gelu",
    "max_position_embeddings": 24,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-3,  # large enough that a wrong one shows
    "position_embedding_type": "absolute",
}
LIMIT = 10  # tokens
STEPS = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {
        "idx": 2,
        "name": "2",
        "path": "2_Normalize",
        "type": "sentence_transformers.models.Normalize",
    },
]
POOLING = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def tensors(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Random tensors by the names of a checkpoint; norms far from one and biases far from zero."""
    generator = np.random.default_rng(seed)
    width, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return (0.5 * generator.normal(size=shape)).astype(np.float32)

    made = {
        "embeddings.word_embeddings.weight": normal(CONFIG["vocab_size"], width),
        "embeddings.position_embeddings.weight": normal(CONFIG["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": normal(2, width),
        "embeddings.position_ids": np.arange(24)[None],
        "pooler.dense.weight": normal(width, width),
        "pooler.dense.bias": normal(width),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        sizes = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (width, width)}
        sizes |= {"intermediate.dense": (inner, width), "output.dense": (width, inner)}
        for name, size in sizes.items():
            made[f"{prefix}.{name}.weight"] = normal(*size)
            made[f"{prefix}.{name}.bias"] = normal(size[0])
        norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
    for name in norms:
        made[f"{name}.weight"] = 1 + normal(width)
        made[f"{name}.bias"] = normal(width)
    return made


def write_tokenizer(path: Path) -> None:
    """A WordPiece tokenizer that frames a text with [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: place for place, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # As all-MiniLM-L6-v2 has it: settings of another use, which must not hold here.
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(path))


def write(folder: Path, *, seed: int = 0, **changed: Any) -> Path:
    """Write a checkpoint as sentence-transformers lays it out; `changed` are keys of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changed))
    save_file(tensors(seed), folder / "model.safetensors")
    write_tokenizer(folder / "tokenizer.json")
    (folder / "modules.json").write_text(json.dumps(STEPS))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LIMIT}))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))
    return folder
