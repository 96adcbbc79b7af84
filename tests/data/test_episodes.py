"""Episodes: every user once an epoch, support and query apart by task, and each row's weight."""

import numpy as np
import pytest

from paljax.data.batches import Sizes, Tables
from paljax.data.dataset import Comparisons
from paljax.data.episodes import (
    _sides_of_votes,
    part_users,
    plan_episodes,
    to_episode_batch,
)

NUM_ITEMS, NUM_PROMPTS = 13, 5
NO_ROOM = Sizes(items=0, prompts=0, users=0)  # a plan takes what it needs
# By user: the sizes of the user's choice tasks. User 2 has no comparisons.
TASKS = {0: [1, 1, 1], 1: [2, 3, 1, 1], 3: [1], 4: [4], 5: [1] * 9, 6: [3, 3, 2], 7: [2, 2]}


def comparisons() -> Comparisons:
    """Users' comparisons in a mixed order; a row's weight is its number plus one."""
    generator = np.random.default_rng(0)
    sizes = [(user, size) for user, tasks in TASKS.items() for size in tasks]
    user = np.concatenate([np.full(size, user) for user, size in sizes])
    task = np.concatenate([np.full(size, task) for task, (_, size) in enumerate(sizes)])
    order = generator.permutation(len(user))
    chosen = generator.integers(0, NUM_ITEMS, len(user))
    return Comparisons(
        user=user[order].astype(np.int32),
        prompt=generator.integers(0, NUM_PROMPTS, len(user)).astype(np.int32),
        chosen=chosen.astype(np.int32),
        rejected=((chosen + 1 + generator.integers(0, 7, len(user))) % NUM_ITEMS).astype(np.int32),
        weight=np.arange(1, len(user) + 1, dtype=np.float32),
        tie=np.zeros(len(user), bool),
        task=task[order].astype(np.int32),
    )


def parted(seed=0, most_comparisons=32):
    generator = np.random.default_rng(seed)
    return part_users(comparisons(), most_comparisons=most_comparisons, generator=generator)


def plan(epoch=0, *, seed=0, most_comparisons=32, users_per_batch=3, sizes=NO_ROOM):
    """A plan in which the weight of a row as support is its number + 1, as query 1000 more."""
    given = comparisons()
    return plan_episodes(
        given,
        given.weight,
        given.weight + 1000,
        sizes=sizes,
        users_per_batch=users_per_batch,
        most_comparisons=most_comparisons,
        seed=seed,
        epoch=epoch,
    )


@pytest.mark.parametrize("most_comparisons", [1, 2, 3, 4, 6, 32])
def test_no_task_is_on_both_sides_and_every_user_has_a_query(most_comparisons):
    task = comparisons().task
    for seed in range(20):
        made = parted(seed, most_comparisons)
        for rows, present, support in zip(*made, strict=True):
            assert not np.any(support & ~present)
            assert not set(task[rows[support]]) & set(task[rows[present & ~support]])
            assert np.any(present & ~support)


def test_each_row_is_with_its_user_and_the_cap_keeps_as_many_as_it_may():
    user = comparisons().user
    counts = np.bincount(user)
    for most_comparisons in (1, 2, 3, 5, 8, 32):
        made = parted(1, most_comparisons)
        assert made.rows.shape[1] <= most_comparisons
        owners = []
        for rows, present, _ in zip(*made, strict=True):
            (owner,) = set(user[rows[present]])
            owners.append(owner)
            assert len(set(rows[present])) == present.sum()
            assert present.sum() == min(counts[owner], most_comparisons)
        assert sorted(owners) == sorted(TASKS)


def test_the_cap_shows_other_comparisons_in_later_epochs():
    shown = [set(made.rows[made.present]) for made in (parted(seed, 2) for seed in range(30))]
    assert shown[0] != shown[1]
    assert set.union(*shown) == set(range(len(comparisons().user)))


@pytest.mark.parametrize(("most_comparisons", "tasks"), [(32, 9), (4, 4)])
def test_the_size_of_the_support_is_uniform_from_none_to_all_tasks_but_one(most_comparisons, tasks):
    """User 5 has nine tasks of one comparison each, of which the cap keeps four."""
    user = comparisons().user
    draws = 2000
    counts = np.zeros(tasks, int)
    for seed in range(draws):
        made = parted(seed, most_comparisons)
        (row,) = np.flatnonzero(user[made.rows[:, 0]] == 5)
        counts[made.support[row].sum()] += 1
    expected = draws / tasks
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    # 0.999 quantiles are 16.3 (3 degrees of freedom) and 26.1 (8).
    assert chi_squared < {4: 16.3, 9: 26.1}[tasks]


def test_which_task_is_support_is_uniform_too():
    """User 0 has three tasks: each is support in a third of 0/3 + 1/3 + 2/3 of the draws."""
    given = comparisons()
    own = np.flatnonzero(given.user == 0)
    hits = np.zeros(3)
    for seed in range(2000):
        made = parted(seed)
        hits += np.isin(own, made.rows[made.support])
    np.testing.assert_allclose(hits / 2000, 1 / 3, atol=0.05)


def rows_of(made, step, user):
    """Row numbers in one episode of a plan, from their weights; and which of them are support."""
    support, query = made.support[step, user], made.query[step, user]
    assert not np.any((support > 0) & (query > 0))
    present = (support > 0) | (query > 0)
    rows = np.where(support > 0, support, query - 1000)[present].astype(int) - 1
    return rows, present, (support > 0)[present]


