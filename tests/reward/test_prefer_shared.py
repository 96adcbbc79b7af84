"""When a reward of one's own is worth having: errors over users, and over items that are new."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from paljax.data.dataset import Comparisons
from paljax.data.splits import Split
from paljax.reward.fits import error_of_mean, prefer_shared

COUNT = 300


@pytest.fixture
def generator():
    return np.random.default_rng(5)


def by_pairs(values, members):
    """The standard error by a loop over all two values."""
    deviations, total = values - values.mean(), 0.0
    for one in range(len(values)):
        for other in range(len(values)):
            if set(members[one]) & set(members[other]):
                total += deviations[one] * deviations[other]
    return np.sqrt(total) / len(values)


@pytest.mark.parametrize("width", [1, 2])
def test_the_error_is_that_of_all_values_that_share_a_member(width, generator):
    members = np.sort(
        np.array([generator.choice(12, width, replace=False) for _ in range(80)]), axis=1
    )
    # What members have in common makes their values alike.
    values = generator.normal(size=12)[members].sum(axis=1) + generator.normal(size=80)
    expected = by_pairs(values, members)
    assert error_of_mean(values, members) == pytest.approx(expected, rel=1e-9)
    assert expected > 1.2 * values.std() / np.sqrt(80)


def asked(split, gains, items, user, topic=None) -> bool:
    """`prefer_shared` where personalisation lowers the losses by these gains."""
    rows = Comparisons(
        user=user,
        prompt=np.full(COUNT, -1),
        chosen=items[:, 0],
        rejected=items[:, 1],
        weight=np.ones(COUNT, np.float32),
        tie=np.zeros(COUNT, bool),
        task=np.arange(COUNT),
    )
    fitting = SimpleNamespace(
        config=SimpleNamespace(splits=SimpleNamespace(name=split)),
        prepared=SimpleNamespace(
            dataset=SimpleNamespace(comparisons=rows, topic=topic),
            split=Split(np.full(COUNT, "validation", object), np.full(COUNT, -1)),
        ),
    )
    shared, personal = (
        SimpleNamespace(validation_losses=losses) for losses in (gains, np.zeros(COUNT))
    )
    return prefer_shared(cast(Any, fitting), cast(Any, shared), cast(Any, personal))


@pytest.mark.parametrize(("split", "expected"), [("random", False), ("items", True)])
def test_a_gain_on_one_item_says_nothing_of_new_ones(split, expected, generator):
    items = np.stack([generator.integers(0, 5, COUNT), generator.integers(5, 10, COUNT)], axis=1)
    gains = np.where(items[:, 0] == 0, 1.0, 0.0) + 0.01 * generator.normal(size=COUNT)
    assert asked(split, gains, items, np.arange(COUNT) % 60) is expected


def test_a_gain_on_all_items_is_one_of_new_ones_too(generator):
    items = np.stack([generator.integers(0, 5, COUNT), generator.integers(5, 10, COUNT)], axis=1)
    gains = 0.2 + 0.1 * generator.normal(size=COUNT)
    assert not asked("items", gains, items, np.arange(COUNT) % 60)


def test_a_gain_of_one_user_says_nothing_of_others(generator):
    items = np.stack([np.arange(COUNT), np.arange(COUNT) + COUNT], axis=1)
    user = np.arange(COUNT) % 60
    gains = np.where(user == 0, 2.0, 0.0) + 0.01 * generator.normal(size=COUNT)
    assert asked("random", gains, items, user)
    assert not asked("random", np.abs(gains) + 1, items, user)
    assert asked("random", np.abs(gains) + 1, items, np.zeros(COUNT, int))


def test_a_gain_on_one_topic_says_nothing_of_new_ones(generator):
    items = np.stack([np.arange(COUNT), np.arange(COUNT) + COUNT], axis=1)
    user, topic = np.arange(COUNT) % 60, np.arange(COUNT) // 100
    one = np.where(topic == 0, 0.3, 0.0) + 0.01 * generator.normal(size=COUNT)
    assert asked("topic", one, items, user, topic)
    assert not asked("topic", 0.3 + 0.0 * one, items, user, topic)
    assert asked("topic", 0.3 + 0.0 * one, items, user, np.zeros(COUNT))
