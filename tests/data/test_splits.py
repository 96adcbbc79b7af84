"""Splits never share a choice task between parts, and keep their promised shares."""

import numpy as np
import pytest

from paljax.data.dataset import Dataset, assemble
from paljax.data.splits import (
    VALIDATION_QUERY,
    VALIDATION_SUPPORT,
    require_training_data,
    split_at_random,
    split_by_column,
)
from paljax.errors import UserError

SHARES = {"validation": 0.2, "test": 0.2, "unseen_users": 0.25, "query": 0.34}


def dataset(num_users=40, tasks=12, pairs=3, split=None) -> Dataset:
    count = num_users * tasks * pairs
    users = np.repeat(np.arange(num_users), tasks * pairs)
    generator = np.random.default_rng(1)
    return assemble(
        [f"user {user}" for user in users],
        generator.normal(size=(count, 2)).astype(np.float32),
        generator.normal(size=(count, 2)).astype(np.float32),
        task_id=[f"task {task}" for task in np.arange(count) // pairs % tasks],
        split=split,
    )


def test_no_task_is_in_two_parts():
    data = dataset()
    split = split_at_random(data, **SHARES, seed=0)
    parts = {task: set() for task in data.comparisons.task.tolist()}
    for task, part in zip(data.comparisons.task.tolist(), split.part, strict=True):
        parts[task].add(part)
    assert len(parts) == 40 * 12
    assert all(len(part) == 1 for part in parts.values())


def test_seen_and_unseen_users_share_no_user():
    data = dataset()
    split = split_at_random(data, **SHARES, seed=0)
    unseen = set(data.comparisons.user[split.rows("support", "query")])
    seen = set(data.comparisons.user[split.rows("train", "validation", "test")])
    assert len(unseen) == 10
    assert not unseen & seen
    assert len(unseen | seen) == 40


def test_shares_hold_on_average_for_users_with_few_tasks():
    data = dataset(num_users=2000, tasks=3, pairs=1)
    split = split_at_random(data, **SHARES | {"unseen_users": 0.0}, seed=0)
    for part, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert len(split.rows(part)) / 6000 == pytest.approx(share, abs=0.02)
    users = data.comparisons.user[split.rows("train")]
    assert len(set(users)) == 2000


def test_shots_are_nested_and_never_in_the_query():
    data = dataset()
    split = split_at_random(data, **SHARES, seed=0)
    unseen = set(data.comparisons.user[split.rows("query")])
    query_tasks = set(data.comparisons.task[split.rows("query")])
    before: set[tuple[int, int]] = set()
    for count in (0, 1, 2, 5, 10, 20):
        pool = split.support(data.comparisons, count)
        given = pool.select(pool.weight > 0)
        per_user = np.bincount(given.user, minlength=40)
        assert set(np.flatnonzero(per_user)) == (unseen if count else set())
        assert set(per_user) <= {0, count}
        sides = set(zip(given.chosen.tolist(), given.rejected.tolist(), strict=True))
        assert before <= sides
        assert not set(given.task) & query_tasks
        before = sides
    # Twelve comparisons are four whole tasks of three pairs.
    twelve = split.support(data.comparisons, 12)
    assert set(np.bincount(twelve.task[twelve.weight > 0])) == {0, 3}


def test_the_seed_decides_and_nothing_else():
    data = dataset()
    one, same = (split_at_random(data, **SHARES, seed=4) for _ in range(2))
    other = split_at_random(data, **SHARES, seed=5)
    np.testing.assert_array_equal(one.part, same.part)
    np.testing.assert_array_equal(one.arrival, same.arrival)
    assert np.any(one.part != other.part)


def test_column_makes_users_without_training_rows_unseen():
    parts = ["train", "validation", "test", "train", "support", "support", "test", "test"]
    data = dataset(num_users=2, tasks=4, pairs=1, split=parts)
    split = split_by_column(data)
    assert list(split.part) == [*parts[:4], "support", "support", "query", "query"]
    assert list(split.arrival[4:]) == [0, 1, -1, -1]


def test_a_user_can_not_train_and_join_later():
    data = dataset(num_users=1, tasks=3, pairs=1, split=["train", "support", "test"])
    with pytest.raises(UserError, match=r"user 'user 0' has rows in 'support' and in 'train'"):
        split_by_column(data)


def test_a_split_without_test_rows_is_refused():
    data = dataset(num_users=2, tasks=1, pairs=1, split=["train", "validation"])
    with pytest.raises(UserError, match="no comparison is left for 'test'"):
        require_training_data(split_by_column(data))


@pytest.mark.parametrize("support", [None, 4])
def test_validation_users_stand_for_those_who_join(support):
    data = dataset()
    without, split = (
        split_at_random(data, **SHARES, seed=0, support=support, validation_users=share)
        for share in (0.0, 0.2)
    )
    # Who is unseen and what is scored in the end is as it was.
    for part in ("test", "support", "query"):
        np.testing.assert_array_equal(split.rows(part), without.rows(part))
    np.testing.assert_array_equal(split.learned(refit=True), without.learned(refit=True))

    standing_in = np.unique(data.comparisons.user[split.rows(VALIDATION_QUERY)])
    assert len(standing_in) == 6  # a fifth of the 30 seen users
    others = np.unique(data.comparisons.user[split.rows("train", "validation")])
    assert len(others) == 24
    assert not np.intersect1d(standing_in, others).size
    for user in standing_in:
        mine = data.comparisons.user == user
        assert set(split.part[mine]) == {VALIDATION_SUPPORT, VALIDATION_QUERY, "test"}
        given = data.comparisons.task[mine & (split.part == VALIDATION_SUPPORT)]
        scored = data.comparisons.task[mine & (split.part == VALIDATION_QUERY)]
        assert not np.intersect1d(given, scored).size
        if support is not None:
            assert len(np.unique(given)) == support
    arrived = split.arrival[split.rows(VALIDATION_SUPPORT)]
    assert np.bincount(arrived)[0] == 6
    pool = split.support(data.comparisons, 2, VALIDATION_SUPPORT)
    assert set(np.bincount(pool.user[pool.weight > 0])) == {0, 2}


def test_validation_users_are_a_share_of_those_who_can_be():
    """Who answers much is not left out of training more often than was asked for."""
    counts = [4] * 60 + [30] * 20
    data = assemble(
        [f"user {user}" for user, count in enumerate(counts) for _ in range(count)],
        np.arange(sum(counts), dtype=np.float32)[:, None],
        -np.arange(1, sum(counts) + 1, dtype=np.float32)[:, None],
    )
    shares = SHARES | {"unseen_users": 0.0}
    split = split_at_random(data, **shares, seed=0, support=10, validation_users=0.25)
    standing_in = np.unique(data.comparisons.user[split.rows(VALIDATION_QUERY)])
    assert len(standing_in) == 5
    assert (standing_in >= 60).all()


def test_validation_users_who_are_nobody_are_refused():
    line = r"splits\.validation_users: 0.5 of the 0 seen users with more than 11 tasks .* is nobody"
    with pytest.raises(UserError, match=line):
        split_at_random(dataset(), **SHARES, seed=0, support=11, validation_users=0.5)
