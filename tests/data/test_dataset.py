"""Columns become index arrays and tables of distinct content."""

import numpy as np
import pytest

from paljax.data.dataset import assemble, weighed_by_levels

USERS = ["ann", "ben", "ann", "cem"]


def test_texts_are_numbered_row_by_row_and_chosen_first():
    dataset = assemble(
        USERS,
        ["tea", "rum", "milk", "tea"],
        ["milk", "tea", "gin", "beer"],
        prompt=["hot?", "cold?", "hot?", "any?"],
    )
    assert dataset.users == ("ann", "ben", "cem")
    assert dataset.items == ("tea", "milk", "rum", "gin", "beer")
    assert dataset.prompts == ("hot?", "cold?", "any?")
    rows = dataset.comparisons
    np.testing.assert_array_equal(rows.user, [0, 1, 0, 2])
    np.testing.assert_array_equal(rows.chosen, [0, 2, 1, 0])
    np.testing.assert_array_equal(rows.rejected, [1, 0, 3, 4])
    np.testing.assert_array_equal(rows.prompt, [0, 1, 0, 2])
    assert {field.dtype for field in rows} == {
        np.dtype(np.int32),
        np.dtype(np.float32),
        np.dtype(np.bool_),
    }


def test_the_tables_give_the_rows_back_as_a_loop_over_them_does():
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(7, 3)).astype(np.float32)
    chosen, rejected = pool[rng.integers(7, size=50)], pool[rng.integers(7, size=50)]
    prompt = pool[rng.integers(7, size=50), :2]
    dataset = assemble([f"u{u}" for u in rng.integers(5, size=50)], chosen, rejected, prompt=prompt)

    seen: list[tuple[float, ...]] = []
    for pair in zip(chosen, rejected, strict=True):
        for item in pair:
            if tuple(item) not in seen:
                seen.append(tuple(item))
    np.testing.assert_array_equal(dataset.items, np.array(seen, np.float32))
    np.testing.assert_array_equal(dataset.items[dataset.comparisons.chosen], chosen)
    np.testing.assert_array_equal(dataset.items[dataset.comparisons.rejected], rejected)
    np.testing.assert_array_equal(dataset.prompts[dataset.comparisons.prompt], prompt)


def test_numbers_are_distinct_in_float32_and_minus_zero_is_zero():
    chosen = np.array([[0.0, 1.0], [-0.0, 1.0 + 1e-12]])
    dataset = assemble(["a", "b"], chosen, np.array([[2.0, 2.0], [2.0, 2.0]]))
    np.testing.assert_array_equal(dataset.items, np.array([[0, 1], [2, 2]], np.float32))
    assert dataset.items.dtype == np.float32


def test_tasks_are_numbered_within_a_user():
    dataset = assemble(
        ["ann", "ben", "ann", "ann", "ben", "ann"],
        ["a"] * 6,
        ["b"] * 6,
        task_id=["1", "1", "2", "1", None, None],
    )
    np.testing.assert_array_equal(dataset.comparisons.task, [0, 1, 2, 0, 3, 4])


def test_what_is_not_given_has_its_default():
    dataset = assemble(USERS, ["a"] * 4, ["b"] * 4)
    rows = dataset.comparisons
    np.testing.assert_array_equal(rows.prompt, [-1] * 4)
    np.testing.assert_array_equal(rows.weight, [1] * 4)
    np.testing.assert_array_equal(rows.tie, [False] * 4)
    np.testing.assert_array_equal(rows.task, [0, 1, 2, 3])
    assert dataset.prompts is None
    assert dataset.group is None
    assert dataset.split is None
    assert dataset.timestamp is None
    assert (dataset.attributes, dataset.dropped, dataset.facts) == ((), {}, {})


def test_what_is_given_arrives():
    dataset = assemble(
        ["a", "b"],
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        np.array([[5.0, 6.0], [7.0, 8.0]]),
        tie=[True, False],
        weight=[0.5, 2.0],
        group=["x", "y"],
        split=["train", "test"],
        timestamp=[1.5, 2.5],
        attributes=("price", "length"),
        dropped={"missing": 3},
        facts={"bayes_accuracy": 0.9},
    )
    np.testing.assert_array_equal(dataset.comparisons.tie, [True, False])
    np.testing.assert_array_equal(dataset.comparisons.weight, np.array([0.5, 2.0], np.float32))
    assert dataset.group.tolist() == ["x", "y"]
    assert dataset.split.tolist() == ["train", "test"]
    assert dataset.timestamp.tolist() == [1.5, 2.5]
    assert dataset.attributes == ("price", "length")
    assert dataset.dropped == {"missing": 3}
    assert dataset.facts == {"bayes_accuracy": 0.9}


NUMBERS = np.ones((2, 3))


@pytest.mark.parametrize(
    ("chosen", "rejected", "options", "message"),
    [
        (["a"], ["b", "c"], {}, "chosen has 1 rows, user_id has 2"),
        (["a", "b"], ["b", "c"], {"weight": [1.0]}, "weight has 1 rows, user_id has 2"),
        (["a", "b"], ["b", "c"], {"timestamp": [1.0]}, "timestamp has 1 rows, user_id has 2"),
        (NUMBERS, ["b", "c"], {}, "both be numbers or both be text"),
        (NUMBERS, np.ones((2, 4)), {}, r"shape \(2, 3\), rejected \(2, 4\)"),
        (NUMBERS, NUMBERS, {"attributes": ("price",)}, "1 attributes for items of 3 numbers"),
        (["a", "b"], ["b", "c"], {"attributes": ("price",)}, "1 attributes for items of 0"),
        (NUMBERS * np.nan, NUMBERS, {}, "NaN or infinite"),
        (["a", "b"], ["b", "c"], {"prompt": np.ones((2, 0))}, r"shape \(2, 0\)"),
    ],
)
def test_columns_that_do_not_fit_are_refused(chosen, rejected, options, message):
    with pytest.raises(ValueError, match=message):
        assemble(["x", "y"], chosen, rejected, **options)


def test_a_vote_on_all_levels_weighs_one_comparison():
    dataset = assemble(
        ["ann"] * 3, ["tea", "rated 2", "tea"], ["rated 1", "tea", "milk"], weight=[1.0, 3.0, 1.0]
    )
    found = weighed_by_levels(dataset, ("rated 1", "rated 2"))
    np.testing.assert_allclose(found.comparisons.weight, [0.5, 1.5, 1])
    assert weighed_by_levels(dataset, ()) is dataset
