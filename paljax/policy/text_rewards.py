"""Rewards of texts as they are drawn: what the groups of a reward run want of them.

Where the run reads texts by the policy's own language model, the frozen one's states of the drawn
tokens are read: one forward pass. Where it reads by a model with another tokenizer, `minilm`, the
host writes the text out and cuts it into that model's tokens in the middle of a step; the model
runs in the step's program, its parameters frozen beside the prompts.

B prompts, n responses of each, N of them all together, T tokens, D numbers, C columns of rewards.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from paljax.data.encoders.causal_lm import CausalLM, read_states, reading_of, revision_of
from paljax.data.encoders.text_embeddings import Reader, TextEmbeddings
from paljax.data.encoders.tokens import bucket
from paljax.errors import UserError
from paljax.networks.causal_lm import Places
from paljax.networks.decoder_config import DecoderConfig
from paljax.networks.loading import LanguageModel
from paljax.policy.decoding import Decoder
from paljax.policy.group_rewards import GroupRewards
from paljax.policy.responses import TextRewards
from paljax.policy.text_policy import TextPrompts

KEY = "rewards.run"
# Tokens that a reader frames a text with.
_FRAME = 2

# (prompts, tokens [N, T], mask [N, T]) -> [N, D]
_Read = Callable[[TextPrompts, Array, Array], Float[Array, "N D"]]


def of_texts(
    groups: GroupRewards,
    sizes: DecoderConfig,
    *,
    opening: tuple[int, ...],
    decoder: Decoder,
    readers: Mapping[str, Reader],
    places: Places | None = None,
) -> TextRewards:
    """The groups' rewards of drawn tokens, in nats.

    They are those of the response's text, tokens that end it left out. States of the policy's own
    model are those of its text wherever the tokens that were drawn are those that the tokenizer
    makes of that text; a model seldom spells otherwise.

    Args:
        groups: Of a reward run whose items are read by `causal_lm`, `minilm` or both.
        sizes: Of the policy's language model; see `require_same_model`.
        opening: Tokens that its texts open with.
        decoder: Makes texts of drawn tokens.
        readers: Of `open_readers`; their parameters come with the prompts.
        places: How the language model's stream lies on several devices.
    """
    reads = [
        _by_reader(name, part, readers[name], decoder)
        if name in readers
        else _by_policy(part, sizes, opening, decoder, places)
        for name, part in _parts(groups, "").items()
    ]
    level_width = groups.model.item_encoder.level_width

    def rewards(
        prompts: TextPrompts, tokens: Int[Array, "B n T"], mask: Bool[Array, "B n T"]
    ) -> Float[Array, "B n C"]:
        batch, num_samples, length = tokens.shape
        flat, of_text = tokens.reshape(-1, length), mask.reshape(-1, length)
        inputs = jnp.concatenate([read(prompts, flat, of_text) for read in reads], axis=1)
        inputs = jnp.pad(inputs, ((0, 0), (0, level_width)))  # no text that is drawn is a level
        beside = jax.tree.map(
            lambda leaf: jnp.repeat(leaf, num_samples, axis=0), prompts.reward_inputs
        )
        return groups.of_inputs(inputs, beside).reshape(batch, num_samples, -1)

    return rewards


def open_readers(groups: GroupRewards, *, run: str) -> dict[str, Reader]:
    """The pretrained models, beside the policy's, that read items for a reward run.

    Args:
        groups: Of the reward run.
        run: The run's folder, to name.

    Raises:
        UserError: If an encoder can't read drawn texts, or a model's files are not those that the
            run was trained with.
    """
    others = {name: part for name, part in _parts(groups, run).items() if name != "causal_lm"}
    readers = {}
    for name, part in others.items():
        model = part.model()
        assert model.reader is not None
        readers[name] = model.reader()
    return readers


def prompt_inputs(groups: GroupRewards, prompts: tuple[str, ...]) -> Any:
    """What the run's model reads of prompts, leading axis X; None where it reads none."""
    encoder = groups.model.prompt_encoder
    return None if encoder is None else jax.tree.map(jnp.asarray, encoder.encode(prompts))


