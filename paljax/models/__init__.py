"""Preference models: pure functions from items, prompts and user weights to rewards."""

from collections.abc import Callable, Mapping
from typing import Any

from paljax.models.anchored import ANCHOR, anchored
from paljax.models.bradley_terry import bradley_terry, with_shared_reward
from paljax.models.pal_a import pal_a
from paljax.models.pal_b import pal_b
from paljax.models.preference import (
    Encoded,
    Inputs,
    Params,
    PreferenceModel,
    VectorInputs,
    gather,
    margins,
    with_learned_vectors,
)
from paljax.models.reward_mixture import reward_mixture

# Keyword arguments of a function here are the keys of the configuration's `model` section.
MODELS: Mapping[str, Callable[..., PreferenceModel]] = {
    "bradley_terry": bradley_terry,
    "pal_a": pal_a,
    "pal_b": pal_b,
    "reward_mixture": reward_mixture,
}


def build(
    name: str,
    hyperparameters: Mapping[str, Any],
    *,
    shared: Mapping[str, Any] | None,
    personal: bool = True,
) -> PreferenceModel:
    """Build a model by its name.

    Args:
        name: A key of `MODELS`.
        hyperparameters: Keyword arguments of that function.
        shared: Keyword arguments of `bradley_terry` for the part that all users share, or None
            without such a part.
        personal: False leaves the shared part alone, which is then Bradley-Terry.

    Returns:
        The model.
    """
    if name == "bradley_terry":
        return bradley_terry(**hyperparameters)
    if not personal:
        return bradley_terry(**(shared or {}))
    model = MODELS[name](**hyperparameters)
    return model if shared is None else with_shared_reward(model, bradley_terry(**shared))


__all__ = [
    "ANCHOR",
    "MODELS",
    "Encoded",
    "Inputs",
    "Params",
    "PreferenceModel",
    "VectorInputs",
    "anchored",
    "bradley_terry",
    "build",
    "gather",
    "margins",
    "pal_a",
    "pal_b",
    "reward_mixture",
    "with_learned_vectors",
    "with_shared_reward",
]
