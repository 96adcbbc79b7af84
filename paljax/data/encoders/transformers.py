"""The part `transformers`: any encoder or decoder that Hugging Face's library runs, through torch.

It needs the extra `embed`. B texts a batch, T tokens, D hidden width.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from paljax import pretrained
from paljax.data.encoders.part import PartConfig
from paljax.data.encoders.text_embeddings import Block, TextModel, text_kind
from paljax.data.encoders.tokens import token_batches
from paljax.errors import UserError
from paljax.ranges import PositiveInt

# Tokenizers without a limit of their own are written down with 1e30.
_NO_LIMIT = 1e9

Pooling = Literal["mean", "cls", "last_token"]


class Transformers(PartConfig):
    """The last hidden states of a Hugging Face model, pooled."""

    name: Literal["transformers"] = "transformers"
    model: str  # a folder, or a name on the hub
    revision: str | None = None  # on the hub
    pooling: Pooling = "mean"  # decoders see only what stands before: last_token
    normalise: bool = True  # to length one
    max_length: PositiveInt = 512  # tokens of a text, where the model reads as many
    dtype: Literal["float32", "bfloat16"] = "float32"
    tokens_per_batch: PositiveInt = 4096


class _Torch(NamedTuple):
    """The libraries of the extra `embed`, imported when they are asked for."""

    torch: ModuleType
    transformers: ModuleType


def open_model(config: Transformers) -> TextModel:
    """Find the model that a configuration names.

    Raises:
        UserError: If it is not there or can't be read, or the extra is not installed.
    """
    libraries = _libraries()
    folder = pretrained.find_folder(config.model, revision=config.revision)
    try:
        sizes = libraries.transformers.AutoConfig.from_pretrained(folder)
        if sizes.is_encoder_decoder:
            raise ValueError("it has an encoder and a decoder; wanted one of them")
        width = int(sizes.hidden_size)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _unreadable(folder, error) from None
    tokenizer = _tokenizer(libraries, folder)
    limits = (getattr(sizes, "max_position_embeddings", None), tokenizer.model_max_length)
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
    limit = min([config.max_length, *known])
    revision = pretrained.digest(
        [folder / pretrained.CONFIG, *pretrained.weight_files(folder), *_tokenizer_files(folder)],
        settings={
            "limit": limit,
            **config.model_dump(include={"pooling", "normalise", "dtype"}),
        },
    )
    embed = partial(_embed, libraries, config, folder, limit)
    return TextModel(width, limit, revision, embed)


def _embed(
    libraries: _Torch, config: Transformers, folder: Path, limit: int, texts: Sequence[str]
) -> Iterator[Block]:
    torch = libraries.torch
    tokenizer = _tokenizer(libraries, folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        network = libraries.transformers.AutoModel.from_pretrained(
            folder, dtype=getattr(torch, config.dtype), use_safetensors=True
        )
    except Exception as error:  # whatever the model's own code makes of a damaged file
        raise _unreadable(folder, error) from None
    network = network.to(device).eval()
    whole = tokenizer(list(texts), verbose=False)["input_ids"]
    kept = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    cut = np.array([len(long) > len(ids) for long, ids in zip(whole, kept, strict=True)], bool)
    for batch in token_batches(kept, tokens_per_batch=config.tokens_per_batch, limit=limit):
        count = len(batch.places)
        token_ids = torch.from_numpy(batch.token_ids[:count]).long().to(device)
        mask = torch.from_numpy(batch.mask[:count]).to(device)
        with torch.inference_mode():
            outputs = network(input_ids=token_ids, attention_mask=mask.long())
            vectors = _pool(libraries, outputs.last_hidden_state.float(), mask, config)
        yield Block(batch.places, vectors.cpu().numpy(), cut[batch.places])


def _pool(libraries: _Torch, hidden: Any, mask: Any, config: Transformers) -> Any:
    """One vector a text from hidden states [B, T, D]; padding stands at the end."""
    torch = libraries.torch
    lengths = mask.sum(dim=1)
    if config.pooling == "cls":
        vectors = hidden[:, 0]
    elif config.pooling == "last_token":
        vectors = hidden[torch.arange(len(hidden)), (lengths - 1).clamp(min=0)]
    else:
        present = mask.unsqueeze(-1).to(hidden.dtype)
        vectors = (hidden * present).sum(dim=1) / lengths.clamp(min=1).unsqueeze(-1)
    return torch.nn.functional.normalize(vectors, dim=1) if config.normalise else vectors


def _libraries() -> _Torch:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"encoder 'transformers' needs {error.name or 'torch'}, which is not installed: "
            "pip install 'paljax[embed]'"
        ) from None
    return _Torch(torch, transformers)


def _tokenizer(libraries: _Torch, folder: Path) -> Any:
    try:
        return libraries.transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of many kinds, by tokenizer
        raise _unreadable(folder, error) from None


def _tokenizer_files(folder: Path) -> list[Path]:
    names = ("vocab", "merges", "tokenizer", "special_tokens", "spiece", "sentencepiece")
    return sorted(path for path in folder.iterdir() if path.name.startswith(names))


def _unreadable(folder: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{folder}: transformers can't read this model: {reason}")


TRANSFORMERS = text_kind(Transformers, open_model)
