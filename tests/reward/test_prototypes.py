"""What prototypes want: effects of attributes are slopes over the items that people saw."""

import jax.numpy as jnp
import numpy as np

from paljax.data.dataset import assemble
from paljax.data.encoders import Numbers, fit_encoder
from paljax.data.prepare import Prepared, encode_tables
from paljax.data.splits import Split
from paljax.models import bradley_terry
from paljax.reward.predictors import Trained
from paljax.reward.prototypes import describe

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
