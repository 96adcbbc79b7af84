"""What is held out is nowhere else: items, pairs, topics and the latest."""

import numpy as np
import pytest

from paljax.data.dataset import Dataset, assemble, assemble_votes
from paljax.data.held_out import hold_out_items, hold_out_pairs, hold_out_topics, split_by_time
from paljax.data.splits import split_at_random
from paljax.errors import UserError

SHARES = {"validation": 0.15, "test": 0.3, "seed": 0}


def comparisons(count: int = 600, num_items: int = 20, tasks: int | None = None) -> Dataset:
    generator = np.random.default_rng(0)
    pairs = np.array([generator.permutation(num_items)[:2] for _ in range(count)])
    return assemble(
        [f"user {number}" for number in generator.integers(7, size=count)],
        [f"item {number}" for number in pairs[:, 0]],
        [f"item {number}" for number in pairs[:, 1]],
        topic=[f"debate {number}" for number in generator.integers(9, size=count)],
        timestamp=generator.integers(50, size=count).astype(float),
        task_id=None if tasks is None else [f"task {number % tasks}" for number in range(count)],
    )


def votes(count: int = 400) -> Dataset:
    generator = np.random.default_rng(0)
    return assemble_votes(
        [f"user {number}" for number in generator.integers(30, size=count)],
        [f"item {number}" for number in generator.integers(25, size=count)],
        generator.choice([-1.0, 1.0], count),
    )


def items_of(data: Dataset, rows) -> set[int]:
    return {*data.comparisons.chosen[rows], *data.comparisons.rejected[rows]}


def test_items_of_the_test_part_are_in_no_other():
    data = comparisons()
    split = hold_out_items(data, **SHARES)
    train, validation, test = (
        items_of(data, split.rows(part)) for part in ("train", "validation", "test")
    )
    assert len(test) == 6
    assert len(validation) == 3
    assert not train & test
    assert not train & validation
    assert not validation & test
    # What is unused has items of two parts, and nothing else is unused.
    for row in split.rows("unused"):
        sides = items_of(data, [row])
        assert not any(sides <= part for part in (train, validation, test))


def test_votes_on_cold_items_waste_nothing():
    data = votes()
    split = hold_out_items(data, **SHARES)
    parts = {part: set(data.votes.item[split.part == part]) for part in set(split.part)}
    assert set(parts) == {"train", "validation", "test"}
    assert sum(map(len, parts.values())) == len(data.items) == len(set().union(*parts.values()))


def test_a_task_is_unused_where_its_rows_would_be_torn():
    data = comparisons(tasks=40)
    split = hold_out_items(data, **SHARES)
    assert len(split.rows("unused"))
    for task in np.unique(data.comparisons.task):
        assert len(set(split.part[data.comparisons.task == task])) == 1


def test_pairs_of_the_test_part_are_in_no_other_whoever_compares_them():
    data = comparisons(num_items=8)
    split = hold_out_pairs(data, **SHARES)
    pairs = {
        part: {frozenset(items_of(data, [row])) for row in split.rows(part)}
        for part in ("train", "validation", "test")
    }
    assert {part: len(found) for part, found in pairs.items()} == {
        "train": 16,
        "validation": 4,
        "test": 8,
    }
    assert len(set().union(*pairs.values())) == 28
    assert len(split.rows("train", "validation", "test")) == 600


def test_topics_of_the_test_part_are_in_no_other():
    data = comparisons()
    split = hold_out_topics(data, **SHARES)
    topics = {part: set(data.topic[split.part == part]) for part in set(split.part)}
    assert {part: len(found) for part, found in topics.items()} == {
        "train": 5,
        "validation": 1,
        "test": 3,
    }
    assert len(set().union(*topics.values())) == 9


def test_named_topics_are_the_test_part():
    data = comparisons()
    split = hold_out_topics(data, **SHARES, topics=["debate 3", "debate 7"])
    assert set(data.topic[split.part == "test"]) == {"debate 3", "debate 7"}
    assert len(set(data.topic[split.part == "validation"])) == 1


@pytest.mark.parametrize("by", ["user", "all"])
@pytest.mark.parametrize("tasks", [None, 150])
def test_parts_follow_each_other_in_time(by, tasks):
    data = comparisons(tasks=tasks)
    split = split_by_time(data, by=by, validation=0.2, test=0.2)
    times, rows = data.timestamp, data.comparisons
    latest = {t: times[rows.task == t].max() for t in np.unique(rows.task)}
    latest_of_row = np.array([latest[task] for task in rows.task])
    whose = rows.user if by == "user" else np.zeros_like(rows.user)
    for user in np.unique(whose):
        of = {
            part: latest_of_row[(whose == user) & (split.part == part)]
            for part in ("train", "validation", "test")
        }
        assert of["train"].max() < of["validation"].min()
        assert of["validation"].max() < of["test"].min()
    shares = {part: len(split.rows(part)) / 600 for part in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.6, "validation": 0.2, "test": 0.2}, abs=0.06)


def test_one_time_is_one_part():
    data = comparisons(count=60)._replace(timestamp=np.zeros(60))
    split = split_by_time(data, by="all", validation=0.2, test=0.2)
    assert set(split.part) == {"train"}


@pytest.mark.parametrize("hold_out", [hold_out_items, hold_out_pairs, hold_out_topics])
def test_the_seed_decides_and_nothing_else(hold_out):
    data = comparisons()
    one, same = (hold_out(data, **SHARES) for _ in range(2))
    other = hold_out(data, **SHARES | {"seed": 1})
    np.testing.assert_array_equal(one.part, same.part)
    assert np.any(one.part != other.part)


def test_a_fixed_number_of_support_votes_is_fixed():
    data = votes()
    counts = np.bincount(data.votes.user)
    split = split_at_random(
        data, validation=0.2, test=0.2, unseen_users=0.2, query=0.5, seed=0, support=9
    )
    unseen = np.unique(data.votes.user[split.rows("query")])
    assert len(unseen) == 6
    for user in unseen:
        mine = data.votes.user == user
        assert (split.part[mine] == "support").sum() == 9
        assert (split.part[mine] == "query").sum() == counts[user] - 9
        assert sorted(split.arrival[mine & (split.part == "support")]) == list(range(9))


def without(**columns):
    return comparisons()._replace(**columns)


@pytest.mark.parametrize(
    ("split", "line"),
    [
        (
            lambda: split_by_time(without(timestamp=None), by="user", validation=0.2, test=0.2),
            "splits.name: 'time' needs a timestamp for every row, and the data have none",
        ),
        (
            lambda: hold_out_topics(without(topic=None), **SHARES),
            "splits.name: 'topic' needs a topic for every row, and the data have none",
        ),
        (
            lambda: hold_out_topics(comparisons(), **SHARES, topics=["debat 3"]),
            "splits.topics: 'debat 3' is no topic here; did you mean 'debate 3'?",
        ),
        (
            lambda: hold_out_pairs(votes(), **SHARES),
            "splits.name: 'pairs' holds out pairs of items, and these data are votes",
        ),
        (
            lambda: hold_out_items(comparisons(num_items=2), **SHARES),
            "splits: 2 items can't be shared out: 1 for validation and 1 for test leave none",
        ),
        (
            lambda: split_at_random(
                votes(), validation=0.2, test=0.2, unseen_users=0.5, query=1, seed=0, support=20
            ),
            "splits.support: 20 wants 15 unseen users with more tasks than that, and 0 have",
        ),
    ],
)
def test_splits_that_do_not_fit_the_data_are_refused(split, line):
    with pytest.raises(UserError) as caught:
        split()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
