"""The true rewards and prompts of the experiment with stories."""

import re

import numpy as np
import pytest

from experiments.maxmin_stories.prompts import MOST_OPENINGS, story_openings
from paljax.text_functions import TEXT_FUNCTIONS
from tests.networks.conftest import stories  # noqa: F401  (a fixture)

TEXTS = [
    "Lily was very happy. She loved her beautiful new toy!",
    "Tom was sad and angry. The bad monster hurt him and he cried.",
    "The box is on the table.",
    "",
]


def test_sentiments_are_opposite_and_in_the_right_direction():
    positive, negative = (TEXT_FUNCTIONS[name](TEXTS) for name in ("positive", "negative"))
    assert positive[0] > 0.8
    assert positive[1] < -0.8
    np.testing.assert_array_equal(positive[2:], 0)
    np.testing.assert_array_equal(negative, -positive)
    # The example of VADER's own documentation.
    documented = TEXT_FUNCTIONS["positive"](["VADER is smart, handsome, and funny."])
    np.testing.assert_allclose(documented, [0.8316], atol=1e-6)


def test_shorter_is_more_concise():
    assert TEXT_FUNCTIONS["concise"](TEXTS).tolist() == [-10, -13, -6, 0]


@pytest.mark.parametrize("name", TEXT_FUNCTIONS)
def test_one_number_a_text(name):
    rewards = TEXT_FUNCTIONS[name](TEXTS)
    assert rewards.shape == (4,)
    assert rewards.dtype == np.float32
    assert np.isfinite(rewards).all()
    assert TEXT_FUNCTIONS[name]([]).shape == (0,)


def test_openings_are_many_distinct_and_reproducible():
    every = story_openings(MOST_OPENINGS)
    assert MOST_OPENINGS > 500
    assert len(set(every)) == MOST_OPENINGS
    assert story_openings(9) == every[:9]
    assert story_openings(9, seed=1) != every[:9]
    assert "Once upon a time, there was a cat named Kitty. Kitty fell down and" in every
    assert "One day, a boy named Jack fell down and" in every
    assert not [text for text in every if re.search(r"  |\{|\s$", text)]


def test_openings_leave_room_for_a_story(stories):  # noqa: F811
    lengths = [len(stories.tokenizer.encode(text)) for text in story_openings(MOST_OPENINGS)]
    assert max(lengths) < 48


@pytest.mark.parametrize("count", [0, MOST_OPENINGS + 1])
def test_a_count_that_there_is_not_is_refused(count):
    with pytest.raises(ValueError, match=f"count: {count} openings; there are 1 to"):
        story_openings(count)