@pytest.mark.parametrize("users_per_batch", [1, 3, 7])
def test_an_epoch_has_every_user_once_with_the_users_rows_and_weights(users_per_batch):
    given = comparisons()
    made = plan(users_per_batch=users_per_batch)
    steps, users, _ = made.support.shape
    assert (steps, users) == (-(-len(TASKS) // users_per_batch), users_per_batch)
    seen, owners = [], []
    for step in range(steps):
        for user in range(users):
            rows, present, _ = rows_of(made, step, user)
            if not len(rows):
                continue
            seen.extend(rows.tolist())
            (owner,) = set(given.user[rows])
            owners.append(owner)
            for field, table in (("chosen", "items"), ("rejected", "items"), ("prompt", "prompts")):
                places = getattr(made, field)[step, user][present]
                found = getattr(made, table)[step][places]
                np.testing.assert_array_equal(found, getattr(given, field)[rows])
    assert sorted(owners) == sorted(TASKS)
    # Each of a user's rows is there once, so that all rows of the epoch are.
    assert sorted(seen) == list(range(len(given.user)))


def test_padding_has_weight_zero():
    """Seven users in steps of three leave two empty places; the longest user has nine rows."""
    for epoch in range(5):
        made = plan(epoch)
        counts = np.sort(((made.support > 0) | (made.query > 0)).sum(axis=2).ravel())
        np.testing.assert_array_equal(counts, [0, 0, *sorted(sum(t) for t in TASKS.values())])
        assert np.count_nonzero(made.support * made.query) == 0


def test_the_order_of_users_changes_with_the_epoch():
    def order(epoch):
        made = plan(epoch, users_per_batch=1)
        user = comparisons().user
        return [int(user[rows_of(made, step, 0)[0][0]]) for step in range(len(TASKS))]

    assert order(0) == order(0)
    assert len({tuple(order(epoch)) for epoch in range(5)}) > 1


def test_a_plan_is_a_function_of_seed_and_epoch():
    def equal(left, right):
        return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))

    assert equal(plan(epoch=4, seed=2), plan(epoch=4, seed=2))
    assert not np.array_equal(plan(epoch=4, seed=2).query, plan(epoch=5, seed=2).query)
    assert not np.array_equal(plan(epoch=4, seed=2).query, plan(epoch=4, seed=3).query)


def test_epochs_share_their_shape_where_there_is_room():
    sizes = Sizes(NUM_ITEMS, NUM_PROMPTS, 0)
    shapes = {tuple(field.shape for field in plan(epoch, sizes=sizes)) for epoch in range(10)}
    assert len(shapes) == 1


def test_a_batch_gathers_the_inputs_of_its_items_and_prompts():
    generator = np.random.default_rng(1)
    tables = Tables(
        generator.normal(size=(NUM_ITEMS, 4)).astype(np.float32),
        generator.normal(size=(NUM_PROMPTS, 2)).astype(np.float32),
    )
    made = plan()
    step = type(made)(*(field[1] for field in made))
    batch = to_episode_batch(tables, step)
    np.testing.assert_array_equal(batch.items, tables.items[step.items])
    np.testing.assert_array_equal(batch.prompts, tables.prompts[step.prompts])
    np.testing.assert_array_equal(batch.query, step.query)
    assert to_episode_batch(Tables(tables.items, None), step).prompts is None


def pairs_of_votes() -> Comparisons:
    """Users' pairs of votes: the items of a user's pairs are votes, each in several pairs."""
    generator = np.random.default_rng(3)
    pairs = [
        (user, *generator.permutation(2 + 2 * user)[:2]) for user in range(5) for _ in range(9)
    ]
    user, chosen, rejected = np.array(pairs, np.int32).T
    count = len(pairs)
    return Comparisons(
        user=user,
        prompt=np.full(count, -1, np.int32),
        chosen=chosen,
        rejected=rejected,
        weight=np.ones(count, np.float32),
        tie=np.zeros(count, bool),
        task=np.arange(count, dtype=np.int32),
    )


@pytest.mark.parametrize("most_comparisons", [2, 5, 32])
def test_no_vote_is_on_both_sides_and_pairs_across_are_left_out(most_comparisons):
    given = pairs_of_votes()
    supports, left_out = 0, 0
    for seed in range(40):
        made = part_users(
            given,
            most_comparisons=most_comparisons,
            generator=np.random.default_rng(seed),
            of_votes=True,
        )
        assert len(made.rows) == 5  # each user has a row, so that every epoch has as many steps
        for user, (rows, present, support) in enumerate(zip(*made, strict=True)):
            assert not np.any(support & ~present)
            assert set(given.user[rows[present]]) <= {user}
            assert len(set(rows[present])) == present.sum() <= most_comparisons
            sides = [
                {*given.chosen[rows[mask]], *given.rejected[rows[mask]]}
                for mask in (support, present & ~support)
            ]
            assert not sides[0] & sides[1]
            supports += support.sum()
            left_out += 9 - present.sum()
    assert supports > 50
    assert left_out > 100


def test_a_user_with_two_votes_has_them_in_the_query():
    for seed in range(20):
        made = part_users(
            pairs_of_votes(),
            most_comparisons=32,
            generator=np.random.default_rng(seed),
            of_votes=True,
        )
        assert made.present[0].sum() == 9
        assert not made.support[0].any()


def test_which_vote_is_support_is_uniform():
    """Of V votes s are support, s uniform from 0 to V - 2: each (V - 2) / 2 V of the time."""
    given, draws = pairs_of_votes(), 1500
    own = given.user == 4
    votes, place = np.unique([given.chosen[own], given.rejected[own]], return_index=True)
    hits = np.zeros(len(votes))
    for seed in range(draws):
        sides = _sides_of_votes(given, np.random.default_rng(seed))[own]
        hits += sides.T.ravel()[place]
    np.testing.assert_allclose(hits / draws, (len(votes) - 2) / 2 / len(votes), atol=0.06)
