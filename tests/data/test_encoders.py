"""Encoders learn from training rows alone, and say what they can't read."""

import json

import jax
import numpy as np
import pytest

from paljax.data.encoders import ItemId, Numbers, encoder_from_json, fit_encoder
from paljax.errors import UserError

NUMBERS = np.array([[1.0, 5.0], [3.0, 5.0], [100.0, 5.0]], np.float32)
TEXTS = ("tea", "coffee", "water")


def test_numbers_are_standardised_by_training_rows():
    encoder = fit_encoder([Numbers()], NUMBERS, np.array([0, 1]))
    encoded = encoder.encode(NUMBERS)
    np.testing.assert_allclose(encoded[:2, 0], [-1, 1])
    np.testing.assert_allclose(encoded[2, 0], 98)
    np.testing.assert_array_equal(encoded[:, 1], 0)


def test_an_item_that_training_never_saw_has_no_vector():
    encoder = fit_encoder([ItemId(width=4)], TEXTS, np.array([2, 0, 0]))
    inputs = encoder.encode(("water", "tea", "coffee", "juice"))
    assert encoder.learned_vectors() == (2, 4)
    np.testing.assert_array_equal(inputs.ids, [1, 0, -1, -1])
    assert inputs.features.shape == (4, 0)


def test_encoders_concatenate():
    encoder = fit_encoder([Numbers(), ItemId(width=3)], NUMBERS, np.array([0, 1]))
    inputs = encoder.encode(NUMBERS)
    np.testing.assert_array_equal(inputs.ids, [0, 1, -1])
    assert inputs.features.shape == (3, 2)


@pytest.mark.parametrize("configs", [[Numbers()], [Numbers(), ItemId(width=3)]])
def test_an_encoder_survives_its_file(configs):
    encoder = fit_encoder(configs, NUMBERS, np.array([0, 1]))
    again = encoder_from_json(json.loads(json.dumps(encoder.to_json())))
    one, other = encoder.encode(NUMBERS), again.encode(NUMBERS)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("configs", "table", "message"),
    [
        ([Numbers()], TEXTS, "'numbers' needs items that are lists of numbers"),
        ([Numbers(), Numbers()], NUMBERS, "every encoder may appear once"),
    ],
)
def test_what_does_not_fit_is_refused(configs, table, message):
    with pytest.raises(UserError, match=message):
        fit_encoder(configs, table, np.array([0]))


def test_items_of_another_width_are_refused():
    encoder = fit_encoder([Numbers()], NUMBERS, np.array([0, 1]))
    with pytest.raises(UserError, match="items have 3 numbers, the model was trained on 2"):
        encoder.encode(np.zeros((1, 3), np.float32))
