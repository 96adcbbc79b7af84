"""What each prototype wants: effects of attributes, items that it prefers most and least.

K prototypes, D attributes, N items.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from paljax.data.dataset import Comparisons, Dataset, Table
from paljax.data.encoders import content
from paljax.data.messages import as_read
from paljax.data.prepare import Prepared
from paljax.models import Inputs, VectorInputs, gather
from paljax.reward.predictors import Trained

# Items that an effect is averaged over, and that are listed as most and least preferred.
SAMPLE_SIZE = 4096
NUM_LISTED = 5
MOST_ATTRIBUTES = 32  # more columns are an embedding, and no figure shows them
EFFECT_UNIT = "nats per standard deviation"


def describe(trained: Trained, prepared: Prepared, rows: Comparisons) -> list[dict[str, Any]]:
    """Describe every prototype of a model.

    Args:
        trained: The model.
        prepared: The data that it was trained on.
        rows: Comparisons whose items (with their prompts) are looked at.

    Returns:
        For each prototype: effects, by attribute, the mean change of the reward in nats when the
        attribute rises by a standard deviation around each item's value (empty without named
        numbers); most_preferred and least_preferred, items with their reward in nats relative to
        the mean item.
    """
    items, prompts = _looked_at(rows, prepared.dataset)
    inputs = gather(prepared.tables.items, jnp.asarray(items))
    rewards = _rewards_by_prototype(trained, prepared, inputs, prompts)
    centred = rewards - rewards.mean(axis=0)
    effects = _effects(trained, prepared, inputs, prompts)
    attributes = attribute_names(prepared)
    texts = prepared.dataset.items
    return [
        {
            "effects": dict(zip(attributes, effects[:, place].tolist(), strict=False)),
            "most_preferred": _listed(texts, attributes, items, centred[:, place], best=True),
            "least_preferred": _listed(texts, attributes, items, centred[:, place], best=False),
        }
        for place in range(trained.model.num_prototypes)
    ]


def common_ground(
    trained: Trained, prepared: Prepared, rows: Comparisons, shares: NDArray[Any]
) -> dict[str, list[dict[str, Any]]] | None:
    """Items on which the prototypes agree and disagree most.

    A prototype's reward of an item is measured from its mean item, and prototypes count by their
    share: one that nobody has says nothing about what people agree on.

    Args:
        trained: The model.
        prepared: The data that it was trained on.
        rows: Comparisons whose items (with their prompts) are looked at.
        shares: Of the prototypes in the people, [K].

    Returns:
        liked, the items with the highest mean reward less its standard deviation over prototypes;
        disliked, with the lowest mean plus standard deviation; disputed, with the largest standard
        deviation. Each with its item, mean, spread (the standard deviation) and rewards [K], in
        nats. None where there is one prototype, or items are numbers with names.
    """
    if trained.model.num_prototypes < 2 or attribute_names(prepared):
        return None
    items, prompts = _looked_at(rows, prepared.dataset)
    inputs = gather(prepared.tables.items, jnp.asarray(items))
    rewards = _rewards_by_prototype(trained, prepared, inputs, prompts)
    rewards -= rewards.mean(axis=0)
    weights = np.asarray(shares, np.float64) / np.sum(shares)
    mean = rewards @ weights
    spread = np.sqrt(((rewards - mean[:, None]) ** 2) @ weights)

    def listed(score: NDArray[np.float64]) -> list[dict[str, Any]]:
        first: dict[int, int] = {}  # an item may be there with several prompts
        for place in np.argsort(-score, kind="stable"):
            first.setdefault(int(items[place]), int(place))
            if len(first) == NUM_LISTED:
                break
        return [
            {
                "item": _written(prepared.dataset.items, (), row),
                "mean": float(mean[place]),
                "spread": float(spread[place]),
                "rewards": rewards[place].tolist(),
            }
            for row, place in first.items()
        ]

    return {
        "liked": listed(mean - spread),
        "disliked": listed(-(mean + spread)),
        "disputed": listed(spread),
    }


def attribute_names(prepared: Prepared) -> tuple[str, ...]:
    """Names of the items' numbers, () where items have none or too many to look at."""
    width = prepared.item_encoder.num_attributes()
    if not 0 < width <= MOST_ATTRIBUTES:
        return ()
    return prepared.dataset.attributes or tuple(f"number {place + 1}" for place in range(width))


