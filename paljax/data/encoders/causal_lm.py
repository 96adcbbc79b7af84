"""The part `causal_lm`: pooled states of a frozen causal language model, as PAL reads texts.

The states of one layer, by default the penultimate one, at the text's tokens. A policy that starts
from the same model is scored by one forward pass over the tokens that it drew; see `read_states`,
which both call. N texts, T tokens, D width of the model.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from paljax import pretrained
from paljax.data.builders import DATA_DIR_VARIABLE
from paljax.data.encoders.part import PartConfig
from paljax.data.encoders.text_embeddings import Block, TextModel, text_kind
from paljax.data.encoders.tokens import token_batches
from paljax.errors import UserError
from paljax.networks import causal_lm
from paljax.networks.causal_lm import Compute, Params
from paljax.networks.decoder_config import DecoderConfig
from paljax.networks.loading import LanguageModel, load_language_model
from paljax.ranges import PositiveInt

_DOWNLOADS = Path("~/.cache/paljax")


class CausalLM(PartConfig):
    """States of a causal language model, pooled over a text's tokens."""

    name: Literal["causal_lm"] = "causal_lm"
    model: str  # as `paljax.networks.loading` finds it: a name, a folder, a file, or on the hub
    tokenizer: str | None = None  # of a .bin file or a folder, where it is not beside the weights
    revision: str | None = None  # on the hub
    layer: int = -2  # 1 the first, -1 the last, -2 the penultimate
    pooling: Literal["mean", "last", "sum"] = "mean"  # sum: a reward that adds up over tokens
    max_length: PositiveInt = 512  # tokens of a text, where the model reads as many
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the matrix products
    tokens_per_batch: PositiveInt = 4096


class Reading(NamedTuple):
    """How states become one vector a text; hashable, so that a program can depend on it."""

    layer: int
    pooling: Literal["mean", "last", "sum"]
    opening: tuple[int, ...]  # tokens that stand before every text
    compute: Compute


def open_language_model(
    source: str, *, tokenizer: str | None = None, revision: str | None = None
) -> LanguageModel:
    """A language model by name, file, folder or name on the hub; read once a process.

    Raises:
        UserError: If it is not there or can't be read.
    """
    return _opened(source, tokenizer, revision, Path.cwd())


@cache
def _opened(
    source: str, tokenizer: str | None, revision: str | None, folder: Path
) -> LanguageModel:
    """A model is read once for all that read by it; a relative source is one in its folder."""
    downloads = Path(os.environ.get(DATA_DIR_VARIABLE) or _DOWNLOADS).expanduser().absolute()
    return load_language_model(
        source,
        downloads=downloads,
        tokenizer=None if tokenizer is None else Path(tokenizer),
        revision=revision,
    )


def open_model(config: CausalLM) -> TextModel:
    """Find the model that a configuration names.

    Raises:
        UserError: If it is not there, can't be read, or has no such layer.
    """
    model = open_language_model(config.model, tokenizer=config.tokenizer, revision=config.revision)
    reading = reading_of(config, model.config, model.tokenizer.opening)
    limit = _limit(config, model)
    embed = partial(_embed, model, reading, limit, config.tokens_per_batch)
    return TextModel(model.config.width, limit, revision_of(config, model), embed)


def revision_of(config: CausalLM, model: LanguageModel) -> str:
    """Another where an embedding by this model could be another."""
    settings = config.model_dump(include={"layer", "pooling", "dtype"})
    settings |= {"limit": _limit(config, model), "opening": model.tokenizer.opening}
    return pretrained.digest(model.files, settings=settings)


def reading_of(config: CausalLM, sizes: DecoderConfig, opening: tuple[int, ...]) -> Reading:
    """How a configuration reads a model of these sizes, whose texts open with these tokens.

    Raises:
        UserError: If the model has no such layer.
    """
    if config.layer == 0 or not -sizes.layers <= config.layer <= sizes.layers:
        raise UserError(
            f"encoder 'causal_lm': layer {config.layer} of a model with {sizes.layers} layers; "
            f"wanted 1 to {sizes.layers}, or -1 to -{sizes.layers}"
        )
    compute = Compute(dtype=jnp.dtype(config.dtype).type)
    return Reading(config.layer, config.pooling, opening, compute)


def read_states(
    params: Params,
    tokens: Int[Array, "N T"],
    mask: Bool[Array, "N T"],
    sizes: DecoderConfig,
    reading: Reading,
) -> Float[Array, "N D"]:
    """One vector a text, by one forward pass through the layers below.

    Args:
        params: Of the language model.
        tokens: The texts, without the tokens that open or end one.
        mask: True is a token.
        sizes: Of the language model.
        reading: The layer, the pooling, and what stands before a text.

    Returns:
        Float32 vectors; of a text without tokens, zeros.

    Source:
        PAL, arXiv 2406.08469, section 3.
    """
    shape = (len(tokens), len(reading.opening))
    before = jnp.broadcast_to(jnp.asarray(reading.opening, tokens.dtype)[None], shape)
    states = causal_lm.hidden_states(
        params,
        jnp.concatenate([before, tokens], axis=1),
        jnp.concatenate([jnp.ones(shape, mask.dtype), mask], axis=1),
        sizes,
        layer=reading.layer,
        compute=reading.compute,
    )[:, shape[1] :]
    if reading.pooling == "sum":
        return jnp.sum(jnp.where(mask[:, :, None], states, 0), axis=1)
    return causal_lm.pool(states, mask, how=reading.pooling)


# Models of equal sizes are equal, so that a program is compiled once for all calls.
_read_batch = jax.jit(read_states, static_argnames=("sizes", "reading"))


def _limit(config: CausalLM, model: LanguageModel) -> int:
    """The most tokens of a text that are read."""
    return min(config.max_length, model.config.context - len(model.tokenizer.opening))


def _embed(
    model: LanguageModel,
    reading: Reading,
    limit: int,
    tokens_per_batch: int,
    texts: Sequence[str],
) -> Iterator[Block]:
    ids = [model.tokenizer.encode(text) for text in texts]
    cut = np.array([len(row) > limit for row in ids], np.bool_)
    kept = [row[:limit] for row in ids]
    params = jax.device_put(model.params)
    for batch in token_batches(kept, tokens_per_batch=tokens_per_batch, limit=limit):
        vectors = np.asarray(
            _read_batch(params, batch.token_ids, batch.mask, sizes=model.config, reading=reading)
        )
        yield Block(batch.places, vectors[: len(batch.places)], cut[batch.places])


CAUSAL_LM = text_kind(CausalLM, open_model)