def require_same_model(groups: GroupRewards, model: LanguageModel, *, run: str) -> None:
    """Refuse a reward run that reads states of another language model than the policy's.

    Prompts are read once, before a fit, by whatever the run reads them with.

    Args:
        groups: Of the reward run.
        model: What the policy starts from.
        run: The run's folder.

    Raises:
        UserError: If its states are of another width, or of other weights.
    """
    part = _parts(groups, run).get("causal_lm")
    if part is None:
        return
    if len(part.mean) != model.config.width:
        raise UserError(
            f"{KEY}: {run} reads embeddings of width {len(part.mean)}, the policy's language "
            f"model has width {model.config.width}; wanted a run that reads with policy.model"
        )
    assert isinstance(part.config, CausalLM)
    if revision_of(part.config, model) != part.revision:
        raise UserError(
            f"{KEY}: {run} was trained on states of {part.config.model}, whose files are not "
            "those of policy.model; wanted a run that reads with policy.model"
        )


def _parts(groups: GroupRewards, run: str) -> dict[str, TextEmbeddings]:
    """What reads the run's items."""
    parts = {}
    for name, part in groups.model.item_encoder.parts.items():
        if name not in ("causal_lm", "minilm"):
            raise UserError(
                f"{KEY}: {run} reads texts with {name!r}; drawn texts can be read by the encoders "
                "'causal_lm' and 'minilm'"
            )
        assert isinstance(part, TextEmbeddings)
        parts[name] = part
    return parts


def _by_policy(
    part: TextEmbeddings,
    sizes: DecoderConfig,
    opening: tuple[int, ...],
    decoder: Decoder,
    places: Places | None,
) -> _Read:
    """Read by the frozen language model that the policy started from."""
    assert isinstance(part.config, CausalLM)
    reading = reading_of(part.config, sizes, opening)
    reading = reading._replace(compute=reading.compute._replace(places=places))
    ends = jnp.asarray(decoder.end_tokens, jnp.int32)

    def read(
        prompts: TextPrompts, tokens: Int[Array, "N T"], mask: Bool[Array, "N T"]
    ) -> Float[Array, "N D"]:
        tokens, of_text = tokens[:, : part.limit], mask[:, : part.limit]
        of_text = of_text & ~jnp.isin(tokens, ends)
        states = read_states(prompts.language_model, tokens, of_text, sizes, reading)
        return (states - jnp.asarray(part.mean)[None]) / part.scale

    return read


def _by_reader(name: str, part: TextEmbeddings, reader: Reader, decoder: Decoder) -> _Read:
    """Read by a model with another tokenizer."""

    def respell(
        tokens: NDArray[np.int32], mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        spelled = reader.tokenize(decoder.texts(tokens, mask)).ids
        token_ids = np.zeros((len(tokens), part.limit), np.int32)
        for row, ids in enumerate(spelled):
            token_ids[row, : len(ids)] = ids
        return token_ids, np.array([len(ids) for ids in spelled], np.int32)

    def read(
        prompts: TextPrompts, tokens: Int[Array, "N T"], mask: Bool[Array, "N T"]
    ) -> Float[Array, "N D"]:
        count, length = tokens.shape
        shapes = (
            jax.ShapeDtypeStruct((count, part.limit), jnp.int32),
            jax.ShapeDtypeStruct((count,), jnp.int32),
        )
        token_ids, lengths = jax.pure_callback(respell, shapes, tokens, mask)
        # Most texts have no more tokens of another tokenizer than of the policy's. Where one of
        # them has, all are padded to the most that the model reads; the numbers are the same.
        usual = min(bucket(length + _FRAME), part.limit)

        def vectors(width: int) -> Float[Array, "N D"]:
            present = jnp.arange(width)[None] < lengths[:, None]
            return reader.vectors(prompts.readers[name], token_ids[:, :width], present)

        found: Array = jax.lax.cond(
            jnp.max(lengths) <= usual, partial(vectors, usual), partial(vectors, part.limit)
        )
        return (found - jnp.asarray(part.mean)[None]) / part.scale

    return read
