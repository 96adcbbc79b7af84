"""Encoders learn from training rows alone, and say what they can't read."""

import json

import jax
import numpy as np
import pytest

from paljax.data import encoders
from paljax.data.encoders import (
    PARTS,
    Encoder,
    Format,
    ItemId,
    Numbers,
    encoder_from_json,
    fit_encoder,
)
from paljax.errors import UserError

NUMBERS = np.array([[1.0, 5.0], [3.0, 5.0], [100.0, 5.0]], np.float32)
TEXTS = ("tea", "coffee", "water")


def test_every_part_is_named_and_can_be_had():
    for name, kind in PARTS.items():
        assert f"`{name}`" in encoders.__doc__
        assert getattr(encoders, kind.config.__name__) is kind.config


def test_numbers_are_standardised_by_training_rows():
    encoder = fit_encoder([Numbers()], NUMBERS, np.array([0, 1]))
    encoded = encoder.encode(NUMBERS)
    np.testing.assert_allclose(encoded[:2, 0], [-1, 1])
    np.testing.assert_allclose(encoded[2, 0], 98)
    np.testing.assert_array_equal(encoded[:, 1], 0)


# A column of three levels, one of two, one of four; the last row is not for training.
LEVELS = np.array(
    [
        [0, 1, 1], [1, 0, 2], [5, 1, 3], [0, 0, 4], [1, 1, 4],
        [5, 0, 1], [0, 1, 2], [1, 0, 3], [5, 1, 2], [3, 7, 9],
    ],
    np.float32,
)  # fmt: skip
SEEN = np.arange(9)


def plain(table, rows):
    return fit_encoder([Numbers()], table, rows).encode(table)


def test_a_number_of_few_levels_has_an_indicator_of_each_inner_level():
    encoder = fit_encoder([Numbers(levels=3)], LEVELS, SEEN)
    encoded = encoder.encode(LEVELS)
    assert encoder.blank().shape == (1, 4)
    np.testing.assert_array_equal(encoded[:, :3], plain(LEVELS, SEEN))
    # Training never saw the last row's 3: it stays on the line.
    np.testing.assert_array_equal(encoded[:, 3], [0, 1, 0, 0, 1, 0, 0, 1, 0, 0])


def test_any_function_of_the_levels_is_linear():
    encoded = fit_encoder([Numbers(levels=4)], LEVELS, SEEN).encode(LEVELS[SEEN])
    for column, features in ((0, [0, 3]), (2, [2, 4, 5])):
        design = np.c_[np.ones(len(SEEN)), encoded[:, features]]
        assert np.linalg.matrix_rank(design) == len(np.unique(LEVELS[SEEN, column]))


def test_an_indicator_that_other_columns_determine_is_left_out():
    # A price of 7 or 9, or a schedule: the price is 0 where the schedule's column is 1.
    prices = np.array(
        [[0, 1, 2], [7, 0, 1], [9, 0, 5], [7, 0, 2], [0, 1, 1], [9, 0, 1], [0, 1, 5]], np.float32
    )
    encoder = fit_encoder([Numbers(levels=3)], prices, np.arange(7))
    np.testing.assert_array_equal(encoder.parts["numbers"].indicators.column, [2])
    np.testing.assert_array_equal(encoder.parts["numbers"].indicators.value, [2])


def test_levels_are_those_of_training_rows_alone():
    # Two values are left in the first column, three in the last.
    encoder = fit_encoder([Numbers(levels=3)], LEVELS, np.array([0, 1, 3, 4, 6]))
    np.testing.assert_array_equal(encoder.parts["numbers"].indicators.column, [2])
    np.testing.assert_array_equal(encoder.parts["numbers"].indicators.value, [2])


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_no_number_has_indicators_below_three_levels(levels):
    encoder = fit_encoder([Numbers(levels=levels)], LEVELS, SEEN)
    np.testing.assert_array_equal(encoder.encode(LEVELS), plain(LEVELS, SEEN))


def test_a_rise_moves_a_number_and_its_indicators_as_least_squares_would():
    rows = np.array([*SEEN, 3, 2, 2])
    encoder = fit_encoder([Numbers(levels=3)], LEVELS, rows)
    encoded = encoder.encode(LEVELS)[rows]
    slope = np.polyfit(encoded[:, 0], encoded[:, 3], 1)[0]
    np.testing.assert_allclose(encoder.rise(0), [1, 0, 0, slope], rtol=1e-5)
    np.testing.assert_array_equal(encoder.rise(1), [0, 1, 0, 0])


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


@pytest.mark.parametrize(
    "configs", [[Numbers()], [Numbers(levels=3)], [Numbers(levels=4), ItemId(width=3)]]
)
def test_an_encoder_survives_its_file(configs):
    encoder = fit_encoder(configs, LEVELS, SEEN)
    again = encoder_from_json(json.loads(json.dumps(encoder.to_json())))
    one, other = encoder.encode(LEVELS), again.encode(LEVELS)
    np.testing.assert_array_equal(encoder.rise(0), again.rise(0))
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


def test_a_level_has_a_number_of_its_own_and_nothing_of_its_text():
    texts = (*TEXTS, "rated 50", "rated 99")
    levels = texts[3:]
    rows = np.array([0, 0, 1, 2])
    encoder = fit_encoder([ItemId(width=2), Format()], texts, rows, levels=levels)
    alone = fit_encoder([ItemId(width=2), Format()], TEXTS, rows).encode(TEXTS)
    encoder = encoder_from_json(json.loads(json.dumps(encoder.to_json())))
    inputs = encoder.encode(texts)
    width = alone.features.shape[1]
    np.testing.assert_array_equal(inputs.features[:3, :width], alone.features)
    np.testing.assert_array_equal(inputs.features[:3, width:], 0)
    np.testing.assert_array_equal(inputs.features[3:, :width], 0)
    # Spread over many numbers, and nothing alike.
    own = inputs.features[3:, width:]
    np.testing.assert_array_equal(own @ own.T, own.shape[1] * np.eye(2))
    np.testing.assert_array_equal(np.abs(own), 1)
    np.testing.assert_array_equal(inputs.ids, [0, 1, 2, -1, -1])
    assert encoder.blank().features.shape == (1, width + own.shape[1])
    assert encoder.remarks(texts) == {}
    remark = "read as an item, almost the level 'rated 99'"
    assert encoder.remarks(("Rated 99", "tea")) == {remark: 1}


def test_a_level_beside_long_vectors_is_as_long():
    part = type("Wide", (), {"encode": lambda self, table: np.ones((len(table), 256), np.float32)})
    encoder = Encoder({"wide": part()}, levels=("rated 1", "rated 2"))
    inputs = encoder.encode(("tea", "rated 2"))
    np.testing.assert_array_equal(inputs[0], [1] * 256 + [0] * 64)
    np.testing.assert_allclose(np.linalg.norm(inputs[1]), np.sqrt(256), rtol=1e-6)