def _looked_at(rows: Comparisons, dataset: Dataset) -> tuple[NDArray[Any], NDArray[Any]]:
    """Items of some comparisons and their prompts, each pair once, at most SAMPLE_SIZE of them."""
    items = np.concatenate([rows.chosen, rows.rejected])
    prompts = np.maximum(np.concatenate([rows.prompt, rows.prompt]), 0)
    pairs = np.unique(np.stack([items, prompts], axis=1), axis=0)
    pairs = pairs[~dataset.is_level(pairs[:, 0])]
    if len(pairs) > SAMPLE_SIZE:
        pairs = np.random.default_rng(0).choice(pairs, SAMPLE_SIZE, replace=False)
    return pairs[:, 0], pairs[:, 1]


def _rewards_by_prototype(
    trained: Trained, prepared: Prepared, inputs: Inputs, prompts: NDArray[Any]
) -> NDArray[np.float64]:
    """Reward [N, K] of every item for users who are one prototype each."""
    model, params = trained.model, trained.params

    @jax.jit
    def rewards(inputs: Inputs) -> Any:
        encoded = model.encode_items(params, inputs)
        encoded_prompts = gather(
            model.encode_prompts(params, prepared.tables.prompts), jnp.asarray(prompts)
        )

        def of_prototype(corner: Any) -> Any:
            weights = jnp.broadcast_to(corner, (len(prompts), model.num_prototypes))
            return model.rewards(params, encoded, encoded_prompts, weights)

        return jax.vmap(of_prototype)(jnp.eye(model.num_prototypes))

    return np.asarray(rewards(inputs), np.float64).T


def _effects(
    trained: Trained, prepared: Prepared, inputs: Inputs, prompts: NDArray[Any]
) -> NDArray[np.float64]:
    """Mean change [D, K] of the reward when an attribute rises by a standard deviation."""
    changes = []
    for column in range(len(attribute_names(prepared))):
        rise = prepared.item_encoder.rise(column)
        higher, lower = (
            _rewards_by_prototype(trained, prepared, _shifted(inputs, shift * rise), prompts)
            for shift in (0.5, -0.5)
        )
        changes.append((higher - lower).mean(axis=0))
    return np.array(changes).reshape(-1, trained.model.num_prototypes)


def _shifted(inputs: Inputs, shift: NDArray[np.float32]) -> Inputs:
    if isinstance(inputs, VectorInputs):
        return inputs._replace(features=inputs.features + shift[None])
    return inputs + shift[None]


def _listed(
    table: Table,
    attributes: tuple[str, ...],
    items: NDArray[Any],
    rewards: NDArray[np.float64],
    *,
    best: bool,
) -> list[dict[str, Any]]:
    order = np.argsort(-rewards if best else rewards, kind="stable")
    listed: dict[int, float] = {}
    for place in order:
        listed.setdefault(int(items[place]), float(rewards[place]))
        if len(listed) == NUM_LISTED:
            break
    return [
        {"item": _written(table, attributes, row), "reward": reward}
        for row, reward in listed.items()
    ]


def _written(table: Table, attributes: tuple[str, ...], row: int) -> str:
    if isinstance(table, tuple) or not attributes:
        return as_read(content(table[row : row + 1])[0])
    return ", ".join(
        f"{name} {json.dumps(round(value, 3))}"
        for name, value in zip(attributes, table[row].tolist(), strict=True)
    )
