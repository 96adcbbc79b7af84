"""A plan lists every comparison once, and its distinct items and users point back at it."""

import numpy as np
import pytest

from paljax.data.batches import Rows, Sizes, plan_epoch, plan_sizes, steps_per_epoch
from paljax.data.dataset import Comparisons

NUM_ROWS, NUM_USERS, NUM_ITEMS = 53, 17, 9


def rows() -> Rows:
    generator = np.random.default_rng(0)
    comparisons = Comparisons(
        user=generator.integers(0, NUM_USERS, NUM_ROWS).astype(np.int32),
        prompt=generator.integers(0, 4, NUM_ROWS).astype(np.int32),
        chosen=generator.integers(0, NUM_ITEMS, NUM_ROWS).astype(np.int32),
        rejected=generator.integers(0, NUM_ITEMS, NUM_ROWS).astype(np.int32),
        weight=np.ones(NUM_ROWS, np.float32),
        tie=np.zeros(NUM_ROWS, bool),
        task=np.arange(NUM_ROWS, dtype=np.int32),
    )
    numbers = np.arange(NUM_ROWS, dtype=np.float32)
    return Rows(comparisons, weight=numbers, target=numbers + 100, prior_share=numbers + 200)


def plan(epoch=0, seed=0, batch_size=10):
    sizes = plan_sizes(rows(), batch_size=batch_size, seed=seed)
    return plan_epoch(
        rows(), sizes=sizes, num_users=NUM_USERS, batch_size=batch_size, seed=seed, epoch=epoch
    )


def test_an_epoch_has_every_comparison_once_with_its_items_prompt_and_user():
    made, given = plan(), rows().comparisons
    assert made.present.shape == (steps_per_epoch(NUM_ROWS, 10), 10)
    assert made.present.sum() == NUM_ROWS
    seen = []
    for step, place in zip(*np.nonzero(made.present), strict=True):
        row = int(made.weight[step, place])
        seen.append(row)
        assert made.items[step, made.chosen[step, place]] == given.chosen[row]
        assert made.items[step, made.rejected[step, place]] == given.rejected[row]
        assert made.prompts[step, made.prompt[step, place]] == given.prompt[row]
        assert made.users[step, made.user[step, place]] == given.user[row]
        assert made.target[step, place] == row + 100
        assert made.prior_share[step, place] == row + 200
    assert sorted(seen) == list(range(NUM_ROWS))


def test_users_are_distinct_and_sorted_and_padding_is_no_user():
    for users in plan().users:
        assert np.all(np.diff(users) > 0)


def test_a_batch_lists_the_users_of_its_comparisons_and_no_other():
    made, given = plan(), rows().comparisons
    assert not made.present[-1].all()
    for step in range(len(made.users)):
        present = made.weight[step][made.present[step]].astype(int)
        listed = made.users[step][made.users[step] < NUM_USERS]
        assert set(listed) == set(given.user[present])


def test_items_are_listed_once_in_a_batch():
    made = plan()
    assert made.items.shape[1] <= NUM_ITEMS
    for step, items in enumerate(made.items):
        used = np.concatenate([made.chosen[step], made.rejected[step]])
        assert len(set(items[np.unique(used)])) == len(np.unique(used))


def test_epochs_share_their_sizes_and_one_that_needs_more_takes_more():
    shapes = {(plan(epoch).items.shape, plan(epoch).users.shape) for epoch in range(20)}
    assert len(shapes) == 1
    grown = plan_epoch(
        rows(), sizes=Sizes(1, 1, 1), num_users=NUM_USERS, batch_size=10, seed=0, epoch=0
    )
    np.testing.assert_array_equal(grown.weight, plan().weight)
    assert 1 < grown.users.shape[1] <= plan().users.shape[1]


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}])
def test_order_is_a_function_of_seed_and_epoch(change):
    np.testing.assert_array_equal(plan().weight, plan().weight)
    assert np.any(plan().weight != plan(**change).weight)
