"""What a text opens with: what its tokenizer puts before it, which is often nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from paljax.errors import UserError
from paljax.networks.tokenizers import SETTINGS, gguf_tokenizer, load_huggingface_tokenizer

TEXT = "the cat"
NAMED = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
# What a tokenizer.json ends with, its tokenizer_config.json, and what a text then opens with.
CASES: dict[str, tuple[str, dict[str, Any] | None, tuple[int, ...]]] = {
    "nothing said": ("none", None, ()),
    "as GPT-2, which names a bos token": ("bytes", NAMED, ()),
    "as Qwen2": ("bytes", NAMED | {"bos_token": None, "add_bos_token": False}, ()),
    "as Llama 3": ("before", NAMED, (1,)),
    "without settings": ("before", None, (1,)),
    "an end token, too": ("around", NAMED, (1,)),
    "two tokens": ("two", NAMED, (2, 1)),
}
# Where transformers 5 looks at the tokenizer.json alone, and version 4 obeyed for Llama.
SAID: dict[str, tuple[str, dict[str, Any] | None, tuple[int, ...]]] = {
    "said no": ("before", NAMED | {"add_bos_token": False}, ()),
    "said yes": ("bytes", NAMED | {"add_bos_token": True}, (1,)),
    "said yes, at length": (
        "none", NAMED | {"add_bos_token": True, "bos_token": {"content": "<s>"}}, (1,)
    ),
}  # fmt: skip


def write(folder: Path, ending: str, settings: dict[str, Any] | None) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {word: place for place, word in enumerate(("<unk>", "<s>", "</s>", "the", "cat"))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    templates = {"before": "<s> $A", "around": "<s> $A </s>", "two": "</s> <s> $A"}
    if ending == "bytes":
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    elif ending in templates:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=templates[ending], special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    if settings is not None:
        (folder / SETTINGS).write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("case", CASES | SAID)
def test_a_text_opens_as_its_tokenizer_says(tmp_path: Path, case: str) -> None:
    ending, settings, opening = (CASES | SAID)[case]
    tokenizer = load_huggingface_tokenizer(write(tmp_path, ending, settings))
    assert tokenizer.opening == opening
    assert tokenizer.encode(TEXT) == [3, 4]


@pytest.mark.parametrize("case", CASES)
def test_hugging_face_opens_it_so(tmp_path: Path, case: str) -> None:
    transformers = pytest.importorskip("transformers")
    ending, settings, opening = CASES[case]
    write(tmp_path, ending, settings)
    found = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)(TEXT)["input_ids"]
    assert tuple(found) == (*opening, 3, 4, *([2] if ending == "around" else []))


def test_settings_that_can_not_be_followed_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "none", {"add_bos_token": True, "bos_token": "<bos>"})
    line = "add_bos_token is true, but bos_token '<bos>' is no token of the vocabulary"
    with pytest.raises(UserError, match=f"{SETTINGS}: {line}"):
        load_huggingface_tokenizer(path)
    for content in ("{", "[]"):
        (tmp_path / SETTINGS).write_text(content)
        with pytest.raises(UserError, match=f"{SETTINGS}: damaged: ") as caught:
            load_huggingface_tokenizer(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("said", "opening"), [(None, ()), (False, ()), (True, (1,))])
def test_a_gguf_file_says_so_itself(said: bool | None, opening: tuple[int, ...]) -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<|end|>", "<|start|>", "a", "b", "ab"],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.token_type": [3, 3, 1, 1, 1],
        "tokenizer.ggml.bos_token_id": 1,
    }
    if said is not None:
        metadata["tokenizer.ggml.add_bos_token"] = said
    tokenizer = gguf_tokenizer(metadata)
    assert tokenizer.opening == opening
    assert tokenizer.encode("ab") == [4]


def test_run_c_opens_every_text_with_token_1(stories: Any) -> None:
    assert stories.tokenizer.opening == (1,)
