"""What prototypes want: effects of attributes are slopes over the items that people saw."""

import jax.numpy as jnp
import numpy as np

from paljax.data.dataset import assemble
from paljax.data.encoders import ItemId, Numbers, fit_encoder
from paljax.data.messages import written
from paljax.data.prepare import Prepared, encode_tables
from paljax.data.splits import Split
from paljax.models import bradley_terry
from paljax.reward.predictors import Trained
from paljax.reward.prototypes import common_ground, describe

# Contract length in years and price; each contract appears once.
CONTRACTS = np.array([[0, 7], [1, 9], [5, 8.5], [1, 6], [5, 7.5], [0, 8], [1, 7.2], [0, 6.1]])


def test_an_effect_follows_the_indicators_of_its_number():
    dataset = assemble(
        ["ann", "ben", "ann", "ben"],
        CONTRACTS[0::2],
        CONTRACTS[1::2],
        attributes=("length", "price"),
    )
    rows = dataset.comparisons
    appearing = np.concatenate([rows.chosen, rows.rejected])
    encoder = fit_encoder([Numbers(levels=3)], dataset.items, appearing)
    model = bradley_terry(hidden_layers=0)
    # Per standard deviation of length and of price, and for a year's contract beyond that.
    kernel = jnp.array([[-0.8], [-1.5], [2.0]])
    trained = Trained(model, {"shared": {"Dense_0": {"kernel": kernel}}}, jnp.ones(1), 1.0)
    split = Split(np.full(4, "train", object), np.full(4, -1, np.int32))
    tables = encode_tables(dataset, encoder, None)
    prepared = Prepared(dataset, split, None, encoder, None, tables, remarks={})

    (shared,) = describe(trained, prepared, rows)

    length = dataset.items[appearing, 0]
    standardised = (length - length.mean()) / length.std()
    reward_of_length = -0.8 * standardised + 2.0 * (length == 1)
    slope = np.polyfit(standardised, reward_of_length, 1)[0]
    np.testing.assert_allclose(shared["effects"]["length"], slope, rtol=1e-4)
    np.testing.assert_allclose(shared["effects"]["price"], -1.5, rtol=1e-4)
    assert slope < -0.8  # A year is shorter than the mean: a longer contract loses its bonus.


CHAT = written([{"role": "assistant", "content": "all hate it"}])  # listed as it is read
TEXTS = ("all like it", CHAT, "half like it", "nobody's", "as the mean item")


def test_common_ground_counts_prototypes_by_their_share():
    dataset = assemble(["ann"] * 5, TEXTS, TEXTS[1:] + TEXTS[:1])
    rows = dataset.comparisons
    appearing = np.concatenate([rows.chosen, rows.rejected])
    encoder = fit_encoder([ItemId(width=2)], dataset.items, appearing)
    # Of prototypes 1 and 2, and of a third that is nobody's; levels say nothing.
    rewards = dict(
        zip(TEXTS, [(3, 2, -9), (-3, -2, 9), (8, -2, 0), (0, 0, 50), (0, 0, 0)], strict=True)
    )
    tables = encode_tables(dataset, encoder, None)
    by_vector = np.zeros((5, 3))
    by_vector[tables.items.ids] = [rewards[text] for text in dataset.items]
    by_vector += [7, 0, -4]

    def encode_items(params, inputs):
        return jnp.asarray(by_vector, jnp.float32)[inputs.ids]

    model = bradley_terry(hidden_layers=0)._replace(
        num_prototypes=3,
        encode_items=encode_items,
        encode_prompts=lambda params, prompts: None,
        rewards=lambda params, items, prompts, weights: (items * weights).sum(axis=1),
    )
    split = Split(np.full(5, "train", object), np.full(5, -1, np.int32))
    prepared = Prepared(dataset, split, None, encoder, None, tables, {})

    found = common_ground(Trained(model, {}, jnp.ones(3) / 3, 1.0), prepared, rows, [0.75, 0.25, 0])

    first = {kind: items[0] for kind, items in found.items()}
    assert first["liked"]["item"] == "all like it"
    assert first["disliked"]["item"] == "all hate it"
    assert first["disputed"]["item"] == "half like it"
    # Centred per prototype: means are 1.6, -0.4 and 10 over the items. The disputed item has the
    # highest mean, and is not what all like.
    np.testing.assert_allclose(first["disputed"]["rewards"], [6.4, -1.6, -10], atol=1e-5)
    np.testing.assert_allclose(first["disputed"]["mean"], 0.75 * 6.4 - 0.25 * 1.6, atol=1e-5)
    np.testing.assert_allclose(first["disputed"]["spread"], np.sqrt(0.1875) * 8, atol=1e-5)
    assert first["disputed"]["mean"] > first["liked"]["mean"]
