"""The part `minilm`: sentence embeddings by a BERT of our own, all-MiniLM-L6-v2 unless said.

Any checkpoint of the BERT layout will do. The folder's own files say how hidden states become one
vector, as sentence-transformers reads them: `modules.json` the steps, `1_Pooling/config.json` the
pooling, `sentence_bert_config.json` how many tokens are read. Without them: the mean over tokens.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from paljax import pretrained
from paljax.data.encoders.part import PartConfig
from paljax.data.encoders.text_embeddings import Block, Reader, TextModel, text_kind
from paljax.data.encoders.tokens import Tokenized, open_tokenizer, token_batches, tokenize
from paljax.errors import UserError
from paljax.networks import bert
from paljax.ranges import PositiveInt

# On a CPU the hidden states of so many tokens stay in its caches; other devices want to be filled.
_TOKENS_ON_CPU = 1024
_TOKENS_ELSEWHERE = 32768

_STEPS = "modules.json"
_READING = "sentence_bert_config.json"


class MiniLM(PartConfig):
    """A sentence embedding by a checkpoint of the BERT layout, computed in JAX."""

    name: Literal["minilm"] = "minilm"
    model: str = "sentence-transformers/all-MiniLM-L6-v2"  # or a folder
    revision: str | None = None  # on the hub
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the matrix products
    tokens_per_batch: PositiveInt | None = None  # null: as the device likes it


class Sentences(NamedTuple):
    """How hidden states become one vector a text."""

    pooling: Literal["mean", "cls"]
    normalise: bool  # to length one
    limit: int  # tokens of a text that are read
    lowercase: bool  # before the tokenizer, which may do it, too


def open_model(config: MiniLM) -> TextModel:
    """Find the checkpoint that a configuration names.

    Raises:
        UserError: If it is not there or can't be read.
    """
    folder = pretrained.find_folder(config.model, revision=config.revision)
    where = folder / pretrained.CONFIG
    sizes = bert.read_config(pretrained.read_record(where), where=where)
    sentences = _read_sentences(folder, most=sizes.max_position_embeddings)
    revision = pretrained.digest(
        [where, *pretrained.weight_files(folder), folder / pretrained.TOKENIZER],
        settings={"sentences": sentences._asdict(), "dtype": config.dtype},
    )
    # Read when the first text is embedded, and kept for the next.
    reader = cache(partial(_reader, config, folder, sizes, sentences))
    embed = partial(_embed, reader, sentences.limit, config.tokens_per_batch)
    return TextModel(sizes.hidden_size, sentences.limit, revision, embed, reader)


def _reader(config: MiniLM, folder: Path, sizes: bert.BertConfig, sentences: Sentences) -> Reader:
    tokenizer = open_tokenizer(folder / pretrained.TOKENIZER, limit=sentences.limit)

    def tokens_of(texts: Sequence[str]) -> Tokenized:
        return tokenize(
            tokenizer, [text.lower() for text in texts] if sentences.lowercase else texts
        )

    vectors = partial(
        _embed_batch,
        bert.Bert(sizes, dtype=jnp.dtype(config.dtype)),
        pooling=sentences.pooling,
        normalise=sentences.normalise,
    )
    return Reader(_read_params(folder, sizes), tokens_of, vectors)


def _embed(
    reader: Callable[[], Reader],
    limit: int,
    tokens_per_batch: int | None,
    texts: Sequence[str],
) -> Iterator[Block]:
    params, tokens_of, read = reader()
    tokenized = tokens_of(texts)
    on_cpu = jax.default_backend() == "cpu"
    at_once = tokens_per_batch or (_TOKENS_ON_CPU if on_cpu else _TOKENS_ELSEWHERE)
    for batch in token_batches(tokenized.ids, tokens_per_batch=at_once, limit=limit):
        vectors = np.asarray(read(params, jnp.asarray(batch.token_ids), jnp.asarray(batch.mask)))
        yield Block(batch.places, vectors[: len(batch.places)], tokenized.cut[batch.places])


def _read_params(folder: Path, sizes: bert.BertConfig) -> bert.Params:
    params = bert.read_params(sizes, pretrained.read_tensors(folder), where=folder)
    return jax.device_put(params)


# Networks of equal sizes are equal, so that a program is compiled once for all calls.
@partial(jax.jit, static_argnums=0, static_argnames=("pooling", "normalise"))
def _embed_batch(
    network: bert.Bert,
    params: bert.Params,
    token_ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    pooling: Literal["mean", "cls"],
    normalise: bool,
) -> Float[Array, "B D"]:
    hidden = jnp.asarray(network.apply(params, token_ids, mask))
    return pool(hidden, mask, pooling=pooling, normalise=normalise)


def pool(
    hidden: Float[Array, "B T D"],
    mask: Bool[Array, "B T"],
    *,
    pooling: Literal["mean", "cls"],
    normalise: bool,
) -> Float[Array, "B D"]:
    """One vector a text from its tokens' hidden states.

    Args:
        hidden: Hidden states of the last layer.
        mask: True is a token, False is padding.
        pooling: The mean over tokens, or the first token's state.
        normalise: Scale every vector to length one.

    Returns:
        The vectors.

    Source:
        Reimers and Gurevych, arXiv 1908.10084, section 3.
    """
    if pooling == "cls":
        vectors = hidden[:, 0]
    else:
        present = mask[:, :, None].astype(hidden.dtype)
        vectors = (hidden * present).sum(axis=1) / jnp.maximum(present.sum(axis=1), 1)
    if normalise:
        length = jnp.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / jnp.maximum(length, 1e-12)
    return vectors


def _read_sentences(folder: Path, *, most: int) -> Sentences:
    """Read what sentence-transformers wrote beside a model; without it, the mean over tokens."""
    reading = _optional(folder / _READING)
    limit = reading.get("max_seq_length")
    pooling: Literal["mean", "cls"] = "mean"
    normalise = False
    for step in _steps(folder / _STEPS):
        kind = str(step.get("type")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _read_pooling(folder / str(step.get("path")) / pretrained.CONFIG)
        elif kind == "Normalize":
            normalise = True
        elif kind != "Transformer":
            raise UserError(
                f"{folder / _STEPS}: step {kind!r} is not known; "
                "choose one of 'Transformer', 'Pooling', 'Normalize'"
            )
    return Sentences(
        pooling=pooling,
        normalise=normalise,
        limit=min(limit, most) if isinstance(limit, int) and limit > 2 else most,
        lowercase=bool(reading.get("do_lower_case")),
    )


def _read_pooling(path: Path) -> Literal["mean", "cls"]:
    record = pretrained.read_record(path)
    modes: dict[str, Literal["mean", "cls"]] = {"mean_tokens": "mean", "cls_token": "cls"}
    used = [
        key.removeprefix("pooling_mode_")
        for key, value in record.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    if len(used) != 1 or used[0] not in modes:
        raise UserError(f"{path}: pooling {used} is not known; choose one of {[*modes]}")
    return modes[used[0]]


def _steps(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise UserError(f"{path}: damaged: wanted a list of steps")
    return steps


def _optional(path: Path) -> dict[str, Any]:
    return pretrained.read_record(path) if path.is_file() else {}


MINILM = text_kind(MiniLM, open_model)
