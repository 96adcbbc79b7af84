"""Rewards of texts as they are drawn: a reward run's groups, read off the frozen language model.

B prompts, n responses of each, T tokens, C columns of rewards.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from paljax.data.encoders import Encoder
from paljax.data.encoders.causal_lm import CausalLM, read_states, reading_of, revision_of
from paljax.data.encoders.text_embeddings import TextEmbeddings
from paljax.errors import UserError
from paljax.networks.causal_lm import Places
from paljax.networks.decoder_config import DecoderConfig
from paljax.networks.loading import LanguageModel
from paljax.policy.group_rewards import GroupRewards
from paljax.policy.responses import TextRewards
from paljax.policy.text_policy import TextPrompts

KEY = "rewards.run"


def of_texts(
    groups: GroupRewards,
    sizes: DecoderConfig,
    *,
    end_tokens: tuple[int, ...],
    run: str,
    places: Places | None = None,
) -> TextRewards:
    """The groups' rewards of drawn tokens, in nats: one forward pass of the language model.

    They are those of the response's text, tokens that end it left out, wherever the tokens that
    were drawn are those that the tokenizer makes of that text; a model seldom spells otherwise.

    Args:
        groups: Of a reward run whose items the encoder `causal_lm` reads.
        sizes: Of the policy's language model; see `require_same_model`.
        end_tokens: That end a response.
        run: The run's folder, to name in errors.
        places: How the stream lies on several devices.

    Raises:
        UserError: If the run reads texts with anything else.
    """
    part = _only_part(groups.model.item_encoder, run)
    assert isinstance(part.config, CausalLM)
    reading = reading_of(part.config, sizes)
    reading = reading._replace(compute=reading.compute._replace(places=places))
    mean, scale = jnp.asarray(part.mean), part.scale
    ends = jnp.asarray(end_tokens, jnp.int32)

    def rewards(
        prompts: TextPrompts, tokens: Int[Array, "B n T"], mask: Bool[Array, "B n T"]
    ) -> Float[Array, "B n C"]:
        batch, num_samples, _ = tokens.shape
        flat = tokens.reshape(batch * num_samples, -1)[:, : part.limit]
        of_text = mask.reshape(batch * num_samples, -1)[:, : part.limit]
        of_text = of_text & ~jnp.isin(flat, ends)
        states = read_states(prompts.language_model, flat, of_text, sizes, reading)
        beside = jax.tree.map(
            lambda leaf: jnp.repeat(leaf, num_samples, axis=0), prompts.reward_inputs
        )
        columns = groups.of_inputs((states - mean[None]) / scale, beside)
        return columns.reshape(batch, num_samples, -1)

    return rewards


def prompt_inputs(groups: GroupRewards, prompts: tuple[str, ...]) -> Any:
    """What the run's model reads of prompts, leading axis X; None where it reads none."""
    encoder = groups.model.prompt_encoder
    return None if encoder is None else jax.tree.map(jnp.asarray, encoder.encode(prompts))


def require_same_model(groups: GroupRewards, model: LanguageModel, *, run: str) -> None:
    """Refuse a reward run that reads texts with another model than the policy's.

    Args:
        groups: Of the reward run.
        model: What the policy starts from.
        run: The run's folder.

    Raises:
        UserError: If its states are of another width, or of other weights.
    """
    encoders = [groups.model.item_encoder, groups.model.prompt_encoder]
    for encoder in filter(None, encoders):
        part = _only_part(encoder, run)
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


def _only_part(encoder: Encoder, run: str) -> TextEmbeddings:
    names = list(encoder.parts)
    if names != ["causal_lm"]:
        raise UserError(
            f"{KEY}: {run} reads texts with {', '.join(map(repr, names))}; rewards of drawn tokens "
            "want the encoder 'causal_lm' alone"
        )
    part = encoder.parts["causal_lm"]
    assert isinstance(part, TextEmbeddings)
    return part
