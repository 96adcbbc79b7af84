"""A Llama of 37 words that fits a test: random weights, and a tokenizer of whole words."""

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from tests.networks import tiny_checkpoints

SPECIAL = ("<unk>", "<s>", "</s>")
WORDS = (
    *("sun", "rain", "happy", "sad", "the", "a", "cat", "dog", "saw", "ran", "big", "small"),
    *(f"word{number}" for number in range(tiny_checkpoints.VOCABULARY - len(SPECIAL) - 12)),
)


def write(
    folder: Path,
    *,
    words: tuple[str, ...] = WORDS,
    scale: float = 1.0,
    opens: bool = True,
    **changed: Any,
) -> Path:
    """Write the checkpoint, whose texts open with `<s>` or don't; `changed` is in config.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_checkpoints.CHECKPOINTS["llama"] | changed
    (folder / "config.json").write_text(json.dumps(config))
    drawn = tiny_checkpoints.tensors(config, sharpness=1.0)
    tensors = {name: scale * value for name, value in drawn.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ids = {word: place for place, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    if opens:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
